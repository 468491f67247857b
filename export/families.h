// families: which models hf.c reads, as tables: the names of their tensors and of their settings.
#ifndef FAMILIES_H
#define FAMILIES_H

#include <stdbool.h>

// Sizes that shapes are made of. Q = heads * hd, KV = n_kv * hd, QKV = Q + 2 KV, TYPES token types.
enum Size { NONE, D, Q, KV, FF, VOCAB, HD, QKV, POSITIONS, TYPES, N_SIZES };
enum Need { NEEDED, OPTIONAL, UNLESS_TIED, WHEN_TIED, IGNORED };
// How a tensor stands in the file: as it is used; a matrix (in, out), to be turned; or with rows for
// positions in front that no text has (RoBERTa counts from its padding id on).
enum Form { PLAIN, TURNED, CUT };

// '#' stands for the layer's number, '@' for the family's prefix, which a file has or has not. cols
// NONE: a vector of `rows` numbers.
typedef struct {
    const char *hf, *gguf;
    enum Need need;
    enum Size rows, cols;
    enum Form form;
} Row;

// Settings' names in config.json; NULL: there is none. With them what holds where one is absent.
typedef struct {
    const char *d, *layers, *heads, *kv, *f, *context, *eps, *act;
    double eps_else;
    bool rope;                 // rotary settings, head_dim and windows, as of the LLaMA family
} Keys;

// window: whether config.json's sliding_window counts. NEVER: not; ALWAYS: also when the key is
// absent (4096 then); ASKED: when use_sliding_window is true.
typedef struct {
    const char *name, *arch, *prefix;
    const Row *rows[3];
    const Keys *keys;
    const char *act;           // the activation, by its name in tucker.activation, where not said
    bool fixed_act;            // and no other is supported
    bool tied;                 // the output is the embedding, where not said
    enum { NEVER, ALWAYS, ASKED } window;
} Family;

extern const Family families[];
extern const int n_families;

#endif
