# SPDX-License-Identifier: Apache-2.0
"""Operators that become no layer: recoding, renaming, and clamps of the layer in front."""

from __future__ import annotations

import pytest
from compiling import compiled, layer_names, reasons, row
from error_budget import Calm, assert_within_budget
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.graph import Activation, DType
from builders import GraphBuilder


@settings(max_examples=40, deadline=None)
@given(
    factor=st.sampled_from([0.8, 1.0, 1.7]),
    to=st.sampled_from([DType.INT8, DType.UINT8]),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    place=st.sampled_from(["behind", "between", "behind add"]),
    seed=st.integers(0, 999),
)
def test_requantizing_costs_no_more_than_rounding_explains(
    factor: float, to: DType, dtype: DType, place: str, seed: int
) -> None:
    b = Calm(seed, dtype=dtype)
    x = b.conv2d(b.input(5, 6, 4), 4)
    if place == "behind add":
        x = b.add(x, b.conv2d(x, 4))
    scale, zero = b.scaling(x)
    zero += (to is DType.UINT8) * 128 - (dtype is DType.UINT8) * 128
    x = b.quantize(x, scaling=(scale * factor, zero), dtype=to)
    if place == "between":
        b.dtype = to
        b.weight_dtype = DType.UINT8 if to is DType.UINT8 else DType.INT8
        x = b.conv2d(x, 3)
    graph = b.build(x)
    plan = compiled(graph)
    assert all(placed.on_device for placed in plan.placement)
    expected = {"behind": 1, "between": 2, "behind add": 3}
    assert len(layer_names(plan)) == expected[place]
    assert_within_budget(graph, plan, seed=seed)


def test_recoding_a_shared_tensor_is_a_name() -> None:
    b = Calm(1)
    x = b.conv2d(b.input(5, 6, 4), 4)
    scale, zero = b.scaling(x)
    y = b.quantize(x, scaling=(scale, zero + 128), dtype=DType.UINT8)
    z = b.quantize(y, scaling=(scale, zero), dtype=DType.INT8)
    graph = b.build(b.add(b.conv2d(z, 4), b.conv2d(x, 4)))
    plan = compiled(graph)
    assert layer_names(plan) == ["Conv2D", "Conv2D", "Conv2D", "Add"]
    assert row(plan, 1).layer == row(plan, 2).layer == "rename"
    assert_within_budget(graph, plan)


def test_rescaling_a_shared_tensor_stays_on_the_host() -> None:
    b = Calm(1)
    x = b.conv2d(b.input(5, 6, 4), 4)
    scale, zero = b.scaling(x)
    y = b.quantize(x, scaling=(1.3 * scale, zero))
    plan = compiled(b.build(b.conv2d(x, 4), y))
    assert reasons(plan, 1) == {"OP-NO-LAYER": "QUANTIZE"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param((1, 1, 8), (8,), id="1x1-to-vector"),
        pytest.param((4, 6, 2), (4, 6, 2), id="unchanged"),
    ],
)
def test_renames_a_map_of_the_same_shape(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    b = Calm(1)
    height, width, channels = before
    x = b.conv2d(b.input(height, width, 4), channels)
    b.reshape(x, *after)
    plan = compiled(b.build())
    assert row(plan, 1).on_device
    assert row(plan, 1).layer == "rename"
    assert_within_budget(plan.graph, plan)


def test_reshapes_on_the_host_where_the_device_would_have_to_move_values() -> None:
    b = Calm(1)
    b.reshape(b.conv2d(b.input(4, 6, 4), 2), 6, 4, 2)
    plan = compiled(b.build())
    assert reasons(plan, 1) == {"OP-NO-LAYER": "(None, 4, 6, 2) to (None, 6, 4, 2)"}


def test_flattens_on_the_host_for_readers_that_are_no_dense_layer() -> None:
    b = Calm(1)
    x = b.flatten(b.conv2d(b.input(4, 6, 4), 2))
    plan = compiled(b.build(b.fully_connected(x, 3), b.tanh(x)))
    assert set(reasons(plan, 1)) == {"OP-NO-LAYER"}


@pytest.mark.parametrize("bound", [Activation.RELU, Activation.RELU6, Activation.RELU_N1_TO_1])
@pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8])
@pytest.mark.parametrize("behind", ["conv2d", "depthwise", "fully_connected", "transpose_conv"])
def test_a_clamp_joins_the_layer_in_front(bound: Activation, dtype: DType, behind: str) -> None:
    b = GraphBuilder(2, dtype=dtype)
    if behind == "fully_connected":
        x = b.fully_connected(b.input(12), 6)
    elif behind == "depthwise":
        x = b.depthwise(b.input(5, 6, 4))
    elif behind == "conv2d":
        x = b.conv2d(b.input(5, 6, 4), 4)
    else:
        x = b.transpose_conv(b.input(5, 6, 4), 4)
    b.relu(x, bound=bound)
    graph = b.build()
    plan = compiled(graph)
    assert len(layer_names(plan)) == 1
    assert row(plan, 1).on_device
    assert_within_budget(graph, plan, samples=8)


def test_a_clamp_behind_a_concatenation_needs_a_carrier() -> None:
    b = Calm(2)
    x = b.input(5, 6, 4)
    y = b.concatenation(b.conv2d(x, 4, scaling=(0.3, 1)), b.conv2d(x, 4, scaling=(0.3, 1)))
    b.relu(y)
    plan = compiled(b.build())
    assert layer_names(plan) == ["Conv2D", "Conv2D", "Concatenate", "Conv2D"]
    assert row(plan, 3).rewrites == ("carrier",)
