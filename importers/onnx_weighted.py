# SPDX-License-Identifier: Apache-2.0
"""ONNX convolutions and matrix products as operations of the Graph.

Weights keep their integers; constant factors behind the operator (BatchNormalization) go into
their scales. A bias becomes int32 at input scale times weight scale, as onnxruntime's integer
kernels have it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.graph import (
    ONE,
    AnyArray,
    Conv2D,
    DepthwiseConv2D,
    DType,
    FullyConnected,
    Pads,
    Quantization,
    Size2D,
    TransposeConv2D,
)
from akida_backend.importers.onnx_units import Unit, real_values
from akida_backend.importers.onnx_values import NotModelledError, Value, file_order
from akida_backend.importers.shape_inference import FixedShape, same_pads

_INT32: Final = 2**31 - 1
# Scales of a bias and of the products it is added to, written by different programs, may differ
# in their last bits.
_SCALE_TOLERANCE: Final = 1e-5


@dataclass(frozen=True, slots=True)
class _Arrangement:
    """Axes of the file's weights in the Graph's order.

    Attributes:
        role: Names the order, so that shared weights are rearranged once.
        change: The rearrangement.
        file_axis: Output channels in the file.
        axis: Output channels in the Graph.
    """

    role: str
    change: Callable[[AnyArray], AnyArray]
    file_axis: int
    axis: int


def parameters(
    unit: Unit, arrangement: _Arrangement, channels: int, *, bias: int, weights: int = 1
) -> tuple[str, str | None]:
    """Tensors of weights and bias.

    Args:
        unit: An operator with weights.
        arrangement: Of the weights.
        channels: Output channels.
        bias: Position of the bias among the operands.
        weights: Position of the weights.
    """
    x, entry = unit.coded(0, DType.INT32)
    value = unit.constant(weights, "weights")
    scales = value.quantization
    if scales is None or value.dtype.is_float:
        raise NotModelledError(f"float operator {unit.kind}: weights '{value.name}' have no scale")
    if scales.axis not in (None, arrangement.file_axis) and scales.scale.size > 1:
        raise NotModelledError(f"{unit.kind} with scales along axis {scales.axis} is not modelled")
    value, scales = _suited(value, scales, x.dtype)
    gain = np.ones(channels)
    offset = np.zeros(channels)
    for step in unit.affine:
        gain, offset = gain * step.gain, offset * step.gain + step.offset
    plain = bool((gain == 1.0).all())
    if not plain:
        value, scales = _with_gain(unit, value, scales, gain, arrangement)
    name = unit.builder.constant(
        value,
        f"{arrangement.role} {value.dtype.value}" if plain else f"{unit.location.index}",
        arrangement.change,
        axis=arrangement.axis,
        quantization=scales,
        dtype=value.dtype,
    )
    total = accumulator_scale(unit, entry, scales)
    if not unit.has(bias):
        return name, _new_bias(unit, offset, total) if offset.any() else None
    given = unit.constant(bias, "bias")
    assert given.data is not None
    if given.data.size not in (1, channels):
        raise unit.error(
            "input", f"a bias of shape {list(given.shape)} for {channels} output channels"
        )
    if plain and not offset.any() and _fits(given, total) and given.data.size == channels:
        kept = dataclasses.replace(given, shape=(channels,), data=given.data.reshape(channels))
        return name, unit.builder.constant(
            kept, "bias", lambda data: data, axis=0, quantization=total
        )
    reals = np.broadcast_to(real_values(given, "bias").reshape(-1), (channels,))
    return name, _new_bias(unit, reals * gain + offset, total)


def accumulator_scale(unit: Unit, entry: Quantization, weights: Quantization) -> Quantization:
    """Scale of sums of products, which is that of the bias."""
    with np.errstate(all="ignore"):
        steps = (entry.scale * weights.scale).astype(np.float32)
    if not (np.isfinite(steps).all() and (steps > 0).all()):
        raise NotModelledError(f"{unit.kind} with scales whose product is out of range")
    return Quantization(
        steps, np.zeros(steps.size, np.int64), 0 if weights.axis is not None else None
    )


def _suited(value: Value, scales: Quantization, activation: DType) -> tuple[Value, Quantization]:
    """Weights in the signed type the Graph's int8 operations take; the same reals."""
    assert value.data is not None
    signed = {DType.UINT8: (DType.INT8, 128), DType.UINT4: (DType.INT4, 8)}
    if activation is not DType.INT8 or value.dtype not in signed:
        return value, scales
    dtype, offset = signed[value.dtype]
    data = (value.data.astype(np.int16) - offset).astype(np.int8)
    moved = dataclasses.replace(scales, zero_point=scales.zero_point - offset)
    return dataclasses.replace(value, dtype=dtype, data=data, quantization=moved), moved


