// bench: how fast a model runs here: prompts, decoding at several depths, starting up, memory; and how
// that compares with what the machine can read and compute. Token ids are pseudo-random and always the
// same: what they say does not matter for speed.
#include "tools.h"
#include "../core/unicode.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PROMPT = 512, DECODE = 128, AT_DEPTH = 64, FIRST = 5, MAX_DEPTHS = 16 };

typedef struct { double x[BENCH_REPEATS]; int n; } Samples;

// n tokens, again and again, on a cache that holds `depth` before them.
typedef struct {
    char name[48], key[48];
    bool prompt;                // the n together; else one by one
    int64_t asked, depth, n;    // depth: asked, or less where n more would not fit behind it
    int64_t computed;           // of depth; the others are random numbers
    double work;                // of a token, on average: multiply-adds (prompt), or bytes read
    Samples rate;               // tokens a second
} Trial;

typedef struct {
    const Loaded *l;
    const BenchConfig *config;
    SessionConfig session;      // context: the positions there may be
    int *ids;
    Trial trial[2 + MAX_DEPTHS];
    int trials;
    Samples load, first;        // seconds
    double peak, cache;         // bytes: of the process, of the largest cache
    double read, f32, int8;     // what the machine can do a second, see core/kernels.h
} Bench;

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, ascending);
    return n ? (x[(n - 1) / 2] + x[n / 2]) / 2 : 0;
}

int read_depths(const char *text, int64_t *depth, int most, Err *e) {
    int n = 0;
    for (const char *p = text;; p++) {
        char *end = NULL;
        const long long v = *p >= '0' && *p <= '9' ? strtoll(p, &end, 10) : -1;
        if (v < 0 || v > 1 << 30 || n == most || (n && v <= depth[n - 1]) || (*end && *end != ','))
            return fail(e, "--bench-depths takes up to %d ascending positions such as 0,2048, not \"%.60s\"",
                        most, text);
        depth[n++] = v;
        if (!*(p = end)) return n;
    }
}

static void progress(const char *what, int run, int64_t of) {
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r%-28s %d of %lld ", what, run, (long long)of);
}

// ---- the runs ------------------------------------------------------------------------------------

// Opens the file once more, up to the session of a short prompt, and on to the first token behind it.
static int start_up(Bench *b, bool counts, Err *e) {
    Gguf file = {0};
    Vocab vocab = {0};
    Model model = {0};
    Session s = {0};
    Tokenizer *tokenizer = NULL;
    SessionConfig c = b->session;
    if (c.context > FIRST + 256) c.context = FIRST + 256;         // as ./run takes it
    if (c.batch > FIRST) c.batch = FIRST;
    int status = -1;
    const double start = seconds();
    if (gguf_open(&file, b->l->path, e) || vocab_from_gguf(&vocab, &file, e) ||
        model_bind(&model, &file, e) || !(tokenizer = tokenizer_new(&vocab, e)) ||
        session_init(&s, &model, c, e))
        goto done;
    const double load = seconds() - start;
    if (prefill(&s, b->ids, FIRST, e)) goto done;
    if (!interrupted && argmax(logits(&s, s.n - 1, 1), model.config.vocab) >= 0 && counts) {
        b->load.x[b->load.n++] = load;
        b->first.x[b->first.n++] = seconds() - start;
    }
    status = 0;
done:
    session_free(&s);
    tokenizer_free(tokenizer);
    model_free(&model);
    vocab_free(&vocab);
    gguf_free(&file);
    return status;
}

// The cache up to t->depth: computed, and where that takes too long the rest in random rows.
static int fill(Session *s, Trial *t, const Bench *b, Err *e) {
    const double start = seconds();
    uint64_t seed = 1;
    while (s->pos < t->depth && !interrupted && seconds() - start < b->config->fill_seconds) {
        const int64_t left = t->depth - s->pos, n = left < s->config.batch ? left : s->config.batch;
        if (forward(s, b->ids + s->pos, n, e)) return -1;
    }
    t->computed = s->pos;
    for (int64_t l = 0; l < s->model->config.n_layers && t->computed < t->depth; l++) {
        Cache *c = &s->cache[l];
        const int64_t k = c->n_kv * c->k_width, v = (c->latent ? 1 : c->n_kv) * c->v_width;
        const int64_t all = k + v + c->z_width;
        float *row = alloc((size_t)all, sizeof *row, "a row of the cache", e);
        if (!row) return -1;
        for (int64_t i = 0; i < all; i++) row[i] = random_f32(&seed) - 0.5f;
        for (int64_t at = s->pos; at < t->depth; at++)
            cache_store(c, at, 1, row, c->k_width, row + k, row + k + v);
        free(row);
    }
    s->pos = t->depth;
    return 0;
}

