// calibrate: what the projections of a dense model see. Runs a text through the model a window at a
// time, and sums outer products in double precision. What the sums are good for is weigh.c's and the
// planner's business; texts come from text.c, gradients from gradient.c.
#include "calibrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// One array of a layer: `blocks` symmetric matrices (width, width).
typedef struct { double **at; int64_t blocks, width; bool per_token; } Part;
enum { PARTS = 13 };

static int parts_of(LayerMoments *l, const Config *c, int want, Part out[PARTS]) {
    const int64_t heads = c->h * c->hd, kv = c->n_kv * c->hd;
    const struct { int want; Part part; } all[PARTS] = {
        {WANT_X, {&l->x, 1, c->d, true}},          {WANT_O, {&l->o, 1, heads, true}},
        {WANT_FFN, {&l->ffn, 1, c->d, true}},      {WANT_DOWN, {&l->down, 1, c->f, true}},
        {WANT_KL, {&l->kl[0], c->h, c->hd, false}}, {WANT_KL, {&l->kl[1], c->n_kv, c->hd, false}},
        {WANT_FISHER, {&l->g[P_Q], 1, heads, true}}, {WANT_FISHER, {&l->g[P_K], 1, kv, true}},
        {WANT_FISHER, {&l->g[P_V], 1, kv, true}},  {WANT_FISHER, {&l->g[P_O], 1, c->d, true}},
        {WANT_FISHER, {&l->g_gate, c->f, 1, true}}, {WANT_FISHER, {&l->g_up, c->f, 1, true}},
        {WANT_FISHER, {&l->g_down, 1, c->d, true}},
    };
    int n = 0;
    for (int i = 0; i < PARTS; i++)
        if (all[i].want & want) out[n++] = all[i].part;
    return n;
}

// One block of memory: the layers' pointers, then all numbers. Both are whole cache lines.
static double header_bytes(const Config *c) {
    return 64 * ceil((double)c->n_layers * (double)sizeof(LayerMoments) / 64);
}
static int64_t padded(const Part *p) { return (p->blocks * p->width * p->width + 7) / 8 * 8; }

int calib_supported(const Config *c, int want, Err *e) {
    if (!c->encoder || !(want & WANT_FISHER)) return 0;
    return fail(e, "the loss and its gradient are of a text that goes on; %s is an encoder (--method kl or "
                "input does without)", c->arch);
}

double moments_bytes(const Config *c, int want) {
    LayerMoments l;
    Part part[PARTS];
    double numbers = 0;
    for (int i = 0, n = parts_of(&l, c, want, part); i < n; i++)
        numbers += (double)padded(&part[i]);
    return header_bytes(c) + numbers * sizeof(double) * (double)c->n_layers;
}

static int moments_new(Moments *m, const Config *c, int want, Err *e) {
    const double bytes = moments_bytes(c, want);
    memset(m, 0, sizeof *m);
    if (bytes > (double)(SIZE_MAX / 4)) return fail(e, "moments: %.0f bytes do not fit", bytes);
    uint8_t *at = alloc((size_t)bytes, 1, "moments", e);
    if (!at) return -1;
    m->layer = (LayerMoments *)(void *)at;
    m->n_layers = c->n_layers;
    double *numbers = (double *)(void *)(at + (size_t)header_bytes(c));
    for (int64_t l = 0; l < c->n_layers; l++) {
        Part part[PARTS];
        for (int i = 0, n = parts_of(&m->layer[l], c, want, part); i < n; i++) {
            *part[i].at = numbers;
            numbers += padded(&part[i]);
        }
    }
    return 0;
}

void moments_free(Moments *m) {
    free(m->layer);
    memset(m, 0, sizeof *m);
}

// a (w, w) *= scale, of which only the upper triangle was summed; the lower one mirrors it. In
// tiles, for the mirror image goes down a column.
static void symmetric(double *a, int64_t w, double scale) {
    enum { TILE = 32 };
    for (int64_t r0 = 0; r0 < w; r0 += TILE)
        for (int64_t s0 = r0; s0 < w; s0 += TILE)
            for (int64_t r = r0; r < smaller(r0 + TILE, w); r++)
                for (int64_t s = larger(s0, r); s < smaller(s0 + TILE, w); s++)
                    a[s * w + r] = a[r * w + s] *= scale;
}

