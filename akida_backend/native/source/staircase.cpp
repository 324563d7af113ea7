// SPDX-License-Identifier: Apache-2.0
#include "staircase.h"

#include <algorithm>
#include <limits>

namespace akida_backend {
namespace {

// Levels from 0 to 15 and some room on both sides, times 2**27, fit 32 bits.
constexpr int most_shift = 27;
constexpr int split_bits = 8;

// Before the addend, as kernels compute it.
int64_t product(int64_t value, int64_t multiplier, bool split) {
  return split ? value * multiplier >> split_bits : value * multiplier;
}

}  // namespace

Staircase::Staircase(int64_t threshold, int64_t step, int step_shift, int bits, Limits values)
    : slope_up_(int64_t{1} << step_shift), slope_down_(step), values_(values) {
  for (int64_t steps = 0; steps < (int64_t{1} << bits) - 1; steps++) {
    bounds_.push_back(threshold + (steps * step >> step_shift));
  }
}

// What makes ``(product + addend) >> shift`` reach each level where it should, for `values`.
std::optional<int64_t> Staircase::addend(int64_t multiplier, bool split, int shift,
                                         Limits values) const {
  constexpr int64_t none = std::numeric_limits<int64_t>::max();
  int64_t low = -none, high = none;
  for (size_t i = 0; i < bounds_.size(); i++) {
    const int64_t wanted = static_cast<int64_t>(i + 1) << shift;
    const int64_t below = std::min(bounds_[i], values.high);
    const int64_t above = std::max(bounds_[i] + 1, values.low);
    if (below >= values.low) high = std::min(high, wanted - product(below, multiplier, split) - 1);
    if (above <= values.high) low = std::max(low, wanted - product(above, multiplier, split));
  }
  const int64_t chosen = low == -none ? high : low;
  if (low > high || product(values.low, multiplier, split) + chosen < INT32_MIN ||
      product(values.high, multiplier, split) + chosen > INT32_MAX) {
    return std::nullopt;
  }
  return chosen;
}

std::optional<Constants> Staircase::constants(Rescaling kind) const {
  const bool split = kind == Rescaling::split;
  const Limits clamped{std::clamp(bounds_.front(), values_.low, values_.high),
                       std::clamp(bounds_.back() + 1, values_.low, values_.high)};
  const Limits& values = kind == Rescaling::direct ? values_ : clamped;
  const int64_t most = INT32_MAX >> (split ? split_bits : 0);
  for (int shift = most_shift; shift >= 0; shift--) {
    const int whole = shift + (split ? split_bits : 0);
    // All levels within one potential are the steepest there is.
    const int64_t steepest = static_cast<int64_t>(bounds_.size()) << whole;
    const int64_t multiplier = std::min((slope_up_ << whole) / slope_down_, steepest);
    for (const int64_t tried : {multiplier, multiplier + 1, int64_t{0}}) {
      if (tried > most) continue;
      const auto found = addend(tried, split, shift, values);
      // Sums and products are modulo 2**32, what is shifted is not.
      if (found) {
        return Constants{static_cast<int32_t>(tried), static_cast<int32_t>(*found), shift,
                         static_cast<int32_t>(clamped.low), static_cast<int32_t>(clamped.high)};
      }
    }
  }
  return std::nullopt;
}

std::vector<int32_t> Staircase::bounds() const {
  std::vector<int32_t> bounds;
  for (const int64_t bound : bounds_) {
    // A potential is never INT32_MIN, and never above INT32_MAX.
    bounds.push_back(static_cast<int32_t>(std::clamp<int64_t>(bound, INT32_MIN, INT32_MAX)));
  }
  return bounds;
}

}  // namespace akida_backend
