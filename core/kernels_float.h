// kernels_float: rows of weights against f32 activations. A part of kernels_template.h, which includes it.

// ---- rows against f32 activations ---------------------------------------------------------------

// out[t][r] = sum of w[r] x[t] over n columns, for 4 rows and `tokens` tokens. Many tokens: all at once,
// 4 tokens products for 4 + tokens loads. Few tokens wait for memory, which is quickest when rows are
// read one behind the other as they stand. type, tokens and few are constants wherever this is used.
INLINE void dot_tile(int type, int tokens, bool few, const uint8_t *const w[4], const float *const *x,
                     int64_t n, float (*out)[4]) {
    vf acc[4][TILE] = {0}, xv[TILE];
    const int64_t whole = n / LANES * LANES, size = type == T_F32 ? 4 : 2;
    UNROLL
    for (int r = 0; r < 4; r++) {
        if (!few) break;
        for (int64_t i = 0; i < whole; i += LANES) {
            __builtin_prefetch(w[r] + i * size + AHEAD, 0, 2);
            const vf wv = load_as(type, w[r], i);
            EACH(t, tokens, TILE) acc[r][t] = mul_add(wv, load(x[t] + i), acc[r][t]);
        }
        if (whole == n) continue;
        const vf wv = load_first_as(type, w[r], whole, n - whole);
        EACH(t, tokens, TILE) acc[r][t] = mul_add(wv, load_first(x[t] + whole, n - whole), acc[r][t]);
    }
    if (tokens == 1) {
        sum4(acc[0][0], acc[1][0], acc[2][0], acc[3][0], out[0]);
        return;
    }
    for (int64_t i = 0; i < whole && !few; i += LANES) {
        EACH(t, tokens, TILE) xv[t] = load(x[t] + i);
        UNROLL
        for (int r = 0; r < 4; r++) {
            vf wv = load_as(type, w[r], i);
            EACH(t, tokens, TILE) acc[r][t] = mul_add(wv, xv[t], acc[r][t]);
        }
    }
    if (whole < n && !few) {
        EACH(t, tokens, TILE) xv[t] = load_first(x[t] + whole, n - whole);
        UNROLL
        for (int r = 0; r < 4; r++) {
            vf wv = load_first_as(type, w[r], whole, n - whole);
            EACH(t, tokens, TILE) acc[r][t] = mul_add(wv, xv[t], acc[r][t]);
        }
    }
    enum { TOGETHER = LANES / 4 };               // tokens whose sums one vector holds
    EACH(g, (tokens + TOGETHER - 1) / TOGETHER, TILE) {
        vf a[LANES], to;
        UNROLL
        for (int i = 0; i < LANES; i++) {
            const int t = g * TOGETHER + i % TOGETHER;
            a[i] = acc[i / TOGETHER][t < tokens ? t : tokens - 1];
        }
        to = sums(a);
        UNROLL
        for (int t = 0; t < TOGETHER; t++)
            if (g * TOGETHER + t < tokens) memcpy(out[g * TOGETHER + t], (float *)&to + 4 * t, 16);
    }
}

// Each combination is a function of its own: left to a switch, compilers merge the calls first and
// then no longer see the constants.
typedef void DotTile(const uint8_t *const w[4], const float *const *x, int64_t n, float (*out)[4]);
#define DOT_TILE(name, type, tokens, few) \
    static void name(const uint8_t *const w[4], const float *const *x, int64_t n, float (*out)[4]) { \
        dot_tile(type, tokens, few, w, x, n, out); \
    }
DOT_TILE(dot_f32_1, T_F32, 1, true)
DOT_TILE(dot_f32_2, T_F32, 2, true)
DOT_TILE(dot_f32_few, T_F32, TILE, true)
DOT_TILE(dot_f32_all, T_F32, TILE, false)
DOT_TILE(dot_f16_1, T_F16, 1, true)
DOT_TILE(dot_f16_2, T_F16, 2, true)
DOT_TILE(dot_f16_few, T_F16, TILE, true)
DOT_TILE(dot_bf16_1, T_BF16, 1, true)
DOT_TILE(dot_bf16_2, T_BF16, 2, true)
DOT_TILE(dot_bf16_few, T_BF16, TILE, true)