// Sums become means.
static void moments_finish(Moments *m, const Config *c, int want) {
    for (int64_t l = 0; l < m->n_layers; l++) {
        Part part[PARTS];
        for (int i = 0, n = parts_of(&m->layer[l], c, want, part); i < n; i++) {
            const int64_t w = part[i].width;
            const double scale = part[i].per_token ? 1 / (double)m->tokens : 1;
            for (int64_t b = 0; b < part[i].blocks; b++)
                symmetric(*part[i].at + b * w * w, w, scale);
        }
    }
}

enum {
    ROWS = 576,               // tokens widened to double at a time
    BLOCK = 96,               // rows of a sum computed together, from the diagonal on
    KL_WINDOWS = 16,          // windows that the attention-KL metric looks at
    KL_QUERIES = 64,          // queries of a window and head, evenly spread
};

typedef struct {
    Moments *m;
    const Config *c;
    int want;
    double *wide;             // (ROWS, widest)
    float *act;               // (ROWS, f)      silu(gate) * up
    bool kl;                  // of this window
    double kl_scale;          // 1 / (queries looked at of each head)
    float *turn[2];           // (rope_dims / 2, window) cos, sin
    float *room;              // (threads, room_size)
    int64_t room_size;
    double *kl_key;           // (h, hd, hd) what each query head adds to its KV head's metric
} Collect;

typedef struct { double *to; const float *from; } Widen;
static void widen_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const Widen *w = ctx;
    (void)thread;
    for (int64_t i = begin; i < end; i++) w->to[i] = w->from[i];
}

// sum (d, d) += X^T X of x (n, d), upper triangle by rows of blocks.
static void add_outer(Collect *c, double *sum, const float *x, int64_t n, int64_t d) {
    if (!sum) return;
    for (int64_t r = 0; r < n; r += ROWS) {
        const int64_t rows = smaller(ROWS, n - r);
        Widen w = {c->wide, x + r * d};
        parallel_for(rows * d, 1 << 15, widen_part, &w);
        for (int64_t i = 0; i < d; i += BLOCK)
            dgemm(true, false, smaller(BLOCK, d - i), d - i, rows, c->wide + i, d, c->wide + i, d,
                  1, sum + i * d + i, d);
    }
}

typedef struct { double *sum; const float *x; int64_t n, d; } Squares;
static void squares_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const Squares *s = ctx;
    (void)thread;
    for (int64_t t = 0; t < s->n; t++)
        for (int64_t i = begin; i < end; i++)
            s->sum[i] += (double)s->x[t * s->d + i] * s->x[t * s->d + i];
}

static void add_squares(double *sum, const float *x, int64_t n, int64_t d) {
    Squares s = {sum, x, n, d};
    parallel_for(d, 64, squares_part, &s);
}

// What `down` sees is made anew from gate and up: the engine's own product comes later.
typedef struct { float *act; const float *gate, *up; const Config *c; } Product;
static void product_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const Product *p = ctx;
    const int64_t at = begin * p->c->f, n = (end - begin) * p->c->f;
    (void)thread;
    memcpy(p->act + at, p->gate + at, (size_t)n * sizeof *p->act);
    if (p->c->gated) swiglu(p->act + at, p->up + at, n);
    else activate(p->c->act, p->act + at, n);
}

// ---- the attention-KL metric ---------------------------------------------------------------------
// A row of attention p over the keys a query sees has scores s_j = q . k_j / sqrt(hd). Scores moved
// by e_j move the row by KL = 1/2 Var_p(e) to second order. With R_a the rotation by a positions,
// and q, k before rotation,
//
//   q_t moved by u:     e_j = u . R_{j-t} k_j / sqrt(hd), so that the mean KL = 1/2 u' D2 u with
//       D2 = E_t[Cov over p_t of R_{j-t} k_j] / hd                        for every query head
//   k_j moved by u_j:   e_j = u_j . R_{t-j} q_t / sqrt(hd), and where the u_j are independent
//       D2 = E_t[sum over j of p_tj (1 - p_tj) (R_{t-j} q_t)(R_{t-j} q_t)'] / hd
//                                          for every KV head, summed over its query heads
//
// In terms of q_t and k_j as they are seen, rotated already: R_{-t} k_j and R_{-j} q_t.
// Both are means over queries t of sums over all keys j. All t would cost n^2 hd^2 a head, so at
// most KL_QUERIES of a window are taken, evenly spread, each with all its keys: exact up to that
// length. (64 of 512 in 8 windows of SmolLM2: 3 % off all of them, where other windows of the same
// text make 5 % and another kind of text 30 %.)
// Where a model norms q and k (qwen3), the metric is of the normed vectors: an approximation of
// what the projections before the norms are worth.

