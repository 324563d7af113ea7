# SPDX-License-Identifier: Apache-2.0
"""QDQ twins compute in onnxruntime what the reference computes, within one step per operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import networks
import numpy as np
import onnx
import pytest

from akida_backend.errors import InputError
from akida_backend.graph import Activation, DType, Graph, Pads
from akida_backend.qdq_writer import from_onnx, to_onnx, write_qdq
from akida_backend.reference import run_graph
from builders import GraphBuilder

RELU6 = Activation.RELU6
INT8_AND_UINT8 = pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8], ids=lambda t: t.value)


def through_onnxruntime(graph: Graph, feeds: dict[str, Any]) -> dict[str, Any]:
    runtime = pytest.importorskip("onnxruntime")
    content = write_qdq(graph)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    given = {name: to_onnx(graph.tensors[name], x) for name, x in feeds.items()}
    found = session.run(list(graph.outputs), given)
    return {
        name: from_onnx(graph.tensors[name], values)
        for name, values in zip(graph.outputs, found, strict=True)
    }


def largest_difference(graph: Graph, samples: int = 4) -> float:
    feeds = networks.codes(graph, samples)
    expected = run_graph(graph, feeds)
    found = through_onnxruntime(graph, feeds)
    assert found.keys() == expected.keys()
    worst = 0.0
    for name, values in expected.items():
        assert found[name].shape == values.shape
        assert found[name].dtype == values.dtype
        worst = max(worst, float(np.abs(found[name].astype(float) - values).max()))
    return worst


Build = Callable[[GraphBuilder], str]
OPERATIONS: dict[str, Build] = {
    "conv": lambda b: b.conv2d(b.input(9, 8, 5), 7, kernel=3),
    "conv-stride": lambda b: b.conv2d(b.input(9, 8, 5), 7, kernel=(3, 5), stride=2),
    "conv-pads": lambda b: b.conv2d(b.input(9, 8, 5), 7, kernel=3, padding=Pads(2, 0, 1, 2)),
    "conv-relu": lambda b: b.conv2d(b.input(6, 6, 3), 4, activation=Activation.RELU),
    "conv-relu6": lambda b: b.conv2d(b.input(6, 6, 3), 4, activation=RELU6),
    "conv-relu1": lambda b: b.conv2d(b.input(6, 6, 3), 4, activation=Activation.RELU_N1_TO_1),
    "depthwise": lambda b: b.depthwise(b.input(9, 8, 5), kernel=3, stride=2),
    "dense": lambda b: b.fully_connected(b.input(40), 9),
    "dense-on-map": lambda b: b.fully_connected(b.input(3, 4, 5), 9),
    "transpose-depthwise": lambda b: b.transpose_conv(b.input(5, 4, 3), 3, depthwise=True),
    "transpose-conv": lambda b: b.transpose_conv(b.input(5, 4, 3), 6),
    "add": lambda b: b.add(b.input(5, 4, 3), b.input(5, 4, 3), activation=Activation.RELU),
    "sub": lambda b: b.sub(b.input(5, 4, 3), b.input(5, 4, 3)),
    "mul": lambda b: b.mul(b.input(5, 4, 3), b.input(5, 4, 3)),
    "concatenation": lambda b: b.concatenation(
        b.input(5, 4, 3, scaling=(0.1, 3)), b.input(5, 4, 2, scaling=(0.1, 3)), axis=3
    ),
    "max-pool": lambda b: b.max_pool(b.input(7, 6, 3), window=3, stride=2),
    "average-pool": lambda b: b.average_pool(b.input(7, 6, 3), window=3, stride=2, padding="same"),
    "average-of-all": lambda b: b.average_pool(b.input(7, 6, 3)),
    "mean": lambda b: b.mean(b.input(7, 6, 3)),
    "pad": lambda b: b.pad(b.input(5, 4, 3), [(0, 0), (1, 2), (0, 1), (0, 3)]),
    "flatten": lambda b: b.flatten(b.input(3, 4, 5)),
    "to-image": lambda b: b.reshape(b.input(24), 2, 3, 4),
    "transpose": lambda b: b.transpose(b.input(3, 4, 5), 0, 3, 1, 2),
    "slice": lambda b: b.strided_slice(b.input(6, 5, 4), slice(1, 5), slice(4, None, -2), 1),
    "softmax": lambda b: b.softmax(b.input(10)),
    "logistic": lambda b: b.logistic(b.input(6, 5, 4)),
    "tanh": lambda b: b.tanh(b.input(6, 5, 4)),
    "leaky-relu": lambda b: b.leaky_relu(b.input(6, 5, 4)),
    "hard-swish": lambda b: b.hard_swish(b.input(6, 5, 4)),
    "relu": lambda b: b.relu(b.input(6, 5, 4), bound=RELU6),
    "quantize": lambda b: b.quantize(b.input(6, 5, 4)),
}


@INT8_AND_UINT8
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_within_one_step(name: str, dtype: DType) -> None:
    b = GraphBuilder(5, dtype=dtype)
    assert largest_difference(b.build(OPERATIONS[name](b))) <= 1


@INT8_AND_UINT8
def test_a_network_is_within_a_few_steps(dtype: DType) -> None:
    assert largest_difference(networks.classifier(dtype=dtype), samples=16) <= 4


def test_a_fixed_batch_is_written_as_one() -> None:
    b = GraphBuilder(1, batch=2)
    graph = b.build(b.reshape(b.conv2d(b.input(4, 4, 3), 5), 80))
    model = onnx.load_from_string(write_qdq(graph))
    (entry,) = model.graph.input
    assert [d.dim_value for d in entry.type.tensor_type.shape.dim] == [2, 3, 4, 4]
    assert largest_difference(graph, samples=2) <= 1


def test_convolutions_of_a_network_run_in_integer_kernels(tmp_path: Any) -> None:  # noqa: ANN401
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    runtime.InferenceSession(
        write_qdq(networks.classifier()), options, providers=["CPUExecutionProvider"]
    )
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QLinearConv") == 4
    assert kinds.count("QLinearAdd") == 1
    assert kinds.count("QGemm") == 1
    assert "Conv" not in kinds
    assert "Gemm" not in kinds


def test_int8_and_uint8_twins_are_the_same_but_for_the_offset() -> None:
    graph = networks.classifier()
    values = networks.codes(graph, 2)["image"]
    stored = to_onnx(graph.tensors["image"], values)
    assert stored.dtype == np.uint8
    assert stored.shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(stored[1, 2, 3, 4], values[1, 3, 4, 2].astype(int) + 128)
    np.testing.assert_array_equal(from_onnx(graph.tensors["image"], stored), values)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda b: b.opaque(b.input(4), shape=(None, 4)), "has no QDQ form here"),
        (lambda b: b.unpack(b.input(4, 3), axis=1)[0], "has no QDQ form here"),
    ],
)
def test_rejects_and_names_what_has_no_form(
    build: Callable[[GraphBuilder], str], message: str
) -> None:
    b = GraphBuilder(0)
    with pytest.raises(InputError, match=message):
        write_qdq(b.build(build(b)))
