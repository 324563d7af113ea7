# SPDX-License-Identifier: Apache-2.0
"""Nodes whose results are known while importing: shape arithmetic and sums of constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Final

import numpy as np

from akida_backend.graph import AnyArray, DType
from akida_backend.importers.onnx_file import FileNode
from akida_backend.importers.onnx_tensors import DTYPES

MAX_FOLDED_VALUES: Final = 2**22

Arrays = Sequence[AnyArray | None]


class NotFoldedError(Exception):
    """The node is left to others."""


def fold(node: FileNode, arrays: Arrays) -> tuple[AnyArray, ...] | None:
    """Results of a node from its constant inputs, or None for what is left to others.

    Args:
        node: Of ONNX's own operators.
        arrays: Its inputs, None where absent.
    """
    function = _FUNCTIONS.get(node.kind)
    if function is None or not node.is_standard:
        return None
    try:
        with np.errstate(all="ignore"):
            results = function(node, arrays)
    except (NotFoldedError, ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError):
        return None
    return results if isinstance(results, tuple) else (results,)


def folded_type(values: AnyArray) -> DType | None:
    """Element type of a folded result."""
    return _BY_NUMPY.get(values.dtype)


_BY_NUMPY: Final = {
    dtype.numpy: dtype
    for dtype in DType
    if dtype not in (DType.INT4, DType.UINT4, DType.BFLOAT16, DType.OTHER)
}


def _given(arrays: Arrays, position: int) -> AnyArray:
    values = arrays[position] if position < len(arrays) else None
    if values is None:
        raise NotFoldedError
    return values


def _integers(arrays: Arrays, position: int) -> list[int]:
    return [int(value) for value in _given(arrays, position).reshape(-1)]


def _within(*shape: int) -> None:
    if min(shape, default=1) < 0 or math.prod(shape) > MAX_FOLDED_VALUES:
        raise NotFoldedError


def _axes(node: FileNode, arrays: Arrays, position: int, since: int) -> list[int] | None:
    if node.opset >= since:
        return (
            _integers(arrays, position)
            if position < len(arrays) and (arrays[position] is not None)
            else None
        )
    given = node.integers("axes")
    return None if given is None else list(given)


def _arithmetic(
    integers: Callable[..., AnyArray], reals: Callable[..., AnyArray] | None = None
) -> Callable[[FileNode, Arrays], AnyArray]:
    def compute(_: FileNode, arrays: Arrays) -> AnyArray:
        first, *others = (_given(arrays, position) for position in range(len(arrays)))
        _within(*np.broadcast_shapes(first.shape, *(v.shape for v in others)))
        function = integers if first.dtype.kind in "iub" or reals is None else reals
        result = reduce(function, others, first)
        return result if result.dtype == np.bool_ else result.astype(first.dtype)

    return compute


def _unary(function: Callable[[AnyArray], AnyArray]) -> Callable[[FileNode, Arrays], AnyArray]:
    def compute(_: FileNode, arrays: Arrays) -> AnyArray:
        values = _given(arrays, 0)
        return np.asarray(function(values)).astype(values.dtype)

    return compute


def _truncated(a: AnyArray, b: AnyArray) -> AnyArray:
    """Integer division towards zero."""
    if (b == 0).any():
        raise NotFoldedError
    wide = np.abs(a.astype(np.int64)) // np.abs(b.astype(np.int64))
    return np.asarray(np.sign(a).astype(np.int64) * np.sign(b).astype(np.int64) * wide)


def _constant(node: FileNode, _: Arrays) -> AnyArray:
    for name in ("value_int", "value_ints", "value_float", "value_floats"):
        if not node.has(name):
            continue
        match name:
            case "value_int":
                return np.array(node.integer(name, 0), np.int64)
            case "value_ints":
                return np.array(node.integers(name, most=MAX_FOLDED_VALUES), np.int64)
            case "value_float":
                return np.array(node.real(name, 0.0), np.float32)
            case _:
                return np.array(node.reals(name), np.float32)
    raise NotFoldedError


def _reshape(node: FileNode, arrays: Arrays) -> AnyArray:
    values, shape = _given(arrays, 0), _integers(arrays, 1)
    if not node.flag("allowzero"):
        shape = [values.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    return values.reshape(shape)


def _squeeze(node: FileNode, arrays: Arrays) -> AnyArray:
    axes = _axes(node, arrays, 1, 13)
    return np.squeeze(_given(arrays, 0), None if axes is None else tuple(axes))


def _unsqueeze(node: FileNode, arrays: Arrays) -> AnyArray:
    axes = _axes(node, arrays, 1, 13)
    if axes is None:
        raise NotFoldedError
    return np.expand_dims(_given(arrays, 0), tuple(axes))


def _flatten(node: FileNode, arrays: Arrays) -> AnyArray:
    values, axis = _given(arrays, 0), node.integer("axis", 1)
    return values.reshape(math.prod(values.shape[:axis]), -1)


def _slice(_: FileNode, arrays: Arrays) -> AnyArray:
    values = _given(arrays, 0)
    begins, ends = _integers(arrays, 1), _integers(arrays, 2)
    axes = _integers(arrays, 3) if len(arrays) > 3 and arrays[3] is not None else None
    steps = _integers(arrays, 4) if len(arrays) > 4 and arrays[4] is not None else [1] * len(begins)
    window = [slice(None)] * values.ndim
    for axis, begin, end, step in zip(
        range(len(begins)) if axes is None else axes, begins, ends, steps, strict=True
    ):
        first, last, stride = slice(begin, end, step).indices(values.shape[axis])
        window[axis] = slice(first, None if last < 0 else last, stride)
    return values[tuple(window)]


def _concat(node: FileNode, arrays: Arrays) -> AnyArray:
    values = [_given(arrays, position) for position in range(len(arrays))]
    _within(sum(v.size for v in values))
    return np.concatenate(values, node.integer("axis", 0))


def _split(node: FileNode, arrays: Arrays) -> tuple[AnyArray, ...]:
    values, axis = _given(arrays, 0), node.integer("axis", 0)
    parts = len(node.outputs)
    if node.opset >= 13 and len(arrays) > 1 and arrays[1] is not None:
        sizes = _integers(arrays, 1)
    else:
        step = -(-values.shape[axis] // parts)
        sizes = list(node.integers("split", most=parts) or [step] * parts)
    if len(sizes) != parts:
        raise NotFoldedError
    return tuple(np.split(values, np.cumsum(sizes)[:-1], axis))


def _gather(node: FileNode, arrays: Arrays) -> AnyArray:
    values, indices = _given(arrays, 0), _given(arrays, 1).astype(np.int64)
    axis = node.integer("axis", 0)
    _within(values.size // max(1, values.shape[axis]), indices.size)
    return np.take(values, indices, axis)


def _transpose(node: FileNode, arrays: Arrays) -> AnyArray:
    return _given(arrays, 0).transpose(node.integers("perm"))


def _cast(node: FileNode, arrays: Arrays) -> AnyArray:
    dtype = DTYPES.get(node.integer("to", 0))
    values = _given(arrays, 0)
    if dtype is None or dtype not in _BY_NUMPY.values() or not np.isfinite(values).all():
        raise NotFoldedError
    return values.astype(dtype.numpy)


def _range(_: FileNode, arrays: Arrays) -> AnyArray:
    values = [_given(arrays, position).reshape(()) for position in range(3)]
    start, limit, delta = (float(value.astype(np.float64)) for value in values)
    if delta == 0:
        raise NotFoldedError
    count = max(0, math.ceil((limit - start) / delta))
    _within(count)
    return (start + np.arange(count) * delta).astype(values[0].dtype)


def _expand(_: FileNode, arrays: Arrays) -> AnyArray:
    values, shape = _given(arrays, 0), _integers(arrays, 1)
    wanted = np.broadcast_shapes(values.shape, tuple(shape))
    _within(*wanted)
    return np.broadcast_to(values, wanted).copy()


def _tile(_: FileNode, arrays: Arrays) -> AnyArray:
    values, repeats = _given(arrays, 0), _integers(arrays, 1)
    _within(values.size, *repeats)
    return np.tile(values, repeats)


def _where(_: FileNode, arrays: Arrays) -> AnyArray:
    condition, a, b = (_given(arrays, position) for position in range(3))
    _within(*np.broadcast_shapes(condition.shape, a.shape, b.shape))
    return np.where(condition, a, b).astype(a.dtype)


def _reduce(function: Callable[..., AnyArray]) -> Callable[[FileNode, Arrays], AnyArray]:
    def compute(node: FileNode, arrays: Arrays) -> AnyArray:
        values = _given(arrays, 0)
        axes = _axes(node, arrays, 1, 18 if node.kind != "ReduceSum" else 13)
        if not axes and node.flag("noop_with_empty_axes"):
            return values
        reduced = function(
            values, axis=tuple(axes) if axes else None, keepdims=node.flag("keepdims", 1)
        )
        return np.asarray(reduced).astype(values.dtype)

    return compute


def _pow(_: FileNode, arrays: Arrays) -> AnyArray:
    base, exponent = _given(arrays, 0), _given(arrays, 1)
    _within(*np.broadcast_shapes(base.shape, exponent.shape))
    if base.dtype.kind in "iu" and (
        exponent.dtype.kind not in "iu" or (exponent.astype(np.int64) < 0).any()
    ):
        raise NotFoldedError
    return np.power(base, exponent).astype(base.dtype)


def _clip(_: FileNode, arrays: Arrays) -> AnyArray:
    values = _given(arrays, 0)
    low, high = (arrays[i] if i < len(arrays) else None for i in (1, 2))
    if low is not None:
        values = np.maximum(values, low.reshape(()))
    if high is not None:
        values = np.minimum(values, high.reshape(()))
    return values


# Operators that give values of their input, whatever the type.
MOVING: Final = frozenset(
    {
        "Clip",
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)

_FUNCTIONS: Final[Mapping[str, Callable[[FileNode, Arrays], AnyArray | tuple[AnyArray, ...]]]] = {
    "Constant": _constant,
    "Identity": _unary(lambda x: x),
    "Add": _arithmetic(np.add),
    "Sub": _arithmetic(np.subtract),
    "Mul": _arithmetic(np.multiply),
    "Div": _arithmetic(_truncated, np.divide),
    "Mod": _arithmetic(np.remainder),
    "Min": _arithmetic(np.minimum),
    "Max": _arithmetic(np.maximum),
    "Pow": _pow,
    "Neg": _unary(np.negative),
    "Abs": _unary(np.abs),
    "Floor": _unary(np.floor),
    "Ceil": _unary(np.ceil),
    "Sqrt": _unary(np.sqrt),
    "Not": _unary(np.logical_not),
    "And": _arithmetic(np.logical_and),
    "Or": _arithmetic(np.logical_or),
    "Equal": _arithmetic(np.equal),
    "Less": _arithmetic(np.less),
    "Greater": _arithmetic(np.greater),
    "Where": _where,
    "Cast": _cast,
    "Clip": _clip,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": _flatten,
    "Slice": _slice,
    "Concat": _concat,
    "Split": _split,
    "Gather": _gather,
    "Transpose": _transpose,
    "Range": _range,
    "Expand": _expand,
    "Tile": _tile,
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
}
