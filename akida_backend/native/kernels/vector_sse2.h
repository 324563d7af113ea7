// SPDX-License-Identifier: Apache-2.0
// 4 lanes with what every x86-64 has.
#ifndef AKIDA_BACKEND_VECTOR_SSE2_H
#define AKIDA_BACKEND_VECTOR_SSE2_H

#include <emmintrin.h>

#include <cstdint>
#include <cstring>

namespace {

struct Pairs128 {
  using Vector = __m128i;
  using Bytes = __m128i;
  struct Input {
    __m128i even, odd;  // 16-bit inputs 0 and 2, 1 and 3
  };
  using Weights = Input;
  static constexpr int lanes = 4;
  static constexpr bool narrow = false;
  static constexpr int weight_bytes = 32;
  static constexpr int tile_pixels[5] = {0, 4, 4, 0, 2};

  static Vector zero() { return _mm_setzero_si128(); }
  static Vector load(const int32_t* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  }
  static void store(int32_t* to, Vector x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), x); }
  // Loaded into a register now, not again at every use.
  static Vector keep(Vector x) {
    __asm__("" : "+x"(x));
    return x;
  }
  static Vector set(int32_t x) { return _mm_set1_epi32(x); }
  static Vector add(Vector a, Vector b) { return _mm_add_epi32(a, b); }
  static Vector multiply(Vector a, Vector b) {
    const __m128i even = _mm_shuffle_epi32(_mm_mul_epu32(a, b), 0x88);
    const __m128i odd = _mm_mul_epu32(_mm_srli_epi64(a, 32), _mm_srli_epi64(b, 32));
    return _mm_unpacklo_epi32(even, _mm_shuffle_epi32(odd, 0x88));
  }
  static Vector choose(Vector where, Vector a, Vector b) {
    return _mm_or_si128(_mm_and_si128(where, a), _mm_andnot_si128(where, b));
  }
  static Vector minimum(Vector a, Vector b) { return choose(_mm_cmplt_epi32(a, b), a, b); }
  static Vector maximum(Vector a, Vector b) { return choose(_mm_cmpgt_epi32(a, b), a, b); }
  static Vector bits(Vector a, Vector b) { return _mm_and_si128(a, b); }
  // One more where x is larger.
  static Vector count_above(Vector count, Vector x, Vector bound) {
    return _mm_sub_epi32(count, _mm_cmpgt_epi32(x, bound));
  }
  static Vector shift_right(Vector a, Vector by) {
    const __m128i low = _mm_set_epi64x(0, 0xFFFFFFFF);
    const __m128i by_0 = _mm_and_si128(by, low), by_1 = _mm_srli_epi64(by, 32);
    const __m128i upper = _mm_unpackhi_epi64(by, by);
    const __m128i by_2 = _mm_and_si128(upper, low), by_3 = _mm_srli_epi64(upper, 32);
    const __m128i pair_0 = _mm_unpacklo_epi32(_mm_sra_epi32(a, by_0), _mm_setzero_si128());
    const __m128i lane_1 = _mm_sra_epi32(a, by_1), lane_2 = _mm_sra_epi32(a, by_2);
    const __m128i lane_3 = _mm_sra_epi32(a, by_3);
    const __m128i first = _mm_unpacklo_epi32(pair_0, _mm_shuffle_epi32(lane_1, 0x01));
    const __m128i second = _mm_unpacklo_epi32(_mm_shuffle_epi32(lane_2, 0x02),
                                              _mm_shuffle_epi32(lane_3, 0x03));
    return _mm_unpacklo_epi64(first, second);
  }
  static Vector shift_right_8(Vector a) { return _mm_srai_epi32(a, 8); }
  static Vector shift_left_8(Vector a) { return _mm_slli_epi32(a, 8); }
  static Vector shift_left(Vector a, int by) { return _mm_sll_epi32(a, _mm_cvtsi32_si128(by)); }

  static Input expand(Vector quads) {
    return {_mm_and_si128(quads, _mm_set1_epi16(255)), _mm_srli_epi16(quads, 8)};
  }
  static Input broadcast(const uint8_t* from) {
    int32_t four;
    std::memcpy(&four, from, 4);
    return expand(_mm_set1_epi32(four));
  }
  static Weights weights(const uint8_t* from) { return {load_bytes(from), load_bytes(from + 16)}; }
  static Weights keep_weights(Weights w) { return {keep(w.even), keep(w.odd)}; }
  static Vector dot(Vector sum, const Input& x, const Weights& w) {
    sum = _mm_add_epi32(sum, _mm_madd_epi16(x.even, w.even));
    return _mm_add_epi32(sum, _mm_madd_epi16(x.odd, w.odd));
  }

  static Bytes load_bytes(const uint8_t* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  }
  static Bytes zero_bytes() { return _mm_setzero_si128(); }
  static void interleave(Bytes a, Bytes b, Bytes c, Bytes d, Vector (&quads)[4]) {
    const __m128i low_ab = _mm_unpacklo_epi8(a, b), high_ab = _mm_unpackhi_epi8(a, b);
    const __m128i low_cd = _mm_unpacklo_epi8(c, d), high_cd = _mm_unpackhi_epi8(c, d);
    quads[0] = _mm_unpacklo_epi16(low_ab, low_cd);
    quads[1] = _mm_unpackhi_epi16(low_ab, low_cd);
    quads[2] = _mm_unpacklo_epi16(high_ab, high_cd);
    quads[3] = _mm_unpackhi_epi16(high_ab, high_cd);
  }
  static __m128i four_bytes(const uint8_t* from) {
    int32_t four;
    std::memcpy(&four, from, 4);
    return _mm_cvtsi32_si128(four);
  }
  static Vector quad(const uint8_t* a, const uint8_t* b, const uint8_t* c, const uint8_t* d) {
    const __m128i ab = _mm_unpacklo_epi8(four_bytes(a), four_bytes(b));
    const __m128i cd = _mm_unpacklo_epi8(four_bytes(c), four_bytes(d));
    return _mm_unpacklo_epi16(ab, cd);
  }
  static Vector quad(const uint8_t* a, const uint8_t* b, const uint8_t* c) {
    const __m128i ab = _mm_unpacklo_epi8(four_bytes(a), four_bytes(b));
    const __m128i c0 = _mm_unpacklo_epi8(four_bytes(c), _mm_setzero_si128());
    return _mm_unpacklo_epi16(ab, c0);
  }

  static Bytes pack(Vector a, Vector b, Vector c, Vector d) {
    return _mm_packus_epi16(_mm_packs_epi32(a, b), _mm_packs_epi32(c, d));
  }
  // ``((a << a_shift) + (b << b_shift) + constant) >> shift`` in 16 bits, saturated.
  static Bytes add_bytes(Bytes a, Bytes b, int a_shift, int b_shift, int constant, int shift) {
    const __m128i by_a = _mm_cvtsi32_si128(a_shift), by_b = _mm_cvtsi32_si128(b_shift);
    const __m128i by = _mm_cvtsi32_si128(shift);
    const __m128i zero = _mm_setzero_si128();
    const __m128i addend = _mm_set1_epi16(static_cast<int16_t>(constant));
    const auto half = [&](__m128i x, __m128i y) {
      const __m128i sum = _mm_add_epi16(_mm_sll_epi16(x, by_a), _mm_sll_epi16(y, by_b));
      return _mm_sra_epi16(_mm_add_epi16(sum, addend), by);
    };
    return _mm_packus_epi16(half(_mm_unpacklo_epi8(a, zero), _mm_unpacklo_epi8(b, zero)),
                               half(_mm_unpackhi_epi8(a, zero), _mm_unpackhi_epi8(b, zero)));
  }
  // Of four vectors at least 0 and below 2**15: their lowest bits, and what is above those.
  static Bytes pack_low(Vector a, Vector b, Vector c, Vector d, int bits) {
    const Vector mask = _mm_set1_epi16(static_cast<int16_t>((1 << bits) - 1));
    return _mm_packus_epi16(_mm_and_si128(_mm_packs_epi32(a, b), mask),
                               _mm_and_si128(_mm_packs_epi32(c, d), mask));
  }
  static Bytes pack_high(Vector a, Vector b, Vector c, Vector d, int bits) {
    const __m128i by = _mm_cvtsi32_si128(bits);
    return _mm_packus_epi16(_mm_srl_epi16(_mm_packs_epi32(a, b), by),
                               _mm_srl_epi16(_mm_packs_epi32(c, d), by));
  }
  static Bytes set_bytes(uint8_t x) { return _mm_set1_epi8(static_cast<char>(x)); }
  // Not below 0.
  static Bytes subtract_bytes(Bytes a, Bytes b) { return _mm_subs_epu8(a, b); }
  // A bit per byte that is not zero.
  static uint64_t nonzero_bytes(Bytes x) {
    const __m128i zero = _mm_cmpeq_epi8(x, _mm_setzero_si128());
    return static_cast<uint32_t>(~_mm_movemask_epi8(zero));
  }
  // Unsigned bytes, and in 16 bits those of the lower and of the upper half of each 128 bits.
  static Bytes add_wrapped(Bytes a, Bytes b) { return _mm_add_epi8(a, b); }
  struct Words {
    Bytes low, high;
  };
  static void add_widened(Words& sum, Bytes x) {
    const Bytes zero = _mm_setzero_si128();
    sum.low = _mm_add_epi16(sum.low, _mm_unpacklo_epi8(x, zero));
    sum.high = _mm_add_epi16(sum.high, _mm_unpackhi_epi8(x, zero));
  }
  static void subtract_widened(Words& sum, Bytes x) {
    const Bytes zero = _mm_setzero_si128();
    sum.low = _mm_sub_epi16(sum.low, _mm_unpacklo_epi8(x, zero));
    sum.high = _mm_sub_epi16(sum.high, _mm_unpackhi_epi8(x, zero));
  }
  // 256 times (word + addend) per lane of a block of four vectors.
  static void widen_words(const Words& words, int addend, Vector (&x)[4]) {
    const Bytes zero = _mm_setzero_si128(), all = _mm_set1_epi16(static_cast<int16_t>(addend));
    const Bytes low = _mm_add_epi16(words.low, all), high = _mm_add_epi16(words.high, all);
    x[0] = shift_right_8(_mm_unpacklo_epi16(zero, low));
    x[1] = shift_right_8(_mm_unpackhi_epi16(zero, low));
    x[2] = shift_right_8(_mm_unpacklo_epi16(zero, high));
    x[3] = shift_right_8(_mm_unpackhi_epi16(zero, high));
  }
  static Bytes clamp(Bytes x, const uint8_t* low, const uint8_t* high) {
    return _mm_min_epu8(_mm_max_epu8(x, load_bytes(low)), load_bytes(high));
  }
  template <int vectors>
  static void order(Vector (&)[vectors]) {}  // they are
  static Bytes halves(Bytes x) { return x; }
  static Bytes quarters(Bytes x) { return x; }
  static void store_part(uint8_t* to, Bytes x, int first, int count) {
    alignas(16) uint8_t bytes[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(bytes), x);
    std::memcpy(to, bytes + first, static_cast<size_t>(count));
  }
  static void store_whole(uint8_t* to, Bytes x, int count) {
    if (count >= 16) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), x);
    } else {
      store_part(to, x, 0, count);
    }
  }
  template <int part>
  static void store_half(uint8_t* to, Bytes x, int count) {
    store_part(to, x, 8 * part, count < 8 ? count : 8);
  }
  template <int part>
  static void store_quarter(uint8_t* to, Bytes x, int count) {
    store_part(to, x, 4 * part, count < 4 ? count : 4);
  }
};

}  // namespace

#endif
