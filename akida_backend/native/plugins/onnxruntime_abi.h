// SPDX-License-Identifier: Apache-2.0
// The part of ONNX Runtime's C interface that the provider uses, declared here: its tables of
// functions only ever grow at their end, so a function is its position, whatever the release.
// (include/onnxruntime/core/session/onnxruntime_c_api.h and onnxruntime_ep_c_api.h of
// github.com/microsoft/onnxruntime; "from 1.24": not in older tables.)
#ifndef AKIDA_BACKEND_ONNXRUNTIME_ABI_H
#define AKIDA_BACKEND_ONNXRUNTIME_ABI_H

#include <cstddef>
#include <cstdint>

namespace akida_backend::ort {

// Everything is stamped with the least of this and of the host's version: the host then uses no
// slot behind those declared here.
constexpr uint32_t known_version = 24;
constexpr uint32_t oldest_version = 23;

struct Status;
struct Value;
struct TypeInfo;
struct TensorInfo;
struct KernelContext;
struct OpAttr;
struct KeyValuePairs;
struct HardwareDevice;
struct EpDevice;
struct SessionOptions;
struct Logger;
struct ValueInfo;
struct Graph;
struct Node;
struct SupportInfo;
struct ComputeContext;
struct Factory;
struct FusionOptions;
struct ComputeInfo;

// With EP_FAIL (11) onnxruntime's Python session would silently compute on the CPU instead.
enum ErrorCode : int { error_fail = 1, error_invalid_argument = 2, error_runtime_exception = 6 };

enum DeviceType : int { device_cpu = 0 };

enum ValueKind : int { kind_tensor = 1 };

// Element types; up to 23 the numbers are those of ONNX's TensorProto.
enum ElementType : int {
  type_float = 1,
  type_uint8 = 2,
  type_int8 = 3,
  type_uint16 = 4,
  type_int16 = 5,
  type_int32 = 6,
  type_string = 8,
  last_common_type = 23
};

enum AttrType : int {
  attr_int = 1,
  attr_ints,
  attr_float,
  attr_floats,
  attr_string,
  attr_strings,
  attr_graph,
  attr_tensor
};

struct ApiBase {
  const void* const* (*get_api)(uint32_t version);
  const char* (*version)();
};

// A field's name and type, its slot in the table.
#define AKIDA_BACKEND_ORT_FUNCTIONS(F)                                                             \
  F(0, Status*, create_status, (int code, const char* text))                                       \
  F(2, const char*, error_message, (const Status*))                                                \
  F(51, Status*, tensor_data, (Value*, void** data))                                               \
  F(55, Status*, tensor_info_of, (const TypeInfo*, const TensorInfo**))                            \
  F(56, Status*, value_kind, (const TypeInfo*, int* kind))                                         \
  F(60, Status*, element_type, (const TensorInfo*, int* type))                                     \
  F(61, Status*, dimension_count, (const TensorInfo*, size_t* count))                              \
  F(62, Status*, dimensions, (const TensorInfo*, int64_t* values, size_t count))                   \
  F(63, Status*, symbolic_dimensions, (const TensorInfo*, const char** names, size_t count))       \
  F(65, Status*, tensor_info, (const Value*, TensorInfo**))                                        \
  F(90, Status*, kernel_input, (const KernelContext*, size_t index, const Value**))                \
  F(91, Status*, kernel_output,                                                                    \
    (KernelContext*, size_t index, const int64_t* shape, size_t rank, Value**))                    \
  F(93, void, release_status, (Status*))                                                           \
  F(96, void, release_value, (Value*))                                                             \
  F(99, void, release_tensor_info, (TensorInfo*))                                                  \
  F(211, Status*, create_attr, (const char* name, const void*, int length, int type, OpAttr**))    \
  F(212, void, release_attr, (OpAttr*))                                                            \
  F(272, Status*, read_attr, (const OpAttr*, int type, void* data, size_t length, size_t* needed)) \
  F(289, Status*, value_name, (const ValueInfo*, const char**))                                    \
  F(290, Status*, value_type, (const ValueInfo*, const TypeInfo**))                                \
  F(291, const void* const*, model_editor_api, ())                                                 \
  F(298, void, key_values,                                                                         \
    (const KeyValuePairs*, const char* const** keys, const char* const** values, size_t* count))   \
  F(300, void, release_key_values, (KeyValuePairs*))                                               \
  F(307, int, device_type, (const HardwareDevice*))                                                \
  F(317, const void* const*, ep_api, ())                                                           \
  F(318, Status*, tensor_bytes, (const Value*, size_t* bytes))                                     \
  F(326, Status*, initializer_value, (const ValueInfo*, const Value**))                            \
  F(331, Status*, is_constant, (const ValueInfo*, bool*))                                          \
  F(333, Status*, graph_name, (const Graph*, const char**))                                        \
  F(335, Status*, graph_ir_version, (const Graph*, int64_t*))                                      \
  F(336, Status*, graph_opset_count, (const Graph*, size_t*))                                      \
  F(337, Status*, graph_opsets, (const Graph*, const char** domains, int64_t*, size_t count))      \
  F(338, Status*, graph_input_count, (const Graph*, size_t*))                                      \
  F(339, Status*, graph_inputs, (const Graph*, const ValueInfo**, size_t count))                   \
  F(340, Status*, graph_output_count, (const Graph*, size_t*))                                     \
  F(341, Status*, graph_outputs, (const Graph*, const ValueInfo**, size_t count))                  \
  F(342, Status*, graph_initializer_count, (const Graph*, size_t*))                                \
  F(343, Status*, graph_initializers, (const Graph*, const ValueInfo**, size_t count))             \
  F(344, Status*, graph_node_count, (const Graph*, size_t*))                                       \
  F(345, Status*, graph_nodes, (const Graph*, const Node**, size_t count))                         \
  F(346, Status*, graph_parent, (const Graph*, const Node**))                                      \
  F(349, Status*, node_name, (const Node*, const char**))                                          \
  F(350, Status*, node_type, (const Node*, const char**))                                          \
  F(351, Status*, node_domain, (const Node*, const char**))                                        \
  F(353, Status*, node_input_count, (const Node*, size_t*))                                        \
  F(354, Status*, node_inputs, (const Node*, const ValueInfo**, size_t count))                     \
  F(355, Status*, node_output_count, (const Node*, size_t*))                                       \
  F(356, Status*, node_outputs, (const Node*, const ValueInfo**, size_t count))                    \
  F(359, Status*, node_attr_count, (const Node*, size_t*))                                         \
  F(360, Status*, node_attrs, (const Node*, const OpAttr**, size_t count))                         \
  F(361, Status*, node_attr, (const Node*, const char* name, const OpAttr**))                      \
  F(362, Status*, attr_tensor_value, (const OpAttr*, Value**))                                     \
  F(363, Status*, attr_type_of, (const OpAttr*, int* type))                                        \
  F(364, Status*, attr_name, (const OpAttr*, const char**))                                        \
  F(365, Status*, node_subgraph_count, (const Node*, size_t*))                                     \
  F(366, Status*, node_subgraphs,                                                                  \
    (const Node*, const Graph**, size_t count, const char** attribute_names))                      \
  F(379, Status*, session_options_entries, (const SessionOptions*, KeyValuePairs**))

#define AKIDA_BACKEND_ORT_EP_FUNCTIONS(F)                                                        \
  F(0, Status*, create_device,                                                                   \
    (Factory*, const HardwareDevice*, const KeyValuePairs*, const KeyValuePairs*, EpDevice**)) \
  F(2, Status*, claim, (SupportInfo*, const Node* const*, size_t count, const FusionOptions*))

#define AKIDA_BACKEND_ORT_EDITOR_FUNCTIONS(F)                                                    \
  F(6, Status*, create_node,                                                                     \
    (const char* type, const char* domain, const char* name, const char* const* inputs, size_t,  \
     const char* const* outputs, size_t, OpAttr** attributes, size_t, Node**))

#define AKIDA_BACKEND_ORT_FIELD(slot, result, name, arguments) result(*name) arguments;

struct FusionOptions {
  uint32_t version;
  bool drop_constant_initializers;
};

// The host's functions, from its three tables.
struct Api {
  uint32_t version;  // what everything is stamped with
  AKIDA_BACKEND_ORT_FUNCTIONS(AKIDA_BACKEND_ORT_FIELD)
  AKIDA_BACKEND_ORT_EP_FUNCTIONS(AKIDA_BACKEND_ORT_FIELD)
  AKIDA_BACKEND_ORT_EDITOR_FUNCTIONS(AKIDA_BACKEND_ORT_FIELD)

