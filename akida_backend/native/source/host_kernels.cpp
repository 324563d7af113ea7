// SPDX-License-Identifier: Apache-2.0
// Host operations in the arithmetic of the model's own runtime; the C interface again.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "akida_backend.h"
#include "kernel_library.h"
#include "kernels.h"
#include "thread_error.h"

using akida_backend::Failure;
using akida_backend::HostCodes;
using akida_backend::guarded;
using akida_backend::require;

namespace {

constexpr int64_t portion = 256;

// Fixed point as gemmlowp has it, in 64 bits.

int64_t high_product(int64_t a, int64_t b) { return (a * b + (int64_t{1} << 30)) >> 31; }

int64_t saturated_high_product(int64_t a, int64_t b) {
  return std::min<int64_t>(high_product(a, b), INT32_MAX);
}

// Ties away from zero.
int64_t divided_by_power(int64_t value, int exponent) {
  if (exponent == 0) return value;
  return (value + (int64_t{1} << (exponent - 1)) - (value < 0 ? 1 : 0)) >> exponent;
}

// ``multiplier * 2**(shift - 31)``, rounded twice.
struct Factor {
  int64_t multiplier;
  int shift;

  explicit Factor(double real) {
    multiplier = std::llround(std::frexp(real, &shift) * 2147483648.0);
    if (multiplier == int64_t{1} << 31) {
      multiplier >>= 1;
      shift++;
    }
    if (shift < -31) multiplier = shift = 0;
  }

