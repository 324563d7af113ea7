# SPDX-License-Identifier: Apache-2.0
"""RESIZE_BILINEAR: four neighbours weighted; int8 in 10-bit fixed point, others in float32.

Source:
    TFLite ``reference_ops::ResizeBilinearInteger`` (int8) and ``ResizeBilinear`` (uint8, float).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.arithmetic import runs_in_codes
from akida_backend.graph import AnyArray, DType, ResizeBilinear
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec

ONE: Final = 1 << 10  # in fixed point


def reference(op: ResizeBilinear, env: Environment) -> tuple[AnyArray, ...]:
    x = env.tensor(op.input)
    values = env.value(op.input)
    _, height, width, _ = values.shape
    runs_in_codes(op, x, env.tensor(op.output))
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


SPEC: Final = OpSpec(op_type=ResizeBilinear, reference=reference)
