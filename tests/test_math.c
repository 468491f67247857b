// math: doc/MATH.md. Its worked numbers, computed by the program's own functions and looked for in its
// text, and the claims of it that no other test is about.
#include <stdarg.h>

#include "../core/linalg.h"
#include "../export/decompose.h"
#include "../export/weigh.h"
#include "layer.h"

// ---- what the text says -------------------------------------------------------------------------

static char sought[512];

// s without what only lays it out: every stretch of white space becomes one space.
static void squeeze(char *s) {
    char *to = s;
    for (char *c = s; *c; c++) {
        bool space = strchr(" \n", *c) != NULL;
        if (!space) *to++ = *c;
        else if (to > s && to[-1] != ' ') *to++ = ' ';
    }
    *to = 0;
}

// Whether doc/MATH.md says these words, whatever its lines are.
static bool said(const char *format, ...) {
    static char text[1 << 17];
    if (!*text) {
        FILE *f = fopen("doc/MATH.md", "rb");
        if (f) text[fread(text, 1, sizeof text - 1, f)] = 0, fclose(f);
        squeeze(text);
    }
    va_list args;
    va_start(args, format);
    vsnprintf(sought, sizeof sought, format, args);
    va_end(args);
    squeeze(sought);
    return strstr(text, sought) != NULL;
}
#define SAYS(...) CHECK(said(__VA_ARGS__), "doc/MATH.md does not say \"%s\"", sought)

static bool near(double a, double b) { return fabs(a - b) < 4e-6; }

// ---- the worked layer ---------------------------------------------------------------------------

static const AttnShape small = {.d = 4, .h = 2, .n_kv = 2, .hd = 2};
static const float u_embd[2][4] = {{0.5f, 0.5f, 0.5f, 0.5f}, {0.5f, -0.5f, 0.5f, -0.5f}};  // U_embd^T
static const float u_head[2] = {0.6f, 0.8f};
static const float core[4][2][2] = {           // of Q, K, V, O: a pair a head
    {{2, 1}, {2, -1}}, {{1, 0}, {1, 0}}, {{2, 1}, {0, 2}}, {{1, -1}, {-1, 1}}};
static const float tokens[2][4] = {{1, 1, 0, 0}, {1, 0, 1, 0}};       // x_0, x_1

// The layer on its parts; f->w is what they multiply out to.
static int worked_layer(Factored *f, int64_t pass) {
    *f = (Factored){.a = {.shape = small, .pass = pass, .n_groups = 1}};
    Group *g = &f->a.groups[0];
    *g = (Group){.set = 15, .r_embd = 2, .r_head = 1, .r_kind = 4, .kinds = 4,
                 .embd = {u_embd, 2, 4, T_F32}, .head = {u_head, 2, 1, T_F32}};
    for (int p = 0; p < 4; p++) {
        float *m = part(f, 4);
        f->w[p] = part(f, 16);
        for (int i = 0; i < 2; i++)
            for (int r = 0; r < 2; r++) {
                m[p == P_O ? r * 2 + i : i * 2 + r] = core[p][i][r];
                for (int a = 0; a < 2; a++)
                    for (int e = 0; e < 4; e++)
                        f->w[p][p == P_O ? e * 4 + i * 2 + a : (i * 2 + a) * 4 + e] +=
                            u_head[a] * core[p][i][r] * u_embd[r][e];
            }
        f->a.w[p] = (Mat){m, 2, 2, T_F32};
    }
    CHECK(attention_expand(&f->a, &f->owned, &err) == 0, "%s", err.msg);
    return PASS;
}

// The pair of every head, turned by `position` times the angle whose cosine is 0.6 and sine 0.8.
static void turn_pair(float *pair, int position) {
    for (; position > 0; position--) {
        float a = pair[0], b = pair[1];
        pair[0] = 0.6f * a - 0.8f * b;
        pair[1] = 0.8f * a + 0.6f * b;
    }
}

// y of both positions by the chapter's functions, and their k as it is cached.
static int run_worked(const Factored *f, CacheForm form, bool rotary, float y[2][4], float k[2][4]) {
    AttentionWork w;
    Cache c = attention_cache(&f->a, T_F32, 2, form);
    size_t bytes = 0;
    float q[2][4], v[2][4], o[2][4];
    CHECK(cache_alloc(&c, &bytes, &err) == 0 &&
          attention_work(&w, &f->a, sizeof f->a, 1, 2, 4, &err) == 0, "%s", err.msg);
    memset(k, 0, 2 * sizeof *k);
    attention_qkv(&f->a, &w, &c, &tokens[0][0], 2, &q[0][0], &k[0][0], &v[0][0]);
    for (int t = 0; t < 2 && rotary; t++)
        for (int i = 0; i < 2; i++) turn_pair(q[t] + 2 * i, t), turn_pair(k[t] + 2 * i, t);
    attention_store(&f->a, &w, &c, 0, 0, 2, &k[0][0], &v[0][0]);
    attention_mix(&f->a, &w, &c, &q[0][0], 0, 2, 0, 0, &o[0][0]);
    attention_out(&f->a, &w, &o[0][0], 2, &y[0][0]);
    cache_free(&c);
    attention_work_free(&w);
    return PASS;
}

