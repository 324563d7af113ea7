// SPDX-License-Identifier: Apache-2.0
#include "simplify.h"

#include <algorithm>

namespace akida_backend {
namespace {

template <class T>
Array<T> stored(Simplified& simplified, const std::vector<T>& values) {
  if (values.empty()) return {};
  const size_t bytes = values.size() * sizeof(T);
  auto& memory = simplified.memory.emplace_back(new uint8_t[bytes]);
  std::memcpy(memory.get(), values.data(), bytes);
  return {memory.get(), values.size()};
}

// Whether the second half of every `channels` values repeats the first, times `sign`.
template <class T>
bool repeats(const Array<T>& values, size_t channels, int sign) {
  const size_t half = channels / 2;
  for (size_t first = 0; first < values.size(); first += channels) {
    for (size_t c = 0; c < half; c++) {
      if (sign * values[first + c] != values[first + half + c]) return false;
    }
  }
  return true;
}

template <class T>
std::vector<T> first_halves(const Array<T>& values, size_t channels) {
  std::vector<T> kept;
  for (size_t i = 0; i < values.size(); i++) {
    if (i % channels < channels / 2) kept.push_back(values[i]);
  }
  return kept;
}

void join_parts(Simplified& simplified) {
  Program& program = simplified.program;
  Tensor& input = program.tensors.front();
  if (input.parts != 2) return;
  const auto channels = static_cast<size_t>(input.shape.channels);
  const auto joins = [&](int sign) {
    for (const Layer& layer : program.layers) {
      if (layer.inputs[0] != 0 && layer.inputs[1] != 0) continue;
      if (layer.kind != Kind::convolution && layer.kind != Kind::dense) return false;
      if (!repeats(layer.weights, channels, sign) || !repeats(layer.input_shift, channels, 1)) {
        return false;
      }
    }
    return true;
  };
  const int sign = joins(1) ? 1 : -1;
  if (sign < 0 && !joins(-1)) return;
  std::vector<int16_t> sums;
  const size_t half = program.recode.size() / 2;  // one table, or those of half the channels
  for (size_t i = 0; i < half; i++) {
    sums.push_back(static_cast<int16_t>(program.recode[i] + sign * program.recode[half + i]));
  }
  const auto [low, high] = std::minmax_element(sums.begin(), sums.end());
  if (std::max<int>(*high, 0) - std::min<int>(*low, 0) > 255) return;
  program.recode = stored(simplified, sums);
  input.parts = 1;
  input.shape.channels /= 2;
  for (Layer& layer : program.layers) {
    if (layer.inputs[0] != 0) continue;
    layer.kernel_channels /= 2;
    layer.weights = stored(simplified, first_halves(layer.weights, channels));
    layer.input_shift = stored(simplified, first_halves(layer.input_shift, channels));
  }
}

void separate_channels(Simplified& simplified, Layer& layer) {
  const int64_t channels = layer.kernel_channels;
  // Depthwise kernels leave accumulators that nothing follows in an order of their own.
  const bool bare = layer.generation == 1 && layer.output_bits == 32;
  if (layer.kind != Kind::convolution || layer.filters != channels || bare ||
      !layer.input_shift.empty()) {
    return;
  }
  const int64_t taps = layer.kernel.height * layer.kernel.width;
  std::vector<int8_t> own(static_cast<size_t>(taps * channels));
  size_t next = 0;
  for (int64_t filter = 0; filter < channels; filter++) {
    for (int64_t tap = 0; tap < taps; tap++) {
      for (int64_t c = 0; c < channels; c++) {
        const int8_t weight = layer.weights[next++];
        if (c == filter) {
          own[static_cast<size_t>(tap * channels + c)] = weight;
        } else if (weight != 0) {
          return;
        }
      }
    }
  }
  layer.kind = Kind::depthwise;
  layer.filters = 1;
  layer.weights = stored(simplified, own);
}

}  // namespace

Simplified simplify(const Program& program) {
  Simplified simplified{program, {}};
  join_parts(simplified);
  for (Layer& layer : simplified.program.layers) separate_channels(simplified, layer);
  return simplified;
}

}  // namespace akida_backend
