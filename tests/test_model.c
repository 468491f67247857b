// model and the second part of tucker: factored equals dense, one token equals many, and what a
// file must hold to be bound.
#include "rig.h"

static const Rig rigs[] = {
    {"llama", NULL, 48, 4, 4, 12, 80, 97, 2, 64, false, false, false, 0, T_F32, 1},     // MHA
    {"llama", NULL, 48, 6, 2, 16, 64, 97, 2, 64, false, true, true, 0, T_F32, 2},       // GQA, llama 3
    {"qwen2", NULL, 40, 4, 2, 10, 64, 61, 2, 64, true, false, false, 4, T_F32, 3},      // biases, linear
    {"qwen3", NULL, 48, 4, 1, 24, 64, 61, 2, 64, false, true, false, 0, T_F32, 4},      // MQA, q/k norm
    {"llama", "half", 36, 3, 3, 12, 64, 61, 1, 64, true, false, false, 0, T_F32, 5},    // MHA, biases
};
static const char *const schemes[] = {"qkvo", "qkv+o", "qk+v+o", "q+k+v+o", "qk+o", "v", "o", "qk", "kv+o"};
static const SessionConfig plain = {64, 8, T_F32, CACHE_DENSE};
enum { N = 27 };

static const int *some_ids(int64_t vocab) {
    static int ids[N];
    uint64_t s = 99;
    for (int i = 0; i < N; i++) ids[i] = (int)(random_u64(&s) % (uint64_t)vocab);
    return ids;
}

// Every scheme at full rank against dense, in every form of the cache.
static int full_rank_is_dense(void) {
    static const CacheForm forms[] = {CACHE_DENSE, CACHE_LATENT, CACHE_AUTO};
    for (int i = 0; i < COUNT(rigs); i++) {
        RigModel dense, tucker;
        Err e = {""};
        CHECK(rig_build(&dense, &rigs[i], NULL, &e) == 0, "rig %d: %s", i, e.msg);
        int64_t vocab = rigs[i].vocab;
        const int *ids = some_ids(vocab);
        float *want = rig_logits(&dense.m, plain, ids, N, &e);
        CHECK(want, "%s", e.msg);
        for (int k = 0; k < COUNT(schemes); k++) {
            CHECK(rig_build(&tucker, &rigs[i], &(RigTucker){.scheme = schemes[k]}, &e) == 0,
                  "rig %d %s: %s", i, schemes[k], e.msg);
            CHECK(tucker.m.config.tucker, "rig %d", i);
            for (int form = 0; form < COUNT(forms); form++)
                for (int batch = 1; batch <= 16; batch += 15) {
                    SessionConfig c = {64, batch, T_F32, forms[form]};
                    float *got = rig_logits(&tucker.m, c, ids, N, &e);
                    CHECK(got, "%s", e.msg);
                    double diff = rig_difference(got, want, N * vocab);
                    CHECK(diff < 1e-4, "rig %d, scheme %s, cache form %d, batch %d: %g", i, schemes[k],
                          form, batch, diff);
                    for (int t = 0; t < N; t++)
                        CHECK(argmax(got + t * vocab, vocab) == argmax(want + t * vocab, vocab),
                              "rig %d, scheme %s: greedy differs at %d", i, schemes[k], t);
                    free(got);
                }
            rig_free(&tucker);
        }
        free(want);
        rig_free(&dense);
    }
    return PASS;
}

