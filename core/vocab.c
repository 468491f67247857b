// vocab: see vocab.h. Every array's type and length and every id is checked as it is read.
#include "vocab.h"

#include <stdlib.h>
#include <string.h>

typedef struct Block { struct Block *next; } Block;      // of v->owned, a list; data 16 bytes on

void *vocab_alloc(Vocab *v, size_t n, size_t size, const char *what, Err *e) {
    size_t bytes;
    if (!mul_size(n, size, &bytes) || !add_size(bytes, 16, &bytes)) bytes = SIZE_MAX;
    Block *b = alloc(bytes, 1, what, e);
    if (!b) return NULL;
    b->next = v->owned;
    v->owned = b;
    return (char *)b + 16;
}

void vocab_free(Vocab *v) {
    for (Block *b = v->owned, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    *v = (Vocab){0};
}

#define ANY UINT64_MAX
// An array of n items of one type, or NULL: *status is set unless it is absent and may be.
static const GgufKv *array(const Gguf *g, const char *key, GgufType item, uint64_t n, bool needed,
                           int *status, Err *e) {
    const GgufKv *kv = gguf_kv(g, key);
    if (!kv) {
        if (needed) *status = fail(e, "%s: %s is absent", g->name, key);
        return NULL;
    }
    if (kv->type != GGUF_ARR || kv->item != item)
        *status = fail(e, "%s: %s: expected an array of %s", g->name, key,
                       item == GGUF_STR ? "strings" : item == GGUF_F32 ? "f32" : item == GGUF_U8 ? "u8" :
                       "i32");
    else if (kv->count > INT32_MAX)
        *status = fail(e, "%s: %s: %llu items are too many", g->name, key,
                       (unsigned long long)kv->count);
    else if (n != ANY && kv->count != n)
        *status = fail(e, "%s: %s: expected %llu items, one a token, found %llu", g->name, key,
                       (unsigned long long)n, (unsigned long long)kv->count);
    else return kv;
    return NULL;
}

// A token id by key; absent, or 2^32 - 1: *id stays.
static int read_id(const Gguf *g, const char *key, int n, int *id, Err *e) {
    int64_t x = UINT32_MAX;
    if (gguf_get_int(g, key, -1, UINT32_MAX, &x, e)) return -1;
    if (x == UINT32_MAX || x == -1) return 0;
    if (x >= n) return fail(e, "%s: %s: expected an id below %d, found %lld", g->name, key, n,
                            (long long)x);
    *id = (int)x;
    return 0;
}

static const char separator_key[] = "tokenizer.ggml.seperator_token_id";   // spelled so everywhere

static int read_gguf(Vocab *v, const Gguf *g, Err *e) {
    Str model = {0}, pre = {0};
    int status = 0;
    if (gguf_get_str(g, "tokenizer.ggml.model", &model, e)) return -1;
    if (str_is(model, "llama")) v->kind = VOCAB_SPM;
    else if (str_is(model, "gpt2")) v->kind = VOCAB_BPE;
    else if (str_is(model, "bert")) v->kind = VOCAB_WPM;
    else if (!model.s) return fail(e, "%s: tokenizer.ggml.model is absent", g->name);
    else return fail(e, "%s: tokenizer.ggml.model '%.*s' is not supported (llama, gpt2 and bert "
                     "are)", g->name, (int)(model.n < 64 ? model.n : 64), model.s);

    const GgufKv *tokens = array(g, "tokenizer.ggml.tokens", GGUF_STR, ANY, true, &status, e);
    if (!tokens) return -1;
    if (!tokens->count) return fail(e, "%s: tokenizer.ggml.tokens: no tokens", g->name);
    v->n = (int)tokens->count;
    v->piece = tokens->strings;
    size_t n = (size_t)v->n;
    if (!(v->type = vocab_alloc(v, n, sizeof *v->type, "token types", e))) return -1;
    if (!(v->strip = vocab_alloc(v, n, 1, "token flags", e))) return -1;
    const GgufKv *types = array(g, "tokenizer.ggml.token_type", GGUF_I32, n, false, &status, e);
    if (types) memcpy(v->type, types->data, n * sizeof *v->type);
    else for (size_t i = 0; i < n; i++) v->type[i] = TOK_NORMAL;
    const GgufKv *strip = array(g, "tucker.tokenizer.strip", GGUF_U8, n, false, &status, e);
    if (strip) memcpy(v->strip, strip->data, n);
    if (status) return -1;

    if (v->kind == VOCAB_SPM) {
        const GgufKv *scores = array(g, "tokenizer.ggml.scores", GGUF_F32, n, true, &status, e);
        if (!scores) return -1;
        if (!(v->score = vocab_alloc(v, n, sizeof *v->score, "token scores", e))) return -1;
        memcpy(v->score, scores->data, n * sizeof *v->score);
        bool squeeze = false;
        if (gguf_get_bool(g, "tokenizer.ggml.remove_extra_whitespaces", &squeeze, e)) return -1;
        if (squeeze) return fail(e, "%s: tokenizer.ggml.remove_extra_whitespaces = true is not "
                                 "supported", g->name);
        for (int i = 0; i < v->n && v->unk < 0; i++) if (v->type[i] == TOK_UNKNOWN) v->unk = i;
        if (v->n > 2 && v->type[1] == TOK_CONTROL && v->type[2] == TOK_CONTROL) {
            v->bos = 1;
            v->eos = 2;
        }
        v->add_space_prefix = v->add_bos = true;
    } else if (v->kind == VOCAB_WPM) {
        WordRules *r = &v->rules;
        *r = (WordRules){true, true, true, true};
        v->add_bos = v->add_eos = true;
        if (gguf_get_bool(g, "tokenizer.ggml.normalizer.lowercase", &r->lower, e)) return -1;
        r->strip_accents = r->lower;
        if (gguf_get_bool(g, "tokenizer.ggml.normalizer.strip_accents", &r->strip_accents, e) ||
            gguf_get_bool(g, "tucker.tokenizer.clean_text", &r->clean, e) ||
            gguf_get_bool(g, "tucker.tokenizer.chinese", &r->chinese, e)) return -1;
    } else {
        const GgufKv *m = array(g, "tokenizer.ggml.merges", GGUF_STR, ANY, true, &status, e);
        if (!m) return -1;
        v->merge = m->strings;
        v->n_merges = (int)m->count;
        if (gguf_get_str(g, "tokenizer.ggml.pre", &pre, e)) return -1;
        if (!pre.s) return fail(e, "%s: tokenizer.ggml.pre is absent: the pre-tokenizer is not "
                                "known", g->name);
        int p = pre_by_name(pre);
        if (p < 0) return fail(e, "%s: tokenizer.ggml.pre '%.*s' is not supported (gpt-2, "
                               "llama-bpe, qwen2 and smollm are)", g->name,
                               (int)(pre.n < 64 ? pre.n : 64), pre.s);
        v->pre = (PreTokenizer)p;
        v->ignore_merges = v->add_bos = v->pre == PRE_LLAMA3;
        if (str_is(pre, "roberta-bpe")) v->add_bos = v->add_eos = true;
    }
    if (read_id(g, "tokenizer.ggml.bos_token_id", v->n, &v->bos, e) ||
        read_id(g, "tokenizer.ggml.eos_token_id", v->n, &v->eos, e) ||
        read_id(g, "tokenizer.ggml.unknown_token_id", v->n, &v->unk, e) ||
        read_id(g, "tokenizer.ggml.eot_token_id", v->n, &v->eot, e) ||
        read_id(g, "tokenizer.ggml.mask_token_id", v->n, &v->mask, e)) return -1;
    if (v->kind == VOCAB_WPM && (read_id(g, "tokenizer.ggml.cls_token_id", v->n, &v->bos, e) ||
                                 read_id(g, separator_key, v->n, &v->eos, e))) return -1;
    if (!strip && v->mask >= 0 && str_is(v->piece[v->mask], "<mask>"))
        v->strip[v->mask] = TOK_LSTRIP;                    // RoBERTa's, in files that cannot say so
    if (gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &v->add_bos, e) ||
        gguf_get_bool(g, "tokenizer.ggml.add_eos_token", &v->add_eos, e) ||
        gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", &v->add_space_prefix, e) ||
        gguf_get_bool(g, "tucker.tokenizer.ignore_merges", &v->ignore_merges, e) ||
        gguf_get_str(g, "tokenizer.chat_template", &v->chat_template, e)) return -1;
    return 0;
}

