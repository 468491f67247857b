// Every class of malformed file that is known to have broken a parser of GGUF or safetensors, small and
// made here: what it was called where it was found, and that this program refuses it and says why. Copies
// end where the file ends, so that a sanitizer sees the first byte too far.
#include "../export/source.h"
#include "raw.h"
#include "test.h"

#include <sys/stat.h>
#include <unistd.h>

static Err err;
static bool says_so(int result, const char *says) {          // NULL: no error
    return says ? result && (NARROW || strstr(err.msg, says)) : !result;
}
static const uint64_t top = UINT64_MAX;

// ---- an index of GGUF -----------------------------------------------------------------------------

static int parse(const Raw *r) {
    uint8_t *copy = malloc(r->n ? r->n : 1);
    Gguf g;
    memcpy(copy, r->bytes, r->n);
    err.msg[0] = 0;
    int result = gguf_parse(&g, copy, r->n, "file", &err);
    gguf_free(&g);
    free(copy);
    return result;
}

static void dims(Raw *r, uint32_t n_dims, const uint64_t *ne, int written, uint32_t type, uint64_t offset) {
    raw_str(r, "w", 1), raw_u32(r, n_dims);
    for (int i = 0; i < written; i++) raw_u64(r, ne[i]);
    raw_u32(r, type), raw_u64(r, offset);
    raw_data(r, 64);
}
#define TENSOR(n_dims, type, offset, ...) do { const uint64_t ne[] = {__VA_ARGS__}; \
        *r = raw_head(3, 1, 0), dims(r, n_dims, ne, COUNT(ne), type, offset); } while (0)
static void key(Raw *r, uint32_t type) { *r = raw_head(3, 0, 1), raw_str(r, "k", 1), raw_u32(r, type); }
static void array(Raw *r, uint32_t item, uint64_t n) { key(r, GGUF_ARR), raw_u32(r, item), raw_u64(r, n); }

