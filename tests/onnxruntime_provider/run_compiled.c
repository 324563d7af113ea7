/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a compiled model without Python: onnxruntime's library and the provider's are opened by
 * path, functions are taken by their positions in onnxruntime's table.
 *
 *   run_compiled <libonnxruntime> <libakida_backend> <model> <batch> < input > output
 *
 * The model has one input x of uint8 [N, 3, 8, 8] and one output of 5 values of `width` bytes.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void* Status;
typedef struct {
  void** (*get_api)(uint32_t);
  const char* (*version)(void);
} ApiBase;

static void** api;

static void check(Status status) {
  if (status == NULL) return;
  fprintf(stderr, "%s\n", ((const char* (*)(Status))api[2])(status));
  exit(1);
}

int main(int count, char** arguments) {
  if (count != 7) return 2;
  void* runtime = dlopen(arguments[1], RTLD_NOW);
  if (runtime == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  ApiBase* (*base)(void) = (ApiBase * (*)(void)) dlsym(runtime, "OrtGetApiBase");
  api = base()->get_api(23);
  const int64_t batch = atoll(arguments[4]);
  const char* output_name = arguments[5];
  const size_t width = (size_t)atoll(arguments[6]);

  void *env = NULL, *options = NULL, *session = NULL, *memory = NULL;
  void *input = NULL, *output = NULL, *data = NULL;
  check(((Status(*)(int, const char*, void**))api[3])(3, "c", &env));
  check(((Status(*)(void*, const char*, const char*))api[301])(env, "akida", arguments[2]));
  void* const* devices = NULL;
  size_t device_count = 0;
  check(((Status(*)(void*, void* const**, size_t*))api[303])(env, &devices, &device_count));
  void* ours = NULL;
  for (size_t i = 0; i < device_count; i++) {
    const char* name = ((const char* (*)(void*))api[312])(devices[i]);
    if (strcmp(name, "AkidaExecutionProvider") == 0) ours = devices[i];
  }
  if (ours == NULL) return 3;
  check(((Status(*)(void**))api[10])(&options));
  const char *keys[] = {"threads"}, *values[] = {"1"};
  check(((Status(*)(void*, void*, void* const*, size_t, const char* const*, const char* const*,
                    size_t))api[304])(options, env, &ours, 1, keys, values, 1));
  check(((Status(*)(void*, const char*, void*, void**))api[7])(env, arguments[3], options,
                                                               &session));

  const size_t bytes = (size_t)batch * 3 * 8 * 8;
  uint8_t* pixels = malloc(bytes);
  if (fread(pixels, 1, bytes, stdin) != bytes) return 4;
  const int64_t shape[] = {batch, 3, 8, 8};
  check(((Status(*)(int, int, void**))api[69])(1, 0, &memory));
  check(((Status(*)(void*, void*, size_t, const int64_t*, size_t, int, void**))api[49])(
      memory, pixels, bytes, shape, 4, 2, &input));
  const char* inputs[] = {"x"};
  check(((Status(*)(void*, void*, const char* const*, void* const*, size_t, const char* const*,
                    size_t, void**))api[9])(session, NULL, inputs, &input, 1, &output_name, 1,
                                            &output));
  check(((Status(*)(void*, void**))api[51])(output, &data));
  fwrite(data, width, (size_t)batch * 5, stdout);

  ((void (*)(void*))api[96])(output);
  ((void (*)(void*))api[96])(input);
  ((void (*)(void*))api[94])(memory);
  ((void (*)(void*))api[95])(session);
  ((void (*)(void*))api[100])(options);
  ((void (*)(void*))api[92])(env);
  free(pixels);
  return 0;
}