typedef struct { Collect *c; const LayerMoments *to; const float *q, *k; int64_t n; } KlJob;

// sum (hd, hd), upper triangle, += scale * A A^T of a (hd, m).
static void kl_add(double *sum, const float *a, int64_t hd, int64_t m, double scale, float *gram) {
    for (int64_t r = 0; r < hd; r += 16) {              // columns r … of 16 rows: nothing twice
        const int64_t rows = smaller(16, hd - r);
        const Mat rest = {a + r * m, hd - r, m, T_F32};
        matmul_block(&rest, a + r * m, rows, gram, hd - r);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = i; j < hd - r; j++)
                sum[(r + i) * hd + r + j] += scale * gram[i * (hd - r) + j];
    }
}

// a (hd, m) = root_j R_{-t} (k_j - mean) of the rotated keys, transposed: kt (hd, m), rows n apart.
static void key_rows(const Collect *c, float *a, const float *kt, int64_t n, const float *p,
                     const float *root, int64_t m, int64_t t) {
    const Config *g = c->c;
    const int64_t pairs = g->rope_dims / 2;
    for (int64_t i = 0; i < g->hd; i++) {
        const float mean = dot(p, kt + i * n, m);
        for (int64_t j = 0; j < m; j++) a[i * m + j] = root[j] * (kt[i * n + j] - mean);
    }
    for (int64_t i = 0; i < pairs; i++) {
        float *x = a + (g->rope_half ? i : 2 * i) * m, *y = x + (g->rope_half ? pairs : 1) * m;
        const float cosine = c->turn[0][i * n + t], sine = c->turn[1][i * n + t];
        for (int64_t j = 0; j < m; j++) {
            const float u = x[j], v = y[j];
            x[j] = u * cosine + v * sine;
            y[j] = v * cosine - u * sine;
        }
    }
}

// a (hd, m) = root_j R_{-j} q of the rotated query q, j = first, first + 1, …
static void query_rows(const Collect *c, float *a, const float *q, const float *root, int64_t n,
                       int64_t first, int64_t m) {
    const Config *g = c->c;
    const int64_t pairs = g->rope_dims / 2;
    for (int64_t i = 0; i < pairs; i++) {
        const int64_t at = g->rope_half ? i : 2 * i, next = at + (g->rope_half ? pairs : 1);
        const float *cosine = c->turn[0] + i * n + first, *sine = c->turn[1] + i * n + first;
        const float u = q[at], v = q[next];
        for (int64_t j = 0; j < m; j++) {
            a[at * m + j] = root[j] * (u * cosine[j] + v * sine[j]);
            a[next * m + j] = root[j] * (v * cosine[j] - u * sine[j]);
        }
    }
    for (int64_t i = g->rope_dims; i < g->hd; i++)
        for (int64_t j = 0; j < m; j++) a[i * m + j] = root[j] * q[i];
}

static int64_t kl_queries(int64_t n) { return smaller(n, KL_QUERIES); }

