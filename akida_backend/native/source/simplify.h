// SPDX-License-Identifier: Apache-2.0
// Forms of a program that compute the same integers with less work.
#ifndef AKIDA_BACKEND_SIMPLIFY_H
#define AKIDA_BACKEND_SIMPLIFY_H

#include <memory>
#include <vector>

#include "program.h"

namespace akida_backend {

struct Simplified {
  Program program;
  std::vector<std::unique_ptr<uint8_t[]>> memory;  // of arrays that are not the program's own
};

// Two parts of an input that every reader multiplies by the same weights become their sum, by
// weights of opposite sign their difference: its recode may leave the limits of the tensor's bits
// but spans at most 255. A convolution whose
// filters read one channel each, their own, becomes a depthwise one.
Simplified simplify(const Program& program);

}  // namespace akida_backend

#endif
