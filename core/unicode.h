// unicode: UTF-8 read and written, the classes of code points that the pre-tokenizers' regular
// expressions speak of (Unicode 16.0), and what BERT's normalisation asks of a code point.
#ifndef UNICODE_H
#define UNICODE_H

#include <stddef.h>
#include <stdint.h>

// \p{L}, \p{N}, \s (the property White_Space); every other code point is UC_OTHER.
enum { UC_OTHER, UC_LETTER, UC_NUMBER, UC_SPACE };
int unicode_class(uint32_t cp);

// For WordPiece, with the categories, some older than Unicode 16.0, of the library that the models
// were made with. Marks: nonspacing (Mn); punctuation: P and ASCII's signs; control: Cc without
// \t \n \r, Cf, Co, U+FFFD. No code point is two of them.
enum { UK_OTHER, UK_MARK, UK_PUNCT, UK_CONTROL };
int unicode_kind(uint32_t cp);
size_t unicode_lower(uint32_t cp, uint32_t out[2]);    // lower case: 1 or 2 code points
// The canonical decomposition without its marks: 0 to 3 code points. Hangul gives its letters.
size_t unicode_strip(uint32_t cp, uint32_t out[3]);

enum { UTF8_BAD = 0xFFFFFFFF };    // a code point that is none

// Reads one code point at s (n >= 1 bytes) and returns how many bytes it takes. *cp = UTF8_BAD for
// bytes that no continuation can make valid, taken together as far as they began a character
// (Unicode's "maximal subpart"). Returns 0 where the bytes end within a character.
size_t utf8_next(const char *s, size_t n, uint32_t *cp);
size_t utf8_put(uint32_t cp, char *out);   // writes 1 to 4 bytes; cp <= 0x10FFFF

#endif
