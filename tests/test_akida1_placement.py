# SPDX-License-Identifier: Apache-2.0
"""What Akida 1.0 takes and refuses: layers, what joins them, and how chains are cut."""

from __future__ import annotations

import numpy as np
import pytest
from compiling import layer_names, layers, reasons, row

from akida_backend.compiler import compile as compile_model
from akida_backend.graph import Activation, Graph, Pads
from akida_backend.plan import DeviceSegment, Plan
from akida_backend.program import (
    Convolutional,
    FullyConnected,
    InputConvolutional,
    MaxPool,
    NoActivation,
    Padding,
    SeparableConvolutional,
)
from akida_backend.program_check import check_program
from builders import GraphBuilder, random_inputs

RELU, RELU6, NONE = Activation.RELU, Activation.RELU6, Activation.NONE


def placed(graph: Graph, device: str = "akd1000", **options: object) -> Plan:
    """A plan of well-formed programs, quantized on random inputs."""
    plan = compile_model(graph, device, allow_uncalibrated=True, **options)
    for program in plan.programs:
        check_program(program)
        assert program.generation == 1
    return plan


def per_program(plan: Plan) -> list[list[str]]:
    return [[type(layer).__name__ for layer in program.layers] for program in plan.programs]


def test_a_chain_of_bounded_layers_is_one_program() -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(12, 12, 3), 8, stride=2, activation=RELU)
    x = b.conv2d(x, 8, activation=RELU6)
    x = b.fully_connected(b.flatten(x), 6)
    plan = placed(b.build(x))
    assert per_program(plan) == [["InputConvolutional", "Convolutional", "FullyConnected"]]
    (program,) = plan.programs
    stem, conv, dense = program.layers
    assert isinstance(stem, InputConvolutional)
    assert isinstance(conv, Convolutional)
    assert isinstance(dense, FullyConnected)
    assert (stem.weights_bits, stem.output_bits) == (8, 4)
    assert (conv.weights_bits, conv.output_bits) == (4, 4)
    assert (dense.weights_bits, dense.output_bits) == (4, 32)
    zero_point = program.tensors[program.input.device].code.zero_point
    assert stem.padding_value == zero_point


def test_every_program_ends_in_potentials() -> None:
    b = GraphBuilder(2)
    x = b.conv2d(b.input(12, 12, 3), 8, activation=RELU)
    x = b.conv2d(x, 4, activation=RELU)
    (program,) = placed(b.build(x)).programs
    assert [isinstance(layer.activation, NoActivation) for layer in program.layers] == [  # type: ignore[union-attr]
        False,
        True,
    ]


def test_a_layer_without_activation_ends_its_program() -> None:
    b = GraphBuilder(3)
    x = b.conv2d(b.input(12, 12, 3), 8, activation=NONE)
    x = b.conv2d(x, 4, activation=RELU)
    x = b.conv2d(x, 4, activation=RELU)
    plan = placed(b.build(x))
    assert per_program(plan) == [["InputConvolutional"], ["Convolutional"] * 2]
    # What has values below zero takes two 4-bit codes, one for each sign.
    second = plan.programs[1]
    assert second.tensors[second.input.device].code.parts == 2
    assert second.tensors[second.input.device].shape == (12, 12, 16)


def test_an_8_bit_input_of_the_model_enters_the_input_layer_only() -> None:
    b = GraphBuilder(4)
    x = b.conv2d(b.input(12, 12, 4), 8, activation=RELU)
    x = b.conv2d(x, 4, activation=RELU)
    plan = placed(b.build(x))
    assert reasons(plan, 0) == {"V1-GRAPH-8BIT-INPUT": "'input0' is an 8-bit input of the model"}
    assert per_program(plan) == [["Convolutional"]]

    b = GraphBuilder(5)
    b.fully_connected(b.fully_connected(b.input(40), 10, activation=RELU), 4)
    plan = placed(b.build())
    assert set(reasons(plan, 0)) == {"V1-GRAPH-8BIT-INPUT"}
    assert layer_names(plan) == ["FullyConnected"]


