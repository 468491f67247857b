// Tests of core/util: sizes, memory, files in and out, chance.
#include "test.h"
#include "../core/util.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

// Windows has no devices among its files, nor 64-byte memory that free() takes.
#ifdef _WIN32
enum { WINDOWS = 1, ALIGNED = 16 };
#else
enum { WINDOWS = 0, ALIGNED = 64 };
#endif
#if defined(_WIN32) || defined(__wasi__)       // nor locks that create_file would take
enum { LOCKS = 0 };
#else
enum { LOCKS = 1 };
#endif

// A name in a fresh folder of this process.
static const char *temp(const char *name) {
    static char folder[64], path[4][128];
    static int turn;
    if (!*folder) {
        strcpy(folder, "/tmp/tensorllm-util-XXXXXX");
        if (!mkdtemp(folder)) abort();
    }
    snprintf(path[turn %= 4], sizeof *path, "%s%s%s", folder, *name ? "/" : "", name);
    return path[turn++];
}

static bool exists(const char *path) { return access(path, F_OK) == 0; }

static int sizes(void) {
    size_t r = 7;
    CHECK(mul_size(3, 5, &r) && r == 15, "%zu", r);
    CHECK(!mul_size(SIZE_MAX, 2, &r) && r == 15, "%zu", r);
    CHECK(add_size(SIZE_MAX - 1, 1, &r) && r == SIZE_MAX, "%zu", r);
    CHECK(!add_size(SIZE_MAX, 1, &r) && r == SIZE_MAX, "%zu", r);
    return PASS;
}

static int errors(void) {
    Err e;
    CHECK(fail(&e, "a %d", 1) == -1 && !strcmp(e.msg, "a 1"), "%s", e.msg);
    fail(&e, "b: %s", e.msg);
    CHECK(!strcmp(e.msg, "b: a 1"), "%s", e.msg);
    CHECK(fail(NULL, "nowhere") == -1, "no Err");
    char big[2000];
    memset(big, 'x', sizeof big - 1), big[sizeof big - 1] = 0;
    fail(&e, "%s", big);
    CHECK(strlen(e.msg) == sizeof e.msg - 1, "%zu", strlen(e.msg));
    return PASS;
}

static int memory(void) {
    Err e = {""};
    for (size_t n = 0; n < 200; n += 13) {
        unsigned char *p = alloc(n, 3, "test", &e);
        CHECK(p && (uintptr_t)p % ALIGNED == 0, "n %zu: %p", n, (void *)p);
        for (size_t i = 0; i < 3 * n; i++) CHECK(!p[i], "n %zu, byte %zu: %u", n, i, p[i]);
        memset(p, 1, 3 * n);
        free(p);
    }
    CHECK(!alloc(SIZE_MAX / 2, 3, "giant", &e) && strstr(e.msg, "giant"), "%s", e.msg);
    CHECK(!alloc(SIZE_MAX, 1, "giant", &e), "%s", e.msg);
    return PASS;
}

static int writes(void) {
    Err e = {""};
    FileOut o;
    FileMap m;
    char path[128], part[140];
    snprintf(path, sizeof path, "%s", temp("written"));
    snprintf(part, sizeof part, "%s.part", path);
    CHECK(!out_open(&o, path, &e), "%s", e.msg);
    CHECK(!out_write(&o, "hello world", 11, &e) && o.at == 11, "%s", e.msg);
    CHECK(!out_patch(&o, 6, "W", 1, &e), "%s", e.msg);
    CHECK(!out_write(&o, "!", 1, &e) && o.at == 12, "%s", e.msg);
    CHECK(exists(part) && !exists(path), "not written beside");
    CHECK(!out_commit(&o, &e), "%s", e.msg);
    out_abort(&o);
    CHECK(!exists(part) && exists(path), "not renamed");
    CHECK(!map_open(&m, path, &e), "%s", e.msg);
    CHECK(m.size == 12 && !memcmp(m.data, "hello World!", 12), "%zu bytes", m.size);
    map_close(&m);
    map_close(&m);

    // What fails leaves the old file as it was and no part file.
    CHECK(!out_open(&o, path, &e) && !out_write(&o, "new", 3, &e), "%s", e.msg);
    out_abort(&o);
    out_abort(&o);
    CHECK(!exists(part), "part file stays after an abort");
    CHECK(!out_open(&o, path, &e) && !out_write(&o, "new", 3, &e), "%s", e.msg);
    CHECK(out_patch(&o, 2, "xy", 2, &e) && !o.f && !exists(part), "patch behind the end");
    CHECK(out_commit(&o, &e), "commit after a failure");
    CHECK(!out_open(&o, path, &e), "%s", e.msg);
    interrupted = 1;
    CHECK(out_write(&o, "new", 3, &e) && strstr(e.msg, "interrupted"), "%s", e.msg);
    interrupted = 0;
    CHECK(out_write(&o, "new", 3, &e) && !exists(part), "write after a failure");
    CHECK(!out_open(&o, path, &e) && !out_write(&o, "new", 3, &e), "%s", e.msg);
    interrupted = 1;
    CHECK(out_commit(&o, &e) && strstr(e.msg, "interrupted"), "%s", e.msg);
    interrupted = 0;
    char *text;
    size_t size;
    CHECK(!read_file(path, 100, &text, &size, &e), "%s", e.msg);
    CHECK(size == 12 && !strcmp(text, "hello World!"), "old file changed: '%s'", text);
    free(text);
    CHECK(!exists(part), "part file stays");
    return PASS;
}

