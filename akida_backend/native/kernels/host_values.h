// SPDX-License-Identifier: Apache-2.0
// Reals to codes and back as the source's runtime rounds them: plain loops, vectorised per set.
#ifndef AKIDA_BACKEND_HOST_VALUES_H
#define AKIDA_BACKEND_HOST_VALUES_H

#include "rescaling.h"

namespace {

// Beyond this many steps every code saturates, and up to it float32 has all integers and halves.
constexpr float most_steps = 1 << 20;

template <class T>
void quantize_values(const HostCodes& codes, const float* __restrict from, T* __restrict to,
                     int64_t count) {
  const float scale = codes.scale;
  const int32_t zero_point = codes.zero_point, low = codes.low, high = codes.high;
  const auto steps = [scale](float value) {
    float ratio = value / scale;
    ratio = ratio == ratio ? ratio : 0.0f;
    ratio = ratio < -most_steps ? -most_steps : ratio;
    return ratio > most_steps ? most_steps : ratio;
  };
  const auto stored = [=](int32_t whole) {
    return static_cast<T>(smaller(larger(whole + zero_point, low), high));
  };
  if (codes.ties_to_even) {
    constexpr float integers_only = 12582912.0f;  // 1.5 * 2**23: no fraction, rounds when added
    for (int64_t i = 0; i < count; i++) {
      const float rounded = (steps(from[i]) + integers_only) - integers_only;
      to[i] = stored(static_cast<int32_t>(rounded));
    }
    return;
  }
  for (int64_t i = 0; i < count; i++) {
    const float ratio = steps(from[i]);
    const auto whole = static_cast<int32_t>(ratio);
    const float rest = ratio - static_cast<float>(whole);
    const int32_t up = rest >= 0.5f ? 1 : 0, down = rest <= -0.5f ? 1 : 0;
    to[i] = stored(whole + up - down);
  }
}

void quantize(const HostCodes* codes, const float* from, void* to, int64_t count) {
  switch (codes->bytes) {
    case 1:
      return codes->low < 0 ? quantize_values(*codes, from, static_cast<int8_t*>(to), count)
                            : quantize_values(*codes, from, static_cast<uint8_t*>(to), count);
    default:
      return quantize_values(*codes, from, static_cast<int16_t*>(to), count);
  }
}

// Product and sum are exact before the one rounding: 24 bits times 17.
template <class T>
void dequantize_values(const HostCodes& codes, const T* __restrict from, float* __restrict to,
                       int64_t count) {
  const float scale = codes.scale;
  const int32_t zero_point = codes.zero_point;
  for (int64_t i = 0; i < count; i++) {
    to[i] = scale * static_cast<float>(int32_t{from[i]} - zero_point);
  }
}

// The product rounds in float64 first, as in the runtime.
void dequantize_wide(const HostCodes& codes, const int32_t* __restrict from, float* __restrict to,
                     int64_t count) {
  const double scale = codes.scale, zero_point = codes.zero_point;
  for (int64_t i = 0; i < count; i++) {
    to[i] = static_cast<float>(scale * (static_cast<double>(from[i]) - zero_point));
  }
}

void dequantize(const HostCodes* codes, const void* from, float* to, int64_t count) {
  switch (codes->bytes) {
    case 1:
      return codes->low < 0
                 ? dequantize_values(*codes, static_cast<const int8_t*>(from), to, count)
                 : dequantize_values(*codes, static_cast<const uint8_t*>(from), to, count);
    case 2:
      return dequantize_values(*codes, static_cast<const int16_t*>(from), to, count);
    default:
      return dequantize_wide(*codes, static_cast<const int32_t*>(from), to, count);
  }
}

}  // namespace

#endif
