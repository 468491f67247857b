// report: one self-contained HTML page about an export: inline SVG, no script, light and dark.
#ifndef REPORT_H
#define REPORT_H

#include "verify.h"

enum { R_Q, R_K, R_V, R_O, R_GATE, R_UP, R_DOWN, R_MATRICES };

typedef struct {                  // one matrix of a layer
    bool factored;
    int64_t rows, cols, rank;     // rank in use when factored
    double params[2], bytes[2];   // before, after
    double error;                 // |W - W'| / |W|
    double predicted;             // rise of the loss in nats; NAN: not predicted
    double tolerated;             // sensitivity: predicted rise at half of the parameters; NAN
    const double *spectrum;       // descending eigenvalues of what was decomposed; may be NULL
    int64_t n_spectrum;
} ReportMatrix;

typedef struct {
    char scheme[8];
    ReportMatrix matrix[R_MATRICES];
    struct { const double *value; int64_t n; } mode[3];   // plain Tucker: singular values of the
                                                          // modes embd, head, kind; n = 0: none
} ReportLayer;

typedef struct { double ratio, predicted, measured; } SweepPoint;   // ratio: attention before / after

typedef struct {
    const char *model, *source, *output, *command, *method, *calibration;
    int64_t n_layers;
    const ReportLayer *layer;
    double params[2], bytes[2];            // of the whole file, before and after
    double attention_params[2], attention_bytes[2];
    double predicted, measured;            // rise of the calibration loss; NAN: unknown
    const Comparison *verify;              // or NULL
    const char *verify_text;
    const SweepPoint *sweep;
    int n_sweep;
    double seconds;
} Report;

int report_write(const char *path, const Report *r, Err *e);   // written beside, then renamed

#endif
