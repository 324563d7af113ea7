# SPDX-License-Identifier: Apache-2.0
"""The native engine against the int64 simulator: every integer equal, whatever runs it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from chained_programs import Chain
from engine_equality import assert_equals_the_simulator, assert_same
from numpy.typing import NDArray
from program_strategies import random_input, seeded_program

from akida_backend.engine import NativeEngine
from akida_backend.errors import ProgramError
from akida_backend.graph import DType, Size2D
from akida_backend.program import (
    InputConv2D,
    MaxPool,
    NoActivation,
    Padding,
    Program,
    ReLU,
    Rescale,
)
from akida_backend.simulator import Simulator

SEEDS_IN_CI = 300
TWO = Size2D(2, 2)
THREE = Size2D(3, 3)


def wide_program(seed: int) -> Program | None:
    """A random program of many channels; None for one whose accumulators could overflow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = seeded_program(seed, max_layers=6, channels=90)
    try:
        Simulator(program)
    except ProgramError:
        return None
    return program


@pytest.mark.parametrize("first", range(0, SEEDS_IN_CI, 50))
def test_random_programs_equal_the_simulator(first: int, runnable_sets: tuple[str, ...]) -> None:
    for seed in range(first, first + 50):
        assert_equals_the_simulator(seeded_program(seed), runnable_sets, seed=seed)


@pytest.mark.parametrize("first", range(0, 20, 5))
def test_random_programs_of_many_channels_equal_the_simulator(
    first: int, runnable_sets: tuple[str, ...]
) -> None:
    programs = {seed: wide_program(seed) for seed in range(first, first + 5)}
    assert any(programs.values())
    for seed, program in programs.items():
        if program is not None:
            assert_equals_the_simulator(program, runnable_sets, seed=seed, batches=(3,))


@pytest.mark.full
@pytest.mark.parametrize("first", range(SEEDS_IN_CI, 5300, 100))
def test_thousands_of_random_programs_equal_the_simulator(
    first: int, runnable_sets: tuple[str, ...]
) -> None:
    for seed in range(first, first + 100):
        program = seeded_program(seed, max_layers=6, channels=8)
        assert_equals_the_simulator(program, runnable_sets, seed=seed)


@pytest.mark.full
@pytest.mark.parametrize("first", range(20, 320, 20))
def test_hundreds_of_programs_of_many_channels_equal_the_simulator(
    first: int, runnable_sets: tuple[str, ...]
) -> None:
    programs = {seed: wide_program(seed) for seed in range(first, first + 20)}
    assert any(programs.values())
    for seed, program in programs.items():
        if program is not None:
            assert_equals_the_simulator(program, runnable_sets, seed=seed, batches=(1, 3))


# What random programs do not reach


def mobile_network() -> Program:
    """Blocks of every width, strides of 1 and 2, a global average, int32 logits."""
    chain = Chain(1).image(48, 40)
    chain.stem(8, 3, 2, activation=ReLU())
    for filters, stride in ((16, 1), (32, 2), (48, 1), (96, 2), (152, 1), (64, 1)):
        chain.depthwise(3, stride)
        chain.conv(filters)
    chain.depthwise(3)
    chain.conv(80, average=True)
    chain.dense(23, wide=True)
    return chain.build(dtype=DType.INT8, factor=2.0**-17)


@pytest.mark.parametrize("phase", range(4))
def test_sums_of_joined_pixels_fit_their_16_bits(
    phase: int, runnable_sets: tuple[str, ...]
) -> None:
    """Neighbouring weights that are far larger in one pairing than in the other."""
    chain = Chain(16).image(16, 16)
    chain.stem(4, 7, 1, activation=NoActivation())
    program = chain.build()
    (stem,) = program.layers
    assert isinstance(stem, InputConv2D)
    row = np.array([0, 31, 31, 0], np.int8)[(np.arange(21) + phase) % 4]
    rescale = Rescale(np.full(4, 100, np.uint8), np.full(4, -19, np.int8))
    weights = np.broadcast_to(row.reshape(7, 3), stem.weights.shape)
    stem = dataclasses.replace(stem, weights=weights, rescale=rescale)
    port = dataclasses.replace(
        program.input, dtype=DType.UINT8, recode=np.arange(256, dtype=np.int16)
    )
    program = dataclasses.replace(program, layers=(stem,), input=port)
    x = np.full((1, 16, 16, 3), 255, np.uint8)
    _, expected = Simulator(program).run(x, raw=True)
    assert np.unique(expected).size > 4
    for name in runnable_sets:
        _, codes = NativeEngine(program, instruction_set=name).run(x, raw=True)
        assert_same(codes, expected, name)


