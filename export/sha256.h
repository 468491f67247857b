// sha256: the hash of FIPS 180-4, to say in an exported file what it was made from.
#ifndef SHA256_H
#define SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct { uint32_t h[8]; uint64_t size; uint8_t held[64]; } Sha256;
void sha256_init(Sha256 *s);
void sha256_add(Sha256 *s, const void *data, size_t n);    // any n, any number of times
void sha256_hex(Sha256 *s, char hex[65]);                  // ends it; lower case, NUL-terminated

#endif
