// path: a token's way through one layer's attention: x -> z -> q, k, v -> cache -> scores -> o -> y, in
// the order of part 2 of tucker.c, with what every step multiplies and reads, beside the dense twin.
#include "explain.h"

#include <stdarg.h>
#include <string.h>

int64_t heads_of(const AttnShape *s, int p) { return p == P_Q || p == P_O ? s->h : s->n_kv; }

static const Group *group_of(const Attention *a, int p) {
    return a->group_of[p] < 0 ? NULL : &a->groups[a->group_of[p]];
}

Mat twin_of(const Attention *a, int p) {
    const Group *g = group_of(a, p);
    const int64_t wide = heads_of(&a->shape, p) * a->shape.hd, d = a->shape.d;
    Mat w = {NULL, p == P_O ? d : wide, p == P_O ? wide : d, g && g->kind.rows ? g->core.type : a->w[p].type};
    size_t row;
    if (!row_size(w.type, w.cols, &row)) w.type = T_F16;
    return w;
}

// ---- steps ---------------------------------------------------------------------------------------

typedef struct {
    const Config *config;
    const Attention *a;
    const Cache *c;
    const Group *gk, *gv, *go;             // of K, V, O, or NULL
    bool k_moves, q_cancels, v_cancels;    // what becomes of U_head, see path_steps
    char z[3][16];                         // the names of what Q, K, V read, "z" or "z_QK"
    Step *step;
    int n, pivots;                         // pivoted groups so far
    const void *read[2 * MAX_STEPS];       // matrices that were read
    int reads;
} Path;

static Step *next(Path *p, const char *fmt, ...) PRINTF_LIKE(2, 3);
static Step *next(Path *p, const char *fmt, ...) {
    Step *s = &p->step[p->n < MAX_STEPS ? p->n++ : MAX_STEPS - 1];
    va_list args;
    va_start(args, fmt);
    memset(s, 0, sizeof *s);
    vsnprintf(s->what, sizeof s->what, fmt, args);
    va_end(args);
    return s;
}

// What the step makes, (rows) or (rows, cols).
static Step *makes(Step *s, int64_t rows, int64_t cols) {
    if (cols) snprintf(s->out, sizeof s->out, "%dx%d", (int)rows, (int)cols);
    else snprintf(s->out, sizeof s->out, "%d", (int)rows);
    return s;
}

// The step reads w, if it is a matrix, and uses each number `uses` times.
static void use(Path *p, Step *s, const Mat *w, int64_t uses) {
    if (!w->rows) return;
    s->cost.madds += (double)uses * (double)w->rows * (double)w->cols;
    for (int i = 0; i < p->reads; i++)
        if (p->read[i] == w->data) { s->again = true; return; }
    if (p->reads < 2 * MAX_STEPS) p->read[p->reads++] = w->data;
    s->cost.bytes += (double)mat_bytes(w);
}

static void use_embd(Path *p, Step *s, const Group *g) {
    use(p, s, &g->embd, 1);
    if (g->pivot) s->cost.bytes += 4.0 * (double)g->r_embd;
}

// The slices t_r, (r_kind, n_kv, r_head), that G makes or takes.
static Step *slices(Path *p, Step *s, const Group *g) {
    snprintf(s->out, sizeof s->out, "%dx%dx%d", (int)g->r_kind, (int)p->a->shape.n_kv, (int)g->r_head);
    return s;
}

static void use_kind(Path *p, Step *s, const Group *g, int64_t heads) {
    use(p, s, &g->kind, 0);
    s->cost.madds += (double)(heads * g->r_kind * g->r_head);
}

static void dense(const Path *p, int q, Step *s) {
    const Mat w = twin_of(p->a, q);
    s->dense = (Cost){(double)mat_bytes(&w), (double)w.rows * (double)w.cols};
}

// Whether q, K or V, is made of what is cached and not computed for the token.
static bool absorbed(const Path *p, int q) {
    return q == P_V ? p->c->latent : q == P_K && p->c->z_width && !p->c->k_width;
}

