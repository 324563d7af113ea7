// SPDX-License-Identifier: Apache-2.0
// Accumulators to stored codes.
#ifndef AKIDA_BACKEND_RESCALING_H
#define AKIDA_BACKEND_RESCALING_H

#include "kernels.h"

#define AKIDA_BACKEND_INLINE inline __attribute__((always_inline))
#define AKIDA_BACKEND_UNROLL _Pragma("GCC unroll 16")

namespace {

using namespace akida_backend;

// Not std::min and std::max: a kernel library has no symbols that others could bind to.
template <class T>
AKIDA_BACKEND_INLINE T smaller(T a, T b) {
  return a < b ? a : b;
}
template <class T>
AKIDA_BACKEND_INLINE T larger(T a, T b) {
  return a > b ? a : b;
}

template <class I>
AKIDA_BACKEND_INLINE typename I::Vector rescaled_direct(typename I::Vector x, const Rescaler& by,
                                                        int at) {
  x = I::add(I::multiply(x, I::load(by.multiplier + at)), I::load(by.addend + at));
  return I::shift_right(x, I::load(by.shift + at));
}

// Vectors of a block are `lanes` apart in `at`.
template <class I>
AKIDA_BACKEND_INLINE typename I::Vector counted(typename I::Vector x, const Rescaler& by, int at) {
  auto count = I::zero();
  const int32_t* bounds = by.bounds + int64_t{at} * by.levels;
  for (int32_t level = 0; level < by.levels; level++, bounds += I::lanes) {
    count = I::count_above(count, x, I::load(bounds));
  }
  return count;
}

template <class I>
AKIDA_BACKEND_INLINE typename I::Vector rescaled(typename I::Vector x, const Rescaler& by, int at) {
  if (by.kind == Rescaling::direct) return rescaled_direct<I>(x, by, at);
  if (by.kind == Rescaling::counted) return counted<I>(x, by, at);
  x = I::minimum(I::maximum(x, I::load(by.low + at)), I::load(by.high + at));
  if (by.kind == Rescaling::clamped) return rescaled_direct<I>(x, by, at);
  const auto multiplier = I::load(by.multiplier + at);
  const auto upper = I::multiply(I::shift_right_8(x), multiplier);
  const auto lower = I::shift_right_8(I::multiply(I::bits(x, I::set(255)), multiplier));
  const auto sum = I::add(I::add(upper, lower), I::load(by.addend + at));
  return I::add(I::shift_right(sum, I::load(by.shift + at)), I::set(by.offset));
}

// The rare kinds, away from the registers of the common one.
template <class I>
__attribute__((noinline)) void rescale_all(typename I::Vector* values, const Rescaler& by,
                                           int vectors, int pixels) {
  for (int p = 0; p < pixels; p++) {
    for (int v = 0; v < vectors; v++) {
      values[p * vectors + v] = rescaled<I>(values[p * vectors + v], by, v * I::lanes);
    }
  }
}

// Where a run of output pixels goes: rows of `width` pixels.
struct Cursor {
  uint8_t* at;
  int64_t pixel;
  int64_t gap;  // from behind a row's last pixel to the next row
  int32_t width;
  int32_t left;

