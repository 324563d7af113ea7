# SPDX-License-Identifier: Apache-2.0
"""An identity convolution carries pooling and activations, without changing an integer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from compiling import assert_same_integers, compiled, kinds, layer_names, reasons, rewrite_once, row
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.graph import Activation, Conv2D, DType
from akida_backend.rewrites.carrier import apply
from builders import GraphBuilder

CARRIED: dict[str, Callable[[GraphBuilder, str], str]] = {
    "AVERAGE_POOL_2D": lambda b, x: b.average_pool(x),
    "MEAN": lambda b, x: b.mean(x),
    "MAX_POOL_2D": lambda b, x: b.max_pool(x),
    "RELU": lambda b, x: b.relu(x),
    "RELU6": lambda b, x: b.relu(x, bound=Activation.RELU6),
    "LOGISTIC": lambda b, x: b.logistic(x),
    "HARD_SWISH": lambda b, x: b.hard_swish(x),
    "LEAKY_RELU": lambda b, x: b.leaky_relu(x),
}
BEHIND: dict[str, Callable[[GraphBuilder, str], str]] = {
    "ADD": lambda b, x: b.add(b.conv2d(x, 4), b.conv2d(x, 4)),
    "CONCATENATION": lambda b, x: b.concatenation(
        b.conv2d(x, 4, scaling=(0.1, 3)), b.conv2d(x, 2, scaling=(0.1, 3))
    ),
    "shared": lambda b, x: b.conv2d(x, 4),
}


def _behind(
    what: str, carried: str, *, size: tuple[int, int] = (6, 4), dtype: DType = DType.INT8
) -> GraphBuilder:
    b = GraphBuilder(2, dtype=dtype)
    x = b.input(*size, 4)
    if dtype is DType.UINT8 and what == "CONCATENATION":
        x = b.concatenation(b.conv2d(x, 4, scaling=(0.1, 131)), b.conv2d(x, 2, scaling=(0.1, 131)))
    else:
        x = BEHIND[what](b, x)
    y = CARRIED[carried](b, x)
    b.outputs = (y, x) if what == "shared" else (y,)  # type: ignore[attr-defined]
    return b


def _outputs(b: GraphBuilder) -> tuple[str, ...]:
    outputs: tuple[str, ...] = b.outputs  # type: ignore[attr-defined]
    return outputs


@pytest.mark.parametrize("carried", CARRIED)
@pytest.mark.parametrize("what", BEHIND)
@pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8])
def test_keeps_every_integer(what: str, carried: str, dtype: DType) -> None:
    if dtype is DType.UINT8 and carried in ("LEAKY_RELU", "HARD_SWISH"):
        carried = "LOGISTIC"
    b = _behind(what, carried, dtype=dtype)
    graph = b.build(*_outputs(b))
    if what != "shared" and carried.startswith("RELU") and what == "ADD":
        assert rewrite_once(apply, graph) is None  # Add clamps itself
        return
    rewritten = rewrite_once(apply, graph)
    assert rewritten is not None
    assert kinds(rewritten.graph).count(Conv2D) == kinds(graph).count(Conv2D) + 1
    assert_same_integers(graph, rewritten.graph)


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 9))
def test_keeps_every_integer_of_a_global_average(height: int, width: int, seed: int) -> None:
    b = GraphBuilder(seed)
    x = b.input(height, width, 4)
    b.mean(b.add(b.conv2d(x, 4), x), scaling=(0.02, 5))
    graph = b.build()
    rewritten = rewrite_once(apply, graph)
    assert rewritten is not None
    copy = rewritten.graph.operations[-2]
    assert isinstance(copy, Conv2D)
    np.testing.assert_array_equal(
        rewritten.graph.constant(copy.weights).reshape(4, 4), np.eye(4, dtype=np.int8)
    )
    assert_same_integers(graph, rewritten.graph)


@pytest.mark.parametrize("carried", ["AVERAGE_POOL_2D", "MEAN"])
def test_leaves_an_average_the_device_cannot_hold(carried: str) -> None:
    b = _behind("ADD", carried, size=(13, 12))
    graph = b.build(*_outputs(b))
    assert rewrite_once(apply, graph) is None
    assert "OP-NOT-FUSED" in reasons(compiled(graph), 3)


def test_leaves_vectors_alone() -> None:
    b = GraphBuilder(0)
    x = b.fully_connected(b.input(8), 8)
    y = b.relu(x)
    assert rewrite_once(apply, b.build(x, y)) is None


def test_leaves_a_map_of_the_host_alone() -> None:
    b = GraphBuilder(0)
    b.relu(b.tanh(b.input(5, 5, 4)))
    assert rewrite_once(apply, b.build()) is None


def test_carries_the_average_behind_a_residual() -> None:
    b = _behind("ADD", "MEAN")
    plan = compiled(b.build(*_outputs(b)))
    assert layer_names(plan) == ["Conv2D", "Conv2D", "Add", "Conv2D"]
    assert row(plan, 3).rewrites == ("carrier",)
    assert row(plan, 3).macs == 0
    assert row(plan, 3).device_macs == 6 * 4 * 4 * 4


def test_is_undone_where_the_pool_it_carries_is_refused() -> None:
    b = _behind("ADD", "MAX_POOL_2D")
    plan = compiled(b.build(*_outputs(b)))
    assert layer_names(plan) == ["Conv2D", "Conv2D", "Add"]
    assert row(plan, 3).rewrites == ()
    assert reasons(plan, 3)["V2-CONV-MAXPOOL-NEXT"] == "followed by the host"


def test_carries_a_pool_in_front_of_a_convolution() -> None:
    b = GraphBuilder(2)
    x = BEHIND["ADD"](b, b.input(6, 4, 4))
    b.conv2d(b.max_pool(x), 4)
    plan = compiled(b.build())
    assert layer_names(plan) == ["Conv2D", "Conv2D", "Add", "Conv2D", "Conv2D"]
    assert row(plan, 3).rewrites == ("carrier",)