// x, z of every group that reads it, and what G makes of z.
static void inputs(Path *p) {
    const Attention *a = p->a;
    char set[16];
    int readers = 0;
    for (int i = 0; i < a->n_groups; i++) readers += (a->groups[i].set & ~HAS_O) != 0;
    makes(next(p, p->config->post_norm ? "x = residual stream" : "x = norm(residual stream)"), a->shape.d, 0);
    for (int i = 0; i < a->n_groups; i++) {
        const Group *g = &a->groups[i];
        const char *z = NULL;
        bool wanted = false;
        for (int q = P_Q; q <= P_V; q++) {
            if (a->group_of[q] != i) continue;
            if (readers > 1) snprintf(p->z[q], sizeof p->z[q], "z_%s", letters_of(g->set & ~HAS_O, "", set));
            z = p->z[q];
            wanted |= !absorbed(p, q);
        }
        if (!z) continue;
        Step *t = makes(next(p, g->pivot ? "%s = x_p + X x_r" : "%s = U_embd^T x", z), g->r_embd, 0);
        t->ink = INK_SHARED;
        use_embd(p, t, g);
        if (g->pivot && !p->pivots++)
            NOTE(t, "x_p: those numbers of x that meet I; x_r: the others, that meet X.");
        if (g->kind.rows && wanted) use(p, slices(p, next(p, "t_r = G_r %s", z), g), &g->core, 1);
    }
}

// q_i, k_g, v_g.
static void projections(Path *p) {
    const Attention *a = p->a;
    for (int q = P_Q; q <= P_V; q++) {
        const Group *g = group_of(a, q);
        const char y = "qkv"[q], big = "QKV"[q], i = q == P_Q ? 'i' : 'g', *z = p->z[q];
        const bool narrow = q == P_Q ? p->q_cancels : q == P_K ? p->k_moves : p->v_cancels;
        const char *head = g && g->head.rows && !narrow ? "U_head " : "";
        const char *plus = a->bias[q] && !(q == P_K && narrow) ? " + b" : "";
        const int64_t heads = heads_of(&a->shape, q);
        Step *t = absorbed(p, q) ? next(p, "%c_%c: not made, %s is cached", y, i, z)
                : !g ? next(p, "%c_%c = W_%c x%s", y, i, big, plus)
                : g->kind.rows ? next(p, "%c_%c = %ssum_r U_kind t_r%s", y, i, head, plus)
                : next(p, "%c_%c = %sM_%c^%c %s%s", y, i, head, i, big, z, plus);
        t->ink = ink_of(q);
        dense(p, q, t);
        if (absorbed(p, q)) continue;
        makes(t, heads, narrow ? g->r_head : a->shape.hd);
        if (g && g->kind.rows) use_kind(p, t, g, heads);
        else use(p, t, &a->w[q], 1);
        if (*head) use(p, t, &g->head, heads);
        if (q == P_Q && narrow)
            NOTE(t, "U_head stands in q and in k and cancels there, U_head^T U_head = I: r_head wide.");
    }
}

// M (rows, r_embd) is applied for every query head. For many queries it is cheaper on the latents' side.
static void absorb(Path *p, Step *t, int q, int64_t rows) {
    const AttnShape *s = &p->a->shape;
    const int64_t r_embd = p->a->expand[q].cols;
    use(p, t, &p->a->expand[q], 0);
    t->cost.madds += (double)(s->h * rows * r_embd);
    if (r_embd > rows)
        NOTE(t, "%d tokens at once, or more, make %c_gt = M_g^%c z_t first: fewer madds for them.",
             (int)(s->n_kv * rows * r_embd / (s->h * (r_embd - rows)) + 1), "qkv"[q], "QKV"[q]);
}

