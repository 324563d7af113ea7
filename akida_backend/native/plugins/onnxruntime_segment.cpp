// SPDX-License-Identifier: Apache-2.0
#include "onnxruntime_segment.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>

#include "program.h"

namespace akida_backend::ort {
namespace {

constexpr const char* format = "1";
constexpr size_t most_axes = 8;
// Content hash of a program's bytes.
constexpr size_t hash_at = 32, hash_bytes = 32;

class Reader {
 public:
  explicit Reader(const std::string& text) : text_(text) {}

  std::map<std::string, std::vector<std::string>> object() {
    std::map<std::string, std::vector<std::string>> values;
    want('{');
    if (accept('}')) return end(values);
    do {
      const std::string key = quoted();
      want(':');
      values[key] = value();
    } while (accept(','));
    want('}');
    return end(values);
  }

 private:
  std::map<std::string, std::vector<std::string>> end(
      const std::map<std::string, std::vector<std::string>>& values) {
    if (peek() != 0) fail();
    return values;
  }

  std::vector<std::string> value() {
    std::vector<std::string> items;
    if (!accept('[')) return {scalar()};
    if (accept(']')) return items;
    do {
      items.push_back(scalar());
    } while (accept(','));
    want(']');
    return items;
  }

  std::string scalar() {
    if (peek() == '"') return quoted();
    std::string number;
    while (peek() == '-' || (peek() >= '0' && peek() <= '9')) number += text_[at_++];
    if (number.empty() || number.size() > 18) fail();
    return number;
  }

  std::string quoted() {
    want('"');
    std::string text;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] == '\\') {
        escaped(text);
      } else {
        text += text_[at_++];
      }
    }
    if (at_ >= text_.size()) fail();
    at_++;
    return text;
  }

  void escaped(std::string& text) {
    static constexpr char codes[] = "bfnrt\"\\/", values[] = "\b\f\n\r\t\"\\/";
    const char code = ++at_ < text_.size() ? text_[at_++] : '\0';
    if (code == 'u') return append_utf8(text, unit());
    const char* found = code == '\0' ? nullptr : std::strchr(codes, code);
    if (found == nullptr) fail();
    text += values[found - codes];
  }

  // The code point of \uXXXX, or of two that are a pair of surrogates.
  uint32_t unit() {
    const uint32_t high = hexadecimal_digits();
    if (high < 0xD800 || high > 0xDBFF || text_.compare(at_, 2, "\\u") != 0) return high;
    const size_t before = at_;
    at_ += 2;
    const uint32_t low = hexadecimal_digits();
    if (low >= 0xDC00 && low <= 0xDFFF) return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
    at_ = before;
    return high;
  }

  uint32_t hexadecimal_digits() {
    uint32_t value = 0;
    for (int digit = 0; digit < 4; digit++, at_++) {
      const char found = at_ < text_.size() ? text_[at_] : '\0';
      if (std::isxdigit(static_cast<unsigned char>(found)) == 0) fail();
      const int nibble = found <= '9' ? found - '0' : (found | 32) - 'a' + 10;
      value = value << 4 | static_cast<uint32_t>(nibble);
    }
    return value;
  }

  static void append_utf8(std::string& text, uint32_t code) {
    if (code < 0x80) {
      text += static_cast<char>(code);
      return;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    text += static_cast<char>((0xF00 >> (more + 1) & 0xFF) | code >> 6 * more);
    for (int k = more - 1; k >= 0; k--) text += static_cast<char>(0x80 | (code >> 6 * k & 0x3F));
  }

  char peek() {
    while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_]) != nullptr) at_++;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool accept(char wanted) {
    if (peek() != wanted) return false;
    at_++;
    return true;
  }
  void want(char wanted) {
    if (!accept(wanted)) fail();
  }
  [[noreturn]] void fail() const {
    throw Failure("notes: not what akida-backend writes, at byte " + std::to_string(at_) +
                  "\n  Compile the model again.");
  }

  const std::string& text_;
  size_t at_ = 0;
};

