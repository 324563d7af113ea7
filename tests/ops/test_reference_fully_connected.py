# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scalar_kernels import half_away, requantized, scale_of, stored, with_arrays, zero_of

from akida_backend.graph import (
    Activation,
    AnyArray,
    Arithmetic,
    DType,
    FullyConnected,
    Graph,
)
from akida_backend.ops import SPEC_OF
from akida_backend.reference import run_graph
from builders import GraphBuilder, random_inputs


def one_by_one(graph: Graph, x: AnyArray) -> AnyArray:
    (op,) = graph.operations
    assert isinstance(op, FullyConnected)
    source, output = graph.tensors[op.input], graph.tensors[op.output]
    weights_tensor, weights = with_arrays(graph, op.weights)
    bias = None if op.bias is None else graph.constant(op.bias)
    rows = x.reshape(-1, weights.shape[1])
    y = np.zeros((len(rows), len(weights)), output.dtype.numpy)
    for n, f in np.ndindex(y.shape):
        total = 0 if bias is None else int(bias[f])
        for value, weight in zip(rows[n], weights[f], strict=True):
            centred = int(weight) - zero_of(weights_tensor, f)
            total += (int(value) - zero_of(source)) * centred
        product = scale_of(source) * scale_of(weights_tensor, f)
        if graph.arithmetic is Arithmetic.TFLITE:
            # the product of two float64 numbers, itself rounded to float64
            steps = half_away(Fraction(float(total) * (product / scale_of(output))))
        else:
            steps = requantized(total, float(np.float32(product)) / scale_of(output))
        y[n, f] = stored(steps, output, op.activation)
    return y


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    arithmetic=st.sampled_from([Arithmetic.TFLITE, Arithmetic.TFLITE_2_14]),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    weight_dtype=st.sampled_from([DType.INT8, DType.INT4]),
    per_channel=st.booleans(),
    features=st.integers(1, 40),
    units=st.integers(1, 5),
    activation=st.sampled_from(Activation),
    bias=st.booleans(),
)
def test_equals_loops_over_integers(
    seed: int,
    arithmetic: Arithmetic,
    dtype: DType,
    weight_dtype: DType,
    per_channel: bool,
    features: int,
    units: int,
    activation: Activation,
    bias: bool,
) -> None:
    b = GraphBuilder(seed, dtype=dtype, weight_dtype=weight_dtype, arithmetic=arithmetic)
    x = b.input(features)
    y = b.fully_connected(
        x,
        units,
        activation=activation,
        bias=bias,
        per_channel=per_channel and dtype is DType.INT8,
    )
    graph = b.build(y)
    feeds = random_inputs(graph, 3, seed)
    np.testing.assert_array_equal(run_graph(graph, feeds)[y], one_by_one(graph, feeds[x]))


def test_an_image_is_flattened_row_by_row() -> None:
    b = GraphBuilder(0)
    x = b.input(2, 3, 4)
    y = b.fully_connected(x, 5)
    graph = b.build(y)
    feeds = random_inputs(graph, 3)
    np.testing.assert_array_equal(run_graph(graph, feeds)[y], one_by_one(graph, feeds[x]))
    assert SPEC_OF[FullyConnected].macs(graph.operations[0], graph) == 24 * 5
