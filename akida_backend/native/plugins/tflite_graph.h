// SPDX-License-Identifier: Apache-2.0
// The graph a runtime shows its delegates, as flat records.
#ifndef AKIDA_BACKEND_TFLITE_GRAPH_H
#define AKIDA_BACKEND_TFLITE_GRAPH_H

#include <string>
#include <vector>

#include "tflite_abi.h"
#include "tflite_compiler.h"

namespace akida_backend::tflite {

// An IntArray that this library owns.
class OwnedIntArray {
 public:
  explicit OwnedIntArray(const std::vector<int>& values);
  const IntArray* get() const { return reinterpret_cast<const IntArray*>(storage_.data()); }

 private:
  std::vector<int> storage_;
};

inline std::vector<int> values_of(const IntArray* array) {
  if (array == nullptr) return {};
  return {array->data, array->data + array->size};
}

// Points into the runtime's memory: valid while the delegate is being prepared.
struct Graph {
  std::vector<akida_backend_tflite_tensor> tensors;
  std::vector<akida_backend_tflite_node> nodes;
  std::vector<int> inputs;
  std::vector<int> outputs;

  akida_backend_tflite_graph view() const;
};

// False on failure, with the reason in `problem`.
bool read_graph(Context* context, Graph& graph, std::string& problem);

}  // namespace akida_backend::tflite

#endif
