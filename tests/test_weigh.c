// weigh: residuals and optimality. What the module says of itself (loss by eigenvalues, X) is held
// against definitions by plain loops and against factors that are a little different.
#include "../export/weigh.h"

#include <float.h>

#include "../core/gguf.h"
#include "../core/linalg.h"
#include "matrices.h"

static Err err;

static double difference(const double *a, const double *b, int64_t n) {
    double worst = 0;
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(a[i] - b[i]) <= worst)) worst = fabs(a[i] - b[i]);
    return worst;
}

static double max_abs(const double *a, int64_t n) {
    double m = 0;
    for (int64_t i = 0; i < n; i++) if (!(fabs(a[i]) <= m)) m = fabs(a[i]);
    return m;
}

static double *columns(const double *a, int64_t m, int64_t n, int64_t r) {   // the first r of n
    double *b = numbers(m * r);
    for (int64_t i = 0; i < m; i++) memcpy(b + i * r, a + i * n, (size_t)r * sizeof *b);
    return b;
}

// Symmetric (n, n) with eigenvalues falling evenly in the logarithm from 1 to `last`; those behind
// the first `rank` are zero. Random vectors.
static double *spectrum(int64_t n, int64_t rank, double last, uint64_t seed) {
    double *v = random_matrix(n, n, seed), *s = numbers(n * n);
    if (qr(v, n, n, NULL, &err) < 0) abort();
    for (int64_t i = 0; i < n * n; i++) {
        int64_t j = i % n;
        s[i] = j < rank ? v[i] * pow(last, n > 1 ? (double)j / (double)(n - 1) : 0) : 0;
    }
    double *a = product(s, false, v, true, n, n, n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++) a[i * n + j] = a[j * n + i];
    free(v), free(s);
    return a;
}

static double *metric(int64_t m, int64_t block, double last, uint64_t seed) {
    double *d2 = numbers(m * block);
    for (int64_t row = 0; row < m; row += block) {
        double *one = spectrum(block, block, last, seed + (uint64_t)row);
        double scale = 0.1 + (double)(row / block);        // heads that matter differently
        for (int64_t i = 0; i < block * block; i++) d2[row * block + i] = one[i] * scale;
        free(one);
    }
    return d2;
}

// The whole (m, m) matrix D^2 + ridge, as weigh.h describes it.
static double *whole_metric(Metric d2, int64_t m, double ridge) {
    double *full = numbers(m * m), all = 0;
    int64_t n = d2.p ? d2.block : 1;
    for (int64_t i = 0; i < m; i++) all += d2.p ? d2.p[i * n + i % n] / (double)m : 0;
    for (int64_t row = 0; row < m; row += n) {
        double mean = 0;
        for (int64_t i = 0; i < n; i++) mean += d2.p ? d2.p[(row + i) * n + i] / (double)n : 1;
        for (int64_t i = 0; i < n; i++) {
            for (int64_t j = 0; j < n; j++)
                full[(row + i) * m + row + j] = d2.p ? d2.p[(row + i) * n + j] : 1;
            if (mean == 0) full[(row + i) * m + row + i] = all > 0 ? all : 1;
            else if (d2.p) full[(row + i) * m + row + i] += ridge * mean;
        }
    }
    return full;
}

// tr(D^2 E C E^T) by the definition, d2 (m, m)
static double plain_loss(const double *w, int64_t m, int64_t n, const double *c, const double *d2,
                         const double *b, const double *a, int64_t r) {
    double *rest = product(b, false, a, false, m, n, r), sum = 0;
    for (int64_t i = 0; i < m * n; i++) rest[i] = w[i] - rest[i];
    double *de = product(d2, false, rest, false, m, n, m);
    double *ec = c ? product(rest, false, c, false, m, n, n) : NULL;
    for (int64_t i = 0; i < m * n; i++) sum += de[i] * (c ? ec : rest)[i];
    free(rest), free(de), free(ec);
    return sum;
}

