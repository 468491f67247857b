// source: finds out what a path holds and calls its reader; what the readers share. A Source owns a
// list of pieces of memory, each with the function that frees it.
#include "source.h"

#include <stdlib.h>
#include <string.h>

#include "sha256.h"

typedef struct Piece { struct Piece *next; void *p; void (*release)(void *); } Piece;

int source_own(Source *s, void *p, void (*release)(void *), Err *e) {
    Piece *piece = alloc(1, sizeof *piece, "a source", e);
    if (!piece) {
        release(p);
        return -1;
    }
    *piece = (Piece){s->owned, p, release};
    s->owned = piece;
    return 0;
}

static int hash_file(const FileMap *m, char hex[65], Err *e) {
    enum { STEP = 1 << 22 };                 // a large file takes a minute: listen for Ctrl-C
    Sha256 h;
    sha256_init(&h);
    for (size_t at = 0; at < m->size; at += STEP) {
        if (interrupted) return fail(e, "interrupted");
        sha256_add(&h, m->data + at, m->size - at < STEP ? m->size - at : STEP);
    }
    sha256_hex(&h, hex);
    return 0;
}

int source_hash(Source *s, const FileMap *const *files, int n, Err *e) {
    if (n == 1) return hash_file(files[0], s->sha256, e);
    Sha256 all;
    sha256_init(&all);
    for (int i = 0; i < n; i++) {
        char hex[65];
        if (hash_file(files[i], hex, e)) return -1;
        sha256_add(&all, hex, 64);
    }
    sha256_hex(&all, s->sha256);
    return 0;
}

static int open_gguf(Source *s, const char *path, Err *e) {
    s->kind = "gguf";
    if (gguf_open(&s->g, path, e)) return -1;
    const FileMap *file = &s->g.map;
    return source_hash(s, &file, 1, e);
}

// A weights file named alone has no config.json with it: says so, or what is wrong with the file.
static int refuse_safetensors(const char *path, Err *e) {
    Safetensors st;
    if (safetensors_open(&st, path, e)) return -1;
    safetensors_free(&st);
    return fail(e, "%s: weights without their config.json (name the folder that holds both)", path);
}

// Bytes of `rows` rows from `row` on, as a tensor of its own.
static int add_rows(GgufBuilder *b, const char *name, const GgufTensor *t, int64_t row, int64_t rows,
                    Err *e) {
    const bool vector = t->n_dims == 1;
    size_t bytes = 0;
    if (!row_size(t->type, vector ? 1 : t->ne[0], &bytes))
        return fail(e, "tensor %.*s cannot be taken apart", (int)t->name.n, t->name.s);
    const int64_t ne[GGUF_MAX_DIMS] = {vector ? rows : t->ne[0], vector ? 1 : rows, 1, 1};
    gguf_add(b, name, t->type, t->n_dims, ne, (const uint8_t *)t->data + (size_t)row * bytes);
    return 0;
}

int source_split(Source *s, const Model *m, Err *e) {
    const Config *c = &m->config;
    const int64_t rows[] = {c->h * c->hd, c->n_kv * c->hd, c->n_kv * c->hd};
    bool fused = false;
    for (int64_t l = 0; l < c->n_layers; l++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%lld.attn_qkv.weight", (long long)l);
        fused |= gguf_has(&s->g, name);
    }
    if (!fused) return 0;
    GgufBuilder *b = gguf_builder(e);
    int result = b ? 0 : -1;
    for (uint64_t i = 0; i < s->g.n_kv && !result; i++) gguf_set_copy(b, &s->g.kv[i]);
    for (uint64_t i = 0; i < s->g.n_tensors && !result; i++) {
        const GgufTensor *t = &s->g.tensor[i];
        char name[GGUF_MAX_NAME + 8];
        snprintf(name, sizeof name, "%.*s", (int)t->name.n, t->name.s);
        char *at = strstr(name, ".attn_qkv.");
        if (!at) {
            gguf_add(b, name, t->type, t->n_dims, t->ne, t->data);
            continue;
        }
        for (int64_t p = P_Q, row = 0; p <= P_V && !result; row += rows[p++]) {
            char one[sizeof name];
            snprintf(one, sizeof one, "%.*s.attn_%c.%s", (int)(at - name), name, "qkv"[p], at + 10);
            result = add_rows(b, one, t, row, rows[p], e);
        }
    }
    Gguf apart = {0};
    if (!result) result = gguf_build(b, s->g.name, &apart, e);
    if (result) {
        gguf_builder_free(b);
        return -1;
    }
    apart.map = s->g.map;                      // the file stays mapped
    s->g.map = (FileMap){0};
    gguf_free(&s->g);
    gguf_builder_free(s->built);
    s->g = apart;
    s->built = b;
    return 0;
}

int source_open(Source *s, const char *path, const char *tokenizer, Err *e) {
    *s = (Source){0};
    uint8_t magic[4] = {0};
    size_t n = strlen(path), got = 0;
    const PathKind kind = path_kind(path);
    if (kind == PATH_NONE || kind == PATH_UNKNOWN)
        return fail(e, "%s: cannot be opened (is the path right?)", path);
    bool folder = kind == PATH_FOLDER, weights = n > 12 && !strcmp(path + n - 12, ".safetensors");
    if (!folder && kind != PATH_FILE) return fail(e, "%s: neither a file nor a folder", path);
    if (!folder) {
        FILE *f = open_file(path, "rb");
        if (!f) return fail(e, "%s: cannot be opened", path);
        got = fread(magic, 1, sizeof magic, f);
        fclose(f);
    }
    int result;
    if (folder) result = source_hf(s, path, tokenizer, e);
    else if (got == 4 && memcmp(magic, "GGUF", 4) == 0) result = open_gguf(s, path, e);
    else if (weights) result = refuse_safetensors(path, e);
    else result = source_llama2c(s, path, tokenizer, e);
    if (result) source_close(s);
    return result;
}

void source_close(Source *s) {
    gguf_free(&s->g);
    gguf_builder_free(s->built);
    vocab_free(&s->vocab);
    for (Piece *p = s->owned, *next; p; p = next) {
        next = p->next;
        p->release(p->p);
        free(p);
    }
    *s = (Source){0};
}
