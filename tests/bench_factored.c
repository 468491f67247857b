// What factors buy where every head has keys and values of its own: LLaMA's layers at d 2048 (16 heads of
// 128, 8 layers, random weights), attention as it is and as the paper's tensor at a quarter of its
// parameters. Prompt of 512 tokens, decode on an empty cache and behind 2,048 positions; both models in
// turn, medians of five. Random weights have no low rank: what is said has no meaning, time and memory do
// not depend on that. Asserts nothing.
//   bench_factored [weight type [r_embd]]
#include "bench.h"
#include "rig.h"

enum { DEPTH = 2048, PROMPT = 512, STEPS = 32, RUNS = 5 };
enum { PREFILL, DECODE, DEEP, MEASURES };

// Seconds of STEPS tokens one by one, output included, from position `from` on.
static double decode(Session *s, int64_t from, Err *e) {
    session_rewind(s, from);
    const double start = seconds();
    for (int i = 0; i < STEPS; i++) {
        check(forward(s, &(int){i}, 1, e), e);
        logits(s, 0, 1);
    }
    return (seconds() - start) / STEPS;
}

// Random rows in every position of the cache, as a prompt leaves them.
static void fill(Session *s) {
    static float rows[1 << 16];
    uint64_t seed = 3;
    for (int i = 0; i < 1 << 16; i++) rows[i] = random_f32(&seed) - 0.5f;
    for (int64_t l = 0; l < s->model->config.n_layers; l++)
        for (int64_t p = 0; p < DEPTH; p++) {
            const float *row = rows + p * 13;
            cache_store(&s->cache[l], p, 1, row, s->cache[l].k_width, row, row);
        }
    s->pos = DEPTH;
}

int main(int argc, char **argv) {
    static const char *const what[MEASURES] = {"prompt of 512", "decode", "decode behind 2,048"};
    Err e = {""};
    const int type = argc > 1 ? type_by_name(argv[1]) : T_Q8_0;
    const Rig shape = {.arch = "llama", .d = 2048, .h = 16, .n_kv = 16, .hd = 128, .f = 5632, .vocab = 32000,
                       .layers = 8, .context = DEPTH + STEPS, .tied = true, .type = type, .seed = 7};
    const RigTucker ranks = {.scheme = "qkvo", .r_embd = argc > 2 ? atol(argv[2]) : 384};
    static RigModel model[2];
    static int ids[PROMPT];
    check(rig_build(&model[0], &shape, NULL, &e) || rig_build(&model[1], &shape, &ranks, &e), &e);
    Session s[2];
    double took[2][MEASURES][RUNS], bytes[2], attention[2], cache[2];
    for (int w = 0; w < 2; w++) {
        const SessionConfig c = {.context = DEPTH + STEPS, .kv_type = T_F16, .form = CACHE_AUTO};
        check(session_init(&s[w], &model[w].m, c, &e), &e);
        bytes[w] = model_step_bytes(&model[w].m), attention[w] = model_params(&model[w].m).attention;
        cache[w] = (double)s[w].cache_bytes / (DEPTH + STEPS);
    }
    for (int i = 0; i < PROMPT; i++) ids[i] = i * 37 % 32000;
    for (int r = 0; r < RUNS; r++)
        for (int w = 0; w < 2; w++) {
            session_rewind(&s[w], 0);
            const double start = seconds();
            check(prefill(&s[w], ids, PROMPT, &e), &e);
            logits(&s[w], s[w].n - 1, 1);
            took[w][PREFILL][r] = (seconds() - start) / PROMPT;
            took[w][DECODE][r] = decode(&s[w], 0, &e);
            fill(&s[w]);
            took[w][DEEP][r] = decode(&s[w], DEPTH, &e);
        }
    printf("LLaMA's layers at d 2048, weights %s, qkvo at r_embd %lld, cache f16, %d threads, %s\n",
           type_info(type)->name, (long long)ranks.r_embd, threads_get(), kernels_isa());
    printf("attention %.1f M -> %.1f M parameters (%.2f x), bytes of a step %.0f -> %.0f MB (%.3f x), "
           "of a cached position %.0f -> %.0f (%.3f)\n", attention[0] / 1e6, attention[1] / 1e6,
           attention[0] / attention[1], bytes[0] / 1e6, bytes[1] / 1e6, bytes[0] / bytes[1], cache[0], cache[1],
           cache[1] / cache[0]);
    for (int m = 0; m < MEASURES; m++) {
        const double depth = m == DEEP ? DEPTH : 0, a = median(took[0][m], RUNS), b = median(took[1][m], RUNS);
        const double read[2] = {bytes[0] + depth * cache[0], bytes[1] + depth * cache[1]};
        printf("%-20s dense %8.1f tok/s, factored %8.1f tok/s: %.3f x", what[m], 1 / a, 1 / b, a / b);
        if (m != PREFILL)
            printf("; %.1f and %.1f GB/s, bytes %.3f x", read[0] / a / 1e9, read[1] / b / 1e9, read[0] / read[1]);
        printf("\n");
    }
    for (int w = 0; w < 2; w++) session_free(&s[w]), rig_free(&model[w]);
    return 0;
}
