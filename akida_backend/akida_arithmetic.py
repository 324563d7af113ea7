# SPDX-License-Identifier: Apache-2.0
"""Akida 2.0 arithmetic on integers: one function per rule, written to be read beside its source.

Values are int64 with channels on the last axis; parameters are per channel, ``(channels,)``, or
one for all, ``(1,)``. Nothing overflows while ``|value| < 2**53``, far beyond the device's
32-bit buffers.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.program import (
    Add,
    ConvolutionLayer,
    LayerActivation,
    LookUpTable,
    NoActivation,
    ReLU,
    Rescale,
)

Integers = NDArray[np.int64]
Limits = tuple[int, int]  # smallest and largest value

LOOK_UP_LIMITS: Final[Limits] = (-1024, 1023)
TABLE_LIMITS: Final[Limits] = (-8192, 8191)


def code_limits(bits: int) -> Limits:
    """Range of a layer's output: 4 bits are unsigned, 8 and 32 signed.

    Source: quantizeml, activations are signed from 8 bits on.
    """
    if bits == 4:
        return 0, 15
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def left_shifted(value: NDArray[np.integer], shift: NDArray[np.integer]) -> Integers:
    """``value << shift``: effective bias, ReLU bound or shifted input.

    Source: akida.Layer variables `bias_shift`, `max_value_shift`, `input_shift`, each uint8.
    """
    return value.astype(np.int64) << shift.astype(np.int64)


def rescale(values: Integers, factor: Rescale, limits: Limits) -> Integers:
    """``clip(floor(values * multiplier * 2**shift + 1/2))`` in exact integers.

    Args:
        values: Accumulators, shape ``(..., channels)``.
        factor: Multiplier 0 .. 255 and shift -32 .. 31 (positive to the left) per channel.
        limits: What the result saturates to; 0 lies within.

    Rounding:
        Half up, towards plus infinity, for both signs: -2.5 gives -2, 2.5 gives 3.

    Source:
        akida `output_scales`, `output_shift`; quantizeml onnx_support scale-out. Its float32
        emulation may differ by one near ties from 24 bits of product on.
    """
    low, high = limits
    shift = factor.shift.astype(np.int64)
    right = np.maximum(-shift, 0)
    product = values * factor.multiplier.astype(np.int64)
    product += (np.int64(1) << right) >> 1
    product >>= right
    np.clip(product, low, high, out=product)
    if (shift > 0).any():
        # Saturated once already, a left shift of at most 31 stays within 64 bits, and the
        # values that were cut saturate again because low <= 0 <= high.
        product <<= np.maximum(shift, 0)
        np.clip(product, low, high, out=product)
    return product


def output_rescale(layer: ConvolutionLayer | Add) -> Rescale:
    """The rescale a layer ends with; Add's is its shift alone.

    Source: akida.Add variable `output_shift`.
    """
    if isinstance(layer, Add):
        return Rescale(np.ones(1, np.uint8), np.array([layer.output_shift], np.int8))
    return layer.rescale


def aligned_sum(a: Integers, b: Integers, a_shift: int, b_shift: int) -> Integers:
    """``(a << a_shift) + (b << b_shift)``: the accumulator of Add.

    Source: akida.Add variables `a_shift`, `b_shift`.
    """
    return (a << a_shift) + (b << b_shift)


def relu_bound(activation: ReLU) -> Integers | None:
    """Largest value a bounded ReLU lets through, per channel; None without a bound."""
    if activation.max_value is None or activation.max_value_shift is None:
        return None
    return left_shifted(activation.max_value, activation.max_value_shift)


def relu(values: Integers, activation: ReLU) -> Integers:
    """``max(values, 0)``, then ``min(values, bound)`` where the ReLU is bounded.

    Source: akida variables `max_value`, `max_value_shift`.
    """
    positive = np.maximum(values, 0)
    bound = relu_bound(activation)
    return positive if bound is None else np.minimum(positive, bound)


def look_up(values: Integers, activation: LookUpTable) -> Integers:
    """Table value of each accumulator, behind a rescale to 11 signed bits.

    The rescale rounds half up and saturates to [-1024, 1023]; entry 0 of the table belongs to
    -1024. Results have up to 14 signed bits.

    Source: quantizeml onnx_support activation; table order as in akida's variable.
    """
    low, _ = LOOK_UP_LIMITS
    index = rescale(values, activation.rescale, LOOK_UP_LIMITS) - low
    return activation.table.astype(np.int64)[index]


def activate(values: Integers, activation: LayerActivation) -> Integers:
    """The activation step of a layer."""
    match activation:
        case NoActivation():
            return values
        case ReLU():
            return relu(values, activation)
        case LookUpTable():
            return look_up(values, activation)
