// SPDX-License-Identifier: Apache-2.0
#include "pack.h"

#include <algorithm>
#include <cstdlib>

namespace akida_backend {
namespace {

// Writes the four weights of one lane: bytes, or 16-bit pairs of the even and of the odd ones.
class LaneWriter {
 public:
  LaneWriter(Storage& storage, int32_t lanes, bool pairs, size_t vectors)
      : lanes_(lanes), pairs_(pairs) {
    const size_t bytes = vectors * static_cast<size_t>(lanes) * (pairs ? 8 : 4);
    memory_ = storage.make<uint8_t>(bytes);
  }

  void write(size_t vector, int32_t lane, int tap, int32_t weight) {
    const size_t first = vector * static_cast<size_t>(lanes_);
    const auto at = static_cast<size_t>(lane);
    if (!pairs_) {
      auto* bytes = reinterpret_cast<int8_t*>(memory_);
      bytes[(first + at) * 4 + static_cast<size_t>(tap)] = static_cast<int8_t>(weight);
      return;
    }
    auto* words = reinterpret_cast<int16_t*>(memory_);
    const size_t half = (2 * first + static_cast<size_t>(tap % 2 * lanes_)) * 2;
    words[half + 2 * at + static_cast<size_t>(tap / 2)] = static_cast<int16_t>(weight);
  }

  const void* memory() const { return memory_; }

