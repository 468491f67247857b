// attend: softmax(q K^T) V over one layer's cache. What is summed in which order depends on the
// absolute positions alone: blocks of 64 positions in order inside segments of 256, segments merged
// in order. So a query's result has the same bits for any number of threads and whether it is
// computed alone or with others.

#include "attend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK = 64,            // positions whose scores are held at a time
    SEGMENT = 256,         // positions that share one running maximum; the last has no end
    SEGMENTS = 64,
    ROWS = 64,             // rows (queries times heads) of a task that read each cache block once
    ROWS_REBUILD = 192,    // more where V is rebuilt for every task
};

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// ---- the cache ----------------------------------------------------------------------------------

bool cache_size(const Cache *c, size_t *k_bytes, size_t *v_bytes) {
    size_t k_row, v_row, k_rows, v_rows;
    if (c->capacity < 0 || c->n_kv < 0 || c->k_width < 0 || c->v_width < 0) return false;
    if (!row_size(c->type, c->k_width, &k_row) || !row_size(c->type, c->v_width, &v_row))
        return false;
    if (!mul_size((size_t)c->capacity, (size_t)c->n_kv, &k_rows)) return false;
    v_rows = c->latent ? (size_t)c->capacity : k_rows;
    size_t k, v;
    if (!mul_size(k_rows, k_row, &k) || !mul_size(v_rows, v_row, &v)) return false;
    *k_bytes = k;
    *v_bytes = v;
    return true;
}

// Positions p .. p + n of the K or V rows of one KV head, as a matrix.
static Mat cache_rows(const Cache *c, bool v, int64_t g, int64_t p, int64_t n) {
    size_t row = 0;
    const int64_t width = v ? c->v_width : c->k_width;
    row_size(c->type, width, &row);
    const char *base = v ? c->v : c->k;
    const int64_t first = v && c->latent ? p : g * c->capacity + p;
    return (Mat){base + (size_t)first * row, n, width, c->type};
}

static void store_row(int type, const float *src, void *dst, int64_t n) {
    if (type == T_F32) memcpy(dst, src, (size_t)n * sizeof *src);
    else if (type == T_F16) f32_row_to_f16(src, dst, n);
    else quantize_row(type, src, dst, n);
}

void cache_store(Cache *c, int64_t pos, int64_t n, const float *k, const float *v) {
    for (int64_t i = 0; i < n; i++) {
        for (int64_t g = 0; g < c->n_kv; g++) {
            Mat row = cache_rows(c, false, g, pos + i, 1);
            store_row(c->type, k + (i * c->n_kv + g) * c->k_width, (void *)(uintptr_t)row.data,
                      c->k_width);
        }
        const int64_t heads = c->latent ? 1 : c->n_kv;
        for (int64_t g = 0; g < heads; g++) {
            Mat row = cache_rows(c, true, g, pos + i, 1);
            store_row(c->type, v + (i * heads + g) * c->v_width, (void *)(uintptr_t)row.data,
                      c->v_width);
        }
    }
}

// ---- scratch ------------------------------------------------------------------------------------

// One thread's memory. A row is one query of one head.
typedef struct {
    float *q;              // (rows, k_width)
    float *s;              // (rows, BLOCK): scores, then weights
    float *max, *sum;      // (rows): of all segments so far
    float *seg_max, *seg_sum;
    float *acc, *seg_acc;  // (rows, width): weighted sums
    float *y;              // (rows, out_width)
    float *z, *v;          // (BLOCK, v_width), (BLOCK, out_width)
} Part;

typedef struct { int64_t n, n_heads, n_kv, k_width, v_width, out_width; } Shape;

static int64_t part_rows(const Shape *s) {
    return least(most(ROWS_REBUILD, s->n_heads), most(s->n, 1) * s->n_heads);
}

