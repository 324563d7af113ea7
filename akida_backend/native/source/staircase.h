// SPDX-License-Identifier: Apache-2.0
// Constants of a staircase activation of Akida 1.0 in 32-bit arithmetic.
#ifndef AKIDA_BACKEND_STAIRCASE_H
#define AKIDA_BACKEND_STAIRCASE_H

#include <cstdint>
#include <optional>
#include <vector>

#include "constants.h"
#include "kernels.h"
#include "program.h"

namespace akida_backend {

// ``clip(ceil((potential - threshold) * 2**step_shift / step), 0, 2**bits - 1)`` of one channel.
class Staircase {
 public:
  // `values`: all potentials that can come in.
  Staircase(int64_t threshold, int64_t step, int step_shift, int bits, Limits values);

  // For one of the kinds that multiply, where constants were found that are exact at each step, so
  // everywhere: products do not fall. The result may leave the codes' limits.
  std::optional<Constants> constants(Rescaling kind) const;

  // Rescaling::counted: per level from 1 on the largest potential below it.
  std::vector<int32_t> bounds() const;

 private:
  std::optional<int64_t> addend(int64_t multiplier, bool split, int shift, Limits values) const;

  int64_t slope_up_, slope_down_;  // levels per potential, as a quotient
  Limits values_;
  std::vector<int64_t> bounds_;
};

}  // namespace akida_backend

#endif
