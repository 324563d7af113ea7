# SPDX-License-Identifier: Apache-2.0
"""Host operations in the native library: the same integers as `ops` computes, in microseconds.

`host_kernel` binds operations of a graph, once; what it returns is called for every batch. Those
that only move values, one behind the other, are one gather.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.engine import array_address, native_library
from akida_backend.errors import EngineError
from akida_backend.graph import (
    AnyArray,
    Arithmetic,
    Dequantize,
    DType,
    Graph,
    Operation,
    Pad,
    Quantize,
    Reshape,
    Softmax,
    Tensor,
    Transpose,
    nominal_shape,
)

HostKernel = Callable[[AnyArray], AnyArray]

LONGEST_SOFTMAX: Final = 4095  # codes in a row
LARGEST_MOVE: Final = 1 << 22  # values of a sample
_LONG_ROW: Final = 4  # runs, from which rows are faster than single runs
_TYPES: Final = {DType.INT8: 1, DType.UINT8: 2, DType.INT16: 3, DType.INT32: 5}
_BYTES: Final = (DType.INT8, DType.UINT8)
_SHORT: Final = (*_BYTES, DType.INT16)
_TFLITE: Final = 0
_ONNX: Final = 1


class _Codes(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int32),
        ("zero_point", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


class _Moves(ctypes.Structure):
    _fields_ = (
        ("from_bytes", ctypes.c_size_t),
        ("rows", ctypes.c_size_t),
        ("offsets", ctypes.c_void_p),
        ("runs", ctypes.c_void_p),
        ("stride", ctypes.c_size_t),
        ("run_bytes", ctypes.c_size_t),
        ("fill", ctypes.c_void_p),
    )

    def __init__(self, values: int, rows: _Rows, fill: AnyArray) -> None:
        """Bytes for `values` values of a sample; `fill` is one run of borders."""
        size = fill.itemsize
        offsets = rows.heads * np.int32(size)
        self._kept = offsets, rows.runs, fill
        super().__init__(
            values * size,
            offsets.size,
            array_address(offsets),
            None if rows.runs is None else array_address(rows.runs),
            rows.stride * size,
            fill.nbytes,
            array_address(fill),
        )


def host_kernel(operations: Sequence[Operation], graph: Graph) -> tuple[HostKernel, int] | None:
    """Host operations, bound: values of the first one's input to values of the last one's output.

    None where there is no library, which only reshapes do not need, or the first operation has
    another form than the library's; `SPEC_OF` computes all.

    Returns:
        What is called with samples on axis 0, and how many of the operations it computes.
    """
    if len(graph.activations_of(operations[0])) != 1:
        return None
    library = _library()
    match operations[0]:
        case Pad() | Reshape() | Transpose():
            return _movement(operations, graph, library)
        case Quantize() | Dequantize() | Softmax() as op if library is not None:
            kernel = _native(op, graph, library)
            return None if kernel is None else (kernel, 1)
        case _:
            return None


def _native(
    op: Quantize | Dequantize | Softmax, graph: Graph, library: ctypes.CDLL
) -> HostKernel | None:
    x, y = graph.tensors[op.input], graph.tensors[op.output]
    arithmetic = _ONNX if graph.arithmetic is Arithmetic.ONNX else _TFLITE
    match op:
        case Quantize():
            to_codes = _codes(y, _SHORT)
            if to_codes is None:
                return None
            if x.dtype is DType.FLOAT32:
                quantize = library.akida_backend_quantize
                return _elementwise(quantize, x, y, to_codes, arithmetic)
            from_codes = _codes(x, _SHORT)
            if from_codes is None:
                return None
            requantize = library.akida_backend_requantize
            return _elementwise(requantize, x, y, from_codes, to_codes, arithmetic)
        case Dequantize():
            codes = _codes(x, tuple(_TYPES))
            if codes is None or y.dtype is not DType.FLOAT32:
                return None
            return _elementwise(library.akida_backend_dequantize, x, y, codes)
        case Softmax():
            return None if arithmetic == _ONNX else _softmax(op, x, y, library)


def _codes(tensor: Tensor, types: tuple[DType, ...]) -> _Codes | None:
    """The quantization in the library's form; None where it has none."""
    quantization = tensor.quantization
    if tensor.dtype not in types or quantization is None or not quantization.is_per_tensor:
        return None
    if quantization.zero_point.size != 1:
        return None
    scale, zero_point = quantization.single_scale, quantization.single_zero_point
    low, high = tensor.dtype.code_range
    if not (0 < scale < math.inf and low <= zero_point <= high):
        return None
    return _Codes(_TYPES[tensor.dtype], zero_point, scale)


