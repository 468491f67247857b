// kernels: picks a variant, splits the work among threads, and holds the naive twins. The
// arithmetic itself is in kernels_template.h. No other file starts threads.

#include "kernels_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef THREADS
#include <pthread.h>
#include <sched.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

// ---- variants -----------------------------------------------------------------------------------

#if defined(__x86_64__)
// F16C came before AVX2 on every processor; not every compiler can ask for it.
static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
#elif defined(__aarch64__)
static bool has_neondot(void) {
#if defined(__ARM_FEATURE_DOTPROD)
    return true;
#elif defined(__linux__)
    return getauxval(AT_HWCAP) >> 20 & 1;     // HWCAP_ASIMDDP
#else
    return false;
#endif
}
#endif
static bool always(void) { return true; }

// Best last.
static const struct { const Kernels *k; const char *name; bool (*runs)(void); } variants[] = {
    {&kernels_generic, "generic", always},
#if defined(__x86_64__)
    {&kernels_avx2, "avx2", has_avx2},
    {&kernels_avx512, "avx512", has_avx512},
#elif defined(__aarch64__)
    {&kernels_neon, "neon", always},
    {&kernels_neondot, "neondot", has_neondot},
#endif
};
enum { N_VARIANTS = sizeof variants / sizeof *variants };

static const Kernels *current;
int streams;

void streams_set(int n) { streams = n == 4 ? 4 : 1; }

int streams_get(void) {
    if (!streams) {
        const char *s = getenv("TENSORLLM_STREAMS");
        bool four = false;
#if defined(__x86_64__)
        __builtin_cpu_init();
        four = __builtin_cpu_is("intel");
#endif
        if (s && (strcmp(s, "1") == 0 || strcmp(s, "4") == 0)) four = s[0] == '4';
        streams_set(four ? 4 : 1);
    }
    return streams;
}

// The best variant up to the cap that runs here; a name unknown here caps nothing.
void kernels_init(void) {
    const char *cap = getenv("TENSORLLM_ISA");
    int last = N_VARIANTS - 1;
    for (int i = 0; i < N_VARIANTS && cap; i++)
        if (strcmp(cap, variants[i].name) == 0) last = i;
    while (!variants[last].runs()) last--;
    current = variants[last].k;
}

const Kernels *kernels(void) {
    if (!current) kernels_init();
    if (!streams) streams_get();
    return current;
}

const char *kernels_isa(void) { return kernels()->name; }

int kernels_select(const char *isa) {
    for (int i = 0; i < N_VARIANTS; i++)
        if (strcmp(isa, variants[i].name) == 0 && variants[i].runs()) {
            current = variants[i].k;
            return 0;
        }
    return -1;
}

// ---- threads ------------------------------------------------------------------------------------

enum { MAX_THREADS = 256 };
static int threads;

void threads_set(int n) {
#ifndef THREADS
    n = 1;
#endif
    threads = n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : n;
}

int threads_get(void) {
    if (!threads) {
        const char *s = getenv("OMP_NUM_THREADS");
        long n = s ? strtol(s, NULL, 10) : 0;
        if (n < 1) n = processors();
        threads_set(n > MAX_THREADS ? MAX_THREADS : (int)n);
    }
    return threads;
}

// What a token reads after a sweep over weights, as far as it is known: the next sweep's matrices. Every
// thread fetches the beginning of its share behind its own part, and more of it while it waits: norms,
// attention and the step to the next sweep otherwise leave the memory idle.
enum { RUNS = 4, LINE = 64, AHEAD_FEW = 4096, AHEAD_MANY = 131072 };   // bytes in passing; while waiting
typedef struct { const uint8_t *at; int64_t bytes, each, quarter; } Run;     // matrices of `each` bytes
typedef struct {
    Run run[RUNS];
    int64_t bytes;                  // of the whole sweep; 0: nothing is known
    int threads;
} Ahead;

// Byte k of a run in the order in which its lines are read (Then).
static const uint8_t *in_order_of(const Run *r, int64_t k) {
    if (streams <= 1) return r->at + k;
    const int64_t in = k % r->each;
    return r->at + (k - in) + in / LINE % 4 * r->quarter + in / (4 * LINE) * LINE;
}

// Where in the next sweep a thread begins: the byte of a run, *run = RUNS where that is not known.
static int64_t begin_of(const Ahead *a, int thread, int *run) {
    int64_t skip = a->bytes ? a->bytes / a->threads * thread : 0;
    for (*run = 0; *run < RUNS && skip >= a->run[*run].bytes; ++*run) skip -= a->run[*run].bytes;
    return skip;
}

