// calibrate: what the projections of a dense model see. Reads or writes the text, runs it through
// the model a window at a time, and sums outer products in double precision. What the sums are good
// for is weigh.c's and the planner's business; gradients come from gradient.c.
#include "calibrate.h"

#include "../core/sampler.h"
#include "sha256.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// ==================================================================================================
// The text
// ==================================================================================================

// Room for `count` windows.
static int text_new(CalibText *t, int64_t count, int64_t window, Err *e) {
    size_t n;
    memset(t, 0, sizeof *t);
    if (!mul_size((size_t)count, (size_t)window, &n))
        return fail(e, "%lld windows of %lld ids: size overflows", (long long)count,
                    (long long)window);
    if (!(t->ids = alloc(n, sizeof *t->ids, "calibration text", e))) return -1;
    t->count = count;
    t->window = window;
    return 0;
}

// How many windows `tokens` ids make.
static int windows_of(int64_t tokens, int64_t window, int64_t *count, Err *e) {
    if (window < 2) return fail(e, "windows of %lld ids: 2 are the least", (long long)window);
    if (tokens < window)
        return fail(e, "a calibration text of %lld ids: a window alone takes %lld",
                    (long long)tokens, (long long)window);
    *count = tokens / window;
    return 0;
}

// Ids stand in memory as they are hashed: little-endian i32 (util.h refuses other machines).
static void text_hash(CalibText *t) {
    _Static_assert(sizeof *t->ids == 4, "ids are hashed as i32");
    Sha256 s;
    sha256_init(&s);
    sha256_add(&s, t->ids, (size_t)(t->count * t->window) * sizeof *t->ids);
    sha256_hex(&s, t->sha256);
}

void calib_free(CalibText *t) {
    free(t->ids);
    memset(t, 0, sizeof *t);
}

int calib_join(CalibText *t, const CalibText *more, Err *e) {
    if (t->count && more->count && t->window != more->window)
        return fail(e, "calibration texts in windows of %lld and of %lld ids cannot be joined",
                    (long long)t->window, (long long)more->window);
    if (!more->count) return 0;
    const size_t old = (size_t)(t->count * t->window), add = (size_t)(more->count * more->window);
    size_t n;
    if (!add_size(old, add, &n) || !mul_size(n, sizeof *t->ids, &n))
        return fail(e, "calibration text: size overflows");
    int *ids = realloc(t->ids, n);
    if (!ids) return fail(e, "calibration text: out of memory for %zu bytes", n);
    memcpy(ids + old, more->ids, add * sizeof *ids);
    t->ids = ids;
    t->window = more->window;
    t->count += more->count;
    text_hash(t);
    return 0;
}

enum { TEXT_LIMIT = 1 << 30 };              // bytes of a text, which is read whole

// At most `count` windows of a file, one behind the other or spread evenly.
static int cut_file(CalibText *t, const char *path, Tokenizer *tok, const Vocab *v, int64_t count,
                    int64_t window, bool spread, Err *e) {
    char *text = NULL;
    int *ids = NULL, status = -1;
    size_t size = 0, n_ids = 0;
    if (read_file(path, TEXT_LIMIT, &text, &size, e) ||
        tokenizer_encode(tok, text, size, false, true, &ids, &n_ids, e))
        goto done;
    const bool bos = v->add_bos && v->bos >= 0;
    const int64_t n = (int64_t)n_ids, step = window - bos;      // ids of the file in a window
    if (n == 0) { fail(e, "%s: an empty text", path); goto done; }
    if (n < step) {
        fail(e, "%s: a text of %lld ids is shorter than a window, which takes %lld", path,
             (long long)n, (long long)step);
        goto done;
    }
    count = smaller(count, n / step);
    if (text_new(t, count, window, e)) goto done;
    for (int64_t i = 0; i < count; i++) {
        const int64_t even = i * (n / count) + i * (n % count) / count;         // i n / count
        int *to = t->ids + i * window;
        if (bos) *to++ = v->bos;
        memcpy(to, ids + (spread ? even : i * step), (size_t)step * sizeof *to);
    }
    text_hash(t);
    status = 0;
done:
    free(ids);
    free(text);
    return status;
}

