/* SPDX-License-Identifier: Apache-2.0 */
/* Between the delegate and the compiler, which lives in Python (akida_backend/tflite_compiler.py):
 * the runtime's graph as flat records, and calls that answer with programs. No public interface.
 */
#ifndef AKIDA_BACKEND_TFLITE_COMPILER_H
#define AKIDA_BACKEND_TFLITE_COMPILER_H

#include <stddef.h>
#include <stdint.h>

#include "akida_backend.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct akida_backend_tflite_tensor {
  const char* name; /* never NULL */
  const int32_t* shape;
  const int32_t* signature; /* NULL: the shape */
  const void* data;         /* of a constant, else NULL */
  uint64_t bytes;
  const float* scales;
  const int32_t* zero_points;
  int32_t type; /* the runtime's number */
  int32_t rank;
  int32_t scale_count;
  int32_t zero_point_count;
  int32_t quantized_dimension;
  int32_t is_variable;
  int32_t is_sparse;
} akida_backend_tflite_tensor;

typedef struct akida_backend_tflite_node {
  const char* custom_name; /* of a custom operator, else NULL */
  const int32_t* inputs;   /* -1: left out */
  const int32_t* outputs;
  const void* options; /* the runtime's structure, or the bytes of a custom operator */
  uint64_t custom_bytes;
  int32_t index; /* the runtime's number */
  int32_t code;  /* builtin operator */
  int32_t version;
  int32_t input_count;
  int32_t output_count;
} akida_backend_tflite_node;

/* Nodes in the order of execution. Inputs and outputs of the whole, ascending: the runtime does
 * not tell a delegate in which order the model lists them. */
typedef struct akida_backend_tflite_graph {
  const akida_backend_tflite_tensor* tensors;
  const akida_backend_tflite_node* nodes;
  const int32_t* inputs;
  const int32_t* outputs;
  int32_t tensor_count;
  int32_t node_count;
  int32_t input_count;
  int32_t output_count;
} akida_backend_tflite_graph;

/* A part of the graph as one program. */
typedef struct akida_backend_tflite_segment {
  const void* program;
  uint64_t program_bytes;
  const int32_t* nodes; /* the runtime's numbers */
  /* Before the program: which byte of a sample of the input tensor each of its input bytes is,
   * or -1 - value for a constant. NULL: the sample as it is. */
  const int32_t* picks;
  uint64_t node_count;
  uint64_t pick_count;
  int32_t input;
  int32_t output;
  int64_t callback; /* what `run` is called with in place of the program; -1: the program runs */
} akida_backend_tflite_segment;

typedef struct akida_backend_tflite_answer akida_backend_tflite_answer;

typedef struct akida_backend_tflite_compiler {
  /* Refuses options by a text: 0 where it did not. */
  int (*check)(const char* const* names, const char* const* values, size_t count,
               akida_backend_tflite_answer* answer);
  /* Answers with segments in the order they run, or refuses by a text. */
  int (*compile)(const char* const* names, const char* const* values, size_t count,
                 const akida_backend_tflite_graph* graph, akida_backend_tflite_answer* answer);
  /* A segment in Python: source emulation, and programs the native engine has no layers for. */
  int (*run)(int64_t callback, const void* input, void* output, uint64_t samples,
             akida_backend_tflite_answer* answer);
  /* Once for every segment that was added with a callback: it is not run any more. */
  void (*release)(int64_t callback);
} akida_backend_tflite_compiler;

/* Delegates use it from now on, until another one or NULL is set. */
AKIDA_BACKEND_API void akida_backend_tflite_set_compiler(
    const akida_backend_tflite_compiler* compiler);

/* The bytes are copied. */
AKIDA_BACKEND_API void akida_backend_tflite_add_segment(
    akida_backend_tflite_answer* answer, const akida_backend_tflite_segment* segment);

/* Where the runtime cannot take over every segment, that is an error. */
AKIDA_BACKEND_API void akida_backend_tflite_require_all(akida_backend_tflite_answer* answer);

/* Why options or a graph are refused. */
AKIDA_BACKEND_API void akida_backend_tflite_refuse(akida_backend_tflite_answer* answer,
                                                   const char* text);

#ifdef __cplusplus
}
#endif

#endif