// Truncated ranks, r_head < hd and r_kind < kinds: running on the factors equals running the
// matrices that they multiply back to.
static int factors_equal_their_product(void) {
    static const RigTucker ranks[] = {{NULL, 20, 0, 0, 0}, {NULL, 20, 7, 0, 0}, {NULL, 30, 0, 1, 0},
                                      {NULL, 0, 6, 2, 0}, {NULL, 11, 5, 3, 0}, {NULL, 1, 1, 1, 0}};
    static const CacheForm forms[] = {CACHE_DENSE, CACHE_LATENT};
    for (int i = 0; i < COUNT(rigs); i++)
        for (int k = 0; k < COUNT(schemes); k++)
            for (int j = 0; j < COUNT(ranks); j++) {
                RigTucker t = ranks[j], back = ranks[j];
                RigModel tucker, rebuilt;
                Err e = {""};
                t.scheme = back.scheme = schemes[k];
                back.rebuilt = true;
                CHECK(rig_build(&tucker, &rigs[i], &t, &e) == 0, "%s: %s", schemes[k], e.msg);
                CHECK(rig_build(&rebuilt, &rigs[i], &back, &e) == 0, "%s", e.msg);
                const int *ids = some_ids(rigs[i].vocab);
                float *want = rig_logits(&rebuilt.m, plain, ids, N, &e);
                for (int form = 0; form < 2; form++)
                    for (int batch = 1; batch <= 16; batch += 15) {
                        SessionConfig c = {64, batch, T_F32, forms[form]};
                        float *got = rig_logits(&tucker.m, c, ids, N, &e);
                        CHECK(got && want, "%s", e.msg);
                        double diff = rig_difference(got, want, N * rigs[i].vocab);
                        CHECK(diff < 1e-4, "rig %d, scheme %s, ranks %d, form %d, batch %d: %g", i,
                              schemes[k], j, form, batch, diff);
                        free(got);
                    }
                free(want);
                rig_free(&tucker);
                rig_free(&rebuilt);
            }
    return PASS;
}

// The attention sublayer against its definition in loops, without positions.
static int attention_equals_its_twin(void) {
    for (int i = 0; i < COUNT(rigs); i++) {
        RigModel r;
        Err e = {""};
        Rig c = rigs[i];
        c.biases = false;
        CHECK(rig_build(&r, &c, NULL, &e) == 0, "%s", e.msg);
        const Attention *a = &r.m.layer[0].attn;
        AttentionWork work;
        CHECK(attention_work(&work, a, sizeof(Layer), 1, N, 256, &e) == 0, "%s", e.msg);
        Cache cache = {.type = T_F32, .capacity = N, .n_kv = c.n_kv, .k_width = c.hd, .v_width = c.hd};
        size_t k_bytes, v_bytes;
        CHECK(cache_size(&cache, &k_bytes, &v_bytes), "size");
        cache.k = alloc(k_bytes, 1, "k", &e);
        cache.v = alloc(v_bytes, 1, "v", &e);
        float *x = rig_floats(&r, N * c.d), *q = rig_floats(&r, N * c.h * c.hd), *o = rig_floats(&r, N * c.h * c.hd);
        float *k = rig_floats(&r, N * c.n_kv * c.hd), *v = rig_floats(&r, N * c.n_kv * c.hd);
        float *y = rig_floats(&r, N * c.d), *want = rig_floats(&r, N * c.d);
        uint64_t s = 7;
        for (int64_t j = 0; j < N * c.d; j++) x[j] = rig_normal(&s);
        attention_qkv(a, &work, false, x, N, q, k, v);
        cache_store(&cache, 0, N, k, v);
        attention_mix(a, &work, &cache, q, N, 0, 0, o);
        attention_out(a, &work, o, N, y);
        const float *w[4] = {a->w[0].data, a->w[1].data, a->w[2].data, a->w[3].data};
        attention_dense_twin(&a->shape, w, x, N, want);
        double diff = rig_difference(y, want, N * c.d);
        CHECK(diff < 1e-5, "rig %d: %g", i, diff);
        free(cache.k);
        free(cache.v);
        attention_work_free(&work);
        rig_free(&r);
    }
    return PASS;
}

