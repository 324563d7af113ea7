# SPDX-License-Identifier: Apache-2.0
"""Depthwise and pointwise convolutions that no quantization parts: int32 sums between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from compiling import row
from onnx.reference import ReferenceEvaluator
from onnx_models import OnnxBuilder, assert_equals_onnxruntime, feeds_of, opaque

from akida_backend.compiler import compile as compile_model
from akida_backend.errors import InputError
from akida_backend.execute import Executor, run_source
from akida_backend.graph import Conv2D, DepthwiseConv2D, DType, Graph
from akida_backend.onnx_writer import write_onnx
from akida_backend.tflite_writer import write_tflite

RANDOM = np.random.default_rng(11)
BATCH = 1


@dataclasses.dataclass
class Halves(OnnxBuilder):
    """Scales are powers of two, so that float32 is exact."""

    depthwise_scale: float | tuple[float, ...] = 2.0**-4
    stride: int = 1
    pointwise_bias: float = 1.0

    def reals(self) -> tuple[str, str]:
        """Results of both halves, on four channels."""
        x = self.real_input((BATCH, 4, 6, 5), 0.5, 3)
        first = RANDOM.integers(-100, 100, (4, 1, 3, 3))
        axis = 0 if np.ndim(self.depthwise_scale) else None
        weights = self.weights(first, self.depthwise_scale, axis=axis)
        bias = self.constant(RANDOM.integers(-50, 50, 4) * 2.0**-5)
        middle = self.node("Conv", x, weights, bias, pads=[1] * 4, group=4)
        second = RANDOM.integers(-100, 100, (3, 4, 1, 1))
        weights = self.weights(second, np.array([2.0**-3, 2.0**-2, 2.0**-3]), axis=0)
        bias = self.constant(np.array([2.0**-8, 0.0, -(2.0**-8)]) * self.pointwise_bias)
        return middle, self.node("Conv", middle, weights, bias, strides=[self.stride] * 2)

    def model_of_both(self) -> Graph:
        _, result = self.reals()
        self.finish(self.node("Relu", result), 64.0, 2)
        return self.graph()


def test_sums_go_on_as_they_are() -> None:
    b = Halves(opset=19, ir_version=9)  # the oldest that onnx's reference evaluator has
    graph = b.model_of_both()
    assert not opaque(graph)
    (depthwise,) = (op for op in graph.operations if isinstance(op, DepthwiseConv2D))
    (pointwise,) = (op for op in graph.operations if isinstance(op, Conv2D))
    middle = graph.tensors[depthwise.output]
    assert (middle.dtype, depthwise.output) == (DType.INT32, pointwise.input)
    assert middle.quantization is not None
    assert middle.quantization.single_scale == 2.0**-5
    feeds = feeds_of(graph)
    (found,) = run_source(graph, feeds).values()
    (expected,) = ReferenceEvaluator(b.model()).run(None, dict(feeds))
    np.testing.assert_array_equal(found, expected)
    assert np.unique(found).size > 20


def test_sums_equal_onnxruntime() -> None:
    b = Halves()
    b.model_of_both()
    assert_equals_onnxruntime(b)


@pytest.mark.parametrize(
    "builder",
    [
        pytest.param(lambda: Halves(depthwise_scale=(0.5,) * 4), id="scale-per-channel"),
        pytest.param(lambda: Halves(stride=2), id="stride-in-the-second"),
    ],
)
def test_others_stay_float_operators(builder: Callable[[], Halves]) -> None:
    graph = builder().model_of_both()
    assert "is not quantized" in opaque(graph)["Conv"]


def test_a_second_reader_keeps_the_reals() -> None:
    b = Halves()
    middle, result = b.reals()
    b.output(middle)
    b.finish(result, 64.0, 2)
    assert "is not quantized" in opaque(b.graph())["Conv"]


def test_reals_come_back_where_the_second_half_is_not_modelled() -> None:
    """A bias beyond 32 bits is found only when the first half is written."""
    b = Halves(pointwise_bias=2.0**35)
    graph = b.model_of_both()
    assert "beyond 32 bits" in opaque(graph)["Conv"]


def test_devices_without_such_a_layer_leave_both_to_the_host() -> None:
    graph = Halves().model_of_both()
    plan = compile_model(graph, "akida2")
    assert not plan.programs
    for index in (2, 4):
        assert "int32" in row(plan, index).reasons[0].found
    feeds = feeds_of(graph)
    (name,) = graph.outputs
    np.testing.assert_array_equal(
        Executor(plan).run(feeds).values[name], run_source(graph, feeds)[name]
    )


@pytest.mark.parametrize("write", [write_onnx, write_tflite], ids=["onnx", "tflite"])
def test_no_file_holds_the_sums(write: Callable[[Graph], bytes]) -> None:
    with pytest.raises(InputError, match="int32"):
        write(Halves().model_of_both())
