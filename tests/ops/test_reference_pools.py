# SPDX-License-Identifier: Apache-2.0
"""MAX_POOL_2D, AVERAGE_POOL_2D and MEAN against Python integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalar_kernels import (
    half_away,
    multiplier_and_shift,
    requantized,
    scale_of,
    scaled,
    stored,
    window_cells,
    zero_of,
)

from akida_backend.graph import (
    ONE,
    Activation,
    Arithmetic,
    AveragePool2D,
    DType,
    MaxPool2D,
    Pads,
)
from akida_backend.reference import run_graph
from builders import GraphBuilder, random_inputs


@given(
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    kind=st.sampled_from(["max_pool", "average_pool"]),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    border=st.integers(0, 3),
    activation=st.sampled_from(Activation),
)
def test_pools_equal_loops_over_integers(
    seed: int,
    dtype: DType,
    kind: str,
    window: tuple[int, int],
    stride: tuple[int, int],
    border: int,
    activation: Activation,
) -> None:
    pad_row, pad_column = min(border, window[0] - 1), min(border, window[1] - 1)
    pads = Pads(pad_row, pad_row // 2, pad_column, pad_column // 2)
    b = GraphBuilder(seed, dtype=dtype)
    x = b.input(5, 6, 2)
    y = getattr(b, kind)(x, window=window, stride=stride, padding=pads, activation=activation)
    graph = b.build(y)
    (op,) = graph.operations
    assert isinstance(op, MaxPool2D | AveragePool2D)
    feeds = random_inputs(graph, 2, seed)
    found = run_graph(graph, feeds)[y]
    output = graph.tensors[y]
    for n, row, column, c in np.ndindex(found.shape):
        cells = [
            int(feeds[x][n, iy, ix, c])
            for _, _, iy, ix in window_cells((row, column), op.window, op.stride, ONE, op.pads)
            if 0 <= iy < 5 and 0 <= ix < 6
        ]
        one = max(cells) if kind == "max_pool" else half_away(Fraction(sum(cells), len(cells)))
        expected = stored(one - zero_of(output), output, activation)
        assert int(found[n, row, column, c]) == expected


@pytest.mark.parametrize(
    ("cells", "expected"), [([1, 2], 2), ([-1, -2], -2), ([0, -1], -1), ([0, 1], 1), ([-1, 1], 0)]
)
def test_average_rounds_ties_away_from_zero(cells: list[int], expected: int) -> None:
    b = GraphBuilder(0)
    x = b.input(1, 2, 1, scaling=(1.0, 0))
    y = b.average_pool(x)
    values = np.array(cells, np.int8).reshape(1, 1, 2, 1)
    assert run_graph(b.build(y), {x: values})[y].item() == expected


def test_onnx_average_rounds_ties_to_even() -> None:
    b = GraphBuilder(0, arithmetic=Arithmetic.ONNX)
    x = b.input(1, 2, 1, scaling=(1.0, 0))
    y = b.average_pool(x)
    values = np.array([[1, 2], [2, 3], [-1, 0]], np.int8).reshape(3, 1, 2, 1)
    assert run_graph(b.build(y), {x: values})[y].reshape(-1).tolist() == [2, 2, 0]


@given(
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    axes=st.sampled_from([(1,), (2,), (3,), (1, 2), (1, 2, 3)]),
    keep_dims=st.booleans(),
    scale=st.floats(2.0**-8, 1.0, width=32),
)
def test_mean_folds_the_division_into_the_multiplier(
    seed: int, dtype: DType, axes: tuple[int, ...], keep_dims: bool, scale: float
) -> None:
    b = GraphBuilder(seed, dtype=dtype)
    x = b.input(3, 5, 4)
    low, high = dtype.code_range
    zero = int(b.random.integers(low, high + 1))
    y = b.mean(x, axes=axes, keep_dims=keep_dims, scaling=(scale, zero))
    graph = b.build(y)
    feeds = random_inputs(graph, 2, seed)
    found = run_graph(graph, feeds)[y]
    assert found.shape == tuple(2 if n is None else n for n in graph.tensors[y].shape)
    multiplier, shift = multiplier_and_shift(
        scale_of(graph.tensors[x]) / scale_of(graph.tensors[y])
    )
    totals = feeds[x].astype(object).sum(axis=axes)
    count = int(np.prod([(3, 5, 4)[axis - 1] for axis in axes]))
    source, output = graph.tensors[x], graph.tensors[y]
    for total, code in zip(totals.flat, found.flat, strict=True):
        centred = int(total) - zero_of(source) * count
        room = count.bit_length() - 1
        steps = scaled(centred, (multiplier << room) // count, shift - room)
        assert int(code) == stored(steps, output)


@pytest.mark.parametrize(
    ("count", "value", "expected"),
    [
        pytest.param(1, 5, 5, id="one"),
        pytest.param(2, 3, 3, id="two"),
        pytest.param(3, -7, -7, id="three"),
        pytest.param(250, 11, 11, id="many"),
    ],
)
def test_mean_of_equal_codes_is_that_code(count: int, value: int, expected: int) -> None:
    b = GraphBuilder(0)
    x = b.input(count, 1, 1, scaling=(0.3, 4))
    y = b.mean(x)
    values = np.full((1, count, 1, 1), value, np.int8)
    assert run_graph(b.build(y), {x: values})[y].item() == expected


def test_mean_over_one_element_requantizes() -> None:
    b = GraphBuilder(0)
    x = b.input(1, 1, 7, scaling=(0.3, 4))
    y = b.mean(x, scaling=(0.7, -3))
    graph = b.build(y)
    feeds = random_inputs(graph, 1)
    ratio = scale_of(graph.tensors[x]) / scale_of(graph.tensors[y])
    expected = [stored(requantized(int(v) - 4, ratio), graph.tensors[y]) for v in feeds[x].flat]
    assert run_graph(graph, feeds)[y].reshape(-1).tolist() == expected
