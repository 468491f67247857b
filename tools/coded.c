// coded: prompts, answers and choices as ids, by the protocol of LASER (doc/EVALUATION.md).
#include "coded.h"

#include <stdlib.h>
#include <string.h>

// ---- texts and ids -------------------------------------------------------------------------------

// ends: with the BOS, and with an encoder's EOS, that the vocabulary asks for and the text does not have.
static int text_ids(const Loaded *l, const char *text, bool ends, Ids *to, Err *e) {
    const Vocab *v = l->vocab;
    int *ids = NULL;
    size_t n = 0;
    if (tokenizer_encode(l->tokenizer, text, strlen(text), true, true, &ids, &n, e)) return -1;
    bool bos = ends && v->add_bos && v->bos >= 0 && !(n && ids[0] == v->bos);
    bool eos = ends && l->model->config.encoder && v->add_eos && v->eos >= 0 && !(n && ids[n - 1] == v->eos);
    if ((to->id = alloc(n + 2, sizeof *ids, "an item's ids", e))) {
        if (bos) to->id[to->n++] = v->bos;
        for (size_t i = 0; i < n; i++) to->id[to->n++] = ids[i];
        if (eos) to->id[to->n++] = v->eos;
    }
    free(ids);
    return to->id ? 0 : -1;
}

int64_t ids_common(const int *a, int64_t na, const int *b, int64_t nb) {
    int64_t n = na < nb ? na : nb, i = 0;
    while (i < n && a[i] == b[i]) i++;
    return i;
}

char *ids_text(const Loaded *l, const int *ids, int64_t n, bool alone, Err *e) {
    TextFile text;
    Decoder d = {.special = alone, .started = !alone};
    const bool open = !text_open(&text);
    for (int64_t i = 0; open && i < n; i++) fputs(tokenizer_decode(l->tokenizer, &d, ids[i]), text.f);
    if (open) fputs(tokenizer_decode_end(l->tokenizer, &d), text.f);
    if (!text_close(&text)) fail(e, "out of memory");
    return text.s;
}

// The fewest last ids whose text is the answer, as LASER finds them; 0: none are. -1: no memory.
static int64_t answer_length(const Loaded *l, const Ids *whole, const char *answer, Err *e) {
    size_t most = 3 * strlen(answer) + 64;       // a part of a character decodes to three bytes
    for (int64_t k = 1; k <= whole->n; k++) {
        char *text = ids_text(l, whole->id + whole->n - k, k, true, e);
        if (!text) return -1;
        int same = text_same(text, answer, e);
        bool longer = strlen(text) > most;
        free(text);
        if (same) return same < 0 ? -1 : k;
        if (longer) break;
    }
    return 0;
}

// The prompt without the masks it ends in, *masks of them. Caller frees.
static char *before_masks(const Loaded *l, const char *prompt, int64_t *masks, Err *e) {
    Str mask = l->vocab->piece[l->vocab->mask];
    char *text = alloc(strlen(prompt) + 1, 1, "a prompt", e);
    size_t n = 0;
    *masks = 0;
    for (const char *p = prompt; text && *p; p++)         // n: behind the last that is no space
        if (*p != ' ') n = (size_t)(p - prompt) + 1;
    while (text && mask.n && n >= mask.n && memcmp(prompt + n - mask.n, mask.s, mask.n) == 0) {
        n -= mask.n;
        while (n && prompt[n - 1] == ' ') n--;
        ++*masks;
    }
    if (text) memcpy(text, prompt, n);
    return text;
}

// ---- an item -------------------------------------------------------------------------------------