static int worked_tensor(void) {
    Factored f;
    if (worked_layer(&f, 2) == FAIL) return FAIL;
    int64_t n[4];
    double *t = tensor_of(&small, 15, f.w, n), gram[16], back[64];
    const double whole = norm2(t, 64);
    SAYS("The four matrices have %d numbers, the parts 8 + 2 + 16 = %d", (int)dense_params(&small, 15),
         (int)group_params(&small, 15, 2, 1, 4));
    SAYS("W_Q,0 = (%g %g %g %g) (%g %g %g %g)", f.w[P_Q][0], f.w[P_Q][1], f.w[P_Q][2], f.w[P_Q][3],
         f.w[P_Q][4], f.w[P_Q][5], f.w[P_Q][6], f.w[P_Q][7]);
    for (int i = 0; i < 2; i++)
        SAYS("head %d M^Q = (%2g %2g) M^K = (%2g %2g) M^V = (%2g %2g) M^O = (%2g %2g)^T", i, core[P_Q][i][0],
             core[P_Q][i][1], core[P_K][i][0], core[P_K][i][1], core[P_V][i][0], core[P_V][i][1],
             core[P_O][i][0], core[P_O][i][1]);

    // The Gram matrix of EMBD is U_embd diag(16, 9) U_embd^T.
    CHECK(mode_gram(t, n, EMBD, gram, &err) == 0 && near(whole, 25), "|W|^2 %g, %s", whole, err.msg);
    for (int a = 0; a < 4; a++)
        for (int b = 0; b < 4; b++) {
            double want = 16 * u_embd[0][a] * u_embd[0][b] + 9 * u_embd[1][a] * u_embd[1][b];
            CHECK(near(gram[a * 4 + b], want), "Gram [%d][%d]: %g, not %g", a, b, gram[a * 4 + b], want);
        }
    SAYS("the Gram matrix of EMBD is U_embd diag(16, 9) U_embd^T, and |W|^2 = 25");

    Tucker k;
    CHECK(tucker_hosvd(&k, t, n, (int64_t[]){2, 1, 4, 2}, &err) == 0, "%s", err.msg);
    CHECK(tucker_error(&k, t) < 1e-6, "error %g", tucker_error(&k, t));
    CHECK(near(fabs(k.u[HEAD][0]), 0.6) && near(fabs(k.u[HEAD][1]), 0.8), "U_head %g %g", k.u[HEAD][0],
          k.u[HEAD][1]);
    tucker_free(&k);
    CHECK(tucker_hosvd(&k, t, n, (int64_t[]){1, 1, 4, 2}, &err) == 0 &&
          tucker_reconstruct(&k, back, &err) == 0, "%s", err.msg);
    double lost = 0;
    for (int i = 0; i < 64; i++) lost += (t[i] - back[i]) * (t[i] - back[i]);
    CHECK(near(sqrt(lost / whole), tucker_error(&k, t)), "%g", lost);
    SAYS("|G|^2 = %.0f, and the error is sqrt(25 - 16) / sqrt(25) = %.1f", norm2(k.core, 8), tucker_error(&k, t));
    tucker_free(&k);
    free(t);
    free_layer(&f);
    return PASS;
}

static int worked_plain(void) {
    Factored f;
    if (worked_layer(&f, 2) == FAIL) return FAIL;
    float z[2][2] = {{0}}, y[2][4], want[2][4], k[2][4];
    double score[2][2], value[2][2], o[2];
    for (int t = 0; t < 2; t++)
        for (int r = 0; r < 2; r++)
            for (int e = 0; e < 4; e++) z[t][r] += u_embd[r][e] * tokens[t][e];
    SAYS("z_0 = (%g, %g) z_1 = (%g, %g)", z[0][0], z[0][1], z[1][0], z[1][1]);
    #define TIMES(p, i, t) (core[p][i][0] * z[t][0] + core[p][i][1] * z[t][1])
    for (int i = 0; i < 2; i++)
        for (int t = 0; t < 2; t++) {
            score[i][t] = TIMES(P_Q, i, 1) * TIMES(P_K, i, t);
            value[i][t] = TIMES(P_V, i, t);
            o[i] = (value[i][0] + value[i][1]) / 2;
        }
    SAYS("M^Q z_1 = %g M^K z_0 = %g M^K z_1 = %g scores %g and %g (before / sqrt(2))", TIMES(P_Q, 0, 1),
         TIMES(P_K, 0, 0), TIMES(P_K, 0, 1), score[0][0], score[0][1]);
    SAYS("M^V z_0 = %g M^V z_1 = %g their mean %g", value[0][0], value[0][1], o[0]);
    SAYS("of head 1, likewise: scores %g and %g, values %g and %g, mean %g", score[1][0], score[1][1],
         value[1][0], value[1][1], o[1]);

    // By the definition, and by the chapter with k as wide as a core, and with no k at all.
    attention_dense_twin(&small, (const float *const *)f.w, &tokens[0][0], 2, &want[0][0]);
    for (int form = CACHE_DENSE; form <= CACHE_LATENT; form++) {
        if (run_worked(&f, (CacheForm)form, false, y, k) == FAIL) return FAIL;
        CHECK(apart(&y[0][0], &want[0][0], 8) < 1e-6, "form %d: %g", form, apart(&y[0][0], &want[0][0], 8));
        for (int i = 0; i < 4 && form == CACHE_DENSE; i++)                  // (2 positions, 2 heads) of 1
            CHECK(k[0][i] == 1 && k[1][i] == 0, "k[%d] is %g", i, k[0][i]);
    }
    SAYS("y_1 = U_embd (%g, %g) = (%g, %g, %g, %g)", core[P_O][0][0] * o[0] + core[P_O][1][0] * o[1],
         core[P_O][0][1] * o[0] + core[P_O][1][1] * o[1], fabs(round(y[1][0])), round(10 * y[1][1]) / 10,
         fabs(round(y[1][2])), round(10 * y[1][3]) / 10);
    CHECK(near(y[1][0], 0) && near(y[1][1], 1.5), "y_1 = %g %g", y[1][0], y[1][1]);

    // Absorbed.
    SAYS("q~ = (1 0)^T 3 = (%g, %g)", core[P_K][0][0] * TIMES(P_Q, 0, 1), core[P_K][0][1] * TIMES(P_Q, 0, 1));
    SAYS("the weighted sum of latents is (%g, %g), and M^V makes %g of it", (z[0][0] + z[1][0]) / 2,
         (z[0][1] + z[1][1]) / 2, core[P_V][0][0] + core[P_V][0][1] / 2);
    free_layer(&f);
    return PASS;
}

