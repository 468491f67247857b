// llama2c: the checkpoints of llama2.c, float32, in their two forms:
//   legacy     7 int32 (dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len), then
//              the weights; a negative vocab_size means a classifier of its own at the end, before
//              which stand two tables of rotary angles that nobody reads
//   version 1  "ak42", version, the same 7, one byte: classifier shared; weights from byte 256 on
// Every matrix stands for all layers together. Rows of Q and K are in interleaved pair order, as in
// GGUF. Owns the mapping only; the index borrows from it.
#include <stdlib.h>
#include <string.h>

#include "source.h"

typedef struct {
    int32_t dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len;
} Header;

typedef struct { const FileMap *map; size_t at; GgufBuilder *b; const char *path; } Reader;

static void unmap(void *map) {
    map_close(map);
    free(map);
}

// The next n (rows, cols) matrices become tensors; cols = 0: vectors of `rows`. name has %d for the
// layer. name = NULL: skipped.
static int take(Reader *r, const char *name, int64_t n, int64_t rows, int64_t cols, Err *e) {
    size_t size = (size_t)rows * sizeof(float), all;
    if (!mul_size(size, cols ? (size_t)cols : 1, &size) || !mul_size(size, (size_t)n, &all) ||
        all > r->map->size - r->at)
        return fail(e, "%s: %zu bytes are too few for its header (cut short, or no llama2.c file?)",
                    r->path, r->map->size);
    for (int64_t i = 0; i < n && name; i++) {
        char full[GGUF_MAX_NAME];
        int64_t ne[GGUF_MAX_DIMS] = {cols ? cols : rows, cols ? rows : 1, 1, 1};
        snprintf(full, sizeof full, name, (int)i);
        gguf_add(r->b, full, T_F32, cols ? 2 : 1, ne, r->map->data + r->at + (size_t)i * size);
    }
    r->at += all;
    return 0;
}

static int check_header(const Header *h, const char *path, Err *e) {
    const struct { const char *name; int32_t value, max; } fields[] = {
        {"dim", h->dim, 1 << 20}, {"hidden_dim", h->hidden_dim, 1 << 24},
        {"n_layers", h->n_layers, 4096}, {"n_heads", h->n_heads, 1 << 16},
        {"n_kv_heads", h->n_kv_heads, 1 << 16}, {"vocab_size", h->vocab_size, 1 << 24},
        {"seq_len", h->seq_len, 1 << 28},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (fields[i].value < 1 || fields[i].value > fields[i].max)
            return fail(e, "%s: %s is %d, expected 1 to %d (no llama2.c file?)", path,
                        fields[i].name, fields[i].value, fields[i].max);
    if (h->dim % (2 * h->n_heads))
        return fail(e, "%s: dim %d is no even multiple of n_heads %d", path, h->dim, h->n_heads);
    if (h->n_heads % h->n_kv_heads)
        return fail(e, "%s: n_heads %d is no multiple of n_kv_heads %d", path, h->n_heads,
                    h->n_kv_heads);
    return 0;
}

static int read_header(Header *h, bool *v1, bool *shared, Reader *r, Err *e) {
    const FileMap *m = r->map;
    uint32_t word[2] = {0};
    if (m->size >= sizeof word) memcpy(word, m->data, sizeof word);
    *v1 = word[0] == 0x616b3432;                                         // "ak42" as a number
    if (m->size < (*v1 ? 256 : sizeof *h))
        return fail(e, "%s: %zu bytes are no GGUF and no llama2.c file", r->path, m->size);
    if (*v1 && word[1] != 1)
        return fail(e, "%s: llama2.c checkpoint of version %u, only float32 ones are read "
                       "(export it with --version 0 or 1)", r->path, word[1]);
    memcpy(h, m->data + (*v1 ? 8 : 0), sizeof *h);
    *shared = *v1 ? m->data[8 + sizeof *h] != 0 : h->vocab_size > 0;
    if (!*v1 && h->vocab_size < 0 && h->vocab_size != INT32_MIN) h->vocab_size = -h->vocab_size;
    r->at = *v1 ? 256 : sizeof *h;
    return check_header(h, r->path, e);
}

static int read_weights(Reader *r, const Header *h, bool v1, bool shared, Err *e) {
    int64_t d = h->dim, f = h->hidden_dim, n = h->n_layers, hd = d / h->n_heads;
    int64_t kv = hd * h->n_kv_heads, vocab = h->vocab_size;
    const struct { const char *name; int64_t n, rows, cols; } part[] = {
        {"token_embd.weight", 1, vocab, d}, {"blk.%d.attn_norm.weight", n, d, 0},
        {"blk.%d.attn_q.weight", n, d, d}, {"blk.%d.attn_k.weight", n, kv, d},
        {"blk.%d.attn_v.weight", n, kv, d}, {"blk.%d.attn_output.weight", n, d, d},
        {"blk.%d.ffn_norm.weight", n, d, 0}, {"blk.%d.ffn_gate.weight", n, f, d},
        {"blk.%d.ffn_down.weight", n, d, f}, {"blk.%d.ffn_up.weight", n, f, d},
        {"output_norm.weight", 1, d, 0},
    };
    enum { PARTS = sizeof part / sizeof *part };
    static const int order[2][PARTS] = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10},      // legacy
                                        {1, 6, 10, 0, 2, 3, 4, 5, 7, 8, 9}};     // version 1
    for (int i = 0; i < PARTS; i++) {
        int k = order[v1][i];
        if (take(r, part[k].name, part[k].n, part[k].rows, part[k].cols, e)) return -1;
    }
    if (!v1 && take(r, NULL, 2, h->seq_len, hd / 2, e)) return -1;       // rotary tables
    if (!shared && take(r, "output.weight", 1, vocab, d, e)) return -1;
    if (r->at != r->map->size)
        return fail(e, "%s: %zu bytes, its header asks %zu", r->path, r->map->size, r->at);
    return 0;
}

