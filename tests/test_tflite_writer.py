# SPDX-License-Identifier: Apache-2.0
"""What the writer writes is read back by LiteRT, which must see the graph it came from.

Expectations are computed here over real numbers or Python integers. Sums of products and moves
of values compare equal; other operations may differ from the real result by one code, since
only their options are in question here (their rounding is tested with the operations).
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tflite
from numpy.typing import NDArray

from akida_backend.errors import InputError
from akida_backend.graph import (
    Activation,
    AnyArray,
    Conv2D,
    DepthwiseConv2D,
    DType,
    FullyConnected,
    Graph,
    Location,
    Maximum,
    Pads,
    Relu,
    Size2D,
    Softmax,
    Tensor,
    TransposeConv2D,
)
from akida_backend.importers.tflite import read_tflite
from akida_backend.tflite_writer import same_pads, write_tflite
from builders import GraphBuilder, random_inputs

SAMPLES = 3

Integers = NDArray[np.int64]
Reals = NDArray[np.float64]


def run_litert(
    content: bytes,
    feeds: dict[str, AnyArray],
    kernels: str = "BUILTIN_REF",
    runtime: str = "ai_edge_litert",
) -> list[AnyArray]:
    """Outputs of LiteRT's reference (or other) kernels, in the order of the file."""
    interpreter_module = pytest.importorskip(f"{runtime}.interpreter")
    interpreter = interpreter_module.Interpreter(
        model_content=content,
        experimental_op_resolver_type=interpreter_module.OpResolverType[kernels],
    )
    for detail in interpreter.get_input_details():
        interpreter.resize_tensor_input(detail["index"], feeds[detail["name"]].shape)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], feeds[detail["name"]])
    interpreter.invoke()
    return [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]


def run(graph: Graph) -> tuple[dict[str, AnyArray], list[AnyArray]]:
    feeds = random_inputs(graph, SAMPLES, seed=7)
    return feeds, run_litert(write_tflite(graph), feeds)


# Sums of products, in Python integers


def multiply(accumulator: Integers, real: float) -> Integers:
    """`accumulator` times a real number as gemmlowp does it: two roundings."""
    mantissa, exponent = np.frexp(real)
    factor, shift = round(float(mantissa) * 2**31), int(exponent)
    if factor == 2**31:
        factor, shift = factor // 2, shift + 1

    def one(value: int) -> int:
        product = (value << max(shift, 0)) * factor
        nudge = 2**30 if product >= 0 else 1 - 2**30
        high = abs(product + nudge) // 2**31 * (1 if product + nudge >= 0 else -1)
        right = max(-shift, 0)
        away = abs(high) + (1 << right >> 1)
        return (away >> right) * (1 if high >= 0 else -1)

    return np.array([one(int(v)) for v in accumulator.ravel()], np.int64).reshape(accumulator.shape)


def weights_of(graph: Graph, name: str) -> tuple[Integers, Reals]:
    """Weights without their zero point, and their scales."""
    quantization = graph.tensors[name].quantization
    assert quantization is not None
    zero_point = quantization.zero_point[0]
    return graph.constant(name).astype(np.int64) - zero_point, quantization.scale.astype(np.float64)


def windows(op: Conv2D | DepthwiseConv2D, x: Integers, kernel: Size2D, size: Size2D) -> Integers:
    """Values below each kernel cell, shaped NHW + kernel height and width + C."""
    pads = op.pads
    x = np.pad(x, ((0, 0), (pads.top, pads.bottom), (pads.left, pads.right), (0, 0)))
    cells = [
        x[
            :,
            row * op.dilation.height :: op.stride.height,
            column * op.dilation.width :: op.stride.width,
        ][:, : size.height, : size.width]
        for row in range(kernel.height)
        for column in range(kernel.width)
    ]
    batch, *_, channels = x.shape
    shape = (batch, size.height, size.width, kernel.height, kernel.width, channels)
    return np.stack(cells, axis=3).reshape(shape)


