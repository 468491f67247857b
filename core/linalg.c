// linalg: eigenvectors, QR, Cholesky and SVD of dense double matrices, arranged so that nearly all
// the arithmetic is dgemm. Knows nothing of tensors. Vectors are kept as ROWS while they are worked
// on (contiguous, so that the inner loops vectorise) and turned into columns at the end.
#include "linalg.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels_impl.h"
#include "room.h"

enum {
    BLOCK = 48,                    // reflectors that are applied together: a multiple of gemm's slivers
    PANEL = 32,                    // steps to tridiagonal form whose updates of A are made together
    FEW = 16384,                   // entries of a matrix that are not worth another thread
};

// The few loops that are not dgemm are compiled once per instruction set; the loader picks one.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

enum { STRIPS = 16, SMALL_STRIP = 32768 };         // of a product; entries of a strip that stay undivided
#define Real double
#define NAME(x) x##_f64
#define GEMM_LOWER dgemm_lower
#define KERNEL(x) x
#include "linalg_tridiagonal.h"
#define Real float
#define NAME(x) x##_f32
#define GEMM_LOWER sgemm_lower
#define KERNEL(x) x##32
#include "linalg_tridiagonal.h"

typedef double Vec __attribute__((vector_size(32), aligned(8), may_alias));
enum { LANES = 4 };
#define LOAD(p) (*(const Vec *)(p))
#define SUM(v) (((v)[0] + (v)[1]) + ((v)[2] + (v)[3]))

// y += p a + q b
CLONES static void add_two(double *restrict y, double p, const double *restrict a, double q,
                           const double *restrict b, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += p * a[i] + q * b[i];
}

// (x, y) <- (c x + s y, c y - s x)
CLONES static void rotate(double *restrict x, double *restrict y, double c, double s, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double xi = x[i], yi = y[i];
        x[i] = c * xi + s * yi;
        y[i] = c * yi - s * xi;
    }
}

double norm2(const double *a, int64_t n) { return dot_f64(a, a, n); }

double *alloc_matrix(int64_t rows, int64_t cols, const char *what, Err *e) {
    size_t n;
    if (rows < 0 || cols < 0 || !mul_size((size_t)rows, (size_t)cols, &n)) {
        fail(e, "%s: %lld x %lld is no size for a matrix", what, (long long)rows, (long long)cols);
        return NULL;
    }
    return alloc(n, sizeof(double), what, e);
}

// out (cols, rows) = a (rows, cols)^T, in tiles that stay in cache
static void transpose(const double *a, int64_t rows, int64_t cols, int64_t lda, double *out, int64_t ldo) {
    enum { TILE = 16 };
    for (int64_t i0 = 0; i0 < rows; i0 += TILE)
        for (int64_t j0 = 0; j0 < cols; j0 += TILE)
            for (int64_t j = j0; j < cols && j < j0 + TILE; j++)
                for (int64_t i = i0; i < rows && i < i0 + TILE; i++)
                    out[j * ldo + i] = a[i * lda + j];
}

// The largest absolute value, or NAN when any entry is not finite.
CLONES static double largest(const double *a, int64_t n) {
    double top[8] = {0}, sum[8] = {0}, m = 0;              // 0 a: NaN unless finite
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int l = 0; l < 8; l++) {
            const double x = fabs(a[i + l]);
            top[l] = x > top[l] ? x : top[l], sum[l] += 0 * x;
        }
    for (; i < n; i++) m = fmax(m, fabs(a[i])), sum[0] += 0 * a[i];
    for (int l = 0; l < 8; l++) m = fmax(m, top[l]), sum[0] += sum[l];
    return m + sum[0];
}

// ---- Householder reflectors ---------------------------------------------------------------------
// H = I - tau v v^T, v = (1, rest).

