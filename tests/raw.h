// GGUF files byte by byte, for those that no builder would make.
#ifndef RAW_H
#define RAW_H

#include <string.h>

#include "../core/gguf.h"

typedef struct { uint8_t bytes[1024]; size_t n; } Raw;
static inline void raw(Raw *r, const void *p, size_t n) { memcpy(r->bytes + r->n, p, n), r->n += n; }
static inline void raw_u32(Raw *r, uint32_t v) { raw(r, &v, sizeof v); }
static inline void raw_u64(Raw *r, uint64_t v) { raw(r, &v, sizeof v); }
static inline void raw_str(Raw *r, const char *s, size_t n) { raw_u64(r, n), raw(r, s, n); }
static inline Raw raw_head(uint32_t version, uint64_t n_tensors, uint64_t n_kv) {
    Raw r = {.n = 0};
    raw(&r, "GGUF", 4), raw_u32(&r, version), raw_u64(&r, n_tensors), raw_u64(&r, n_kv);
    return r;
}
static inline void raw_tensor(Raw *r, const char *name, uint32_t type, uint64_t offset, uint64_t ne0,
                       uint64_t ne1) {
    raw_str(r, name, strlen(name)), raw_u32(r, 2), raw_u64(r, ne0), raw_u64(r, ne1);
    raw_u32(r, type), raw_u64(r, offset);
}
static inline void raw_data(Raw *r, size_t n) {
    while (r->n % 32) r->bytes[r->n++] = 0;
    memset(r->bytes + r->n, 1, n), r->n += n;
}

#endif
