// sampler: greedy, each filter's edge, the repeat penalty, and that frequencies follow probabilities.
#include "../core/sampler.h"
#include "test.h"

static const SamplerConfig open = {.temp = 1, .top_p = 1, .repeat_penalty = 1, .seed = 5};

// Draws n tokens from the same logits; count (vocab) is how often each came.
static int draw(SamplerConfig c, const float *logits, int vocab, int n, int *count) {
    Sampler s;
    Err e;
    float *copy = malloc((size_t)vocab * sizeof *copy);
    memset(count, 0, (size_t)vocab * sizeof *count);
    if (sampler_init(&s, vocab, c, &e)) return -1;
    for (int i = 0; i < n; i++) {
        memcpy(copy, logits, (size_t)vocab * sizeof *copy);
        count[sampler_pick(&s, copy)]++;
    }
    sampler_free(&s);
    free(copy);
    return 0;
}

static const float five[5] = {0, 3, 1, 2, -1};

static int greedy_takes_the_largest(void) {
    SamplerConfig c = open;
    int count[5];
    c.temp = 0;
    CHECK(draw(c, five, 5, 50, count) == 0 && count[1] == 50, "%d", count[1]);
    float ties[4] = {1, 7, 7, 7};
    CHECK(argmax(ties, 4) == 1, "the first of equals");
    return PASS;
}

static int frequencies_follow(void) {
    enum { N = 40000 };
    for (float temp = 0.5f; temp <= 2; temp *= 2) {
        SamplerConfig c = open;
        int count[5];
        double sum = 0;
        c.temp = temp;
        CHECK(draw(c, five, 5, N, count) == 0, "draw");
        for (int i = 0; i < 5; i++) sum += exp(five[i] / temp);
        for (int i = 0; i < 5; i++) {
            double p = exp(five[i] / temp) / sum, seen = (double)count[i] / N;
            CHECK(fabs(p - seen) < 5 * sqrt(p * (1 - p) / N) + 1e-4, "temp %g token %d: %g, not %g",
                  (double)temp, i, seen, p);
        }
    }
    return PASS;
}

static int filters_cut(void) {
    int count[5];
    SamplerConfig c = open;
    c.top_k = 2;
    CHECK(draw(c, five, 5, 2000, count) == 0 && count[1] + count[3] == 2000 && count[3] > 0, "top-k 2");
    c.top_k = 1;
    CHECK(draw(c, five, 5, 200, count) == 0 && count[1] == 200, "top-k 1");
    c = open;
    c.top_p = 0.7f;                                  // p = .64 .24 .09 .03 .01: the first two reach it
    CHECK(draw(c, five, 5, 2000, count) == 0 && count[1] + count[3] == 2000 && count[3] > 0, "top-p");
    c.top_p = 0;
    CHECK(draw(c, five, 5, 200, count) == 0 && count[1] == 200, "top-p 0 keeps one");
    c = open;
    c.min_p = 0.2f;                                  // relative to the largest: e^-1 = .37, e^-2 = .14
    CHECK(draw(c, five, 5, 2000, count) == 0 && count[1] + count[3] == 2000 && count[3] > 0, "min-p");
    c = open;
    c.top_k = 3, c.top_p = 0.9f;                     // of .66 .24 .09: the first two
    CHECK(draw(c, five, 5, 2000, count) == 0 && count[1] + count[3] == 2000 && count[3] > 0, "both");
    // .6, .31, .05 and a tail of .001: the tail belongs to the whole of which top-p is a share, and min-p
    // comes after it. All three orders of the candidates.
    float tail[43];
    int many[43];
    for (int i = 0; i < 43; i++) tail[i] = logf(i == 20 ? 0.6f : i == 7 ? 0.31f : i == 41 ? 0.05f : 0.001f);
    for (int k = 0; k <= 43; k += 43 - (k == 0)) {
        c = open;
        c.top_p = 0.94f, c.min_p = 0.05f, c.top_k = k;
        CHECK(draw(c, tail, 43, 4000, many) == 0 && many[20] + many[7] + many[41] == 4000 && many[41] > 0,
              "top-k %d, top-p, min-p", k);
    }
    c.top_k = 3;                                     // .625 .323 .052: two are enough
    CHECK(draw(c, tail, 43, 4000, many) == 0 && many[20] + many[7] == 4000, "top-p of the top k");
    c.top_p = 1, c.top_k = 30, c.min_p = 0;          // any 27 of the tail, the first of equals
    CHECK(draw(c, tail, 43, 40000, many) == 0, "draw");
    for (int i = 0; i < 43; i++) CHECK((many[i] > 0) == (i < 29 || i == 41), "token %d came %d times", i, many[i]);
    return PASS;
}

static int penalty_moves_the_choice(void) {
    Sampler s;
    Err e;
    SamplerConfig c = open;
    c.temp = 0, c.repeat_penalty = 2, c.repeat_last = 2;
    CHECK(sampler_init(&s, 5, c, &e) == 0, "init");
    float x[5];
    #define PICK() (memcpy(x, five, sizeof x), sampler_pick(&s, x))
    CHECK(PICK() == 1, "no history");
    sampler_accept(&s, 1);
    CHECK(PICK() == 3, "3 / 2 is below 2");
    sampler_accept(&s, 1);
    CHECK(PICK() == 3, "a token seen twice counts once: 1.5 beats 1");
    sampler_accept(&s, 4);
    sampler_accept(&s, 4);
    CHECK(PICK() == 1 && x[4] == -2, "forgotten after two; a negative logit grows: %g", (double)x[4]);
    sampler_free(&s);
    return PASS;
}

static int odd_logits(void) {
    int count[5];
    float inf[5] = {-INFINITY, -INFINITY, 0, -INFINITY, -INFINITY}, nan5[5] = {NAN, NAN, NAN, NAN, NAN};
    CHECK(draw(open, inf, 5, 100, count) == 0 && count[2] == 100, "only one is possible");
    CHECK(draw(open, nan5, 5, 3, count) == 0, "no numbers: any answer, no crash");
    float *flat = calloc(50000, sizeof *flat);
    int *many = malloc(50000 * sizeof *many), seen = 0;
    CHECK(draw(open, flat, 50000, 2000, many) == 0, "flat");
    for (int i = 0; i < 50000; i++) seen += many[i] > 0;
    CHECK(seen > 1900, "a flat distribution gave only %d different tokens", seen);
    free(flat);
    free(many);
    return PASS;
}

static int seeds_repeat(void) {
    Sampler a, b;
    Err e;
    CHECK(sampler_init(&a, 5, open, &e) == 0 && sampler_init(&b, 5, open, &e) == 0, "init");
    for (int i = 0; i < 100; i++) {
        float x[5], y[5];
        memcpy(x, five, sizeof x);
        memcpy(y, five, sizeof y);
        CHECK(sampler_pick(&a, x) == sampler_pick(&b, y), "draw %d", i);
    }
    sampler_free(&a);
    sampler_free(&b);
    return PASS;
}

static const Test tests[] = {
    {"greedy_takes_the_largest", greedy_takes_the_largest},
    {"frequencies_follow", frequencies_follow},
    {"filters_cut", filters_cut},
    {"penalty_moves_the_choice", penalty_moves_the_choice},
    {"odd_logits", odd_logits},
    {"seeds_repeat", seeds_repeat},
};

int main(int argc, char **argv) { return run_tests("sampler", tests, COUNT(tests), argc, argv); }
