// linalg: residuals, not digits. Every decomposition is multiplied back by plain loops.
#include "../core/linalg.h"

#include <float.h>

#include "isas.h"
#include "matrices.h"

static const int64_t sizes[] = {0, 1, 2, 3, 7, 31, 33, 49, 64, 65, 97, 160, 161, 200, 353, 576};
static Err err;

// max |a - b|, b = NULL: the identity
static double difference(const double *a, const double *b, int64_t m, int64_t n) {
    double worst = 0;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double x = fabs(a[i * n + j] - (b ? b[i * n + j] : i == j));
            if (!(x <= worst)) worst = x;
        }
    return worst;
}

static double max_abs(const double *a, int64_t n) {
    double m = 0;
    for (int64_t i = 0; i < n; i++) m = fmax(m, fabs(a[i]));
    return m;
}

// |Q^T Q - I| of the columns of q (m, n)
static double skew(const double *q, int64_t m, int64_t n) {
    double *g = product(q, true, q, false, n, n, m);
    double worst = difference(g, NULL, n, n);
    free(g);
    return worst;
}

// Decomposes a, keeping r pairs, and checks A V = V L, V^T V = I, the order and the trace.
static int check_eig(const char *name, const double *a, int64_t n, int64_t r) {
    double *copy = numbers(n * n), *values = numbers(r), *v = numbers(n * r);
    memcpy(copy, a, (size_t)(n * n) * sizeof *a);
    CHECK(eig_sym_leading(copy, n, r, values, v, &err) == 0, "%s n %d r %d: %s", name, (int)n,
          (int)r, err.msg);
    double *av = product(a, false, v, false, n, r, n), *vl = numbers(n * r);
    for (int64_t i = 0; i < n * r; i++) vl[i] = v[i] * values[i % r];
    double size = max_abs(values, r), residual = difference(av, vl, n, r), bent = skew(v, n, r);
    double full = fmax(size, max_abs(a, n * n));
    CHECK(residual <= 1e-13 * (10 + (double)n) * full, "%s n %d r %d: |A V - V L| %g, |A| %g", name,
          (int)n, (int)r, residual, full);
    CHECK(bent <= 2e-13, "%s n %d r %d: |V'V - I| %g", name, (int)n, (int)r, bent);
    double trace = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) trace += a[i * n + i];
    for (int64_t i = 0; i < r; i++) {
        sum += values[i];
        CHECK(i == 0 || values[i] <= values[i - 1], "%s n %d: value %d is %g after %g", name,
              (int)n, (int)i, values[i], values[i - 1]);
    }
    if (r == n) CHECK(fabs(trace - sum) <= 1e-13 * (10 + (double)n) * full * 4,
                      "%s n %d: trace %g, values %g", name, (int)n, trace, sum);
    for (int64_t j = 0; j < r; j++) {                      // the sign that was promised
        double top = 0;
        for (int64_t i = 0; i < n; i++) if (fabs(v[i * r + j]) > fabs(top)) top = v[i * r + j];
        CHECK(top >= 0, "%s n %d: vector %d has its largest component %g", name, (int)n, (int)j,
              top);
    }
    // the leading pairs are the same whether or not the others are asked for
    if (r == n && n > 2) {
        double *lead = numbers(n * n), *lead_values = numbers(n);
        int64_t half = n / 3 + 1;
        memcpy(copy, a, (size_t)(n * n) * sizeof *a);
        CHECK(eig_sym_leading(copy, n, half, lead_values, lead, &err) == 0, "%s", err.msg);
        CHECK(difference(values, lead_values, 1, half) <= 1e-14 * full,
              "%s n %d: values differ with r %d", name, (int)n, (int)half);
        CHECK(skew(lead, n, half) <= 2e-13, "%s n %d r %d: |V'V - I|", name, (int)n, (int)half);
        memcpy(copy, a, (size_t)(n * n) * sizeof *a);
        CHECK(eig_sym(copy, n, lead_values, NULL, &err) == 0, "%s", err.msg);
        CHECK(difference(values, lead_values, 1, n) <= 1e-14 * full,
              "%s n %d: values without vectors", name, (int)n);
        free(lead), free(lead_values);
    }
    free(copy), free(values), free(v), free(av), free(vl);
    return PASS;
}