int calib_file(CalibText *t, const char *path, Tokenizer *tok, const Vocab *v, int64_t tokens,
               int64_t window, Err *e) {
    int64_t count = 0;
    memset(t, 0, sizeof *t);
    if (windows_of(tokens, window, &count, e)) return -1;
    return cut_file(t, path, tok, v, count, window, true, e);
}

int calib_windows(CalibText *t, const char *path, Tokenizer *tok, const Vocab *v, int64_t count,
                  int64_t window, Err *e) {
    memset(t, 0, sizeof *t);
    if (window < 2) return fail(e, "windows of %lld ids: 2 are the least", (long long)window);
    return cut_file(t, path, tok, v, count > 0 ? count : INT64_MAX, window, false, e);
}

// ==================================================================================================
// A text that the model writes itself
// ==================================================================================================

// How a sample begins and how it is drawn. Two random pieces of the vocabulary scatter the
// beginnings widely and did best as the only source (perplexity on texts that nobody calibrated
// for; well before common first words). A chat begins as a user's turn, which the model writes too,
// and then answers: a model tuned for chat is used so. The share of chats goes to the others where
// the model has no chat format known here.
typedef struct {
    double share;
    bool chat;                    // behind the mark of a user's turn
    int pieces;                   // random vocabulary pieces
    float temp, top_p;
    int64_t most;                 // ids of a sample: it ends there, if the model has not ended it
} Start;
static const Start starts[] = {
    {0.8, false, 2, 1.0f, 0.9f, 256},
    {0.2, true,  0, 1.0f, 0.9f, 256},
};
enum { N_STARTS = sizeof starts / sizeof *starts };

// Chat formats in which users' turns were trained too, so that the model can write them: what opens
// a turn, and what stands between its end mark, which the model writes, and the reply.
static const struct { const char *needs[2], *open, *reply; } chats[] = {
    {{"<|im_start|>", "<|im_end|>"}, "<|im_start|>user\n", "\n<|im_start|>assistant\n"},
    {{"<|start_header_id|>", "<|eot_id|>"}, "<|start_header_id|>user<|end_header_id|>\n\n",
     "<|start_header_id|>assistant<|end_header_id|>\n\n"},
};

typedef struct { int *ids; size_t n; } Ids;

typedef struct {
    const Model *m;
    const Vocab *v;
    Tokenizer *tok;
    int vocab;                    // ids that both the model and the vocabulary have
    int *ordinary, n_ordinary;    // pieces that a sample may begin with
    Ids open, reply;              // of the chat format; n = 0: none
    double shares;                // of the starts that there are
    CalibText *t;
    uint64_t seed;
    int64_t done;                 // ids written, by all threads
    int failed;
    Err err;                      // of the first that failed
    Progress *progress;
    void *ctx;
} Writer;

static bool holds(Str text, const char *part) {
    const size_t n = strlen(part);
    for (size_t i = 0; i + n <= text.n; i++)
        if (memcmp(text.s + i, part, n) == 0) return true;
    return false;
}

static int writer_init(Writer *w, Err *e) {
    const Vocab *v = w->v;
    if (!(w->tok = tokenizer_new(v, e)) ||
        !(w->ordinary = alloc((size_t)v->n, sizeof *w->ordinary, "pieces", e)))
        return -1;
    w->vocab = (int)smaller(v->n, w->m->config.vocab);
    for (int i = 0; i < w->vocab; i++)
        if (v->type[i] == TOK_NORMAL && v->piece[i].n && !(v->score && v->score[i] == -INFINITY) &&
            !tokenizer_ends(w->tok, i) && i != v->bos)
            w->ordinary[w->n_ordinary++] = i;
    if (!w->n_ordinary) return fail(e, "the vocabulary has no ordinary pieces to begin with");
    for (size_t i = 0; i < sizeof chats / sizeof *chats && !w->open.n; i++) {
        if (!holds(v->chat_template, chats[i].needs[0]) ||
            !holds(v->chat_template, chats[i].needs[1]))
            continue;
        if (tokenizer_encode(w->tok, chats[i].open, strlen(chats[i].open), true, true, &w->open.ids,
                             &w->open.n, e) ||
            tokenizer_encode(w->tok, chats[i].reply, strlen(chats[i].reply), true, false,
                             &w->reply.ids, &w->reply.n, e))
            return -1;
    }
    for (int i = 0; i < N_STARTS; i++)
        if (!starts[i].chat || w->open.n) w->shares += starts[i].share;
    return 0;
}

