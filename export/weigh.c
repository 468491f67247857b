// weigh: the best low-rank factors under weights on both sides, and their storage without the
// identity that hides in them. Every decomposition is linalg's; this file only says of what. Knows
// no layers and no files. The proof stands in doc/MATH.md.
#include "weigh.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../core/kernels.h"
#include "../core/linalg.h"

// The largest absolute value, or NAN when an entry is not finite.
static double largest(const double *a, int64_t n) {
    double size = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(a[i])) return NAN;
        size = fmax(size, fabs(a[i]));
    }
    return size;
}

static int check_shapes(int64_t m, int64_t n, Metric d2, Err *e) {
    size_t size;
    if (m < 1 || n < 1 || !mul_size((size_t)m, (size_t)n, &size))
        return fail(e, "weigh: %lld x %lld is no size for a matrix", (long long)m, (long long)n);
    if (d2.p && (d2.block < 1 || m % d2.block))
        return fail(e, "weigh: blocks of %lld in a metric of %lld rows", (long long)d2.block,
                    (long long)m);
    return 0;
}

// ---- the metric ---------------------------------------------------------------------------------

// out (m, n) = x (m, n) multiplied from the left by the blocks, each meeting its own rows. Blocks
// of NULL are the identity. out must not alias x.
static void multiply_blocks(const double *blocks, int64_t block, int64_t m, const double *x,
                            int64_t n, double *out) {
    if (!blocks) {
        memcpy(out, x, (size_t)(m * n) * sizeof *out);
        return;
    }
    for (int64_t row = 0; row < m; row += block)
        dgemm(false, false, block, n, block, blocks + row * block, block, x + row * n, n, 0,
              out + row * n, n);
}

// Of the ridged metric D^2 = V diag(l) V^T, block by block: root = diag(l)^(1/2) V^T and inverse =
// V diag(l)^(-1/2), both (m, block). The root takes the place of D = V root in the formulas of
// weigh.h: the V cancels in D^-1 U and in U^T D W. Without a ridge D^2 may be singular; an l below
// rounding is raised to it.
static int metric_roots(Metric d2, int64_t m, double ridge, double *root, double *inverse, Err *e) {
    const int64_t n = d2.block;
    double mean_of_all = 0;
    for (int64_t row = 0; row < m; row++)
        mean_of_all += d2.p[row * n + row % n] / (double)m;
    if (!(mean_of_all > 1e-280)) mean_of_all = 1;

    int status = -1;
    double *a = alloc_matrix(n, n, "metric", e), *l = alloc_matrix(n, 1, "metric", e);
    double *v = alloc_matrix(n, n, "metric", e);
    if (!a || !l || !v) goto done;
    for (int64_t row = 0; row < m; row += n) {
        double mean = 0;
        for (int64_t i = 0; i < n; i++) mean += d2.p[(row + i) * n + i] / (double)n;
        bool zero = !(mean > 1e-280);                      // or too small to be inverted
        for (int64_t i = 0; i < n; i++) {
            for (int64_t j = 0; j < n; j++)
                a[i * n + j] = zero ? 0 : (d2.p[(row + i) * n + j] + d2.p[(row + j) * n + i]) / 2;
            a[i * n + i] += zero ? mean_of_all : ridge * mean;
        }
        if (eig_sym(a, n, l, v, e) < 0) goto done;
        for (int64_t j = 0; j < n; j++) {
            double s = sqrt(fmax(l[j], DBL_EPSILON * (double)n * l[0]));
            for (int64_t i = 0; i < n; i++) {
                root[(row + j) * n + i] = s * v[i * n + j];
                inverse[(row + i) * n + j] = v[i * n + j] / s;
            }
        }
    }
    status = 0;
done:
    free(a), free(l), free(v);
    return status;
}

// ---- the weighted factor ------------------------------------------------------------------------

