// Every kernel in every variant that runs here, against its naive twin: odd sizes, buffers that
// end at a page which may not be read, equal bits for any number of threads and tokens.
#include "../core/kernels_impl.h"
#include "isas.h"

#ifndef _WIN32
#include <sys/mman.h>
#include <unistd.h>
#endif

static uint64_t seed = 1;
static float random_in(float a) { return (2 * random_f32(&seed) - 1) * a; }
static void fill(float *x, int64_t n) { for (int64_t i = 0; i < n; i++) x[i] = random_in(1); }

// ---- buffers with a guard page behind them, freed together --------------------------------------

static struct { char *base; size_t size; } pages[64];
static int n_pages;

// `size` bytes that end `gap` bytes before a page that faults.
static void *guarded(size_t size, size_t gap) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t room = (size + gap + page - 1) / page * page;
    char *p = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || n_pages == COUNT(pages) || mprotect(p + room, page, PROT_NONE) != 0) {
        printf("no guarded memory\n");
        exit(2);
    }
    pages[n_pages].base = p, pages[n_pages++].size = room + page;
    return p + room - size - gap;
}
static float *floats(int64_t n) { return guarded((size_t)n * sizeof(float), 0); }

static void free_all(void) {
    while (n_pages > 0) n_pages--, munmap(pages[n_pages].base, pages[n_pages].size);
}

// A matrix of any type whose last byte stands `gap` bytes before the guard.
static Mat random_mat(int type, int64_t rows, int64_t cols, size_t gap) {
    size_t row = 0;
    row_size(type, cols, &row);
    uint8_t *data = guarded((size_t)rows * row, gap);
    if (type_info(type)->native) {
        float *x = alloc((size_t)cols, sizeof *x, "a row", NULL);
        for (int64_t r = 0; r < rows; r++) {
            fill(x, cols);
            quantize_row(type, x, data + (size_t)r * row, cols);
        }
        free(x);
    } else {     // any bytes, without the bit that makes a half float infinite
        for (size_t i = 0; i < (size_t)rows * row; i++) data[i] = random_u64(&seed) & 0xbf;
    }
    return (Mat){data, rows, cols, type};
}

// y (n, rows) against the same of matmul_naive (n, all_rows): within `tolerance` of the sum of
// absolute products, plus what the quantisation of the activations may do.
static int compare(const char *what, const Mat *w, const float *x, int64_t n, const float *y,
                   const float *want, int64_t all_rows, double tolerance, bool quantised) {
    float *row = alloc((size_t)w->cols, sizeof *row, "a row", NULL);
    int result = PASS;
    for (int64_t r = 0; r < w->rows && result == PASS; r++) {
        mat_row(w, r, row);
        for (int64_t t = 0; t < n && result == PASS; t++) {
            double most = 1e-30, rounding = 0;
            for (int64_t b = 0; b < w->cols; b += 32) {
                double max = 0, sum = 0;
                for (int64_t c = b; c < b + 32 && c < w->cols; c++) {
                    const double a = fabs(x[t * w->cols + c]), v = fabs(row[c]);
                    max = a > max ? a : max;
                    sum += v;
                    most += a * v;
                }
                rounding += max / 127 / 256 * sum;
            }
            const double bound = tolerance * most + (quantised ? rounding * 1.0001 : 0);
            const double off = fabs((double)y[t * w->rows + r] - want[t * all_rows + r]);
            if (!(off <= bound)) {
                printf("  %s %s %s: %lld x %lld, row %lld token %lld of %lld: %.9g, expected %.9g, "
                       "allowed %.3g\n", what, kernels_isa(), type_info(w->type)->name,
                       (long long)w->rows, (long long)w->cols, (long long)r, (long long)t,
                       (long long)n, y[t * w->rows + r], want[t * all_rows + r], bound);
                result = FAIL;
            }
        }
    }
    free(row);
    return result;
}

// ---- matmul -------------------------------------------------------------------------------------

static const int float_types[] = {T_F32, T_F16, T_BF16};
static const int integer_types[] = {T_Q8_0, T_Q4_0, T_Q4_1};
static const int other_types[] = {T_Q5_0, T_Q5_1, T_Q2_K, T_Q3_K, T_Q4_K, T_Q5_K, T_Q6_K};
static const int all_types[] = {T_F32, T_F16, T_BF16, T_Q8_0, T_Q4_0, T_Q4_1, T_Q5_0, T_Q5_1,
                                T_Q2_K, T_Q3_K, T_Q4_K, T_Q5_K, T_Q6_K};

// One shape in all variants; `gap` makes the weights' address odd.
static int try_matmul(int type, int64_t cols, int64_t max_rows, int64_t max_n, bool quantised) {
    const size_t gap = (size_t)cols / 2 % 2;
    Mat w = random_mat(type, max_rows, cols, gap);
    float *x = floats(max_n * cols), *want = floats(max_n * max_rows), *y;
    fill(x, max_n * cols);
    const Linear naive = {&w, x, want};
    matmul_naive(max_n, &naive, 1);
    Scratch s;
    Err e;
    CHECK(scratch_init(&s, max_n, cols, &e) == 0, "%s", e.msg);
    int result = PASS;
    size_t row = 0;
    row_size(type, cols, &row);
    FOR_EACH_ISA(i)
        for (int64_t rows = 0; rows <= max_rows; rows += rows < 9 ? 1 : 8)
            for (int64_t n = 0; n <= max_n && result == PASS; n++) {
                // The first rows' end is no guard, the last rows' is: take those.
                const char *from = (const char *)w.data + (size_t)(max_rows - rows) * row;
                Mat part = {from, rows, cols, type};
                y = floats(n * rows);
                const Linear out = {&part, x, y};
                memset(y, 0x55, (size_t)(n * rows) * sizeof *y);
                matmul(&s, n, &out, 1);
                result = compare("matmul", &part, x, n, y, want + max_rows - rows, max_rows, 1e-6,
                                 quantised);
                n_pages--, munmap(pages[n_pages].base, pages[n_pages].size);
            }
    scratch_free(&s);
    kernels_init();
    return result;
}

static int matmul_floats(void) {
    for (int i = 0; i < COUNT(float_types); i++)
        for (int64_t cols = 0; cols <= 70; cols++) {
            int result = try_matmul(float_types[i], cols, 9, 7, false);
            free_all();
            if (result != PASS) return result;
        }
    return PASS;
}

static int matmul_wide(void) {      // more columns than a chunk holds, more tokens than a block
    const int64_t shape[][3] = {{1023, 5, 3}, {1025, 4, 8}, {2100, 9, 2}, {40, 6, 150}, {345, 41, 19}};
    for (int i = 0; i < COUNT(float_types); i++)
        for (int k = 0; k < COUNT(shape); k++) {
            int result = try_matmul(float_types[i], shape[k][0], shape[k][1], shape[k][2], false);
            free_all();
            if (result != PASS) return result;
        }
    return PASS;
}

