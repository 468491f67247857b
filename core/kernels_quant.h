// kernels_quant: rows of Q8_0, Q4_0 and Q4_1 against activations quantised to 16 bits. A part of
// kernels_template.h, which includes it.

// A block of 32 activations as 16-bit integers 256 q + l and their scale, NaN where one of them is no
// number; a block so small that its scale would not be a normal float is 0. q, l, and what they stand for
// together. l keeps to -127 .. 127: AVX2 cannot negate -128.
INLINE float round_block(const float *src, int8_t *q, int8_t *l, vi *both) {
    enum { WHOLE = 127 * 256 };
    const vf magic = set1(12582912.0f);    // 1.5 * 2^23: adding it rounds to an integer
    vi most = set1_i(0);                   // without their signs floats are ordered as their bits are,
    for (int i = 0; i < 32; i += LANES)    // and what is no number comes last
        most = greater_i(most, (vi)load(src + i) & 0x7fffffff);
    const int32_t bits = largest(most);
    const bool finite = bits < 0x7f800000;
    float max;
    memcpy(&max, &bits, sizeof max);
    const vf inverse = set1(finite && max >= WHOLE * FLT_MIN ? WHOLE / max : 0);
    for (int i = 0; i < 32; i += LANES) {
        const vi whole = (vi)mul_add(finite ? load(src + i) : set1(0), inverse, magic) - (vi)magic;
        const vi high = (whole + 128) >> 8, rest = greater_i(whole - high * 256, set1_i(-127));
        vb bytes = __builtin_convertvector(high, vb), low = __builtin_convertvector(rest, vb);
        memcpy(q + i, &bytes, sizeof bytes);
        memcpy(l + i, &low, sizeof low);
        both[i / LANES] = high * 256 + rest;
    }
    return finite ? max / WHOLE : NAN;
}

// A block's 32 numbers for quant_step: words, or 32 q, then 32 l.
INLINE void place_block(const int8_t *q, const int8_t *l, const vi *both, void *to) {
    if (WORDS) {
        place_words(both, to);
    } else {
        memcpy(to, q, 32);
        memcpy((int8_t *)to + 32, l, 32);
    }
}

static void quantise(const float *x, int64_t t0, int64_t t1, int64_t cols, const Act *out) {
    const int64_t blocks = cols / 32;
    for (int64_t b = t0 * blocks; b < t1 * blocks; b++) {
        int8_t q[32], l[32];
        vi both[BLOCK_VECS], sums = set1_i(0);
        const float d = round_block(x + 32 * b, q, l, both);
        for (int i = 0; i < BLOCK_VECS && out->sums; i++) sums += both[i];
        place_block(q, l, both, out->q + 64 * b);
        out->d[b] = d;
        if (out->sums) out->s[b] = d * (float)sum_i(sums);
    }
}

// ---- one token ----------------------------------------------------------------------------------

enum { GROUP = LANES / 4 };

static void quantise_row(const float *x, int64_t cols, const RowAct *out) {
    const RowAct to = *out;
    const int64_t blocks = cols / 32, left = blocks % GROUP;
    const vi ones = set1_i(0x01010101);
    for (int64_t b = 0; b < blocks; b += GROUP) {
        int8_t *const at[2] = {to.q + 32 * b, to.l + 32 * b};
        float d[LANES];
        EACH(j, GROUP, 4) {
            int8_t bytes[2][32] = {{0}};
            vi both[BLOCK_VECS];
            float scale = 0;
            int64_t from = b + j;                      // behind the last block this group's again, or zeros
            if (from >= blocks) from = left == 1 ? blocks - 1 : left == 2 ? from - 2 : blocks;
            if (from < blocks) scale = round_block(x + 32 * from, bytes[0], bytes[1], both);
            for (int i = 0; i < 4; i++)
                memcpy(at[i / 2] + 16 * (i % 2 * GROUP + j), bytes[i / 2] + i % 2 * 16, 16);
            for (int i = 0; i < 4; i++) d[4 * j + i] = scale;
        }
        vi sum[2];                                     // of q, of l: four columns and four, a lane
        UNROLL
        for (int i = 0; i < 2; i++) {
            sum[i] = dot_u(set1_i(0), ones, (vi)load(at[i]));
            sum[i] = dot_u(sum[i], ones, (vi)load(at[i] + 4 * LANES));
        }
        sum[0] = sum[0] * 256 + sum[1];
        store(to.bias + 4 * b, (vf)(sum[0] * -128));
        store(to.d + 4 * b, load(d));
        store(to.s + 4 * b, load(d) * to_float(sum[0]));
    }
}