static void writer_free(Writer *w) {
    tokenizer_free(w->tok);
    free(w->ordinary);
    free(w->open.ids);
    free(w->reply.ids);
}

static const Start *choose(const Writer *w, uint64_t *state) {
    double left = random_f32(state) * w->shares;
    const Start *last = NULL;
    for (int i = 0; i < N_STARTS; i++) {
        if (starts[i].chat && !w->open.n) continue;
        last = &starts[i];
        if ((left -= last->share) < 0) break;
    }
    return last;
}

// Puts n more ids at ids[at], as many as the window holds; returns what is then the next place.
static int64_t put(const Writer *w, int *ids, int64_t at, const int *more, int64_t n) {
    n = smaller(n, w->t->window - at);
    if (n > 0) memcpy(ids + at, more, (size_t)n * sizeof *ids);
    return at + larger(n, 0);
}

static int64_t begin_sample(const Writer *w, const Start *how, uint64_t *state, int *ids,
                            int64_t at) {
    if (w->v->add_bos && w->v->bos >= 0) at = put(w, ids, at, &w->v->bos, 1);
    if (how->chat) at = put(w, ids, at, w->open.ids, (int64_t)w->open.n);
    for (int i = 0; i < how->pieces; i++)
        at = put(w, ids, at, &w->ordinary[random_u64(state) % (uint64_t)w->n_ordinary], 1);
    return at;
}

// Fills one window with samples. The session holds the sample at hand from position 0, so the ids
// it has not yet seen are those behind the sample's first `pos`.
static int write_window(Writer *w, Session *s, Sampler *d, int *ids, int thread, Err *e) {
    const int64_t window = w->t->window;
    for (int64_t n = 0, start = 0; n < window; start = n) {
        const Start *how = choose(w, &d->state);
        const int64_t end = smaller(window, start + how->most);
        bool asking = how->chat;                          // the turn at hand is the user's
        d->c.temp = how->temp;
        d->c.top_p = how->top_p;
        session_rewind(s, 0);
        n = begin_sample(w, how, &d->state, ids, n);
        while (n < end) {
            if (prefill(s, ids + start + s->pos, n - start - s->pos, e)) return -1;
            if (interrupted) return fail(e, "interrupted");
            if (__atomic_load_n(&w->failed, __ATOMIC_RELAXED)) return 0;
            const int id = sampler_pick(d, logits(s, s->n - 1, 1));
            ids[n++] = id;
            const int64_t done = __atomic_add_fetch(&w->done, 1, __ATOMIC_RELAXED);
            if (w->progress && thread == 0 && n % 32 == 0)             // thread 0 is the caller
                w->progress(w->ctx, "writing", (double)done, (double)(w->t->count * window));
            if (!tokenizer_ends(w->tok, id)) continue;
            if (!asking) break;
            asking = false;
            n = put(w, ids, n, w->reply.ids, (int64_t)w->reply.n);
        }
    }
    return 0;
}

static void write_part(void *ctx, int64_t begin, int64_t end, int thread) {
    Writer *w = ctx;
    Session s = {0};
    Sampler d = {0};
    Err err = {""};
    SessionConfig c = {.context = w->t->window, .batch = 16, .kv_type = T_F16};
    SamplerConfig draw = {.temp = 1, .top_p = 1, .repeat_penalty = 1};
    int status = session_init(&s, w->m, c, &err) || sampler_init(&d, w->vocab, draw, &err) ? -1 : 0;
    for (int64_t i = begin; i < end && !status; i++) {
        d.state = w->seed + (uint64_t)i;
        status = write_window(w, &s, &d, w->t->ids + i * w->t->window, thread, &err);
    }
    if (status && !__atomic_exchange_n(&w->failed, 1, __ATOMIC_RELAXED)) w->err = err;
    sampler_free(&d);
    session_free(&s);
}