static void five_dims(Raw *r)        { TENSOR(5, 0, 0, 4, 1, 1, 1, 1); }
static void nine_dims(Raw *r)        { TENSOR(9, 0, 0, 4, 1, 1, 1, 1, 1, 1, 1, 1); }
static void all_dims(Raw *r)         { TENSOR(UINT32_MAX, 0, 0, 4, 1); }
static void no_dims(Raw *r)          { TENSOR(0, 0, 0, 4); }
static void items_wrap(Raw *r)       { array(r, GGUF_U64, (uint64_t)1 << 61), raw_u64(r, 0); }
static void items_2_63(Raw *r)       { array(r, GGUF_U8, (uint64_t)1 << 63), raw_u64(r, 0); }
static void strings_wrap(Raw *r)     { array(r, GGUF_STR, (uint64_t)1 << 60), raw_u64(r, 0); }
static void tensors_wrap(Raw *r)     { *r = raw_head(3, top / 8, 0); }
static void tensors_negative(Raw *r) { *r = raw_head(3, (uint64_t)1 << 63, 0); }
static void keys_wrap(Raw *r)        { *r = raw_head(3, 0, top / 16); }
static void string_wraps(Raw *r)     { key(r, GGUF_STR), raw_u64(r, top); }
static void key_wraps(Raw *r)        { *r = raw_head(3, 0, 1), raw_u64(r, top), raw_data(r, 64); }
static void name_wraps(Raw *r)       { *r = raw_head(3, 1, 0), raw_u64(r, top), raw_u32(r, 0), raw_data(r, 64); }
static void second_bad(Raw *r) {
    *r = raw_head(3, 0, 2), raw_str(r, "k", 1), raw_u32(r, GGUF_U8), raw(r, "", 1);
    raw_str(r, "l", 1), raw_u32(r, 99), raw_u64(r, 0);
}
static void no_key(Raw *r) { *r = raw_head(3, 0, 1), raw_str(r, "", 0), raw_u32(r, GGUF_U32), raw_u32(r, 1); }
static void nested(Raw *r)           { array(r, GGUF_ARR, 1), raw_u32(r, GGUF_ARR), raw_u64(r, 1), raw_u64(r, 0); }
static void no_columns(Raw *r)       { TENSOR(2, 0, 0, 0, 4); }
static void no_rows(Raw *r)          { TENSOR(2, 0, 0, 4, 0); }
static void no_plane(Raw *r)         { TENSOR(3, 0, 0, 4, 1, 0); }
static void nearly_2_64(Raw *r)      { TENSOR(4, 0, 0, 4, (1u << 30) - 1, (1u << 30) + 1, 1); }
static void sum_wraps(Raw *r)        { TENSOR(1, 0, 0, ((uint64_t)1 << 42) + 1); }
static void bytes_wrap(Raw *r)       { TENSOR(2, 0, 0, (uint64_t)1 << 60, 4); }
static void exabytes(Raw *r)         { TENSOR(2, 0, 0, (uint64_t)1 << 40, ((uint64_t)1 << 22) + 1); }
static void minus_one(Raw *r)        { TENSOR(2, 0, 0, top, 2); }
static void far_away(Raw *r)         { TENSOR(1, 0, (uint64_t)1 << 40, 4); }
static void wraps_inside(Raw *r)     { TENSOR(1, 0, top - 31, 4); }
static void behind_end(Raw *r)       { TENSOR(1, 0, 0, 17); }
static void a_removed_type(Raw *r)   { TENSOR(1, 4, 0, 32); }
static void a_negative_type(Raw *r)  { TENSOR(1, 0x80000000u, 0, 32); }
static void half_a_block(Raw *r)     { TENSOR(1, T_Q8_0, 0, 33); }
static void not_aligned(Raw *r)      { TENSOR(1, 0, 4, 4); }
static void named(Raw *r, size_t n) {
    char name[65];
    memset(name, 'a', sizeof name);
    *r = raw_head(3, 1, 0), raw_str(r, name, n), raw_u32(r, 1), raw_u64(r, 4), raw_u32(r, 0), raw_u64(r, 0);
    raw_data(r, 64);
}
static void long_name(Raw *r)        { named(r, 65); }
static void no_name(Raw *r)          { named(r, 0); }
static void two_names(Raw *r) {
    *r = raw_head(3, 2, 0), raw_tensor(r, "w", 0, 0, 4, 1), raw_tensor(r, "w", 0, 32, 4, 1), raw_data(r, 64);
}
static void two_keys(Raw *r) {
    *r = raw_head(3, 0, 2);
    for (int i = 0; i < 2; i++) raw_str(r, "k", 1), raw_u32(r, GGUF_U8), raw(r, "", 1);
}
static void aligned(Raw *r, uint32_t type, uint32_t alignment, uint64_t offset) {
    *r = raw_head(3, 1, 1), raw_str(r, "general.alignment", 17), raw_u32(r, type), raw_u32(r, alignment);
    raw_tensor(r, "w", 0, offset, 4, 1), raw_data(r, 160);
}
static void align_type(Raw *r)       { aligned(r, GGUF_I32, 32, 0); }
static void align_0(Raw *r)          { aligned(r, GGUF_U32, 0, 0); }
static void align_other(Raw *r)      { aligned(r, GGUF_U32, 64, 32); }
static void align_64(Raw *r)         { aligned(r, GGUF_U32, 64, 0); }
static void magic_only(Raw *r)       { *r = (Raw){.n = 0}, raw(r, "GGUF", 4); }
static void other_magic(Raw *r)      { *r = raw_head(3, 0, 0), r->bytes[0] = 'X'; }
static void version_1(Raw *r)        { *r = raw_head(1, 0, 0); }
static void version_4(Raw *r)        { *r = raw_head(4, 0, 0); }
static void big_endian(Raw *r)       { *r = raw_head(0x03000000, 0, 0); }
static void nothing(Raw *r)          { *r = raw_head(3, 0, 0); }
static void more_tensors(Raw *r)     { *r = raw_head(3, 3, 0), raw_tensor(r, "w", 0, 0, 4, 1), raw_data(r, 64); }
static void more_keys(Raw *r)        { key(r, GGUF_U8), raw(r, "", 1), r->bytes[16] = 2; }
static void half_a_key(Raw *r)       { key(r, GGUF_U64), raw_u32(r, 0); }

