// tasks: runs models over benchmark items, by the protocol of LASER (doc/EVALUATION.md). One item
// after the other on one timeline: what an item's text shares with the one before stays in the cache.
#include "tools.h"
#include "tasks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NEW_TOKENS = 10 };

typedef struct { int *id; int64_t n; } Ids;

// An item in the ids of one vocabulary.
typedef struct {
    Ids prompt;
    Ids *whole;                // (n) the prompt and answer, or the prompt and each choice, as one string
    int64_t *from;             // (n) where in it the answer begins
    int *next;                 // (n) ITEM_NEXT: each choice's first token
    int n;
} Coded;

typedef struct {
    const Loaded *l;
    const char *file;
    Session s;
    int *held;                 // (context) ids whose keys and values are in the cache
    int64_t new_tokens;
} Run;

// ---- to ids --------------------------------------------------------------------------------------

// Ids of a text, with the vocabulary's BOS where it does not begin with it.
static int text_ids(const Loaded *l, const char *text, Ids *to, Err *e) {
    const Vocab *v = l->vocab;
    int *ids = NULL;
    size_t n = 0;
    if (tokenizer_encode(l->tokenizer, text, strlen(text), true, true, &ids, &n, e)) return -1;
    bool bos = v->add_bos && v->bos >= 0 && !(n && ids[0] == v->bos);
    to->n = (int64_t)n + bos;
    if ((to->id = alloc(n + 1, sizeof *ids, "an item's ids", e))) {
        if (bos) to->id[0] = v->bos;
        if (n) memcpy(to->id + bos, ids, n * sizeof *ids);
    }
    free(ids);
    return to->id ? 0 : -1;
}

static int64_t common(const int *a, int64_t na, const int *b, int64_t nb) {
    int64_t n = na < nb ? na : nb, i = 0;
    while (i < n && a[i] == b[i]) i++;
    return i;
}

static char *decode(const Loaded *l, const int *ids, int64_t n, Err *e) {
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    Decoder d = {.started = true};
    for (int64_t i = 0; f && i < n; i++) fputs(tokenizer_decode(l->tokenizer, &d, ids[i]), f);
    if (f) fputs(tokenizer_decode_end(l->tokenizer, &d), f);
    if (!f || fclose(f)) { free(text); fail(e, "out of memory"); return NULL; }
    return text;
}

// The fewest last ids whose text is the answer, as LASER finds them; -1: none are.
static int64_t answer_length(const Loaded *l, const Ids *whole, const char *answer) {
    size_t most = 3 * strlen(answer) + 64;       // a part of a character decodes to three bytes
    for (int64_t k = 1; k <= whole->n; k++) {
        char *text = decode(l, whole->id + whole->n - k, k, NULL);
        if (!text) return -1;
        bool same = text_same(text, answer), longer = strlen(text) > most;
        free(text);
        if (same) return k;
        if (longer) break;
    }
    return -1;
}

static void coded_free(Coded *c) {
    for (int i = 0; c->whole && i < c->n; i++) free(c->whole[i].id);
    free(c->whole);
    free(c->from);
    free(c->next);
    free(c->prompt.id);
    *c = (Coded){0};
}

// The first id of a choice behind the prompt.
static int first_id(const Run *r, const Item *it, int i, int *id, Err *e) {
    char *joined = text_join(it->prompt, it->text[i], e);
    int *ids = NULL;
    size_t n = 0;
    if (!joined) return -1;
    const char *behind = joined + strlen(it->prompt);
    int status = tokenizer_encode(r->l->tokenizer, behind, strlen(behind), true, false, &ids, &n, e);
    if (status == 0 && n == 0) status = fail(e, "choice %d has no tokens", i);
    if (status == 0) *id = ids[0];
    free(ids);
    free(joined);
    return status;
}

static int code_next(const Run *r, const Item *it, Coded *c, Err *e) {
    if (!(c->next = alloc((size_t)it->n, sizeof *c->next, "choices", e))) return -1;
    for (int i = 0; i < it->n; i++) {
        if (first_id(r, it, i, &c->next[i], e)) return -1;
        for (int k = 0; k < i; k++)
            if (c->next[k] == c->next[i])
                return fail(e, "choices %d and %d begin with the same token", k, i);
    }
    return 0;
}

