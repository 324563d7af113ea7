# SPDX-License-Identifier: Apache-2.0
"""What several nodes of an ONNX file say is one operation, as in the TFLite form of a network."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_twins
import pytest
from onnx import TensorProto, helper, numpy_helper

from akida_backend.graph import FullyConnected, Graph, Mean, Reshape
from akida_backend.loading import load
from akida_backend.onnx_writer import write_onnx
from akida_backend.reference import run_graph
from builders import GraphBuilder

SCALES = {
    "scale": np.float32(0.05),
    "zero": np.int8(3),
    "mean_scale": np.float32(0.02),
    "weight_scale": np.float32(0.01),
    "weight_zero": np.int8(0),
}


def quantized(name: str, reals: str, scale: str) -> list[onnx.NodeProto]:
    return [helper.make_node("QuantizeLinear", [reals, scale, "zero"], [name])]


def real(name: str, codes: str, scale: str) -> list[onnx.NodeProto]:
    return [helper.make_node("DequantizeLinear", [codes, scale, "zero"], [name])]


def model(nodes: list[onnx.NodeProto], outputs: dict[str, list[int]], **constants: object) -> bytes:
    """A network of int8 codes x [1, 5, 4, 3]."""
    values = {**SCALES, **constants}
    body = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT8, [1, 5, 4, 3])],
        [helper.make_tensor_value_info(n, TensorProto.INT8, s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.array(v), name) for name, v in values.items()],
    )
    versions = [helper.make_opsetid("", 21)]
    model = helper.make_model(body, opset_imports=versions, ir_version=10)
    return bytes(model.SerializeToString())


def averaged(*behind: onnx.NodeProto, outputs: dict[str, list[int]], **constants: object) -> bytes:
    pool = helper.make_node("GlobalAveragePool", ["x_real"], ["pooled_real"])
    nodes = [*real("x_real", "x", "scale"), pool, *quantized("pooled", "pooled_real", "mean_scale")]
    return model([*nodes, *behind], outputs, **constants)


def assert_equal_to_onnxruntime(graph: Graph, content: bytes) -> None:
    x = np.random.default_rng(1).integers(-128, 128, (1, 5, 4, 3)).astype(np.int8)
    found = onnx_twins.through_onnxruntime(content, {"x": x})
    for name, expected in run_graph(graph, {"x": x}).items():
        np.testing.assert_array_equal(found[name], expected)


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(helper.make_node("Flatten", ["pooled"], ["y"], axis=1), id="flatten"),
        pytest.param(helper.make_node("Squeeze", ["pooled", "axes"], ["y"]), id="squeeze"),
        pytest.param(helper.make_node("Reshape", ["pooled", "shape"], ["y"]), id="reshape"),
    ],
)
def test_a_global_average_and_the_reshape_behind_it_are_one_mean(node: onnx.NodeProto) -> None:
    used = {"axes": np.array([2, 3]), "shape": np.array([1, 5])}
    constants = {name: value for name, value in used.items() if name in node.input}
    content = averaged(node, outputs={"y": [1, 5]}, **constants)
    graph = load(content)
    (mean,) = (op for op in graph.operations if isinstance(op, Mean))
    assert not mean.keep_dims
    assert mean.output == "y"
    assert mean.sources == (0, 1, 2, 3)
    assert not any(isinstance(op, Reshape) for op in graph.operations)
    assert_equal_to_onnxruntime(graph, content)


def test_an_average_that_others_read_too_keeps_its_axes() -> None:
    flatten = helper.make_node("Flatten", ["pooled"], ["y"], axis=1)
    content = averaged(flatten, outputs={"y": [1, 5], "pooled": [1, 5, 1, 1]})
    graph = load(content)
    (mean,) = (op for op in graph.operations if isinstance(op, Mean))
    assert mean.keep_dims
    assert_equal_to_onnxruntime(graph, content)


def test_a_dense_layer_flattens_by_itself() -> None:
    weights = np.random.default_rng(2).integers(-127, 128, (7, 60)).astype(np.int8)
    order = "weight_scale", "weight_zero"
    nodes = [
        helper.make_node("Transpose", ["x"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Flatten", ["last"], ["rows"], axis=1),
        *real("rows_real", "rows", "scale"),
        helper.make_node("DequantizeLinear", ["weights", *order], ["weights_real"]),
        helper.make_node("Gemm", ["rows_real", "weights_real"], ["y_real"], transB=1),
        *quantized("y", "y_real", "scale"),
    ]
    content = model(nodes, {"y": [1, 7]}, weights=weights)
    graph = load(content)
    (dense,) = (op for op in graph.operations if isinstance(op, FullyConnected))
    assert len(graph.tensors[dense.input].shape) == 4
    assert dense.sources == (0, 1, 2, 3, 4, 5)
    assert_equal_to_onnxruntime(graph, content)


def test_a_computed_output_has_its_own_name_at_once() -> None:
    b = GraphBuilder(3)
    graph = load(write_onnx(b.build(b.conv2d(b.input(4, 4, 3), 5))))
    (op,) = graph.operations
    assert op.outputs == graph.outputs == ("conv",)
