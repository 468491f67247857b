// The JSON reader: what RFC 8259 allows is read as meant, everything else is refused with a place.
#include "../core/json.h"
#include "test.h"

static Err err;

static int parse(JsonDoc *d, const char *text) {
    return json_parse(d, text, strlen(text), "text", &err);
}

static int values(void) {
    JsonDoc d;
    CHECK(parse(&d, " {\"a\" : [1, -2.5e3, true, false, null, \"x\"],\r\n\t\"b\": {\"c\": {\"d\": 7}},"
                    "\"\": 0, \"e.f\": 9, \"none\": [], \"o\": {}} ") == 0, "%s", err.msg);
    const Json *a = json_get(d.root, "a");
    CHECK(d.root->type == J_OBJECT && d.root->count == 6, "count %u", d.root->count);
    CHECK(a && a->type == J_ARRAY && a->count == 6, "array");
    const Json *c = a->child;
    CHECK(c->type == J_NUMBER && c->is_integer && c->integer == 1 && c->number == 1, "1");
    c = c->next;
    CHECK(c->type == J_NUMBER && !c->is_integer && c->integer == 0 && c->number == -2500, "-2.5e3");
    c = c->next;
    CHECK(c->type == J_BOOL && c->boolean, "true");
    c = c->next;
    CHECK(c->type == J_BOOL && !c->boolean, "false");
    c = c->next;
    CHECK(c->type == J_NULL, "null");
    c = c->next;
    CHECK(c->type == J_STRING && str_is(c->string, "x") && !c->next, "x");
    CHECK(json_path(d.root, "b.c.d") && json_path(d.root, "b.c.d")->integer == 7, "path");
    CHECK(!json_path(d.root, "b.x.d") && !json_path(d.root, "a.b") && !json_get(NULL, "a"), "absent");
    CHECK(json_get(d.root, "") && json_get(d.root, "e.f")->integer == 9, "odd keys");
    CHECK(json_get(d.root, "none")->count == 0 && !json_get(d.root, "o")->child, "empty ones");
    json_free(&d);
    json_free(&d);
    return PASS;
}

static int accepted(void) {
    static const char *const good[] = {
        "0", "-0", "1e5", "1E+5", "0.5", "-1.25e-3", "\"\"", "[]", "{}", "null", " [ ] ", "\n\t{\r}\n",
        "[[[[]]]]", "[\"\x7f\"]", "{\"a\":1,\"A\":2}", "[\"\xF4\x8F\xBF\xBF\"]", "1e-400",
        "\"\xEE\x80\x80 \xED\x9F\xBF \xE0\xA0\x80\"",
    };
    for (int i = 0; i < COUNT(good); i++) {
        JsonDoc d;
        CHECK(parse(&d, good[i]) == 0, "'%s': %s", good[i], err.msg);
        json_free(&d);
    }
    return PASS;
}

