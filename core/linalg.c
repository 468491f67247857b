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

// sum z2 / (delta - tau) and its derivative sum z2 / (delta - tau)^2
CLONES static void pole_sum(const double *z2, const double *delta, double tau, int64_t n,
                            double *sum, double *slope) {
    Vec s = {0}, t = {0};
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES) {
        Vec w = 1 / (LOAD(delta + j) - tau), q = LOAD(z2 + j) * w;
        s += q;
        t += q * w;
    }
    *sum = SUM(s), *slope = SUM(t);
    for (; j < n; j++) {
        double w = 1 / (delta[j] - tau), q = z2[j] * w;
        *sum += q;
        *slope += q * w;
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
    double *line;                  // (threads, n) one row in the making
    double *s;                     // (n, n) first d_j - root_i, then the vectors of the live part
    double *rows;                  // (n, n) rows of q, gathered
    Ranked *order;                 // (n)
    int64_t n, n_live, n_dead, kept;
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
    double width = last ? rho : d[i + 1] - d[i], tau = width / 2, lo = 0, hi = width;
    double f, psi, dpsi, phi, dphi;                        // psi, phi: the poles left and right of x
    int64_t origin = i;
    for (int64_t j = 0; j < k; j++) delta[j] = d[j] - d[i];
    for (int step = 0; step < 200; step++) {
        pole_sum(z2, delta, tau, i + 1, &psi, &dpsi);
        pole_sum(z2 + i + 1, delta + i + 1, tau, k - i - 1, &phi, &dphi);
        f = 1 / rho + psi + phi;
        if (fabs(f) <= 4 * DBL_EPSILON * (1 / rho - psi + phi)) break;
        if (step == 0 && !last && f < 0) {                 // negative halfway: d_i+1 is nearer
            origin = i + 1, tau = -width / 2, lo = tau, hi = 0;
            for (int64_t j = 0; j < k; j++) delta[j] = d[j] - d[origin];
        } else if (f < 0) {
            lo = tau;
        } else {
            hi = tau;
        }
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
typedef struct { Merge *m; double rho; } Live;

static void live_roots(void *ctx, int64_t begin, int64_t end, int thread) {
    const Live *l = ctx;
    Merge *m = l->m;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        m->roots[i] = secular_root(m->poles, m->z2, m->n_live, i, l->rho, m->s + i * m->n_live);
}

static void live_weights(void *ctx, int64_t begin, int64_t end, int thread) {
    Merge *m = ((const Live *)ctx)->m;
    const int64_t k = m->n_live;
    (void)thread;
    for (int64_t j = begin; j < end; j++) m->z2[j] = -m->s[j * k + j];
    for (int64_t i = 0; i < k; i++) {
        const double *row = m->s + i * k, d = m->poles[i];
        const int64_t below = i < begin ? begin : i < end ? i : end, above = i < begin ? begin : below + (i < end);
        pole_product(m->z2 + begin, row + begin, m->poles + begin, d, below - begin);
        pole_product(m->z2 + above, row + above, m->poles + above, d, end - above);
    }
    for (int64_t j = begin; j < end; j++) m->z2[j] = copysign(sqrt(m->z2[j]), m->z[m->live[j]]);
}

static void live_rows(void *ctx, int64_t begin, int64_t end, int thread) {
    Merge *m = ((const Live *)ctx)->m;
    const int64_t k = m->n_live, first = k - m->kept;
    double *line = m->line + thread * m->n;
    for (int64_t i = first + begin; i < first + end; i++) {
        double *row = m->s + i * k;
        for (int64_t j = 0; j < k; j++) line[m->column[j]] = m->z2[j] / row[j];
        double scale = 1 / sqrt(norm2(line, k));
        for (int64_t j = 0; j < k; j++) row[j] = line[j] * scale;
    }
}

static void live_vectors(const double *d, double rho, Merge *m) {
    const int64_t k = m->n_live, grain = 1 + FEW / (k + 1);
    for (int64_t j = 0; j < k; j++) {
        m->poles[j] = d[m->live[j]];
        m->z2[j] = m->z[m->live[j]] * m->z[m->live[j]];
    }
    Live l = {m, rho};
    parallel_for(k, grain, live_roots, &l);
    parallel_for(k, grain, live_weights, &l);
    parallel_for(m->kept, grain, live_rows, &l);
}

// The two halves of a merge, q's rows as they stand and gathered.
typedef struct { Merge *m; double *q, *left, *right, *dead; int64_t ldq, n1, n2, n_only_left, n_left; } Halves;

static void clear_halves(void *ctx, int64_t begin, int64_t end, int thread) {
    const Halves *h = ctx;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        double *row = h->q + i * h->ldq;
        if (i < h->n1) memset(row + h->n1, 0, (size_t)h->n2 * sizeof *row);
        else memset(row, 0, (size_t)h->n1 * sizeof *row);
    }
}

static void gather_live(void *ctx, int64_t begin, int64_t end, int thread) {
    const Halves *h = ctx;
    (void)thread;
    for (int64_t j = begin; j < end; j++) {
        const double *row = h->q + h->m->live[j] * h->ldq;
        const int64_t c = h->m->column[j], cr = c - h->n_only_left;
        if (c < h->n_left) memcpy(h->left + c * h->n1, row, (size_t)h->n1 * sizeof *row);
        if (cr >= 0) memcpy(h->right + cr * h->n2, row + h->n1, (size_t)h->n2 * sizeof *row);
    }
}

// q holds the eigenvectors of two tridiagonal matrices as rows: left (n1, n1) and right below it.
// Joined by the off-diagonal entry `off` their matrix is D + rho z z^T in this basis. Only the
// `keep` largest live pairs are formed. Returns the number of rows of q (and of d) that are filled,
// in no order.
static int64_t merge(double *d, double *q, int64_t ldq, int64_t n1, int64_t n, double off,
                     int64_t keep, Merge *m) {
    const int64_t n2 = n - n1, grain = 1 + FEW / n;
    const double rho = 2 * fabs(off);
    Halves h = {.m = m, .q = q, .ldq = ldq, .n1 = n1, .n2 = n2};
    for (int64_t i = 0; i < n; i++) {
        const double *row = q + i * ldq;
        const bool left = i < n1;
        m->z[i] = (left ? row[n1 - 1] : off < 0 ? -row[n1] : row[n1]) * M_SQRT1_2;
        m->side[i] = left ? LEFT : RIGHT;
    }
    parallel_for(n, grain, clear_halves, &h);
    deflate(d, q, ldq, n, rho, m);

    // Live rows by side: left only, both, right only. So each half of the new vectors is one
    // product with the rows that have that half.
    const int64_t k = m->n_live, n_dead = m->n_dead, kept = m->kept = keep < k ? keep : k;
    int64_t column = 0;
    for (int pass = 0; pass < 3; pass++) {
        const int side = (const int[]){LEFT, LEFT | RIGHT, RIGHT}[pass];
        for (int64_t j = 0; j < k; j++)
            if (m->side[m->live[j]] == side) m->column[j] = column++;
        if (side == LEFT) h.n_only_left = column;
        if (side != RIGHT) h.n_left = column;
    }
    h.left = m->rows, h.right = h.left + h.n_left * n1, h.dead = h.right + (k - h.n_only_left) * n2;
    parallel_for(k, grain, gather_live, &h);
    for (int64_t j = 0; j < n_dead; j++)
        memcpy(h.dead + j * n, q + m->dead[j] * ldq, (size_t)n * sizeof *q);

    live_vectors(d, rho, m);
    const double *s = m->s + (k - kept) * k;
    dgemm(false, false, kept, n1, h.n_left, s, k, h.left, n1, 0, q, ldq);
    dgemm(false, false, kept, n2, k - h.n_only_left, s + h.n_only_left, k, h.right, n2, 0, q + n1, ldq);
    for (int64_t j = 0; j < n_dead; j++)
        memcpy(q + (kept + j) * ldq, h.dead + j * n, (size_t)n * sizeof *q);

    for (int64_t j = 0; j < n_dead; j++) m->line[j] = d[m->dead[j]];
    memcpy(d, m->roots + k - kept, (size_t)kept * sizeof *d);
    memcpy(d + kept, m->line, (size_t)n_dead * sizeof *d);
    return kept + n_dead;
}

// Eigenpairs of the tridiagonal (d, off): values into d, vectors as rows of q (n, n). Small matrices
// are shared out among threads and each solved by one of them; what joins them, by all.
//     T = (T_1 0; 0 T_2) + |off| u u^T, u = (0 .. 0 1 sign 0 .. 0)
enum { SMALL = 160 };
typedef struct { double *d, *q; const double *off; Merge m; int64_t n, keep, found, parts, *from; } Tree;

static void cut(Tree *t, int64_t from, int64_t n) {
    const double size = fabs(t->off[from + n / 2 - 1]);
    t->d[from + n / 2 - 1] -= size;
    t->d[from + n / 2] -= size;
}

// Pairs from .. from + n, the `keep` largest at least, in no order; returns how many. Merges of up to
// `least` are there already.
static int64_t conquer(Tree *t, int64_t from, int64_t n, int64_t least, int64_t keep) {
    if (n == 1) t->q[from * t->n + from] = 1;
    if (n <= least) return n;
    const int64_t n1 = n / 2;
    if (n <= SMALL) cut(t, from, n);
    conquer(t, from, n1, least, n1);
    conquer(t, from + n1, n - n1, least, n - n1);
    Merge m = t->m;                                        // its own part of the room
    m.z += from, m.poles += from, m.z2 += from, m.roots += from, m.order += from, m.side += from;
    m.line += from, m.live += from, m.dead += from, m.column += from;
    m.s += from * t->n, m.rows += from * t->n;
    return merge(t->d + from, t->q + from * t->n + from, t->n, n1, n, t->off[from + n1 - 1], keep, &m);
}

// Cuts T into small matrices, of which from[] has the first rows.
static void divide(Tree *t, int64_t from, int64_t n) {
    if (n > SMALL) {
        cut(t, from, n);
        divide(t, from, n / 2);
        divide(t, from + n / 2, n - n / 2);
    } else {
        t->from[t->parts++] = from;
        t->from[t->parts] = from + n;
    }
}

static void conquer_parts(void *ctx, int64_t begin, int64_t end, int thread) {
    Tree *t = ctx;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        const int64_t from = t->from[i], n = t->from[i + 1] - from;
        if (n == t->n) t->found = conquer(t, from, n, 1, t->keep);
        else conquer(t, from, n, 1, n);
    }
}

