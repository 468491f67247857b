// lanes: runs a decoder over benchmark items by the protocol of LASER (doc/EVALUATION.md), several at a
// time in shared batches. What an item's text has in common with the one before it on its timeline stays
// in the cache.
#include "lanes.h"

#include <stdlib.h>
#include <string.h>

enum { LANES = 32 };
#define CACHES 0x1p30              // bytes that the timelines' caches may take together

// A timeline and the item on it. It goes in walks: each brings some ids into the cache and looks at the
// logits behind the last of them; what they say decides where the next walk goes.
typedef struct {
    Session s;
    int *held;                 // (context) ids whose keys and values are in the cache
    const Item *item;          // NULL: none
    Outcome *out;
    Coded coded;
    const int *ids;            // the walk: ids[0 .. n-1] into the cache; the logits behind
    int64_t n, first, seen;    // first .. n-1 are looked at, in order: `seen` is next
    double loss;               // summed over ids[first + 1 .. n]; `losses`: it is wanted
    bool losses;
    int64_t begin;             // a continuation begins behind so many ids; -1: none does
    int next;                  // its next token; -1: not seen
    int choice;                // the one that is being looked at
    int *said;                 // (limit) the prompt's ids and the continuation
    int64_t n_said, limit;
} Lane;

typedef struct {
    const Loaded *l;
    int64_t new_tokens, n;
    Lane lane[LANES];          // n of them, all in the room of the first
    int *ids, *lane_of;        // (batch) of the tokens in flight; of the rows whose logits are wanted
} Lanes;

// ---- an item in walks ----------------------------------------------------------------------------

// The likeliest token that does not end the text, as the first of a continuation must not.
static int likeliest(const Loaded *l, const float *logits) {
    int64_t n = l->model->config.vocab;
    int best = argmax(logits, n);
    if (!tokenizer_ends(l->tokenizer, best)) return best;
    best = -1;
    for (int i = 0; i < n; i++)
        if (!tokenizer_ends(l->tokenizer, i) && (best < 0 || logits[i] > logits[best])) best = i;
    return best;
}

static void walk(Lane *w, const int *ids, int64_t n, int64_t first) {
    int64_t held = ids_common(w->held, w->s.pos, ids, n);
    session_rewind(&w->s, held < first ? held : first);
    w->ids = ids;
    w->n = n;
    w->first = w->seen = first;
    w->losses = false;
    w->begin = -1;
}

// For the losses of a text's ids from `from` on: it stops before the last of them.
static void walk_losses(Lane *w, const Ids *text, int64_t from) {
    walk(w, text->id, text->n - 1, from - 1);
    w->losses = true;
    w->loss = 0;
}

// For the token behind the n ids that have been said.
static void walk_on(Lane *w) {
    walk(w, w->said, w->n_said, w->n_said - 1);
    w->begin = w->n_said;
}

// What the logits behind ids[at] say.
static void look(const Loaded *l, Lane *w, int64_t at, const float *logits) {
    int64_t vocab = l->model->config.vocab;
    for (int i = 0; i < w->item->n && w->item->kind == ITEM_NEXT; i++)
        w->out->log_p[i] = -token_loss(logits, vocab, w->coded.next[i]);
    if (w->losses) w->loss += token_loss(logits, vocab, w->ids[at + 1]);
    if (at + 1 == w->begin)
        w->next = w->begin == w->coded.prompt.n ? likeliest(l, logits) : argmax(logits, vocab);
}

// The first walk of an item.
static int set_out(const Lanes *r, Lane *w, Err *e) {
    const Coded *c = &w->coded;
    const Ids *prompt = &c->prompt;
    w->choice = 0;
    w->next = -1;
    if (w->item->kind == ITEM_NEXT) walk(w, prompt->id, prompt->n, prompt->n - 1);
    else walk_losses(w, &c->whole[0], c->from[0]);
    if (w->item->kind != ITEM_ANSWER) return 0;
    // Where the answer's text leaves the prompt's ids as they are, its losses and the first token of
    // the continuation may come from the same walk.
    if (ids_common(w->ids, w->n, prompt->id, prompt->n) == prompt->n) w->begin = prompt->n;
    w->n_said = prompt->n;
    w->limit = prompt->n + (w->item->new_tokens ? w->item->new_tokens : r->new_tokens);
    if (!(w->said = alloc((size_t)w->limit, sizeof *w->said, "a continuation", e))) return -1;
    memcpy(w->said, prompt->id, (size_t)prompt->n * sizeof *w->said);
    return 0;
}

// Behind a walk: the next one (0), or the item is done (1).
static int go_on(const Lanes *r, Lane *w, Err *e) {
    const Item *it = w->item;
    const Coded *c = &w->coded;
    Outcome *o = w->out;
    if (it->kind == ITEM_NEXT) {
        judge_next(it, o);
        return 1;
    }
    if (it->kind == ITEM_CHOICES) {
        o->log_p[w->choice++] = -w->loss;
        if (w->choice < it->n) walk_losses(w, &c->whole[w->choice], c->from[w->choice]);
        else judge_choices(it, c->whole[it->gold].n - c->from[it->gold], o);
        return w->choice == it->n;
    }
    if (w->losses) o->loss = w->loss / (double)(c->whole[0].n - c->from[0]);
    bool more = w->next < 0;
    if (!more && !tokenizer_ends(r->l->tokenizer, w->next)) {
        w->said[w->n_said++] = w->next;
        more = w->n_said < w->limit;
    }
    if (more) {
        walk_on(w);
        return 0;
    }
    o->text = ids_text(r->l, w->said + c->prompt.n, w->n_said - c->prompt.n, false, e);
    return o->text && judge_answer(it, o, e) == 0 ? 1 : -1;
}