// Norms and positions of q and k; q's way to latents; what is cached.
static void positions(Path *p) {
    const Config *config = p->config;
    const Cache *c = p->c;
    const AttnShape *s = &p->a->shape;
    const int64_t rotated = s->hd - p->a->pass, all = s->h + s->n_kv;
    const bool head = p->gk && p->gk->head.rows;
    Step *t;
    if (config->qk_norm) makes(next(p, "q_i, k_g: RMSNorm of each head"), all, s->hd);
    if (!config->rope_dims) next(p, "(positions are learned, in x)");
    else {
        t = makes(next(p, "q_i, k_g = R_t q_i, R_t k_g"), all, s->hd);
        if (config->rope_dims < s->hd)
            snprintf(t->out, sizeof t->out, "%d of %d", (int)config->rope_dims, (int)s->hd);
    }
    if (head && (p->k_moves || c->z_width) && !p->q_cancels) {
        const Mat pass = {p->gk->head.data, p->a->pass, p->gk->head.cols, p->gk->head.type};
        t = next(p, rotated ? "q_i = q_rotated, U_pass^T q_pass" : "q_i = U_head^T q_i   (K's)");
        use(p, makes(t, s->h, rotated + p->gk->r_head), &pass, s->h);
        NOTE(t, "U_head of k is met on the query's side: q . (U_head k) = (U_head^T q) . k.");
    }
    if (c->z_width) {
        t = makes(next(p, "q~_i = M_g^K^T q_i"), s->h, c->z_width);
        t->ink = INK_K;
        absorb(p, t, P_K, head ? p->gk->r_head : p->a->pass);
    }

    const char *v = c->latent ? p->z[P_V] : "v_g";
    t = next(p, "cache %s%s%s%s%s", c->k_width ? "k_g" : "", c->k_width && c->z_width ? ", " : "",
             c->z_width ? p->z[P_K] : "", c->shared ? "" : ", ", c->shared ? "" : v);
    makes(t, s->n_kv * c->k_width + (c->shared ? 0 : c->z_width) + (c->latent ? 1 : s->n_kv) * c->v_width, 0);
}

// Of one cached position, in two steps, what attention_cache_cost counts.
static void position(Path *p) {
    const Cache *c = p->c;
    const AttnShape *s = &p->a->shape;
    const double number = (double)type_info(c->type)->bytes / type_info(c->type)->block;
    const Cost twin = {(double)(s->n_kv * s->hd) * number, (double)(s->h * s->hd)};
    const int64_t k = s->n_kv * c->k_width + c->z_width, v = (c->latent ? 1 : s->n_kv) * c->v_width;
    Step *t = next(p, "%s", !c->z_width ? "s_it = q_i . k_gt / sqrt(hd)" : c->k_width
                   ? "s_it = (q_i . k_gt + q~_i . z_t)/sqrt(hd)" : "s_it = q~_i . z_t / sqrt(hd)");
    makes(t, s->h, 0);
    t->position = true, t->dense = twin;
    t->cost = (Cost){(double)k * number, (double)(s->h * (c->k_width + c->z_width))};
    t = next(p, c->latent ? "c_i = sum_t softmax(s_i)_t z_t" : "o_i = sum_t softmax(s_i)_t v_gt");
    makes(t, s->h, c->v_width);
    t->position = true, t->dense = twin, t->again = c->shared;
    t->cost = (Cost){c->shared ? 0 : (double)v * number, (double)(s->h * c->v_width)};
}