static int gguf_index(void) {
    static const struct { const char *id; void (*make)(Raw *); const char *says; } t[] = {   // says: NULL: it is good
        {"CVE-2024-21802: 5 dimensions", five_dims, "5 dimensions"}, {"gguf-tools #25: 9", nine_dims, "9 dimensions"},
        {"the most dimensions", all_dims, "4294967295 dimensions"}, {"BAD_N_DIMS: none", no_dims, "0 dimensions"},
        {"CVE-2024-21825: n items wrap", items_wrap, "items of type u64"},
        {"gguf-py PR 27188: n = 2^63", items_2_63, "items"},
        {"CVE-2024-21825: n strings wrap", strings_wrap, "items of type string"},
        {"CVE-2024-21836: n tensors wrap", tensors_wrap, "announces"},
        {"n tensors negative", tensors_negative, "announces"},
        {"CVE-2024-23605: n keys wrap", keys_wrap, "announces"},
        {"CVE-2024-23496: length + 1 wraps", string_wraps, "ends within"},
        {"mlx #4213: a key past the end", key_wraps, "ends within"},
        {"a name past the end", name_wraps, "ends within"},
        {"CVE-2024-32878: freed before it is set", second_bad, "unknown type 99"},
        {"PR 24263: key of length 0", no_key, "empty"},
        {"PR 27188: nested arrays", nested, "arrays of arrays"},
        {"issue 8816: no columns", no_columns, "impossible shape"},
        {"PR 26946: no rows", no_rows, "impossible shape"}, {"issue 19005: no numbers", no_plane, "impossible shape"},
        {"issue 26978: 2^64 - 16 bytes", nearly_2_64, "is the file cut short"},
        {"CVE-2025-53630: sum of sizes", sum_wraps, "is the file cut short"},
        {"CVE-2026-33298: bytes wrap", bytes_wrap, "too large"}, {"CVE-2026-27940: exabytes", exabytes, "too large"},
        {"gguf-rs #15: a dimension of -1", minus_one, "impossible shape"},
        {"mlx #4136: offset 2^40", far_away, "is the file cut short"},
        {"mlx #4136: an offset that wraps back", wraps_inside, "is the file cut short"},
        {"CVE-2026-7482: bytes behind the end", behind_end, "is the file cut short"},
        {"a type that was removed", a_removed_type, "removed"},
        {"BAD_TYPE", a_negative_type, "unknown"}, {"BAD_SHAPE: half a block", half_a_block, "blocks of 32"},
        {"BAD_OFFSET", not_aligned, "no multiple"}, {"BAD_NAME_SIZE", long_name, "65 bytes"},
        {"an empty name", no_name, "empty"},
        {"DUPLICATE_NAME", two_names, "twice"}, {"DUPLICATE_KEY", two_keys, "twice"},
        {"PR 25596: alignment of i32", align_type, "u32"},
        {"gguf-tools #27: alignment 0", align_0, "alignment is 0"},
        {"INCONSISTENT_ALIGN", align_other, "no multiple"},
        {"CUSTOM_ALIGN", align_64, NULL}, {"CVE-2024-39720: magic only", magic_only, "too short"},
        {"BAD_MAGIC", other_magic, "not a GGUF"},
        {"BAD_VERSION_1", version_1, "version 1"}, {"VERSION_FUTURE", version_4, "version 4"},
        {"big-endian", big_endian, "big-endian"},
        {"EMPTY", nothing, NULL}, {"BAD_N_TENSORS", more_tensors, "tensor"}, {"BAD_N_KV", more_keys, "announces"},
        {"BAD_KEY_SIZE", half_a_key, "4 bytes are left"},
    };
    for (int i = 0; i < COUNT(t); i++) {
        Raw r;
        t[i].make(&r);
        int result = parse(&r);
        CHECK(says_so(result, t[i].says), "%s: %d, \"%s\"", t[i].id, result, err.msg);
    }
    return PASS;
}

