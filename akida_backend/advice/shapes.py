# SPDX-License-Identifier: Apache-2.0
"""Shapes behind a changed operation, derived anew; weights there cropped or filled with zeros."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from akida_backend.candidate import device_size
from akida_backend.constraints import padding_kind, pool_pads_kind
from akida_backend.graph import (
    NO_PADS,
    ONE,
    Add,
    AnyArray,
    AveragePool2D,
    Concatenation,
    Conv2D,
    DepthwiseConv2D,
    DType,
    FullyConnected,
    Gather,
    Graph,
    MaxPool2D,
    Opaque,
    Operation,
    Pack,
    Pads,
    Prelu,
    Quantization,
    Reshape,
    Shape,
    ShapeOf,
    Size2D,
    Split,
    StridedSlice,
    Tensor,
    Unpack,
    nominal_shape,
)
from akida_backend.graph_check import graph_problems
from akida_backend.importers.shape_inference import InconsistentShapesError, output_shapes
from akida_backend.placement import key
from akida_backend.program import same_pads

Tensors = dict[str, Tensor]
NumberT = TypeVar("NumberT", np.float32, np.int64)
# These have no form for an input of another shape; others follow it.
_FIXED_FORMS = (Pack, Unpack, Split, StridedSlice, Gather, ShapeOf, Opaque, Prelu)


def settled(changed: Graph, original: Graph) -> Graph | None:
    """`changed` with every shape derived anew, or None where an operation has no form for it.

    Operations that `original` has too are fitted to their new inputs: weights lose or gain
    channels, Same padding stays Same, an average over the whole map stays one.
    """
    old_operations = {key(op): op for op in original.operations}
    tensors: Tensors = dict(changed.tensors)
    operations: list[Operation] = []
    for op in changed.operations:
        moved = [
            name
            for name in op.inputs
            if name in original.tensors
            and not original.tensors[name].is_constant
            and tensors[name].shape != original.tensors[name].shape
        ]
        if moved and old_operations.get(key(op)) == op:
            fitted = _fitted(op, original, tensors)
            if fitted is None:
                return None
            op = fitted
        try:
            shapes = output_shapes(op, lambda name: nominal_shape(tensors[name].shape))
        except InconsistentShapesError:
            return None
        for name, shape in zip(op.outputs, shapes, strict=True):
            symbolic = None in tensors[name].shape
            new: Shape = (None, *shape[1:]) if symbolic else shape
            tensors[name] = dataclasses.replace(tensors[name], shape=new)
        operations.append(op)
    result = dataclasses.replace(changed, tensors=tensors).with_changes(
        operations=tuple(operations)
    )
    return None if next(graph_problems(result), None) else result


def _fitted(op: Operation, original: Graph, tensors: Tensors) -> Operation | None:
    """An operation for inputs of other shapes; what it needs anew goes into `tensors`."""
    match op:
        case Conv2D() | DepthwiseConv2D():
            return _fitted_convolution(op, original, tensors)
        case FullyConnected():
            return _fitted_dense(op, original, tensors)
        case MaxPool2D() | AveragePool2D():
            return _fitted_pool(op, original, tensors)
        case Reshape():
            return _fitted_reshape(op, original, tensors)
        case Add() | Concatenation():
            return op  # the shapes say whether they still fit
        case _:
            return None if isinstance(op, _FIXED_FORMS) else op


def _channels(tensor: Tensor) -> int:
    return int(tensor.shape[-1] or 0)


def _fitted_convolution(
    op: Conv2D | DepthwiseConv2D, original: Graph, tensors: Tensors
) -> Conv2D | DepthwiseConv2D | None:
    weights = original.tensors[op.weights]
    before, after = original.tensors[op.input], tensors[op.input]
    if weights.data is None or len(after.shape) != len(before.shape):
        return None
    _, height, width, depth = weights.data.shape
    kernel = Size2D(height, width)
    sizes = device_size(before), device_size(after)
    kind = padding_kind(op.pads, sizes[0], kernel, op.stride, op.dilation)
    pads = same_of(sizes[1], kernel, op.stride, op.dilation) if kind == "same" else op.pads
    if _channels(before) != _channels(after):
        if isinstance(op, DepthwiseConv2D):
            count = weights.data.shape[3] // _channels(before) * _channels(after)
            with_outputs(op.weights, op.bias, 3, count, tensors)
        elif depth == _channels(before):
            tensors[op.weights] = cropped(weights, 3, _channels(after))
        else:
            return None
    return dataclasses.replace(op, pads=pads)


def _fitted_dense(op: FullyConnected, original: Graph, tensors: Tensors) -> FullyConnected | None:
    weights = original.tensors[op.weights]
    before, after = original.tensors[op.input], tensors[op.input]
    if weights.data is None:
        return None
    depth = weights.data.shape[1]
    if depth == before.values_per_sample:
        tensors[op.weights] = cropped(weights, 1, after.values_per_sample)
    elif depth == _channels(before):
        tensors[op.weights] = cropped(weights, 1, _channels(after))
    else:
        return None
    return op


def _fitted_pool(
    op: MaxPool2D | AveragePool2D, original: Graph, tensors: Tensors
) -> MaxPool2D | AveragePool2D:
    before, after = device_size(original.tensors[op.input]), device_size(tensors[op.input])
    if isinstance(op, AveragePool2D) and op.window == before and op.pads == NO_PADS:
        stride = after if op.stride == op.window else op.stride
        return dataclasses.replace(op, window=after, stride=stride)
    kind = pool_pads_kind(op.pads, before, op.window, op.stride)
    was_valid = op.pads == NO_PADS and kind == "same_on_conv_output"
    pads = op.pads
    if kind == "same_on_conv_output" and not was_valid:
        pads = same_pads(after, op.window, op.stride)
    return dataclasses.replace(op, pads=pads)


def _fitted_reshape(op: Reshape, original: Graph, tensors: Tensors) -> Reshape | None:
    """Flattening, and moving the channels of a 1x1 map; nothing else keeps its meaning."""
    before, after = original.tensors[op.input], tensors[op.input]
    shape = original.tensors[op.output].shape
    count, now = before.values_per_sample, after.values_per_sample
    if count == now:
        return op
    axes = [axis for axis, length in enumerate(shape) if length == count and axis > 0]
    if len(axes) != 1 or (len(shape) > 2 and now != _channels(after)):
        return None
    lengths = tuple(now if axis == axes[0] else length for axis, length in enumerate(shape))
    tensors[op.output] = dataclasses.replace(tensors[op.output], shape=lengths)
    return op


def same_of(size: Size2D, kernel: Size2D, stride: Size2D, dilation: Size2D = ONE) -> Pads:
    """Borders of Same padding, with a dilated kernel."""
    extent = Size2D(
        (kernel.height - 1) * dilation.height + 1, (kernel.width - 1) * dilation.width + 1
    )
    return same_pads(size, extent, stride)


def cropped(tensor: Tensor, axis: int, length: int, *, centred: bool = False) -> Tensor:
    """A constant with `length` entries on an axis: some left out, or real zeros added."""
    assert tensor.data is not None
    data = _resized(tensor.data, axis, length, _zero(tensor), centred=centred)
    quantization = tensor.quantization
    if quantization is not None and quantization.axis == axis and quantization.scale.size > 1:
        quantization = Quantization(
            _repeated(quantization.scale, length), _repeated(quantization.zero_point, length), axis
        )
    return dataclasses.replace(tensor, data=data, shape=data.shape, quantization=quantization)


def with_outputs(weights: str, bias: str | None, axis: int, count: int, tensors: Tensors) -> None:
    """Give weights and bias another number of output channels, in `tensors`."""
    tensors[weights] = cropped(tensors[weights], axis, count)
    if bias is not None and tensors[bias].data is not None:
        whole = tensors[bias]
        assert whole.data is not None
        last = whole.data.ndim - 1
        tensors[bias] = cropped(whole, last, count)


def _zero(tensor: Tensor) -> int:
    scales = tensor.quantization
    if scales is None or not scales.is_per_tensor or tensor.dtype is DType.INT32:
        return 0
    return scales.single_zero_point


def _resized(data: AnyArray, axis: int, length: int, fill: int, *, centred: bool) -> AnyArray:
    old = data.shape[axis]
    if length <= old:
        start = (old - length) // 2 if centred else 0
        taken: AnyArray = np.take(data, range(start, start + length), axis)
        return np.ascontiguousarray(taken)
    before = (length - old) // 2 if centred else 0
    amounts = [(0, 0)] * data.ndim
    amounts[axis] = (before, length - old - before)
    return np.pad(data, amounts, constant_values=fill)


def _repeated(values: NDArray[NumberT], length: int) -> NDArray[NumberT]:
    return values[np.minimum(np.arange(length), values.size - 1)]
