// refit: W_down of every layer solved anew for a model whose attention was compressed, so that it
// makes good a part of what the attention lost. Ridge least squares on a calibration text.
#ifndef REFIT_H
#define REFIT_H

#include "calibrate.h"

typedef struct {
    double ridge;                 // of the mean diagonal of E[h h^T], pulls towards the W_down that is there
    double feedback;              // part of the residual stream's error that W_down is asked to undo
    int type;                     // down is stored in it; later layers see it rounded so. -1: as it is
} RefitOptions;

// For layer l, h the input of W_down in the compressed model (f), x' its residual stream behind
// attention, x the dense model's, y = W_down h_dense:
//   min over W of  sum_t |W h - (y + feedback (x - x'))|^2 + ridge |W - W_down|^2
// layer by layer, each seeing the refitted ones before it; the first token of a window is left out.
// down (n_layers): each (d, f) floats, freed by free(); NULL where W_down is factored (LASER).
int refit_down(const Model *dense, const Model *compressed, const CalibText *t, RefitOptions o,
               float **down, Progress *progress, void *ctx, Err *e);

#endif
