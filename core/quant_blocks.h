// quant_blocks: blocks of quantised weights as they stand in a file, for quant.c and the kernels.
#ifndef QUANT_BLOCKS_H
#define QUANT_BLOCKS_H

#include <stddef.h>

#include "quant.h"

// A block is n weights as small integers and a scale: w = d * q, or w = d * q + m. d and m are half
// floats. "lo" and "hi" are the low and the high four bits of a byte.

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

// ---- scales of blocks of 256 ----------------------------------------------------------------------

// The half floats d and, of the types that have minima, dmin behind it.
static inline bool has_minima(int type) { return type == T_Q2_K || type == T_Q4_K || type == T_Q5_K; }
static inline const uint8_t *block_d(int type, const void *block) {
    return (const uint8_t *)block + (type == T_Q2_K ? offsetof(Q2_K, d) : type == T_Q3_K ? offsetof(Q3_K, d)
                                     : type == T_Q6_K ? offsetof(Q6_K, d) : 0);
}

// Scales and minima of the 16 parts: w[i] = scale[i / 16] * q[i] - min[i / 16].
// Q2_K, scale[j]: lo the scale, hi the minimum of part j.
// Q3_K: sixteen scales of 6 bits, stored plus 32, in 12 bytes. Their low four bits:
//   byte j (0 … 7)   lo of part j, hi of part j + 8
// and their high two bits:
//   byte 8 + j (0 … 3), from its low bits up: parts j, j + 4, j + 8, j + 12
// Q4_K, Q5_K: eight scales and eight minima of 6 bits in 12 bytes, for 32 weights each, two parts:
//   byte 0 … 3    2 bits of scale j + 4 | 6 bits of scale j
//   byte 4 … 7    2 bits of min j + 4   | 6 bits of min j
//   byte 8 … 11   4 bits of min j + 4   | 4 bits of scale j + 4      (their low bits)
static inline void block_scales(int type, const void *block, float d, float dmin, float scale[16],
                                float min[16]) {
    const Q2_K *q2 = block;
    const Q3_K *q3 = block;
    const Q4_K *q4 = block;              // Q5_K begins alike
    const Q6_K *q6 = block;
    int s[16], m[16] = {0};
    if (type == T_Q2_K) {
        for (int j = 0; j < 16; j++) s[j] = q2->scale[j] & 15, m[j] = q2->scale[j] >> 4;
    } else if (type == T_Q3_K) {
        for (int j = 0; j < 16; j++)
            s[j] = ((q3->scale[j % 8] >> j / 8 * 4 & 15) | (q3->scale[8 + j % 4] >> j / 4 * 2 & 3) << 4) - 32;
    } else if (type == T_Q6_K) {
        for (int j = 0; j < 16; j++) s[j] = q6->scale[j];
    } else {
        for (int j = 0; j < 8; j++) {
            const int k = j / 2;
            s[j] = q4->scale[k] & 63, m[j] = q4->scale[4 + k] & 63;
            s[8 + j] = (q4->scale[8 + k] & 15) | q4->scale[k] >> 6 << 4;
            m[8 + j] = q4->scale[8 + k] >> 4 | q4->scale[4 + k] >> 6 << 4;
        }
    }
    for (int j = 0; j < 16; j++) {
        scale[j] = d * (float)s[j];
        min[j] = dmin * (float)m[j];
    }
}

#endif
