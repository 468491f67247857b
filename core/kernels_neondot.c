// kernels_neondot: the variant for 64-bit ARM with the dot product instruction. Empty elsewhere.
#if defined(__aarch64__)

#define ISA_NEON
#define ISA_DOT
#include "kernels_template.h"

const Kernels kernels_neondot = VARIANT("neondot");

#endif
