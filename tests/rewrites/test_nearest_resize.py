# SPDX-License-Identifier: Apache-2.0
"""Doubling by nearest neighbour as a transposed depthwise layer, without changing an integer."""

from __future__ import annotations

import pytest
from compiling import assert_same_integers, compiled, kinds, layer_names, rewrite_once, row
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.graph import DType, Graph, TransposeConv2D
from akida_backend.rewrites.nearest_resize import apply
from builders import GraphBuilder


def _resized(
    size: tuple[int, int],
    new: tuple[int, int],
    *,
    on_device: bool = True,
    dtype: DType = DType.INT8,
    align_corners: bool = False,
    half_pixel_centers: bool = False,
) -> Graph:
    b = GraphBuilder(1, dtype=dtype)
    x = b.input(*size, 4)
    if on_device:
        x = b.conv2d(x, 4)
    b.resize_nearest(x, new, align_corners=align_corners, half_pixel_centers=half_pixel_centers)
    return b.build()


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    half_pixel_centers=st.booleans(),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
)
def test_keeps_every_integer(
    height: int, width: int, half_pixel_centers: bool, dtype: DType
) -> None:
    graph = _resized(
        (height, width),
        (2 * height, 2 * width),
        half_pixel_centers=half_pixel_centers,
        dtype=dtype,
    )
    rewritten = rewrite_once(apply, graph)
    assert rewritten is not None
    assert kinds(rewritten.graph)[1:] == [TransposeConv2D]
    assert_same_integers(graph, rewritten.graph)


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(_resized((4, 4), (8, 8), align_corners=True), id="corners-aligned"),
        pytest.param(_resized((4, 4), (8, 4)), id="one-axis"),
        pytest.param(_resized((4, 4), (12, 12)), id="three-times"),
        pytest.param(_resized((4, 4), (7, 8)), id="not-quite-twice"),
        pytest.param(_resized((4, 4), (8, 8), on_device=False), id="on-the-host"),
    ],
)
def test_leaves_other_resizes_alone(graph: Graph) -> None:
    assert rewrite_once(apply, graph) is None


def test_runs_as_a_transposed_depthwise_layer() -> None:
    plan = compiled(_resized((4, 5), (8, 10)))
    assert layer_names(plan) == ["Conv2D", "DepthwiseConv2DTranspose"]
    assert row(plan, 1).rewrites == ("nearest-resize",)
