// attend against its definition on the same cache: head layouts, windows, cache types, latent keys
// and values both ways, apart and shared; equal bits for any number of threads and of queries
// computed together.
#include "../core/attend.h"
#include "isas.h"

static const int types[] = {T_F32, T_F16, T_Q8_0};

static uint64_t seed = 7;
static void fill(float *x, int64_t n, float a) {
    for (int64_t i = 0; i < n; i++) x[i] = (2 * random_f32(&seed) - 1) * a;
}
static float *floats(int64_t n) { return alloc((size_t)n, sizeof(float), "floats", NULL); }

typedef struct {
    int64_t n_heads, n_kv, k_width, v_width, out_width, window;
    bool latent;
    int expand;                 // the type of M
    struct {
        int64_t z_width, made;  // of keys: latents, and the numbers that are made from them
        bool shared;
    };
} Case;

// A filled cache of `n` positions, queries for all of them, M of keys and of values: freed by done.
typedef struct { Cache c; Mat m[2]; float *q, *out; } World;

static Mat random_matrix(int type, int64_t rows, int64_t cols) {
    size_t row = 0;
    row_size(type, cols, &row);
    char *data = alloc((size_t)rows * row, 1, "M", NULL);
    float *x = floats(cols);
    for (int64_t r = 0; r < rows; r++) {
        fill(x, cols, 1);
        quantize_row(type, x, data + (size_t)r * row, cols);
    }
    free(x);
    return (Mat){data, rows, cols, type};
}

static int make(World *w, const Case *s, int type, int64_t n) {
    *w = (World){.c = {.type = type, .capacity = n + 3, .n_kv = s->n_kv, .k_width = s->k_width,
                       .v_width = s->v_width, .z_width = s->z_width, .latent = s->latent,
                       .shared = s->shared}};
    size_t bytes = 0;
    Err e;
    CHECK(cache_alloc(&w->c, &bytes, &e) == 0, "%s", e.msg);
    const int64_t q_width = s->k_width + s->made, v_heads = s->latent ? 1 : s->n_kv;
    const int64_t k_row = s->k_width + 5;                  // only the first numbers are cached
    w->q = floats(n * s->n_heads * q_width);
    w->out = floats(n * s->n_heads * (s->out_width > s->v_width ? s->out_width : s->v_width));
    float *k = floats(n * s->n_kv * k_row), *v = floats(n * v_heads * s->v_width);
    float *z = floats(n * s->z_width);
    fill(w->q, n * s->n_heads * q_width, s->made ? 1 : 2);
    fill(k, n * s->n_kv * k_row, 2);
    fill(v, n * v_heads * s->v_width, 1);
    fill(z, n * s->z_width, 1);
    // In two parts, as a prompt and what follows it.
    const int64_t first = n / 3;
    cache_store(&w->c, 0, first, k, k_row, v, z);
    cache_store(&w->c, first, n - first, k + first * s->n_kv * k_row, k_row,
                v + first * v_heads * s->v_width, z + first * s->z_width);
    free(k);
    free(v);
    free(z);
    // Where there are rotated numbers, each head's rows of M begin with some that are not used.
    if (s->made) w->m[0] = random_matrix(s->expand, s->n_kv * (s->made + (s->k_width ? 3 : 0)), s->z_width);
    if (s->latent) w->m[1] = random_matrix(s->expand, s->n_kv * s->out_width, s->v_width);
    return PASS;
}

static void done(World *w) {
    cache_free(&w->c);
    for (int i = 0; i < 2; i++) free((void *)(uintptr_t)w->m[i].data);
    free(w->q);
    free(w->out);
}

// Numbers of a head of the answer: of latents that are not rebuilt their sums.
static int64_t width_of(const Case *s, int rebuild) {
    return s->latent && !(rebuild & 1) ? s->v_width : s->out_width;
}

