// kernels_template: every kernel once, on vectors of LANES floats (kernels_simd.h). A file that
// includes it becomes one variant. One thread's work only; memory comes from the caller or the
// stack (at most 64 kB).
//
// The order of every sum is fixed by the shape of one output, never by how many rows are computed
// together; nor by how many tokens, within each of these:
//   dot_rows    CHUNK columns at a time: lane l sums columns l, l + LANES, ... in order; the lanes
//               are added by sum4's tree; chunks are added in order.
//   turned_rows columns in order, GCHUNK at a time; chunks are added in order.
//   quant_rows  blocks in order; the integer sum of a block is exact (kernels_quant.h).
//   quant_row   a lane sums eight columns of every LANES / 4 blocks, in order; lanes l, l + 4, ... are added,
//               then one or two last blocks, summed so; then the four lanes.
//   columns     rows in order.   gemm: k in order, in steps of GEMM_DEPTH.

#include <float.h>

#include "kernels_simd.h"
#include "quant_blocks.h"

enum {
    CHUNK = 1024,         // columns of dot_rows
    PANEL = 8,            // rows unpacked at a time: PANEL * CHUNK floats are 32 kB
    TOKENS = 128,         // tokens that share a sweep over the weights: their chunks stay in L2
    QBLOCKS = 16 / QPANELS,   // blocks of panels of quantised rows, 18 kB with 16 lanes
};

#include "kernels_unpack.h"

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Rows that wait for memory, four at a time (Then, in kernels_impl.h). In one stream they stand one behind
// the other and are read so; in four they are a quarter of the matrix apart and take turns, TURN bytes each.
// What is fetched ahead stands so many bytes further in the same stream; at its end, where the next begins.
enum { TURN = 512 };
typedef struct {
    const uint8_t *data, *then;
    int64_t stride, rows, groups, first, next, between;  // row i of group g: first + g next + i between
    int64_t ahead, end, then_between;
} Fours;
INLINE Fours fours(const Mat *w, int64_t stride, int64_t r0, int64_t r1, const Then *then) {
    const bool apart = streams > 1;
    Fours f = {.data = w->data, .stride = stride, .rows = w->rows, .groups = (r1 - r0 + 3) / 4};
    f.first = apart ? r0 / 4 : r0, f.next = apart ? 1 : 4, f.between = apart ? (w->rows + 3) / 4 : 1;
    f.ahead = apart ? 4096 : 8192, f.end = INT64_MAX;
    if (!then || !then->at) return f;
    f.end = (apart ? (then->end + 3) / 4 : then->end) * stride;
    f.then = then->at, f.then_between = then->between;
    return f;
}
// The rows of a group, and what is fetched while they are read. One that is not there is the last again.
INLINE void four_rows(const Fours *f, int64_t g, int64_t to[4], const uint8_t *row[4],
                      const uint8_t *fetch[4]) {
    UNROLL
    for (int i = 0; i < 4; i++) {
        to[i] = f->first + g * f->next + i * f->between;
        row[i] = f->data + least(to[i], f->rows - 1) * f->stride;
        const int64_t past = to[streams > 1 ? 0 : i] * f->stride + f->ahead - f->end;
        fetch[i] = past < 0 ? row[i] + f->ahead : f->then + past + (streams > 1 ? i : 0) * f->then_between;
    }
}

#include "kernels_float.h"
#include "kernels_quant.h"

// ---- columns: the transposed product ------------------------------------------------------------

enum { CWIDTH = 256, CDEPTH = 32, CVECS = 4 };   // columns and rows unpacked at a time: 32 kB

