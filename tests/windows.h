// What the tests call that Windows does not have, or has under another name. Only for the tests: the
// programs ask core/os.c.
#ifndef WINDOWS_H
#define WINDOWS_H

#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <io.h>
#include <direct.h>
#include <stdlib.h>
#include <string.h>

#undef near                        // words of 16-bit times
#undef far
#define mkdir(path, mode) ((void)(mode), _mkdir(path))

static inline int setenv(const char *name, const char *value, int replace) {
    (void)replace;
    return _putenv_s(name, value);
}
static inline int unsetenv(const char *name) { return _putenv_s(name, ""); }

static inline char *mkdtemp(char *path) {
    return _mktemp(path) && !_mkdir(path) ? path : NULL;
}

static inline char *strsep(char **at, const char *ends) {
    char *begin = *at, *end = begin ? begin + strcspn(begin, ends) : NULL;
    *at = end && *end ? *end = 0, end + 1 : NULL;
    return begin;
}

// Memory with a page that faults.
enum { PROT_NONE, PROT_READ, PROT_WRITE, MAP_PRIVATE = 0, MAP_ANONYMOUS = 0, _SC_PAGESIZE };
#define MAP_FAILED NULL
static inline long sysconf(int name) { (void)name; return 4096; }
static inline void *mmap(void *at, size_t size, int rights, int how, int fd, int offset) {
    (void)rights, (void)how, (void)fd, (void)offset;
    return VirtualAlloc(at, size, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}
static inline int mprotect(void *at, size_t size, int rights) {
    DWORD before;
    (void)rights;
    return VirtualProtect(at, size, PAGE_NOACCESS, &before) ? 0 : -1;
}
static inline int munmap(void *at, size_t size) { (void)size; return VirtualFree(at, 0, MEM_RELEASE) ? 0 : -1; }

#endif
