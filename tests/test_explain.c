// --explain: what it counts is what tucker.c and model.c count, its attention weights are softmax(q k^T /
// sqrt(hd)) of every family and scheme, and its pages stay within 80 columns of the signs they may use.
#include "../core/unicode.h"
#include "../tools/explain.h"
#include "rig.h"

#include <unistd.h>

enum { D = 32, H = 4, HD = 8, LAYERS = 2, CONTEXT = 80 };

static const Rig rigs[] = {
    {"llama", "half", D, H, H, HD, 40, 50, LAYERS, CONTEXT, false, true, false, 0, T_F32, 1},
    {"llama", "half", D, H, 2, HD, 40, 50, LAYERS, CONTEXT, false, true, false, 0, T_F32, 2},
    {"llama", "half", D, 6, 1, HD, 40, 50, LAYERS, CONTEXT, true, true, false, 0, T_F32, 3},
    {"qwen3", "half", D, H, 2, 16, 40, 50, LAYERS, CONTEXT, false, true, false, 0, T_F32, 4},
    {"gptj", "interleaved", D, H, H, HD, 40, 50, LAYERS, CONTEXT, false, false, false, 0, T_F32, 5},
    {"gpt2", NULL, D, H, H, HD, 40, 50, LAYERS, CONTEXT, true, true, false, 0, T_F32, 6},
    {"bert", NULL, D, H, H, HD, 40, 50, LAYERS, CONTEXT, true, true, false, 0, T_F32, 7},
    {"llama", "half", 64, H, H, 32, 64, 64, LAYERS, CONTEXT, false, true, false, 0, T_Q8_0, 8},
};
static const RigTucker forms[] = {
    {.scheme = "qkvo"}, {"qkvo", 12, 4, 0, false, 0, {0}}, {"qkvo", 12, 4, 3, false, 0, {0}},
    {"qkvo", 12, 0, 2, false, 0, {0}}, {"qkv+o", 12, 0, 0, false, 0, {0}},
    {"qk+v+o", 12, 0, 0, false, 15, {0}}, {"q+k+v+o", 12, 4, 0, false, 0, {0}},
    {"qk+o", 12, 0, 0, false, HAS_O, {0}}, {"vo", 12, 4, 0, false, 0, {0}}, {"kv", 12, 2, 1, false, 0, {0}},
    {"k+v", 12, 2, 0, false, 0, {0}}, {"qkv", 12, 4, 0, false, 0, {0}}, {"v", 0, 0, 0, false, 0, {0}},
};
enum { RIGS = sizeof rigs / sizeof *rigs, FORMS = sizeof forms / sizeof *forms };

// Name of a case, for messages. form -1: dense.
static const char *named(int rig, int form) {
    static char name[80];
    snprintf(name, sizeof name, "%s (rig %d), %s (form %d)", rigs[rig].arch, rig,
             form < 0 ? "dense" : forms[form].scheme, form);
    return name;
}
static const RigTucker *tucker(int form) { return form < 0 ? NULL : &forms[form]; }
static bool has_head(const Attention *a) {
    bool head = false;
    for (int i = 0; i < a->n_groups; i++) head |= a->groups[i].head.rows > 0;
    return head;
}
static bool same(Cost a, Cost b) { return a.bytes == b.bytes && a.madds == b.madds; }

static SessionConfig f32_dense(int64_t context, int64_t batch) {
    return (SessionConfig){.context = context, .batch = batch, .kv_type = T_F32, .form = CACHE_DENSE, .uniform = true};
}

// ---- counting ------------------------------------------------------------------------------------

