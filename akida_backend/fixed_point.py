# SPDX-License-Identifier: Apache-2.0
"""Fixed-point arithmetic of TFLite's reference kernels, on int64 arrays.

Each function is named after the rule it equals. Values are int32 in the kernels; here they are
computed in int64, and wrapped where the kernels wrap.

Source:
    gemmlowp ``fixedpoint/fixedpoint.h``; TFLite ``kernels/internal/common.cc`` and
    ``quantization_util.cc``, built as shipped: double rounding.
"""

from __future__ import annotations

from typing import Final, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Integers = NDArray[np.int64]
FloatT = TypeVar("FloatT", np.float32, np.float64)

INT32_MAX: Final = 2**31 - 1
INT32_MIN: Final = -(2**31)


def round_half_away(value: NDArray[FloatT]) -> NDArray[FloatT]:
    """Nearest integer, ties away from zero: C ``round``, in the precision of `value`."""
    whole = np.trunc(value)
    step: NDArray[FloatT] = np.copysign(np.abs(value - whole) >= 0.5, value).astype(value.dtype)
    return whole + step


def wrap_int32(value: Integers) -> Integers:
    """The low 32 bits, as an int32 product or shift in the kernels leaves them."""
    return value.astype(np.int32).astype(np.int64)


def quantize_multiplier(real: ArrayLike) -> tuple[Integers, Integers]:
    """Split factors into ``multiplier * 2**(shift - 31)``.

    The multiplier lies in [2**30, 2**31 - 1] (its mirror image for a negative factor, 0 for zero
    and for factors under 2**-32). A positive shift is to the left.

    Source:
        TFLite ``QuantizeMultiplier``, quantization_util.cc.
    """
    fraction, shift = np.frexp(np.asarray(real, np.float64))
    multiplier = round_half_away(fraction * 2.0**31).astype(np.int64)
    shift = shift.astype(np.int64)
    carried = multiplier == 1 << 31
    multiplier = np.where(carried, multiplier >> 1, multiplier)
    shift = shift + carried
    vanishes = shift < -31
    return np.where(vanishes, 0, multiplier), np.where(vanishes, 0, shift)


def saturating_rounding_doubling_high_mul(a: Integers, b: ArrayLike) -> Integers:
    """``a * b / 2**31``, rounded half up; -2**31 times itself saturates.

    Source:
        gemmlowp ``SaturatingRoundingDoublingHighMul``: a nudge by the sign of the product and a
        division towards zero are together a floor with half an added step.
    """
    return np.minimum(_rounding_doubling_high_mul(a, b), INT32_MAX)


def _rounding_doubling_high_mul(a: Integers, b: ArrayLike) -> Integers:
    product: Integers = np.atleast_1d(a * np.asarray(b, np.int64))
    product += 1 << 30
    product >>= 31
    return product


def rounding_divide_by_pot(value: Integers, exponent: ArrayLike) -> Integers:
    """``value / 2**exponent``, ties away from zero; exponents are not negative.

    Source:
        gemmlowp ``RoundingDivideByPOT``.
    """
    exponent = np.asarray(exponent, np.int64)
    half = (np.int64(1) << exponent) >> 1
    one_less_below_zero = np.atleast_1d(value) >> 63
    rounded: Integers = one_less_below_zero & -(exponent > 0).astype(np.int64)
    rounded += value
    rounded += half
    rounded >>= exponent
    return rounded


def multiply_by_quantized_multiplier(
    value: Integers, multiplier: ArrayLike, shift: ArrayLike
) -> Integers:
    """``value * multiplier * 2**(shift - 31)``, rounded twice.

    Source:
        TFLite ``MultiplyByQuantizedMultiplier(int32_t, ...)``, common.cc, double rounding.
    """
    shift = np.asarray(shift, np.int64)
    if (shift > 0).any():
        value = wrap_int32(value << np.maximum(shift, 0))
    # No saturation: a quantized multiplier is never -2**31.
    high = _rounding_doubling_high_mul(value, multiplier)
    return rounding_divide_by_pot(high, np.maximum(-shift, 0))


