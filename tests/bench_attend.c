// Attention alone, a layer: decoding behind 2,048 positions, the layers' caches in turn as a model has
// them (`in turn`: from memory, or a large last cache) or one again and again (`again`: what the kernels
// can do); a prompt of 512 in batches of 64; and storing a position. GB/s are cache read over time,
// GFLOP/s count the pairs that are seen. Best of several runs. Asserts nothing.
//   bench_attend [shape]       a part of its name; TENSORLLM_ISA caps the kernels
#include "../core/attend.h"
#include "bench.h"

#include <string.h>

enum { CONTEXT = 2048, PROMPT = 512, BATCH = 64, TURNS = 3 };

// Of both latents: keys without rotated numbers, K and V of all heads from one row of r numbers.
typedef struct { const char *name; int64_t layers, heads, n_kv, hd, r; } Form;
static const Form forms[] = {
    {"SmolLM2-135M, 9/3 heads of 64", 30, 9, 3, 64, 0},
    {"GPT-2, 12/12 heads of 64", 12, 12, 12, 64, 0},
    {"GPT-2 from latents of 256", 12, 12, 12, 64, 256},
    {"LLaMA 3 8B, 32/8 heads of 128", 8, 32, 8, 128, 0},
};


static Cache filled(const Form *f, int type, const float *rows) {
    Cache c = {.type = type, .capacity = CONTEXT, .n_kv = f->n_kv, .k_width = f->r ? 0 : f->hd,
               .v_width = f->r ? f->r : f->hd, .z_width = f->r, .latent = f->r > 0, .shared = f->r > 0};
    size_t bytes = 0;
    if (cache_alloc(&c, &bytes, NULL)) exit(1);
    for (int64_t p = 0; p < CONTEXT; p++) cache_store(&c, p, 1, rows + p, c.k_width, rows + 3 * p, rows);
    return c;
}

static void measure(const Form *f, int type) {
    const int64_t wide = f->heads * f->hd;
    float *x = random_floats(PROMPT * wide), *out = random_floats(PROMPT * (f->r ? f->heads * f->r : wide)), *rows = random_floats(4 * CONTEXT + wide);
    float *m = random_floats(wide * (f->r ? f->r : 1));
    const Mat matrix = {m, f->n_kv * f->hd, f->r, T_F32};
    Cache *c = alloc((size_t)f->layers, sizeof *c, "caches", NULL);
    if (!c) exit(1);
    for (int64_t l = 0; l < f->layers; l++) c[l] = filled(f, type, rows);
    size_t bytes[3];
    cache_size(c, bytes);
    const double read = (double)(bytes[0] + bytes[1] + bytes[2]);
    const int most = threads_get();
    for (int threads = 1; threads <= most; threads *= 2) {
        AttendScratch s;
        double turn, again, prompt = 1e9, store;
        threads_set(threads);
        if (attend_scratch(&s, PROMPT, f->heads, f->n_kv, f->hd, f->r, f->r ? f->r : f->hd, f->hd, NULL))
            exit(1);
        Attend a = {.n_heads = f->heads, .n = 1, .pos = CONTEXT - 1, .scale = 0.125f, .q_width = f->hd,
                    .q = x, .keys = {&matrix, false}, .values = {&matrix, false}, .out_width = f->r ? f->r : f->hd,
                    .out = out};
        BEST(turn, for (int64_t l = 0; l < f->layers; l++) a.cache = c + l, attend(&a, &s));
        a.cache = c;
        BEST(again, attend(&a, &s));
        a.n = BATCH;
        BEST(prompt, for (a.pos = 0; a.pos < PROMPT; a.pos += BATCH) attend(&a, &s));
        BEST(store, for (int64_t p = 0; p < PROMPT; p += BATCH)
                        cache_store(c, p, BATCH, x, c->k_width, x, x));
        const double madds = (double)(PROMPT * (PROMPT + 1) / 2 * f->heads) *
                             (double)(f->r ? 2 * f->r : 2 * f->hd);
        turn /= (double)f->layers;
        printf("  %-5s %2d thr  decode in turn %7.1f us %5.1f GB/s, again %7.1f us %5.1f GB/s;  "
               "prompt %7.2f us a token %5.0f GFLOP/s;  store %5.2f us\n", type_info(type)->name, threads,
               turn * 1e6, read / turn / 1e9, again * 1e6, read / again / 1e9, prompt / PROMPT * 1e6,
               2 * madds / prompt / 1e9, store / PROMPT * 1e6);
        attend_scratch_free(&s);
    }
    threads_set(most);
    for (int64_t l = 0; l < f->layers; l++) cache_free(&c[l]);
    free(c), free(m), free(rows), free(out), free(x);
}

int main(int argc, char **argv) {
    printf("attention, %s, %d positions; machine: reads %.1f GB/s, %.0f GFLOP/s of f32\n", kernels_isa(),
           CONTEXT, read_bandwidth(0) / 1e9, 2 * peak_madds(false) / 1e9);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (argc > 1 && !strstr(forms[i].name, argv[1])) continue;
        printf("%s\n", forms[i].name);
        static const int types[] = {T_F32, T_F16, T_Q8_0};
        for (int t = 0; t < 3; t++) measure(&forms[i], types[t]);
    }
    return 0;
}
