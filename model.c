// model: binds a decoder of the LLaMA family to a file's tensors and runs it. One forward pass, in
// the order of the equations, for one token and for many; what a projection is made of (dense, or
// factors) is tucker.c's business, numbers and threads are core's.
#include "model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ==================================================================================================
// The forward pass
// ==================================================================================================

// Angles of position t, pair i: t * base^(-2i / rope_dims), after scaling. (T, rope_dims / 2, 2)
static void fill_angles(float *angles, const Model *m, int64_t positions) {
    const Config *c = &m->config;
    int64_t pairs = c->rope_dims / 2;
    for (int64_t i = 0; i < pairs; i++) {
        double rate = pow(c->rope_base, -2.0 * (double)i / (double)c->rope_dims) / c->rope_scale;
        if (m->rope_factors) rate /= m->rope_factors[i];
        for (int64_t t = 0; t < positions; t++) {
            angles[(t * pairs + i) * 2] = (float)cos((double)t * rate);
            angles[(t * pairs + i) * 2 + 1] = (float)sin((double)t * rate);
        }
    }
}

// Rotates every head of x (n, heads, hd) to positions pos, pos + 1, …: each pair (a, b) becomes
// (a cos - b sin, a sin + b cos).
static void rotate(const Session *s, float *x, int64_t n, int64_t heads, int64_t pos) {
    const Config *c = &s->model->config;
    int64_t pairs = c->rope_dims / 2, next = c->rope_half ? pairs : 1, step = c->rope_half ? 1 : 2;
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < heads; h++) {
            float *p = x + (i * heads + h) * c->hd;
            const float *angle = s->angles + (pos + i) * c->rope_dims;
            for (int64_t j = 0; j < pairs; j++, p += step, angle += 2) {
                float a = p[0], b = p[next];
                p[0] = a * angle[0] - b * angle[1];
                p[next] = a * angle[1] + b * angle[0];
            }
        }
}

static void norm_rows(float *y, const float *x, const float *w, int64_t n, int64_t d, float eps) {
    for (int64_t i = 0; i < n; i++) rmsnorm(y + i * d, x + i * d, w, d, eps);
}

static void observe(const Session *s, int64_t layer, Seen at, int64_t n) {
    if (s->observer) s->observer(s->observer_ctx, s, layer, at, n);
}

// y (n, rows) = W x for each of the matrices: W, or where there are factors A, in one sweep; B after.
typedef struct { const LaserMat *m; float *y; } Feed;
static void feed(Session *s, const float *x, int64_t n, const Feed *out, int count) {
    Linear sweep[2] = {{0}};
    for (int i = 0; i < count; i++)
        sweep[i] = out[i].m->a.rows ? (Linear){&out[i].m->a, s->low[i]}
                                    : (Linear){&out[i].m->w, out[i].y};
    matmul(&s->work.scratch, x, n, sweep, count);
    for (int i = 0; i < count; i++)
        if (out[i].m->a.rows)
            matmul(&s->work.scratch, s->low[i], n, &(Linear){&out[i].m->w, out[i].y}, 1);
}

void layer_forward(Session *s, int64_t layer, int64_t n) {
    const Config *c = &s->model->config;
    const Layer *w = &s->model->layer[layer];
    Cache *cache = &s->cache[layer];
    int64_t pos = s->pos;

    // attention: y = W_O softmax(rot(W_Q xn) rot(W_K xn)^T / sqrt(hd)) W_V xn
    norm_rows(s->xn, s->x, w->attn_norm, n, c->d, c->norm_eps);
    attention_qkv(&w->attn, &s->work, cache, s->xn, n, s->q, s->k, s->v);
    if (w->q_norm) {
        norm_rows(s->q, s->q, w->q_norm, n * c->h, c->hd, c->norm_eps);
        norm_rows(s->k, s->k, w->k_norm, n * c->n_kv, c->hd, c->norm_eps);
    }
    rotate(s, s->q, n, c->h, pos);
    rotate(s, s->k, n, c->n_kv, pos);
    attention_store(&w->attn, &s->work, cache, pos, n, s->k, s->v);
    attention_mix(&w->attn, &s->work, cache, s->q, n, pos, c->window, s->o);
    observe(s, layer, SEEN_ATTENTION, n);
    attention_out(&w->attn, &s->work, s->o, n, s->y);
    add(s->x, s->y, n * c->d);                                             // x += y

    // feed-forward: y = W_down (silu(W_gate xn) * W_up xn)
    norm_rows(s->xn, s->x, w->ffn_norm, n, c->d, c->norm_eps);
    feed(s, s->xn, n, (Feed[]){{&w->gate, s->gate}, {&w->up, s->up}}, 2);
    observe(s, layer, SEEN_FFN, n);
    swiglu(s->gate, s->up, n * c->f);
    feed(s, s->gate, n, &(Feed){&w->down, s->y}, 1);
    add(s->x, s->y, n * c->d);                                             // x += y
}

