// Published test vectors of tokenizers: NAME.inp holds texts, each followed by a line
// __ggml_vocab_test__ of its own (so a newline before that line is no part of the text); line k of
// NAME.out the ids of text k, each with a space before it, no BOS. NAME ends in .gguf.
// returns: the text comes back from its ids, which WordPiece's does not.
#ifndef VECTORS_H
#define VECTORS_H

#include "test.h"
#include "../tokenizer.h"

static inline int check_vectors(Tokenizer *t, const char *name, int returns) {
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char file[512], *text, *ids_text;
    size_t size;
    Err e;
    const char *path[2];
    for (int i = 0; i < 2; i++) {
        snprintf(file, sizeof file, "%s%s", name, i ? ".out" : ".inp");
        if (!(path[i] = data_path(file))) return SKIP;
    }
    CHECK(!read_file(path[0], 1 << 20, &text, &size, &e), "%s", e.msg);
    CHECK(!read_file(path[1], 1 << 20, &ids_text, &size, &e), "%s", e.msg);
    int count = 0;
    char *expected = ids_text;
    for (char *s = text, *end; (end = strstr(s, separator)); s = end + sizeof separator - 1,
        count++) {
        int *ids;
        size_t n = (size_t)(end - s), n_ids, at = 0, k = 0;
        CHECK(!tokenizer_encode(t, s, n, false, true, &ids, &n_ids, &e), "%s", e.msg);
        char *line_end = strchr(expected, '\n');
        CHECK(line_end, "%s has too few lines", path[1]);
        *line_end = 0;
        for (char *p = expected, *next; ; p = next, k++) {
            long id = strtol(p, &next, 10);
            if (next == p) break;
            CHECK(k < n_ids && ids[k] == id, "%s, text %d '%.*s': id %zu is %d, expected %ld",
                name, count + 1,
                  (int)n, s, k, k < n_ids ? ids[k] : -1, id);
        }
        CHECK(k == n_ids, "%s, text %d: %zu ids, expected %zu", name, count + 1, n_ids, k);
        Decoder d = {0};
        for (k = 0; returns && k <= n_ids; k++) {
            const char *back = k < n_ids ? tokenizer_decode(t, &d, ids[k])
                : tokenizer_decode_end(t, &d);
            CHECK(strlen(back) <= n - at && !memcmp(back, s + at, strlen(back)),
                  "%s, text %d: decodes to '%s' at byte %zu", name, count + 1, back, at);
            at += strlen(back);
        }
        CHECK(at == n || !returns, "%s, text %d: decodes to %zu bytes, expected %zu", name, count + 1, at, n);
        free(ids);
        expected = line_end + 1;
    }
    CHECK(count > 40 && !*expected, "%s: %d texts", name, count);
    free(text);
    free(ids_text);
    return PASS;
}

#endif
