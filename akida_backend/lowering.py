# SPDX-License-Identifier: Apache-2.0
"""What lowering functions of the ``ops`` modules share: context, filters, results."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from akida_backend.candidate import Candidate, device_shape, weight_bits
from akida_backend.graph import (
    Add,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    TransposeConv2D,
)
from akida_backend.options import Options
from akida_backend.parameters import (
    FilterBank,
    FloatArray,
    IntArray,
    LayerParameters,
    Lut,
    Refusal,
    WeightChange,
    layer_parameters,
)
from akida_backend.program import Code, MaxPool, Padding, ProgramLayer

Weighted = Conv2D | DepthwiseConv2D | TransposeConv2D | FullyConnected


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """Measured on calibration inputs, per filter.

    Attributes:
        bias: Real constant to take off the bias.
        gain: Factor on the rescale that makes it round to another multiplier.
    """

    bias: FloatArray
    gain: FloatArray


@dataclass(frozen=True, slots=True)
class LoweringContext:
    """What a lowering function looks at beside the candidate.

    Attributes:
        graph: Legalised graph.
        options: Strictness.
        codes: Of every tensor of the segment.
        offsets: Real constant per channel by which device tensors miss the source's values,
            as far as rounded biases and ties explain it.
        corrections: What calibration found for layers, by the name of their output.
        sums: The Add that a layer's output goes to, where the layer's bias makes up for what
            the sum would miss.
    """

    graph: Graph
    options: Options
    codes: Mapping[str, Code]
    offsets: Mapping[str, FloatArray] = field(default_factory=dict)
    corrections: Mapping[str, Correction] = field(default_factory=dict)
    sums: Mapping[str, Add] = field(default_factory=dict)

    def tie_error(self, add: Add) -> float:
        """Real mean error of a sum that is shifted right: ties go towards plus infinity."""
        finest = min(self.codes[name].scale[0] for name in (add.a, add.b))
        return finest / 2 if self.codes[add.output].scale[0] > finest * 1.5 else 0.0


@dataclass(frozen=True, slots=True)
class Lowered:
    """A program layer and what must be said about it.

    Attributes:
        layer: What the device executes.
        output_scale: Real value of one step of an int32 output, per channel; None otherwise.
        change: Weights that had to be re-quantized.
        assumption: Undocumented behaviour it relies on.
        offset: Real constant per channel by which its output misses the source's values.
    """

    layer: ProgramLayer
    output_scale: FloatArray | None = None
    change: WeightChange | None = None
    assumption: str | None = None
    offset: FloatArray | None = None


Lower = Callable[[Candidate, LoweringContext], Lowered | Refusal]


def filter_bank(op: Weighted, graph: Graph) -> FilterBank:
    """The operation's filters in real terms, filters on axis 0."""
    tensor = graph.tensors[op.weights]
    source = graph.tensors[op.input]
    if tensor.quantization is None or source.quantization is None:
        raise ValueError(f"{op.location}: weights or input without quantization")
    depthwise = isinstance(op, DepthwiseConv2D) or (
        isinstance(op, TransposeConv2D) and op.depthwise
    )
    stored = graph.constant(op.weights).astype(np.int64)
    if depthwise:
        stored = np.moveaxis(stored, 3, 0)  # 1HWO -> O1HW
    zero = tensor.quantization.zero_point.astype(np.int64)
    filters = len(stored)
    weights = stored - zero.reshape((-1,) + (1,) * (stored.ndim - 1))
    scale = np.broadcast_to(tensor.quantization.scale.astype(np.float64), (filters,))
    step = source.quantization.single_scale * scale
    stored_bias = 0 if op.bias is None else graph.constant(op.bias).astype(np.float64)
    bias: FloatArray = stored_bias * step
    return FilterBank(weights, scale, bias, weight_bits(tensor))


