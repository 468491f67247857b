// The exporter without its command line: plans, factors and what is written, on small random models.
#include "../export/plan.h"
#include "rig.h"

#include <unistd.h>

static const Rig rigs[] = {
    {"llama", NULL, 48, 4, 4, 12, 80, 97, 2, 64, false, false, false, 0, T_F32, 1},    // interleaved
    {"llama", NULL, 48, 6, 2, 16, 64, 97, 2, 64, true, true, true, 0, T_F16, 2},       // biases, rope_freqs
    {"llama", "half", 36, 3, 3, 12, 64, 61, 1, 64, true, false, false, 0, T_F32, 5},   // as from a folder
    {"qwen2", NULL, 40, 4, 2, 10, 64, 61, 2, 64, true, false, false, 4, T_F32, 3},
    {"qwen3", NULL, 48, 4, 1, 24, 64, 61, 2, 64, false, true, false, 0, T_BF16, 4},
    {"gptj", NULL, 48, 4, 4, 12, 64, 61, 2, 64, false, false, false, 0, T_F32, 6},
    {"gpt2", NULL, 36, 3, 3, 12, 64, 61, 2, 64, true, true, false, 0, T_F32, 7},
    {"bert", NULL, 40, 4, 4, 10, 64, 61, 2, 64, true, true, false, 0, T_F32, 8},
};
static const Options plain = {.source = "folder/rig.gguf/", .scheme = "qkvo", .layers = "all", .method = METHOD_HOOI, .keep = 0.5,
                              .type = -1, .sweeps = 3};
static const SessionConfig session = {64, 8, T_F32, CACHE_DENSE, false};
enum { N = 23 };
static Err err;
static char path[2][256];                  // of the files written

typedef struct { Gguf g; Model m; } Written;

// Exports m to path[turn] and reads it back.
static int export_to(int turn, const Options *o, const Source *s, const Model *m, Plan *p, Written *w) {
    FileOut out = {0};
    *w = (Written){0};
    int result = plan_make(p, o, s, m, NULL, &err) || out_open(&out, path[turn], &err) ||
                 plan_write(p, &out, NULL, NULL, &err) || out_commit(&out, &err) ||
                 gguf_open(&w->g, path[turn], &err) || model_bind(&w->m, &w->g, &err) ? -1 : 0;
    out_abort(&out);
    return result;
}

static void close_written(Written *w) {
    model_free(&w->m);
    gguf_free(&w->g);
}

static Source source_of(const Gguf *g) {
    Source s = {.g = *g, .kind = "gguf"};
    memset(s.sha256, 'a', 64);
    return s;
}

static const int *some_ids(int64_t vocab) {
    static int ids[N];
    uint64_t s = 7;
    for (int i = 0; i < N; i++) ids[i] = (int)(random_u64(&s) % (uint64_t)vocab);
    return ids;
}

static double logits_differ(const Model *a, const Model *b) {
    const int *ids = some_ids(a->config.vocab);
    float *x = rig_logits(a, session, ids, N, &err), *y = rig_logits(b, session, ids, N, &err);
    double d = x && y ? rig_difference(x, y, N * a->config.vocab) : INFINITY;
    free(x);
    free(y);
    return d;
}

static bool has_key(const Gguf *g, const char *prefix) {
    for (uint64_t i = 0; i < g->n_kv; i++)
        if (g->kv[i].key.n >= strlen(prefix) && !memcmp(g->kv[i].key.s, prefix, strlen(prefix))) return true;
    return false;
}