// The answer of attend, or without scratch of its definition; sums of latents, which stand head by head, are
// put query by query.
static void answer(const Attend *a, AttendScratch *m) {
    const int64_t heads = a->n_heads, n = a->n, width = a->out_width;
    if (m) attend(a, m);
    else attend_naive(a);
    if (!a->cache->latent || a->values.rebuild) return;
    float *copy = floats(n * heads * width);
    memcpy(copy, a->out, (size_t)(n * heads * width) * sizeof *copy);
    for (int64_t i = 0; i < n * heads; i++)
        memcpy(a->out + i * width, copy + (i % heads * n + i / heads) * width, (size_t)width * sizeof *copy);
    free(copy);
}

// rebuild: bit 0 of values, bit 1 of keys.
static Attend question(const World *w, const Case *s, int64_t pos, int64_t n, int rebuild, float *out) {
    return (Attend){.cache = &w->c, .n_heads = s->n_heads, .n = n, .pos = pos, .window = s->window,
                    .scale = 1 / sqrtf((float)(s->k_width + s->made)),
                    .q = w->q + pos * s->n_heads * (s->k_width + s->made),
                    .q_width = s->k_width + s->made, .keys = {&w->m[0], (rebuild & 2) > 0},
                    .values = {&w->m[1], rebuild & 1}, .out_width = width_of(s, rebuild), .out = out};
}

static bool applies(const Case *s, int rebuild) {
    return (s->latent || !(rebuild & 1)) && (s->made || !(rebuild & 2));
}

static int scratch_for(AttendScratch *m, const Case *s, int64_t n) {
    Err e;
    CHECK(attend_scratch(m, n, s->n_heads, s->n_kv, s->k_width + s->made, s->z_width, s->v_width,
                         s->out_width, &e) == 0,
          "%s", e.msg);
    return PASS;
}

static int near(const Case *s, const Attend *a, const float *want, double allowed) {
    for (int64_t i = 0; i < a->n * s->n_heads * a->out_width; i++)
        CHECK(fabs((double)a->out[i] - want[i]) <= allowed, "%s %s heads %lld/%lld latent %d "
              "rebuild %d%d pos %lld n %lld window %lld item %lld: %.9g, expected %.9g",
              kernels_isa(), type_info(a->cache->type)->name, (long long)s->n_heads,
              (long long)s->n_kv, s->latent, a->keys.rebuild, a->values.rebuild, (long long)a->pos,
              (long long)a->n, (long long)a->window, (long long)i, a->out[i], want[i]);
    return PASS;
}

// One case: several places and numbers of queries, every variant, both ways of a latent cache.
static int check(const Case *s, int64_t positions) {
    const int64_t span[][2] = {{0, 1}, {0, positions}, {1, 5}, {63, 3}, {64, 1}, {65, 70},
                               {200, 130}, {255, 2}, {256, 1}, {positions - 1, 1},
                               {positions - 7, 7}};
    int result = PASS;
    for (int t = 0; t < COUNT(types) && result == PASS; t++) {
        if (types[t] == T_Q8_0 && (s->k_width % 32 || s->v_width % 32 || s->z_width % 32)) continue;
        World w;
        if (make(&w, s, types[t], positions) != PASS) return FAIL;
        float *want[2] = {NULL};
        for (int rebuild = 0; rebuild <= s->latent; rebuild++) {
            want[rebuild] = floats(positions * s->n_heads * width_of(s, rebuild));
            const Attend all = question(&w, s, 0, positions, rebuild, want[rebuild]);
            answer(&all, NULL);
        }
        AttendScratch m;
        if (scratch_for(&m, s, positions) != PASS) return FAIL;
        for (int v = 0; v < COUNT(isas); v++) {
            if (kernels_select(isas[v]) != 0) continue;
            for (int k = 0; k < COUNT(span); k++)
                for (int rebuild = 0; rebuild < 4 && result == PASS; rebuild++) {
                    const int64_t pos = span[k][0], n = span[k][1];
                    if (pos < 0 || pos + n > positions || !applies(s, rebuild)) continue;
                    Attend a = question(&w, s, pos, n, rebuild, w.out);
                    answer(&a, &m);
                    const double size = (s->latent ? (double)s->v_width : 1)
                                      + (double)(s->made ? s->z_width * s->made : 0) / 8;
                    result = near(s, &a, want[rebuild & 1] + pos * s->n_heads * a.out_width, 3e-6 * size);
                }
        }
        attend_scratch_free(&m);
        free(want[0]);
        free(want[1]);
        done(&w);
    }
    kernels_init();
    return result;
}

