// gguf: reads and writes the index of a GGUF file. One function, read_index, decides what is a good
// file; what is built in memory goes through it too, so nothing is written that would be refused.
// No byte is looked at before it is known to be inside, no table is larger than a small multiple of
// the bytes already checked, nothing takes more than O(n log n). Tensors' bytes are not touched.
#include "gguf.h"

#include <stdlib.h>
#include <string.h>

// The file, little-endian:                                  str = u64 length, bytes
//   "GGUF"  u32 version  u64 n_tensors  u64 n_kv
//   n_kv times:       str key  u32 type  value              value of an array = u32 item type,
//   n_tensors times:  str name  u32 n_dims  u64 ne[n_dims]                      u64 count, items
//                     u32 type  u64 offset
//   zeros up to a multiple of the alignment: here the data section begins, offsets count from here
enum { HEADER = 24, LEAST_KV = 14, LEAST_TENSOR = 33, MAX_KEY = 65535,
       MIN_ALIGNMENT = 8, DEFAULT_ALIGNMENT = 32, MAX_ALIGNMENT = 1 << 20,
       MOST_BUILT = 1 << 14 };

static const uint8_t item_size[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};   // by GgufType
static const char *const kv_types[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool",
                                       "string", "array", "u64", "i64", "f64"};

// ggml's types that are not read here, to say so by name.
static const char *const other_types[] = {
    [4] = "q4_2 (removed from ggml)", [5] = "q4_3 (removed from ggml)", [9] = "q8_1",
    [15] = "q8_k", "iq2_xxs", "iq2_xs", "iq3_xxs", "iq1_s", "iq4_nl", "iq3_s", "iq2_s", "iq4_xs",
    "i8", "i16", [27] = "i64", "f64", "iq1_m", [34] = "tq1_0", "tq2_0", [39] = "mxfp4", "nvfp4",
    "q1_0",
};

typedef struct {                 // Gguf.owned
    const Str **kv, **tensor;    // the names of both tables, sorted; each is the first member of
                                 // its GgufKv or GgufTensor
    uint64_t *offset;            // (n_tensors) as in the file
    uint64_t data_at, end;       // data section; end of the file, padding included
    uint8_t *head;               // of a built index: its bytes, data_at of them
} Index;

bool str_is(Str s, const char *text) { return s.n == strlen(text) && !memcmp(s.s, text, s.n); }

// A name from a file, fit for a message.
typedef struct { char s[96]; } Shown;
static Shown show(Str s) {
    Shown out;
    size_t n = s.n < sizeof out.s - 4 ? s.n : sizeof out.s - 4;
    for (size_t i = 0; i < n; i++) out.s[i] = s.s[i] >= ' ' && s.s[i] <= '~' ? s.s[i] : '?';
    strcpy(out.s + n, n < s.n ? "..." : "");
    return out;
}

// ---- reading ------------------------------------------------------------------------------------

typedef struct { const uint8_t *p; size_t left, size; const char *name; Err *e; } Cursor;

static int cut_short(const Cursor *c, const char *what) {
    return fail(c->e, "%s: ends within %s, at byte %zu of %zu", c->name, what, c->size - c->left,
                c->size);
}

// Copies the next `size` bytes to out.
static int take(Cursor *c, void *out, size_t size, const char *what) {
    if (size > c->left) return cut_short(c, what);
    memcpy(out, c->p, size);
    c->p += size, c->left -= size;
    return 0;
}

static int take_str(Cursor *c, Str *s, const char *what) {
    uint64_t n = 0;
    if (take(c, &n, sizeof n, what)) return -1;
    if (n > c->left) return cut_short(c, what);
    *s = (Str){(const char *)c->p, (size_t)n};
    c->p += n, c->left -= (size_t)n;
    return 0;
}

static int take_name(Cursor *c, Str *s, size_t limit, const char *what) {
    if (take_str(c, s, what)) return -1;
    if (!s->n) return fail(c->e, "%s: %s is empty", c->name, what);
    if (s->n > limit)
        return fail(c->e, "%s: %s '%s' has %zu bytes, at most %zu are allowed", c->name, what,
                    show(*s).s, s->n, limit);
    if (memchr(s->s, 0, s->n))
        return fail(c->e, "%s: %s '%s' has a NUL in it", c->name, what, show(*s).s);
    return 0;
}

// The strings of kv, kv->count of them; they are walked twice, so that the table is taken only for
// strings that are there.
static int take_strings(Cursor *c, GgufKv *kv) {
    Cursor ahead = *c;
    Str s;
    for (uint64_t i = 0; i < kv->count; i++)
        if (take_str(&ahead, &s, "a string")) return -1;
    Str *strings = alloc((size_t)kv->count, sizeof *strings, "strings", c->e);
    if (!strings) return -1;
    kv->strings = strings;
    for (uint64_t i = 0; i < kv->count; i++)
        if (take_str(c, &strings[i], "a string")) return -1;
    return 0;
}

