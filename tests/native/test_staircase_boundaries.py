# SPDX-License-Identifier: Apache-2.0
"""Staircases of Akida 1.0 at potentials around which the level changes, on Python integers.

One InputConvolutional whose filters share their weights, so each has the same potential, but not
their staircases. A sample's image is made to give the potential that is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from akida_backend.engine import NativeEngine
from akida_backend.graph import DType, Size2D
from akida_backend.program import (
    Code,
    DeviceTensor,
    InputConvolutional,
    InputPort,
    OutputPort,
    Padding,
    Program,
    StepActivation,
)


@dataclass(frozen=True)
class Staircase:
    threshold: int
    step: int
    step_shift: int

    def level(self, potential: int, bits: int) -> int:
        """``clip(ceil((potential - threshold) * 2**step_shift / step))`` by its definition."""
        count = -((self.threshold - potential << self.step_shift) // self.step)
        return min(max(count, 0), (1 << bits) - 1)

    def boundaries(self, bits: int) -> list[int]:
        """Per level from 1 on the largest potential below it."""
        return [
            self.threshold + (steps * self.step >> self.step_shift)
            for steps in range((1 << bits) - 1)
        ]


def test_levels_change_at_their_boundaries() -> None:
    for staircase in (Staircase(-5, 3, 0), Staircase(7, 2**24 - 1, 24), Staircase(0, 10**6, 3)):
        for number, at in enumerate(staircase.boundaries(4), 1):
            assert staircase.level(at, 4) < number <= staircase.level(at + 1, 4)


class Layer:
    """Potentials of a reach that depends on `side`: about 16,000 times its square, both ways."""

    def __init__(self, side: int) -> None:
        self.shape = (side, side, 3)
        self.each = side * side  # values that count 127, and -128
        weights = np.zeros(3 * side * side, np.int8)
        weights[0] = 1
        weights[1 : 1 + self.each] = 127
        weights[1 + self.each : 1 + 2 * self.each] = -128
        self.weights = weights
        self.reach = 127 * 255 * self.each

    def image(self, potential: int) -> list[int]:
        values = [0] * self.weights.size
        if potential >= 0:
            many, values[0] = divmod(potential, 127)
            first = 1
        else:
            many = -(potential // 128)
            values[0] = potential + 128 * many
            first = 1 + self.each
        whole, rest = divmod(many, 255)
        values[first : first + whole] = [255] * whole
        if rest:
            values[first + whole] = rest
        assert int(self.weights.astype(np.int64) @ np.array(values)) == potential
        return values

    def images(self, potentials: Sequence[int]) -> NDArray[np.uint8]:
        values = [self.image(potential) for potential in potentials]
        return np.array(values, np.uint8).reshape(-1, *self.shape)

    def program(self, staircases: Sequence[Staircase], bits: int) -> Program:
        filters = len(staircases)
        layer = InputConvolutional(
            name="layer",
            inputs=("in",),
            output="out",
            weights=np.tile(self.weights, filters).reshape(filters, *self.shape),
            weights_bits=8,
            threshold=np.array([each.threshold for each in staircases], np.int32),
            activation=StepActivation(
                np.array([each.step for each in staircases], np.uint32),
                np.array([each.step_shift for each in staircases], np.uint8),
            ),
            output_bits=bits,
            stride=Size2D(1, 1),
            padding=Padding.VALID,
            padding_value=0,
        )
        tensors = {
            "in": DeviceTensor("in", self.shape, Code((1.0,), signed=False)),
            "out": DeviceTensor("out", (1, 1, filters), Code((1.0,), bits=bits, signed=False)),
        }
        ramp = np.arange(256, dtype=np.int16)
        port = InputPort("x", DType.UINT8, (None, *self.shape), "in", ramp)
        sink = OutputPort("y", DType.UINT8, (None, filters), "out", np.array([1.0]), 0, 0, 255)
        return Program("staircases", "akd1000", tensors, (layer,), port, sink)


def staircases(reach: int, bits: int, count: int, seed: int) -> list[Staircase]:
    """Of steps from a fraction of one potential to more than the reach, all around it."""
    random = Random(seed)
    chosen = []
    for _ in range(count):
        real = 2.0 ** random.uniform(-4, np.log2(2 * reach / 2**bits))
        if random.random() < 0.3:
            real = round(real) or 1
        shift = random.randint(0, 24) if random.random() < 0.7 else 0
        shift = min(shift, int(23 - np.log2(max(real, 1))))
        step = min(max(round(real * 2**shift), 1), 2**24 - 1)
        height = step * 2**bits >> shift
        threshold = random.randint(-reach, max(reach - height, 1 - reach))
        chosen.append(Staircase(threshold, step, shift))
    far = [Staircase(t, s, 0) for t in (-(2**31), 2**31 - 1) for s in (1, 1000, 2**24 - 1)]
    return chosen + far


def assert_levels(sets: Sequence[str], side: int, bits: int, chosen: Sequence[Staircase]) -> int:
    """Compares every staircase at its own boundaries and those of all others."""
    layer = Layer(side)
    potentials = {-layer.reach, 0, layer.reach}
    for staircase in chosen:
        for at in staircase.boundaries(bits):
            potentials |= {p for p in (at, at + 1) if abs(p) <= layer.reach}
    order = sorted(potentials)
    expected = np.array([[each.level(p, bits) for each in chosen] for p in order], np.uint8)
    program, images = layer.program(chosen, bits), layer.images(order)
    for name in sets:
        got = NativeEngine(program, instruction_set=name).run(images)
        np.testing.assert_array_equal(got, expected, err_msg=name)
    return len(order)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("side", [1, 3, 7])
def test_levels_change_where_python_integers_say(
    side: int, bits: int, runnable_sets: tuple[str, ...]
) -> None:
    layer = Layer(side)
    tried = sum(
        assert_levels(runnable_sets, side, bits, staircases(layer.reach, bits, 10, seed))
        for seed in range(20)
    )
    assert tried > 200


def test_steps_that_no_multiplication_can_tell_apart_are_counted(
    runnable_sets: tuple[str, ...],
) -> None:
    chosen = [Staircase(-7 * step, step, 0) for step in range(99_991, 120_000, 2003)]
    assert assert_levels(runnable_sets, 9, 4, chosen) > 200


@pytest.mark.full
@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("side", [1, 2, 4, 7, 11])
def test_levels_of_many_staircases(side: int, bits: int, runnable_sets: tuple[str, ...]) -> None:
    layer = Layer(side)
    for seed in range(100, 160):
        chosen = staircases(layer.reach, bits, 12, seed)
        assert assert_levels(runnable_sets, side, bits, chosen) > 3