def accumulate(graph: Graph, x: Integers) -> Integers:
    """Accumulators of the graph's only operation, bias included."""
    (op,) = graph.operations
    assert isinstance(op, Conv2D | DepthwiseConv2D | TransposeConv2D | FullyConnected)
    weights, _ = weights_of(graph, op.weights)
    shape = tuple(SAMPLES if d is None else d for d in graph.tensors[op.output].shape)
    match op:
        case FullyConnected():
            total = x.reshape(SAMPLES, -1) @ weights.T
        case Conv2D():
            _, kernel_height, kernel_width, _ = weights.shape
            _, height, width, _ = shape
            cells = windows(op, x, Size2D(kernel_height, kernel_width), Size2D(height, width))
            total = np.einsum("nyxhwi,ohwi->nyxo", cells, weights)
        case DepthwiseConv2D():
            _, kernel_height, kernel_width, outputs = weights.shape
            _, height, width, _ = shape
            cells = windows(op, x, Size2D(kernel_height, kernel_width), Size2D(height, width))
            cells = np.repeat(cells, outputs // cells.shape[-1], axis=-1)
            total = np.einsum("nyxhwo,hwo->nyxo", cells, weights[0])
        case TransposeConv2D():
            _, kernel_height, kernel_width, _ = weights.shape
            _, rows, columns, _ = x.shape
            step = op.stride
            _, height, width, outputs = shape
            # Strides above the kernel leave cells behind the last window that nothing reaches.
            full_height, full_width = (
                rows * step.height + kernel_height,
                columns * step.width + kernel_width,
            )
            total = np.zeros((SAMPLES, full_height, full_width, outputs), np.int64)
            for row in range(rows):
                for column in range(columns):
                    top, left = row * step.height, column * step.width
                    total[:, top : top + kernel_height, left : left + kernel_width] += np.einsum(
                        "ni,ohwi->nhwo", x[:, row, column], weights
                    )
            top, left = op.pads.top, op.pads.left
            total = total[:, top : top + height, left : left + width]
    return total if op.bias is None else total + graph.constant(op.bias).astype(np.int64)


def expected_sums(graph: Graph, stored: AnyArray) -> AnyArray:
    (op,) = graph.operations
    assert isinstance(op, Conv2D | DepthwiseConv2D | TransposeConv2D | FullyConnected)
    source, result = graph.tensors[op.input].quantization, graph.tensors[op.output].quantization
    assert source is not None
    assert result is not None
    total = accumulate(graph, stored.astype(np.int64) - source.single_zero_point)
    _, scales = weights_of(graph, op.weights)
    factors = np.broadcast_to(source.single_scale * scales / result.single_scale, total.shape[-1])
    if isinstance(op, FullyConnected):  # rounds once, ties away from zero
        scaled = total * factors
        codes = (np.sign(scaled) * np.floor(np.abs(scaled) + 0.5)).astype(np.int64)
    else:
        codes = np.stack(
            [multiply(total[..., channel], factor) for channel, factor in enumerate(factors)], -1
        )
    codes += result.single_zero_point
    dtype = graph.tensors[op.output].dtype
    low, high = dtype.code_range
    if op.activation is not Activation.NONE:
        smallest, largest = (
            bound / result.single_scale + result.single_zero_point
            for bound in op.activation.real_range
        )
        low, high = max(low, round(smallest)), min(high, round(min(largest, high)))
    return np.clip(codes, low, high).astype(dtype.numpy)


def conv(**options: object) -> Callable[[GraphBuilder], str]:
    return lambda b: b.conv2d(b.input(7, 6, 3), 5, **options)  # type: ignore[arg-type]


def depthwise(**options: object) -> Callable[[GraphBuilder], str]:
    return lambda b: b.depthwise(b.input(7, 6, 3), **options)  # type: ignore[arg-type]


def transpose_conv(**options: object) -> Callable[[GraphBuilder], str]:
    return lambda b: b.transpose_conv(b.input(4, 5, 3), 2, **options)  # type: ignore[arg-type]


def fully_connected(**options: object) -> Callable[[GraphBuilder], str]:
    return lambda b: b.fully_connected(b.input(2, 3, 4), 6, **options)  # type: ignore[arg-type]


INT8 = {"dtype": DType.INT8}
PER_TENSOR = {"dtype": DType.INT8, "per_channel": False}
INT4 = {"dtype": DType.INT8, "weight_dtype": DType.INT4}
UINT8 = {"dtype": DType.UINT8}

SUMS = [
    pytest.param(conv(), INT8, id="conv-same"),
    pytest.param(conv(padding="valid", stride=2), INT8, id="conv-valid-stride"),
    pytest.param(conv(stride=(2, 1), kernel=(2, 5)), INT8, id="conv-not-square"),
    pytest.param(conv(dilation=(1, 2)), INT8, id="conv-dilated"),
    pytest.param(conv(kernel=1, stride=3), INT8, id="conv-stride-above-kernel"),
    pytest.param(conv(bias=False), INT8, id="conv-no-bias"),
    pytest.param(conv(activation=Activation.RELU), INT8, id="conv-relu"),
    pytest.param(conv(activation=Activation.RELU6), INT8, id="conv-relu6"),
    pytest.param(conv(activation=Activation.RELU_N1_TO_1), INT8, id="conv-relu-n1-to-1"),
    pytest.param(conv(), PER_TENSOR, id="conv-per-tensor"),
    pytest.param(conv(), INT4, id="conv-int4"),
    pytest.param(conv(), UINT8, id="conv-uint8"),
    pytest.param(depthwise(stride=2), INT8, id="depthwise-stride"),
    pytest.param(depthwise(multiplier=2, padding="valid"), INT8, id="depthwise-multiplier"),
    pytest.param(depthwise(dilation=2), UINT8, id="depthwise-uint8-dilated"),
    pytest.param(depthwise(bias=False), INT8, id="depthwise-no-bias"),
    pytest.param(transpose_conv(), INT8, id="transpose-conv-same"),
    pytest.param(transpose_conv(padding="valid", bias=False), INT8, id="transpose-conv-valid"),
    pytest.param(transpose_conv(stride=(1, 2)), INT8, id="transpose-conv-stride-1-2"),
    pytest.param(transpose_conv(activation=Activation.RELU), INT8, id="transpose-conv-relu"),
    pytest.param(fully_connected(), INT8, id="fully-connected"),
    pytest.param(fully_connected(bias=False), INT8, id="fully-connected-no-bias"),
    pytest.param(fully_connected(per_channel=True), INT8, id="fully-connected-per-channel"),
    pytest.param(fully_connected(activation=Activation.RELU), INT8, id="fully-connected-relu"),
    pytest.param(fully_connected(), INT4, id="fully-connected-int4"),
    pytest.param(fully_connected(), UINT8, id="fully-connected-uint8"),
]


@pytest.mark.parametrize(("build", "kind"), SUMS)
def test_litert_computes_the_sums_the_graph_describes(
    build: Callable[[GraphBuilder], str], kind: dict[str, object]
) -> None:
    # The output shape of a transposed convolution is a constant: it runs with batch 1 only.
    batch = SAMPLES if build.__qualname__.startswith("transpose") else None
    b = GraphBuilder(seed=3, batch=batch, **kind)  # type: ignore[arg-type]
    graph = b.build(build(b))
    feeds, outputs = run(graph)
    (result,) = outputs
    np.testing.assert_array_equal(result, expected_sums(graph, feeds["input0"]), strict=True)


def test_litert_reads_int4_depthwise_weights() -> None:
    # LiteRT lists this version for its optimised kernels only, which round differently.
    b = GraphBuilder(seed=3, weight_dtype=DType.INT4)
    graph = b.build(b.depthwise(b.input(7, 6, 3)))
    feeds = random_inputs(graph, SAMPLES, seed=7)
    (result,) = run_litert(write_tflite(graph), feeds, "BUILTIN_WITHOUT_DEFAULT_DELEGATES")
    expected = expected_sums(graph, feeds["input0"]).astype(np.int64)
    difference = result.astype(np.int64) - expected
    assert np.abs(difference).max() <= 1


# Operations that move or pick values


def same_scale(b: GraphBuilder) -> tuple[str, str]:
    return b.input(4, 5, 2, scaling=(0.5, 3)), b.input(4, 5, 2, scaling=(0.5, 3))


def nearest(x: AnyArray, height: int, width: int) -> AnyArray:
    _, rows, columns, _ = x.shape
    picked_rows = np.arange(height) * rows // height
    picked_columns = np.arange(width) * columns // width
    return x[:, picked_rows][:, :, picked_columns]


def max_pool_same(x: AnyArray) -> AnyArray:
    """3x3, stride 2, on 5 rows and 4 columns: SAME pads (1, 1) and (0, 1)."""
    padded = np.pad(x, ((0, 0), (1, 1), (0, 1), (0, 0)), constant_values=-128)
    cells = [padded[:, r : r + 5 : 2, c : c + 3 : 2] for r in range(3) for c in range(3)]
    largest: AnyArray = np.stack(cells).max(axis=0)
    return largest


MOVE_CASES = [
    pytest.param(
        lambda b: [b.reshape(b.input(4, 6), 3, 8)],
        lambda x: [x.reshape(-1, 3, 8)],
        id="reshape",
    ),
    pytest.param(
        lambda b: [b.transpose(b.input(4, 5, 2), 0, 3, 1, 2)],
        lambda x: [x.transpose(0, 3, 1, 2)],
        id="transpose",
    ),
    pytest.param(
        lambda b: [b.strided_slice(b.input(6, 5, 4), slice(1, None, 2), -1, slice(None, -1))],
        lambda x: [x[:, 1::2, -1, :-1]],
        id="strided-slice",
    ),
    pytest.param(
        lambda b: [b.strided_slice(b.input(6, 5, 4), 0, slice(-3, 5), slice(None, None, -1))],
        lambda x: [x[:, 0, -3:5, ::-1]],
        id="strided-slice-backwards",
    ),
    pytest.param(
        lambda b: list(b.split(b.input(4, 4, 6), 2, 2, 2)),
        lambda x: np.split(x, 3, axis=3),
        id="split",
    ),
    pytest.param(
        lambda b: list(b.split(b.input(4, 4, 6), 1, 3, axis=1)),
        lambda x: [x[:, :1], x[:, 1:]],
        id="split-v",
    ),
    pytest.param(
        lambda b: [b.concatenation(*same_scale(b))],
        lambda x, y: [np.concatenate([x, y], axis=3)],
        id="concatenation",
    ),
    pytest.param(
        lambda b: [b.pack(*same_scale(b), axis=2)],
        lambda x, y: [np.stack([x, y], axis=2)],
        id="pack",
    ),
    pytest.param(
        lambda b: list(b.unpack(b.input(3, 4), axis=2)),
        lambda x: [x[:, :, i] for i in range(4)],
        id="unpack",
    ),
    pytest.param(
        lambda b: [b.gather(b.input(5, 3), [4, 0, 4])],
        lambda x: [x[:, [4, 0, 4]]],
        id="gather",
    ),
    pytest.param(
        lambda b: [b.shape_of(b.input(5, 3))],
        lambda x: [np.array(x.shape, np.int32)],
        id="shape",
    ),
    pytest.param(
        lambda b: [b.pad_image(b.input(3, 3, 2, scaling=(0.5, 9)), Pads(1, 2, 0, 3))],
        lambda x: [np.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0)), constant_values=9)],
        id="pad",
    ),
    pytest.param(
        lambda b: [b.pad_image(b.input(3, 3, 2), Pads(0, 1, 1, 0), value=-100)],
        lambda x: [np.pad(x, ((0, 0), (0, 1), (1, 0), (0, 0)), constant_values=-100)],
        id="padv2",
    ),
    pytest.param(
        lambda b: [b.max_pool(b.input(5, 4, 2))],
        lambda x: [x[:, :4].reshape(-1, 2, 2, 2, 2, 2).max(axis=(2, 4))],
        id="max-pool-valid",
    ),
    pytest.param(
        lambda b: [b.max_pool(b.input(5, 4, 2), window=3, stride=2, padding="same")],
        lambda x: [max_pool_same(x)],
        id="max-pool-same",
    ),
    pytest.param(
        lambda b: [b.maximum(*same_scale(b))], lambda x, y: [np.maximum(x, y)], id="maximum"
    ),
    pytest.param(
        lambda b: [b.minimum(*same_scale(b))], lambda x, y: [np.minimum(x, y)], id="minimum"
    ),
    pytest.param(
        lambda b: [b.resize_nearest(b.input(2, 3, 2), (4, 9))],
        lambda x: [nearest(x, 4, 9)],
        id="resize-nearest",
    ),
    pytest.param(
        lambda b: [b.resize_nearest(b.input(3, 3, 2), 5, align_corners=True)],
        lambda x: [x[:, [0, 1, 1, 2, 2]][:, :, [0, 1, 1, 2, 2]]],
        id="resize-nearest-align-corners",
    ),
    pytest.param(
        lambda b: [b.arg_max(b.input(5, 4), axis=2)],
        lambda x: [x.argmax(axis=2)],
        id="arg-max",
    ),
    pytest.param(
        lambda b: [b.cast(b.input(5, 4), DType.INT32)],
        lambda x: [x.astype(np.int32)],
        id="cast",
    ),
    pytest.param(
        lambda b: [b.relu(b.input(5, 4, scaling=(0.5, 3)), bound=Activation.RELU_N1_TO_1)],
        lambda x: [np.clip(x, 1, 5)],
        id="relu-n1-to-1",
    ),
]


