# SPDX-License-Identifier: Apache-2.0
"""Integer layer parameters from real ones: weights, bias, rescale, bounds, look-up tables.

The source's integer weights stay as they are wherever ``w - zero_point`` fits the device's
signed range. Everything else is re-scaling: an 8-bit multiplier, a bias of 8 significant bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from akida_backend.program import (
    POST_OP_BITS,
    Bias,
    Code,
    LayerActivation,
    LookUpTable,
    NoActivation,
    ReLU,
    Rescale,
)

LUT_INPUT_BITS = 11
LUT_OUTPUT_LIMIT = 8191  # signed 14 bits, symmetric

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def nearest_rescale(ratio: FloatArray) -> Rescale:
    """Multiplier in 128..255 and shift in -32..31 nearest to a real ratio per filter.

    Args:
        ratio: Accumulator scale over output scale, positive, shape (filters,).

    Source: MetaTF chooses the same form (quantizeml output quantizers); where its multiplier
    rounds up to 256 this one halves it and shifts, which is exact.
    """
    exponent = np.floor(np.log2(ratio)).astype(np.int64)  # ratio in [2**e, 2**(e + 1))
    shift = np.clip(exponent - 7, -32, 31)
    multiplier = np.rint(ratio / np.exp2(shift.astype(np.float64)))
    carried = (multiplier == 256) & (shift < 31)
    multiplier = np.where(carried, 128, multiplier)
    shift = np.where(carried, shift + 1, shift)
    return Rescale(np.clip(multiplier, 0, 255).astype(np.uint8), shift.astype(np.int8))


def rescale_ratio(rescale: Rescale) -> FloatArray:
    """The real factor per filter that a rescale multiplies by."""
    return rescale.multiplier.astype(np.float64) * np.exp2(rescale.shift.astype(np.float64))


def nearest_bias(bias: FloatArray) -> Bias:
    """``value << shift`` nearest to a real bias in accumulator units, 8 significant bits."""
    magnitude = np.maximum(np.abs(bias), 1.0)
    shift = np.maximum(np.ceil(np.log2(magnitude / 127.5)), 0.0)
    value = np.rint(bias / np.exp2(shift))
    return Bias(np.clip(value, -128, 127).astype(np.int8), shift.astype(np.uint8))


def bounded_relu(bound: FloatArray) -> ReLU:
    """ReLU with an upper bound per filter, in accumulator units, 8 significant bits."""
    magnitude = np.maximum(bound, 1.0)
    shift = np.maximum(np.ceil(np.log2(magnitude / 255.5)), 0.0)
    value = np.clip(np.rint(bound / np.exp2(shift)), 0, 255)
    return ReLU(value.astype(np.uint8), shift.astype(np.uint8))


def largest_value(relu: ReLU) -> FloatArray:
    """What a ReLU lets through at most, per filter in accumulator units."""
    if relu.max_value is None or relu.max_value_shift is None:
        return np.array([math.inf])
    return relu.max_value.astype(np.float64) * np.exp2(relu.max_value_shift.astype(np.float64))


@dataclass(frozen=True, slots=True, eq=False)
class FilterBank:
    """The source's filters in real terms.

    Attributes:
        weights: ``stored - zero_point``, filters first, any shape behind.
        scale: Real value of one weight step, shape (filters,).
        bias: Real bias, shape (filters,).
        bits: Width of the stored weights, 8 or 4.
    """

    weights: IntArray
    scale: FloatArray
    bias: FloatArray
    bits: int = 8


@dataclass(frozen=True, slots=True, eq=False)
class WeightChange:
    """Filters whose weights had to be re-quantized; error in steps of the source's scale."""

    filters: int
    max_error: float


def fit_weights(bank: FilterBank) -> tuple[FilterBank, WeightChange | None]:
    """Re-quantize, per filter, the weights that exceed the device's signed range."""
    low, high = -(1 << (bank.bits - 1)), (1 << (bank.bits - 1)) - 1
    flat = bank.weights.reshape(len(bank.weights), -1)
    outside = (flat.min(axis=1) < low) | (flat.max(axis=1) > high)
    if not outside.any():
        return bank, None
    factor = np.where(outside, np.abs(flat).max(axis=1) / high, 1.0)
    fitted = np.where(outside[:, None], np.rint(flat / factor[:, None]), flat).astype(np.int64)
    error = float(np.abs(fitted * factor[:, None] - flat).max())
    changed = replace(bank, weights=fitted.reshape(bank.weights.shape), scale=bank.scale * factor)
    return changed, WeightChange(int(outside.sum()), error)