// Everything that weigh.h promises of one case.
static int check_weigh(const char *name, const double *w, int64_t m, int64_t n, const double *c,
                       Metric d2, double ridge) {
    Weighted f;
    CHECK(weigh(&f, w, m, n, c, d2, ridge, &err) == 0, "%s: %s", name, err.msg);
    CHECK(f.m == m && f.n == n, "%s", name);
    double *full = whole_metric(d2, m, ridge), total = weighted_loss(&f, 0);
    Metric ridged = {full, m};
    double none = plain_loss(w, m, n, c, full, f.left, f.right, 0);
    CHECK(fabs(none - total) <= 1e-9 * none, "%s: total %g, by definition %g", name, total, none);
    CHECK(weighted_loss(&f, m) == 0, "%s: loss of full rank", name);
    for (int64_t i = 0; i < m; i++)
        CHECK(f.values[i] >= 0 && (i == 0 || f.values[i] <= f.values[i - 1]), "%s: value %d is %g",
              name, (int)i, f.values[i]);
    CHECK(isfinite(max_abs(f.left, m * m)) && isfinite(max_abs(f.right, m * n)), "%s", name);

    // B^T D^2 B = I
    double *db = product(full, false, f.left, false, m, m, m);
    double *bdb = product(f.left, true, db, false, m, m, m);
    for (int64_t i = 0; i < m * m; i++) bdb[i] -= i / m == i % m;
    CHECK(max_abs(bdb, m * m) < 1e-9, "%s: |B'D2B - I| %g", name, max_abs(bdb, m * m));
    // A C A^T = diag(values)
    double *ac = c ? product(f.right, false, c, false, m, n, n) : NULL;
    double *aca = product(c ? ac : f.right, false, f.right, true, m, m, n);
    for (int64_t i = 0; i < m; i++) aca[i * m + i] -= f.values[i];
    CHECK(max_abs(aca, m * m) <= 1e-11 * f.values[0], "%s: |A C A' - values| %g of %g", name,
          max_abs(aca, m * m), f.values[0]);
    free(db), free(bdb), free(ac), free(aca);

    int64_t least = m < n ? m : n;
    const int64_t ranks[] = {0, 1, (least + 1) / 2, least - 1, least, m};
    for (int i = 0; i < COUNT(ranks); i++) {
        int64_t r = ranks[i];
        double *b = columns(f.left, m, m, r), loss;
        CHECK(weighted_loss_of(w, m, n, c, ridged, b, f.right, r, &loss, &err) == 0, "%s", err.msg);
        double plain = plain_loss(w, m, n, c, full, b, f.right, r);
        CHECK(fabs(loss - plain) <= 1e-11 * total, "%s r %d: loss %g, plainly %g", name, (int)r,
              loss, plain);
        CHECK(fabs(loss - weighted_loss(&f, r)) <= 1e-9 * total, "%s r %d: %g by definition, %g by "
              "eigenvalues, of %g", name, (int)r, loss, weighted_loss(&f, r), total);
        if (d2.p && ridge == 0) {                          // the same with the blocks as they came
            CHECK(weighted_loss_of(w, m, n, c, d2, b, f.right, r, &plain, &err) == 0, "%s",
                  err.msg);
            CHECK(fabs(loss - plain) <= 1e-11 * total, "%s r %d: blocks %g, whole %g", name, (int)r,
                  plain, loss);
        }
        if (r >= least) {                                  // whatever C is
            double *ba = product(b, false, f.right, false, m, n, r);
            CHECK(difference(ba, w, m * n) <= 1e-9 * max_abs(w, m * n), "%s: full rank is off by "
                  "%g", name, difference(ba, w, m * n));
            free(ba);
        }
        free(b);
    }
    weighted_free(&f);
    weighted_free(&f);
    free(full);
    return PASS;
}

static const int64_t shapes[][2] = {{1, 1}, {1, 9}, {7, 1}, {12, 12}, {16, 40}, {40, 16}, {32, 48}};

static int identities(void) {
    for (int s = 0; s < COUNT(shapes); s++) {
        int64_t m = shapes[s][0], n = shapes[s][1];
        double *w = random_matrix(m, n, 1), *c = spectrum(n, n, 1e-4, 2);
        char name[64];
        for (int64_t block = 0; block <= m; block++) {
            if (block && m % block) continue;
            double *d2 = block ? metric(m, block, 1e-3, 3) : NULL;
            for (int ridge = 0; ridge < 2; ridge++)
                for (int with_c = 0; with_c < 2; with_c++) {
                    snprintf(name, sizeof name, "(%d, %d) block %d, ridge %d, C %d", (int)m, (int)n,
                             (int)block, ridge, with_c);
                    if (check_weigh(name, w, m, n, with_c ? c : NULL, (Metric){d2, block},
                                    ridge * 1e-3) == FAIL) return FAIL;
                }
            free(d2);
        }
        free(w), free(c);
    }
    return PASS;
}

