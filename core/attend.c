// attend: softmax(q K^T) V over one layer's cache. What is summed in which order depends on the
// absolute positions alone: blocks of positions in order inside segments, segments merged in order. So a
// query's result has the same bits for any number of threads and whether it is computed alone or with
// others.

#include "attend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK = 256,           // positions whose scores are held at a time
    BLOCK_REBUILT = 64,    // fewer where their keys or values are made first
    SEGMENT = 256,         // positions that share one running maximum: 32 times 256, 16 times 512, 16 times
    HALF = 16,             // 1024, … as long as that doubles what is before; the last has no end
    SIZES = 6,
    SEGMENTS = (SIZES + 1) * HALF,
    ROWS = 72,             // rows (queries times heads) of a task that read each cache block once
    ROWS_SHARED = 192,     // more where heads share what is cached, or it is rebuilt for every task
};

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// ---- the cache ----------------------------------------------------------------------------------

enum { KEYS, VALUES, LATENTS };            // the parts of a cache; LATENTS: those of the keys

// How a part is laid out: rows a position, and their width.
static void part_shape(const Cache *c, int part, int64_t *rows, int64_t *width) {
    *rows = part == LATENTS || (part == VALUES && c->latent) ? 1 : c->n_kv;
    *width = part == KEYS ? c->k_width : part == VALUES ? c->v_width : c->z_width;
}

bool cache_size(const Cache *c, size_t bytes[3]) {
    for (int part = KEYS; part <= LATENTS; part++) {
        int64_t rows, width;
        size_t row, n;
        part_shape(c, part, &rows, &width);
        if (c->capacity < 0 || rows < 0 || width < 0 || !row_size(c->type, width, &row) ||
            !mul_size((size_t)c->capacity, (size_t)rows, &n) || !mul_size(n, row, bytes + part))
            return false;
    }
    if (c->shared) bytes[LATENTS] = 0;
    return true;
}

static int64_t tiles_of(const Cache *c) { return c->capacity / KEY_TILE + (c->capacity % KEY_TILE != 0); }

int cache_alloc(Cache *c, size_t *total, Err *e) {
    size_t bytes[3], filled[3];
    Cache whole = *c;                          // keys take all the room of their last tile
    if (c->capacity < INT64_MAX - KEY_TILE) whole.capacity = tiles_of(c) * KEY_TILE;
    if (!cache_size(c, bytes) || !cache_size(&whole, filled))
        return fail(e, "a %s cache of %lld positions with rows of %lld, %lld and %lld numbers: too large, "
                    "or rows are no multiple of 32 (try --kv f16)", type_info(c->type)->name,
                    (long long)c->capacity, (long long)c->k_width, (long long)c->v_width,
                    (long long)c->z_width);
    if (!(c->k = alloc(filled[KEYS], 1, "cache of keys", e)) ||
        !(c->v = alloc(bytes[VALUES], 1, "cache of values", e)) ||
        !(c->z = alloc(bytes[LATENTS], 1, "cache of the keys' latents", e))) {
        cache_free(c);
        return -1;
    }
    for (int part = KEYS; part <= LATENTS; part++) *total += bytes[part];
    return 0;
}

void cache_free(Cache *c) {
    free(c->k);
    free(c->v);
    free(c->z);
    c->k = c->v = c->z = NULL;
}

// Positions p .. p + n of a part's rows, of KV head g where it has them, as a matrix. That of the keys
// is in tiles, of which p begins one.
static Mat cache_rows(const Cache *c, int part, int64_t g, int64_t p, int64_t n) {
    if (part == LATENTS && c->shared) part = VALUES;
    size_t row = 0;
    int64_t rows, width;
    part_shape(c, part, &rows, &width);
    row_size(c->type, width, &row);
    const char *base = part == KEYS ? c->k : part == VALUES ? c->v : c->z;
    const int64_t head = part == KEYS ? tiles_of(c) * KEY_TILE : c->capacity;
    const int64_t first = rows == 1 ? p : g * head + p;
    return (Mat){base + (size_t)first * row, n, width, c->type};
}

// n latents from position p on as f32: in place, or unpacked into room.
static Mat latent_rows(const Cache *c, int part, int64_t p, int64_t n, float *room) {
    const Mat z = cache_rows(c, part, 0, p, n);
    if (c->type == T_F32) return z;
    if (c->type == T_F16) f16_row_to_f32(z.data, room, n * z.cols);
    else dequantize_row(c->type, z.data, room, n * z.cols);
    return (Mat){room, n, z.cols, T_F32};
}

