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
#define AKIDA_BACKEND_ABI 1

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

AKIDA_BACKEND_API const char* akida_backend_program_instruction_set(
    const akida_backend_program* program);

/* NULL on failure. `threads`: 1 to 256, the calling one included. */
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

#ifdef __cplusplus
}
#endif

#endif
