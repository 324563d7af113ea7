// SPDX-License-Identifier: Apache-2.0
/* Runs the bytes of a device program (akida_backend/program_format.py has their table).
 *
 * A loaded program is read only and may be shared by threads; a context belongs to one thread at
 * a time. After a call that failed, akida_backend_error() says why, per thread.
 */
#ifndef AKIDA_BACKEND_H
#define AKIDA_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define AKIDA_BACKEND_API __attribute__((visibility("default")))
#else
#define AKIDA_BACKEND_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when a function or structure changes its meaning. */
#define AKIDA_BACKEND_ABI 2

typedef struct akida_backend_program akida_backend_program;
typedef struct akida_backend_context akida_backend_context;

typedef enum akida_backend_type {
  AKIDA_BACKEND_INT8 = 1,
  AKIDA_BACKEND_UINT8 = 2,
  AKIDA_BACKEND_INT16 = 3,
  AKIDA_BACKEND_UINT16 = 4,
  AKIDA_BACKEND_INT32 = 5
} akida_backend_type;

typedef enum akida_backend_end {
  AKIDA_BACKEND_INPUT = 0,
  AKIDA_BACKEND_OUTPUT = 1,
  AKIDA_BACKEND_RAW = 2 /* the device's own output codes: batch, height, width, channels */
} akida_backend_end;

/* One end of a program. Pointers live as long as the program. */
typedef struct akida_backend_port {
  const char* name;
  int32_t type; /* akida_backend_type */
  int32_t rank;
  const int32_t* shape; /* batch first; -1 where any batch fits */
  uint64_t sample_values;
  uint64_t sample_bytes;
} akida_backend_port;

AKIDA_BACKEND_API uint32_t akida_backend_abi(void);
AKIDA_BACKEND_API const char* akida_backend_version(void);

/* Why the last failed call of this thread failed; never NULL. */
AKIDA_BACKEND_API const char* akida_backend_error(void);

/* Instruction set of programs that are loaded with NULL: that of the environment variable
 * AKIDA_BACKEND_ISA (baseline, avx2, avxvnni, avx512vnni) where it can run, or else the best. */
AKIDA_BACKEND_API const char* akida_backend_instruction_set(void);

/* Name of an instruction set this library knows, best first, NULL past the end. `problem` becomes
 * NULL where it can run, otherwise the reason why not. */
AKIDA_BACKEND_API const char* akida_backend_instruction_set_at(size_t index, const char** problem);

/* NULL on failure. The bytes are not needed any more afterwards. `instruction_set`: NULL for the
 * one above; a name that cannot run here is a failure. */
AKIDA_BACKEND_API akida_backend_program* akida_backend_program_load(const void* bytes, size_t size,
                                                                    const char* instruction_set);

/* Contexts of the program keep working. */
AKIDA_BACKEND_API void akida_backend_program_free(akida_backend_program* program);

/* 0, or -1 on failure. */
AKIDA_BACKEND_API int akida_backend_program_port(const akida_backend_program* program,
                                                 akida_backend_end end, akida_backend_port* port);

/* Name of the device it was compiled for. */
AKIDA_BACKEND_API const char* akida_backend_program_device(const akida_backend_program* program);

AKIDA_BACKEND_API const char* akida_backend_program_instruction_set(
    const akida_backend_program* program);

#define AKIDA_BACKEND_MAX_THREADS 256

/* NULL on failure. `threads`: 1 to that, the calling one included. After a fork the new process
 * may go on with its copy of a context that no thread was using. */
AKIDA_BACKEND_API akida_backend_context* akida_backend_context_create(
    const akida_backend_program* program, int threads);

/* 0, or -1 on failure. */
AKIDA_BACKEND_API int akida_backend_context_set_threads(akida_backend_context* context,
                                                        int threads);

AKIDA_BACKEND_API void akida_backend_context_free(akida_backend_context* context);

/* 0, or -1 on failure. Host integers in, host integers out, `batch` samples one behind the other;
 * nothing needs to be aligned. `raw` may be NULL. Memory is only allocated by the first run with
 * more samples or threads than any before. */
AKIDA_BACKEND_API int akida_backend_run(akida_backend_context* context, const void* input,
                                        void* output, void* raw, size_t batch);

/* Host operations in the arithmetic of the model's own runtime, bit for bit. All return 0, or -1
 * on failure; nothing is allocated; `from` and `to` do not overlap. */

/* Integers that stand for ``scale * (stored - zero_point)``. */
typedef struct akida_backend_codes {
  int32_t type; /* akida_backend_type */
  int32_t zero_point;
  float scale;
} akida_backend_codes;

typedef enum akida_backend_arithmetic {
  AKIDA_BACKEND_TFLITE = 0, /* ties away from zero; integers are rounded twice */
  AKIDA_BACKEND_ONNX = 1    /* ties to even; through float32 */
} akida_backend_arithmetic;

/* To INT8, UINT8 or INT16. Values beyond the range saturate, not-a-number is real zero. */
AKIDA_BACKEND_API int akida_backend_quantize(const float* from, void* to, size_t count,
                                             const akida_backend_codes* codes,
                                             akida_backend_arithmetic arithmetic);

/* From INT8, UINT8, INT16 or INT32. */
AKIDA_BACKEND_API int akida_backend_dequantize(const void* from, float* to, size_t count,
                                               const akida_backend_codes* codes);

/* Among INT8, UINT8 and INT16. */
AKIDA_BACKEND_API int akida_backend_requantize(const void* from, void* to, size_t count,
                                               const akida_backend_codes* from_codes,
                                               const akida_backend_codes* to_codes,
                                               akida_backend_arithmetic arithmetic);

/* Exponentials of the distances 0 to 255 below a row's largest code, for the next function. */
AKIDA_BACKEND_API int akida_backend_softmax_table(const akida_backend_codes* codes, double beta,
                                                  int32_t powers[256]);

/* Rows of at most 4095 INT8 or UINT8, TFLite's fixed point. The result's scale is 1 / 256, its
 * zero point the type's lowest code. */
AKIDA_BACKEND_API int akida_backend_softmax(const void* from, void* to, size_t rows, size_t length,
                                            const int32_t powers[256], int32_t from_type,
                                            int32_t to_type);

/* `batch` matrices of values of any size: NHWC to NCHW has height * width rows and a column per
 * channel, and back the other way round. */
AKIDA_BACKEND_API int akida_backend_transpose(const void* from, void* to, size_t batch, size_t rows,
                                              size_t columns, size_t value_bytes);

/* Where the values of a sample come from: row by row `runs[row]` runs of `run_bytes` bytes, the
 * first one `offsets[row]` bytes into the sample, the others `stride` bytes apart. Where the offset
 * is negative all are `fill`, `run_bytes` bytes. No size is 2**31 or more. */
typedef struct akida_backend_moves {
  size_t from_bytes; /* of a sample */
  size_t rows;
  const int32_t* offsets;
  const uint32_t* runs; /* none is 0; NULL: one each */
  size_t stride;
  size_t run_bytes;
  const void* fill; /* may be NULL where no offset is negative */
} akida_backend_moves;

/* Any rearrangement within each of `batch` samples, with borders. */
AKIDA_BACKEND_API int akida_backend_gather(const void* from, void* to, size_t batch,
                                           const akida_backend_moves* moves);

#ifdef __cplusplus
}
#endif

#endif