// Two processes on one file: the second is refused while the first writes, and nothing of it is lost. A
// part file that nobody writes any more is taken over.
static int one_writer(void) {
    Err e = {""};
    FileOut first, second;
    char *text;
    size_t size;
    const char *path = temp("one");
    if (!LOCKS) return SKIP;
    CHECK(!out_open(&first, path, &e) && !out_write(&first, "first", 5, &e), "%s", e.msg);
    CHECK(out_open(&second, path, &e) && strstr(e.msg, "another process"), "two writers: %s", e.msg);
    CHECK(!out_commit(&first, &e), "%s", e.msg);
    CHECK(!read_file(path, 100, &text, &size, &e) && size == 5 && !memcmp(text, "first", 5), "%s", e.msg);
    free(text);
    FILE *left = open_file(temp("one.part"), "wb");
    CHECK(left && fputs("much that was left", left) >= 0 && !fclose(left), "no part file");
    CHECK(!out_open(&second, path, &e) && !out_write(&second, "second", 6, &e) && !out_commit(&second, &e), "%s", e.msg);
    CHECK(!read_file(path, 100, &text, &size, &e) && size == 6 && !memcmp(text, "second", 6), "%s", e.msg);
    free(text);
    return remove_file(path) ? FAIL : PASS;
}

// What is flushed can be read under its other name; and a signal handler can remove it.
static int half_written(void) {
    Err e = {""};
    FileOut o;
    char *text;
    size_t size;
    const char *path = temp("half");
    CHECK(!out_open(&o, path, &e) && !out_write(&o, "so far", 6, &e) && !out_flush(&o, &e), "%s", e.msg);
    CHECK(!read_file(o.part, 100, &text, &size, &e) && size == 6 && !memcmp(text, "so far", 6), "%s", e.msg);
    free(text);
    CHECK(!out_write(&o, "!", 1, &e) && !out_flush(&o, &e) && !exists(path), "%s", e.msg);
    out_remove_part();
    CHECK((WINDOWS || !exists(temp("half.part"))) && !exists(path), "it stays");
    out_abort(&o);
    out_remove_part();
    CHECK(out_flush(&o, &e) && strstr(e.msg, "not open"), "%s", e.msg);
    CHECK(!out_open(&o, path, &e), "%s", e.msg);
    interrupted = 1;
    CHECK(out_flush(&o, &e) && strstr(e.msg, "interrupted") && !exists(temp("half.part")), "%s", e.msg);
    interrupted = 0;
    return PASS;
}

// Which of the mapped files an address is in.
static int addresses(void) {
    Err e = {""};
    FileMap m[3];
    char name[3][128];
    for (int i = 0; i < 3; i++) {
        snprintf(name[i], sizeof *name, "%s", temp(i == 0 ? "first" : i == 1 ? "second" : "third"));
        FILE *f = fopen(name[i], "wb");
        CHECK(f && fputs("some bytes", f) >= 0 && !fclose(f), "%s", name[i]);
        CHECK(!map_open(&m[i], name[i], &e), "%s", e.msg);
    }
    for (int i = 0; i < 3; i++) {
        const char *first = map_path(m[i].data), *last = map_path(m[i].data + 9);
        CHECK(first && last && !strcmp(first, name[i]) && !strcmp(last, name[i]), "%d: %s", i, first ? first : "none");
        CHECK(!map_path(m[i].data + 10), "%d: behind its end", i);
    }
    const uint8_t *second = m[1].data;
    map_close(&m[1]);
    CHECK(!map_path(second) && !map_path(&e) && !map_path(NULL), "addresses of no file");
    CHECK(map_path(m[0].data) && map_path(m[2].data), "the others");
    map_close(&m[0]);
    map_close(&m[2]);
    for (int i = 0; i < 3; i++) remove(name[i]);
    return PASS;
}