// The first id of each choice, as it stands behind a space, or where the prompt leaves off.
static int code_next(Coded *c, const Loaded *l, const Item *it, Err *e) {
    const char *prompt = l->model->config.encoder ? "x" : it->prompt;
    if (!(c->next = alloc((size_t)it->n, sizeof *c->next, "choices", e))) return -1;
    for (int i = 0; i < it->n; i++) {
        int *ids = NULL;
        size_t n = 0;
        char *joined = text_join(prompt, it->text[i], e), *choice = joined ? joined + strlen(prompt) : NULL;
        int status = joined ? tokenizer_encode(l->tokenizer, choice, strlen(choice), true, false, &ids, &n, e)
                            : -1;
        if (status == 0 && n == 0) status = fail(e, "choice %d has no tokens", i);
        if (status == 0) c->next[i] = ids[0];
        free(ids);
        free(joined);
        if (status) return -1;
        for (int k = 0; k < i; k++)
            if (c->next[k] == c->next[i])
                return fail(e, "choices %d and %d begin with the same token", k, i);
    }
    return 0;
}

// text: what stands before the answers, and before: its ids.
static int code_whole(Coded *c, const Loaded *l, const Item *it, const char *text, const Ids *before,
                      Err *e) {
    if (!(c->whole = alloc((size_t)it->n, sizeof *c->whole, "choices", e)) ||
        !(c->from = alloc((size_t)it->n, sizeof *c->from, "choices", e)))
        return -1;
    bool masked = l->model->config.encoder;
    for (int i = 0; i < it->n; i++) {
        Ids *w = &c->whole[i];
        char *joined = text_join(text, it->text[i], e);
        int status = joined ? text_ids(l, joined, !masked, w, e) : -1;
        free(joined);
        if (status) return -1;
        int64_t k = it->kind == ITEM_ANSWER ? answer_length(l, w, it->text[i], e) : 0;
        if (k < 0) return -1;
        c->from[i] = k > 0 ? w->n - k : ids_common(w->id, w->n, before->id, before->n);
        if (c->from[i] == w->n) return fail(e, "\"%.60s\" adds no tokens to the prompt", it->text[i]);
        if (c->from[i] == 0 && !masked) return fail(e, "no token stands before the answer");
    }
    return 0;
}

static int code_masked(Coded *c, const Loaded *l, const Item *it, Err *e) {
    int64_t masks, all = 0;
    Ids before = {0};
    for (int64_t i = 0; i < c->prompt.n; i++) all += c->prompt.id[i] == l->vocab->mask;
    if (it->kind == ITEM_NEXT)
        return all == 1 ? code_next(c, l, it, e)
                        : fail(e, "the prompt holds %lld masks where one is wanted", (long long)all);
    char *text = before_masks(l, it->prompt, &masks, e);
    int status = text ? text_ids(l, text, false, &before, e) : -1;
    if (status == 0 && (all != masks || (it->kind == ITEM_ANSWER && all == 0)))
        status = fail(e, "the prompt does not end in its masks, for a masked model to put the answer there");
    if (status == 0) status = code_whole(c, l, it, text, &before, e);
    free(before.id);
    free(text);
    return status;
}

int code_item(Coded *c, const Loaded *l, const Item *it, int64_t new_tokens, int64_t *need, Err *e) {
    bool masked = l->model->config.encoder;
    *c = (Coded){.n = it->n};
    if (text_ids(l, it->prompt, true, &c->prompt, e)) return -1;
    if (c->prompt.n == 0) return fail(e, "an empty prompt");
    if (masked ? code_masked(c, l, it, e) : it->kind == ITEM_NEXT ? code_next(c, l, it, e)
               : code_whole(c, l, it, it->prompt, &c->prompt, e))
        return -1;
    *need = c->prompt.n;
    if (it->kind == ITEM_ANSWER && !masked) *need += it->new_tokens ? it->new_tokens : new_tokens;
    for (int i = 0; c->whole && i < it->n; i++)
        if (c->whole[i].n > *need) *need = c->whole[i].n;
    return 0;
}

void coded_free(Coded *c) {
    for (int i = 0; c->whole && i < c->n; i++) free(c->whole[i].id);
    free(c->whole);
    free(c->from);
    free(c->next);
    free(c->prompt.id);
    *c = (Coded){0};
}
