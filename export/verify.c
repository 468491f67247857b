// verify: two models side by side over the same windows, in blocks of a few rows, so that no more
// logits are held than a session holds. What is kept of a token is one float, for the median.
#include "verify.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct { double loss[2], kl; bool same; } Scored;   // one token

// What a block of rows is scored from, and to.
typedef struct {
    const float *a, *b;                   // (rows, vocab) logits; b = NULL: a alone
    int64_t vocab;
    const int *next;                      // (rows) the tokens that came
    Scored *out;                          // (rows)
} Block;

// log of the sum of exp(x), of which x[top] is the largest
static double log_sum_exp(const float *x, int64_t n, int64_t top) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += exp((double)x[i] - x[top]);
    return x[top] + log(sum);
}

static int64_t first_largest(const float *x, int64_t n) {
    int64_t top = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[top]) top = i;
    return top;
}

// KL(a || b) = sum p_a (log p_a - log p_b), of logits and their log sums.
static double divergence(const float *a, double sum_a, const float *b, double sum_b, int64_t n) {
    double kl = 0;
    for (int64_t i = 0; i < n; i++) {
        double log_a = a[i] - sum_a;
        kl += exp(log_a) * (log_a - (b[i] - sum_b));
    }
    return kl > 0 || isnan(kl) ? kl : 0;  // rounding may leave a little less than nothing
}

static void score_rows(void *ctx, int64_t begin, int64_t end, int thread) {
    const Block *k = ctx;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        const float *a = k->a + i * k->vocab, *b = k->b ? k->b + i * k->vocab : a;
        int64_t top_a = first_largest(a, k->vocab), top_b = top_a;
        double sum_a = log_sum_exp(a, k->vocab, top_a), sum_b = sum_a;
        Scored *s = &k->out[i];
        *s = (Scored){{sum_a - a[k->next[i]], 0}, 0, true};
        if (!k->b) continue;
        top_b = first_largest(b, k->vocab);
        sum_b = log_sum_exp(b, k->vocab, top_b);
        *s = (Scored){{s->loss[0], sum_b - b[k->next[i]]}, divergence(a, sum_a, b, sum_b, k->vocab),
                      top_a == top_b};
    }
}

typedef struct { double sum, squares; } Sum;

static void count(Sum *s, double x) {
    s->sum += x;
    s->squares += x * x;
}

// Mean of n numbers and its standard error.
static double mean_of(Sum s, int64_t n, double *error) {
    double mean = s.sum / (double)n, variance = s.squares / (double)n - mean * mean;
    *error = n > 1 && variance > 0 ? sqrt(variance / (double)(n - 1)) : 0;
    return mean;
}

typedef struct { Sum loss[2], difference, kl; double kl_max; int64_t n, same; } Tally;

// Adds the rows of one window, which both sessions have just computed. kl: the next token's place.
static int score_window(Session *s, int64_t sessions, const int *ids, int64_t n, Scored *room,
                        Tally *t, float *kl, Err *e) {
    for (int64_t at = 0; at < n - 1; at += s->max_logits) {
        int64_t rows = n - 1 - at < s->max_logits ? n - 1 - at : s->max_logits;
        Block k = {.vocab = s->model->config.vocab, .next = ids + at + 1, .out = room};
        k.a = logits(&s[0], at, rows);
        if (sessions > 1) k.b = logits(&s[1], at, rows);
        parallel_for(rows, 1, score_rows, &k);
        for (int64_t i = 0; i < rows; i++) {
            const Scored *r = &room[i];
            if (!isfinite(r->loss[0]) || !isfinite(r->loss[1]) || !isfinite(r->kl))
                return fail(e, "token %lld of a window: a loss of %g nats before, %g after, KL "
                            "divergence %g: not all finite", (long long)(at + i + 1), r->loss[0],
                            r->loss[1], r->kl);
            for (int j = 0; j < 2; j++) count(&t->loss[j], r->loss[j]);
            count(&t->difference, r->loss[1] - r->loss[0]);
            count(&t->kl, r->kl);
            t->kl_max = fmax(t->kl_max, r->kl);
            t->same += r->same;
            if (kl) kl[t->n] = (float)r->kl;
            t->n++;
        }
    }
    return 0;
}

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double median(float *x, int64_t n) {
    qsort(x, (size_t)n, sizeof *x, ascending);
    return ((double)x[(n - 1) / 2] + x[n / 2]) / 2;
}

