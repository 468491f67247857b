// A long life: hundreds of generations and chats in one process leave its memory as it was; a context
// filled to its last token; prompts of a hundred thousand characters. SOAK=N in the environment: N times
// as many (make soak).
#include "../tokenizer.h"
#include "rig.h"

#include <dirent.h>
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
#include <malloc.h>
#define GLIBC_COUNTS
#endif

static Err err;

static int times(void) {
    const char *text = getenv("SOAK");
    return text && atoi(text) > 0 ? atoi(text) : 1;
}

// Bytes that are allocated now; 0 where nobody counts them. libc's own count takes in what it keeps for
// later, the sanitizers' is exact.
size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));
static size_t held(void) {
    if (__sanitizer_get_current_allocated_bytes) return __sanitizer_get_current_allocated_bytes();
#ifdef GLIBC_COUNTS
    struct mallinfo2 now = mallinfo2();
    return now.uordblks + now.hblkhd;
#else
    return 0;
#endif
}

static bool grown(size_t before) { return held() > before + (__sanitizer_get_current_allocated_bytes ? 0 : 100000); }

// ---- many generations -----------------------------------------------------------------------------

typedef struct { Gguf g; Model m; Vocab v; Tokenizer *t; } Loaded;

static int load(Loaded *l, const char *path) {
    *l = (Loaded){0};
    if (gguf_open(&l->g, path, &err) || model_bind(&l->m, &l->g, &err)) return -1;
    if (!gguf_kv(&l->g, "tokenizer.ggml.model")) return 0;
    return vocab_from_gguf(&l->v, &l->g, &err) || !(l->t = tokenizer_new(&l->v, &err)) ? -1 : 0;
}

static void unload(Loaded *l) {
    tokenizer_free(l->t);
    vocab_free(&l->v);
    model_free(&l->m);
    gguf_free(&l->g);
}

static const char *const prompts[] = {"Once upon a time", "the", "", "Tom said, \"No!\"\n\n 123 \xC3\xA9\xFF"};

// Ids of a prompt, or some of the model's where it has no vocabulary. At least one; caller frees.
static int *ids_of(const Loaded *l, int i, size_t *n) {
    int *ids = NULL;
    *n = 0;
    if (l->t && tokenizer_encode(l->t, prompts[i % COUNT(prompts)], strlen(prompts[i % COUNT(prompts)]), true,
        true, &ids, n, &err))
        return NULL;
    if (*n) return ids;
    free(ids);
    ids = malloc(sizeof *ids);
    *ids = i % (int)l->m.config.vocab;
    *n = 1;
    return ids;
}

// One session from its beginning to its end, configured in the i-th way: `most` tokens, or to the end.
static int generate(Loaded *l, int i, int64_t most) {
    static const int types[] = {T_F16, T_F32};
    const Config *c = &l->m.config;
    Session s;
    Sampler sampler;
    SamplerConfig how = {.temp = i % 2 ? 0.8f : 0, .top_k = 40, .top_p = 0.95f, .repeat_penalty = 1.1f,
        .repeat_last = 8, .seed = 1};
    SessionConfig config = {c->context < 64 ? c->context : 64, 1 + i % 7, types[i / 2 % 2], (CacheForm)(i / 4 % 3), false};
    size_t n;
    int *ids = ids_of(l, i, &n);
    if (!ids || (int64_t)n > config.context || session_init(&s, &l->m, config, &err)) { free(ids); return -1; }
    int status = c->encoder ? encode(&s, ids, (int64_t)n, &err) : prefill(&s, ids, (int64_t)n, &err);
    if (!status && model_predicts(&l->m)) status = sampler_init(&sampler, (int)c->vocab, how, &err);
    Decoder d = {0};
    for (int64_t k = 0; k < most && !status && !c->encoder && s.pos < config.context; k++) {
        int id = sampler_pick(&sampler, logits(&s, s.n - 1, 1));
        sampler_accept(&sampler, id);
        if (l->t) tokenizer_decode(l->t, &d, id);
        status = forward(&s, &id, 1, &err);
    }
    if (!status && model_predicts(&l->m)) sampler_free(&sampler);
    session_free(&s);
    free(ids);
    return status;
}

