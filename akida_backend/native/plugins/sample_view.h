// SPDX-License-Identifier: Apache-2.0
// A program's input sample gathered from one of another shape: akida_backend/sample_view.py.
#ifndef AKIDA_BACKEND_SAMPLE_VIEW_H
#define AKIDA_BACKEND_SAMPLE_VIEW_H

#include <cstddef>
#include <cstdint>
#include <vector>

namespace akida_backend {

class SampleView {
 public:
  // No view: samples are as they are.
  SampleView() = default;

  // The numbers: fill; how many source axes, length and offset of each; how many axes, and of each
  // its length, its source axis and the step along it. Throws Failure unless they describe samples
  // of so many values.
  SampleView(const std::vector<int64_t>& numbers, uint64_t values);

  explicit operator bool() const { return !from_.empty(); }
  // Of a sample of the source.
  size_t source_values() const { return source_values_; }

  // Integers of 1, 2 or 4 bytes, `batch` samples one behind the other.
  void gather(const uint8_t* source, uint8_t* target, size_t batch, size_t value_bytes) const;

 private:
  template <class Value>
  void gather_values(const uint8_t* source, uint8_t* target, size_t batch) const;

  std::vector<int32_t> from_;  // position in the source, or -1 for the fill
  size_t source_values_ = 0;
  int64_t fill_ = 0;
};

}  // namespace akida_backend

#endif
