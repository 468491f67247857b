// kernels_unpack: stored weights to floats. A part of kernels_template.h, which includes it.

INLINE vf load_as(int type, const uint8_t *p, int64_t i) {
    if (type == T_F16) return load_f16(p + 2 * i);
    if (type == T_BF16) return load_bf16(p + 2 * i);
    return load(p + 4 * i);
}

INLINE vf load_first_as(int type, const uint8_t *p, int64_t i, int64_t n) {
    if (type == T_F16) return load_first_f16(p + 2 * i, n);
    if (type == T_BF16) return load_first_bf16(p + 2 * i, n);
    return load_first(p + 4 * i, n);
}

INLINE void unpack_floats(int type, const uint8_t *src, float *dst, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store(dst + i, load_as(type, src, i));
    if (i < n) store_first(dst + i, load_first_as(type, src, i, n - i), n - i);
}

// One block of Q8_0, Q4_0 or Q4_1 as 32 floats. Of the 4-bit types element i is the low nibble of
// byte i, element 16 + i the high nibble. d and m are its numbers.
enum { BLOCK_VECS = 32 / LANES };
INLINE int64_t block_bytes(int type) { return type == T_Q8_0 ? 34 : type == T_Q4_1 ? 20 : 18; }
INLINE void block_floats(int type, const uint8_t *src, vf d, vf m, vf out[BLOCK_VECS]) {
    if (type == T_Q8_0) {
        EACH(v, BLOCK_VECS, BLOCK_VECS)
            out[v] = d * to_float(widen(*(const vb_mem *)(src + 2 + v * LANES)));
        return;
    }
    EACH(v, BLOCK_VECS / 2, BLOCK_VECS) {
        vi q = widen(*(const vb_mem *)(src + (type == T_Q4_1 ? 4 : 2) + v * LANES));
        vi lo = q & 15, hi = (q >> 4) & 15;
        out[v] = type == T_Q4_1 ? mul_add(to_float(lo), d, m) : d * to_float(lo - 8);
        out[v + BLOCK_VECS / 2] = type == T_Q4_1 ? mul_add(to_float(hi), d, m) : d * to_float(hi - 8);
    }
}

INLINE void unpack_blocks(int type, const uint8_t *src, float *dst, int64_t n) {
    for (; n > 0; n -= 32, src += block_bytes(type), dst += 32) {
        vf block[BLOCK_VECS];
        block_floats(type, src, set1(half(src)), set1(type == T_Q4_1 ? half(src + 2) : 0), block);
        EACH(v, BLOCK_VECS, BLOCK_VECS) store(dst + v * LANES, block[v]);
    }
}

// ---- blocks of 256, and of five bits --------------------------------------------------------------
// LANES integers from weight i of a block on, as quant.c draws them one by one.

INLINE vi bytes_at(const uint8_t *p) { return widen(*(const vb_mem *)p); }
INLINE vi bits_at(const uint8_t *q, int shift, int mask) { return (bytes_at(q) >> shift) & mask; }
INLINE vi two_bits(const uint8_t *q, int i) {
    return bits_at(q + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 3);
}
INLINE vi four_bits(const uint8_t *q, int i) {
    return bits_at(q + i / 64 * 32 + i % 32, i % 64 / 32 * 4, 15);
}
INLINE vi one_bit(const uint8_t *q, int i) { return bits_at(q + i % 32, i / 32, 1); }

INLINE vi integers(int type, const void *block, int i) {
    const Q2_K *q2 = block;
    const Q3_K *q3 = block;
    const Q4_K *q4 = block;
    const Q5_K *q5 = block;
    const Q6_K *q6 = block;
    switch (type) {
    case T_Q2_K: return two_bits(q2->q, i);
    case T_Q3_K: return two_bits(q3->q, i) + one_bit(q3->high, i) * 4 - 4;
    case T_Q4_K: return four_bits(q4->q, i);
    case T_Q5_K: return four_bits(q5->q, i) + one_bit(q5->high, i) * 16;
    default: return bits_at(q6->q + i / 128 * 64 + i % 64, i % 128 / 64 * 4, 15) +
                    two_bits(q6->high, i) * 16 - 32;
    }
}

INLINE void unpack_k(int type, const uint8_t *src, float *dst, int64_t n) {
    float scale[16], min[16];
    for (int64_t bytes = type_info(type)->bytes; n > 0; n -= 256, src += bytes, dst += 256) {
        const uint8_t *d = block_d(type, src);
        block_scales(type, src, half(d), has_minima(type) ? half(d + 2) : 0, scale, min);
        UNROLL
        for (int i = 0; i < 256; i += LANES) {
            const vf q = to_float(integers(type, src, i));
            store(dst + i, mul_add(set1(scale[i / 16]), q, set1(-min[i / 16])));
        }
    }
}

INLINE void unpack_five(int type, const uint8_t *src, float *dst, int64_t n) {
    vi lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (int64_t bytes = type_info(type)->bytes; n > 0; n -= 32, src += bytes, dst += 32) {
        const uint8_t *high = src + (type == T_Q5_1 ? 4 : 2), *low = high + 4;
        const vf d = set1(half(src)), m = type == T_Q5_1 ? set1(half(src + 2)) : -16 * d;
        const vi bits = set1_i(load_i32(high));
        UNROLL
        for (int i = 0; i < 32; i += LANES) {
            const vi q = bits_at(low + i % 16, i / 16 * 4, 15) | ((bits >> (lane + i)) & 1) << 4;
            store(dst + i, mul_add(to_float(q), d, m));
        }
    }
}

// dst (n) = columns c .. c + n of a stored row; c and n are multiples of the type's block.
static void unpack(int type, const uint8_t *row, int64_t c, float *dst, int64_t n) {
    const TypeInfo *t = type_info(type);
    const uint8_t *src = row + c / t->block * t->bytes;
    switch (type) {
    case T_F32: unpack_floats(T_F32, src, dst, n); break;
    case T_F16: unpack_floats(T_F16, src, dst, n); break;
    case T_BF16: unpack_floats(T_BF16, src, dst, n); break;
    case T_Q8_0: unpack_blocks(T_Q8_0, src, dst, n); break;
    case T_Q4_0: unpack_blocks(T_Q4_0, src, dst, n); break;
    case T_Q4_1: unpack_blocks(T_Q4_1, src, dst, n); break;
    case T_Q5_0: unpack_five(T_Q5_0, src, dst, n); break;
    case T_Q5_1: unpack_five(T_Q5_1, src, dst, n); break;
    case T_Q2_K: unpack_k(T_Q2_K, src, dst, n); break;
    case T_Q3_K: unpack_k(T_Q3_K, src, dst, n); break;
    case T_Q4_K: unpack_k(T_Q4_K, src, dst, n); break;
    case T_Q5_K: unpack_k(T_Q5_K, src, dst, n); break;
    case T_Q6_K: unpack_k(T_Q6_K, src, dst, n); break;
    default: dequantize_row(type, src, dst, n);
    }
}
