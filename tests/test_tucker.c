// tucker: the definitions as plain loops, and the chapter's code held against them.
#include "../core/linalg.h"
#include "layer.h"

static double *random_tensor(const int64_t n[4], uint64_t seed) {
    double *t = numbers(count4(n));
    for (int64_t i = 0; i < count4(n); i++) t[i] = uniform(&seed);
    return t;
}

static double distance(const double *a, const double *b, int64_t n) {  // |a - b|
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sqrt(sum);
}

// Index of [i0, i1, i2, i3] in a tensor of sizes n.
static int64_t at(const int64_t n[4], int64_t i0, int64_t i1, int64_t i2, int64_t i3) {
    return ((i0 * n[1] + i1) * n[2] + i2) * n[3] + i3;
}

#define EACH(n, i) \
    for (int64_t i[4] = {0}; i[0] < (n)[0]; i[0]++) for (i[1] = 0; i[1] < (n)[1]; i[1]++) \
        for (i[2] = 0; i[2] < (n)[2]; i[2]++) for (i[3] = 0; i[3] < (n)[3]; i[3]++)

// ---- mode products -----------------------------------------------------------------------------

static int mode_products(void) {
    static const int64_t sizes[][4] = {
        {5, 4, 3, 2}, {1, 1, 1, 1}, {7, 1, 6, 1}, {9, 33, 5, 40}, {70, 8, 3, 12}};
    for (int s = 0; s < COUNT(sizes); s++) {
        const int64_t *n = sizes[s];
        double *t = random_tensor(n, 1);
        for (int mode = 0; mode < 4; mode++)
            for (int64_t rows = 1; rows < 40; rows += 17)
                for (int turned = 0; turned < 2; turned++) {
                    int64_t m[4] = {n[0], n[1], n[2], n[3]}, un[4] = {rows, n[mode], 1, 1};
                    m[mode] = rows;
                    double *u = random_tensor(un, 2), *out = numbers(count4(m));
                    mode_product(t, n, mode, u, rows, turned, out);
                    EACH(m, i) {
                        double want = 0, got = out[at(m, i[0], i[1], i[2], i[3])];
                        int64_t j[4] = {i[0], i[1], i[2], i[3]};
                        for (j[mode] = 0; j[mode] < n[mode]; j[mode]++)
                            want += u[turned ? j[mode] * rows + i[mode] : i[mode] * n[mode] + j[mode]]
                                  * t[at(n, j[0], j[1], j[2], j[3])];
                        CHECK(fabs(got - want) < 1e-13 * (double)n[mode] + 1e-15,
                              "tensor %d mode %d rows %d [%d %d %d %d]: %.17g, not %.17g", s, mode,
                              (int)rows, (int)i[0], (int)i[1], (int)i[2], (int)i[3], got, want);
                    }
                    free(u), free(out);
                }
        free(t);
    }
    return PASS;
}

static int gram_matrices(void) {
    const int64_t n[4] = {6, 5, 4, 3};
    double *t = random_tensor(n, 3), c[36], want[36];
    for (int mode = 0; mode < 4; mode++) {
        memset(want, 0, sizeof want);
        EACH(n, i) {
            int64_t j[4] = {i[0], i[1], i[2], i[3]};
            for (j[mode] = 0; j[mode] < n[mode]; j[mode]++)
                want[i[mode] * n[mode] + j[mode]] +=
                    t[at(n, i[0], i[1], i[2], i[3])] * t[at(n, j[0], j[1], j[2], j[3])];
        }
        CHECK(mode_gram(t, n, mode, c, &err) == 0, "%s", err.msg);
        double d = distance(c, want, n[mode] * n[mode]);
        CHECK(d < 1e-13, "mode %d: |C - C'| %g", mode, d);
    }
    free(t);
    return PASS;
}

// ---- decompositions ----------------------------------------------------------------------------

static int orthonormal(const Tucker *t, const char *name) {
    for (int mode = 0; mode < 4; mode++) {
        int64_t n = t->n[mode], r = t->r[mode];
        CHECK((t->u[mode] == NULL) == (n == r), "%s: mode %d of rank %d", name, mode, (int)r);
        for (int64_t i = 0; t->u[mode] && i < r; i++)
            for (int64_t j = 0; j <= i; j++) {
                double sum = 0;
                for (int64_t k = 0; k < n; k++)
                    sum += t->u[mode][k * r + i] * t->u[mode][k * r + j];
                CHECK(fabs(sum - (i == j)) < 1e-12, "%s: mode %d: U'U[%d][%d] = %.17g", name, mode,
                      (int)i, (int)j, sum);
            }
    }
    return PASS;
}