static void store_row(int type, const float *src, void *dst, int64_t n) {
    if (type == T_F32) memcpy(dst, src, (size_t)n * sizeof *src);
    else if (type == T_F16) f32_row_to_f16(src, dst, n);
    else quantize_row(type, src, dst, n);
}

// Columns of a key at a time: their row as it is stored, on its way to a tile or from there.
enum { KEY_PART = 256 };
typedef union { float f32[KEY_PART]; uint16_t f16[KEY_PART]; uint8_t q8[KEY_PART / 32 * 34]; } KeyPart;

// Columns c .. c + n of the key at position p.
static void put_key(Cache *c, int64_t g, int64_t p, int64_t c0, int64_t n, const KeyPart *from) {
    const int64_t lane = p % KEY_TILE, at = c0 * KEY_TILE + lane;
    void *tile = (void *)(uintptr_t)cache_rows(c, KEYS, g, p - lane, 1).data;
    float *f32 = (float *)tile + at;
    uint16_t *f16 = (uint16_t *)tile + at;
    if (c->type == T_F32) for (int64_t i = 0; i < n; i++) f32[i * KEY_TILE] = from->f32[i];
    if (c->type == T_F16) for (int64_t i = 0; i < n; i++) f16[i * KEY_TILE] = from->f16[i];
    for (int64_t i = 0; i < n && c->type == T_Q8_0; i += 32) {
        const uint8_t *block = from->q8 + i / 32 * 34;
        uint8_t *to = (uint8_t *)tile + (c0 + i) / 32 * KEY_TILE * 34;
        memcpy(to + 2 * lane, block, 2);
        for (int64_t k = 0; k < 32; k++) to[(2 + k) * KEY_TILE + lane] = block[2 + k];
    }
}

static void get_key(const Cache *c, int64_t g, int64_t p, int64_t c0, int64_t n, KeyPart *to) {
    const int64_t lane = p % KEY_TILE, at = c0 * KEY_TILE + lane;
    const void *tile = cache_rows(c, KEYS, g, p - lane, 1).data;
    const float *f32 = (const float *)tile + at;
    const uint16_t *f16 = (const uint16_t *)tile + at;
    if (c->type == T_F32) for (int64_t i = 0; i < n; i++) to->f32[i] = f32[i * KEY_TILE];
    if (c->type == T_F16) for (int64_t i = 0; i < n; i++) to->f16[i] = f16[i * KEY_TILE];
    for (int64_t i = 0; i < n && c->type == T_Q8_0; i += 32) {
        const uint8_t *from = (const uint8_t *)tile + (c0 + i) / 32 * KEY_TILE * 34;
        uint8_t *block = to->q8 + i / 32 * 34;
        memcpy(block, from + 2 * lane, 2);
        for (int64_t k = 0; k < 32; k++) block[2 + k] = from[(2 + k) * KEY_TILE + lane];
    }
}

// Of n positions from pos on, the keys of KV head g, the first at k and each `step` behind the last.
static void store_keys(Cache *c, int64_t g, int64_t pos, int64_t n, const float *k, int64_t step) {
    KeyPart row;
    for (int64_t i = 0; i < n; i++)
        for (int64_t at = 0; at < c->k_width; at += KEY_PART) {
            const int64_t cols = least(c->k_width - at, KEY_PART);
            store_row(c->type, k + i * step + at, &row, cols);
            put_key(c, g, pos + i, at, cols, &row);
        }
}

void cache_keys(const Cache *c, int64_t g, int64_t pos, int64_t n, float *k) {
    KeyPart row;
    for (int64_t i = 0; i < n; i++, k += c->k_width)
        for (int64_t at = 0; at < c->k_width; at += KEY_PART) {
            const int64_t cols = least(c->k_width - at, KEY_PART);
            get_key(c, g, pos + i, at, cols, &row);
            dequantize_row(c->type, &row, k + at, cols);
        }
}

// The same of another part, src (n, rows, width); what all heads share comes with the first.
static void store_part(Cache *c, int part, int64_t g, int64_t pos, int64_t n, const float *src) {
    int64_t rows, width;
    part_shape(c, part, &rows, &width);
    for (int64_t i = 0; i < n && width > 0 && g < rows; i++) {
        const Mat row = cache_rows(c, part, g, pos + i, 1);
        store_row(c->type, src + (i * rows + g) * width, (void *)(uintptr_t)row.data, width);
    }
}

// A tile of positions of a KV head at a time: no two threads write to one.
typedef struct { Cache *c; int64_t pos, n, k_row; const float *k, *v, *z; } StoreJob;