def _elementwise(
    function: Callable[..., int], x: Tensor, y: Tensor, *settings: _Codes | int
) -> HostKernel:
    """The settings come behind from, to and count."""
    given, wanted = x.dtype.numpy, y.dtype.numpy
    bound = tuple(ctypes.byref(s) if isinstance(s, _Codes) else s for s in settings)

    def run(values: AnyArray) -> AnyArray:
        values = _checked(values, given)
        result: AnyArray = np.empty(values.shape, wanted)
        if values.size and function(
            array_address(values), array_address(result), values.size, *bound
        ):
            raise _error()
        return result

    return run


def _softmax(op: Softmax, x: Tensor, y: Tensor, library: ctypes.CDLL) -> HostKernel | None:
    codes = _codes(x, _BYTES)
    last = op.axis in (-1, len(x.shape) - 1)
    if codes is None or y.dtype not in _BYTES or not y.is_quantized or not last or not x.shape:
        return None
    length = x.shape[-1]
    if len(x.shape) < 2 or length is None or not 1 <= length <= LONGEST_SOFTMAX:
        return None
    powers: NDArray[np.int32] = np.empty(256, np.int32)
    if library.akida_backend_softmax_table(ctypes.byref(codes), op.beta, array_address(powers)):
        return None  # a factor outside of the fixed point
    function, given, wanted = library.akida_backend_softmax, x.dtype.numpy, y.dtype.numpy
    types = _TYPES[x.dtype], _TYPES[y.dtype]

    def run(values: AnyArray) -> AnyArray:
        values = _checked(values, given)
        result: AnyArray = np.empty(values.shape, wanted)
        if values.size and function(
            array_address(values),
            array_address(result),
            values.size // length,
            length,
            array_address(powers),
            *types,
        ):
            raise _error()
        return result

    return run


# Movement


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """Where each value of a tensor comes from.

    Attributes:
        index: In the shape of one sample, or of a fixed batch: place among the values at the
            beginning, -1 of a border.
        fill: One value, that of borders; None without one.
    """

    index: NDArray[np.int32]
    fill: AnyArray | None = None

    def behind(self, op: Operation, graph: Graph) -> _Source | None:
        """The same of an operation's output; None where it is no movement within samples."""
        if not isinstance(op, Pad | Reshape | Transpose):
            return None
        x, y = graph.tensors[op.input], graph.tensors[op.output]
        if x.dtype is not y.dtype or y.values_per_sample > LARGEST_MOVE:
            return None
        match op:
            case Reshape():
                if y.values_per_sample != self.index.size:
                    return None
                index, fill = self.index.reshape(nominal_shape(y.shape)), self.fill
            case Transpose(permutation=permutation):
                if graph.batch is None and permutation[:1] != (0,):
                    return None
                index, fill = self.index.transpose(permutation), self.fill
            case Pad(amounts=amounts, value=value):
                if min(map(min, amounts), default=0) < 0:
                    return None
                if value is None:
                    value = 0 if x.quantization is None else x.quantization.single_zero_point
                fill = np.full(1, value, x.dtype.numpy)
                if self.fill is not None and self.fill.tobytes() != fill.tobytes():
                    return None
                index = np.pad(self.index, amounts, constant_values=-1)
        return _Source(index, fill) if index.shape == nominal_shape(y.shape) else None


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """An index as rows of evenly spaced runs of neighbours.

    Attributes:
        heads: Where each row begins, -1 in a border.
        runs: Of each row; None: one each.
        stride: From one run of a row to the next.
        length: Of every run.
    """

    heads: NDArray[np.int32]
    runs: NDArray[np.uint32] | None
    stride: int
    length: int

    @classmethod
    def of(cls, index: NDArray[np.int32]) -> _Rows:
        before, behind = index[:-1], index[1:]
        joined = ((behind == before + 1) & (before >= 0)) | ((behind < 0) & (before < 0))
        starts = np.append(0, np.flatnonzero(~joined) + 1)
        lengths = np.diff(starts, append=index.size)
        length = int(np.gcd.reduce(lengths))
        single = index[::length]
        heads, runs, stride = index[starts], lengths // length, length
        if heads.size == single.size and heads.size > 1 and heads.min() >= 0:
            steps = np.diff(heads)
            uneven = np.flatnonzero(steps != steps[0])
            row = int(uneven[0]) + 1 if uneven.size else heads.size
            if heads.size % row == 0 and np.all(np.diff(heads.reshape(-1, row)) == steps[0]):
                heads, stride = heads[::row], int(steps[0])
                runs = np.full(heads.size, row)
        if heads.size * _LONG_ROW > single.size or stride < 0:
            return cls(single, None, 0, length)
        return cls(heads, runs.astype(np.uint32), stride, length)


