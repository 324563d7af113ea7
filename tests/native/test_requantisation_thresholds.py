# SPDX-License-Identifier: Apache-2.0
"""Every multiplier and shift at accumulators around which the output changes, on Python integers.

One layer of many filters: filter f has a multiplier, a shift, and weights and a bias that make its
accumulator the one wanted. The input is the same for all filters but for its first value, which
is 0, 1, 2 in three samples: they give the accumulators below, at and above a threshold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from akida_backend.engine import NativeEngine
from akida_backend.graph import DType, Size2D
from akida_backend.program import (
    Bias,
    Code,
    DeviceTensor,
    InputConv2D,
    InputPort,
    NoActivation,
    OutputPort,
    Padding,
    Program,
    ReLU,
    Rescale,
)

INT32_MAX = 2**31 - 1
LIMITS = {8: (-128, 127), 4: (0, 15)}
MAX_FILTERS = 16384


@dataclass(frozen=True)
class Case:
    """A filter: its accumulators are `middle` - 1, `middle` and `middle` + 1."""

    multiplier: int
    shift: int
    middle: int


def threshold(multiplier: int, shift: int, code: int) -> int:
    """Smallest accumulator whose output is at least `code`: exact integers, shift at most 0."""
    one = 1 << -shift
    return -((one - 2 * code * one) // (2 * multiplier))  # ceil((code - 1/2) * one / multiplier)


def output(multiplier: int, shift: int, accumulator: int, limits: tuple[int, int]) -> int:
    """``clip(floor(accumulator * multiplier * 2**shift + 1/2))`` by its definition."""
    doubled = 2 * accumulator * multiplier
    real = (doubled << shift) + 1 if shift >= 0 else (doubled + (1 << -shift)) >> -shift
    low, high = limits
    return min(max(real >> 1, low), high)


def test_thresholds_are_where_the_output_changes() -> None:
    for multiplier in (1, 2, 3, 128, 255):
        for shift in range(-32, 1):
            for code in (-127, -1, 0, 1, 127):
                at = threshold(multiplier, shift, code)
                limits = (-(10**9), 10**9)
                assert output(multiplier, shift, at, limits) >= code
                assert output(multiplier, shift, at - 1, limits) < code


def cases(bits: int, codes: Sequence[int], shifts: Sequence[int]) -> Iterator[Case]:
    low, high = LIMITS[bits]
    for shift in shifts:
        for multiplier in range(256):
            if multiplier == 0 or shift > 0:
                yield from (Case(multiplier, shift, value) for value in (0, -12345, 400))
                continue
            for code in codes:
                if low < code <= high:
                    yield Case(multiplier, shift, threshold(multiplier, shift, code))


class Layer:
    """The filters of some cases, over an image of which `slack` values are always 0.

    Slack weights change no accumulator, only what the engine has to reckon with.
    """

    def __init__(self, slack: bool) -> None:
        self.side = 32 if slack else 7
        self.values = 3 * self.side**2
        self.active = 147
        self.slack = 127 if slack else 0

    def image(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        flat = np.zeros((3, self.values), np.uint8)
        flat[:, 0] = (0, 1, 2)
        flat[:, 1] = 1
        flat[:, 2 : self.active] = 255
        return flat.reshape(3, self.side, self.side, 3)

    def filter(self, middle: int) -> tuple[list[int], int, int] | None:
        """Weights of the active values, bias and its shift; None beyond 32 bits."""
        first = middle - 1
        shift = max(0, abs(first).bit_length() - 7)
        bias = max(-128, min(127, (first + (1 << shift >> 1)) >> shift))
        small = (first - (bias << shift) + 127) % 255 - 127
        rest, remainder = divmod(first - (bias << shift) - small, 255)
        assert remainder == 0
        weights = [1, small]
        while len(weights) < self.active:
            weights.append(max(-127, min(127, rest)))
            rest -= weights[-1]
        if rest or abs(first) > INT32_MAX - 2:
            return None
        return weights, bias, shift

    def program(self, chosen: Sequence[Case], bits: int, relu: bool) -> tuple[Program, list[Case]]:
        """The layer of those cases whose buffers are proven not to overflow."""
        kept, weights, biases, shifts = [], [], [], []
        for case in chosen:
            small = case.multiplier > 0 and case.shift > 0
            found = ([0] * self.active, 0, 0) if small else self.filter(case.middle)
            if found is None:
                continue
            active, bias, shift = found
            slack = 0 if small else self.slack * (self.values - self.active)
            worst = 255 * (sum(map(abs, active)) + slack) + (abs(bias) << shift)
            product = worst * case.multiplier
            real = product << case.shift if case.shift >= 0 else product >> -case.shift
            if worst > INT32_MAX or real + 1 > INT32_MAX:
                continue
            kept.append(Case(case.multiplier, case.shift, 0) if small else case)
            fill = 0 if small else self.slack
            weights.append(active + [fill] * (self.values - self.active))
            biases.append(bias)
            shifts.append(shift)
        filters = len(kept)
        layer = InputConv2D(
            name="layer",
            inputs=("in",),
            output="out",
            weights=np.array(weights, np.int8).reshape(filters, self.side, self.side, 3),
            bias=Bias(np.array(biases, np.int8), np.array(shifts, np.uint8)),
            activation=ReLU() if relu else NoActivation(),
            rescale=Rescale(
                np.array([case.multiplier for case in kept], np.uint8),
                np.array([case.shift for case in kept], np.int8),
            ),
            stride=Size2D(1, 1),
            padding=Padding.VALID,
            padding_value=np.zeros(3, np.uint8),
            output_bits=bits,
        )
        shape = (self.side, self.side, 3)
        tensors = {
            "in": DeviceTensor("in", shape, Code((1.0,), signed=False)),
            "out": DeviceTensor("out", (1, 1, filters), Code((1.0,), bits=bits, signed=bits != 4)),
        }
        ramp = np.arange(256, dtype=np.int16)
        port = InputPort("x", DType.UINT8, (None, *shape), "in", ramp)
        sink = OutputPort(
            "y", DType.INT16, (None, filters), "out", np.array([1.0]), 0, -(2**15), 2**15 - 1
        )
        return Program("thresholds", "akida2", tensors, (layer,), port, sink), kept


def assert_outputs(
    sets: Sequence[str], chosen: Sequence[Case], *, bits: int, relu: bool, slack: bool
) -> int:
    """Compares all cases; returns how many there were."""
    layer = Layer(slack)
    low, high = LIMITS[bits]
    limits = (max(low, 0) if relu else low, high)
    count = 0
    for start in range(0, len(chosen), MAX_FILTERS):
        program, kept = layer.program(chosen[start : start + MAX_FILTERS], bits, relu)
        expected = [
            [
                output(case.multiplier, case.shift, case.middle + step, limits)
                if case.middle or case.shift <= 0 or case.multiplier == 0
                else 0
                for case in kept
            ]
            for step in (-1, 0, 1)
        ]
        count += 3 * len(kept)
        for name in sets:
            got = NativeEngine(program, instruction_set=name).run(layer.image())
            np.testing.assert_array_equal(got, np.array(expected, np.int16), err_msg=name)
    return count


NEAR = (-127, -126, -1, 0, 1, 2, 15, 126, 127)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("relu", [False, True], ids=["signed", "relu"])
def test_outputs_change_where_python_integers_say(
    bits: int, relu: bool, runnable_sets: tuple[str, ...]
) -> None:
    codes = NEAR if bits == 8 else (1, 2, 14, 15)
    chosen = list(cases(bits, codes, range(-32, 32)))
    assert assert_outputs(runnable_sets, chosen, bits=bits, relu=relu, slack=False) > 50_000


def test_outputs_stay_exact_where_the_engine_must_reckon_with_more(
    runnable_sets: tuple[str, ...],
) -> None:
    chosen = list(cases(8, (-127, 0, 127), range(-32, 1)))[::5]
    assert assert_outputs(runnable_sets, chosen, bits=8, relu=False, slack=True) > 5000


@pytest.mark.full
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("last", range(-32, 1, 3))
def test_outputs_change_at_every_threshold(
    bits: int, last: int, runnable_sets: tuple[str, ...]
) -> None:
    low, high = LIMITS[bits]
    chosen = list(cases(bits, range(low + 1, high + 1), range(max(-32, last - 2), last + 1)))
    assert assert_outputs(runnable_sets, chosen, bits=bits, relu=False, slack=False) > 0


def constant_layer(chosen: Sequence[tuple[int, int, int]]) -> Program:
    """Filters that only have a bias: (multiplier, shift, bias)."""
    layer = Layer(slack=False)
    program, _ = layer.program([Case(0, 0, 1)] * len(chosen), 8, relu=False)
    (only,) = program.layers
    assert isinstance(only, InputConv2D)
    multiplier, shift, bias = (np.array(column) for column in zip(*chosen, strict=True))
    only.weights[:] = 0
    only.bias.value[:] = bias
    only.bias.shift[:] = 0
    only.rescale.multiplier[:] = multiplier
    only.rescale.shift[:] = shift
    return program


def test_left_shifts_saturate_every_accumulator_but_zero(runnable_sets: tuple[str, ...]) -> None:
    chosen = [
        (multiplier, shift, bias)
        for multiplier in range(256)
        for shift in range(32)
        for bias in (-1, 0, 1)
        if abs(bias) * multiplier << shift <= INT32_MAX
    ]
    program = constant_layer(chosen)
    expected = [output(m, s, b, (-128, 127)) for m, s, b in chosen]
    beyond = [e for e, (m, s, b) in zip(expected, chosen, strict=True) if b and m and s >= 8]
    assert set(beyond) == {-128, 127}
    x = np.zeros((1, 7, 7, 3), np.uint8)
    for name in runnable_sets:
        got = NativeEngine(program, instruction_set=name).run(x)
        assert got.ravel().tolist() == expected, name