// Every scheme at full rank, and what --rebuild and --dense make of it, against the source.
static int full_rank(void) {
    static const char *const schemes[] = {"qkvo", "qkv+o", "qk+v+o", "q+k+v+o", "kq", "o", "v+k"};
    for (int i = 0; i < COUNT(rigs); i++) {
        RigModel r;
        Plan p, q;
        Written w, back;
        CHECK(rig_build(&r, &rigs[i], NULL, &err) == 0, "%s", err.msg);
        Source s = source_of(&r.g);
        for (int k = 0; k < COUNT(schemes); k++) {
            Options o = plain, rebuild = plain;
            o.scheme = schemes[k], o.keep = 1, o.type = T_F32;
            rebuild.rebuild = true;
            CHECK(export_to(0, &o, &s, &r.m, &p, &w) == 0, "rig %d %s: %s", i, schemes[k], err.msg);
            // Rows stand as in training: pairs are halves but for gptj; learned positions have none.
            CHECK(w.m.config.tucker && w.m.config.rope_half == !rig_plain(&rigs[i]), "rig %d %s: keys", i,
                  schemes[k]);
            double d = logits_differ(&w.m, &r.m);
            CHECK(d < 1e-4, "rig %d, scheme %s: logits differ by %g", i, schemes[k], d);
            Source from = source_of(&w.g);
            CHECK(export_to(1, &rebuild, &from, &w.m, &q, &back) == 0, "rig %d %s: %s", i, schemes[k], err.msg);
            CHECK(!has_key(&back.g, "tucker."), "rig %d: a rebuilt file has tucker keys", i);
            CHECK(back.m.config.rope_half == (rig_is(&rigs[i], "qwen2") || rig_is(&rigs[i], "qwen3")),
                  "rig %d: pairs", i);
            d = logits_differ(&back.m, &r.m);
            CHECK(d < 1e-4, "rig %d, scheme %s rebuilt: logits differ by %g", i, schemes[k], d);
            close_written(&back);
            plan_free(&q);
            close_written(&w);
            plan_free(&p);
        }
        Options o = plain;
        o.dense = true;
        CHECK(export_to(0, &o, &s, &r.m, &p, &w) == 0, "rig %d dense: %s", i, err.msg);
        CHECK(!has_key(&w.g, "tucker.") && w.g.n_tensors == r.g.n_tensors, "rig %d dense", i);
        double d = logits_differ(&w.m, &r.m);
        CHECK(d < 1e-6, "rig %d dense: logits differ by %g", i, d);
        close_written(&w);
        plan_free(&p);
        rig_free(&r);
    }
    return PASS;
}

// Truncated: the errors written are those of what was written, and a rebuilt file computes the same.
static int errors_are_true(void) {
    static const struct { const char *scheme; int64_t rank[3]; int sweeps; } cases[] = {
        {"qkvo", {20, 0, 0}, 0}, {"qkvo", {20, 9, 3}, 3}, {"qk+v+o", {10, 7, 0}, 3}, {"qkv", {15, 0, 2}, 0},
    };
    for (int i = 0; i < COUNT(rigs); i++)
        for (int k = 0; k < COUNT(cases); k++) {
            RigModel r;
            Plan p, q;
            Written w, back;
            Options o = plain, rebuild = plain;
            o.scheme = cases[k].scheme, o.sweeps = cases[k].sweeps, o.type = T_F32, rebuild.rebuild = true;
            memcpy(o.rank, cases[k].rank, sizeof o.rank);
            CHECK(rig_build(&r, &rigs[i], NULL, &err) == 0, "%s", err.msg);
            Source s = source_of(&r.g);
            CHECK(export_to(0, &o, &s, &r.m, &p, &w) == 0, "rig %d case %d: %s", i, k, err.msg);
            Source from = source_of(&w.g);
            CHECK(export_to(1, &rebuild, &from, &w.m, &q, &back) == 0, "rig %d case %d: %s", i, k, err.msg);
            double d = logits_differ(&back.m, &w.m);
            CHECK(d < 1e-4, "rig %d case %d: rebuilt logits differ by %g", i, k, d);
            const GgufKv *error = gguf_kv(&w.g, "tucker.error");
            CHECK(error && error->count == (uint64_t)(4 * rigs[i].layers), "tucker.error");
            for (int64_t l = 0; l < rigs[i].layers; l++)
                for (int x = P_Q; x <= P_O; x++) {
                    const Mat *a = &r.m.layer[l].attn.w[x], *b = &back.m.layer[l].attn.w[x];
                    bool reorder = r.m.config.rope_half != back.m.config.rope_half && x <= P_K;
                    double lost = 0, whole = 0, said = gguf_item_float(error, (uint64_t)(4 * l + x));
                    float u[256], v[256];
                    for (int64_t row = 0; row < a->rows; row++) {
                        mat_row(a, reorder ? pair_row(row, rigs[i].hd, rigs[i].hd, false) : row, u);
                        mat_row(b, row, v);
                        for (int64_t c = 0; c < a->cols; c++) {
                            lost += ((double)u[c] - v[c]) * ((double)u[c] - v[c]);
                            whole += (double)u[c] * u[c];
                        }
                    }
                    CHECK(fabs(sqrt(lost / whole) - said) < 1e-3,
                          "rig %d case %d layer %d %c: tucker.error %g, measured %g", i, k, (int)l,
                          "qkvo"[x], said, sqrt(lost / whole));
                }
            close_written(&back);
            plan_free(&q);
            close_written(&w);
            plan_free(&p);
            rig_free(&r);
        }
    return PASS;
}

