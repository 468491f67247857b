// refit: against the normal equations by elimination, and at the ends of its settings.
#include "../export/refit.h"
#include "../core/kernels.h"
#include "../export/verify.h"
#include "rig.h"

enum { D = 48, F = 112, LAYERS = 3, CONTEXT = 640 };
static const Rig rig = {"llama", NULL, D, 4, 2, 12, F, 97, LAYERS, CONTEXT, false, false, false, 0, T_F32, 1};
static const Rig blocks = {"qwen2", NULL, 64, 4, 2, 16, 128, 97, 2, 64, true, true, false, 0, T_Q8_0, 2};
static const RigTucker cut = {.scheme = "qkv+o", .r_embd = 20, .r_head = 8};
static const RigTucker cut_blocks = {.scheme = "qkv+o", .r_embd = 32};
static Err err;

// Dense and compressed, and a text that the dense one wrote.
typedef struct { RigModel dense, small; CalibText t; float *down[LAYERS]; } Bench;

static int write_text(CalibText *t, const Model *m, int64_t count, int64_t window) {
    Session s;
    Sampler pick;
    SamplerConfig draw = {.temp = 1, .top_p = 1, .repeat_penalty = 1};
    *t = (CalibText){.ids = calloc((size_t)(count * window), sizeof(int)), .count = count, .window = window};
    if (session_init(&s, m, (SessionConfig){window, 1, T_F32, CACHE_DENSE, false}, &err)) return -1;
    if (sampler_init(&pick, m->config.vocab, draw, &err)) return -1;
    pick.state = 5;
    for (int64_t i = 0; i < count; i++) {
        session_rewind(&s, 0);
        int *ids = t->ids + i * window;
        ids[0] = (int)(i % m->config.vocab);
        for (int64_t j = 1; j < window; j++) {
            if (forward(&s, ids + j - 1, 1, &err)) return -1;
            ids[j] = sampler_pick(&pick, logits(&s, 0, 1));
        }
    }
    sampler_free(&pick);
    session_free(&s);
    return 0;
}

static int bench_make(Bench *b, const Rig *r, const RigTucker *t, int64_t count, int64_t window) {
    memset(b, 0, sizeof *b);
    err.msg[0] = 0;
    return rig_build(&b->dense, r, NULL, &err) || rig_build(&b->small, r, t, &err) ||
           write_text(&b->t, &b->dense.m, count, window) ? -1 : 0;
}

static void down_free(float **down) {
    for (int i = 0; i < LAYERS; i++) { free(down[i]); down[i] = NULL; }
}

static void bench_free(Bench *b) {
    down_free(b->down);
    rig_free(&b->dense);
    rig_free(&b->small);
    calib_free(&b->t);
}

static int refit(Bench *b, double ridge, double feedback, int type) {
    down_free(b->down);
    return refit_down(&b->dense.m, &b->small.m, &b->t, (RefitOptions){ridge, feedback, type}, b->down, NULL,
                      NULL, &err);
}

// The model with the first `n` of the new W_down, rounded to type, in place; layers and numbers are
// freed by swapped_free.
static Model swapped(const Model *m, float *const *down, int64_t n, int type) {
    const int64_t d = m->config.d, f = m->config.f;
    Model out = *m;
    size_t size = 0;
    row_size(type, f, &size);
    out.layer = calloc((size_t)m->config.n_layers, sizeof(Layer));
    memcpy(out.layer, m->layer, (size_t)m->config.n_layers * sizeof(Layer));
    for (int64_t l = 0; l < n; l++) {
        if (!down[l]) continue;
        uint8_t *rows = calloc((size_t)d, size);
        for (int64_t i = 0; i < d; i++) quantize_row(type, down[l] + i * f, rows + (size_t)i * size, f);
        out.layer[l].down.w = (Mat){rows, d, f, type};
    }
    return out;
}

static void swapped_free(Model *m, float *const *down, int64_t n) {
    for (int64_t l = 0; l < n; l++) if (down[l]) free((void *)(uintptr_t)m->layer[l].down.w.data);
    free(m->layer);
}

// What a forward pass of the whole model shows of one layer's feed-forward: x behind attention, h.
typedef struct { int64_t layer; double *x, *h; } Look;
static void look(void *ctx, const Session *s, int64_t layer, Seen at, int64_t n) {
    const Look *k = ctx;
    const Config *c = &s->model->config;
    if (at != SEEN_FFN || layer != k->layer) return;
    for (int64_t i = 0; i < n * c->d; i++) k->x[i] = s->x[i];
    for (int64_t i = 0; i < n * c->f; i++) {
        double gate = s->gate[i];
        k->h[i] = gate / (1 + exp(-gate)) * s->up[i];
    }
}

