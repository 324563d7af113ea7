// SPDX-License-Identifier: Apache-2.0
// The graph onnxruntime shows to a provider, as the bytes of an ONNX ModelProto.
#ifndef AKIDA_BACKEND_ONNXRUNTIME_MODEL_H
#define AKIDA_BACKEND_ONNXRUNTIME_MODEL_H

#include <string>
#include <vector>

#include "onnxruntime_abi.h"

namespace akida_backend::ort {

// Nodes keep their order. Constants are not copied: they are external data of the location
// `constants_in_memory`, whose offset is an address that is valid as long as the graph is.
// Initializers a caller may replace, and texts, become inputs.
std::string model_bytes(const Api& api, const Graph* graph);

// Whether the graph is the body of an If, Loop or Scan.
bool is_nested(const Api& api, const Graph* graph);

constexpr const char* constants_in_memory = "akida-backend:memory";

std::vector<const Node*> nodes_of(const Api& api, const Graph* graph);
std::vector<const ValueInfo*> inputs_of(const Api& api, const Node* node);
std::vector<const ValueInfo*> outputs_of(const Api& api, const Node* node);
// Empty for a value that an operator leaves out.
std::string name_of(const Api& api, const ValueInfo* value);
// Of an element; kind_tensor values only, otherwise 0.
int element_type_of(const Api& api, const ValueInfo* value);
// Text of an attribute of type STRING, or what `missing` is.
std::string text_attr(const Api& api, const Node* node, const char* name, const char* missing);
int64_t int_attr(const Api& api, const Node* node, const char* name, int64_t missing);

}  // namespace akida_backend::ort

#endif
