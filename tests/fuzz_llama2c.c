// Fuzz target: a llama2.c checkpoint, as the exporter opens it, beside a tokenizer of as many pieces as its
// header says, up to 1000.
#include "fuzz.h"
#include "../export/source.h"

// int32 longest; then each piece: f32 score, int32 4, its number
static void put_tokenizer(const uint8_t *data, size_t size) {
    static char text[4 + 1000 * 12];
    const size_t at = size >= 4 && !memcmp(data, "24ka", 4) ? 28 : 20;        // version 1; legacy
    int32_t vocab = 0;
    if (size >= at + 4) memcpy(&vocab, data + at, 4);
    const int n = vocab >= 1000 || vocab <= -1000 ? 1000 : vocab < 0 ? -vocab : vocab;
    memcpy(text, &(int32_t){4}, 4);
    for (int i = 0; i < n; i++) {
        char piece[16];
        snprintf(piece, sizeof piece, "%04d", i);
        memcpy(text + 4 + 12 * i + 4, &(int32_t){4}, 4);
        memcpy(text + 4 + 12 * i + 8, piece, 4);
    }
    fuzz_put("tokenizer.bin", text, 4 + 12 * (size_t)n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Source s;
    Model m;
    Err e = {""};
    put_tokenizer(data, size);
    fuzz_put("m.bin", data, size);
    fuzz_begin();
    int status = source_open(&s, fuzz_path("m.bin"), NULL, &e);
    fuzz_small(size + 12000, 200, "the source");
    fuzz_said(status, &e);
    if (!status) {
        if (!model_bind(&m, &s.g, &e)) fuzz_run(&m, (unsigned)size);
        model_free(&m);
        fuzz_vocab(&s.vocab);
        source_close(&s);
    }
    remove(fuzz_path("m.bin"));
    return 0;
}

__attribute__((destructor)) static void clean(void) { if (*fuzz_dir) remove(fuzz_path("tokenizer.bin")); }