static int worked_rotary(void) {
    Factored f;
    if (worked_layer(&f, 0) == FAIL) return FAIL;
    double between[3];
    for (int distance = 0; distance < 3; distance++) {                      // U_head^T R U_head
        float u[2] = {u_head[0], u_head[1]};
        turn_pair(u, distance);
        between[distance] = u_head[0] * u[0] + u_head[1] * u[1];
    }
    SAYS("distance 0: %.0f distance 1: %.1f distance 2: %.2f", between[0], between[1], between[2]);
    // Both heads have M^K z = 1; M^Q z_1 is 3 and 1.
    double o[2], first[2];
    for (int i = 0; i < 2; i++) {
        double q = i ? 1 : 3, s[2] = {q * between[1], q * between[0]};
        double w = exp(s[0] / sqrt(2)) / (exp(s[0] / sqrt(2)) + exp(s[1] / sqrt(2)));
        first[i] = w;
        o[i] = i ? 2 * (1 - w) : 2 * w + 3 * (1 - w);
        if (i == 0) SAYS("head 0 scores %.1f and %.0f and weighs %.3f and %.3f", s[0], s[1], w, 1 - w);
        if (i == 1) SAYS("Scores %.1f and %.0f before / sqrt(2): weights %.3f and %.3f.", s[0], s[1], w, 1 - w);
    }
    SAYS("there would be %.0f, %.1f and %.2f at distances 0, 1 and 2", 3 * between[0], 3 * between[1],
         3 * between[2]);
    float y[2][4], k[2][4];
    for (int form = CACHE_DENSE; form <= CACHE_LATENT; form++) {
        if (run_worked(&f, (CacheForm)form, true, y, k) == FAIL) return FAIL;
        CHECK(near(y[1][0], 0) && near(y[1][1], o[0] - o[1]) && near(y[1][2], 0) && near(y[1][3], o[0] - o[1]),
              "form %d: %g %g %g %g, not 0 %g 0 %g", form, y[1][0], y[1][1], y[1][2], y[1][3], o[0] - o[1],
              o[0] - o[1]);
        CHECK(near(k[0][0], 0.6) && near(k[0][1], 0.8), "k of position 0 is %g %g", k[0][0], k[0][1]);
        SAYS("y_1 = (0, %.3f, 0, %.3f)", y[1][1], y[1][3]);
    }
    CHECK(first[0] < 0.5 && first[1] < 0.5, "weights %g %g", first[0], first[1]);
    free_layer(&f);
    return PASS;
}

// Numbers a position of the worked layer's cache, with and without rotation, in every form; its costs.
static int worked_cache(void) {
    int numbers_of[2][3];
    for (int rotary = 0; rotary < 2; rotary++) {
        Factored f;
        if (worked_layer(&f, rotary ? 0 : 2) == FAIL) return FAIL;
        Attention plain = {.shape = small, .group_of = {-1, -1, -1, -1}, .pass = f.a.pass};
        for (int form = 0; form < 3; form++) {
            const Attention *a = form ? &f.a : &plain;
            Cache c = attention_cache(a, T_F32, 1, form == 2 ? CACHE_LATENT : CACHE_DENSE);
            numbers_of[rotary][form] = (int)(attention_cache_cost(a, &c).bytes / 4);
        }
        // U_embd twice, the cores, and with rotation U_head for q and k of both heads.
        const double want = 2 * 8 + 16 + (rotary ? 4 * 2 : 0);
        CHECK(attention_cost(&f.a).madds == want, "%g multiply-adds, not %g", attention_cost(&f.a).madds, want);
        free_layer(&f);
    }
    SAYS("| 2 n_kv r_head | r_embd | %d, %d, %d |", numbers_of[0][0], numbers_of[0][1], numbers_of[0][2]);
    SAYS("| n_kv hd + r_embd | %d, %d, %d |", numbers_of[1][0], numbers_of[1][1], numbers_of[1][2]);
    return PASS;
}

