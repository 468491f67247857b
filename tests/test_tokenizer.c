// Tests of tokenizer, core/vocab, core/words, core/unicode and core/strmap: published vectors, the regular
// expressions' splits, merging against the plain definition, special tokens, streamed decoding,
// long texts, broken vocabularies.
#include "test.h"
#include "../core/strmap.h"
#include "../core/unicode.h"
#include "../tokenizer.h"

#include <unistd.h>

#include "vectors.h"

// ---- vocabularies made here ---------------------------------------------------------------------

typedef struct { const char *text; int type; float score; } Row;

// SPM: <unk>, <s>, </s>, the 256 byte pieces (id 3 + byte), then rows from id 259. BPE: the 256
// bytes (id = byte), then rows from id 256, and merges. WPM: [PAD] to [MASK], then rows from id 5.
static Vocab make(VocabKind kind, const Row *row, int n_rows, const char *const *merges,
    int n_merges) {
    static const char *const first[] = {"<unk>", "<s>", "</s>"};
    Vocab v = {.kind = kind, .bos = -1, .eos = -1, .unk = -1, .eot = -1, .mask = -1};
    static const char *const brackets[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    int base = kind == VOCAB_WPM ? 5 : kind == VOCAB_SPM ? 259 : 256;
    size_t n = (size_t)(base + n_rows);
    Str *piece = vocab_alloc(&v, n, sizeof *piece, "test", NULL);
    Str *merge = vocab_alloc(&v, (size_t)n_merges, sizeof *merge, "test", NULL);
    v.score = vocab_alloc(&v, n, sizeof *v.score, "test", NULL);
    v.type = vocab_alloc(&v, n, sizeof *v.type, "test", NULL);
    v.strip = vocab_alloc(&v, n, 1, "test", NULL);
    char *text = vocab_alloc(&v, n, 8, "test", NULL);
    v.n = (int)n;
    v.piece = piece;
    v.merge = merge;
    v.n_merges = n_merges;
    for (int i = 0; i < base; i++, text += 8) {
        char c = (char)i;
        if (kind == VOCAB_BPE) text[to_alphabet(&c, 1, text)] = 0;
        else if (kind == VOCAB_WPM) strcpy(text, brackets[i]);
        else if (i < 3) strcpy(text, first[i]);
        else sprintf(text, "<0x%02X>", (unsigned)(i - 3));
        piece[i] = (Str){text, strlen(text)};
        v.type[i] = i > 2 ? TOK_BYTE : i ? TOK_CONTROL : TOK_UNKNOWN;
        if (kind == VOCAB_BPE) v.type[i] = TOK_NORMAL;
        if (kind == VOCAB_WPM) v.type[i] = TOK_CONTROL;
    }
    for (int i = 0; i < n_rows; i++) {
        piece[base + i] = (Str){row[i].text, strlen(row[i].text)};
        v.type[base + i] = row[i].type;
        v.score[base + i] = row[i].score;
    }
    for (int i = 0; i < n_merges; i++) merge[i] = (Str){merges[i], strlen(merges[i])};
    if (kind == VOCAB_WPM) {
        v.unk = 1;
        v.bos = 2;
        v.eos = 3;
        v.mask = 4;
        v.add_bos = v.add_eos = true;
        v.rules = (WordRules){true, true, true, true};
        return v;
    }
    if (kind == VOCAB_SPM) {
        v.unk = 0;
        v.bos = 1;
        v.eos = 2;
        v.add_bos = v.add_space_prefix = true;
    } else {
        v.pre = PRE_GPT2;
    }
    return v;
}

#define US "\xE2\x96\x81"           // U+2581
static const Row spm_rows[] = {     // from 259
    {US, TOK_NORMAL, -9}, {"a", TOK_NORMAL, -10}, {"b", TOK_NORMAL, -11}, {"ab", TOK_NORMAL, -1},
    {US "a", TOK_NORMAL, -2}, {"ba", TOK_NORMAL, -1}, {"aba", TOK_NORMAL, -3},
    {"\xC3\xA9", TOK_NORMAL, -12},
    {"<user>", TOK_USER, 0}, {"<us", TOK_USER, 0}, {"bb", TOK_NORMAL, -INFINITY},
    {"<|end|>", TOK_CONTROL, 0},
    {"[PAD]", TOK_UNUSED, 0},
};
static const Row bpe_rows[] = {     // from 256
    {"ab", TOK_NORMAL, 0}, {"abc", TOK_NORMAL, 0}, {"\xC4\xA0" "a", TOK_NORMAL, 0},
    {"bc", TOK_NORMAL, 0},
    {"\xC4\xA0" "abc", TOK_NORMAL, 0}, {"<mask>", TOK_CONTROL, 0}, {"<|im_end|>", TOK_CONTROL, 0},
    {"<r>", TOK_USER, 0}, {"<mask>x", TOK_USER, 0}, {"cab", TOK_NORMAL, 0},
};
static const char *const bpe_merges[] = {"a b", "\xC4\xA0 a", "b c", "a bc", "ab c", "z q",
    "\xC4\xA0 abc"};

static const Row wpm_rows[] = {     // from 5
    {US "a", TOK_NORMAL, 0}, {US "ab", TOK_NORMAL, 0}, {"b", TOK_NORMAL, 0}, {"bc", TOK_NORMAL, 0},
    {US ",", TOK_NORMAL, 0}, {US "\xE4\xB8\xAD", TOK_NORMAL, 0}, {"\xC3\xA9", TOK_NORMAL, 0},
    {US "e", TOK_NORMAL, 0}, {US, TOK_NORMAL, 0}, {"", TOK_NORMAL, 0}, {US US, TOK_NORMAL, 0},
    {"<user>", TOK_USER, 0}, {US "\xE1\x84\x92", TOK_NORMAL, 0}, {"\xE1\x85\xA1", TOK_NORMAL, 0},
    {"\xE1\x86\xAB", TOK_NORMAL, 0}, {"a", TOK_NORMAL, 0}, {US "i", TOK_NORMAL, 0},
    {"\xCC\x87", TOK_NORMAL, 0}, {US "E", TOK_NORMAL, 0},
};
// A small vocabulary of each kind.
enum { N_KINDS = 3 };
static Vocab make_kind(int kind) {
    return kind == VOCAB_SPM ? make(VOCAB_SPM, spm_rows, COUNT(spm_rows), NULL, 0) :
           kind == VOCAB_BPE ? make(VOCAB_BPE, bpe_rows, COUNT(bpe_rows), bpe_merges, COUNT(bpe_merges)) :
                               make(VOCAB_WPM, wpm_rows, COUNT(wpm_rows), NULL, 0);
}

// "id id id" of a text, in a static buffer; encoding problems as text.
static const char *ids_of(const Tokenizer *t, const char *text, size_t n, bool special,
    bool first) {
    static char out[1 << 16];
    int *ids;
    size_t n_ids, at = 0;
    Err e;
    if (tokenizer_encode(t, text, n, special, first, &ids, &n_ids, &e))
        return snprintf(out, sizeof out, "error: %s", e.msg), out;
    *out = 0;
    for (size_t i = 0; i < n_ids && at < sizeof out - 16; i++)
        at += (size_t)sprintf(out + at, i ? " %d" : "%d", ids[i]);
    free(ids);
    return out;
}

// 0 when every byte of the text comes back from its ids, started as the encoder was.
static int differs(Tokenizer *t, const char *text, size_t n, bool special) {
    int *ids;
    size_t n_ids, at = 0;
    if (tokenizer_encode(t, text, n, special, true, &ids, &n_ids, NULL)) return 1;
    Decoder d = {.special = special};
    int bad = 0;
    for (size_t i = 0; i <= n_ids && !bad; i++) {
        const char *s = i < n_ids ? tokenizer_decode(t, &d, ids[i]) : tokenizer_decode_end(t, &d);
        size_t len = strlen(s);
        if (len > n - at || memcmp(s, text + at, len)) bad = 1;
        else at += len;
    }
    free(ids);
    return bad || at != n;
}

// ---- code points, strings, words ----------------------------------------------------------------

static int utf8(void) {
    char s[4];
    for (uint32_t c = 0; c < 0x110000; c++) {
        if (c >= 0xD800 && c < 0xE000) continue;
        uint32_t back;
        size_t n = utf8_put(c, s);
        CHECK(utf8_next(s, n, &back) == n && back == c, "U+%04X comes back as U+%04X", c, back);
        for (size_t k = 1; k < n; k++)
            CHECK(utf8_next(s, k, &back) == 0, "%zu bytes of U+%04X are not yet one", k, c);
    }
    static const struct { const char *s; size_t n, taken; } bad[] = {
        {"\x80", 1, 1}, {"\xC0\x80", 2, 1}, {"\xC1\xBF", 2, 1}, {"\xE0\x80\x80", 3, 1},
        {"\xED\xA0\x80", 3, 1},
        {"\xF0\x80\x80\x80", 4, 1}, {"\xF4\x90\x80\x80", 4, 1}, {"\xF5\x80", 2, 1}, {"\xFF", 1, 1},
        {"\xC3(", 2, 1}, {"\xE2\x82(", 3, 2}, {"\xF0\x9F\x98(", 4, 3}, {"\xF0\x9F(", 3, 2},
    };
    for (int i = 0; i < COUNT(bad); i++) {
        uint32_t cp = 0;
        size_t taken = utf8_next(bad[i].s, bad[i].n, &cp);
        CHECK(cp == UTF8_BAD && taken == bad[i].taken, "case %d: %zu taken, U+%04X", i, taken, cp);
    }
    return PASS;
}

static int classes(void) {
    static const struct { uint32_t cp; int class; } at[] = {
        {'a', UC_LETTER}, {'Z', UC_LETTER}, {'0', UC_NUMBER}, {'9', UC_NUMBER}, {'_', UC_OTHER},
        {0, UC_OTHER},
        {' ', UC_SPACE}, {'\t', UC_SPACE}, {'\r', UC_SPACE}, {0x0E, UC_OTHER}, {0x1C, UC_OTHER},
        {0x85, UC_SPACE},
        {0xA0, UC_SPACE}, {0xAA, UC_LETTER}, {0xB2, UC_NUMBER}, {0xBD, UC_NUMBER},
        {0xD7, UC_OTHER}, {0xDF, UC_LETTER},
        {0x301, UC_OTHER}, {0x663, UC_NUMBER}, {0x1680, UC_SPACE}, {0x180E, UC_OTHER},
        {0x200A, UC_SPACE},
        {0x200B, UC_OTHER}, {0x2028, UC_SPACE}, {0x2167, UC_NUMBER}, {0x3000, UC_SPACE},
        {0x3007, UC_NUMBER},
        {0x4E00, UC_LETTER}, {0x9FFF, UC_LETTER}, {0xAC00, UC_LETTER}, {0xD7A3, UC_LETTER},
        {0xD800, UC_OTHER},
        {0xE000, UC_OTHER}, {0xFEFF, UC_OTHER}, {0x1F600, UC_OTHER}, {0x1D7CE, UC_NUMBER},
        {0x31350, UC_LETTER},
        {0x10FFFF, UC_OTHER}, {0x110000, UC_OTHER}, {UTF8_BAD, UC_OTHER},
    };
    for (int i = 0; i < COUNT(at); i++)
        CHECK(unicode_class(at[i].cp) == at[i].class, "U+%04X: %d, expected %d", at[i].cp,
              unicode_class(at[i].cp), at[i].class);
    int count[4] = {0};
    for (uint32_t c = 0; c < 0x110000; c++) count[unicode_class(c)]++;
    // Unicode 16.0
    CHECK(count[UC_LETTER] == 141028, "%d letters", count[UC_LETTER]);
    CHECK(count[UC_NUMBER] == 1911, "%d numbers", count[UC_NUMBER]);
    CHECK(count[UC_SPACE] == 25, "%d spaces", count[UC_SPACE]);
    return PASS;
}

static int maps(void) {
    enum { N = 3000 };
    static char text[N][8];
    static Str s[N];
    StrMap m;
    for (int i = 0; i < N; i++) s[i] = (Str){text[i], (size_t)sprintf(text[i], "%d", i / 2)};
    CHECK(!strmap_new(&m, s, N, "test", NULL), "memory");
    for (int i = 0; i < N; i++) CHECK(strmap_add(&m, i) == i / 2 * 2, "item %d", i);
    for (int i = 0; i < N; i++) CHECK(strmap_find(&m, s[i].s, s[i].n) == i / 2 * 2, "item %d", i);
    CHECK(strmap_find(&m, "x", 1) == -1 && strmap_find(&m, "", 0) == -1, "finds what is not there");
    strmap_free(&m);
    return PASS;
}

static int alphabet(void) {
    char all[256], out[512], back[512];
    for (int i = 0; i < 256; i++) all[i] = (char)i;
    size_t n = to_alphabet(all, 256, out);
    CHECK(from_alphabet((Str){out, n}, back) == 256 && !memcmp(all, back, 256), "bytes change");
    CHECK(to_alphabet(" \n\xAD", 3, out) == 6 && !memcmp(out, "\xC4\xA0\xC4\x8A\xC5\x83", 6),
        "%.6s", out);
    CHECK(from_alphabet((Str){"a b", 3}, back) == SIZE_MAX, "a space is not in the alphabet");
    CHECK(from_alphabet((Str){"\xC5\x84", 2}, back) == SIZE_MAX, "U+0144 is not in the alphabet");
    CHECK(from_alphabet((Str){"\xC5", 1}, back) == SIZE_MAX, "half a character");
    return PASS;
}

// Expected: what Python's regex module gives for the published regular expressions, with | between.
static int splits(void) {
    static const struct { const char *text, *gpt2, *llama3, *qwen2, *smollm; } cases[] = {
        {"Hello  world", "Hello| | world", "Hello| | world", "Hello| | world", "Hello| | world"},
        {"I'VE we've 'tis", "I|'|VE| we|'ve| '|tis", "I|'VE| we|'ve| '|tis", "I|'VE| we|'ve| '|tis",
         "I|'|VE| we|'ve| '|tis"},
        {"a1234567 8", "a|1234567| 8", "a|123|456|7| |8", "a|1|2|3|4|5|6|7| |8",
            "a|1|2|3|4|5|6|7| |8"},
        {"x\n\n  y \r\n z", "x|\n\n | y| \r\n| z", "x|\n\n| | y| \r\n| z", "x|\n\n| | y| \r\n| z",
         "x|\n\n | y| \r\n| z"},
        {"\t\tif (a != b)\n\n", "\t|\t|if| (|a| !=| b|)|\n\n", "\t|\tif| (|a| !=| b|)\n\n",
         "\t|\tif| (|a| !=| b|)\n\n", "\t|\t|if| (|a| !=| b|)|\n\n"},
        {"  ", "  ", "  ", "  ", "  "},
        {"...\n\nxyz", "...|\n|\n|xyz", "...\n\n|xyz", "...\n\n|xyz", "...|\n|\n|xyz"},
        {"é中文½Ⅷ٣", "é中文|½Ⅷ٣", "é中文|½Ⅷ٣", "é中文|½|Ⅷ|٣", "é中文|½|Ⅷ|٣"},
        {"'ſ 's", "'|ſ| '|s", "'ſ| '|s", "'ſ| '|s", "'|ſ| '|s"},
        {" 12  34", " 12| | 34", " |12| | |34", " |1|2| | |3|4", " |1|2|  |3|4"},
        {"　　k\u00A0", "　|　|k|\u00A0", "　|　k|\u00A0", "　|　k|\u00A0", "　|　|k|\u00A0"},
        {"'", "'", "'", "'", "'"}, {"", "", "", "", ""},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        const char *expected[] = {cases[i].gpt2, cases[i].llama3, cases[i].qwen2, cases[i].smollm};
        for (int p = 0; p < 4; p++) {
            PreTokenizer pre = (PreTokenizer)(PRE_GPT2 + p);
            const char *s = cases[i].text;
            size_t n = strlen(s), k = 0;
            char out[256];
            for (size_t at = 0, part = 0, end; at < n; at = end) {
                if (at == part) part = part_end(pre, s, n, at);
                end = word_end(pre, s, part, at);
                CHECK(end > at && end <= part && part <= n, "%s: %zu .. %zu in %zu", s, at, end,
                    part);
                k += (size_t)sprintf(out + k, at ? "|%.*s" : "%.*s", (int)(end - at), s + at);
            }
            out[k] = 0;
            CHECK(!strcmp(out, expected[p]), "%s: '%s', expected '%s'", pre_name(pre), out,
                expected[p]);
        }
    }
    return PASS;
}

static int names(void) {
    static const struct { const char *name; int pre; } known[] = {
        {"gpt-2", PRE_GPT2}, {"roberta-bpe", PRE_GPT2}, {"llama-bpe", PRE_LLAMA3},
        {"llama3", PRE_LLAMA3},
        {"llama-v3", PRE_LLAMA3}, {"qwen2", PRE_QWEN2}, {"smollm", PRE_SMOLLM}, {"default", -1},
        {"falcon", -1}, {"", -1}, {"gpt-20", -1},
    };
    for (int i = 0; i < COUNT(known); i++) {
        Str s = {known[i].name, strlen(known[i].name)};
        CHECK(pre_by_name(s) == known[i].pre, "%s: %d", known[i].name, pre_by_name(s));
    }
    for (int p = PRE_GPT2; p <= PRE_SMOLLM; p++) {
        const char *name = pre_name((PreTokenizer)p);
        CHECK(pre_by_name((Str){name, strlen(name)}) == p, "%s", name);
    }
    CHECK(byte_piece((Str){"<0x4f>", 6}) == 0x4F && byte_piece((Str){"<0xZZ>", 6}) == -1 &&
          byte_piece((Str){"<0x-1>", 6}) == -1 && byte_piece((Str){"<0x41", 5}) == -1,
              "byte pieces");
    return PASS;
}

// ---- encoding -----------------------------------------------------------------------------------

static int encodes_spm(void) {
    Err e;
    Vocab v = make(VOCAB_SPM, spm_rows, COUNT(spm_rows), NULL, 0);
    Tokenizer *t = tokenizer_new(&v, &e);
    CHECK(t, "%s", e.msg);
    static const struct { const char *text; bool special, first; const char *ids; } cases[] = {
        {"", 0, 1, ""}, {" ", 0, 1, "259 259"}, {" ", 0, 0, "259"}, {"a", 0, 1, "263"},
        {"a", 0, 0, "260"},
        {"abab", 0, 0, "262 262"},          // the left of two equal pairs first
        {"aba", 0, 0, "265"}, {"bab", 0, 0, "264 261"}, {"bb", 0, 0, "261 261"},  // -inf: never
        {"ab", 0, 1, "259 262"},            // ab (-1) before _a (-2)
        {"\xC3\xA9" "a", 0, 0, "266 260"},  // a character that is a piece
        {"\xE4\xB8\xAD", 0, 0, "231 187 176"}, {"\xFF", 0, 0, "258"}, {"\xE4\xB8", 0, 0, "231 187"},
        {"<s>a", 0, 0, "63 118 65 260"}, {"<s>a", 1, 0, "1 263"}, {"<s>a", 1, 1, "1 263"},
        {"<user>a", 0, 1, "259 267 260"}, {"<use", 0, 0, "268 104"}, {"a<user>", 1, 0, "260 267"},
        {US "a", 0, 0, "263"}, {"<0x41>", 0, 0, "63 51 123 55 52 65"}, {"<|end|>", 1, 0, "270"},
        {"[PAD]", 1, 0, "94 83 68 71 96"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        const char *got = ids_of(t, cases[i].text, strlen(cases[i].text), cases[i].special,
            cases[i].first);
        CHECK(!strcmp(got, cases[i].ids), "'%s' (case %d): %s, expected %s", cases[i].text, i, got,
            cases[i].ids);
    }
    CHECK(!strcmp(ids_of(t, "a\0a", 3, false, false), "260 3 260"), "%s",
        ids_of(t, "a\0a", 3, false, false));
    CHECK(tokenizer_id(t, "aba") == 265 && tokenizer_id(t, "</s>") == 2 &&
        tokenizer_id(t, "nope") == -1, "ids");
    for (int i = -2; i < v.n + 2; i++) CHECK(tokenizer_ends(t, i) == (i == 2 || i == 270),
        "end %d", i);
    tokenizer_free(t);

    // Without prefix; and with an unknown token instead of bytes.
    v.add_space_prefix = false;
    for (int i = 3; i < 259; i++) v.type[i] = TOK_UNUSED;
    t = tokenizer_new(&v, &e);
    CHECK(t, "%s", e.msg);
    const char *got = ids_of(t, "aXY aZ", 6, false, true);
    CHECK(!strcmp(got, "260 0 263 0"), "one unknown for a row of characters: %s", got);
    tokenizer_free(t);
    v.unk = -1;
    t = tokenizer_new(&v, &e);
    CHECK(!t && strstr(e.msg, "<0x00>"), "accepts a vocabulary that cannot write a byte");
    vocab_free(&v);
    return PASS;
}

static int encodes_bpe(void) {
    Err e;
    Vocab v = make(VOCAB_BPE, bpe_rows, COUNT(bpe_rows), bpe_merges, COUNT(bpe_merges));
    v.strip[261] = TOK_LSTRIP;
    v.strip[263] = TOK_RSTRIP;
    Tokenizer *t = tokenizer_new(&v, &e);
    CHECK(t, "%s", e.msg);
    static const struct { const char *text; bool special; const char *ids; } cases[] = {
        {"", 0, ""}, {"abc", 0, "257"}, {"bc", 0, "259"}, {"abbc", 0, "256 259"},
        {" abc", 0, "260"},
        {"cab", 0, "99 256"}, {"a\xFF", 0, "97 255"},
        {"<mask>", 0, "60 109 97 115 107 62"}, {"<mask>", 1, "261"},
        {"a \t <mask> a", 1, "97 261 258"},
        {"<mask>x", 1, "264"}, {"<mask>x", 0, "264"}, {"<r>  a", 0, "263 97"},
        {"<mask><r>", 1, "261 263"},
        {"<mask", 1, "60 109 97 115 107"}, {"  <mask>", 1, "261"}, {"\xC2\xA0<mask>", 1, "261"},
        {"\xA0<mask>", 1, "160 261"}, {"<|im_end|>", 1, "262"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        const char *got = ids_of(t, cases[i].text, strlen(cases[i].text), cases[i].special, true);
        CHECK(!strcmp(got, cases[i].ids), "'%s' (case %d): %s, expected %s", cases[i].text, i, got,
            cases[i].ids);
    }
    CHECK(tokenizer_ends(t, 262) && !tokenizer_ends(t, 261), "<|im_end|> ends, <mask> does not");
    tokenizer_free(t);
    v.ignore_merges = true;                  // whole words are looked up first
    t = tokenizer_new(&v, &e);
    CHECK(t, "%s", e.msg);
    const char *got = ids_of(t, " abc cab", 8, false, true);
    CHECK(!strcmp(got, "260 32 99 256"), "ignore_merges: %s", got);
    got = ids_of(t, "cab", 3, false, true);
    CHECK(!strcmp(got, "265"), "ignore_merges: %s", got);
    tokenizer_free(t);
    v.type['a'] = TOK_UNUSED;                // a byte without a piece gives nothing
    t = tokenizer_new(&v, &e);
    CHECK(t, "%s", e.msg);
    got = ids_of(t, "bab", 3, false, true);
    CHECK(!strcmp(got, "98 98"), "a byte without a piece: %s", got);
    tokenizer_free(t);
    vocab_free(&v);
    return PASS;
}

static int encodes_wpm(void) {
    Err e;
    Vocab v = make_kind(VOCAB_WPM);
    Tokenizer *t = tokenizer_new(&v, &e);
    CHECK(t, "%s", e.msg);
    static const struct { const char *text; bool special; const char *ids; } cases[] = {
        {"", 0, ""}, {"  ", 0, ""}, {"a", 0, "5"}, {"AB", 0, "6"}, {"abbc", 0, "6 8"}, {"abb", 0, "6 7"},
        {"ABC", 0, "1"},                                   // ab, but no c: unknown as a whole
        {"b", 0, "1"}, {"bc a", 0, "1 5"},                 // what goes on begins no word
        {"a,b", 0, "5 9 1"}, {"\xC3\xA9", 0, "12"}, {"a\xE4\xB8\xAD" "a", 0, "5 10 5"},
        {"\xED\x95\x9C", 0, "17 18 19"}, {US, 0, "15"}, {"\xC4\xB0", 0, "21"}, {"\xFF", 0, ""},
        {"[MASK]", 0, "1 1 1"}, {"[MASK]", 1, "4"}, {"[mask]", 1, "1 1 1"}, {"a[MASK]b [SEP]", 1, "5 4 1 3"},
        {"<user>a", 0, "16 5"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        const char *got = ids_of(t, cases[i].text, strlen(cases[i].text), cases[i].special, true);
        CHECK(!strcmp(got, cases[i].ids), "'%s' (case %d): %s, expected %s", cases[i].text, i, got,
              cases[i].ids);
    }
    char word[101];
    memset(word, 'a', sizeof word);
    const char *got = ids_of(t, word, 101, false, true);
    CHECK(!strcmp(got, "1"), "101 characters: %s", got);
    got = ids_of(t, word, 100, false, true);
    CHECK(!strncmp(got, "5 20 20", 7) && strlen(got) == 1 + 99 * 3, "100 characters: %s", got);
    tokenizer_free(t);
    v.rules = (WordRules){false, false, false, false};
    t = tokenizer_new(&v, &e);
    CHECK(t, "%s", e.msg);
    got = ids_of(t, "E \xC3\xA9 a\xC3\xA9 ab\xE4\xB8\xAD", 14, false, true);
    CHECK(!strcmp(got, "23 1 5 11 1"), "without rules: %s", got);
    tokenizer_free(t);
    v.unk = -1;
    CHECK(!tokenizer_new(&v, &e) && strstr(e.msg, "unknown"), "%s", e.msg);
    vocab_free(&v);
    return PASS;
}

// The same by the words of the paper: the longest piece that is a prefix, again and again.
static int naive_word(const Vocab *v, const char *word, int *out) {
    char rest[128];
    int n = 0;
    snprintf(rest, sizeof rest, US "%s", word);
    for (char *s = rest; *s; ) {
        int best = -1;
        for (int k = 5; k < v->n; k++)
            if (!strncmp(s, v->piece[k].s, v->piece[k].n) && (best < 0 || v->piece[k].n > v->piece[best].n))
                best = k;
        if (best < 0) { out[0] = v->unk; return 1; }
        out[n++] = best;
        s += v->piece[best].n;
    }
    return n;
}

static int equals_definition_wpm(void) {
    uint64_t rng = 11;
    for (int round = 0; round < 100; round++) {
        enum { N = 25 };
        static char text[N][16];
        Row rows[N];
        int n = 0;
        while (n < N) {
            char *p = text[n], old = 0;
            int len = 1 + (int)(random_u64(&rng) % 4), begins = n & 1;
            strcpy(p, begins ? US : "");
            for (int i = 0; i < len; i++) strncat(p, &"abc"[random_u64(&rng) % 3], 1);
            for (int i = 0; i < n; i++) old |= !strcmp(text[i], p);
            rows[n] = (Row){p, TOK_NORMAL, 0};
            if (!old) n++;
        }
        Vocab v = make(VOCAB_WPM, rows, N, NULL, 0);
        Tokenizer *t = tokenizer_new(&v, NULL);
        CHECK(t, "round %d", round);
        for (int k = 0; k < 50; k++) {
            char s[32] = "";
            int expected[64], *ids, len = 1 + (int)(random_u64(&rng) % 12);
            size_t n_ids;
            for (int i = 0; i < len; i++) strncat(s, &"abc"[random_u64(&rng) % 3], 1);
            int count = naive_word(&v, s, expected);
            CHECK(!tokenizer_encode(t, s, strlen(s), false, true, &ids, &n_ids, NULL), "%s", s);
            int equal = n_ids == (size_t)count && !memcmp(ids, expected, n_ids * sizeof *ids);
            free(ids);
            CHECK(equal, "round %d: %s: %s", round, s, ids_of(t, s, strlen(s), false, true));
        }
        tokenizer_free(t);
        vocab_free(&v);
    }
    return PASS;
}

// A space before every text that has none: roberta's add_prefix_space.
static int prefix_bpe(void) {
    Err e;
    Vocab v = make_kind(VOCAB_BPE);
    v.add_space_prefix = true;
    Tokenizer *t = tokenizer_new(&v, &e);
    CHECK(t, "%s", e.msg);
    static const struct { const char *text; bool first; const char *ids; } cases[] = {
        {"abc", 1, "260"}, {" abc", 1, "260"}, {"abc", 0, "257"}, {"", 1, ""}, {"\nab", 1, "32 10 256"},
        {"<mask>abc", 0, "261 260"}, {"a<r>abc<mask>", 1, "258 263 260 261"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        const char *got = ids_of(t, cases[i].text, strlen(cases[i].text), true, cases[i].first);
        CHECK(!strcmp(got, cases[i].ids), "'%s' (case %d): %s, expected %s", cases[i].text, i, got,
              cases[i].ids);
    }
    tokenizer_free(t);
    vocab_free(&v);
    return PASS;
}

// The definition, without a heap: the best pair of the whole word, the leftmost of equal ones.
static int naive(const Vocab *v, const char *s, int n, int *out) {
    static char part[64][65];
    int count = n;
    for (int i = 0; i < n; i++) sprintf(part[i], "%c", s[i]);
    for (;;) {
        int at = -1;
        double best = -INFINITY;
        for (int i = 0; i + 1 < count; i++) {
            char pair[140];
            double score = -INFINITY;
            sprintf(pair, v->kind == VOCAB_SPM ? "%s%s" : "%s %s", part[i], part[i + 1]);
            if (v->kind == VOCAB_SPM) {
                for (int k = 259; k < v->n; k++)
                    if (str_is(v->piece[k], pair)) score = (double)v->score[k];
            } else {
                for (int k = v->n_merges; k-- > 0; ) if (str_is(v->merge[k], pair)) score = -k;
            }
            if (score > best) { best = score; at = i; }
        }
        if (at < 0) break;
        char both[140];
        sprintf(both, "%s%s", part[at], part[at + 1]);
        strcpy(part[at], both);
        memmove(part + at + 1, part + at + 2, (size_t)(--count - at - 1) * sizeof *part);
    }
    for (int i = 0; i < count; i++) {
        out[i] = -1;
        for (int k = 0; k < v->n; k++) if (str_is(v->piece[k], part[i])) { out[i] = k; break; }
    }
    return count;
}

static int equals_definition(void) {
    uint64_t rng = 7;
    for (int round = 0; round < 60; round++) {
        enum { N = 60 };
        VocabKind kind = round & 1 ? VOCAB_SPM : VOCAB_BPE;
        static char text[N][20], merge[N][24];
        Row rows[N];
        const char *merges[N];
        int n = 0, n_merges = 0;
        for (char c = 'a'; c <= 'c'; c++) sprintf(text[n++], "%c", c);
        while (n < N && n_merges < N) {              // two pieces that are there, joined
            const char *x = text[random_u64(&rng) % (uint64_t)n],
                *y = text[random_u64(&rng) % (uint64_t)n];
            char pair[64];
            snprintf(pair, sizeof pair, "%s%s", x, y);
            if (strlen(pair) > 12) continue;
            sprintf(merge[n_merges], "%s %s", x, y);
            int old = 0, again = 0;
            for (int i = 0; i < n; i++) old |= !strcmp(text[i], pair);
            for (int i = 0; i < n_merges; i++) again |= !strcmp(merge[i], merge[n_merges]);
            if (!again) { merges[n_merges] = merge[n_merges]; n_merges++; }
            if (!old) strcpy(text[n++], pair);
        }
        for (int i = 0; i < n; i++) rows[i] = (Row){text[i], TOK_NORMAL,
            -(float)(random_u64(&rng) % 9)};
        int skip = kind == VOCAB_SPM ? 0 : 3;        // a, b, c are bytes already
        Vocab v = make(kind, rows + skip, n - skip, merges, kind == VOCAB_SPM ? 0 : n_merges);
        Tokenizer *t = tokenizer_new(&v, NULL);
        CHECK(t, "round %d", round);
        for (int k = 0; k < 40; k++) {
            char s[64];
            int len = 1 + (int)(random_u64(&rng) % 40), expected[64], *ids;
            size_t n_ids;
            for (int i = 0; i < len; i++) s[i] = (char)('a' + random_u64(&rng) % 3);
            int count = naive(&v, s, len, expected);
            CHECK(!tokenizer_encode(t, s, (size_t)len, false, false, &ids, &n_ids, NULL), "%.*s",
                len, s);
            int same = n_ids == (size_t)count && !memcmp(ids, expected, n_ids * sizeof *ids);
            free(ids);
            CHECK(same, "kind %d, round %d: %.*s: %s", kind, round, len, s,
                ids_of(t, s, (size_t)len, false, false));
        }
        tokenizer_free(t);
        vocab_free(&v);
    }
    return PASS;
}

// ---- decoding -----------------------------------------------------------------------------------

// What decoding ids (ended by -9) gives, the pieces of the stream with | between.
static const char *stream(Tokenizer *t, bool special, const int *ids) {
    static char out[1024];
    Decoder d = {.special = special};
    size_t k = 0;
    for (; *ids != -9; ids++) k += (size_t)sprintf(out + k, "%s|", tokenizer_decode(t, &d, *ids));
    sprintf(out + k, "%s", tokenizer_decode_end(t, &d));
    return out;
}

static int decodes(void) {
    Vocab v = make(VOCAB_SPM, spm_rows, COUNT(spm_rows), NULL, 0);
    Tokenizer *t = tokenizer_new(&v, NULL);
    CHECK(t, "spm");
    static const struct { bool special; int ids[8]; const char *text; } cases[] = {
        {0, {1, 263, 263, 2, -9}, "|a| a||"}, {1, {1, 263, 2, 263, -9}, "<s>|a|</s>|a|"},
        {0, {259, 260, -9}, "|a|"}, {0, {260, 259, -9}, "a| |"},
        {0, {3 + 0xE4, 3 + 0xB8, 3 + 0xAD, 260, -9}, "||中|a|"},
        {0, {3 + 0xE4, 3 + 0xB8, 260, -9}, "||\xEF\xBF\xBD" "a|"},    // one for both
        {0, {3 + 0xF0, 3 + 0x9F, -9}, "||\xEF\xBF\xBD"},
        {0, {3 + 0xFF, 3 + 0x80, -9}, "\xEF\xBF\xBD|\xEF\xBF\xBD|"},
        {0, {3 + 0xF0, 3 + 0x9F, 3 + 0x98, 3 + 0x80, -9}, "|||😀|"},
        {0, {3 + 0xE4, 1, 3 + 0xB8, 3 + 0xAD, -9}, "|||中|"},
        {0, {0, -9}, "\xEF\xBF\xBD|"}, {1, {0, -9}, "<unk>|"},
        {0, {3, 271, -1, 99999, -9}, "\xEF\xBF\xBD||||"},
        {0, {3 + ' ', 260, -9}, " |a|"}, {0, {267, -9}, "<user>|"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        const char *got = stream(t, cases[i].special, cases[i].ids);
        CHECK(!strcmp(got, cases[i].text), "case %d: '%s', expected '%s'", i, got, cases[i].text);
    }
    static const char *const texts[] = {"", " ", "  a", "ab ba", "é中😀", "<s>ab</s> b<user> a",
        "\n\t x", "<user>"};
    for (int i = 0; i < COUNT(texts); i++) for (int special = 0; special < 2; special++)
        CHECK(!differs(t, texts[i], strlen(texts[i]), special), "'%s' does not come back",
            texts[i]);
    tokenizer_free(t);
    vocab_free(&v);
    return PASS;
}

static int decodes_wpm(void) {
    Vocab v = make_kind(VOCAB_WPM);
    Tokenizer *t = tokenizer_new(&v, NULL);
    CHECK(t, "wpm");
    static const struct { bool special; int ids[8]; const char *text; } cases[] = {
        {0, {2, 6, 7, 9, 5, 3, -9}, "|ab|b|,| a||"}, {1, {2, 6, 4, 9, 3, -9}, "[CLS]| ab| [MASK]|,| [SEP]|"},
        {0, {7, 7, 5, -9}, "##b|b| a|"}, {0, {1, -9}, "|"}, {1, {1, 5, -9}, "[UNK]| a|"},
        {0, {13, 14, 5, -9}, "|| a|"},
        {0, {16, 10, 99, -1, -9}, "<user>| \xE4\xB8\xAD|||"}, {0, {15, -9}, US "|"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        const char *got = stream(t, cases[i].special, cases[i].ids);
        CHECK(!strcmp(got, cases[i].text), "case %d: '%s', expected '%s'", i, got, cases[i].text);
    }
    tokenizer_free(t);
    vocab_free(&v);
    return PASS;
}

// ---- GGUF ---------------------------------------------------------------------------------------

static int same_str(Str a, Str b) { return a.n == b.n && !memcmp(a.s, b.s, a.n); }

static int through_gguf(void) {
    for (int round = 0; round < 2 + N_KINDS; round++) {
        Err e;
        Vocab v = make_kind(round % N_KINDS), w;
        if (v.kind == VOCAB_BPE) {
            v.pre = PRE_LLAMA3;
            v.strip[261] = round < N_KINDS ? TOK_LSTRIP : 0;
            v.eot = 262;
            v.mask = 261;
        }
        if (v.kind == VOCAB_WPM)
            v.rules = (WordRules){round & 1, round & 2, round & 1, round & 2};
        v.add_eos = true;
        v.chat_template = (Str){"{{ messages }}", 14};
        GgufBuilder *b = gguf_builder(&e);
        Gguf g;
        CHECK(b, "%s", e.msg);
        vocab_to_gguf(&v, b);
        CHECK(!gguf_build(b, "built", &g, &e), "%s", e.msg);
        CHECK(!vocab_from_gguf(&w, &g, &e), "%s", e.msg);
        CHECK(w.kind == v.kind && w.pre == v.pre && w.n == v.n && w.n_merges == v.n_merges,
            "%d pieces", w.n);
        for (int i = 0; i < v.n; i++)
            CHECK(same_str(v.piece[i], w.piece[i]) && v.type[i] == w.type[i] &&
                v.strip[i] == w.strip[i] &&
                  (v.kind != VOCAB_SPM || v.score[i] == w.score[i]), "piece %d", i);
        for (int i = 0; i < v.n_merges; i++) CHECK(same_str(v.merge[i], w.merge[i]), "merge %d", i);
        CHECK(!memcmp(&w.rules, &v.rules, sizeof v.rules), "rules");
        CHECK(w.bos == v.bos && w.eos == v.eos && w.unk == v.unk && w.eot == v.eot && w.mask == v.mask,
            "ids %d %d %d %d",
              w.bos, w.eos, w.unk, w.eot);
        CHECK(w.add_bos == v.add_bos && w.add_eos == v.add_eos &&
            w.ignore_merges == v.ignore_merges &&
              w.add_space_prefix == v.add_space_prefix &&
                  same_str(w.chat_template, v.chat_template), "flags");
        vocab_free(&w);
        gguf_free(&g);
        gguf_builder_free(b);
        vocab_free(&v);
    }
    return PASS;
}

// Each case spoils one key of a good vocabulary; the message must name what is wrong.
static void spoil(GgufBuilder *b, int i) {
    static const int32_t short_types[] = {1, 1}, bad_type[269] = {9};
    static const float short_scores[] = {1, 2};
    static const uint8_t bytes[269] = {1};
    static const Str no_space[] = {{"ab", 2}}, none[] = {{"x", 1}};
    static float nan_scores[272];
    for (int k = 0; k < 272; k++) nan_scores[k] = NAN;
    switch (i) {
    case 0: gguf_set_str(b, "tokenizer.ggml.model", "rwkv", 4); break;
    case 1: gguf_unset(b, "tokenizer.ggml.model"); break;
    case 2: gguf_unset(b, "tokenizer.ggml.tokens"); break;
    case 3: gguf_set_array(b, "tokenizer.ggml.token_type", GGUF_I32, short_types, 2); break;
    case 4: gguf_set_array(b, "tokenizer.ggml.token_type", GGUF_U8, bytes, 266); break;
    case 5: gguf_set_int(b, "tokenizer.ggml.bos_token_id", GGUF_U32, 272); break;
    case 6: gguf_set_int(b, "tokenizer.ggml.eos_token_id", GGUF_I32, -2); break;
    case 7: gguf_set_str(b, "tokenizer.ggml.pre", "falcon", 6); break;
    case 8: gguf_unset(b, "tokenizer.ggml.pre"); break;
    case 9: gguf_unset(b, "tokenizer.ggml.merges"); break;
    case 10: gguf_set_strings(b, "tokenizer.ggml.merges", no_space, 1); break;
    case 11: gguf_set_array(b, "tokenizer.ggml.token_type", GGUF_I32, bad_type, 266); break;
    case 12: gguf_set_strings(b, "tokenizer.ggml.tokens", none, 0); break;
    case 13: gguf_set_int(b, "tokenizer.ggml.add_bos_token", GGUF_U32, 1); break;
    case 14: gguf_set_int(b, "tokenizer.ggml.tokens", GGUF_U32, 1); break;
    case 20: gguf_unset(b, "tokenizer.ggml.scores"); break;
    case 21: gguf_set_array(b, "tokenizer.ggml.scores", GGUF_F32, short_scores, 2); break;
    case 22: gguf_set_array(b, "tokenizer.ggml.scores", GGUF_F32, nan_scores, 272); break;
    case 23: gguf_set_array(b, "tokenizer.ggml.scores", GGUF_U8, bytes, 266); break;
    case 24: gguf_set_bool(b, "tokenizer.ggml.remove_extra_whitespaces", true); break;
    }
}

static int refuses(void) {
    static const struct { int spoil; const char *says; } cases[] = {
        {0, "'rwkv' is not supported"}, {1, "tokenizer.ggml.model is absent"},
        {2, "tokenizer.ggml.tokens is absent"},
        {3, "expected 266 items, one a token, found 2"}, {4, "expected an array of i32"},
        {5, "found 272"},
        {6, "eos_token_id"}, {7, "'falcon' is not supported"}, {8, "tokenizer.ggml.pre is absent"},
        {9, "tokenizer.ggml.merges is absent"}, {10, "merge 0 is 'ab'"}, {11, "token 0 has type 9"},
        {12, "no tokens"}, {13, "add_bos_token"}, {14, "expected an array of strings"},
        {20, "tokenizer.ggml.scores is absent"}, {21, "found 2"}, {22, "has score nan"},
        {23, "expected an array of f32"}, {24, "remove_extra_whitespaces"}, {-1, NULL},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        Err e = {""};
        Vocab v = cases[i].spoil < 20 ? make(VOCAB_BPE, bpe_rows, COUNT(bpe_rows), bpe_merges,
            COUNT(bpe_merges))
                                      : make(VOCAB_SPM, spm_rows, COUNT(spm_rows), NULL, 0), w;
        GgufBuilder *b = gguf_builder(&e);
        Gguf g;
        CHECK(b, "%s", e.msg);
        vocab_to_gguf(&v, b);
        spoil(b, cases[i].spoil);
        CHECK(!gguf_build(b, "built", &g, &e), "%s", e.msg);
        int status = vocab_from_gguf(&w, &g, &e);
        Tokenizer *t = status ? NULL : tokenizer_new(&w, &e);
        if (!cases[i].says) CHECK(t, "the good one is refused: %s", e.msg);
        else CHECK(!t && strstr(e.msg, cases[i].says), "case %d: '%s' should have said '%s'",
                   cases[i].spoil, e.msg, cases[i].says);
        tokenizer_free(t);
        vocab_free(&w);
        gguf_free(&g);
        gguf_builder_free(b);
        vocab_free(&v);
    }
    // What no GGUF can hold, but another reader might pass.
    Err e;
    Row rows[] = {{"<0xZZ>", TOK_BYTE, 0}, {"<0x-1>", TOK_BYTE, 0}, {"", TOK_NORMAL, 0},
        {"", TOK_USER, 0}};
    for (int i = 0; i < 4; i++) {
        Vocab v = make(VOCAB_SPM, rows + i, 1, NULL, 0);
        Tokenizer *t = tokenizer_new(&v, &e);
        if (i < 2) CHECK(!t && strstr(e.msg, "byte token 259"), "%s", e.msg);
        else CHECK(t && !strcmp(ids_of(t, "x", 1, true, false), "123"),
            "an empty piece is matched");
        tokenizer_free(t);
        vocab_free(&v);
    }
    Vocab v = make(VOCAB_SPM, spm_rows, COUNT(spm_rows), NULL, 0);
    static char huge[5000];
    memset(huge, 'x', sizeof huge);
    ((Str *)v.piece)[260] = (Str){huge, sizeof huge};
    CHECK(!tokenizer_new(&v, &e) && strstr(e.msg, "token 260 has 5000 bytes"), "%s", e.msg);
    v.eot = v.n;
    CHECK(!tokenizer_new(&v, &e) && strstr(e.msg, "eot"), "%s", e.msg);
    vocab_free(&v);
    return PASS;
}

// Every bit of a small vocabulary's file turned over, and the file cut short: refused, or usable.
static int bit_flips(void) {
    for (int round = 0; round < N_KINDS; round++) {
        Err e;
        Vocab v = make_kind(round);
        char path[] = "/tmp/tensorllm-vocab-XXXXXX", *file;
        int fd = mkstemp(path);
        CHECK(fd >= 0, "no temporary file");
        close(fd);
        GgufBuilder *b = gguf_builder(&e);
        FileOut o;
        size_t size;
        CHECK(b, "%s", e.msg);
        vocab_to_gguf(&v, b);
        CHECK(!out_open(&o, path, &e) && !gguf_begin(b, &o, &e) && !gguf_end(b, &o, &e) &&
            !out_commit(&o, &e),
              "%s", e.msg);
        CHECK(!read_file(path, 1 << 20, &file, &size, &e), "%s", e.msg);
        unlink(path);
        gguf_builder_free(b);
        vocab_free(&v);
        int usable = 0, refused = 0;
        for (size_t i = 0; i < 8 * size; i += 3) {
            char *copy = malloc(size);
            CHECK(copy, "memory");
            memcpy(copy, file, size);
            copy[i / 8] ^= (char)(1 << i % 8);
            Gguf g = {0};
            Vocab w = {0};
            Tokenizer *t = NULL;
            if (!gguf_parse(&g, copy, i % 7 ? size : i / 8, "flipped", &e) &&
                !vocab_from_gguf(&w, &g, &e))
                t = tokenizer_new(&w, &e);
            if (t) {
                static const char text[] = " abc <mask> a<user>\xC3\xA9\xFF <s>";
                int *ids = NULL;
                size_t n = 0;
                Decoder d = {0};
                CHECK(!tokenizer_encode(t, text, sizeof text - 1, true, true, &ids, &n, &e), "%s",
                    e.msg);
                for (size_t k = 0; k < n; k++) tokenizer_decode(t, &d, ids[k]);
                tokenizer_decode_end(t, &d);
                free(ids);
                usable++;
            } else {
                refused++;
            }
            tokenizer_free(t);
            vocab_free(&w);
            gguf_free(&g);
            free(copy);
        }
        free(file);
        CHECK(usable > 100 && refused > 50, "%d usable, %d refused", usable, refused);
    }
    return PASS;
}

// ---- long texts ---------------------------------------------------------------------------------

// A quarter of a megabyte of the same thing, and of anything: the quarter of a second that it may
// take here (more with a sanitizer) tells n log n from n^2.
static int long_texts(void) {
    enum { SIZE = 1 << 18 };
    static const char *const units[] = {"a", " ", "\n", "ab", "a ", "😀", "<", "<mask", "7", "'",
        "\xE4\xB8", "\x80"};
    char *text = malloc(SIZE + 8);
    CHECK(text, "memory");
    for (int round = 0; round < 6; round++) {
        Vocab v = make_kind(!round ? VOCAB_SPM : round < 5 ? VOCAB_BPE : VOCAB_WPM);
        bool wpm = v.kind == VOCAB_WPM;
        if (v.kind == VOCAB_BPE) v.pre = (PreTokenizer)(PRE_GPT2 + round - 1);
        Tokenizer *t = tokenizer_new(&v, NULL);
        CHECK(t, "round %d", round);
        for (int u = 0; u <= COUNT(units); u++) {
            size_t n = 0;
            uint64_t rng = 3;
            if (u == COUNT(units)) for (; n < SIZE; n++) text[n] = (char)random_u64(&rng);
            else for (size_t len = strlen(units[u]); n + len <= SIZE; n += len) memcpy(text + n,
                units[u], len);
            int *ids;
            size_t n_ids;
            double start = seconds();
            CHECK(!tokenizer_encode(t, text, n, true, true, &ids, &n_ids, NULL), "unit %d", u);
            double took = seconds() - start;
            free(ids);
            CHECK(took < 10, "round %d, unit %d: %.2f s", round, u, took);
            CHECK(wpm || n_ids > n / 8, "round %d, unit %d: %zu ids", round, u, n_ids);
            if (u < 10 && !wpm) CHECK(!differs(t, text, n, false), "round %d, unit %d does not come back",
                round, u);
        }
        tokenizer_free(t);
        vocab_free(&v);
    }
    free(text);
    return PASS;
}

// Random bytes, and random bytes among the vocabulary's own pieces: no crash, ids of the vocabulary.
static int random_bytes(void) {
    uint64_t rng = 17;
    for (int kind = 0; kind < N_KINDS; kind++) {
        Vocab v = make_kind(kind);
        Tokenizer *t = tokenizer_new(&v, NULL);
        CHECK(t, "kind %d", kind);
        for (int round = 0; round < 3000; round++) {
            char buffer[400], *text;
            size_t n = 0, n_ids = 0, room = random_u64(&rng) % 300;
            while (n < room) {
                uint64_t r = random_u64(&rng);
                if (r & 1) { buffer[n++] = (char)(r >> 8); continue; }
                Str p = v.piece[(r >> 8) % (uint64_t)v.n];
                if (p.n > room - n) break;
                if (p.n) memcpy(buffer + n, p.s, p.n);
                n += p.n;
            }
            int *ids = NULL;
            CHECK((text = malloc(n ? n : 1)), "memory");   // its end is where a sanitizer sees it
            memcpy(text, buffer, n);
            Decoder d = {.special = round & 1};
            CHECK(!tokenizer_encode(t, text, n, round & 1, round & 2, &ids, &n_ids, NULL), "%zu bytes", n);
            for (size_t i = 0; i < n_ids; i++) {
                CHECK(ids[i] >= 0 && ids[i] < v.n, "kind %d: id %d", kind, ids[i]);
                tokenizer_decode(t, &d, ids[i]);
            }
            tokenizer_decode_end(t, &d);
            free(ids);
            free(text);
        }
        tokenizer_free(t);
        vocab_free(&v);
    }
    return PASS;
}

// ---- published vocabularies ---------------------------------------------------------------------

static int from_file(const char *name, Gguf *g, Vocab *v, Tokenizer **t) {
    Err e;
    const char *path = data_path(name);
    if (!path) return SKIP;
    CHECK(!gguf_open(g, path, &e) && !vocab_from_gguf(v, g, &e) && (*t = tokenizer_new(v, &e)),
        "%s", e.msg);
    return PASS;
}

static int vectors(const char *vocab) {
    Gguf g;
    Vocab v;
    Tokenizer *t;
    int result = from_file(vocab, &g, &v, &t);
    if (result != PASS) return result;
    result = check_vectors(t, vocab, v.kind != VOCAB_WPM);
    const char *path = v.kind == VOCAB_WPM ? NULL : data_path("text/wikitext2-test.raw.txt");
    if (result == PASS && path) {
        char *text;
        size_t n;
        CHECK(!read_file(path, 1 << 28, &text, &n, NULL), "%s", path);
        CHECK(!differs(t, text, n, false), "%s does not come back", path);
        free(text);
    }
    tokenizer_free(t);
    vocab_free(&v);
    gguf_free(&g);
    return result;
}
static int vectors_spm(void) { return vectors("tokenizers/ggml-vocab-llama-spm.gguf"); }
static int vectors_gpt2(void) { return vectors("tokenizers/ggml-vocab-gpt-2.gguf"); }

static int vectors_bert(void) {
    int result = vectors("tokenizers/ggml-vocab-bert-bge.gguf");
    if (result != PASS) return result;
    Gguf g;
    Vocab v;
    Tokenizer *t;
    if (from_file("tokenizers/ggml-vocab-bert-bge.gguf", &g, &v, &t) != PASS) return FAIL;
    CHECK(v.bos == 101 && v.eos == 102 && v.unk == 100 && v.mask == 103 && v.add_bos && v.add_eos,
          "%d %d %d %d", v.bos, v.eos, v.unk, v.mask);
    const char *got = ids_of(t, "The capital of France is [MASK].", 32, true, true);
    CHECK(!strcmp(got, "1996 3007 1997 2605 2003 103 1012"), "%s", got);
    const int ids[] = {101, 1996, 3007, 1997, 2605, 2003, 3000, 1012, 102, -9};
    CHECK(!strcmp(stream(t, false, ids), "|the| capital| of| france| is| paris|.||"), "%s",
          stream(t, false, ids));
    tokenizer_free(t);
    vocab_free(&v);
    gguf_free(&g);
    return PASS;
}

static int refuses_files(void) {
    static const struct { const char *name, *says; } files[] = {
        {"malformed/gguf_vocab_byte_tok_neg.gguf", "tokenizer.ggml.scores is absent"},
        {"malformed/gguf_bos_out_of_range.gguf", "tokenizer.ggml"},
    };
    for (int i = 0; i < COUNT(files); i++) {
        const char *path = data_path(files[i].name);
        if (!path) return SKIP;
        Err e;
        Gguf g;
        Vocab v;
        CHECK(!gguf_open(&g, path, &e), "%s", e.msg);
        CHECK(vocab_from_gguf(&v, &g, &e) && strstr(e.msg, files[i].says), "%s: %s", files[i].name,
            e.msg);
        gguf_free(&g);
    }
    return PASS;
}

static const Test tests[] = {
    {"utf8", utf8}, {"classes", classes}, {"maps", maps}, {"alphabet", alphabet},
    {"encodes_wpm", encodes_wpm}, {"equals_definition_wpm", equals_definition_wpm},
    {"prefix_bpe", prefix_bpe}, {"decodes_wpm", decodes_wpm}, {"random_bytes", random_bytes},
    {"vectors_bert", vectors_bert},
    {"splits", splits},
    {"names", names}, {"encodes_spm", encodes_spm}, {"encodes_bpe", encodes_bpe},
    {"equals_definition", equals_definition}, {"decodes", decodes}, {"through_gguf", through_gguf},
    {"refuses", refuses}, {"bit_flips", bit_flips}, {"long_texts", long_texts},
    {"vectors_spm", vectors_spm}, {"vectors_gpt2", vectors_gpt2}, {"refuses_files", refuses_files},
};

int main(int argc, char **argv) { return run_tests("tokenizer", tests, COUNT(tests), argc, argv); }
