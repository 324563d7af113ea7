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
_INDICES: Final = frozenset({DType.INT32, DType.INT64})
_FLOATS: Final = frozenset({DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64})
_NUMBERS: Final = frozenset(DType) - {DType.OTHER}

_WEIGHTS: Final[Mapping[DType, frozenset[DType]]] = {
    DType.INT8: frozenset({DType.INT8, DType.INT4}),
    DType.UINT8: frozenset({DType.UINT8, DType.INT8, DType.INT4, DType.UINT4}),
    DType.INT16: frozenset({DType.INT8, DType.INT4}),
    # Integers here are dynamic-range quantization: weights are expanded while the model runs.
    DType.FLOAT32: frozenset({DType.FLOAT32, DType.INT8, DType.UINT8, DType.INT4}),
}
_BIAS: Final[Mapping[DType, frozenset[DType]]] = {
    DType.INT8: frozenset({DType.INT32}),
    DType.UINT8: frozenset({DType.INT32}),
    DType.INT16: frozenset({DType.INT32, DType.INT64}),
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


def _fits(op: Operation, tensors: Mapping[str, Tensor]) -> bool:
    def dtype(name: str) -> DType:
        return tensors[name].dtype

    def all_of(names: Iterable[str], allowed: frozenset[DType]) -> bool:
        kinds = {dtype(name) for name in names}
        return len(kinds) == 1 and kinds <= allowed

    every = (*op.inputs, *op.outputs)
    match op:
        case Conv2D() | DepthwiseConv2D() | TransposeConv2D() | FullyConnected():
            kind = dtype(op.input)
            return (
                dtype(op.output) is kind
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
            sources = _CODES | {DType.INT4, DType.UINT4, DType.FLOAT16}
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
