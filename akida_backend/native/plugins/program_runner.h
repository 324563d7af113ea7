// SPDX-License-Identifier: Apache-2.0
// A loaded program that any number of threads may run at once: what both plug-ins keep per segment.
#ifndef AKIDA_BACKEND_PROGRAM_RUNNER_H
#define AKIDA_BACKEND_PROGRAM_RUNNER_H

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>

#include "akida_backend.h"

namespace akida_backend {

class ProgramRunner {
 public:
  // Null on failure: akida_backend_error() says why. The bytes are not needed any more afterwards.
  // `threads`: that one run uses, the calling one included.
  static std::unique_ptr<ProgramRunner> load(const void* bytes, size_t size, int threads = 1);

  ~ProgramRunner();
  ProgramRunner(const ProgramRunner&) = delete;
  ProgramRunner& operator=(const ProgramRunner&) = delete;

  // Live as long as the runner.
  const akida_backend_port& input() const { return input_; }
  const akida_backend_port& output() const { return output_; }
  const char* device() const { return akida_backend_program_device(program_); }

  // Host integers in, host integers out, `batch` samples one behind the other; 0 is allowed.
  // False on failure: akida_backend_error() says why.
  bool run(const void* input, void* output, size_t batch);

 private:
  ProgramRunner(akida_backend_program* program, int threads);

  akida_backend_context* take();
  void give_back(akida_backend_context* context);

  akida_backend_program* program_;
  int threads_;
  akida_backend_port input_, output_;
  // Contexts nobody uses now. No lock: a process that forks must not inherit one that is held.
  std::array<std::atomic<akida_backend_context*>, 32> idle_{};
};

}  // namespace akida_backend

#endif
