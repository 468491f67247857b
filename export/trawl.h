// trawl: the comparison method TRAWL. Matrices of one shape are stacked to a 3-mode tensor
// (rows, cols, count), approximated by CP or Tucker at a given rank, and put back. Numbers only.
#ifndef TRAWL_H
#define TRAWL_H

#include "../core/util.h"

// t (rows, cols, count), last axis contiguous, replaced by its approximation.
// CP: t ~ sum over r of a_r o b_r o c_r by alternating least squares, `sweeps` at most, from a fixed
// seed; stops when the relative error falls by less than tol in a sweep.
int cp_approximate(double *t, const int64_t n[3], int64_t rank, int sweeps, double tol,
                   double *error, Err *e);
// Tucker by HOSVD and HOOI (tucker.h with a fourth mode of 1).
int tucker3_approximate(double *t, const int64_t n[3], const int64_t rank[3], int sweeps,
                        double *error, Err *e);
double cp_params(const int64_t n[3], int64_t rank);
double tucker3_params(const int64_t n[3], const int64_t rank[3]);

#endif