// y[t] += sum over rows of x[t][r] w[r], in vecs * LANES columns, or in `last` < LANES of them.
INLINE void column_tile(int tokens, int vecs, int64_t last, const float *w, int64_t ldw,
                        int64_t rows, const float *const *x, float *const *y) {
    vf acc[TILE][CVECS];
    EACH(t, tokens, TILE) {
        EACH(v, vecs, CVECS)
            acc[t][v] = last ? load_first(y[t], last) : load(y[t] + v * LANES);
    }
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t *row = (const uint8_t *)w + (size_t)(r * ldw) * 4;
        vf xv[TILE];
        EACH(t, tokens, TILE) xv[t] = set1(x[t][r]);
        EACH(v, vecs, CVECS) {
            vf wv = last ? load_first(row, last) : load(row + 4 * v * LANES);
            EACH(t, tokens, TILE) acc[t][v] = mul_add(xv[t], wv, acc[t][v]);
        }
    }
    EACH(t, tokens, TILE) {
        EACH(v, vecs, CVECS) {
            if (last) store_first(y[t], acc[t][v], last);
            else store(y[t] + v * LANES, acc[t][v]);
        }
    }
}

typedef void ColumnTile(const float *w, int64_t ldw, int64_t rows, const float *const *x,
                        float *const *y, int64_t last);
#define COLUMN_TILE(name, tokens, vecs, rest) \
    static void name(const float *w, int64_t ldw, int64_t rows, const float *const *x, \
                     float *const *y, int64_t last) { \
        (void)last; \
        column_tile(tokens, vecs, rest, w, ldw, rows, x, y); \
    }
COLUMN_TILE(columns_wide_all, TILE, CVECS, 0)
COLUMN_TILE(columns_wide_1, 1, CVECS, 0)
COLUMN_TILE(columns_one_all, TILE, 1, 0)
COLUMN_TILE(columns_one_1, 1, 1, 0)
COLUMN_TILE(columns_last_all, TILE, 1, last)
COLUMN_TILE(columns_last_1, 1, 1, last)

static void column_tiles(int64_t tokens, const void *w, int64_t ldw, int64_t rows, int64_t cols,
                         const float *x, int64_t ldx, float *y, int64_t ldy) {
    for (int64_t c = 0, width; c < cols; c += width) {
        const int64_t left = cols - c;
        ColumnTile *all = columns_last_all, *one = columns_last_1;
        width = left;
        if (left >= CVECS * LANES)
            all = columns_wide_all, one = columns_wide_1, width = CVECS * LANES;
        else if (left >= LANES)
            all = columns_one_all, one = columns_one_1, width = LANES;
        const void *wc = (const uint8_t *)w + (size_t)c * 4;
        for (int64_t t = 0, k; t < tokens; t += k) {
            const float *xs[TILE];
            float *ys[TILE];
            k = tokens - t >= TILE ? TILE : 1;
            for (int64_t i = 0; i < k; i++)
                xs[i] = x + (t + i) * ldx, ys[i] = y + (t + i) * ldy + c;
            (k == 1 ? one : all)(wc, ldw, rows, xs, ys, width);
        }
    }
}

// One token: the memory's pace. Eight rows are added at a time, so that y is read and written
// once for eight rows of weights.
INLINE void add_8_rows(int type, const uint8_t *const w[8], int64_t ahead, const float *x, float *y,
                       int64_t n) {
    const int64_t size = type == T_F32 ? 4 : 2;
    vf xv[8];
    UNROLL
    for (int r = 0; r < 8; r++) xv[r] = set1(x[r]);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf acc = load(y + i);
        UNROLL
        for (int r = 0; r < 8; r++) {
            acc = mul_add(xv[r], load_as(type, w[r], i), acc);
            if (ahead) __builtin_prefetch(w[r] + i * size + ahead, 0, 2);
        }
        store(y + i, acc);
    }
    if (i < n) {
        vf acc = load_first(y + i, n - i);
        UNROLL
        for (int r = 0; r < 8; r++)
            acc = mul_add(xv[r], load_first_as(type, w[r], i, n - i), acc);
        store_first(y + i, acc, n - i);
    }
}

INLINE void add_row(int type, const uint8_t *w, float x, float *y, int64_t n) {
    int64_t i = 0;
    const vf xv = set1(x);
    for (; i + LANES <= n; i += LANES) store(y + i, mul_add(xv, load_as(type, w, i), load(y + i)));
    if (i < n) {
        vf wv = load_first_as(type, w, i, n - i);
        store_first(y + i, mul_add(xv, wv, load_first(y + i, n - i)), n - i);
    }
}

