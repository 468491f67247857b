// Tests of core/wordpiece and of the tables it asks core/unicode: kinds of code points, lower case,
// decompositions, the words of a text. (Ids are test_tokenizer's.)
#include "test.h"
#include "../core/unicode.h"
#include "../core/util.h"
#include "../core/wordpiece.h"

static int kinds(void) {
    static const struct { uint32_t cp; int kind; } at[] = {
        {'a', UK_OTHER}, {' ', UK_OTHER}, {'$', UK_PUNCT}, {'~', UK_PUNCT}, {'_', UK_PUNCT}, {'\t', UK_OTHER},
        {0, UK_CONTROL}, {7, UK_CONTROL}, {0x7F, UK_CONTROL}, {0x85, UK_CONTROL}, {0xA0, UK_OTHER},
        {0xAD, UK_CONTROL}, {0xBF, UK_PUNCT}, {0xD7, UK_OTHER}, {0x301, UK_MARK}, {0x903, UK_OTHER},
        {0x200D, UK_CONTROL}, {0x2014, UK_PUNCT}, {0x20AC, UK_OTHER}, {0x3002, UK_PUNCT},
        {0xE000, UK_CONTROL}, {0xFE0F, UK_MARK}, {0xFEFF, UK_CONTROL}, {0xFFFD, UK_CONTROL},
        {0x1F600, UK_OTHER},
        {0x10FFFD, UK_CONTROL}, {UTF8_BAD, UK_CONTROL},
    };
    for (int i = 0; i < COUNT(at); i++)
        CHECK(unicode_kind(at[i].cp) == at[i].kind, "U+%04X: %d", at[i].cp, unicode_kind(at[i].cp));
    static const struct { uint32_t cp; size_t n; uint32_t to[3]; } strips[] = {
        {'a', 1, {'a'}}, {0xC9, 1, {'E'}}, {0xE7, 1, {'c'}}, {0xF8, 1, {0xF8}}, {0x301, 0, {0}},
        {0x1EA4, 1, {'A'}}, {0x37E, 1, {';'}}, {0x1FEF, 1, {'`'}}, {0xAC00, 2, {0x1100, 0x1161}},
        {0xD7A3, 3, {0x1112, 0x1175, 0x11C2}}, {0x9CB, 2, {0x9C7, 0x9BE}}, {0xF900, 1, {0x8C48}},
        {0x1D160, 3, {0x1D158, 0x1D165, 0x1D16E}}, {0x2FA1D, 1, {0x2A600}}, {0x2FA1E, 1, {0x2FA1E}},
        {0x10FFFF, 1, {0x10FFFF}},
    };
    for (int i = 0; i < COUNT(strips); i++) {
        uint32_t out[3] = {0};
        size_t n = unicode_strip(strips[i].cp, out);
        CHECK(n == strips[i].n && !memcmp(out, strips[i].to, n * sizeof *out), "U+%04X: %zu, U+%04X",
              strips[i].cp, n, out[0]);
    }
    static const uint32_t lower[][2] = {{'Z', 'z'}, {'[', '['}, {0xC0, 0xE0}, {0xD7, 0xD7}, {0x100, 0x101},
        {0x101, 0x101}, {0x178, 0xFF}, {0x1E9E, 0xDF}, {0x3A3, 0x3C3}, {0x212A, 'k'}, {0x2160, 0x2170},
        {0x10400, 0x10428}, {0x1E921, 0x1E943}, {0x10FFFF, 0x10FFFF}};
    for (int i = 0; i < COUNT(lower); i++) {
        uint32_t out[2];
        CHECK(unicode_lower(lower[i][0], out) == 1 && out[0] == lower[i][1], "U+%04X: U+%04X", lower[i][0],
              out[0]);
    }
    // All of them, to what the library has: how many, and no output longer than it may be.
    int kind[4] = {0}, stripped = 0, lowered = 0;
    for (uint32_t c = 0; c < 0x110000; c++) {
        if (c >= 0xD800 && c < 0xE000) continue;
        uint32_t out[3] = {0}, low[2];
        kind[unicode_kind(c)]++;
        size_t n = unicode_strip(c, out);
        stripped += n != 1 || out[0] != c;
        lowered += unicode_lower(c, low) != 1 || low[0] != c;
        CHECK((n == 0) == (unicode_kind(c) == UK_MARK), "U+%04X: %zu", c, n);
    }
    CHECK(kind[UK_MARK] == 1567 && kind[UK_PUNCT] == 726 && kind[UK_CONTROL] == 137681, "%d marks, %d "
          "punctuation, %d control", kind[UK_MARK], kind[UK_PUNCT], kind[UK_CONTROL]);
    CHECK(stripped == 1567 + 42 + 2000 + 11172 && lowered == 1488, "%d, %d", stripped, lowered);
    return PASS;
}