static int worked_weights(void) {
    const double w[4] = {3, 0, 0, 1}, c[4] = {1, 0, 0, 100};
    Weighted weighted, plain;
    double loss[2];
    CHECK(weigh(&weighted, w, 2, 2, c, (Metric){NULL, 0}, 0, &err) == 0 &&
          weigh(&plain, w, 2, 2, NULL, (Metric){NULL, 0}, 0, &err) == 0, "%s", err.msg);
    SAYS("The eigenvalues of W C W^T are %.0f and %.0f", weighted.values[0], weighted.values[1]);
    for (int i = 0; i < 2; i++) {
        const Weighted *x = i ? &plain : &weighted;
        const double b[2] = {x->left[0], x->left[2]};
        CHECK(near(fabs(b[!i]), 1) && near(fabs(x->right[!i]), i ? 3 : 1), "case %d keeps %g", i, x->right[!i]);
        CHECK(weighted_loss_of(w, 2, 2, c, (Metric){NULL, 0}, b, x->right, 1, &loss[i], &err) == 0, "%s", err.msg);
    }
    SAYS("keep the 1 and lose %.0f; the SVD of W keeps the 3 and, by the same measure, loses %.0f", loss[0], loss[1]);
    weighted_free(&weighted);
    weighted_free(&plain);
    return PASS;
}

static int worked_pivots(void) {
    const double a[6] = {2, 0, 1, 0, 1, 0.5};
    double b[4] = {1, 0, 0, 1}, x[2];
    int32_t pivot[2];
    CHECK(pivot_factors(b, 2, a, 2, 3, pivot, x, &err) == 0, "%s", err.msg);
    SAYS("has the pivots %d and %d, L = diag(%g, %g) and X = (%g, %g)^T", pivot[0], pivot[1], b[0], b[3], x[0], x[1]);
    CHECK(b[1] == 0 && b[2] == 0, "L has %g and %g", b[1], b[2]);
    return PASS;
}

// ---- claims -------------------------------------------------------------------------------------

// For a random orthonormal U_head, and for one whose columns are whole pairs.
static int between(void) {
    enum { HD = 8, R = 4, FAR = 6 };
    double q[HD * R], pairs[HD * R] = {0}, b[2][FAR][R * R];
    uint64_t seed = 1;
    for (int i = 0; i < HD * R; i++) q[i] = uniform(&seed);
    CHECK(qr(q, HD, R, NULL, &err) == 0, "%s", err.msg);
    for (int i = 0; i < R; i++) pairs[(i < 2 ? i : i + 2) * R + i] = 1;     // unit vectors 0, 1, 4, 5
    for (int which = 0; which < 2; which++)
        for (int distance = 0; distance < FAR; distance++)
            for (int j = 0; j < R; j++) {
                const double *u = which ? pairs : q;
                float column[HD];
                for (int i = 0; i < HD; i++) column[i] = (float)u[i * R + j];
                turn(column, 1, HD, HD, distance);
                for (int i = 0; i < R; i++) {
                    double *to = &b[which][distance][i * R + j];
                    *to = 0;
                    for (int e = 0; e < HD; e++) *to += u[e * R + i] * column[e];
                }
            }
    for (int which = 0; which < 2; which++)
        for (int i = 0; i < R * R; i++)
            CHECK(near(b[which][0][i], i / R == i % R), "distance 0 [%d]: %g", i, b[which][0][i]);
    for (int one = 0; one < FAR; one++)
        for (int other = 0; other < one; other++) {
            double far = 0;
            for (int i = 0; i < R * R; i++) far = fmax(far, fabs(b[0][one][i] - b[0][other][i]));
            CHECK(far > 0.02, "distances %d and %d are %g apart", one, other, far);
        }
    double off[2] = {0};                                                   // of B^T B from I, at distance 1
    for (int which = 0; which < 2; which++)
        for (int i = 0; i < R * R; i++) {
            double sum = 0;
            for (int e = 0; e < R; e++) sum += b[which][1][e * R + i / R] * b[which][1][e * R + i % R];
            off[which] = fmax(off[which], fabs(sum - (i / R == i % R)));
        }
    CHECK(off[0] > 0.02 && off[1] < 1e-6, "B'B is %g and %g off the identity", off[0], off[1]);
    return PASS;
}

