// SPDX-License-Identifier: Apache-2.0
// Depthwise convolutions: up to four columns of a kernel's row stand in one 32-bit lane per
// channel, so a row is one dot product. Work goes down the map, where rows serve several outputs.
#ifndef AKIDA_BACKEND_DEPTHWISE_H
#define AKIDA_BACKEND_DEPTHWISE_H

#include <cstring>

#include "rescaling.h"

namespace {

template <class I, int vectors>
using Quads = typename I::Vector[vectors];

// Four bytes per lane: those at `a`, `b`, `c` and, unless there are three, `d`.
template <class I, int vectors, bool three>
AKIDA_BACKEND_INLINE void read_quads(const uint8_t* a, const uint8_t* b, const uint8_t* c,
                                     const uint8_t* d, Quads<I, vectors>& quads) {
  if constexpr (vectors == 4) {
    I::interleave(I::load_bytes(a), I::load_bytes(b), I::load_bytes(c),
                  three ? I::zero_bytes() : I::load_bytes(d), quads);
  } else {
    quads[0] = three ? I::quad(a, b, c) : I::quad(a, b, c, d);
  }
}

template <class I, int outputs, int vectors>
AKIDA_BACKEND_INLINE void store_depthwise(const Depthwise& job, const Block& block,
                                          typename I::Vector (&sums)[outputs][vectors],
                                          Cursor& target) {
  if (job.accumulators) {
    store_accumulators<I>(sums, target);
  } else if (job.digits == 2) {
    store_two_digits<I>(sums, block, target, job.digit_bits, job.digit_step);
  } else if (job.digits > 0) {
    Cursor to = target;
    for (int32_t digit = 0; digit < job.digits; digit++, to.at += job.digit_step) {
      store_byte<I>(sums, block, to, 8 * digit, job.digits == 1);
    }
    uint8_t* passed[outputs];
    target.take(passed);
  } else {
    store_codes<I>(sums, block, target);
  }
}

// Any kernel: one output after the other.
template <class I, int vectors>
void depthwise_column(const Depthwise& job, const Block& block, const uint8_t* source,
                      Cursor target, int32_t rows) {
  for (; rows > 0; rows--, source += job.source.row) {
    typename I::Vector sums[1][vectors];
    AKIDA_BACKEND_UNROLL
    for (int v = 0; v < vectors; v++) sums[0][v] = I::load(block.bias + v * I::lanes);
    const uint8_t* weights = static_cast<const uint8_t*>(block.weights);
    const uint8_t* row = source;
    for (int y = 0; y < job.kernel_height; y++, row += job.kernel_row) {
      for (int x = 0; x < job.kernel_width; x += 4) {
        // Columns behind the kernel have zero weights; the first one stands in for them.
        const auto column = [&](int i) {
          return x + i < job.kernel_width ? row + (x + i) * job.kernel_pixel : row;
        };
        Quads<I, vectors> quads;
        read_quads<I, vectors, false>(column(0), column(1), column(2), column(3), quads);
        AKIDA_BACKEND_UNROLL
        for (int v = 0; v < vectors; v++) {
          sums[0][v] = I::dot(sums[0][v], I::expand(quads[v]),
                              I::weights(weights + v * I::weight_bytes));
        }
        weights += vectors * I::weight_bytes;
      }
    }
    store_depthwise<I>(job, block, sums, target);
  }
}

// A kernel of 3x3: two outputs at a time, each row of the input read once.
template <class I, int vectors, int stride>
void sliding_column(const Depthwise& job, const Block& block, const uint8_t* source,
                    Cursor target, int32_t rows) {
  using Vector = typename I::Vector;
  const uint8_t* weights = static_cast<const uint8_t*>(block.weights);
  const int64_t step = job.kernel_row, pixel = job.kernel_pixel;
  const auto read = [&](Quads<I, vectors>& quads) {
    read_quads<I, vectors, true>(source, source + pixel, source + 2 * pixel, nullptr, quads);
    source += step;
  };
  const auto weight = [&](int row, int v) {
    return I::keep_weights(I::weights(weights + (row * vectors + v) * I::weight_bytes));
  };
  Quads<I, vectors> a, b, c, d, e;
  read(a);
  if (stride == 1) read(b);
  for (; rows >= 2; rows -= 2) {
    if (stride == 2) read(b);
    read(c);
    read(d);
    if (stride == 2) read(e);
    Vector sums[2][vectors];
    AKIDA_BACKEND_UNROLL
    for (int v = 0; v < vectors; v++) {
      const Vector bias = I::keep(I::load(block.bias + v * I::lanes));
      const auto top = weight(0, v), middle = weight(1, v), bottom = weight(2, v);
      const Vector first = I::dot(bias, I::expand(a[v]), top);
      const Vector second = I::dot(bias, I::expand(stride == 1 ? b[v] : c[v]), top);
      const Vector third = I::dot(first, I::expand(b[v]), middle);
      const Vector fourth = I::dot(second, I::expand(stride == 1 ? c[v] : d[v]), middle);
      sums[0][v] = I::dot(third, I::expand(c[v]), bottom);
      sums[1][v] = I::dot(fourth, I::expand(stride == 1 ? d[v] : e[v]), bottom);
      a[v] = stride == 1 ? c[v] : e[v];
      if (stride == 1) b[v] = d[v];
    }
    store_depthwise<I>(job, block, sums, target);
  }
  if (rows == 0) return;
  if (stride == 2) read(b);
  read(c);
  Vector sums[1][vectors];
  AKIDA_BACKEND_UNROLL
  for (int v = 0; v < vectors; v++) {
    const Vector bias = I::load(block.bias + v * I::lanes);
    const Vector first = I::dot(bias, I::expand(a[v]), weight(0, v));
    const Vector second = I::dot(first, I::expand(b[v]), weight(1, v));
    sums[0][v] = I::dot(second, I::expand(c[v]), weight(2, v));
  }
  store_depthwise<I>(job, block, sums, target);
}

// Appends where weights of the channels of a mask's bits lie, `first` being that of the lowest one;
// at most three more numbers are overwritten behind them.
template <class I>
AKIDA_BACKEND_INLINE int32_t list_bits(uint64_t mask, int32_t first, uint8_t* numbers) {
  constexpr int unrolled = 4;
  const int32_t count = __builtin_popcountll(mask);
  int32_t done = 0;
  do {  // without a branch for every bit, nor for few of them
    AKIDA_BACKEND_UNROLL
    for (int i = 0; i < unrolled; i++, numbers += 2, mask &= mask - 1) {
      const int bit = __builtin_ctzll(mask | uint64_t{1} << 63);
      const auto number = static_cast<uint16_t>((first + bit) * (I::lanes / 2));
      std::memcpy(numbers, &number, sizeof number);
    }
    done += unrolled;
  } while (done < count);
  return count;
}

// One pixel's list of second digits on one side of the usual one: each channel as often as
// `distance` of its digit says.
template <class I, class Distance>
AKIDA_BACKEND_INLINE int32_t list_side(int32_t channels, const uint8_t* digits, uint8_t*& numbers,
                                       Distance distance) {
  constexpr int32_t chunk = 4 * I::lanes;
  int32_t count = 0;
  for (int32_t first = 0; first < channels; first += chunk) {
    const int32_t rest = smaller(chunk, channels - first);
    const uint64_t own = ~uint64_t{0} >> (64 - rest);
    uint8_t last[chunk] = {};  // what is behind them may be another thread's
    if (rest < chunk) std::memcpy(last, digits + first, static_cast<size_t>(rest));
    auto times = distance(I::load_bytes(rest < chunk ? last : digits + first));
    uint64_t mask = I::nonzero_bytes(times) & own;
    while (mask != 0) {
      count += list_bits<I>(mask, first, numbers + 2 * count);
      times = I::subtract_bytes(times, I::set_bytes(1));
      mask = I::nonzero_bytes(times) & own;
    }
  }
  const auto none = static_cast<uint16_t>(channels * (I::lanes / 2));
  for (int i = 0; i < listed_group; i++) {
    std::memcpy(numbers + 2 * (count + i), &none, sizeof none);
  }
  count = (count + listed_group - 1) / listed_group;
  numbers += 2 * listed_group * count;
  return count;
}

template <class I>
void list_second_digits(const Depthwise& job, uint8_t* base, int32_t y, int32_t rows) {
  using Bytes = typename I::Bytes;
  const auto usual = I::set_bytes(static_cast<uint8_t>(job.usual));
  for (; rows > 0; rows--, y++) {
    const uint8_t* digits = base + job.target.start + job.digit_step + y * job.target.row;
    uint8_t* list = base + job.lists.start + y * job.lists.row;
    for (int32_t x = 0; x < job.width; x++, digits += job.target.pixel, list += job.lists.pixel) {
      int32_t groups[2];
      uint8_t* numbers = list + sizeof groups;
      groups[0] = list_side<I>(job.channels, digits, numbers,
                               [&](Bytes digit) { return I::subtract_bytes(digit, usual); });
      groups[1] = list_side<I>(job.channels, digits, numbers,
                               [&](Bytes digit) { return I::subtract_bytes(usual, digit); });
      std::memcpy(list, groups, sizeof groups);
    }
  }
}

template <class I>
void convolve_depthwise(const Depthwise& job, uint8_t* arena, int64_t arena_step, int64_t,
                        int64_t begin, int64_t end) {
  using Column = void (*)(const Depthwise&, const Block&, const uint8_t*, Cursor, int32_t);
  Column four = depthwise_column<I, 4>, one = depthwise_column<I, 1>;
  if (job.kernel_height == 3 && job.kernel_width == 3 && job.source.row == job.kernel_row) {
    four = sliding_column<I, 4, 1>;
    one = sliding_column<I, 1, 1>;
  } else if (job.kernel_height == 3 && job.kernel_width == 3 &&
             job.source.row == 2 * job.kernel_row) {
    four = sliding_column<I, 4, 2>;
    one = sliding_column<I, 1, 2>;
  }
  const int32_t strips = (job.height + job.strip - 1) / job.strip;
  for (int64_t unit = begin; unit < end; unit++) {
    uint8_t* base = arena + unit / strips * arena_step;
    const auto y = static_cast<int32_t>(unit % strips) * job.strip;
    const int32_t rows = smaller(job.strip, job.height - y);
    const uint8_t* source = base + job.source.start + y * job.source.row;
    Cursor target{base + job.target.start + y * job.target.row, job.target.row, 0, INT32_MAX,
                  INT32_MAX};
    if (job.flat) {  // a row's bytes run through the blocks in turn
      const int64_t bytes = int64_t{job.width} * job.channels;
      int32_t number = 0;
      for (int64_t at = 0; at < bytes; at += 4 * I::lanes, target.at += 4 * I::lanes) {
        Block block = job.blocks[number];
        if (bytes - at < block.channels) block.channels = static_cast<int32_t>(bytes - at);
        four(job, block, source + at, target, rows);
        if (++number == job.block_count) number = 0;
      }
    }
    for (int32_t number = 0; number < job.block_count && !job.flat; number++) {
      const Block& block = job.blocks[number];
      const Column column = block.vectors == 4 ? four : one;
      Cursor to = target;
      to.at += block.target;
      const uint8_t* from = source + block.source;
      for (int32_t x = 0; x < job.width; x++, from += job.source.pixel, to.at += job.target.pixel) {
        column(job, block, from, to, rows);
      }
    }
    if (job.lists.pixel > 0) list_second_digits<I>(job, base, y, rows);
  }
}

template <class Quad, class Pair>
void depthwise(const void* job, uint8_t* arena, int64_t arena_step, int64_t samples, int64_t begin,
               int64_t end) {
  const auto& typed = *static_cast<const Depthwise*>(job);
  (typed.pairs ? convolve_depthwise<Pair> : convolve_depthwise<Quad>)(typed, arena, arena_step,
                                                                      samples, begin, end);
}

}  // namespace

#endif
