// compress: weighted exports of small random models, from moments to files that are read back.
#include "../export/compress.h"
#include "../core/kernels.h"
#include "rig.h"

#include <unistd.h>

static const Rig rigs[] = {
    {"llama", NULL, 64, 4, 4, 16, 96, 61, 2, 64, false, true, false, 0, T_F32, 1},
    {"llama", NULL, 48, 6, 2, 8, 64, 61, 2, 64, false, false, true, 0, T_F32, 2},
    {"qwen2", NULL, 40, 4, 1, 12, 64, 61, 2, 64, true, true, false, 0, T_F32, 3},
};
enum { WINDOWS = 6, WINDOW = 32, N = 23 };
static Err err;

// A rig with random calibration ids and their moments.
typedef struct { RigModel r; CalibText text; Moments moments; Source source; } Bench;

static int bench_open(Bench *b, const Rig *rig, int want) {
    uint64_t seed = 99;
    *b = (Bench){.text = {.count = WINDOWS, .window = WINDOW}};
    if (rig_build(&b->r, rig, NULL, &err)) return -1;
    b->text.ids = calloc(WINDOWS * WINDOW, sizeof *b->text.ids);
    for (int i = 0; i < WINDOWS * WINDOW; i++) b->text.ids[i] = (int)(random_u64(&seed) % (uint64_t)rig->vocab);
    memset(b->text.sha256, 'a', 64);
    b->source = (Source){.g = b->r.g, .kind = "gguf"};
    memset(b->source.sha256, '0', 64);
    return moments_collect(&b->moments, &b->r.m, &b->text, want, NULL, NULL, &err);
}

static void bench_close(Bench *b) {
    moments_free(&b->moments);
    calib_free(&b->text);
    rig_free(&b->r);
}

static const Options weighted = {.source = "rig.gguf", .layers = "all", .keep = 0.6, .type = -1,
                                 .method = METHOD_FISHER};
static const SessionConfig session = {64, 8, T_F32, CACHE_DENSE, false};

typedef struct { Plan p; Gguf g; Model m; uint64_t size; Compression c; } Made;

// Exports and reads back.
static int make(const Bench *b, const Options *o, Made *made) {
    char path[256];
    FileOut out = {0};
    snprintf(path, sizeof path, "%s/tensorllm_compress_%d.tbin", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
             (int)getpid());
    *made = (Made){0};
    const bool data = b->moments.layer != NULL;              // not to rebuild
    int result = (data && compression_init(&made->c, o, &b->r.m, &b->moments, &b->text, NULL, NULL, &err)) ||
                 plan_make(&made->p, o, &b->source, &b->r.m, &made->c, &err) || out_open(&out, path, &err) ||
                 plan_write(&made->p, &out, NULL, NULL, &err) || (made->size = out.at, out_commit(&out, &err)) ||
                 gguf_open(&made->g, path, &err) || model_bind(&made->m, &made->g, &err) ? -1 : 0;
    out_abort(&out);
    remove(path);
    return result;
}

static void made_free(Made *m) {
    model_free(&m->m);
    gguf_free(&m->g);
    plan_free(&m->p);
    compression_free(&m->c);
}

static double differ(const Model *a, const Model *b) {
    int ids[N];
    uint64_t seed = 5;
    for (int i = 0; i < N; i++) ids[i] = (int)(random_u64(&seed) % (uint64_t)a->config.vocab);
    float *x = rig_logits(a, session, ids, N, &err), *y = rig_logits(b, session, ids, N, &err);
    double d = x && y ? rig_difference(x, y, N * a->config.vocab) : INFINITY;
    free(x);
    free(y);
    return d;
}

enum { ALL = WANT_X | WANT_O | WANT_FFN | WANT_DOWN | WANT_KL | WANT_FISHER };

