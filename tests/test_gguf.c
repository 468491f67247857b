// Tests of core/gguf: what is built is read back the same; what is broken is refused, and whatever
// is accepted lies inside its buffer. Buffers have exactly the file's size, so that a sanitizer
// sees every byte too far.
#include "raw.h"
#include "test.h"

#include <dirent.h>
#include <unistd.h>

static char temp_path[64];
static const char *temp(void) {
    if (!*temp_path) {
        strcpy(temp_path, "/tmp/tensorllm-gguf-XXXXXX");
        int fd = mkstemp(temp_path);
        if (fd < 0) abort();
        close(fd);
    }
    return temp_path;
}

// ---- a model to play with -----------------------------------------------------------------------

static const int64_t shapes[][4] = {{64, 3}, {7}, {32, 2, 2}, {1, 1, 1, 5}, {256, 1}};
static const int shape_types[] = {T_Q8_0, T_F32, T_Q4_1, T_BF16, T_Q6_K};
static const int shape_dims[] = {2, 1, 3, 4, 2};
static const char name_64[] = "a name that is sixty-four bytes long 012345678901234567890123456";
_Static_assert(sizeof name_64 == 64 + 1, "the longest name");
static const char *const shape_names[] = {"blk.0.w", "norm", "cube", "four", name_64};
static const int32_t ranks[] = {3, -1, 1 << 30, 7};
static const Str pieces[] = {{"<unk>", 5}, {"", 0}, {"a\0b", 3}, {"\xe2\x96\x81", 3}};

static size_t tensor_bytes(int i) {
    int64_t rows = 1;
    size_t row = 0;
    for (int d = 1; d < shape_dims[i]; d++) rows *= shapes[i][d];
    row_size(shape_types[i], shapes[i][0], &row);
    return row * (size_t)rows;
}

static uint8_t tensor_byte(int i, size_t at) { return (uint8_t)(37 * i + 11 * (int)at + 1); }

// Tensor i's data, freed by the caller.
static uint8_t *tensor_data(int i) {
    uint8_t *p = malloc(tensor_bytes(i));
    if (!p) abort();
    for (size_t at = 0; at < tensor_bytes(i); at++) p[at] = tensor_byte(i, at);
    return p;
}

static void set_all(GgufBuilder *b) {
    static const uint8_t flags[] = {1, 0, 1};
    static const double wide[] = {0.1, -1e300};
    gguf_set_str(b, "general.architecture", "test", 4);
    gguf_set_int(b, "i.u8", GGUF_U8, 255);
    gguf_set_int(b, "i.i8", GGUF_I8, -128);
    gguf_set_int(b, "i.u16", GGUF_U16, 65535);
    gguf_set_int(b, "i.i16", GGUF_I16, -32768);
    gguf_set_int(b, "i.u32", GGUF_U32, 4294967295);
    gguf_set_int(b, "i.i32", GGUF_I32, INT32_MIN);
    gguf_set_int(b, "i.u64", GGUF_U64, INT64_MAX);
    gguf_set_int(b, "i.i64", GGUF_I64, INT64_MIN);
    gguf_set_float(b, "f", -0.25f);
    gguf_set_bool(b, "yes", true);
    gguf_set_bool(b, "no", false);
    gguf_set_array(b, "ranks", GGUF_I32, ranks, COUNT(ranks));
    gguf_set_array(b, "flags", GGUF_BOOL, flags, COUNT(flags));
    gguf_set_array(b, "wide", GGUF_F64, wide, COUNT(wide));
    gguf_set_array(b, "none", GGUF_U16, NULL, 0);
    gguf_set_strings(b, "pieces", pieces, COUNT(pieces));
    gguf_set_strings(b, "no pieces", NULL, 0);
}

// Writes a file with these keys (b is filled by the caller) and all tensors, in pieces of `step`
// bytes, and reads it back to *bytes.
static int write_file(GgufBuilder *b, size_t step, char **bytes, size_t *size, Err *e) {
    for (int i = 0; i < COUNT(shapes); i++)
        gguf_add(b, shape_names[i], shape_types[i], shape_dims[i], shapes[i], NULL);
    FileOut o;
    if (out_open(&o, temp(), e)) return -1;
    int result = gguf_begin(b, &o, e);
    for (int i = 0; i < COUNT(shapes) && !result; i++) {
        uint8_t *p = tensor_data(i);
        for (size_t at = 0; at < tensor_bytes(i) && !result; at += step) {
            size_t n = tensor_bytes(i) - at < step ? tensor_bytes(i) - at : step;
            result = gguf_put(b, &o, p + at, n, e);
        }
        free(p);
    }
    if (!result) result = gguf_end(b, &o, e);
    if (!result) result = out_commit(&o, e);
    out_abort(&o);
    return result ? -1 : read_file(temp(), 1 << 20, bytes, size, e);
}

// A whole small file, freed by the caller.
static uint8_t *small_file(size_t *size) {
    Err e = {""};
    char *bytes = NULL;
    GgufBuilder *b = gguf_builder(&e);
    set_all(b);
    if (write_file(b, 1000, &bytes, size, &e)) {
        printf("  %s\n", e.msg);
        abort();
    }
    gguf_builder_free(b);
    return (uint8_t *)bytes;
}

