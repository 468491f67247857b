// vocab: reads published tokenizer files into a Vocab, which then owns all of it: tokenizer.json,
// SentencePiece's and tiktoken's tokenizer.model, llama2.c's tokenizer.bin, vocab.json with
// merges.txt, BERT's vocab.txt; and what the configuration files beside them say of special tokens.
// What a file asks of the tokenizer that it does not do is refused by name. Encodes nothing itself.
//   1 building   2 tokenizer.json   3 vocab.json + merges.txt, vocab.txt   4 SentencePiece   5 tiktoken
//   6 llama2.c   7 choosing a reader   8 configuration files
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../core/json.h"
#include "../core/strmap.h"
#include "../core/unicode.h"
#include "source.h"

// Names that a file lists are looked for one by one: so many at most.
enum { MAX_TOKENS = 1 << 24, MAX_PATH = 4096, MAX_NAMED = 4096, MAX_POST = 64 };
static const size_t max_file = (size_t)512 << 20;

// ---- 1 building ---------------------------------------------------------------------------------

typedef struct {
    Vocab *v;
    Str *piece, *merge;            // v's, to be written
    int room;                      // pieces that fit
    char *at;                      // free bytes of the last block of text
    size_t left;
    const char *name;              // the file, for messages
    Err *e;
} Build;