// (Q Y)^T = Y^T H_1 H_2 ... H_n-1, a block of reflectors (padded with zeros) at a time.
typedef struct {
    const double *a, *q;           // reflector i: row i of a, or of as, up to column i; q: rows of Y^T
    const float *as;
    const Ranked *order;           // of the rows of q
    double *y, *v, *tau, *t;       // (r, n), (n, n), (n), (n / BLOCK + 1, BLOCK, BLOCK)
    double *work, *vectors;
    int64_t n, r;
} Back;

static int64_t block_end(const Back *b, int64_t lo) { return lo + BLOCK < b->n ? lo + BLOCK : b->n; }

// Reflectors of floats are made orthogonal in double precision: tau = 2 / |v|^2.
static void prepare_blocks(void *ctx, int64_t begin, int64_t end, int thread) {
    const Back *b = ctx;
    (void)thread;
    for (int64_t block = begin; block < end; block++) {
        const int64_t lo = 1 + block * BLOCK, hi = block_end(b, lo);
        for (int64_t i = lo; i < hi; i++) {
            double *v = b->v + i * b->n;
            if (b->as) for (int64_t j = 0; j < i; j++) v[j] = b->as[i * b->n + j];
            else memcpy(v, b->a + i * b->n, (size_t)i * sizeof *v);
            memset(v + i, 0, (size_t)(hi - i) * sizeof *v);
            if (b->as && b->tau[i] != 0) b->tau[i] = 2 / norm2(v, i);
        }
        block_factor(b->v + lo * b->n, b->n, b->tau + lo, hi - lo, hi, b->t + block * BLOCK * BLOCK);
    }
}