 private:
  int32_t lanes_;
  bool pairs_;
  uint8_t* memory_;
};

// Digit `plane` of base 256, each within int8.
int32_t digit(int64_t weight, int32_t plane) {
  for (; plane > 0; plane--) weight = (weight + 128) >> 8;
  return static_cast<int32_t>(((weight + 128) & 255) - 128);
}

template <class Write>
void for_each_lane(int32_t vectors, int32_t lanes,
                   const std::function<int64_t(int32_t)>& channel_at, const Write& write) {
  for (int32_t v = 0; v < vectors; v++) {
    for (int32_t lane = 0; lane < lanes; lane++) {
      const int64_t channel = channel_at(block_position(vectors, v, lane));
      if (channel >= 0) {
        write(static_cast<size_t>(v * lanes + lane), static_cast<size_t>(channel));
      }
    }
  }
}

}  // namespace

std::vector<BlockShape> split_channels(int64_t channels, int32_t lanes, bool twos) {
  std::vector<BlockShape> blocks;
  for (int64_t first = 0; first < channels;) {
    const int64_t rest = channels - first;
    int32_t vectors = 4;
    if (rest <= lanes) {
      vectors = 1;
    } else if (twos && rest <= 3 * lanes) {
      vectors = 2;
    }
    const auto taken = static_cast<int32_t>(std::min<int64_t>(rest, vectors * lanes));
    blocks.push_back({vectors, taken, first});
    first += taken;
  }
  return blocks;
}

int32_t plane_count(const std::vector<int32_t>& weights) {
  int32_t low = 0, high = 0;
  for (const int32_t weight : weights) {
    low = std::min(low, weight);
    high = std::max(high, weight);
  }
  int32_t planes = 1;
  for (int64_t a = low, b = high; a < -128 || b > 127; planes++) {
    a = (a + 128) >> 8;
    b = (b + 128) >> 8;
  }
  return planes;
}

int64_t largest_pair(const Taps& taps) {
  int64_t largest = 0;
  for (int64_t filter = 0; filter < taps.filters; filter++) {
    for (int64_t row = 0; row < taps.rows; row++) {
      for (int64_t k = 0; k < taps.run; k += 2) {
        int64_t sum = std::abs(int64_t{taps.at(filter, row, k)});
        if (k + 1 < taps.run) sum += std::abs(int64_t{taps.at(filter, row, k + 1)});
        largest = std::max(largest, sum);
      }
    }
  }
  return largest;
}

const void* pack_convolution(Storage& storage, const Taps& taps, const BlockShape& block,
                             int32_t lanes, int32_t planes, bool pairs) {
  const int64_t quads = (taps.run + 3) / 4;
  const auto vectors = static_cast<size_t>(planes * taps.rows * quads * block.vectors);
  LaneWriter writer(storage, lanes, pairs, vectors);
  size_t step = 0;
  for (int32_t plane = planes - 1; plane >= 0; plane--) {
    for (int64_t row = 0; row < taps.rows; row++) {
      for (int64_t quad = 0; quad < quads; quad++, step += static_cast<size_t>(block.vectors)) {
        const int count = static_cast<int>(std::min<int64_t>(4, taps.run - 4 * quad));
        for (int32_t v = 0; v < block.vectors; v++) {
          for (int32_t lane = 0; lane < lanes; lane++) {
            const int32_t position = block_position(block.vectors, v, lane);
            if (position >= block.channels) continue;
            for (int tap = 0; tap < count; tap++) {
              const int32_t weight = taps.at(block.first + position, row, 4 * quad + tap);
              writer.write(step + static_cast<size_t>(v), lane, tap, digit(weight, plane));
            }
          }
        }
      }
    }
  }
  return writer.memory();
}

const uint8_t* pack_listed(Storage& storage, const Taps& taps, const BlockShape& block,
                           int32_t lanes) {
  const auto bytes = static_cast<size_t>(4 * lanes);
  const auto channels = static_cast<size_t>(taps.run);
  auto* packed = storage.make<uint8_t>((channels + 1) * bytes);
  std::fill_n(packed, (channels + 1) * bytes, static_cast<uint8_t>(listed_offset));
  for (int32_t v = 0; v < block.vectors; v++) {
    for (int32_t lane = 0; lane < lanes; lane++) {
      const int32_t position = block_position(block.vectors, v, lane);
      if (position >= block.channels) continue;
      uint8_t* to = packed + block_position(4, v, lane);
      for (size_t c = 0; c < channels; c++) {
        const int32_t weight = taps.at(block.first + position, 0, static_cast<int64_t>(c));
        to[c * bytes] = static_cast<uint8_t>(weight + listed_offset);
      }
    }
  }
  return packed;
}

const void* pack_depthwise(Storage& storage, const std::vector<int32_t>& weights, Size kernel,
                           int64_t channels, int32_t vectors, int32_t lanes, bool pairs,
                           const std::function<int64_t(int32_t)>& channel_at) {
  const int64_t groups = (kernel.width + 3) / 4;
  LaneWriter writer(storage, lanes, pairs,
                    static_cast<size_t>(kernel.height * groups * vectors));
  for (int64_t row = 0; row < kernel.height; row++) {
    for (int64_t column = 0; column < kernel.width; column++) {
      const int64_t step = (row * groups + column / 4) * vectors;
      for (int32_t v = 0; v < vectors; v++) {
        for (int32_t lane = 0; lane < lanes; lane++) {
          const int64_t channel = channel_at(block_position(vectors, v, lane));
          if (channel < 0) continue;
          const int64_t at = (row * kernel.width + column) * channels + channel;
          writer.write(static_cast<size_t>(step + v), lane, static_cast<int>(column % 4),
                       weights[static_cast<size_t>(at)]);
        }
      }
    }
  }
  return writer.memory();
}

const int32_t* pack_lanes(Storage& storage, int32_t vectors, int32_t lanes,
                          const std::function<int64_t(int32_t)>& channel_at,
                          const std::function<int32_t(size_t)>& value) {
  auto* packed = storage.make<int32_t>(static_cast<size_t>(vectors * lanes));
  for_each_lane(vectors, lanes, channel_at,
                [&](size_t at, size_t channel) { packed[at] = value(channel); });
  return packed;
}

Rescaler pack_rescaler(Storage& storage, int32_t vectors, int32_t lanes, int32_t offset,
                       const std::function<int64_t(int32_t)>& channel_at,
                       const std::vector<ChannelRescale>& channels,
                       const std::vector<int32_t>& bias) {
  auto kind = Rescaling::direct;
  for_each_lane(vectors, lanes, channel_at, [&](size_t, size_t channel) {
    kind = std::max(kind, channels[channel].cheapest());
  });
  const auto count = static_cast<size_t>(vectors * lanes);
  auto* packed = storage.make<int32_t>(5 * count);
  for_each_lane(vectors, lanes, channel_at, [&](size_t at, size_t channel) {
    const Constants constants = channels[channel].constants(kind);
    packed[at] = constants.multiplier;
    const auto product = static_cast<uint32_t>(constants.multiplier) *
                         static_cast<uint32_t>(kind == Rescaling::direct ? bias[channel] : 0);
    packed[count + at] = static_cast<int32_t>(static_cast<uint32_t>(constants.addend) + product);
    packed[2 * count + at] = constants.shift;
    packed[3 * count + at] = constants.low;
    packed[4 * count + at] = constants.high;
  });
  return {kind,           offset,         packed, packed + count, packed + 2 * count,
          packed + 3 * count, packed + 4 * count, 0, nullptr};
}

Rescaler pack_staircase(Storage& storage, int32_t vectors, int32_t lanes,
                        const std::function<int64_t(int32_t)>& channel_at,
                        const std::vector<Staircase>& channels) {
  const auto count = static_cast<size_t>(vectors * lanes);
  auto* packed = storage.make<int32_t>(5 * count);
  for (const Rescaling kind : {Rescaling::direct, Rescaling::clamped, Rescaling::split}) {
    bool exact = true;
    for_each_lane(vectors, lanes, channel_at, [&](size_t at, size_t channel) {
      const auto constants = exact ? channels[channel].constants(kind) : std::nullopt;
      exact = constants.has_value();
      if (!exact) return;
      packed[at] = constants->multiplier;
      packed[count + at] = constants->addend;
      packed[2 * count + at] = constants->shift;
      packed[3 * count + at] = constants->low;
      packed[4 * count + at] = constants->high;
    });
    if (exact) {
      return {kind, 0, packed, packed + count, packed + 2 * count, packed + 3 * count,
              packed + 4 * count, 0, nullptr};
    }
  }
  const size_t levels = channels.front().bounds().size();
  auto* bounds = storage.make<int32_t>(levels * count);
  const auto in_vector = static_cast<size_t>(lanes);
  for_each_lane(vectors, lanes, channel_at, [&](size_t at, size_t channel) {
    const std::vector<int32_t> own = channels[channel].bounds();
    int32_t* to = bounds + at / in_vector * levels * in_vector + at % in_vector;
    for (size_t level = 0; level < levels; level++) to[level * in_vector] = own[level];
  });
  return {Rescaling::counted, 0, nullptr, nullptr, nullptr, nullptr, nullptr,
          static_cast<int32_t>(levels), bounds};
}

const uint8_t* pack_bytes(Storage& storage, int32_t vectors, int32_t lanes,
                          const std::function<int64_t(int32_t)>& channel_at,
                          const std::vector<uint8_t>& values) {
  auto* packed = storage.make<uint8_t>(static_cast<size_t>(4 * lanes));
  for (int32_t i = 0; i < 4 * lanes; i++) {
    const int64_t channel = channel_at(i % (vectors * lanes));
    if (channel >= 0) packed[i] = values[static_cast<size_t>(channel)];
  }
  return packed;
}

}  // namespace akida_backend