// Decomposes and checks all that must hold for any tensor: orthonormal factors, the error identity
// against the explicit difference, HOOI no worse than HOSVD. *error: of HOOI.
static int check_tucker(const char *name, const double *w, const int64_t n[4], const int64_t r[4],
                        double *error) {
    Tucker first, t;
    double *back = numbers(count4(n)), size = sqrt(norm2(w, count4(n)));
    CHECK(tucker_hosvd(&first, w, n, r, &err) == 0, "%s: %s", name, err.msg);
    CHECK(tucker_hooi(&t, w, n, r, 50, 1e-9, &err) == 0, "%s: %s", name, err.msg);
    if (orthonormal(&first, name) == FAIL || orthonormal(&t, name) == FAIL) return FAIL;
    for (int k = 0; k < 2; k++) {
        const Tucker *x = k ? &t : &first;
        CHECK(tucker_reconstruct(x, back, &err) == 0, "%s: %s", name, err.msg);
        double real = size > 0 ? distance(w, back, count4(n)) / size : 0, said = tucker_error(x, w);
        CHECK(fabs(real * real - said * said) < 1e-13 && fabs(real - said) < 1e-7,
              "%s: %s error %.12g, by the identity %.12g", name, k ? "HOOI" : "HOSVD", real, said);
    }
    *error = tucker_error(&t, w);
    CHECK(pow(*error, 2) <= pow(tucker_error(&first, w), 2) + 1e-14, "%s: HOOI %.12g, HOSVD %.12g",
          name, *error, tucker_error(&first, w));
    tucker_free(&first);
    tucker_free(&t);
    CHECK(!t.core && !t.u[0], "%s: freed", name);
    free(back);
    return PASS;
}

static int random_tensors(void) {
    const int64_t n[4] = {24, 10, 6, 3};
    static const int64_t ranks[][4] = {{12, 5, 6, 3}, {7, 10, 3, 3}, {24, 10, 2, 3}, {5, 4, 3, 2},
                                       {1, 1, 1, 1}, {23, 9, 5, 2}, {1, 10, 6, 3}, {24, 10, 6, 3}};
    double *w = random_tensor(n, 5), error;
    for (int i = 0; i < COUNT(ranks); i++)
        if (check_tucker("random", w, n, ranks[i], &error) == FAIL) return FAIL;
    Tucker a, b;                                           // here sweeps do help
    CHECK(tucker_hosvd(&a, w, n, ranks[3], &err) == 0, "%s", err.msg);
    CHECK(tucker_hooi(&b, w, n, ranks[3], 50, 1e-9, &err) == 0, "%s", err.msg);
    CHECK(tucker_error(&b, w) < tucker_error(&a, w) - 1e-4, "HOOI %g, HOSVD %g",
          tucker_error(&b, w), tucker_error(&a, w));
    tucker_free(&a), tucker_free(&b);
    free(w);
    return PASS;
}

// A tensor that has a small core is found to have it.
static int exact_ranks(void) {
    const int64_t n[4] = {20, 12, 6, 4}, r[4] = {5, 4, 3, 4};
    double *t = random_tensor(r, 7), error;
    int64_t size[4] = {r[0], r[1], r[2], r[3]};
    for (int mode = 0; mode < 3; mode++) {
        int64_t un[4] = {n[mode], r[mode], 1, 1};
        double *u = random_tensor(un, 8 + (uint64_t)mode), *next;
        int64_t grown[4] = {size[0], size[1], size[2], size[3]};
        grown[mode] = n[mode];
        next = numbers(count4(grown));
        mode_product(t, size, mode, u, n[mode], false, next);
        size[mode] = n[mode];
        free(t), free(u);
        t = next;
    }
    if (check_tucker("small core", t, n, r, &error) == FAIL) return FAIL;
    CHECK(error < 1e-7, "error %g", error);
    Tucker x;
    double *back = numbers(count4(n));
    CHECK(tucker_hooi(&x, t, n, r, 50, 1e-9, &err) == 0 && tucker_reconstruct(&x, back, &err) == 0,
          "%s", err.msg);
    CHECK(distance(t, back, count4(n)) < 1e-12 * sqrt(norm2(t, count4(n))), "|W - W'| %g",
          distance(t, back, count4(n)));
    tucker_free(&x);
    free(t), free(back);
    return PASS;
}

