# SPDX-License-Identifier: Apache-2.0
"""Host operations in the native library: the same integers as `ops` computes, in microseconds.

`host_kernel` binds one operation of a graph, once; what it returns is called for every batch.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
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
)

HostKernel = Callable[[AnyArray], AnyArray]

LONGEST_SOFTMAX: Final = 4095  # codes in a row
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


def host_kernel(op: Operation, graph: Graph) -> HostKernel | None:
    """A host operation, bound: values of its input, samples on axis 0, to values of its output.

    Reshapes and borders need no library. None where there is no library or the operation has
    another form than the library's; `SPEC_OF` computes all.
    """
    match op:
        case Reshape():
            return _reshape(graph.tensors[op.output])
        case Pad():
            return _pad(op, graph.tensors[op.input])
        case Quantize() | Dequantize() | Softmax() | Transpose():
            library = _library()
            if library is None or graph.tensors[op.input].is_constant:
                return None
            return _native(op, graph, library)
        case _:
            return None


def _native(
    op: Quantize | Dequantize | Softmax | Transpose, graph: Graph, library: ctypes.CDLL
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
        case Transpose():
            return _transpose(op, x, library)


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


def _reshape(y: Tensor) -> HostKernel:
    shape = y.shape
    return lambda values: values.reshape([len(values) if n is None else n for n in shape])


def _pad(op: Pad, x: Tensor) -> HostKernel | None:
    """The border of samples; `numpy.pad` takes longer than a small network."""
    first, *rest = op.amounts
    if first != (0, 0) or any(amount < 0 for amounts in rest for amount in amounts):
        return None
    value = op.value
    if value is None:
        value = 0 if x.quantization is None else x.quantization.single_zero_point
    border, inside = value, (slice(None), *(slice(a, -b if b else None) for a, b in rest))
    wider = [a + b for a, b in rest]

    def run(values: AnyArray) -> AnyArray:
        samples, *sides = values.shape
        shape = (samples, *(side + more for side, more in zip(sides, wider, strict=True)))
        result: AnyArray = np.empty(shape, values.dtype)
        result.fill(border)
        result[inside] = values
        return result

    return run


def _transpose(op: Transpose, x: Tensor, library: ctypes.CDLL) -> HostKernel | None:
    """Between axes that stay, two groups of neighbouring axes that change places."""
    permutation = op.permutation
    moved = [axis for axis, source in enumerate(permutation) if axis != source]
    if not moved:
        return None
    first, end = moved[0], moved[-1] + 1
    cut = permutation[first]
    if permutation[first:end] != (*range(cut, end), *range(first, cut)):
        return None
    given, function = x.dtype.numpy, library.akida_backend_transpose

    def run(values: AnyArray) -> AnyArray:
        values = _checked(values, given)
        shape = values.shape
        result: AnyArray = np.empty([shape[axis] for axis in permutation], given)
        matrices, rows = math.prod(shape[:first]), math.prod(shape[first:cut])
        columns, value_bytes = math.prod(shape[cut:end]), given.itemsize * math.prod(shape[end:])
        if values.size and function(
            array_address(values), array_address(result), matrices, rows, columns, value_bytes
        ):
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
        "transpose": [pointer, pointer, size, size, size, size],
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
