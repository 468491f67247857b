// items: JSON lines to benchmark items, and when a text counts as holding an answer.
#include "tasks.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "../core/json.h"
#include "../core/unicode.h"

enum { MAX_FILE = 1 << 30, MAX_CHOICES = 1000, MAX_NEW = 1 << 20 };

// ---- text ----------------------------------------------------------------------------------------

static bool blank_at(const char *s, size_t n, size_t *step) {
    uint32_t cp;
    *step = utf8_next(s, n, &cp);
    if (*step == 0) *step = n;
    else if (unicode_class(cp) == UC_SPACE) return true;
    return false;
}

// s without white space at its ends: where it begins, *n its bytes.
static const char *strip(const char *s, size_t *n) {
    size_t end = strlen(s), last = 0, step;
    while (*s && blank_at(s, end, &step)) s += step, end -= step;
    for (size_t i = 0; i < end; i += step)
        if (!blank_at(s + i, end - i, &step)) last = i + step;
    *n = last;
    return s;
}

// Lower case of s (n bytes), code point by code point, in a new buffer. A final sigma is a sigma.
static char *lower(const char *s, size_t n) {
    char *out = malloc(3 * n + 1), *at = out;           // a lower case may take more bytes: U+0130
    for (size_t step; out && n; s += step, n -= step) {
        uint32_t cp, to[2];
        step = utf8_next(s, n, &cp);
        if (step == 0) step = n;
        if (cp == UTF8_BAD) { memcpy(at, s, step); at += step; continue; }
        size_t count = unicode_lower(cp, to);
        for (size_t i = 0; i < count; i++) at += utf8_put(to[i], at);
    }
    if (out) *at = 0;
    return out;
}

int text_holds(const char *text, const char *answer, Err *e) {
    size_t n;
    answer = strip(answer, &n);
    char *a = lower(answer, n), *t = lower(text, strlen(text));
    int holds = a && t ? strstr(t, a) != NULL : fail(e, "out of memory for an answer");
    free(a);
    free(t);
    return holds;
}

int text_same(const char *a, const char *b, Err *e) {
    size_t na, nb;
    a = strip(a, &na);
    b = strip(b, &nb);
    char *la = lower(a, na), *lb = lower(b, nb);
    int same = la && lb ? strcmp(la, lb) == 0 : fail(e, "out of memory for an answer");
    free(la);
    free(lb);
    return same;
}

char *text_join(const char *prompt, const char *text, Err *e) {
    size_t n = strlen(prompt), m = strlen(text), step, last = n ? n - 1 : 0;
    while (last > 0 && ((unsigned char)prompt[last] & 0xC0) == 0x80) last--;
    bool space = n && !blank_at(prompt + last, n - last, &step) && !(m && blank_at(text, m, &step));
    char *out = alloc(n + m + 2, 1, "an item's text", e);
    if (out) sprintf(out, "%s%s%s", prompt, space ? " " : "", text);
    return out;
}

int64_t text_length(const char *s) {
    int64_t n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

void put_json(FILE *f, const char *s) {
    fputc('"', f);
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') fprintf(f, "\\%c", *s);
        else if (*s == '\n') fputs("\\n", f);
        else if (*s == '\t') fputs("\\t", f);
        else if ((unsigned char)*s < ' ') fprintf(f, "\\u%04x", *s);
        else fputc(*s, f);
    }
    fputc('"', f);
}

// ---- reading -------------------------------------------------------------------------------------

typedef struct { const char *path; int64_t line; Err *e; } Place;

