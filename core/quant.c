// quant: the number types of stored weights. Half-precision conversions, and for every type how a
// row is read and, for the native ones, written. Rows are any bytes at any address: blocks are
// structs of bytes, so no alignment is asked, and no value in them can lead outside a table.
// Not here: products with quantised rows (kernels), and which tensor has which type (gguf).
//
// To add a type: its block, how a block is read, a row of the table at the end.
//
// A block type stores n weights as small integers and a scale: w = d * q, or w = d * q + m. d and m
// are half floats. "lo" and "hi" below are the low and the high four bits of a byte.
#include "quant.h"

#include <math.h>
#include <string.h>

// Blocks of 32 weights.
typedef struct { uint8_t d[2]; int8_t q[32]; } Q8_0;      // w[i] = d * q[i]
// lo q[i] belongs to weight i, hi q[i] to weight i + 16: Q4_0 is d * (0 … 15 - 8), Q4_1 is
// d * (0 … 15) + m.
typedef struct { uint8_t d[2], q[16]; } Q4_0;
typedef struct { uint8_t d[2], m[2], q[16]; } Q4_1;
// The fifth bit of weight i is bit i of h: Q5_0 is d * (0 … 31 - 16), Q5_1 is d * (0 … 31) + m.
typedef struct { uint8_t d[2], h[4], q[16]; } Q5_0;
typedef struct { uint8_t d[2], m[2], h[4], q[16]; } Q5_1;

// Blocks of 256 weights, in 16 parts of 16 or 8 parts of 32 that have small integer scales of their
// own (and minima), which d (and dmin) scale in turn.
typedef struct { uint8_t scale[16], q[64], d[2], dmin[2]; } Q2_K;
typedef struct { uint8_t high[32], q[64], scale[12], d[2]; } Q3_K;
typedef struct { uint8_t d[2], dmin[2], scale[12], q[128]; } Q4_K;
typedef struct { uint8_t d[2], dmin[2], scale[12], high[32], q[128]; } Q5_K;
typedef struct { uint8_t q[128], high[64]; int8_t scale[16]; uint8_t d[2]; } Q6_K;

_Static_assert(sizeof(Q8_0) == 34, "ggml's q8_0 block");
_Static_assert(sizeof(Q4_0) == 18, "ggml's q4_0 block");
_Static_assert(sizeof(Q4_1) == 20, "ggml's q4_1 block");
_Static_assert(sizeof(Q5_0) == 22, "ggml's q5_0 block");
_Static_assert(sizeof(Q5_1) == 24, "ggml's q5_1 block");
_Static_assert(sizeof(Q2_K) == 84, "ggml's q2_K block");
_Static_assert(sizeof(Q3_K) == 110, "ggml's q3_K block");
_Static_assert(sizeof(Q4_K) == 144, "ggml's q4_K block");
_Static_assert(sizeof(Q5_K) == 176, "ggml's q5_K block");
_Static_assert(sizeof(Q6_K) == 210, "ggml's q6_K block");

// ---- floats of 16 bits --------------------------------------------------------------------------

static inline float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

//         sign  exponent  fraction    value of a normal number
//   f16     1   5         10          2^(exponent - 15) * 1.fraction
//   bf16    1   8         7           the upper half of an f32
//   f32     1   8         23          2^(exponent - 127) * 1.fraction
float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
    if (rest >= 0x7c00u << 13) return float_of(sign | 0x7f800000 | rest);      // infinity, NaN
    // The fields now stand where f32 has them, the exponent short by 127 - 15 = 112. Exact, and
    // right for subnormal numbers too: they are subnormal in both.
    return float_of(sign | bits_of(float_of(rest) * 0x1p112f));
}

uint16_t f32_to_f16(float f) {
    uint32_t sign = bits_of(f) >> 16 & 0x8000, a = bits_of(f) & 0x7fffffff;
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00);                      // NaN
    if (a >= 0x477ff000) return (uint16_t)(sign | 0x7c00);                     // 65520 and above
    if (a < 0x38800000)    // below 2^-14, subnormal: the last place of 0.5 + x is f16's, 2^-24
        return (uint16_t)(sign | (bits_of(0.5f + float_of(a)) - bits_of(0.5f)));
    a += 0x0fff + (a >> 13 & 1);                                               // half to even
    return (uint16_t)(sign | (a - (112u << 23)) >> 13);
}

float bf16_to_f32(uint16_t h) { return float_of((uint32_t)h << 16); }

