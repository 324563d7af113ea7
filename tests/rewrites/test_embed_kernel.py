# SPDX-License-Identifier: Apache-2.0
"""A kernel the device lacks sits inside a larger one with zero taps, and no integer changes."""

from __future__ import annotations

import numpy as np
import pytest
from compiling import assert_same_integers, compiled, layer_names, reasons, rewrite_once, row
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from akida_backend.graph import (
    Conv2D,
    DepthwiseConv2D,
    DType,
    Graph,
    Pads,
    Size2D,
    TransposeConv2D,
)
from akida_backend.rewrites.embed_kernel import apply
from builders import GraphBuilder


def _convolution(
    *,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    top: int,
    left: int,
    depthwise: bool = False,
    dtype: DType = DType.INT8,
    seed: int = 0,
    inner: bool = True,
) -> Graph:
    """A convolution whose output has the size of Same padding, its border begins as told."""
    b = GraphBuilder(seed, dtype=dtype)
    x = b.input(*size, 4 if inner else 3)
    bottom, right = (
        max(0, (-(-n // stride) - 1) * stride + side - n - begin)
        for n, side, begin in zip(size, kernel, (top, left), strict=True)
    )
    pads = Pads(top, bottom, left, right)
    if depthwise:
        b.depthwise(x, kernel=kernel, stride=stride, padding=pads)
    else:
        b.conv2d(x, 3, kernel=kernel, stride=stride, padding=pads)
    return b.build()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 3),
    top=st.integers(0, 3),
    left=st.integers(0, 3),
    depthwise=st.booleans(),
    inner=st.booleans(),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    seed=st.integers(0, 9),
)
def test_keeps_every_integer(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    top: int,
    left: int,
    depthwise: bool,
    inner: bool,
    dtype: DType,
    seed: int,
) -> None:
    graph = _convolution(
        size=size,
        kernel=kernel,
        stride=stride,
        top=top,
        left=left,
        depthwise=depthwise,
        dtype=dtype,
        seed=seed,
        inner=inner,
    )
    rewritten = rewrite_once(apply, graph)
    assume(rewritten is not None)
    assert rewritten is not None
    (op,) = rewritten.graph.operations
    assert isinstance(op, Conv2D | DepthwiseConv2D)
    _, height, width, _ = rewritten.graph.tensors[op.weights].shape
    assert height == width
    assert height in (3, 4, 5, 7)
    assert_same_integers(graph, rewritten.graph)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "begin", "side", "tap"),
    [
        pytest.param(8, 1, 2, 0, 3, (0, 0), id="1x1-stride-2-even-map"),
        pytest.param(9, 1, 2, 0, 3, (1, 1), id="1x1-stride-2-odd-map"),
        pytest.param(8, 2, 1, 0, 3, (1, 1), id="2x2"),
        pytest.param(8, 4, 1, 1, 5, (1, 1), id="4x4-begin-1"),
        pytest.param(8, 6, 1, 2, 7, (1, 1), id="6x6-begin-2"),
    ],
)
def test_places_the_taps(
    size: int, kernel: int, stride: int, begin: int, side: int, tap: tuple[int, int]
) -> None:
    graph = _convolution(
        size=(size, size), kernel=(kernel, kernel), stride=stride, top=begin, left=begin
    )
    rewritten = rewrite_once(apply, graph)
    assert rewritten is not None
    (old,), (new,) = graph.operations, rewritten.graph.operations
    assert isinstance(old, Conv2D)
    assert isinstance(new, Conv2D)
    weights = rewritten.graph.constant(new.weights)
    assert weights.shape[1:3] == (side, side)
    row_, column = tap
    inside = weights[:, row_ : row_ + kernel, column : column + kernel]
    np.testing.assert_array_equal(inside, graph.constant(old.weights))
    assert np.count_nonzero(weights) == np.count_nonzero(inside)
    assert_same_integers(graph, rewritten.graph)


def test_fills_asymmetric_weights_with_their_zero_point() -> None:
    graph = _convolution(
        size=(8, 8), kernel=(2, 2), stride=1, top=0, left=0, dtype=DType.UINT8, seed=5
    )
    rewritten = rewrite_once(apply, graph)
    assert rewritten is not None
    (op,) = rewritten.graph.operations
    assert isinstance(op, Conv2D)
    quantization = rewritten.graph.tensors[op.weights].quantization
    assert quantization is not None
    weights = rewritten.graph.constant(op.weights)
    zero_point = quantization.single_zero_point
    assert zero_point != 0
    assert (weights[:, 0, :] == zero_point).all()


@pytest.mark.parametrize("kernel", [1, 2])
@pytest.mark.parametrize("depthwise", [False, True])
def test_keeps_every_integer_of_a_small_transposed_kernel(kernel: int, depthwise: bool) -> None:
    b = GraphBuilder(2)
    x = b.input(4, 5, 3)
    b.transpose_conv(x, 3, kernel=kernel, padding=Pads(), depthwise=depthwise)
    graph = b.build()
    rewritten = rewrite_once(apply, graph)
    if kernel == 1:  # its full output is one row short of twice the input
        assert rewritten is None
        return
    assert rewritten is not None
    (op,) = rewritten.graph.operations
    assert isinstance(op, TransposeConv2D)
    assert op.pads == Pads(0, 1, 0, 1)
    assert_same_integers(graph, rewritten.graph)


def _negative(**changes: object) -> Graph:
    b = GraphBuilder(2)
    options: dict[str, object] = {"kernel": (2, 2), "padding": "same", **changes}
    b.conv2d(b.input(8, 8, 4), 3, **options)  # type: ignore[arg-type]
    return b.build()


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(_negative(kernel=8), id="larger-than-any"),
        pytest.param(_negative(kernel=(3, 9)), id="one-side-larger"),
        pytest.param(_negative(padding="valid"), id="output-not-same"),
        pytest.param(_negative(dilation=2), id="dilated"),
        pytest.param(_negative(kernel=5, stride=2), id="no-larger-kernel-at-stride-2"),
        pytest.param(_negative(kernel=3, stride=2, padding=Pads(1, 1, 1, 1)), id="no-room-before"),
    ],
)
def test_leaves_what_has_no_room(graph: Graph) -> None:
    assert rewrite_once(apply, graph) is None


def test_leaves_what_the_device_takes_as_it_is() -> None:
    b = GraphBuilder(2)
    b.conv2d(b.input(8, 8, 4), 3, kernel=3)
    assert rewrite_once(apply, b.build()) is None


def test_takes_the_smallest_kernel_and_says_so() -> None:
    plan = compiled(_negative(kernel=(2, 1)))
    placed = row(plan, 0)
    assert layer_names(plan) == ["Conv2D"]
    assert placed.rewrites == ("embed-kernel",)
    assert placed.macs * 9 == placed.device_macs * 2
    assert Size2D(*plan.programs[0].layers[0].weights.shape[1:3]) == Size2D(3, 3)  # type: ignore[union-attr]


def test_says_all_that_stands_against_a_kernel_without_room() -> None:
    assert set(reasons(compiled(_negative(kernel=(1, 9), dilation=2)), 0)) == {
        "V2-CONV-KERNEL",
        "V2-CONV-DILATION",
        "V2-CNV-SQUARE",
    }