static void put_config(GgufBuilder *b, const Header *h) {
    const struct { const char *key; int32_t value; } ints[] = {
        {"llama.context_length", h->seq_len}, {"llama.embedding_length", h->dim},
        {"llama.block_count", h->n_layers}, {"llama.feed_forward_length", h->hidden_dim},
        {"llama.attention.head_count", h->n_heads},
        {"llama.attention.head_count_kv", h->n_kv_heads},
        {"llama.rope.dimension_count", h->dim / h->n_heads}, {"llama.vocab_size", h->vocab_size},
    };
    gguf_set_str(b, "general.architecture", "llama", 5);
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
        gguf_set_int(b, ints[i].key, GGUF_U32, ints[i].value);
    gguf_set_float(b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_set_float(b, "llama.rope.freq_base", 10000.0f);
}

// tokenizer.bin does not say which ids are special: llama2.c begins with 1, and ends at 1 as at 2.
static int read_tokenizer(Source *s, const char *path, const char *tokenizer, int vocab, Err *e) {
    char beside[4096];
    int n = snprintf(beside, sizeof beside, "%.*stokenizer.bin", (int)(path_name(path) - path), path);
    if (n >= (int)sizeof beside) return fail(e, "%s: path too long", path);
    if (!tokenizer) {
        FILE *f = open_file(beside, "rb");
        if (!f) return fail(e, "%s: no tokenizer.bin beside it (name one with --tokenizer)", path);
        fclose(f);
    }
    if (vocab_read(&s->vocab, tokenizer ? tokenizer : beside, 0, e)) return -1;
    if (s->vocab.n != vocab)
        return fail(e, "%s: %d pieces, but %s has %d rows", tokenizer ? tokenizer : beside,
                    s->vocab.n, path, vocab);
    if (vocab < 3) return fail(e, "%s: vocab_size %d has no room for BOS and EOS", path, vocab);
    s->vocab.bos = s->vocab.eot = 1;
    s->vocab.eos = 2;
    s->vocab.add_bos = true;
    return 0;
}

int source_llama2c(Source *s, const char *path, const char *tokenizer, Err *e) {
    s->kind = "llama2.c";
    FileMap *map = alloc(1, sizeof *map, path, e);
    if (!map) return -1;
    if (map_open(map, path, e)) {
        free(map);
        return -1;
    }
    if (source_own(s, map, unmap, e)) return -1;
    s->built = gguf_builder(e);
    if (!s->built) return -1;
    Reader r = {map, 0, s->built, path};
    Header h;
    bool v1 = false, shared = false;
    if (read_header(&h, &v1, &shared, &r, e) || read_weights(&r, &h, v1, shared, e) ||
        read_tokenizer(s, path, tokenizer, h.vocab_size, e)) return -1;
    put_config(s->built, &h);
    const char *name = path_name(path);
    gguf_set_str(s->built, "general.name", name, strlen(name));
    vocab_to_gguf(&s->vocab, s->built);
    if (source_hash(s, &(const FileMap *){map}, 1, e)) return -1;
    return gguf_build(s->built, path, &s->g, e);
}
