// SPDX-License-Identifier: Apache-2.0
// Kernel libraries beside the main one, one per instruction set.
#ifndef AKIDA_BACKEND_KERNEL_LIBRARY_H
#define AKIDA_BACKEND_KERNEL_LIBRARY_H

#include <string>
#include <vector>

#include "kernels.h"

namespace akida_backend {

struct InstructionSet {
  const char* name;
  const KernelTable* kernels;  // null where it cannot run
  std::string problem;         // why not
};

// Best first; the last one can always run.
const std::vector<InstructionSet>& instruction_sets();

// The one that AKIDA_BACKEND_ISA names where it can run, or else the best.
const InstructionSet& default_instruction_set();

// Throws Failure where it cannot run.
const InstructionSet& instruction_set(const std::string& name);

}  // namespace akida_backend

#endif
