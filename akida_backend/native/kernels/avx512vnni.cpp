// SPDX-License-Identifier: Apache-2.0
#include "vector_avx512.h"

#include "table.h"

AKIDA_BACKEND_KERNELS("avx512vnni", Quads512, Quads512, Quads512, INT32_MAX)