// Directions that the data never excites: columns first .. of u (k, k), where eigenvalues are zero
// to rounding and come in no order. Turned so that they are ordered by |U^T D W| alone, a rank
// beyond that of C is still spent on W. y (k, n) = D W.
static int order_unseen(double *u, int64_t k, int64_t first, const double *y, int64_t n, Err *e) {
    const int64_t rest = k - first;
    int status = -1;
    double *s = alloc_matrix(rest, n, "weigh", e), *gram = alloc_matrix(rest, rest, "weigh", e);
    double *values = alloc_matrix(rest, 1, "weigh", e);
    double *turn = alloc_matrix(rest, rest, "weigh", e);
    double *turned = alloc_matrix(k, rest, "weigh", e);
    if (!s || !gram || !values || !turn || !turned) goto done;
    dgemm(true, false, rest, n, k, u + first, k, y, n, 0, s, n);
    dgemm(false, true, rest, rest, n, s, n, s, n, 0, gram, rest);
    if (eig_sym(gram, rest, values, turn, e) < 0) goto done;
    dgemm(false, false, k, rest, rest, u + first, k, turn, rest, 0, turned, rest);
    for (int64_t i = 0; i < k; i++)
        memcpy(u + i * k + first, turned + i * rest, (size_t)rest * sizeof *u);
    status = 0;
done:
    free(s), free(gram), free(values), free(turn), free(turned);
    return status;
}

// y C y^T = U diag(values) U^T, y (k, n); values (k), u (k, k).
static int weighted_eigen(const double *y, int64_t k, int64_t n, const double *c, double *values,
                          double *u, Err *e) {
    int status = -1;
    double *yc = alloc_matrix(k, n, "weigh", e), *gram = alloc_matrix(k, k, "weigh", e);
    if (!yc || !gram) goto done;
    if (c) dgemm(false, false, k, n, n, y, n, c, n, 0, yc, n);
    dgemm(false, true, k, k, n, c ? yc : y, n, y, n, 0, gram, k);
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < i; j++)
            gram[i * k + j] = gram[j * k + i] = (gram[i * k + j] + gram[j * k + i]) / 2;
    if (eig_sym(gram, k, values, u, e) < 0) goto done;
    int64_t seen = k;
    for (int64_t i = k - 1; i >= 0; i--) {
        values[i] = fmax(values[i], 0);
        if (values[i] <= DBL_EPSILON * (double)(k + n) * values[0]) seen = i;
    }
    status = seen < k ? order_unseen(u, k, seen, y, n, e) : 0;
done:
    free(yc), free(gram);
    return status;
}

// y (m, n), m > n, becomes R (n, n) in its first rows; q (m, m) orthogonal, y = Q (R; 0).
static int complete_qr(double *y, int64_t m, int64_t n, double *q, Err *e) {
    double *r = alloc_matrix(m, m, "weigh", e);
    if (!r) return -1;
    for (int64_t i = 0; i < m; i++) memcpy(q + i * m, y + i * n, (size_t)n * sizeof *q);
    int status = qr(q, m, m, r, e);                        // of (y 0): then Q is square
    for (int64_t i = 0; i < n; i++) memcpy(y + i * n, r + i * m, (size_t)n * sizeof *y);
    free(r);
    return status;
}

