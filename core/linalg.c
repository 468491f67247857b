// linalg: eigenvectors, QR, Cholesky and SVD of dense double matrices, arranged so that nearly all
// the arithmetic is dgemm. Knows nothing of tensors. Vectors are kept as ROWS while they are worked
// on (contiguous, so that the inner loops vectorise) and turned into columns at the end.
#include "linalg.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

enum { BLOCK = 32 };               // reflectors that are applied together

// The few loops that are not dgemm are compiled once per instruction set; the loader picks one.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

enum { STRIPS = 8, SMALL_STRIP = 65536 };          // of a product; entries of a strip at least: 512 kB
#define Real double
#define NAME(x) x##_f64
#define GEMM_LOWER dgemm_lower
#include "linalg_tridiagonal.h"
#define Real float
#define NAME(x) x##_f32
#define GEMM_LOWER sgemm_lower
#include "linalg_tridiagonal.h"

typedef double Vec __attribute__((vector_size(32), aligned(8), may_alias));
enum { LANES = 4 };
#define LOAD(p) (*(const Vec *)(p))
#define SUM(v) (((v)[0] + (v)[1]) + ((v)[2] + (v)[3]))

// (x, y) <- (c x + s y, c y - s x)
CLONES static void rotate(double *restrict x, double *restrict y, double c, double s, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double xi = x[i], yi = y[i];
        x[i] = c * xi + s * yi;
        y[i] = c * yi - s * xi;
    }
}

// sum z2 / (delta - tau) and its derivative sum z2 / (delta - tau)^2
CLONES static void pole_sum(const double *z2, const double *delta, double tau, int64_t n,
                            double *sum, double *slope) {
    Vec s = {0}, t = {0};
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES) {
        Vec w = LOAD(delta + j) - tau, q = LOAD(z2 + j) / w;
        s += q;
        t += q / w;
    }
    *sum = SUM(s), *slope = SUM(t);
    for (; j < n; j++) {
        double w = delta[j] - tau, q = z2[j] / w;
        *sum += q;
        *slope += q / w;
    }
}

// product[j] *= row[j] / (d[j] - di), the factor that eigenvalue i adds to each ...
CLONES static void pole_product(double *restrict product, const double *restrict row,
                                const double *restrict d, double di, int64_t n) {
    for (int64_t j = 0; j < n; j++) product[j] *= row[j] / (d[j] - di);
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
static void transpose(const double *a, int64_t rows, int64_t cols, double *out) {
    enum { TILE = 16 };
    for (int64_t i0 = 0; i0 < rows; i0 += TILE)
        for (int64_t j0 = 0; j0 < cols; j0 += TILE)
            for (int64_t i = i0; i < rows && i < i0 + TILE; i++)
                for (int64_t j = j0; j < cols && j < j0 + TILE; j++)
                    out[j * rows + i] = a[i * cols + j];
}

// The largest absolute value, or NAN when any entry is not finite.
static double largest(const double *a, int64_t n) {
    double m = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(a[i])) return NAN;
        m = fmax(m, fabs(a[i]));
    }
    return m;
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

// C (rows, m) <- C H_1 ... H_k, or with reverse = true C H_k ... H_1. work: 2 * rows * k.
static void reflect(double *c, int64_t ldc, int64_t rows, const double *v, int64_t ldv,
                    const double *tau, int64_t k, int64_t m, bool reverse, double *work) {
    double t[BLOCK * BLOCK], *x = work, *xt = work + rows * k;
    block_factor(v, ldv, tau, k, m, t);
    dgemm(false, true, rows, k, m, c, ldc, v, ldv, 0, x, k);           // X = C V^T
    dgemm(false, reverse, rows, k, k, x, k, t, k, 0, xt, k);           // X (-T) or X (-T)^T
    dgemm(false, false, rows, m, k, xt, k, v, ldv, 1, c, ldc);         // C += that V
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

    transpose(a, m, n, at);                                            // column i of A: row i
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
                add_two_f64(x + i, s, v + i, 0, v + i, m - i);
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
    transpose(q, n, m, a);
    if (r) for (int64_t i = 0; i < n * n; i++) r[i] *= scale;
    status = 0;
done:
    free(at), free(q), free(tau), free(work);
    return status;
}