  // Throws Failure, saying why, when the host is too old.
  static Api of(const ApiBase& base);

  // Throws Failure with the host's text, unless `status` is null.
  void check(Status* status) const;
};

// Structures the host calls into. A slot nobody fills stays null, which the host allows.

struct Ep {
  uint32_t version;
  const char* (*name)(const Ep*);                                         // 1
  Status* (*get_capability)(Ep*, const Graph*, SupportInfo*);             // 2
  Status* (*compile)(Ep*, const Graph**, const Node** fused, size_t count,
                     ComputeInfo**, Node** context_nodes);         // 3
  void (*release_compute_infos)(Ep*, ComputeInfo**, size_t count);  // 4
  void* unused_5_to_13[9];
  Status* (*is_concurrent_run_supported)(Ep*, bool*);                     // 14, from 1.24
};

struct ComputeInfo {
  uint32_t version;
  Status* (*create_state)(ComputeInfo*, ComputeContext*, void** state);
  Status* (*compute)(ComputeInfo*, void* state, KernelContext*);
  void (*release_state)(ComputeInfo*, void* state);
};

struct Factory {
  uint32_t version;
  const char* (*name)(const Factory*);                                     // 1
  const char* (*vendor)(const Factory*);                                   // 2
  Status* (*supported_devices)(Factory*, const HardwareDevice* const*, size_t count, EpDevice**,
                               size_t most, size_t* written);              // 3
  Status* (*create_ep)(Factory*, const HardwareDevice* const*, const KeyValuePairs* const*,
                       size_t count, const SessionOptions*, const Logger*, Ep**);  // 4
  void (*release_ep)(Factory*, Ep*);                                       // 5
  uint32_t (*vendor_id)(const Factory*);                                   // 6
  const char* (*provider_version)(const Factory*);                         // 7
  void* unused_8;
  Status* (*create_allocator)(Factory*, const void* memory, const KeyValuePairs*, void**);  // 9
  void (*release_allocator)(Factory*, void*);                              // 10
  Status* (*create_data_transfer)(Factory*, void**);                       // 11
  bool (*is_stream_aware)(const Factory*);                                 // 12
  void* unused_13_to_17[5];
};

static_assert(sizeof(void*) != 8 || (sizeof(Ep) == 15 * 8 && sizeof(Factory) == 18 * 8), "slots");

}  // namespace akida_backend::ort

#endif
