// gemm: the product of two matrices in double, mixed and single precision. Cuts it into blocks, shares
// them out among threads, and holds the naive twin; the arithmetic is in kernels_gemm.h.
//
//     for k in steps of GEMM_DEPTH        each sum in this order, whoever computes it
//       for columns in steps of WIDE      B (GEMM_DEPTH, WIDE) is packed once, by all threads
//         in parallel, blocks of rows     A (TALL, GEMM_DEPTH) is packed by the thread that uses it

#include "kernels_impl.h"

#include <stdlib.h>
#include <string.h>

enum {
    GEMM_DEPTH = 192,      // a sliver of B: at most 24 x 192 doubles, 36 kB, in L1
    TALL = 192,            // a block of A: 288 kB, in L2
    WIDE = 2016,           // a block of B: 3 MB. A multiple of every gemm_nr and gemm_nr32
    FEW = 65536,           // multiply-adds that are not worth another thread
};

typedef enum { DOUBLE, MIXED, SINGLE } Precision;   // of operands and C; MIXED: doubles, multiplied as floats
typedef struct {
    Precision precision;
    bool ta, tb, lower, add;
    int64_t m, n, lda, ldb, ldc;
    const void *a, *b;
    void *c;
    void *pack_b, *pack_a;                 // doubles; else floats, in the same room
    int64_t p0, depth, j0, wide, nr;       // the block in work
    int64_t tall, width, blocks;           // a piece of C: (tall, width); pieces above one another
} Gemm;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t upwards(int64_t a, int64_t unit) { return (a + unit - 1) / unit * unit; }

// `count` lines of op(A) or of op(B)^T from `line` on into slivers of `wide`; stored: lines are rows.
static void pack(const Gemm *g, void *dst, const void *src, bool stored, int64_t ld, int64_t line,
                 int64_t count, int64_t wide) {
    const Kernels *k = kernels();
    const int64_t at = stored ? line * ld + g->p0 : g->p0 * ld + line, step = stored ? ld : 1;
    const int64_t other = stored ? 1 : ld;
    if (g->precision == DOUBLE)
        k->gemm_pack(dst, (const double *)src + at, count, g->depth, wide, step, other);
    else if (g->precision == MIXED)
        k->gemm_pack_mixed(dst, (const double *)src + at, count, g->depth, wide, step, other);
    else
        k->gemm_pack32(dst, (const float *)src + at, count, g->depth, wide, step, other);
}

static void *item(const Gemm *g, void *packed, int64_t i) {
    return g->precision == DOUBLE ? (void *)((double *)packed + i) : (void *)((float *)packed + i);
}

static void pack_b(void *ctx, int64_t begin, int64_t end, int thread) {
    const Gemm *g = ctx;
    const int64_t first = begin * g->nr;
    (void)thread;
    pack(g, item(g, g->pack_b, first * g->depth), g->b, g->tb, g->ldb, g->j0 + first,
         least(end * g->nr, g->wide) - first, g->nr);
}

// Pieces are numbered down the columns. Of a lower triangle the lowest blocks have the most to do: long
// and short ones in turn, for threads get ranges of equal length.
static void multiply(void *ctx, int64_t begin, int64_t end, int thread) {
    const Gemm *g = ctx;
    const Kernels *k = kernels();
    void *a = (double *)g->pack_a + (int64_t)thread * TALL * GEMM_DEPTH;
    for (int64_t piece = begin; piece < end; piece++) {
        int64_t block = piece % g->blocks;
        if (g->lower) block = block % 2 ? g->blocks - 1 - block / 2 : block / 2;
        const int64_t i = block * g->tall, first = piece / g->blocks * g->width, j = g->j0 + first;
        const int64_t m = least(g->m - i, g->tall), n = least(g->wide - first, g->width), at = i * g->ldc + j;
        const int64_t last = g->lower ? i - j : g->n;      // the last column of the piece's first row
        const void *b = item(g, g->pack_b, first * g->depth);
        if (last + m <= 0) continue;
        pack(g, a, g->a, !g->ta, g->lda, i, m, k->gemm_mr);
        if (g->precision == DOUBLE)
            k->gemm_block(a, b, m, n, g->depth, g->add, (double *)g->c + at, g->ldc, last);
        else if (g->precision == MIXED)
            k->gemm_block_mixed(a, b, m, n, g->depth, g->add, (double *)g->c + at, g->ldc, last);
        else
            k->gemm_block32(a, b, m, n, g->depth, g->add, (float *)g->c + at, g->ldc, last);
    }
}

// The definition.
#define NAIVE(name, Real) \
    static void name(const Gemm *g, int64_t k) { \
        const Real *a = g->a, *b = g->b; \
        for (int64_t r = 0; r < g->m; r++) \
            for (int64_t i = 0; i < g->n && !(g->lower && i > r); i++) { \
                Real sum = 0, *c = (Real *)g->c + r * g->ldc + i; \
                for (int64_t p = 0; p < k; p++) \
                    sum += (g->ta ? a[p * g->lda + r] : a[r * g->lda + p]) * \
                           (g->tb ? b[i * g->ldb + p] : b[p * g->ldb + i]); \
                *c = g->add ? *c + sum : sum; \
            } \
    }
