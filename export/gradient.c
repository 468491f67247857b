// gradient: the backward pass of one window, in the order of model.c's forward pass turned round.
// Of decoders, whose norms all stand before what they serve. The forward pass is model.c's own; an
// observer keeps of it what cannot be had again for less: the residual stream at both norms, q, heads'
// outputs, gate and up, (2 d + 2 h*hd + 2 f) numbers a token and layer. K and V stand in the session's
// cache. Normed inputs, the attention's probabilities (32 queries of a head at a time) and q, k before
// their norms are made again. Weights stay as they are stored: gradients go through W^T by matmul_t. No
// gradient of a weight is formed here: the sink gets both sides of it, dW = sum over t of g_t x_t^T.
//
// Names as in model.h; g… is the gradient of the loss at …; n tokens.
#include "calibrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { QUERIES = 32 };           // queries whose probabilities are held at a time
enum { LOGITS = 1 << 22 };       // logits held at a time, but at least one row
enum { SUMMED = 4096 };          // logits whose exponentials are summed as floats; then doubles

// Of one layer's forward pass.
typedef struct {
    float *x_attn, *x_ffn;       // (n, d) the residual stream before the two norms
    float *q, *o;                // (n, h*hd) with positions; heads' outputs
    float *gate, *up;            // (n, f); where nothing gates, gate is what goes into the activation
    float *block;                // that all of these stand in
} Kept;

struct Gradient {
    const Model *model;
    int64_t window, rows;        // rows of logits held at a time
    Session s;
    Kept *kept;                  // (n_layers)
    float *logits;               // (rows, V)
    double *loss;                // (n) of every token
    float *g[3], *sum;           // (n, d) at the residual stream: behind the layer, before its
                                 // feed-forward part, before the layer; one more term of a sum
    float *x, *ffn;              // (n, d) normed inputs
    float *down;                 // (n, f)
    float *k;                    // (n, n_kv*hd)
    float *gq, *go;              // (n, h*hd) go: at the heads' outputs
    float *gk, *gv;              // (n, n_kv*hd)
    float *gk_head, *gv_head;    // (h, hd, n) one query head's part of gk, gv, transposed
    float *gh, *g_gate, *g_up;   // (n, f) gh: at the input of down
    float *block;                // that g … g_up stand in
};

// =================================================================================================
// Pieces, each on the rows of one token
// =================================================================================================

// y = w x r, r = 1 / sqrt(mean x^2 + eps): g at y becomes g at x, r (w g - x r^2 mean(x w g)).
// LayerNorm does the same to x - mean x, and its gradient has no mean either.
static void norm_back(float *g, const float *x, Norm norm, int64_t n, float eps) {
    double sum = 0, squares = 0, gs = 0, gx = 0;
    for (int64_t i = 0; norm.b && i < n; i++) sum += x[i];
    const float mean = (float)(sum / (double)n);
    for (int64_t i = 0; i < n; i++) {
        g[i] *= norm.w[i];
        squares += (double)(x[i] - mean) * (x[i] - mean);
        gx += (double)g[i] * (x[i] - mean);
        if (norm.b) gs += g[i];
    }
    const float r = (float)(1 / sqrt(squares / (double)n + (double)eps));
    const float along = (float)(gx / (double)n) * r * r, level = (float)(gs / (double)n);
    for (int64_t i = 0; i < n; i++) g[i] = r * (g[i] - level - (x[i] - mean) * along);
}

// model.c's rotate turned back: a rotation's transpose is its inverse. g (heads, hd), position t.
static void rotate_back(const Session *s, float *g, int64_t heads, int64_t t) {
    const Config *c = &s->model->config;
    int64_t pairs = c->rope_dims / 2, next = c->rope_half ? pairs : 1, step = c->rope_half ? 1 : 2;
    for (int64_t h = 0; h < heads; h++) {
        float *p = g + h * c->hd;
        const float *angle = s->angles + t * c->rope_dims;
        for (int64_t j = 0; j < pairs; j++, p += step, angle += 2) {
            float a = p[0], b = p[next];
            p[0] = a * angle[0] + b * angle[1];
            p[next] = b * angle[0] - a * angle[1];
        }
    }
}