static int eig_random(void) {
    for (int s = 0; s < COUNT(sizes); s++) {
        int64_t n = sizes[s];
        double *b = random_matrix(n, n, 1 + (uint64_t)n), *a = numbers(n * n);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) a[i * n + j] = b[i * n + j] + b[j * n + i];
        if (check_eig("random", a, n, n) == FAIL || check_eig("random", a, n, (n + 3) / 4) == FAIL)
            return FAIL;
        free(a), free(b);
    }
    return PASS;
}

// V diag(values) V^T for a random orthogonal V
static double *with_values(const double *values, int64_t n, uint64_t seed) {
    double *v = random_matrix(n, n, seed), *s = numbers(n * n);
    if (qr(v, n, n, NULL, &err) < 0) abort();
    for (int64_t i = 0; i < n * n; i++) s[i] = v[i] * values[i % n];
    double *a = product(s, false, v, true, n, n, n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++) a[i * n + j] = a[j * n + i];
    free(v), free(s);
    return a;
}

static int eig_degenerate(void) {
    for (int s = 0; s < COUNT(sizes) - 1; s++) {
        int64_t n = sizes[s];
        double *a = numbers(n * n), *values = numbers(n);
        if (check_eig("zero", a, n, n) == FAIL) return FAIL;
        for (int64_t i = 0; i < n; i++) a[i * n + i] = 1;
        if (check_eig("identity", a, n, n) == FAIL) return FAIL;
        for (int64_t i = 0; i < n; i++) a[i * n + i] = -1e-200;
        if (check_eig("tiny", a, n, n) == FAIL) return FAIL;
        for (int64_t i = 0; i < n; i++) a[i * n + i] = (double)(i % 5) * 1e200;
        if (check_eig("huge diagonal", a, n, n) == FAIL) return FAIL;
        for (int64_t i = 0; i < n * n; i++) a[i] = 3;
        if (check_eig("rank one", a, n, n) == FAIL) return FAIL;
        for (int64_t i = 0; i < n; i++)                    // Wilkinson: pairs agree to rounding
            for (int64_t j = 0; j < n; j++)
                a[i * n + j] = i == j ? fabs((double)(n - 1) / 2 - (double)i) : llabs(i - j) == 1;
        if (check_eig("Wilkinson", a, n, n) == FAIL) return FAIL;
        for (int64_t i = 0; i < n; i++)                    // the second difference
            for (int64_t j = 0; j < n; j++) a[i * n + j] = i == j ? 2 : llabs(i - j) == 1 ? -1 : 0;
        if (check_eig("second difference", a, n, n) == FAIL) return FAIL;
        for (int64_t i = 0; i < n; i++)                    // graded over 300 binary orders
            for (int64_t j = 0; j < n; j++)
                a[i * n + j] = ldexp(i == j ? 2 : 1, -(int)(300 * (i + j) / (2 * n)));
        if (check_eig("graded", a, n, n) == FAIL) return FAIL;
        for (int64_t i = 0; i < n / 2; i++)                // graded the other way round
            for (int64_t j = 0; j < n; j++) {
                double x = a[i * n + j];
                a[i * n + j] = a[(n - 1 - i) * n + n - 1 - j];
                a[(n - 1 - i) * n + n - 1 - j] = x;
            }
        if (n % 2 == 0 && check_eig("graded upwards", a, n, n) == FAIL) return FAIL;
        free(a);
        struct { const char *name; int kind; } set[] = {
            {"three values", 0}, {"condition 1e14", 1}, {"one apart", 2}, {"clusters", 3},
            {"signs", 4}};
        for (int k = 0; k < COUNT(set); k++) {
            for (int64_t i = 0; i < n; i++) {
                double x = n > 1 ? (double)i / (double)(n - 1) : 0;
                values[i] = k == 0 ? (double)(i % 3) : k == 1 ? pow(10, -14 * x)
                          : k == 2 ? (i ? 1 : 2) : k == 3 ? 1 + (double)(i % 4) + 1e-14 * (double)i
                          : i % 2 ? 1 : -1;
            }
            a = with_values(values, n, 99 + (uint64_t)n);
            if (check_eig(set[k].name, a, n, n) == FAIL) return FAIL;
            free(a);
        }
        free(values);
    }
    return PASS;
}

