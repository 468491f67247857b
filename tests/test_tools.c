// Tests of tools/encode.c: masks and embeddings of the tiny encoders in tests/golden, whose logits and
// hidden states transformers gave (make_families.py): a text is written that has just their ids.
#include "../core/json.h"
#include "../export/source.h"
#include "../tools/tools.h"
#include "test.h"

#include <unistd.h>

enum { N = 20, V = 48, D = 32 };
static char file[256], printed[256];       // a vocabulary, what a tool has printed
static Err err;

// ---- a model, a vocabulary of its size, and its golden numbers ------------------------------------

typedef struct {
    Source source;
    Model m;
    Tokenizer *t;
    Loaded l;
    int ids[N];
    double logits[N][V], hidden[N][D];
} Golden;

static void golden_free(Golden *g) {
    tokenizer_free(g->t);
    model_free(&g->m);
    source_close(&g->source);
}

static void read_rows(const Json *rows, int cols, double *out) {
    for (const Json *row = rows ? rows->child : NULL; row; row = row->next)
        for (const Json *x = row->child; x && cols; x = x->next) *out++ = x->number;
}

// WordPiece: [PAD] [UNK] [CLS] [SEP] and words w4 … w47; BPE: <s> <pad> </s> <unk> and letters. The
// mask has id `mask`.
static int put_vocab(bool bpe, int mask) {
    char merges[300];
    FILE *f = fopen(file, "wb");
    if (!f) return -1;
    static const char *const first[][4] = {{"[PAD]", "[UNK]", "[CLS]", "[SEP]"},
                                             {"<s>", "<pad>", "</s>", "<unk>"}};
    for (int i = 0; i < V; i++) {
        char piece[16];
        if (i == mask) strcpy(piece, bpe ? "<mask>" : "[MASK]");
        else if (i < 4) strcpy(piece, first[bpe][i]);
        else if (bpe) sprintf(piece, "%c", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUV"[i]);
        else sprintf(piece, "w%d", i);
        if (bpe) fprintf(f, "%s\"%s\": %d%s", i ? ", " : "{", piece, i, i < V - 1 ? "" : "}");
        else fprintf(f, "%s\n", piece);
    }
    if (fclose(f)) return -1;
    if (!bpe) return 0;
    snprintf(merges, sizeof merges, "%.*s/merges.txt", (int)(strrchr(file, '/') - file), file);
    return (f = fopen(merges, "wb")) ? fclose(f) : -1;
}

static int golden_open(Golden *g, const char *family, int mask) {
    char path[96], *text = NULL;
    size_t size;
    JsonDoc doc = {0};
    bool bpe = strcmp(family, "bert") != 0;
    memset(g, 0, sizeof *g);
    char *name = strrchr(file, '/') + 1;
    strcpy(name, bpe ? "vocab.json" : "vocab.txt");
    snprintf(path, sizeof path, "tests/golden/%s/expect.json", family);
    if (put_vocab(bpe, mask) || read_file(path, 1 << 20, &text, &size, &err)) return -1;
    int status = json_parse(&doc, text, size, path, &err);
    free(text);
    const Json *id = status ? NULL : json_get(doc.root, "ids")->child;
    for (int i = 0; i < N && id; i++, id = id->next) g->ids[i] = (int)id->integer;
    if (!status) read_rows(json_get(doc.root, "logits"), V, g->logits[0]);
    if (!status) read_rows(json_get(doc.root, "hidden"), D, g->hidden[0]);
    json_free(&doc);
    *strrchr(path, '/') = 0;
    if (status || source_open(&g->source, path, file, &err) || model_bind(&g->m, &g->source.g, &err) ||
        !(g->t = tokenizer_new(&g->source.vocab, &err))) {
        golden_free(g);
        return -1;
    }
    g->source.vocab.add_bos = g->source.vocab.add_eos = false;     // the golden ids have nothing around
    g->l = (Loaded){family, &g->source.g, &g->m, &g->source.vocab, g->t};
    return 0;
}

// The text of g's ids.
static const char *text_of(const Golden *g) {
    static char text[400];
    Decoder d = {.special = true};
    *text = 0;
    for (int i = 0; i < N; i++) strcat(text, tokenizer_decode(g->t, &d, g->ids[i]));
    return text;
}

// What a tool prints: stdout goes to a file while it runs.
static char output[1 << 16];
static int kept;

static void begin_output(void) {
    fflush(stdout);
    kept = dup(STDOUT_FILENO);
    if (!freopen(printed, "wb", stdout)) abort();
}

static int end_output(int status) {
    fflush(stdout);
    dup2(kept, STDOUT_FILENO);
    close(kept);
    FILE *f = fopen(printed, "rb");
    size_t n = f ? fread(output, 1, sizeof output - 1, f) : 0;
    if (f) fclose(f);
    output[n] = 0;
    return status;
}
#define PRINTED(call) (begin_output(), end_output(call))

static const SessionConfig config = {.batch = 64, .kv_type = T_F16};

// ---- masks ----------------------------------------------------------------------------------------

// One line of --fill-mask: its numbers against the golden logits of place `at`, its rank `rank`.
static int check_line(const Golden *g, int at, int rank, const char *line, const char **text) {
    double p, sum = 0, max = -INFINITY;
    int id, better = 0, used;
    CHECK(sscanf(line, "%lf %d %n", &p, &id, &used) == 2 && id >= 0 && id < V, "'%s'", line);
    for (int i = 0; i < V; i++) max = fmax(max, g->logits[at][i]);
    for (int i = 0; i < V; i++) {
        sum += exp(g->logits[at][i] - max);
        better += g->logits[at][i] > g->logits[at][id];
    }
    double expected = exp(g->logits[at][id] - max) / sum;
    CHECK(fabs(p - expected) < 2e-6 && better == rank, "'%s': %g expected, rank %d", line, expected, better);
    *text = line + used;
    return PASS;
}

static int one_mask(void) {
    static const struct { const char *family; int mask, at; } models[] = {
        {"bert", 4, 15}, {"roberta", 8, 10}};
    for (int k = 0; k < 2; k++) {
        Golden g;
        CHECK(golden_open(&g, models[k].family, models[k].mask) == 0, "%s", err.msg);
        CHECK(g.ids[models[k].at] == models[k].mask && g.source.vocab.mask == models[k].mask, "mask %d",
              g.source.vocab.mask);
        CHECK(PRINTED(tool_fill_mask(&g.l, text_of(&g), 5, config, &err)) == 0, "%s", err.msg);
        int lines = 0;
        for (char *line = strtok(output, "\n"); line; line = strtok(NULL, "\n"), lines++) {
            const char *rest;
            int id = atoi(strchr(line, ' ')), ids[N];
            if (check_line(&g, models[k].at, lines, line, &rest) != PASS) return FAIL;
            char want[500];
            Decoder one = {.special = true};
            snprintf(want, sizeof want, "\"%s\"  ", tokenizer_decode(g.t, &one, id));
            memcpy(ids, g.ids, sizeof ids);
            g.ids[models[k].at] = id;
            if (id > 3) {                                          // else the text leaves it out
                strcat(want, text_of(&g));
                CHECK(!strcmp(rest, want), "'%s', expected '%s'", rest, want);
            }
            memcpy(g.ids, ids, sizeof ids);
        }
        CHECK(lines == 5, "%d lines", lines);
        CHECK(PRINTED(tool_fill_mask(&g.l, text_of(&g), 1000, config, &err)) == 0, "%s", err.msg);
        lines = 0;
        for (char *p = output; (p = strchr(p, '\n')); p++) lines++;
        CHECK(lines == V, "the whole vocabulary in %d lines", lines);
        golden_free(&g);
    }
    return PASS;
}

static int two_masks(void) {
    Golden g;
    CHECK(golden_open(&g, "bert", 13) == 0, "%s", err.msg);        // 13 stands at places 2 and 3
    CHECK(PRINTED(tool_fill_mask(&g.l, text_of(&g), 2, config, &err)) == 0, "%s", err.msg);
    char *line[8] = {0}, *save = output;
    int n = 0;
    for (char *s; n < 8 && (s = strsep(&save, "\n")); ) line[n++] = s;
    CHECK(n == 8 && !strcmp(line[0], "mask 1 of 2") && !*line[3] && !strcmp(line[4], "mask 2 of 2"),
          "%d lines", n);
    for (int i = 0; i < 4; i++) {
        const char *rest;
        if (check_line(&g, 2 + i / 2, i % 2, line[1 + i + 2 * (i / 2)], &rest) != PASS) return FAIL;
        CHECK(strstr(rest, "[MASK]"), "the other mask stays: %s", rest);
    }
    golden_free(&g);
    return PASS;
}

static int mask_refusals(void) {
    Golden g;
    CHECK(golden_open(&g, "bert", 4) == 0, "%s", err.msg);
    static const struct { const char *text, *says; } cases[] = {
        {"w5 w6", "write [MASK]"}, {"w5 <mask>", "written [MASK], not <mask>"}, {"", "no tokens"},
        {"w5 [MASK] w5 w5 w5 w5 w5 w5 w5 w5 w5 w5 w5 w5 w5 w5 w5 w5 w5 w5 w5 w5 w5 w5 w5", "at most 24"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        CHECK(PRINTED(tool_fill_mask(&g.l, cases[i].text, 5, config, &err)) == -1 && !*output, "case %d", i);
        CHECK(strstr(err.msg, cases[i].says), "'%s' should have said '%s'", err.msg, cases[i].says);
    }
    g.m.output.rows = 0;
    CHECK(tool_fill_mask(&g.l, "[MASK]", 5, config, &err) == -1 && strstr(err.msg, "no such head"), "%s",
          err.msg);
    golden_free(&g);
    CHECK(golden_open(&g, "gpt2", 8) == 0, "%s", err.msg);
    CHECK(tool_fill_mask(&g.l, "<mask>", 5, config, &err) == -1 && strstr(err.msg, "is a decoder"), "%s",
          err.msg);
    CHECK(tool_embed(&g.l, "ab", POOL_MEAN, config, &err) == -1 && strstr(err.msg, "decoder"), "%s", err.msg);
    golden_free(&g);
    return PASS;
}

// ---- embeddings -----------------------------------------------------------------------------------

// The line of numbers at s is the pooled, normalised golden states: the largest difference.
static double embedding_off(const Golden *g, Pooling p, char **s) {
    double y[D] = {0}, length = 0, off = 0;
    for (int j = 0; j < D; j++) {
        for (int i = 0; i < (p == POOL_FIRST ? 1 : N); i++) y[j] += g->hidden[i][j];
        length += y[j] * y[j];
    }
    for (int j = 0; j < D; j++) off = fmax(off, fabs(strtod(*s, s) - y[j] / sqrt(length)));
    return **s == '\n' ? off : INFINITY;
}

static int embeddings(void) {
    static const char *const families[] = {"bert", "roberta"};
    for (int k = 0; k < 2; k++)
        for (int p = POOL_MEAN; p <= POOL_FIRST; p++) {
            Golden g;
            CHECK(golden_open(&g, families[k], k ? 8 : 4) == 0, "%s", err.msg);
            CHECK(PRINTED(tool_embed(&g.l, text_of(&g), (Pooling)p, config, &err)) == 0, "%s", err.msg);
            char *s = output;
            double off = embedding_off(&g, (Pooling)p, &s);
            CHECK(off < 1e-6 && !s[1], "%s, pooling %d: off by %g", families[k], p, off);
            golden_free(&g);
        }
    return PASS;
}

static int embeddings_of_lines(void) {
    Golden g;
    char texts[256];
    CHECK(golden_open(&g, "bert", 4) == 0, "%s", err.msg);
    snprintf(texts, sizeof texts, "%.*s/texts", (int)(strrchr(file, '/') - file), file);
    FILE *f = fopen(texts, "wb");
    CHECK(f && fprintf(f, "%s\r\nw5\n%s", text_of(&g), text_of(&g)) && !fclose(f), "%s", texts);
    CHECK(PRINTED(tool_embed_file(&g.l, texts, POOL_MEAN, config, &err)) == 0, "%s", err.msg);
    char *s = output;
    CHECK(embedding_off(&g, POOL_MEAN, &s) < 1e-6, "line 1");
    CHECK(embedding_off(&g, POOL_MEAN, &s) > 1e-3, "line 2 is another text");
    CHECK(embedding_off(&g, POOL_MEAN, &s) < 1e-6 && !s[1], "line 3");
    f = fopen(texts, "wb");
    CHECK(f && fprintf(f, "w5\n\nw5\n") && !fclose(f), "%s", texts);
    CHECK(PRINTED(tool_embed_file(&g.l, texts, POOL_MEAN, config, &err)) == -1, "an empty line");
    CHECK(strstr(err.msg, "line 2: "), "%s", err.msg);
    g.source.vocab.add_bos = g.source.vocab.add_eos = true;        // now an empty line is a text
    CHECK(PRINTED(tool_embed_file(&g.l, texts, POOL_MEAN, config, &err)) == 0, "%s", err.msg);
    int lines = 0;
    for (s = output; (s = strchr(s, '\n')); s++) lines++;
    CHECK(lines == 3, "%d lines", lines);
    CHECK(tool_embed_file(&g.l, "nowhere", POOL_MEAN, config, &err) == -1 && strstr(err.msg, "nowhere"), "%s",
          err.msg);
    remove(texts);
    golden_free(&g);
    return PASS;
}

static const Test tests[] = {
    {"one_mask", one_mask}, {"two_masks", two_masks}, {"mask_refusals", mask_refusals},
    {"embeddings", embeddings}, {"embeddings_of_lines", embeddings_of_lines},
};

int main(int argc, char **argv) {
    char folder[] = "/tmp/tensorllm-tools-XXXXXX";
    if (!mkdtemp(folder)) { printf("cannot make %s\n", folder); return 1; }
    snprintf(file, sizeof file, "%s/vocab.txt", folder);
    snprintf(printed, sizeof printed, "%s/printed", folder);
    int result = run_tests("tools", tests, COUNT(tests), argc, argv);
    static const char *const names[] = {"vocab.txt", "vocab.json", "merges.txt", "printed"};
    for (int i = 0; i < COUNT(names); i++) {
        char path[300];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        remove(path);
    }
    rmdir(folder);
    return result;
}
