// linalg: dense linear algebra in double precision, row-major. Threads only through kernels.h.
// Each function's test checks residuals. Work memory is taken and freed inside; -1 when it is out.
#ifndef LINALG_H
#define LINALG_H

#include "util.h"

// A (n, n) symmetric, overwritten. values (n) descending; vectors (n, n): COLUMN j belongs to
// values[j], so A = V diag(values) V^T; its largest component is positive. vectors may be NULL.
// Householder to tridiagonal form, then divide and conquer: orthonormal to rounding whatever the
// values, repeated and zero ones included. An entry that is not finite is refused.
int eig_sym(double *a, int64_t n, double *values, double *vectors, Err *e);
// The r leading eigenvectors only: vectors (n, r), values (r).
int eig_sym_leading(double *a, int64_t n, int64_t r, double *values, double *vectors, Err *e);
// The same with A brought to tridiagonal form in single precision, where most of the time goes for a
// large n: vectors as orthonormal as the others, of a matrix that is off by about 1e-6 |A|. What they
// capture, tr(V^T A V), is less than the most there is by the square of that (1e-10 of it); where values
// at the cut are as good as equal, by 1e-7 of it.
int eig_sym_leading_mixed(double *a, int64_t n, int64_t r, double *values, double *vectors, Err *e);

// A (m, n), m >= n, becomes Q (m, n) with orthonormal columns; r (n, n) upper triangular, or NULL.
int qr(double *a, int64_t m, int64_t n, double *r, Err *e);
// A (n, n) symmetric positive definite -> lower L in place, A = L L^T; -1 when not definite,
// -2 when memory is out, which no other A would change.
int cholesky(double *a, int64_t n, Err *e);
// Thin SVD: A (m, n) = U (m, k) diag(s) V^T, V (n, k), k = min(m, n). s descending. A is kept.
int svd(const double *a, int64_t m, int64_t n, double *u, double *s, double *v, Err *e);

// For tensors of weights, numbers of 24 bits that meet a rounding of 1e-7: C (m, n) = A B (dgemm), C (m, m)
// = A A^T (gram) and eig_sym_leading; in mixed precision where they take time: from 2^27 multiply-adds and
// n 512 on.
void weights_product(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const double *a, int64_t lda,
                     const double *b, int64_t ldb, double *c);
void weights_gram(int64_t m, int64_t k, const double *a, double *c);
int weights_eig_leading(double *a, int64_t n, int64_t r, double *values, double *vectors, Err *e);

// Zeroed memory of a matrix (rows, cols), freed by free(); sizes are checked.
double *alloc_matrix(int64_t rows, int64_t cols, const char *what, Err *e);
double norm2(const double *a, int64_t n);                  // sum of squares

#endif
