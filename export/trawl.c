// trawl: CP by alternating least squares, and Tucker of three modes, of stacked weight matrices.
// Knows no layers and no files. With T_(0) the tensor seen as a matrix (rows, cols * count), which
// is how it lies in memory, and B * C the matrix (cols * count, rank) of all products b_jr c_kr,
// nearly all the work is T_(0) (B * C) and T_(0)^T A, both plain matrix products.
#include "trawl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../core/kernels.h"
#include "../core/linalg.h"
#include "../tucker.h"

static int check_tensor(const char *what, const int64_t n[3], Err *e) {
    size_t size = sizeof(double);
    for (int mode = 0; mode < 3; mode++)
        if (n[mode] < 1 || !mul_size(size, (size_t)n[mode], &size))
            return fail(e, "%s: a tensor of %lld x %lld x %lld", what, (long long)n[0],
                        (long long)n[1], (long long)n[2]);
    return 0;
}

double cp_params(const int64_t n[3], int64_t rank) {
    return (double)rank * ((double)n[0] + (double)n[1] + (double)n[2]);
}

// A mode of full rank has no factor: it would be the identity.
double tucker3_params(const int64_t n[3], const int64_t rank[3]) {
    double sum = (double)rank[0] * (double)rank[1] * (double)rank[2];
    for (int mode = 0; mode < 3; mode++)
        if (rank[mode] < n[mode]) sum += (double)n[mode] * (double)rank[mode];
    return sum;
}

// ---- CP -----------------------------------------------------------------------------------------

enum { TILE = 64 };                // rows of a factor that are solved together

// t ~ sum over r of length[r] a_r o b_r o c_r, columns of the factors of unit length (or zero).
typedef struct {
    int64_t n[3], rank;
    double *factor[3];             // A (rows, rank), B (cols, rank), C (count, rank)
    double *length;                // (rank)
    double *gram[3];               // (rank, rank) A^T A, B^T B, C^T C
    double *normal;                // (rank, rank) the normal equations, then their Cholesky factor
    double *rhs, *rhs_c;           // (rows or cols, rank), (count, rank) their right-hand sides
    double *tile;                  // (rank, TILE)
    double *slab;                  // (step * count, rank): of `step` columns, B * C or T_(0)^T A
    double *back;                  // (rows, step * count): the same columns, approximated
    int64_t step;
} Cp;

static void cp_free(Cp *p) {
    for (int mode = 0; mode < 3; mode++) free(p->factor[mode]), free(p->gram[mode]);
    free(p->length), free(p->normal), free(p->rhs), free(p->rhs_c);
    free(p->tile), free(p->slab), free(p->back);
}

// Columns of f (n, rank) to unit length, and their lengths. A zero column stays.
static void normalise(double *f, int64_t n, int64_t rank, double *length) {
    memset(length, 0, (size_t)rank * sizeof *length);
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < rank; r++) length[r] += f[i * rank + r] * f[i * rank + r];
    for (int64_t r = 0; r < rank; r++) length[r] = sqrt(length[r]);
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < rank; r++) if (length[r] > 0) f[i * rank + r] /= length[r];
}

// A factor just solved for takes all of the length; its Gram matrix follows.
static void settle(Cp *p, int mode) {
    const int64_t rank = p->rank;
    double *f = p->factor[mode];
    normalise(f, p->n[mode], rank, p->length);
    dgemm(true, false, rank, rank, p->n[mode], f, rank, f, rank, 0, p->gram[mode], rank);
}

static int cp_new(Cp *p, const int64_t n[3], int64_t rank, Err *e) {
    enum { SLAB = 1 << 21 };       // numbers: 16 MB
    *p = (Cp){.n = {n[0], n[1], n[2]}, .rank = rank};
    const int64_t longest = n[0] > n[1] ? n[0] : n[1], wide = rank > n[0] ? rank : n[0];
    p->step = SLAB / wide / n[2];
    if (p->step < 1) p->step = 1;
    if (p->step > n[1]) p->step = n[1];
    p->length = alloc_matrix(rank, 1, "CP lengths", e);
    p->normal = alloc_matrix(rank, rank, "CP normal equations", e);
    p->rhs = alloc_matrix(longest, rank, "CP equations", e);
    p->rhs_c = alloc_matrix(n[2], rank, "CP equations", e);
    p->tile = alloc_matrix(rank, TILE, "CP tile", e);
    p->slab = alloc_matrix(p->step * n[2], rank, "CP slab", e);
    p->back = alloc_matrix(p->step * n[2], n[0], "CP slab", e);
    if (!p->length || !p->normal || !p->rhs || !p->rhs_c || !p->tile || !p->slab || !p->back)
        return -1;
    uint64_t state = 1;
    for (int mode = 0; mode < 3; mode++) {
        double *f = p->factor[mode] = alloc_matrix(n[mode], rank, "CP factor", e);
        p->gram[mode] = alloc_matrix(rank, rank, "CP Gram matrix", e);
        if (!f || !p->gram[mode]) return -1;
        for (int64_t i = 0; i < n[mode] * rank; i++)       // near enough to normal
            for (int k = 0; k < 4; k++) f[i] += random_f32(&state) - 0.5;
        settle(p, mode);
    }
    memset(p->length, 0, (size_t)rank * sizeof *p->length);            // an approximation of 0
    return 0;
}