// Positions that the n tokens behind `depth` others see, themselves included, all together.
static double seen(int64_t depth, int64_t n, int64_t window) {
    double sum = 0;
    for (int64_t at = depth + 1; at <= depth + n; at++) sum += (double)(window && at > window ? window : at);
    return sum;
}

// What n tokens of a prompt have to multiply; by the output matrix, the last one only.
static double prompt_madds(const Model *m, int64_t n) {
    const Config *c = &m->config;
    double weights = model_params(m).ffn, position = 0;
    for (int64_t l = 0; l < c->n_layers; l++) {
        weights += attention_cost(&m->layer[l].attn).madds;
        const Cache cache = attention_cache(&m->layer[l].attn, T_F32, 1, CACHE_DENSE);
        position += attention_cache_cost(&m->layer[l].attn, &cache).madds;
    }
    return weights * (double)n + position * seen(0, n, c->window) + (double)c->vocab * (double)c->d;
}

static int run_trial(Bench *b, Trial *t, Err *e) {
    const Model *m = b->l->model;
    SessionConfig c = b->session;
    c.context = t->depth + t->n;
    Session s = {0};
    int status = -1;
    progress(t->name, 0, b->config->repeat);
    if (session_init(&s, m, c, e) || fill(&s, t, b, e)) goto done;
    const double position = (double)s.cache_bytes / (double)c.context, n_tokens = (double)t->n;
    t->work = t->prompt ? prompt_madds(m, t->n) / n_tokens
            : model_step_bytes(m) + position * seen(t->depth, t->n, m->config.window) / n_tokens;
    if ((double)s.cache_bytes > b->cache) b->cache = (double)s.cache_bytes;
    for (int i = 0; i <= b->config->repeat && !interrupted; i++) {   // the first, a short one, warms up
        const int64_t step = t->prompt ? s.config.batch : 1, n = i ? t->n : step;
        progress(t->name, i, b->config->repeat);
        session_rewind(&s, t->depth);
        const double start = seconds();
        for (int64_t at = 0; at < n && !interrupted; at += s.n) {
            if (forward(&s, b->ids + t->depth + at, n - at < step ? n - at : step, e)) goto done;
            if (!t->prompt || at + s.n == n) logits(&s, s.n - 1, 1);
        }
        if (i && !interrupted) t->rate.x[t->rate.n++] = n_tokens / (seconds() - start);
    }
    status = 0;
done:
    session_free(&s);
    return status;
}

// ---- what it says --------------------------------------------------------------------------------

// Text that may stand in a JSON string, and in a cell of a table.
static void print_text(const char *s) {
    uint32_t cp;
    for (size_t n = strlen(s), k; n && (k = utf8_next(s, n, &cp)); s += k, n -= k) {
        if (cp == UTF8_BAD) putchar('?');
        else if (cp < 32 || cp == '"' || cp == '\\' || cp == '|') printf("\\u%04x", cp);
        else fwrite(s, 1, k, stdout);
    }
}

// The type that holds most of the file's bytes.
static int main_type(const Bench *b) {
    const Gguf *g = b->l->file;
    size_t bytes[T_BF16 + 1] = {0};
    int most = 0;
    for (uint64_t i = 0; i < g->n_tensors; i++) bytes[g->tensor[i].type] += g->tensor[i].size;
    for (int t = 0; t <= T_BF16; t++)
        if (bytes[t] > bytes[most]) most = t;
    return most;
}

static double params(const Bench *b) {
    const Parts p = model_params(b->l->model);
    return p.attention + p.ffn + p.embedding + p.output + p.other;
}