static void store_tiles(void *ctx, int64_t begin, int64_t end, int thread) {
    const StoreJob *j = ctx;
    Cache *c = j->c;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        const int64_t g = i % c->n_kv, tile = j->pos / KEY_TILE + i / c->n_kv;
        const int64_t pos = most(j->pos, tile * KEY_TILE), at = pos - j->pos;
        const int64_t n = least(j->pos + j->n, (tile + 1) * KEY_TILE) - pos;
        store_keys(c, g, pos, n, j->k + (at * c->n_kv + g) * j->k_row, c->n_kv * j->k_row);
        store_part(c, VALUES, g, pos, n, j->v + at * (c->latent ? 1 : c->n_kv) * c->v_width);
        if (!c->shared && c->z_width) store_part(c, LATENTS, g, pos, n, j->z + at * c->z_width);
    }
}

void cache_store(Cache *c, int64_t pos, int64_t n, const float *k, int64_t k_row, const float *v,
                 const float *z) {
    enum { NUMBERS = 1024 };                   // at least, of a thread
    const int64_t tiles = (pos + n + KEY_TILE - 1) / KEY_TILE - pos / KEY_TILE;
    int64_t row = c->k_width + (c->latent ? c->v_width / c->n_kv : c->v_width);
    if (!c->shared) row += c->z_width / c->n_kv;
    parallel_for(tiles * c->n_kv, NUMBERS / (least(n, KEY_TILE) * row + 1) + 1, store_tiles,
                 &(StoreJob){c, pos, n, k_row, k, v, z});
}

// ---- scratch ------------------------------------------------------------------------------------

// One thread's memory. A row is one query of one head.
typedef struct {
    float *q;              // (rows, q_width)
    float *qz;             // (rows, z_width): queries in the space of the latents
    float *s;              // (rows, BLOCK): scores, then weights
    RowSpan *seen;            // (rows): what they see of the block
    float *max, *sum;      // (rows): of all segments so far
    float *seg_max, *seg_sum;
    float *acc, *seg_acc;  // (rows, width): weighted sums
    float *z;              // (BLOCK_REBUILT, the wider z)
    float *k, *v;          // (BLOCK_REBUILT, q_width), (BLOCK_REBUILT, out_width): rebuilt
} Part;

typedef struct { int64_t n, n_heads, n_kv, q_width, z_width, v_width, out_width; } Shape;

static int64_t part_rows(const Shape *s) {
    return least(most(ROWS_SHARED, s->n_heads), most(s->n, 1) * s->n_heads);
}

// Lays the arrays out one behind the other from mem on; returns the number of floats (a multiple
// of 16), or 0 where it does not fit in memory. With mem = NULL it only counts.
static size_t part_layout(const Shape *s, float *mem, Part *p) {
    const size_t rows = (size_t)part_rows(s), width = (size_t)most(s->v_width, s->out_width);
    const size_t q = (size_t)s->q_width, z = (size_t)s->z_width, out = (size_t)s->out_width;
    float *seen;
    const struct { float **at; size_t rows, cols; } need[] = {
        {&p->q, rows, q}, {&p->qz, rows, z}, {&p->s, rows, BLOCK},
        {&seen, rows, sizeof(RowSpan) / sizeof(float)},
        {&p->max, rows, 1}, {&p->sum, rows, 1}, {&p->seg_max, rows, 1}, {&p->seg_sum, rows, 1},
        {&p->acc, rows, width}, {&p->seg_acc, rows, width},
        {&p->z, BLOCK_REBUILT, (size_t)most(s->v_width, s->z_width)}, {&p->k, BLOCK_REBUILT, z ? q : 0},
        {&p->v, BLOCK_REBUILT, out}};
    size_t at = 0;
    for (size_t i = 0; i < sizeof need / sizeof *need; i++) {
        size_t items;
        if (!mul_size(need[i].rows, need[i].cols, &items) || !add_size(items, 15, &items)) return 0;
        if (mem) *need[i].at = mem + at;
        if (!add_size(at, items / 16 * 16, &at)) return 0;
    }
    if (mem) p->seen = (RowSpan *)(void *)seen;
    return at;
}

// For a single query whose segments are shared out: the states of all segments, (SEGMENTS, n_heads)
// maxima, sums, and weighted sums of `width` floats; and (n_heads, z_width), the query among latents.
static bool split_size(const Shape *s, size_t *floats) {
    size_t n, qz;
    return mul_size((size_t)s->n_heads, SEGMENTS, &n) &&
           mul_size(n, (size_t)most(s->v_width, s->out_width) + 2, floats) &&
           mul_size((size_t)s->n_heads, (size_t)s->z_width, &qz) && add_size(*floats, qz, floats);
}

