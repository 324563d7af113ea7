# SPDX-License-Identifier: Apache-2.0
"""Output shapes of operations, whatever the file format."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from akida_backend.graph import (
    Add,
    ArgMax,
    AveragePool2D,
    Cast,
    Concatenation,
    Conv2D,
    DepthwiseConv2D,
    Dequantize,
    FullyConnected,
    Gather,
    HardSwish,
    LeakyRelu,
    Logistic,
    Maximum,
    MaxPool2D,
    Mean,
    Minimum,
    Mul,
    Opaque,
    Operation,
    Pack,
    Pad,
    Pads,
    Prelu,
    Quantize,
    Relu,
    Reshape,
    ResizeBilinear,
    ResizeNearest,
    ShapeOf,
    Size2D,
    Softmax,
    Split,
    StridedSlice,
    Sub,
    Tanh,
    Transpose,
    TransposeConv2D,
    Unpack,
)

FixedShape = tuple[int, ...]

_IMAGE_RANK: Final = 4


class InconsistentShapesError(Exception):
    """The shapes or attributes of an operation contradict each other."""


def same_pads(size: Size2D, window: Size2D, stride: Size2D, dilation: Size2D) -> Pads:
    """Borders that give ``ceil(size / stride)`` windows; the odd cell goes to the end.

    Source:
        TensorFlow, "SAME" padding.
    """
    top, bottom = _same_border(size.height, window.height, stride.height, dilation.height)
    left, right = _same_border(size.width, window.width, stride.width, dilation.width)
    return Pads(top, bottom, left, right)


def _same_border(size: int, window: int, stride: int, dilation: int) -> tuple[int, int]:
    windows = -(-size // stride)
    total = max((windows - 1) * stride + (window - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def output_shapes(op: Operation, shape_of: Callable[[str], FixedShape]) -> tuple[FixedShape, ...]:
    """Shapes of `op.outputs`, every axis with its nominal length.

    Args:
        op: The operation.
        shape_of: Shape of a tensor by name. Asked for an output only where the operation does
            not say it: Reshape, FullyConnected (keeps axes or not) and Opaque.

    Raises:
        InconsistentShapesError: Inputs and attributes do not fit together.
    """
    match op:
        case Conv2D() | DepthwiseConv2D() | TransposeConv2D():
            return (_convolution(op, shape_of),)
        case FullyConnected():
            return (_fully_connected(op, shape_of),)
        case Add() | Sub() | Mul() | Maximum() | Minimum():
            return (_broadcast(shape_of(op.a), shape_of(op.b)),)
        case Prelu():
            return (_broadcast(shape_of(op.input), shape_of(op.alpha)),)
        case Concatenation():
            return (_concatenation([shape_of(name) for name in op.operands], op.axis),)
        case MaxPool2D() | AveragePool2D():
            batch, size, channels = _image(shape_of(op.input))
            windows = _windows(size, op.window, op.stride, Size2D(1, 1), op.pads)
            return ((batch, windows.height, windows.width, channels),)
        case Mean():
            return (_mean(shape_of(op.input), op.axes, keep_dims=op.keep_dims),)
        case Pad():
            return (_pad(shape_of(op.input), op.amounts),)
        case Reshape():
            return (_reshape(shape_of(op.input), shape_of(op.output)),)
        case Transpose():
            shape = shape_of(op.input)
            if sorted(op.permutation) != list(range(len(shape))):
                raise InconsistentShapesError(
                    f"permutation {list(op.permutation)} of {len(shape)} axes"
                )
            return (tuple(shape[axis] for axis in op.permutation),)
        case StridedSlice():
            return (_strided_slice(op, shape_of(op.input)),)
        case Split():
            return _split(shape_of(op.input), op.axis, op.sizes)
        case Pack():
            return (_pack([shape_of(name) for name in op.operands], op.axis),)
        case Unpack():
            return _unpack(shape_of(op.input), op.axis, len(op.parts))
        case ShapeOf():
            return ((len(shape_of(op.input)),),)
        case Gather():
            shape = shape_of(op.input)
            _length(shape, op.axis)
            return ((*shape[: op.axis], *shape_of(op.indices), *shape[op.axis + 1 :]),)
        case ArgMax():
            shape = shape_of(op.input)
            _length(shape, op.axis)
            return ((*shape[: op.axis], *shape[op.axis + 1 :]),)
        case ResizeNearest() | ResizeBilinear():
            batch, _, channels = _image(shape_of(op.input))
            return ((batch, op.size.height, op.size.width, channels),)
        case (
            Cast()
            | Softmax()
            | Logistic()
            | Tanh()
            | HardSwish()
            | LeakyRelu()
            | Relu()
            | Quantize()
            | Dequantize()
        ):
            return (shape_of(op.input),)
        case Opaque():
            return tuple(shape_of(name) for name in op.results)


def working_shape(op: Operation, shape_of: Callable[[str], FixedShape]) -> FixedShape | None:
    """Shape of the map an operation makes while it computes, where no tensor has it.

    A map with its borders, for as many channels as the weights read or write; the whole of what a
    transposed convolution spreads before its pads cut it.

    Args:
        op: An operation whose shapes are consistent.
        shape_of: Shape of a tensor by name.
    """
    match op:
        case Conv2D() | DepthwiseConv2D() | MaxPool2D() | AveragePool2D():
            batch, size, channels = _image(shape_of(op.input))
            if isinstance(op, DepthwiseConv2D):
                *_, channels = shape_of(op.weights)
            pads = op.pads
            return (
                batch,
                size.height + pads.top + pads.bottom,
                size.width + pads.left + pads.right,
                channels,
            )
        case TransposeConv2D():
            batch, height, width, channels = shape_of(op.output)
            pads = op.pads
            return (
                batch,
                height + pads.top + pads.bottom,
                width + pads.left + pads.right,
                channels,
            )
        case _:
            return None


def _image(shape: FixedShape) -> tuple[int, Size2D, int]:
    """Batch, size and channels of an NHWC tensor."""
    if len(shape) != _IMAGE_RANK:
        raise InconsistentShapesError(f"the input {list(shape)} is not an NHWC tensor")
    batch, height, width, channels = shape
    return batch, Size2D(height, width), channels


def _windows(size: Size2D, window: Size2D, stride: Size2D, dilation: Size2D, pads: Pads) -> Size2D:
    reach = Size2D(
        (window.height - 1) * dilation.height + 1, (window.width - 1) * dilation.width + 1
    )
    rows = (size.height + pads.top + pads.bottom - reach.height) // stride.height + 1
    columns = (size.width + pads.left + pads.right - reach.width) // stride.width + 1
    if rows < 1 or columns < 1:
        raise InconsistentShapesError(f"a window of {reach} does not fit a map of {size}")
    return Size2D(rows, columns)


def _convolution(
    op: Conv2D | DepthwiseConv2D | TransposeConv2D, shape_of: Callable[[str], FixedShape]
) -> FixedShape:
    batch, size, channels = _image(shape_of(op.input))
    weights = shape_of(op.weights)
    if len(weights) != _IMAGE_RANK or 0 in weights:
        raise InconsistentShapesError(f"weights of shape {list(weights)}")
    first, height, width, last = weights
    kernel = Size2D(height, width)
    match op:
        case DepthwiseConv2D():
            filters, windows = last, _windows(size, kernel, op.stride, op.dilation, op.pads)
            if first != 1 or channels == 0 or filters % channels:
                raise InconsistentShapesError(
                    f"depthwise weights of shape {list(weights)} for {channels} channels"
                )
        case Conv2D():
            filters, windows = first, _windows(size, kernel, op.stride, op.dilation, op.pads)
            if last != channels:
                raise InconsistentShapesError(
                    f"weights of shape {list(weights)} for {channels} channels"
                )
        case TransposeConv2D():
            filters = last if op.depthwise else first
            if channels != last or (op.depthwise and first != 1):
                raise InconsistentShapesError(
                    f"weights of shape {list(weights)} for {channels} channels"
                )
            windows = Size2D(
                (size.height - 1) * op.stride.height + height - op.pads.top - op.pads.bottom,
                (size.width - 1) * op.stride.width + width - op.pads.left - op.pads.right,
            )
            if windows.height < 1 or windows.width < 1:
                raise InconsistentShapesError(f"pads {op.pads} cut the whole output")
    _check_bias(op.bias, filters, shape_of)
    return batch, windows.height, windows.width, filters


def _check_bias(bias: str | None, filters: int, shape_of: Callable[[str], FixedShape]) -> None:
    if bias is not None and math.prod(shape_of(bias)) != filters:
        raise InconsistentShapesError(
            f"a bias of shape {list(shape_of(bias))} for {filters} output channels"
        )


def _fully_connected(op: FullyConnected, shape_of: Callable[[str], FixedShape]) -> FixedShape:
    shape, weights, output = shape_of(op.input), shape_of(op.weights), shape_of(op.output)
    if len(weights) != 2 or 0 in weights:
        raise InconsistentShapesError(f"weights of shape {list(weights)}")
    units, depth = weights
    if math.prod(shape) % depth:
        raise InconsistentShapesError(f"an input of shape {list(shape)} for {depth} weights a unit")
    _check_bias(op.bias, units, shape_of)
    if len(shape) > 1 and output == (*shape[:-1], units) and shape[-1] == depth:
        return output
    return math.prod(shape) // depth, units


def _broadcast(a: FixedShape, b: FixedShape) -> FixedShape:
    rank = max(len(a), len(b))
    lengths: list[int] = []
    for left, right in zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True):
        if left != right and 1 not in (left, right):
            raise InconsistentShapesError(f"shapes {list(a)} and {list(b)} do not broadcast")
        lengths.append(right if left == 1 else left)
    return tuple(lengths)


def _length(shape: FixedShape, axis: int) -> int:
    if not 0 <= axis < len(shape):
        raise InconsistentShapesError(f"axis {axis} of a tensor of shape {list(shape)}")
    return shape[axis]


def _concatenation(shapes: Sequence[FixedShape], axis: int) -> FixedShape:
    first = shapes[0]
    total = sum(_length(shape, axis) for shape in shapes)
    for shape in shapes:
        if (*shape[:axis], *shape[axis + 1 :]) != (*first[:axis], *first[axis + 1 :]):
            raise InconsistentShapesError(
                f"shapes {list(first)} and {list(shape)} do not join on axis {axis}"
            )
    return (*first[:axis], total, *first[axis + 1 :])


def _mean(shape: FixedShape, axes: tuple[int, ...], *, keep_dims: bool) -> FixedShape:
    for axis in axes:
        _length(shape, axis)
    if keep_dims:
        return tuple(1 if axis in axes else length for axis, length in enumerate(shape))
    return tuple(length for axis, length in enumerate(shape) if axis not in axes)


def _pad(shape: FixedShape, amounts: tuple[tuple[int, int], ...]) -> FixedShape:
    if len(amounts) != len(shape) or any(min(pair) < 0 for pair in amounts):
        raise InconsistentShapesError(f"paddings {list(amounts)} for a shape {list(shape)}")
    return tuple(before + n + after for n, (before, after) in zip(shape, amounts, strict=True))


def _reshape(shape: FixedShape, target: FixedShape) -> FixedShape:
    if math.prod(shape) != math.prod(target):
        raise InconsistentShapesError(
            f"{math.prod(shape)} values of shape {list(shape)} do not fill {list(target)}"
        )
    return target


def _strided_slice(op: StridedSlice, shape: FixedShape) -> FixedShape:
    if not len(op.begin) == len(op.end) == len(op.step) == len(shape) or 0 in op.step:
        raise InconsistentShapesError(f"{len(op.begin)} slices of a shape {list(shape)}")
    lengths = [
        len(range(*slice(begin, end, step).indices(length)))
        for begin, end, step, length in zip(op.begin, op.end, op.step, shape, strict=True)
    ]
    for axis in op.drop_axes:
        if _length(tuple(lengths), axis) != 1:
            raise InconsistentShapesError(
                f"axis {axis} is dropped, but has {lengths[axis]} entries"
            )
    return tuple(n for axis, n in enumerate(lengths) if axis not in op.drop_axes)


def _split(shape: FixedShape, axis: int, sizes: tuple[int, ...]) -> tuple[FixedShape, ...]:
    if _length(shape, axis) != sum(sizes) or min(sizes) < 0:
        raise InconsistentShapesError(f"sizes {list(sizes)} of axis {axis} in {list(shape)}")
    return tuple((*shape[:axis], size, *shape[axis + 1 :]) for size in sizes)


def _pack(shapes: Sequence[FixedShape], axis: int) -> FixedShape:
    first = shapes[0]
    for shape in shapes:
        if shape != first:
            raise InconsistentShapesError(f"shapes {list(first)} and {list(shape)} do not stack")
    if not 0 <= axis <= len(first):
        raise InconsistentShapesError(f"stacking shapes {list(first)} on axis {axis}")
    return (*first[:axis], len(shapes), *first[axis:])


def _unpack(shape: FixedShape, axis: int, parts: int) -> tuple[FixedShape, ...]:
    if _length(shape, axis) != parts:
        raise InconsistentShapesError(f"{parts} parts of axis {axis} in {list(shape)}")
    return ((*shape[:axis], *shape[axis + 1 :]),) * parts