@pytest.mark.parametrize(("build", "expected"), MOVE_CASES)
def test_litert_moves_values_as_the_graph_describes(
    build: Callable[[GraphBuilder], list[str]], expected: Callable[..., list[AnyArray]]
) -> None:
    b = GraphBuilder(seed=5)
    graph = b.build(*build(b))
    feeds, outputs = run(graph)
    for result, value in zip(outputs, expected(*feeds.values()), strict=True):
        np.testing.assert_array_equal(result, value, strict=True)


@pytest.mark.tflite_runtime
@pytest.mark.parametrize(("build", "expected"), MOVE_CASES)
def test_tflite_runtime_2_14_reads_the_same_files(
    build: Callable[[GraphBuilder], list[str]], expected: Callable[..., list[AnyArray]]
) -> None:
    b = GraphBuilder(seed=5)
    graph = b.build(*build(b))
    feeds = random_inputs(graph, SAMPLES, seed=7)
    outputs = run_litert(write_tflite(graph), feeds, runtime="tflite_runtime")
    for result, value in zip(outputs, expected(*feeds.values()), strict=True):
        np.testing.assert_array_equal(result, value, strict=True)


@pytest.mark.tflite_runtime
def test_tflite_runtime_2_14_runs_convolutions_as_litert_does() -> None:
    b = GraphBuilder(seed=1)
    x = b.conv2d(b.input(8, 8, 3), 4, stride=2, activation=Activation.RELU)
    x = b.add(x, b.depthwise(x, bias=False))
    graph = b.build(b.softmax(b.mean(b.conv2d(x, 5, bias=False))))
    content, feeds = write_tflite(graph), random_inputs(graph, SAMPLES, seed=7)
    (result,) = run_litert(content, feeds, runtime="tflite_runtime")
    (expected,) = run_litert(content, feeds)
    np.testing.assert_array_equal(result, expected, strict=True)