// acc + what the lanes sum of GROUP blocks against the activations from block b on. Weights are shifted as in
// quant_step.
INLINE vf quant_group(int type, const uint8_t *const block[GROUP], int64_t b, const RowAct *x, vf acc) {
    const vi q[2] = {(vi)load(x->q + 32 * b), (vi)load(x->q + 32 * b + 4 * LANES)};
    const vi l[2] = {(vi)load(x->l + 32 * b), (vi)load(x->l + 32 * b + 4 * LANES)};
    vi w[2], s = set1_i(0), low = set1_i(0);
    if (type == T_Q4_0) low = (vi)load(x->bias + 4 * b) >> 4;
    if (type == T_Q8_0 && Q8_FLIP) low = (vi)load(x->bias + 4 * b);
    vf d, m;
    block_group(type, block, w, &d, &m);
    UNROLL
    for (int i = 0; i < 2; i++) {
        s = type == T_Q8_0 ? dot_s(s, w[i], q[i]) : dot_u(s, w[i], q[i]);
        low = type == T_Q8_0 ? dot_s(low, w[i], l[i]) : dot_u(low, w[i], l[i]);
    }
    acc = mul_add(to_float(s * 256 + low), d * load(x->d + 4 * b), acc);
    return type == T_Q4_1 ? mul_add(m, load(x->s + 4 * b), acc) : acc;
}

// The last blocks of four rows, from block b on, where they fill no group: `left` of each, 1 or 2. Those of
// several rows are one, and are added to the quarters of the rows' sums.
INLINE void quant_ends(int type, int left, const uint8_t *const row[4], const uint8_t *const fetch[4],
                       int64_t b, const RowAct *x, vf *quarter) {
    const int64_t bytes = block_bytes(type);
    const int together = GROUP > left ? GROUP / left : 1;
    vf sum[4];
    EACH(k, 4 / together, 4) {
        const uint8_t *block[GROUP];
        EACH(j, GROUP, 4) block[j] = row[k * together + j / left] + (b + j % left) * bytes;
        EACH(j, together, 4) __builtin_prefetch(fetch[k * together + j] + b * bytes, 0, 3);
        sum[k] = quant_group(type, block, b, x, set1(0));
    }
    if (left == 2) sum[0] = pair_quarters(sum[0], sum[1]);
    EACH(k, 4 / GROUP, 4) quarter[k] += sum[k];
}

// Q8_0 waits for memory and takes one row at a time; the 4-bit types wait for loads, which two rows share.
INLINE void quant_row_of(int type, const Mat *w, int64_t r0, int64_t r1, const RowAct *x, float *y,
                         const Then *then) {
    const int rows = type == T_Q8_0 ? 1 : 2;
    const int64_t bytes = block_bytes(type), blocks = w->cols / 32;
    const int64_t left = blocks % GROUP, whole = blocks - left;
    const int64_t turn = streams > 1 && blocks * bytes > 2 * TURN ? TURN / bytes / GROUP * GROUP : whole;
    const Fours f = fours(w, blocks * bytes, r0, r1, then);
    for (int64_t g = 0; g < f.groups; g++) {
        const uint8_t *row[4], *fetch[4], *block[GROUP];
        int64_t to[4];
        vf acc[4], quarter[4 / GROUP];
        float out[4];
        four_rows(&f, g, to, row, fetch);
        UNROLL
        for (int i = 0; i < 4; i++) acc[i] = set1(0);
        for (int64_t c = 0; c < whole; c += turn) {
            UNROLL
            for (int i = 0; i < 4; i += rows)
                for (int64_t b = c; b < least(c + turn, whole); b += GROUP)
                    EACH(r, rows, 2) {
                        for (int64_t k = 0; k + 16 < GROUP * bytes; k += 64)    // not for the last few bytes
                            __builtin_prefetch(fetch[i + r] + b * bytes + k, 0, 3);
                        EACH(j, GROUP, 4) block[j] = row[i + r] + (b + j) * bytes;
                        acc[i + r] = quant_group(type, block, b, x, acc[i + r]);
                    }
        }
        for (int i = 0; i < 4 && left > 2; i++) {
            EACH(j, GROUP, 4) block[j] = row[i] + least(whole + j, blocks - 1) * bytes;
            acc[i] = quant_group(type, block, whole, x, acc[i]);
        }
        quarters(acc, quarter);
        if (left == 1) quant_ends(type, 1, row, fetch, whole, x, quarter);
        else if (left == 2) quant_ends(type, 2, row, fetch, whole, x, quarter);
        sum_quarters(quarter, out);
        for (int i = 0; i < 4 && to[i] < f.rows; i++) y[to[i]] = out[i];
    }
}