// slab = B * C of columns j0 .. j1
static void multiply_columns(Cp *p, int64_t j0, int64_t j1) {
    const int64_t rank = p->rank;
    double *row = p->slab;
    for (int64_t j = j0; j < j1; j++)
        for (int64_t k = 0; k < p->n[2]; k++, row += rank)
            for (int64_t r = 0; r < rank; r++)
                row[r] = p->factor[1][j * rank + r] * p->factor[2][k * rank + r];
}

// The Cholesky factor of V + ridge I, V = the elementwise product of the Gram matrices of all modes
// but one. V has a diagonal of ones. It may be singular: the ridge grows until it suffices.
static int factorise(Cp *p, int mode, double *ridge, Err *e) {
    const double *x = p->gram[(mode + 1) % 3], *y = p->gram[(mode + 2) % 3];
    const int64_t rank = p->rank;
    for (*ridge = 1e-12;; *ridge *= 100) {
        for (int64_t i = 0; i < rank * rank; i++) p->normal[i] = x[i] * y[i];
        for (int64_t r = 0; r < rank; r++) p->normal[r * rank + r] += *ridge;
        const int result = cholesky(p->normal, rank, e);
        if (result == 0) return 0;
        if (result == -2 || !(*ridge < 1)) return -1;
    }
}

// f (n, rank), rows of a factor, <- (rhs + ridge f diag(length)) (V + ridge I)^-1: least squares
// that stay with the old solution where the data does not decide, so that the error cannot rise.
// V + ridge I = L L^T. Rows of f are columns of the tile, so that the inner loops are long.
static void solve_rows(Cp *p, double *f, const double *rhs, int64_t n, double ridge) {
    const int64_t rank = p->rank;
    const double *l = p->normal;
    double *x = p->tile;
    for (int64_t top = 0; top < n; top += TILE, f += TILE * rank, rhs += TILE * rank) {
        const int64_t rows = n - top < TILE ? n - top : TILE;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t r = 0; r < rank; r++)
                x[r * TILE + i] = rhs[i * rank + r] + ridge * f[i * rank + r] * p->length[r];
        for (int64_t r = 0; r < rank; r++) {               // L Y = X
            for (int64_t q = 0; q < r; q++)
                for (int i = 0; i < TILE; i++) x[r * TILE + i] -= l[r * rank + q] * x[q * TILE + i];
            for (int i = 0; i < TILE; i++) x[r * TILE + i] /= l[r * rank + r];
        }
        for (int64_t r = rank - 1; r >= 0; r--) {          // L^T F^T = Y
            for (int i = 0; i < TILE; i++) x[r * TILE + i] /= l[r * rank + r];
            for (int64_t q = 0; q < r; q++)
                for (int i = 0; i < TILE; i++) x[q * TILE + i] -= l[r * rank + q] * x[r * TILE + i];
        }
        for (int64_t i = 0; i < rows; i++)
            for (int64_t r = 0; r < rank; r++) f[i * rank + r] = x[r * TILE + i];
    }
}

// A = T_(0) (B * C) V^-1, summed over slabs of columns.
static int sweep_rows(Cp *p, const double *t, Err *e) {
    const int64_t cols = p->n[1], count = p->n[2], rank = p->rank;
    double ridge;
    if (factorise(p, 0, &ridge, e) < 0) return -1;
    for (int64_t j = 0; j < cols; j += p->step) {
        if (interrupted) return fail(e, "interrupted");
        const int64_t end = j + p->step < cols ? j + p->step : cols;
        multiply_columns(p, j, end);
        dgemm(false, false, p->n[0], rank, (end - j) * count, t + j * count, cols * count, p->slab,
              rank, j > 0, p->rhs, rank);
    }
    solve_rows(p, p->factor[0], p->rhs, p->n[0], ridge);
    settle(p, 0);
    return 0;
}

