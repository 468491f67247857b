// gradient: every gradient of every layer against central differences of the loss (which a naive
// model in double precision defines), the inputs against what the forward pass shows, and windows,
// threads, stored types, refusals.
#include "../export/calibrate.h"
#include "rig.h"

enum { N = 45, LAYERS = 2, VIEWS = 13 };       // N: more than the queries of one block
enum { X, O, FFN, DOWN, Q, K, GQ, GK, GV, GO, G_GATE, G_UP, G_DOWN };

// window, rope_dims and act are not in a rig's file: they are set behind its binding, 0: as bound.
typedef struct { const char *name; Rig rig; int64_t window, rope_dims; Activation act; } Case;
static const Case cases[] = {
    {"MHA, interleaved",
     {"llama", NULL, 24, 4, 4, 6, 40, 61, LAYERS, 64, false, false, false, 0, T_F32, 1}, 0, 0, 0},
    {"GQA, rope factors",
     {"llama", NULL, 24, 6, 2, 8, 32, 61, LAYERS, 64, false, true, true, 0, T_F32, 2}, 0, 0, 0},
    {"biases, linear",
     {"qwen2", NULL, 20, 4, 2, 10, 32, 61, LAYERS, 64, true, false, false, 4, T_F32, 3}, 0, 0, 0},
    {"MQA, norms",
     {"qwen3", NULL, 24, 4, 1, 12, 32, 61, LAYERS, 64, false, true, false, 0, T_F32, 4}, 0, 0, 0},
    {"norms and biases",
     {"qwen3", NULL, 24, 4, 2, 12, 32, 61, LAYERS, 64, true, false, false, 0, T_F32, 5}, 0, 0, 0},
    {"half",
     {"llama", "half", 18, 3, 3, 6, 32, 61, LAYERS, 64, true, false, false, 0, T_F32, 6}, 0, 0, 0},
    {"part of a head",
     {"llama", NULL, 24, 4, 2, 12, 32, 61, LAYERS, 64, false, true, true, 0, T_F32, 7}, 0, 6, 0},
    {"part of a head, half",
     {"qwen3", NULL, 24, 4, 2, 12, 32, 61, LAYERS, 64, false, true, false, 0, T_F32, 8}, 0, 6, 0},
    {"sliding window",
     {"llama", NULL, 24, 4, 2, 6, 32, 61, LAYERS, 64, false, true, false, 0, T_F32, 9}, 5, 0, 0},
    {"window of two",
     {"qwen2", NULL, 24, 4, 4, 6, 32, 61, LAYERS, 64, true, true, false, 0, T_F32, 10}, 2, 0, 0},
    {"wide window",
     {"llama", NULL, 24, 4, 2, 6, 32, 61, LAYERS, 64, false, true, false, 0, T_F32, 11}, 40, 0, 0},
    {"GPT-2: LayerNorm, learned positions, biases, GELU by tanh",
     {"gpt2", NULL, 24, 4, 4, 6, 40, 61, LAYERS, 64, false, true, false, 0, T_F32, 12}, 0, 0, 0},
    {"GPT-J: two sublayers on one norm, part of a head rotated",
     {"gptj", NULL, 24, 3, 3, 8, 40, 61, LAYERS, 64, false, false, false, 0, T_F32, 13}, 0, 0, 0},
    {"exact GELU",
     {"gpt2", NULL, 24, 4, 4, 6, 40, 61, LAYERS, 64, false, true, false, 0, T_F32, 14}, 0, 0, ACT_GELU},
};

static int build(RigModel *r, const Case *c, Err *e) {
    if (rig_build(r, &c->rig, NULL, e)) return -1;
    if (c->window) r->m.config.window = c->window;
    if (c->rope_dims) r->m.config.rope_dims = c->rope_dims;
    if (c->act) r->m.config.act = c->act;
    return 0;
}

static const int *some_ids(int64_t vocab, uint64_t seed) {
    static int ids[N + 1];
    for (int i = 0; i <= N; i++) ids[i] = (int)(random_u64(&seed) % (uint64_t)vocab);
    return ids;
}

