// kernels_generic: the variant for every machine, plain C on vectors of four floats.
#include "kernels_template.h"

const Kernels kernels_generic = VARIANT("generic");