// Lays the arrays out one behind the other from mem on; returns the number of floats (a multiple
// of 16), or 0 where it does not fit in memory. With mem = NULL it only counts.
static size_t part_layout(const Shape *s, float *mem, Part *p) {
    const size_t rows = (size_t)part_rows(s), width = (size_t)most(s->v_width, s->out_width);
    const size_t need[11][2] = {
        {rows, (size_t)s->k_width}, {rows, BLOCK}, {rows, 1}, {rows, 1}, {rows, 1}, {rows, 1},
        {rows, width}, {rows, width}, {rows, (size_t)s->out_width},
        {BLOCK, (size_t)s->v_width}, {BLOCK, (size_t)s->out_width}};
    float **field[11] = {&p->q, &p->s, &p->max, &p->sum, &p->seg_max, &p->seg_sum,
                         &p->acc, &p->seg_acc, &p->y, &p->z, &p->v};
    size_t at = 0;
    for (int i = 0; i < 11; i++) {
        size_t items;
        if (!mul_size(need[i][0], need[i][1], &items) || !add_size(items, 15, &items)) return 0;
        if (mem) *field[i] = mem + at;
        if (!add_size(at, items / 16 * 16, &at)) return 0;
    }
    return at;
}

// The states of all segments, for a single query whose segments are shared out: (SEGMENTS,
// n_heads) maxima, sums, and weighted sums of `width` floats.
static bool split_size(const Shape *s, size_t *floats) {
    size_t n;
    return mul_size((size_t)s->n_heads, SEGMENTS, &n) &&
           mul_size(n, (size_t)most(s->v_width, s->out_width) + 2, floats);
}

int attend_scratch(AttendScratch *s, int64_t n, int64_t n_heads, int64_t n_kv, int64_t k_width,
                   int64_t v_width, int64_t out_width, Err *e) {
    *s = (AttendScratch){0};
    const Shape shape = {n, n_heads, n_kv, k_width, v_width, out_width};
    const int64_t limit = INT64_C(1) << 31;
    Part p;
    size_t each = 0, split, total;
    if (n < 0 || n_heads < 1 || n_kv < 1 || k_width < 1 || v_width < 1 || out_width < 1 ||
        n > limit || n_heads > limit || k_width > limit || v_width > limit || out_width > limit ||
        !(each = part_layout(&shape, NULL, &p)) || !split_size(&shape, &split) ||
        !mul_size(each, (size_t)threads_get(), &total) || !add_size(total, split, &total) ||
        !mul_size(total, sizeof(float), &total))
        return fail(e, "attention scratch: %lld queries of %lld heads, widths %lld, %lld, %lld: "
                       "sizes must be positive and fit in memory", (long long)n,
                    (long long)n_heads, (long long)k_width, (long long)v_width,
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
    bool late;                          // M is applied to the sum of z
    int64_t chunk, n_chunks;            // queries of a task
    int64_t group, n_groups;            // KV heads of a task
    int64_t first_segment, n_segments;  // of a split query, else one task runs through all
    bool split;
    float *parts, *split_max, *split_sum, *split_acc;
    size_t part_floats;
    int64_t tasks, next;
} Job;

static int64_t segment_of(int64_t position) { return least(position / SEGMENT, SEGMENTS - 1); }

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
    const float top = seg_max > *max ? seg_max : *max;
    const float keep = expf(*max - top), in = expf(seg_max - top);
    *sum = *sum * keep + seg_sum * in;
    *max = top;
    scale_to(acc, keep, acc, width);
    axpy(acc, in, seg_acc, width);
}

// Scores of one row against positions p .. p + n become weights; the row's running maximum and
// sum move on, and what it has gathered is scaled to the new maximum.
static void weigh(const Attend *a, int64_t i, int64_t p, int64_t n, float *s, float *max,
                  float *sum, float *acc, int64_t width) {
    const int64_t from = least(most(first_seen(a, i) - p, 0), n);
    const int64_t to = most(least(seen_end(a, i) - p, n), from);
    memset(s, 0, (size_t)from * sizeof *s);
    memset(s + to, 0, (size_t)(n - to) * sizeof *s);
    if (from == to) return;
    const float here = a->scale * max_of(s + from, to - from);
    if (!(here <= *max)) {
        const float keep = expf(*max - here);
        *sum *= keep;
        *max = here;
        if (keep != 1) scale_to(acc, keep, acc, width);
    }
    *sum += exp_sum(s + from, to - from, a->scale, *max);
}

