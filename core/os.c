// os: what the program asks of the operating system, for POSIX, Windows and WASI. No other file of the
// engine or the exporter calls what differs between them.
#define _FILE_OFFSET_BITS 64       // files of 2 GB and more on 32-bit machines
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <io.h>
#include <psapi.h>
#include <shellapi.h>
#else
#include <dirent.h>
#include <sys/mman.h>
#ifndef __wasi__
#include <sys/file.h>
#include <sys/resource.h>
#endif
#endif
#ifdef THREADS
#include <pthread.h>
#endif

// ---- paths --------------------------------------------------------------------------------------

#ifdef _WIN32
// A path for the functions that take UTF-16, without the '/' at its end, which some of them do not find.
// Caller frees.
static wchar_t *wide(const char *s) {
    const int n = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, s, -1, NULL, 0);
    wchar_t *w = n ? malloc((size_t)n * sizeof *w) : NULL;
    if (!w) { errno = n ? ENOMEM : EILSEQ; return NULL; }
    MultiByteToWideChar(CP_UTF8, 0, s, -1, w, n);
    for (int i = n - 2; i > 0 && (w[i] == '/' || w[i] == '\\') && w[i - 1] != ':'; i--) w[i] = 0;
    return w;
}

static char *narrow(const wchar_t *w, int n) {         // n code units (-1: up to the NUL); caller frees
    const int size = WideCharToMultiByte(CP_UTF8, 0, w, n, NULL, 0, NULL, NULL);
    char *s = malloc((size_t)size + 1);
    if (s) s[WideCharToMultiByte(CP_UTF8, 0, w, n, s, size, NULL, NULL)] = 0;
    return s;
}

bool is_separator(char c) { return c == '/' || c == '\\' || c == ':'; }

typedef struct _stat64 Stat;
static int stat_path(const char *path, Stat *st) {
    wchar_t *w = wide(path);
    int result = w ? _wstat64(w, st) : -1;
    free(w);
    return result;
}
#define fstat _fstat64

static int open_to_read(const char *path) {
    wchar_t *w = wide(path);
    int fd = w ? _wopen(w, _O_RDONLY | _O_BINARY) : -1;
    free(w);
    return fd;
}

static bool file_id(const char *path, BY_HANDLE_FILE_INFORMATION *info) {
    wchar_t *w = wide(path);
    HANDLE h = w ? CreateFileW(w, 0, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                               OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, NULL) : INVALID_HANDLE_VALUE;
    const bool known = h != INVALID_HANDLE_VALUE && GetFileInformationByHandle(h, info);
    if (h != INVALID_HANDLE_VALUE) CloseHandle(h);
    free(w);
    return known;
}

bool same_file(const char *a, const char *b) {
    BY_HANDLE_FILE_INFORMATION x, y;
    return file_id(a, &x) && file_id(b, &y) && x.dwVolumeSerialNumber == y.dwVolumeSerialNumber &&
           x.nFileIndexHigh == y.nFileIndexHigh && x.nFileIndexLow == y.nFileIndexLow;
}

bool is_standard_output(const char *path) { (void)path; return false; }

// Renaming follows no links here, which few have.
char *link_target(const char *path) { return (char *)(uintptr_t)path; }

FILE *open_file(const char *path, const char *mode) {
    wchar_t *w = wide(path), *m = wide(mode);
    FILE *f = w && m ? _wfopen(w, m) : NULL;
    free(w), free(m);
    return f;
}

FILE *create_file(const char *path) { return open_file(path, "wb"); }

int remove_file(const char *path) {
    wchar_t *w = wide(path);
    int result = w ? _wunlink(w) : -1;
    free(w);
    return result;
}

int replace_file(const char *from, const char *to) {
    wchar_t *f = wide(from), *t = wide(to);
    const bool done = f && t && MoveFileExW(f, t, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH);
    if (f && t && !done) errno = GetLastError() == ERROR_FILE_NOT_FOUND ? ENOENT : EACCES;
    free(f), free(t);
    return done ? 0 : -1;
}

// An open file can be neither renamed nor removed here.
int finish_file(FILE *f, const char *from, const char *to) {
    if (!fclose(f) && !replace_file(from, to)) return 0;
    const int why = errno;
    remove_file(from);
    errno = why;
    return -1;
}

void drop_file(FILE *f, const char *path) {
    fclose(f);
    remove_file(path);
}

