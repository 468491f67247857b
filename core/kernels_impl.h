// kernels_impl: what kernels.c and its variants share. A variant is kernels_template.h compiled for
// one instruction set (kernels_avx2.c and its like): serial pieces of work behind one table of
// functions. kernels.c picks a table, splits the work among threads and calls the pieces.
#ifndef KERNELS_IMPL_H
#define KERNELS_IMPL_H

#include "kernels.h"

// Activations quantised to 16 bits, as two bytes: x[32 b + i] ~ d[b] (256 q + l), q and l in
// -127 .. 127. One byte alone costs a small model 0.3 to 0.8 % of perplexity; two cost nothing.
typedef struct {
    int8_t *q;               // (n, cols/32, 64): each block as place_block puts it
    float *d, *s;            // (n, cols/32): the scale; the scale times the block's sum,
    bool sums;               // if that is wanted (for Q4_1)
} Act;
// The same numbers of one token, as a row of weights meets them: LANES / 4 blocks together, first the
// first 16 numbers of each, then the others; whatever there is once for 8 of a block's numbers, 4 from
// either half, stands in a lane of its own. A group of one or two last blocks is filled with these again, as
// the last blocks of several rows meet it; one of three of four with zeros.
typedef struct {
    int8_t *q, *l;           // (cols)
    int32_t *bias;           // (cols/8): -128 times the sum of 256 q + l of the eight
    float *d, *s;            // (cols/8): the scale; the scale times that sum
} RowAct;
enum { ROW_BLOCKS = 4 };     // at most so many blocks together; arrays of RowAct are whole times so long

// Rows that wait for memory are read in one stream or four (kernels.h). In four, row i ceil(rows / 4) + g has
// place 4 g + i in the order in which rows are computed; in one, rows have the places of their numbers. A
// thread's places go on to `end`, past those that are to be computed now; then it reads what stands at `at`.
typedef struct {
    int64_t end;
    const uint8_t *at;       // NULL: not known
    int64_t between;         // stream i of it begins at at + i between
} Then;
extern int streams;          // 0: not chosen yet, and taken as 1

typedef struct {
    const char *name;
    // y[t * ldy + r] = W[r] . x[t] for r in r0 .. r1, f32 activations x (n, cols). Floats and up to 8 tokens:
    // for the rows at the places r0 .. r1, r0 a multiple of 4, r1 too or all rows. then may be NULL.
    void (*dot_rows)(const Mat *w, int64_t r0, int64_t r1, const float *x, int64_t n, float *y,
                     int64_t ldy, const Then *then);
    // The same for F32, F16, BF16 weights and activations turned (kernels_float.h), in another order. Tokens
    // are turned a vector of `lanes` at a time, v0 .. v1 of all n; they take whole vectors of room.
    int64_t lanes;
    void (*turn_tokens)(const float *x, int64_t cols, int64_t n, int64_t v0, int64_t v1, float *turned);
    void (*turned_rows)(const Mat *w, int64_t r0, int64_t r1, const float *turned, int64_t n, float *y,
                        int64_t ldy);
    // The same for Q8_0, Q4_0, Q4_1 weights and quantised activations.
    void (*quant_rows)(const Mat *w, int64_t r0, int64_t r1, const Act *x, int64_t n, float *y,
                       int64_t ldy);
    void (*quantise)(const float *x, int64_t t0, int64_t t1, int64_t cols, const Act *out);
    // One token: y[r] = W[r] . x for the rows at the places r0 .. r1, as above.
    void (*quant_row)(const Mat *w, int64_t r0, int64_t r1, const RowAct *x, float *y, const Then *then);
    void (*quantise_row)(const float *x, int64_t cols, const RowAct *out);
    // y[t * ldy + c] += sum_r x[t * ldx + r] W[r][c] for c in c0 .. c1, multiples of the block.
    void (*columns)(const Mat *w, int64_t c0, int64_t c1, const float *x, int64_t ldx, int64_t n,
                    float *y, int64_t ldy);
    // gemm.c's: see kernels_gemm.h.
    int64_t gemm_mr, gemm_nr, gemm_nr32;
    void (*gemm_pack)(double *dst, const double *src, int64_t count, int64_t depth, int64_t wide,
                      int64_t step, int64_t other);
    void (*gemm_pack_mixed)(float *dst, const double *src, int64_t count, int64_t depth, int64_t wide,
                            int64_t step, int64_t other);
    void (*gemm_pack32)(float *dst, const float *src, int64_t count, int64_t depth, int64_t wide,
                        int64_t step, int64_t other);
    void (*gemm_block)(const double *a, const double *b, int64_t m, int64_t n, int64_t depth, bool add,
                       double *c, int64_t ldc, int64_t last);
    void (*gemm_block_mixed)(const float *a, const float *b, int64_t m, int64_t n, int64_t depth, bool add,
                             double *c, int64_t ldc, int64_t last);
    void (*gemm_block32)(const float *a, const float *b, int64_t m, int64_t n, int64_t depth, bool add,
                         float *c, int64_t ldc, int64_t last);
    // linalg_tridiagonal.h's: see there, too.
    void (*symv_rows)(const double *a, int64_t lda, int64_t i0, int64_t i1, const double *x, double *y);
    void (*symv_rows32)(const float *a, int64_t lda, int64_t i0, int64_t i1, const float *x, float *y);
    void (*row_dots)(const double *a, int64_t lda, int64_t rows, const double *x, int64_t n, double *out);
    void (*row_dots32)(const float *a, int64_t lda, int64_t rows, const float *x, int64_t n, float *out);
    void (*sum_rows)(const double *a, int64_t lda, int64_t rows, const double *c, int64_t step, double *y,
                     int64_t n);
    void (*sum_rows32)(const float *a, int64_t lda, int64_t rows, const float *c, int64_t step, float *y,
                       int64_t n);
    float (*dot)(const float *a, const float *b, int64_t n);
    void (*axpy)(float *y, float a, const float *x, int64_t n);
    void (*scale)(float *y, const float *x, float a, const float *w, int64_t n);  // (a x) w
    float (*max)(const float *x, int64_t n);
    float (*exp_sum)(float *x, int64_t n, float scale, float shift);
    void (*swiglu)(float *gate, const float *up, int64_t n);
    void (*activate)(Activation a, float *x, int64_t n);
    void (*from_f16)(const uint16_t *src, float *dst, int64_t n);
    void (*to_f16)(const float *src, uint16_t *dst, int64_t n);
    uint64_t (*read)(const void *p, size_t size);     // touches every byte; size a multiple of 4096
    // Multiply-adds on registers alone, of floats and of bytes; returns how many they were. *sink is
    // 0 before and without meaning after. At most a million turns.
    int64_t (*madds_f32)(int64_t turns, float *sink);
    int64_t (*madds_int8)(int64_t turns, int32_t *sink);
    // Attention's: see kernels.h.
    void (*key_scores)(const Mat *k, bool tiled, const float *q, int64_t ldq, int64_t rows,
                       const RowSpan *seen, bool add, float *s, int64_t lds, const void *ahead);
    void (*value_sums)(const Mat *v, const float *w, int64_t ldw, int64_t rows, const RowSpan *seen, float *y,
                       int64_t ldy, const void *ahead);
    float (*soften)(float *s, RowSpan seen, int64_t n, float scale, float *max, float *sum);
} Kernels;

const Kernels *kernels(void);
extern const Kernels kernels_generic, kernels_avx2, kernels_avx512, kernels_neon, kernels_neondot;

#endif
