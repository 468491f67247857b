// kernels_gemm: the serial pieces of the product of matrices in double precision. gemm.c cuts the
// operands into blocks that stay in the caches; here a block is packed, and packed blocks are multiplied.
//
// A packed block is made of slivers: MR rows of A, or NR columns of B, side by side for each k, so that
// the innermost loop reads memory from end to end. A sliver of B (NR x GEMM_DEPTH) stays in L1 while the
// slivers of A pass by from L2; MR x NR sums stay in registers. In single precision it is NR32 columns.

enum { DLANES = LANES / 2, NR = DVECS * DLANES, NR32 = DVECS * LANES, MR = DROWS };

// dst holds slivers of `wide` lines: dst[s][p][i] = line s wide + i at depth p, zeros beyond the count.
// Stored at src[line * step + p * other], one of the two being 1.
#define GEMM_PACK(name, Real, Stored) \
    static void name(Real *dst, const Stored *src, int64_t count, int64_t depth, int64_t wide, int64_t step, \
                     int64_t other) { \
        for (int64_t s = 0; s < count; s += wide, dst += wide * depth) { \
            const int64_t m = least(count - s, wide); \
            const Stored *from = src + s * step; \
            if (m < wide) memset(dst, 0, (size_t)(wide * depth) * sizeof *dst); \
            int64_t p = 0;                                 /* 8 of a line are one line of the cache */ \
            for (; p + 8 <= depth && step != 1; p += 8) \
                for (int64_t i = 0; i < m; i++) \
                    for (int64_t q = p; q < p + 8; q++) \
                        dst[q * wide + i] = (Real)from[i * step + q * other]; \
            for (; p < depth; p++) \
                for (int64_t i = 0; i < m; i++) dst[p * wide + i] = (Real)from[i * step + p * other]; \
        } \
    }
GEMM_PACK(gemm_pack, double, double)
GEMM_PACK(gemm_pack_mixed, float, double)
GEMM_PACK(gemm_pack32, float, float)

// acc (MR, DVECS) += A B for one sliver of each, k in order.
#define GEMM_SUMS(name, Real, Vec, load, set1, mul_add) \
    INLINE void name(const Real *a, const Real *b, int64_t depth, Vec (*acc)[DVECS]) { \
        enum { WIDTH = sizeof(Vec) / sizeof(Real) }; \
        for (int64_t p = 0; p < depth; p++, a += MR, b += DVECS * WIDTH) { \
            Vec bv[DVECS]; \
            UNROLL \
            for (int v = 0; v < DVECS; v++) bv[v] = load(b + v * WIDTH); \
            UNROLL \
            for (int r = 0; r < MR; r++) { \
                Vec av = set1(a[r]); \
                UNROLL \
                for (int v = 0; v < DVECS; v++) acc[r][v] = mul_add(av, bv[v], acc[r][v]); \
            } \
        } \
    }
GEMM_SUMS(gemm_sums, double, vd, load_d, set1_d, mul_add_d)
GEMM_SUMS(gemm_sums32, float, vf, load, set1, mul_add)

// c (rows <= MR, cols <= NR) = (add ? c : 0) + A B for one sliver of each, k in order. Of row r only
// columns up to last + r are written.
static void gemm_tile(const double *a, const double *b, int64_t depth, bool add, double *c, int64_t ldc,
                      int64_t rows, int64_t cols, int64_t last) {
    vd acc[MR][DVECS] = {0};
    gemm_sums(a, b, depth, acc);
    if (rows == MR && cols == NR && last >= NR - 1) {
        UNROLL
        for (int r = 0; r < MR; r++) {
            UNROLL
            for (int v = 0; v < DVECS; v++) {
                double *at = c + r * ldc + v * DLANES;
                store_d(at, add ? load_d(at) + acc[r][v] : acc[r][v]);
            }
        }
        return;
    }
    double edge[MR][NR];
    memcpy(edge, acc, sizeof edge);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < cols && i <= last + r; i++)
            c[r * ldc + i] = add ? c[r * ldc + i] + edge[r][i] : edge[r][i];
}

// c (m, n) likewise, from m rows and n columns in slivers.
static void gemm_block(const double *a, const double *b, int64_t m, int64_t n, int64_t depth, bool add,
                       double *c, int64_t ldc, int64_t last) {
    for (int64_t j = 0; j < n; j += NR)
        for (int64_t i = 0; i < m; i += MR)
            if (last + least(m, i + MR) > j)
                gemm_tile(a + i * depth, b + j * depth, depth, add, c + i * ldc + j, ldc, least(m - i, MR),
                          least(n - j, NR), last + i - j);
}

// The same from operands in single precision: sums of `depth` products, then those of C's type.
#define GEMM_BLOCK32(name, Real) \
    static void name(const float *a, const float *b, int64_t m, int64_t n, int64_t depth, bool add, Real *c, \
                     int64_t ldc, int64_t last) { \
        for (int64_t j = 0; j < n; j += NR32) \
            for (int64_t i = 0; i < m; i += MR) { \
                if (last + least(m, i + MR) <= j) continue; \
                vf acc[MR][DVECS] = {0}; \
                float sums[MR][NR32]; \
                gemm_sums32(a + i * depth, b + j * depth, depth, acc); \
                memcpy(sums, acc, sizeof sums); \
                for (int64_t r = 0; r < least(m - i, MR); r++) { \
                    const int64_t cols = least(least(n - j, NR32), last + i + r - j + 1); \
                    Real *line = c + (i + r) * ldc + j; \
                    if (add) for (int64_t k = 0; k < cols; k++) line[k] += sums[r][k]; \
                    else for (int64_t k = 0; k < cols; k++) line[k] = sums[r][k]; \
                } \
            } \
    }
GEMM_BLOCK32(gemm_block_mixed, double)
GEMM_BLOCK32(gemm_block32, float)