static int code_whole(const Run *r, const Item *it, int i, Coded *c, Err *e) {
    char *joined = text_join(it->prompt, it->text[i], e);
    int status = joined ? text_ids(r->l, joined, &c->whole[i], e) : -1;
    free(joined);
    if (status) return -1;
    const Ids *w = &c->whole[i];
    int64_t shared = common(w->id, w->n, c->prompt.id, c->prompt.n), k = -1;
    if (it->kind == ITEM_ANSWER) k = answer_length(r->l, w, it->text[i]);
    c->from[i] = k > 0 ? w->n - k : shared;
    if (c->from[i] == w->n) return fail(e, "\"%.60s\" adds no tokens to the prompt", it->text[i]);
    return c->from[i] ? 0 : fail(e, "nothing stands before the answer: the prompt is empty");
}

// *c is to be freed in any case. *need: positions that the item takes.
static int code_item(const Run *r, const Item *it, Coded *c, int64_t *need, Err *e) {
    *c = (Coded){.n = it->n};
    if (text_ids(r->l, it->prompt, &c->prompt, e)) return -1;
    *need = c->prompt.n;
    if (c->prompt.n == 0) return fail(e, "an empty prompt, and this vocabulary has no BOS to begin with");
    if (it->kind == ITEM_NEXT) return code_next(r, it, c, e);
    if (!(c->whole = alloc((size_t)it->n, sizeof *c->whole, "choices", e)) ||
        !(c->from = alloc((size_t)it->n, sizeof *c->from, "choices", e)))
        return -1;
    if (it->kind == ITEM_ANSWER) *need += it->new_tokens ? it->new_tokens : r->new_tokens;
    for (int i = 0; i < it->n; i++) {
        if (code_whole(r, it, i, c, e)) return -1;
        if (c->whole[i].n > *need) *need = c->whole[i].n;
    }
    return 0;
}

// ---- a timeline ----------------------------------------------------------------------------------

// Brings the cache to ids[0 .. n-1], computing what is not in it, and shows row(position, logits of
// the token behind it) for the positions first .. n-1.
typedef void Row(void *ctx, int64_t position, const float *logits);
static int walk(Run *r, const int *ids, int64_t n, int64_t first, Row *row, void *ctx, Err *e) {
    Session *s = &r->s;
    int64_t at = common(r->held, s->pos, ids, n), vocab = s->model->config.vocab;
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
    if (status == 0 && !(*text = decode(r->l, ids + c->prompt.n, n - c->prompt.n, e))) status = -1;
    free(ids);
    return status;
}

// ---- items ---------------------------------------------------------------------------------------