static void quant_row(const Mat *w, int64_t r0, int64_t r1, const RowAct *x, float *y, const Then *then) {
    if (w->type == T_Q8_0) quant_row_of(T_Q8_0, w, r0, r1, x, y, then);
    else if (w->type == T_Q4_0) quant_row_of(T_Q4_0, w, r0, r1, x, y, then);
    else quant_row_of(T_Q4_1, w, r0, r1, x, y, then);
}

// ---- many tokens --------------------------------------------------------------------------------

// One block of LANES rows, turned so that a lane is a row: q[j] holds two columns as words, in the order of
// place_block, or four as bytes, 4 j .. 4 j + 3.
enum { STEPS = WORDS ? 16 : 8 };
typedef struct { vi q[STEPS]; vf d, m; } QBlock;

// Four bytes in each lane: as words, or as they are.
INLINE void place_bytes(vi bytes, vi *q) {
    if (WORDS) q[0] = (vi)((vs)((vs)bytes << 8) >> 8), q[1] = (vi)((vs)bytes >> 8);
    else *q = bytes;
}

INLINE void load_block(int type, QBlock *b, const uint8_t *const *row, int64_t at) {
    enum { PER = STEPS / 8 };                    // vectors for four columns
    const vi eight = set1_i(type != T_Q4_0 ? 0 : WORDS ? 0x00080008 : 0x08080808);
    vi head[4], packed[4];                       // a block begins with d, that of Q4_1 with d, m
    row_groups(head, row, at);
    b->d = halves(head[0]);
    b->m = type == T_Q4_1 ? halves((vi)((vu)head[0] >> 16)) : set1(0);
    if (type == T_Q8_0) {
        UNROLL
        for (int h = 0; h < 2; h++) {
            row_groups(packed, row, at + 2 + 16 * h);
            UNROLL
            for (int j = 0; j < 4; j++) place_bytes(packed[j], b->q + (4 * h + j) * PER);
        }
    } else {
        row_groups(packed, row, at + (type == T_Q4_1 ? 4 : 2));
        UNROLL
        for (int j = 0; j < 4; j++) {
            UNROLL
            for (int h = 0; h < 2; h++) {
                vi *q = b->q + (4 * h + j) * PER, nibbles = (packed[j] >> 4 * h) & 0x0f0f0f0f;
                if (WORDS) {
                    q[0] = (vi)((vs)(nibbles & 0x00ff00ff) - (vs)eight);
                    q[PER - 1] = (vi)((vs)((nibbles >> 8) & 0x00ff00ff) - (vs)eight);
                } else *q = (vi)((vb_all)nibbles - (vb_all)eight);
            }
        }
    }
}

// Where the activations of one token stand.
typedef struct { const int8_t *q; const float *d, *s; } Token;

// acc[t][p] += block b of LANES rows, those of panel p, times block b of each token; with_m: and m times
// the token's sum (Q4_1).
typedef QBlock Panels[QPANELS][QBLOCKS];
INLINE void quant_step(bool with_m, int tokens, Panels w, int64_t i, const Token *x, int64_t b,
                       vf (*acc)[QPANELS]) {
    vi s[QTILE][QPANELS] = {0}, low[QTILE][QPANELS] = {0};
    UNROLL
    for (int j = 0; j < STEPS; j++) {
        EACH(t, tokens, QTILE) {
            const vi xv = set1_i(load_i32(x[t].q + 64 * b + 4 * j));
            const vi xl = WORDS ? xv : set1_i(load_i32(x[t].q + 64 * b + 32 + 4 * j));
            UNROLL
            for (int p = 0; p < QPANELS; p++) {
                const vi wv = w[p][i].q[j];
                if (WORDS) s[t][p] = dot_words(s[t][p], wv, xv);
                else s[t][p] = dot_s(s[t][p], wv, xv), low[t][p] = dot_s(low[t][p], wv, xl);
            }
        }
    }
    EACH(t, tokens, QTILE) {
        UNROLL
        for (int p = 0; p < QPANELS; p++) {
            if (!WORDS) s[t][p] = s[t][p] * 256 + low[t][p];
            acc[t][p] = mul_add(to_float(s[t][p]) * w[p][i].d, set1(x[t].d[b]), acc[t][p]);
            if (with_m) acc[t][p] = mul_add(w[p][i].m, set1(x[t].s[b]), acc[t][p]);
        }
    }
}

