// SPDX-License-Identifier: Apache-2.0
// Memory and threads to run a plan with.
#ifndef AKIDA_BACKEND_CONTEXT_H
#define AKIDA_BACKEND_CONTEXT_H

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "crew.h"
#include "plan.h"

namespace akida_backend {

class Context {
 public:
  Context(std::shared_ptr<const Plan> plan, int threads);

  void set_threads(int threads);
  void run(const uint8_t* input, uint8_t* output, uint8_t* raw, int64_t batch);

 private:
  struct Release {
    void operator()(uint8_t* memory) const;
  };
  // One worker's arenas, one behind the other.
  struct Arenas {
    std::unique_ptr<uint8_t, Release> memory;
    int64_t samples = 0;
  };
  struct Batch;

  uint8_t* arenas(int worker, int64_t samples);
  int64_t group_size(int64_t batch) const;
  void run_group(const Batch& batch, int worker, int64_t first, int64_t samples);
  void run_step(const Step& step, uint8_t* arena, int64_t samples, bool shared);

  std::shared_ptr<const Plan> plan_;
  std::unique_ptr<Crew> crew_;
  std::vector<Arenas> arenas_;
  int64_t input_bytes_, output_bytes_, raw_bytes_;
};

// Bytes of one sample at a port.
int64_t sample_values(const std::vector<int32_t>& shape);
int64_t type_bytes(uint32_t type);

}  // namespace akida_backend

#endif