# Operations over real numbers


def average_pool_same(x: Reals) -> Reals:
    """2x2, stride 1: SAME pads one row and column behind, which do not count."""
    total = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    count = np.pad(np.ones_like(x), ((0, 0), (0, 1), (0, 1), (0, 0)))

    def sums(a: Reals) -> Reals:
        result: Reals = a[:, :-1, :-1] + a[:, 1:, :-1] + a[:, :-1, 1:] + a[:, 1:, 1:]
        return result

    return sums(total) / sums(count)


def bilinear_twice(x: Reals) -> Reals:
    """Align corners, from 2 to 3 rows and columns: means between the given values."""
    rows = np.stack([x[:, 0], (x[:, 0] + x[:, 1]) / 2, x[:, 1]], axis=1)
    left, right = rows[:, :, 0], rows[:, :, 1]
    return np.stack([left, (left + right) / 2, right], axis=2)


def softmax(x: Reals) -> Reals:
    powers = np.exp(0.5 * x)
    result: Reals = powers / powers.sum(axis=-1, keepdims=True)
    return result


def two(b: GraphBuilder) -> tuple[str, str]:
    return b.input(4, 5, 2), b.input(4, 5, 2)


REAL_CASES = [
    pytest.param(lambda b: b.add(*two(b)), lambda x, y: x + y, id="add"),
    pytest.param(
        lambda b: b.add(*two(b), activation=Activation.RELU),
        lambda x, y: np.maximum(x + y, 0),
        id="add-relu",
    ),
    pytest.param(
        lambda b: b.add(b.input(4, 5), b.input(1, 5)), lambda x, y: x + y, id="add-broadcast"
    ),
    pytest.param(lambda b: b.sub(*two(b)), lambda x, y: x - y, id="sub"),
    pytest.param(lambda b: b.mul(*two(b)), lambda x, y: x * y, id="mul"),
    pytest.param(
        lambda b: b.mul(b.input(4, 5), b.constant([8, -8, 1, 0, 5], scaling=(0.125, 1))),
        lambda x: x * np.array([7, -9, 0, -1, 4]) / 8,
        id="mul-constant",
    ),
    pytest.param(
        lambda b: b.average_pool(b.input(4, 6, 2), window=(2, 3)),
        lambda x: x.reshape(-1, 2, 2, 2, 3, 2).mean(axis=(2, 4)),
        id="average-pool-valid",
    ),
    pytest.param(
        lambda b: b.average_pool(b.input(4, 6, 2), window=2, stride=1, padding="same"),
        average_pool_same,
        id="average-pool-same",
    ),
    pytest.param(
        lambda b: b.mean(b.input(4, 6, 2)), lambda x: x.mean(axis=(1, 2)), id="mean-drops-axes"
    ),
    pytest.param(
        lambda b: b.mean(b.input(4, 6, 2), axes=(2,), keep_dims=True),
        lambda x: x.mean(axis=2, keepdims=True),
        id="mean-keeps-axes",
    ),
    pytest.param(lambda b: b.softmax(b.input(10), beta=0.5), softmax, id="softmax"),
    pytest.param(lambda b: b.logistic(b.input(9)), lambda x: 1 / (1 + np.exp(-x)), id="logistic"),
    pytest.param(lambda b: b.tanh(b.input(9)), np.tanh, id="tanh"),
    pytest.param(
        lambda b: b.hard_swish(b.input(9, scaling=(0.05, 4))),
        lambda x: x * np.clip(x + 3, 0, 6) / 6,
        id="hard-swish",
    ),
    pytest.param(
        lambda b: b.leaky_relu(b.input(9), alpha=0.25),
        lambda x: np.where(x > 0, x, 0.25 * x),
        id="leaky-relu",
    ),
    pytest.param(lambda b: b.relu(b.input(9)), lambda x: np.maximum(x, 0), id="relu"),
    pytest.param(
        lambda b: b.relu(b.input(9, scaling=(0.1, 0)), bound=Activation.RELU6),
        lambda x: np.clip(x, 0, 6),
        id="relu6",
    ),
    pytest.param(
        lambda b: b.resize_bilinear(b.input(2, 2, 3), 3, align_corners=True),
        bilinear_twice,
        id="resize-bilinear-align-corners",
    ),
    pytest.param(
        lambda b: b.resize_bilinear(b.input(2, 2, 3), 4, half_pixel_centers=True),
        lambda x: np.einsum(
            "yr,nrsc,xs->nyxc",
            *(np.array([[4, 0], [3, 1], [1, 3], [0, 4]]) / 4,),
            x,
            np.array([[4, 0], [3, 1], [1, 3], [0, 4]]) / 4,
        ),
        id="resize-bilinear-half-pixel-centers",
    ),
    pytest.param(lambda b: b.quantize(b.input(9, dtype=DType.FLOAT32)), lambda x: x, id="quantize"),
    pytest.param(
        lambda b: b.quantize(b.input(9), scaling=(0.03, -5)), lambda x: x, id="requantize"
    ),
    pytest.param(
        lambda b: b.quantize(b.input(9), dtype=DType.UINT8, scaling=(0.02, 128)),
        lambda x: x,
        id="requantize-to-uint8",
    ),
    pytest.param(lambda b: b.dequantize(b.input(9)), lambda x: x, id="dequantize"),
]


