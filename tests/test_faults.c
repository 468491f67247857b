// Faults: what ./run and the exporter do when the k-th allocation fails, the k-th write, when a signal
// comes at the k-th call, when the disk is full at any byte, when the model's file shrinks under them. Both
// programs are linked in whole, their mains renamed (Makefile); the linker puts the functions below in
// the place of libc's. Every run is a process of its own, and ends in one of two ways: as the
// undisturbed one did, with the same output; or with status 1, one line that says why, and the file it
// was to write absent, or as it was before.
#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

int run_main(int argc, char **argv);
int export_main(int argc, char **argv);

// ---- what goes wrong ------------------------------------------------------------------------------

typedef enum { NOTHING, NO_MEMORY, NO_DISK, SIGNAL, SHRINK } Fault;
typedef struct {
    Fault fault;
    long at;                                   // the call that it happens at, from 1
    int signal;
    char victim[512];                          // file to be cut to `cut` bytes
    off_t cut;
    long memory, disk, all;                    // calls so far: those that allocate, that write, both
} Plan;
static Plan *shared, *plan;                    // plan: shared in the process that runs, else NULL

static bool now(long *count, Fault fault) {
    if (!plan) return false;
    ++*count;
    ++plan->all;
    if (plan->fault == SIGNAL && plan->all == plan->at) raise(plan->signal);
    if (plan->fault == SHRINK && plan->all == plan->at && truncate(plan->victim, plan->cut)) _exit(99);
    return plan->fault == fault && *count == plan->at;
}
static bool no_memory(void) {
    if (!now(plan ? &plan->memory : NULL, NO_MEMORY)) return false;
    errno = ENOMEM;
    return true;
}
static bool no_disk(void) {
    if (!now(plan ? &plan->disk : NULL, NO_DISK)) return false;
    errno = ENOSPC;
    return true;
}

// Not aligned_alloc: dgemm goes on without what it asks for there, only its sums are rounded otherwise.
#define WRAP(result, name, parameters, arguments, failing, failed) \
    result __real_##name parameters; \
    result __wrap_##name parameters; \
    result __wrap_##name parameters { return failing() ? failed : __real_##name arguments; }

WRAP(void *, malloc, (size_t n), (n), no_memory, NULL)
WRAP(void *, calloc, (size_t n, size_t m), (n, m), no_memory, NULL)
WRAP(void *, realloc, (void *p, size_t n), (p, n), no_memory, NULL)
WRAP(int, posix_memalign, (void **p, size_t a, size_t n), (p, a, n), no_memory, ENOMEM)
WRAP(char *, strdup, (const char *s), (s), no_memory, NULL)
WRAP(char *, strndup, (const char *s, size_t n), (s, n), no_memory, NULL)
WRAP(FILE *, open_memstream, (char **p, size_t *n), (p, n), no_memory, NULL)
WRAP(DIR *, opendir, (const char *p), (p), no_memory, NULL)
WRAP(void *, mmap, (void *p, size_t n, int a, int b, int f, off_t o), (p, n, a, b, f, o), no_memory, MAP_FAILED)
WRAP(int, fsync, (int f), (f), no_disk, -1)
WRAP(int, rename, (const char *a, const char *b), (a, b), no_disk, -1)
WRAP(int, fseeko, (FILE *f, off_t o, int w), (f, o, w), no_disk, -1)

static FILE *written;                          // the stream that the disk is behind
FILE *__real_fopen(const char *path, const char *mode);
FILE *__wrap_fopen(const char *path, const char *mode);
FILE *__wrap_fopen(const char *path, const char *mode) {
    FILE *f = no_memory() ? NULL : __real_fopen(path, mode);
    if (*mode == 'w') written = f;
    return f;
}
WRAP(int, fflush, (FILE *f), (f), f == written && no_disk, EOF)
WRAP(size_t, fwrite, (const void *p, size_t s, size_t n, FILE *f), (p, s, n, f), f == written && no_disk, 0)

// ---- one run --------------------------------------------------------------------------------------

static char folder[64];
static const char *in_folder(const char *name) {
    static char path[8][160];
    static int turn;
    char *p = path[turn++ % 8];
    snprintf(p, sizeof *path, "%s/%s", folder, name);
    return p;
}

static bool there(const char *name) { return access(in_folder(name), F_OK) == 0; }

// The bytes of a file in the folder, cut to room; -1: it is not there.
static long bytes_of(const char *name, char *to, size_t room) {
    int f = open(in_folder(name), O_RDONLY);
    if (f < 0) return -1;
    long n = read(f, to, room);
    close(f);
    return n;
}

