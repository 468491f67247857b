// A small random model, made in memory: dense, and the same with its attention on Tucker factors.
#ifndef RIG_H
#define RIG_H

#include "../core/sampler.h"
#include "../model.h"
#include "test.h"

typedef struct {
    const char *arch, *pairs;             // pairs: NULL, "half" or "interleaved"
    int64_t d, h, n_kv, hd, f, vocab, layers, context;
    bool biases, tied, factors;           // factors: rope_freqs.weight
    double linear;                        // rope scaling, 0: none
    int type;                             // of 2-D weights
    uint64_t seed;
} Rig;

typedef struct { GgufBuilder *b; Gguf g; Model m; void *owned[1024]; int n; } RigModel;

static float rig_normal(uint64_t *s) {
    float sum = -6;
    for (int i = 0; i < 12; i++) sum += random_f32(s);
    return sum;
}

static float *rig_floats(RigModel *r, int64_t n) {
    if (r->n >= COUNT(r->owned)) { printf("rig: too many tensors\n"); exit(2); }
    return r->owned[r->n++] = calloc((size_t)(n > 0 ? n : 1), sizeof(float));
}

// Adds W (rows, cols), stored in type; rows = 0: a vector of cols F32.
static void rig_add(RigModel *r, const char *name, int type, int64_t rows, int64_t cols, const float *w) {
    if (!rows) { gguf_add(r->b, name, T_F32, 1, (int64_t[4]){cols, 1, 1, 1}, w); return; }
    size_t size;
    if (!row_size(type, cols, &size)) { type = T_F32; size = (size_t)cols * sizeof(float); }
    uint8_t *stored = r->owned[r->n++] = calloc((size_t)rows, size);
    for (int64_t i = 0; i < rows; i++) quantize_row(type, w + i * cols, stored + (size_t)i * size, cols);
    gguf_add(r->b, name, type, 2, (int64_t[4]){cols, rows, 1, 1}, stored);
}

static float *rig_random(RigModel *r, uint64_t *s, int64_t rows, int64_t cols, float scale) {
    float *w = rig_floats(r, (rows ? rows : 1) * cols);
    for (int64_t i = 0; i < (rows ? rows : 1) * cols; i++)
        w[i] = rows ? scale * rig_normal(s) : scale + 0.3f * rig_normal(s);
    return w;
}

static void rig_free(RigModel *r) {
    model_free(&r->m);
    gguf_free(&r->g);
    gguf_builder_free(r->b);
    for (int i = 0; i < r->n; i++) free(r->owned[i]);
    memset(r, 0, sizeof *r);
}

// Ranks of a factored rig: r_embd, r_head, r_kind of every group; 0: full. A group is pivoted where
// it may be and has a projection of `pivoted`. laser: ranks of the factors (random ones) of gate, up,
// down; 0: dense.
typedef struct {
    const char *scheme;
    int64_t r_embd, r_head, r_kind;
    bool rebuilt;
    int pivoted;
    int64_t laser[3];
} RigTucker;

