// trace: a text runs through the model, and what stands in the session while one layer's attention is
// computed is written down: lengths of vectors, and what every head looks at.
#include "explain.h"
#include "../core/unicode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- looking -------------------------------------------------------------------------------------

typedef struct {
    Trace *t;
    Session *s;
    int64_t layer, q_width;        // numbers of a head's q
    Cache units;                   // the layer's cache with other values: unit vectors
    float *o, *y;                  // (h, v_width) what heads take from such values; (d)
} Watch;

// The column that token at alone has, -1: none.
static int64_t column_of(const Trace *t, int64_t at) {
    for (int64_t i = 0; i < t->shown; i++)
        if (t->begin[i] == at && t->begin[i + 1] == at + 1) return i;
    return -1;
}

// A head's output is the mean of the values by its weights. Where the value of every position is a unit
// vector, that of its column, the output is the weights themselves, just as the engine has them, whatever
// q and k are made of; v_width columns at a time.
static void look(Watch *w, int64_t n) {
    Trace *t = w->t;
    Session *s = w->s;
    const Config *c = &s->model->config;
    const Attention *a = &s->model->layer[w->layer].attn;
    Cache *u = &w->units;
    for (int64_t base = 0; base < t->shown; base += u->v_width) {
        const int64_t some = t->shown - base < u->v_width ? t->shown - base : u->v_width;
        memset(u->v, 0, (size_t)(u->n_kv * u->capacity * u->v_width) * sizeof(float));
        for (int64_t g = 0; g < u->n_kv; g++)
            for (int64_t i = base; i < base + some; i++)
                for (int64_t at = t->begin[i]; at < t->begin[i + 1]; at++)
                    ((float *)u->v)[(g * u->capacity + at) * u->v_width + i - base] = 1;
        for (int64_t row = 0; row < n; row++) {
            const int64_t at = s->pos + row, column = column_of(t, at);
            if (column < 0) continue;
            attention_mix(a, &s->work, u, s->q + row * c->h * w->q_width, 0, 1, c->encoder ? t->n - 1 : at,
                          c->encoder ? SEE_ALL : c->window, w->o);
            for (int64_t i = 0; i < c->h; i++)
                for (int64_t j = 0; j < some; j++) {
                    const float weight = w->o[i * u->v_width + j];
                    if (at == t->focus) t->head[i * t->shown + base + j] = weight;
                    t->map[column * t->shown + base + j] += weight / (float)c->h;
                }
        }
    }
}

static void length(Trace *t, const char *name, Ink ink, const float *x, int64_t heads, int64_t width) {
    Length *l = &t->length[t->lengths++];
    *l = (Length){.ink = ink, .heads = heads, .least = INFINITY};
    snprintf(l->name, sizeof l->name, "%s", name);
    for (int64_t i = 0; i < heads || i == 0; i++, x += width) {
        double sum = 0;
        for (int64_t j = 0; j < width; j++) sum += (double)x[j] * (double)x[j];
        l->whole += sum;
        l->least = fmin(l->least, sqrt(sum));
        l->most = fmax(l->most, sqrt(sum));
    }
    l->whole = sqrt(l->whole);
}

static void measure(Watch *w, int64_t row) {
    Trace *t = w->t;
    Session *s = w->s;
    const Config *c = &s->model->config;
    const Attention *a = &s->model->layer[w->layer].attn;
    const Cache *k = &s->cache[w->layer];
    length(t, "residual stream", PLAIN, s->x + row * c->d, 0, c->d);
    length(t, "x", PLAIN, s->xn + row * c->d, 0, c->d);
    for (int i = 0; i < a->n_groups; i++) {
        const Group *g = &a->groups[i];
        char set[16], name[24];
        if (!(g->set & ~HAS_O)) continue;
        snprintf(name, sizeof name, "z of %s", letters_of(g->set & ~HAS_O, ", ", set));
        length(t, name, INK_SHARED, s->work.z[i] + row * g->r_embd, 0, g->r_embd);
    }
    length(t, "q", INK_Q, s->q + row * c->h * w->q_width, c->h, w->q_width);
    length(t, "k", INK_K, s->k + row * c->n_kv * k->k_width, c->n_kv, k->k_width);
    length(t, "v", INK_V, s->v + row * c->n_kv * k->v_width, c->n_kv, k->v_width);
    length(t, "o", INK_O, s->o + row * c->h * k->v_width, c->h, k->v_width);
    attention_out(a, &s->work, s->o + row * c->h * k->v_width, 1, w->y);       // z is not needed any more
    length(t, "y", PLAIN, w->y, 0, c->d);
}

