// draft: self-speculative decoding. A cheaper model, such as the same one on fewer factors, proposes a few
// tokens; the target computes them in one batch, which reads its weights once, and judges each. What comes
// out is distributed as the target alone would have it, whatever the draft proposes: a token drawn from
// the draft's q is kept with probability min(1, p / q), else one is drawn from max(0, p - q), p and q being
// what is left of the softmax behind penalty, temperature and filters (core/sampler.h). Greedily: it
// is kept where it is the target's own choice.
//
// Sums in another order: a batch of quantised rows differs from single tokens in rounding (see
// SessionConfig.uniform), so that a greedy text may part where two logits all but tie.
#ifndef DRAFT_H
#define DRAFT_H

#include "tools.h"

enum { DRAFT_MOST = 15 };      // proposals a round: with the token before them what logits() makes at once

typedef struct { const Candidate *of; int n; double sum; } Distribution;    // see sampler_candidates

typedef struct {
    Session *target;           // borrowed, as is the sampler
    Sampler *sampler;
    Session session;           // the draft's
    Sampler own;               // draws the proposals, by the same rules
    int64_t most;              // proposals a round, at most
    float sure;                // none behind those whose top probabilities (plain softmax) multiply to less
    int *held;                 // (T + 1) the text: ids of the target's cache, those proposed included
    int64_t pos;               // of them decided and computed; the caches may be further
    float *rows;               // (drafted + 1, V) the target's logits behind held[pos - 1] …; NULL: to make
    int64_t drafted, judged;   // proposals of this round, and those kept
    bool stands;               // what was picked last was proposed and kept
    Distribution q[DRAFT_MOST];    // what they were drawn from, standing in
    Candidate *room;           // (most, V)
    double *spare;             // (V) zeros
    int64_t proposed, kept, rounds, steps;     // in all; forward passes of the target, of the draft
} Draft;

// A draft must have its target's vocabulary, token by token, and be a decoder as it is.
int draft_fits(const Loaded *target, const Loaded *draft, Err *e);
// The target's cache is empty. Nothing is freed before draft_free, which takes a zeroed or failed one, too.
int draft_init(Draft *d, const Model *m, Session *target, Sampler *sampler, int64_t most, float sure, Err *e);
void draft_free(Draft *d);
// The rule, for x drawn from q and two numbers u, v, uniform in [0, 1): x, and *kept, or another of p's
// tokens. spare: (V) zeros, before and after.
int draft_judge(int x, Distribution p, Distribution q, float u, float v, double *spare, bool *kept);
// Instead of prefill, sampler_pick and forward: text that is given; the next token; that it stands (with
// at most `left` wanted behind it), which computes a batch or, where it was proposed, nothing.
int draft_prefill(Draft *d, const int *ids, int64_t n, Err *e);
int draft_pick(Draft *d);
int draft_forward(Draft *d, int id, int64_t left, Err *e);
void draft_rest(Draft *d);     // both caches hold no more than was decided

#endif