// With k = min(m, n), y = D W has its columns in a space of k dimensions, and the eigenproblem is
// one of that size: where m > n, y = Q (R; 0), R C R^T = V diag(values) V^T and U = Q (V 0; 0 I).
// So the k leading columns of U span W's whether C sees them or not, and rank k gives W back.
int weigh(Weighted *out, const double *w, int64_t m, int64_t n, const double *c, Metric d2,
          double ridge, Err *e) {
    *out = (Weighted){.m = m, .n = n};
    if (check_shapes(m, n, d2, e) < 0) return -1;
    if (!(ridge >= 0) || isinf(ridge)) return fail(e, "weigh: a ridge of %g", ridge);
    if (isnan(largest(w, m * n)) || (c && isnan(largest(c, n * n))) ||
        (d2.p && isnan(largest(d2.p, m * d2.block))))
        return fail(e, "weigh: W, C or D has an entry that is not finite");

    const int64_t k = m < n ? m : n;
    int status = -1;
    double *root = NULL, *inverse = NULL, *qu = NULL;
    double *y = alloc_matrix(m, n, "weigh", e), *v = alloc_matrix(k, k, "weigh", e), *u = v;
    out->values = alloc_matrix(m, 1, "eigenvalues", e);
    out->left = alloc_matrix(m, m, "left factor", e);
    out->right = alloc_matrix(m, n, "right factor", e);
    if (!y || !v || !out->values || !out->left || !out->right) goto done;
    if (d2.p) {
        root = alloc_matrix(m, d2.block, "metric", e);
        inverse = alloc_matrix(m, d2.block, "metric", e);
        if (!root || !inverse || metric_roots(d2, m, ridge, root, inverse, e) < 0) goto done;
    }
    multiply_blocks(root, d2.block, m, w, n, y);
    if (m > n) {
        u = qu = alloc_matrix(m, m, "weigh", e);
        if (!qu || complete_qr(y, m, n, out->left, e) < 0) goto done;
    }
    if (interrupted) {
        fail(e, "interrupted");
        goto done;
    }
    if (weighted_eigen(y, k, n, c, out->values, v, e) < 0) goto done;
    dgemm(true, false, k, n, k, v, k, y, n, 0, out->right, n);
    if (m > n) {                                           // left holds Q until here
        memcpy(qu, out->left, (size_t)(m * m) * sizeof *qu);
        dgemm(false, false, m, k, k, out->left, m, v, k, 0, qu, m);
    }
    multiply_blocks(inverse, d2.block, m, u, m, out->left);
    status = 0;
done:
    free(root), free(inverse), free(qu), free(y), free(v);
    if (status < 0) weighted_free(out);
    return status;
}

void weighted_free(Weighted *w) {
    free(w->values), free(w->left), free(w->right);
    *w = (Weighted){0};
}

double weighted_loss(const Weighted *w, int64_t r) {
    double sum = 0;
    for (int64_t i = w->m - 1; i >= r; i--) sum += w->values[i];       // the small ones first
    return sum;
}

int weighted_loss_of(const double *w, int64_t m, int64_t n, const double *c, Metric d2,
                     const double *b, const double *a, int64_t r, double *loss, Err *e) {
    if (check_shapes(m, n, d2, e) < 0) return -1;
    int status = -1;
    double *rest = alloc_matrix(m, n, "weigh", e), *de = alloc_matrix(m, n, "weigh", e);
    double *ec = alloc_matrix(m, n, "weigh", e);
    if (!rest || !de || !ec) goto done;
    dgemm(false, false, m, n, r, b, r, a, n, 0, rest, n);
    for (int64_t i = 0; i < m * n; i++) rest[i] = w[i] - rest[i];
    multiply_blocks(d2.p, d2.block, m, rest, n, de);
    if (c) dgemm(false, false, m, n, n, rest, n, c, n, 0, ec, n);
    *loss = 0;
    for (int64_t i = 0; i < m; i++) {                                  // tr(D^2 E (E C)^T) by rows
        double sum = 0;
        for (int64_t j = 0; j < n; j++) sum += de[i * n + j] * (c ? ec : rest)[i * n + j];
        *loss += sum;
    }
    status = 0;
done:
    free(rest), free(de), free(ec);
    return status;
}

// ---- pivoted storage ----------------------------------------------------------------------------
// A (r, n) has r independent columns among its n, if its rank is r: A = A_pivot [I X] P. Which ones
// decides how large X gets. QR with column pivoting is a good first choice; exchanges then bound X.

enum { REST, BASIS, FILLER };      // what a column is: expressed by others, of the basis, or only
                                   // stored because the rank is below r and r columns must stand

// Bases are exchanged while an entry of X exceeds this.
#define LARGEST_X 1.5
// What is left of a column outside the basis is rounding when so small beside the largest column.
#define SMALLEST_COLUMN 1e-13