static int take_kv(Cursor *c, GgufKv *kv) {
    uint32_t type = 0, item;
    if (take_name(c, &kv->key, MAX_KEY, "a key") || take(c, &type, sizeof type, "a key's type"))
        return -1;
    if (type > GGUF_F64)
        return fail(c->e, "%s: key %s: unknown type %u", c->name, show(kv->key).s, type);
    item = type;
    kv->count = 1;
    if (type == GGUF_ARR) {
        if (take(c, &item, sizeof item, "an array's type") ||
            take(c, &kv->count, sizeof kv->count, "an array's length"))
            return -1;
        if (item == GGUF_ARR)
            return fail(c->e, "%s: key %s: arrays of arrays are not read", c->name,
                        show(kv->key).s);
        if (item > GGUF_F64)
            return fail(c->e, "%s: key %s: array of unknown type %u", c->name, show(kv->key).s,
                        item);
    }
    kv->type = (GgufType)type, kv->item = (GgufType)item;
    kv->data = c->p;
    size_t least = item == GGUF_STR ? sizeof(uint64_t) : item_size[item];
    if (kv->count > c->left / least)
        return fail(c->e, "%s: key %s: %ju items of type %s, but %zu bytes are left", c->name,
                    show(kv->key).s, (uintmax_t)kv->count, kv_types[item], c->left);
    if (item == GGUF_STR) return take_strings(c, kv);
    size_t bytes = (size_t)kv->count * item_size[item];
    if (item == GGUF_BOOL)
        for (size_t i = 0; i < bytes; i++)
            if (kv->data[i] > 1)
                return fail(c->e, "%s: key %s: %u is no truth value", c->name, show(kv->key).s,
                            kv->data[i]);
    c->p += bytes, c->left -= bytes;
    return 0;
}

// *bytes of a tensor, from its type and shape, which are checked.
static int tensor_size(const GgufTensor *t, size_t *bytes, const char *name, Err *e) {
    int64_t items = 1;
    for (int i = 0; i < GGUF_MAX_DIMS; i++)
        if (t->ne[i] < 1 || __builtin_mul_overflow(items, t->ne[i], &items))
            return fail(e, "%s: tensor %s: impossible shape %jd x %jd x %jd x %jd", name,
                        show(t->name).s, (intmax_t)t->ne[0], (intmax_t)t->ne[1],
                        (intmax_t)t->ne[2], (intmax_t)t->ne[3]);
    const TypeInfo *info = type_info(t->type);
    if (!info) {
        int known = (int)(sizeof other_types / sizeof *other_types);
        const char *what = t->type >= 0 && t->type < known ? other_types[t->type] : NULL;
        return fail(e, "%s: tensor %s: type %d, %s, is not read by this program", name,
                    show(t->name).s, t->type, what ? what : "unknown");
    }
    size_t row;
    if (t->ne[0] % info->block)
        return fail(e, "%s: tensor %s: rows of %jd weights, but %s comes in blocks of %d", name,
                    show(t->name).s, (intmax_t)t->ne[0], info->name, info->block);
    if (!row_size(t->type, t->ne[0], &row) || (uint64_t)(items / t->ne[0]) > SIZE_MAX ||
        !mul_size(row, (size_t)(items / t->ne[0]), bytes))
        return fail(e, "%s: tensor %s: too large", name, show(t->name).s);
    return 0;
}

static int take_tensor(Cursor *c, GgufTensor *t, uint64_t *offset) {
    uint32_t n_dims = 0, type = 0;
    if (take_name(c, &t->name, GGUF_MAX_NAME, "a tensor's name") ||
        take(c, &n_dims, sizeof n_dims, "a tensor's shape"))
        return -1;
    if (n_dims < 1 || n_dims > GGUF_MAX_DIMS)
        return fail(c->e, "%s: tensor %s: %u dimensions, expected 1 to %d", c->name,
                    show(t->name).s, n_dims, GGUF_MAX_DIMS);
    t->n_dims = (int)n_dims;
    for (int i = 0; i < GGUF_MAX_DIMS; i++) t->ne[i] = 1;
    if (take(c, t->ne, n_dims * sizeof *t->ne, "a tensor's shape") ||
        take(c, &type, sizeof type, "a tensor's type") ||
        take(c, offset, sizeof *offset, "a tensor's offset"))
        return -1;
    t->type = type <= INT32_MAX ? (int)type : -1;
    return tensor_size(t, &t->size, c->name, c->e);
}

