// Fuzz target: a Hugging Face folder, written as parts (see fuzz.h). A part NAME.tensors stands for the
// file NAME.safetensors: a tensor a line, "name dtype n n", whose places and bytes are made here, so
// that shapes can change and the file stays one (what is wrong with its own form is
// fuzz_safetensors.c's).
#include "fuzz.h"
#include "../export/source.h"

enum { ROOM = 1 << 16 };                    // of one file's header, and of its numbers
static const char *const names[] = {
    "config.json", "model.tensors", "a.tensors", "b.tensors", "model.safetensors.index.json", "tokenizer.json",
    "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json",
    "special_tokens_map.json", "generation_config.json", "chat_template.jinja", NULL};

static void put_tensors(const char *file, const char *text, size_t size) {
    static char out[8 + ROOM + ROOM];
    size_t used = 8, at = 0;
    out[used++] = '{';
    for (const char *line = text, *end; line < text + size; line = end + 1) {
        char name[200], dtype[8];
        long long n[2] = {0};
        size_t width;
        end = memchr(line, '\n', (size_t)(text + size - line));
        if (!end) end = text + size;
        char copy[260];
        snprintf(copy, sizeof copy, "%.*s", (int)(end - line < 250 ? end - line : 250), line);
        int got = sscanf(copy, "%199s %7s %lld %lld", name, dtype, &n[0], &n[1]) - 2;
        if (got < 0 || used > ROOM - 600) continue;
        width = strcmp(dtype, "F32") ? 2 : 4;
        for (int i = 0; i < got; i++) width = n[i] >= 0 && n[i] < 4096 ? width * (size_t)n[i] : ROOM;
        if (at + width > ROOM) width = 0;
        used += (size_t)sprintf(out + used, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", at || used > 9 ? "," : "",
            name, dtype);
        for (int i = 0; i < got; i++) used += (size_t)sprintf(out + used, i ? ",%lld" : "%lld", n[i]);
        used += (size_t)sprintf(out + used, "],\"data_offsets\":[%zu,%zu]}", at, at + width);
        at += width;
    }
    out[used++] = '}';
    uint64_t header = used - 8;
    memcpy(out, &header, 8);
    for (size_t i = 0; i < at; i++) out[used + i] = (char)(i % 4 == 3 ? 0x3d : i * 7);
    char path[200];
    snprintf(path, sizeof path, "%.*s.safetensors", (int)(strrchr(file, '.') - file), file);
    fuzz_put(path, out, used + at);
}

static void put(const char *name, const uint8_t *data, size_t size) {
    if (strstr(name, ".tensors")) put_tensors(name, (const char *)data, size);
    else fuzz_put(name, data, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Source s;
    Model m = {0};
    Err e = {""};
    fuzz_parts(data, size, names, put);
    int status = source_open(&s, fuzz_path(""), NULL, &e);
    fuzz_said(status, &e);
    if (!status) {
        const Vocab *v = &s.vocab;
        if (!model_bind(&m, &s.g, &e)) {
            fuzz_run(&m, (unsigned)size);
            if (!source_split(&s, &m, &e)) {
                model_free(&m);
                HOLDS(!model_bind(&m, &s.g, &e), "%s", e.msg);
            }
        } else fuzz_said(-1, &e);
        HOLDS(v->bos < v->n && v->eos < v->n && v->eot < v->n && v->unk < v->n && v->mask < v->n, "an id");
        fuzz_vocab(v);
        model_free(&m);
        source_close(&s);
    }
    for (int i = 0; names[i]; i++) remove(fuzz_path(names[i]));
    remove(fuzz_path("model.safetensors"));
    remove(fuzz_path("a.safetensors"));
    remove(fuzz_path("b.safetensors"));
    return 0;
}