// A (r, n) = P [I X]: pivot (r), ascending, are columns of A, P (r, r) stands in them, x (r, n - r)
// belongs to the others. Gauss-Jordan, each step on the largest number left.
static void rig_pivot(const float *a, int64_t r, int64_t n, int32_t *pivot, float *x, float *p) {
    double *m = alloc((size_t)r, (size_t)n * sizeof *m, "a matrix", NULL);
    int64_t *row_of = alloc((size_t)n, sizeof *row_of, "rows", NULL);    // 1 + the pivot's row
    for (int64_t i = 0; i < r * n; i++) m[i] = a[i];
    for (int64_t k = 0; k < r; k++) {
        int64_t at = k * n;
        for (int64_t i = k * n; i < r * n; i++) if (fabs(m[i]) > fabs(m[at])) at = i;
        int64_t row = at / n, col = at % n;
        row_of[col] = k + 1;
        for (int64_t j = 0; j < n; j++) {
            double t = m[row * n + j];
            m[row * n + j] = m[k * n + j];
            m[k * n + j] = t;
        }
        double by = m[k * n + col];
        for (int64_t j = 0; j < n; j++) m[k * n + j] /= by;
        for (int64_t i = 0; i < r; i++) {
            double f = m[i * n + col];
            for (int64_t j = 0; j < n && i != k; j++) m[i * n + j] -= f * m[k * n + j];
        }
    }
    for (int64_t j = 0, k = 0; j < n; j++) if (row_of[j]) pivot[k++] = (int32_t)j;
    for (int64_t k = 0; k < r; k++)
        for (int64_t j = 0, at = 0; j < n; j++)
            if (!row_of[j]) x[k * (n - r) + at++] = (float)m[(row_of[pivot[k]] - 1) * n + j];
    for (int64_t i = 0; i < r; i++)
        for (int64_t k = 0; k < r; k++) p[i * r + k] = a[i * n + pivot[k]];
    free(m);
    free(row_of);
}

static void rig_product(float *out, const float *a, const float *b, int64_t n, int64_t k, int64_t m) {
    for (int64_t i = 0; i < n; i++)                               // out (n, m) = a (n, k) b (k, m)
        for (int64_t j = 0; j < m; j++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++) sum += (double)a[i * k + l] * b[l * m + j];
            out[i * m + j] = (float)sum;
        }
}

static float *rig_transposed(RigModel *r, const float *a, int64_t rows, int64_t cols) {
    float *t = rig_floats(r, rows * cols);
    for (int64_t i = 0; i < rows * cols; i++) t[i % cols * rows + i / cols] = a[i];
    return t;
}

// A group's factor, embd (rank, d) or of O (d, rank), and its cores in pivoted form: the pivots are
// added to the file, embd becomes X, and the cores take P.
static float *rig_pivoted(RigModel *r, const char *name, int64_t d, int64_t rank, bool out, float *embd,
                          float *core[4], const int64_t wide[4]) {
    int32_t *pivot = r->owned[r->n++] = calloc((size_t)rank, sizeof *pivot);
    float *x = rig_floats(r, rank * (d - rank)), *p = rig_floats(r, rank * rank);
    rig_pivot(out ? rig_transposed(r, embd, d, rank) : embd, rank, d, pivot, x, p);
    for (int i = 0; i < 4; i++) {
        if (!core[i]) continue;
        float *m = rig_floats(r, rank * wide[i]);
        if (out) rig_product(m, rig_transposed(r, p, rank, rank), core[i], rank, rank, wide[i]);
        else rig_product(m, core[i], p, wide[i], rank, rank);
        core[i] = m;
    }
    gguf_add(r->b, name, T_I32, 1, (int64_t[4]){rank, 1, 1, 1}, pivot);
    return out ? rig_transposed(r, x, rank, d - rank) : x;
}

static int rig_sets(const char *scheme, int set[4]) {
    int n = 0;
    memset(set, 0, 4 * sizeof *set);
    for (; scheme && *scheme; scheme++) {
        if (*scheme == '+') n++;
        else set[n] |= 1 << (strchr("qkvo", *scheme) - "qkvo");
    }
    return set[0] ? n + 1 : 0;
}

