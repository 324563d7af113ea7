# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scalar_kernels import requantized, scale_of, stored, window_cells, with_arrays, zero_of

from akida_backend.graph import (
    Activation,
    AnyArray,
    Arithmetic,
    Conv2D,
    DType,
    Graph,
    Pads,
    Quantization,
    Size2D,
)
from akida_backend.ops import SPEC_OF
from akida_backend.reference import run_graph
from builders import GraphBuilder, random_inputs


def one_by_one(graph: Graph, x: AnyArray) -> AnyArray:
    """The convolution in loops over Python integers."""
    (op,) = graph.operations
    assert isinstance(op, Conv2D)
    source, output = graph.tensors[op.input], graph.tensors[op.output]
    weights_tensor, weights = with_arrays(graph, op.weights)
    bias = None if op.bias is None else graph.constant(op.bias)
    samples, height, width, _ = x.shape
    _, out_height, out_width, filters = output.shape
    _, kernel_height, kernel_width, channels = weights.shape
    kernel = Size2D(kernel_height, kernel_width)
    y = np.zeros((samples, out_height or 0, out_width or 0, filters or 0), output.dtype.numpy)
    for n, row, column, f in np.ndindex(y.shape):
        first = f // (y.shape[3] * channels // x.shape[3]) * channels
        total = 0 if bias is None else int(bias[f])
        for ky, kx, iy, ix in window_cells((row, column), kernel, op.stride, op.dilation, op.pads):
            if 0 <= iy < height and 0 <= ix < width:
                for c in range(channels):
                    value = int(x[n, iy, ix, first + c]) - zero_of(source)
                    total += value * (int(weights[f, ky, kx, c]) - zero_of(weights_tensor, f))
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
    weight_dtype=st.sampled_from([DType.INT8, DType.INT4]),
    per_channel=st.booleans(),
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
    weight_dtype: DType,
    per_channel: bool,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: tuple[int, int, int, int],
    activation: Activation,
    bias: bool,
) -> None:
    b = GraphBuilder(seed, dtype=dtype, weight_dtype=weight_dtype, per_channel=per_channel)
    x = b.input(5, 6, 2)
    y = b.conv2d(
        x,
        3,
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


def test_fewer_weight_channels_make_groups() -> None:
    b = GraphBuilder(4)
    x = b.input(4, 4, 6)
    y = b.conv2d(x, 4)
    whole = b.tensors["conv_weights"]
    data = b.random.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    b.tensors["conv_weights"] = dataclasses.replace(whole, data=data, shape=data.shape)
    graph = b.build(y)
    feeds = random_inputs(graph, 2)
    np.testing.assert_array_equal(run_graph(graph, feeds)[y], one_by_one(graph, feeds[x]))
    assert SPEC_OF[Conv2D].macs(graph.operations[0], graph) == 4 * 4 * 4 * 3 * 3 * 3


@pytest.mark.parametrize("channels", [400, 700, 5000])
def test_accumulators_beyond_24_bits_are_exact(channels: int) -> None:
    """Sums of 255 * 127 and one: float32 could not hold the last digits of the larger ones."""
    weights = np.full((1, 1, 1, channels), 127, np.int8)
    weights[0, 0, 0, -1] = 1
    b = GraphBuilder(0)
    x = b.input(1, 2, channels, scaling=(1.0, -128))
    total = 255 * (127 * (channels - 1) + 1)
    y = b.conv2d(x, 1, kernel=1, bias=False, weights=weights, scaling=(1.0, -total % 256))
    b.tensors["conv_weights"] = dataclasses.replace(
        b.tensors["conv_weights"], quantization=Quantization.per_tensor(1.0)
    )
    zero = -(total - 60)  # far out of range, to look at the last digits of the sum
    b.tensors[y] = dataclasses.replace(
        b.tensors[y], quantization=Quantization.per_tensor(1.0, zero)
    )
    graph = b.build(y)
    values = np.full((1, 1, 2, channels), 127, np.int8)
    values[0, 0, 1, -1] = 126
    assert run_graph(graph, {x: values})[y].reshape(-1).tolist() == [60, 59]


def test_large_batches_are_computed_in_parts_that_agree() -> None:
    b = GraphBuilder(1)
    y = b.conv2d(b.input(32, 32, 16), 8)
    graph = b.build(y)
    feeds = random_inputs(graph, 20)
    whole = run_graph(graph, feeds)[y]
    (name,) = feeds
    parts = [run_graph(graph, {name: feeds[name][i : i + 3]})[y] for i in range(0, 20, 3)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_large_maps_are_computed_in_bands_that_agree(
    stride: int, dilation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = GraphBuilder(seed=3)
    b.conv2d(b.input(13, 6, 2), 3, kernel=(3, 2), stride=(stride, 1), dilation=(dilation, 1))
    graph = b.build()
    feeds = random_inputs(graph, samples=2)
    (whole,) = run_graph(graph, feeds).values()
    monkeypatch.setattr("akida_backend.arithmetic.BAND_VALUES", 2 * 6 * 6 * 2 * 2)  # two rows
    (banded,) = run_graph(graph, feeds).values()
    np.testing.assert_array_equal(banded, whole)


@pytest.mark.parametrize("exponent", [30, 62, 63, 100, 127])
def test_onnx_products_beyond_any_integer_saturate(exponent: int) -> None:
    b = GraphBuilder(0, arithmetic=Arithmetic.ONNX, per_channel=False)
    x = b.input(1, 1, 1, scaling=(2.0**exponent, 0))
    weights = np.full((1, 1, 1, 1), 127, np.int8)
    y = b.conv2d(x, 1, kernel=1, bias=False, weights=weights, scaling=(2.0**-126, 3))
    values = np.array([127, 1, 0, -1, -128], np.int8).reshape(5, 1, 1, 1)
    assert run_graph(b.build(y), {x: values})[y].reshape(-1).tolist() == [127, 127, 3, -128, -128]


def test_onnx_rounds_ties_to_even_after_a_float32_product() -> None:
    b = GraphBuilder(0, arithmetic=Arithmetic.ONNX, per_channel=False)
    x = b.input(1, 1, 1, scaling=(1.0, 0))
    weights = np.ones((1, 1, 1, 1), np.int8)
    y = b.conv2d(x, 1, kernel=1, bias=False, weights=weights, scaling=(2.0, 0))
    b.tensors["conv_weights"] = dataclasses.replace(
        b.tensors["conv_weights"], quantization=Quantization.per_tensor(1.0)
    )
    graph = b.build(y)
    values = np.array([1, 3, 5, -1, -3, 4], np.int8).reshape(6, 1, 1, 1)
    assert run_graph(graph, {x: values})[y].reshape(-1).tolist() == [0, 2, 2, 0, -2, 2]


@pytest.mark.parametrize(
    ("stride", "padding", "macs"),
    [(1, "same", 8 * 8 * 5 * 3 * 3 * 2), (2, "valid", 3 * 3 * 5 * 3 * 3 * 2)],
)
def test_counts_the_multiplications_of_one_sample(stride: int, padding: str, macs: int) -> None:
    b = GraphBuilder(0)
    graph = b.build(b.conv2d(b.input(8, 8, 2), 5, stride=stride, padding=padding))
    assert SPEC_OF[Conv2D].macs(graph.operations[0], graph) == macs
