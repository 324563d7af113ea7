// SPDX-License-Identifier: Apache-2.0
// SHA-256 (FIPS 180-4).
#ifndef AKIDA_BACKEND_SHA256_H
#define AKIDA_BACKEND_SHA256_H

#include <array>
#include <cstddef>
#include <cstdint>

namespace akida_backend {

std::array<uint8_t, 32> sha256(const uint8_t* data, size_t size);

}  // namespace akida_backend

#endif