// Halves stand for themselves only where tokens are few.
static DotTile *dot_kernel(int type, int64_t tokens, bool few) {
    static DotTile *const kernels[3][3] = {{dot_f32_1, dot_f32_2, dot_f32_few},
                                           {dot_f16_1, dot_f16_2, dot_f16_few},
                                           {dot_bf16_1, dot_bf16_2, dot_bf16_few}};
    if (!few && tokens > 2) return dot_f32_all;
    return kernels[type == T_F16 ? 1 : type == T_BF16 ? 2 : 0][tokens < 3 ? tokens - 1 : 2];
}

// Four rows (fewer at the end: the last is then repeated, and not stored) against up to TILE
// tokens, over columns c .. c + n; the sums are added to y except for the first chunk.
static void dot_block(int type, const uint8_t *base, size_t stride, int64_t rows, const float *x, int64_t ldx,
                      int64_t tokens, bool few, int64_t c, int64_t n, float *y, int64_t ldy) {
    const uint8_t *w[4];
    const float *xs[TILE];
    float out[TILE][4] __attribute__((aligned(64)));
    for (int r = 0; r < 4; r++) w[r] = base + (size_t)(r < rows ? r : rows - 1) * stride;
    for (int t = 0; t < TILE; t++) xs[t] = x + (t < tokens ? t : tokens - 1) * ldx + c;
    dot_kernel(type, tokens, few)(w, xs, n, out);
    for (int64_t t = 0; t < tokens; t++) {
        if (rows >= 4 && c == 0) memcpy(y + t * ldy, out[t], sizeof out[t]);
        else for (int64_t r = 0; r < rows && r < 4; r++)
            y[t * ldy + r] = c == 0 ? out[t][r] : y[t * ldy + r] + out[t][r];
    }
}

static void dot_rows(const Mat *w, int64_t r0, int64_t r1, const float *x, int64_t n, float *y,
                     int64_t ldy) {
    const TypeInfo *type = type_info(w->type);
    const uint8_t *data = w->data;
    const int64_t cols = w->cols;
    const size_t stride = (size_t)(cols / type->block) * (size_t)type->bytes;
    const bool floats = type->block == 1;
    float panel[PANEL * CHUNK] __attribute__((aligned(64)));

    if (cols == 0)
        for (int64_t t = 0; t < n; t++) memset(y + t * ldy + r0, 0, (size_t)(r1 - r0) * sizeof *y);
    for (int64_t t0 = 0; t0 < n; t0 += TOKENS) {
        const int64_t tokens = least(n - t0, TOKENS);
        // Few tokens, or f32: straight from the weights. Otherwise unpacked once for all tokens.
        const bool direct = floats && (w->type == T_F32 || tokens <= 2 * TILE);
        const bool few = direct && tokens <= 2 * TILE;
        // While tokens are computed with some rows, the bytes behind these are fetched, a piece a tile.
        const int64_t tiles = (tokens + TILE - 1) / TILE * ((cols + CHUNK - 1) / CHUNK);
        const int64_t piece = !few && tiles ? PANEL * (int64_t)stride / tiles + 64 : 0;
        for (int64_t r = r0; r < r1; r += PANEL) {
            const int64_t rows = least(r1 - r, PANEL);
            const uint8_t *ahead = data + (size_t)(r + PANEL) * stride;
            for (int64_t c = 0; c < cols; c += CHUNK) {
                const int64_t m = least(cols - c, CHUNK);
                for (int64_t i = 0; i < rows && !direct; i++)
                    unpack(w->type, data + (size_t)(r + i) * stride, c, panel + i * CHUNK, m);
                for (int64_t t = 0; t < tokens; t += TILE, ahead += piece) {
                    for (int64_t k = 0; k < piece; k += 64) __builtin_prefetch(ahead + k, 0, 2);
                    for (int64_t i = 0; i < rows; i += 4) {
                        const uint8_t *base = direct
                            ? data + (size_t)(r + i) * stride + (size_t)c * (size_t)type->bytes
                            : (const uint8_t *)(panel + i * CHUNK);
                        dot_block(direct ? w->type : T_F32, base, direct ? stride : 4 * CHUNK,
                                  rows - i, x + (t0 + t) * cols, cols, least(tokens - t, TILE), few, c,
                                  m, y + (t0 + t) * ldy + r + i, ldy);
                    }
                }
            }
        }
    }
}