// ---- what a sink sees, copied -------------------------------------------------------------------

typedef struct {
    const Config *c;
    float *view[LAYERS][VIEWS];
    int64_t n, calls;
    bool ordered;                        // last layer first
    double loss;
} Copy;

static int64_t width_of(const Config *c, int view) {
    const int64_t wide = c->h * c->hd, narrow = c->n_kv * c->hd;
    const int64_t width[VIEWS] = {c->d, wide, c->d, c->f, wide, narrow, wide, narrow, narrow, c->d,
                                  c->f, c->f, c->d};
    return width[view];
}

static void copy_layer(void *ctx, int64_t layer, const LayerGradient *g, int64_t n) {
    Copy *c = ctx;
    const float *from[VIEWS] = {g->x, g->o, g->ffn, g->down, g->q, g->k, g->gq, g->gk, g->gv, g->go,
                                g->g_gate, g->g_up, g->g_down};
    c->ordered = (c->calls == 0 || c->ordered) && layer == c->c->n_layers - 1 - c->calls;
    c->calls++;
    c->n = n;
    for (int i = 0; i < VIEWS; i++) {
        const size_t size = (size_t)(n * width_of(c->c, i)) * sizeof(float);
        free(c->view[layer][i]);
        memcpy(c->view[layer][i] = malloc(size), from[i], size);
    }
}

static void copy_free(Copy *c) {
    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < VIEWS; i++) free(c->view[l][i]);
    memset(c, 0, sizeof *c);
}

static int copy_window(Copy *c, Gradient *g, const Model *m, const int *ids, int64_t n, Err *e) {
    memset(c, 0, sizeof *c);
    c->c = &m->config;
    return gradient_window(g, ids, n, &c->loss, copy_layer, c, e);
}

// One window with a backward pass of its own.
static int copy_of(Copy *c, const Model *m, const int *ids, int64_t n, Err *e) {
    memset(c, 0, sizeof *c);
    Gradient *g = gradient_new(m, n, e);
    const int status = g ? copy_window(c, g, m, ids, n, e) : -1;
    gradient_free(g);
    return status;
}

static bool same_bits(const Copy *a, const Copy *b) {
    bool same = a->loss == b->loss && a->n == b->n && a->calls == b->calls;
    for (int64_t l = 0; same && l < a->c->n_layers; l++)
        for (int i = 0; i < VIEWS; i++)
            same &= !memcmp(a->view[l][i], b->view[l][i],
                            (size_t)(a->n * width_of(a->c, i)) * sizeof(float));
    return same;
}

// ---- the definition of the loss, and its differences --------------------------------------------
// In double precision and loops, one matrix moved along a direction: W + by * step.

typedef struct { const Mat *w; const float *step; double by; } Move;

static void times(const Move *move, const Mat *w, const float *bias, const double *x, double *y) {
    const float *numbers = w->data;
    for (int64_t r = 0; r < w->rows; r++) {
        y[r] = bias ? (double)bias[r] : 0;
        for (int64_t i = r * w->cols; i < (r + 1) * w->cols; i++)
            y[r] += ((double)numbers[i] + (w == move->w ? move->by * move->step[i] : 0)) *
                    x[i - r * w->cols];
    }
}

static void norm(double *y, const double *x, Norm w, int64_t n, float eps) {
    double mean = 0, sum = 0;
    for (int64_t i = 0; w.b && i < n; i++) mean += x[i] / (double)n;
    for (int64_t i = 0; i < n; i++) sum += (x[i] - mean) * (x[i] - mean);
    const double r = 1 / sqrt(sum / (double)n + (double)eps);
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * r * (double)w.w[i] + (w.b ? (double)w.b[i] : 0);
}

static double act(Activation a, double x) {
    if (a == ACT_SILU) return x / (1 + exp(-x));
    if (a == ACT_GELU) return x * erfc(-x / sqrt(2)) / 2;
    return x / 2 * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
}

