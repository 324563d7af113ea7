# SPDX-License-Identifier: Apache-2.0
"""PAD in front of a convolution becomes its padding, without changing an integer."""

from __future__ import annotations

import dataclasses

import pytest
from compiling import assert_same_integers, compiled, kinds, layer_names, reasons, rewrite_once, row
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.graph import Conv2D, DepthwiseConv2D, DType, Graph, Pads, Quantization
from akida_backend.rewrites.fold_pad import apply
from builders import GraphBuilder

sides = st.integers(0, 3)
pads = st.builds(Pads, sides, sides, sides, sides)


@settings(max_examples=60, deadline=None)
@given(
    border=pads,
    own=pads,
    height=st.integers(4, 9),
    width=st.integers(4, 9),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    depthwise=st.booleans(),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    seed=st.integers(0, 99),
)
def test_keeps_every_integer(
    border: Pads,
    own: Pads,
    height: int,
    width: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    depthwise: bool,
    dtype: DType,
    seed: int,
) -> None:
    b = GraphBuilder(seed, dtype=dtype)
    x = b.pad_image(b.input(height, width, 2), border)
    if depthwise:
        b.depthwise(x, kernel=kernel, stride=stride, padding=own)
    else:
        b.conv2d(x, 3, kernel=kernel, stride=stride, padding=own)
    graph = b.build()
    rewritten = rewrite_once(apply, graph)
    assert rewritten is not None
    assert kinds(rewritten.graph) == [DepthwiseConv2D if depthwise else Conv2D]
    assert rewritten.sources == (0, 1)
    (convolution,) = rewritten.graph.operations
    assert convolution.sources == (0, 1)
    assert isinstance(convolution, Conv2D | DepthwiseConv2D)
    assert convolution.pads.top == border.top + own.top
    assert convolution.pads.right == border.right + own.right
    assert_same_integers(graph, rewritten.graph)


def _padded(
    *, value: int | None = None, amounts: tuple[tuple[int, int], ...] | None = None
) -> GraphBuilder:
    b = GraphBuilder(3)
    x = b.input(8, 8, 4)
    b.pad(x, amounts or ((0, 0), (1, 1), (1, 1), (0, 0)), value=value)
    return b


def _pad_of_another_value() -> Graph:
    b = _padded(value=100)
    b.conv2d("pad", 4, padding="valid")
    return b.build()


def _pad_read_twice() -> Graph:
    b = _padded()
    return b.build(b.conv2d("pad", 4, padding="valid"), b.max_pool("pad"))


def _pad_is_an_output() -> Graph:
    b = _padded()
    return b.build(b.conv2d("pad", 4, padding="valid"), "pad")


def _pad_on_channels() -> Graph:
    b = _padded(amounts=((0, 0), (1, 1), (1, 1), (0, 2)))
    return b.build(b.conv2d("pad", 4, padding="valid"))


def _pad_on_batch() -> Graph:
    b = GraphBuilder(3, batch=2)
    x = b.pad(b.input(8, 8, 4), ((1, 1), (1, 1), (1, 1), (0, 0)))
    return b.build(b.conv2d(x, 4, padding="valid"))


def _pad_that_requantizes() -> Graph:
    b = _padded()
    old = b.tensors["pad"]
    b.tensors["pad"] = dataclasses.replace(old, quantization=Quantization.per_tensor(0.5, 3))
    return b.build(b.conv2d("pad", 4, padding="valid"))


def _pad_as_weights() -> Graph:
    b = GraphBuilder(3)
    x = b.conv2d(b.input(8, 8, 4), 4)
    kernel = b.pad(b.input(4, 1, 4), ((0, 0), (0, 0), (1, 1), (0, 0)))
    b.conv2d(x, 4)
    (*others, last) = b.operations
    assert isinstance(last, Conv2D)
    b.operations = [*others, dataclasses.replace(last, weights=kernel)]
    return b.build()


def _pad_in_front_of_a_pool() -> Graph:
    b = _padded()
    return b.build(b.max_pool("pad"))


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(_pad_of_another_value(), id="border-not-zero"),
        pytest.param(_pad_read_twice(), id="read-twice"),
        pytest.param(_pad_is_an_output(), id="graph-output"),
        pytest.param(_pad_on_channels(), id="channels"),
        pytest.param(_pad_on_batch(), id="batch"),
        pytest.param(_pad_that_requantizes(), id="another-scale"),
        pytest.param(_pad_as_weights(), id="computed-weights"),
        pytest.param(_pad_in_front_of_a_pool(), id="no-convolution"),
    ],
)
def test_leaves_other_pads_alone(graph: Graph) -> None:
    assert rewrite_once(apply, graph) is None


def test_a_border_equal_to_the_zero_point_counts_as_zero() -> None:
    b = GraphBuilder(3)
    x = b.input(8, 8, 4, scaling=(0.02, 17))
    b.pad_image(x, Pads(1, 0, 2, 1), value=17)
    graph = b.build(b.conv2d("pad", 4, padding="valid"))
    rewritten = rewrite_once(apply, graph)
    assert rewritten is not None
    assert_same_integers(graph, rewritten.graph)


def test_joins_the_layer_when_the_border_is_the_devices() -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(8, 8, 4), 4)
    b.conv2d(b.pad_image(x, Pads(1, 1, 1, 1)), 4, padding="valid")
    plan = compiled(b.build())
    assert layer_names(plan) == ["Conv2D", "Conv2D"]
    assert row(plan, 1).on_device
    assert row(plan, 1).rewrites == row(plan, 2).rewrites == ("fold-pad",)


def test_is_undone_where_the_layer_took_the_convolution_only_without_it() -> None:
    b = GraphBuilder(1)
    x = b.pad_image(b.input(16, 16, 3), Pads(2, 2, 2, 2))
    b.conv2d(x, 4, padding="valid")
    plan = compiled(b.build())
    assert layer_names(plan) == ["InputConv2D"]
    assert reasons(plan, 0) == {"OP-NO-LAYER": "PAD"}
    assert row(plan, 0).rewrites == row(plan, 1).rewrites == ()


@pytest.mark.parametrize("denied", ["type:PAD", "type:CONV_2D"])
def test_is_not_tried_with_a_denied_operation(denied: str) -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(8, 8, 4), 4, padding="same")
    b.conv2d(b.pad_image(x, Pads(1, 1, 1, 1)), 4, padding="valid")
    plan = compiled(b.build(), deny=(denied,))
    assert all(placed.rewrites == () for placed in plan.placement)
    assert not row(plan, 1).on_device