// ---- panels: many tokens ------------------------------------------------------------------------

// FVECS LANES rows, turned so that a lane is a row, in PCHUNK columns: 32 kB that stay in the first cache
// while the tokens go by. Sums need no step across lanes then, and FTILE tokens make FVECS FTILE products of
// FVECS + FTILE loads.
enum { PROWS = FVECS * LANES, PCHUNK = 32768 / (4 * PROWS) };

// Columns c .. c + 16 / bytes of LANES rows, from 16 bytes of each: to[column * PROWS].
INLINE void turn(int type, const uint8_t *const *row, int64_t off, float *to) {
    vi v[4];
    row_groups(v, row, off);
    UNROLL
    for (int j = 0; j < 4; j++) {
        if (type == T_F32) store(to + j * PROWS, (vf)v[j]);
        else if (type == T_F16) {
            store(to + 2 * j * PROWS, halves(v[j]));
            store(to + (2 * j + 1) * PROWS, halves((vi)((vu)v[j] >> 16)));
        } else {
            store(to + 2 * j * PROWS, (vf)((vu)v[j] << 16));
            store(to + (2 * j + 1) * PROWS, (vf)(v[j] & (int32_t)0xffff0000));
        }
    }
}

INLINE void turn_rows(int type, const uint8_t *const *row, int64_t off, int64_t n, float *to) {
    const int size = type == T_F32 ? 4 : 2, step = 16 / size;
    for (int64_t i = 0; i < n; i += step) turn(type, row, off + i * size, to + i * PROWS);
}

// panel (n, PROWS) = columns c .. c + n of `rows` <= PROWS rows of F32, F16 or BF16; beyond them the last
// again.
static void fill_panel(const Mat *w, int64_t r, int64_t rows, int64_t c, int64_t n, float *panel) {
    const TypeInfo *type = type_info(w->type);
    const size_t stride = (size_t)w->cols * (size_t)type->bytes;
    const int64_t whole = n - n % (16 / type->bytes);
    for (int64_t v = 0; v < (rows + LANES - 1) / LANES; v++) {
        float flat[LANES][8];
        const uint8_t *row[LANES], *unpacked[LANES];
        for (int64_t i = 0; i < LANES; i++) {
            row[i] = (const uint8_t *)w->data + (size_t)(r + least(v * LANES + i, rows - 1)) * stride;
            unpacked[i] = (const uint8_t *)flat[i];
        }
        float *to = panel + v * LANES;
        if (w->type == T_F32) turn_rows(T_F32, row, 4 * c, whole, to);
        if (w->type == T_F16) turn_rows(T_F16, row, 2 * c, whole, to);
        if (w->type == T_BF16) turn_rows(T_BF16, row, 2 * c, whole, to);
        if (whole == n) continue;
        memset(flat, 0, sizeof flat);
        for (int64_t i = 0; i < LANES; i++) unpack(w->type, row[i], c + whole, flat[i], n - whole);
        turn_rows(T_F32, unpacked, 0, n - whole, to + whole * PROWS);
    }
}