static int multi_head(void) {
    const Case s[] = {{3, 3, 64, 64, 64, 0, false, 0, {0}}, {2, 2, 7, 13, 13, 0, false, 0, {0}},
                      {4, 4, 1, 1, 1, 0, false, 0, {0}}, {2, 2, 80, 96, 96, 0, false, 0, {0}}};
    for (int i = 0; i < COUNT(s); i++) if (check(s + i, 330) != PASS) return FAIL;
    return PASS;
}

static int grouped(void) {
    const Case s[] = {{9, 3, 64, 64, 64, 0, false, 0, {0}}, {8, 1, 32, 32, 32, 0, false, 0, {0}},
                      {71, 1, 16, 5, 5, 0, false, 0, {0}}};
    for (int i = 0; i < COUNT(s); i++) if (check(s + i, 330) != PASS) return FAIL;
    return PASS;
}

static int windows(void) {
    const int64_t window[] = {1, 31, 64, 65, 200};
    for (int i = 0; i < COUNT(window); i++) {
        const Case s = {6, 2, 32, 32, 32, window[i], false, 0, {0}};
        if (check(&s, 400) != PASS) return FAIL;
    }
    return PASS;
}

static int latent(void) {
    const Case s[] = {{9, 3, 64, 96, 64, 0, true, T_F32, {0}}, {4, 4, 32, 160, 32, 100, true, T_F16, {0}},
                      {6, 2, 8, 33, 7, 0, true, T_BF16, {0}}, {4, 2, 32, 64, 48, 0, true, T_Q8_0, {0}},
                      {2, 1, 32, 64, 16, 0, true, T_Q4_0, {0}}};
    for (int i = 0; i < COUNT(s); i++) if (check(s + i, 330) != PASS) return FAIL;
    return PASS;
}

// No number of a key rotated, some, and some whose latents are their own beside V as it is.
static int latent_keys(void) {
    const Case s[] = {{6, 6, 0, 96, 32, 0, true, T_F32, {96, 32, true}},
                      {6, 2, 32, 64, 48, 100, true, T_F16, {64, 40, true}},
                      {4, 4, 5, 33, 7, 0, true, T_F32, {33, 11, true}},
                      {8, 1, 0, 32, 32, 0, false, T_Q8_0, {64, 48, false}},
                      {4, 2, 32, 64, 48, 70, true, T_Q4_0, {96, 20, false}},
                      {3, 3, 16, 7, 7, 0, false, T_BF16, {21, 9, false}}};
    for (int i = 0; i < COUNT(s); i++) if (check(s + i, 330) != PASS) return FAIL;
    return PASS;
}

