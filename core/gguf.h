// gguf: the GGUF v3 container, read and written. Owns the index of a file, borrows its bytes.
// Every length, count, dimension, offset, alignment and enum is checked before use; one bad tensor
// fails the whole load. Knows no transformer: names and metadata are the caller's.
#ifndef GGUF_H
#define GGUF_H

#include "quant.h"

enum { GGUF_MAX_DIMS = 4, GGUF_MAX_NAME = 64 };

typedef enum {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL,
    GGUF_STR, GGUF_ARR, GGUF_U64, GGUF_I64, GGUF_F64,
} GgufType;

typedef struct { const char *s; size_t n; } Str;    // bytes, no NUL behind them

typedef struct {
    Str key;
    GgufType type, item;         // item: type of an array's items
    uint64_t count;              // items of an array, else 1
    const uint8_t *data;         // the value, or an array's first item (unaligned, little-endian)
    const Str *strings;          // items of a string or an array of strings, else NULL
} GgufKv;

typedef struct {
    Str name;
    int type, n_dims;
    int64_t ne[GGUF_MAX_DIMS];   // ne[0] is the contiguous axis; unused ones are 1
    const void *data;
    size_t size;
} GgufTensor;

typedef struct {
    const char *name;            // of the file, for messages; borrowed
    FileMap map;                 // when opened from a path
    uint64_t n_kv, n_tensors, alignment;
    GgufKv *kv;
    GgufTensor *tensor;
    void *owned;                 // what the reader allocated beside the two tables
} Gguf;

// Reads an index over data (size bytes, borrowed until gguf_free). name is for messages.
int gguf_parse(Gguf *g, const void *data, size_t size, const char *name, Err *e);
int gguf_open(Gguf *g, const char *path, Err *e);          // maps the file, then parses it
void gguf_free(Gguf *g);                                   // any state, any number of times

const GgufKv *gguf_kv(const Gguf *g, const char *key);     // NULL when absent
const GgufTensor *gguf_tensor(const Gguf *g, const char *name);

// A value by key. Absent: *out keeps what it held and 0 is returned. Present with another type or
// out of range: -1. Any integer type is taken for an integer, f32 and f64 for a float.
int gguf_get_int(const Gguf *g, const char *key, int64_t min, int64_t max, int64_t *out, Err *e);
int gguf_get_float(const Gguf *g, const char *key, double *out, Err *e);
int gguf_get_bool(const Gguf *g, const char *key, bool *out, Err *e);
int gguf_get_str(const Gguf *g, const char *key, Str *out, Err *e);
int64_t gguf_item_int(const GgufKv *kv, uint64_t i);       // of an array (or scalar) of integers
double gguf_item_float(const GgufKv *kv, uint64_t i);
bool str_is(Str s, const char *text);

// Getting a tensor is validating it: fetches `name` as W (rows, cols) and fails, with both shapes
// in the message, when absent, when its shape is not (rows, cols), or when its type is not one of a
// weight. rows or cols < 0: any.
int gguf_mat(const Gguf *g, const char *name, int64_t rows, int64_t cols, Mat *w, Err *e);
bool gguf_has(const Gguf *g, const char *name);
// The same for a vector of n F32 numbers, and of n aligned I32, borrowed from the mapping.
int gguf_vec(const Gguf *g, const char *name, int64_t n, const float **v, Err *e);
int gguf_ints(const Gguf *g, const char *name, int64_t n, const int32_t **v, Err *e);

// ---- building: an index in memory, to be written to a file or used as if it had been read -------

typedef struct GgufBuilder GgufBuilder;
GgufBuilder *gguf_builder(Err *e);                         // NULL when out of memory
void gguf_builder_free(GgufBuilder *b);                    // NULL allowed
// Each set copies key and value; a key set again is replaced. Memory errors are kept and returned
// by gguf_build / gguf_begin.
void gguf_set_int(GgufBuilder *b, const char *key, GgufType type, int64_t v);
void gguf_set_float(GgufBuilder *b, const char *key, float v);
void gguf_set_bool(GgufBuilder *b, const char *key, bool v);
void gguf_set_str(GgufBuilder *b, const char *key, const char *s, size_t n);
void gguf_set_array(GgufBuilder *b, const char *key, GgufType item, const void *items, uint64_t n);
void gguf_set_strings(GgufBuilder *b, const char *key, const Str *items, uint64_t n);
void gguf_set_copy(GgufBuilder *b, const GgufKv *kv);      // as it stands in another file
void gguf_unset(GgufBuilder *b, const char *key);
// Adds a tensor; data is borrowed and may be NULL when it will be streamed. ne as in GgufTensor.
void gguf_add(GgufBuilder *b, const char *name, int type, int n_dims, const int64_t *ne,
              const void *data);

// Index over what was built, borrowing from b: as gguf_parse would give for the written file. Any
// tensor with data == NULL has data == NULL here too.
int gguf_build(GgufBuilder *b, const char *name, Gguf *g, Err *e);
uint64_t gguf_size(GgufBuilder *b, Err *e);                // bytes of the written file; 0: failed

// Writes header, metadata and tensor index to o. Then every tensor's bytes follow in the order
// added, by gguf_put (any number of calls a tensor); padding is written by the calls. gguf_end
// checks that all came. gguf_patch overwrites items of an array value already written.
int gguf_begin(GgufBuilder *b, FileOut *o, Err *e);
int gguf_put(GgufBuilder *b, FileOut *o, const void *data, size_t size, Err *e);
int gguf_end(GgufBuilder *b, FileOut *o, Err *e);
int gguf_patch(GgufBuilder *b, FileOut *o, const char *key, const void *items, size_t size, Err *e);

#endif