int attend_scratch(AttendScratch *s, int64_t n, int64_t n_heads, int64_t n_kv, int64_t q_width,
                   int64_t z_width, int64_t v_width, int64_t out_width, Err *e) {
    *s = (AttendScratch){0};
    const Shape shape = {n, n_heads, n_kv, q_width, z_width, v_width, out_width};
    const int64_t limit = INT64_C(1) << 31;
    Part p;
    size_t each = 0, split, total;
    if (n < 0 || n_heads < 1 || n_kv < 1 || q_width < 1 || z_width < 0 || v_width < 1 ||
        out_width < 1 || n > limit || n_heads > limit || q_width > limit || z_width > limit ||
        v_width > limit || out_width > limit ||
        !(each = part_layout(&shape, NULL, &p)) || !split_size(&shape, &split) ||
        !mul_size(each, (size_t)threads_get(), &total) || !add_size(total, split, &total) ||
        !mul_size(total, sizeof(float), &total))
        return fail(e, "attention scratch: %lld queries of %lld heads, widths %lld, %lld, %lld, %lld: "
                       "sizes must be positive and fit in memory", (long long)n,
                    (long long)n_heads, (long long)q_width, (long long)z_width, (long long)v_width,
                    (long long)out_width);
    s->mem = alloc(total, 1, "attention scratch", e);
    if (!s->mem) return -1;
    s->size = total;
    return 0;
}

void attend_scratch_free(AttendScratch *s) {
    free(s->mem);
    *s = (AttendScratch){0};
}

// ---- one task -----------------------------------------------------------------------------------

typedef struct {
    const Attend *a;
    Shape shape;
    int64_t m, width;                   // query heads of a KV head; floats of a weighted sum
    bool early, late;                   // M is applied to the queries; what is summed are latents
    int64_t block;                      // positions
    int64_t chunk, n_chunks;            // queries of a task
    int64_t group, n_groups;            // KV heads of a task
    int64_t first_segment, n_segments;  // of a split query, else one task runs through all
    bool split;
    float *parts, *split_max, *split_sum, *split_acc, *split_qz;
    size_t part_floats;
    int64_t threads, tasks, next;
} Job;

// M_g, the rows of the matrix that make vectors of KV head g.
static Mat expand_rows(const Expand *x, const Shape *s, int64_t g, int64_t rows) {
    return mat_rows(x->m, (g + 1) * (x->m->rows / s->n_kv) - rows, rows);
}

static int64_t segment_of(int64_t position) {
    int64_t k = 0;                                 // of the size SEGMENT 2^k
    while (k < SIZES - 1 && position / (SEGMENT << k) >= 2 * HALF) k++;
    return least(k * HALF + position / (SEGMENT << k), SEGMENTS - 1);
}

static int64_t segment_begin(int64_t s) {
    const int64_t k = s < 2 * HALF ? 0 : s / HALF - 1;
    return (s - k * HALF) * (SEGMENT << k);
}

// The first position that query i sees.
static int64_t first_seen(const Attend *a, int64_t i) {
    return a->window > 0 && !a->all ? most(a->pos + i - a->window + 1, 0) : 0;
}

// One more than the last.
static int64_t seen_end(const Attend *a, int64_t i) { return a->pos + (a->all ? a->n : i + 1); }

// Adds a segment's state to the state of those before it.
static void merge(float *max, float *sum, float *acc, float seg_max, float seg_sum,
                  const float *seg_acc, int64_t width) {
    if (seg_max == -INFINITY) return;              // it saw nothing
    // One of the two factors is 1.
    const bool higher = seg_max > *max;
    const float other = expf(higher ? *max - seg_max : seg_max - *max);
    const float keep = higher ? other : 1, in = higher ? 1 : other;
    *sum = *sum * keep + seg_sum * in;
    *max = higher ? seg_max : *max;
    if (keep != 1) scale_to(acc, keep, acc, width);
    axpy(acc, in, seg_acc, width);
}

// What query i sees of positions p .. p + n, from p on.
static RowSpan seen_of(const Attend *a, int64_t i, int64_t p, int64_t n) {
    const int64_t from = least(most(first_seen(a, i) - p, 0), n);
    return (RowSpan){(int32_t)from, (int32_t)most(least(seen_end(a, i) - p, n), from)};
}

