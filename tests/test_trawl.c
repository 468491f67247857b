// trawl: CP and Tucker of three modes against plain sums, and against what must hold of them: exact
// tensors are recovered, errors are those of what is written back, and they fall.
#include "../export/trawl.h"

#include "../core/kernels.h"
#include "../core/linalg.h"
#include "test.h"

static Err err;

static double *numbers(int64_t n) { return calloc((size_t)(n ? n : 1), sizeof(double)); }

static double uniform(uint64_t *state) { return (double)(random_u64(state) >> 11) * 0x1p-52 - 1; }

static double *random_tensor(const int64_t n[3], uint64_t seed) {
    double *t = numbers(n[0] * n[1] * n[2]);
    for (int64_t i = 0; i < n[0] * n[1] * n[2]; i++) t[i] = uniform(&seed);
    return t;
}

// The sum of `rank` random outer products.
static double *low_rank(const int64_t n[3], int64_t rank, uint64_t seed) {
    double *t = numbers(n[0] * n[1] * n[2]), *f[3];
    for (int mode = 0; mode < 3; mode++) {
        f[mode] = numbers(n[mode] * rank);
        for (int64_t i = 0; i < n[mode] * rank; i++) f[mode][i] = uniform(&seed);
    }
    for (int64_t i = 0; i < n[0]; i++)
        for (int64_t j = 0; j < n[1]; j++)
            for (int64_t k = 0; k < n[2]; k++)
                for (int64_t r = 0; r < rank; r++)
                    t[(i * n[1] + j) * n[2] + k] +=
                        f[0][i * rank + r] * f[1][j * rank + r] * f[2][k * rank + r];
    for (int mode = 0; mode < 3; mode++) free(f[mode]);
    return t;
}

static double *copy(const double *t, const int64_t n[3]) {
    double *c = numbers(n[0] * n[1] * n[2]);
    return memcpy(c, t, (size_t)(n[0] * n[1] * n[2]) * sizeof *c);
}

// |T - T'| / |T|
static double distance(const double *t, const double *back, const int64_t n[3]) {
    double sum = 0;
    for (int64_t i = 0; i < n[0] * n[1] * n[2]; i++) sum += (t[i] - back[i]) * (t[i] - back[i]);
    return sqrt(sum / norm2(t, n[0] * n[1] * n[2]));
}

// The rank of a matrix up to rounding, by its singular values.
static int64_t matrix_rank(const double *a, int64_t m, int64_t n) {
    int64_t k = m < n ? m : n, rank = 0;
    double *u = numbers(m * k), *v = numbers(n * k), *s = numbers(k);
    if (svd(a, m, n, u, s, v, &err) < 0) abort();
    while (rank < k && s[rank] > 1e-9 * s[0]) rank++;
    free(u), free(v), free(s);
    return rank;
}

static const int64_t sizes[][3] = {{1, 1, 1}, {9, 1, 1}, {1, 8, 3}, {12, 10, 5}, {7, 20, 1},
                                   {1, 1, 6}, {33, 20, 4}};

static int cp_exact(void) {
    for (int s = 0; s < COUNT(sizes); s++) {
        const int64_t *n = sizes[s];
        for (int64_t rank = 1; rank <= 3; rank++) {
            double *t = low_rank(n, rank, 3 + (uint64_t)rank), *back = copy(t, n), error;
            CHECK(cp_approximate(back, n, rank, 400, 0, &error, &err) == 0, "%s", err.msg);
            CHECK(error < 1e-5 && fabs(error - distance(t, back, n)) < 1e-12,
                  "(%d, %d, %d) of rank %d: error %g, measured %g", (int)n[0], (int)n[1],
                  (int)n[2], (int)rank, error, distance(t, back, n));
            free(t), free(back);
        }
    }
    return PASS;
}

// Every sweep takes the error down, the error is that of what is written back, and this has the
// rank that was asked for. The same with ranks beyond what the tensor or the equations have.
static int cp_falls(void) {
    const int64_t ranks[] = {1, 2, 7, 20, 60};
    for (int s = 0; s < COUNT(sizes); s++) {
        const int64_t *n = sizes[s];
        double *t = random_tensor(n, 11);
        for (int k = 0; k < COUNT(ranks); k++) {
            double before = 1, error;
            for (int sweeps = 1; sweeps <= 12; sweeps++) {
                double *back = copy(t, n);
                CHECK(cp_approximate(back, n, ranks[k], sweeps, -1, &error, &err) == 0, "%s",
                      err.msg);
                CHECK(fabs(error - distance(t, back, n)) < 1e-12, "error %g, measured %g", error,
                      distance(t, back, n));
                CHECK(error <= before * (1 + 1e-9) + 1e-7, "(%d, %d, %d) rank %d: %.12g after %d "
                      "sweeps, %.12g before", (int)n[0], (int)n[1], (int)n[2], (int)ranks[k], error,
                      sweeps, before);
                int64_t rank = sweeps == 12 ? matrix_rank(back, n[0], n[1] * n[2]) : 0;
                CHECK(rank <= ranks[k], "rank %d, not %d", (int)rank, (int)ranks[k]);
                before = error;
                free(back);
            }
        }
        free(t);
    }
    return PASS;
}

