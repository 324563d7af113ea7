# SPDX-License-Identifier: Apache-2.0
"""Networks on maps that are too long on axis 1, turned without changing an integer."""

from __future__ import annotations

import numpy as np
import pytest
from compiling import assert_same_integers, kinds
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.compiler import compile as compile_model
from akida_backend.devices import device
from akida_backend.execute import Executor
from akida_backend.graph import Activation, Graph, Transpose
from akida_backend.options import Options
from akida_backend.placement import place
from akida_backend.plan import Plan
from akida_backend.reference import run_graph
from akida_backend.rewrites.rewriting import RewriteContext, Rewritten
from akida_backend.rewrites.swap_axes import apply
from builders import GraphBuilder, random_inputs


def _turned(graph: Graph, target: str) -> Rewritten | None:
    options, profile = Options.parse({}), device(target)
    placement = place(graph, profile, options, {})
    return apply(RewriteContext(graph, placement, profile, options, {}))


def _compiled(graph: Graph, target: str) -> Plan:
    return compile_model(graph, target, allow_uncalibrated=True)


def _wide(
    height: int = 12,
    width: int = 300,
    *,
    kernel: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    tail: str = "flatten",
    seed: int = 1,
) -> Graph:
    """An image, a convolution and what may follow it."""
    b = GraphBuilder(seed)
    image = b.input(height, width, 3)
    x = b.conv2d(image, 4, kernel=kernel, stride=stride, activation=Activation.RELU)
    match tail:
        case "flatten":
            x = b.conv2d(x, 2, kernel=(3, 3), stride=2)
            x = b.fully_connected(b.flatten(x), 3)
        case "branches":
            side = b.depthwise(x, activation=Activation.RELU)
            x = b.concatenation(b.add(x, side), side)
            x = b.average_pool(x)
        case "mean":
            x = b.mean(b.max_pool(x, window=(2, 1)))
        case "outputs":
            return b.build(x, b.relu(b.conv2d(x, 4, kernel=1)))
        case _:
            x = b.softmax(x)
    return b.build(x)


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(5, 9),
    width=st.integers(257, 262),
    kernel=st.sampled_from([(3, 3), (5, 5)]),
    stride=st.sampled_from([(1, 1), (2, 2), (3, 3)]),
    tail=st.sampled_from(["flatten", "branches", "mean", "outputs", "host"]),
)
def test_keeps_every_integer(
    height: int, width: int, kernel: tuple[int, int], stride: tuple[int, int], tail: str
) -> None:
    graph = _wide(height, width, kernel=kernel, stride=stride, tail=tail)
    rewritten = _turned(graph, "akd1000")
    assert rewritten is not None
    assert kinds(rewritten.graph)[0] is Transpose
    assert_same_integers(graph, rewritten.graph, samples=1)


@pytest.mark.parametrize("stride", [(1, 2), (2, 1)])
def test_exchanges_what_differs_between_the_axes(stride: tuple[int, int]) -> None:
    b = GraphBuilder(4)
    x = b.conv2d(b.input(8, 260, 1), 3, kernel=(3, 3), activation=Activation.RELU)
    x = b.max_pool(x, window=(1, 2), stride=stride)
    graph = b.build(b.conv2d(x, 2, kernel=(5, 3), stride=stride))
    rewritten = _turned(graph, "akd1000")
    assert rewritten is not None
    assert_same_integers(graph, rewritten.graph)


def test_lets_the_device_take_an_image_whose_line_is_too_long() -> None:
    plan = _compiled(_wide(), "akd1000")
    rows = {row.index: row for row in plan.placement}
    assert rows[0].on_device
    assert rows[0].layer == "InputConvolutional"
    assert "swap-axes" in rows[0].rewrites
    assert plan.macs_on_device == plan.macs


def test_source_emulation_equals_the_model() -> None:
    graph = _wide(height=6, width=258)
    plan = _compiled(graph, "akd1000")
    feeds = random_inputs(graph, 2)
    found = Executor(plan, emulation="source").run(feeds)
    expected = run_graph(graph, feeds)
    for name in graph.outputs:
        np.testing.assert_array_equal(found.values[name], expected[name])


def test_turns_a_map_that_is_averaged_over_too_long_a_line() -> None:
    b = GraphBuilder(2)
    x = b.conv2d(b.input(5, 40, 3), 8, kernel=(3, 3), activation=Activation.RELU)
    x = b.conv2d(x, 8, kernel=(3, 3))
    graph = b.build(b.mean(x))
    rewritten = _turned(graph, "akd1000")
    assert rewritten is not None
    assert_same_integers(graph, rewritten.graph)


@pytest.mark.parametrize(
    ("graph", "target"),
    [
        pytest.param(_wide(12, 256), "akd1000", id="line-fits"),
        pytest.param(_wide(300, 300), "akd1000", id="both-axes-too-long"),
        pytest.param(_wide(4, 300), "akd1000", id="too-few-rows"),
        pytest.param(_wide(12, 300, kernel=(10, 4)), "akd1000", id="kernel-fits-neither-way"),
        pytest.param(_wide(12, 300), "akida2", id="other-device"),
    ],
)
def test_leaves_other_networks_alone(graph: Graph, target: str) -> None:
    assert _turned(graph, target) is None
