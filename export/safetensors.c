// safetensors: the index of one file, checked in full before any tensor is looked at. Owns the
// parsed header; tensors borrow their bytes from the mapping. Knows no model.
//
//   8 bytes N, little-endian | N bytes of JSON, spaces at the end | the buffer, to the file's end
//   {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …, "__metadata__": {…}}
//
// Tensors cover the buffer exactly: no hole, no overlap, nothing behind the last one.
#include <stdlib.h>
#include <string.h>

#include "../core/json.h"
#include "source.h"

enum { MAX_HEADER = 100000000, MAX_DIMS = 8 };

// Every number type of the format; those the engine cannot take as weights have type -1.
static const struct { const char *name; int bits, type; } dtypes[] = {
    {"F32", 32, T_F32}, {"F16", 16, T_F16}, {"BF16", 16, T_BF16}, {"F64", 64, -1}, {"I64", 64, -1},
    {"U64", 64, -1}, {"I32", 32, -1}, {"U32", 32, -1}, {"I16", 16, -1}, {"U16", 16, -1},
    {"I8", 8, -1}, {"U8", 8, -1}, {"BOOL", 8, -1}, {"F8_E4M3", 8, -1}, {"F8_E5M2", 8, -1},
    {"F8_E8M0", 8, -1}, {"F6_E2M3", 6, -1}, {"F6_E3M2", 6, -1}, {"F4", 4, -1}, {"C64", 64, -1},
};

static bool natural(const Json *v, size_t *out) {
    if (!v || v->type != J_NUMBER || !v->is_integer || v->integer < 0) return false;
    *out = (size_t)v->integer;
    return (uint64_t)v->integer <= SIZE_MAX;
}

// One member of the header becomes one tensor; its data_offsets must lie within the buffer.
static int read_tensor(StTensor *t, const Json *v, const uint8_t *buffer, size_t buffer_size,
                       const char *file, Err *e) {
    char name[128];
    snprintf(name, sizeof name, "tensor '%.*s'", v->key.n < 100 ? (int)v->key.n : 100, v->key.s);
    const Json *dtype = json_get(v, "dtype"), *shape = json_get(v, "shape");
    const Json *span = json_get(v, "data_offsets");
    if (!dtype || dtype->type != J_STRING || !shape || shape->type != J_ARRAY || !span ||
        span->type != J_ARRAY)
        return fail(e, "%s: %s needs a dtype, a shape and data_offsets", file, name);

    size_t kind = 0, n_kinds = sizeof dtypes / sizeof *dtypes, size = 1;
    while (kind < n_kinds && !str_is(dtype->string, dtypes[kind].name)) kind++;
    if (kind == n_kinds)
        return fail(e, "%s: %s has the unknown dtype '%.*s'", file, name,
                    dtype->string.n < 20 ? (int)dtype->string.n : 20, dtype->string.s);
    if (shape->count > MAX_DIMS)
        return fail(e, "%s: %s has %u dimensions, at most %d are read", file, name, shape->count,
                    MAX_DIMS);
    bool empty = false;              // with a 0 among them no product overflows
    for (const Json *c = shape->child; c; c = c->next) {
        size_t n;
        if (!natural(c, &n)) return fail(e, "%s: %s has a bad shape", file, name);
        if (n == 0) empty = true;
        t->dims[t->n_dims++] = (int64_t)n;
    }
    for (int i = 0; i < t->n_dims && !empty; i++)
        if (!mul_size(size, (size_t)t->dims[i], &size))
            return fail(e, "%s: the shape of %s is too large", file, name);
    if (empty) size = 0;
    if (!mul_size(size, (size_t)dtypes[kind].bits, &size))
        return fail(e, "%s: the shape of %s is too large", file, name);
    if (size % 8) return fail(e, "%s: %s does not end with a whole byte", file, name);
    size /= 8;

    size_t begin, end;
    if (span->count != 2 || !natural(span->child, &begin) || !natural(span->child->next, &end) ||
        begin > end)
        return fail(e, "%s: data_offsets of %s are no [begin, end]", file, name);
    if (end > buffer_size)
        return fail(e, "%s: %s ends at byte %zu of a buffer of %zu (cut short?)", file, name, end,
                    buffer_size);
    if (end - begin != size)
        return fail(e, "%s: %s has %zu bytes, its shape asks %zu", file, name, end - begin, size);
    t->name = v->key;
    t->type = dtypes[kind].type;
    t->data = buffer + begin;
    t->size = size;
    return 0;
}