uint16_t f32_to_bf16(float f) {
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40);      // quiet NaN
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline uint16_t load16(const void *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return h;
}

static inline float load_f16(const uint8_t *p) { return f16_to_f32(load16(p)); }

static inline void store16(void *p, uint16_t h) { memcpy(p, &h, sizeof h); }
static inline void store_f16(uint8_t *p, float f) { store16(p, f32_to_f16(f)); }

// ---- reading ------------------------------------------------------------------------------------
// One block each: w (1, 32 or 256) from b.

static void read_i32(const void *block, float *w) {
    int32_t i;
    memcpy(&i, block, sizeof i);
    *w = (float)i;
}

static void read_q8_0(const void *block, float *w) {
    const Q8_0 *b = block;
    float d = load_f16(b->d);
    for (int i = 0; i < 32; i++) w[i] = d * b->q[i];
}

static void read_q4_0(const void *block, float *w) {
    const Q4_0 *b = block;
    float d = load_f16(b->d);
    for (int i = 0; i < 16; i++) {
        w[i] = d * ((b->q[i] & 15) - 8);
        w[i + 16] = d * ((b->q[i] >> 4) - 8);
    }
}

static void read_q4_1(const void *block, float *w) {
    const Q4_1 *b = block;
    float d = load_f16(b->d), m = load_f16(b->m);
    for (int i = 0; i < 16; i++) {
        w[i] = d * (b->q[i] & 15) + m;
        w[i + 16] = d * (b->q[i] >> 4) + m;
    }
}

static void read_q5_0(const void *block, float *w) {
    const Q5_0 *b = block;
    float d = load_f16(b->d);
    for (int i = 0; i < 32; i++) {
        int q = (b->q[i % 16] >> i / 16 * 4 & 15) | (b->h[i / 8] >> i % 8 & 1) << 4;
        w[i] = d * (q - 16);
    }
}

static void read_q5_1(const void *block, float *w) {
    const Q5_1 *b = block;
    float d = load_f16(b->d), m = load_f16(b->m);
    for (int i = 0; i < 32; i++) {
        int q = (b->q[i % 16] >> i / 16 * 4 & 15) | (b->h[i / 8] >> i % 8 & 1) << 4;
        w[i] = d * q + m;
    }
}