def test_reshaping_and_padding_do_not_hide_an_8_bit_input() -> None:
    b = GraphBuilder(6)
    x = b.reshape(b.input(48), 4, 4, 3)
    plan = placed(b.build(b.conv2d(x, 4, kernel=1, activation=RELU)))
    assert set(reasons(plan, 1)) == {
        "V1-INCONV-INPUT-LINE",
        "V1-INCONV-INPUT-ROWS",
        "V1-INCONV-KERNEL",
    }

    b = GraphBuilder(6)
    x = b.reshape(b.input(100), 5, 5, 4)
    plan = placed(b.build(b.conv2d(x, 4, kernel=1, activation=RELU)))
    assert set(reasons(plan, 1)) == {"V1-GRAPH-8BIT-INPUT"}


@pytest.mark.parametrize("device", ["akd1000", "nsoc-production"])
def test_stride_2_needs_a_3x3_kernel(device: str) -> None:
    b = GraphBuilder(7)
    x = b.conv2d(b.input(12, 12, 3), 4, activation=RELU)
    x = b.conv2d(x, 4, kernel=5, stride=2, activation=RELU)
    plan = placed(b.build(x), device)
    assert set(reasons(plan, 1)) == {"V1-CONV-STRIDE2-KERNEL"}


def test_the_preproduction_chip_has_no_input_layer() -> None:
    b = GraphBuilder(8)
    x = b.conv2d(b.input(12, 12, 3), 4, activation=RELU)
    plan = placed(b.build(b.conv2d(x, 4, activation=RELU)), "nsoc-preproduction")
    assert "V1-INCONV-SUPPORTED" in reasons(plan, 0)
    assert layer_names(plan) == ["Convolutional"]


@pytest.mark.parametrize(
    ("device", "bits"),
    [("nsoc-preproduction", 2), ("nsoc-production", 4), ("akd1000", 4), ("akd1500", 4)],
)
def test_weights_get_the_most_bits_a_device_allows(device: str, bits: int) -> None:
    b = GraphBuilder(30)
    x = b.conv2d(b.input(12, 12, 3), 4, activation=RELU)
    x = b.fully_connected(b.flatten(b.conv2d(x, 4, activation=RELU)), 5)
    plan = placed(b.build(x), device)
    inner = [layer for layer in layers(plan) if isinstance(layer, Convolutional | FullyConnected)]
    dense = [] if bits == 2 else [FullyConnected]  # its inputs have 4 bits, 2 are allowed there
    assert [type(layer) for layer in inner] == [Convolutional, *dense]
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    for layer in inner:
        assert layer.weights_bits == bits
        assert (layer.weights.min() >= low, layer.weights.max() == high) == (True, True)


# Depthwise layers


def test_depthwise_and_pointwise_with_nothing_between_are_one_layer() -> None:
    b = GraphBuilder(9)
    x = b.conv2d(b.input(12, 12, 3), 8, activation=RELU)
    x = b.conv2d(b.depthwise(x), 6, kernel=1, activation=RELU)
    x = b.conv2d(x, 4)
    plan = placed(b.build(x))
    assert layer_names(plan) == ["InputConvolutional", "SeparableConvolutional", "Convolutional"]
    separable = layers(plan)[1]
    assert isinstance(separable, SeparableConvolutional)
    assert separable.weights.shape == (1, 3, 3, 8)
    assert separable.pointwise_weights.shape == (6, 8)
    assert row(plan, 1).layer == row(plan, 2).layer == "SeparableConvolutional"


@pytest.mark.parametrize(
    ("activation", "kernel", "multiplier", "found"),
    [
        pytest.param(RELU, 1, 1, "a depthwise convolution with relu between", id="relu"),
        pytest.param(
            NONE,
            3,
            1,
            "a depthwise convolution with no pointwise convolution right behind it",
            id="3x3-behind",
        ),
        pytest.param(
            NONE, 1, 2, "a depthwise convolution with 16 filters on 8 channels", id="multiplier"
        ),
    ],
)
def test_other_depthwise_layers_stay_on_the_host(
    activation: Activation, kernel: int, multiplier: int, found: str
) -> None:
    b = GraphBuilder(10)
    x = b.conv2d(b.input(12, 12, 3), 8, activation=RELU)
    x = b.depthwise(x, activation=activation, multiplier=multiplier)
    x = b.conv2d(x, 6, kernel=kernel, activation=RELU)
    plan = placed(b.build(x))
    assert reasons(plan, 1) == {"OP-DEPTHWISE-HALF": found}
    (reason,) = row(plan, 1).reasons
    assert "`diagonal_depthwise`" in (reason.remedy or "")
    assert per_program(plan) == [["InputConvolutional"], ["Convolutional"]]


