// SPDX-License-Identifier: Apache-2.0
// 16 lanes with AVX512-VNNI.
#ifndef AKIDA_BACKEND_VECTOR_AVX512_H
#define AKIDA_BACKEND_VECTOR_AVX512_H

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace {

struct Quads512 {
  using Vector = __m512i;  // int32
  using Bytes = __m512i;   // of four vectors
  using Input = __m512i;   // four unsigned bytes per lane
  using Weights = __m512i;
  static constexpr int lanes = 16;
  static constexpr bool narrow = false;
  static constexpr int weight_bytes = 64;  // of one vector and four inputs
  static constexpr int tile_pixels[5] = {0, 8, 8, 0, 6};  // by vectors of the block

  static Vector zero() { return _mm512_setzero_si512(); }
  static Vector load(const int32_t* from) { return _mm512_loadu_si512(from); }
  static void store(int32_t* to, Vector x) { _mm512_storeu_si512(to, x); }
  // Loaded into a register now, not again at every use.
  static Vector keep(Vector x) {
    __asm__("" : "+v"(x));
    return x;
  }
  static Vector set(int32_t x) { return _mm512_set1_epi32(x); }
  static Vector add(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
  static Vector multiply(Vector a, Vector b) { return _mm512_mullo_epi32(a, b); }
  static Vector minimum(Vector a, Vector b) { return _mm512_min_epi32(a, b); }
  static Vector maximum(Vector a, Vector b) { return _mm512_max_epi32(a, b); }
  static Vector bits(Vector a, Vector b) { return _mm512_and_si512(a, b); }
  // One more where x is larger.
  static Vector count_above(Vector count, Vector x, Vector bound) {
    return _mm512_mask_add_epi32(count, _mm512_cmpgt_epi32_mask(x, bound), count, set(1));
  }
  static Vector shift_right(Vector a, Vector by) { return _mm512_srav_epi32(a, by); }
  static Vector shift_right_8(Vector a) { return _mm512_srai_epi32(a, 8); }
  static Vector shift_left_8(Vector a) { return _mm512_slli_epi32(a, 8); }
  static Vector shift_left(Vector a, int by) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(by)); }

  static Input broadcast(const uint8_t* from) {
    int32_t four;
    std::memcpy(&four, from, 4);
    return _mm512_set1_epi32(four);
  }
  static Input expand(Vector quads) { return quads; }
  static Weights weights(const uint8_t* from) { return _mm512_loadu_si512(from); }
  static Weights keep_weights(Weights w) { return keep(w); }
  static Vector dot(Vector sum, Input x, Weights w) { return _mm512_dpbusd_epi32(sum, x, w); }

  static Bytes load_bytes(const uint8_t* from) { return _mm512_loadu_si512(from); }
  static Bytes zero_bytes() { return _mm512_setzero_si512(); }

  // Quads of the four rows, in the order of a block of four vectors.
  static void interleave(Bytes a, Bytes b, Bytes c, Bytes d, Vector (&quads)[4]) {
    const __m512i low_ab = _mm512_unpacklo_epi8(a, b), high_ab = _mm512_unpackhi_epi8(a, b);
    const __m512i low_cd = _mm512_unpacklo_epi8(c, d), high_cd = _mm512_unpackhi_epi8(c, d);
    quads[0] = _mm512_unpacklo_epi16(low_ab, low_cd);
    quads[1] = _mm512_unpackhi_epi16(low_ab, low_cd);
    quads[2] = _mm512_unpacklo_epi16(high_ab, high_cd);
    quads[3] = _mm512_unpackhi_epi16(high_ab, high_cd);
  }
  // One byte per lane, in the order of a block of one vector.
  static Vector widen(const uint8_t* from) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static Vector quad(const uint8_t* a, const uint8_t* b, const uint8_t* c) {
    const __m512i ab = _mm512_or_si512(widen(a), _mm512_slli_epi32(widen(b), 8));
    return _mm512_or_si512(ab, _mm512_slli_epi32(widen(c), 16));
  }
  static Vector quad(const uint8_t* a, const uint8_t* b, const uint8_t* c, const uint8_t* d) {
    return _mm512_or_si512(quad(a, b, c), _mm512_slli_epi32(widen(d), 24));
  }

  // Saturated to unsigned bytes.
  static Bytes pack(Vector a, Vector b, Vector c, Vector d) {
    return _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
  }
  // ``((a << a_shift) + (b << b_shift) + constant) >> shift`` in 16 bits, saturated.
  static Bytes add_bytes(Bytes a, Bytes b, int a_shift, int b_shift, int constant, int shift) {
    const __m128i by_a = _mm_cvtsi32_si128(a_shift), by_b = _mm_cvtsi32_si128(b_shift);
    const __m128i by = _mm_cvtsi32_si128(shift);
    const __m512i zero = _mm512_setzero_si512();
    const __m512i addend = _mm512_set1_epi16(static_cast<int16_t>(constant));
    const auto half = [&](__m512i x, __m512i y) {
      const __m512i sum = _mm512_add_epi16(_mm512_sll_epi16(x, by_a), _mm512_sll_epi16(y, by_b));
      return _mm512_sra_epi16(_mm512_add_epi16(sum, addend), by);
    };
    return _mm512_packus_epi16(half(_mm512_unpacklo_epi8(a, zero), _mm512_unpacklo_epi8(b, zero)),
                               half(_mm512_unpackhi_epi8(a, zero), _mm512_unpackhi_epi8(b, zero)));
  }
  // Of four vectors at least 0 and below 2**15: their lowest bits, and what is above those.
  static Bytes pack_low(Vector a, Vector b, Vector c, Vector d, int bits) {
    const Vector mask = _mm512_set1_epi16(static_cast<int16_t>((1 << bits) - 1));
    return _mm512_packus_epi16(_mm512_and_si512(_mm512_packs_epi32(a, b), mask),
                               _mm512_and_si512(_mm512_packs_epi32(c, d), mask));
  }
  static Bytes pack_high(Vector a, Vector b, Vector c, Vector d, int bits) {
    const __m128i by = _mm_cvtsi32_si128(bits);
    return _mm512_packus_epi16(_mm512_srl_epi16(_mm512_packs_epi32(a, b), by),
                               _mm512_srl_epi16(_mm512_packs_epi32(c, d), by));
  }
  static Bytes set_bytes(uint8_t x) { return _mm512_set1_epi8(static_cast<char>(x)); }
  // Not below 0.
  static Bytes subtract_bytes(Bytes a, Bytes b) { return _mm512_subs_epu8(a, b); }
  // A bit per byte that is not zero.
  static uint64_t nonzero_bytes(Bytes x) {
    return _mm512_test_epi8_mask(x, x);
  }
  // Unsigned bytes, and in 16 bits those of the lower and of the upper half of each 128 bits.
  static Bytes add_wrapped(Bytes a, Bytes b) { return _mm512_add_epi8(a, b); }
  struct Words {
    Bytes low, high;
  };
  static void add_widened(Words& sum, Bytes x) {
    const Bytes zero = _mm512_setzero_si512();
    sum.low = _mm512_add_epi16(sum.low, _mm512_unpacklo_epi8(x, zero));
    sum.high = _mm512_add_epi16(sum.high, _mm512_unpackhi_epi8(x, zero));
  }
  static void subtract_widened(Words& sum, Bytes x) {
    const Bytes zero = _mm512_setzero_si512();
    sum.low = _mm512_sub_epi16(sum.low, _mm512_unpacklo_epi8(x, zero));
    sum.high = _mm512_sub_epi16(sum.high, _mm512_unpackhi_epi8(x, zero));
  }
  // 256 times (word + addend) per lane of a block of four vectors.
  static void widen_words(const Words& words, int addend, Vector (&x)[4]) {
    const Bytes zero = _mm512_setzero_si512();
    const Bytes all = _mm512_set1_epi16(static_cast<int16_t>(addend));
    const Bytes low = _mm512_add_epi16(words.low, all), high = _mm512_add_epi16(words.high, all);
    x[0] = shift_right_8(_mm512_unpacklo_epi16(zero, low));
    x[1] = shift_right_8(_mm512_unpackhi_epi16(zero, low));
    x[2] = shift_right_8(_mm512_unpacklo_epi16(zero, high));
    x[3] = shift_right_8(_mm512_unpackhi_epi16(zero, high));
  }
  static Bytes clamp(Bytes x, const uint8_t* low, const uint8_t* high) {
    return _mm512_min_epu8(_mm512_max_epu8(x, load_bytes(low)), load_bytes(high));
  }
  // From packed (pixel 0 vector 0, pixel 0 vector 1, pixel 1 vector 0, pixel 1 vector 1).
  static Bytes halves(Bytes x) {
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), x);
  }
  // From packed vectors of four pixels.
  static Bytes quarters(Bytes x) {
    return _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), x);
  }
  // Vectors of a block in channel order.
  static void order(Vector (&)[1]) {}
  static void order(Vector (&x)[2]) {
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    const __m512i first = _mm512_permutex2var_epi64(x[0], low, x[1]);
    x[1] = _mm512_permutex2var_epi64(x[0], high, x[1]);
    x[0] = first;
  }
  static void order(Vector (&x)[4]) {
    const __m512i a = _mm512_shuffle_i32x4(x[0], x[1], 0x44);
    const __m512i b = _mm512_shuffle_i32x4(x[2], x[3], 0x44);
    const __m512i c = _mm512_shuffle_i32x4(x[0], x[1], 0xEE);
    const __m512i d = _mm512_shuffle_i32x4(x[2], x[3], 0xEE);
    x[0] = _mm512_shuffle_i32x4(a, b, 0x88);
    x[1] = _mm512_shuffle_i32x4(a, b, 0xDD);
    x[2] = _mm512_shuffle_i32x4(c, d, 0x88);
    x[3] = _mm512_shuffle_i32x4(c, d, 0xDD);
  }
  static void store_whole(uint8_t* to, Bytes x, int count) {
    if (count >= 64) {
      _mm512_storeu_si512(to, x);
    } else {
      _mm512_mask_storeu_epi8(to, (uint64_t{1} << count) - 1, x);
    }
  }
  template <int part>
  static void store_half(uint8_t* to, Bytes x, int count) {
    const __m256i half = _mm512_extracti64x4_epi64(x, part);
    if (count >= 32) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), half);
    } else {
      _mm256_mask_storeu_epi8(to, static_cast<__mmask32>((uint64_t{1} << count) - 1), half);
    }
  }
  template <int part>
  static void store_quarter(uint8_t* to, Bytes x, int count) {
    const __m128i quarter = _mm512_extracti32x4_epi32(x, part);
    if (count >= 16) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), quarter);
    } else {
      _mm_mask_storeu_epi8(to, static_cast<__mmask16>((1u << count) - 1), quarter);
    }
  }
};

}  // namespace

#endif
