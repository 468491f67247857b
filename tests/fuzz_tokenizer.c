// Fuzz target: prompts. The first byte chooses a vocabulary, the second its flags, the rest is text. Of
// byte-level BPE and of SentencePiece, which have a piece for every byte, the text comes back as it
// was, but for what is no UTF-8 and for NUL, in whose place stands U+FFFD.
#include "fuzz.h"
#include "../core/unicode.h"

enum { MOST = 700 };
static struct {
    Str piece[MOST];
    int32_t type[MOST];
    uint8_t strip[MOST];
    float score[MOST];
    char text[MOST][32];
    int n;
} made;

static int piece(const char *s, size_t n, int type) {
    int i = made.n++;
    memcpy(made.text[i], s, n);
    made.piece[i] = (Str){made.text[i], n};
    made.type[i] = type;
    made.strip[i] = 0;
    made.score[i] = type == TOK_NORMAL ? (float)-i : 0;
    return i;
}
static int text_piece(const char *s, int type) { return piece(s, strlen(s), type); }

static const char *const words[] = {
    "th", "the", " t", " the", "in", "ing", "er", "12", "123", "\n\n", "  ", "    ", "'s", "\xC3\xA9",
    "\xE4\xB8\xAD", "\xF0\x9F\x99\x82", " a", "an", "and", " and", "aa", "aaaa"};

static Vocab base(VocabKind kind) {
    made.n = 0;
    return (Vocab){.kind = kind, .piece = made.piece, .type = made.type, .strip = made.strip, .bos = -1, .eos = -1,
                   .unk = -1, .eot = -1, .mask = -1};
}

static void specials(Vocab *v, bool strip) {
    int user = text_piece("<user>", TOK_USER), mask = text_piece("<mask>", TOK_CONTROL);
    text_piece("<|im_end|>", TOK_CONTROL);
    text_piece("<|im_end|>x", TOK_CONTROL);
    v->mask = mask;
    if (strip) made.strip[mask] = TOK_LSTRIP, made.strip[user] = TOK_RSTRIP;
    v->n = made.n;
}

static Vocab bpe(PreTokenizer pre, unsigned flags) {
    static Str merge[MOST];
    static char merges[MOST][80];
    Vocab v = base(VOCAB_BPE);
    char a[64], b[64];
    for (int i = 0; i < 256; i++) piece(a, to_alphabet(&(char){(char)i}, 1, a), TOK_NORMAL);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        piece(a, to_alphabet(words[i], strlen(words[i]), a), TOK_NORMAL);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        for (size_t cut = 1; cut < strlen(words[i]); cut++) {
            size_t n = to_alphabet(words[i], cut, a), m = to_alphabet(words[i] + cut, strlen(words[i]) - cut, b);
            int at = v.n_merges++;
            merge[at] = (Str){merges[at], (size_t)snprintf(merges[at], 80, "%.*s %.*s", (int)n, a, (int)m, b)};
        }
    v.merge = merge;
    v.pre = pre;
    v.ignore_merges = flags & 1;
    specials(&v, flags & 2);
    return v;
}

static Vocab spm(unsigned flags) {
    Vocab v = base(VOCAB_SPM);
    char a[64];
    v.unk = text_piece("<unk>", TOK_UNKNOWN);
    v.bos = text_piece("<s>", TOK_CONTROL);
    v.eos = text_piece("</s>", TOK_CONTROL);
    for (int i = 0; i < 256; i++) snprintf(a, sizeof a, "<0x%02X>", (unsigned)i), text_piece(a, TOK_BYTE);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t n = 0;
        for (const char *s = words[i]; *s; s++) {
            if (*s == ' ') memcpy(a + n, "\xE2\x96\x81", 3), n += 3;
            else a[n++] = *s;
        }
        piece(a, n, TOK_NORMAL);
    }
    for (const char *s = "thein r12aosd"; *s; s++) piece(s, 1, TOK_NORMAL);
    v.score = made.score;
    v.add_space_prefix = flags & 1;
    specials(&v, flags & 2);
    return v;
}

static Vocab wordpiece(unsigned flags) {
    static const char *const pieces[] = {
        "[UNK]", "\xE2\x96\x81the", "\xE2\x96\x81t", "he", "ing", "\xE2\x96\x81" "a", "a", "b",
        "\xE2\x96\x81\xE4\xB8\xAD", "\xE2\x96\x81\xC3\xA9", "\xE2\x96\x81" "e", "\xE2\x96\x81.", "1"};
    Vocab v = base(VOCAB_WPM);
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) text_piece(pieces[i], i ? TOK_NORMAL : TOK_CONTROL);
    v.unk = 0;
    v.rules = (WordRules){flags & 1, flags & 2, flags & 4, flags & 8};
    specials(&v, false);
    return v;
}

// The text as it is to come back.
static char *expected(const Vocab *v, const char *s, size_t n) {
    char *out = malloc(3 * n + 1), *at = out;
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t cp;
        len = utf8_next(s + i, n - i, &cp);
        if (!len) len = n - i;
        if (cp == UTF8_BAD || cp == 0) at += utf8_put(0xFFFD, at);
        else if (v->kind == VOCAB_SPM && cp == 0x2581) *at++ = ' ';
        else memcpy(at, s + i, len), at += len;
    }
    *at = 0;
    return out;
}

static void comes_back(Tokenizer *t, const Vocab *v, const char *s, size_t n) {
    int *ids = NULL;
    size_t count = 0, used = 0;
    Err e = {""};
    Decoder d = {.special = true};
    HOLDS(!tokenizer_encode(t, s, n, true, true, &ids, &count, &e), "%s", e.msg);
    char *want = expected(v, s, n), *got = malloc(3 * n + 16);
    for (size_t i = 0; i <= count; i++) {
        const char *text = i < count ? tokenizer_decode(t, &d, ids[i]) : tokenizer_decode_end(t, &d);
        HOLDS(used + strlen(text) < 3 * n + 16, "a text that grows");
        memcpy(got + used, text, strlen(text));
        used += strlen(text);
    }
    got[used] = 0;
    HOLDS(!strcmp(got, want), "\"%s\" became \"%s\"", want, got);
    free(got);
    free(want);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const PreTokenizer pres[] = {PRE_GPT2, PRE_LLAMA3, PRE_QWEN2, PRE_SMOLLM};
    if (size < 2) return 0;
    const unsigned flags = data[1];
    unsigned kind = data[0] % 6;
    Vocab v = kind < 4 ? bpe(pres[kind], flags) : kind == 4 ? spm(flags) : wordpiece(flags);
    Err e = {""};
    Tokenizer *t = tokenizer_new(&v, &e);
    HOLDS(t, "%s", e.msg);
    uint8_t *text = fuzz_copy(data + 2, size - 2);
    fuzz_begin();
    fuzz_encode(t, v.n, (char *)text, size - 2);
    fuzz_small(size, 1000, "four encodings");
    if (kind < 5 && !(flags & 2)) comes_back(t, &v, (char *)text, size - 2);
    tokenizer_free(t);
    free(text);
    return 0;
}
