// tasks: runs models over benchmark items, by the protocol of LASER (doc/EVALUATION.md). One item
// after the other on one timeline: what an item's text shares with the one before stays in the cache.
#include "coded.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NEW_TOKENS = 10 };

typedef struct {
    const Loaded *l;
    Session s;
    int *held;                 // (context) ids whose keys and values are in the cache
    int64_t new_tokens;
} Run;

// ---- a timeline ----------------------------------------------------------------------------------

// Brings the cache to ids[0 .. n-1], computing what is not in it, and shows row(position, logits of
// the token behind it) for the positions first .. n-1.
typedef void Row(void *ctx, int64_t position, const float *logits);
static int walk(Run *r, const int *ids, int64_t n, int64_t first, Row *row, void *ctx, Err *e) {
    Session *s = &r->s;
    int64_t at = ids_common(r->held, s->pos, ids, n), vocab = s->model->config.vocab;
    if (at > first) at = first;
    session_rewind(s, at);
    for (; at < n && !interrupted; at = s->pos) {
        int64_t part = n - at < s->config.batch ? n - at : s->config.batch;
        if (forward(s, ids + at, part, e)) return -1;
        memcpy(r->held + at, ids + at, (size_t)part * sizeof *ids);
        for (int64_t i = first > at ? first - at : 0; i < part; i += s->max_logits) {
            int64_t count = part - i < s->max_logits ? part - i : s->max_logits;
            const float *out = logits(s, i, count);
            for (int64_t j = 0; j < count; j++) row(ctx, at + i + j, out + j * vocab);
        }
    }
    return interrupted ? fail(e, "interrupted") : 0;
}

// The likeliest token that does not end the text, as the first of a continuation must not.
static int likeliest(const Run *r, const float *logits) {
    int64_t n = r->s.model->config.vocab;
    int best = argmax(logits, n);
    if (!tokenizer_ends(r->l->tokenizer, best)) return best;
    best = -1;
    for (int i = 0; i < n; i++)
        if (!tokenizer_ends(r->l->tokenizer, i) && (best < 0 || logits[i] > logits[best])) best = i;
    return best;
}

typedef struct {
    const Run *r;
    const int *ids;            // whose losses are summed, as far as they go (n)
    int64_t n, begin;          // begin: of a continuation, behind so many ids; -1: none is wanted
    bool may_end;              // its next token may be an end
    double loss;
    int next;                  // that token, -1: not seen
} Score;

static void score_row(void *ctx, int64_t position, const float *row) {
    Score *s = ctx;
    if (position + 1 < s->n)
        s->loss += token_loss(row, s->r->s.model->config.vocab, s->ids[position + 1]);
    if (position + 1 == s->begin)
        s->next = s->may_end ? argmax(row, s->r->s.model->config.vocab) : likeliest(s->r, row);
}

typedef struct { int64_t vocab; const int *next; int n; double *log_p; } Next;

static void next_row(void *ctx, int64_t position, const float *row) {
    Next *x = ctx;
    (void)position;
    for (int i = 0; i < x->n; i++) x->log_p[i] = -token_loss(row, x->vocab, x->next[i]);
}

// Greedily goes on behind the prompt. first: the token to begin with, -1: not known.
static int go_on(Run *r, const Coded *c, int first, int64_t limit, char **text, Err *e) {
    int64_t n = c->prompt.n, end = n + limit;
    int *ids = alloc((size_t)end, sizeof *ids, "a continuation", e);
    if (!ids) return -1;
    memcpy(ids, c->prompt.id, (size_t)n * sizeof *ids);
    Score at = {.r = r, .begin = n, .next = first};
    int status = first < 0 ? walk(r, ids, n, n - 1, score_row, &at, e) : 0;
    while (status == 0 && n < end && !tokenizer_ends(r->l->tokenizer, at.next)) {
        ids[n++] = at.next;
        at = (Score){.r = r, .begin = n, .may_end = true};
        if (n < end) status = walk(r, ids, n, n - 1, score_row, &at, e);
    }
    if (status == 0 && !(*text = ids_text(r->l, ids + c->prompt.n, n - c->prompt.n, false, e))) status = -1;
    free(ids);
    return status;
}

// ---- masked models -------------------------------------------------------------------------------

// Shows row(position, logits) of the places of ids that are masked.
static int see(Run *r, const int *ids, int64_t n, Row *row, void *ctx, Err *e) {
    if (interrupted) return fail(e, "interrupted");
    if (encode(&r->s, ids, n, e)) return -1;
    for (int64_t i = 0; i < n; i++)
        if (ids[i] == r->l->vocab->mask) row(ctx, i, logits(&r->s, i, 1));
    return 0;
}

typedef struct { int64_t vocab; const int *ids; double loss; } Hidden;
static void hidden_row(void *ctx, int64_t position, const float *row) {
    Hidden *h = ctx;
    h->loss += token_loss(row, h->vocab, h->ids[position]);
}