static int by_place(const void *a, const void *b) {
    const StTensor *x = a, *y = b;
    if (x->data != y->data) return (const uint8_t *)x->data < (const uint8_t *)y->data ? -1 : 1;
    return (x->size > y->size) - (x->size < y->size);
}

static int by_name(const void *a, const void *b) {
    const Str *x = &((const StTensor *)a)->name, *y = &((const StTensor *)b)->name;
    int order = memcmp(x->s, y->s, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static int read_header(Safetensors *s, const Json *root, const uint8_t *buffer, size_t size,
                       const char *file, Err *e) {
    s->tensor = alloc(root->count, sizeof *s->tensor, file, e);
    if (!s->tensor) return -1;
    for (const Json *v = root->child; v; v = v->next) {
        if (!str_is(v->key, "__metadata__")) {
            if (read_tensor(&s->tensor[s->n++], v, buffer, size, file, e)) return -1;
            continue;
        }
        bool texts = v->type == J_OBJECT;
        for (const Json *c = v->child; c && texts; c = c->next) texts = c->type == J_STRING;
        if (!texts) return fail(e, "%s: __metadata__ is no object of strings", file);
    }
    qsort(s->tensor, s->n, sizeof *s->tensor, by_place);
    const uint8_t *at = buffer;
    for (size_t i = 0; i < s->n; i++) {
        const StTensor *t = &s->tensor[i];
        if (t->data != at)
            return fail(e, "%s: tensor '%.*s' begins at byte %zu of the buffer, not at %zu", file,
                        t->name.n < 100 ? (int)t->name.n : 100, t->name.s,
                        (size_t)((const uint8_t *)t->data - buffer), (size_t)(at - buffer));
        at += t->size;
    }
    if (at != buffer + size)
        return fail(e, "%s: %zu bytes follow the last tensor", file, (size_t)(buffer + size - at));
    qsort(s->tensor, s->n, sizeof *s->tensor, by_name);
    return 0;
}

int safetensors_parse(Safetensors *s, const void *data, size_t size, const char *name, Err *e) {
    *s = (Safetensors){0};
    const uint8_t *bytes = data;
    uint64_t n = 0;
    if (size < 8) return fail(e, "%s: %zu bytes are no safetensors file", name, size);
    memcpy(&n, bytes, 8);
    if (n > MAX_HEADER)
        return fail(e, "%s: header of %llu bytes, at most %d are allowed (no safetensors file?)",
                    name, (unsigned long long)n, MAX_HEADER);
    if (n > size - 8)
        return fail(e, "%s: header of %llu bytes in a file of %zu (cut short?)", name,
                    (unsigned long long)n, size);
    if (n == 0 || bytes[8] != '{') return fail(e, "%s: the header does not begin with '{'", name);

    JsonDoc *doc = alloc(1, sizeof *doc, name, e);
    if (!doc) return -1;
    s->owned = doc;
    if (json_parse(doc, (const char *)bytes + 8, n, name, e) ||
        read_header(s, doc->root, bytes + 8 + n, size - 8 - n, name, e)) {
        safetensors_free(s);
        return -1;
    }
    return 0;
}

int safetensors_open(Safetensors *s, const char *path, Err *e) {
    FileMap map;
    *s = (Safetensors){0};
    if (map_open(&map, path, e)) return -1;
    int result = safetensors_parse(s, map.data, map.size, path, e);
    if (result) map_close(&map);
    else s->map = map;
    return result;
}

const StTensor *safetensors_find(const Safetensors *s, const char *name) {
    StTensor key = {.name = {name, strlen(name)}};
    return s->n ? bsearch(&key, s->tensor, s->n, sizeof *s->tensor, by_name) : NULL;
}

void safetensors_free(Safetensors *s) {
    if (s->owned) json_free(s->owned);
    free(s->owned);
    free(s->tensor);
    map_close(&s->map);
    *s = (Safetensors){0};
}
