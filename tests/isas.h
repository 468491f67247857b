// Every instruction set there are kernels for; the block runs with each that this machine has.
#ifndef ISAS_H
#define ISAS_H

#include "../core/kernels.h"
#include "test.h"

static const char *const isas[] = {"generic", "avx2", "avx512", "neon", "neondot"};
#define FOR_EACH_ISA(i) \
    for (int i = 0; i < COUNT(isas); i++) if (kernels_select(isas[i]) == 0)

#endif
