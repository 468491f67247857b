// How fast the kernels are on this machine: bytes a second for one token (the memory's pace) and
// operations a second for many (the arithmetic's), best of several runs. Asserts nothing.
//   bench_kernels [isa]        TENSORLLM_ISA caps the variant too
#include "../core/attend.h"
#include "bench.h"

#include <string.h>

enum { ROWS = 1536, COLS = 576, BYTES = 192 << 20 };

static uint64_t seed = 3;

// Weights of ordinary size (no subnormals), the same `size` bytes over and over.
static void fill(int type, uint8_t *data, size_t size, size_t total) {
    for (size_t i = 0; i < size; i++) data[i] = random_u64(&seed) & 0xbf;
    if (type == T_F32)
        for (size_t i = 0; i < size; i += 4)
            memcpy(data + i, &(float){random_f32(&seed) - 0.5f}, 4);
    if (type == T_BF16)
        for (size_t i = 0; i < size; i += 2)
            memcpy(data + i, &(uint16_t){f32_to_bf16(random_f32(&seed) - 0.5f)}, 2);
    for (size_t i = size; i < total; i += size) memcpy(data + i, data, size);
}

// Cycles a second: a chain of multiplications, three cycles each on current cores.
static double clock_rate(void) {
    double best = 0;
    for (int turn = 0; turn < 20; turn++) {
        volatile uint64_t start = 3;
        uint64_t x = start;
        const int steps = 2000000;
        const double t = seconds();
        for (int i = 0; i < steps; i++) {
            x *= 0x9e3779b97f4a7c15u;
            __asm__ volatile("" : "+r"(x));
        }
        const double rate = 3.0 * steps / (seconds() - t);
        if (rate > best) best = rate;
    }
    return best;
}