// A position costs what attention_cache_cost says, in every cache. On a dense one, what is done once is
// attention_cost; U_head's bytes may be missing. The twin's are the dense matrices; over all layers the
// bytes are model_bytes'.
static int sums(void) {
    static const int types[] = {T_F32, T_F16};
    for (int r = 0; r < RIGS; r++)
        for (int f = -1; f < FORMS; f++) {
            RigModel m;
            Err e = {""};
            CHECK(rig_build(&m, &rigs[r], tucker(f), &e) == 0, "%s: %s", named(r, f), e.msg);
            double bytes = 0;
            for (int64_t l = 0; l < LAYERS; l++)
                for (int k = 0; k < 6; k++) {
                    const Attention *a = &m.m.layer[l].attn;
                    const Cache c = attention_cache(a, types[k % 2], 1, (CacheForm)(k / 2));
                    Step step[MAX_STEPS];
                    const int n = path_steps(&m.m, l, &c, step);
                    CHECK(n < MAX_STEPS, "%s: %d steps", named(r, f), n);
                    const Cost each = path_sum(step, n, true, false), once = path_sum(step, n, false, false);
                    const Cost twin = path_sum(step, n, false, true), cost = attention_cost(a);
                    CHECK(same(each, attention_cache_cost(a, &c)), "%s, cache %d: %g %g", named(r, f), k, each.bytes,
                          each.madds);
                    CHECK(twin.madds == (double)dense_params(&a->shape, 15), "%s: twin %g", named(r, f), twin.madds);
                    if (f < 0) CHECK(same(twin, once), "%s: twin %g, itself %g", named(r, f), twin.bytes, once.bytes);
                    if (!c.latent && !c.z_width) {
                        CHECK(once.madds == cost.madds, "%s: %g, not %g madds", named(r, f), once.madds, cost.madds);
                        CHECK(once.bytes == cost.bytes || (has_head(a) && once.bytes < cost.bytes),
                              "%s: %g, not %g bytes", named(r, f), once.bytes, cost.bytes);
                    }
                    if (k == 2) bytes += cost.bytes;
                }
            CHECK(bytes == model_bytes(&m.m).attention, "%s: %g bytes", named(r, f), bytes);
            rig_free(&m);
        }
    return PASS;
}

// Counted by hand. With d 32, r_embd 12, r_head 4, hd 8: U_embd 384, a core 48, U_head of a head 32.
static int counted_by_hand(void) {
    static const struct { int rig, form; CacheForm cache; double madds, bytes; } want[] = {
        // llama: q and k need U_head, v and O do not: 2 * 384 + 16 * 48 + 8 * 32; bytes of all, F32
        {0, 1, CACHE_DENSE, 1792, 4 * (384 + 32 + 16 * 48)},
        // 2 KV heads: 2 * 384 + 12 * 48 + 6 * 32; and with V as z: M^V for 4 heads instead of 2
        {1, 1, CACHE_DENSE, 1536, 4 * (384 + 32 + 12 * 48)}, {1, 1, CACHE_LATENT, 1632, 4 * (384 + 32 + 12 * 48)},
        // gpt2, whose q and v have biases: U_head in q, from q to k's side, in v, in O: 2 * 384 + 16 * 48 + 16 * 32
        {5, 1, CACHE_DENSE, 2048, 4 * (384 + 32 + 16 * 48)}, {5, 1, CACHE_LATENT, 2048, 4 * (384 + 32 + 16 * 48)},
        // gptj rotates 4 of 8: U_head in q and k; K as z: 4 heads of U_pass (4 x 4) and of M^K more; V as z
        {4, 1, CACHE_DENSE, 1792, 4 * (384 + 32 + 16 * 48)},
        {4, 1, CACHE_LATENT, 1792 + 64 + 4 * 48, 4 * (384 + 32 + 16 * 48)},
        // llama with r_kind 3 of 4: G twice, 2 * 3 * 4 * 48; mixed 16 times, 3 * 4; U_kind 12 numbers
        {0, 2, CACHE_DENSE, 2 * 384 + 2 * 576 + 16 * 12 + 8 * 32, 4 * (384 + 32 + 12 + 576)},
        // V and O share an U_head that nobody uses; Q and K stay dense: 2 * 1024 + 2 * 384 + 8 * 48
        {0, 8, CACHE_DENSE, 3200, 4 * (2048 + 384 + 8 * 48)},
        // gpt2, K and V on 1 slice, r_head 2, and nothing but z cached: W_Q, W_O, U_embd; U_head to the query's
        // side and behind the sum, 64 each; mixed cores of 4 heads, 96, to q and to the sum. G is not read
        {5, 9, CACHE_LATENT, 2048 + 384 + 2 * 64 + 2 * 96, 4 * (2048 + 384 + 16 + 2 * 96)},
    };
    for (int i = 0; i < COUNT(want); i++) {
        RigModel m;
        Err e = {""};
        CHECK(rig_build(&m, &rigs[want[i].rig], &forms[want[i].form], &e) == 0, "%s", e.msg);
        const Cache c = attention_cache(&m.m.layer->attn, T_F16, 1, want[i].cache);
        Step step[MAX_STEPS];
        const Cost once = path_sum(step, path_steps(&m.m, 0, &c, step), false, false);
        CHECK(once.madds == want[i].madds && once.bytes == want[i].bytes, "case %d: %g madds, %g bytes, not %g, %g", i,
              once.madds, once.bytes, want[i].madds, want[i].bytes);
        rig_free(&m);
    }
    return PASS;
}

