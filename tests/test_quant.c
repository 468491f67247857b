// Tests of core/quant: 16-bit floats over all their codes, every type against golden data of the
// reference implementation, shapes and sizes, rows at odd addresses.
#include "test.h"
#include "../core/quant.h"
#include "golden_quant.h"

static uint32_t bits(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float from_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static int table(void) {
    int seen = 0;
    for (int t = -5; t < 1000; t++) {
        const TypeInfo *i = type_info(t);
        if (!i) continue;
        seen++;
        CHECK(type_by_name(i->name) == t, "%s: %d", i->name, type_by_name(i->name));
        size_t bytes = 0;
        CHECK(row_size(t, 3 * i->block, &bytes) && bytes == 3 * (size_t)i->bytes, "%s: %zu",
              i->name, bytes);
        CHECK(row_size(t, 0, &bytes) && bytes == 0, "%s", i->name);
        CHECK(i->block == 1 || !row_size(t, 3 * i->block + 1, &bytes), "%s", i->name);
        CHECK(!row_size(t, -i->block, &bytes), "%s: a negative row", i->name);
    }
    CHECK(seen == 14, "%d types", seen);
    size_t bytes = 77;
    CHECK(type_by_name("q9_9") == -1 && type_by_name("") == -1, "unknown names");
    CHECK(!row_size(4, 32, &bytes) && !row_size(-1, 32, &bytes) && bytes == 77, "%zu", bytes);
    Mat w = {NULL, 576, 576, T_Q4_1};
    CHECK(mat_bytes(&w) == 207360, "%zu", mat_bytes(&w));
    return PASS;
}

static bool is_nan16(unsigned code, unsigned infinity) { return (code & 0x7fff) > infinity; }

// The value of a code by the definition.
static double f16_value(unsigned code) {
    int exponent = code >> 10 & 31, fraction = code & 1023;
    double v = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    if (exponent == 31) v = fraction ? NAN : INFINITY;
    return code & 0x8000 ? -v : v;
}

static int f16_codes(void) {
    for (unsigned c = 0; c < 65536; c++) {
        float f = f16_to_f32((uint16_t)c);
        uint16_t back = f32_to_f16(f);
        if (is_nan16(c, 0x7c00)) {
            CHECK(isnan(f) && is_nan16(back, 0x7c00), "code %04x: %g, back %04x", c, f, back);
            continue;
        }
        CHECK(f == f16_value(c) && !signbit(f) == !(c & 0x8000), "code %04x: %g, expected %g", c, f,
              f16_value(c));
        CHECK(back == c, "code %04x: %g, back %04x", c, f, back);
    }
    return PASS;
}

// Between two neighbouring codes: the nearer one, at the middle the even one.
static int f16_rounding(void) {
    for (unsigned c = 0; c < 0x7c00; c++) {
        double a = f16_value(c), b = c == 0x7bff ? 65536 : f16_value(c + 1);
        float middle = (float)((a + b) / 2);
        float below = nextafterf(middle, 0), above = nextafterf(middle, 1e9f);
        unsigned even = c & 1 ? c + 1 : c;
        struct { float f; unsigned expected; } t[] = {
            {middle, even}, {below, c}, {above, c + 1}, {-above, 0x8000 | (c + 1)},
        };
        for (int i = 0; i < COUNT(t); i++)
            CHECK(f32_to_f16(t[i].f) == t[i].expected, "%a: %04x, expected %04x", t[i].f,
                  f32_to_f16(t[i].f), t[i].expected);
    }
    CHECK(f32_to_f16(1e30f) == 0x7c00 && f32_to_f16(-INFINITY) == 0xfc00, "overflow");
    CHECK(f32_to_f16(1e-30f) == 0 && f32_to_f16(-1e-44f) == 0x8000, "underflow");
    return PASS;
}

static int bf16_codes(void) {
    for (unsigned c = 0; c < 65536; c++) {
        float f = bf16_to_f32((uint16_t)c);
        uint16_t back = f32_to_bf16(f);
        if (is_nan16(c, 0x7f80)) {
            CHECK(isnan(f) && is_nan16(back, 0x7f80), "code %04x: %g, back %04x", c, f, back);
            continue;
        }
        CHECK(bits(f) == c << 16 && back == c, "code %04x: %g, back %04x", c, f, back);
        if ((c & 0x7fff) >= 0x7f80) continue;
        unsigned even = c & 1 ? c + 1 : c;
        uint16_t half = f32_to_bf16(from_bits(c << 16 | 0x8000));
        uint16_t less = f32_to_bf16(from_bits(c << 16 | 0x7fff));
        uint16_t more = f32_to_bf16(from_bits(c << 16 | 0x8001));
        CHECK(half == even && less == c && more == c + 1, "code %04x: %04x %04x %04x", c, less,
              half, more);
    }
    CHECK(is_nan16(f32_to_bf16(from_bits(0x7f800001)), 0x7f80), "NaN in the low half only");
    return PASS;
}

// ---- golden data --------------------------------------------------------------------------------

typedef struct {
    int type;
    const void *stored;
    size_t size;             // bytes of stored
    const uint32_t *floats;  // what it is read as; NULL: not checked
    int n;
} Golden;

#define GOLDEN(T, t) \
    {T, golden_##t, sizeof golden_##t, golden_##t##_floats, COUNT(golden_##t##_floats)}
static const Golden golden[] = {
    {T_F32, golden_floats, sizeof golden_floats, golden_floats, COUNT(golden_floats)},
    {T_F16, golden_f16, sizeof golden_f16, NULL, 0},
    {T_BF16, golden_bf16, sizeof golden_bf16, NULL, 0},
    GOLDEN(T_Q8_0, q8_0), GOLDEN(T_Q4_0, q4_0), GOLDEN(T_Q4_1, q4_1), GOLDEN(T_Q5_0, q5_0),
    GOLDEN(T_Q5_1, q5_1), GOLDEN(T_Q2_K, q2_k), GOLDEN(T_Q3_K, q3_k), GOLDEN(T_Q4_K, q4_k),
    GOLDEN(T_Q5_K, q5_k), GOLDEN(T_Q6_K, q6_k),
};

// Stored bytes are read from an odd address out of a buffer without a byte to spare.
static int golden_read(void) {
    for (int k = 0; k < COUNT(golden); k++) {
        const Golden *g = &golden[k];
        const TypeInfo *t = type_info(g->type);
        size_t size = (size_t)(g->n / t->block) * (size_t)t->bytes;
        CHECK(size <= g->size, "%s", t->name);
        uint8_t *stored = malloc(size + 1);
        float *out = malloc((size_t)g->n * sizeof *out + 1);
        CHECK(stored && out, "memory");
        memcpy(stored + 1, g->stored, size);
        dequantize_row(g->type, stored + 1, out, g->n);
        for (int i = 0; i < g->n; i++)
            CHECK(bits(out[i]) == g->floats[i], "%s, weight %d: %.9g, expected %.9g", t->name, i,
                  out[i], from_bits(g->floats[i]));
        free(stored);
        free(out);
    }
    return PASS;
}

static int golden_write(void) {
    static float in[COUNT(golden_floats)];
    memcpy(in, golden_floats, sizeof in);
    for (int k = 0; k < COUNT(golden); k++) {
        const Golden *g = &golden[k];
        const TypeInfo *t = type_info(g->type);
        if (!t->native) continue;
        size_t size;
        CHECK(row_size(g->type, COUNT(in), &size) && size == g->size, "%s", t->name);
        uint8_t *out = malloc(size + 1);
        CHECK(out, "memory");
        quantize_row(g->type, in, out + 1, COUNT(in));
        for (size_t i = 0; i < size; i++)
            CHECK(out[1 + i] == ((const uint8_t *)g->stored)[i],
                  "%s, row '%s', byte %zu: %u, expected %u", t->name,
                  golden_row[i * COUNT(golden_row) / size], i, out[1 + i],
                  ((const uint8_t *)g->stored)[i]);
        free(out);
    }
    return PASS;
}

// ---- properties ---------------------------------------------------------------------------------

// The error of a weight is at most half a step, plus the rounding of the scale to a half float.
static int error_bound(void) {
    enum { N = 4096 };
    static float in[N], out[N];
    static uint8_t stored[N * 4];
    // In -2 … 2 a step is at most 2 / 127, 2 / 8, 4 / 15. q4_0 reaches from -8 to 7 steps only, so
    // that the far end may miss by a whole one.
    static const struct { int type; float limit; } bound[] = {
        {T_Q8_0, 1 / 127.f}, {T_Q4_0, 2 / 8.f}, {T_Q4_1, 2 / 15.f},
    };
    uint64_t state = 5;
    for (int i = 0; i < N; i++) in[i] = 4 * random_f32(&state) - 2;
    for (int k = 0; k < COUNT(bound); k++) {
        int type = bound[k].type;
        quantize_row(type, in, stored, N);
        dequantize_row(type, stored, out, N);
        float limit = bound[k].limit + 2e-3f;
        for (int i = 0; i < N; i++)
            CHECK(fabsf(in[i] - out[i]) <= limit, "%s, weight %d: %g became %g, limit %g",
                  type_info(type)->name, i, in[i], out[i], limit);
    }
    return PASS;
}

// Any numbers may come: infinities, NaN, scales whose inverse overflows. And any bytes.
static int odd_numbers(void) {
    static const uint32_t odd[] = {0x7f800000, 0xff800000, 0x7fc00000, 1, 0x80000001, 0x007fffff,
                                   0x7f7fffff, 0xff7fffff, 0};
    static const int native[] = {T_F32, T_F16, T_BF16, T_Q8_0, T_Q4_0, T_Q4_1};
    float in[64], out[64];
    uint8_t stored[256];
    for (int k = 0; k < COUNT(native); k++) {
        for (int first = 0; first < COUNT(odd); first++)
            for (int second = 0; second < COUNT(odd); second++) {
                for (int i = 0; i < 64; i++) in[i] = from_bits(odd[i % 2 ? first : second]);
                quantize_row(native[k], in, stored, 64);
                dequantize_row(native[k], stored, out, 64);
            }
        for (int i = 0; i < 64; i++) in[i] = from_bits(1u + (uint32_t)i);    // 1e-45 …
        quantize_row(native[k], in, stored, 64);
        dequantize_row(native[k], stored, out, 64);
        for (int i = 0; i < 64; i++)
            CHECK(fabsf(out[i]) <= 1e-40f, "%s, weight %d: %g", type_info(native[k])->name, i,
                  out[i]);
    }
    static uint8_t block[256];
    static float w[256];
    uint64_t state = 3;
    for (int t = 0; t < 31; t++)
        for (int n = 0; type_info(t) && n < 200; n++) {
            for (size_t i = 0; i < sizeof block; i++) block[i] = (uint8_t)random_u64(&state);
            dequantize_row(t, block, w, type_info(t)->block);
        }
    return PASS;
}

static int matrices(void) {
    static const int types[] = {T_F32, T_F16, T_BF16, T_Q8_0, T_Q4_0, T_Q4_1};
    enum { ROWS = 5, COLS = 64 };
    float in[ROWS][COLS], row[COLS], expected[COLS];
    uint8_t stored[ROWS * COLS * 4];
    uint64_t state = 9;
    for (int i = 0; i < ROWS * COLS; i++) in[i / COLS][i % COLS] = random_f32(&state) - 0.5f;
    for (int k = 0; k < COUNT(types); k++) {
        Mat w = {stored, ROWS, COLS, types[k]};
        size_t bytes;
        CHECK(row_size(types[k], COLS, &bytes) && mat_bytes(&w) == ROWS * bytes, "%zu", bytes);
        for (size_t r = 0; r < ROWS; r++) quantize_row(types[k], in[r], stored + r * bytes, COLS);
        for (size_t r = 0; r < ROWS; r++) {
            mat_row(&w, (int64_t)r, row);
            dequantize_row(types[k], stored + r * bytes, expected, COLS);
            CHECK(!memcmp(row, expected, sizeof row), "%s, row %zu", type_info(types[k])->name, r);
            for (int i = 0; i < COLS; i++)
                CHECK(fabsf(row[i] - in[r][i]) < 0.07f, "%s, row %zu, %d: %g, was %g",
                      type_info(types[k])->name, r, i, row[i], in[r][i]);
        }
    }
    return PASS;
}

static const Test tests[] = {
    {"table", table}, {"f16 codes", f16_codes}, {"f16 rounding", f16_rounding},
    {"bf16 codes", bf16_codes}, {"golden: reading", golden_read}, {"golden: writing", golden_write},
    {"error bound", error_bound}, {"odd numbers", odd_numbers}, {"matrices", matrices},
};

int main(int argc, char **argv) { return run_tests("quant", tests, COUNT(tests), argc, argv); }