// Two bits a weight. Each half of the block (128 weights) has 32 bytes of q; byte l holds, from its
// low bits up, the weights l, l + 32, l + 64, l + 96 of the half.
static inline int two_bits(const uint8_t *q, int i) {
    return q[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
}

// scale[j]: lo the scale, hi the minimum of part j, 16 weights.
static void read_q2_k(const void *block, float *w) {
    const Q2_K *b = block;
    float d = load_f16(b->d), dmin = load_f16(b->dmin);
    for (int i = 0; i < 256; i++) {
        int s = b->scale[i / 16];
        w[i] = d * (s & 15) * two_bits(b->q, i) - dmin * (s >> 4);
    }
}

// The third bit of weight i is bit i / 32 of high[i % 32]; where it is NOT set, 4 is taken off.
// Sixteen scales of 6 bits, stored plus 32, in 12 bytes. Their low four bits:
//   byte j (0 … 7)   lo of part j, hi of part j + 8
// and their high two bits:
//   byte 8 + j (0 … 3), from its low bits up: parts j, j + 4, j + 8, j + 12
static void read_q3_k(const void *block, float *w) {
    const Q3_K *b = block;
    float d = load_f16(b->d), scale[16];
    for (int j = 0; j < 16; j++) {
        int low = b->scale[j % 8] >> j / 8 * 4 & 15, high = b->scale[8 + j % 4] >> j / 4 * 2 & 3;
        scale[j] = d * ((low | high << 4) - 32);
    }
    for (int i = 0; i < 256; i++) {
        int q = two_bits(b->q, i) - (b->high[i % 32] >> i / 32 & 1 ? 0 : 4);
        w[i] = scale[i / 16] * q;
    }
}

// Eight scales and eight minima of 6 bits in 12 bytes (of Q4_K and Q5_K), part j having 32 weights:
//   byte 0 … 3    2 bits of scale j + 4 | 6 bits of scale j
//   byte 4 … 7    2 bits of min j + 4   | 6 bits of min j
//   byte 8 … 11   4 bits of min j + 4   | 4 bits of scale j + 4      (their low bits)
static void unpack_scales(const uint8_t *p, float d, float dmin, float *scale, float *min) {
    for (int j = 0; j < 4; j++) {
        scale[j] = d * (p[j] & 63);
        min[j] = dmin * (p[4 + j] & 63);
        scale[4 + j] = d * ((p[8 + j] & 15) | p[j] >> 6 << 4);
        min[4 + j] = dmin * (p[8 + j] >> 4 | p[4 + j] >> 6 << 4);
    }
}

// Four bits a weight: each quarter of the block (64 weights) has 32 bytes of q; byte l holds weight
// l of the quarter in lo, l + 32 in hi.
static inline int four_bits(const uint8_t *q, int i) {
    return q[i / 64 * 32 + i % 32] >> i % 64 / 32 * 4 & 15;
}

static void read_q4_k(const void *block, float *w) {
    const Q4_K *b = block;
    float scale[8], min[8];
    unpack_scales(b->scale, load_f16(b->d), load_f16(b->dmin), scale, min);
    for (int i = 0; i < 256; i++) w[i] = scale[i / 32] * four_bits(b->q, i) - min[i / 32];
}

// As Q4_K, with the fifth bit of weight i in bit i / 32 of high[i % 32].
static void read_q5_k(const void *block, float *w) {
    const Q5_K *b = block;
    float scale[8], min[8];
    unpack_scales(b->scale, load_f16(b->d), load_f16(b->dmin), scale, min);
    for (int i = 0; i < 256; i++) {
        int q = four_bits(b->q, i) | (b->high[i % 32] >> i / 32 & 1) << 4;
        w[i] = scale[i / 32] * q - min[i / 32];
    }
}

// Four low bits: each half (128 weights) has 64 bytes of q, byte l holds weight l in lo, l + 64 in
// hi. The two high bits stand in `high` as two_bits draws it. Stored plus 32.
static void read_q6_k(const void *block, float *w) {
    const Q6_K *b = block;
    float d = load_f16(b->d);
    for (int i = 0; i < 256; i++) {
        int low = b->q[i / 128 * 64 + i % 64] >> i % 128 / 64 * 4 & 15;
        w[i] = d * b->scale[i / 16] * ((low | two_bits(b->high, i) << 4) - 32);
    }
}

// ---- writing ------------------------------------------------------------------------------------
// The rounding is that of ggml's reference: the scale is kept in full precision while the integers
// are chosen, and only then stored as a half.

// x without its fraction. What no integer stands for (NaN, an infinite 1 / d) becomes 0, as the
// reference has it on the machines it is used on; C leaves that conversion undefined.
static inline int truncate(float x) { return fabsf(x) < 0x1p31f ? (int)x : 0; }

static inline float inverse(float d) { return d != 0 ? 1 / d : 0; }

static void write_q8_0(const float *w, void *block) {
    Q8_0 *b = block;
    float largest = 0;
    for (int i = 0; i < 32; i++) largest = fabsf(w[i]) > largest ? fabsf(w[i]) : largest;
    float d = largest / 127, id = inverse(d);
    store_f16(b->d, d);
    for (int i = 0; i < 32; i++) b->q[i] = (int8_t)truncate(roundf(w[i] * id));
}

static inline uint8_t nibble(float x) {
    int q = truncate(x);
    return (uint8_t)(q < 0 ? 0 : q > 15 ? 15 : q);
}

// d has the sign that takes the weight of largest magnitude to -8, the end with the wider range.
static void write_q4_0(const float *w, void *block) {
    Q4_0 *b = block;
    float largest = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(w[i]) > fabsf(largest)) largest = w[i];
    float d = largest / -8, id = inverse(d);
    store_f16(b->d, d);
    for (int i = 0; i < 16; i++)
        b->q[i] = (uint8_t)(nibble(w[i] * id + 8.5f) | nibble(w[i + 16] * id + 8.5f) << 4);
}

static void write_q4_1(const float *w, void *block) {
    Q4_1 *b = block;
    float min = w[0], max = w[0];
    for (int i = 1; i < 32; i++) {
        min = w[i] < min ? w[i] : min;
        max = w[i] > max ? w[i] : max;
    }
    float d = (max - min) / 15, id = inverse(d);
    store_f16(b->d, d);
    store_f16(b->m, min);
    for (int i = 0; i < 16; i++)
        b->q[i] = (uint8_t)(nibble((w[i] - min) * id + 0.5f) |
                            nibble((w[i + 16] - min) * id + 0.5f) << 4);
}