static int words(void) {
    static const WordRules uncased = {true, true, true, true}, none = {false, false, false, false};
    static const struct { WordRules rules; const char *text, *words; } cases[] = {
        {{true, true, true, true}, "H\xC3\xA9llo,  it's", " hello , it ' s"},
        {{true, true, true, false}, "H\xC3\xA9llo", " Hello"},
        {{true, true, false, true}, "H\xC3\x89", " h\xC3\xA9"},
        {{true, true, true, true}, "", ""}, {{true, true, true, true}, " \t\n", ""},
        {{true, true, true, true}, "a\xE4\xB8\xADZ", " a \xE4\xB8\xAD z"},
        {{true, false, true, true}, "a\xE4\xB8\xADZ", " a\xE4\xB8\xADz"},
        {{true, true, true, true}, "a\x07\xE2\x80\x8D\xEF\xBF\xBD\xFF" "b", " ab"},
        {{false, false, false, false}, "a\x07\xFF" "b", " a\x07\xEF\xBF\xBD" "b"},
        {{true, true, true, true}, "\xC4\xB0", " i"},                   // I with a dot
        {{true, true, false, true}, "\xC4\xB0", " i\xCC\x87"},
        {{true, true, true, true}, "\xCE\x91\xCE\xA3", " \xCE\xB1\xCF\x83"},     // no final sigma
        {{true, true, true, true}, "\xED\x95\x9C", " \xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB"},
        {{true, true, true, true}, "a\xC2\x85" "b\xC2\xA0" "c", " ab c"},
        {{false, true, true, true}, "a\xC2\x85" "b", " a b"},
        {{true, true, true, true}, "$1.5-x_y", " $ 1 . 5 - x _ y"},
        {{true, true, true, true}, "a\xCC\x81\xCC\x82", " a"}, {{true, true, true, true}, "\xCC\x81", ""},
        {{true, true, true, true}, "\xEF\xA4\x80", " \xE8\xB1\x88"},      // CJK compatibility
    };
    char out[256];
    for (int i = 0; i < COUNT(cases); i++) {
        size_t n = wordpiece_words(cases[i].rules, cases[i].text, strlen(cases[i].text), out);
        size_t want = strlen(cases[i].words);
        CHECK(n == want && !memcmp(out, cases[i].words, n), "case %d: '%.*s', expected '%s'",
              i, (int)n, out, cases[i].words);
    }
    // The room is never left: texts of random characters of all lengths, in memory of that size.
    static const char *const bits[] = {"!", "\xED\x95\x9C", "\xC4\xB0", "\xE4\xB8\xAD", "a", " ", "\xFF",
        "\xF0\x9D\x85\xA0", "\xC8\xBA", "\xEA\xB0\x80"};
    uint64_t rng = 5;
    for (int round = 0; round < 2000; round++) {
        char text[64];
        size_t n = 0;
        for (int k = (int)(random_u64(&rng) % 10); k > 0; k--) {
            const char *bit = bits[random_u64(&rng) % (uint64_t)(round < 500 ? 2 : COUNT(bits))];
            memcpy(text + n, bit, strlen(bit));
            n += strlen(bit);
        }
        char *room = malloc(WORDS_ROOM(n));
        CHECK(room, "memory");
        size_t wrote = wordpiece_words(round & 1 ? uncased : none, text, n, room);
        free(room);
        CHECK(wrote <= WORDS_ROOM(n), "%zu bytes of %zu", wrote, n);
    }
    return PASS;
}

static const Test tests[] = { {"kinds", kinds}, {"words", words} };

int main(int argc, char **argv) { return run_tests("wordpiece", tests, COUNT(tests), argc, argv); }