// T (k, k), upper triangular and negated, of H_1 H_2 ... H_k = I - V^T T V with the v as rows of
// V (k, m). Column j of T is -tau_j (T V v_j; 1).
static void block_factor(const double *v, int64_t ldv, const double *tau, int64_t k, int64_t m,
                         double *t) {
    double products[BLOCK * BLOCK];
    dgemm(false, true, k, k, m, v, ldv, v, ldv, 0, products, k);
    memset(t, 0, (size_t)(k * k) * sizeof *t);
    for (int64_t j = 0; j < k; j++) {
        for (int64_t i = 0; i < j; i++) {
            double sum = 0;
            for (int64_t l = i; l < j; l++) sum += t[i * k + l] * products[l * k + j];
            t[i * k + j] = -tau[j] * sum;
        }
        t[j * k + j] = -tau[j];
    }
}

// C (rows, m) <- C + C V^T (-T) V, transposed: (-T)^T. work: 2 * rows * k.
static void apply_block(double *c, int64_t ldc, int64_t rows, const double *v, int64_t ldv, const double *t,
                        int64_t k, int64_t m, bool transposed, double *work) {
    double *x = work, *xt = work + rows * k;
    dgemm(false, true, rows, k, m, c, ldc, v, ldv, 0, x, k);
    dgemm(false, transposed, rows, k, k, x, k, t, k, 0, xt, k);
    dgemm(false, false, rows, m, k, xt, k, v, ldv, 1, c, ldc);
}

// C (rows, m) <- C H_1 ... H_k, or with reverse = true C H_k ... H_1.
static void reflect(double *c, int64_t ldc, int64_t rows, const double *v, int64_t ldv,
                    const double *tau, int64_t k, int64_t m, bool reverse, double *work) {
    double t[BLOCK * BLOCK];
    block_factor(v, ldv, tau, k, m, t);
    apply_block(c, ldc, rows, v, ldv, t, k, m, reverse, work);
}

int qr(double *a, int64_t m, int64_t n, double *r, Err *e) {
    if (n > m) return fail(e, "qr: %lld rows, fewer than %lld columns", (long long)m, (long long)n);
    double scale = largest(a, m * n);
    if (isnan(scale)) return fail(e, "qr: the matrix has an entry that is not finite");
    int status = -1;
    double *at = alloc_matrix(n, m, "qr", e), *q = alloc_matrix(n, m, "qr", e);
    double *tau = alloc_matrix(n, 1, "qr", e);
    double *work = alloc_matrix(n, 2 * BLOCK, "qr", e);
    if (!at || !q || !tau || !work) goto done;

    transpose(a, m, n, n, at, m);                                      // column i of A: row i
    if (scale > 0) for (int64_t i = 0; i < m * n; i++) at[i] /= scale;
    if (r) memset(r, 0, (size_t)(n * n) * sizeof *r);
    for (int64_t lo = 0; lo < n; lo += BLOCK) {
        int64_t hi = lo + BLOCK < n ? lo + BLOCK : n;
        for (int64_t i = lo; i < hi; i++) {
            double *v = at + i * m;
            if (r) for (int64_t j = 0; j < i; j++) r[j * n + i] = v[j];
            double beta = house_f64(v + i, v + i + 1, m - i - 1, &tau[i]);
            if (r) r[i * n + i] = beta;
            memset(v, 0, (size_t)i * sizeof *v);                       // R has left, v stays
            for (int64_t j = i + 1; j < hi; j++) {
                double *x = at + j * m, s = -tau[i] * dot_f64(v + i, x + i, m - i);
                add_two(x + i, s, v + i, 0, v + i, m - i);
            }
        }
        reflect(at + hi * m + lo, m, n - hi, at + lo * m + lo, m, tau + lo, hi - lo, m - lo, false,
                work);
    }
    // Q^T = (I 0) H_n ... H_1: the last block first, each acting on the rows that are not yet e_i.
    for (int64_t i = 0; i < n; i++) q[i * m + i] = 1;
    for (int64_t lo = n ? (n - 1) / BLOCK * BLOCK : -1; lo >= 0; lo -= BLOCK) {
        int64_t hi = lo + BLOCK < n ? lo + BLOCK : n;
        reflect(q + lo * m + lo, m, n - lo, at + lo * m + lo, m, tau + lo, hi - lo, m - lo, true,
                work);
    }
    transpose(q, n, m, m, a, n);
    if (r) for (int64_t i = 0; i < n * n; i++) r[i] *= scale;
    status = 0;
done:
    free(at), free(q), free(tau), free(work);
    return status;
}

