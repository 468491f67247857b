// quant: the number types of stored weights. Half-precision conversions, and for every type how a
// row is read and, for the native ones, written. Rows are any bytes at any address: blocks are
// structs of bytes, so no alignment is asked, and no value in them can lead outside a table.
// Not here: products with quantised rows (kernels), and which tensor has which type (gguf).
//
// To add a type: its block (quant_blocks.h), how a block is read, a row of the table at the end.
#include "quant.h"
#include "quant_blocks.h"

#include <math.h>
#include <string.h>

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

// Four bits a weight: each quarter of the block (64 weights) has 32 bytes of q; byte l holds weight
// l of the quarter in lo, l + 32 in hi.
static inline int four_bits(const uint8_t *q, int i) {
    return q[i / 64 * 32 + i % 32] >> i % 64 / 32 * 4 & 15;
}

// Scales and minima of a block of 256.
static void scales_of(int type, const void *block, float scale[16], float min[16]) {
    const uint8_t *d = block_d(type, block);
    block_scales(type, block, load_f16(d), has_minima(type) ? load_f16(d + 2) : 0, scale, min);
}

static void read_q2_k(const void *block, float *w) {
    const Q2_K *b = block;
    float scale[16], min[16];
    scales_of(T_Q2_K, b, scale, min);
    for (int i = 0; i < 256; i++) w[i] = scale[i / 16] * two_bits(b->q, i) - min[i / 16];
}

// The third bit of weight i is bit i / 32 of high[i % 32]; where it is NOT set, 4 is taken off.
static void read_q3_k(const void *block, float *w) {
    const Q3_K *b = block;
    float scale[16], min[16];
    scales_of(T_Q3_K, b, scale, min);
    for (int i = 0; i < 256; i++) {
        int q = two_bits(b->q, i) - (b->high[i % 32] >> i / 32 & 1 ? 0 : 4);
        w[i] = scale[i / 16] * q;
    }
}

static void read_q4_k(const void *block, float *w) {
    const Q4_K *b = block;
    float scale[16], min[16];
    scales_of(T_Q4_K, b, scale, min);
    for (int i = 0; i < 256; i++) w[i] = scale[i / 16] * four_bits(b->q, i) - min[i / 16];
}

// As Q4_K, with the fifth bit of weight i in bit i / 32 of high[i % 32].
static void read_q5_k(const void *block, float *w) {
    const Q5_K *b = block;
    float scale[16], min[16];
    scales_of(T_Q5_K, b, scale, min);
    for (int i = 0; i < 256; i++) {
        int q = four_bits(b->q, i) | (b->high[i % 32] >> i / 32 & 1) << 4;
        w[i] = scale[i / 16] * q - min[i / 16];
    }
}

// Four low bits: each half (128 weights) has 64 bytes of q, byte l holds weight l in lo, l + 64 in
// hi. The two high bits stand in `high` as two_bits draws it. Stored plus 32.
static void read_q6_k(const void *block, float *w) {
    const Q6_K *b = block;
    float scale[16], min[16];
    scales_of(T_Q6_K, b, scale, min);
    for (int i = 0; i < 256; i++) {
        int low = b->q[i / 128 * 64 + i % 64] >> i % 128 / 64 * 4 & 15;
        w[i] = scale[i / 16] * ((low | two_bits(b->high, i) << 4) - 32);
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

Mat mat_rows(const Mat *w, int64_t first, int64_t rows) {
    size_t bytes = 0;
    row_size(w->type, w->cols, &bytes);
    return (Mat){(const uint8_t *)w->data + (size_t)first * bytes, rows, w->cols, w->type};
}
