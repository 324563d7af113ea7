# SPDX-License-Identifier: Apache-2.0
"""TFLite's kernels one value at a time on Python integers: the second opinion of the ops tests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from akida_backend.graph import Activation, AnyArray, Graph, Pads, Size2D, Tensor


def half_away(value: Fraction | float) -> int:
    exact = Fraction(value)
    magnitude = math.floor(abs(exact) + Fraction(1, 2))
    return magnitude if exact >= 0 else -magnitude


def multiplier_and_shift(factor: float) -> tuple[int, int]:
    """A factor as ``multiplier * 2**(shift - 31)``, the multiplier of 31 bits."""
    fraction, shift = math.frexp(factor)
    multiplier = half_away(fraction * 2.0**31)
    return (2**30, shift + 1) if multiplier == 2**31 else (multiplier, shift)


def requantized(value: int, factor: float) -> int:
    return scaled(value, *multiplier_and_shift(factor))


def scaled(value: int, multiplier: int, shift: int) -> int:
    """Rounded twice: half up at the product, half away from zero at the shift."""
    value <<= max(shift, 0)
    assert -(2**31) <= value < 2**31
    high = math.floor(Fraction(value * multiplier, 2**31) + Fraction(1, 2))
    return half_away(Fraction(high, 2 ** max(-shift, 0)))


def scale_of(tensor: Tensor, channel: int = 0) -> float:
    assert tensor.quantization is not None
    scale = tensor.quantization.scale
    return float(scale[channel if scale.size > 1 else 0])


def zero_of(tensor: Tensor, channel: int = 0) -> int:
    assert tensor.quantization is not None
    zero = tensor.quantization.zero_point
    return int(zero[channel if zero.size > 1 else 0])


def stored(steps: int, output: Tensor, activation: Activation = Activation.NONE) -> int:
    """Steps above zero as a code, clamped."""
    low, high = output.dtype.code_range
    zero, scale = zero_of(output), scale_of(output)
    bounds = {
        Activation.NONE: (None, None),
        Activation.RELU: (0.0, None),
        Activation.RELU6: (0.0, 6.0),
        Activation.RELU_N1_TO_1: (-1.0, 1.0),
    }
    below, above = bounds[activation]
    if below is not None:
        low = max(low, zero + half_away(float(np.float32(below) / np.float32(scale))))
    if above is not None:
        high = min(high, zero + half_away(float(np.float32(above) / np.float32(scale))))
    return min(max(steps + zero, low), high)


def window_cells(
    position: tuple[int, int], window: Size2D, stride: Size2D, dilation: Size2D, pads: Pads
) -> Iterator[tuple[int, int, int, int]]:
    """Row and column in the window, and on the map, of each cell."""
    out_row, out_column = position
    for row in range(window.height):
        for column in range(window.width):
            yield (
                row,
                column,
                out_row * stride.height + row * dilation.height - pads.top,
                out_column * stride.width + column * dilation.width - pads.left,
            )


def with_arrays(graph: Graph, name: str) -> tuple[Tensor, AnyArray]:
    """A constant tensor and its values."""
    return graph.tensors[name], graph.constant(name)
