// plan: what an exported file will hold, known in full before its first byte is written: schemes
// and ranks of the layers, every tensor with its type and where its numbers come from, metadata.
#ifndef PLAN_H
#define PLAN_H

#include "../model.h"
#include "decompose.h"
#include "source.h"

typedef struct {
    const char *source, *out, *tokenizer;
    const char *scheme, *layers;   // as on the command line: "qkv+o"; "all", "10-29", "7,8,25"
    int64_t rank[3];               // r_embd, r_head, r_kind; 0 for r_embd: by `keep`; others: full
    double keep;                   // part of the attention parameters that stays, (0, 1]
    int type;                      // of stored matrices; -1: as in the source
    int sweeps;                    // of HOOI; 0: HOSVD alone
    bool dense, rebuild;           // no factors: convert; multiply the factors of a .tbin back
} Options;

typedef struct {
    GroupPlan group[4];
    int n_groups;                  // 0: the layer stays dense
    double error[4];               // of Q, K, V, O, set when the layer has been decomposed
} LayerPlan;

// One tensor of the output. src: it is copied, with its type or row order changed. Else it comes
// from group `group` of its layer: part `part`, or, rebuilt, projection p for PART_CORE + p.
typedef struct {
    char name[GGUF_MAX_NAME];
    const GgufTensor *src;
    int type, n_dims, layer, group, part;      // layer: -1 for those of no layer
    int64_t rows, cols;
    bool reorder;                  // rows go to the other order of rotary pairs
} Item;

typedef struct {
    Options o;
    const Source *source;
    const Model *model;
    const AttnShape *shape;
    int n_layers;
    LayerPlan *layer;
    Item *item;                    // those of no layer, then layer by layer
    size_t n_items;
    GgufBuilder *b;                // the output's index
    bool to_half, reorder;         // order of rotary pairs written; whether it is another than read
    char notes[2048];              // lines for the user: what could not be done as asked
} Plan;

// o and the source must outlive the plan.
int plan_make(Plan *p, const Options *o, const Source *s, const Model *m, Err *e);
void plan_free(Plan *p);
size_t item_bytes(const Item *i);
// The scheme of a layer as it is stored: "qkv+o"; "" for a dense one.
void scheme_text(const LayerPlan *l, char text[8]);

// write.c: everything planned, to a file just opened; sets the errors in p->layer. progress may be
// NULL; it is called before each layer and after the last.
int plan_write(Plan *p, FileOut *out, void (*progress)(int done, int total), Err *e);

// report.c: the table on standard output, after the file is written.
void report(const Plan *p, double took);

#endif