// qz (rows, z_width) = M_g^T q for queries (rows, q_width) of KV head g: q . (M_g z) = (M_g^T q) . z.
static void absorb(const Job *j, const float *q, int64_t rows, int64_t g, float *qz) {
    const int64_t kw = j->a->cache->k_width, qw = j->a->q_width, zw = j->a->cache->z_width;
    const Mat m_g = expand_rows(&j->a->keys, &j->shape, g, qw - kw);
    memset(qz, 0, (size_t)(rows * zw) * sizeof *qz);
    matmul_t_block(&m_g, q + kw, qw, rows, qz, zw);
}

// Scores of the task's rows against n positions from p on, (rows, BLOCK), `rows` of each KV head.
// Where keys come from latents z: either M_g^T q . z for all heads at once, or q . (M_g z); and the
// rotated numbers as they are cached.
static void scores(const Job *j, const Part *t, int64_t g0, int64_t g1, int64_t rows, int64_t p,
                   int64_t n, const void *ahead) {
    const Attend *a = j->a;
    const Cache *c = a->cache;
    const int64_t kw = c->k_width, qw = a->q_width;
    Mat z = {0};
    if (j->early) {
        z = cache_rows(c, LATENTS, 0, p, n);
        key_scores(&z, false, t->qz, c->z_width, rows * (g1 - g0), t->seen, false, t->s, BLOCK, ahead);
    } else if (c->z_width) {
        z = latent_rows(c, LATENTS, p, n, t->z);
    }
    for (int64_t g = g0; g < g1; g++) {
        const int64_t r0 = (g - g0) * rows;
        const float *q = t->q + r0 * qw;
        float *s = t->s + r0 * BLOCK;
        if (c->z_width && !j->early) {
            const Mat m_g = expand_rows(&a->keys, &j->shape, g, qw - kw), k = {t->k, n, qw - kw, T_F32};
            matmul_block(&m_g, z.data, n, t->k, qw - kw);
            key_scores(&k, false, q + kw, qw, rows, t->seen + r0, false, s, BLOCK, NULL);
        }
        const Mat k = cache_rows(c, KEYS, g, p, n);
        if (kw) key_scores(&k, true, q, qw, rows, t->seen + r0, c->z_width > 0, s, BLOCK, ahead);
    }
}

// acc += the sum of weights times values.
static void sums(const Job *j, const Part *t, int64_t g0, int64_t g1, int64_t rows, int64_t p, int64_t n,
                 float *acc, const void *ahead) {
    const Cache *c = j->a->cache;
    const int64_t width = j->width;
    Mat z = {0};
    if (j->late) {
        z = cache_rows(c, VALUES, 0, p, n);
        value_sums(&z, t->s, BLOCK, rows * (g1 - g0), t->seen, acc, width, ahead);
        return;
    }
    if (c->latent) z = latent_rows(c, VALUES, p, n, t->z);
    for (int64_t g = g0; g < g1; g++) {
        const int64_t r0 = (g - g0) * rows;
        Mat v = cache_rows(c, VALUES, g, p, n);
        if (c->latent) {                                       // V = z M_g^T
            const Mat m_g = expand_rows(&j->a->values, &j->shape, g, width);
            matmul_block(&m_g, z.data, n, t->v, width);
            v = (Mat){t->v, n, width, T_F32};
        }
        value_sums(&v, t->s + r0 * BLOCK, BLOCK, rows, t->seen + r0, acc + r0 * width, width, ahead);
    }
}

// One block of positions for the task's queries i0 .. i1 and KV heads g0 .. g1. A row's running maximum
// and sum move on, and what it has gathered is scaled to the new maximum.
static void attend_block(const Job *j, const Part *t, int64_t i0, int64_t i1, int64_t g0,
                         int64_t g1, int64_t p, int64_t n, float *max, float *sum, float *acc,
                         const void *next) {
    const int64_t each = (i1 - i0) * j->m, rows = each * (g1 - g0), width = j->width;
    for (int64_t r = 0; r < rows; r++) t->seen[r] = seen_of(j->a, i0 + r % each / j->m, p, n);
    scores(j, t, g0, g1, each, p, n, cache_rows(j->a->cache, VALUES, g0, p, n).data);
    for (int64_t r = 0; r < rows; r++) {
        const float keep = soften(t->s + r * BLOCK, t->seen[r], n, j->a->scale, max + r, sum + r);
        if (keep != 1) scale_to(acc + r * width, keep, acc + r * width, width);
    }
    sums(j, t, g0, g1, each, p, n, acc, next);
}