// ---- a model and its vocabulary -------------------------------------------------------------------

// The keys of a good file, some of them changed, with its tensors.
typedef void Change(GgufBuilder *b);
static int changed(Change *change, bool vocab) {
    Gguf from, g = {0};
    Model m = {0};
    Vocab v = {0};
    Tokenizer *t = NULL;
    err.msg[0] = 0;
    if (gguf_open(&from, "tests/corpus/gguf/llama.gguf", &err)) return -2;
    GgufBuilder *b = gguf_builder(&err);
    for (uint64_t i = 0; i < from.n_kv; i++) gguf_set_copy(b, &from.kv[i]);
    for (uint64_t i = 0; i < from.n_tensors; i++) {
        char name[GGUF_MAX_NAME + 1];
        snprintf(name, sizeof name, "%.*s", (int)from.tensor[i].name.n, from.tensor[i].name.s);
        gguf_add(b, name, from.tensor[i].type, from.tensor[i].n_dims, from.tensor[i].ne, from.tensor[i].data);
    }
    change(b);
    int result = gguf_build(b, "file", &g, &err);
    if (!result && !vocab) result = model_bind(&m, &g, &err);
    if (!result && vocab) result = vocab_from_gguf(&v, &g, &err) || !(t = tokenizer_new(&v, &err)) ? -1 : 0;
    tokenizer_free(t);
    vocab_free(&v);
    model_free(&m);
    gguf_free(&g);
    gguf_builder_free(b);
    gguf_free(&from);
    return result;
}

#define INT(name, key, value) static void name(GgufBuilder *b) { gguf_set_int(b, key, GGUF_U32, value); }
INT(no_layers, "llama.block_count", 0)
INT(all_layers, "llama.block_count", UINT32_MAX)
INT(many_layers, "llama.block_count", 4096)
INT(two_layers, "llama.block_count", 2)
INT(wide, "llama.embedding_length", UINT32_MAX)
INT(no_width, "llama.embedding_length", 0)
INT(no_heads, "llama.attention.head_count", 0)
INT(many_heads, "llama.attention.head_count", 65537)
INT(more_kv, "llama.attention.head_count_kv", 3)
INT(wide_heads, "llama.attention.key_length", 1 << 20)
INT(no_context, "llama.context_length", 0)
INT(odd_rotation, "llama.rope.dimension_count", 3)
INT(bos_far, "tokenizer.ggml.bos_token_id", 20)
INT(eos_far, "tokenizer.ggml.eos_token_id", UINT32_MAX - 1)
static void arch_u32(GgufBuilder *b) { gguf_set_int(b, "general.architecture", GGUF_U32, 7); }
static void layers_str(GgufBuilder *b) { gguf_set_str(b, "llama.block_count", "1", 1); }
static void layers_u64(GgufBuilder *b) { gguf_set_int(b, "llama.block_count", GGUF_U64, INT64_MAX); }
static void a_tensor_more(GgufBuilder *b) { gguf_add(b, "blk.9.x", T_F32, 1, (int64_t[]){1}, "abcd"); }
static void unchanged(GgufBuilder *b) { (void)b; }
static const char twenty[] = "01234567890123456789";
static void scores_u8(GgufBuilder *b) { gguf_set_array(b, "tokenizer.ggml.scores", GGUF_U8, twenty, 20); }
static void types_u8(GgufBuilder *b) { gguf_set_array(b, "tokenizer.ggml.token_type", GGUF_U8, twenty, 20); }
static void few_scores(GgufBuilder *b) { gguf_set_array(b, "tokenizer.ggml.scores", GGUF_F32, (float[2]){0}, 2); }
static void no_tokens(GgufBuilder *b) { gguf_set_strings(b, "tokenizer.ggml.tokens", NULL, 0); }
static void tokens_i32(GgufBuilder *b) { gguf_set_array(b, "tokenizer.ggml.tokens", GGUF_I32, (int32_t[20]){0}, 20); }

