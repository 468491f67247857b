// explain: what --explain is made of. explain.c draws what a layer's attention is stored as, path.c lists
// what one token costs in it, trace.c runs a text and looks inside.
#ifndef EXPLAIN_H
#define EXPLAIN_H

#include "page.h"
#include "tools.h"

#define NOTE(t, ...) snprintf((t)->note, sizeof (t)->note, __VA_ARGS__)
Ink ink_of(int p);                 // of projection p: Q, K, V, O
const char *letters_of(int set, const char *between, char out[16]);     // of a set: "QKV", "Q, K, V"
int64_t heads_of(const AttnShape *s, int p);
// W of projection p in the dense twin, without data: in the type of the cores that replace it (F16 where
// its rows do not fit that type's blocks), or as it is.
Mat twin_of(const Attention *a, int p);
void heading(Page *p, const char *text);

// ---- path.c: one token's way through a layer's attention, a step a row ---------------------------
// Bytes are those of matrices that are read, counted once: a matrix that two steps use, U_embd of Q and O
// as a rule, stands in the first. dense: of the step in the dense twin, the same layer without factors.
typedef struct {
    char what[48], out[40];        // the formula, the shape of what it makes
    char note[96];                 // what is to be said about it, "" as a rule
    Ink ink;
    Cost cost, dense;
    bool position;                 // once for each cached position that the token sees; else once
    bool again;                    // it reads what an earlier step has read
} Step;
enum { MAX_STEPS = 32 };
// The steps of decoding one token on cache c; how many. On a dense cache they are attention_cost, but for
// the bytes of an U_head that nothing uses; from latents M of K or V is applied for every query head.
int path_steps(const Model *m, int64_t layer, const Cache *c, Step step[MAX_STEPS]);
Cost path_sum(const Step *step, int n, bool position, bool dense);
void print_path(Page *p, const Model *m, int64_t layer, const Session *s, int64_t context);

// ---- trace.c: the same with a text running through it --------------------------------------------
enum { SHOWN = 24 };
// A length |x| on the way of token `focus`; where heads have parts of it (else heads = 0), from the shortest
// to the longest.
typedef struct { char name[24]; Ink ink; int64_t heads; double whole, least, most; } Length;
typedef struct {
    int64_t n, focus;              // tokens; the last one, or an encoder's first mask
    int64_t shown;                 // columns: each a token, or, of a long text, many tokens together
    int64_t begin[SHOWN + 1];      // column i is tokens begin[i] … begin[i + 1] - 1
    float *head;                   // (h, shown) softmax(q k^T / sqrt(hd)) of token focus
    float *map;                    // (shown, shown) means over the heads, a row a token; many: zeros
    Length length[16];
    int lengths;
    int best[5], likely;           // likeliest ids behind focus, or in its place; likely = 0: no head
    double chance[5];
} Trace;
// ids (n) through the model, cached dense in F32. Freed by trace_free. mask: its id, -1 for none; pieces:
// of the vocabulary, which may be fewer than the head has rows.
int trace_run(Trace *t, const Model *m, const int *ids, int64_t n, int64_t layer, int mask, int pieces,
              Err *e);
void trace_free(Trace *t);
int print_trace(Page *p, const Loaded *l, int64_t layer, Text text, Err *e);

#endif