PRINTF_LIKE(2, 3)
static int bad(const Place *at, const char *fmt, ...) {
    char what[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    return fail(at->e, "%s: line %lld: %s", at->path, (long long)at->line, what);
}

// A string of the document, copied. blank: it may be empty or white space only.
static char *copy_text(const Json *j, const char *key, bool blank, const Place *at) {
    char *copy;
    size_t n;
    if (!j || j->type != J_STRING || memchr(j->string.n ? j->string.s : "", 0, j->string.n)) {
        bad(at, "\"%s\" is %s", key, !j ? "missing" : j->type == J_STRING ? "text with a NUL in it"
                                                                        : "no string");
        return NULL;
    }
    if (!(copy = strndup(j->string.n ? j->string.s : "", j->string.n))) {
        bad(at, "out of memory");
        return NULL;
    }
    strip(copy, &n);
    if (n || blank) return copy;
    bad(at, "\"%s\" is empty", key);
    free(copy);
    return NULL;
}

static int whole_number(const Json *j, const char *key, int64_t least, int64_t most, int64_t *to,
                        const Place *at) {
    if (j && j->type == J_NUMBER && j->is_integer && j->integer >= least && j->integer <= most) {
        *to = j->integer;
        return 0;
    }
    return bad(at, "\"%s\" %s a whole number from %lld to %lld", key, j ? "is not" : "is missing:",
               (long long)least, (long long)most);
}

static int read_id(Item *it, const Json *id, const Place *at) {
    TextFile text;
    if (id->type != J_STRING && !(id->type == J_NUMBER && id->is_integer))
        return bad(at, "\"id\" is neither a string nor a whole number");
    if (text_open(&text)) return bad(at, "out of memory");
    if (id->type == J_NUMBER) {
        fprintf(text.f, "%lld", (long long)id->integer);
    } else {
        char *copy = copy_text(id, "id", true, at);
        if (copy) put_json(text.f, copy);
        free(copy);
        if (!copy) { free(text_close(&text)); return -1; }
    }
    return (it->id = text_close(&text)) ? 0 : bad(at, "out of memory");
}

static int read_item(Item *it, const Json *root, const Place *at) {
    if (root->type != J_OBJECT) return bad(at, "an item is an object, {\"prompt\": …}");
    const Json *answer = json_get(root, "answer"), *choices = json_get(root, "choices");
    const Json *next = json_get(root, "next_token"), *limit = json_get(root, "new_tokens");
    const Json *id = json_get(root, "id");
    it->line = at->line;
    if (!(it->prompt = copy_text(json_get(root, "prompt"), "prompt", true, at))) return -1;
    if (!answer == !choices) return bad(at, "an item has either \"answer\" or \"choices\"");
    if (id && read_id(it, id, at)) return -1;
    if (next && next->type != J_BOOL) return bad(at, "\"next_token\" is neither true nor false");
    if (answer) {
        if (next && next->boolean) return bad(at, "\"next_token\" goes with \"choices\"");
        if (limit && whole_number(limit, "new_tokens", 1, MAX_NEW, &it->new_tokens, at)) return -1;
        if (!(it->text = calloc(1, sizeof *it->text))) return bad(at, "out of memory");
        it->text[0] = copy_text(answer, "answer", false, at);
        it->n = 1;
        return it->text[0] ? 0 : -1;
    }
    if (limit) return bad(at, "\"new_tokens\" goes with \"answer\"");
    if (choices->type != J_ARRAY || choices->count < 2 || choices->count > MAX_CHOICES)
        return bad(at, "\"choices\" is no array of 2 to %d strings", MAX_CHOICES);
    it->kind = next && next->boolean ? ITEM_NEXT : ITEM_CHOICES;
    if (!(it->text = calloc(choices->count, sizeof *it->text))) return bad(at, "out of memory");
    for (const Json *c = choices->child; c; c = c->next, it->n++)
        if (!(it->text[it->n] = copy_text(c, "choices", false, at))) return -1;
    int64_t gold = 0;
    if (whole_number(json_get(root, "gold"), "gold", 0, it->n - 1, &gold, at)) return -1;
    it->gold = (int)gold;
    return 0;
}

static int read_line(Item *it, const char *line, size_t n, const Place *at) {
    static const char name[] = "item: line 1, ";        // how the reader's messages begin
    JsonDoc doc = {0};
    Err inner = {""};
    if (json_parse(&doc, line, n, "item", &inner)) {
        bool placed = strncmp(inner.msg, name, strlen(name)) == 0;
        return fail(at->e, "%s: line %lld%s%s", at->path, (long long)at->line, placed ? ", " : ": ",
                    inner.msg + (placed ? strlen(name) : 0));
    }
    int status = read_item(it, doc.root, at);
    json_free(&doc);
    return status;
}

int items_read(Items *items, const char *path, int64_t limit, Err *e) {
    char *text = NULL;
    size_t size, room = 0;
    Place at = {path, 0, e};
    *items = (Items){.path = path};
    if (limit == 0) limit = INT64_MAX;
    if (read_file(path, MAX_FILE, &text, &size, e)) return -1;
    int status = 0;
    for (char *line = text, *end; status == 0 && line < text + size && items->n < limit; line = end + 1) {
        end = memchr(line, '\n', (size_t)(text + size - line));
        if (!end) end = text + size;
        at.line++;
        if (line + strspn(line, " \t\r\n") >= end) continue;
        if (items->n == (int64_t)room) {
            Item *more = realloc(items->item, (room = room ? 2 * room : 256) * sizeof *more);
            if (!more) { status = fail(e, "%s: out of memory", path); break; }
            items->item = more;
        }
        Item *it = &items->item[items->n++];
        *it = (Item){0};
        status = read_line(it, line, (size_t)(end - line), &at);
    }
    free(text);
    if (status == 0 && items->n == 0) status = fail(e, "%s: no items in it", path);
    if (status) items_free(items);
    return status;
}

void items_free(Items *items) {
    for (int64_t i = 0; i < items->n; i++) {
        Item *it = &items->item[i];
        for (int k = 0; k < it->n; k++) free(it->text[k]);
        free(it->text);
        free(it->prompt);
        free(it->id);
    }
    free(items->item);
    *items = (Items){0};
}