static int same_bits_for_any_threads(void) {
    int before = threads_get();
    for (int i = 0; i < 2; i++)
        for (int type = 0; type < 3; type++)
            for (int k = -1; k < 2; k++) {
                static const int types[] = {T_F32, T_F16, T_Q8_0};
                Rig c = rigs[i];
                c.d = 64, c.hd = 32, c.f = 96, c.type = types[type];
                RigModel r;
                Err e = {""};
                RigTucker t = {.scheme = k < 0 ? "" : schemes[k], .r_embd = 32};
                CHECK(rig_build(&r, &c, k < 0 ? NULL : &t, &e) == 0, "%s", e.msg);
                const int *ids = some_ids(c.vocab);
                float *first = NULL;
                for (int threads = 1; threads <= 5; threads++) {
                    threads_set(threads);
                    SessionConfig sc = {64, 8, T_F16, CACHE_DENSE};
                    float *got = rig_logits(&r.m, sc, ids, N, &e);
                    CHECK(got, "%s", e.msg);
                    if (first) CHECK(memcmp(first, got, sizeof(float) * (size_t)(N * c.vocab)) == 0,
                                     "rig %d type %d scheme %d: %d threads differ by %g", i, type, k,
                                     threads, rig_difference(got, first, N * c.vocab));
                    if (first) free(got); else first = got;
                }
                free(first);
                rig_free(&r);
            }
    threads_set(before);
    return PASS;
}

// A batch against one token at a time: equal up to rounding, in every type of cache.
static int batch_equals_single(void) {
    static const int kv[] = {T_F32, T_F16, T_Q8_0};
    for (int i = 0; i < COUNT(rigs); i++)
        for (int type = 0; type < COUNT(kv); type++) {
            Rig c = rigs[i];
            if (kv[type] == T_Q8_0) c.hd = 32;
            RigModel r;
            Err e = {""};
            CHECK(rig_build(&r, &c, NULL, &e) == 0, "%s", e.msg);
            const int *ids = some_ids(c.vocab);
            float *one = rig_logits(&r.m, (SessionConfig){64, 1, kv[type], CACHE_DENSE}, ids, N, &e);
            float *many = rig_logits(&r.m, (SessionConfig){64, 27, kv[type], CACHE_DENSE}, ids, N, &e);
            float *exact = rig_logits(&r.m, plain, ids, N, &e);
            CHECK(one && many && exact, "%s", e.msg);
            double diff = rig_difference(one, many, N * c.vocab), off = rig_difference(one, exact, N * c.vocab);
            CHECK(diff < (kv[type] == T_Q8_0 ? 0.02 : 2e-3), "rig %d cache %d: %g", i, kv[type], diff);
            CHECK(off < (kv[type] == T_Q8_0 ? 0.1 : kv[type] == T_F16 ? 5e-3 : 1e-5),
                  "rig %d cache %d from f32: %g", i, kv[type], off);
            free(one);
            free(many);
            free(exact);
            rig_free(&r);
        }
    return PASS;
}

static int rewinding_repeats(void) {
    RigModel r;
    Err e = {""};
    Session s;
    CHECK(rig_build(&r, &rigs[0], NULL, &e) == 0, "%s", e.msg);
    CHECK(session_init(&s, &r.m, plain, &e) == 0, "%s", e.msg);
    const int *ids = some_ids(97);
    float first[97];
    CHECK(prefill(&s, ids, N, &e) == 0, "%s", e.msg);
    memcpy(first, logits(&s, s.n - 1, 1), sizeof first);
    session_rewind(&s, 5);
    CHECK(prefill(&s, ids + 5, N - 5, &e) == 0 && s.pos == N, "%s", e.msg);
    double diff = rig_difference(logits(&s, s.n - 1, 1), first, 97);
    CHECK(diff < 1e-5, "%g", diff);
    CHECK(forward(&s, ids, 38, &e) == -1, "a batch beyond its size must fail");
    CHECK(forward(&s, (int[]){97}, 1, &e) == -1 && strstr(e.msg, "97"), "id: %s", e.msg);
    CHECK(forward(&s, (int[]){-1}, 1, &e) == -1, "negative id");
    while (s.pos < 64) CHECK(forward(&s, ids, 1, &e) == 0, "%s", e.msg);
    CHECK(forward(&s, ids, 1, &e) == -1, "beyond the context");
    session_free(&s);
    CHECK(session_init(&s, &r.m, (SessionConfig){65, 8, T_F32, 0}, &e) == -1, "context too long");
    CHECK(session_init(&s, &r.m, (SessionConfig){64, 8, T_Q8_0, 0}, &e) == -1, "q8 rows of 12");
    rig_free(&r);
    return PASS;
}