// y of a layer without its biases of k, and of v: what each of them does, in both forms of the cache.
static int biases(void) {
    const AttnShape *s = &(AttnShape){.d = 16, .h = 4, .n_kv = 2, .hd = 6};
    static const char *const scheme[] = {"qkvo", "qk+v+o", "kv", ""};
    enum { N = 9 };
    for (int i = 0; i < 2 * COUNT(scheme); i++) {
        Factored f;
        const bool rotary = i % 2;
        const int64_t rank[3] = {10, 3, 0};
        if (new_layer(&f, s, scheme[i / 2], rank, rotary ? 0 : s->hd, true, (uint64_t)i) == FAIL) return FAIL;
        uint64_t seed = 2;
        float *in = random_part(&f, N * s->d, 1.7, &seed), *all = part(&f, N * s->d);
        float *no_k = part(&f, N * s->d), *no_v = part(&f, N * s->d), *moved = part(&f, s->d);
        for (int64_t e = 0; e < s->d; e++)                                  // W_O b_v, every query head
            for (int64_t c = 0; c < s->h * s->hd; c++)
                moved[e] += f.w[P_O][e * s->h * s->hd + c] *
                            f.bias[P_V][c / s->hd / 2 * s->hd + c % s->hd];
        for (int form = CACHE_DENSE; form <= CACHE_LATENT; form++) {
            if (run_layer(&f, T_F32, (CacheForm)form, in, N, 4, 0, all) == FAIL) return FAIL;
            f.a.bias[P_K] = NULL;
            if (run_layer(&f, T_F32, (CacheForm)form, in, N, 4, 0, no_k) == FAIL) return FAIL;
            f.a.bias[P_K] = f.bias[P_K], f.a.bias[P_V] = NULL;
            if (run_layer(&f, T_F32, (CacheForm)form, in, N, 4, 0, no_v) == FAIL) return FAIL;
            f.a.bias[P_V] = f.bias[P_V];
            double k = apart(all, no_k, N * s->d), v = 0;
            for (int64_t j = 0; j < N * s->d; j++)
                v = fmax(v, fabs((double)all[j] - no_v[j] - moved[j % s->d]));
            CHECK(rotary ? k > 1e-3 : k < 1e-5, "%s, rotary %d, form %d: b_k changes y by %g", scheme[i / 2], rotary,
                  form, k);
            CHECK(v < 1e-5, "%s, rotary %d, form %d: b_v is %g off W_O b_v", scheme[i / 2], rotary, form, v);
        }
        free_layer(&f);
    }
    return PASS;
}

// Which order attention_mix took, by its bits: they are those of attend told to absorb, or to rebuild.
static int order_of(const AttnShape *s, int64_t r_embd, int64_t n, bool *rebuilds) {
    Factored f = {.a = {.shape = *s, .pass = s->hd, .n_groups = 1}};
    uint64_t seed = 7;
    Attention *a = &f.a;
    a->groups[0] = (Group){.set = 15, .r_embd = r_embd, .r_head = s->hd, .r_kind = group_kinds(15, s->h / s->n_kv),
                           .kinds = group_kinds(15, s->h / s->n_kv)};
    for (int p = P_K; p <= P_V; p++) {
        float *m = random_part(&f, s->n_kv * s->hd * r_embd, 1 / sqrt((double)r_embd), &seed);
        a->w[p] = (Mat){m, s->n_kv * s->hd, r_embd, T_F32};
    }
    float *z = random_part(&f, n * r_embd, 1, &seed), *q = random_part(&f, n * s->h * s->hd, 1, &seed);
    float *o[3] = {part(&f, n * s->h * s->hd), part(&f, n * s->h * s->hd), part(&f, n * s->h * s->hd)};
    float *sums = part(&f, n * s->h * r_embd);
    AttentionWork w;
    Cache c = attention_cache(a, T_F32, n, CACHE_LATENT);
    size_t bytes = 0, size = (size_t)(n * s->h * s->hd) * sizeof(float);
    CHECK(attention_expand(a, &f.owned, &err) == 0 && cache_alloc(&c, &bytes, &err) == 0 &&
          attention_work(&w, a, sizeof *a, 1, n, s->d, &err) == 0, "%s", err.msg);
    CHECK(c.shared && c.z_width == r_embd && !c.k_width, "the cache is not z alone");
    cache_store(&c, 0, n, q, s->hd, z, z);
    attention_mix(a, &w, &c, q, 0, n, 0, 0, o[2]);
    for (int rebuild = 0; rebuild < 2; rebuild++) {
        Attend job = {.cache = &c, .n_heads = s->h, .n = n, .scale = 1 / sqrtf((float)s->hd), .q = q,
                      .q_width = s->hd, .keys = {&a->expand[P_K], rebuild}, .values = {&a->expand[P_V], rebuild},
                      .out_width = rebuild ? s->hd : r_embd, .out = rebuild ? o[1] : sums};
        attend(&job, &w.attend);
        if (!rebuild) matmul_heads(&w.scratch, n, s->h, s->n_kv, &a->expand[P_V], sums, o[0]);
    }
    CHECK(apart(o[0], o[1], n * s->h * s->hd) < 1e-4, "the orders are %g apart", apart(o[0], o[1], n * s->h * s->hd));
    CHECK(memcmp(o[0], o[1], size), "the orders cannot be told apart");
    *rebuilds = !memcmp(o[2], o[1], size);
    CHECK(*rebuilds || !memcmp(o[2], o[0], size), "neither order");
    cache_free(&c);
    attention_work_free(&w);
    free_layer(&f);
    return PASS;
}

