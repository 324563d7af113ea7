# SPDX-License-Identifier: Apache-2.0
"""Stride 2 as stride 1 and a depthwise layer that picks, without changing an integer."""

from __future__ import annotations

import numpy as np
import pytest
from compiling import assert_same_integers, compiled, layer_names, reasons, rewrite_once, row
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from akida_backend.graph import (
    ONE,
    Activation,
    DepthwiseConv2D,
    DType,
    Graph,
    Pads,
    Size2D,
)
from akida_backend.rewrites.split_stride import apply
from builders import GraphBuilder


def _strided(
    *,
    size: tuple[int, int] = (8, 8),
    kernel: int | tuple[int, int] = 5,
    stride: int | tuple[int, int] = 2,
    padding: str | Pads = "same",
    dilation: int = 1,
    depthwise: bool = False,
    dtype: DType = DType.INT8,
    activation: Activation = Activation.NONE,
    inner: bool = False,
    seed: int = 0,
) -> Graph:
    b = GraphBuilder(seed, dtype=dtype)
    x = b.input(*size, 4)
    if inner:
        x = b.conv2d(x, 4, kernel=1)
    if depthwise:
        b.depthwise(
            x,
            kernel=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            activation=activation,
        )
    else:
        b.conv2d(
            x,
            6,
            kernel=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            activation=activation,
        )
    return b.build()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    size=st.tuples(st.integers(5, 10), st.integers(5, 10)),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    top=st.integers(0, 4),
    left=st.integers(0, 4),
    depthwise=st.booleans(),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    activation=st.sampled_from([Activation.NONE, Activation.RELU6]),
    seed=st.integers(0, 9),
)
def test_keeps_every_integer(
    size: tuple[int, int],
    kernel: tuple[int, int],
    top: int,
    left: int,
    depthwise: bool,
    dtype: DType,
    activation: Activation,
    seed: int,
) -> None:
    bottom, right = (
        max(0, (-(-n // 2) - 1) * 2 + side - n - begin)
        for n, side, begin in zip(size, kernel, (top, left), strict=True)
    )
    graph = _strided(
        size=size,
        kernel=kernel,
        padding=Pads(top, bottom, left, right),
        depthwise=depthwise,
        dtype=dtype,
        activation=activation,
        seed=seed,
    )
    rewritten = rewrite_once(apply, graph)
    assume(rewritten is not None)
    assert rewritten is not None
    dense, pick = rewritten.graph.operations
    assert isinstance(dense, type(graph.operations[0]))
    assert isinstance(pick, DepthwiseConv2D)
    assert getattr(dense, "stride") == ONE  # noqa: B009 - of either convolution
    assert pick.stride == Size2D(2, 2)
    assert (
        np.count_nonzero(rewritten.graph.constant(pick.weights))
        == graph.tensors[pick.output].shape[-1]
    )
    assert_same_integers(graph, rewritten.graph)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(
    ("size", "kernel", "padding"),
    [
        pytest.param(8, 5, "same", id="5x5-even"),
        pytest.param(9, 5, "same", id="5x5-odd"),
        pytest.param(8, 7, "same", id="7x7-even"),
        pytest.param(9, 7, "same", id="7x7-odd"),
        pytest.param(8, 3, Pads(1, 1, 1, 1), id="3x3-symmetric"),
        pytest.param(8, 5, Pads(2, 2, 2, 2), id="5x5-symmetric"),
        pytest.param(8, 7, Pads(3, 3, 3, 3), id="7x7-symmetric"),
    ],
)
def test_covers_the_strides_the_device_lacks(
    size: int, kernel: int, padding: str | Pads, depthwise: bool
) -> None:
    graph = _strided(
        size=(size, size), kernel=kernel, padding=padding, depthwise=depthwise, inner=True
    )
    rewritten = rewrite_once(apply, graph)
    assert rewritten is not None
    assert_same_integers(graph, rewritten.graph)
    plan = compiled(graph)
    wide = "DepthwiseConv2D" if depthwise else "Conv2D"
    assert layer_names(plan) == ["Conv2D", wide, "DepthwiseConv2D"]
    assert row(plan, 1).rewrites == ("split-stride",)
    assert len({layer.name for program in plan.programs for layer in program.layers}) == 3
    channels = 4 if depthwise else 6
    picked = ((size + 1) // 2) ** 2 * channels * 9
    at_every_position = size * size * channels * kernel * kernel * (1 if depthwise else 4)
    assert row(plan, 1).device_macs == at_every_position + picked


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(_strided(kernel=3), id="fits-as-it-is"),
        pytest.param(_strided(stride=3), id="stride-3"),
        pytest.param(_strided(stride=(2, 1)), id="one-axis"),
        pytest.param(_strided(kernel=9), id="kernel-too-large"),
        pytest.param(_strided(padding="valid"), id="output-not-same"),
        pytest.param(_strided(kernel=3, dilation=2), id="dilated"),
    ],
)
def test_leaves_other_strides_alone(graph: Graph) -> None:
    assert rewrite_once(apply, graph) is None


def test_names_what_stands_against_the_rest() -> None:
    assert reasons(compiled(_strided(kernel=9, stride=3, inner=True)), 1) == {
        "V2-CONV-KERNEL": "a 9x9 kernel",
        "V2-CONV-STRIDE": "stride 3",
    }