def residual_network() -> Program:
    """Sums in 16, 32 and 64 bits, with and without a bounded ReLU, of signed and unsigned codes."""
    chain = Chain(2).map(9, 7, 24)
    a = chain.conv(70, 3)
    b = chain.conv(70, 3, source=a, activation=NoActivation())
    c = chain.add(a, b, activation=ReLU())
    d = chain.add(c, b, shifts=(0, 7), output_shift=-7)
    e = chain.add(d, a, shifts=(20, 0), output_shift=-19, activation=chain.bound(70))
    f = chain.add(e, e, shifts=(0, 0), output_shift=9)
    g = chain.add(f, d, shifts=(0, 22), output_shift=-32)
    chain.add(g, c, shifts=(3, 0), output_shift=0, activation=chain.bound(70), output_bits=32)
    return chain.build()


def nested_concatenations() -> Program:
    """Operands that are written in place, that others read too, and twice the same."""
    chain = Chain(3).map(6, 5, 5)
    a = chain.conv(33, activation=NoActivation())
    b = chain.depthwise(3, source=a)
    c = chain.conv(7, source=b)
    d = chain.join(b, c)
    e = chain.join(a, d)
    f = chain.depthwise(5, source=e)
    g = chain.join(f, f)
    chain.conv(9, 3, source=chain.join(g, chain.conv(12, source=e)))
    return chain.build()


def two_borders() -> Program:
    """An image under two first layers whose borders hold different values."""
    chain = Chain(4).image(11, 9)
    a = chain.stem(5, 3, source="in", value=200)
    b = chain.stem(6, 5, source="in", value=3)
    c = chain.stem(4, 3, source="in", value=200)
    chain.join(chain.join(a, b), c)
    return chain.build()


def large_maps() -> Program:
    """More memory than a cache holds: tensors take the places of earlier ones, borders too."""
    chain = Chain(5).image(160, 150)
    chain.stem(24, 3, 1)
    chain.conv(40, 3, 2)
    skipped = chain.depthwise(3)
    chain.conv(40, 1)
    chain.depthwise(5)
    chain.conv(40, 3, activation=NoActivation())
    chain.add(chain.last, skipped)
    chain.conv(12, 3, 4)
    return chain.build()


def shifted_inputs() -> Program:
    """Weights that take one to four digits of 8 bits once the shifts are multiplied in."""
    chain = Chain(6).map(5, 6, 9)
    chain.conv(20, 3, input_shift=np.arange(9, dtype=np.uint8) % 3)
    chain.conv(70, input_shift=np.arange(20, dtype=np.uint8) % 9)
    last = (np.arange(70) == 5).astype(np.uint8)
    chain.conv(7, input_shift=last * 15, weights_bits=4, output_bits=4)
    weights = np.zeros((3, 1, 1, 7), np.int8)
    weights[:, 0, 0] = np.eye(3, 7, dtype=np.int8)
    chain.conv(3, input_shift=np.array([23, 16, 8, 0, 0, 0, 0], np.uint8), weights=weights)
    chain.dense(6, input_shift=np.arange(90, dtype=np.uint8) % 5, wide=True)
    return chain.build()


def transposed() -> Program:
    chain = Chain(7).map(4, 5, 17)
    chain.transpose(35, 3)
    chain.depthwise_transpose(4)
    chain.transpose(20, 4, activation=chain.table(20))
    chain.depthwise_transpose(3, activation=chain.table(20))
    return chain.build()


def pooled() -> Program:
    """Maxima in front of tables, averages of bounded and unbounded accumulators."""
    chain = Chain(8).image(30, 33)
    pool = MaxPool(THREE, TWO, Padding.SAME)
    chain.stem(18, 3, 1, pool=pool, activation=ReLU())
    chain.conv(36, 3, pool=MaxPool(TWO, TWO, Padding.VALID), activation=chain.table(36))
    chain.depthwise(3, pool=MaxPool(TWO, Size2D(1, 3), Padding.SAME), activation=chain.bound(36))
    a = chain.conv(11, average=True, activation=NoActivation())
    chain.dense(40)
    chain.depthwise(1, average=True, activation=chain.table(40))
    chain.join(a, chain.last)
    return chain.build()


def separate_channels() -> Program:
    """Convolutions whose filters read one channel each."""
    chain = Chain(9).map(9, 8, 20)
    chain.conv(20, 1, weights=np.diag(np.arange(-10, 10)).astype(np.int8)[:, None, None, :])
    kernel = chain.rng.integers(-128, 128, (20, 3, 3)).astype(np.int8)
    chain.conv(20, 3, weights=kernel[..., None] * np.eye(20, dtype=np.int8)[:, None, None, :])
    chain.conv(20, 1, average=True, weights=np.eye(20, dtype=np.int8)[:, None, None, :])
    return chain.build()