// Attention's parameters over those of its dense matrices; whether any of them is on factors.
static double attention_share(const Model *m, bool *factored) {
    double dense = 0;
    *factored = false;
    for (int64_t l = 0; l < m->config.n_layers; l++) {
        dense += (double)dense_params(&m->layer[l].attn.shape, HAS_Q | HAS_K | HAS_V | HAS_O);
        *factored |= m->layer[l].attn.n_groups > 0;
    }
    return model_params(m).attention / dense;
}

static void print_spread(Samples *s, double scale) {
    const double middle = median(s->x, s->n) * scale, first = s->x[0] * scale, last = s->x[s->n - 1] * scale;
    const int digits = middle < 10 ? 2 : 1;
    printf("%.*f (%.*f - %.*f)", digits, middle, digits, first, digits, last);
}

static void print_table(Bench *b) {
    const Model *m = b->l->model;
    const int type = main_type(b);
    const bool bytes = type == T_Q8_0 || type == T_Q4_0 || type == T_Q4_1;
    bool factored;
    const double share = attention_share(m, &factored);
    printf("| model | size | params | threads | test | tokens/s: median (min - max) | of the machine |\n"
           "|---|---:|---:|---:|---|---:|---:|\n");
    for (Trial *t = b->trial; t < b->trial + b->trials; t++) {
        if (!t->rate.n) continue;
        const double done = median(t->rate.x, t->rate.n) * t->work;
        const double most = !t->prompt ? b->read : bytes ? b->int8 : b->f32;
        printf("| ");
        print_text(b->l->path);
        printf(", %s %s, attention ", m->config.arch, type_info(type)->name);
        printf(factored ? "factored (%.1f %% of dense)" : "dense", 100 * share);
        printf(" | %.1f MiB | %.2f M | %d | %s | ", (double)b->l->file->map.size / 0x1p20, params(b) / 1e6,
               threads_get(), t->name);
        print_spread(&t->rate, 1);
        printf(" | %.1f %s", done / 1e9, t->prompt ? "G madds/s" : "GB/s");
        if (most > 0) printf(", %.0f %%", 100 * done / most);
        printf(" |\n");
    }
    printf("\nkernels %s, cache %s, batches of %lld, medians of %lld\n", kernels_isa(),
           type_info(b->session.kv_type)->name, (long long)b->session.batch, (long long)b->config->repeat);
    if (b->read > 0) printf("machine: reads %.1f GB/s; multiply-adds %.1f G/s of f32, %.1f of bytes\n",
                            b->read / 1e9, b->f32 / 1e9, b->int8 / 1e9);
    if (b->first.n) {
        printf("load ");
        print_spread(&b->load, 1e3);
        printf(" ms, first token of a prompt of %d behind ", FIRST);
        print_spread(&b->first, 1e3);
        printf(" ms\n");
    }
    printf("peak memory %.1f MiB, the largest cache %.1f MiB\n", b->peak / 0x1p20, b->cache / 0x1p20);
    for (Trial *t = b->trial; t < b->trial + b->trials; t++) {
        if (t->depth + t->n > b->session.context)
            printf("left out: %s, for a context of %lld\n", t->name, (long long)b->session.context);
        else if (t->depth < t->asked)
            printf("%s: behind %lld positions, so that the context holds it\n", t->name, (long long)t->depth);
        if (t->rate.n && t->computed < t->depth)
            printf("%s: on %lld computed positions and %lld of random numbers\n", t->name,
                   (long long)t->computed, (long long)(t->depth - t->computed));
    }
}

static void put(const char *key, const char *unit, double v) {      // what was not measured is null
    printf(v > 0 ? ", \"%s%s\": %.9g" : ", \"%s%s\": null", key, unit, v);
}

static void put_spread(const char *key, const char *unit, Samples *s, double scale) {
    char name[64];
    snprintf(name, sizeof name, "%s%s", key, unit);
    put(name, "", median(s->x, s->n) * scale);
    put(name, "_min", s->n ? s->x[0] * scale : 0);
    put(name, "_max", s->n ? s->x[s->n - 1] * scale : 0);
}