static int matmul_integers(void) {
    const int64_t cols[] = {0, 32, 64, 96, 160, 1024, 1056};
    for (int i = 0; i < COUNT(integer_types); i++)
        for (int k = 0; k < COUNT(cols); k++) {
            int result = try_matmul(integer_types[i], cols[k], 33, 10, true);
            free_all();
            if (result != PASS) return result;
        }
    return PASS;
}

static int matmul_others(void) {
    for (int i = 0; i < COUNT(other_types); i++)
        for (int64_t cols = 0; cols <= 1536; cols += 768) {
            int result = try_matmul(other_types[i], cols, 9, 7, false);
            free_all();
            if (result != PASS) return result;
        }
    return PASS;
}

// Activations that 8 bits hold exactly: nothing but float rounding is left. Weights at the ends of
// their range, where 16-bit sums would saturate.
static int matmul_exact_integers(void) {
    enum { COLS = 192, ROWS = 21, N = 9 };
    for (int i = 0; i < COUNT(integer_types); i++)
        for (int extreme = 0; extreme < 2; extreme++) {
            const int type = integer_types[i];
            Mat w = random_mat(type, ROWS, COLS, 0);
            size_t row = 0;
            row_size(type, COLS, &row);
            const TypeInfo *t = type_info(type);
            for (size_t b = 0; b < ROWS * row && extreme; b++) {
                const int at = (int)(b % (size_t)t->bytes), head = type == T_Q4_1 ? 4 : 2;
                if (at >= head) ((uint8_t *)(uintptr_t)w.data)[b] =
                    type != T_Q8_0 ? 0xff : b / 34 % 3 == 0 ? 0x80 : b / 34 % 3 == 1 ? 0x7f : 0x81;
            }
            float *x = floats(N * COLS), *y = floats(N * ROWS), *want = floats(N * ROWS);
            for (int k = 0; k < N * COLS; k++) {
                int q = (int)(random_u64(&seed) % 255) - 127;
                if (k % 32 == 5 || extreme) q = k / 32 % 2 ? -127 : 127;
                x[k] = (float)q * 0.0625f;
            }
            const Linear naive = {&w, x, want}, out = {&w, x, y};
            matmul_naive(N, &naive, 1);
            Scratch s;
            Err e;
            CHECK(scratch_init(&s, N, COLS, &e) == 0, "%s", e.msg);
            int result = PASS;
            FOR_EACH_ISA(v) {
                matmul(&s, N, &out, 1);
                if (result == PASS) result = compare("exact", &w, x, N, y, want, ROWS, 1e-6, false);
            }
            scratch_free(&s);
            free_all();
            kernels_init();
            if (result != PASS) return result;
        }
    return PASS;
}

static int same_bits(const char *what, const float *a, const float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        CHECK(memcmp(a + i, b + i, sizeof *a) == 0, "%s %s: item %lld: %.9g and %.9g", what,
              kernels_isa(), (long long)i, a[i], b[i]);
    return PASS;
}

// The same bits with 1, 2, 3 threads, token by token, in slices, and together with other matrices.
static int matmul_bits(void) {
    enum { COLS = 1280, N = 37, MORE = 40 };         // the small scratch holds 16
    const int64_t rows = 101;
    Err e;
    Scratch s, small, large;                          // for one input, in slices; for three
    CHECK(scratch_init(&s, N, COLS, &e) == 0, "%s", e.msg);
    CHECK(scratch_init(&small, 4, COLS, &e) == 0, "%s", e.msg);
    CHECK(scratch_init(&large, N, 3 * COLS, &e) == 0, "%s", e.msg);
    s.uniform = small.uniform = large.uniform = true;
    int result = PASS;
    const int before = threads_get();
    for (int i = 0; i < COUNT(all_types); i++) {
        Mat w = random_mat(all_types[i], rows, COLS, 1), q = random_mat(T_Q8_0, MORE, COLS, 0),
            f = random_mat(T_F16, MORE, COLS, 0), none = {NULL, 0, COLS, T_F32};
        float *x = floats(N * COLS), *first = floats(N * rows), *y = floats(N * rows);
        float *yq = floats(N * MORE), *yf = floats(N * MORE), *yo = floats(N * rows), *of = floats(N * rows);
        float *other = floats(N * COLS), *short_y = floats(N * MORE), *short_of = floats(N * MORE);
        Mat narrow = random_mat(T_Q4_0, MORE, COLS / 2, 0);
        fill(x, N * COLS);
        fill(other, N * COLS);
        FOR_EACH_ISA(v) {
            const Linear ref = {&w, x, first}, out = {&w, x, y};
            const Linear ref_of = {&w, other, of}, ref_short = {&narrow, other, short_of};
            const Linear many[] = {{&q, x, yq}, {&none, x, NULL}, out, {&f, x, yf}};
            const Linear mixed[] = {{&narrow, other, short_y}, {&w, other, yo}, out};   // three inputs
            threads_set(1);
            matmul(&s, N, &ref, 1);
            matmul(&s, N, &ref_of, 1);
            matmul(&s, N, &ref_short, 1);
            for (int threads = 1; threads <= 3 && result == PASS; threads++) {
                threads_set(threads);
                matmul(&s, N, &out, 1);
                result = same_bits("threads", first, y, N * rows);
                memset(y, 0, (size_t)(N * rows) * sizeof *y);
                matmul(&small, N, many, COUNT(many));
                if (result == PASS) result = same_bits("slices", first, y, N * rows);
                for (int k = 0; k < 3 && result == PASS; k++) {
                    memset(y, 0, (size_t)(N * rows) * sizeof *y);
                    memset(yo, 0, (size_t)(N * rows) * sizeof *y);
                    matmul(k == 0 ? &small : k == 1 ? &s : &large, N, mixed, COUNT(mixed));
                    result = same_bits("beside other inputs", first, y, N * rows);
                    if (result == PASS) result = same_bits("of another input", of, yo, N * rows);
                    if (result == PASS) result = same_bits("a narrow input", short_of, short_y, N * MORE);
                }
                for (int t = 0; t < N; t++) matmul(&s, 1, &(Linear){&w, x + t * COLS, y + t * rows}, 1);
                if (result == PASS) result = same_bits("one by one", first, y, N * rows);
            }
        }
        free_all();
        if (result != PASS) printf("  type %s\n", type_info(all_types[i])->name);
    }
    threads_set(before);
    scratch_free(&s);
    scratch_free(&small);
    scratch_free(&large);
    kernels_init();
    return result;
}

// Without `uniform` up to eight tokens of float weights still have the bits of each alone.
static int few_bits(void) {
    enum { COLS = 1283, FEW = 8, ROWS = 37 };
    static const int types[] = {T_F32, T_F16, T_BF16};
    Scratch s;
    Err e;
    int result = PASS;
    CHECK(scratch_init(&s, FEW, COLS, &e) == 0, "%s", e.msg);
    for (int i = 0; i < COUNT(types); i++) {
        Mat w = random_mat(types[i], ROWS, COLS, 1);
        float *x = floats(FEW * COLS), *alone = floats(FEW * ROWS), *y = floats(FEW * ROWS);
        fill(x, FEW * COLS);
        FOR_EACH_ISA(v) {
            for (int t = 0; t < FEW; t++) matmul(&s, 1, &(Linear){&w, x + t * COLS, alone + t * ROWS}, 1);
            for (int n = 2; n <= FEW && result == PASS; n++) {
                matmul(&s, n, &(Linear){&w, x, y}, 1);
                result = same_bits("few", alone, y, n * ROWS);
            }
        }
        free_all();
    }
    scratch_free(&s);
    kernels_init();
    return result;
}