// The loss of answer i, its tokens' summed, with all of them masked at once.
static int masked_loss(Run *r, const Coded *c, int i, double *loss, Err *e) {
    const Ids *w = &c->whole[i];
    int *ids = alloc((size_t)w->n, sizeof *ids, "ids", e);
    Hidden h = {r->s.model->config.vocab, w->id, 0};
    if (!ids) return -1;
    for (int64_t k = 0; k < w->n; k++) ids[k] = k < c->from[i] ? w->id[k] : r->l->vocab->mask;
    int status = see(r, ids, w->n, hidden_row, &h, e);
    *loss = h.loss;
    free(ids);
    return status;
}

typedef struct { int64_t vocab; int *ids; int64_t n; } Filled;
static void fill_row(void *ctx, int64_t position, const float *row) {
    Filled *f = ctx;
    (void)position;
    f->ids[f->n++] = argmax(row, f->vocab);
}

// ---- items ---------------------------------------------------------------------------------------

static int run_answer(Run *r, const Item *it, const Coded *c, Outcome *o, Err *e) {
    const Ids *w = &c->whole[0];
    int64_t from = c->from[0], limit = it->new_tokens ? it->new_tokens : r->new_tokens;
    // Where the answer's text leaves the prompt's ids as they are, its losses and the first token of
    // the continuation come from the same pass.
    bool same = ids_common(w->id, w->n, c->prompt.id, c->prompt.n) == c->prompt.n;
    Score s = {.r = r, .ids = w->id, .n = w->n, .begin = same ? c->prompt.n : -1, .next = -1};
    if (walk(r, w->id, w->n - 1, from - 1, score_row, &s, e) ||
        go_on(r, c, s.next, limit, &o->text, e))
        return -1;
    o->loss = s.loss / (double)(w->n - from);
    char *all = alloc(strlen(it->prompt) + strlen(o->text) + 1, 1, "a text", e);
    if (!all) return -1;
    sprintf(all, "%s%s", it->prompt, o->text);
    o->right = text_holds(all, it->text[0]);
    o->strict = text_holds(o->text, it->text[0]);
    free(all);
    return 0;
}

// The masks' likeliest tokens, each by itself; the prompt does not count as said. LASER divides a
// masked loss by one more than there are tokens.
static int fill_answer(Run *r, const Item *it, const Coded *c, Outcome *o, Err *e) {
    Filled f = {r->s.model->config.vocab, alloc((size_t)c->prompt.n, sizeof *f.ids, "ids", e), 0};
    int status = f.ids ? see(r, c->prompt.id, c->prompt.n, fill_row, &f, e) : -1;
    if (status == 0 && !(o->text = ids_text(r->l, f.ids, f.n, true, e))) status = -1;
    free(f.ids);
    if (status || masked_loss(r, c, 0, &o->loss, e)) return -1;
    o->loss /= (double)(c->whole[0].n - c->from[0] + 1);
    o->right = o->strict = text_holds(o->text, it->text[0]);
    return 0;
}

static int run_choices(Run *r, const Item *it, const Coded *c, Outcome *o, Err *e) {
    bool masked = r->l->model->config.encoder;
    int best = 0;
    for (int i = 0; i < it->n; i++) {
        const Ids *w = &c->whole[i];
        Score s = {.r = r, .ids = w->id, .n = w->n, .begin = -1};
        if (masked ? masked_loss(r, c, i, &s.loss, e) :
            walk(r, w->id, w->n - 1, c->from[i] - 1, score_row, &s, e))
            return -1;
        o->log_p[i] = -s.loss;
        if (i == it->gold) o->loss = s.loss / (double)(w->n - c->from[i] + masked);
        if (o->log_p[i] > o->log_p[o->chosen]) o->chosen = i;
        if (o->log_p[i] / (double)text_length(it->text[i]) >
            o->log_p[best] / (double)text_length(it->text[best])) best = i;
    }
    o->right = o->chosen == it->gold;
    o->strict = best == it->gold;
    return 0;
}

static int run_next(Run *r, const Item *it, const Coded *c, Outcome *o, Err *e) {
    Next x = {r->s.model->config.vocab, c->next, it->n, o->log_p};
    if (r->l->model->config.encoder ? see(r, c->prompt.id, c->prompt.n, next_row, &x, e) :
        walk(r, c->prompt.id, c->prompt.n, c->prompt.n - 1, next_row, &x, e))
        return -1;
    for (int i = 0; i < it->n; i++)
        if (o->log_p[i] > o->log_p[o->chosen]) o->chosen = i;
    o->loss = -o->log_p[it->gold];
    o->right = o->strict = o->chosen == it->gold;
    return 0;
}