def _with_gain(
    unit: Unit,
    value: Value,
    scales: Quantization,
    gain: NDArray[np.float64],
    arrangement: _Arrangement,
) -> tuple[Value, Quantization]:
    """Weights times a factor per output channel: the scales take it, its sign the integers."""
    assert value.data is not None
    shape = [1] * value.rank
    shape[arrangement.file_axis] = -1
    zero = np.broadcast_to(scales.zero_point, gain.shape).reshape(shape)
    steps = value.data.astype(np.int64) - zero
    steps = np.where((gain < 0).reshape(shape), -steps, steps)
    steps = np.where((gain == 0).reshape(shape), 0, steps)
    low, high = value.dtype.code_range
    codes = steps + zero
    if codes.min(initial=0) < low or codes.max(initial=0) > high:
        raise NotModelledError(
            f"{unit.kind} with a negative factor behind it, which its weights cannot take"
        )
    factor = np.where(gain == 0, 1.0, np.abs(gain))
    changed = Quantization(
        (scales.scale.astype(np.float64) * factor).astype(np.float32),
        np.broadcast_to(scales.zero_point, gain.shape).copy(),
        arrangement.file_axis,
    )
    if not (np.isfinite(changed.scale).all() and (changed.scale > 0).all()):
        raise NotModelledError(f"{unit.kind} with a factor behind it that is out of range")
    data = codes.astype(value.data.dtype)
    return dataclasses.replace(value, data=data, quantization=changed), changed


def _fits(bias: Value, total: Quantization) -> bool:
    """Whether a bias is stored as the accumulator holds it."""
    scales = bias.quantization
    if scales is None:  # of an integer operator, which says nothing about scales
        return bias.dtype is DType.INT32
    if bias.dtype is not DType.INT32 or scales.zero_point.any():
        return False
    return bool(np.allclose(scales.scale, total.scale, rtol=_SCALE_TOLERANCE, atol=0.0))


def _new_bias(unit: Unit, reals: NDArray[np.float64], total: Quantization) -> str:
    with np.errstate(all="ignore"):
        codes = np.rint(reals / total.scale.astype(np.float64))
    if not (np.abs(codes) <= _INT32).all():
        raise NotModelledError(f"{unit.kind} with a bias beyond 32 bits is not modelled")
    return unit.builder.new_constant(
        f"{unit.target.name}/bias", DType.INT32, codes.astype(np.int32), total
    )


# Convolutions


def _window(unit: Unit, kernel: Size2D) -> tuple[Size2D, Size2D]:
    """Stride and dilation."""
    declared = unit.node.integers("kernel_shape")
    wanted = (kernel.height, kernel.width)[-len(unit.operand(0).shape) + 2 :]
    if declared is not None and declared != wanted:
        raise unit.error("kernel_shape", f"{list(declared)}, but the weights are {kernel}")
    return pair(unit, "strides"), pair(unit, "dilations")


def pair(unit: Unit, name: str) -> Size2D:
    """A positive height and width, one where the node has none."""
    values = unit.node.integers(name)
    if values is None:
        return ONE
    if len(values) != unit.operand(0).rank - 2 or min(values) < 1 or max(values) > _INT32:
        raise unit.error(name, f"{list(values)} is not a positive height and width")
    height, width = values if len(values) == 2 else (1, *values)
    return Size2D(height, width)


