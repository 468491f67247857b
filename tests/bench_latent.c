// Decoding behind a long context with keys and values cached as latents, against the dense twin: random
// weights of GPT-2's shape (d 768, 12 heads of 64, 12 layers), 2,048 positions of which the last are
// decoded one by one. Three ways, interleaved, medians of five runs: dense weights; factors with keys
// and values cached as they are; factors with latents. Random weights have no low rank: what is said
// has no meaning, time and memory do not depend on that. On a machine with other work to do the processor's
// time, which leaves out what others took, tells more than the clock's. Asserts nothing.
//   bench_latent [r_embd [weight type]]
#include <time.h>

#include "bench.h"
#include "rig.h"

enum { CONTEXT = 2048, STEPS = 16, RUNS = 5, WAYS = 3 };

// Seconds a token of the last STEPS positions: of the layers, with the output, and the processor's.
enum { LAYERS, TOKEN, CPU, MEASURES };
static void decode(Session *s, double took[MEASURES], Err *e) {
    const clock_t cpu = clock();
    memset(took, 0, MEASURES * sizeof *took);
    session_rewind(s, CONTEXT - STEPS);
    for (int i = 0; i < STEPS; i++) {
        const double start = seconds();
        check(forward(s, &(int){i}, 1, e), e);
        took[LAYERS] += (seconds() - start) / STEPS;
        logits(s, 0, 1);
        took[TOKEN] += (seconds() - start) / STEPS;
    }
    took[CPU] = (double)(clock() - cpu) / CLOCKS_PER_SEC / STEPS;
}

// Random rows in every position of the cache, as a prompt leaves them.
static void fill(Session *s, const float *rows) {
    for (int64_t l = 0; l < s->model->config.n_layers; l++)
        for (int64_t p = 0; p < CONTEXT; p++) {
            const float *row = rows + p * 13;
            cache_store(&s->cache[l], p, 1, row, s->cache[l].k_width, row, row);
        }
    s->pos = CONTEXT;
}

static void compare(RigModel *const model[2], int kv_type, Err *e) {
    static const char *const name[WAYS] = {"dense", "factored, K and V", "factored, latents"};
    static const CacheForm form[WAYS] = {CACHE_DENSE, CACHE_DENSE, CACHE_LATENT};
    static float rows[1 << 16];
    uint64_t seed = 3;
    for (int i = 0; i < 1 << 16; i++) rows[i] = random_f32(&seed) - 0.5f;
    Session s[WAYS];
    double took[WAYS][MEASURES][RUNS], now[MEASURES];
    for (int w = 0; w < WAYS; w++) {
        SessionConfig c = {CONTEXT, 64, kv_type, form[w], false};
        check(session_init(&s[w], &model[w > 0]->m, c, e), e);
        fill(&s[w], rows);
    }
    for (int r = 0; r < RUNS; r++)
        for (int w = 0; w < WAYS; w++) {
            decode(&s[w], now, e);
            for (int i = 0; i < MEASURES; i++) took[w][i][r] = now[i];
        }
    printf("cache %-6s        bytes a position   cache MB  weights MB  layers ms  token ms  (cpu)   GB/s\n",
           type_info(kv_type)->name);
    for (int w = 0; w < WAYS; w++) {
        const double weights = model_step_bytes(&model[w > 0]->m), read = weights + (double)s[w].cache_bytes;
        const double token = median(took[w][TOKEN], RUNS);
        printf("  %-20s %14.0f %10.1f %11.1f %10.2f %9.2f %6.1f %6.1f\n", name[w],
               (double)s[w].cache_bytes / CONTEXT, (double)s[w].cache_bytes / 1e6, weights / 1e6,
               median(took[w][LAYERS], RUNS) * 1e3, token * 1e3, median(took[w][CPU], RUNS) * 1e3, read / token / 1e9);
        session_free(&s[w]);
    }
}

int main(int argc, char **argv) {
    Err e = {""};
    const int64_t r_embd = argc > 1 ? atol(argv[1]) : 256;
    int type = argc > 2 ? type_by_name(argv[2]) : T_F16;
    const Rig shape = {.arch = "gpt2", .d = 768, .h = 12, .n_kv = 12, .hd = 64, .f = 3072, .vocab = 50257,
                       .layers = 12, .context = CONTEXT, .tied = true, .type = type, .seed = 7};
    const RigTucker ranks = {.scheme = "qkvo", .r_embd = r_embd};
    static RigModel dense, factored;
    RigModel *const both[2] = {&dense, &factored};
    check(rig_build(&dense, &shape, NULL, &e) || rig_build(&factored, &shape, &ranks, &e), &e);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("GPT-2's shape, weights %s, qkvo at ranks %lld,64,4, %d positions, %d threads, %s\n",
           type_info(type)->name, (long long)r_embd, CONTEXT, threads_get(), kernels_isa());
    compare(both, T_F32, &e);
    compare(both, T_F16, &e);
    compare(both, T_Q8_0, &e);
    rig_free(&dense);
    rig_free(&factored);
    return 0;
}
