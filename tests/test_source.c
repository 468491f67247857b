// Sources: safetensors files good and broken, llama2.c checkpoints, Hugging Face folders that the
// tests write themselves, and which of them source_open takes for what.
#include "../export/sha256.h"
#include "../export/source.h"
#include "test.h"

#include <sys/stat.h>
#include <unistd.h>

static Err err;
static char dir[256];                      // of this run; emptied by clean()

static const char *in_dir(const char *name) {
    static char path[4][512];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static bool put_file(const char *name, const void *data, size_t n) {
    FILE *f = fopen(in_dir(name), "wb");
    bool ok = f && fwrite(data, 1, n, f) == n;
    return f && fclose(f) == 0 && ok;
}

static void clean(void) {
    static const char *const names[] = {
        "config.json", "model.safetensors", "other.safetensors", "a.safetensors", "b.safetensors",
        "model.safetensors.index.json", "t.bin", "m.bin", "tokenizer.bin", "x.safetensors",
    };
    for (int i = 0; i < COUNT(names); i++) remove(in_dir(names[i]));
}

// ---- safetensors ----------------------------------------------------------------------------------

typedef struct { const char *name, *dtype; int n_dims; int64_t dims[2]; } Item;

// A file with these tensors; number k of the whole file is (k % 61) / 4 - 7, exact in every type.
static uint8_t *make_st(const Item *items, int n, size_t *size) {
    size_t room = 1 << 22, used = 8, at = 0, k = 0;
    uint8_t *file = malloc(room);
    if (!file) exit(1);
    used += (size_t)sprintf((char *)file + used, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < n; i++) {
        size_t count = (size_t)items[i].dims[0] * (items[i].n_dims == 2 ? (size_t)items[i].dims[1] : 1);
        size_t bytes = count * (strcmp(items[i].dtype, "F32") ? 2 : 4);
        char shape[64];
        snprintf(shape, sizeof shape, items[i].n_dims == 2 ? "%lld,%lld" : "%lld",
                 (long long)items[i].dims[0], (long long)items[i].dims[1]);
        used += (size_t)sprintf((char *)file + used,
            ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
            items[i].name, items[i].dtype, shape, at, at + bytes);
        at += bytes;
    }
    used += (size_t)sprintf((char *)file + used, "}");
    while (used % 8) file[used++] = ' ';
    uint64_t header = used - 8;
    memcpy(file, &header, 8);
    if (used + at > room) exit(1);
    for (int i = 0; i < n; i++) {
        size_t count = (size_t)items[i].dims[0] * (items[i].n_dims == 2 ? (size_t)items[i].dims[1] : 1);
        for (size_t j = 0; j < count; j++, k++) {
            float v = (float)(k % 61) / 4 - 7;
            uint16_t half = strcmp(items[i].dtype, "F16") ? f32_to_bf16(v) : f32_to_f16(v);
            bool wide = strcmp(items[i].dtype, "F32") == 0;
            memcpy(file + used, wide ? (void *)&v : (void *)&half, wide ? 4 : 2);
            used += wide ? 4 : 2;
        }
    }
    *size = used;
    return file;
}

static int st_reads(void) {
    static const Item items[] = {
        {"b", "F32", 2, {2, 3}}, {"a", "BF16", 1, {4, 0}}, {"empty", "F16", 2, {0, 5}},
        {"c.weight", "F16", 2, {1, 2}},
    };
    size_t n;
    uint8_t *file = make_st(items, COUNT(items), &n);
    Safetensors s;
    CHECK(safetensors_parse(&s, file, n, "file", &err) == 0, "%s", err.msg);
    CHECK(s.n == 4, "%zu tensors", s.n);
    const StTensor *t = safetensors_find(&s, "b");
    CHECK(t && t->type == T_F32 && t->n_dims == 2 && t->dims[0] == 2 && t->dims[1] == 3 && t->size == 24,
          "b");
    float v;
    memcpy(&v, (const uint8_t *)t->data + 20, 4);
    CHECK(v == 5 / 4.f - 7, "last of b is %g", v);
    t = safetensors_find(&s, "a");
    CHECK(t && t->type == T_BF16 && t->n_dims == 1 && t->dims[0] == 4 && t->size == 8, "a");
    t = safetensors_find(&s, "empty");
    CHECK(t && t->size == 0 && t->dims[0] == 0 && t->dims[1] == 5, "empty");
    CHECK(safetensors_find(&s, "c.weight") && !safetensors_find(&s, "c"), "names");
    safetensors_free(&s);
    free(file);
    static const char scalar[] = "{\"s\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]}}";
    uint8_t text[8 + sizeof scalar - 1 + 8] = {sizeof scalar - 1};
    memcpy(text + 8, scalar, sizeof scalar - 1);
    CHECK(safetensors_parse(&s, text, sizeof text, "file", &err) == 0, "rank 0: %s", err.msg);
    CHECK(s.n == 1 && s.tensor[0].n_dims == 0 && s.tensor[0].type == -1, "rank 0");
    safetensors_free(&s);
    uint8_t none[10] = {2, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    CHECK(safetensors_parse(&s, none, sizeof none, "file", &err) == 0 && s.n == 0, "{}: %s", err.msg);
    CHECK(!safetensors_find(&s, "a"), "found in an empty file");
    safetensors_free(&s);
    return PASS;
}

static int st_malformed(void) {
    static const struct { const char *name, *why; } files[] = {
        {"st_dtype_unknown", "F33"}, {"st_dup_key", "twice"}, {"st_hdr_len_0", "begin with '{'"},
        {"st_hdr_len_max", "at most"}, {"st_hdr_len_past_eof", "cut short"}, {"st_hole", "begins at"},
        {"st_json_array", "begin with '{'"}, {"st_json_bad_escape", "surrogate"},
        {"st_json_deep", "deeply"}, {"st_json_trunc", "is expected"}, {"st_metadata_list", "__metadata__"},
        {"st_not_from_0", "begins at"}, {"st_offsets_1elem", "[begin, end]"},
        {"st_offsets_2p64", "[begin, end]"}, {"st_offsets_empty", "[begin, end]"},
        {"st_offsets_inverted", "[begin, end]"}, {"st_offsets_past_eof", "cut short"},
        {"st_overlap", "begins at"}, {"st_shape_wrap", "too large"}, {"st_trailing", "follow"},
        {"st_trailing_spaces_ok", NULL}, {"st_many_tensors_20k_ok", NULL},
    };
    for (int i = 0; i < COUNT(files); i++) {
        char name[128];
        snprintf(name, sizeof name, "malformed/%s.safetensors", files[i].name);
        const char *path = data_path(name);
        if (!path) return SKIP;
        Safetensors s;
        int result = safetensors_open(&s, path, &err);
        CHECK((result == 0) == !files[i].why, "%s: %s", files[i].name, result ? err.msg : "was read");
        CHECK(!files[i].why || strstr(err.msg, files[i].why), "%s: message '%s' lacks '%s'",
              files[i].name, err.msg, files[i].why);
        if (!result) safetensors_free(&s);
        CHECK(!s.tensor && !s.owned && !s.map.data, "%s leaves something", files[i].name);
    }
    return PASS;
}

// Every cut is refused; a flipped byte is refused or gives tensors that lie within the file.
static int st_cut_and_flipped(void) {
    static const Item items[] = {{"w", "F32", 2, {2, 3}}, {"b", "BF16", 1, {4, 0}}};
    size_t n;
    uint8_t *file = make_st(items, COUNT(items), &n);
    Safetensors s;
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *copy = malloc(cut + 1);
        CHECK(copy, "memory");
        memcpy(copy + 1, file, cut);
        CHECK(safetensors_parse(&s, copy + 1, cut, "file", &err) == -1, "cut at %zu was read", cut);
        free(copy);
    }
    for (size_t at = 0; at < n - 32; at++)
        for (int bit = 0; bit < 8; bit++) {
            file[at] ^= (uint8_t)(1 << bit);
            if (safetensors_parse(&s, file, n, "file", &err) == 0)
                for (size_t i = 0; i < s.n; i++) {
                    const uint8_t *p = s.tensor[i].data;
                    CHECK(p >= file && p + s.tensor[i].size <= file + n, "byte %zu bit %d", at, bit);
                }
            safetensors_free(&s);
            file[at] ^= (uint8_t)(1 << bit);
        }
    free(file);
    return PASS;
}

// ---- sha256 ---------------------------------------------------------------------------------------

static int hashes(void) {                  // FIPS 180-4's examples, and pieces of any size
    static const struct { const char *text, *hex; } known[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    Sha256 h;
    char hex[65], whole[65];
    for (int i = 0; i < COUNT(known); i++) {
        sha256_init(&h);
        sha256_add(&h, known[i].text, strlen(known[i].text));
        sha256_hex(&h, hex);
        CHECK(strcmp(hex, known[i].hex) == 0, "'%s': %s", known[i].text, hex);
    }
    static uint8_t a[1000000];
    memset(a, 'a', sizeof a);
    sha256_init(&h);
    sha256_add(&h, a, sizeof a);
    sha256_hex(&h, hex);
    CHECK(strcmp(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0") == 0,
          "a million a: %s", hex);
    for (size_t n = 0; n < 300; n++) {
        sha256_init(&h);
        sha256_add(&h, a, n);
        sha256_hex(&h, whole);
        sha256_init(&h);
        for (size_t at = 0, step = 1; at < n; at += step, step = step % 67 + 1)
            sha256_add(&h, a, n - at < step ? n - at : step);
        sha256_hex(&h, hex);
        CHECK(strcmp(hex, whole) == 0, "%zu bytes in pieces: %s, whole: %s", n, hex, whole);
    }
    return PASS;
}

// ---- llama2.c -------------------------------------------------------------------------------------

enum { PIECES = 264 };

// A tokenizer.bin of 264 pieces: three special ones, 256 bytes, letters.
static bool put_tokenizer(const char *name) {
    static uint8_t file[1 << 14];
    size_t used = 4;
    memcpy(file, &(int32_t){8}, 4);
    for (int i = 0; i < PIECES; i++) {
        char piece[16];
        if (i < 3) snprintf(piece, sizeof piece, "%s", i == 0 ? "<unk>" : i == 1 ? "\n<s>\n" : "\n</s>\n");
        else if (i < 259) snprintf(piece, sizeof piece, "<0x%02X>", i - 3);
        else snprintf(piece, sizeof piece, "%c", i == 259 ? ' ' : 'a' + i - 260);
        float score = (float)-i;
        int32_t n = (int32_t)strlen(piece);
        memcpy(file + used, &score, 4);
        memcpy(file + used + 4, &n, 4);
        memcpy(file + used + 8, piece, (size_t)n);
        used += 8 + (size_t)n;
    }
    return put_file(name, file, used);
}

static int64_t int_of(const Gguf *g, const char *key) {
    int64_t v = -1;
    return gguf_get_int(g, key, INT64_MIN, INT64_MAX, &v, &err) ? -2 : v;
}

static int stories(void) {
    const char *path = data_path("models/stories260K.bin"), *vocab = data_path("models/tok512.bin");
    if (!path || !vocab) return SKIP;
    Source s;
    CHECK(source_open(&s, path, vocab, &err) == 0, "%s", err.msg);
    CHECK(strcmp(s.kind, "llama2.c") == 0, "kind %s", s.kind);
    static const struct { const char *key; int64_t value; } keys[] = {
        {"llama.context_length", 512}, {"llama.embedding_length", 64}, {"llama.block_count", 5},
        {"llama.feed_forward_length", 172}, {"llama.attention.head_count", 8},
        {"llama.attention.head_count_kv", 4}, {"llama.rope.dimension_count", 8},
        {"llama.vocab_size", 512}, {"tokenizer.ggml.bos_token_id", 1}, {"tokenizer.ggml.eos_token_id", 2},
    };
    for (int i = 0; i < COUNT(keys); i++)
        CHECK(int_of(&s.g, keys[i].key) == keys[i].value, "%s is %lld", keys[i].key,
              (long long)int_of(&s.g, keys[i].key));
    CHECK(!gguf_kv(&s.g, "tucker.rope_pairs"), "rope_pairs is set");
    CHECK(!gguf_has(&s.g, "output.weight"), "tied, yet there is output.weight");
    CHECK(s.vocab.n == 512 && s.vocab.bos == 1 && s.vocab.eos == 2 && s.vocab.add_bos, "vocabulary");
    Mat k, down;
    const float *norm;
    CHECK(gguf_mat(&s.g, "blk.4.attn_k.weight", 32, 64, &k, &err) == 0, "%s", err.msg);
    CHECK(gguf_mat(&s.g, "blk.2.ffn_down.weight", 64, 172, &down, &err) == 0, "%s", err.msg);
    CHECK(gguf_vec(&s.g, "output_norm.weight", 64, &norm, &err) == 0, "%s", err.msg);
    // Where the format has them: after the embedding, norms of 5 layers and Q of 5 layers.
    FileMap m;
    CHECK(map_open(&m, path, &err) == 0, "%s", err.msg);
    size_t at = 28 + 4 * (512 * 64 + 5 * 64 + 5 * 64 * 64 + 4 * 32 * 64);
    CHECK(memcmp(k.data, m.data + at, 32 * 64 * 4) == 0, "K of layer 4 is not at byte %zu", at);
    at = m.size - 4 * (512 * 8 + 64);
    CHECK(memcmp(norm, m.data + at, 64 * 4) == 0, "the last norm is not at byte %zu", at);
    CHECK(norm[0] > 0.1f && norm[0] < 100, "norm %g", (double)norm[0]);
    CHECK(strcmp(s.sha256, "") && strlen(s.sha256) == 64, "sha256 '%s'", s.sha256);
    map_close(&m);
    source_close(&s);
    source_close(&s);
    return PASS;
}

// Small checkpoints in each form: dim 8, hidden 12, 2 layers, 2 heads, 1 KV head, 264 pieces, 16.
static size_t make_bin(float *file, bool v1, bool shared) {
    int32_t h[7] = {8, 12, 2, 2, 1, v1 || shared ? PIECES : -PIECES, 16};
    size_t head = v1 ? 64 : 7;
    size_t n = PIECES * 8 + 2 * (8 + 64 + 32 + 32 + 64 + 8 + 3 * 96) + 8 + (v1 ? 0 : 2 * 16 * 2) +
               (shared ? 0 : PIECES * 8);
    memset(file, 0, head * 4);
    if (v1) memcpy(file, (int32_t[]){0x616b3432, 1}, 8);
    memcpy((uint8_t *)file + (v1 ? 8 : 0), h, sizeof h);
    if (v1) ((uint8_t *)file)[36] = shared;
    for (size_t i = 0; i < n; i++) file[head + i] = (float)i;
    return 4 * (head + n);
}

static int llama2c_forms(void) {
    static float file[8192];
    CHECK(put_tokenizer("tokenizer.bin"), "cannot write to %s", dir);
    for (int form = 0; form < 4; form++) {
        bool v1 = form & 1, shared = form & 2;
        size_t size = make_bin(file, v1, shared);
        CHECK(size <= sizeof file && put_file("m.bin", file, size), "cannot write");
        Source s;
        CHECK(source_open(&s, in_dir("m.bin"), NULL, &err) == 0, "form %d: %s", form, err.msg);
        // First number of some tensors, counted from the first weight.
        size_t embed = v1 ? 8 * 5 : 0, q = v1 ? embed + PIECES * 8 : PIECES * 8 + 16;
        size_t up = q + 2 * (64 + 32 + 32 + 64) + (v1 ? 0 : 16) + 4 * 96;
        size_t out = up + 2 * 96 + (v1 ? 0 : 8 + 64);
        struct { const char *name; size_t first; } want[] = {
            {"token_embd.weight", embed}, {"blk.1.attn_norm.weight", v1 ? 8 : PIECES * 8 + 8},
            {"blk.1.attn_q.weight", q + 64}, {"blk.0.ffn_up.weight", up}, {"output.weight", out},
        };
        for (int i = 0; i < (shared ? 4 : 5); i++) {
            const GgufTensor *t = gguf_tensor(&s.g, want[i].name);
            CHECK(t && t->data, "form %d: no %s", form, want[i].name);
            float v = *(const float *)t->data;
            CHECK(v == (float)want[i].first, "form %d: %s begins with %g, not %zu", form, want[i].name,
                  (double)v, want[i].first);
        }
        CHECK(gguf_has(&s.g, "output.weight") == !shared, "form %d: output.weight", form);
        source_close(&s);
        for (size_t cut = 0; cut < size; cut += cut < 300 ? 1 : 997) {
            CHECK(put_file("m.bin", file, cut), "cannot write");
            CHECK(source_open(&s, in_dir("m.bin"), NULL, &err) == -1, "form %d cut at %zu", form, cut);
        }
        CHECK(put_file("m.bin", file, size + 4), "cannot write");
        CHECK(source_open(&s, in_dir("m.bin"), NULL, &err) == -1, "form %d, 4 bytes more", form);
        CHECK(strstr(err.msg, "its header asks"), "%s", err.msg);
        for (int field = 0; field < 7; field++)
            for (int k = 0; k < 4; k++) {
                int32_t bad[] = {0, INT32_MIN, INT32_MAX, 7};
                if (v1 && field == 6 && bad[k] == 7) continue;     // another context is no error there
                make_bin(file, v1, shared);
                memcpy((uint8_t *)file + (v1 ? 8 : 0) + 4 * field, &bad[k], 4);
                CHECK(put_file("m.bin", file, size), "cannot write");
                CHECK(source_open(&s, in_dir("m.bin"), NULL, &err) == -1, "form %d field %d = %d", form,
                      field, bad[k]);
            }
    }
    size_t size = make_bin(file, true, true);
    memcpy(file + 1, &(int32_t){2}, 4);
    Source s;
    CHECK(put_file("m.bin", file, size), "cannot write");
    CHECK(source_open(&s, in_dir("m.bin"), NULL, &err) == -1 && strstr(err.msg, "version 2"), "%s", err.msg);
    make_bin(file, false, true);
    remove(in_dir("tokenizer.bin"));
    CHECK(put_file("m.bin", file, make_bin(file, false, true)), "cannot write");
    CHECK(source_open(&s, in_dir("m.bin"), NULL, &err) == -1 && strstr(err.msg, "--tokenizer"), "%s",
          err.msg);
    clean();
    return PASS;
}

// ---- Hugging Face folders -------------------------------------------------------------------------

static const char config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 8, \"intermediate_size\": 12,"
    " \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
    " \"head_dim\": 6, \"vocab_size\": 264, \"max_position_embeddings\": 128, \"hidden_act\": \"silu\","
    " \"rms_norm_eps\": 1e-5, \"rope_theta\": 50000.0, \"tie_word_embeddings\": false,"
    " \"torch_dtype\": \"float16\"}";

#define LAYER(n) \
    {"model.layers." #n ".input_layernorm.weight", "BF16", 1, {8, 0}}, \
    {"model.layers." #n ".self_attn.q_proj.weight", "BF16", 2, {24, 8}}, \
    {"model.layers." #n ".self_attn.k_proj.weight", "F32", 2, {12, 8}}, \
    {"model.layers." #n ".self_attn.v_proj.weight", "F16", 2, {12, 8}}, \
    {"model.layers." #n ".self_attn.o_proj.weight", "BF16", 2, {8, 24}}, \
    {"model.layers." #n ".post_attention_layernorm.weight", "F16", 1, {8, 0}}, \
    {"model.layers." #n ".mlp.gate_proj.weight", "BF16", 2, {12, 8}}, \
    {"model.layers." #n ".mlp.up_proj.weight", "BF16", 2, {12, 8}}, \
    {"model.layers." #n ".mlp.down_proj.weight", "BF16", 2, {8, 12}}

static const Item model[] = {
    {"model.embed_tokens.weight", "BF16", 2, {PIECES, 8}}, LAYER(0), LAYER(1),
    {"model.norm.weight", "F32", 1, {8, 0}}, {"lm_head.weight", "BF16", 2, {PIECES, 8}},
    {"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 1, {3, 0}},
};
enum { ITEMS = sizeof model / sizeof *model };

static bool put_st(const char *name, const Item *items, int n) {
    size_t size;
    uint8_t *file = make_st(items, n, &size);
    bool ok = put_file(name, file, size);
    free(file);
    return ok;
}

// config with the first `from` replaced by `to`.
static bool put_config(const char *from, const char *to) {
    char text[2048];
    const char *at = strstr(config, from);
    if (!at) return false;
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - config), config, to, at + strlen(from));
    return put_file("config.json", text, strlen(text));
}

static int open_folder(Source *s) { return source_open(s, dir, in_dir("t.bin"), &err); }

static int hf_maps(void) {
    CHECK(put_tokenizer("t.bin") && put_config("{", "{") && put_st("model.safetensors", model, ITEMS),
          "cannot write to %s", dir);
    Source s;
    CHECK(open_folder(&s) == 0, "%s", err.msg);
    static const struct { const char *key; int64_t value; } keys[] = {
        {"llama.context_length", 128}, {"llama.embedding_length", 8}, {"llama.block_count", 2},
        {"llama.feed_forward_length", 12}, {"llama.attention.head_count", 4},
        {"llama.attention.head_count_kv", 2}, {"llama.rope.dimension_count", 6},
        {"llama.attention.key_length", 6}, {"llama.attention.value_length", 6}, {"llama.vocab_size", PIECES},
    };
    for (int i = 0; i < COUNT(keys); i++)
        CHECK(int_of(&s.g, keys[i].key) == keys[i].value, "%s is %lld", keys[i].key,
              (long long)int_of(&s.g, keys[i].key));
    double base = 0, eps = 0;
    Str pairs = {0}, arch = {0};
    CHECK(gguf_get_float(&s.g, "llama.rope.freq_base", &base, &err) == 0 && base == 50000, "base %g", base);
    CHECK(gguf_get_float(&s.g, "llama.attention.layer_norm_rms_epsilon", &eps, &err) == 0 &&
          fabs(eps - 1e-5) < 1e-11, "eps %g", eps);
    CHECK(gguf_get_str(&s.g, "tucker.rope_pairs", &pairs, &err) == 0 && str_is(pairs, "half"), "pairs");
    CHECK(gguf_get_str(&s.g, "general.architecture", &arch, &err) == 0 && str_is(arch, "llama"), "arch");
    CHECK(s.g.n_tensors == ITEMS - 1, "%llu tensors", (unsigned long long)s.g.n_tensors);
    CHECK(!gguf_kv(&s.g, "llama.attention.sliding_window") && !gguf_has(&s.g, "rope_freqs.weight"), "extras");

    static const struct { const char *name; int64_t rows, cols; int type; } mats[] = {
        {"token_embd.weight", PIECES, 8, T_BF16}, {"blk.1.attn_q.weight", 24, 8, T_BF16},
        {"blk.0.attn_k.weight", 12, 8, T_F32}, {"blk.1.attn_v.weight", 12, 8, T_F16},
        {"blk.1.attn_output.weight", 8, 24, T_BF16}, {"blk.0.ffn_gate.weight", 12, 8, T_BF16},
        {"blk.0.ffn_up.weight", 12, 8, T_BF16}, {"blk.1.ffn_down.weight", 8, 12, T_BF16},
        {"output.weight", PIECES, 8, T_BF16},
    };
    Mat w;
    for (int i = 0; i < COUNT(mats); i++) {
        CHECK(gguf_mat(&s.g, mats[i].name, mats[i].rows, mats[i].cols, &w, &err) == 0, "%s", err.msg);
        CHECK(w.type == mats[i].type, "%s has type %d", mats[i].name, w.type);
    }
    // Values: number k of the file is (k % 61) / 4 - 7, k counted over all tensors.
    static const struct { const char *name; int first; } vecs[] = {
        {"blk.0.attn_norm.weight", PIECES * 8},
        {"blk.0.ffn_norm.weight", PIECES * 8 + 8 + 24 * 8 + 12 * 8 * 2 + 8 * 24},
    };
    const float *v;
    for (int i = 0; i < COUNT(vecs); i++) {
        CHECK(gguf_vec(&s.g, vecs[i].name, 8, &v, &err) == 0, "%s", err.msg);
        for (int j = 0; j < 8; j++)
            CHECK(v[j] == (float)((vecs[i].first + j) % 61) / 4 - 7, "%s[%d] = %g", vecs[i].name, j,
                  (double)v[j]);
    }
    float row[8];
    CHECK(gguf_mat(&s.g, "blk.0.attn_k.weight", 12, 8, &w, &err) == 0, "%s", err.msg);
    mat_row(&w, 11, row);
    int k = PIECES * 8 + 8 + 24 * 8 + 11 * 8;
    CHECK(row[0] == (float)(k % 61) / 4 - 7, "K[11][0] = %g", (double)row[0]);
    CHECK(strlen(s.sha256) == 64 && strcmp(s.kind, "safetensors") == 0, "kind %s", s.kind);
    source_close(&s);
    clean();
    return PASS;
}

static int hf_refuses(void) {
    static const struct { const char *from, *to, *why; } edits[] = {
        {"LlamaForCausalLM", "FalconForCausalLM", "FalconForCausalLM is not supported"},
        {"[\"LlamaForCausalLM\"]", "[]", "architectures"}, {"\"architectures\"", "\"a\"", "architectures"},
        {"\"hidden_size\": 8", "\"hidden_size\": 0", "hidden_size is 0"},
        {"\"hidden_size\": 8", "\"hidden_size\": -8", "hidden_size is -8"},
        {"\"hidden_size\": 8", "\"hidden_size\": 8.5", "hidden_size is no integer"},
        {"\"hidden_size\": 8", "\"hidden_size\": \"8\"", "hidden_size is no integer"},
        {"\"hidden_size\": 8", "\"hidden_size\": null", "hidden_size is missing"},
        {"\"hidden_size\": 8", "\"hidden_size\": 16", "config.json asks"},
        {"\"hidden_size\": 8", "\"hidden_size\": 99999999999", "hidden_size is 99999999999"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "'model.layers.2.input_layernorm.weight' is missing"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", "has no place"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 4294967296", "num_hidden_layers"},
        {"\"num_attention_heads\": 4", "\"num_attention_heads\": 3", "no multiple"},
        {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "no multiple"},
        {"\"head_dim\": 6", "\"head_dim\": 5", "odd"}, {"\"head_dim\": 6", "\"head_dim\": 4", "asks [16, 8]"},
        {" \"head_dim\": 6,", "", "asks [8, 8]"}, {"\"vocab_size\": 264", "\"vocab_size\": 265", "asks [265, 8]"},
        {"\"silu\"", "\"gelu\"", "hidden_act 'gelu'"}, {"1e-5", "0", "rms_norm_eps"},
        {"50000.0", "-1", "rope_theta"}, {"false", "true, \"mlp_bias\": true", "mlp_bias"},
        {"false", "1", "tie_word_embeddings"}, {"\"torch_dtype\"", "\"quantization_config\"", "quantization_config"},
        {"\"torch_dtype\"", "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4}, \"x\"", "'yarn'"},
        {"\"torch_dtype\"", "\"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 4}, \"x\"", "'dynamic'"},
        {"\"torch_dtype\"", "\"rope_scaling\": {\"type\": \"su\"}, \"x\"", "'su'"},
        {"\"torch_dtype\"", "\"rope_scaling\": {\"type\": \"linear\"}, \"x\"", "factor"},
        {"\"torch_dtype\"", "\"rope_scaling\": {\"factor\": 2}, \"x\"", "rope_type"},
        {"\"torch_dtype\"", "\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 2}, \"x\"", "low_freq_factor"},
        {"\"torch_dtype\"", "\"partial_rotary_factor\": 0.5, \"x\"", "partial_rotary_factor"},
        {"\"torch_dtype\"", "\"rope_parameters\": {\"full_attention\": {}}, \"x\"", "rope_type"},
        {"LlamaForCausalLM", "Qwen2ForCausalLM", "q_proj.bias' is missing"},
        {"LlamaForCausalLM", "Qwen3ForCausalLM", "q_norm.weight' is missing"},
        {"{\"arch", "{{\"arch", "line 1"},
    };
    Source s;
    CHECK(source_open(&s, in_dir("nothing"), NULL, &err) == -1 && strstr(err.msg, "nothing"), "%s", err.msg);
    CHECK(open_folder(&s) == -1 && strstr(err.msg, "config.json"), "%s", err.msg);
    CHECK(put_tokenizer("t.bin") && put_config("{", "{"), "cannot write to %s", dir);
    CHECK(open_folder(&s) == -1 && strstr(err.msg, "no model.safetensors"), "%s", err.msg);
    CHECK(put_st("model.safetensors", model, ITEMS), "cannot write");
    CHECK(source_open(&s, dir, NULL, &err) == -1 && strstr(err.msg, "--tokenizer"), "%s", err.msg);
    for (int i = 0; i < COUNT(edits); i++) {
        CHECK(put_config(edits[i].from, edits[i].to), "edit %d", i);
        CHECK(open_folder(&s) == -1, "%s -> %s was read", edits[i].from, edits[i].to);
        CHECK(strstr(err.msg, edits[i].why), "%s -> %s: message '%s' lacks '%s'", edits[i].from,
              edits[i].to, err.msg, edits[i].why);
        CHECK(!s.built && !s.owned && !s.g.tensor, "edit %d leaves something", i);
    }
    CHECK(put_config("{", "{"), "cannot write");
    Item changed[ITEMS + 1];
    memcpy(changed, model, sizeof model);
    changed[ITEMS] = (Item){"model.layers.0.mlp.gate_proj.bias", "F32", 1, {12, 0}};
    CHECK(put_st("model.safetensors", changed, ITEMS + 1) && open_folder(&s) == -1 &&
          strstr(err.msg, "gate_proj.bias' has no place"), "%s", err.msg);
    changed[2].dims[0] = 23;
    CHECK(put_st("model.safetensors", changed, ITEMS) && open_folder(&s) == -1 &&
          strstr(err.msg, "q_proj.weight has shape [23, 8], config.json asks [24, 8]"), "%s", err.msg);
    changed[2] = model[2];
    changed[2].dtype = "I16";
    CHECK(put_st("model.safetensors", changed, ITEMS) && open_folder(&s) == -1 &&
          strstr(err.msg, "not of type"), "%s", err.msg);
    CHECK(put_st("model.safetensors", model + 1, ITEMS - 1) && open_folder(&s) == -1 &&
          strstr(err.msg, "'model.embed_tokens.weight' is missing"), "%s", err.msg);
    clean();
    return PASS;
}

static int hf_variants(void) {
    Source s;
    Item items[ITEMS + 8];
    double factor = 0;
    CHECK(put_tokenizer("t.bin"), "cannot write to %s", dir);
    memcpy(items, model, sizeof model);

    // Tied: lm_head may be there or not. The only *.safetensors may have any name.
    CHECK(put_config("false", "true") && put_st("x.safetensors", model, ITEMS), "cannot write");
    CHECK(open_folder(&s) == 0, "%s", err.msg);
    CHECK(!gguf_has(&s.g, "output.weight"), "tied, yet output.weight");
    source_close(&s);
    CHECK(put_st("x.safetensors", model, ITEMS - 2) && open_folder(&s) == 0, "%s", err.msg);
    source_close(&s);
    CHECK(put_config("{", "{") && open_folder(&s) == -1 && strstr(err.msg, "lm_head"), "%s", err.msg);
    CHECK(put_st("other.safetensors", model, ITEMS) && open_folder(&s) == -1 &&
          strstr(err.msg, "several"), "%s", err.msg);
    remove(in_dir("other.safetensors"));

    // Biases, as attention_bias brings them; an F16 vector at an odd place becomes F32 all the same.
    static const Item bias[] = {
        {"model.layers.0.self_attn.q_proj.bias", "F16", 1, {24, 0}},
        {"model.layers.0.self_attn.k_proj.bias", "F16", 1, {12, 0}},
        {"model.layers.0.self_attn.v_proj.bias", "F16", 1, {12, 0}},
        {"model.layers.1.self_attn.q_proj.bias", "F16", 1, {24, 0}},
        {"model.layers.1.self_attn.k_proj.bias", "F16", 1, {12, 0}},
        {"model.layers.1.self_attn.v_proj.bias", "F16", 1, {12, 0}},
        {"model.layers.1.self_attn.o_proj.bias", "F32", 1, {8, 0}},
    };
    memcpy(items + ITEMS, bias, sizeof bias);
    CHECK(put_st("x.safetensors", items, ITEMS + 7) && open_folder(&s) == 0, "%s", err.msg);
    const float *v;
    CHECK(gguf_vec(&s.g, "blk.1.attn_v.bias", 12, &v, &err) == 0, "%s", err.msg);
    CHECK(gguf_vec(&s.g, "blk.1.attn_output.bias", 8, &v, &err) == 0, "%s", err.msg);
    CHECK((uintptr_t)v % 4 == 0, "misaligned");
    source_close(&s);
    CHECK(put_config("LlamaForCausalLM", "Qwen2ForCausalLM") && open_folder(&s) == -1 &&
          strstr(err.msg, "o_proj.bias' has no place"), "%s", err.msg);
    CHECK(put_st("x.safetensors", items, ITEMS + 6) && open_folder(&s) == 0, "%s", err.msg);
    CHECK(int_of(&s.g, "qwen2.block_count") == 2, "qwen2.block_count");
    source_close(&s);

    // Rotary scaling, by the old and the new name.
    CHECK(put_st("x.safetensors", model, ITEMS), "cannot write");
    CHECK(put_config("\"torch_dtype\"", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}, \"x\"") &&
          open_folder(&s) == 0, "%s", err.msg);
    CHECK(gguf_get_float(&s.g, "llama.rope.scaling.factor", &factor, &err) == 0 && factor == 4, "%g", factor);
    source_close(&s);
    CHECK(put_config("\"rope_theta\": 50000.0", "\"rope_parameters\": {\"rope_type\": \"llama3\", "
                     "\"rope_theta\": 500.0, \"factor\": 8.0, \"low_freq_factor\": 1.0, "
                     "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 64}") &&
          open_folder(&s) == 0, "%s", err.msg);
    CHECK(gguf_get_float(&s.g, "llama.rope.freq_base", &factor, &err) == 0 && factor == 500, "%g", factor);
    CHECK(gguf_vec(&s.g, "rope_freqs.weight", 3, &v, &err) == 0, "%s", err.msg);
    // Turns in 64 positions: 64 / 2 pi = 10.19 (kept), / 500^(1/3): 1.2834, / 500^(2/3): 0.1617 (slowed);
    // between 1 and 4 the blend is (1.2834 - 1) / 3 = 0.09446, so 1 / (0.90554 / 8 + 0.09446).
    CHECK(v[0] == 1 && v[2] == 8 && fabsf(v[1] - 4.8168f) < 2e-3f, "%g %g %g", (double)v[0],
          (double)v[1], (double)v[2]);
    source_close(&s);

    // Windows.
    static const struct { const char *name, *keys; int64_t window; } windows[] = {
        {"LlamaForCausalLM", "\"sliding_window\": 64", -1}, {"MistralForCausalLM", "\"sliding_window\": 64", 64},
        {"MistralForCausalLM", "\"sliding_window\": null", -1}, {"MistralForCausalLM", "\"y\": 0", 4096},
        {"MistralForCausalLM", "\"sliding_window\": 0", -3}, {"MistralForCausalLM", "\"sliding_window\": 1.5", -3},
    };
    for (int i = 0; i < COUNT(windows); i++) {
        char text[2048];
        snprintf(text, sizeof text, "{%s, \"architectures\": [\"%s\"], \"a\"", windows[i].keys, windows[i].name);
        CHECK(put_config("{\"architectures\"", text), "window %d", i);
        int result = open_folder(&s);
        CHECK((result == 0) == (windows[i].window != -3), "window %d: %s", i, result ? err.msg : "was read");
        if (result) continue;
        CHECK(int_of(&s.g, "llama.attention.sliding_window") == windows[i].window, "window %d: %lld", i,
              (long long)int_of(&s.g, "llama.attention.sliding_window"));
        source_close(&s);
    }
    clean();
    return PASS;
}

static int hf_shards(void) {
    char index[8192] = "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {";
    Source s;
    for (int i = 0; i < ITEMS; i++)
        snprintf(index + strlen(index), sizeof index - strlen(index), "%s\"%s\": \"%c.safetensors\"",
                 i ? ", " : "", model[i].name, i < 9 ? 'a' : 'b');
    strcat(index, "}}");
    CHECK(put_tokenizer("t.bin") && put_config("{", "{") && put_st("a.safetensors", model, 9) &&
          put_st("b.safetensors", model + 9, ITEMS - 9) &&
          put_file("model.safetensors.index.json", index, strlen(index)), "cannot write to %s", dir);
    CHECK(open_folder(&s) == 0, "%s", err.msg);
    CHECK(s.g.n_tensors == ITEMS - 1, "%llu tensors", (unsigned long long)s.g.n_tensors);
    Sha256 all;                              // of the two files' hashes
    char hex[65];
    sha256_init(&all);
    for (int i = 0; i < 2; i++) {
        FileMap m;
        Sha256 one;
        CHECK(map_open(&m, in_dir(i ? "b.safetensors" : "a.safetensors"), &err) == 0, "%s", err.msg);
        sha256_init(&one);
        sha256_add(&one, m.data, m.size);
        sha256_hex(&one, hex);
        sha256_add(&all, hex, 64);
        map_close(&m);
    }
    sha256_hex(&all, hex);
    CHECK(strcmp(hex, s.sha256) == 0, "sha256 %s, expected %s", s.sha256, hex);
    source_close(&s);

    CHECK(put_st("b.safetensors", model + 8, ITEMS - 8) && open_folder(&s) == -1 &&
          strstr(err.msg, "as well"), "%s", err.msg);
    CHECK(put_st("b.safetensors", model + 10, ITEMS - 10) && open_folder(&s) == -1 &&
          strstr(err.msg, "has no tensor"), "%s", err.msg);
    remove(in_dir("b.safetensors"));
    CHECK(open_folder(&s) == -1 && strstr(err.msg, "b.safetensors"), "%s", err.msg);
    static const char *const bad[] = {
        "{}", "[]", "{\"weight_map\": []}", "{\"weight_map\": {}}", "{\"weight_map\": {\"a\": 1}}",
        "{\"weight_map\": {\"a\": \"../config.json\"}}", "{\"weight_map\": {\"a\": \"\"}}",
        "{\"weight_map\": {\"a\": \"config.json\"}}", "{\"weight_map\": {\"a\": \"a\\u0000b\"}}", "{",
    };
    for (int i = 0; i < COUNT(bad); i++) {
        CHECK(put_file("model.safetensors.index.json", bad[i], strlen(bad[i])), "cannot write");
        CHECK(open_folder(&s) == -1, "%s was read", bad[i]);
    }
    clean();
    return PASS;
}

// ---- GPT-2, GPT-J, BERT, RoBERTa --------------------------------------------------------------------

// `text` with the first `from` replaced by `to`, as config.json.
static bool put_changed(const char *text, const char *from, const char *to) {
    char out[2048];
    const char *at = strstr(text, from);
    if (!at) return false;
    snprintf(out, sizeof out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return put_file("config.json", out, strlen(out));
}

static const char gpt2_config[] =
    "{\"architectures\": [\"GPT2LMHeadModel\"], \"n_embd\": 8, \"n_inner\": null, \"n_layer\": 1, \"n_head\": 2,"
    " \"vocab_size\": 264, \"n_positions\": 16, \"activation_function\": \"gelu_new\"}";

static const Item gpt2[] = {                               // as published: no prefix, with mask buffers
    {"wte.weight", "F32", 2, {PIECES, 8}}, {"wpe.weight", "F32", 2, {16, 8}},
    {"h.0.ln_1.weight", "F32", 1, {8, 0}}, {"h.0.ln_1.bias", "F32", 1, {8, 0}},
    {"h.0.attn.bias", "F32", 2, {16, 16}}, {"h.0.attn.masked_bias", "F32", 1, {1, 0}},
    {"h.0.attn.c_attn.weight", "F16", 2, {8, 24}}, {"h.0.attn.c_attn.bias", "F16", 1, {24, 0}},
    {"h.0.attn.c_proj.weight", "F32", 2, {8, 8}}, {"h.0.attn.c_proj.bias", "F32", 1, {8, 0}},
    {"h.0.ln_2.weight", "F32", 1, {8, 0}}, {"h.0.ln_2.bias", "F32", 1, {8, 0}},
    {"h.0.mlp.c_fc.weight", "F32", 2, {8, 32}}, {"h.0.mlp.c_fc.bias", "F32", 1, {32, 0}},
    {"h.0.mlp.c_proj.weight", "F32", 2, {32, 8}}, {"h.0.mlp.c_proj.bias", "F32", 1, {8, 0}},
    {"ln_f.weight", "F32", 1, {8, 0}}, {"ln_f.bias", "F32", 1, {8, 0}},
};

static int hf_gpt2(void) {
    Source s;
    Mat w;
    float row[8];
    char names[COUNT(gpt2)][64];
    Item items[COUNT(gpt2) + 1];
    CHECK(put_tokenizer("t.bin") && put_changed(gpt2_config, "{", "{"), "cannot write to %s", dir);
    for (int prefixed = 0; prefixed < 2; prefixed++) {
        for (int i = 0; i < COUNT(gpt2); i++) {
            items[i] = gpt2[i];
            snprintf(names[i], sizeof names[i], "%s%s", prefixed ? "transformer." : "", gpt2[i].name);
            items[i].name = names[i];
        }
        CHECK(put_st("model.safetensors", items, COUNT(gpt2)) && open_folder(&s) == 0, "%s", err.msg);
        CHECK(s.g.n_tensors == COUNT(gpt2) - 2, "%d tensors", (int)s.g.n_tensors);
        CHECK(int_of(&s.g, "gpt2.feed_forward_length") == 32 && int_of(&s.g, "gpt2.context_length") == 16,
              "sizes");
        CHECK(!gguf_kv(&s.g, "tucker.rope_pairs") && !gguf_kv(&s.g, "tucker.activation"), "keys");
        CHECK(gguf_mat(&s.g, "blk.0.attn_qkv.weight", 24, 8, &w, &err) == 0 && w.type == T_F16, "%s",
              err.msg);
        mat_row(&w, 17, row);                              // its column 17 in the file, (in, out)
        const int first = PIECES * 8 + 16 * 8 + 16 + 16 * 16 + 1;
        for (int i = 0; i < 8; i++)
            CHECK(row[i] == (float)((first + i * 24 + 17) % 61) / 4 - 7, "c_attn[%d, 17] = %g", i,
                  (double)row[i]);
        CHECK(gguf_mat(&s.g, "blk.0.ffn_down.weight", 8, 32, &w, &err) == 0, "%s", err.msg);
        source_close(&s);
    }
    static const struct { const char *from, *to, *why; } edits[] = {
        {"gelu_new", "relu", "activation_function 'relu'"},
        {"\"n_inner\": null", "\"n_inner\": 24", "asks [8, 24]"},
        {"\"n_head\": 2", "\"n_head\": 3", "n_embd 8 is no multiple of n_head 3"},
        {"\"n_positions\": 16", "\"n_positions\": 15", "asks [15, 8]"},
        {"\"n_embd\": 8", "\"hidden_size\": 8", "n_embd is missing"},
        {"{", "{\"scale_attn_weights\": false, ", "scale_attn_weights: false is not supported"},
        {"{", "{\"scale_attn_by_inverse_layer_idx\": true, ", "scale_attn_by_inverse_layer_idx: true"},
        {"{", "{\"add_cross_attention\": true, ", "add_cross_attention"},
        {"{", "{\"tie_word_embeddings\": false, ", "'lm_head.weight' is missing"},
        {"GPT2LMHeadModel", "GPTJForCausalLM", "rotary_dim is missing"},
    };
    for (int i = 0; i < COUNT(edits); i++) {
        CHECK(put_changed(gpt2_config, edits[i].from, edits[i].to), "edit %d", i);
        CHECK(open_folder(&s) == -1 && strstr(err.msg, edits[i].why), "%s: \"%s\"", edits[i].to, err.msg);
    }
    static const char *const acts[][2] = {{"gelu", "gelu"}, {"silu", "silu"}, {"gelu_pytorch_tanh", NULL}};
    for (int i = 0; i < COUNT(acts); i++) {
        Str act = {0};
        CHECK(put_changed(gpt2_config, "gelu_new", acts[i][0]) && open_folder(&s) == 0, "%s", err.msg);
        CHECK(gguf_get_str(&s.g, "tucker.activation", &act, &err) == 0, "%s", err.msg);
        CHECK(acts[i][1] ? str_is(act, acts[i][1]) : !act.s, "activation %s", acts[i][0]);
        source_close(&s);
    }
    CHECK(put_changed(gpt2_config, "{", "{"), "cannot write");
    items[COUNT(gpt2)] = (Item){"h.0.ln_1.weight", "F32", 1, {8, 0}};       // with the prefix and without
    CHECK(put_st("model.safetensors", items, COUNT(gpt2) + 1) && open_folder(&s) == -1 &&
          strstr(err.msg, "'h.0.ln_1.weight' has no place"), "%s", err.msg);
    items[6].dims[1] = 23;
    CHECK(put_st("model.safetensors", items, COUNT(gpt2)) && open_folder(&s) == -1 &&
          strstr(err.msg, "c_attn.weight has shape [8, 23], config.json asks [8, 24]"), "%s", err.msg);
    clean();
    return PASS;
}

static const char bert_config[] =
    "{\"architectures\": [\"BertForMaskedLM\"], \"hidden_size\": 8, \"intermediate_size\": 12, \"num_hidden_layers\": 1,"
    " \"num_attention_heads\": 2, \"vocab_size\": 264, \"max_position_embeddings\": 20, \"hidden_act\": \"gelu\","
    " \"position_embedding_type\": \"absolute\", \"type_vocab_size\": 2}";

#define ENC "encoder.layer.0."
static const Item bert[] = {
    {"embeddings.word_embeddings.weight", "F32", 2, {PIECES, 8}},
    {"embeddings.position_embeddings.weight", "F32", 2, {20, 8}},
    {"embeddings.token_type_embeddings.weight", "F32", 2, {2, 8}},
    {"embeddings.LayerNorm.gamma", "F32", 1, {8, 0}}, {"embeddings.LayerNorm.beta", "F32", 1, {8, 0}},
    {ENC "attention.self.query.weight", "F32", 2, {8, 8}},
    {ENC "attention.self.query.bias", "F32", 1, {8, 0}},
    {ENC "attention.self.key.weight", "F32", 2, {8, 8}}, {ENC "attention.self.key.bias", "F32", 1, {8, 0}},
    {ENC "attention.self.value.weight", "F32", 2, {8, 8}},
    {ENC "attention.self.value.bias", "F32", 1, {8, 0}},
    {ENC "attention.output.dense.weight", "F32", 2, {8, 8}},
    {ENC "attention.output.dense.bias", "F32", 1, {8, 0}},
    {ENC "attention.output.LayerNorm.gamma", "F32", 1, {8, 0}},
    {ENC "attention.output.LayerNorm.beta", "F32", 1, {8, 0}},
    {ENC "intermediate.dense.weight", "F32", 2, {12, 8}}, {ENC "intermediate.dense.bias", "F32", 1, {12, 0}},
    {ENC "output.dense.weight", "F32", 2, {8, 12}}, {ENC "output.dense.bias", "F32", 1, {8, 0}},
    {ENC "output.LayerNorm.weight", "F32", 1, {8, 0}}, {ENC "output.LayerNorm.bias", "F32", 1, {8, 0}},
    {"embeddings.position_ids", "I16", 2, {1, 20}},
    {"pooler.dense.weight", "F32", 2, {8, 8}}, {"pooler.dense.bias", "F32", 1, {8, 0}},
    {"cls.predictions.transform.dense.weight", "F32", 2, {8, 8}},
    {"cls.predictions.transform.dense.bias", "F32", 1, {8, 0}},
    {"cls.predictions.transform.LayerNorm.gamma", "F32", 1, {8, 0}},
    {"cls.predictions.transform.LayerNorm.beta", "F32", 1, {8, 0}},
    {"cls.predictions.bias", "F32", 1, {PIECES, 0}},
    {"cls.predictions.decoder.weight", "F32", 2, {PIECES, 8}},
    {"cls.seq_relationship.weight", "F32", 2, {2, 8}}, {"cls.seq_relationship.bias", "F32", 1, {2, 0}},
};
enum { BODY = 24, IGNORED_BODY = 3, IGNORED_HEAD = 3 };     // of its items

// Items named for the encoder, with a prefix before those that can have one; the number that there are.
static int named(Item *items, char names[][96], const char *prefix, int n) {
    for (int i = 0; i < n; i++) {
        bool body = strncmp(bert[i].name, "cls.", 4) != 0;
        items[i] = bert[i];
        snprintf(names[i], 96, "%s%s", body ? prefix : "", bert[i].name);
        items[i].name = names[i];
    }
    return n;
}

static int hf_bert(void) {
    Source s;
    Mat w;
    float row[8];
    const float *v;
    char names[COUNT(bert)][96];
    Item items[COUNT(bert)];
    bool causal = true;
    CHECK(put_tokenizer("t.bin") && put_changed(bert_config, "{", "{"), "cannot write to %s", dir);
    CHECK(put_st("model.safetensors", items, named(items, names, "bert.", COUNT(bert))) &&
          open_folder(&s) == 0,
          "%s", err.msg);
    CHECK(s.g.n_tensors == COUNT(bert) - IGNORED_BODY - IGNORED_HEAD, "%d tensors", (int)s.g.n_tensors);
    CHECK(gguf_get_bool(&s.g, "bert.attention.causal", &causal, &err) == 0 && !causal, "causal");
    CHECK(gguf_vec(&s.g, "mlm_output.bias", PIECES, &v, &err) == 0 && !gguf_has(&s.g, "output.weight"), "%s",
          err.msg);
    CHECK(gguf_vec(&s.g, "token_embd_norm.weight", 8, &v, &err) == 0 &&
          v[0] == (float)((PIECES * 8 + 176) % 61) / 4 - 7,
          "gamma: %s", err.msg);
    source_close(&s);

    // A body alone, without the prefix, as models for embeddings are published.
    CHECK(put_changed(bert_config, "BertForMaskedLM", "BertModel"), "cannot write");
    CHECK(put_st("model.safetensors", items, named(items, names, "", BODY)) && open_folder(&s) == 0, "%s",
          err.msg);
    CHECK(s.g.n_tensors == BODY - IGNORED_BODY && !gguf_has(&s.g, "mlm_dense.weight"), "%d",
          (int)s.g.n_tensors);
    source_close(&s);
    CHECK(put_changed(bert_config, "{", "{") && open_folder(&s) == -1 &&
          strstr(err.msg, "transform.dense.weight' is missing"), "%s", err.msg);

    // RoBERTa counts positions from its padding id on: the rows before that are cut off.
    CHECK(put_changed(bert_config, "BertForMaskedLM", "RobertaModel") &&
          put_st("model.safetensors", items, named(items, names, "roberta.", BODY)) && open_folder(&s) == 0,
          "%s", err.msg);
    CHECK(int_of(&s.g, "bert.context_length") == 18, "%lld positions",
          (long long)int_of(&s.g, "bert.context_length"));
    CHECK(gguf_mat(&s.g, "position_embd.weight", 18, 8, &w, &err) == 0, "%s", err.msg);
    mat_row(&w, 0, row);
    CHECK(row[0] == (float)((PIECES * 8 + 16) % 61) / 4 - 7, "position 0 is row 2: %g", (double)row[0]);
    source_close(&s);

    static const struct { const char *from, *to, *why; } edits[] = {
        {"\"gelu\"", "\"relu\"", "hidden_act 'relu'"},
        {"absolute", "relative_key", "position_embedding_type"},
        {"{", "{\"is_decoder\": true, ", "is_decoder: true"},
        {"\"type_vocab_size\": 2", "\"type_vocab_size\": 3", "asks [3, 8]"},
        {"BertForMaskedLM", "BertForSequenceClassification", "is not supported"},
        {"[\"BertForMaskedLM\"], ", "[\"RobertaModel\"], \"pad_token_id\": 19, ", "pad_token_id"},
    };
    for (int i = 0; i < COUNT(edits); i++) {
        CHECK(put_changed(bert_config, edits[i].from, edits[i].to), "edit %d", i);
        CHECK(put_st("model.safetensors", items, named(items, names, "", COUNT(bert))), "cannot write");
        CHECK(open_folder(&s) == -1 && strstr(err.msg, edits[i].why), "%s: \"%s\"", edits[i].to, err.msg);
    }
    clean();
    return PASS;
}

// ---- dispatch -------------------------------------------------------------------------------------

static int dispatch(void) {
    static const Item one[] = {{"w", "F32", 1, {2, 0}}};
    Source s;
    CHECK(put_st("x.safetensors", one, 1), "cannot write to %s", dir);
    CHECK(source_open(&s, in_dir("x.safetensors"), NULL, &err) == -1 && strstr(err.msg, "config.json"),
          "%s", err.msg);
    CHECK(put_file("x.safetensors", "junk", 4), "cannot write");
    CHECK(source_open(&s, in_dir("x.safetensors"), NULL, &err) == -1 && strstr(err.msg, "no safetensors"),
          "%s", err.msg);
    CHECK(put_file("m.bin", "GGUF", 4) && source_open(&s, in_dir("m.bin"), NULL, &err) == -1, "GGUF");
    CHECK(put_file("m.bin", "", 0) && source_open(&s, in_dir("m.bin"), NULL, &err) == -1 &&
          strstr(err.msg, "no GGUF and no llama2.c"), "%s", err.msg);
    const char *path = data_path("malformed/valid-small.gguf");
    if (path) {
        CHECK(source_open(&s, path, NULL, &err) == 0, "%s", err.msg);
        CHECK(strcmp(s.kind, "gguf") == 0 && !s.built && s.vocab.n == 0 && strlen(s.sha256) == 64, "gguf");
        source_close(&s);
    }
    clean();
    return PASS;
}

static const Test tests[] = {
    {"st reads", st_reads}, {"st malformed", st_malformed}, {"st cut and flipped", st_cut_and_flipped},
    {"sha256", hashes}, {"stories260K", stories}, {"llama2.c forms", llama2c_forms},
    {"hf maps", hf_maps}, {"hf refuses", hf_refuses}, {"hf variants", hf_variants},
    {"hf shards", hf_shards}, {"hf gpt2", hf_gpt2}, {"hf bert", hf_bert}, {"dispatch", dispatch},
};

int main(int argc, char **argv) {
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/tensorllm-test-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) return 1;
    int result = run_tests("source", tests, COUNT(tests), argc, argv);
    clean();
    rmdir(dir);
    return result;
}