// With one truncated mode nothing beats the truncated SVD of its unfolding, and HOSVD is that.
static int one_mode_is_svd(void) {
    const int64_t n[4] = {10, 8, 5, 6};
    double *w = random_tensor(n, 11);
    for (int mode = 0; mode < 4; mode++) {
        int64_t rows = n[mode], cols = count4(n) / rows, r[4] = {n[0], n[1], n[2], n[3]};
        r[mode] = rows / 2;
        double *flat = numbers(rows * cols), *u = numbers(rows * rows), *v = numbers(cols * rows);
        double s[10], tail = 0;
        int64_t filled[10] = {0};
        EACH(n, i) flat[i[mode] * cols + filled[i[mode]]++] = w[at(n, i[0], i[1], i[2], i[3])];
        CHECK(svd(flat, rows, cols, u, s, v, &err) == 0, "%s", err.msg);
        for (int64_t k = r[mode]; k < rows; k++) tail += s[k] * s[k];
        double want = sqrt(tail / norm2(w, count4(n)));
        Tucker t, swept;
        CHECK(tucker_hosvd(&t, w, n, r, &err) == 0, "%s", err.msg);
        CHECK(tucker_hooi(&swept, w, n, r, 50, 1e-9, &err) == 0, "%s", err.msg);
        CHECK(fabs(tucker_error(&t, w) - want) < 1e-12, "mode %d: error %.15g, SVD %.15g", mode,
              tucker_error(&t, w), want);
        CHECK(distance(t.core, swept.core, count4(r)) == 0, "mode %d: HOOI has nothing to do", mode);
        for (int64_t k = 0; k < r[mode]; k++) {            // the same vectors up to sign
            double cosine = 0;
            for (int64_t i = 0; i < rows; i++)
                cosine += t.u[mode][i * r[mode] + k] * u[i * rows + k];
            CHECK(fabs(fabs(cosine) - 1) < 1e-10, "mode %d vector %d: cosine %.15g", mode, (int)k,
                  cosine);
        }
        tucker_free(&t), tucker_free(&swept);
        free(flat), free(u), free(v);
    }
    free(w);
    return PASS;
}

static int ranks_are_checked(void) {
    const int64_t n[4] = {4, 3, 2, 5};
    double *w = random_tensor(n, 13);
    for (int mode = 0; mode < 4; mode++)
        for (int high = 0; high < 2; high++) {
            int64_t r[4] = {n[0], n[1], n[2], n[3]};
            r[mode] = high ? n[mode] + 1 : 0;
            Tucker t;
            CHECK(tucker_hooi(&t, w, n, r, 5, 1e-6, &err) == -1 && strstr(err.msg, "rank"),
                  "mode %d rank %d", mode, (int)r[mode]);
            CHECK(tucker_hosvd(&t, w, n, r, &err) == -1, "mode %d rank %d", mode, (int)r[mode]);
            tucker_free(&t);                               // harmless after a failure
        }
    free(w);
    return PASS;
}

// ---- the attention tensor ----------------------------------------------------------------------

static const AttnShape shapes[] = {
    {.d = 15, .h = 3, .n_kv = 3, .hd = 5},      // MHA
    {.d = 16, .h = 6, .n_kv = 2, .hd = 4},      // GQA, m = 3
    {.d = 12, .h = 4, .n_kv = 1, .hd = 6},      // MQA
};

static void new_weights(const AttnShape *s, float *w[4], uint64_t seed) {
    for (int p = 0; p < 4; p++) {
        w[p] = calloc((size_t)size_of(s, p), sizeof(float));
        for (int64_t i = 0; i < size_of(s, p); i++) w[p][i] = (float)uniform(&seed);
    }
}

static void free_weights(float *w[4]) { for (int p = 0; p < 4; p++) free(w[p]); }