static int look_at(const Model *m, const int *ids, int64_t n, int64_t layer, double *x, double *h) {
    Session s;
    Look k = {layer, x, h};
    if (session_init(&s, m, (SessionConfig){n, n, T_F32, CACHE_DENSE, false}, &err)) return -1;
    s.observer = look;
    s.observer_ctx = &k;
    int status = forward(&s, ids, n, &err);
    session_free(&s);
    return status;
}

// b (m, n) <- b a^-1, a (n, n), both destroyed: elimination of the columns of a^T with pivots.
static void eliminate(double *a, double *b, int64_t n, int64_t m) {
    for (int64_t k = 0; k < n; k++) {
        int64_t p = k;
        for (int64_t j = k; j < n; j++) if (fabs(a[k * n + j]) > fabs(a[k * n + p])) p = j;
        for (int64_t i = 0; i < n + m; i++) {
            double *row = i < n ? a + i * n : b + (i - n) * n, t = row[k];
            row[k] = row[p];
            row[p] = t;
        }
        for (int64_t j = 0; j < n; j++) {
            const double by = a[k * n + j] / a[k * n + k];
            for (int64_t i = k; i < n + m && j != k && by != 0; i++) {
                double *row = i < n ? a + i * n : b + (i - n) * n;
                row[j] -= by * row[k];
            }
        }
        for (int64_t i = k + 1; i < n + m; i++) {
            double *row = i < n ? a + i * n : b + (i - n) * n;
            row[k] /= a[k * n + k];
        }
        a[k * n + k] = 1;
    }
}

// W of one layer by its definition, W (H + l I) = sum target h^T + l W_down, and sum |W h - target|^2
// of W_down, before, and of `now`, after.
static int naive(const Bench *b, const Model *small, int64_t layer, double ridge, double feedback,
                 const float *now, float *w, double *before, double *after) {
    const Model *dense = &b->dense.m;
    const int64_t d = dense->config.d, f = dense->config.f, n = b->t.window;
    double *x[2], *h[2], *gram = calloc((size_t)(f * f), sizeof *gram);
    double *right = calloc((size_t)(d * f), sizeof *right), *target = calloc((size_t)d, sizeof *target);
    double *old = calloc((size_t)(d * f), sizeof *old), trace = 0;
    float *row = calloc((size_t)f, sizeof *row);
    for (int i = 0; i < 2; i++) {
        x[i] = calloc((size_t)(n * d), sizeof(double));
        h[i] = calloc((size_t)(n * f), sizeof(double));
    }
    for (int64_t i = 0; i < d; i++) {
        mat_row(&dense->layer[layer].down.w, i, row);
        for (int64_t j = 0; j < f; j++) old[i * f + j] = row[j];
    }
    int status = 0;
    *before = *after = 0;
    for (int64_t i = 0; i < b->t.count && !status; i++) {
        const int *ids = b->t.ids + i * n;
        status = look_at(dense, ids, n, layer, x[0], h[0]) || look_at(small, ids, n, layer, x[1], h[1]);
        for (int64_t t = 1; t < n; t++) {
            const double *seen = h[1] + t * f;
            for (int64_t r = 0; r < d; r++) {
                double was = 0, is = 0;
                target[r] = feedback * (x[0][t * d + r] - x[1][t * d + r]);
                for (int64_t c = 0; c < f; c++) {
                    target[r] += old[r * f + c] * h[0][t * f + c];
                    was += old[r * f + c] * seen[c];
                    is += (double)now[r * f + c] * seen[c];
                }
                *before += (was - target[r]) * (was - target[r]);
                *after += (is - target[r]) * (is - target[r]);
                for (int64_t c = 0; c < f; c++) right[r * f + c] += target[r] * seen[c];
            }
            for (int64_t r = 0; r < f; r++)
                for (int64_t c = 0; c < f; c++) gram[r * f + c] += seen[r] * seen[c];
        }
    }
    for (int64_t i = 0; i < f; i++) trace += gram[i * f + i];
    for (int64_t i = 0; i < f; i++) gram[i * f + i] += ridge * trace / (double)f;
    for (int64_t i = 0; i < d * f; i++) right[i] += ridge * trace / (double)f * old[i];
    eliminate(gram, right, f, d);
    for (int64_t i = 0; i < d * f; i++) w[i] = (float)right[i];
    void *all[] = {x[0], x[1], h[0], h[1], gram, right, target, old, row};
    for (int i = 0; i < COUNT(all); i++) free(all[i]);
    return status;
}

