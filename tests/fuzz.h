// What the fuzz targets share. A target is a file tests/fuzz_NAME.c with one function,
// LLVMFuzzerTestOneInput: bytes in, and nothing may crash, leak, hang, or allocate beyond what
// doc/SECURITY.md promises. `make fuzz` links it with libFuzzer, the tests with fuzz_main.c, which
// replays tests/corpus/NAME.
#ifndef FUZZ_H
#define FUZZ_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../core/sampler.h"
#include "../model.h"
#include "../tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Holds, or the input is a finding: sanitizers report an abort with the stack that led there.
#define HOLDS(ok, ...) do { if (!(ok)) { \
        fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #ok); fprintf(stderr, __VA_ARGS__); \
        fputc('\n', stderr); abort(); } } while (0)

// What is refused is refused with a reason. FUZZ_SAY=1 in the environment shows them.
static inline void fuzz_said(int status, const Err *e) {
    HOLDS(!status || *e->msg, "refused without a message");
    if (getenv("FUZZ_SAY")) fprintf(stderr, "%s\n", status ? e->msg : "taken");
}

// ---- memory ---------------------------------------------------------------------------------------

// Bytes allocated since fuzz_begin, what was freed meanwhile included. Counted where the sanitizers'
// allocator can be asked; elsewhere 0.
int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void *, size_t),
                                              void (*)(const volatile void *)) __attribute__((weak));
static size_t fuzz_taken;
static void fuzz_malloc(const volatile void *p, size_t size) { fuzz_taken += p ? size : 0; }
static void fuzz_free(const volatile void *p) { (void)p; }

static inline void fuzz_begin(void) {
    static bool hooked;
    if (!hooked && __sanitizer_install_malloc_and_free_hooks)
        __sanitizer_install_malloc_and_free_hooks(fuzz_malloc, fuzz_free);
    hooked = true;
    fuzz_taken = 0;
}

// Nothing has been allocated but `times` the input and 1 MB.
static inline void fuzz_small(size_t size, size_t times, const char *what) {
    HOLDS(fuzz_taken <= times * size + (1 << 20), "%s: %zu bytes for an input of %zu", what, fuzz_taken, size);
}

// A copy that ends where the input ends, so that a sanitizer sees the first byte too far, and begins as
// a mapping does, at a multiple of any alignment asked of it. Caller frees.
static inline uint8_t *fuzz_copy(const uint8_t *data, size_t size) {
    void *p = NULL;
    if (posix_memalign(&p, 4096, size ? size : 1)) abort();
    if (size) memcpy(p, data, size);
    return p;
}

// ---- files ----------------------------------------------------------------------------------------

static char fuzz_dir[64];
static inline void fuzz_remove_dir(void) { rmdir(fuzz_dir); }

// The path of a file in this process's folder, in memory where the system has such a place.
static inline const char *fuzz_path(const char *name) {
    static char path[8][320];
    static int turn;
    if (!*fuzz_dir) {
        strcpy(fuzz_dir, access("/dev/shm", W_OK) ? "/tmp/fuzz-XXXXXX" : "/dev/shm/fuzz-XXXXXX");
        if (!mkdtemp(fuzz_dir)) abort();
        atexit(fuzz_remove_dir);
    }
    char *p = path[turn++ % 8];
    snprintf(p, sizeof *path, "%s%s%s", fuzz_dir, *name ? "/" : "", name);
    return p;
}

