// wordpiece: see wordpiece.h. The order of the steps is that of BERT's own tokenizer: clean, part
// Chinese, strip accents, lower case, then cut at what has come out.
#include "wordpiece.h"

#include "unicode.h"

static bool is_chinese(uint32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
           (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B81F) ||
           (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) ||
           (c >= 0x2F800 && c <= 0x2FA1F);
}

typedef struct { char *at; bool inside; } Words;       // inside: the next character goes on the word

static void put(Words *w, uint32_t c, bool alone) {
    if (unicode_class(c) == UC_SPACE) {
        w->inside = false;
        return;
    }
    alone |= unicode_kind(c) == UK_PUNCT;
    if (alone || !w->inside) *w->at++ = ' ';
    w->at += utf8_put(c, w->at);
    w->inside = !alone;
}

// Room: at most three times the bytes of a character go out (a mark of one byte with a space before
// it and one behind it, a Hangul syllable as three letters of three bytes), and one space at first.
size_t wordpiece_words(WordRules rules, const char *s, size_t n, char *out) {
    Words w = {out, false};
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t c, part[3], low[2];
        len = utf8_next(s + i, n - i, &c);
        if (!len) len = n - i;
        if (c == UTF8_BAD) c = 0xFFFD;
        if (rules.clean && unicode_kind(c) == UK_CONTROL) continue;
        bool alone = rules.chinese && is_chinese(c);
        size_t parts = 1;
        part[0] = c;
        if (rules.strip_accents) parts = unicode_strip(c, part);
        for (size_t k = 0; k < parts; k++) {
            low[0] = part[k];
            size_t lows = rules.lower ? unicode_lower(part[k], low) : 1;
            for (size_t j = 0; j < lows; j++) put(&w, low[j], alone);
        }
    }
    return (size_t)(w.at - out);
}