// The rows of KV head g, gathered and summed: divided by the sum of weights and delivered.
static void deliver(const Job *j, int64_t i0, int64_t i1, int64_t g, const float *sum, const float *acc) {
    const Attend *a = j->a;
    const int64_t rows = (i1 - i0) * j->m, width = j->width;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t i = i0 + r / j->m, head = g * j->m + r % j->m;
        float *to = a->out + (j->late ? head * a->n + i : i * a->n_heads + head) * width;
        scale_to(to, 1 / sum[r], acc + r * width, width);
    }
}

static void clear(float *max, float *sum, float *acc, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r++) max[r] = -INFINITY;
    memset(sum, 0, (size_t)rows * sizeof *sum);
    memset(acc, 0, (size_t)(rows * width) * sizeof *acc);
}

// The task's queries, (rows, q_width) with those of a KV head together; and (rows, z_width) where M is
// applied to them.
static void gather(const Job *j, const Part *t, int64_t i0, int64_t i1, int64_t g0, int64_t g1) {
    const Attend *a = j->a;
    const int64_t qw = a->q_width, zw = a->cache->z_width, m = j->m, rows = (i1 - i0) * m;
    for (int64_t g = g0; g < g1; g++) {
        float *q = t->q + (g - g0) * rows * qw, *qz = t->qz + (g - g0) * rows * zw;
        for (int64_t i = i0; i < i1; i++)
            memcpy(q + (i - i0) * m * qw, a->q + (i * a->n_heads + g * m) * qw,
                   (size_t)(m * qw) * sizeof *q);
        if (j->early && j->split) memcpy(qz, j->split_qz + g * m * zw, (size_t)(m * zw) * sizeof *qz);
        else if (j->early) absorb(j, q, rows, g, qz);
    }
}

// Queries i0 .. i1, KV heads g0 .. g1, segments s0 .. s1.
static void attend_task(const Job *j, const Part *t, int64_t i0, int64_t i1, int64_t g0, int64_t g1,
                        int64_t s0, int64_t s1, const void *next) {
    const Attend *a = j->a;
    const int part = a->cache->k_width ? KEYS : LATENTS;
    const int64_t per_head = (i1 - i0) * j->m, rows = per_head * (g1 - g0), width = j->width;
    gather(j, t, i0, i1, g0, g1);
    clear(t->max, t->sum, t->acc, rows, width);
    for (int64_t s = s0; s < s1; s++) {
        const int64_t at = s * a->n_heads + g0 * j->m;         // where a split query's state goes
        float *max = j->split ? j->split_max + at : t->seg_max;
        float *sum = j->split ? j->split_sum + at : t->seg_sum;
        float *acc = j->split ? j->split_acc + at * width : t->seg_acc;
        clear(max, sum, acc, rows, width);
        const int64_t from = most(segment_begin(s), first_seen(a, i0) / j->block * j->block);
        const int64_t past = seen_end(a, i1 - 1);
        const int64_t to = s == SEGMENTS - 1 ? past : least(segment_begin(s + 1), past);
        for (int64_t p = from; p < to; p += j->block)
            attend_block(j, t, i0, i1, g0, g1, p, least(to - p, j->block), max, sum, acc,
                         p + j->block < to ? cache_rows(a->cache, part, g0, p + j->block, 1).data : next);
        for (int64_t r = 0; r < rows && !j->split; r++)
            merge(t->max + r, t->sum + r, t->acc + r * width, max[r], sum[r], acc + r * width,
                  width);
    }
    for (int64_t g = g0; g < g1 && !j->split; g++) {
        const int64_t r = (g - g0) * per_head;
        deliver(j, i0, i1, g, t->sum + r, t->acc + r * width);
    }
}

// ---- sharing out --------------------------------------------------------------------------------

// Where the keys of a split query's task begin, or what they are made of.
static const void *task_keys(const Job *j, int64_t task) {
    const Cache *c = j->a->cache;
    if (task >= j->tasks) return NULL;
    const int64_t s = j->first_segment + j->n_segments - 1 - task / j->n_groups;
    const int64_t g = task % j->n_groups * j->group;
    return cache_rows(c, c->k_width ? KEYS : LATENTS, g, segment_begin(s), 1).data;
}

