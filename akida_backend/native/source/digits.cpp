// SPDX-License-Identifier: Apache-2.0
#include "digits.h"

#include <algorithm>

namespace akida_backend {
namespace {

// Channels from which lists are faster.
constexpr int64_t fewest_listed = 128;
// Second digits are listed where the longest list has no more than so many numbers per channel, and
// so few in all that sums of their weights fit 16 bits.
constexpr int64_t most_listed = 2, longest_list = 2048;
constexpr int listed_weights_bits = 4;

// So few bits that weights times the base still fit 8 bits, where two digits suffice; or else 8 and
// planes of weights. Kernels store two digits of at most 15 bits.
Digits all_digits(const std::vector<Limits>& sums, int weights_bits) {
  Digits digits{};
  for (const Limits& sum : sums) {
    digits.lowest.push_back(sum.low);
    digits.span = std::max(digits.span, sum.high - sum.low);
  }
  const int few = 8 - weights_bits;
  digits.bits = 8;
  if (digits.span <= UINT8_MAX) {
    digits.count = 1;
  } else if (digits.span >> few <= UINT8_MAX) {
    digits.count = 2;
    digits.bits = few;
  } else if (digits.span <= INT16_MAX) {
    digits.count = 2;
  } else {
    digits.count = digits.span >> 24 > 0 ? 4 : 3;  // four are all of 32 bits
  }
  return digits;
}

// A sum of products is seldom far from the middle: 256 values around it have a second digit of
// their own.
Digits listed_digits(const std::vector<Limits>& sums) {
  Digits digits{{}, 0, 2, 8, 0, 0};
  for (const Limits& sum : sums) {
    // The sum of no input is among them: many inputs are 0.
    digits.lowest.push_back(std::clamp<int64_t>((sum.low + sum.high) / 2 - 128, -255, 0));
    digits.usual = std::max(digits.usual, (digits.lowest.back() - sum.low + 255) / 256);
  }
  for (size_t c = 0; c < sums.size(); c++) {
    const int64_t lowest = digits.lowest[c] - 256 * digits.usual;
    const int64_t above = (sums[c].high - lowest) / 256 - digits.usual;
    const int64_t below = digits.usual - (sums[c].low - lowest) / 256;
    digits.listed += std::max({above, below, int64_t{0}});
    digits.lowest[c] = lowest;
    digits.span = std::max(digits.span, sums[c].high - lowest);
  }
  return digits;
}

}  // namespace

Digits choose_digits(const std::vector<Limits>& sums, int weights_bits, int32_t lanes) {
  Digits all = all_digits(sums, weights_bits);
  const auto channels = static_cast<int64_t>(sums.size());
  if (all.count != 2 || weights_bits > listed_weights_bits || channels < fewest_listed ||
      channels * lanes / 2 > UINT16_MAX) {
    return all;
  }
  Digits listed = listed_digits(sums);
  const bool rare = listed.listed <= std::min(most_listed * channels, longest_list);
  return rare && listed.span <= INT16_MAX ? listed : all;
}

}  // namespace akida_backend