// ---- looking -------------------------------------------------------------------------------------

typedef struct { int64_t layer, width; float *q, *k; } Seen_qk;

static void keep(void *ctx, const Session *s, int64_t layer, Seen at, int64_t n) {
    Seen_qk *w = ctx;
    const Config *c = &s->model->config;
    if (layer != w->layer || at != SEEN_ATTENTION) return;
    memcpy(w->q + s->pos * c->h * c->hd, s->q, (size_t)(n * c->h * c->hd) * sizeof(float));
    memcpy(w->k + s->pos * c->n_kv * c->hd, s->k, (size_t)(n * c->n_kv * c->hd) * sizeof(float));
}

// out (n): softmax over the positions that token t sees of q_i . k / sqrt(hd), of one head.
static void naive(const Config *c, const Seen_qk *w, int64_t n, int64_t t, int64_t i, double *out) {
    const int64_t first = !c->encoder && c->window && t >= c->window ? t - c->window + 1 : 0;
    const int64_t end = c->encoder ? n : t + 1;
    double sum = 0;
    memset(out, 0, (size_t)n * sizeof *out);
    for (int64_t u = first; u < end; u++) {
        double score = 0;
        for (int64_t j = 0; j < c->hd; j++)
            score += (double)w->q[(t * c->h + i) * c->hd + j] *
                     (double)w->k[(u * c->n_kv + i / (c->h / c->n_kv)) * c->hd + j];
        sum += out[u] = exp(score / sqrt((double)c->hd));
    }
    for (int64_t u = first; u < end; u++) out[u] /= sum;
}

// Largest difference between t and softmax(q k^T / sqrt(hd)) of the same model; -1: it did not run.
static double beside_naive(const Trace *t, const Model *m, const int *ids, int64_t layer, Err *e) {
    const Config *c = &m->config;
    const int64_t n = t->n;
    Seen_qk w = {.layer = layer, .q = calloc((size_t)(n * c->h * c->hd), sizeof(float)),
                 .k = calloc((size_t)(n * c->n_kv * c->hd), sizeof(float))};
    double *row = calloc((size_t)n, sizeof *row), worst = -1;
    Session s = {0};
    if (session_init(&s, m, f32_dense(n, 7), e)) goto done;
    s.observer = keep, s.observer_ctx = &w;
    if (c->encoder ? encode(&s, ids, n, e) : prefill(&s, ids, n, e)) goto done;
    worst = 0;
    for (int64_t a = 0; a < t->shown; a++) {
        const int64_t at = t->begin[a];
        double mean[SHOWN] = {0};
        for (int64_t i = 0; i < c->h && t->begin[a + 1] == at + 1; i++) {
            naive(c, &w, n, at, i, row);
            for (int64_t b = 0; b < t->shown; b++) {
                double sum = 0;
                for (int64_t u = t->begin[b]; u < t->begin[b + 1]; u++) sum += row[u];
                mean[b] += sum / (double)c->h;
                if (at == t->focus) worst = fmax(worst, fabs(sum - (double)t->head[i * t->shown + b]));
            }
        }
        for (int64_t b = 0; b < t->shown; b++)
            worst = fmax(worst, fabs(mean[b] - (double)t->map[a * t->shown + b]));
    }
done:
    session_free(&s);
    free(w.q);
    free(w.k);
    free(row);
    return worst;
}

static void random_ids(int *ids, int64_t n, int64_t vocab, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) ids[i] = (int)(random_u64(&seed) % (uint64_t)vocab);
}

