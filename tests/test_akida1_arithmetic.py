# SPDX-License-Identifier: Apache-2.0
"""The staircase of Akida 1.0: worked out by hand, and against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from akida_backend.akida1_arithmetic import (
    above_threshold,
    activate,
    level_limits,
    levels,
    weight_limits,
)
from akida_backend.program import NoActivation, StepActivation

INT32 = st.integers(-(2**31), 2**31 - 1)


def staircase(
    potentials: list[int], threshold: int, step: int, step_shift: int = 0, *, bits: int = 4
) -> list[int]:
    """Levels of one filter's potentials."""
    column = np.array(potentials, np.int64)[:, None]
    above = above_threshold(column, np.array([threshold], np.int32))
    activation = StepActivation(np.array([step], np.uint32), np.array([step_shift], np.uint8))
    found: list[int] = levels(above, activation, bits)[:, 0].tolist()
    return found


def test_a_level_begins_above_its_foot() -> None:
    assert staircase([9, 10, 11, 13, 14, 16, 17], 10, 3) == [0, 0, 1, 1, 2, 2, 3]


def test_the_highest_level_saturates() -> None:
    assert staircase([54, 55, 56, 10**6], 10, 3) == [15, 15, 15, 15]
    assert staircase([13, 14, 16, 17, 10**6], 10, 3, bits=2) == [1, 2, 2, 3, 3]


def test_one_bit_compares_with_the_threshold() -> None:
    assert staircase([-8, -7, -6, 400], -7, 1000, bits=1) == [0, 0, 1, 1]


def test_a_step_with_fraction_bits_is_no_whole_number() -> None:
    """5/4: feet at 0, 1.25, 2.5, 3.75, 5."""
    assert staircase([0, 1, 2, 3, 4, 5, 6], 0, 5, 2) == [0, 1, 2, 3, 4, 4, 5]


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [pytest.param(-(2**19), 15, id="always"), pytest.param(2**19 - 1, 0, id="never")],
)
def test_extreme_thresholds_always_or_never_fire(threshold: int, expected: int) -> None:
    assert staircase([-1000, 0, 1000], threshold, 1) == [expected] * 3


def test_thresholds_and_steps_are_per_filter() -> None:
    activation = StepActivation(np.array([1, 4], np.uint32), np.array([0, 1], np.uint8))
    potentials = np.array([[5, 15], [-5, 12]], np.int64)
    above = above_threshold(potentials, np.array([0, 10], np.int32))
    assert levels(above, activation, 4).tolist() == [[5, 3], [0, 1]]
    assert above.tolist() == [[5, 5], [-5, 2]]


@given(INT32, INT32, st.integers(1, 2**24 - 1), st.integers(0, 24), st.sampled_from((1, 2, 4)))
@example(2**31 - 1, -(2**31), 1, 24, 4)
@example(-(2**31), 2**31 - 1, 1, 24, 4)
def test_levels_are_the_ceiling_of_the_exact_quotient(
    potential: int, threshold: int, step: int, step_shift: int, bits: int
) -> None:
    quotient = Fraction(potential - threshold) / Fraction(step, 2**step_shift)
    expected = max(0, min(2**bits - 1, math.ceil(quotient)))
    assert staircase([potential], threshold, step, step_shift, bits=bits) == [expected]


def test_potentials_pass_without_an_activation() -> None:
    potentials = np.array([[-5, 2**31 - 1]], np.int64)
    assert activate(potentials, NoActivation(), 32) is potentials


@pytest.mark.parametrize(("bits", "expected"), [(1, (0, 1)), (2, (0, 3)), (4, (0, 15))])
def test_levels_are_unsigned(bits: int, expected: tuple[int, int]) -> None:
    assert level_limits(bits) == expected


@pytest.mark.parametrize(
    ("bits", "expected"), [(1, (0, 1)), (2, (-2, 1)), (4, (-8, 7)), (8, (-128, 127))]
)
def test_weights_are_signed_from_two_bits_on(bits: int, expected: tuple[int, int]) -> None:
    assert weight_limits(bits) == expected
