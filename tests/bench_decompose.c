// Decomposing one layer's attention tensor as the exporter does: SmolLM2-135M's shape and LLaMA-2-7B's
// (grouped-query attention makes the kinds of the first, see tucker.h). Numbers are those of a generator
// whose twin is tests/oracle_decompose.py, scaled by embedding input so that the spectrum falls. Prints
// seconds (the median of `runs`) and the error, which does not depend on the machine. Asserts nothing.
//   bench_decompose [case [runs [isa]]]      case: a part of a name; none: the small ones, 5 runs
#include "../core/kernels.h"
#include "../core/linalg.h"
#include "../export/weigh.h"
#include "../tucker.h"
#include "bench.h"
#include "test.h"

typedef struct { const char *name; AttnShape shape; int64_t rank[3]; int sweeps; bool large, weighted; } Case;
static const Case cases[] = {
    {"smollm2-hosvd", {576, 9, 3, 64}, {288, 64, 8}, 0, false, false},
    {"smollm2-hooi", {576, 9, 3, 64}, {288, 48, 6}, 3, false, false},
    {"smollm2-weighted", {576, 9, 3, 64}, {0}, 0, false, true},
    {"llama2-hosvd", {4096, 32, 32, 128}, {1024, 128, 4}, 0, true, false},
    {"llama2-hooi", {4096, 32, 32, 128}, {1024, 96, 3}, 3, true, false},
    {"llama2-weighted", {4096, 32, 32, 128}, {0}, 0, true, true},
};
enum { MOST = 99 };

// Entry i of row e of d: splitmix64's i-th number in [-0.5, 0.5), less with every row.
static void fill(double *t, int64_t rows, int64_t cols) {
    uint64_t seed = 1;
    for (int64_t e = 0; e < rows; e++) {
        const double by = 1 / sqrt(1 + 8 * (double)e / (double)rows);
        for (int64_t i = 0; i < cols; i++) t[e * cols + i] = ((double)random_f32(&seed) - 0.5) * by;
    }
}

static int plain(const Case *c, int runs, Err *e) {
    const AttnShape *s = &c->shape;
    const int64_t n[4] = {s->d, s->hd, group_kinds(15, s->h / s->n_kv), s->n_kv};
    const int64_t r[4] = {c->rank[0], c->rank[1], c->rank[2], n[3]};
    double took[MOST], error = 0, *t = alloc_matrix(n[0], n[1] * n[2] * n[3], "tensor", e);
    if (!t) return -1;
    fill(t, n[0], n[1] * n[2] * n[3]);
    for (int i = 0; i < runs; i++) {
        Tucker k;
        const double start = seconds();
        if (c->sweeps ? tucker_hooi(&k, t, n, r, c->sweeps, 0, e) : tucker_hosvd(&k, t, n, r, e)) return -1;
        took[i] = seconds() - start;
        error = tucker_error(&k, t);
        tucker_free(&k);
    }
    free(t);
    const double middle = median(took, runs);
    printf("%-18s %.4f s   (%.4f .. %.4f)  error %.12f\n", c->name, middle, took[0], took[runs - 1],
           error);
    return 0;
}

// One projection (d, d) under a covariance of its inputs, weigh.h's whole answer.
static int weighted(const Case *c, int runs, Err *e) {
    const int64_t d = c->shape.d;
    double took[MOST], *w = alloc_matrix(d, d, "matrix", e), *x = alloc_matrix(2 * d, d, "inputs", e);
    double *cov = alloc_matrix(d, d, "covariance", e);
    if (!w || !x || !cov) return -1;
    fill(w, d, d), fill(x, 2 * d, d);
    dgemm(true, false, d, d, 2 * d, x, d, x, d, 0, cov, d);
    double loss = 0;
    for (int i = 0; i < runs; i++) {
        Weighted out;
        const double start = seconds();
        if (weigh(&out, w, d, d, cov, (Metric){0}, 0, e)) return -1;
        took[i] = seconds() - start;
        loss = weighted_loss(&out, d / 2) / weighted_loss(&out, 0);
        weighted_free(&out);
    }
    free(w), free(x), free(cov);
    const double middle = median(took, runs);
    printf("%-18s %.4f s   (%.4f .. %.4f)  error %.12f\n", c->name, middle, took[0], took[runs - 1],
           sqrt(loss));
    return 0;
}

int main(int argc, char **argv) {
    Err e = {""};
    int runs = argc > 2 ? atoi(argv[2]) : 5;
    if (argc > 3 && kernels_select(argv[3])) return printf("no %s here\n", argv[3]), 1;
    runs = runs < 1 ? 1 : runs > MOST ? MOST : runs;
    for (int i = 0; i < COUNT(cases); i++) {
        const Case *c = &cases[i];
        if (argc > 1 ? !strstr(c->name, argv[1]) : c->large) continue;
        if (c->weighted ? weighted(c, runs, &e) : plain(c, runs, &e))
            return printf("bench_decompose: %s\n", e.msg), 1;
        fflush(stdout);
    }
    return 0;
}