// ---- symmetric eigenproblem ---------------------------------------------------------------------
// A = Q T Q^T with T tridiagonal (Householder), T = Y diag(values) Y^T (divide and conquer),
// vectors Q Y.

typedef struct { double value; int64_t row; } Ranked;

static int ascending(const void *a, const void *b) {
    const Ranked *x = a, *y = b;
    if (x->value != y->value) return x->value < y->value ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;                     // the same order everywhere
}

enum { LEFT = 1, RIGHT = 2 };

// Room for the merges, sized for the largest.
typedef struct {
    double *z;                     // (n) the rank-one vector, by row of q
    double *poles, *z2;            // (n) d and z^2 of the live rows, d ascending; then the new z
    double *roots;                 // (n) eigenvalues of the live part
    double *line;                  // (n) one row in the making
    double *s;                     // (n, n) first d_j - root_i, then the vectors of the live part
    double *rows;                  // (n, n) rows of q, gathered
    Ranked *order;                 // (n)
    int64_t n_live, n_dead;
    int64_t *live, *dead, *column; // (n) rows of q; column of s for a live row
    uint8_t *side;                 // (n) which halves of the row are not zero
} Merge;

// Root i of 1/rho + sum_j z2_j / (d_j - x), between d_i and d_i+1 (the last: d_i and d_i + rho).
// delta[j] = d_j - root comes out to full relative accuracy: the root is found as a distance tau
// from the nearer pole. Each step solves for a function with the two next poles that agrees in
// value and both slopes ("the middle way"); a step that leaves the bracket is halved instead.
static double secular_root(const double *d, const double *z2, int64_t k, int64_t i, double rho,
                           double *delta) {
    bool last = i == k - 1;
    double width = last ? rho : d[i + 1] - d[i], tau = width / 2, lo = 0, hi = width, f, slope;
    int64_t origin = i;
    for (int64_t j = 0; j < k; j++) delta[j] = d[j] - d[i];
    pole_sum(z2, delta, tau, k, &f, &slope);
    if (!last && 1 / rho + f < 0) {                        // negative halfway: d_i+1 is nearer
        origin = i + 1, tau = lo = -width / 2, hi = 0;
        for (int64_t j = 0; j < k; j++) delta[j] = d[j] - d[origin];
    }
    for (int step = 0; step < 200; step++) {
        double psi, dpsi, phi, dphi;                       // of the poles left and right of x
        pole_sum(z2, delta, tau, i + 1, &psi, &dpsi);
        pole_sum(z2 + i + 1, delta + i + 1, tau, k - i - 1, &phi, &dphi);
        f = 1 / rho + psi + phi;
        if (fabs(f) <= 4 * DBL_EPSILON * (1 / rho - psi + phi)) break;
        if (f < 0) lo = tau; else hi = tau;
        double left = delta[i] - tau, move;
        if (last) {
            move = left * f / (f - left * dpsi);
        } else {
            double right = delta[i + 1] - tau, c = f - left * dpsi - right * dphi;
            double a = (left + right) * f - left * right * (dpsi + dphi), b = left * right * f;
            double root = sqrt(fmax(0, a * a - 4 * b * c));
            move = a <= 0 ? (a - root) / (2 * c) : 2 * b / (a + root);
        }
        double next = tau + move;
        if (!(next > lo && next < hi)) next = lo + (hi - lo) / 2;
        bool still = fabs(next - tau) <= DBL_EPSILON * fabs(next);
        tau = next;
        if (still) break;
    }
    for (int64_t j = 0; j < k; j++) delta[j] = (d[j] - d[origin]) - tau;
    return d[origin] + tau;
}

