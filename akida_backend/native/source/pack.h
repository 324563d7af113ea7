// SPDX-License-Identifier: Apache-2.0
// Weights and constants in the order of a kernel library's blocks.
#ifndef AKIDA_BACKEND_PACK_H
#define AKIDA_BACKEND_PACK_H

#include <cstdint>
#include <functional>
#include <vector>

#include "constants.h"
#include "kernels.h"
#include "plan.h"
#include "staircase.h"

namespace akida_backend {

// A contiguous part of a layer's channels.
struct BlockShape {
  int32_t vectors;
  int32_t channels;
  int64_t first;  // channel
};

// Blocks of four vectors and, for the rest, of one or, where those exist, two.
std::vector<BlockShape> split_channels(int64_t channels, int32_t lanes, bool twos);

// Channel within a block, in channel order, of a lane.
inline int32_t block_position(int32_t vectors, int32_t vector, int32_t lane) {
  return 4 * vectors * (lane / 4) + 4 * vector + lane % 4;
}

// Weights of a convolution, 1 x 1 x 1 x 1 and up: [filter][row][column * channel].
struct Taps {
  int64_t filters, rows, run;
  std::vector<int32_t> values;

  int32_t at(int64_t filter, int64_t row, int64_t k) const {
    return values[static_cast<size_t>((filter * rows + row) * run + k)];
  }
};

// Digits of base 256, each within int8, that the largest weight takes.
int32_t plane_count(const std::vector<int32_t>& weights);

// Largest magnitude of two weights that are multiplied at once.
int64_t largest_pair(const Taps& taps);

const void* pack_convolution(Storage& storage, const Taps& taps, const BlockShape& block,
                             int32_t lanes, int32_t planes, bool pairs);

// Block::listed: weights of one row, and of a channel behind the last one.
const uint8_t* pack_listed(Storage& storage, const Taps& taps, const BlockShape& block,
                           int32_t lanes);

// Weights [row][column][channel], `channel_at(position)` below 0 where a block has none.
const void* pack_depthwise(Storage& storage, const std::vector<int32_t>& weights, Size kernel,
                           int64_t channels, int32_t vectors, int32_t lanes, bool pairs,
                           const std::function<int64_t(int32_t)>& channel_at);

// One value per lane; 0 where the block has no channel.
const int32_t* pack_lanes(Storage& storage, int32_t vectors, int32_t lanes,
                          const std::function<int64_t(int32_t)>& channel_at,
                          const std::function<int32_t(size_t)>& value);

// With a bias of those `channels` where it can be a part of the addend: of Rescaling::direct.
Rescaler pack_rescaler(Storage& storage, int32_t vectors, int32_t lanes, int32_t offset,
                       const std::function<int64_t(int32_t)>& channel_at,
                       const std::vector<ChannelRescale>& channels,
                       const std::vector<int32_t>& bias);

// Of the cheapest kind that is exact for all channels.
Rescaler pack_staircase(Storage& storage, int32_t vectors, int32_t lanes,
                        const std::function<int64_t(int32_t)>& channel_at,
                        const std::vector<Staircase>& channels);

// Bytes per channel, repeated to the bytes of four vectors.
const uint8_t* pack_bytes(Storage& storage, int32_t vectors, int32_t lanes,
                          const std::function<int64_t(int32_t)>& channel_at,
                          const std::vector<uint8_t>& values);

}  // namespace akida_backend

#endif
