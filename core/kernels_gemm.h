// kernels_gemm: the serial pieces of the product of matrices in double precision. gemm.c cuts the
// operands into blocks that stay in the caches; here a block is packed, and packed blocks are multiplied.
//
// A packed block is made of slivers: MR rows of A, or NR columns of B, side by side for each k, so that
// the innermost loop reads memory from end to end. A sliver of B (NR x GEMM_DEPTH) stays in L1 while the
// slivers of A pass by from L2; MR x NR sums stay in registers. In single precision it is NR32 columns.

enum { DLANES = LANES / 2, NR = DVECS * DLANES, NR32 = DVECS * LANES, MR = DROWS };

// dst[q * wide + i] = src[i * step + q] for i, q = 0 .. 3.
#if defined(ISA_AVX512) || defined(ISA_AVX2)
INLINE __m256d join(__m256d a, __m256d b, bool upper) {
    return upper ? _mm256_permute2f128_pd(a, b, 0x31) : _mm256_permute2f128_pd(a, b, 0x20);
}
INLINE void turn4(double *dst, const double *src, int64_t wide, int64_t step) {
    const __m256d a = _mm256_loadu_pd(src), b = _mm256_loadu_pd(src + step);
    const __m256d c = _mm256_loadu_pd(src + 2 * step), d = _mm256_loadu_pd(src + 3 * step);
    const __m256d ab = _mm256_unpacklo_pd(a, b), cd = _mm256_unpacklo_pd(c, d);
    const __m256d ba = _mm256_unpackhi_pd(a, b), dc = _mm256_unpackhi_pd(c, d);
    _mm256_storeu_pd(dst, join(ab, cd, false)), _mm256_storeu_pd(dst + wide, join(ba, dc, false));
    dst += 2 * wide;
    _mm256_storeu_pd(dst, join(ab, cd, true)), _mm256_storeu_pd(dst + wide, join(ba, dc, true));
}
#define TURN4(name, Stored, load4) \
    INLINE void name(float *dst, const Stored *src, int64_t wide, int64_t step) { \
        __m128 a = load4(src), b = load4(src + step), c = load4(src + 2 * step), d = load4(src + 3 * step); \
        _MM_TRANSPOSE4_PS(a, b, c, d); \
        _mm_storeu_ps(dst, a), _mm_storeu_ps(dst + wide, b); \
        _mm_storeu_ps(dst + 2 * wide, c), _mm_storeu_ps(dst + 3 * wide, d); \
    }
INLINE __m128 rounded4(const double *src) { return _mm256_cvtpd_ps(_mm256_loadu_pd(src)); }
TURN4(turn4_mixed, double, rounded4)
TURN4(turn4_32, float, _mm_loadu_ps)
#else
#define TURN4(name, Real, Stored) \
    INLINE void name(Real *dst, const Stored *src, int64_t wide, int64_t step) { \
        for (int i = 0; i < 4; i++) \
            for (int q = 0; q < 4; q++) dst[q * wide + i] = (Real)src[i * step + q]; \
    }
TURN4(turn4, double, double)
TURN4(turn4_mixed, float, double)
TURN4(turn4_32, float, float)
#endif

// dst holds slivers of `wide` lines: dst[s][p][i] = line s wide + i at depth p, zeros beyond the count.
// Stored at src[line * step + p * other], one of the two being 1.
#define GEMM_PACK(name, Real, Stored, turn) \
    static void name(Real *dst, const Stored *src, int64_t count, int64_t depth, int64_t wide, int64_t step, \
                     int64_t other) { \
        for (int64_t s = 0; s < count; s += wide, dst += wide * depth) { \
            const int64_t m = least(count - s, wide); \
            const Stored *from = src + s * step; \
            if (m < wide) memset(dst, 0, (size_t)(wide * depth) * sizeof *dst); \
            int64_t i = 0; \
            for (; i + 4 <= m && step != 1; i += 4) {      /* four lines, from end to end */ \
                int64_t p = 0; \
                for (; p + 4 <= depth; p += 4) turn(dst + p * wide + i, from + i * step + p, wide, step); \
                for (; p < depth; p++) \
                    for (int64_t l = i; l < i + 4; l++) dst[p * wide + l] = (Real)from[l * step + p]; \
            } \
            for (int64_t p = 0; p < depth; p++) \
                for (int64_t l = i; l < m; l++) dst[p * wide + l] = (Real)from[l * step + p * other]; \
        } \
    }
