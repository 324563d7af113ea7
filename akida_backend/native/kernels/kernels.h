// SPDX-License-Identifier: Apache-2.0
// What the engine asks of a kernel library: plain structures, one function table.
//
// Tensors lie in an arena as unsigned bytes, height x width x channels: the code itself where it
// is never negative, otherwise code + 128, which the biases take back. A sample has an arena of
// its own; `arena_step` leads from one sample's to the next.
//
// A block is what one output pixel of one to four vectors covers. Within a block of V vectors,
// channel 4 * V * (lane / 4) + 4 * v + lane % 4 stands in `lane` of vector v: the order in which
// saturating packs of 128-bit parts give bytes in channel order.
#ifndef AKIDA_BACKEND_KERNELS_H
#define AKIDA_BACKEND_KERNELS_H

#include <cstdint>

namespace akida_backend {

// How accumulators become codes: ``(accumulator * multiplier + addend) >> shift``.
enum class Rescaling : int32_t {
  direct,   // fits 32 bits as it stands; addend holds rounding and storage offset
  clamped,  // fits 32 bits once the accumulator is clamped to [low, high]
  split,    // clamped, then multiplied in two parts; the storage offset is added behind the shift
  counted,  // another one: the number of bounds that the accumulator is above
};

// Constants of one rescaling, `lanes * vectors` of each in the order of the block.
struct Rescaler {
  Rescaling kind;
  int32_t offset;  // of storage, for `split`
  const int32_t* multiplier;
  const int32_t* addend;
  const int32_t* shift;
  const int32_t* low;
  const int32_t* high;
  int32_t levels;         // for `counted`
  const int32_t* bounds;  // per vector and level those of its lanes
};

struct Block {
  int32_t vectors;       // 4, 2 or 1
  int32_t channels;      // that are stored
  int64_t target;        // bytes from the pixel's first one
  int64_t source;        // the same in a depthwise layer's input
  const void* weights;
  const uint8_t* listed; // weights per channel, `4 * lanes` as in a block of four vectors
  const int32_t* bias;
  Rescaler rescaler;
  const uint8_t* lowest;   // codes in channel order, repeated to `4 * lanes`
  const uint8_t* highest;
  // Behind pooling or in front of a table; null where the layer has neither.
  const int32_t* clamp_low;
  const int32_t* clamp_high;
  Rescaler to_table;
};

// Where a map begins, and bytes per step.
struct Map {
  int64_t start;
  int64_t row;
  int64_t pixel;
};

// Where sums of two digits are rarely anything but their first one, the second one is a list per
// pixel, so that only what is not usual is multiplied: 32-bit numbers of groups above and below the
// usual value, then groups of `listed_group` channels, as often as a channel's digit is away from
// the usual one: 16 bits each, where its weights lie in Block::listed, in units of 8 bytes. One more
// channel, of zeros, fills the last group.
constexpr int listed_group = 8;
// What is added to weights of listed channels, so that they are bytes from 0 on, and sums of a
// group too.
constexpr int listed_offset = 8;

// Units are rows of one sample: in a convolution of one block as well, (block, sample, row), in a
// depthwise one several rows.
struct Convolution {
  Map source;           // steps of output rows and pixels
  Map target;
  int64_t kernel_row;   // bytes from one row of the kernel to the next
  int32_t kernel_rows;
  int32_t quads;        // of four bytes in a row of the kernel
  int32_t planes;       // weights beyond 8 bits: digits of base 256, highest first
  int32_t rows;         // that units count
  int32_t width;        // pixels per such row
  int32_t last_width;   // pixels of the last one
  int32_t target_width; // pixels per row of the target
  int32_t one_pixel;    // the map is one pixel: samples take the place of a row's pixels
  int32_t pairs;        // weights are 16-bit pairs
  int32_t narrow;       // quads whose products may be summed up in 16 bits; 0: none
  int32_t digit_bits;   // and then those of row r are as many times ``2**digit_bits`` to add
  int32_t accumulators; // the target takes them as they are
  int32_t in_order;     // and in the order of channels
  int32_t rows_first;   // units are (sample, row, block)
  Map lists;            // of second digits; pixel: 0 without
  int32_t block_count;
  const Block* blocks;
};

struct Depthwise {
  Map source;
  Map target;
  int64_t kernel_row;
  int64_t kernel_pixel;
  int32_t kernel_height;
  int32_t kernel_width;
  int32_t height;
  int32_t width;
  int32_t strip;         // rows of a unit
  int32_t flat;          // a row's bytes run through the blocks in turn, whatever the pixel
  int32_t channels;
  int32_t pairs;
  int32_t accumulators;
  // Instead of codes the target takes the digits of accumulators that are at least 0, lowest first,
  // each in a map of its own: two of what is below 2**15, the second one of up to 8 bits, or any
  // number of 8 bits each.
  int32_t digits;        // 0: codes
  int32_t digit_bits;
  int64_t digit_step;    // bytes from one such map to the next
  Map lists;             // that the second of two digits becomes; pixel: 0 without
  int32_t usual;         // value of that digit
  int32_t block_count;
  const Block* blocks;
};

// Accumulators to codes: maximum over a window, activation, and sum over the map where asked.
struct Finish {
  Map source;
  Map target;
  int32_t source_height;
  int32_t source_width;
  int32_t height;
  int32_t width;
  int32_t window_height;
  int32_t window_width;
  int32_t stride_height;
  int32_t stride_width;
  int32_t top;
  int32_t left;
  int32_t sum;
  int32_t accumulators;  // the target takes int32 in the order of channels
  const int16_t* table;  // null without one
  int32_t block_count;
  const Block* blocks;
};

struct MaxPool {
  Map source;
  Map target;
  int32_t source_height;
  int32_t source_width;
  int32_t height;
  int32_t width;
  int32_t window_height;
  int32_t window_width;
  int32_t stride_height;
  int32_t stride_width;
  int32_t top;
  int32_t left;
  int32_t channels;
};

// ``((a << a_shift) + (b << b_shift) + constant) >> shift`` on stored bytes.
struct Add {
  Map a;
  Map b;
  Map target;
  int32_t height;
  int32_t width;
  int32_t channels;
  int32_t a_shift;
  int32_t b_shift;
  int32_t shift;
  int64_t constant;
  int32_t bits;             // that sums fit in: 16, 32 or 64
  int32_t accumulators;     // the target takes int32 as they are
  int32_t limits_step;      // 1: codes have limits per channel; 0: all have those of `4 * lanes`
  const uint8_t* lowest;
  const uint8_t* highest;
};

struct Copy {
  Map source;
  Map target;
  int32_t height;
  int32_t width;
  int32_t channels;
  int32_t offset;  // added to every byte
};

// Host bytes to stored codes.
struct Encode {
  Map target;
  int32_t height;
  int32_t width;
  int32_t channels;  // of the host
  int32_t parts;
  int32_t per_channel;  // tables, of all channels of the device
  int32_t ramp;      // table 0 is clamp((byte ^ flip) + step, lowest, highest)
  uint8_t flip;
  int32_t step;
  uint8_t lowest;
  uint8_t highest;
  const uint8_t* tables;  // parts or channels x 256, by the host's byte
};

// Codes to host integers: ``clip(rint(code * factor) + zero_point)`` in float64.
struct Decode {
  Map source;
  int32_t height;
  int32_t width;
  int32_t channels;
  int32_t offset;            // of storage
  int32_t wide;              // codes are int32
  const int32_t* clamp_low;  // of int32 codes, per channel: the activation
  const int32_t* clamp_high;
  const double* factor;      // per channel
  const double* least;       // per channel: what the real, zero point apart, is clamped to,
  const double* most;        // integers both
  int32_t zero_point;
  int32_t type;              // akida_backend_type of the host
};

// Integers that stand for ``scale * (stored - zero_point)`` on the host.
struct HostCodes {
  float scale;
  int32_t zero_point;
  int32_t low;
  int32_t high;
  int32_t bytes;         // of a value
  int32_t ties_to_even;  // or away from zero
};

using Region = void (*)(const void* job, uint8_t* arena, int64_t arena_step, int64_t samples,
                        int64_t begin, int64_t end);

struct KernelTable {
  uint32_t version;  // kernel_table_version
  const char* name;
  int32_t lanes;     // int32 in a vector
  // Largest sum of two neighbouring products that 8-bit weights are exact for; 0: never.
  int32_t quad_limit;
  // Jobs of the type in the name; [begin, end) are units.
  Region convolution;
  Region depthwise;
  Region finish;
  Region max_pool;
  Region add;
  Region copy;
  void (*encode)(const Encode* job, const uint8_t* host, uint8_t* arena);
  // `raw` may be null: 8-bit or int32 codes.
  void (*decode)(const Decode* job, const uint8_t* arena, void* host, void* raw);
  // 8 and 16 bits; the second one 32 as well.
  void (*quantize)(const HostCodes* codes, const float* from, void* to, int64_t count);
  void (*dequantize)(const HostCodes* codes, const void* from, float* to, int64_t count);
};

constexpr uint32_t kernel_table_version = 4;

}  // namespace akida_backend

// The one symbol of a kernel library.
extern "C" const akida_backend::KernelTable* akida_backend_kernel_table();

#endif