// ---- timelines -----------------------------------------------------------------------------------

// For up to n items at once, as many as fit into a batch and into CACHES.
static int make_lanes(Lanes *r, SessionConfig c, int64_t n, Err *e) {
    Session *host = &r->lane[0].s;
    c.uniform = true;                       // an item's outcome does not depend on those beside it
    if (session_init(host, r->l->model, c, e)) return -1;
    double most = CACHES / (double)(host->cache_bytes + 1);
    if (n > LANES) n = LANES;
    if (n > host->config.batch) n = host->config.batch;
    if ((double)n > most) n = most < 1 ? 1 : (int64_t)most;
    for (int64_t i = 0; i < n; i++, r->n++)
        if ((i && session_beside(&r->lane[i].s, host, e)) ||
            !(r->lane[i].held = alloc((size_t)c.context, sizeof(int), "ids", e)))
            return -1;
    r->ids = alloc((size_t)host->config.batch, sizeof *r->ids, "ids", e);
    r->lane_of = alloc((size_t)host->config.batch, sizeof *r->lane_of, "rows", e);
    return r->ids && r->lane_of ? 0 : -1;
}

static void leave(Lane *w) {
    coded_free(&w->coded);
    free(w->said);
    w->said = NULL;
    w->item = NULL;
}

static void free_lanes(Lanes *r) {
    for (int64_t i = LANES - 1; i >= 0; i--) {           // the host last
        leave(&r->lane[i]);
        free(r->lane[i].held);
        if (r->lane[i].s.model) session_free(&r->lane[i].s);
    }
    free(r->ids);
    free(r->lane_of);
}

static int take(Lanes *r, Lane *w, const Item *it, Outcome *o, Err *e) {
    int64_t need;
    w->item = it;
    w->out = o;
    if (code_item(&w->coded, r->l, it, r->new_tokens, &need, e)) return -1;
    if (it->kind != ITEM_ANSWER && !(o->log_p = alloc((size_t)it->n, sizeof(double), "choices", e)))
        return -1;
    return set_out(r, w, e);
}

// Looks at the logits of `wanted` rows, those that stand first in x.
static void look_at(Lanes *r, int64_t wanted) {
    Session *host = &r->lane[0].s;
    for (int64_t done = 0, part; done < wanted; done += part) {
        part = wanted - done < host->max_logits ? wanted - done : host->max_logits;
        const float *out = logits(host, done, part);
        for (int64_t i = 0; i < part; i++) {
            Lane *w = &r->lane[r->lane_of[done + i]];
            look(r->l, w, w->seen++, out + i * host->model->config.vocab);
        }
    }
}

// One batch: of every lane's walk as much as there is room for.
static int step(Lanes *r, Err *e) {
    Session *host = &r->lane[0].s;
    Strand strand[LANES];
    int of[LANES];
    int64_t count = 0, n = 0, row = 0, wanted = 0, d = host->model->config.d;
    for (int i = 0; i < r->n && n < host->config.batch; i++) {
        Lane *w = &r->lane[i];
        int64_t at = w->s.pos, more = w->item ? w->n - at : 0;
        if (more > host->config.batch - n) more = host->config.batch - n;
        if (!more) continue;
        memcpy(w->held + at, w->ids + at, (size_t)more * sizeof *w->held);
        memcpy(r->ids + n, w->ids + at, (size_t)more * sizeof *r->ids);
        of[count] = i;
        strand[count++] = (Strand){&w->s, more};
        n += more;
    }
    if (forward_together(strand, count, r->ids, e)) return -1;
    // The rows that are looked at move to the front, so that one product makes the logits of many.
    for (int64_t i = 0; i < count; i++)
        for (int64_t k = strand[i].n; k > 0; k--, row++) {
            if (strand[i].s->pos - k < r->lane[of[i]].first) continue;
            if (wanted < row) memcpy(host->x + wanted * d, host->x + row * d, (size_t)d * sizeof *host->x);
            r->lane_of[wanted++] = of[i];
        }
    look_at(r, wanted);
    return 0;
}

int lanes_run(const Loaded *l, SessionConfig c, int64_t new_tokens, const Items *items, Outcome *o,
              void (*done)(void *ctx, int64_t i), void *ctx, Err *e) {
    Lanes r = {.l = l, .new_tokens = new_tokens};
    int64_t taken = 0, left = items->n;
    int status = make_lanes(&r, c, items->n, e);
    while (status == 0 && left > 0) {
        for (Lane *w = r.lane; w < r.lane + r.n && taken < items->n && status == 0; w++)
            if (!w->item) {
                status = take(&r, w, &items->item[taken], &o[taken], e);
                taken++;
            }
        if (status == 0) status = interrupted ? fail(e, "interrupted") : step(&r, e);
        for (Lane *w = r.lane; w < r.lane + r.n && status == 0; w++) {
            if (!w->item || w->s.pos < w->n) continue;
            int over = go_on(&r, w, e);
            if (over < 0) status = -1;
            if (over <= 0) continue;
            leave(w);
            done(ctx, w->out - o);
            left--;
        }
    }
    free_lanes(&r);
    return status;
}