static void watch(void *ctx, const Session *s, int64_t layer, Seen at, int64_t n) {
    Watch *w = ctx;
    if (layer != w->layer || at != SEEN_ATTENTION) return;
    look(w, n);
    if (w->t->focus >= s->pos && w->t->focus < s->pos + n) measure(w, w->t->focus - s->pos);
}

// Which tokens get columns: all; or the first and those around `focus`, the others together.
static void columns(Trace *t) {
    const int64_t alone = SHOWN - 3;
    int64_t from = t->focus - alone / 2;
    if (t->n <= SHOWN) {
        for (int64_t i = 0; i < t->n; i++) t->begin[t->shown++] = i;
    } else {
        if (from < 1) from = 1;
        if (from > t->n - alone) from = t->n - alone;
        t->begin[t->shown++] = 0;
        if (from > 1) t->begin[t->shown++] = 1;
        for (int64_t i = 0; i < alone; i++) t->begin[t->shown++] = from + i;
        if (from + alone < t->n) t->begin[t->shown++] = from + alone;
    }
    t->begin[t->shown] = t->n;
}

int trace_run(Trace *t, const Model *m, const int *ids, int64_t n, int64_t layer, int mask, int pieces,
              Err *e) {
    const Config *c = &m->config;
    const Attention *a = &m->layer[layer].attn;
    Session s = {0};
    Watch w = {.t = t, .s = &s, .layer = layer};
    int status = -1;
    int64_t at = 0;
    while (c->encoder && at < n && ids[at] != mask) at++;
    *t = (Trace){.n = n, .focus = c->encoder && at < n ? at : n - 1};
    columns(t);
    const SessionConfig dense = {.context = n, .batch = n < 64 ? n : 64, .kv_type = T_F32,
                                 .form = CACHE_DENSE, .uniform = true};
    if (session_init(&s, m, dense, e)) return -1;
    const Group *g = a->group_of[P_K] < 0 ? NULL : &a->groups[a->group_of[P_K]];
    w.units = s.cache[layer];
    // q is as wide as k where neither needs U_head; else U_head has made it hd wide.
    w.q_width = g && a->group_of[P_Q] == a->group_of[P_K] && !a->bias[P_Q] ? w.units.k_width : c->hd;
    if (!(w.units.v = alloc((size_t)(c->n_kv * w.units.capacity), (size_t)w.units.v_width * sizeof(float),
                            "unit vectors", e)))
        goto done;
    if (!(w.o = alloc((size_t)(c->h * c->hd), sizeof *w.o, "weights", e)) ||
        !(w.y = alloc((size_t)c->d, sizeof *w.y, "an output", e)) ||
        !(t->head = alloc((size_t)(c->h * t->shown), sizeof *t->head, "weights", e)) ||
        !(t->map = alloc((size_t)(t->shown * t->shown), sizeof *t->map, "weights", e)))
        goto done;
    s.observer = watch, s.observer_ctx = &w;
    if (c->encoder ? encode(&s, ids, n, e) : prefill(&s, ids, n, e)) goto done;
    if (interrupted) { fail(e, "interrupted"); goto done; }
    if (model_predicts(m) && (!c->encoder || at < n)) {
        const float *row = logits(&s, c->encoder ? t->focus : s.n - 1, 1);
        t->likely = pieces < 5 ? pieces : 5;
        largest(row, pieces, t->best, t->likely);
        for (int i = 0; i < t->likely; i++) t->chance[i] = exp(-token_loss(row, c->vocab, t->best[i]));
    }
    status = 0;
done:
    free(w.units.v);
    free(w.o);
    free(w.y);
    session_free(&s);
    if (status) trace_free(t);
    return status;
}

void trace_free(Trace *t) {
    free(t->head);
    free(t->map);
    memset(t, 0, sizeof *t);
}

// ---- on the page ---------------------------------------------------------------------------------

enum { WORD = 6, WORD_WIDTH = 14, GRID = WORD + WORD_WIDTH + 1 };