// In four streams the bits of one: any number of rows, rows shorter and longer than a turn, several matrices
// of one sweep, what the next reads known (from the second time on) or not, any number of threads.
static int streams_bits(void) {
    enum { FEW = 8, MOST = 333, WIDE = 2080, OTHER = 70 };
    static const int types[] = {T_F32, T_F16, T_BF16, T_Q8_0, T_Q4_0, T_Q4_1};
    static const int64_t sizes[] = {1, 5, 34, MOST}, widths[] = {64, 576, WIDE};
    const int before = threads_get(), streams_before = streams_get();
    Scratch s;
    Err e;
    int result = PASS;
    CHECK(scratch_init(&s, FEW, 2 * WIDE, &e) == 0, "%s", e.msg);
    for (int i = 0; i < COUNT(types) * COUNT(widths) && result == PASS; i++) {
        const int64_t cols = widths[i % COUNT(widths)];
        const int type = types[i / COUNT(widths)];
        float *x = floats(FEW * WIDE), *y = floats(FEW * MOST), *want = floats(FEW * MOST);
        float *z = floats(FEW * OTHER), *want_z = floats(FEW * OTHER), *x_z = floats(FEW * 96);
        Mat beside = random_mat(T_Q8_0, OTHER, 96, 0);
        fill(x, FEW * WIDE);
        fill(x_z, FEW * 96);
        for (int r = 0; r < COUNT(sizes) && result == PASS; r++) {
            Mat w = random_mat(type, sizes[r], cols, 1);
            const Linear one[] = {{&w, x, want}, {&beside, x_z, want_z}};
            const Linear both[] = {{&w, x, y}, {&beside, x_z, z}};
            FOR_EACH_ISA(v) {
                for (int n = 1; n <= FEW && result == PASS; n += FEW - 1) {
                    streams_set(1);
                    threads_set(1);
                    matmul(&s, n, one, 2);
                    streams_set(4);
                    for (int k = 0; k < (SANITIZED ? 2 : 4) && result == PASS; k++) {
                        threads_set(k % 2 ? 3 : 1);
                        memset(y, 0, (size_t)(n * w.rows) * sizeof *y);
                        memset(z, 0, (size_t)(n * OTHER) * sizeof *z);
                        matmul(&s, n, both, 2);
                        result = same_bits("streams", want, y, n * w.rows);
                        if (result == PASS) result = same_bits("beside streams", want_z, z, n * OTHER);
                    }
                }
            }
            if (result != PASS)
                printf("  %s (%lld, %lld)\n", type_info(type)->name, (long long)w.rows, (long long)cols);
        }
        free_all();
    }
    threads_set(before);
    streams_set(streams_before);
    scratch_free(&s);
    kernels_init();
    return result;
}

// A product for each head has the bits of that head's product by itself: more heads than a sweep has, heads
// that share a matrix, one token and many, in slices too, any number of threads.
static int heads_bits(void) {
    static const struct { int64_t heads, n_kv, rows, cols, n; } cases[] = {
        {16, 16, 32, 96, 1}, {16, 16, 32, 96, 19}, {9, 3, 64, 160, 1}, {9, 3, 64, 160, 33}, {37, 37, 5, 64, 2},
        {6, 1, 7, 32, 40}, {1, 1, 48, 64, 9}};
    const int before = threads_get();
    FOR_EACH_ISA(v)
        for (int i = 0; i < COUNT(cases) * COUNT(all_types); i++) {
            const int64_t heads = cases[i % COUNT(cases)].heads, n_kv = cases[i % COUNT(cases)].n_kv;
            const int64_t rows = cases[i % COUNT(cases)].rows, n = cases[i % COUNT(cases)].n;
            const int type = all_types[i / COUNT(cases)], block = type_info(type)->block;
            const int64_t cols = (cases[i % COUNT(cases)].cols + block - 1) / block * block;
            const Mat w = random_mat(type, n_kv * rows, cols, 0);
            float *x = floats(heads * n * cols), *y = floats(n * heads * rows), *want = floats(n * rows);
            Scratch s;
            Err e;
            size_t row = 0;
            row_size(type, cols, &row);
            fill(x, heads * n * cols);
            CHECK(scratch_init(&s, n, 2 * cols, &e) == 0, "%s", e.msg);
            for (int threads = 1; threads <= 3; threads++) {
                threads_set(threads);
                memset(y, 0x55, (size_t)(n * heads * rows) * sizeof *y);
                matmul_heads(&s, n, heads, n_kv, &w, x, y);
                for (int64_t h = 0; h < heads; h++) {
                    const int64_t g = h / (heads / n_kv);
                    const Mat part = {(const char *)w.data + (size_t)(g * rows) * row, rows, cols, type};
                    matmul(&s, n, &(Linear){&part, x + h * n * cols, want}, 1);
                    for (int64_t t = 0; t < n; t++)
                        if (same_bits(type_info(type)->name, y + (t * heads + h) * rows, want + t * rows, rows) !=
                            PASS)
                            return FAIL;
                }
            }
            scratch_free(&s);
            free_all();
        }
    threads_set(before);
    kernels_init();
    return PASS;
}

// A NaN among quantised activations reaches the results; other tokens stay whole.
static int matmul_nan(void) {
    enum { COLS = 64, ROWS = 5, N = 3 };
    Mat w = random_mat(T_Q8_0, ROWS, COLS, 0);
    float *x = floats(N * COLS), *y = floats(N * ROWS);
    fill(x, N * COLS);
    x[COLS + 40] = NAN;
    x[2 * COLS + 3] = INFINITY;
    Scratch s;
    Err e;
    CHECK(scratch_init(&s, N, COLS, &e) == 0, "%s", e.msg);
    FOR_EACH_ISA(v) {
        const Linear out = {&w, x, y};
        matmul(&s, N, &out, 1);
        for (int r = 0; r < ROWS; r++) {
            CHECK(isfinite(y[r]), "%s row %d: %g", kernels_isa(), r, y[r]);
            CHECK(!isfinite(y[ROWS + r]), "%s NaN row %d: %g", kernels_isa(), r, y[ROWS + r]);
            CHECK(!isfinite(y[2 * ROWS + r]), "%s inf row %d: %g", kernels_isa(), r,
                  y[2 * ROWS + r]);
        }
    }
    scratch_free(&s);
    free_all();
    kernels_init();
    return PASS;
}

