// kernels_simd: the few operations that differ between instruction sets, on vectors of LANES
// floats. The file that includes it has defined one of ISA_AVX512, ISA_AVX2, ISA_NEON (with
// ISA_DOT where the machine has dot products) or none for plain C. Everything else is written
// once, in kernels_template.h, in the vector extension that gcc and clang share.
//
// Floating point: mul_add is the only place where a product meets a sum, so that a compiler's
// freedom to contract a * b + c changes no result.

#include <math.h>
#include <string.h>

#include "kernels_impl.h"

// Few tokens, TILE, meet 4 rows of floats as they stand; FTILE rows FVECS vectors of tokens; QTILE tokens
// QPANELS vectors of quantised rows, whose numbers are words where that is quicker than bytes twice (WORDS).
// Q8_FLIP: dot_s takes bytes with 128 added. Of dgemm: DROWS, DVECS. BYTE_HALF: see madds_int8.
#if defined(ISA_AVX512)
enum { LANES = 16, TILE = 6, FTILE = 8, FVECS = 3, QTILE = 8, QPANELS = 2, WORDS = 1, DROWS = 8, DVECS = 3 };
enum { Q8_FLIP = 1, BYTE_HALF = 6 };
#elif defined(ISA_AVX2)
enum { LANES = 8, TILE = 3, FTILE = 6, FVECS = 2, QTILE = 6, QPANELS = 1, WORDS = 1, DROWS = 4, DVECS = 3 };
enum { Q8_FLIP = 0, BYTE_HALF = 6 };
#elif defined(ISA_NEON)
enum { LANES = 4, TILE = 6, FTILE = 8, FVECS = 3, QTILE = 8, QPANELS = 1, DROWS = 6, DVECS = 4 };
enum { Q8_FLIP = 0, BYTE_HALF = 6 };
#if defined(ISA_DOT)
enum { WORDS = 0 };
#else
enum { WORDS = 1 };
#endif
#else
enum { LANES = 4, TILE = 2, FTILE = 2, FVECS = 2, QTILE = 4, QPANELS = 1, WORDS = 1, DROWS = 4, DVECS = 2 };
enum { Q8_FLIP = 0, BYTE_HALF = 2 };
#endif

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

// for i = 0 .. n, n a constant where the function is inlined, at most MOST. The bound is written as
// MOST because clang unrolls before it inlines.
#define EACH(i, n, MOST) UNROLL for (int i = 0; i < (MOST); i++) if (i < (n))

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef double vd __attribute__((vector_size(4 * LANES)));
typedef int8_t vb __attribute__((vector_size(LANES)));
typedef int8_t vb_all __attribute__((vector_size(4 * LANES)));
typedef int16_t vs __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));
// The same in memory, at any address.
typedef float vf_mem __attribute__((vector_size(4 * LANES), aligned(1), may_alias));
typedef double vd_mem __attribute__((vector_size(4 * LANES), aligned(1), may_alias));
typedef int8_t vb_mem __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef uint16_t vh_mem __attribute__((vector_size(2 * LANES), aligned(1), may_alias));

INLINE vf load(const void *p) { return *(const vf_mem *)p; }
INLINE void store(void *p, vf a) { *(vf_mem *)p = a; }
INLINE vd load_d(const void *p) { return *(const vd_mem *)p; }
INLINE void store_d(void *p, vd a) { *(vd_mem *)p = a; }
INLINE vf to_float(vi a) { return __builtin_convertvector(a, vf); }
INLINE int32_t load_i32(const void *p) { int32_t v; memcpy(&v, p, 4); return v; }
INLINE uint64_t load_u16(const void *p) { uint16_t v; memcpy(&v, p, 2); return v; }