def to_real(tensor: Tensor, stored: AnyArray) -> Reals:
    values = stored.astype(np.float64)
    if tensor.quantization is None:
        return values
    result: Reals = tensor.quantization.single_scale * (
        values - tensor.quantization.single_zero_point
    )
    return result


@pytest.mark.parametrize(("build", "function"), REAL_CASES)
def test_litert_computes_the_function_the_graph_describes(
    build: Callable[[GraphBuilder], str], function: Callable[..., Reals]
) -> None:
    b = GraphBuilder(seed=11)
    graph = b.build(build(b))
    feeds, (result,) = run(graph)
    real = function(*(to_real(graph.tensors[name], x) for name, x in feeds.items()))
    output = graph.tensors[graph.outputs[0]]
    step = 1e-6 if output.quantization is None else output.quantization.single_scale
    low, high = (-np.inf, np.inf) if output.quantization is None else output.real_range
    assert result.shape == real.shape
    assert np.abs(to_real(output, result) - np.clip(real, low, high)).max() <= 1.001 * step


def test_prelu_reads_one_alpha_per_channel() -> None:
    b = GraphBuilder(seed=2)
    graph = b.build(b.prelu(b.input(3, 4, 5)))
    feeds, (result,) = run(graph)
    x = to_real(graph.tensors["input0"], feeds["input0"])
    alpha = to_real(graph.tensors["alpha"], graph.constant("alpha"))
    output = graph.tensors["prelu"]
    low, high = output.real_range
    real = np.clip(np.where(x > 0, x, alpha * x), low, high)
    step = 1.001 * (high - low) / 255
    assert np.abs(to_real(output, result) - real).max() <= step


