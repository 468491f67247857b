// Families against transformers: the tiny models of tests/golden (made by make_families.py), read as
// published, run dense and on factors; and what an encoder does otherwise than a decoder.
#include "../core/json.h"
#include "../export/compress.h"
#include "../export/verify.h"
#include "rig.h"

#include <unistd.h>

static const char *const families[] = {"gptj", "gpt2", "bert", "roberta"};
static char tokenizer[256], made[256];     // files of this run
static Err err;

enum { PIECES = 40 };

// A tokenizer.bin of letters: folders need one, and ids are given here.
static bool put_tokenizer(void) {
    FILE *f = fopen(tokenizer, "wb");
    if (!f) return false;
    fwrite(&(int32_t){8}, 4, 1, f);
    for (int i = 0; i < PIECES; i++) {
        char piece[8];
        snprintf(piece, sizeof piece, i < 3 ? "<%d>" : i < 29 ? "%c" : "a%c", i < 3 ? i : 'a' + (i - 3) % 26);
        float score = (float)-i;
        int32_t n = (int32_t)strlen(piece);
        fwrite(&score, 4, 1, f);
        fwrite(&n, 4, 1, f);
        fwrite(piece, 1, (size_t)n, f);
    }
    return fclose(f) == 0;
}

// ---- golden data ----------------------------------------------------------------------------------

typedef struct {
    Source source;
    Model m;
    int ids[64];
    int64_t n;
    float *logits, *hidden;                // (n, V), (n, d) or NULL
} Golden;

static float *matrix_of(const Json *rows, int64_t n, int64_t cols) {
    float *out = calloc((size_t)(n * cols), sizeof *out), *at = out;
    const Json *row = rows ? rows->child : NULL;
    for (int64_t i = 0; i < n; i++, row = row->next) {
        if (!row || row->count != cols) { free(out); return NULL; }
        for (const Json *v = row->child; v; v = v->next) *at++ = (float)v->number;
    }
    return out;
}

static void golden_free(Golden *g) {
    model_free(&g->m);
    source_close(&g->source);
    free(g->logits);
    free(g->hidden);
    *g = (Golden){0};
}

static int golden_open(Golden *g, const char *family) {
    char folder[64], path[96], *text = NULL;
    size_t size = 0;
    JsonDoc doc = {0};
    *g = (Golden){0};
    snprintf(folder, sizeof folder, "tests/golden/%s", family);
    snprintf(path, sizeof path, "%s/expect.json", folder);
    if (read_file(path, 1 << 20, &text, &size, &err)) return -1;
    int result = json_parse(&doc, text, size, path, &err) ||
                 source_open(&g->source, folder, tokenizer, &err) ||
                 model_bind(&g->m, &g->source.g, &err) ? -1 : 0;
    const Json *ids = result ? NULL : json_get(doc.root, "ids"), *hidden = json_get(doc.root, "hidden");
    for (const Json *id = ids ? ids->child : NULL; id && g->n < COUNT(g->ids); id = id->next)
        g->ids[g->n++] = (int)id->integer;
    if (!result) g->logits = matrix_of(json_get(doc.root, "logits"), g->n, g->m.config.vocab);
    if (!result && hidden) g->hidden = matrix_of(hidden, g->n, g->m.config.d);
    if (!result && (!g->n || !g->logits || (hidden && !g->hidden)))
        result = fail(&err, "%s: not as expected", path);
    json_free(&doc);
    free(text);
    if (result) golden_free(g);
    return result;
}

static double logits_off(const Model *m, const Golden *g, int64_t batch, int kv_type) {
    const SessionConfig c = {m->config.context, batch, kv_type, CACHE_AUTO, false};
    float *got = rig_logits(m, c, g->ids, g->n, &err);
    double off = got ? rig_difference(got, g->logits, g->n * m->config.vocab) : INFINITY;
    free(got);
    return off;
}