// ---- the table ----------------------------------------------------------------------------------

static const struct {
    TypeInfo info;
    void (*read)(const void *block, float *w);       // NULL for plain floats
    void (*write)(const float *w, void *block);      // for native types
} types[] = {
    [T_F32]  = {{"f32",  1,   4,            true},  NULL,      NULL},
    [T_F16]  = {{"f16",  1,   2,            true},  NULL,      NULL},
    [T_BF16] = {{"bf16", 1,   2,            true},  NULL,      NULL},
    [T_Q8_0] = {{"q8_0", 32,  sizeof(Q8_0), true},  read_q8_0, write_q8_0},
    [T_Q4_0] = {{"q4_0", 32,  sizeof(Q4_0), true},  read_q4_0, write_q4_0},
    [T_Q4_1] = {{"q4_1", 32,  sizeof(Q4_1), true},  read_q4_1, write_q4_1},
    [T_Q5_0] = {{"q5_0", 32,  sizeof(Q5_0), false}, read_q5_0, NULL},
    [T_Q5_1] = {{"q5_1", 32,  sizeof(Q5_1), false}, read_q5_1, NULL},
    [T_Q2_K] = {{"q2_k", 256, sizeof(Q2_K), false}, read_q2_k, NULL},
    [T_Q3_K] = {{"q3_k", 256, sizeof(Q3_K), false}, read_q3_k, NULL},
    [T_Q4_K] = {{"q4_k", 256, sizeof(Q4_K), false}, read_q4_k, NULL},
    [T_Q5_K] = {{"q5_k", 256, sizeof(Q5_K), false}, read_q5_k, NULL},
    [T_Q6_K] = {{"q6_k", 256, sizeof(Q6_K), false}, read_q6_k, NULL},
    [T_I32]  = {{"i32",  1,   4,            false}, read_i32,  NULL},
};
enum { N_TYPES = sizeof types / sizeof *types };

const TypeInfo *type_info(int type) {
    return type >= 0 && type < N_TYPES && types[type].info.name ? &types[type].info : NULL;
}

int type_by_name(const char *name) {
    for (int t = 0; t < N_TYPES; t++)
        if (types[t].info.name && !strcmp(types[t].info.name, name)) return t;
    return -1;
}

bool row_size(int type, int64_t n, size_t *bytes) {
    const TypeInfo *t = type_info(type);
    return t && n >= 0 && n % t->block == 0 && (uint64_t)(n / t->block) <= SIZE_MAX &&
           mul_size((size_t)(n / t->block), (size_t)t->bytes, bytes);
}

void dequantize_row(int type, const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    const TypeInfo *t = &types[type].info;
    switch (type) {
    case T_F32: if (n) memcpy(dst, src, (size_t)n * sizeof *dst); break;
    case T_F16: for (int64_t i = 0; i < n; i++) dst[i] = f16_to_f32(load16(b + 2 * i)); break;
    case T_BF16: for (int64_t i = 0; i < n; i++) dst[i] = bf16_to_f32(load16(b + 2 * i)); break;
    default: for (int64_t i = 0; i < n; i += t->block, b += t->bytes) types[type].read(b, dst + i);
    }
}

void quantize_row(int type, const float *src, void *dst, int64_t n) {
    uint8_t *b = dst;
    const TypeInfo *t = &types[type].info;
    switch (type) {
    case T_F32: if (n) memcpy(dst, src, (size_t)n * sizeof *src); break;
    case T_F16: for (int64_t i = 0; i < n; i++) store16(b + 2 * i, f32_to_f16(src[i])); break;
    case T_BF16: for (int64_t i = 0; i < n; i++) store16(b + 2 * i, f32_to_bf16(src[i])); break;
    default: for (int64_t i = 0; i < n; i += t->block, b += t->bytes) types[type].write(src + i, b);
    }
}

// ---- matrices -----------------------------------------------------------------------------------

size_t mat_bytes(const Mat *w) {
    const TypeInfo *t = type_info(w->type);
    return t ? (size_t)w->rows * (size_t)(w->cols / t->block) * (size_t)t->bytes : 0;
}

void mat_row(const Mat *w, int64_t row, float *dst) {
    size_t bytes = 0;
    row_size(w->type, w->cols, &bytes);
    dequantize_row(w->type, (const uint8_t *)w->data + (size_t)row * bytes, dst, w->cols);
}
