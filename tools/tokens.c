// tokens: texts to ids and ids to texts, for scripts and tests.
#include "tools.h"

#include <stdlib.h>
#include <string.h>

int read_text(const char *path, char **text, size_t *n, Err *e) {
    if (strcmp(path, "-") == 0) return read_all(stdin, "standard input", TEXT_LIMIT, text, n, e);
    return read_file(path, TEXT_LIMIT, text, n, e);
}

int tool_tokenize(const Loaded *l, const char *text_file, Err *e) {
    char *text = NULL;
    int *ids = NULL;
    size_t size, n = 0;
    int status = -1;
    if (read_text(text_file, &text, &size, e)) return -1;
    if (tokenizer_encode(l->tokenizer, text, size, true, true, &ids, &n, e) == 0) {
        for (size_t i = 0; i < n; i++) printf(i ? " %d" : "%d", ids[i]);
        putchar('\n');
        status = 0;
    }
    free(ids);
    free(text);
    return status;
}

int tool_detokenize(const Loaded *l, const char *ids_file, Err *e) {
    char *text = NULL;
    size_t size;
    if (read_text(ids_file, &text, &size, e)) return -1;
    Decoder d = {.special = true};
    int status = 0;
    for (char *p = text, *end; (p += strspn(p, " \t\r\n,")) < text + size;  p = end) {
        long id = strtol(p, &end, 10);
        if (end == p || id < 0 || id >= l->vocab->n) {
            int word = (int)strcspn(p, " \t\r\n,");
            status = fail(e, "%s: \"%.*s\" is not an id in 0 .. %d", ids_file, word < 20 ? word : 20, p,
                          l->vocab->n - 1);
            break;
        }
        fputs(tokenizer_decode(l->tokenizer, &d, (int)id), stdout);
    }
    fputs(tokenizer_decode_end(l->tokenizer, &d), stdout);
    free(text);
    return status;
}