// One query over m positions, of which it sees first … last - 1. Scores p become probabilities
// softmax(scale p), the gradient gp at these becomes that at the scores: p (gp - p . gp) scale.
static void softmax_back(float *p, float *gp, int64_t m, int64_t first, int64_t last, float scale) {
    const int64_t n = last - first;
    float *part[2] = {p, gp};
    for (int i = 0; i < 2; i++) {
        memset(part[i], 0, (size_t)first * sizeof *p);
        memset(part[i] + last, 0, (size_t)(m - last) * sizeof *p);
    }
    p += first, gp += first;
    const float sum = exp_sum(p, n, scale, scale * max_of(p, n));
    scale_to(p, 1 / sum, p, n);
    const float mean = dot(p, gp, n);
    for (int64_t i = 0; i < n; i++) gp[i] = p[i] * (gp[i] - mean) * scale;
}

// to (cols, rows) = from (rows, cols), whose rows stand `stride` apart.
static void transpose(float *to, const float *from, int64_t rows, int64_t cols, int64_t stride) {
    enum { SQUARE = 16 };
    for (int64_t r = 0; r < rows; r += SQUARE)
        for (int64_t c = 0; c < cols; c++)
            for (int64_t i = r; i < rows && i < r + SQUARE; i++)
                to[c * rows + i] = from[i * stride + c];
}

// =================================================================================================
// Norms, feed-forward part, loss: parallel over tokens
// =================================================================================================

typedef struct {
    const Gradient *g;
    const float *x;
    Norm norm;
    const float *base;           // the gradient that goes round the sublayer, or NULL
    float *y;                    // (n, d) out: normed x; back: the gradient at it, then at x
} NormJob;

static void norm_forward(const NormJob *j, int64_t n) {
    const Config *c = &j->g->model->config;
    norm_rows(j->y, j->x, j->norm, n, c->d, c->norm_eps);
}

static void norm_back_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const NormJob *j = ctx;
    const Config *c = &j->g->model->config;
    (void)thread;
    for (int64_t i = begin * c->d; i < end * c->d; i += c->d) {
        norm_back(j->y + i, j->x + i, j->norm, c->d, c->norm_eps);
        if (j->base) add(j->y + i, j->base + i, c->d);
    }
}

typedef struct { const Gradient *g; const Kept *kept; } FeedJob;

// down = gate s up, s = 1 / (1 + e^-gate):  g_up = gh gate s,  g_gate = gh up s (1 + gate (1 - s)).
static void swiglu_back_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const FeedJob *j = ctx;
    const int64_t f = j->g->model->config.f;
    (void)thread;
    for (int64_t at = begin * f; at < end * f; at += f) {
        const float *gate = j->kept->gate + at, *up = j->kept->up + at, *gh = j->g->gh + at;
        float *down = j->g->down + at, *g_gate = j->g->g_gate + at, *g_up = j->g->g_up + at;
        memcpy(down, gate, (size_t)f * sizeof *down);
        exp_sum(down, f, -1, 0);                                           // e^-gate
        for (int64_t i = 0; i < f; i++) {
            const float s = 1 / (down[i] + 1), silu = gate[i] * s;
            g_up[i] = gh[i] * silu;
            g_gate[i] = gh[i] * up[i] * s * (1 + gate[i] - silu);
            down[i] = silu * up[i];
        }
    }
}

// The derivative of act(x). tanh's GELU: act = x/2 (1 + tanh u), u = a (x + b x^3).
static double slope(Activation act, double x) {
    const double a = 0.7978845608028654, b = 0.044715;                     // a = sqrt(2 / pi)
    if (act == ACT_SILU) {
        const double s = 1 / (1 + exp(-x));
        return s * (1 + x * (1 - s));
    }
    if (act == ACT_GELU)                                                   // P(x) + x P'(x)
        return (1 + erf(x * sqrt(0.5))) / 2 + x * a / 2 * exp(-x * x / 2);
    const double t = tanh(a * (x + b * x * x * x));
    return (1 + t) / 2 + x / 2 * (1 - t * t) * a * (1 + 3 * b * x * x);
}

// Where nothing gates, down = act(x) of what W_up gave: g_up = gh act'(x).
static void activate_back_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const FeedJob *j = ctx;
    const Config *c = &j->g->model->config;
    (void)thread;
    for (int64_t i = begin * c->f; i < end * c->f; i++) {
        j->g->down[i] = j->kept->gate[i];
        j->g->g_up[i] = j->g->gh[i] * (float)slope(c->act, (double)j->kept->gate[i]);
        j->g->g_gate[i] = 0;
    }
    activate(c->act, j->g->down + begin * c->f, (end - begin) * c->f);
}

