// tokenizer: bytes <-> ids. SentencePiece BPE (llama 2), byte-level BPE (gpt-2, gpt-j, roberta, llama
// 3, qwen2, smollm) and WordPiece (bert). Knows no models and no file formats: a Vocab is read by
// core/vocab.c from GGUF's metadata, by export/vocab.c from what is published.
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include "core/vocab.h"

typedef struct Tokenizer Tokenizer;
Tokenizer *tokenizer_new(const Vocab *v, Err *e);          // borrows v; NULL on a bad vocabulary
void tokenizer_free(Tokenizer *t);

// Ids of text (n bytes, any bytes), without BOS or EOS, in O(n log n). special: control tokens
// written in the text (<s>, <|im_end|>) become their ids; user-defined tokens always do. *ids is
// allocated (freed by free()), *n_ids set. first: the text begins a document, so that a space
// prefix, where the vocabulary has one, is put; so it is behind a control token in the text.
// The text is taken as it is, bytes that are no UTF-8 as byte tokens; but WordPiece normalises it
// (core/wordpiece.h), and what its pieces cannot write becomes the unknown token.
int tokenizer_encode(const Tokenizer *t, const char *text, size_t n, bool special, bool first,
                     int **ids, size_t *n_ids, Err *e);
int tokenizer_id(const Tokenizer *t, const char *piece);   // exact piece, -1 when there is none
bool tokenizer_ends(const Tokenizer *t, int id);           // end of generation: eos, eot, <|end…|>

// Ids back to text, streamed: whole UTF-8 characters only, the rest waits. Control tokens give
// nothing unless `special`. Bytes that no continuation can make valid become U+FFFD, as do NUL and
// the unknown token. started = false: the next piece begins a document, and loses its space prefix
// where SentencePiece has put one. Set it to true to go on behind a prompt. WordPiece's words come
// with a space between them, but none before . , ? and !; a text that begins within a word, with ##.
typedef struct { bool special, started; int n; unsigned char held[8]; } Decoder;
// Text that id completes, NUL-terminated, valid until the next call with this tokenizer.
const char *tokenizer_decode(Tokenizer *t, Decoder *d, int id);
const char *tokenizer_decode_end(Tokenizer *t, Decoder *d); // what was held back

#endif
