// tasks: runs models over benchmark items, by the protocol of LASER (doc/EVALUATION.md): decoders by
// lanes.c, masked models here, one item after another.
#include "lanes.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NEW_TOKENS = 10 };

// ---- masked models -------------------------------------------------------------------------------

typedef struct { const Loaded *l; Session s; } Masked;

// Shows row(position, logits) of the places of ids that are masked.
typedef void Row(void *ctx, int64_t position, const float *logits);
static int see(Masked *r, const int *ids, int64_t n, Row *row, void *ctx, Err *e) {
    Session *s = &r->s;
    if (interrupted) return fail(e, "interrupted");
    if (encode(s, ids, n, e)) return -1;
    for (int64_t i = 0; i < n; i++)
        if (ids[i] == r->l->vocab->mask) row(ctx, i, logits(s, i, 1));
    return 0;
}

typedef struct { int64_t vocab; const int *ids; double loss; } Hidden;
static void hidden_row(void *ctx, int64_t position, const float *row) {
    Hidden *h = ctx;
    h->loss += token_loss(row, h->vocab, h->ids[position]);
}

// The loss of answer i, its tokens' summed, with all of them masked at once.
static int masked_loss(Masked *r, const Coded *c, int i, double *loss, Err *e) {
    const Ids *w = &c->whole[i];
    int *ids = alloc((size_t)w->n, sizeof *ids, "ids", e);
    Hidden h = {r->l->model->config.vocab, w->id, 0};
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

// The masks' likeliest tokens, each by itself; the prompt does not count as said.
static int fill_answer(Masked *r, const Item *it, const Coded *c, Outcome *o, Err *e) {
    Filled f = {r->l->model->config.vocab, alloc((size_t)c->prompt.n, sizeof *f.ids, "ids", e), 0};
    int status = f.ids ? see(r, c->prompt.id, c->prompt.n, fill_row, &f, e) : -1;
    if (status == 0 && !(o->text = ids_text(r->l, f.ids, f.n, true, e))) status = -1;
    free(f.ids);
    if (status || masked_loss(r, c, 0, &o->loss, e)) return -1;
    o->loss /= (double)(c->whole[0].n - c->from[0] + 1);
    int right = text_holds(o->text, it->text[0], e);
    o->right = o->strict = right > 0;
    return right < 0 ? -1 : 0;
}

typedef struct { int64_t vocab; const int *next; int n; double *log_p; } Next;
static void next_row(void *ctx, int64_t position, const float *row) {
    Next *x = ctx;
    (void)position;
    for (int i = 0; i < x->n; i++) x->log_p[i] = -token_loss(row, x->vocab, x->next[i]);
}

// LASER divides a masked loss by one more than there are tokens.
static int run_masked(Masked *r, const Item *it, const Coded *c, Outcome *o, Err *e) {
    if (it->kind == ITEM_ANSWER) return fill_answer(r, it, c, o, e);
    if (it->kind == ITEM_NEXT) {
        Next x = {r->l->model->config.vocab, c->next, it->n, o->log_p};
        if (see(r, c->prompt.id, c->prompt.n, next_row, &x, e)) return -1;
        judge_next(it, o);
        return 0;
    }
    for (int i = 0; i < it->n; i++) {
        if (masked_loss(r, c, i, &o->log_p[i], e)) return -1;
        o->log_p[i] = -o->log_p[i];
    }
    judge_choices(it, c->whole[it->gold].n - c->from[it->gold] + 1, o);
    return 0;
}

// ---- items ---------------------------------------------------------------------------------------

// Says of which line of which file an error speaks.
static int at_line(const Items *items, int64_t i, Err *e) {
    Err inner = *e;
    return fail(e, "%s: line %lld: %.400s", items->path, (long long)items->item[i].line, inner.msg);
}

typedef struct {
    double start;
    int64_t done, all;                       // items of all models
    Outcome *made;                           // of this model
    int64_t n, right;                        // of these, so far
} Progress;

static void show(void *ctx, int64_t i) {
    Progress *p = ctx;
    p->done++;
    p->n++;
    p->right += p->made[i].right;
    if (!isatty(STDERR_FILENO)) return;
    double left = (seconds() - p->start) / (double)p->done * (double)(p->all - p->done);
    fprintf(stderr, "\ritem %lld of %lld  %.2f %% right  %.0f s left   ", (long long)p->done,
            (long long)p->all, 100 * (double)p->right / (double)p->n, left);
}

// Every item is read in the model's vocabulary before the work, so that what does not fit is said at
// once, and a cache is as long as the longest needs: *longest.
static int fit_all(const Loaded *l, const Items *items, int64_t new_tokens, int64_t *longest, Err *e) {
    int64_t need = 0, trained = l->model->config.context;
    Coded coded = {0};
    bool masked = l->model->config.encoder;
    if (!model_predicts(l->model) || (masked && l->vocab->mask < 0))
        return fail(e, "%s has no %s: there is nothing to evaluate", l->path,
                    masked && l->vocab->mask < 0 ? "mask token" : "output head");
    for (int64_t i = 0; i < items->n; i++) {
        int bad = code_item(&coded, l, &items->item[i], new_tokens, &need, e);
        coded_free(&coded);
        if (!bad && need > trained)
            bad = fail(e, "the item takes %lld positions, %s was trained for %lld", (long long)need,
                       l->path, (long long)trained);
        if (bad) return at_line(items, i, e);
        if (need > *longest) *longest = need;
        if (interrupted) return fail(e, "interrupted");
    }
    return 0;
}

static int run_all_masked(const Loaded *l, SessionConfig c, const Items *items, Progress *p, Err *e) {
    Masked r = {.l = l};
    Coded coded = {0};
    int64_t need;
    int status = session_init(&r.s, l->model, c, e);
    for (int64_t i = 0; i < items->n && status == 0; i++) {
        const Item *it = &items->item[i];
        Outcome *o = &p->made[i];
        status = code_item(&coded, l, it, 1, &need, e);
        if (status == 0 && it->kind != ITEM_ANSWER &&
            !(o->log_p = alloc((size_t)it->n, sizeof(double), "choices", e)))
            status = -1;
        if (status == 0) status = run_masked(&r, it, &coded, o, e);
        coded_free(&coded);
        if (status == 0) show(p, i);
    }
    if (r.s.model) session_free(&r.s);
    return status;
}

static int run_items(const Loaded *l, const Items *items, const TaskOptions *options, SessionConfig c,
                     Progress *p, Err *e) {
    int64_t longest = 2, new_tokens = options->new_tokens ? options->new_tokens : NEW_TOKENS;
    if (fit_all(l, items, new_tokens, &longest, e)) return -1;
    c.context = longest;
    return l->model->config.encoder ? run_all_masked(l, c, items, p, e)
                                    : lanes_run(l, c, new_tokens, items, p->made, show, p, e);
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
    for (int m = 0; m < n; m++) {
        p.made = made[m] = alloc((size_t)items.n, sizeof *made[m], "items", e);
        p.n = p.right = 0;
        if (!made[m] || run_items(&models[m], &items, options, c, &p, e)) goto done;
    }
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
