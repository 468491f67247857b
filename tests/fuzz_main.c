// Replays inputs to a fuzz target where libFuzzer is not at hand: the files and folders named as
// arguments; without any, tests/corpus/NAME and what ../shared/data/malformed holds. An input that
// breaks the target ends the program, after its name has been said.
#include <dirent.h>
#include <signal.h>

#include "fuzz.h"
#include "test.h"

static char current[1400];
static int passed;

static void say(void) {
    static const char what[] = "\nFAIL: broken by ";
    if (write(STDOUT_FILENO, what, sizeof what - 1) < 0 || write(STDOUT_FILENO, current, strlen(current)) < 0 ||
        write(STDOUT_FILENO, "\n", 1) < 0) _exit(2);
}

static void on_signal(int number) {
    say();
    signal(number, SIG_DFL);
    raise(number);
}

void __sanitizer_set_death_callback(void (*)(void)) __attribute__((weak));

static void replay_file(const char *path) {
    Err e;
    char *data;
    size_t size;
    snprintf(current, sizeof current, "%s", path);
    if (read_file(path, (size_t)1 << 28, &data, &size, &e)) {
        printf("%s\n", e.msg);
        exit(2);
    }
    alarm(120);                                           // a hang is a finding too
    LLVMFuzzerTestOneInput((const uint8_t *)data, size);
    alarm(0);
    free(data);
    passed++;
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

// The files of a folder in the order of their names; false where there is none.
static bool replay_folder(const char *path) {
    DIR *dir = opendir(path);
    char *name[4096], file[1400];
    int n = 0;
    if (!dir) return false;
    for (struct dirent *d; (d = readdir(dir)) && n < COUNT(name);)
        if (d->d_name[0] != '.' && !strstr(d->d_name, ".md")) name[n++] = strdup(d->d_name);
    closedir(dir);
    qsort(name, (size_t)n, sizeof *name, by_text);
    for (int i = 0; i < n; i++) {
        snprintf(file, sizeof file, "%s/%s", path, name[i]);
        replay_file(file);
        free(name[i]);
    }
    return n > 0;
}

int main(int argc, char **argv) {
    const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
    char path[1400];
    int skipped = 0;
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(say);
    const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGALRM};
    for (int i = 0; i < COUNT(signals); i++)
        if (signals[i] == SIGALRM || !__sanitizer_set_death_callback) signal(signals[i], on_signal);
    for (int i = 1; i < argc; i++)
        if (!replay_folder(argv[i])) replay_file(argv[i]);
    if (argc < 2) {
        snprintf(path, sizeof path, "tests/corpus/%s", strncmp(name, "fuzz_", 5) ? name : name + 5);
        bool seeds = replay_folder(path);
        if (strstr(name, "export")) seeds |= replay_folder("tests/corpus/gguf");     // it begins with these
        if (!seeds) {
            printf("%s: no such corpus (run it from the top of the tree)\n", path);
            return 2;
        }
        const char *note = data_path("malformed/MALFORMED.md");
        snprintf(path, sizeof path, "%.*s", note ? (int)(strrchr(note, '/') - note) : 0, note ? note : "");
        if (!note || !replay_folder(path)) skipped = 1;
    }
    printf("%s: %d passed, 0 failed, %d skipped\n", name, passed, skipped);
    return 0;
}