int vocab_from_gguf(Vocab *v, const Gguf *g, Err *e) {
    *v = (Vocab){.bos = -1, .eos = -1, .unk = -1, .eot = -1, .mask = -1};
    int status = read_gguf(v, g, e);
    if (status) vocab_free(v);
    return status;
}

void vocab_to_gguf(const Vocab *v, GgufBuilder *b) {
    size_t n = (size_t)v->n;
    static const char *const models[] = {"llama", "gpt2", "bert"};
    const char *model = models[v->kind], *pre = pre_name(v->pre);
    const WordRules *r = &v->rules;
    bool wpm = v->kind == VOCAB_WPM;
    gguf_set_str(b, "tokenizer.ggml.model", model, strlen(model));
    gguf_set_str(b, "tokenizer.ggml.pre", pre, strlen(pre));
    gguf_set_strings(b, "tokenizer.ggml.tokens", v->piece, n);
    gguf_set_array(b, "tokenizer.ggml.token_type", GGUF_I32, v->type, n);
    if (v->kind == VOCAB_SPM) gguf_set_array(b, "tokenizer.ggml.scores", GGUF_F32, v->score, n);
    if (v->kind == VOCAB_BPE)
        gguf_set_strings(b, "tokenizer.ggml.merges", v->merge, (uint64_t)v->n_merges);
    const struct { const char *key; int id; } ids[] = {
        {"tokenizer.ggml.bos_token_id", v->bos}, {"tokenizer.ggml.eos_token_id", v->eos},
        {"tokenizer.ggml.unknown_token_id", v->unk}, {"tokenizer.ggml.eot_token_id", v->eot},
        {"tokenizer.ggml.mask_token_id", v->mask}, {"tokenizer.ggml.cls_token_id", wpm ? v->bos : -1},
        {separator_key, wpm ? v->eos : -1},
    };
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        if (ids[i].id >= 0) gguf_set_int(b, ids[i].key, GGUF_U32, ids[i].id);
        else gguf_unset(b, ids[i].key);
    }
    gguf_set_bool(b, "tokenizer.ggml.add_bos_token", v->add_bos);
    gguf_set_bool(b, "tokenizer.ggml.add_eos_token", v->add_eos);
    gguf_set_bool(b, "tokenizer.ggml.add_space_prefix", v->add_space_prefix);
    if (wpm) {
        gguf_set_bool(b, "tokenizer.ggml.normalizer.lowercase", r->lower);
        gguf_set_bool(b, "tokenizer.ggml.normalizer.strip_accents", r->strip_accents);
    }
    if (v->chat_template.n)
        gguf_set_str(b, "tokenizer.chat_template", v->chat_template.s, v->chat_template.n);
    // What GGUF has no key for, where it is not as the other keys would have it.
    if (v->ignore_merges != (v->pre == PRE_LLAMA3))
        gguf_set_bool(b, "tucker.tokenizer.ignore_merges", v->ignore_merges);
    if (wpm && !r->clean) gguf_set_bool(b, "tucker.tokenizer.clean_text", false);
    if (wpm && !r->chinese) gguf_set_bool(b, "tucker.tokenizer.chinese", false);
    bool strips = v->mask >= 0;                            // whether or not: not to be guessed
    for (size_t i = 0; i < n; i++) strips |= v->strip[i] != 0;
    if (strips) gguf_set_array(b, "tucker.tokenizer.strip", GGUF_U8, v->strip, n);
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 :
           c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int byte_piece(Str s) {
    if (s.n != 6 || memcmp(s.s, "<0x", 3) || s.s[5] != '>') return -1;
    int hi = hex_digit(s.s[3]), lo = hex_digit(s.s[4]);
    return hi < 0 || lo < 0 ? -1 : hi * 16 + lo;
}