static int ill_conditioned(void) {
    for (int s = 0; s < COUNT(shapes); s++) {
        int64_t m = shapes[s][0], n = shapes[s][1];
        double *w = random_matrix(m, n, 4), *d2 = metric(m, m, 1e-4, 5);
        double *thin = random_matrix(m, n, 6), *zero = numbers(n * n + m * m);
        for (int64_t i = 0; i < m * n; i++) if (i / n % 3 == 1) thin[i] = 0;   // zero rows
        struct { const char *name; int64_t rank; double last; } set[] = {
            {"condition 1e12", n, 1e-12}, {"rank 1", 1, 1}, {"half the rank", (n + 1) / 2, 1e-2},
            {"half the rank, condition 1e6", (n + 1) / 2, 1e-12}, {"zero", 0, 1}};
        for (int k = 0; k < COUNT(set); k++) {
            double *c = spectrum(n, set[k].rank, set[k].last, 7);
            if (check_weigh(set[k].name, w, m, n, c, (Metric){NULL, 0}, 0) == FAIL ||
                check_weigh(set[k].name, w, m, n, c, (Metric){d2, m}, 0) == FAIL ||
                check_weigh(set[k].name, thin, m, n, c, (Metric){d2, m}, 1e-3) == FAIL ||
                check_weigh(set[k].name, w, m, n, c, (Metric){zero, m}, 1e-3) == FAIL ||
                check_weigh(set[k].name, zero, m, n, c, (Metric){d2, m}, 0) == FAIL) return FAIL;
            free(c);
        }
        free(w), free(d2), free(thin), free(zero);
    }
    return PASS;
}

// Heads without weight in the metric, heads of zeros, metrics tiny, huge and of deficient rank.
static int odd_metrics(void) {
    enum { M = 24, N = 30, HD = 8 };
    double *w = random_matrix(M, N, 8), *c = spectrum(N, N, 1e-3, 9), *d2 = metric(M, HD, 1e-2, 10);
    double *one = numbers(M);
    for (int64_t i = 0; i < HD * HD; i++) d2[HD * HD + i] = 0;
    if (check_weigh("a zero block", w, M, N, c, (Metric){d2, HD}, 1e-3) == FAIL) return FAIL;
    for (int64_t i = 0; i < HD * N; i++) w[2 * HD * N + i] = 0;
    if (check_weigh("a zero head too", w, M, N, c, (Metric){d2, HD}, 1e-3) == FAIL) return FAIL;
    for (int64_t i = 0; i < M; i++) one[i] = i % 5 ? (double)i : 0;
    if (check_weigh("a diagonal with zeros", w, M, N, c, (Metric){one, 1}, 1e-3) == FAIL)
        return FAIL;
    for (int power = -60; power <= 60; power += 120) {
        for (int64_t i = 0; i < M * HD; i++) d2[i] = ldexp(d2[i], power);
        if (check_weigh("scaled", w, M, N, c, (Metric){d2, HD}, 1e-3) == FAIL) return FAIL;
        for (int64_t i = 0; i < M * HD; i++) d2[i] = ldexp(d2[i], -power);
    }
    // Of rank 3 a block and without a ridge: finite, and its own loss still right.
    for (int64_t row = 0; row < M; row += HD) {
        double *block = spectrum(HD, 3, 1e-2, 11 + (uint64_t)row);
        memcpy(d2 + row * HD, block, HD * HD * sizeof *block);
        free(block);
    }
    Weighted f;
    CHECK(weigh(&f, w, M, N, c, (Metric){d2, HD}, 0, &err) == 0, "%s", err.msg);
    for (int64_t r = 0; r <= M; r++) {
        double *b = columns(f.left, M, M, r), loss;
        CHECK(weighted_loss_of(w, M, N, c, (Metric){d2, HD}, b, f.right, r, &loss, &err) == 0, "%s",
              err.msg);
        CHECK(fabs(loss - weighted_loss(&f, r)) <= 1e-9 * weighted_loss(&f, 0),
              "rank-deficient metric, r %d: %g, not %g", (int)r, loss, weighted_loss(&f, r));
        free(b);
    }
    weighted_free(&f);
    free(w), free(c), free(d2), free(one);
    return PASS;
}

