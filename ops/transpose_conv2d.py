# SPDX-License-Identifier: Apache-2.0
"""TRANSPOSE_CONV: every input cell spreads its filters over the output, weights OHWI.

``full[y * stride + row, x * stride + column] += (in[y, x] - zx) * (w[row, column] - zw)``, cut by
the pads, then bias, requantization and clamp as in CONV_2D. Depthwise weights are 1HWO.

Source:
    TFLite ``reference_integer_ops::TransposeConv`` and ``reference_ops::TransposeConv`` (uint8).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.arithmetic import padded
from akida_backend.candidate import (
    Candidate,
    Match,
    PlacementContext,
    activation_bits,
    activation_fact,
    constant_parameters,
    device_shape,
    device_size,
    weight_bits,
)
from akida_backend.constraints import LayerFacts, LayerType
from akida_backend.graph import ONE, AnyArray, Graph, Pads, Size2D, TransposeConv2D
from akida_backend.lowering import (
    Lowered,
    LoweringContext,
    filter_bank,
    filter_parameters,
    output_offset,
)
from akida_backend.parameters import Refusal
from akida_backend.program import ACCUMULATOR_BITS_INNER
from akida_backend.program import Conv2DTranspose as Conv2DTransposeLayer
from akida_backend.program import DepthwiseConv2DTranspose as DepthwiseConv2DTransposeLayer
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec
from akida_backend.weighted import Floats, weighted_sum


def reference(op: TransposeConv2D, env: Environment) -> tuple[AnyArray, ...]:
    x = env.value(op.input)
    _, height, width, _ = x.shape
    first, kernel_height, kernel_width, last = env.value(op.weights).shape
    out_channels = last if op.depthwise else first
    full = Size2D(
        (height - 1) * op.stride.height + kernel_height,
        (width - 1) * op.stride.width + kernel_width,
    )
    _, out_height, out_width, _ = env.tensor(op.output).shape
    cut = Pads(
        top=-op.pads.top,
        left=-op.pads.left,
        bottom=(out_height or 0) + op.pads.top - full.height,
        right=(out_width or 0) + op.pads.left - full.width,
    )

    def accumulate(values: Floats, weights: Floats) -> Floats:
        sums = np.zeros((len(values), full.height, full.width, out_channels), values.dtype)
        for row in range(kernel_height):
            rows = slice(row, row + (height - 1) * op.stride.height + 1, op.stride.height)
            for column in range(kernel_width):
                columns = slice(column, column + (width - 1) * op.stride.width + 1, op.stride.width)
                if op.depthwise:
                    sums[:, rows, columns] += values * weights[0, row, column]
                else:
                    sums[:, rows, columns] += values @ weights[:, row, column].T
        return padded(sums, cut, 0)

    temporary = 2 * full.area * out_channels
    axis = 3 if op.depthwise else 0
    y = weighted_sum(op, env, x, accumulate, channel_axis=axis, temporary_values=temporary)
    return (y,)


def macs(op: TransposeConv2D, graph: Graph) -> int:
    """Every input cell times every filter tap, also where the pads cut the result off."""
    first, height, width, _ = graph.tensors[op.weights].shape
    filters = 1 if op.depthwise else (first or 0)
    return graph.tensors[op.input].values_per_sample * (height or 0) * (width or 0) * filters


def candidate(op: TransposeConv2D, context: PlacementContext) -> Match:
    """Conv2DTranspose or DepthwiseConv2DTranspose."""
    fixed = constant_parameters(op, context)
    if fixed:
        return fixed
    graph = context.graph
    first, kernel_height, kernel_width, last = graph.tensors[op.weights].shape
    filters = int((last if op.depthwise else first) or 0)
    kernel = Size2D(int(kernel_height or 0), int(kernel_width or 0))
    layer = LayerType.DEPTHWISE_CONV2D_TRANSPOSE if op.depthwise else LayerType.CONV2D_TRANSPOSE
    height, width, channels = device_shape(graph.tensors[op.input])
    doubled = device_size(graph.tensors[op.output]) == Size2D(2 * height, 2 * width)
    same = doubled and op.pads == transpose_pads(kernel)
    facts = LayerFacts(
        layer=layer,
        input_size=Size2D(height, width),
        input_channels=channels,
        kernel_size=kernel,
        kernel_stride=op.stride,
        dilation=ONE,
        groups=channels if op.depthwise else 1,
        padding="same" if same else "explicit",
        pads=op.pads,
        filters=filters,
        pool_type="none",
        activation=activation_fact(op.activation.real_range),
        input_bits=activation_bits(graph.tensors[op.input]),
        weights_bits=weight_bits(graph.tensors[op.weights]),
        output_bits=8,
    )
    return Candidate(
        facts=facts,
        operations=(op,),
        inputs=(op.input,),
        output=op.output,
        clamp=op.activation.real_range,
    )


def transpose_pads(kernel: Size2D) -> Pads:
    """What stride-2 Same cuts from the full output: ``kernel - 2``, the smaller half before."""
    high, wide = max(kernel.height - 2, 0), max(kernel.width - 2, 0)
    return Pads(high // 2, high - high // 2, wide // 2, wide - wide // 2)


def lower(candidate: Candidate, context: LoweringContext) -> Lowered | Refusal:
    """Conv2DTranspose or DepthwiseConv2DTranspose, with the activation that joined."""
    op = candidate.base
    assert isinstance(op, TransposeConv2D)
    bank = filter_bank(op, context.graph)
    result = filter_parameters(
        bank, candidate, context, buffer_bits=ACCUMULATOR_BITS_INNER, depthwise=op.depthwise
    )
    if isinstance(result, Refusal):
        return result
    parameters, _ = result
    layer_type = DepthwiseConv2DTransposeLayer if op.depthwise else Conv2DTransposeLayer
    layer = layer_type(
        name=op.location.name,
        inputs=candidate.inputs,
        output=candidate.output,
        weights=np.moveaxis(parameters.weights, 0, 3) if op.depthwise else parameters.weights,
        weights_bits=bank.bits,
        bias=parameters.bias,
        activation=parameters.activation,
        rescale=parameters.rescale,
    )
    offset = output_offset(parameters, candidate, context.graph)
    return Lowered(layer, change=parameters.change, offset=offset)


SPEC: Final = OpSpec(
    op_type=TransposeConv2D,
    reference=reference,
    macs=macs,
    candidate=candidate,
    lower=lower,
    layers=(LayerType.CONV2D_TRANSPOSE, LayerType.DEPTHWISE_CONV2D_TRANSPOSE),
    placement="Conv2DTranspose.",
)
