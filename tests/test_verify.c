// verify: against the definitions in loops and long double; models of one kind, of two, and alone.
#include "../export/verify.h"
#include "rig.h"

#include <unistd.h>

static const Rig rig = {"llama", NULL, 48, 4, 2, 12, 80, 97, 2, 64, false, false, false, 0, T_F32, 1};
static const RigTucker cut = {.scheme = "qkv+o", .r_embd = 20, .r_head = 8};
enum { WINDOW = 37, WINDOWS = 5, TOKENS = WINDOWS * (WINDOW - 1) };   // blocks of 16, 16 and 4 rows
static Err err;

static CalibText text_of(int64_t count, int64_t window, int64_t vocab) {
    CalibText t = {.ids = calloc((size_t)(count * window), sizeof(int)), .count = count, .window = window};
    uint64_t s = 7;
    for (int64_t i = 0; i < count * window; i++) t.ids[i] = (int)(random_u64(&s) % (uint64_t)vocab);
    return t;
}

// Dense and compressed, and a text.
typedef struct { RigModel dense, small; CalibText t; } Pair;

static int pair_make(Pair *p) {
    err.msg[0] = 0;
    p->t = text_of(WINDOWS, WINDOW, rig.vocab);
    return rig_build(&p->dense, &rig, NULL, &err) || rig_build(&p->small, &rig, &cut, &err) ? -1 : 0;
}

static void pair_free(Pair *p) {
    rig_free(&p->dense);
    rig_free(&p->small);
    free(p->t.ids);
}

static long double log_p(const float *x, int64_t n, int64_t id) {
    long double sum = 0, most = x[0];
    for (int64_t i = 0; i < n; i++) if (x[i] > most) most = x[i];
    for (int64_t i = 0; i < n; i++) sum += expl(x[i] - most);
    return x[id] - most - logl(sum);
}