static void kl_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const KlJob *job = ctx;
    const Collect *c = job->c;
    const Config *g = c->c;
    const int64_t n = job->n, hd = g->hd, queries = kl_queries(n);
    float *kt = c->room + thread * c->room_size, *a = kt + hd * n, *p = a + hd * n, *root = p + n;
    float *gram = root + n;
    for (int64_t head = begin; head < end; head++) {
        const int64_t group = head / (g->h / g->n_kv);
        for (int64_t j = 0; j < n; j++)
            for (int64_t i = 0; i < hd; i++) kt[i * n + j] = job->k[(j * g->n_kv + group) * hd + i];
        for (int64_t s = 0; s < queries; s++) {
            const int64_t t = (2 * s + 1) * n / (2 * queries);        // the middle of each part
            const int64_t first = g->window > 0 ? larger(t - g->window + 1, 0) : 0;
            const int64_t m = (g->encoder ? n : t + 1) - first;
            const float *q = job->q + (t * g->h + head) * hd, scale = 1 / sqrtf((float)hd);
            for (int64_t j = 0; j < m; j++)
                p[j] = scale * dot(q, job->k + ((first + j) * g->n_kv + group) * hd, hd);
            softmax(p, m);
            for (int64_t j = 0; j < m; j++) root[j] = scale * sqrtf(p[j]);
            key_rows(c, a, kt + first, n, p, root, m, t);
            kl_add(job->to->kl[0] + head * hd * hd, a, hd, m, c->kl_scale, gram);
            for (int64_t j = 0; j < m; j++) root[j] *= sqrtf(1 - fminf(p[j], 1));
            query_rows(c, a, q, root, n, first, m);
            kl_add(c->kl_key + head * hd * hd, a, hd, m, c->kl_scale, gram);
        }
    }
}

// q (n, h, hd) and k (n, n_kv, hd), rotated.
static void add_kl(Collect *c, LayerMoments *to, const float *q, const float *k, int64_t n) {
    const Config *g = c->c;
    const int64_t size = g->hd * g->hd, m = g->h / g->n_kv;
    KlJob job = {c, to, q, k, n};
    memset(c->kl_key, 0, (size_t)(g->h * size) * sizeof *c->kl_key);
    parallel_for(g->h, 1, kl_part, &job);
    for (int64_t h = 0; h < g->h; h++)                    // in order, whichever thread came first
        for (int64_t i = 0; i < size; i++) to->kl[1][h / m * size + i] += c->kl_key[h * size + i];
}

// ---- collecting ----------------------------------------------------------------------------------

static void on_forward(void *ctx, const Session *s, int64_t layer, Seen at, int64_t n) {
    Collect *c = ctx;
    if (at == SEEN_END) return;
    LayerMoments *l = &c->m->layer[layer];
    const Config *g = c->c;
    if (at == SEEN_ATTENTION) {
        add_outer(c, l->x, s->xn, n, g->d);
        add_outer(c, l->o, s->o, n, g->h * g->hd);
        if (c->kl) add_kl(c, l, s->q, s->k, n);
        return;
    }
    add_outer(c, l->ffn, s->xn, n, g->d);
    for (int64_t r = 0; l->down && r < n; r += ROWS) {
        const int64_t rows = smaller(ROWS, n - r);
        Product p = {c->act, s->gate + r * g->f, s->up + r * g->f, g};
        parallel_for(rows, 8, product_part, &p);
        add_outer(c, l->down, c->act, rows, g->f);
    }
}

static void on_gradient(void *ctx, int64_t layer, const LayerGradient *b, int64_t n) {
    Collect *c = ctx;
    LayerMoments *l = &c->m->layer[layer];
    const Config *g = c->c;
    const int64_t heads = g->h * g->hd, kv = g->n_kv * g->hd;
    add_outer(c, l->x, b->x, n, g->d);
    add_outer(c, l->o, b->o, n, heads);
    add_outer(c, l->ffn, b->ffn, n, g->d);
    add_outer(c, l->down, b->down, n, g->f);
    if (c->kl) add_kl(c, l, b->q, b->k, n);
    add_outer(c, l->g[P_Q], b->gq, n, heads);
    add_outer(c, l->g[P_K], b->gk, n, kv);
    add_outer(c, l->g[P_V], b->gv, n, kv);
    add_outer(c, l->g[P_O], b->go, n, g->d);
    add_outer(c, l->g_down, b->g_down, n, g->d);
    add_squares(l->g_gate, b->g_gate, n, g->f);
    add_squares(l->g_up, b->g_up, n, g->f);
}

