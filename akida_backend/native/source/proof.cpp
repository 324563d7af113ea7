// SPDX-License-Identifier: Apache-2.0
#include "proof.h"

#include <algorithm>
#include <cmath>

namespace akida_backend {
namespace {

constexpr int input_accumulator_bits = 32, inner_accumulator_bits = 28, final_bits = 32;
constexpr int potential_bits = 32, summed_potential_bits = 20;
constexpr int64_t beyond = int64_t{1} << 31;  // every buffer

int64_t largest(int bits) { return (int64_t{1} << (bits - 1)) - 1; }

int64_t peak(Limits limits) { return std::max(-limits.low, limits.high); }

std::vector<int64_t> worst_accumulators(const Layer& layer, Limits a, Limits b) {
  if (layer.kind == Kind::add) {
    return {(peak(a) << layer.a_shift) + (peak(b) << layer.b_shift)};
  }
  const size_t filters = layer.bias.size();
  std::vector<int64_t> worst(filters);
  size_t next = 0;
  if (layer.is_depthwise()) {
    while (next < layer.weights.size()) {
      for (int64_t& sum : worst) sum += std::abs(int64_t{layer.weights[next++]});
    }
  } else {
    const auto channels = static_cast<size_t>(layer.kernel_channels);
    const size_t taps = layer.weights.size() / filters / channels;
    for (int64_t& sum : worst) {
      for (size_t tap = 0; tap < taps; tap++) {
        for (size_t c = 0; c < channels; c++) {
          const int by = layer.input_shift.empty() ? 0 : layer.input_shift[c];
          sum += std::min(std::abs(int64_t{layer.weights[next++]}) << by, beyond);
        }
      }
    }
  }
  for (size_t f = 0; f < filters; f++) {
    // Cut off where no buffer holds it anyway, so that products fit 64 bits.
    worst[f] = std::min(worst[f], beyond) * peak(a) +
               (std::abs(int64_t{layer.bias[f]}) << layer.bias_shift[f]);
  }
  return worst;
}

int64_t activate(const Layer& layer, size_t filter, int64_t value) {
  if (!layer.has_relu()) return value;
  value = std::max<int64_t>(value, 0);
  if (layer.activation == Activation::relu) return value;
  return std::min(value, int64_t{layer.bound[filter]} << layer.bound_shift[filter]);
}

// Of at most 32 bits, behind a rescale and before it saturates; a double holds it exactly.
double rescaled_magnitude(int64_t magnitude, int multiplier, int shift) {
  return std::floor(std::ldexp(static_cast<double>(magnitude) * multiplier, shift) + 0.5);
}

void bound(const std::string& where, const char* what, size_t filter, double value, int bits) {
  if (value <= static_cast<double>(largest(bits))) return;
  throw Failure("program bytes: " + where + ": " + what + " of filter " + std::to_string(filter) +
                " may be beyond " + std::to_string(bits) + " bits\n  Compile the model again.");
}

// Smallest and largest potential per filter at one position, for inputs from 0 on.
std::vector<Limits> potentials(const Layer& layer, int64_t highest_input) {
  std::vector<Limits> all(layer.output_channels());
  const bool separable = layer.kind == Kind::separable;
  std::vector<Limits> inputs(1, {0, highest_input});
  if (separable) inputs = depthwise_sums(layer, highest_input);
  const Array<int8_t>& weights = separable ? layer.pointwise : layer.weights;
  const size_t per_filter = weights.size() / all.size();
  for (size_t i = 0; i < weights.size(); i++) {
    const Limits& input = inputs[separable ? i % inputs.size() : 0];
    Limits& sum = all[i / per_filter];
    const int64_t weight = weights[i];
    sum.low += std::min(weight * input.low, weight * input.high);
    sum.high += std::max(weight * input.low, weight * input.high);
  }
  return all;
}

// Fills the bounds of a layer of Akida 1.0; what the layer gives.
Limits prove_potentials(const std::string& where, const Layer& layer, const Shape& input,
                        int64_t highest_input, Bounds& bounds) {
  const int bits = layer.average ? summed_potential_bits : potential_bits;
  const Shape shape = accumulator_shape(layer, input);
  const int64_t area = layer.average ? shape.height * shape.width : 1;
  Limits output{largest(62), -largest(62)};
  size_t filter = 0;
  for (auto [low, high] : potentials(layer, highest_input)) {
    // A double has room for products beyond 64 bits.
    bound(where, "the potential", filter,
          static_cast<double>(std::max(-low, high)) * static_cast<double>(area), bits);
    bounds.low.push_back(low * area);
    bounds.high.push_back(high * area);
    low = low * area - layer.threshold[filter];
    high = high * area - layer.threshold[filter];
    if (layer.output_bits == 32) {
      const auto magnitude = static_cast<double>(std::max(-low, high));
      bound(where, "the potential less its threshold", filter, magnitude, final_bits);
    }
    output = {std::min(output.low, low), std::max(output.high, high)};
    filter++;
  }
  if (layer.output_bits == 32) return output;
  return {0, (int64_t{1} << layer.output_bits) - 1};
}

}  // namespace

std::vector<Limits> depthwise_sums(const Layer& layer, int64_t highest_input) {
  std::vector<Limits> sums(static_cast<size_t>(layer.kernel_channels));
  for (size_t i = 0; i < layer.weights.size(); i++) {
    const int64_t product = layer.weights[i] * highest_input;
    Limits& sum = sums[i % sums.size()];
    (product < 0 ? sum.low : sum.high) += product;
  }
  return sums;
}

int64_t rescale(int64_t value, int multiplier, int shift, Limits limits) {
  const int right = std::max(-shift, 0);
  int64_t product = (value * multiplier + ((int64_t{1} << right) >> 1)) >> right;
  product = std::clamp(product, limits.low, limits.high);
  return std::clamp(product * (int64_t{1} << std::max(shift, 0)), limits.low, limits.high);
}

Proof prove(const Program& program) {
  Proof proof;
  proof.tensors.push_back(program.tensors.front().limits());
  for (size_t number = 0; number < program.layers.size(); number++) {
    const Layer& layer = program.layers[number];
    const Limits a = proof.tensors[layer.inputs[0]], b = proof.tensors[layer.inputs[1]];
    Bounds& bounds = proof.layers.emplace_back();
    if (layer.kind == Kind::concatenate) {
      proof.tensors.push_back({std::min(a.low, b.low), std::max(a.high, b.high)});
      continue;
    }
    const std::string where = "layer " + std::to_string(number);
    const Shape& input = program.tensors[layer.inputs[0]].shape;
    if (layer.generation == 1) {
      proof.tensors.push_back(prove_potentials(where, layer, input, a.high, bounds));
      continue;
    }
    const bool is_add = layer.kind == Kind::add;
    bounds.accumulator = worst_accumulators(layer, a, b);
    const int bits = is_add || layer.kind == Kind::input_convolution ? input_accumulator_bits
                                                                     : inner_accumulator_bits;
    const size_t filters =
        is_add ? static_cast<size_t>(input.channels) : bounds.accumulator.size();
    int64_t area = 1;
    if (layer.average) {
      const Shape shape = accumulator_shape(layer, input);
      area = shape.height * shape.width;
    }
    int64_t table_low = 0, table_high = 0;
    if (layer.activation == Activation::table) {
      table_low = table_high = layer.table[0];
      for (size_t i = 0; i < layer.table.size(); i++) {
        table_low = std::min<int64_t>(table_low, layer.table[i]);
        table_high = std::max<int64_t>(table_high, layer.table[i]);
      }
    }
    Limits output{largest(62), -largest(62)};
    for (size_t f = 0; f < filters; f++) {
      const int64_t worst = bounds.accumulator[is_add ? 0 : f];
      bound(where, "the accumulator", f, static_cast<double>(worst), bits);
      int64_t low = activate(layer, f, -worst), high = activate(layer, f, worst);
      if (layer.activation == Activation::table) {
        low = table_low;
        high = table_high;
      }
      low *= area;
      high *= area;
      const int64_t magnitude = std::max(-low, high);
      bound(where, "the value before the rescale", f, static_cast<double>(magnitude), final_bits);
      if (layer.activation == Activation::table) {
        bound(where, "the look-up table's index before it saturates", f,
              rescaled_magnitude(worst, layer.to_table.multiplier[f], layer.to_table.shift[f]),
              final_bits);
      }
      bounds.low.push_back(low);
      bounds.high.push_back(high);
      if (layer.output_bits != 32) {
        const int multiplier = is_add ? 1 : layer.rescale.multiplier[f];
        const int shift = is_add ? layer.output_shift : layer.rescale.shift[f];
        bound(where, "the output before it saturates", f,
              rescaled_magnitude(magnitude, multiplier, shift), final_bits);
        const Limits codes = program.tensors[number + 1].limits();
        low = rescale(low, multiplier, shift, codes);
        high = rescale(high, multiplier, shift, codes);
      }
      output = {std::min(output.low, low), std::max(output.high, high)};
    }
    proof.tensors.push_back(output);
  }
  return proof;
}

}  // namespace akida_backend