// Per instruction set:
//   set1, set1_i, set1_d   the same number in every lane
//   mul_add, mul_add_d     a b + c, rounded once where the machine can
//   greater(a, b)          a > b ? a : b, so that a NaN in b stays; greater_i: of integers
//   load_f16, store_f16    LANES half floats, rounded to nearest even; half(p): one
//   sum4(a, b, c, d, out)  out[0..3] = the sums of the lanes of a, b, c, d, by a fixed tree
//   sums(a)                of LANES vectors by the same tree: a[r * LANES / 4 + t] goes to lane 4 t + r
//   dot_u, dot_s           acc + the four products of bytes in each lane: w unsigned (below 128
//                          on AVX2) or signed, x signed and never -128
//   dot_words              acc + the two products of signed 16-bit numbers in each lane
//   widen, widen_u16       signed bytes, or unsigned 16-bit numbers, to integers
//   row_groups             16 bytes at `off` of each of LANES rows: vector j gets the j-th four
//                          bytes, one row a lane
//   place_words(a, to)     32 integers of 16 bits: of every four the first and third, then the others
//   halves                 the half float in the low 16 bits of each lane
//   quarters(a, f)         of four vectors a, the sums of the lanes l, l + 4, ...: four lanes of each,
//                          GROUP = LANES / 4 to a vector; pair_quarters: of two vectors of halves
//   sum_quarters(f, out)   out[0..3] = the sums of those four lanes of each
//   block_group            the weights of GROUP quantised blocks as they stand: w[0] the first 16
//                          of every block, w[1] the others; d, m: its block's numbers in every lane

#if defined(ISA_AVX512) || defined(ISA_AVX2)
#include <immintrin.h>