// Reads every byte an index leads to; false when a tensor is not inside data.
static volatile uint64_t sum_sink;
static bool touch(const Gguf *g, const uint8_t *data, size_t size) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < g->n_kv; i++) {
        const GgufKv *kv = &g->kv[i];
        for (uint64_t k = 0; k < kv->count; k++) {
            if (kv->strings)
                for (size_t c = 0; c < kv->strings[k].n; c++) sum += (uint8_t)kv->strings[k].s[c];
            else if (kv->item == GGUF_F32 || kv->item == GGUF_F64)
                sum += gguf_item_float(kv, k) > 0;
            else
                sum += (uint64_t)gguf_item_int(kv, k);
        }
    }
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const GgufTensor *t = &g->tensor[i];
        const uint8_t *p = t->data;
        if (p < data || p > data + size || t->size > (size_t)(data + size - p)) return false;
        for (size_t c = 0; c < t->size; c++) sum += p[c];
    }
    sum_sink += sum;
    return true;
}

// Parses a copy of its own size: 1 accepted, 0 refused, -1 accepted though it leads outside.
static int try_parse(const uint8_t *bytes, size_t size, Err *e) {
    uint8_t *exact = malloc(size ? size : 1);
    if (!exact) abort();
    if (size) memcpy(exact, bytes, size);
    Gguf g;
    int result = 0;
    if (!gguf_parse(&g, exact, size, "file", e)) result = touch(&g, exact, size) ? 1 : -1;
    gguf_free(&g);
    free(exact);
    return result;
}

static bool same(const Gguf *a, const Gguf *b) {
    if (a->n_kv != b->n_kv || a->n_tensors != b->n_tensors || a->alignment != b->alignment)
        return false;
    for (uint64_t i = 0; i < a->n_kv; i++) {
        const GgufKv *x = &a->kv[i], *y = &b->kv[i];
        if (x->key.n != y->key.n || memcmp(x->key.s, y->key.s, x->key.n) || x->type != y->type ||
            x->item != y->item || x->count != y->count || !x->strings != !y->strings)
            return false;
        for (uint64_t k = 0; k < x->count; k++)
            if (x->strings ? x->strings[k].n != y->strings[k].n ||
                             memcmp(x->strings[k].s, y->strings[k].s, x->strings[k].n)
                : x->item == GGUF_F32 || x->item == GGUF_F64
                    ? gguf_item_float(x, k) != gguf_item_float(y, k)
                    : gguf_item_int(x, k) != gguf_item_int(y, k))
                return false;
    }
    for (uint64_t i = 0; i < a->n_tensors; i++) {
        const GgufTensor *x = &a->tensor[i], *y = &b->tensor[i];
        if (x->name.n != y->name.n || memcmp(x->name.s, y->name.s, x->name.n) ||
            x->type != y->type || x->n_dims != y->n_dims || memcmp(x->ne, y->ne, sizeof x->ne) ||
            x->size != y->size || (x->data && y->data && memcmp(x->data, y->data, x->size)))
            return false;
    }
    return true;
}

// ---- good files ---------------------------------------------------------------------------------

static int round_trip(void) {
    Err e = {""};
    char *first = NULL, *second = NULL;
    size_t n_first, n_second;
    Gguf built, opened;
    GgufBuilder *b = gguf_builder(&e);
    CHECK(b, "%s", e.msg);
    gguf_set_bool(b, "i.u8", true);                       // replaced by set_all
    gguf_set_bool(b, "unset", true);
    set_all(b);
    gguf_unset(b, "unset");
    gguf_unset(b, "never set");
    CHECK(!write_file(b, 1000000, &first, &n_first, &e), "%s", e.msg);
    CHECK(!gguf_build(b, "built", &built, &e), "%s", e.msg);
    CHECK(!gguf_open(&opened, temp(), &e), "%s", e.msg);
    CHECK(same(&built, &opened), "what was built is not what was read");
    CHECK(opened.n_kv == 18 && opened.n_tensors == COUNT(shapes), "%ju keys, %ju tensors",
          (uintmax_t)opened.n_kv, (uintmax_t)opened.n_tensors);
    for (int i = 0; i < COUNT(shapes); i++) {
        const GgufTensor *t = gguf_tensor(&opened, shape_names[i]);
        CHECK(t && t == &opened.tensor[i], "%s", shape_names[i]);
        CHECK(t->type == shape_types[i] && t->n_dims == shape_dims[i] && t->size == tensor_bytes(i),
              "%s: type %d, %d dims, %zu bytes", shape_names[i], t->type, t->n_dims, t->size);
        CHECK((uintptr_t)t->data % 32 == 0, "%s: at %p", shape_names[i], t->data);
        for (int d = 0; d < 4; d++) {
            int64_t ne = d < shape_dims[i] ? shapes[i][d] : 1;
            CHECK(t->ne[d] == ne, "%s: ne[%d] %jd", shape_names[i], d, (intmax_t)t->ne[d]);
        }
        for (size_t c = 0; c < t->size; c++)
            CHECK(((const uint8_t *)t->data)[c] == tensor_byte(i, c), "%s, byte %zu: %u, not %u",
                  shape_names[i], c, ((const uint8_t *)t->data)[c], tensor_byte(i, c));
    }
    // Copied key by key, in small writes: the same bytes.
    GgufBuilder *copy = gguf_builder(&e);
    for (uint64_t i = 0; i < opened.n_kv; i++) gguf_set_copy(copy, &opened.kv[i]);
    CHECK(!write_file(copy, 13, &second, &n_second, &e), "%s", e.msg);
    CHECK(n_first == n_second && !memcmp(first, second, n_first), "copies differ");
    gguf_builder_free(copy);
    gguf_builder_free(b);                                 // neither index borrows from it now
    CHECK(gguf_has(&built, "norm") && gguf_has(&opened, "norm"), "after the builder");
    gguf_free(&built);
    gguf_free(&opened);
    gguf_free(&opened);
    free(first);
    free(second);
    return PASS;
}

