# SPDX-License-Identifier: Apache-2.0
"""A constant factor or summand becomes a depthwise layer: the same function, one step at most.

The convolution multiplies by the same stored integers, so only the source's own rounding of its
operands differs: ADD rescales both operands to 20 more bits before it adds; the convolution rounds
the summand to whole input steps, half of one at most.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from compiling import compiled, kinds, layer_names, rewrite_once, row, steps_apart
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.graph import Activation, DepthwiseConv2D, DType, Graph, Quantization
from akida_backend.rewrites.constant_operand import apply
from builders import GraphBuilder

CHANNELS = 4


def _on_constant(
    code: str,
    *,
    shape: tuple[int, ...] = (CHANNELS,),
    dtype: DType = DType.INT8,
    activation: Activation = Activation.NONE,
    swapped: bool = False,
    seed: int = 0,
) -> Graph:
    b = GraphBuilder(seed, dtype=dtype)
    x = b.conv2d(b.input(6, 7, 4), CHANNELS)
    low, high = dtype.code_range
    values = b.random.integers(low, high + 1, shape)
    y = b.constant(values, scaling=(0.01, (low + high + 1) // 2 + 9))
    operands = (y, x) if swapped else (x, y)
    (b.mul if code == "MUL" else b.add)(*operands, activation=activation)
    return b.build()


@settings(max_examples=60, deadline=None)
@given(
    code=st.sampled_from(["MUL", "ADD"]),
    shape=st.sampled_from([(), (1,), (CHANNELS,), (1, CHANNELS), (1, 1, 1, CHANNELS)]),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    activation=st.sampled_from([Activation.NONE, Activation.RELU, Activation.RELU6]),
    swapped=st.booleans(),
    seed=st.integers(0, 99),
)
def test_is_the_same_function_within_its_rounding(
    code: str,
    shape: tuple[int, ...],
    dtype: DType,
    activation: Activation,
    swapped: bool,
    seed: int,
) -> None:
    graph = _on_constant(
        code, shape=shape, dtype=dtype, activation=activation, swapped=swapped, seed=seed
    )
    rewritten = rewrite_once(apply, graph)
    assert rewritten is not None
    assert kinds(rewritten.graph)[1:] == [DepthwiseConv2D]
    op = rewritten.graph.operations[1]
    assert isinstance(op, DepthwiseConv2D)
    assert op.activation is activation
    allowed = 1
    if code == "ADD":
        input_step, output_step = (_step(graph, name) for name in (op.input, op.output))
        allowed = 1 + math.ceil(0.5 * input_step / output_step)
    assert steps_apart(graph, rewritten.graph) <= allowed


def _step(graph: Graph, name: str) -> float:
    quantization = graph.tensors[name].quantization
    assert quantization is not None
    return quantization.single_scale


@pytest.mark.parametrize("code", ["MUL", "ADD"])
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((6, 7, CHANNELS), id="one-per-position"),
        pytest.param((7, 1), id="one-per-column"),
        pytest.param((7, CHANNELS), id="one-per-column-and-channel"),
    ],
)
def test_leaves_constants_that_vary_over_the_map(code: str, shape: tuple[int, ...]) -> None:
    assert rewrite_once(apply, _on_constant(code, shape=shape)) is None


def test_leaves_two_maps_alone() -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(6, 6, 4), 4)
    b.mul(x, b.conv2d(x, 4))
    assert rewrite_once(apply, b.build()) is None


def test_leaves_a_map_of_the_host_alone() -> None:
    b = GraphBuilder(1)
    b.mul(b.input(6, 6, 4), b.constant([3, 1, 4, 1], scaling=(0.01, 0)))
    assert rewrite_once(apply, b.build()) is None


def test_leaves_vectors_alone() -> None:
    b = GraphBuilder(1)
    x = b.fully_connected(b.input(16), 4)
    b.mul(x, b.constant([3, 1, 4, 1], scaling=(0.01, 0)))
    assert rewrite_once(apply, b.build()) is None


@pytest.mark.parametrize(
    "quantization",
    [
        pytest.param(None, id="no-scale"),
        pytest.param(
            Quantization(np.array([0.1, 0.2, 0.3, 0.4], np.float32), np.zeros(4, np.int64), 0),
            id="one-scale-per-channel",
        ),
    ],
)
def test_leaves_constants_without_one_scale_alone(quantization: Quantization | None) -> None:
    graph = _on_constant("MUL")
    (name,) = (n for n in graph.tensors if n == "constant")
    other = dataclasses.replace(graph.tensors[name], quantization=quantization)
    graph = dataclasses.replace(graph, tensors={**graph.tensors, name: other})
    assert rewrite_once(apply, graph) is None


@pytest.mark.parametrize("code", ["MUL", "ADD"])
def test_runs_as_a_depthwise_layer(code: str) -> None:
    plan = compiled(_on_constant(code))
    assert layer_names(plan) == ["Conv2D", "DepthwiseConv2D"]
    assert row(plan, 1).rewrites == ("constant-operand",)
    assert row(plan, 1).macs == 0
    assert row(plan, 1).device_macs == 6 * 7 * CHANNELS * 9


@pytest.mark.parametrize(("scale", "fits"), [(1e6, True), (1e9, False), (1e30, False)])
def test_leaves_summands_beyond_32_bits_alone(scale: float, fits: bool) -> None:
    b = GraphBuilder(0)
    x = b.conv2d(b.input(6, 7, 4), CHANNELS, scaling=(0.5, 0))
    values = np.full(CHANNELS, 100)  # 100 * scale / 0.5 against 2**31
    b.add(x, b.constant(values, scaling=(scale, 0)))
    assert (rewrite_once(apply, b.build()) is not None) == fits


def test_is_not_tried_again_once_refused() -> None:
    plan = compiled(_on_constant("MUL"), deny=("type:MUL",))
    assert layer_names(plan) == ["Conv2D"]
    assert row(plan, 1).rewrites == ()
