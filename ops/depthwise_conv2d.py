# SPDX-License-Identifier: Apache-2.0
"""DEPTHWISE_CONV_2D: every channel by its own filters, weights 1HWO.

Output channel ``c * multiplier + m`` reads channel c. Arithmetic as in CONV_2D.

Source:
    TFLite ``reference_integer_ops::DepthwiseConvPerChannel`` and
    ``reference_ops::DepthwiseConv`` (uint8).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from akida_backend.arithmetic import output_size, padded, taps
from akida_backend.candidate import (
    Candidate,
    Match,
    PlacementContext,
    constant_parameters,
    convolution_candidate,
    device_shape,
    is_akida1,
    staircase_fact,
    wide_input,
)
from akida_backend.constraints import LayerType, graph_violation
from akida_backend.graph import (
    NO_PADS,
    ONE,
    Activation,
    AnyArray,
    Conv2D,
    DepthwiseConv2D,
    Graph,
    Size2D,
)
from akida_backend.lowering import (
    Lowered,
    LoweringContext,
    filter_bank,
    filter_parameters,
    lowered_pool,
    output_offset,
)
from akida_backend.parameters import Refusal
from akida_backend.program import ACCUMULATOR_BITS_INNER
from akida_backend.program import DepthwiseConv2D as DepthwiseConv2DLayer
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec
from akida_backend.weighted import Floats, weighted_sum


def reference(op: DepthwiseConv2D, env: Environment) -> tuple[AnyArray, ...]:
    x = env.value(op.input)
    _, height, width, channels = x.shape
    _, kernel_height, kernel_width, out_channels = env.value(op.weights).shape
    kernel = Size2D(kernel_height, kernel_width)
    padded_size = Size2D(
        height + op.pads.top + op.pads.bottom, width + op.pads.left + op.pads.right
    )
    size = output_size(padded_size, kernel, op.stride, op.dilation)
    multiplier = out_channels // channels

    def accumulate(values: Floats, weights: Floats) -> Floats:
        values = padded(values, op.pads, 0)
        if multiplier > 1:
            values = np.repeat(values, multiplier, axis=-1)
        shape = (len(values), size.height, size.width, out_channels)
        sums, product = np.zeros(shape, values.dtype), np.empty(shape, values.dtype)
        for row, column, view in taps(values, kernel, op.stride, op.dilation):
            np.multiply(view, weights[0, row, column], out=product)
            sums += product
        return sums

    temporary = 4 * max(size.area, padded_size.area) * out_channels
    y = weighted_sum(op, env, x, accumulate, channel_axis=3, temporary_values=temporary)
    return (y,)


def macs(op: DepthwiseConv2D, graph: Graph) -> int:
    _, height, width, _ = graph.tensors[op.weights].shape
    return graph.tensors[op.output].values_per_sample * (height or 0) * (width or 0)


def candidate(op: DepthwiseConv2D, context: PlacementContext) -> Match:
    """DepthwiseConv2D; a channel multiplier shows as groups that differ from the channels.

    On Akida 1.0 a half of SeparableConvolutional, where a pointwise convolution follows at once;
    elsewhere, if `diagonal_depthwise` asks for it, Convolutional with zeros between the channels.
    """
    fixed = constant_parameters(op, context)
    if fixed:
        return fixed
    if is_akida1(context):
        return _separable(op, context)
    _, kernel_height, kernel_width, filters = context.graph.tensors[op.weights].shape
    _, _, channels = device_shape(context.graph.tensors[op.input])
    return convolution_candidate(
        op,
        context,
        LayerType.DEPTHWISE_CONV2D,
        kernel=Size2D(int(kernel_height or 0), int(kernel_width or 0)),
        filters=int(filters or 0),
        groups=int(filters or 0) if int(filters or 0) != channels else channels,
    )


def _separable(op: DepthwiseConv2D, context: PlacementContext) -> Match:
    """Depthwise and pointwise convolution with nothing between but requantization."""
    graph = context.graph
    _, kernel_height, kernel_width, filters = (
        int(d or 0) for d in context.tensor(op.weights).shape
    )
    _, _, channels = device_shape(graph.tensors[op.input])
    follower = graph.sole_consumer(op.output)
    between = "" if op.activation is Activation.NONE else f"{op.activation.value} between"
    if graph.tensors[op.output].real_range[0] >= 0.0:
        between = between or "no negative values between"
    if filters != channels:
        between = f"{filters} filters on {channels} channels"
    kernel = Size2D(kernel_height, kernel_width)
    if between or not isinstance(follower, Conv2D) or not is_pointwise(follower, graph):
        if context.options.diagonal_depthwise and filters == channels:
            layer = LayerType.CONVOLUTIONAL
            broken = wide_input(op.input, context)
            return broken or convolution_candidate(
                op, context, layer, kernel=kernel, filters=filters, groups=1
            )
        found = (
            f"a depthwise convolution with {between}"
            if between
            else "a depthwise convolution with no pointwise convolution right behind it"
        )
        return (graph_violation("OP-DEPTHWISE-HALF", found, context.device),)
    broken = (*constant_parameters(follower, context), *wide_input(op.input, context))
    if broken:
        return broken
    start = convolution_candidate(
        op,
        context,
        LayerType.SEPARABLE_CONVOLUTIONAL,
        kernel=kernel,
        filters=int(context.tensor(follower.weights).shape[0] or 0),
        groups=channels,
    )
    clamp = follower.activation.real_range
    return replace(
        start,
        facts=replace(
            start.facts, activation=staircase_fact(clamp, graph.tensors[follower.output])
        ),
        operations=(op, follower),
        output=follower.output,
        clamp=clamp,
    )


def is_pointwise(op: Conv2D, graph: Graph) -> bool:
    _, height, width, depth = graph.tensors[op.weights].shape
    _, _, channels = device_shape(graph.tensors[op.input])
    return (height, width, depth) == (1, 1, channels) and op.stride == ONE and op.pads == NO_PADS


def lower(candidate: Candidate, context: LoweringContext) -> Lowered | Refusal:
    """DepthwiseConv2D, with the pooling and activation that joined."""
    op = candidate.base
    assert isinstance(op, DepthwiseConv2D)
    bank = filter_bank(op, context.graph)
    result = filter_parameters(
        bank, candidate, context, buffer_bits=ACCUMULATOR_BITS_INNER, depthwise=True
    )
    if isinstance(result, Refusal):
        return result
    parameters, _ = result
    layer = DepthwiseConv2DLayer(
        name=op.location.name,
        inputs=candidate.inputs,
        output=candidate.output,
        weights=np.moveaxis(parameters.weights, 0, 3),
        weights_bits=bank.bits,
        bias=parameters.bias,
        activation=parameters.activation,
        rescale=parameters.rescale,
        stride=op.stride,
        pool=lowered_pool(candidate),
        global_average=candidate.average is not None,
    )
    offset = output_offset(parameters, candidate, context.graph)
    return Lowered(layer, change=parameters.change, offset=offset)


SPEC: Final = OpSpec(
    op_type=DepthwiseConv2D,
    reference=reference,
    macs=macs,
    candidate=candidate,
    lower=lower,
    layers=(
        LayerType.DEPTHWISE_CONV2D,
        LayerType.SEPARABLE_CONVOLUTIONAL,
        LayerType.CONVOLUTIONAL,
    ),
    placement="DepthwiseConv2D.",
)
