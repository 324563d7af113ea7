# SPDX-License-Identifier: Apache-2.0
"""Convolution on calibration inputs: whole maps, and rows of a least-squares problem."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.four_bit.layers import RealLayer, Reals, Window
from akida_backend.four_bit.products import Factor, factor, product
from akida_backend.graph import Pads, Size2D

Values = NDArray[np.floating]

CHUNK_VALUES: Final = 1 << 23  # of the columns of some samples
ROW_VALUES: Final = 1 << 23  # of all rows of one problem
MOST_ROWS: Final = 20_000
HELD_OUT: Final = 4  # every fourth row judges what the others chose


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Inputs and wanted outputs at some positions of the calibration maps.

    Filters that read the same inputs are a group: one for a convolution, one per channel for a
    depthwise layer.

    Attributes:
        inputs: Input codes, (groups, rows, weights per filter).
        wanted: Real potentials, (groups, rows, filters per group).
    """

    inputs: Reals
    wanted: Reals


def padded(values: Values, pads: Pads) -> Values:
    """Maps (samples, height, width, channels) with a border of zeros."""
    border = ((0, 0), (pads.top, pads.bottom), (pads.left, pads.right), (0, 0))
    return np.pad(values, border) if pads != Pads() else values


def out_size(values: Values, kernel: Size2D, stride: Size2D) -> Size2D:
    """Positions of a kernel on padded maps."""
    _, height, width, _ = values.shape
    return Size2D(
        (height - kernel.height) // stride.height + 1, (width - kernel.width) // stride.width + 1
    )


def kernel_of(layer: RealLayer) -> Size2D:
    _, height, width, _ = layer.weights.shape
    return Size2D(height, width)


def taps(values: Values, kernel: Size2D, stride: Size2D) -> Iterator[Values]:
    """What each tap of a kernel sees, row by row of the kernel; `values` are padded."""
    size = out_size(values, kernel, stride)
    for y in range(kernel.height):
        for x in range(kernel.width):
            yield values[
                :,
                y : y + stride.height * (size.height - 1) + 1 : stride.height,
                x : x + stride.width * (size.width - 1) + 1 : stride.width,
            ]


def convolved(values: Values, layer: RealLayer, weights: Values) -> Values:
    """Sums of a layer before bias and pooling, in the type of `values`."""
    kernel = kernel_of(layer)
    samples, height, width, channels = values.shape
    step = max(1, CHUNK_VALUES // max(1, height * width * channels * kernel.area))
    depth = kernel.area * channels
    parts: list[Values] = []
    for begin in range(0, samples, step):
        chunk = padded(values[begin : begin + step], layer.pads)
        if layer.depthwise:
            flat = weights.astype(values.dtype).reshape(kernel.area, channels)
            seen = taps(chunk, kernel, layer.stride)
            parts.append(sum(view * flat[tap] for tap, view in enumerate(seen)))
        else:
            left = factor(chunk, depth, None)
            columns = np.concatenate(list(taps(left.codes, kernel, layer.stride)), axis=-1)
            right = factor(weights.reshape(-1, depth).T, depth, 0)
            parts.append(product(Factor(columns, left.unit), right).astype(values.dtype))
    return np.concatenate(parts)


def pooled(sums: Values, layer: RealLayer) -> Values:
    """Max pooling, or the *sum* over the map where the layer averages."""
    if layer.average:
        total: Values = sums.sum(axis=(1, 2), keepdims=True)
        return total
    return sums if layer.pool is None else max_pooled(sums, layer.pool)


def max_pooled(values: Values, window: Window) -> Values:
    pads = window.pads
    border = ((0, 0), (pads.top, pads.bottom), (pads.left, pads.right), (0, 0))
    lowest = np.pad(values, border, constant_values=-np.inf) if pads != Pads() else values
    views = taps(lowest, window.size, window.stride)
    highest = next(views).copy()
    for view in views:
        np.maximum(highest, view, out=highest)
    return highest


def sample_rows(
    codes: Values, wanted: Values, layer: RealLayer, rng: np.random.Generator
) -> tuple[Rows, Rows]:
    """Rows to choose by and rows to judge by, at random positions of the maps.

    Args:
        codes: Inputs the layer really gets, (samples, height, width, channels).
        wanted: Real sums it should give, before pooling.
        layer: Whose rows.
        rng: Chooses the positions.
    """
    kernel = kernel_of(layer)
    source = padded(codes, layer.pads)
    samples, height, width, filters = wanted.shape
    count = samples * height * width
    per_row = kernel.area * source.shape[-1]
    rows = min(count, MOST_ROWS, max(2 * HELD_OUT, ROW_VALUES // per_row))
    chosen = np.sort(rng.choice(count, rows, replace=False)) if rows < count else np.arange(count)
    sample, y, x = np.unravel_index(chosen, (samples, height, width))
    seen = [
        source[sample, y * layer.stride.height + i, x * layer.stride.width + j]
        for i in range(kernel.height)
        for j in range(kernel.width)
    ]
    if layer.depthwise:
        inputs = np.stack(seen, axis=-1).transpose(1, 0, 2)
        targets = wanted[sample, y, x].T[:, :, None]
    else:
        inputs = np.concatenate(seen, axis=-1)[None]
        targets = wanted[sample, y, x].reshape(1, rows, filters)
    judging = np.arange(rows) % HELD_OUT == HELD_OUT - 1
    if not judging.any():
        judging[:] = True
    choosing = ~judging if not judging.all() else judging
    first, second = (
        Rows(inputs[:, part].astype(np.float64), targets[:, part].astype(np.float64))
        for part in (choosing, judging)
    )
    return first, second
