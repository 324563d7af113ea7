// SPDX-License-Identifier: Apache-2.0
// 4 lanes in plain C++, for processors without kernels of their own.
#ifndef AKIDA_BACKEND_VECTOR_PORTABLE_H
#define AKIDA_BACKEND_VECTOR_PORTABLE_H

#include <cstdint>
#include <cstring>

#include "rescaling.h"

namespace {

struct PortablePairs {
  static constexpr int lanes = 4;
  static constexpr bool narrow = false;
  static constexpr int weight_bytes = 32;
  static constexpr int tile_pixels[5] = {0, 4, 2, 0, 1};
  struct Vector {
    int32_t lane[lanes];
  };
  struct Bytes {
    uint8_t byte[4 * lanes];
  };
  struct Input {
    int16_t even[2 * lanes], odd[2 * lanes];  // inputs 0 and 2, 1 and 3 of each lane
  };
  using Weights = Input;

  // Sums wrap around: signed overflow would be undefined.
  static int32_t sum(int32_t a, int32_t b) {
    return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
  }
  static int32_t product(int32_t a, int32_t b) {
    return static_cast<int32_t>(static_cast<uint32_t>(a) * static_cast<uint32_t>(b));
  }
  template <class Operation>
  static Vector each(Operation operation) {
    Vector result;
    for (int i = 0; i < lanes; i++) result.lane[i] = operation(i);
    return result;
  }