// ---- symmetric eigenproblem ---------------------------------------------------------------------
// A = Q T Q^T with T tridiagonal (Householder), T = Y diag(values) Y^T (divide and conquer),
// vectors Q Y.
#include "linalg_divide.h"
#include "linalg_back.h"

#define KEPT ((size_t)512 << 20)             // of a 4,096 x 4,096 matrix, say
static Room kept;

// The next `items` of room, from a line of the cache on.
static double *carve(double **room, int64_t items) {
    double *at = *room;
    *room += (items + 7) / 8 * 8;
    return at;
}

// single: the tridiagonal form is found in single precision, in a's own memory.
static int leading(double *a, bool single, int64_t n, int64_t r, double *values, double *vectors, Err *e) {
    const char *what = "eigenvectors";
    if (n < 0 || r < 0 || r > n)
        return fail(e, "%s: %lld wanted of %lld", what, (long long)r, (long long)n);
    if (r == 0) return 0;
    const double scale = largest(a, n * n);
    if (isnan(scale)) return fail(e, "%s: the matrix has an entry that is not finite", what);

    Room *kept_in;
    size_t items;
    const int64_t threads = threads_get(), lines = 3 * n + 3 * BLOCK + STRIPS + 16 + threads;
    if (!mul_size((size_t)n, (size_t)lines, &items) || items > SIZE_MAX / 16)
        return fail(e, "%s: %lld x %lld is no size for a matrix", what, (long long)n, (long long)n);
    const size_t size = (items + BLOCK * BLOCK + 256) * sizeof(double);
    double *const begin = room_take(&kept, 1, size, &kept_in), *room = begin;
    if (!begin) return fail(e, "%s: no memory for %zu bytes", what, size);
    double *q = carve(&room, n * n), *d = carve(&room, n), *off = carve(&room, n), *tau = carve(&room, n);
    double *w = carve(&room, (3 * BLOCK + STRIPS) * n + BLOCK * BLOCK);
    Merge m = {.n = n, .s = carve(&room, n * n), .rows = carve(&room, n * n), .z = carve(&room, n)};
    m.poles = carve(&room, n), m.z2 = carve(&room, n), m.roots = carve(&room, n);
    m.line = carve(&room, threads * n);
    m.order = (Ranked *)carve(&room, 2 * n), m.live = (int64_t *)carve(&room, n);
    m.dead = (int64_t *)carve(&room, n), m.column = (int64_t *)carve(&room, n);
    m.side = (uint8_t *)carve(&room, n / 8 + 1);
    int64_t *from = (int64_t *)carve(&room, n / (SMALL / 2) + 2);

    float *as = single ? (float *)a : NULL;                            // in place, from the first on
    // by a power of two, so that squares stay in range
    const double by = scale > 0 ? ldexp(1, -(int)fmax(-1000, fmin(1000, ilogb(scale)))) : 1;
    if (single) {
        for (int64_t i = 0; i < n * n; i++) {
            const float x = (float)(a[i] * by);
            memcpy(as + i, &x, sizeof x);
        }
        tridiagonalise_f32(as, n, d, off, tau, (float *)w, (float *)w + 3 * PANEL * n);
    } else {
        for (int64_t i = 0; i < n * n; i++) a[i] *= by;
        tridiagonalise_f64(a, n, d, off, tau, w, w + 3 * PANEL * n);
    }
    Tree t = {.d = d, .q = q, .off = off, .m = m, .n = n, .keep = r, .from = from};
    divide(&t, 0, n);
    parallel_for(t.parts, 1, conquer_parts, &t);
    const int64_t found = n > SMALL ? conquer(&t, 0, n, SMALL, r) : t.found;
    for (int64_t i = 0; i < found; i++) m.order[i] = (Ranked){-d[i], i};
    qsort(m.order, (size_t)found, sizeof *m.order, ascending);
    for (int64_t i = 0; i < r; i++) values[i] = -m.order[i].value / by;
    if (vectors) {
        Back b = {.a = a, .q = q, .as = as, .order = m.order, .y = m.rows, .v = m.s, .tau = tau, .t = w,
                  .n = n, .r = r, .vectors = vectors, .work = w + (n + BLOCK) * BLOCK};
        parallel_for((n - 1 + BLOCK - 1) / BLOCK, 1, prepare_blocks, &b);
        parallel_for(r, r / (2 * threads) < 48 ? 48 : r / (2 * threads), transform_rows, &b);
        parallel_for(n, 1 + FEW / r, write_columns, &b);
    }
    room_leave(kept_in, begin, KEPT);
    return 0;
}

