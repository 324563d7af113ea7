// SPDX-License-Identifier: Apache-2.0
#include "plan.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <new>
#include <numeric>
#include <set>
#include <tuple>

#include "digits.h"
#include "pack.h"
#include "proof.h"
#include "simplify.h"

namespace akida_backend {

void Storage::Release::operator()(void* memory) const { std::free(memory); }

void* Storage::allocate(size_t bytes) {
  constexpr size_t line = 64;
  bytes = std::max(line, (bytes + line - 1) / line * line);
  blocks_.emplace_back(std::aligned_alloc(line, bytes));
  void* memory = blocks_.back().get();
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0, bytes);
  return memory;
}

void Border::fill(uint8_t* arena) const {
  const int64_t channels = shape.channels;
  const auto fill_pixels = [&](int64_t row, int64_t first, int64_t count) {
    uint8_t* to = arena + map.start + row * map.row + first * map.pixel;
    if (values.size() == 1) {
      std::memset(to, values[0], static_cast<size_t>(count * channels));
      return;
    }
    for (int64_t i = 0; i < count * channels; i++) {
      to[i] = values[static_cast<size_t>(i % channels)];
    }
  };
  for (int64_t row = -pads.top; row < shape.height + pads.bottom; row++) {
    if (row < 0 || row >= shape.height) {
      fill_pixels(row, -pads.left, pads.left + shape.width + pads.right);
    } else {
      fill_pixels(row, -pads.left, pads.left);
      fill_pixels(row, shape.width, pads.right);
    }
  }
}

namespace {

constexpr int64_t line = 64;
// Kernels read up to a vector's bytes behind what they use.
constexpr int64_t slack = 256;
// A flat map is cut into rows of so many pixels: whole tiles, and units for threads.
constexpr int64_t flat_row_pixels = 48;
// Memory that may be spent on keeping borders intact instead of filling them in every run.
constexpr int64_t small_arena = 1 << 20;
// Bytes over which a depthwise layer's blocks may repeat before they fill a cache of their own.
constexpr int64_t longest_flat = 512;
constexpr int64_t largest_flat = 64;  // taps of the kernel
// Weights that stay in a cache while a map goes by once.
constexpr int64_t cached_weights = 384 << 10;
constexpr int64_t strip_bytes = 24 << 10, shortest_strip = 6, longest_strip = 16;
constexpr int signed_offset = 128;
// Of one sample. A network of an edge device takes some MiB.
constexpr int64_t most_arena = int64_t{1} << 31;

struct Buffer {
  Shape shape;
  int64_t value_bytes;
  Pads pads{};
  std::vector<uint8_t> border;  // one value, or one per channel
  size_t first_step = SIZE_MAX;
  size_t last_step = 0;
  int64_t start = 0;  // of the first pixel inside, in the arena

  int64_t pixel() const { return shape.channels * value_bytes; }
  int64_t row() const { return (pads.left + shape.width + pads.right) * pixel(); }
  int64_t inside() const { return pads.top * row() + pads.left * pixel(); }
  int64_t bytes() const { return (pads.top + shape.height + pads.bottom) * row(); }
  bool has_border() const { return pads.top + pads.bottom + pads.left + pads.right > 0; }
};

// Places in the arena: first fit among the smallest sufficient gaps.
class Arena {
 public:
  int64_t take(int64_t bytes) {
    bytes = (bytes + line - 1) / line * line;
    auto best = gaps_.end();
    for (auto gap = gaps_.begin(); gap != gaps_.end(); ++gap) {
      if (gap->second >= bytes && (best == gaps_.end() || gap->second < best->second)) best = gap;
    }
    if (best == gaps_.end()) {
      const int64_t at = end_;
      end_ += bytes;
      return at;
    }
    const auto [at, size] = *best;
    gaps_.erase(best);
    if (size > bytes) gaps_[at + bytes] = size - bytes;
    return at;
  }

  void release(int64_t at, int64_t bytes) {
    bytes = (bytes + line - 1) / line * line;
    auto [gap, fresh] = gaps_.emplace(at, bytes);
    const auto next = std::next(gap);
    if (next != gaps_.end() && gap->first + gap->second == next->first) {
      gap->second += next->second;
      gaps_.erase(next);
    }
    if (gap != gaps_.begin()) {
      const auto before = std::prev(gap);
      if (before->first + before->second == gap->first) {
        before->second += gap->second;
        gap = gaps_.erase(gap);
      }
    }
    static_cast<void>(fresh);
  }

  int64_t end() const { return end_; }

 private:
  std::map<int64_t, int64_t> gaps_;
  int64_t end_ = 0;
};

// A tensor's place: a buffer, or some channels of one.
struct View {
  size_t buffer;
  int64_t channel;
};

class Planner {
 public:
  Planner(const Program& program, Proof proof, const KernelTable& kernels)
      : program_(program), kernels_(kernels), proof_(std::move(proof)), lanes_(kernels.lanes),
        plan_(new Plan()) {}

  std::unique_ptr<Plan> make() {
    plan_->input = program_.input;
    plan_->output = program_.output;
    plan_->kernels = &kernels_;
    choose_codes();
    choose_buffers();
    plan_encode();
    for (size_t number = 0; number < program_.layers.size(); number++) plan_layer(number);
    plan_decode();
    place_buffers();
    return std::move(plan_);
  }

 private:
  const Layer& layer_writing(size_t tensor) const { return program_.layers[tensor - 1]; }
  const Shape& shape(size_t tensor) const { return program_.tensors[tensor].shape; }
  Buffer& buffer_of(size_t tensor) { return buffers_[views_[tensor].buffer]; }

  // Storage codes

  void choose_codes() {
    const size_t count = program_.tensors.size();
    readers_.resize(count);
    for (const Layer& layer : program_.layers) {
      readers_[layer.inputs[0]]++;
      if (!layer.is_convolution()) readers_[layer.inputs[1]]++;
    }
    offsets_.resize(count);
    int low = 0, high = program_.tensors[0].is_image() ? 255 : 0;
    for (size_t i = 0; i < program_.recode.size(); i++) {
      low = std::min<int>(low, program_.recode[i]);
      high = std::max<int>(high, program_.recode[i]);
    }
    // Sums of two parts may lie anywhere within 256 values around 0.
    offsets_[0] = low == 0 ? 0 : std::max(-low, std::min(signed_offset, 255 - high));
    largest_input_ = high + offsets_[0];
    for (size_t tensor = 1; tensor < count; tensor++) {
      const Layer& layer = layer_writing(tensor);
      if (layer.kind == Kind::concatenate) {
        offsets_[tensor] = std::max(offsets_[layer.inputs[0]], offsets_[layer.inputs[1]]);
      } else if (program_.tensors[tensor].bits != 32) {
        offsets_[tensor] = proof_.tensors[tensor].low < 0 ? signed_offset : 0;
      }
    }
    // Operands that only a concatenation reads are written where it wants them.
    inside_.resize(count);
    for (size_t tensor = count - 1; tensor > 0; tensor--) {
      const Layer& layer = layer_writing(tensor);
      if (layer.kind != Kind::concatenate) continue;
      for (const size_t operand : layer.inputs) {
        if (operand == 0 || readers_[operand] > 1) continue;
        inside_[operand] = tensor;
        offsets_[operand] = offsets_[tensor];
      }
    }
  }