// Solves S X = Y for the symmetric positive definite s (n, n), overwritten; y (n, k) becomes X.
static void solve(double *s, int64_t n, double *y, int64_t k) {
    if (cholesky(s, n, &err) < 0) abort();
    for (int64_t col = 0; col < k; col++) {
        for (int64_t i = 0; i < n; i++) {
            for (int64_t j = 0; j < i; j++) y[i * k + col] -= s[i * n + j] * y[j * k + col];
            y[i * k + col] /= s[i * n + i];
        }
        for (int64_t i = n - 1; i >= 0; i--) {
            for (int64_t j = i + 1; j < n; j++) y[i * k + col] -= s[j * n + i] * y[j * k + col];
            y[i * k + col] /= s[i * n + i];
        }
    }
}

// Neither steps in random directions, nor the best A for this B, nor the best B for this A, nor
// alternating between them from a random start, gets below the loss.
static int optimality(void) {
    enum { M = 20, N = 28, R = 7, HD = 5 };
    double *w = random_matrix(M, N, 12), *c = spectrum(N, N, 1e-3, 13);
    double *p = metric(M, HD, 1e-2, 14);
    Metric d2 = {p, HD};
    Weighted f;
    CHECK(weigh(&f, w, M, N, c, d2, 0, &err) == 0, "%s", err.msg);
    double best = weighted_loss(&f, R), loss, *b = columns(f.left, M, M, R), *a = numbers(R * N);
    memcpy(a, f.right, R * N * sizeof *a);

    uint64_t state = 15;
    for (int step = 0; step < 400; step++) {
        double size = pow(10, -step % 8), *b2 = numbers(M * R), *a2 = numbers(R * N);
        for (int i = 0; i < M * R; i++) b2[i] = b[i] + (step % 3 != 1) * size * gauss(&state);
        for (int i = 0; i < R * N; i++) a2[i] = a[i] + (step % 3 != 2) * size * gauss(&state);
        CHECK(weighted_loss_of(w, M, N, c, d2, b2, a2, R, &loss, &err) == 0, "%s", err.msg);
        CHECK(loss >= best * (1 - 1e-12), "step %d of %g: %.17g below %.17g", step, size,
              loss, best);
        free(b2), free(a2);
    }

    double *full = whole_metric(d2, M, 0), *wc = product(w, false, c, false, M, N, N);
    double *dw = product(full, false, w, false, M, N, M);
    for (int start = 0; start < 2; start++) {
        double before = INFINITY;
        if (start) for (int i = 0; i < R * N; i++) a[i] = gauss(&state);
        for (int sweep = 0; sweep < 150; sweep++) {
            double *ac = product(a, false, c, false, R, N, N);         // B = W C A^T (A C A^T)^-1
            double *aca = product(ac, false, a, true, R, R, N);
            double *bt = product(a, false, wc, true, R, M, N);
            solve(aca, R, bt, M);
            for (int i = 0; i < M * R; i++) b[i] = bt[i % R * M + i / R];
            double *db = product(full, false, b, false, M, R, M);      // A = (B'D2B)^-1 B'D2 W
            double *bdb = product(b, true, db, false, R, R, M);
            double *next = product(b, true, dw, false, R, N, M);
            solve(bdb, R, next, N);
            memcpy(a, next, R * N * sizeof *a);
            free(ac), free(aca), free(bt), free(db), free(bdb), free(next);
            CHECK(weighted_loss_of(w, M, N, c, d2, b, a, R, &loss, &err) == 0, "%s", err.msg);
            CHECK(loss >= best * (1 - 1e-11), "refit %d: %.17g below %.17g", sweep, loss, best);
            CHECK(loss <= before * (1 + 1e-11), "refit %d: rises to %g from %g", sweep, loss,
                  before);
            before = loss;
        }
        // The test can tell: from the random start the refits do come down to the same loss.
        CHECK(loss <= best * 1.001, "start %d: refits end at %g, not %g", start, loss, best);
    }
    weighted_free(&f);
    free(w), free(c), free(p), free(b), free(a), free(full), free(wc), free(dw);
    return PASS;
}

