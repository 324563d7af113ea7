# SPDX-License-Identifier: Apache-2.0
"""Akida 1.0 programs: the simulator against Python's integers, and layers worked out by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import scalar_model
from akida1_strategies import akida1_options_of, akida1_programs, seeded_akida1_program
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from program_samples import ONE, TWO, levels, sound, sound_akida1, steps, thresholds
from program_strategies import random_device_input, random_input

from akida_backend.graph import DType, Size2D
from akida_backend.program import (
    Akida1Layer,
    Code,
    Convolutional,
    DeviceTensor,
    FullyConnected,
    InputConvolutional,
    InputPort,
    MaxPool,
    NoActivation,
    OutputPort,
    Padding,
    Program,
    SeparableConvolutional,
)
from akida_backend.program_check import layer_macs, output_size
from akida_backend.simulator import Simulator, run_layer, run_layers, run_program

SEEDS_IN_CI = 300


def assert_equals_the_scalar_model(program: Program, seed: int) -> None:
    device_input = random_device_input(program, seed, batch=2)
    got = run_layers(program, device_input)
    assert got.keys() == program.tensors.keys()
    for sample, codes in enumerate(device_input.tolist()):
        for name, expected in scalar_model.run_layers(program, codes).items():
            assert got[name][sample].tolist() == expected, f"tensor '{name}'"
    x = random_input(program, seed, batch=2)
    stored, codes = run_program(program, x, raw=True)
    for sample, values in enumerate(x.reshape(len(x), -1).tolist()):
        layers = scalar_model.run_layers(program, scalar_model.host_codes(program, values))
        expected = layers[program.output.device]
        assert codes[sample].tolist() == expected
        assert stored[sample].ravel().tolist() == scalar_model.host_integers(program, expected)


@settings(max_examples=100, deadline=None)
@given(akida1_programs(), st.integers(0, 2**32))
def test_every_tensor_equals_the_scalar_model(program: Program, seed: int) -> None:
    assert_equals_the_scalar_model(program, seed)


@pytest.mark.parametrize("first", range(0, SEEDS_IN_CI, 50))
def test_seeded_programs_equal_the_scalar_model(first: int) -> None:
    for seed in range(first, first + 50):
        assert_equals_the_scalar_model(seeded_akida1_program(seed), seed)


@pytest.mark.full
@pytest.mark.parametrize("first", range(SEEDS_IN_CI, 3000, 100))
def test_many_seeded_programs_equal_the_scalar_model(first: int) -> None:
    for seed in range(first, first + 100):
        program = seeded_akida1_program(seed, max_layers=6, channels=8)
        assert_equals_the_scalar_model(program, seed)


LAYERS = ("InputConvolutional", "Convolutional", "SeparableConvolutional", "FullyConnected")


def test_seeds_of_ci_reach_every_layer_type_and_option() -> None:
    wanted = {"input of 1 parts", "input of 2 parts", "table per channel"}
    wanted |= {f"{layer} to {bits} bits" for layer in LAYERS for bits in (1, 2, 4, 32)}
    wanted |= {f"{layer} from {bits} bits" for layer in LAYERS[1:] for bits in (1, 2, 4)}
    wanted |= {f"{layer} weights of {bits} bits" for layer in LAYERS[1::2] for bits in (1, 2, 4)}
    wanted |= {f"{layer} weights of {bits} bits" for layer in LAYERS[2:3] for bits in (2, 4)}
    wanted |= {f"{LAYERS[0]} weights of {bits} bits" for bits in (1, 4, 5, 8)}
    wanted |= {f"{LAYERS[0]} {kind}" for kind in ("same", "valid", "pool same", "pool valid")}
    wanted |= {f"{layer} pool same" for layer in LAYERS[1:3]}
    wanted |= {f"{layer} global average" for layer in LAYERS[1:3]}
    wanted |= {f"{layer} kernel {side}" for layer in LAYERS[:3] for side in (1, 3, 5, 7)}
    wanted |= {f"{layer} kernel not square" for layer in LAYERS[:3]}
    wanted |= {f"{layer} stride {step}" for layer in LAYERS[:3] for step in (1, 2, 3)}
    wanted |= {f"{LAYERS[1]} diagonal to {bits} bits" for bits in (1, 2, 4, 32)}
    seen = Counter(
        option
        for seed in range(SEEDS_IN_CI)
        for option in akida1_options_of(seeded_akida1_program(seed))
    )
    assert wanted - seen.keys() == set()


def test_seeded_programs_reach_every_level() -> None:
    seen: Counter[int] = Counter()
    for seed in range(40):
        program = seeded_akida1_program(seed)
        for name, values in run_layers(program, random_device_input(program, seed, 2)).items():
            if program.tensors[name].code.bits == 4 and name != program.input.device:
                seen.update(values.ravel().tolist())
    assert set(seen) == set(range(16))


# Layers by hand


def outcome(layer: Akida1Layer, x: NDArray[np.int64]) -> list[object]:
    """Output of one layer on one sample, by the simulator alone and within a program."""
    alone = run_layer(layer, (x[None],))[0].tolist()
    image = isinstance(layer, InputConvolutional)
    code = Code((1.0,), signed=False) if image else levels(4)
    bits = layer.output_bits
    output = DeviceTensor(
        "y", output_size(layer, x.shape), Code((1.0,), bits=bits, signed=bits == 32)
    )
    program = Program(
        name="one",
        device="akd1000",
        tensors={"x": DeviceTensor("x", x.shape, code), "y": output},
        layers=(layer,),
        input=InputPort("x", DType.UINT8, (None, *x.shape), "x", np.zeros(256, np.int16)),
        output=OutputPort(
            "y",
            DType.INT32,
            (None, math.prod(output.shape)),
            "y",
            np.ones(1),
            0,
            -(2**31),
            2**31 - 1,
        ),
    )
    assert run_layers(program, x[None])["y"][0].tolist() == alone
    return list(alone)


def test_image_border_holds_the_padding_value() -> None:
    layer = InputConvolutional(
        name="c",
        inputs=("x",),
        output="y",
        weights=np.ones((1, 3, 3, 1), np.int8),
        weights_bits=8,
        threshold=thresholds(1),
        activation=NoActivation(),
        output_bits=32,
        stride=ONE,
        padding=Padding.SAME,
        padding_value=7,
    )
    assert outcome(layer, np.array([[[1], [2]]])) == [[[7 * 7 + 3], [7 * 7 + 3]]]


def test_other_borders_hold_zero_and_kernels_are_not_flipped() -> None:
    layer = Convolutional(
        name="c",
        inputs=("x",),
        output="y",
        weights=np.array([1, 2, 3], np.int8).reshape(1, 1, 3, 1),
        threshold=thresholds(1),
        activation=NoActivation(),
        output_bits=32,
        stride=ONE,
    )
    assert outcome(layer, np.array([[[1], [0], [0], [2]]])) == [[[2], [1], [6], [4]]]


def test_maxima_are_of_potentials_so_a_negative_step_of_weights_matters() -> None:
    """Pooled levels would be 1 and 1 for the second filter, whose threshold lies high."""
    layer = Convolutional(
        name="c",
        inputs=("x",),
        output="y",
        weights=np.array([[[[-1]]], [[[1]]]], np.int8),
        threshold=thresholds(2, -4),
        activation=steps(2, step=2),
        stride=ONE,
        pool=MaxPool(TWO, TWO, Padding.SAME),
    )
    x = np.array([[[1], [9], [5]], [[4], [2], [5]]])
    # potentials pooled: -1 and 9, -5 and 5; then ceil((p + 4) / 2)
    assert outcome(layer, x) == [[[2, 7], [0, 5]]]


def test_global_average_is_a_sum_in_front_of_the_activation() -> None:
    layer = Convolutional(
        name="c",
        inputs=("x",),
        output="y",
        weights=np.array([[[[1]]], [[[-1]]]], np.int8),
        threshold=thresholds(2, 6),
        activation=steps(2, step=5),
        stride=ONE,
        global_average=True,
    )
    # sums 21 and -21: ceil(15 / 5) = 3; levels of single potentials would all be 0
    assert outcome(layer, np.array([[[4], [5]], [[6], [6]]])) == [[[3, 0]]]


def test_nothing_stands_between_the_halves_of_a_separable_layer() -> None:
    layer = SeparableConvolutional(
        name="s",
        inputs=("x",),
        output="y",
        weights=np.array([[[[2, -3]]]], np.int8),
        pointwise_weights=np.array([[1, 1], [-1, -2]], np.int8),
        threshold=thresholds(2),
        activation=NoActivation(),
        output_bits=32,
        stride=ONE,
    )
    # depthwise: 2 * 5 = 10 and -3 * 4 = -12, unclipped
    assert outcome(layer, np.array([[[5, 4]]])) == [[[-2, 14]]]


def test_fully_connected_reads_rows_before_columns_before_channels() -> None:
    layer = FullyConnected(
        name="f",
        inputs=("x",),
        output="y",
        weights=np.array([[1, 2, 3, 4]], np.int8),
        threshold=thresholds(1),
        activation=NoActivation(),
        output_bits=32,
    )
    assert outcome(layer, np.array([[[1, 0]], [[0, 5]]])) == [[[21]]]


@pytest.mark.parametrize("batch", [0, 1, 7])
def test_batch_size_and_working_memory_change_nothing(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = seeded_akida1_program(11)
    x = random_input(program, 3, batch)
    whole = run_program(program, x)
    monkeypatch.setattr("akida_backend.simulator.WORKING_BYTES", 1)
    np.testing.assert_array_equal(Simulator(program).run(x), whole)
    assert len(whole) == batch


def test_a_program_knows_its_generation() -> None:
    assert sound_akida1().generation == 1
    assert sound().generation == 2


def test_both_halves_of_a_separable_layer_count_as_macs() -> None:
    *_, separable, _ = sound_akida1().layers
    assert layer_macs(separable, (3, 3, 4)) == 9 * (9 * 4 + 4 * 6)
    assert output_size(separable, (3, 3, 4)) == (1, 1, 6)


def test_largest_potentials_a_device_can_hold_stay_exact() -> None:
    """A separable layer of 2048 channels and 7x7 kernels, every product at its limit."""
    layer = SeparableConvolutional(
        name="s",
        inputs=("x",),
        output="y",
        weights=np.full((1, 7, 7, 2048), -8, np.int8),
        pointwise_weights=np.stack([np.full(2048, -8, np.int8), np.full(2048, 7, np.int8)]),
        threshold=thresholds(2),
        activation=NoActivation(),
        output_bits=32,
        stride=Size2D(7, 7),
    )
    x = np.full((1, 7, 7, 2048), 15, np.int64)
    depthwise = 49 * -8 * 15
    assert run_layer(layer, (x,)).tolist() == [[[[depthwise * -8 * 2048, depthwise * 7 * 2048]]]]