INLINE float half(const void *p) { return _cvtsh_ss((unsigned short)load_u16(p)); }
INLINE __m128i bytes16(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)p); }
INLINE __m256i bytes32(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE void sum4_128(__m128 a, __m128 b, __m128 c, __m128 d, float *out) {
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(out, _mm_add_ps(_mm_add_ps(a, c), _mm_add_ps(b, d)));
}
INLINE __m128 fold256(__m256 a) {
    return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
}
#endif

#if defined(ISA_AVX512)

INLINE vf set1(float a) { return _mm512_set1_ps(a); }
INLINE vi set1_i(int32_t a) { return (vi)_mm512_set1_epi32(a); }
INLINE vd set1_d(double a) { return _mm512_set1_pd(a); }
INLINE vf mul_add(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vd mul_add_d(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }
INLINE vf greater(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vi greater_i(vi a, vi b) { return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b); }
INLINE vf load_f16(const void *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
INLINE void store_f16(void *p, vf a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
INLINE void place_words(const vi *a, void *to) {
    const __m512i low = _mm512_setr_epi32(
        0x040000, 0x060002, 0x0c0008, 0x0e000a, 0x140010, 0x160012, 0x1c0018, 0x1e001a,
        0x240020, 0x260022, 0x2c0028, 0x2e002a, 0x340030, 0x360032, 0x3c0038, 0x3e003a);
    _mm512_storeu_si512(to, _mm512_permutex2var_epi16((__m512i)a[0], low, (__m512i)a[1]));
}
INLINE vi widen(vb b) { return (vi)_mm512_cvtepi8_epi32((__m128i)b); }
INLINE vi widen_u16(vh h) { return (vi)_mm512_cvtepu16_epi32((__m256i)h); }
INLINE __m128 fold(vf a) {
    return fold256(_mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)));
}
INLINE void sum4(vf a, vf b, vf c, vf d, float *out) {
    sum4_128(fold(a), fold(b), fold(c), fold(d), out);
}
INLINE vi dot_u(vi acc, vi w, vi x) {
    return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, (__m512i)x);
}
INLINE vi dot_s(vi acc, vi w, vi x) { return dot_u(acc, w, x); }   // w has 128 added: Q8_FLIP
INLINE vi dot_words(vi acc, vi w, vi x) {
    return (vi)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)w, (__m512i)x);
}
INLINE void row_groups(vi out[4], const uint8_t *const *row, int64_t off) {
    __m512i z[4];
    UNROLL
    for (int i = 0; i < 4; i++) {
        z[i] = _mm512_castsi128_si512(bytes16(row[i] + off));
        z[i] = _mm512_inserti32x4(z[i], bytes16(row[4 + i] + off), 1);
        z[i] = _mm512_inserti32x4(z[i], bytes16(row[8 + i] + off), 2);
        z[i] = _mm512_inserti32x4(z[i], bytes16(row[12 + i] + off), 3);
    }
    __m512i a = _mm512_unpacklo_epi32(z[0], z[1]), b = _mm512_unpackhi_epi32(z[0], z[1]);
    __m512i c = _mm512_unpacklo_epi32(z[2], z[3]), d = _mm512_unpackhi_epi32(z[2], z[3]);
    out[0] = (vi)_mm512_unpacklo_epi64(a, c), out[1] = (vi)_mm512_unpackhi_epi64(a, c);
    out[2] = (vi)_mm512_unpacklo_epi64(b, d), out[3] = (vi)_mm512_unpackhi_epi64(b, d);
}
INLINE vf halves(vi a) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)a)); }
#define QUARTERS(a, b, order) (vf)_mm512_shuffle_f32x4(a, b, order)
#define WITHIN(a, b, order) (vf)_mm512_shuffle_ps(a, b, order)
INLINE vf pair_quarters(vf a, vf b) { return QUARTERS(a, b, 0x88) + QUARTERS(a, b, 0xdd); }
INLINE void quarters(const vf a[4], vf f[1]) {
    const vf p = QUARTERS(a[0], a[1], 0x44) + QUARTERS(a[0], a[1], 0xee);
    const vf q = QUARTERS(a[2], a[3], 0x44) + QUARTERS(a[2], a[3], 0xee);
    f[0] = pair_quarters(p, q);
}
INLINE vf sums(const vf *a) {
    vf g[4];
    UNROLL
    for (int i = 0; i < 4; i++) quarters(a + 4 * i, g + i);
    vf p = WITHIN(g[0], g[1], 0x44) + WITHIN(g[0], g[1], 0xee);
    vf q = WITHIN(g[2], g[3], 0x44) + WITHIN(g[2], g[3], 0xee);
    return WITHIN(p, q, 0x88) + WITHIN(p, q, 0xdd);
}
INLINE void sum_quarters(const vf f[1], float out[4]) {
    const vf p = f[0] + (vf)_mm512_permute_ps(f[0], 0x4e), q = p + (vf)_mm512_permute_ps(p, 0xb1);
    const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first, q)));
}
INLINE void block_group(int type, const uint8_t *const b[4], vi w[2], vf *d, vf *m) {
    if (type == T_Q8_0) {
        __m512i x = _mm512_castsi256_si512(bytes32(b[0] + 2)), y = _mm512_castsi256_si512(bytes32(b[2] + 2));
        x = _mm512_inserti64x4(x, bytes32(b[1] + 2), 1), y = _mm512_inserti64x4(y, bytes32(b[3] + 2), 1);
        w[0] = (vi)_mm512_shuffle_i32x4(x, y, 0x88) ^ (int32_t)0x80808080;
        w[1] = (vi)_mm512_shuffle_i32x4(x, y, 0xdd) ^ (int32_t)0x80808080;
    } else {
        const int64_t at = type == T_Q4_1 ? 4 : 2;
        __m512i x = _mm512_castsi128_si512(bytes16(b[0] + at));
        x = _mm512_inserti32x4(x, bytes16(b[1] + at), 1);
        x = _mm512_inserti32x4(x, bytes16(b[2] + at), 2);
        x = _mm512_inserti32x4(x, bytes16(b[3] + at), 3);
        w[0] = (vi)x & 0x0f0f0f0f, w[1] = ((vi)x >> 4) & 0x0f0f0f0f;
    }
    const __m512i each = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    if (type == T_Q4_1) {                            // d, m of each block
        __m128i h = _mm_setr_epi32(load_i32(b[0]), load_i32(b[1]), load_i32(b[2]), load_i32(b[3]));
        const __m512 both = _mm512_castps256_ps512(_mm256_cvtph_ps(h));
        *d = _mm512_permutexvar_ps(_mm512_slli_epi32(each, 1), both);
        *m = _mm512_permutexvar_ps(_mm512_add_epi32(_mm512_slli_epi32(each, 1), _mm512_set1_epi32(1)), both);
        return;
    }
    const uint64_t low = load_u16(b[0]) | (uint64_t)load_u16(b[1]) << 16;
    const uint64_t high = load_u16(b[2]) | (uint64_t)load_u16(b[3]) << 16;
    const __m128i h = _mm_cvtsi64_si128((long long)(high << 32 | low));
    *d = _mm512_permutexvar_ps(each, _mm512_castps128_ps512(_mm_cvtph_ps(h)));
    *m = set1(0);
}

