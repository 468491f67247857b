// tokenizer: bytes <-> ids. SentencePiece BPE (llama 2) and byte-level BPE (gpt-2, llama 3, qwen2,
// smollm). Knows no models and no file formats but GGUF's metadata; export/vocab.c reads the others
// into the same Vocab.
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include "core/words.h"

typedef enum { VOCAB_SPM, VOCAB_BPE } VocabKind;

// Token types as GGUF numbers them, and what added tokens do to the space beside them.
enum { TOK_NORMAL = 1, TOK_UNKNOWN, TOK_CONTROL, TOK_USER, TOK_UNUSED, TOK_BYTE };
enum { TOK_LSTRIP = 1, TOK_RSTRIP = 2 };

typedef struct {                  // what a vocabulary is, wherever it came from
    VocabKind kind;
    PreTokenizer pre;
    int n;
    const Str *piece;             // (n) as GGUF stores them (byte-level pieces in gpt-2's alphabet)
    float *score;                 // (n) SPM: higher merges first, -inf: never; NULL for BPE
    int32_t *type;                // (n)
    uint8_t *strip;               // (n)
    const Str *merge;             // (n_merges) BPE: "left right", best first
    int n_merges;
    int bos, eos, unk, eot;       // -1: none. eot: a second end of generation (<|eot_id|>)
    bool add_bos, add_eos, add_space_prefix, ignore_merges;
    Str chat_template;            // n = 0: none
    void *owned;                  // what a reader allocated by vocab_alloc
} Vocab;

int vocab_from_gguf(Vocab *v, const Gguf *g, Err *e);      // borrows the strings from g
void vocab_to_gguf(const Vocab *v, GgufBuilder *b);        // the same keys back
void *vocab_alloc(Vocab *v, size_t n, size_t size, const char *what, Err *e);  // zeroed; v owns it
void vocab_free(Vocab *v);
int byte_piece(Str piece);                                 // the byte of "<0x41>", -1 for others

typedef struct Tokenizer Tokenizer;
Tokenizer *tokenizer_new(const Vocab *v, Err *e);          // borrows v; NULL on a bad vocabulary
void tokenizer_free(Tokenizer *t);

// Ids of text (n bytes, any bytes), without BOS or EOS, in O(n log n). special: control tokens
// written in the text (<s>, <|im_end|>) become their ids; user-defined tokens always do. *ids is
// allocated (freed by free()), *n_ids set. first: the text begins a document, so that a space
// prefix, where the vocabulary has one, is put; so it is behind a control token in the text.
// Bytes that are no UTF-8 become byte tokens. The text is taken as it is, not normalised.
int tokenizer_encode(const Tokenizer *t, const char *text, size_t n, bool special, bool first,
                     int **ids, size_t *n_ids, Err *e);
int tokenizer_id(const Tokenizer *t, const char *piece);   // exact piece, -1 when there is none
bool tokenizer_ends(const Tokenizer *t, int id);           // end of generation: eos, eot, <|end…|>

// Ids back to text, streamed: whole UTF-8 characters only, the rest waits. Control tokens give
// nothing unless `special`. Bytes that no continuation can make valid become U+FFFD, as do NUL and
// the unknown token. started = false: the next piece begins a document, and loses its space prefix
// where the vocabulary has one. Set it to true to go on behind a prompt.
typedef struct { bool special, started; int n; unsigned char held[8]; } Decoder;
// Text that id completes, NUL-terminated, valid until the next call with this tokenizer.
const char *tokenizer_decode(Tokenizer *t, Decoder *d, int id);
const char *tokenizer_decode_end(Tokenizer *t, Decoder *d); // what was held back

#endif