  int64_t operator()(int64_t value) const {
    if (shift > 0) {  // to the left modulo 2**32
      const uint64_t shifted = shift < 32 ? static_cast<uint64_t>(value) << shift : 0;
      value = static_cast<int32_t>(static_cast<uint32_t>(shifted));
    }
    return divided_by_power(high_product(value, multiplier), std::max(-shift, 0));
  }
};

// Of a number not above zero with 5 bits before the point and 26 behind, with 31 behind.
int64_t exponential(int64_t value) {
  constexpr int64_t quarter = int64_t{1} << 24;
  constexpr int64_t of_minus_eighth = 1895147668, third = 715827883;
  constexpr int64_t of_minus_powers[] = {1672461947, 1302514674, 790015084, 290630308,
                                         39332535,   720401,     242};
  if (value == 0) return INT32_MAX;
  const int64_t modulo = (value & (quarter - 1)) - quarter;
  const int64_t x = modulo * 32 + (int64_t{1} << 28);
  const int64_t x2 = saturated_high_product(x, x), x3 = saturated_high_product(x2, x);
  const int64_t x4 = saturated_high_product(x2, x2);
  const int64_t cubic = saturated_high_product(divided_by_power(x4, 2) + x3, third);
  const int64_t tail = divided_by_power(cubic + x2, 1);
  int64_t result = of_minus_eighth + saturated_high_product(x + tail, of_minus_eighth);
  const int64_t remainder = modulo - value;
  int64_t bit = quarter;
  for (const int64_t factor : of_minus_powers) {
    if (remainder & bit) result = saturated_high_product(result, factor);
    bit <<= 1;
  }
  return result;
}

// 1 / (1 + value) of a number in [0, 1), 31 bits behind the point: three steps of Newton's.
int64_t reciprocal_above_one(int64_t value) {
  const auto clamped = [](int64_t x) { return std::clamp<int64_t>(x, INT32_MIN, INT32_MAX); };
  const int64_t half = (value + (int64_t{1} << 31)) >> 1;
  int64_t x = 1515870810 + saturated_high_product(half, -1010580540);
  for (int step = 0; step < 3; step++) {
    const int64_t error = (int64_t{1} << 29) - saturated_high_product(half, x);
    x += clamped(saturated_high_product(x, error) * 4);
  }
  return clamped(x * 2);
}

constexpr int sum_bits = 12;  // before the point of a sum of exponentials
constexpr size_t longest_row = 4095;

void softmax_row(const uint8_t* from, uint8_t* to, size_t length, const int32_t* powers,
                 uint8_t from_flip, uint8_t to_flip) {
  uint8_t largest = 0;
  for (size_t i = 0; i < length; i++) {
    largest = std::max(largest, static_cast<uint8_t>(from[i] ^ from_flip));
  }
  const auto below = [&](size_t i) { return largest - (from[i] ^ from_flip); };
  int64_t sum = 0;
  for (size_t i = 0; i < length; i++) sum += divided_by_power(powers[below(i)], sum_bits);
  int headroom = 0;  // a sum has 20 to 31 bits
  while (headroom < 12 && (sum << headroom) < int64_t{1} << 31) headroom++;
  const int64_t scale = reciprocal_above_one((sum << headroom) - (int64_t{1} << 31));
  const int exponent = sum_bits - headroom + 31 - 8;
  const auto code = [&](size_t distance) {
    const int64_t share = saturated_high_product(powers[distance], scale);
    const int64_t whole = std::clamp<int64_t>(divided_by_power(share, exponent), 0, 255);
    return static_cast<uint8_t>(static_cast<uint8_t>(whole) ^ to_flip);
  };
  if (length < 256) {
    for (size_t i = 0; i < length; i++) to[i] = code(static_cast<size_t>(below(i)));
    return;
  }
  uint8_t table[256];
  for (size_t distance = 0; distance < 256; distance++) table[distance] = code(distance);
  for (size_t i = 0; i < length; i++) to[i] = table[below(i)];
}

HostCodes host_codes(const akida_backend_codes* codes, bool with_int32, bool ties_to_even) {
  require(codes != nullptr, "codes: none given");
  HostCodes host{codes->scale, codes->zero_point, 0, 0, 0, ties_to_even};
  switch (codes->type) {
    case AKIDA_BACKEND_INT8:
      host.low = -128, host.high = 127, host.bytes = 1;
      break;
    case AKIDA_BACKEND_UINT8:
      host.low = 0, host.high = 255, host.bytes = 1;
      break;
    case AKIDA_BACKEND_INT16:
      host.low = -32768, host.high = 32767, host.bytes = 2;
      break;
    default:
      require(with_int32 && codes->type == AKIDA_BACKEND_INT32, "codes: not of this type");
      host.low = INT32_MIN, host.high = INT32_MAX, host.bytes = 4;
  }
  require(std::isfinite(codes->scale) && codes->scale > 0, "codes: the scale is not positive");
  require(host.low <= codes->zero_point && codes->zero_point <= host.high,
          "codes: the zero point is not of the type");
  return host;
}

void check_arithmetic(akida_backend_arithmetic arithmetic) {
  require(arithmetic == AKIDA_BACKEND_TFLITE || arithmetic == AKIDA_BACKEND_ONNX,
          "arithmetic: unknown");
}

void check_values(const void* from, const void* to, size_t count) {
  require(count == 0 || (from != nullptr && to != nullptr), "values: none given, or nowhere to");
  require(count <= SIZE_MAX / 8, "values: too many");
}

const akida_backend::KernelTable& kernels() {
  return *akida_backend::default_instruction_set().kernels;
}

// Rounded twice; a value below 16 bits decides alone.
template <class From, class To>
void requantize_values(const HostCodes& a, const HostCodes& b, const From* from, To* to,
                       size_t count) {
  const Factor factor(double{a.scale} / double{b.scale});
  const auto code = [&](From value) {
    const int64_t steps = factor(int64_t{value} - a.zero_point) + b.zero_point;
    return static_cast<To>(std::clamp<int64_t>(steps, b.low, b.high));
  };
  if (sizeof(From) == 1 && count >= 256) {
    To table[256];
    for (int i = 0; i < 256; i++) table[i] = code(static_cast<From>(static_cast<uint8_t>(i)));
    for (size_t i = 0; i < count; i++) to[i] = table[static_cast<uint8_t>(from[i])];
    return;
  }
  for (size_t i = 0; i < count; i++) to[i] = code(from[i]);
}

// Calls `action` with null pointers of the two types.
template <class Action>
void with_type(const HostCodes& codes, const Action& action) {
  if (codes.bytes == 2) return action(static_cast<int16_t*>(nullptr));
  return codes.low < 0 ? action(static_cast<int8_t*>(nullptr))
                       : action(static_cast<uint8_t*>(nullptr));
}

// `fixed`: bytes of a value where the compiler may know them, or 0.
template <size_t fixed>
void transpose_values(const uint8_t* from, uint8_t* to, size_t batch, size_t rows, size_t columns,
                      size_t value_bytes) {
  const size_t bytes = fixed == 0 ? value_bytes : fixed;
  const size_t side = std::max<size_t>(64 / bytes, 1);  // of a square that stays in a cache
  for (size_t sample = 0; sample < batch; sample++) {
    for (size_t top = 0; top < rows; top += side) {
      const size_t bottom = std::min(rows, top + side);
      for (size_t left = 0; left < columns; left += side) {
        const size_t right = std::min(columns, left + side);
        for (size_t column = left; column < right; column++) {
          for (size_t row = top; row < bottom; row++) {
            std::memcpy(to + (column * rows + row) * bytes, from + (row * columns + column) * bytes,
                        bytes);
          }
        }
      }
    }
    from += rows * columns * bytes;
    to += rows * columns * bytes;
  }
}

// By value: bytes that are written could be those of a structure elsewhere. `fixed`: bytes of a
// run where the compiler may know them, or 0.
template <size_t fixed>
void gather_rows(const akida_backend_moves moves, const uint8_t* from, uint8_t* to) {
  const size_t bytes = fixed == 0 ? moves.run_bytes : fixed;
  const auto* fill = static_cast<const uint8_t*>(moves.fill);
  if (moves.runs == nullptr) {
    for (size_t row = 0; row < moves.rows; row++, to += bytes) {
      const int32_t offset = moves.offsets[row];
      std::memcpy(to, offset < 0 ? fill : from + offset, bytes);
    }
    return;
  }
  for (size_t row = 0; row < moves.rows; row++) {
    const int32_t offset = moves.offsets[row];
    const uint8_t* source = offset < 0 ? fill : from + offset;
    const size_t step = offset < 0 ? 0 : moves.stride;
    size_t left = moves.runs[row];
    if (step == bytes) {
      std::memcpy(to, source, left * bytes);
      to += left * bytes;
      continue;
    }
    const auto copy = [&] {
      std::memcpy(to, source, bytes);
      source += step;
      to += bytes;
    };
    for (; left > 3; left -= 4) copy(), copy(), copy(), copy();
    for (; left > 0; left--) copy();
  }
}

using GatherRows = void (*)(akida_backend_moves, const uint8_t*, uint8_t*);

// Of one to four values of one, two or four bytes; three are a pixel.
GatherRows gather_of(size_t run_bytes) {
  switch (run_bytes) {
    case 1: return gather_rows<1>;
    case 2: return gather_rows<2>;
    case 3: return gather_rows<3>;
    case 4: return gather_rows<4>;
    case 6: return gather_rows<6>;
    case 8: return gather_rows<8>;
    case 12: return gather_rows<12>;
    case 16: return gather_rows<16>;
    default: return gather_rows<0>;
  }
}

// Returns the bytes of a sample behind.
size_t check_moves(const akida_backend_moves& moves) {
  constexpr uint64_t most = INT32_MAX;
  const uint64_t from_bytes = moves.from_bytes, stride = moves.stride, bytes = moves.run_bytes;
  require(from_bytes <= most && moves.rows <= most && stride <= most && bytes <= most,
          "gather: samples too large");
  require(moves.rows == 0 || moves.offsets != nullptr, "gather: no rows given");
  uint64_t runs = moves.runs == nullptr ? moves.rows : 0, end = 0;
  int32_t lowest = 0, highest = -1;
  uint32_t fewest = 1;
  for (size_t row = 0; row < moves.rows; row++) {
    lowest = std::min(lowest, moves.offsets[row]);
    highest = std::max(highest, moves.offsets[row]);
  }
  if (highest >= 0) end = static_cast<uint64_t>(highest) + bytes;
  for (size_t row = 0; row < moves.rows && moves.runs != nullptr; row++) {
    const uint32_t own = moves.runs[row];
    runs += own;
    fewest = std::min(fewest, own);
    const auto offset = static_cast<uint64_t>(std::max(moves.offsets[row], 0));
    const uint64_t last = offset + (uint64_t{own} - 1) * stride + bytes;
    end = moves.offsets[row] < 0 ? end : std::max(end, last);
  }
  require(fewest >= 1 && bytes >= 1, "gather: rows without values");
  require(end <= from_bytes, "gather: reads beyond a sample");
  require(lowest >= 0 || moves.fill != nullptr, "gather: nothing to fill with");
  require(runs <= most / bytes, "gather: samples too large");
  return static_cast<size_t>(runs * bytes);
}

}  // namespace