// As published, against the same weights in transformers, in double precision.
static int dense(void) {
    for (int i = 0; i < COUNT(families); i++) {
        Golden g;
        CHECK(golden_open(&g, families[i]) == 0, "%s: %s", families[i], err.msg);
        CHECK(model_predicts(&g.m) && g.n == 20, "%s: %d ids", families[i], (int)g.n);
        CHECK(g.m.config.encoder == (g.hidden != NULL), "%s: encoder", families[i]);
        for (int batch = 1; batch <= 22; batch += 7) {
            double off = logits_off(&g.m, &g, batch, T_F32);
            CHECK(off < 3e-6, "%s, batches of %d: logits are off by %g", families[i], batch, off);
        }
        if (g.hidden) {
            Session s;
            CHECK(session_init(&s, &g.m, (SessionConfig){.context = g.n, .kv_type = T_Q8_0}, &err) == 0, "%s",
                  err.msg);
            for (int turn = 0; turn < 2; turn++) {          // a text does not see the one before it
                CHECK(encode(&s, g.ids, turn ? g.n : 5, &err) == 0, "%s", err.msg);
                double off = rig_difference(s.x, g.hidden, g.n * g.m.config.d);
                CHECK((off < 3e-6) == turn, "%s, turn %d: hidden states are off by %g", families[i], turn,
                      off);
            }
            session_free(&s);
        } else {
            double off = logits_off(&g.m, &g, 8, T_F16);
            CHECK(off > 1e-7 && off < 1e-2, "%s: an f16 cache changes logits by %g", families[i], off);
        }
        golden_free(&g);
    }
    return PASS;
}

// The model takes its weights for another's: what the golden data are able to notice.
static int data_tell_families_apart(void) {
    for (int i = 0; i < COUNT(families); i++)
        for (int change = 0; change < 5; change++) {
            Golden g;
            CHECK(golden_open(&g, families[i]) == 0, "%s: %s", families[i], err.msg);
            Config *c = &g.m.config;
            const float *bias = g.m.layer[1].up.bias;
            if (change == 0) c->act = c->act == ACT_GELU ? ACT_GELU_TANH : ACT_GELU;
            if (change == 1) c->norm_eps = 0.01f;
            if (change == 2 && c->rope_dims) c->rope_half = true;
            if (change == 2 && !c->rope_dims)
                g.m.positions.data = (const uint16_t *)g.m.positions.data + c->d, g.m.positions.rows--;
            if (change == 3) g.m.layer[1].up.bias = g.m.layer[0].up.bias;
            if (change == 4 && c->encoder) g.m.types.rows = 0;
            if (change == 4 && !c->encoder) {
                c->parallel = !c->parallel;
                for (int l = 0; l < 2; l++) g.m.layer[l].ffn_norm = g.m.layer[l].attn_norm;
            }
            double off = logits_off(&g.m, &g, 8, T_F32);
            CHECK(bias && off > 1e-5, "%s, change %d: logits are off by %g only", families[i], change, off);
            golden_free(&g);
        }
    return PASS;
}

// ---- factors --------------------------------------------------------------------------------------

// Exports what g's source holds and reads it back.
static int write_weighted(Golden *g, const Options *o, const Compression *c, Gguf *file, Model *m) {
    Plan p;
    FileOut out = {0};
    int result = plan_check(o, &g->source, &g->m, &err) || plan_make(&p, o, &g->source, &g->m, c, &err);
    if (!result) {
        result = out_open(&out, made, &err) || plan_write(&p, &out, NULL, NULL, &err) ||
                 out_commit(&out, &err) || gguf_open(file, made, &err) || model_bind(m, file, &err);
        plan_free(&p);
    }
    out_abort(&out);
    return result ? -1 : 0;
}

static int write_and_open(Golden *g, const Options *o, Gguf *file, Model *m) {
    return write_weighted(g, o, NULL, file, m);
}

static int split(Golden *g) {
    if (source_split(&g->source, &g->m, &err)) return -1;
    model_free(&g->m);
    return model_bind(&g->m, &g->source.g, &err);
}

