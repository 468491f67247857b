// encode: what encoders are for: the likeliest words for a mask, and a text as one vector.
#include "tools.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Ids of a text with what the vocabulary puts around every one: [CLS] .. [SEP], <s> .. </s>. A decoder's text
// goes on: nothing stands behind it, and before it one BOS.
int read_ids(const Loaded *l, const char *text, size_t size, Text *to, Err *e) {
    const Vocab *v = l->vocab;
    int *ids = NULL;
    size_t n = 0;
    *to = (Text){0};
    if (tokenizer_encode(l->tokenizer, text, size, true, true, &ids, &n, e)) return -1;
    const bool whole = l->model->config.encoder, written = !whole && n && ids[0] == v->bos;
    bool bos = v->bos >= 0 && !written && (v->add_bos || (!whole && !n));
    bool eos = whole && v->add_eos && v->eos >= 0;
    int64_t all = (int64_t)n + bos + eos, most = l->model->config.context;
    if (all < 1 || all > most)
        fail(e, all < 1 ? "a text of no tokens" : "a text of %lld tokens: the model sees at most %lld",
             (long long)all, (long long)most);
    else if ((to->ids = alloc((size_t)all, sizeof *ids, "a text", e))) {
        to->n = all;
        if (bos) to->ids[0] = v->bos;
        if (n) memcpy(to->ids + bos, ids, n * sizeof *ids);
        if (eos) to->ids[all - 1] = v->eos;
    }
    free(ids);
    return to->ids ? 0 : -1;
}

// ---- masks ---------------------------------------------------------------------------------------

// The text of ids, as read: what stands around it is left out, unless `special`.
static void print_ids(Tokenizer *t, const int *ids, int64_t n, bool special) {
    Decoder d = {.special = special};
    for (int64_t i = 0; i < n; i++) fputs(tokenizer_decode(t, &d, ids[i]), stdout);
    fputs(tokenizer_decode_end(t, &d), stdout);
}

// Likelier first, of equals the lower id.
static bool before(const float *p, int a, int b) { return p[a] > p[b] || (p[a] == p[b] && a < b); }

void largest(const float *p, int n, int *best, int k) {
    int found = 0;
    for (int id = 0; id < n; id++) {
        if (found == k && !before(p, id, best[k - 1])) continue;
        int at = found < k ? found++ : k - 1;
        for (; at > 0 && before(p, id, best[at - 1]); at--) best[at] = best[at - 1];
        best[at] = id;
    }
}

// The `top` likeliest pieces for the mask at place `at`, each with its probability and the text with it.
static int fill(const Loaded *l, Session *s, Text text, int64_t at, bool special, int64_t top, Err *e) {
    float *row = logits(s, at, 1);                                 // (V)
    int n = l->vocab->n, k = top < n ? (int)top : n, *best = alloc((size_t)k, sizeof *best, "likeliest", e);
    if (!best) return -1;
    largest(row, n, best, k);
    // Over all rows of the head: padding beyond the vocabulary is part of the model's sum.
    double sum = 0, max = (double)row[argmax(row, l->model->config.vocab)];
    for (int64_t i = 0; i < l->model->config.vocab; i++) sum += exp((double)row[i] - max);
    for (int i = 0; i < k; i++) {
        printf("%.6f  %6d  \"", exp((double)row[best[i]] - max) / sum, best[i]);
        print_ids(l->tokenizer, &best[i], 1, true);
        printf("\"  ");
        text.ids[at] = best[i];
        print_ids(l->tokenizer, text.ids, text.n, special);
        putchar('\n');
    }
    text.ids[at] = l->vocab->mask;
    free(best);
    return 0;
}