// One block of positions for the task's queries i0 .. i1 and KV heads g0 .. g1.
static void attend_block(const Job *j, const Part *t, int64_t i0, int64_t i1, int64_t g0,
                         int64_t g1, int64_t p, int64_t n, float *max, float *sum, float *acc) {
    const Attend *a = j->a;
    const Cache *c = a->cache;
    const int64_t rows = (i1 - i0) * j->m, width = j->width;
    Mat z = cache_rows(c, true, 0, p, n);
    if (c->latent && !j->late && c->type != T_F32) {
        if (c->type == T_F16) f16_row_to_f32(z.data, t->z, n * c->v_width);
        else dequantize_row(c->type, z.data, t->z, n * c->v_width);
        z = (Mat){t->z, n, c->v_width, T_F32};
    }
    for (int64_t g = g0; g < g1; g++) {
        const int64_t r0 = (g - g0) * rows;
        const Mat k = cache_rows(c, false, g, p, n);
        float *s = t->s + r0 * BLOCK;
        matmul_block(&k, t->q + r0 * c->k_width, rows, s, BLOCK);
        for (int64_t r = 0; r < rows; r++)
            weigh(a, i0 + r / j->m, p, n, s + r * BLOCK, max + r0 + r, sum + r0 + r,
                  acc + (r0 + r) * width, width);
        if (j->late) continue;
        Mat v = cache_rows(c, true, g, p, n);
        if (c->latent) {                                       // V = z M_g^T
            size_t row = 0;
            row_size(a->expand->type, a->expand->cols, &row);
            const Mat m_g = {(const char *)a->expand->data + (size_t)(g * width) * row, width,
                             a->expand->cols, a->expand->type};
            matmul_block(&m_g, z.data, n, t->v, width);
            v = (Mat){t->v, n, width, T_F32};
        }
        matmul_t_block(&v, s, BLOCK, rows, acc + r0 * width, width);
    }
    if (j->late) matmul_t_block(&z, t->s, BLOCK, rows * (g1 - g0), acc, width);
}

// The rows of KV head g, gathered and summed: divided by the sum of weights, expanded, delivered.
static void deliver(const Job *j, const Part *t, int64_t i0, int64_t i1, int64_t g,
                    const float *sum, float *acc) {
    const Attend *a = j->a;
    const int64_t rows = (i1 - i0) * j->m, out = j->shape.out_width;
    for (int64_t r = 0; r < rows; r++)
        scale_to(acc + r * j->width, 1 / sum[r], acc + r * j->width, j->width);
    if (j->late) {
        size_t row = 0;
        row_size(a->expand->type, a->expand->cols, &row);
        const Mat m_g = {(const char *)a->expand->data + (size_t)(g * out) * row, out,
                         a->expand->cols, a->expand->type};
        matmul_block(&m_g, acc, rows, t->y, out);
        acc = t->y;
    }
    for (int64_t i = i0; i < i1; i++)
        memcpy(a->out + (i * a->n_heads + g * j->m) * out, acc + (i - i0) * j->m * out,
               (size_t)(j->m * out) * sizeof *acc);
}

static void clear(float *max, float *sum, float *acc, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r++) max[r] = -INFINITY;
    memset(sum, 0, (size_t)rows * sizeof *sum);
    memset(acc, 0, (size_t)(rows * width) * sizeof *acc);
}

