// What the decomposition of one layer of a large model takes: time and peak memory on random weights
// of LLaMA-2-7B's attention (d 4096, 32 heads of 128), plain and weighted, at half the parameters.
// Random weights have no low rank; time and memory do not depend on that. Asserts nothing.
//   bench_scale [plain|weighted] [d [heads]]
#include "../export/decompose.h"
#include "../export/weigh.h"
#include "../core/kernels.h"
#include "bench.h"

#include <math.h>
#include <string.h>

static uint64_t seed = 7;

static void plain(const AttnShape *s, Err *e) {
    // Half of 4 d^2: r_embd (d + 4 hd h) = 2 d^2 with hd h = d.
    GroupPlan g = {.set = HAS_Q | HAS_K | HAS_V | HAS_O, .rank = {2 * s->d / 5, s->hd, 4}};
    float *w[4];
    GroupParts parts;
    double error[4];
    for (int p = 0; p < 4; p++) {
        w[p] = alloc((size_t)s->d, (size_t)s->d * sizeof(float), "weights", e);
        check(!w[p], e);
        for (int64_t i = 0; i < s->d * s->d; i++) w[p][i] = random_f32(&seed) - 0.5f;
    }
    const double start = seconds();
    check(decompose_group(s, &g, w, 10, &parts, error, e), e);
    printf("plain, qkvo, ranks %lld,%lld,4: %.1f s, peak %.2f GB\n", (long long)g.rank[EMBD],
           (long long)s->hd, seconds() - start, (double)peak_memory() / 1e9);
    parts_free(&parts);
}

// A covariance as calibrations give it: of 2 d samples, spectrum falling over four decades.
static double *covariance(int64_t d, Err *e) {
    double *c = alloc((size_t)d, (size_t)d * sizeof *c, "covariance", e);
    double *x = alloc(256, (size_t)d * sizeof *x, "samples", e);
    check(!c || !x, e);
    for (int64_t n = 0; n < 2 * d; n += 256) {
        for (int64_t i = 0; i < 256 * d; i++)
            x[i] = (random_f32(&seed) - 0.5) * pow(10, -4.0 * (double)(i % d) / (double)d);
        dgemm(true, false, d, d, 256, x, d, x, d, 1, c, d);
    }
    free(x);
    return c;
}

static void weighted(const AttnShape *s, Err *e) {
    const int64_t d = s->d, r = (int64_t)(d * (1 - sqrt(0.5)));    // r (2 d - r) = d^2 / 2
    double *w = alloc((size_t)d, (size_t)d * sizeof *w, "weights", e);
    double *c = covariance(d, e), *g = covariance(d, e);
    double *a = alloc((size_t)r, (size_t)d * sizeof *a, "factor", e);
    double *b = alloc((size_t)d, (size_t)r * sizeof *b, "factor", e);
    double *x = alloc((size_t)r, (size_t)(d - r) * sizeof *x, "factor", e);
    int32_t *pivot = alloc((size_t)r, sizeof *pivot, "pivots", e);
    check(!w || !a || !b || !x || !pivot, e);
    for (int64_t i = 0; i < d * d; i++) w[i] = random_f32(&seed) - 0.5;
    Weighted u;
    double start = seconds();
    check(weigh(&u, w, d, d, c, (Metric){g, d}, 1e-3, e), e);
    printf("weighted, one projection: %.1f s", seconds() - start);
    fflush(stdout);
    for (int64_t i = 0; i < d; i++) memcpy(b + i * r, u.left + i * d, (size_t)r * sizeof *b);
    memcpy(a, u.right, (size_t)(r * d) * sizeof *a);
    start = seconds();
    check(pivot_factors(b, d, a, r, d, pivot, x, e), e);
    printf(", pivoting at rank %lld: %.1f s, peak %.2f GB\n", (long long)r, seconds() - start,
           (double)peak_memory() / 1e9);
    weighted_free(&u);
}

int main(int argc, char **argv) {
    Err e = {""};
    const int64_t d = argc > 2 ? atol(argv[2]) : 4096, h = argc > 3 ? atol(argv[3]) : 32;
    const AttnShape s = {d, h, h, d / h};
    printf("d %lld, %lld heads of %lld, %d threads\n", (long long)d, (long long)h, (long long)s.hd,
           threads_get());
    if (argc < 2 || strcmp(argv[1], "plain") == 0) plain(&s, &e);
    if (argc < 2 || strcmp(argv[1], "weighted") == 0) weighted(&s, &e);
    return 0;
}