static void collect_free(Collect *c) {
    void *all[] = {c->wide, c->act, c->turn[0], c->turn[1], c->room, c->kl_key};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static int collect_init(Collect *c, const Model *model, int64_t window, Err *e) {
    const Config *g = c->c;
    const int64_t pairs = g->rope_dims / 2, rows = smaller(ROWS, window);
    const int64_t widest = larger(larger(g->d, g->h * g->hd), c->want & WANT_DOWN ? g->f : 0);
    if (!(c->wide = alloc((size_t)(rows * widest), sizeof *c->wide, "activations", e))) return -1;
    if (c->want & WANT_DOWN && !(c->want & WANT_FISHER) &&
        !(c->act = alloc((size_t)(rows * g->f), sizeof *c->act, "activations", e)))
        return -1;
    if (!(c->want & WANT_KL)) return 0;
    c->room_size = 2 * g->hd * window + 2 * window + 16 * g->hd;
    size_t table, room;
    if (!mul_size((size_t)pairs, (size_t)window, &table) ||
        !mul_size((size_t)threads_get(), (size_t)c->room_size, &room))
        return fail(e, "the attention-KL metric of windows of %lld: size overflows",
                    (long long)window);
    if (!(c->turn[0] = alloc(table, sizeof(float), "rotary angles", e)) ||
        !(c->turn[1] = alloc(table, sizeof(float), "rotary angles", e)) ||
        !(c->room = alloc(room, sizeof(float), "attention rows", e)) ||
        !(c->kl_key = alloc((size_t)(g->h * g->hd * g->hd), sizeof(double), "attention rows", e)))
        return -1;
    for (int64_t i = 0; i < pairs; i++) {                  // as in model.c, a row a pair
        double rate = pow(g->rope_base, -2.0 * (double)i / (double)g->rope_dims) / g->rope_scale;
        if (model->rope_factors) rate /= model->rope_factors[i];
        for (int64_t t = 0; t < window; t++) {
            c->turn[0][i * window + t] = (float)cos((double)t * rate);
            c->turn[1][i * window + t] = (float)sin((double)t * rate);
        }
    }
    return 0;
}

int moments_collect(Moments *m, const Model *model, const CalibText *t, int want,
                    Progress *progress, void *ctx, Err *e) {
    const Config *g = &model->config;
    Collect c = {.m = m, .c = g, .want = want};
    Session s = {0};
    Gradient *gradient = NULL;
    double loss = 0, sum = 0;
    int status = -1;
    memset(m, 0, sizeof *m);
    if (t->count < 1 || t->window < 2)
        return fail(e, "a calibration text of %lld windows of %lld ids", (long long)t->count,
                    (long long)t->window);
    if (calib_supported(g, want, e)) return -1;
    for (int64_t l = 0; l < g->n_layers; l++)
        if (model->layer[l].attn.n_groups)
            return fail(e, "moments are of a dense model: layer %lld has factors", (long long)l);
    SessionConfig sc = {.context = t->window, .batch = t->window, .kv_type = T_F32,
                        .form = CACHE_DENSE};
    if (moments_new(m, g, want, e) || collect_init(&c, model, t->window, e) ||
        (want & WANT_FISHER ? !(gradient = gradient_new(model, t->window, e))
                            : session_init(&s, model, sc, e)))
        goto done;
    s.observer = on_forward;
    s.observer_ctx = &c;

    const int64_t seen = smaller(t->count, KL_WINDOWS);
    const double all = (double)t->count * (double)t->window;
    c.kl_scale = 1 / (double)(seen * kl_queries(t->window));
    for (int64_t i = 0; i < t->count; i++) {
        const int *ids = t->ids + i * t->window;
        // `seen` windows, evenly spread: those where i * seen / count steps.
        c.kl = want & WANT_KL && (i == 0 || i * seen / t->count != (i - 1) * seen / t->count);
        if (progress) progress(ctx, "reading", (double)m->tokens, all);
        if (gradient) {
            if (gradient_window(gradient, ids, t->window, &loss, on_gradient, &c, e)) goto done;
            sum += loss;
        } else {
            session_rewind(&s, 0);
            if (g->encoder ? encode(&s, ids, t->window, e) : forward(&s, ids, t->window, e)) goto done;
        }
        if (interrupted) { fail(e, "interrupted"); goto done; }
        m->tokens += t->window;
    }
    moments_finish(m, g, want);
    if (gradient) m->loss = sum / (double)(t->count * (t->window - 1));
    if (progress) progress(ctx, "reading", all, all);
    status = 0;
done:
    session_free(&s);
    gradient_free(gradient);
    collect_free(&c);
    if (status) moments_free(m);
    return status;
}
