# SPDX-License-Identifier: Apache-2.0
"""Max pooling of accumulators and global averages, inside the layer in front."""

from __future__ import annotations

import pytest
from compiling import compiled, layer_names, layers, reasons
from error_budget import Calm, assert_within_budget
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.graph import Activation, DType, Graph, Pads, Size2D
from akida_backend.program import Conv2D, InputConv2D, MaxPool, Padding
from builders import GraphBuilder

SAME_POOL = MaxPool(Size2D(2, 2), Size2D(2, 2), Padding.SAME)


@settings(max_examples=50, deadline=None)
@given(
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    stride=st.sampled_from([1, 2]),
    pooled=st.sampled_from(["conv2d", "depthwise"]),
    next_layer=st.sampled_from(["conv2d", "depthwise"]),
    activation=st.sampled_from([Activation.NONE, Activation.RELU, Activation.RELU6]),
    behind_pool=st.sampled_from(["nothing", "fused", "operator"]),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    seed=st.integers(0, 999),
)
def test_pooled_layers_stray_no_further_than_rounding_explains(
    size: tuple[int, int],
    stride: int,
    pooled: str,
    next_layer: str,
    activation: Activation,
    behind_pool: str,
    dtype: DType,
    seed: int,
) -> None:
    b = Calm(seed, dtype=dtype)
    x = b.input(*size, 4)
    x = (
        b.conv2d(x, 4, activation=activation)
        if pooled == "conv2d"
        else b.depthwise(x, activation=activation)
    )
    fused = Activation.RELU if behind_pool == "fused" else Activation.NONE
    x = b.max_pool(x, stride=stride, padding="same", activation=fused)
    if behind_pool == "operator":
        x = b.relu(x)
    x = b.conv2d(x, 5) if next_layer == "conv2d" else b.depthwise(x)
    graph = b.build(x)
    plan = compiled(graph)
    assert len(layers(plan)) == 2
    assert getattr(layers(plan)[0], "pool") == MaxPool(  # noqa: B009 - of either convolution
        Size2D(2, 2), Size2D(stride, stride), Padding.SAME
    )
    assert_within_budget(graph, plan, seed=seed)


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2)])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_the_input_layer_pools_also_at_the_end(window: int, stride: int, padding: str) -> None:
    b = Calm(1)
    x = b.conv2d(b.input(13, 12, 3), 4, padding=padding, activation=Activation.RELU)
    graph = b.build(b.max_pool(x, window=window, stride=stride, padding=padding))
    plan = compiled(graph)
    (layer,) = layers(plan)
    assert isinstance(layer, InputConv2D)
    assert layer.pool is not None
    assert layer.pool.padding is (Padding.SAME if padding == "same" else Padding.VALID)
    assert_within_budget(graph, plan, exact_input=True)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    averaged=st.sampled_from(["conv2d", "depthwise"]),
    kind=st.sampled_from(["mean", "mean, axes kept", "average_pool"]),
    activation=st.sampled_from([Activation.NONE, Activation.RELU, Activation.RELU6]),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    seed=st.integers(0, 999),
)
def test_averaged_layers_stray_no_further_than_rounding_explains(
    size: tuple[int, int],
    averaged: str,
    kind: str,
    activation: Activation,
    dtype: DType,
    seed: int,
) -> None:
    b = Calm(seed, dtype=dtype)
    x = b.input(*size, 5)
    x = (
        b.conv2d(x, 5, activation=activation)
        if averaged == "conv2d"
        else b.depthwise(x, activation=activation)
    )
    x = b.average_pool(x) if kind == "average_pool" else b.mean(x, keep_dims="axes" in kind)
    graph = b.build(x)
    plan = compiled(graph)
    (layer,) = layers(plan)
    assert getattr(layer, "global_average") is True  # noqa: B009 - of either convolution
    # Averages seldom reach the extremes: without calibration their range is taken smaller.
    height, width = size
    assert_within_budget(
        graph,
        plan,
        expected_range=_peak(graph, activation) * max(0.25, (height * width) ** -0.25),
        seed=seed,
    )


def _peak(graph: Graph, activation: Activation) -> float:
    """Largest magnitude of what is averaged, as it is stored and clamped."""
    low, high = graph.tensors[graph.outputs[0]].real_range
    least, most = activation.real_range
    return max(-max(low, least), min(high, most))


def test_an_average_writes_its_own_scale() -> None:
    b = Calm(3)
    x = b.conv2d(b.input(6, 6, 4), 4, activation=Activation.RELU)
    scale, zero_point = b.scaling(x)
    graph = b.build(b.mean(x, scaling=(scale / 2, zero_point)))
    plan = compiled(graph)
    assert_within_budget(graph, plan, samples=16)


