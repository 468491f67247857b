// --bench beside its figures: the median, the list of depths, which trials a context holds, and a cache
// that is filled by random numbers where computing it would take too long.
#include "../tools/tools.h"
#include "test.h"

#include <unistd.h>

static int medians(void) {
    double none[1] = {0}, one[] = {3}, odd[] = {5, 1, 4, 2, 3}, even[] = {8, -1, 2, 4}, same[] = {7, 7, 7};
    CHECK(median(none, 0) == 0, "of nothing");
    CHECK(median(one, 1) == 3, "of one");
    CHECK(median(odd, 5) == 3, "of five: %g", median(odd, 5));
    CHECK(odd[0] == 1 && odd[4] == 5, "not sorted: %g .. %g", odd[0], odd[4]);
    CHECK(median(even, 4) == 3, "of four: %g", median(even, 4));
    CHECK(median(same, 3) == 7, "of equals: %g", median(same, 3));
    return PASS;
}

static int depths(void) {
    static const char *const bad[] = {"", ",", "1,", ",1", "1,,2", "-1", "+1", " 1", "1 ", "2,2", "3,1", "x",
                                      "1x", "1073741825", "99999999999999999999", "1,2,3,4,5"};
    int64_t d[4] = {0};
    Err e;
    CHECK(read_depths("0", d, 4, &e) == 1 && d[0] == 0, "0");
    CHECK(read_depths("0,2048,8192,1073741824", d, 4, &e) == 4, "four: %s", e.msg);
    CHECK(d[0] == 0 && d[1] == 2048 && d[2] == 8192 && d[3] == 1 << 30, "%lld", (long long)d[3]);
    for (int i = 0; i < COUNT(bad); i++) {
        CHECK(read_depths(bad[i], d, 4, &e) == -1, "\"%s\" was taken", bad[i]);
        CHECK(strstr(e.msg, "--bench-depths"), "\"%s\": %s", bad[i], e.msg);
    }
    return PASS;
}

// What tool_bench prints for models/stories.tbin, caller frees; NULL: it failed.
static char *bench(SessionConfig c, const BenchConfig *config, Err *e) {
    const char *path = "models/stories.tbin";
    Gguf file = {0};
    Model model = {0};
    char *text = NULL;
    size_t size;
    FILE *out = tmpfile();
    const int old = dup(STDOUT_FILENO);
    if (out && old >= 0 && gguf_open(&file, path, e) == 0 && model_bind(&model, &file, e) == 0) {
        const Loaded l = {.path = path, .file = &file, .model = &model};
        fflush(stdout);
        dup2(fileno(out), STDOUT_FILENO);
        const int status = tool_bench(&l, c, config, e);
        fflush(stdout);
        dup2(old, STDOUT_FILENO);
        rewind(out);
        if (status == 0 && read_all(out, "what was printed", 1 << 20, &text, &size, e)) text = NULL;
    }
    model_free(&model);
    gguf_free(&file);
    if (old >= 0) close(old);
    if (out) fclose(out);
    return text;
}

// The number behind a key, -1 for null, -2 without the key.
static double value(const char *json, const char *key) {
    char quoted[80];
    snprintf(quoted, sizeof quoted, "\"%s\": ", key);
    const char *at = strstr(json, quoted);
    if (!at) return -2;
    at += strlen(quoted);
    return strncmp(at, "null", 4) == 0 ? -1 : atof(at);
}

static int trials(void) {
    static const struct { const char *key; int state; } want[] = {   // 1: measured, -1: null, -2: no key
        {"prefill_512_tok_s", -1}, {"decode_128_tok_s", 1}, {"decode_128_gb_s", 1}, {"gb_s", 1},
        {"decode_d0_tok_s", 1}, {"decode_d0_tok_s_min", 1}, {"decode_d0_random", -2},
        {"decode_d100_tok_s", 1}, {"decode_d100_random", 1}, {"decode_d100_from", -2},
        {"decode_d190_tok_s", 1}, {"decode_d190_from", 1}, {"decode_d201_tok_s", -1},
        {"first_token_ms", 1}, {"load_ms", 1}, {"peak_mib", 1}, {"cache_mib", 1}};
    Err e = {""};
    for (int form = CACHE_DENSE; form <= CACHE_LATENT; form++) {
        const BenchConfig config = {.repeat = 2, .depths = "0,100,190,201", .fill_seconds = 0, .json = true};
        char *json = bench((SessionConfig){200, 16, T_F16, (CacheForm)form, false}, &config, &e);
        CHECK(json, "%s", e.msg);
        int wrong = -1;
        for (int i = 0; i < COUNT(want); i++) {
            const double v = value(json, want[i].key);
            if (v > 0 ? want[i].state != 1 : v != want[i].state) wrong = i;
        }
        const double random = value(json, "decode_d100_random"), from = value(json, "decode_d190_from");
        free(json);
        CHECK(wrong < 0, "%s is not %s", want[wrong].key,
              want[wrong].state == 1 ? "a positive number" : "absent");
        CHECK(random == 100 && from == 136, "%g random positions, from %g", random, from);
    }
    const BenchConfig computed = {.repeat = 1, .depths = "100", .fill_seconds = 60, .json = true};
    char *json = bench((SessionConfig){200, 16, T_Q8_0, CACHE_AUTO, false}, &computed, &e);
    CHECK(json, "%s", e.msg);
    const double random = value(json, "decode_d100_random"), rate = value(json, "decode_d100_tok_s");
    free(json);
    CHECK(random == -2 && rate > 0, "%g random positions, %g tokens a second", random, rate);
    return PASS;
}

// It ends at once, and fails.
static int interruption(void) {
    const BenchConfig config = {.repeat = 1, .depths = "0", .fill_seconds = 60, .json = true};
    Err e = {""};
    interrupted = 1;
    char *json = bench((SessionConfig){200, 16, T_F16, CACHE_AUTO, false}, &config, &e);
    interrupted = 0;
    CHECK(!json && strstr(e.msg, "interrupted"), "no failure: %s", e.msg);
    return PASS;
}

static const Test tests[] = {
    {"medians", medians}, {"depths", depths}, {"trials", trials}, {"interruption", interruption},
};

int main(int argc, char **argv) { return run_tests("bench", tests, COUNT(tests), argc, argv); }
