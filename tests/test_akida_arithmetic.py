# SPDX-License-Identifier: Apache-2.0
"""Each arithmetic rule: ties by hand, then Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
import scalar_model
from hypothesis import example, given
from hypothesis import strategies as st

from akida_backend.akida_arithmetic import (
    activate,
    aligned_sum,
    code_limits,
    left_shifted,
    look_up,
    output_rescale,
    relu,
    rescale,
)
from akida_backend.program import Add, LookUpTable, NoActivation, ReLU, Rescale

INT8 = (-128, 127)
accumulators = st.integers(-(2**31), 2**31 - 1)
multipliers = st.integers(0, 255)
shifts = st.integers(-32, 31)


def factor(multiplier: int, shift: int) -> Rescale:
    return Rescale(np.array([multiplier], np.uint8), np.array([shift], np.int8))


def rescale_one(value: int, multiplier: int, shift: int, limits: tuple[int, int] = INT8) -> int:
    (result,) = rescale(np.array([value]), factor(multiplier, shift), limits)
    return int(result)


@pytest.mark.parametrize(
    ("value", "multiplier", "shift", "expected"),
    [
        pytest.param(-5, 1, -1, -2, id="minus-2.5-goes-up"),
        pytest.param(5, 1, -1, 3, id="2.5-goes-up"),
        pytest.param(-1, 1, -1, 0, id="minus-half-goes-up"),
        pytest.param(1, 1, -1, 1, id="half-goes-up"),
        pytest.param(-3, 1, -1, -1, id="minus-1.5-goes-up"),
        pytest.param(-7, 3, -1, -10, id="tie-behind-the-product"),
        pytest.param(65793, 255, -25, 0, id="just-below-half-where-float32-gives-1"),
        pytest.param(-129875, 219, -18, -109, id="near-tie-where-float32-gives-minus-108"),
        pytest.param(2**31 - 1, 0, 31, 0, id="multiplier-0-left"),
        pytest.param(-(2**31), 0, -32, 0, id="multiplier-0-right"),
        pytest.param(1, 1, 6, 64, id="left-shift"),
        pytest.param(-1, 1, 7, -128, id="left-shift-to-the-lowest-code"),
        pytest.param(1, 1, 7, 127, id="left-shift-by-7-saturates"),
        pytest.param(1, 1, 31, 127, id="largest-left-shift-saturates"),
        pytest.param(-1, 1, 31, -128, id="largest-left-shift-saturates-below"),
        pytest.param(2**31 - 1, 255, 31, 127, id="largest-product-does-not-wrap"),
        pytest.param(-(2**31), 255, 31, -128, id="smallest-product-does-not-wrap"),
        pytest.param(0, 255, 31, 0, id="zero"),
        pytest.param(2**31 - 1, 255, -32, 127, id="127.49-rounds-down"),
        pytest.param(2**31 - 1, 2, -32, 1, id="just-below-1-rounds-up"),
    ],
)
def test_rescale_rounds_half_up_and_saturates(
    value: int, multiplier: int, shift: int, expected: int
) -> None:
    assert rescale_one(value, multiplier, shift) == expected


@given(accumulators, multipliers, shifts, st.sampled_from([(-128, 127), (0, 15), (-1024, 1023)]))
@example(-1, 255, 0, (0, 15))
@example(2**31 - 1, 255, -31, (0, 15))
def test_rescale_equals_exact_fractions(
    value: int, multiplier: int, shift: int, limits: tuple[int, int]
) -> None:
    expected = scalar_model.rescaled(value, multiplier, shift, *limits)
    assert rescale_one(value, multiplier, shift, limits) == expected


@pytest.mark.parametrize("limits", [pytest.param(INT8, id="8"), pytest.param((0, 15), id="4")])
@pytest.mark.parametrize("shift", range(-32, 32))
def test_rescale_steps_exactly_at_the_threshold_of_every_code(
    shift: int, limits: tuple[int, int]
) -> None:
    """Smallest accumulator of each code and its lower neighbour, for a spread of multipliers."""
    low, high = limits
    codes = list(range(low, high + 1))
    for multiplier in (1, 2, 3, 127, 128, 129, 191, 254, 255):
        # code <= acc * m * 2**s + 1/2 first holds at ceil((2 * code - 1) / (2 * m * 2**s))
        up, down = 1 << max(shift, 0), 1 << max(-shift, 0)
        first = [-((1 - 2 * code) * down // (2 * multiplier * up)) for code in codes]
        values = np.array([value + step for value in first for step in (-1, 0)])
        inside = np.abs(values) < 2**40
        expected = [
            scalar_model.rescaled(value, multiplier, shift, low, high)
            for value in values[inside].tolist()
        ]
        got = rescale(values[inside], factor(multiplier, shift), limits)
        assert got.tolist() == expected


@pytest.mark.full
@pytest.mark.parametrize("shift", range(-32, 32))
def test_rescale_steps_exactly_for_every_multiplier(shift: int) -> None:
    low, high = INT8
    for multiplier in range(1, 256):
        up, down = 1 << max(shift, 0), 1 << max(-shift, 0)
        codes = range(low, high + 1)
        first = [-((1 - 2 * code) * down // (2 * multiplier * up)) for code in codes]
        values = [value + step for value in first for step in (-1, 0, 1)]
        got = rescale(np.array(values), factor(multiplier, shift), INT8).tolist()
        product = [value * multiplier * up for value in values]
        assert got == [max(low, min(high, (2 * p + down) // (2 * down))) for p in product]


def test_rescale_takes_each_channel_by_its_own_factor() -> None:
    values = np.array([[10, 10, 10], [-10, -10, -10]])
    factors = Rescale(np.array([1, 3, 0], np.uint8), np.array([-2, 1, 31], np.int8))
    assert rescale(values, factors, INT8).tolist() == [[3, 60, 0], [-2, -60, 0]]


def test_rescale_leaves_its_argument_alone() -> None:
    values = np.array([1000])
    rescale(values, factor(3, -2), INT8)
    assert values.tolist() == [1000]


@pytest.mark.parametrize(
    ("bits", "limits"),
    [
        pytest.param(4, (0, 15), id="4-bits-unsigned"),
        pytest.param(8, (-128, 127), id="8-bits-signed"),
        pytest.param(32, (-(2**31), 2**31 - 1), id="32-bits-signed"),
    ],
)
def test_code_limits_by_output_bits(bits: int, limits: tuple[int, int]) -> None:
    assert code_limits(bits) == limits


def test_left_shift_keeps_the_sign_and_the_full_width() -> None:
    value, shift = np.array([-128, 127, -1, 0], np.int8), np.array([20, 20, 31, 31], np.uint8)
    assert left_shifted(value, shift).tolist() == [-128 * 2**20, 127 * 2**20, -(2**31), 0]


def test_unbounded_relu_only_clips_below() -> None:
    assert relu(np.array([-3, 0, 2**30]), ReLU()).tolist() == [0, 0, 2**30]


def test_bounded_relu_clips_each_channel_at_its_bound() -> None:
    bound = ReLU(np.array([255, 3, 0], np.uint8), np.array([0, 4, 7], np.uint8))
    values = np.array([[256, 48, 5], [255, 49, 0], [-1, -1, -1]])
    assert relu(values, bound).tolist() == [[255, 48, 0], [255, 48, 0], [0, 0, 0]]


def test_bounded_relu_reaches_bounds_beyond_32_bits() -> None:
    bound = ReLU(np.array([255], np.uint8), np.array([31], np.uint8))
    assert relu(np.array([2**31 - 1]), bound).tolist() == [2**31 - 1]


def identity_table(multiplier: int, shift: int) -> LookUpTable:
    """Table whose entry is its own index, so that results show the 11-bit intermediate."""
    return LookUpTable(factor(multiplier, shift), np.arange(-1024, 1024, dtype=np.int16))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(-5, -2, id="minus-2.5-goes-up"),
        pytest.param(5, 3, id="2.5-goes-up"),
        pytest.param(2045, 1023, id="1022.5-is-the-last-entry"),
        pytest.param(2047, 1023, id="1023.5-saturates"),
        pytest.param(-2049, -1024, id="minus-1024.5-goes-up-to-the-first-entry"),
        pytest.param(-(2**31), -1024, id="far-below"),
        pytest.param(2**31 - 1, 1023, id="far-above"),
    ],
)
def test_look_up_rescales_to_11_bits_first(value: int, expected: int) -> None:
    assert look_up(np.array([value]), identity_table(1, -1)).tolist() == [expected]


def test_look_up_gives_entries_of_14_bits_in_ascending_order() -> None:
    table = np.zeros(2048, np.int16)
    table[[0, 1023, 1024, 1025, 2047]] = [-8192, 1, 2, 3, 8191]
    values = np.array([-1024, -1, 0, 1, 1023])
    assert look_up(values, LookUpTable(factor(1, 0), table)).tolist() == [-8192, 1, 2, 3, 8191]


def test_sum_aligns_both_operands() -> None:
    assert aligned_sum(np.array([-128]), np.array([127]), 23, 2).tolist() == [-(2**30) + 508]


@pytest.mark.parametrize(
    ("total", "shift", "expected"),
    [
        pytest.param(-5, -1, -2, id="minus-2.5-goes-up"),
        pytest.param(5, -1, 3, id="2.5-goes-up"),
        pytest.param(3, 5, 96, id="left"),
        pytest.param(-300, 0, -128, id="saturates"),
        pytest.param(2**31 - 1, -32, 0, id="just-below-half"),
        pytest.param(2**31 - 1, -31, 1, id="just-below-1"),
    ],
)
def test_add_rescales_by_its_shift_alone(total: int, shift: int, expected: int) -> None:
    layer = Add(
        name="add",
        inputs=("a", "b"),
        output="c",
        a_shift=0,
        b_shift=0,
        output_shift=shift,
        activation=NoActivation(),
    )
    assert rescale(np.array([total]), output_rescale(layer), INT8).tolist() == [expected]


def test_activation_is_chosen_by_its_type() -> None:
    values = np.array([-4, 4])
    table = LookUpTable(factor(1, 0), np.full(2048, 7, np.int16))
    assert activate(values, NoActivation()).tolist() == [-4, 4]
    assert activate(values, ReLU()).tolist() == [0, 4]
    assert activate(values, table).tolist() == [7, 7]