GEMM_PACK(gemm_pack, double, double, turn4)
GEMM_PACK(gemm_pack_mixed, float, double, turn4_mixed)
GEMM_PACK(gemm_pack32, float, float, turn4_32)

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

// What will be added to c, where it is far away, comes to L2 while the sums are made.
#define FETCH_TILE(c, ldc, rows, bytes) \
    for (int64_t row = 0; row < (rows); row++) \
        for (int64_t at = 0; at < (int64_t)(bytes); at += 64) \
            __builtin_prefetch((const char *)((c) + row * (ldc)) + at, 0, 2)

// c (rows <= MR, cols <= NR) = (add ? c : 0) + A B for one sliver of each, k in order. Of row r only
// columns up to last + r are written.
static void gemm_tile(const double *a, const double *b, int64_t depth, bool add, double *c, int64_t ldc,
                      int64_t rows, int64_t cols, int64_t last) {
    vd acc[MR][DVECS] = {0};
    if (add) FETCH_TILE(c, ldc, rows, sizeof *acc);
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
                if (add) FETCH_TILE(c + i * ldc + j, ldc, least(m - i, MR), NR32 * sizeof *c); \
                gemm_sums32(a + i * depth, b + j * depth, depth, acc); \
                memcpy(sums, acc, sizeof sums); \
                if (m - i >= MR && n - j >= NR32 && last + i - j >= NR32 - 1) { \
                    for (int64_t r = 0; r < MR; r++) { \
                        Real *line = c + (i + r) * ldc + j; \
                        if (add) for (int k = 0; k < NR32; k++) line[k] += sums[r][k]; \
                        else for (int k = 0; k < NR32; k++) line[k] = sums[r][k]; \
                    } \
                    continue; \
                } \
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

// ---- a symmetric matrix in tridiagonal form (linalg_tridiagonal.h): matrices times one vector ---------

// The sum of n lanes, n a power of two, by pairs of halves.
#define TOTAL(name, Real, Vec) \
    INLINE Real name(Vec v) { \
        Real s[sizeof(Vec) / sizeof(Real)]; \
        memcpy(s, &v, sizeof v); \
        for (int half = sizeof(Vec) / sizeof(Real) / 2; half; half /= 2) \
            for (int i = 0; i < half; i++) s[i] += s[i + half]; \
        return s[0]; \
    }
TOTAL(total_d, double, vd)
TOTAL(total_f, float, vf)

// The first n < DLANES items, zeros behind them; nothing is read or written beyond.
INLINE vd load_first_d(const double *p, int64_t n) {
#if defined(ISA_AVX512)
    return _mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
#else
    double v[DLANES];
    for (int64_t i = 0; i < DLANES; i++) v[i] = i < n ? p[i] : 0;
    return load_d(v);
#endif
}
INLINE void store_first_d(double *p, vd a, int64_t n) {
#if defined(ISA_AVX512)
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), a);
#else
    for (int64_t i = 0; i < DLANES; i++) if (i < n) p[i] = a[i];
#endif
}

// y += A x for rows i0 .. i1 of the lower triangle of the symmetric A (n, n), row stride lda, and what
// mirrors them. An entry is read once and used twice, in four rows at a time.
#define SYMV_ROWS(name, Real, Vec, load, store, load_first, store_first, set1, mul_add, total) \
    static void name(const Real *a, int64_t lda, int64_t i0, int64_t i1, const Real *x, Real *y) { \
        enum { WIDTH = sizeof(Vec) / sizeof(Real) }; \
        for (int64_t i = i0; i < i1; i += 4) { \
            const int64_t m = least(i1 - i, 4); \
            const Real *row[4]; \
            Vec s[4] = {0}, xi[4]; \
            UNROLL \
            for (int r = 0; r < 4; r++) \
                row[r] = a + (i + least(r, m - 1)) * lda, xi[r] = set1(r < m ? x[i + r] : 0); \
            int64_t j = 0; \
            for (; j + WIDTH <= i; j += WIDTH) { \
                Vec xj = load(x + j), yj = load(y + j); \
                UNROLL \
                for (int r = 0; r < 4; r++) { \
                    Vec v = load(row[r] + j); \
                    s[r] = mul_add(v, xj, s[r]), yj = mul_add(v, xi[r], yj); \
                } \
                store(y + j, yj); \
            } \
            if (j < i) { \
                Vec xj = load_first(x + j, i - j), yj = load_first(y + j, i - j); \
                UNROLL \
                for (int r = 0; r < 4; r++) { \
                    Vec v = load_first(row[r] + j, i - j); \
                    s[r] = mul_add(v, xj, s[r]), yj = mul_add(v, xi[r], yj); \
                } \
                store_first(y + j, yj, i - j); \
            } \
            EACH (r, m, 4) { \
                Real t = total(s[r]); \
                EACH (q, m, 4) t += row[q > r ? q : r][i + (q > r ? r : q)] * x[i + q]; \
                y[i + r] += t; \
            } \
        } \
    }