// Makes room for item n of a table that is filled in order.
static int grow(void *table, uint64_t n, uint64_t *room, size_t size, Err *e) {
    if (n < *room) return 0;
    size_t more = *room ? 2 * (size_t)*room : 16, bytes;
    void *old, *grown;
    memcpy(&old, table, sizeof old);           // table is the address of a pointer of any type
    grown = mul_size(more, size, &bytes) ? realloc(old, bytes) : NULL;
    if (!grown) return fail(e, "out of memory for an index of %ju items", (uintmax_t)n);
    memcpy(table, &grown, sizeof grown);
    *room = more;
    return 0;
}

static int by_name(const void *a, const void *b) {
    const Str *x = *(const Str *const *)a, *y = *(const Str *const *)b;
    int order = memcmp(x->s, y->s, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

// The names of a table (n items of `size` bytes, a Str first in each), sorted; NULL on a duplicate.
static const Str **sort_names(const void *table, uint64_t n, size_t size, const char *what,
                              const char *name, Err *e) {
    const Str **order = alloc((size_t)n, sizeof *order, "index", e);
    if (!order) return NULL;
    for (size_t i = 0; i < n; i++) order[i] = (const Str *)((const char *)table + i * size);
    qsort(order, (size_t)n, sizeof *order, by_name);
    for (size_t i = 1; i < n; i++)
        if (!by_name(&order[i - 1], &order[i])) {
            fail(e, "%s: %s %s is there twice", name, what, show(*order[i]).s);
            free(order);
            return NULL;
        }
    return order;
}

static const void *find(const Str *const *order, uint64_t n, const char *name) {
    Str wanted = {name, strlen(name)};
    const Str *key = &wanted;
    const Str *const *hit = n ? bsearch(&key, order, (size_t)n, sizeof *order, by_name) : NULL;
    return hit ? *hit : NULL;
}

typedef struct { uint64_t from, to; const Str *name; } Span;
static int by_start(const void *a, const void *b) {
    const Span *x = a, *y = b;
    return (x->from > y->from) - (x->from < y->from);
}

// Every tensor lies at a multiple of the alignment, inside the file, and on no other.
static int check_places(const Gguf *g, uint64_t file_size, Err *e) {
    const Index *x = g->owned;
    Span *span = alloc((size_t)g->n_tensors, sizeof *span, "index", e);
    if (!span) return -1;
    int result = 0;
    for (uint64_t i = 0; i < g->n_tensors && !result; i++) {
        const GgufTensor *t = &g->tensor[i];
        uint64_t offset = x->offset[i], room = file_size > x->data_at ? file_size - x->data_at : 0;
        if (offset % g->alignment)
            result = fail(e, "%s: tensor %s: offset %ju is no multiple of the alignment %ju",
                          g->name, show(t->name).s, (uintmax_t)offset, (uintmax_t)g->alignment);
        else if (offset > room || t->size > room - offset)
            result = fail(e, "%s: tensor %s: %zu bytes at offset %ju, but the data section has "
                          "%ju: is the file cut short?", g->name, show(t->name).s, t->size,
                          (uintmax_t)offset, (uintmax_t)room);
        else
            span[i] = (Span){offset, offset + t->size, &t->name};
    }
    if (!result) qsort(span, (size_t)g->n_tensors, sizeof *span, by_start);
    for (uint64_t i = 1; i < g->n_tensors && !result; i++)
        if (span[i].from < span[i - 1].to)
            result = fail(e, "%s: tensors %s and %s overlap", g->name, show(*span[i - 1].name).s,
                          show(*span[i].name).s);
    free(span);
    return result;
}

static int check_alignment(Gguf *g, Err *e) {
    const GgufKv *kv = gguf_kv(g, "general.alignment");
    g->alignment = DEFAULT_ALIGNMENT;
    if (!kv) return 0;
    if (kv->type != GGUF_U32)
        return fail(e, "%s: general.alignment has type %s, expected u32", g->name,
                    kv_types[kv->type]);
    g->alignment = (uint64_t)gguf_item_int(kv, 0);
    if (g->alignment < MIN_ALIGNMENT || g->alignment > MAX_ALIGNMENT ||
        (g->alignment & (g->alignment - 1)))
        return fail(e, "%s: general.alignment is %ju, expected a power of two, %d to %d", g->name,
                    (uintmax_t)g->alignment, MIN_ALIGNMENT, MAX_ALIGNMENT);
    return 0;
}

static uint64_t align_up(uint64_t n, uint64_t alignment) {
    return (n + alignment - 1) / alignment * alignment;
}

// Reads the index from the first `size` bytes of a file that has file_size. All but the tensors'
// data is set; on failure the caller frees g.
static int read_index(Gguf *g, const uint8_t *data, size_t size, uint64_t file_size, Err *e) {
    Cursor c = {data, size, size, g->name, e};
    char magic[4] = {0};
    uint32_t version;
    uint64_t n_kv, n_tensors, kv_room = 0, tensor_room = 0, offset_room = 0;
    if (!size) return fail(e, "%s: the file is empty", g->name);
    memcpy(magic, data, size < 4 ? size : 4);
    if (memcmp(magic, "GGUF", size < 4 ? size : 4))
        return fail(e, "%s: not a GGUF file: begins with '%s'", g->name,
                    show((Str){magic, size < 4 ? size : 4}).s);
    if (size < HEADER) return fail(e, "%s: %zu bytes, too short for a GGUF file", g->name, size);
    take(&c, magic, 4, "header");
    take(&c, &version, sizeof version, "header");
    take(&c, &n_tensors, sizeof n_tensors, "header");
    take(&c, &n_kv, sizeof n_kv, "header");
    if (version && !(version & 0xffff))
        return fail(e, "%s: a big-endian GGUF file, which is not read here", g->name);
    if (version != 2 && version != 3)
        return fail(e, "%s: GGUF version %u, expected 2 or 3", g->name, version);
    if (n_kv > c.left / LEAST_KV || n_tensors > c.left / LEAST_TENSOR)
        return fail(e, "%s: announces %ju keys and %ju tensors in a file of %zu bytes", g->name,
                    (uintmax_t)n_kv, (uintmax_t)n_tensors, size);

    Index *x = g->owned = alloc(1, sizeof *x, "index", e);
    if (!x) return -1;
    for (; g->n_kv < n_kv; g->n_kv++) {
        if (grow(&g->kv, g->n_kv, &kv_room, sizeof *g->kv, e)) return -1;
        GgufKv kv = {0};
        int result = take_kv(&c, &kv);
        if (result) free((void *)kv.strings);
        if (result) return -1;
        g->kv[g->n_kv] = kv;
    }
    for (; g->n_tensors < n_tensors; g->n_tensors++) {
        uint64_t i = g->n_tensors;
        if (grow(&g->tensor, i, &tensor_room, sizeof *g->tensor, e) ||
            grow(&x->offset, i, &offset_room, sizeof *x->offset, e))
            return -1;
        g->tensor[i] = (GgufTensor){0};
        if (take_tensor(&c, &g->tensor[i], &x->offset[i])) return -1;
    }
    x->kv = sort_names(g->kv, n_kv, sizeof *g->kv, "key", g->name, e);
    if (!x->kv) return -1;
    x->tensor = sort_names(g->tensor, n_tensors, sizeof *g->tensor, "tensor", g->name, e);
    if (!x->tensor || check_alignment(g, e)) return -1;
    x->data_at = align_up(size - c.left, g->alignment);
    x->end = file_size;
    return check_places(g, file_size, e);
}

int gguf_parse(Gguf *g, const void *data, size_t size, const char *name, Err *e) {
    *g = (Gguf){.name = name};
    if (read_index(g, data, size, size, e)) {
        gguf_free(g);
        return -1;
    }
    const Index *x = g->owned;
    for (uint64_t i = 0; i < g->n_tensors; i++)
        g->tensor[i].data = (const uint8_t *)data + x->data_at + x->offset[i];
    return 0;
}

int gguf_open(Gguf *g, const char *path, Err *e) {
    FileMap map;
    *g = (Gguf){0};
    if (map_open(&map, path, e)) return -1;
    if (gguf_parse(g, map.data, map.size, path, e)) {
        map_close(&map);
        return -1;
    }
    g->map = map;
    return 0;
}

void gguf_free(Gguf *g) {
    Index *x = g->owned;
    for (uint64_t i = 0; i < g->n_kv; i++) free((void *)g->kv[i].strings);
    if (x) {
        free(x->kv);
        free(x->tensor);
        free(x->offset);
        free(x->head);
    }
    free(x);
    free(g->kv);
    free(g->tensor);
    map_close(&g->map);
    *g = (Gguf){0};
}

// ---- getting ------------------------------------------------------------------------------------

const GgufKv *gguf_kv(const Gguf *g, const char *key) {
    const Index *x = g->owned;
    return x ? find(x->kv, g->n_kv, key) : NULL;
}

const GgufTensor *gguf_tensor(const Gguf *g, const char *name) {
    const Index *x = g->owned;
    return x ? find(x->tensor, g->n_tensors, name) : NULL;
}

bool gguf_has(const Gguf *g, const char *name) { return gguf_tensor(g, name) != NULL; }

int64_t gguf_item_int(const GgufKv *kv, uint64_t i) {
    const uint8_t *p = kv->data + i * item_size[kv->item];
    int64_t wide = 0;
    memcpy(&wide, p, item_size[kv->item]);                 // little-endian: the low bytes
    switch (kv->item) {
    case GGUF_I8:  return (int8_t)wide;
    case GGUF_I16: return (int16_t)wide;
    case GGUF_I32: return (int32_t)wide;
    default:       return wide;
    }
}

double gguf_item_float(const GgufKv *kv, uint64_t i) {
    const uint8_t *p = kv->data + i * item_size[kv->item];
    double d;
    float f;
    if (kv->item == GGUF_F64) return memcpy(&d, p, sizeof d), d;
    return memcpy(&f, p, sizeof f), f;
}

static int wrong_type(const Gguf *g, const GgufKv *kv, const char *expected, Err *e) {
    return fail(e, "%s: key %s is %s%s, expected %s", g->name, show(kv->key).s,
                kv->type == GGUF_ARR ? "an array of " : "", kv_types[kv->item], expected);
}

static bool is_int(GgufType t) {
    return t <= GGUF_I32 || t == GGUF_U64 || t == GGUF_I64;
}

int gguf_get_int(const Gguf *g, const char *key, int64_t min, int64_t max, int64_t *out, Err *e) {
    const GgufKv *kv = gguf_kv(g, key);
    if (!kv) return 0;
    if (!is_int(kv->type)) return wrong_type(g, kv, "an integer", e);
    int64_t v = gguf_item_int(kv, 0);
    if (kv->type == GGUF_U64 && v < 0)
        return fail(e, "%s: key %s is %ju, expected %jd to %jd", g->name, key, (uintmax_t)v,
                    (intmax_t)min, (intmax_t)max);
    if (v < min || v > max)
        return fail(e, "%s: key %s is %jd, expected %jd to %jd", g->name, key, (intmax_t)v,
                    (intmax_t)min, (intmax_t)max);
    *out = v;
    return 0;
}

int gguf_get_float(const Gguf *g, const char *key, double *out, Err *e) {
    const GgufKv *kv = gguf_kv(g, key);
    if (!kv) return 0;
    if (kv->type != GGUF_F32 && kv->type != GGUF_F64) return wrong_type(g, kv, "f32 or f64", e);
    *out = gguf_item_float(kv, 0);
    return 0;
}

int gguf_get_bool(const Gguf *g, const char *key, bool *out, Err *e) {
    const GgufKv *kv = gguf_kv(g, key);
    if (!kv) return 0;
    if (kv->type != GGUF_BOOL) return wrong_type(g, kv, "bool", e);
    *out = *kv->data != 0;
    return 0;
}

int gguf_get_str(const Gguf *g, const char *key, Str *out, Err *e) {
    const GgufKv *kv = gguf_kv(g, key);
    if (!kv) return 0;
    if (kv->type != GGUF_STR) return wrong_type(g, kv, "a string", e);
    *out = kv->strings[0];
    return 0;
}

// A tensor of numbers of any type as (rows, cols).
static int get_table(const Gguf *g, const char *name, int64_t rows, int64_t cols, Mat *w, Err *e) {
    const GgufTensor *t = gguf_tensor(g, name);
    if (!t) return fail(e, "%s: tensor %s is missing", g->name, name);
    if (t->ne[2] != 1 || t->ne[3] != 1 || (rows >= 0 && t->ne[1] != rows) ||
        (cols >= 0 && t->ne[0] != cols)) {
        char want[2][24] = {"any", "any"};
        if (rows >= 0) snprintf(want[0], sizeof want[0], "%jd", (intmax_t)rows);
        if (cols >= 0) snprintf(want[1], sizeof want[1], "%jd", (intmax_t)cols);
        bool flat = t->ne[2] == 1 && t->ne[3] == 1;
        return fail(e, "%s: tensor %s is (%jd, %jd)%s, expected (%s, %s)", g->name, name,
                    (intmax_t)t->ne[1], (intmax_t)t->ne[0], flat ? "" : " in further dimensions",
                    want[0], want[1]);
    }
    *w = (Mat){t->data, t->ne[1], t->ne[0], t->type};
    return 0;
}

int gguf_mat(const Gguf *g, const char *name, int64_t rows, int64_t cols, Mat *w, Err *e) {
    Mat table = {0};
    if (get_table(g, name, rows, cols, &table, e)) return -1;
    if (table.type == T_I32)
        return fail(e, "%s: tensor %s is i32, which is no type of a weight", g->name, name);
    *w = table;
    return 0;
}

int gguf_vec(const Gguf *g, const char *name, int64_t n, const float **v, Err *e) {
    Mat w = {0};
    if (get_table(g, name, 1, n, &w, e)) return -1;
    if (w.type != T_F32)
        return fail(e, "%s: tensor %s is %s, expected f32", g->name, name, type_info(w.type)->name);
    *v = w.data;
    return 0;
}

int gguf_ints(const Gguf *g, const char *name, int64_t n, const int32_t **v, Err *e) {
    Mat w = {0};
    if (get_table(g, name, 1, n, &w, e)) return -1;
    if (w.type != T_I32)
        return fail(e, "%s: tensor %s is %s, expected i32", g->name, name, type_info(w.type)->name);
    if ((uintptr_t)w.data % sizeof(int32_t))
        return fail(e, "%s: tensor %s is not aligned", g->name, name);
    *v = w.data;
    return 0;
}

// ---- building -----------------------------------------------------------------------------------

typedef struct { uint8_t *p; size_t n, room; bool failed; } Bytes;

static void add_bytes(Bytes *b, const void *data, size_t size) {
    size_t need;
    if (b->failed || !size) return;
    if (!add_size(b->n, size, &need) || need > SIZE_MAX / 2) {
        b->failed = true;
        return;
    }
    if (need > b->room) {
        uint8_t *grown = realloc(b->p, 2 * need);
        if (!grown) {
            b->failed = true;
            return;
        }
        b->p = grown, b->room = 2 * need;
    }
    memcpy(b->p + b->n, data, size);
    b->n = need;
}

static void add_u32(Bytes *b, uint32_t v) { add_bytes(b, &v, sizeof v); }
static void add_u64(Bytes *b, uint64_t v) { add_bytes(b, &v, sizeof v); }
static void add_str(Bytes *b, const char *s, size_t n) {
    add_u64(b, n);
    add_bytes(b, s, n);
}

// A key with its value, encoded as in the file.
typedef struct { Bytes bytes; size_t key_n; } Entry;       // the key begins at byte 8

struct GgufBuilder {
    Entry *kv;
    GgufTensor *tensor;          // name.s is owned; size is set when the index is built
    uint64_t n_kv, kv_room, n_tensors, tensor_room;
    Err err;
    bool failed;                 // err holds the first error
    // While a file is written:
    Gguf plan;                   // its index
    uint64_t next;               // tensor that gguf_put is in
    size_t done;                 // bytes of it that came
};

GgufBuilder *gguf_builder(Err *e) { return alloc(1, sizeof(GgufBuilder), "index", e); }

void gguf_builder_free(GgufBuilder *b) {
    if (!b) return;
    for (uint64_t i = 0; i < b->n_kv; i++) free(b->kv[i].bytes.p);
    for (uint64_t i = 0; i < b->n_tensors; i++) free((void *)b->tensor[i].name.s);
    free(b->kv);
    free(b->tensor);
    gguf_free(&b->plan);
    free(b);
}

static void keep_error(GgufBuilder *b, const char *thing, const char *what) {
    if (!b->failed) fail(&b->err, "%s: %s", thing, what);
    b->failed = true;
}

static uint64_t find_entry(const GgufBuilder *b, Str key) {
    uint64_t i = 0;
    while (i < b->n_kv && !(b->kv[i].key_n == key.n &&
                            !memcmp(b->kv[i].bytes.p + 8, key.s, key.n)))
        i++;
    return i;
}

static void set(GgufBuilder *b, Str key, GgufType type, const void *value, size_t size) {
    Entry entry = {.key_n = key.n};
    if (b->failed) return;
    add_str(&entry.bytes, key.s, key.n);
    add_u32(&entry.bytes, type);
    add_bytes(&entry.bytes, value, size);
    uint64_t i = find_entry(b, key);
    if (i == MOST_BUILT) {                                 // every key is compared with those before it
        free(entry.bytes.p);
        keep_error(b, show(key).s, "too many keys");
    } else if (entry.bytes.failed || grow(&b->kv, i, &b->kv_room, sizeof *b->kv, NULL)) {
        free(entry.bytes.p);
        keep_error(b, show(key).s, "out of memory");
    } else if (i < b->n_kv) {
        free(b->kv[i].bytes.p);
        b->kv[i] = entry;
    } else {
        b->kv[b->n_kv++] = entry;
    }
}

static void set_items(GgufBuilder *b, Str key, GgufType item, const void *items, uint64_t n) {
    Bytes value = {0};
    size_t size = 0;
    if (item > GGUF_F64 || !item_size[item]) {
        keep_error(b, show(key).s, "not the type of an array of numbers");
        return;
    }
    value.failed = n > SIZE_MAX || !mul_size((size_t)n, item_size[item], &size);
    add_u32(&value, item);
    add_u64(&value, n);
    add_bytes(&value, items, size);
    if (value.failed) keep_error(b, show(key).s, "out of memory");
    else set(b, key, GGUF_ARR, value.p, value.n);
    free(value.p);
}

static void set_strings(GgufBuilder *b, Str key, const Str *items, uint64_t n) {
    Bytes value = {0};
    add_u32(&value, GGUF_STR);
    add_u64(&value, n);
    for (uint64_t i = 0; i < n; i++) add_str(&value, items[i].s, items[i].n);
    if (value.failed) keep_error(b, show(key).s, "out of memory");
    else set(b, key, GGUF_ARR, value.p, value.n);
    free(value.p);
}

static void set_str(GgufBuilder *b, Str key, Str s) {
    Bytes value = {0};
    add_str(&value, s.s, s.n);
    if (value.failed) keep_error(b, show(key).s, "out of memory");
    else set(b, key, GGUF_STR, value.p, value.n);
    free(value.p);
}

static Str str_of(const char *s) { return (Str){s, strlen(s)}; }

void gguf_set_int(GgufBuilder *b, const char *key, GgufType type, int64_t v) {
    int bits = is_int(type) ? 8 * item_size[type] : 0;
    bool is_signed = type == GGUF_I8 || type == GGUF_I16 || type == GGUF_I32 || type == GGUF_I64;
    int64_t max = bits == 64 ? INT64_MAX : ((int64_t)1 << (bits - is_signed)) - 1;
    if (!bits) keep_error(b, key, "not the type of an integer");
    else if (v > max || v < (is_signed ? -max - 1 : 0)) keep_error(b, key, "out of range");
    else set(b, str_of(key), type, &v, item_size[type]);   // little-endian: the low bytes
}

void gguf_set_float(GgufBuilder *b, const char *key, float v) {
    set(b, str_of(key), GGUF_F32, &v, sizeof v);
}

void gguf_set_bool(GgufBuilder *b, const char *key, bool v) {
    uint8_t byte = v;
    set(b, str_of(key), GGUF_BOOL, &byte, sizeof byte);
}

void gguf_set_str(GgufBuilder *b, const char *key, const char *s, size_t n) {
    set_str(b, str_of(key), (Str){s, n});
}

void gguf_set_array(GgufBuilder *b, const char *key, GgufType item, const void *items, uint64_t n) {
    set_items(b, str_of(key), item, items, n);
}

void gguf_set_strings(GgufBuilder *b, const char *key, const Str *items, uint64_t n) {
    set_strings(b, str_of(key), items, n);
}

void gguf_set_copy(GgufBuilder *b, const GgufKv *kv) {
    if (kv->type == GGUF_STR) set_str(b, kv->key, kv->strings[0]);
    else if (kv->item == GGUF_STR) set_strings(b, kv->key, kv->strings, kv->count);
    else if (kv->type == GGUF_ARR) set_items(b, kv->key, kv->item, kv->data, kv->count);
    else set(b, kv->key, kv->type, kv->data, item_size[kv->type]);
}

void gguf_unset(GgufBuilder *b, const char *key) {
    uint64_t i = find_entry(b, str_of(key));
    if (i == b->n_kv) return;
    free(b->kv[i].bytes.p);
    b->n_kv--;
    memmove(&b->kv[i], &b->kv[i + 1], (size_t)(b->n_kv - i) * sizeof *b->kv);
}

void gguf_add(GgufBuilder *b, const char *name, int type, int n_dims, const int64_t *ne,
              const void *data) {
    GgufTensor t = {.type = type, .n_dims = n_dims, .ne = {1, 1, 1, 1}, .data = data};
    if (n_dims < 1 || n_dims > GGUF_MAX_DIMS) {
        keep_error(b, name, "a tensor has 1 to 4 dimensions");
        return;
    }
    memcpy(t.ne, ne, (size_t)n_dims * sizeof *ne);
    size_t n = strlen(name);
    char *copy = malloc(n + 1);
    if (!copy || grow(&b->tensor, b->n_tensors, &b->tensor_room, sizeof t, NULL)) {
        free(copy);
        keep_error(b, name, "out of memory");
        return;
    }
    memcpy(copy, name, n + 1);
    t.name = (Str){copy, n};
    b->tensor[b->n_tensors++] = t;
}

// The alignment that was set, as it will be read; DEFAULT_ALIGNMENT where it is absent or wrong
// (read_index then refuses it).
static uint64_t built_alignment(const GgufBuilder *b) {
    Str key = str_of("general.alignment");
    uint64_t i = find_entry(b, key);
    uint32_t v = 0;
    if (i < b->n_kv && b->kv[i].bytes.n == 8 + key.n + 4 + sizeof v)
        memcpy(&v, b->kv[i].bytes.p + 8 + key.n + 4, sizeof v);
    return v && v <= MAX_ALIGNMENT ? v : DEFAULT_ALIGNMENT;
}

int gguf_build(GgufBuilder *b, const char *name, Gguf *g, Err *e) {
    *g = (Gguf){.name = name};
    if (b->failed) return fail(e, "%s: %s", name, b->err.msg);
    Bytes head = {0};
    uint64_t alignment = built_alignment(b), offset = 0;
    add_bytes(&head, "GGUF", 4);
    add_u32(&head, 3);
    add_u64(&head, b->n_tensors);
    add_u64(&head, b->n_kv);
    for (uint64_t i = 0; i < b->n_kv; i++) add_bytes(&head, b->kv[i].bytes.p, b->kv[i].bytes.n);
    for (uint64_t i = 0; i < b->n_tensors; i++) {
        GgufTensor *t = &b->tensor[i];
        if (tensor_size(t, &t->size, name, e)) {
            free(head.p);
            return -1;
        }
        add_str(&head, t->name.s, t->name.n);
        add_u32(&head, (uint32_t)t->n_dims);
        add_bytes(&head, t->ne, (size_t)t->n_dims * sizeof *t->ne);
        add_u32(&head, (uint32_t)t->type);
        add_u64(&head, offset);
        if (t->size > INT64_MAX - alignment || offset > INT64_MAX - t->size - alignment) {
            free(head.p);
            return fail(e, "%s: tensor %s: the file would be too large", name, show(t->name).s);
        }
        offset = align_up(offset + t->size, alignment);
    }
    while (head.n % alignment && !head.failed) add_bytes(&head, "", 1);
    if (head.failed) {
        free(head.p);
        return fail(e, "%s: out of memory for the index", name);
    }
    if (read_index(g, head.p, head.n, head.n + offset, e)) {
        free(head.p);
        gguf_free(g);
        return -1;
    }
    ((Index *)g->owned)->head = head.p;
    for (uint64_t i = 0; i < g->n_tensors; i++) g->tensor[i].data = b->tensor[i].data;
    return 0;
}

uint64_t gguf_size(GgufBuilder *b, Err *e) {
    Gguf g;
    if (gguf_build(b, "output", &g, e)) return 0;
    uint64_t bytes = ((const Index *)g.owned)->data_at;
    for (uint64_t i = 0; i < g.n_tensors; i++) bytes += align_up(g.tensor[i].size, g.alignment);
    gguf_free(&g);
    return bytes;
}

// ---- writing ------------------------------------------------------------------------------------

static const char *out_name(const FileOut *o) { return o->path ? o->path : "closed file"; }

int gguf_begin(GgufBuilder *b, FileOut *o, Err *e) {
    if (!o->path || o->at) return fail(e, "a GGUF index is written at the beginning of a file");
    gguf_free(&b->plan);
    b->next = 0, b->done = 0;
    if (gguf_build(b, o->path, &b->plan, e)) return -1;
    b->plan.name = "output";                               // o->path may be freed before the plan
    const Index *x = b->plan.owned;
    return out_write(o, x->head, (size_t)x->data_at, e);
}

int gguf_put(GgufBuilder *b, FileOut *o, const void *data, size_t size, Err *e) {
    const Gguf *g = &b->plan;
    if (!size) return 0;
    if (b->next == g->n_tensors)
        return fail(e, "%s: %zu bytes behind the last tensor", out_name(o), size);
    const GgufTensor *t = &g->tensor[b->next];
    if (size > t->size - b->done)
        return fail(e, "%s: tensor %s: %zu bytes more after %zu, expected %zu", out_name(o),
                    show(t->name).s, size, b->done, t->size);
    if (out_write(o, data, size, e)) return -1;
    b->done += size;
    if (b->done < t->size) return 0;
    b->next++, b->done = 0;
    static const uint8_t zeros[64];
    uint64_t end = align_up(o->at, g->alignment);
    while (o->at < end) {
        uint64_t n = end - o->at < sizeof zeros ? end - o->at : sizeof zeros;
        if (out_write(o, zeros, (size_t)n, e)) return -1;
    }
    return 0;
}

int gguf_end(GgufBuilder *b, FileOut *o, Err *e) {
    const Gguf *g = &b->plan;
    const Index *x = g->owned;
    if (!x) return fail(e, "%s: the end of a GGUF file that was not begun", out_name(o));
    if (b->next < g->n_tensors)
        return fail(e, "%s: tensor %s: %zu bytes came, expected %zu", out_name(o),
                    show(g->tensor[b->next].name).s, b->done, g->tensor[b->next].size);
    if (o->at != x->end)
        return fail(e, "%s: %ju bytes were written, expected %ju", out_name(o), (uintmax_t)o->at,
                    (uintmax_t)x->end);
    return 0;
}

int gguf_patch(GgufBuilder *b, FileOut *o, const char *key, const void *items, size_t size,
               Err *e) {
    const GgufKv *kv = gguf_kv(&b->plan, key);
    const Index *x = b->plan.owned;
    if (!kv || kv->type != GGUF_ARR || kv->item == GGUF_STR)
        return fail(e, "%s: key %s: no array of numbers was written", out_name(o), key);
    if (size != kv->count * item_size[kv->item])
        return fail(e, "%s: key %s: patch of %zu bytes, the array has %ju", out_name(o), key, size,
                    (uintmax_t)(kv->count * item_size[kv->item]));
    return out_patch(o, (uint64_t)(kv->data - x->head), items, size, e);
}
