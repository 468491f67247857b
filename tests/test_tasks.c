// Benchmark items: what a file may hold, when an answer is found, the statistics against published and
// counted values, and a run on the small model against a reckoning without a cache.
#include "../tools/tasks.h"
#include "../tools/tools.h"
#include "rig.h"

#include <unistd.h>

static Err err;
static char path[64];

// The file `path` with this text, in which ' stands for ".
static const char *file_of(const char *text) {
    snprintf(path, sizeof path, "/tmp/test_tasks.%d.jsonl", (int)getpid());
    FILE *f = fopen(path, "wb");
    if (!f) return NULL;
    for (; *text; text++) fputc(*text == '\'' ? '"' : *text, f);
    fclose(f);
    return path;
}

// ---- reading -------------------------------------------------------------------------------------

static int reads(void) {
    Items items;
    int status = items_read(&items, file_of(
        "{'prompt': 'A b', 'answer': ' C ', 'new_tokens': 3, 'id': 7, 'subject': [1, {}]}\r\n"
        "\n   \n"
        "{'choices': ['x', 'y z'], 'gold': 1, 'prompt': '', 'id': 'a\\'b\\n'}\n"
        "{'prompt': 'p', 'choices': ['x', 'y', 'z'], 'gold': 0, 'next_token': true}"), 0, &err);
    remove(path);
    CHECK(status == 0, "%s", err.msg);
    CHECK(items.n == 3, "%lld items", (long long)items.n);
    const Item *it = items.item;
    CHECK(it[0].kind == ITEM_ANSWER && it[0].line == 1 && it[0].new_tokens == 3, "first");
    CHECK(!strcmp(it[0].prompt, "A b") && !strcmp(it[0].text[0], " C ") && !strcmp(it[0].id, "7"), "first");
    CHECK(it[1].kind == ITEM_CHOICES && it[1].line == 4 && it[1].n == 2 && it[1].gold == 1, "second");
    CHECK(!strcmp(it[1].text[1], "y z") && !strcmp(it[1].id, "\"a\\\"b\\n\""), "id %s", it[1].id);
    CHECK(it[2].kind == ITEM_NEXT && it[2].n == 3 && it[2].id == NULL, "third");
    items_free(&items);
    return PASS;
}

static int limits(void) {
    Items items;
    int status = items_read(&items, file_of("{'prompt': 'a', 'answer': 'b'}\n"
                                            "{'prompt': 'c', 'answer': 'd'}\nnot read"), 2, &err);
    remove(path);
    CHECK(status == 0 && items.n == 2, "%s", err.msg);
    items_free(&items);
    return PASS;
}

static int refusals(void) {
    static const struct { const char *text, *says; } bad[] = {
        {"", "no items"},
        {"\n \n", "no items"},
        {"\n{'prompt': 'a', 'answer': }", "line 2, column"},
        {"[1]", "object"},
        {"{'answer': 'b'}", "\"prompt\" is missing"},
        {"{'prompt': 1, 'answer': 'b'}", "\"prompt\" is no string"},
        {"{'prompt': 'a'}", "either"},
        {"{'prompt': 'a', 'answer': 'b', 'choices': ['a', 'b'], 'gold': 0}", "either"},
        {"{'prompt': 'a', 'answer': ' \\n'}", "\"answer\" is empty"},
        {"{'prompt': 'a', 'answer': 'b\\u0000c'}", "NUL"},
        {"{'prompt': 'a', 'answer': 'b', 'new_tokens': 0}", "new_tokens"},
        {"{'prompt': 'a', 'answer': 'b', 'new_tokens': 1.5}", "new_tokens"},
        {"{'prompt': 'a', 'answer': 'b', 'next_token': true}", "next_token"},
        {"{'prompt': 'a', 'choices': 'b', 'gold': 0}", "choices"},
        {"{'prompt': 'a', 'choices': ['b'], 'gold': 0}", "choices"},
        {"{'prompt': 'a', 'choices': ['b', 2], 'gold': 0}", "choices"},
        {"{'prompt': 'a', 'choices': ['b', ''], 'gold': 0}", "empty"},
        {"{'prompt': 'a', 'choices': ['b', 'c']}", "\"gold\" is missing"},
        {"{'prompt': 'a', 'choices': ['b', 'c'], 'gold': 2}", "from 0 to 1"},
        {"{'prompt': 'a', 'choices': ['b', 'c'], 'gold': -1}", "from 0 to 1"},
        {"{'prompt': 'a', 'choices': ['b', 'c'], 'gold': 0, 'new_tokens': 3}", "new_tokens"},
        {"{'prompt': 'a', 'choices': ['b', 'c'], 'gold': 0, 'next_token': 1}", "next_token"},
        {"{'prompt': 'a', 'answer': 'b', 'id': []}", "id"},
        {"{'prompt': 'a', 'prompt': 'a', 'answer': 'b'}", "line 1, column"},
        {"{'prompt': '\xff', 'answer': 'b'}", "line 1, column"},
    };
    for (int i = 0; i < COUNT(bad); i++) {
        Items items = {0};
        err.msg[0] = 0;
        int status = items_read(&items, file_of(bad[i].text), 0, &err);
        remove(path);
        CHECK(status && !items.item, "item %d is read", i);
        CHECK(strstr(err.msg, bad[i].says) && strstr(err.msg, path), "%d: %s", i, err.msg);
    }
    Items items;
    CHECK(items_read(&items, "nowhere.jsonl", 0, &err) && strstr(err.msg, "nowhere.jsonl"), "%s", err.msg);
    return PASS;
}