// Plain Tucker at full rank, of every scheme, is the dense model; so is what --dense writes.
static int full_rank(void) {
    static const char *const schemes[] = {"qkvo", "qkv+o", "qk+v+o", "q+k+v+o", "v", NULL};
    for (int i = 0; i < COUNT(families); i++)
        for (int k = 0; k < COUNT(schemes); k++) {
            Golden g;
            Gguf file = {0};
            Model m = {0};
            Options o = {.source = "golden", .scheme = schemes[k], .layers = "all", .method = METHOD_HOOI,
                         .keep = 1, .type = schemes[k] ? T_F32 : -1, .sweeps = 3, .dense = !schemes[k]};
            CHECK(golden_open(&g, families[i]) == 0 && (o.dense || split(&g) == 0), "%s: %s", families[i],
                  err.msg);
            CHECK(write_and_open(&g, &o, &file, &m) == 0, "%s %s: %s", families[i], schemes[k], err.msg);
            CHECK(m.config.tucker == !o.dense, "%s: tucker.version", families[i]);
            bool fused = gguf_has(&file, "blk.1.attn_qkv.weight");
            CHECK(fused == (o.dense && i == 1), "%s: Q, K, V in one tensor", families[i]);
            for (int batch = 1; batch <= 20; batch += 19) {
                double off = logits_off(&m, &g, batch, T_F32);
                CHECK(off < (o.dense ? 3e-6 : 3e-5), "%s %s: logits are off by %g", families[i],
                      o.dense ? "dense" : schemes[k], off);
            }
            model_free(&m);
            gguf_free(&file);
            golden_free(&g);
        }
    return PASS;
}

// Apart, Q, K and V are the numbers they were in one tensor.
static int taken_apart(void) {
    Golden g, apart;
    CHECK(golden_open(&g, "gpt2") == 0 && golden_open(&apart, "gpt2") == 0 && split(&apart) == 0, "%s",
          err.msg);
    CHECK(apart.source.g.n_tensors == g.source.g.n_tensors + 8, "%d tensors", (int)apart.source.g.n_tensors);
    for (int p = P_Q; p <= P_V; p++) {
        const Mat *a = &g.m.layer[1].attn.w[p], *b = &apart.m.layer[1].attn.w[p];
        CHECK(a->rows == 32 && b->rows == 32 && !memcmp(a->data, b->data, mat_bytes(a)), "projection %d", p);
        CHECK(!memcmp(g.m.layer[1].attn.bias[p], apart.m.layer[1].attn.bias[p], 32 * sizeof(float)),
              "bias %d", p);
    }
    CHECK(logits_off(&apart.m, &g, 20, T_F32) < 3e-6, "logits");
    const Options o = {.source = "golden", .scheme = "qkvo", .layers = "all", .keep = 1, .type = -1};
    Gguf file = {0};
    Model m = {0};
    CHECK(write_and_open(&g, &o, &file, &m) == -1 && strstr(err.msg, "taken apart"), "%s", err.msg);
    golden_free(&apart);
    golden_free(&g);
    return PASS;
}

// By data: full ranks change nothing, whatever the weights; half of the parameters give a model that runs.
// What needs the loss of a text that goes on is refused for encoders.
static int weighted_methods(void) {
    for (int i = 0; i < COUNT(families); i++) {
        Golden g;
        CHECK(golden_open(&g, families[i]) == 0 && split(&g) == 0, "%s", err.msg);
        const CalibText t = {.ids = g.ids, .count = 1, .window = 20};
        for (int k = 0; k < 6; k++) {
            Options o = {.source = "golden", .layers = "all", .type = -1, .method = METHOD_INPUT + k % 3};
            if (k < 3) o.scheme = k % 2 ? "qkv+o" : "q+k+v+o", o.rank[EMBD] = 32;
            else o.keep = 0.5;
            Moments moments;
            Compression c;
            Gguf file = {0};
            Model m = {0};
            if (o.method == METHOD_FISHER && g.m.config.encoder) {
                CHECK(plan_check(&o, &g.source, &g.m, &err) == -1 && strstr(err.msg, "encoder"), "%s", err.msg);
                CHECK(moments_collect(&moments, &g.m, &t, moments_wanted(&o), NULL, NULL, &err) == -1, "loss");
                continue;
            }
            CHECK(moments_collect(&moments, &g.m, &t, moments_wanted(&o), NULL, NULL, &err) == 0, "%s", err.msg);
            CHECK(compression_init(&c, &o, &g.m, &moments, &t, NULL, NULL, &err) == 0, "%s", err.msg);
            CHECK(write_weighted(&g, &o, &c, &file, &m) == 0, "%s: %s", families[i], err.msg);
            const double off = logits_off(&m, &g, 20, T_F32);
            const double left = model_params(&m).attention / model_params(&g.m).attention;
            CHECK(k < 3 ? off < 1e-4 : isfinite(off) && off > 1e-5 && left <= 0.5 && left > 0.3,
                  "%s, method %d: %g off, %g of the parameters", families[i], o.method, off, left);
            model_free(&m);
            gguf_free(&file);
            compression_free(&c);
            moments_free(&moments);
        }
        golden_free(&g);
    }
    return PASS;
}

