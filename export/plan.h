// plan: what an exported file will hold, known in full before its first byte is written: schemes
// and ranks of the layers, every tensor with its type and where its numbers come from, metadata.
#ifndef PLAN_H
#define PLAN_H

#include "calibrate.h"
#include "decompose.h"
#include "source.h"
#include "stack.h"

typedef struct Compression Compression;        // compress.h

typedef enum { METHOD_HOSVD, METHOD_HOOI, METHOD_INPUT, METHOD_KL, METHOD_FISHER } Method;
const char *method_name(Method m);

typedef struct {
    const char *source, *out, *tokenizer;
    const char *scheme, *layers;   // as on the command line: "qkv+o", NULL: open; "all", "10-29"
    const char *ffn;               // "auto", or "gate:27:0.01,…"; NULL: the feed-forward stays dense
    const char *trawl;             // "ffn:20-25/2:cp:0.5", see stack.h
    Method method;
    int64_t rank[3];               // r_embd, r_head, r_kind; 0 for r_embd: by a budget; others: full
    double keep;                   // part of the parameters that stays, (0, 1]
    double size, loss;             // instead: bytes of the file; rise of the loss in nats. 0: not asked
    int type;                      // of stored matrices; -1: as in the source
    int sweeps;                    // of HOOI
    bool refit;                    // W_down of every layer moved to make good what attention lost
    bool no_pivot;                 // weighted factors keep their identity block
    bool dense, rebuild;           // no factors: convert; multiply the factors of a .tbin back
    const char *calibration;       // "self", a file, or both with a comma between
    int64_t calib_tokens, calib_window;
    uint64_t seed;
} Options;

enum { F_GATE, F_UP, F_DOWN, N_FFN };      // matrices of the feed-forward

typedef struct {
    GroupPlan group[4];
    int n_groups;                  // 0: attention stays dense
    double error[4];               // of Q, K, V, O, set when the layer has been decomposed
    int64_t ffn[N_FFN];            // rank of gate, up, down; 0: dense
    double ffn_predicted[N_FFN], ffn_error[N_FFN];
} LayerPlan;

// One tensor of the output. src: it is copied, with its type or row order changed. Else it comes
// from group `group` of its layer: part `part`, or, rebuilt, projection p for PART_CORE + p.
enum {
    PART_PIVOT = N_PARTS,
    PART_FFN,                      // + 2 matrix: A, and one more: B
    PART_REFIT = PART_FFN + 2 * N_FFN,         // W_down, refitted
};
typedef struct {
    char name[GGUF_MAX_NAME];
    const GgufTensor *src;
    int type, n_dims, layer, group, part;      // layer: -1 for those of no layer
    int stack;                     // 1 + the number of the stack it is taken from (TRAWL), or 0
    int64_t rows, cols;
    bool reorder;                  // rows go to the other order of rotary pairs
} Item;

typedef struct {
    Options o;
    const Source *source;
    const Model *model;
    const AttnShape *shape;
    const Compression *weighted;   // NULL for plain Tucker
    double predicted;              // rise of the loss, of all layers
    double spent, rest;            // --size: bytes of what may be factored, and of all else in the file
    int n_layers;
    LayerPlan *layer;
    Stack *stack;                  // (n_stacks) TRAWL
    int n_stacks;
    Item *item;                    // those of no layer, then layer by layer
    size_t n_items;
    GgufBuilder *b;                // the output's index
    bool to_half, reorder;         // order of rotary pairs written; whether it is another than read
    char notes[2048];              // lines for the user: what could not be done as asked
} Plan;

// What can be refused before anything is computed.
int plan_check(const Options *o, const Source *s, const Model *m, Err *e);
// o, the source and c must outlive the plan. c: what weighted methods need, else NULL.
int plan_make(Plan *p, const Options *o, const Source *s, const Model *m, const Compression *c,
              Err *e);
void plan_free(Plan *p);
size_t item_bytes(const Item *i);
// "qkv+o" to groups, ordered by first letter; "none": no group. "7,8,20-25" to chosen (n).
int scheme_parse(const char *text, LayerPlan *l, Err *e);
int layers_parse(const char *flag, const char *text, int n, bool *chosen, Err *e);
void groups_sort(LayerPlan *l);
bool ffn_open(const Options *o);               // ranks of the feed-forward are part of the budget
// Type of the factors that replace a matrix stored in `type`: the one asked for, else the same, so
// that a file shrinks with its ranks. Q8_0 for a quantised type that is not native, and for weighted
// factors of 4-bit matrices: they multiply each other's rounding errors, and 4 bits ruin them.
int factor_type(const Options *o, int type);
// The type a matrix is stored in where `wanted` was asked: F16 when its rows are no whole blocks.
int type_for_rows(int wanted, int64_t cols);
// The scheme of a layer as it is stored: "qkv+o"; "" for a dense one.
void scheme_text(const LayerPlan *l, char text[8]);

// write.c: everything planned, to a file just opened; sets the errors in p->layer. progress may be
// NULL; it is called before each layer and after the last.
int plan_write(Plan *p, FileOut *out, Progress *progress, void *ctx, Err *e);

// table.c: the lines on standard output, after the file is written. measured: rise of the
// calibration loss, NAN where it was not measured.
void table(const Plan *p, double measured, double took);

#endif
