// SPDX-License-Identifier: Apache-2.0
// A program as its bytes describe it. Arrays are views of the bytes.
//
// Layers of Akida 1.0 have the kinds of Akida 2.0 whose sums they share: InputConvolutional is an
// input_convolution, Convolutional a convolution, FullyConnected dense. What follows the sums
// differs, see Layer::generation.
#ifndef AKIDA_BACKEND_PROGRAM_H
#define AKIDA_BACKEND_PROGRAM_H

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace akida_backend {

// A program, an argument or the machine does not fit; the text is for people.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Elements of the bytes, wherever they lie.
template <class T>
class Array {
 public:
  Array() = default;
  Array(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T operator[](size_t index) const {
    T value;
    std::memcpy(&value, data_ + index * sizeof(T), sizeof(T));
    return value;
  }

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

struct Shape {
  int64_t height, width, channels;

  int64_t values() const { return height * width * channels; }
  bool operator==(const Shape& other) const {
    return height == other.height && width == other.width && channels == other.channels;
  }
};

struct Size {
  int64_t height, width;
};

struct Limits {
  int64_t low, high;
};

struct Tensor {
  Shape shape;
  int bits;
  bool is_signed;
  int zero_point;
  int parts;
  Array<double> scale;

  bool is_image() const { return bits == 8 && !is_signed; }
  Limits limits() const {
    return is_signed ? Limits{-(int64_t{1} << (bits - 1)), (int64_t{1} << (bits - 1)) - 1}
                     : Limits{0, (int64_t{1} << bits) - 1};
  }
};

enum class Kind : uint32_t {
  input_convolution = 1,
  convolution,
  depthwise,
  transpose,
  depthwise_transpose,
  dense,
  add,
  concatenate,
  separable,  // depthwise, then pointwise with nothing between
};

enum class Activation : uint8_t { none, relu, bounded_relu, table, steps };
enum class Padding : uint8_t { same, valid };

struct Factors {
  Array<uint8_t> multiplier;
  Array<int8_t> shift;
};

struct Pool {
  bool present;
  Padding padding;
  Size size, stride;
};

struct Layer {
  Kind kind;
  int generation;    // 1 or 2
  size_t inputs[2];  // tensor numbers
  int weights_bits;
  int output_bits;
  Activation activation;
  Padding padding;
  bool average;
  Pool pool;
  Size stride;
  int64_t filters;         // of the weights' first axis: 1 in depthwise layers; pointwise ones
  Size kernel;
  int64_t kernel_channels;
  int a_shift, b_shift, output_shift;
  Array<int8_t> weights;
  Array<int8_t> bias;
  Array<uint8_t> bias_shift;
  Factors rescale;
  Array<uint8_t> bound;
  Array<uint8_t> bound_shift;
  Factors to_table;
  Array<int16_t> table;
  Array<uint8_t> input_shift;
  Array<uint8_t> padding_value;  // per channel, or one
  // Of Akida 1.0, in place of bias, rescale and the other activations.
  Array<int32_t> threshold;
  Array<uint32_t> step;
  Array<uint8_t> step_shift;
  Array<int8_t> pointwise;  // [filter][channel]

  bool is_depthwise() const {
    return kind == Kind::depthwise || kind == Kind::depthwise_transpose;
  }
  bool is_transpose() const {
    return kind == Kind::transpose || kind == Kind::depthwise_transpose;
  }
  bool is_convolution() const { return kind <= Kind::dense || kind == Kind::separable; }
  // Of a convolution.
  size_t output_channels() const { return generation == 1 ? threshold.size() : bias.size(); }
  bool has_relu() const {
    return activation == Activation::relu || activation == Activation::bounded_relu;
  }
};

struct Port {
  std::string tensor;
  std::vector<int32_t> shape;
  uint32_t type;
};

struct Program {
  std::string device;  // name of its profile
  Port input, output;
  Array<int16_t> recode;
  int32_t zero_point, low, high;
  Array<double> factor;
  std::vector<Tensor> tensors;  // layer k writes tensor k + 1
  std::vector<Layer> layers;
};

// Rows and columns in front of a map and behind it.
struct Pads {
  int64_t top, bottom, left, right;
};

Pads same_pads(Size size, Size kernel, Size stride);
Size window_count(Size size, Size kernel, Size stride, Padding padding);

// Of a layer's accumulators before pooling: height, width, filters.
Shape accumulator_shape(const Layer& layer, const Shape& input);

// Throws Failure unless the bytes are those of one well-formed program. Everything is checked that
// akida_backend.program_check checks, but for names.
Program read_program(const uint8_t* bytes, size_t size);

// The checksum finds damage. The content hash also finds changes, but takes a quarter of the time
// that loading does, so it is for programs from files. Nothing else needs to be checked before.
bool content_hash_holds(const uint8_t* bytes, size_t size);

}  // namespace akida_backend

#endif