// Every row of the weights sums to 1, or, of many tokens, to 0.
static double off_one(const Trace *t, int64_t h) {
    double worst = 0;
    for (int64_t i = 0; i < h + t->shown; i++) {
        const float *row = i < h ? t->head + i * t->shown : t->map + (i - h) * t->shown;
        double sum = 0;
        for (int64_t j = 0; j < t->shown; j++) sum += (double)row[j];
        const double want = i < h || t->begin[i - h + 1] == t->begin[i - h] + 1;
        worst = fmax(worst, fabs(sum - want));
    }
    return worst;
}

// Dense models of every family against the definition; short texts, and long ones whose columns are joined
// before and behind. A decoder's mask is nothing special; it sees a window instead.
static int weights(void) {
    static const int64_t lengths[] = {1, 5, SHOWN, SHOWN + 1, 70};
    for (int r = 0; r < RIGS; r++)
        for (int i = 0; i < COUNT(lengths) * 3; i++) {
            RigModel m;
            Err e = {""};
            int ids[CONTEXT];
            const int64_t n = lengths[i / 3], vocab = rigs[r].vocab;
            const int64_t at = i % 3 == 0 ? n - 1 : i % 3 == 1 ? n / 8 : n / 2;
            CHECK(rig_build(&m, &rigs[r], NULL, &e) == 0, "%s", e.msg);
            if (!m.m.config.encoder) m.m.config.window = 3 * (i % 3);
            random_ids(ids, n, vocab - 1, 9);
            ids[at] = (int)vocab - 1;
            Trace t;
            CHECK(trace_run(&t, &m.m, ids, n, i % 2, i % 3 ? ids[at] : -1, 50, &e) == 0, "%s: %s", named(r, -1), e.msg);
            CHECK(t.focus == (m.m.config.encoder ? at : n - 1), "token %d", (int)t.focus);
            CHECK(t.begin[0] == 0 && t.begin[t.shown] == n && t.shown <= SHOWN, "%d columns", (int)t.shown);
            for (int64_t j = 0; j < t.shown; j++) CHECK(t.begin[j] < t.begin[j + 1], "an empty column %d", (int)j);
            const double off = beside_naive(&t, &m.m, ids, i % 2, &e);
            CHECK(off >= 0 && off < 2e-6, "%s, %d tokens: %g from softmax(q k^T / sqrt(hd))", named(r, -1),
                  (int)n, off);
            CHECK(off_one(&t, rigs[r].h) < 2e-6, "%s: a row sums to 1 + %g", named(r, -1), off_one(&t, rigs[r].h));
            trace_free(&t);
            rig_free(&m);
        }
    return PASS;
}

static double length_of(const Trace *t, const char *name) {
    for (int i = 0; i < t->lengths; i++)
        if (!strcmp(t->length[i].name, name)) return t->length[i].whole;
    return -1;
}

// Factored ones against the dense model that their factors multiply back to, the lengths on the way too.
static int weights_on_factors(void) {
    static const char *const also[] = {"residual stream", "x", "y"};
    for (int r = 0; r < RIGS - 1; r++)
        for (int f = 0; f < FORMS; f++) {
            RigModel m, back;
            Err e = {""};
            RigTucker rebuilt = forms[f];
            rebuilt.rebuilt = true;
            int ids[30];
            random_ids(ids, 30, rigs[r].vocab, 10);
            CHECK(rig_build(&m, &rigs[r], &forms[f], &e) == 0, "%s: %s", named(r, f), e.msg);
            CHECK(rig_build(&back, &rigs[r], &rebuilt, &e) == 0, "%s: %s", named(r, f), e.msg);
            Trace t, u;
            CHECK(trace_run(&t, &m.m, ids, 30, 1, -1, 50, &e) == 0, "%s: %s", named(r, f), e.msg);
            CHECK(trace_run(&u, &back.m, ids, 30, 1, -1, 50, &e) == 0, "%s: %s", named(r, f), e.msg);
            double off = 0;
            for (int64_t i = 0; i < rigs[r].h * t.shown; i++)
                off = fmax(off, fabs((double)t.head[i] - (double)u.head[i]));
            for (int64_t i = 0; i < t.shown * t.shown; i++)
                off = fmax(off, fabs((double)t.map[i] - (double)u.map[i]));
            CHECK(off < 1e-4, "%s: %g from the dense model's", named(r, f), off);
            CHECK(off_one(&t, rigs[r].h) < 2e-6, "%s: a row sums to 1 + %g", named(r, f), off_one(&t, rigs[r].h));
            for (int i = 0; i < COUNT(also); i++) {
                const double a = length_of(&t, also[i]), b = length_of(&u, also[i]);
                CHECK(b > 0 && fabs(a / b - 1) < 1e-3, "%s: |%s| %g, dense %g", named(r, f), also[i], a, b);
            }
            trace_free(&t);
            trace_free(&u);
            rig_free(&m);
            rig_free(&back);
        }
    return PASS;
}

