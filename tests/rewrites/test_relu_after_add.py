# SPDX-License-Identifier: Apache-2.0
"""Under strict_hardware a clamp behind Add moves to a convolution; the sum is rounded once more.

The sum is stored on a scale that reaches as far as the output on one side, both ways: half a step
of that for the rounding in between, and half an output step for the second one.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from compiling import compiled, kinds, layer_names, layers, reasons, rewrite_once, row, steps_apart
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.graph import Activation, Add, Conv2D, DType, Graph
from akida_backend.plan import DeviceSegment
from akida_backend.program import Add as AddLayer
from akida_backend.program import NoActivation
from akida_backend.rewrites.relu_after_add import apply
from builders import GraphBuilder


def _sum(
    activation: Activation = Activation.RELU,
    *,
    dtype: DType = DType.INT8,
    scaling: tuple[float, int] | None = None,
    seed: int = 0,
) -> Graph:
    b = GraphBuilder(seed, dtype=dtype)
    x = b.input(5, 6, 4)
    b.add(b.conv2d(x, 4), b.conv2d(x, 4), activation=activation, scaling=scaling)
    return b.build()


@settings(max_examples=40, deadline=None)
@given(
    activation=st.sampled_from([Activation.RELU, Activation.RELU6]),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    seed=st.integers(0, 99),
)
def test_is_the_same_function_within_its_rounding(
    activation: Activation, dtype: DType, seed: int
) -> None:
    graph = _sum(activation, dtype=dtype, seed=seed)
    rewritten = rewrite_once(apply, graph, strict_hardware=True)
    assert rewritten is not None
    assert kinds(rewritten.graph)[-2:] == [Add, Conv2D]
    *_, plain, clamp = rewritten.graph.operations
    assert isinstance(plain, Add)
    assert plain.activation is Activation.NONE
    assert isinstance(clamp, Conv2D)
    assert clamp.activation is activation
    steps = [
        quantization.single_scale
        for name in (plain.output, clamp.output)
        if (quantization := rewritten.graph.tensors[name].quantization) is not None
    ]
    between, output = steps
    # Half of each rounding, and one more step for the source's own rescaling of the operands.
    assert steps_apart(graph, rewritten.graph) <= 1 + math.ceil(0.5 * between / output + 0.5)


def test_needs_strict_hardware() -> None:
    assert rewrite_once(apply, _sum()) is None
    plan = compiled(_sum())
    assert layer_names(plan)[-1] == "Add"
    (segment,) = plan.segments
    assert isinstance(segment, DeviceSegment)
    assert "Add applies ReLU" in "".join(segment.assumptions)


def test_leaves_a_plain_sum_alone() -> None:
    assert rewrite_once(apply, _sum(Activation.NONE), strict_hardware=True) is None


def test_leaves_a_sum_on_the_host_alone() -> None:
    b = GraphBuilder(0)
    b.add(b.input(5, 6, 4), b.constant(np.ones((5, 6, 4)), scaling=(0.1, 0)))
    assert rewrite_once(apply, b.build(), strict_hardware=True) is None


def _assert_nothing_assumed(graph: Graph, index: int) -> None:
    plan = compiled(graph, strict_hardware=True)
    assert row(plan, index).on_device
    adds = [layer for layer in layers(plan) if isinstance(layer, AddLayer)]
    assert adds
    assert all(isinstance(layer.activation, NoActivation) for layer in adds)
    assert all(
        segment.assumptions == () for segment in plan.segments if isinstance(segment, DeviceSegment)
    )


@pytest.mark.parametrize("activation", [Activation.RELU, Activation.RELU6])
def test_leaves_add_without_an_activation(activation: Activation) -> None:
    _assert_nothing_assumed(_sum(activation), 2)


def test_leaves_add_without_an_activation_where_only_the_stored_range_clamps() -> None:
    _assert_nothing_assumed(_sum(Activation.NONE, scaling=(0.5, -128)), 2)


def test_leaves_add_without_an_activation_where_relu_is_an_operator() -> None:
    b = GraphBuilder(0)
    x = b.input(5, 6, 4)
    b.relu(b.add(b.conv2d(x, 4), b.conv2d(x, 4)))
    graph = b.build()
    _assert_nothing_assumed(graph, 2)
    _assert_nothing_assumed(graph, 3)


def test_leaves_vectors_to_the_host_that_no_convolution_can_clamp() -> None:
    b = GraphBuilder(0)
    x = b.fully_connected(b.input(8), 8)
    b.add(x, b.fully_connected(x, 8), activation=Activation.RELU)
    plan = compiled(b.build(), strict_hardware=True)
    assert set(reasons(plan, 2)) == {"POLICY-STRICT-HARDWARE"}
    assert layer_names(compiled(b.build()))[-1] == "Add"