#elif defined(ISA_AVX2)

INLINE vf set1(float a) { return _mm256_set1_ps(a); }
INLINE vi set1_i(int32_t a) { return (vi)_mm256_set1_epi32(a); }
INLINE vd set1_d(double a) { return _mm256_set1_pd(a); }
INLINE vf mul_add(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vd mul_add_d(vd a, vd b, vd c) { return _mm256_fmadd_pd(a, b, c); }
INLINE vf greater(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vi greater_i(vi a, vi b) { return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b); }
INLINE vf load_f16(const void *p) { return _mm256_cvtph_ps(bytes16(p)); }
INLINE void store_f16(void *p, vf a) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
INLINE void place_words(const vi *a, void *to) {
    const __m256i low = _mm256_setr_epi8(0, 1, 8, 9, 4, 5, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1,
                                         0, 1, 8, 9, 4, 5, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
    for (int i = 0; i < 2; i++) {
        __m256i pairs = _mm256_unpacklo_epi64(_mm256_shuffle_epi8((__m256i)a[2 * i], low),
                                              _mm256_shuffle_epi8((__m256i)a[2 * i + 1], low));
        _mm256_storeu_si256((__m256i *)to + i, _mm256_permute4x64_epi64(pairs, 0xd8));
    }
}
INLINE vi widen(vb b) {
    long long bits;
    memcpy(&bits, &b, 8);
    return (vi)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(bits));
}
INLINE vi widen_u16(vh h) { return (vi)_mm256_cvtepu16_epi32((__m128i)h); }
INLINE void sum4(vf a, vf b, vf c, vf d, float *out) {
    sum4_128(fold256(a), fold256(b), fold256(c), fold256(d), out);
}
// maddubs adds pairs of products in 16 bits: 2 * 128 * 127 still fits.
INLINE vi dot_u(vi acc, vi w, vi x) {
    __m256i pairs = _mm256_maddubs_epi16((__m256i)w, (__m256i)x);
    return acc + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
INLINE vi dot_s(vi acc, vi w, vi x) {    // |w| (x sign w)
    return dot_u(acc, (vi)_mm256_abs_epi8((__m256i)w),
                 (vi)_mm256_sign_epi8((__m256i)x, (__m256i)w));
}
INLINE vi dot_words(vi acc, vi w, vi x) {
    return acc + (vi)_mm256_madd_epi16((__m256i)w, (__m256i)x);
}
INLINE void row_groups(vi out[4], const uint8_t *const *row, int64_t off) {
    __m256i z[4];
    UNROLL
    for (int i = 0; i < 4; i++)
        z[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(bytes16(row[i] + off)),
                                       bytes16(row[4 + i] + off), 1);
    __m256i a = _mm256_unpacklo_epi32(z[0], z[1]), b = _mm256_unpackhi_epi32(z[0], z[1]);
    __m256i c = _mm256_unpacklo_epi32(z[2], z[3]), d = _mm256_unpackhi_epi32(z[2], z[3]);
    out[0] = (vi)_mm256_unpacklo_epi64(a, c), out[1] = (vi)_mm256_unpackhi_epi64(a, c);
    out[2] = (vi)_mm256_unpacklo_epi64(b, d), out[3] = (vi)_mm256_unpackhi_epi64(b, d);
}
INLINE vf halves(vi a) {
    __m256i low = (__m256i)(a & 0xffff);
    low = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(low));
}
#define HALVES(a, b, order) (vf)_mm256_permute2f128_ps(a, b, order)
#define WITHIN(a, b, order) (vf)_mm256_shuffle_ps(a, b, order)
INLINE vf two_halves(const uint8_t *a, const uint8_t *b) {
    return _mm256_set_m128(_mm_set1_ps(half(b)), _mm_set1_ps(half(a)));
}
INLINE vf pair_quarters(vf a, vf b) { return HALVES(a, b, 0x20) + HALVES(a, b, 0x31); }
INLINE void quarters(const vf a[4], vf f[2]) {
    f[0] = pair_quarters(a[0], a[1]), f[1] = pair_quarters(a[2], a[3]);
}
INLINE vf sums(const vf *a) {
    vf f[4];
    quarters(a, f), quarters(a + 4, f + 2);
    vf p = WITHIN(f[0], f[1], 0x44) + WITHIN(f[0], f[1], 0xee);
    vf q = WITHIN(f[2], f[3], 0x44) + WITHIN(f[2], f[3], 0xee);
    return WITHIN(p, q, 0x88) + WITHIN(p, q, 0xdd);
}
INLINE void sum_quarters(const vf f[2], float out[4]) {
    const vf a = WITHIN(f[0], f[1], 0x44) + WITHIN(f[0], f[1], 0xee);      // of rows 0, 2; 1, 3
    const __m256 b = a + WITHIN(a, a, 0xb1);
    const __m128 c = _mm_shuffle_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1), 0x88);
    _mm_storeu_ps(out, _mm_shuffle_ps(c, c, 0xd8));
}
INLINE void block_group(int type, const uint8_t *const b[2], vi w[2], vf *d, vf *m) {
    if (type == T_Q8_0) {
        __m256i x = bytes32(b[0] + 2), y = bytes32(b[1] + 2);
        w[0] = (vi)_mm256_permute2x128_si256(x, y, 0x20), w[1] = (vi)_mm256_permute2x128_si256(x, y, 0x31);
    } else {
        const int64_t at = type == T_Q4_1 ? 4 : 2;
        __m256i x = _mm256_castsi128_si256(bytes16(b[0] + at));
        x = _mm256_inserti128_si256(x, bytes16(b[1] + at), 1);
        w[0] = (vi)x & 0x0f0f0f0f, w[1] = ((vi)x >> 4) & 0x0f0f0f0f;
    }
    *d = two_halves(b[0], b[1]), *m = type == T_Q4_1 ? two_halves(b[0] + 2, b[1] + 2) : set1(0);
}