  // Addresses of the next pixels.
  template <int pixels>
  AKIDA_BACKEND_INLINE void take(uint8_t* (&to)[pixels]) {
    if (left > pixels) {
      AKIDA_BACKEND_UNROLL
      for (int p = 0; p < pixels; p++) to[p] = at + p * pixel;
      at += pixels * pixel;
      left -= pixels;
      return;
    }
    AKIDA_BACKEND_UNROLL
    for (int p = 0; p < pixels; p++) {
      to[p] = at;
      at += pixel;
      if (--left == 0) {
        at += gap;
        left = width;
      }
    }
  }
};

// Stores what `pack` makes of four vectors at a time, `finish` last, in channel order.
template <class I, int pixels, int vectors, class Pack, class Finished>
AKIDA_BACKEND_INLINE void store_packed(const typename I::Vector (&codes)[pixels][vectors],
                                       int count, uint8_t* (&to)[pixels], Pack pack,
                                       Finished finish) {
  if constexpr (vectors == 4) {
    AKIDA_BACKEND_UNROLL
    for (int p = 0; p < pixels; p++) {
      const auto bytes = pack(codes[p][0], codes[p][1], codes[p][2], codes[p][3]);
      I::store_whole(to[p], finish(bytes), count);
    }
  } else if constexpr (vectors == 2) {
    AKIDA_BACKEND_UNROLL
    for (int p = 0; p < pixels; p += 2) {
      const int q = p + 1 < pixels ? p + 1 : p;
      const auto bytes =
          finish(I::halves(pack(codes[p][0], codes[p][1], codes[q][0], codes[q][1])));
      I::template store_half<0>(to[p], bytes, count);
      if (q > p) I::template store_half<1>(to[q], bytes, count);
    }
  } else {
    constexpr int last = pixels - 1;
    AKIDA_BACKEND_UNROLL
    for (int p = 0; p < pixels; p += 4) {
      const int q = p + 1 < last ? p + 1 : last, r = p + 2 < last ? p + 2 : last;
      const int s = p + 3 < last ? p + 3 : last;
      const auto bytes =
          finish(I::quarters(pack(codes[p][0], codes[q][0], codes[r][0], codes[s][0])));
      I::template store_quarter<0>(to[p], bytes, count);
      if (p + 1 < pixels) I::template store_quarter<1>(to[q], bytes, count);
      if (p + 2 < pixels) I::template store_quarter<2>(to[r], bytes, count);
      if (p + 3 < pixels) I::template store_quarter<3>(to[s], bytes, count);
    }
  }
}

// Stores codes that fit 16 bits, within the limits of the block.
template <class I, int pixels, int vectors>
AKIDA_BACKEND_INLINE void store_bytes(typename I::Vector (&codes)[pixels][vectors],
                                      const Block& block, uint8_t* (&to)[pixels]) {
  using Vector = typename I::Vector;
  store_packed<I>(
      codes, block.channels, to,
      [](Vector a, Vector b, Vector c, Vector d) { return I::pack(a, b, c, d); },
      [&](typename I::Bytes bytes) { return I::clamp(bytes, block.lowest, block.highest); });
}

// A vector's constants are loaded once for all pixels.
template <class I, bool clamped, int pixels, int vectors>
AKIDA_BACKEND_INLINE void multiply_all(typename I::Vector (&sums)[pixels][vectors],
                                       const Rescaler& by,
                                       typename I::Vector (&codes)[pixels][vectors]) {
  using Vector = typename I::Vector;
  AKIDA_BACKEND_UNROLL
  for (int v = 0; v < vectors; v++) {
    const int at = v * I::lanes;
    if constexpr (clamped) {
      const Vector low = I::keep(I::load(by.low + at)), high = I::keep(I::load(by.high + at));
      AKIDA_BACKEND_UNROLL
      for (int p = 0; p < pixels; p++) {
        sums[p][v] = I::minimum(I::maximum(sums[p][v], low), high);
      }
    }
    const Vector multiplier = I::keep(I::load(by.multiplier + at));
    const Vector addend = I::keep(I::load(by.addend + at));
    const Vector shift = I::keep(I::load(by.shift + at));
    AKIDA_BACKEND_UNROLL
    for (int p = 0; p < pixels; p++) {
      const Vector product = I::add(I::multiply(sums[p][v], multiplier), addend);
      codes[p][v] = I::shift_right(product, shift);
    }
  }
}

// Rescales the accumulators of some pixels and stores their codes.
template <class I, int pixels, int vectors>
AKIDA_BACKEND_INLINE void store_codes(typename I::Vector (&sums)[pixels][vectors],
                                      const Block& block, Cursor& target) {
  using Vector = typename I::Vector;
  Vector codes[pixels][vectors];
  if (__builtin_expect(block.rescaler.kind == Rescaling::direct, 1)) {
    multiply_all<I, false>(sums, block.rescaler, codes);
  } else if (block.rescaler.kind == Rescaling::clamped) {
    multiply_all<I, true>(sums, block.rescaler, codes);
  } else {
    Vector spilled[pixels * vectors];
    AKIDA_BACKEND_UNROLL
    for (int p = 0; p < pixels; p++) {
      AKIDA_BACKEND_UNROLL
      for (int v = 0; v < vectors; v++) spilled[p * vectors + v] = sums[p][v];
    }
    rescale_all<I>(spilled, block.rescaler, vectors, pixels);
    AKIDA_BACKEND_UNROLL
    for (int p = 0; p < pixels; p++) {
      AKIDA_BACKEND_UNROLL
      for (int v = 0; v < vectors; v++) codes[p][v] = spilled[p * vectors + v];
    }
  }
  uint8_t* to[pixels];
  target.take(to);
  store_bytes<I>(codes, block, to);
}

// Stores the two digits of accumulators from 0 to 2**15 - 1, `step` bytes apart.
template <class I, int pixels, int vectors>
AKIDA_BACKEND_INLINE void store_two_digits(typename I::Vector (&sums)[pixels][vectors],
                                           const Block& block, Cursor& target, int bits,
                                           int64_t step) {
  using Vector = typename I::Vector;
  const auto as_it_is = [](typename I::Bytes bytes) { return bytes; };
  uint8_t* to[pixels];
  target.take(to);
  store_packed<I>(
      sums, block.channels, to,
      [=](Vector a, Vector b, Vector c, Vector d) { return I::pack_low(a, b, c, d, bits); },
      as_it_is);
  AKIDA_BACKEND_UNROLL
  for (int p = 0; p < pixels; p++) to[p] += step;
  store_packed<I>(
      sums, block.channels, to,
      [=](Vector a, Vector b, Vector c, Vector d) { return I::pack_high(a, b, c, d, bits); },
      as_it_is);
}

// Stores eight bits of accumulators that are shifted to the right, or those that have no more.
template <class I, int pixels, int vectors>
AKIDA_BACKEND_INLINE void store_byte(typename I::Vector (&sums)[pixels][vectors],
                                     const Block& block, Cursor target, int shift, bool all) {
  using Vector = typename I::Vector;
  const auto by = I::set(shift), mask = I::set(255);
  const auto byte = [=](Vector x) { return all ? x : I::bits(I::shift_right(x, by), mask); };
  uint8_t* to[pixels];
  target.take(to);
  store_packed<I>(
      sums, block.channels, to,
      [=](Vector a, Vector b, Vector c, Vector d) {
        return I::pack(byte(a), byte(b), byte(c), byte(d));
      },
      [](typename I::Bytes bytes) { return bytes; });
}

template <class I, int pixels, int vectors>
AKIDA_BACKEND_INLINE void store_accumulators(typename I::Vector (&sums)[pixels][vectors],
                                             Cursor& target) {
  uint8_t* to[pixels];
  target.take(to);
  AKIDA_BACKEND_UNROLL
  for (int p = 0; p < pixels; p++) {
    auto* words = reinterpret_cast<int32_t*>(to[p]);
    AKIDA_BACKEND_UNROLL
    for (int v = 0; v < vectors; v++) I::store(words + v * I::lanes, sums[p][v]);
  }
}

}  // namespace

#endif
