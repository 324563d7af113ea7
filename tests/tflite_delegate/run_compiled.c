/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a compiled .tflite model in LiteRT's own library, without Python:
 *
 *   run_compiled libLiteRt.so libakida_backend.so model.tflite dim,dim,... <input >output
 *
 * The model has one int8 input of the shape given, and one int8 output. LiteRT takes delegates
 * through "accelerators"; ours hands it what tflite_plugin_create_delegate makes. Declared here is
 * only what is called.
 *
 * Source of the declarations: LiteRT, litert/c.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void* Handle;

typedef struct {
  int major, minor, patch;
} Version;

typedef struct {
  unsigned int rank : 7;
  unsigned int has_strides : 1;
  int32_t dimensions[8];
  uint32_t strides[8];
} Layout;

typedef struct {
  int element_type; /* 9: int8 */
  Layout layout;
} TensorType;

enum { alignment = 64, int8_type = 9, cpu = 1 };

static Handle litert, akida;

static void* symbol(Handle library, const char* name) {
  void* found = dlsym(library, name);
  if (found == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    exit(1);
  }
  return found;
}

static void check(int status, const char* what) {
  if (status == 0) return;
  fprintf(stderr, "%s: status %d\n", what, status);
  exit(1);
}

#define CALL(name, arguments, ...) \
  check(((int(*) arguments)symbol(litert, #name))(__VA_ARGS__), #name)

static void complain(const char* text) { fprintf(stderr, "akida: %s\n", text); }

static void destroy_delegate(Handle delegate) {
  ((void (*)(Handle))symbol(akida, "tflite_plugin_destroy_delegate"))(delegate);
}

static int get_name(Handle accelerator, const char** name) {
  (void)accelerator;
  *name = "akida";
  return 0;
}

static int get_version(Handle accelerator, Version* version) {
  (void)accelerator;
  memset(version, 0, sizeof *version);
  return 0;
}

static int get_hardware(Handle accelerator, int* hardware) {
  (void)accelerator;
  *hardware = cpu;
  return 0;
}

static int compiles_itself(Handle accelerator, _Bool* does) {
  (void)accelerator;
  *does = 0;
  return 0;
}

static int create_delegate(Handle runtime, Handle environment, Handle accelerator, Handle options,
                           Handle* wrapper) {
  typedef Handle (*Create)(char**, char**, size_t, void (*)(const char*));
  Create create = (Create)symbol(akida, "tflite_plugin_create_delegate");
  Handle delegate = create(NULL, NULL, 0, complain);
  (void)runtime, (void)environment, (void)accelerator, (void)options;
  if (delegate == NULL) return 3;
  CALL(LiteRtWrapDelegate, (Handle, void (*)(Handle), Handle*), delegate, destroy_delegate,
       wrapper);
  return 0;
}

static Handle with_akida(void) {
  Handle environment, accelerator;
  CALL(LiteRtCreateEnvironment, (int, const void*, Handle*), 0, NULL, &environment);
  CALL(LiteRtCreateAccelerator, (Handle*), &accelerator);
  CALL(LiteRtSetAcceleratorGetName, (Handle, int (*)(Handle, const char**)), accelerator, get_name);
  CALL(LiteRtSetAcceleratorGetVersion, (Handle, int (*)(Handle, Version*)), accelerator,
       get_version);
  CALL(LiteRtSetAcceleratorGetHardwareSupport, (Handle, int (*)(Handle, int*)), accelerator,
       get_hardware);
  CALL(LiteRtSetIsAcceleratorDelegateResponsibleForJitCompilation,
       (Handle, int (*)(Handle, _Bool*)), accelerator, compiles_itself);
  CALL(LiteRtSetDelegateFunction,
       (Handle, int (*)(Handle, Handle, Handle, Handle, Handle*)), accelerator, create_delegate);
  CALL(LiteRtRegisterAccelerator, (Handle, Handle, void*, void (*)(void*)), environment,
       accelerator, NULL, NULL);
  return environment;
}

static Handle buffer_of(const Layout* layout, void* memory, size_t size) {
  TensorType type;
  Handle buffer;
  type.element_type = int8_type;
  type.layout = *layout;
  CALL(LiteRtCreateTensorBufferFromHostMemory,
       (const TensorType*, void*, size_t, void (*)(void*), Handle*), &type, memory, size, NULL,
       &buffer);
  return buffer;
}

static size_t values(const Layout* layout) {
  size_t count = 1;
  for (unsigned i = 0; i < layout->rank; i++) count *= (size_t)layout->dimensions[i];
  return count;
}

static void* memory_for(size_t size) {
  return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

int main(int count, char** arguments) {
  Handle environment, model, options, compiled, input, output;
  Layout from, to;
  void *given, *computed;
  size_t size;
  if (count != 5) return 2;
  litert = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
  akida = dlopen(arguments[2], RTLD_NOW | RTLD_LOCAL);
  if (litert == NULL || akida == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  memset(&from, 0, sizeof from);
  for (char* side = strtok(arguments[4], ","); side != NULL; side = strtok(NULL, ",")) {
    from.dimensions[from.rank++] = atoi(side);
  }
  size = values(&from);
  given = memory_for(size);
  if (fread(given, 1, size, stdin) != size) return 2;

  environment = with_akida();
  CALL(LiteRtCreateModelFromFile, (Handle, const char*, Handle*), environment, arguments[3],
       &model);
  CALL(LiteRtCreateOptions, (Handle*), &options);
  CALL(LiteRtSetOptionsHardwareAccelerators, (Handle, int), options, cpu);
  CALL(LiteRtCreateCompiledModel, (Handle, Handle, Handle, Handle*), environment, model, options,
       &compiled);
  CALL(LiteRtGetCompiledModelOutputTensorLayouts, (Handle, size_t, size_t, Layout*, _Bool),
       compiled, 0, 1, &to, 1);
  computed = memory_for(values(&to));
  input = buffer_of(&from, given, size);
  output = buffer_of(&to, computed, values(&to));
  CALL(LiteRtRunCompiledModel, (Handle, size_t, size_t, Handle*, size_t, Handle*), compiled, 0, 1,
       &input, 1, &output);
  fwrite(computed, 1, values(&to), stdout);
  ((void (*)(Handle))symbol(litert, "LiteRtDestroyCompiledModel"))(compiled);
  ((void (*)(Handle))symbol(litert, "LiteRtDestroyEnvironment"))(environment);
  return 0;
}