std::string hexadecimal(const std::string& bytes, size_t begin, size_t size) {
  std::string text;
  for (size_t i = begin; i < begin + size && i < bytes.size(); i++) {
    const auto byte = static_cast<uint8_t>(bytes[i]);
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

// Element type of the session's tensor for a port.
int element_type(const akida_backend_port& port) {
  switch (port.type) {
    case AKIDA_BACKEND_INT8:
      return type_int8;
    case AKIDA_BACKEND_UINT8:
      return type_uint8;
    case AKIDA_BACKEND_INT16:
      return type_int16;
    case AKIDA_BACKEND_UINT16:
      return type_uint16;
    default:
      return type_int32;
  }
}

size_t value_bytes(const akida_backend_port& port) {
  return static_cast<size_t>(port.sample_bytes / port.sample_values);
}

// Memory of a thread that grows to the largest size asked for.
class Scratch {
 public:
  uint8_t* of(size_t bytes) {
    if (memory_.size() < bytes) memory_.resize(bytes);
    return memory_.data();
  }

 private:
  std::vector<uint8_t> memory_;
};

thread_local Scratch coded_input, ordered_input, unordered_output;

}  // namespace

std::atomic<akida_backend_onnxruntime_compute> python_compute{nullptr};
std::atomic<akida_backend_onnxruntime_release> python_release{nullptr};

Notes::Notes(const std::string& text) : text_(text), values_(Reader(text).object()) {
  const std::string found = one("format");
  if (found != format) {
    throw Failure("EPContext node: format " + found + ", this akida-backend reads " + format +
                  "; compiled by " + one("tool") +
                  "\n  Install the akida-backend that compiled it, or compile the model again.");
  }
}

const std::vector<std::string>& Notes::all(const char* key) const {
  const auto found = values_.find(key);
  if (found == values_.end()) {
    throw Failure(std::string("notes: '") + key + "' is missing\n  Compile the model again.");
  }
  return found->second;
}

std::string Notes::one(const char* key) const {
  const auto& values = all(key);
  return values.empty() ? "" : values.front();
}

std::vector<int64_t> Notes::numbers(const char* key) const {
  std::vector<int64_t> numbers;
  for (const std::string& text : all(key)) {
    numbers.push_back(std::strtoll(text.c_str(), nullptr, 10));
  }
  return numbers;
}

Segment::Segment(std::string program, const std::string& notes, int threads,
                 uint64_t source)
    : program_(std::move(program)), notes_(notes), source_(source) {
  const std::string said = notes_.one("program_sha256");
  const std::string found = hexadecimal(program_, hash_at, hash_bytes);
  runner_ = ProgramRunner::load(program_.data(), program_.size(), threads);
  if (runner_ == nullptr) throw Failure(akida_backend_error());
  if (said != found) {
    throw Failure("EPContext node: its notes belong to the program " + said +
                  ", its ep_cache_context is the program " + found + "; compiled by " +
                  notes_.one("tool") + "\n  Compile the model again.");
  }
  const akida_backend_port &input = runner_->input(), &output = runner_->output();
  input_matrix_ = transposition("input_transposed", input);
  output_matrix_ = transposition("output_transposed", output);
  output_shape_ = notes_.numbers("output_shape");
  uint64_t values = 1;
  for (size_t axis = 1; axis < output_shape_.size(); axis++) {
    values *= static_cast<uint64_t>(std::max<int64_t>(output_shape_[axis], 0));
    if (values > output.sample_values) break;
  }
  if (output_shape_.empty() || output_shape_.size() > most_axes ||
      values != output.sample_values) {
    throw Failure("notes: output_shape does not fit the program\n  Compile the model again.");
  }
  const std::vector<int64_t> real = notes_.numbers("input_real");
  const std::vector<int64_t> view = notes_.numbers("input_view");
  // A transposed sample has as many values as the program reads, a viewed one may have fewer.
  if (!view.empty() && input_matrix_.rows != 0) {
    throw Failure("notes: both input_transposed and input_view\n  Compile the model again.");
  }
  if (!view.empty()) input_view_ = SampleView(view, input.sample_values);
  session_sample_values_ = input_view_ ? input_view_.source_values()
                                       : static_cast<size_t>(input.sample_values);
  session_sample_bytes_ = session_sample_values_ * value_bytes(input);
  if (real.size() == 2) {
    input_is_real_ = true;
    input_codes_.type = input.type;
    input_codes_.zero_point = static_cast<int32_t>(real[1]);
    const auto bits = static_cast<uint32_t>(real[0]);
    std::memcpy(&input_codes_.scale, &bits, sizeof bits);
    session_sample_bytes_ = session_sample_values_ * sizeof(float);
  }
}

Segment::~Segment() {
  const auto release = python_release.load();
  if (source_ != 0 && release != nullptr) release(source_);
}

Segment::Matrix Segment::transposition(const char* key, const akida_backend_port& port) const {
  const std::vector<int64_t> sides = notes_.numbers(key);
  if (sides.empty()) return {};
  const auto values = static_cast<int64_t>(port.sample_values);
  if (sides.size() != 2 || sides[0] < 1 || sides[1] < 1 || sides[0] > values ||
      sides[1] > values || sides[0] * sides[1] != values) {
    throw Failure(std::string("notes: ") + key +
                  " does not fit the program\n  Compile the model again.");
  }
  return {static_cast<size_t>(sides[0]), static_cast<size_t>(sides[1])};
}

void Segment::check_types(int input, int output) const {
  const auto check = [&](const char* end, int found, int wanted) {
    if (found == wanted) return;
    throw Failure("segment with " + std::string(end) + " '" + notes_.one(end) +
                  "': element type " + std::to_string(wanted) +
                  " was compiled, the model has " + std::to_string(found) +
                  "\n  Compile the model again.");
  };
  check("input", input, input_is_real_ ? type_float : element_type(runner_->input()));
  check("output", output, element_type(runner_->output()));
}

Status* Segment::compute(const Api& api, KernelContext* context, size_t input_index) const {
  const Value* input = nullptr;
  void* data = nullptr;
  size_t bytes = 0;
  if (Status* status = api.kernel_input(context, input_index, &input)) return status;
  if (Status* status = api.tensor_bytes(input, &bytes)) return status;
  if (Status* status = api.tensor_data(const_cast<Value*>(input), &data)) return status;
  if (bytes % session_sample_bytes_ != 0) {
    return api.create_status(error_invalid_argument,
                             ("AkidaExecutionProvider: input '" + notes_.one("input") + "' has " +
                              std::to_string(bytes) + " bytes, a multiple of " +
                              std::to_string(session_sample_bytes_) + " was compiled")
                                 .c_str());
  }
  const size_t batch = bytes / session_sample_bytes_;
  int64_t shape[most_axes];
  std::memcpy(shape, output_shape_.data(), output_shape_.size() * sizeof *shape);
  shape[0] = static_cast<int64_t>(batch);
  Value* output = nullptr;
  void* result = nullptr;
  if (Status* status = api.kernel_output(context, 0, shape, output_shape_.size(), &output)) {
    return status;
  }
  if (Status* status = api.tensor_data(output, &result)) return status;
  std::string problem;
  if (run(static_cast<const uint8_t*>(data), static_cast<uint8_t*>(result), batch, &problem)) {
    return nullptr;
  }
  return api.create_status(error_runtime_exception,
                           ("AkidaExecutionProvider: " + problem).c_str());
}

bool Segment::run(const uint8_t* input, uint8_t* output, size_t batch, std::string* problem) const {
  if (batch == 0) return true;
  if (source_ != 0) {
    const auto compute = python_compute.load();
    char text[512] = "emulation 'source' needs Python, which has ended";
    if (compute != nullptr &&
        compute(source_, input, output, batch, text, sizeof text) == 0) {
      return true;
    }
    *problem = text;
    return false;
  }
  const akida_backend_port &from = runner_->input(), &to = runner_->output();
  bool fine = true;
  if (input_is_real_) {
    const size_t values = batch * session_sample_values_;
    uint8_t* codes = coded_input.of(values * value_bytes(from));
    fine = akida_backend_quantize(reinterpret_cast<const float*>(input), codes, values,
                                  &input_codes_, AKIDA_BACKEND_ONNX) == 0;
    input = codes;
  }
  if (fine && input_matrix_.rows != 0) {
    uint8_t* ordered = ordered_input.of(batch * from.sample_bytes);
    fine = akida_backend_transpose(input, ordered, batch, input_matrix_.rows,
                                   input_matrix_.columns, value_bytes(from)) == 0;
    input = ordered;
  } else if (fine && input_view_) {
    uint8_t* gathered = ordered_input.of(batch * from.sample_bytes);
    input_view_.gather(input, gathered, batch, value_bytes(from));
    input = gathered;
  }
  uint8_t* result =
      output_matrix_.rows == 0 ? output : unordered_output.of(batch * to.sample_bytes);
  fine = fine && runner_->run(input, result, batch);
  if (fine && result != output) {
    fine = akida_backend_transpose(result, output, batch, output_matrix_.rows,
                                   output_matrix_.columns, value_bytes(to)) == 0;
  }
  if (!fine) *problem = akida_backend_error();
  return fine;
}

}  // namespace akida_backend::ort
