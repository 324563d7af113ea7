// SPDX-License-Identifier: Apache-2.0
#include "tflite_partition.h"

#include <algorithm>

#include "program.h"

namespace akida_backend::tflite {

namespace {

bool same_type(int32_t port, int tensor) {
  switch (port) {
    case AKIDA_BACKEND_INT8: return tensor == type_int8;
    case AKIDA_BACKEND_UINT8: return tensor == type_uint8;
    case AKIDA_BACKEND_INT16: return tensor == type_int16;
    case AKIDA_BACKEND_UINT16: return tensor == type_uint16;
    case AKIDA_BACKEND_INT32: return tensor == type_int32;
    default: return false;
  }
}

size_t value_bytes(int tensor_type) {
  switch (tensor_type) {
    case type_int8: case type_uint8: return 1;
    case type_int16: case type_uint16: return 2;
    case type_int32: return 4;
    default: return 0;
  }
}

std::vector<int> sample_dims(const akida_backend_tflite_tensor& tensor) {
  return {tensor.shape + std::min(tensor.rank, 1), tensor.shape + tensor.rank};
}

uint64_t values(const std::vector<int>& dims) {
  uint64_t product = 1;
  for (int length : dims) product *= static_cast<uint64_t>(std::max(length, 0));
  return product;
}

bool holds(const std::vector<int>& sorted, int value) {
  return std::binary_search(sorted.begin(), sorted.end(), value);
}

bool fits_port(const akida_backend_tflite_tensor& tensor, const akida_backend_port& port,
               bool picked) {
  if (tensor.rank < 1 || !same_type(port.type, tensor.type)) return false;
  if (picked) return true;
  return port.rank == tensor.rank && std::equal(tensor.shape + 1, tensor.shape + tensor.rank,
                                                port.shape + 1);
}

// One partition, or the segments that hinder it.
std::vector<const Segment*> join(const DelegateParams& params,
                                 const std::vector<Segment>& segments, Partition& partition) {
  partition.nodes = values_of(params.nodes_to_replace);
  std::sort(partition.nodes.begin(), partition.nodes.end());
  auto outputs = values_of(params.output_tensors);
  std::sort(outputs.begin(), outputs.end());
  std::vector<const Segment*> members, broken;
  for (const Segment& segment : segments) {
    const auto inside = std::count_if(segment.nodes.begin(), segment.nodes.end(),
                                      [&](int node) { return holds(partition.nodes, node); });
    if (inside == 0) continue;
    members.push_back(&segment);
    if (static_cast<size_t>(inside) != segment.nodes.size()) broken.push_back(&segment);
  }
  if (!broken.empty()) return broken;

  std::vector<int> hidden;  // tensors inside, by slot
  auto slot_of = [&hidden](int tensor) {
    const auto found = std::find(hidden.begin(), hidden.end(), tensor);
    return found == hidden.end() ? -1 : static_cast<int>(found - hidden.begin());
  };
  std::vector<int> written;
  for (const Segment* segment : members) {
    Step step;
    step.runner = segment->runner;
    step.picks = segment->picks;
    step.python = segment->python;
    step.input = segment->input;
    step.output = segment->output;
    step.input_slot = slot_of(segment->input);
    if (!holds(outputs, segment->output)) {
      step.output_slot = static_cast<int>(hidden.size());
      hidden.push_back(segment->output);
    }
    written.push_back(segment->output);
    partition.steps.push_back(std::move(step));
  }
  partition.slots = static_cast<int>(hidden.size());
  // Every tensor that others want has to be the end of a program.
  const bool complete = std::all_of(outputs.begin(), outputs.end(), [&](int tensor) {
    return std::find(written.begin(), written.end(), tensor) != written.end();
  });
  const auto inputs = values_of(params.input_tensors);
  const bool fed = std::all_of(members.begin(), members.end(), [&](const Segment* segment) {
    return std::find(inputs.begin(), inputs.end(), segment->input) != inputs.end() ||
           std::find(written.begin(), written.end(), segment->input) != written.end();
  });
  return complete && fed ? std::vector<const Segment*>{} : members;
}

}  // namespace

bool check_segment(const Graph& graph, Segment& segment, int threads, bool carried,
                   std::string& problem) {
  auto is_tensor = [&graph](int tensor) {
    return tensor >= 0 && static_cast<size_t>(tensor) < graph.tensors.size();
  };
  if (!is_tensor(segment.input) || !is_tensor(segment.output) || segment.nodes.empty()) {
    problem = "the segment has no input, output or operator";
    return false;
  }
  const auto& input = graph.tensors[static_cast<size_t>(segment.input)];
  const auto& output = graph.tensors[static_cast<size_t>(segment.output)];
  std::sort(segment.nodes.begin(), segment.nodes.end());
  if (segment.python != nullptr) {
    const bool fits = input.rank > 0 && output.rank > 0 && value_bytes(input.type) != 0 &&
                      value_bytes(output.type) != 0;
    if (!fits) problem = "its ends are no integer tensors with a batch";
    return fits;
  }
  segment.runner = ProgramRunner::load(segment.program.data(), segment.program.size(), threads);
  if (segment.runner == nullptr) {
    problem = akida_backend_error();
    return false;
  }
  const auto* bytes = reinterpret_cast<const uint8_t*>(segment.program.data());
  if (carried && !content_hash_holds(bytes, segment.program.size())) {
    problem = "the content hash of its program does not match\n  Compile the model again.";
    return false;
  }
  segment.program = {};
  const auto& picks = segment.picks;
  if (!fits_port(input, segment.runner->input(), !picks.empty())) {
    problem = "tensor '" + std::string(input.name) + "' does not fit the input of the program";
    return false;
  }
  if (!fits_port(output, segment.runner->output(), false)) {
    problem = "tensor '" + std::string(output.name) + "' does not fit the output of the program";
    return false;
  }
  const auto last = static_cast<int64_t>(values(sample_dims(input)));
  const bool picks_fit = std::all_of(picks.begin(), picks.end(), [last](int32_t pick) {
    return pick >= -256 && pick < last;
  });
  const auto& port = segment.runner->input();
  if (!picks.empty() && (!picks_fit || port.sample_bytes != picks.size() ||
                         port.sample_bytes != port.sample_values)) {
    problem = "the picks of the segment do not fit the input of the program";
    return false;
  }
  return true;
}

bool plan_partitions(Context* context, std::vector<Segment> segments,
                     std::vector<Partition>& partitions, std::vector<std::string>& left) {
  while (true) {
    partitions.clear();
    std::vector<int> nodes;
    for (const Segment& segment : segments) {
      nodes.insert(nodes.end(), segment.nodes.begin(), segment.nodes.end());
    }
    if (nodes.empty()) return true;
    DelegateParams* parts = nullptr;
    int count = 0;
    if (context->preview_partitioning(context, OwnedIntArray(nodes).get(), &parts, &count) != ok) {
      return false;
    }
    std::vector<const Segment*> hindering;
    for (int part = 0; part < count; part++) {
      Partition partition;
      const auto found = join(parts[part], segments, partition);
      hindering.insert(hindering.end(), found.begin(), found.end());
      partitions.push_back(std::move(partition));
    }
    if (hindering.empty()) break;
    std::vector<Segment> kept;
    for (const Segment& segment : segments) {
      if (std::find(hindering.begin(), hindering.end(), &segment) == hindering.end()) {
        kept.push_back(segment);
        continue;
      }
      std::string text = "the runtime does not keep these operators together:";
      for (int node : segment.nodes) text += " " + std::to_string(node);
      left.push_back(std::move(text));
    }
    segments = std::move(kept);
  }
  // What the kernels compare shapes with.
  for (Partition& partition : partitions) {
    for (Step& step : partition.steps) {
      const Tensor& input = context->tensors[step.input];
      const Tensor& output = context->tensors[step.output];
      step.input_dims.assign(input.dims->data + 1, input.dims->data + input.dims->size);
      step.output_dims.assign(output.dims->data + 1, output.dims->data + output.dims->size);
      step.input_bytes = static_cast<size_t>(values(step.input_dims)) * value_bytes(input.type);
      step.output_bytes = static_cast<size_t>(values(step.output_dims)) * value_bytes(output.type);
    }
  }
  return true;
}

}  // namespace akida_backend::tflite