static int slices(void) {
    for (int i = 0; i < COUNT(shapes); i++) {
        const AttnShape *s = &shapes[i];
        int64_t n[4], m = s->h / s->n_kv;
        float *w[4];
        new_weights(s, w, 17);
        double *t = tensor_of(s, HAS_Q | HAS_K | HAS_V | HAS_O, w, n);
        CHECK(n[KIND] == 2 * m + 2, "%d kinds", (int)n[KIND]);
        EACH(n, x) {
            int64_t e = x[0], a = x[1], k = x[2], g = x[3], d = s->d, hd = s->hd;
            double want = k < m ? w[P_Q][((g * m + k) * hd + a) * d + e]
                        : k == m ? w[P_K][(g * hd + a) * d + e]
                        : k == m + 1 ? w[P_V][(g * hd + a) * d + e]
                        : w[P_O][e * s->h * hd + (g * m + k - m - 2) * hd + a];
            CHECK(t[at(n, e, a, k, g)] == want, "shape %d [%d %d %d %d]: %g, not %g", i, (int)e,
                  (int)a, (int)k, (int)g, t[at(n, e, a, k, g)], want);
        }
        free(t);
        free_weights(w);
    }
    CHECK(kind_index(HAS_K | HAS_O, 3, P_O, 2) == 3 && kind_index(HAS_V, 3, P_V, 0) == 0,
          "kinds of partial sets");
    CHECK(kind_index(15, 3, P_K, 0) == 3 && kind_index(15, 3, P_O, 0) == 5 &&
          group_kinds(15, 3) == 8, "kinds of qkvo");
    return PASS;
}

static int full_rank_is_exact(void) {
    for (int i = 0; i < COUNT(shapes); i++)
        for (int set = 1; set < 16; set++) {
            const AttnShape *s = &shapes[i];
            int64_t n[4];
            float *w[4], *back[4];
            new_weights(s, w, 19), new_weights(s, back, 20);
            double *t = tensor_of(s, set, w, n), *rebuilt = numbers(count4(n));
            Tucker x;
            CHECK(tucker_hooi(&x, t, n, n, 50, 1e-9, &err) == 0 &&
                  tucker_reconstruct(&x, rebuilt, &err) == 0, "%s", err.msg);
            CHECK(tucker_error(&x, t) < 1e-12, "shape %d set %d: error %g", i, set,
                  tucker_error(&x, t));
            CHECK(distance(t, rebuilt, count4(n)) < 1e-12, "shape %d set %d: |W - W'|", i, set);
            untensorise(s, set, rebuilt, back);
            for (int p = 0; p < 4; p++)
                for (int64_t j = 0; set & 1 << p && j < size_of(s, p); j++)
                    CHECK(w[p][j] == back[p][j], "shape %d set %d matrix %d [%d]: %g, not %g", i,
                          set, p, (int)j, (double)back[p][j], (double)w[p][j]);
            tucker_free(&x);
            free(t), free(rebuilt);
            free_weights(w), free_weights(back);
        }
    return PASS;
}

static int64_t written(const float *f, int64_t n) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) count += !isnan(f[i]);
    return count;
}