// Pivoted and plain storage hold the same matrices; rebuilt they compute the same; the numbers stored
// are those of the plan and within the budget.
static int stored_forms(void) {
    static const Method methods[] = {METHOD_INPUT, METHOD_KL, METHOD_FISHER};
    for (int i = 0; i < COUNT(rigs); i++) {
        Bench b;
        CHECK(bench_open(&b, &rigs[i], ALL) == 0, "rig %d: %s", i, err.msg);
        const double dense = model_params(&b.r.m).attention;
        for (int k = 0; k < COUNT(methods); k++) {
            Options o = weighted;
            o.method = methods[k];
            Made a, flat, back;
            CHECK(make(&b, &o, &a) == 0, "rig %d, %s: %s", i, method_name(o.method), err.msg);
            const double kept = model_params(&a.m).attention;
            // The same share for every part rounds each to the nearest rank below; a shared budget
            // fills up. A part that cannot be that small keeps its least rank.
            CHECK(kept <= 0.6 * dense + 0.5 && kept > 0.3 * dense, "rig %d, %s: %g of %g numbers", i,
                  method_name(o.method), kept, dense);
            // The same ranks without pivoting.
            Plan p = a.p;
            for (int l = 0; l < p.n_layers; l++)
                for (int g = 0; g < p.layer[l].n_groups; g++) {
                    const GroupPlan *q = &p.layer[l].group[g];
                    GroupPlan plain = *q;
                    GroupParts x, y;
                    double ex[4], ey[4];
                    plain.pivoted = false;
                    CHECK(q->pivoted && q->weighted, "layer %d", l);
                    CHECK(!compression_group(&a.c, l, q, &x, ex, &err) &&
                          !compression_group(&a.c, l, &plain, &y, ey, &err), "%s", err.msg);
                    for (int r = 1; r < q->rank[EMBD]; r++)
                        CHECK(x.pivot[r] > x.pivot[r - 1], "pivots %d, %d", x.pivot[r - 1], x.pivot[r]);
                    for (int e = P_Q; e <= P_O; e++)
                        CHECK(!(q->set & 1 << e) || ex[e] == ey[e], "error %g or %g", ex[e], ey[e]);
                    parts_free(&x);
                    parts_free(&y);
                }
            o.no_pivot = true;
            o.rank[EMBD] = 5, o.scheme = "q+k+v+o";
            CHECK(make(&b, &o, &flat) == 0, "rig %d: %s", i, err.msg);
            o.no_pivot = false;
            CHECK(make(&b, &o, &back) == 0, "rig %d: %s", i, err.msg);
            CHECK(!flat.m.layer[0].attn.groups[0].pivot && back.m.layer[0].attn.groups[0].pivot, "pivots");
            for (int g = 0; g < 4; g++)
                CHECK(back.m.layer[0].attn.groups[g].r_embd == 5, "group %d: a rank of 5 was asked for", g);
            double d = differ(&flat.m, &back.m);
            CHECK(d < 1e-4, "rig %d, %s: pivoted and plain differ by %g", i, method_name(o.method), d);
            made_free(&flat);
            // Multiplied back.
            Source from = {.g = back.g, .kind = "gguf"};
            Options rebuild = {.source = "x.tbin", .layers = "all", .rebuild = true, .type = T_F32};
            Bench again = {.r = {.m = back.m, .g = back.g}, .source = from};
            CHECK(make(&again, &rebuild, &flat) == 0, "rig %d: %s", i, err.msg);
            CHECK(!flat.m.config.tucker, "a rebuilt file is factored");
            d = differ(&flat.m, &back.m);
            CHECK(d < 1e-4, "rig %d, %s: rebuilt differs by %g", i, method_name(o.method), d);
            made_free(&flat);
            made_free(&back);
            made_free(&a);
        }
        bench_close(&b);
    }
    return PASS;
}

// What the Fisher method predicts is what the definition gives for the factors that were made.
static int predictions(void) {
    Bench b;
    Made a;
    CHECK(bench_open(&b, &rigs[1], ALL) == 0 && make(&b, &weighted, &a) == 0, "%s", err.msg);
    double sum = 0;
    int groups = 0;
    for (int l = 0; l < a.p.n_layers; l++)
        for (int g = 0; g < a.p.layer[l].n_groups; g++, groups++) {
            const GroupPlan *q = &a.p.layer[l].group[g];
            const Attention *t = &a.m.layer[l].attn, *w = &b.r.m.layer[l].attn;
            double loss = 0;
            for (int p = P_Q; p <= P_O; p++) {              // 1/2 tr(G dW C dW^T), a projection at a time
                if (!(q->set & 1 << p)) continue;
                const LayerMoments *m = &b.moments.layer[l];
                const double *c = p == P_O ? m->o : m->x;
                float *made[4] = {0};
                CHECK(rebuild_group(t, t->group_of[p], made, &err) == 0, "%s", err.msg);
                const int64_t rows = w->w[p].rows, cols = w->w[p].cols;
                double *delta = calloc((size_t)(rows * cols), sizeof *delta);
                float *row = calloc((size_t)cols, sizeof *row);
                for (int64_t i = 0; i < rows; i++) {
                    mat_row(&w->w[p], i, row);
                    for (int64_t j = 0; j < cols; j++) delta[i * cols + j] = row[j] - made[p][i * cols + j];
                }
                for (int64_t i = 0; i < rows; i++)
                    for (int64_t j = 0; j < rows; j++) {
                        double s = 0;
                        for (int64_t x = 0; x < cols; x++) {
                            double cy = 0;
                            for (int64_t y = 0; y < cols; y++) cy += c[x * cols + y] * delta[j * cols + y];
                            s += delta[i * cols + x] * cy;
                        }
                        loss += m->g[p][i * rows + j] * s / 2;
                    }
                free(delta);
                free(row);
                for (int e = 0; e < 4; e++) free(made[e]);
            }
            // The ridge on G adds a little to what is predicted.
            CHECK(loss <= q->predicted * 1.0001 && loss > 0.8 * q->predicted,
                  "layer %d, set %d: predicted %g, by definition %g", l, q->set, q->predicted, loss);
            sum += q->predicted;
        }
    CHECK(groups > 2 && fabs(sum - a.p.predicted) < 1e-9 * sum, "%d groups: %g, %g", groups, sum, a.p.predicted);
    made_free(&a);
    bench_close(&b);
    return PASS;
}