// Rank 1 of a matrix, as a tensor of one slice, is its largest singular value.
static int cp_of_a_matrix(void) {
    const int64_t n[3] = {30, 20, 1};
    double *t = random_tensor(n, 5), *back = copy(t, n), error;
    double u[30 * 20], v[20 * 20], s[20];
    CHECK(svd(t, 30, 20, u, s, v, &err) == 0, "%s", err.msg);
    CHECK(cp_approximate(back, n, 1, 2000, 1e-14, &error, &err) == 0, "%s", err.msg);
    double want = sqrt(1 - s[0] * s[0] / norm2(t, 600)), worst = 0;
    CHECK(fabs(error - want) < 1e-8, "error %.12g, by the SVD %.12g", error, want);
    for (int i = 0; i < 600; i++)
        worst = fmax(worst, fabs(back[i] - s[0] * u[i / 20 * 20] * v[i % 20 * 20]));
    CHECK(worst < 1e-3, "off by %g", worst);
    free(t), free(back);
    return PASS;
}

// Larger than a slab. All that is not zero stands in the first slab, so a sum over slabs that
// forgets one shows.
static int cp_in_slabs(void) {
    const int64_t n[3] = {40, 300, 200};
    double *t = low_rank(n, 2, 6), error;
    for (int64_t i = 0; i < 40 * 300 * 200; i++) if (i / 200 % 300 >= 150) t[i] = 0;
    double *back = copy(t, n);
    CHECK(cp_approximate(back, n, 60, 3, -1, &error, &err) == 0, "%s", err.msg);
    CHECK(error < 1e-3 && fabs(error - distance(t, back, n)) < 1e-12, "error %g, measured %g",
          error, distance(t, back, n));
    double one;
    int threads = threads_get();
    double *again = copy(t, n);
    threads_set(1);
    CHECK(cp_approximate(again, n, 60, 3, -1, &one, &err) == 0, "%s", err.msg);
    threads_set(threads);
    CHECK(one == error && !memcmp(again, back, 40 * 300 * 200 * sizeof *t),
          "one thread: error %.17g, not %.17g", one, error);
    free(t), free(back), free(again);
    return PASS;
}

static int cp_stops(void) {
    const int64_t n[3] = {12, 10, 5};
    double *t = random_tensor(n, 8), *two = copy(t, n), *many = copy(t, n), a, b;
    CHECK(cp_approximate(two, n, 4, 2, 0, &a, &err) == 0, "%s", err.msg);
    CHECK(cp_approximate(many, n, 4, 50, 10, &b, &err) == 0, "%s", err.msg);  // two have to be made
    CHECK(a == b && !memcmp(two, many, 600 * sizeof *t), "%g after two sweeps, %g", a, b);
    free(t), free(two), free(many);
    return PASS;
}

static int tucker_three_modes(void) {
    for (int s = 0; s < COUNT(sizes); s++) {
        const int64_t *n = sizes[s];
        double *t = random_tensor(n, 9), error, before = 1;
        for (int part = 1; part <= 4; part++) {
            int64_t rank[3];
            for (int mode = 0; mode < 3; mode++) rank[mode] = (n[mode] * part + 3) / 4;
            double *back = copy(t, n);
            CHECK(tucker3_approximate(back, n, rank, 5, &error, &err) == 0, "%s", err.msg);
            double measured = distance(t, back, n);
            CHECK(fabs(error * error - measured * measured) < 1e-12, "error %g, measured %g", error,
                  measured);
            CHECK(error <= before + 1e-9, "rank %d/4: %g after %g", part, error, before);
            if (part == 4) CHECK(measured == 0, "full rank: %g", measured);
            CHECK(matrix_rank(back, n[0], n[1] * n[2]) <= rank[0], "rank of the first mode");
            before = error;
            free(back);
        }
        free(t);
    }
    // one truncated mode: the truncated SVD of the unfolding
    const int64_t n[3] = {20, 6, 5}, rank[3] = {4, 6, 5};
    double *t = random_tensor(n, 10), u[20 * 20], v[30 * 20], sv[20], error, lost = 0;
    CHECK(svd(t, 20, 30, u, sv, v, &err) == 0, "%s", err.msg);
    for (int i = 4; i < 20; i++) lost += sv[i] * sv[i];
    double want = sqrt(lost / norm2(t, 600));
    CHECK(tucker3_approximate(t, n, rank, 5, &error, &err) == 0, "%s", err.msg);
    CHECK(fabs(error - want) < 1e-12, "error %g, by the SVD %g", error, want);
    free(t);
    return PASS;
}