  int64_t largest_code(size_t tensor) const {
    return tensor == 0 ? largest_input_ : proof_.tensors[tensor].high + offsets_[tensor];
  }

  // Buffers

  size_t add_buffer(const Shape& shape, int64_t value_bytes, uint8_t border) {
    Buffer buffer{};
    buffer.shape = shape;
    buffer.value_bytes = value_bytes;
    buffer.border = {border};
    buffer.first_step = SIZE_MAX;
    buffers_.push_back(std::move(buffer));
    return buffers_.size() - 1;
  }

  void choose_buffers() {
    views_.resize(program_.tensors.size());
    for (size_t tensor = program_.tensors.size(); tensor-- > 0;) {
      if (inside_[tensor] != 0) {
        const Layer& joined = layer_writing(inside_[tensor]);
        views_[tensor] = views_[inside_[tensor]];
        if (tensor != joined.inputs[0]) views_[tensor].channel += shape(joined.inputs[0]).channels;
        continue;
      }
      // Wide outputs get their own buffers, in the order of blocks.
      views_[tensor] = {add_buffer(shape(tensor), 1, static_cast<uint8_t>(offsets_[tensor])), 0};
    }
    sources_.resize(program_.layers.size());
    for (size_t number = 0; number < program_.layers.size(); number++) {
      const Layer& layer = program_.layers[number];
      const size_t tensor = layer.inputs[0];
      sources_[number] = views_[tensor].buffer;
      const Pads pads = pads_of(layer);
      if (layer.kind == Kind::input_convolution &&
          pads.top + pads.bottom + pads.left + pads.right > 0) {
        sources_[number] = image_with_border(layer);
      }
      Pads& all = buffers_[sources_[number]].pads;
      all = {std::max(all.top, pads.top), std::max(all.bottom, pads.bottom),
             std::max(all.left, pads.left), std::max(all.right, pads.right)};
    }
  }

  // The image's own buffer for the first border that is asked for, copies for others.
  size_t image_with_border(const Layer& layer) {
    std::vector<uint8_t> border;
    for (size_t c = 0; c < layer.padding_value.size(); c++) {
      border.push_back(layer.padding_value[c]);
    }
    for (const size_t number : images_) {
      if (buffers_[number].border == border) return number;
    }
    const bool first = images_.empty();
    const size_t number = first ? views_[0].buffer : add_buffer(shape(0), 1, 0);
    buffers_[number].border = border;
    images_.push_back(number);
    return number;
  }

  Pads pads_of(const Layer& layer) const {
    const Shape& input = shape(layer.inputs[0]);
    if (layer.kind == Kind::dense || !layer.is_convolution() || layer.padding == Padding::valid) {
      return {};
    }
    if (layer.is_transpose()) {
      const int64_t below = layer.kernel.height == 4, right = layer.kernel.width == 4;
      return {1, below, 1, right};
    }
    return same_pads({input.height, input.width}, layer.kernel, layer.stride);
  }

  Map map_of(size_t number, int64_t channel = 0) const {
    const Buffer& buffer = buffers_[number];
    return {channel * buffer.value_bytes, buffer.row(), buffer.pixel()};
  }
  Map map_of(View view) const { return map_of(view.buffer, view.channel); }

  // Says that the current step touches a buffer that `map` lies in.
  void use(size_t number, Map& map) {
    Buffer& buffer = buffers_[number];
    const size_t step = plan_->steps.size() + 1;  // step 0 encodes
    buffer.first_step = std::min(buffer.first_step, step);
    buffer.last_step = std::max(buffer.last_step, step);
    patches_.emplace_back(&map.start, number);
  }

  void place_buffers() {
    const int64_t kept = arrange(true), shared = arrange(false);
    const bool keep = kept <= std::max(small_arena, shared + shared / 8);
    plan_->arena_bytes = (keep ? arrange(true) : shared) + slack;
    if (plan_->arena_bytes > most_arena) {
      throw Failure("program bytes: its maps take " + std::to_string(plan_->arena_bytes >> 20) +
                    " MiB per sample, " + std::to_string(most_arena >> 20) +
                    " MiB are supported\n  Use a smaller input or fewer channels.");
    }
    for (const auto& [address, number] : patches_) *address += buffers_[number].start;
    for (size_t number = 0; number < buffers_.size(); number++) {
      const Buffer& buffer = buffers_[number];
      if (!buffer.has_border() || buffer.first_step == SIZE_MAX) continue;
      auto border = std::make_unique<Border>();
      border->map = {buffer.start, buffer.row(), buffer.pixel()};
      border->shape = buffer.shape;
      border->pads = buffer.pads;
      border->values = buffer.border;
      if (keep) {
        plan_->lasting.push_back(border.get());
      } else if (buffer.first_step == 0) {
        plan_->first_border = border.get();
      } else {
        plan_->steps[buffer.first_step - 1].border = border.get();
      }
      plan_->borders.push_back(std::move(border));
    }
  }

  // Gives every buffer a place, and returns where the last one ends.
  int64_t arrange(bool keep_borders) {
    const size_t steps = plan_->steps.size() + 2;
    std::vector<std::vector<size_t>> begins(steps), ends(steps);
    for (size_t number = 0; number < buffers_.size(); number++) {
      const Buffer& buffer = buffers_[number];
      if (buffer.first_step == SIZE_MAX) continue;
      const bool lasting = keep_borders && buffer.has_border();
      begins[lasting ? 0 : buffer.first_step].push_back(number);
      if (!lasting) ends[buffer.last_step].push_back(number);
    }
    Arena arena;
    for (size_t step = 0; step < steps; step++) {
      for (const size_t number : begins[step]) {
        Buffer& buffer = buffers_[number];
        buffer.start = arena.take(room(buffer));
        // The first pixel inside begins a cache line.
        buffer.start += (buffer.inside() + line - 1) / line * line;
      }
      for (const size_t number : ends[step]) {
        const Buffer& buffer = buffers_[number];
        arena.release(buffer.start - (buffer.inside() + line - 1) / line * line, room(buffer));
      }
    }
    return arena.end();
  }

  static int64_t room(const Buffer& buffer) { return buffer.bytes() + line; }

  // Steps

  template <class Job>
  void add_step(Region run, const Job* job, int64_t units, int64_t work, bool shares = false) {
    plan_->steps.push_back({run, job, units, shares, work, nullptr});
  }

  void plan_encode() {
    const Shape& input = shape(0);
    const Tensor& tensor = program_.tensors[0];
    Encode& job = plan_->encode;
    job.target = map_of(views_[0]);
    Buffer& buffer = buffer_of(0);
    buffer.first_step = 0;
    patches_.emplace_back(&job.target.start, views_[0].buffer);
    job.height = static_cast<int32_t>(input.height);
    job.width = static_cast<int32_t>(input.width);
    job.channels = static_cast<int32_t>(input.channels / tensor.parts);
    job.parts = tensor.parts;
    job.per_channel = program_.recode.size() != 256 * static_cast<size_t>(tensor.parts);
    const int flip = program_.input.type == 1 ? 0x80 : 0;  // int8: tables begin at -128
    auto* tables = plan_->storage.make<uint8_t>(program_.recode.size());
    for (size_t i = 0; i < program_.recode.size(); i++) {
      const size_t from = i ^ static_cast<size_t>(flip);
      tables[i] = static_cast<uint8_t>(program_.recode[from] + offsets_[0]);
    }
    job.tables = tables;
    for (const uint8_t bit : {0, 0x80}) find_ramp(job, bit);
  }

