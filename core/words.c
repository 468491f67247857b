// words: see words.h. The regular expressions are written out as functions, each with its own above
// it; a fuzz comparison with the real ones is in tests/oracle_tokenizer.py.
#include "words.h"

#include <string.h>

#include "unicode.h"

// Names that files use for the same pre-tokenizer; the first of each is the one written.
static const struct { const char *name; PreTokenizer pre; } pre_names[] = {
    {"default", PRE_NONE},
    {"gpt-2", PRE_GPT2}, {"phi-2", PRE_GPT2}, {"roberta-bpe", PRE_GPT2}, {"jina-es", PRE_GPT2},
    {"jina-de", PRE_GPT2}, {"jina-v1-en", PRE_GPT2}, {"jina-v2-es", PRE_GPT2},
    {"jina-v2-de", PRE_GPT2}, {"jina-v2-code", PRE_GPT2}, {"gigachat", PRE_GPT2},
    {"a.x-4.0", PRE_GPT2}, {"mellum", PRE_GPT2}, {"modern-bert", PRE_GPT2}, {"olmo", PRE_GPT2},
    {"mpt", PRE_GPT2},
    {"llama-bpe", PRE_LLAMA3}, {"llama3", PRE_LLAMA3}, {"llama-v3", PRE_LLAMA3},
    {"falcon3", PRE_LLAMA3}, {"falcon-h1", PRE_LLAMA3}, {"pixtral", PRE_LLAMA3},
    {"midm-2.0", PRE_LLAMA3}, {"lfm2", PRE_LLAMA3},
    {"qwen2", PRE_QWEN2}, {"deepseek-r1-qwen", PRE_QWEN2}, {"kormo", PRE_QWEN2},
    {"stablelm2", PRE_QWEN2},
    {"smollm", PRE_SMOLLM}, {"starcoder", PRE_SMOLLM}, {"refact", PRE_SMOLLM},
    {"command-r", PRE_SMOLLM}, {"codeshell", PRE_SMOLLM},
};
enum { N_PRE_NAMES = sizeof pre_names / sizeof *pre_names };

const char *pre_name(PreTokenizer pre) {
    for (int i = 0; i < N_PRE_NAMES; i++)
        if (pre_names[i].pre == pre) return pre_names[i].name;
    return "";
}

int pre_by_name(Str name) {
    for (int i = 0; i < N_PRE_NAMES; i++)
        if (pre_names[i].pre && str_is(name, pre_names[i].name)) return pre_names[i].pre;
    return -1;
}

// ---- bytes as characters ------------------------------------------------------------------------

static bool visible(int b) { return (b > ' ' && b < 0x7F) || (b > 0xA0 && b != 0xAD); }

size_t to_alphabet(const char *s, size_t n, char *out) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        int b = (unsigned char)s[i], c = 0x100;
        if (visible(b)) c = b;
        else for (int j = 0; j < b; j++) c += !visible(j);
        k += utf8_put((uint32_t)c, out + k);
    }
    return k;
}

size_t from_alphabet(Str s, char *out) {
    // The 68 others are 0 .. 32, 127 .. 160 and 173, in this order.
    size_t n = 0, len;
    for (size_t i = 0; i < s.n; i += len) {
        uint32_t c;
        len = utf8_next(s.s + i, s.n - i, &c);
        if (!len || c >= 0x100 + 68 || (c < 0x100 && !visible((int)c))) return SIZE_MAX;
        if (c >= 0x100) c -= c < 0x121 ? 0x100 : c < 0x143 ? 0x121 - 127 : 0x143 - 173;
        out[n++] = (char)c;
    }
    return n;
}

// ---- the regular expressions --------------------------------------------------------------------
// What the pre-tokenizers' regular expressions match at s[i], i < n, as functions that return where
// the match ends. Where a regular expression tries one way after another, so do they.

enum { UC_END = -1 };              // the class of what is behind the last character
typedef struct { uint32_t cp; int class; size_t len; } Char;