static int refused(void) {
    static const struct { const char *text, *why; } bad[] = {
        {"", "ends"}, {"  \n", "line 2, column 1"}, {"nul", "value"}, {"True", "value"}, {"'a'", "value"},
        {"[1,]", "value"}, {"[,1]", "value"}, {"[1 2]", "','"}, {"[1", "','"}, {"{\"a\":1,}", "key"},
        {"{a:1}", "key"}, {"{\"a\" 1}", "':'"}, {"{\"a\":}", "value"}, {"{1:2}", "key"}, {"{", "key"},
        {"01", "begin with 0"}, {"-", "digit"}, {"+1", "value"}, {".5", "value"}, {"1.", "digit"},
        {"1.e5", "digit"}, {"1e", "exponent"}, {"1e+", "exponent"}, {"-01", "begin with 0"},
        {"0x10", "follows"}, {"NaN", "value"}, {"Infinity", "value"}, {"-Infinity", "digit"},
        {"1e999", "range"}, {"-1e999", "range"}, {"1 2", "follows"}, {"[] []", "follows"},
        {"\"a", "within a string"}, {"\"\\", "within a string"}, {"\"\\x\"", "escape"},
        {"\"\\u12\"", "hexadecimal"}, {"\"\\u12G4\"", "hexadecimal"}, {"\"a\nb\"", "control"},
        {"\"\t\"", "control"}, {"\"\\ud800\"", "first half"}, {"\"\\ud800x\"", "first half"},
        {"\"\\ud800\\n\"", "first half"}, {"\"\\ud800\\ud800\"", "first half"},
        {"\"\\udc00\"", "second half"}, {"\"\xff\"", "UTF-8"}, {"\"\xC0\x80\"", "UTF-8"},
        {"\"\xED\xA0\x80\"", "UTF-8"}, {"\"\xE0\x80\x80\"", "UTF-8"}, {"\"\xF4\x90\x80\x80\"", "UTF-8"},
        {"\"\xE2\x82\"", "UTF-8"}, {"\"\x80\"", "UTF-8"}, {"\xEF\xBB\xBF{}", "value"},
        {"// c\n1", "value"}, {"[1] // c", "follows"}, {"{\"a\":1,\"b\":2,\"a\":3}", "\"a\" twice"},
        {"[{\"x\":1,\"\\u0078\":3}]", "\"x\" twice"}, {"{\"\":1,\"\":2}", "\"\" twice"},
        {"\n\n  [1,\n  }", "line 4, column 3"},
    };
    for (int i = 0; i < COUNT(bad); i++) {
        JsonDoc d;
        CHECK(parse(&d, bad[i].text) == -1, "'%s' was read", bad[i].text);
        CHECK(strstr(err.msg, bad[i].why), "'%s': message '%s' lacks '%s'", bad[i].text, err.msg, bad[i].why);
        CHECK(!d.root && !d.owned, "'%s' leaves a document", bad[i].text);
    }
    return PASS;
}

static int strings(void) {
    static const struct { const char *text, *want; size_t n; } s[] = {
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t", 8},
        {"\"\\u0041\\u00e9\\u20AC\"", "A\xC3\xA9\xE2\x82\xAC", 6},
        {"\"\\ud83d\\uDE00\"", "\xF0\x9F\x98\x80", 4},
        {"\"\\uDBFF\\uDFFF\"", "\xF4\x8F\xBF\xBF", 4},
        {"\"a\\u0000b\"", "a\0b", 3},
        {"\"\xC4\xA0the\"", "\xC4\xA0the", 5},
    };
    for (int i = 0; i < COUNT(s); i++) {
        JsonDoc d;
        CHECK(parse(&d, s[i].text) == 0, "%s: %s", s[i].text, err.msg);
        Str got = d.root->string;
        CHECK(got.n == s[i].n && memcmp(got.s, s[i].want, got.n) == 0, "%s gives %zu bytes '%.*s'",
              s[i].text, got.n, (int)got.n, got.s);
        json_free(&d);
    }
    return PASS;
}

static int numbers(void) {
    static const struct { const char *text; double number; bool is_integer; int64_t integer; } s[] = {
        {"9223372036854775807", 9223372036854775807.0, true, INT64_MAX},
        {"-9223372036854775807", -9223372036854775807.0, true, -INT64_MAX},
        {"9223372036854775808", 9223372036854775808.0, false, 0},
        {"18446744073709551615", 18446744073709551615.0, false, 0},
        {"99999999999999999999999999", 1e26, false, 0},
        {"9007199254740993", 9007199254740992.0, true, 9007199254740993},
        {"1.0", 1, false, 0}, {"10000.0", 10000, false, 0}, {"1e-05", 1e-5, false, 0}, {"-0", 0, true, 0},
        {"1.7976931348623157e308", 1.7976931348623157e308, false, 0},
        {"0.1", 0.1, false, 0}, {"1e-999", 0, false, 0},
    };
    for (int i = 0; i < COUNT(s); i++) {
        JsonDoc d;
        CHECK(parse(&d, s[i].text) == 0, "%s: %s", s[i].text, err.msg);
        CHECK(d.root->number == s[i].number, "%s gives %.17g", s[i].text, d.root->number);
        CHECK(d.root->is_integer == s[i].is_integer && d.root->integer == s[i].integer,
              "%s gives integer %lld (%d)", s[i].text, (long long)d.root->integer, d.root->is_integer);
        json_free(&d);
    }
    char digits[1000];
    memset(digits, '7', sizeof digits);
    JsonDoc d;
    CHECK(json_parse(&d, digits, 300, "text", &err) == 0, "300 digits: %s", err.msg);
    json_free(&d);
    CHECK(json_parse(&d, digits, 1000, "text", &err) == -1 && strstr(err.msg, "digits"), "%s", err.msg);
    return PASS;
}