  // Whether table 0 is a clamped ramp over the host's bytes, their highest bit flipped or not.
  static void find_ramp(Encode& job, uint8_t flip) {
    if (job.ramp || job.parts != 1 || job.per_channel) return;
    const auto value = [&](int i) { return int{job.tables[i ^ flip]}; };
    const auto [low, high] = std::minmax_element(job.tables, job.tables + 256);
    int rising = 0;
    while (rising < 255 && value(rising + 1) <= value(rising)) rising++;
    const int step = value(rising) - rising;
    for (int i = 0; i < 256; i++) {
      if (std::clamp<int>(i + step, *low, *high) != value(i)) return;
    }
    job.ramp = 1;
    job.flip = flip;
    job.step = step;
    job.lowest = *low;
    job.highest = *high;
  }

  void plan_decode() {
    const size_t last = program_.tensors.size() - 1;
    const Shape& output = shape(last);
    const Tensor& tensor = program_.tensors[last];
    Decode& job = plan_->decode;
    job.source = map_of(views_[last]);
    use(views_[last].buffer, job.source);
    job.height = static_cast<int32_t>(output.height);
    job.width = static_cast<int32_t>(output.width);
    job.channels = static_cast<int32_t>(output.channels);
    job.offset = offsets_[last];
    job.wide = tensor.bits == 32;
    const auto channels = static_cast<size_t>(output.channels);
    auto* factor = plan_->storage.make<double>(channels);
    for (size_t c = 0; c < channels; c++) {
      factor[c] = program_.factor[program_.factor.size() == 1 ? 0 : c];
    }
    job.factor = factor;
    const double lowest = double(program_.low) - program_.zero_point;
    const double highest = double(program_.high) - program_.zero_point;
    const auto decoded = [&](double code, double by) {
      return std::clamp(std::nearbyint(code * by), lowest, highest);
    };
    auto* least = plan_->storage.make<double>(channels);
    auto* most = plan_->storage.make<double>(channels);
    auto* low = plan_->storage.make<int32_t>(channels);
    auto* high = plan_->storage.make<int32_t>(channels);
    for (size_t c = 0; c < channels; c++) {
      // The activation of accumulators; codes have theirs behind them.
      const Limits limits = job.wide ? relu_limits(program_.layers.back(), c)
                                     : Limits{INT32_MIN, INT32_MAX};
      low[c] = static_cast<int32_t>(limits.low);
      high[c] = static_cast<int32_t>(limits.high);
      least[c] = decoded(low[c], factor[c]);
      most[c] = decoded(high[c], factor[c]);
    }
    job.least = least;
    job.most = most;
    job.clamp_low = low;
    job.clamp_high = high;
    job.zero_point = program_.zero_point;
    job.type = static_cast<int32_t>(program_.output.type);
    plan_->raw_shape = {-1, job.height, job.width, job.channels};
    plan_->raw_type = tensor.bits == 32 ? 5 : tensor.is_signed ? 1 : 2;
  }

  void plan_layer(size_t number) {
    const Layer& layer = program_.layers[number];
    if (layer.kind == Kind::concatenate) {
      int64_t channel = 0;
      for (const size_t operand : layer.inputs) {
        const View view = views_[number + 1];
        if (inside_[operand] != number + 1) {
          plan_copy(views_[operand], operand, {view.buffer, view.channel + channel},
                    offsets_[number + 1] - offsets_[operand]);
        }
        channel += shape(operand).channels;
      }
    } else if (layer.kind == Kind::add) {
      plan_add(number);
    } else {
      plan_convolution(number);
    }
  }

  void plan_copy(View from, size_t tensor, View to, int offset) {
    auto* job = plan_->storage.make<Copy>();
    job->source = map_of(from);
    job->target = map_of(to);
    use(from.buffer, job->source);
    use(to.buffer, job->target);
    const Shape& map = shape(tensor);
    job->height = static_cast<int32_t>(map.height);
    job->width = static_cast<int32_t>(map.width);
    job->channels = static_cast<int32_t>(map.channels);
    job->offset = offset;
    if (job->source.pixel == map.channels && job->target.pixel == map.channels) {
      job->channels *= job->width;
      job->width = 1;
    }
    add_step(kernels_.copy, job, map.height, map.values());
  }

  void plan_add(size_t number) {
    const Layer& layer = program_.layers[number];
    const auto [first, second] = layer.inputs;
    const Shape& map = shape(first);
    auto* job = plan_->storage.make<Add>();
    job->height = static_cast<int32_t>(map.height);
    job->width = static_cast<int32_t>(map.width);
    job->channels = static_cast<int32_t>(map.channels);
    job->accumulators = layer.output_bits == 32;
    job->a_shift = layer.a_shift;
    job->b_shift = layer.b_shift;
    job->constant = -((int64_t{offsets_[first]} << layer.a_shift) +
                      (int64_t{offsets_[second]} << layer.b_shift));
    View target = views_[number + 1];
    if (job->accumulators) {
      buffers_[target.buffer].value_bytes = 4;
    } else {
      const int offset = offsets_[number + 1];
      // Eight bits to the left saturate all but 0.
      const int left = std::clamp(layer.output_shift, 0, 9);
      const int right = std::max(-layer.output_shift, 0);
      job->a_shift += left;
      job->b_shift += left;
      job->shift = right;
      job->constant = job->constant * (int64_t{1} << left) + ((int64_t{1} << right) >> 1) +
                      offset * (int64_t{1} << right);
      // Sums may wrap around on the way, codes being at least 0 and the constant not.
      const int64_t largest = job->constant + (largest_code(first) << job->a_shift) +
                              (largest_code(second) << job->b_shift);
      const auto fits = [&](int bits) {
        const int64_t limit = int64_t{1} << (bits - 1);
        return job->constant >= -limit && largest < limit && right < bits &&
               job->a_shift < bits && job->b_shift < bits;
      };
      job->bits = fits(16) ? 16 : fits(32) ? 32 : 64;
      const auto [lowest, highest] = code_limits(number, /*activated=*/false);
      const auto differ = [](const std::vector<uint8_t>& codes) {
        return std::any_of(codes.begin(), codes.end(), [&](uint8_t c) { return c != codes[0]; });
      };
      job->limits_step = differ(lowest) || differ(highest);
      // Operands and result without gaps, and with the same limits, are one long pixel per row.
      const auto packed = [&](const View& view) {
        return map_of(view).pixel == map.channels;
      };
      if (!job->limits_step && packed(views_[first]) && packed(views_[second]) && packed(target)) {
        job->channels *= job->width;
        job->width = 1;
      }
      const auto chunk = static_cast<size_t>(4 * lanes_);
      const size_t count = job->limits_step ? lowest.size() + chunk : chunk;
      auto* low = plan_->storage.make<uint8_t>(count);
      auto* high = plan_->storage.make<uint8_t>(count);
      for (size_t i = 0; i < count; i++) {
        low[i] = lowest[i % lowest.size()];
        high[i] = highest[i % highest.size()];
      }
      job->lowest = low;
      job->highest = high;
    }
    job->a = map_of(views_[first]);
    job->b = map_of(views_[second]);
    job->target = map_of(target);
    use(views_[first].buffer, job->a);
    use(views_[second].buffer, job->b);
    use(target.buffer, job->target);
    add_step(kernels_.add, job, map.height, map.values());
  }