// Closed standard files are filled up, so that no other file gets their numbers.
static int standard_files(void) {
    if (WINDOWS) return SKIP;                        // what is in their place there says so only when written
    int kept[3];
    for (int i = 0; i < 3; i++) kept[i] = dup(i);
    fflush(stdout);
    for (int i = 0; i < 3; i++) close(i);
    keep_standard_files();
    char byte = 0;
    bool reads = read(0, &byte, 1) >= 0, writes = write(1, &byte, 1) >= 0 || write(2, &byte, 1) >= 0;
    int next = dup(0);
    for (int i = 0; i < 3; i++) dup2(kept[i], i), close(kept[i]);
    close(next);
    CHECK(!reads && !writes, "closed files can be used");
    CHECK(next > 2, "the next file is %d", next);
    return PASS;
}

static int bad_targets(void) {
    Err e = {""};
    FileOut o;
    const char *folder = temp("");
    CHECK(out_open(&o, folder, &e) && strstr(e.msg, "folder"), "%s", e.msg);
    if (!WINDOWS) CHECK(out_open(&o, "/dev/null", &e) && strstr(e.msg, "not a regular file"), "%s", e.msg);
    CHECK(out_open(&o, temp("no/such/folder"), &e) && strstr(e.msg, "cannot create"), "%s", e.msg);
    CHECK(out_open(&o, "", &e) && *e.msg, "%s", e.msg);
    out_abort(&o);
    char part[140];
    snprintf(part, sizeof part, "%s", temp("taken.part"));
    CHECK(!mkdir(part, 0700), "%s", part);
    CHECK(out_open(&o, temp("taken"), &e) && strstr(e.msg, "taken.part"), "%s", e.msg);
    return PASS;
}

// A full disk: the part file's stream is redirected to a device that takes nothing.
static int full_disk(void) {
    if (WINDOWS || !exists("/dev/full")) return SKIP;
    Err e = {""};
    for (int late = 0; late < 2; late++) {
        FileOut o;
        char path[128];
        snprintf(path, sizeof path, "%s", temp("full"));
        CHECK(!out_open(&o, path, &e), "%s", e.msg);
        o.f = freopen("/dev/full", "wb", o.f);
        CHECK(o.f, "/dev/full");
        static char big[1 << 20];
        int wrote = out_write(&o, big, late ? 10 : sizeof big, &e);
        CHECK(late ? !wrote : wrote, "late %d: %d", late, wrote);
        if (late) CHECK(out_commit(&o, &e), "committed to a full disk");
        CHECK(strstr(e.msg, strerror(ENOSPC)), "%s", e.msg);
        CHECK(!exists(path) && !exists(temp("full.part")), "file stays");
    }
    return PASS;
}

static int reads(void) {
    Err e = {""};
    FileMap m;
    char *text;
    size_t size;
    CHECK(map_open(&m, temp("absent"), &e) && strstr(e.msg, "absent"), "%s", e.msg);
    CHECK(map_open(&m, temp(""), &e) && strstr(e.msg, "folder"), "%s", e.msg);
    CHECK(read_file(temp("absent"), 9, &text, &size, &e) && !text, "%s", e.msg);
    CHECK(read_file(temp(""), 9, &text, &size, &e) && !text, "%s", e.msg);
    const char *path = temp("empty");
    FILE *f = fopen(path, "wb");
    CHECK(f && !fclose(f), "%s", path);
    CHECK(!map_open(&m, path, &e) && !m.data && !m.size, "%s", e.msg);
    map_close(&m);
    CHECK(!read_file(path, 0, &text, &size, &e) && !size && !*text, "%s", e.msg);
    free(text);

    if (WINDOWS) return PASS;
    // A pipe, at the limit and one byte over it.
    f = popen("head -c 100000 /dev/zero", "r");
    CHECK(f && !read_all(f, "pipe", 100000, &text, &size, &e), "%s", e.msg);
    CHECK(size == 100000 && !text[size], "%zu", size);
    free(text), pclose(f);
    f = popen("head -c 100001 /dev/zero", "r");
    CHECK(f && read_all(f, "pipe", 100000, &text, &size, &e) && !text, "%s", e.msg);
    pclose(f);
    return PASS;
}

