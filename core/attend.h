// attend: softmax(q K^T) V over one layer's cache, in blocks of positions with an online softmax,
// so that memory grows with the context only through the cache. Owns no memory but its scratch.
#ifndef ATTEND_H
#define ATTEND_H

#include "kernels.h"

// One layer's cache. K is cached with its positions applied. V is cached per KV head, or, when
// `latent` is set, as one row z (v_width) a position that serves every head.
typedef struct {
    int type;               // T_F32, T_F16 or T_Q8_0 (rows in blocks of 32)
    int64_t capacity;       // positions
    int64_t n_kv, k_width;  // K: (n_kv, capacity, k_width)
    int64_t v_width;        // V: (n_kv, capacity, v_width); latent: (capacity, v_width)
    bool latent;
    void *k, *v;            // 64-byte aligned
} Cache;

// Bytes of the K and V parts; false when a product does not fit or a width is no multiple of 32
// where the type asks it.
bool cache_size(const Cache *c, size_t *k_bytes, size_t *v_bytes);
// Writes n positions from pos on: k (n, n_kv, k_width), v (n, n_kv, v_width) or latent (n, v_width).
void cache_store(Cache *c, int64_t pos, int64_t n, const float *k, const float *v);

typedef struct {
    const Cache *cache;
    int64_t n_heads, n, pos;  // queries are at positions pos .. pos + n - 1, already in the cache
    int64_t window;           // a query sees this many positions, itself included; 0: all before it
    bool all;                 // or, whatever the window: 0 .. pos + n - 1, also those behind it
    float scale;              // of the scores, 1 / sqrt(k_width) as a rule
    const float *q;           // (n, n_heads, k_width); head i reads KV head i / (n_heads / n_kv)
    // With a latent cache: M (n_kv * out_width, v_width), so that V of KV head g is z M_g^T.
    // expand = true: V is rebuilt a block of positions at a time (cheaper for many queries);
    // false: the weighted sum of z is taken first and M_g applied once after (cheaper for one).
    // The two are equal up to rounding.
    const Mat *expand;
    bool rebuild;
    int64_t out_width;        // v_width when the cache is not latent
    float *out;               // (n, n_heads, out_width)
} Attend;

typedef struct { void *mem; size_t size; } AttendScratch;
// Enough for up to n queries of this shape on any number of threads up to threads_get().
int attend_scratch(AttendScratch *s, int64_t n, int64_t n_heads, int64_t n_kv, int64_t k_width,
                   int64_t v_width, int64_t out_width, Err *e);
void attend_scratch_free(AttendScratch *s);

void attend(const Attend *a, AttendScratch *s);
void attend_naive(const Attend *a);     // the definition, one query at a time; allocates; for tests

#endif