static void with_piece(GgufBuilder *b, const char *s, size_t n, int type) {
    Str piece[20];
    int32_t types[20];
    for (int i = 0; i < 20; i++) piece[i] = (Str){"x", 1}, types[i] = TOK_NORMAL;
    types[0] = TOK_UNKNOWN;
    piece[5] = (Str){s, n}, types[5] = type;
    gguf_set_strings(b, "tokenizer.ggml.tokens", piece, 20);
    gguf_set_array(b, "tokenizer.ggml.token_type", GGUF_I32, types, 20);
}
static void byte_negative(GgufBuilder *b) { with_piece(b, "<0x-1>", 6, TOK_BYTE); }
static void byte_letters(GgufBuilder *b) { with_piece(b, "<0xZZ>", 6, TOK_BYTE); }
static void byte_none(GgufBuilder *b) { with_piece(b, "", 0, TOK_BYTE); }
static void type_far(GgufBuilder *b) { with_piece(b, "a", 1, INT32_MIN); }
static void piece_long(GgufBuilder *b) {
    static char s[4097];
    memset(s, 'a', sizeof s);
    with_piece(b, s, sizeof s, TOK_NORMAL);
}

static int models(void) {
    static const struct { const char *id; Change *change; bool vocab; const char *says; } t[] = {
        {"unchanged", unchanged, false, NULL}, {"unchanged", unchanged, true, NULL},
        {"PR 25513: no layers", no_layers, false, "block_count"},
        {"PR 25513: 2^32 - 1 layers", all_layers, false, "block_count"},
        {"PR 25821: more layers than tensors", many_layers, false, "layers in a file of"},
        {"PR 26892: one layer more", two_layers, false, "blk.1."},
        {"CVE-2026-53923: a width beyond int", wide, false, "embedding_length"},
        {"no width", no_width, false, "embedding_length"},
        {"no heads", no_heads, false, "head_count"}, {"too many heads", many_heads, false, "head_count"},
        {"more KV heads than heads", more_kv, false, "head_count_kv"},
        {"heads too wide", wide_heads, false, "key_length"},
        {"no context", no_context, false, "context_length"}, {"an odd rotation", odd_rotation, false, "even"},
        {"a number for a name", arch_u32, false, "a string"},
        {"a name for a number", layers_str, false, "an integer"},
        {"layers beyond 32 bits", layers_u64, false, "block_count"},
        {"mlx PR 4179: a tensor that is no one's", a_tensor_more, false, "no place"},
        {"PR 26690: scores of u8", scores_u8, true, "expected an array of f32"},
        {"PR 26690: types of u8", types_u8, true, "expected an array of i32"},
        {"fewer scores than tokens", few_scores, true, "expected 20 items"},
        {"no tokens", no_tokens, true, "no tokens"},
        {"tokens of i32", tokens_i32, true, "expected an array of strings"},
        {"BOS beyond the vocabulary", bos_far, true, "below 20"},
        {"EOS beyond it", eos_far, true, "below 20"}, {"PR 25969: <0x-1>", byte_negative, true, "byte token"},
        {"issue 27226: <0xZZ>", byte_letters, true, "byte token"}, {"an empty byte", byte_none, true, "byte token"},
        {"a type that is none", type_far, true, "type"},
        {"CVE-2025-49847: a long token", piece_long, true, "4097 bytes"},
    };
    for (int i = 0; i < COUNT(t); i++) {
        int result = changed(t[i].change, t[i].vocab);
        CHECK(result != -2, "%s", err.msg);
        CHECK(says_so(result, t[i].says), "%s: %d, \"%s\"", t[i].id, result, err.msg);
    }
    return PASS;
}