int calib_self(CalibText *t, const Model *m, const Vocab *v, int64_t tokens, int64_t window,
               uint64_t seed, Progress *progress, void *ctx, Err *e) {
    Writer w = {.m = m, .v = v, .t = t, .seed = seed, .progress = progress, .ctx = ctx};
    int64_t count = 0;
    memset(t, 0, sizeof *t);
    int status = windows_of(tokens, window, &count, e) || text_new(t, count, window, e) ||
                 writer_init(&w, e) ? -1 : 0;
    if (!status) {
        parallel_for(count, 1, write_part, &w);
        if (w.failed) status = fail(e, "%s", w.err.msg);
    }
    writer_free(&w);
    if (status) {
        calib_free(t);
        return -1;
    }
    const double all = (double)count * (double)window;
    if (progress) progress(ctx, "writing", all, all);
    text_hash(t);
    return 0;
}

// ==================================================================================================
// The sums
// ==================================================================================================

// One array of a layer: `blocks` symmetric matrices (width, width).
typedef struct { double **at; int64_t blocks, width; bool per_token; } Part;
enum { PARTS = 13 };

static int parts_of(LayerMoments *l, const Config *c, int want, Part out[PARTS]) {
    const int64_t heads = c->h * c->hd, kv = c->n_kv * c->hd;
    const struct { int want; Part part; } all[PARTS] = {
        {WANT_X, {&l->x, 1, c->d, true}},          {WANT_O, {&l->o, 1, heads, true}},
        {WANT_FFN, {&l->ffn, 1, c->d, true}},      {WANT_DOWN, {&l->down, 1, c->f, true}},
        {WANT_KL, {&l->kl[0], c->h, c->hd, false}}, {WANT_KL, {&l->kl[1], c->n_kv, c->hd, false}},
        {WANT_FISHER, {&l->g[P_Q], 1, heads, true}}, {WANT_FISHER, {&l->g[P_K], 1, kv, true}},
        {WANT_FISHER, {&l->g[P_V], 1, kv, true}},  {WANT_FISHER, {&l->g[P_O], 1, c->d, true}},
        {WANT_FISHER, {&l->g_gate, c->f, 1, true}}, {WANT_FISHER, {&l->g_up, c->f, 1, true}},
        {WANT_FISHER, {&l->g_down, 1, c->d, true}},
    };
    int n = 0;
    for (int i = 0; i < PARTS; i++)
        if (all[i].want & want) out[n++] = all[i].part;
    return n;
}

// One block of memory: the layers' pointers, then all numbers. Both are whole cache lines.
static double header_bytes(const Config *c) {
    return 64 * ceil((double)c->n_layers * (double)sizeof(LayerMoments) / 64);
}
static int64_t padded(const Part *p) { return (p->blocks * p->width * p->width + 7) / 8 * 8; }

int calib_supported(const Config *c, Err *e) {
    if (c->gated && c->rope_dims && !c->layer_norm && !c->post_norm && !c->parallel && !c->encoder) return 0;
    return fail(e, "moments and gradients of architecture %s are not supported; --method hooi or hosvd "
                "needs none", c->arch);
}

double moments_bytes(const Config *c, int want) {
    LayerMoments l;
    Part part[PARTS];
    double numbers = 0;
    for (int i = 0, n = parts_of(&l, c, want, part); i < n; i++)
        numbers += (double)padded(&part[i]);
    return header_bytes(c) + numbers * sizeof(double) * (double)c->n_layers;
}

static int moments_new(Moments *m, const Config *c, int want, Err *e) {
    const double bytes = moments_bytes(c, want);
    memset(m, 0, sizeof *m);
    if (bytes > (double)(SIZE_MAX / 4)) return fail(e, "moments: %.0f bytes do not fit", bytes);
    uint8_t *at = alloc((size_t)bytes, 1, "moments", e);
    if (!at) return -1;
    m->layer = (LayerMoments *)(void *)at;
    m->n_layers = c->n_layers;
    double *numbers = (double *)(void *)(at + (size_t)header_bytes(c));
    for (int64_t l = 0; l < c->n_layers; l++) {
        Part part[PARTS];
        for (int i = 0, n = parts_of(&m->layer[l], c, want, part); i < n; i++) {
            *part[i].at = numbers;
            numbers += padded(&part[i]);
        }
    }
    return 0;
}

void moments_free(Moments *m) {
    free(m->layer);
    memset(m, 0, sizeof *m);
}