// Every layer of the last refit against naive, each behind the new ones before it.
static int equals_naive(const Bench *b, const Model *small, double ridge, double feedback, int type,
                        double tol) {
    const int64_t d = small->config.d, f = small->config.f, layers = small->config.n_layers;
    float *w = calloc((size_t)(d * f), sizeof *w);
    for (int64_t l = 0; l < layers; l++) {
        double before, after;
        if (!b->down[l]) continue;
        Model m = swapped(small, b->down, l, type);
        CHECK(naive(b, &m, l, ridge, feedback, b->down[l], w, &before, &after) == 0, "%s", err.msg);
        double off = rig_difference(b->down[l], w, d * f);
        CHECK(off < tol, "layer %d, ridge %g, feedback %g: differs by %g", (int)l, ridge, feedback, off);
        CHECK(after < before, "layer %d, ridge %g, feedback %g: %g from %g", (int)l, ridge, feedback, after,
              before);
        swapped_free(&m, b->down, l);
    }
    free(w);
    return PASS;
}

static int solves_normal_equations(void) {
    static const struct { int64_t count, window; double ridge, feedback; } cases[] = {
        {5, 37, 0.3, 0.5}, {5, 37, 0.01, 0}, {5, 37, 0.01, 1}, {1, 600, 0.05, 0.5},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        Bench b;
        CHECK(bench_make(&b, &rig, &cut, cases[i].count, cases[i].window) == 0, "%s", err.msg);
        CHECK(refit(&b, cases[i].ridge, cases[i].feedback, -1) == 0, "%s", err.msg);
        if (equals_naive(&b, &b.small.m, cases[i].ridge, cases[i].feedback, T_F32, 1e-4)) return FAIL;
        bench_free(&b);
    }
    return PASS;
}

// Blocks of 32 on both sides; later layers see what is stored, here coarser than what is there.
static int sees_what_is_stored(void) {
    static const int types[] = {-1, T_Q4_0, T_F16};
    Bench b;
    CHECK(bench_make(&b, &blocks, &cut_blocks, 6, 40) == 0, "%s", err.msg);
    for (int i = 0; i < COUNT(types); i++) {
        const int type = types[i] < 0 ? T_Q8_0 : types[i];
        CHECK(refit(&b, 0.1, 0.5, types[i]) == 0, "%s", err.msg);
        if (equals_naive(&b, &b.small.m, 0.1, 0.5, type, 2e-3)) return FAIL;
    }
    bench_free(&b);
    // A compressed W_down coarser than the dense one: it is the dense one that is moved.
    Rig fine = blocks, coarse = blocks;
    fine.type = T_F32, coarse.type = T_Q4_0;
    CHECK(bench_make(&b, &fine, &cut_blocks, 6, 40) == 0, "%s", err.msg);
    rig_free(&b.small);
    CHECK(rig_build(&b.small, &coarse, &cut_blocks, &err) == 0, "%s", err.msg);
    CHECK(refit(&b, 0.1, 0.5, -1) == 0, "%s", err.msg);
    if (equals_naive(&b, &b.small.m, 0.1, 0.5, T_Q4_0, 2e-3)) return FAIL;
    bench_free(&b);
    return PASS;
}

// Largest difference of the new W_down to the old, relative to its largest weight.
static double moved(const Bench *b) {
    const Config *c = &b->dense.m.config;
    double worst = 0;
    float *w = calloc((size_t)(c->d * c->f), sizeof *w);
    for (int64_t l = 0; l < c->n_layers; l++) {
        for (int64_t i = 0; i < c->d; i++) mat_row(&b->dense.m.layer[l].down.w, i, w + i * c->f);
        worst = fmax(worst, rig_difference(b->down[l], w, c->d * c->f));
    }
    free(w);
    return worst;
}

static int stays_where_it_should(void) {
    static const double feedback[] = {0, 0.5, 1};
    Bench b;
    CHECK(bench_make(&b, &rig, &cut, 4, 33) == 0, "%s", err.msg);
    CHECK(refit(&b, 1e12, 0.5, -1) == 0 && moved(&b) < 1e-6, "a large ridge: moved %g %s", moved(&b), err.msg);
    CHECK(refit(&b, 0.1, 0.5, -1) == 0 && moved(&b) > 0.01, "a small ridge: moved %g %s", moved(&b), err.msg);
    bench_free(&b);
    CHECK(bench_make(&b, &rig, NULL, 4, 33) == 0, "%s", err.msg);
    for (int i = 0; i < COUNT(feedback); i++)
        CHECK(refit(&b, 0.01, feedback[i], -1) == 0 && moved(&b) == 0, "the same model, feedback %g: moved %g",
              feedback[i], moved(&b));
    bench_free(&b);
    return PASS;
}

