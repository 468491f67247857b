// calibrate: what a model's projections see. A text of token ids, read or written by the model
// itself, and the second moments of activations and gradients over it, streamed window by window.
#ifndef CALIBRATE_H
#define CALIBRATE_H

#include "../model.h"
#include "../tokenizer.h"

// text.c. A calibration text: `count` windows of `window` ids each, laid back to back. A window begins with
// BOS where the tokenizer adds one. Owned; freed by calib_free.
typedef struct {
    int *ids;                 // (count, window)
    int64_t count, window;
    char sha256[65];          // of the ids as little-endian i32, hex
} CalibText;

typedef void Progress(void *ctx, const char *what, double done, double total);

// At most `tokens` ids of a text file, in whole windows spread evenly over the file.
int calib_file(CalibText *t, const char *path, Tokenizer *tok, const Vocab *v, int64_t tokens,
               int64_t window, Err *e);
// Its first `count` windows (0: all), one behind the other: as perplexities are measured.
int calib_windows(CalibText *t, const char *path, Tokenizer *tok, const Vocab *v, int64_t count,
                  int64_t window, Err *e);
// `tokens` ids that the model writes itself, in whole windows: many short samples from varied
// starts, see text.c for the settings. Windows are written side by side, in shared batches; the text
// depends neither on their number nor on the threads'.
int calib_self(CalibText *t, const Model *m, const Vocab *v, int64_t tokens, int64_t window,
               uint64_t seed, Progress *progress, void *ctx, Err *e);
int calib_join(CalibText *t, const CalibText *more, Err *e);   // appends; the windows are of one size
void calib_free(CalibText *t);

// Second moments of one layer, in double precision, full symmetric matrices; NULL what was not wanted.
typedef struct {
    double *x;                // (d, d)         E[x x^T]: what W_Q, W_K, W_V see
    double *o;                // (h*hd, h*hd)   what W_O sees
    double *ffn;              // (d, d)         what gate and up see
    double *down;             // (f, f)         what down sees
    double *kl[2];            // attention-KL metric of Q (h, hd, hd) and K (n_kv, hd, hd)
    double *g[4];             // E[g g^T], g the loss's gradient at the output (before positions) of
                              // Q (h*hd, h*hd), K, V (n_kv*hd, n_kv*hd), O (d, d)
    double *g_gate, *g_up;    // (f) E[g^2] at the outputs of gate and up
    double *g_down;           // (d, d)         at the output of down
} LayerMoments;

enum { WANT_X = 1, WANT_O = 2, WANT_FFN = 4, WANT_DOWN = 8, WANT_KL = 16, WANT_FISHER = 32 };

typedef struct {
    LayerMoments *layer;      // (n_layers)
    int64_t n_layers, tokens; // tokens seen
    double loss;              // mean -log p of the text's scored tokens (WANT_FISHER only)
} Moments;

// 0 for a model of which these can be had (an encoder has no gradients); else -1 and a hint.
int calib_supported(const Config *c, int want, Err *e);
// Bytes that the moments of a model take.
double moments_bytes(const Config *c, int want);
// Runs the dense model over the text. Gradients are of the sum of -log p over a window's tokens, so
// that 1/2 tr(G dW C dW^T), G = E[g g^T], C = E[x x^T], predicts the rise of the mean loss.
// The attention-KL metric is of at most 16 windows (it settles early).
int moments_collect(Moments *m, const Model *model, const CalibText *t, int want,
                    Progress *progress, void *ctx, Err *e);
void moments_free(Moments *m);

// gradient.c: the backward pass of one window, behind a forward pass that it makes itself (batch =
// window, f32 cache) and observes. Weights in any stored type.
typedef struct {              // of one layer; (n, …) rows a token
    const float *x, *o, *ffn, *down;                  // inputs: (n, d) (n, h*hd) (n, d) (n, f)
    const float *q, *k;                               // with positions (n, h*hd) (n, n_kv*hd)
    const float *gq, *gk, *gv, *go;                   // gradients at outputs of W_Q, W_K (before norms
                                                      // and positions), W_V, W_O
    const float *g_gate, *g_up, *g_down;              // (n, f) (n, f) (n, d)
} LayerGradient;
typedef void GradientSink(void *ctx, int64_t layer, const LayerGradient *g, int64_t n);
typedef struct Gradient Gradient;
Gradient *gradient_new(const Model *m, int64_t window, Err *e);
// Calls sink for every layer, last first. loss: sum of -log p of ids[1 .. n-1].
int gradient_window(Gradient *g, const int *ids, int64_t n, double *loss, GradientSink *sink,
                    void *ctx, Err *e);
void gradient_free(Gradient *g);

#endif