static Char char_at(const char *s, size_t n, size_t i) {
    if (i >= n) return (Char){UTF8_BAD, UC_END, 0};
    Char c;
    c.len = utf8_next(s + i, n - i, &c.cp);
    if (!c.len) c.len = 1;
    c.class = unicode_class(c.cp);
    return c;
}

static size_t run_end(const char *s, size_t n, size_t i, int class) {
    for (Char c; (c = char_at(s, n, i)).class == class; ) i += c.len;
    return i;
}

//  's|'t|'re|'ve|'m|'ll|'d     any_case: (?i:...), to which U+017F, the long s, is an s
static size_t contraction(const char *s, size_t n, size_t i, bool any_case) {
    if (s[i] != '\'' || n - i < 2) return i;
    int fold = any_case ? 32 : 0, a = s[i + 1] | fold, b = n - i > 2 ? s[i + 2] | fold : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return i + 3;
    return any_case && n - i > 2 && !memcmp(s + i + 1, "\xC5\xBF", 2) ? i + 3 : i;
}

//  \s+(?!\S)|\s+     all of the white space, but not its last character where a word follows
static size_t spaces(const char *s, size_t n, size_t i) {
    size_t j = i, last = i;
    for (Char c; (c = char_at(s, n, j)).class == UC_SPACE; j += c.len) last = j;
    return j == n || last == i ? j : last;
}

//  's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
static size_t word_gpt2(const char *s, size_t n, size_t i) {
    size_t j = contraction(s, n, i, false);
    if (j > i) return j;
    j = i + (s[i] == ' ');
    int class = char_at(s, n, j).class;
    return class == UC_SPACE || class == UC_END ? spaces(s, n, i) : run_end(s, n, j, class);
}

//  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*
//  |\s*[\r\n]+|\s+(?!\S)|\s+     with 3 digits for llama 3, 1 for qwen2
static size_t word_llama3(const char *s, size_t n, size_t i, int digits) {
    size_t j = contraction(s, n, i, true), newline = 0;
    if (j > i) return j;
    Char c = char_at(s, n, i);
    if (c.class == UC_NUMBER) {
        for (j = i; digits-- > 0 && (c = char_at(s, n, j)).class == UC_NUMBER; ) j += c.len;
        return j;
    }
    j = i + (c.class == UC_LETTER || c.cp == '\r' || c.cp == '\n' ? 0 : c.len);
    if (char_at(s, n, j).class == UC_LETTER) return run_end(s, n, j, UC_LETTER);
    j = i + (s[i] == ' ');
    if (char_at(s, n, j).class == UC_OTHER) {
        j = run_end(s, n, j, UC_OTHER);
        while (j < n && (s[j] == '\r' || s[j] == '\n')) j++;
        return j;
    }
    for (j = i; (c = char_at(s, n, j)).class == UC_SPACE; ) {
        j += c.len;
        if (c.cp == '\r' || c.cp == '\n') newline = j;
    }
    return newline ? newline : spaces(s, n, i);
}

size_t word_end(PreTokenizer pre, const char *s, size_t n, size_t i) {
    switch (pre) {
    case PRE_LLAMA3: return word_llama3(s, n, i, 3);
    case PRE_QWEN2:  return word_llama3(s, n, i, 1);
    default:         return word_gpt2(s, n, i);
    }
}

size_t part_end(PreTokenizer pre, const char *s, size_t n, size_t i) {
    if (pre != PRE_SMOLLM) return n;
    Char c = char_at(s, n, i);
    if (c.class == UC_NUMBER) return i + c.len;
    while (c.class != UC_NUMBER && c.class != UC_END) c = char_at(s, n, i += c.len);
    return i;
}

size_t space_end(const char *s, size_t n, size_t i) { return run_end(s, n, i, UC_SPACE); }

size_t space_begin(const char *s, size_t from, size_t i) {
    while (i > from) {
        size_t k = i - 1;
        while (k > from && (s[k] & 0xC0) == 0x80) k--;
        Char c = char_at(s, i, k);
        if (c.class != UC_SPACE || c.len != i - k) break;
        i = k;
    }
    return i;
}