extern "C" {

int akida_backend_quantize(const float* from, void* to, size_t count,
                           const akida_backend_codes* codes, akida_backend_arithmetic arithmetic) {
  return guarded(-1, [&] {
    check_arithmetic(arithmetic);
    check_values(from, to, count);
    const HostCodes host = host_codes(codes, false, arithmetic == AKIDA_BACKEND_ONNX);
    kernels().quantize(&host, from, to, static_cast<int64_t>(count));
    return 0;
  });
}

int akida_backend_dequantize(const void* from, float* to, size_t count,
                             const akida_backend_codes* codes) {
  return guarded(-1, [&] {
    check_values(from, to, count);
    const HostCodes host = host_codes(codes, true, false);
    kernels().dequantize(&host, from, to, static_cast<int64_t>(count));
    return 0;
  });
}

int akida_backend_requantize(const void* from, void* to, size_t count,
                             const akida_backend_codes* from_codes,
                             const akida_backend_codes* to_codes,
                             akida_backend_arithmetic arithmetic) {
  return guarded(-1, [&] {
    check_arithmetic(arithmetic);
    check_values(from, to, count);
    const HostCodes a = host_codes(from_codes, false, false);
    const HostCodes b = host_codes(to_codes, false, arithmetic == AKIDA_BACKEND_ONNX);
    if (arithmetic == AKIDA_BACKEND_ONNX) {
      float reals[portion];
      const auto *source = static_cast<const uint8_t*>(from);
      auto* target = static_cast<uint8_t*>(to);
      for (auto left = static_cast<int64_t>(count); left > 0; left -= portion) {
        const int64_t now = std::min(left, portion);
        kernels().dequantize(&a, source, reals, now);
        kernels().quantize(&b, reals, target, now);
        source += now * a.bytes;
        target += now * b.bytes;
      }
      return 0;
    }
    with_type(a, [&](auto* x) {
      with_type(b, [&](auto* y) {
        requantize_values(a, b, static_cast<decltype(x)>(const_cast<void*>(from)),
                          static_cast<decltype(y)>(to), count);
      });
    });
    return 0;
  });
}

int akida_backend_softmax_table(const akida_backend_codes* codes, double beta,
                                int32_t powers[256]) {
  return guarded(-1, [&] {
    require(powers != nullptr, "softmax: nowhere to write");
    const HostCodes host = host_codes(codes, false, false);
    require(host.bytes == 1, "softmax: needs 8-bit codes");
    require(std::isfinite(beta) && beta > 0, "softmax: beta is not positive");
    const double real = beta * double{host.scale} * (1 << 26);
    const Factor factor(std::min(real, 2147483647.0));
    require(factor.shift >= 0, "softmax: beta times scale is too small");
    const int64_t farthest = (int64_t{31} << 26) >> factor.shift;
    for (int64_t distance = 0; distance < 256; distance++) {
      const bool counts = distance <= farthest;
      powers[distance] = counts ? static_cast<int32_t>(exponential(factor(-distance))) : 0;
    }
    return 0;
  });
}

int akida_backend_softmax(const void* from, void* to, size_t rows, size_t length,
                          const int32_t powers[256], int32_t from_type, int32_t to_type) {
  return guarded(-1, [&] {
    const auto flip = [](int32_t type) {
      require(type == AKIDA_BACKEND_INT8 || type == AKIDA_BACKEND_UINT8,
              "softmax: needs 8-bit codes");
      return static_cast<uint8_t>(type == AKIDA_BACKEND_INT8 ? 0x80 : 0);
    };
    const uint8_t from_flip = flip(from_type), to_flip = flip(to_type);
    require(powers != nullptr && powers[0] == INT32_MAX, "softmax: no table of exponentials");
    require(length >= 1 && length <= longest_row, "softmax: needs rows of 1 to 4095 codes");
    check_values(from, to, rows);
    for (size_t row = 0; row < rows; row++) {
      softmax_row(static_cast<const uint8_t*>(from) + row * length,
                  static_cast<uint8_t*>(to) + row * length, length, powers, from_flip, to_flip);
    }
    return 0;
  });
}

int akida_backend_transpose(const void* from, void* to, size_t batch, size_t rows, size_t columns,
                            size_t value_bytes) {
  return guarded(-1, [&] {
    if (batch == 0 || rows == 0 || columns == 0 || value_bytes == 0) return 0;
    check_values(from, to, 1);
    const auto transpose = value_bytes == 1   ? transpose_values<1>
                           : value_bytes == 2 ? transpose_values<2>
                           : value_bytes == 4 ? transpose_values<4>
                                              : transpose_values<0>;
    transpose(static_cast<const uint8_t*>(from), static_cast<uint8_t*>(to), batch, rows, columns,
              value_bytes);
    return 0;
  });
}

int akida_backend_gather(const void* from, void* to, size_t batch,
                         const akida_backend_moves* moves) {
  return guarded(-1, [&] {
    require(moves != nullptr, "gather: no moves given");
    const size_t to_bytes = check_moves(*moves);
    if (batch == 0 || to_bytes == 0) return 0;
    check_values(from, to, 1);
    const auto gather = gather_of(moves->run_bytes);
    const auto* source = static_cast<const uint8_t*>(from);
    auto* target = static_cast<uint8_t*>(to);
    for (size_t sample = 0; sample < batch; sample++) {
      gather(*moves, source, target);
      source += moves->from_bytes;
      target += to_bytes;
    }
    return 0;
  });
}

}  // extern "C"
