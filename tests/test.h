// The tests' one frame: a table of named tests a file, and a line that sums them.
//   static int adds(void) { CHECK(1 + 1 == 2, "sum %d", 1 + 1); return PASS; }
//   static const Test tests[] = { {"adds", adds} };
//   int main(int argc, char **argv) { return run_tests("example", tests, COUNT(tests), argc, argv); }
// Arguments name the tests to run (a part of the name is enough); none: all.
#ifndef TEST_H
#define TEST_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#include "windows.h"
#endif

enum { PASS, FAIL, SKIP };
typedef struct { const char *name; int (*run)(void); } Test;

// Whether this is built with an AddressSanitizer: some things then take forty times as long, and what is
// repeated for thoroughness is so less often.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

// Addresses of 32 bits: a size that is wrong may be refused for being too large there.
#define NARROW ((uint64_t)SIZE_MAX >> 32 == 0)

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))
#define CHECK(ok, ...) do { if (!(ok)) { \
        printf("  %s:%d: %s: ", __FILE__, __LINE__, #ok); printf(__VA_ARGS__); printf("\n"); \
        return FAIL; } } while (0)

// A file of test data that is not part of the repository: its path, or NULL where it is absent
// (then the test returns SKIP). Looked for under $TENSORLLM_DATA, else ../shared/data.
static inline const char *data_path(const char *name) {
    static char path[8][1024];
    static int turn;
    const char *root = getenv("TENSORLLM_DATA");
    char *p = path[turn++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", root ? root : "../shared/data", name);
    FILE *f = fopen(p, "rb");
    if (f) fclose(f);
    return f ? p : NULL;
}

static inline int run_tests(const char *file, const Test *tests, int n, int argc, char **argv) {
    int count[3] = {0};
    for (int i = 0; i < n; i++) {
        int wanted = argc < 2;
        for (int a = 1; a < argc; a++) wanted |= strstr(tests[i].name, argv[a]) != NULL;
        if (!wanted) continue;
        int result = tests[i].run();
        count[result]++;
        if (result != PASS) printf("%s %s: %s\n", result == FAIL ? "FAIL" : "skip", file, tests[i].name);
        fflush(stdout);
    }
    printf("%s: %d passed, %d failed, %d skipped\n", file, count[PASS], count[FAIL], count[SKIP]);
    return count[FAIL] != 0;
}

#endif