def low_bits() -> Program:
    chain = Chain(10).map(7, 7, 13, bits=4)
    chain.conv(19, 3, weights_bits=4, output_bits=4)
    a = chain.conv(19, 5, weights_bits=4, output_bits=4, activation=NoActivation())
    b = chain.depthwise(7, source=a)
    chain.add(b, chain.conv(19, source=b, output_bits=8), output_bits=4)
    chain.dense(5)
    return chain.build(dtype=DType.UINT16)


def tables_of_two_parts(shift: int) -> NDArray[np.int16]:
    """A ramp over 256 host values as the sum of two codes, beginning `shift` below -128."""
    ramp = np.arange(256) - 128 - shift
    first = np.clip(ramp, -128, 127)
    return np.concatenate([first, ramp - first]).astype(np.int16)


def two_parts(*, same: bool, dense: bool, shift: int = 37) -> Callable[[], Program]:
    """An input of two parts whose readers have equal weights for both, or not."""

    def build() -> Program:
        chain = Chain(11).two_parts(6, 5, 4, tables_of_two_parts(shift))
        shape = (9, 6, 5, 8) if dense else (9, 3, 3, 8)
        weights = chain.rng.integers(-128, 128, shape).astype(np.int8)
        if same:
            weights[..., 4:] = weights[..., :4]
        if dense:
            chain.dense(9, weights=weights.reshape(9, -1))
        else:
            chain.conv(9, 3, weights=weights)
        return chain.build()

    return build


def joined_pixels() -> Program:
    """Narrow layers whose neighbouring pixels share a vector, also next to a border."""
    chain = Chain(12).image(16, 24)
    chain.stem(4, 3, 1)
    chain.conv(2, 3)
    chain.conv(8, 1, 2)
    chain.depthwise(3)
    chain.conv(3, 3)
    return chain.build()


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(mobile_network, id="mobile"),
        pytest.param(residual_network, id="residual"),
        pytest.param(nested_concatenations, id="concatenations"),
        pytest.param(two_borders, id="two-borders"),
        pytest.param(large_maps, id="large-maps"),
        pytest.param(shifted_inputs, id="input-shifts"),
        pytest.param(transposed, id="transposed"),
        pytest.param(pooled, id="pooled"),
        pytest.param(separate_channels, id="separate-channels"),
        pytest.param(low_bits, id="low-bits"),
        pytest.param(two_parts(same=True, dense=False), id="two-parts-joined"),
        pytest.param(two_parts(same=True, dense=True), id="two-parts-joined-dense"),
        pytest.param(two_parts(same=True, dense=False, shift=-7), id="two-parts-above"),
        pytest.param(two_parts(same=True, dense=False, shift=-127), id="two-parts-hardly-negative"),
        pytest.param(two_parts(same=False, dense=False), id="two-parts"),
        pytest.param(joined_pixels, id="joined-pixels"),
    ],
)
def test_special_programs_equal_the_simulator(
    build: Callable[[], Program], runnable_sets: tuple[str, ...]
) -> None:
    assert_equals_the_simulator(build(), runnable_sets, batches=(1, 3, 9))


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_depthwise_layers_of_all_widths_equal_the_simulator(
    kernel: int, stride: int, runnable_sets: tuple[str, ...]
) -> None:
    for channels in (1, 3, 8, 12, 16, 24, 28, 33, 64, 100):
        chain = Chain(channels).map(11, 9, channels)
        chain.depthwise(kernel, stride, activation=NoActivation())
        assert_equals_the_simulator(chain.build(), runnable_sets, batches=(2,))


@pytest.mark.parametrize("filters", [1, 4, 8, 15, 16, 17, 32, 40, 48, 49, 64, 65, 96, 112, 130])
def test_convolutions_of_all_widths_equal_the_simulator(
    filters: int, runnable_sets: tuple[str, ...]
) -> None:
    for size, kernel, stride in (((1, 1), 1, 1), ((7, 7), 1, 1), ((5, 13), 3, 1), ((9, 8), 3, 2)):
        chain = Chain(filters).map(*size, 6)
        chain.conv(filters, kernel, stride, activation=NoActivation())
        assert_equals_the_simulator(chain.build(), runnable_sets, batches=(2,))


def test_work_is_shared_by_threads_within_one_sample(runnable_sets: tuple[str, ...]) -> None:
    chain = Chain(13).map(40, 40, 32)
    chain.conv(64, 3)
    chain.depthwise(5)
    chain.conv(12, weights_bits=4, average=True)
    program = chain.build()
    x = random_input(program, 0, 1)
    expected = Simulator(program).run(x)
    for name in runnable_sets:
        engine = NativeEngine(program, threads=4, instruction_set=name)
        for _ in range(20):
            assert_same(engine.run(x), expected, name)
