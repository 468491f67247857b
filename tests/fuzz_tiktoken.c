// Fuzz target: llama 3's tokenizer.model, which has to have all its 128,000 ranks. The input's lines,
// "rank base64", stand in place of those of an invented file: bytes, all pairs, triples. Slow: some
// executions a second.
#include "fuzz.h"
#include "../export/source.h"

enum { RANKS = 128000, LINE = 1024 };

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// The line of rank i as it stands where the input says nothing of it.
static int own_line(int i, char *out) {
    int k = i < 256 ? i : i < 256 + 65536 ? i - 256 : i - 256 - 65536;
    int n = i < 256 ? 1 : i < 256 + 65536 ? 2 : 3;
    unsigned char b[3] = {(unsigned char)(n == 1 ? k : n == 2 ? k / 256 : k / 256 % 256),
                          (unsigned char)(n == 3 ? k % 256 : k % 256), (unsigned char)(k / 65536 + k % 7)};
    unsigned bits = (unsigned)b[0] << 16 | (n > 1 ? (unsigned)b[1] << 8 : 0) | (n > 2 ? b[2] : 0);
    char text[5] = {letters[bits >> 18], letters[bits >> 12 & 63], n > 1 ? letters[bits >> 6 & 63] : '=',
                    n > 2 ? letters[bits & 63] : '=', 0};
    return sprintf(out, "%s %d\n", text, i);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *line_of[RANKS];
    static size_t length_of[RANKS];
    static char text[RANKS * 20 + (1 << 20)];
    Vocab v;
    Err e = {""};
    size_t used = 0;
    memset(line_of, 0, sizeof line_of);
    for (const char *line = (const char *)data, *all = line + size, *end; line < all; line = end + 1) {
        char *tail;
        char number[16];
        end = memchr(line, '\n', (size_t)(all - line));
        if (!end) end = all;
        snprintf(number, sizeof number, "%.*s", (int)(end - line < 15 ? end - line : 15), line);
        long rank = strtol(number, &tail, 10);
        size_t skip = (size_t)(tail - number) + 1;
        if (tail == number || rank < 0 || rank >= RANKS || skip > (size_t)(end - line) || end - line > LINE) continue;
        line_of[rank] = line + skip;
        length_of[rank] = (size_t)(end - line) - skip;
    }
    for (int i = 0; i < RANKS && used < sizeof text - LINE - 64; i++) {
        if (!line_of[i]) used += (size_t)own_line(i, text + used);
        else used += (size_t)sprintf(text + used, "%.*s %d\n", (int)length_of[i], line_of[i], i);
    }
    fuzz_put("tokenizer.model", text, used);
    int status = vocab_read(&v, fuzz_path("tokenizer.model"), 0, &e);
    fuzz_said(status, &e);
    if (!status) {
        HOLDS(v.n == RANKS + 256, "%d pieces", v.n);
        fuzz_vocab(&v);
    }
    vocab_free(&v);
    remove(fuzz_path("tokenizer.model"));
    return 0;
}