// ---- texts ---------------------------------------------------------------------------------------

static int matches(void) {
    static const struct { const char *text, *answer; bool holds; } t[] = {
        {"The capital of France is Paris.", " paris\n", true},
        {"The capital of France is Paris.", "PARIS.", true},
        {"The capital of France is Par", "Paris", false},
        {"", "x", false},
        {"x y", "x  y", false},                          // inner spaces stay
        {"L'\xC3\x89TAT c'est moi", "\xC3\xA9tat", true},          // É, é
        {"\xD0\x9C\xD0\x9E\xD0\xA1", "\xD0\xBC\xD0\xBE\xD1\x81", true},      // МОС, мос
        {"stra\xC3\x9F" "e", "STRASSE", false},          // lower case, not case folding
        {"a\xC2\xA0" "b", "\xC2\xA0" "b\xE2\x80\x83", true},       // Unicode's white space
        {"\xC4\xB0stanbul", "i\xCC\x87stanbul", true},   // U+0130 becomes two
        {"bad \xFF bytes", "bytes", true},
    };
    for (int i = 0; i < COUNT(t); i++)
        CHECK(text_holds(t[i].text, t[i].answer, NULL) == t[i].holds, "%d: \"%s\" in \"%s\"", i,
              t[i].answer, t[i].text);
    CHECK(text_same(" Yes\n", "yes", NULL) == 1 && !text_same("yes", "yes!", NULL), "same");
    CHECK(text_length("") == 0 && text_length("a\xC3\xA9\xF0\x9F\x99\x82") == 3, "length");
    return PASS;
}

static int joins(void) {
    static const char *const t[][3] = {{"a", "b", "a b"}, {"a ", "b", "a b"}, {"a", " b", "a b"},
                                       {"a\n", "b", "a\nb"},
                                       {"", "b", "b"}, {"\xC3\xA9", "b", "\xC3\xA9 b"},
                                       {"a\xE2\x80\x83", "b", "a\xE2\x80\x83" "b"}};
    for (int i = 0; i < COUNT(t); i++) {
        char *joined = text_join(t[i][0], t[i][1], &err);
        CHECK(joined && !strcmp(joined, t[i][2]), "%d: \"%s\"", i, joined ? joined : err.msg);
        free(joined);
    }
    return PASS;
}

// ---- statistics ----------------------------------------------------------------------------------

static int estimates(void) {
    double x[] = {2, 4, 4, 4, 5, 5, 7, 9};               // mean 5, squares around it 32
    Estimate m = estimate(x, 8);
    CHECK(m.mean == 5 && fabs(m.error - sqrt(32.0 / 7 / 8)) < 1e-15 && m.n == 8, "%g %g", m.mean, m.error);
    m = estimate(x, 1);
    CHECK(m.mean == 2 && m.error == 0, "one: %g %g", m.mean, m.error);
    double coin[1000];
    for (int i = 0; i < 1000; i++) coin[i] = i % 4 == 0;
    m = estimate(coin, 1000);                            // sqrt(p (1 - p) / (n - 1))
    CHECK(m.mean == 0.25 && fabs(m.error - sqrt(0.25 * 0.75 / 999)) < 1e-15, "%g %g", m.mean, m.error);
    return PASS;
}

