// Fuzz target: core/json. What is read hangs together: counts, ends of lists, keys that are found.
#include "fuzz.h"
#include "../core/json.h"
#include "../core/unicode.h"

static void check_text(Str s) {
    for (size_t i = 0, len; i < s.n; i += len) {
        uint32_t cp;
        len = utf8_next(s.s + i, s.n - i, &cp);
        HOLDS(len && cp != UTF8_BAD, "a string that is not UTF-8");
    }
}

static void walk(const Json *v, int depth) {
    uint32_t n = 0;
    HOLDS(depth <= 65, "depth %d", depth);
    check_text(v->string);
    for (const Json *c = v->child; c; c = c->next, n++) {
        check_text(c->key);
        walk(c, depth + 1);
        if (v->type != J_OBJECT || v->count > 64 || memchr(c->key.s, 0, c->key.n)) continue;
        char *key = strndup(c->key.s, c->key.n);
        HOLDS(json_get(v, key) == c, "a key that is not found");
        free(key);
    }
    HOLDS(n == v->count, "%u children, count %u", n, v->count);
    HOLDS(!n || v->type == J_ARRAY || v->type == J_OBJECT, "children of type %d", (int)v->type);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *text = fuzz_copy(data, size);
    JsonDoc doc;
    Err e = {""};
    fuzz_begin();
    if (json_parse(&doc, (const char *)text, size, "input", &e)) fuzz_said(-1, &e);
    else walk(doc.root, 0);
    fuzz_small(size, 100, "json");
    if (doc.root) json_path(doc.root, "a.b.c");
    json_free(&doc);
    free(text);
    return 0;
}