  static Vector zero() { return set(0); }
  static Vector load(const int32_t* from) {
    Vector x;
    std::memcpy(&x, from, sizeof x);
    return x;
  }
  static void store(int32_t* to, Vector x) { std::memcpy(to, &x, sizeof x); }
  static Vector keep(Vector x) { return x; }
  static Vector set(int32_t x) {
    return each([=](int) { return x; });
  }
  static Vector add(Vector a, Vector b) {
    return each([&](int i) { return sum(a.lane[i], b.lane[i]); });
  }
  static Vector multiply(Vector a, Vector b) {
    return each([&](int i) { return product(a.lane[i], b.lane[i]); });
  }
  static Vector minimum(Vector a, Vector b) {
    return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static Vector maximum(Vector a, Vector b) {
    return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static Vector bits(Vector a, Vector b) {
    return each([&](int i) { return a.lane[i] & b.lane[i]; });
  }
  // One more where x is larger.
  static Vector count_above(Vector count, Vector x, Vector bound) {
    return each([&](int i) { return count.lane[i] + (x.lane[i] > bound.lane[i]); });
  }
  static Vector shift_right(Vector a, Vector by) {
    return each([&](int i) { return a.lane[i] >> by.lane[i]; });
  }
  static Vector shift_right_8(Vector a) {
    return each([&](int i) { return a.lane[i] >> 8; });
  }
  static Vector shift_left_8(Vector a) { return shift_left(a, 8); }
  static Vector shift_left(Vector a, int by) {
    return each([&](int i) {
      return static_cast<int32_t>(static_cast<uint32_t>(a.lane[i]) << by);
    });
  }

  static Input broadcast(const uint8_t* from) {
    Input x;
    for (int i = 0; i < lanes; i++) {
      x.even[2 * i] = from[0];
      x.odd[2 * i] = from[1];
      x.even[2 * i + 1] = from[2];
      x.odd[2 * i + 1] = from[3];
    }
    return x;
  }
  static Input expand(Vector quads) {
    Input x;
    for (int i = 0; i < lanes; i++) {
      const auto four = static_cast<uint32_t>(quads.lane[i]);
      x.even[2 * i] = static_cast<int16_t>(four & 255);
      x.odd[2 * i] = static_cast<int16_t>(four >> 8 & 255);
      x.even[2 * i + 1] = static_cast<int16_t>(four >> 16 & 255);
      x.odd[2 * i + 1] = static_cast<int16_t>(four >> 24);
    }
    return x;
  }
  static Weights weights(const uint8_t* from) {
    Weights w;
    std::memcpy(&w, from, sizeof w);
    return w;
  }
  static Weights keep_weights(Weights w) { return w; }
  static Vector dot(Vector accumulator, const Input& x, const Weights& w) {
    return each([&](int i) {
      const int32_t even = x.even[2 * i] * w.even[2 * i] + x.even[2 * i + 1] * w.even[2 * i + 1];
      const int32_t odd = x.odd[2 * i] * w.odd[2 * i] + x.odd[2 * i + 1] * w.odd[2 * i + 1];
      return sum(accumulator.lane[i], even + odd);
    });
  }

  static Bytes load_bytes(const uint8_t* from) {
    Bytes x;
    std::memcpy(&x, from, sizeof x);
    return x;
  }
  static Bytes zero_bytes() { return Bytes{}; }
  static int32_t joined(uint8_t a, uint8_t b, uint8_t c, uint8_t d) {
    return static_cast<int32_t>(a | b << 8 | c << 16 | static_cast<uint32_t>(d) << 24);
  }
  static void interleave(const Bytes& a, const Bytes& b, const Bytes& c, const Bytes& d,
                         Vector (&quads)[4]) {
    for (int i = 0; i < 4 * lanes; i++) {
      quads[i / lanes].lane[i % lanes] = joined(a.byte[i], b.byte[i], c.byte[i], d.byte[i]);
    }
  }
  static Vector quad(const uint8_t* a, const uint8_t* b, const uint8_t* c, const uint8_t* d) {
    return each([&](int i) { return joined(a[i], b[i], c[i], d[i]); });
  }
  static Vector quad(const uint8_t* a, const uint8_t* b, const uint8_t* c) {
    return each([&](int i) { return joined(a[i], b[i], c[i], 0); });
  }

  static Bytes pack(Vector a, Vector b, Vector c, Vector d) {
    Bytes x;
    const Vector all[4] = {a, b, c, d};
    for (int i = 0; i < 4 * lanes; i++) {
      const int32_t value = all[i / lanes].lane[i % lanes];
      x.byte[i] = static_cast<uint8_t>(smaller(larger(value, 0), 255));
    }
    return x;
  }
  static Bytes add_bytes(const Bytes& a, const Bytes& b, int a_shift, int b_shift, int constant,
                         int shift) {
    Bytes x;
    for (int i = 0; i < 4 * lanes; i++) {
      const int value = (a.byte[i] << a_shift) + (b.byte[i] << b_shift) + constant;
      x.byte[i] = static_cast<uint8_t>(smaller(larger(value >> shift, 0), 255));
    }
    return x;
  }
  // Of four vectors at least 0 and below 2**15: their lowest bits, and what is above those.
  static Bytes pack_low(Vector a, Vector b, Vector c, Vector d, int bits) {
    const Vector mask = set((1 << bits) - 1);
    using Lanes = PortablePairs;
    return pack(Lanes::bits(a, mask), Lanes::bits(b, mask), Lanes::bits(c, mask),
                Lanes::bits(d, mask));
  }
  static Bytes pack_high(Vector a, Vector b, Vector c, Vector d, int bits) {
    const Vector by = set(bits);
    return pack(shift_right(a, by), shift_right(b, by), shift_right(c, by), shift_right(d, by));
  }
  static Bytes set_bytes(uint8_t byte) {
    Bytes x;
    std::memset(x.byte, byte, sizeof x.byte);
    return x;
  }
  // Not below 0.
  static Bytes subtract_bytes(Bytes a, const Bytes& b) {
    for (int i = 0; i < 4 * lanes; i++) {
      a.byte[i] = static_cast<uint8_t>(larger(a.byte[i] - b.byte[i], 0));
    }
    return a;
  }
  // A bit per byte that is not zero.
  static uint64_t nonzero_bytes(const Bytes& x) {
    uint64_t mask = 0;
    for (int i = 0; i < 4 * lanes; i++) mask |= static_cast<uint64_t>(x.byte[i] != 0) << i;
    return mask;
  }
  // Unsigned bytes, and in 16 bits those of the lower and of the upper half.
  static Bytes add_wrapped(Bytes a, const Bytes& b) {
    for (int i = 0; i < 4 * lanes; i++) a.byte[i] = static_cast<uint8_t>(a.byte[i] + b.byte[i]);
    return a;
  }
  struct Words {
    Bytes low, high;
  };
  static void add_times(Words& sum, const Bytes& x, int sign) {
    for (int i = 0; i < 4 * lanes; i++) {
      uint8_t* at = (i < 2 * lanes ? sum.low.byte : sum.high.byte) + i % (2 * lanes) * 2;
      int16_t word;
      std::memcpy(&word, at, sizeof word);
      word = static_cast<int16_t>(word + sign * x.byte[i]);
      std::memcpy(at, &word, sizeof word);
    }
  }
  static void add_widened(Words& sum, const Bytes& x) { add_times(sum, x, 1); }
  static void subtract_widened(Words& sum, const Bytes& x) { add_times(sum, x, -1); }
  // 256 times (word + addend) per lane of a block of four vectors.
  static void widen_words(const Words& words, int addend, Vector (&x)[4]) {
    for (int i = 0; i < 4 * lanes; i++) {
      const Bytes& half = i < 2 * lanes ? words.low : words.high;
      int16_t word;
      std::memcpy(&word, half.byte + i % (2 * lanes) * 2, sizeof word);
      x[i / lanes].lane[i % lanes] = (word + addend) * 256;
    }
  }
  static Bytes clamp(Bytes x, const uint8_t* low, const uint8_t* high) {
    for (int i = 0; i < 4 * lanes; i++) {
      const uint8_t raised = x.byte[i] > low[i] ? x.byte[i] : low[i];
      x.byte[i] = raised < high[i] ? raised : high[i];
    }
    return x;
  }
  template <int vectors>
  static void order(Vector (&)[vectors]) {}  // they are
  static Bytes halves(Bytes x) { return x; }
  static Bytes quarters(Bytes x) { return x; }
  static void store_whole(uint8_t* to, const Bytes& x, int count) {
    std::memcpy(to, x.byte, static_cast<size_t>(count < 16 ? count : 16));
  }
  template <int part>
  static void store_half(uint8_t* to, const Bytes& x, int count) {
    std::memcpy(to, x.byte + 8 * part, static_cast<size_t>(count < 8 ? count : 8));
  }
  template <int part>
  static void store_quarter(uint8_t* to, const Bytes& x, int count) {
    std::memcpy(to, x.byte + 4 * part, static_cast<size_t>(count < 4 ? count : 4));
  }
};

}  // namespace

#endif