static int run_item(Run *r, const Item *it, const Coded *c, Outcome *o, Err *e) {
    if (it->kind == ITEM_NEXT) return run_next(r, it, c, o, e);
    if (it->kind == ITEM_CHOICES) return run_choices(r, it, c, o, e);
    return r->l->model->config.encoder ? fill_answer(r, it, c, o, e) : run_answer(r, it, c, o, e);
}

// Says of which line of which file an error speaks.
static int at_line(const Items *items, int64_t i, Err *e) {
    Err inner = *e;
    return fail(e, "%s: line %lld: %.400s", items->path, (long long)items->item[i].line, inner.msg);
}

typedef struct { double start; int64_t done, all, right; } Progress;     // right: since the model began

static void show(Progress *p, bool right, int64_t n) {
    p->done++;
    p->right += right;
    if (!isatty(STDERR_FILENO)) return;
    double left = (seconds() - p->start) / (double)p->done * (double)(p->all - p->done);
    fprintf(stderr, "\ritem %lld of %lld  %.2f %% right  %.0f s left   ", (long long)p->done,
            (long long)p->all, 100 * (double)p->right / (double)n, left);
}

// Every item on one model. All are read in its vocabulary first: so that what does not fit is said
// before the work, and the cache is as long as the longest needs.
static int run_items(const Loaded *l, const Items *items, const TaskOptions *options, SessionConfig c,
                     Outcome *o, Progress *p, Err *e) {
    Run r = {.l = l, .new_tokens = options->new_tokens ? options->new_tokens : NEW_TOKENS};
    Coded coded = {0};
    int status = -1;
    int64_t need = 0, longest = 2, trained = l->model->config.context;
    bool masked = l->model->config.encoder;
    if (!model_predicts(l->model) || (masked && l->vocab->mask < 0))
        return fail(e, "%s has no %s: there is nothing to evaluate", l->path,
                    masked && l->vocab->mask < 0 ? "mask token" : "output head");
    for (int64_t i = 0; i < items->n; i++) {
        int bad = code_item(&coded, l, &items->item[i], r.new_tokens, &need, e);
        coded_free(&coded);
        if (!bad && need > trained)
            bad = fail(e, "the item takes %lld positions, %s was trained for %lld", (long long)need,
                       l->path, (long long)trained);
        if (bad) return at_line(items, i, e);
        if (need > longest) longest = need;
        if (interrupted) return fail(e, "interrupted");
    }
    p->right = 0;
    c.context = longest;
    if (c.batch > longest || masked) c.batch = longest;
    if (masked) c.kv_type = T_F32;
    if (!(r.held = alloc((size_t)longest, sizeof *r.held, "ids", e)) ||
        session_init(&r.s, l->model, c, e))
        goto done;
    for (int64_t i = 0; i < items->n; i++) {
        const Item *it = &items->item[i];
        int bad = code_item(&coded, l, it, r.new_tokens, &need, e);
        if (!bad && it->kind != ITEM_ANSWER &&
            !(o[i].log_p = alloc((size_t)it->n, sizeof(double), "choices", e)))
            bad = -1;
        if (!bad) bad = run_item(&r, it, &coded, &o[i], e);
        coded_free(&coded);
        if (bad) goto done;
        show(p, o[i].right, i + 1);
    }
    status = 0;
done:
    session_free(&r.s);
    free(r.held);
    return status;
}

int tool_tasks(const Loaded *models, int n, const TaskOptions *options, SessionConfig c, Err *e) {
    Items items;
    Outcome *made[2] = {NULL};
    FileOut out = {0};
    double *x = NULL;
    int status = -1;
    if (items_read(&items, options->file, options->limit, e)) return -1;
    Progress p = {.start = seconds(), .all = n * items.n};
    if ((options->out && out_open(&out, options->out, e)) ||
        !(x = alloc((size_t)items.n, sizeof *x, "items", e)))
        goto done;
    for (int m = 0; m < n; m++)
        if (!(made[m] = alloc((size_t)items.n, sizeof *made[m], "items", e)) ||
            run_items(&models[m], &items, options, c, made[m], &p, e))
            goto done;
    if (isatty(STDERR_FILENO)) fputc('\n', stderr);
    if (options->out &&
        (write_outcomes(&out, &items, made[0], made[1], e) || out_commit(&out, e)))
        goto done;
    for (int m = 0; m < n; m++) {
        if (n > 1) printf("%s%s\n", m ? "\n" : "", models[m].path);
        print_figures(&items, made[m], x);
    }
    if (n > 1) {
        printf("\n%s against %s\n", models[0].path, models[1].path);
        print_difference(&items, made[0], made[1], x);
    }
    fflush(stdout);
    fprintf(stderr, "[%lld items, %.1f s]\n", (long long)p.all, seconds() - p.start);
    status = 0;
done:
    out_abort(&out);
    for (int m = 0; m < n; m++) outcomes_free(made[m], items.n);
    free(x);
    items_free(&items);
    return status;
}
