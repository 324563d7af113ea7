# SPDX-License-Identifier: Apache-2.0
"""QOperator form: each node as one operation, equal to onnxruntime's kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx_models import MICROSOFT, OnnxBuilder, assert_equals_onnxruntime, kinds, opaque

from akida_backend.graph import Concatenation, Conv2D, FullyConnected, Mean

Build = Callable[[OnnxBuilder, str], str]

RANDOM = np.random.default_rng(3)
Scaled = tuple[str, str]


def integers(*shape: int) -> NDArray[np.int64]:
    return RANDOM.integers(-100, 100, shape)


def conv(b: OnnxBuilder, x: str, entry: Scaled, result: Scaled) -> str:
    weights = b.constant(integers(5, 4, 3, 3), np.int8)
    scales = b.scales([0.01, 0.02, 0.03, 0.015, 0.025], [0] * 5, np.int8)
    bias = b.constant(integers(5) * 20, np.int32)
    keys: dict[str, Any] = {"pads": [1, 1, 1, 1]}
    return b.node("QLinearConv", x, *entry, weights, *scales, *result, bias, **keys)


def matmul(b: OnnxBuilder, x: str, entry: Scaled, result: Scaled) -> str:
    weights = b.constant(integers(8, 3), np.int8)
    return b.node("QLinearMatMul", x, *entry, weights, *b.scales(0.01, 0, np.int8), *result)


def gemm(b: OnnxBuilder, x: str, entry: Scaled, result: Scaled) -> str:
    flat = b.node("Flatten", x)
    weights = b.constant(integers(3, 192), np.int8)
    scales = b.scales([0.01, 0.02, 0.015], [0] * 3, np.int8)
    bias = b.constant(integers(3) * 50, np.int32)
    return b.node(
        "QGemm", flat, *entry, weights, *scales, bias, *result, domain=MICROSOFT, transB=1
    )


def binary(kind: str) -> Callable[[OnnxBuilder, str, Scaled, Scaled], str]:
    def build(b: OnnxBuilder, x: str, entry: Scaled, result: Scaled) -> str:
        other = b.constant(integers(4, 1, 1) + 100, np.uint8)
        scales = b.scales(0.03, 120, np.uint8)
        return b.node(kind, x, *entry, other, *scales, *result, domain=MICROSOFT)

    return build


def unary(
    kind: str,
    **keys: Any,  # noqa: ANN401
) -> Callable[[OnnxBuilder, str, Scaled, Scaled], str]:
    return lambda b, x, entry, result: b.node(kind, x, *entry, *result, domain=MICROSOFT, **keys)


def concat(b: OnnxBuilder, x: str, entry: Scaled, result: Scaled) -> str:
    other = b.node("MaxPool", x, kernel_shape=[1, 1])
    return b.node("QLinearConcat", *result, x, *entry, other, *entry, domain=MICROSOFT, axis=1)


CASES = {
    "QLinearConv": (conv, "Conv2D"),
    "QLinearMatMul": (matmul, "FullyConnected"),
    "QGemm": (gemm, "FullyConnected"),
    "QLinearAdd": (binary("QLinearAdd"), "Add"),
    "QLinearMul": (binary("QLinearMul"), "Mul"),
    "QLinearConcat": (concat, "Concatenation"),
    "QLinearGlobalAveragePool": (unary("QLinearGlobalAveragePool", channels_last=0), "Mean"),
    "QLinearAveragePool": (
        unary("QLinearAveragePool", kernel_shape=[2, 2], strides=[2, 2]),
        "AveragePool2D",
    ),
    "QLinearSigmoid": (unary("QLinearSigmoid"), "Logistic"),
    "QLinearLeakyRelu": (unary("QLinearLeakyRelu", alpha=0.1), "LeakyRelu"),
    "QLinearSoftmax": (unary("QLinearSoftmax", axis=-1, opset=13), "Softmax"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_node_is_one_operation(case: str) -> None:
    build, kind = CASES[case]
    b = OnnxBuilder()
    x = b.input((1, 4, 6, 8), np.uint8)
    scale = 1 / 256 if kind in ("Logistic", "Softmax") else 0.11
    zero = 0 if kind in ("Logistic", "Softmax") else 77
    result = b.scales(scale, zero, np.uint8)
    b.output(build(b, x, b.scales(0.04, 121, np.uint8), result), np.uint8)
    graph = assert_equals_onnxruntime(b)
    assert not opaque(graph)
    (op,) = [op for op in graph.operations if type(op).__name__ == kind]
    assert (op.location.type, op.location.name) == (case, b.nodes[op.location.index].name)


def test_an_average_over_channels_last_maps_needs_no_transpose() -> None:
    b = OnnxBuilder()
    x = b.input((1, 6, 8, 4), np.uint8)
    scales = b.scales(0.1, 3, np.uint8)
    kind = "QLinearGlobalAveragePool"
    pooled = b.node(kind, x, *scales, *scales, domain=MICROSOFT, channels_last=1)
    b.output(pooled, np.uint8)
    graph = assert_equals_onnxruntime(b)
    assert kinds(graph) == ["Mean"]
    assert isinstance(graph.operations[0], Mean)
    assert graph.operations[0].axes == (1, 2)


def test_integers_on_another_scale_than_written_stay_with_the_runtime() -> None:
    b = OnnxBuilder()
    x = b.input((1, 4, 6, 8), np.uint8)
    one, other = b.scales(0.1, 3, np.uint8), b.scales(0.2, 3, np.uint8)
    first = b.node("QLinearSigmoid", x, *one, *b.scales(1 / 256, 0, np.uint8), domain=MICROSOFT)
    b.output(b.node("DequantizeLinear", first, *other))
    graph = assert_equals_onnxruntime(b)
    assert "on another scale than it is written with" in opaque(graph)["DequantizeLinear"]


@pytest.mark.parametrize("kind", ["MatMulInteger", "ConvInteger"])
def test_integer_products_with_constant_scales_are_operations(kind: str) -> None:
    b = OnnxBuilder()
    shape = (1, 8) if kind == "MatMulInteger" else (1, 4, 5, 6)
    x = b.quantize(b.input(shape), 0.5, 128)
    weights = b.constant(
        integers(8, 3) if kind == "MatMulInteger" else integers(3, 4, 3, 3), np.int8
    )
    sums = b.node(kind, x, weights, b.constant(128, np.uint8))
    real = b.node("Mul", b.node("Cast", sums, to=1), b.constant(0.5 * 2.0**-7))
    b.finish(b.node("Relu", real), 0.5, 0)
    graph = assert_equals_onnxruntime(b)
    assert not opaque(graph)
    (op,) = [op for op in graph.operations if isinstance(op, Conv2D | FullyConnected)]
    assert op.sources == (1, 2, 3, 4, 5)
    scales = graph.tensors[op.weights].quantization
    assert scales is not None
    assert scales.scale.tolist() == [2.0**-7]


def test_dynamically_quantized_products_stay_on_the_host() -> None:
    b = OnnxBuilder()
    x = b.input((1, 8))
    codes = b.node("DynamicQuantizeLinear", x, count=3)
    scale, zero = f"{codes}.1", f"{codes}.2"
    weights = b.constant(integers(8, 3), np.int8)
    sums = b.node("MatMulInteger", codes, weights, zero)
    factor = b.node("Mul", scale, b.constant(0.1))
    b.output(b.node("Mul", b.node("Cast", sums, to=1), factor))
    graph = assert_equals_onnxruntime(b)
    assert "no static activation scale" in opaque(graph)["DynamicQuantizeLinear"]
    assert "no static activation scale" in opaque(graph)["MatMulInteger"]


def test_operands_of_a_concatenation_may_have_their_own_scales() -> None:
    b = OnnxBuilder()
    x, y = b.input((1, 2, 3, 4), np.uint8), b.input((1, 3, 3, 4), np.uint8, "y")
    result = b.scales(0.2, 10, np.uint8)
    operands = (x, *b.scales(0.1, 20, np.uint8), y, *b.scales(0.15, 30, np.uint8))
    b.output(b.node("QLinearConcat", *result, *operands, domain=MICROSOFT, axis=1), np.uint8)
    graph = assert_equals_onnxruntime(b)
    assert [op.axis for op in graph.operations if isinstance(op, Concatenation)] == [1]
