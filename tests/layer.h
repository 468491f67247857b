// layer: one attention layer on random factors, and the dense matrices that they multiply out to; its
// definition in plain loops, with biases, positions and windows; and a run of the chapter's own
// functions over it. For the tests that hold the one against the other.
#ifndef LAYER_H
#define LAYER_H

#include "../tucker.h"
#include "test.h"

static Err err;

static inline double uniform(uint64_t *state) { return (double)(random_u64(state) >> 11) * 0x1p-52 - 1; }

static inline int64_t count4(const int64_t n[4]) { return n[0] * n[1] * n[2] * n[3]; }

static inline double *numbers(int64_t n) { return calloc((size_t)(n ? n : 1), sizeof(double)); }

static inline int64_t heads_of(const AttnShape *s, int p) { return p == P_Q || p == P_O ? s->h : s->n_kv; }

static inline int64_t size_of(const AttnShape *s, int p) { return heads_of(s, p) * s->hd * s->d; }

static inline double *tensor_of(const AttnShape *s, int set, float *const w[4], int64_t n[4]) {
    n[EMBD] = s->d, n[HEAD] = s->hd, n[KIND] = group_kinds(set, s->h / s->n_kv), n[KV_HEAD] = s->n_kv;
    double *t = numbers(count4(n));
    tensorise(s, set, (const float *const *)w, t);
    return t;
}

static inline float *hollow(int64_t n) {       // floats that tell whether they were written
    float *f = malloc((size_t)(n ? n : 1) * sizeof *f);
    for (int64_t i = 0; i < n; i++) f[i] = NAN;
    return f;
}

static inline double apart(const float *a, const float *b, int64_t n) {    // max |a - b|
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, isnan(a[i]) ? INFINITY : fabs((double)a[i] - b[i]));
    return most;
}

// ---- a layer --------------------------------------------------------------------------------------

// A layer on factors and the dense matrices that they multiply out to: freed by free_layer.
typedef struct {
    Attention a;
    float *w[4], *bias[4], *owned, *parts[32];
    int n_parts;
} Factored;

static inline float *part(Factored *f, int64_t n) {
    return f->parts[f->n_parts++] = calloc((size_t)n, sizeof(float));
}

static inline float *random_part(Factored *f, int64_t n, double size, uint64_t *state) {
    float *x = part(f, n);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(size * uniform(state));
    return x;
}

static inline void free_layer(Factored *f) {
    for (int i = 0; i < f->n_parts; i++) free(f->parts[i]);
    free(f->owned);
}

static inline int64_t wide(const AttnShape *s, int p) { return heads_of(s, p) * s->hd; }

// A group of Tucker factors by decomposition of w, which becomes what they multiply out to.
static inline int factor(Factored *f, Group *g) {
    const AttnShape *s = &f->a.shape;
    int64_t n[4], r[4] = {g->r_embd, g->r_head, g->r_kind, s->n_kv};
    bool mix = g->r_kind < g->kinds, narrow = g->r_head < s->hd;
    double *t = tensor_of(s, g->set, f->w, n);
    Tucker x;
    CHECK(tucker_hosvd(&x, t, n, r, &err) == 0 && tucker_reconstruct(&x, t, &err) == 0, "%s", err.msg);
    untensorise(s, g->set, t, f->w);
    float *embd = part(f, s->d * r[0]), *head = part(f, s->hd * r[1]), *kind = part(f, g->kinds * r[2]);
    float *core[4] = {0}, *mixed = mix ? part(f, r[2] * s->n_kv * r[1] * r[0]) : NULL;
    for (int p = 0; p < 4 && !mix; p++)
        if (g->set & 1 << p) {
            int64_t rows = heads_of(s, p) * r[1];
            core[p] = part(f, rows * r[0]);
            f->a.w[p] = p == P_O ? (Mat){core[p], r[0], rows, T_F32} : (Mat){core[p], rows, r[0], T_F32};
        }
    tucker_pack(&x, s, g->set, embd, head, kind, mix ? NULL : core, mixed);
    g->embd = g->set == HAS_O ? (Mat){embd, s->d, r[0], T_F32} : (Mat){embd, r[0], s->d, T_F32};
    if (narrow) g->head = (Mat){head, s->hd, r[1], T_F32};
    if (mix) g->kind = (Mat){kind, g->kinds, r[2], T_F32};
    if (mix) g->core = (Mat){mixed, r[2] * s->n_kv * r[1], r[0], T_F32};
    tucker_free(&x);
    free(t);
    return PASS;
}

