// Fuzz target: published tokenizer files and the configuration beside them, written as parts (see
// fuzz.h). What is read goes through GGUF's metadata and back.
#include "fuzz.h"
#include "../export/source.h"

static const char *const names[] = {
    "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json", "vocab.txt",
    "tokenizer.bin", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja", NULL};

static void put(const char *name, const uint8_t *data, size_t size) { fuzz_put(name, data, size); }

static void through_gguf(const Vocab *v) {
    Err e = {""};
    Gguf g;
    Vocab w;
    Tokenizer *t = tokenizer_new(v, &e);
    if (!t) return;                                       // no vocabulary that can be used
    tokenizer_free(t);
    GgufBuilder *b = gguf_builder(&e);
    vocab_to_gguf(v, b);
    HOLDS(!gguf_build(b, "built", &g, &e) && !vocab_from_gguf(&w, &g, &e), "%s", e.msg);
    HOLDS(w.n == v->n && w.kind == v->kind && w.n_merges == v->n_merges && w.add_bos == v->add_bos, "changed");
    for (int i = 0; i < v->n; i++) {
        const Str a = v->piece[i], c = w.piece[i];
        HOLDS(w.type[i] == v->type[i] && a.n == c.n && (!a.n || !memcmp(a.s, c.s, a.n)), "piece %d", i);
    }
    vocab_free(&w);
    gguf_free(&g);
    gguf_builder_free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_parts(data, size, names, put);
    for (int rows = 0; rows <= 300; rows += 300) {        // pieces as found; and filled up to so many
        Vocab v;
        Err e = {""};
        fuzz_begin();
        int status = vocab_read(&v, fuzz_path(""), rows, &e);
        if (!status) status = vocab_read_config(&v, fuzz_path(""), &e);
        // Ids may go 65536 beyond the number of pieces: unused ones, of some 80 bytes each, stand there.
        fuzz_small(size + 66000, 300, "the vocabulary");
        fuzz_said(status, &e);
        if (!status) {
            HOLDS(v.n > 0 && (!rows || v.n == rows), "%d pieces", v.n);
            HOLDS(v.bos < v.n && v.eos < v.n && v.eot < v.n && v.unk < v.n && v.mask < v.n, "an id");
            fuzz_vocab(&v);
            through_gguf(&v);
        }
        vocab_free(&v);
    }
    for (int i = 0; names[i]; i++) remove(fuzz_path(names[i]));
    return 0;
}
