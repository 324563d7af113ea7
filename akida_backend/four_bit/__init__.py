# SPDX-License-Identifier: Apache-2.0
"""The 8/4/4 quantizer: layers of an INT8 network in the few bits of Akida 1.0.

    quantize_chain(layers, source, entry, code) -> QuantizedChain

A chain is what one device segment computes, over real numbers: weights and biases of the INT8
source times their scales. Its input is an 8-bit image or has few bits in the source already
(`SourceCode`), or is a host tensor that becomes few codes with a scale per channel (`LowBitCode`).
Every layer gets signed 4-bit weights (8-bit in an input layer) with a scale per filter; its codes
behind the ReLU have 4 unsigned bits and a scale per filter, which the device's thresholds and steps
per filter allow. The next layer's weights take these scales up. Everything is chosen on calibration
inputs, layer by layer on the codes the layers in front really give, so that each makes up for the
errors before it. Weights and codes that have so few bits in the source stay as they are.

The last layer of a chain may be without activation. Its potentials leave the device as int32, and
the boundary forms ``scale * potential + offset``, the ReLU and the host tensor's integers, without
a 4-bit rounding in between.

This package knows no Graph and no Program: arrays in, arrays out, numpy only, the same result for
the same inputs whatever BLAS numpy has (`products`).
"""

from akida_backend.four_bit.chain import Progress, quantize_chain
from akida_backend.four_bit.layers import (
    Gain,
    InputCode,
    LowBitCode,
    QuantizedChain,
    QuantizedLayer,
    RealLayer,
    SourceCode,
    Window,
)

__all__ = [
    "Gain",
    "InputCode",
    "LowBitCode",
    "Progress",
    "QuantizedChain",
    "QuantizedLayer",
    "RealLayer",
    "SourceCode",
    "Window",
    "quantize_chain",
]