#else   // four lanes: NEON and plain C

INLINE vf set1(float a) { return (vf){a, a, a, a}; }
INLINE vi set1_i(int32_t a) { return (vi){a, a, a, a}; }
INLINE vi widen(vb b) { return __builtin_convertvector(b, vi); }
INLINE vi widen_u16(vh h) { return __builtin_convertvector(h, vi); }
INLINE vd set1_d(double a) { return (vd){a, a}; }
INLINE void row_groups(vi out[4], const uint8_t *const *row, int64_t off) {
    vi z[4];
    UNROLL
    for (int i = 0; i < 4; i++) memcpy(&z[i], row[i] + off, 16);
    UNROLL
    for (int j = 0; j < 4; j++) out[j] = (vi){z[0][j], z[1][j], z[2][j], z[3][j]};
}

#if defined(ISA_NEON)
#include <arm_neon.h>

INLINE vf mul_add(vf a, vf b, vf c) {
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
INLINE vd mul_add_d(vd a, vd b, vd c) {
    return (vd)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
INLINE vf greater(vf a, vf b) { return (vf)vmaxq_f32((float32x4_t)a, (float32x4_t)b); }
INLINE vi greater_i(vi a, vi b) { return (vi)vmaxq_s32((int32x4_t)a, (int32x4_t)b); }
INLINE float half(const void *p) { __fp16 h; memcpy(&h, p, 2); return (float)h; }
INLINE vf load_f16(const void *p) {
    float16x4_t h;
    memcpy(&h, p, 8);
    return (vf)vcvt_f32_f16(h);
}
INLINE void store_f16(void *p, vf a) {
    float16x4_t h = vcvt_f16_f32((float32x4_t)a);
    memcpy(p, &h, 8);
}
INLINE void sum4(vf a, vf b, vf c, vf d, float *out) {
    vst1q_f32(out, vpaddq_f32(vpaddq_f32((float32x4_t)a, (float32x4_t)b),
                              vpaddq_f32((float32x4_t)c, (float32x4_t)d)));
}
INLINE vi dot_words(vi acc, vi w, vi x) {
    int16x8_t a = (int16x8_t)w, b = (int16x8_t)x;
    return acc + (vi)vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b));
}
INLINE vi dot_s(vi acc, vi w, vi x) {
#if defined(ISA_DOT)    // as text: clang 14 hides the intrinsic from functions with a target
    __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(w), "w"(x));
    return acc;