// a (w, w) *= scale, of which only the upper triangle was summed; the lower one mirrors it. In
// tiles, for the mirror image goes down a column.
static void symmetric(double *a, int64_t w, double scale) {
    enum { TILE = 32 };
    for (int64_t r0 = 0; r0 < w; r0 += TILE)
        for (int64_t s0 = r0; s0 < w; s0 += TILE)
            for (int64_t r = r0; r < smaller(r0 + TILE, w); r++)
                for (int64_t s = larger(s0, r); s < smaller(s0 + TILE, w); s++)
                    a[s * w + r] = a[r * w + s] *= scale;
}

// Sums become means.
static void moments_finish(Moments *m, const Config *c, int want) {
    for (int64_t l = 0; l < m->n_layers; l++) {
        Part part[PARTS];
        for (int i = 0, n = parts_of(&m->layer[l], c, want, part); i < n; i++) {
            const int64_t w = part[i].width;
            const double scale = part[i].per_token ? 1 / (double)m->tokens : 1;
            for (int64_t b = 0; b < part[i].blocks; b++)
                symmetric(*part[i].at + b * w * w, w, scale);
        }
    }
}

enum {
    ROWS = 576,               // tokens widened to double at a time
    BLOCK = 96,               // rows of a sum computed together, from the diagonal on
    KL_WINDOWS = 16,          // windows that the attention-KL metric looks at
    KL_QUERIES = 64,          // queries of a window and head, evenly spread
};

typedef struct {
    Moments *m;
    const Config *c;
    int want;
    double *wide;             // (ROWS, widest)
    float *act;               // (ROWS, f)      silu(gate) * up
    bool kl;                  // of this window
    double kl_scale;          // 1 / (queries looked at of each head)
    float *turn[2];           // (rope_dims / 2, window) cos, sin
    float *room;              // (threads, room_size)
    int64_t room_size;
    double *kl_key;           // (h, hd, hd) what each query head adds to its KV head's metric
} Collect;

typedef struct { double *to; const float *from; } Widen;
static void widen_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const Widen *w = ctx;
    (void)thread;
    for (int64_t i = begin; i < end; i++) w->to[i] = w->from[i];
}

// sum (d, d) += X^T X of x (n, d), upper triangle by rows of blocks.
static void add_outer(Collect *c, double *sum, const float *x, int64_t n, int64_t d) {
    if (!sum) return;
    for (int64_t r = 0; r < n; r += ROWS) {
        const int64_t rows = smaller(ROWS, n - r);
        Widen w = {c->wide, x + r * d};
        parallel_for(rows * d, 1 << 15, widen_part, &w);
        for (int64_t i = 0; i < d; i += BLOCK)
            dgemm(true, false, smaller(BLOCK, d - i), d - i, rows, c->wide + i, d, c->wide + i, d,
                  1, sum + i * d + i, d);
    }
}

typedef struct { double *sum; const float *x; int64_t n, d; } Squares;
static void squares_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const Squares *s = ctx;
    (void)thread;
    for (int64_t t = 0; t < s->n; t++)
        for (int64_t i = begin; i < end; i++)
            s->sum[i] += (double)s->x[t * s->d + i] * s->x[t * s->d + i];
}

static void add_squares(double *sum, const float *x, int64_t n, int64_t d) {
    Squares s = {sum, x, n, d};
    parallel_for(d, 64, squares_part, &s);
}

// What `down` sees is made anew from gate and up: the engine's own product comes later.
typedef struct { float *act; const float *gate, *up; int64_t f; } Product;
static void product_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const Product *p = ctx;
    const int64_t at = begin * p->f, n = (end - begin) * p->f;
    (void)thread;
    memcpy(p->act + at, p->gate + at, (size_t)n * sizeof *p->act);
    swiglu(p->act + at, p->up + at, n);
}

