// SPDX-License-Identifier: Apache-2.0
#include "kernel_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

#include "program.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace akida_backend {
namespace {

#if defined(__x86_64__)

struct Processor {
  bool avx2 = false, avxvnni = false, avx512vnni = false;
};

Processor processor() {
  Processor found;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  constexpr unsigned osxsave = 1u << 27;
  if (!(c & osxsave)) return found;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned ymm = 0x06, zmm = 0xE6;  // registers the operating system saves
  if ((low & ymm) != ymm || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const unsigned features = b, more = c;
  const auto has = [](unsigned word, unsigned bit) { return (word >> bit & 1) != 0; };
  found.avx2 = has(features, 5);
  const bool avx512 = (low & zmm) == zmm && has(features, 16) && has(features, 17) &&
                      has(features, 30) && has(features, 31);  // F, DQ, BW, VL
  found.avx512vnni = avx512 && has(more, 11);
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) found.avxvnni = found.avx2 && has(a, 4);
#if defined(AKIDA_BACKEND_AVXVNNI_AS_AVX512)
  found.avxvnni = found.avx512vnni;  // a test build, encoded differently
#endif
  return found;
}

#endif

// Folder of the library this code is in, with a slash; empty if it cannot be told.
std::string own_folder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&instruction_sets), &info) == 0 ||
      info.dli_fname == nullptr) {
    return {};
  }
  const char* slash = std::strrchr(info.dli_fname, '/');
  return slash == nullptr ? std::string() : std::string(info.dli_fname, slash + 1);
}

InstructionSet opened(const char* name, bool supported) {
  InstructionSet set{name, nullptr, {}};
  if (!supported) {
    set.problem = "this processor or operating system does not have it";
    return set;
  }
#if defined(__APPLE__)
  const char* suffix = ".dylib";
#else
  const char* suffix = ".so";
#endif
  const std::string path = own_folder() + "libakida_backend_" + name + suffix;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    set.problem = why == nullptr ? "cannot open " + path : why;
    return set;
  }
  const auto table = reinterpret_cast<const KernelTable* (*)()>(
      dlsym(library, "akida_backend_kernel_table"));
  const KernelTable* kernels = table == nullptr ? nullptr : table();
  if (kernels == nullptr || kernels->version != kernel_table_version ||
      std::strcmp(kernels->name, name) != 0) {
    set.problem = path + " belongs to another version";
    dlclose(library);
    return set;
  }
  set.kernels = kernels;
  return set;
}

}  // namespace

const std::vector<InstructionSet>& instruction_sets() {
  static const auto sets = [] {
    std::vector<InstructionSet> found;
#if defined(__x86_64__)
    const Processor has = processor();
    found.push_back(opened("avx512vnni", has.avx512vnni));
    found.push_back(opened("avxvnni", has.avxvnni));
    found.push_back(opened("avx2", has.avx2));
#endif
    found.push_back({"baseline", akida_backend_kernel_table(), {}});
    return found;
  }();
  return sets;
}

const InstructionSet& default_instruction_set() {
  static const InstructionSet& chosen = []() -> const InstructionSet& {
    const char* wanted = std::getenv("AKIDA_BACKEND_ISA");
    const InstructionSet* best = nullptr;
    for (const InstructionSet& set : instruction_sets()) {
      if (set.kernels == nullptr) continue;
      if (wanted != nullptr && std::strcmp(wanted, set.name) == 0) return set;
      if (best == nullptr) best = &set;
    }
    return *best;
  }();
  return chosen;
}

const InstructionSet& instruction_set(const std::string& name) {
  for (const InstructionSet& set : instruction_sets()) {
    if (name != set.name) continue;
    if (set.kernels == nullptr) {
      throw Failure("instruction set '" + name + "': " + set.problem);
    }
    return set;
  }
  throw Failure("instruction set '" + name + "': this library does not know it");
}

}  // namespace akida_backend
