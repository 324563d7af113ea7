# SPDX-License-Identifier: Apache-2.0
"""Activations as look-up tables of the convolution in front, written out or not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from compiling import compiled, layer_names, layers, reasons, row
from error_budget import Calm, assert_within_budget
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.graph import Activation, DType
from akida_backend.program import Conv2D, LookUpTable
from builders import GraphBuilder

Function = Callable[[GraphBuilder, str], str]


def _swish(b: GraphBuilder, x: str) -> str:
    return b.mul(x, b.logistic(x), scaling=b.scaling(x))


def _hard_swish_written_out(
    b: GraphBuilder, x: str, *, bound: str = "operator", sixth: str = "gate"
) -> str:
    """X * (relu6(x + 3) * (1 / 6)), the ways exporters write it."""
    _, zero = b.scaling(x)
    low, high = b.dtype.code_range
    three = b.constant([high], scaling=(3.0 / (high - low), low), name="three")
    part = b.constant([high], scaling=(1.0 / 6.0 / (high - low), low), name="sixth")
    gate_scale, six = (6.0 / 255, low), Activation.RELU6
    if bound == "operator":
        gate = b.relu(b.add(x, three, scaling=b.scaling(x)), bound=six, scaling=gate_scale)
    else:
        gate = b.add(x, three, activation=six, scaling=gate_scale)
    if sixth == "gate":
        gate = b.mul(gate, part, scaling=(1.0 / 255, low))
        return b.mul(x, gate, scaling=b.scaling(x))
    scale, _ = b.scaling(x)
    return b.mul(b.mul(x, gate, scaling=(6 * scale, zero)), part, scaling=b.scaling(x))


FUNCTIONS: dict[str, Function] = {
    "LOGISTIC": lambda b, x: b.logistic(x),
    "swish": _swish,
    "HARD_SWISH": lambda b, x: b.hard_swish(x),
    "LEAKY_RELU": lambda b, x: b.leaky_relu(x),
    "LEAKY_RELU, steep": lambda b, x: b.leaky_relu(x, alpha=-0.5),
}
LAYERS: dict[str, Callable[[GraphBuilder, tuple[float, int]], str]] = {
    "Conv2D": lambda b, s: b.conv2d(b.input(6, 5, 4), 5, scaling=s),
    "InputConv2D": lambda b, s: b.conv2d(b.input(6, 5, 3), 5, scaling=s),
    "DepthwiseConv2D": lambda b, s: b.depthwise(b.input(6, 5, 4), scaling=s),
    "Conv2DTranspose": lambda b, s: b.transpose_conv(b.input(6, 5, 4), 5, scaling=s),
}


@settings(max_examples=60, deadline=None)
@given(
    function=st.sampled_from(list(FUNCTIONS)),
    layer=st.sampled_from(list(LAYERS)),
    scale=st.floats(0.02, 1.0),
    shift=st.integers(-30, 30),
    seed=st.integers(0, 999),
)
def test_strays_no_further_than_rounding_explains(
    function: str, layer: str, scale: float, shift: int, seed: int
) -> None:
    b = GraphBuilder(seed)
    FUNCTIONS[function](b, LAYERS[layer](b, (scale, shift)))
    graph = b.build()
    plan = compiled(graph)
    assert layer_names(plan) == [layer]
    assert all(placed.on_device for placed in plan.placement)
    assert_within_budget(graph, plan, seed=seed)


@pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8])
@pytest.mark.parametrize("bound", ["operator", "fused"])
@pytest.mark.parametrize("sixth", ["gate", "product"])
def test_knows_a_hard_swish_that_is_written_out(dtype: DType, bound: str, sixth: str) -> None:
    b = Calm(3, dtype=dtype)
    low, high = dtype.code_range
    x = b.conv2d(b.input(6, 5, 4), 5, scaling=(0.05, (low + high + 1) // 2))
    y = _hard_swish_written_out(b, x, bound=bound, sixth=sixth)
    graph = b.build(y)
    plan = compiled(graph)
    assert layer_names(plan) == ["Conv2D"]
    assert all(placed.on_device for placed in plan.placement)
    (layer,) = layers(plan)
    assert isinstance(layer, Conv2D)
    assert isinstance(layer.activation, LookUpTable)
    table = layer.activation.table.astype(np.float64)
    reals = np.arange(-1024, 1024) * (128 * 0.05 / 1023)
    lowest, highest = graph.tensors[x].real_range
    reals = reals.clip(lowest, highest)
    expected = reals * np.clip(reals + 3, 0, 6) / 6
    np.testing.assert_allclose(
        table / np.abs(table).max(), expected / np.abs(expected).max(), atol=1e-3
    )


def test_saturates_its_argument_where_the_source_does() -> None:
    """An argument stored in [-0.5, 7.47]: below, the source's sigmoid stays where -0.5 gives."""
    b = GraphBuilder(5)
    b.logistic(b.conv2d(b.input(6, 5, 4), 5, scaling=(0.03125, -112)))
    graph = b.build()
    plan = compiled(graph)
    assert layer_names(plan) == ["Conv2D"]
    assert_within_budget(graph, plan, samples=8)