// For a thread that waits for the state of the pool to open (state; NULL: it has something else to do).
static void fetch_ahead(const Ahead *a, int thread, const uint64_t *state) {
    if (!a) return;
    int run;
    int64_t k = begin_of(a, thread, &run), left = state ? AHEAD_MANY : AHEAD_FEW;
    const uint64_t before = state ? __atomic_load_n(state, __ATOMIC_RELAXED) >> 32 : 0;
    for (; run < RUNS && left > 0; run++, k = 0)
        for (; k < a->run[run].bytes && left > 0; k += LINE, left -= LINE) {
            __builtin_prefetch(in_order_of(a->run + run, k), 0, 2);
            if (state && left % 1024 == 0 && __atomic_load_n(state, __ATOMIC_RELAXED) >> 32 != before) return;
        }
}

#ifdef THREADS

// Helpers are POSIX threads rather than an OpenMP team, because a team's region ends only when
// every member has had its turn on a core. With other programs on the cores that is milliseconds
// for work of microseconds. Here parts are taken one by one from counters, and the caller waits
// only for helpers that have taken one: a helper that gets no core costs nothing.
//
// Each thread has a range of its own, 0..n in equal shares, so that it reads one stream of memory
// from part to part; when that is used up it takes from the others'.
//
// `state` is the number of the job (high half), whether it is open, and how many helpers are in.
// A helper enters by adding 1 to an open state, and only inside may it look at the job.
// A job stands in the line of the state, so that who sees it open has it.
typedef struct { _Alignas(LINE) int64_t next; } Range;
static struct {
    _Alignas(LINE) uint64_t state;
    void (*fn)(void *ctx, int64_t begin, int64_t end, int thread);
    void *ctx;
    int64_t n, share, part;             // a range's length and that of its parts
    int threads;
    Range range[MAX_THREADS];
    Ahead ahead;
    int busy, sleeping, helpers;
    pthread_mutex_t lock;
    pthread_cond_t wake;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

#define OPEN (UINT64_C(1) << 31)
#define INSIDE (OPEN - 1)
#define SPIN 50e-6                  // seconds a helper looks for the next job before it sleeps
enum { LOOKS = 64 };                // without a break: what stands between two sweeps is short

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

static void take_parts(int thread) {
    for (int i = 0; i < pool.threads; i++) {
        const int of = (thread + i) % pool.threads;
        const int64_t end = lesser((of + 1) * pool.share, pool.n);
        for (;;) {
            const int64_t begin = __atomic_fetch_add(&pool.range[of].next, pool.part, __ATOMIC_RELAXED);
            if (begin >= end) break;
            pool.fn(pool.ctx, begin, lesser(begin + pool.part, end), thread);
        }
    }
}

static bool open_after(uint64_t state, uint64_t last) {
    return (state & OPEN) && state >> 32 != last;
}

static uint64_t pool_state(void) { return __atomic_load_n(&pool.state, __ATOMIC_SEQ_CST); }

static void *help(void *arg) {
    const int id = (int)(intptr_t)arg;
    uint64_t last = 0;
    for (;;) {
        uint64_t state = pool_state();
        for (int i = 0; i < LOOKS && !open_after(state, last); i++, state = pool_state()) relax();
        double begin = open_after(state, last) ? 0 : seconds();
        while (!open_after(state, last) && seconds() - begin < SPIN) {
            for (int i = 0; i < 8; i++) relax();
            sched_yield();                          // the caller may be waiting for this core
            state = pool_state();
        }
        if (!open_after(state, last)) {
            pthread_mutex_lock(&pool.lock);
            __atomic_fetch_add(&pool.sleeping, 1, __ATOMIC_SEQ_CST);
            while (!open_after(state = pool_state(), last)) pthread_cond_wait(&pool.wake, &pool.lock);
            __atomic_fetch_sub(&pool.sleeping, 1, __ATOMIC_SEQ_CST);
            pthread_mutex_unlock(&pool.lock);
        }
        if (!__atomic_compare_exchange_n(&pool.state, &state, state + 1, false, __ATOMIC_ACQ_REL,
                                         __ATOMIC_RELAXED)) continue;
        last = state >> 32;
        Ahead ahead = {0};
        if (id < pool.threads) {
            take_parts(id);
            ahead = pool.ahead;
        }
        __atomic_fetch_sub(&pool.state, 1, __ATOMIC_RELEASE);
        fetch_ahead(&ahead, id, &pool.state);
    }
    return NULL;
}

static void start_helpers(int wanted) {
    while (pool.helpers < wanted && start_thread(help, (void *)(intptr_t)(pool.helpers + 1))) pool.helpers++;
}

static void run_parts(int64_t n, int64_t share, int64_t part, int of, const Ahead *ahead,
                      void (*fn)(void *ctx, int64_t begin, int64_t end, int thread), void *ctx) {
    start_helpers(of - 1);
    pool.fn = fn, pool.ctx = ctx, pool.n = n, pool.share = share, pool.part = part, pool.threads = of;
    pool.ahead = ahead ? *ahead : (Ahead){0};
    for (int i = 0; i < of; i++)
        __atomic_store_n(&pool.range[i].next, i * share, __ATOMIC_RELAXED);
    const uint64_t job = (__atomic_load_n(&pool.state, __ATOMIC_RELAXED) >> 32) + 1;
    __atomic_store_n(&pool.state, job << 32 | OPEN, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&pool.sleeping, __ATOMIC_SEQ_CST)) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.lock);
    }
    take_parts(0);
    fetch_ahead(ahead, 0, NULL);
    __atomic_fetch_and(&pool.state, ~OPEN, __ATOMIC_ACQ_REL);
    for (int i = 0; __atomic_load_n(&pool.state, __ATOMIC_ACQUIRE) & INSIDE; i++) {
        if (i < 1000) relax();
        else sched_yield();
    }
}

