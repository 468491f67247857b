// kernels_quant: rows of Q8_0, Q4_0 and Q4_1 against activations quantised to 16 bits. A part of
// kernels_template.h, which includes it.

// A block of 32 activations as 16-bit integers 256 q + l and their scale, NaN where one of them is no
// number. q, l, and what they stand for together.
INLINE float round_block(const float *src, int8_t *q, int8_t *l, vi *both) {
    const vf magic = set1(12582912.0f);    // 1.5 * 2^23: adding it rounds to an integer
    vf most = set1(0), bad = set1(0);
    for (int i = 0; i < 32; i += LANES) {
        vf v = load(src + i);
        most = greater(most, (vf)((vi)v & 0x7fffffff));
        bad += v * 0;                      // NaN once there is a NaN or an infinity
    }
    float max = 0;
    for (int i = 0; i < LANES; i++) max = most[i] > max ? most[i] : max;
    const float nan = sum(bad);
    const vf inverse = set1(max > 0 && nan == 0 ? 127 / max : 0);
    for (int i = 0; i < 32; i += LANES) {
        vf scaled = (nan == 0 ? load(src + i) : set1(0)) * inverse;
        vi high = (vi)(scaled + magic) - (vi)magic;
        vi rest = (vi)mul_add(scaled - to_float(high), set1(256), magic) - (vi)magic;
        rest += rest == 128;               // a comparison gives -1 where it is true, so this
        rest -= rest == -128;              // keeps to -127 .. 127: AVX2 cannot negate -128
        vb bytes = __builtin_convertvector(high, vb), low = __builtin_convertvector(rest, vb);
        memcpy(q + i, &bytes, sizeof bytes);
        memcpy(l + i, &low, sizeof low);
        both[i / LANES] = high * 256 + rest;
    }
    return nan == 0 ? max / 127 / 256 : NAN;
}

static void quantise(const float *x, int64_t t0, int64_t t1, int64_t cols, const Act *out) {
    const int64_t blocks = cols / 32;
    for (int64_t b = t0 * blocks; b < t1 * blocks; b++) {
        vi both[BLOCK_VECS], sums = set1_i(0);
        const float d = round_block(x + 32 * b, out->q + 64 * b, out->q + 64 * b + 32, both);
        int32_t total = 0;
        for (int i = 0; i < BLOCK_VECS; i++) sums += both[i];
        for (int i = 0; i < LANES; i++) total += sums[i];
        out->d[b] = d;
        out->s[b] = d * (float)total;
        out->bias4[b] = -8 * total;
        out->bias8[b] = -128 * total;
    }
}

// ---- one token ----------------------------------------------------------------------------------

enum { GROUP = LANES / 4 };

static void quantise_row(const float *x, int64_t cols, const RowAct *out) {
    const int64_t blocks = cols / 32;
    for (int64_t b = 0; b < (blocks + GROUP - 1) / GROUP * GROUP; b++) {
        int8_t q[32] = {0}, l[32] = {0};
        int32_t each[32] = {0};
        vi both[BLOCK_VECS];
        float d = 0;
        if (b < blocks) {
            d = round_block(x + 32 * b, q, l, both);
            memcpy(each, both, sizeof each);
        }
        const int64_t at = b / GROUP * GROUP * 32 + b % GROUP * 16;
        for (int half = 0; half < 2; half++) {
            memcpy(out->q + at + 16 * GROUP * half, q + 16 * half, 16);
            memcpy(out->l + at + 16 * GROUP * half, l + 16 * half, 16);
        }
        for (int i = 0; i < 4; i++) {
            int32_t sum = 0;
            for (int k = 4 * i; k < 4 * i + 4; k++) sum += each[k] + each[16 + k];
            out->bias[4 * b + i] = -128 * sum;
            out->d[4 * b + i] = d;
            out->s[4 * b + i] = d * (float)sum;
        }
    }
}

