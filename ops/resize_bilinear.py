# SPDX-License-Identifier: Apache-2.0
"""RESIZE_BILINEAR: four neighbours weighted; int8 in 10-bit fixed point, others in float32.

Source:
    TFLite ``reference_ops::ResizeBilinearInteger`` (int8) and ``ResizeBilinear`` (uint8, float).
    ONNX: the float32 Resize of onnxruntime, between dequantized and quantized values.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.arithmetic import runs_in_codes, through_reals
from akida_backend.graph import AnyArray, Arithmetic, DType, ResizeBilinear
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec

ONE: Final = 1 << 10  # in fixed point


def reference(op: ResizeBilinear, env: Environment) -> tuple[AnyArray, ...]:
    x = env.tensor(op.input)
    values = env.value(op.input)
    _, height, width, _ = values.shape
    runs_in_codes(op, x, env.tensor(op.output))
    if env.arithmetic is Arithmetic.ONNX:
        y = env.tensor(op.output)
        return (through_reals(env, (op.input,), y, lambda reals: _resize_onnx(op, reals)),)
    if x.dtype is DType.INT8:
        return (_resize_int8(op, values, height, width),)
    return (_resize_float(op, values, height, width),)


def _resize_int8(op: ResizeBilinear, values: AnyArray, height: int, width: int) -> AnyArray:
    y0, y1, y = _fixed_point_positions(op, height, op.size.height)
    x0, x1, x = _fixed_point_positions(op, width, op.size.width)
    wide = values.astype(np.int64)
    y, x = y[:, None, None], x[:, None]
    rows = wide[:, y0] * (ONE - y) + wide[:, y1] * y
    total = rows[:, :, x0] * (ONE - x) + rows[:, :, x1] * x
    codes: AnyArray = (np.sign(total) * ((np.abs(total) + (1 << 19)) >> 20)).astype(np.int8)
    return codes


def _fixed_point_positions(
    op: ResizeBilinear, length: int, new_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Lower and upper neighbour and the weight of the upper one, of 1024."""
    steps, new_steps = length, new_length
    if op.align_corners and new_length > 1:
        steps, new_steps = length - 1, new_length - 1
    scale = (ONE * steps + new_steps // 2) // new_steps
    position = np.arange(new_length, dtype=np.int64) * scale
    if op.half_pixel_centers:
        position += scale // 2 - ONE // 2
    lower = np.maximum(position // ONE, 0)
    upper = np.minimum(np.maximum(position + ONE - 1, 0) // ONE, length - 1)
    return lower, upper, position - ONE * lower


def _resize_float(op: ResizeBilinear, values: AnyArray, height: int, width: int) -> AnyArray:
    y0, y1, y = _float_positions(op, height, op.size.height)
    x0, x1, x = _float_positions(op, width, op.size.width)
    one = np.float32(1)
    y, x = y[:, None, None], x[:, None]
    reals = values.astype(np.float32)
    upper, lower = reals[:, y0], reals[:, y1]
    total = upper[:, :, x0] * (one - y) * (one - x)
    total += lower[:, :, x0] * y * (one - x)
    total += upper[:, :, x1] * (one - y) * x
    total += lower[:, :, x1] * y * x
    if values.dtype.kind == "u":
        total += np.float32(0.5)
    result: AnyArray = total.astype(values.dtype)
    return result


def _float_positions(
    op: ResizeBilinear, length: int, new_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Lower and upper neighbour and the weight of the upper one."""
    if op.align_corners and new_length > 1:
        scale = np.float32(length - 1) / np.float32(new_length - 1)
    else:
        scale = np.float32(length) / np.float32(new_length)
    position = np.arange(new_length, dtype=np.float32)
    if op.half_pixel_centers:
        position = (position + np.float32(0.5)) * scale - np.float32(0.5)
    else:
        position = position * scale
    lower = np.maximum(np.floor(position).astype(np.int64), 0)
    upper = np.minimum(np.ceil(position).astype(np.int64), length - 1)
    return lower, upper, position - lower.astype(np.float32)


def _resize_onnx(op: ResizeBilinear, values: AnyArray) -> AnyArray:
    _, height, width, _ = values.shape
    y0, y1, below, above = _onnx_positions(op, height, op.size.height)
    x0, x1, left, right = _onnx_positions(op, width, op.size.width)
    below, above = below[:, None, None], above[:, None, None]
    left, right = left[:, None], right[:, None]
    reals = values.astype(np.float32)
    upper, lower = reals[:, y0], reals[:, y1]
    total = right * above * upper[:, :, x0]
    total += left * above * upper[:, :, x1]
    total += right * below * lower[:, :, x0]
    total += left * below * lower[:, :, x1]
    return np.asarray(total)


def _onnx_positions(
    op: ResizeBilinear, length: int, new_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Both neighbours and the distance to either; one half each where they are the same."""
    index, one = np.arange(new_length, dtype=np.float32), np.float32(1)
    scale = np.float32(new_length) / np.float32(length)
    half = np.float32(0.5)
    if op.align_corners:
        last, new_last = np.float32(length - 1), np.float32(max(new_length - 1, 1))
        position = index * last / new_last
    elif op.half_pixel_centers:
        position = (index + half) / scale - half
    else:
        position = index / scale
    position = np.clip(position, np.float32(0), np.float32(length) - one)
    lower = position.astype(np.int64)
    upper = np.minimum(lower + 1, length - 1)
    low, high = np.abs(position - lower), np.abs(position - upper)
    edge = lower == upper
    low = np.where(edge, half, low).astype(np.float32)
    return lower, upper, low, np.where(edge, half, high).astype(np.float32)


SPEC: Final = OpSpec(op_type=ResizeBilinear, reference=reference)