def test_diagonal_depthwise_is_a_full_convolution_with_zeros_between_the_channels() -> None:
    b = GraphBuilder(11)
    x = b.conv2d(b.input(12, 12, 3), 8, activation=RELU)
    x = b.depthwise(x, activation=RELU)
    x = b.conv2d(x, 6, kernel=1, activation=RELU)
    plan = placed(b.build(x), diagonal_depthwise=True)
    assert per_program(plan) == [["InputConvolutional", "Convolutional", "Convolutional"]]
    diagonal = layers(plan)[1]
    assert isinstance(diagonal, Convolutional)
    assert diagonal.weights.shape == (8, 3, 3, 8)
    off_diagonal = diagonal.weights[~np.eye(8, dtype=bool)[:, None, None].repeat(3, 1).repeat(3, 2)]
    assert off_diagonal.any() == False  # noqa: E712 - of numpy
    assert np.abs(diagonal.weights).max() > 1
    placed_row = row(plan, 1)
    assert placed_row.device_macs == 8 * placed_row.macs


# Pooling


def test_max_pooling_joins_a_convolution_that_another_follows() -> None:
    b = GraphBuilder(12)
    x = b.conv2d(b.input(12, 12, 3), 4, activation=RELU)
    x = b.conv2d(x, 8, activation=RELU)
    x = b.max_pool(x)
    x = b.conv2d(x, 4, activation=RELU)
    plan = placed(b.build(x))
    pooled = layers(plan)[1]
    assert isinstance(pooled, Convolutional)
    assert isinstance(pooled.pool, MaxPool)
    assert pooled.pool.padding is Padding.SAME
    assert len(plan.programs) == 1


@pytest.mark.parametrize("behind", ["nothing", "dense"])
def test_max_pooling_needs_a_convolution_behind_it(behind: str) -> None:
    b = GraphBuilder(13)
    x = b.conv2d(b.input(12, 12, 3), 4, activation=RELU)
    x = b.max_pool(b.conv2d(x, 8, activation=RELU))
    if behind == "dense":
        x = b.fully_connected(b.flatten(x), 4)
    plan = placed(b.build(x))
    assert set(reasons(plan, 2)) == {"V1-CONV-MAXPOOL-NEXT"}
    assert row(plan, 1).on_device


def test_a_pooled_input_layer_is_not_the_last() -> None:
    b = GraphBuilder(14)
    plan = placed(b.build(b.max_pool(b.conv2d(b.input(12, 12, 3), 4, activation=RELU))))
    assert set(reasons(plan, 1)) == {"V1-GRAPH-LAST-NOT-POOLED"}
    assert row(plan, 0).on_device


@pytest.mark.parametrize(
    ("window", "stride", "code"),
    [(3, 2, "V1-CONV-MAXPOOL-SIZE"), (2, 3, "V1-CONV-MAXPOOL-STRIDE")],
)
def test_pools_the_device_lacks_name_their_rule(window: int, stride: int, code: str) -> None:
    b = GraphBuilder(15)
    x = b.conv2d(b.input(12, 12, 3), 4, activation=RELU)
    x = b.conv2d(x, 8, activation=RELU)
    x = b.max_pool(x, window=window, stride=stride, padding="same")
    plan = placed(b.build(b.conv2d(x, 4, activation=RELU)))
    assert code in reasons(plan, 2)
    assert code not in {r.code for i in (0, 1, 3) for r in row(plan, i).reasons}


