# SPDX-License-Identifier: Apache-2.0
"""LEAKY_RELU: x where positive, alpha * x elsewhere, each side with its own multiplier.

Source:
    TFLite ``reference_ops::QuantizeLeakyRelu``; activations.cc ``LeakyReluPrepare``: the
    multipliers are formed in float32.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.arithmetic import requantize, runs_in_codes, stored, table_lookup, through_reals
from akida_backend.candidate import (
    CONVOLUTIONS,
    Candidate,
    LutActivation,
    LutFunction,
    Match,
    PlacementContext,
    join_lut,
)
from akida_backend.fixed_point import Integers
from akida_backend.graph import Activation, AnyArray, Arithmetic, LeakyRelu
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec, only_joins


def reference(op: LeakyRelu, env: Environment) -> tuple[AnyArray, ...]:
    x, y = env.tensor(op.input), env.tensor(op.output)
    alpha = np.float32(op.alpha)
    if not runs_in_codes(op, x, y) or env.arithmetic is Arithmetic.ONNX:

        def leaky(values: AnyArray) -> AnyArray:
            return np.where(np.greater(values, 0), values, np.multiply(values, alpha))

        return (through_reals(env, (op.input,), y, leaky),)
    assert x.quantization is not None
    assert y.quantization is not None
    zero = x.quantization.single_zero_point
    scale_in, scale_out = x.quantization.scale, y.quantization.scale

    def leaky_codes(codes: Integers) -> AnyArray:
        centred = codes - zero
        same = requantize(centred, (scale_in / scale_out).astype(np.float64), env.arithmetic)
        factor = (scale_in * alpha / scale_out).astype(np.float64)
        sloped = requantize(centred, np.abs(factor), env.arithmetic)
        sloped = -sloped if alpha < 0 else sloped
        return stored(np.where(centred >= 0, same, sloped), y, Activation.NONE)

    return (table_lookup(env.value(op.input), x, leaky_codes),)


def absorb(op: LeakyRelu, candidate: Candidate, context: PlacementContext) -> Match | None:
    """A look-up table of the layer in front."""
    if context.graph.sole_consumer(candidate.output) is not op:
        return None
    lut = LutActivation(LutFunction.LEAKY_RELU, op.input, alpha=op.alpha)
    return join_lut(candidate, (op,), lut, context)


SPEC: Final = OpSpec(
    op_type=LeakyRelu,
    reference=reference,
    candidate=only_joins,
    absorb=absorb,
    layers=CONVOLUTIONS,
    placement="A look-up table of the convolution in front.",
)