// The norm of every head of x (heads, hd), where there is one, and its rotation to position t.
static void place(const Model *m, double *x, int64_t heads, Norm w, int64_t t) {
    const Config *c = &m->config;
    const int64_t pairs = c->rope_dims / 2;
    for (double *p = x; p < x + heads * c->hd; p += c->hd) {
        if (w.w) norm(p, p, w, c->hd, c->norm_eps);
        for (int64_t i = 0; i < pairs; i++) {
            const double factor = m->rope_factors ? (double)m->rope_factors[i] : 1;
            const double angle = (double)t / c->rope_scale / factor *
                                 pow(c->rope_base, -2.0 * (double)i / (double)c->rope_dims);
            double *a = p + (c->rope_half ? i : 2 * i), *b = a + (c->rope_half ? pairs : 1);
            const double turned = *a * cos(angle) - *b * sin(angle);
            *b = *a * sin(angle) + *b * cos(angle);
            *a = turned;
        }
    }
}

// o (hd) of one head at position t: q (hd), and k, v of its KV head, positions ld numbers apart.
static void attend_to(const Config *c, const double *q, const double *k, const double *v,
                      int64_t ld, int64_t t, double *o) {
    double score[N], sum = 0;
    memset(o, 0, (size_t)c->hd * sizeof *o);
    for (int64_t u = c->window && t >= c->window ? t + 1 - c->window : 0; u <= t; u++) {
        score[u] = 0;
        for (int64_t i = 0; i < c->hd; i++) score[u] += q[i] * k[u * ld + i];
        score[u] = exp(score[u] / sqrt((double)c->hd));
        sum += score[u];
        for (int64_t i = 0; i < c->hd; i++) o[i] += score[u] * v[u * ld + i];
    }
    for (int64_t i = 0; i < c->hd; i++) o[i] /= sum;
}

static double loss_of(const Model *m, const int *ids, Move move) {
    const Config *c = &m->config;
    const int64_t d = c->d, wide = c->h * c->hd, narrow = c->n_kv * c->hd, f = c->f;
    const int64_t sizes = (N + 2) * d + 2 * N * narrow + 2 * wide + 2 * f + c->vocab;
    double *x = calloc((size_t)sizes, sizeof *x), *xn = x + N * d, *y = xn + d;
    double *k = y + d, *v = k + N * narrow, *q = v + N * narrow, *o = q + wide;
    double *gate = o + wide, *up = gate + f, *logit = up + f, loss = 0;
    const float *embedding = m->embedding.data;
    for (int64_t t = 0; t < N; t++)
        for (int64_t i = 0; i < d; i++)
            x[t * d + i] = (double)embedding[ids[t] * d + i] +
                           (m->positions.rows ? (double)((const float *)m->positions.data)[t * d + i] : 0);
    for (int64_t l = 0; l < c->n_layers; l++) {
        const Layer *w = &m->layer[l];
        const Attention *a = &w->attn;
        for (int64_t t = 0; t < N; t++) {
            double *at = x + t * d, *kt = k + t * narrow;
            norm(xn, at, w->attn_norm, d, c->norm_eps);
            times(&move, &a->w[P_Q], a->bias[P_Q], xn, q);
            times(&move, &a->w[P_K], a->bias[P_K], xn, kt);
            times(&move, &a->w[P_V], a->bias[P_V], xn, v + t * narrow);
            place(m, q, c->h, w->q_norm, t);
            place(m, kt, c->n_kv, w->k_norm, t);
            for (int64_t i = 0; i < c->h; i++) {
                const int64_t kv = i / (c->h / c->n_kv) * c->hd;
                attend_to(c, q + i * c->hd, k + kv, v + kv, narrow, t, o + i * c->hd);
            }
            times(&move, &a->w[P_O], a->bias[P_O], o, y);
            for (int64_t i = 0; i < d; i++) at[i] += y[i];
            if (!c->parallel) norm(xn, at, w->ffn_norm, d, c->norm_eps);
            times(&move, &w->up.w, w->up.bias, xn, up);
            if (c->gated) times(&move, &w->gate.w, NULL, xn, gate);
            for (int64_t i = 0; i < f; i++)
                gate[i] = c->gated ? act(ACT_SILU, gate[i]) * up[i] : act(c->act, up[i]);
            times(&move, &w->down.w, w->down.bias, gate, y);
            for (int64_t i = 0; i < d; i++) at[i] += y[i];
        }
    }
    for (int64_t t = 0; t + 1 < N; t++) {
        double sum = 0;
        norm(xn, x + t * d, m->output_norm, d, c->norm_eps);
        times(&move, &m->output, m->output_bias, xn, logit);
        for (int64_t i = 0; i < c->vocab; i++) sum += exp(logit[i]);
        loss += log(sum) - logit[ids[t + 1]];
    }
    free(x);
    return loss;
}