// Without a mask each query sees what the last one would.
static int everything_seen(void) {
    const Case s[] = {{6, 2, 32, 32, 32, 0, false, 0, {0}}, {3, 3, 7, 5, 5, 9, false, 0, {0}},
                      {4, 2, 8, 33, 7, 0, true, T_F32, {0}},
                      {6, 3, 0, 64, 32, 9, true, T_F32, {64, 32, true}}};
    const int64_t counts[] = {1, 2, 63, 64, 65, 257, 300};
    for (int i = 0; i < COUNT(s) * COUNT(counts); i++) {
        const Case *c = &s[i % COUNT(s)];
        const int64_t n = counts[i / COUNT(s)];
        World w;
        AttendScratch m;
        if (make(&w, c, T_F32, n) != PASS || scratch_for(&m, c, n) != PASS) return FAIL;
        for (int rebuild = 0; rebuild < 4; rebuild++) {
            if (!applies(c, rebuild)) continue;
            const int64_t row = c->n_heads * width_of(c, rebuild);
            float *want = floats(n * row);
            for (int64_t k = 0; k < n; k++) {
                Attend one = question(&w, c, 0, 1, rebuild, want + k * row);
                one.pos = n - 1;
                one.q = w.q + k * c->n_heads * one.q_width;
                one.window = 0;
                answer(&one, NULL);
            }
            Attend all = question(&w, c, 0, n, rebuild, w.out);
            all.all = true;
            answer(&all, NULL);
            if (near(c, &all, want, 0) != PASS) return FAIL;
            for (int v = 0; v < COUNT(isas); v++) {
                if (kernels_select(isas[v]) != 0) continue;
                answer(&all, &m);
                if (near(c, &all, want, c->latent ? 1e-4 : 3e-6) != PASS) return FAIL;
            }
            free(want);
        }
        attend_scratch_free(&m);
        done(&w);
    }
    kernels_init();
    return PASS;
}

static int far_positions(void) {      // beyond the last segment's beginning
    const Case s = {2, 1, 8, 8, 8, 0, false, 0, {0}};
    const int64_t n = 64 * 256 + 300;
    World w;
    if (make(&w, &s, T_F16, n) != PASS) return FAIL;
    AttendScratch m;
    if (scratch_for(&m, &s, 4) != PASS) return FAIL;
    float *want = floats(4 * 2 * 8);
    Attend a = question(&w, &s, n - 4, 4, 0, want);
    attend_naive(&a);
    a.out = w.out;
    attend(&a, &m);
    int result = near(&s, &a, want, 3e-6);
    Attend one = question(&w, &s, n - 1, 1, 0, w.out);
    attend(&one, &m);
    if (result == PASS) result = near(&s, &one, want + 3 * 16, 3e-6);
    attend_scratch_free(&m);
    free(want);
    done(&w);
    return result;
}

static int same(const float *a, const float *b, int64_t n, const char *what, int threads) {
    for (int64_t i = 0; i < n; i++)
        CHECK(memcmp(a + i, b + i, sizeof *a) == 0, "%s %s, %d threads, item %lld: %.9g and %.9g",
              kernels_isa(), what, threads, (long long)i, a[i], b[i]);
    return PASS;
}

// The bits of a query's result do not depend on threads nor on the other queries.
static int bits(void) {
    const Case cases[] = {{9, 3, 64, 64, 64, 0, false, 0, {0}}, {6, 2, 32, 32, 32, 90, false, 0, {0}},
                          {9, 3, 32, 96, 64, 0, true, T_F16, {0}},
                          {6, 6, 32, 64, 32, 0, true, T_F32, {64, 32, true}}};
    enum { POSITIONS = 330 };
    const int before = threads_get();
    int result = PASS;
    for (int i = 0; i < COUNT(cases); i++)
        for (int t = 0; t < COUNT(types); t++) {
            const Case *s = cases + i;
            const int64_t most = s->n_heads * (s->out_width > s->v_width ? s->out_width : s->v_width);
            World w;
            if (make(&w, s, types[t], POSITIONS) != PASS) return FAIL;
            float *first = floats(POSITIONS * most), *lone = floats(most);
            for (int v = 0; v < COUNT(isas); v++) {
                if (kernels_select(isas[v]) != 0) continue;
                for (int rebuild = 0; rebuild < 4; rebuild++)
                    for (int threads = 1; threads <= 3 && applies(s, rebuild); threads++) {
                        const int64_t item = s->n_heads * width_of(s, rebuild);
                        threads_set(threads);
                        AttendScratch m;
                        if (scratch_for(&m, s, POSITIONS) != PASS) return FAIL;
                        float *out = threads == 1 ? first : w.out;
                        Attend a = question(&w, s, 0, POSITIONS, rebuild, out);
                        answer(&a, &m);
                        for (int64_t p = 0; p < POSITIONS; p += threads + 17) {
                            Attend one = question(&w, s, p, 1, rebuild, lone);
                            answer(&one, &m);
                            if (result == PASS)
                                result = same(first + p * item, lone, item, "alone", threads);
                        }
                        if (result == PASS)
                            result = same(first, a.out, POSITIONS * item, "threads", threads);
                        attend_scratch_free(&m);
                    }
            }
            free(lone);
            free(first);
            done(&w);
        }
    threads_set(before);
    kernels_init();
    return result;
}

