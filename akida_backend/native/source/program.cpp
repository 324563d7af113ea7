// SPDX-License-Identifier: Apache-2.0
#include "program.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "sha256.h"

namespace akida_backend {
namespace {

constexpr uint8_t magic[8] = {0x89, 'A', 'K', 'P', '\r', '\n', 0x1A, '\n'};
constexpr uint32_t format_version = 1;
constexpr uint64_t most_bytes = (uint64_t{1} << 31) - 1;
constexpr size_t header_bytes = 64, program_bytes = 96, tensor_bytes = 32, layer_bytes = 176;
constexpr size_t checked_from = 16, content_hash_at = 32;
constexpr size_t alignment = 64;
constexpr uint32_t no_tensor = 0xFFFFFFFF;
constexpr int64_t most_side = 65535;
constexpr int64_t most_values = int64_t{1} << 28;
constexpr int64_t most_step = (1 << 24) - 1, most_step_shift = 24;

[[noreturn]] void refuse(const std::string& where, const std::string& problem) {
  throw Failure("program bytes: " + where + ": " + problem + "\n  Compile the model again.");
}

void require(bool condition, const std::string& where, const char* problem) {
  if (!condition) refuse(where, problem);
}

uint32_t crc32(const uint8_t* data, size_t size) {
  // Eight bytes at a time.
  static const auto tables = [] {
    std::array<std::array<uint32_t, 256>, 8> made{};
    for (uint32_t byte = 0; byte < 256; byte++) {
      uint32_t value = byte;
      for (int bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? 0xEDB88320u : 0u);
      made[0][byte] = value;
    }
    for (size_t k = 1; k < 8; k++) {
      for (uint32_t byte = 0; byte < 256; byte++) {
        const uint32_t before = made[k - 1][byte];
        made[k][byte] = before >> 8 ^ made[0][before & 255];
      }
    }
    return made;
  }();
  uint32_t sum = 0xFFFFFFFF;
  for (; size >= 8; size -= 8, data += 8) {
    uint32_t low, high;
    std::memcpy(&low, data, 4);
    std::memcpy(&high, data + 4, 4);
    low ^= sum;
    sum = tables[7][low & 255] ^ tables[6][low >> 8 & 255] ^ tables[5][low >> 16 & 255] ^
          tables[4][low >> 24] ^ tables[3][high & 255] ^ tables[2][high >> 8 & 255] ^
          tables[1][high >> 16 & 255] ^ tables[0][high >> 24];
  }
  for (; size > 0; size--) sum = sum >> 8 ^ tables[0][(sum ^ *data++) & 255];
  return ~sum;
}

struct Reference {
  uint32_t offset, count;
};

// The numbers of one record, taken in the order of its table.
class Fields {
 public:
  explicit Fields(const uint8_t* at) : at_(at) {}

  uint8_t byte() { return *at_++; }
  uint32_t word() { return take<uint32_t>(); }
  int32_t number() { return take<int32_t>(); }
  double real() { return take<double>(); }
  Reference reference() {
    const uint32_t offset = word();
    return {offset, word()};
  }
  Size size() {
    const int64_t height = word();
    return {height, word()};
  }
  void zeros(size_t count, const std::string& where) {
    for (; count > 0; count--) require(byte() == 0, where, "a field that must be zero is not");
  }