  // What the activation lets through of an accumulator, within 32 bits.
  static Limits relu_limits(const Layer& layer, size_t filter) {
    if (!layer.has_relu()) return {INT32_MIN, INT32_MAX};
    if (layer.activation == Activation::relu) return {0, INT32_MAX};
    const int64_t bound = int64_t{layer.bound[filter]} << layer.bound_shift[filter];
    return {0, std::min<int64_t>(bound, INT32_MAX)};
  }

  // Stored codes per channel that a layer's activation, which a rescale does not reorder, lets
  // through; all codes where the activation has been applied before.
  std::pair<std::vector<uint8_t>, std::vector<uint8_t>> code_limits(size_t number,
                                                                    bool activated) const {
    const Layer& layer = program_.layers[number];
    const Limits codes = program_.tensors[number + 1].limits();
    const int offset = offsets_[number + 1];
    const auto channels = static_cast<size_t>(
        layer.kind == Kind::add ? shape(number + 1).channels
                                : static_cast<int64_t>(layer.output_channels()));
    std::vector<uint8_t> lowest, highest;
    for (size_t c = 0; c < channels; c++) {
      Limits limits = codes;
      if (!activated && layer.has_relu()) {
        limits.low = 0;
        if (layer.activation == Activation::bounded_relu) {
          const int64_t bound = int64_t{layer.bound[c]} << layer.bound_shift[c];
          limits.high = layer.kind == Kind::add
                            ? rescale(bound, 1, layer.output_shift, codes)
                            : rescale(bound, layer.rescale.multiplier[c], layer.rescale.shift[c],
                                      codes);
        }
      }
      // Without an offset no code is negative.
      lowest.push_back(static_cast<uint8_t>(std::max<int64_t>(limits.low + offset, 0)));
      highest.push_back(static_cast<uint8_t>(limits.high + offset));
    }
    return {lowest, highest};
  }

  // Convolutions of all kinds

  // One kernel over one map: a whole layer, or one of the four phases of a transposed one.
  struct Part {
    size_t buffer;  // that it reads
    int64_t kernel_row, kernel_pixel;  // steps within a window
    int64_t largest_input;  // as stored
    Size kernel;
    Map source;   // of the first window; steps of output rows and pixels
    Map target;
    Size size;    // of the output
    std::vector<int32_t> weights;  // [filter][row][column][channel]
    size_t listing;                // buffer of lists; or 0
    int32_t digit_bits;            // rows of the kernel are digits; or 0
  };

  // Where accumulators or codes go, and how they become codes.
  struct Sink {
    size_t buffer;
    Map map;
    bool accumulators;
    bool in_order;  // of channels, not of blocks
    // Of Depthwise: see there.
    int32_t digits, digit_bits;
    int64_t digit_step;
    size_t listing;  // buffer of lists; or 0
    int32_t usual;
  };

  int64_t input_channels(const Layer& layer) const { return shape(layer.inputs[0]).channels; }

  std::vector<int32_t> shifted_weights(const Layer& layer) const {
    std::vector<int32_t> weights(layer.weights.size());
    const size_t channels = layer.input_shift.size();
    for (size_t i = 0; i < weights.size(); i++) {
      weights[i] = layer.weights[i];
      if (channels > 0) weights[i] *= int32_t{1} << layer.input_shift[i % channels];
    }
    return weights;
  }

  // Pixels of a buffer's own map, `pads` in front of it.
  static Map window_map(const Buffer& buffer, Size stride, const Pads& pads) {
    return {-(pads.top * buffer.row() + pads.left * buffer.pixel()), stride.height * buffer.row(),
            stride.width * buffer.pixel()};
  }

  Part part_of(size_t number, Size kernel, const Map& source, const Map& target, Size size,
               std::vector<int32_t> weights) const {
    const size_t buffer = sources_[number];
    return {buffer, buffers_[buffer].row(), buffers_[buffer].pixel(),
            largest_code(program_.layers[number].inputs[0]), kernel, source, target, size,
            std::move(weights), 0, 0};
  }

  std::vector<Part> parts_of(size_t number, const Map& target) const {
    const Layer& layer = program_.layers[number];
    const Buffer& source = buffers_[sources_[number]];
    const Shape& input = shape(layer.inputs[0]);
    const Shape output = accumulator_shape(layer, input);
    if (layer.kind == Kind::dense) {
      return {part_of(number, {input.height, input.width}, window_map(source, {1, 1}, {}), target,
                      {1, 1}, shifted_weights(layer))};
    }
    if (!layer.is_transpose()) {
      return {part_of(number, layer.kernel, window_map(source, layer.stride, pads_of(layer)),
                      target, {output.height, output.width}, shifted_weights(layer))};
    }
    // Output 2 * q + phase takes row r of the kernel from input q + (phase + cut - r) / 2.
    struct Tap {
      int64_t row, from;
    };
    const auto taps_of = [](int64_t side, int64_t phase) {
      const int64_t cut = (side - 2) / 2;
      std::vector<Tap> taps;
      for (int64_t r = side - 1; r >= 0; r--) {
        if ((phase + cut - r) % 2 == 0) taps.push_back({r, (phase + cut - r) / 2});
      }
      return taps;
    };
    const int64_t channels = layer.is_depthwise() ? 1 : input.channels;
    const int64_t filters = layer.is_depthwise() ? input.channels : layer.filters;
    std::vector<Part> parts;
    for (int64_t y = 0; y < 2; y++) {
      for (int64_t x = 0; x < 2; x++) {
        const auto rows = taps_of(layer.kernel.height, y), columns = taps_of(layer.kernel.width, x);
        const Pads pads{-rows[0].from, 0, -columns[0].from, 0};
        const Map phase{target.start + y * target.row + x * target.pixel, 2 * target.row,
                        2 * target.pixel};
        Part part = part_of(
            number, {static_cast<int64_t>(rows.size()), static_cast<int64_t>(columns.size())},
            window_map(source, {1, 1}, pads), phase, {input.height, input.width}, {});
        const auto add_pixel = [&](int64_t filter, const Tap& row, const Tap& column) {
          const int64_t pixel = row.row * layer.kernel.width + column.row;
          if (layer.is_depthwise()) {
            for (int64_t f = 0; f < filters; f++) {
              part.weights.push_back(layer.weights[static_cast<size_t>(pixel * filters + f)]);
            }
            return;
          }
          const int64_t first =
              (filter * layer.kernel.height * layer.kernel.width + pixel) * channels;
          for (int64_t c = 0; c < channels; c++) {
            part.weights.push_back(layer.weights[static_cast<size_t>(first + c)]);
          }
        };
        for (int64_t filter = 0; filter < (layer.is_depthwise() ? 1 : filters); filter++) {
          for (const Tap& row : rows) {
            for (const Tap& column : columns) add_pixel(filter, row, column);
          }
        }
        parts.push_back(std::move(part));
      }
    }
    return parts;
  }

