// ranks: what to keep of every matrix when one budget holds for the whole model. Knows costs and
// losses only, no models: the least total loss at a given cost, or the least cost at a given loss.
//
// A slot is a place to fill (the attention of a layer, one matrix of its feed-forward). It can be
// filled in several ways (factors shared or not), each of a few parts (groups of matrices), each
// with options (ranks; dense). Losses and costs add up. Deterministic.
#ifndef RANKS_H
#define RANKS_H

#include "../core/util.h"

typedef struct { int64_t rank; double cost, loss; } RankOption;        // rank 0: left dense
typedef struct { const RankOption *option; int n, chosen; } RankPart;
typedef struct { RankPart *part; int n; } RankWay;
typedef struct { RankWay *way; int n, chosen; } RankSlot;

typedef struct { double cost, loss; } RankTotal;

// Chooses ways and options so that the cost is at most `cost` and the loss as small as a price per
// unit of cost (a Lagrange multiplier) and a greedy rest can make it: optimal up to the last step.
// -1 when even the cheapest choice, then *total, costs more.
int ranks_for_cost(RankSlot *slot, int n, double cost, RankTotal *total, Err *e);
// The cheapest choice found whose loss is at most `loss`. -1 when the best choice loses more.
int ranks_for_loss(RankSlot *slot, int n, double loss, RankTotal *total, Err *e);

// Options of a matrix (rows, cols) or a stack of matrices with this many rows in all: dense, at no
// loss, and every rank that is a multiple of `step`, costs less than dense, and is at most
// `n_values`. values: descending; leaving out the directions from r on loses half their sum.
// pivoted: r (rows + cols - r) numbers, and r below both, else r (rows + cols). A number of a factor
// costs `unit`, the dense matrix `dense`. *options is freed by free(). Returns how many, -1 when out
// of memory.
int rank_options(RankOption **options, int64_t rows, int64_t cols, const double *values,
                 int64_t n_values, bool pivoted, int64_t step, double unit, double dense, Err *e);

#endif
