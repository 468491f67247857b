// gemm: the product of two matrices in double precision. Cuts it into blocks, shares them out among
// threads, and holds the naive twin; the arithmetic is in kernels_gemm.h.
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
    WIDE = 2040,           // a block of B: 3 MB. A multiple of every gemm_nr
    FEW = 65536,           // multiply-adds that are not worth another thread
};

typedef struct {
    bool ta, tb, lower, add;
    int64_t m, n, lda, ldb, ldc;
    const double *a, *b;
    double *c, *pack_b, *pack_a;
    int64_t p0, depth, j0, wide;           // the block in work
    int64_t tall, width, blocks;           // a piece of C: (tall, width); pieces above one another
} Gemm;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t upwards(int64_t a, int64_t unit) { return (a + unit - 1) / unit * unit; }

static void pack_b(void *ctx, int64_t begin, int64_t end, int thread) {
    const Gemm *g = ctx;
    const Kernels *k = kernels_in_use();
    const int64_t first = begin * k->gemm_nr, j = g->j0 + first;
    (void)thread;
    k->gemm_pack(g->pack_b + first * g->depth, g->tb ? g->b + j * g->ldb + g->p0 : g->b + g->p0 * g->ldb + j,
                 least(end * k->gemm_nr, g->wide) - first, g->depth, k->gemm_nr, g->tb ? g->ldb : 1,
                 g->tb ? 1 : g->ldb);
}

// Pieces are numbered down the columns. Of a lower triangle the lowest blocks have the most to do: long
// and short ones in turn, for threads get ranges of equal length.
static void multiply(void *ctx, int64_t begin, int64_t end, int thread) {
    const Gemm *g = ctx;
    const Kernels *k = kernels_in_use();
    double *a = g->pack_a + (int64_t)thread * TALL * GEMM_DEPTH;
    for (int64_t piece = begin; piece < end; piece++) {
        int64_t block = piece % g->blocks;
        if (g->lower) block = block % 2 ? g->blocks - 1 - block / 2 : block / 2;
        const int64_t i = block * g->tall, first = piece / g->blocks * g->width, j = g->j0 + first;
        const int64_t m = least(g->m - i, g->tall), n = least(g->wide - first, g->width);
        const int64_t last = g->lower ? i - j : g->n;
        if (last + m <= 0) continue;
        k->gemm_pack(a, g->ta ? g->a + g->p0 * g->lda + i : g->a + i * g->lda + g->p0, m, g->depth, k->gemm_mr,
                     g->ta ? 1 : g->lda, g->ta ? g->lda : 1);
        k->gemm_block(a, g->pack_b + first * g->depth, m, n, g->depth, g->add, g->c + i * g->ldc + j, g->ldc,
                      last);
    }
}

static void naive(const Gemm *g, int64_t k) {
    for (int64_t r = 0; r < g->m; r++)
        for (int64_t i = 0; i < g->n && !(g->lower && i > r); i++) {
            double sum = 0, *c = g->c + r * g->ldc + i;
            for (int64_t p = 0; p < k; p++)
                sum += (g->ta ? g->a[p * g->lda + r] : g->a[r * g->lda + p]) *
                       (g->tb ? g->b[i * g->ldb + p] : g->b[p * g->ldb + i]);
            *c = g->add ? *c + sum : sum;
        }
}

// Without memory for packed blocks, or with nothing to sum, the definition does it.
static void run(Gemm *g, int64_t k) {
    if (g->m <= 0 || g->n <= 0) return;
    const int64_t nr = kernels_in_use()->gemm_nr, threads = threads_get();
    const int64_t wide = least(upwards(g->n, nr), WIDE), deep = least(k, GEMM_DEPTH);
    const size_t room = (size_t)(wide * deep + threads * TALL * GEMM_DEPTH) * sizeof(double);
    g->pack_b = k > 0 ? aligned_alloc(64, (room + 63) / 64 * 64) : NULL;      // not zeroed: calls may be small
    if (!g->pack_b) {
        naive(g, k);
        return;
    }
    g->pack_a = g->pack_b + upwards(wide * deep, 8);
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

void gram(bool ta, int64_t m, int64_t k, const double *a, int64_t lda, double *c, int64_t ldc) {
    dgemm_lower(ta, !ta, m, k, a, lda, a, lda, 0, c, ldc);
    enum { TILE = 16 };
    for (int64_t i0 = 0; i0 < m; i0 += TILE)
        for (int64_t j0 = 0; j0 <= i0; j0 += TILE)
            for (int64_t i = i0; i < m && i < i0 + TILE; i++)
                for (int64_t j = j0; j < i && j < j0 + TILE; j++) c[j * ldc + i] = c[i * ldc + j];
}

void dgemm_naive(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const double *a, int64_t lda,
                 const double *b, int64_t ldb, double beta, double *c, int64_t ldc) {
    naive(&(Gemm){.ta = ta, .tb = tb, .add = beta != 0, .m = m, .n = n, .lda = lda, .ldb = ldb, .ldc = ldc,
                  .a = a, .b = b, .c = c}, k);
}