  void plan_convolution(size_t number) {
    const Layer& layer = program_.layers[number];
    const size_t source = sources_[number];
    if (source != views_[layer.inputs[0]].buffer && copied_.insert(source).second) {
      plan_copy(views_[0], 0, {source, 0}, 0);
    }
    const Shape map = accumulator_shape(layer, shape(layer.inputs[0]));
    const bool table = layer.activation == Activation::table;
    const bool wide = layer.output_bits == 32;
    const bool finishes = table || layer.average || (wide && layer.pool.present);
    const bool pools = layer.pool.present && !finishes;
    const auto blocks = blocks_of(layer);
    const View view = views_[number + 1];
    Sink sink{view.buffer, map_of(view), false, false, 0, 0, 0, 0, 0};
    if (finishes || wide) {
      const int64_t vectors =
          std::accumulate(blocks.begin(), blocks.end(), int64_t{0},
                          [](int64_t sum, const BlockShape& block) { return sum + block.vectors; });
      sink.accumulators = true;
      sink.in_order = !finishes;
      if (wide) {
        buffers_[view.buffer].shape.channels = vectors * lanes_;
        buffers_[view.buffer].value_bytes = 4;
      }
      if (finishes) sink.buffer = add_buffer({map.height, map.width, vectors * lanes_}, 4, 0);
      sink.map = map_of(sink.buffer);
    } else if (pools) {
      sink.buffer = add_buffer(map, 1, 0);
      sink.map = map_of(sink.buffer);
    }
    for (Part& part : parts_of(number, sink.map)) {
      if (layer.kind == Kind::separable) {
        plan_separable(number, part, sink, blocks);
        continue;
      }
      const Channels channels = channels_of(number, biases(layer, part), sink);
      if (layer.is_depthwise()) {
        plan_depthwise_part(number, part, sink, blocks, channels);
      } else {
        plan_dense_part(number, part, sink, blocks, channels);
      }
    }
    if (finishes) {
      plan_finish(number, map, sink, blocks);
    } else if (pools) {
      plan_max_pool(number, map, sink);
    }
  }

  std::vector<BlockShape> blocks_of(const Layer& layer) const {
    return split_channels(static_cast<int64_t>(layer.output_channels()), lanes_,
                          !layer.is_depthwise());
  }

  static int64_t block_bytes(const BlockShape& block, int32_t lanes) {
    return int64_t{block.vectors} * lanes * 4;
  }

  // Bias per filter, and what the storage code adds to every input taken back.
  std::vector<int32_t> biases(const Layer& layer, const Part& part) const {
    const size_t filters = layer.output_channels();
    std::vector<uint32_t> sums(filters);
    const size_t per_filter = part.weights.size() / filters;
    for (size_t i = 0; i < part.weights.size(); i++) {
      sums[layer.is_depthwise() ? i % filters : i / per_filter] +=
          static_cast<uint32_t>(part.weights[i]);
    }
    std::vector<int32_t> biases(filters);
    const auto offset = static_cast<uint32_t>(offsets_[layer.inputs[0]]);
    for (size_t f = 0; f < filters; f++) {
      // Modulo 2**32, as kernels add.
      biases[f] = static_cast<int32_t>(own_bias(layer, f) - offset * sums[f]);
    }
    return biases;
  }

  // What accumulators begin with. A threshold can be taken off before a maximum, not before a sum.
  static uint32_t own_bias(const Layer& layer, size_t filter) {
    if (layer.generation == 1) return layer.average ? 0 : wide_bias(layer, filter);
    return static_cast<uint32_t>(layer.bias[filter]) << layer.bias_shift[filter];
  }

  // What the potentials that a layer gives have added; a staircase has its threshold inside.
  static uint32_t wide_bias(const Layer& layer, size_t filter) {
    return layer.output_bits == 32 ? -static_cast<uint32_t>(layer.threshold[filter]) : 0;
  }

  std::vector<ChannelRescale> rescales(size_t number, const std::vector<Limits>& values) const {
    const Layer& layer = program_.layers[number];
    const Limits codes = program_.tensors[number + 1].limits();
    std::vector<ChannelRescale> all;
    for (size_t f = 0; f < layer.output_channels(); f++) {
      all.emplace_back(layer.rescale.multiplier[f], layer.rescale.shift[f], values[f], codes,
                       offsets_[number + 1]);
    }
    return all;
  }

  std::vector<Staircase> staircases(size_t number) const {
    const Layer& layer = program_.layers[number];
    const Bounds& bounds = proof_.layers[number];
    std::vector<Staircase> all;
    for (size_t f = 0; f < layer.output_channels(); f++) {
      all.emplace_back(layer.threshold[f], layer.step[f], layer.step_shift[f], layer.output_bits,
                       Limits{bounds.low[f], bounds.high[f]});
    }
    return all;
  }

  std::vector<Limits> accumulator_limits(size_t number) const {
    std::vector<Limits> limits;
    for (const int64_t worst : proof_.layers[number].accumulator) limits.push_back({-worst, worst});
    return limits;
  }

  // What all blocks of a layer take their constants from.
  struct Channels {
    std::vector<int32_t> bias;
    std::vector<ChannelRescale> rescale;  // or
    std::vector<Staircase> staircase;     // or none, for accumulators and digits
    std::vector<uint8_t> lowest, highest;
  };

  Channels channels_of(size_t number, std::vector<int32_t> bias, const Sink& sink) const {
    Channels channels;
    channels.bias = std::move(bias);
    if (!sink.accumulators) {
      if (program_.layers[number].generation == 1) {
        channels.staircase = staircases(number);
      } else {
        channels.rescale = rescales(number, accumulator_limits(number));
      }
      std::tie(channels.lowest, channels.highest) = code_limits(number, /*activated=*/false);
    }
    return channels;
  }

  using ChannelAt = std::function<int64_t(int32_t)>;

  static ChannelAt channel_at(const BlockShape& block) {
    return [block](int32_t position) {
      return position < block.channels ? block.first + position : int64_t{-1};
    };
  }

  const int32_t* no_bias() {
    if (zeros_ == nullptr) zeros_ = plan_->storage.make<int32_t>(static_cast<size_t>(4 * lanes_));
    return zeros_;
  }

  void fill_block(Block& block, int32_t vectors, const ChannelAt& channel,
                  const Channels& channels, int offset) {
    Storage& storage = plan_->storage;
    block.vectors = vectors;
    const auto own_bias = [&] {
      return pack_lanes(storage, vectors, lanes_, channel,
                        [&](size_t c) { return channels.bias[c]; });
    };
    if (channels.rescale.empty()) {
      block.bias = own_bias();
    } else {
      block.rescaler = pack_rescaler(storage, vectors, lanes_, offset, channel, channels.rescale,
                                     channels.bias);
      // Sums and products are modulo 2**32, so the addend can have it.
      block.bias = block.rescaler.kind == Rescaling::direct ? no_bias() : own_bias();
    }
    if (!channels.staircase.empty()) {
      block.rescaler = pack_staircase(storage, vectors, lanes_, channel, channels.staircase);
    }
    if (channels.lowest.empty()) return;
    block.lowest = pack_bytes(storage, vectors, lanes_, channel, channels.lowest);
    block.highest = pack_bytes(storage, vectors, lanes_, channel, channels.highest);
  }