static void add_rows(int type, const uint8_t *const *w, int64_t rows, int64_t ahead, const float *x,
                     float *y, int64_t n) {
    if (rows == 8 && type == T_F16) add_8_rows(T_F16, w, ahead, x, y, n);
    else if (rows == 8 && type == T_BF16) add_8_rows(T_BF16, w, ahead, x, y, n);
    else if (rows == 8) add_8_rows(T_F32, w, ahead, x, y, n);
    else for (int64_t r = 0; r < rows; r++) {
        if (type == T_F16) add_row(T_F16, w[r], x[r], y, n);
        else if (type == T_BF16) add_row(T_BF16, w[r], x[r], y, n);
        else add_row(T_F32, w[r], x[r], y, n);
    }
}

// Quantised rows for one token, `rows` (8 or 1) side by side: y is read and written once for all of them.
// First the scales of some blocks, which are spread from memory for nothing, but from registers by shuffles.
INLINE void quant_columns_of(int type, int rows, const uint8_t *src, int64_t stride, const float *x, float *y,
                             int64_t n) {
    enum { SOME = 32 };
    const int64_t bytes = block_bytes(type);
    vf xv[8];
    EACH(r, rows, 8) xv[r] = set1(x[r]);
    for (int64_t some; n > 0; n -= 32 * some, src += some * bytes) {
        float d[SOME][8], m[SOME][8];
        some = least(n / 32, SOME);
        for (int64_t b = 0; b < some; b++) {
            row_halves(rows, src + b * bytes, stride, d[b]);
            if (type == T_Q4_1) row_halves(rows, src + b * bytes + 2, stride, m[b]);
        }
        for (int64_t b = 0; b < some; b++, y += 32) {
            vf acc[BLOCK_VECS];
            EACH(v, BLOCK_VECS, BLOCK_VECS) acc[v] = load(y + v * LANES);
            EACH(r, rows, 8) {
                vf block[BLOCK_VECS];
                const uint8_t *p = src + b * bytes + r * stride;
                __builtin_prefetch(p + rows * stride, 0, 2);
                block_floats(type, p, set1(d[b][r]), set1(type == T_Q4_1 ? m[b][r] : 0), block);
                EACH(v, BLOCK_VECS, BLOCK_VECS) acc[v] = mul_add(xv[r], block[v], acc[v]);
            }
            EACH(v, BLOCK_VECS, BLOCK_VECS) store(y + v * LANES, acc[v]);
        }
    }
}
static void quant_columns(int type, int64_t n, const uint8_t *src, int64_t stride, int64_t rows,
                          const float *x, float *y) {
    for (int64_t r = 0, k; r < rows; r += k, src += k * stride, x += k) {
        k = rows - r >= 8 ? 8 : 1;
        #define OF(type) \
            if (k == 8) quant_columns_of(type, 8, src, stride, x, y, n); \
            else quant_columns_of(type, 1, src, stride, x, y, n)
        if (type == T_Q8_0) { OF(T_Q8_0); } else if (type == T_Q4_0) { OF(T_Q4_0); } else { OF(T_Q4_1); }
        #undef OF
    }
}

