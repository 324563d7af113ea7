# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scalar_kernels import requantized, scale_of, stored, window_cells, with_arrays, zero_of

from akida_backend.graph import Activation, AnyArray, DepthwiseConv2D, DType, Graph, Pads, Size2D
from akida_backend.ops import SPEC_OF
from akida_backend.reference import run_graph
from builders import GraphBuilder, random_inputs


def one_by_one(graph: Graph, x: AnyArray) -> AnyArray:
    (op,) = graph.operations
    assert isinstance(op, DepthwiseConv2D)
    source, output = graph.tensors[op.input], graph.tensors[op.output]
    weights_tensor, weights = with_arrays(graph, op.weights)
    bias = None if op.bias is None else graph.constant(op.bias)
    samples, height, width, channels = x.shape
    _, out_height, out_width, filters = output.shape
    _, kernel_height, kernel_width, _ = weights.shape
    kernel = Size2D(kernel_height, kernel_width)
    y = np.zeros((samples, out_height or 0, out_width or 0, filters or 0), output.dtype.numpy)
    for n, row, column, f in np.ndindex(y.shape):
        total = 0 if bias is None else int(bias[f])
        for ky, kx, iy, ix in window_cells((row, column), kernel, op.stride, op.dilation, op.pads):
            if 0 <= iy < height and 0 <= ix < width:
                value = int(x[n, iy, ix, f // (y.shape[3] // channels)]) - zero_of(source)
                total += value * (int(weights[0, ky, kx, f]) - zero_of(weights_tensor, f))
        product = scale_of(source) * scale_of(weights_tensor, f)
        if source.dtype is DType.UINT8:
            product = float(np.float32(product))
        steps = requantized(total, product / scale_of(output))
        y[n, row, column, f] = stored(steps, output, op.activation)
    return y


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    per_channel=st.booleans(),
    multiplier=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    activation=st.sampled_from(Activation),
    bias=st.booleans(),
)
def test_equals_loops_over_integers(
    seed: int,
    dtype: DType,
    per_channel: bool,
    multiplier: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: tuple[int, int, int, int],
    activation: Activation,
    bias: bool,
) -> None:
    b = GraphBuilder(seed, dtype=dtype, per_channel=per_channel)
    x = b.input(5, 6, 2)
    y = b.depthwise(
        x,
        multiplier=multiplier,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        padding=Pads(*pads),
        activation=activation,
        bias=bias,
    )
    graph = b.build(y)
    feeds = random_inputs(graph, 2, seed)
    np.testing.assert_array_equal(run_graph(graph, feeds)[y], one_by_one(graph, feeds[x]))


def test_counts_the_multiplications_of_one_sample() -> None:
    b = GraphBuilder(0)
    graph = b.build(b.depthwise(b.input(8, 8, 2), multiplier=3, stride=2))
    macs = SPEC_OF[DepthwiseConv2D].macs(graph.operations[0], graph)
    assert macs == 4 * 4 * (2 * 3) * 3 * 3
