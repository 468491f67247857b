// Fuzz target: the index of a safetensors file.
#include "fuzz.h"
#include "../export/source.h"

volatile uint64_t sink;                     // so that bytes are read

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = fuzz_copy(data, size);
    Safetensors s;
    Err e = {""};
    size_t covered = 0;
    fuzz_begin();
    if (safetensors_parse(&s, copy, size, "input", &e)) fuzz_said(-1, &e);
    fuzz_small(size, 100, "the index");
    for (size_t i = 0; i < s.n; i++) {
        const StTensor *t = &s.tensor[i];
        const uint8_t *p = t->data;
        HOLDS(p >= copy && t->size <= (size_t)(copy + size - p), "tensor %zu outside", i);
        for (size_t k = 0; k < t->size; k++) sink += p[k];
        covered += t->size;
        char *name = strndup(t->name.s, t->name.n);
        HOLDS(strlen(name) < t->name.n || safetensors_find(&s, name) == t, "%s is not found", name);
        free(name);
    }
    HOLDS(covered <= size, "%zu bytes in tensors", covered);
    safetensors_free(&s);
    free(copy);
    return 0;
}