// The five likeliest and their probabilities are those of the logits: behind the last token, or at the mask.
static int likeliest(void) {
    for (int r = 0; r < RIGS; r++) {
        RigModel m;
        Err e = {""};
        int ids[12];
        random_ids(ids, 12, rigs[r].vocab, 11);
        CHECK(rig_build(&m, &rigs[r], NULL, &e) == 0, "%s", e.msg);
        ids[4] = 3;
        for (int i = 0; i < 4; i++) ids[i] = 7;
        const bool encoder = m.m.config.encoder;
        const int64_t at = encoder ? 4 : 11, vocab = rigs[r].vocab;
        float *all = rig_logits(&m.m, f32_dense(12, 12), ids, 12, &e);
        CHECK(all, "%s", e.msg);
        Trace t;
        CHECK(trace_run(&t, &m.m, ids, 12, 0, 3, (int)vocab - 6, &e) == 0, "%s", e.msg);
        CHECK(t.focus == at && t.likely == 5, "token %d, %d likely", (int)t.focus, t.likely);
        double sum = 0;
        for (int64_t i = 0; i < vocab; i++) sum += exp((double)all[at * vocab + i]);
        for (int i = 0; i < 5; i++) {
            const double p = exp((double)all[at * vocab + t.best[i]]) / sum;
            CHECK(fabs(p - t.chance[i]) < 1e-5, "%s: %g, not %g", named(r, -1), t.chance[i], p);
            CHECK(t.best[i] < vocab - 6, "%d is no piece", t.best[i]);
            CHECK(i == 0 || t.chance[i] <= t.chance[i - 1], "no order: %g, %g", t.chance[i - 1], t.chance[i]);
        }
        trace_free(&t);
        if (encoder) {
            CHECK(trace_run(&t, &m.m, ids, 12, 0, -1, 50, &e) == 0, "%s", e.msg);
            CHECK(t.likely == 0 && t.focus == 11, "without a mask: %d words", t.likely);
            trace_free(&t);
        }
        free(all);
        rig_free(&m);
    }
    return PASS;
}

// ---- pages ---------------------------------------------------------------------------------------

// What is printed from begin_paper to end_paper, whose caller frees it: stdout goes to a file meanwhile.
static FILE *paper;
static int screen;
static void begin_paper(void) {
    fflush(stdout);
    paper = tmpfile();
    screen = dup(STDOUT_FILENO);
    if (!paper || screen < 0 || dup2(fileno(paper), STDOUT_FILENO) < 0) abort();
}
static char *end_paper(void) {
    static char *text;
    size_t size;
    text = NULL;
    fflush(stdout);
    dup2(screen, STDOUT_FILENO);
    close(screen);
    rewind(paper);
    if (read_all(paper, "what was printed", 1 << 22, &text, &size, NULL)) text = NULL;
    fclose(paper);
    return text;
}

// What --explain prints; NULL with a message in e.
static char *explained(const Loaded *l, int64_t layer, const char *text, int64_t context, CacheForm form, Err *e) {
    begin_paper();
    const SessionConfig c = {.context = context, .kv_type = T_F16, .form = form};
    const int status = tool_explain(l, layer, text, c, e);
    char *printed = end_paper();
    if (!status) return printed;
    if (printed && *printed) fail(e, "it printed something and failed");
    free(printed);
    return NULL;
}

// The first line that is wider than 80 columns, is cut, or, ascii, has a sign that is none; NULL.
static const char *bad_line(const char *text, bool ascii) {
    static char line[1000];
    while (*text) {
        const size_t n = strcspn(text, "\n");
        size_t width = 0, step;
        uint32_t cp = 0;
        bool bad = false;
        for (size_t i = 0; i < n; i += step, width++) {
            step = utf8_next(text + i, n - i, &cp);
            bad |= !step || cp == UTF8_BAD || cp < 32 || (ascii && cp > 126);
            if (!step) break;
        }
        snprintf(line, sizeof line, "%.*s", (int)n, text);
        if (bad || width > 80 || (width == 80 && (cp == '~' || cp == 0x2026))) return line;
        text += n + (text[n] == '\n');
    }
    return NULL;
}