typedef struct { const Gradient *g; const int *next; double *loss; } LossJob;

// Of a row of logits: -log p(next), and in their place the gradient at them, p - (1 at next).
static void loss_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const LossJob *j = ctx;
    const int64_t vocab = j->g->model->config.vocab;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        float *row = j->g->logits + i * vocab;
        if (j->g->model->output_bias) add(row, j->g->model->output_bias, vocab);
        const float max = max_of(row, vocab), mine = row[j->next[i]];
        double sum = 0;
        for (int64_t at = 0; at < vocab; at += SUMMED)
            sum += exp_sum(row + at, vocab - at < SUMMED ? vocab - at : SUMMED, 1, max);
        j->loss[i] = log(sum) + (double)max - (double)mine;
        scale_to(row, (float)(1 / sum), row, vocab);
        row[j->next[i]] -= 1;
    }
}

// The loss, and g[0]: its gradient at the last layer's output. The last token predicts nothing.
static double output_back(Gradient *g, const int *ids, int64_t n) {
    const Model *m = g->model;
    const int64_t d = m->config.d;
    double loss = 0;
    for (int64_t at = 0; at < n - 1 && !interrupted; at += g->rows) {
        const int64_t rows = n - 1 - at < g->rows ? n - 1 - at : g->rows;
        NormJob norm = {g, g->s.x + at * d, m->output_norm, NULL, g->x};
        norm_forward(&norm, rows);
        matmul(&g->s.work.scratch, rows, &(Linear){&m->output, g->x, g->logits}, 1);
        parallel_for(rows, 1, loss_part, &(LossJob){g, ids + at + 1, g->loss + at});
        norm.y = g->g[0] + at * d;
        matmul_t(&g->s.work.scratch, g->logits, rows, &m->output, norm.y);
        parallel_for(rows, 16, norm_back_part, &norm);
    }
    memset(g->g[0] + (n - 1) * d, 0, (size_t)d * sizeof **g->g);
    for (int64_t i = 0; i < n - 1; i++) loss += g->loss[i];
    return loss;
}

// g[1] from g[0], and what the sink gets of the feed-forward part. Where both sublayers read one norm
// (parallel), g[1] is the gradient at what is normed, and attention_back goes on from it.
static void ffn_back(Gradient *g, int64_t l, int64_t n) {
    const Layer *w = &g->model->layer[l];
    const Kept *kept = &g->kept[l];
    const Config *c = &g->model->config;
    Scratch *s = &g->s.work.scratch;
    NormJob norm = {g, c->parallel ? kept->x_attn : kept->x_ffn,
                    c->parallel ? w->attn_norm : w->ffn_norm, g->g[0], g->ffn};
    norm_forward(&norm, n);
    matmul_t(s, g->g[0], n, &w->down.w, g->gh);                              // gh = W_down^T g
    parallel_for(n, 4, c->gated ? swiglu_back_part : activate_back_part, &(FeedJob){g, kept});
    matmul_t(s, g->g_up, n, &w->up.w, g->g[1]);
    if (c->gated) {
        matmul_t(s, g->g_gate, n, &w->gate.w, g->sum);
        add(g->g[1], g->sum, n * c->d);
    }
    norm.y = g->g[1];
    if (!c->parallel) parallel_for(n, 16, norm_back_part, &norm);          // g[1] = … + g[0]
}

// =================================================================================================
// Attention: parallel over query heads, then over tokens
// =================================================================================================

typedef struct {
    Gradient *g;
    int64_t layer, n;
    float *room;                 // head_room numbers a thread
} AttentionJob;

static int64_t head_room(const Config *c, int64_t n) { return (5 * c->hd + 2 * QUERIES) * n; }