#endif

// How many threads work on n, and what each has of it.
static int threads_for(int64_t n, int64_t grain) {
    const int64_t most = n / (grain > 0 ? grain : 1);
    return most < 1 ? 1 : most < threads_get() ? (int)most : threads_get();
}
static int64_t share_of(int64_t n, int64_t grain) {
    const int of = threads_for(n, grain);
    return (n + of - 1) / of;
}

static void parallel_sweep(int64_t n, int64_t grain, const Ahead *ahead,
                           void (*fn)(void *ctx, int64_t begin, int64_t end, int thread), void *ctx) {
    if (n <= 0) return;
#ifdef THREADS
    // Parts of a range: so that a slow core holds nobody up; of a sweep that waits for memory, long reads.
    const int64_t most = n / (grain > 0 ? grain : 1), each = ahead ? 4 : 16, share = share_of(n, grain);
    const int of = threads_for(n, grain);
    // The pool serves one caller at a time: a call from inside a part runs where it is.
    if (of > 1 && !__atomic_exchange_n(&pool.busy, 1, __ATOMIC_ACQUIRE)) {
        const int64_t parts = most / of < each ? most / of : each;
        run_parts(n, share, (share + parts - 1) / parts, of, ahead, fn, ctx);
        __atomic_store_n(&pool.busy, 0, __ATOMIC_RELEASE);
        return;
    }
#else
    (void)grain;
#endif
    fn(ctx, 0, n, 0);
    fetch_ahead(ahead, 0, NULL);
}

void parallel_for(int64_t n, int64_t grain,
                  void (*fn)(void *ctx, int64_t begin, int64_t end, int thread), void *ctx) {
    parallel_sweep(n, grain, NULL, fn, ctx);
}

// Weights times tokens below this many bytes are not worth a second thread.
enum { GRAIN = 24576 };
static int64_t grain_for(int64_t n) { return GRAIN / (n > 0 ? n : 1) + 1; }

// ---- activations --------------------------------------------------------------------------------

// A block of 32 activations: 64 bytes, two floats; as floats, turned. Of a single token it is 64 bytes and 12
// numbers, and there is room for MOST_LANES tokens.
enum { ACT_BLOCK = 72, TURNED_BLOCK = 128, MOST_LANES = 16 };

// Tokens in vectors, as turned activations count them; and how many have room.
static int64_t whole_vectors(int64_t n) { return (n + MOST_LANES - 1) / MOST_LANES * MOST_LANES; }
static int64_t room_blocks(int64_t cols) { return (cols + 31) / 32 + 1; }
static int64_t scratch_tokens(const Scratch *s, int64_t blocks) {
    return (int64_t)s->size / (blocks * (ACT_BLOCK + TURNED_BLOCK)) / MOST_LANES * MOST_LANES;
}

int scratch_init(Scratch *s, int64_t max_tokens, int64_t max_cols, Err *e) {
    *s = (Scratch){0};
    size_t size;
    enum { BYTES = ACT_BLOCK + TURNED_BLOCK };
    const size_t blocks = max_cols > 0 ? (size_t)(max_cols - 1) / 32 + 2 : 2;
    if (max_tokens < 0 || max_cols < 0 || (uint64_t)max_tokens > SIZE_MAX / 2 / BYTES - MOST_LANES ||
        !mul_size(blocks, (size_t)whole_vectors(max_tokens > 0 ? max_tokens : 1) * BYTES, &size))
        return fail(e, "activation scratch: %lld tokens of %lld columns do not fit in memory",
                    (long long)max_tokens, (long long)max_cols);
    s->q = alloc(size, 1, "activation scratch", e);
    if (!s->q) return -1;
    s->size = size;
    return 0;
}

void scratch_free(Scratch *s) {
    free(s->q);
    *s = (Scratch){0};
}