// The attention of one layer: dense, on factors, or (rebuilt) dense from the factors again.
static int rig_attention(RigModel *r, const Rig *c, int64_t l, float *w[4], const RigTucker *t,
                         int32_t *ranks) {
    static const char *const dense[] = {"attn_q", "attn_k", "attn_v", "attn_output"};
    AttnShape s = {c->d, c->h, c->n_kv, c->hd};
    int64_t heads[] = {c->h, c->n_kv, c->n_kv, c->h}, m = c->h / c->n_kv;
    char name[96];
    int set[4], n = rig_sets(t ? t->scheme : NULL, set), done = 0;
    for (int i = 0; i < n; i++) {
        char letters[8] = "";
        for (int p = 0, end = 0; p < 4; p++) if (set[i] & 1 << p) letters[end++] = "qkvo"[p];
        int64_t kinds = group_kinds(set[i], m), size[4] = {c->d, c->hd, kinds, c->n_kv};
        int64_t most = c->hd * kinds * c->n_kv < c->d ? c->hd * kinds * c->n_kv : c->d;
        int64_t rank[4] = {t->r_embd ? t->r_embd : most, t->r_head ? t->r_head : c->hd,
                           t->r_kind && t->r_kind < kinds ? t->r_kind : kinds, c->n_kv};
        if (rank[0] > most) rank[0] = most;
        double *x = calloc((size_t)(c->d * c->hd * kinds * c->n_kv), sizeof *x);
        Tucker k = {0};
        Err e = {""};
        tensorise(&s, set[i], (const float *const *)w, x);
        if (tucker_hosvd(&k, x, size, rank, &e)) { printf("hosvd: %s\n", e.msg); return -1; }
        if (t->rebuilt) {
            if (tucker_reconstruct(&k, x, &e)) return -1;
            untensorise(&s, set[i], x, w);
        } else {
            bool mixed = rank[2] < kinds;
            float *embd = rig_floats(r, rank[0] * c->d), *head = rig_floats(r, c->hd * rank[1]);
            float *kind = rig_floats(r, kinds * rank[2]), *core[4] = {0}, *g = NULL;
            for (int p = 0; p < 4; p++)
                if (set[i] & 1 << p && !mixed) core[p] = rig_floats(r, heads[p] * rank[1] * rank[0]);
            if (mixed) g = rig_floats(r, rank[2] * c->n_kv * rank[1] * rank[0]);
            tucker_pack(&k, &s, set[i], embd, head, kind, core, g);
            bool out = set[i] == HAS_O, pivoted = t->pivoted & set[i] && rank[0] < c->d && !mixed &&
                                                  rank[1] == c->hd && (out || !(set[i] & HAS_O));
            int64_t wide[4], side = c->d - (pivoted ? rank[0] : 0);
            for (int p = 0; p < 4; p++) wide[p] = heads[p] * rank[1];
            snprintf(name, sizeof name, "blk.%d.attn_tucker_%s_pivot", (int)l, letters);
            if (pivoted) embd = rig_pivoted(r, name, c->d, rank[0], out, embd, core, wide);
            snprintf(name, sizeof name, "blk.%d.attn_tucker_%s_embd.weight", (int)l, letters);
            rig_add(r, name, c->type, out ? side : rank[0], out ? rank[0] : side, embd);
            snprintf(name, sizeof name, "blk.%d.attn_tucker_%s_head.weight", (int)l, letters);
            if (rank[1] < c->hd) rig_add(r, name, T_F32, c->hd, rank[1], head);
            snprintf(name, sizeof name, "blk.%d.attn_tucker_%s_kind.weight", (int)l, letters);
            if (mixed) rig_add(r, name, T_F32, kinds, rank[2], kind);
            snprintf(name, sizeof name, "blk.%d.attn_tucker_%s_core.weight", (int)l, letters);
            if (mixed) rig_add(r, name, c->type, rank[2] * c->n_kv * rank[1], rank[0], g);
            for (int p = 0; p < 4; p++) {
                if (!core[p]) continue;
                snprintf(name, sizeof name, "blk.%d.attn_tucker_%c_core.weight", (int)l, "qkvo"[p]);
                rig_add(r, name, c->type, p == P_O ? rank[0] : wide[p], p == P_O ? wide[p] : rank[0],
                        core[p]);
            }
            done |= set[i];
            for (int p = 0; p < 4; p++)
                for (int j = 0; j < 3; j++)
                    if (set[i] & 1 << p) ranks[12 * l + 3 * p + j] = (int32_t)rank[j];
        }
        tucker_free(&k);
        free(x);
    }
    for (int p = 0; p < 4; p++) {
        if (done & 1 << p) continue;
        int64_t wide = heads[p] * c->hd;
        snprintf(name, sizeof name, "blk.%d.%s.weight", (int)l, dense[p]);
        rig_add(r, name, c->type, p == P_O ? c->d : wide, p == P_O ? wide : c->d, w[p]);
    }
    return 0;
}

