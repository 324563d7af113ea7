// SPDX-License-Identifier: Apache-2.0
// A program made ready to run: packed weights, an arena with every tensor's place, a list of steps.
#ifndef AKIDA_BACKEND_PLAN_H
#define AKIDA_BACKEND_PLAN_H

#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "program.h"

namespace akida_backend {

// Zeroed memory that lives as long as the plan.
class Storage {
 public:
  template <class T>
  T* make(size_t count = 1) {
    return static_cast<T*>(allocate(count * sizeof(T)));
  }

 private:
  struct Release {
    void operator()(void* memory) const;
  };
  void* allocate(size_t bytes);
  std::vector<std::unique_ptr<void, Release>> blocks_;
};

// What surrounds a map so that windows may reach over its edge.
struct Border {
  Map map;  // of the first pixel inside
  Shape shape;
  Pads pads;
  std::vector<uint8_t> values;  // per channel

  void fill(uint8_t* arena) const;
};

struct Step {
  Region run;
  const void* job;
  int64_t units;         // of one sample
  bool shares_samples;   // the units are those of any number of samples
  int64_t work;          // multiplications and the like of one sample
  const Border* border;  // filled first, where the memory was another tensor's; or null
};

struct Plan {
  Port input, output;
  std::vector<int32_t> raw_shape;  // batch first, as those of the ports
  uint32_t raw_type;  // akida_backend_type
  const KernelTable* kernels;
  Storage storage;
  Encode encode;
  Decode decode;
  std::vector<Step> steps;
  std::vector<std::unique_ptr<Border>> borders;
  std::vector<const Border*> lasting;  // filled once
  const Border* first_border;          // filled before the input is encoded, or null
  int64_t arena_bytes;  // whole cache lines
};

// Throws Failure where a value might not fit, std::bad_alloc where memory does not suffice.
std::unique_ptr<Plan> make_plan(const Program& program, const KernelTable& kernels);

}  // namespace akida_backend

#endif
