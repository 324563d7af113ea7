# SPDX-License-Identifier: Apache-2.0
"""QUANTIZE: reals to codes, or codes to codes of another scale.

Source:
    TFLite ``reference_ops::AffineQuantize`` and ``Requantize``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from akida_backend.arithmetic import (
    dequantized,
    quantized,
    requantize,
    stored,
    unsupported_types,
)
from akida_backend.candidate import Alias, Candidate, Match, PlacementContext
from akida_backend.constraints import LayerType
from akida_backend.graph import Activation, AnyArray, Arithmetic, Quantize, Tensor
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec, no_layer


def reference(op: Quantize, env: Environment) -> tuple[AnyArray, ...]:
    """Reals beyond the range of the codes saturate, infinite ones too; not-a-number is invalid."""
    x, y = env.tensor(op.input), env.tensor(op.output)
    values = env.value(op.input)
    if y.quantization is None:
        raise unsupported_types(op, x, y)
    if x.dtype.is_float:
        return (quantized(values.astype(np.float32), y, env.arithmetic),)
    if x.quantization is None:
        raise unsupported_types(op, x, y)
    if env.arithmetic is Arithmetic.ONNX:
        return (quantized(dequantized(values, x), y, env.arithmetic),)
    factor = x.quantization.scale.astype(np.float64) / y.quantization.scale.astype(np.float64)
    centred = values.astype(np.int64) - x.quantization.single_zero_point
    return (stored(requantize(centred, factor, env.arithmetic), y, Activation.NONE),)


def candidate(op: Quantize, context: PlacementContext) -> Match:
    """No layer where scale and real zero stay: int8 and uint8 forms are one device code."""
    before, after = context.graph.tensors[op.input], context.graph.tensors[op.output]
    if op.input in context.on_device and same_reals(before, after):
        return Alias(operations=(op,), inputs=(op.input,), output=op.output)
    return no_layer(op, context)


def same_reals(before: Tensor, after: Tensor) -> bool:
    """Whether two 8-bit tensors differ at most in the offset of their stored integers."""
    a, b = before.quantization, after.quantization
    if a is None or b is None or not (a.is_per_tensor and b.is_per_tensor):
        return False
    low_a, low_b = before.dtype.code_range[0], after.dtype.code_range[0]
    return (
        a.single_scale == b.single_scale
        and a.single_zero_point - low_a == b.single_zero_point - low_b
    )


def absorb(op: Quantize, candidate: Candidate, context: PlacementContext) -> Match | None:
    """The layer in front writes the new scale directly."""
    graph = context.graph
    if graph.sole_consumer(candidate.output) is not op or candidate.layer is LayerType.CONCATENATE:
        return None
    low, high = graph.tensors[op.input].real_range
    # A range that starts at zero is a ReLU; one that reaches below is no clamp of the network's.
    lowest = max(candidate.clamp[0], low) if low >= 0.0 else candidate.clamp[0]
    clamp = (lowest, min(candidate.clamp[1], high))
    return replace(
        candidate,
        operations=(*candidate.operations, op),
        output=op.output,
        clamp=clamp if candidate.lut is None else candidate.clamp,
    )


SPEC: Final = OpSpec(
    op_type=Quantize,
    reference=reference,
    candidate=candidate,
    absorb=absorb,
    placement="At one scale nothing to do; else the layer in front writes the new scale.",
)
