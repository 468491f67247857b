// tasks: benchmark items. items.c reads them and compares texts, score.c makes figures of what came of
// them; neither knows a model. tasks.c runs models over them.
#ifndef TASKS_H
#define TASKS_H

#include "../core/util.h"

// One line of the file: a prompt, and an answer to be generated, or choices of which one is right.
typedef enum { ITEM_ANSWER, ITEM_CHOICES, ITEM_NEXT } ItemKind;  // NEXT: choices by one token's probability
typedef struct {
    ItemKind kind;
    char *id;                  // as JSON, NULL: none
    char *prompt;
    char **text;               // (n) the answer (n = 1), or the choices
    int n, gold;
    int64_t new_tokens;        // to generate at most; 0: not said
    int64_t line;              // of the file, from 1
} Item;

typedef struct { const char *path; Item *item; int64_t n; } Items;

// The first `limit` items (0: all) of a file of JSON lines; empty lines are skipped, members that
// are not known here are ignored, everything else that does not fit is refused by file and line.
int items_read(Items *items, const char *path, int64_t limit, Err *e);
void items_free(Items *items);

// Whether text holds answer: both in lower case (each code point by itself), the answer without
// the white space around it. -1: no memory.
int text_holds(const char *text, const char *answer, Err *e);
// Whether two texts are the same but for case and the white space around them. -1: no memory.
int text_same(const char *a, const char *b, Err *e);
// "prompt text", joined by one space unless there is white space already. NULL: no memory. Caller frees.
char *text_join(const char *prompt, const char *text, Err *e);
int64_t text_length(const char *s);            // code points
void put_json(FILE *f, const char *s);         // s, which is UTF-8, as a JSON string

// Mean of x (n >= 1) and its standard error: sqrt(sum (x - mean)^2 / (n - 1) / n), 0 for n = 1.
typedef struct { double mean, error; int64_t n; } Estimate;
Estimate estimate(const double *x, int64_t n);

// McNemar's test of two paired rates: `first` items are right only in the first, `second` only in the
// second. p is two-sided: exact (binomial) for fewer than 25 such items, else from chi2 =
// (|first - second| - 1)^2 / (first + second), which the continuity correction has made smaller.
typedef struct { int64_t first, second; bool exact; double chi2, p; } McNemar;
McNemar mcnemar(int64_t first, int64_t second);

// What a model made of an item.
typedef struct {
    bool right;                // an answer: it stands in prompt and continuation together, as LASER
                               // counts; choices: the likeliest is gold
    bool strict;               // an answer: it stands in the continuation; choices: the likeliest
                               // per character is gold
    double loss;               // -log p a token of the answer, of gold
    int chosen;                // of the choices
    double *log_p;             // (n) of each choice
    char *text;                // generated
} Outcome;

// From log_p: chosen, right, strict and loss. tokens: that gold's loss is divided by.
void judge_next(const Item *it, Outcome *o);
void judge_choices(const Item *it, int64_t tokens, Outcome *o);
int judge_answer(const Item *it, Outcome *o, Err *e);      // from text: right and strict

void outcomes_free(Outcome *o, int64_t n);     // and o itself, which may be NULL
// Accuracy, loss and what else the items have, with standard errors; and how a's differ from b's item
// by item. x (items->n) is room. Outcomes stand in the order of the items.
void print_figures(const Items *items, const Outcome *o, double *x);
void print_difference(const Items *items, const Outcome *a, const Outcome *b, double *x);
// A JSON line an item; b, if not NULL, stands in "against".
int write_outcomes(FileOut *out, const Items *items, const Outcome *a, const Outcome *b, Err *e);

#endif