static int ranks_and_types(void) {
    static const Rig big = {"llama", NULL, 128, 8, 4, 16, 96, 64, 2, 32, false, false, false, 0, T_F32, 9};
    static const struct { const char *scheme; double keep; int64_t rank[3]; int type; int64_t q[3], o[3]; } cases[] = {
        // 49,152 parameters a layer; of qkvo 128 + 16 * 6 * 4 = 512 for each r_embd
        {"qkvo", 0.5, {0}, -1, {48, 16, 6}, {48, 16, 6}}, {"qkvo", 0.5, {0}, T_Q8_0, {32, 16, 6}, {32, 16, 6}},
        {"qkvo", 1, {0}, T_Q8_0, {128, 16, 6}, {128, 16, 6}}, {"qkvo", 0.01, {0}, -1, {1, 16, 6}, {1, 16, 6}},
        {"qkvo", 0.01, {0}, T_Q4_0, {32, 16, 6}, {32, 16, 6}},
        // k: 8,192 of 128 + 64 each; o: 16,384 of 128 + 128
        {"q+k", 0.5, {0}, -1, {32, 16, 2}, {0, 0, 0}}, {"o", 0.9, {0}, T_F16, {0, 0, 0}, {57, 16, 2}},
        {"qkvo", 0, {40, 8, 3}, -1, {40, 8, 3}, {40, 8, 3}}, {"q+o", 0, {500, 20, 9}, -1, {128, 16, 2}, {128, 16, 2}},
        {"qkvo", 0, {100, 2, 2}, -1, {16, 2, 2}, {16, 2, 2}},
    };
    RigModel r;
    CHECK(rig_build(&r, &big, NULL, &err) == 0, "%s", err.msg);
    Source s = source_of(&r.g);
    for (int i = 0; i < COUNT(cases); i++) {
        Plan p;
        Options o = plain;
        o.scheme = cases[i].scheme, o.keep = cases[i].keep, o.type = cases[i].type;
        memcpy(o.rank, cases[i].rank, sizeof o.rank);
        CHECK(plan_make(&p, &o, &s, &r.m, NULL, &err) == 0, "case %d: %s", i, err.msg);
        Gguf g;
        CHECK(gguf_build(p.b, "plan", &g, &err) == 0, "case %d: %s", i, err.msg);
        const GgufKv *ranks = gguf_kv(&g, "tucker.ranks");
        for (int k = 0; k < 3; k++)
            CHECK(gguf_item_int(ranks, 12 + (uint64_t)k) == cases[i].q[k] &&
                  gguf_item_int(ranks, 21 + (uint64_t)k) == cases[i].o[k], "case %d, rank %d: Q %d, O %d", i,
                  k, (int)gguf_item_int(ranks, 12 + (uint64_t)k), (int)gguf_item_int(ranks, 21 + (uint64_t)k));
        for (size_t k = 0; k < p.n_items; k++) {
            const Item *t = &p.item[k];
            bool factor = strstr(t->name, "_head.") || strstr(t->name, "_kind.") || t->n_dims == 1;
            bool whole = cases[i].type < 0 || t->cols % type_info(cases[i].type)->block == 0;
            int want = factor || cases[i].type < 0 ? T_F32 : whole ? cases[i].type : T_F16;
            CHECK(t->type == want, "case %d: %s is %s", i, t->name, type_info(t->type)->name);
        }
        gguf_free(&g);
        plan_free(&p);
    }
    rig_free(&r);
    return PASS;
}

