// draft: proposals by one model, judged by another. Owns the draft's session and what it proposed; the
// target's session and its sampler are the caller's.
#include "draft.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int draft_fits(const Loaded *target, const Loaded *draft, Err *e) {
    const Vocab *a = target->vocab, *b = draft->vocab;
    const Config *c = &target->model->config, *k = &draft->model->config;
    if (k->encoder) return fail(e, "%s is an encoder, which proposes no text", draft->path);
    if (a->kind != b->kind || a->n != b->n || c->vocab != k->vocab)
        return fail(e, "%s: %d tokens (%lld rows), those of %s are %d (%lld)%s: a draft needs its target's "
                    "vocabulary", draft->path, b->n, (long long)k->vocab, target->path, a->n,
                    (long long)c->vocab, a->kind != b->kind ? " of another kind" : "");
    for (int i = 0; i < a->n; i++)
        if (a->piece[i].n != b->piece[i].n || memcmp(a->piece[i].s, b->piece[i].s, a->piece[i].n) != 0)
            return fail(e, "%s: token %d is \"%.*s\", in %s \"%.*s\": a draft needs its target's vocabulary",
                        draft->path, i, (int)(b->piece[i].n < 40 ? b->piece[i].n : 40), b->piece[i].s,
                        target->path, (int)(a->piece[i].n < 40 ? a->piece[i].n : 40), a->piece[i].s);
    return 0;
}

int draft_init(Draft *d, const Model *m, Session *target, Sampler *sampler, int64_t most, float sure,
               Err *e) {
    const SessionConfig *t = &target->config;
    SessionConfig c = *t;
    SamplerConfig s = sampler->c;
    const int64_t room = t->batch < target->max_logits ? t->batch : target->max_logits;
    size_t size;
    memset(d, 0, sizeof *d);
    if (most > DRAFT_MOST) most = DRAFT_MOST;
    if (most > room - 1) most = room - 1;
    if (c.context > m->config.context) c.context = m->config.context;    // beyond it nothing is proposed
    s.seed = random_u64(&s.seed);                      // numbers of its own
    d->target = target, d->sampler = sampler, d->most = most, d->sure = sure;
    if (!mul_size((size_t)most, (size_t)m->config.vocab, &size))
        return fail(e, "proposals do not fit in memory");
    if (session_init(&d->session, m, c, e) || sampler_init(&d->own, (int)m->config.vocab, s, e) ||
        !(d->held = alloc((size_t)t->context + 1, sizeof *d->held, "ids", e)) ||
        !(d->room = alloc(size, sizeof *d->room, "proposals", e)) ||
        !(d->spare = alloc((size_t)m->config.vocab, sizeof *d->spare, "a distribution", e))) {
        draft_free(d);
        return -1;
    }
    return 0;
}

void draft_free(Draft *d) {
    session_free(&d->session);
    sampler_free(&d->own);
    free(d->held);
    free(d->room);
    free(d->spare);
    memset(d, 0, sizeof *d);
}

// ---- proposing -----------------------------------------------------------------------------------

// Brings the draft's cache to the first n of held. False where it cannot hold them, or was interrupted.
static int catch_up(Draft *d, int64_t n, bool *there, Err *e) {
    Session *s = &d->session;
    *there = false;
    if (n > s->config.context) return 0;
    if (n > s->pos && prefill(s, d->held + s->pos, n - s->pos, e)) return -1;
    *there = s->pos == n;
    return 0;
}

// One proposal behind held[0 .. at-1], from the logits of the draft's last token; the likeliest token's
// probability.
static float propose(Draft *d, int64_t at) {
    Session *s = &d->session;
    const int64_t i = d->drafted++, vocab = s->model->config.vocab;
    float *out = logits(s, s->n - 1, 1);
    Distribution q;
    q.n = sampler_candidates(&d->own, out, &q.of, &q.sum);
    memcpy(d->room + i * vocab, q.of, (size_t)q.n * sizeof *q.of);
    d->held[at] = d->own.c.temp <= 0 ? q.of->id : sampler_draw(&d->own, q.of, q.n, q.sum);
    d->q[i] = (Distribution){d->room + i * vocab, q.n, q.sum};
    sampler_accept(&d->own, d->held[at]);
    return d->sure > 0 ? 1 / exp_sum(out, vocab, 1, max_of(out, vocab)) : 1;
}

