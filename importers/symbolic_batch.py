# SPDX-License-Identifier: Apache-2.0
"""Whether axis 0 of every activation is the batch and nothing else, whatever the file format.

A network is computed sample by sample exactly if no operation mixes axis 0 with other axes.
Given that the inputs carry the batch on axis 0, this follows operation by operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

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
from akida_backend.importers.shape_inference import FixedShape


def batch_is_separate(
    operations: Iterable[Operation],
    tensors: Mapping[str, Tensor],
    shape_of: Callable[[str], FixedShape],
    batch: int,
) -> bool:
    """Whether every operation keeps samples apart, given that the inputs have `batch` of them."""
    return all(_keeps_samples_apart(op, tensors, shape_of, batch) for op in operations)


def _keeps_samples_apart(
    op: Operation,
    tensors: Mapping[str, Tensor],
    shape_of: Callable[[str], FixedShape],
    batch: int,
) -> bool:
    activations = [name for name in op.inputs if not tensors[name].is_constant]
    carries_batch = all(shape_of(name)[:1] == (batch,) for name in op.outputs)
    if not activations or not carries_batch:
        return False
    match op:
        case (
            Conv2D()
            | DepthwiseConv2D()
            | TransposeConv2D()
            | MaxPool2D()
            | AveragePool2D()
            | ResizeNearest()
            | ResizeBilinear()
            | Cast()
            | Logistic()
            | Tanh()
            | HardSwish()
            | LeakyRelu()
            | Relu()
            | Quantize()
            | Dequantize()
            | Reshape()
            | Opaque()
        ):
            return True
        case FullyConnected():
            shape, (_, depth) = shape_of(op.input), shape_of(op.weights)
            return math.prod(shape[1:]) % depth == 0 and len(shape) > 1
        case Add() | Sub() | Mul() | Maximum() | Minimum() | Prelu():
            rank = len(shape_of(op.output))
            return all(
                len(shape_of(name)) == rank
                if not tensors[name].is_constant
                else len(shape_of(name)) < rank or shape_of(name)[0] == 1
                for name in op.inputs
            )
        case Concatenation():
            return op.axis != 0 and len(activations) == len(op.operands)
        case Pack():
            return op.axis != 0 and len(activations) == len(op.operands)
        case Mean():
            return 0 not in op.axes
        case Pad():
            return op.amounts[0] == (0, 0)
        case Transpose():
            return op.permutation[0] == 0
        case StridedSlice():
            whole = (op.begin[0], op.end[0], op.step[0]) == (None, None, 1)
            return whole and 0 not in op.drop_axes
        case Split() | Unpack() | ArgMax():
            return op.axis != 0
        case Softmax():
            return op.axis % len(shape_of(op.input)) != 0
        case Gather():
            if tensors[op.input].is_constant:
                return op.axis == 0
            return op.axis != 0 and tensors[op.indices].is_constant
        case ShapeOf():
            return False
