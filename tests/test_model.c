// model and the second part of tucker: factored equals dense, one token equals many, and what a
// file must hold to be bound.
#include "rig.h"

static const Rig rigs[] = {
    {"llama", NULL, 48, 4, 4, 12, 80, 97, 2, 64, false, false, false, 0, T_F32, 1},     // MHA
    {"llama", NULL, 48, 6, 2, 16, 64, 97, 2, 64, false, true, true, 0, T_F32, 2},       // GQA, llama 3
    {"qwen2", NULL, 40, 4, 2, 10, 64, 61, 2, 64, true, false, false, 4, T_F32, 3},      // biases, linear
    {"qwen3", NULL, 48, 4, 1, 24, 64, 61, 2, 64, false, true, false, 0, T_F32, 4},      // MQA, q/k norm
    {"llama", "half", 36, 3, 3, 12, 64, 61, 1, 64, true, false, false, 0, T_F32, 5},    // MHA, biases
    {"gptj", NULL, 48, 4, 4, 12, 70, 61, 2, 64, false, false, false, 0, T_F32, 6},
    {"gpt2", NULL, 36, 3, 3, 12, 64, 61, 2, 64, true, true, false, 0, T_F32, 7},
    {"bert", NULL, 40, 4, 4, 10, 64, 61, 2, 64, true, true, false, 0, T_F32, 8},
};
static const char *const schemes[] = {"qkvo", "qkv+o", "qk+v+o", "q+k+v+o", "qk+o", "v", "o", "qk", "kv+o"};
static const SessionConfig plain = {64, 8, T_F32, CACHE_DENSE, false};
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
                    SessionConfig c = {64, batch, T_F32, forms[form], false};
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
    static const RigTucker ranks[] = {{.r_embd = 20}, {.r_embd = 20, .r_head = 7},
                                      {.r_embd = 30, .r_kind = 1}, {.r_head = 6, .r_kind = 2},
                                      {.r_embd = 11, .r_head = 5, .r_kind = 3},
                                      {.r_embd = 1, .r_head = 1, .r_kind = 1}};
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
                        SessionConfig c = {64, batch, T_F32, forms[form], false};
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

static const int weight_types[] = {T_F32, T_F16, T_BF16, T_Q8_0, T_Q4_0, T_Q4_1};
static const char *const pivotable[] = {"q+k+v+o", "q+k+o", "qk+v+o", "qkv+o", "qk+o", "v", "o", "kv+o"};

static float *stored(RigModel *r, const Mat *w) {
    float *out = rig_floats(r, w->rows * w->cols);
    for (int64_t i = 0; i < w->rows; i++) mat_row(w, i, out + i * w->cols);
    return out;
}

// The model with its products written out by definition: dense f32 matrices of what is stored. Of
// groups without U_head and U_kind. It borrows all from r.
static Model spelled_out(RigModel *r) {
    Model m = r->m;
    Layer *layers = r->owned[r->n++] = calloc((size_t)m.config.n_layers, sizeof *layers);
    memcpy(layers, m.layer, (size_t)m.config.n_layers * sizeof *layers);
    m.layer = layers;
    for (int64_t l = 0; l < m.config.n_layers; l++) {
        Layer *w = &layers[l];
        Attention *a = &w->attn;
        int64_t d = a->shape.d;
        for (int p = 0; p < 4; p++) {
            if (a->group_of[p] < 0) continue;
            const Group *g = &a->groups[a->group_of[p]];
            float *x = stored(r, &g->embd), *embd = rig_floats(r, g->r_embd * d), *core = stored(r, &a->w[p]);
            if (g->head.rows || g->kind.rows) { printf("a group with more factors\n"); exit(2); }
            if (g->set == HAS_O) x = rig_transposed(r, x, g->embd.rows, g->embd.cols);
            for (int64_t e = 0, k = 0, rest = 0; e < d; e++) {   // U_embd^T (r_embd, d), by columns
                bool pivot = g->pivot && k < g->r_embd && g->pivot[k] == e;
                int64_t side = g->pivot ? d - g->r_embd : d;
                for (int64_t i = 0; i < g->r_embd; i++)
                    embd[i * d + e] = pivot ? i == k : x[i * side + rest];
                if (pivot) k++; else rest++;
            }
            int64_t wide = p == P_O ? a->w[p].cols : a->w[p].rows;
            float *whole = rig_floats(r, wide * d);
            if (p == P_O) rig_product(whole, rig_transposed(r, embd, g->r_embd, d), core, d, g->r_embd, wide);
            else rig_product(whole, core, embd, wide, g->r_embd, d);
            a->w[p] = (Mat){whole, p == P_O ? d : wide, p == P_O ? wide : d, T_F32};
            a->group_of[p] = -1;
        }
        a->n_groups = 0;
        LaserMat *ffn[] = {&w->gate, &w->up, &w->down};
        for (int i = 0; i < 3; i++) {
            if (!ffn[i]->a.rows) continue;
            Mat *b = &ffn[i]->w, *in = &ffn[i]->a;
            float *whole = rig_floats(r, b->rows * in->cols);
            rig_product(whole, stored(r, b), stored(r, in), b->rows, b->cols, in->cols);
            *b = (Mat){whole, b->rows, in->cols, T_F32};
            *in = (Mat){0};
        }
    }
    return m;
}

