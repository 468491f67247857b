// matrices: small random matrices and their product by the definition, for the tests of algebra.
// Row-major; what is returned is new memory, freed by free().
#ifndef MATRICES_H
#define MATRICES_H

#include "test.h"

static double *numbers(int64_t n) { return calloc((size_t)(n ? n : 1), sizeof(double)); }

static double gauss(uint64_t *state) {                     // near enough: a sum of uniforms
    double s = 0;
    for (int i = 0; i < 6; i++) s += (double)(random_u64(state) >> 11) * 0x1p-53 - 0.5;
    return s;
}

static double *random_matrix(int64_t m, int64_t n, uint64_t seed) {
    double *a = numbers(m * n);
    for (int64_t i = 0; i < m * n; i++) a[i] = gauss(&seed);
    return a;
}

// c (m, n) = op(a) op(b) by the definition; returns new memory
static double *product(const double *a, bool ta, const double *b, bool tb, int64_t m, int64_t n,
                       int64_t k) {
    double *c = numbers(m * n);
    for (int64_t i = 0; i < m; i++)
        for (int64_t l = 0; l < k; l++) {
            double x = ta ? a[l * m + i] : a[i * k + l];
            if (tb) for (int64_t j = 0; j < n; j++) c[i * n + j] += x * b[j * k + l];
            else for (int64_t j = 0; j < n; j++) c[i * n + j] += x * b[l * n + j];
        }
    return c;
}

#endif