// Activations of any size a float can have: rounded as well as others, or where a block is next to
// nothing, to 0. Tokens together, and the last of them alone.
static int matmul_tiny(void) {
    enum { COLS = 64, ROWS = 5, N = 12 };
    static const int types[] = {T_Q8_0, T_Q4_0, T_Q4_1};
    Scratch s;
    Err e;
    CHECK(scratch_init(&s, N, COLS, &e) == 0, "%s", e.msg);
    for (int type = 0; type < 3; type++)
        for (float size = 1e-44f; size < 1e36f; size *= 31) {
            Mat w = random_mat(types[type], ROWS, COLS, 0);
            float *x = floats(N * COLS), *y = floats(N * ROWS), *alone = floats(ROWS);
            float *want = floats(N * ROWS);
            fill(x, N * COLS);
            for (int i = 0; i < N * COLS; i++) x[i] *= i / COLS % 2 ? 1 : size;
            matmul_naive(N, &(Linear){&w, x, want}, 1);
            FOR_EACH_ISA(v) {
                matmul(&s, N, &(Linear){&w, x, y}, 1);
                matmul(&s, 1, &(Linear){&w, x + (N - 2) * COLS, alone}, 1);
                for (int i = 0; i < (N + 1) * ROWS; i++) {
                    const int at = i < N * ROWS ? i : i - 2 * ROWS;
                    const float got = i < N * ROWS ? y[i] : alone[i - N * ROWS];
                    const float bound = 1e-3f * COLS * (at / ROWS % 2 ? 1 : size) + COLS * 1e-33f;
                    CHECK(fabsf(got - want[at]) <= bound, "%s %s, activations of %g: %g instead of %g", kernels_isa(),
                          type_info(types[type])->name, size, got, want[at]);
                }
            }
            free_all();
        }
    scratch_free(&s);
    kernels_init();
    return PASS;
}

static int scratch_limits(void) {
    Scratch s;
    Err e;
    CHECK(scratch_init(&s, INT64_MAX / 2, INT64_MAX / 2, &e) == -1, "no error");
    CHECK(scratch_init(&s, -1, 5, &e) == -1, "no error");
    CHECK(scratch_init(&s, 0, 0, &e) == 0, "%s", e.msg);
    scratch_free(&s);
    scratch_free(&s);
    return PASS;
}

// ---- matmul_t -----------------------------------------------------------------------------------

static int try_matmul_t(int type, int64_t rows, int64_t cols, int64_t max_n) {
    Mat w = random_mat(type, rows, cols, (size_t)cols / 2 % 2);
    float *x = floats(max_n * rows), *want = floats(max_n * cols);
    fill(x, max_n * rows);
    matmul_t_naive(x, max_n, &w, want);
    float *row = alloc((size_t)cols, sizeof *row, "a row", NULL);
    double *most = alloc((size_t)cols, sizeof *most, "bounds", NULL);
    for (int64_t r = 0; r < rows; r++) {
        mat_row(&w, r, row);
        for (int64_t c = 0; c < cols; c++) most[c] += fabs(row[c]);
    }
    int result = PASS;
    FOR_EACH_ISA(i)
        for (int64_t n = 0; n <= max_n; n++) {
            float *y = floats(n * cols);
            memset(y, 0x55, (size_t)(n * cols) * sizeof *y);
            matmul_t(NULL, x, n, &w, y);
            for (int64_t k = 0; k < n * cols && result == PASS; k++)
                if (!(fabs((double)y[k] - want[k]) <= 1e-6 * most[k % cols])) {
                    printf("  matmul_t %s %s: %lld x %lld, n %lld, item %lld: %.9g, want %.9g\n",
                           isas[i], type_info(type)->name, (long long)rows, (long long)cols,
                           (long long)n, (long long)k, y[k], want[k]);
                    result = FAIL;
                }
            n_pages--, munmap(pages[n_pages].base, pages[n_pages].size);
        }
    free(most);
    free(row);
    free_all();
    kernels_init();
    return result;
}

static int matmul_t_values(void) {
    const int64_t rows[] = {0, 1, 7, 8, 9, 33};
    for (int i = 0; i < COUNT(all_types); i++) {
        const int block = type_info(all_types[i])->block;
        const int64_t step = block == 1 ? 5 : block, most = block == 1 ? 300 : 3 * block;
        for (int64_t cols = 0; cols <= most; cols += step)
            for (int k = 0; k < COUNT(rows); k++)
                if (try_matmul_t(all_types[i], rows[k], cols, 7) != PASS) return FAIL;
    }
    return PASS;
}

static int matmul_t_bits(void) {
    enum { ROWS = 130, N = 13 };
    int result = PASS;
    const int before = threads_get();
    for (int i = 0; i < COUNT(all_types); i++) {
        const int64_t cols = type_info(all_types[i])->block == 1 ? 1213 : 1280;
        Mat w = random_mat(all_types[i], ROWS, cols, 1);
        float *x = floats(N * ROWS), *first = floats(N * cols), *y = floats(N * cols);
        fill(x, N * ROWS);
        FOR_EACH_ISA(v) {
            threads_set(1);
            matmul_t(NULL, x, N, &w, first);
            for (int threads = 1; threads <= 3 && result == PASS; threads++) {
                threads_set(threads);
                matmul_t(NULL, x, N, &w, y);
                result = same_bits("threads", first, y, N * cols);
                for (int t = 0; t < N; t++) matmul_t(NULL, x + t * ROWS, 1, &w, y + t * cols);
                if (result == PASS) result = same_bits("one by one", first, y, N * cols);
            }
        }
        free_all();
        if (result != PASS) printf("  type %s\n", type_info(all_types[i])->name);
    }
    threads_set(before);
    kernels_init();
    return result;
}

// ---- vectors ------------------------------------------------------------------------------------

static int vectors(void) {
    FOR_EACH_ISA(v)
        for (int64_t n = 0; n <= 140; n++) {
            float *a = floats(n), *b = floats(n), *y = floats(n), *z = floats(n);
            fill(a, n), fill(b, n), fill(y, n);
            double want = 0, most = 0, square = 0;
            for (int64_t i = 0; i < n; i++) {
                want += (double)a[i] * b[i], most += fabs((double)a[i] * b[i]);
                square += (double)a[i] * a[i];
            }
            CHECK(fabs(dot(a, b, n) - want) <= 1e-6 * most, "%s dot %lld", isas[v], (long long)n);
            memcpy(z, y, (size_t)n * sizeof *y);
            axpy(z, 0.3f, a, n);
            for (int64_t i = 0; i < n; i++)
                CHECK(fabs(z[i] - (y[i] + 0.3f * (double)a[i])) < 2e-7, "%s axpy %lld: %g", isas[v],
                      (long long)i, z[i]);
            memcpy(z, y, (size_t)n * sizeof *y);
            add(z, a, n);
            for (int64_t i = 0; i < n; i++)
                CHECK(z[i] == y[i] + a[i], "%s add %lld: %g", isas[v], (long long)i, z[i]);
            if (n > 0) {
                rmsnorm(z, a, b, n, 1e-5f);
                for (int64_t i = 0; i < n; i++) {
                    const double w = a[i] / sqrt(square / (double)n + 1e-5f) * b[i];
                    CHECK(fabs(z[i] - w) <= 2e-6 * fabs(w) + 1e-12, "%s rmsnorm %lld/%lld: %g %g",
                          isas[v], (long long)i, (long long)n, z[i], w);
                }
                rmsnorm(a, a, b, n, 1e-5f);
                if (same_bits("rmsnorm in place", a, z, n) != PASS) return FAIL;
            }
            float most_y = -INFINITY;
            for (int64_t i = 0; i < n; i++) most_y = y[i] > most_y ? y[i] : most_y;
            CHECK(max_of(y, n) == most_y, "%s max of %lld: %g", isas[v], (long long)n,
                  max_of(y, n));
            free_all();
        }
    kernels_init();
    return PASS;
}