static void columns(const Mat *w, int64_t c0, int64_t c1, const float *x, int64_t ldx, int64_t n,
                    float *y, int64_t ldy) {
    const TypeInfo *type = type_info(w->type);
    const uint8_t *data = w->data;
    const size_t stride = (size_t)(w->cols / type->block) * (size_t)type->bytes;
    const bool floats = type->block == 1;
    float panel[CDEPTH * CWIDTH] __attribute__((aligned(64)));

    if (n == 1 && (w->type == T_Q8_0 || w->type == T_Q4_0 || w->type == T_Q4_1)) {
        quant_columns(w->type, c1 - c0, data + c0 / 32 * type->bytes, (int64_t)stride, w->rows, x, y + c0);
        return;
    }
    if (n == 1) {
        const int64_t width = floats ? c1 - c0 : CDEPTH / 8 * CWIDTH;
        for (int64_t r = 0; r < w->rows; r += 8)
            for (int64_t c = c0; c < c1; c += width) {
                const int64_t rows = least(w->rows - r, 8), m = least(c1 - c, width);
                const uint8_t *ws[8];
                for (int64_t i = 0; i < rows; i++) {
                    const uint8_t *row = data + (size_t)(r + i) * stride;
                    ws[i] = floats ? row + (size_t)c * (size_t)type->bytes
                                   : (const uint8_t *)(panel + i * width);
                    if (floats) continue;
                    const uint8_t *ahead = row + 8 * stride + c / type->block * type->bytes;
                    for (int64_t k = 0; k < m / type->block * type->bytes; k += 64)
                        __builtin_prefetch(ahead + k, 0, 2);
                    unpack(w->type, row, c, panel + i * width, m);
                }
                add_rows(floats ? w->type : T_F32, ws, rows, floats ? 8 * (int64_t)stride : 0,
                         x + r, y + c, m);
            }
        return;
    }
    for (int64_t c = c0; c < c1; c += CWIDTH) {
        const int64_t m = least(c1 - c, CWIDTH);
        for (int64_t r = 0; r < w->rows; r += CDEPTH) {
            const int64_t rows = least(w->rows - r, CDEPTH);
            const bool direct = w->type == T_F32;
            for (int64_t i = 0; i < rows && !direct; i++)
                unpack(w->type, data + (size_t)(r + i) * stride, c, panel + i * CWIDTH, m);
            const void *base = panel;
            if (direct) base = data + (size_t)r * stride + (size_t)c * 4;
            column_tiles(n, base, direct ? w->cols : CWIDTH, rows, m, x + r, ldx, y + c, ldy);
        }
    }
}

#include "kernels_gemm.h"

// ---- vectors ------------------------------------------------------------------------------------

static float dot_(const float *a, const float *b, int64_t n) {
    vf acc[4] = {0};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        UNROLL
        for (int j = 0; j < 4; j++)
            acc[j] = mul_add(load(a + i + j * LANES), load(b + i + j * LANES), acc[j]);
    }
    for (; i + LANES <= n; i += LANES) acc[0] = mul_add(load(a + i), load(b + i), acc[0]);
    if (i < n) acc[1] = mul_add(load_first(a + i, n - i), load_first(b + i, n - i), acc[1]);
    return sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
}

static void axpy_(float *y, float a, const float *x, int64_t n) {
    add_row(T_F32, (const uint8_t *)x, a, y, n);
}

static void scale_(float *y, const float *x, float a, const float *w, int64_t n) {
    int64_t i = 0;
    const vf av = set1(a);
    for (; i + LANES <= n; i += LANES) {
        vf v = load(x + i) * av;
        store(y + i, w ? v * load(w + i) : v);
    }
    for (; i < n; i++) y[i] = w ? x[i] * a * w[i] : x[i] * a;
}

static float max_(const float *x, int64_t n) {
    vf most = set1(-INFINITY);
    float max = -INFINITY;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) most = greater(most, load(x + i));
    for (int l = 0; l < LANES; l++) max = most[l] > max ? most[l] : max;
    for (; i < n; i++) max = x[i] > max ? x[i] : max;
    return max;
}

// exp: x = k ln 2 + r with |r| <= ln 2 / 2; e^r by its series to r^7 (the rest is below 1e-8);
// 2^k in two steps, so that results reach from the smallest subnormal to infinity. NaN stays.
INLINE vf exp_v(vf x) {
    const vf magic = set1(12582912.0f);          // adding it rounds to an integer
    x = greater(set1(-104.0f), x);               // e^-104 rounds to 0
    x = -greater(set1(-89.0f), -x);              // e^89 overflows
    vf shifted = mul_add(x, set1(1.44269504f), magic), k = shifted - magic;
    vf r = mul_add(k, set1(-0.693359375f), x);   // ln 2 in two parts, the first of few bits
    r = mul_add(k, set1(2.12194440e-4f), r);
    vf p = set1(1.0f / 5040);
    p = mul_add(p, r, set1(1.0f / 720));
    p = mul_add(p, r, set1(1.0f / 120));
    p = mul_add(p, r, set1(1.0f / 24));
    p = mul_add(p, r, set1(1.0f / 6));
    p = mul_add(p, r, set1(0.5f));
    p = mul_add(p, r, set1(1.0f));
    p = mul_add(p, r, set1(1.0f));
    vi e = (vi)shifted - (vi)magic, half_e = e >> 1;
    vf a = (vf)((half_e + 127) << 23), b = (vf)((e - half_e + 127) << 23);
    return p * a * b;
}