# The project's own importer


def facts(graph: Graph) -> object:
    """All of a graph that a file carries, in a form that compares."""

    def tensor(t: Tensor) -> object:
        q, data = t.quantization, t.data
        scales = None if q is None else (q.scale.tolist(), q.zero_point.tolist(), q.axis)
        return t.dtype, t.shape, scales, None if data is None else data.tolist()

    return (
        [dataclasses.replace(op, location=NOWHERE) for op in graph.operations],
        [op.location.type for op in graph.operations],
        {name: tensor(t) for name, t in graph.tensors.items()},
        graph.inputs,
        graph.outputs,
    )


NOWHERE = Location("", 0, "", "")
# SHAPE is folded, slices get their bounds in another spelling, CONV_2D a bias of zeros.
NOT_LITERAL = ("shape", "strided-slice", "strided-slice-backwards", "conv-no-bias")
LITERAL = [
    pytest.param(case.values[0], case.values[1] if case in SUMS else {}, id=case.id)
    for case in [*SUMS, *MOVE_CASES, *REAL_CASES]
    if case.id not in NOT_LITERAL
]


@pytest.mark.parametrize(("build", "kind"), LITERAL)
def test_the_importer_reads_the_graph_back(
    build: Callable[[GraphBuilder], str | list[str]], kind: dict[str, object]
) -> None:
    b = GraphBuilder(seed=3, **kind)  # type: ignore[arg-type]
    outputs = build(b)
    graph = b.build(*([outputs] if isinstance(outputs, str) else outputs))
    assert facts(read_tflite(write_tflite(graph), "written")) == facts(graph)