// r.m in both forms of the cache, a token at a time and in batches, against given logits.
static int check_logits(const RigModel *r, const float *want, double limit, const char *what, int i, int j) {
    Err e = {""};
    int64_t vocab = r->m.config.vocab;
    for (int form = CACHE_DENSE; form <= CACHE_LATENT; form++)
        for (int batch = 1; batch <= 16; batch += 15) {
            float *got = rig_logits(&r->m, (SessionConfig){64, batch, T_F32, (CacheForm)form, false},
                                    some_ids(vocab), N, &e);
            CHECK(got && want, "%s", e.msg);
            double diff = rig_difference(got, want, N * vocab);
            CHECK(diff < limit, "%s %d %d, cache form %d, batch %d: %g", what, i, j, form, batch, diff);
            free(got);
        }
    return PASS;
}

// Pivoted groups, all of them or mixed with others, against the unpivoted groups of the same ranks
// and against the matrices they stand for.
static int pivoted_equals_unpivoted(void) {
    static const int ranks[] = {35, 20, 7, 1}, sets[] = {15, HAS_Q | HAS_O, HAS_V};
    for (int i = 0; i < COUNT(rigs); i++)
        for (int k = 0; k < COUNT(pivotable); k++)
            for (int j = 0; j < 6; j++) {
                RigTucker t = {.scheme = pivotable[k], .r_embd = ranks[j % COUNT(ranks)]}, p = t;
                RigModel plain_rig, pivoted;
                Err e = {""};
                int count = 0, expected = 0, set[4], n = rig_sets(p.scheme, set);
                p.pivoted = sets[j % COUNT(sets)];
                CHECK(rig_build(&plain_rig, &rigs[i], &t, &e) == 0, "%s", e.msg);
                CHECK(rig_build(&pivoted, &rigs[i], &p, &e) == 0, "rig %d %s: %s", i, p.scheme, e.msg);
                for (int g = 0; g < n; g++) {
                    expected += (set[g] & p.pivoted) != 0;
                    count += pivoted.m.layer[0].attn.groups[g].pivot != NULL;
                }
                CHECK(count == expected, "%s: %d pivoted groups", p.scheme, count);
                Model whole = spelled_out(&pivoted);
                const int *ids = some_ids(rigs[i].vocab);
                float *want = rig_logits(&plain_rig.m, plain, ids, N, &e);
                float *product = rig_logits(&whole, plain, ids, N, &e);
                if (check_logits(&pivoted, product, 1e-4, pivotable[k], i, j) == FAIL ||
                    check_logits(&pivoted, want, 1e-4, pivotable[k], i, j) == FAIL)
                    return FAIL;
                free(want);
                free(product);
                rig_free(&plain_rig);
                rig_free(&pivoted);
            }
    return PASS;
}

// Where the embedding is wide, a pivoted factor of full rank is the dense matrix.
static int pivoted_full_rank_is_dense(void) {
    static const int64_t d[] = {75, 131};
    for (int i = 0; i < COUNT(rigs) * COUNT(d); i++)
        for (int k = 0; k < COUNT(pivotable); k++) {
            RigModel dense, pivoted;
            Rig c = rigs[i % COUNT(rigs)];
            Err e = {""};
            c.d = d[i / COUNT(rigs)];
            if (c.h * c.hd >= c.d || (strstr(pivotable[k], "qk") && (c.h + 2 * c.n_kv) * c.hd >= c.d)) continue;
            if (strstr(pivotable[k], "kv") && 2 * c.n_kv * c.hd >= c.d) continue;
            CHECK(rig_build(&dense, &c, NULL, &e) == 0, "%s", e.msg);
            CHECK(rig_build(&pivoted, &c, &(RigTucker){.scheme = pivotable[k], .pivoted = 15}, &e) == 0,
                  "%s", e.msg);
            CHECK(pivoted.m.layer[0].attn.groups[0].pivot, "%s is not pivoted", pivotable[k]);
            float *want = rig_logits(&dense.m, plain, some_ids(c.vocab), N, &e);
            if (check_logits(&pivoted, want, 1e-4, pivotable[k], i, k) == FAIL) return FAIL;
            free(want);
            rig_free(&dense);
            rig_free(&pivoted);
        }
    return PASS;
}