// With S = T_(0)^T A, row (j, k): B from the sums over k of c_k S_jk, then C from the sums over j
// of b_j S_jk. A row of B needs only its own part of S, so one pass over the tensor serves both.
static int sweep_others(Cp *p, const double *t, Err *e) {
    const int64_t cols = p->n[1], count = p->n[2], rank = p->rank;
    double *b = p->factor[1], *c = p->factor[2], ridge;
    if (factorise(p, 1, &ridge, e) < 0) return -1;
    memset(p->rhs_c, 0, (size_t)(count * rank) * sizeof *p->rhs_c);
    for (int64_t j0 = 0; j0 < cols; j0 += p->step) {
        if (interrupted) return fail(e, "interrupted");
        const int64_t n = j0 + p->step < cols ? p->step : cols - j0;
        dgemm(true, false, n * count, rank, p->n[0], t + j0 * count, cols * count, p->factor[0],
              rank, 0, p->slab, rank);
        memset(p->rhs, 0, (size_t)(n * rank) * sizeof *p->rhs);
        for (int64_t i = 0; i < n * count; i++)
            for (int64_t r = 0; r < rank; r++)
                p->rhs[i / count * rank + r] += p->slab[i * rank + r] * c[i % count * rank + r];
        solve_rows(p, b + j0 * rank, p->rhs, n, ridge);
        for (int64_t i = 0; i < n * count; i++) {
            const double *row = b + (j0 + i / count) * rank;
            for (int64_t r = 0; r < rank; r++)
                p->rhs_c[i % count * rank + r] += p->slab[i * rank + r] * row[r];
        }
    }
    settle(p, 1);
    for (int64_t i = 0; i < count * rank; i++)             // they were of b before it was scaled
        if (p->length[i % rank] > 0) p->rhs_c[i] /= p->length[i % rank];
    if (factorise(p, 2, &ridge, e) < 0) return -1;
    solve_rows(p, c, p->rhs_c, count, ridge);
    settle(p, 2);
    return 0;
}

// |T - T'| / |T| after a sweep by |T|^2 - 2 <T, T'> + |T'|^2, good to about 1e-8.
static double sweep_error(const Cp *p, double whole) {
    const int64_t rank = p->rank;
    double inner = 0, own = 0;
    for (int64_t i = 0; i < p->n[2] * rank; i++)
        inner += p->rhs_c[i] * p->factor[2][i] * p->length[i % rank];
    for (int64_t i = 0; i < rank * rank; i++)
        own += p->gram[0][i] * p->gram[1][i] * p->gram[2][i] * p->length[i / rank] *
               p->length[i % rank];
    return sqrt(fmax(0, whole - 2 * inner + own) / whole);
}

// t becomes the approximation; returns the square of what it loses.
static double write_back(Cp *p, double *t) {
    const int64_t rows = p->n[0], cols = p->n[1], count = p->n[2], rank = p->rank;
    double lost = 0;
    for (int64_t i = 0; i < count * rank; i++) p->factor[2][i] *= p->length[i % rank];
    for (int64_t j = 0; j < cols; j += p->step) {
        const int64_t end = j + p->step < cols ? j + p->step : cols, n = (end - j) * count;
        multiply_columns(p, j, end);
        dgemm(false, true, rows, n, rank, p->factor[0], rank, p->slab, rank, 0, p->back, n);
        for (int64_t i = 0; i < rows; i++) {
            double *row = t + (i * cols + j) * count;
            for (int64_t k = 0; k < n; k++) row[k] -= p->back[i * n + k];
            lost += norm2(row, n);
            memcpy(row, p->back + i * n, (size_t)n * sizeof *row);
        }
    }
    return lost;
}

int cp_approximate(double *t, const int64_t n[3], int64_t rank, int sweeps, double tol,
                   double *error, Err *e) {
    if (check_tensor("CP", n, e) < 0) return -1;
    if (rank < 1 || sweeps < 1)
        return fail(e, "CP: rank %lld in %d sweeps", (long long)rank, sweeps);
    const double whole = norm2(t, n[0] * n[1] * n[2]);
    *error = 0;
    if (!isfinite(whole)) return fail(e, "CP: the tensor has an entry that is not finite, or huge");
    if (whole == 0) return 0;
    int status = -1;
    Cp p;
    if (cp_new(&p, n, rank, e) < 0) goto done;
    double before, now = INFINITY;
    for (int sweep = 0; sweep < sweeps; sweep++) {
        before = now;
        if (sweep_rows(&p, t, e) < 0 || sweep_others(&p, t, e) < 0) goto done;
        now = sweep_error(&p, whole);
        if (before - now < tol) break;
    }
    *error = sqrt(write_back(&p, t) / whole);
    status = 0;
done:
    cp_free(&p);
    return status;
}

// ---- Tucker -------------------------------------------------------------------------------------

int tucker3_approximate(double *t, const int64_t n[3], const int64_t rank[3], int sweeps,
                        double *error, Err *e) {
    if (check_tensor("Tucker", n, e) < 0) return -1;
    const int64_t n4[4] = {n[0], n[1], n[2], 1}, r4[4] = {rank[0], rank[1], rank[2], 1};
    Tucker k;
    if (tucker_hooi(&k, t, n4, r4, sweeps, 1e-7, e) < 0) return -1;
    *error = tucker_error(&k, t);
    int status = tucker_reconstruct(&k, t, e);
    tucker_free(&k);
    return status;
}
