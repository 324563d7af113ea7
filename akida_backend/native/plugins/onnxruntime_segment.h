// SPDX-License-Identifier: Apache-2.0
// A device segment inside an onnxruntime session: a program, and how its two tensors lie there.
#ifndef AKIDA_BACKEND_ONNXRUNTIME_SEGMENT_H
#define AKIDA_BACKEND_ONNXRUNTIME_SEGMENT_H

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "onnxruntime_abi.h"
#include "onnxruntime_python.h"
#include "program_runner.h"
#include "sample_view.h"

namespace akida_backend::ort {

// The notes of an EPContext node: one JSON object of texts, whole numbers, and lists of them.
//
//   format              1
//   tool                tool and version that compiled it
//   devices             names of the device, the canonical one first
//   source_sha256       of the model it was compiled from
//   program_sha256      content hash of the program in ep_cache_context
//   input, output       names of the tensors
//   input_transposed    rows and columns of a sample of the session's tensor, when the program
//                       wants it transposed (NCHW has channels, then height * width); or empty
//   input_view          instead, where more than that happens to it: numbers of a SampleView; or
//                       empty
//   output_transposed   the same of the program's output, when the session wants it transposed
//   output_shape        of the session's tensor, -1 in front where any batch fits
//   input_real          bits of a float32 scale, zero point: the session's input is dequantized
class Notes {
 public:
  // Throws Failure where the text is not such an object.
  explicit Notes(const std::string& text);

  const std::string& text() const { return text_; }
  std::string one(const char* key) const;
  const std::vector<std::string>& all(const char* key) const;
  std::vector<int64_t> numbers(const char* key) const;

 private:
  std::string text_;
  std::map<std::string, std::vector<std::string>> values_;
};

// What Python has installed; null without it.
extern std::atomic<akida_backend_onnxruntime_compute> python_compute;
extern std::atomic<akida_backend_onnxruntime_release> python_release;

class Segment {
 public:
  // Throws Failure when program or notes cannot be used, or do not belong together.
  // `source`: what Python computes it as, from the session's tensors as they are; 0 to run the
  // program.
  Segment(std::string program, const std::string& notes, int threads, uint64_t source = 0);
  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  const std::string& program() const { return program_; }
  const Notes& notes() const { return notes_; }
  // After this only the runner has it.
  void drop_program() { program_ = {}; }

  // Element types of the session's input and output: onnxruntime allocates what the model says,
  // the program reads and writes what it was compiled for. Throws Failure.
  void check_types(int input, int output) const;

  Status* compute(const Api& api, KernelContext* context, size_t input_index) const;

 private:
  struct Matrix {
    size_t rows = 0, columns = 0;  // none: 0
  };
  Matrix transposition(const char* key, const akida_backend_port& port) const;
  bool run(const uint8_t* input, uint8_t* output, size_t batch, std::string* problem) const;

  std::string program_;
  Notes notes_;
  std::unique_ptr<ProgramRunner> runner_;
  uint64_t source_;
  Matrix input_matrix_, output_matrix_;
  SampleView input_view_;
  std::vector<int64_t> output_shape_;
  size_t session_sample_values_, session_sample_bytes_;  // of the input
  bool input_is_real_ = false;
  akida_backend_codes input_codes_{};
};

}  // namespace akida_backend::ort

#endif