static int mcnemar_test(void) {
    // Counted by hand: 2 * P(at most 1 of 8) = 2 * 9 / 256; scipy's binomtest(5, 20) 0.0413894653...;
    // 121 and 59 is McNemar's classic example with chi2 = 20.672, (|121 - 59| - 1)^2 / 180.
    McNemar m = mcnemar(1, 7);
    CHECK(m.exact && fabs(m.p - 18.0 / 256) < 1e-12, "1, 7: %.12g", m.p);
    m = mcnemar(15, 5);
    CHECK(m.exact && fabs(m.p - 0.041389465332) < 1e-10, "15, 5: %.12g", m.p);
    m = mcnemar(0, 0);
    CHECK(m.exact && m.p == 1, "0, 0: %g", m.p);
    m = mcnemar(4, 4);
    CHECK(m.p == 1, "4, 4: %g", m.p);
    m = mcnemar(24, 0);
    CHECK(m.exact && fabs(m.p - 2 * pow(0.5, 24)) < 1e-20, "24, 0: %g", m.p);
    m = mcnemar(121, 59);
    CHECK(!m.exact && fabs(m.chi2 - 61.0 * 61 / 180) < 1e-12, "121, 59: chi2 %.6f", m.chi2);
    CHECK(fabs(m.p - 5.4503e-6) < 1e-9, "121, 59: p %.6g", m.p);
    m = mcnemar(13, 12);                                 // |1| - 1 = 0
    CHECK(!m.exact && m.chi2 == 0 && m.p == 1, "13, 12: %g %g", m.chi2, m.p);
    m = mcnemar(20, 20);
    CHECK(m.chi2 == 0 && m.p == 1, "20, 20: %g %g", m.chi2, m.p);
    return PASS;
}

// ---- a model -------------------------------------------------------------------------------------

typedef struct { Gguf file; Vocab vocab; Model model; Loaded l; } Opened;

static int open_stories(Opened *o) {
    memset(o, 0, sizeof *o);
    o->l = (Loaded){.path = "models/stories.gguf", .file = &o->file, .model = &o->model, .vocab = &o->vocab};
    return gguf_open(&o->file, o->l.path, &err) || vocab_from_gguf(&o->vocab, &o->file, &err) ||
           model_bind(&o->model, &o->file, &err) || !(o->l.tokenizer = tokenizer_new(&o->vocab, &err))
           ? -1 : 0;
}

static void close_stories(Opened *o) {
    tokenizer_free(o->l.tokenizer);
    model_free(&o->model);
    vocab_free(&o->vocab);
    gguf_free(&o->file);
}

// Runs the tool with its stdout into *said, and what it writes into *out.
static int run_tool(const Loaded *l, int n, const char *items, int64_t limit, char **said, char **out) {
    char name[2][64];
    for (int i = 0; i < 2; i++) snprintf(name[i], sizeof name[i], "/tmp/test_tasks.%d.%d", (int)getpid(), i);
    fflush(stdout);
    int saved = dup(STDOUT_FILENO), quiet = dup(STDERR_FILENO);
    if (!freopen(name[0], "wb", stdout) || !freopen("/dev/null", "wb", stderr)) return -1;
    TaskOptions options = {.file = file_of(items), .out = name[1], .limit = limit};
    int status = tool_tasks(l, n, &options, (SessionConfig){.kv_type = T_F32, .batch = 7}, &err);
    fflush(stdout);
    fflush(stderr);
    dup2(saved, STDOUT_FILENO);
    dup2(quiet, STDERR_FILENO);
    close(saved);
    close(quiet);
    size_t size;
    *said = *out = NULL;
    if (status == 0 && (read_file(name[0], 1 << 20, said, &size, &err) ||
                        read_file(name[1], 1 << 20, out, &size, &err)))
        status = -1;
    remove(name[0]);
    remove(name[1]);
    remove(path);
    return status;
}

// -log p of ids[from ..] summed, one pass over all ids, in a session of its own.
static double naive_loss(const Model *m, const int *ids, int64_t n, int64_t from) {
    Session s = {0};
    double sum = 0;
    const SessionConfig c = {.context = n, .batch = 1, .kv_type = T_F32, .uniform = true};
    if (session_init(&s, m, c, &err)) return NAN;
    for (int64_t i = 0; i + 1 < n; i++) {
        if (forward(&s, ids + i, 1, &err)) sum = NAN;
        if (i + 1 >= from) sum += token_loss(logits(&s, 0, 1), m->config.vocab, ids[i + 1]);
    }
    session_free(&s);
    return sum;
}

