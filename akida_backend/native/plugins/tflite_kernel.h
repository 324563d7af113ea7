// SPDX-License-Identifier: Apache-2.0
// What runs in place of the nodes a delegate has taken over.
#ifndef AKIDA_BACKEND_TFLITE_KERNEL_H
#define AKIDA_BACKEND_TFLITE_KERNEL_H

#include <memory>
#include <vector>

#include "program_runner.h"
#include "tflite_abi.h"

namespace akida_backend::tflite {

// A segment that Python runs, by the number it has there; Python is told when it is not needed
// any more.
class PythonSegment {
 public:
  explicit PythonSegment(int64_t number) : number_(number) {}
  ~PythonSegment();
  PythonSegment(const PythonSegment&) = delete;
  PythonSegment& operator=(const PythonSegment&) = delete;

  int64_t number() const { return number_; }

 private:
  int64_t number_;
};

// One program of a partition.
struct Step {
  std::shared_ptr<ProgramRunner> runner;
  std::vector<int32_t> picks;     // as in akida_backend_tflite_segment; empty: none
  std::vector<int> input_dims;    // without the batch
  std::vector<int> output_dims;
  size_t input_bytes;             // of a sample of the tensor
  size_t output_bytes;
  int input;                      // tensors
  int output;
  std::shared_ptr<const PythonSegment> python;  // in place of the runner, which is null then
  int input_slot = -1;            // inside the partition, where no tensor has memory
  int output_slot = -1;
};

// Nodes that the runtime replaces by one kernel, and the programs that stand for them in order.
struct Partition {
  std::vector<int> nodes;  // ascending
  std::vector<Step> steps;
  int slots = 0;
};

// The kernels made by the next call of replace_node_subsets on this thread find theirs here.
class OfferedPartitions {
 public:
  explicit OfferedPartitions(std::vector<Partition>& partitions);
  ~OfferedPartitions();
};

Registration kernel_registration();

}  // namespace akida_backend::tflite

#endif
