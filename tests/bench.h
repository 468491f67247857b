// bench: what the benchmarks share. They assert nothing.
#ifndef BENCH_H
#define BENCH_H

#include <stdio.h>
#include <stdlib.h>

#include "../core/util.h"

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double median(double *x, int n) {        // sorts x
    qsort(x, (size_t)n, sizeof *x, by_size);
    return x[n / 2];
}

static inline void check(bool failed, const Err *e) {
    if (!failed) return;
    fprintf(stderr, "%s\n", e->msg);
    exit(1);
}

static inline float *random_floats(int64_t n) {        // -1 .. 1; never freed
    static uint64_t seed = 3;
    float *x = alloc((size_t)n, sizeof *x, "floats", NULL);
    if (!x) exit(1);
    for (int64_t i = 0; i < n; i++) x[i] = 2 * random_f32(&seed) - 1;
    return x;
}

// best = seconds of the best of several runs of about a fifth of a second together.
#define BEST(best, ...) do { \
        const double begin_ = seconds(); \
        best = 1e9; \
        for (int k_ = 0; k_ < 3 || seconds() - begin_ < 0.2; k_++) { \
            const double t_ = seconds(); \
            __VA_ARGS__; \
            const double d_ = seconds() - t_; \
            if (d_ < best) best = d_; \
        } \
    } while (0)

#endif