def input_radius(integer_bits: int, left_shift: int, total_signed_bits: int = 31) -> int:
    """Largest difference whose fixed-point form still fits its integer bits.

    Source:
        TFLite ``CalculateInputRadius``, quantization_util.cc.
    """
    return ((1 << integer_bits) - 1 << (total_signed_bits - integer_bits)) >> left_shift


def exp_on_negative_values(value: Integers, integer_bits: int) -> Integers:
    """Exponential of Q(integer_bits).(31 - integer_bits) numbers not above zero, as Q0.31.

    Args:
        value: Raw int32 values.
        integer_bits: At most 5.

    Source:
        gemmlowp ``exp_on_negative_values``.
    """
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    modulo = (value & (quarter - 1)) - quarter
    result = _exp_from_minus_quarter(modulo << integer_bits)
    remainder = modulo - value
    for exponent, factor in _EXP_OF_MINUS_POWERS:
        if exponent < integer_bits:
            bit = remainder & (1 << (fraction_bits + exponent))
            product = saturating_rounding_doubling_high_mul(result, factor)
            result = np.where(bit != 0, product, result)
    return np.where(value == 0, INT32_MAX, result)


# exp(-2**exponent) as Q0.31
_EXP_OF_MINUS_POWERS: Final = (
    (-2, 1672461947),
    (-1, 1302514674),
    (0, 790015084),
    (1, 290630308),
    (2, 39332535),
    (3, 720401),
    (4, 242),
)


def _exp_from_minus_quarter(value: Integers) -> Integers:
    """Exponential of Q0.31 numbers in [-1/4, 0): a series of fourth order around -1/8."""
    exp_of_minus_eighth, third = 1895147668, 715827883
    x = value + (1 << 28)
    x2 = saturating_rounding_doubling_high_mul(x, x)
    x3 = saturating_rounding_doubling_high_mul(x2, x)
    x4 = saturating_rounding_doubling_high_mul(x2, x2)
    cubic = saturating_rounding_doubling_high_mul(rounding_divide_by_pot(x4, 2) + x3, third)
    tail = rounding_divide_by_pot(cubic + x2, 1)
    return exp_of_minus_eighth + saturating_rounding_doubling_high_mul(
        x + tail, exp_of_minus_eighth
    )


def one_over_one_plus_x_for_x_in_0_1(value: Integers) -> Integers:
    """1 / (1 + x) of Q0.31 numbers in [0, 1), as Q0.31: three Newton-Raphson steps.

    Source:
        gemmlowp ``one_over_one_plus_x_for_x_in_0_1``.
    """
    half_denominator = (value + INT32_MAX + 1) >> 1  # one is 2**31 - 1 here; rounded half up
    # Q2.29; 48/17 and 32/17 are the minimax start of the division.
    x = 1515870810 + saturating_rounding_doubling_high_mul(half_denominator, -1010580540)
    for _ in range(3):
        error = (1 << 29) - saturating_rounding_doubling_high_mul(half_denominator, x)
        step = saturating_rounding_doubling_high_mul(x, error)  # Q4.27
        x = x + np.clip(step << 2, INT32_MIN, INT32_MAX)
    result: Integers = np.clip(x << 1, INT32_MIN, INT32_MAX)
    return result


def reciprocal(value: Integers, integer_bits: int) -> tuple[Integers, Integers]:
    """1 / x of positive fixed-point numbers, normalised.

    Args:
        value: Raw int32 values, above zero.
        integer_bits: Of `value`.

    Returns:
        Q0.31 numbers r in (1/2, 1] and exponents e with ``1 / x = r * 2**-e``.

    Source:
        TFLite ``GetReciprocal``, common.h.
    """
    _, bits = np.frexp(value.astype(np.float64))
    headroom = 32 - bits.astype(np.int64)
    normalised = (value << headroom) - (1 << 31)
    return one_over_one_plus_x_for_x_in_0_1(normalised), integer_bits - headroom


def down_scale_to_int16(multiplier: Integers) -> Integers:
    """An int32 multiplier rounded to its upper 16 bits.

    Source:
        TFLite ``DownScaleInt32ToInt16Multiplier``, common.h.
    """
    upper: Integers = np.minimum((multiplier + (1 << 15)) >> 16, 2**15 - 1)
    return upper