def _movement(
    operations: Sequence[Operation], graph: Graph, library: ctypes.CDLL | None
) -> tuple[HostKernel, int] | None:
    """As many operations as move values to where the next one alone reads them."""
    (name,) = graph.activations_of(operations[0])
    x = graph.tensors[name]
    if x.values_per_sample > LARGEST_MOVE:
        return None
    source = _Source(np.arange(x.values_per_sample, dtype=np.int32).reshape(nominal_shape(x.shape)))
    count = 0
    for op in operations:
        if count and graph.sole_consumer(name) is not op:
            break
        moved = source.behind(op, graph)
        if moved is None:
            break
        source, count = moved, count + 1
        (name,) = op.outputs
    if not count:
        return None
    kernel = _gather(source, x, graph.tensors[name], library)
    return None if kernel is None else (kernel, count)


def _gather(
    source: _Source, x: Tensor, y: Tensor, library: ctypes.CDLL | None
) -> HostKernel | None:
    index, sides = source.index.ravel(), y.shape
    if index.size == x.values_per_sample and np.all(index[1:] > index[:-1]):
        return lambda values: values.reshape([len(values) if n is None else n for n in sides])
    if library is None or not x.values_per_sample:
        return None
    function, given = library.akida_backend_gather, x.dtype.numpy
    rows = _Rows.of(index)
    fill = source.fill if source.fill is not None else np.zeros(1, given)
    block, count = x.values_per_sample, index.size
    moves = ctypes.byref(_Moves(block, rows, fill.repeat(rows.length)))
    batched, whole = None in sides, nominal_shape(y.shape)

    def run(values: AnyArray) -> AnyArray:
        values = _checked(values, given)
        samples, rest = divmod(values.size, block)
        result: AnyArray = np.empty((samples, *whole[1:]) if batched else whole, given)
        if rest or result.size != samples * count:
            raise ValueError(f"values of shape {values.shape}, {x.shape} expected")
        if samples and function(array_address(values), array_address(result), samples, moves):
            raise _error()
        return result

    return run


def _checked(values: AnyArray, dtype: np.dtype[np.generic]) -> AnyArray:
    """In the order of C; raises where the dtype is another, which nobody has said."""
    if values.dtype != dtype:
        raise TypeError(f"values of {values.dtype}, {dtype} expected")
    return np.ascontiguousarray(values)


@cache
def _library() -> ctypes.CDLL | None:
    """The library with this module's functions declared; None without one, or of an older build."""
    library = native_library()
    if library is None:
        return None
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32
    codes = ctypes.POINTER(_Codes)
    signatures = {
        "quantize": [pointer, pointer, size, codes, ctypes.c_int],
        "dequantize": [pointer, pointer, size, codes],
        "requantize": [pointer, pointer, size, codes, codes, ctypes.c_int],
        "softmax_table": [codes, ctypes.c_double, pointer],
        "softmax": [pointer, pointer, size, size, pointer, number, number],
        "gather": [pointer, pointer, size, ctypes.POINTER(_Moves)],
    }
    for name, arguments in signatures.items():
        function = getattr(library, f"akida_backend_{name}", None)
        if function is None:
            return None
        function.restype = ctypes.c_int
        function.argtypes = arguments
    return library


def _error() -> EngineError:
    library = native_library()
    assert library is not None
    text: bytes = library.akida_backend_error()
    return EngineError(text.decode(errors="replace"))
