// wordpiece: what BERT's tokenizer does to text before pieces are looked up: it is cleaned, stripped
// of accents, put in lower case and cut into words. Knows no vocabulary.
#ifndef WORDPIECE_H
#define WORDPIECE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {                   // of a vocabulary; BERT's uncased ones have all four
    bool clean;                    // control characters, U+FFFD and what is no UTF-8 vanish
    bool chinese;                  // every Chinese character is a word
    bool strip_accents;            // canonical decomposition without nonspacing marks
    bool lower;
} WordRules;

// The words of s (n bytes), each with one space before it: "Héllo,  it's" becomes " hello , it ' s".
// White space parts words; every punctuation mark is one.
// Returns the bytes written, at most WORDS_ROOM(n).
size_t wordpiece_words(WordRules rules, const char *s, size_t n, char *out);
#define WORDS_ROOM(n) (3 * (n) + 1)

#endif