// G (rows, cols) = sum over tokens of g_t x_t^T: the gradient of a matrix by its definition.
static void gradient_of(const Copy *c, int64_t l, int in, int out, double *sum) {
    const int64_t cols = width_of(c->c, in), rows = width_of(c->c, out);
    const float *x = c->view[l][in], *g = c->view[l][out];
    memset(sum, 0, (size_t)(rows * cols) * sizeof *sum);
    for (int64_t t = 0; t < c->n; t++)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < cols; i++)
                sum[r * cols + i] += (double)g[t * rows + r] * x[t * cols + i];
}

// The loss's slope along two directions in the space of one of the seven matrices: one at random,
// and one at random among those that climb, where every step has its gradient's sign and no error
// of one entry hides behind the others.
static int check_matrix(const Case *of, const Model *m, const Copy *c, int64_t l, int which,
                        const int *ids, double tolerance) {
    static const char *const names[] = {"W_Q", "W_K", "W_V", "W_O", "gate", "up", "down"};
    static const int in[] = {X, X, X, O, FFN, FFN, DOWN};
    static const int out[] = {GQ, GK, GV, GO, G_GATE, G_UP, G_DOWN};
    const Layer *w = &m->layer[l];
    const Mat *mats[] = {&w->attn.w[0], &w->attn.w[1], &w->attn.w[2], &w->attn.w[3], &w->gate.w,
                         &w->up.w, &w->down.w};
    const Mat *mat = mats[which];
    const int64_t size = mat->rows * mat->cols;
    double *g = calloc((size_t)size, sizeof *g), got[2], want[2], scale[2] = {0, 0};
    float *step = calloc((size_t)size, sizeof *step);
    uint64_t seed = (uint64_t)(100 * l + which);
    gradient_of(c, l, in[which], out[which], g);
    for (int climb = 0; climb < 2; climb++) {
        double squares = 0;
        got[climb] = 0;
        for (int64_t i = 0; i < size; i++) {
            step[i] = climb ? random_f32(&seed) * (g[i] < 0 ? -1 : 1) : rig_normal(&seed);
            got[climb] += step[i] * g[i];
            squares += g[i] * g[i];
        }
        scale[climb] = climb ? got[climb] : sqrt(squares);
        const double h = 1e-5 / scale[climb];
        want[climb] = loss_of(m, ids, (Move){mat, step, h}) / (2 * h) -
                      loss_of(m, ids, (Move){mat, step, -h}) / (2 * h);
    }
    free(g);
    free(step);
    for (int i = 0; i < 2; i++)
        CHECK(fabs(got[i] - want[i]) < tolerance * scale[i],
              "%s, layer %d, %s, direction %d: %.8g, by differences %.8g, scale %g", of->name,
              (int)l, names[which], i, got[i], want[i], scale[i]);
    return PASS;
}

static int gradients_are_slopes(void) {
    for (int i = 0; i < COUNT(cases); i++) {
        RigModel r;
        Copy c;
        Err e = {""};
        CHECK(build(&r, &cases[i], &e) == 0, "%s: %s", cases[i].name, e.msg);
        const int *ids = some_ids(r.m.config.vocab, 1);
        CHECK(copy_of(&c, &r.m, ids, N, &e) == 0, "%s: %s", cases[i].name, e.msg);
        CHECK(c.calls == LAYERS && c.ordered && c.n == N, "%s: %d calls", cases[i].name,
              (int)c.calls);
        const double want = loss_of(&r.m, ids, (Move){0});
        CHECK(fabs(c.loss - want) < 1e-6 * want, "%s: loss %.9g, %.9g", cases[i].name, c.loss,
              want);
        for (int64_t l = 0; l < LAYERS; l++)
            for (int which = 0; which < 7; which++)
                if ((which != 4 || r.m.config.gated) &&
                    check_matrix(&cases[i], &r.m, &c, l, which, ids, 3e-5) != PASS) return FAIL;
        copy_free(&c);
        rig_free(&r);
    }
    return PASS;
}

