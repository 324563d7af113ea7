// SPDX-License-Identifier: Apache-2.0
// The part of TensorFlow Lite's binary interface that a delegate needs, declared here because no
// wheel brings headers. Equal in tflite-runtime 2.14 and LiteRT 2; what they append to a structure
// later is left out where the runtime allocates it.
//
// Source: tensorflow/lite/core/c/common.h and
// tensorflow/lite/delegates/external/external_delegate_interface.h.
#ifndef AKIDA_BACKEND_TFLITE_ABI_H
#define AKIDA_BACKEND_TFLITE_ABI_H

#include <cstddef>
#include <cstdint>

namespace akida_backend::tflite {

enum Status : int { ok = 0, error = 1 };

enum AllocationType : int { read_only_map = 1, dynamic = 4 };

enum TensorType : int {
  type_int32 = 2,
  type_uint8 = 3,
  type_int16 = 7,
  type_int8 = 9,
  type_uint16 = 17
};

enum QuantizationType : int { affine = 1 };

enum DelegateFlags : int64_t { allow_dynamic_tensors = 1 };

constexpr int custom_operator = 32;
constexpr int delegate_operator = 51;
constexpr int absent_tensor = -1;

// `size` values follow.
struct IntArray {
  int size;
  int data[1];
};

struct FloatArray {
  int size;
  float data[1];
};

struct AffineQuantization {
  FloatArray* scale;
  IntArray* zero_point;
  int32_t quantized_dimension;
};

struct Tensor {
  int type;
  void* data;
  IntArray* dims;
  float legacy_scale;
  int32_t legacy_zero_point;
  int allocation_type;
  size_t bytes;
  const void* allocation;
  const char* name;
  void* delegate;
  int buffer_handle;
  bool data_is_stale;
  bool is_variable;
  int quantization_type;
  const AffineQuantization* quantization;
  const void* sparsity;
  const IntArray* dims_signature;
};

struct Node {
  IntArray* inputs;
  IntArray* outputs;
  IntArray* intermediates;
  IntArray* temporaries;
  void* user_data;
  void* builtin_data;
  const void* custom_initial_data;
  int custom_initial_data_size;
  void* delegate;
  bool might_have_side_effect;
};

struct Context;
struct Delegate;

// Handed to the runtime by value, and longer in newer ones: the longest form, with room to grow.
struct Registration {
  void* (*init)(Context*, const char* buffer, size_t length);
  void (*free)(Context*, void* user_data);
  Status (*prepare)(Context*, Node*);
  Status (*invoke)(Context*, Node*);
  const char* (*profiling_string)(const Context*, const Node*);
  int32_t builtin_code;
  const char* custom_name;
  int version;
  void* registration_external;
  void* async_kernel;
  uint64_t inplace_operator;
  void* reserved[8];
};

struct DelegateParams {
  Delegate* delegate;
  IntArray* nodes_to_replace;
  IntArray* input_tensors;
  IntArray* output_tensors;
};

struct Context {
  size_t tensors_size;
  Status (*get_execution_plan)(Context*, IntArray** plan);
  Tensor* tensors;
  void* implementation;
  Status (*resize_tensor)(Context*, Tensor*, IntArray* dims);  // takes the array
  void (*report_error)(Context*, const char* format, ...);
  void* add_tensors;
  Status (*get_node_and_registration)(Context*, int index, Node**, Registration**);
  Status (*replace_node_subsets)(Context*, Registration, const IntArray* nodes, Delegate*);
  int recommended_num_threads;
  void* get_external_context;
  void* set_external_context;
  bool allow_fp32_relax_to_fp16;
  void* profiler;
  void* allocate_persistent_buffer;
  void* allocate_buffer_for_eval;
  void* request_scratch_buffer_in_arena;
  void* get_scratch_buffer;
  void* resize_tensor_explicit;
  Status (*preview_partitioning)(Context*, const IntArray* nodes, DelegateParams** partitions,
                                 int* count);
  void* get_tensor;
  void* get_eval_tensor;
  void* get_model_metadata;
  void* acquire_subgraph_context;
  void* release_subgraph_context;
#ifdef _WIN32
  IntArray* (*create_int_array)(int size);
  void (*free_int_array)(IntArray*);
#endif
};

struct Delegate {
  void* data;
  Status (*prepare)(Context*, Delegate*);
  void* copy_from_buffer_handle;
  void* copy_to_buffer_handle;
  void* free_buffer_handle;
  int64_t flags;
  void* opaque_delegate_builder;  // no wheel exports that interface: always null
};

#if INTPTR_MAX == INT64_MAX
static_assert(sizeof(Tensor) == 112 && offsetof(Tensor, name) == 56 &&
              offsetof(Tensor, is_variable) == 77 && offsetof(Tensor, quantization_type) == 80 &&
              offsetof(Tensor, dims_signature) == 104);
static_assert(sizeof(Node) == 80 && offsetof(Node, builtin_data) == 40);
static_assert(offsetof(Context, get_node_and_registration) == 56 &&
              offsetof(Context, replace_node_subsets) == 64 &&
              offsetof(Context, preview_partitioning) == 152 &&
              offsetof(Context, get_model_metadata) == 176);
static_assert(sizeof(Delegate) == 56 && offsetof(Delegate, flags) == 40);
static_assert(sizeof(DelegateParams) == 32);
static_assert(offsetof(Registration, builtin_code) == 40 && sizeof(Registration) == 152);
#endif

}  // namespace akida_backend::tflite

#endif