# The file itself


def small_network() -> Graph:
    b = GraphBuilder(seed=1)
    x = b.conv2d(b.input(8, 8, 3), 4, stride=2, activation=Activation.RELU)
    x = b.add(x, b.depthwise(x))
    return b.build(b.softmax(b.fully_connected(b.mean(x), 10)))


def test_litert_reads_names_types_shapes_scales_and_constants() -> None:
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
    graph = small_network()
    interpreter = interpreter_module.Interpreter(model_content=write_tflite(graph))
    details = {d["name"]: d for d in interpreter.get_tensor_details()}
    for name, tensor in graph.tensors.items():
        detail = details[name]
        assert detail["dtype"] == tensor.dtype.numpy.type
        assert detail["shape_signature"].tolist() == [-1 if d is None else d for d in tensor.shape]
        assert detail["shape"].tolist() == [1 if d is None else d for d in tensor.shape]
        assert tensor.quantization is not None
        parameters = detail["quantization_parameters"]
        np.testing.assert_array_equal(parameters["scales"], tensor.quantization.scale)
        np.testing.assert_array_equal(parameters["zero_points"], tensor.quantization.zero_point)
        assert parameters["quantized_dimension"] == (tensor.quantization.axis or 0)
        if tensor.data is not None:
            stored = interpreter.get_tensor(detail["index"])
            np.testing.assert_array_equal(stored, tensor.data, strict=True)


def buffers(content: bytes) -> list[bytes]:
    model = tflite.Model.GetRootAs(content)
    return [
        model.Buffers(i).DataAsNumpy().tobytes()
        for i in range(model.BuffersLength())
        if model.Buffers(i).DataLength()
    ]


def test_int4_is_packed_low_nibble_first_and_padded_with_zero() -> None:
    b = GraphBuilder(weight_dtype=DType.INT4)
    weights = np.array([[1, -1, 7], [-8, 3, 0], [2, -2, 5]])
    graph = b.build(b.fully_connected(b.input(3), 3, bias=False, weights=weights))
    assert buffers(write_tflite(graph)) == [bytes([0xF1, 0x87, 0x03, 0xE2, 0x05])]


def test_constants_start_at_multiples_of_16_bytes() -> None:
    graph = small_network()
    content = write_tflite(graph)
    whole = np.frombuffer(content, np.uint8)
    model = tflite.Model.GetRootAs(content)
    data = [model.Buffers(i).DataAsNumpy() for i in range(1, model.BuffersLength())]
    starts = [view.ctypes.data - whole.ctypes.data for view in data]
    assert len(starts) == sum(t.is_constant for t in graph.tensors.values()) + 1  # axes of MEAN
    assert [start % 16 for start in starts] == [0] * len(starts)


def test_same_graph_gives_same_bytes_under_any_hash_seed() -> None:
    script = (
        "import hashlib, builders, akida_backend.tflite_writer as w;"
        "b = builders.GraphBuilder(seed=4); x = b.conv2d(b.input(8, 8, 3), 4);"
        "g = b.build(b.mean(x), b.max_pool(x));"
        "print(hashlib.sha256(w.write_tflite(g)).hexdigest())"
    )
    digests = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert len(digests[0]) == 65
    assert digests[0] == digests[1]