int main(int argc, char **argv) {
    static const int types[] = {T_F32, T_F16, T_BF16, T_Q8_0, T_Q4_0, T_Q4_1, T_Q4_K, T_Q6_K};
    static const int64_t batch[] = {2, 8, 64, 512};
    if (argc > 1 && kernels_select(argv[1]) != 0) {
        fprintf(stderr, "this machine does not run %s\n", argv[1]);
        return 1;
    }
    const char *isa = kernels_isa();
    const int lanes = !strcmp(isa, "avx512") ? 16 : !strcmp(isa, "avx2") ? 8 : 4;
    const double ghz = clock_rate() / 1e9;
    printf("%s, %.2f GHz, f32 peak of a core with two units: %.0f GFLOP/s\n", isa, ghz,
           ghz * lanes * 4);
    const int most = threads_get() < 2 ? threads_get() : 2;
    for (int threads = 1; threads <= most; threads++) {
        threads_set(threads);
        printf("%d thread%s: reads %.1f GB/s; G multiply-adds a second: f32 %.0f, bytes %.0f\n",
               threads, threads > 1 ? "s" : "", read_bandwidth(0) / 1e9, peak_madds(false) / 1e9,
               peak_madds(true) / 1e9);
    }

    uint8_t *data = alloc(BYTES, 1, "weights", NULL);
    if (!data) return 1;
    float *x = random_floats(512 * ROWS), *y = random_floats(512 * ROWS);
    Scratch s;
    if (scratch_init(&s, 512, ROWS, NULL) != 0) return 1;
    printf("matmul, rows %d, cols %d: GB/s for one token from memory, GFLOP/s for more\n", ROWS,
           COLS);
    for (int i = 0; i < (int)(sizeof types / sizeof *types); i++)
        for (int threads = 1; threads <= most; threads++) {
            const int64_t cols = type_info(types[i])->block == 256 ? 512 : COLS;
            double best;
            size_t row = 0;
            threads_set(threads);
            row_size(types[i], cols, &row);
            const size_t size = row * ROWS, count = BYTES / size;
            if (threads == 1) fill(types[i], data, size, count * size);
            // A few matrices a turn, each turn the next ones: as a model's layers pass by.
            const size_t some = (8 << 20) / size + 1;
            size_t k = 0;
            BEST(best, for (size_t j = 0; j < some; j++, k = (k + 1) % count) {
                const Mat w = {data + k * size, ROWS, cols, types[i]};
                const Linear out = {&w, x, y};
                matmul(&s, 1, &out, 1);
            });
            printf("  %-5s %d thr  n=1 %6.1f GB/s", type_info(types[i])->name, threads,
                   (double)(size * some) / best / 1e9);
            BEST(best, for (size_t j = 0; j < some; j++, k = (k + 1) % count) {
                const Mat w = {data + k * size, ROWS, cols, types[i]};
                matmul_t(&s, x, 1, &w, y);
            });
            printf("  transposed %6.1f GB/s ", (double)(size * some) / best / 1e9);
            const Mat w = {data, ROWS, cols, types[i]};
            const Linear out = {&w, x, y};
            for (int b = 0; b < (int)(sizeof batch / sizeof *batch); b++) {
                BEST(best, matmul(&s, batch[b], &out, 1));
                printf("  n=%lld %5.0f", (long long)batch[b],
                       2.0 * ROWS * (double)cols * (double)batch[b] / best / 1e9);
            }
            BEST(best, matmul_t(&s, x, 512, &w, y));
            printf("  transposed n=512 %5.0f GFLOP/s\n",
                   2.0 * ROWS * (double)cols * 512 / best / 1e9);
        }

    printf("dgemm\n");
    for (int64_t n = 500; n <= 2000; n *= 2)
        for (int threads = 1; threads <= most; threads++) {
            const size_t items = (size_t)(n * n);
            double best, *a = alloc(items, 8, "a", NULL), *c = alloc(items, 8, "c", NULL);
            if (!a || !c) return 1;
            for (int64_t i = 0; i < n * n; i++) a[i] = random_f32(&seed);
            threads_set(threads);
            for (int mode = 0; mode < 4; mode++) {
                BEST(best, dgemm(mode & 1, mode & 2, n, n, n, a, n, a, n, 0, c, n));
                printf("  n=%lld %d thr %s%s %5.1f GFLOP/s", (long long)n, threads,
                       mode & 1 ? "A'" : "A", mode & 2 ? "B'" : "B",
                       2e-9 * (double)(n * n * n) / best);
            }
            printf("\n");
            free(a);
            free(c);
        }

    printf("attention, 9 heads, 3 KV heads, width 64 (latent: 192, sums of latents as they are): microseconds a query\n");
    for (int latent = 0; latent < 2; latent++)
        for (int t = 0; t < 3; t++)
            for (int threads = 1; threads <= most; threads++) {
                static const int cache_type[] = {T_F32, T_F16, T_Q8_0};
                const int64_t vw = latent ? 192 : 64, n = 2048;
                Cache c = {.type = cache_type[t], .capacity = n, .n_kv = 3, .k_width = 64,
                           .v_width = vw, .latent = latent};
                size_t bytes = 0;
                if (cache_alloc(&c, &bytes, NULL)) return 1;
                threads_set(threads);
                float *k = random_floats(3 * 64), *v = random_floats(3 * vw), *out = random_floats(512 * 9 * vw);
                for (int64_t p = 0; p < n; p++) cache_store(&c, p, 1, k, 64, v, NULL);
                float *m = random_floats(3 * 64 * vw);
                const Mat expand = {m, 3 * 64, vw, T_F32};
                AttendScratch as;
                if (attend_scratch(&as, 512, 9, 3, 64, 0, vw, 64, NULL) != 0) return 1;
                for (int rebuild = 0; rebuild <= latent; rebuild++) {
                    Attend a = {.cache = &c, .n_heads = 9, .scale = 0.125f, .q = x, .q_width = 64,
                                .values = {&expand, rebuild}, .out_width = latent && !rebuild ? vw : 64,
                                .out = out};
                    double one, early, many;
                    a.n = 1, a.pos = n - 1;
                    BEST(one, attend(&a, &as));
                    a.pos = 200;
                    BEST(early, attend(&a, &as));
                    a.n = 512, a.pos = 0;
                    BEST(many, attend(&a, &as));
                    printf("  %-5s %-7s%-8s %d thr  at 2047 %7.1f   at 200 %6.1f   512 together "
                           "%6.2f\n", type_info(c.type)->name, latent ? "latent" : "",
                           rebuild ? "rebuilt" : "",
                           threads, one * 1e6, early * 1e6, many / 512 * 1e6);
                }
                attend_scratch_free(&as);
                free(k), free(v), free(m), free(out), cache_free(&c);
            }
    scratch_free(&s);
    free(x), free(y), free(data);
    return 0;
}