static double ulps(float got, double want) {
    if (got == (float)want) return 0;
    const double unit = ldexp(1, (fabs(want) < 0x1p-126 ? -126 : ilogb(want)) - 23);
    return fabs(got - want) / unit;
}

static int exponential(void) {
    enum { N = 4096 };
    float *x = floats(N), *y = floats(N);
    FOR_EACH_ISA(v) {
        double worst = 0;
        for (int turn = 0; turn < 50; turn++) {
            for (int i = 0; i < N; i++) x[i] = turn < 25 ? random_in(104) : random_in(2);
            memcpy(y, x, N * sizeof *x);
            exp_sum(y, N, 1, 0);
            for (int i = 0; i < N; i++) {
                const double want = exp((double)x[i]);
                if (want > 3.4028234e38) {
                    CHECK(y[i] > 3.4e38f, "%s exp %g: %g", isas[v], x[i], y[i]);
                    continue;
                }
                const double off = ulps(y[i], want);
                if (off > worst) worst = off;
                CHECK(off <= 2, "%s exp %.9g: %.9g, expected %.9g", isas[v], x[i], y[i], want);
            }
        }
        const float special[] = {0, -INFINITY, INFINITY, NAN, -1e30f, 1e30f, -87.5f, 88.7f};
        float got[COUNT(special)];
        memcpy(got, special, sizeof got);
        exp_sum(got, COUNT(special), 1, 0);
        CHECK(got[0] == 1 && got[1] == 0 && got[2] == INFINITY && isnan(got[3]) && got[4] == 0 &&
              got[5] == INFINITY && got[6] > 0 && isfinite(got[7]), "%s: %g %g %g %g %g %g %g %g",
              isas[v], got[0], got[1], got[2], got[3], got[4], got[5], got[6], got[7]);
    }
    free_all();
    kernels_init();
    return PASS;
}