// Up to `most` of them behind held[0 .. n-1].
static int propose_all(Draft *d, int64_t n, int64_t most, Err *e) {
    bool there;
    if (most < 1) return 0;
    if (catch_up(d, n, &there, e)) return -1;
    if (!there) return 0;
    d->steps++;
    if (d->own.c.repeat_last)                          // what the penalty looks at: as the target's
        memcpy(d->own.recent, d->sampler->recent, (size_t)d->own.c.repeat_last * sizeof(int));
    d->own.n_recent = d->sampler->n_recent;
    float sure = propose(d, n);
    while (d->drafted < most && sure >= d->sure && d->session.pos < d->session.config.context) {
        if (forward(&d->session, d->held + n + d->drafted - 1, 1, e)) return -1;
        d->steps++;
        sure *= propose(d, n + d->drafted);
    }
    return 0;
}

// ---- judging -------------------------------------------------------------------------------------

// P(x) = q min(1, p / q) + (1 - sum of min(p, q)) max(0, p - q) / (1 - sum of min(p, q)) = p.
int draft_judge(int x, Distribution p, Distribution q, float u, float v, double *spare, bool *kept) {
    double total = 0, here = 0;
    int to = p.of->id;
    for (int i = 0; i < q.n; i++) spare[q.of[i].id] = q.of[i].p / q.sum;
    for (int i = 0; i < p.n; i++) {
        const double more = p.of[i].p / p.sum - spare[p.of[i].id];
        if (p.of[i].id == x) here = p.of[i].p / p.sum;
        if (more > 0) total += more;
    }
    *kept = u * spare[x] < here;
    double draw = v * total;
    for (int i = 0; i < p.n && draw >= 0; i++) {
        const double more = p.of[i].p / p.sum - spare[p.of[i].id];
        if (more <= 0) continue;
        to = p.of[i].id;
        draw -= more;
    }
    for (int i = 0; i < q.n; i++) spare[q.of[i].id] = 0;
    return *kept ? x : to;
}

int draft_pick(Draft *d) {
    const int64_t i = d->judged, vocab = d->target->model->config.vocab;
    Distribution p;
    if (!d->rows) d->rows = logits(d->target, d->target->n - 1, 1);
    d->stands = false;
    if (i == d->drafted) return sampler_pick(d->sampler, d->rows + i * vocab);
    p.n = sampler_candidates(d->sampler, d->rows + i * vocab, &p.of, &p.sum);
    const float u = random_f32(&d->sampler->state), v = random_f32(&d->sampler->state);
    const int id = draft_judge(d->held[d->pos], p, d->q[i], u, v, d->spare, &d->stands);
    d->judged += d->stands;
    d->kept += d->stands;
    return id;
}

int draft_forward(Draft *d, int id, int64_t left, Err *e) {
    const int64_t room = d->target->config.context - d->pos - 1;
    int64_t most = d->most < left - 1 ? d->most : left - 1;
    if (most > room) most = room;
    if (d->stands) {                                   // the cache has it, and rows what stands behind it
        d->pos++;
        return 0;
    }
    draft_rest(d);
    if (room < 0) return fail(e, "all %lld positions are taken", (long long)d->pos);
    d->held[d->pos] = id;
    if (propose_all(d, d->pos + 1, most, e) || forward(d->target, d->held + d->pos, 1 + d->drafted, e))
        return -1;
    d->rows = logits(d->target, 0, 1 + d->drafted);
    d->proposed += d->drafted;
    d->rounds++;
    d->pos++;
    return 0;
}

int draft_prefill(Draft *d, const int *ids, int64_t n, Err *e) {
    bool there;
    draft_rest(d);
    if (n > d->target->config.context - d->pos)
        return fail(e, "%lld more tokens do not fit: %lld of %lld positions are taken", (long long)n,
                    (long long)d->pos, (long long)d->target->config.context);
    memcpy(d->held + d->pos, ids, (size_t)n * sizeof *ids);
    if (prefill(d->target, ids, n, e)) return -1;
    d->pos = d->target->pos;                           // fewer where it was interrupted
    return catch_up(d, d->pos, &there, e);
}

void draft_rest(Draft *d) {
    session_rewind(d->target, d->pos);
    session_rewind(&d->session, d->pos);
    d->rows = NULL;
    d->drafted = d->judged = 0;
}