// The numbers of the line that begins with a word, -1 for the whole line where it is not there.
static int numbers(const char *text, const char *word, double *out, int most) {
    char line[32];
    snprintf(line, sizeof line, "\n%s", word);
    const char *at = strstr(text, line);
    if (!at) return -1;
    int n = 0;
    for (at += strlen(line); *at && *at != '\n' && n < most; at++)
        if (*at >= '0' && *at <= '9') {
            char *end;
            out[n++] = strtod(at, &end);
            at = end - 1;
        }
    return n;
}

// Of every family and form, in ASCII and not: no line too wide, and the numbers on it are those of the model.
static int pages(void) {
    static const char *const locales[] = {"C", "C.UTF-8"};
    for (int r = 0; r < RIGS; r++)
        for (int f = -1; f < FORMS; f++) {
            RigModel m;
            Err e = {""};
            CHECK(rig_build(&m, &rigs[r], tucker(f), &e) == 0, "%s", e.msg);
            const Loaded l = {.path = "a/folder/of/no/matter/quite-a-long-name-of-a-model.which.has.no.end.tbin",
                              .file = &m.g, .model = &m.m};
            double bytes = 0, params = 0, sum[2] = {0}, once[2] = {0};
            for (int i = 0; i < 3 * LAYERS; i++) {
                const CacheForm form = (CacheForm)(i / LAYERS);
                const Attention *a = &m.m.layer[i % LAYERS].attn;
                const Cost cost = attention_cost(a);
                setenv("LC_ALL", locales[i % 2], 1);
                char *text = explained(&l, i % LAYERS, NULL, 0, form, &e);
                CHECK(text, "%s: %s", named(r, f), e.msg);
                const char *bad = bad_line(text, i % 2 == 0);
                CHECK(!bad, "%s: a bad line: %s", named(r, f), bad);
                CHECK((strstr(text, "┌") != NULL) == (i % 2 == 1), "%s: boxes of the wrong signs", named(r, f));
                CHECK((strstr(text, "This layer is dense") != NULL) == (f < 0), "%s: dense?", named(r, f));
                CHECK(numbers(text, "together", sum, 2) == 2, "%s: no sum of bytes", named(r, f));
                CHECK(numbers(text, "once: the weights", once, 2) == 2, "%s: no sum of steps", named(r, f));
                free(text);
                CHECK(sum[0] == cost.bytes, "%s: %g bytes, not %g", named(r, f), sum[0], cost.bytes);
                if (!has_head(a) && form == CACHE_DENSE)
                    CHECK(once[0] == cost.madds && once[1] == cost.bytes, "%s: %g, %g", named(r, f), once[0], once[1]);
                if (form == CACHE_AUTO) bytes += sum[0], params += sum[1];
            }
            CHECK(bytes == model_bytes(&m.m).attention && params == model_params(&m.m).attention,
                  "%s: %g bytes, %g parameters in all layers", named(r, f), bytes, params);
            rig_free(&m);
        }
    unsetenv("LC_ALL");
    return PASS;
}

// A layer of that shape without weights: kind 0 dense, 1 and 2 qkvo, 2 with an U_kind, 3 q+k+v+o.
static void put_shape(Attention *a, AttnShape s, int kind) {
    static const char data[4][4];                               // addresses that differ; nothing is read
    const int64_t r = s.d / 2, rh = s.hd / 2, m = s.h / s.n_kv;
    *a = (Attention){.shape = s, .group_of = {-1, -1, -1, -1}, .n_groups = kind == 3 ? 4 : kind > 0};
    for (int p = P_Q; p <= P_O; p++) {
        const int i = kind == 3 ? p : 0, set = kind == 3 ? 1 << p : 15;
        const int64_t head = kind ? rh : s.hd, d = kind ? r : s.d, wide = head * heads_of(&s, p);
        a->w[p] = p == P_O ? (Mat){&data[p][0], d, wide, T_F16} : (Mat){&data[p][0], wide, d, T_F16};
        if (!kind) continue;
        Group *g = &a->groups[a->group_of[p] = i];
        *g = (Group){.set = set, .r_embd = r, .r_head = rh, .kinds = group_kinds(set, m)};
        g->embd = set == HAS_O ? (Mat){&data[i][1], s.d, r, T_F16} : (Mat){&data[i][1], r, s.d, T_F16};
        g->head = (Mat){&data[i][2], s.hd, rh, T_F32};
        g->r_kind = g->kinds - (kind == 2);
        if (p == P_K || p == P_V) a->expand[p] = (Mat){&data[p][0], s.n_kv * rh, r, T_F16};
        if (kind != 2) continue;
        g->kind = (Mat){&data[i][3], g->kinds, g->r_kind, T_F32};
        g->core = (Mat){&data[0][0], g->r_kind * s.n_kv * rh, r, T_F16};
        a->w[p] = (Mat){0};
    }
}

