// util: what the rest stands on: error messages, checked sizes, aligned memory, whole files in and
// out, a random generator. Knows nothing of models, and prints nothing.
#include "util.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

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

void *alloc_raw(size_t n, size_t size, const char *what, Err *e) {
    size_t bytes, padded;
    void *p;
    if (!mul_size(n, size, &bytes) || !add_size(bytes, 63, &padded)) {
        fail(e, "%s: %zu items of %zu bytes do not fit in memory", what, n, size);
        return NULL;
    }
    padded -= padded % 64;
    if (!(p = aligned_memory(padded ? padded : 64))) fail(e, "%s: out of memory for %zu bytes", what, bytes);
    return p;
}

void *alloc(size_t n, size_t size, const char *what, Err *e) {
    void *p = alloc_raw(n, size, what, e);
    return p ? memset(p, 0, (n * size + 63) / 64 * 64) : NULL;
}

// ---- flags --------------------------------------------------------------------------------------

static bool among(const char *a, const char *const *names) {
    while (*names && strcmp(a, *names)) names++;
    return *names != NULL;
}

int check_flag(const Flags *f, const char *a, const char *v, Err *e) {
    if (!among(a, f->valued)) return fail(e, "unknown flag %.100s (-h shows all)", a);
    if (!v) return fail(e, "%.100s needs a value (-h shows all flags)", a);
    if (among(v, f->valued) || among(v, f->plain))
        return fail(e, "%.100s needs a value, and %.100s is a flag", a, v);
    return 0;
}

// ---- files in -----------------------------------------------------------------------------------

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
    FILE *f = open_file(path, "rb");
    if (!f) return fail(e, "%s: cannot open: %s", path, strerror(errno));
    int result = read_all(f, path, limit, text, size, e);
    fclose(f);
    return result;
}

// ---- files out ----------------------------------------------------------------------------------

// A name that may be written: free, or a regular file's. A device or a folder is never replaced.
static int check_target(const char *path, Err *e) {
    switch (path_kind(path)) {
    case PATH_FOLDER:  return fail(e, "%s: is a folder, not a file", path);
    case PATH_OTHER:   return fail(e, "%s: exists and is not a regular file", path);
    case PATH_UNKNOWN: return fail(e, "%s: cannot write there: %s", path, strerror(errno));
    default:           return 0;
    }
}

static const char *volatile open_part;               // of the file opened last, while it is open

void out_remove_part(void) {
    if (open_part) remove_file(open_part);
}

typedef struct { char whole[4200], part[4208]; } OutNames;       // longer ones are of no file

// The names that writing `path` takes: where a link leads, and the part beside it.
static int names_of(const char *path, OutNames *to, Err *e) {
    char *target = link_target(path);
    if (!target)
        return fail(e, "%s: %s", path, errno == ENOMEM ? "out of memory" : "is a link that leads nowhere");
    snprintf(to->whole, sizeof to->whole, "%s", target);
    snprintf(to->part, sizeof to->part, "%s.part", to->whole);
    if (target != path) free(target);
    return 0;
}

bool out_meets(const char *out, const char *path) {
    OutNames n;
    if (names_of(out, &n, NULL)) return false;                   // nor will it be written
    return !strcmp(out, path) || same_file(out, path) || !strcmp(n.part, path) || same_file(n.part, path);
}

int out_open(FileOut *o, const char *path, Err *e) {
    *o = (FileOut){0};
    if (!*path) return fail(e, "the name of the file to write is empty");
    if (check_target(path, e)) return -1;
    if (is_standard_output(path)) return fail(e, "%s: is where standard output goes", path);
    OutNames n;
    if (names_of(path, &n, e)) return -1;
    if (!(o->path = strdup(n.whole)) || !(o->part = strdup(n.part))) {
        out_abort(o);
        return fail(e, "%s: out of memory", path);
    }
    if (check_target(o->part, e)) {
        out_abort(o);
        return -1;
    }
    o->f = create_file(o->part);
    if (!o->f) {
        fail(e, "%s: cannot create: %s", o->part,
             errno == EBUSY ? "another process is writing it" : strerror(errno));
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
    if (interrupted || seek_file(o->f, offset) || fwrite(data, 1, size, o->f) != size ||
        seek_file(o->f, o->at))
        return out_failed(o, errno, e);
    return 0;
}

int out_flush(FileOut *o, Err *e) {
    if (!o->f) return fail(e, "flush of a file that is not open");
    return interrupted || fflush(o->f) || ferror(o->f) ? out_failed(o, errno, e) : 0;
}

int out_commit(FileOut *o, Err *e) {
    if (!o->f) return fail(e, "commit of a file that is not open");
    if (interrupted || ferror(o->f) || sync_file(o->f))
        return out_failed(o, errno, e);
    FILE *f = o->f;
    o->f = NULL;
    const int result = finish_file(f, o->part, o->path);
    if (result) fail(e, "%s: cannot become %s: %s", o->part, o->path, strerror(errno));
    out_abort(o);                  // nothing is open now: this only frees the names
    return result;
}

void out_abort(FileOut *o) {
    if (o->f) drop_file(o->f, o->part);
    if (open_part == o->part) open_part = NULL;
    free(o->path);
    free(o->part);
    *o = (FileOut){0};
}

// ---- chance -------------------------------------------------------------------------------------

uint64_t random_u64(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;      // splitmix64; 2^64 / golden ratio
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

float random_f32(uint64_t *state) {
    return (float)(random_u64(state) >> 40) * 0x1p-24f;
}