// From what the heads have taken to y.
static void output(Path *p) {
    const Attention *a = p->a;
    const AttnShape *s = &a->shape;
    const Group *g = p->go, *v = p->gv;
    const char *plus = a->bias[P_O] ? " + b" : "";
    Step *t;
    if (p->c->latent) {
        const bool widen = v->head.rows && !p->v_cancels;
        t = next(p, "o_i = %sM_g^V c_i%s", widen ? "U_head " : "", a->bias[P_V] ? " + b" : "");
        t->ink = INK_V;
        absorb(p, makes(t, s->h, p->v_cancels ? v->r_head : s->hd), P_V, v->r_head);
        if (widen) use(p, t, &v->head, s->h);
    }
    if (!g) {
        t = makes(next(p, "y = W_O o%s", plus), s->d, 0);
        t->ink = INK_O;
        use(p, t, &a->w[P_O], 1);
    } else {
        const bool narrow = g->head.rows && !p->v_cancels;
        const char *head = narrow ? "U_head^T " : "";
        t = g->kind.rows ? slices(p, next(p, "t_r = sum_i U_kind %so_i", head), g)
                         : makes(next(p, "u = sum_i M_i^O %so_i", head), g->r_embd, 0);
        if (narrow) use(p, t, &g->head, s->h);
        t->ink = g->kind.rows ? INK_SHARED : INK_O;
        if (g->kind.rows) {
            use_kind(p, t, g, s->h);
            use(p, makes(next(p, "u = sum_r G_r^T t_r"), g->r_embd, 0), &g->core, 1);
        } else use(p, t, &a->w[P_O], 1);
        t = makes(next(p, g->pivot ? "y_p = u, y_r = X u%s" : "y = U_embd u%s", plus), s->d, 0);
        t->ink = INK_SHARED;
        use_embd(p, t, g);
        if (g->pivot) NOTE(t, "y_p: those numbers of y that are rows of I; y_r: the others, rows of X.");
    }
    dense(p, P_O, t);
    if (p->v_cancels)
        NOTE(t, "U_head stands in v and in O and cancels there, U_head^T U_head = I: r_head wide.");
}

int path_steps(const Model *m, int64_t layer, const Cache *c, Step step[MAX_STEPS]) {
    const Attention *a = &m->layer[layer].attn;
    Path path = {.config = &m->config, .a = a, .c = c, .gk = group_of(a, P_K), .gv = group_of(a, P_V),
                 .go = group_of(a, P_O), .z = {"z", "z", "z"}, .step = step}, *p = &path;
    // Where U_head^T U_head = I stands between q and k, or v and O, it is left out: rows of the dense
    // cache are narrow then. k's alone can move to the query's side; q, too, is narrow if it shares it.
    const Cache plain = attention_cache(a, c->type, 1, CACHE_DENSE);
    p->k_moves = plain.k_width < a->shape.hd;
    p->v_cancels = plain.v_width < a->shape.hd;
    p->q_cancels = p->k_moves && p->gk == group_of(a, P_Q) && !a->bias[P_Q];
    inputs(p);
    projections(p);
    positions(p);
    position(p);
    output(p);
    if ((c->z_width && p->gk->kind.rows) || (c->latent && p->gv->kind.rows))
        NOTE(step, "M^K, M^V = sum_r U_kind[kind, r] G_r: formed when the model was bound, in f32.");
    return p->n;
}

Cost path_sum(const Step *step, int n, bool position, bool twin) {
    Cost sum = {0};
    for (int i = 0; i < n; i++) {
        const Cost *c = twin ? &step[i].dense : &step[i].cost;
        if (step[i].position != position) continue;
        sum.bytes += c->bytes, sum.madds += c->madds;
    }
    return sum;
}

// ---- on the page ---------------------------------------------------------------------------------

enum { OUT = 44, MADDS = 53, BYTES = 62, EDGE = 63, TWIN_MADDS = 71, TWIN_BYTES = 80 };   // where columns end

static void figure(Page *p, int end, int y, Ink ink, double v) {
    if (v < 1e7) page_right(p, end, y, ink, "%.0f", v);
    else page_right(p, end, y, ink, "%.2f%c", v < 1e9 ? v / 1e6 : v / 1e9, v < 1e9 ? 'M' : 'G');
}

static void row(Page *p, int y, Ink ink, const char *what, Cost cost, const Cost *twin) {
    page_put(p, 0, y, ink, "%s", what);
    figure(p, MADDS, y, ink, cost.madds);
    figure(p, BYTES, y, ink, cost.bytes);
    if (!twin) return;
    page_put(p, EDGE, y, FAINT, "|");
    figure(p, TWIN_MADDS, y, ink, twin->madds);
    figure(p, TWIN_BYTES, y, ink, twin->bytes);
}

