// kernels_avx512: the variant for x86-64 with AVX-512 F, BW, VL, DQ and VNNI. Empty elsewhere.
#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
#endif

#define ISA_AVX512
#include "kernels_template.h"

const Kernels kernels_avx512 = VARIANT("avx512");

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