// ---- the attention-KL metric ---------------------------------------------------------------------
// A row of attention p over the keys a query sees has scores s_j = q . k_j / sqrt(hd). Scores moved
// by e_j move the row by KL = 1/2 Var_p(e) to second order. With R_a the rotation by a positions,
// and q, k before rotation,
//
//   q_t moved by u:     e_j = u . R_{j-t} k_j / sqrt(hd), so that the mean KL = 1/2 u' D2 u with
//       D2 = E_t[Cov over p_t of R_{j-t} k_j] / hd                        for every query head
//   k_j moved by u_j:   e_j = u_j . R_{t-j} q_t / sqrt(hd), and where the u_j are independent
//       D2 = E_t[sum over j of p_tj (1 - p_tj) (R_{t-j} q_t)(R_{t-j} q_t)'] / hd
//                                          for every KV head, summed over its query heads
//
// In terms of q_t and k_j as they are seen, rotated already: R_{-t} k_j and R_{-j} q_t.
// Both are means over queries t of sums over all keys j. All t would cost n^2 hd^2 a head, so at
// most KL_QUERIES of a window are taken, evenly spread, each with all its keys: exact up to that
// length. (64 of 512 in 8 windows of SmolLM2: 3 % off all of them, where other windows of the same
// text make 5 % and another kind of text 30 %.)
// Where a model norms q and k (qwen3), the metric is of the normed vectors: an approximation of
// what the projections before the norms are worth.

typedef struct { Collect *c; const LayerMoments *to; const float *q, *k; int64_t n; } KlJob;

// sum (hd, hd), upper triangle, += scale * A A^T of a (hd, m).
static void kl_add(double *sum, const float *a, int64_t hd, int64_t m, double scale, float *gram) {
    for (int64_t r = 0; r < hd; r += 16) {              // columns r … of 16 rows: nothing twice
        const int64_t rows = smaller(16, hd - r);
        const Mat rest = {a + r * m, hd - r, m, T_F32};
        matmul_block(&rest, a + r * m, rows, gram, hd - r);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = i; j < hd - r; j++)
                sum[(r + i) * hd + r + j] += scale * gram[i * (hd - r) + j];
    }
}

// a (hd, m) = root_j R_{-t} (k_j - mean) of the rotated keys, transposed: kt (hd, m), rows n apart.
static void key_rows(const Collect *c, float *a, const float *kt, int64_t n, const float *p,
                     const float *root, int64_t m, int64_t t) {
    const Config *g = c->c;
    const int64_t pairs = g->rope_dims / 2;
    for (int64_t i = 0; i < g->hd; i++) {
        const float mean = dot(p, kt + i * n, m);
        for (int64_t j = 0; j < m; j++) a[i * m + j] = root[j] * (kt[i * n + j] - mean);
    }
    for (int64_t i = 0; i < pairs; i++) {
        float *x = a + (g->rope_half ? i : 2 * i) * m, *y = x + (g->rope_half ? pairs : 1) * m;
        const float cosine = c->turn[0][i * n + t], sine = c->turn[1][i * n + t];
        for (int64_t j = 0; j < m; j++) {
            const float u = x[j], v = y[j];
            x[j] = u * cosine + v * sine;
            y[j] = v * cosine - u * sine;
        }
    }
}

// a (hd, m) = root_j R_{-j} q of the rotated query q, j = first, first + 1, …
static void query_rows(const Collect *c, float *a, const float *q, const float *root, int64_t n,
                       int64_t first, int64_t m) {
    const Config *g = c->c;
    const int64_t pairs = g->rope_dims / 2;
    for (int64_t i = 0; i < pairs; i++) {
        const int64_t at = g->rope_half ? i : 2 * i, next = at + (g->rope_half ? pairs : 1);
        const float *cosine = c->turn[0] + i * n + first, *sine = c->turn[1] + i * n + first;
        const float u = q[at], v = q[next];
        for (int64_t j = 0; j < m; j++) {
            a[at * m + j] = root[j] * (u * cosine[j] + v * sine[j]);
            a[next * m + j] = root[j] * (v * cosine[j] - u * sine[j]);
        }
    }
    for (int64_t i = g->rope_dims; i < g->hd; i++)
        for (int64_t j = 0; j < m; j++) a[i * m + j] = root[j] * q[i];
}

static int64_t kl_queries(int64_t n) { return smaller(n, KL_QUERIES); }

