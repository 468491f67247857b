// sampler: from logits to a token. Owns its candidate list and the ring of recent tokens.
#include "sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int sampler_init(Sampler *s, int vocab, SamplerConfig c, Err *e) {
    memset(s, 0, sizeof *s);
    s->c = c;
    s->state = c.seed;
    s->vocab = vocab;
    if (s->c.repeat_last < 0) s->c.repeat_last = 0;
    if (!(s->order = alloc((size_t)vocab, sizeof(Candidate), "candidates", e)) ||
        !(s->recent = alloc((size_t)s->c.repeat_last, sizeof(int), "recent tokens", e))) {
        sampler_free(s);
        return -1;
    }
    return 0;
}

void sampler_free(Sampler *s) {
    free(s->order);
    free(s->recent);
    s->order = NULL;
    s->recent = NULL;
}

void sampler_accept(Sampler *s, int token) {
    if (s->c.repeat_last) s->recent[s->n_recent++ % s->c.repeat_last] = token;
}

int argmax(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return (int)best;
}

// Each recent token once: a logit l becomes l / penalty when positive, l * penalty when negative.
static void penalise(const Sampler *s, float *logits) {
    int n = s->n_recent < s->c.repeat_last ? s->n_recent : s->c.repeat_last;
    for (int i = 0; i < n; i++) s->order[s->recent[i]].id = 0;
    for (int i = 0; i < n; i++) {
        float *l = &logits[s->recent[i]];
        if (s->order[s->recent[i]].id++) continue;
        *l = *l > 0 ? *l / s->c.repeat_penalty : *l * s->c.repeat_penalty;
    }
}

// Likelier first, the smaller id among equals: one order whatever sorts it.
static bool before(Candidate a, Candidate b) { return a.p != b.p ? a.p > b.p : a.id < b.id; }

// Puts a[0 .. n-1] in order again: but for a[i] it is a heap with the first at its root, or with the last.
static void sift_down(Candidate *a, int n, int i, bool last) {
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(a[child + 1], a[child]) != last) child++;
        if (before(a[child], a[i]) == last) return;
        Candidate t = a[i];
        a[i] = a[child];
        a[child] = t;
    }
}

static void make_heap(Candidate *a, int n, bool last) {
    for (int i = n / 2 - 1; i >= 0; i--) sift_down(a, n, i, last);
}

static void swap(Candidate *a, int i, int j) {
    const Candidate t = a[i];
    a[i] = a[j];
    a[j] = t;
}

// One candidate alone.
static int certain(Sampler *s, int id, const Candidate **of, double *sum) {
    Candidate *one = s->order;
    *one = (Candidate){1, id};
    *of = one;
    *sum = 1;
    return 1;
}

// exp((l - max) / temp) is the probability times a constant. What weighs less than a rounding error of
// the whole, 1e-9, is no candidate.
static float lowest(const Sampler *s, float max) { return max - 20.7233f * s->c.temp; }
static float weight(const Sampler *s, float logit, float max) { return expf((logit - max) / s->c.temp); }

// The k likeliest, in order, in a[0 ..]: a heap whose root is the first to be replaced.
static int likeliest(const Sampler *s, const float *logits, float max, int k, Candidate *a) {
    const float least = lowest(s, max);
    int n = 0;
    for (int i = 0; i < s->vocab; i++) {
        const Candidate one = {logits[i], i};
        if (!(one.p >= least)) continue;
        if (n < k) {
            a[n++] = one;
            if (n == k) make_heap(a, n, true);
        } else if (before(one, a[0])) {
            a[0] = one;
            sift_down(a, n, 0, true);
        }
    }
    if (n < k) make_heap(a, n, true);
    for (int last = n - 1; last > 0; last--) {
        swap(a, 0, last);
        sift_down(a, last, 0, true);
    }
    for (int i = 0; i < n; i++) a[i].p = weight(s, a[i].p, max);
    return n;
}

// The likeliest of all, in order, up to a share of the whole: they come off a heap and gather at the
// array's end, so that there is no full sort.
static int share(const Sampler *s, const float *logits, float max, Candidate *a, const Candidate **of) {
    const float least = lowest(s, max);
    double total = 0, sum = 0;
    int n = 0, taken = 0;
    for (int i = 0; i < s->vocab; i++) {
        if (!(logits[i] >= least)) continue;
        a[n] = (Candidate){weight(s, logits[i], max), i};
        total += a[n++].p;
    }
    make_heap(a, n, false);
    while (taken < n && (taken == 0 || sum < s->c.top_p * total)) {
        const int last = n - 1 - taken++;
        sum += a[0].p;
        swap(a, 0, last);
        sift_down(a, last, 0, false);
    }
    for (int i = n - taken, j = n - 1; i < j; i++, j--) swap(a, i, j);
    *of = a + n - taken;
    return taken;
}

int sampler_candidates(Sampler *s, float *logits, const Candidate **of, double *sum_of) {
    const SamplerConfig *c = &s->c;
    if (c->repeat_penalty != 1 && c->repeat_penalty > 0) penalise(s, logits);
    const int best = argmax(logits, s->vocab);
    const float max = logits[best];
    if (c->temp <= 0 || !isfinite(max)) return certain(s, best, of, sum_of);

    // Top-p is a share of the top k where there is a top-k; else of all.
    double sum = 0, all = 0;
    int taken = 0, n;
    *of = s->order;
    if (c->top_k > 0 && c->top_k < s->vocab) {
        n = likeliest(s, logits, max, c->top_k, s->order);
        for (int i = 0; i < n; i++) all += s->order[i].p;
        all *= c->top_p;
    } else {
        n = share(s, logits, max, s->order, of);
        all = INFINITY;
    }
    while (taken < n && (taken == 0 || (sum < all && (*of)[taken].p >= c->min_p))) sum += (*of)[taken++].p;
    *sum_of = sum;
    return taken;
}

int sampler_draw(Sampler *s, const Candidate *of, int n, double sum) {
    double draw = random_f32(&s->state) * sum;
    for (int i = 0; i < n; i++)
        if ((draw -= of[i].p) < 0) return of[i].id;
    return of[n - 1].id;
}

int sampler_pick(Sampler *s, float *logits) {
    const Candidate *of;
    double sum;
    int n = sampler_candidates(s, logits, &of, &sum);
    return s->c.temp <= 0 ? of->id : sampler_draw(s, of, n, sum);
}