// Queries i0 .. i1, KV heads g0 .. g1, segments s0 .. s1.
static void attend_task(const Job *j, const Part *t, int64_t i0, int64_t i1, int64_t g0, int64_t g1,
                        int64_t s0, int64_t s1) {
    const Attend *a = j->a;
    const int64_t kw = a->cache->k_width, per_head = (i1 - i0) * j->m;
    const int64_t rows = per_head * (g1 - g0), width = j->width;
    for (int64_t g = g0; g < g1; g++)
        for (int64_t i = i0; i < i1; i++)
            memcpy(t->q + ((g - g0) * per_head + (i - i0) * j->m) * kw,
                   a->q + (i * a->n_heads + g * j->m) * kw, (size_t)(j->m * kw) * sizeof *t->q);
    clear(t->max, t->sum, t->acc, rows, width);
    for (int64_t s = s0; s < s1; s++) {
        const int64_t at = s * a->n_heads + g0 * j->m;         // where a split query's state goes
        float *max = j->split ? j->split_max + at : t->seg_max;
        float *sum = j->split ? j->split_sum + at : t->seg_sum;
        float *acc = j->split ? j->split_acc + at * width : t->seg_acc;
        clear(max, sum, acc, rows, width);
        const int64_t from = most(s * SEGMENT, first_seen(a, i0) / BLOCK * BLOCK);
        const int64_t past = seen_end(a, i1 - 1);
        const int64_t to = s == SEGMENTS - 1 ? past : least((s + 1) * SEGMENT, past);
        for (int64_t p = from; p < to; p += BLOCK)
            attend_block(j, t, i0, i1, g0, g1, p, least(to - p, BLOCK), max, sum, acc);
        for (int64_t r = 0; r < rows && !j->split; r++)
            merge(t->max + r, t->sum + r, t->acc + r * width, max[r], sum[r], acc + r * width,
                  width);
    }
    for (int64_t g = g0; g < g1 && !j->split; g++) {
        const int64_t r = (g - g0) * per_head;
        deliver(j, t, i0, i1, g, t->sum + r, t->acc + r * width);
    }
}

// ---- sharing out --------------------------------------------------------------------------------

// Threads take the next task until none is left: which one takes it changes no result.
static void attend_worker(void *ctx, int64_t begin, int64_t end, int thread) {
    Job *j = ctx;
    Part t;
    part_layout(&j->shape, j->parts + (size_t)thread * j->part_floats, &t);
    (void)begin;
    (void)end;
    for (;;) {
        // The last queries see most, so their chunks go first.
        const int64_t task = __atomic_fetch_add(&j->next, 1, __ATOMIC_RELAXED);
        if (task >= j->tasks) return;
        const int64_t group = task % j->n_groups, rest = task / j->n_groups;
        const int64_t g0 = group * j->group, g1 = least(g0 + j->group, j->shape.n_kv);
        if (j->split) {
            const int64_t s = j->first_segment + rest;
            attend_task(j, &t, 0, 1, g0, g1, s, s + 1);
        } else {
            const int64_t i0 = (j->n_chunks - 1 - rest) * j->chunk;
            const int64_t i1 = least(i0 + j->chunk, j->a->n);
            attend_task(j, &t, i0, i1, g0, g1, segment_of(first_seen(j->a, i0)),
                        segment_of(seen_end(j->a, i1 - 1) - 1) + 1);
        }
    }
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
        deliver(j, &t, 0, 1, g, t.sum, t.acc);
    }
}