// More logits than are held at a time. A product sums all rows of the output as floats.
static int logits_come_in_blocks(void) {
    const Case big = {
        "large vocabulary",
        {"llama", NULL, 8, 2, 1, 4, 8, 130000, 1, 64, false, true, false, 0, T_F32, 21}, 0, 0, 0};
    RigModel r;
    Copy c;
    Err e = {""};
    CHECK(build(&r, &big, &e) == 0, "%s", e.msg);
    const int *ids = some_ids(r.m.config.vocab, 2);
    CHECK(copy_of(&c, &r.m, ids, N, &e) == 0, "%s", e.msg);
    const double want = loss_of(&r.m, ids, (Move){0});
    CHECK(fabs(c.loss - want) < 1e-6 * want, "loss %.9g, %.9g", c.loss, want);
    if (check_matrix(&big, &r.m, &c, 0, 6, ids, 2e-4) != PASS) return FAIL;
    copy_free(&c);
    rig_free(&r);
    return PASS;
}

// ---- inputs -------------------------------------------------------------------------------------

static void observe_layer(void *ctx, const Session *s, int64_t layer, Seen at, int64_t n) {
    Copy *c = ctx;
    const float *of[2][4] = {{s->xn, s->o, s->q, s->k}, {s->xn, s->gate}};
    static const int view[2][4] = {{X, O, Q, K}, {FFN, DOWN}};
    if (at == SEEN_END) return;
    for (int i = 0; i < (at == SEEN_FFN ? 2 : 4); i++) {
        const int64_t numbers = n * width_of(c->c, view[at][i]);
        float *to = c->view[layer][view[at][i]] = malloc((size_t)numbers * sizeof *to);
        memcpy(to, of[at][i], (size_t)numbers * sizeof *to);
        if (view[at][i] != DOWN) continue;
        if (c->c->gated) swiglu(to, s->up, numbers);
        else activate(c->c->act, to, numbers);
    }
}

static double loss_of_logits(const Model *m, const int *ids) {
    Err e;
    const int64_t vocab = m->config.vocab;
    float *all = rig_logits(m, (SessionConfig){N, 8, T_F32, CACHE_DENSE, false}, ids, N, &e);
    double loss = 0;
    for (int64_t t = 0; all && t + 1 < N; t++) {
        double sum = 0;
        for (int64_t i = 0; i < vocab; i++) sum += exp((double)all[t * vocab + i]);
        loss += log(sum) - (double)all[t * vocab + ids[t + 1]];
    }
    free(all);
    return loss;
}

static int inputs_are_the_forward_pass(void) {
    for (int i = 0; i < COUNT(cases); i++) {
        RigModel r;
        Session s;
        Copy c, seen = {0};
        Err e = {""};
        CHECK(build(&r, &cases[i], &e) == 0, "%s", e.msg);
        const int *ids = some_ids(r.m.config.vocab, 3);
        CHECK(copy_of(&c, &r.m, ids, N, &e) == 0, "%s", e.msg);
        const SessionConfig sc = {N, N, T_F32, CACHE_DENSE, false};
        CHECK(session_init(&s, &r.m, sc, &e) == 0, "%s", e.msg);
        seen.c = &r.m.config;
        s.observer = observe_layer;
        s.observer_ctx = &seen;
        CHECK(forward(&s, ids, N, &e) == 0, "%s", e.msg);
        const double want = loss_of_logits(&r.m, ids);
        CHECK(fabs(c.loss - want) < 1e-6 * want, "%s: loss %.9g, %.9g", cases[i].name, c.loss,
              want);
        for (int l = 0; l < LAYERS; l++)
            for (int view = X; view <= K; view++) {
                const double diff = rig_difference(c.view[l][view], seen.view[l][view],
                                                   N * width_of(&r.m.config, view));
                CHECK(diff <= (view == DOWN ? 1e-6 : 0), "%s, layer %d, view %d: %g",
                      cases[i].name, l, view, diff);
            }
        session_free(&s);
        copy_free(&c);
        copy_free(&seen);
        rig_free(&r);
    }
    return PASS;
}