// Multiplies the packed parts, W_i = U_head M_i U_embd^T (of O its transpose), entry by entry, and
// compares with the reconstruction; counts the numbers that are stored.
static int check_pack(const AttnShape *s, int set, const int64_t r[4], const Tucker *x) {
    int64_t m = s->h / s->n_kv, kinds = group_kinds(set, m);
    int64_t re = r[EMBD], rh = r[HEAD], rk = r[KIND], core_size[4], mixed_size = rk * s->n_kv * rh * re;
    float *w[4], *core[4], *embd = hollow(s->d * re), *head = hollow(s->hd * rh);
    float *kind = hollow(kinds * rk), *mixed = hollow(mixed_size);
    bool mix = rk < kinds;
    double *rebuilt = numbers(count4(x->n));
    new_weights(s, w, 1);
    CHECK(tucker_reconstruct(x, rebuilt, &err) == 0, "%s", err.msg);
    untensorise(s, set, rebuilt, w);
    for (int p = 0; p < 4; p++) {
        core_size[p] = set & 1 << p ? heads_of(s, p) * rh * re : 0;
        core[p] = hollow(core_size[p]);
    }
    tucker_pack(x, s, set, embd, head, kind, mix ? NULL : core, mix ? mixed : NULL);

    for (int p = 0; p < 4; p++)
        for (int64_t i = 0; set & 1 << p && i < heads_of(s, p); i++) {
            int64_t per = heads_of(s, p) / s->n_kv, g = i / per, k = kind_index(set, m, p, i % per);
            for (int64_t a = 0; a < s->hd; a++)
                for (int64_t e = 0; e < s->d; e++) {
                    double sum = 0;
                    for (int64_t b = 0; b < rh; b++)
                        for (int64_t f = 0; f < re; f++) {
                            double c = 0;                  // M_i[b, f]
                            if (!mix) c = core[p][p == P_O ? (f * s->h + i) * rh + b : (i * rh + b) * re + f];
                            for (int64_t q = 0; mix && q < rk; q++)
                                c += (double)kind[k * rk + q]
                                   * mixed[((q * s->n_kv + g) * rh + b) * re + f];
                            sum += c * head[a * rh + b] * embd[set == HAS_O ? e * re + f : f * s->d + e];
                        }
                    int64_t row = i * s->hd + a;
                    double want = w[p][p == P_O ? e * s->h * s->hd + row : row * s->d + e];
                    CHECK(fabs(sum - want) < 3e-6, "set %d ranks %d %d %d matrix %d head %d [%d][%d]: %g, "
                          "not %g", set, (int)re, (int)rh, (int)rk, p, (int)i, (int)a, (int)e, sum, want);
                }
        }
    int64_t stored = written(embd, s->d * re);
    if (rh < s->hd) stored += written(head, s->hd * rh);
    if (mix) stored += written(kind, kinds * rk);
    if (mix) stored += written(mixed, mixed_size);
    else for (int p = 0; p < 4; p++) stored += written(core[p], core_size[p]);
    int64_t formula = group_params(s, set, re, rh, rk);
    CHECK(stored == formula, "set %d ranks %d %d %d: %d numbers stored, formula %d", set, (int)re,
          (int)rh, (int)rk, (int)stored, (int)formula);
    if (rh == s->hd && !mix)                               // [I X] stores all of U_embd but I
        CHECK(pivoted_params(s, set, re) == stored - re * re, "set %d rank %d: %d numbers pivoted", set,
              (int)re, (int)pivoted_params(s, set, re));
    int64_t dense = 0;
    for (int p = 0; p < 4; p++) if (set & 1 << p) dense += size_of(s, p);
    CHECK(dense == dense_params(s, set), "set %d: dense %d, formula %d", set, (int)dense,
          (int)dense_params(s, set));
    for (int p = 0; p < 4; p++) free(core[p]);
    free(embd), free(head), free(kind), free(mixed), free(rebuilt);
    free_weights(w);
    return PASS;
}

static int packed_parts(void) {
    for (int i = 0; i < COUNT(shapes); i++)
        for (int set = 1; set < 16; set++)
            for (int choice = 0; choice < 8; choice++) {
                const AttnShape *s = &shapes[i];
                int64_t n[4];
                float *w[4];
                new_weights(s, w, 23);
                double *t = tensor_of(s, set, w, n);
                int64_t r[4] = {choice & 1 ? n[0] : n[0] / 2, choice & 2 ? n[1] : n[1] - 2,
                                choice & 4 ? n[2] : (n[2] + 1) / 2, n[3]};
                Tucker x;
                CHECK(tucker_hooi(&x, t, n, r, 4, 1e-6, &err) == 0, "%s", err.msg);
                if (check_pack(s, set, r, &x) == FAIL) return FAIL;
                tucker_free(&x);
                free(t);
                free_weights(w);
            }
    return PASS;
}