// Random factors (rows, rank), (rank, cols) in the place of "blk.N.ffn_gate.weight".
static void rig_laser(RigModel *r, const char *whole, const Rig *c, int64_t rows, int64_t cols,
                      int64_t rank, uint64_t seed) {
    char name[96];
    int n = (int)(strrchr(whole, '.') - whole);
    snprintf(name, sizeof name, "%.*s_laser_in.weight", n, whole);
    rig_add(r, name, c->type, rank, cols, rig_random(r, &seed, rank, cols, 1.5f / sqrtf((float)cols)));
    snprintf(name, sizeof name, "%.*s_laser_out.weight", n, whole);
    rig_add(r, name, c->type, rows, rank, rig_random(r, &seed, rows, rank, 1.5f / sqrtf((float)rank)));
}

// Which families the rig makes, by what sets them apart.
static bool rig_is(const Rig *c, const char *arch) { return strcmp(c->arch, arch) == 0; }
static bool rig_plain(const Rig *c) {                     // LayerNorm, and nothing gates
    return rig_is(c, "gptj") || rig_is(c, "gpt2") || rig_is(c, "bert");
}

typedef struct { const char *name; int64_t rows, cols; bool put; } RigTensor;

// One of a layer (l < 0: of none), around 1 for weights of norms, else small.
static void rig_put(RigModel *r, const Rig *c, int64_t l, const RigTensor *t, uint64_t *s) {
    char name[96];
    if (!t->put) return;
    if (l < 0) snprintf(name, sizeof name, "%s", t->name);
    else snprintf(name, sizeof name, "blk.%d.%s", (int)l, t->name);
    float scale = t->rows ? 1 / sqrtf((float)t->cols) : strstr(t->name, "bias") ? 0.1f : 1;
    rig_add(r, name, c->type, t->rows, t->cols, rig_random(r, s, t->rows, t->cols, scale));
}

// What a family with LayerNorm has beside the matrices of its layers.
static void rig_ends(RigModel *r, const Rig *c, uint64_t *s) {
    const bool bert = rig_is(c, "bert"), gptj = rig_is(c, "gptj");
    const RigTensor all[] = {
        {"position_embd.weight", c->context, c->d, !gptj}, {"token_types.weight", 2, c->d, bert},
        {"token_embd_norm.weight", 0, c->d, bert}, {"token_embd_norm.bias", 0, c->d, bert},
        {"mlm_dense.weight", c->d, c->d, bert}, {"mlm_dense.bias", 0, c->d, bert},
        {"mlm_norm.weight", 0, c->d, bert}, {"mlm_norm.bias", 0, c->d, bert},
        {"mlm_output.bias", 0, c->vocab, bert}, {"output.bias", 0, c->vocab, gptj},
        {"output_norm.bias", 0, c->d, !bert},
    };
    for (int i = 0; i < COUNT(all); i++) rig_put(r, c, -1, &all[i], s);
}

static void rig_layer_ends(RigModel *r, const Rig *c, int64_t l, uint64_t *s) {
    const bool bert = rig_is(c, "bert"), gpt2 = rig_is(c, "gpt2"), biased = bert || gpt2;
    const RigTensor all[] = {
        {"attn_norm.bias", 0, c->d, !bert}, {"ffn_norm.bias", 0, c->d, gpt2},
        {"attn_output_norm.weight", 0, c->d, bert}, {"attn_output_norm.bias", 0, c->d, bert},
        {"layer_output_norm.weight", 0, c->d, bert}, {"layer_output_norm.bias", 0, c->d, bert},
        {"attn_q.bias", 0, c->h * c->hd, biased}, {"attn_k.bias", 0, c->n_kv * c->hd, biased},
        {"attn_v.bias", 0, c->n_kv * c->hd, biased}, {"attn_output.bias", 0, c->d, biased},
        {"ffn_up.bias", 0, c->f, true}, {"ffn_down.bias", 0, c->d, true},
    };
    for (int i = 0; i < COUNT(all); i++) rig_put(r, c, l, &all[i], s);
}

