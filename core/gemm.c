// gemm: the product of two matrices in double, mixed and single precision. Cuts it into blocks, shares
// them out among threads, and holds the naive twin; the arithmetic is in kernels_gemm.h.
//
//     for k in steps of DEEP              each sum in this order, whoever computes it
//       for columns in steps of WIDE      B (DEEP, WIDE) is packed once, by all threads
//         in parallel, blocks of rows     A (TALL, DEEP) is packed by the thread that uses it
//           for slivers of columns, for k in steps of GEMM_DEPTH: a piece of C stays in L2

#include "kernels_impl.h"
#include "room.h"

#include <stdlib.h>
#include <string.h>

enum {
    GEMM_DEPTH = 192,      // a sliver of B: at most 24 x 192 doubles, 36 kB, in L1
    DEEP = 2 * GEMM_DEPTH, // C is read and written once for that many products
    TALL = 192,            // a block of A: 576 kB, in L2
    WIDE = 2016,           // a block of B: 6 MB. A multiple of every gemm_nr and gemm_nr32
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
    int64_t p0, deep, j0, wide, nr;        // the block in work
    int64_t tall, width, blocks;           // a piece of C: (tall, width); pieces above one another
} Gemm;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t upwards(int64_t a, int64_t unit) { return (a + unit - 1) / unit * unit; }

// `count` lines of op(A) or of op(B)^T from `line` on, products p .. p + depth, into slivers of `wide`;
// stored: lines are rows.
static void pack(const Gemm *g, void *dst, const void *src, bool stored, int64_t ld, int64_t line,
                 int64_t count, int64_t p, int64_t depth, int64_t wide) {
    const Kernels *k = kernels();
    const int64_t at = stored ? line * ld + p : p * ld + line, step = stored ? ld : 1;
    const int64_t other = stored ? 1 : ld;
    if (g->precision == DOUBLE)
        k->gemm_pack(dst, (const double *)src + at, count, depth, wide, step, other);
    else if (g->precision == MIXED)
        k->gemm_pack_mixed(dst, (const double *)src + at, count, depth, wide, step, other);
    else
        k->gemm_pack32(dst, (const float *)src + at, count, depth, wide, step, other);
}

static void *item(const Gemm *g, void *packed, int64_t i) {
    return g->precision == DOUBLE ? (void *)((double *)packed + i) : (void *)((float *)packed + i);
}

// Packed: for each step of GEMM_DEPTH all slivers, one behind the other.
static void pack_b(void *ctx, int64_t begin, int64_t end, int thread) {
    const Gemm *g = ctx;
    const int64_t first = begin * g->nr, all = upwards(g->wide, g->nr);
    (void)thread;
    for (int64_t p = 0; p < g->deep; p += GEMM_DEPTH) {
        const int64_t depth = least(g->deep - p, GEMM_DEPTH);
        pack(g, item(g, g->pack_b, all * p + first * depth), g->b, g->tb, g->ldb, g->j0 + first,
             least(end * g->nr, g->wide) - first, g->p0 + p, depth, g->nr);
    }
}

// Pieces are numbered down the columns. Of a lower triangle the lowest blocks have the most to do: long
// and short ones in turn, for threads get ranges of equal length.
static void multiply(void *ctx, int64_t begin, int64_t end, int thread) {
    const Gemm *g = ctx;
    const Kernels *k = kernels();
    void *a = (double *)g->pack_a + (int64_t)thread * TALL * DEEP;
    for (int64_t piece = begin; piece < end; piece++) {
        int64_t block = piece % g->blocks;
        if (g->lower) block = block % 2 ? g->blocks - 1 - block / 2 : block / 2;
        const int64_t i = block * g->tall, first = piece / g->blocks * g->width;
        const int64_t all = upwards(g->wide, g->nr);
        const int64_t m = least(g->m - i, g->tall), until = least(g->wide, first + g->width);
        // the last column of the piece's first row
        const int64_t last = g->lower ? i - g->j0 : g->n;
        if (last + m <= first) continue;
        for (int64_t p = 0; p < g->deep; p += GEMM_DEPTH)
            pack(g, item(g, a, TALL * p), g->a, !g->ta, g->lda, i, m, g->p0 + p,
                 least(g->deep - p, GEMM_DEPTH), k->gemm_mr);
        for (int64_t j = first; j < until && j < last + m; j += g->nr)
            for (int64_t p = 0; p < g->deep; p += GEMM_DEPTH) {
                const int64_t n = least(until - j, g->nr), depth = least(g->deep - p, GEMM_DEPTH);
                const int64_t at = i * g->ldc + g->j0 + j;
                const void *ap = item(g, a, TALL * p), *bp = item(g, g->pack_b, all * p + j * depth);
                const bool add = g->add || p > 0;
                if (g->precision == DOUBLE)
                    k->gemm_block(ap, bp, m, n, depth, add, (double *)g->c + at, g->ldc, last - j);
                else if (g->precision == MIXED)
                    k->gemm_block_mixed(ap, bp, m, n, depth, add, (double *)g->c + at, g->ldc, last - j);
                else
                    k->gemm_block32(ap, bp, m, n, depth, add, (float *)g->c + at, g->ldc, last - j);
            }
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

static Room packed[8];              // products inside parts of a parallel_for come from several threads

// Without memory for packed blocks, or with nothing to sum, the definition does it.
static void run(Gemm *g, int64_t k) {
    if (g->m <= 0 || g->n <= 0) return;
    const int64_t threads = threads_get();
    const int64_t nr = g->nr = g->precision == DOUBLE ? kernels()->gemm_nr : kernels()->gemm_nr32;
    const int64_t strips = (g->n + WIDE - 1) / WIDE, wide = upwards((g->n + strips - 1) / strips, nr);
    const int64_t deep = least(k, DEEP);
    Room *from;
    const size_t room = (size_t)(upwards(wide * deep, 8) + threads * TALL * DEEP) * sizeof(double);
    g->pack_b = k > 0 ? room_take(packed, 8, room, &from) : NULL;
    if (!g->pack_b) {
        if (g->precision == SINGLE) naive32(g, k);
        else naive(g, k);
        return;
    }
    g->pack_a = (double *)g->pack_b + upwards(wide * deep, 8);
    g->tall = least(TALL, upwards((g->m + 4 * threads - 1) / (4 * threads), 24));
    g->blocks = (g->m + g->tall - 1) / g->tall;
    const int64_t side = g->blocks < 2 * threads ? 2 * threads / g->blocks : 1;
    for (g->p0 = 0; g->p0 < k; g->p0 += DEEP, g->add = true) {
        g->deep = least(k - g->p0, DEEP);
        for (g->j0 = 0; g->j0 < g->n; g->j0 += wide) {
            g->wide = least(g->n - g->j0, wide);
            const int64_t slivers = (g->wide + nr - 1) / nr;
            g->width = (slivers + side - 1) / side * nr;
            const int64_t work = g->tall * least(g->width, g->wide) * g->deep;
            parallel_for(slivers, 1 + FEW / 4 / (nr * g->deep), pack_b, g);
            parallel_for(g->blocks * ((g->wide + g->width - 1) / g->width), 1 + FEW / work, multiply, g);
        }
    }
    room_leave(from, g->pack_b, SIZE_MAX);
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