static int loss_falls(void) {
    Bench b;
    Comparison before, after;
    CHECK(bench_make(&b, &rig, &cut, 40, 64) == 0, "%s", err.msg);
    CHECK(refit(&b, 0.01, 0.5, -1) == 0, "%s", err.msg);
    Model m = swapped(&b.small.m, b.down, LAYERS, T_F32);
    CHECK(compare_models(&b.dense.m, &b.small.m, &b.t, &before, NULL, NULL, &err) == 0 &&
          compare_models(&b.dense.m, &m, &b.t, &after, NULL, NULL, &err) == 0, "%s", err.msg);
    CHECK(before.difference > 0 && after.difference < 0.9 * before.difference, "rise of the loss %g, was %g",
          after.difference, before.difference);
    CHECK(after.kl < 0.9 * before.kl, "KL %g, was %g", after.kl, before.kl);
    swapped_free(&m, b.down, LAYERS);
    bench_free(&b);
    return PASS;
}

// A factored W_down is left alone, and the layers behind it are still right.
static int leaves_factors(void) {
    RigTucker laser = cut;
    RigModel factored;
    Bench b;
    laser.laser[2] = 30;
    CHECK(bench_make(&b, &rig, &cut, 5, 37) == 0 && rig_build(&factored, &rig, &laser, &err) == 0, "%s", err.msg);
    b.small.m.layer[1].down = factored.m.layer[1].down;
    CHECK(refit(&b, 0.1, 0.5, -1) == 0, "%s", err.msg);
    CHECK(b.down[0] && !b.down[1] && b.down[2], "%p %p %p", (void *)b.down[0], (void *)b.down[1],
          (void *)b.down[2]);
    if (equals_naive(&b, &b.small.m, 0.1, 0.5, T_F32, 1e-4)) return FAIL;
    rig_free(&factored);
    bench_free(&b);
    return PASS;
}

// Fewer tokens than numbers in h, and none that says anything: a ridge is found, W_down stays finite.
static int survives_little_text(void) {
    static float zeros[F * D];
    Bench b;
    float *w = calloc(D * F, sizeof *w);
    double before, after;
    CHECK(bench_make(&b, &rig, &cut, 1, 20) == 0, "%s", err.msg);
    CHECK(refit(&b, 0, 0.5, -1) == 0, "%s", err.msg);
    CHECK(naive(&b, &b.small.m, 0, 1, 0.5, b.down[0], w, &before, &after) == 0, "%s", err.msg);
    CHECK(after < 1e-6 * before, "19 tokens are met to %g of %g", after, before);
    for (int l = 0; l < LAYERS; l++) {
        b.dense.m.layer[l].gate.w = b.small.m.layer[l].gate.w = (Mat){zeros, F, D, T_F32};
    }
    CHECK(refit(&b, 0, 0.5, -1) == 0 && moved(&b) == 0, "a silent feed-forward: moved %g %s", moved(&b), err.msg);
    free(w);
    bench_free(&b);
    return PASS;
}

static int same_with_any_threads(void) {
    Bench b, c;
    const int threads = threads_get();
    CHECK(bench_make(&b, &rig, &cut, 4, 61) == 0 && bench_make(&c, &rig, &cut, 4, 61) == 0, "%s", err.msg);
    threads_set(1);
    int status = refit(&b, 0.1, 0.5, -1);
    threads_set(5);
    status |= refit(&c, 0.1, 0.5, -1);
    threads_set(threads);
    CHECK(status == 0, "%s", err.msg);
    for (int l = 0; l < LAYERS; l++)
        CHECK(!memcmp(b.down[l], c.down[l], D * F * sizeof(float)), "layer %d: other bits", l);
    bench_free(&b);
    bench_free(&c);
    return PASS;
}

// Interrupts when the second layer is due; counts the calls.
static void interrupt(void *ctx, const char *what, double done, double total) {
    int *calls = ctx;
    (void)what;
    *calls += total == LAYERS;
    if (done >= 1) interrupted = 1;
}

