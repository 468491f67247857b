// attend: softmax(q K^T) V over one layer's cache, in blocks of positions with an online softmax,
// so that memory grows with the context only through the cache. Owns no memory but its scratch.
#ifndef ATTEND_H
#define ATTEND_H

#include "kernels.h"

// One layer's cache. K is cached with its positions applied, V as it is, both per KV head; or either
// may be made from latent rows z, of which one a position serves every head:
//   V  latent: its rows are z themselves.
//   K  z_width > 0: k holds only the first k_width numbers of every head's key, those that positions
//      rotate (maybe none); the others come from rows z of their own, or from V's where `shared`.
typedef struct {
    int type;               // T_F32, T_F16 or T_Q8_0 (rows in blocks of 32)
    int64_t capacity;       // positions
    int64_t n_kv, k_width;  // K: (n_kv, capacity / KEY_TILE rounded up, k_width, KEY_TILE): see kernels.h
    int64_t v_width;        // V: (n_kv, capacity, v_width); latent: (capacity, v_width)
    int64_t z_width;        // latents of K: (capacity, z_width); shared: z_width = v_width; 0: none
    bool latent, shared;
    void *k, *v, *z;        // 64-byte aligned
} Cache;

// Bytes of K, V and the latents of K, without what fills up the last tile of K; false when a product
// does not fit or a width is no multiple of 32 where the type asks it.
bool cache_size(const Cache *c, size_t bytes[3]);
// Memory for a cache whose sizes are set; *total grows by its bytes. Freed by cache_free.
int cache_alloc(Cache *c, size_t *total, Err *e);
void cache_free(Cache *c);
// Writes n positions from pos on: k (n, n_kv, k_row), of which each row's first k_width numbers are
// cached, v (n, n_kv, v_width) or latent (n, v_width), z (n, z_width). What is not cached is not read.
void cache_store(Cache *c, int64_t pos, int64_t n, const float *k, int64_t k_row, const float *v,
                 const float *z);
// Keys of KV head g as they are cached, n positions from pos on: k (n, k_width).
void cache_keys(const Cache *c, int64_t g, int64_t pos, int64_t n, float *k);

// A matrix M by which vectors of a head are made from latents: of KV head g, z M_g^T. Either they
// are rebuilt, a block of positions at a time (cheaper for many queries); or M_g is applied on the
// queries' side: to the query before the scores, M_g^T q, and by the caller to the weighted sum of z after
// them (cheaper for one query). The two are equal up to rounding.
typedef struct {
    const Mat *m;             // (n_kv * rows, width of z); of each head's rows the last are used
    bool rebuild;
} Expand;

typedef struct {
    const Cache *cache;
    int64_t n_heads, n, pos;  // queries are at positions pos .. pos + n - 1, already in the cache
    int64_t window;           // a query sees this many positions, itself included; 0: all up to itself
    bool all;                 // or, whatever the window: 0 .. pos + n - 1, later ones too
    float scale;              // of the scores, 1 / sqrt(hd) as a rule
    int64_t q_width;          // k_width, and where z_width > 0 also the numbers that M_g makes
    const float *q;           // (n, n_heads, q_width); head i reads KV head i / (n_heads / n_kv)
    Expand keys;              // where z_width > 0: (n_kv * (q_width - k_width or more), z_width)
    Expand values;            // where V is latent; rebuilt: (n_kv * out_width, v_width)
    int64_t out_width;        // v_width but where V is rebuilt
    float *out;               // (n, n_heads, out_width); of latents (n_heads, n, v_width): the sums of z
} Attend;

typedef struct { void *mem; size_t size; } AttendScratch;
// Enough for up to n queries of this shape on any number of threads up to threads_get().
int attend_scratch(AttendScratch *s, int64_t n, int64_t n_heads, int64_t n_kv, int64_t q_width,
                   int64_t z_width, int64_t v_width, int64_t out_width, Err *e);
void attend_scratch_free(AttendScratch *s);

void attend(const Attend *a, AttendScratch *s);
void attend_naive(const Attend *a);     // the definition, one query at a time; allocates; for tests

#endif