static int run_answer(Run *r, const Item *it, const Coded *c, Outcome *o, Err *e) {
    const Ids *w = &c->whole[0];
    int64_t from = c->from[0], limit = it->new_tokens ? it->new_tokens : r->new_tokens;
    // Where the answer's text leaves the prompt's ids as they are, its losses and the first token of
    // the continuation come from the same pass.
    bool same = common(w->id, w->n, c->prompt.id, c->prompt.n) == c->prompt.n;
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

static int run_choices(Run *r, const Item *it, const Coded *c, Outcome *o, Err *e) {
    int best = 0;
    for (int i = 0; i < it->n; i++) {
        const Ids *w = &c->whole[i];
        Score s = {.r = r, .ids = w->id, .n = w->n, .begin = -1};
        if (walk(r, w->id, w->n - 1, c->from[i] - 1, score_row, &s, e)) return -1;
        o->log_p[i] = -s.loss;
        if (i == it->gold) o->loss = s.loss / (double)(w->n - c->from[i]);
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
    if (walk(r, c->prompt.id, c->prompt.n, c->prompt.n - 1, next_row, &x, e)) return -1;
    for (int i = 0; i < it->n; i++)
        if (o->log_p[i] > o->log_p[o->chosen]) o->chosen = i;
    o->loss = -o->log_p[it->gold];
    o->right = o->strict = o->chosen == it->gold;
    return 0;
}

// Says of which line of which file an error speaks.
static int at_line(const Items *items, int64_t i, Err *e) {
    Err inner = *e;
    return fail(e, "%s: line %lld: %.400s", items->path, (long long)items->item[i].line, inner.msg);
}

typedef struct { double start; int64_t done, all; } Progress;

static void show(Progress *p, const Outcome *o, int64_t n) {
    p->done++;
    if (!isatty(STDERR_FILENO)) return;
    int64_t right = 0;
    for (int64_t i = 0; i < n; i++) right += o[i].right;
    double left = (seconds() - p->start) / (double)p->done * (double)(p->all - p->done);
    fprintf(stderr, "\ritem %lld of %lld  %.2f %% right  %.0f s left   ", (long long)p->done,
            (long long)p->all, 100 * (double)right / (double)n, left);
}

// Every item on one model. All are read in its vocabulary first: so that what does not fit is said
// before the work, and the cache is as long as the longest needs.
static int run_items(const Loaded *l, const Items *items, const TaskOptions *options, SessionConfig c,
                     Outcome *o, Progress *p, Err *e) {
    Run r = {.l = l, .new_tokens = options->new_tokens ? options->new_tokens : NEW_TOKENS};
    Coded coded = {0};
    int status = -1;
    int64_t need = 0, longest = 2, trained = l->model->config.context;
    for (int64_t i = 0; i < items->n; i++) {
        int bad = code_item(&r, &items->item[i], &coded, &need, e);
        coded_free(&coded);
        if (!bad && need > trained)
            bad = fail(e, "the item takes %lld positions, %s was trained for %lld", (long long)need,
                       l->path, (long long)trained);
        if (bad) return at_line(items, i, e);
        if (need > longest) longest = need;
        if (interrupted) return fail(e, "interrupted");
    }
    c.context = longest;
    if (c.batch > longest) c.batch = longest;
    if (!(r.held = alloc((size_t)longest, sizeof *r.held, "ids", e)) ||
        session_init(&r.s, l->model, c, e))
        goto done;
    for (int64_t i = 0; i < items->n; i++) {
        const Item *it = &items->item[i];
        int bad = code_item(&r, it, &coded, &need, e);
        if (!bad && it->kind != ITEM_ANSWER &&
            !(o[i].log_p = alloc((size_t)it->n, sizeof(double), "choices", e)))
            bad = -1;
        if (!bad) bad = it->kind == ITEM_ANSWER ? run_answer(&r, it, &coded, &o[i], e) :
                        it->kind == ITEM_NEXT ? run_next(&r, it, &coded, &o[i], e) :
                                                run_choices(&r, it, &coded, &o[i], e);
        coded_free(&coded);
        if (bad) goto done;
        show(p, o, i + 1);
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
    double *x = NULL;
    int status = -1;
    if (items_read(&items, options->file, options->limit, e)) return -1;
    Progress p = {seconds(), 0, n * items.n};
    if (!(x = alloc((size_t)items.n, sizeof *x, "items", e))) goto done;
    for (int m = 0; m < n; m++)
        if (!(made[m] = alloc((size_t)items.n, sizeof *made[m], "items", e)) ||
            run_items(&models[m], &items, options, c, made[m], &p, e))
            goto done;
    if (isatty(STDERR_FILENO)) fputc('\n', stderr);
    if (options->out && write_outcomes(options->out, &items, made[0], made[1], e)) goto done;
    for (int m = 0; m < n; m++) {
        if (n > 1) printf("%s%s\n", m ? "\n" : "", models[m].path);
        print_figures(&items, made[m], x);
    }
    if (n > 1) {
        printf("\n%s against %s\n", models[0].path, models[1].path);
        print_difference(&items, made[0], made[1], x);
    }
    fprintf(stderr, "[%lld items, %.1f s]\n", (long long)(n * items.n), seconds() - p.start);
    status = 0;
done:
    for (int m = 0; m < n; m++) outcomes_free(made[m], items.n);
    free(x);
    items_free(&items);
    return status;
}
