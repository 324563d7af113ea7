// SPDX-License-Identifier: Apache-2.0
// Convolutions of every kernel and stride, and dense layers: an output pixel's input is
// `kernel_rows` runs of `4 * quads` bytes.
#ifndef AKIDA_BACKEND_CONVOLUTION_H
#define AKIDA_BACKEND_CONVOLUTION_H

#include "rescaling.h"

namespace {

// `count` times the next `pixels` pixels, side by side in the source. Weights of several planes,
// which are rare, come one digit after the other.
template <class I, int pixels, int vectors, bool planes>
__attribute__((noinline)) void convolve_tiles(const Convolution& job, const Block& block,
                                              const uint8_t* source, int64_t pixel_step,
                                              Cursor& cursor, int64_t count) {
  Cursor target = cursor;  // in registers
  using Vector = typename I::Vector;
  constexpr int thirds = (pixels + 2) / 3;
  const int32_t quads = job.quads, kernel_rows = job.kernel_rows;
  for (; count > 0; count--, source += pixels * pixel_step) {
    Vector sums[pixels][vectors];
    AKIDA_BACKEND_UNROLL
    for (int v = 0; v < vectors; v++) {
      const Vector first = planes ? I::zero() : I::load(block.bias + v * I::lanes);
      AKIDA_BACKEND_UNROLL
      for (int p = 0; p < pixels; p++) sums[p][v] = first;
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
      const uint8_t* run = source;
      for (int row = 0; row < kernel_rows; row++, run += job.kernel_row) {
        // Every third pixel has a pointer, so that all fit into registers.
        const uint8_t* from[thirds];
        AKIDA_BACKEND_UNROLL
        for (int i = 0; i < thirds; i++) from[i] = run + 3 * i * pixel_step;
        for (int quad = 0; quad < quads; quad++) {
          typename I::Weights w[vectors];
          AKIDA_BACKEND_UNROLL
          for (int v = 0; v < vectors; v++) w[v] = I::weights(weights + v * I::weight_bytes);
          AKIDA_BACKEND_UNROLL
          for (int p = 0; p < pixels; p++) {
            const auto x = I::broadcast(from[p / 3] + p % 3 * pixel_step);
            AKIDA_BACKEND_UNROLL
            for (int v = 0; v < vectors; v++) sums[p][v] = I::dot(sums[p][v], x, w[v]);
          }
          weights += vectors * I::weight_bytes;
          AKIDA_BACKEND_UNROLL
          for (int i = 0; i < thirds; i++) from[i] += 4;
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

using Tiles = void (*)(const Convolution&, const Block&, const uint8_t*, int64_t, Cursor&, int64_t);

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
void convolve_row(const Convolution& job, const Block& block, const uint8_t* source,
                  int64_t pixel_step, Cursor& target, int64_t width) {
  if (job.planes > 1) {
    const auto tiles = block.vectors == 4   ? convolve_tiles<I, 1, 4, true>
                       : block.vectors == 2 ? convolve_tiles<I, 1, 2, true>
                                            : convolve_tiles<I, 1, 1, true>;
    tiles(job, block, source, pixel_step, target, width);
    return;
  }
  const int64_t most = I::tile_pixels[block.vectors];
  const int64_t tiles = (width + most - 1) / most;
  const auto size = static_cast<int32_t>(width / tiles);
  const int64_t larger = width % tiles;
  if (larger > 0) {
    tiles_for<I>(block.vectors, size + 1)(job, block, source, pixel_step, target, larger);
    source += larger * (size + 1) * pixel_step;
  }
  tiles_for<I>(block.vectors, size)(job, block, source, pixel_step, target, tiles - larger);
}

template <class I>
void convolve(const Convolution& job, uint8_t* arena, int64_t arena_step, int64_t samples,
              int64_t begin, int64_t end) {
  if (job.one_pixel) {
    for (int64_t unit = begin; unit < end; unit++) {
      const Block& block = job.blocks[unit];
      Cursor target{arena + job.target.start + block.target, arena_step, 0, INT32_MAX, INT32_MAX};
      convolve_row<I>(job, block, arena + job.source.start, arena_step, target, samples);
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
    convolve_row<I>(job, block, base + job.source.start + row * job.source.row, job.source.pixel,
                    target, row == rows - 1 ? job.last_width : job.width);
  }
}

template <class Quads, class Pairs>
void convolution(const void* job, uint8_t* arena, int64_t arena_step, int64_t samples,
                 int64_t begin, int64_t end) {
  const auto& typed = *static_cast<const Convolution*>(job);
  (typed.pairs ? convolve<Pairs> : convolve<Quads>)(typed, arena, arena_step, samples, begin, end);
}

}  // namespace

#endif
