// json: reads the JSON of RFC 8259, no more and no less, by recursive descent. Owns the nodes and
// one buffer with every string, unescaped; keeps nothing of the text. Refused besides what the
// grammar refuses: nesting beyond 64, the same key twice in an object, text that is not UTF-8,
// halves of surrogate pairs, numbers that are not finite. It writes nothing and knows no file.
#include "json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64, BLOCK_NODES = 1024, MAX_BLOCKS = 8192, MAX_NUMBER = 400 };

typedef struct Block { struct Block *before; Json node[BLOCK_NODES]; } Block;  // nodes never move
typedef struct { Block *last; char *strings; } Owned;

typedef struct {
    const char *text, *at, *end, *name;
    char *out;                  // where the next string goes; together they are shorter than text
    Owned *owned;
    uint32_t used, blocks;      // nodes of the last block, blocks
    Err *e;
} Parser;

// Counts lines up to p->at: only on the way to an error.
static int bad(const Parser *p, const char *what) {
    int64_t line = 1, column = 1;
    for (const char *c = p->text; c < p->at; c++) {
        column++;
        if (*c == '\n') line++, column = 1;
    }
    return fail(p->e, "%s: line %lld, column %lld: %s", p->name, (long long)line, (long long)column,
                what);
}

static void skip_space(Parser *p) {
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r'))
        p->at++;
}

static bool take(Parser *p, char c) {
    if (p->at == p->end || *p->at != c) return false;
    p->at++;
    return true;
}

static bool digit(const Parser *p) { return p->at < p->end && *p->at >= '0' && *p->at <= '9'; }

static Json *new_node(Parser *p) {
    if (!p->owned->last || p->used == BLOCK_NODES) {
        if (p->blocks == MAX_BLOCKS) { bad(p, "too many values"); return NULL; }
        Block *b = alloc(1, sizeof *b, p->name, p->e);
        if (!b) return NULL;
        b->before = p->owned->last;
        p->owned->last = b;
        p->used = 0;
        p->blocks++;
    }
    return &p->owned->last->node[p->used++];
}

static int hex4(Parser *p, uint32_t *code) {
    *code = 0;
    for (int i = 0; i < 4; i++, p->at++) {
        int c = p->at < p->end ? *p->at : 0;
        int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
              : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (v < 0) return bad(p, "\\u needs four hexadecimal digits");
        *code = *code << 4 | (uint32_t)v;
    }
    return 0;
}

static void put_utf8(Parser *p, uint32_t c) {
    if (c < 0x80) {
        *p->out++ = (char)c;
        return;
    }
    int tail = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const uint8_t lead[] = {0, 0xC0, 0xE0, 0xF0};
    *p->out++ = (char)(lead[tail] | c >> (6 * tail));
    while (tail--) *p->out++ = (char)(0x80 | (c >> (6 * tail) & 0x3F));
}

// Bytes of the well-formed UTF-8 character at s, 0 when it is none: no overlong form, no surrogate,
// nothing above U+10FFFF.
static int utf8_length(const uint8_t *s, size_t n) {
    int tail = s[0] < 0x80 ? 0 : s[0] >= 0xC2 && s[0] < 0xE0 ? 1 : (s[0] & 0xF0) == 0xE0 ? 2
             : s[0] >= 0xF0 && s[0] < 0xF5 ? 3 : -1;
    if (tail < 0 || n < (size_t)tail + 1) return 0;
    for (int i = 1; i <= tail; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] >= 0xA0) ||
        (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] >= 0x90)) return 0;
    return tail + 1;
}

