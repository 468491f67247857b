// kernels_float: rows of weights against f32 activations. A part of kernels_template.h, which includes it.

// ---- rows against f32 activations ---------------------------------------------------------------

// out[t][r] = sum of w[r] x[t] over n columns, for 4 rows and `tokens` tokens. Many tokens: all at once,
// 4 tokens products for 4 + tokens loads. Few tokens wait for memory and read the rows as Fours says.
// type, tokens and few are constants wherever this is used.
INLINE void dot_tile(int type, int tokens, bool few, const uint8_t *const w[4], const uint8_t *const fetch[4],
                     const float *const *x, int64_t n, float (*out)[4]) {
    vf acc[4][TILE] = {0}, xv[TILE];
    const int64_t whole = n / LANES * LANES, size = type == T_F32 ? 4 : 2;
    const int64_t turn = streams > 1 ? TURN / size : n;
    for (int64_t c = 0; c < whole && few; c += turn) {
        const int64_t end = least(c + turn, whole);
        UNROLL
        for (int r = 0; r < 4; r++) {
            for (int64_t i = c; i < end; i += LANES) {
                __builtin_prefetch(fetch[r] + i * size, 0, 3);
                const vf wv = load_as(type, w[r], i);
                EACH(t, tokens, TILE) acc[r][t] = mul_add(wv, load(x[t] + i), acc[r][t]);
            }
        }
    }
    UNROLL
    for (int r = 0; r < 4; r++) {
        if (!few || whole == n) break;
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
typedef void DotTile(const uint8_t *const w[4], const uint8_t *const fetch[4], const float *const *x,
                     int64_t n, float (*out)[4]);
#define DOT_TILE(name, type, tokens, few) \
    static void name(const uint8_t *const w[4], const uint8_t *const fetch[4], const float *const *x, \
                     int64_t n, float (*out)[4]) { \
        dot_tile(type, tokens, few, w, fetch, x, n, out); \
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

// Four rows, of which those below `end` are stored, row i at to[i], against up to TILE tokens over columns
// c .. c + n; the sums are added to y except for the first chunk.
static void dot_block(DotTile *tile, const uint8_t *const w[4], const uint8_t *const fetch[4],
                      const int64_t to[4], int64_t end, const float *x, int64_t ldx, int64_t tokens,
                      int64_t c, int64_t n, float *y, int64_t ldy) {
    const float *xs[TILE];
    float out[TILE][4] __attribute__((aligned(64)));
    for (int t = 0; t < TILE; t++) xs[t] = x + (t < tokens ? t : tokens - 1) * ldx + c;
    tile(w, fetch, xs, n, out);
    for (int64_t t = 0; t < tokens; t++)
        for (int r = 0; r < 4 && to[r] < end; r++)
            y[t * ldy + to[r]] = c == 0 ? out[t][r] : y[t * ldy + to[r]] + out[t][r];
}

// Rows of floats that wait for memory.
static void few_rows(const Mat *w, int64_t r0, int64_t r1, const float *x, int64_t n, float *y,
                     int64_t ldy, const Then *then) {
    const int64_t size = w->type == T_F32 ? 4 : 2, cols = w->cols;
    const Fours f = fours(w, cols * size, r0, r1, then);
    for (int64_t g = 0; g < f.groups; g++) {
        int64_t to[4];
        const uint8_t *row[4], *fetch[4];
        four_rows(&f, g, to, row, fetch);
        for (int64_t c = 0; c < cols; c += CHUNK) {
            for (int64_t t = 0; t < n; t += TILE) {
                const int64_t tokens = least(n - t, TILE);
                dot_block(dot_kernel(w->type, tokens, true), row, fetch, to, w->rows, x + t * cols, cols,
                          tokens, c, least(cols - c, CHUNK), y + t * ldy, ldy);
            }
            for (int i = 0; i < 4; i++) row[i] += CHUNK * size, fetch[i] += CHUNK * size;
        }
    }
}

static void dot_rows(const Mat *w, int64_t r0, int64_t r1, const float *x, int64_t n, float *y,
                     int64_t ldy, const Then *then) {
    const TypeInfo *type = type_info(w->type);
    const uint8_t *data = w->data;
    const int64_t cols = w->cols;
    const size_t stride = (size_t)(cols / type->block) * (size_t)type->bytes;
    float panel[PANEL * CHUNK] __attribute__((aligned(64)));

    if (cols == 0)
        for (int64_t t = 0; t < n; t++) memset(y + t * ldy + r0, 0, (size_t)(r1 - r0) * sizeof *y);
    if (type->block == 1 && n <= 2 * TILE) {
        few_rows(w, r0, r1, x, n, y, ldy, then);
        return;
    }
    for (int64_t t0 = 0; t0 < n; t0 += TOKENS) {
        const int64_t tokens = least(n - t0, TOKENS);
        const bool direct = w->type == T_F32;    // the others are unpacked once for all tokens
        // While tokens are computed with some rows, the bytes behind these are fetched, a piece a tile.
        const int64_t tiles = (tokens + TILE - 1) / TILE * ((cols + CHUNK - 1) / CHUNK);
        const int64_t piece = tiles ? PANEL * (int64_t)stride / tiles + 64 : 0;
        for (int64_t r = r0; r < r1; r += PANEL) {
            const int64_t rows = least(r1 - r, PANEL);
            const uint8_t *ahead = data + (size_t)(r + PANEL) * stride;
            for (int64_t c = 0; c < cols; c += CHUNK) {
                const int64_t m = least(cols - c, CHUNK);
                for (int64_t i = 0; i < rows && !direct; i++)
                    unpack(w->type, data + (size_t)(r + i) * stride, c, panel + i * CHUNK, m);
                const uint8_t *base = (const uint8_t *)panel;
                const size_t step = direct ? stride : 4 * CHUNK;
                if (direct) base = data + (size_t)r * stride + (size_t)c * 4;
                for (int64_t t = 0; t < tokens; t += TILE, ahead += piece) {
                    for (int64_t k = 0; k < piece; k += 64) __builtin_prefetch(ahead + k, 0, 2);
                    for (int64_t i = 0; i < rows; i += 4) {
                        const int64_t to[4] = {i, i + 1, i + 2, i + 3}, together = least(tokens - t, TILE);
                        const uint8_t *row[4];
                        for (int j = 0; j < 4; j++) row[j] = base + (size_t)least(i + j, rows - 1) * step;
                        dot_block(dot_kernel(T_F32, together, false), row, row, to, rows, x + (t0 + t) * cols,
                                  cols, together, c, m, y + (t0 + t) * ldy + r, ldy);
                    }
                }
            }
        }
    }
}

// ---- many tokens --------------------------------------------------------------------------------
//
// A lane is a token: sums need no step across lanes, rows are read as they stand, and only the activations
// are turned, once for all rows. FVECS vectors of tokens are a group, (columns, tokens); the last may have
// fewer.

enum {
    GTOKENS = FVECS * LANES,
    GCHUNK = 24576 / (4 * GTOKENS),      // columns: this much of a group, 24 kB, stays in the first cache
    GROWS = LANES < 8 ? 2 * FTILE : 4 * FTILE,     // while so many rows go by, FTILE at a time
    GPASS = (TOKENS + GTOKENS - 1) / GTOKENS * GTOKENS,
};

// Vectors v0 .. v1 of tokens, out of x (n, cols); behind the last token stands that one again.
static void turn_tokens(const float *x, int64_t cols, int64_t n, int64_t v0, int64_t v1, float *turned) {
    const int64_t vecs = (n + LANES - 1) / LANES;
    for (int64_t v = v0; v < v1; v++) {
        const int64_t group = v / FVECS * FVECS, wide = least(vecs - group, FVECS) * LANES;
        float *to = turned + group * LANES * cols + (v - group) * LANES;
        const uint8_t *row[LANES], *last[LANES];
        float rest[LANES][4] = {0};
        const int64_t whole = cols / 4 * 4;
        for (int64_t i = 0; i < LANES; i++) {
            const float *token = x + least(v * LANES + i, n - 1) * cols;
            row[i] = (const uint8_t *)token;
            last[i] = (const uint8_t *)rest[i];
            for (int64_t c = whole; c < cols; c++) rest[i][c - whole] = token[c];
        }
        for (int64_t c = 0; c < cols; c += 4) {
            vi four[4];
            if (c < whole) row_groups(four, row, 4 * c);
            else row_groups(four, last, 0);
            UNROLL
            for (int j = 0; j < 4; j++)
                if (c + j < cols) store(to + (c + j) * wide, (vf)four[j]);
        }
    }
}

// y[i][0 .. vecs LANES] (+)= w[i] (n) times the columns of `vecs` vectors of tokens, in order. Meanwhile the
// bytes from `ahead` on are fetched, `pace` a column.
INLINE void turned_tile(int vecs, const uint8_t *const *w, const float *x, int64_t n, bool add, float *y,
                        const uint8_t *ahead, int64_t pace) {
    vf acc[FTILE][FVECS] = {0};
    for (int64_t k = 0; k < n; k++) {
        vf xv[FVECS];
        __builtin_prefetch(ahead + k * pace, 0, 2);
        EACH(v, vecs, FVECS) xv[v] = load(x + (k * vecs + v) * LANES);
        UNROLL
        for (int i = 0; i < FTILE; i++) {
            float one;
            memcpy(&one, w[i] + 4 * k, 4);                  // rows of F32 stand at any address
            const vf wv = set1(one);
            EACH(v, vecs, FVECS) acc[i][v] = mul_add(wv, xv[v], acc[i][v]);
        }
    }
    UNROLL
    for (int i = 0; i < FTILE; i++) {
        EACH(v, vecs, FVECS) {
            float *at = y + i * GPASS + v * LANES;
            store(at, add ? load(at) + acc[i][v] : acc[i][v]);
        }
    }
}

typedef void TurnedTile(const uint8_t *const *w, const float *x, int64_t n, bool add, float *y,
                        const uint8_t *ahead, int64_t pace);
#define TURNED_TILE(vecs) \
    static void turned_##vecs(const uint8_t *const *w, const float *x, int64_t n, bool add, float *y, \
                              const uint8_t *ahead, int64_t pace) { \
        turned_tile(vecs < FVECS ? vecs : FVECS, w, x, n, add, y, ahead, pace); \
    }
TURNED_TILE(1)
TURNED_TILE(2)
TURNED_TILE(3)
static TurnedTile *const turned_of[] = {turned_1, turned_2, turned_3};

// y (tokens, rows) = from (GROWS, GPASS), turned.
static void turn_back(const float *from, int64_t rows, int64_t tokens, float *y, int64_t ldy) {
    for (int64_t r = 0; r < rows; r += LANES, from += LANES * GPASS) {
        const int64_t left = least(rows - r, LANES);
        for (int64_t t = 0; t < tokens; t += 4) {
            const uint8_t *row[LANES];
            vi four[4];
            UNROLL
            for (int i = 0; i < LANES; i++) row[i] = (const uint8_t *)(from + i * GPASS + t);
            row_groups(four, row, 0);
            float *at = y + t * ldy + r;
            UNROLL
            for (int j = 0; j < 4; j++) {
                if (left < LANES && t + j < tokens) store_first(at + j * ldy, (vf)four[j], left);
                else if (t + j < tokens) store(at + j * ldy, (vf)four[j]);
            }
        }
    }
}

// to (rows, GCHUNK) = n columns of halves.
static void unpack_rows(int type, const uint8_t *from, int64_t stride, int64_t rows, int64_t n, float *to) {
    for (int64_t i = 0; i < rows; i++, from += stride, to += GCHUNK) {
        if (type == T_F16) unpack_floats(T_F16, from, to, n);
        else unpack_floats(T_BF16, from, to, n);
    }
}

// As dot_rows, with n tokens turned. While they are computed with some rows, the bytes behind these are
// fetched.
static void turned_rows(const Mat *w, int64_t r0, int64_t r1, const float *turned, int64_t n, float *y,
                        int64_t ldy) {
    float sums[GROWS * GPASS] __attribute__((aligned(64)));
    float unpacked[GROWS * GCHUNK] __attribute__((aligned(64)));
    const int64_t cols = w->cols, size = type_info(w->type)->bytes, stride = cols * size;
    const int64_t vecs = (n + LANES - 1) / LANES, groups = (vecs + FVECS - 1) / FVECS;
    if (cols == 0)
        for (int64_t t = 0; t < n; t++) memset(y + t * ldy + r0, 0, (size_t)(r1 - r0) * sizeof *y);
    for (int64_t r = r0; r < r1 && cols; r += GROWS) {
        const int64_t rows = least(r1 - r, GROWS);
        const uint8_t *data = (const uint8_t *)w->data + r * stride, *ahead = data + GROWS * stride;
        const int64_t pace = FTILE * size / groups + 1;          // bytes a column of a tile
        for (int64_t t0 = 0; t0 < n; t0 += GPASS) {
            const int64_t tokens = least(n - t0, GPASS);
            for (int64_t c = 0; c < cols; c += GCHUNK) {
                const int64_t m = least(cols - c, GCHUNK);
                const uint8_t *row[GROWS];
                for (int64_t i = 0; i < GROWS; i++) {
                    const int64_t at = least(i, rows - 1);
                    row[i] = w->type == T_F32 ? data + at * stride + 4 * c
                                              : (const uint8_t *)(unpacked + at * GCHUNK);
                }
                if (w->type != T_F32) unpack_rows(w->type, data + c * size, stride, rows, m, unpacked);
                for (int64_t t = t0; t < t0 + tokens; t += GTOKENS) {
                    const int64_t some = least(vecs - t / LANES, FVECS);
                    const float *group = turned + t * cols + c * some * LANES;
                    for (int64_t i = 0; i < rows; i += FTILE, ahead += m * pace)
                        turned_of[some - 1](row + i, group, m, c > 0, sums + i * GPASS + t - t0, ahead, pace);
                }
            }
            turn_back(sums, rows, tokens, y + t0 * ldy + r, ldy);
        }
    }
}