// Threads take the next task until none is left: which one takes it changes no result.
static void attend_worker(void *ctx, int64_t begin, int64_t end, int thread) {
    Job *j = ctx;
    Part t;
    part_layout(&j->shape, j->parts + (size_t)thread * j->part_floats, &t);
    (void)begin;
    (void)end;
    for (;;) {
        // The last queries see most, the last segments may be the longest: they go first.
        const int64_t task = __atomic_fetch_add(&j->next, 1, __ATOMIC_RELAXED);
        if (task >= j->tasks) return;
        const int64_t group = task % j->n_groups, rest = task / j->n_groups;
        const int64_t g0 = group * j->group, g1 = least(g0 + j->group, j->shape.n_kv);
        if (j->split) {
            const int64_t s = j->first_segment + j->n_segments - 1 - rest;
            attend_task(j, &t, 0, 1, g0, g1, s, s + 1, task_keys(j, task + j->threads));
        } else {
            const int64_t i0 = (j->n_chunks - 1 - rest) * j->chunk;
            const int64_t i1 = least(i0 + j->chunk, j->a->n);
            attend_task(j, &t, i0, i1, g0, g1, segment_of(first_seen(j->a, i0)),
                        segment_of(seen_end(j->a, i1 - 1) - 1) + 1, NULL);
        }
    }
}

// A split query among the latents, for all of its segments.
static void absorb_worker(void *ctx, int64_t begin, int64_t end, int thread) {
    const Job *j = ctx;
    (void)thread;
    for (int64_t g = begin; g < end; g++)
        absorb(j, j->a->q + g * j->m * j->a->q_width, j->m, g,
               j->split_qz + g * j->m * j->a->cache->z_width);
}

// Merges the segments of a split query, a KV head at a time.
static void merge_worker(void *ctx, int64_t begin, int64_t end, int thread) {
    Job *j = ctx;
    Part t;
    part_layout(&j->shape, j->parts + (size_t)thread * j->part_floats, &t);
    for (int64_t g = begin; g < end; g++) {
        clear(t.max, t.sum, t.acc, j->m, j->width);
        for (int64_t s = j->first_segment; s < j->first_segment + j->n_segments; s++)
            for (int64_t r = 0; r < j->m; r++) {
                const int64_t at = s * j->a->n_heads + g * j->m + r;
                merge(t.max + r, t.sum + r, t.acc + r * j->width, j->split_max[at],
                      j->split_sum[at], j->split_acc + at * j->width, j->width);
            }
        deliver(j, 0, 1, g, t.sum, t.acc);
    }
}

void attend(const Attend *a, AttendScratch *s) {
    const Cache *c = a->cache;
    if (a->n <= 0) return;
    Job j = {.a = a, .m = a->n_heads / c->n_kv};
    j.early = c->z_width > 0 && !a->keys.rebuild;
    j.late = c->latent && !a->values.rebuild;
    j.shape = (Shape){a->n, a->n_heads, c->n_kv, a->q_width, c->z_width, c->v_width,
                      j.late ? 1 : a->out_width};                      // no room for what is not rebuilt
    j.width = a->out_width;
    const bool rebuilds = (c->z_width && !j.early) || (c->latent && !j.late);
    j.block = rebuilds ? BLOCK_REBUILT : BLOCK;

    // The scratch: one part a thread, then the states of a split query.
    Part unused;
    size_t split = 0;
    j.part_floats = part_layout(&j.shape, NULL, &unused);
    split_size(&j.shape, &split);
    const int64_t parts = (int64_t)((s->size / sizeof(float) - split) / j.part_floats);
    const int64_t threads = j.threads = least(threads_get(), parts);
    j.parts = s->mem;
    j.split_max = j.parts + (size_t)parts * j.part_floats;
    j.split_sum = j.split_max + SEGMENTS * a->n_heads;
    j.split_acc = j.split_sum + SEGMENTS * a->n_heads;
    j.split_qz = j.split_acc + SEGMENTS * a->n_heads * j.width;

    // Heads that share z go together as far as the threads allow; otherwise a task is a KV head.
    const int64_t seen = a->pos + a->n - first_seen(a, 0);
    j.first_segment = segment_of(first_seen(a, 0));
    j.n_segments = segment_of(a->pos + a->n - 1) + 1 - j.first_segment;
    j.split = a->n == 1 && j.n_segments > 1;
    j.group = 1;
    if (j.early || j.late) {
        const int64_t want = j.split ? (2 * threads + j.n_segments - 1) / j.n_segments
                           : a->n == 1 ? threads : 1;
        j.group = (c->n_kv + least(want, c->n_kv) - 1) / least(want, c->n_kv);
    }
    j.n_groups = (c->n_kv + j.group - 1) / j.group;
    const int64_t rows = j.group * j.m, goal = rebuilds || j.group > 1 ? ROWS_SHARED : ROWS;
    j.chunk = least(most(goal / rows, 1), a->n);
    while (j.chunk > 8 && (a->n + j.chunk - 1) / j.chunk * j.n_groups < 4 * threads)
        j.chunk = (j.chunk + 1) / 2;
    j.n_chunks = (a->n + j.chunk - 1) / j.chunk;
    j.tasks = j.n_groups * (j.split ? j.n_segments : j.n_chunks);

    // A thread for every 40 k multiply-adds or so: two microseconds where the cache waits for memory.
    double row = (double)seen * (double)(j.early ? c->k_width + c->z_width + j.width : a->q_width + j.width);
    if (j.early) row += (double)(a->q_width - c->k_width) * (double)c->z_width;      // M^T q
    const double work = (double)a->n * (double)a->n_heads * row;
    const int64_t useful = work > 40960.0 * 256 ? 256 : (int64_t)(work / 40960) + 1;
    if (j.split && j.early)
        parallel_for(c->n_kv, (c->n_kv + threads - 1) / threads, absorb_worker, &j);
    parallel_for(least(least(threads, useful), j.tasks), 1, attend_worker, &j);
    if (j.split) {
        enum { MERGED = 16384 };                                       // numbers at least, of a thread
        const int64_t grain = MERGED / (j.n_segments * j.m * j.width) + 1;
        parallel_for(c->n_kv, most(grain, (c->n_kv + threads - 1) / threads), merge_worker, &j);
    }
}

