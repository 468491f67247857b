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
    for (int i = 0; i < n; i++) {
        bool again = false;
        for (int j = 0; j < i && !again; j++) again = s->recent[j] == s->recent[i];
        float *l = &logits[s->recent[i]];
        if (!again) *l = *l > 0 ? *l / s->c.repeat_penalty : *l * s->c.repeat_penalty;
    }
}

// Likelier first, the smaller id among equals: one order whatever sorts it.
static bool before(Candidate a, Candidate b) { return a.p != b.p ? a.p > b.p : a.id < b.id; }

// Puts a[0 .. n-1], a heap with the first in order at its root but for a[i], in heap order again.
static void sift_down(Candidate *a, int n, int i) {
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(a[child + 1], a[child])) child++;
        if (!before(a[child], a[i])) return;
        Candidate t = a[i];
        a[i] = a[child];
        a[child] = t;
    }
}

// One candidate alone.
static int certain(Sampler *s, int id, const Candidate **of, double *sum) {
    Candidate *one = s->order;
    *one = (Candidate){1, id};
    *of = one;
    *sum = 1;
    return 1;
}

int sampler_candidates(Sampler *s, float *logits, const Candidate **of, double *sum_of) {
    const SamplerConfig *c = &s->c;
    if (c->repeat_penalty != 1 && c->repeat_penalty > 0) penalise(s, logits);
    int best = argmax(logits, s->vocab);
    if (c->temp <= 0) return certain(s, best, of, sum_of);

    // exp((l - max) / temp) is the probability times a constant; only what could pass min-p, or
    // weighs more than a rounding error of the whole, becomes a candidate.
    Candidate *heap = s->order;
    float max = logits[best], floor = c->min_p > 1e-9f ? c->min_p : 1e-9f;
    double total = 0;
    int n = 0;
    for (int i = 0; i < s->vocab; i++) {
        float p = expf((logits[i] - max) / c->temp);
        if (!(p >= floor)) continue;
        heap[n++] = (Candidate){p, i};
        total += p;
    }
    if (!n) return certain(s, best, of, sum_of);          // logits that are no numbers
    // Candidates come off a heap, likeliest first, and gather at the array's end: no full sort.
    // Top-p is a share of the top k where there is a top-k; else of all, and it ends the taking.
    for (int i = n / 2 - 1; i >= 0; i--) sift_down(heap, n, i);
    bool cut = c->top_k > 0 && c->top_k < n;
    int most = cut ? c->top_k : n, taken = 0;
    double sum = 0, enough = cut ? INFINITY : c->top_p * total;
    while (taken < most && (taken == 0 || sum < enough)) {
        int last = n - 1 - taken++;
        Candidate top = heap[0];
        heap[0] = heap[last];
        heap[last] = top;
        sift_down(heap, last, 0);
        sum += top.p;
    }
    if (cut) {
        enough = c->top_p * sum;
        sum = 0;
        taken = 0;
        while (taken < most && (taken == 0 || sum < enough)) sum += heap[n - 1 - taken++].p;
    }
    for (int i = n - taken, j = n - 1; i < j; i++, j--) {
        Candidate t = heap[i];
        heap[i] = heap[j];
        heap[j] = t;
    }
    *of = heap + n - taken;
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
