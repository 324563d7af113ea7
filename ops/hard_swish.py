# SPDX-License-Identifier: Apache-2.0
"""HARD_SWISH: x * relu6(x + 3) / 6, in 16-bit fixed point.

Equal to the kernel for output scales up to 512 times the input's; beyond, the kernel's last
rounding shift leaves its 16 bits.

Source:
    TFLite ``reference_ops::HardSwish``, hard_swish.h; activations.cc ``HardSwishPrepare``.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.arithmetic import runs_in_codes, table_lookup, through_reals
from akida_backend.candidate import (
    CONVOLUTIONS,
    Candidate,
    LutActivation,
    LutFunction,
    Match,
    PlacementContext,
    join_lut,
)
from akida_backend.fixed_point import (
    Integers,
    down_scale_to_int16,
    quantize_multiplier,
    rounding_divide_by_pot,
)
from akida_backend.graph import AnyArray, Arithmetic, HardSwish, Tensor
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec, only_joins


def reference(op: HardSwish, env: Environment) -> tuple[AnyArray, ...]:
    x, y = env.tensor(op.input), env.tensor(op.output)
    if runs_in_codes(op, x, y) and env.arithmetic is not Arithmetic.ONNX:
        return (
            table_lookup(env.value(op.input), x, lambda codes: _hard_swish_of_codes(codes, x, y)),
        )

    def hard_swish(values: AnyArray) -> AnyArray:
        reals = values.astype(np.float32)
        gate = np.minimum(np.maximum(reals + np.float32(3), 0), 6)
        return np.asarray(np.multiply(reals, gate) / np.float32(6))

    return (through_reals(env, (op.input,), y, hard_swish),)


def _hard_swish_of_codes(codes: Integers, x: Tensor, y: Tensor) -> AnyArray:
    assert x.quantization is not None
    assert y.quantization is not None
    fine_scale = np.float32(1 / 128) * x.quantization.scale[0]  # of the input, 7 bits finer
    output_multiplier, output_exponent = quantize_multiplier(fine_scale / y.quantization.scale[0])
    gate_multiplier, gate_exponent = quantize_multiplier(fine_scale / np.float32(3.0 / 32768.0))

    fine = (codes - x.quantization.single_zero_point) << 7
    on_output_scale = _high_mul_16(fine, down_scale_to_int16(output_multiplier))
    # [-3, 3] becomes [-32768, 32767]; the last place of a left shift is left out until the end.
    gate = fine
    if gate_exponent > 0:
        gate = _saturate_16(gate << (gate_exponent - 1))
    gate = _high_mul_16(gate, down_scale_to_int16(gate_multiplier))
    if gate_exponent > 0:
        gate = _saturate_16(gate << 1)
    elif gate_exponent < 0:
        gate = rounding_divide_by_pot(gate, -gate_exponent)
    gate = (gate + (1 << 15)) >> 1  # [0, 1] as Q0.15

    product = gate * on_output_scale
    scaled = np.sign(product) * (np.abs(product) >> 15)
    result = rounding_divide_by_pot(scaled, -output_exponent) + y.quantization.single_zero_point
    return np.clip(result, *y.dtype.code_range).astype(y.dtype.numpy)


def _high_mul_16(a: Integers, b: Integers) -> Integers:
    """Gemmlowp ``SaturatingRoundingDoublingHighMul`` on int16."""
    return (a * b + (1 << 14)) >> 15


def _saturate_16(value: Integers) -> Integers:
    return np.clip(value, -(2**15), 2**15 - 1)


def absorb(op: HardSwish, candidate: Candidate, context: PlacementContext) -> Match | None:
    """A look-up table of the layer in front."""
    if context.graph.sole_consumer(candidate.output) is not op:
        return None
    lut = LutActivation(LutFunction.HARD_SWISH, op.input)
    return join_lut(candidate, (op,), lut, context)


SPEC: Final = OpSpec(
    op_type=HardSwish,
    reference=reference,
    candidate=only_joins,
    absorb=absorb,
    layers=CONVOLUTIONS,
    placement="A look-up table of the convolution in front.",
)