 private:
  template <class T>
  T take() {
    T value;
    std::memcpy(&value, at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  const uint8_t* at_;
};

// Takes texts and arrays in the one order and the places they can have, so that no two overlap.
class Heap {
 public:
  Heap(const uint8_t* bytes, size_t size, size_t end) : bytes_(bytes), size_(size), end_(end) {}

  std::string text(const std::string& where, Reference reference) {
    if (reference.offset == 0 && reference.count == 0) return {};
    const uint8_t* data = take(where, reference, 1, 1);
    return std::string(reinterpret_cast<const char*>(data), reference.count);
  }
  template <class T>
  Array<T> array(const std::string& where, Reference reference) {
    return {take(where, reference, alignment, sizeof(T)), reference.count};
  }
  template <class T>
  Array<T> array(const std::string& where, Reference reference, size_t count) {
    require(reference.count == count, where, "has the wrong number of elements");
    return array<T>(where, reference);
  }
  void absent(const std::string& where, Reference reference) const {
    require(reference.offset == 0 && reference.count == 0, where, "does not belong here");
  }
  bool at_end() const { return end_ == size_; }

 private:
  const uint8_t* take(const std::string& where, Reference reference, size_t align, size_t item) {
    const size_t start = (end_ + align - 1) / align * align;
    const uint64_t bytes = uint64_t{reference.count} * item;
    if (reference.offset != start || reference.count == 0 || start > size_ ||
        bytes > size_ - start) {
      refuse(where, std::to_string(reference.count) + " elements at byte " +
                        std::to_string(reference.offset) + ", where " + std::to_string(start) +
                        " comes next and " + std::to_string(size_) + " ends the program");
    }
    for (; end_ < start; end_++) require(bytes_[end_] == 0, where, "the gap before it is not zero");
    end_ = start + bytes;
    return bytes_ + start;
  }

  const uint8_t* bytes_;
  size_t size_;
  size_t end_;
};

void check_header(const uint8_t* bytes, size_t size) {
  const std::string where = "header";
  require(size >= sizeof magic && std::memcmp(bytes, magic, sizeof magic) == 0, where,
          "they do not begin as an akida-backend program does");
  require(size >= header_bytes, where, "it is cut off");
  Fields fields(bytes + sizeof magic);
  const uint32_t version = fields.word();
  if (version > format_version) {
    throw Failure("program bytes: format version " + std::to_string(version) +
                  ", this library reads " + std::to_string(format_version) +
                  "\n  Install a newer akida-backend, or compile the model with this one.");
  }
  require(version == format_version, where, "its format version does not exist");
  const uint32_t checksum = fields.word();
  const uint32_t low = fields.word();
  const uint64_t stated = low | uint64_t{fields.word()} << 32;
  require(stated == size && size <= most_bytes, where, "the size it states is not that found");
  require(crc32(bytes + checked_from, size - checked_from) == checksum, where,
          "the checksum does not match");
  fields.zeros(8, where);
}

template <class T>
bool within(const Array<T>& values, int64_t low, int64_t high) {
  for (size_t i = 0; i < values.size(); i++) {
    if (values[i] < low || values[i] > high) return false;
  }
  return true;
}

bool positive_and_finite(const Array<double>& values) {
  for (size_t i = 0; i < values.size(); i++) {
    if (!(std::isfinite(values[i]) && values[i] > 0)) return false;
  }
  return true;
}

bool is_size(Size size) {
  return size.height >= 1 && size.height <= most_side && size.width >= 1 && size.width <= most_side;
}

Limits type_limits(uint32_t type) {
  switch (type) {
    case 1:
      return {-128, 127};
    case 2:
      return {0, 255};
    case 3:
      return {-32768, 32767};
    case 4:
      return {0, 65535};
    default:
      return {std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()};
  }
}

Port read_port(const std::string& where, Heap& heap, Fields& fields, uint32_t types) {
  Port port;
  port.tensor = heap.text(where + " tensor", fields.reference());
  const auto shape = heap.array<int32_t>(where + " shape", fields.reference());
  for (size_t i = 0; i < shape.size(); i++) port.shape.push_back(shape[i]);
  port.type = fields.word();
  require(port.type >= 1 && port.type <= types, where, "its type stands for nothing");
  return port;
}

void check_port(const std::string& where, const Port& port, const Tensor& tensor) {
  require(port.shape[0] == -1 || port.shape[0] >= 1, where, "its batch must be -1 or positive");
  int64_t values = tensor.parts;
  for (size_t i = 1; i < port.shape.size(); i++) {
    const int64_t side = port.shape[i];
    require(side >= 1 && side <= most_values, where, "a side of its shape is out of range");
    values *= side;
    require(values <= most_values, where, "its shape holds too many values");
  }
  require(values == tensor.shape.values(), where, "its shape does not hold the device's values");
}

Tensor read_tensor(const std::string& where, Fields fields, Heap& heap, bool is_input) {
  Tensor tensor{};
  heap.text(where + ", name", fields.reference());
  tensor.shape.height = fields.word();
  tensor.shape.width = fields.word();
  tensor.shape.channels = fields.word();
  tensor.bits = fields.byte();
  const int sign = fields.byte();
  tensor.is_signed = sign == 1;
  tensor.zero_point = fields.byte();
  tensor.parts = fields.byte();
  tensor.scale = heap.array<double>(where + ", scale", fields.reference());
  const auto& shape = tensor.shape;
  for (const int64_t side : {shape.height, shape.width, shape.channels}) {
    require(side >= 1 && side <= most_side, where, "a side is out of range");
  }
  require(shape.height * shape.width <= most_values && shape.values() <= most_values, where,
          "it has too many values");
  const bool known = sign == 0   ? tensor.bits == 4 || tensor.bits == 8 || tensor.bits == 1 ||
                                      tensor.bits == 2
                     : sign == 1 ? tensor.bits == 8 || tensor.bits == 32
                                 : false;
  require(known, where, "no tensor has these bits and this sign");
  require(tensor.zero_point == 0 || tensor.is_image(), where, "only an image has a zero point");
  require(tensor.parts == 1 || (is_input && tensor.parts == 2 && shape.channels % 2 == 0), where,
          "only the input can have two parts, of an even number of channels");
  const auto channels = static_cast<size_t>(shape.channels);
  require((tensor.scale.size() == 1 || tensor.scale.size() == channels) &&
              positive_and_finite(tensor.scale),
          where, "its scales are not one or one per channel, positive and finite");
  return tensor;
}

Factors read_factors(const std::string& where, Heap& heap, Reference multiplier, Reference shift,
                     size_t filters) {
  Factors factors{heap.array<uint8_t>(where + ", multiplier", multiplier, filters),
                  heap.array<int8_t>(where + ", shift", shift, filters)};
  require(within(factors.shift, -32, 31), where, "a shift is out of range");
  return factors;
}

// Number of filters, once the weights are found to fit the input.
int64_t check_weights(const std::string& where, const Layer& layer, const uint32_t (&axes)[4],
                      const Tensor& input) {
  const int64_t most = layer.kind == Kind::dense ? most_bytes : most_side;
  for (const uint32_t axis : axes) {
    require(axis >= 1 && axis <= most, where, "an axis of its weights is out of range");
  }
  const bool dense = layer.kind == Kind::dense;
  require(layer.kernel_channels == (dense ? input.shape.values() : input.shape.channels), where,
          "its weights do not fit its input");
  require(!dense || (layer.kernel.height == 1 && layer.kernel.width == 1), where,
          "a dense layer has no kernel");
  const bool depthwise = layer.is_depthwise() || layer.kind == Kind::separable;
  require(!depthwise || layer.filters == 1, where, "a depthwise layer has one filter");
  if (layer.is_transpose()) {
    for (const int64_t side : {layer.kernel.height, layer.kernel.width}) {
      require(side == 3 || side == 4, where, "a transposed kernel has sides of 3 or 4");
    }
  }
  const int64_t filters = layer.is_depthwise() ? input.shape.channels : layer.filters;
  require(filters <= most_side, where, "it has too many filters");
  return filters;
}

// Product of the axes.
size_t volume(const std::string& where, const uint32_t (&axes)[4]) {
  uint64_t values = 1;
  for (const uint32_t axis : axes) {
    values *= axis;
    require(values <= most_bytes, where, "it has too many weights");
  }
  return values;
}

void check_output(const std::string& where, const Layer& layer, const Tensor& input,
                  const Tensor& output) {
  Shape shape = input.shape;
  if (layer.is_convolution()) {
    shape = accumulator_shape(layer, input.shape);
    require(shape.height >= 1 && shape.width >= 1, where, "its kernel is larger than its map");
    // Sides are below 2**18, so the product fits.
    require(shape.values() <= most_values, where, "it has too many accumulators");
    if (layer.pool.present) {
      const Size size = window_count({shape.height, shape.width}, layer.pool.size,
                                     layer.pool.stride, layer.pool.padding);
      shape = {size.height, size.width, shape.channels};
    }
    if (layer.average) shape = {1, 1, shape.channels};
  }
  require(output.shape == shape, where, "its output has another shape than it writes");
}

// Weights of so many bits, which the layer must be able to have.
void check_akida1_weights(const std::string& where, const Layer& layer,
                          const Array<int8_t>& weights) {
  const int bits = layer.weights_bits;
  const bool known = layer.kind == Kind::input_convolution ? bits >= 1 && bits <= 8
                     : layer.kind == Kind::separable       ? bits == 2 || bits == 4
                                                           : bits == 1 || bits == 2 || bits == 4;
  require(known, where, "its weights' bits");
  const int64_t end = int64_t{1} << (bits - 1);
  require(bits == 1 ? within(weights, 0, 1) : within(weights, -end, end - 1), where,
          "a weight has more bits than it may");
}

// The arrays of a layer of Akida 1.0.
void read_akida1(const std::string& where, Layer& layer, const uint32_t (&axes)[4],
                 const Reference (&references)[12], const Tensor& input, Heap& heap) {
  const auto& [weights, threshold, step, step_shift, pointwise, bound, bound_shift, to_multiplier,
               to_shift, table, input_shift, padding_value] = references;
  int64_t filters = check_weights(where, layer, axes, input);
  layer.weights = heap.array<int8_t>(where + ", weights", weights, volume(where, axes));
  check_akida1_weights(where, layer, layer.weights);
  if (layer.kind == Kind::separable) {
    filters = pointwise.count / input.shape.channels;
    require(filters >= 1 && filters <= most_side, where, "its number of pointwise filters");
    layer.filters = filters;
  }
  const auto columns = static_cast<size_t>(filters);
  layer.threshold = heap.array<int32_t>(where + ", threshold", threshold, columns);
  if (layer.activation == Activation::steps) {
    layer.step = heap.array<uint32_t>(where + ", step", step, columns);
    layer.step_shift = heap.array<uint8_t>(where + ", step shift", step_shift, columns);
    require(within(layer.step, 1, most_step) && within(layer.step_shift, 0, most_step_shift), where,
            "a step is out of range");
  } else {
    heap.absent(where, step);
    heap.absent(where, step_shift);
  }
  if (layer.kind == Kind::separable) {
    const auto count = static_cast<size_t>(filters * input.shape.channels);
    layer.pointwise = heap.array<int8_t>(where + ", pointwise weights", pointwise, count);
    check_akida1_weights(where, layer, layer.pointwise);
  } else {
    heap.absent(where, pointwise);
  }
  for (const Reference& reference :
       {bound, bound_shift, to_multiplier, to_shift, table, input_shift}) {
    heap.absent(where, reference);
  }
  if (layer.kind == Kind::input_convolution) {
    require(input.shape.channels == 1 || input.shape.channels == 3, where,
            "an image has 1 or 3 channels");
    layer.padding_value = heap.array<uint8_t>(where + ", padding value", padding_value, 1);
  } else {
    heap.absent(where, padding_value);
  }
  require(!layer.pool.present || layer.pool.padding == layer.padding, where,
          "its pooling has another padding than its convolution");
}

// Bits of what a layer of Akida 1.0 gives.
void check_levels(const std::string& where, const Layer& layer, const Tensor& output, bool last) {
  const int bits = layer.output_bits;
  require(layer.activation == Activation::steps ? bits == 1 || bits == 2 || bits == 4
                                                : bits == 32 && last,
          where, "its output's bits");
  require(output.bits == bits && output.is_signed == (bits == 32), where,
          "its output's bits or sign are not those of its tensor");
}

Layer read_layer(size_t number, size_t count, Fields fields, Heap& heap,
                 const std::vector<Tensor>& tensors, std::vector<bool>& read) {
  const std::string where = "layer " + std::to_string(number);
  Layer layer{};
  const uint32_t kind = fields.word();
  require(kind >= 1 && kind <= 12, where, "its kind stands for nothing");
  constexpr Kind akida1_kinds[] = {Kind::input_convolution, Kind::convolution, Kind::separable,
                                   Kind::dense};
  layer.kind = kind <= 8 ? static_cast<Kind>(kind) : akida1_kinds[kind - 9];
  layer.generation = kind <= 8 ? 2 : 1;
  const bool joins = !layer.is_convolution();
  const uint32_t first = fields.word(), second = fields.word();
  require(first <= number && (joins ? second <= number : second == no_tensor), where,
          "it reads a tensor that is not written before");
  layer.inputs[0] = first;
  layer.inputs[1] = joins ? second : first;
  read[layer.inputs[0]] = read[layer.inputs[1]] = true;
  layer.weights_bits = fields.byte();
  layer.output_bits = fields.byte();
  const int activation = fields.byte(), padding = fields.byte(), average = fields.byte();
  const int pool = fields.byte();
  fields.zeros(2, where);
  layer.stride = fields.size();
  layer.pool.size = fields.size();
  layer.pool.stride = fields.size();
  uint32_t axes[4];
  for (uint32_t& axis : axes) axis = fields.word();
  layer.filters = axes[0];
  layer.kernel = {axes[1], axes[2]};
  layer.kernel_channels = axes[3];
  layer.a_shift = fields.number();
  layer.b_shift = fields.number();
  layer.output_shift = fields.number();
  heap.text(where + ", name", fields.reference());
  Reference references[12];
  for (Reference& reference : references) reference = fields.reference();
  const auto& [weights, bias, bias_shift, multiplier, shift, bound, bound_shift, to_multiplier,
               to_shift, table, input_shift, padding_value] = references;

  require((layer.generation == 1 ? activation == 0 || activation == 4 : activation <= 3) &&
              padding <= 1 && average <= 1 && pool <= 2,
          where, "an option stands for nothing");
  layer.activation = static_cast<Activation>(activation);
  layer.padding = static_cast<Padding>(padding);
  layer.average = average == 1;
  layer.pool.present = pool > 0;
  layer.pool.padding = pool == 2 ? Padding::valid : Padding::same;
  const bool spatial = layer.kind <= Kind::depthwise || layer.kind == Kind::separable;
  const auto zero = [](Size size) { return size.height == 0 && size.width == 0; };
  require(spatial ? is_size(layer.stride) : zero(layer.stride), where, "its stride");
  require(layer.pool.present
              ? spatial && is_size(layer.pool.size) && is_size(layer.pool.stride)
              : zero(layer.pool.size) && zero(layer.pool.stride),
          where, "its pooling");
  require(padding == 0 || layer.kind == Kind::input_convolution, where, "its padding");
  require(!layer.average || layer.kind == Kind::convolution || layer.kind == Kind::depthwise ||
              layer.kind == Kind::separable,
          where, "it has no global average");
  require(!(layer.average && layer.pool.present), where, "a layer has one pooling type");

  const Tensor& input = tensors[layer.inputs[0]];
  const Tensor& other = tensors[layer.inputs[1]];
  const Tensor& output = tensors[number + 1];
  for (const Tensor* tensor : {&input, &other}) {
    const bool levels = !tensor->is_signed && tensor->bits <= 4;
    const bool codes = tensor->bits == 4 || tensor->bits == 8;
    require(layer.kind == Kind::input_convolution
                ? tensor->is_image()
                : !tensor->is_image() && (layer.generation == 1 ? levels : codes),
            where, "it cannot read such a tensor");
  }
  const bool is_add = layer.kind == Kind::add;
  if (!layer.is_convolution()) {
    require(layer.weights_bits == 0 && zero(layer.kernel) && layer.filters == 0 &&
                layer.kernel_channels == 0,
            where, "it has no weights");
    for (const Reference& reference : {weights, bias, bias_shift, multiplier, shift, to_multiplier,
                                       to_shift, table, input_shift, padding_value}) {
      heap.absent(where, reference);
    }
  }
  if (is_add) {
    require(layer.a_shift >= 0 && layer.a_shift <= 31 && layer.b_shift >= 0 &&
                layer.b_shift <= 31 && layer.output_shift >= -32 && layer.output_shift <= 31,
            where, "a shift is out of range");
    require(input.shape == other.shape, where, "its operands differ in shape");
    require(layer.activation != Activation::table, where, "it has no look-up table");
  } else {
    require(layer.a_shift == 0 && layer.b_shift == 0 && layer.output_shift == 0, where,
            "only Add has shifts of its own");
  }
  if (layer.kind == Kind::concatenate) {
    require(layer.output_bits == 0 && layer.activation == Activation::none, where,
            "a field that must be zero is not");
    heap.absent(where, bound);
    heap.absent(where, bound_shift);
    for (const Tensor* tensor : {&other, &output}) {
      require(tensor->shape.height == input.shape.height &&
                  tensor->shape.width == input.shape.width && tensor->bits == input.bits &&
                  tensor->is_signed == input.is_signed,
              where, "its tensors differ in map size, bits or sign");
    }
    require(output.shape.channels == input.shape.channels + other.shape.channels, where,
            "its output has other channels than its operands");
    for (int64_t c = 0; c < output.shape.channels; c++) {
      const bool first_operand = c < input.shape.channels;
      const auto& from = first_operand ? input.scale : other.scale;
      const auto channel = static_cast<size_t>(first_operand ? c : c - input.shape.channels);
      const double scale = output.scale[output.scale.size() == 1 ? 0 : static_cast<size_t>(c)];
      require(scale == from[from.size() == 1 ? 0 : channel], where,
              "its scales are not those of the operands");
    }
    return layer;
  }

  if (layer.generation == 1) {
    read_akida1(where, layer, axes, references, input, heap);
    check_levels(where, layer, output, number + 1 == count);
    check_output(where, layer, input, output);
    return layer;
  }
  int64_t filters = input.shape.channels;
  if (layer.is_convolution()) {
    filters = check_weights(where, layer, axes, input);
    const auto columns = static_cast<size_t>(filters);
    layer.weights = heap.array<int8_t>(where + ", weights", weights, volume(where, axes));
    require(layer.weights_bits == 4 || layer.weights_bits == 8, where, "its weights' bits");
    require(layer.weights_bits == 8 || within(layer.weights, -8, 7), where,
            "a weight has more than 4 bits");
    layer.bias = heap.array<int8_t>(where + ", bias", bias, columns);
    layer.bias_shift = heap.array<uint8_t>(where + ", bias shift", bias_shift, columns);
    require(within(layer.bias_shift, 0, 31), where, "a shift of the bias is out of range");
    layer.rescale = read_factors(where, heap, multiplier, shift, columns);
  }
  if (layer.activation == Activation::bounded_relu) {
    const auto columns = static_cast<size_t>(filters);
    layer.bound = heap.array<uint8_t>(where + ", bound", bound, columns);
    layer.bound_shift = heap.array<uint8_t>(where + ", shift of the bound", bound_shift, columns);
    require(within(layer.bound_shift, 0, 31), where, "a shift of the bound is out of range");
  } else {
    heap.absent(where, bound);
    heap.absent(where, bound_shift);
  }
  if (layer.activation == Activation::table) {
    layer.to_table =
        read_factors(where, heap, to_multiplier, to_shift, static_cast<size_t>(filters));
    layer.table = heap.array<int16_t>(where + ", table", table, 2048);
    require(within(layer.table, -8192, 8191), where, "a value of the table is out of range");
  } else {
    heap.absent(where, to_multiplier);
    heap.absent(where, to_shift);
    heap.absent(where, table);
  }
  if (input_shift.count != 0) {
    require(layer.kind == Kind::convolution || layer.kind == Kind::dense, where,
            "it has no input shift");
    layer.input_shift = heap.array<uint8_t>(where + ", input shift", input_shift,
                                            static_cast<size_t>(layer.kernel_channels));
    const int64_t reach = std::max(-input.limits().low, input.limits().high);
    for (size_t i = 0; i < layer.input_shift.size(); i++) {
      const int by = layer.input_shift[i];
      require(by < 28 && reach << by < int64_t{1} << 27, where, "an input shift is out of range");
    }
  } else {
    heap.absent(where, input_shift);
  }
  if (layer.kind == Kind::input_convolution) {
    require(input.shape.channels == 1 || input.shape.channels == 3, where,
            "an image has 1 or 3 channels");
    layer.padding_value = heap.array<uint8_t>(where + ", padding value", padding_value,
                                              static_cast<size_t>(input.shape.channels));
  } else {
    heap.absent(where, padding_value);
  }

  const bool may_be_wide = number + 1 == count && (layer.kind == Kind::dense || is_add);
  require(layer.output_bits == 4 || layer.output_bits == 8 ||
              (layer.output_bits == 32 && may_be_wide),
          where, "its output's bits");
  require(output.bits == layer.output_bits && output.is_signed == (layer.output_bits != 4), where,
          "its output's bits or sign are not those of its tensor");
  if (layer.output_bits == 32) {
    bool neutral = layer.output_shift == 0;
    for (size_t i = 0; i < layer.rescale.shift.size(); i++) {
      neutral = neutral && layer.rescale.multiplier[i] == 1 && layer.rescale.shift[i] == 0;
    }
    require(neutral && layer.activation != Activation::table, where,
            "32-bit output has no rescale and no table");
  }
  check_output(where, layer, input, output);
  return layer;
}

}  // namespace

Pads same_pads(Size size, Size kernel, Size stride) {
  const auto total = [](int64_t length, int64_t side, int64_t step) {
    const int64_t rest = length % step;
    return std::max<int64_t>(side - (rest == 0 ? step : rest), 0);
  };
  const int64_t high = total(size.height, kernel.height, stride.height);
  const int64_t wide = total(size.width, kernel.width, stride.width);
  return {high / 2, high - high / 2, wide / 2, wide - wide / 2};
}

Size window_count(Size size, Size kernel, Size stride, Padding padding) {
  const auto count = [&](int64_t length, int64_t side, int64_t step) {
    if (padding == Padding::same) return (length + step - 1) / step;
    return length < side ? int64_t{0} : (length - side) / step + 1;
  };
  return {count(size.height, kernel.height, stride.height),
          count(size.width, kernel.width, stride.width)};
}

Shape accumulator_shape(const Layer& layer, const Shape& input) {
  if (layer.kind == Kind::dense) return {1, 1, layer.filters};
  const int64_t filters = layer.is_depthwise() ? input.channels : layer.filters;
  if (layer.is_transpose()) return {2 * input.height, 2 * input.width, filters};
  const Size size = window_count({input.height, input.width}, layer.kernel, layer.stride,
                                 layer.padding);
  return {size.height, size.width, filters};
}

bool content_hash_holds(const uint8_t* bytes, size_t size) {
  if (size < header_bytes) return false;
  const auto found = sha256(bytes + header_bytes, size - header_bytes);
  return std::memcmp(bytes + content_hash_at, found.data(), found.size()) == 0;
}

Program read_program(const uint8_t* bytes, size_t size) {
  check_header(bytes, size);
  const auto records_end = [](uint64_t layers) {
    return header_bytes + program_bytes + (layers + 1) * tensor_bytes + layers * layer_bytes;
  };
  require(size >= records_end(0), "program record", "it is cut off");
  Fields fields(bytes + header_bytes);
  const Reference name = fields.reference(), device = fields.reference();
  const uint32_t count = fields.word();
  require(count >= 1, "program record", "there is no layer");
  require(records_end(count) <= size, "program record", "its layers do not fit");
  fields.zeros(4, "program record");
  Heap heap(bytes, size, records_end(count));
  heap.text("name", name);
  Program program;
  program.device = heap.text("device", device);
  program.input = read_port("input", heap, fields, 2);
  fields.zeros(4, "program record");
  program.recode = heap.array<int16_t>("input recode", fields.reference());
  program.output = read_port("output", heap, fields, 5);
  program.zero_point = fields.number();
  program.low = fields.number();
  program.high = fields.number();
  program.factor = heap.array<double>("output factor", fields.reference());

  const uint8_t* records = bytes + header_bytes + program_bytes;
  for (uint32_t k = 0; k <= count; k++) {
    program.tensors.push_back(read_tensor("tensor " + std::to_string(k),
                                          Fields(records + k * tensor_bytes), heap, k == 0));
  }
  records += (size_t{count} + 1) * tensor_bytes;
  std::vector<bool> read(size_t{count} + 1);
  for (uint32_t k = 0; k < count; k++) {
    program.layers.push_back(
        read_layer(k, count, Fields(records + k * layer_bytes), heap, program.tensors, read));
  }
  require(heap.at_end(), "arrays", "bytes follow the last one");
  const int generation = program.layers.front().generation;
  for (const Layer& layer : program.layers) {
    require(layer.generation == generation, "layers", "Akida 1.0 and 2.0 in one program");
  }
  read[count] = true;
  for (size_t k = 0; k <= count; k++) {
    if (!read[k]) refuse("tensor " + std::to_string(k), "it is never read");
  }

  const Tensor& source = program.tensors.front();
  require((program.recode.size() == 256 * static_cast<size_t>(source.parts) ||
           (generation == 1 &&
            program.recode.size() == 256 * static_cast<size_t>(source.shape.channels))) &&
              within(program.recode, source.limits().low, source.limits().high),
          "input recode", "it does not hold codes of the input");
  check_port("input", program.input, source);
  const Tensor& sink = program.tensors.back();
  check_port("output", program.output, sink);
  require((program.factor.size() == 1 ||
           program.factor.size() == static_cast<size_t>(sink.shape.channels)) &&
              positive_and_finite(program.factor),
          "output factor", "it is not one or one per channel, positive and finite");
  const Limits limits = type_limits(program.output.type);
  require(limits.low <= program.low && program.low <= program.high &&
              program.high <= limits.high && limits.low <= program.zero_point &&
              program.zero_point <= limits.high,
          "output", "its limits or zero point are not of its type");
  return program;
}

}  // namespace akida_backend