// A pivoted group, every other input a pivot: random X and cores; w becomes M [I X] or [I X]^T M.
static inline void pivot(Factored *f, Group *g, uint64_t *state) {
    const AttnShape *s = &f->a.shape;
    int64_t d = s->d, r = g->r_embd;
    int32_t *index = (int32_t *)part(f, d), *rest = index + r;
    for (int64_t e = 0, p = 0, q = 0; e < d; e++)
        if ((e % 2 && p < r) || q == d - r) index[p++] = (int32_t)e; else rest[q++] = (int32_t)e;
    g->pivot = index, g->rest = rest;
    bool out = g->set == HAS_O;
    float *x = random_part(f, r * (d - r), 0.4, state);
    g->embd = out ? (Mat){x, d - r, r, T_F32} : (Mat){x, r, d - r, T_F32};
    for (int p = 0; p < 4; p++) {
        if (!(g->set & 1 << p)) continue;
        int64_t rows = wide(s, p);
        float *m = random_part(f, rows * r, 1 / sqrt((double)d), state);
        f->a.w[p] = out ? (Mat){m, r, rows, T_F32} : (Mat){m, rows, r, T_F32};
        for (int64_t i = 0; i < rows; i++)
            for (int64_t e = 0; e < d; e++) {
                double sum = 0;
                for (int64_t j = 0; j < r; j++) {
                    double u = index[j] == e;
                    for (int64_t k = 0; k < d - r; k++)
                        if (rest[k] == e) u = out ? x[k * r + j] : x[j * (d - r) + k];
                    sum += u * (out ? m[j * rows + i] : m[i * r + j]);
                }
                f->w[p][out ? e * rows + i : i * d + e] = (float)sum;
            }
    }
}

// scheme: "qkv+o", a capital letter first for a pivoted group. Ranks of 0 are full; r_embd is cut to d.
static inline int new_layer(Factored *f, const AttnShape *s, const char *scheme, const int64_t rank[3],
                     int64_t pass, bool biases, uint64_t seed) {
    *f = (Factored){.a = {.shape = *s, .pass = pass, .group_of = {-1, -1, -1, -1}}};
    for (int p = 0; p < 4; p++) {
        f->w[p] = random_part(f, size_of(s, p), 1.7 / sqrt((double)s->d), &seed);
        if (biases) f->bias[p] = random_part(f, p == P_O ? s->d : wide(s, p), 1, &seed);
        f->a.bias[p] = f->bias[p];
    }
    for (const char *c = scheme; *c;) {
        Group *g = &f->a.groups[f->a.n_groups];
        bool pivoted = strchr("QKVO", *c) != NULL;
        for (; *c && *c != '+'; c++) {
            int p = (int)(strchr("qkvoQKVO", *c) - "qkvoQKVO") % 4;
            g->set |= 1 << p;
            f->a.group_of[p] = f->a.n_groups;
        }
        if (*c == '+') c++;
        f->a.n_groups++;
        g->kinds = group_kinds(g->set, s->h / s->n_kv);
        g->r_embd = rank[0] ? rank[0] : s->d;
        if (pivoted && g->r_embd == s->d) g->r_embd--;
        g->r_head = rank[1] && !pivoted ? rank[1] : s->hd;
        g->r_kind = rank[2] && rank[2] < g->kinds && !pivoted ? rank[2] : g->kinds;
        if (pivoted) pivot(f, g, &seed);
        else if (factor(f, g) == FAIL) return FAIL;
    }
    for (int p = 0; p < 4; p++)
        if (f->a.group_of[p] < 0)
            f->a.w[p] = p == P_O ? (Mat){f->w[p], s->d, wide(s, p), T_F32}
                                 : (Mat){f->w[p], wide(s, p), s->d, T_F32};
    CHECK(attention_expand(&f->a, &f->owned, &err) == 0, "%s", err.msg);
    return PASS;
}


// ---- its definition, and a run -------------------------------------------------------------------

// Pairs (2 i, 2 i + 1) of the first `rotated` numbers of each head turn with the position.
static inline void turn(float *x, int64_t heads, int64_t hd, int64_t rotated, int64_t position) {
    for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < rotated; i += 2) {
            float *p = x + h * hd + i, a = p[0], b = p[1];
            double angle = (double)position * pow(0.3, (double)i + 1);
            p[0] = (float)(a * cos(angle) - b * sin(angle));
            p[1] = (float)(a * sin(angle) + b * cos(angle));
        }
}

