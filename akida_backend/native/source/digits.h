// SPDX-License-Identifier: Apache-2.0
// Sums of more than 8 bits, between the halves of a separable layer of Akida 1.0, as bytes.
#ifndef AKIDA_BACKEND_DIGITS_H
#define AKIDA_BACKEND_DIGITS_H

#include <cstdint>
#include <vector>

#include "program.h"

namespace akida_backend {

// Digits of base ``2**bits`` of sums less their channel's `lowest`.
struct Digits {
  std::vector<int64_t> lowest;  // per channel
  int64_t span;                 // largest sum less `lowest`
  int32_t count, bits;
  int64_t usual;   // second digit of most sums, where only others are listed
  int64_t listed;  // numbers in a pixel's longest list; 0: all digits are multiplied
};

// For sums within the limits of their channels, times weights of so many bits.
Digits choose_digits(const std::vector<Limits>& sums, int weights_bits, int32_t lanes);

}  // namespace akida_backend

#endif