static int softmax_extremes(void) {
    FOR_EACH_ISA(v)
        for (int64_t n = 1; n <= 70; n++)
            for (int kind = 0; kind < 5; kind++) {
                float *x = floats(n), *y = floats(n);
                for (int64_t i = 0; i < n; i++)
                    x[i] = kind == 0 ? random_in(10) : kind == 1 ? 1e30f
                         : kind == 2 ? (i == n / 2 ? 3e38f : -3e38f)
                         : kind == 3 ? (i % 2 && i ? -INFINITY : -5000) : random_in(1000);
                memcpy(y, x, (size_t)n * sizeof *x);
                softmax(y, n);
                double max = -INFINITY, sum = 0, total = 0;
                for (int64_t i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
                for (int64_t i = 0; i < n; i++) sum += exp(x[i] - max);
                for (int64_t i = 0; i < n; i++) {
                    const double want = exp(x[i] - max) / sum;
                    total += y[i];
                    const double near = 1e-6 + 1e-7 * fmin(max - x[i], 200);
                    CHECK(fabs(y[i] - want) <= near * want + 1e-38, "%s kind %d n %lld item %lld: "
                          "%.9g, expected %.9g", isas[v], kind, (long long)n, (long long)i, y[i],
                          want);
                }
                CHECK(fabs(total - 1) < 1e-5, "%s sum %.9g", isas[v], total);
                free_all();
            }
    kernels_init();
    return PASS;
}

static int swiglu_values(void) {
    FOR_EACH_ISA(v)
        for (int64_t n = 0; n <= 70; n++) {
            float *g = floats(n), *u = floats(n), *y = floats(n);
            for (int64_t i = 0; i < n; i++)
                g[i] = random_in(i % 7 == 0 ? 200 : 8), u[i] = random_in(3);
            memcpy(y, g, (size_t)n * sizeof *g);
            swiglu(y, u, n);
            for (int64_t i = 0; i < n; i++) {
                const double want = g[i] / (1 + exp(-(double)g[i])) * u[i];
                CHECK(fabs(y[i] - want) <= 1e-6 * fabs(want) + 1e-36, "%s gate %g up %g: %.9g %.9g",
                      isas[v], g[i], u[i], y[i], want);
            }
            free_all();
        }
    kernels_init();
    return PASS;
}

static int activations(void) {
    FOR_EACH_ISA(v)
        for (int64_t n = 0; n <= 70; n++) {
            float *x = floats(n), *y = floats(n);
            for (int64_t i = 0; i < n; i++) x[i] = i % 9 == 8 ? random_in(200) : random_in(6);
            for (int a = ACT_SILU; a <= ACT_GELU_TANH; a++) {
                memcpy(y, x, (size_t)n * sizeof *x);
                activate((Activation)a, y, n);
                for (int64_t i = 0; i < n; i++) {
                    const double t = x[i], u = sqrt(2 / acos(-1)) * (t + 0.044715 * t * t * t);
                    const double want = a == ACT_SILU ? t / (1 + exp(-t)) : a == ACT_GELU
                                      ? t * 0.5 * erfc(-t / sqrt(2)) : 0.5 * t * (1 + tanh(u));
                    CHECK(fabs(y[i] - want) <= 3e-7 * fabs(t) + 1e-36, "%s activation %d of %g: %.9g, %.9g",
                          isas[v], a, t, y[i], want);
                }
            }
            free_all();
        }
    kernels_init();
    return PASS;
}

static int layernorms(void) {
    FOR_EACH_ISA(v)
        for (int64_t n = 1; n <= 70; n++) {
            float *x = floats(n), *w = floats(n), *b = floats(n), *y = floats(n);
            fill(w, n);
            fill(b, n);
            for (int64_t i = 0; i < n; i++) x[i] = 5 + random_in(2);
            double mean = 0, variance = 0;
            for (int64_t i = 0; i < n; i++) mean += x[i] / (double)n;
            for (int64_t i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean) / (double)n;
            layernorm(y, x, w, b, n, 1e-5f);
            for (int64_t i = 0; i < n; i++) {
                const double want = (x[i] - mean) / sqrt(variance + 1e-5f) * w[i] + b[i];
                CHECK(fabs(y[i] - want) <= 1e-5, "%s %lld of %lld: %g, %g", isas[v], (long long)i,
                      (long long)n, y[i], want);
            }
            layernorm(x, x, w, b, n, 1e-5f);
            if (same_bits("layernorm in place", x, y, n) != PASS) return FAIL;
            free_all();
        }
    kernels_init();
    return PASS;
}

// Rows of a batch against one by one: as many as make parts for several threads, and too few for it.
static int batches(void) {
    const int64_t sizes[][3] = {{1, 5, 2}, {3, 64, 64}, {70, 577, 100}, {131, 1024, 1}};    // n, d, columns
    const int before = threads_get();
    for (int threads = 1; threads <= 5; threads += 2)
        for (size_t i = 0; i < COUNT(sizes); i++) {
            const int64_t n = sizes[i][0], d = sizes[i][1], k = sizes[i][2];
            float *x = floats(n * d), *w = floats(d), *b = floats(d), *y = floats(n * d), *row = floats(d);
            float *taken = floats(n * k);
            int32_t *at = guarded((size_t)k * sizeof *at, 0);
            threads_set(threads);
            fill(x, n * d);
            fill(w, d);
            fill(b, d);
            for (int64_t c = 0; c < k; c++) at[c] = (int32_t)((c + 1) * d / k - 1);
            for (int bias = 0; bias < 2; bias++) {
                norm_rows(y, x, (Norm){w, bias ? b : NULL}, n, d, 1e-5f);
                for (int64_t r = 0; r < n; r++) {
                    if (bias) layernorm(row, x + r * d, w, b, d, 1e-5f);
                    else rmsnorm(row, x + r * d, w, d, 1e-5f);
                    if (same_bits("norms", y + r * d, row, d) != PASS) return FAIL;
                }
            }
            norm_rows(x, x, (Norm){w, b}, n, d, 1e-5f);
            if (same_bits("norms in place", x, y, n * d) != PASS) return FAIL;
            take_columns(x, n, d, at, k, false, taken);
            take_columns(x, n, d, at, k, true, taken);
            put_columns(taken, n, k, at, d, y);
            for (int64_t r = 0; r < n; r++)
                for (int64_t c = 0, next = 0; c < d; c++) {
                    const bool chosen = next < k && at[next] == c;
                    next += chosen;
                    CHECK(y[r * d + c] == (chosen ? 2 : 1) * x[r * d + c], "row %lld, column %lld: %g of %g",
                          (long long)r, (long long)c, y[r * d + c], x[r * d + c]);
                }
            free_all();
        }
    threads_set(before);
    return PASS;
}

static int half_floats(void) {
    enum { ALL = 65536 };
    uint16_t *h = guarded(ALL * sizeof *h, 0), *back = guarded(ALL * sizeof *back, 0);
    float *f = floats(ALL);
    FOR_EACH_ISA(v) {
        for (int i = 0; i < ALL; i++) h[i] = (uint16_t)i;
        f16_row_to_f32(h, f, ALL);
        for (int i = 0; i < ALL; i++) {
            const float want = f16_to_f32((uint16_t)i);
            CHECK(isnan(want) ? isnan(f[i]) : memcmp(&want, f + i, 4) == 0, "%s half %04x: %g, %g",
                  isas[v], i, f[i], want);
        }
        for (int turn = 0; turn < 20; turn++) {
            for (int i = 0; i < ALL; i++) {      // any bits, and the neighbourhood of halves
                uint32_t bits = (uint32_t)random_u64(&seed);
                memcpy(f + i, &bits, 4);
                if (turn % 2) f[i] = ldexpf(random_in(1), (int)(bits % 48) - 30);
            }
            f32_row_to_f16(f, back, ALL);
            for (int i = 0; i < ALL; i++) {
                const uint16_t want = f32_to_f16(f[i]);
                CHECK(isnan(f[i]) ? isnan(f16_to_f32(back[i])) : back[i] == want,
                      "%s %.9g: %04x, expected %04x", isas[v], f[i], back[i], want);
            }
        }
        for (int64_t n = 0; n < 40; n++) {
            f32_row_to_f16(f + ALL - n, back + ALL - n, n);
            f16_row_to_f32(back + ALL - n, f + ALL - n, n);
        }
    }
    free_all();
    kernels_init();
    return PASS;
}

// ---- dgemm --------------------------------------------------------------------------------------

static double *doubles(int64_t n) {
    double *x = guarded((size_t)n * sizeof *x, 0);
    for (int64_t i = 0; i < n; i++) x[i] = random_in(1);
    return x;
}

static int try_dgemm(int64_t m, int64_t n, int64_t k, bool ta, bool tb, double beta) {
    const int64_t lda = (ta ? m : k) + 1, ldb = (tb ? k : n) + 2, ldc = n + 3;
    double *a = doubles((ta ? k : m) * lda), *b = doubles((tb ? n : k) * ldb);
    double *c0 = doubles(m * ldc), *c = doubles(m * ldc), *first = doubles(m * ldc);
    const int before = threads_get();
    int result = PASS;
    FOR_EACH_ISA(v) {
        for (int threads = 1; threads <= 3; threads++) {
            double *to = threads == 1 ? first : c;
            threads_set(threads);
            memcpy(to, c0, (size_t)(m * ldc) * sizeof *c);
            dgemm(ta, tb, m, n, k, a, lda, b, ldb, beta, to, ldc);
        }
        for (int64_t r = 0; r < m && result == PASS; r++)
            for (int64_t i = 0; i < ldc && result == PASS; i++) {
                double want = i < n && beta == 0 ? 0 : c0[r * ldc + i], most = fabs(want);
                for (int64_t p = 0; p < k && i < n; p++) {
                    const double x = (ta ? a[p * lda + r] : a[r * lda + p]) *
                                     (tb ? b[i * ldb + p] : b[p * ldb + i]);
                    want += x, most += fabs(x);
                }
                const double got = first[r * ldc + i];
                if (!(fabs(got - want) <= 1e-15 * (double)(k + 4) * most) ||
                    memcmp(&got, c + r * ldc + i, sizeof got) != 0) {
                    printf("  dgemm %s %lld x %lld x %lld ta %d tb %d beta %g at %lld, %lld: "
                           "%.17g, 3 threads %.17g, expected %.17g\n", isas[v], (long long)m,
                           (long long)n, (long long)k, ta, tb, beta, (long long)r, (long long)i,
                           got, c[r * ldc + i], want);
                    result = FAIL;
                }
            }
    }
    threads_set(before);
    kernels_init();
    free_all();
    return result;
}

static int dgemm_values(void) {
    const int64_t shape[][3] = {{1, 1, 1}, {1, 1, 0}, {3, 5, 0}, {2, 3, 5}, {7, 9, 8}, {8, 24, 16},
        {9, 25, 17}, {23, 23, 23}, {5, 49, 193}, {31, 13, 192}, {65, 70, 71}, {200, 30, 40},
        {193, 50, 385}, {0, 4, 4}, {4, 0, 4}};
    for (int i = 0; i < COUNT(shape); i++)
        for (int mode = 0; mode < 8; mode++)
            if (try_dgemm(shape[i][0], shape[i][1], shape[i][2], mode & 1, mode & 2, mode >> 2)
                != PASS) return FAIL;
    return PASS;
}

// Of mixed and single precision, and of triangles, against the definition. Which one: `what`.
enum { LOWER, GRAM, MIXED, GRAM_MIXED, SINGLE_LOWER, PRODUCTS };
static int try_product(int what, int64_t m, int64_t n, int64_t k, bool ta, bool tb, double beta) {
    const bool square = what != MIXED, own = what == GRAM || what == GRAM_MIXED, lower = square && !own;
    const bool rounded = what >= MIXED;
    if (square) n = m;
    if (own) tb = !ta, beta = 0;
    const int64_t lda = (ta ? m : k) + 1, ldb = own ? lda : (tb ? k : n) + 2, ldc = n + 3;
    double *a = doubles((ta ? k : m) * lda), *b = own ? a : doubles((tb ? n : k) * ldb);
    double *c0 = doubles(m * ldc), *c = doubles(m * ldc), *first = doubles(m * ldc), *want = doubles(m * ldc);
    float *as = guarded((size_t)((ta ? k : m) * lda) * 4, 0), *bs = guarded((size_t)((tb ? n : k) * ldb) * 4, 0);
    float *cs = guarded((size_t)(m * ldc) * 4, 0);
    for (int64_t i = 0; i < (ta ? k : m) * lda; i++) as[i] = (float)a[i];
    for (int64_t i = 0; i < (tb ? n : k) * ldb; i++) bs[i] = (float)b[i];
    memcpy(want, c0, (size_t)(m * ldc) * sizeof *c);
    dgemm_naive(ta, tb, m, n, k, a, lda, b, ldb, beta, want, ldc);
    double *size = doubles(m * ldc), *al = doubles((ta ? k : m) * lda), *bl = doubles((tb ? n : k) * ldb);
    for (int64_t i = 0; i < (ta ? k : m) * lda; i++) al[i] = fabs(a[i]);
    for (int64_t i = 0; i < (tb ? n : k) * ldb; i++) bl[i] = fabs(b[i]);
    for (int64_t i = 0; i < m * ldc; i++) size[i] = fabs(c0[i]);       // sum |a b|, what rounding goes by
    dgemm_naive(ta, tb, m, n, k, al, lda, bl, ldb, beta, size, ldc);
    const int before = threads_get();
    int result = PASS;
    FOR_EACH_ISA(v) {
        for (int threads = 1; threads <= 3; threads++) {
            double *to = threads == 1 ? first : c;
            threads_set(threads);
            memcpy(to, c0, (size_t)(m * ldc) * sizeof *c);
            for (int64_t i = 0; i < m * ldc; i++) cs[i] = (float)c0[i];
            if (what == LOWER) dgemm_lower(ta, tb, n, k, a, lda, b, ldb, beta, to, ldc);
            if (what == GRAM) gram(ta, m, k, a, lda, to, ldc);
            if (what == MIXED) dgemm_mixed(ta, tb, m, n, k, a, lda, b, ldb, beta, to, ldc);
            if (what == GRAM_MIXED) gram_mixed(ta, m, k, a, lda, to, ldc);
            if (what != SINGLE_LOWER) continue;
            sgemm_lower(ta, tb, n, k, as, lda, bs, ldb, (float)beta, cs, ldc);
            for (int64_t i = 0; i < m * ldc; i++) to[i] = cs[i];
        }
        for (int64_t r = 0; r < m && result == PASS; r++)
            for (int64_t i = 0; i < ldc && result == PASS; i++) {
                const bool still = i >= n || (lower && i > r);
                const double got = first[r * ldc + i], expected = still ? c0[r * ldc + i] : want[r * ldc + i];
                const double unit = rounded ? 0x1p-23 : 0x1p-52, most = (double)(k + 4) * unit * size[r * ldc + i];
                const bool kept = still && what != SINGLE_LOWER;
                if (!(fabs(got - expected) <= (kept ? 0 : most)) || memcmp(&got, c + r * ldc + i, 8) != 0 ||
                    (own && i < n && got != first[i * ldc + r])) {
                    printf("  product %d %s %lld x %lld x %lld ta %d tb %d beta %g at %lld, %lld: %.17g, "
                           "3 threads %.17g, expected %.17g\n", what, isas[v], (long long)m, (long long)n,
                           (long long)k, ta, tb, beta, (long long)r, (long long)i, got, c[r * ldc + i], expected);
                    result = FAIL;
                }
            }
    }
    threads_set(before);
    kernels_init();
    free_all();
    return result;
}

static int products(void) {
    const int64_t shape[][3] = {{1, 1, 1}, {1, 1, 0}, {3, 5, 0}, {2, 3, 5}, {7, 9, 8}, {8, 48, 16}, {9, 49, 17},
        {23, 23, 23}, {5, 49, 193}, {47, 13, 192}, {65, 97, 71}, {200, 30, 40}, {193, 50, 385}, {9, 60, 970}, {0, 4, 4}};
    for (int what = 0; what < PRODUCTS; what++)
        for (int i = 0; i < COUNT(shape); i++)
            for (int mode = 0; mode < 8; mode++)
                if (try_product(what, shape[i][0], shape[i][1], shape[i][2], mode & 1, mode & 2, mode >> 2)
                    != PASS) return FAIL;
    return PASS;
}

// Columns beyond one block of B, and blocks of rows of a triangle.
static int products_wide(void) {
    return try_dgemm(9, 2100, 5, false, false, 0) || try_product(MIXED, 9, 2100, 5, false, true, 1) ||
           try_product(GRAM, 2100, 0, 3, false, true, 0) ? FAIL : PASS;
}

// The products of a matrix and one vector on the way to tridiagonal form, in both precisions, against plain
// sums; rows end at a guard page, what stands above the diagonal is NaN.
static int try_vectors(const Kernels *k, const char *isa, int64_t n, int64_t rows, bool single) {
    const double unit = single ? 0x1p-23 : 0x1p-52;
    const size_t width = single ? sizeof(float) : sizeof(double);
    const int64_t lda = n + 1, from = n / 3 / 4 * 4, all = n > rows ? n : rows;
    double *a = doubles(all * lda), *x = doubles(n), *y = doubles(n), *c = doubles(rows * 3);
    void *as = guarded((size_t)((all - 1) * lda + n) * width, 0), *xs = guarded((size_t)n * width, 0);
    void *ys = guarded((size_t)n * width, 0), *cs = guarded((size_t)(3 * rows) * width, 0);
#define PUT(to, i, v) do { if (single) ((float *)(to))[i] = (float)(v); else ((double *)(to))[i] = v; } while (0)
#define GOT(of, i) (single ? (double)((float *)(of))[i] : ((double *)(of))[i])
    for (int64_t i = 0; i < (all - 1) * lda + n; i++) { a[i] = (float)a[i]; PUT(as, i, a[i]); }
    for (int64_t i = 0; i < n; i++) { x[i] = (float)x[i], y[i] = (float)y[i]; PUT(xs, i, x[i]); PUT(ys, i, y[i]); }
    for (int64_t i = 0; i < 3 * rows; i++) { c[i] = (float)c[i]; PUT(cs, i, c[i]); }
    if (single) k->row_dots32(as, lda, rows, xs, n, cs); else k->row_dots(as, lda, rows, xs, n, cs);
    for (int64_t r = 0; r < rows; r++) {
        double want = 0, size = 0;
        for (int64_t j = 0; j < n; j++) want += a[r * lda + j] * x[j], size += fabs(a[r * lda + j] * x[j]);
        CHECK(fabs(GOT(cs, r) - want) <= (double)(n + 2) * unit * size, "%s n %d: dot of row %d of %d is %g, not %g", isa,
              (int)n, (int)r, (int)rows, GOT(cs, r), want);
        PUT(cs, r, c[r]);
    }
    if (single) k->sum_rows32(as, lda, rows, cs, 3, ys, n); else k->sum_rows(as, lda, rows, cs, 3, ys, n);
    for (int64_t j = 0; j < n; j++) {
        double want = y[j], size = fabs(want);
        for (int64_t r = 0; r < rows; r++) want += c[3 * r] * a[r * lda + j], size += fabs(c[3 * r] * a[r * lda + j]);
        CHECK(fabs(GOT(ys, j) - want) <= (double)(rows + 2) * unit * size, "%s: sum of %d rows at %d of %d is %g, not %g",
              isa, (int)rows, (int)j, (int)n, GOT(ys, j), want);
        PUT(ys, j, y[j]);
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i + 1; j < n; j++) PUT(as, i * lda + j, NAN);
    if (single) k->symv_rows32(as, lda, from, n, xs, ys); else k->symv_rows(as, lda, from, n, xs, ys);
    for (int64_t i = 0; i < n; i++) {
        double want = y[i], size = fabs(want);
        for (int64_t j = 0; j < n; j++) {
            const double v = i < from && j < from ? 0 : (i > j ? a[i * lda + j] : a[j * lda + i]) * x[j];
            want += v, size += fabs(v);
        }
        CHECK(fabs(GOT(ys, i) - want) <= (double)(n + 2) * unit * size, "%s: symmetric product at %d of %d is %g, not %g", isa,
              (int)i, (int)n, GOT(ys, i), want);
    }
#undef PUT
#undef GOT
    free_all();
    return PASS;
}

static int step_products(void) {
    FOR_EACH_ISA(v)
        for (int64_t n = 1; n < 75; n += n < 40 ? 1 : 11)
            for (int64_t rows = 0; rows < 10; rows += 3)
                for (int single = 0; single < 2; single++)
                    if (try_vectors(kernels(), isas[v], n, rows, single) == FAIL) return FAIL;
    kernels_init();
    return PASS;
}

// ---- threads and variants -----------------------------------------------------------------------

static int touched[10000];
static void touch(void *ctx, int64_t begin, int64_t end, int thread) {
    int *most = ctx;
    for (int64_t i = begin; i < end; i++) __atomic_fetch_add(touched + i, 1, __ATOMIC_RELAXED);
    if (thread >= *most) printf("  thread %d of %d\n", thread, *most);
}
static void nest(void *ctx, int64_t begin, int64_t end, int thread) {
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        int one = 1;
        (void)ctx;
        parallel_for(1000, 1, touch, &one);
    }
}