static void rule(Page *p, int y, const char *what) {
    page_rule(p, page_put(p, 0, y, FAINT, "%s ", what), y);
}

static Cost times(Cost once, Cost position, int64_t n) {
    return (Cost){once.bytes + (double)n * position.bytes, once.madds + (double)n * position.madds};
}

static void print_steps(Page *p, const Model *m, int64_t layer, const Cache *c, int64_t context) {
    const Attention *a = &m->layer[layer].attn;
    const int64_t window = m->config.encoder ? 0 : m->config.window;
    Step step[MAX_STEPS];
    const int n = path_steps(m, layer, c, step);
    const bool twin = a->n_groups > 0;
    int y = 0;
    if (twin) {
        bool one = true;
        for (int q = P_K; q <= P_O; q++) one &= twin_of(a, q).type == twin_of(a, P_Q).type;
        page_right(p, TWIN_BYTES, y++, STRONG, "dense%s%s", one ? " in " : "",
                   one ? type_info(twin_of(a, P_Q).type)->name : "");
        page_right(p, TWIN_MADDS, y, STRONG, "madds");
        page_right(p, TWIN_BYTES, y, STRONG, "bytes");
    }
    page_put(p, 0, y, STRONG, "step");
    page_right(p, OUT, y, STRONG, "makes");
    page_right(p, MADDS, y, STRONG, "madds");
    page_right(p, BYTES, y++, STRONG, "bytes");
    for (int i = 0; i < n; i++) {
        const Step *t = &step[i];
        if (i && t->position != step[i - 1].position)
            rule(p, y++, t->position ? "for each cached position t that it sees" : "once");
        page_put(p, 0, y, t->ink, "%s", t->what);
        if (twin) page_put(p, EDGE, y, FAINT, "|");
        page_right(p, OUT, y, FAINT, "%s", t->out);
        if (t->cost.madds > 0) figure(p, MADDS, y, PLAIN, t->cost.madds);
        if (t->cost.bytes > 0) figure(p, BYTES, y, PLAIN, t->cost.bytes);
        else if (t->again) page_right(p, BYTES, y, FAINT, "again");
        if (twin && t->dense.madds > 0) {
            figure(p, TWIN_MADDS, y, PLAIN, t->dense.madds);
            figure(p, TWIN_BYTES, y, PLAIN, t->dense.bytes);
        }
        y++;
    }
    const Cost once = path_sum(step, n, false, false), each = path_sum(step, n, true, false);
    const Cost twin_once = path_sum(step, n, false, true), twin_each = path_sum(step, n, true, true);
    const int64_t seen = window && window < context ? window : context;
    const Cost last = times(once, each, seen), twin_last = times(twin_once, twin_each, seen);
    char text[64];
    rule(p, y++, "sums");
    row(p, y++, STRONG, "once: the weights", once, twin ? &twin_once : NULL);
    row(p, y++, STRONG, "a position that is seen", each, twin ? &twin_each : NULL);
    snprintf(text, sizeof text, "a token that sees %lld positions", (long long)seen);
    row(p, y++, STRONG, text, last, twin ? &twin_last : NULL);
    page_print(p);
    for (int i = 0; i < n; i++)
        if (*step[i].note) page_say(p, PLAIN, "%s", step[i].note);
    const Cost planned = attention_cost(a);
    if (planned.madds != once.madds || planned.bytes != once.bytes) {
        page_say(p, FAINT, "(attention_cost: %.0f madds, %.0f bytes, %s)", planned.madds, planned.bytes,
                 c->latent || c->z_width ? "for a dense cache" : "with U_head, which is not used");
    }
}

