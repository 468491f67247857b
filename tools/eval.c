// eval: how well a model predicts a text.
#include "tools.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

double token_loss(const float *logits, int64_t n, int id) {
    float max = logits[argmax(logits, n)];
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += expf(logits[i] - max);
    return log(sum) - (double)(logits[id] - max);
}

typedef struct { double sum, squares; int64_t n; } Loss;

// Adds the loss of ids[1 .. n-1] given what stands before each, on an empty timeline.
static int score_window(Session *s, const int *ids, int64_t n, Loss *loss, Err *e) {
    int64_t vocab = s->model->config.vocab;
    session_rewind(s, 0);
    for (int64_t at = 0; at < n && !interrupted; at += s->n) {
        int64_t part = n - at < s->config.batch ? n - at : s->config.batch;
        if (forward(s, ids + at, part, e)) return -1;
        for (int64_t i = 0; i < part; i += s->max_logits) {
            int64_t count = part - i < s->max_logits ? part - i : s->max_logits;
            const float *row = logits(s, i, count);
            for (int64_t j = 0; j < count && at + i + j + 1 < n; j++, row += vocab) {
                double x = token_loss(row, vocab, ids[at + i + j + 1]);
                loss->sum += x;
                loss->squares += x * x;
                loss->n++;
            }
        }
    }
    return interrupted ? fail(e, "interrupted") : 0;
}

int tool_perplexity(const Loaded *l, const char *text_file, int64_t window, int64_t windows,
                    SessionConfig c, Err *e) {
    char *text = NULL;
    int *ids = NULL, *one = NULL, status = -1;
    size_t size, n = 0;
    Session s = {0};
    if (read_text(text_file, &text, &size, e) ||
        tokenizer_encode(l->tokenizer, text, size, false, true, &ids, &n, e))
        goto done;
    int64_t bos = l->vocab->add_bos && l->vocab->bos >= 0, total = (int64_t)n;
    if (total + bos < window) window = total + bos;
    if (window < 2) { fail(e, "%s: a text of %zu ids leaves nothing to score", text_file, n); goto done; }
    int64_t step = window - bos, count = total / step;
    if (windows > 0 && windows < count) count = windows;
    c.context = window;
    if (session_init(&s, l->model, c, e) ||
        !(one = alloc((size_t)window, sizeof *one, "a window", e)))
        goto done;

    Loss loss = {0};
    double start = seconds();
    for (int64_t i = 0; i < count; i++) {
        if (bos) one[0] = l->vocab->bos;
        memcpy(one + bos, ids + i * step, (size_t)step * sizeof *one);
        if (score_window(&s, one, window, &loss, e)) goto done;
        if (isatty(STDERR_FILENO))
            fprintf(stderr, "\rwindow %lld of %lld  perplexity %.4f  %.0f s left ", (long long)i + 1,
                    (long long)count, exp(loss.sum / (double)loss.n),
                    (seconds() - start) / (double)(i + 1) * (double)(count - i - 1));
    }
    if (isatty(STDERR_FILENO)) fputc('\n', stderr);
    double mean = loss.sum / (double)loss.n, scored = (double)loss.n;
    double variance = loss.squares / scored - mean * mean;
    double error = scored > 1 && variance > 0 ? sqrt(variance / (scored - 1)) : 0;
    printf("%lld windows of %lld ids, %.1f tokens a second\n", (long long)count, (long long)window,
           scored / (seconds() - start));
    printf("perplexity: %.6f +/- %.6f (%lld tokens)\n", exp(mean), exp(mean) * error,
           (long long)loss.n);
    status = 0;
done:
    session_free(&s);
    free(one);
    free(ids);
    free(text);
    return status;
}
