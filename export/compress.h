// compress: the methods that are weighted by data. From a model and its moments to spectra, from
// spectra and a budget to ranks, and from a rank to the factors of a group. Reads no files.
#ifndef COMPRESS_H
#define COMPRESS_H

#include "plan.h"
#include "ranks.h"

typedef struct { double *values; int64_t n; } Spectrum;       // descending
typedef struct { Spectrum group[16], ffn[N_FFN]; } LayerSpectra;   // group: by set of projections

struct Compression {
    const Options *o;
    const Model *model;
    const Moments *moments;        // NULL: nothing is weighted (LASER with a plain method)
    const CalibText *text;         // what the moments are of, or NULL
    bool *chosen;                  // (n_layers) layers that may be factored
    LayerSpectra *layer;
    float **down;                  // (n_layers) refitted W_down to be stored, borrowed; or NULL
};

// What the options ask to be measured: WANT_… bits. 0: no calibration at all.
int moments_wanted(const Options *o);
// Spectra of every group and matrix that the options leave open. What is pointed at must outlive c.
int compression_init(Compression *c, const Options *o, const Model *m, const Moments *moments,
                     const CalibText *text, Progress *progress, void *ctx, Err *e);
void compression_free(Compression *c);

// Ranks of all layers within a budget: `keep` of the numbers of what may be factored; or, when size > 0,
// the bytes of a file of which all else takes `rest`; or, when loss > 0, the fewest numbers whose predicted
// loss is at most that; or, when rank > 0, that rank for every part. Methods without gradients have no common
// measure of loss: every part gets the same rank, O twice that. Sets groups, ranks and predictions of layer
// (n_layers); *spent: what was chosen costs, in bytes when size > 0, else in numbers, and loses.
typedef struct { double keep, size, rest, loss; int64_t rank; } Budget;
int compression_ranks(const Compression *c, Budget b, LayerPlan *layer, RankTotal *spent, Err *e);

// The factors of a group, and of a matrix of the feed-forward, W ~ B A, at the planned rank.
int compression_group(const Compression *c, int layer, const GroupPlan *g, GroupParts *out,
                      double error[4], Err *e);
int compression_ffn(const Compression *c, int layer, int matrix, int64_t rank, float **a, float **b,
                    double *error, Err *e);

#endif
