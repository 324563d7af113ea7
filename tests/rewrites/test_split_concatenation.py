# SPDX-License-Identifier: Apache-2.0
"""Concatenations of many become chains of two, without changing an integer."""

from __future__ import annotations

import dataclasses

import pytest
from compiling import assert_same_integers, compiled, kinds, layer_names, rewrite_once, row
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.graph import Activation, Concatenation, Conv2D, DType, Graph
from akida_backend.rewrites.split_concatenation import apply
from builders import GraphBuilder


def _joined(
    *filters: int,
    dtype: DType = DType.INT8,
    activation: Activation = Activation.NONE,
    scales: tuple[float, ...] = (),
    seed: int = 0,
) -> Graph:
    """Convolutions of one input, joined; their scales are equal unless given."""
    b = GraphBuilder(seed, dtype=dtype)
    x = b.conv2d(b.input(4, 5, 4), 4)
    low, high = dtype.code_range
    middle = (low + high + 1) // 2
    parts = [
        b.conv2d(x, count, kernel=1, scaling=(scales[n] if scales else 0.1, middle + 7))
        for n, count in enumerate(filters)
    ]
    b.concatenation(*parts)
    *others, last = b.operations
    assert isinstance(last, Concatenation)
    b.operations = [*others, dataclasses.replace(last, activation=activation)]
    return b.build()


@settings(max_examples=30, deadline=None)
@given(
    filters=st.lists(st.integers(1, 4), min_size=3, max_size=6),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
)
def test_keeps_every_integer(filters: list[int], dtype: DType) -> None:
    graph = _joined(*filters, dtype=dtype)
    rewritten = rewrite_once(apply, graph)
    assert rewritten is not None
    joins = [op for op in rewritten.graph.operations if isinstance(op, Concatenation)]
    assert [len(op.operands) for op in joins] == [2] * (len(filters) - 1)
    assert_same_integers(graph, rewritten.graph)


def test_keeps_every_integer_of_operands_that_are_rescaled() -> None:
    graph = _joined(2, 3, 1, dtype=DType.UINT8, scales=(0.05, 0.1, 0.2))
    rewritten = rewrite_once(apply, graph)
    if rewritten is not None:
        assert_same_integers(graph, rewritten.graph)


def _with_a_host_operand() -> Graph:
    b = GraphBuilder(0)
    x = b.input(4, 5, 4, scaling=(0.1, 0))
    y = b.conv2d(x, 4, scaling=(0.1, 0))
    z = b.tanh(y)
    b.tensors[z] = dataclasses.replace(b.tensors[z], quantization=b.tensors[y].quantization)
    b.concatenation(y, z, y)
    return b.build()


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(_joined(2, 3), id="two"),
        pytest.param(_joined(2, 3, 1, activation=Activation.RELU), id="activation"),
        pytest.param(_with_a_host_operand(), id="operand-on-the-host"),
    ],
)
def test_leaves_other_concatenations_alone(graph: Graph) -> None:
    assert rewrite_once(apply, graph) is None


def test_leaves_other_axes_alone() -> None:
    b = GraphBuilder(0)
    x = b.conv2d(b.input(4, 5, 4), 4)
    parts = [b.conv2d(x, 4, kernel=1, scaling=(0.1, 0)) for _ in range(3)]
    b.concatenation(*parts, axis=1)
    assert rewrite_once(apply, b.build()) is None


def test_runs_as_a_chain() -> None:
    plan = compiled(_joined(2, 3, 1))
    assert layer_names(plan) == ["Conv2D"] * 4 + ["Concatenate"] * 2
    assert row(plan, 4).rewrites == ("split-concatenation",)
    assert kinds(plan.graph)[0] is Conv2D