static int parallel_parts(void) {
    const int before = threads_get();
    for (int threads = 1; threads <= 5; threads++)
        for (int64_t n = 0; n <= 10000; n = n * 3 + 1)
            for (int64_t grain = 0; grain <= 3000; grain = grain * 10 + 1) {
                threads_set(threads);
                memset(touched, 0, sizeof touched);
                int limit = threads;
                parallel_for(n, grain, touch, &limit);
                for (int64_t i = 0; i < 10000; i++)
                    CHECK(touched[i] == (i < n), "%d threads, n %lld, grain %lld: %lld %d times",
                          threads, (long long)n, (long long)grain, (long long)i, touched[i]);
            }
    threads_set(2);
    memset(touched, 0, sizeof touched);
    parallel_for(7, 1, nest, NULL);
    for (int i = 0; i < 1000; i++) CHECK(touched[i] == 7, "item %d: %d times", i, touched[i]);
    threads_set(0);
    CHECK(threads_get() == 1, "%d threads", threads_get());
    threads_set(1000);
#ifdef THREADS
    CHECK(threads_get() == 256, "%d threads", threads_get());
#else
    CHECK(threads_get() == 1, "%d threads in a program without", threads_get());
#endif
    threads_set(before);
    return PASS;
}

static int selection(void) {
    CHECK(kernels_select("generic") == 0, "generic");
    CHECK(strcmp(kernels_isa(), "generic") == 0, "%s", kernels_isa());
    CHECK(kernels_select("no such") == -1, "an unknown name was taken");
    CHECK(strcmp(kernels_isa(), "generic") == 0, "%s", kernels_isa());
    const char *old = getenv("TENSORLLM_ISA");
    char keep[64];
    snprintf(keep, sizeof keep, "%s", old ? old : "");
    setenv("TENSORLLM_ISA", "generic", 1);
    kernels_init();
    CHECK(strcmp(kernels_isa(), "generic") == 0, "%s", kernels_isa());
    if (old) setenv("TENSORLLM_ISA", keep, 1);
    else unsetenv("TENSORLLM_ISA");
    kernels_init();
    return PASS;
}