def pads(unit: Unit, size: Size2D, window: Size2D, stride: Size2D, dilation: Size2D) -> Pads:
    """Borders a node asks for, explicitly or by rule."""
    rule = unit.node.text("auto_pad", "NOTSET") or "NOTSET"
    match rule:
        case "NOTSET":
            values = unit.node.integers("pads") or (0, 0, 0, 0)
            if unit.operand(0).rank == 3 and len(values) == 2:
                values = (0, values[0], 0, values[1])
            if len(values) != 4 or max(values) > _INT32:
                raise unit.error("pads", f"{list(values)} are not four borders")
            if min(values) < 0:
                raise NotModelledError(f"{unit.kind} with negative pads is not modelled")
            top, left, bottom, right = values
            return Pads(top, bottom, left, right)
        case "VALID":
            return Pads()
        case "SAME_UPPER":
            return same_pads(size, window, stride, dilation)
        case "SAME_LOWER":
            upper = same_pads(size, window, stride, dilation)
            return Pads(upper.bottom, upper.top, upper.right, upper.left)
        case _:
            raise unit.error("auto_pad", f"'{rule}' is not a padding rule")


def image_shape(unit: Unit, position: int = 0) -> tuple[Size2D, int]:
    """Size and channels of an operand that is an image, or a row of height one."""
    value = unit.operand(position)
    if value.rank not in (3, 4):
        raise NotModelledError(f"{unit.kind} of {value.rank} axes is not modelled")
    if unit.channels_last:
        _, *sizes, channels = value.shape
    else:
        _, channels, *sizes = value.shape
    height, width = sizes if value.rank == 4 else (1, *sizes)
    return Size2D(height, width), channels


def _kernel(unit: Unit) -> tuple[tuple[int, int, Size2D], FixedShape]:
    """First two axes and window of the weights, and their shape with two axes of space."""
    weights = unit.operand(1)
    if weights.rank != unit.operand(0).rank or 0 in weights.shape:
        raise unit.error("input", f"weights of shape {list(weights.shape)}")
    first, second, *sizes = weights.shape
    height, width = sizes if weights.rank == 4 else (1, *sizes)
    return (first, second, Size2D(height, width)), (first, second, height, width)


def conv(unit: Unit) -> None:
    """Conv: OIHW weights; as many groups as channels make it depthwise."""
    size, channels = image_shape(unit)
    weights = unit.operand(1)
    (filters, depth, kernel), shape = _kernel(unit)
    groups = unit.node.integer("group", 1)
    if groups < 1 or depth * groups != channels or filters % groups:
        raise unit.error(
            "group", f"{groups} groups of weights {list(weights.shape)} for {channels} channels"
        )
    stride, dilation = _window(unit, kernel)
    border = pads(unit, size, kernel, stride, dilation)
    depthwise = groups == channels and groups > 1
    if groups > 1 and not depthwise:
        raise NotModelledError("grouped convolution is not modelled")
    arrangement = (
        _Arrangement("1hwo", lambda data: data.reshape(shape).transpose(1, 2, 3, 0), 0, 3)
        if depthwise
        else _Arrangement("ohwi", lambda data: data.reshape(shape).transpose(0, 2, 3, 1), 0, 0)
    )
    source = unit.image()
    name, bias = parameters(unit, arrangement, filters, bias=2)
    kind = DepthwiseConv2D if depthwise else Conv2D
    unit.write_image(
        lambda output, activation: kind(
            location=unit.location,
            sources=unit.sources(),
            input=source,
            weights=name,
            bias=bias,
            output=output,
            stride=stride,
            dilation=dilation,
            pads=border,
            activation=activation,
        ),
        fuses=True,
    )


def conv_transpose(unit: Unit) -> None:
    """ConvTranspose: IOHW weights."""
    size, channels = image_shape(unit)
    weights = unit.operand(1)
    (depth, per_group, kernel), shape = _kernel(unit)
    groups = unit.node.integer("group", 1)
    if groups < 1 or depth != channels or channels % groups:
        raise unit.error(
            "group", f"{groups} groups of weights {list(weights.shape)} for {channels} channels"
        )
    depthwise = groups == channels and groups > 1 and per_group == 1
    if groups > 1 and not depthwise:
        raise NotModelledError("grouped transposed convolution is not modelled")
    stride, dilation = _window(unit, kernel)
    if dilation != ONE:
        raise NotModelledError("ConvTranspose with dilations is not modelled")
    border = _cut(unit, size, kernel, stride)
    arrangement = (
        _Arrangement("1hwo", lambda data: data.reshape(shape).transpose(1, 2, 3, 0), 0, 3)
        if depthwise
        else _Arrangement(
            "ohwi of iohw", lambda data: data.reshape(shape).transpose(1, 2, 3, 0), 1, 0
        )
    )
    source = unit.image()
    name, bias = parameters(unit, arrangement, channels if depthwise else per_group, bias=2)
    unit.write_image(
        lambda output, activation: TransposeConv2D(
            location=unit.location,
            sources=unit.sources(),
            input=source,
            weights=name,
            bias=bias,
            output=output,
            stride=stride,
            pads=border,
            activation=activation,
            depthwise=depthwise,
        ),
        fuses=True,
    )


