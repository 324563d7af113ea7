# SPDX-License-Identifier: Apache-2.0
"""Scales and zero points as ONNX nodes give them, checked."""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.errors import ImportModelError
from akida_backend.graph import DType, Quantization
from akida_backend.importers.onnx_file import FileNode
from akida_backend.importers.onnx_tensors import DTYPES
from akida_backend.importers.onnx_values import NotModelledError, Value

_WHOLE: Final = "Quantize the model again, with scales that are finite and above 0."

QUANTIZABLE: Final = (
    DType.INT4,
    DType.UINT4,
    DType.INT8,
    DType.UINT8,
    DType.INT16,
    DType.UINT16,
    DType.INT32,
)


def read_scale(
    node: FileNode, scale: Value, zero_point: Value | None, dtype: DType, *, axis: int, rank: int
) -> Quantization:
    """Scale and zero point of a tensor.

    Args:
        node: For messages.
        scale: A constant; one value, or one per channel.
        zero_point: A constant of the tensor's type; None stands for zero.
        dtype: Of the stored integers.
        axis: The channels' axis, where there are several scales.
        rank: Axes of the tensor.

    Raises:
        NotModelledError: They are computed, in blocks, or of a type that is no integer.
        ImportModelError: They are not finite and positive, or out of the type's range.
    """
    if scale.data is None or (zero_point is not None and zero_point.data is None):
        raise NotModelledError(f"{node.kind} with a computed scale: no static scale")
    if dtype not in QUANTIZABLE:
        raise NotModelledError(f"{node.kind} with {dtype.value} is not modelled")
    if scale.dtype is not DType.FLOAT32:
        raise NotModelledError(f"{node.kind} with scales of {scale.dtype.value} is not modelled")
    steps = scale.data.reshape(-1).astype(np.float32)
    if scale.rank > 1 and steps.size > 1:
        raise NotModelledError(f"{node.kind} with scales in blocks is not modelled")
    if not steps.size or not (np.isfinite(steps).all() and (steps > 0).all()):
        raise _error(node, "scale", scale, "is not finite and above 0")
    zero = np.zeros(steps.size, np.int64)
    if zero_point is not None:
        assert zero_point.data is not None
        values = zero_point.data.reshape(-1)
        if zero_point.dtype.is_float:
            raise NotModelledError(f"{node.kind} with a zero point of reals is not modelled")
        if values.size not in (1, steps.size):
            raise _error(node, "zero_point", zero_point, f"beside {steps.size} scales")
        zero = np.broadcast_to(values.astype(np.int64), steps.shape).copy()
        low, high = dtype.code_range
        if zero.min() < low or zero.max() > high:
            raise _error(node, "zero_point", zero_point, f"is beyond {dtype.value}")
    if steps.size == 1:
        return Quantization(steps.astype(np.float32), zero)
    if not -rank <= axis < rank:
        raise node.error("axis", f"axis {axis} of a tensor with {rank} axes")
    return Quantization(steps.astype(np.float32), zero, axis % rank)


def check_channels(node: FileNode, quantization: Quantization, value: Value) -> None:
    """One scale per entry of the channels' axis."""
    axis = quantization.axis
    if axis is not None and quantization.scale.size != value.shape[axis]:
        raise node.error(
            "scale",
            f"{quantization.scale.size} scales for '{value.name}' {list(value.shape)} "
            f"along axis {axis}",
        )


def _error(node: FileNode, field: str, value: Value, problem: str) -> ImportModelError:
    return node.error(field, f"'{value.name}' {problem}", remedy=_WHOLE)


def quantized_type(node: FileNode, zero_point: Value | None) -> DType:
    """Type that a QuantizeLinear writes."""
    if zero_point is not None:
        return zero_point.dtype
    number = node.integer("output_dtype", 0)
    return DTYPES.get(number, DType.OTHER) if number else DType.UINT8
