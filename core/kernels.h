// kernels: the arithmetic, in variants per instruction set chosen at run time, and the threads.
// Naive twins stand beside the fast ones (…_naive): definition, oracle and fallback.
// The reduction order of every kernel is fixed per instruction set: results do not depend on the
// number of threads, nor on how many tokens are computed together, with one exception: rows meet few
// tokens, which wait for memory, as they stand there, in an order of its own: one token if they are
// quantised, up to 8 if they are floats (see Scratch.uniform).
#ifndef KERNELS_H
#define KERNELS_H

#include "quant.h"

// Chooses the variant; called by the first kernel if nobody has. Environment TENSORLLM_ISA caps it:
// generic, avx2, avx512, neon, neondot. One that this machine cannot run falls to the best below it, an
// unknown name caps nothing.
void kernels_init(void);
const char *kernels_isa(void);                 // of the variant in use
int kernels_select(const char *isa);           // for tests: -1 when this machine cannot run it

// In how many streams one thread reads weights that wait for memory: 4 on Intel's processors, which then read
// more, else 1. Environment TENSORLLM_STREAMS says otherwise: 1 or 4. Results are the same to the bit.
void streams_set(int n);
int streams_get(void);

void threads_set(int n);                       // 1 .. 256; default: OMP_NUM_THREADS, else the cores
int threads_get(void);
// fn(ctx, begin, end, thread) over 0..n in contiguous parts, at least `grain` items a part. A
// thread (0 .. threads_get() - 1) may get several parts or none. A call from inside a part runs
// serially.
void parallel_for(int64_t n, int64_t grain,
                  void (*fn)(void *ctx, int64_t begin, int64_t end, int thread), void *ctx);

// Room for quantised activations: made once, so that no token allocates.
// uniform (false after scratch_init): few tokens are computed in the order of many, and slower.
typedef struct { void *q; size_t size; bool uniform; } Scratch;
int scratch_init(Scratch *s, int64_t max_tokens, int64_t max_cols, Err *e);
void scratch_free(Scratch *s);

// y (n, rows) = x (n, cols) W^T of each of the n_out products, together: what several read, one x, is
// prepared once. F32, F16, BF16 weights meet f32 activations; Q8_0, Q4_0, Q4_1 weights meet activations
// quantised to 16 bits in blocks of 32 (integer dot products); other types are dequantised row by row. No y
// may alias an x or another y. Any n >= 0, any rows >= 0; cols a multiple of the type's block.
typedef struct { const Mat *w; const float *x; float *y; } Linear;
void matmul(Scratch *s, int64_t n, const Linear *out, int n_out);
void matmul_naive(int64_t n, const Linear *out, int n_out);                 // f32 activations
// A product for each head: y (n, heads, rows) from x (heads, n, w's columns), of head i x W_g^T, where W_g is
// the g-th of n_kv equal parts of w's rows, g = i / (heads / n_kv). SWEEP_HEADS of them go together.
enum { SWEEP_HEADS = 16 };
void matmul_heads(Scratch *s, int64_t n, int64_t heads, int64_t n_kv, const Mat *w, const float *x, float *y);
// The transposed product: y (n, cols) = x (n, rows) W. f32 activations for every type.
void matmul_t(Scratch *s, const float *x, int64_t n, const Mat *w, float *y);
void matmul_t_naive(const float *x, int64_t n, const Mat *w, float *y);

float dot(const float *a, const float *b, int64_t n);
void axpy(float *y, float a, const float *x, int64_t n);           // y += a x
void add(float *y, const float *x, int64_t n);                     // y += x
void rmsnorm(float *y, const float *x, const float *w, int64_t n, float eps); // y may be x
// y = (x - mean) / sqrt(variance + eps) * w + b; y may be x
void layernorm(float *y, const float *x, const float *w, const float *b, int64_t n, float eps);
// Every row of x (n, d), on all threads; y may be x
typedef struct { const float *w, *b; } Norm;                       // (d) b NULL: rmsnorm, else layernorm
void norm_rows(float *y, const float *x, Norm w, int64_t n, int64_t d, float eps);
// The columns at[0 .. k) of x (n, d): y (n, k) is them, or, with `sum`, += them. And back: they become y.
void take_columns(const float *x, int64_t n, int64_t d, const int32_t *at, int64_t k, bool sum, float *y);
void put_columns(const float *y, int64_t n, int64_t k, const int32_t *at, int64_t d, float *x);
void softmax(float *x, int64_t n);                                 // in place, n >= 1
void swiglu(float *gate, const float *up, int64_t n);              // gate = gate sigmoid(gate) up
// In place. silu: x sigmoid(x). gelu: x P(a standard normal number is below x), exactly or by its usual
// approximation, x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). GELU's error is below 3e-7 |x|.
typedef enum { ACT_SILU, ACT_GELU, ACT_GELU_TANH } Activation;
void activate(Activation a, float *x, int64_t n);