static int stops_when_interrupted(void) {
    Bench b;
    int calls = 0;
    CHECK(bench_make(&b, &rig, &cut, 2, 33) == 0, "%s", err.msg);
    interrupted = 1;
    int status = refit(&b, 0.1, 0.5, -1);
    interrupted = 0;
    CHECK(status == -1 && strstr(err.msg, "interrupted") && !b.down[0], "%d %s", status, err.msg);
    status = refit_down(&b.dense.m, &b.small.m, &b.t, (RefitOptions){0.1, 0.5, -1}, b.down, interrupt, &calls,
                        &err);
    interrupted = 0;
    CHECK(status == -1 && calls == 2 && !b.down[0] && !b.down[1], "%d, %d calls", status, calls);
    bench_free(&b);
    return PASS;
}

static int refuses(void) {
    Bench b, other;
    const int64_t window = 33;
    CHECK(bench_make(&b, &rig, &cut, 2, window) == 0 && bench_make(&other, &blocks, NULL, 1, 8) == 0, "%s",
          err.msg);
    CHECK(refit(&b, -0.1, 0.5, -1) == -1 && strstr(err.msg, "ridge"), "%s", err.msg);
    CHECK(refit(&b, NAN, 0.5, -1) == -1 && refit(&b, INFINITY, 0.5, -1) == -1 &&
          refit(&b, 0.1, NAN, -1) == -1, "%s", err.msg);
    CHECK(refit(&b, 0.1, 0.5, T_Q6_K) == -1 && strstr(err.msg, "type"), "%s", err.msg);
    CHECK(refit(&b, 0.1, 0.5, 1000) == -1 && strstr(err.msg, "type"), "%s", err.msg);
    CHECK(refit(&b, 0.1, 0.5, T_Q8_0) == -1 && strstr(err.msg, "112"), "%s", err.msg);   // 3.5 blocks
    b.t.window = 1;
    CHECK(refit(&b, 0.1, 0.5, -1) == -1 && strstr(err.msg, "windows"), "%s", err.msg);
    b.t.window = CONTEXT + 1;                     // refused before an id is read
    b.t.count = 0;
    CHECK(refit(&b, 0.1, 0.5, -1) == -1, "%s", err.msg);
    b.t.window = window, b.t.count = 2;
    b.t.ids[40] = 97;
    CHECK(refit(&b, 0.1, 0.5, -1) == -1 && strstr(err.msg, "token 97"), "%s", err.msg);
    CHECK(refit_down(&b.dense.m, &other.dense.m, &other.t, (RefitOptions){0.1, 0.5, -1}, b.down, NULL, NULL,
                     &err) == -1 && strstr(err.msg, "layers"), "%s", err.msg);
    bench_free(&b);
    bench_free(&other);
    return PASS;
}

// What refit rests on: the embedding and layer_forward of every layer make forward, to the bit.
static int layers_make_forward(void) {
    enum { N = 29 };
    Bench b;
    Session s;
    SessionConfig c = {2 * N, N, T_F32, CACHE_DENSE, false};
    CHECK(bench_make(&b, &rig, &cut, 1, 2 * N) == 0 && session_init(&s, &b.small.m, c, &err) == 0, "%s", err.msg);
    const int64_t vocab = b.small.m.config.vocab;
    float *want = rig_logits(&b.small.m, c, b.t.ids, 2 * N, &err);
    CHECK(want, "%s", err.msg);
    for (; s.pos < 2 * N; s.pos += N) {
        for (int i = 0; i < N; i++) mat_row(&b.small.m.embedding, b.t.ids[s.pos + i], s.x + i * D);
        for (int l = 0; l < LAYERS; l++) layer_forward(&(Strand){&s, N}, 1, l);
        for (int i = 0; i < N; i++)
            CHECK(!memcmp(logits(&s, i, 1), want + (s.pos + i) * vocab, (size_t)vocab * sizeof *want),
                  "token %d behind %d", i, (int)s.pos);
    }
    free(want);
    session_free(&s);
    bench_free(&b);
    return PASS;
}

static const Test tests[] = {
    {"layers make forward", layers_make_forward},
    {"solves the normal equations", solves_normal_equations},
    {"sees what is stored", sees_what_is_stored},
    {"stays where it should", stays_where_it_should},
    {"the loss falls", loss_falls},
    {"leaves factors", leaves_factors},
    {"survives little text", survives_little_text},
    {"same with any threads", same_with_any_threads},
    {"stops when interrupted", stops_when_interrupted},
    {"refuses", refuses},
};
int main(int argc, char **argv) { return run_tests("refit", tests, COUNT(tests), argc, argv); }