// Businger and Golub: in each step the column with the largest part outside the span of those
// before becomes the next, and a reflector I - tau v v^T turns that part into row k. a (r, n), of
// entries up to 1, is overwritten; what[n] gets BASIS for the rank's columns, REST for the others;
// the four lines have n items. Returns the rank.
static int64_t choose_basis(double *a, int64_t r, int64_t n, uint8_t *what, double *left,
                            double *fresh, double *v, double *va) {
    memset(left, 0, (size_t)n * sizeof *left);             // |column|^2 below row k, kept by
    for (int64_t i = 0; i < r; i++)                        // subtraction; fresh: when last summed
        for (int64_t j = 0; j < n; j++) left[j] += a[i * n + j] * a[i * n + j];
    memcpy(fresh, left, (size_t)n * sizeof *left);
    memset(what, REST, (size_t)n);
    double first = 0;
    for (int64_t k = 0; k < r; k++) {
        int64_t p = -1;
        for (int64_t j = 0; j < n; j++)
            if (what[j] == REST && (p < 0 || left[j] > left[p])) p = j;
        for (int64_t i = k; i < r; i++) v[i] = a[i * n + p];
        double size = sqrt(norm2(v + k, r - k));
        if (k == 0) first = size;
        if (!(size > SMALLEST_COLUMN * first)) return k;
        what[p] = BASIS;

        double beta = -copysign(size, v[k]);
        v[k] -= beta;
        double tau = -1 / (beta * v[k]);                   // 2 / |v|^2
        memset(va, 0, (size_t)n * sizeof *va);
        for (int64_t i = k; i < r; i++)
            for (int64_t j = 0; j < n; j++) va[j] += v[i] * a[i * n + j];
        for (int64_t i = k; i < r; i++) {
            double s = tau * v[i];
            for (int64_t j = 0; j < n; j++) a[i * n + j] -= s * va[j];
        }
        for (int64_t j = 0; j < n; j++) {
            if (what[j] != REST) continue;
            left[j] -= a[k * n + j] * a[k * n + j];
            if (left[j] > 1e-8 * fresh[j]) continue;
            left[j] = 0;                                   // digits are gone: sum it again
            for (int64_t i = k + 1; i < r; i++) left[j] += a[i * n + j] * a[i * n + j];
            fresh[j] = left[j];
        }
    }
    return r;
}

// x (r, n - r) with A_rest = A_pivot X, columns in their order, and pivot (r) from what[n]: with
// A_basis = Q R, X = R^-1 Q^T A_rest, and zeros in the rows of fillers.
static int solve_rest(const double *a, int64_t r, int64_t n, const uint8_t *what, int32_t *pivot,
                      int32_t *rest, double *x, Err *e) {
    int64_t n_pivot = 0, n_rest = 0, rank = 0;
    for (int64_t j = 0; j < n; j++) {
        if (what[j] == REST) rest[n_rest++] = (int32_t)j;
        else pivot[n_pivot++] = (int32_t)j;
        rank += what[j] == BASIS;
    }
    memset(x, 0, (size_t)(r * n_rest) * sizeof *x);
    int status = -1;
    double *q = alloc_matrix(r, rank, "pivots", e), *upper = alloc_matrix(rank, rank, "pivots", e);
    double *y = alloc_matrix(r, n_rest, "pivots", e), *qy = alloc_matrix(rank, n_rest, "pivots", e);
    int64_t *row = alloc((size_t)r, sizeof *row, "pivots", e);         // of x, for a basis column
    if (!q || !upper || !y || !qy || !row) goto done;
    for (int64_t p = 0, k = 0; p < r; p++) {
        if (what[pivot[p]] != BASIS) continue;
        for (int64_t i = 0; i < r; i++) q[i * rank + k] = a[i * n + pivot[p]];
        row[k++] = p;
    }
    for (int64_t i = 0; i < r; i++)
        for (int64_t j = 0; j < n_rest; j++) y[i * n_rest + j] = a[i * n + rest[j]];
    if (qr(q, r, rank, upper, e) < 0) goto done;
    dgemm(true, false, rank, n_rest, r, q, rank, y, n_rest, 0, qy, n_rest);
    for (int64_t k = rank - 1; k >= 0; k--) {
        double *xk = x + row[k] * n_rest;
        memcpy(xk, qy + k * n_rest, (size_t)n_rest * sizeof *xk);
        for (int64_t l = k + 1; l < rank; l++) {
            const double f = upper[k * rank + l], *xl = x + row[l] * n_rest;
            for (int64_t j = 0; j < n_rest; j++) xk[j] -= f * xl[j];
        }
        for (int64_t j = 0; j < n_rest; j++) xk[j] /= upper[k * rank + k];
    }
    status = 0;
done:
    free(q), free(upper), free(y), free(qy), free(row);
    return status;
}

