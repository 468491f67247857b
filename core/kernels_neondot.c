// kernels_neondot: the variant for 64-bit ARM with the dot product instruction. Empty elsewhere.
#if defined(__aarch64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

#define ISA_NEON
#define ISA_DOT
#include "kernels_template.h"

const Kernels kernels_neondot = VARIANT("neondot");

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
