// SPDX-License-Identifier: Apache-2.0
// The function table of one kernel library.
#ifndef AKIDA_BACKEND_TABLE_H
#define AKIDA_BACKEND_TABLE_H

#include "convolution.h"
#include "depthwise.h"
#include "elementwise.h"
#include "host_values.h"

#if defined(__GNUC__)
#define AKIDA_BACKEND_EXPORT extern "C" __attribute__((visibility("default")))
#else
#define AKIDA_BACKEND_EXPORT extern "C"
#endif

// `Pairs` computes what `quad_limit` forbids `Quads`; `Narrow` is for Convolution::narrow.
#define AKIDA_BACKEND_KERNELS(name, Quads, Pairs, Narrow, quad_limit)                             \
  AKIDA_BACKEND_EXPORT const akida_backend::KernelTable* akida_backend_kernel_table() {           \
    static constexpr akida_backend::KernelTable table = {                                         \
        kernel_table_version, name, Quads::lanes, quad_limit,                                     \
        convolution<Quads, Pairs, Narrow>, depthwise<Quads, Pairs>, finish<Quads>, max_pool,      \
        add<Quads>, copy, encode, decode, quantize, dequantize};                                  \
    return &table;                                                                                \
  }

#endif
