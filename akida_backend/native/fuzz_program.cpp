// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: loads bytes of any kind, and runs what is accepted on every instruction set of
// this machine, which have to agree.
//
// The checksum is put right before loading, and the mutator keeps together what belongs together
// (places of arrays, sizes that follow from others), so that not all is refused at the door.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "akida_backend.h"
#include "context.h"
#include "kernel_library.h"
#include "plan.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);

namespace {

using namespace akida_backend;
using Bytes = std::vector<uint8_t>;

// Places of fields: akida_backend/program_format.py has the table.
constexpr size_t header = 64, program_bytes = 96, tensor_bytes = 32, layer_bytes = 176;
constexpr size_t checksum_at = 12, size_at = 16, zeros_at = 24;
constexpr size_t first_tensor = header + program_bytes;
constexpr size_t layer_count_at = header + 16, input_shape_at = header + 32;
constexpr size_t recode_at = header + 48, output_shape_at = header + 64, factor_at = header + 88;
constexpr size_t tensor_shape_at = 8, tensor_bits_at = 20, tensor_parts_at = 23;
constexpr size_t tensor_scale_at = 24;
constexpr size_t output_bits_at = 13, activation_at = 14, padding_at = 15, average_at = 16;
constexpr size_t pool_at = 17, stride_at = 20, pool_size_at = 28, pool_stride_at = 36;
constexpr size_t axes_at = 44, name_at = 72, weights_at = 80, table_at = 152;
constexpr size_t input_shift_at = 160, padding_value_at = 168;
constexpr size_t threshold_at = 88, step_at = 96, step_shift_at = 104, pointwise_at = 112;
constexpr uint32_t first_akida1_kind = 9;

// What a run may cost, so that the fuzzer sees many of them.
constexpr int64_t most_arena = 8 << 20, most_work = 1 << 18, most_values = 1 << 20;
constexpr int64_t batch = 3;

uint32_t word(const Bytes& bytes, size_t at) {
  uint32_t value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

void set_word(Bytes& bytes, size_t at, uint64_t value) {
  const auto narrow = static_cast<uint32_t>(value);
  std::memcpy(bytes.data() + at, &narrow, sizeof narrow);
}

uint32_t crc32(const uint8_t* data, size_t size) {
  static const auto table = [] {
    std::vector<uint32_t> made(256);
    for (uint32_t i = 0; i < 256; i++) {
      made[i] = i;
      for (int bit = 0; bit < 8; bit++) {
        made[i] = made[i] >> 1 ^ (made[i] & 1 ? 0xEDB88320u : 0);
      }
    }
    return made;
  }();
  uint32_t sum = 0xFFFFFFFF;
  for (size_t i = 0; i < size; i++) sum = sum >> 8 ^ table[(sum ^ data[i]) & 255];
  return ~sum;
}

// Header of a whole program around whatever follows it.
void seal(Bytes& bytes) {
  constexpr uint8_t begin[checksum_at] = {0x89, 'A', 'K', 'P', '\r', '\n', 0x1A, '\n', 1};
  std::memcpy(bytes.data(), begin, sizeof begin);
  set_word(bytes, size_at, bytes.size());
  std::memset(bytes.data() + size_at + 4, 0, 4);
  std::memset(bytes.data() + zeros_at, 0, 8);
  set_word(bytes, checksum_at, crc32(bytes.data() + size_at, bytes.size() - size_at));
}

// The mutator

// A text or array of the heap: where its reference stands, and what it consists of.
struct Item {
  size_t reference, align, bytes;
};

// Bytes of an element of a layer's array.
size_t element_bytes(uint32_t kind, size_t reference) {
  if (reference == table_at) return 2;
  return kind >= first_akida1_kind && (reference == threshold_at || reference == step_at) ? 4 : 1;
}

// All that a program of so many layers has, in the order of the heap.
std::vector<Item> items_of(const Bytes& bytes, size_t layers) {
  std::vector<Item> items{{header, 1, 1},           {header + 8, 1, 1},
                          {header + 24, 1, 1},      {input_shape_at, 64, 4},
                          {recode_at, 64, 2},       {header + 56, 1, 1},
                          {output_shape_at, 64, 4}, {factor_at, 64, 8}};
  for (size_t k = 0; k <= layers; k++) {
    const size_t at = first_tensor + k * tensor_bytes;
    items.push_back({at, 1, 1});
    items.push_back({at + tensor_scale_at, 64, 8});
  }
  for (size_t k = 0; k < layers; k++) {
    const size_t at = first_tensor + (layers + 1) * tensor_bytes + k * layer_bytes;
    items.push_back({at + name_at, 1, 1});
    for (size_t reference = weights_at; reference < layer_bytes; reference += 8) {
      items.push_back({at + reference, 64, element_bytes(word(bytes, at), reference)});
    }
  }
  return items;
}

// The parts of a program: records, and the heap's texts and arrays by item.
struct Pieces {
  Bytes records;
  std::vector<Item> items;
  std::vector<Bytes> contents;

  size_t layers() const { return word(records, layer_count_at); }
  size_t tensor(size_t k) const { return first_tensor + k * tensor_bytes; }
  size_t layer(size_t k) const { return tensor(layers() + 1) + k * layer_bytes; }
  Bytes& content(size_t reference) {
    size_t i = 0;
    while (items[i].reference != reference) i++;
    return contents[i];
  }
  // Makes an array so long, by repeating or cutting it.
  void resize(size_t reference, uint64_t count, size_t item_bytes, size_t most) {
    Bytes& array = content(reference);
    const uint64_t bytes = count * item_bytes;
    if (bytes > most) return;
    if (array.empty()) array.resize(item_bytes);
    const size_t before = array.size();
    array.resize(bytes);
    for (size_t i = before; i < array.size(); i++) array[i] = array[i - before];
  }
};

// Whether bytes are so much of a program that their parts can be told.
bool take_apart(const Bytes& bytes, Pieces& pieces) {
  if (bytes.size() < first_tensor) return false;
  const size_t layers = word(bytes, layer_count_at);
  if (layers < 1 || layers > 64) return false;
  const size_t end = first_tensor + (layers + 1) * tensor_bytes + layers * layer_bytes;
  if (bytes.size() < end) return false;
  pieces.records.assign(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(end));
  pieces.items = items_of(bytes, layers);
  for (const Item& item : pieces.items) {
    const uint64_t from = word(bytes, item.reference);
    const uint64_t size = uint64_t{word(bytes, item.reference + 4)} * item.bytes;
    Bytes& content = pieces.contents.emplace_back();
    if (from < end || from > bytes.size() || size > bytes.size() - from) continue;
    const auto first = bytes.begin() + static_cast<ptrdiff_t>(from);
    content.assign(first, first + static_cast<ptrdiff_t>(size));
  }
  return true;
}

Bytes put_together(const Pieces& pieces) {
  Bytes bytes = pieces.records;
  for (size_t i = 0; i < pieces.items.size(); i++) {
    const Item& item = pieces.items[i];
    const Bytes& content = pieces.contents[i];
    if (content.empty()) {
      set_word(bytes, item.reference, 0);
      set_word(bytes, item.reference + 4, 0);
      continue;
    }
    bytes.resize((bytes.size() + item.align - 1) / item.align * item.align);
    set_word(bytes, item.reference, bytes.size());
    set_word(bytes, item.reference + 4, content.size() / item.bytes);
    bytes.insert(bytes.end(), content.begin(), content.end());
  }
  return bytes;
}

Shape shape_at(const Bytes& records, size_t tensor) {
  const size_t at = tensor + tensor_shape_at;
  return {word(records, at), word(records, at + 4), word(records, at + 8)};
}

void set_shape(Bytes& records, size_t tensor, const Shape& shape) {
  const size_t at = tensor + tensor_shape_at;
  set_word(records, at, static_cast<uint64_t>(shape.height));
  set_word(records, at + 4, static_cast<uint64_t>(shape.width));
  set_word(records, at + 8, static_cast<uint64_t>(shape.channels));
}

void fit_port(Pieces& pieces, size_t reference, size_t tensor, size_t most) {
  const Shape shape = shape_at(pieces.records, tensor);
  const uint32_t parts = std::max<uint32_t>(pieces.records[tensor + tensor_parts_at], 1);
  pieces.resize(reference, 2, 4, most);
  Bytes& sides = pieces.content(reference);
  if (sides.size() != 8) return;
  set_word(sides, 0, UINT32_MAX);
  set_word(sides, 4, static_cast<uint64_t>(shape.values()) / parts);
}

// The arrays of a layer of Akida 1.0 in place of bias, rescale and activation.
void fit_akida1(Pieces& pieces, size_t at, const Layer& layer, int64_t channels, size_t most) {
  const auto filters = static_cast<uint64_t>(layer.filters);
  pieces.resize(at + threshold_at, filters, 4, most);
  for (const size_t reference : {step_at, step_shift_at}) {
    if (pieces.records[at + activation_at] == 4) {
      pieces.resize(at + reference, filters, element_bytes(first_akida1_kind, reference), most);
    } else {
      pieces.content(at + reference).clear();
    }
  }
  if (layer.kind == Kind::separable) {
    pieces.resize(at + pointwise_at, filters * static_cast<uint64_t>(channels), 1, most);
  }
  if (layer.kind == Kind::input_convolution) pieces.resize(at + padding_value_at, 1, 1, most);
}

// Sizes that follow from others: of weights, of arrays per filter, of outputs, of ports.
void fit(Pieces& pieces, size_t most) {
  const size_t layers = pieces.layers();
  for (size_t k = 0; k < layers; k++) {
    Bytes& records = pieces.records;
    const size_t at = pieces.layer(k), output = pieces.tensor(k + 1);
    const uint32_t first = word(records, at + 4), second = word(records, at + 8);
    if (first > k) return;
    const Shape input = shape_at(records, pieces.tensor(first));
    if (input.height > 65535 || input.width > 65535 || input.channels > 65535) return;
    Layer layer{};
    const uint32_t kind = word(records, at);
    if (kind < 1 || kind > 12) return;
    constexpr Kind akida1_kinds[] = {Kind::input_convolution, Kind::convolution, Kind::separable,
                                     Kind::dense};
    const bool akida1 = kind >= first_akida1_kind;
    layer.kind = akida1 ? akida1_kinds[kind - first_akida1_kind] : static_cast<Kind>(kind);
    const bool depthwise = layer.is_depthwise() || layer.kind == Kind::separable;
    Shape shape = input;
    if (layer.kind == Kind::concatenate) {
      if (second > k) return;
      shape.channels += shape_at(records, pieces.tensor(second)).channels;
    } else if (layer.is_convolution()) {
      set_word(records, at + axes_at + 12,
               static_cast<uint64_t>(layer.kind == Kind::dense ? input.values() : input.channels));
      if (depthwise) set_word(records, at + axes_at, 1);
      uint64_t weights = 1;
      for (size_t axis = 0; axis < 4; axis++) {
        weights *= std::min(word(records, at + axes_at + 4 * axis), 1u << 14);
      }
      pieces.resize(at + weights_at, weights, 1, most);
      layer.filters = word(records, at + axes_at);
      layer.kernel = {word(records, at + axes_at + 4), word(records, at + axes_at + 8)};
      layer.stride = {word(records, at + stride_at), word(records, at + stride_at + 4)};
      layer.padding = static_cast<Padding>(records[at + padding_at]);
      const bool spatial = layer.kind <= Kind::depthwise || layer.kind == Kind::separable;
      if (spatial && (layer.stride.height < 1 || layer.stride.width < 1)) return;
      if (layer.kind == Kind::separable) {
        const auto count = static_cast<int64_t>(pieces.content(at + pointwise_at).size());
        layer.filters = std::max<int64_t>(count / std::max<int64_t>(input.channels, 1), 1);
      }
      shape = accumulator_shape(layer, input);
      const auto filters = static_cast<uint64_t>(shape.channels);
      if (akida1) fit_akida1(pieces, at, layer, input.channels, most);
      for (size_t reference = weights_at + 8; !akida1 && reference < table_at; reference += 8) {
        const bool optional = reference >= weights_at + 40;
        if (optional && pieces.content(at + reference).empty()) continue;
        pieces.resize(at + reference, filters, 1, most);
      }
      if (!pieces.content(at + input_shift_at).empty()) {
        pieces.resize(at + input_shift_at, word(records, at + axes_at + 12), 1, most);
      }
      if (!akida1 && layer.kind == Kind::input_convolution) {
        pieces.resize(at + padding_value_at, static_cast<uint64_t>(input.channels), 1, most);
      }
      const uint8_t pool = records[at + pool_at];
      if (pool != 0) {
        const Size size{word(records, at + pool_size_at), word(records, at + pool_size_at + 4)};
        const Size step{word(records, at + pool_stride_at), word(records, at + pool_stride_at + 4)};
        if (step.height < 1 || step.width < 1) return;
        const Size count = window_count({shape.height, shape.width}, size, step,
                                        pool == 2 ? Padding::valid : Padding::same);
        shape = {count.height, count.width, shape.channels};
      }
      if (records[at + average_at] != 0) shape = {1, 1, shape.channels};
    }
    set_shape(records, output, shape);
    const uint8_t bits = records[at + output_bits_at];
    if (layer.kind != Kind::concatenate) {
      records[output + tensor_bits_at] = bits;
      records[output + tensor_bits_at + 1] = akida1 ? bits == 32 : bits != 4;
    }
    pieces.resize(output + tensor_scale_at, 1, 8, most);
  }
  pieces.resize(pieces.tensor(0) + tensor_scale_at, 1, 8, most);
  pieces.resize(recode_at, 256 * uint64_t{pieces.records[pieces.tensor(0) + tensor_parts_at]}, 2,
                most);
  pieces.resize(factor_at, 1, 8, most);
  fit_port(pieces, input_shape_at, pieces.tensor(0), most);
  fit_port(pieces, output_shape_at, pieces.tensor(layers), most);
}

// Changes a number that decides on sizes, or an option.
void change_number(Pieces& pieces, std::mt19937& random) {
  const auto pick = [&](auto... values) {
    const size_t all[] = {static_cast<size_t>(values)...};
    return all[random() % sizeof...(values)];
  };
  Bytes& records = pieces.records;
  const uint32_t small = random() % 9, any = random() % 4 == 0 ? random() % 200 : small;
  const size_t layer = pieces.layer(random() % pieces.layers());
  switch (random() % 8) {
    case 0:
      set_word(records, pieces.tensor(0) + tensor_shape_at + 4 * (random() % 3), any + 1);
      break;
    case 1:
      set_word(records, layer + axes_at + 4 * (random() % 3), any + 1);
      break;
    case 2:
      set_word(records, layer + pick(stride_at, stride_at + 4, pool_size_at, pool_size_at + 4,
                                     pool_stride_at, pool_stride_at + 4),
               random() % 6);
      break;
    case 3:
      records[layer + pick(12, output_bits_at, activation_at, padding_at, average_at, pool_at)] =
          static_cast<uint8_t>(pick(0, 1, 2, 3, 4, 8, 32));
      break;
    case 4:  // operands
      set_word(records, layer + pick(4, 8), random() % pieces.layers());
      break;
    case 5:
      set_word(records, layer + pick(60, 64, 68), random() % 40 - 33);
      break;
    case 6:
      set_word(records, layer,
               word(records, layer) >= first_akida1_kind ? first_akida1_kind + random() % 4
                                                         : 1 + random() % 8);
      break;
    default:
      set_word(records, header + pick(40, 72, 76, 80, 84), small);
  }
}

// Running

struct Outputs {
  Bytes stored, raw;

  bool operator!=(const Outputs& other) const {
    return stored != other.stored || raw != other.raw;
  }
};

Outputs run(const std::shared_ptr<const Plan>& plan, int threads, const Bytes& input) {
  const auto bytes = [](const std::vector<int32_t>& shape, uint32_t type) {
    return static_cast<size_t>(batch * sample_values(shape) * type_bytes(type));
  };
  Outputs outputs{Bytes(bytes(plan->output.shape, plan->output.type)),
                  Bytes(bytes(plan->raw_shape, plan->raw_type))};
  Context context(plan, threads);
  context.run(input.data(), outputs.stored.data(), outputs.raw.data(), batch);
  return outputs;
}

void run_everywhere(const Program& program) {
  int64_t values = 0;
  for (const Tensor& tensor : program.tensors) values += tensor.shape.values();
  if (values > most_values) return;
  Bytes input;
  Outputs before;
  for (const InstructionSet& set : instruction_sets()) {
    if (set.kernels == nullptr) continue;
    const std::shared_ptr<const Plan> plan = make_plan(program, *set.kernels);
    int64_t work = 0;
    for (const Step& step : plan->steps) work += step.work;
    if (plan->arena_bytes > most_arena || work > most_work) return;
    const bool first = input.empty();
    if (first) {
      input.resize(static_cast<size_t>(batch * sample_values(plan->input.shape)));
      for (size_t i = 0; i < input.size(); i++) input[i] = static_cast<uint8_t>(i * i * 37 >> 3);
    }
    Outputs outputs = run(plan, first ? 1 : 2, input);
    if (!first && outputs != before) {
      std::fprintf(stderr, "%s computes something else than the set before it\n", set.name);
      std::abort();
    }
    before = std::move(outputs);
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  for (const InstructionSet& set : instruction_sets()) {
    std::fprintf(stderr, "%s: %s\n", set.name,
                 set.kernels != nullptr ? "runs" : set.problem.c_str());
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  std::mt19937 random(seed);
  Pieces pieces;
  if (random() % 8 == 0 || !take_apart(Bytes(data, data + size), pieces)) {
    return LLVMFuzzerMutate(data, size, most);
  }
  const size_t layers = pieces.layers();
  switch (random() % 4) {
    case 0:
      LLVMFuzzerMutate(pieces.records.data() + header, pieces.records.size() - header,
                       pieces.records.size() - header);
      break;
    case 1: {
      Bytes& content = pieces.contents[random() % pieces.contents.size()];
      if (!content.empty()) LLVMFuzzerMutate(content.data(), content.size(), content.size());
      break;
    }
    default:
      for (uint32_t count = 1 + random() % 3; count > 0; count--) change_number(pieces, random);
  }
  set_word(pieces.records, layer_count_at, layers);
  if (random() % 8 != 0) fit(pieces, most);
  Bytes bytes = put_together(pieces);
  if (bytes.size() > most) return size;
  seal(bytes);
  std::memcpy(data, bytes.data(), bytes.size());
  return bytes.size();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A copy of exactly these bytes, so that a read behind them is seen.
  const Bytes given(data, data + size);
  akida_backend_program_free(akida_backend_program_load(given.data(), size, "baseline"));
  if (size < header) return 0;
  Bytes sealed = given;
  seal(sealed);
  try {
    run_everywhere(read_program(sealed.data(), size));
  } catch (const Failure&) {
  }
  return 0;
}
