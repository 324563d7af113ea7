// SPDX-License-Identifier: Apache-2.0
// 8 lanes with AVX2, and with the 256-bit form of VNNI where the compiler is told to use it.
#ifndef AKIDA_BACKEND_VECTOR_AVX2_H
#define AKIDA_BACKEND_VECTOR_AVX2_H

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace {

struct Vector256 {
  using Vector = __m256i;
  using Bytes = __m256i;
  static constexpr int lanes = 8;
  static constexpr bool narrow = false;
  static constexpr int tile_pixels[5] = {0, 6, 4, 0, 2};

  static Vector zero() { return _mm256_setzero_si256(); }
  static Vector load(const int32_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  static void store(int32_t* to, Vector x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x);
  }
  // Loaded into a register now, not again at every use.
  static Vector keep(Vector x) {
    __asm__("" : "+x"(x));
    return x;
  }
  static Vector set(int32_t x) { return _mm256_set1_epi32(x); }
  static Vector add(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
  static Vector multiply(Vector a, Vector b) { return _mm256_mullo_epi32(a, b); }
  static Vector minimum(Vector a, Vector b) { return _mm256_min_epi32(a, b); }
  static Vector maximum(Vector a, Vector b) { return _mm256_max_epi32(a, b); }
  static Vector bits(Vector a, Vector b) { return _mm256_and_si256(a, b); }
  // One more where x is larger.
  static Vector count_above(Vector count, Vector x, Vector bound) {
    return _mm256_sub_epi32(count, _mm256_cmpgt_epi32(x, bound));
  }
  static Vector shift_right(Vector a, Vector by) { return _mm256_srav_epi32(a, by); }
  static Vector shift_right_8(Vector a) { return _mm256_srai_epi32(a, 8); }
  static Vector shift_left_8(Vector a) { return _mm256_slli_epi32(a, 8); }
  static Vector shift_left(Vector a, int by) { return _mm256_sll_epi32(a, _mm_cvtsi32_si128(by)); }

  static Vector broadcast_quad(const uint8_t* from) {
    int32_t four;
    std::memcpy(&four, from, 4);
    return _mm256_set1_epi32(four);
  }
  static Bytes load_bytes(const uint8_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  static Bytes zero_bytes() { return _mm256_setzero_si256(); }
  static void interleave(Bytes a, Bytes b, Bytes c, Bytes d, Vector (&quads)[4]) {
    const __m256i low_ab = _mm256_unpacklo_epi8(a, b), high_ab = _mm256_unpackhi_epi8(a, b);
    const __m256i low_cd = _mm256_unpacklo_epi8(c, d), high_cd = _mm256_unpackhi_epi8(c, d);
    quads[0] = _mm256_unpacklo_epi16(low_ab, low_cd);
    quads[1] = _mm256_unpackhi_epi16(low_ab, low_cd);
    quads[2] = _mm256_unpacklo_epi16(high_ab, high_cd);
    quads[3] = _mm256_unpackhi_epi16(high_ab, high_cd);
  }
  static Vector widen(const uint8_t* from) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  }
  static Vector quad(const uint8_t* a, const uint8_t* b, const uint8_t* c) {
    const __m256i ab = _mm256_or_si256(widen(a), _mm256_slli_epi32(widen(b), 8));
    return _mm256_or_si256(ab, _mm256_slli_epi32(widen(c), 16));
  }
  static Vector quad(const uint8_t* a, const uint8_t* b, const uint8_t* c, const uint8_t* d) {
    return _mm256_or_si256(quad(a, b, c), _mm256_slli_epi32(widen(d), 24));
  }

  static Bytes pack(Vector a, Vector b, Vector c, Vector d) {
    return _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
  }
  // ``((a << a_shift) + (b << b_shift) + constant) >> shift`` in 16 bits, saturated.
  static Bytes add_bytes(Bytes a, Bytes b, int a_shift, int b_shift, int constant, int shift) {
    const __m128i by_a = _mm_cvtsi32_si128(a_shift), by_b = _mm_cvtsi32_si128(b_shift);
    const __m128i by = _mm_cvtsi32_si128(shift);
    const __m256i zero = _mm256_setzero_si256();
    const __m256i addend = _mm256_set1_epi16(static_cast<int16_t>(constant));
    const auto half = [&](__m256i x, __m256i y) {
      const __m256i sum = _mm256_add_epi16(_mm256_sll_epi16(x, by_a), _mm256_sll_epi16(y, by_b));
      return _mm256_sra_epi16(_mm256_add_epi16(sum, addend), by);
    };
    return _mm256_packus_epi16(half(_mm256_unpacklo_epi8(a, zero), _mm256_unpacklo_epi8(b, zero)),
                               half(_mm256_unpackhi_epi8(a, zero), _mm256_unpackhi_epi8(b, zero)));
  }
  // Of four vectors at least 0 and below 2**15: their lowest bits, and what is above those.
  static Bytes pack_low(Vector a, Vector b, Vector c, Vector d, int bits) {
    const Vector mask = _mm256_set1_epi16(static_cast<int16_t>((1 << bits) - 1));
    return _mm256_packus_epi16(_mm256_and_si256(_mm256_packs_epi32(a, b), mask),
                               _mm256_and_si256(_mm256_packs_epi32(c, d), mask));
  }
  static Bytes pack_high(Vector a, Vector b, Vector c, Vector d, int bits) {
    const __m128i by = _mm_cvtsi32_si128(bits);
    return _mm256_packus_epi16(_mm256_srl_epi16(_mm256_packs_epi32(a, b), by),
                               _mm256_srl_epi16(_mm256_packs_epi32(c, d), by));
  }
  static Bytes set_bytes(uint8_t x) { return _mm256_set1_epi8(static_cast<char>(x)); }
  // Not below 0.
  static Bytes subtract_bytes(Bytes a, Bytes b) { return _mm256_subs_epu8(a, b); }
  // A bit per byte that is not zero.
  static uint64_t nonzero_bytes(Bytes x) {
    const __m256i zero = _mm256_cmpeq_epi8(x, _mm256_setzero_si256());
    return static_cast<uint32_t>(~_mm256_movemask_epi8(zero));
  }
  // Unsigned bytes, and in 16 bits those of the lower and of the upper half of each 128 bits.
  static Bytes add_wrapped(Bytes a, Bytes b) { return _mm256_add_epi8(a, b); }
  struct Words {
    Bytes low, high;
  };
  static void add_widened(Words& sum, Bytes x) {
    const Bytes zero = _mm256_setzero_si256();
    sum.low = _mm256_add_epi16(sum.low, _mm256_unpacklo_epi8(x, zero));
    sum.high = _mm256_add_epi16(sum.high, _mm256_unpackhi_epi8(x, zero));
  }
  static void subtract_widened(Words& sum, Bytes x) {
    const Bytes zero = _mm256_setzero_si256();
    sum.low = _mm256_sub_epi16(sum.low, _mm256_unpacklo_epi8(x, zero));
    sum.high = _mm256_sub_epi16(sum.high, _mm256_unpackhi_epi8(x, zero));
  }
  // 256 times (word + addend) per lane of a block of four vectors.
  static void widen_words(const Words& words, int addend, Vector (&x)[4]) {
    const Bytes zero = _mm256_setzero_si256();
    const Bytes all = _mm256_set1_epi16(static_cast<int16_t>(addend));
    const Bytes low = _mm256_add_epi16(words.low, all), high = _mm256_add_epi16(words.high, all);
    x[0] = shift_right_8(_mm256_unpacklo_epi16(zero, low));
    x[1] = shift_right_8(_mm256_unpackhi_epi16(zero, low));
    x[2] = shift_right_8(_mm256_unpacklo_epi16(zero, high));
    x[3] = shift_right_8(_mm256_unpackhi_epi16(zero, high));
  }
  static Bytes clamp(Bytes x, const uint8_t* low, const uint8_t* high) {
    return _mm256_min_epu8(_mm256_max_epu8(x, load_bytes(low)), load_bytes(high));
  }
  static Bytes halves(Bytes x) { return _mm256_permute4x64_epi64(x, 0xD8); }
  static Bytes quarters(Bytes x) {
    return _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
  // Vectors of a block in channel order.
  static void order(Vector (&)[1]) {}
  static void order(Vector (&x)[2]) {
    const __m256i first = _mm256_permute2x128_si256(x[0], x[1], 0x20);
    x[1] = _mm256_permute2x128_si256(x[0], x[1], 0x31);
    x[0] = first;
  }
  static void order(Vector (&x)[4]) {
    const __m256i first = _mm256_permute2x128_si256(x[0], x[1], 0x20);
    const __m256i second = _mm256_permute2x128_si256(x[2], x[3], 0x20);
    const __m256i third = _mm256_permute2x128_si256(x[0], x[1], 0x31);
    x[3] = _mm256_permute2x128_si256(x[2], x[3], 0x31);
    x[0] = first;
    x[1] = second;
    x[2] = third;
  }
  static void store_whole(uint8_t* to, Bytes x, int count) {
    if (count >= 32) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x);
    } else {
      alignas(32) uint8_t bytes[32];
      _mm256_store_si256(reinterpret_cast<__m256i*>(bytes), x);
      std::memcpy(to, bytes, static_cast<size_t>(count));
    }
  }
  template <int part>
  static void store_half(uint8_t* to, Bytes x, int count) {
    const __m128i half = _mm256_extracti128_si256(x, part);
    if (count >= 16) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), half);
    } else {
      alignas(16) uint8_t bytes[16];
      _mm_store_si128(reinterpret_cast<__m128i*>(bytes), half);
      std::memcpy(to, bytes, static_cast<size_t>(count));
    }
  }
  template <int part>
  static void store_quarter(uint8_t* to, Bytes x, int count) {
    const int64_t quarter = _mm256_extract_epi64(x, part);
    std::memcpy(to, &quarter, count >= 8 ? 8 : static_cast<size_t>(count));
  }
};