static inline void fuzz_put(const char *name, const void *data, size_t size) {
    FILE *f = fopen(fuzz_path(name), "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f)) abort();
}

// An input of several files: "=== name" on a line of its own begins one, whose text goes to the next
// such line. Calls put for every part whose name is one of `names`; what stands before the first is
// nobody's.
typedef void FuzzPart(const char *name, const uint8_t *data, size_t size);
static inline void fuzz_parts(const uint8_t *data, size_t size, const char *const *names, FuzzPart *put) {
    const char *at = (const char *)data, *end = at + size;
    while (at < end) {
        const char *line = memchr(at, '\n', (size_t)(end - at));
        if (!line) return;
        const char *text = line + 1, *next = text;
        while (next < end && (end - next < 4 || memcmp(next, "=== ", 4))) {
            const char *n = memchr(next, '\n', (size_t)(end - next));
            next = n ? n + 1 : end;
        }
        bool marked = line - at > 4 && !memcmp(at, "=== ", 4);
        for (int i = 0; marked && names[i]; i++)
            if ((size_t)(line - at) == 4 + strlen(names[i]) && !memcmp(at + 4, names[i], strlen(names[i])))
                put(names[i], (const uint8_t *)text, (size_t)(next - text) - (next < end && next > text));
        at = next;
    }
}

// ---- what is done with what was read --------------------------------------------------------------

// Encodes a text and decodes what came of it; every id is one of the vocabulary's.
static inline void fuzz_encode(Tokenizer *t, int n_vocab, const char *text, size_t n) {
    for (int way = 0; way < 4; way++) {
        int *ids = NULL;
        size_t count = 0;
        Err e = {""};
        if (tokenizer_encode(t, text, n, way & 1, way & 2, &ids, &count, &e)) {
            fuzz_said(-1, &e);
            continue;
        }
        Decoder d = {.special = way & 1};
        size_t said = 0;
        for (size_t i = 0; i < count; i++) {
            HOLDS(ids[i] >= 0 && ids[i] < n_vocab, "id %d of %d", ids[i], n_vocab);
            said += strlen(tokenizer_decode(t, &d, ids[i]));
        }
        said += strlen(tokenizer_decode_end(t, &d));
        HOLDS(said < (size_t)1 << 40, "%zu", said);
        free(ids);
    }
}

static const char fuzz_text[] = "The cat's 12345 \xC3\xA9t\xC3\xA9s,  <s>\n\t \xE4\xB8\xAD\xF0\x9F\x99\x82\xFF<|im_end|>it'LL [MASK]";

static inline void fuzz_vocab(const Vocab *v) {
    Err e = {""};
    Tokenizer *t = tokenizer_new(v, &e);
    fuzz_said(t ? 0 : -1, &e);
    if (t) {
        fuzz_encode(t, v->n, fuzz_text, sizeof fuzz_text - 1);
        for (int i = -1; i <= v->n; i += 1 + v->n / 64) {
            Decoder d = {.special = true};
            tokenizer_decode(t, &d, i);
            tokenizer_ends(t, i);
        }
    }
    tokenizer_free(t);
}

// A few tokens through a model. salt chooses how the session is configured.
static inline void fuzz_run(const Model *m, unsigned salt) {
    static const int types[] = {T_F32, T_F16, T_Q8_0};
    const Config *c = &m->config;
    Err e = {""};
    const int type = types[salt / 4 % (c->hd % 32 ? 2 : 3)];              // Q8_0 has rows in blocks of 32
    SessionConfig s = {c->context < 6 ? c->context : 6, 1 + salt % 4, type, (CacheForm)(salt / 12 % 3), false};
    Parts p = model_params(m);
    if (!(p.attention + p.ffn + p.embedding + p.output < 1e7)) return;     // it would only be slow
    Session session;
    if (session_init(&session, m, s, &e)) {
        fuzz_said(-1, &e);
        return;
    }
    int ids[6];
    int64_t n = session.config.batch < 3 ? session.config.batch : 3;
    for (int i = 0; i < 6; i++) ids[i] = (int)((salt + 7 * (unsigned)i) % (uint64_t)c->vocab);
    int status = c->encoder ? encode(&session, ids, n, &e) : prefill(&session, ids, n, &e);
    HOLDS(!status, "%s", e.msg);
    Sampler sampler;
    SamplerConfig how = {.temp = salt & 1, .top_k = 4, .top_p = 0.9f, .repeat_penalty = 1.1f, .repeat_last = 3,
        .seed = 1};
    if (model_predicts(m) && !sampler_init(&sampler, (int)c->vocab, how, &e)) {
        int id = sampler_pick(&sampler, logits(&session, session.n - 1, 1));
        HOLDS(id >= 0 && id < c->vocab, "token %d of %lld", id, (long long)c->vocab);
        sampler_accept(&sampler, id);
        sampler_pick(&sampler, logits(&session, session.n - 1, 1));
        if (!c->encoder && session.pos < session.config.context) HOLDS(!forward(&session, &id, 1, &e), "%s", e.msg);
        sampler_free(&sampler);
    }
    session_free(&session);
}

#endif