static double number_behind(const char *text, const char *key) {
    const char *at = text ? strstr(text, key) : NULL;
    return at ? strtod(at + strlen(key), NULL) : NAN;
}

static int with_bos(const Opened *o, const char *text, int **ids, size_t *n) {
    int *plain = NULL;
    if (tokenizer_encode(o->l.tokenizer, text, strlen(text), true, true, &plain, n, &err)) return -1;
    bool bos = o->vocab.add_bos && o->vocab.bos >= 0;
    if (!(*ids = malloc((*n + 1) * sizeof **ids))) return -1;
    if (bos) (*ids)[0] = o->vocab.bos;
    memcpy(*ids + bos, plain, *n * sizeof **ids);
    *n += bos;
    free(plain);
    return 0;
}

static const char story_items[] =
    "{'prompt': 'Once upon a time there was a', 'answer': 'little girl', 'new_tokens': 6}\n"
    "{'prompt': 'Once upon a time there was a', 'choices': ['dog', 'little girl', 'quantum'], 'gold': 1}\n"
    "{'prompt': 'Once upon a', 'choices': ['time', 'house'], 'gold': 0, 'next_token': true}\n"
    "{'prompt': 'She is happy', 'answer': 'HAPPY', 'new_tokens': 1}\n";

static int runs(void) {
    Opened o;
    char *said, *out, *line;
    int *whole, *prompt;
    size_t n, np;
    CHECK(open_stories(&o) == 0, "%s", err.msg);
    CHECK(run_tool(&o.l, 1, story_items, 0, &said, &out) == 0, "%s", err.msg);
    CHECK(with_bos(&o, "Once upon a time there was a little girl", &whole, &n) == 0 &&
          with_bos(&o, "Once upon a time there was a", &prompt, &np) == 0, "%s", err.msg);
    double want = naive_loss(&o.model, whole, (int64_t)n, (int64_t)np);
    line = out;
    CHECK(fabs(number_behind(line, "\"loss\": ") - want / (double)(n - np)) < 1e-5, "%s: %.8f", line,
          want / (double)(n - np));
    line = strchr(line, '\n') + 1;                       // choices: sums, in order; the likeliest is gold
    const char *log_p = strchr(strstr(line, "log_p"), ',');
    CHECK(fabs(strtod(log_p + 1, NULL) + want) < 1e-5, "%s: %.8f", line, -want);
    CHECK(strstr(line, "\"right\": true") && strstr(line, "\"chosen\": 1"), "%s", line);
    line = strchr(line, '\n') + 1;
    free(whole);
    CHECK(with_bos(&o, "Once upon a time", &whole, &n) == 0, "%s", err.msg);
    want = naive_loss(&o.model, whole, (int64_t)n, (int64_t)n - 1);
    CHECK(fabs(number_behind(line, "\"loss\": ") - want) < 1e-5, "%s: %.8f", line, want);
    CHECK(strstr(line, "\"right\": true"), "%s", line);
    line = strchr(line, '\n') + 1;                       // the answer stands in the prompt alone
    CHECK(strstr(line, "\"right\": true") && strstr(line, "\"answer_only\": false"), "%s", line);
    CHECK(strstr(said, "accuracy: ") && strstr(said, "answer only: ") && strstr(said, "loss: ") &&
          strstr(said, "length-normalised: ") && strstr(said, " of 4 right)"), "%s", said);
    free(whole);
    free(prompt);
    free(said);
    free(out);
    close_stories(&o);
    return PASS;
}