// CVE-2026-53923: a dimension that an int does not hold. The file has all its bytes, as a hole.
static int rows_beyond_int(void) {
    if (NARROW) return SKIP;
    const uint64_t rows = ((uint64_t)1 << 31) + 1;
    char path[] = "/tmp/tensorllm-malformed-XXXXXX";
    Gguf from, g;
    Model m;
    int fd = mkstemp(path);
    CHECK(fd >= 0 && !gguf_open(&from, "tests/corpus/gguf/llama.gguf", &err), "%s", err.msg);
    GgufBuilder *b = gguf_builder(&err);
    for (uint64_t i = 0; i < from.n_kv; i++) gguf_set_copy(b, &from.kv[i]);
    gguf_add(b, "token_embd.weight", T_F16, 2, (int64_t[]){8, (int64_t)rows}, NULL);
    FileOut o;
    CHECK(!out_open(&o, path, &err) && !gguf_begin(b, &o, &err), "%s", err.msg);
    const off_t size = (off_t)o.at + (off_t)rows * 16 + 32;
    fflush(o.f);
    const bool room = !rename(o.part, path) && !truncate(path, size);
    int opened = room ? gguf_open(&g, path, &err) : -1, bound = opened ? -1 : model_bind(&m, &g, &err);
    out_abort(&o);
    if (!opened) gguf_free(&g);
    gguf_builder_free(b);
    gguf_free(&from);
    close(fd);
    remove(path);
    if (!room || strstr(err.msg, "cannot map")) return SKIP;          // no file system, or no addresses, for it
    CHECK(!opened, "%s", err.msg);
    CHECK(bound && strstr(err.msg, "token_embd.weight"), "%s", err.msg);
    return PASS;
}

// CVE-2025-52566: a prompt whose count of tokens an int does not hold is refused before a byte is read.
static int prompt_beyond_int(void) {
    Gguf g;
    Vocab v;
    int *ids = NULL;
    size_t n;
    CHECK(!gguf_open(&g, "tests/corpus/gguf/llama.gguf", &err) && !vocab_from_gguf(&v, &g, &err), "%s", err.msg);
    Tokenizer *t = tokenizer_new(&v, &err);
    CHECK(t, "%s", err.msg);
    for (int i = 0; i < 2; i++)
        CHECK(tokenizer_encode(t, "a", i ? SIZE_MAX : INT32_MAX, true, true, &ids, &n, &err) && !ids &&
            strstr(err.msg, "supported"), "%s", err.msg);
    tokenizer_free(t);
    vocab_free(&v);
    gguf_free(&g);
    return PASS;
}

// ---- safetensors ----------------------------------------------------------------------------------

static int parse_st(const char *header, uint64_t says, size_t data) {
    const size_t n = strlen(header), size = 8 + n + data;
    uint8_t *file = calloc(size, 1);
    Safetensors s;
    memcpy(file, &says, 8);
    memcpy(file + 8, header, n);
    err.msg[0] = 0;
    int result = safetensors_parse(&s, file, size, "file", &err);
    safetensors_free(&s);
    free(file);
    return result;
}