void attend(const Attend *a, AttendScratch *s) {
    const Cache *c = a->cache;
    if (a->n <= 0) return;
    Job j = {.a = a, .m = a->n_heads / c->n_kv, .late = c->latent && !a->rebuild};
    j.shape = (Shape){a->n, a->n_heads, c->n_kv, c->k_width, c->v_width,
                      c->latent ? a->out_width : c->v_width};
    j.width = c->latent && a->rebuild ? a->out_width : c->v_width;

    // The scratch: one part a thread, then the states of a split query.
    Part unused;
    size_t split = 0;
    j.part_floats = part_layout(&j.shape, NULL, &unused);
    split_size(&j.shape, &split);
    const int64_t parts = (int64_t)((s->size / sizeof(float) - split) / j.part_floats);
    const int64_t threads = least(threads_get(), parts);
    j.parts = s->mem;
    j.split_max = j.parts + (size_t)parts * j.part_floats;
    j.split_sum = j.split_max + SEGMENTS * a->n_heads;
    j.split_acc = j.split_sum + SEGMENTS * a->n_heads;

    // Heads that share z go together as far as the threads allow; otherwise a task is a KV head.
    const int64_t seen = a->pos + a->n - first_seen(a, 0);
    j.first_segment = segment_of(first_seen(a, 0));
    j.n_segments = segment_of(a->pos + a->n - 1) + 1 - j.first_segment;
    j.split = a->n == 1 && j.n_segments > 1;
    j.group = 1;
    if (j.late) {
        const int64_t want = j.split ? (2 * threads + j.n_segments - 1) / j.n_segments
                           : a->n == 1 ? threads : 1;
        j.group = (c->n_kv + least(want, c->n_kv) - 1) / least(want, c->n_kv);
    }
    j.n_groups = (c->n_kv + j.group - 1) / j.group;
    const int64_t rows = j.group * j.m, goal = c->latent && a->rebuild ? ROWS_REBUILD : ROWS;
    j.chunk = least(most(goal / rows, 1), a->n);
    while (j.chunk > 8 && (a->n + j.chunk - 1) / j.chunk * j.n_groups < 4 * threads)
        j.chunk = (j.chunk + 1) / 2;
    j.n_chunks = (a->n + j.chunk - 1) / j.chunk;
    j.tasks = j.n_groups * (j.split ? j.n_segments : j.n_chunks);

    // A thread for every 64 k multiply-adds or so.
    const double work = (double)a->n * (double)a->n_heads * (double)seen *
                        (double)(c->k_width + j.width);
    const int64_t useful = work > 65536.0 * 256 ? 256 : (int64_t)(work / 65536) + 1;
    parallel_for(least(least(threads, useful), j.tasks), 1, attend_worker, &j);
    if (j.split) {
        const int64_t grain = threads > 1 && j.late ? 1 : c->n_kv;
        parallel_for(c->n_kv, most(grain, (c->n_kv + threads - 1) / threads), merge_worker, &j);
    }
}

// ---- the definition -----------------------------------------------------------------------------

void attend_naive(const Attend *a) {
    const Cache *c = a->cache;
    const int64_t m = a->n_heads / c->n_kv, out = c->latent ? a->out_width : c->v_width;
    const int64_t last = a->pos + a->n;
    double *w = alloc((size_t)last + 1, sizeof *w, "weights", NULL);
    float *k = alloc((size_t)c->k_width, sizeof *k, "a key", NULL);
    float *v = alloc((size_t)c->v_width, sizeof *v, "a value", NULL);
    double *sum = alloc((size_t)c->v_width, sizeof *sum, "a weighted sum", NULL);
    for (int64_t i = 0; i < a->n && w && k && v && sum; i++)
        for (int64_t h = 0; h < a->n_heads; h++) {
            const int64_t g = h / m, from = first_seen(a, i), to = seen_end(a, i);
            const float *q = a->q + (i * a->n_heads + h) * c->k_width;
            float *y = a->out + (i * a->n_heads + h) * out;
            double max = -INFINITY, total = 0;
            for (int64_t p = from; p < to; p++) {
                const Mat row = cache_rows(c, false, g, p, 1);
                mat_row(&row, 0, k);
                w[p] = 0;
                for (int64_t x = 0; x < c->k_width; x++) w[p] += (double)q[x] * k[x];
                w[p] *= a->scale;
                if (w[p] > max) max = w[p];
            }
            memset(sum, 0, (size_t)c->v_width * sizeof *sum);
            for (int64_t p = from; p < to; p++) {
                const Mat row = cache_rows(c, true, g, p, 1);
                mat_row(&row, 0, v);
                const double e = exp(w[p] - max);
                total += e;
                for (int64_t x = 0; x < c->v_width; x++) sum[x] += e * v[x];
            }
            for (int64_t r = 0; r < out; r++) {
                double value = 0;
                if (c->latent) {
                    mat_row(a->expand, g * out + r, v);
                    for (int64_t x = 0; x < c->v_width; x++) value += sum[x] * v[x];
                } else {
                    value = sum[r];
                }
                y[r] = (float)(value / total);
            }
        }
    free(sum);
    free(v);
    free(k);
    free(w);
}