// ---- windows, threads, types --------------------------------------------------------------------

// Nothing of a window stays for the next, and a shorter one is as good as one of its own size.
static int windows_stand_alone(void) {
    for (int i = 0; i < COUNT(cases); i++) {
        RigModel r;
        Copy first, again, alone;
        Err e = {""};
        CHECK(build(&r, &cases[i], &e) == 0, "%s", e.msg);
        const int *ids = some_ids(r.m.config.vocab, 4);
        Gradient *g = gradient_new(&r.m, N, &e);
        CHECK(g, "%s", e.msg);
        CHECK(copy_window(&first, g, &r.m, ids, N, &e) == 0, "%s", e.msg);
        copy_free(&first);
        for (int n = 1; n < N; n += 17) {
            CHECK(copy_window(&again, g, &r.m, ids + 1, n, &e) == 0, "%s", e.msg);
            CHECK(copy_of(&alone, &r.m, ids + 1, n, &e) == 0, "%s", e.msg);
            CHECK(same_bits(&again, &alone), "%s: %d tokens behind %d", cases[i].name, n, N);
            for (int l = 0; l < LAYERS && n == 1; l++)         // a token alone predicts nothing
                for (int view = GQ; view < VIEWS; view++)
                    for (int64_t k = 0; k < width_of(&r.m.config, view); k++)
                        CHECK(again.loss == 0 && again.view[l][view][k] == 0, "%s: view %d",
                              cases[i].name, view);
            copy_free(&again);
            copy_free(&alone);
        }
        gradient_free(g);
        rig_free(&r);
    }
    return PASS;
}

static const int types[] = {T_F32, T_F16, T_BF16, T_Q8_0, T_Q4_0, T_Q4_1};
static const Rig blocks = {"qwen3", NULL, 64, 6, 3, 32, 96, 301, LAYERS, 64, false, false, false, 0,
                           T_F32, 31};

static int same_bits_for_any_threads(void) {
    const int before = threads_get();
    for (int type = 0; type < COUNT(types); type++) {
        RigModel r;
        Rig rig = blocks;
        Copy one, three;
        Err e = {""};
        rig.type = types[type];
        CHECK(rig_build(&r, &rig, NULL, &e) == 0, "%s", e.msg);
        const int *ids = some_ids(rig.vocab, 5);
        Gradient *g = gradient_new(&r.m, N, &e);
        CHECK(g, "%s", e.msg);
        threads_set(1);
        CHECK(copy_window(&one, g, &r.m, ids, N, &e) == 0, "%s", e.msg);
        threads_set(3);
        CHECK(copy_window(&three, g, &r.m, ids, N, &e) == 0, "%s", e.msg);
        threads_set(before);
        CHECK(same_bits(&one, &three), "weights of %s", type_info(types[type])->name);
        copy_free(&one);
        copy_free(&three);
        gradient_free(g);
        rig_free(&r);
    }
    return PASS;
}

static void unpack(RigModel *r, Mat *w) {
    float *to = rig_floats(r, w->rows * w->cols);
    for (int64_t i = 0; i < w->rows; i++) mat_row(w, i, to + i * w->cols);
    *w = (Mat){to, w->rows, w->cols, T_F32};
}