// Without weights it is the truncated SVD.
static int truncated_svd(void) {
    for (int s = 0; s < COUNT(shapes); s++) {
        int64_t m = shapes[s][0], n = shapes[s][1], k = m < n ? m : n, r = (k + 2) / 3;
        double *w = random_matrix(m, n, 16), *u = numbers(m * k), *v = numbers(n * k);
        double *sigma = numbers(k);
        Weighted f;
        CHECK(svd(w, m, n, u, sigma, v, &err) == 0, "%s", err.msg);
        CHECK(weigh(&f, w, m, n, NULL, (Metric){NULL, 0}, 0, &err) == 0, "%s", err.msg);
        for (int64_t i = 0; i < m; i++) {
            double want = i < k ? sigma[i] * sigma[i] : 0;
            CHECK(fabs(f.values[i] - want) <= 1e-12 * sigma[0] * sigma[0], "value %d: %g, not %g",
                  (int)i, f.values[i], want);
        }
        double *b = columns(f.left, m, m, r), *ba = product(b, false, f.right, false, m, n, r);
        double *ur = columns(u, m, k, r), *vr = columns(v, n, k, r);
        for (int64_t i = 0; i < m * r; i++) ur[i] *= sigma[i % r];
        double *svd_r = product(ur, false, vr, true, m, n, r);
        CHECK(difference(ba, svd_r, m * n) <= 1e-10 * sigma[0], "(%d, %d): off by %g", (int)m,
              (int)n, difference(ba, svd_r, m * n));
        weighted_free(&f);
        free(w), free(u), free(v), free(sigma), free(b), free(ba), free(ur), free(vr), free(svd_r);
    }
    return PASS;
}

// A rank beyond that of C goes to what W still holds: with half of C missing, what is left of W
// falls with every further rank, as fast as its own singular values.
static int unseen_directions(void) {
    enum { M = 20, N = 24, SEEN = 6 };
    double *w = random_matrix(M, N, 17), *c = spectrum(N, SEEN, 1e-2, 18);
    Weighted f;
    CHECK(weigh(&f, w, M, N, c, (Metric){NULL, 0}, 0, &err) == 0, "%s", err.msg);
    CHECK(weighted_loss(&f, SEEN) <= 1e-12 * weighted_loss(&f, 0), "loss past the rank of C");
    for (int64_t i = SEEN; i < M; i++) {
        double row = norm2(f.right + i * N, N);
        CHECK(i == SEEN || row <= norm2(f.right + (i - 1) * N, N) * (1 + 1e-9), "row %d grows",
              (int)i);
        for (int64_t j = SEEN; j < i; j++) {
            double dot = 0;
            for (int64_t k = 0; k < N; k++) dot += f.right[i * N + k] * f.right[j * N + k];
            CHECK(fabs(dot) <= 1e-10 * row, "rows %d and %d: %g", (int)i, (int)j, dot);
        }
    }
    weighted_free(&f);
    free(w), free(c);
    return PASS;
}

static int refusals(void) {
    double w[6] = {1, 2, 3, 4, 5, 6}, bad[9] = {1, 0, 0, 0, NAN, 0, 0, 0, 1}, x[6];
    double b[4] = {1, 0, 0, 1};
    int32_t pivot[3];
    Weighted f;
    CHECK(weigh(&f, w, 2, 3, bad, (Metric){NULL, 0}, 0, &err) == -1 && strstr(err.msg, "finite") &&
          !f.values && !f.left && !f.right, "%s", err.msg);
    CHECK(weigh(&f, w, 3, 2, NULL, (Metric){bad, 3}, 0, &err) == -1 && strstr(err.msg, "finite"),
          "%s", err.msg);
    CHECK(weigh(&f, w, 3, 2, NULL, (Metric){w, 2}, 0, &err) == -1 && strstr(err.msg, "blocks of 2"),
          "%s", err.msg);
    CHECK(weigh(&f, w, 0, 2, NULL, (Metric){NULL, 0}, 0, &err) == -1, "no rows");
    CHECK(weigh(&f, w, 2, 3, NULL, (Metric){NULL, 0}, -1, &err) == -1, "a negative ridge");
    CHECK(weigh(&f, w, INT64_MAX / 2, INT64_MAX / 2, NULL, (Metric){NULL, 0}, 0, &err) == -1,
          "a huge shape");
    CHECK(pivot_factors(b, 2, w, 3, 2, pivot, x, &err) == -1, "3 pivots of 2 columns");
    bad[0] = INFINITY;
    CHECK(pivot_factors(b, 2, bad, 1, 3, pivot, x, &err) == -1 && strstr(err.msg, "finite"), "%s",
          err.msg);
    return PASS;
}