// Nothing to find, or less than the ranks ask for: factors stay orthonormal, errors stay right.
static int poor_tensors(void) {
    const AttnShape *s = &shapes[0];
    const int64_t ranks[][4] = {{8, 3, 2, 3}, {14, 4, 3, 3}, {1, 5, 4, 3}};
    for (int what = 0; what < 3; what++) {
        int64_t n[4], per_head = s->hd * s->d;
        float *w[4];
        new_weights(s, w, 29);
        for (int p = 0; p < 4; p++)
            for (int64_t j = 0; j < size_of(s, p); j++) {
                if (what == 0) w[p][j] = 0;
                if (what == 1) {                           // all heads equal
                    int64_t wide = s->h * s->hd;
                    w[p][j] = p == P_O ? w[p][j / wide * wide + j % s->hd] : w[p][j % per_head];
                }
                if (what == 2 && p != P_O && j >= per_head) w[p][j] = 0;       // one live head
            }
        double *t = tensor_of(s, 15, w, n), error;
        for (int k = 0; k < COUNT(ranks); k++) {
            const char *name = what == 0 ? "zero" : what == 1 ? "equal heads" : "dead heads";
            if (check_tucker(name, t, n, ranks[k], &error) == FAIL) return FAIL;
            CHECK(what != 0 || error == 0, "zero tensor: error %g", error);
        }
        free(t);
        free_weights(w);
    }
    return PASS;
}

// ---- attention on the factors ------------------------------------------------------------------

static const char *name_of(const Factored *f, const char *scheme, CacheForm form, int64_t first) {
    static char name[160];
    snprintf(name, sizeof name, "%d/%d heads, %s, ranks %d,%d,%d, pass %d, biases %d, form %d, first %d",
             (int)f->a.shape.h, (int)f->a.shape.n_kv, scheme, (int)f->a.groups[0].r_embd,
             (int)f->a.groups[0].r_head, (int)f->a.groups[0].r_kind, (int)f->a.pass, f->bias[0] != NULL,
             (int)form, (int)first);
    return name;
}

static const char *const schemes[] = {"qkvo", "qkv+o", "qk+v+o", "q+k+v+o", "q+kv+o", "qo+kv", "kv",
                                      "k", "v", "qv+ko", "QK+v", "qo+KV", "Q+K+V+O", "QKV+O", ""};

// Every scheme and form of cache, ranks full and cut, rotated wholly, in part and not at all, with
// and without biases: all at once, as a prompt and what follows, and token by token.
static int factored_attention(void) {
    static const int64_t ranks[][3] = {{0}, {9, 0, 0}, {0, 3, 0}, {8, 4, 2}, {11, 0, 3}};
    enum { N = 21 };
    for (int i = 0; i < COUNT(shapes) * COUNT(schemes) * COUNT(ranks) * 6; i++) {
        const AttnShape *s = &shapes[i % COUNT(shapes)];
        int rest = i / COUNT(shapes), turned = i / COUNT(shapes) / COUNT(schemes) / COUNT(ranks);
        const char *scheme = schemes[rest % COUNT(schemes)];
        const int64_t *rank = ranks[rest / COUNT(schemes) % COUNT(ranks)];
        const int64_t passes[] = {s->hd, s->hd - 2, s->hd % 2};         // no pair rotated, one, all of them
        Factored f;
        if (new_layer(&f, s, scheme, rank, passes[turned % 3], turned / 3, (uint64_t)i) == FAIL) return FAIL;
        uint64_t seed = 5;
        float *x = random_part(&f, N * s->d, 1.7, &seed), *want = part(&f, N * s->d), *y = part(&f, N * s->d);
        int64_t window = i % 4 == 0 ? 6 : 0;
        twin(&f, x, N, window, want);
        if (window == 0 && turned == 0) {                       // the chapter's own definition agrees
            attention_dense_twin(s, (const float *const *)f.w, x, N, y);
            CHECK(apart(y, want, N * s->d) < 1e-5, "twins: %g", apart(y, want, N * s->d));
        }
        static const int64_t firsts[] = {N, 14, 1};
        for (int form = CACHE_AUTO; form <= CACHE_LATENT; form++)
            for (int k = 0; k < COUNT(firsts); k++) {
                if (run_layer(&f, T_F32, form, x, N, firsts[k], window, y) == FAIL) return FAIL;
                CHECK(apart(y, want, N * s->d) < 3e-5, "%s: %g", name_of(&f, scheme, form, firsts[k]),
                      apart(y, want, N * s->d));
            }
        twin(&f, x, N, SEE_ALL, want);
        for (int form = CACHE_AUTO; form <= CACHE_LATENT; form++) {
            if (run_layer(&f, T_F32, form, x, N, N, SEE_ALL, y) == FAIL) return FAIL;
            CHECK(apart(y, want, N * s->d) < 3e-5, "all: %s: %g", name_of(&f, scheme, form, N),
                  apart(y, want, N * s->d));
        }
        free_layer(&f);
    }
    return PASS;
}