// Builds and binds; the same seed gives the same weights whatever t is.
static int rig_build(RigModel *r, const Rig *c, const RigTucker *t, Err *e) {
    memset(r, 0, sizeof *r);
    r->b = gguf_builder(e);
    if (!r->b) return -1;
    uint64_t s = c->seed;
    char key[96];
    #define KEY(suffix) (snprintf(key, sizeof key, "%s." suffix, c->arch), key)
    gguf_set_str(r->b, "general.architecture", c->arch, strlen(c->arch));
    gguf_set_int(r->b, KEY("embedding_length"), GGUF_U32, c->d);
    gguf_set_int(r->b, KEY("block_count"), GGUF_U32, c->layers);
    gguf_set_int(r->b, KEY("feed_forward_length"), GGUF_U32, c->f);
    gguf_set_int(r->b, KEY("context_length"), GGUF_U32, c->context);
    gguf_set_int(r->b, KEY("attention.head_count"), GGUF_U32, c->h);
    gguf_set_int(r->b, KEY("attention.head_count_kv"), GGUF_U32, c->n_kv);
    gguf_set_int(r->b, KEY("attention.key_length"), GGUF_U32, c->hd);
    gguf_set_int(r->b, KEY("attention.value_length"), GGUF_U32, c->hd);
    const bool plain_ffn = rig_plain(c), bert = rig_is(c, "bert"), gptj = rig_is(c, "gptj");
    gguf_set_float(r->b, plain_ffn ? KEY("attention.layer_norm_epsilon")
                                   : KEY("attention.layer_norm_rms_epsilon"), 1e-5f);
    gguf_set_float(r->b, KEY("rope.freq_base"), 10000);
    if (gptj) gguf_set_int(r->b, KEY("rope.dimension_count"), GGUF_U32, c->hd / 4 * 2);
    if (c->linear > 0) {
        gguf_set_str(r->b, KEY("rope.scaling.type"), "linear", 6);
        gguf_set_float(r->b, KEY("rope.scaling.factor"), (float)c->linear);
    }
    if (c->pairs) gguf_set_str(r->b, "tucker.rope_pairs", c->pairs, strlen(c->pairs));
    rig_add(r, "token_embd.weight", c->type, c->vocab, c->d, rig_random(r, &s, c->vocab, c->d, 1));
    if (!bert) rig_add(r, "output_norm.weight", 0, 0, c->d, rig_random(r, &s, 0, c->d, 1));
    if (plain_ffn) rig_ends(r, c, &s);
    if (!c->tied)
        rig_add(r, "output.weight", c->type, c->vocab, c->d,
                rig_random(r, &s, c->vocab, c->d, 1 / sqrtf((float)c->d)));
    if (c->factors) {
        float *v = rig_floats(r, c->hd / 2);
        for (int64_t i = 0; i < c->hd / 2; i++) v[i] = 1 + 3 * random_f32(&s);
        rig_add(r, "rope_freqs.weight", 0, 0, c->hd / 2, v);
    }
    int32_t *ranks = calloc((size_t)(12 * c->layers), sizeof *ranks);
    Str *schemes = calloc((size_t)c->layers, sizeof *schemes);
    int status = -1;
    for (int64_t l = 0; l < c->layers; l++) {
        float g = 1.5f / sqrtf((float)c->d);
        float *w[4] = {rig_random(r, &s, c->h * c->hd, c->d, g), rig_random(r, &s, c->n_kv * c->hd, c->d, g),
                       rig_random(r, &s, c->n_kv * c->hd, c->d, g), rig_random(r, &s, c->d, c->h * c->hd, g)};
        schemes[l] = (Str){t ? t->scheme : "", t ? strlen(t->scheme) : 0};
        if (rig_attention(r, c, l, w, t, ranks)) goto done;
        const bool biases = c->biases && !plain_ffn;
        RigTensor rest[] = {
            {"attn_norm.weight", 0, c->d, !bert}, {"ffn_norm.weight", 0, c->d, !bert && !gptj},
            {"ffn_gate.weight", c->f, c->d, !plain_ffn}, {"ffn_up.weight", c->f, c->d, true},
            {"ffn_down.weight", c->d, c->f, true},
            {"attn_q.bias", 0, c->h * c->hd, biases}, {"attn_k.bias", 0, c->n_kv * c->hd, biases},
            {"attn_v.bias", 0, c->n_kv * c->hd, biases}, {"attn_output.bias", 0, c->d, biases},
            {"attn_q_norm.weight", 0, c->hd, !strcmp(c->arch, "qwen3")},
            {"attn_k_norm.weight", 0, c->hd, !strcmp(c->arch, "qwen3")},
        };
        for (int i = 0; i < COUNT(rest); i++) {
            float *v = rig_random(r, &s, rest[i].rows, rest[i].cols, rest[i].rows ? g : 1);
            char name[96];
            snprintf(name, sizeof name, "blk.%d.%s", (int)l, rest[i].name);
            int64_t low = t && !t->rebuilt && i >= 2 && i < 5 ? t->laser[i - 2] : 0;
            if (low) rig_laser(r, name, c, rest[i].rows, rest[i].cols, low, (uint64_t)(8 * l + i));
            else if (rest[i].put) rig_add(r, name, c->type, rest[i].rows, rest[i].cols, v);
        }
        if (plain_ffn) rig_layer_ends(r, c, l, &s);
    }
    if (t && !t->rebuilt) {
        gguf_set_int(r->b, "tucker.version", GGUF_U32, 1);
        gguf_set_strings(r->b, "tucker.scheme", schemes, (uint64_t)c->layers);
        gguf_set_array(r->b, "tucker.ranks", GGUF_I32, ranks, (uint64_t)(12 * c->layers));
    }
    status = gguf_build(r->b, "rig", &r->g, e) || model_bind(&r->m, &r->g, e) ? -1 : 0;
done:
    free(ranks);
    free(schemes);
    return status;
}

