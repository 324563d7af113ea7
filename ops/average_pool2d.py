# SPDX-License-Identifier: Apache-2.0
"""AVERAGE_POOL_2D: mean code of the cells of each window that lie on the map, no requantization.

``y = clamp((sum +- count / 2) / count)``, the sign that of the sum: ties away from zero.

Source:
    TFLite ``reference_integer_ops::AveragePool``. ONNX: QLinearAveragePool.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np

from akida_backend import onnx_kernels
from akida_backend.arithmetic import (
    clamp,
    code_bounds,
    dequantized,
    one_code_type,
    padded,
    quantized,
    runs_in_codes,
    window_reduce,
)
from akida_backend.candidate import (
    POOLING_LAYERS,
    Candidate,
    Match,
    PlacementContext,
    device_size,
    is_akida1,
    staircase_fact,
)
from akida_backend.constraints import LayerType, Violation, graph_violation
from akida_backend.graph import (
    NO_PADS,
    Activation,
    AnyArray,
    Arithmetic,
    AveragePool2D,
    Conv2D,
    Graph,
    Mean,
)
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec, only_joins


def reference(op: AveragePool2D, env: Environment) -> tuple[AnyArray, ...]:
    x, output = env.tensor(op.input), env.tensor(op.output)
    values = env.value(op.input)
    in_codes, onnx = runs_in_codes(op, x, output), env.arithmetic is Arithmetic.ONNX
    if in_codes and onnx and one_code_type(x, output):
        codes = onnx_kernels.window_average(values, x, output, op.window, op.stride, op.pads)
        return (np.clip(codes, *code_bounds(output, op.activation, env.arithmetic)),)
    if in_codes and not onnx:
        _, height, width, _ = values.shape
        on_map = padded(np.ones((1, height, width, 1), np.int32), op.pads, 0)
        count = window_reduce(np.add, on_map, op.window, op.stride)
        total = window_reduce(
            np.add, padded(values.astype(np.int32), op.pads, 0), op.window, op.stride
        )
        mean = np.sign(total) * ((np.abs(total) + count // 2) // count)
        return (np.clip(mean, *code_bounds(output, op.activation)).astype(output.dtype.numpy),)
    sums, cells = onnx_kernels.window_sums(dequantized(values, x), op.window, op.stride, op.pads)
    clamped = clamp(sums / cells, op.activation).astype(np.float32)
    if output.dtype.is_float:
        return (clamped.astype(output.dtype.numpy),)
    return (quantized(clamped, output, env.arithmetic),)


def absorb(op: AveragePool2D, candidate: Candidate, context: PlacementContext) -> Match | None:
    """Global average pooling, the only average the hardware has."""
    graph = context.graph
    if op.window != device_size(graph.tensors[op.input]) or op.pads != NO_PADS:
        return local_average(op, context)
    never_negative = op.activation is Activation.RELU and candidate.clamp[0] >= 0.0
    if op.activation is not Activation.NONE and not never_negative:
        found = f"a fused {op.activation.value} behind the average"
        return (graph_violation("OP-NOT-FUSED", found, context.device),)
    return join_global_average(op, candidate, context)


def candidate(op: AveragePool2D, context: PlacementContext) -> Match:
    """Never a layer of its own."""
    if op.window != device_size(context.graph.tensors[op.input]) or op.pads != NO_PADS:
        return local_average(op, context)
    return only_joins(op, context)


def local_average(op: AveragePool2D, context: PlacementContext) -> tuple[Violation, ...]:
    size = device_size(context.graph.tensors[op.input])
    found = f"a {op.window} window on a {size} map with pads {op.pads}"
    return (graph_violation("OP-LOCAL-AVERAGE", found, context.device),)


def join_global_average(
    op: AveragePool2D | Mean, candidate: Candidate, context: PlacementContext
) -> Match | None:
    """A convolution followed by the average of its whole map."""
    if context.graph.sole_consumer(candidate.output) is not op:
        return None
    if (
        candidate.layer not in POOLING_LAYERS
        or candidate.pool is not None
        or candidate.average is not None
    ):
        found = f"{op.location.type} behind {candidate.layer.value}"
        return (graph_violation("OP-NOT-FUSED", found, context.device),)
    facts = replace(
        candidate.facts,
        pool_type="average",
        conv_output_size=device_size(context.graph.tensors[op.input]),
    )
    if is_akida1(context):
        behind = may_clamp(candidate, context.graph)
        facts = replace(
            facts,
            pooling=f"conv_then_{'activation_then_pool' if behind else 'pool_then_activation'}",
            activation=staircase_fact((-math.inf, math.inf), context.tensor(op.output)),
        )
    return replace(
        candidate,
        facts=facts,
        operations=(*candidate.operations, op),
        output=op.output,
        average=op,
    )


def may_clamp(candidate: Candidate, graph: Graph) -> bool:
    """Whether a layer's activation or range at zero may cut what it computes.

    Akida 1.0 sums potentials first and clamps the sum.
    """
    low, _ = candidate.clamp
    carrier = candidate.operations[-1]
    if low < 0.0 and graph.tensors[candidate.output].real_range[0] < 0.0:
        return False
    if not isinstance(carrier, Conv2D) or candidate.layer is LayerType.SEPARABLE_CONVOLUTIONAL:
        return True
    weights = graph.tensors[carrier.weights]
    if weights.data is None or weights.quantization is None:
        return True
    zero = weights.quantization.zero_point.reshape(-1, 1, 1, 1)
    negative = bool((weights.data.astype(np.int64) < zero).any())
    if carrier.bias is not None:
        negative |= bool((graph.constant(carrier.bias).astype(np.int64) < 0).any())
    return negative or graph.tensors[carrier.input].real_range[0] < 0.0


SPEC: Final = OpSpec(
    op_type=AveragePool2D,
    reference=reference,
    candidate=candidate,
    absorb=absorb,
    layers=POOLING_LAYERS,
    placement="Global average pooling of the convolution in front, or of an identity convolution.",
)