// Weights of any type against the same numbers as F32.
static int stored_types_agree(void) {
    for (int type = 1; type < COUNT(types); type++) {
        RigModel r;
        Rig rig = blocks;
        Copy stored, plain;
        Err e = {""};
        rig.type = types[type];
        CHECK(rig_build(&r, &rig, NULL, &e) == 0, "%s", e.msg);
        const int *ids = some_ids(rig.vocab, 6);
        CHECK(copy_of(&stored, &r.m, ids, N, &e) == 0, "%s", e.msg);
        unpack(&r, &r.m.embedding);
        unpack(&r, &r.m.output);
        for (int l = 0; l < LAYERS; l++) {
            Layer *w = &r.m.layer[l];
            for (int p = 0; p < 4; p++) unpack(&r, &w->attn.w[p]);
            unpack(&r, &w->gate.w);
            unpack(&r, &w->up.w);
            unpack(&r, &w->down.w);
        }
        CHECK(copy_of(&plain, &r.m, ids, N, &e) == 0, "%s", e.msg);
        for (int l = 0; l < LAYERS; l++)
            for (int view = 0; view < VIEWS; view++) {
                const double diff = rig_difference(stored.view[l][view], plain.view[l][view],
                                                   N * width_of(&r.m.config, view));
                CHECK(diff < 1e-3, "%s, layer %d, view %d: %g", type_info(types[type])->name, l,
                      view, diff);
            }
        copy_free(&stored);
        copy_free(&plain);
        rig_free(&r);
    }
    return PASS;
}

// ---- refusals -----------------------------------------------------------------------------------

static int what_is_refused(void) {
    RigModel r, tucker;
    Copy c = {0};
    double loss;
    Err e = {""};
    CHECK(rig_build(&r, &cases[0].rig, NULL, &e) == 0, "%s", e.msg);
    CHECK(rig_build(&tucker, &cases[0].rig, &(RigTucker){.scheme = "qk"}, &e) == 0, "%s", e.msg);
    CHECK(!gradient_new(&tucker.m, N, &e) && strstr(e.msg, "attention is on factors"), "%s", e.msg);
    CHECK(!gradient_new(&r.m, 65, &e) && strstr(e.msg, "65"), "%s", e.msg);
    CHECK(!gradient_new(&r.m, 0, &e), "no window");
    r.m.layer[1].up.a.rows = 3;
    CHECK(!gradient_new(&r.m, N, &e) && strstr(e.msg, "layer 1: its feed-forward"), "%s", e.msg);
    r.m.layer[1].up.a.rows = 0;

    Gradient *g = gradient_new(&r.m, N, &e);
    CHECK(g, "%s", e.msg);
    const int *ids = some_ids(r.m.config.vocab, 7), bad[2] = {1, 61};
    c.c = &r.m.config;
    CHECK(gradient_window(g, ids, N + 1, &loss, copy_layer, &c, &e), "a token too many");
    CHECK(strstr(e.msg, "46 tokens"), "%s", e.msg);
    CHECK(gradient_window(g, ids, 0, &loss, copy_layer, &c, &e), "no token");
    CHECK(gradient_window(g, bad, 2, &loss, copy_layer, &c, &e), "no such token");
    CHECK(strstr(e.msg, "token 61"), "%s", e.msg);
    interrupted = 1;
    const int status = gradient_window(g, ids, N, &loss, copy_layer, &c, &e);
    interrupted = 0;
    CHECK(status && !strcmp(e.msg, "interrupted") && c.calls == 0, "%s", e.msg);
    CHECK(gradient_window(g, ids, N, &loss, copy_layer, &c, &e) == 0, "%s", e.msg);
    CHECK(c.calls == LAYERS, "%d calls", (int)c.calls);
    copy_free(&c);
    gradient_free(g);
    gradient_free(NULL);
    rig_free(&r);
    rig_free(&tucker);
    return PASS;
}

static const Test tests[] = {
    {"gradients are slopes", gradients_are_slopes},
    {"logits come in blocks", logits_come_in_blocks},
    {"inputs are the forward pass", inputs_are_the_forward_pass},
    {"windows stand alone", windows_stand_alone},
    {"same bits for any threads", same_bits_for_any_threads},
    {"stored types agree", stored_types_agree},
    {"what is refused", what_is_refused},
};

int main(int argc, char **argv) { return run_tests("gradient", tests, COUNT(tests), argc, argv); }