static int order(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Two passes: the mean, then the squares around it.
static double naive_mean(const double *x, int n, double *error) {
    long double mean = 0, around = 0;
    for (int i = 0; i < n; i++) mean += (long double)x[i] / n;
    for (int i = 0; i < n; i++) around += (x[i] - mean) * (x[i] - mean);
    *error = (double)sqrtl(around / ((long double)n * (n - 1)));
    return (double)mean;
}

static bool near(double a, double b, double tol) { return fabs(a - b) <= tol * fmax(1, fabs(b)); }

static int equals_its_definition(void) {
    Pair p;
    Comparison c;
    CHECK(pair_make(&p) == 0, "%s", err.msg);
    CHECK(compare_models(&p.dense.m, &p.small.m, &p.t, &c, NULL, NULL, &err) == 0, "%s", err.msg);
    static double loss[2][TOKENS], rise[TOKENS], kl[TOKENS];
    int n = 0, same = 0;
    SessionConfig config = {WINDOW, WINDOW, T_F32, CACHE_AUTO, .uniform = true};
    for (int w = 0; w < WINDOWS; w++) {
        const int *ids = p.t.ids + w * WINDOW;
        float *a = rig_logits(&p.dense.m, config, ids, WINDOW, &err);
        float *b = rig_logits(&p.small.m, config, ids, WINDOW, &err);
        CHECK(a && b, "%s", err.msg);
        CHECK(rig_difference(b, a, WINDOW * rig.vocab) > 0.01, "window %d: nothing to measure", w);
        for (int i = 0; i < WINDOW - 1; i++, n++) {
            const float *x = a + i * rig.vocab, *y = b + i * rig.vocab;
            loss[0][n] = -(double)log_p(x, rig.vocab, ids[i + 1]);
            loss[1][n] = -(double)log_p(y, rig.vocab, ids[i + 1]);
            rise[n] = loss[1][n] - loss[0][n];
            for (int v = 0; v < rig.vocab; v++) {
                long double q = log_p(x, rig.vocab, v);
                kl[n] += (double)(expl(q) * (q - log_p(y, rig.vocab, v)));
            }
            same += argmax(x, rig.vocab) == argmax(y, rig.vocab);
        }
        free(a);
        free(b);
    }
    double e, m;
    CHECK(c.tokens == n && n == TOKENS, "%lld tokens, %d", (long long)c.tokens, n);
    for (int j = 0; j < 2; j++) {
        m = naive_mean(loss[j], n, &e);
        CHECK(near(c.loss[j], m, 1e-12) && near(c.error[j], e, 1e-9), "loss %d: %.15g +/- %g, %.15g +/- %g",
              j, c.loss[j], c.error[j], m, e);
    }
    m = naive_mean(rise, n, &e);
    CHECK(near(c.difference, m, 1e-12) && near(c.difference_error, e, 1e-9), "%.15g +/- %g, %.15g +/- %g",
          c.difference, c.difference_error, m, e);
    m = naive_mean(kl, n, &e);
    CHECK(m > 1e-3 && near(c.kl, m, 1e-12) && near(c.kl_error, e, 1e-9), "%.15g +/- %g, %.15g +/- %g",
          c.kl, c.kl_error, m, e);
    qsort(kl, TOKENS, sizeof *kl, order);
    CHECK(near(c.kl_max, kl[TOKENS - 1], 1e-12), "%g, %g", c.kl_max, kl[TOKENS - 1]);
    CHECK(near(c.kl_median, (kl[TOKENS / 2 - 1] + kl[TOKENS / 2]) / 2, 1e-6), "%g", c.kl_median);
    CHECK(c.same_top == (double)same / n && same > 0 && same < n, "%g of %d, %d", c.same_top, n, same);
    pair_free(&p);
    return PASS;
}

static int a_model_equals_itself(void) {
    Pair p;
    Comparison c, alone;
    CHECK(pair_make(&p) == 0, "%s", err.msg);
    CHECK(compare_models(&p.small.m, &p.small.m, &p.t, &c, NULL, NULL, &err) == 0, "%s", err.msg);
    CHECK(c.loss[0] == c.loss[1] && c.difference == 0 && c.difference_error == 0, "%g %g", c.loss[0], c.loss[1]);
    CHECK(c.kl == 0 && c.kl_error == 0 && c.kl_max == 0 && c.kl_median == 0, "%g", c.kl);
    CHECK(c.same_top == 1, "%g", c.same_top);
    CHECK(compare_models(&p.small.m, NULL, &p.t, &alone, NULL, NULL, &err) == 0, "%s", err.msg);
    CHECK(alone.loss[0] == c.loss[0] && alone.error[0] == c.error[0] && alone.tokens == c.tokens,
          "%.17g alone, %.17g", alone.loss[0], c.loss[0]);
    CHECK(isnan(alone.loss[1]) && isnan(alone.kl), "%g", alone.loss[1]);
    pair_free(&p);
    return PASS;
}

static int threads_do_not_matter(void) {
    Pair p;
    Comparison c[2];
    int before = threads_get();
    CHECK(pair_make(&p) == 0, "%s", err.msg);
    for (int i = 0; i < 2; i++) {
        threads_set(i ? 3 : 1);
        CHECK(compare_models(&p.dense.m, &p.small.m, &p.t, &c[i], NULL, NULL, &err) == 0, "%s", err.msg);
    }
    threads_set(before);
    CHECK(memcmp(&c[0], &c[1], sizeof *c) == 0, "%.17g %.17g", c[0].kl, c[1].kl);
    pair_free(&p);
    return PASS;
}

// A model that says the same of every token: all weights of its output are 0. Ties go to token 0.
static int ties_and_an_even_model(void) {
    Pair p;
    Comparison c;
    CHECK(pair_make(&p) == 0, "%s", err.msg);
    Mat even = p.small.m.output;
    even.data = calloc((size_t)(rig.vocab * rig.d), sizeof(float));
    p.small.m.output = even;
    CHECK(compare_models(&p.small.m, &p.small.m, &p.t, &c, NULL, NULL, &err) == 0, "%s", err.msg);
    CHECK(near(c.loss[0], log((double)rig.vocab), 1e-14) && c.error[0] < 1e-7 && c.same_top == 1, "%g", c.loss[0]);
    CHECK(compare_models(&p.dense.m, &p.small.m, &p.t, &c, NULL, NULL, &err) == 0, "%s", err.msg);
    int zero = 0;
    SessionConfig config = {WINDOW, WINDOW, T_F32, CACHE_AUTO, .uniform = true};
    for (int w = 0; w < WINDOWS; w++) {
        float *a = rig_logits(&p.dense.m, config, p.t.ids + w * WINDOW, WINDOW, &err);
        for (int i = 0; i < WINDOW - 1; i++) zero += argmax(a + i * rig.vocab, rig.vocab) == 0;
        free(a);
    }
    CHECK(c.same_top == (double)zero / TOKENS, "%g, %d", c.same_top, zero);
    free((void *)even.data);
    pair_free(&p);
    return PASS;
}

static int calls;
static double last[2];
static void count_calls(void *ctx, const char *what, double done, double total) {
    calls++;
    last[0] = done;
    last[1] = total;
    if (ctx && what) interrupted = 1;
}

static int reports_and_stops(void) {
    Pair p;
    Comparison c;
    CHECK(pair_make(&p) == 0, "%s", err.msg);
    calls = 0;
    CHECK(compare_models(&p.dense.m, &p.small.m, &p.t, &c, count_calls, NULL, &err) == 0, "%s", err.msg);
    CHECK(calls == WINDOWS && last[0] == WINDOWS && last[1] == WINDOWS, "%d calls, %g", calls, last[0]);
    calls = 0;
    int result = compare_models(&p.dense.m, NULL, &p.t, &c, count_calls, &p, &err);
    interrupted = 0;
    CHECK(result == -1 && calls == 1 && strstr(err.msg, "interrupted"), "%d calls: %s", calls, err.msg);
    pair_free(&p);
    return PASS;
}

static int refuses(void) {
    Pair p;
    Comparison c;
    RigModel other;
    Rig larger = rig;
    larger.vocab++;
    CHECK(pair_make(&p) == 0 && rig_build(&other, &larger, NULL, &err) == 0, "%s", err.msg);
    const Model *a = &p.dense.m;
    CHECK(compare_models(a, &other.m, &p.t, &c, NULL, NULL, &err) && strstr(err.msg, "97 and 98"), "%s", err.msg);
    CalibText t = p.t;
    t.count = 0;
    CHECK(compare_models(a, NULL, &t, &c, NULL, NULL, &err) && strstr(err.msg, "nothing to score"), "%s", err.msg);
    t = (CalibText){.ids = p.t.ids, .count = 3, .window = 1};
    CHECK(compare_models(a, NULL, &t, &c, NULL, NULL, &err) && strstr(err.msg, "nothing to score"), "%s", err.msg);
    t = (CalibText){.ids = p.t.ids, .count = 1, .window = 65};
    CHECK(compare_models(a, NULL, &t, &c, NULL, NULL, &err) && strstr(err.msg, "1 .. 64"), "%s", err.msg);
    p.t.ids[3] = (int)rig.vocab;
    CHECK(compare_models(a, NULL, &p.t, &c, NULL, NULL, &err) && strstr(err.msg, "token 97"), "%s", err.msg);
    p.t.ids[3] = 0;
    ((float *)p.dense.m.output_norm.w)[0] = NAN;
    CHECK(compare_models(a, NULL, &p.t, &c, NULL, NULL, &err) && strstr(err.msg, "finite"), "%s", err.msg);
    rig_free(&other);
    pair_free(&p);
    return PASS;
}

// What is printed, read back.
static int prints(void) {
    Comparison c = {.tokens = 8176, .loss = {2.5, 2.625}, .error = {0.01, 0.02}, .difference = 0.125,
                    .difference_error = 0.003, .kl = 0.11, .kl_error = 0.004, .kl_max = 7.5,
                    .kl_median = 0.05, .same_top = 0.885};
    static const char *const wanted[] = {"some text: 8176 tokens", "12.182494 +/- 0.121825", "13.804574",
        "0.125000 +/- 0.003000", "1.133148 +/- 0.003399", "0.110000 +/- 0.004000", "7.500000", "0.050000",
        "88.500000 +/- 0.352817 %"};
    char text[2][4096] = {""};
    for (int i = 0; i < 2; i++) {
        fflush(stdout);
        FILE *f = tmpfile();
        int real = dup(STDOUT_FILENO);
        CHECK(f && real >= 0 && dup2(fileno(f), STDOUT_FILENO) >= 0, "no temporary file");
        print_comparison(&c, "some text");
        fflush(stdout);
        dup2(real, STDOUT_FILENO);
        close(real);
        rewind(f);
        text[i][fread(text[i], 1, sizeof text[i] - 1, f)] = 0;
        fclose(f);
        c.loss[1] = NAN;
    }
    for (int i = 0; i < COUNT(wanted); i++)
        CHECK(strstr(text[0], wanted[i]), "no \"%s\" in\n%s", wanted[i], text[0]);
    CHECK(strstr(text[1], "12.182494 +/- 0.121825") && !strstr(text[1], "KLD") && !strstr(text[1], "nan"),
          "alone:\n%s", text[1]);
    return PASS;
}

static const Test tests[] = {
    {"equals its definition", equals_its_definition},
    {"a model equals itself", a_model_equals_itself},
    {"threads do not matter", threads_do_not_matter},
    {"ties and an even model", ties_and_an_even_model},
    {"reports and stops", reports_and_stops},
    {"refuses", refuses},
    {"prints", prints},
};
int main(int argc, char **argv) { return run_tests("verify", tests, COUNT(tests), argc, argv); }