// A window of w positions: the logits of the last token depend on nothing before it.
static int window_forgets(void) {
    RigModel r;
    Err e = {""};
    Rig c = rigs[0];
    c.layers = 1;
    CHECK(rig_build(&r, &c, NULL, &e) == 0, "%s", e.msg);
    r.m.config.window = 6;
    int a[N], b[N];
    memcpy(a, some_ids(97), sizeof a);
    memcpy(b, a, sizeof b);
    b[N - 7] = (b[N - 7] + 1) % 97;                          // just outside
    float *x = rig_logits(&r.m, plain, a, N, &e), *y = rig_logits(&r.m, plain, b, N, &e);
    b[N - 7] = a[N - 7];
    b[N - 6] = (b[N - 6] + 1) % 97;                          // just inside
    float *z = rig_logits(&r.m, plain, b, N, &e);
    double outside = rig_difference(x + (N - 1) * 97, y + (N - 1) * 97, 97);
    double inside = rig_difference(x + (N - 1) * 97, z + (N - 1) * 97, 97);
    CHECK(outside == 0 && inside > 1e-3, "outside %g, inside %g", outside, inside);
    free(x);
    free(y);
    free(z);
    rig_free(&r);
    return PASS;
}

// What is stored and what the cost formulas say agree.
static int costs_count(void) {
    RigModel r;
    Err e = {""};
    CHECK(rig_build(&r, &rigs[0], &(RigTucker){.scheme = "qkvo", .r_embd = 20, .r_head = 7}, &e) == 0,
          "%s", e.msg);
    const Attention *a = &r.m.layer[0].attn;
    Cost c = attention_cost(a);
    double params = (double)group_params(&a->shape, 15, 20, 7, 4);
    CHECK(c.bytes == 4 * params, "%g bytes, %g parameters", c.bytes, params);
    CHECK(c.madds == 2 * 48 * 20 + 4 * 4 * 20 * 7 + 4 * 4 * 12 * 7, "%g", c.madds);
    Cost dense = attention_cache_cost(a, T_F32, false), latent = attention_cache_cost(a, T_F32, true);
    CHECK(dense.bytes == 4 * (48 + 4 * 7), "%g", dense.bytes);     // U_head cancels: V is 7 wide
    CHECK(latent.bytes == 4 * (48 + 20), "%g", latent.bytes);
    Parts p = model_params(&r.m);
    CHECK(p.attention == 2 * params, "%g", p.attention);
    CHECK(p.ffn == 2 * 3 * 48 * 80 && p.embedding == 97 * 48 && p.output == 97 * 48, "parts");
    rig_free(&r);
    return PASS;
}