static void kl_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const KlJob *job = ctx;
    const Collect *c = job->c;
    const Config *g = c->c;
    const int64_t n = job->n, hd = g->hd, queries = kl_queries(n);
    float *kt = c->room + thread * c->room_size, *a = kt + hd * n, *p = a + hd * n, *root = p + n;
    float *gram = root + n;
    for (int64_t head = begin; head < end; head++) {
        const int64_t group = head / (g->h / g->n_kv);
        for (int64_t j = 0; j < n; j++)
            for (int64_t i = 0; i < hd; i++) kt[i * n + j] = job->k[(j * g->n_kv + group) * hd + i];
        for (int64_t s = 0; s < queries; s++) {
            const int64_t t = (2 * s + 1) * n / (2 * queries);        // the middle of each part
            const int64_t first = g->window > 0 ? larger(t - g->window + 1, 0) : 0;
            const int64_t m = t - first + 1;
            const float *q = job->q + (t * g->h + head) * hd, scale = 1 / sqrtf((float)hd);
            for (int64_t j = 0; j < m; j++)
                p[j] = scale * dot(q, job->k + ((first + j) * g->n_kv + group) * hd, hd);
            softmax(p, m);
            for (int64_t j = 0; j < m; j++) root[j] = scale * sqrtf(p[j]);
            key_rows(c, a, kt + first, n, p, root, m, t);
            kl_add(job->to->kl[0] + head * hd * hd, a, hd, m, c->kl_scale, gram);
            for (int64_t j = 0; j < m; j++) root[j] *= sqrtf(1 - fminf(p[j], 1));
            query_rows(c, a, q, root, n, first, m);
            kl_add(c->kl_key + head * hd * hd, a, hd, m, c->kl_scale, gram);
        }
    }
}

// q (n, h, hd) and k (n, n_kv, hd), rotated.
static void add_kl(Collect *c, LayerMoments *to, const float *q, const float *k, int64_t n) {
    const Config *g = c->c;
    const int64_t size = g->hd * g->hd, m = g->h / g->n_kv;
    KlJob job = {c, to, q, k, n};
    memset(c->kl_key, 0, (size_t)(g->h * size) * sizeof *c->kl_key);
    parallel_for(g->h, 1, kl_part, &job);
    for (int64_t h = 0; h < g->h; h++)                    // in order, whichever thread came first
        for (int64_t i = 0; i < size; i++) to->kl[1][h / m * size + i] += c->kl_key[h * size + i];
}

// ---- collecting ----------------------------------------------------------------------------------

static void on_forward(void *ctx, const Session *s, int64_t layer, Seen at, int64_t n) {
    Collect *c = ctx;
    if (at == SEEN_END) return;
    LayerMoments *l = &c->m->layer[layer];
    const Config *g = c->c;
    if (at == SEEN_ATTENTION) {
        add_outer(c, l->x, s->xn, n, g->d);
        add_outer(c, l->o, s->o, n, g->h * g->hd);
        if (c->kl) add_kl(c, l, s->q, s->k, n);
        return;
    }
    add_outer(c, l->ffn, s->xn, n, g->d);
    for (int64_t r = 0; l->down && r < n; r += ROWS) {
        const int64_t rows = smaller(ROWS, n - r);
        Product p = {c->act, s->gate + r * g->f, s->up + r * g->f, g->f};
        parallel_for(rows, 8, product_part, &p);
        add_outer(c, l->down, c->act, rows, g->f);
    }
}

static void on_gradient(void *ctx, int64_t layer, const LayerGradient *b, int64_t n) {
    Collect *c = ctx;
    LayerMoments *l = &c->m->layer[layer];
    const Config *g = c->c;
    const int64_t heads = g->h * g->hd, kv = g->n_kv * g->hd;
    add_outer(c, l->x, b->x, n, g->d);
    add_outer(c, l->o, b->o, n, heads);
    add_outer(c, l->ffn, b->ffn, n, g->d);
    add_outer(c, l->down, b->down, n, g->f);
    if (c->kl) add_kl(c, l, b->q, b->k, n);
    add_outer(c, l->g[P_Q], b->gq, n, heads);
    add_outer(c, l->g[P_K], b->gk, n, kv);
    add_outer(c, l->g[P_V], b->gv, n, kv);
    add_outer(c, l->g[P_O], b->go, n, g->d);
    add_outer(c, l->g_down, b->g_down, n, g->d);
    add_squares(l->g_gate, b->g_gate, n, g->f);
    add_squares(l->g_up, b->g_up, n, g->f);
}