// Loads, generates in many ways, closes; and again. What is held does not grow from one round to the next.
static int rounds(const char *path, int n, int64_t most) {
    size_t before = 0;
    for (int round = 0; round < 4; round++) {
        Loaded l;
        CHECK(!load(&l, path), "%s", err.msg);
        size_t loaded = held(), done = 0;
        for (int i = 0; i < n; i++) {
            CHECK(!generate(&l, i, most), "%s, generation %d: %s", path, i, err.msg);
            if (i == 7) done = held();                    // every way has been seen, and libc's first uses
            CHECK(i <= 7 || !grown(done), "%s, generation %d: %zu bytes held, %zu before", path, i, held(), done);
        }
        CHECK(round == 0 || !grown(loaded), "%s: generations leave %zu bytes", path, held() - loaded);
        unload(&l);
        if (round > 1) CHECK(!grown(before), "%s, round %d: %zu bytes held, %zu before", path, round, held(), before);
        before = held();
    }
    return PASS;
}

static int generations(void) {
    DIR *dir = opendir("tests/corpus/gguf");
    CHECK(dir, "no tests/corpus/gguf (run it from the top of the tree)");
    int seen = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        char path[300];
        if (e->d_name[0] == '.' || !strncmp(e->d_name, "found_", 6)) continue;
        snprintf(path, sizeof path, "tests/corpus/gguf/%s", e->d_name);
        if (rounds(path, 12 * times(), 12) == FAIL) return FAIL;
        seen++;
    }
    closedir(dir);
    CHECK(seen >= 15, "%d models", seen);
    return rounds("models/stories.tbin", 9 + times(), 6);
}

// ---- chats ----------------------------------------------------------------------------------------

// A chat is one session that turns are added to until it is full, then the next from position 0.
static int chats(void) {
    Loaded l;
    Session s;
    Sampler sampler;
    SamplerConfig how = {.temp = 0.9f, .top_k = 20, .top_p = 0.95f, .repeat_penalty = 1.1f, .repeat_last = 16,
        .seed = 3};
    CHECK(!load(&l, "tests/corpus/gguf/wide.gguf"), "%s", err.msg);
    CHECK(!session_init(&s, &l.m, (SessionConfig){64, 8, T_F16, CACHE_AUTO, false}, &err), "%s", err.msg);
    CHECK(!sampler_init(&sampler, (int)l.m.config.vocab, how, &err), "%s", err.msg);
    int turns = 0;
    size_t before = 0;
    for (int chat = 0; chat < 200 * times(); chat++, session_rewind(&s, 0)) {
        for (;; turns++) {
            size_t n;
            int *ids = ids_of(&l, turns, &n);
            CHECK(ids, "%s", err.msg);
            bool fits = (int64_t)n < s.config.context - s.pos;
            CHECK(!fits || !prefill(&s, ids, (int64_t)n, &err), "%s", err.msg);
            free(ids);
            if (!fits) break;
            for (int k = 0; k < 4 && s.pos < s.config.context; k++) {
                int id = sampler_pick(&sampler, logits(&s, s.n - 1, 1));
                sampler_accept(&sampler, id);
                CHECK(!forward(&s, &id, 1, &err), "%s", err.msg);
            }
        }
        if (chat == 3) before = held();
        CHECK(chat <= 3 || !grown(before), "chat %d: %zu bytes held, %zu before", chat, held(), before);
    }
    CHECK(turns > 400, "%d turns", turns);
    sampler_free(&sampler);
    session_free(&s);
    unload(&l);
    return PASS;
}

// ---- the last token -------------------------------------------------------------------------------