// The mixed way: as orthonormal, and what it captures, tr(V^T A V), is all there is but for 1e-10 of it; or
// 1e-7 where the values at the cut differ by less than single precision knows.
// Spectra: as random matrices have them, such ties, one that falls by 1e8, of rank n / 4, and none.
static int eig_mixed(void) {
    static const int64_t ns[] = {1, 2, 3, 33, 65, 200, 301, 576};
    for (int s = 0; s < COUNT(ns); s++)
        for (int kind = 0; kind < 5; kind++) {
            int64_t n = ns[s], r = (n + 3) / 4;
            double *values = numbers(n), *lead = numbers(n), *v = numbers(n * r), *copy = numbers(n * n), *a;
            for (int64_t i = 0; i < n; i++)
                values[i] = kind == 1 ? 1 + 1e-6 * (double)i : kind == 2 ? pow(10, -8 * (double)i / (double)n)
                          : kind == 3 ? i < r : 0;
            if (kind) {
                a = with_values(values, n, 5 + (uint64_t)n);
            } else {
                double *b = random_matrix(n, 2 * n, 3);
                a = product(b, false, b, true, n, n, 2 * n);
                free(b);
            }
            memcpy(copy, a, (size_t)(n * n) * sizeof *a);
            CHECK(eig_sym(copy, n, values, NULL, &err) == 0, "%s", err.msg);
            memcpy(copy, a, (size_t)(n * n) * sizeof *a);
            CHECK(eig_sym_leading_mixed(copy, n, r, lead, v, &err) == 0, "%s", err.msg);
            double best = 0, captured = 0, bent = skew(v, n, r), *av = product(a, false, v, false, n, r, n);
            for (int64_t i = 0; i < r; i++) best += values[i];
            for (int64_t i = 0; i < n * r; i++) captured += v[i] * av[i];
            CHECK(bent <= 2e-13, "kind %d n %d: |V'V - I| %g", kind, (int)n, bent);
            CHECK(fabs(best - captured) <= (kind == 1 ? 1e-7 : 1e-10) * best, "kind %d n %d: captured %.17g of %.17g",
                  kind, (int)n, captured, best);
            for (int64_t i = 0; i < r; i++)
                CHECK(fabs(lead[i] - values[i]) <= 3e-6 * values[0], "kind %d n %d: value %d is %.9g, not %.9g",
                      kind, (int)n, (int)i, lead[i], values[i]);
            free(values), free(lead), free(v), free(copy), free(a), free(av);
        }
    return PASS;
}

// The same bits for any number of threads, in every instruction set and both precisions; spectra without and
// with equal values, and more wanted than there are that differ from zero.
static int eig_threads(void) {
    static const int64_t ns[] = {7, 161, 330};
    const int before = threads_get();
    for (int s = 0; s < COUNT(ns); s++)
        for (int kind = 0; kind < 3; kind++) {
            const int64_t n = ns[s], r = n / 2 + 1;
            double *a, *copy = numbers(n * n), *values = numbers(n), *v[2] = {numbers(n * r), numbers(n * r)};
            double *lead[2] = {numbers(r), numbers(r)};
            for (int64_t i = 0; i < n; i++)
                values[i] = kind == 0 ? 1 / (1 + (double)i) : kind == 1 ? 1 + (double)(i % 3) : i < n / 4;
            a = with_values(values, n, 7 + (uint64_t)n);
            FOR_EACH_ISA(isa) {
                for (int mixed = 0; mixed < 2; mixed++)
                    for (int threads = 1; threads <= 3; threads++) {
                        const int i = threads > 1;
                        threads_set(threads);
                        memcpy(copy, a, (size_t)(n * n) * sizeof *a);
                        CHECK((mixed ? eig_sym_leading_mixed : eig_sym_leading)(copy, n, r, lead[i], v[i], &err) == 0,
                              "%s", err.msg);
                        CHECK(!memcmp(lead[i], lead[0], (size_t)r * sizeof **lead) &&
                              !memcmp(v[i], v[0], (size_t)(n * r) * sizeof **v),
                              "n %d kind %d %s mixed %d: %d threads have other bits than one", (int)n, kind, isas[isa],
                              mixed, threads);
                        if (threads > 1) continue;
                        double bent = skew(v[0], n, r);
                        CHECK(bent <= 2e-13, "n %d kind %d %s mixed %d: |V'V - I| %g", (int)n, kind, isas[isa], mixed,
                              bent);
                    }
            }
            free(a), free(copy), free(values), free(v[0]), free(v[1]), free(lead[0]), free(lead[1]);
        }
    threads_set(before);
    kernels_init();
    return PASS;
}