// ---- pivoted storage ----------------------------------------------------------------------------

// B A against (B L) [I X] P multiplied out; the pivots; the size of X. tolerance: of |B A|.
static int check_pivot(const char *name, const double *b, int64_t m, const double *a, int64_t r,
                       int64_t n, double tolerance) {
    double *bl = numbers(m * r), *x = numbers(r * (n - r)), *ax = numbers(r * n);
    int32_t *pivot = calloc((size_t)r, sizeof *pivot);
    memcpy(bl, b, (size_t)(m * r) * sizeof *b);
    CHECK(pivot_factors(bl, m, a, r, n, pivot, x, &err) == 0, "%s: %s", name, err.msg);
    int64_t p = 0, rest = 0;
    for (int64_t j = 0; j < n; j++) {
        if (p < r && pivot[p] == j) {
            ax[p++ * n + j] = 1;
        } else {
            CHECK(rest < n - r, "%s (%d, %d, %d): pivot %d is not ascending", name, (int)m, (int)r,
                  (int)n, (int)p);
            for (int64_t i = 0; i < r; i++) ax[i * n + j] = x[i * (n - r) + rest];
            rest++;
        }
    }
    CHECK(p == r, "%s: %d of %d pivots met", name, (int)p, (int)r);
    double *want = product(b, false, a, false, m, n, r);
    double *got = product(bl, false, ax, false, m, n, r);
    CHECK(difference(got, want, m * n) <= tolerance * max_abs(want, m * n),
          "%s (%d, %d, %d): off by %g of %g", name, (int)m, (int)r, (int)n,
          difference(got, want, m * n), max_abs(want, m * n));
    CHECK(max_abs(x, r * (n - r)) <= 1.5 * (1 + 1e-9), "%s (%d, %d, %d): |X| %g", name, (int)m, (int)r, (int)n,
          max_abs(x, r * (n - r)));
    free(bl), free(x), free(ax), free(pivot), free(want), free(got);
    return PASS;
}

static int pivots(void) {
    const int64_t sizes[][3] = {{1, 1, 1}, {5, 1, 9}, {4, 3, 3}, {8, 5, 6}, {30, 20, 40},
                                {64, 50, 96}, {40, 90, 130}};
    for (int s = 0; s < COUNT(sizes); s++) {
        int64_t m = sizes[s][0], r = sizes[s][1], n = sizes[s][2];
        double *b = random_matrix(m, r, 20), *a = random_matrix(r, n, 21);
        if (check_pivot("random", b, m, a, r, n, 1e-10) == FAIL) return FAIL;
        for (int64_t i = 0; i < r * n; i++) a[i] *= pow(10, -6.0 * (double)(i / n) / (double)r);
        if (check_pivot("graded rows", b, m, a, r, n, 1e-10) == FAIL) return FAIL;
        for (int64_t i = 0; i < r * n; i++) a[i] *= pow(10, 6.0 * (double)(i % n) / (double)n);
        if (check_pivot("graded columns", b, m, a, r, n, 1e-10) == FAIL) return FAIL;
        for (int64_t i = 0; i < r * n; i++) a[i] *= 1e-200;
        if (check_pivot("tiny", b, m, a, r, n, 1e-10) == FAIL) return FAIL;
        // Kahan's matrix: QR with column pivoting keeps its order, and X grows with the size
        double power = 1;
        for (int64_t i = 0; i < r; i++, power *= sin(1.2))
            for (int64_t j = 0; j < n; j++) a[i * n + j] = j < i ? 0 : j == i ? power
                                                         : -power * cos(1.2);
        if (check_pivot("Kahan", b, m, a, r, n, 1e-9) == FAIL) return FAIL;
        free(a), free(b);
    }
    return PASS;
}