def test_operators_of_different_versions_get_codes_of_their_own() -> None:
    b = GraphBuilder()
    x = b.conv2d(b.input(4, 4, 2), 2)
    b.weight_dtype = DType.INT4
    graph = b.build(b.conv2d(x, 2))
    model = tflite.Model.GetRootAs(write_tflite(graph))
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    assert [(c.BuiltinCode(), c.Version()) for c in codes] == [
        (tflite.BuiltinOperator.CONV_2D, 3),
        (tflite.BuiltinOperator.CONV_2D, 7),
    ]


def test_constants_and_activations_that_nothing_uses_are_left_out() -> None:
    graph = small_network()
    unused = Tensor("unused", DType.INT8, (2,), None, np.zeros(2, np.int8))
    more = dataclasses.replace(graph, tensors={**graph.tensors, "unused": unused})
    assert write_tflite(more) == write_tflite(graph)


@pytest.mark.parametrize(
    ("length", "window", "stride", "dilation", "before", "after"),
    [
        pytest.param(7, 3, 1, 1, 1, 1, id="odd-window"),
        pytest.param(8, 3, 2, 1, 0, 1, id="odd-cell-behind"),
        pytest.param(8, 4, 1, 1, 1, 2, id="even-window"),
        pytest.param(9, 1, 2, 1, 0, 0, id="never-negative"),
        pytest.param(8, 3, 1, 2, 2, 2, id="dilated"),
    ],
)
def test_same_pads_follow_tflite(
    length: int, window: int, stride: int, dilation: int, before: int, after: int
) -> None:
    both = same_pads(*(Size2D(n, n) for n in (length, window, stride, dilation)))
    assert both == Pads(before, after, before, after)


# What has no TFLite form


def replace_last(graph: Graph, **changes: object) -> Graph:
    *others, last = graph.operations
    changed = dataclasses.replace(last, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(graph, operations=(*others, changed))


def odd_pads() -> Graph:
    b = GraphBuilder()
    return b.build(b.conv2d(b.input(8, 8, 1), 2, padding=Pads(2, 0, 1, 1)))


def opaque() -> Graph:
    b = GraphBuilder()
    return b.build(b.opaque(b.input(4), shape=(None, 4)))


def depthwise_transposed() -> Graph:
    b = GraphBuilder()
    return b.build(b.transpose_conv(b.input(4, 4, 2), 2, depthwise=True))


def softmax_over_rows() -> Graph:
    b = GraphBuilder()
    graph = b.build(b.softmax(b.input(4, 3)))
    (op,) = graph.operations
    assert isinstance(op, Softmax)
    return replace_last(graph, axis=1)


def maximum_with_activation() -> Graph:
    b = GraphBuilder()
    graph = b.build(b.maximum(*same_scale(b)))
    (op,) = graph.operations
    assert isinstance(op, Maximum)
    return replace_last(graph, activation=Activation.RELU)


def relu_without_bound() -> Graph:
    b = GraphBuilder()
    graph = b.build(b.relu(b.input(4)))
    (op,) = graph.operations
    assert isinstance(op, Relu)
    return replace_last(graph, bound=Activation.NONE)


def uint4_constant() -> Graph:
    b = GraphBuilder()
    values = b.constant([1, 2], DType.UINT4, scaling=(1.0, 0), name="odd_type")
    return b.build(b.add(b.input(2), values))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(
            odd_pads,
            r"op 0 CONV_2D 'conv': pads top 2, bottom 0, left 1, right 1 .* neither SAME nor VALID",
            id="pads",
        ),
        pytest.param(opaque, "op 0 GATHER_ND 'opaque': .* cannot be written", id="opaque"),
        pytest.param(
            depthwise_transposed, "no depthwise transposed convolution", id="depthwise-transposed"
        ),
        pytest.param(softmax_over_rows, "last axis, not axis 1", id="softmax-axis"),
        pytest.param(maximum_with_activation, "fuses no activation", id="maximum-activation"),
        pytest.param(relu_without_bound, "without bounds", id="relu-without-bound"),
        pytest.param(uint4_constant, "tensor 'odd_type': element type uint4", id="uint4"),
    ],
)
def test_what_tflite_cannot_say_is_refused_with_place_and_remedy(
    build: Callable[[], Graph], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        write_tflite(build())
    assert "\n  " in str(caught.value)