int tool_fill_mask(const Loaded *l, const char *text, int64_t top, SessionConfig c, Err *e) {
    static const char *const masks[] = {"<mask>", "[MASK]"};
    const Vocab *v = l->vocab;
    if (!l->model->config.encoder || !model_predicts(l->model) || v->mask < 0)
        return fail(e, "%s: --fill-mask takes an encoder with a masked-LM head and a mask token: this %s",
                    l->path, !l->model->config.encoder ? "is a decoder"
                    : v->mask < 0 ? "vocabulary has no mask token"
                    : "model has no such head (--embed is for it)");
    Str mask = v->piece[v->mask];
    for (int i = 0; i < 2; i++)
        if (!str_is(mask, masks[i]) && strstr(text, masks[i]))
            return fail(e, "the mask of this model is written %.*s, not %s", (int)mask.n, mask.s, masks[i]);
    Text t;
    Session s = {0};
    int64_t count = 0, turn = 0;
    int status = -1;
    if (read_ids(l, text, strlen(text), &t, e)) return -1;
    for (int64_t i = 0; i < t.n; i++) count += t.ids[i] == v->mask;
    c.context = t.n;
    if (!count) {
        fail(e, "no mask in the text: write %.*s where a word is to be found", (int)mask.n, mask.s);
    } else if (!session_init(&s, l->model, c, e) && !encode(&s, t.ids, t.n, e)) {
        status = 0;
        for (int64_t i = 0; i < t.n && !status; i++) {
            if (t.ids[i] != v->mask) continue;
            turn++;
            if (count > 1)
                printf("%smask %lld of %lld\n", turn > 1 ? "\n" : "", (long long)turn, (long long)count);
            status = fill(l, &s, t, i, count > 1, top, e);
        }
    }
    session_free(&s);
    free(t.ids);
    return status;
}

// ---- embeddings ----------------------------------------------------------------------------------

// y (d), of length 1: the mean of the rows of x (n, d), or the first.
static void pool(const float *x, int64_t n, int64_t d, Pooling p, float *y) {
    double squares = 0;
    for (int64_t j = 0; j < d; j++) {
        double sum = 0;
        for (int64_t i = 0; i < (p == POOL_FIRST ? 1 : n); i++) sum += (double)x[i * d + j];
        y[j] = (float)(p == POOL_FIRST ? sum : sum / (double)n);
        squares += (double)y[j] * (double)y[j];
    }
    double length = sqrt(squares);
    for (int64_t j = 0; j < d && length > 0; j++) y[j] = (float)((double)y[j] / length);
}

// One line of numbers for a text. y (d) is room.
static int embed(const Loaded *l, Session *s, const char *text, size_t size, Pooling p, float *y, Err *e) {
    Text t;
    int64_t d = l->model->config.d;
    if (read_ids(l, text, size, &t, e)) return -1;
    int status = encode(s, t.ids, t.n, e);
    free(t.ids);
    if (status) return -1;
    pool(s->x, s->n, d, p, y);
    for (int64_t j = 0; j < d; j++) printf(j ? " %.8g" : "%.8g", (double)y[j]);
    putchar('\n');
    return 0;
}

// Of a text as a whole, or of each of its lines.
static int embed_all(const Loaded *l, const char *text, size_t size, bool lines, Pooling p, SessionConfig c,
                     Err *e) {
    Session s = {0};
    float *y = NULL;
    int status = -1;
    if (!l->model->config.encoder)
        return fail(e, "%s: --embed takes an encoder: a decoder's token knows only what stands before it",
                    l->path);
    c.context = l->model->config.context;
    if (session_init(&s, l->model, c, e) ||
        !(y = alloc((size_t)l->model->config.d, sizeof *y, "an embedding", e))) goto done;
    status = lines ? 0 : embed(l, &s, text, size, p, y, e);
    size_t n;
    int64_t number = 1;
    for (size_t at = 0; lines && at < size && !status; at += n + 1, number++) {
        const char *line = text + at, *end = memchr(line, '\n', size - at);
        n = end ? (size_t)(end - line) : size - at;
        Err why;
        status = embed(l, &s, line, n, p, y, &why);
        if (status) fail(e, "line %lld: %s", (long long)number, why.msg);
        else if (interrupted) status = fail(e, "interrupted");
    }
done:
    session_free(&s);
    free(y);
    return status;
}

int tool_embed(const Loaded *l, const char *text, Pooling p, SessionConfig c, Err *e) {
    return embed_all(l, text, strlen(text), false, p, c, e);
}

int tool_embed_file(const Loaded *l, const char *file, Pooling p, SessionConfig c, Err *e) {
    char *text = NULL;
    size_t size;
    if (read_text(file, &text, &size, e)) return -1;
    int status = embed_all(l, text, size, true, p, c, e);
    free(text);
    return status;
}