static int what_is_refused(void) {
    for (int i = 0; i < COUNT(families); i++) {
        Golden g;
        Gguf file = {0};
        Model m = {0};
        Comparison c;
        Options o = {.source = "golden", .layers = "all", .keep = 0.5, .type = -1, .method = METHOD_HOOI,
                     .ffn = "gate:0:0.5"};
        CHECK(golden_open(&g, families[i]) == 0 && split(&g) == 0, "%s", err.msg);
        CHECK(write_and_open(&g, &o, &file, &m) == -1 && strstr(err.msg, "no gate"), "%s", err.msg);
        const CalibText t = {.ids = g.ids, .count = 1, .window = 20};
        Gradient *gradient = gradient_new(&g.m, 20, &err);
        CHECK(!gradient == g.m.config.encoder, "%s", err.msg);
        gradient_free(gradient);
        int status = compare_models(&g.m, &g.m, &t, &c, NULL, NULL, &err);
        CHECK(status == (g.hidden ? -1 : 0) && (status || c.kl < 1e-9), "%s: %s", families[i], err.msg);
        golden_free(&g);
    }
    return PASS;
}

// ---- encoders -------------------------------------------------------------------------------------

static int encoders_and_decoders(void) {
    Golden bert, gpt2;
    Session s;
    CHECK(golden_open(&bert, "bert") == 0 && golden_open(&gpt2, "gpt2") == 0, "%s", err.msg);
    CHECK(session_init(&s, &bert.m, (SessionConfig){.context = 24, .batch = 3, .kv_type = T_F16}, &err) == 0,
          "%s", err.msg);
    CHECK(s.config.batch == 24 && s.config.kv_type == T_F32, "a text is one batch, in an f32 cache");
    CHECK(forward(&s, bert.ids, 4, &err) == -1 && strstr(err.msg, "encoder"), "%s", err.msg);
    CHECK(encode(&s, bert.ids, 0, &err) == -1, "an empty text");
    CHECK(encode(&s, bert.ids, 25, &err) == -1 && strstr(err.msg, "24 positions"), "%s", err.msg);
    CHECK(encode(&s, (int[]){1, 48}, 2, &err) == -1 && strstr(err.msg, "48"), "%s", err.msg);
    CHECK(encode(&s, bert.ids, 20, &err) == 0 && s.n == 20 && s.pos == 20, "%s", err.msg);
    float first = s.x[0];
    int ids[20];                                             // the first token sees the last
    memcpy(ids, bert.ids, sizeof ids);
    ids[19] = ids[19] == 5 ? 6 : 5;
    CHECK(encode(&s, ids, 20, &err) == 0 && s.x[0] != first, "the first token does not see the last");
    session_free(&s);
    CHECK(session_init(&s, &gpt2.m, (SessionConfig){.context = 24, .kv_type = T_F16}, &err) == 0, "%s",
          err.msg);
    CHECK(encode(&s, gpt2.ids, 4, &err) == -1 && strstr(err.msg, "decoder"), "%s", err.msg);
    session_free(&s);
    golden_free(&bert);
    golden_free(&gpt2);
    return PASS;
}

static const Test tests[] = {
    {"dense", dense}, {"data_tell_families_apart", data_tell_families_apart}, {"full_rank", full_rank},
    {"taken_apart", taken_apart}, {"weighted_methods", weighted_methods},
    {"what_is_refused", what_is_refused},
    {"encoders_and_decoders", encoders_and_decoders},
};

int main(int argc, char **argv) {
    const char *tmp = getenv("TMPDIR");
    snprintf(tokenizer, sizeof tokenizer, "%s/tensorllm-test-%d.bin", tmp ? tmp : "/tmp", (int)getpid());
    snprintf(made, sizeof made, "%s/tensorllm-test-%d.tbin", tmp ? tmp : "/tmp", (int)getpid());
    if (!put_tokenizer()) { printf("cannot write %s\n", tokenizer); return 1; }
    (void)rig_build;
    (void)rig_free;
    int result = run_tests("families", tests, COUNT(tests), argc, argv);
    remove(tokenizer);
    remove(made);
    return result;
}