static int eig_refuses(void) {
    double a[4] = {1, NAN, NAN, 1}, values[2], v[4];
    CHECK(eig_sym(a, 2, values, v, &err) == -1 && strstr(err.msg, "finite"), "%s", err.msg);
    for (int64_t at = 0; at < 81; at += 5) {               // wherever it stands
        double c[81] = {0}, l[9], u[81];
        c[at] = at % 2 ? INFINITY : NAN;
        CHECK(eig_sym(c, 9, l, u, &err) == -1 && strstr(err.msg, "finite"), "at %d: %s", (int)at, err.msg);
    }
    double b[4] = {1, 0, 0, 1};
    CHECK(eig_sym_leading(b, 2, 3, values, v, &err) == -1, "3 of 2 eigenvectors");
    return PASS;
}

static int check_qr(const char *name, const double *a, int64_t m, int64_t n) {
    double *q = numbers(m * n), *r = numbers(n * n);
    memcpy(q, a, (size_t)(m * n) * sizeof *a);
    CHECK(qr(q, m, n, r, &err) == 0, "%s", err.msg);
    double *back = product(q, false, r, false, m, n, n);
    double residual = difference(back, a, m, n), bent = skew(q, m, n), size = max_abs(a, m * n);
    CHECK(residual <= 2e-14 * (10 + (double)n) * size, "%s (%d, %d): |A - QR| %g", name, (int)m,
          (int)n, residual);
    CHECK(bent <= 1e-13, "%s (%d, %d): |Q'Q - I| %g", name, (int)m, (int)n, bent);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++)
            CHECK(r[i * n + j] == 0, "%s: R[%d][%d] = %g", name, (int)i, (int)j, r[i * n + j]);
    free(q), free(r), free(back);
    return PASS;
}

static int qr_residuals(void) {
    static const int64_t shapes[][2] = {{0, 0}, {1, 0}, {1, 1}, {2, 1}, {3, 3}, {7, 4}, {32, 32},
                                        {33, 32}, {64, 33}, {200, 65}, {300, 200}, {576, 64}};
    for (int s = 0; s < COUNT(shapes); s++) {
        int64_t m = shapes[s][0], n = shapes[s][1];
        double *a = random_matrix(m, n, 5);
        if (check_qr("random", a, m, n) == FAIL) return FAIL;
        for (int64_t i = 0; i < m; i++)                    // all columns equal: rank one
            for (int64_t j = 1; j < n; j++) a[i * n + j] = a[i * n];
        if (check_qr("equal columns", a, m, n) == FAIL) return FAIL;
        for (int64_t i = 0; i < m * n; i++) a[i] = 0;
        if (check_qr("zero", a, m, n) == FAIL) return FAIL;
        free(a);
    }
    double a[2] = {1, 2};
    CHECK(qr(a, 1, 2, NULL, &err) == -1, "a wide matrix is refused");
    return PASS;
}

static int cholesky_residuals(void) {
    for (int s = 0; s < COUNT(sizes); s++) {
        int64_t n = sizes[s];
        double *b = random_matrix(n, n, 17), *a = product(b, false, b, true, n, n, n),
               *l = numbers(n * n);
        for (int64_t i = 0; i < n; i++) a[i * n + i] += 0.1;
        memcpy(l, a, (size_t)(n * n) * sizeof *a);
        CHECK(cholesky(l, n, &err) == 0, "n %d: %s", (int)n, err.msg);
        double *back = product(l, false, l, true, n, n, n);
        double residual = difference(back, a, n, n), size = max_abs(a, n * n);
        CHECK(residual <= 1e-14 * (10 + (double)n) * size, "n %d: |A - LL'| %g, |A| %g", (int)n,
              residual, size);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = i + 1; j < n; j++)
                CHECK(l[i * n + j] == 0, "L[%d][%d] = %g", (int)i, (int)j, l[i * n + j]);
        if (n > 0) {                                       // one direction with a negative value
            for (int64_t i = 0; i < n; i++) a[i * n + i] -= (i == n / 2) * 2 * size;
            CHECK(cholesky(a, n, &err) == -1 && strstr(err.msg, "definite"),
                  "n %d: indefinite accepted", (int)n);
        }
        free(a), free(b), free(l), free(back);
    }
    double zero[1] = {0}, nan[1] = {NAN};
    CHECK(cholesky(zero, 1, &err) == -1, "zero is not positive definite");
    CHECK(cholesky(nan, 1, &err) == -1, "NaN is not positive definite");
    return PASS;
}

