// text: what a model is calibrated on, as token ids in windows: cut from a file, or written by the model
// itself. See calibrate.h.
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
    const bool bos = v->add_bos && v->bos >= 0, eos = bos && v->add_eos && v->eos >= 0;
    const int64_t n = (int64_t)n_ids;
    if (!spread && n < window - bos - eos) window = n + bos + eos;      // a short text is one window
    const int64_t step = window - bos - eos;                            // ids of the file in a window
    if (n == 0) { fail(e, "%s: an empty text", path); goto done; }
    if (step < 1) {
        fail(e, "%s: BOS and EOS alone fill a window of %lld", path, (long long)window);
        goto done;
    }
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
        if (eos) to[step] = v->eos;
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
    int64_t taken, done;          // windows begun; ids written
    Sampler *sampler;             // (threads)
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

// A window that is being written, on a timeline of its own: the sample at hand stands in its session from
// position 0, so the ids that have not been computed are those behind the sample's first `pos`.
typedef struct {
    Session s;
    int *ids;                     // (window); NULL: there is nothing left to write
    int64_t n, start, end;        // ids so far; where the sample began, and has to end
    uint64_t state;               // of the random numbers
    const Start *how;
    bool asking;                  // the turn at hand is the user's
} Pen;

// Begins samples until one has room to go on, window by window.
static void begin(Writer *w, Pen *p) {
    const int64_t window = w->t->window;
    do {
        if (p->ids && p->n == window) p->ids = NULL;
        if (!p->ids) {
            if (w->taken == w->t->count) return;
            p->state = w->seed + (uint64_t)w->taken;
            p->ids = w->t->ids + w->taken++ * window;
            p->n = 0;
        }
        p->how = choose(w, &p->state);
        p->start = p->n;
        p->end = smaller(window, p->start + p->how->most);
        p->asking = p->how->chat;
        session_rewind(&p->s, 0);
        p->n = begin_sample(w, p->how, &p->state, p->ids, p->n);
    } while (p->n >= p->end);
}

static void write_id(Writer *w, Pen *p, int id) {
    p->ids[p->n++] = id;
    w->done++;
    bool over = false;
    if (tokenizer_ends(w->tok, id)) {
        over = !p->asking;
        if (p->asking) p->n = put(w, p->ids, p->n, w->reply.ids, (int64_t)w->reply.n);
        p->asking = false;
    }
    if (over || p->n >= p->end) begin(w, p);
}

// Draws the next ids of some pens from the logits of as many rows, each thread with a sampler of its own.
typedef struct { Writer *w; const float *rows; Pen **pens; int *id; } Draw;
static void draw_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const Draw *d = ctx;
    Sampler *sampler = &d->w->sampler[thread];
    for (int64_t i = begin; i < end; i++) {
        Pen *p = d->pens[i];
        sampler->state = p->state;
        sampler->c.temp = p->how->temp;
        sampler->c.top_p = p->how->top_p;
        d->id[i] = sampler_pick(sampler, (float *)d->rows + i * d->w->m->config.vocab);
        p->state = sampler->state;
    }
}

// One more id of every pen.
enum { PENS = 32, DRAWN = 16 };
static int write_step(Writer *w, Pen *pen, int64_t pens, int *ids, Err *e) {
    Session *host = &pen[0].s;
    Strand strand[PENS];
    Pen *row_of[PENS];
    int64_t count = 0, n = 0, rows = 0, d = w->m->config.d;
    for (Pen *p = pen; p < pen + pens; p++) {
        int64_t more = p->ids ? smaller(p->n - p->start - p->s.pos, host->config.batch - n) : 0;
        if (!more) continue;
        memcpy(ids + n, p->ids + p->start + p->s.pos, (size_t)more * sizeof *ids);
        row_of[count] = p;
        strand[count++] = (Strand){&p->s, more};
        n += more;
    }
    if (forward_together(strand, count, ids, e)) return -1;
    // The last rows of those that are complete move to the front.
    for (int64_t i = 0, row = -1; i < count; i++) {
        Pen *p = row_of[i];
        row += strand[i].n;
        if (p->s.pos < p->n - p->start) continue;
        if (rows < row) memcpy(host->x + rows * d, host->x + row * d, (size_t)d * sizeof *host->x);
        row_of[rows++] = p;
    }
    for (int64_t at = 0, part; at < rows; at += part) {
        int id[DRAWN];
        part = smaller(smaller(rows - at, host->max_logits), DRAWN);
        parallel_for(part, 1, draw_part, &(Draw){w, logits(host, at, part), row_of + at, id});
        for (int64_t i = 0; i < part; i++) write_id(w, row_of[at + i], id[i]);
    }
    return 0;
}

// All windows, as many side by side as fit into a batch, and their caches into a gigabyte.
static int write_all(Writer *w, Err *e) {
    const SessionConfig c = {.context = w->t->window, .batch = 64, .kv_type = T_F16};
    const SamplerConfig draw = {.temp = 1, .top_p = 1, .repeat_penalty = 1};
    Pen *pen = alloc(PENS, sizeof *pen, "pens", e);
    int ids[64], status = -1, threads = threads_get();
    int64_t pens = 0, most = smaller(w->t->count, PENS);
    w->sampler = alloc((size_t)threads, sizeof *w->sampler, "samplers", e);
    if (!pen || !w->sampler || session_init(&pen->s, w->m, c, e)) goto done;
    most = smaller(most, pen->s.config.batch);
    most = smaller(most, 1 + (int64_t)(0x1p30 / (double)(pen->s.cache_bytes + 1)));
    for (int i = 0; i < threads; i++)
        if (sampler_init(&w->sampler[i], w->vocab, draw, e)) goto done;
    for (; pens < most; pens++) {
        if (pens && session_beside(&pen[pens].s, &pen->s, e)) goto done;
        begin(w, &pen[pens]);
    }
    const double all = (double)w->t->count * (double)w->t->window;
    for (status = 0; !status;) {
        bool more = false;
        for (int64_t i = 0; i < pens; i++) more |= pen[i].ids != NULL;
        if (!more) break;
        status = interrupted ? fail(e, "interrupted") : write_step(w, pen, pens, ids, e);
        if (w->progress) w->progress(w->ctx, "writing", (double)w->done, all);
    }
done:
    for (int i = 0; w->sampler && i < threads; i++) sampler_free(&w->sampler[i]);
    for (int64_t i = PENS - 1; pen && i >= 0; i--)           // the host last
        if (pen[i].s.model) session_free(&pen[i].s);
    free(w->sampler);
    free(pen);
    return status;
}

int calib_self(CalibText *t, const Model *m, const Vocab *v, int64_t tokens, int64_t window,
               uint64_t seed, Progress *progress, void *ctx, Err *e) {
    Writer w = {.m = m, .v = v, .t = t, .seed = seed, .progress = progress, .ctx = ctx};
    int64_t count = 0;
    memset(t, 0, sizeof *t);
    if (m->config.encoder)
        return fail(e, "%s is an encoder and writes no text: --calib FILE", m->config.arch);
    int status = windows_of(tokens, window, &count, e) || text_new(t, count, window, e) ||
                 writer_init(&w, e) ? -1 : 0;
    if (!status) status = write_all(&w, e);
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