static int check(const Model *a, const Model *b, const CalibText *t, Err *e) {
    if (b && a->config.vocab != b->config.vocab)
        return fail(e, "vocabularies of %lld and %lld tokens: the two models cannot be compared",
                    (long long)a->config.vocab, (long long)b->config.vocab);
    if (a->config.encoder || (b && b->config.encoder))
        return fail(e, "an encoder does not predict what follows: no loss is defined for it");
    if (t->count < 1 || t->window < 2)
        return fail(e, "a text of %lld windows of %lld ids leaves nothing to score",
                    (long long)t->count, (long long)t->window);
    return 0;
}

int compare_models(const Model *a, const Model *b, const CalibText *t, Comparison *c,
                   Progress *progress, void *ctx, Err *e) {
    if (check(a, b, t, e)) return -1;
    const Model *model[2] = {a, b};
    int64_t sessions = b ? 2 : 1, n = t->window;
    SessionConfig config = {.context = n, .batch = n, .kv_type = T_F32, .uniform = true};
    Session s[2] = {0};
    Tally tally = {0};
    Scored *room = NULL;
    float *kl = NULL;
    int status = -1;
    for (int64_t j = 0; j < sessions; j++)
        if (session_init(&s[j], model[j], config, e)) goto done;
    if (!(room = alloc((size_t)s->max_logits, sizeof *room, "scores", e))) goto done;
    if (b) {                              // one float a token; b = NULL has no use for them
        size_t size;
        if (!mul_size((size_t)t->count, (size_t)(n - 1), &size)) {
            fail(e, "%lld windows of %lld ids: too large", (long long)t->count, (long long)n);
            goto done;
        }
        if (!(kl = alloc(size, sizeof *kl, "divergences", e))) goto done;
    }
    for (int64_t i = 0; i < t->count; i++) {
        const int *ids = t->ids + i * n;
        for (int64_t j = 0; j < sessions; j++) {
            if (interrupted) { fail(e, "interrupted"); goto done; }
            session_rewind(&s[j], 0);
            if (forward(&s[j], ids, n, e)) goto done;
        }
        if (score_window(s, sessions, ids, n, room, &tally, kl, e)) goto done;
        if (progress) progress(ctx, b ? "comparing" : "scoring", (double)i + 1, (double)t->count);
    }
    *c = (Comparison){.tokens = tally.n};
    for (int64_t j = 0; j < sessions; j++)
        c->loss[j] = mean_of(tally.loss[j], tally.n, &c->error[j]);
    if (b) {
        c->difference = mean_of(tally.difference, tally.n, &c->difference_error);
        c->kl = mean_of(tally.kl, tally.n, &c->kl_error);
        c->kl_max = tally.kl_max;
        c->kl_median = median(kl, tally.n);
        c->same_top = (double)tally.same / (double)tally.n;
    } else
        c->loss[1] = c->error[1] = c->difference = c->difference_error = c->kl = c->kl_error =
            c->kl_max = c->kl_median = c->same_top = NAN;
    status = 0;
done:
    for (int j = 0; j < 2; j++) session_free(&s[j]);
    free(room);
    free(kl);
    return status;
}

// A line "name  value +/- error", or a value alone where error < 0.
static void line(const char *name, double value, double error, const char *unit) {
    printf("  %-22s %12.6f", name, value);
    if (error >= 0) printf(" +/- %.6f", error);
    printf("%s\n", unit);
}

void print_comparison(const Comparison *c, const char *text_name) {
    static const char *const name[2][2] = {{"ln PPL before", "PPL before"},
                                           {"ln PPL after", "PPL after"}};
    bool alone = isnan(c->loss[1]);
    printf("%s: %lld tokens scored\n", text_name, (long long)c->tokens);
    for (int j = 0; j < (alone ? 1 : 2); j++) {
        double ppl = exp(c->loss[j]);     // its error to first order: d exp(x) = exp(x) dx
        line(alone ? "ln PPL" : name[j][0], c->loss[j], c->error[j], "");
        line(alone ? "PPL" : name[j][1], ppl, ppl * c->error[j], "");
    }
    if (alone) return;
    double ratio = exp(c->difference), top = c->same_top;
    line("ln PPL after - before", c->difference, c->difference_error, "");
    line("PPL after / before", ratio, ratio * c->difference_error, "");
    line("mean KLD", c->kl, c->kl_error, "");
    line("median KLD", c->kl_median, -1, "");
    line("max KLD", c->kl_max, -1, "");
    line("same top p", 100 * top, 100 * sqrt(top * (1 - top) / (double)c->tokens), " %");
}