// One query head: o = P V, P = softmax(q K^T / sqrt(hd)). From go its gq and its part of gk and gv
//   gV = P^T go   gP = go V^T   gS = softmax_back(P, gP)   gq = gS K   gK = gS^T q
// Sums over queries go block by block, in order; nothing is shared with another head.
static void head_back(const AttentionJob *j, int64_t head, float *room) {
    const Gradient *g = j->g;
    const Config *c = &g->model->config;
    const Cache *cache = &g->s.cache[j->layer];
    const int64_t n = j->n, hd = c->hd, wide = c->h * hd, kv = head / (c->h / c->n_kv);
    const float *v = (const float *)cache->v + kv * cache->capacity * hd;
    const float *q_rows = g->kept[j->layer].q + head * hd, *go_rows = g->go + head * hd;
    float *q = room, *go = q + n * hd;                                     // (n, hd)
    float *q_t = go + n * hd, *go_t = q_t + n * hd;                        // (hd, n)
    float *k = go_t + n * hd;                                              // (n, hd)
    float *p = k + n * hd, *gs = p + QUERIES * n;                          // (QUERIES, m)
    float *gq = g->gq + head * hd;
    float *gk = g->gk_head + head * hd * n, *gv = g->gv_head + head * hd * n;
    const float scale = 1 / sqrtf((float)hd);

    cache_keys(cache, kv, 0, n, k);
    for (int64_t t = 0; t < n; t++) {
        memcpy(q + t * hd, q_rows + t * wide, (size_t)hd * sizeof *q);
        memcpy(go + t * hd, go_rows + t * wide, (size_t)hd * sizeof *go);
        memset(gq + t * wide, 0, (size_t)hd * sizeof *gq);
    }
    transpose(q_t, q_rows, n, hd, wide);
    transpose(go_t, go_rows, n, hd, wide);
    memset(gk, 0, (size_t)(hd * n) * sizeof *gk);
    memset(gv, 0, (size_t)(hd * n) * sizeof *gv);

    for (int64_t t = 0; t < n && !interrupted; t += QUERIES) {
        const int64_t rows = n - t < QUERIES ? n - t : QUERIES;            // queries t, t + 1, …
        const int64_t begin = c->window > 0 && t >= c->window ? t + 1 - c->window : 0;
        const int64_t m = t + rows - begin;                                // see m from begin on
        const Mat keys = {k + begin * hd, m, hd, T_F32}, values = {v + begin * hd, m, hd, T_F32};
        matmul_block(&keys, q + t * hd, rows, p, m);
        matmul_block(&values, go + t * hd, rows, gs, m);
        for (int64_t i = 0; i < rows; i++) {
            const int64_t seen = c->window > 0 && t + i >= c->window ? t + i + 1 - c->window : 0;
            softmax_back(p + i * m, gs + i * m, m, seen - begin, t + i + 1 - begin, scale);
        }
        const Mat p_mat = {p, rows, m, T_F32}, gs_mat = {gs, rows, m, T_F32};
        matmul_t_block(&keys, gs, m, rows, gq + t * wide, wide);           // gq += gS K
        matmul_t_block(&gs_mat, q_t + t, n, hd, gk + begin, n);            // gK^T += q^T gS
        matmul_t_block(&p_mat, go_t + t, n, hd, gv + begin, n);            // gV^T += go^T P
    }
}

static void heads_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const AttentionJob *j = ctx;
    for (int64_t i = begin; i < end; i++)
        head_back(j, i, j->room + thread * head_room(&j->g->model->config, j->n));
}

// Adds the parts of a KV head's query heads, and goes on through positions and norms of q and k.
// q and k before their norms stand in the session's q and k.
static void projections_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const AttentionJob *j = ctx;
    const Gradient *g = j->g;
    const Config *c = &g->model->config;
    const Layer *w = &g->model->layer[j->layer];
    const int64_t n = j->n, hd = c->hd, m = c->h / c->n_kv, wide = c->h * hd, narrow = c->n_kv * hd;
    (void)thread;
    for (int64_t i = 0; i < narrow; i++) {                                 // i % hd of a KV head
        const int64_t first = (i / hd * m * hd + i % hd) * n;
        for (int64_t t = begin; t < end; t++) {
            float k = 0, v = 0;
            for (int64_t at = first + t, head = 0; head < m; head++, at += hd * n)
                k += g->gk_head[at], v += g->gv_head[at];
            g->gk[t * narrow + i] = k;
            g->gv[t * narrow + i] = v;
        }
    }
    for (int64_t t = begin; t < end; t++) {
        float *gq = g->gq + t * wide, *gk = g->gk + t * narrow;
        rotate_back(&g->s, gq, c->h, t);
        rotate_back(&g->s, gk, c->n_kv, t);
        for (int64_t i = 0; i < wide && c->qk_norm; i += hd)
            norm_back(gq + i, g->s.q + t * wide + i, w->q_norm, hd, c->norm_eps);
        for (int64_t i = 0; i < narrow && c->qk_norm; i += hd)
            norm_back(gk + i, g->s.k + t * narrow + i, w->k_norm, hd, c->norm_eps);
    }
}