// Splits the rows of q into dead ones, which are eigenvectors already, and live ones: z is turned
// out of one of two rows whose d agree, and a row without z is dead.
static void deflate(double *d, double *q, int64_t ldq, int64_t n, double rho, Merge *m) {
    double size = 0;
    for (int64_t i = 0; i < n; i++) {
        m->order[i] = (Ranked){d[i], i};
        size = fmax(size, fabs(d[i]));
    }
    qsort(m->order, (size_t)n, sizeof *m->order, ascending);

    const double tol = 4 * DBL_EPSILON * (size + rho) + 1e-100;        // of a matrix scaled to 1
    int64_t last = -1;
    m->n_live = m->n_dead = 0;
    for (int64_t o = 0; o < n; o++) {
        int64_t i = m->order[o].row;
        if (rho * fabs(m->z[i]) <= tol) {
            m->dead[m->n_dead++] = i;
            continue;
        }
        if (last >= 0) {
            double r = hypot(m->z[i], m->z[last]), c = m->z[i] / r, s = m->z[last] / r;
            double a = d[last], b = d[i];
            if ((b - a) * fabs(c * s) > tol) {
                m->live[m->n_live++] = last;
            } else {                                       // all of z into row i
                rotate(q + i * ldq, q + last * ldq, c, s, n);
                m->z[i] = r;
                m->side[i] = m->side[last] = m->side[i] | m->side[last];
                d[i] = a * s * s + b * c * c;
                d[last] = a * c * c + b * s * s;
                m->dead[m->n_dead++] = last;
            }
        }
        last = i;
    }
    if (last >= 0) m->live[m->n_live++] = last;
}

// Eigenpairs of D + rho z z^T on the k live rows: m->roots ascending, and for the `keep` largest
// the vectors in the last rows of m->s (k, k), whose columns stand in the order m->column. They are
// those of the z^ that has exactly these roots (Gu and Eisenstat),
//     z^_j^2 = (root_j - d_j) prod_{i != j} (d_j - root_i) / (d_j - d_i),
// and so orthogonal to working precision however close the roots are.
static void live_vectors(const double *d, double rho, int64_t keep, Merge *m) {
    int64_t k = m->n_live;
    for (int64_t j = 0; j < k; j++) {
        m->poles[j] = d[m->live[j]];
        m->z2[j] = m->z[m->live[j]] * m->z[m->live[j]];
    }
    for (int64_t i = 0; i < k; i++)
        m->roots[i] = secular_root(m->poles, m->z2, k, i, rho, m->s + i * k);
    for (int64_t j = 0; j < k; j++) m->z2[j] = -m->s[j * k + j];
    for (int64_t i = 0; i < k; i++) {
        const double *row = m->s + i * k;
        pole_product(m->z2, row, m->poles, m->poles[i], i);
        pole_product(m->z2 + i + 1, row + i + 1, m->poles + i + 1, m->poles[i], k - i - 1);
    }
    for (int64_t j = 0; j < k; j++) m->z2[j] = copysign(sqrt(m->z2[j]), m->z[m->live[j]]);
    for (int64_t i = k - keep; i < k; i++) {
        double *row = m->s + i * k;
        for (int64_t j = 0; j < k; j++) m->line[m->column[j]] = m->z2[j] / row[j];
        double scale = 1 / sqrt(norm2(m->line, k));
        for (int64_t j = 0; j < k; j++) row[j] = m->line[j] * scale;
    }
}