def test_global_average_of_potentials_joins_in_front_of_the_activation() -> None:
    b = GraphBuilder(16)
    x = b.conv2d(b.input(12, 12, 3), 4, stride=2, activation=RELU)
    x = b.mean(b.conv2d(x, 8, activation=NONE))
    x = b.fully_connected(b.relu(x), 4)
    plan = placed(b.build(x))
    assert layer_names(plan) == ["InputConvolutional", "Convolutional", "FullyConnected"]
    averaged = layers(plan)[1]
    assert isinstance(averaged, Convolutional)
    assert averaged.global_average
    assert row(plan, 3).layer == "Convolutional"


def test_global_average_behind_an_activation_gets_an_identity_convolution() -> None:
    b = GraphBuilder(17)
    x = b.conv2d(b.input(12, 12, 3), 4, stride=2, activation=RELU)
    x = b.fully_connected(b.flatten(b.mean(x)), 4)
    plan = placed(b.build(x))
    assert row(plan, 1).rewrites == ("carrier",)
    assert layer_names(plan) == ["InputConvolutional", "Convolutional", "FullyConnected"]
    carrier = layers(plan)[1]
    assert isinstance(carrier, Convolutional)
    assert carrier.global_average
    assert carrier.weights.shape == (4, 1, 1, 4)


def test_a_map_too_wide_for_global_averaging_is_refused() -> None:
    b = GraphBuilder(18)
    x = b.conv2d(b.input(40, 40, 3), 4, activation=RELU)
    x = b.mean(b.conv2d(x, 4, activation=NONE))
    plan = placed(b.build(x))
    assert {"V1-CONV-AVGPOOL-LINE", "V1-CNV-GAP-AREA"} <= set(reasons(plan, 2))


# What has no layer


def test_joining_maps_is_left_to_the_host() -> None:
    b = GraphBuilder(19)
    x = b.conv2d(b.input(12, 12, 3), 8, activation=RELU)
    y = b.conv2d(x, 8)
    plan = placed(b.build(b.add(x, y)))
    assert reasons(plan, 2) == {"V1-GRAPH-SEQUENTIAL": "Add of two maps"}
    assert row(plan, 0).on_device
    assert row(plan, 1).on_device


def test_layers_of_akida2_alone_are_left_to_the_host() -> None:
    b = GraphBuilder(20)
    x = b.conv2d(b.input(12, 12, 3), 8, activation=RELU)
    x = b.transpose_conv(x, 4, activation=RELU)
    plan = placed(b.build(b.leaky_relu(b.conv2d(x, 4))))
    assert "OP-NO-LAYER" in reasons(plan, 1)
    assert "OP-NOT-FUSED" in reasons(plan, 3)


def test_valid_padding_is_for_the_input_layer() -> None:
    b = GraphBuilder(21)
    x = b.conv2d(b.input(12, 12, 3), 4, padding="valid", activation=RELU)
    x = b.conv2d(x, 4, padding="valid", activation=RELU)
    plan = placed(b.build(x))
    (stem,) = layers(plan)
    assert isinstance(stem, InputConvolutional)
    assert stem.padding is Padding.VALID
    assert set(reasons(plan, 1)) == {"V1-CONV-PADDING"}


def test_explicit_padding_in_front_joins_as_in_the_second_generation() -> None:
    b = GraphBuilder(22)
    x = b.conv2d(b.input(12, 12, 3), 4, activation=RELU)
    x = b.pad_image(x, Pads(1, 1, 1, 1))
    plan = placed(b.build(b.conv2d(x, 4, padding="valid", activation=RELU)))
    assert per_program(plan) == [["InputConvolutional", "Convolutional"]]


def test_weights_are_said_to_be_requantized() -> None:
    b = GraphBuilder(23)
    x = b.conv2d(b.input(12, 12, 3), 4, activation=RELU)
    plan = placed(b.build(b.conv2d(x, 6, activation=RELU)))
    (segment,) = (s for s in plan.segments if isinstance(s, DeviceSegment))
    # The input layer has 8 bits, as the source does.
    (note,) = segment.weight_notes
    assert (note.filters, "re-quantized to 4 bits" in note.reason) == (6, True)
    assert random_inputs(plan.graph, 1)