#else
    int8x16_t a = (int8x16_t)w, b = (int8x16_t)x;
    int32x4_t lo = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    int32x4_t hi = vpaddlq_s16(vmull_high_s8(a, b));
    return acc + (vi)vpaddq_s32(lo, hi);
#endif
}
INLINE vf halves(vi a) {
    return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32((uint32x4_t)a)));
}

#else

INLINE vf mul_add(vf a, vf b, vf c) { return a * b + c; }
INLINE vd mul_add_d(vd a, vd b, vd c) { return a * b + c; }
INLINE vf greater(vf a, vf b) {
    vi m = (vi)(a > b);
    return (vf)(((vi)a & m) | ((vi)b & ~m));
}
INLINE vi greater_i(vi a, vi b) {
    vi m = a > b;
    return (a & m) | (b & ~m);
}
INLINE float half(const void *p) { return f16_to_f32((uint16_t)load_u16(p)); }
INLINE vf load_f16(const void *p) {
    const uint8_t *b = p;
    return (vf){half(b), half(b + 2), half(b + 4), half(b + 6)};
}
INLINE void store_f16(void *p, vf a) {
    uint16_t h[4] = {f32_to_f16(a[0]), f32_to_f16(a[1]), f32_to_f16(a[2]), f32_to_f16(a[3])};
    memcpy(p, h, 8);
}
INLINE void sum4(vf a, vf b, vf c, vf d, float *out) {
    out[0] = (a[0] + a[2]) + (a[1] + a[3]);
    out[1] = (b[0] + b[2]) + (b[1] + b[3]);
    out[2] = (c[0] + c[2]) + (c[1] + c[3]);
    out[3] = (d[0] + d[2]) + (d[1] + d[3]);
}
INLINE vi dot_words(vi acc, vi w, vi x) {
    return acc + ((vi)((vu)w << 16) >> 16) * ((vi)((vu)x << 16) >> 16) + (w >> 16) * (x >> 16);
}
INLINE vi dot_s(vi acc, vi w, vi x) {
    UNROLL
    for (int b = 0; b < 32; b += 8)     // byte b/8 of each lane, with its sign
        acc += ((vi)((vu)w << (24 - b)) >> 24) * ((vi)((vu)x << (24 - b)) >> 24);
    return acc;
}
INLINE vf halves(vi a) {
    return (vf){f16_to_f32((uint16_t)a[0]), f16_to_f32((uint16_t)a[1]),
                f16_to_f32((uint16_t)a[2]), f16_to_f32((uint16_t)a[3])};
}

#endif