// Shapes of large models, of which there is no file here: the pictures and tables still fit.
static int large_shapes(void) {
    static const AttnShape shapes[] = {
        {4096, 32, 32, 128}, {8192, 64, 8, 128}, {16384, 128, 8, 128}, {5120, 64, 8, 128}, {2048, 8, 1, 256}};
    setenv("LC_ALL", "C.UTF-8", 1);
    for (int i = 0; i < COUNT(shapes); i++)
        for (int kind = 0; kind < 8; kind++) {
            const AttnShape s = shapes[i];
            Layer layer = {0};
            put_shape(&layer.attn, s, kind / 2);
            const Model model = {.layer = &layer, .config = {.arch = "llama", .d = s.d, .h = s.h, .n_kv = s.n_kv,
                .hd = s.hd, .f = 64, .vocab = 64, .n_layers = 1, .context = 131072, .rope_dims = s.hd}};
            const Loaded l = {.path = "large.tbin", .model = &model};
            Err e = {""};
            char *text = explained(&l, -1, NULL, 0, kind % 2 ? CACHE_LATENT : CACHE_AUTO, &e);
            CHECK(text, "%s", e.msg);
            const char *bad = bad_line(text, false);
            CHECK(!bad, "d %d, kind %d: a bad line: %s", (int)s.d, kind, bad);
            free(text);
        }
    unsetenv("LC_ALL");
    return PASS;
}

// Signs of two columns, marks, what is no text, and what is cut; colour ends with its line.
static int words_on_a_page(void) {
    Page p;
    setenv("LC_ALL", "en_GB.utf8", 1);
    page_init(&p);
    CHECK(p.utf8 && !p.colour, "UTF-8 %d, colour %d", p.utf8, p.colour);
    begin_paper();
    page_word(&p, 0, 0, 5, PLAIN, "日本語");
    page_word(&p, 6, 0, 5, PLAIN, "日本");
    page_word(&p, 12, 0, 5, PLAIN, "abcdef");
    page_word(&p, 18, 0, 5, PLAIN, "abcde");
    page_word(&p, 24, 0, 9, PLAIN, "e\xCC\x81\033[1m\xFF!");
    page_print(&p);
    p.colour = true, p.palette = false;
    page_put(&p, 2, 0, STRONG, "bold");
    page_put(&p, 78, 1, INK_Q, "%s", "long");
    page_put(&p, 100, 2, PLAIN, "nowhere");
    page_print(&p);
    p.utf8 = false;
    page_word(&p, 0, 0, 9, PLAIN, "naïve");
    page_print(&p);
    p.palette = true;
    page_put(&p, 0, 0, INK_Q, "q");
    page_print(&p);
    char *text = end_paper();
    const char *want = "日本… 日本  abcd… abcde e?[1m?!\n  \033[1mbold\033[0m\n"
                       "%78s\033[36ml\033[0;2m…\033[0m\n%79s\033[2m…\033[0m\nna?ve\n\033[38;5;32mq\033[0m\n";
    char all[400];
    snprintf(all, sizeof all, want, "", "");
    const bool right = text && strcmp(text, all) == 0;
    CHECK(right, "printed:\n%s", text);
    free(text);
    static const struct { const char *all, *type, *lang; bool utf8; } locale[] = {
        {"", "", "en_US.UTF-8", true}, {"C", "", "en_US.UTF-8", false}, {"", "C", "en_US.UTF-8", false},
        {"", "de_DE.UTF-8@euro", "C", true}, {"", "", "", false}, {"", "", "de_DE.ISO-8859-1", false}};
    for (int i = 0; i < COUNT(locale); i++) {
        setenv("LC_ALL", locale[i].all, 1), setenv("LC_CTYPE", locale[i].type, 1), setenv("LANG", locale[i].lang, 1);
        page_init(&p);
        CHECK(p.utf8 == locale[i].utf8, "locale %d", i);
    }
    unsetenv("LC_ALL"), unsetenv("LC_CTYPE"), unsetenv("LANG");
    static const struct { const char *term, *more; bool palette; } terminal[] = {
        {"xterm-256color", "", true}, {"linux", "", false}, {"xterm", "truecolor", true}, {"xterm", "", false}};
    for (int i = 0; i < COUNT(terminal); i++) {
        setenv("TERM", terminal[i].term, 1), setenv("COLORTERM", terminal[i].more, 1);
        page_init(&p);
        CHECK(p.palette == terminal[i].palette, "terminal %d", i);
    }
    return PASS;
}

