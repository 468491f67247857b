// Fuzz target: a GGUF or .tbin as ./run meets it: its index, its vocabulary, its model, a few tokens;
// and the index written again by the builder.
#include "fuzz.h"

volatile uint64_t sink;                     // so that bytes are read

// Every byte that the index leads to lies in the input.
static uint64_t touch(const Gguf *g, const uint8_t *data, size_t size) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < g->n_kv; i++) {
        const GgufKv *kv = &g->kv[i];
        for (uint64_t k = 0; k < kv->count; k++) {
            if (kv->strings)
                for (size_t c = 0; c < kv->strings[k].n; c++) sum += (uint8_t)kv->strings[k].s[c];
            else if (kv->item == GGUF_F32 || kv->item == GGUF_F64) sum += gguf_item_float(kv, k) > 0;
            else sum += (uint64_t)gguf_item_int(kv, k);
        }
    }
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const GgufTensor *t = &g->tensor[i];
        const uint8_t *p = t->data;
        HOLDS(p >= data && p <= data + size && t->size <= (size_t)(data + size - p), "tensor %llu outside",
              (unsigned long long)i);
        for (size_t c = 0; c < t->size; c++) sum += p[c];
    }
    return sum;
}

// The same keys and tensors, built: what reads well is written well.
static void rebuild(const Gguf *g) {
    Err e = {""};
    Gguf again;
    GgufBuilder *b = gguf_builder(&e);
    for (uint64_t i = 0; i < g->n_kv; i++) gguf_set_copy(b, &g->kv[i]);
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const GgufTensor *t = &g->tensor[i];
        char name[GGUF_MAX_NAME + 1];
        snprintf(name, sizeof name, "%.*s", (int)t->name.n, t->name.s);
        gguf_add(b, name, t->type, t->n_dims, t->ne, t->data);
    }
    HOLDS(!gguf_build(b, "again", &again, &e), "%s", e.msg);
    HOLDS(again.n_kv == g->n_kv && again.n_tensors == g->n_tensors && gguf_size(b, &e), "lost something");
    gguf_free(&again);
    gguf_builder_free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = fuzz_copy(data, size);
    Gguf g;
    Model m;
    Vocab v;
    Err e = {""};
    fuzz_begin();
    int status = gguf_parse(&g, copy, size, "input", &e);
    fuzz_small(size, 24, "the index");
    fuzz_said(status, &e);
    if (status) goto done;
    sink += touch(&g, copy, size);
    if (size < 1 << 16) rebuild(&g);
    fuzz_begin();
    if (!vocab_from_gguf(&v, &g, &e)) fuzz_vocab(&v);
    fuzz_small(size, 64, "the vocabulary");
    vocab_free(&v);
    fuzz_begin();
    if (!model_bind(&m, &g, &e)) {
        fuzz_small(size, 24, "the model");
        fuzz_run(&m, size ? (unsigned)(data[size - 1] + size) : 0);
    } else fuzz_said(-1, &e);
    model_free(&m);
done:
    gguf_free(&g);
    free(copy);
    return 0;
}