static int zeros(void) {
    const int64_t n[3] = {6, 5, 4}, rank[3] = {2, 2, 2};
    double *t = numbers(120), error = 1;
    CHECK(cp_approximate(t, n, 3, 5, 0, &error, &err) == 0 && error == 0, "%s", err.msg);
    error = 1;
    CHECK(tucker3_approximate(t, n, rank, 5, &error, &err) == 0 && error == 0, "%s", err.msg);
    for (int i = 0; i < 120; i++) CHECK(t[i] == 0, "%d is %g", i, t[i]);
    // a slice, a row and a column of zeros stay zero beside one that is not
    for (int i = 0; i < 120; i++)
        if (i / 20 != 2 && i / 4 % 5 != 1 && i % 4 != 3) t[i] = 1 + i % 7;
    CHECK(cp_approximate(t, n, 8, 20, 0, &error, &err) == 0 && error < 0.5, "%s %g", err.msg,
          error);
    for (int i = 0; i < 120; i++) {
        CHECK(isfinite(t[i]), "%d is %g", i, t[i]);
        if (i / 20 == 2 || i / 4 % 5 == 1 || i % 4 == 3)
            CHECK(fabs(t[i]) < 1e-9, "%d is %g, not 0", i, t[i]);
    }
    // squares of these numbers underflow: nothing is found, but no number is lost
    for (int i = 0; i < 120; i++) t[i] = 3e-163 * (1 + i % 7);
    CHECK(cp_approximate(t, n, 3, 5, 0, &error, &err) == 0 && isfinite(error), "%s %g",
          err.msg, error);
    for (int i = 0; i < 120; i++) CHECK(isfinite(t[i]), "%d is %g", i, t[i]);
    free(t);
    return PASS;
}

static int refusals(void) {
    const int64_t n[3] = {2, 2, 2}, none[3] = {2, 0, 2}, huge[3] = {INT64_MAX / 2, 9, 9};
    const int64_t high[3] = {2, 3, 2};
    double t[8] = {1, 2, 3, 4, 5, 6, 7, NAN}, error;
    CHECK(cp_approximate(t, n, 1, 5, 0, &error, &err) == -1 && strstr(err.msg, "finite"), "%s",
          err.msg);
    t[7] = 8;
    CHECK(cp_approximate(t, n, 0, 5, 0, &error, &err) == -1 && strstr(err.msg, "rank 0"), "%s",
          err.msg);
    CHECK(cp_approximate(t, n, 1, 0, 0, &error, &err) == -1, "no sweeps");
    CHECK(cp_approximate(t, none, 1, 5, 0, &error, &err) == -1, "no columns");
    CHECK(cp_approximate(t, huge, 1, 5, 0, &error, &err) == -1, "huge");
    CHECK(tucker3_approximate(t, n, high, 5, &error, &err) == -1, "rank 3 of 2");
    CHECK(tucker3_approximate(t, none, n, 5, &error, &err) == -1, "no columns");
    for (int i = 0; i < 8; i++) CHECK(t[i] == i + 1, "a refused tensor was changed");
    interrupted = 1;
    CHECK(cp_approximate(t, n, 1, 5, 0, &error, &err) == -1 && strstr(err.msg, "interrupted"), "%s",
          err.msg);
    interrupted = 0;
    return PASS;
}

static int params(void) {
    const int64_t n[3] = {1536, 576, 90}, rank[3] = {200, 100, 30}, full[3] = {200, 576, 90};
    CHECK(cp_params(n, 100) == 100 * (1536 + 576 + 90), "CP %g", cp_params(n, 100));
    CHECK(tucker3_params(n, rank) == 200 * 100 * 30 + 1536 * 200 + 576 * 100 + 90 * 30, "Tucker %g",
          tucker3_params(n, rank));
    CHECK(tucker3_params(n, full) == 200. * 576 * 90 + 1536 * 200, "Tucker, full modes %g",
          tucker3_params(n, full));
    CHECK(tucker3_params(n, n) == 1536. * 576 * 90, "Tucker, full %g", tucker3_params(n, n));
    return PASS;
}

static const Test tests[] = {
    {"CP recovers an exact tensor", cp_exact},
    {"CP's error is true and falls in every sweep", cp_falls},
    {"CP of rank 1 of a matrix", cp_of_a_matrix},
    {"CP over several slabs, on any number of threads", cp_in_slabs},
    {"CP stops", cp_stops},
    {"Tucker of three modes", tucker_three_modes},
    {"zeros", zeros},
    {"bad input is refused", refusals},
    {"parameter counts", params},
};

int main(int argc, char **argv) { return run_tests("trawl", tests, COUNT(tests), argc, argv); }
