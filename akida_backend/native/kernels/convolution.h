// SPDX-License-Identifier: Apache-2.0
// Convolutions of every kernel and stride, and dense layers: an output pixel's input is
// `kernel_rows` runs of `4 * quads` bytes.
#ifndef AKIDA_BACKEND_CONVOLUTION_H
#define AKIDA_BACKEND_CONVOLUTION_H

#include <cstring>

#include "rescaling.h"

namespace {

// Pixels side by side, and what their sums begin with where that is not the bias.
struct Pixels {
  const uint8_t* at;
  int64_t step;
  const int32_t* begun;
  int64_t begun_step;

  AKIDA_BACKEND_INLINE void skip(int64_t count) {
    at += count * step;
    begun += count * begun_step;
  }
};

// Sum of the weights of the next group of listed channels.
template <class I>
AKIDA_BACKEND_INLINE typename I::Bytes listed_sum(const Block& block, const uint8_t*& numbers) {
  auto sum = I::zero_bytes();
  AKIDA_BACKEND_UNROLL
  for (int i = 0; i < listed_group; i++, numbers += 2) {
    uint16_t number;
    std::memcpy(&number, numbers, sizeof number);
    sum = I::add_wrapped(sum, I::load_bytes(block.listed + int64_t{number} * 8));
  }
  return sum;
}

// What sums of `count` pixels begin with: the bias, and the products of listed second digits.
template <class I>
__attribute__((noinline)) void begin_with_lists(const Block& block, const uint8_t* list,
                                                int64_t list_step, int64_t count, int32_t* begun) {
  for (; count > 0; count--, list += list_step) {
    int32_t groups[2];
    std::memcpy(groups, list, sizeof groups);
    const auto [above, below] = groups;
    const uint8_t* numbers = list + sizeof groups;
    typename I::Words words{I::zero_bytes(), I::zero_bytes()};
    for (int32_t i = 0; i < above; i++) I::add_widened(words, listed_sum<I>(block, numbers));
    for (int32_t i = 0; i < below; i++) I::subtract_widened(words, listed_sum<I>(block, numbers));
    typename I::Vector products[4];
    I::widen_words(words, (below - above) * listed_group * listed_offset, products);
    for (int v = 0; v < block.vectors; v++, begun += I::lanes) {
      I::store(begun, I::add(I::load(block.bias + v * I::lanes), products[v]));
    }
  }
}

// `count` times the next `pixels` pixels, side by side in the source. Weights of several planes,
// which are rare, come one digit after the other.
template <class I, int pixels, int vectors, bool planes>
__attribute__((noinline)) void convolve_tiles(const Convolution& job, const Block& block,
                                              Pixels input, Cursor& cursor, int64_t count) {
  Cursor target = cursor;  // in registers
  const int64_t pixel_step = input.step;
  using Vector = typename I::Vector;
  constexpr int thirds = (pixels + 2) / 3;
  const int32_t quads = job.quads, kernel_rows = job.kernel_rows;
  for (; count > 0; count--, input.skip(pixels)) {
    Vector sums[pixels][vectors];
    AKIDA_BACKEND_UNROLL
    for (int v = 0; v < vectors; v++) {
      const Vector first = planes ? I::zero() : I::load(block.bias + v * I::lanes);
      AKIDA_BACKEND_UNROLL
      for (int p = 0; p < pixels; p++) sums[p][v] = first;
    }
    if (input.begun_step > 0) {
      AKIDA_BACKEND_UNROLL
      for (int p = 0; p < pixels; p++) {
        AKIDA_BACKEND_UNROLL
        for (int v = 0; v < vectors; v++) {
          sums[p][v] = I::load(input.begun + p * input.begun_step + v * I::lanes);
        }
      }
    }
    const uint8_t* weights = static_cast<const uint8_t*>(block.weights);
    for (int plane = 0; plane < (planes ? job.planes : 1); plane++) {
      if constexpr (planes) {
        AKIDA_BACKEND_UNROLL
        for (int v = 0; v < vectors; v++) {
          AKIDA_BACKEND_UNROLL
          for (int p = 0; p < pixels; p++) sums[p][v] = I::shift_left_8(sums[p][v]);
        }
      }
      const uint8_t* run = input.at;
      for (int row = 0; row < kernel_rows; row++, run += job.kernel_row) {
        // Every third pixel has a pointer, so that all fit into registers.
        const uint8_t* from[thirds];
        AKIDA_BACKEND_UNROLL
        for (int i = 0; i < thirds; i++) from[i] = run + 3 * i * pixel_step;
        const auto add_products = [&](Vector(&to)[pixels][vectors], int count) {
          for (int quad = 0; quad < count; quad++) {
            typename I::Weights w[vectors];
            AKIDA_BACKEND_UNROLL
            for (int v = 0; v < vectors; v++) w[v] = I::weights(weights + v * I::weight_bytes);
            AKIDA_BACKEND_UNROLL
            for (int p = 0; p < pixels; p++) {
              const auto x = I::broadcast(from[p / 3] + p % 3 * pixel_step);
              AKIDA_BACKEND_UNROLL
              for (int v = 0; v < vectors; v++) to[p][v] = I::dot(to[p][v], x, w[v]);
            }
            weights += vectors * I::weight_bytes;
            AKIDA_BACKEND_UNROLL
            for (int i = 0; i < thirds; i++) from[i] += 4;
          }
        };
        if constexpr (I::narrow) {
          const int times = 1 << (row * job.digit_bits);
          for (int quad = 0; quad < quads; quad += job.narrow) {
            Vector narrow[pixels][vectors];
            AKIDA_BACKEND_UNROLL
            for (int p = 0; p < pixels; p++) {
              AKIDA_BACKEND_UNROLL
              for (int v = 0; v < vectors; v++) narrow[p][v] = I::zero();
            }
            add_products(narrow, smaller(job.narrow, quads - quad));
            AKIDA_BACKEND_UNROLL
            for (int p = 0; p < pixels; p++) {
              AKIDA_BACKEND_UNROLL
              for (int v = 0; v < vectors; v++) {
                sums[p][v] = I::add_narrow(sums[p][v], narrow[p][v], times);
              }
            }
          }
        } else {
          add_products(sums, quads);
        }
      }
    }
    if constexpr (planes) {
      AKIDA_BACKEND_UNROLL
      for (int v = 0; v < vectors; v++) {
        const Vector bias = I::load(block.bias + v * I::lanes);
        AKIDA_BACKEND_UNROLL
        for (int p = 0; p < pixels; p++) sums[p][v] = I::add(sums[p][v], bias);
      }
    }
    if (job.accumulators) {
      if (job.in_order) {
        AKIDA_BACKEND_UNROLL
        for (int p = 0; p < pixels; p++) I::order(sums[p]);
      }
      store_accumulators<I>(sums, target);
    } else {
      store_codes<I>(sums, block, target);
    }
  }
  cursor = target;
}

using Tiles = void (*)(const Convolution&, const Block&, Pixels, Cursor&, int64_t);

template <class I, int vectors, int pixels>
Tiles tiles_of(int32_t wanted) {
  if constexpr (pixels > 1) {
    if (wanted < pixels) return tiles_of<I, vectors, pixels - 1>(wanted);
  }
  return convolve_tiles<I, pixels, vectors, false>;
}

template <class I>
Tiles tiles_for(int32_t vectors, int32_t pixels) {
  if (vectors == 4) return tiles_of<I, 4, I::tile_pixels[4]>(pixels);
  if (vectors == 2) return tiles_of<I, 2, I::tile_pixels[2]>(pixels);
  return tiles_of<I, 1, I::tile_pixels[1]>(pixels);
}

// `width` pixels in tiles whose sizes differ by one at most.
template <class I>
void convolve_row(const Convolution& job, const Block& block, Pixels input, Cursor& target,
                  int64_t width) {
  if (job.planes > 1) {
    const auto tiles = block.vectors == 4   ? convolve_tiles<I, 1, 4, true>
                       : block.vectors == 2 ? convolve_tiles<I, 1, 2, true>
                                            : convolve_tiles<I, 1, 1, true>;
    tiles(job, block, input, target, width);
    return;
  }
  const int64_t most = I::tile_pixels[block.vectors];
  const int64_t tiles = (width + most - 1) / most;
  const auto size = static_cast<int32_t>(width / tiles);
  const int64_t larger = width % tiles;
  if (larger > 0) {
    tiles_for<I>(block.vectors, size + 1)(job, block, input, target, larger);
    input.skip(larger * (size + 1));
  }
  tiles_for<I>(block.vectors, size)(job, block, input, target, tiles - larger);
}

// The same with lists, `list_step` bytes apart.
template <class I>
void convolve_listed_row(const Convolution& job, const Block& block, Pixels input, Cursor& target,
                         int64_t width, const uint8_t* list, int64_t list_step) {
  constexpr int64_t most = 48;
  alignas(64) int32_t begun[most * 4 * I::lanes];
  const int64_t values = block.vectors * I::lanes;
  if (width >= most / 2) {  // pixels find them in any order, which no processor foresees
    const int64_t bytes = 16 * int64_t{job.quads} * I::lanes;
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(block.listed + at, 0, 2);
  }
  for (int64_t x = 0; x < width; x += most) {
    const int64_t count = smaller(most, width - x);
    begin_with_lists<I>(block, list + x * list_step, list_step, count, begun);
    convolve_row<I>(job, block, {input.at + x * input.step, input.step, begun, values}, target,
                    count);
  }
}

template <class I>
void convolve(const Convolution& job, uint8_t* arena, int64_t arena_step, int64_t samples,
              int64_t begin, int64_t end) {
  if (job.one_pixel) {
    for (int64_t unit = begin; unit < end; unit++) {
      const Block& block = job.blocks[unit];
      Cursor target{arena + job.target.start + block.target, arena_step, 0, INT32_MAX, INT32_MAX};
      const Pixels input{arena + job.source.start, arena_step, nullptr, 0};
      if (job.lists.pixel > 0) {
        convolve_listed_row<I>(job, block, input, target, samples, arena + job.lists.start,
                               arena_step);
      } else {
        convolve_row<I>(job, block, input, target, samples);
      }
    }
    return;
  }
  const int64_t gap = job.target.row - job.target_width * job.target.pixel;
  const int64_t rows = job.rows, lines = rows * samples, blocks = job.block_count;
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t line = job.rows_first ? unit / blocks : unit % lines;
    const int64_t sample = line / rows, row = line % rows;
    const Block& block = job.blocks[job.rows_first ? unit % blocks : unit / lines];
    uint8_t* base = arena + sample * arena_step;
    const int64_t first = row * job.width;
    const int64_t y = first / job.target_width, x = first % job.target_width;
    Cursor target{base + job.target.start + block.target + y * job.target.row +
                      x * job.target.pixel,
                  job.target.pixel, gap, job.target_width,
                  static_cast<int32_t>(job.target_width - x)};
    const Pixels input{base + job.source.start + row * job.source.row, job.source.pixel, nullptr,
                       0};
    const int64_t width = row == rows - 1 ? job.last_width : job.width;
    if (job.lists.pixel > 0) {
      convolve_listed_row<I>(job, block, input, target, width,
                             base + job.lists.start + first * job.lists.pixel, job.lists.pixel);
    } else {
      convolve_row<I>(job, block, input, target, width);
    }
  }
}

template <class Quads, class Pairs, class Narrow>
void convolution(const void* job, uint8_t* arena, int64_t arena_step, int64_t samples,
                 int64_t begin, int64_t end) {
  const auto& typed = *static_cast<const Convolution*>(job);
  const auto run = typed.pairs        ? convolve<Pairs>
                   : typed.narrow > 0 ? convolve<Narrow>
                                      : convolve<Quads>;
  run(typed, arena, arena_step, samples, begin, end);
}

}  // namespace

#endif
