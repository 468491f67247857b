// verify: a dense model and its compressed self side by side on a text, with the figures that
// llama.cpp's users know.
#ifndef VERIFY_H
#define VERIFY_H

#include "calibrate.h"

typedef struct {
    int64_t tokens;                       // scored
    double loss[2];                       // mean -log p of a and b, in nats
    double error[2];                      // standard errors of the two means
    double difference, difference_error;  // loss b - loss a, and its paired standard error
    double kl, kl_error;                  // mean KL(a || b) of the next-token distributions
    double kl_max, kl_median;
    double same_top;                      // share of tokens whose likeliest next token is the same
} Comparison;

// Both models see the windows of t; the first id of a window is not scored. b = NULL: a alone
// (loss[0], error[0], tokens; the rest is NAN). Models of different vocabularies are refused.
int compare_models(const Model *a, const Model *b, const CalibText *t, Comparison *c,
                   Progress *progress, void *ctx, Err *e);
void print_comparison(const Comparison *c, const char *text_name);   // to standard output

#endif