int seek_file(FILE *f, uint64_t to) { return fseeko64(f, (int64_t)to, SEEK_SET); }
int sync_file(FILE *f) { return fflush(f) || _commit(_fileno(f)) ? -1 : 0; }

int find_in_folder(const char *folder, const char *ending, char *name, size_t room) {
    char pattern[4096];
    WIN32_FIND_DATAW found;
    int count = 0;
    if (snprintf(pattern, sizeof pattern, "%s/*%s", folder, ending) >= (int)sizeof pattern) return -1;
    wchar_t *w = wide(pattern);
    HANDLE h = w ? FindFirstFileW(w, &found) : INVALID_HANDLE_VALUE;
    free(w);
    if (h == INVALID_HANDLE_VALUE) return GetLastError() == ERROR_FILE_NOT_FOUND ? 0 : -1;
    do {
        char *s = narrow(found.cFileName, -1);
        const size_t n = s ? strlen(s) : 0, m = strlen(ending);
        if (n > m && strcmp(s + n - m, ending) == 0) snprintf(name, room, "%s", s), count++;
        free(s);
    } while (FindNextFileW(h, &found));
    FindClose(h);
    return count;
}

#else

bool is_separator(char c) { return c == '/'; }

typedef struct stat Stat;
static int stat_path(const char *path, Stat *st) { return stat(path, st); }

// Does not wait for the other end of a pipe.
static int open_to_read(const char *path) { return open(path, O_RDONLY | O_NONBLOCK); }