// Scores far apart: the running maximum must not overflow, whichever block holds the largest.
static int steep_scores(void) {
    const Case s = {2, 1, 4, 4, 4, 0, false, 0, {0}};
    enum { N = 300 };
    World w;
    if (make(&w, &s, T_F32, N) != PASS) return FAIL;
    float *k = w.c.k, *want = floats(N * 8);
    for (int i = 0; i < N * 4; i++) k[i] *= i % 97 == 0 ? 300 : i % 13 ? 0.1f : 40;
    AttendScratch m;
    if (scratch_for(&m, &s, N) != PASS) return FAIL;
    int result = PASS;
    for (int v = 0; v < COUNT(isas) && result == PASS; v++) {
        if (kernels_select(isas[v]) != 0) continue;
        Attend a = question(&w, &s, 0, N, 0, want);
        attend_naive(&a);
        a.out = w.out;
        attend(&a, &m);
        result = near(&s, &a, want, 2e-4);
    }
    attend_scratch_free(&m);
    free(want);
    done(&w);
    kernels_init();
    return result;
}

static int sizes(void) {
    size_t b[3] = {1, 1, 1}, total = 0;
    Cache c = {.type = T_Q8_0, .capacity = 10, .n_kv = 3, .k_width = 64, .v_width = 96};
    CHECK(cache_size(&c, b) && b[0] == 10 * 3 * 68 && b[1] == 10 * 3 * 102 && b[2] == 0, "%zu %zu %zu",
          b[0], b[1], b[2]);
    c.latent = true;
    CHECK(cache_size(&c, b) && b[1] == 10 * 102, "%zu", b[1]);
    c.k_width = 0, c.z_width = 32;
    CHECK(cache_size(&c, b) && b[0] == 0 && b[2] == 10 * 34, "%zu %zu", b[0], b[2]);
    c.z_width = 96, c.shared = true;
    CHECK(cache_size(&c, b) && b[1] == 10 * 102 && b[2] == 0, "%zu %zu", b[1], b[2]);
    Err e;
    CHECK(cache_alloc(&c, &total, &e) == 0 && total == 10 * 102, "%zu", total);
    cache_free(&c);
    c.v_width = 95;
    CHECK(!cache_size(&c, b), "95 is no multiple of 32");
    CHECK(cache_alloc(&c, &total, &e) == -1 && strstr(e.msg, "95"), "%s", e.msg);
    c = (Cache){.type = T_F16, .capacity = 10, .n_kv = 3, .k_width = 64, .v_width = 95, .latent = true};
    CHECK(cache_size(&c, b) && b[0] == 10 * 3 * 128 && b[1] == 10 * 190, "%zu %zu", b[0], b[1]);
    c.capacity = INT64_MAX / 2;
    CHECK(!cache_size(&c, b), "an overflow was not seen");
    c.capacity = -1;
    CHECK(!cache_size(&c, b), "a negative capacity was not seen");
    AttendScratch s;
    CHECK(attend_scratch(&s, INT64_MAX, 9, 3, 64, 0, 64, 64, &e) == -1, "too many queries");
    CHECK(attend_scratch(&s, 5, 1 << 30, 3, 1 << 30, 0, 1 << 30, 1 << 30, &e) == -1, "too wide");
    CHECK(attend_scratch(&s, 5, 0, 3, 64, 0, 64, 64, &e) == -1, "no heads");
    CHECK(attend_scratch(&s, 5, 9, 3, 64, -1, 64, 64, &e) == -1, "negative latents");
    attend_scratch_free(&s);
    return PASS;
}