static Act act_of(void *room, int64_t n, int64_t cols, bool sums) {
    const int64_t blocks = n * (cols / 32);
    Act a = {.sums = sums};
    a.q = room;
    a.d = (float *)(void *)(a.q + 64 * blocks);
    a.s = a.d + blocks;
    return a;
}

static RowAct row_act_of(void *room, int64_t cols) {
    const int64_t all = (cols / 32 + ROW_BLOCKS - 1) / ROW_BLOCKS * ROW_BLOCKS * 32;
    RowAct a;
    a.q = room;
    a.l = a.q + all;
    a.bias = (int32_t *)(void *)(a.l + all);
    a.d = (float *)(void *)(a.bias + all / 8);
    a.s = a.d + all / 8;
    return a;
}

// The turned stand behind the quantised.
static float *turned_act(void *room, int64_t n, int64_t cols) {
    return (float *)(void *)((char *)room + whole_vectors(n) * ((cols + 31) / 32) * ACT_BLOCK);
}

// One x of a matmul, and what it is for weights of integers and of floats.
typedef struct {
    const float *x;
    int64_t cols;
    bool integers, floats, sums;
    Act act;                 // of many tokens, or
    RowAct row;              // of one
    float *turned;
} Input;
typedef struct { const Input *in; int n_in; int64_t n; } ActJob;

static void quantise_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const ActJob *j = ctx;
    (void)thread;
    for (const Input *in = j->in; in < j->in + j->n_in; in++)
        if (in->integers) kernels()->quantise(in->x, begin, end, in->cols, &in->act);
}

// Each input's one token.
static void quantise_rows(void *ctx, int64_t begin, int64_t end, int thread) {
    const ActJob *j = ctx;
    (void)thread;
    for (const Input *in = j->in + begin; in < j->in + end; in++)
        if (in->integers) kernels()->quantise_row(in->x, in->cols, &in->row);
}

static void turn_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const ActJob *j = ctx;
    (void)thread;
    for (const Input *in = j->in; in < j->in + j->n_in; in++)
        if (in->floats) kernels()->turn_tokens(in->x, in->cols, j->n, begin, end, in->turned);
}

// ---- matmul -------------------------------------------------------------------------------------

static bool integer_type(int type) { return type == T_Q8_0 || type == T_Q4_0 || type == T_Q4_1; }
static bool float_type(int type) { return type == T_F32 || type == T_F16 || type == T_BF16; }

static int64_t stride_of(const Mat *w) {
    size_t bytes = 0;
    row_size(w->type, w->cols, &bytes);
    return (int64_t)bytes;
}

enum { MAX_OUT = SWEEP_HEADS };
enum { FEW = 8 };     // tokens of float weights that wait for memory: rows as they stand

typedef struct {
    int64_t n, ldy;                  // ldy: of all outputs, or 0: each has its rows side by side
    Linear out[MAX_OUT];
    int n_out, n_in, of[MAX_OUT];    // of: which of the inputs an output has
    int64_t stride[MAX_OUT];         // bytes of a row of its weights
    bool alone, few;                 // alone: what is quantised stands in row, else in act
    Input in[MAX_OUT];
    int64_t share;                   // bytes of a thread
    const Ahead *ahead;
} MatmulJob;

// The matrices stand one behind the other as one run of bytes; a thread takes the rows that begin
// in its part, in whole groups of 32 so that no group is split.
static int64_t rows_before(const Mat *w, int64_t stride, int64_t bytes) {
    if (bytes >= w->rows * stride) return w->rows;
    return bytes <= 0 ? 0 : bytes / stride / 32 * 32;
}

static int64_t ldy_of(const MatmulJob *j, int i) { return j->ldy ? j->ldy : j->out[i].w->rows; }
static int64_t quarter_of(const MatmulJob *j, int i) { return (j->out[i].w->rows + 3) / 4 * j->stride[i]; }

// What a thread reads behind its rows of output i, whose own end is `end` bytes behind the beginning of that.
static Then then_of(const MatmulJob *j, int i, int64_t stride, int64_t end, int thread) {
    const Mat *w = j->out[i].w;
    Then then = {.end = rows_before(w, stride, end)};
    if (end > w->rows * stride && i + 1 < j->n_out) {
        then.at = j->out[i + 1].w->data, then.between = quarter_of(j, i + 1);
    } else if (j->ahead) {
        int run;
        const int64_t k = begin_of(j->ahead, thread, &run) / (4 * LINE) * 4 * LINE;
        const Run *r = j->ahead->run + run;
        if (run < RUNS) then.at = in_order_of(r, k), then.between = r->quarter;
    }
    return then;
}