int forward(Session *s, const int *ids, int64_t n, Err *e) {
    const Model *m = s->model;
    const Config *c = &m->config;
    int64_t pos = s->pos;
    if (n < 1 || n > s->config.batch || n > s->config.context - pos)
        return fail(e, "%lld more tokens do not fit: %lld of %lld positions are taken, batches of %lld",
                    (long long)n, (long long)pos, (long long)s->config.context,
                    (long long)s->config.batch);
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= c->vocab)
            return fail(e, "token %d is not in 0 .. %lld", ids[i], (long long)c->vocab - 1);

    for (int64_t i = 0; i < n; i++)                                        // x = E[ids]       (n, d)
        mat_row(&m->embedding, ids[i], s->x + i * c->d);

    for (int64_t l = 0; l < c->n_layers; l++) layer_forward(s, l, n);
    observe(s, c->n_layers, SEEN_END, n);
    s->n = n;
    s->pos += n;
    return 0;
}

float *logits(Session *s, int64_t first, int64_t count) {
    const Config *c = &s->model->config;
    norm_rows(s->xn, s->x + first * c->d, s->model->output_norm, count, c->d, c->norm_eps);
    matmul(&s->work.scratch, s->xn, count, &(Linear){&s->model->output, s->out}, 1);
    return s->out;
}

int prefill(Session *s, const int *ids, int64_t n, Err *e) {
    for (int64_t i = 0; i < n && !interrupted; i += s->config.batch) {
        int64_t part = n - i < s->config.batch ? n - i : s->config.batch;
        if (forward(s, ids + i, part, e)) return -1;
    }
    return 0;
}

void session_rewind(Session *s, int64_t pos) {
    if (pos < s->pos) s->pos = pos;
}

// ==================================================================================================
// Session
// ==================================================================================================

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static float *floats(int64_t a, int64_t b, const char *what, Err *e) {
    size_t n;
    if (!mul_size((size_t)a, (size_t)b, &n)) { fail(e, "%s: size overflows", what); return NULL; }
    return alloc(n, sizeof(float), what, e);
}

int session_init(Session *s, const Model *m, SessionConfig want, Err *e) {
    const Config *c = &m->config;
    memset(s, 0, sizeof *s);
    if (want.context < 1 || want.context > c->context)
        return fail(e, "a context of %lld positions: the model was trained for 1 .. %lld",
                    (long long)want.context, (long long)c->context);
    if (want.batch < 1) want.batch = 64;
    if (want.batch > want.context) want.batch = want.context;
    s->model = m;
    s->config = want;

    s->cache = alloc((size_t)c->n_layers, sizeof *s->cache, "caches", e);
    if (!s->cache) goto failed;
    int64_t low = 0, max_cols = larger(c->f, c->d);
    for (int64_t l = 0; l < c->n_layers; l++) {
        s->cache[l] = attention_cache(&m->layer[l].attn, want.kv_type, want.context, want.form);
        if (cache_alloc(&s->cache[l], &s->cache_bytes, e)) goto failed;
        low = larger(low, larger(m->layer[l].gate.a.rows, m->layer[l].up.a.rows));
        low = larger(low, m->layer[l].down.a.rows);
    }
    int64_t n = want.batch;
    s->max_logits = n < 16 ? n : 16;
    if (!(s->angles = floats(want.context, c->rope_dims, "rotary angles", e)) ||
        !(s->x = floats(n, c->d, "activations", e)) || !(s->xn = floats(n, c->d, "activations", e)) ||
        !(s->y = floats(n, c->d, "activations", e)) ||
        !(s->q = floats(n, c->h * c->hd, "queries", e)) ||
        !(s->o = floats(n, c->h * c->hd, "heads", e)) ||
        !(s->k = floats(n, c->n_kv * c->hd, "keys", e)) || !(s->v = floats(n, c->n_kv * c->hd, "values", e)) ||
        !(s->gate = floats(n, c->f, "activations", e)) ||
        !(s->up = floats(n, c->f, "activations", e)) ||
        !(s->low[0] = floats(n, low, "activations", e)) ||
        !(s->low[1] = floats(n, low, "activations", e)) ||
        !(s->out = floats(s->max_logits, c->vocab, "logits", e)) ||
        attention_work(&s->work, &m->layer->attn, sizeof(Layer), c->n_layers, n, max_cols, e))
        goto failed;
    fill_angles(s->angles, m, want.context);
    return 0;
failed:
    session_free(s);
    return -1;
}