#define T(name, shape, span) "\"" name "\":{\"dtype\":\"F32\",\"shape\":[" shape "],\"data_offsets\":[" span "]}"
static int safetensors(void) {
    static const struct { const char *id, *header; int64_t length; size_t data; const char *says;
        } t[] = {   // length 0: as it is
        {"a good one", "{" T("a", "2", "0,8") "}", 0, 8, NULL},
        {"spaces at the end", "{" T("a", "2", "0,8") "}   ", 0, 8, NULL},
        {"nothing", "{}", 0, 0, NULL}, {"rank 0", "{" T("a", "", "0,4") "}", 0, 4, NULL},
        {"no numbers", "{" T("a", "0,5", "0,0") "}", 0, 0, NULL},
        {"fastllm #712: length near 2^64", "{}", -3, 0, "at most"},
        {"ollama #17148: negative", "{}", INT64_MIN, 0, "at most"},
        {"abuse attempt 1: length 1000 of 88 bytes", "{" T("a", "2", "0,8") "}", 1000, 8, "cut short"},
        {"a header over the limit", "{}", 100000001, 0, "at most"}, {"no header", "", 0, 0, "begin with"},
        {"another beginning", "[]", 0, 0, "begin with"},
        {"ollama #17148: no offsets", "{" T("a", "2", "") "}", 0, 8, "[begin, end]"},
        {"ollama #17148: one offset", "{" T("a", "2", "0") "}", 0, 8, "[begin, end]"},
        {"three", "{" T("a", "2", "0,8,8") "}", 0, 8, "[begin, end]"},
        {"ollama #17148: inverted", "{" T("a", "2", "8,0") "}", 0, 8, "[begin, end]"},
        {"fastllm #712: [32,8] in 65536 bytes", "{" T("a", "32,8", "0,65536") "}", 0, 65536, "its shape asks 1024"},
        {"mlx #3363: [1000,1000] in 4 bytes", "{" T("a", "1000,1000", "0,4") "}", 0, 4, "its shape asks 4000000"},
        {"go-huggingface PR 57: beyond the file", "{" T("a", "4", "0,16") "}", 0, 8, "cut short"},
        {"go-huggingface PR 57: negative", "{" T("a", "2", "-8,0") "}", 0, 8, "[begin, end]"},
        {"stable-diffusion.cpp PR 1754: from byte 0 of the file", "{" T("a", "2", "8,16") "}", 0, 8, "cut short"},
        {"imp #1603: unknown dtype", "{\"a\":{\"dtype\":\"F33\",\"shape\":[2],\"data_offsets\":[0,800]}}", 0, 8,
            "unknown dtype"},
        {"ferrox PR 56: 2^32 * 2^32", "{" T("a", "4294967296,4294967296", "0,0") "}", 0, 0, "too large"},
        {"ferrox PR 56: [2^63 + 2, 2]", "{" T("a", "9223372036854775810,2", "0,16") "}", 0, 16, "bad shape"},
        {"bits that wrap", "{" T("a", "576460752303423488", "0,0") "}", 0, 0, "too large"},
        {"a fraction", "{" T("a", "1.5", "0,6") "}", 0, 6, "bad shape"},
        {"polyglot: bytes behind the last", "{" T("a", "2", "0,8") "}", 0, 9, "follow the last"},
        {"polyglot: a hole", "{" T("a", "1", "0,4") "," T("b", "1", "8,12") "}", 0, 12, "begins at byte"},
        {"polyglot: before the first", "{" T("a", "1", "4,8") "}", 0, 8, "begins at byte"},
        {"an overlap", "{" T("a", "2", "0,8") "," T("b", "2", "4,12") "}", 0, 12, "begins at byte"},
        {"the same place", "{" T("a", "2", "0,8") "," T("b", "2", "0,8") "}", 0, 8, "begins at byte"},
        {"a key twice", "{" T("a", "1", "0,4") "," T("a", "1", "4,8") "}", 0, 8, "twice"},
        {"metadata that is a list", "{\"__metadata__\":[]}", 0, 0, "__metadata__"},
        {"of numbers", "{\"__metadata__\":{\"a\":1}}", 0, 0, "__metadata__"},
        {"half a header", "{" T("a", "2", "0,8"), 0, 8, "expected"},
        {"half a character", "{\"\\ud800\":1}", 0, 0, "surrogate"},
        {"more dimensions", "{" T("a", "1,1,1,1,1,1,1,1,1", "0,4") "}", 0, 4, "9 dimensions"},
    };
    for (int i = 0; i < COUNT(t); i++) {
        int result = parse_st(t[i].header, t[i].length ? (uint64_t)t[i].length : strlen(t[i].header), t[i].data);
        CHECK(says_so(result, t[i].says), "%s: %d, \"%s\"", t[i].id, result, err.msg);
    }
    return PASS;
}