  // Cuts rows and columns of zeros from a kernel's edges.
  static void trim(Part& part, int64_t filters, int64_t channels) {
    const Size kernel = part.kernel;
    int64_t top = kernel.height, bottom = 0, left = kernel.width, right = 0;
    size_t i = 0;
    for (int64_t filter = 0; filter < filters; filter++) {
      for (int64_t row = 0; row < kernel.height; row++) {
        for (int64_t column = 0; column < kernel.width; column++) {
          for (int64_t c = 0; c < channels; c++) {
            if (part.weights[i++] == 0) continue;
            top = std::min(top, row);
            bottom = std::max(bottom, row + 1);
            left = std::min(left, column);
            right = std::max(right, column + 1);
          }
        }
      }
    }
    if (top >= bottom) top = left = 0, bottom = right = 1;
    if (bottom - top == kernel.height && right - left == kernel.width) return;
    std::vector<int32_t> kept;
    for (int64_t filter = 0; filter < filters; filter++) {
      for (int64_t row = top; row < bottom; row++) {
        const auto first = part.weights.begin() +
                           ((filter * kernel.height + row) * kernel.width + left) * channels;
        kept.insert(kept.end(), first, first + (right - left) * channels);
      }
    }
    part.weights = std::move(kept);
    part.kernel = {bottom - top, right - left};
    part.source.start += top * part.kernel_row + left * part.kernel_pixel;
  }

  // Puts the base of each row's digit into its weights.
  static void multiply_digits(Taps& taps, int32_t bits) {
    for (size_t i = 0; i < taps.values.size(); i++) {
      const auto row = static_cast<int64_t>(i) / taps.run % taps.rows;
      taps.values[i] *= int32_t{1} << (row * bits);
    }
  }

  // Makes neighbouring pixels one with as many times the channels, where a pixel's own channels
  // leave a part of the vectors empty.
  void join_pixels(Part& part, Taps& taps, std::vector<BlockShape>& blocks) const {
    if (part.target.pixel != taps.filters) return;
    const int64_t step = part.source.pixel;
    const auto joined = [&](int64_t count) {
      return split_channels(count * taps.filters, lanes_, /*twos=*/true);
    };
    const auto cost = [&](int64_t count) {  // of a pixel: products and what comes behind them
      constexpr double epilogue = 6;
      int64_t vectors = 0;
      for (const BlockShape& block : joined(count)) vectors += block.vectors;
      const int64_t quads = taps.rows * ((taps.run + (count - 1) * step + 3) / 4);
      return static_cast<double>(vectors) * (static_cast<double>(quads) + epilogue) /
             static_cast<double>(count);
    };
    int64_t best = 1;
    for (const int64_t count : {2, 4, 8}) {
      if (part.size.width % count == 0 && cost(count) < 0.9 * cost(best)) best = count;
    }
    if (best == 1) return;
    blocks = joined(best);
    Taps wide{best * taps.filters, taps.rows, taps.run + (best - 1) * step, {}};
    wide.values.resize(static_cast<size_t>(wide.filters * wide.rows * wide.run));
    for (int64_t filter = 0; filter < wide.filters; filter++) {
      const int64_t shift = filter / taps.filters * step;
      for (int64_t row = 0; row < taps.rows; row++) {
        for (int64_t k = 0; k < taps.run; k++) {
          wide.values[static_cast<size_t>((filter * wide.rows + row) * wide.run + shift + k)] =
              taps.at(filter % taps.filters, row, k);
        }
      }
    }
    taps = std::move(wide);
    part.size.width /= best;
    part.source.pixel *= best;
    part.target.pixel *= best;
  }

  void plan_dense_part(size_t number, Part& part, const Sink& sink,
                       const std::vector<BlockShape>& given, const Channels& constants) {
    const Layer& layer = program_.layers[number];
    const auto filters = static_cast<int64_t>(layer.output_channels());
    const int64_t channels = input_channels(layer);
    trim(part, filters, channels);
    Taps taps{filters, part.kernel.height, part.kernel.width * channels, std::move(part.weights)};
    if (taps.rows > 1 && part.kernel_row == taps.run && part.digit_bits == 0) {  // without a gap
      taps.run *= taps.rows;
      taps.rows = 1;
    }
    const int64_t pixels = part.size.height * part.size.width;
    const int64_t work = pixels * filters * taps.rows * taps.run;
    std::vector<BlockShape> blocks = given;
    // First: it moves taps into other pairs.
    if (!sink.accumulators && part.listing == 0) join_pixels(part, taps, blocks);
    // Bases are 16-bit factors there.
    const bool may_be_narrow = part.digit_bits == 0 || taps.rows == 2;
    const int32_t narrow = may_be_narrow ? narrow_quads(taps, part.largest_input) : 0;
    if (narrow == 0 && part.digit_bits > 0) multiply_digits(taps, part.digit_bits);
    auto* job = plan_->storage.make<Convolution>();
    job->source = part.source;
    job->target = part.target;
    job->kernel_row = part.kernel_row;
    job->kernel_rows = static_cast<int32_t>(taps.rows);
    job->quads = static_cast<int32_t>((taps.run + 3) / 4);
    job->planes = plane_count(taps.values);
    job->pairs = kernels_.quad_limit == 0 ||
                 (kernels_.quad_limit != INT32_MAX &&
                  (job->planes > 1 ||
                   largest_pair(taps) * part.largest_input > kernels_.quad_limit));
    job->narrow = narrow;
    job->digit_bits = part.digit_bits;
    job->accumulators = sink.accumulators;
    job->in_order = sink.in_order;
    job->target_width = static_cast<int32_t>(part.size.width);
    job->rows = static_cast<int32_t>(part.size.height);
    job->width = job->last_width = static_cast<int32_t>(part.size.width);
    job->one_pixel = pixels == 1;
    if (part.source.row == part.size.width * part.source.pixel) {
      const int64_t joined = part.size.height * part.size.width;
      const int64_t width = std::min(joined, flat_row_pixels);
      job->rows = static_cast<int32_t>((joined + width - 1) / width);
      job->width = static_cast<int32_t>(width);
      job->last_width = static_cast<int32_t>(joined - (job->rows - 1) * width);
      job->source.row = width * part.source.pixel;
    }
    auto* packed = plan_->storage.make<Block>(blocks.size());
    int64_t wide = 0;
    for (size_t i = 0; i < blocks.size(); i++) {
      const BlockShape& shape = blocks[i];
      const ChannelAt channel = [&](int32_t position) {
        return position < shape.channels ? (shape.first + position) % filters : int64_t{-1};
      };
      fill_block(packed[i], shape.vectors, channel, constants, offsets_[number + 1]);
      packed[i].channels = shape.channels;
      packed[i].target = sink.accumulators ? wide : shape.first;
      packed[i].weights = pack_convolution(plan_->storage, taps, shape, lanes_, job->planes,
                                           job->pairs != 0);
      if (part.listing > 0) packed[i].listed = pack_listed(plan_->storage, taps, shape, lanes_);
      wide += block_bytes(shape, lanes_);
    }
    job->blocks = packed;
    job->block_count = static_cast<int32_t>(blocks.size());
    job->rows_first = taps.rows * taps.run * taps.filters <= cached_weights;
    use(part.buffer, job->source);
    use(sink.buffer, job->target);
    if (part.listing > 0) {
      job->lists = map_of(part.listing);
      use(part.listing, job->lists);
    }
    const int64_t units = job->block_count * (job->one_pixel ? 1 : job->rows);
    add_step(kernels_.convolution, job, units, work, job->one_pixel != 0);
  }

