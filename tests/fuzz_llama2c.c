// Fuzz target: a llama2.c checkpoint beside a tokenizer of three pieces, as the exporter opens it.
#include "fuzz.h"
#include "../export/source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    // int32 longest; three times f32 score, int32 1, a letter
    static const char pieces[] = "\1\0\0\0\0\0\0\0\1\0\0\0a\0\0\0\0\1\0\0\0b\0\0\0\0\1\0\0\0c";
    static bool put;
    Source s;
    Model m;
    Err e = {""};
    if (!put) fuzz_put("tokenizer.bin", pieces, sizeof pieces - 1);
    put = true;
    fuzz_put("m.bin", data, size);
    fuzz_begin();
    int status = source_open(&s, fuzz_path("m.bin"), NULL, &e);
    // Padded pieces: up to the header's vocabulary, which has rows in the file.
    fuzz_small(size, 200, "the source");
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