// The gradient at the attention's output: behind the layer, or before its feed-forward part.
static float *attention_g(const Gradient *g) { return g->g[g->model->config.parallel ? 0 : 1]; }

// g[2] from that, and what the sink gets of the attention.
static void attention_back(Gradient *g, int64_t l, int64_t n, float *room) {
    const Config *c = &g->model->config;
    const Layer *w = &g->model->layer[l];
    const Cache *cache = &g->s.cache[l];
    Scratch *s = &g->s.work.scratch;
    NormJob norm = {g, g->kept[l].x_attn, w->attn_norm, attention_g(g), g->x};
    norm_forward(&norm, n);
    if (c->qk_norm) attention_qkv(&w->attn, &g->s.work, cache, g->x, n, g->s.q, g->s.k, g->s.v);
    for (int64_t i = 0; i < c->n_kv; i++)
        for (int64_t t = 0; t < n; t++) cache_keys(cache, i, t, 1, g->k + (t * c->n_kv + i) * c->hd);

    matmul_t(s, attention_g(g), n, &w->attn.w[P_O], g->go);                // go = W_O^T g
    AttentionJob j = {g, l, n, room};
    parallel_for(c->h, 1, heads_part, &j);
    parallel_for(n, 16, projections_part, &j);
    matmul_t(s, g->gq, n, &w->attn.w[P_Q], g->g[2]);
    matmul_t(s, g->gk, n, &w->attn.w[P_K], g->sum);
    add(g->g[2], g->sum, n * c->d);
    matmul_t(s, g->gv, n, &w->attn.w[P_V], g->sum);
    add(g->g[2], g->sum, n * c->d);
    if (c->parallel) add(g->g[2], g->g[1], n * c->d);
    norm.y = g->g[2];
    parallel_for(n, 16, norm_back_part, &norm);                            // g[2] = … + attention_g
}

// =================================================================================================
// One window
// =================================================================================================

static void keep(void *ctx, const Session *s, int64_t layer, Seen at, int64_t n) {
    const Config *c = &s->model->config;
    if (at == SEEN_END) return;                                            // it stays in s->x
    const Kept *k = &((Gradient *)ctx)->kept[layer];
    const int64_t wide = c->h * c->hd;
    const struct { float *to; const float *from; int64_t width; } copy[2][3] = {
        {{k->x_attn, s->x, c->d}, {k->q, s->q, wide}, {k->o, s->o, wide}},
        {{k->x_ffn, s->x, c->d}, {k->gate, s->gate, c->f}, {k->up, s->up, c->f}},
    };
    for (int i = 0; i < (at == SEEN_FFN && !c->gated ? 2 : 3); i++)
        memcpy(copy[at == SEEN_FFN][i].to, copy[at == SEEN_FFN][i].from,
               (size_t)(n * copy[at == SEEN_FFN][i].width) * sizeof(float));
}

int gradient_window(Gradient *g, const int *ids, int64_t n, double *loss, GradientSink *sink,
                    void *ctx, Err *e) {
    const Config *c = &g->model->config;
    if (n < 1 || n > g->window)
        return fail(e, "a window of %lld tokens; there is room for 1 .. %lld", (long long)n,
                    (long long)g->window);
    session_rewind(&g->s, 0);
    if (forward(&g->s, ids, n, e)) return -1;
    float *room = alloc((size_t)threads_get() * (size_t)head_room(c, n), sizeof *room,
                        "attention of a window", e);
    if (!room) return -1;
    *loss = output_back(g, ids, n);
    for (int64_t l = c->n_layers - 1; l >= 0 && !interrupted; l--) {
        const Kept *kept = &g->kept[l];
        ffn_back(g, l, n);
        attention_back(g, l, n, room);
        if (interrupted) break;
        sink(ctx, l, &(LayerGradient){
            .x = g->x, .o = kept->o, .ffn = g->ffn, .down = g->down, .q = kept->q, .k = g->k,
            .gq = g->gq, .gk = g->gk, .gv = g->gv, .go = attention_g(g),
            .g_gate = g->g_gate, .g_up = g->g_up, .g_down = g->g[0]}, n);
        float *before = g->g[2];                                           // behind the next layer
        g->g[2] = g->g[0];
        g->g[0] = before;
    }
    free(room);
    if (interrupted) return fail(e, "interrupted");
    if (!isfinite(*loss)) return fail(e, "the loss of %lld tokens is not finite", (long long)n);
    return 0;
}

