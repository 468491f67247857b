// json: a strict JSON reader (RFC 8259) over a buffer, into an array of nodes. Depth, size and
// duplicate keys are bounded and checked; a bad document is refused with line and column.
#ifndef JSON_H
#define JSON_H

#include "gguf.h"

typedef enum { J_NULL, J_BOOL, J_NUMBER, J_STRING, J_ARRAY, J_OBJECT } JsonType;
typedef struct Json Json;
struct Json {
    JsonType type;
    bool boolean;
    double number;
    int64_t integer;      // of a number written without fraction or exponent that fits, else 0
    bool is_integer;
    Str string;           // unescaped, UTF-8
    Str key;              // of a member of an object
    uint32_t count;       // children
    Json *child, *next;   // first child, next sibling; NULL at the end
};

typedef struct { Json *root; void *owned; } JsonDoc;
int json_parse(JsonDoc *d, const char *text, size_t n, const char *name, Err *e);
void json_free(JsonDoc *d);
const Json *json_get(const Json *object, const char *key);   // NULL when absent or no object
const Json *json_path(const Json *root, const char *path);   // "a.b.c"

#endif