static void matmul_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const MatmulJob *j = ctx;
    int64_t last = j->share * (thread + 1);
    if (last < end) last = end;                     // a part of another thread's range, or all of it
    for (int i = 0; i < j->n_out; i++) {
        const Mat *w = j->out[i].w;
        const Input *in = &j->in[j->of[i]];
        const int64_t stride = j->stride[i] + 1;    // + 1: no division by 0 for no columns
        const int64_t ldy = ldy_of(j, i);
        const int64_t r0 = rows_before(w, stride, begin), r1 = rows_before(w, stride, end);
        const Then then = r0 < r1 && j->few ? then_of(j, i, stride, last, thread) : (Then){0};
        if (r0 < r1 && integer_type(w->type) && j->alone)
            kernels()->quant_row(w, r0, r1, &in->row, j->out[i].y, &then);
        else if (r0 < r1 && integer_type(w->type))
            kernels()->quant_rows(w, r0, r1, &in->act, j->n, j->out[i].y, ldy);
        else if (r0 < r1 && float_type(w->type) && !j->few)
            kernels()->turned_rows(w, r0, r1, in->turned, j->n, j->out[i].y, ldy);
        else if (r0 < r1)
            kernels()->dot_rows(w, r0, r1, in->x, j->n, j->out[i].y, ldy, &then);
        begin -= w->rows * stride;
        end -= w->rows * stride;
        last -= w->rows * stride;
    }
}

// Sweeps of one token follow one another as they did for the last token: what came after the sweep that
// begins with a matrix stands under that matrix. Two models share the table; a wrong guess costs little.
static struct { const void *after; Ahead next; } known[1024];
static const void *last_sweep;
static int in_order;

static Ahead *behind(const void *sweep) {
    const size_t at = (size_t)(((uint64_t)(uintptr_t)sweep >> 5) * UINT64_C(0x9e3779b97f4a7c15) >> 54);
    if (known[at].after != sweep) known[at].next = (Ahead){0};
    known[at].after = sweep;
    return &known[at].next;
}

static const Ahead *sweep_order(const MatmulJob *j, int of, Ahead *next) {
    if (__atomic_exchange_n(&in_order, 1, __ATOMIC_ACQUIRE)) return NULL;   // somebody else computes, too
    Ahead *now = behind(last_sweep);
    now->threads = of, now->bytes = 0;
    memset(now->run, 0, sizeof now->run);
    last_sweep = NULL;
    for (int i = 0, k = 0; i < j->n_out; i++) {
        const uint8_t *at = j->out[i].w->data;
        const int64_t bytes = j->out[i].w->rows * j->stride[i];
        if (bytes <= 0) continue;
        now->bytes += bytes;
        Run *before = k ? &now->run[k - 1] : NULL;
        if (before && at == before->at + before->bytes && bytes == before->each) before->bytes += bytes;
        else if (k < RUNS) now->run[k++] = (Run){at, bytes, bytes, quarter_of(j, i)};
        if (!last_sweep) last_sweep = at;
    }
    *next = *behind(last_sweep);
    __atomic_store_n(&in_order, 0, __ATOMIC_RELEASE);
    return next;
}

// The inputs of a matmul, each once, with what its matrices ask of it; the bytes of all weights.
static int64_t find_inputs(MatmulJob *j, bool turned) {
    int64_t bytes = 0;
    for (int i = 0; i < j->n_out; i++) {
        const Linear *o = &j->out[i];
        int k = 0;
        while (k < j->n_in && (j->in[k].x != o->x || j->in[k].cols != o->w->cols)) k++;
        if (k == j->n_in) j->in[j->n_in++] = (Input){.x = o->x, .cols = o->w->cols};
        j->of[i] = k;
        j->stride[i] = stride_of(o->w);
        j->in[k].integers |= integer_type(o->w->type) && o->w->rows > 0;
        j->in[k].floats |= turned && float_type(o->w->type) && o->w->rows > 0;
        j->in[k].sums |= o->w->type == T_Q4_1;
        bytes += o->w->rows * (j->stride[i] + 1);
    }
    return bytes;
}

// Quantises and turns the j->n tokens of all inputs, which get their room in scratch one behind the other.
static void prepare_inputs(MatmulJob *j, const Scratch *s, int64_t cols) {
    enum { SERIAL = 2048 };                        // numbers of one token at least, of a thread
    char *room = s->q;
    bool integers = false, floats = false;
    for (Input *in = j->in; in < j->in + j->n_in; in++) {
        integers |= in->integers;
        floats |= in->floats;
        if (in->integers && j->alone) in->row = row_act_of(room, in->cols);
        else if (in->integers) in->act = act_of(room, j->n, in->cols, in->sums);
        if (in->floats) in->turned = turned_act(room, j->n, in->cols);
        room += whole_vectors(j->n) * room_blocks(in->cols) * (ACT_BLOCK + TURNED_BLOCK);
    }
    ActJob a = {j->in, j->n_in, j->n};
    const int64_t lanes = kernels()->lanes;
    if (integers && j->alone) parallel_for(j->n_in, SERIAL * j->n_in / (cols + 1) + 1, quantise_rows, &a);
    else if (integers) parallel_for(j->n, GRAIN / (cols + 1) + 1, quantise_part, &a);
    if (floats) parallel_for((j->n + lanes - 1) / lanes, GRAIN / (cols * lanes + 1) + 1, turn_part, &a);
}