  // Quads whose products fit the 16 bits that some processors compute pairs of them in.
  int32_t narrow_quads(const Taps& taps, int64_t largest_input) const {
    constexpr int64_t fewest = 4;
    if (kernels_.quad_limit != INT16_MAX) return 0;
    const int64_t pair = std::max<int64_t>(largest_pair(taps) * largest_input, 1);
    const int64_t quads = kernels_.quad_limit / pair;
    if (std::min(quads, taps.run / 4) < fewest) return 0;
    return static_cast<int32_t>(std::min<int64_t>(quads, INT16_MAX));
  }

  // Two numbers of groups, two groups that are not full, and what is overwritten behind them.
  size_t add_lists(const Shape& map, int64_t longest) {
    const int64_t bytes = 8 + 2 * (longest + 2 * listed_group);
    return add_buffer({map.height, map.width, (bytes + 7) / 8 * 8}, 1, 0);
  }

  // The depthwise half gives digits of its sums above the lowest one, each digit in a map of its
  // own. The pointwise half takes each as a row of its kernel, or of the second one a list.
  void plan_separable(size_t number, Part& depthwise, const Sink& sink,
                      const std::vector<BlockShape>& blocks) {
    const Layer& layer = program_.layers[number];
    const int64_t channels = input_channels(layer);
    const Shape map = accumulator_shape(layer, shape(layer.inputs[0]));
    const Digits digits = choose_digits(depthwise_sums(layer, proof_.tensors[layer.inputs[0]].high),
                                        layer.weights_bits, lanes_);
    const bool lists = digits.listed > 0;
    Channels halfway;
    for (const int64_t lowest : digits.lowest) {
      halfway.bias.push_back(static_cast<int32_t>(-static_cast<uint32_t>(lowest)));
    }
    const size_t buffer = add_buffer({digits.count * map.height, map.width, channels}, 1, 0);
    const Map target = map_of(buffer);
    const int64_t step = map.height * target.row;
    const size_t listing = lists ? add_lists(map, digits.listed) : 0;
    const Sink to{buffer, target, false, false, digits.count, digits.bits, step, listing,
                  static_cast<int32_t>(digits.usual)};

    Part pointwise{};
    pointwise.buffer = buffer;
    pointwise.kernel_row = step;
    pointwise.kernel_pixel = target.pixel;
    pointwise.largest_input = digits.count == 1 ? digits.span
                                                : std::max(digits.span >> digits.bits,
                                                           (int64_t{1} << digits.bits) - 1);
    pointwise.kernel = {lists ? 1 : digits.count, 1};
    pointwise.source = target;
    pointwise.target = sink.map;
    pointwise.size = {map.height, map.width};
    pointwise.listing = listing;
    pointwise.digit_bits = pointwise.kernel.height > 1 ? digits.bits : 0;
    std::vector<int32_t> bias;
    for (size_t f = 0; f < layer.output_channels(); f++) {
      const size_t first = f * digits.lowest.size();
      uint32_t own = own_bias(layer, f);
      for (size_t c = 0; c < digits.lowest.size(); c++) {
        const int64_t taken_off = digits.lowest[c] + (lists ? int64_t{256} * digits.usual : 0);
        own += static_cast<uint32_t>(int32_t{layer.pointwise[first + c]}) *
               static_cast<uint32_t>(taken_off);
      }
      bias.push_back(static_cast<int32_t>(own));
      for (int64_t digit = 0; digit < pointwise.kernel.height; digit++) {
        for (size_t c = 0; c < digits.lowest.size(); c++) {
          pointwise.weights.push_back(layer.pointwise[first + c]);
        }
      }
    }
    depthwise.target = target;
    plan_depthwise_part(number, depthwise, to, split_channels(channels, lanes_, /*twos=*/false),
                        halfway);
    plan_dense_part(number, pointwise, sink, blocks, channels_of(number, std::move(bias), sink));
  }

  void plan_depthwise_part(size_t number, const Part& part, const Sink& sink,
                           std::vector<BlockShape> blocks, const Channels& constants) {
    const Layer& layer = program_.layers[number];
    const int64_t channels = input_channels(layer);
    auto* job = plan_->storage.make<Depthwise>();
    job->source = part.source;
    job->target = part.target;
    job->kernel_row = part.kernel_row;
    job->kernel_pixel = part.kernel_pixel;
    job->kernel_height = static_cast<int32_t>(part.kernel.height);
    job->kernel_width = static_cast<int32_t>(part.kernel.width);
    job->height = static_cast<int32_t>(part.size.height);
    job->width = static_cast<int32_t>(part.size.width);
    job->strip = strip_of(part.size.height, part.kernel_row);
    job->channels = static_cast<int32_t>(channels);
    job->accumulators = sink.accumulators;
    job->pairs = kernels_.quad_limit == 0 ||
                 (kernels_.quad_limit != INT32_MAX &&
                  largest_pair(rows_of(part, channels)) * part.largest_input >
                      kernels_.quad_limit);
    job->digits = sink.digits;
    job->digit_bits = sink.digit_bits;
    job->digit_step = sink.digit_step;
    const int64_t block = 4 * lanes_, period = std::lcm(channels, block);
    job->flat = !sink.accumulators && part.source.pixel == channels &&
                part.target.pixel == channels && channels % block != 0 &&
                period <= longest_flat && part.kernel.height * part.kernel.width <= largest_flat;
    if (job->flat) {
      blocks.clear();
      for (int64_t first = 0; first < period; first += block) {
        blocks.push_back({4, static_cast<int32_t>(block), first});
      }
    }
    auto* packed = plan_->storage.make<Block>(blocks.size());
    int64_t wide = 0;
    for (size_t i = 0; i < blocks.size(); i++) {
      const BlockShape& shape = blocks[i];
      ChannelAt channel = channel_at(shape);
      if (job->flat) {
        channel = [&](int32_t position) { return (shape.first + position) % channels; };
      }
      fill_block(packed[i], shape.vectors, channel, constants, offsets_[number + 1]);
      packed[i].channels = shape.channels;
      packed[i].source = shape.first;
      packed[i].target = sink.accumulators ? wide : shape.first;
      packed[i].weights = pack_depthwise(plan_->storage, part.weights, part.kernel, channels,
                                         shape.vectors, lanes_, job->pairs != 0, channel);
      wide += block_bytes(shape, lanes_);
    }
    job->blocks = packed;
    job->block_count = static_cast<int32_t>(blocks.size());
    use(part.buffer, job->source);
    use(sink.buffer, job->target);
    if (sink.listing > 0) {
      job->lists = map_of(sink.listing);
      job->usual = sink.usual;
      use(sink.listing, job->lists);
    }
    const int64_t outputs = part.size.height * part.size.width * channels;
    add_step(kernels_.depthwise, job, (part.size.height + job->strip - 1) / job->strip,
             outputs * part.kernel.height * part.kernel.width);
  }