// An index built over data in memory is used as if it had been read.
static int built_data(void) {
    Err e = {""};
    Gguf g;
    uint8_t *data = tensor_data(1);
    const float *v = NULL;
    GgufBuilder *b = gguf_builder(&e);
    gguf_add(b, "norm", T_F32, 1, shapes[1], data);
    gguf_add(b, "later", T_F32, 1, shapes[1], NULL);
    CHECK(!gguf_build(b, "built", &g, &e), "%s", e.msg);
    CHECK(!gguf_vec(&g, "norm", 7, &v, &e) && (const void *)v == data, "%s", e.msg);
    CHECK(gguf_tensor(&g, "later")->data == NULL, "data of a tensor to be streamed");
    gguf_free(&g);
    gguf_builder_free(b);
    gguf_builder_free(NULL);
    free(data);
    return PASS;
}

static int patching(void) {
    Err e = {""};
    FileOut o;
    Gguf g;
    int32_t later[COUNT(ranks)] = {9, 8, 7, 6};
    GgufBuilder *b = gguf_builder(&e);
    set_all(b);
    CHECK(!out_open(&o, temp(), &e) && !gguf_begin(b, &o, &e), "%s", e.msg);
    CHECK(!gguf_patch(b, &o, "ranks", later, sizeof later, &e), "%s", e.msg);
    CHECK(gguf_patch(b, &o, "ranks", later, 4, &e) && strstr(e.msg, "ranks"), "%s", e.msg);
    CHECK(gguf_patch(b, &o, "pieces", later, 4, &e), "strings patched");
    CHECK(gguf_patch(b, &o, "f", later, 4, &e), "no array, patched");
    CHECK(gguf_patch(b, &o, "absent", later, 4, &e), "nothing, patched");
    CHECK(!gguf_end(b, &o, &e) && !out_commit(&o, &e), "%s", e.msg);
    gguf_builder_free(b);
    CHECK(!gguf_open(&g, temp(), &e), "%s", e.msg);
    const GgufKv *kv = gguf_kv(&g, "ranks");
    for (int i = 0; i < COUNT(later); i++)
        CHECK(gguf_item_int(kv, (uint64_t)i) == later[i], "%d: %jd", i,
              (intmax_t)gguf_item_int(kv, (uint64_t)i));
    gguf_free(&g);
    return PASS;
}

