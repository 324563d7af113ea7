# SPDX-License-Identifier: Apache-2.0
"""Quantized chains as Akida 1.0 programs: boundaries, thresholds, steps, and what comes out."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from compiling import layers, row
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from akida_backend.akida1_exact import fixed_point_steps
from akida_backend.compiler import compile as compile_model
from akida_backend.execute import Executor, run_source
from akida_backend.graph import Activation, AnyArray, DType, Graph
from akida_backend.plan import DeviceSegment, Plan, Segment
from akida_backend.program import (
    Convolutional,
    InputConvolutional,
    SeparableConvolutional,
    StepActivation,
)
from akida_backend.program_check import check_program, potential_limits
from akida_backend.simulator import Simulator, encode_input, run_layers
from builders import GraphBuilder, random_inputs

RELU, NONE = Activation.RELU, Activation.NONE
CALIBRATED = 32


def calibrated(graph: Graph, **options: object) -> Plan:
    feeds = random_inputs(graph, CALIBRATED, seed=1)
    plan = compile_model(graph, "akd1000", calibration=feeds, **options)
    for program in plan.programs:
        check_program(program)
    return plan


def reals(graph: Graph, name: str, stored: AnyArray) -> NDArray[np.float64]:
    quantization = graph.tensors[name].quantization
    assert quantization is not None
    return (stored.astype(np.float64) - quantization.single_zero_point) * quantization.single_scale


def signal_to_noise(graph: Graph, plan: Plan) -> float:
    """Of the first output on inputs that calibration did not see, in decibels."""
    feeds = random_inputs(graph, 40, seed=2)
    name = graph.outputs[0]
    wanted = reals(graph, name, run_source(graph, feeds)[name])
    found = reals(graph, name, Executor(plan).run(feeds).values[name])
    return float(10 * np.log10((wanted**2).sum() / ((found - wanted) ** 2).sum()))


def test_an_8_bit_input_layer_alone_misses_the_source_by_roundings_only() -> None:
    b = GraphBuilder(31)
    graph = b.build(b.conv2d(b.input(12, 10, 3), 6, stride=2, activation=RELU))
    plan = calibrated(graph)
    (layer,) = layers(plan)
    assert isinstance(layer, InputConvolutional)
    feeds = random_inputs(graph, 20, seed=2)
    name = graph.outputs[0]
    wanted, found = run_source(graph, feeds)[name], Executor(plan).run(feeds).values[name]
    apart = np.abs(wanted.astype(np.int64) - found.astype(np.int64))
    assert apart.max() <= 3  # weights of 8 bits move by half a step each
    assert wanted.std() > 20


NETWORKS = {
    "image": lambda b: b.conv2d(
        b.conv2d(b.input(12, 12, 3), 8, stride=2, activation=RELU), 6, activation=RELU
    ),
    "valid image": lambda b: b.conv2d(
        b.conv2d(b.input(12, 12, 1), 8, kernel=5, padding="valid", activation=RELU), 6
    ),
    "pooled": lambda b: b.conv2d(
        b.max_pool(b.conv2d(b.input(12, 12, 3), 8, activation=RELU)), 6, activation=RELU
    ),
    "separable": lambda b: b.conv2d(
        b.conv2d(
            b.depthwise(b.conv2d(b.input(12, 12, 3), 8, activation=RELU)),
            8,
            kernel=1,
            activation=RELU,
        ),
        6,
    ),
    "summed": lambda b: b.fully_connected(
        b.mean(b.conv2d(b.conv2d(b.input(12, 12, 3), 8, activation=RELU), 8, activation=NONE)), 6
    ),
    "averaged behind a ReLU": lambda b: b.mean(
        b.conv2d(b.conv2d(b.input(9, 9, 3), 8, activation=RELU), 8, activation=RELU)
    ),
    "dense on a map": lambda b: b.fully_connected(
        b.flatten(b.conv2d(b.input(6, 6, 3), 8, stride=2, activation=RELU)), 6
    ),
    "below zero": lambda b: b.conv2d(b.conv2d(b.input(12, 12, 3), 8), 6, kernel=1, activation=RELU),
    "below zero into a separable": lambda b: b.conv2d(
        b.depthwise(b.conv2d(b.input(12, 12, 3), 8)), 6, kernel=1, activation=RELU
    ),
    "bounded": lambda b: b.conv2d(
        b.conv2d(b.input(12, 12, 3), 8, activation=Activation.RELU6), 6, activation=RELU
    ),
}


@pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8])
@pytest.mark.parametrize("kind", NETWORKS)
def test_four_bits_keep_the_signal(kind: str, dtype: DType) -> None:
    """A wrong sign, border, order or scale leaves less than 5 dB."""
    b = GraphBuilder(32, dtype=dtype)
    graph = b.build(NETWORKS[kind](b))
    plan = calibrated(graph)
    assert all(placed.on_device for placed in plan.placement)
    assert signal_to_noise(graph, plan) > 10


def test_diagonal_convolutions_keep_the_signal() -> None:
    b = GraphBuilder(33)
    x = b.conv2d(b.input(12, 12, 3), 8, activation=RELU)
    graph = b.build(b.conv2d(b.depthwise(x, activation=RELU), 6, kernel=1))
    plan = calibrated(graph, diagonal_depthwise=True)
    assert len(plan.programs) == 1
    assert signal_to_noise(graph, plan) > 10


@pytest.mark.parametrize("options", [{}, {"allow_uncalibrated": True}], ids=["64", "none"])
def test_diagonal_convolutions_take_tensors_of_both_signs(options: dict[str, bool]) -> None:
    b = GraphBuilder(35)
    x = b.depthwise(b.conv2d(b.input(12, 12, 3), 8), activation=RELU)
    graph = b.build(b.conv2d(x, 6, kernel=1))
    blind = compile_model(graph, "akd1000", diagonal_depthwise=True, allow_uncalibrated=True)
    plan = blind if options else calibrated(graph, diagonal_depthwise=True)
    _, second = plan.programs
    assert [layer.weights.shape for layer in second.layers if isinstance(layer, Convolutional)] == [
        (8, 3, 3, 16),
        (6, 1, 1, 8),
    ]
    assert signal_to_noise(graph, plan) > (3 if options else 10)


def test_what_is_not_calibrated_still_computes_the_right_function() -> None:
    b = GraphBuilder(34)
    graph = b.build(NETWORKS["image"](b))
    plan = compile_model(graph, "akd1000", allow_uncalibrated=True)
    assert signal_to_noise(graph, plan) > 3


def test_two_layers_in_one_are_a_rewrite_with_its_error() -> None:
    b = GraphBuilder(43)
    graph = b.build(NETWORKS["separable"](b))
    (remark,) = (line for s in calibrated(graph).segments for line in remarks_of(s))
    assert "became one SeparableConvolutional: its output lies" in remark
    found = float(remark.split("output lies ")[1].split(" dB")[0])
    assert 5 < found < 60
    plan = compile_model(graph, "akd1000", allow_uncalibrated=True)
    (remark,) = (line for s in plan.segments for line in remarks_of(s))
    assert "not measured without calibration inputs" in remark


def remarks_of(segment: Segment) -> tuple[str, ...]:
    return segment.remarks if isinstance(segment, DeviceSegment) else ()


# Boundaries


def behind_host(b: GraphBuilder, *, signed: bool) -> str:
    """A convolution on what the host computes."""
    x = b.conv2d(b.input(6, 6, 4), 5, activation=NONE if signed else RELU)
    return b.conv2d(b.tanh(x) if signed else x, 6, kernel=1)


@pytest.mark.parametrize("signed", [False, True])
def test_host_integers_become_the_nearest_codes_of_each_channel(*, signed: bool) -> None:
    b = GraphBuilder(35)
    graph = b.build(behind_host(b, signed=signed))
    (program,) = calibrated(graph).programs
    entry = program.tensors[program.input.device]
    assert entry.code.parts == 2
    tensor = graph.tensors[program.input.tensor]
    low, high = tensor.dtype.code_range
    stored = np.resize(np.arange(low, high + 1), (36 * 5 * 2,)).reshape(2, 6, 6, 5)
    codes = encode_input(program, stored.astype(tensor.dtype.numpy))
    real = reals(graph, tensor.name, stored)
    scale = np.resize(entry.code.scale, entry.shape[-1])
    for channel in range(5):
        first, second = codes[..., channel], codes[..., 5 + channel]
        nearest = np.rint(real[..., channel] / scale[channel])
        if signed:
            np.testing.assert_array_equal(first, np.clip(nearest, 0, 15))
            nearest = np.rint(-real[..., channel] / scale[5 + channel])
            np.testing.assert_array_equal(second, np.clip(nearest, 0, 15))
        else:
            np.testing.assert_array_equal(first + second, np.clip(nearest, 0, 30))
            assert (second[first < 15] == 0).all()
            assert scale[channel] == scale[5 + channel]


def test_the_host_clamps_the_potentials_that_leave() -> None:
    b = GraphBuilder(36)
    x = b.conv2d(b.input(12, 12, 3), 8, activation=RELU)
    graph = b.build(b.conv2d(x, 6, activation=Activation.RELU6))
    (program,) = calibrated(graph).programs
    scale, zero_point = (
        graph.tensors[graph.outputs[0]].quantization.single_scale,  # type: ignore[union-attr]
        graph.tensors[graph.outputs[0]].quantization.single_zero_point,  # type: ignore[union-attr]
    )
    assert program.output.low == max(-128, zero_point)
    assert program.output.high == min(127, round(6 / scale) + zero_point)
    assert program.tensors[program.output.device].code.bits == 32


@pytest.mark.parametrize("kind", ["convolution", "diagonal", "separable"])
def test_both_codes_of_a_value_meet_the_same_weights(kind: str) -> None:
    b = GraphBuilder(41)
    x = b.conv2d(b.input(6, 6, 4), 5, activation=RELU)
    if kind != "convolution":
        x = b.depthwise(x, activation=RELU if kind == "diagonal" else NONE)
    graph = b.build(b.conv2d(x, 6, kernel=1))
    (program,) = calibrated(graph, diagonal_depthwise=True).programs
    layer = program.layers[0]
    assert isinstance(layer, Convolutional | SeparableConvolutional)
    assert layer.weights.shape[-1] == 10
    np.testing.assert_array_equal(layer.weights[..., :5], layer.weights[..., 5:])
    if isinstance(layer, SeparableConvolutional):
        pointwise = layer.pointwise_weights
        np.testing.assert_array_equal(pointwise[:, :5], pointwise[:, 5:])


def test_an_input_too_deep_for_two_codes_takes_one() -> None:
    b = GraphBuilder(42)
    x = b.conv2d(b.input(3, 3, 4), 1030, kernel=1, activation=RELU)
    graph = b.build(b.conv2d(x, 4, kernel=1))
    (program,) = compile_model(graph, "akd1000", allow_uncalibrated=True).programs
    assert program.tensors[program.input.device].code.parts == 1
    assert program.tensors[program.input.device].shape == (3, 3, 1030)


# Thresholds and steps


@given(st.floats(1e-6, 2**23))
def test_steps_keep_23_bits(step: float) -> None:
    activation = fixed_point_steps(np.array([step]))
    (value,), (shift,) = activation.step.tolist(), activation.step_shift.tolist()
    exact = Fraction(value, 2**shift)
    assert 1 <= value < 2**24
    assert 0 <= shift <= 24
    assert abs(float(exact) - step) <= max(step * 2.0**-23, 2.0**-25)


def test_thresholds_lie_within_the_reach_of_the_potentials() -> None:
    b = GraphBuilder(37)
    x = b.conv2d(b.input(12, 12, 3), 8, activation=RELU)
    x = b.conv2d(x, 8, activation=RELU)
    graph = b.build(b.conv2d(x, 4))
    (program,) = calibrated(graph).programs
    for layer in program.layers[:-1]:
        assert isinstance(layer, InputConvolutional | Convolutional)
        assert isinstance(layer.activation, StepActivation)
        read = program.tensors[layer.inputs[0]]
        low, high = potential_limits(layer, read.shape, read.code.limits[1])
        step = layer.activation.step / 2.0**layer.activation.step_shift
        assert (layer.threshold <= high).all()
        assert (layer.threshold >= low - 16 * step - 1).all()


def test_filters_that_died_in_training_become_constants() -> None:
    """Weights without effect and a bias beyond any sum: TFLite networks are full of them."""
    b = GraphBuilder(38)
    weights = np.ones((6, 3, 3, 3), np.int8)
    weights[2] = 0
    x = b.conv2d(b.input(12, 12, 3), 6, weights=weights, activation=RELU)
    graph = b.build(b.conv2d(x, 4, kernel=1))
    bias = graph.tensors[graph.operations[0].inputs[2]]
    assert bias.data is not None
    bias.data[2] = 2**30
    (program,) = calibrated(graph).programs
    stem = program.layers[0]
    assert isinstance(stem, InputConvolutional)
    assert not stem.weights[2].any()
    x0 = encode_input(program, random_inputs(graph, 2)[graph.inputs[0]])
    values = run_layers(program, x0)[stem.output][..., 2]
    assert set(values.ravel().tolist()) == {15}


def test_sums_that_may_exceed_20_bits_leave_the_average_to_the_host() -> None:
    b = GraphBuilder(39)
    x = b.conv2d(b.input(16, 16, 3), 64, activation=RELU)
    weights = np.full((4, 1, 1, 64), 100, np.int8)
    weights[:, :, :, ::2] = 127
    graph = b.build(b.mean(b.conv2d(x, 4, kernel=1, weights=weights)))
    plan = calibrated(graph)
    (reason,) = row(plan, 2).reasons
    assert reason.code == "LOWER-POST-OP"
    assert "20 bits hold 524287" in reason.found
    assert row(plan, 1).on_device


# Segments behind segments


def test_later_segments_are_quantized_on_what_arrives() -> None:
    b = GraphBuilder(40)
    x = b.conv2d(b.input(12, 12, 3), 8, stride=2)
    x = b.conv2d(b.tanh(x), 6, kernel=1, activation=RELU)
    graph = b.build(x)
    plan = calibrated(graph)
    first, second = (s for s in plan.segments if isinstance(s, DeviceSegment))
    feeds = random_inputs(graph, CALIBRATED, seed=1)
    arrived = Executor(plan).run(feeds, tensors=[second.program.input.tensor]).values
    direct = Simulator(first.program).run(feeds[graph.inputs[0]])
    source = run_source(graph, feeds, tensors=[first.program.output.tensor])
    assert (direct != source[first.program.output.tensor]).any()
    codes = encode_input(second.program, arrived[second.program.input.tensor])
    # Every channel uses its codes: the scales were chosen on these values.
    assert (codes.max(axis=(0, 1, 2)) >= 12).all()
    assert math.prod(codes.shape) == CALIBRATED * 36 * 16