static int machine(void) {
    const double b = read_bandwidth(1 << 20);
    CHECK(b > 1e7 && b < 1e14, "%g bytes a second", b);
    FOR_EACH_ISA(v)
        for (int bytes = 0; bytes < 2; bytes++) {
            const double m = peak_madds(bytes);
            CHECK(m > 1e6 && m < 1e16, "%s: %g multiply-adds a second", isas[v], m);
        }
    kernels_init();
    return PASS;
}

static const Test tests[] = {
    {"matmul_floats", matmul_floats}, {"matmul_wide", matmul_wide},
    {"matmul_integers", matmul_integers}, {"matmul_others", matmul_others},
    {"matmul_exact_integers", matmul_exact_integers}, {"matmul_bits", matmul_bits},
    {"few tokens of floats, and each alone", few_bits}, {"four streams and one", streams_bits},
    {"products of heads, and each alone", heads_bits},
    {"matmul_nan", matmul_nan}, {"matmul_tiny", matmul_tiny}, {"scratch_limits", scratch_limits},
    {"matmul_t_values", matmul_t_values}, {"matmul_t_bits", matmul_t_bits},
    {"vectors", vectors}, {"exponential", exponential}, {"softmax_extremes", softmax_extremes},
    {"swiglu_values", swiglu_values}, {"activations", activations}, {"layernorms", layernorms},
    {"batches of rows", batches}, {"half_floats", half_floats},
    {"dgemm_values", dgemm_values}, {"products", products}, {"products_wide", products_wide}, {"step_products", step_products}, {"parallel_parts", parallel_parts},
    {"selection", selection}, {"machine", machine},
};

int main(int argc, char **argv) { return run_tests("kernels", tests, COUNT(tests), argc, argv); }
