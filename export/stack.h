// stack: TRAWL on a model's layers. Which matrices form a tensor, at which rank, and their
// approximations. The file keeps them as dense matrices: TRAWL changes weights, not their storage.
#ifndef STACK_H
#define STACK_H

#include "../model.h"

// Matrices of a layer in a stack's order; all have the shape of the first, O and down transposed.
// attn: W_Q, W_O^T and, where every head has its own, W_K, W_V. ffn: gate, up, down^T.
typedef struct {
    bool attn;
    int first, last;               // layers
    bool cp;                       // else Tucker
    int64_t n[3], rank[3];         // rows, cols, matrices; CP: rank[0] alone
    double params[2], error;       // before, after (as factors); |T - T'| / |T|, when made
    double *t;                     // (rows, cols, matrices), when made
} Stack;

// "ffn:20-25/2:cp:0.5,attn:…": part, layers in stacks of so many (without /K all of the range), cp or
// tucker, part of the parameters that the factors keep. *stacks is freed by stacks_free.
int stacks_parse(const char *text, const Model *m, Stack **stacks, int *n, Err *e);
void stacks_free(Stack *stacks, int n);
// The stack that holds a matrix, by its name in a layer ("attn_q.weight"), or -1.
int stack_of(const Stack *stacks, int n, const Model *m, int layer, const char *part);
int stack_make(Stack *s, const Model *m, Err *e);
// The approximation of a matrix of a made stack, (rows, cols) as the model has it, freed by free().
float *stack_matrix(const Stack *s, const Model *m, int layer, const char *part, Err *e);

#endif
