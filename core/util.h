// util: errors, checked sizes, mapped files, files written beside and renamed, time. Knows nothing
// of models. Library code reports through an Err and returns -1; only the two mains print and exit.
#ifndef UTIL_H
#define UTIL_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "weights are used straight from little-endian files: this program needs a little-endian machine"
#endif

typedef struct { char msg[512]; } Err;

// Writes the message (printf form) into e, which may be NULL, and returns -1: `return fail(e, ...)`.
// Names out of files stand in messages: of control characters, which a terminal might obey, it makes '?'.
int fail(Err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// *out = a * b (a + b); false, and *out untouched, where the result does not fit.
bool mul_size(size_t a, size_t b, size_t *out);
bool add_size(size_t a, size_t b, size_t *out);

// Zeroed memory for n * size bytes, 64-byte aligned, freed by free(). NULL with a message that
// names `what` when n * size overflows or memory is out. n * size = 0 gives a valid pointer.
void *alloc(size_t n, size_t size, const char *what, Err *e);

// A whole file, read-only. Mapped where the system can; `data` is NULL for an empty file.
typedef struct { const uint8_t *data; size_t size; } FileMap;
int map_open(FileMap *m, const char *path, Err *e);
void map_close(FileMap *m);   // any number of times
// The path of the mapped file that holds this address, NULL where none does. For a handler of SIGBUS,
// which is what reading beyond the end of a file gives that others have cut short meanwhile. Files are
// mapped and closed by one thread at a time.
const char *map_path(const void *address);

// Everything from f (a pipe too) with a NUL behind it, at most `limit` bytes. Caller frees *text.
int read_all(FILE *f, const char *name, size_t limit, char **text, size_t *size, Err *e);
int read_file(const char *path, size_t limit, char **text, size_t *size, Err *e);

// A file that appears whole or not at all: written to "PATH.part", then flushed and renamed.
// Every write checks `interrupted` and the disk. abort removes the part file; calling it after a
// commit, or twice, does nothing.
typedef struct { FILE *f; char *path, *part; uint64_t at; } FileOut;   // at: bytes written so far
int out_open(FileOut *o, const char *path, Err *e);
int out_write(FileOut *o, const void *data, size_t size, Err *e);
int out_patch(FileOut *o, uint64_t offset, const void *data, size_t size, Err *e); // over old bytes
int out_flush(FileOut *o, Err *e);                 // what was written can be read, under the name o->part
int out_commit(FileOut *o, Err *e);
void out_abort(FileOut *o);
// Removes the part file of the file opened last, if it is still being written; for a signal handler that
// ends the program.
void out_remove_part(void);

// A program started with standard input, output or error closed gets files in their place that cannot be
// read or written. Else the next file opened would have that number, and what is printed go into it.
void keep_standard_files(void);

// Set by the mains' SIGINT / SIGTERM handlers; polled by long loops.
extern volatile sig_atomic_t interrupted;

double seconds(void);              // monotonic clock
size_t peak_memory(void);          // peak resident bytes of this process, 0 where unknown

// 64-bit generator (splitmix64): state is any number; same sequence on every machine.
uint64_t random_u64(uint64_t *state);
float random_f32(uint64_t *state); // uniform in [0, 1), 24 bits

#endif