  // Rows that a depthwise layer goes down at once: as many as stay in a cache, and an even number.
  static int32_t strip_of(int64_t height, int64_t row_bytes) {
    const int64_t rows = std::clamp(strip_bytes / row_bytes, shortest_strip, longest_strip);
    return static_cast<int32_t>(std::min(height, rows / 2 * 2));
  }

  // The rows that a depthwise kernel multiplies at once, each padded to whole quads.
  static Taps rows_of(const Part& part, int64_t channels) {
    const auto [height, width] = part.kernel;
    const int64_t run = (width + 3) / 4 * 4;
    Taps taps{channels, height, run,
              std::vector<int32_t>(static_cast<size_t>(channels * height * run))};
    size_t next = 0;
    for (int64_t row = 0; row < height; row++) {
      for (int64_t column = 0; column < width; column++) {
        for (int64_t c = 0; c < channels; c++) {
          const int64_t at = (c * height + row) * run + column;
          taps.values[static_cast<size_t>(at)] = part.weights[next++];
        }
      }
    }
    return taps;
  }

  void plan_finish(size_t number, const Shape& map, const Sink& sink,
                   const std::vector<BlockShape>& blocks) {
    const Layer& layer = program_.layers[number];
    const Shape& output = shape(number + 1);
    const View view = views_[number + 1];
    const bool table = layer.activation == Activation::table;
    Storage& storage = plan_->storage;
    auto* job = storage.make<Finish>();
    job->source = sink.map;
    job->target = map_of(view);
    fill_window(*job, layer, map, output);
    job->sum = layer.average;
    job->accumulators = layer.output_bits == 32;
    if (table) {
      auto* values = storage.make<int16_t>(layer.table.size());
      for (size_t i = 0; i < layer.table.size(); i++) values[i] = layer.table[i];
      job->table = values;
    }
    const Bounds& bounds = proof_.layers[number];
    Channels constants;
    constants.bias.resize(layer.output_channels());
    std::vector<ChannelRescale> to_table;
    if (layer.generation == 1) {
      for (size_t f = 0; layer.average && f < layer.output_channels(); f++) {
        constants.bias[f] = static_cast<int32_t>(wide_bias(layer, f));
      }
      if (!job->accumulators) constants.staircase = staircases(number);
    } else {
      std::vector<Limits> values;
      const std::vector<Limits> accumulators = accumulator_limits(number);
      for (size_t f = 0; f < layer.output_channels(); f++) {
        values.push_back({bounds.low[f], bounds.high[f]});
        if (table) {
          to_table.emplace_back(layer.to_table.multiplier[f], layer.to_table.shift[f],
                                accumulators[f], Limits{-1024, 1023}, 0);
        }
      }
      constants.rescale = rescales(number, values);
    }
    std::tie(constants.lowest, constants.highest) = code_limits(number, /*activated=*/true);
    auto* packed = storage.make<Block>(blocks.size());
    int64_t wide = 0;
    for (size_t i = 0; i < blocks.size(); i++) {
      const BlockShape& shape = blocks[i];
      const ChannelAt channel = channel_at(shape);
      Block& block = packed[i];
      fill_block(block, shape.vectors, channel, constants, offsets_[number + 1]);
      block.channels = shape.channels;
      block.source = wide;
      block.target = job->accumulators ? wide : shape.first;
      if (table) {
        block.to_table = pack_rescaler(storage, shape.vectors, lanes_, 0, channel, to_table,
                                       constants.bias);
      } else if (layer.has_relu()) {
        const auto limit = [&](bool high) {
          return pack_lanes(storage, shape.vectors, lanes_, channel, [&](size_t c) {
            const Limits limits = relu_limits(layer, c);
            return static_cast<int32_t>(high ? limits.high : limits.low);
          });
        };
        block.clamp_low = limit(false);
        block.clamp_high = limit(true);
      }
      wide += block_bytes(shape, lanes_);
    }
    job->blocks = packed;
    job->block_count = static_cast<int32_t>(blocks.size());
    use(sink.buffer, job->source);
    use(view.buffer, job->target);
    add_step(kernels_.finish, job, output.height, map.values());
  }

  template <class Job>
  static void fill_window(Job& job, const Layer& layer, const Shape& map, const Shape& output) {
    job.source_height = static_cast<int32_t>(map.height);
    job.source_width = static_cast<int32_t>(map.width);
    job.height = static_cast<int32_t>(output.height);
    job.width = static_cast<int32_t>(output.width);
    job.window_height = job.window_width = job.stride_height = job.stride_width = 1;
    if (!layer.pool.present) return;
    const Pool& pool = layer.pool;
    job.window_height = static_cast<int32_t>(pool.size.height);
    job.window_width = static_cast<int32_t>(pool.size.width);
    job.stride_height = static_cast<int32_t>(pool.stride.height);
    job.stride_width = static_cast<int32_t>(pool.stride.width);
    if (pool.padding == Padding::valid) return;
    const Pads pads = same_pads({map.height, map.width}, pool.size, pool.stride);
    job.top = static_cast<int32_t>(pads.top);
    job.left = static_cast<int32_t>(pads.left);
  }

  // Maximum of codes: a rescale does not reorder accumulators.
  void plan_max_pool(size_t number, const Shape& map, const Sink& sink) {
    const Layer& layer = program_.layers[number];
    const Shape& output = shape(number + 1);
    const View view = views_[number + 1];
    auto* job = plan_->storage.make<MaxPool>();
    job->source = sink.map;
    job->target = map_of(view);
    fill_window(*job, layer, map, output);
    job->channels = static_cast<int32_t>(map.channels);
    use(sink.buffer, job->source);
    use(view.buffer, job->target);
    add_step(kernels_.max_pool, job, output.height,
             output.values() * job->window_height * job->window_width);
  }

  const Program& program_;
  const KernelTable& kernels_;
  const Proof proof_;  // of the program before it was simplified: tensors and layers are the same
  const int32_t lanes_;
  const int32_t* zeros_ = nullptr;
  std::unique_ptr<Plan> plan_;
  std::vector<int> offsets_;      // of storage, per tensor
  int64_t largest_input_ = 0;     // stored code
  std::vector<size_t> readers_;   // per tensor
  std::vector<size_t> inside_;    // tensor whose buffer an operand is written into, or 0
  std::vector<Buffer> buffers_;
  std::vector<View> views_;       // per tensor
  std::vector<size_t> sources_;   // buffer each layer reads
  std::vector<size_t> images_;    // buffers of the image, each with a border of its own
  std::set<size_t> copied_;
  std::vector<std::pair<int64_t*, size_t>> patches_;  // addresses that miss their buffer's start
};

}  // namespace

std::unique_ptr<Plan> make_plan(const Program& program, const KernelTable& kernels) {
  Proof proof = prove(program);
  const Simplified simplified = simplify(program);
  return Planner(simplified.program, std::move(proof), kernels).make();
}

}  // namespace akida_backend