void session_free(Session *s) {
    for (int64_t l = 0; s->cache && l < s->model->config.n_layers; l++)
        cache_free(&s->cache[l]);
    float *all[] = {s->angles, s->x, s->xn, s->y, s->q, s->o, s->k, s->v, s->gate, s->up, s->low[0],
                    s->low[1], s->out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    free(s->cache);
    attention_work_free(&s->work);
    memset(s, 0, sizeof *s);
}

// ==================================================================================================
// Binding
// ==================================================================================================

// A key of the architecture: "llama.attention.head_count" from "%s.attention.head_count".
static const char *key_of(const Config *c, const char *suffix) {
    static _Thread_local char key[96];
    snprintf(key, sizeof key, "%s.%s", c->arch, suffix);
    return key;
}

static int need_int(const Gguf *g, const Config *c, const char *suffix, int64_t max, int64_t *out,
                    Err *e) {
    const char *key = key_of(c, suffix);
    if (!gguf_kv(g, key)) return fail(e, "%s: key %s is missing", g->name, key);
    return gguf_get_int(g, key, 1, max, out, e);
}

static int refuse_scaling(const Gguf *g, Config *c, Err *e) {
    Str scaling = {"none", 4};
    if (gguf_get_str(g, key_of(c, "rope.scaling.type"), &scaling, e)) return -1;
    c->rope_scale = 1;
    if (str_is(scaling, "linear")) {
        if (gguf_get_float(g, key_of(c, "rope.scaling.factor"), &c->rope_scale, e)) return -1;
        if (!(c->rope_scale >= 1 && c->rope_scale <= 1e6))
            return fail(e, "%s: a linear rope scaling by %g", g->name, c->rope_scale);
    } else if (!str_is(scaling, "none")) {
        return fail(e, "%s: rope scaling \"%.*s\" is not supported (linear and llama 3's are)",
                    g->name, (int)(scaling.n < 40 ? scaling.n : 40), scaling.s);
    }
    return 0;
}

static int read_config(Config *c, const Gguf *g, Err *e) {
    enum { MOST = 1 << 24 };                       // of any one dimension: products stay in 64 bits
    static const char *const archs[] = {"llama", "qwen2", "qwen3"};
    Str arch = {0};
    if (gguf_get_str(g, "general.architecture", &arch, e)) return -1;
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        if (str_is(arch, archs[i])) snprintf(c->arch, sizeof c->arch, "%s", archs[i]);
    if (!*c->arch)
        return fail(e, "%s: architecture \"%.*s\" is not supported (llama, qwen2, qwen3 are)", g->name,
                    (int)(arch.n < 40 ? arch.n : 40), arch.n ? arch.s : "");

    int64_t value_width = 0, version = 0, experts = 0;
    double eps = 0;
    if (need_int(g, c, "embedding_length", MOST, &c->d, e) ||
        need_int(g, c, "block_count", 4096, &c->n_layers, e) ||
        need_int(g, c, "feed_forward_length", MOST, &c->f, e) ||
        need_int(g, c, "context_length", MOST, &c->context, e) ||
        need_int(g, c, "attention.head_count", 65536, &c->h, e))
        return -1;
    c->n_kv = c->h;
    if (gguf_get_int(g, key_of(c, "attention.head_count_kv"), 1, c->h, &c->n_kv, e)) return -1;
    if (c->h % c->n_kv)
        return fail(e, "%s: %lld query heads do not divide over %lld KV heads", g->name,
                    (long long)c->h, (long long)c->n_kv);
    c->hd = c->d / c->h;
    bool given = gguf_kv(g, key_of(c, "attention.key_length")) != NULL;
    if (!given && (c->d % c->h || c->d < c->h))
        return fail(e, "%s: an embedding of %lld does not divide over %lld heads", g->name,
                    (long long)c->d, (long long)c->h);
    if (gguf_get_int(g, key_of(c, "attention.key_length"), 1, 65536, &c->hd, e)) return -1;
    value_width = c->hd;
    if (gguf_get_int(g, key_of(c, "attention.value_length"), 1, 65536, &value_width, e)) return -1;
    if (value_width != c->hd)
        return fail(e, "%s: heads of %lld for keys and %lld for values are not supported", g->name,
                    (long long)c->hd, (long long)value_width);

    c->rope_base = 10000;
    c->rope_dims = c->hd;
    c->rope_half = strcmp(c->arch, "llama") != 0;
    if (!gguf_kv(g, key_of(c, "attention.layer_norm_rms_epsilon")))
        return fail(e, "%s: key %s is missing", g->name, key_of(c, "attention.layer_norm_rms_epsilon"));
    if (gguf_get_float(g, key_of(c, "attention.layer_norm_rms_epsilon"), &eps, e) ||
        gguf_get_float(g, key_of(c, "rope.freq_base"), &c->rope_base, e) ||
        gguf_get_int(g, key_of(c, "rope.dimension_count"), 2, c->hd, &c->rope_dims, e) ||
        gguf_get_int(g, key_of(c, "attention.sliding_window"), 0, INT32_MAX, &c->window, e) ||
        gguf_get_int(g, key_of(c, "expert_count"), 0, INT32_MAX, &experts, e) ||
        gguf_get_int(g, "tucker.version", 0, INT32_MAX, &version, e) || refuse_scaling(g, c, e))
        return -1;
    if (c->rope_dims % 2)
        return fail(e, "%s: %lld rotated numbers a head are not even", g->name, (long long)c->rope_dims);
    if (!(eps >= 0 && eps < 1) || !(c->rope_base > 0 && c->rope_base < 1e12))
        return fail(e, "%s: norm epsilon %g, rope base %g", g->name, eps, c->rope_base);
    if (experts) return fail(e, "%s: mixtures of experts are not supported", g->name);
    if (version != 1 && gguf_kv(g, "tucker.version"))
        return fail(e, "%s: tucker.version is %lld, this program reads 1", g->name,
                    (long long)version);
    c->norm_eps = (float)eps;
    c->tucker = version == 1;

    Str pairs = {0};
    if (gguf_get_str(g, "tucker.rope_pairs", &pairs, e)) return -1;
    if (pairs.s && !str_is(pairs, "half") && !str_is(pairs, "interleaved"))
        return fail(e, "%s: tucker.rope_pairs is neither half nor interleaved", g->name);
    if (pairs.s) c->rope_half = str_is(pairs, "half");
    return 0;
}

// The name of a layer's tensor: blk.N.<part>.
static const char *layer_name(int64_t l, const char *part) {
    static _Thread_local char name[96];
    snprintf(name, sizeof name, "blk.%lld.%s", (long long)l, part);
    return name;
}

static int layer_vec(const Gguf *g, int64_t l, const char *part, int64_t n, bool needed,
                     const float **v, int64_t *bound, Err *e) {
    const char *name = layer_name(l, part);
    if (!needed && !gguf_has(g, name)) return 0;
    ++*bound;
    return gguf_vec(g, name, n, v, e);
}

static int layer_mat(const Gguf *g, int64_t l, const char *part, int64_t rows, int64_t cols, Mat *w,
                     int64_t *bound, Err *e) {
    ++*bound;
    return gguf_mat(g, layer_name(l, part), rows, cols, w, e);
}

// A factor that is small and mixed in f32: U_head, U_kind.
static int layer_f32(const Gguf *g, int64_t l, const char *part, int64_t rows, int64_t cols, Mat *w,
                     int64_t *bound, Err *e) {
    if (layer_mat(g, l, part, rows, cols, w, bound, e)) return -1;
    if (w->type != T_F32 || (uintptr_t)w->data % sizeof(float))
        return fail(e, "%s: tensor %s is not aligned f32", g->name, layer_name(l, part));
    return 0;
}

// tucker.scheme's entry of a layer, "qkv+o", into groups: letters in order, none twice.
static int read_groups(Attention *a, Str scheme, const Gguf *g, int64_t l, Err *e) {
    static const char letters[] = "qkvo";
    int set = 0, seen = 0;
    for (size_t i = 0; i <= scheme.n; i++) {
        const char *p = i < scheme.n ? memchr(letters, scheme.s[i], 4) : NULL;
        int bit = p ? 1 << (p - letters) : 0;
        bool ends = i == scheme.n || scheme.s[i] == '+';
        if ((!p && !ends) || (ends && !set && scheme.n) || seen & bit || (bit && bit < set))
            return fail(e, "%s: layer %lld: tucker.scheme \"%.*s\" is not groups of q, k, v, o", g->name,
                        (long long)l, (int)(scheme.n < 20 ? scheme.n : 20), scheme.s);
        seen |= bit;
        set |= bit;
        if (!ends || !set) continue;
        for (int q = P_Q; q <= P_O; q++)
            if (set & 1 << q) a->group_of[q] = a->n_groups;
        a->groups[a->n_groups++].set = set;
        set = 0;
    }
    return 0;
}

// The pivots of a group, where it has them, and the inputs that are none.
static int bind_pivot(Group *t, const char *letters, const AttnShape *s, const Gguf *g, int64_t l,
                      int64_t *bound, Err *e) {
    char part[64];
    snprintf(part, sizeof part, "attn_tucker_%s_pivot", letters);
    const char *name = layer_name(l, part);
    if (!gguf_has(g, name)) return 0;
    ++*bound;
    if ((t->set & HAS_O && t->set != HAS_O) || t->r_embd == s->d || t->r_head < s->hd ||
        t->r_kind < t->kinds)
        return fail(e, "%s: tensor %s: a group of ranks %lld, %lld, %lld that cannot be pivoted: it needs "
                    "r_embd < %lld, full ranks %lld, %lld beside it, and no O among others", g->name, name,
                    (long long)t->r_embd, (long long)t->r_head, (long long)t->r_kind, (long long)s->d,
                    (long long)s->hd, (long long)t->kinds);
    if (gguf_ints(g, name, t->r_embd, &t->pivot, e)) return -1;
    int32_t *rest = alloc((size_t)(s->d - t->r_embd), sizeof *rest, "inputs beside the pivots", e);
    if (!rest) return -1;
    t->rest = rest;
    for (int64_t k = 0, next = 0; k <= t->r_embd; k++, next++) {
        int64_t pivot = k < t->r_embd ? t->pivot[k] : s->d, last = s->d - t->r_embd + k;
        if (pivot < next || pivot > last)            // r_embd - k of them have to find room below d
            return fail(e, "%s: tensor %s: [%lld] is %lld, expected %lld to %lld: ascending, below %lld",
                        g->name, name, (long long)k, (long long)pivot, (long long)next, (long long)last,
                        (long long)s->d);
        while (next < pivot) *rest++ = (int32_t)next++;
    }
    return 0;
}

static int bind_group(Attention *a, int i, const int64_t rank[3], const Gguf *g, int64_t l,
                      int64_t *bound, Err *e) {
    const AttnShape *s = &a->shape;
    Group *t = &a->groups[i];
    char name[8] = "", part[64];
    for (int p = P_Q, end = 0; p <= P_O; p++)
        if (t->set & 1 << p) name[end++] = "qkvo"[p];
    t->kinds = group_kinds(t->set, s->h / s->n_kv);
    t->r_embd = rank[0], t->r_head = rank[1], t->r_kind = rank[2];
    if (t->r_embd < 1 || t->r_embd > s->d || t->r_head < 1 || t->r_head > s->hd ||
        t->r_kind < 1 || t->r_kind > t->kinds)
        return fail(e, "%s: layer %lld: group %s has ranks %lld, %lld, %lld; sizes are %lld, %lld, %lld",
                    g->name, (long long)l, name, (long long)t->r_embd, (long long)t->r_head,
                    (long long)t->r_kind, (long long)s->d, (long long)s->hd, (long long)t->kinds);

    if (bind_pivot(t, name, s, g, l, bound, e)) return -1;
    int64_t wide_side = t->pivot ? s->d - t->r_embd : s->d;
    bool out = t->set == HAS_O;
    snprintf(part, sizeof part, "attn_tucker_%s_embd.weight", name);
    if (layer_mat(g, l, part, out ? wide_side : t->r_embd, out ? t->r_embd : wide_side, &t->embd,
                  bound, e))
        return -1;
    snprintf(part, sizeof part, "attn_tucker_%s_head.weight", name);
    if (t->r_head < s->hd && layer_f32(g, l, part, s->hd, t->r_head, &t->head, bound, e)) return -1;
    snprintf(part, sizeof part, "attn_tucker_%s_kind.weight", name);
    if (t->r_kind < t->kinds) {
        if (layer_f32(g, l, part, t->kinds, t->r_kind, &t->kind, bound, e)) return -1;
        snprintf(part, sizeof part, "attn_tucker_%s_core.weight", name);
        return layer_mat(g, l, part, t->r_kind * s->n_kv * t->r_head, t->r_embd, &t->core, bound, e);
    }
    for (int p = P_Q; p <= P_O; p++) {
        if (!(t->set & 1 << p)) continue;
        int64_t wide = (p == P_Q || p == P_O ? s->h : s->n_kv) * t->r_head;
        snprintf(part, sizeof part, "attn_tucker_%c_core.weight", "qkvo"[p]);
        if (layer_mat(g, l, part, p == P_O ? t->r_embd : wide, p == P_O ? wide : t->r_embd, &a->w[p],
                      bound, e))
            return -1;
    }
    return 0;
}

static int bind_attention(Attention *a, const Config *c, const Gguf *g, int64_t l, int64_t *bound,
                          Err *e) {
    static const char *const weight[] = {"attn_q.weight", "attn_k.weight", "attn_v.weight",
                                         "attn_output.weight"};
    static const char *const bias[] = {"attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias"};
    a->shape = (AttnShape){c->d, c->h, c->n_kv, c->hd};
    a->pass = strcmp(c->arch, "qwen3") == 0 ? 0 : c->hd - c->rope_dims;      // a norm stands between
    for (int p = P_Q; p <= P_O; p++) a->group_of[p] = -1;

    const GgufKv *scheme = gguf_kv(g, "tucker.scheme"), *ranks = gguf_kv(g, "tucker.ranks");
    if (c->tucker) {
        if (!scheme || scheme->type != GGUF_ARR || scheme->item != GGUF_STR || !ranks ||
            ranks->type != GGUF_ARR || ranks->item != GGUF_I32 ||
            scheme->count != (uint64_t)c->n_layers || ranks->count != 12 * (uint64_t)c->n_layers)
            return fail(e, "%s: tucker.scheme and tucker.ranks are not 1 string and 12 numbers for each "
                        "of %lld layers", g->name, (long long)c->n_layers);
        if (read_groups(a, scheme->strings[l], g, l, e)) return -1;
    }
    for (int p = P_Q; p <= P_O; p++) {
        int64_t wide = (p == P_Q || p == P_O ? c->h : c->n_kv) * c->hd;
        if (a->group_of[p] < 0 && layer_mat(g, l, weight[p], p == P_O ? c->d : wide,
                                            p == P_O ? wide : c->d, &a->w[p], bound, e))
            return -1;
        if (layer_vec(g, l, bias[p], p == P_O ? c->d : wide, false, &a->bias[p], bound, e)) return -1;
    }
    for (int i = 0; i < a->n_groups; i++) {
        int first = 0;
        while (a->group_of[first] != i) first++;
        int64_t rank[3];
        for (int r = 0; r < 3; r++) rank[r] = gguf_item_int(ranks, (uint64_t)(12 * l + 3 * first + r));
        for (int p = first; p <= P_O; p++)
            for (int r = 0; r < 3; r++)
                if (a->group_of[p] == i && gguf_item_int(ranks, (uint64_t)(12 * l + 3 * p + r)) != rank[r])
                    return fail(e, "%s: layer %lld: projections of one group differ in tucker.ranks",
                                g->name, (long long)l);
        if (bind_group(a, i, rank, g, l, bound, e)) return -1;
    }
    return 0;
}

// A matrix of the feed-forward, "ffn_gate": W, or, in a .tbin, two factors in its place.
static int layer_laser(const Gguf *g, const Config *c, int64_t l, const char *part, int64_t rows,
                       int64_t cols, LaserMat *m, int64_t *bound, Err *e) {
    char whole[32], in[32], out[32];
    snprintf(whole, sizeof whole, "%s.weight", part);
    snprintf(in, sizeof in, "%s_laser_in.weight", part);
    snprintf(out, sizeof out, "%s_laser_out.weight", part);
    if (!gguf_has(g, layer_name(l, in)) && !gguf_has(g, layer_name(l, out)))
        return layer_mat(g, l, whole, rows, cols, &m->w, bound, e);
    if (!c->tucker || gguf_has(g, layer_name(l, whole)))
        return fail(e, "%s: layer %lld has factors of %s %s", g->name, (long long)l, part,
                    c->tucker ? "beside the matrix itself" : "but no tucker.version");
    if (layer_mat(g, l, in, -1, cols, &m->a, bound, e)) return -1;
    if (m->a.rows > rows || m->a.rows > cols)
        return fail(e, "%s: tensor %s: rank %lld of a matrix (%lld, %lld)", g->name, layer_name(l, in),
                    (long long)m->a.rows, (long long)rows, (long long)cols);
    return layer_mat(g, l, out, rows, m->a.rows, &m->w, bound, e);
}

int model_bind(Model *m, const Gguf *g, Err *e) {
    memset(m, 0, sizeof *m);
    Config *c = &m->config;
    if (read_config(c, g, e)) return -1;

    const GgufTensor *embedding = gguf_tensor(g, "token_embd.weight");
    if (!embedding || embedding->ne[1] > INT32_MAX)
        return fail(e, "%s: tensor token_embd.weight is missing", g->name);
    c->vocab = embedding->ne[1];
    int64_t bound = 0;
    bool tied = !gguf_has(g, "output.weight"), scaled = gguf_has(g, "rope_freqs.weight");
    if (gguf_mat(g, "token_embd.weight", c->vocab, c->d, &m->embedding, e) ||
        gguf_mat(g, tied ? "token_embd.weight" : "output.weight", c->vocab, c->d, &m->output, e) ||
        gguf_vec(g, "output_norm.weight", c->d, &m->output_norm, e) ||
        (scaled && gguf_vec(g, "rope_freqs.weight", c->rope_dims / 2, &m->rope_factors, e)))
        return -1;
    for (int64_t i = 0; scaled && i < c->rope_dims / 2; i++)
        if (!(m->rope_factors[i] > 0)) return fail(e, "%s: rope_freqs.weight[%lld] is %g", g->name,
                                                   (long long)i, (double)m->rope_factors[i]);
    bound += 2 + !tied + scaled;

    // A tensor a layer at least: so the file's own size bounds what is allocated here.
    if ((uint64_t)c->n_layers > g->n_tensors)
        return fail(e, "%s: %lld layers in a file of %llu tensors", g->name, (long long)c->n_layers,
                    (unsigned long long)g->n_tensors);
    if (!(m->layer = alloc((size_t)c->n_layers, sizeof *m->layer, "layers", e)) ||
        !(m->owned = alloc((size_t)c->n_layers, sizeof *m->owned, "layers", e)))
        goto failed;
    bool qk_norm = strcmp(c->arch, "qwen3") == 0;
    for (int64_t l = 0; l < c->n_layers; l++) {
        Layer *w = &m->layer[l];
        if (layer_vec(g, l, "attn_norm.weight", c->d, true, &w->attn_norm, &bound, e) ||
            bind_attention(&w->attn, c, g, l, &bound, e) ||
            attention_expand(&w->attn, &m->owned[l], e) ||
            (qk_norm && (layer_vec(g, l, "attn_q_norm.weight", c->hd, true, &w->q_norm, &bound, e) ||
                         layer_vec(g, l, "attn_k_norm.weight", c->hd, true, &w->k_norm, &bound, e))) ||
            layer_vec(g, l, "ffn_norm.weight", c->d, true, &w->ffn_norm, &bound, e) ||
            layer_laser(g, c, l, "ffn_gate", c->f, c->d, &w->gate, &bound, e) ||
            layer_laser(g, c, l, "ffn_up", c->f, c->d, &w->up, &bound, e) ||
            layer_laser(g, c, l, "ffn_down", c->d, c->f, &w->down, &bound, e))
            goto failed;
    }
    if ((uint64_t)bound != g->n_tensors) {
        fail(e, "%s: %lld of its %llu tensors have no place in architecture %s: refused, for weights "
             "left out change what a model says", g->name, (long long)(g->n_tensors - (uint64_t)bound),
             (unsigned long long)g->n_tensors, c->arch);
        goto failed;
    }
    return 0;
failed:
    model_free(m);
    return -1;
}

void model_free(Model *m) {
    for (int64_t l = 0; m->owned && l < m->config.n_layers; l++) free(m->owned[l]);
    for (int64_t l = 0; m->layer && l < m->config.n_layers; l++)
        for (int i = 0; i < 4; i++) free((void *)m->layer[l].attn.groups[i].rest);
    free(m->owned);
    free(m->layer);
    memset(m, 0, sizeof *m);
}

// ==================================================================================================
// What it weighs
// ==================================================================================================

static double params_of(const Mat *w) {
    return w->type == T_I32 ? 0 : (double)w->rows * (double)w->cols;
}
static double bytes_of(const Mat *w) { return w->rows ? (double)mat_bytes(w) : 0; }

static Parts parts(const Model *m, double (*of)(const Mat *)) {
    const Config *c = &m->config;
    Parts p = {.embedding = of(&m->embedding)};
    double norm = of(&(Mat){NULL, 1, c->d, T_F32});
    p.output = m->output.data == m->embedding.data ? 0 : of(&m->output);
    p.other = norm + (m->rope_factors ? of(&(Mat){NULL, 1, c->rope_dims / 2, T_F32}) : 0);
    for (int64_t l = 0; l < c->n_layers; l++) {
        const Layer *w = &m->layer[l];
        for (int i = P_Q; i <= P_O; i++) p.attention += of(&w->attn.w[i]);
        for (int i = 0; i < w->attn.n_groups; i++) {
            const Group *g = &w->attn.groups[i];
            p.attention += of(&g->embd) + of(&g->head) + of(&g->kind) + of(&g->core);
            if (g->pivot) p.attention += of(&(Mat){g->pivot, 1, g->r_embd, T_I32});
        }
        p.ffn += of(&w->gate.w) + of(&w->up.w) + of(&w->down.w);
        p.ffn += of(&w->gate.a) + of(&w->up.a) + of(&w->down.a);
        p.other += 2 * norm + (w->q_norm ? 2 * of(&(Mat){NULL, 1, c->hd, T_F32}) : 0);
        int64_t rows[] = {c->h * c->hd, c->n_kv * c->hd, c->n_kv * c->hd, c->d};
        for (int i = P_Q; i <= P_O; i++)
            if (w->attn.bias[i]) p.other += of(&(Mat){NULL, 1, rows[i], T_F32});
    }
    return p;
}

Parts model_bytes(const Model *m) { return parts(m, bytes_of); }
Parts model_params(const Model *m) { return parts(m, params_of); }

double model_step_bytes(const Model *m) {
    Parts p = model_bytes(m);
    return p.attention + p.ffn + p.other + bytes_of(&m->output);
}
