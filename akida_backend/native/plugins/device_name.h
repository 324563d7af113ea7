// SPDX-License-Identifier: Apache-2.0
#ifndef AKIDA_BACKEND_DEVICE_NAME_H
#define AKIDA_BACKEND_DEVICE_NAME_H

#include <cctype>
#include <string>

namespace akida_backend {

inline std::string folded_device(std::string name) {
  for (char& each : name) each = static_cast<char>(std::tolower(static_cast<unsigned char>(each)));
  return name.substr(0, name.find("()"));
}

// Without regard to case; MetaTF writes names as calls.
inline bool same_device(const std::string& a, const std::string& b) {
  return folded_device(a) == folded_device(b);
}

}  // namespace akida_backend

#endif