def filter_parameters(
    bank: FilterBank,
    candidate: Candidate,
    context: LoweringContext,
    *,
    buffer_bits: int,
    depthwise: bool = False,
) -> tuple[LayerParameters, IntArray | None] | Refusal:
    """Layer parameters of a convolution-like candidate, and its input shift per channel."""
    graph, codes = context.graph, context.codes
    (input_name,) = candidate.inputs
    input_code, output_code = codes[input_name], codes[candidate.output]
    filters = len(bank.weights)
    if input_code.parts > 1:  # the parts of a value add up: each meets the same weights
        bank = replace(bank, weights=np.concatenate([bank.weights] * input_code.parts, axis=-1))
    input_scales = np.asarray(input_code.scale, np.float64)
    low, high = input_code.limits
    peak = np.array(max(abs(low), abs(high)), np.int64)
    shift: IntArray | None = None
    if depthwise:
        input_scale = np.broadcast_to(input_scales, (filters,))
    else:
        finest = input_scales.min()
        input_scale = np.full(filters, finest)
        if input_scales.size > 1:
            shift = np.rint(np.log2(input_scales / finest)).astype(np.int64)
            peak = peak << shift  # broadcasts over the last axis of OHWI and OI weights
    clamp_low, clamp_high = real_clamp(candidate, graph)
    saturation = (clamp_low, clamp_high)
    area = 1
    if candidate.average is not None:
        height, width, _ = device_shape(graph.tensors[candidate.average.input])
        area = height * width
    if input_name in context.offsets:
        bank = without_offset(bank, context.offsets[input_name], depthwise)
    add = context.sums.get(candidate.output)
    if add is not None:
        other = add.b if add.a == candidate.output else add.a
        missed = context.tie_error(add) + context.offsets.get(other, np.zeros(1))
        bank = replace(bank, bias=bank.bias - missed)
    correction = context.corrections.get(candidate.output)
    if correction is not None:
        bank = replace(bank, bias=bank.bias - correction.bias)
    lut = None
    if candidate.lut is not None:
        saturation = graph.tensors[candidate.lut.intermediate].real_range
        lut = Lut(candidate.lut, *saturation)
    if misses_lower_clamp(candidate, output_code):
        return Refusal("LOWER-CLAMP", f"a clamp at {candidate.clamp[0]:g}")
    bank = replace(bank, bias=np.where(dead_filters(bank), bank.bias.clip(*saturation), bank.bias))
    parameters = layer_parameters(
        bank,
        input_code,
        None if output_code.bits == 32 else output_code,
        input_scale=input_scale,
        input_peak=peak,
        buffer_bits=buffer_bits,
        relu=clamp_low >= 0.0,
        bound=clamp_high,
        lut=lut,
        area=area,
        gain=None if correction is None else correction.gain,
    )
    return parameters if isinstance(parameters, Refusal) else (parameters, shift)


def dead_filters(bank: FilterBank) -> NDArray[np.bool_]:
    """Filters without a weight, which give a constant; the source saturates it."""
    dead: NDArray[np.bool_] = np.abs(bank.weights).reshape(len(bank.weights), -1).sum(axis=1) == 0
    return dead


def misses_lower_clamp(candidate: Candidate, output_code: Code) -> bool:
    """Whether a clamp below zero is neither where the output's codes end nor the host's affair.

    The host clamps what leaves a segment, int32 values among them.
    """
    low, _ = candidate.clamp
    if not -math.inf < low < 0.0 or output_code.bits == 32:
        return False
    ends = -low * (1 + 1 / 512) >= output_code.limits[1] * max(output_code.scale)
    return candidate.average is not None or not ends


def without_offset(bank: FilterBank, offset: FloatArray, depthwise: bool) -> FilterBank:
    """The filters with a bias that cancels a constant error of the input channels.

    Exact inside the map; at a padded border the constant does not reach every tap.
    """
    if depthwise:
        shift = bank.weights.reshape(len(bank.weights), -1).sum(axis=1) * offset
    else:
        taps = bank.weights.reshape(len(bank.weights), -1, bank.weights.shape[-1])
        per_channel = taps.sum(axis=1)
        shift = per_channel @ np.resize(offset, per_channel.shape[1])
    return replace(bank, bias=bank.bias - shift * bank.scale)


def output_offset(
    parameters: LayerParameters, candidate: Candidate, graph: Graph
) -> FloatArray | None:
    """The constant error a layer leaves in its output; None where an activation hides it."""
    low, _ = real_clamp(candidate, graph)
    hidden = low >= 0.0 or candidate.lut is not None
    return None if hidden else parameters.offset


def real_clamp(candidate: Candidate, graph: Graph) -> tuple[float, float]:
    """Interval the source's values are confined to, by activation and by stored range.

    Before global averaging; an infinite upper end is replaced by the stored range's, because
    the source saturates there.
    """
    name = candidate.average.input if candidate.average is not None else candidate.output
    if candidate.lut is not None:
        return -math.inf, math.inf
    low, high = graph.tensors[name].real_range
    return max(low, candidate.clamp[0]), min(high, candidate.clamp[1])


def lowered_pool(candidate: Candidate) -> MaxPool | None:
    pool = candidate.pool
    if pool is None:
        return None
    same = candidate.facts.pool_pads == "same_on_conv_output"
    return MaxPool(pool.window, pool.stride, Padding.SAME if same else Padding.VALID)