// y (tokens, rows <= QPANELS LANES) from the blocks of the panels that stand for blocks b0 .. b0 + n.
// Meanwhile the bytes from `ahead` on are fetched, `pace` a block.
INLINE void quant_tile(bool with_m, int tokens, Panels panel, const Token *x, int64_t b0, int64_t n,
                       int64_t rows, int64_t used, float *y, int64_t ldy, const uint8_t *ahead,
                       int64_t pace) {
    vf acc[QTILE][QPANELS];
    EACH(t, tokens, QTILE) {
        UNROLL
        for (int p = 0; p < QPANELS; p++) {
            const float *at = y + (t < used ? t : 0) * ldy + p * LANES;
            const int64_t left = rows - p * LANES;
            acc[t][p] = b0 == 0 || left <= 0 ? set1(0) : left >= LANES ? load(at) : load_first(at, left);
        }
    }
    for (int64_t b = 0; b < n; b++) {
        for (int64_t k = 0; k < pace; k += 64) __builtin_prefetch(ahead + b * pace + k, 0, 2);
        quant_step(with_m, tokens, panel, b, x, b0 + b, acc);
    }
    EACH(t, tokens, QTILE) {
        UNROLL
        for (int p = 0; p < QPANELS; p++) {
            float *at = y + t * ldy + p * LANES;
            const int64_t left = t < used ? rows - p * LANES : 0;
            if (left >= LANES) store(at, acc[t][p]);
            else if (left > 0) store_first(at, acc[t][p], left);
        }
    }
}

INLINE Token act_token(const Act *x, int64_t t, int64_t blocks) {
    return (Token){x->q + t * blocks * 64, x->d + t * blocks, x->s + t * blocks};
}

typedef void QuantTile(Panels panel, const Token *x, int64_t b0, int64_t n, int64_t rows, int64_t used,
                       float *y, int64_t ldy, const uint8_t *ahead, int64_t pace);
#define QUANT_TILE(name, with_m, tokens) \
    static void name(Panels panel, const Token *x, int64_t b0, int64_t n, int64_t rows, int64_t used, \
                     float *y, int64_t ldy, const uint8_t *ahead, int64_t pace) { \
        quant_tile(with_m, tokens, panel, x, b0, n, rows, used, y, ldy, ahead, pace); \
    }
QUANT_TILE(quant_few, false, 2)
QUANT_TILE(quant_all, false, QTILE)
QUANT_TILE(quant_few_m, true, 2)
QUANT_TILE(quant_all_m, true, QTILE)

// While tokens are computed with some rows, the bytes behind these are fetched.
INLINE void quant_rows_of(int type, QuantTile *few, QuantTile *all, const Mat *w, int64_t r0,
                          int64_t r1, const Act *x, int64_t n, float *y, int64_t ldy) {
    const int64_t blocks = w->cols / 32, bytes = block_bytes(type);
    const int64_t pace = (QPANELS * LANES * bytes / ((n + QTILE - 1) / QTILE) + 63) / 64 * 64;
    Panels panel;
    for (int64_t r = r0; r < r1; r += QPANELS * LANES) {
        const int64_t rows = least(r1 - r, QPANELS * LANES);
        const uint8_t *row[QPANELS * LANES];
        for (int64_t i = 0; i < QPANELS * LANES; i++)
            row[i] = (const uint8_t *)w->data + (r + least(i, rows - 1)) * blocks * bytes;
        for (int64_t b = 0; b < blocks; b += QBLOCKS) {
            const int64_t m = least(blocks - b, QBLOCKS);
            for (int p = 0; p < QPANELS; p++)
                for (int64_t i = 0; i < m; i++)
                    load_block(type, &panel[p][i], row + p * LANES, (b + i) * bytes);
            const uint8_t *ahead = row[0] + QPANELS * LANES * (blocks + b) * bytes;
            for (int64_t t = 0; t < n; t += QTILE, ahead += m * pace) {
                const int64_t used = least(n - t, QTILE);
                Token token[QTILE];
                for (int i = 0; i < QTILE; i++)
                    token[i] = act_token(x, t + least(i, used - 1), blocks);
                (used <= 2 ? few : all)(panel, token, b, m, rows, used, y + t * ldy + r, ldy, ahead, pace);
            }
        }
        if (blocks == 0)
            for (int64_t t = 0; t < n; t++) memset(y + t * ldy + r, 0, (size_t)rows * sizeof *y);
    }
}

static void quant_rows(const Mat *w, int64_t r0, int64_t r1, const Act *x, int64_t n, float *y,
                       int64_t ldy) {
    if (w->type == T_Q8_0)
        quant_rows_of(T_Q8_0, quant_few, quant_all, w, r0, r1, x, n, y, ldy);
    else if (w->type == T_Q4_0)
        quant_rows_of(T_Q4_0, quant_few, quant_all, w, r0, r1, x, n, y, ldy);
    else
        quant_rows_of(T_Q4_1, quant_few_m, quant_all_m, w, r0, r1, x, n, y, ldy);
}