// The bytes of a token that are no text by themselves, a part of a character, as <E6>; 0: it is text.
static size_t bytes_of(const Vocab *v, int id, char out[64]) {
    char raw[16];
    const Str piece = v->piece[id];
    size_t n = SIZE_MAX, at = 0, step;
    bool text = true;
    const int byte = v->kind == VOCAB_SPM ? byte_piece(piece) : -1;
    if (byte >= 0) raw[0] = (char)byte, n = 1;
    else if (v->kind == VOCAB_BPE && piece.n <= sizeof raw) n = from_alphabet(piece, raw);
    if (n > sizeof raw) return 0;
    for (size_t i = 0; i < n; i += step) {
        uint32_t cp;
        step = utf8_next(raw + i, n - i, &cp);
        const bool whole = step && cp != UTF8_BAD;
        if (!step) step = n - i;
        text &= whole;
        for (size_t j = i; j < i + step && at < 59; j++)
            at += (size_t)(whole ? (out[at] = raw[j], 1) : snprintf(out + at, 5, "<%02X>", raw[j] & 255));
    }
    out[at] = 0;
    return text ? 0 : at;
}

// A token's text as a word: without the space before it, line ends written out.
static const char *word_of(const Loaded *l, int id, char out[64]) {
    if (bytes_of(l->vocab, id, out)) return out[0] == ' ' ? out + 1 : out;
    Decoder d = {.special = true, .started = true};
    char text[64];
    snprintf(text, sizeof text, "%s", tokenizer_decode(l->tokenizer, &d, id));
    const size_t n = strlen(text);
    snprintf(text + n, sizeof text - n, "%s", tokenizer_decode_end(l->tokenizer, &d));
    const char *from = text[0] == ' ' && text[1] ? text + 1 : text;
    size_t at = 0;
    for (; *from && at < 60; from++)
        if (*from == '\n') out[at++] = '\\', out[at++] = 'n';
        else out[at++] = *from;
    out[at] = 0;
    if (!strcmp(out, " ")) strcpy(out, "(space)");
    return out;
}

// What column i is: its position and its word, or how many tokens.
static void label(Page *p, int y, const Loaded *l, const Trace *t, const int *ids, int64_t i) {
    const int64_t at = t->begin[i], many = t->begin[i + 1] - at;
    char text[64];
    const Ink ink = at == t->focus ? STRONG : PLAIN;
    if (many > 1) page_put(p, WORD, y, FAINT, "(%lld tokens)", (long long)many);
    else {
        page_right(p, WORD - 1, y, FAINT, "%lld", (long long)(at % 100000));
        page_word(p, WORD, y, WORD_WIDTH, ink, word_of(l, ids[at], text));
    }
}

// Orthonormal factors, those of plain decompositions, show how much of x they let through.
static void print_lengths(Page *p, const Loaded *l, const Trace *t) {
    Str method = {0};
    Err ignored;
    const double most = t->length[1].whole;
    const bool plain = gguf_get_str(l->file, "tucker.method", &method, &ignored) == 0 &&
                       (str_is(method, "hooi") || str_is(method, "hosvd"));
    for (int i = 0; i < t->lengths; i++) {
        const Length *n = &t->length[i];
        page_put(p, 0, i, n->ink, "|%s|", n->name);
        page_right(p, 30, i, PLAIN, "%.4g", n->whole);
        if (n->heads)
            page_put(p, 33, i, FAINT, "%d head%s, %.4g to %.4g", (int)n->heads, n->heads > 1 ? "s" : "",
                     n->least, n->most);
        else if (n->ink == INK_SHARED && plain && most > 0)
            page_put(p, 33, i, FAINT, "%.1f %% of |x|", 100 * n->whole / most);
    }
    page_print(p);
}

