// SPDX-License-Identifier: Apache-2.0
#include "constants.h"

#include <algorithm>

namespace akida_backend {
namespace {

constexpr int64_t int32_low = INT32_MIN, int32_high = INT32_MAX;
// A factor from here on saturates every value but 0, in 8 bits and in the 11 of a table's index.
constexpr int64_t saturating = 4096;
constexpr int split_bits = 8;

int64_t divided_up(int64_t value, int64_t by) {
  return value > 0 ? (value + by - 1) / by : -(-value / by);
}

}  // namespace

ChannelRescale::ChannelRescale(int multiplier, int shift, Limits values, Limits codes, int offset)
    : multiplier_(multiplier), right_(std::max(-shift, 0)), values_(values), codes_(codes),
      offset_(offset) {
  if (shift > 0) {
    multiplier_ = std::min(multiplier_ << std::min(shift, 20), saturating);
  }
  for (; right_ > 0 && multiplier_ % 2 == 0 && multiplier_ > 0; right_--) multiplier_ /= 2;
  const int64_t peak = std::max(-values.low, values.high);
  if (right_ > 0 && peak * multiplier_ < int64_t{1} << (right_ - 1)) multiplier_ = 0;
  if (multiplier_ == 0) right_ = 0;
}

// The values beyond which the result is saturated.
Limits ChannelRescale::clamped() const {
  if (multiplier_ == 0) return {int32_low, int32_high};
  const int64_t one = int64_t{1} << right_, half = one >> 1;
  const int64_t high = divided_up(codes_.high * one - half, multiplier_);
  const int64_t low = divided_up((codes_.low + 1) * one - half, multiplier_) - 1;
  return {std::clamp(low, int32_low, int32_high), std::clamp(high, int32_low, int32_high)};
}

bool ChannelRescale::fits(Limits values) const {
  if (right_ > 31) return false;
  const int64_t one = int64_t{1} << right_;
  const int64_t addend = (one >> 1) + offset_ * one;
  return addend <= int32_high && values.low * multiplier_ + addend >= int32_low &&
         values.high * multiplier_ + addend <= int32_high;
}

Rescaling ChannelRescale::cheapest() const {
  if (fits(values_)) return Rescaling::direct;
  const Limits limits = clamped();
  return fits({std::clamp(values_.low, limits.low, limits.high),
               std::clamp(values_.high, limits.low, limits.high)})
             ? Rescaling::clamped
             : Rescaling::split;
}

Constants ChannelRescale::constants(Rescaling kind) const {
  const Limits limits = clamped();
  const auto low = static_cast<int32_t>(limits.low), high = static_cast<int32_t>(limits.high);
  if (kind != Rescaling::split) {
    const int64_t one = int64_t{1} << right_;
    return {static_cast<int32_t>(multiplier_),
            static_cast<int32_t>((one >> 1) + offset_ * one), right_, low, high};
  }
  // With x = 256 * u + l, floor(x * m / 256) = u * m + floor(l * m / 256), and what is added and
  // shifted away afterwards is a multiple of 256. One bit more leaves a half to add.
  const int right = std::max(right_, split_bits + 1);
  return {static_cast<int32_t>(multiplier_ << (right - right_)),
          int32_t{1} << (right - split_bits - 1), right - split_bits, low, high};
}

}  // namespace akida_backend