INLINE vi dot_u(vi acc, vi w, vi x) { return dot_s(acc, w, x); }   // w is below 128
INLINE void place_words(const vi *a, void *to) {
    const uint64_t low = UINT64_C(0x0000ffff0000ffff);
    uint64_t two[16], four[8];               // numbers, two and four in one
    memcpy(two, a, sizeof two);
    for (int i = 0; i < 8; i++) four[i] = (two[2 * i] & low) | (two[2 * i + 1] << 16 & ~low);
    memcpy(to, four, sizeof four);
}
INLINE vf sums(const vf *a) {
    float out[4];
    sum4(a[0], a[1], a[2], a[3], out);
    return load(out);
}
INLINE vf pair_quarters(vf a, vf b) { (void)b; return a; }         // two blocks never end a group of one
INLINE void quarters(const vf a[4], vf f[4]) { memcpy(f, a, 4 * sizeof *f); }
INLINE void sum_quarters(const vf f[4], float out[4]) { sum4(f[0], f[1], f[2], f[3], out); }
INLINE void block_group(int type, const uint8_t *const b[1], vi w[2], vf *d, vf *m) {
    const uint8_t *p = b[0];
    if (type == T_Q8_0) {
        memcpy(&w[0], p + 2, 16), memcpy(&w[1], p + 18, 16);
    } else {
        memcpy(&w[0], p + (type == T_Q4_1 ? 4 : 2), 16);
        w[1] = (w[0] >> 4) & 0x0f0f0f0f, w[0] &= 0x0f0f0f0f;
    }
    *d = set1(half(p)), *m = type == T_Q4_1 ? set1(half(p + 2)) : set1(0);
}

#endif

// The first n < LANES items, zeros behind them; nothing is read beyond.
INLINE vf load_first(const void *p, int64_t n) {
#if defined(ISA_AVX512)
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    vf v = {0};
    memcpy(&v, p, (size_t)n * 4);
    return v;
#endif
}
INLINE vf load_first_f16(const void *p, int64_t n) {
    uint16_t h[LANES] = {0};
    memcpy(h, p, (size_t)n * 2);
    return load_f16(h);
}
INLINE void store_first(void *p, vf a, int64_t n) {
#if defined(ISA_AVX512)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a);
#else
    memcpy(p, &a, (size_t)n * 4);
#endif
}
INLINE vf load_bf16(const void *p) {
    return (vf)((vu)widen_u16(*(const vh_mem *)p) << 16);
}
INLINE vf load_first_bf16(const void *p, int64_t n) {
    uint16_t h[LANES] = {0};
    memcpy(h, p, (size_t)n * 2);
    return load_bf16(h);
}
INLINE float sum(vf a) {
    float out[4];
    sum4(a, a, a, a, out);
    return out[0];
}
// The half floats at p of `rows` rows, 8 or 1.
INLINE void row_halves(int rows, const uint8_t *p, int64_t stride, float *to) {
#if defined(ISA_AVX512) || defined(ISA_AVX2)
    if (rows == 8) {
        #define ROW(r) (short)load_u16(p + (r) * stride)
        const __m128i all = _mm_setr_epi16(ROW(0), ROW(1), ROW(2), ROW(3), ROW(4), ROW(5), ROW(6), ROW(7));
        #undef ROW
        _mm256_storeu_ps(to, _mm256_cvtph_ps(all));
        return;
    }
#endif
    EACH(r, rows, 8) to[r] = half(p + r * stride);
}
// The largest, and the sum, of all lanes.
INLINE int32_t largest(vi a) {
#if defined(ISA_AVX512)
    return _mm512_reduce_max_epi32((__m512i)a);
#elif defined(ISA_AVX2)
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128((__m256i)a), _mm256_extracti128_si256((__m256i)a, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
#elif defined(ISA_NEON)
    return vmaxvq_s32((int32x4_t)a);
#else
    int32_t max = a[0];
    for (int i = 1; i < LANES; i++) max = a[i] > max ? a[i] : max;
    return max;
#endif
}
INLINE int32_t sum_i(vi a) {
#if defined(ISA_AVX512)
    return _mm512_reduce_add_epi32((__m512i)a);
#else
    int32_t total = 0;
    for (int i = 0; i < LANES; i++) total += a[i];
    return total;
#endif
}