#if defined(AKIDA_BACKEND_VNNI256)
struct Quads256 : Vector256 {
  using Input = __m256i;
  using Weights = __m256i;
  static constexpr int weight_bytes = 32;

  static Input broadcast(const uint8_t* from) { return broadcast_quad(from); }
  static Input expand(Vector quads) { return quads; }
  static Weights weights(const uint8_t* from) { return load_bytes(from); }
  static Weights keep_weights(Weights w) { return keep(w); }
  static Vector dot(Vector sum, Input x, Weights w) {
#if defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(sum, x, w);
#else  // the same instruction in the encoding of AVX512-VNNI, for tests
    return _mm256_dpbusd_epi32(sum, x, w);
#endif
  }
};
#else
// Sums of two products of the instruction saturate at 16 bits: only for weights that never get
// there (KernelTable::quad_limit).
struct Quads256 : Vector256 {
  using Input = __m256i;
  using Weights = __m256i;
  static constexpr int weight_bytes = 32;

  static Input broadcast(const uint8_t* from) { return broadcast_quad(from); }
  static Input expand(Vector quads) { return quads; }
  static Weights weights(const uint8_t* from) { return load_bytes(from); }
  static Weights keep_weights(Weights w) { return keep(w); }
  static Vector dot(Vector sum, Input x, Weights w) {
    const __m256i pairs = _mm256_maddubs_epi16(x, w);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

// Sums of products in 16 bits, for so few of them that they fit.
struct Narrow256 : Quads256 {
  static constexpr bool narrow = true;

  static Vector dot(Vector sum, Input x, Weights w) {
    // One after the other: GCC would keep all products before it adds them.
    return keep(_mm256_add_epi16(sum, _mm256_maddubs_epi16(x, w)));
  }
  static Vector add_narrow(Vector sum, Vector narrow, int times) {
    const __m256i all = _mm256_set1_epi16(static_cast<int16_t>(times));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(narrow, all));
  }
};

struct Pairs256 : Vector256 {
  struct Input {
    __m256i even, odd;  // 16-bit inputs 0 and 2, 1 and 3
  };
  using Weights = Input;
  static constexpr int weight_bytes = 64;

  static Input expand(Vector quads) {
    return {_mm256_and_si256(quads, _mm256_set1_epi16(255)), _mm256_srli_epi16(quads, 8)};
  }
  static Input broadcast(const uint8_t* from) { return expand(broadcast_quad(from)); }
  static Weights weights(const uint8_t* from) {
    return {load_bytes(from), load_bytes(from + 32)};
  }
  static Weights keep_weights(Weights w) { return {keep(w.even), keep(w.odd)}; }
  static Vector dot(Vector sum, const Input& x, const Weights& w) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x.even, w.even));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(x.odd, w.odd));
  }
};
#endif

}  // namespace

#endif
