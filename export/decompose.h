// decompose: one attention group from matrices to the factors that are stored, and back; the order
// of rotary pairs. Numbers only: no files, no names.
#ifndef DECOMPOSE_H
#define DECOMPOSE_H

#include "../tucker.h"

// The parts of a group in the order they are stored. A group has a U_head and a U_kind only where
// they truncate, and either one mixed core or a core for each of its projections.
enum { PART_EMBD, PART_HEAD, PART_KIND, PART_MIXED, PART_CORE, N_PARTS = PART_CORE + 4 };

typedef struct {
    int set;                       // HAS_… bits
    int64_t rank[3];               // r_embd, r_head, r_kind
    bool weighted;                 // by data (compress.c): cores on one factor, not orthonormal
    bool pivoted;                  // the factor without its identity block
    double predicted;              // rise of the loss
} GroupPlan;
typedef struct {
    float *part[N_PARTS];          // row-major; NULL where there is none
    int32_t *pivot;                // (r_embd), where pivoted
} GroupParts;

// Shape of a part; false where the group has none. PART_CORE + p: the core of projection p.
bool part_shape(const AttnShape *s, const GroupPlan *g, int part, int64_t *rows, int64_t *cols);
void parts_free(GroupParts *p);

// The shape of W of projection p.
void projection_shape(const AttnShape *s, int p, int64_t *rows, int64_t *cols);

// Decomposes the group's W (those of its set are read, and freed as soon as they are), by HOSVD and
// at most `sweeps` sweeps of HOOI. error[p] = |W - W'| / |W| of every projection of the set.
int decompose_group(const AttnShape *s, const GroupPlan *g, float *w[4], int sweeps,
                    GroupParts *out, double error[4], Err *e);
// Multiplies group i of a back: w[p] allocated for every projection p of its set, freed by free().
int rebuild_group(const Attention *a, int i, float *w[4], Err *e);
// B A as floats, freed by free(); NULL when out of memory.
float *rebuild_product(const Mat *b, const Mat *a, Err *e);

// Rotary pairs stand in a head's first `dims` rows: interleaved (2i, 2i+1), half (i, i + dims/2).
// Row r of the new order (half, when to_half) is row pair_row(r) of the old.
int64_t pair_row(int64_t row, int64_t hd, int64_t dims, bool to_half);
// W (rows, cols) as floats, its rows in the other order where `reorder`; NULL when out of memory.
float *matrix(const Mat *w, int64_t hd, int64_t dims, bool reorder, bool to_half, Err *e);

#endif
