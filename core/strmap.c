// strmap: see strmap.h.
#include "strmap.h"

#include <stdlib.h>
#include <string.h>

uint64_t mix_bits(uint64_t h) {
    h = (h ^ h >> 32) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

size_t table_size(size_t n) {
    size_t size = 16;
    while (size < n + n / 2) size *= 2;
    return size;
}

int strmap_new(StrMap *m, const Str *text, size_t n, const char *what, Err *e) {
    size_t size = table_size(n);
    *m = (StrMap){text, alloc(size, sizeof *m->slot, what, e), size - 1};
    if (!m->slot) return -1;
    memset(m->slot, -1, size * sizeof *m->slot);
    return 0;
}

void strmap_free(StrMap *m) {
    free(m->slot);
    *m = (StrMap){0};
}

// The slot that holds s, or the free one where it would stand.
static int *find(const StrMap *m, const char *s, size_t n) {
    uint64_t h = 14695981039346656037u;                    // FNV-1a
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 1099511628211u;
    for (size_t i = mix_bits(h); ; i++) {
        int *slot = &m->slot[i & m->mask];
        if (*slot < 0) return slot;
        Str t = m->text[*slot];
        if (t.n == n && !memcmp(t.s, s, n)) return slot;
    }
}

int strmap_add(StrMap *m, int i) {
    int *slot = find(m, m->text[i].s, m->text[i].n);
    if (*slot < 0) *slot = i;
    return *slot;
}

int strmap_find(const StrMap *m, const char *s, size_t n) { return *find(m, s, n); }
