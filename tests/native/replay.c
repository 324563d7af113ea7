// SPDX-License-Identifier: Apache-2.0
/* Runs programs where there is no Python: replay FOLDER COUNT
 *
 * For each number k below COUNT, FOLDER holds k.program, k.input and k.output: the bytes of a
 * program, of three samples, and of what they give. Ends with 0 if all are equal.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "akida_backend.h"

enum { samples = 3 };

static unsigned char* contents(const char* folder, int number, const char* kind, size_t* size) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%d.%s", folder, number, kind);
  FILE* file = fopen(path, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
    fprintf(stderr, "cannot read %s\n", path);
    exit(2);
  }
  *size = (size_t)ftell(file);
  rewind(file);
  unsigned char* bytes = malloc(*size + 1);
  if (bytes == NULL || fread(bytes, 1, *size, file) != *size) exit(2);
  fclose(file);
  return bytes;
}

static int differs(const char* folder, int number, int threads) {
  size_t program_size, input_size, output_size;
  unsigned char* bytes = contents(folder, number, "program", &program_size);
  unsigned char* input = contents(folder, number, "input", &input_size);
  unsigned char* expected = contents(folder, number, "output", &output_size);
  unsigned char* found = malloc(output_size + 1);
  akida_backend_program* program = akida_backend_program_load(bytes, program_size, NULL);
  akida_backend_context* context =
      program == NULL ? NULL : akida_backend_context_create(program, threads);
  akida_backend_port in, out;
  int result = 1;
  if (context == NULL || found == NULL ||
      akida_backend_program_port(program, AKIDA_BACKEND_INPUT, &in) != 0 ||
      akida_backend_program_port(program, AKIDA_BACKEND_OUTPUT, &out) != 0 ||
      akida_backend_run(context, input, found, NULL, 0) != 0) {
    fprintf(stderr, "program %d: %s\n", number, akida_backend_error());
  } else if (in.sample_bytes * samples != input_size || out.sample_bytes * samples != output_size) {
    fprintf(stderr, "program %d: other sizes\n", number);
  } else if (akida_backend_run(context, input, found, NULL, samples) != 0) {
    fprintf(stderr, "program %d: %s\n", number, akida_backend_error());
  } else if (memcmp(found, expected, output_size) != 0) {
    fprintf(stderr, "program %d: other outputs\n", number);
  } else {
    result = 0;
  }
  akida_backend_context_free(context);
  akida_backend_program_free(program);
  free(bytes);
  free(input);
  free(expected);
  free(found);
  return result;
}

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const int programs = atoi(arguments[2]);
  int wrong = 0;
  for (int number = 0; number < programs; number++) {
    wrong += differs(arguments[1], number, 1 + number % 2);
  }
  printf("%s: %d of %d equal\n", akida_backend_instruction_set(), programs - wrong, programs);
  return wrong != 0;
}