@pytest.mark.parametrize("function", ["swish", "HARD_SWISH"])
def test_averages_behind_the_table(function: str) -> None:
    b = Calm(3)
    x = FUNCTIONS[function](b, b.conv2d(b.input(6, 5, 4), 5))
    graph = b.build(b.mean(x))
    plan = compiled(graph)
    assert layer_names(plan) == ["Conv2D"]
    assert_within_budget(graph, plan, samples=8)


def test_a_table_behind_max_pooling_needs_a_carrier() -> None:
    b = GraphBuilder(3)
    x = b.logistic(b.max_pool(b.conv2d(b.input(6, 6, 4), 4)))
    b.conv2d(x, 4)
    plan = compiled(b.build())
    assert layer_names(plan) == ["Conv2D", "Conv2D", "Conv2D"]
    assert row(plan, 2).rewrites == ("carrier",)
    pooled, table, _ = layers(plan)
    assert isinstance(pooled, Conv2D)
    assert isinstance(table, Conv2D)
    assert pooled.pool is not None
    assert isinstance(table.activation, LookUpTable)


def test_max_pooling_behind_a_table_needs_a_carrier() -> None:
    b = GraphBuilder(3)
    x = b.max_pool(b.logistic(b.conv2d(b.input(6, 6, 4), 4)))
    b.conv2d(x, 4)
    plan = compiled(b.build())
    assert layer_names(plan) == ["Conv2D", "Conv2D", "Conv2D"]
    assert row(plan, 2).rewrites == ("carrier",)


def test_a_clamped_layer_takes_no_table() -> None:
    b = GraphBuilder(3)
    b.hard_swish(b.conv2d(b.input(6, 6, 4), 4, activation=Activation.RELU))
    plan = compiled(b.build())
    assert layer_names(plan) == ["Conv2D", "Conv2D"]
    assert row(plan, 1).rewrites == ("carrier",)


def test_dense_layers_take_no_table() -> None:
    b = GraphBuilder(3)
    b.logistic(b.fully_connected(b.input(12), 4))
    plan = compiled(b.build())
    assert layer_names(plan) == ["Dense1D"]
    assert set(reasons(plan, 1)) == {"V2-DENSE-NO-LUT"}


@pytest.mark.parametrize("change", ["gate-of-another-tensor", "shared-gate", "clamped"])
def test_another_product_is_no_swish(change: str) -> None:
    b = GraphBuilder(3)
    x = b.conv2d(b.input(6, 6, 4), 4)
    y = b.conv2d(x, 4)
    gate = b.logistic(y if change == "gate-of-another-tensor" else x)
    activation = Activation.RELU if change == "clamped" else Activation.NONE
    product = b.mul(x, gate, activation=activation)
    plan = compiled(b.build(*((product, gate) if change == "shared-gate" else (product,))))
    mul = next(placed for placed in plan.placement if placed.type == "MUL")
    assert not mul.on_device
    assert {reason.code for reason in mul.reasons} == {"OP-NO-LAYER"}


def test_a_denied_gate_does_not_join_with_its_product() -> None:
    b = GraphBuilder(3)
    x = b.conv2d(b.input(6, 6, 4), 4)
    b.mul(x, b.logistic(x))
    plan = compiled(b.build(), deny=("type:LOGISTIC",))
    assert reasons(plan, 1) == {"POLICY-DENIED": "denied by 'type:LOGISTIC'"}
    assert not row(plan, 2).on_device


def test_three_in_a_written_out_hard_swish_must_be_three() -> None:
    b = GraphBuilder(3)
    x = b.conv2d(b.input(6, 6, 4), 4)
    offset = b.constant([100], scaling=(0.02, 0))
    gate = b.add(x, offset, activation=Activation.RELU6, scaling=(6 / 255, -128))
    b.mul(x, gate)
    plan = compiled(b.build())
    assert not plan.placement[-1].on_device