static void transform_rows(void *ctx, int64_t begin, int64_t end, int thread) {
    const Back *b = ctx;
    const int64_t n = b->n;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        memcpy(b->y + i * n, b->q + b->order[i].row * n, (size_t)n * sizeof *b->y);
    for (int64_t lo = 1; lo < n; lo += BLOCK) {
        const int64_t hi = block_end(b, lo);
        apply_block(b->y + begin * n, n, end - begin, b->v + lo * n, n, b->t + lo / BLOCK * BLOCK * BLOCK, hi - lo,
                    hi, false, b->work + 2 * BLOCK * begin);
    }
    for (int64_t i = begin; i < end; i++) {                            // largest component positive
        double *row = b->y + i * n, high = 0, low = 0;
        int64_t first = 0;
        for (int64_t j = 0; j < n; j++) high = row[j] > high ? row[j] : high, low = row[j] < low ? row[j] : low;
        while (first < n - 1 && fabs(row[first]) < fmax(high, -low)) first++;
        if (row[first] < 0) for (int64_t j = 0; j < n; j++) row[j] = -row[j];
    }
}

static void write_columns(void *ctx, int64_t begin, int64_t end, int thread) {
    const Back *b = ctx;
    (void)thread;
    transpose(b->y + begin, b->r, end - begin, b->n, b->vectors + begin * b->r, b->r);
}

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
    m.poles = carve(&room, n), m.z2 = carve(&room, n), m.roots = carve(&room, n), m.line = carve(&room, threads * n);
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
