// strmap: finds strings of an array by their bytes: a hash table of indices, open addressing. Owns
// the table, not the strings. Knows nothing of what they are.
#ifndef STRMAP_H
#define STRMAP_H

#include "gguf.h"

typedef struct { const Str *text; int *slot; size_t mask; } StrMap;

int strmap_new(StrMap *m, const Str *text, size_t n, const char *what, Err *e);  // room for n adds
void strmap_free(StrMap *m);
int strmap_add(StrMap *m, int i);          // text[i]; returns i, or an equal one's index
int strmap_find(const StrMap *m, const char *s, size_t n);      // its index, -1: none

uint64_t mix_bits(uint64_t h);             // spreads a key's bits, for tables of other things
size_t table_size(size_t n);               // a power of two that n entries fill at most by 2/3

#endif