int eig_sym_leading(double *a, int64_t n, int64_t r, double *values, double *vectors, Err *e) {
    return leading(a, false, n, r, values, vectors, e);
}

int eig_sym_leading_mixed(double *a, int64_t n, int64_t r, double *values, double *vectors, Err *e) {
    return leading(a, true, n, r, values, vectors, e);
}

int eig_sym(double *a, int64_t n, double *values, double *vectors, Err *e) {
    return eig_sym_leading(a, n, n, values, vectors, e);
}

// ---- Cholesky -----------------------------------------------------------------------------------

int cholesky(double *a, int64_t n, Err *e) {
    double *neg = alloc_matrix(BLOCK, n, "cholesky", e);
    if (!neg) return -2;
    for (int64_t lo = 0; lo < n; lo += BLOCK) {
        int64_t hi = lo + BLOCK < n ? lo + BLOCK : n;
        // the block's columns less what the columns to their left explain: A -= L L_block^T
        for (int64_t i = lo; i < hi; i++)
            for (int64_t j = 0; j < lo; j++) neg[(i - lo) * n + j] = -a[i * n + j];
        dgemm(false, true, n - lo, hi - lo, lo, a + lo * n, n, neg, n, 1, a + lo * n + lo, n);
        for (int64_t i = lo; i < n; i++) {
            double *row = a + i * n;
            for (int64_t j = lo; j < hi && j <= i; j++) {
                double s = row[j] - dot_f64(row + lo, a + j * n + lo, j - lo);
                if (j < i) {
                    row[j] = s / a[j * n + j];
                } else if (s > 0 && isfinite(s)) {
                    row[j] = sqrt(s);
                } else {
                    free(neg);
                    return fail(e, "cholesky: not positive definite: pivot %lld of %lld is %g",
                                (long long)j, (long long)n, s);
                }
            }
        }
    }
    for (int64_t i = 0; i < n; i++) memset(a + i * n + i + 1, 0, (size_t)(n - i - 1) * sizeof *a);
    free(neg);
    return 0;
}

// ---- SVD ----------------------------------------------------------------------------------------

// Makes row i of v (k, n) a unit vector orthogonal to rows 0 .. i-1: the coordinate axis farthest
// from their span, less its part in it, twice.
static void complete(double *v, int64_t i, int64_t n) {
    double *row = v + i * n, best = -1;
    int64_t axis = 0;
    for (int64_t j = 0; j < n; j++) {
        double rest = 1;
        for (int64_t l = 0; l < i; l++) rest -= v[l * n + j] * v[l * n + j];
        if (rest > best) best = rest, axis = j;
    }
    memset(row, 0, (size_t)n * sizeof *row);
    row[axis] = 1;
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t l = 0; l < i; l++)
            add_two(row, -dot_f64(row, v + l * n, n), v + l * n, 0, v + l * n, n);
        double scale = 1 / sqrt(norm2(row, n));
        for (int64_t j = 0; j < n; j++) row[j] *= scale;
    }
}