// Logits (n, vocab) of ids on an empty timeline, `batch` tokens at a time; of an encoder, all at once.
// Caller frees.
static float *rig_logits(const Model *m, SessionConfig c, const int *ids, int64_t n, Err *e) {
    Session s;
    int64_t vocab = m->config.vocab;
    float *all = calloc((size_t)(n * vocab), sizeof *all);
    if (session_init(&s, m, c, e)) { free(all); return NULL; }
    for (int64_t at = 0; at < n; at += s.n) {
        int64_t part = n - at < s.config.batch ? n - at : s.config.batch;
        int status = m->config.encoder ? encode(&s, ids, n, e) : forward(&s, ids + at, part, e);
        if (m->config.encoder) part = n;
        if (status) { free(all); all = NULL; break; }
        for (int64_t i = 0; i < part; i++)
            memcpy(all + (at + i) * vocab, logits(&s, i, 1), (size_t)vocab * sizeof *all);
    }
    session_free(&s);
    return all;
}

// Largest difference relative to the largest of |b|.
static inline double rig_difference(const float *a, const float *b, int64_t n) {
    double worst = 0, scale = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(fabs((double)a[i] - b[i]) <= worst)) worst = fabs((double)a[i] - b[i]);
        if (fabs((double)b[i]) > scale) scale = fabs((double)b[i]);
    }
    return scale > 0 ? worst / scale : worst;
}

#endif
