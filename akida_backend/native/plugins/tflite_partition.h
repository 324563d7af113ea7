// SPDX-License-Identifier: Apache-2.0
// From the compiler's segments to the kernels a runtime will make of them.
#ifndef AKIDA_BACKEND_TFLITE_PARTITION_H
#define AKIDA_BACKEND_TFLITE_PARTITION_H

#include <string>
#include <vector>

#include "tflite_abi.h"
#include "tflite_answer.h"
#include "tflite_graph.h"
#include "tflite_kernel.h"

namespace akida_backend::tflite {

// Loads the segment's program and compares its ends with the graph's tensors. `carried`: it is from
// a file, so that its content hash is looked at.
bool check_segment(const Graph& graph, Segment& segment, int threads, bool carried,
                   std::string& problem);

// Partitions that consist of whole segments. A segment that the runtime would tear apart is left
// to the runtime, and `left` says which. False where the runtime fails.
bool plan_partitions(Context* context, std::vector<Segment> segments,
                     std::vector<Partition>& partitions, std::vector<std::string>& left);

}  // namespace akida_backend::tflite

#endif
