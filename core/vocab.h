// vocab: what a vocabulary is, wherever it came from, and how it stands in GGUF's metadata.
// export/vocab.c reads the other published forms into the same struct. Encodes nothing.
#ifndef VOCAB_H
#define VOCAB_H

#include "wordpiece.h"
#include "words.h"

typedef enum { VOCAB_SPM, VOCAB_BPE, VOCAB_WPM } VocabKind;    // WPM: WordPiece

// Token types as GGUF numbers them, and what added tokens do to the space beside them.
enum { TOK_NORMAL = 1, TOK_UNKNOWN, TOK_CONTROL, TOK_USER, TOK_UNUSED, TOK_BYTE };
enum { TOK_LSTRIP = 1, TOK_RSTRIP = 2 };

typedef struct {
    VocabKind kind;
    PreTokenizer pre;
    int n;
    const Str *piece;             // (n) as GGUF stores them: byte-level pieces in gpt-2's alphabet, of
                                  // WordPiece's those that begin a word with U+2581 before them
    float *score;                 // (n) SPM: higher merges first, -inf: never; else NULL
    int32_t *type;                // (n)
    uint8_t *strip;               // (n)
    const Str *merge;             // (n_merges) BPE: "left right", best first
    int n_merges;
    int bos, eos, unk, eot, mask; // -1: none. eot: a second end of generation (<|eot_id|>). BERT's
                                  // [CLS] and [SEP] are bos and eos
    bool add_bos, add_eos;        // around every text
    bool add_space_prefix;        // SPM: before a text; BPE: before one that begins with no space
    bool ignore_merges;
    WordRules rules;              // WPM
    Str chat_template;            // n = 0: none
    void *owned;                  // what a reader allocated by vocab_alloc
} Vocab;

int vocab_from_gguf(Vocab *v, const Gguf *g, Err *e);      // borrows the strings from g
void vocab_to_gguf(const Vocab *v, GgufBuilder *b);        // the same keys back
void *vocab_alloc(Vocab *v, size_t n, size_t size, const char *what, Err *e);  // zeroed; v owns it
void vocab_free(Vocab *v);
int byte_piece(Str piece);                                 // the byte of "<0x41>", -1 for others

#endif