static int getters(void) {
    Err e = {""};
    Gguf g;
    size_t size;
    uint8_t *bytes = small_file(&size);
    CHECK(!gguf_parse(&g, bytes, size, "file", &e), "%s", e.msg);
    static const struct { const char *key; int64_t v; } ints[] = {
        {"i.u8", 255}, {"i.i8", -128}, {"i.u16", 65535}, {"i.i16", -32768}, {"i.u32", 4294967295},
        {"i.i32", INT32_MIN}, {"i.u64", INT64_MAX}, {"i.i64", INT64_MIN},
    };
    for (int k = 0; k < COUNT(ints); k++) {
        int64_t v = 5, n = ints[k].v;
        CHECK(!gguf_get_int(&g, ints[k].key, n, n, &v, &e) && v == n, "%s: %jd", ints[k].key,
              (intmax_t)v);
        v = 5;
        bool top = n == INT64_MAX;
        CHECK(gguf_get_int(&g, ints[k].key, top ? 0 : n + 1, top ? n - 1 : INT64_MAX, &v, &e) &&
              v == 5 && strstr(e.msg, ints[k].key), "%s: %s", ints[k].key, e.msg);
    }
    int64_t i = 5;
    double d = 5;
    bool yes = false, no = true, kept = true;
    Str s = {"kept", 4};
    CHECK(!gguf_get_int(&g, "absent", 0, 1, &i, &e) && i == 5, "%jd", (intmax_t)i);
    CHECK(!gguf_get_float(&g, "absent", &d, &e) && d == 5, "%g", d);
    CHECK(!gguf_get_bool(&g, "absent", &kept, &e) && kept, "absent");
    CHECK(!gguf_get_str(&g, "absent", &s, &e) && str_is(s, "kept"), "absent");
    CHECK(!gguf_get_float(&g, "f", &d, &e) && d == -0.25, "%g", d);
    CHECK(!gguf_get_bool(&g, "yes", &yes, &e) && yes && !gguf_get_bool(&g, "no", &no, &e) && !no,
          "%s", e.msg);
    CHECK(!gguf_get_str(&g, "general.architecture", &s, &e) && str_is(s, "test"), "%.*s", (int)s.n,
          s.s);
    CHECK(!str_is(s, "tes") && !str_is(s, "tests") && !str_is(s, ""), "str_is");
    static const char *const wrong[] = {"f", "yes", "ranks", "pieces", "general.architecture"};
    for (int k = 0; k < COUNT(wrong); k++)
        CHECK(gguf_get_int(&g, wrong[k], 0, 9, &i, &e) && strstr(e.msg, wrong[k]), "%s", e.msg);
    CHECK(gguf_get_float(&g, "i.u8", &d, &e) && gguf_get_bool(&g, "i.u8", &yes, &e) &&
          gguf_get_str(&g, "pieces", &s, &e) && gguf_get_float(&g, "wide", &d, &e), "wrong types");
    const GgufKv *kv = gguf_kv(&g, "wide");
    CHECK(kv && kv->count == 2 && gguf_item_float(kv, 0) == 0.1 && gguf_item_float(kv, 1) == -1e300,
          "wide");
    kv = gguf_kv(&g, "pieces");
    CHECK(kv && kv->type == GGUF_ARR && kv->item == GGUF_STR && kv->count == COUNT(pieces),
          "pieces");
    for (int k = 0; k < COUNT(pieces); k++)
        CHECK(kv->strings[k].n == pieces[k].n &&
              !memcmp(kv->strings[k].s, pieces[k].s, pieces[k].n), "piece %d", k);
    CHECK(gguf_kv(&g, "none")->count == 0 && gguf_kv(&g, "no pieces")->count == 0, "empty arrays");
    CHECK(!gguf_kv(&g, "") && !gguf_kv(&g, "zzz") && !gguf_tensor(&g, "nor"), "found the absent");

    Mat w;
    const float *v;
    CHECK(!gguf_mat(&g, "blk.0.w", 3, 64, &w, &e) && w.rows == 3 && w.cols == 64 &&
          w.type == T_Q8_0, "%s", e.msg);
    CHECK(!gguf_mat(&g, "blk.0.w", -1, -1, &w, &e), "%s", e.msg);
    CHECK(!gguf_vec(&g, "norm", 7, &v, &e) && !gguf_mat(&g, "norm", 1, 7, &w, &e), "%s", e.msg);
    CHECK(gguf_mat(&g, "blk.0.w", 64, 3, &w, &e) && strstr(e.msg, "(3, 64)") &&
          strstr(e.msg, "(64, 3)"), "%s", e.msg);
    CHECK(gguf_mat(&g, "blk.0.w", -1, 3, &w, &e) && strstr(e.msg, "(any, 3)"), "%s", e.msg);
    CHECK(gguf_mat(&g, "absent", -1, -1, &w, &e) && strstr(e.msg, "absent"), "%s", e.msg);
    CHECK(gguf_mat(&g, "cube", -1, -1, &w, &e), "a cube for a matrix");
    CHECK(gguf_vec(&g, "norm", 8, &v, &e) && gguf_vec(&g, "blk.0.w", 64, &v, &e), "%s", e.msg);
    gguf_free(&g);
    CHECK(!gguf_kv(&g, "f") && !gguf_tensor(&g, "norm"), "an empty index");
    free(bytes);
    return PASS;
}

// ---- what the builder refuses -------------------------------------------------------------------

static int builds(void (*change)(GgufBuilder *b), Err *e) {
    Gguf g;
    GgufBuilder *b = gguf_builder(e);
    set_all(b);
    change(b);
    int result = gguf_build(b, "built", &g, e);
    gguf_free(&g);
    gguf_builder_free(b);
    return result;
}

static const int64_t ok_ne[] = {32, 1}, zero_ne[] = {32, 0}, huge_ne[] = {INT64_MAX / 2, 4};
static void nothing(GgufBuilder *b) { (void)b; }
static void twice(GgufBuilder *b) {
    gguf_add(b, "same", T_F32, 1, ok_ne, NULL);
    gguf_add(b, "same", T_F32, 1, ok_ne, NULL);
}
static void long_name(GgufBuilder *b) {
    char name[66];
    snprintf(name, sizeof name, "%s5", name_64);
    gguf_add(b, name, T_F32, 1, ok_ne, NULL);
}
static void no_dims(GgufBuilder *b) { gguf_add(b, "w", T_F32, 0, ok_ne, NULL); }
static void five_dims(GgufBuilder *b) { gguf_add(b, "w", T_F32, 5, ok_ne, NULL); }
static void zero_dim(GgufBuilder *b) { gguf_add(b, "w", T_F32, 2, zero_ne, NULL); }
static void huge(GgufBuilder *b) { gguf_add(b, "w", T_F32, 2, huge_ne, NULL); }
static void odd_block(GgufBuilder *b) { gguf_add(b, "w", T_Q4_K, 1, ok_ne, NULL); }
static void bad_type(GgufBuilder *b) { gguf_add(b, "w", 27, 1, ok_ne, NULL); }
static void no_key(GgufBuilder *b) { gguf_set_bool(b, "", true); }
static void too_big(GgufBuilder *b) { gguf_set_int(b, "k", GGUF_U8, 256); }
static void negative(GgufBuilder *b) { gguf_set_int(b, "k", GGUF_U64, -1); }
static void no_int(GgufBuilder *b) { gguf_set_int(b, "k", GGUF_F32, 1); }
static void bad_items(GgufBuilder *b) { gguf_set_array(b, "k", GGUF_STR, ok_ne, 1); }
static void align_12(GgufBuilder *b) { gguf_set_int(b, "general.alignment", GGUF_U32, 12); }
static void align_i32(GgufBuilder *b) { gguf_set_int(b, "general.alignment", GGUF_I32, 32); }
static void align_64(GgufBuilder *b) {
    gguf_set_int(b, "general.alignment", GGUF_U32, 64);
    gguf_add(b, "a", T_F32, 1, ok_ne + 1, NULL);
    gguf_add(b, "b", T_F32, 1, ok_ne, NULL);
}

