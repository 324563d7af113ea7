# SPDX-License-Identifier: Apache-2.0
"""CONCATENATION: operands joined on one axis.

int8 operands are copied: they share the output's scale. uint8 operands on another scale are
requantized in float32.

Source:
    TFLite ``reference_ops::Concatenation`` and ``ConcatenationWithScaling``.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.arithmetic import clamp, dequantized, quantized
from akida_backend.candidate import Candidate, Match, PlacementContext, device_shape, device_size
from akida_backend.constraints import LayerFacts, LayerType, graph_violation
from akida_backend.fixed_point import round_half_away
from akida_backend.graph import Activation, AnyArray, Arithmetic, Concatenation, DType, Tensor
from akida_backend.lowering import Lowered, LoweringContext
from akida_backend.parameters import Refusal
from akida_backend.program import Concatenate as ConcatenateLayer
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: Concatenation, env: Environment) -> tuple[AnyArray, ...]:
    output = env.tensor(op.output)
    parts = [_on_scale(env, env.tensor(name), output) for name in op.operands]
    if op.axis != 0:
        samples = max(len(part) for part in parts)  # a constant has one for all
        parts = [np.broadcast_to(part, (samples, *part.shape[1:])) for part in parts]
    joined = np.concatenate(parts, axis=op.axis)
    return (joined if output.is_quantized else clamp(joined, op.activation),)


def _on_scale(env: Environment, operand: Tensor, output: Tensor) -> AnyArray:
    values = env.value(operand.name)
    source, target = operand.quantization, output.quantization
    if not (operand.is_quantized and output.is_quantized) or source is None or target is None:
        return values
    if source.scale[0] == target.scale[0] and source.single_zero_point == target.single_zero_point:
        return values
    if env.arithmetic is Arithmetic.ONNX:
        return quantized(dequantized(values, operand), output, env.arithmetic)
    if output.dtype is not DType.UINT8:
        return values
    scale = source.scale[0] * (np.float32(1.0) / target.scale[0])
    bias = np.float32(-source.single_zero_point) * scale
    whole = round_half_away(values.astype(np.float32) * scale + bias).astype(np.int64)
    return np.clip(whole + target.single_zero_point, 0, 255).astype(np.uint8)


def candidate(op: Concatenation, context: PlacementContext) -> Match:
    """Concatenate of two operands on the channel axis."""
    graph = context.graph
    if op.activation is not Activation.NONE:
        found = f"a fused {op.activation.value} in {op.location.type}"
        return (graph_violation("OP-NOT-FUSED", found, context.device),)
    rank = len(graph.tensors[op.output].shape)
    sizes = {device_size(graph.tensors[name]) for name in op.operands}
    different = len(set(op.operands)) == len(op.operands)
    constant = any(graph.tensors[name].is_constant for name in op.operands)
    facts = LayerFacts(
        layer=LayerType.CONCATENATE,
        input_size=device_size(graph.tensors[op.output]),
        input_channels=device_shape(graph.tensors[op.output])[2],
        concat_axis=op.axis - rank + 3,
        operand_count=len(op.operands),
        operands=(
            "constant"
            if constant
            else "same_tensor"
            if not different
            else "broadcast"
            if len(sizes) > 1 and op.axis == rank - 1
            else "two_different_tensors"
        ),
        input_bits=8,
        output_bits=8,
    )
    return Candidate(
        facts=facts,
        operations=(op,),
        inputs=tuple(op.operands),
        output=op.output,
        clamp=op.activation.real_range,
    )


def lower(candidate: Candidate, _: LoweringContext) -> Lowered | Refusal:
    """Data movement: all operands have the output's scale already."""
    op = candidate.base
    return Lowered(
        ConcatenateLayer(name=op.location.name, inputs=candidate.inputs, output=candidate.output)
    )


SPEC: Final = OpSpec(
    op_type=Concatenation,
    reference=reference,
    candidate=candidate,
    lower=lower,
    layers=(LayerType.CONCATENATE,),
    placement="Concatenate on channels; more than two operands in a chain.",
)
