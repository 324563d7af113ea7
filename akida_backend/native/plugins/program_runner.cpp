// SPDX-License-Identifier: Apache-2.0
#include "program_runner.h"

#include <new>

#include "thread_error.h"

namespace akida_backend {

std::unique_ptr<ProgramRunner> ProgramRunner::load(const void* bytes, size_t size, int threads) {
  akida_backend_program* program = akida_backend_program_load(bytes, size, nullptr);
  if (program == nullptr) return nullptr;
  std::unique_ptr<ProgramRunner> runner(new (std::nothrow) ProgramRunner(program, threads));
  if (runner == nullptr) {
    keep_error("memory does not suffice");
    akida_backend_program_free(program);
    return nullptr;
  }
  if (akida_backend_program_port(program, AKIDA_BACKEND_INPUT, &runner->input_) != 0 ||
      akida_backend_program_port(program, AKIDA_BACKEND_OUTPUT, &runner->output_) != 0) {
    return nullptr;
  }
  // Fails here rather than in the first run where memory does not suffice.
  akida_backend_context* context = runner->take();
  if (context == nullptr) return nullptr;
  runner->give_back(context);
  return runner;
}

ProgramRunner::ProgramRunner(akida_backend_program* program, int threads)
    : program_(program), threads_(threads) {}

ProgramRunner::~ProgramRunner() {
  for (auto& slot : idle_) akida_backend_context_free(slot.load(std::memory_order_acquire));
  akida_backend_program_free(program_);
}

bool ProgramRunner::run(const void* input, void* output, size_t batch) {
  akida_backend_context* context = take();
  if (context == nullptr) return false;
  const int failed = akida_backend_run(context, input, output, nullptr, batch);
  give_back(context);
  return failed == 0;
}

akida_backend_context* ProgramRunner::take() {
  for (auto& slot : idle_) {
    if (slot.load(std::memory_order_relaxed) == nullptr) continue;
    akida_backend_context* context = slot.exchange(nullptr, std::memory_order_acquire);
    if (context != nullptr) return context;
  }
  return akida_backend_context_create(program_, threads_);
}

void ProgramRunner::give_back(akida_backend_context* context) {
  for (auto& slot : idle_) {
    akida_backend_context* empty = nullptr;
    if (slot.compare_exchange_strong(empty, context, std::memory_order_release,
                                     std::memory_order_relaxed)) {
      return;
    }
  }
  akida_backend_context_free(context);
}

}  // namespace akida_backend