// What is cached has the same bytes for any number of threads and of positions at a time.
static int stored_by_threads(void) {
    enum { N = 40, FIRST = 5, HEADS = 16, WIDTH = 128, Z = 96 };
    static const struct { bool latent, shared; int64_t z_width; } forms[] = {
        {false, false, 0}, {true, false, 0}, {true, false, Z}, {true, true, Z}, {false, false, Z}};
    float *k = floats(N * HEADS * WIDTH), *v = floats(N * HEADS * WIDTH), *z = floats(N * Z);
    fill(k, N * HEADS * WIDTH, 1), fill(v, N * HEADS * WIDTH, 1), fill(z, N * Z, 1);
    const int before = threads_get();
    for (int i = 0; i < COUNT(types) * COUNT(forms); i++) {
        const int form = i / COUNT(types), of[2] = {1, N};
        const bool latent = forms[form].latent;
        const int64_t v_row = latent ? Z : HEADS * WIDTH;
        Cache c[2];
        size_t total = 0, bytes[3];
        Err e;
        for (int w = 0; w < 2; w++) {
            c[w] = (Cache){.type = types[i % COUNT(types)], .capacity = 3 * KEY_TILE, .n_kv = HEADS,
                           .k_width = WIDTH, .v_width = latent ? Z : WIDTH, .z_width = forms[form].z_width,
                           .latent = latent, .shared = forms[form].shared};
            CHECK(cache_alloc(&c[w], &total, &e) == 0 && cache_size(&c[w], bytes), "%s", e.msg);
        }
        threads_set(1);
        for (int p = 0; p < N; p++)
            cache_store(&c[0], FIRST + p, 1, k + p * HEADS * WIDTH, WIDTH, v + p * v_row, z + p * Z);
        float row[WIDTH];
        for (int at = 0; at < N * HEADS && c[0].type == T_F32; at++) {
            const int64_t p = FIRST + at / HEADS, g = at % HEADS;
            cache_keys(&c[0], g, p, 1, row);
            CHECK(!memcmp(row, k + at * WIDTH, sizeof row), "key %d of head %d", at / HEADS, (int)g);
            const float *value = (float *)c[0].v + (latent ? p * Z : (g * c[0].capacity + p) * WIDTH);
            CHECK(!memcmp(value, latent ? v + at / HEADS * Z : v + at * WIDTH, 4 * (size_t)c[0].v_width),
                  "value %d of head %d", at / HEADS, (int)g);
        }
        for (int t = 0; t < 6; t++) {
            const int n = of[t % 2];
            threads_set(t / 2 + 1);
            memset(c[1].k, 0, bytes[0]), memset(c[1].v, 0, bytes[1]), memset(c[1].z, 0, bytes[2]);
            for (int p = 0; p < N; p += n)
                cache_store(&c[1], FIRST + p, n, k + p * HEADS * WIDTH, WIDTH, v + p * v_row, z + p * Z);
            CHECK(!memcmp(c[0].k, c[1].k, bytes[0]) && !memcmp(c[0].v, c[1].v, bytes[1]) &&
                  !memcmp(c[0].z, c[1].z, bytes[2]), "form %d, %s, %d positions at a time, %d threads", form,
                  type_info(c[0].type)->name, n, t / 2 + 1);
        }
        cache_free(&c[0]), cache_free(&c[1]);
    }
    threads_set(before);
    free(k), free(v), free(z);
    return PASS;
}

static const Test tests[] = {
    {"multi_head", multi_head}, {"grouped", grouped}, {"windows", windows}, {"latent", latent},
    {"latent_keys", latent_keys}, {"everything_seen", everything_seen},
    {"far_positions", far_positions}, {"bits", bits}, {"steep_scores", steep_scores},
    {"sizes", sizes}, {"stored_by_threads", stored_by_threads},
};

int main(int argc, char **argv) { return run_tests("attend", tests, COUNT(tests), argc, argv); }
