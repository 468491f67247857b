// words: what byte-level BPE does to text before anything is merged: its bytes get characters, and
// a regular expression (the "pre-tokenizer") cuts it into words. Knows no vocabulary.
#ifndef WORDS_H
#define WORDS_H

#include "gguf.h"

// smollm first cuts out every \p{N}, then does as gpt-2 with what stands between.
typedef enum { PRE_NONE, PRE_GPT2, PRE_LLAMA3, PRE_QWEN2, PRE_SMOLLM } PreTokenizer;
const char *pre_name(PreTokenizer pre);                    // as in tokenizer.ggml.pre
int pre_by_name(Str name);                                 // aliases too; -1 when not supported

// The text s (n bytes) is cut into parts, and each part into words. part_end: where the part that
// begins at i < n ends; n but for smollm. word_end: where the word that begins at i ends, s + n
// being the end of its part. Any bytes may come; invalid UTF-8 is like punctuation.
size_t part_end(PreTokenizer pre, const char *s, size_t n, size_t i);
size_t word_end(PreTokenizer pre, const char *s, size_t n, size_t i);
size_t space_end(const char *s, size_t n, size_t i);       // of the white space that begins at i
size_t space_begin(const char *s, size_t from, size_t i);  // of that which ends at i

// GPT-2 writes each byte as a visible character: those that are so in Latin-1 as themselves, the
// 68 others, in order, from U+0100: a space is U+0120. Returns the bytes written, at most 2 n.
size_t to_alphabet(const char *s, size_t n, char *out);
size_t from_alphabet(Str s, char *out);    // at most s.n bytes; SIZE_MAX for other text

#endif
