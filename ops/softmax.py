# SPDX-License-Identifier: Apache-2.0
"""SOFTMAX: ``exp(beta * (x - max)) / sum`` in fixed point: exp as Q0.31, the sum as Q12.19.

Source:
    TFLite ``reference_ops::Softmax``, softmax.h; activations.cc ``SoftmaxPrepare``.
    ONNX: QLinearSoftmax.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend import onnx_kernels
from akida_backend.arithmetic import one_code_type, runs_in_codes, through_reals
from akida_backend.fixed_point import (
    exp_on_negative_values,
    input_radius,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    reciprocal,
    rounding_divide_by_pot,
    saturating_rounding_doubling_high_mul,
)
from akida_backend.graph import AnyArray, Arithmetic, Softmax
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec

DIFFERENCE_BITS: Final = 5  # integer bits of a scaled difference
SUM_BITS: Final = 12  # integer bits of the sum of exponentials


def reference(op: Softmax, env: Environment) -> tuple[AnyArray, ...]:
    """Float rows are summed in float32, not in the order of any runtime."""
    x, y = env.tensor(op.input), env.tensor(op.output)
    if runs_in_codes(op, x, y):
        if env.arithmetic is not Arithmetic.ONNX:
            return (_softmax_of_codes(op, env),)
        if op.beta == 1.0 and one_code_type(x, y):
            return (onnx_kernels.softmax(env.value(op.input), x, y, op.axis),)

    def softmax(values: AnyArray) -> AnyArray:
        reals = values.astype(np.float32)
        largest: AnyArray = np.max(reals, axis=op.axis, keepdims=True)
        powers = np.exp(np.subtract(reals, largest) * np.float32(op.beta))
        total: AnyArray = np.sum(powers, axis=op.axis, keepdims=True)
        return np.asarray(np.divide(powers, total))

    return (through_reals(env, (op.input,), y, softmax),)


def _softmax_of_codes(op: Softmax, env: Environment) -> AnyArray:
    x, y = env.tensor(op.input), env.tensor(op.output)
    assert x.quantization is not None
    factor = min(op.beta * x.quantization.single_scale * 2 ** (31 - DIFFERENCE_BITS), 2.0**31 - 1)
    multiplier, shift = quantize_multiplier(factor)
    # Tiny scales shift right: every distance counts.
    smallest = -input_radius(DIFFERENCE_BITS, max(int(shift), 0))

    # One exponential for each of the 256 possible distances below the row's maximum.
    distances = -np.arange(256)
    counted = distances >= smallest
    scaled = multiply_by_quantized_multiplier(np.where(counted, distances, 0), multiplier, shift)
    powers = np.where(counted, exp_on_negative_values(scaled, DIFFERENCE_BITS), 0)

    values = env.value(op.input).astype(np.int64)
    below = values.max(axis=op.axis, keepdims=True) - values
    total = rounding_divide_by_pot(powers, SUM_BITS)[below].sum(axis=op.axis, keepdims=True)
    scale, bits_over_unit = reciprocal(total, SUM_BITS)
    share = saturating_rounding_doubling_high_mul(powers[below], scale)
    low, high = y.dtype.code_range
    codes = rounding_divide_by_pot(share, bits_over_unit + 31 - 8) + low
    return np.clip(codes, low, high).astype(y.dtype.numpy)


SPEC: Final = OpSpec(op_type=Softmax, reference=reference)
