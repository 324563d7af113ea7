// SPDX-License-Identifier: Apache-2.0
#include "sample_view.h"

#include <cstring>

#include "program.h"

namespace akida_backend {
namespace {

constexpr int64_t most_axes = 16;

void require(bool condition) {
  if (!condition) throw Failure("view of the input: not what is written here\n  Compile the model again.");
}

struct SourceAxis {
  int64_t length, offset, stride;
};

struct Axis {
  int64_t length, source, step;
};

}  // namespace

SampleView::SampleView(const std::vector<int64_t>& numbers, uint64_t values) {
  size_t at = 0;
  const auto next = [&] {
    require(at < numbers.size());
    return numbers[at++];
  };
  const auto within = [&](int64_t low, int64_t high) {
    const int64_t number = next();
    require(low <= number && number <= high);
    return number;
  };
  constexpr int64_t most = INT32_MAX;
  fill_ = within(INT32_MIN, most);
  std::vector<SourceAxis> sources(static_cast<size_t>(within(1, most_axes)));
  for (SourceAxis& axis : sources) axis = {within(1, most), within(-most, most), 1};
  int64_t stride = 1;
  for (size_t i = sources.size(); i-- > 0;) {
    sources[i].stride = stride;
    stride *= sources[i].length;
    require(stride <= most);
  }
  source_values_ = static_cast<size_t>(stride);
  std::vector<Axis> axes(static_cast<size_t>(within(0, most_axes)));
  uint64_t total = 1;
  for (Axis& axis : axes) {
    axis = {within(1, most), within(0, static_cast<int64_t>(sources.size()) - 1), within(1, most)};
    total *= static_cast<uint64_t>(axis.length);
    require(total <= values);
  }
  require(total == values && at == numbers.size());

  from_.resize(static_cast<size_t>(values));
  std::vector<int64_t> place(sources.size());
  for (size_t value = 0; value < from_.size(); value++) {
    for (size_t i = 0; i < sources.size(); i++) place[i] = sources[i].offset;
    auto rest = static_cast<int64_t>(value);
    for (size_t i = axes.size(); i-- > 0;) {
      place[static_cast<size_t>(axes[i].source)] += rest % axes[i].length * axes[i].step;
      rest /= axes[i].length;
    }
    int64_t position = 0;
    for (size_t i = 0; i < sources.size() && position >= 0; i++) {
      const bool inside = place[i] >= 0 && place[i] < sources[i].length;
      position = inside ? position + place[i] * sources[i].stride : -1;
    }
    from_[value] = static_cast<int32_t>(position);
  }
}

template <class Value>
void SampleView::gather_values(const uint8_t* source, uint8_t* target, size_t batch) const {
  const auto fill = static_cast<Value>(fill_);
  for (size_t sample = 0; sample < batch; sample++) {
    for (const int32_t position : from_) {
      Value value = fill;
      if (position >= 0) {
        std::memcpy(&value, source + static_cast<size_t>(position) * sizeof value, sizeof value);
      }
      std::memcpy(target, &value, sizeof value);
      target += sizeof value;
    }
    source += source_values_ * sizeof(Value);
  }
}

void SampleView::gather(const uint8_t* source, uint8_t* target, size_t batch,
                        size_t value_bytes) const {
  switch (value_bytes) {
    case 1:
      return gather_values<uint8_t>(source, target, batch);
    case 2:
      return gather_values<uint16_t>(source, target, batch);
    default:
      return gather_values<uint32_t>(source, target, batch);
  }
}

}  // namespace akida_backend
