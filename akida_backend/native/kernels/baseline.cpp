// SPDX-License-Identifier: Apache-2.0
// For every processor the compiler builds for; part of the main library.
#if defined(__SSE2__) && !defined(AKIDA_BACKEND_PORTABLE)
#include "vector_sse2.h"
using Lanes = Pairs128;
#else
#include "vector_portable.h"
using Lanes = PortablePairs;
#endif

#include "table.h"

AKIDA_BACKEND_KERNELS("baseline", Lanes, Lanes, Lanes, 0)