// Batched f32 row conversion for caches: dst (n) f32 from f16 (and back).
void f16_row_to_f32(const uint16_t *src, float *dst, int64_t n);
void f32_row_to_f16(const float *src, uint16_t *dst, int64_t n);

// Serial pieces for attention, to be called inside one thread; f32 activations for every type.
// y[t * ldy + r] = W[r] . x[t], x (n, cols); and y[t * ldy + c] += sum_r x[t * ldx + r] W[r][c].
void matmul_block(const Mat *w, const float *x, int64_t n, float *y, int64_t ldy);
void matmul_t_block(const Mat *w, const float *x, int64_t ldx, int64_t n, float *y, int64_t ldy);
float max_of(const float *x, int64_t n);                           // -inf for n = 0
float exp_sum(float *x, int64_t n, float scale, float shift);  // x = exp(scale x - shift); its sum
void scale_to(float *y, float a, const float *x, int64_t n);       // y = a x; y may be x

// Attention's products, serial too. Row r of `rows` sees the positions seen[r] of a block; what another
// sees may be computed for it as well. What is read next, about as many bytes, may be named by `ahead`
// (or NULL): a few rows wait for memory, and fetch it as they go.
//   key_scores  s[r * lds + p] (+)= q[r * ldq ..] . K[p]. K (positions, columns) is a matrix of rows, or
//               tiled: tiles of KEY_TILE positions, (columns, KEY_TILE), Q8_0 in blocks of 32 columns,
//               the scales of all positions before the (32, KEY_TILE) bytes; what stands behind the
//               last position is read and means nothing. s has room for whole KEY_SPANs of scores.
//   value_sums  y[r * ldy ..] += sum over p of w[r * ldw + p] V[p]; w is 0 where a row does not see.
//   soften      scores s of one row become weights exp(scale s - max), 0 where it does not see; max and
//               the sum of all weights so far move on. By the result what was summed before is scaled.
enum { KEY_TILE = 16, KEY_SPAN = 64 };
typedef struct { int32_t from, to; } RowSpan;
void key_scores(const Mat *k, bool tiled, const float *q, int64_t ldq, int64_t rows, const RowSpan *seen,
                bool add, float *s, int64_t lds, const void *ahead);
void value_sums(const Mat *v, const float *w, int64_t ldw, int64_t rows, const RowSpan *seen, float *y,
                int64_t ldy, const void *ahead);
float soften(float *s, RowSpan seen, int64_t n, float scale, float *max, float *sum);

// Double precision, for linalg (gemm.c): C (m, n) (+)= A (m, k) B (k, n), row-major, leading dimensions in
// items; ta / tb: the operand is stored transposed. beta is 0 or 1.
void dgemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const double *a, int64_t lda,
           const double *b, int64_t ldb, double beta, double *c, int64_t ldc);
// The same for a C (n, n) that is known to be symmetric: what stands above its diagonal is left alone.
void dgemm_lower(bool ta, bool tb, int64_t n, int64_t k, const double *a, int64_t lda, const double *b,
                 int64_t ldb, double beta, double *c, int64_t ldc);
// C (m, m) = A A^T, A (m, k); ta: A^T A, A stored (k, m). Symmetric to the bit, at half the work.
void gram(bool ta, int64_t m, int64_t k, const double *a, int64_t lda, double *c, int64_t ldc);
// The first and the last in mixed precision, twice as fast: A and B rounded to single precision, 192 of
// their products summed in it, those sums in double. Entries are off by about 1e-7 |row of A| |column of B|.
// Where factors and sums stay within single precision's range.
void dgemm_mixed(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const double *a, int64_t lda,
                 const double *b, int64_t ldb, double beta, double *c, int64_t ldc);
void gram_mixed(bool ta, int64_t m, int64_t k, const double *a, int64_t lda, double *c, int64_t ldc);
// In single precision throughout, the sums of 192 products and of those: C (n, n) += A B, lower triangle.
void sgemm_lower(bool ta, bool tb, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                 int64_t ldb, float beta, float *c, int64_t ldc);
void dgemm_naive(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const double *a, int64_t lda,
                 const double *b, int64_t ldb, double beta, double *c, int64_t ldc);

// What this machine can do, measured now, all threads together: bytes a second read from memory, from
// a buffer of at least `size` bytes (0: well beyond the caches of most machines; 0 is the answer where
// there is no memory for it), and multiply-adds a second on numbers in registers, f32 or bytes.
double read_bandwidth(size_t size);
double peak_madds(bool bytes);

#endif