static int builder_refuses(void) {
    static const struct {
        const char *name;
        void (*change)(GgufBuilder *);
        const char *says;                                 // NULL: it is built
    } t[] = {
        {"nothing", nothing, NULL}, {"align 64", align_64, NULL},
        {"a tensor twice", twice, "same is there twice"}, {"long name", long_name, "65 bytes"},
        {"no dimensions", no_dims, "1 to 4"}, {"five dimensions", five_dims, "1 to 4"},
        {"zero", zero_dim, "impossible shape"}, {"huge", huge, "impossible shape"},
        {"block", odd_block, "blocks of 256"}, {"type", bad_type, "i64"},
        {"empty key", no_key, "empty"}, {"too big", too_big, "range"},
        {"negative", negative, "range"}, {"no integer", no_int, "integer"},
        {"items", bad_items, "numbers"}, {"align 12", align_12, "alignment"},
        {"align i32", align_i32, "u32"},
    };
    for (int i = 0; i < COUNT(t); i++) {
        Err e = {""};
        int result = builds(t[i].change, &e);
        CHECK(t[i].says ? result && strstr(e.msg, t[i].says) : !result, "%s: %d, %s", t[i].name,
              result, e.msg);
    }
    return PASS;
}

static int wrong_amounts(void) {
    static const uint8_t bytes[200];
    for (int way = 0; way < 4; way++) {
        Err e = {""};
        FileOut o;
        GgufBuilder *b = gguf_builder(&e);
        gguf_add(b, "a", T_F32, 1, ok_ne, NULL);
        CHECK(!out_open(&o, temp(), &e) && !gguf_begin(b, &o, &e), "%s", e.msg);
        CHECK(!gguf_put(b, &o, bytes, 100, &e), "%s", e.msg);
        if (way == 0)
            CHECK(gguf_put(b, &o, bytes, 29, &e) && strstr(e.msg, "expected 128"), "%s", e.msg);
        if (way == 1)
            CHECK(gguf_end(b, &o, &e) && strstr(e.msg, "100 bytes came"), "%s", e.msg);
        if (way == 2)
            CHECK(!gguf_put(b, &o, bytes, 28, &e) && gguf_put(b, &o, bytes, 1, &e), "%s", e.msg);
        if (way == 3) CHECK(gguf_begin(b, &o, &e), "begun in the middle of a file");
        out_abort(&o);
        gguf_builder_free(b);
    }
    return PASS;
}

// ---- broken files -------------------------------------------------------------------------------

static int verdict(const Raw *r, bool good, const char *says) {
    Err e = {""};
    int result = try_parse(r->bytes, r->n, &e);
    CHECK(result == good && (good || NARROW || strstr(e.msg, says)), "%d (%s), expected %d (%s)", result,
          e.msg, good, says);
    return PASS;
}

