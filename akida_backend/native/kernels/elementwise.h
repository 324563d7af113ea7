// SPDX-License-Identifier: Apache-2.0
// Pooling, tables, sums of tensors, data movement and the two ends of a program.
#ifndef AKIDA_BACKEND_ELEMENTWISE_H
#define AKIDA_BACKEND_ELEMENTWISE_H

#include <cstring>

#include "rescaling.h"

namespace {

// Accumulators of a block at one pixel, through the activation.
template <class I>
AKIDA_BACKEND_INLINE typename I::Vector activated(typename I::Vector x, const Finish& job,
                                                  const Block& block, int at) {
  if (job.table != nullptr) {
    alignas(64) int32_t index[I::lanes];
    x = rescaled<I>(x, block.to_table, at);
    I::store(index, I::minimum(I::maximum(x, I::set(-1024)), I::set(1023)));
    for (int i = 0; i < I::lanes; i++) index[i] = job.table[index[i] + 1024];
    return I::load(index);
  }
  if (block.clamp_low != nullptr) {
    return I::minimum(I::maximum(x, I::load(block.clamp_low + at)), I::load(block.clamp_high + at));
  }
  return x;
}

template <class I, int vectors>
void finish_pixel(const Finish& job, const Block& block, const uint8_t* source, int64_t y,
                  int64_t x, uint8_t* to) {
  using Vector = typename I::Vector;
  const auto read = [&](int64_t row, int64_t column, int v) {
    const uint8_t* from = source + row * job.source.row + column * job.source.pixel;
    return I::load(reinterpret_cast<const int32_t*>(from) + v * I::lanes);
  };
  Vector values[1][vectors];
  if (job.sum) {
    Vector sums[vectors];
    AKIDA_BACKEND_UNROLL
    for (int v = 0; v < vectors; v++) sums[v] = I::zero();
    for (int64_t row = 0; row < job.source_height; row++) {
      for (int64_t column = 0; column < job.source_width; column++) {
        AKIDA_BACKEND_UNROLL
        for (int v = 0; v < vectors; v++) {
          const Vector value = activated<I>(read(row, column, v), job, block, v * I::lanes);
          sums[v] = I::add(sums[v], value);
        }
      }
    }
    AKIDA_BACKEND_UNROLL
    for (int v = 0; v < vectors; v++) values[0][v] = sums[v];
  } else {
    const int64_t top = y * job.stride_height - job.top, left = x * job.stride_width - job.left;
    const int64_t bottom = smaller<int64_t>(top + job.window_height, job.source_height);
    const int64_t right = smaller<int64_t>(left + job.window_width, job.source_width);
    for (int v = 0; v < vectors; v++) {
      Vector largest = I::set(INT32_MIN);
      for (int64_t row = larger<int64_t>(top, 0); row < bottom; row++) {
        for (int64_t column = larger<int64_t>(left, 0); column < right; column++) {
          largest = I::maximum(largest, read(row, column, v));
        }
      }
      values[0][v] = activated<I>(largest, job, block, v * I::lanes);
    }
  }
  Cursor target{to, 0, 0, INT32_MAX, INT32_MAX};
  if (job.accumulators) {
    for (int v = 0; v < vectors; v++) {
      values[0][v] = I::add(values[0][v], I::load(block.bias + v * I::lanes));
    }
    I::order(values[0]);
    store_accumulators<I>(values, target);
    return;
  }
  store_codes<I>(values, block, target);
}

template <class I>
void finish(const void* untyped, uint8_t* arena, int64_t arena_step, int64_t, int64_t begin,
            int64_t end) {
  const auto& job = *static_cast<const Finish*>(untyped);
  for (int64_t unit = begin; unit < end; unit++) {
    uint8_t* base = arena + unit / job.height * arena_step;
    const int64_t y = unit % job.height;
    for (int32_t number = 0; number < job.block_count; number++) {
      const Block& block = job.blocks[number];
      const auto pixel = block.vectors == 4   ? finish_pixel<I, 4>
                         : block.vectors == 2 ? finish_pixel<I, 2>
                                              : finish_pixel<I, 1>;
      const uint8_t* source = base + job.source.start + block.source;
      uint8_t* to = base + job.target.start + block.target + y * job.target.row;
      for (int64_t x = 0; x < job.width; x++, to += job.target.pixel) {
        pixel(job, block, source, y, x, to);
      }
    }
  }
}

void max_pool(const void* untyped, uint8_t* arena, int64_t arena_step, int64_t, int64_t begin,
              int64_t end) {
  const auto& job = *static_cast<const MaxPool*>(untyped);
  const int32_t channels = job.channels;
  for (int64_t unit = begin; unit < end; unit++) {
    uint8_t* base = arena + unit / job.height * arena_step;
    const int64_t y = unit % job.height;
    const uint8_t* source = base + job.source.start;
    uint8_t* __restrict to = base + job.target.start + y * job.target.row;
    const int64_t top = y * job.stride_height - job.top;
    const int64_t bottom = smaller<int64_t>(top + job.window_height, job.source_height);
    for (int64_t x = 0; x < job.width; x++, to += job.target.pixel) {
      const int64_t left = x * job.stride_width - job.left;
      const int64_t right = smaller<int64_t>(left + job.window_width, job.source_width);
      std::memset(to, 0, static_cast<size_t>(channels));
      for (int64_t row = larger<int64_t>(top, 0); row < bottom; row++) {
        for (int64_t column = larger<int64_t>(left, 0); column < right; column++) {
          const uint8_t* from = source + row * job.source.row + column * job.source.pixel;
          for (int32_t c = 0; c < channels; c++) to[c] = larger(to[c], from[c]);
        }
      }
    }
  }
}

template <class I>
void add_in_16_bits(const Add& job, const uint8_t* a, const uint8_t* b, uint8_t* to) {
  const int32_t step = job.limits_step;
  for (int32_t c = 0; c < job.channels; c += 4 * I::lanes) {
    const auto codes = I::add_bytes(I::load_bytes(a + c), I::load_bytes(b + c), job.a_shift,
                                    job.b_shift, static_cast<int>(job.constant), job.shift);
    const auto clamped = I::clamp(codes, job.lowest + c * step, job.highest + c * step);
    I::store_whole(to + c, clamped, job.channels - c);
  }
}

template <class I>
void add_in_32_bits(const Add& job, const uint8_t* a, const uint8_t* b, uint8_t* to) {
  using Vector = typename I::Vector;
  const int32_t step = job.limits_step;
  const Vector constant = I::set(static_cast<int32_t>(job.constant)), by = I::set(job.shift);
  const auto zero = I::zero_bytes();
  for (int32_t c = 0; c < job.channels; c += 4 * I::lanes) {
    Vector first[4], second[4];
    I::interleave(I::load_bytes(a + c), zero, zero, zero, first);
    I::interleave(I::load_bytes(b + c), zero, zero, zero, second);
    AKIDA_BACKEND_UNROLL
    for (int v = 0; v < 4; v++) {
      const Vector sum =
          I::add(I::shift_left(first[v], job.a_shift), I::shift_left(second[v], job.b_shift));
      first[v] = I::shift_right(I::add(sum, constant), by);
    }
    const auto codes = I::pack(first[0], first[1], first[2], first[3]);
    const auto clamped = I::clamp(codes, job.lowest + c * step, job.highest + c * step);
    I::store_whole(to + c, clamped, job.channels - c);
  }
}

int64_t added(const Add& job, uint8_t a, uint8_t b) {
  return a * (int64_t{1} << job.a_shift) + b * (int64_t{1} << job.b_shift) + job.constant;
}

void add_in_64_bits(const Add& job, const uint8_t* a, const uint8_t* b, uint8_t* to) {
  for (int32_t c = 0; c < job.channels; c++) {
    const int64_t code = added(job, a[c], b[c]) >> job.shift;
    const int64_t lowest = job.lowest[c * job.limits_step];
    const int64_t highest = job.highest[c * job.limits_step];
    to[c] = static_cast<uint8_t>(smaller(larger(code, lowest), highest));
  }
}

void add_to_accumulators(const Add& job, const uint8_t* a, const uint8_t* b, uint8_t* to) {
  auto* sums = reinterpret_cast<int32_t*>(to);
  for (int32_t c = 0; c < job.channels; c++) {
    sums[c] = static_cast<int32_t>(added(job, a[c], b[c]));
  }
}

template <class I>
void add(const void* untyped, uint8_t* arena, int64_t arena_step, int64_t, int64_t begin,
         int64_t end) {
  const auto& job = *static_cast<const Add*>(untyped);
  const auto pixel = job.accumulators ? add_to_accumulators
                     : job.bits == 16 ? add_in_16_bits<I>
                     : job.bits == 32 ? add_in_32_bits<I>
                                      : add_in_64_bits;
  for (int64_t unit = begin; unit < end; unit++) {
    uint8_t* base = arena + unit / job.height * arena_step;
    const int64_t y = unit % job.height;
    const uint8_t* a = base + job.a.start + y * job.a.row;
    const uint8_t* b = base + job.b.start + y * job.b.row;
    uint8_t* to = base + job.target.start + y * job.target.row;
    for (int64_t x = 0; x < job.width; x++) {
      pixel(job, a + x * job.a.pixel, b + x * job.b.pixel, to + x * job.target.pixel);
    }
  }
}

void copy(const void* untyped, uint8_t* arena, int64_t arena_step, int64_t, int64_t begin,
          int64_t end) {
  const auto& job = *static_cast<const Copy*>(untyped);
  for (int64_t unit = begin; unit < end; unit++) {
    uint8_t* base = arena + unit / job.height * arena_step;
    const int64_t y = unit % job.height;
    const uint8_t* from = base + job.source.start + y * job.source.row;
    uint8_t* to = base + job.target.start + y * job.target.row;
    for (int64_t x = 0; x < job.width; x++, from += job.source.pixel, to += job.target.pixel) {
      for (int32_t c = 0; c < job.channels; c++) {
        to[c] = static_cast<uint8_t>(from[c] + job.offset);
      }
    }
  }
}

void encode_ramp(const Encode& job, const uint8_t* __restrict host, uint8_t* __restrict to,
                 int64_t count) {
  const uint8_t flip = job.flip, lowest = job.lowest, highest = job.highest;
  const auto step = static_cast<int16_t>(job.step);
  for (int64_t i = 0; i < count; i++) {
    const auto code = static_cast<int16_t>((host[i] ^ flip) + step);
    const int16_t raised = larger<int16_t>(code, lowest);
    to[i] = static_cast<uint8_t>(smaller<int16_t>(raised, highest));
  }
}

void encode(const Encode* job, const uint8_t* host, uint8_t* arena) {
  const int64_t channels = job->channels;
  for (int64_t y = 0; y < job->height; y++) {
    uint8_t* to = arena + job->target.start + y * job->target.row;
    if (job->parts == 1 && !job->per_channel) {  // the input's pixels have no gap between them
      const int64_t count = channels * job->width;
      if (job->ramp) {
        encode_ramp(*job, host, to, count);
      } else {
        for (int64_t i = 0; i < count; i++) to[i] = job->tables[host[i]];
      }
      host += count;
      continue;
    }
    const int64_t channel_step = job->per_channel ? 256 : 0;
    const int64_t part_step = job->per_channel ? 256 * channels : 256;
    for (int64_t x = 0; x < job->width; x++, host += channels, to += job->target.pixel) {
      const uint8_t* tables = job->tables;
      for (int64_t part = 0; part < job->parts; part++, tables += part_step) {
        uint8_t* of_part = to + part * channels;
        for (int64_t c = 0; c < channels; c++) of_part[c] = tables[c * channel_step + host[c]];
      }
    }
  }
}

// Host integers of some codes. Beyond 2**52 a double has no fraction: adding rounds half to even,
// and leaves the integer in the lower bits.
template <class Code, class Host>
void decode_values(const Decode& job, const Code* __restrict codes, int64_t count,
                   const double* __restrict factor, const double* __restrict least,
                   const double* __restrict most, uint8_t* __restrict host) {
  constexpr double integers_only = 6755399441055744.0;  // 1.5 * 2**52
  const auto zero_point = static_cast<uint32_t>(job.zero_point);
  const int32_t offset = job.offset;
  for (int64_t i = 0; i < count; i++) {
    double real = (int32_t{codes[i]} - offset) * factor[i];
    real = real < least[i] ? least[i] : real;
    real = (real > most[i] ? most[i] : real) + integers_only;
    int64_t bits;
    std::memcpy(&bits, &real, sizeof bits);
    const auto value = static_cast<Host>(static_cast<uint32_t>(bits) + zero_point);
    std::memcpy(host + i * static_cast<int64_t>(sizeof value), &value, sizeof value);
  }
}

template <class Code>
uint8_t* decode_pixel(const Decode& job, const uint8_t* pixel, uint8_t* host) {
  const auto* codes = reinterpret_cast<const Code*>(pixel);
  const int64_t count = job.channels;
  const double *factor = job.factor, *least = job.least, *most = job.most;
  switch (job.type) {
    case 1:
    case 2:
      decode_values<Code, uint8_t>(job, codes, count, factor, least, most, host);
      return host + count;
    case 3:
    case 4:
      decode_values<Code, uint16_t>(job, codes, count, factor, least, most, host);
      return host + 2 * count;
    default:
      decode_values<Code, int32_t>(job, codes, count, factor, least, most, host);
      return host + 4 * count;
  }
}

// The device's own codes.
uint8_t* copy_pixel(const Decode& job, const uint8_t* pixel, uint8_t* raw) {
  if (!job.wide) {
    for (int32_t c = 0; c < job.channels; c++) raw[c] = static_cast<uint8_t>(pixel[c] - job.offset);
    return raw + job.channels;
  }
  const auto* sums = reinterpret_cast<const int32_t*>(pixel);
  for (int32_t c = 0; c < job.channels; c++) {
    const int32_t code = smaller(larger(sums[c], job.clamp_low[c]), job.clamp_high[c]);
    std::memcpy(raw + 4 * int64_t{c}, &code, sizeof code);
  }
  return raw + 4 * int64_t{job.channels};
}

void decode(const Decode* job, const uint8_t* arena, void* host, void* raw) {
  auto* to = static_cast<uint8_t*>(host);
  auto* raw_to = static_cast<uint8_t*>(raw);
  for (int64_t y = 0; y < job->height; y++) {
    const uint8_t* pixel = arena + job->source.start + y * job->source.row;
    for (int64_t x = 0; x < job->width; x++, pixel += job->source.pixel) {
      to = job->wide ? decode_pixel<int32_t>(*job, pixel, to)
                     : decode_pixel<uint8_t>(*job, pixel, to);
      if (raw_to != nullptr) raw_to = copy_pixel(*job, pixel, raw_to);
    }
  }
}

}  // namespace

#endif
