// source: finds out what a path holds and calls its reader; what the readers share. A Source owns a
// list of pieces of memory, each with the function that frees it.
#include "source.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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

int source_open(Source *s, const char *path, const char *tokenizer, Err *e) {
    *s = (Source){0};
    struct stat info;
    uint8_t magic[4] = {0};
    size_t n = strlen(path), got = 0;
    if (stat(path, &info)) return fail(e, "%s: cannot be opened (is the path right?)", path);
    bool folder = S_ISDIR(info.st_mode), weights = n > 12 && !strcmp(path + n - 12, ".safetensors");
    if (!folder && !S_ISREG(info.st_mode)) return fail(e, "%s: neither a file nor a folder", path);
    if (!folder) {
        FILE *f = fopen(path, "rb");
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