// Of a model of its own text: the words, the best of them, and what is refused.
static int a_text(void) {
    Gguf file = {0};
    Model model = {0};
    Vocab vocab = {0};
    Err e = {""};
    CHECK(gguf_open(&file, "models/stories.tbin", &e) == 0 && vocab_from_gguf(&vocab, &file, &e) == 0 &&
          model_bind(&model, &file, &e) == 0, "%s", e.msg);
    Tokenizer *tokenizer = tokenizer_new(&vocab, &e);
    CHECK(tokenizer, "%s", e.msg);
    const Loaded l = {"models/stories.tbin", &file, &model, &vocab, tokenizer};
    setenv("LC_ALL", "C", 1);
    char *text = explained(&l, 3, "Once upon a", 0, CACHE_AUTO, &e);
    CHECK(text, "%s", e.msg);
    const char *bad = bad_line(text, true), *likely = strstr(text, "Likeliest to come next");
    CHECK(!bad, "a bad line: %s", bad);
    CHECK(likely && strstr(likely, " %  time ") && strstr(text, "  0 <s> "), "no time and no <s> in:\n%s", text);
    free(text);
    // The bytes of a character that has no token of its own, each in its place; tens above ten positions.
    text = explained(&l, 3, "Once upon a time, é", 0, CACHE_AUTO, &e);
    CHECK(text && !bad_line(text, true), "%s", e.msg);
    CHECK(strstr(text, "at position 8: <A9>\n") && strstr(text, "    7 <C3> ") && strstr(text, "    8 <A9> ") &&
          !strchr(text, '?'), "no bytes in:\n%s", text);
    CHECK(strstr(text, "\n                     0 1 2 3 4 5 6 7 8\n"), "no positions in:\n%s", text);
    free(text);
    text = explained(&l, 3, "Once upon a time, there was a little girl", 0, CACHE_AUTO, &e);
    CHECK(text && strstr(text, "\n                                         1\n                     0 1 2 3 4 5 6 7 8 9 0"),
          "no tens in:\n%s", text);
    free(text);
    static const struct { int64_t layer, context; const char *text, *why; } wrong[] = {
        {4, 0, NULL, "layers 0 .. 3"}, {0, 513, NULL, "trained for 512"}, {0, 3, "Once upon a time", "-c"}};
    for (int i = 0; i < COUNT(wrong); i++) {
        text = explained(&l, wrong[i].layer, wrong[i].text, wrong[i].context, CACHE_AUTO, &e);
        CHECK(!text && strstr(e.msg, wrong[i].why), "%d: %s", i, e.msg);
    }
    unsetenv("LC_ALL");
    tokenizer_free(tokenizer);
    model_free(&model);
    vocab_free(&vocab);
    gguf_free(&file);
    return PASS;
}

static const Test tests[] = {
    {"sums", sums}, {"counted_by_hand", counted_by_hand}, {"weights", weights},
    {"weights_on_factors", weights_on_factors}, {"likeliest", likeliest}, {"pages", pages},
    {"large_shapes", large_shapes}, {"words_on_a_page", words_on_a_page}, {"a_text", a_text},
};

int main(int argc, char **argv) { return run_tests("explain", tests, COUNT(tests), argc, argv); }
