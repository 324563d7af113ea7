# SPDX-License-Identifier: Apache-2.0
"""A strided stem over blocks that the host stacks, without changing an integer."""

from __future__ import annotations

import pytest
from compiling import assert_same_integers, compiled, kinds, layer_names, rewrite_once, row
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from akida_backend.graph import Conv2D, DType, Graph, Pad, Pads, Reshape, Transpose
from akida_backend.plan import HostSegment
from akida_backend.rewrites.rewriting import TooLargeError
from akida_backend.rewrites.space_to_depth import apply
from builders import GraphBuilder, random_inputs


def _stem(
    *,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: str | Pads = "same",
    channels: int = 1,
    dtype: DType = DType.INT8,
    dilation: int = 1,
    seed: int = 0,
) -> Graph:
    b = GraphBuilder(seed, dtype=dtype)
    x = b.input(*size, channels)
    b.conv2d(x, 3, kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    return b.build()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    size=st.tuples(st.integers(5, 14), st.integers(5, 14)),
    kernel=st.tuples(st.integers(1, 10), st.integers(1, 10)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    top=st.none() | st.integers(0, 4),
    left=st.integers(0, 4),
    channels=st.integers(1, 3),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    seed=st.integers(0, 9),
)
def test_keeps_every_integer(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    top: int | None,
    left: int,
    channels: int,
    dtype: DType,
    seed: int,
) -> None:
    padding: str | Pads = "same"
    if top is not None:  # a border that begins elsewhere but gives as many outputs as Same
        bottom, right = (
            max(0, (-(-n // step) - 1) * step + side - n - begin)
            for n, side, step, begin in zip(size, kernel, stride, (top, left), strict=True)
        )
        padding = Pads(top, bottom, left, right)
    graph = _stem(
        size=size,
        kernel=kernel,
        stride=stride,
        padding=padding,
        channels=channels,
        dtype=dtype,
        seed=seed,
    )
    rewritten = rewrite_once(apply, graph)
    assume(rewritten is not None)
    assert rewritten is not None
    *host, convolution = rewritten.graph.operations
    assert isinstance(convolution, Conv2D)
    assert {type(op) for op in host} <= {Pad, Reshape, Transpose}
    assert rewritten.host_halves == tuple(op.outputs[0] for op in host)
    assert_same_integers(graph, rewritten.graph)


def test_is_the_keyword_spotting_stem() -> None:
    graph = _stem(size=(49, 10), kernel=(10, 4), stride=(2, 2))
    rewritten = rewrite_once(apply, graph)
    assert rewritten is not None
    assert kinds(rewritten.graph) == [Pad, Reshape, Transpose, Reshape, Conv2D]
    pad, *_, convolution = rewritten.graph.operations
    assert isinstance(pad, Pad)
    assert pad.amounts == ((0, 0), (0, 1), (0, 0), (0, 0))
    assert isinstance(convolution, Conv2D)
    assert rewritten.graph.tensors[convolution.input].shape == (None, 25, 5, 4)
    assert rewritten.graph.tensors[convolution.weights].shape[1:] == (5, 5, 4)
    assert_same_integers(graph, rewritten.graph)


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(_stem(size=(12, 12), kernel=(3, 3), stride=(2, 2)), id="fits-as-it-is"),
        pytest.param(_stem(size=(12, 12), kernel=(9, 9), stride=(1, 1)), id="no-stride"),
        pytest.param(
            _stem(size=(12, 12), kernel=(9, 9), stride=(2, 2), padding="valid"), id="valid"
        ),
        pytest.param(_stem(size=(30, 30), kernel=(20, 20), stride=(2, 2)), id="too-large-still"),
        pytest.param(
            _stem(
                size=(12, 12), kernel=(5, 4), stride=(2, 2), dilation=2, padding=Pads(4, 4, 4, 4)
            ),
            id="dilated",
        ),
    ],
)
def test_leaves_other_stems_alone(graph: Graph) -> None:
    assert rewrite_once(apply, graph) is None


def test_leaves_a_map_the_device_computes_alone() -> None:
    b = GraphBuilder(0)
    x = b.conv2d(b.input(12, 12, 4), 4)
    b.conv2d(x, 4, kernel=(10, 4), stride=2)
    assert rewrite_once(apply, b.build()) is None


def test_leaves_the_rearranging_to_the_host_and_says_so() -> None:
    graph = _stem(size=(49, 10), kernel=(10, 4), stride=(2, 2))
    plan = compiled(graph)
    placed = row(plan, 0)
    assert placed.on_device
    assert placed.rewrites == ("space-to-depth",)
    assert {reason.code for reason in placed.reasons} == {"REWRITE-HOST-HALF"}
    assert layer_names(plan) == ["Conv2D"]
    host, device = plan.segments
    assert isinstance(host, HostSegment)
    assert [type(op) for op in host.operations] == [Pad, Reshape, Transpose, Reshape]
    assert placed.segment == device.index
    assert random_inputs(graph, 1)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_stride_of_gigabytes_stays_on_the_host(channels: int) -> None:
    graph = _stem(size=(6, 6), kernel=(3, 3), stride=(2**31 - 1, 1), channels=channels)
    with pytest.raises(TooLargeError):
        rewrite_once(apply, graph)
    assert compiled(graph).programs == ()
