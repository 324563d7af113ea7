// SPDX-License-Identifier: Apache-2.0
#include "tflite_graph.h"

#include <algorithm>

namespace akida_backend::tflite {

namespace {

akida_backend_tflite_tensor tensor_record(const Tensor& tensor) {
  akida_backend_tflite_tensor record{};
  record.name = tensor.name == nullptr ? "" : tensor.name;
  record.type = tensor.type;
  if (tensor.dims != nullptr) {
    record.rank = tensor.dims->size;
    record.shape = tensor.dims->data;
  }
  const IntArray* signature = tensor.dims_signature;
  if (signature != nullptr && signature->size == record.rank) record.signature = signature->data;
  if (tensor.allocation_type == read_only_map) record.data = tensor.data;
  record.bytes = tensor.bytes;
  record.is_variable = tensor.is_variable;
  record.is_sparse = tensor.sparsity != nullptr;
  if (tensor.quantization_type == affine && tensor.quantization != nullptr) {
    const AffineQuantization& quantization = *tensor.quantization;
    record.quantized_dimension = quantization.quantized_dimension;
    if (quantization.scale != nullptr) {
      record.scales = quantization.scale->data;
      record.scale_count = quantization.scale->size;
    }
    if (quantization.zero_point != nullptr) {
      record.zero_points = quantization.zero_point->data;
      record.zero_point_count = quantization.zero_point->size;
    }
  }
  return record;
}

akida_backend_tflite_node node_record(int index, const Node& node,
                                      const Registration& registration) {
  akida_backend_tflite_node record{};
  record.index = index;
  record.code = registration.builtin_code;
  record.version = registration.version;
  record.options = node.builtin_data;
  if (registration.builtin_code == custom_operator) {
    record.custom_name = registration.custom_name == nullptr ? "" : registration.custom_name;
    record.options = node.custom_initial_data;
    record.custom_bytes = static_cast<uint64_t>(std::max(node.custom_initial_data_size, 0));
  }
  record.inputs = node.inputs->data;
  record.input_count = node.inputs->size;
  record.outputs = node.outputs->data;
  record.output_count = node.outputs->size;
  return record;
}

bool in_range(const IntArray* tensors, size_t count) {
  return std::all_of(tensors->data, tensors->data + tensors->size, [count](int tensor) {
    return tensor == absent_tensor || (tensor >= 0 && static_cast<size_t>(tensor) < count);
  });
}

// Empty, or which operator writes what it must not. Runtimes do not check all of this, their
// partitioning relies on it, and what a program writes to a constant goes to the model's file.
std::string wrong_write(const Graph& graph) {
  enum class Seen : char { nowhere, read, written };
  std::vector<Seen> seen(graph.tensors.size(), Seen::nowhere);
  for (const auto& node : graph.nodes) {
    for (int32_t i = 0; i < node.input_count; i++) {
      if (node.inputs[i] < 0) continue;
      Seen& tensor = seen[static_cast<size_t>(node.inputs[i])];
      if (tensor == Seen::nowhere) tensor = Seen::read;
    }
    for (int32_t i = 0; i < node.output_count; i++) {
      if (node.outputs[i] < 0) continue;
      const auto& tensor = graph.tensors[static_cast<size_t>(node.outputs[i])];
      Seen& before = seen[static_cast<size_t>(node.outputs[i])];
      const char* problem = tensor.data != nullptr       ? "which is a constant"
                            : before == Seen::read    ? "which is read before"
                            : before == Seen::written ? "which is written before"
                                                      : nullptr;
      if (problem != nullptr) {
        return "operator " + std::to_string(node.index) + " writes tensor '" + tensor.name +
               "', " + problem + "\n  The model is damaged: convert or compile it again.";
      }
      before = Seen::written;
    }
  }
  return {};
}

// What enters and leaves the graph, from the runtime's plan of it as a single part.
bool read_ends(Context* context, Graph& graph) {
  std::vector<int> all;
  for (const auto& node : graph.nodes) all.push_back(node.index);
  DelegateParams* parts = nullptr;
  int count = 0;
  if (context->preview_partitioning(context, OwnedIntArray(all).get(), &parts, &count) != ok) {
    return false;
  }
  std::vector<char> read(graph.tensors.size(), 0), written(graph.tensors.size(), 0);
  auto mark = [](std::vector<char>& marks, const int32_t* tensors, int32_t size) {
    for (int32_t i = 0; i < size; i++) {
      if (tensors[i] >= 0) marks[static_cast<size_t>(tensors[i])] = 1;
    }
  };
  for (const auto& node : graph.nodes) {
    mark(read, node.inputs, node.input_count);
    mark(written, node.outputs, node.output_count);
  }
  // A runtime that is told to keep every tensor makes a part of every node, and calls all they
  // write outputs. Then a model's output that other nodes read cannot be told from other tensors.
  std::vector<char> leaves(graph.tensors.size(), count == 1 ? 0 : 1);
  if (count == 1) mark(leaves, parts->output_tensors->data, parts->output_tensors->size);
  for (size_t i = 0; i < graph.tensors.size(); i++) {
    const auto& tensor = graph.tensors[i];
    const bool given = !written[i] && tensor.data == nullptr && !tensor.is_variable;
    if (read[i] && given) graph.inputs.push_back(static_cast<int>(i));
    if (written[i] && leaves[i] && (count == 1 || !read[i])) {
      graph.outputs.push_back(static_cast<int>(i));
    }
  }
  return true;
}

}  // namespace

OwnedIntArray::OwnedIntArray(const std::vector<int>& values) : storage_(values.size() + 2) {
  storage_[0] = static_cast<int>(values.size());
  std::copy(values.begin(), values.end(), storage_.begin() + 1);
}

akida_backend_tflite_graph Graph::view() const {
  return {tensors.data(),
          nodes.data(),
          inputs.data(),
          outputs.data(),
          static_cast<int32_t>(tensors.size()),
          static_cast<int32_t>(nodes.size()),
          static_cast<int32_t>(inputs.size()),
          static_cast<int32_t>(outputs.size())};
}

bool read_graph(Context* context, Graph& graph, std::string& problem) {
  IntArray* plan = nullptr;
  if (context->get_execution_plan(context, &plan) != ok || plan == nullptr) {
    problem = "the runtime does not show its execution plan";
    return false;
  }
  for (size_t i = 0; i < context->tensors_size; i++) {
    graph.tensors.push_back(tensor_record(context->tensors[i]));
  }
  // A copy: the next call about partitions may free the plan.
  for (int index : values_of(plan)) {
    Node* node = nullptr;
    Registration* registration = nullptr;
    if (context->get_node_and_registration(context, index, &node, &registration) != ok ||
        !in_range(node->inputs, graph.tensors.size()) ||
        !in_range(node->outputs, graph.tensors.size())) {
      problem = "the runtime does not show operator " + std::to_string(index);
      return false;
    }
    graph.nodes.push_back(node_record(index, *node, *registration));
  }
  problem = wrong_write(graph);
  if (!problem.empty()) return false;
  if (!read_ends(context, graph)) {
    problem = "the runtime does not show what enters and leaves its graph";
    return false;
  }
  return true;
}

}  // namespace akida_backend::tflite