// A quantised source: without --type its dense tensors keep their bytes, rows of Q and K in another
// order, and its factors take the type of what they replace.
static int quantised_source(void) {
    static const Rig c = {"llama", NULL, 64, 4, 2, 32, 96, 64, 2, 64, false, false, false, 0, T_Q4_0, 11};
    RigModel r;
    Plan p;
    Written w;
    Options o = plain;
    o.scheme = "vo", o.layers = "1";
    CHECK(rig_build(&r, &c, NULL, &err) == 0, "%s", err.msg);
    Source s = source_of(&r.g);
    CHECK(export_to(0, &o, &s, &r.m, &p, &w) == 0, "%s", err.msg);
    CHECK(gguf_tensor(&w.g, "blk.1.attn_tucker_vo_embd.weight")->type == T_Q4_0, "type of factors");
    const Mat *a = &r.m.layer[0].attn.w[P_Q], *b = &w.m.layer[0].attn.w[P_Q];
    size_t row;
    CHECK(b->type == T_Q4_0 && row_size(T_Q4_0, 64, &row), "type of Q");
    for (int64_t i = 0; i < a->rows; i++)
        CHECK(!memcmp((const char *)a->data + (size_t)pair_row(i, 32, 32, true) * row,
                      (const char *)b->data + (size_t)i * row, row), "row %d of Q", (int)i);
    a = &r.m.layer[0].down.w, b = &w.m.layer[0].down.w;
    CHECK(b->type == T_Q4_0 && !memcmp(a->data, b->data, mat_bytes(a)), "ffn_down");
    int64_t version = 0;
    CHECK(gguf_get_int(&w.g, "general.quantization_version", 0, 9, &version, &err) == 0 && version == 2, "key");
    close_written(&w);
    plan_free(&p);
    // Converted: the same numbers.
    o.layers = "0-1", o.dense = true, o.type = T_F32;
    CHECK(export_to(0, &o, &s, &r.m, &p, &w) == 0, "%s", err.msg);
    // The engine rounds activations for quantised weights, so only nearly.
    double d = logits_differ(&w.m, &r.m);
    CHECK(d < 0.05, "converted to f32: logits differ by %g", d);
    close_written(&w);
    plan_free(&p);
    rig_free(&r);
    return PASS;
}

static int metadata(void) {
    RigModel r;
    Plan p;
    Written w;
    Options o = plain;
    CHECK(rig_build(&r, &rigs[0], NULL, &err) == 0, "%s", err.msg);
    gguf_set_int(r.b, "general.file_type", GGUF_U32, 0);
    gguf_set_str(r.b, "tucker.left.over", "x", 1);
    gguf_set_bool(r.b, "tucker.tokenizer.ignore_merges", true);
    gguf_set_strings(r.b, "tokenizer.ggml.tokens", (Str[]){{"a", 1}, {"b", 1}}, 2);
    Gguf g;
    CHECK(gguf_build(r.b, "rig", &g, &err) == 0, "%s", err.msg);
    Source s = source_of(&g);
    o.type = T_Q8_0, o.layers = "1", o.scheme = "o+qk";
    CHECK(export_to(0, &o, &s, &r.m, &p, &w) == 0, "%s", err.msg);
    static const struct { const char *key, *value; } texts[] = {
        {"tucker.rope_pairs", "half"}, {"tucker.method", "hooi"}, {"tucker.source.name", "rig.gguf"},
        {"general.architecture", "llama"},
    };
    for (int i = 0; i < COUNT(texts); i++) {
        Str got = {0};
        CHECK(gguf_get_str(&w.g, texts[i].key, &got, &err) == 0 && str_is(got, texts[i].value), "%s is %.*s",
              texts[i].key, (int)got.n, got.s);
    }
    int64_t v = -1;
    CHECK(gguf_get_int(&w.g, "general.file_type", 0, 99, &v, &err) == 0 && v == 7, "file_type %d", (int)v);
    CHECK(gguf_get_int(&w.g, "tucker.version", 0, 9, &v, &err) == 0 && v == 1, "version %d", (int)v);
    CHECK(!gguf_kv(&w.g, "tucker.left.over") && gguf_kv(&w.g, "tucker.tokenizer.ignore_merges"), "tucker keys");
    const GgufKv *tokens = gguf_kv(&w.g, "tokenizer.ggml.tokens"), *scheme = gguf_kv(&w.g, "tucker.scheme");
    CHECK(tokens && tokens->count == 2 && str_is(tokens->strings[1], "b"), "tokens");
    CHECK(scheme && scheme->count == 2 && scheme->strings[0].n == 0 && str_is(scheme->strings[1], "qk+o"), "scheme");
    CHECK(gguf_has(&w.g, "blk.0.attn_q.weight") && !gguf_has(&w.g, "blk.1.attn_q.weight") &&
          gguf_has(&w.g, "blk.1.attn_v.weight"), "tensors");
    CHECK(plan_check(&o, &(Source){.g = w.g}, &w.m, &err) == -1 && strstr(err.msg, "--rebuild"),
          "%s", err.msg);
    o.rebuild = true;
    CHECK(plan_check(&o, &s, &r.m, &err) == -1 && strstr(err.msg, ".tbin"), "%s", err.msg);
    close_written(&w);
    plan_free(&p);
    gguf_free(&g);
    rig_free(&r);
    return PASS;
}