static int pivots_of_deficient_rank(void) {
    const int64_t sizes[][4] = {{5, 4, 9, 0}, {5, 4, 9, 1}, {8, 6, 6, 3}, {30, 20, 40, 12},
                                {30, 40, 64, 39}};
    for (int s = 0; s < COUNT(sizes); s++) {
        int64_t m = sizes[s][0], r = sizes[s][1], n = sizes[s][2], rank = sizes[s][3];
        double *b = random_matrix(m, r, 22), *left = random_matrix(r, rank, 23);
        double *right = random_matrix(rank, n, 24);
        double *a = product(left, false, right, false, r, n, rank);
        if (check_pivot("deficient", b, m, a, r, n, 1e-10) == FAIL) return FAIL;
        for (int64_t i = 0; i < r * n; i++) if (i % n % 2) a[i] = 0;
        if (check_pivot("zero columns", b, m, a, r, n, 1e-10) == FAIL) return FAIL;
        for (int64_t i = 0; i < r * n; i++) if (i / n % 2) a[i] = 0;
        if (check_pivot("zero rows", b, m, a, r, n, 1e-10) == FAIL) return FAIL;
        free(b), free(left), free(right), free(a);
    }
    return PASS;
}

// The trained model of the repository: factors of its matrices, weighted by the covariance of its
// own embeddings, multiply back from pivoted storage at every rank tried.
static int real_matrices(void) {
    Gguf g;
    if (gguf_open(&g, "models/stories.gguf", &err) < 0) return SKIP;
    Mat embd;
    CHECK(gguf_mat(&g, "token_embd.weight", -1, -1, &embd, &err) == 0, "%s", err.msg);
    const int64_t d = embd.cols;
    double *c = numbers(d * d);
    float *row = calloc((size_t)d, sizeof *row);
    for (int64_t t = 0; t < embd.rows; t++) {
        mat_row(&embd, t, row);
        for (int64_t i = 0; i < d; i++)
            for (int64_t j = 0; j < d; j++)
                c[i * d + j] += (double)row[i] * row[j] / (double)embd.rows;
    }
    const char *names[] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate"};
    for (int i = 0; i < 2 * COUNT(names); i++) {
        char name[64];
        Mat mat;
        snprintf(name, sizeof name, "blk.%d.%s.weight", 2 * (i % 2), names[i / 2]);
        CHECK(gguf_mat(&g, name, -1, d, &mat, &err) == 0, "%s", err.msg);
        const int64_t m = mat.rows, least = m < d ? m : d;
        double *w = numbers(m * d);
        for (int64_t r = 0; r < m; r++) {
            mat_row(&mat, r, row);
            for (int64_t j = 0; j < d; j++) w[r * d + j] = row[j];
        }
        Weighted f;
        CHECK(weigh(&f, w, m, d, c, (Metric){NULL, 0}, 0, &err) == 0, "%s: %s", name, err.msg);
        const int64_t ranks[] = {1, least / 4, least / 2, least * 3 / 4, least};
        for (int k = 0; k < COUNT(ranks); k++) {
            double *b = columns(f.left, m, m, ranks[k]);
            if (check_pivot(name, b, m, f.right, ranks[k], d, 1e-9) == FAIL) return FAIL;
            free(b);
        }
        weighted_free(&f);
        free(w);
    }
    gguf_free(&g);
    free(c), free(row);
    return PASS;
}

static const Test tests[] = {
    {"identities at every block size", identities},
    {"ill-conditioned and rank-deficient C, zero W", ill_conditioned},
    {"metrics with zeros and of deficient rank", odd_metrics},
    {"no other factors do better", optimality},
    {"identity weights: truncated SVD", truncated_svd},
    {"ranks beyond that of C", unseen_directions},
    {"bad input is refused", refusals},
    {"pivoted factors multiply back, |X| <= 1.5", pivots},
    {"pivoted factors of deficient rank", pivots_of_deficient_rank},
    {"pivoted factors of real matrices", real_matrices},
};

int main(int argc, char **argv) { return run_tests("weigh", tests, COUNT(tests), argc, argv); }