def test_a_relu_fused_behind_an_average_of_positives_changes_nothing() -> None:
    b = Calm(3)
    x = b.conv2d(b.input(6, 6, 4), 4, activation=Activation.RELU)
    b.average_pool(x, activation=Activation.RELU)
    plan = compiled(b.build())
    assert layer_names(plan) == ["Conv2D"]


@pytest.mark.parametrize("activation", [Activation.RELU, Activation.RELU6])
def test_a_clamp_fused_behind_an_average_stays_on_the_host(activation: Activation) -> None:
    b = Calm(3)
    b.average_pool(b.conv2d(b.input(6, 6, 4), 4), activation=activation)
    plan = compiled(b.build())
    assert layer_names(plan) == ["Conv2D"]
    assert reasons(plan, 1) == {"OP-NOT-FUSED": f"a fused {activation.value} behind the average"}


def _pooled(*, window: object = 2, stride: object = None, padding: object = "same") -> GraphBuilder:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(13, 12, 4), 4)
    x = b.max_pool(x, window=window, stride=stride, padding=padding)  # type: ignore[arg-type]
    b.conv2d(x, 4)
    return b


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"window": 3}, {"V2-CONV-MAXPOOL-SIZE", "V2-CONV-MAXPOOL-STRIDE"}, id="3x3"),
        pytest.param(
            {"stride": 3}, {"V2-CONV-MAXPOOL-STRIDE", "V2-CONV-MAXPOOL-STRIDE-SIZE"}, id="stride-3"
        ),
        pytest.param({"padding": "valid"}, {"V2-CNV-POOL-PADS"}, id="valid-behind-same"),
        pytest.param(
            {"window": (2, 3), "stride": (2, 3), "padding": Pads(1, 1, 1, 1)},
            {
                "V2-CONV-MAXPOOL-SIZE",
                "V2-CONV-MAXPOOL-STRIDE",
                "V2-CNV-POOL-PADS",
                "V2-CNV-SQUARE",
            },
            id="several",
        ),
    ],
)
def test_names_all_that_stands_against_a_max_pool(
    options: dict[str, object], expected: set[str]
) -> None:
    plan = compiled(_pooled(**options).build())
    assert set(reasons(plan, 1)) == expected
    assert layer_names(plan) == ["Conv2D", "Conv2D"]


@pytest.mark.parametrize(
    ("end", "follower"),
    [
        pytest.param("output", "the host", id="output"),
        pytest.param("add", "Add", id="add"),
        pytest.param("flatten", "Dense1D", id="dense"),
        pytest.param("tanh", "the host", id="host"),
    ],
)
def test_pools_only_in_front_of_a_convolution(end: str, follower: str) -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(4, 4, 4), 4)
    x = b.max_pool(x)
    if end == "add":
        b.add(x, b.conv2d(x, 4))
    elif end == "flatten":
        b.fully_connected(b.flatten(x), 3)
    elif end == "tanh":
        b.tanh(x)
    plan = compiled(b.build())
    assert reasons(plan, 1) == {"V2-CONV-MAXPOOL-NEXT": f"followed by {follower}"}
    assert isinstance(layers(plan)[0], Conv2D)


def test_names_the_depthwise_rule_for_a_depthwise_layer() -> None:
    b = GraphBuilder(1)
    b.max_pool(b.depthwise(b.input(4, 4, 4)))
    assert set(reasons(compiled(b.build()), 1)) == {"V2-DWCONV-MAXPOOL-NEXT"}


def test_a_renamed_map_in_front_of_a_convolution_is_followed_by_it() -> None:
    b = GraphBuilder(1)
    x = b.max_pool(b.conv2d(b.input(4, 4, 4), 4))
    b.conv2d(b.reshape(x, 2, 2, 4), 4)
    plan = compiled(b.build())
    assert layer_names(plan) == ["Conv2D", "Conv2D"]
    assert getattr(layers(plan)[0], "pool") == SAME_POOL  # noqa: B009


def test_a_pool_that_no_segment_can_hold_leaves_its_convolution_on_the_device() -> None:
    b = GraphBuilder(1)
    x = b.max_pool(b.conv2d(b.input(8, 8, 4), 4))
    graph = b.build(b.conv2d(x, 4), b.conv2d(x, 4))
    plan = compiled(graph)
    assert layer_names(plan) == ["Conv2D"] * 3
    assert set(reasons(plan, 1)) == {"V2-CONV-MAXPOOL-NEXT"}
