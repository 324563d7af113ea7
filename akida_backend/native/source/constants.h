// SPDX-License-Identifier: Apache-2.0
// Constants of a rescaling in 32-bit arithmetic.
#ifndef AKIDA_BACKEND_CONSTANTS_H
#define AKIDA_BACKEND_CONSTANTS_H

#include "kernels.h"
#include "program.h"

namespace akida_backend {

struct Constants {
  int32_t multiplier, addend, shift, low, high;
};

// ``clip(floor(value * multiplier * 2**shift + 1/2)) + offset`` of one channel.
class ChannelRescale {
 public:
  // `values`: all that can come in. `codes`: what the result saturates to before `offset`.
  ChannelRescale(int multiplier, int shift, Limits values, Limits codes, int offset);

  // The cheapest that is exact; those behind it are exact as well.
  Rescaling cheapest() const;
  Constants constants(Rescaling kind) const;

 private:
  Limits clamped() const;
  bool fits(Limits values) const;

  int64_t multiplier_;
  int right_;
  Limits values_;
  Limits codes_;
  int offset_;
};

}  // namespace akida_backend

#endif