NAIVE(naive, double)
NAIVE(naive32, float)

// Without memory for packed blocks, or with nothing to sum, the definition does it.
static void run(Gemm *g, int64_t k) {
    if (g->m <= 0 || g->n <= 0) return;
    const int64_t threads = threads_get();
    const int64_t nr = g->nr = g->precision == DOUBLE ? kernels()->gemm_nr : kernels()->gemm_nr32;
    const int64_t wide = least(upwards(g->n, nr), WIDE), deep = least(k, GEMM_DEPTH);
    const size_t room = (size_t)(upwards(wide * deep, 8) + threads * TALL * GEMM_DEPTH) * sizeof(double);
    g->pack_b = k > 0 ? aligned_alloc(64, (room + 63) / 64 * 64) : NULL;  // not zeroed: calls may be small
    if (!g->pack_b) {
        if (g->precision == SINGLE) naive32(g, k);
        else naive(g, k);
        return;
    }
    g->pack_a = (double *)g->pack_b + upwards(wide * deep, 8);
    for (g->p0 = 0; g->p0 < k; g->p0 += GEMM_DEPTH, g->add = true) {
        g->depth = least(k - g->p0, GEMM_DEPTH);
        for (g->j0 = 0; g->j0 < g->n; g->j0 += WIDE) {
            g->wide = least(g->n - g->j0, WIDE);
            const int64_t slivers = (g->wide + nr - 1) / nr;
            g->tall = least(TALL, upwards((g->m + 4 * threads - 1) / (4 * threads), 24));
            g->blocks = (g->m + g->tall - 1) / g->tall;
            const int64_t side = g->blocks < 2 * threads ? 2 * threads / g->blocks : 1;
            g->width = upwards((slivers + side - 1) / side, 1) * nr;
            const int64_t work = g->tall * least(g->width, g->wide) * g->depth;
            parallel_for(slivers, 1 + FEW / 4 / (nr * g->depth), pack_b, g);
            parallel_for(g->blocks * ((g->wide + g->width - 1) / g->width), 1 + FEW / work, multiply, g);
        }
    }
    free(g->pack_b);
}

void dgemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const double *a, int64_t lda, const double *b,
           int64_t ldb, double beta, double *c, int64_t ldc) {
    run(&(Gemm){.ta = ta, .tb = tb, .add = beta != 0, .m = m, .n = n, .lda = lda, .ldb = ldb, .ldc = ldc,
                .a = a, .b = b, .c = c}, k);
}

void dgemm_lower(bool ta, bool tb, int64_t n, int64_t k, const double *a, int64_t lda, const double *b,
                 int64_t ldb, double beta, double *c, int64_t ldc) {
    run(&(Gemm){.ta = ta, .tb = tb, .lower = true, .add = beta != 0, .m = n, .n = n, .lda = lda, .ldb = ldb,
                .ldc = ldc, .a = a, .b = b, .c = c}, k);
}

void sgemm_lower(bool ta, bool tb, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                 int64_t ldb, float beta, float *c, int64_t ldc) {
    run(&(Gemm){.precision = SINGLE, .ta = ta, .tb = tb, .lower = true, .add = beta != 0, .m = n, .n = n,
                .lda = lda, .ldb = ldb, .ldc = ldc, .a = a, .b = b, .c = c}, k);
}

void dgemm_mixed(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const double *a, int64_t lda,
                 const double *b, int64_t ldb, double beta, double *c, int64_t ldc) {
    run(&(Gemm){.precision = MIXED, .ta = ta, .tb = tb, .add = beta != 0, .m = m, .n = n, .lda = lda,
                .ldb = ldb, .ldc = ldc, .a = a, .b = b, .c = c}, k);
}

static void gram_of(Precision precision, bool ta, int64_t m, int64_t k, const double *a, int64_t lda,
                    double *c, int64_t ldc) {
    enum { TILE = 16 };
    run(&(Gemm){.precision = precision, .ta = ta, .tb = !ta, .lower = true, .m = m, .n = m, .lda = lda,
                .ldb = lda, .ldc = ldc, .a = a, .b = a, .c = c}, k);
    for (int64_t i0 = 0; i0 < m; i0 += TILE)
        for (int64_t j0 = 0; j0 <= i0; j0 += TILE)
            for (int64_t i = i0; i < m && i < i0 + TILE; i++)
                for (int64_t j = j0; j < i && j < j0 + TILE; j++) c[j * ldc + i] = c[i * ldc + j];
}

void gram(bool ta, int64_t m, int64_t k, const double *a, int64_t lda, double *c, int64_t ldc) {
    gram_of(DOUBLE, ta, m, k, a, lda, c, ldc);
}

void gram_mixed(bool ta, int64_t m, int64_t k, const double *a, int64_t lda, double *c, int64_t ldc) {
    gram_of(MIXED, ta, m, k, a, lda, c, ldc);
}

void dgemm_naive(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const double *a, int64_t lda,
                 const double *b, int64_t ldb, double beta, double *c, int64_t ldc) {
    naive(&(Gemm){.ta = ta, .tb = tb, .add = beta != 0, .m = m, .n = n, .lda = lda, .ldb = ldb, .ldc = ldc,
                  .a = a, .b = b, .c = c}, k);
}
