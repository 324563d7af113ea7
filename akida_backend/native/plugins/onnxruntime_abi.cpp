// SPDX-License-Identifier: Apache-2.0
#include "onnxruntime_abi.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "program.h"

namespace akida_backend::ort {
namespace {

// 31 of "1.31.1".
uint32_t version_of(const char* text) {
  const char* dot = text == nullptr ? nullptr : std::strchr(text, '.');
  return dot == nullptr ? 0 : static_cast<uint32_t>(std::strtoul(dot + 1, nullptr, 10));
}

template <class Function>
void take(Function*& function, const void* const* table, size_t slot) {
  const void* entry = table[slot];
  static_assert(sizeof entry == sizeof function, "functions are addresses");
  std::memcpy(&function, &entry, sizeof entry);
}

}  // namespace

Api Api::of(const ApiBase& base) {
  const char* found = base.version();
  const uint32_t host = version_of(found);
  const auto* table = host < oldest_version ? nullptr : base.get_api(std::min(host, known_version));
  if (table == nullptr) {
    throw Failure("onnxruntime " + std::string(found == nullptr ? "(unknown)" : found) +
                  " is too old for this provider: install onnxruntime 1.23 or newer");
  }
  Api api{};
  api.version = std::min(host, known_version);
#define AKIDA_BACKEND_ORT_TAKE(slot, result, name, arguments) take(api.name, table, slot);
  AKIDA_BACKEND_ORT_FUNCTIONS(AKIDA_BACKEND_ORT_TAKE)
  table = api.ep_api();
  AKIDA_BACKEND_ORT_EP_FUNCTIONS(AKIDA_BACKEND_ORT_TAKE)
  table = api.model_editor_api();
  if (table != nullptr) {  // null in minimal builds
    AKIDA_BACKEND_ORT_EDITOR_FUNCTIONS(AKIDA_BACKEND_ORT_TAKE)
  }
#undef AKIDA_BACKEND_ORT_TAKE
  return api;
}

void Api::check(Status* status) const {
  if (status == nullptr) return;
  const std::string text = error_message(status);
  release_status(status);
  throw Failure("onnxruntime: " + text);
}

}  // namespace akida_backend::ort
