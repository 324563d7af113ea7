# SPDX-License-Identifier: Apache-2.0
"""The fixed-point sum that ADD and SUB share."""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.arithmetic import requantize, stored
from akida_backend.fixed_point import Integers
from akida_backend.graph import Add, AnyArray, Sub, Tensor
from akida_backend.reference import Environment

LEFT_SHIFT: Final = 20  # bits of precision kept below the operands' steps


def quantized_sum(op: Add | Sub, env: Environment, *, sign_of_b: int) -> AnyArray:
    """Codes of ``a + sign_of_b * b`` in double-rounding fixed point."""
    a, b, y = (env.tensor(name) for name in (op.a, op.b, op.output))
    scale_a, scale_b, scale_y = (_scale(t) for t in (a, b, y))
    common = 2.0 * max(scale_a, scale_b)

    def scaled(values: AnyArray, tensor: Tensor, scale: float) -> Integers:
        assert tensor.quantization is not None
        shifted = (values.astype(np.int64) - tensor.quantization.single_zero_point) << LEFT_SHIFT
        return requantize(shifted, np.array([scale / common]), env.arithmetic)

    total = scaled(env.value(op.a), a, scale_a) + sign_of_b * scaled(env.value(op.b), b, scale_b)
    factor = np.array([common / (2.0**LEFT_SHIFT * scale_y)])
    return stored(requantize(total, factor, env.arithmetic), y, op.activation)


def _scale(tensor: Tensor) -> float:
    assert tensor.quantization is not None
    return tensor.quantization.single_scale
