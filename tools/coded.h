// coded: a benchmark item in the ids of one model's vocabulary. coded.c knows how prompts and answers
// are joined and where the answer begins; it computes nothing.
#ifndef CODED_H
#define CODED_H

#include "tasks.h"
#include "tools.h"

typedef struct { int *id; int64_t n; } Ids;

// Decoders: `whole` is the prompt and the answer (or a choice) as one string, with the vocabulary's
// BOS. Encoders: prompt holds masks, between BOS and EOS; `whole` is what stands before the masks, and
// the answer, without either.
typedef struct {
    Ids prompt;
    Ids *whole;                // (n)
    int64_t *from;             // (n) where in it the answer begins
    int *next;                 // (n) ITEM_NEXT, in place of these: each choice's first token
    int n;
} Coded;

// *need: positions that the item takes, new_tokens being what an item generates that does not say.
// coded_free is due in any case.
int code_item(Coded *c, const Loaded *l, const Item *it, int64_t new_tokens, int64_t *need, Err *e);
void coded_free(Coded *c);

int64_t ids_common(const int *a, int64_t na, const int *b, int64_t nb);      // equal ones at the front
// Text of ids: alone, with the control tokens among them; or as they go on behind others, without.
// NULL: no memory. Caller frees.
char *ids_text(const Loaded *l, const int *ids, int64_t n, bool alone, Err *e);

#endif