static int depth(void) {
    enum { N = 100000 };
    static char text[N];
    JsonDoc d;
    for (int n = 60; n < 70; n++) {
        memset(text, '[', (size_t)n);
        memset(text + n, ']', (size_t)n);
        int result = json_parse(&d, text, 2 * (size_t)n, "text", &err);
        CHECK((result == 0) == (n <= 64), "%d brackets: %d", n, result);
        json_free(&d);
    }
    memset(text, '[', N);
    CHECK(json_parse(&d, text, N, "text", &err) == -1 && strstr(err.msg, "deeply"), "%s", err.msg);
    for (int i = 0; i + 5 <= N; i += 5) memcpy(text + i, "{\"a\":", 5);
    CHECK(json_parse(&d, text, N, "text", &err) == -1 && strstr(err.msg, "deeply"), "%s", err.msg);
    return PASS;
}

// Many members: no quadratic time, and a duplicate among them is still found.
static int many_keys(void) {
    enum { N = 200000 };
    char *text = malloc(N * 24), *p = text;
    CHECK(text, "memory");
    *p++ = '{';
    for (int i = 0; i < N; i++) p += sprintf(p, "\"token %d\":%d,", i, i);
    char *last = p;
    p += sprintf(p, "\"x\":0}");
    JsonDoc d;
    CHECK(json_parse(&d, text, (size_t)(p - text), "text", &err) == 0, "%s", err.msg);
    CHECK(d.root->count == N + 1, "count %u", d.root->count);
    json_free(&d);
    p = last + sprintf(last, "\"token 77777\":0}");
    CHECK(json_parse(&d, text, (size_t)(p - text), "text", &err) == -1, "duplicate was read");
    CHECK(strstr(err.msg, "token 77777"), "%s", err.msg);
    free(text);
    return PASS;
}

// A document cut anywhere is refused; with any byte changed it is read or refused, never misread
// beyond its end (exact allocations: the sanitizer sees the first byte behind).
static int cut_and_flipped(void) {
    static const char text[] = "{\"a\": [1, -2.5e+3, true, null, \"x\\u00e9\\ud83d\\ude00\xC3\xA9\"],"
                               " \"b\": {\"c\": \"\\\\\"}, \"d\": [[], {}, 0.25]}";
    size_t n = sizeof text - 1;
    JsonDoc d;
    for (size_t cut = 0; cut < n; cut++) {
        char *copy = malloc(cut + 1);
        CHECK(copy, "memory");
        memcpy(copy + 1, text, cut);
        CHECK(json_parse(&d, copy + 1, cut, "text", &err) == -1, "cut at %zu was read", cut);
        free(copy);
    }
    for (size_t at = 0; at < n; at++)
        for (int byte = 0; byte < 256; byte++) {
            char *copy = malloc(n);
            CHECK(copy, "memory");
            memcpy(copy, text, n);
            copy[at] = (char)byte;
            err.msg[0] = 0;
            int result = json_parse(&d, copy, n, "text", &err);
            CHECK(result == 0 || (strstr(err.msg, "text: line ") && !d.root), "%s", err.msg);
            free(copy);
            json_free(&d);
        }
    return PASS;
}

static const Test tests[] = {
    {"values", values}, {"accepted", accepted}, {"refused", refused}, {"strings", strings},
    {"numbers", numbers}, {"depth", depth}, {"many keys", many_keys},
    {"cut and flipped", cut_and_flipped},
};

int main(int argc, char **argv) { return run_tests("json", tests, COUNT(tests), argc, argv); }