// ---- the definition -----------------------------------------------------------------------------

// keys (last, q_width) of KV head g as a query meets them: what is cached, then M_g z.
static void naive_keys(const Attend *a, int64_t g, int64_t last, float *row, float *z, double *keys) {
    const Cache *c = a->cache;
    const int64_t kw = c->k_width, made = a->q_width - kw;
    for (int64_t p = 0; p < last; p++, keys += a->q_width) {
        const Mat latent = cache_rows(c, LATENTS, 0, p, 1);
        cache_keys(c, g, p, 1, row);
        for (int64_t x = 0; x < kw; x++) keys[x] = row[x];
        if (c->z_width) mat_row(&latent, 0, z);
        for (int64_t r = 0; r < made; r++) {
            const int64_t each = a->keys.m->rows / c->n_kv;
            mat_row(a->keys.m, g * each + each - made + r, row);
            keys[kw + r] = 0;
            for (int64_t x = 0; x < c->z_width; x++) keys[kw + r] += (double)row[x] * z[x];
        }
    }
}

void attend_naive(const Attend *a) {
    const Cache *c = a->cache;
    const int64_t m = a->n_heads / c->n_kv, out = a->out_width;
    const bool sums = c->latent && !a->values.rebuild;
    const int64_t last = a->pos + a->n, qw = a->q_width;
    double *w = alloc((size_t)last + 1, sizeof *w, "weights", NULL);
    double *keys = alloc((size_t)(last * qw), sizeof *keys, "keys", NULL);
    float *v = alloc((size_t)most(c->z_width, c->v_width), sizeof *v, "a value", NULL);
    float *row = alloc((size_t)most(qw, most(c->z_width, c->v_width)), sizeof *row, "a row", NULL);
    double *sum = alloc((size_t)c->v_width, sizeof *sum, "a weighted sum", NULL);
    for (int64_t h = 0; h < a->n_heads && w && keys && v && row && sum; h++) {
        const int64_t g = h / m;
        if (h % m == 0) naive_keys(a, g, last, row, v, keys);
        for (int64_t i = 0; i < a->n; i++) {
            const int64_t from = first_seen(a, i), to = seen_end(a, i);
            const float *q = a->q + (i * a->n_heads + h) * qw;
            float *y = a->out + (sums ? h * a->n + i : i * a->n_heads + h) * out;
            double max = -INFINITY, total = 0;
            for (int64_t p = from; p < to; p++) {
                w[p] = 0;
                for (int64_t x = 0; x < qw; x++) w[p] += q[x] * keys[p * qw + x];
                w[p] *= a->scale;
                if (w[p] > max) max = w[p];
            }
            memset(sum, 0, (size_t)c->v_width * sizeof *sum);
            for (int64_t p = from; p < to; p++) {
                const Mat value = cache_rows(c, VALUES, g, p, 1);
                mat_row(&value, 0, v);
                const double e = exp(w[p] - max);
                total += e;
                for (int64_t x = 0; x < c->v_width; x++) sum[x] += e * v[x];
            }
            for (int64_t r = 0; r < out; r++) {
                double value = 0;
                if (c->latent && !sums) {
                    mat_row(a->values.m, g * out + r, row);
                    for (int64_t x = 0; x < c->v_width; x++) value += sum[x] * row[x];
                } else {
                    value = sum[r];
                }
                y[r] = (float)(value / total);
            }
        }
    }
    free(sum);
    free(row);
    free(v);
    free(keys);
    free(w);
}