// acc[i] = what the lanes sum of the row at p[i]. Weights are shifted as in quant_step. Q8_0 waits for
// memory, which likes one row better; the 4-bit types wait for loads, which two rows share.
INLINE void quant_sums(int type, int rows, const uint8_t *const *p, int64_t blocks, const RowAct *x,
                       vf *acc) {
    const int64_t bytes = block_bytes(type);
    EACH(r, rows, 2) acc[r] = set1(0);
    for (int64_t b = 0; b < blocks; b += GROUP) {
        const vi q[2] = {(vi)load(x->q + 32 * b), (vi)load(x->q + 32 * b + 4 * LANES)};
        const vi l[2] = {(vi)load(x->l + 32 * b), (vi)load(x->l + 32 * b + 4 * LANES)};
        const vi bias = type == T_Q4_0 ? (vi)load(x->bias + 4 * b) >> 4
                      : type == T_Q8_0 && Q8_FLIP ? (vi)load(x->bias + 4 * b) : set1_i(0);
        const vf dx = load(x->d + 4 * b);
        EACH(r, rows, 2) {
            vi w[2];
            vf d, m;
            for (int64_t k = 0; k < GROUP * bytes; k += 64)
                __builtin_prefetch(p[r] + b * bytes + k + AHEAD, 0, 2);
            if (b + GROUP <= blocks) row_group(type, p[r] + b * bytes, bytes, GROUP, w, &d, &m);
            else row_group(type, p[r] + b * bytes, bytes, blocks - b, w, &d, &m);
            vi s = set1_i(0), low = bias;
            UNROLL
            for (int i = 0; i < 2; i++) {
                s = type == T_Q8_0 ? dot_s(s, w[i], q[i]) : dot_u(s, w[i], q[i]);
                low = type == T_Q8_0 ? dot_s(low, w[i], l[i]) : dot_u(low, w[i], l[i]);
            }
            acc[r] = mul_add(to_float(s * 256 + low), d * dx, acc[r]);
            if (type == T_Q4_1) acc[r] = mul_add(m, load(x->s + 4 * b), acc[r]);
        }
    }
}

INLINE void quant_row_of(int type, const Mat *w, int64_t r0, int64_t r1, const RowAct *x, float *y) {
    const int rows = type == T_Q8_0 ? 1 : 2;
    const int64_t blocks = w->cols / 32, bytes = block_bytes(type);
    for (int64_t r = r0; r < r1; r += 4) {
        const uint8_t *row[4];
        vf acc[4];
        float out[4];
        UNROLL
        for (int i = 0; i < 4; i++)
            row[i] = (const uint8_t *)w->data + least(r + i, r1 - 1) * blocks * bytes;
        UNROLL
        for (int i = 0; i < 4; i += rows) quant_sums(type, rows, row + i, blocks, x, acc + i);
        sum4(acc[0], acc[1], acc[2], acc[3], out);
        memcpy(y + r, out, (size_t)least(r1 - r, 4) * sizeof *y);
    }
}

static void quant_row(const Mat *w, int64_t r0, int64_t r1, const RowAct *x, float *y) {
    if (w->type == T_Q8_0) quant_row_of(T_Q8_0, w, r0, r1, x, y);
    else if (w->type == T_Q4_0) quant_row_of(T_Q4_0, w, r0, r1, x, y);
    else quant_row_of(T_Q4_1, w, r0, r1, x, y);
}

// ---- many tokens --------------------------------------------------------------------------------

// One block of LANES rows, turned so that a lane is a row: q[j] holds columns 4 j .. 4 j + 3.
typedef struct { vi q[8]; vf d, m; } QBlock;

INLINE void load_block(int type, QBlock *b, const uint8_t *const *row, int64_t at) {
    vi head[4];                                  // a block begins with d, that of Q4_1 with d, m
    row_groups(head, row, at);
    b->d = halves(head[0]);
    b->m = type == T_Q4_1 ? halves((vi)((vu)head[0] >> 16)) : set1(0);
    if (type == T_Q8_0) {
        row_groups(b->q, row, at + 2);
        row_groups(b->q + 4, row, at + 18);
        UNROLL
        for (int j = 0; j < 8; j++)
            if (Q8_FLIP) b->q[j] ^= (int32_t)0x80808080;       // w + 128, unsigned
    } else {
        vi packed[4];
        row_groups(packed, row, at + (type == T_Q4_1 ? 4 : 2));
        UNROLL
        for (int j = 0; j < 4; j++) {
            b->q[j] = packed[j] & 0x0f0f0f0f;
            b->q[4 + j] = (packed[j] >> 4) & 0x0f0f0f0f;
        }
    }
}

// Where the activations of one token stand.
typedef struct { const int8_t *q; const float *d, *s; const int32_t *bias; } Token;

// acc[t] += block b of LANES rows times block b of each token. The weights are stored shifted
// (Q4_0: w + 8; Q8_0 on AVX-512: w + 128) and the sum starts from the bias that takes it back.
INLINE void quant_step(int type, int tokens, const QBlock *w, const Token *x, int64_t b, vf *acc) {
    vi s[QTILE], low[QTILE];
    EACH(t, tokens, QTILE) {
        s[t] = set1_i(0);
        low[t] = type == T_Q4_0 || (type == T_Q8_0 && Q8_FLIP) ? set1_i(x[t].bias[b]) : set1_i(0);
    }
    UNROLL
    for (int j = 0; j < 8; j++) {
        EACH(t, tokens, QTILE) {
            vi xv = set1_i(load_i32(x[t].q + 64 * b + 4 * j));
            vi xl = set1_i(load_i32(x[t].q + 64 * b + 32 + 4 * j));
            s[t] = type == T_Q8_0 ? dot_s(s[t], w->q[j], xv) : dot_u(s[t], w->q[j], xv);
            low[t] = type == T_Q8_0 ? dot_s(low[t], w->q[j], xl) : dot_u(low[t], w->q[j], xl);
        }
    }
    EACH(t, tokens, QTILE) {
        s[t] = s[t] * 256 + low[t];
        acc[t] = mul_add(to_float(s[t]) * w->d, set1(x[t].d[b]), acc[t]);
        if (type == T_Q4_1) acc[t] = mul_add(w->m, set1(x[t].s[b]), acc[t]);
    }
}