// Factors of the feed-forward, some or all, alone and beside pivoted groups, in every type. Blocks
// of 32 want sizes of their own, and round activations to 16 bits: a dense model's logits are off by
// up to 1.5e-4 for that alone.
static int factors_of_every_type(void) {
    static const int64_t low[][3] = {{0, 0, 0}, {7, 0, 0}, {0, 1, 0}, {0, 0, 48}, {33, 21, 5}, {32, 64, 96}};
    for (int type = 0; type < COUNT(weight_types); type++)
        for (int k = 0; k < COUNT(low); k++)
            for (int scheme = k % 2; scheme < COUNT(pivotable); scheme += 2) {
                bool blocks = type_info(weight_types[type])->block > 1;
                int i = (k + scheme + type) % 4;
                Rig c = rigs[i];
                RigTucker t = {.scheme = k == 1 ? "" : pivotable[scheme], .r_embd = blocks ? 32 : 23,
                               .pivoted = 15, .laser = {low[k][0], low[k][1], low[k][2]}};
                c.type = weight_types[type];
                c.layers = 1;
                c.d = 96;
                c.f = 160;
                if (blocks) c.hd = 32;
                RigModel r;
                Err e = {""};
                CHECK(rig_build(&r, &c, &t, &e) == 0, "%s", e.msg);
                const Layer *w = &r.m.layer[0];
                CHECK(w->gate.a.rows == low[k][0] && w->up.a.rows == low[k][1] &&
                      w->down.a.rows == low[k][2], "ranks");
                for (int g = 0; g < w->attn.n_groups; g++)
                    CHECK(w->attn.groups[g].pivot && w->attn.groups[g].embd.type == c.type, "X has type %d",
                          w->attn.groups[g].embd.type);
                Model whole = spelled_out(&r);
                float *want = rig_logits(&whole, plain, some_ids(c.vocab), N, &e);
                if (check_logits(&r, want, blocks ? 5e-4 : 1e-4, "rig and type", i, type) == FAIL) return FAIL;
                free(want);
                rig_free(&r);
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
        Attention *a = &r.m.layer[0].attn;
        for (int p = P_Q; p <= P_O; p++) a->bias[p] = NULL;
        AttentionWork work;
        CHECK(attention_work(&work, a, sizeof(Layer), 1, N, 256, &e) == 0, "%s", e.msg);
        Cache cache = attention_cache(a, T_F32, N, CACHE_DENSE);
        size_t bytes = 0;
        CHECK(cache_alloc(&cache, &bytes, &e) == 0 && bytes == sizeof(float) * (size_t)(2 * N * c.n_kv * c.hd),
              "%zu bytes", bytes);
        float *x = rig_floats(&r, N * c.d), *q = rig_floats(&r, N * c.h * c.hd), *o = rig_floats(&r, N * c.h * c.hd);
        float *k = rig_floats(&r, N * c.n_kv * c.hd), *v = rig_floats(&r, N * c.n_kv * c.hd);
        float *y = rig_floats(&r, N * c.d), *want = rig_floats(&r, N * c.d);
        uint64_t s = 7;
        for (int64_t j = 0; j < N * c.d; j++) x[j] = rig_normal(&s);
        attention_qkv(a, &work, &cache, x, N, q, k, v);
        attention_store(a, &work, &cache, 0, 0, N, k, v);
        attention_mix(a, &work, &cache, q, 0, N, 0, 0, o);
        attention_out(a, &work, o, N, y);
        const float *w[4] = {a->w[0].data, a->w[1].data, a->w[2].data, a->w[3].data};
        attention_dense_twin(&a->shape, w, x, N, want);
        double diff = rig_difference(y, want, N * c.d);
        CHECK(diff < 1e-5, "rig %d: %g", i, diff);
        cache_free(&cache);
        attention_work_free(&work);
        rig_free(&r);
    }
    return PASS;
}