// Bad models are refused, and the message names what is wrong.
static int bad_models_are_refused(void) {
    Err e = {""};
    RigModel r;
    Rig c = rigs[0];
    static const struct { const char *key; int64_t value; const char *says; } bad[] = {
        {"llama.attention.head_count", 5, "5"}, {"llama.attention.head_count", 0, "head_count"},
        {"llama.attention.head_count_kv", 3, "3"}, {"llama.block_count", 3, "blk.2"},
        {"llama.block_count", 1, "no place"}, {"llama.block_count", 0x7fffffff, "block_count"},
        {"llama.embedding_length", 49, "49"}, {"llama.feed_forward_length", 81, "81"},
        {"llama.rope.dimension_count", 13, "rope.dimension_count"}, {"llama.rope.dimension_count", 7, "even"},
        {"llama.expert_count", 8, "experts"}, {"tucker.version", 2, "tucker.version"},
        {"tucker.version", 1, "tucker.scheme"}, {"tucker.version", 0, "tucker.version"}, {"llama.attention.value_length", 8, "values"},
    };
    for (int i = 0; i < COUNT(bad); i++) {
        CHECK(rig_build(&r, &c, NULL, &e) == 0, "%s", e.msg);
        gguf_set_int(r.b, bad[i].key, GGUF_U32, bad[i].value);
        model_free(&r.m);
        gguf_free(&r.g);
        CHECK(gguf_build(r.b, "rig", &r.g, &e) == 0, "%s", e.msg);
        e.msg[0] = 0;
        CHECK(model_bind(&r.m, &r.g, &e) == -1 && strstr(e.msg, bad[i].says), "%s = %lld: \"%s\"",
              bad[i].key, (long long)bad[i].value, e.msg);
        rig_free(&r);
    }
    static const struct { const char *key, *value, *says; } words[] = {
        {"general.architecture", "falcon", "falcon"}, {"llama.rope.scaling.type", "yarn", "yarn"},
        {"tucker.rope_pairs", "both", "half"},
    };
    for (int i = 0; i < COUNT(words); i++) {
        CHECK(rig_build(&r, &c, NULL, &e) == 0, "%s", e.msg);
        gguf_set_str(r.b, words[i].key, words[i].value, strlen(words[i].value));
        model_free(&r.m);
        gguf_free(&r.g);
        CHECK(gguf_build(r.b, "rig", &r.g, &e) == 0, "%s", e.msg);
        CHECK(model_bind(&r.m, &r.g, &e) == -1 && strstr(e.msg, words[i].says), "%s: \"%s\"",
              words[i].key, e.msg);
        rig_free(&r);
    }
    for (int i = 0; i < 24; i += 5) {                        // one letter's rank differs from the rest
        CHECK(rig_build(&r, &c, &(RigTucker){.scheme = "qkvo"}, &e) == 0, "%s", e.msg);
        int32_t ranks[24];
        const GgufKv *kv = gguf_kv(&r.g, "tucker.ranks");
        for (int j = 0; j < 24; j++) ranks[j] = (int32_t)gguf_item_int(kv, (uint64_t)j) - (j == i);
        gguf_set_array(r.b, "tucker.ranks", GGUF_I32, ranks, 24);
        model_free(&r.m);
        gguf_free(&r.g);
        CHECK(gguf_build(r.b, "rig", &r.g, &e) == 0, "%s", e.msg);
        CHECK(model_bind(&r.m, &r.g, &e) == -1 && strstr(e.msg, "ranks"), "rank %d: %s", i, e.msg);
        rig_free(&r);
    }
    static const char *const bad_schemes[] = {"x", "q+q", "kq", "q+", "+q", "qkvo+o", "o+q+o"};
    for (int i = 0; i < COUNT(bad_schemes); i++) {
        CHECK(rig_build(&r, &c, &(RigTucker){.scheme = "qkvo"}, &e) == 0, "%s", e.msg);
        Str s[2] = {{bad_schemes[i], strlen(bad_schemes[i])}, {"qkvo", 4}};
        gguf_set_strings(r.b, "tucker.scheme", s, 2);
        model_free(&r.m);
        gguf_free(&r.g);
        CHECK(gguf_build(r.b, "rig", &r.g, &e) == 0, "%s", e.msg);
        CHECK(model_bind(&r.m, &r.g, &e) == -1 && strstr(e.msg, "scheme"), "\"%s\": %s", bad_schemes[i],
              e.msg);
        rig_free(&r);
    }
    return PASS;
}

static const Test tests[] = {
    {"attention_equals_its_twin", attention_equals_its_twin},
    {"full_rank_is_dense", full_rank_is_dense},
    {"factors_equal_their_product", factors_equal_their_product},
    {"same_bits_for_any_threads", same_bits_for_any_threads},
    {"batch_equals_single", batch_equals_single},
    {"rewinding_repeats", rewinding_repeats},
    {"window_forgets", window_forgets},
    {"costs_count", costs_count},
    {"bad_models_are_refused", bad_models_are_refused},
};

int main(int argc, char **argv) { return run_tests("model", tests, COUNT(tests), argc, argv); }