// The figures of an item do not depend on what ran before it, nor on threads.
static int alone_and_together(void) {
    Opened o;
    char *said, *out, *said1, *out1;
    CHECK(open_stories(&o) == 0, "%s", err.msg);
    int threads = threads_get();
    CHECK(run_tool(&o.l, 1, story_items, 0, &said, &out) == 0, "%s", err.msg);
    threads_set(3);
    CHECK(run_tool(&o.l, 1, story_items, 0, &said1, &out1) == 0, "%s", err.msg);
    threads_set(threads);
    CHECK(strcmp(out, out1) == 0 && strcmp(said, said1) == 0, "threads:\n%s%s", out, out1);
    free(said1);
    free(out1);
    const char *second = strchr(story_items, '\n') + 1;
    CHECK(run_tool(&o.l, 1, second, 1, &said1, &out1) == 0, "%s", err.msg);
    const char *a = strstr(strchr(out, '\n') + 1, "\"right\""), *b = strstr(out1, "\"right\"");
    CHECK(strncmp(a, b, strcspn(a, "\n")) == 0, "%s\n%s", a, b);
    free(said1);
    free(out1);
    Loaded two[2] = {o.l, o.l};                          // against itself
    CHECK(run_tool(two, 2, story_items, 0, &said1, &out1) == 0, "%s", err.msg);
    CHECK(strstr(said1, "accuracy: +0.000 +/- 0.000 points") && strstr(said1, "p = 1 (exact)") &&
          strstr(said1, "loss: +0.000000 +/- 0.000000"), "%s", said1);
    CHECK(strstr(out1, "\"against\": {\"right\""), "%s", out1);
    free(said1);
    free(out1);
    free(said);
    free(out);
    close_stories(&o);
    return PASS;
}

static int does_not_fit(void) {
    Opened o;
    char *said, *out, *text = calloc(1, 20000);
    CHECK(text && open_stories(&o) == 0, "%s", err.msg);
    strcpy(text, "{'prompt': 'a', 'answer': 'b'}\n{'prompt': '");
    for (int i = 0; i < 3000; i++) strcat(text + strlen(text), "tree ");
    strcat(text, "', 'answer': 'b'}\n");
    CHECK(run_tool(&o.l, 1, text, 0, &said, &out), "it runs");
    CHECK(strstr(err.msg, "line 2") && strstr(err.msg, "positions"), "%s", err.msg);
    CHECK(run_tool(&o.l, 1, "{'prompt': 'a', 'choices': ['b', 'b'], 'gold': 0, 'next_token': true}", 0,
                   &said, &out) && strstr(err.msg, "line 1") && strstr(err.msg, "same token"), "%s", err.msg);
    free(text);
    close_stories(&o);
    return PASS;
}

// ---- a masked model ------------------------------------------------------------------------------

#define US "\xE2\x96\x81"
enum { CLS = 2, SEP, MASK, RED, BLUE, SKY, IS, THE, ISH, DOT, PIECES };

// A random encoder with a few words of WordPiece.
static int make_masked(RigModel *r, Vocab *v, Loaded *l) {
    static const char *const text[PIECES] = {
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", US "red", US "blue", US "sky", US "is", US "the", "ish",
        US "."};
    Rig shape = {.arch = "bert", .d = 32, .h = 4, .n_kv = 4, .hd = 8, .f = 44, .vocab = PIECES, .layers = 2,
                 .context = 16, .tied = true, .seed = 5};
    *v = (Vocab){.kind = VOCAB_WPM, .n = PIECES, .bos = CLS, .eos = SEP, .unk = 1, .eot = -1, .mask = MASK,
                 .add_bos = true, .add_eos = true, .rules = {true, true, true, true}};
    Str *piece = vocab_alloc(v, PIECES, sizeof *piece, "pieces", &err);
    v->type = vocab_alloc(v, PIECES, sizeof *v->type, "types", &err);
    v->strip = vocab_alloc(v, PIECES, 1, "strip", &err);
    if (!piece || !v->type || !v->strip || rig_build(r, &shape, NULL, &err)) return -1;
    for (int i = 0; i < PIECES; i++) {
        piece[i] = (Str){text[i], strlen(text[i])};
        v->type[i] = i < 5 ? TOK_CONTROL : TOK_NORMAL;
    }
    v->piece = piece;
    *l = (Loaded){.path = "masked", .file = &r->g, .model = &r->m, .vocab = v};
    return (l->tokenizer = tokenizer_new(v, &err)) ? 0 : -1;
}

// -log p at each place `at` of ids, where what[] should stand; summed.
static double hidden_loss(const Model *m, const int *ids, int n, int at, const int *what, int count) {
    float *all = rig_logits(m, (SessionConfig){.context = n, .batch = n, .kv_type = T_F32}, ids, n, &err);
    double sum = all ? 0 : NAN;
    for (int i = 0; all && i < count; i++)
        sum += token_loss(all + (at + i) * m->config.vocab, m->config.vocab, what[i]);
    free(all);
    return sum;
}