// Widths in blocks, beyond a segment of the cache: every type of it, any number of threads to the bit.
static int factored_caches(void) {
    static const AttnShape long_shapes[] = {{.d = 96, .h = 3, .n_kv = 3, .hd = 64},
                                            {.d = 64, .h = 4, .n_kv = 2, .hd = 64}};
    static const char *const some[] = {"qkvo", "q+kv+o", "qk+v+o", "QKV+o"};
    static const int64_t ranks[][3] = {{0}, {32, 0, 0}, {32, 32, 3}};
    static const int types[] = {T_F32, T_F16, T_Q8_0};
    static const double allowed[] = {3e-5, 3e-3, 0.05};
    enum { N = 300 };
    int before = threads_get();
    for (int i = 0; i < 2 * COUNT(some) * COUNT(ranks) * 2; i++) {
        const AttnShape *s = &long_shapes[i % 2];
        const char *scheme = some[i / 2 % COUNT(some)];
        Factored f;
        if (new_layer(&f, s, scheme, ranks[i / 2 / COUNT(some) % COUNT(ranks)],
                      i / 2 / COUNT(some) / COUNT(ranks) ? 32 : 64, true, (uint64_t)i) == FAIL)
            return FAIL;
        if (f.a.groups[0].r_embd % 32) { free_layer(&f); continue; }         // pivoted, of full rank
        uint64_t seed = 6;
        float *x = random_part(&f, N * s->d, 1.2, &seed), *want = part(&f, N * s->d);
        float *y = part(&f, N * s->d), *again = part(&f, N * s->d);
        twin(&f, x, N, 0, want);
        for (int t = 0; t < COUNT(types); t++)
            for (int first = 200; first <= N; first += N - 200)
                for (int threads = 1; threads <= 3; threads++) {
                    threads_set(threads);
                    float *out = threads == 1 ? y : again;
                    if (run_layer(&f, types[t], CACHE_LATENT, x, N, first, 0, out) == FAIL) return FAIL;
                    CHECK(apart(y, want, N * s->d) < allowed[t], "type %d: %s: %g", types[t],
                          name_of(&f, scheme, CACHE_LATENT, first), apart(y, want, N * s->d));
                    CHECK(out == y || !memcmp(y, again, (size_t)(N * s->d) * sizeof *y),
                          "type %d: %s: %d threads: %g", types[t], name_of(&f, scheme, CACHE_LATENT, first),
                          threads, apart(y, again, N * s->d));
                }
        free_layer(&f);
    }
    threads_set(before);
    return PASS;
}

// What each form holds, in numbers a position; auto takes the cheapest, never one that cannot be.
static int cache_forms(void) {
    const AttnShape *s = &(AttnShape){.d = 96, .h = 6, .n_kv = 3, .hd = 32};
    static const struct { const char *scheme; int64_t r_embd, r_head, pass; int dense, latent; } cases[] = {
        {"qkvo", 64, 0, 32, 6 * 32, 64},             // one z is all
        {"qkvo", 64, 0, 24, 6 * 32, 3 * 8 + 64},     // and the rotated numbers beside it
        {"qkvo", 64, 0, 0, 6 * 32, 3 * 32 + 64},     // K as it is, V latent
        {"qkvo", 64, 16, 32, 6 * 16, 64},            // U_head cancels in both
        {"qkvo", 64, 16, 0, 3 * 32 + 3 * 16, 3 * 32 + 64},
        {"qk+v+o", 40, 16, 32, 3 * 16 + 3 * 32, 80},
        {"kv", 40, 0, 32, 6 * 32, 40}, {"k", 40, 0, 32, 6 * 32, 40 + 3 * 32},
        {"v", 40, 0, 32, 6 * 32, 40 + 3 * 32}, {"qo", 40, 0, 32, 6 * 32, 6 * 32},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        Factored f;
        int64_t rank[3] = {cases[i].r_embd, cases[i].r_head, 0};
        if (new_layer(&f, s, cases[i].scheme, rank, cases[i].pass, false, 3) == FAIL) return FAIL;
        double bytes[3];
        for (int form = CACHE_AUTO; form <= CACHE_LATENT; form++) {
            Cache c = attention_cache(&f.a, T_F32, 1, form);
            bytes[form] = attention_cache_cost(&f.a, &c).bytes;
        }
        CHECK(bytes[CACHE_DENSE] == 4 * cases[i].dense && bytes[CACHE_LATENT] == 4 * cases[i].latent,
              "%s %d: %g dense, %g latent", cases[i].scheme, i, bytes[CACHE_DENSE], bytes[CACHE_LATENT]);
        CHECK(bytes[CACHE_AUTO] <= bytes[CACHE_DENSE], "%s %d: auto %g", cases[i].scheme, i, bytes[CACHE_AUTO]);
        Cache q8 = attention_cache(&f.a, T_Q8_0, 1, CACHE_AUTO);
        size_t size[3];
        CHECK(cases[i].r_head || cache_size(&q8, size), "%s %d: blocks", cases[i].scheme, i);
        free_layer(&f);
    }
    return PASS;
}

