// util: what the rest stands on: error messages, checked sizes, aligned memory, whole files in and
// out, the clock, a random generator. All calls to the operating system of core/ are in this file.
// Knows nothing of models, and prints nothing.
#define _FILE_OFFSET_BITS 64
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

volatile sig_atomic_t interrupted;

int fail(Err *e, const char *fmt, ...) {
    if (!e) return -1;
    Err made;                      // apart, because an argument may be e->msg itself
    va_list args;
    va_start(args, fmt);
    vsnprintf(made.msg, sizeof made.msg, fmt, args);
    va_end(args);
    for (unsigned char *c = (unsigned char *)made.msg; *c; c++)      // U+0080 .. U+009F are two bytes
        if (*c < ' ' || *c == 0x7f) *c = '?';
        else if (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0) *c++ = '?', *c = '?';
    memcpy(e->msg, made.msg, sizeof made.msg);
    return -1;
}

// ---- memory -------------------------------------------------------------------------------------

bool mul_size(size_t a, size_t b, size_t *out) {
    size_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

bool add_size(size_t a, size_t b, size_t *out) {
    size_t r;
    if (__builtin_add_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

void *alloc(size_t n, size_t size, const char *what, Err *e) {
    size_t bytes, padded;
    void *p = NULL;
    if (!mul_size(n, size, &bytes) || !add_size(bytes, 63, &padded)) {
        fail(e, "%s: %zu items of %zu bytes do not fit in memory", what, n, size);
        return NULL;
    }
    padded -= padded % 64;
    if (posix_memalign(&p, 64, padded ? padded : 64)) {
        fail(e, "%s: out of memory for %zu bytes", what, bytes);
        return NULL;
    }
    return memset(p, 0, padded);
}

// ---- files in -----------------------------------------------------------------------------------

typedef struct Mapped { struct Mapped *next; const uint8_t *data; size_t size; char path[]; } Mapped;
static Mapped *mapped;

const char *map_path(const void *address) {
    const uintptr_t at = (uintptr_t)address;
    for (const Mapped *m = mapped; m; m = m->next)
        if (at >= (uintptr_t)m->data && at - (uintptr_t)m->data < m->size) return m->path;
    return NULL;
}

// Maps a regular file of this size, not 0, and remembers its path.
static int map_regular(FileMap *m, int fd, const char *path, size_t size, Err *e) {
    Mapped *entry = malloc(sizeof *entry + strlen(path) + 1);
    if (!entry) return fail(e, "%s: out of memory", path);
    void *p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        free(entry);
        return fail(e, "%s: cannot map %zu bytes: %s", path, size, strerror(errno));
    }
    *entry = (Mapped){mapped, p, size};
    strcpy(entry->path, path);
    mapped = entry;
    *m = (FileMap){p, size};
    return 0;
}

int map_open(FileMap *m, const char *path, Err *e) {
    *m = (FileMap){0};
    int fd = open(path, O_RDONLY | O_NONBLOCK);      // does not wait for the other end of a pipe
    if (fd < 0) return fail(e, "%s: cannot open: %s", path, strerror(errno));
    struct stat st;
    int result = -1;
    if (fstat(fd, &st)) {
        fail(e, "%s: %s", path, strerror(errno));
    } else if (S_ISDIR(st.st_mode)) {
        fail(e, "%s: is a folder, not a file", path);
    } else if (!S_ISREG(st.st_mode)) {
        fail(e, "%s: not a regular file, so it cannot be mapped", path);
    } else if ((uintmax_t)st.st_size > SIZE_MAX) {
        fail(e, "%s: too large for this machine's addresses", path);
    } else if (st.st_size == 0) {
        result = 0;
    } else {
        result = map_regular(m, fd, path, (size_t)st.st_size, e);
    }
    close(fd);                                       // the mapping stays
    return result;
}

void map_close(FileMap *m) {
    Mapped **link = &mapped, *entry;
    while (*link && (*link)->data != m->data) link = &(*link)->next;
    if ((entry = *link)) {
        *link = entry->next;
        free(entry);
    }
    if (m->data) munmap((void *)m->data, m->size);
    *m = (FileMap){0};
}

int read_all(FILE *f, const char *name, size_t limit, char **text, size_t *size, Err *e) {
    char *buf = NULL;
    size_t have = 0, room = 0;
    *text = NULL, *size = 0;
    for (;;) {
        if (have + 1 >= room) {                      // one byte stays free for the NUL
            size_t more = room ? 2 * room : 1 << 14;
            char *grown = more > room ? realloc(buf, more) : NULL;
            if (!grown) {
                free(buf);
                return fail(e, "%s: out of memory after %zu bytes", name, have);
            }
            buf = grown, room = more;
        }
        size_t got = fread(buf + have, 1, room - have - 1, f);
        have += got;
        if (have > limit) {
            free(buf);
            return fail(e, "%s: more than the %zu bytes allowed here", name, limit);
        }
        if (got) continue;
        if (!ferror(f)) break;
        int why = errno;
        free(buf);
        return fail(e, "%s: cannot read: %s", name, strerror(why));
    }
    buf[have] = 0;
    *text = buf, *size = have;
    return 0;
}

int read_file(const char *path, size_t limit, char **text, size_t *size, Err *e) {
    *text = NULL, *size = 0;
    FILE *f = fopen(path, "rb");
    if (!f) return fail(e, "%s: cannot open: %s", path, strerror(errno));
    int result = read_all(f, path, limit, text, size, e);
    fclose(f);
    return result;
}

// ---- files out ----------------------------------------------------------------------------------

// A name that may be written: free, or a regular file's. A device or a folder is never replaced.
static int check_target(const char *path, Err *e) {
    struct stat st;
    if (stat(path, &st)) {
        if (errno == ENOENT) return 0;
        return fail(e, "%s: cannot write there: %s", path, strerror(errno));
    }
    if (S_ISDIR(st.st_mode)) return fail(e, "%s: is a folder, not a file", path);
    if (!S_ISREG(st.st_mode)) return fail(e, "%s: exists and is not a regular file", path);
    return 0;
}

static const char *volatile open_part;               // of the file opened last, while it is open

void out_remove_part(void) {
    if (open_part) unlink(open_part);
}

int out_open(FileOut *o, const char *path, Err *e) {
    *o = (FileOut){0};
    if (!*path) return fail(e, "the name of the file to write is empty");
    if (check_target(path, e)) return -1;
    size_t n = strlen(path);
    o->path = malloc(n + 1);
    o->part = malloc(n + sizeof ".part");
    if (!o->path || !o->part) {
        out_abort(o);
        return fail(e, "%s: out of memory", path);
    }
    memcpy(o->path, path, n + 1);
    memcpy(o->part, path, n);
    memcpy(o->part + n, ".part", sizeof ".part");
    if (check_target(o->part, e)) {
        out_abort(o);
        return -1;
    }
    o->f = fopen(o->part, "wb");
    if (!o->f) {
        fail(e, "%s: cannot create: %s", o->part, strerror(errno));
        out_abort(o);
        return -1;
    }
    open_part = o->part;
    return 0;
}

// The first failure ends the file: later calls find it closed and fail too.
static int out_failed(FileOut *o, int why, Err *e) {
    fail(e, "%s: %s", o->part, interrupted ? "interrupted" : strerror(why));
    out_abort(o);
    return -1;
}

int out_write(FileOut *o, const void *data, size_t size, Err *e) {
    const char *p = data;
    if (!o->f) return fail(e, "write to a file that is not open");
    while (size) {
        size_t n = size < 1 << 24 ? size : 1 << 24;  // in parts, to notice an interruption
        if (interrupted || fwrite(p, 1, n, o->f) != n) return out_failed(o, errno, e);
        p += n, size -= n, o->at += n;
    }
    return 0;
}

int out_patch(FileOut *o, uint64_t offset, const void *data, size_t size, Err *e) {
    if (!o->f) return fail(e, "write to a file that is not open");
    if (offset > o->at || size > o->at - offset) {
        fail(e, "%s: patch of %zu bytes at %ju ends behind the %ju written", o->part, size,
             (uintmax_t)offset, (uintmax_t)o->at);
        out_abort(o);
        return -1;
    }
    if (interrupted || fseeko(o->f, (off_t)offset, SEEK_SET) ||
        fwrite(data, 1, size, o->f) != size || fseeko(o->f, (off_t)o->at, SEEK_SET))
        return out_failed(o, errno, e);
    return 0;
}

int out_flush(FileOut *o, Err *e) {
    if (!o->f) return fail(e, "flush of a file that is not open");
    return interrupted || fflush(o->f) || ferror(o->f) ? out_failed(o, errno, e) : 0;
}

int out_commit(FileOut *o, Err *e) {
    if (!o->f) return fail(e, "commit of a file that is not open");
    if (interrupted || fflush(o->f) || ferror(o->f) || fsync(fileno(o->f)))
        return out_failed(o, errno, e);
    FILE *f = o->f;
    o->f = NULL;
    if (fclose(f) || rename(o->part, o->path)) {
        fail(e, "%s: cannot become %s: %s", o->part, o->path, strerror(errno));
        remove(o->part);
        out_abort(o);
        return -1;
    }
    out_abort(o);                  // nothing is open now: this only frees the names
    return 0;
}

void out_abort(FileOut *o) {
    if (o->f) {
        fclose(o->f);
        remove(o->part);
    }
    if (open_part == o->part) open_part = NULL;
    free(o->path);
    free(o->part);
    *o = (FileOut){0};
}

void keep_standard_files(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)            // open takes the lowest that is free
        if (fcntl(fd, F_GETFD) == -1 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
            return;
}

// ---- clock, memory, chance ----------------------------------------------------------------------

double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

size_t peak_memory(void) {
    struct rusage use;
    if (getrusage(RUSAGE_SELF, &use)) return 0;
#ifdef __APPLE__
    return (size_t)use.ru_maxrss;                    // bytes there, kilobytes elsewhere
#else
    return (size_t)use.ru_maxrss * 1024;
#endif
}

uint64_t random_u64(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;      // splitmix64; 2^64 / golden ratio
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

float random_f32(uint64_t *state) {
    return (float)(random_u64(state) >> 40) * 0x1p-24f;
}