static int bad_requests(void) {
    static const struct { const char *scheme, *layers; } bad[] = {
        {"", "all"}, {"qq", "all"}, {"q+q", "all"}, {"q++k", "all"}, {"q+", "all"}, {"+q", "all"}, {"x", "all"},
        {"q k", "all"}, {"qkvoq", "all"}, {"qkvo", ""}, {"qkvo", "2"}, {"qkvo", "0-2"}, {"qkvo", "1-0"},
        {"qkvo", "-1"}, {"qkvo", "0,"}, {"qkvo", ",0"}, {"qkvo", "0-"}, {"qkvo", "a"}, {"qkvo", "0 1"},
        {"qkvo", "99999999999999999999"}, {"qkvo", "0--1"}, {"qkvo", "All"},
    };
    RigModel r;
    CHECK(rig_build(&r, &rigs[0], NULL, &err) == 0, "%s", err.msg);
    Source s = source_of(&r.g);
    for (int i = 0; i < COUNT(bad); i++) {
        Plan p;
        Options o = plain;
        o.scheme = bad[i].scheme, o.layers = bad[i].layers;
        CHECK(plan_make(&p, &o, &s, &r.m, NULL, &err) == -1, "scheme '%s', layers '%s' were taken", bad[i].scheme,
              bad[i].layers);
        CHECK(strstr(err.msg, strcmp(bad[i].layers, "all") ? "--layers" : "--scheme"), "%s", err.msg);
    }
    rig_free(&r);
    return PASS;
}

static int pair_order(void) {
    for (int64_t hd = 4; hd <= 64; hd += 6)
        for (int64_t dims = 2; dims <= hd; dims += 2)
            for (int64_t row = 0; row < 3 * hd; row++) {
                int64_t there = pair_row(row, hd, dims, true), back = pair_row(there, hd, dims, false);
                CHECK(back == row && there / hd == row / hd, "hd %d, dims %d, row %d", (int)hd, (int)dims, (int)row);
                int64_t a = row % hd, half = dims / 2;
                int64_t want = a >= dims ? a : a < half ? 2 * a : 2 * (a - half) + 1;
                CHECK(there % hd == want, "hd %d, dims %d, row %d: %d", (int)hd, (int)dims, (int)row, (int)there);
            }
    return PASS;
}

// Nothing is left of a file whose writing failed, and what stood there stays.
static int failed_write(void) {
    RigModel r;
    Plan p;
    CHECK(rig_build(&r, &rigs[0], NULL, &err) == 0, "%s", err.msg);
    Source s = source_of(&r.g);
    FILE *f = fopen(path[0], "w");
    CHECK(f && fputs("old", f) >= 0 && fclose(f) == 0, "cannot write %s", path[0]);
    CHECK(plan_make(&p, &plain, &s, &r.m, NULL, &err) == 0, "%s", err.msg);
    FileOut out;
    CHECK(out_open(&out, path[0], &err) == 0, "%s", err.msg);
    interrupted = 1;
    CHECK(plan_write(&p, &out, NULL, NULL, &err) == -1, "written though interrupted");
    interrupted = 0;
    out_abort(&out);
    char text[8] = "", part[300];
    f = fopen(path[0], "r");
    CHECK(f && fgets(text, sizeof text, f) && strcmp(text, "old") == 0, "what stood there: '%s'", text);
    fclose(f);
    snprintf(part, sizeof part, "%s.part", path[0]);
    CHECK(access(part, F_OK) != 0, "%s is left", part);
    plan_free(&p);
    rig_free(&r);
    return PASS;
}

static const Test tests[] = {
    {"pair order", pair_order}, {"full rank", full_rank}, {"errors are true", errors_are_true},
    {"ranks and types", ranks_and_types}, {"quantised source", quantised_source}, {"metadata", metadata},
    {"bad requests", bad_requests}, {"failed write", failed_write},
};

int main(int argc, char **argv) {
    const char *tmp = getenv("TMPDIR");
    char dir[200];
    snprintf(dir, sizeof dir, "%s/tensorllm-test-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) return 1;
    for (int i = 0; i < 2; i++) snprintf(path[i], sizeof path[i], "%s/%d.tbin", dir, i);
    int result = run_tests("export", tests, COUNT(tests), argc, argv);
    for (int i = 0; i < 2; i++) remove(path[i]);
    rmdir(dir);
    return result;
}
