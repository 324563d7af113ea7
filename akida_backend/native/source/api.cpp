// SPDX-License-Identifier: Apache-2.0
// The C interface: no exception leaves it.
#include <memory>
#include <string>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "akida_backend.h"
#include "context.h"
#include "kernel_library.h"
#include "plan.h"
#include "thread_error.h"

#ifndef AKIDA_BACKEND_VERSION
#define AKIDA_BACKEND_VERSION "unknown"
#endif

using akida_backend::Context;
using akida_backend::Plan;
using akida_backend::guarded;
using akida_backend::require;

struct akida_backend_program {
  std::string device;
  std::shared_ptr<const Plan> plan;
};

struct akida_backend_context {
  Context context;
};

namespace {

// Not a std::string: it must not need memory.
thread_local char last_error[512] = "";

// Planning takes several times the memory that it leaves in use; some allocators keep the rest.
void give_memory_back() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

void check_threads(int threads) {
  if (threads >= 1 && threads <= AKIDA_BACKEND_MAX_THREADS) return;
  throw akida_backend::Failure("threads: needs 1 to " + std::to_string(AKIDA_BACKEND_MAX_THREADS));
}

}  // namespace

void akida_backend::keep_error(const char* text) {
  size_t i = 0;
  for (; text[i] != 0 && i + 1 < sizeof last_error; i++) last_error[i] = text[i];
  last_error[i] = 0;
}

extern "C" {

uint32_t akida_backend_abi(void) { return AKIDA_BACKEND_ABI; }

const char* akida_backend_version(void) { return AKIDA_BACKEND_VERSION; }

const char* akida_backend_error(void) { return last_error; }

const char* akida_backend_instruction_set(void) {
  return guarded<const char*>("baseline", [] {
    return akida_backend::default_instruction_set().name;
  });
}

const char* akida_backend_instruction_set_at(size_t index, const char** problem) {
  return guarded<const char*>(nullptr, [&]() -> const char* {
    const auto& sets = akida_backend::instruction_sets();
    if (index >= sets.size()) return nullptr;
    if (problem != nullptr) {
      *problem = sets[index].kernels == nullptr ? sets[index].problem.c_str() : nullptr;
    }
    return sets[index].name;
  });
}

akida_backend_program* akida_backend_program_load(const void* bytes, size_t size,
                                                  const char* instruction_set) {
  return guarded<akida_backend_program*>(nullptr, [&] {
    require(bytes != nullptr, "program bytes: none given");
    const auto& chosen = instruction_set == nullptr
                             ? akida_backend::default_instruction_set()
                             : akida_backend::instruction_set(instruction_set);
    const auto program = akida_backend::read_program(static_cast<const uint8_t*>(bytes), size);
    auto* loaded = new akida_backend_program{
        program.device, akida_backend::make_plan(program, *chosen.kernels)};
    give_memory_back();
    return loaded;
  });
}

void akida_backend_program_free(akida_backend_program* program) { delete program; }

int akida_backend_program_port(const akida_backend_program* program, akida_backend_end end,
                               akida_backend_port* port) {
  return guarded(-1, [&] {
    require(program != nullptr && port != nullptr, "port: no program, or nowhere to write");
    const Plan& plan = *program->plan;
    if (end == AKIDA_BACKEND_RAW) {
      const auto& shape = plan.raw_shape;
      *port = {"", static_cast<int32_t>(plan.raw_type), static_cast<int32_t>(shape.size()),
               shape.data(), 0, 0};
    } else {
      require(end == AKIDA_BACKEND_INPUT || end == AKIDA_BACKEND_OUTPUT, "port: no such end");
      const auto& from = end == AKIDA_BACKEND_INPUT ? plan.input : plan.output;
      *port = {from.tensor.c_str(), static_cast<int32_t>(from.type),
               static_cast<int32_t>(from.shape.size()), from.shape.data(), 0, 0};
    }
    const std::vector<int32_t> shape(port->shape, port->shape + port->rank);
    port->sample_values = static_cast<uint64_t>(akida_backend::sample_values(shape));
    port->sample_bytes =
        port->sample_values *
        static_cast<uint64_t>(akida_backend::type_bytes(static_cast<uint32_t>(port->type)));
    return 0;
  });
}

const char* akida_backend_program_device(const akida_backend_program* program) {
  return program == nullptr ? "" : program->device.c_str();
}

const char* akida_backend_program_instruction_set(const akida_backend_program* program) {
  return program == nullptr ? "" : program->plan->kernels->name;
}

akida_backend_context* akida_backend_context_create(const akida_backend_program* program,
                                                    int threads) {
  return guarded<akida_backend_context*>(nullptr, [&] {
    require(program != nullptr, "context: no program");
    check_threads(threads);
    return new akida_backend_context{Context(program->plan, threads)};
  });
}

int akida_backend_context_set_threads(akida_backend_context* context, int threads) {
  return guarded(-1, [&] {
    require(context != nullptr, "threads: no context");
    check_threads(threads);
    context->context.set_threads(threads);
    return 0;
  });
}

void akida_backend_context_free(akida_backend_context* context) { delete context; }

int akida_backend_run(akida_backend_context* context, const void* input, void* output, void* raw,
                      size_t batch) {
  return guarded(-1, [&] {
    require(context != nullptr, "run: no context");
    require(batch == 0 || (input != nullptr && output != nullptr), "run: no input or output");
    require(batch <= INT32_MAX, "run: too many samples");
    context->context.run(static_cast<const uint8_t*>(input), static_cast<uint8_t*>(output),
                         static_cast<uint8_t*>(raw), static_cast<int64_t>(batch));
    return 0;
  });
}

}  // extern "C"