static int cheaper_order(void) {
    static const struct { AttnShape s; int64_t r_embd, n; } cases[] = {      // n: from here on it rebuilds
        {{.d = 768, .h = 12, .n_kv = 12, .hd = 64}, 256, 86}, {{.d = 16, .h = 2, .n_kv = 2, .hd = 8}, 24, 13},
        {{.d = 16, .h = 4, .n_kv = 2, .hd = 8}, 24, 7},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        const AttnShape *s = &cases[i].s;
        for (int64_t n = cases[i].n - 1; n <= cases[i].n; n++) {
            bool rebuilds;
            double absorb = (double)(n * s->h * cases[i].r_embd);            // multiply-adds a position
            double rebuild = (double)(s->n_kv * s->hd * cases[i].r_embd + n * s->h * s->hd);
            if (order_of(s, cases[i].r_embd, n, &rebuilds) == FAIL) return FAIL;
            CHECK(rebuilds == (rebuild < absorb) && rebuilds == (n == cases[i].n), "case %d, %d queries: %s, %g to "
                  "rebuild, %g to absorb", i, (int)n, rebuilds ? "rebuilt" : "absorbed", rebuild, absorb);
        }
    }
    SAYS("GPT-2's shape (12 heads of 64) with r_embd = %d, from %d queries on", 256, 86);
    return PASS;
}

// Random numbers, of which each mode has strong and weak directions.
static double *uneven_tensor(const int64_t n[4], uint64_t seed) {
    double *t = numbers(count4(n));
    for (int64_t i = 0; i < count4(n); i++) {
        int64_t e = i / n[3] / n[2] / n[1], a = i / n[3] / n[2] % n[1], k = i / n[3] % n[2];
        t[i] = uniform(&seed) / (1 + (double)e) / (1 + (double)a * 0.5) / (1 + (double)k * 0.3);
    }
    return t;
}

static int tails(void) {
    const int64_t n[4] = {14, 9, 5, 3};
    static const int64_t ranks[][4] = {{7, 4, 3, 3}, {3, 9, 2, 3}, {14, 5, 4, 3}, {2, 2, 2, 3}, {13, 8, 4, 3}};
    for (uint64_t seed = 1; seed <= 5; seed++)
        for (int i = 0; i < COUNT(ranks); i++) {
            double *t = uneven_tensor(n, seed), most = 0, sum = 0;
            for (int mode = 0; mode < 3; mode++) {
                double c[14 * 14], l[14], v[14 * 14], tail = 0;
                CHECK(mode_gram(t, n, mode, c, &err) == 0 && eig_sym(c, n[mode], l, v, &err) == 0, "%s", err.msg);
                for (int64_t k = ranks[i][mode]; k < n[mode]; k++) tail += l[k];
                most = fmax(most, tail);
                sum += tail;
            }
            Tucker first, best;
            const double whole = norm2(t, count4(n));
            CHECK(tucker_hosvd(&first, t, n, ranks[i], &err) == 0 &&
                  tucker_hooi(&best, t, n, ranks[i], 60, 1e-12, &err) == 0, "%s", err.msg);
            double lost = pow(tucker_error(&first, t), 2) * whole, least = pow(tucker_error(&best, t), 2) * whole;
            CHECK(lost <= sum * (1 + 1e-12) && least >= most * (1 - 1e-12), "ranks %d: %g and %g, tails %g to %g", i,
                  lost, least, most, sum);
            CHECK(lost <= 3 * least * (1 + 1e-12), "ranks %d: HOSVD loses %g, HOOI %g", i, lost, least);
            tucker_free(&first), tucker_free(&best);
            free(t);
        }
    return PASS;
}

static int sweeps(void) {
    const int64_t n[4] = {14, 9, 5, 3}, r[4] = {4, 3, 2, 3};
    for (uint64_t seed = 1; seed <= 6; seed++) {
        double *t = uneven_tensor(n, seed), before = INFINITY, gained = 0;
        for (int made = 0; made < 8; made++) {
            Tucker k;
            CHECK(tucker_hooi(&k, t, n, r, made, 0, &err) == 0, "%s", err.msg);
            double error = tucker_error(&k, t);
            CHECK(error <= before * (1 + 1e-12), "sweep %d: %.15g after %.15g", made, error, before);
            if (made) gained += before - error;
            before = error;
            tucker_free(&k);
        }
        CHECK(gained > 1e-5, "sweeps gained %g", gained);
        free(t);
    }
    return PASS;
}

