# SPDX-License-Identifier: Apache-2.0
"""CONV_2D and DEPTHWISE_CONV_2D as one layer: what it is, and how far it strays."""

from __future__ import annotations

import numpy as np
import pytest
from compiling import compiled, layers
from error_budget import Calm, assert_within_budget
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.graph import Activation, Conv2D, DepthwiseConv2D, DType, Size2D
from akida_backend.program import Conv2D as Conv2DLayer
from akida_backend.program import DepthwiseConv2D as DepthwiseConv2DLayer
from akida_backend.program import InputConv2D, NoActivation, Padding, ReLU
from builders import GraphBuilder

ACTIVATIONS = list(Activation)
TYPES = [DType.INT8, DType.UINT8]
CASES = {
    "Conv2D": lambda b, **o: b.conv2d(b.input(9, 8, 5), 6, **o),
    "DepthwiseConv2D": lambda b, **o: b.depthwise(b.input(9, 8, 5), **o),
    "InputConv2D": lambda b, **o: b.conv2d(b.input(9, 8, 3), 6, **o),
}


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(list(CASES)),
    kernel=st.sampled_from([3, 5, 7]),
    strided=st.booleans(),
    activation=st.sampled_from(ACTIVATIONS),
    dtype=st.sampled_from(TYPES),
    per_channel=st.booleans(),
    bias=st.booleans(),
    int4=st.booleans(),
    seed=st.integers(0, 999),
)
def test_strays_no_further_than_rounding_explains(
    kind: str,
    kernel: int,
    strided: bool,
    activation: Activation,
    dtype: DType,
    per_channel: bool,
    bias: bool,
    int4: bool,
    seed: int,
) -> None:
    weights = DType.INT4 if int4 and dtype is DType.INT8 else DType.INT8
    b = GraphBuilder(seed, dtype=dtype, weight_dtype=weights, per_channel=per_channel)
    stride = 2 if strided and kernel == 3 else 1
    CASES[kind](b, kernel=kernel, stride=stride, activation=activation, bias=bias)
    graph = b.build()
    plan = compiled(graph)
    (layer,) = layers(plan)
    assert type(layer).__name__ == kind
    assert_within_budget(graph, plan, exact_input=kind == "InputConv2D", seed=seed)


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_strays_on_average_as_independent_roundings_do(
    kind: str, dtype: DType, activation: Activation
) -> None:
    b = GraphBuilder(7, dtype=dtype)
    CASES[kind](b, kernel=3, activation=activation)
    graph = b.build()
    plan = compiled(graph)
    assert_within_budget(graph, plan, exact_input=kind == "InputConv2D", typical=True, samples=8)


@pytest.mark.parametrize("seed", range(4))
def test_strays_little_through_a_chain(seed: int) -> None:
    b = Calm(seed)
    x = b.conv2d(b.input(10, 10, 3), 6, stride=2, activation=Activation.RELU)
    x = b.depthwise(x)
    x = b.conv2d(x, 5, kernel=1)
    graph = b.build(b.conv2d(x, 4))
    plan = compiled(graph)
    assert len(layers(plan)) == 4
    assert_within_budget(graph, plan, exact_input=True, typical=True, samples=8)


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("weight_dtype", [DType.INT8, DType.INT4])
def test_keeps_the_weights(kind: str, weight_dtype: DType) -> None:
    b = GraphBuilder(3, weight_dtype=weight_dtype)
    CASES[kind](b)
    graph = b.build()
    (op,) = graph.operations
    assert isinstance(op, Conv2D | DepthwiseConv2D)
    plan = compiled(graph)
    (layer,) = layers(plan)
    assert isinstance(layer, Conv2DLayer | DepthwiseConv2DLayer | InputConv2D)
    np.testing.assert_array_equal(layer.weights, graph.constant(op.weights))
    # An int4 weight in the input layer, which has 8 bits only, is an int8 one.
    is_narrow = weight_dtype is DType.INT4 and kind != "InputConv2D"
    assert layer.weights_bits == (4 if is_narrow else 8)
    assert plan.segments[0].weight_notes == ()  # type: ignore[union-attr]


def test_recodes_an_image_without_loss_and_pads_with_its_zero_point() -> None:
    b = GraphBuilder(3)
    b.conv2d(b.input(8, 8, 3, scaling=(0.02, -31)), 4)
    plan = compiled(b.build())
    (layer,) = layers(plan)
    assert isinstance(layer, InputConv2D)
    (program,) = plan.programs
    np.testing.assert_array_equal(program.input.recode, np.arange(256))
    assert program.tensors[program.input.device].code.zero_point == 97
    np.testing.assert_array_equal(layer.padding_value, [97, 97, 97])
    assert layer.padding is Padding.SAME


def test_takes_valid_padding_on_the_input_layer() -> None:
    b = GraphBuilder(3)
    b.conv2d(b.input(9, 8, 1), 4, kernel=5, stride=4, padding="valid")
    graph = b.build()
    plan = compiled(graph)
    (layer,) = layers(plan)
    assert isinstance(layer, InputConv2D)
    assert layer.padding is Padding.VALID
    assert layer.stride == Size2D(4, 4)
    assert_within_budget(graph, plan, exact_input=True)


@pytest.mark.parametrize(
    ("activation", "scaling", "kind"),
    [
        pytest.param(Activation.NONE, (0.1, 5), NoActivation, id="none"),
        pytest.param(Activation.RELU, (0.1, 5), ReLU, id="relu"),
        pytest.param(Activation.NONE, (0.1, -128), ReLU, id="range-from-zero"),
    ],
)
def test_turns_a_range_from_zero_into_a_relu(
    activation: Activation, scaling: tuple[float, int], kind: type
) -> None:
    b = GraphBuilder(3)
    b.conv2d(b.input(6, 6, 4), 4, activation=activation, scaling=scaling)
    (layer,) = layers(compiled(b.build()))
    assert isinstance(layer, Conv2DLayer)
    assert isinstance(layer.activation, kind)


def test_multiplier_keeps_eight_significant_bits() -> None:
    b = GraphBuilder(3)
    b.conv2d(b.input(6, 6, 4), 64)
    (layer,) = layers(compiled(b.build()))
    assert isinstance(layer, Conv2DLayer)
    assert layer.rescale.multiplier.min() >= 128
