# SPDX-License-Identifier: Apache-2.0
"""ADD: both operands brought to one scale in 32-bit fixed point, added, requantized.

``y = clamp(requantize(requantize((a - za) << 20) + requantize((b - zb) << 20)) + zy)``; the common
scale is twice the larger input scale. NumPy broadcasting.

Source:
    TFLite ``reference_integer_ops::Add``, add.cc ``PrepareGeneral``. ONNX: QLinearAdd.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np

from akida_backend import onnx_kernels
from akida_backend.arithmetic import code_bounds, one_code_type, runs_in_codes, through_reals
from akida_backend.candidate import (
    Candidate,
    Match,
    PlacementContext,
    activation_fact,
    device_shape,
    device_size,
)
from akida_backend.constraints import LayerFacts, LayerType
from akida_backend.graph import Add, AnyArray, Arithmetic, Graph
from akida_backend.lowering import Lowered, LoweringContext, misses_lower_clamp, real_clamp
from akida_backend.ops._sum import quantized_sum
from akida_backend.parameters import FloatArray, Refusal, bounded_relu
from akida_backend.program import ACCUMULATOR_BITS_INPUT, POST_OP_BITS, NoActivation, ReLU
from akida_backend.program import Add as AddLayer
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: Add, env: Environment) -> tuple[AnyArray, ...]:
    a, b, y = (env.tensor(name) for name in (op.a, op.b, op.output))
    if runs_in_codes(op, a, b, y):
        if env.arithmetic is not Arithmetic.ONNX:
            return (quantized_sum(op, env, sign_of_b=1),)
        if one_code_type(a, b, y):
            total = onnx_kernels.add(env.value(op.a), env.value(op.b), (a, b), y)
            return (np.clip(total, *code_bounds(y, op.activation, env.arithmetic)),)
    return (through_reals(env, (op.a, op.b), y, np.add, op.activation),)


def candidate(op: Add, context: PlacementContext) -> Match:
    """Add of two different activation tensors of one shape; ReLU through its own activation."""
    graph = context.graph
    constants = [name for name in op.inputs if graph.tensors[name].is_constant]
    shapes = [device_shape(graph.tensors[name]) for name in (op.a, op.b)]
    if constants:
        operands = "constant"
    elif op.a == op.b:
        operands = "same_tensor"
    elif shapes[0] != shapes[1]:
        operands = "broadcast"
    else:
        operands = "two_different_tensors"
    facts = LayerFacts(
        layer=LayerType.ADD,
        input_size=device_size(graph.tensors[op.output]),
        input_channels=device_shape(graph.tensors[op.output])[2],
        activation=activation_fact(op.activation.real_range),
        operands=operands,
        input_bits=8,
        output_bits=8,
    )
    return Candidate(
        facts=facts,
        operations=(op,),
        inputs=tuple(name for name in (op.a, op.b) if name not in constants),
        output=op.output,
        clamp=op.activation.real_range,
    )


def lower(candidate: Candidate, context: LoweringContext) -> Lowered | Refusal:
    """Shifts that bring both operands to the finer scale, and the sum to the output's."""
    assert isinstance(candidate.base, Add)
    op = replace(candidate.base, output=candidate.output)  # of what joined
    a_scale, b_scale, y_scale = (context.codes[name].scale[0] for name in (op.a, op.b, op.output))
    finest = min(a_scale, b_scale)
    a_shift, b_shift = power_of_two(a_scale / finest), power_of_two(b_scale / finest)
    output_shift = -power_of_two(y_scale / finest)
    if not -32 <= output_shift <= 31:
        return Refusal("V2-CNV-DOWNSCALE", f"an output shift of {output_shift}")
    worst = 128 * (2**a_shift + 2**b_shift)
    if worst >= 1 << (ACCUMULATOR_BITS_INPUT - 1):
        return Refusal("LOWER-ACCUMULATOR", f"shifts {a_shift} and {b_shift} overflow the sum")
    if worst * 2.0**output_shift >= 1 << (POST_OP_BITS - 1):
        return Refusal("LOWER-POST-OP", f"a left shift of {output_shift} overflows the sum")
    if misses_lower_clamp(candidate, context.codes[op.output]):
        return Refusal("LOWER-CLAMP", f"a clamp at {candidate.clamp[0]:g}")
    low, high = real_clamp(candidate, context.graph)
    saturated = high >= y_scale * 127 * (1 - 1 / 512)
    bounded = math.isfinite(candidate.clamp[1]) and not saturated
    relu = low >= 0.0 and (bounded or may_be_negative(op, context.graph))
    if relu and context.options.strict_hardware:
        return Refusal("POLICY-STRICT-HARDWARE", "Add with a ReLU of its own")
    activation: NoActivation | ReLU = NoActivation()
    if relu:
        channels = device_shape(context.graph.tensors[op.output])[2]
        activation = ReLU() if saturated else bounded_relu(np.full(channels, high / finest))
    layer = AddLayer(
        name=op.location.name,
        inputs=(op.a, op.b),
        output=op.output,
        a_shift=a_shift,
        b_shift=b_shift,
        output_shift=output_shift,
        activation=activation,
    )
    assumption = (
        "Add applies ReLU through its activation parameter, which the API documents and the "
        "hardware page does not"
    )
    return Lowered(
        layer,
        assumption=assumption if relu else None,
        offset=None if relu else sum_offset(op, context),
    )


def may_be_negative(op: Add, graph: Graph) -> bool:
    """Whether an operand's stored integers reach below real zero."""
    return any(graph.tensors[name].real_range[0] < 0.0 for name in (op.a, op.b))


def sum_offset(op: Add, context: LoweringContext) -> FloatArray:
    """Errors of the operands and of ties, or of the one whose bias made up for all else."""
    channels = device_shape(context.graph.tensors[op.output])[2]
    made_up = [name for name in (op.a, op.b) if name in context.sums]
    total = np.full(channels, 0.0 if made_up else context.tie_error(op))
    for name in made_up or (op.a, op.b):
        if name in context.offsets:
            total += context.offsets[name]
    return total


def power_of_two(ratio: float) -> int:
    """Exponent of a ratio that is a power of two by construction."""
    return round(math.log2(ratio))


SPEC: Final = OpSpec(
    op_type=Add,
    reference=reference,
    candidate=candidate,
    lower=lower,
    layers=(LayerType.ADD,),
    placement="Add of two tensors; with a constant a depthwise convolution.",
)