// Names of files, and what would lead out of a folder.
static int names(void) {
    CHECK(!strcmp(path_name("a/b/c.bin"), "c.bin") && !strcmp(path_name("c.bin"), "c.bin"), "names");
    CHECK(!strcmp(path_name("a/"), "") && !strcmp(path_name(""), ""), "no names");
    CHECK(is_name("c.bin", 5) && is_name("..x", 3), "plain names");
    CHECK(!is_name("", 0) && !is_name("a/b", 3) && !is_name("a\0b", 3), "no plain names");
    CHECK(is_name("a\\b", 3) == !WINDOWS && is_name("C:b", 3) == !WINDOWS, "Windows' ways to other folders");
    CHECK(path_kind(temp("absent")) == PATH_NONE && path_kind(temp("")) == PATH_FOLDER, "kinds");
    FILE *f = open_file(temp("Zo\xc3\xab.bin"), "wb");
    CHECK(f && !fclose(f) && path_kind(temp("Zo\xc3\xab.bin")) == PATH_FILE, "a name in UTF-8");
    char found[64], folder[128];
    snprintf(folder, sizeof folder, "%s/", temp(""));
    CHECK(find_in_folder(folder, ".bin", found, sizeof found) == 1 && !strcmp(found, "Zo\xc3\xab.bin"), "%s", found);
    CHECK(find_in_folder(folder, ".none", found, sizeof found) == 0, "%s", found);
    CHECK(find_in_folder(temp("absent"), ".bin", found, sizeof found) == -1, "a folder that is not there");
    CHECK(same_file(temp("Zo\xc3\xab.bin"), temp("./Zo\xc3\xab.bin")) && same_file(folder, temp("")), "one file");
    f = fopen(temp("other"), "wb");
    CHECK(f && !fclose(f) && !same_file(temp("Zo\xc3\xab.bin"), temp("other")), "two files");
    CHECK(!replace_file(temp("other"), temp("Zo\xc3\xab.bin")), "%s", strerror(errno));
    CHECK(!same_file(temp("absent"), temp("absent")) && path_kind(temp("other")) == PATH_NONE, "replaced");
    CHECK(!remove_file(temp("Zo\xc3\xab.bin")) && remove_file(temp("absent")) && errno == ENOENT, "removed");
    return PASS;
}

// Text written like a file, and lines read from one.
static int texts(void) {
    TextFile t;
    for (int lines = 0; lines < 3000; lines += 999) {
        CHECK(!text_open(&t), "%s", strerror(errno));
        for (int i = 0; i < lines; i++) fprintf(t.f, "line %d\n", i);
        char *s = text_close(&t);
        CHECK(s && t.n == strlen(s) && (lines ? !strncmp(s, "line 0\n", 7) && s[t.n - 1] == '\n' : !t.n), "%d lines", lines);
        free(s);
    }
    FILE *f = fopen(temp("lines"), "wb");
    CHECK(f && fprintf(f, "one\n\n%01000d\nlast", 7) > 0 && !fclose(f), "lines");
    f = fopen(temp("lines"), "rb");
    static const size_t lengths[] = {3, 0, 1000, 4};
    for (int i = 0; i < 4; i++) {
        char *line = input_line(f);
        CHECK(line && strlen(line) == lengths[i], "line %d: %s", i, line ? line : "none");
        free(line);
    }
    CHECK(!input_line(f) && !fclose(f), "a fifth line");
    return PASS;
}

static int chance(void) {
    // The first three numbers of splitmix64 from 1234567, as published with the generator.
    static const uint64_t known[] = {6457827717110365317u, 3203168211198807973u,
                                     9817491932198370423u};
    uint64_t state = 1234567;
    for (int i = 0; i < COUNT(known); i++) {
        uint64_t r = random_u64(&state);
        CHECK(r == known[i], "%d: %ju, expected %ju", i, (uintmax_t)r, (uintmax_t)known[i]);
    }
    double sum = 0;
    for (int i = 0; i < 10000; i++) {
        float f = random_f32(&state);
        CHECK(f >= 0 && f < 1, "%g", f);
        sum += f;
    }
    CHECK(fabs(sum / 10000 - 0.5) < 0.02, "mean %g", sum / 10000);
    return PASS;
}

static int measures(void) {
    double t = seconds();
    static volatile char touched[8 << 20];
    for (size_t i = 0; i < sizeof touched; i += 4096) touched[i] = 1;
    CHECK(seconds() >= t, "clock runs backwards");
    CHECK(peak_memory() >= sizeof touched, "%zu", peak_memory());
    return PASS;
}

static const Test tests[] = {
    {"sizes", sizes}, {"errors", errors}, {"memory", memory}, {"writes", writes},
    {"one writer", one_writer}, {"half written", half_written}, {"addresses", addresses},
    {"standard files", standard_files},
    {"bad targets", bad_targets}, {"full disk", full_disk}, {"reads", reads},
    {"names", names}, {"texts", texts}, {"chance", chance}, {"measures", measures},
};

int main(int argc, char **argv) {
    int result = run_tests("util", tests, COUNT(tests), argc, argv);
    rmdir(temp("taken.part"));
    remove(temp("written"));
    remove(temp("empty"));
    remove(temp("lines"));
    rmdir(temp(""));
    return result;
}
