// kernels_attend: queries against a block of a cache: scores, softmax, weighted sums. A part of
// kernels_template.h, which includes it. Weights are read once and wait for memory; a block of a cache
// is read once for all rows (queries times heads), of which a decode step has one to eight and a prompt
// dozens.
//
// Keys lie in tiles of KEY_TILE positions (kernels.h), a lane is a position: no sum crosses lanes. Keys
// in rows, as latents are, are turned first. Of values a lane is a column.
// The order of a sum: scores over the columns in order, of Q8_0 within a block first; weighted sums over
// the positions in order. Both go on from what is there, so that no split of rows or columns shows.

// AROWS rows go through the registers together, each with AVECS vectors of sums. Up to DIRECT rows read
// the cache as it is stored; for more it is unpacked once.
#if defined(ISA_AVX512) || defined(ISA_NEON)
enum { AROWS = 6, DIRECT = 2 * AROWS };
#elif defined(ISA_AVX2)
enum { AROWS = 3, DIRECT = 2 * AROWS };
#else
enum { AROWS = 2, DIRECT = AROWS };
#endif
enum {
    AVECS = 4, AWIDTH = AVECS * LANES,   // scores of a row, or columns of a sum, at a time
    KEY_COLS = 128,                      // columns of keys unpacked at a time: at most 32 kB
    VALUE_ROWS = 64, VALUE_COLS = 64,    // of values: 16 kB
};

// Rows go in tiles of equal size as far as they can.
INLINE int64_t rows_a_tile(int64_t rows) {
    const int64_t tiles = (rows + AROWS - 1) / AROWS;
    return (rows + tiles - 1) / tiles;
}

// What rows r .. r + n see together, of from .. to.
INLINE RowSpan seen_by(const RowSpan *seen, int64_t n, int64_t from, int64_t to) {
    int64_t first = to, last = from;
    for (int64_t r = 0; r < n; r++) {
        if (seen[r].from >= seen[r].to) continue;
        if (seen[r].from < first) first = seen[r].from;
        if (seen[r].to > last) last = seen[r].to;
    }
    return (RowSpan){(int32_t)(first > from ? first : from), (int32_t)least(last, to)};
}

// ---- scores -------------------------------------------------------------------------------------

// s[r][0 .. AWIDTH] (+)= q[r] . keys of as many positions; vector v is at lane (v LANES) mod KEY_TILE of
// tile (v LANES) / KEY_TILE. Of Q8_0 a tile holds blocks of 32 columns: the positions' scales, then
// (32, KEY_TILE) bytes, or INTS: these as floats in `tile`, the scales still in `stored`. Meanwhile the
// bytes from `ahead` on, if any, are fetched at the pace of the tiles.
enum { INTS = -1 };
INLINE void score_tile(int type, int rows, const uint8_t *const *tile, const uint8_t *const *stored,
                       int64_t cols, const float *q, int64_t ldq, bool add, float *s, int64_t lds,
                       const uint8_t *ahead) {
    const bool scaled = type == T_Q8_0 || type == INTS;
    const int64_t step = AWIDTH * (type == T_F16 ? 2 : type == T_Q8_0 ? 1 : 4), wide = scaled ? 32 : cols;
    vf acc[AROWS][AVECS];
    EACH(r, rows, AROWS) {
        EACH(v, AVECS, AVECS) acc[r][v] = add ? load(s + r * lds + v * LANES) : set1(0);
    }
    for (int64_t c0 = 0; c0 < cols; c0 += wide) {
        const int64_t block = c0 / 32 * KEY_TILE * 34;
        vf part[AROWS][AVECS] = {0};
        for (int64_t c = c0; c < c0 + wide; c++) {
            vf x[AROWS];                         // rows first: AVX2 has registers for them and one of keys
            EACH(r, rows, AROWS) x[r] = set1(q[r * ldq + c]);
            for (int64_t i = 0; i < step && ahead; i += 64) __builtin_prefetch(ahead + c * step + i, 0, 2);
            EACH(v, AVECS, AVECS) {
                const uint8_t *t = tile[v * LANES / KEY_TILE];
                const int64_t lane = v * LANES % KEY_TILE;
                vf k;
                if (type == T_Q8_0)
                    k = to_float(widen(*(const vb_mem *)(t + block + (2 + c - c0) * KEY_TILE + lane)));
                else k = load_as(type == INTS ? T_F32 : type, t, c * KEY_TILE + lane);
                EACH(r, rows, AROWS) {
                    if (scaled) part[r][v] = mul_add(k, x[r], part[r][v]);
                    else acc[r][v] = mul_add(k, x[r], acc[r][v]);
                }
            }
        }
        EACH(v, AVECS, AVECS) {
            if (!scaled) continue;
            const vf d = load_f16(stored[v * LANES / KEY_TILE] + block + v * LANES % KEY_TILE * 2);
            EACH(r, rows, AROWS) acc[r][v] = mul_add(part[r][v], d, acc[r][v]);
        }
    }
    EACH(r, rows, AROWS) {
        EACH(v, AVECS, AVECS) store(s + r * lds + v * LANES, acc[r][v]);
    }
}

