// SPDX-License-Identifier: Apache-2.0
/* What akida_backend/onnxruntime.py installs in the library and calls of it: placing models is
 * Python's part, running them is not. */
#ifndef AKIDA_BACKEND_ONNXRUNTIME_PYTHON_H
#define AKIDA_BACKEND_ONNXRUNTIME_PYTHON_H

#include <stddef.h>
#include <stdint.h>

#include "akida_backend.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct akida_backend_onnxruntime_claims akida_backend_onnxruntime_claims;

/* Decides what of a model runs on the device, and answers through `claims`, which lives as long as
 * the call. `model` is a ModelProto whose constants lie in memory (onnxruntime_model.h); `options`
 * are names and values, each with a zero byte behind it. */
typedef void (*akida_backend_onnxruntime_place)(const void* model, size_t model_bytes,
                                                const char* options, size_t options_bytes,
                                                akida_backend_onnxruntime_claims* claims);

/* Computes a segment in source arithmetic, from the session's tensor to the session's tensor. 0, or
 * -1 and a text that ends with a zero byte. */
typedef int (*akida_backend_onnxruntime_compute)(uint64_t segment, const void* input, void* output,
                                                 size_t batch, char* problem,
                                                 size_t problem_bytes);

/* A segment in source arithmetic is not needed any more. */
typedef void (*akida_backend_onnxruntime_release)(uint64_t segment);

/* NULL for all: only compiled models are placed from now on. */
AKIDA_BACKEND_API void akida_backend_onnxruntime_install(
    akida_backend_onnxruntime_place place, akida_backend_onnxruntime_compute compute,
    akida_backend_onnxruntime_release release);

/* One segment: positions of its nodes in the model, a program, and what the notes of an EPContext
 * node hold (onnxruntime_segment.h). `source`: what the callback gets in source emulation, or 0. */
AKIDA_BACKEND_API void akida_backend_onnxruntime_claim(akida_backend_onnxruntime_claims* claims,
                                                       const int64_t* nodes, size_t count,
                                                       const void* program, size_t program_bytes,
                                                       const char* notes, uint64_t source);

/* Nothing is placed, and the session fails with this text. */
AKIDA_BACKEND_API void akida_backend_onnxruntime_refuse(akida_backend_onnxruntime_claims* claims,
                                                        const char* text);

#ifdef __cplusplus
}
#endif

#endif