def _cut(unit: Unit, size: Size2D, kernel: Size2D, stride: Size2D) -> Pads:
    """What is cut from the full output of a transposed convolution.

    Source:
        ONNX, ConvTranspose: output padding and output shape.
    """
    extra = unit.node.integers("output_padding") or (0, 0)
    wanted = unit.node.integers("output_shape")
    if unit.operand(0).rank == 3:
        extra = (0, extra[-1])
        wanted = wanted and (1, wanted[-1])
    if len(extra) != 2 or min(extra) < 0 or max(extra) > _INT32:
        raise unit.error("output_padding", f"{list(extra)}")
    full = [
        (size.height - 1) * stride.height + kernel.height + extra[0],
        (size.width - 1) * stride.width + kernel.width + extra[1],
    ]
    rule = unit.node.text("auto_pad", "NOTSET") or "NOTSET"
    if wanted is None and rule in ("SAME_UPPER", "SAME_LOWER"):
        wanted = (size.height * stride.height, size.width * stride.width)
    if wanted is None:
        border = pads(unit, size, kernel, stride, ONE)
        top, bottom, left, right = border.top, border.bottom, border.left, border.right
    else:
        wanted = wanted[-2:]
        if len(wanted) != 2 or min(wanted) < 1:
            raise unit.error("output_shape", f"{list(wanted)}")
        total = [whole - length for whole, length in zip(full, wanted, strict=True)]
        if min(total) < 0:
            raise NotModelledError("ConvTranspose to a map beyond its last window is not modelled")
        halves = [(cut // 2, cut - cut // 2) for cut in total]
        if rule != "SAME_UPPER":
            halves = [(after, before) for before, after in halves]
        (top, bottom), (left, right) = halves
    bottom, right = bottom - extra[0], right - extra[1]
    if min(bottom, right) < 0:
        raise NotModelledError("ConvTranspose to a map beyond its last window is not modelled")
    return Pads(top, bottom, left, right)


# Matrix products


def gemm(unit: Unit) -> None:
    """Gemm whose second operand is constant."""
    if unit.node.flag("transA"):
        raise NotModelledError("Gemm with a transposed first operand is not modelled")
    if unit.node.real("alpha", 1.0) != 1.0 or (unit.has(2) and unit.node.real("beta", 1.0) != 1.0):
        raise NotModelledError("Gemm with factors alpha and beta is not modelled")
    _product(unit, transposed=unit.node.flag("transB"))


def matmul(unit: Unit) -> None:
    _product(unit, transposed=False)


def _product(unit: Unit, *, transposed: bool) -> None:
    x, weights = unit.operand(0), unit.operand(1)
    if unit.constant(1, "weights").rank != 2 or 0 in weights.shape or x.rank < 1:
        raise NotModelledError(f"{unit.kind} with weights of {weights.rank} axes is not modelled")
    depth, units = weights.shape[::-1] if transposed else weights.shape
    if x.shape[-1] != depth:
        raise unit.error(
            "input", f"rows of {x.shape[-1]} values times weights {list(weights.shape)}"
        )
    order: NDArray[np.int64] | None = None
    if x.shuffled is not None and file_order(x.rank) not in x.forms:
        source, order = x.shuffled
    else:
        source = unit.tensor(0, file_order(x.rank))

    def arranged(data: AnyArray) -> AnyArray:
        rows = data if transposed else data.T
        return rows if order is None else rows[:, order]

    role = f"oi {transposed}" if order is None else f"oi {transposed} {order.tobytes().hex()}"
    arrangement = _Arrangement(role, arranged, 0 if transposed else 1, 0)
    name, bias = parameters(unit, arrangement, units, bias=2)
    unit.write(
        lambda output, activation: FullyConnected(
            location=unit.location,
            sources=unit.sources(),
            input=source,
            weights=name,
            bias=bias,
            output=output,
            activation=activation,
        ),
        file_order(x.rank),
        fuses=True,
        shape=(*x.shape[:-1], units),
    )
