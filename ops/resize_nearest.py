# SPDX-License-Identifier: Apache-2.0
"""RESIZE_NEAREST_NEIGHBOR: source cells picked in float32.

Source:
    TFLite ``reference_ops::GetNearestNeighbor``, resize_nearest_neighbor.h.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.fixed_point import round_half_away
from akida_backend.graph import AnyArray, ResizeNearest
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: ResizeNearest, env: Environment) -> tuple[AnyArray, ...]:
    x = env.value(op.input)
    _, height, width, _ = x.shape
    rows = _picked(op, height, op.size.height)
    columns = _picked(op, width, op.size.width)
    return (x[:, rows[:, None], columns],)


def _picked(op: ResizeNearest, length: int, new_length: int) -> NDArray[np.int64]:
    offset = np.float32(0.5 if op.half_pixel_centers else 0.0)
    if op.align_corners and new_length > 1:
        scale = np.float32(length - 1) / np.float32(new_length - 1)
    else:
        scale = np.float32(length) / np.float32(new_length)
    position = (np.arange(new_length, dtype=np.float32) + offset) * scale
    whole = round_half_away(position) if op.align_corners else np.floor(position)
    return np.clip(whole.astype(np.int64), 0, length - 1)


SPEC: Final = OpSpec(op_type=ResizeNearest, reference=reference)