static int check_svd(const char *name, const double *a, int64_t m, int64_t n) {
    int64_t k = m < n ? m : n;
    double *u = numbers(m * k), *s = numbers(k), *v = numbers(n * k);
    CHECK(svd(a, m, n, u, s, v, &err) == 0, "%s", err.msg);
    double bent = fmax(skew(u, m, k), skew(v, n, k));
    for (int64_t i = 0; i < k; i++)
        CHECK(s[i] >= 0 && (i == 0 || s[i] <= s[i - 1]), "%s (%d, %d): s[%d] = %g", name, (int)m,
              (int)n, (int)i, s[i]);
    for (int64_t i = 0; i < m * k; i++) u[i] *= s[i % k];
    double *back = product(u, false, v, true, m, n, k), residual = difference(back, a, m, n);
    CHECK(residual <= 2e-14 * (10 + (double)k) * max_abs(a, m * n), "%s (%d, %d): |A - USV'| %g",
          name, (int)m, (int)n, residual);
    CHECK(bent <= 4e-13, "%s (%d, %d): |U'U - I|, |V'V - I| %g", name, (int)m, (int)n, bent);
    free(u), free(s), free(v), free(back);
    return PASS;
}

static int svd_residuals(void) {
    static const int64_t shapes[][2] = {{0, 0}, {3, 0}, {1, 1}, {2, 1}, {1, 5}, {7, 7}, {64, 33},
                                        {33, 64}, {200, 100}, {64, 576}, {150, 150}};
    for (int i = 0; i < COUNT(shapes); i++) {
        int64_t m = shapes[i][0], n = shapes[i][1];
        double *a = random_matrix(m, n, 23);
        if (check_svd("random", a, m, n) == FAIL) return FAIL;
        for (int64_t j = 0; j < m * n; j++) a[j] = (double)(j / (n ? n : 1) % 3) - (double)(j % 2);
        if (check_svd("low rank", a, m, n) == FAIL) return FAIL;
        for (int64_t j = 0; j < m * n; j++) a[j] = 0;
        if (check_svd("zero", a, m, n) == FAIL) return FAIL;
        free(a);
    }
    return PASS;
}

// Singular values far below 1e-8 of the largest, which the squared matrix alone would lose.
static int svd_small_values(void) {
    enum { N = 60 };
    double *p = random_matrix(80, N, 3), *q = random_matrix(N, N, 4);
    double u[80 * N], s[N], v[N * N], want[N];
    if (qr(p, 80, N, NULL, &err) < 0 || qr(q, N, N, NULL, &err) < 0) return FAIL;
    for (int i = 0; i < N; i++) want[i] = pow(10, -14.0 * i / (N - 1));
    for (int i = 0; i < 80 * N; i++) p[i] *= want[i % N];
    double *a = product(p, false, q, true, 80, N, N);
    if (check_svd("graded", a, 80, N) == FAIL) return FAIL;
    CHECK(svd(a, 80, N, u, s, v, &err) == 0, "%s", err.msg);
    for (int i = 0; i < N; i++)
        CHECK(fabs(s[i] - want[i]) <= 1e-15 + 1e-12 * want[i], "s[%d] = %.17g, not %.17g", i, s[i],
              want[i]);
    free(a), free(p), free(q);
    return PASS;
}

static int norm(void) {
    for (int n = 0; n < 70; n++) {
        double a[70], want = 0;
        for (int i = 0; i < n; i++) a[i] = i + 1, want += a[i] * a[i];
        CHECK(norm2(a, n) == want, "n %d: %g, not %g", n, norm2(a, n), want);
    }
    return PASS;
}

static const Test tests[] = {
    {"eigenpairs of random matrices", eig_random},
    {"eigenpairs of degenerate matrices", eig_degenerate},
    {"mixed precision captures as much", eig_mixed},
    {"the same bits on any number of threads", eig_threads},
    {"eigenvectors refuse bad input", eig_refuses},
    {"QR residuals", qr_residuals},
    {"Cholesky residuals, indefinite refused", cholesky_residuals},
    {"SVD residuals", svd_residuals},
    {"SVD keeps small singular values", svd_small_values},
    {"norm2 is the sum of squares", norm},
};

int main(int argc, char **argv) { return run_tests("linalg", tests, COUNT(tests), argc, argv); }