static void products(Scratch *s, int64_t n, const Linear *out, int n_out, int64_t ldy) {
    MatmulJob j;
    j.n_out = n_out, j.n_in = 0, j.ldy = ldy;
    j.alone = n == 1 && !s->uniform, j.few = n <= FEW && !s->uniform;
    memcpy(j.out, out, (size_t)n_out * sizeof *out);
    const int64_t bytes = find_inputs(&j, !j.few);
    int64_t slice = n, blocks = 0, cols = 0;
    bool made = false;
    for (int k = 0; k < j.n_in; k++) {
        blocks += room_blocks(j.in[k].cols);
        cols += j.in[k].cols;
        made |= j.in[k].integers || j.in[k].floats;
    }
    if (bytes == 0 || n < 1) return;
    if (made) slice = scratch_tokens(s, blocks);
    if (slice < 1 && n_out > 1) {       // no room for all inputs: one after the other
        for (int i = 0; i < n_out; i++) products(s, n, out + i, 1, ldy);
        return;
    }
    for (int64_t t = 0; t < n; t += slice) {
        j.n = n - t < slice ? n - t : slice;
        if (made) prepare_inputs(&j, s, cols);
        Ahead next;
        j.ahead = n == 1 ? sweep_order(&j, threads_for(bytes, grain_for(1)), &next) : NULL;
        j.share = share_of(bytes, grain_for(j.n));
        parallel_sweep(bytes, grain_for(j.n), j.ahead, matmul_part, &j);
        for (int i = 0; i < n_out; i++)
            if (j.out[i].y) j.out[i].y += j.n * ldy_of(&j, i);
        for (int k = 0; k < j.n_in; k++) j.in[k].x += j.n * j.in[k].cols;
    }
}

void matmul(Scratch *s, int64_t n, const Linear *out, int n_out) {
    for (; n_out > MAX_OUT; out += MAX_OUT, n_out -= MAX_OUT) products(s, n, out, MAX_OUT, 0);
    products(s, n, out, n_out, 0);
}

void matmul_heads(Scratch *s, int64_t n, int64_t heads, int64_t n_kv, const Mat *w, const float *x,
                  float *y) {
    const int64_t rows = w->rows / n_kv;
    Mat part[MAX_OUT];
    Linear out[MAX_OUT];
    for (int64_t i = 0; i < heads; i++) {
        const int64_t k = i % MAX_OUT, g = i / (heads / n_kv);
        part[k] = mat_rows(w, g * rows, rows);
        out[k] = (Linear){part + k, x + i * n * w->cols, y + i * rows};
        if (k + 1 == MAX_OUT || i + 1 == heads) products(s, n, out, (int)k + 1, heads * rows);
    }
}

void matmul_naive(int64_t n, const Linear *out, int n_out) {
    for (int i = 0; i < n_out; i++) {
        const Mat *w = out[i].w;
        float *row = alloc((size_t)w->cols, sizeof *row, "a row", NULL);
        if (!row) return;
        for (int64_t r = 0; r < w->rows; r++) {
            mat_row(w, r, row);
            for (int64_t t = 0; t < n; t++) {
                double sum = 0;
                for (int64_t c = 0; c < w->cols; c++) sum += (double)row[c] * out[i].x[t * w->cols + c];
                out[i].y[t * w->rows + r] = (float)sum;
            }
        }
        free(row);
    }
}

void matmul_block(const Mat *w, const float *x, int64_t n, float *y, int64_t ldy) {
    if (w->rows > 0) kernels()->dot_rows(w, 0, w->rows, x, n, y, ldy, NULL);
}

// ---- the transposed product ---------------------------------------------------------------------

typedef struct { const Mat *w; const float *x; int64_t n; float *y; int64_t unit; } ColumnsJob;

static void columns_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const ColumnsJob *j = ctx;
    (void)thread;
    const int64_t cols = j->w->cols, c0 = begin * j->unit;
    const int64_t c1 = end * j->unit < cols ? end * j->unit : cols;
    for (int64_t t = 0; t < j->n; t++)
        memset(j->y + t * cols + c0, 0, (size_t)(c1 - c0) * sizeof *j->y);
    kernels()->columns(j->w, c0, c1, j->x, j->w->rows, j->n, j->y, cols);
}

