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
    I::store_whole(to + c, I::clamp(codes, job.lowest + c * step, job.highest + c * step), job.channels - c);
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
    I::store_whole(to + c, I::clamp(codes, job.lowest + c * step, job.highest + c * step), job.channels - c);
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
    if (job->parts == 1) {  // the input's pixels have no gap between them
      const int64_t count = channels * job->width;
      if (job->ramp) {
        encode_ramp(*job, host, to, count);
      } else {
        for (int64_t i = 0; i < count; i++) to[i] = job->tables[host[i]];
      }
      host += count;
      continue;
    }
    for (int64_t x = 0; x < job->width; x++, host += channels, to += job->target.pixel) {
      for (int64_t c = 0; c < channels; c++) {
        to[c] = job->tables[host[c]];
        to[c + channels] = job->tables[256 + host[c]];
      }
    }
  }
}

template <class T>
void* narrowed(const int32_t* values, int64_t count, void* to) {
  auto* bytes = static_cast<uint8_t*>(to);
  for (int64_t i = 0; i < count; i++) {
    const auto value = static_cast<T>(values[i]);
    std::memcpy(bytes + i * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
  }
  return bytes + count * static_cast<int64_t>(sizeof(T));
}

// Host integers in place of codes.
void decode_codes(const Decode& job, int32_t* codes, const double* factor, int64_t count) {
  // Round half to even: beyond 2**52 a double has no fraction, and adding rounds so.
  constexpr double integers_only = 6755399441055744.0;  // 1.5 * 2**52
  const double zero_point = job.zero_point, low = job.low, high = job.high;
  // Beyond these the result is low or high all the same.
  const double least = low - zero_point - 1, most = high - zero_point + 1;
  for (int64_t i = 0; i < count; i++) {
    double real = codes[i] * factor[i];
    real = real < least ? least : real;
    real = real > most ? most : real;
    real = (real + integers_only) - integers_only + zero_point;
    real = real < low ? low : real;
    codes[i] = static_cast<int32_t>(real > high ? high : real);
  }
}

void decode(const Decode* job, const uint8_t* arena, void* host, void* raw) {
  constexpr int64_t portion = 256;
  int32_t codes[portion];
  for (int64_t y = 0; y < job->height; y++) {
    for (int64_t x = 0; x < job->width; x++) {
      const uint8_t* pixel =
          arena + job->source.start + y * job->source.row + x * job->source.pixel;
      for (int64_t first = 0; first < job->channels; first += portion) {
        const int64_t count = smaller<int64_t>(portion, job->channels - first);
        if (job->wide) {
          const auto* sums = reinterpret_cast<const int32_t*>(pixel) + first;
          const int32_t *low = job->clamp_low + first, *high = job->clamp_high + first;
          for (int64_t i = 0; i < count; i++) codes[i] = smaller(larger(sums[i], low[i]), high[i]);
        } else {
          for (int64_t i = 0; i < count; i++) codes[i] = pixel[first + i] - job->offset;
        }
        if (raw != nullptr) {
          raw = job->wide ? narrowed<int32_t>(codes, count, raw)
                          : narrowed<uint8_t>(codes, count, raw);
        }
        decode_codes(*job, codes, job->factor + first, count);
        switch (job->type) {
          case 1:
          case 2:
            host = narrowed<uint8_t>(codes, count, host);
            break;
          case 3:
          case 4:
            host = narrowed<uint16_t>(codes, count, host);
            break;
          default:
            host = narrowed<int32_t>(codes, count, host);
        }
      }
    }
  }
}

}  // namespace

#endif