typedef void ScoreTile(const uint8_t *const *tile, const uint8_t *const *stored, int64_t cols,
                       const float *q, int64_t ldq, bool add, float *s, int64_t lds, const uint8_t *ahead);
#define SCORE_TILE(name, type, rows) \
    static void name(const uint8_t *const *tile, const uint8_t *const *stored, int64_t cols, \
                     const float *q, int64_t ldq, bool add, float *s, int64_t lds, const uint8_t *ahead) { \
        score_tile(type, rows < AROWS ? rows : AROWS, tile, stored, cols, q, ldq, add, s, lds, ahead); \
    }
#define SCORE_TILES(name, type) \
    SCORE_TILE(name##_1, type, 1) SCORE_TILE(name##_2, type, 2) SCORE_TILE(name##_3, type, 3) \
    SCORE_TILE(name##_4, type, 4) SCORE_TILE(name##_5, type, 5) SCORE_TILE(name##_6, type, 6) \
    static ScoreTile *const name[] = {name##_1, name##_2, name##_3, name##_4, name##_5, name##_6};
SCORE_TILES(score_f32, T_F32)
SCORE_TILES(score_f16, T_F16)
SCORE_TILES(score_q8_0, T_Q8_0)
SCORE_TILES(score_ints, INTS)

// Columns c .. c + n of a tile as floats, those of Q8_0 without their scales.
static void unpack_tile(int type, const uint8_t *tile, int64_t c, int64_t n, float *dst) {
    if (type != T_Q8_0) {
        unpack_floats(type, tile + c * KEY_TILE * (type == T_F16 ? 2 : 4), dst, n * KEY_TILE);
        return;
    }
    for (const uint8_t *block = tile + c / 32 * KEY_TILE * 34; n > 0; n -= 32, block += KEY_TILE * 34)
        for (int64_t i = 0; i < 32 * KEY_TILE; i += LANES, dst += LANES)
            store(dst, to_float(widen(*(const vb_mem *)(block + 2 * KEY_TILE + i))));
}

// LANES rows, a column a vector: columns c .. c + n to dst, dst + KEY_TILE ...; of Q8_0 both are multiples of
// 32, of f16 n is one of 8.
INLINE void turn_f16(const uint8_t *const *row, int64_t c, int64_t n, float *dst) {
    for (int64_t i = 0; i < n; i += 8, dst += 8 * KEY_TILE) {
        vi pairs[4];
        row_groups(pairs, row, 2 * (c + i));
        UNROLL
        for (int k = 0; k < 4; k++) {
            store(dst + 2 * k * KEY_TILE, halves(pairs[k]));
            store(dst + (2 * k + 1) * KEY_TILE, halves((vi)((vu)pairs[k] >> 16)));
        }
    }
}

INLINE void turn_q8_0(const uint8_t *const *row, int64_t c, int64_t n, float *dst) {
    for (int64_t at = c / 32 * 34; n > 0; n -= 32, at += 34, dst += 32 * KEY_TILE) {
        vi head[4], q[8];
        row_groups(head, row, at);
        row_groups(q, row, at + 2);
        row_groups(q + 4, row, at + 18);
        const vf d = halves(head[0]);
        UNROLL
        for (int i = 0; i < 8; i++) {
            UNROLL
            for (int k = 0; k < 4; k++)
                store(dst + (4 * i + k) * KEY_TILE, d * to_float((vi)((vu)q[i] << (24 - 8 * k)) >> 24));
        }
    }
}

INLINE void turn_f32(const uint8_t *const *row, int64_t c, int64_t n, float *dst) {
    for (int64_t i = 0; i < n; i += 4, dst += 4 * KEY_TILE) {
        vi turned[4];
        row_groups(turned, row, 4 * (c + i));
        UNROLL
        for (int k = 0; k < 4; k++) if (i + k < n) store(dst + k * KEY_TILE, (vf)turned[k]);
    }
}

// Columns c .. c + n of rows p .. p + KEY_TILE of a matrix as a tile of floats; beyond its last row that
// one again.
static void turn_tile(const Mat *m, int64_t p, int64_t c, int64_t n, float *dst) {
    const TypeInfo *type = type_info(m->type);
    const int64_t stride = m->cols / type->block * type->bytes;
    float room[LANES][KEY_COLS] __attribute__((aligned(64)));
    for (int64_t first = 0; first < KEY_TILE; first += LANES, dst += LANES) {
        const uint8_t *row[LANES];
        for (int64_t l = 0; l < LANES; l++)
            row[l] = (const uint8_t *)m->data + least(p + first + l, m->rows - 1) * stride;
        if (m->type == T_Q8_0) turn_q8_0(row, c, n, dst);
        else if (m->type == T_F16 && n % 8 == 0) turn_f16(row, c, n, dst);
        else if (m->type == T_F32 && n % 4 == 0) turn_f32(row, c, n, dst);
        else {                                       // no byte beyond a row is touched
            for (int64_t l = 0; l < LANES; l++) {
                unpack(m->type, row[l], c, room[l], n);
                for (int64_t i = n; i % 4; i++) room[l][i] = 0;
                row[l] = (const uint8_t *)room[l];
            }
            turn_f32(row, 0, n, dst);
        }
    }
}

static void key_scores_(const Mat *k, bool tiled, const float *q, int64_t ldq, int64_t rows,
                        const RowSpan *seen, bool add, float *s, int64_t lds, const void *ahead) {
    enum { TILES = AWIDTH / KEY_TILE };
    const int64_t cols = k->cols, each = rows_a_tile(rows), tiles = (k->rows + KEY_TILE - 1) / KEY_TILE;
    const int64_t size = KEY_TILE * cols / type_info(k->type)->block * type_info(k->type)->bytes;
    const bool direct = tiled && (k->type == T_F32 || rows <= DIRECT);
    ScoreTile *const *of = direct && k->type == T_F16 ? score_f16 : k->type != T_Q8_0 || !tiled ? score_f32
                         : direct ? score_q8_0 : score_ints;
    const uint8_t *tile[TILES], *stored[TILES];
    float panel[TILES][KEY_COLS * KEY_TILE] __attribute__((aligned(64)));
    for (int64_t p = 0; p < k->rows; p += AWIDTH)
        for (int64_t c = 0, n = 1; n > 0 && (c < cols || c == 0); c += n) {
            n = direct ? cols : least(cols - c, KEY_COLS);
            for (int64_t i = 0; i < TILES; i++) {
                const int64_t at = least(p / KEY_TILE + i, tiles - 1);
                tile[i] = stored[i] = (const uint8_t *)k->data + at * size;
                if (direct) continue;
                if (tiled) unpack_tile(k->type, tile[i], c, n, panel[i]);
                else turn_tile(k, at * KEY_TILE, c, n, panel[i]);
                tile[i] = (const uint8_t *)panel[i];
                stored[i] += c / 32 * KEY_TILE * 34;
            }
            for (int64_t r = 0; r < rows; r += each) {
                const int64_t m = least(rows - r, each);
                const RowSpan span = seen_by(seen + r, m, p, p + AWIDTH);
                const bool fetch = ahead && direct && r == 0;
                const uint8_t *then = fetch ? (const uint8_t *)ahead + p / KEY_TILE * size : NULL;
                if (span.from < span.to)
                    of[m - 1](tile, stored, n, q + r * ldq + c, ldq, add || c > 0, s + r * lds + p, lds,
                              then);
            }
        }
}

// ---- weighted sums ------------------------------------------------------------------------------

// y[r] += sum of w[r][p] v[p] over n positions, in `vecs` vectors of columns, or in `last` < LANES
// columns. v stands `stride` bytes apart; of Q8_0 `scale` is where the first column's block begins.
INLINE void sum_tile(int type, int rows, int vecs, int64_t last, const uint8_t *v, const uint8_t *scale,
                     int64_t stride, int64_t n, const float *w, int64_t ldw, float *y, int64_t ldy,
                     const uint8_t *ahead) {
    const int64_t step = vecs * LANES * (type == T_F32 ? 4 : type == T_F16 ? 2 : 1);
    vf acc[AROWS][AVECS];
    EACH(r, rows, AROWS) {
        EACH(i, vecs, AVECS)
            acc[r][i] = last ? load_first(y + r * ldy, last) : load(y + r * ldy + i * LANES);
    }
    for (int64_t p = 0; p < n; p++, v += stride, scale += stride) {
        vf by[AROWS], d = set1(0);
        EACH(r, rows, AROWS) by[r] = set1(w[r * ldw + p]);
        for (int64_t i = 0; i < step && ahead; i += 64) __builtin_prefetch(ahead + p * step + i, 0, 2);
        EACH(i, vecs, AVECS) {
            const int64_t at = i * LANES;
            vf x;
            if (type == T_Q8_0) {
                if (at % 32 == 0) d = set1(half(scale + at / 32 * 34));
                x = d * to_float(widen(*(const vb_mem *)(v + at / 32 * 34 + at % 32)));
            } else x = last ? load_first_as(type, v, 0, last) : load_as(type, v, at);
            EACH(r, rows, AROWS) acc[r][i] = mul_add(by[r], x, acc[r][i]);
        }
    }
    EACH(r, rows, AROWS) {
        EACH(i, vecs, AVECS) {
            if (last) store_first(y + r * ldy, acc[r][i], last);
            else store(y + r * ldy + i * LANES, acc[r][i]);
        }
    }
}

typedef void SumTile(const uint8_t *v, const uint8_t *scale, int64_t stride, int64_t n, const float *w,
                     int64_t ldw, float *y, int64_t ldy, int64_t last, const uint8_t *ahead);
#define SUM_TILE(name, type, rows, vecs, rest) \
    static void name(const uint8_t *v, const uint8_t *scale, int64_t stride, int64_t n, const float *w, \
                     int64_t ldw, float *y, int64_t ldy, int64_t last, const uint8_t *ahead) { \
        (void)last; \
        sum_tile(type, rows < AROWS ? rows : AROWS, vecs, rest, v, scale, stride, n, w, ldw, y, ldy, ahead); \
    }
#define SUM_TILES(name, type, vecs, rest) \
    SUM_TILE(name##_1, type, 1, vecs, rest) SUM_TILE(name##_2, type, 2, vecs, rest) \
    SUM_TILE(name##_3, type, 3, vecs, rest) SUM_TILE(name##_4, type, 4, vecs, rest) \
    SUM_TILE(name##_5, type, 5, vecs, rest) SUM_TILE(name##_6, type, 6, vecs, rest) \
    static SumTile *const name[] = {name##_1, name##_2, name##_3, name##_4, name##_5, name##_6};
SUM_TILES(sum_f32, T_F32, AVECS, 0)
SUM_TILES(sum_f16, T_F16, AVECS, 0)
SUM_TILES(sum_q8_0, T_Q8_0, AVECS, 0)
SUM_TILES(sum_one_f32, T_F32, 1, 0)
SUM_TILES(sum_one_f16, T_F16, 1, 0)
SUM_TILES(sum_one_q8_0, T_Q8_0, 1, 0)
SUM_TILES(sum_last_f32, T_F32, 1, last)
SUM_TILES(sum_last_f16, T_F16, 1, last)

static void value_sums_(const Mat *v, const float *w, int64_t ldw, int64_t rows, const RowSpan *seen,
                        float *y, int64_t ldy, const void *ahead) {
    static SumTile *const *const tiles[3][3] = {{sum_f32, sum_one_f32, sum_last_f32},
                                                {sum_f16, sum_one_f16, sum_last_f16},
                                                {sum_q8_0, sum_one_q8_0, NULL}};
    const TypeInfo *info = type_info(v->type);
    const int64_t each = rows_a_tile(rows), stride = v->cols / info->block * info->bytes;
    const bool direct = v->type == T_F32 || rows <= DIRECT;
    const int type = direct ? v->type : T_F32;
    const int64_t depth = rows <= DIRECT ? v->rows : VALUE_ROWS;
    float panel[VALUE_ROWS * VALUE_COLS] __attribute__((aligned(64)));
    for (int64_t c0 = 0; c0 < v->cols; c0 += VALUE_COLS)
        for (int64_t p0 = 0; p0 < v->rows; p0 += depth) {
            const int64_t cols = least(v->cols - c0, VALUE_COLS), n = least(v->rows - p0, depth);
            const uint8_t *from = (const uint8_t *)v->data + p0 * stride;
            for (int64_t p = 0; p < n && !direct; p++)
                unpack(v->type, from + p * stride, c0, panel + p * VALUE_COLS, cols);
            for (int64_t r = 0; r < rows; r += each) {
                const int64_t m = least(rows - r, each);
                const RowSpan span = seen_by(seen + r, m, p0, p0 + n);
                for (int64_t c = 0, width; c < cols && span.from < span.to; c += width) {
                    const int64_t left = cols - c, at = c0 + c;
                    const int wide = left >= AWIDTH ? 0 : left >= LANES ? 1 : 2;
                    const int64_t step = direct ? stride : 4 * VALUE_COLS;
                    const uint8_t *x = (const uint8_t *)panel + 4 * c, *scale = x;
                    width = wide == 0 ? AWIDTH : wide == 1 ? LANES : left;
                    if (direct) {
                        scale = from + at / info->block * info->bytes;
                        x = type == T_Q8_0 ? scale + 2 + at % 32 : scale;
                    }
                    x += (span.from - p0) * step, scale += (span.from - p0) * step;
                    tiles[type == T_F32 ? 0 : type == T_F16 ? 1 : 2][wide][m - 1](
                        x, scale, step, span.to - span.from, w + r * ldw + span.from, ldw,
                        y + r * ldy + at, ldy, left,
                        ahead && r == 0 ? (const uint8_t *)ahead + at / info->block * info->bytes * v->rows
                                        : NULL);
                }
            }
        }
}

// ---- softmax ------------------------------------------------------------------------------------

// exp of numbers not above 0, by the series of exp_v one term shorter: the rest is below 1.2e-7. Below
// e^-87 it stays e^-87, beside a largest weight of 1.
INLINE vf exp_below(vf x) {
    x = greater(set1(-87.0f), x);                // NaN stays
    const vf magic = set1(12582912.0f), shifted = mul_add(x, set1(1.44269504f), magic), k = shifted - magic;
    vf r = mul_add(k, set1(-0.693359375f), x);
    r = mul_add(k, set1(2.12194440e-4f), r);
    vf p = set1(1.0f / 720);
    p = mul_add(p, r, set1(1.0f / 120));
    p = mul_add(p, r, set1(1.0f / 24));
    p = mul_add(p, r, set1(1.0f / 6));
    p = mul_add(p, r, set1(0.5f));
    p = mul_add(p, r, set1(1.0f));
    p = mul_add(p, r, set1(1.0f));
    return (vf)((vu)p + ((vu)shifted << 23));    // k is in the lowest bits
}

// x, of positions i .. i + LANES, with `other` where they are not seen.
INLINE vf where_seen(vf x, int64_t i, RowSpan seen, float other) {
    static const int32_t count[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const vi at = (vi)load(count) + (int32_t)i, in = (at >= seen.from) & (at < seen.to);
    return (vf)(((vi)x & in) | ((vi)set1(other) & ~in));
}

INLINE float greatest(vf x) {
    float a[LANES];
    store(a, x);
    for (int n = LANES / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) a[i] = a[i + n] > a[i] ? a[i + n] : a[i];
    return a[0];
}

static float soften_(float *s, RowSpan seen, int64_t n, float scale, float *max, float *sum_of) {
    const int64_t from = seen.from / LANES * LANES, to = (seen.to + LANES - 1) / LANES * LANES;
    if (from > 0) memset(s, 0, (size_t)from * sizeof *s);
    if (to < n) memset(s + to, 0, (size_t)(n - to) * sizeof *s);
    if (seen.from >= seen.to) return 1;
    vf most = set1(-INFINITY), more = most, acc = set1(0);
    for (int64_t i = from; i < to; i += 2 * LANES) {
        const int64_t k = i + LANES < to ? i + LANES : i;
        vf x = load(s + i), y = load(s + k);
        if (i < seen.from || i + 2 * LANES > seen.to) {
            x = where_seen(x, i, seen, -INFINITY);
            y = where_seen(y, k, seen, -INFINITY);
        }
        most = greater(most, x), more = greater(more, y);
    }
    const float top = scale * greatest(greater(most, more));
    float keep = 1;
    if (!(top <= *max)) {
        if (*max != -INFINITY) keep = expf(*max - top);
        *sum_of *= keep;
        *max = top;
    }
    const vf by = set1(scale), shift = set1(-*max);
    for (int64_t i = from; i < to; i += LANES) {
        vf e = exp_below(mul_add(load(s + i), by, shift));
        if (i < seen.from || i + LANES > seen.to) e = where_seen(e, i, seen, 0);
        store(s + i, e);
        acc += e;
    }
    *sum_of += sum(acc);
    return keep;
}