static int same_bits_for_any_threads(void) {
    int before = threads_get();
    for (int i = 0; i < 2; i++)
        for (int type = 0; type < 3; type++)
            for (int k = -1; k < 3; k++) {
                static const int types[] = {T_F32, T_F16, T_Q8_0};
                Rig c = rigs[i];
                c.d = 64, c.hd = 32, c.f = 96, c.type = types[type];
                RigModel r;
                Err e = {""};
                RigTucker t = {.scheme = k < 0 ? "" : schemes[k], .r_embd = 32};
                if (k == 2) t.pivoted = 15, t.laser[0] = t.laser[1] = t.laser[2] = 32;
                CHECK(rig_build(&r, &c, k < 0 ? NULL : &t, &e) == 0, "%s", e.msg);
                const int *ids = some_ids(c.vocab);
                float *first = NULL;
                for (int threads = 1; threads <= 5; threads++) {
                    threads_set(threads);
                    SessionConfig sc = {64, 8, T_F16, CACHE_DENSE, false};
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
            float *one = rig_logits(&r.m, (SessionConfig){64, 1, kv[type], CACHE_DENSE, false}, ids, N, &e);
            float *many = rig_logits(&r.m, (SessionConfig){64, 27, kv[type], CACHE_DENSE, false}, ids, N, &e);
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

// Four timelines in shared batches, in uneven steps, each against itself alone, in the same steps and token by
// token.
static int timelines_together(void) {
    static const int64_t steps[][4] = {{5, 1, 9, 0}, {1, 1, 1, 1}, {0, 12, 1, 3}, {1, 1, 1, 1}, {7, 1, 0, 20}};
    static const CacheForm forms[] = {CACHE_DENSE, CACHE_LATENT};
    for (int i = 0; i < 2 * COUNT(rigs); i++) {
        Rig c = rigs[i / 2];
        RigModel r;
        Err e = {""};
        Session s[4], alone;
        const RigTucker factors = {.scheme = "qk+vo", .r_embd = 20, .r_head = 7};
        SessionConfig config = {40, 30, T_F32, forms[i % 2], .uniform = true};
        if (strcmp(c.arch, "bert") == 0) continue;
        CHECK(rig_build(&r, &c, i % 2 ? &factors : NULL, &e) == 0, "%s", e.msg);
        CHECK(session_init(&s[0], &r.m, config, &e) == 0, "%s", e.msg);
        for (int k = 1; k < 4; k++) CHECK(session_beside(&s[k], &s[0], &e) == 0, "%s", e.msg);
        CHECK(session_init(&alone, &r.m, config, &e) == 0, "%s", e.msg);
        const int *ids = some_ids(c.vocab);
        float *got[4][COUNT(steps)] = {{NULL}};
        for (int step = 0; step < COUNT(steps); step++) {
            int batch[30];
            Strand strand[4];
            int64_t count = 0, n = 0, row = 0;
            for (int k = 0; k < 4; k++) {
                if (!steps[step][k]) continue;
                strand[count++] = (Strand){&s[k], steps[step][k]};
                for (int64_t t = 0; t < steps[step][k]; t++) batch[n++] = ids[(s[k].pos + t + 3 * k) % N];
            }
            CHECK(forward_together(strand, count, batch, &e) == 0, "%s", e.msg);
            for (int k = 0; k < 4; k++) {
                if (!steps[step][k]) continue;
                row += steps[step][k];
                got[k][step] = malloc((size_t)c.vocab * sizeof(float));
                memcpy(got[k][step], logits(&s[0], row - 1, 1), (size_t)c.vocab * sizeof(float));
            }
        }
        for (int k = 0; k < 4; k++) {
            session_rewind(&alone, 0);
            for (int step = 0; step < COUNT(steps); step++) {
                int64_t n = steps[step][k];
                int batch[30];
                if (!n) continue;
                for (int64_t t = 0; t < n; t++) batch[t] = ids[(alone.pos + t + 3 * k) % N];
                for (int singly = 0; singly < 2; singly++) {
                    const int64_t from = alone.pos, part = singly ? 1 : n;
                    for (int64_t t = 0; t < n; t += part)
                        CHECK(forward(&alone, batch + t, part, &e) == 0, "%s", e.msg);
                    CHECK(!memcmp(logits(&alone, part - 1, 1), got[k][step], (size_t)c.vocab * sizeof(float)),
                          "rig %d: timeline %d, step %d, %s", i, k, step, singly ? "singly" : "together");
                    if (!singly) session_rewind(&alone, from);
                }
                free(got[k][step]);
            }
        }
        CHECK(forward_together((Strand[]){{&s[0], 1}, {&alone, 1}}, 2, ids, &e) == -1 && strstr(e.msg, "room"),
              "two rooms: %s", e.msg);
        CHECK(forward_together((Strand[]){{&s[0], 10}, {&s[1], 21}}, 2, ids, &e) == -1, "31 in a batch of 30");
        for (int k = 3; k >= 0; k--) session_free(&s[k]);
        session_free(&alone);
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
    CHECK(session_init(&s, &r.m, (SessionConfig){65, 8, T_F32, 0, false}, &e) == -1, "context too long");
    CHECK(session_init(&s, &r.m, (SessionConfig){64, 8, T_Q8_0, 0, false}, &e) == -1, "q8 rows of 12");
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
    CHECK(c.madds == 2 * 48 * 20 + 4 * 4 * 20 * 7 + 2 * 4 * 12 * 7, "%g", c.madds);   // U_head: Q and K
    Cache forms[] = {attention_cache(a, T_F32, 1, CACHE_DENSE), attention_cache(a, T_F32, 1, CACHE_LATENT)};
    Cost dense = attention_cache_cost(a, &forms[0]), latent = attention_cache_cost(a, &forms[1]);
    CHECK(dense.bytes == 4 * (48 + 4 * 7), "%g", dense.bytes);     // U_head cancels: V is 7 wide
    CHECK(latent.bytes == 4 * (48 + 20), "%g", latent.bytes);
    Parts p = model_params(&r.m);
    CHECK(p.attention == 2 * params, "%g", p.attention);
    CHECK(p.ffn == 2 * 3 * 48 * 80 && p.embedding == 97 * 48 && p.output == 97 * 48, "parts");
    rig_free(&r);

    RigTucker t = {.scheme = "q+k+o", .r_embd = 20, .pivoted = HAS_Q | HAS_O, .laser = {9, 0, 4}};
    CHECK(rig_build(&r, &rigs[0], &t, &e) == 0, "%s", e.msg);
    a = &r.m.layer[0].attn;
    double numbers = (double)(pivoted_params(&a->shape, HAS_Q, 20) + pivoted_params(&a->shape, HAS_O, 20) +
                              group_params(&a->shape, HAS_K, 20, 12, 1) + dense_params(&a->shape, HAS_V));
    CHECK(numbers == 2 * (20 * 28 + 20 * 48) + (20 * 48 + 20 * 48) + 48 * 48, "%g", numbers);
    c = attention_cost(a);
    CHECK(c.bytes == 4 * numbers + 4 * 40 && c.madds == numbers, "%g bytes, %g madds", c.bytes, c.madds);
    p = model_params(&r.m);
    CHECK(p.attention == 2 * numbers, "%g", p.attention);
    CHECK(p.ffn == 2 * (9 * (48 + 80) + 48 * 80 + 4 * (48 + 80)), "%g", p.ffn);
    Parts bytes = model_bytes(&r.m);
    CHECK(bytes.attention == 2 * c.bytes && bytes.ffn == 4 * p.ffn, "%g, %g", bytes.attention, bytes.ffn);
    CHECK(model_step_bytes(&r.m) == bytes.attention + bytes.ffn + bytes.other + bytes.output, "a step");
    rig_free(&r);
    return PASS;
}

// r again, from the same file but for tensor `without` (NULL: all) and with what has been added.
static int bind_again(RigModel *r, const char *without, Err *e) {
    GgufBuilder *b = gguf_builder(e);
    Gguf g = {0};
    model_free(&r->m);
    gguf_free(&r->g);
    if (!b || gguf_build(r->b, "rig", &g, e)) { gguf_builder_free(b); return -2; }
    for (uint64_t i = 0; i < g.n_kv; i++) gguf_set_copy(b, &g.kv[i]);
    for (uint64_t i = 0; i < g.n_tensors; i++) {
        const GgufTensor *t = &g.tensor[i];
        char name[96];
        snprintf(name, sizeof name, "%.*s", (int)t->name.n, t->name.s);
        if (!without || strcmp(name, without)) gguf_add(b, name, t->type, t->n_dims, t->ne, t->data);
    }
    gguf_free(&g);
    gguf_builder_free(r->b);
    r->b = b;
    e->msg[0] = 0;
    return gguf_build(b, "rig", &r->g, e) ? -2 : model_bind(&r->m, &r->g, e);
}

// Pivots and factors of the feed-forward that are not as they must be.
static int bad_factors_are_refused(void) {
    const RigTucker good = {.scheme = "q+k+v+o", .r_embd = 6, .pivoted = HAS_Q | HAS_O};
    static const struct { int32_t pivot[6]; bool ok; } pivots[] = {
        {{0, 1, 2, 3, 4, 5}, true}, {{42, 43, 44, 45, 46, 47}, true}, {{0, 10, 20, 30, 40, 47}, true},
        {{0, 1, 2, 3, 5, 4}, false}, {{0, 1, 1, 3, 4, 5}, false}, {{-1, 1, 2, 3, 4, 5}, false},
        {{0, 1, 2, 3, 4, 48}, false}, {{47, 1, 2, 3, 4, 5}, false}, {{43, 44, 45, 46, 47, 48}, false},
        {{0, 1, 2, 3, 4, INT32_MAX}, false}, {{INT32_MIN, 1, 2, 3, 4, 5}, false},
        {{47, 47, 47, 47, 47, 47}, false}, {{5, 4, 3, 2, 1, 0}, false},
    };
    Err e = {""};
    RigModel r;
    const char *const names[] = {"blk.1.attn_tucker_q_pivot", "blk.0.attn_tucker_o_pivot"};
    for (int i = 0; i < 2 * COUNT(pivots); i++) {
        CHECK(rig_build(&r, &rigs[0], &good, &e) == 0, "%s", e.msg);
        memcpy((void *)gguf_tensor(&r.g, names[i % 2])->data, pivots[i / 2].pivot, sizeof pivots[0].pivot);
        int status = bind_again(&r, NULL, &e);
        CHECK(status == (pivots[i / 2].ok ? 0 : -1), "pivots %d: %d, %s", i / 2, status, e.msg);
        CHECK(pivots[i / 2].ok || (strstr(e.msg, names[i % 2]) && strstr(e.msg, "expected")), "%s", e.msg);
        rig_free(&r);
    }
    static const float zeros[64 * 80];
    static const int32_t first[48] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    #define BLK "blk.0."
    #define Q_PIVOT BLK "attn_tucker_q_pivot"
    #define Q_EMBD BLK "attn_tucker_q_embd.weight"
    #define UP_IN BLK "ffn_up_laser_in.weight"
    #define DOWN_IN BLK "ffn_down_laser_in.weight"
    static const struct {
        const char *scheme;
        int64_t r_embd, r_head, r_kind;
        const char *without, *add;                           // the tensor added: (rows, cols) of type
        int type;
        int64_t rows, cols;
        const char *says;
    } bad[] = {
        // a pivot of another length, type, shape; X as if it were not pivoted, and the other way round
        {"q+o", 6, 0, 0, Q_PIVOT, Q_PIVOT, T_I32, 0, 5, "expected (1, 6)"},
        {"q+o", 6, 0, 0, Q_PIVOT, Q_PIVOT, T_I32, 0, 7, "expected (1, 6)"},
        {"q+o", 6, 0, 0, Q_PIVOT, Q_PIVOT, T_F32, 0, 6, "expected i32"},
        {"q+o", 6, 0, 0, Q_PIVOT, Q_PIVOT, T_I32, 2, 3, "expected (1, 6)"},
        {"q+o", 6, 0, 0, BLK "attn_tucker_o_pivot", NULL, 0, 0, 0, "is (42, 6), expected (48, 6)"},
        {"q+o", 6, 0, 0, Q_PIVOT, NULL, 0, 0, 0, "is (6, 42), expected (6, 48)"},
        {"q+o", 6, 0, 0, Q_EMBD, NULL, 0, 0, 0, "q_embd.weight is missing"},
        {"k+o", 6, 0, 0, "", BLK "attn_tucker_k_pivot", T_I32, 0, 6, "is (6, 48), expected (6, 42)"},
        {"q+o", 6, 0, 0, Q_EMBD, Q_EMBD, T_I32, 6, 42, "i32, which is no type of a weight"},
        // groups that cannot be pivoted; a projection that is in none
        {"qkvo", 6, 0, 0, "", BLK "attn_tucker_qkvo_pivot", T_I32, 0, 6, "cannot be pivoted"},
        {"q+vo", 6, 0, 0, "", BLK "attn_tucker_vo_pivot", T_I32, 0, 6, "cannot be pivoted"},
        {"k", 6, 5, 0, "", BLK "attn_tucker_k_pivot", T_I32, 0, 6, "cannot be pivoted"},
        {"kv", 6, 0, 1, "", BLK "attn_tucker_kv_pivot", T_I32, 0, 6, "cannot be pivoted"},
        {"k", 48, 0, 0, "", BLK "attn_tucker_k_pivot", T_I32, 0, 48, "cannot be pivoted"},
        {"q+o", 6, 0, 0, "", BLK "attn_tucker_v_pivot", T_I32, 0, 6, "no place"},
        // the feed-forward: dense beside factors, one factor, ranks and shapes
        {"q+o", 6, 0, 0, "", BLK "ffn_up.weight", T_F32, 80, 48, "beside the matrix itself"},
        {"q+o", 6, 0, 0, UP_IN, BLK "ffn_up.weight", T_F32, 80, 48, "beside the matrix itself"},
        {"q+o", 6, 0, 0, BLK "ffn_gate_laser_in.weight", NULL, 0, 0, 0, "gate_laser_in.weight is missing"},
        {"q+o", 6, 0, 0, BLK "ffn_down_laser_out.weight", NULL, 0, 0, 0, "down_laser_out.weight is missing"},
        {"q+o", 6, 0, 0, DOWN_IN, DOWN_IN, T_F32, 49, 80, "rank 49"},
        {"q+o", 6, 0, 0, DOWN_IN, DOWN_IN, T_F32, 4, 80, "expected (48, 4)"},
        {"q+o", 6, 0, 0, UP_IN, UP_IN, T_F32, 5, 47, "(5, 47), expected (any, 48)"},
        {"q+o", 6, 0, 0, UP_IN, UP_IN, T_I32, 5, 48, "i32, which is no type of a weight"},
    };
    for (int i = 0; i < COUNT(bad); i++) {
        RigTucker t = {.scheme = bad[i].scheme, .r_embd = bad[i].r_embd, .r_head = bad[i].r_head,
                       .r_kind = bad[i].r_kind, .pivoted = HAS_Q | HAS_O, .laser = {5, 5, 5}};
        CHECK(rig_build(&r, &rigs[0], &t, &e) == 0, "%s", e.msg);
        int status = bind_again(&r, bad[i].without, &e);
        CHECK(status == (*bad[i].without ? -1 : 0), "%d: %s", i, e.msg);
        if (bad[i].add) {
            int64_t ne[4] = {bad[i].cols, bad[i].rows ? bad[i].rows : 1, 1, 1};
            gguf_add(r.b, bad[i].add, bad[i].type, bad[i].rows ? 2 : 1, ne,
                     bad[i].type == T_I32 && !bad[i].rows ? (const void *)first : zeros);
            status = bind_again(&r, NULL, &e);
        }
        CHECK(status == -1 && strstr(e.msg, bad[i].says), "%d: %d \"%s\"", i, status, e.msg);
        rig_free(&r);
    }
    CHECK(rig_build(&r, &rigs[0], &(RigTucker){.scheme = "", .laser = {5, 0, 0}}, &e) == 0, "%s", e.msg);
    gguf_unset(r.b, "tucker.version");
    CHECK(bind_again(&r, NULL, &e) == -1 && strstr(e.msg, "no tucker.version"), "%s", e.msg);
    rig_free(&r);
    return PASS;
}

// A factor alone means linear scaling, by today's name and by that of the oldest files; none means 1.
static int rope_factors(void) {
    static const struct { const char *key, *type; float scale; } cases[] = {
        {"llama.rope.scaling.factor", NULL, 4}, {"llama.rope.scale_linear", NULL, 4},
        {"llama.rope.scaling.factor", "linear", 4}, {"llama.rope.scaling.factor", "none", 1}, {NULL, NULL, 1}};
    for (int i = 0; i < COUNT(cases); i++) {
        Err e = {""};
        RigModel r;
        CHECK(rig_build(&r, &rigs[0], NULL, &e) == 0, "%s", e.msg);
        if (cases[i].key) gguf_set_float(r.b, cases[i].key, 4);
        if (cases[i].type) gguf_set_str(r.b, "llama.rope.scaling.type", cases[i].type, strlen(cases[i].type));
        CHECK(bind_again(&r, "", &e) == 0 && r.m.config.rope_scale == cases[i].scale, "%d: %g %s", i,
              (double)r.m.config.rope_scale, e.msg);
        rig_free(&r);
    }
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

// What the other families must have and may not have.
static int bad_families_are_refused(void) {
    enum { GPTJ = 5, GPT2, BERT };                                // in rigs
    static const float zeros[64 * 80];
    static const struct {
        int rig;
        const char *without, *add;                           // the tensor added: (rows, cols)
        int64_t rows, cols;
        const char *says;
    } bad[] = {
        {GPT2, "blk.0.attn_norm.bias", NULL, 0, 0, "blk.0.attn_norm.bias is missing"},
        {GPT2, "blk.1.ffn_norm.bias", "blk.1.ffn_norm.bias", 0, 35, "(1, 35), expected (1, 36)"},
        {GPT2, "blk.0.attn_q.bias", NULL, 0, 0, "attn_q.bias is missing"},
        {GPT2, "blk.0.attn_output.bias", NULL, 0, 0, "attn_output.bias is missing"},
        {GPT2, "blk.1.ffn_up.bias", NULL, 0, 0, "ffn_up.bias is missing"},
        {GPT2, "blk.1.ffn_down.bias", "blk.1.ffn_down.bias", 0, 37, "expected (1, 36)"},
        {GPT2, "position_embd.weight", NULL, 0, 0, "position_embd.weight is missing"},
        {GPT2, "position_embd.weight", "position_embd.weight", 63, 36, "is (63, 36), expected (64, 36)"},
        {GPT2, "output_norm.bias", NULL, 0, 0, "output_norm.bias is missing"},
        {GPT2, "", "blk.0.ffn_gate.weight", 64, 36, "no place"},
        {GPT2, "", "token_types.weight", 2, 36, "no place"},
        {GPT2, "", "rope_freqs.weight", 0, 6, "no place"},
        {GPT2, "", "blk.0.attn_qkv.weight", 108, 36, "attn_qkv.bias is missing"},
        {GPT2, "blk.0.attn_q.weight", "blk.0.attn_qkv.weight", 107, 36, "is (107, 36), expected (108, 36)"},
        {GPTJ, "", "blk.0.ffn_norm.weight", 0, 48, "no place"},
        {GPTJ, "", "position_embd.weight", 64, 48, "no place"},
        {GPTJ, "output.bias", "output.bias", 0, 60, "expected (1, 61)"},
        {GPTJ, "blk.0.ffn_up.bias", NULL, 0, 0, "ffn_up.bias is missing"},
        {BERT, "token_embd_norm.weight", NULL, 0, 0, "token_embd_norm.weight is missing"},
        {BERT, "token_types.weight", "token_types.weight", 2, 39, "is (2, 39), expected (any, 40)"},
        {BERT, "blk.0.attn_output_norm.bias", NULL, 0, 0, "attn_output_norm.bias is missing"},
        {BERT, "blk.1.layer_output_norm.weight", NULL, 0, 0, "layer_output_norm.weight is missing"},
        {BERT, "mlm_dense.weight", NULL, 0, 0, "no place"},
        {BERT, "mlm_norm.bias", NULL, 0, 0, "mlm_norm.bias"},
        {BERT, "mlm_output.bias", "mlm_output.bias", 0, 60, "expected (1, 61)"},
        {BERT, "mlm_dense.weight", "mlm_dense.weight", 40, 41, "expected (40, 40)"},
        {BERT, "", "blk.0.attn_norm.weight", 0, 40, "no place"},
    };
    Err e = {""};
    RigModel r;
    for (int i = 0; i < COUNT(bad); i++) {
        CHECK(rig_build(&r, &rigs[bad[i].rig], NULL, &e) == 0, "%s", e.msg);
        int status = bind_again(&r, bad[i].without, &e);
        if (bad[i].add) {
            gguf_add(r.b, bad[i].add, T_F32, bad[i].rows ? 2 : 1,
                     (int64_t[4]){bad[i].cols, bad[i].rows ? bad[i].rows : 1, 1, 1}, zeros);
            status = bind_again(&r, NULL, &e);
        }
        CHECK(status == -1 && strstr(e.msg, bad[i].says), "%d: %d \"%s\"", i, status, e.msg);
        rig_free(&r);
    }
    static const struct { int rig; const char *key; int64_t value; const char *says; } keys[] = {
        {GPTJ, "gptj.rope.dimension_count", 7, "even"},
        {GPTJ, "gptj.rope.dimension_count", 14, "dimension_count"},
        {GPTJ, "gptj.attention.head_count", 5, "divide"}, {GPT2, "gpt2.context_length", 65, "position_embd"},
        {GPT2, "gpt2.feed_forward_length", 63, "63"}, {BERT, "bert.embedding_length", 41, "41"},
    };
    for (int i = 0; i < COUNT(keys); i++) {
        CHECK(rig_build(&r, &rigs[keys[i].rig], NULL, &e) == 0, "%s", e.msg);
        gguf_set_int(r.b, keys[i].key, GGUF_U32, keys[i].value);
        int status = bind_again(&r, NULL, &e);
        CHECK(status == -1 && strstr(e.msg, keys[i].says), "%s: %d \"%s\"", keys[i].key, status, e.msg);
        rig_free(&r);
    }
    // 40 does not divide over 3 heads; no epsilon; causal; an unknown activation
    for (int i = 0; i < 4; i++) {
        static const char *const says[] = {"divide", "layer_norm_epsilon is missing", "causal", "\"swish\""};
        CHECK(rig_build(&r, &rigs[BERT], NULL, &e) == 0, "%s", e.msg);
        if (i == 0) {
            gguf_unset(r.b, "bert.attention.key_length");
            gguf_set_int(r.b, "bert.attention.head_count", GGUF_U32, 3);
            gguf_set_int(r.b, "bert.attention.head_count_kv", GGUF_U32, 3);
        }
        if (i == 1) gguf_unset(r.b, "bert.attention.layer_norm_epsilon");
        if (i == 2) gguf_set_bool(r.b, "bert.attention.causal", true);
        if (i == 3) gguf_set_str(r.b, "tucker.activation", "swish", 5);
        CHECK(bind_again(&r, NULL, &e) == -1 && strstr(e.msg, says[i]), "%d: \"%s\"", i, e.msg);
        rig_free(&r);
    }
    CHECK(rig_build(&r, &rigs[0], NULL, &e) == 0, "%s", e.msg);
    gguf_set_str(r.b, "tucker.activation", "gelu", 4);
    CHECK(bind_again(&r, NULL, &e) == -1 && strstr(e.msg, "gated"), "%s", e.msg);
    rig_free(&r);

    static const char *const acts[] = {"silu", "gelu", "gelu_tanh"};
    for (int a = 0; a < COUNT(acts); a++) {
        CHECK(rig_build(&r, &rigs[BERT], NULL, &e) == 0 && r.m.config.act == ACT_GELU, "%s", e.msg);
        gguf_set_str(r.b, "tucker.activation", acts[a], strlen(acts[a]));
        CHECK(bind_again(&r, NULL, &e) == 0 && (int)r.m.config.act == a, "%s: %s", acts[a], e.msg);
        rig_free(&r);
    }

    // Without its head an encoder is one for hidden states.
    static const char *const head[] = {"mlm_dense.weight", "mlm_dense.bias", "mlm_norm.weight",
                                       "mlm_norm.bias", "mlm_output.bias"};
    CHECK(rig_build(&r, &rigs[BERT], NULL, &e) == 0 && model_predicts(&r.m), "%s", e.msg);
    for (int i = 0, last = COUNT(head) - 1; i <= last; i++)
        CHECK(bind_again(&r, head[i], &e) == (i == last ? 0 : -1), "%d: %s", i, e.msg);
    Session s;
    CHECK(!model_predicts(&r.m) && model_params(&r.m).output == 0, "it has a head still");
    CHECK(session_init(&s, &r.m, plain, &e) == 0 && encode(&s, some_ids(61), N, &e) == 0, "%s", e.msg);
    session_free(&s);
    rig_free(&r);
    return PASS;
}

static const Test tests[] = {
    {"attention_equals_its_twin", attention_equals_its_twin},
    {"full_rank_is_dense", full_rank_is_dense},
    {"factors_equal_their_product", factors_equal_their_product},
    {"pivoted_equals_unpivoted", pivoted_equals_unpivoted},
    {"pivoted_full_rank_is_dense", pivoted_full_rank_is_dense},
    {"factors_of_every_type", factors_of_every_type},
    {"same_bits_for_any_threads", same_bits_for_any_threads},
    {"batch_equals_single", batch_equals_single},
    {"timelines in one batch, and alone", timelines_together},
    {"timelines_together", timelines_together},
    {"rewinding_repeats", rewinding_repeats},
    {"window_forgets", window_forgets},
    {"costs_count", costs_count},
    {"rope_factors", rope_factors}, {"bad_models_are_refused", bad_models_are_refused},
    {"bad_factors_are_refused", bad_factors_are_refused},
    {"bad_families_are_refused", bad_families_are_refused},
};

int main(int argc, char **argv) { return run_tests("model", tests, COUNT(tests), argc, argv); }
