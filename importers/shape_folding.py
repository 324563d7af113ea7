# SPDX-License-Identifier: Apache-2.0
"""Operations on constants and shapes, evaluated while importing, whatever the file format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.graph import (
    Activation,
    Add,
    AnyArray,
    Cast,
    Concatenation,
    Dequantize,
    DType,
    Gather,
    Maximum,
    Minimum,
    Mul,
    Operation,
    Pack,
    Reshape,
    ShapeOf,
    Split,
    StridedSlice,
    Sub,
    Tensor,
    Transpose,
    Unpack,
)
from akida_backend.importers.shape_inference import FixedShape

_ARITHMETIC: Final[Mapping[type[Operation], Callable[[AnyArray, AnyArray], AnyArray]]] = {
    Add: np.add,
    Sub: np.subtract,
    Mul: np.multiply,
    Maximum: np.maximum,
    Minimum: np.minimum,
}


def evaluate(
    op: Operation,
    tensors: Mapping[str, Tensor],
    value_of: Callable[[str], AnyArray],
    shape_of: Callable[[str], FixedShape],
) -> tuple[AnyArray, ...] | None:
    """Results of `op` from known inputs, or None for what is left to the executor.

    Covers what moves values, converts them, or computes on integers and reals without a scale.

    Args:
        op: An operation whose inputs are known; of ShapeOf only the input's shape.
        tensors: Types and scales.
        value_of: Value of an input.
        shape_of: Shape of a tensor.
    """
    with np.errstate(all="ignore"):  # kernels wrap and saturate without a word
        results = _evaluate(op, tensors, value_of, shape_of)
    if results is None:
        return None
    return tuple(
        np.asarray(result, tensors[name].dtype.numpy).reshape(shape_of(name))
        for result, name in zip(results, op.outputs, strict=True)
    )


def _evaluate(
    op: Operation,
    tensors: Mapping[str, Tensor],
    value_of: Callable[[str], AnyArray],
    shape_of: Callable[[str], FixedShape],
) -> tuple[AnyArray, ...] | None:
    match op:
        case ShapeOf():
            return (np.array(shape_of(op.input), np.int64),)
        case Reshape():
            return (value_of(op.input),)
        case Transpose():
            return (value_of(op.input).transpose(op.permutation),)
        case StridedSlice():
            window = tuple(slice(*t) for t in zip(op.begin, op.end, op.step, strict=True))
            return (value_of(op.input)[window],)
        case Split():
            ends = np.cumsum(op.sizes)[:-1]
            return tuple(np.split(value_of(op.input), ends, axis=op.axis))
        case Unpack():
            return tuple(np.moveaxis(value_of(op.input), op.axis, 0))
        case Gather():
            return (np.take(value_of(op.input), value_of(op.indices).astype(np.int64), op.axis),)
        case Pack() if _on_one_scale(op, tensors):
            return (np.stack([value_of(name) for name in op.operands], op.axis),)
        case Concatenation() if op.activation is Activation.NONE and _on_one_scale(op, tensors):
            return (np.concatenate([value_of(name) for name in op.operands], op.axis),)
        case Cast() if _plain(op, tensors):
            return (value_of(op.input).astype(tensors[op.output].dtype.numpy),)
        case Dequantize():
            return _dequantize(tensors[op.input], value_of(op.input))
        case Add() | Sub() | Mul() | Maximum() | Minimum() if (
            op.activation is Activation.NONE and _plain(op, tensors)
        ):
            return (_ARITHMETIC[type(op)](value_of(op.a), value_of(op.b)),)
        case _:
            return None


def _plain(op: Operation, tensors: Mapping[str, Tensor]) -> bool:
    """Whether no tensor of the operation has a scale, so that stored values are the values."""
    return all(tensors[name].quantization is None for name in (*op.inputs, *op.outputs))


def _on_one_scale(op: Operation, tensors: Mapping[str, Tensor]) -> bool:
    scales = {
        None if q is None else (q.scale.tobytes(), q.zero_point.tobytes())
        for q in (tensors[name].quantization for name in (*op.inputs, *op.outputs))
    }
    return len(scales) == 1


def _dequantize(tensor: Tensor, values: AnyArray) -> tuple[AnyArray, ...] | None:
    if tensor.dtype is DType.FLOAT16:
        return (values.astype(np.float32),)
    quantization = tensor.quantization
    if quantization is None:
        return None
    shape = [1] * values.ndim
    if quantization.axis is not None:
        shape[quantization.axis] = -1
    steps: NDArray[np.float32] = (
        values.astype(np.int32) - quantization.zero_point.reshape(shape).astype(np.int32)
    ).astype(np.float32)
    return (steps * quantization.scale.reshape(shape),)
