// score: what came of a run over items: means, their errors, whether two models differ; printed, written.
#include "tasks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- an item --------------------------------------------------------------------------------------

void judge_next(const Item *it, Outcome *o) {
    for (int i = 0; i < it->n; i++)
        if (o->log_p[i] > o->log_p[o->chosen]) o->chosen = i;
    o->loss = -o->log_p[it->gold];
    o->right = o->strict = o->chosen == it->gold;
}

void judge_choices(const Item *it, int64_t tokens, Outcome *o) {
    int best = 0;
    for (int i = 0; i < it->n; i++) {
        if (o->log_p[i] > o->log_p[o->chosen]) o->chosen = i;
        if (o->log_p[i] / (double)text_length(it->text[i]) >
            o->log_p[best] / (double)text_length(it->text[best])) best = i;
    }
    o->loss = -o->log_p[it->gold] / (double)tokens;
    o->right = o->chosen == it->gold;
    o->strict = best == it->gold;
}

int judge_answer(const Item *it, Outcome *o, Err *e) {
    char *all = alloc(strlen(it->prompt) + strlen(o->text) + 1, 1, "a text", e);
    if (!all) return -1;
    sprintf(all, "%s%s", it->prompt, o->text);
    int right = text_holds(all, it->text[0], e), strict = text_holds(o->text, it->text[0], e);
    free(all);
    o->right = right > 0;
    o->strict = strict > 0;
    return right < 0 || strict < 0 ? -1 : 0;
}

// ---- many -----------------------------------------------------------------------------------------

Estimate estimate(const double *x, int64_t n) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    return (Estimate){mean, n > 1 ? sqrt(squares / (double)(n - 1) / (double)n) : 0, n};
}

// Of n items that tell the two apart, each falls to either side with probability 1/2 if they do not
// differ: p = 2 P(at most min(first, second) of n), at most 1.
static double binomial_p(int64_t n, int64_t least) {
    double term = pow(0.5, (double)n), sum = 0;         // C(n, k) / 2^n, k = 0
    for (int64_t k = 0; k <= least; k++) {
        sum += term;
        term *= (double)(n - k) / (double)(k + 1);
    }
    return fmin(1, 2 * sum);
}

McNemar mcnemar(int64_t first, int64_t second) {
    int64_t n = first + second, least = first < second ? first : second;
    McNemar m = {first, second, n < 25, 0, 1};
    if (m.exact) {
        m.p = binomial_p(n, least);
    } else {
        double apart = fmax(0, fabs((double)(first - second)) - 1);
        m.chi2 = apart * apart / (double)n;
        m.p = erfc(sqrt(m.chi2 / 2));                   // of chi-square with one degree of freedom
    }
    return m;
}

typedef double Figure(const Outcome *o);
static double is_right(const Outcome *o) { return o->right; }
static double is_strict(const Outcome *o) { return o->strict; }
static double loss_of(const Outcome *o) { return o->loss; }

// The figures there are, each over the kinds of items that it means something for.
enum { FIGURES = 4, ANY = 1 << ITEM_ANSWER | 1 << ITEM_CHOICES | 1 << ITEM_NEXT };
static const struct { const char *name; Figure *of; unsigned kinds; bool rate; } figures[FIGURES] = {
    {"accuracy", is_right, ANY, true},
    {"answer only", is_strict, 1 << ITEM_ANSWER, true},
    {"length-normalised", is_strict, 1 << ITEM_CHOICES, true},
    {"loss", loss_of, ANY, false},
};

// x = figure f of every item in a that has it, less b's where there is a b; returns how many.
static int64_t gather(const Items *items, int f, const Outcome *a, const Outcome *b, double *x) {
    int64_t n = 0;
    for (int64_t i = 0; i < items->n; i++)
        if (figures[f].kinds >> items->item[i].kind & 1)
            x[n++] = figures[f].of(&a[i]) - (b ? figures[f].of(&b[i]) : 0);
    return n;
}

void print_figures(const Items *items, const Outcome *o, double *x) {
    for (int f = 0; f < FIGURES; f++) {
        int64_t n = gather(items, f, o, NULL, x);
        if (n == 0) continue;
        Estimate m = estimate(x, n);
        if (figures[f].rate)
            printf("%s: %.3f +/- %.3f %% (%.0f of %lld right)\n", figures[f].name, 100 * m.mean,
                   100 * m.error, m.mean * (double)n, (long long)n);
        else
            printf("%s: %.6f +/- %.6f (%lld items)\n", figures[f].name, m.mean, m.error, (long long)n);
    }
}

void print_difference(const Items *items, const Outcome *a, const Outcome *b, double *x) {
    for (int f = 0; f < FIGURES; f++) {
        int64_t n = gather(items, f, a, b, x), only[2] = {0};
        if (n == 0) continue;
        Estimate m = estimate(x, n);
        if (!figures[f].rate) {
            printf("%s: %+.6f +/- %.6f\n", figures[f].name, m.mean, m.error);
            continue;
        }
        for (int64_t i = 0; i < n; i++) {
            only[0] += x[i] > 0;
            only[1] += x[i] < 0;
        }
        McNemar t = mcnemar(only[0], only[1]);
        printf("%s: %+.3f +/- %.3f points; right in the first only %lld, in the second only %lld, "
               "McNemar's p = %.4g", figures[f].name, 100 * m.mean, 100 * m.error, (long long)t.first,
               (long long)t.second, t.p);
        if (t.exact) printf(" (exact)\n");
        else printf(" (chi-square %.3f)\n", t.chi2);
    }
}

static void put_number(FILE *f, double x) {             // JSON has no infinity, and nothing that is no number
    if (isfinite(x)) fprintf(f, "%.9g", x);
    else fputs("null", f);
}

static void put_outcome(FILE *f, const Item *it, const Outcome *o) {
    fprintf(f, "\"right\": %s, ", o->right ? "true" : "false");
    if (it->kind != ITEM_NEXT)
        fprintf(f, "\"%s\": %s, ", it->kind == ITEM_ANSWER ? "answer_only" : "normalised",
                o->strict ? "true" : "false");
    fputs("\"loss\": ", f);
    put_number(f, o->loss);
    if (it->kind == ITEM_ANSWER) {
        fputs(", \"text\": ", f);
        put_json(f, o->text);
        return;
    }
    fprintf(f, ", \"chosen\": %d, \"log_p\": [", o->chosen);
    for (int i = 0; i < it->n; i++) {
        if (i) fputs(", ", f);
        put_number(f, o->log_p[i]);
    }
    fputc(']', f);
}

int write_outcomes(FileOut *out, const Items *items, const Outcome *a, const Outcome *b, Err *e) {
    for (int64_t i = 0; i < items->n; i++) {
        const Item *it = &items->item[i];
        TextFile line;
        if (!text_open(&line)) {
            FILE *f = line.f;
            fprintf(f, "{\"index\": %lld, ", (long long)i);
            if (it->id) fprintf(f, "\"id\": %s, ", it->id);
            put_outcome(f, it, &a[i]);
            if (b) {
                fputs(", \"against\": {", f);
                put_outcome(f, it, &b[i]);
                fputc('}', f);
            }
            fputs("}\n", f);
        }
        int status = text_close(&line) ? out_write(out, line.s, line.n, e) : fail(e, "out of memory");
        free(line.s);
        if (status) return -1;
    }
    return 0;
}

void outcomes_free(Outcome *o, int64_t n) {
    for (int64_t i = 0; o && i < n; i++) {
        free(o[i].log_p);
        free(o[i].text);
    }
    free(o);
}