static bool exists(const char *path) {
    FILE *f = open_file(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

static int join_path(char path[MAX_PATH], const char *folder, const char *name, Err *e) {
    if (strlen(folder) + strlen(name) + 2 > MAX_PATH)
        return fail(e, "%s: the path is too long", folder);
    strcat(strcat(strcpy(path, folder), "/"), name);
    return 0;
}

static bool same(const Json *j, const char *text) {
    return j && j->type == J_STRING && str_is(j->string, text);
}

static bool truth(const Json *j, bool otherwise) {
    return j && j->type == J_BOOL ? j->boolean : otherwise;
}

// Room for the `found` pieces of a file and n_merges merges, in n_vocab rows (0: as many as found).
// The pieces are unused ones until they are set.
static int begin(Build *b, VocabKind kind, size_t found, int n_vocab, size_t n_merges) {
    Vocab *v = b->v;
    size_t n = n_vocab > 0 ? (size_t)n_vocab : found;
    if (found > n)
        return fail(b->e, "%s: %zu tokens, but the embedding has %zu rows", b->name, found, n);
    if (n < 1 || n > MAX_TOKENS)
        return fail(b->e, "%s: %zu tokens, expected 1 to %d", b->name, n, MAX_TOKENS);
    v->kind = kind;
    v->n = b->room = (int)n;
    v->n_merges = (int)n_merges;
    v->piece = b->piece = vocab_alloc(v, n, sizeof *v->piece, "vocabulary", b->e);
    v->merge = b->merge = vocab_alloc(v, n_merges, sizeof *v->merge, "vocabulary", b->e);
    v->type = vocab_alloc(v, n, sizeof *v->type, "vocabulary", b->e);
    v->strip = vocab_alloc(v, n, 1, "vocabulary", b->e);
    if (kind == VOCAB_SPM) v->score = vocab_alloc(v, n, sizeof *v->score, "vocabulary", b->e);
    if (!v->piece || !v->merge || !v->type || !v->strip) return -1;
    if (kind == VOCAB_SPM && !v->score) return -1;
    for (size_t i = 0; i < n; i++) v->type[i] = TOK_UNUSED;
    return 0;
}

// Room for n bytes that v owns.
static char *text_room(Build *b, size_t n) {
    if (!b->at || b->left < n) {
        b->left = n > 65536 ? n : 65536;
        b->at = vocab_alloc(b->v, b->left, 1, "vocabulary", b->e);
        if (!b->at) { b->left = 0; return NULL; }
    }
    char *s = b->at;
    b->at += n;
    b->left -= n;
    return s;
}

static int keep(Build *b, Str *to, const char *s, size_t n) {
    char *copy = text_room(b, n);
    if (!copy) return -1;
    if (n) memcpy(copy, s, n);
    *to = (Str){copy, n};
    return 0;
}

static int set_piece(Build *b, int64_t id, const char *s, size_t n, int type) {
    if (id < 0 || id >= b->room)
        return fail(b->e, "%s: token '%.*s' has id %lld, expected below %d", b->name,
                    (int)(n < 64 ? n : 64), s, (long long)id, b->room);
    if (b->v->type[id] == TOK_NORMAL && type == TOK_NORMAL)
        return fail(b->e, "%s: two tokens have id %lld", b->name, (long long)id);
    b->v->type[id] = type;
    return keep(b, &b->piece[id], s, n);
}

static int keep_merge(Build *b, int i, Str left, Str right) {
    char *s = text_room(b, left.n + 1 + right.n);
    if (!s) return -1;
    b->merge[i] = (Str){s, left.n + 1 + right.n};
    memcpy(s, left.s, left.n);
    s[left.n] = ' ';
    memcpy(s + left.n + 1, right.s, right.n);
    return 0;
}

static int find_id(const Vocab *v, Str piece) {
    for (int i = 0; i < v->n; i++)
        if (v->piece[i].n == piece.n && !memcmp(v->piece[i].s, piece.s, piece.n)) return i;
    return -1;
}

static int named_id(const Vocab *v, const Json *name) {
    return name && name->type == J_STRING ? find_id(v, name->string) : -1;
}

#define LOWER_BLOCK "\xE2\x96\x81"      // U+2581, which stands for a space

// The token with this text, which becomes a control token. In WordPiece vocabularies it may stand as
// a word does, behind a U+2581; which it loses. -1: none.
static int control_id(Vocab *v, Str text) {
    int id = find_id(v, text);
    for (int i = 0; v->kind == VOCAB_WPM && id < 0 && i < v->n; i++) {
        Str p = v->piece[i];
        if (p.n != text.n + 3 || memcmp(p.s, LOWER_BLOCK, 3) || memcmp(p.s + 3, text.s, text.n)) continue;
        ((Str *)v->piece)[id = i] = (Str){p.s + 3, text.n};            // v owns its pieces
    }
    if (id >= 0 && v->type[id] == TOK_NORMAL) v->type[id] = TOK_CONTROL;
    return id;
}

static int find_name(const Vocab *v, const char *const *names) {
    for (; *names; names++) {
        int id = find_id(v, (Str){*names, strlen(*names)});
        if (id >= 0 && v->type[id] == TOK_CONTROL) return id;
    }
    return -1;
}

// What no file said: ids of tokens by their usual names; and names for what is unused.
static int finish(Build *b) {
    static const char *const bos[] = {"<s>", "<|begin_of_text|>", "[CLS]", NULL};
    static const char *const eos[] = {"</s>", "<|end_of_text|>", "<|endoftext|>", "[SEP]", NULL};
    static const char *const mask[] = {"<mask>", "[MASK]", NULL};
    static const char *const eot[] = {"<|eot_id|>", "<|im_end|>", NULL};
    Vocab *v = b->v;
    if (v->bos < 0) v->bos = find_name(v, bos);
    if (v->eos < 0) v->eos = find_name(v, eos);
    if (v->eot < 0) v->eot = find_name(v, eot);
    if (v->mask < 0) v->mask = find_name(v, mask);
    if (v->eot == v->eos) v->eot = -1;
    for (int i = 0; i < v->n; i++) {
        if (v->type[i] != TOK_UNUSED || v->piece[i].n) continue;
        char name[32];
        int n = snprintf(name, sizeof name, "[PAD%d]", i);
        if (keep(b, &b->piece[i], name, (size_t)n)) return -1;
    }
    return 0;
}

// ---- 2 tokenizer.json ---------------------------------------------------------------------------

static int refuse(const Build *b, const char *what, const Json *j) {
    const Json *type = json_get(j, "type");
    Str s = type && type->type == J_STRING ? type->string : (Str){"?", 1};
    return fail(b->e, "%s: %s of type '%.*s' is not supported as it stands there", b->name, what,
                (int)(s.n < 64 ? s.n : 64), s.s);
}

static bool absent(const Json *j) { return !j || j->type == J_NULL; }

// The only child of a Sequence that has one, else the thing itself.
static const Json *unwrap(const Json *j, const char *list) {
    const Json *all = same(json_get(j, "type"), "Sequence") ? json_get(j, list) : NULL;
    return all && all->count == 1 ? all->child : j;
}

#define CONTRACTION "'s|'t|'re|'ve|'m|'ll|'d"
#define MODERN(digits) "(?i:" CONTRACTION ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" digits \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

// The pre-tokenizer of byte-level BPE: ByteLevel, with its own regular expression or with another
// before it, or Digits then ByteLevel.
static int read_pre(Build *b, const Json *j) {
    static const struct { const char *pattern; PreTokenizer pre; } known[] = {
        {CONTRACTION "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", PRE_GPT2},
        {MODERN("{1,3}"), PRE_LLAMA3}, {MODERN(""), PRE_QWEN2},
    };
    j = unwrap(j, "pretokenizers");
    const Json *list = json_get(j, "pretokenizers"), *level = j, *first = NULL;
    if (same(json_get(j, "type"), "Sequence") && list && list->count == 2) {
        first = list->child;
        level = first->next;
    }
    if (!same(json_get(level, "type"), "ByteLevel")) return refuse(b, "pre_tokenizer", j);
    b->v->add_space_prefix = truth(json_get(level, "add_prefix_space"), true);
    if (first && b->v->add_space_prefix)                   // it would stand before every part
        return fail(b->e, "%s: ByteLevel with add_prefix_space behind another pre-tokenizer is not "
                    "supported", b->name);
    bool own = truth(json_get(level, "use_regex"), true);
    if (!first && own) { b->v->pre = PRE_GPT2; return 0; }
    if (same(json_get(first, "type"), "Digits") && own &&
        truth(json_get(first, "individual_digits"), false)) {
        b->v->pre = PRE_SMOLLM;
        return 0;
    }
    if (!same(json_get(first, "type"), "Split") || own) return refuse(b, "pre_tokenizer", j);
    const Json *pattern = json_path(first, "pattern.Regex");
    bool inverted = truth(json_get(first, "invert"), false);
    if (!same(json_get(first, "behavior"), inverted ? "Removed" : "Isolated"))
        return refuse(b, "pre_tokenizer", first);
    for (int i = 0; i < 3; i++)
        if (same(pattern, known[i].pattern)) { b->v->pre = known[i].pre; return 0; }
    Str s = pattern && pattern->type == J_STRING ? pattern->string : (Str){"?", 1};
    return fail(b->e, "%s: this pre-tokenizer is not supported: %.*s", b->name,
                (int)(s.n < 300 ? s.n : 300), s.s);
}

// How SentencePiece's handling of spaces is said there: a normalizer, or Metaspace.
static int read_spaces(Build *b, const Json *normalizer, const Json *pre) {
    Vocab *v = b->v;
    normalizer = unwrap(normalizer, "normalizers");
    if (absent(normalizer) && same(json_get(pre, "type"), "Metaspace")) {
        const Json *scheme = json_get(pre, "prepend_scheme");
        if (!same(json_get(pre, "replacement"), LOWER_BLOCK))
            return refuse(b, "pre_tokenizer", pre);
        v->add_space_prefix = absent(scheme) ? truth(json_get(pre, "add_prefix_space"), true)
                                             : !same(scheme, "never");
        return 0;
    }
    if (!absent(pre)) return refuse(b, "pre_tokenizer", pre);
    const Json *replace = normalizer, *list = json_get(normalizer, "normalizers");
    if (same(json_get(normalizer, "type"), "Sequence") && list && list->count == 2) {
        if (!same(json_get(list->child, "type"), "Prepend") ||
            !same(json_get(list->child, "prepend"), LOWER_BLOCK))
            return refuse(b, "normalizer", list->child);
        v->add_space_prefix = true;
        replace = list->child->next;
    }
    if (!same(json_get(replace, "type"), "Replace") ||
        !same(json_path(replace, "pattern.String"), " ") ||
        !same(json_get(replace, "content"), LOWER_BLOCK))
        return refuse(b, "normalizer", replace);
    return 0;
}

// A merge is "left right" or ["left", "right"].
static int split_merge(const Build *b, const Json *m, Str *left, Str *right) {
    if (m->type == J_ARRAY && m->count == 2 && m->child->type == J_STRING &&
        m->child->next->type == J_STRING) {
        *left = m->child->string;
        *right = m->child->next->string;
        return 0;
    }
    Str s = m->type == J_STRING ? m->string : (Str){"", 0};
    const char *space = s.n > 2 ? memchr(s.s + 1, ' ', s.n - 2) : NULL;
    if (!space) return fail(b->e, "%s: a merge is neither 'left right' nor a pair", b->name);
    *left = (Str){s.s, (size_t)(space - s.s)};
    *right = (Str){space + 1, s.n - left->n - 1};
    return 0;
}

// SentencePiece has scores where tokenizer.json has a list of merges: a piece gets minus the number
// of the first merge that makes it. What no merge makes is never made; characters need none.
static int score_merges(Build *b, const Json *merges) {
    Vocab *v = b->v;
    StrMap map;
    char *text = malloc(2 * MAX_PATH);
    int status = strmap_new(&map, v->piece, (size_t)v->n, "vocabulary", b->e), rank = 0;
    if (!text) status = fail(b->e, "%s: out of memory", b->name);
    for (int i = 0; !status && i < v->n; i++) {
        v->score[i] = v->type[i] == TOK_NORMAL ? -INFINITY : 0;
        if (v->type[i] == TOK_NORMAL) strmap_add(&map, i);
    }
    for (const Json *m = status ? NULL : merges->child; m; m = m->next, rank++) {
        Str left = {0}, right = {0};
        if ((status = split_merge(b, m, &left, &right))) break;
        if (left.n > MAX_PATH || right.n > MAX_PATH) continue;
        memcpy(text, left.s, left.n);
        memcpy(text + left.n, right.s, right.n);
        int id = strmap_find(&map, text, left.n + right.n);
        if (id >= 0 && v->score[id] == -INFINITY) v->score[id] = -(float)rank;
    }
    free(text);
    strmap_free(&map);
    return status;
}

// Tokens put before and after a text, one at most each: TemplateProcessing, RobertaProcessing,
// BertProcessing, or a Sequence of some.
static int read_post(Build *b, const Json *j) {
    Vocab *v = b->v;
    const Json *type = json_get(j, "type"), *list = json_get(j, "processors");
    if (list && list->count > MAX_POST) return refuse(b, "post_processor", j);
    if (same(type, "Sequence") && list)
        for (const Json *p = list->child; p; p = p->next)
            if (!same(json_get(p, "type"), "Sequence") && read_post(b, p)) return -1;
    const Json *cls = json_get(j, "cls"), *sep = json_get(j, "sep");
    const Json *single = json_get(j, "single");
    if (same(type, "RobertaProcessing") || same(type, "BertProcessing")) {
        v->bos = named_id(v, cls ? cls->child : NULL);
        v->eos = named_id(v, sep ? sep->child : NULL);
        v->add_bos = v->bos >= 0;
        v->add_eos = v->eos >= 0;
    } else if (same(type, "TemplateProcessing") && single) {
        bool behind = false;
        if (single->count > MAX_POST) return refuse(b, "post_processor", j);
        for (const Json *p = single->child; p; p = p->next) {
            const Json *id = json_path(p, "SpecialToken.id");
            behind |= json_get(p, "Sequence") != NULL;
            if (named_id(v, id) < 0) continue;
            if (behind ? v->add_eos : v->add_bos) return refuse(b, "post_processor", j);
            *(behind ? &v->eos : &v->bos) = named_id(v, id);
            *(behind ? &v->add_eos : &v->add_bos) = true;
        }
    } else if (v->kind == VOCAB_WPM && !absent(j)) {
        return refuse(b, "post_processor", j);
    }
    return 0;
}

static int add_tokens(Build *b, const Json *added) {
    for (const Json *a = added ? added->child : NULL; a; a = a->next) {
        const Json *id = json_get(a, "id"), *text = json_get(a, "content");
        if (!id || !id->is_integer || !text || text->type != J_STRING)
            return fail(b->e, "%s: an added token lacks its id or its content", b->name);
        bool special = truth(json_get(a, "special"), false);
        const char *bad = truth(json_get(a, "single_word"), false) ? "single_word" : NULL;
        if (b->v->kind == VOCAB_WPM && truth(json_get(a, "normalized"), !special)) bad = "normalized";
        if (bad) return fail(b->e, "%s: added token '%.*s' with %s = true is not supported", b->name,
                             (int)(text->string.n < 64 ? text->string.n : 64), text->string.s, bad);
        if (set_piece(b, id->integer, text->string.s, text->string.n, special ? TOK_CONTROL : TOK_USER))
            return -1;
        if (truth(json_get(a, "lstrip"), false)) b->v->strip[id->integer] |= TOK_LSTRIP;
        if (truth(json_get(a, "rstrip"), false)) b->v->strip[id->integer] |= TOK_RSTRIP;
    }
    return 0;
}

// One more than the highest id in a list: an object of ids, or an array of objects with an "id".
static int64_t ids_end(const Json *list) {
    int64_t end = 0;
    for (const Json *j = list ? list->child : NULL; j; j = j->next) {
        const Json *id = list->type == J_OBJECT ? j : json_get(j, "id");
        if (id && id->is_integer && id->integer >= end && id->integer < MAX_TOKENS)
            end = id->integer + 1;
    }
    return end;
}

// Ids may have gaps, as many as there are pieces and 65536 more: what stands there is made, at some 80 bytes.
static int check_gaps(Build *b, int64_t found, uint32_t pieces) {
    if (found <= 2 * (int64_t)pieces + 65536) return 0;
    return fail(b->e, "%s: %u tokens, but ids up to %lld", b->name, pieces, (long long)found - 1);
}

// WordPiece marks what goes on a word by ##; a Vocab, as GGUF, what begins one by U+2581.
static int set_wordpiece(Build *b, int64_t id, Str p) {
    if (p.n > 1 && !memcmp(p.s, "##", 2)) return set_piece(b, id, p.s + 2, p.n - 2, TOK_NORMAL);
    char *text = text_room(b, p.n + 3);
    if (!text) return -1;
    memcpy(text, LOWER_BLOCK, 3);
    if (p.n) memcpy(text + 3, p.s, p.n);
    return set_piece(b, id, text, p.n + 3, TOK_NORMAL);
}

static int set_pieces(Build *b, const Json *vocab) {
    for (const Json *p = vocab->child; p; p = p->next) {
        if (!p->is_integer) return fail(b->e, "%s: the id of '%.*s' is no integer", b->name,
                                        (int)(p->key.n < 64 ? p->key.n : 64), p->key.s);
        if (b->v->kind == VOCAB_WPM ? set_wordpiece(b, p->integer, p->key)
            : set_piece(b, p->integer, p->key.s, p->key.n, TOK_NORMAL)) return -1;
    }
    return 0;
}

static bool empty_or_absent(const Json *j) { return absent(j) || same(j, ""); }

// What stands around a vocabulary of WordPiece's, all but its pieces.
static int read_wordpiece(Build *b, const Json *model, const Json *normalizer, const Json *pre) {
    Vocab *v = b->v;
    const Json *unk = json_get(model, "unk_token"), *most = json_get(model, "max_input_chars_per_word");
    const Json *accents = json_get(normalizer, "strip_accents");
    if (!same(json_get(model, "continuing_subword_prefix"), "##"))
        return fail(b->e, "%s: continuing_subword_prefix: only '##' is supported", b->name);
    if (most && most->integer != 100)
        return fail(b->e, "%s: max_input_chars_per_word: only 100 is supported", b->name);
    if (!same(json_get(normalizer, "type"), "BertNormalizer")) return refuse(b, "normalizer", normalizer);
    if (!same(json_get(pre, "type"), "BertPreTokenizer")) return refuse(b, "pre_tokenizer", pre);
    bool lower = truth(json_get(normalizer, "lowercase"), true);
    v->rules = (WordRules){truth(json_get(normalizer, "clean_text"), true),
                           truth(json_get(normalizer, "handle_chinese_chars"), true),
                           truth(accents, lower), lower};
    v->unk = unk && unk->type == J_STRING ? control_id(v, unk->string) : -1;
    return v->unk < 0 ? fail(b->e, "%s: no unk_token", b->name) : 0;
}

static int read_json(Build *b, const Json *root, int n_vocab) {
    Vocab *v = b->v;
    const Json *model = json_get(root, "model"), *vocab = json_get(model, "vocab");
    const Json *merges = json_get(model, "merges"), *added = json_get(root, "added_tokens");
    const Json *normalizer = unwrap(json_get(root, "normalizer"), "normalizers");
    const Json *pre = json_get(root, "pre_tokenizer"), *type = json_get(model, "type");
    bool wpm = same(type, "WordPiece");
    if (type && !wpm && !same(type, "BPE")) return refuse(b, "model", model);
    if (!vocab || vocab->type != J_OBJECT || (!wpm && (!merges || merges->type != J_ARRAY)))
        return fail(b->e, "%s: model.vocab%s expected", b->name, wpm ? " is" : " and model.merges are");
    if (wpm) merges = NULL;
    else if (!empty_or_absent(json_get(model, "continuing_subword_prefix")) ||
        !empty_or_absent(json_get(model, "end_of_word_suffix")))
        return fail(b->e, "%s: prefixes and suffixes of subwords are not supported", b->name);
    bool spm = truth(json_get(model, "byte_fallback"), false);
    int64_t found = ids_end(vocab), more = ids_end(added);
    if (more > found) found = more;
    if (check_gaps(b, found, vocab->count)) return -1;
    VocabKind kind = wpm ? VOCAB_WPM : spm ? VOCAB_SPM : VOCAB_BPE;
    if (begin(b, kind, (size_t)found, n_vocab, kind == VOCAB_BPE ? merges->count : 0) ||
        set_pieces(b, vocab) || add_tokens(b, added) ||
        read_post(b, json_get(root, "post_processor"))) return -1;
    if (wpm) return read_wordpiece(b, model, normalizer, pre);
    if (spm) {
        v->unk = named_id(v, json_get(model, "unk_token"));
        if (v->unk >= 0) v->type[v->unk] = TOK_UNKNOWN;
        for (int i = 0; i < v->n; i++)
            if (v->type[i] == TOK_NORMAL && byte_piece(v->piece[i]) >= 0) v->type[i] = TOK_BYTE;
        return read_spaces(b, normalizer, pre) || score_merges(b, merges) ? -1 : 0;
    }
    // NFC leaves all but rare text as it is, and is left out.
    if (!absent(normalizer) && !same(json_get(normalizer, "type"), "NFC"))
        return refuse(b, "normalizer", normalizer);
    v->ignore_merges = truth(json_get(model, "ignore_merges"), false);
    int i = 0;
    for (const Json *m = merges->child; m; m = m->next, i++) {
        Str left = {0}, right = {0};
        if (split_merge(b, m, &left, &right) || keep_merge(b, i, left, right)) return -1;
    }
    return read_pre(b, pre);
}

// ---- 3 vocab.json + merges.txt, vocab.txt -------------------------------------------------------

static int read_merges(Build *b, const char *text, size_t size, bool count_only) {
    int n = 0;
    for (const char *s = text, *end = text + size, *next; s < end; s = next + 1) {
        next = memchr(s, '\n', (size_t)(end - s));
        if (!next) next = end;
        size_t len = (size_t)(next - s);
        if (len && s[len - 1] == '\r') len--;
        if (!len || (s == text && len > 8 && !memcmp(s, "#version", 8))) continue;
        if (!count_only && keep(b, &b->merge[n], s, len)) return -1;
        n++;
    }
    return n;
}

// The format of gpt-2 and roberta; which tokens are special it does not say: those with the names
// such tokens have. roberta puts <s> and </s> around a text.
static int read_vocab_merges(Build *b, const char *folder, const Json *vocab, int n_vocab) {
    static const char *const control[] = {"<s>", "</s>", "<pad>", "<unk>", "<mask>",
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", NULL};
    char path[MAX_PATH], *text, *more = NULL;
    size_t size, more_size;
    Vocab *v = b->v;
    JsonDoc doc = {0};
    if (join_path(path, folder, "merges.txt", b->e) ||
        read_file(path, max_file, &text, &size, b->e)) return -1;
    int status = -1, n_merges = read_merges(b, text, size, true);
    int64_t found = ids_end(vocab);
    if (join_path(path, folder, "added_tokens.json", b->e)) goto end;
    if (exists(path)) {
        if (read_file(path, max_file, &more, &more_size, b->e) ||
            json_parse(&doc, more, more_size, path, b->e)) goto end;
        if (ids_end(doc.root) > found) found = ids_end(doc.root);
    }
    if (check_gaps(b, found, vocab->count) || begin(b, VOCAB_BPE, (size_t)found, n_vocab, (size_t)n_merges) ||
        set_pieces(b, vocab) || read_merges(b, text, size, false) < 0) goto end;
    for (const Json *a = doc.root ? doc.root->child : NULL; a; a = a->next)
        if (!a->is_integer || set_piece(b, a->integer, a->key.s, a->key.n, TOK_USER)) {
            fail(b->e, "%s: a bad token", path);
            goto end;
        }
    for (int i = 0; control[i]; i++) {
        int id = find_id(v, (Str){control[i], strlen(control[i])});
        if (id < 0) continue;
        v->type[id] = TOK_CONTROL;
        if (!strcmp(control[i], "<mask>")) {
            v->strip[id] = TOK_LSTRIP;
            v->add_bos = v->add_eos = true;
        }
    }
    v->pre = PRE_GPT2;
    status = 0;
end:
    free(text);
    free(more);
    json_free(&doc);
    return status;
}

// BERT's: a piece a line, its id the line's number. What the text goes through a configuration file
// says; without one it is what the uncased models do.
static int read_vocab_txt(Build *b, const char *text, size_t size, int n_vocab) {
    static const char *const control[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    const char *end = text + size, *next;
    size_t lines = 0;
    for (const char *s = text; s < end; s++) lines += *s == '\n' || s + 1 == end;
    if (begin(b, VOCAB_WPM, lines, n_vocab, 0)) return -1;
    int64_t id = 0;
    for (const char *s = text; s < end; s = next + 1, id++) {
        if (!(next = memchr(s, '\n', (size_t)(end - s)))) next = end;
        Str p = {s, (size_t)(next - s)};
        if (p.n && p.s[p.n - 1] == '\r') p.n--;
        if (set_wordpiece(b, id, p)) return -1;
    }
    for (int i = 0; i < 5; i++) {
        int found = control_id(b->v, (Str){control[i], strlen(control[i])});
        if (i == 1) b->v->unk = found;
    }
    b->v->rules = (WordRules){true, true, true, true};
    b->v->add_bos = b->v->add_eos = true;
    return b->v->unk < 0 ? fail(b->e, "%s: no [UNK]", b->name) : 0;
}

// ---- 4 SentencePiece ----------------------------------------------------------------------------
// A protobuf message is a row of fields: a varint with number << 3 | kind, then a varint (kind 0),
// 8 bytes (1), a varint length and as many bytes (2), or 4 bytes (5).

typedef struct { const uint8_t *at, *end; } Span;
typedef struct { int number, kind; uint64_t value; Span bytes; } Field;

static bool varint(Span *s, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64 && s->at < s->end; shift += 7) {
        *out |= (uint64_t)(*s->at & 0x7F) << shift;
        if (!(*s->at++ & 0x80)) return true;
    }
    return false;
}

// 1: f is the next field of s; 0: no more; -1: malformed.
static int next_field(Span *s, Field *f) {
    uint64_t tag, n;
    if (s->at == s->end) return 0;
    if (!varint(s, &tag) || tag >> 3 == 0 || tag >> 3 > 1 << 29) return -1;
    *f = (Field){.number = (int)(tag >> 3), .kind = (int)(tag & 7)};
    if (f->kind == 0) return varint(s, &f->value) ? 1 : -1;
    if (f->kind == 1) n = 8;
    else if (f->kind == 5) n = 4;
    else if (f->kind != 2 || !varint(s, &n)) return -1;
    if (n > (size_t)(s->end - s->at)) return -1;
    f->bytes = (Span){s->at, s->at + n};
    if (f->kind != 2) memcpy(&f->value, s->at, n);
    s->at += n;
    return 1;
}

static int read_piece(Build *b, Span s, int id) {
    Field f;
    Span text = {0};
    float score = 0;
    int type = TOK_NORMAL, more;
    while ((more = next_field(&s, &f)) > 0) {
        if (f.number == 1 && f.kind == 2) text = f.bytes;
        if (f.number == 2 && f.kind == 5) memcpy(&score, &f.value, 4);
        if (f.number == 3 && f.kind == 0) {          // numbered as in GGUF, but for these three
            type = f.value == 4 ? TOK_USER : f.value == 5 ? TOK_UNUSED : f.value == 6 ? TOK_BYTE :
                   f.value >= 1 && f.value <= 3 ? (int)f.value : 0;
        }
    }
    if (more < 0 || !type) return fail(b->e, "%s: piece %d is malformed", b->name, id);
    b->v->score[id] = score;
    if (type == TOK_UNKNOWN) b->v->unk = id;
    return set_piece(b, id, (const char *)text.at, (size_t)(text.end - text.at), type);
}

static int read_sentencepiece(Build *b, Span file, int n_vocab) {
    static const char *const kinds[] = {"?", "unigram", "bpe", "word", "char"};
    Vocab *v = b->v;
    Field f;
    Span s = file, normalizer = {0}, trainer = {0};
    size_t found = 0;
    int more, id = 0;
    while ((more = next_field(&s, &f)) > 0) {
        if (f.kind != 2) continue;
        if (f.number == 1) found++;
        if (f.number == 2) trainer = f.bytes;
        if (f.number == 3) normalizer = f.bytes;
    }
    if (more < 0) return fail(b->e, "%s: a field is malformed", b->name);
    if (begin(b, VOCAB_SPM, found, n_vocab, 0)) return -1;
    for (s = file; next_field(&s, &f) > 0; )
        if (f.number == 1 && f.kind == 2 && read_piece(b, f.bytes, id++)) return -1;

    uint64_t model = 1, bos = 1, eos = 2, suffix = 0, prefix = 1, squeeze = 1, escape = 1;
    while ((more = next_field(&trainer, &f)) > 0) {
        if (f.kind != 0) continue;
        if (f.number == 3) model = f.value;
        if (f.number == 24) suffix = f.value;
        if (f.number == 41) bos = f.value;
        if (f.number == 42) eos = f.value;
    }
    if (more < 0) return fail(b->e, "%s: the trainer's field is malformed", b->name);
    if (model != 2) return fail(b->e, "%s: a model of type %s is not supported (bpe is)", b->name,
                                kinds[model < 5 ? model : 0]);
    Span rule = {0}, map = {0};
    while ((more = next_field(&normalizer, &f)) > 0) {
        if (f.number == 1 && f.kind == 2) rule = f.bytes;
        if (f.number == 2 && f.kind == 2) map = f.bytes;
        if (f.number == 3) prefix = f.value;
        if (f.number == 4) squeeze = f.value;
        if (f.number == 5) escape = f.value;
    }
    if (more < 0) return fail(b->e, "%s: the normalizer's field is malformed", b->name);
    if (map.at != map.end)
        return fail(b->e, "%s: normalization '%.*s' is not supported: train with "
                    "normalization_rule_name=identity", b->name, (int)(rule.end - rule.at < 32 ?
                    rule.end - rule.at : 32), (const char *)rule.at);
    if (squeeze) return fail(b->e, "%s: remove_extra_whitespaces=true is not supported", b->name);
    if (!escape || suffix) return fail(b->e, "%s: %s is not supported", b->name,
        suffix ? "treat_whitespace_as_suffix=true" : "escape_whitespaces=false");
    v->add_space_prefix = prefix;
    v->add_bos = true;
    if (bos < found) v->bos = (int)bos;
    if (eos < found) v->eos = (int)eos;
    return 0;
}

// ---- 5 tiktoken ---------------------------------------------------------------------------------
// Lines of "piece rank", the piece in base64. Ranks are ids, and say what is merged first: two
// neighbours merge where together they are a piece, the lowest rank first.

enum { LLAMA3_RANKS = 128000, LLAMA3_SPECIAL = 256, MAX_TIKTOKEN = 512 };

// Bytes that n characters of base64 stand for, SIZE_MAX for anything else.
static size_t base64(const char *s, size_t n, char *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t k = 0;
    uint32_t bits = 0;
    if (n % 4) return SIZE_MAX;
    size_t padding = n && s[n - 1] == '=' ? 1 + (s[n - 2] == '=') : 0;
    for (size_t i = 0; i < n; i++) {
        const char *d = i < n - padding && s[i] ? strchr(digits, s[i]) : NULL;
        if (!d && i < n - padding) return SIZE_MAX;
        bits = bits << 6 | (uint32_t)(d ? d - digits : 0);
        if (i % 4 != 3) continue;
        for (int shift = 16; shift >= 0; shift -= 8) out[k++] = (char)(bits >> shift);
        bits = 0;
    }
    return k - padding;
}

// One line at *s: its piece (in text, MAX_TIKTOKEN bytes) and rank. Moves *s behind it.
static bool tiktoken_line(const char **s, const char *end, char *text, size_t *n, int64_t *rank) {
    const char *line = memchr(*s, '\n', (size_t)(end - *s)), *p = *s;
    if (!line) line = end;
    const char *space = memchr(p, ' ', (size_t)(line - p));
    *s = line < end ? line + 1 : end;
    if (!space || space - p > MAX_TIKTOKEN || line - space < 2 || line - space > 10) return false;
    *n = base64(p, (size_t)(space - p), text);
    *rank = 0;
    for (p = space + 1; p < line && *p >= '0' && *p <= '9'; p++) *rank = *rank * 10 + (*p - '0');
    return *n != SIZE_MAX && *n && (p == line || (*p == '\r' && p + 1 == line));
}

// Where the two parts of piece `id` meet that were merged last when it was made, 0 where merging
// its bytes by ranks below its own does not end in two. rank (n - 1): of each pair of neighbours.
static size_t last_merge(const StrMap *map, int id) {
    Str s = map->text[id];
    size_t cut[MAX_TIKTOKEN + 1], parts = s.n;                 // part k is cut[k] .. cut[k + 1]
    int rank[MAX_TIKTOKEN + 1];
    for (size_t k = 0; k <= s.n; k++) cut[k] = k;
    for (size_t k = 0; k + 1 < s.n; k++) rank[k] = strmap_find(map, s.s + k, 2);
    while (parts > 2) {
        size_t best = SIZE_MAX;
        for (size_t k = 0; k + 1 < parts; k++)
            if (rank[k] >= 0 && rank[k] < (best == SIZE_MAX ? id : rank[best])) best = k;
        if (best == SIZE_MAX) return 0;
        memmove(cut + best + 1, cut + best + 2, (parts - best - 1) * sizeof *cut);
        memmove(rank + best, rank + best + 1, (parts - best - 2) * sizeof *rank);
        parts--;
        for (size_t k = best ? best - 1 : 0; k <= best && k + 1 < parts; k++)
            rank[k] = strmap_find(map, s.s + cut[k], cut[k + 2] - cut[k]);
    }
    return cut[1];
}

// The tokens behind the ranks, as Llama 3 has them.
static int llama3_special(Build *b) {
    static const char *const named[LLAMA3_SPECIAL] = {
        [0] = "<|begin_of_text|>", [1] = "<|end_of_text|>", [6] = "<|start_header_id|>",
        [7] = "<|end_header_id|>", [9] = "<|eot_id|>"};
    int reserved = 0;
    for (int i = 0; i < LLAMA3_SPECIAL; i++) {
        char name[64];
        if (named[i]) snprintf(name, sizeof name, "%s", named[i]);
        else snprintf(name, sizeof name, "<|reserved_special_token_%d|>", reserved++);
        if (set_piece(b, LLAMA3_RANKS + i, name, strlen(name), TOK_CONTROL)) return -1;
    }
    return 0;
}

static int read_tiktoken(Build *b, const char *text, size_t size, int n_vocab) {
    Vocab *v = b->v;
    char bytes[MAX_TIKTOKEN], chars[2 * MAX_TIKTOKEN];
    const char *end = text + size;
    int64_t rank, lines = 0;
    size_t len;
    for (const char *s = text; s < end; lines++)
        if (!tiktoken_line(&s, end, bytes, &len, &rank) || rank != lines)
            return fail(b->e, "%s: line %lld is not 'piece %lld' with the piece in base64", b->name,
                        (long long)lines + 1, (long long)lines);
    if (lines != LLAMA3_RANKS)
        return fail(b->e, "%s: %lld ranks; of files in this form only llama 3's, with %d, is known",
                    b->name, (long long)lines, LLAMA3_RANKS);
    if (begin(b, VOCAB_BPE, LLAMA3_RANKS + LLAMA3_SPECIAL, n_vocab, LLAMA3_RANKS)) return -1;
    // First the pieces as plain bytes, to find the merges; then in gpt-2's alphabet.
    int status = 0, id = 0;
    StrMap map;
    if (strmap_new(&map, v->piece, LLAMA3_RANKS, "vocabulary", b->e)) return -1;
    for (const char *s = text; !status && s < end; id++) {
        tiktoken_line(&s, end, bytes, &len, &rank);
        status = set_piece(b, id, bytes, len, TOK_NORMAL);
        if (!status) strmap_add(&map, id);
    }
    v->n_merges = 0;
    for (id = 0; !status && id < LLAMA3_RANKS; id++) {
        Str p = v->piece[id];
        size_t cut = p.n > 1 ? last_merge(&map, id) : 0;
        if (!cut) continue;
        Str left = {chars, to_alphabet(p.s, cut, chars)}, right = {chars + left.n, 0};
        right.n = to_alphabet(p.s + cut, p.n - cut, chars + left.n);
        status = keep_merge(b, v->n_merges++, left, right);
    }
    strmap_free(&map);
    for (id = 0; !status && id < LLAMA3_RANKS; id++) {
        len = to_alphabet(v->piece[id].s, v->piece[id].n, chars);
        status = keep(b, &b->piece[id], chars, len);
    }
    if (status) return -1;
    v->pre = PRE_LLAMA3;
    v->ignore_merges = v->add_bos = true;
    return llama3_special(b);
}

// ---- 6 llama2.c ---------------------------------------------------------------------------------
// int32 longest piece, then for each piece: f32 score, int32 n, n bytes. Spaces stand as spaces.

static int read_llama2c(Build *b, Span file, int n_vocab) {
    static const char *const first[] = {"<unk>", "<s>", "</s>"};
    static const int types[] = {TOK_UNKNOWN, TOK_CONTROL, TOK_CONTROL};
    Vocab *v = b->v;
    size_t found = 0;
    for (int pass = 0; pass < 2; pass++) {                     // count, then take
        const uint8_t *p = file.at + 4;
        int id = 0;
        for (int32_t len; p < file.end; p += 8 + len, id++) {
            if (file.end - p < 8) return fail(b->e, "%s: ends within piece %d", b->name, id);
            memcpy(&len, p + 4, 4);
            if (len < 0 || len > file.end - p - 8)
                return fail(b->e, "%s: piece %d has length %d", b->name, id, (int)len);
            if (!pass) continue;
            const char *s = (const char *)p + 8;
            char *to = text_room(b, 3 * (size_t)len);
            size_t k = 0;
            if (!to) return -1;
            for (int32_t i = 0; i < len; i++) {
                if (s[i] == ' ') k += utf8_put(0x2581, to + k);
                else to[k++] = s[i];
            }
            b->piece[id] = (Str){to, k};
            memcpy(&v->score[id], p, 4);
            v->type[id] = byte_piece(b->piece[id]) >= 0 && id < 3 + 256 ? TOK_BYTE : TOK_NORMAL;
            if (id >= 3) continue;
            b->piece[id] = (Str){first[id], strlen(first[id])};
            v->type[id] = types[id];
        }
        found = (size_t)id;
        if (!pass && begin(b, VOCAB_SPM, found, n_vocab, 0)) return -1;
    }
    if (found < 3) return fail(b->e, "%s: %zu tokens, expected at least 3", b->name, found);
    v->unk = 0;
    v->bos = 1;
    v->eos = 2;
    v->add_bos = v->add_space_prefix = true;
    return 0;
}

// ---- 7 choosing a reader ------------------------------------------------------------------------

static bool ends_in(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

static int read_any(Build *b, const char *path, const char *text, size_t size, int n_vocab) {
    Span file = {(const uint8_t *)text, (const uint8_t *)text + size};
    size_t at = 0;
    if (ends_in(path, ".bin"))
        return size < 4 ? fail(b->e, "%s: %zu bytes", path, size) : read_llama2c(b, file, n_vocab);
    if (ends_in(path, "vocab.txt")) return read_vocab_txt(b, text, size, n_vocab);
    while (at < size && isspace((unsigned char)text[at])) at++;
    if (at < size && text[at] == '{') {
        JsonDoc doc;
        if (json_parse(&doc, text, size, path, b->e)) return -1;
        char folder[MAX_PATH];
        const int in = (int)(path_name(path) - path);
        snprintf(folder, sizeof folder, "%.*s", in > 1 ? in - 1 : 1, in ? path : ".");
        const Json *model = json_get(doc.root, "model");       // in a vocab.json an integer
        int status = model && model->type == J_OBJECT
            ? read_json(b, doc.root, n_vocab) : read_vocab_merges(b, folder, doc.root, n_vocab);
        json_free(&doc);
        return status;
    }
    char bytes[MAX_TIKTOKEN];
    const char *line = text;
    size_t len;
    int64_t rank;
    if (size && tiktoken_line(&line, text + size, bytes, &len, &rank))
        return read_tiktoken(b, text, size, n_vocab);
    if (size && text[0] == '\n') return read_sentencepiece(b, file, n_vocab);   // field 1, bytes
    return fail(b->e, "%s: no tokenizer file of a known form", path);
}

int vocab_read(Vocab *v, const char *path, int n_vocab, Err *e) {
    static const char *const names[] = {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt",
                                        "tokenizer.bin"};
    Build b = {.v = v, .name = path, .e = e};
    char inside[MAX_PATH], *text;
    size_t size;
    *v = (Vocab){.bos = -1, .eos = -1, .unk = -1, .eot = -1, .mask = -1};
    if (path_kind(path) == PATH_FOLDER) {
        bool found = false;
        for (int i = 0; i < 5 && !found; i++) {
            if (join_path(inside, path, names[i], e)) return -1;
            found = exists(inside);
        }
        if (!found) return fail(e, "%s: no tokenizer.json, tokenizer.model, vocab.json, vocab.txt or "
                                "tokenizer.bin in it", path);
        b.name = path = inside;
    }
    if (read_file(path, max_file, &text, &size, e)) return -1;
    int status = read_any(&b, path, text, size, n_vocab);
    if (!status) status = finish(&b);
    free(text);
    if (status) vocab_free(v);
    return status;
}

// ---- 8 configuration files ----------------------------------------------------------------------

// The JSON of a file in folder. 1: it is absent.
static int read_config(const char *folder, const char *name, JsonDoc *doc, Err *e) {
    char path[MAX_PATH], *text;
    size_t size;
    *doc = (JsonDoc){0};
    if (join_path(path, folder, name, e)) return -1;
    if (!exists(path)) return 1;
    if (read_file(path, max_file, &text, &size, e)) return -1;
    int status = json_parse(doc, text, size, path, e);
    free(text);
    return status;
}

// A token is named by a string or by an object with a member "content". The token becomes a control
// token. -1: null, or no token of the vocabulary.
static int special_id(Vocab *v, const Json *j) {
    const Json *text = j->type == J_OBJECT ? json_get(j, "content") : j;
    int id = text && text->type == J_STRING ? control_id(v, text->string) : -1;
    if (id >= 0 && truth(json_get(j, "lstrip"), false)) v->strip[id] |= TOK_LSTRIP;
    if (id >= 0 && truth(json_get(j, "rstrip"), false)) v->strip[id] |= TOK_RSTRIP;
    return id;
}

static int read_special(Vocab *v, const Json *root, const char *folder, Err *e) {
    bool wpm = v->kind == VOCAB_WPM;
    int unused;
    const struct { const char *name; int *id; } named[] = {
        {"bos_token", &v->bos}, {"eos_token", &v->eos}, {"mask_token", &v->mask},
        {"cls_token", wpm ? &v->bos : &unused}, {"sep_token", wpm ? &v->eos : &unused},
        {"unk_token", wpm ? &v->unk : &unused}, {"pad_token", &unused}};
    const Json *j;
    for (size_t i = 0; i < sizeof named / sizeof *named; i++)
        if ((j = json_get(root, named[i].name))) *named[i].id = special_id(v, j);
    j = json_get(root, "additional_special_tokens");
    if (j && j->count > MAX_NAMED)
        return fail(e, "%s: %u additional_special_tokens, at most %d are read", folder, j->count, MAX_NAMED);
    if (j && j->type == J_ARRAY) for (j = j->child; j; j = j->next) special_id(v, j);
    return 0;
}

// What else tokenizer_config.json says of the text.
static void read_rules(Vocab *v, const Json *root) {
    const Json *class = json_get(root, "tokenizer_class"), *lower = json_get(root, "do_lower_case");
    v->add_bos = truth(json_get(root, "add_bos_token"), v->add_bos);
    v->add_eos = truth(json_get(root, "add_eos_token"), v->add_eos);
    if (same(class, "RobertaTokenizer") || same(class, "RobertaTokenizerFast"))
        v->add_bos = v->add_eos = true;
    if (v->kind == VOCAB_BPE && v->pre == PRE_GPT2)
        v->add_space_prefix = truth(json_get(root, "add_prefix_space"), v->add_space_prefix);
    if (v->kind != VOCAB_WPM) return;
    v->rules.chinese = truth(json_get(root, "tokenize_chinese_chars"), v->rules.chinese);
    if (!absent(lower)) v->rules.lower = v->rules.strip_accents = truth(lower, v->rules.lower);
    v->rules.strip_accents = truth(json_get(root, "strip_accents"), v->rules.strip_accents);
}

static int keep_template(Vocab *v, Str s, Err *e) {
    char *copy = vocab_alloc(v, s.n, 1, "chat template", e);
    if (!copy) return -1;
    if (s.n) memcpy(copy, s.s, s.n);
    v->chat_template = (Str){copy, s.n};
    return 0;
}

int vocab_read_config(Vocab *v, const char *folder, Err *e) {
    JsonDoc doc;
    int status = read_config(folder, "special_tokens_map.json", &doc, e);
    if (status < 0) return -1;
    if (!status) status = read_special(v, doc.root, folder, e);
    json_free(&doc);
    if (status < 0) return -1;

    status = read_config(folder, "tokenizer_config.json", &doc, e);
    if (status < 0) return -1;
    if (!status) status = read_special(v, doc.root, folder, e);
    if (!status) {
        read_rules(v, doc.root);
        const Json *chat = json_get(doc.root, "chat_template");
        if (chat && chat->type == J_ARRAY) {               // several by name
            const Json *list = chat->child;
            for (chat = NULL; list && !chat; list = list->next)
                if (same(json_get(list, "name"), "default")) chat = json_get(list, "template");
        }
        if (chat && chat->type == J_STRING) status = keep_template(v, chat->string, e);
    }
    json_free(&doc);
    if (status < 0) return -1;

    status = read_config(folder, "generation_config.json", &doc, e);
    if (status < 0) return -1;
    const Json *eos = status ? NULL : json_get(doc.root, "eos_token_id");
    status = 0;
    bool second = false;
    const Json *j = eos && eos->type == J_ARRAY ? eos->child : eos;
    for (; j && j->type != J_NULL && !status; j = j->next) {
        if (!j->is_integer || j->integer < 0 || j->integer >= v->n) {
            status = fail(e, "%s/generation_config.json: eos_token_id: expected ids below %d",
                          folder, v->n);
        } else if (v->eos < 0) {
            v->eos = (int)j->integer;
        } else if (j->integer != v->eos && !second) {
            v->eot = (int)j->integer;
            second = true;
        }
        if (eos->type != J_ARRAY) break;                   // a member has siblings of its own
    }
    json_free(&doc);
    if (status) return -1;
    if (v->eot == v->eos) v->eot = -1;
    if (v->bos < 0) v->add_bos = false;
    if (v->eos < 0) v->add_eos = false;

    char path[MAX_PATH], *text;
    size_t size;
    if (join_path(path, folder, "chat_template.jinja", e)) return -1;
    if (!exists(path)) return 0;
    if (read_file(path, max_file, &text, &size, e)) return -1;
    status = keep_template(v, (Str){text, size}, e);
    free(text);
    return status;
}