static int hand_made(void) {
    static const struct { const char *name; uint32_t type; uint64_t offset[2], ne[2]; size_t data;
                          const char *says; } t[] = {
        {"two tensors", 0, {0, 32}, {8, 1}, 64, NULL},
        {"in other order", 0, {32, 0}, {8, 1}, 64, NULL},
        {"a hole between", 0, {0, 64}, {8, 1}, 96, NULL},
        {"the same place", 0, {0, 0}, {8, 1}, 64, "overlap"},
        {"overlapping by four bytes", 0, {0, 32}, {9, 1}, 100, "overlap"},
        {"one byte short", 0, {0, 32}, {8, 1}, 63, "cut short"},
        {"offset behind the end", 0, {0, 96}, {8, 1}, 64, "cut short"},
        {"offset 2^40", 0, {0, (uint64_t)1 << 40}, {8, 1}, 64, "cut short"},
        {"offset that wraps", 0, {0, UINT64_MAX - 31}, {8, 1}, 64, "cut short"},
        {"odd offset", 0, {0, 33}, {8, 1}, 80, "multiple"},
        {"no columns", 0, {0, 32}, {0, 1}, 64, "impossible shape"},
        {"no rows", 0, {0, 32}, {8, 0}, 64, "impossible shape"},
        {"negative", 0, {0, 32}, {UINT64_MAX, 1}, 64, "impossible shape"},
        {"product wraps to 0", 0, {0, 32}, {(uint64_t)1 << 32, (uint64_t)1 << 32}, 64, "shape"},
        {"bytes wrap to 16", 0, {0, 32}, {((uint64_t)1 << 62) + 4, 1}, 64, "too"},
        {"2^42 + 1", 0, {0, 32}, {((uint64_t)1 << 42) + 1, 1}, 64, "cut short"},
        {"4 (2^30 - 1) (2^30 + 1)", 0, {0, 32}, {4 * (((uint64_t)1 << 30) - 1), (1 << 30) + 1}, 64,
         "cut short"},
        {"q8_0 rows of 40", T_Q8_0, {0, 64}, {40, 1}, 128, "blocks of 32"},
        {"i8", 24, {0, 32}, {8, 1}, 64, "i8"},
        {"f64", 28, {0, 64}, {8, 1}, 128, "f64"},
        {"iq2_xxs", 16, {0, 96}, {256, 1}, 512, "iq2_xxs"},
        {"iq1_m", 29, {0, 96}, {256, 1}, 512, "iq1_m"},
        {"mxfp4", 39, {0, 32}, {32, 1}, 64, "mxfp4"},
        {"type 1000", 1000, {0, 32}, {8, 1}, 64, "unknown"},
        {"type 2^31", 0x80000000, {0, 32}, {8, 1}, 64, "unknown"},
    };
    for (int i = 0; i < COUNT(t); i++) {
        Raw r = raw_head(3, 2, 0);
        raw_tensor(&r, "a", t[i].type, t[i].offset[0], t[i].ne[0], t[i].ne[1]);
        raw_tensor(&r, "b", t[i].type, t[i].offset[1], t[i].ne[0], t[i].ne[1]);
        raw_data(&r, t[i].data);
        CHECK(verdict(&r, !t[i].says, t[i].says) == PASS, "%s", t[i].name);
    }
    Raw r = raw_head(2, 1, 0);
    raw_tensor(&r, "a", 0, 0, 8, 1), raw_data(&r, 32);
    CHECK(verdict(&r, true, NULL) == PASS, "version 2");
    r.bytes[4] = 1;
    CHECK(verdict(&r, false, "version 1") == PASS, "version 1");

    r = raw_head(3, 0, 1);
    raw_str(&r, "a\0b", 3), raw_u32(&r, GGUF_U8), raw(&r, "", 1);
    CHECK(verdict(&r, false, "NUL") == PASS, "NUL in a key");
    r = raw_head(3, 0, 1);
    raw_str(&r, "", 0), raw_u32(&r, GGUF_U32), raw_u32(&r, 1);
    CHECK(verdict(&r, false, "empty") == PASS, "empty key");
    r = raw_head(3, 0, 1);
    raw_str(&r, "k", 1), raw_u32(&r, GGUF_BOOL), raw(&r, "\2", 1);
    CHECK(verdict(&r, false, "truth") == PASS, "a bool of 2");
    r = raw_head(3, 0, 1);
    raw_str(&r, "k", 1), raw_u32(&r, 13), raw_u64(&r, 0);
    CHECK(verdict(&r, false, "unknown type 13") == PASS, "type 13");
    r = raw_head(3, 0, 1);
    raw_str(&r, "k", 1), raw_u32(&r, GGUF_ARR), raw_u32(&r, 77), raw_u64(&r, 0);
    CHECK(verdict(&r, false, "unknown type 77") == PASS, "array of type 77");
    r = raw_head(3, 1, 0);
    raw_str(&r, "a\0b", 3), raw_u32(&r, 1), raw_u64(&r, 8), raw_u32(&r, 0), raw_u64(&r, 0);
    raw_data(&r, 32);
    CHECK(verdict(&r, false, "NUL") == PASS, "NUL in a tensor's name");

    static const struct { uint32_t v; bool good; } alignments[] = {
        {0, false}, {1, false}, {3, false}, {4, false}, {8, true}, {16, true}, {24, false},
        {32, true}, {64, true}, {1u << 20, true}, {1u << 21, false}, {1u << 31, false},
    };
    for (int i = 0; i < COUNT(alignments); i++) {
        r = raw_head(3, 0, 1);
        raw_str(&r, "general.alignment", 17), raw_u32(&r, GGUF_U32), raw_u32(&r, alignments[i].v);
        CHECK(verdict(&r, alignments[i].good, "alignment") == PASS, "%u", alignments[i].v);
    }
    Err e = {""};
    CHECK(try_parse(NULL, 0, &e) == 0 && strstr(e.msg, "empty"), "%s", e.msg);
    CHECK(try_parse((const uint8_t *)"hello, I am a text", 18, &e) == 0 &&
          strstr(e.msg, "not a GGUF"), "%s", e.msg);
    return PASS;
}

static int cut_anywhere(void) {
    Err e = {""};
    size_t size;
    uint8_t *bytes = small_file(&size);
    Gguf g;
    CHECK(!gguf_parse(&g, bytes, size, "file", &e), "%s", e.msg);
    const GgufTensor *last = &g.tensor[g.n_tensors - 1];
    size_t needed = (size_t)((const uint8_t *)last->data - bytes) + last->size;
    gguf_free(&g);
    for (size_t n = 0; n <= size; n++) {
        int result = try_parse(bytes, n, &e);
        CHECK(result == (n >= needed), "cut to %zu of %zu bytes: %d", n, size, result);
    }
    free(bytes);
    return PASS;
}

