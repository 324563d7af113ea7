# SPDX-License-Identifier: Apache-2.0
"""A depthwise convolution of one channel is the same integers as an ordinary convolution."""

from __future__ import annotations

import dataclasses

import pytest
from compiling import assert_same_integers, compiled, kinds, layer_names, rewrite_once, row
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.graph import Conv2D, DepthwiseConv2D, DType
from akida_backend.rewrites.single_channel import apply
from builders import GraphBuilder


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    multiplier=st.integers(2, 5),
    padding=st.sampled_from(["same", "valid"]),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    seed=st.integers(0, 9),
)
def test_keeps_every_integer(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    multiplier: int,
    padding: str,
    dtype: DType,
    seed: int,
) -> None:
    b = GraphBuilder(seed, dtype=dtype)
    b.depthwise(
        b.input(*size, 1), kernel=kernel, stride=stride, multiplier=multiplier, padding=padding
    )
    graph = b.build()
    rewritten = rewrite_once(apply, graph)
    assert rewritten is not None
    assert kinds(rewritten.graph) == [Conv2D]
    (op,) = rewritten.graph.operations
    assert isinstance(op, Conv2D)
    quantization = rewritten.graph.tensors[op.weights].quantization
    assert quantization is not None
    assert quantization.axis == (None if dtype is DType.UINT8 else 0)
    assert_same_integers(graph, rewritten.graph)


@pytest.mark.parametrize("channels", [2, 3])
def test_leaves_several_channels_alone(channels: int) -> None:
    b = GraphBuilder(1)
    b.depthwise(b.input(8, 8, channels), multiplier=2)
    assert rewrite_once(apply, b.build()) is None


def test_leaves_computed_weights_alone() -> None:
    b = GraphBuilder(1)
    kernel = b.input(3, 3, 4)
    b.depthwise(b.input(8, 8, 1), multiplier=4)
    (op,) = b.operations
    assert isinstance(op, DepthwiseConv2D)
    b.operations = [dataclasses.replace(op, weights=kernel)]
    assert rewrite_once(apply, b.build()) is None


def test_leaves_what_the_device_takes_as_it_is() -> None:
    b = GraphBuilder(1)
    b.depthwise(b.input(8, 8, 1))
    assert rewrite_once(apply, b.build()) is None


def test_brings_a_depth_multiplier_to_the_input_layer() -> None:
    b = GraphBuilder(1)
    b.depthwise(b.input(12, 12, 1), multiplier=8)
    plan = compiled(b.build())
    assert layer_names(plan) == ["InputConv2D"]
    assert row(plan, 0).rewrites == ("single-channel",)
    assert row(plan, 0).macs == row(plan, 0).device_macs == 12 * 12 * 8 * 9
