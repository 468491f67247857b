// util: errors, checked sizes, mapped files, files written beside and renamed, time; and what is asked of
// the operating system. Knows nothing of models. Library code reports through an Err and returns -1; only
// the two mains print and exit.
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
#if __FLT_EVAL_METHOD__ == 1 || __FLT_EVAL_METHOD__ == 2
#error "floats are computed with more bits than asked for, as a compiler likes: add -msse2 -mfpmath=sse"
#endif

// A function with a format like printf's and its arguments, of which the compiler checks the types.
#ifdef __MINGW_PRINTF_FORMAT       // C99's, such as %zu, and not those of Windows before
#define PRINTF_LIKE(fmt, first) __attribute__((format(__MINGW_PRINTF_FORMAT, fmt, first)))
#else
#define PRINTF_LIKE(fmt, first) __attribute__((format(printf, fmt, first)))
#endif

typedef struct { char msg[512]; } Err;

// Writes the message (printf form) into e, which may be NULL, and returns -1: `return fail(e, ...)`.
// Names out of files stand in messages: of control characters, which a terminal might obey, it makes '?'.
int fail(Err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

// *out = a * b (a + b); false, and *out untouched, where the result does not fit.
bool mul_size(size_t a, size_t b, size_t *out);
bool add_size(size_t a, size_t b, size_t *out);

// Zeroed memory for n * size bytes, 64-byte aligned, freed by free(). NULL with a message that
// names `what` when n * size overflows or memory is out. n * size = 0 gives a valid pointer.
void *alloc(size_t n, size_t size, const char *what, Err *e);
void *alloc_raw(size_t n, size_t size, const char *what, Err *e);  // the same, not zeroed

// Of a command line: whether flag `a` is one of those that take a value and v is one: not NULL, and no
// flag itself. Lists end with NULL. -1 with what is wrong.
typedef struct { const char *const *plain, *const *valued; } Flags;
int check_flag(const Flags *f, const char *a, const char *v, Err *e);

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
// A name that is a link stays one: the file that it leads to is written.
typedef struct { FILE *f; char *path, *part; uint64_t at; } FileOut;   // at: bytes written so far
bool out_meets(const char *out, const char *path);   // whether path is out, or the part of it
int out_open(FileOut *o, const char *path, Err *e);
int out_write(FileOut *o, const void *data, size_t size, Err *e);
int out_patch(FileOut *o, uint64_t offset, const void *data, size_t size, Err *e); // over old bytes
int out_flush(FileOut *o, Err *e);                 // what was written can be read, under the name o->part
int out_commit(FileOut *o, Err *e);
void out_abort(FileOut *o);
// Removes the part file of the file opened last, if it is still being written; for a signal handler that
// ends the program.
void out_remove_part(void);

// Set by the mains' SIGINT / SIGTERM handlers; polled by long loops.
extern volatile sig_atomic_t interrupted;

// 64-bit generator (splitmix64): state is any number; same sequence on every machine.
uint64_t random_u64(uint64_t *state);
float random_f32(uint64_t *state); // uniform in [0, 1), 24 bits

// ---- the operating system: os.c, where alone one differs from another ----------------------------
// Paths are UTF-8 and sizes have 64 bits on each of them. Where 0 or -1 is returned, errno says why.

// A program started with standard input, output or error closed gets files in their place that cannot be
// read or written. Else the next file opened would have that number, and what is printed go into it.
// Standard files pass on bytes as they are, and a console shows UTF-8.
void keep_standard_files(void);
void utf8_arguments(int *argc, char ***argv);          // main's, where they come in another encoding
// Interruption, termination and a lost terminal call stop; a reader that has gone calls unread, or ends
// the program (NULL). A mapped file that cannot be read any more ends it with a message.
void catch_signals(const char *program, void (*stop)(int), void (*unread)(int));
void end_unread(void);             // ends the program as one whose output nobody reads on

typedef enum { PATH_NONE, PATH_FILE, PATH_FOLDER, PATH_OTHER, PATH_UNKNOWN } PathKind;    // NONE: not there
PathKind path_kind(const char *path);
bool same_file(const char *a, const char *b);          // both are there, and one
bool is_standard_output(const char *path);             // a file, as the shell has opened it
// What a link leads to, freed by the caller; another path: itself. NULL: it leads nowhere, or no memory.
char *link_target(const char *path);
bool is_separator(char c);                             // of the parts of a path
const char *path_name(const char *path);               // behind its last separator
bool is_name(const char *s, size_t n);                 // of a file, without any way to another folder
FILE *open_file(const char *path, const char *mode);   // fopen
// Empty, for writing. EBUSY while another process has it from here, where the system can tell.
FILE *create_file(const char *path);
int seek_file(FILE *f, uint64_t to);
int sync_file(FILE *f);                                // flushed, and on the disk
int replace_file(const char *from, const char *to);    // to may exist: at no moment is it missing
int remove_file(const char *path);
// f is closed, and `from`, its name, becomes `to`, or is removed where that fails; or is removed.
int finish_file(FILE *f, const char *from, const char *to);
void drop_file(FILE *f, const char *path);
// Entries of a folder whose names end so, and one of their names; -1 where it cannot be listed.
int find_in_folder(const char *folder, const char *ending, char *name, size_t room);

// Text written like a file; text_close gives it, with a NUL behind. Caller frees. -1, NULL: no memory.
typedef struct { FILE *f; char *s; size_t n; } TextFile;
int text_open(TextFile *t);
char *text_close(TextFile *t);
char *input_line(FILE *f);         // without its end; NULL: there is none. Caller frees
#ifdef _WIN32                       // what others have in their libc
char *strndup(const char *s, size_t n);
void *aligned_alloc(size_t alignment, size_t size);
#endif

void *aligned_memory(size_t size); // 64 bytes where the system can, else 16; freed by free()
double seconds(void);              // monotonic clock
size_t peak_memory(void);          // peak resident bytes of this process, 0 where unknown
double machine_memory(void);       // bytes this machine has, 0 where unknown
int processors(void);              // that are on
#if defined(_OPENMP) || defined(_REENTRANT)            // -fopenmp or -pthread; without: one thread
#define THREADS
bool start_thread(void *(*fn)(void *), void *arg);     // that ends with the program and gets no signals
#endif

#endif
