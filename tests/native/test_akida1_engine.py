# SPDX-License-Identifier: Apache-2.0
"""Akida 1.0 in the native engine: every integer of the simulator, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from akida1_strategies import seeded_akida1_program
from chained_akida1 import Akida1Chain
from engine_equality import assert_equals_the_simulator, assert_same
from program_strategies import random_input

from akida_backend.engine import NativeEngine
from akida_backend.graph import Size2D
from akida_backend.program import MaxPool, Padding, Program
from akida_backend.simulator import Simulator

SEEDS_IN_CI = 200
TWO = Size2D(2, 2)
THREE = Size2D(3, 3)


@pytest.mark.parametrize("first", range(0, SEEDS_IN_CI, 50))
def test_random_programs_equal_the_simulator(first: int, runnable_sets: tuple[str, ...]) -> None:
    for seed in range(first, first + 50):
        assert_equals_the_simulator(seeded_akida1_program(seed), runnable_sets, seed=seed)


@pytest.mark.parametrize("first", range(0, 20, 5))
def test_random_programs_of_many_channels_equal_the_simulator(
    first: int, runnable_sets: tuple[str, ...]
) -> None:
    for seed in range(first, first + 5):
        program = seeded_akida1_program(seed, max_layers=5, channels=90)
        assert_equals_the_simulator(program, runnable_sets, seed=seed, batches=(3,))


@pytest.mark.full
@pytest.mark.parametrize("first", range(SEEDS_IN_CI, 5200, 100))
def test_thousands_of_random_programs_equal_the_simulator(
    first: int, runnable_sets: tuple[str, ...]
) -> None:
    for seed in range(first, first + 100):
        program = seeded_akida1_program(seed, max_layers=6, channels=8)
        assert_equals_the_simulator(program, runnable_sets, seed=seed)


@pytest.mark.full
@pytest.mark.parametrize("first", range(20, 320, 20))
def test_hundreds_of_programs_of_many_channels_equal_the_simulator(
    first: int, runnable_sets: tuple[str, ...]
) -> None:
    for seed in range(first, first + 20):
        program = seeded_akida1_program(seed, max_layers=5, channels=90)
        assert_equals_the_simulator(program, runnable_sets, seed=seed, batches=(1, 3))


# What random programs do not reach


def mobile_network() -> Program:
    """Blocks of every width, strides of 1 and 2, a global average, int32 potentials."""
    chain = Akida1Chain(1).image(48, 40)
    chain.stem(8, 3, 2)
    for filters, stride in ((16, 1), (32, 2), (48, 1), (96, 2), (152, 1), (64, 1)):
        chain.separable(filters, 3, stride)
    chain.conv(64, average=True, weights=np.eye(64, dtype=np.int8)[:, None, None, :])
    chain.dense(23, bits=32)
    return chain.build()


def convolutions() -> Program:
    chain = Akida1Chain(2).image(33, 30, 1)
    chain.stem(24, 5, padding=Padding.VALID, pool=MaxPool(TWO, TWO, Padding.VALID))
    chain.conv(40, 3, 2, bits=2)
    chain.conv(70, 3, pool=MaxPool(THREE, TWO, Padding.SAME), weights_bits=2, bits=1)
    chain.conv(17, 7, weights_bits=1)
    chain.dense(90)
    chain.dense(11, bits=1)
    return chain.build()


def large_maps() -> Program:
    """More memory than a cache holds: tensors take the places of earlier ones, borders too."""
    chain = Akida1Chain(3).image(120, 110)
    chain.stem(24)
    chain.separable(40, 3, 2)
    chain.separable(40, 5)
    chain.conv(40, 3)
    chain.conv(12, 3, 3)
    return chain.build()


def potentials(layer: Callable[[Akida1Chain], object]) -> Callable[[], Program]:
    """Int32 potentials of a layer over maps of 19 channels."""

    def build() -> Program:
        chain = Akida1Chain(4).map(9, 7, 19)
        layer(chain)
        return chain.build()

    return build


def digits(kernel: Size2D, *, bits: int = 4, weights_bits: int = 4) -> Callable[[], Program]:
    """A separable layer whose depthwise sums take more than 8 bits."""

    def build() -> Program:
        chain = Akida1Chain(5).map(3, 4, 37, bits=bits)
        chain.separable(21, kernel, weights_bits=weights_bits)
        return chain.build()

    return build


def extreme_digits() -> Program:
    """Depthwise weights that all are the smallest, or the largest."""
    chain = Akida1Chain(6).map(6, 6, 64)
    weights = np.full((1, 3, 3, 64), -8, np.int8)
    weights[..., ::2] = 7
    chain.separable(64, weights=weights)
    return chain.build()


def third_digits() -> Program:
    """Depthwise sums that are far above their lowest value next to the border."""
    chain = Akida1Chain(15).map(30, 31, 6)
    chain.separable(5, weights=np.full((1, 25, 28, 6), -8, np.int8))
    return chain.build()


def listed_digits(
    channels: int, *, extreme: bool = False, map_shape: tuple[int, int] = (9, 7)
) -> Callable[[], Program]:
    """A separable layer of so many channels that the rare second digits are listed.

    Extreme: weights that give every sum such a digit, above the usual one or below.
    """

    def build() -> Program:
        chain = Akida1Chain(14).map(*map_shape, channels)
        weights = None
        if extreme:
            weights = np.full((1, 3, 3, channels), -8, np.int8)
            weights[..., channels // 2 :] = 7
            weights[:, 1:, :, ::2] = weights[:, :, 1:, ::2] = 0  # always within 8 bits
        chain.separable(channels + 7, weights=weights)
        chain.separable(40, 3, 2)
        return chain.build()

    return build


def long_sums() -> Program:
    """Depthwise sums of 25 bits, four digits."""
    chain = Akida1Chain(7).map(2, 1, 2)
    chain.separable(3, Size2D(4, 65535), bits=32)
    return chain.build()


def tall_staircases(step: float) -> Callable[[], Program]:
    """Potentials of 23 bits under staircases that the cheaper forms do not fit."""

    def build() -> Program:
        chain = Akida1Chain(8, step=step).image(16, 16)
        chain.stem(37, 15)
        return chain.build()

    return build


def joined_pixels() -> Program:
    """Narrow layers whose neighbouring pixels share a vector, also next to a border."""
    chain = Akida1Chain(9).image(16, 24)
    chain.stem(4, 3, 1)
    chain.conv(2, 3)
    chain.separable(3, 3)
    chain.conv(8, 1, 2)
    chain.separable(5, 5)
    chain.conv(3, 3)
    return chain.build()


def separate_channels() -> Program:
    """Convolutions whose filters read one channel each."""
    chain = Akida1Chain(10).map(9, 8, 20)
    kernel = chain.rng.integers(-8, 8, (20, 3, 3)).astype(np.int8)
    chain.conv(20, 3, weights=kernel[..., None] * np.eye(20, dtype=np.int8)[:, None, None, :])
    chain.conv(20, 1, average=True, weights=np.eye(20, dtype=np.int8)[:, None, None, :])
    return chain.build()


def separate_potentials() -> Program:
    """The same at the end, where channels stand as the host reads them."""
    chain = Akida1Chain(16).map(9, 8, 52)
    kernel = chain.rng.integers(-8, 8, (52, 3, 3)).astype(np.int8)
    own = np.eye(52, dtype=np.int8)[:, None, None, :]
    chain.conv(52, 3, bits=32, weights=kernel[..., None] * own)
    return chain.build()


@pytest.mark.parametrize("phase", range(4))
@pytest.mark.parametrize(("kernel", "channels"), [(7, 79), (5, 127), (3, 255)])
def test_sums_of_joined_pixels_fit_their_16_bits(
    kernel: int, channels: int, phase: int, runnable_sets: tuple[str, ...]
) -> None:
    """Neighbouring weights that are far larger in one pairing than in the other."""
    chain = Akida1Chain(17).map(2, 16, channels)
    row = np.array([0, -8, -8, 0], np.int8)[(np.arange(kernel * channels) + phase) % 4]
    weights = np.broadcast_to(row.reshape(kernel, channels), (3, kernel, kernel, channels))
    chain.conv(3, kernel, weights=weights)
    program = chain.build()
    x = np.full((1, 2, 16, channels), 255, np.uint8)
    expected = Simulator(program).run(x)
    for name in runnable_sets:
        assert_same(NativeEngine(program, instruction_set=name).run(x), expected, name)


def two_parts(sign: int, *, dense: bool, per_channel: bool = False) -> Callable[[], Program]:
    """Weights of the second part are those of the first one times `sign`; 0: others."""

    def build() -> Program:
        chain = Akida1Chain(11).two_parts(6, 5, 4, per_channel=per_channel)
        shape = (9, 6, 5, 8) if dense else (9, 3, 3, 8)
        weights = chain.rng.integers(-7, 8, shape).astype(np.int8)
        if sign:
            weights[..., 4:] = sign * weights[..., :4]
        if dense:
            chain.dense(9, weights=weights.reshape(9, -1))
        else:
            chain.conv(9, 3, weights=weights)
        return chain.build()

    return build


POOL = MaxPool(TWO, Size2D(1, 3), Padding.SAME)


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(mobile_network, id="mobile"),
        pytest.param(convolutions, id="convolutions"),
        pytest.param(large_maps, id="large-maps"),
        pytest.param(potentials(lambda c: c.conv(45, 3, bits=32)), id="wide-conv"),
        pytest.param(potentials(lambda c: c.conv(45, 3, bits=32, pool=POOL)), id="wide-pool"),
        pytest.param(potentials(lambda c: c.conv(45, bits=32, average=True)), id="wide-average"),
        pytest.param(potentials(lambda c: c.separable(45, bits=32)), id="wide-separable"),
        pytest.param(
            potentials(lambda c: c.separable(70, bits=32, pool=POOL)), id="wide-separable-pool"
        ),
        pytest.param(
            potentials(lambda c: c.separable(9, 1, bits=32, average=True)),
            id="wide-separable-average",
        ),
        pytest.param(potentials(lambda c: c.dense(130, bits=32)), id="wide-dense"),
        pytest.param(digits(Size2D(1, 1)), id="one-digit"),
        pytest.param(digits(THREE, bits=2), id="one-digit-of-2-bits"),
        pytest.param(digits(THREE), id="two-digits"),
        pytest.param(digits(Size2D(5, 5), weights_bits=2), id="two-digits-of-6-bits"),
        pytest.param(digits(Size2D(12, 12)), id="two-digits-of-8-bits"),
        pytest.param(digits(Size2D(40, 40)), id="three-digits"),
        pytest.param(extreme_digits, id="extreme-digits"),
        pytest.param(third_digits, id="third-digits"),
        pytest.param(listed_digits(128), id="listed-digits"),
        pytest.param(listed_digits(203), id="listed-digits-203-channels"),
        pytest.param(listed_digits(517), id="listed-digits-517-channels"),
        pytest.param(listed_digits(160, extreme=True), id="listed-digits-extreme"),
        pytest.param(listed_digits(161, map_shape=(1, 1)), id="listed-digits-one-pixel"),
        pytest.param(listed_digits(130, map_shape=(3, 61)), id="listed-digits-long-rows"),
        pytest.param(
            potentials(lambda c: [c.conv(131), c.separable(45, bits=32, pool=POOL)]),
            id="listed-digits-wide-pool",
        ),
        pytest.param(long_sums, id="four-digits", marks=pytest.mark.full),
        pytest.param(tall_staircases(1 / 5000), id="staircase-clamped"),
        pytest.param(tall_staircases(1 / 1000), id="staircase-split"),
        pytest.param(tall_staircases(1 / 20), id="staircase-counted"),
        pytest.param(joined_pixels, id="joined-pixels"),
        pytest.param(separate_channels, id="separate-channels"),
        pytest.param(separate_potentials, id="separate-potentials"),
        pytest.param(two_parts(1, dense=False), id="two-parts-joined"),
        pytest.param(two_parts(-1, dense=False), id="two-parts-subtracted"),
        pytest.param(two_parts(-1, dense=True), id="two-parts-subtracted-dense"),
        pytest.param(two_parts(0, dense=False), id="two-parts"),
        pytest.param(
            two_parts(-1, dense=False, per_channel=True), id="two-parts-per-channel-subtracted"
        ),
        pytest.param(two_parts(0, dense=True, per_channel=True), id="two-parts-per-channel"),
    ],
)
def test_special_programs_equal_the_simulator(
    build: Callable[[], Program], runnable_sets: tuple[str, ...]
) -> None:
    program = build()
    outputs = Simulator(program).run(random_input(program, 0, 9))
    assert outputs.min() < outputs.max()
    assert_equals_the_simulator(program, runnable_sets, batches=(1, 3, 9))


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_separable_layers_of_all_widths_equal_the_simulator(
    kernel: int, stride: int, runnable_sets: tuple[str, ...]
) -> None:
    for channels in (1, 3, 8, 12, 16, 28, 33, 64, 100):
        chain = Akida1Chain(channels).map(11, 9, channels)
        chain.separable(channels + 5, kernel, stride)
        assert_equals_the_simulator(chain.build(), runnable_sets, batches=(2,))


def test_work_is_shared_by_threads_within_one_sample(runnable_sets: tuple[str, ...]) -> None:
    chain = Akida1Chain(13).map(40, 40, 32)
    chain.separable(64, 3)
    chain.separable(64, 5, weights_bits=2)
    chain.conv(9, average=True, weights_bits=1, weights=np.eye(9, 64, dtype=np.int8)[:, None, None])
    program = chain.build()
    x = random_input(program, 0, 1)
    expected = Simulator(program).run(x)
    for name in runnable_sets:
        engine = NativeEngine(program, threads=4, instruction_set=name)
        for _ in range(20):
            assert_same(engine.run(x), expected, name)