bool same_file(const char *a, const char *b) {
    Stat x, y;
    return !stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

bool is_standard_output(const char *path) {
    Stat x, y;
    return !stat(path, &x) && S_ISREG(x.st_mode) && !fstat(STDOUT_FILENO, &y) && x.st_dev == y.st_dev &&
           x.st_ino == y.st_ino;
}

char *link_target(const char *path) {
#ifndef __wasi__
    Stat st;
    if (!lstat(path, &st) && S_ISLNK(st.st_mode)) return realpath(path, NULL);
#endif
    return (char *)(uintptr_t)path;
}

FILE *open_file(const char *path, const char *mode) { return fopen(path, mode); }

#ifdef __wasi__
FILE *create_file(const char *path) { return fopen(path, "wb"); }
#else
// The lock goes with the stream, even when the process is killed. It is of a file, not of a name: one that
// another process has renamed or removed meanwhile is let go.
FILE *create_file(const char *path) {
    for (int tries = 0; tries < 9; tries++) {
        Stat ours, named;
        FILE *f = fopen(path, "r+b");
        if (!f && errno == ENOENT) f = fopen(path, "wbx");
        if (!f && errno == EEXIST) continue;
        if (!f) return NULL;
        if (flock(fileno(f), LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
            fclose(f);
            errno = EBUSY;
            return NULL;
        }
        if (!fstat(fileno(f), &ours) && !stat(path, &named) && ours.st_ino == named.st_ino &&
            ours.st_dev == named.st_dev && !ftruncate(fileno(f), 0)) return f;
        fclose(f);
    }
    errno = EBUSY;
    return NULL;
}
#endif

int remove_file(const char *path) { return unlink(path); }
int replace_file(const char *from, const char *to) { return rename(from, to); }

int finish_file(FILE *f, const char *from, const char *to) {
    const int result = replace_file(from, to), why = errno;
    if (result) remove_file(from);
    fclose(f);                     // only now the lock goes: nobody else has begun the part meanwhile
    errno = why;
    return result;
}

void drop_file(FILE *f, const char *path) {
    remove_file(path);
    fclose(f);
}

int seek_file(FILE *f, uint64_t to) { return fseeko(f, (off_t)to, SEEK_SET); }
int sync_file(FILE *f) { return fflush(f) || fsync(fileno(f)) ? -1 : 0; }

int find_in_folder(const char *folder, const char *ending, char *name, size_t room) {
    int count = 0;
    DIR *dir = opendir(folder);
    if (!dir) return -1;
    for (struct dirent *d; (d = readdir(dir));) {
        const size_t n = strlen(d->d_name), m = strlen(ending);
        if (n > m && strcmp(d->d_name + n - m, ending) == 0)
            snprintf(name, room, "%s", d->d_name), count++;
    }
    closedir(dir);
    return count;
}
#endif

static PathKind kind(const Stat *st) {
    return S_ISDIR(st->st_mode) ? PATH_FOLDER : S_ISREG(st->st_mode) ? PATH_FILE : PATH_OTHER;
}

PathKind path_kind(const char *path) {
    Stat st;
    return !stat_path(path, &st) ? kind(&st) : errno == ENOENT ? PATH_NONE : PATH_UNKNOWN;
}

const char *path_name(const char *path) {
    const char *name = path;
    for (; *path; path++) if (is_separator(*path)) name = path + 1;
    return name;
}

bool is_name(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) if (!s[i] || is_separator(s[i])) return false;
    return n > 0;
}

// ---- mapped files -------------------------------------------------------------------------------

typedef struct Mapped { struct Mapped *next; const uint8_t *data; size_t size; char path[]; } Mapped;
static Mapped *mapped;

const char *map_path(const void *address) {
    const uintptr_t at = (uintptr_t)address;
    for (const Mapped *m = mapped; m; m = m->next)
        if (at >= (uintptr_t)m->data && at - (uintptr_t)m->data < m->size) return m->path;
    return NULL;
}

#ifdef _WIN32
static void *map_bytes(int fd, size_t size) {
    HANDLE h = CreateFileMappingW((HANDLE)_get_osfhandle(fd), NULL, PAGE_READONLY, 0, 0, NULL);
    void *p = h ? MapViewOfFile(h, FILE_MAP_READ, 0, 0, size) : NULL;
    if (!p) errno = ENOMEM;
    if (h) CloseHandle(h);                           // the view stays
    return p;
}
static void unmap_bytes(const void *p, size_t size) { (void)size, UnmapViewOfFile(p); }
#else
static void *map_bytes(int fd, size_t size) {
    void *p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}
static void unmap_bytes(const void *p, size_t size) { munmap((void *)p, size); }
#endif

// Maps a regular file of this size, not 0, and remembers its path.
static int map_regular(FileMap *m, int fd, const char *path, size_t size, Err *e) {
    Mapped *entry = malloc(sizeof *entry + strlen(path) + 1);
    if (!entry) return fail(e, "%s: out of memory", path);
    void *p = map_bytes(fd, size);
    if (!p) {
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
    Stat st;
    int fd = open_to_read(path), result = -1;
    if (fd < 0) {                                    // of a folder Windows says no more than "denied"
        const int why = errno;
        if (path_kind(path) == PATH_FOLDER) return fail(e, "%s: is a folder, not a file", path);
        return fail(e, "%s: cannot open: %s", path, strerror(why));
    }
    if (fstat(fd, &st)) {
        fail(e, "%s: %s", path, strerror(errno));
    } else if (kind(&st) == PATH_FOLDER) {
        fail(e, "%s: is a folder, not a file", path);
    } else if (kind(&st) != PATH_FILE) {
        fail(e, "%s: not a regular file, so it cannot be mapped", path);
    } else if ((uintmax_t)st.st_size > SIZE_MAX) {
        fail(e, "%s: %ju bytes are too large for this machine's addresses", path, (uintmax_t)st.st_size);
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
    if (m->data) unmap_bytes(m->data, m->size);
    *m = (FileMap){0};
}

// ---- how a program begins and ends --------------------------------------------------------------

#ifdef _WIN32
void keep_standard_files(void) {
    for (int fd = 0; fd < 3; fd++) {
        if (_get_osfhandle(fd) == -1 || _get_osfhandle(fd) == -2) {
            const int nul = _open("NUL", fd ? _O_RDONLY : _O_WRONLY);
            if (nul >= 0 && nul != fd) _dup2(nul, fd), _close(nul);
        }
        _setmode(fd, _O_BINARY);
    }
    SetConsoleOutputCP(CP_UTF8);
}

void utf8_arguments(int *argc, char ***argv) {
    int n;
    wchar_t **w = CommandLineToArgvW(GetCommandLineW(), &n);
    char **made = w ? calloc((size_t)n + 1, sizeof *made) : NULL;
    for (int i = 0; made && i < n; i++)
        if (!(made[i] = narrow(w[i], -1))) return;   // no memory: as they were
    if (made) *argc = n, *argv = made;
    LocalFree(w);
}

static void (*on_stop)(int);
static BOOL WINAPI console_event(DWORD event) {      // in a thread of its own; of Ctrl-C and closed windows
    on_stop(event == CTRL_C_EVENT ? SIGINT : SIGTERM);
    return TRUE;
}

void catch_signals(const char *program, void (*stop)(int), void (*unread)(int)) {
    (void)program, (void)unread;                     // a mapped file is not cut short, nor a pipe a signal
    on_stop = stop;
    SetConsoleCtrlHandler(console_event, TRUE);
    signal(SIGTERM, stop);
}

void end_unread(void) { _exit(1); }

#else

void keep_standard_files(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)            // open takes the lowest that is free
        if (fcntl(fd, F_GETFD) == -1 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
            return;
}

void utf8_arguments(int *argc, char ***argv) { (void)argc, (void)argv; }

#ifdef __wasi__
void catch_signals(const char *program, void (*stop)(int), void (*unread)(int)) {
    (void)program, (void)stop, (void)unread;         // there are none
}
void end_unread(void) { _exit(1); }
#else
static const char *program_name;

// A page of a mapped file cannot be read: others have cut the file short, or its disk fails. All that a
// handler can do is to say so and end; other bus errors take their usual course.
static void on_bus(int signal_number, siginfo_t *info, void *context) {
    const char *path = map_path(info->si_addr);
    (void)context;
    if (!path) { signal(signal_number, SIG_DFL); return; }
    const char *const says[] = {program_name, ": ", path, ": cannot be read any more: was it cut short?\n"};
    for (int i = 0; i < 4; i++) if (write(STDERR_FILENO, says[i], strlen(says[i])) < 0) break;
    out_remove_part();
    _exit(1);
}

void catch_signals(const char *program, void (*stop)(int), void (*unread)(int)) {
    struct sigaction end = {.sa_handler = stop}, pipe = {.sa_handler = unread ? unread : SIG_DFL}, hang_up;
    struct sigaction bus = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};
    program_name = program;
    sigaction(SIGINT, &end, NULL);
    sigaction(SIGTERM, &end, NULL);
    sigaction(SIGBUS, &bus, NULL);
    sigaction(SIGPIPE, &pipe, NULL);
    if (!sigaction(SIGHUP, NULL, &hang_up) && hang_up.sa_handler != SIG_IGN) sigaction(SIGHUP, &end, NULL);
    signal(SIGXFSZ, SIG_IGN);                        // a limit is a failed write like any other
}

void end_unread(void) {
    signal(SIGPIPE, SIG_DFL);
    raise(SIGPIPE);
}
#endif
#endif

// ---- text ---------------------------------------------------------------------------------------

#ifdef _WIN32
int text_open(TextFile *t) {                             // a file that goes when it is closed
    wchar_t folder[MAX_PATH + 1], path[MAX_PATH + 1];
    *t = (TextFile){0};
    if (GetTempPathW(MAX_PATH, folder) && GetTempFileNameW(folder, L"llm", 0, path))
        t->f = _wfopen(path, L"w+bD");
    return t->f ? 0 : -1;
}

char *text_close(TextFile *t) {
    const int64_t size = t->f ? ftello64(t->f) : -1;
    bool whole = size >= 0 && !ferror(t->f) && !fflush(t->f) && !fseeko64(t->f, 0, SEEK_SET) &&
                 (t->s = malloc((size_t)size + 1)) && fread(t->s, 1, (size_t)size, t->f) == (size_t)size;
    if (t->f) fclose(t->f);
    if (whole) t->s[t->n = (size_t)size] = 0;
    else free(t->s), t->s = NULL;
    t->f = NULL;
    return t->s;
}

// A console is read in UTF-16, for in UTF-8 older ones give zeros.
static int console_line(char **line) {
    HANDLE h = GetStdHandle(STD_INPUT_HANDLE);
    wchar_t w[8192];
    DWORD mode, n;
    if (!GetConsoleMode(h, &mode)) return -1;
    *line = ReadConsoleW(h, w, 8192, &n, NULL) && n && w[0] != 26 ? narrow(w, (int)n) : NULL;   // 26: Ctrl-Z
    return 0;
}

char *input_line(FILE *f) {
    size_t n = 0, room = 256;
    char *line = NULL;
    if (f != stdin || console_line(&line)) {
        line = malloc(room);
        for (int c; line && (c = fgetc(f)) != EOF;) {
            if (n + 1 == room) {
                char *more = realloc(line, room *= 2);
                if (!more) { free(line); return NULL; }
                line = more;
            }
            if (c) line[n++] = (char)c;                  // a line of text has no NUL
            if (c == '\n') break;
        }
        if (line && n == 0) { free(line); return NULL; }
        if (line) line[n] = 0;
    }
    if (line) line[strcspn(line, "\r\n")] = 0;
    return line;
}

char *strndup(const char *s, size_t n) {
    const size_t size = strnlen(s, n);
    char *copy = malloc(size + 1);
    if (!copy) return NULL;
    copy[size] = 0;
    return memcpy(copy, s, size);
}
#else
int text_open(TextFile *t) {
    *t = (TextFile){0};
    return (t->f = open_memstream(&t->s, &t->n)) ? 0 : -1;
}

char *text_close(TextFile *t) {
    const bool broken = !t->f || ferror(t->f);
    if ((t->f && fclose(t->f)) || broken) free(t->s), t->s = NULL;
    t->f = NULL;
    return t->s;
}

char *input_line(FILE *f) {
    char *line = NULL;
    size_t room = 0;
    const ssize_t n = getline(&line, &room, f);
    ssize_t kept = 0;
    if (n < 0) { free(line); return NULL; }
    for (ssize_t i = 0; i < n; i++) if (line[i]) line[kept++] = line[i];     // a line of text has no NUL
    if (kept && line[kept - 1] == '\n') kept--;
    if (kept && line[kept - 1] == '\r') kept--;
    line[kept] = 0;
    return line;
}
#endif

// ---- memory, clock, processors ------------------------------------------------------------------

#ifdef _WIN32
// What free() takes: Windows has aligned memory only with a free function of its own.
void *aligned_memory(size_t size) { return malloc(size); }
void *aligned_alloc(size_t alignment, size_t size) { (void)alignment; return malloc(size); }

double seconds(void) {
    LARGE_INTEGER now, unit;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&unit);
    return (double)now.QuadPart / (double)unit.QuadPart;
}

size_t peak_memory(void) {
    PROCESS_MEMORY_COUNTERS use = {0};
    return K32GetProcessMemoryInfo(GetCurrentProcess(), &use, sizeof use) ? use.PeakWorkingSetSize : 0;
}

double machine_memory(void) {
    MEMORYSTATUSEX all = {.dwLength = sizeof all};
    return GlobalMemoryStatusEx(&all) ? (double)all.ullTotalPhys : 0;
}

int processors(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return (int)info.dwNumberOfProcessors;
}
#else
// Large pages where the system has them: fresh memory costs a fault a page.
void *aligned_memory(size_t size) {
    enum { LARGE = 2 << 20 };
    void *p = NULL;
    if (posix_memalign(&p, size < 2 * LARGE ? 64 : LARGE, size)) return NULL;
#if defined(MADV_HUGEPAGE) && !defined(__wasi__)
    if (size >= 2 * LARGE) madvise(p, size / LARGE * LARGE, MADV_HUGEPAGE);
#endif
    return p;
}

double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#ifdef __wasi__
size_t peak_memory(void) { return __builtin_wasm_memory_size(0) * 65536; }     // it only grows
double machine_memory(void) { return 0; }
int processors(void) { return 1; }
#else
size_t peak_memory(void) {
    struct rusage use;
    if (getrusage(RUSAGE_SELF, &use)) return 0;
#ifdef __APPLE__
    return (size_t)use.ru_maxrss;                    // bytes there, kilobytes elsewhere
#else
    return (size_t)use.ru_maxrss * 1024;
#endif
}

double machine_memory(void) { return (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE); }
int processors(void) { return (int)sysconf(_SC_NPROCESSORS_ONLN); }
#endif
#endif

#ifdef THREADS
// The kernels' panels stand on the stack, which is 128 KB where nothing is said with musl.
enum { STACK = 1 << 20 };

bool start_thread(void *(*fn)(void *), void *arg) {
    pthread_attr_t attr;
    pthread_t t;
    if (pthread_attr_init(&attr)) return false;
    pthread_attr_setstacksize(&attr, STACK);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
#ifndef _WIN32
    sigset_t all, old;                               // signals are for the main thread
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
#endif
    const bool started = pthread_create(&t, &attr, fn, arg) == 0;
#ifndef _WIN32
    pthread_sigmask(SIG_SETMASK, &old, NULL);
#endif
    pthread_attr_destroy(&attr);
    return started;
}
#endif