static bool copy_file(const char *from, const char *name) {
    static char data[1 << 20];
    int in = open(from, O_RDONLY);
    if (in < 0) return false;
    long n = read(in, data, sizeof data);
    close(in);
    int out = open(in_folder(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    bool ok = n >= 0 && out >= 0 && write(out, data, (size_t)n) == n;
    return out >= 0 && close(out) == 0 && ok;
}

enum { ROOM = 1 << 16 };
typedef struct { int status; char out[ROOM], err[ROOM]; long out_n, err_n; } Ended;

static void drain(int from, char *to, long *n) {
    char rest[512];
    for (long got = 1; got > 0;) {
        const long left = ROOM - 1 - *n;
        got = left > 0 ? read(from, to + *n, (size_t)left) : read(from, rest, sizeof rest);
        if (left > 0 && got > 0) *n += got;
    }
    to[*n] = 0;
    close(from);
}

// Runs main(words) in a process of its own, as p says; limit: of files, in bytes, -1: none.
static int run_as(const Plan *p, const char *words, long limit, Ended *end) {
    int out[2], err[2];
    fflush(stdout);
    if (pipe(out) || pipe(err)) return -1;
    *shared = *p;
    shared->memory = shared->disk = shared->all = 0;
    pid_t child = fork();
    if (child == 0) {
        char *argv[40], *text = strdup(words), *save = NULL;
        int argc = 0, nothing = open("/dev/null", O_RDONLY);
        dup2(nothing, STDIN_FILENO), dup2(out[1], STDOUT_FILENO), dup2(err[1], STDERR_FILENO);
        close(nothing), close(out[0]), close(out[1]), close(err[0]), close(err[1]);
        for (char *w = strtok_r(text, " ", &save); w; w = strtok_r(NULL, " ", &save)) argv[argc++] = w;
        argv[argc] = NULL;
        for (int i = 0; i < argc; i++) for (char *c = argv[i]; *c; c++) if (*c == '~') *c = ' ';
        if (limit >= 0) setrlimit(RLIMIT_FSIZE, &(struct rlimit){(rlim_t)limit, (rlim_t)limit});
        plan = shared;
        int status = strcmp(argv[0], "run") ? export_main(argc, argv) : run_main(argc, argv);
        plan = NULL;
        free(text);
        exit(status);
    }
    close(out[1]), close(err[1]);
    end->out_n = end->err_n = 0;
    drain(out[0], end->out, &end->out_n);     // neither is larger than a pipe holds
    drain(err[0], end->err, &end->err_n);
    return child > 0 && waitpid(child, &end->status, 0) == child ? 0 : -1;
}

static bool exited(const Ended *e, int code) { return WIFEXITED(e->status) && WEXITSTATUS(e->status) == code; }

// The last line is the program's own, and it is the only one, but for what it had to say before.
static bool says_why(const Ended *e, const char *word) {
    if (e->err_n < 8 || e->err[e->err_n - 1] != '\n') return false;
    long at = e->err_n - 1;
    while (at > 0 && e->err[at - 1] != '\n') at--;
    return (!strncmp(e->err + at, "run: ", 5) || !strncmp(e->err + at, "export: ", 8)) && strstr(e->err + at, word) &&
           !strstr(e->err, "Sanitizer");
}

// ---- scenarios ------------------------------------------------------------------------------------

// Words are parted by spaces; '~' stands for one within a word; '@' for the folder.
typedef struct { const char *name, *words, *output; } Scenario;      // output: the file it writes, or NULL
static const Scenario runs[] = {
    {"generate", "run @/llama.gguf -p the~th -n 4 -t 1", NULL},
    {"chat", "run @/wide.gguf -i -p the --system th -n 4 -c 64 -t 1", NULL},
    {"factored", "run @/pivot.gguf -p the -n 3 -t 1 --temp 0", NULL},
    {"info", "run @/llama.gguf --info", NULL},
    {"perplexity", "run @/llama.gguf --perplexity @/text -c 8 -t 1", NULL},
    {"items", "run @/llama.gguf --eval @/items.jsonl --eval-out @/out -t 1", "out"},
    {"two models", "run @/llama.gguf --eval @/items.jsonl --eval-against @/again.gguf --limit 1 -t 1", NULL},
    {"a prompt's file", "run @/wide.gguf -f @/vocab.txt -n 2 -t 1 --ids", NULL},
    {"tokenize", "run @/llama.gguf --tokenize @/text", NULL},
    {"mask", "run @/bert.gguf --fill-mask the[MASK] -t 1", NULL},
    {"embed", "run @/bert.gguf --embed-file @/lines -t 1", NULL},
};
static const Scenario exports[] = {
    {"plain", "export @/llama.gguf -o @/out --method hooi --scheme qkv+o --sweeps 1 --keep 0.8 -q -t 1", "out"},
    {"weighted", "export @/wide.gguf -o @/out --keep 0.8 --scheme qk+v+o --calib-tokens 256 --calib-window 16 -q "
                 "-t 1", "out"},
    {"with all", "export @/wide.gguf -o @/out --keep 0.8 --ffn auto --refit --calib-tokens 256 --calib-window 16 "
                 "--report @/page --verify @/text --windows 1 -q -t 1", "out"},
    {"TRAWL", "export @/llama.gguf -o @/out --trawl ffn:0:cp:0.5 -q -t 1", "out"},
    {"dense", "export @/llama.gguf -o @/out --dense --type f16 -q", "out"},
    {"rebuilt", "export @/tucker.gguf -o @/out --rebuild -q", "out"},
    {"a folder", "export tests/golden/bert --tokenizer @/vocab.txt -o @/out --dense -q", "out"},
    {"llama2.c", "export @/m.bin --tokenizer @/t.bin -o @/out --dense -q", "out"},
};

static const char *words_of(const Scenario *s) {
    static char words[1024];
    char *to = words;
    for (const char *c = s->words; *c && to < words + 900; c++) {
        if (*c == '@') to += sprintf(to, "%s", folder);
        else *to++ = *c;
    }
    *to = 0;
    return words;
}

enum { FILE_ROOM = 1 << 18 };
typedef struct { Ended end; char file[FILE_ROOM]; long file_n; } Result;

static int run_once(const Scenario *s, const Plan *p, long limit, Result *r) {
    int status = run_as(p, words_of(s), limit, &r->end);
    r->file_n = s->output ? bytes_of(s->output, r->file, FILE_ROOM) : -1;
    return status;
}

static bool same_file(const Result *a, const Result *b) {
    return a->file_n == b->file_n && (a->file_n < 0 || !memcmp(a->file, b->file, (size_t)a->file_n));
}

static Result whole, got;                      // undisturbed, and not

// The undisturbed run; an output that is to be there before is put aside as "old".
static int undisturbed(const Scenario *s) {
    if (s->output) remove(in_folder(s->output));
    CHECK(!run_once(s, &(Plan){0}, -1, &whole), "fork");
    CHECK(exited(&whole.end, 0), "%s: status %x, %s", s->name, (unsigned)whole.end.status, whole.end.err);
    CHECK(!s->output || whole.file_n > 100, "%s: %ld bytes written", s->name, whole.file_n);
    return PASS;
}

static const char old_text[] = "what stood there before";
static bool put_old(const char *name) {
    FILE *f = fopen(in_folder(name), "wb");
    bool ok = f && fwrite(old_text, 1, sizeof old_text - 1, f) == sizeof old_text - 1;
    return f && !fclose(f) && ok;
}
static bool old_there(const Result *r) {
    return r->file_n == sizeof old_text - 1 && !memcmp(r->file, old_text, sizeof old_text - 1);
}

// Ends in one of the two ways.
static int judge(const Scenario *s, const char *what, long k, const char *word) {
    char part[64];
    snprintf(part, sizeof part, "%s.part", s->output ? s->output : "");
    if (exited(&got.end, 0)) {
        CHECK(got.end.out_n == whole.end.out_n && !memcmp(got.end.out, whole.end.out, (size_t)whole.end.out_n),
              "%s, %s %ld: status 0, yet it printed \"%.200s\"", s->name, what, k, got.end.out);
        CHECK(!s->output || same_file(&got, &whole), "%s, %s %ld: status 0, yet another file", s->name, what, k);
    } else {
        CHECK(exited(&got.end, 1) && says_why(&got.end, word), "%s, %s %ld: status %x, \"%.3000s\"", s->name, what, k,
              (unsigned)got.end.status, got.end.err);
        CHECK(!s->output || old_there(&got) || same_file(&got, &whole), "%s, %s %ld: half a file", s->name, what, k);
    }
    CHECK(!s->output || !there(part), "%s, %s %ld: %s stays", s->name, what, k, part);
    return PASS;
}

// The call numbers to be tried: all up to `most`, beyond that as many, spread over the rest.
static long next_call(long k, long calls, long most) { return k < most ? k + 1 : k + 1 + (calls - most) / most; }

static int every_call(const Scenario *all, int n, Plan p, const char *what, const char *word, long most) {
    for (int i = 0; i < n; i++) {
        const Scenario *s = &all[i];
        if (p.fault == NO_DISK && !s->output) continue;
        if (undisturbed(s) == FAIL) return FAIL;
        const long calls = p.fault == NO_MEMORY ? shared->memory : p.fault == NO_DISK ? shared->disk : shared->all;
        CHECK(calls > 1, "%s: only %ld calls", s->name, calls);
        for (long k = 1; k <= calls; k = next_call(k, calls, most)) {
            p.at = k;
            CHECK(!s->output || put_old(s->output), "cannot write");
            CHECK(!run_once(s, &p, -1, &got), "fork");
            if (judge(s, what, k, word) == FAIL) return FAIL;
        }
        if (s->output) remove(in_folder(s->output));
    }
    return PASS;
}

// How thorough: FAULTS=100000 in the environment tries every call of every run. A process takes long to end
// under the sanitizers, which look for leaks then.
enum { MOST = SANITIZED ? 25 : 200 };
static long most_calls(void) {
    const char *text = getenv("FAULTS");
    return text && atol(text) > 6 ? atol(text) : MOST;
}

static int memory_of_runs(void) {
    return every_call(runs, COUNT(runs), (Plan){.fault = NO_MEMORY}, "allocation", "", most_calls());
}
static int memory_of_exports(void) {
    return every_call(exports, COUNT(exports), (Plan){.fault = NO_MEMORY}, "allocation", "", most_calls());
}

static int disk(void) {
    const Plan p = {.fault = NO_DISK};
    if (every_call(runs, COUNT(runs), p, "write", "", most_calls()) == FAIL) return FAIL;
    return every_call(exports, COUNT(exports), p, "write", "", most_calls());
}

// The kernel itself lets files grow to so many bytes and no further.
static int disk_full(void) {
    const Scenario all[] = {runs[5], exports[0], exports[4], exports[7]};
    for (int i = 0; i < COUNT(all); i++) {
        const Scenario *s = &all[i];
        if (undisturbed(s) == FAIL) return FAIL;
        const long step = whole.file_n / 60 + 1;
        for (long k = 0; k <= 61; k++) {                  // the last: just enough
            const long limit = k * step < whole.file_n ? k * step : whole.file_n;
            CHECK(put_old(s->output) && !run_once(s, &(Plan){0}, limit, &got), "fork");
            if (judge(s, "file limit", limit, strerror(EFBIG)) == FAIL) return FAIL;
            CHECK((limit < whole.file_n) == old_there(&got), "%s: limit %ld of %ld", s->name, limit, whole.file_n);
        }
        remove(in_folder(s->output));
    }
    return PASS;
}

static int signals(void) {
    const int all[] = {SIGINT, SIGTERM, SIGHUP};
    const Scenario some[] = {runs[5], exports[0], exports[1], exports[5], exports[6]};
    for (int i = 0; i < COUNT(all); i++)
        if (every_call(some, COUNT(some), (Plan){.fault = SIGNAL, .signal = all[i]}, "signal at call", "interrupted",
                       most_calls() / 6) == FAIL) return FAIL;
    return PASS;
}

// Nothing can be removed then, but what stands under the file's name is whole, and the next export works.
static int killed(void) {
    const Scenario some[] = {runs[5], exports[0]};
    for (int i = 0; i < COUNT(some); i++) {
        const Scenario *s = &some[i];
        if (undisturbed(s) == FAIL) return FAIL;
        const long calls = shared->all;
        for (long k = 1; k <= calls; k = next_call(k, calls, most_calls() / 3)) {
            CHECK(put_old(s->output), "cannot write");
            CHECK(!run_once(s, &(Plan){.fault = SIGNAL, .signal = SIGKILL, .at = k}, -1, &got), "fork");
            CHECK(WIFSIGNALED(got.end.status), "%s, call %ld: status %x", s->name, k, (unsigned)got.end.status);
            CHECK(old_there(&got) || same_file(&got, &whole), "%s, killed at call %ld: half a file", s->name, k);
        }
        if (undisturbed(s) == FAIL) return FAIL;
        remove(in_folder("out.part"));
        remove(in_folder(s->output));
    }
    return PASS;
}

// Others cut the model's file short while it is in use.
static int shrinks(void) {
    const struct { const char *from, *name; Scenario s; } all[] = {
        {"tests/corpus/gguf/llama.gguf", "llama.gguf", runs[0]},
        {"tests/corpus/gguf/llama.gguf", "llama.gguf", runs[5]},
        {"tests/corpus/gguf/llama.gguf", "llama.gguf", exports[0]},
        {"tests/corpus/llama2c/legacy.bin", "m.bin", exports[7]}};
    int lost = 0;
    for (int i = 0; i < COUNT(all); i++) {
        const Scenario *s = &all[i].s;
        if (undisturbed(s) == FAIL) return FAIL;
        const long calls = shared->all;
        for (int cut = 0; cut < 2; cut++)
            for (long k = 1; k <= calls; k = next_call(k, calls, most_calls() / 6)) {
                Plan p = {.fault = SHRINK, .at = k, .cut = cut ? 4096 : 0};
                snprintf(p.victim, sizeof p.victim, "%s", in_folder(all[i].name));
                CHECK(copy_file(all[i].from, all[i].name) && (!s->output || put_old(s->output)), "cannot write");
                CHECK(!run_once(s, &p, -1, &got), "fork");
                if (exited(&got.end, 0)) continue;      // all had been read; or zeros came for what had not
                CHECK(says_why(&got.end, all[i].name) && !there("out.part"), "%s, cut to %d at call %ld: %s", s->name,
                      (int)p.cut, k, got.end.err);
                CHECK(!s->output || old_there(&got), "%s, cut at call %ld: half a file", s->name, k);
                lost += strstr(got.end.err, "cut short?") != NULL;
            }
        CHECK(copy_file(all[i].from, all[i].name), "cannot write");
        if (s->output) remove(in_folder(s->output));
    }
    CHECK(lost > 10, "only %d runs saw their file shrink", lost);
    return PASS;
}

// ---- the files ------------------------------------------------------------------------------------

static const char *const names[] = {
    "llama.gguf", "again.gguf", "wide.gguf", "pivot.gguf", "tucker.gguf", "bert.gguf", "m.bin", "t.bin", "text",
    "lines", "items.jsonl", "vocab.txt", "out", "out.part", "page", "page.part"};

static bool put_text(const char *name, const char *text) {
    FILE *f = fopen(in_folder(name), "wb");
    return f && fputs(text, f) >= 0 && !fclose(f);
}

static bool set_up(void) {
    char vocab[48 * 16] = "", line[16];
    static const char pieces[] = "\1\0\0\0\0\0\0\0\1\0\0\0a\0\0\0\0\1\0\0\0b\0\0\0\0\1\0\0\0c\0\0\0\0\1\0\0\0d";
    for (int i = 0; i < 48; i++) {
        static const char *const first[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
        snprintf(line, sizeof line, "w%d\n", i);
        strcat(vocab, i < 5 ? first[i] : line);
        if (i < 5) strcat(vocab, "\n");
    }
    strcpy(folder, "/tmp/tensorllm-faults-XXXXXX");
    if (!mkdtemp(folder)) return false;
    FILE *t = fopen(in_folder("t.bin"), "wb");
    bool ok = t && fwrite(pieces, 1, sizeof pieces - 1, t) == sizeof pieces - 1;
    static const char *const copies[][2] = {
        {"gguf/llama.gguf", "llama.gguf"}, {"gguf/llama.gguf", "again.gguf"}, {"gguf/wide.gguf", "wide.gguf"},
        {"gguf/tucker_pivot.gguf", "pivot.gguf"}, {"gguf/tucker.gguf", "tucker.gguf"}, {"gguf/bert.gguf", "bert.gguf"},
        {"llama2c/legacy.bin", "m.bin"}};
    for (int i = 0; i < COUNT(copies); i++) {
        char from[128];
        snprintf(from, sizeof from, "tests/corpus/%s", copies[i][0]);
        if (!copy_file(from, copies[i][1])) return false;
    }
    return t && !fclose(t) && ok && put_text("vocab.txt", vocab) &&
           put_text("text", "the th the he the th the he the\nthe th he the th the the th the he the\nthe he th the he "
                            "the the th the th he the th the he the th the th the he the th the th the he the th\n") &&
           put_text("lines", "the th\nhe\n") &&
           put_text("items.jsonl", "{\"prompt\": \"the\", \"answer\": \"th\", \"new_tokens\": 3, \"id\": \"a\"}\n"
                                   "{\"prompt\": \"the\", \"choices\": [\"th\", \"he\"], \"gold\": 1}\n");
}

static const Test tests[] = {
    {"memory of runs", memory_of_runs}, {"memory of exports", memory_of_exports}, {"disk", disk},
    {"disk full", disk_full},
    {"signals", signals}, {"killed", killed}, {"shrinks", shrinks},
};

int main(int argc, char **argv) {
    if (!set_up()) { printf("faults: cannot write to %s (or not in the top of the tree)\n", folder); return 2; }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return 2;
    int result = run_tests("faults", tests, COUNT(tests), argc, argv);
    for (int i = 0; i < COUNT(names); i++) remove(in_folder(names[i]));
    rmdir(folder);
    return result;
}