// q holds the eigenvectors of two tridiagonal matrices as rows: left (n1, n1) and right below it.
// Joined by the off-diagonal entry `off` their matrix is D + rho z z^T in this basis. Only the
// `keep` largest live pairs are formed. Returns the number of rows of q (and of d) that are filled,
// in no order.
static int64_t merge(double *d, double *q, int64_t ldq, int64_t n1, int64_t n, double off,
                     int64_t keep, Merge *m) {
    const int64_t n2 = n - n1;
    const double rho = 2 * fabs(off);
    for (int64_t i = 0; i < n; i++) {
        double *row = q + i * ldq;
        bool left = i < n1;
        m->z[i] = (left ? row[n1 - 1] : off < 0 ? -row[n1] : row[n1]) * M_SQRT1_2;
        m->side[i] = left ? LEFT : RIGHT;
        memset(left ? row + n1 : row, 0, (size_t)(left ? n2 : n1) * sizeof *row);
    }
    deflate(d, q, ldq, n, rho, m);

    // Live rows by side: left only, both, right only. So each half of the new vectors is one
    // product with the rows that have that half.
    const int64_t k = m->n_live, n_dead = m->n_dead, kept = keep < k ? keep : k;
    int64_t column = 0, n_only_left = 0, n_left = 0;
    for (int pass = 0; pass < 3; pass++) {
        const int side = (const int[]){LEFT, LEFT | RIGHT, RIGHT}[pass];
        for (int64_t j = 0; j < k; j++)
            if (m->side[m->live[j]] == side) m->column[j] = column++;
        if (side == LEFT) n_only_left = column;
        if (side != RIGHT) n_left = column;
    }
    double *left = m->rows, *right = left + n_left * n1, *dead = right + (k - n_only_left) * n2;
    for (int64_t j = 0; j < k; j++) {
        const double *row = q + m->live[j] * ldq;
        int64_t c = m->column[j], cr = c - n_only_left;
        if (c < n_left) memcpy(left + c * n1, row, (size_t)n1 * sizeof *row);
        if (cr >= 0) memcpy(right + cr * n2, row + n1, (size_t)n2 * sizeof *row);
    }
    for (int64_t j = 0; j < n_dead; j++)
        memcpy(dead + j * n, q + m->dead[j] * ldq, (size_t)n * sizeof *q);

    live_vectors(d, rho, kept, m);
    const double *s = m->s + (k - kept) * k;
    dgemm(false, false, kept, n1, n_left, s, k, left, n1, 0, q, ldq);
    dgemm(false, false, kept, n2, k - n_only_left, s + n_only_left, k, right, n2, 0, q + n1, ldq);
    for (int64_t j = 0; j < n_dead; j++)
        memcpy(q + (kept + j) * ldq, dead + j * n, (size_t)n * sizeof *q);

    for (int64_t j = 0; j < n_dead; j++) m->line[j] = d[m->dead[j]];
    memcpy(d, m->roots + k - kept, (size_t)kept * sizeof *d);
    memcpy(d + kept, m->line, (size_t)n_dead * sizeof *d);
    return kept + n_dead;
}

// Eigenpairs of the tridiagonal (d, off): values into d, vectors as rows of q, in no order.
static int64_t divide(double *d, const double *off, int64_t n, double *q, int64_t ldq, int64_t keep,
                      Merge *m) {
    if (n == 1) {
        q[0] = 1;
        return 1;
    }
    // T = (T_1 0; 0 T_2) + |off| u u^T, u = (0 .. 0 1 sign 0 .. 0)
    int64_t n1 = n / 2;
    double cut = fabs(off[n1 - 1]);
    d[n1 - 1] -= cut;
    d[n1] -= cut;
    divide(d, off, n1, q, ldq, n1, m);
    divide(d + n1, off + n1, n - n1, q + n1 * ldq + n1, ldq, n - n1, m);
    return merge(d, q, ldq, n1, n, off[n1 - 1], keep, m);
}

