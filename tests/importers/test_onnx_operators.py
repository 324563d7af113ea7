# SPDX-License-Identifier: Apache-2.0
"""Every operator in QDQ form: which operation it becomes, equal to onnxruntime's kernels.

Scales are powers of two, so that reals are exact and no order of summation matters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx_models import OnnxBuilder, assert_equals_onnxruntime, opaque

Build = Callable[[OnnxBuilder, str], str]

RANDOM = np.random.default_rng(7)
IMAGE = (1, 4, 6, 8)
UNSIGNED, SIGNED = (np.uint8, 128), (np.int8, 0)


def integers(*shape: int) -> NDArray[np.int64]:
    return RANDOM.integers(-7, 8, shape)


def conv(b: OnnxBuilder, x: str) -> str:
    weights = b.weights(integers(5, 4, 3, 3), 0.125)
    return b.node("Conv", x, weights, pads=[1, 1, 1, 1], strides=[2, 1])


def conv_per_channel(b: OnnxBuilder, x: str) -> str:
    weights = b.weights(integers(3, 4, 3, 3), [0.125, 0.25, 0.0625], axis=0)
    bias = b.weights(integers(3) * 9, [0.0625, 0.125, 0.03125], axis=0, dtype=np.int32)
    return b.node("Conv", x, weights, bias, auto_pad="SAME_UPPER")


def depthwise(b: OnnxBuilder, x: str) -> str:
    weights = b.weights(integers(8, 1, 3, 3), 0.25)
    return b.node("Conv", x, weights, group=4, dilations=[2, 2], pads=[2, 1, 2, 1])


def conv_transpose(b: OnnxBuilder, x: str) -> str:
    weights = b.weights(integers(4, 3, 2, 3), 0.0625)
    return b.node("ConvTranspose", x, weights, strides=[2, 2], pads=[0, 1, 0, 0])


def conv_bias_add(b: OnnxBuilder, x: str) -> str:
    real = b.node("Conv", x, b.weights(integers(3, 4, 1, 1), 0.25))
    return b.node("Add", real, b.constant(integers(3, 1, 1) * 0.125))


def gemm(b: OnnxBuilder, x: str) -> str:
    flat = b.node("Flatten", x)
    weights = b.weights(integers(3, 192), 0.03125)
    return b.node("Gemm", flat, weights, b.constant(integers(3) * 2.0), transB=1)


def matmul_bias(b: OnnxBuilder, x: str) -> str:
    rows = b.node("Reshape", x, b.constant([1, 4, 48], np.int64))
    product = b.node("MatMul", rows, b.weights(integers(48, 3), [0.0625, 0.125, 0.25], axis=1))
    bias = b.weights(integers(3), [0.03125, 0.0625, 0.125], axis=0, dtype=np.int32)
    return b.node("Add", bias, product)


def batch_normalization(b: OnnxBuilder, x: str) -> str:
    names = [b.constant(v) for v in ([0.5, -1, 2, 0], [1, 2, 0, 4], [2, -4, 0, 8], [1, 1, 1, 1])]
    return b.node("BatchNormalization", x, *names, epsilon=0.0)


def conv_normalization(b: OnnxBuilder, x: str) -> str:
    names = [b.constant(v) for v in ([0.5, -1, 2], [1, 2, 0.5], [2, -4, 0], [1, 1, 1])]
    real = b.node("Conv", x, b.weights(integers(3, 4, 1, 1), 0.25))
    return b.node("BatchNormalization", real, *names, epsilon=0.0)


def hard_swish_written_out(b: OnnxBuilder, x: str) -> str:
    gate = b.node("Clip", b.node("Add", x, b.constant(3.0)), b.constant(0.0), b.constant(6.0))
    return b.node("Div", b.node("Mul", x, gate), b.constant(6.0))


def hard_swish_of_sigmoid(b: OnnxBuilder, x: str) -> str:
    return b.node("Mul", x, b.node("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def average_pool(b: OnnxBuilder, x: str) -> str:
    return b.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])


def average_pool_with_border(b: OnnxBuilder, x: str) -> str:
    keys: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    return b.node("AveragePool", x, count_include_pad=1, **keys)


def slice_(b: OnnxBuilder, x: str) -> str:
    names = [b.constant(v, np.int64) for v in ([1, -1], [2**62, -(2**62)], [1, 3], [2, -3])]
    return b.node("Slice", x, *names)


def split(b: OnnxBuilder, x: str) -> str:
    first = b.node("Split", x, b.constant([1, 3], np.int64), axis=1, count=2)
    return b.node("Relu", f"{first}.1")


def resize(mode: str, **keys: Any) -> Build:  # noqa: ANN401
    def build(b: OnnxBuilder, x: str) -> str:
        return b.node("Resize", x, "", b.constant([1, 1, 2, 2]), mode=mode, **keys)

    return build


def one(kind: str, **keys: Any) -> Build:  # noqa: ANN401
    return lambda b, x: b.node(kind, x, **keys)


def with_constant(kind: str, *values: float) -> Build:
    return lambda b, x: b.node(kind, x, *(b.constant(v) for v in values))


def with_itself(kind: str) -> Build:
    return lambda b, x: b.node(kind, x, x)


def moved_before_it_is_quantized(b: OnnxBuilder, x: str) -> str:
    real = b.node("Conv", x, b.weights(integers(3, 4, 1, 1), 0.25))
    pooled = b.node("MaxPool", b.node("Relu", real), kernel_shape=[2, 2], strides=[2, 2])
    return b.node("Relu", b.node("Flatten", pooled))


CASES = {
    "Conv": (conv, "Conv2D"),
    "Conv per channel": (conv_per_channel, "Conv2D"),
    "Conv depthwise": (depthwise, "DepthwiseConv2D"),
    "Conv and Add": (conv_bias_add, "Conv2D"),
    "Conv and BatchNormalization": (conv_normalization, "Conv2D"),
    "Conv, Relu, MaxPool and Flatten": (moved_before_it_is_quantized, "Conv2D"),
    "ConvTranspose": (conv_transpose, "TransposeConv2D"),
    "Gemm": (gemm, "FullyConnected"),
    "MatMul and Add": (matmul_bias, "FullyConnected"),
    "BatchNormalization": (batch_normalization, "DepthwiseConv2D"),
    "Add": (with_itself("Add"), "Add"),
    "Add constant": (with_constant("Add", 1.5), "Add"),
    "Sub": (with_constant("Sub", 2.0), "Sub"),
    "Mul": (with_constant("Mul", 0.5), "Mul"),
    "Div": (with_constant("Div", 2.0), "Mul"),
    "Max": (with_constant("Max", 3.0), "Maximum"),
    "Min": (with_constant("Min", -3.0), "Minimum"),
    "Relu": (one("Relu"), "Relu"),
    "Clip to six": (with_constant("Clip", 0.0, 6.0), "Relu"),
    "Clip": (with_constant("Clip", -4.0, 9.5), "Minimum"),
    "LeakyRelu": (one("LeakyRelu", alpha=0.25), "LeakyRelu"),
    "PRelu": (with_constant("PRelu", 0.25), "Prelu"),
    "HardSwish": (one("HardSwish"), "HardSwish"),
    "HardSwish written out": (hard_swish_written_out, "HardSwish"),
    "HardSwish of HardSigmoid": (hard_swish_of_sigmoid, "HardSwish"),
    "Sigmoid": (one("Sigmoid"), "Logistic"),
    "Tanh": (one("Tanh"), "Tanh"),
    "Softmax": (one("Softmax", axis=-1), "Softmax"),
    "Softmax of channels": (one("Softmax", axis=1), "Softmax"),
    "MaxPool": (one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), "MaxPool2D"),
    "GlobalMaxPool": (one("GlobalMaxPool"), "MaxPool2D"),
    "AveragePool": (average_pool, "AveragePool2D"),
    "AveragePool with border": (average_pool_with_border, "AveragePool2D"),
    "GlobalAveragePool": (one("GlobalAveragePool"), "Mean"),
    "ReduceMean": (one("ReduceMean", axes=[2, 3], keepdims=0), "Mean"),
    "ReduceMean of channels": (one("ReduceMean", axes=[1], keepdims=1), "Mean"),
    "Flatten": (one("Flatten"), "Reshape"),
    "Transpose": (one("Transpose", perm=[0, 3, 1, 2]), "Transpose"),
    "Slice": (slice_, "StridedSlice"),
    "Split": (split, "Relu"),
    "Resize nearest": (
        resize("nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        "ResizeNearest",
    ),
    "Resize linear": (resize("linear"), "ResizeBilinear"),
}


@pytest.mark.parametrize(("dtype", "zero_point"), [UNSIGNED, SIGNED], ids=["u8", "s8"])
@pytest.mark.parametrize("case", CASES)
def test_an_operator_between_integers_is_one_operation(
    case: str, dtype: type[np.generic], zero_point: int
) -> None:
    build, kind = CASES[case]
    b = OnnxBuilder()
    x = b.real_input(IMAGE, 0.5, zero_point, dtype)
    scale = 2.0**-7 if kind in ("Logistic", "Tanh", "Softmax") else 1.0
    b.finish(build(b, x), scale, zero_point, dtype)
    graph = assert_equals_onnxruntime(b)
    assert not opaque(graph)
    assert kind in [type(op).__name__ for op in graph.operations]
    covered = {index for op in graph.operations for index in op.sources}
    assert covered | {f.location.index for f in graph.folded} == set(range(len(b.nodes)))


@pytest.mark.parametrize("case", ["Conv", "Add", "Sigmoid", "GlobalAveragePool", "MaxPool"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8], ids=["u8-to-s8", "s8-to-u8"])
def test_the_result_may_be_of_the_other_type(case: str, dtype: type[np.generic]) -> None:
    build, _ = CASES[case]
    (kind, zero), (other, other_zero) = (
        (UNSIGNED, SIGNED) if dtype is np.uint8 else (SIGNED, UNSIGNED)
    )
    b = OnnxBuilder()
    b.finish(build(b, b.real_input(IMAGE, 0.5, zero, kind)), 0.5, other_zero, other)
    assert not opaque(assert_equals_onnxruntime(b, optimised=False))


def test_operands_may_be_of_different_types() -> None:
    b = OnnxBuilder()
    x, y = b.real_input(IMAGE, 0.5, 100), b.real_input(IMAGE, 0.25, 5, np.int8, "y")
    b.finish(b.node("Add", x, b.node("Add", y, b.weights(integers(4, 1, 1), 0.5))), 0.5, 17)
    b.finish(b.node("Sub", x, y), 0.5, 17)
    assert "Sub" not in opaque(assert_equals_onnxruntime(b, optimised=False))


ROW = (1, 4, 24)

ROWS: dict[str, tuple[Build, str]] = {
    "Conv": (
        lambda b, x: b.node(
            "Conv", x, b.weights(integers(5, 4, 3), 0.125), strides=[2], pads=[1, 0]
        ),
        "Conv2D",
    ),
    "Conv depthwise": (
        lambda b, x: b.node(
            "Conv", x, b.weights(integers(4, 1, 5), 0.25), group=4, auto_pad="SAME_UPPER"
        ),
        "DepthwiseConv2D",
    ),
    "ConvTranspose": (
        lambda b, x: b.node(
            "ConvTranspose", x, b.weights(integers(4, 3, 2), 0.125), strides=[2], output_padding=[0]
        ),
        "TransposeConv2D",
    ),
    "MaxPool": (one("MaxPool", kernel_shape=[3], strides=[2]), "MaxPool2D"),
    "AveragePool": (one("AveragePool", kernel_shape=[2], strides=[2]), "AveragePool2D"),
    "GlobalAveragePool": (one("GlobalAveragePool"), "Mean"),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_are_images_of_height_one(case: str) -> None:
    build, kind = ROWS[case]
    b = OnnxBuilder()
    b.finish(build(b, b.real_input(ROW, 0.5, 128)), 1.0, 128)
    graph = assert_equals_onnxruntime(b, optimised=kind != "TransposeConv2D")
    assert not opaque(graph)
    assert kind in [type(op).__name__ for op in graph.operations]


def test_convolutions_of_rows_in_a_chain_stay_images() -> None:
    b = OnnxBuilder()
    x = b.real_input(ROW, 0.5, 128)
    for _ in range(3):
        real = b.node("Relu", b.node("Conv", x, b.weights(integers(4, 4, 3), 0.03125)))
        x = b.dequantize(b.quantize(real, 0.5, 0), 0.5, 0)
    b.finish(x, 0.5, 0)
    graph = assert_equals_onnxruntime(b)
    kinds = [type(op).__name__ for op in graph.operations]
    assert kinds == ["Transpose", "Reshape", *["Conv2D"] * 3, "Reshape", "Transpose"]
