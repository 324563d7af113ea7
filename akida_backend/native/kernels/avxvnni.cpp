// SPDX-License-Identifier: Apache-2.0
#define AKIDA_BACKEND_VNNI256
#include "vector_avx2.h"

#include "table.h"

AKIDA_BACKEND_KERNELS("avxvnni", Quads256, Quads256, Quads256, INT32_MAX)