// single: the tridiagonal form is found in single precision, in a's own memory.
static int leading(double *a, bool single, int64_t n, int64_t r, double *values, double *vectors, Err *e) {
    const char *what = "eigenvectors";
    if (n < 0 || r < 0 || r > n)
        return fail(e, "%s: %lld wanted of %lld", what, (long long)r, (long long)n);
    if (r == 0) return 0;
    double scale = largest(a, n * n);
    if (isnan(scale)) return fail(e, "%s: the matrix has an entry that is not finite", what);

    int status = -1;
    double *line = alloc_matrix(8, n, what, e), *q = alloc_matrix(n, n, what, e);
    double *w = alloc_matrix(3 * BLOCK + STRIPS, n, what, e), *work = alloc_matrix(2 * BLOCK, r, what, e);
    Merge m = {.s = alloc_matrix(n, n, what, e), .rows = alloc_matrix(n, n, what, e),
               .order = alloc((size_t)n, sizeof *m.order, what, e),
               .live = alloc((size_t)n, 3 * sizeof *m.live, what, e),
               .side = alloc((size_t)n, 1, what, e)};
    if (!line || !q || !w || !work || !m.s || !m.rows || !m.order || !m.live || !m.side) goto done;
    double *d = line, *off = line + n, *tau = line + 2 * n;
    m.z = line + 3 * n, m.poles = line + 4 * n, m.z2 = line + 5 * n;
    m.line = line + 6 * n, m.roots = line + 7 * n;
    m.dead = m.live + n, m.column = m.live + 2 * n;

    float *as = (float *)a;                                            // in place, from the first on
    const double by = scale > 0 ? scale : 1;                           // squares stay in range
    if (single) {
        for (int64_t i = 0; i < n * n; i++) {
            const float x = (float)(a[i] / by);
            memcpy(as + i, &x, sizeof x);
        }
        tridiagonalise_f32(as, n, d, off, tau, (float *)w, (float *)w + 3 * BLOCK * n);
    } else {
        for (int64_t i = 0; i < n * n; i++) a[i] /= by;
        tridiagonalise_f64(a, n, d, off, tau, w, w + 3 * BLOCK * n);
    }
    int64_t found = divide(d, off, n, q, n, r, &m);
    for (int64_t i = 0; i < found; i++) m.order[i] = (Ranked){-d[i], i};
    qsort(m.order, (size_t)found, sizeof *m.order, ascending);
    for (int64_t i = 0; i < r; i++) values[i] = -m.order[i].value * scale;
    if (vectors) {
        double *y = m.rows;                                            // (r, n)
        for (int64_t i = 0; i < r; i++)
            memcpy(y + i * n, q + m.order[i].row * n, (size_t)n * sizeof *y);
        // (Q Y)^T = Y^T H_1 H_2 ... H_n-1, a block of reflectors (padded with zeros) at a time. Of floats
        // they are made orthogonal in double precision: tau = 2 / |v|^2.
        for (int64_t lo = 1; lo < n; lo += BLOCK) {
            int64_t hi = lo + BLOCK < n ? lo + BLOCK : n;
            for (int64_t i = lo; i < hi; i++) {
                double *v = w + (i - lo) * n;
                for (int64_t j = 0; j < i; j++) v[j] = single ? (double)as[i * n + j] : a[i * n + j];
                memset(v + i, 0, (size_t)(n - i) * sizeof *v);
                if (single && tau[i] != 0) tau[i] = 2 / norm2(v, i);
            }
            reflect(y, n, r, w, n, tau + lo, hi - lo, hi, false, work);
        }
        for (int64_t i = 0; i < r; i++) {                              // largest component positive
            double *row = y + i * n, top = 0;
            for (int64_t j = 0; j < n; j++) if (fabs(row[j]) > fabs(top)) top = row[j];
            if (top < 0) for (int64_t j = 0; j < n; j++) row[j] = -row[j];
        }
        transpose(y, r, n, vectors);
    }
    status = 0;
done:
    free(line), free(q), free(w), free(work);
    free(m.s), free(m.rows), free(m.order), free(m.live), free(m.side);
    return status;
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
            add_two_f64(row, -dot_f64(row, v + l * n, n), v + l * n, 0, v + l * n, n);
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
    transpose(q, n, m, u);
    transpose(w, n, n, v);
    status = 0;
done:
    free(q), free(r), free(g), free(w), free(ut), free(b), free(order);
    return status;
}

int svd(const double *a, int64_t m, int64_t n, double *u, double *s, double *v, Err *e) {
    if (m >= n) return svd_tall(a, m, n, u, s, v, e);
    double *at = alloc_matrix(n, m, "svd", e);                               // A^T = V diag(s) U^T
    if (!at) return -1;
    transpose(a, m, n, at);
    int status = svd_tall(at, n, m, v, s, u, e);
    free(at);
    return status;
}

// ---- of weights ---------------------------------------------------------------------------------

enum { WIDE = 2048 };
static bool large(int64_t m, int64_t n, int64_t k) { return (double)m * (double)n * (double)k > 0x1p32; }

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