static float exp_sum_(float *x, int64_t n, float scale, float shift) {
    const vf s = set1(scale), m = set1(-shift);
    vf acc = set1(0);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf e = exp_v(mul_add(load(x + i), s, m));
        store(x + i, e);
        acc += e;
    }
    if (i < n) {                                 // lanes beyond the end must count as 0
        vf e = exp_v(mul_add(load_first(x + i, n - i), s, m)), kept = set1(0);
        store_first(x + i, e, n - i);
        memcpy(&kept, x + i, (size_t)(n - i) * sizeof *x);
        acc += kept;
    }
    return sum(acc);
}

INLINE vf swiglu_v(vf g, vf u) { return g / (exp_v(-g) + 1.0f) * u; }

static void swiglu_(float *gate, const float *up, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store(gate + i, swiglu_v(load(gate + i), load(up + i)));
    if (i < n) {
        vf g = load_first(gate + i, n - i), u = load_first(up + i, n - i);
        store_first(gate + i, swiglu_v(g, u), n - i);
    }
}

// GELU by the normal distribution's lower tail: max(x, 0) - |x| P(below -|x|), without cancellation.
// P(below -z) = erfc(z / sqrt 2) / 2, erfc by formula 7.1.26 of Abramowitz and Stegun. P is 0 in f32
// long before z = 20.
INLINE vf gelu_v(vf x) {
    const vf z = -greater(-greater(x, -x), set1(-20.0f)), y = z * 0.70710678f;
    const vf t = 1.0f / mul_add(y, set1(0.3275911f), set1(1.0f));
    vf p = set1(1.061405429f);
    p = mul_add(p, t, set1(-1.453152027f));
    p = mul_add(p, t, set1(1.421413741f));
    p = mul_add(p, t, set1(-0.284496736f));
    p = mul_add(p, t, set1(0.254829592f));
    return greater(set1(0), x) - z * (p * t * exp_v(-y * y) * 0.5f);
}

INLINE vf activate_v(Activation a, vf x) {
    if (a == ACT_GELU) return gelu_v(x);
    // (1 + tanh u) / 2 = sigmoid(2 u), and 2 sqrt(2 / pi) = 1.59576912
    const vf c = set1(1.59576912f);
    const vf u = a == ACT_SILU ? x : x * mul_add(x * x, c * 0.044715f, c);
    return x / (exp_v(-u) + 1.0f);
}

static void activate_(Activation a, float *x, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store(x + i, activate_v(a, load(x + i)));
    if (i < n) store_first(x + i, activate_v(a, load_first(x + i, n - i)), n - i);
}

static void from_f16(const uint16_t *src, float *dst, int64_t n) {
    unpack_floats(T_F16, (const uint8_t *)src, dst, n);
}

static void to_f16(const float *src, uint16_t *dst, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store_f16(dst + i, load(src + i));
    if (i < n) {
        uint16_t h[LANES];
        store_f16(h, load_first(src + i, n - i));
        memcpy(dst + i, h, (size_t)(n - i) * sizeof *h);
    }
}