SYMV_ROWS(symv_rows, double, vd, load_d, store_d, load_first_d, store_first_d, set1_d, mul_add_d, total_d)
SYMV_ROWS(symv_rows32, float, vf, load, store, load_first, store_first, set1, mul_add, total_f)

// out[r] = A[r] . x for the rows of A (rows, n), row stride lda.
#define ROW_DOTS(name, Real, Vec, load, load_first, mul_add, total) \
    static void name(const Real *a, int64_t lda, int64_t rows, const Real *x, int64_t n, Real *out) { \
        enum { WIDTH = sizeof(Vec) / sizeof(Real) }; \
        for (int64_t r = 0; r < rows; r += 4) { \
            const int64_t m = least(rows - r, 4); \
            const Real *row[4]; \
            Vec s[4] = {0}; \
            int64_t j = 0; \
            UNROLL \
            for (int q = 0; q < 4; q++) row[q] = a + (r + least(q, m - 1)) * lda; \
            for (; j + WIDTH <= n; j += WIDTH) { \
                Vec xj = load(x + j); \
                UNROLL \
                for (int q = 0; q < 4; q++) s[q] = mul_add(load(row[q] + j), xj, s[q]); \
            } \
            if (j < n) { \
                Vec xj = load_first(x + j, n - j); \
                UNROLL \
                for (int q = 0; q < 4; q++) s[q] = mul_add(load_first(row[q] + j, n - j), xj, s[q]); \
            } \
            EACH (q, m, 4) out[r + q] = total(s[q]); \
        } \
    }
ROW_DOTS(row_dots, double, vd, load_d, load_first_d, mul_add_d, total_d)
ROW_DOTS(row_dots32, float, vf, load, load_first, mul_add, total_f)

// y (n) += sum over r of c[r * step] A[r].
#define ADD_ROWS(name, Real, Vec, load, store, load_first, store_first, set1, mul_add) \
    static void name(const Real *a, int64_t lda, int64_t rows, const Real *c, int64_t step, Real *y, \
                     int64_t n) { \
        enum { WIDTH = sizeof(Vec) / sizeof(Real) }; \
        for (int64_t r = 0; r < rows; r += 4) { \
            const int64_t m = least(rows - r, 4); \
            const Real *row[4]; \
            Vec by[4]; \
            int64_t j = 0; \
            UNROLL \
            for (int q = 0; q < 4; q++) \
                row[q] = a + (r + least(q, m - 1)) * lda, by[q] = set1(q < m ? c[(r + q) * step] : 0); \
            for (; j + WIDTH <= n; j += WIDTH) { \
                Vec yj = load(y + j); \
                UNROLL \
                for (int q = 0; q < 4; q++) yj = mul_add(load(row[q] + j), by[q], yj); \
                store(y + j, yj); \
            } \
            if (j < n) { \
                Vec yj = load_first(y + j, n - j); \
                UNROLL \
                for (int q = 0; q < 4; q++) yj = mul_add(load_first(row[q] + j, n - j), by[q], yj); \
                store_first(y + j, yj, n - j); \
            } \
        } \
    }
ADD_ROWS(sum_rows, double, vd, load_d, store_d, load_first_d, store_first_d, set1_d, mul_add_d)
ADD_ROWS(sum_rows32, float, vf, load, store, load_first, store_first, set1, mul_add)
