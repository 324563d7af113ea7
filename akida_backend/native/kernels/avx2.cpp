// SPDX-License-Identifier: Apache-2.0
#include "vector_avx2.h"

#include "table.h"

AKIDA_BACKEND_KERNELS("avx2", Quads256, Pairs256, Narrow256, 32767)
