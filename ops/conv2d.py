# SPDX-License-Identifier: Apache-2.0
"""CONV_2D: cross-correlation of NHWC maps with OHWI weights, bias, fused activation.

``y = clamp(requantize(sum((x - zx) * (w - zw)) + bias) + zy)``; padded cells count as real zero.

Source:
    TFLite ``reference_integer_ops::ConvPerChannel`` and ``reference_ops::Conv`` (uint8).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.arithmetic import output_size, padded, row_bands, taps
from akida_backend.candidate import (
    INPUT_CHANNELS,
    Candidate,
    Match,
    PlacementContext,
    constant_parameters,
    convolution_candidate,
    device_shape,
    is_akida1,
    wide_input,
)
from akida_backend.constraints import LayerType, violations
from akida_backend.graph import AnyArray, Conv2D, Graph, Size2D
from akida_backend.lowering import (
    Lowered,
    LoweringContext,
    filter_bank,
    filter_parameters,
    lowered_pool,
    output_offset,
)
from akida_backend.parameters import Refusal
from akida_backend.program import ACCUMULATOR_BITS_INNER, ACCUMULATOR_BITS_INPUT, Padding
from akida_backend.program import Conv2D as Conv2DLayer
from akida_backend.program import InputConv2D as InputConv2DLayer
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec
from akida_backend.weighted import Floats, weighted_sum


def reference(op: Conv2D, env: Environment) -> tuple[AnyArray, ...]:
    """Weights with fewer input channels than the map stand for a grouped convolution."""
    x = env.value(op.input)
    _, height, width, channels = x.shape
    out_channels, kernel_height, kernel_width, group_channels = env.value(op.weights).shape
    kernel = Size2D(kernel_height, kernel_width)
    padded_size = Size2D(
        height + op.pads.top + op.pads.bottom, width + op.pads.left + op.pads.right
    )
    positions = output_size(padded_size, kernel, op.stride, op.dilation).area
    groups = channels // group_channels
    direct = kernel.area == 1

    def accumulate(values: Floats, weights: Floats) -> Floats:
        bands = [
            sums_of(band, weights)
            for band in row_bands(
                padded(values, op.pads, 0), kernel, op.stride, op.dilation, kernel.area * channels
            )
        ]
        return bands[0] if len(bands) == 1 else np.concatenate(bands, axis=1)

    def sums_of(values: Floats, weights: Floats) -> Floats:
        views = [v for _, _, v in taps(values, kernel, op.stride, op.dilation)]
        columns = views[0] if direct else np.stack(views, axis=3)
        samples, rows, cols = columns.shape[:3]
        grouped = columns.reshape(samples * rows * cols, kernel.area, groups, group_channels)
        matrices = weights.reshape(groups, out_channels // groups, -1)
        parts = [
            grouped[:, :, group].reshape(-1, kernel.area * group_channels) @ matrices[group].T
            for group in range(groups)
        ]
        sums = parts[0] if groups == 1 else np.concatenate(parts, axis=-1)
        return sums.reshape(samples, rows, cols, out_channels)

    temporary = positions * max(kernel.area * channels, out_channels)
    y = weighted_sum(op, env, x, accumulate, channel_axis=0, temporary_values=temporary)
    return (y,)


def macs(op: Conv2D, graph: Graph) -> int:
    _, height, width, channels = graph.tensors[op.weights].shape
    per_output = (height or 0) * (width or 0) * (channels or 0)
    return graph.tensors[op.output].values_per_sample * per_output


LAYERS_OF: Final = {
    1: (LayerType.INPUT_CONVOLUTIONAL, LayerType.CONVOLUTIONAL),
    2: (LayerType.INPUT_CONV2D, LayerType.CONV2D),
}


def candidate(op: Conv2D, context: PlacementContext) -> Match:
    """InputConv2D where the host feeds 1 or 3 channels to this operation alone, else Conv2D.

    InputConvolutional and Convolutional on Akida 1.0.
    """
    fixed = constant_parameters(op, context)
    if fixed:
        return fixed
    graph = context.graph
    filters, kernel_height, kernel_width, depth = graph.tensors[op.weights].shape
    _, _, channels = device_shape(graph.tensors[op.input])
    fed_by_host = op.input not in context.on_device and graph.consumers[op.input] == (op,)
    convolutions = [
        convolution_candidate(
            op,
            context,
            layer,
            kernel=Size2D(int(kernel_height or 0), int(kernel_width or 0)),
            filters=int(filters or 0),
            groups=channels // max(int(depth or 1), 1),
        )
        for layer in LAYERS_OF[context.device.generation]
    ]
    too_wide = wide_input(op.input, context) if is_akida1(context) else ()
    if not (fed_by_host and channels in INPUT_CHANNELS and op.input not in graph.outputs):
        return too_wide or convolutions[-1]
    if too_wide:
        return convolutions[0]
    # An image may also enter a Conv2D, as int8, where the input layer cannot take it.
    strict = context.options.strict_converter
    fitting = (c for c in convolutions if not violations(c.facts, context.device, strict=strict))
    return next(fitting, convolutions[0])


def lower(candidate: Candidate, context: LoweringContext) -> Lowered | Refusal:
    """InputConv2D or Conv2D, with the pooling and activation that joined."""
    op = candidate.base
    assert isinstance(op, Conv2D)
    bank = filter_bank(op, context.graph)
    image = candidate.layer is LayerType.INPUT_CONV2D
    result = filter_parameters(
        bank,
        candidate,
        context,
        buffer_bits=ACCUMULATOR_BITS_INPUT if image else ACCUMULATOR_BITS_INNER,
    )
    if isinstance(result, Refusal):
        return result
    parameters, input_shift = result
    stride = op.stride
    layer: InputConv2DLayer | Conv2DLayer
    if image:
        code = context.codes[op.input]
        _, _, channels = device_shape(context.graph.tensors[op.input])
        same = candidate.facts.padding == "same"
        layer = InputConv2DLayer(
            name=op.location.name,
            inputs=candidate.inputs,
            output=candidate.output,
            weights=parameters.weights,
            weights_bits=8,
            bias=parameters.bias,
            activation=parameters.activation,
            rescale=parameters.rescale,
            stride=stride,
            padding=Padding.SAME if same else Padding.VALID,
            padding_value=np.full(channels, code.zero_point, np.uint8),
            pool=lowered_pool(candidate),
        )
    else:
        layer = Conv2DLayer(
            name=op.location.name,
            inputs=candidate.inputs,
            output=candidate.output,
            weights=parameters.weights,
            weights_bits=bank.bits,
            bias=parameters.bias,
            activation=parameters.activation,
            rescale=parameters.rescale,
            stride=stride,
            pool=lowered_pool(candidate),
            global_average=candidate.average is not None,
            input_shift=None if input_shift is None else input_shift.astype(np.uint8),
        )
    offset = output_offset(parameters, candidate, context.graph)
    return Lowered(layer, change=parameters.change, offset=offset)


SPEC: Final = OpSpec(
    op_type=Conv2D,
    reference=reference,
    macs=macs,
    candidate=candidate,
    lower=lower,
    layers=(*LAYERS_OF[1], *LAYERS_OF[2]),
    placement="InputConv2D on an image of 1 or 3 channels that the host feeds, else Conv2D.",
)
