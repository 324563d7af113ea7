# SPDX-License-Identifier: Apache-2.0
"""Element types and weight scales that an operation of the Graph is defined for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    DType,
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
    Prelu,
    Quantize,
    Relu,
    Reshape,
    ResizeBilinear,
    ResizeNearest,
    ShapeOf,
    Softmax,
    Split,
    StridedSlice,
    Sub,
    Tanh,
    Tensor,
    Transpose,
    TransposeConv2D,
    Unpack,
)

_CODES: Final = frozenset({DType.INT8, DType.UINT8, DType.INT16, DType.UINT16})
_BYTES: Final = frozenset({DType.INT8, DType.UINT8})
_INDICES: Final = frozenset({DType.INT32, DType.INT64})
_FLOATS: Final = frozenset({DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64})
_NUMBERS: Final = frozenset(DType) - {DType.OTHER}

_WEIGHTS: Final[Mapping[DType, frozenset[DType]]] = {
    DType.INT8: frozenset({DType.INT8, DType.INT4}),
    DType.UINT8: frozenset({DType.UINT8, DType.INT8, DType.INT4, DType.UINT4}),
    DType.INT16: frozenset({DType.INT8, DType.INT4}),
    # Sums of a depthwise convolution, which only a pointwise one reads.
    DType.INT32: frozenset({DType.INT8, DType.UINT8, DType.INT4, DType.UINT4}),
    # Integers here are dynamic-range quantization: weights are expanded while the model runs.
    DType.FLOAT32: frozenset({DType.FLOAT32, DType.INT8, DType.UINT8, DType.INT4}),
}
_BIAS: Final[Mapping[DType, frozenset[DType]]] = {
    DType.INT8: frozenset({DType.INT32}),
    DType.UINT8: frozenset({DType.INT32}),
    DType.INT16: frozenset({DType.INT32, DType.INT64}),
    DType.INT32: frozenset({DType.INT32}),
    DType.FLOAT32: frozenset({DType.FLOAT32}),
}


def type_problem(op: Operation, tensors: Mapping[str, Tensor]) -> str | None:
    """Why the operation has no meaning for its tensors' types; None where it has."""
    used = [tensors[name] for name in (*op.inputs, *op.outputs)]
    if any(tensor.dtype is DType.OTHER for tensor in used):
        return f"{op.location.type} of strings, complex or unknown numbers is not modelled"
    if _fits(op, tensors):
        return _weight_axis_problem(op, tensors)
    kinds = ", ".join(dict.fromkeys(tensor.dtype.value for tensor in used))
    return f"{op.location.type} of {kinds} is not modelled"


def mixes_types(op: Operation, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensors' types contradict each other, in any runtime.

    TFLite's kernels check this in part only: some abort the process over it.
    """
    kinds = {tensors[name].dtype for name in (*op.inputs, *op.outputs)}
    match op:
        case Gather() | ShapeOf() | ArgMax() | Cast() | Quantize() | Dequantize() | Opaque():
            return False
        case Conv2D() | DepthwiseConv2D() | TransposeConv2D() | FullyConnected():
            ends = (tensors[op.input].dtype, tensors[op.output].dtype)
            return len({dtype.is_float for dtype in ends}) > 1
        case Mul() | Softmax():  # 16-bit results of 8 bits, and the other way round, are sound
            return len({dtype.is_float for dtype in kinds}) > 1
        case _:
            return len(kinds) > 1


def _fits(op: Operation, tensors: Mapping[str, Tensor]) -> bool:
    def dtype(name: str) -> DType:
        return tensors[name].dtype

    def all_of(names: Iterable[str], allowed: frozenset[DType]) -> bool:
        kinds = {dtype(name) for name in names}
        return len(kinds) == 1 and kinds <= allowed

    every = (*op.inputs, *op.outputs)
    match op:
        case Conv2D() | DepthwiseConv2D() | TransposeConv2D() | FullyConnected():
            kind, result = dtype(op.input), dtype(op.output)
            halves = (  # of a separable convolution
                tensors[op.input].is_quantized
                and tensors[op.output].is_quantized
                and (
                    (isinstance(op, DepthwiseConv2D) and kind in _BYTES and result is DType.INT32)
                    or (isinstance(op, Conv2D) and kind is DType.INT32 and result in _BYTES)
                )
            )
            return (
                (halves or (result is kind and kind is not DType.INT32))
                and dtype(op.weights) in _WEIGHTS.get(kind, frozenset())
                and (op.bias is None or dtype(op.bias) in _BIAS.get(kind, frozenset()))
            )
        case Add() | Sub() | Mul() | Maximum() | Minimum() | Mean():
            return all_of(every, _CODES | _FLOATS | _INDICES)
        case (
            MaxPool2D()
            | AveragePool2D()
            | Softmax()
            | Logistic()
            | Tanh()
            | HardSwish()
            | LeakyRelu()
            | Prelu()
            | Relu()
            | ResizeNearest()
            | ResizeBilinear()
        ):
            return all_of(every, _CODES | _FLOATS)
        case (
            Concatenation()
            | Pad()
            | Reshape()
            | Transpose()
            | StridedSlice()
            | Split()
            | Pack()
            | Unpack()
        ):
            return all_of(every, _NUMBERS)
        case Gather():
            return all_of((op.input, op.output), _NUMBERS) and dtype(op.indices) in _INDICES
        case ShapeOf() | ArgMax():
            return dtype(op.output) in _INDICES
        case Cast() | Opaque():
            return True
        case Quantize():
            sources = _CODES | {DType.FLOAT32, DType.INT32}
            return dtype(op.input) in sources and dtype(op.output) in _CODES
        case Dequantize():
            sources = _CODES | {DType.INT32, DType.INT4, DType.UINT4, DType.FLOAT16}
            return dtype(op.input) in sources and dtype(op.output) is DType.FLOAT32


def _weight_axis_problem(op: Operation, tensors: Mapping[str, Tensor]) -> str | None:
    """Scales per channel are understood for weights only, along their output channels."""
    allowed: dict[str, int] = {}
    match op:
        case Conv2D() | FullyConnected():
            allowed = {op.weights: 0}
        case DepthwiseConv2D():
            allowed = {op.weights: 3}
        case TransposeConv2D():
            allowed = {op.weights: 3 if op.depthwise else 0}
        case _:
            pass
    bias = getattr(op, "bias", None)
    for name in op.inputs:
        quantization = tensors[name].quantization
        if quantization is None or quantization.axis is None or name == bias:
            continue
        if isinstance(op, Dequantize | Reshape | Transpose):  # of constants: import evaluates them
            continue
        if quantization.axis != allowed.get(name):
            return f"{op.location.type} with scales along axis {quantization.axis} is not modelled"
    return None