// y (used <= tokens, rows <= vecs LANES) (+)= x (tokens, n) times the panel, k in order.
INLINE void panel_tile(int tokens, int vecs, const float *panel, const float *const *x, int64_t n, bool add,
                       int64_t rows, int64_t used, float *y, int64_t ldy) {
    vf acc[FTILE][FVECS] = {0};
    for (int64_t k = 0; k < n; k++) {
        vf w[FVECS];
        EACH(v, vecs, FVECS) w[v] = load(panel + k * PROWS + v * LANES);
        EACH(t, tokens, FTILE) {
            const vf xv = set1(x[t][k]);
            EACH(v, vecs, FVECS) acc[t][v] = mul_add(w[v], xv, acc[t][v]);
        }
    }
    EACH(t, tokens, FTILE) {
        EACH(v, vecs, FVECS) {
            float *at = y + t * ldy + v * LANES;
            const int64_t left = t < used ? rows - v * LANES : 0;
            if (left >= LANES) store(at, add ? load(at) + acc[t][v] : acc[t][v]);
            else if (left > 0) store_first(at, add ? load_first(at, left) + acc[t][v] : acc[t][v], left);
        }
    }
}

typedef void PanelTile(const float *panel, const float *const *x, int64_t n, bool add, int64_t rows,
                       int64_t used, float *y, int64_t ldy);
#define PANEL_TILE(name, tokens, vecs) \
    static void name(const float *panel, const float *const *x, int64_t n, bool add, int64_t rows, \
                     int64_t used, float *y, int64_t ldy) { \
        panel_tile(tokens, vecs, panel, x, n, add, rows, used, y, ldy); \
    }
PANEL_TILE(panel_few, 2, FVECS)
PANEL_TILE(panel_all, FTILE, FVECS)
PANEL_TILE(panel_few_half, 2, (FVECS + 1) / 2)
PANEL_TILE(panel_all_half, FTILE, (FVECS + 1) / 2)

// As dot_rows, for tokens together; while they are computed with some rows, the bytes behind these are
// fetched, a piece a tile.
static void panel_rows(const Mat *w, int64_t r0, int64_t r1, const float *x, int64_t n, float *y,
                       int64_t ldy) {
    float panel[PCHUNK * PROWS] __attribute__((aligned(64)));
    const int64_t cols = w->cols, stride = cols * type_info(w->type)->bytes;
    const int64_t chunks = (cols + PCHUNK - 1) / PCHUNK;
    if (cols == 0)
        for (int64_t t = 0; t < n; t++) memset(y + t * ldy + r0, 0, (size_t)(r1 - r0) * sizeof *y);
    for (int64_t t0 = 0; t0 < n; t0 += TOKENS) {
        const int64_t tokens = least(n - t0, TOKENS);
        const int64_t piece = chunks ? PROWS * stride / (chunks * ((tokens + FTILE - 1) / FTILE)) + 64 : 0;
        for (int64_t r = r0; r < r1; r += PROWS) {
            const int64_t rows = least(r1 - r, PROWS);
            const bool half = 2 * rows <= PROWS;
            const uint8_t *ahead = (const uint8_t *)w->data + (r + PROWS) * stride;
            for (int64_t c = 0; c < cols; c += PCHUNK) {
                const int64_t m = least(cols - c, PCHUNK);
                fill_panel(w, r, rows, c, m, panel);
                for (int64_t t = t0; t < t0 + tokens; t += FTILE, ahead += piece) {
                    const int64_t used = least(t0 + tokens - t, FTILE);
                    const float *xs[FTILE];
                    for (int64_t i = 0; i < FTILE; i++) xs[i] = x + (t + least(i, used - 1)) * cols + c;
                    for (int64_t k = 0; k < piece; k += 64) __builtin_prefetch(ahead + k, 0, 2);
                    PanelTile *tile = used <= 2 ? half ? panel_few_half : panel_few
                                                : half ? panel_all_half : panel_all;
                    tile(panel, xs, m, c > 0, rows, used, y + t * ldy + r, ldy);
                }
            }
        }
    }
}
