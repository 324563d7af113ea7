// SPDX-License-Identifier: Apache-2.0
// Bounds of every value a program can compute; what kernels may rely on.
#ifndef AKIDA_BACKEND_PROOF_H
#define AKIDA_BACKEND_PROOF_H

#include <vector>

#include "program.h"

namespace akida_backend {

struct Bounds {
  std::vector<int64_t> accumulator;  // largest magnitude per filter; one for Add; none of Akida 1.0
  std::vector<int64_t> low, high;    // in front of rescale or threshold, per filter
};

struct Proof {
  std::vector<Bounds> layers;   // empty for Concatenate
  std::vector<Limits> tensors;  // smallest and largest code
};

// ``clip(floor(value * multiplier * 2**shift + 1/2))``; |value| < 2**53.
int64_t rescale(int64_t value, int multiplier, int shift, Limits limits);

// What the depthwise half of a separable layer can give per channel, for inputs from 0 on.
std::vector<Limits> depthwise_sums(const Layer& layer, int64_t highest_input);

// Throws Failure where a buffer of the device is not proven to hold its worst case: the rules of
// akida_backend.program_check.overflow and output_limits.
Proof prove(const Program& program);

}  // namespace akida_backend

#endif