static int masks(void) {
    RigModel r;
    Vocab v;
    Loaded l;
    char *said, *out, *line;
    CHECK(make_masked(&r, &v, &l) == 0, "%s", err.msg);
    CHECK(run_tool(&l, 1,
        "{'prompt': 'The sky is [MASK] [MASK]', 'answer': 'Blueish red'}\n"
        "{'prompt': 'the sky is [MASK].', 'choices': ['red', 'blue'], 'gold': 1, 'next_token': true}\n"
        "{'prompt': 'the sky is', 'choices': ['red', 'blueish'], 'gold': 1}\n", 0, &said, &out) == 0,
        "%s", err.msg);
    const Model *m = l.model;
    double want = hidden_loss(m, (int[]){THE, SKY, IS, MASK, MASK, MASK}, 6, 3, (int[]){BLUE, ISH, RED}, 3);
    want /= 4;
    line = out;
    CHECK(fabs(number_behind(line, "\"loss\": ") - want) < 1e-5, "%s: %.8f", line, want);
    float *all = rig_logits(m, (SessionConfig){.context = 7, .batch = 7, .kv_type = T_F32},
                            (int[]){CLS, THE, SKY, IS, MASK, MASK, SEP}, 7, &err);
    CHECK(all, "%s", err.msg);
    Decoder d = {.special = true};
    char text[128] = "";
    for (int i = 4; i < 6; i++)
        strcat(text, tokenizer_decode(l.tokenizer, &d, argmax(all + i * PIECES, PIECES)));
    free(all);
    CHECK(strstr(line, text), "%s: \"%s\"", line, text);
    line = strchr(line, '\n') + 1;
    want = hidden_loss(m, (int[]){CLS, THE, SKY, IS, MASK, DOT, SEP}, 7, 4, (int[]){BLUE}, 1);
    CHECK(fabs(number_behind(line, "\"loss\": ") - want) < 1e-5, "%s: %.8f", line, want);
    line = strchr(line, '\n') + 1;
    want = hidden_loss(m, (int[]){THE, SKY, IS, MASK}, 4, 3, (int[]){RED}, 1);
    CHECK(fabs(number_behind(line, "\"log_p\": [") + want) < 1e-5, "%s: %.8f", line, want);
    want = hidden_loss(m, (int[]){THE, SKY, IS, MASK, MASK}, 5, 3, (int[]){BLUE, ISH}, 2) / 3;
    CHECK(fabs(number_behind(line, "\"loss\": ") - want) < 1e-5, "%s: %.8f", line, want);
    free(said);
    free(out);
    static const char *const bad[][2] = {
        {"{'prompt': 'the sky is', 'answer': 'red'}", "masks"},
        {"{'prompt': 'the [MASK] is [MASK]', 'answer': 'red'}", "masks"},
        {"{'prompt': 'the sky is [MASK].', 'answer': 'red'}", "masks"},
        {"{'prompt': 'the [MASK] is [MASK]', 'choices': ['red', 'blue'], 'gold': 1, 'next_token': true}",
         "2 masks"},
        {"{'prompt': 'the the the the the the the the the the the the the the [MASK]', 'answer': 'red'}",
         "positions"},
    };
    for (int i = 0; i < COUNT(bad); i++)
        CHECK(run_tool(&l, 1, bad[i][0], 0, &said, &out) && strstr(err.msg, bad[i][1]) &&
              strstr(err.msg, "line 1"), "%d: %s", i, err.msg);
    v.mask = -1;
    CHECK(run_tool(&l, 1, bad[0][0], 0, &said, &out) && strstr(err.msg, "mask token"), "%s", err.msg);
    tokenizer_free(l.tokenizer);
    vocab_free(&v);
    rig_free(&r);
    return PASS;
}

static const Test tests[] = {
    {"items are read", reads},
    {"the first items only", limits},
    {"bad files are refused by file and line", refusals},
    {"an answer in a text", matches},
    {"prompt and answer joined", joins},
    {"means and errors", estimates},
    {"McNemar's test", mcnemar_test},
    {"a run on the small model", runs},
    {"alone and together, one thread and many", alone_and_together},
    {"items that do not fit", does_not_fit},
    {"masked models", masks},
};

int main(int argc, char **argv) { return run_tests("tasks", tests, COUNT(tests), argc, argv); }