static void print_json(Bench *b) {
    Trial *decode = &b->trial[1];
    bool factored;
    const double share = attention_share(b->l->model, &factored);
    printf("{\"version\": \"tensorllm.c, %s\", \"isa\": \"%s\", \"arch\": \"%s\", \"type\": \"%s\", "
           "\"attention\": \"%s\", \"kv\": \"%s\", \"model\": \"", COMPILER, kernels_isa(),
           b->l->model->config.arch, type_info(main_type(b))->name, factored ? "factored" : "dense",
           type_info(b->session.kv_type)->name);
    print_text(b->l->path);
    putchar('"');
    const struct { const char *key; double v; } facts[] = {
        {"attention_share", share}, {"params", params(b)},
        {"size_mib", (double)b->l->file->map.size / 0x1p20}, {"context", (double)b->session.context},
        {"batch", (double)b->session.batch}, {"threads", threads_get()},
        {"repeat", (double)b->config->repeat},
        {"gb_s", median(decode->rate.x, decode->rate.n) * decode->work / 1e9}, {"read_gb_s", b->read / 1e9},
        {"peak_f32_gmadd_s", b->f32 / 1e9}, {"peak_int8_gmadd_s", b->int8 / 1e9},
        {"peak_mib", b->peak / 0x1p20}, {"cache_mib", b->cache / 0x1p20}};
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) put(facts[i].key, "", facts[i].v);
    for (Trial *t = b->trial; t < b->trial + b->trials; t++) {
        put_spread(t->key, "_tok_s", &t->rate, 1);
        put(t->key, t->prompt ? "_gmadd_s" : "_gb_s", median(t->rate.x, t->rate.n) * t->work / 1e9);
        if (t->depth < t->asked) put(t->key, "_from", (double)t->depth);
        if (t->rate.n && t->computed < t->depth) put(t->key, "_random", (double)(t->depth - t->computed));
    }
    put_spread("load", "_ms", &b->load, 1e3);
    put_spread("first_token", "_ms", &b->first, 1e3);
    printf("}\n");
}

int tool_bench(const Loaded *l, SessionConfig c, const BenchConfig *config, Err *e) {
    int64_t depth[MAX_DEPTHS], trained = l->model->config.context;
    const int depths = read_depths(config->depths, depth, MAX_DEPTHS, e);
    if (depths < 0) return -1;
    if (c.context > trained) return fail(e, "-c %lld: the model was trained for %lld positions",
                                         (long long)c.context, (long long)trained);
    if (!c.context) c.context = trained;
    Bench b = {.l = l, .config = config, .session = c, .trials = 2 + depths};
    b.trial[0] = (Trial){"prefill 512", "prefill_512", .prompt = true, .n = PROMPT};
    b.trial[1] = (Trial){"decode 128", "decode_128", .n = DECODE};
    for (int i = 0; i < depths; i++) {
        Trial *t = &b.trial[2 + i];
        t->asked = t->depth = depth[i], t->n = AT_DEPTH;
        if (depth[i] <= c.context && c.context > AT_DEPTH && depth[i] + AT_DEPTH > c.context)
            t->depth = c.context - AT_DEPTH;
        snprintf(t->name, sizeof t->name, "decode %d at depth %lld", AT_DEPTH, (long long)depth[i]);
        snprintf(t->key, sizeof t->key, "decode_d%lld", (long long)depth[i]);
    }
    const int64_t last = depth[depths - 1] + AT_DEPTH, most = last > PROMPT ? last : PROMPT;
    uint64_t seed = 6;
    int status = -1;
    if (!(b.ids = alloc((size_t)most, sizeof *b.ids, "token ids", e))) return -1;
    for (int64_t i = 0; i < most; i++) b.ids[i] = (int)(random_u64(&seed) % (uint64_t)l->model->config.vocab);

    // Starting up comes first: later the weights would count twice, for they are mapped twice.
    for (int i = 0; i <= config->repeat && c.context >= FIRST && !interrupted; i++) {
        progress("start", i, config->repeat);
        if (start_up(&b, i > 0, e)) goto done;
    }
    for (Trial *t = b.trial; t < b.trial + b.trials && !interrupted; t++)
        if (t->depth + t->n <= c.context && run_trial(&b, t, e)) goto done;
    b.peak = (double)peak_memory();
    if (!interrupted) b.read = read_bandwidth(0), b.f32 = peak_madds(false), b.int8 = peak_madds(true);
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r%60s\r", "");
    config->json ? print_json(&b) : print_table(&b);
    status = interrupted ? fail(e, "interrupted: this is what there was") : 0;
done:
    free(b.ids);
    return status;
}