static int escape(Parser *p) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (p->at == p->end) return bad(p, "the text ends within a string");
    const char *which = memchr(from, *p->at, sizeof from - 1);
    if (which) {
        *p->out++ = to[which - from];
        p->at++;
        return 0;
    }
    uint32_t code, low;
    if (!take(p, 'u')) return bad(p, "unknown escape");
    if (hex4(p, &code)) return -1;
    if (code >= 0xDC00 && code < 0xE000) return bad(p, "second half of a surrogate pair alone");
    if (code >= 0xD800 && code < 0xDC00) {
        if (!take(p, '\\') || !take(p, 'u')) return bad(p, "first half of a surrogate pair alone");
        if (hex4(p, &low)) return -1;
        if (low < 0xDC00 || low >= 0xE000) return bad(p, "first half of a surrogate pair alone");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    put_utf8(p, code);
    return 0;
}

static int parse_string(Parser *p, Str *s) {
    s->s = p->out;
    p->at++;
    for (;;) {
        if (p->at == p->end) return bad(p, "the text ends within a string");
        uint8_t c = (uint8_t)*p->at;
        if (c == '"') break;
        if (c < 0x20) return bad(p, "control character within a string");
        if (c == '\\') {
            p->at++;
            if (escape(p)) return -1;
            continue;
        }
        int n = utf8_length((const uint8_t *)p->at, (size_t)(p->end - p->at));
        if (n == 0) return bad(p, "not UTF-8");
        while (n--) *p->out++ = *p->at++;
    }
    p->at++;
    s->n = (size_t)(p->out - s->s);
    return 0;
}

// number = [ - ] ( 0 | 1-9 digits ) [ . digits ] [ e [ + | - ] digits ]
static int parse_number(Parser *p, Json *v) {
    const char *start = p->at;
    char copy[MAX_NUMBER + 1];
    v->type = J_NUMBER;
    v->is_integer = true;
    bool negative = take(p, '-');
    uint64_t size = 0;                      // of the integer, kept while it fits 63 bits
    bool fits = true;
    if (!digit(p)) return bad(p, negative ? "a digit must follow '-'" : "a value is expected");
    if (!take(p, '0')) {
        for (; digit(p); p->at++) {
            unsigned d = (unsigned)(*p->at - '0');
            if (size > ((uint64_t)INT64_MAX - d) / 10) fits = false;
            else size = size * 10 + d;
        }
    } else if (digit(p)) return bad(p, "a number must not begin with 0");
    if (take(p, '.')) {
        v->is_integer = false;
        if (!digit(p)) return bad(p, "a digit must follow '.'");
        while (digit(p)) p->at++;
    }
    if (take(p, 'e') || take(p, 'E')) {
        v->is_integer = false;
        if (!take(p, '+')) take(p, '-');
        if (!digit(p)) return bad(p, "the exponent needs a digit");
        while (digit(p)) p->at++;
    }
    size_t n = (size_t)(p->at - start);
    if (n > MAX_NUMBER) return bad(p, "number with too many digits");
    memcpy(copy, start, n);
    copy[n] = 0;
    v->number = strtod(copy, NULL);
    if (!isfinite(v->number)) return bad(p, "number out of range");
    if (!fits) v->is_integer = false;
    if (v->is_integer) v->integer = negative ? -(int64_t)size : (int64_t)size;
    return 0;
}