static int filled(void) {
    Loaded l;
    CHECK(!load(&l, "models/stories.tbin"), "%s", err.msg);
    const int64_t context = l.m.config.context;
    for (int batch = 1; batch <= 64; batch += 63) {
        Session s;
        int ids[1024], id = 5;
        CHECK(!session_init(&s, &l.m, (SessionConfig){context, batch, T_F16, CACHE_AUTO, false}, &err), "%s", err.msg);
        for (int i = 0; i < 1024; i++) ids[i] = 3 + i * 7 % 2000;
        CHECK(!prefill(&s, ids, context - 1, &err) && !forward(&s, &id, 1, &err) && s.pos == context, "%s", err.msg);
        const float *out = logits(&s, s.n - 1, 1);
        for (int i = 0; i < l.m.config.vocab; i++) CHECK(isfinite(out[i]), "logit %d of the last position is %g",
            i, (double)out[i]);
        CHECK(forward(&s, &id, 1, &err) && strstr(err.msg, "do not fit"), "one more: %s", err.msg);
        CHECK(s.pos == context, "%lld positions after what was refused", (long long)s.pos);
        session_rewind(&s, context - 1);
        CHECK(!forward(&s, &id, 1, &err), "after going back: %s", err.msg);
        session_free(&s);
    }
    unload(&l);
    return PASS;
}

// ---- long prompts ---------------------------------------------------------------------------------

enum { CHARACTERS = 100000 };

// Ids of a text and the text again.
static int there_and_back(Tokenizer *t, const char *text, size_t n, int **ids, size_t *n_ids) {
    Decoder d = {.special = true};
    size_t at = 0;
    CHECK(!tokenizer_encode(t, text, n, false, true, ids, n_ids, &err), "%s", err.msg);
    for (size_t i = 0; i <= *n_ids; i++) {
        const char *piece = i < *n_ids ? tokenizer_decode(t, &d, (*ids)[i]) : tokenizer_decode_end(t, &d);
        CHECK(at + strlen(piece) <= n && !memcmp(text + at, piece, strlen(piece)), "byte %zu: \"%.40s\"", at, piece);
        at += strlen(piece);
    }
    CHECK(at == n, "%zu of %zu bytes", at, n);
    return PASS;
}

// A hundred thousand characters through the tokenizer of the story model; of a text with words, the ids
// through a small model that sees 200 positions back.
static int long_prompts(void) {
    static const Rig rig = {"llama", NULL, 16, 2, 1, 8, 16, 2048, 1, 1 << 17, false, true, false, 0, T_F32, 9};
    static const char *const kinds[] = {"Tom had a red ball. ", "a", " ", "\n", "\xE4\xB8\xAD", "1", "a b", "!?"};
    const size_t size = (size_t)CHARACTERS * (size_t)times();
    Loaded l;
    CHECK(!load(&l, "models/stories.tbin"), "%s", err.msg);
    char *text = malloc(size + 8);
    for (int k = 0; k < COUNT(kinds); k++) {
        int *ids;
        size_t unit = strlen(kinds[k]), count, n = size / unit * unit;
        for (size_t i = 0; i < n; i++) text[i] = kinds[k][i % unit];
        if (there_and_back(l.t, text, n, &ids, &count) == FAIL) return FAIL;
        if (k == 0) {
            RigModel r;
            Session s;
            if (count > (1 << 17) - 1) count = (1 << 17) - 1;
            CHECK(!rig_build(&r, &rig, NULL, &err), "%s", err.msg);
            gguf_set_int(r.b, "llama.attention.sliding_window", GGUF_U32, 200);
            model_free(&r.m);
            gguf_free(&r.g);
            CHECK(!gguf_build(r.b, "rig", &r.g, &err) && !model_bind(&r.m, &r.g, &err), "%s", err.msg);
            CHECK(!session_init(&s, &r.m, (SessionConfig){(int64_t)count, 64, T_F16, CACHE_AUTO, false}, &err), "%s",
                err.msg);
            CHECK(!prefill(&s, ids, (int64_t)count, &err) && s.pos == (int64_t)count, "%s", err.msg);
            const float *out = logits(&s, s.n - 1, 1);
            for (int i = 0; i < 2048; i++) CHECK(isfinite(out[i]), "logit %d is %g", i, (double)out[i]);
            session_free(&s);
            rig_free(&r);
        }
        free(ids);
    }
    free(text);
    unload(&l);
    return PASS;
}

static const Test tests[] = {
    {"generations", generations}, {"chats", chats}, {"filled to the last token", filled},
    {"long prompts", long_prompts},
};

int main(int argc, char **argv) { return run_tests("soak", tests, COUNT(tests), argc, argv); }