void matmul_t(Scratch *s, const float *x, int64_t n, const Mat *w, float *y) {
    (void)s;
    const int64_t block = type_info(w->type)->block, unit = block > 32 ? block : 32;
    const int64_t units = w->cols / unit + (w->cols % unit != 0);
    const int64_t per_unit = w->cols > 0 ? stride_of(w) * w->rows / units : 0;
    ColumnsJob j = {w, x, n, y, unit};
    // One token: as few and wide parts as there are threads, for long reads.
    const int64_t wide = n == 1 ? (units + threads_get() - 1) / threads_get() : 1;
    const int64_t grain = grain_for(n) / (per_unit + 1) + 1;
    parallel_for(units, grain > wide ? grain : wide, columns_part, &j);
}

void matmul_t_naive(const float *x, int64_t n, const Mat *w, float *y) {
    float *row = alloc((size_t)w->cols, sizeof *row, "a row", NULL);
    double *sum = alloc((size_t)w->cols, sizeof *sum, "a row of sums", NULL);
    for (int64_t t = 0; t < n && row && sum; t++) {
        memset(sum, 0, (size_t)w->cols * sizeof *sum);
        for (int64_t r = 0; r < w->rows; r++) {
            mat_row(w, r, row);
            for (int64_t c = 0; c < w->cols; c++) sum[c] += (double)x[t * w->rows + r] * row[c];
        }
        for (int64_t c = 0; c < w->cols; c++) y[t * w->cols + c] = (float)sum[c];
    }
    free(sum);
    free(row);
}

void matmul_t_block(const Mat *w, const float *x, int64_t ldx, int64_t n, float *y, int64_t ldy) {
    kernels()->columns(w, 0, w->cols, x, ldx, n, y, ldy);
}

// ---- vectors ------------------------------------------------------------------------------------

float dot(const float *a, const float *b, int64_t n) { return kernels()->dot(a, b, n); }
void axpy(float *y, float a, const float *x, int64_t n) { kernels()->axpy(y, a, x, n); }
void scale_to(float *y, float a, const float *x, int64_t n) { kernels()->scale(y, x, a, NULL, n); }
float max_of(const float *x, int64_t n) { return kernels()->max(x, n); }

float exp_sum(float *x, int64_t n, float scale, float shift) {
    return kernels()->exp_sum(x, n, scale, shift);
}

void rmsnorm(float *y, const float *x, const float *w, int64_t n, float eps) {
    const float mean = dot(x, x, n) / (float)n;
    kernels()->scale(y, x, 1 / sqrtf(mean + eps), w, n);
}

void layernorm(float *y, const float *x, const float *w, const float *b, int64_t n, float eps) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    const float mean = (float)(sum / (double)n);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] - mean;
    const float variance = dot(y, y, n) / (float)n;
    kernels()->scale(y, y, 1 / sqrtf(variance + eps), w, n);
    add(y, b, n);
}

void softmax(float *x, int64_t n) {
    const float sum = exp_sum(x, n, 1, max_of(x, n));
    scale_to(x, 1 / sum, x, n);
}

// Whole batches of rows: a number each, so that the cut changes nothing.
enum { ROWS_GRAIN = 16384 };
typedef struct { Activation a; float *x; const float *up; } ActivateJob;     // up: another operand, or NULL

static void activate_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const ActivateJob *j = ctx;
    (void)thread;
    if (j->up) kernels()->swiglu(j->x + begin, j->up + begin, end - begin);
    else kernels()->activate(j->a, j->x + begin, end - begin);
}

void swiglu(float *gate, const float *up, int64_t n) {
    parallel_for(n, ROWS_GRAIN, activate_part, &(ActivateJob){ACT_SILU, gate, up});
}
void activate(Activation a, float *x, int64_t n) {
    parallel_for(n, ROWS_GRAIN, activate_part, &(ActivateJob){a, x, NULL});
}

static void add_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const ActivateJob *j = ctx;
    (void)thread;
    kernels()->axpy(j->x + begin, 1, j->up + begin, end - begin);
}

void add(float *y, const float *x, int64_t n) {
    parallel_for(n, ROWS_GRAIN, add_part, &(ActivateJob){.x = y, .up = x});
}

// Rows of a batch, each by itself: a part has ROWS_GRAIN numbers at least.
static int64_t rows_grain(int64_t d) { return ROWS_GRAIN / (d + 1) + 1; }

typedef struct { float *y; const float *x; Norm w; int64_t d; float eps; } NormJob;

static void norm_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const NormJob *j = ctx;
    (void)thread;
    for (int64_t i = begin * j->d; i < end * j->d; i += j->d)
        if (j->w.b) layernorm(j->y + i, j->x + i, j->w.w, j->w.b, j->d, j->eps);
        else rmsnorm(j->y + i, j->x + i, j->w.w, j->d, j->eps);
}

void norm_rows(float *y, const float *x, Norm w, int64_t n, int64_t d, float eps) {
    parallel_for(n, rows_grain(d), norm_part, &(NormJob){y, x, w, d, eps});
}