// The definition, with biases, positions and windows: W x + b, softmax over what is seen.
static inline void twin(const Factored *f, const float *x, int64_t n, int64_t window, float *y) {
    const AttnShape *s = &f->a.shape;
    int64_t d = s->d, hd = s->hd, m = s->h / s->n_kv;
    float *q[3];
    for (int p = P_Q; p <= P_V; p++) {
        int64_t rows = wide(s, p);
        q[p] = calloc((size_t)(n * rows), sizeof(float));
        for (int64_t i = 0; i < n * rows; i++) {
            double sum = f->bias[p] ? f->bias[p][i % rows] : 0;
            for (int64_t e = 0; e < d; e++) sum += (double)f->w[p][i % rows * d + e] * x[i / rows * d + e];
            q[p][i] = (float)sum;
        }
        for (int64_t t = 0; t < n && p != P_V; t++)
            turn(q[p] + t * rows, heads_of(s, p), hd, hd - f->a.pass, t);
    }
    double *o = numbers(s->h * hd), *a = numbers(n);
    for (int64_t t = 0; t < n; t++) {
        int64_t from = window > 0 && t >= window ? t - window + 1 : 0, to = window == SEE_ALL ? n : t + 1;
        for (int64_t h = 0; h < s->h; h++) {
            double sum = 0;
            for (int64_t u = from; u < to; u++) {
                double score = 0;
                for (int64_t c = 0; c < hd; c++)
                    score += (double)q[P_Q][(t * s->h + h) * hd + c] * q[P_K][(u * s->n_kv + h / m) * hd + c];
                sum += a[u] = exp(score / sqrt((double)hd));
            }
            for (int64_t c = 0; c < hd; c++) {
                o[h * hd + c] = 0;
                for (int64_t u = from; u < to; u++)
                    o[h * hd + c] += a[u] / sum * q[P_V][(u * s->n_kv + h / m) * hd + c];
            }
        }
        for (int64_t e = 0; e < d; e++) {
            double sum = f->bias[P_O] ? f->bias[P_O][e] : 0;
            for (int64_t c = 0; c < s->h * hd; c++) sum += f->w[P_O][e * s->h * hd + c] * o[c];
            y[t * d + e] = (float)sum;
        }
    }
    for (int p = P_Q; p <= P_V; p++) free(q[p]);
    free(o), free(a);
}

// The same on the factors: `first` tokens together, then one by one.
static inline int run_layer(const Factored *f, int type, CacheForm form, const float *x, int64_t n,
                     int64_t first, int64_t window, float *y) {
    const Attention *a = &f->a;
    const AttnShape *s = &a->shape;
    AttentionWork w;
    Cache c = attention_cache(a, type, n, form);
    size_t bytes = 0;
    CHECK(cache_alloc(&c, &bytes, &err) == 0, "%s", err.msg);
    CHECK(attention_work(&w, a, sizeof *a, 1, n, s->d, &err) == 0, "%s", err.msg);
    Cost cost = attention_cache_cost(a, &c);
    CHECK((double)bytes == cost.bytes * (double)n, "%zu bytes, %g a position", bytes, cost.bytes);
    float *q = hollow(n * s->h * s->hd), *o = hollow(n * s->h * s->hd);
    float *k = hollow(n * s->n_kv * s->hd), *v = hollow(n * s->n_kv * s->hd);
    for (int64_t t = 0, now = first; t < n; t += now, now = 1) {
        attention_qkv(a, &w, &c, x + t * s->d, now, q, k, v);
        for (int64_t i = 0; i < now && a->pass < s->hd; i++) {
            turn(q + i * wide(s, P_Q), s->h, s->hd, s->hd - a->pass, t + i);
            turn(k + i * wide(s, P_K), s->n_kv, s->hd, s->hd - a->pass, t + i);
        }
        attention_store(a, &w, &c, t, 0, now, k, v);
        attention_mix(a, &w, &c, q, 0, now, t, window, o);
        attention_out(a, &w, o, now, y + t * s->d);
    }
    free(q), free(k), free(v), free(o);
    cache_free(&c);
    attention_work_free(&w);
    return PASS;
}

#endif