static int flip_anything(void) {
    size_t size;
    int accepted = 0, refused = 0;
    uint8_t *bytes = small_file(&size);
    for (size_t at = 0; at < size; at++) {
        uint8_t old = bytes[at];
        uint8_t put[] = {0, 0xff, (uint8_t)(old ^ 1), (uint8_t)(old ^ 0x80)};
        for (int k = 0; k < COUNT(put); k++) {
            Err e = {""};
            bytes[at] = put[k];
            int result = try_parse(bytes, size, &e);
            CHECK(result >= 0, "byte %zu = %u: a tensor outside the file", at, put[k]);
            CHECK(result || *e.msg, "byte %zu = %u: refused without a message", at, put[k]);
            if (result) accepted++;
            else refused++;
        }
        bytes[at] = old;
    }
    CHECK(accepted > 100 && refused > 100, "%d accepted, %d refused", accepted, refused);
    free(bytes);
    return PASS;
}

// Several bytes at once, at random places of the index.
static int flip_many(void) {
    size_t size;
    uint64_t state = 1;
    uint8_t *bytes = small_file(&size), *work = malloc(size);
    CHECK(work, "memory");
    for (int round = 0; round < 5000; round++) {
        Err e = {""};
        memcpy(work, bytes, size);
        for (int k = (int)(random_u64(&state) % 8) + 1; k > 0; k--) {
            uint64_t r = random_u64(&state);
            work[r % size] = r >> 62 ? (uint8_t)(r >> 40) : (uint8_t)(r >> 60);
        }
        CHECK(try_parse(work, size, &e) >= 0, "round %d: a tensor outside the file", round);
    }
    free(work);
    free(bytes);
    return PASS;
}

// A hundred thousand keys and tensors take little time; the last being there twice is noticed.
static int many(void) {
    enum { N = 100000 };
    for (int twice_there = 0; twice_there < 2; twice_there++) {
        size_t at = 24, index = 24 + (size_t)N * (20 + 39); // bytes of a key and of a tensor
        size_t data = (index + 31) / 32 * 32, size = data + (size_t)N * 32;
        uint8_t *p = calloc(size, 1);
        CHECK(p, "memory");
        uint64_t counts[2] = {N, N}, length = 7;
        memcpy(p, "GGUF\3\0\0\0", 8), memcpy(p + 8, counts, 16);
        char name[16];
        for (int i = 0; i < N; i++, at += 20) {
            snprintf(name, sizeof name, "%07d", (int)((int64_t)i * 7919 % N));
            memcpy(p + at, &length, 8), memcpy(p + at + 8, name, 7);
        }
        for (int i = 0; i < N; i++, at += 39) {
            uint64_t ne = 1, offset = 32 * (uint64_t)(N - 1 - i);
            uint32_t one = 1, f32 = 0;
            snprintf(name, sizeof name, "%07d", twice_there && i == N - 1 ? 0 : i);
            memcpy(p + at, &length, 8), memcpy(p + at + 8, name, 7);
            memcpy(p + at + 15, &one, 4), memcpy(p + at + 19, &ne, 8);
            memcpy(p + at + 27, &f32, 4), memcpy(p + at + 31, &offset, 8);
        }
        Gguf g;
        Err e = {""};
        double start = seconds();
        int result = gguf_parse(&g, p, size, "many", &e);
        CHECK(twice_there ? result && strstr(e.msg, "0000000 is there twice") : !result, "%s",
              e.msg);
        if (!result) CHECK(gguf_has(&g, "0054321") && gguf_kv(&g, "0099999"), "lookup");
        CHECK(seconds() - start < 5, "%g s", seconds() - start);
        gguf_free(&g);
        free(p);
    }
    return PASS;
}

// ---- files made by others -----------------------------------------------------------------------

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

// These are good files for this module; what is wrong with some is for the model or the tokenizer.
static bool expected_good(const char *name) {
    static const char *const good[] = {
        "valid-small.gguf", "v3-empty.bin", "gguf_arch_u32.gguf", "gguf_block_count_0.gguf",
        "gguf_block_count_ffffffff.gguf", "gguf_bos_out_of_range.gguf",
        "gguf_vocab_byte_tok_neg.gguf",
    };
    for (int i = 0; i < COUNT(good); i++)
        if (!strcmp(name, good[i])) return true;
    return strstr(name, "_ok") != NULL;
}