typedef struct { float *x, *y; const int32_t *at; int64_t d, k; bool put, sum; } PickJob;

static void pick_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const PickJob *j = ctx;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        float *x = j->x + i * j->d, *y = j->y + i * j->k;
        if (j->put) for (int64_t c = 0; c < j->k; c++) x[j->at[c]] = y[c];
        else if (j->sum) for (int64_t c = 0; c < j->k; c++) y[c] += x[j->at[c]];
        else for (int64_t c = 0; c < j->k; c++) y[c] = x[j->at[c]];
    }
}

void take_columns(const float *x, int64_t n, int64_t d, const int32_t *at, int64_t k, bool sum, float *y) {
    parallel_for(n, rows_grain(k), pick_part, &(PickJob){(float *)(uintptr_t)x, y, at, d, k, false, sum});
}
void put_columns(const float *y, int64_t n, int64_t k, const int32_t *at, int64_t d, float *x) {
    parallel_for(n, rows_grain(k), pick_part, &(PickJob){x, (float *)(uintptr_t)y, at, d, k, true, false});
}

void f16_row_to_f32(const uint16_t *src, float *dst, int64_t n) {
    kernels()->from_f16(src, dst, n);
}
void f32_row_to_f16(const float *src, uint16_t *dst, int64_t n) {
    kernels()->to_f16(src, dst, n);
}

// ---- attention ----------------------------------------------------------------------------------

void key_scores(const Mat *k, bool tiled, const float *q, int64_t ldq, int64_t rows, const RowSpan *seen,
                bool add, float *s, int64_t lds, const void *ahead) {
    kernels()->key_scores(k, tiled, q, ldq, rows, seen, add, s, lds, ahead);
}

void value_sums(const Mat *v, const float *w, int64_t ldw, int64_t rows, const RowSpan *seen, float *y,
                int64_t ldy, const void *ahead) {
    kernels()->value_sums(v, w, ldw, rows, seen, y, ldy, ahead);
}

float soften(float *s, RowSpan seen, int64_t n, float scale, float *max, float *sum) {
    return kernels()->soften(s, seen, n, scale, max, sum);
}

// ---- the machine --------------------------------------------------------------------------------

// The best of many short runs of n parts: others may hold the cores or the memory for a while. *run
// counts them.
static double best_rate(double amount, int64_t n,
                        void (*fn)(void *ctx, int64_t begin, int64_t end, int thread), void *ctx,
                        int64_t *run) {
    double best = 0, begin = seconds();
    for (*run = 0; *run < 3 || (seconds() - begin < 0.3 && !interrupted); ++*run) {
        double t = seconds();
        parallel_for(n, 1, fn, ctx);
        t = seconds() - t;
        if (t > 0 && amount / t > best) best = amount / t;
    }
    return best;
}

// A run reads all of it: what a cache kept of its end is gone when the next run comes there again.
enum { READ_UNIT = 65536, READ_UNITS = 4096 };                  // 256 MB
typedef struct { const uint8_t *p; int64_t run; uint64_t seen; } ReadJob;

static void read_part(void *ctx, int64_t begin, int64_t end, int thread) {
    ReadJob *j = ctx;
    const uint64_t x = kernels()->read(j->p + begin * READ_UNIT, (size_t)(end - begin) * READ_UNIT);
    (void)thread;
    __atomic_fetch_xor(&j->seen, x, __ATOMIC_RELAXED);
}

double read_bandwidth(size_t size) {
    const size_t units = size ? (size - 1) / READ_UNIT + 1 : READ_UNITS;
    uint8_t *p = alloc(units, READ_UNIT, "bandwidth probe", NULL);
    if (!p) return 0;
    memset(p, 1, units * READ_UNIT);                             // pages of its own
    ReadJob j = {.p = p};
    const double best = best_rate((double)(units * READ_UNIT), (int64_t)units, read_part, &j, &j.run);
    free(p);
    return best;
}

enum { TURNS = 20000 };                                          // of a part: tens of microseconds
typedef struct { bool bytes; int64_t run; } MaddsJob;

static int64_t madds(bool bytes) {
    float f = 0;
    int32_t i = 0;
    return bytes ? kernels()->madds_int8(TURNS, &i) : kernels()->madds_f32(TURNS, &f);
}

static void madds_part(void *ctx, int64_t begin, int64_t end, int thread) {
    const MaddsJob *j = ctx;
    (void)thread;
    for (int64_t i = begin; i < end; i++) madds(j->bytes);
}

double peak_madds(bool bytes) {
    const int64_t parts = 4 * (int64_t)threads_get();
    MaddsJob j = {.bytes = bytes};
    return best_rate((double)(madds(bytes) * parts), parts, madds_part, &j, &j.run);
}
