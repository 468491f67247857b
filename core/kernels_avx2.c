// kernels_avx2: the variant for x86-64 with AVX2, FMA and F16C. Empty elsewhere.
#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define ISA_AVX2
#include "kernels_template.h"

const Kernels kernels_avx2 = VARIANT("avx2");

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