// What the heads of token focus look at: a row a word, a column a head.
static void print_heads(Page *p, const Loaded *l, const Trace *t, const int *ids) {
    const int64_t h = l->model->config.h, shown = h < 36 ? h : 36;
    const int width = shown <= 12 ? 3 : shown <= 18 ? 2 : 1;
    const int mean = GRID + (int)shown * width + 8, room = PAGE_WIDTH - mean - 1;   // of the bars
    int y = 0;
    if (shown < h)
        page_put(p, 0, y++, FAINT, "heads 1 to %d of %d; the mean is that of all", (int)shown, (int)h);
    page_put(p, WORD, y, STRONG, "head i =");
    for (int64_t i = 1; i <= shown; i++)
        page_put(p, GRID + (int)(i - 1) * width, y, STRONG, "%d", (int)(width > 1 ? i : i % 10));
    page_right(p, mean, y++, STRONG, "mean");
    for (int64_t i = 0; i < t->shown; i++, y++) {
        double sum = 0;
        if (t->begin[i] > t->focus && !l->model->config.encoder) break;
        label(p, y, l, t, ids, i);
        for (int64_t j = 0; j < h; j++) {
            const double weight = (double)t->head[j * t->shown + i];
            if (j < shown) page_shade(p, GRID + (int)j * width, y, width > 1 ? width - 1 : 1, weight);
            sum += weight;
        }
        page_right(p, mean, y, PLAIN, "%.1f %%", 100 * sum / (double)h);
        page_bar(p, mean + 1, y, room < 24 ? room : 24, sum / (double)h, INK_SHARED);
    }
    page_legend(p, WORD, y);
    page_print(p);
}

static void print_map(Page *p, const Loaded *l, const Trace *t, const int *ids) {
    const int tens = t->n > 10;                    // above the last digits of positions, those of tens
    for (int64_t i = 0; i < t->shown; i++) {
        const int at = (int)t->begin[i], x = GRID + 2 * (int)i;
        const bool alone = t->begin[i + 1] - t->begin[i] == 1;
        if (alone && at % 10 == 0 && at) page_put(p, x, 0, FAINT, "%d", at / 10 % 10);
        page_put(p, x, tens, FAINT, alone ? "%d" : "..", at % 10);
    }
    for (int64_t i = 0; i < t->shown; i++) {
        const int y = (int)i + tens + 1;
        label(p, y, l, t, ids, i);
        if (t->begin[i + 1] - t->begin[i] > 1) continue;
        for (int64_t j = 0; j < t->shown && (j <= i || l->model->config.encoder); j++)
            page_shade(p, GRID + 2 * (int)j, y, 2, (double)t->map[i * t->shown + j]);
    }
    page_print(p);
}

int print_trace(Page *p, const Loaded *l, int64_t layer, Text text, Err *e) {
    const Model *m = l->model;
    Trace t;
    char word[64];
    if (trace_run(&t, m, text.ids, text.n, layer, l->vocab->mask, l->vocab->n, e)) return -1;
    const bool mask = m->config.encoder && text.ids[t.focus] == l->vocab->mask;
    heading(p, "4. A text runs through it, cached dense in f32");
    const int x = page_put(p, 0, 0, PLAIN, "The %s token, at position %d: ", mask ? "first masked" : "last",
                           (int)t.focus);
    page_word(p, x, 0, 20, STRONG, word_of(l, text.ids[t.focus], word));
    page_print(p);
    page_say(p, PLAIN, "How long its vectors are; q, k, v, o: all heads together, then single ones:");
    print_lengths(p, l, &t);
    page_say(p, PLAIN, "%s", "");
    page_say(p, PLAIN, "What its heads look at, softmax(q_i . k_gt / sqrt(hd)); a column sums to 1:");
    print_heads(p, l, &t, text.ids);
    page_say(p, PLAIN, "%s", "");
    page_say(p, PLAIN, "The mean of the heads for every token: a row is a token that looks, a column one");
    page_say(p, PLAIN, "that is looked at; a row sums to 1:");
    print_map(p, l, &t, text.ids);
    page_say(p, PLAIN, "%s", "");
    if (!t.likely)
        page_say(p, PLAIN, model_predicts(m) ? "No mask in the text, so there is nothing to predict."
                                             : "This encoder has no head that predicts words.");
    else page_say(p, PLAIN, "Likeliest %s, after the last layer:", mask ? "in its place" : "to come next");
    for (int i = 0; i < t.likely; i++) {
        page_right(p, 9, i, PLAIN, "%.1f %%", 100 * t.chance[i]);
        page_word(p, 11, i, 20, STRONG, word_of(l, t.best[i], word));
        page_bar(p, 32, i, 48, t.chance[i], INK_SHARED);
    }
    page_print(p);
    trace_free(&t);
    return 0;
}
