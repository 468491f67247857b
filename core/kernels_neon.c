// kernels_neon: the variant for every 64-bit ARM. Empty elsewhere.
#if defined(__aarch64__)

#define ISA_NEON
#include "kernels_template.h"

const Kernels kernels_neon = VARIANT("neon");

#endif
