# SPDX-License-Identifier: Apache-2.0
"""Views of samples against the operations they stand for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from akida_backend.graph import AnyArray, Graph, Operation
from akida_backend.reference import run_operations
from akida_backend.sample_view import NotAViewError, SampleView, view_of
from builders import GraphBuilder


def gathered(view: SampleView, source: NDArray[np.int8]) -> list[int]:
    """A sample through the numbers of a view, one value at a time."""
    numbers = iter(view.numbers())
    fill, axes = next(numbers), next(numbers)
    ends = [(next(numbers), next(numbers)) for _ in range(axes)]
    factors = [(next(numbers), next(numbers), next(numbers)) for _ in range(next(numbers))]
    assert list(numbers) == []
    values = []
    for index in itertools.product(*(range(length) for length, _, _ in factors)):
        place = [offset for _, offset in ends]
        for (_, axis, step), at in zip(factors, index, strict=True):
            place[axis] += at * step
        inside = all(0 <= at < length for at, (length, _) in zip(place, ends, strict=True))
        values.append(int(source[tuple(place)]) if inside else fill)
    return values


def moved(graph: Graph, operations: tuple[Operation, ...], x: NDArray[np.int8]) -> list[int]:
    values: dict[str, AnyArray] = {graph.inputs[0]: x[None]}
    run_operations(operations, graph, values)
    return [int(value) for value in values[graph.outputs[0]].reshape(-1)]


@st.composite
def stacked_blocks(draw: st.DrawFn) -> tuple[Graph, tuple[int, ...]]:
    """Pad to whole blocks, then stack them, as a strided stem wants it."""
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    height, width, channels = (draw(st.integers(1, 7)) for _ in range(3))
    b = GraphBuilder(draw(st.integers(0, 99)))
    x = b.input(height, width, channels, name="x")
    down, right = -height % rows, -width % columns
    top, left = draw(st.integers(0, 2)) * rows, draw(st.integers(0, 2)) * columns
    if down or right or top or left:
        x = b.pad(x, [(0, 0), (top, down), (left, right), (0, 0)])
    tall, wide = (height + down + top) // rows, (width + right + left) // columns
    x = b.reshape(x, tall, rows, wide, columns, channels)
    x = b.transpose(x, 0, 1, 3, 2, 4, 5)
    x = b.reshape(x, tall, wide, rows * columns * channels)
    order = draw(st.permutations(range(3)))
    return b.build(x), tuple(order)


@given(stacked_blocks(), st.integers(0, 99))
def test_a_view_is_what_its_operations_do(case: tuple[Graph, tuple[int, ...]], seed: int) -> None:
    graph, order = case
    *shape, _ = (1 if n is None else n for n in (*graph.tensors["x"].shape[1:], 0))
    x = np.random.default_rng(seed).integers(-128, 128, shape, dtype=np.int8)
    source = x.transpose(order)  # axis order[k] of x is axis k of the source
    back = [order.index(axis) for axis in range(3)]
    view = view_of(graph, graph.operations, source.shape, back)
    assert gathered(view, source) == moved(graph, graph.operations, x)


def test_what_computes_is_no_view() -> None:
    b = GraphBuilder(1)
    graph = b.build(b.tanh(b.input(2, 2, 2)))
    with pytest.raises(NotAViewError, match="computes"):
        view_of(graph, graph.operations, (2, 2, 2), (0, 1, 2))
