# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scalar_kernels import requantized, scale_of, stored, with_arrays, zero_of

from akida_backend.graph import Activation, AnyArray, DType, Graph, TransposeConv2D
from akida_backend.ops import SPEC_OF
from akida_backend.reference import run_graph
from builders import GraphBuilder, random_inputs


def one_by_one(graph: Graph, x: AnyArray) -> AnyArray:
    """Every input cell adds its filters to the cells it reaches."""
    (op,) = graph.operations
    assert isinstance(op, TransposeConv2D)
    source, output = graph.tensors[op.input], graph.tensors[op.output]
    weights_tensor, weights = with_arrays(graph, op.weights)
    bias = None if op.bias is None else graph.constant(op.bias)
    samples, height, width, channels = x.shape
    _, out_height, out_width, filters = output.shape
    _, kernel_height, kernel_width, _ = weights.shape
    y = np.zeros((samples, out_height or 0, out_width or 0, filters or 0), output.dtype.numpy)
    for n, f in np.ndindex(samples, filters or 0):
        total = np.zeros(y.shape[1:3], object) + (0 if bias is None else int(bias[f]))
        for iy, ix, ky, kx in np.ndindex(height, width, kernel_height, kernel_width):
            row = iy * op.stride.height + ky - op.pads.top
            column = ix * op.stride.width + kx - op.pads.left
            if 0 <= row < y.shape[1] and 0 <= column < y.shape[2]:
                for c in [f] if op.depthwise else range(channels):
                    weight = int(weights[0, ky, kx, f] if op.depthwise else weights[f, ky, kx, c])
                    weight -= zero_of(weights_tensor, f)
                    total[row, column] += (int(x[n, iy, ix, c]) - zero_of(source)) * weight
        product = scale_of(source) * scale_of(weights_tensor, f)
        if source.dtype is DType.UINT8:
            product = float(np.float32(product))
        for cell in np.ndindex(total.shape):
            steps = requantized(int(total[cell]), product / scale_of(output))
            y[n, *cell, f] = stored(steps, output, op.activation)
    return y


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    depthwise=st.booleans(),
    kernel=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.sampled_from(["same", "valid"]),
    activation=st.sampled_from(Activation),
    bias=st.booleans(),
)
def test_equals_loops_over_integers(
    seed: int,
    dtype: DType,
    depthwise: bool,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: str,
    activation: Activation,
    bias: bool,
) -> None:
    b = GraphBuilder(seed, dtype=dtype)
    x = b.input(3, 4, 2)
    y = b.transpose_conv(
        x,
        3,
        kernel=kernel,
        stride=stride,
        padding=padding,
        activation=activation,
        bias=bias,
        depthwise=depthwise,
    )
    graph = b.build(y)
    feeds = random_inputs(graph, 2, seed)
    np.testing.assert_array_equal(run_graph(graph, feeds)[y], one_by_one(graph, feeds[x]))


def test_cells_beyond_the_full_output_hold_the_bias() -> None:
    """A 1x1 kernel with stride 2 leaves the last row and column untouched."""
    b = GraphBuilder(3)
    x = b.input(2, 2, 1)
    y = b.transpose_conv(x, 1, kernel=1, padding="valid")
    b.tensors[y] = dataclasses.replace(b.tensors[y], shape=(None, 4, 4, 1))
    graph = b.build(y)
    feeds = random_inputs(graph, 1)
    found = run_graph(graph, feeds)[y]
    assert found.shape == (1, 4, 4, 1)
    np.testing.assert_array_equal(found, one_by_one(graph, feeds[x]))


@pytest.mark.parametrize(
    ("depthwise", "macs"), [(False, 4 * 4 * 2 * 3 * 3 * 5), (True, 4 * 4 * 2 * 3 * 3)]
)
def test_counts_every_tap_of_every_input_cell(depthwise: bool, macs: int) -> None:
    b = GraphBuilder(0)
    graph = b.build(b.transpose_conv(b.input(4, 4, 2), 5, depthwise=depthwise))
    assert SPEC_OF[TransposeConv2D].macs(graph.operations[0], graph) == macs