@dataclass(frozen=True, slots=True, eq=False)
class Refusal:
    """Why no parameters exist: code of a constraint and what was found."""

    code: str
    found: str


@dataclass(frozen=True, slots=True, eq=False)
class LayerParameters:
    """Parameters of one MAC layer.

    Attributes:
        weights: Shaped like the bank's.
        bias: As the device adds it.
        activation: Behind the accumulator.
        rescale: To the output.
        change: Weights that had to be re-quantized.
        accumulator_scale: Real value of one accumulator step, per filter.
        offset: Real constant by which the stored bias misses the wanted one, per filter.
    """

    weights: NDArray[np.int8]
    bias: Bias
    activation: LayerActivation
    rescale: Rescale
    change: WeightChange | None
    accumulator_scale: FloatArray
    offset: FloatArray


@dataclass(frozen=True, slots=True)
class Lut:
    """A look-up-table activation: function over reals, and where its argument saturates."""

    function: Callable[[FloatArray], FloatArray]
    low: float
    high: float

    @property
    def argument_range(self) -> float:
        return max(abs(self.low), abs(self.high))


def layer_parameters(
    bank: FilterBank,
    input_code: Code,
    output_code: Code | None,
    *,
    input_scale: FloatArray,
    input_peak: IntArray,
    buffer_bits: int,
    relu: bool,
    bound: float = math.inf,
    lut: Lut | None = None,
    area: int = 1,
    gain: FloatArray | None = None,
) -> LayerParameters | Refusal:
    """Quantize one layer.

    Args:
        bank: The source's filters.
        input_code: Code of the input tensor.
        output_code: Code of the output; None for int32 accumulators.
        input_scale: Real value of one input step as the accumulator sees it, per filter.
        input_peak: Largest magnitude of an input after input_shift, broadcast against weights.
        buffer_bits: Width of the accumulator.
        relu: Clamp below at zero.
        bound: Real upper clamp, inf for none.
        lut: Look-up-table activation instead of a clamp.
        area: Positions summed by global average pooling, 1 without.
        gain: Factor per filter on the rescale, to choose another multiplier than the nearest.
    """
    fitted, change = fit_weights(bank)
    filters = len(fitted.weights)
    flat = fitted.weights.reshape(filters, -1)
    dead = ~flat.any(axis=1)
    scale = input_scale * fitted.scale
    output_scale = _output_scale(output_code, lut, filters)
    # A filter without weights is a constant: on its own scale it needs no wide accumulator.
    step = np.where(output_code is None and lut is None, np.abs(fitted.bias) / 64, output_scale)
    scale = np.where(dead, np.where(step > 0, step, 1.0), scale)
    ratio = scale / output_scale if output_code is not None or lut is not None else scale
    bias = fitted.bias / scale - input_code.zero_point * flat.sum(axis=1)
    if output_code is None and lut is None:
        rescale = neutral_rescale(filters)
    else:
        rescale = nearest_rescale(
            (ratio if lut is not None else ratio / area) * (1.0 if gain is None else gain)
        )
    # Beyond the buffer the size of a bias is of no account, and its shift would leave its field.
    wide = 2.0**buffer_bits
    beyond = np.abs(bias) > wide
    encoded = nearest_bias(np.clip(bias, -wide, wide))
    offset = np.where(beyond, 0.0, encoded.effective - bias) * scale
    reach = np.abs(flat * np.broadcast_to(input_peak, fitted.weights.shape).reshape(filters, -1))
    worst = reach.sum(axis=1) + np.where(beyond, np.abs(bias), np.abs(encoded.effective))
    if relu and lut is None:
        silent = ~dead & (reach.sum(axis=1) + encoded.effective <= 0)
        if (worst[silent] >= 1 << (buffer_bits - 1)).any():
            # These filters never fire: zero weights and bias compute the same zeros.
            flat = np.where(silent[:, None], 0, flat)
            encoded = Bias(
                np.where(silent, 0, encoded.value).astype(np.int8),
                np.where(silent, 0, encoded.shift).astype(np.uint8),
            )
            worst = np.where(silent, 0, worst)
    top = int(worst.argmax())
    if worst[top] >= 1 << (buffer_bits - 1):
        return Refusal(
            "LOWER-ACCUMULATOR",
            f"filter {top} may reach 2^{math.log2(float(worst[top])):.1f}, the buffer holds "
            f"2^{buffer_bits - 1}",
        )
    activation: LayerActivation
    final = rescale
    if lut is not None:
        table, table_scale = _table(lut)
        activation = LookUpTable(rescale, table)
        value_limit = np.full(filters, LUT_OUTPUT_LIMIT, np.float64)
        if output_code is None:
            return Refusal("LOWER-POST-OP", "a look-up table in front of int32 output")
        final_scale = np.broadcast_to(np.asarray(output_code.scale), (filters,))
        final_ratio: FloatArray = table_scale / (final_scale * area)
        final = nearest_rescale(final_ratio)
    elif relu:
        limit = 127.0 if output_code is None else float(output_code.limits[1])
        saturates = output_code is not None and bool(
            (bound >= np.asarray(output_code.scale) * limit * (1 - 1 / 512)).all()
        )
        if math.isinf(bound) or (saturates and area == 1):
            activation = ReLU()
        else:
            # A bound no accumulator reaches needs no more bits than the accumulator.
            activation = bounded_relu(np.minimum(bound / scale, 2.0 * worst))
        value_limit = np.minimum(worst, largest_value(activation)).astype(np.float64)
    else:
        activation = NoActivation()
        value_limit = worst.astype(np.float64)
    index = worst * rescale_ratio(rescale)
    if lut is not None and index.max() >= 2.0 ** (POST_OP_BITS - 1):
        return Refusal(
            "LOWER-POST-OP",
            f"the table's index may reach 2^{math.log2(float(index.max())):.1f}, "
            f"{POST_OP_BITS} bits hold 2^{POST_OP_BITS - 1}",
        )
    summed = value_limit * area
    if summed.max() >= 2.0 ** (POST_OP_BITS - 1):
        return Refusal(
            "LOWER-POST-OP",
            f"the pooled sum may reach 2^{math.log2(float(summed.max())):.1f}, "
            f"{POST_OP_BITS} bits hold 2^{POST_OP_BITS - 1}",
        )
    scaled = summed * rescale_ratio(final)
    if output_code is not None and scaled.max() >= 2.0 ** (POST_OP_BITS - 1):
        return Refusal(
            "LOWER-POST-OP",
            f"the rescaled value may reach 2^{math.log2(float(scaled.max())):.1f}, "
            f"{POST_OP_BITS} bits hold 2^{POST_OP_BITS - 1}",
        )
    weights = flat.reshape(fitted.weights.shape).astype(np.int8)
    return LayerParameters(weights, encoded, activation, final, change, scale, offset)


def neutral_rescale(filters: int) -> Rescale:
    """Multiplier 1, shift 0: accumulators leave unchanged."""
    return Rescale(np.ones(filters, np.uint8), np.zeros(filters, np.int8))


def _output_scale(code: Code | None, lut: Lut | None, filters: int) -> FloatArray:
    if lut is not None:
        step = lut.argument_range / ((1 << (LUT_INPUT_BITS - 1)) - 1)
        return np.full(filters, step)
    if code is None:
        return np.ones(filters)
    return np.broadcast_to(np.asarray(code.scale, np.float64), (filters,))


def _table(lut: Lut) -> tuple[NDArray[np.int16], float]:
    """Table over the 11-bit intermediate and the real value of one table step."""
    half = 1 << (LUT_INPUT_BITS - 1)
    step = lut.argument_range / (half - 1)
    values = lut.function(np.clip(np.arange(-half, half) * step, lut.low, lut.high))
    peak = float(np.abs(values).max()) or 1.0
    scale = peak / LUT_OUTPUT_LIMIT
    return np.rint(values / scale).astype(np.int16), scale