// LASER: by a list and within the budget; a full budget changes nothing; less budget predicts more.
static int feed_forward(void) {
    Bench b;
    Made a;
    Options o = weighted;
    CHECK(bench_open(&b, &rigs[0], ALL) == 0, "%s", err.msg);
    o.scheme = "none", o.ffn = "gate:1:0.25,down:0-1:0.5";
    CHECK(make(&b, &o, &a) == 0, "%s", err.msg);
    CHECK(a.m.layer[1].gate.a.rows == 16 && a.m.layer[0].down.a.rows == 32 && a.m.layer[1].down.a.rows == 32 &&
          !a.m.layer[0].gate.a.rows && !a.m.layer[0].up.a.rows && !a.m.layer[0].attn.n_groups, "ranks");
    CHECK(a.p.layer[1].ffn_error[F_GATE] > 0.1 && a.p.layer[1].ffn_error[F_GATE] < 1.5, "error %g",
          a.p.layer[1].ffn_error[F_GATE]);
    made_free(&a);
    double last = -1;
    o.scheme = NULL, o.ffn = "auto";
    for (double keep = 1; keep > 0.4; keep -= 0.15) {
        o.keep = keep;
        CHECK(make(&b, &o, &a) == 0, "%s", err.msg);
        Parts now = model_params(&a.m), was = model_params(&b.r.m);
        double part = (now.attention + now.ffn) / (was.attention + was.ffn);
        CHECK(part <= keep + 1e-9 && part > keep - 0.05, "keep %g gave %g", keep, part);
        CHECK(a.p.predicted > last, "keep %g: predicted %g after %g", keep, a.p.predicted, last);
        CHECK(keep < 1 || (a.p.predicted == 0 && differ(&a.m, &b.r.m) < 1e-6), "a full budget changes the model");
        last = a.p.predicted;
        made_free(&a);
    }
    bench_close(&b);
    return PASS;
}

// --size and --loss are kept; the same twice, and with other threads, gives the same bytes.
static int budgets(void) {
    Bench b;
    Made a, same;
    Options o = weighted;
    CHECK(bench_open(&b, &rigs[0], ALL) == 0 && make(&b, &o, &a) == 0, "%s", err.msg);
    const int threads = threads_get();
    threads_set(3);
    CHECK(make(&b, &o, &same) == 0, "%s", err.msg);
    threads_set(threads);
    CHECK(a.size == same.size && !memcmp(a.g.map.data, same.g.map.data, a.size), "bytes differ");
    made_free(&same);
    for (int i = 0; i < 3; i++) {
        o.size = (double)a.size * (1.0 + 0.05 * i);
        CHECK(make(&b, &o, &same) == 0, "%s", err.msg);
        CHECK((double)same.size <= o.size && (double)same.size > 0.9 * o.size, "%g asked, %g written", o.size,
              (double)same.size);
        made_free(&same);
    }
    o.size = 1000;
    CHECK(make(&b, &o, &same) == -1 && strstr(err.msg, "at least"), "%s", err.msg);
    made_free(&same);
    o.size = 1e9;                                          // all of it fits: a file of dense matrices
    CHECK(make(&b, &o, &same) == 0, "%s", err.msg);
    const double whole = (double)same.size;
    made_free(&same);
    for (int i = 1; i <= 3; i++) {                         // just below it, where hardly anything is factored
        o.size = whole * (1 - 0.01 * i);
        CHECK(make(&b, &o, &same) == 0, "%s", err.msg);
        CHECK((double)same.size <= o.size && (double)same.size > 0.95 * o.size, "%g asked, %g written", o.size,
              (double)same.size);
        made_free(&same);
    }
    o.size = 0;
    o.loss = a.p.predicted / 2;
    CHECK(make(&b, &o, &same) == 0, "%s", err.msg);
    CHECK(same.p.predicted <= o.loss && same.p.predicted > 0.7 * o.loss, "loss %g, predicted %g", o.loss,
          same.p.predicted);
    made_free(&same);
    made_free(&a);
    bench_close(&b);
    return PASS;
}

static const Test tests[] = {
    {"stored forms", stored_forms}, {"predictions by definition", predictions},
    {"feed-forward", feed_forward}, {"budgets", budgets},
};
int main(int argc, char **argv) { return run_tests("compress", tests, COUNT(tests), argc, argv); }