static void form(Page *p, int y, const char *name, const Attention *a, const Cache *c, bool chosen) {
    const Ink ink = chosen ? STRONG : PLAIN;
    const Cost cost = attention_cache_cost(a, c);
    page_put(p, 0, y, ink, "%s%s", chosen ? "* " : "  ", name);
    int x = 11;
    if (c->k_width) x = page_put(p, x, y, ink, "%lldx%lld", (long long)c->n_kv, (long long)c->k_width);
    if (c->z_width) page_put(p, x, y, ink, "%sz %lld", c->k_width ? " + " : "", (long long)c->z_width);
    if (c->shared) page_put(p, 29, y, ink, "the same z");
    else if (c->latent) page_put(p, 29, y, ink, "z %lld", (long long)c->v_width);
    else page_put(p, 29, y, ink, "%lldx%lld", (long long)c->n_kv, (long long)c->v_width);
    page_right(p, 51, y, ink, "%.0f", cost.bytes);
    page_right(p, 61, y, ink, "%.0f", cost.madds);
    page_right(p, 77, y, ink, "%.0f", cost.bytes + cost.madds / 4);
}

static bool same_form(const Cache *a, const Cache *b) {
    return a->k_width == b->k_width && a->v_width == b->v_width && a->z_width == b->z_width;
}

static void print_cache(Page *p, const Model *m, int64_t layer, const Session *s) {
    const Config *config = &m->config;
    const Attention *a = &m->layer[layer].attn;
    const Cache *c = &s->cache[layer];
    const bool may_k = a->group_of[P_K] >= 0 && a->pass, may_v = a->group_of[P_V] >= 0;
    const char *const names[] = {"dense", "latent", "best"};
    const CacheForm forms[] = {CACHE_DENSE, CACHE_LATENT, CACHE_AUTO};
    Cache kinds[3];
    int y = 0, n = may_k || may_v ? 3 : 1;
    page_put(p, 0, y, STRONG, "  form");
    page_put(p, 11, y, STRONG, "K");
    page_put(p, 29, y, STRONG, "V");
    page_right(p, 51, y, STRONG, "bytes");
    page_right(p, 61, y, STRONG, "madds");
    page_right(p, 77, y++, STRONG, "bytes + madds/4");
    for (int i = 0; i < n; i++) {
        kinds[i] = attention_cache(a, c->type, 1, forms[i]);
        bool seen = false;
        for (int j = 0; j < i; j++) seen |= same_form(&kinds[j], &kinds[i]);
        if (!seen) form(p, y++, names[i], a, &kinds[i], same_form(&kinds[i], c));
    }
    page_print(p);
    const char *const why = config->encoder && s->config.form == CACHE_DENSE
                      ? "an encoder keeps K and V of one text, as they are"
                      : n == 1 ? "there is no other"
                      : s->config.form == CACHE_DENSE ? "as --cache dense asks"
                      : s->config.form == CACHE_LATENT ? "as --cache latent asks"
                      : "the least of bytes + madds/4, by attention_cache";
    page_say(p, PLAIN, "* this run's, in %s: %s", type_info(c->type)->name, why);
    if (a->group_of[P_K] < 0 && a->group_of[P_V] < 0)
        page_say(p, PLAIN, "A latent needs factors: W_K and W_V are dense.");
    else if (!may_k)
        page_say(p, PLAIN, "K has no latent: %s", a->group_of[P_K] < 0 ? "W_K is dense" : config->qk_norm
                 ? "a norm of every head stands between M^K and the scores"
                 : "the rotation R_t stands between M^K and the scores");
    if (may_k && config->rope_dims)
        page_say(p, PLAIN, "Of K, the latent serves the %d numbers of a head that no position rotates.",
                 (int)a->pass);
}

void print_path(Page *p, const Model *m, int64_t layer, const Session *s, int64_t context) {
    heading(p, "2. A token's way through it (madds: multiply-adds; bytes: read)");
    page_say(p, PLAIN, "One token%s; i: query heads, g: KV heads, t: cached positions.",
             m->config.encoder ? "" : ", decoded");
    print_steps(p, m, layer, &s->cache[layer], context);
    heading(p, "3. What a cached position costs in this layer");
    print_cache(p, m, layer, s);
}