static void collect_free(Collect *c) {
    void *all[] = {c->wide, c->act, c->turn[0], c->turn[1], c->room, c->kl_key};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static int collect_init(Collect *c, const Model *model, int64_t window, Err *e) {
    const Config *g = c->c;
    const int64_t pairs = g->rope_dims / 2, rows = smaller(ROWS, window);
    const int64_t widest = larger(larger(g->d, g->h * g->hd), c->want & WANT_DOWN ? g->f : 0);
    if (!(c->wide = alloc((size_t)(rows * widest), sizeof *c->wide, "activations", e))) return -1;
    if (c->want & WANT_DOWN && !(c->want & WANT_FISHER) &&
        !(c->act = alloc((size_t)(rows * g->f), sizeof *c->act, "activations", e)))
        return -1;
    if (!(c->want & WANT_KL)) return 0;
    c->room_size = 2 * g->hd * window + 2 * window + 16 * g->hd;
    size_t table, room;
    if (!mul_size((size_t)pairs, (size_t)window, &table) ||
        !mul_size((size_t)threads_get(), (size_t)c->room_size, &room))
        return fail(e, "the attention-KL metric of windows of %lld: size overflows",
                    (long long)window);
    if (!(c->turn[0] = alloc(table, sizeof(float), "rotary angles", e)) ||
        !(c->turn[1] = alloc(table, sizeof(float), "rotary angles", e)) ||
        !(c->room = alloc(room, sizeof(float), "attention rows", e)) ||
        !(c->kl_key = alloc((size_t)(g->h * g->hd * g->hd), sizeof(double), "attention rows", e)))
        return -1;
    for (int64_t i = 0; i < pairs; i++) {                  // as in model.c, a row a pair
        double rate = pow(g->rope_base, -2.0 * (double)i / (double)g->rope_dims) / g->rope_scale;
        if (model->rope_factors) rate /= model->rope_factors[i];
        for (int64_t t = 0; t < window; t++) {
            c->turn[0][i * window + t] = (float)cos((double)t * rate);
            c->turn[1][i * window + t] = (float)sin((double)t * rate);
        }
    }
    return 0;
}

int moments_collect(Moments *m, const Model *model, const CalibText *t, int want,
                    Progress *progress, void *ctx, Err *e) {
    const Config *g = &model->config;
    Collect c = {.m = m, .c = g, .want = want};
    Session s = {0};
    Gradient *gradient = NULL;
    double loss = 0, sum = 0;
    int status = -1;
    memset(m, 0, sizeof *m);
    if (t->count < 1 || t->window < 2)
        return fail(e, "a calibration text of %lld windows of %lld ids", (long long)t->count,
                    (long long)t->window);
    if (calib_supported(g, e)) return -1;
    for (int64_t l = 0; l < g->n_layers; l++)
        if (model->layer[l].attn.n_groups)
            return fail(e, "moments are of a dense model: layer %lld has factors", (long long)l);
    SessionConfig sc = {.context = t->window, .batch = t->window, .kv_type = T_F32,
                        .form = CACHE_DENSE};
    if (moments_new(m, g, want, e) || collect_init(&c, model, t->window, e) ||
        (want & WANT_FISHER ? !(gradient = gradient_new(model, t->window, e))
                            : session_init(&s, model, sc, e)))
        goto done;
    s.observer = on_forward;
    s.observer_ctx = &c;

    const int64_t seen = smaller(t->count, KL_WINDOWS);
    const double all = (double)t->count * (double)t->window;
    c.kl_scale = 1 / (double)(seen * kl_queries(t->window));
    for (int64_t i = 0; i < t->count; i++) {
        const int *ids = t->ids + i * t->window;
        // `seen` windows, evenly spread: those where i * seen / count steps.
        c.kl = want & WANT_KL && (i == 0 || i * seen / t->count != (i - 1) * seen / t->count);
        if (progress) progress(ctx, "reading", (double)m->tokens, all);
        if (gradient) {
            if (gradient_window(gradient, ids, t->window, &loss, on_gradient, &c, e)) goto done;
            sum += loss;
        } else {
            session_rewind(&s, 0);
            if (forward(&s, ids, t->window, e)) goto done;
        }
        if (interrupted) { fail(e, "interrupted"); goto done; }
        m->tokens += t->window;
    }
    moments_finish(m, g, want);
    if (gradient) m->loss = sum / (double)(t->count * (t->window - 1));
    if (progress) progress(ctx, "reading", all, all);
    status = 0;
done:
    session_free(&s);
    gradient_free(gradient);
    collect_free(&c);
    if (status) moments_free(m);
    return status;
}