typedef struct { float **at; int64_t width; } Array;

// One block for arrays of n rows each. NULL when memory is out.
static float *carve(const Array *a, int count, int64_t n, const char *what, Err *e) {
    size_t width = 0, numbers;
    for (int i = 0; i < count; i++) width += (size_t)a[i].width;
    if (!mul_size(width, (size_t)n, &numbers)) { fail(e, "%s: size overflows", what); return NULL; }
    float *block = alloc(numbers, sizeof *block, what, e), *next = block;
    for (int i = 0; i < count && block; i++) {
        *a[i].at = next;
        next += n * a[i].width;
    }
    return block;
}

Gradient *gradient_new(const Model *m, int64_t window, Err *e) {
    const Config *c = &m->config;
    const int64_t wide = c->h * c->hd, narrow = c->n_kv * c->hd;
    if (calib_supported(c, WANT_FISHER, e)) return NULL;
    for (int64_t l = 0; l < c->n_layers; l++) {
        const Layer *w = &m->layer[l];
        if (w->attn.n_groups || w->gate.a.rows || w->up.a.rows || w->down.a.rows) {
            fail(e, "layer %lld: its %s is on factors; gradients are taken of dense models only",
                 (long long)l, w->attn.n_groups ? "attention" : "feed-forward part");
            return NULL;
        }
    }
    Gradient *g = alloc(1, sizeof *g, "a backward pass", e);
    if (!g) return NULL;
    g->model = m;
    g->window = window;
    g->rows = LOGITS / c->vocab < window ? LOGITS / c->vocab : window;
    if (g->rows > 24) g->rows -= g->rows % 24;                             // whole tiles of kernels
    if (g->rows < 1) g->rows = 1;
    SessionConfig sc = {window, window, T_F32, CACHE_DENSE, false};
    if (session_init(&g->s, m, sc, e)) {
        free(g);
        return NULL;
    }
    g->s.observer = keep;
    g->s.observer_ctx = g;
    const Array work[] = {
        {&g->g[0], c->d}, {&g->g[1], c->d}, {&g->g[2], c->d}, {&g->sum, c->d}, {&g->x, c->d},
        {&g->ffn, c->d}, {&g->down, c->f}, {&g->k, narrow}, {&g->gq, wide}, {&g->go, wide},
        {&g->gk, narrow}, {&g->gv, narrow}, {&g->gk_head, wide}, {&g->gv_head, wide},
        {&g->gh, c->f}, {&g->g_gate, c->f}, {&g->g_up, c->f},
    };
    if (!(g->block = carve(work, sizeof work / sizeof *work, window, "gradients", e)) ||
        !(g->logits = carve(&(Array){&g->logits, c->vocab}, 1, g->rows, "logits", e)) ||
        !(g->loss = alloc((size_t)window, sizeof *g->loss, "losses", e)) ||
        !(g->kept = alloc((size_t)c->n_layers, sizeof *g->kept, "layers", e)))
        goto failed;
    for (int64_t l = 0; l < c->n_layers; l++) {
        Kept *k = &g->kept[l];
        const Array arrays[] = {{&k->x_attn, c->d}, {&k->x_ffn, c->d}, {&k->q, wide}, {&k->o, wide},
                                {&k->gate, c->f}, {&k->up, c->gated ? c->f : 0}};
        if (!(k->block = carve(arrays, sizeof arrays / sizeof *arrays, window, "activations", e)))
            goto failed;
    }
    return g;
failed:
    gradient_free(g);
    return NULL;
}

void gradient_free(Gradient *g) {
    if (!g) return;
    for (int64_t l = 0; g->kept && l < g->model->config.n_layers; l++) free(g->kept[l].block);
    free(g->kept);
    free(g->logits);
    free(g->loss);
    free(g->block);
    session_free(&g->s);
    free(g);
}