// Large enough for mixed precision: U as orthonormal as ever, it captures what the best in double precision
// does to 1e-10 of it, and what is lost, |W - W'| / |W|, is what tucker_error says to 1e-7.
static int mixed_precision(void) {
    const int64_t n[4] = {576, 16, 8, 12}, r[4] = {288, 16, 8, 12}, cols = count4(n) / n[0];
    double *w = random_tensor(n, 8), *made = numbers(count4(n)), *c = numbers(n[0] * n[0]), *uc = numbers(r[0] * n[0]);
    double *values = numbers(n[0]), captured = 0, best = 0, lost = 0, whole = 0, bent = 0;
    Tucker k;
    CHECK(tucker_hosvd(&k, w, n, r, &err) == 0 && tucker_reconstruct(&k, made, &err) == 0, "%s", err.msg);
    gram(false, n[0], cols, w, cols, c, n[0]);
    dgemm(true, false, r[0], n[0], n[0], k.u[EMBD], r[0], c, n[0], 0, uc, n[0]);
    for (int64_t i = 0; i < r[0]; i++)
        for (int64_t e = 0; e < n[0]; e++) captured += uc[i * n[0] + e] * k.u[EMBD][e * r[0] + i];
    dgemm(true, false, r[0], r[0], n[0], k.u[EMBD], r[0], k.u[EMBD], r[0], 0, uc, r[0]);
    for (int64_t i = 0; i < r[0] * r[0]; i++) bent = fmax(bent, fabs(uc[i] - (i / r[0] == i % r[0])));
    CHECK(eig_sym(c, n[0], values, NULL, &err) == 0, "%s", err.msg);
    for (int64_t i = 0; i < r[0]; i++) best += values[i];
    for (int64_t i = 0; i < count4(n); i++) lost += (w[i] - made[i]) * (w[i] - made[i]), whole += w[i] * w[i];
    CHECK(bent <= 1e-12, "|U'U - I| %g", bent);
    CHECK(fabs(captured - best) <= 1e-10 * best, "captured %.15g of %.15g", captured, best);
    CHECK(fabs(sqrt(lost / whole) - tucker_error(&k, w)) <= 1e-7, "lost %.12g, said to be %.12g", sqrt(lost / whole),
          tucker_error(&k, w));
    CHECK(fabs(lost - (whole - best)) <= 1e-10 * whole, "lost %.15g of %.15g, the least is %.15g", lost, whole,
          whole - best);
    tucker_free(&k);
    free(w), free(made), free(c), free(uc), free(values);
    return PASS;
}

static const Test tests[] = {
    {"mode products are their sums", mode_products},
    {"mixed precision captures as much", mixed_precision},
    {"Gram matrices", gram_matrices},
    {"errors of random tensors", random_tensors},
    {"a tensor with a small core", exact_ranks},
    {"one truncated mode is a truncated SVD", one_mode_is_svd},
    {"ranks out of range are refused", ranks_are_checked},
    {"slices of the attention tensor", slices},
    {"full rank is exact for every set", full_rank_is_exact},
    {"packed parts multiply back, for every set", packed_parts},
    {"zero, equal and dead heads", poor_tensors},
    {"factored attention equals its dense twin", factored_attention},
    {"factored attention over types of cache and threads", factored_caches},
    {"what the forms of a cache hold", cache_forms},
};

int main(int argc, char **argv) { return run_tests("tucker", tests, COUNT(tests), argc, argv); }