static int malformed(void) {
    const char *note = data_path("malformed/MALFORMED.md");
    if (!note) return SKIP;
    char folder[1024], path[1300];
    snprintf(folder, sizeof folder, "%.*s", (int)(strlen(note) - strlen("/MALFORMED.md")), note);
    DIR *dir = opendir(folder);
    CHECK(dir, "%s", folder);
    int seen = 0;
    size_t before = peak_memory();
    double start = seconds();
    for (struct dirent *entry; (entry = readdir(dir));) {
        const char *name = entry->d_name;
        if (!ends_with(name, ".gguf") && !ends_with(name, ".bin")) continue;
        snprintf(path, sizeof path, "%s/%s", folder, name);
        Err e = {""};
        char *bytes;
        size_t size;
        CHECK(!read_file(path, 1 << 26, &bytes, &size, &e), "%s", e.msg);
        int result = try_parse((uint8_t *)bytes, size, &e);
        CHECK(result == expected_good(name), "%s: %d, %s", name, result, e.msg);
        CHECK(result || *e.msg, "%s: refused without a message", name);
        Gguf g;
        CHECK(!gguf_open(&g, path, &e) == expected_good(name), "%s: opened, %s", name, e.msg);
        gguf_free(&g);
        free(bytes);
        seen++;
    }
    closedir(dir);
    CHECK(seen >= 30, "%d files", seen);
    CHECK(peak_memory() - before < 64 << 20, "%zu bytes taken", peak_memory() - before);
    CHECK(seconds() - start < 5, "%g s", seconds() - start);
    return PASS;
}

static int real_files(void) {
    static const struct { const char *name; uint64_t n_tensors, tokens; } files[] = {
        {"models/llama-2-tiny-random.gguf", 12, 32000},
        {"tokenizers/ggml-vocab-gpt-2.gguf", 0, 50257},
        {"tokenizers/ggml-vocab-llama-spm.gguf", 0, 32000},
    };
    int seen = 0;
    for (int i = 0; i < COUNT(files); i++) {
        const char *path = data_path(files[i].name);
        if (!path) continue;
        Err e = {""};
        Gguf g;
        CHECK(!gguf_open(&g, path, &e), "%s", e.msg);
        const GgufKv *kv = gguf_kv(&g, "tokenizer.ggml.tokens");
        CHECK(g.n_tensors == files[i].n_tensors && kv && kv->count == files[i].tokens,
              "%s: %ju tensors, %ju tokens", path, (uintmax_t)g.n_tensors,
              kv ? (uintmax_t)kv->count : 0);
        CHECK(touch(&g, g.map.data, g.map.size), "%s: a tensor outside the file", path);
        gguf_free(&g);
        seen++;
    }
    return seen ? PASS : SKIP;
}

// Behind 5 GB of nothing, which takes no room on the disk: offsets of more than 32 bits.
static int far_away(void) {
    enum { ROWS = 5 << 18, COLS = 1024, LAST = 8 };
    const float value[LAST] = {1, 2, 3, 4, 5, 6, 7, 8}, *got;
    Err e = {""};
    FileOut o;
    Gguf g;
    if (NARROW) return SKIP;
    GgufBuilder *b = gguf_builder(&e);
    gguf_add(b, "far.weight", T_F32, 2, (int64_t[4]){COLS, ROWS, 1, 1}, NULL);
    gguf_add(b, "last", T_F32, 1, (int64_t[4]){LAST, 1, 1, 1}, NULL);
    const uint64_t size = gguf_size(b, &e);
    CHECK(size > (uint64_t)5 << 30, "%s: %llu", e.msg, (unsigned long long)size);
    CHECK(!out_open(&o, temp(), &e) && !gguf_begin(b, &o, &e) && !out_flush(&o, &e), "%s", e.msg);
    CHECK(!fseeko(o.f, (off_t)(size - sizeof value), SEEK_SET), "no seek");
    if (fwrite(value, sizeof value, 1, o.f) != 1 || fflush(o.f)) {       // no files as large as that here
        out_abort(&o);
        gguf_builder_free(b);
        return SKIP;
    }
    CHECK(!out_commit(&o, &e) && !gguf_open(&g, temp(), &e), "%s", e.msg);
    CHECK(!gguf_vec(&g, "last", LAST, &got, &e), "%s", e.msg);
    CHECK(!memcmp(got, value, sizeof value), "%g %g", got[0], got[LAST - 1]);
    gguf_free(&g);
    gguf_builder_free(b);
    return PASS;
}

static int no_file(void) {
    Err e = {""};
    Gguf g;
    CHECK(gguf_open(&g, "/nonexistent/model.gguf", &e) && strstr(e.msg, "model.gguf"), "%s", e.msg);
    gguf_free(&g);
    CHECK(gguf_open(&g, "/tmp", &e) && strstr(e.msg, "folder"), "%s", e.msg);
    gguf_free(&g);
    FILE *f = fopen(temp(), "wb");
    CHECK(f && !fclose(f), "%s", temp());
    CHECK(gguf_open(&g, temp(), &e) && strstr(e.msg, "empty"), "%s", e.msg);
    gguf_free(&g);
    return PASS;
}

static const Test tests[] = {
    {"round trip", round_trip}, {"built data", built_data}, {"patching", patching},
    {"getters", getters}, {"builder refuses", builder_refuses}, {"wrong amounts", wrong_amounts},
    {"hand-made", hand_made}, {"cut anywhere", cut_anywhere}, {"flip anything", flip_anything},
    {"flip many", flip_many}, {"many", many}, {"malformed", malformed}, {"real files", real_files},
    {"far away", far_away}, {"no file", no_file},
};

int main(int argc, char **argv) {
    int result = run_tests("gguf", tests, COUNT(tests), argc, argv);
    remove(temp());
    return result;
}
