// Decoding behind a long context with keys and values cached as latents, against the dense twin: random
// weights of GPT-2's shape (d 768, 12 heads of 64, 12 layers), 2,048 positions of which the last are
// decoded one by one. Three ways, interleaved, medians of five runs: dense weights; factors with keys
// and values cached as they are; factors with latents. Random weights have no low rank: what is said
// has no meaning, time and memory do not depend on that. Asserts nothing.
//   bench_latent [r_embd [weight type]]
#include "rig.h"

enum { CONTEXT = 2048, STEPS = 16, RUNS = 5, WAYS = 3 };

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x) {
    qsort(x, RUNS, sizeof *x, by_size);
    return x[RUNS / 2];
}

static void check(bool failed, const Err *e) {
    if (!failed) return;
    printf("bench_latent: %s\n", e->msg);
    exit(1);
}

// Seconds a token of the last STEPS positions, layers and output; *layers: without the output.
static double decode(Session *s, double *layers, Err *e) {
    double all = 0;
    *layers = 0;
    session_rewind(s, CONTEXT - STEPS);
    for (int i = 0; i < STEPS; i++) {
        const double start = seconds();
        check(forward(s, &(int){i}, 1, e), e);
        *layers += seconds() - start;
        logits(s, 0, 1);
        all += seconds() - start;
    }
    *layers /= STEPS;
    return all / STEPS;
}

static void compare(RigModel *const model[2], int kv_type, Err *e) {
    static const char *const name[WAYS] = {"dense", "factored, K and V", "factored, latents"};
    static const CacheForm form[WAYS] = {CACHE_DENSE, CACHE_DENSE, CACHE_LATENT};
    Session s[WAYS];
    double all[WAYS][RUNS], layers[WAYS][RUNS];
    for (int w = 0; w < WAYS; w++) {
        SessionConfig c = {CONTEXT, 64, kv_type, form[w]};
        check(session_init(&s[w], &model[w > 0]->m, c, e), e);
        int ids[CONTEXT];
        for (int i = 0; i < CONTEXT; i++) ids[i] = i * 7919 % 50000;
        check(prefill(&s[w], ids, CONTEXT, e), e);
    }
    for (int r = 0; r < RUNS; r++)
        for (int w = 0; w < WAYS; w++) all[w][r] = decode(&s[w], &layers[w][r], e);
    printf("cache %-5s          bytes a position    cache MB   weights MB   ms layers   ms token     GB/s\n",
           type_info(kv_type)->name);
    for (int w = 0; w < WAYS; w++) {
        const double weights = model_step_bytes(&model[w > 0]->m), token = median(all[w]);
        printf("  %-20s %14.0f %11.1f %12.1f %11.2f %10.2f %8.1f\n", name[w],
               (double)s[w].cache_bytes / CONTEXT, (double)s[w].cache_bytes / 1e6, weights / 1e6,
               median(layers[w]) * 1e3, token * 1e3, (weights + (double)s[w].cache_bytes) / token / 1e9);
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
    printf("GPT-2's shape, weights %s, qkvo at ranks %lld,64,4, %d positions, %d threads, %s\n",
           type_info(type)->name, (long long)r_embd, CONTEXT, threads_get(), kernels_isa());
    compare(both, T_F32, &e);
    compare(both, T_F16, &e);
    compare(both, T_Q8_0, &e);
    rig_free(&dense);
    rig_free(&factored);
    return 0;
}
