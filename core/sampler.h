// sampler: from logits to a token. Order: repeat penalty, temperature, top-k, top-p (a share of what top-k
// left), min-p, draw.
#ifndef SAMPLER_H
#define SAMPLER_H

#include "util.h"

typedef struct {
    float temp;               // <= 0: greedy, the rest is then ignored but the penalty
    int top_k;                // 0: all
    float top_p, min_p;       // 1 and 0: off
    float repeat_penalty;     // 1: off; over the last `repeat_last` tokens
    int repeat_last;
    uint64_t seed;
} SamplerConfig;

typedef struct { float p; int id; } Candidate;             // p: a weight, not yet divided by the sum

typedef struct {
    SamplerConfig c;
    uint64_t state;
    int vocab;
    Candidate *order;         // (vocab)
    int *recent, n_recent;    // ring of the last tokens
} Sampler;

int sampler_init(Sampler *s, int vocab, SamplerConfig c, Err *e);
void sampler_free(Sampler *s);
void sampler_accept(Sampler *s, int token);                // remember for the repeat penalty
int sampler_pick(Sampler *s, float *logits);               // logits (vocab) may be changed
// The distribution that sampler_pick draws from: how many tokens may come, likeliest first in *of, which
// is valid until the next call; *sum of their weights. Greedy: one.
int sampler_candidates(Sampler *s, float *logits, const Candidate **of, double *sum);
int sampler_draw(Sampler *s, const Candidate *of, int n, double sum);      // one of n >= 1
int argmax(const float *x, int64_t n);                     // first of the largest

#endif