// Exchanges basis column and rest column at the largest |X_ij|, and follows what that does to X,
// while it exceeds LARGEST_X. |det A_basis| grows by |X_ij| each time, so this comes to an end;
// with rounding in mind it makes at most n exchanges. Returns how many. at_row (r), at_col (n - r):
// the columns as they stand; old: room for a row of X.
static int64_t exchange(double *x, int64_t r, int64_t n, const int32_t *pivot, const int32_t *rest,
                        uint8_t *what, int32_t *at_row, int32_t *at_col, double *old) {
    const int64_t cols = n - r;
    memcpy(at_row, pivot, (size_t)r * sizeof *at_row);
    memcpy(at_col, rest, (size_t)cols * sizeof *at_col);
    for (int64_t count = 0; count < n; count++) {
        int64_t best = -1;
        double size = LARGEST_X;
        for (int64_t i = 0; i < r * cols; i++)
            if (fabs(x[i]) > size) size = fabs(x[i]), best = i;
        if (best < 0) return count;
        const int64_t row = best / cols, col = best % cols;
        what[at_row[row]] = REST, what[at_col[col]] = BASIS;
        int32_t swap = at_row[row];
        at_row[row] = at_col[col], at_col[col] = swap;

        // a_col = sum_i X_i,col a_i solved for a_row, and put into every other column's sum
        const double pivot_x = x[best];
        double *chosen = x + row * cols;
        memcpy(old, chosen, (size_t)cols * sizeof *old);
        for (int64_t j = 0; j < cols; j++) chosen[j] = old[j] / pivot_x;
        chosen[col] = 1 / pivot_x;
        for (int64_t i = 0; i < r; i++) {
            if (i == row) continue;
            double *xi = x + i * cols, f = xi[col];
            xi[col] = 0;
            for (int64_t j = 0; j < cols; j++) xi[j] -= f * chosen[j];
        }
    }
    return n;
}

int pivot_factors(double *b, int64_t m, const double *a, int64_t r, int64_t n, int32_t *pivot,
                  double *x, Err *e) {
    if (m < 1 || r < 1 || r > n || n > INT32_MAX)
        return fail(e, "pivots: factors (%lld, %lld) and (%lld, %lld)", (long long)m, (long long)r,
                    (long long)r, (long long)n);
    int status = -1;
    double *work = alloc_matrix(r, n, "pivots", e), *lines = alloc_matrix(4, n, "pivots", e);
    double *chosen = alloc_matrix(r, r, "pivots", e), *bl = alloc_matrix(m, r, "pivots", e);
    int32_t *index = alloc((size_t)n, 3 * sizeof *index, "pivots", e);
    uint8_t *what = alloc((size_t)n, 1, "pivots", e);
    if (!work || !lines || !chosen || !bl || !index || !what) goto done;
    const double scale = largest(a, r * n);
    if (isnan(scale) || isnan(largest(b, m * r))) {
        fail(e, "pivots: a factor has an entry that is not finite");
        goto done;
    }

    for (int64_t i = 0; i < r * n; i++) work[i] = scale > 0 ? a[i] / scale : 0;   // for its squares
    int64_t rank = choose_basis(work, r, n, what, lines, lines + n, lines + 2 * n, lines + 3 * n);
    for (int64_t j = 0; rank < r; j++)
        if (what[j] == REST) what[j] = FILLER, rank++;
    int32_t *rest = index, *at_row = index + n, *at_col = index + 2 * n;
    if (solve_rest(a, r, n, what, pivot, rest, x, e) < 0) goto done;
    if (exchange(x, r, n, pivot, rest, what, at_row, at_col, lines) > 0 &&
        solve_rest(a, r, n, what, pivot, rest, x, e) < 0)              // without the rounding of
        goto done;                                                     // many exchanges
    for (int64_t i = 0; i < r; i++)
        for (int64_t j = 0; j < r; j++) chosen[i * r + j] = a[i * n + pivot[j]];
    dgemm(false, false, m, r, r, b, r, chosen, r, 0, bl, r);           // L = A_pivot
    memcpy(b, bl, (size_t)(m * r) * sizeof *b);
    status = 0;
done:
    free(work), free(lines), free(chosen), free(bl), free(index), free(what);
    return status;
}