static int by_key(const void *a, const void *b) {
    const Str *x = &(*(Json *const *)a)->key, *y = &(*(Json *const *)b)->key;
    int order = memcmp(x->s, y->s, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static int check_keys(Parser *p, const Json *object) {
    Json *few[16], **all = few;
    if (object->count > sizeof few / sizeof *few) {
        all = alloc(object->count, sizeof *all, p->name, p->e);
        if (!all) return -1;
    }
    uint32_t n = 0, same = 0;
    for (Json *c = object->child; c; c = c->next) all[n++] = c;
    qsort(all, n, sizeof *all, by_key);
    for (uint32_t i = 1; i < n && !same; i++) same = by_key(&all[i - 1], &all[i]) == 0 ? i : 0;
    if (same) {
        char what[128];
        snprintf(what, sizeof what, "key \"%.*s\" twice in one object",
                 all[same]->key.n < 80 ? (int)all[same]->key.n : 80, all[same]->key.s);
        bad(p, what);
    }
    if (all != few) free(all);
    return same ? -1 : 0;
}

static int parse_value(Parser *p, Json *v, int depth);

// What stands between [ ] or { }, the opening bracket already taken.
static int parse_members(Parser *p, Json *v, int depth) {
    bool object = v->type == J_OBJECT;
    char close = object ? '}' : ']';
    if (depth == MAX_DEPTH) return bad(p, "nested too deeply");
    skip_space(p);
    if (take(p, close)) return 0;
    Json **link = &v->child;
    for (;;) {
        Json *c = new_node(p);
        if (!c) return -1;
        skip_space(p);
        if (object) {
            if (p->at == p->end || *p->at != '"') return bad(p, "a key in quotes is expected");
            if (parse_string(p, &c->key)) return -1;
            skip_space(p);
            if (!take(p, ':')) return bad(p, "':' is expected");
        }
        if (parse_value(p, c, depth + 1)) return -1;
        *link = c;
        link = &c->next;
        v->count++;
        skip_space(p);
        if (take(p, close)) return object ? check_keys(p, v) : 0;
        if (!take(p, ','))
            return bad(p, object ? "',' or '}' is expected" : "',' or ']' is expected");
    }
}

static int parse_word(Parser *p, const char *word) {
    for (; *word; word++)
        if (!take(p, *word)) return bad(p, "a value is expected");
    return 0;
}

static int parse_value(Parser *p, Json *v, int depth) {
    skip_space(p);
    if (p->at == p->end) return bad(p, "the text ends where a value is expected");
    switch (*p->at) {
    case '{': v->type = J_OBJECT; p->at++; return parse_members(p, v, depth);
    case '[': v->type = J_ARRAY; p->at++; return parse_members(p, v, depth);
    case '"': v->type = J_STRING; return parse_string(p, &v->string);
    case 't': v->type = J_BOOL; v->boolean = true; return parse_word(p, "true");
    case 'f': v->type = J_BOOL; return parse_word(p, "false");
    case 'n': v->type = J_NULL; return parse_word(p, "null");
    default: return parse_number(p, v);
    }
}

int json_parse(JsonDoc *d, const char *text, size_t n, const char *name, Err *e) {
    *d = (JsonDoc){0};
    Owned *owned = alloc(1, sizeof *owned, name, e);
    if (!owned) return -1;
    d->owned = owned;
    Parser p = {.text = text, .at = text, .end = text + n, .name = name, .owned = owned, .e = e};
    p.out = owned->strings = alloc(n, 1, name, e);
    Json *root = p.out ? new_node(&p) : NULL;
    if (!root || parse_value(&p, root, 0)) goto failed;
    skip_space(&p);
    if (p.at < p.end) {
        bad(&p, "something follows the end of the document");
        goto failed;
    }
    d->root = root;
    return 0;
failed:
    json_free(d);
    return -1;
}

void json_free(JsonDoc *d) {
    Owned *owned = d->owned;
    if (owned) {
        for (Block *b = owned->last, *before; b; b = before) {
            before = b->before;
            free(b);
        }
        free(owned->strings);
        free(owned);
    }
    *d = (JsonDoc){0};
}

static const Json *get(const Json *object, const char *key, size_t n) {
    if (!object || object->type != J_OBJECT) return NULL;
    for (const Json *c = object->child; c; c = c->next)
        if (c->key.n == n && memcmp(c->key.s, key, n) == 0) return c;
    return NULL;
}

const Json *json_get(const Json *object, const char *key) { return get(object, key, strlen(key)); }

const Json *json_path(const Json *root, const char *path) {
    while (root) {
        size_t n = strcspn(path, ".");
        root = get(root, path, n);
        if (!path[n]) break;
        path += n + 1;
    }
    return root;
}