// y (tokens, rows <= LANES) from the blocks of a panel that stand for blocks b0 .. b0 + n.
INLINE void quant_tile(int type, int tokens, const QBlock *panel, const Token *x, int64_t b0,
                       int64_t n, int64_t rows, int64_t used, float *y, int64_t ldy) {
    vf acc[QTILE];
    EACH(t, tokens, QTILE)
        acc[t] = b0 == 0 ? set1(0)
               : rows == LANES ? load(y + (t < used ? t : 0) * ldy)
               : load_first(y + (t < used ? t : 0) * ldy, rows);
    for (int64_t b = 0; b < n; b++) quant_step(type, tokens, panel + b, x, b0 + b, acc);
    EACH(t, tokens, QTILE)
        if (t < used) {
            if (rows == LANES) store(y + t * ldy, acc[t]);
            else store_first(y + t * ldy, acc[t], rows);
        }
}

INLINE Token act_token(int type, const Act *x, int64_t t, int64_t blocks) {
    return (Token){x->q + t * blocks * 64, x->d + t * blocks, x->s + t * blocks,
                   (type == T_Q8_0 ? x->bias8 : x->bias4) + t * blocks};
}

typedef void QuantTile(const QBlock *panel, const Token *x, int64_t b0, int64_t n, int64_t rows,
                       int64_t used, float *y, int64_t ldy);
#define QUANT_TILE(name, type, tokens) \
    static void name(const QBlock *panel, const Token *x, int64_t b0, int64_t n, int64_t rows, \
                     int64_t used, float *y, int64_t ldy) { \
        quant_tile(type, tokens, panel, x, b0, n, rows, used, y, ldy); \
    }
QUANT_TILE(quant_q8_0_2, T_Q8_0, 2)
QUANT_TILE(quant_q8_0_all, T_Q8_0, QTILE)
QUANT_TILE(quant_q4_0_2, T_Q4_0, 2)
QUANT_TILE(quant_q4_0_all, T_Q4_0, QTILE)
QUANT_TILE(quant_q4_1_2, T_Q4_1, 2)
QUANT_TILE(quant_q4_1_all, T_Q4_1, QTILE)

INLINE void quant_rows_of(int type, QuantTile *few, QuantTile *all, const Mat *w, int64_t r0,
                          int64_t r1, const Act *x, int64_t n, float *y, int64_t ldy) {
    const int64_t blocks = w->cols / 32, bytes = block_bytes(type);
    const uint8_t *row[LANES];
    QBlock panel[QBLOCKS];
    for (int64_t r = r0; r < r1; r += LANES) {
        const int64_t rows = least(r1 - r, LANES);
        for (int64_t i = 0; i < LANES; i++)
            row[i] = (const uint8_t *)w->data + (r + least(i, rows - 1)) * blocks * bytes;
        for (int64_t b = 0; b < blocks; b += QBLOCKS) {
            const int64_t m = least(blocks - b, QBLOCKS);
            for (int64_t i = 0; i < m; i++) load_block(type, panel + i, row, (b + i) * bytes);
            for (int64_t t = 0; t < n; t += QTILE) {
                const int64_t used = least(n - t, QTILE);
                Token token[QTILE];
                for (int i = 0; i < QTILE; i++)
                    token[i] = act_token(type, x, t + least(i, used - 1), blocks);
                (used <= 2 ? few : all)(panel, token, b, m, rows, used, y + t * ldy + r, ldy);
            }
        }
        if (blocks == 0)
            for (int64_t t = 0; t < n; t++) memset(y + t * ldy + r, 0, (size_t)rows * sizeof *y);
    }
}

static void quant_rows(const Mat *w, int64_t r0, int64_t r1, const Act *x, int64_t n, float *y,
                       int64_t ldy) {
    if (w->type == T_Q8_0)
        quant_rows_of(T_Q8_0, quant_q8_0_2, quant_q8_0_all, w, r0, r1, x, n, y, ldy);
    else if (w->type == T_Q4_0)
        quant_rows_of(T_Q4_0, quant_q4_0_2, quant_q4_0_all, w, r0, r1, x, n, y, ldy);
    else
        quant_rows_of(T_Q4_1, quant_q4_1_2, quant_q4_1_all, w, r0, r1, x, n, y, ldy);
}