// Abuse attempts 2 and 3, and headers of very many tensors: refused, or read, in little time and memory.
static int many_tensors(void) {
    enum { N = 100000 };
    char *header = malloc(N * 90);
    for (int way = 0; way < 2; way++) {                   // on one another; one behind the other
        size_t n = 0, before = peak_memory();
        for (int i = 0; i < N; i++)
            n += (size_t)sprintf(header + n,
                "%c\"t%d\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[%d,%d]}", i ? ',' : '{', i,
                                 way ? 16 * i : 0, way ? 16 * i + 16 : 16);
        strcpy(header + n, "}");
        int result = parse_st(header, n + 1, way ? 16 * N : 16);
        CHECK(way ? !result : result && strstr(err.msg, "begins at byte"), "%d: %s", way, err.msg);
        CHECK(peak_memory() - before < (size_t)400 << 20, "%zu bytes taken", peak_memory() - before);
    }
    free(header);
    return PASS;
}

// Lists whose members are looked for one by one end where that would take long.
static int long_lists(void) {
    GgufBuilder *b = gguf_builder(&err);
    Gguf g;
    char key[32], folder[] = "/tmp/tensorllm-malformed-XXXXXX", path[64];
    for (int i = 0; i < 20000; i++) {
        snprintf(key, sizeof key, "key.%d", i);
        gguf_set_bool(b, key, true);
    }
    CHECK(gguf_build(b, "file", &g, &err) && strstr(err.msg, "too many keys"), "%s", err.msg);
    gguf_free(&g);
    gguf_builder_free(b);

    Vocab v;
    CHECK(!gguf_open(&g, "tests/corpus/gguf/llama.gguf", &err) && !vocab_from_gguf(&v, &g, &err), "%s", err.msg);
    CHECK(mkdtemp(folder), "%s", folder);
    for (int n = 4096; n <= 4097; n++) {
        snprintf(path, sizeof path, "%s/special_tokens_map.json", folder);
        FILE *f = fopen(path, "w");
        CHECK(f, "%s", path);
        fputs("{\"additional_special_tokens\": [\"x\"", f);
        for (int i = 1; i < n; i++) fputs(", \"x\"", f);
        fputs("]}", f);
        fclose(f);
        int result = vocab_read_config(&v, folder, &err);
        CHECK(n == 4096 ? !result : result && strstr(err.msg, "4097 additional"), "%d: %s", n, err.msg);
    }
    remove(path);
    rmdir(folder);
    vocab_free(&v);
    gguf_free(&g);
    return PASS;
}

// What a file calls itself may be sent to a terminal in a message: it stays one line of text.
static int messages(void) {
    Raw r = raw_head(3, 1, 0);
    raw_tensor(&r, "w\x1b[31m\n\x7f", 99, 0, 4, 1), raw_data(&r, 64);
    CHECK(parse(&r) && !strchr(err.msg, '\x1b') && !strchr(err.msg, '\n') && !strchr(err.msg, '\x7f'), "%s", err.msg);
    static const char escapes[] = "{\"\\u001b[2J\\u009b\\n\":{\"dtype\":\"F32\"}}";
    CHECK(parse_st(escapes, strlen(escapes), 0) && strstr(err.msg, "needs a dtype") &&
          !strchr(err.msg, '\x1b') && !strchr(err.msg, '\n') && !strstr(err.msg, "\xC2\x9B"), "%s", err.msg);
    fail(&err, "caf\xC3\xA9 \xE4\xB8\xAD");
    CHECK(!strcmp(err.msg, "caf\xC3\xA9 \xE4\xB8\xAD"), "%s", err.msg);
    return PASS;
}

static const Test tests[] = {
    {"gguf index", gguf_index}, {"models", models}, {"rows beyond int", rows_beyond_int},
    {"prompt beyond int", prompt_beyond_int},
    {"safetensors", safetensors}, {"many tensors", many_tensors},
    {"long lists", long_lists}, {"messages", messages},
};

int main(int argc, char **argv) { return run_tests("malformed", tests, COUNT(tests), argc, argv); }