// Factors of grouped heads, as the exporter finds them, are those of the layer with K and V repeated.
static int as_if_repeated(void) {
    const AttnShape grouped = {.d = 12, .h = 6, .n_kv = 2, .hd = 5}, repeated = {.d = 12, .h = 6, .n_kv = 6, .hd = 5};
    static const int sets[] = {15, HAS_Q | HAS_K | HAS_V, HAS_K | HAS_O, HAS_V};
    for (int i = 0; i < 2 * COUNT(sets); i++) {
        const int set = sets[i / 2], rounds = i % 2 ? 5 : 0;
        float *w[4], *wide_w[4];
        uint64_t seed = 3;
        for (int p = 0; p < 4; p++) {
            const int64_t block = grouped.hd * grouped.d, size = size_of(&grouped, p);
            w[p] = calloc((size_t)size, sizeof(float));
            wide_w[p] = calloc((size_t)size_of(&repeated, p), sizeof(float));
            for (int64_t j = 0; j < size; j++) w[p][j] = (float)uniform(&seed);
            for (int64_t j = 0; j < size_of(&repeated, p); j++)              // head j is a copy of KV head j / 3
                wide_w[p][j] = w[p][p == P_Q || p == P_O ? j : j / block / 3 * block + j % block];
        }
        int64_t n[4], rank[4] = {5, 3, group_kinds(set, 1), 6};
        double *t = tensor_of(&repeated, set, wide_w, n), error[4];
        Tucker k;
        CHECK(tucker_hooi(&k, t, n, rank, rounds, 1e-5, &err) == 0, "%s", err.msg);
        GroupPlan plan = {.set = set, .rank = {5, 3, group_kinds(set, 3)}};
        GroupParts parts;
        CHECK(decompose_group(&grouped, &plan, w, rounds, &parts, error, &err) == 0, "%s", err.msg);
        for (int mode = EMBD; mode <= HEAD; mode++) {
            const int64_t r = rank[mode], rows = n[mode];
            const float *u = parts.part[mode == EMBD ? PART_EMBD : PART_HEAD];
            for (int64_t c = 0; c < r; c++) {
                double cosine = 0;
                for (int64_t e = 0; e < rows; e++)
                    cosine += k.u[mode][e * r + c] * (double)u[mode == EMBD ? c * rows + e : e * r + c];
                CHECK(fabs(fabs(cosine) - 1) < 1e-5, "set %d, mode %d, column %d: cosine %g", set, mode, (int)c, cosine);
            }
        }
        tucker_free(&k);
        parts_free(&parts);
        free(t);
        for (int p = 0; p < 4; p++) free(w[p]), free(wide_w[p]);
    }
    return PASS;
}

// Multiply-adds of a token in a layer whose group has a mixed core, without what U_embd takes.
static int core_work(const char *scheme, int64_t r_kind, int64_t *slices, int64_t *stored) {
    const AttnShape *s = &(AttnShape){.d = 24, .h = 4, .n_kv = 4, .hd = 6};
    Factored f;
    const int64_t rank[3] = {12, 0, r_kind};
    if (new_layer(&f, s, scheme, rank, s->hd, false, 1) == FAIL) return FAIL;
    const Group *g = &f.a.groups[0];
    const int64_t slice = s->n_kv * g->r_head * g->r_embd, sides = g->set & HAS_O ? 2 : 1;
    int64_t mixing = 0, dense = 0;
    for (int p = 0; p < 4; p++) {
        if (g->set & 1 << p) mixing += g->kind.rows ? heads_of(s, p) * g->r_kind * g->r_head : 0;
        else dense += size_of(s, p);
    }
    *slices = (int64_t)attention_cost(&f.a).madds - sides * s->d * g->r_embd - mixing - dense;
    CHECK(*slices % slice == 0, "%d multiply-adds in slices of %d", (int)*slices, (int)slice);
    *slices /= slice;
    *stored = (g->kind.rows ? g->core.rows * g->core.cols : group_kinds(g->set, 1) * slice) / slice;
    free_layer(&f);
    return PASS;
}

static int mixed_costs(void) {
    static const struct { const char *scheme; int64_t r_kind; int slices, stored; } cases[] = {
        {"qkvo", 4, 4, 4}, {"qkvo", 3, 6, 3}, {"qkvo", 2, 4, 2}, {"qkvo", 1, 2, 1}, {"qkv", 3, 3, 3}, {"qkv", 2, 2, 2},
        {"kv", 1, 1, 1},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        int64_t slices, stored;
        if (core_work(cases[i].scheme, cases[i].r_kind, &slices, &stored) == FAIL) return FAIL;
        CHECK(slices == cases[i].slices && stored == cases[i].stored, "%s, r_kind %d: %d products of a slice, %d stored",
              cases[i].scheme, (int)cases[i].r_kind, (int)slices, (int)stored);
    }
    return PASS;
}

// ---- exercises ----------------------------------------------------------------------------------

// Numbers a position of a cache, dense and latent, and the form that is chosen for f16.
static void cache_numbers(const AttnShape *s, int64_t pass, int64_t r_embd, int out[2], bool *latent) {
    const int64_t kinds = group_kinds(15, s->h / s->n_kv);
    Attention a = {.shape = *s, .n_groups = 1, .pass = pass,
                   .groups = {{.set = 15, .r_embd = r_embd, .r_head = s->hd, .r_kind = kinds, .kinds = kinds}}};
    for (int form = CACHE_DENSE; form <= CACHE_LATENT; form++) {
        Cache c = attention_cache(&a, T_F32, 1, (CacheForm)form);
        out[form - CACHE_DENSE] = (int)(attention_cache_cost(&a, &c).bytes / 4);
    }
    Cache c = attention_cache(&a, T_F16, 1, CACHE_AUTO);
    *latent = c.latent || c.z_width;
}

