# SPDX-License-Identifier: Apache-2.0
"""Fixed-point rules against Python integers, written from the rules alone, and named ties."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from akida_backend.fixed_point import (
    Integers,
    down_scale_to_int16,
    exp_on_negative_values,
    input_radius,
    multiply_by_quantized_multiplier,
    one_over_one_plus_x_for_x_in_0_1,
    quantize_multiplier,
    reciprocal,
    round_half_away,
    rounding_divide_by_pot,
    saturating_rounding_doubling_high_mul,
)

int32s = st.integers(-(2**31), 2**31 - 1)
multipliers = st.integers(2**30, 2**31 - 1)


def array(*values: int) -> Integers:
    return np.array(values, np.int64)


def wrapped(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


def high_mul(a: int, b: int) -> int:
    """C: nudge by the sign of the product, divide towards zero, saturate the one overflow."""
    if a == b == -(2**31):
        return 2**31 - 1
    nudged = a * b + (2**30 if a * b >= 0 else 1 - 2**30)
    return abs(nudged) // 2**31 * (1 if nudged >= 0 else -1)


def half_away(value: Fraction) -> int:
    magnitude = math.floor(abs(value) + Fraction(1, 2))
    return magnitude if value >= 0 else -magnitude


def twice_rounded(value: int, multiplier: int, shift: int) -> int:
    shifted = wrapped(value << max(shift, 0))
    return half_away(Fraction(high_mul(shifted, multiplier), 2 ** max(-shift, 0)))


@given(int32s, int32s)
@example(-(2**31), -(2**31))
@example(-1, 2**30)
@example(1, 2**30)
@example(-3, 2**30)
def test_high_mul_equals_integers_without_width(a: int, b: int) -> None:
    assert saturating_rounding_doubling_high_mul(array(a), b).tolist() == [high_mul(a, b)]


@given(int32s, st.integers(0, 31))
@example(-1, 1)
@example(-3, 1)
@example(-5, 0)
def test_divide_by_pot_rounds_ties_away_from_zero(value: int, exponent: int) -> None:
    expected = half_away(Fraction(value, 2**exponent))
    assert rounding_divide_by_pot(array(value), exponent).tolist() == [expected]


@given(int32s, multipliers, st.integers(-31, 30))
@example(-(2**31), 2**31 - 1, 0)
@example(-(2**31), 2**31 - 1, -31)
@example(-1, 2**30, 0)
@example(2**30, 2**30, 1)  # the left shift leaves 32 bits
def test_requantization_rounds_twice(value: int, multiplier: int, shift: int) -> None:
    got = multiply_by_quantized_multiplier(array(value), array(multiplier), array(shift))
    assert got.tolist() == [twice_rounded(value, multiplier, shift)]


@pytest.mark.parametrize(
    ("value", "shift", "expected"),
    [
        pytest.param(6, -2, 1, id="0.75-rounds-up"),
        pytest.param(1, 0, 1, id="half-rounds-up"),
        pytest.param(-1, 0, 0, id="minus-half-rounds-up"),
        pytest.param(2, -1, 1, id="tie-of-the-shift-away-from-zero"),
        pytest.param(-2, -1, -1, id="negative-tie-of-the-shift-away-from-zero"),
        pytest.param(5, -2, 1, id="0.625-rounds-to-one-in-two-steps"),
        pytest.param(-5, -2, -1, id="minus-0.625-rounds-to-minus-one"),
        pytest.param(3, -2, 1, id="0.375-rounds-to-one-in-two-steps"),
    ],
)
def test_requantization_by_one_half(value: int, shift: int, expected: int) -> None:
    got = multiply_by_quantized_multiplier(array(value), 2**30, shift)
    assert got.tolist() == [expected]


def test_requantization_takes_a_multiplier_per_channel() -> None:
    values = np.arange(-6, 6, dtype=np.int64).reshape(2, 2, 3) * 1000
    multiplier, shift = array(2**30, 2**31 - 1, 1500000000), array(0, -3, 2)
    expected = [
        twice_rounded(int(v), int(multiplier[i % 3]), int(shift[i % 3]))
        for i, v in enumerate(values.flat)
    ]
    got = multiply_by_quantized_multiplier(values, multiplier, shift)
    assert got.reshape(-1).tolist() == expected


@given(st.floats(1e-9, 1e9))
def test_multiplier_and_shift_rebuild_the_factor(real: float) -> None:
    multiplier, shift = quantize_multiplier(np.array([real]))
    assert 2**30 <= multiplier[0] <= 2**31 - 1
    rebuilt = float(multiplier[0]) * 2.0 ** (int(shift[0]) - 31)
    assert abs(rebuilt / real - 1) <= 2.0**-31


@pytest.mark.parametrize(
    ("real", "multiplier", "shift"),
    [
        pytest.param(1.0, 2**30, 1, id="one"),
        pytest.param(0.5, 2**30, 0, id="half"),
        pytest.param(1.0 - 2.0**-40, 2**30, 1, id="rounds-up-to-the-next-power"),
        pytest.param(2.0**-32, 2**30, -31, id="smallest"),
        pytest.param(2.0**-33, 0, 0, id="vanishing"),
        pytest.param(0.0, 0, 0, id="zero"),
        pytest.param(-0.75, -3 * 2**29, 0, id="negative"),
    ],
)
def test_multiplier_of_named_factors(real: float, multiplier: int, shift: int) -> None:
    got = quantize_multiplier(np.array([real]))
    assert tuple(part.tolist() for part in got) == ([multiplier], [shift])


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, 1.0), (-0.5, -1.0), (1.5, 2.0), (2.5, 3.0), (-2.5, -3.0), (0.49999997, 0.0), (3.0, 3.0)],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_half_away(value: float, expected: float, dtype: type[np.float32]) -> None:
    got = round_half_away(np.array([value], dtype))
    assert got.dtype == dtype
    assert got.tolist() == [expected]


@given(st.integers(-(2**31), 0), st.integers(0, 5))
@example(0, 5)
@example(-1, 5)
def test_exponential_is_near_the_real_one(raw: int, integer_bits: int) -> None:
    real = raw / 2 ** (31 - integer_bits)
    (got,) = exp_on_negative_values(array(raw), integer_bits).tolist()
    assert abs(got / 2**31 - math.exp(real)) < 1e-6


@given(st.integers(0, 2**31 - 1))
@example(0)
@example(2**31 - 1)
def test_reciprocal_of_one_plus_x_is_near_the_real_one(raw: int) -> None:
    (got,) = one_over_one_plus_x_for_x_in_0_1(array(raw)).tolist()
    assert abs(got / 2**31 - 1 / (1 + raw / 2**31)) < 2e-8


@given(st.integers(1, 2**31 - 1), st.integers(0, 12))
def test_reciprocal_is_normalised(raw: int, integer_bits: int) -> None:
    scale, exponent = (int(part[0]) for part in reciprocal(array(raw), integer_bits))
    assert 2**30 - 8 <= scale <= 2**31 - 1  # the division is off by a few units
    real = raw / 2 ** (31 - integer_bits)
    assert math.isclose(scale / 2**31 * 2.0**-exponent, 1 / real, rel_tol=1e-7)


@pytest.mark.parametrize(
    ("bits", "shift", "expected"), [(5, 0, 31 << 26), (5, 26, 31), (4, 31, 0), (5, 23, 248)]
)
def test_input_radius(bits: int, shift: int, expected: int) -> None:
    assert input_radius(bits, shift) == expected


@pytest.mark.parametrize(
    ("multiplier", "expected"),
    [
        (2**30, 2**14),
        (2**30 + 2**15, 2**14 + 1),
        (2**30 + 2**15 - 1, 2**14),
        (2**31 - 1, 2**15 - 1),
    ],
)
def test_down_scaling_rounds_half_up_and_saturates(multiplier: int, expected: int) -> None:
    assert down_scale_to_int16(array(multiplier)).tolist() == [expected]