static uint64_t read_all_of(const void *p, size_t size) {
    const Mat m = {.data = p, .rows = (int64_t)(size / TURN)};
    const Fours f = fours(&m, TURN, 0, m.rows, NULL);
    vi acc[8] = {0};
    for (int64_t g = 0; g < f.groups; g++) {
        int64_t to[4];
        const uint8_t *row[4], *fetch[4];
        four_rows(&f, g, to, row, fetch);
        for (int r = 0; r < 4; r++)
            for (int64_t i = 0; i < TURN; i += (int64_t)sizeof acc) {
                for (int64_t k = 0; k < (int64_t)sizeof acc; k += 64)
                    __builtin_prefetch(fetch[r] + i + k, 0, 3);
                UNROLL
                for (int j = 0; j < 8; j++) acc[j] ^= (vi)load(row[r] + i + j * (int64_t)sizeof(vi));
            }
    }
    uint64_t total = 0;
    for (int j = 0; j < 8; j++)
        for (int l = 0; l < LANES; l++) total ^= (uint32_t)acc[j][l];
    return total;
}

// Every result is an operand of the next, so that no compiler takes a part out of the loop, and there
// are enough chains that no unit waits for one: twice HALF, 12 of 16 registers. Plain C needs registers
// within its dot product, hence fewer of them: BYTE_HALF.
enum { HALF = 6 };

static int64_t madds_f32(int64_t turns, float *sink) {
    const vf a = set1(*sink + 0.5f);             // x / 2 + 1/2 goes to 1
    vf x[2 * HALF], total = set1(0);
    UNROLL
    for (int i = 0; i < HALF; i++) x[i] = set1(*sink + (float)i), x[HALF + i] = -x[i];
    for (int64_t t = 0; t < turns; t++) {
        UNROLL
        for (int i = 0; i < HALF; i++) {
            x[i] = mul_add(x[i], a, a);
            x[HALF + i] = mul_add(x[HALF + i], a, a);
        }
    }
    UNROLL
    for (int i = 0; i < HALF; i++) total += x[i] + x[HALF + i];
    *sink = sum(total);
    return turns * 2 * HALF * LANES;
}

static int64_t madds_int8(int64_t turns, int32_t *sink) {
    const vi w = set1_i(*sink + 0x01010101);     // a turn adds at most 4 * 127: a million stay in range
    vi x[2 * BYTE_HALF], total = set1_i(0);
    UNROLL
    for (int i = 0; i < BYTE_HALF; i++) x[i] = set1_i(*sink + i), x[BYTE_HALF + i] = ~x[i];
    for (int64_t t = 0; t < turns; t++) {
        UNROLL
        for (int i = 0; i < BYTE_HALF; i++) {
            x[i] = dot_u(x[i], w, x[i]);
            x[BYTE_HALF + i] = dot_u(x[BYTE_HALF + i], w, x[BYTE_HALF + i]);
        }
    }
    UNROLL
    for (int i = 0; i < BYTE_HALF; i++) total ^= x[i] ^ x[BYTE_HALF + i];
    for (int l = 0; l < LANES; l++) *sink ^= total[l];
    return turns * 2 * BYTE_HALF * LANES * 4;
}

#include "kernels_attend.h"

#define VARIANT(label) { \
    .name = label, .dot_rows = dot_rows, \
    .lanes = LANES, .turn_tokens = turn_tokens, .turned_rows = turned_rows, \
    .quant_rows = quant_rows, .quantise = quantise, .quant_row = quant_row, .quantise_row = quantise_row, \
    .columns = columns, \
    .gemm_mr = MR, .gemm_nr = NR, .gemm_nr32 = NR32, .gemm_pack = gemm_pack, \
    .gemm_pack_mixed = gemm_pack_mixed, .gemm_pack32 = gemm_pack32, .gemm_block = gemm_block, \
    .gemm_block_mixed = gemm_block_mixed, .gemm_block32 = gemm_block32, \
    .symv_rows = symv_rows, .symv_rows32 = symv_rows32, .row_dots = row_dots, .row_dots32 = row_dots32, \
    .sum_rows = sum_rows, .sum_rows32 = sum_rows32, \
    .dot = dot_, .axpy = axpy_, .scale = scale_, .max = max_, .exp_sum = exp_sum_, \
    .swiglu = swiglu_, .activate = activate_, .from_f16 = from_f16, .to_f16 = to_f16, .read = read_all_of, \
    .madds_f32 = madds_f32, .madds_int8 = madds_int8, \
    .key_scores = key_scores_, .value_sums = value_sums_, .soften = soften_ }
