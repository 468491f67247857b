// weigh: low-rank factors of one matrix (or of several that share their input, stacked by rows),
// weighted on both sides. Numbers only, in double precision.
//
//   min over B (m, r), A (r, n) of |D (W - B A) C^(1/2)|_F^2
//
// U = the r leading eigenvectors of D W C W^T D, A = U^T D W, B = D^-1 U; the minimum is the sum of
// the eigenvalues left out. C^(1/2) is never formed and nothing of C is inverted.
#ifndef WEIGH_H
#define WEIGH_H

#include "../core/util.h"

// D^2: m / block symmetric positive semidefinite blocks (block, block), one behind the other (block
// = m: a full matrix; 1: a diagonal). p = NULL: the identity.
typedef struct { const double *p; int64_t block; } Metric;

typedef struct {
    int64_t m, n;
    double *values;           // (m) eigenvalues of D W C W^T D, descending, none below 0
    double *left;             // (m, m) D^-1 U
    double *right;            // (m, n) U^T D W
} Weighted;

// c (n, n), or NULL: the identity. To every block of D^2 `ridge` times its mean diagonal is added (a
// zero block becomes the identity times the mean diagonal of all blocks, or 1 if that is 0), so that
// D^-1 exists. Zero W, zero C, rank-deficient C and D^2 are all allowed.
int weigh(Weighted *out, const double *w, int64_t m, int64_t n, const double *c, Metric d2,
          double ridge, Err *e);
void weighted_free(Weighted *w);
// |D (W - B A) C^(1/2)|^2 at rank r by the eigenvalues: the sum of values[r ..].
double weighted_loss(const Weighted *w, int64_t r);
// The same by its definition, from any B (m, r) and A (r, n): tr(D^2 E C E^T), E = W - B A.
int weighted_loss_of(const double *w, int64_t m, int64_t n, const double *c, Metric d2,
                     const double *b, const double *a, int64_t r, double *loss, Err *e);

// B A = (B L) [I X] P, an identity block that need not be stored: by QR with column pivoting of A
// (r, n) picks r of its columns, pivot (r), ascending; x (r, n - r) stands for the others, in their
// order; b (m, r) is multiplied by L. r (m + n - r) numbers instead of r (m + n). A rank-deficient
// A is allowed. |X| <= 1.5 in practice, which makes it quantise well.
int pivot_factors(double *b, int64_t m, const double *a, int64_t r, int64_t n, int32_t *pivot,
                  double *x, Err *e);

#endif