static int answers(void) {
    // 1: the largest r_embd that stores less than dense, of d = 768.
    const AttnShape gpt2 = {.d = 768, .h = 12, .n_kv = 12, .hd = 64};
    static const struct { int set[4]; double part; } schemes_of[] = {
        {{15}, 0.8}, {{HAS_Q | HAS_K | HAS_V, HAS_O}, 2.0 / 3}, {{HAS_Q, HAS_K, HAS_V, HAS_O}, 0.5}};
    for (int i = 0; i < COUNT(schemes_of); i++) {
        int64_t most = 0;
        for (int64_t r = 1; r <= 768; r++) {
            int64_t stored = 0;
            for (int g = 0; g < 4; g++) {
                const int set = schemes_of[i].set[g];
                if (set) stored += group_params(&gpt2, set, r, 64, group_kinds(set, 1));
                CHECK(!set || r == 768 || set == 15 || pivoted_params(&gpt2, set, r) < dense_params(&gpt2, set),
                      "pivoted, set %d, rank %d", set, (int)r);
            }
            if (stored < dense_params(&gpt2, 15)) most = r;
        }
        CHECK(most == (int64_t)ceil(schemes_of[i].part * 768) - 1, "scheme %d: %d", i, (int)most);
    }
    SAYS("r < 0.8 d. `qkv+o`: (d r + 3 d r) + (d r + d r) = 6 d r, r < 2/3 d. `q+k+v+o`: 8 d r, r < d/2.");
    CHECK(pivoted_params(&gpt2, HAS_Q, 100) == 100 * (2 * 768 - 100) &&
          pivoted_params(&gpt2, HAS_Q | HAS_K | HAS_V, 100) == 100 * (4 * 768 - 100), "pivoted numbers");

    // 5
    static const struct { const char *name; AttnShape s; int64_t pass, r_embd; } models[] = {
        {"GPT-2", {.d = 768, .h = 12, .n_kv = 12, .hd = 64}, 64, 256},
        {"GPT-J", {.d = 4096, .h = 16, .n_kv = 16, .hd = 256}, 192, 1024},
        {"LLaMA-2-7B", {.d = 4096, .h = 32, .n_kv = 32, .hd = 128}, 0, 1024},
        {"SmolLM2", {.d = 576, .h = 9, .n_kv = 3, .hd = 64}, 0, 288},
    };
    int n[4][2];
    bool latent[4];
    for (int i = 0; i < 4; i++) cache_numbers(&models[i].s, models[i].pass, models[i].r_embd, n[i], &latent[i]);
    SAYS("GPT-2 1,%d and %d; GPT-J 8,%d and 2,%03d; LLaMA-2-7B 8,%d and 5,%d; SmolLM2 %d and %d: there", n[0][0] - 1000,
         n[0][1], n[1][0] - 8000, n[1][1] - 2000, n[2][0] - 8000, n[2][1] - 5000, n[3][0], n[3][1]);
    CHECK(latent[0] && !latent[3], "auto: %d, %d", latent[0], latent[3]);

    // 6: r_embd = h hd, nothing rotated.
    Attention a = {.shape = gpt2, .n_groups = 1, .pass = 64,
                   .groups = {{.set = 15, .r_embd = 768, .r_head = 64, .r_kind = 4, .kinds = 4}}};
    Cache dense = attention_cache(&a, T_F32, 1, CACHE_DENSE), z = attention_cache(&a, T_F32, 1, CACHE_LATENT);
    Cost d = attention_cache_cost(&a, &dense), l = attention_cache_cost(&a, &z);
    CHECK(d.bytes == 2 * l.bytes && l.madds == 12 * d.madds && d.madds == 2 * 12 * 64, "%g and %g bytes, %g and %g",
          d.bytes, l.bytes, d.madds, l.madds);
    return mixed_costs();                                                    // 8
}

static const Test tests[] = {
    {"worked: a tensor of 64 numbers from 26", worked_tensor},
    {"worked: without positions U_head cancels", worked_plain},
    {"worked: with rotary positions it stays", worked_rotary},
    {"worked: what a position takes in the cache", worked_cache},
    {"worked: the input decides which direction is kept", worked_weights},
    {"worked: two of three columns are pivots", worked_pivots},
    {"U_head^T R U_head is another matrix at every distance", between},
    {"biases of keys and of values", biases},
    {"absorbed or rebuilt, whichever takes fewer", cheaper_order},
    {"HOSVD loses at most the tails of its modes", tails},
    {"a sweep of HOOI never loses", sweeps},
    {"K and V weigh as if repeated", as_if_repeated},
    {"what a mixed core costs", mixed_costs},
    {"answers to the exercises", answers},
};

int main(int argc, char **argv) { return run_tests("math", tests, COUNT(tests), argc, argv); }