// A (m, n), m >= n. A = Q R; R R^T = W diag W^T; the rows of B = W^T R are then nearly orthogonal,
// and one-sided Jacobi finishes what squaring R has lost: B = diag(s) V^T, U = Q W.
static int svd_tall(const double *a, int64_t m, int64_t n, double *u, double *s, double *v,
                    Err *e) {
    int status = -1;
    double *q = alloc_matrix(m, n, "svd", e), *r = alloc_matrix(n, n, "svd", e);
    double *g = alloc_matrix(n, n, "svd", e), *w = alloc_matrix(n, n, "svd", e);
    double *ut = alloc_matrix(n, m, "svd", e), *b = alloc_matrix(n, n, "svd", e);
    Ranked *order = alloc((size_t)n, sizeof *order, "svd", e);
    if (!q || !r || !g || !w || !ut || !b || !order) goto done;

    double scale = largest(a, m * n);
    if (isnan(scale)) {
        fail(e, "svd: the matrix has an entry that is not finite");
        goto done;
    }
    for (int64_t i = 0; i < m * n; i++) q[i] = scale > 0 ? a[i] / scale : 0;   // squares in range
    if (qr(q, m, n, r, e) < 0) goto done;
    gram(false, n, n, r, n, g, n);
    if (eig_sym(g, n, s, w, e) < 0) goto done;
    dgemm(true, false, n, n, n, w, n, r, n, 0, b, n);
    dgemm(true, true, n, m, n, w, n, q, n, 0, ut, m);

    bool turned = true;
    for (int sweep = 0; sweep < 40 && turned; sweep++) {
        turned = false;
        for (int64_t i = 0; i < n; i++) s[i] = norm2(b + i * n, n);
        for (int64_t i = 0; i < n; i++) {
            for (int64_t j = i + 1; j < n; j++) {
                double *x = b + i * n, *y = b + j * n, xy = dot_f64(x, y, n);
                if (fabs(xy) <= 4 * DBL_EPSILON * sqrt((double)n) * sqrt(s[i] * s[j])) continue;
                double zeta = (s[i] - s[j]) / (2 * xy);
                double t = copysign(1 / (fabs(zeta) + hypot(1, zeta)), zeta), c = 1 / hypot(1, t);
                rotate(x, y, c, c * t, n);
                rotate(ut + i * m, ut + j * m, c, c * t, m);
                s[i] = norm2(x, n);
                s[j] = norm2(y, n);
                turned = true;
            }
        }
    }

    for (int64_t i = 0; i < n; i++) order[i] = (Ranked){-sqrt(norm2(b + i * n, n)), i};
    qsort(order, (size_t)n, sizeof *order, ascending);
    for (int64_t i = 0; i < n; i++) {                                  // V^T into w, U^T into q
        const double *row = b + order[i].row * n;
        double size = -order[i].value;
        s[i] = size * scale;
        memcpy(q + i * m, ut + order[i].row * m, (size_t)m * sizeof *q);
        if (size <= DBL_EPSILON * (double)n * -order[0].value) complete(w, i, n);
        else for (int64_t j = 0; j < n; j++) w[i * n + j] = row[j] / size;
    }
    transpose(q, n, m, m, u, n);
    transpose(w, n, n, n, v, n);
    status = 0;
done:
    free(q), free(r), free(g), free(w), free(ut), free(b), free(order);
    return status;
}

int svd(const double *a, int64_t m, int64_t n, double *u, double *s, double *v, Err *e) {
    if (m >= n) return svd_tall(a, m, n, u, s, v, e);
    double *at = alloc_matrix(n, m, "svd", e);                               // A^T = V diag(s) U^T
    if (!at) return -1;
    transpose(a, m, n, n, at, m);
    int status = svd_tall(at, n, m, v, s, u, e);
    free(at);
    return status;
}

// ---- of weights ---------------------------------------------------------------------------------

enum { WIDE = 512 };
static bool large(int64_t m, int64_t n, int64_t k) { return (double)m * (double)n * (double)k > 0x1p27; }

void weights_product(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const double *a, int64_t lda,
                     const double *b, int64_t ldb, double *c) {
    (large(m, n, k) ? dgemm_mixed : dgemm)(ta, tb, m, n, k, a, lda, b, ldb, 0, c, n);
}

void weights_gram(int64_t m, int64_t k, const double *a, double *c) {
    (large(m, m, k) ? gram_mixed : gram)(false, m, k, a, k, c, m);
}

int weights_eig_leading(double *a, int64_t n, int64_t r, double *values, double *vectors, Err *e) {
    return (n >= WIDE ? eig_sym_leading_mixed : eig_sym_leading)(a, n, r, values, vectors, e);
}
