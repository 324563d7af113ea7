# SPDX-License-Identifier: Apache-2.0
"""Operators without integer meaning: reported with a reason, run by onnxruntime where it is."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import OnnxBuilder, assert_equals_onnxruntime, feeds_of, kinds, opaque

from akida_backend import onnx_host
from akida_backend.errors import UnsupportedOperationError
from akida_backend.execute import run_source
from akida_backend.runtime_host import has_runtime_form, host_name

RANDOM = np.random.default_rng(2)


def test_float_operators_are_named_with_the_reason() -> None:
    b = OnnxBuilder()
    x = b.input((1, 2, 4, 4))
    real = b.node("Conv", x, b.constant(RANDOM.normal(size=(3, 2, 3, 3))))
    b.output(b.node("Softmax", b.node("Relu", real)))
    graph = assert_equals_onnxruntime(b)
    assert kinds(graph) == ["Opaque"] * 3
    assert opaque(graph)["Conv"] == "float operator Conv: input 'x' is not quantized"


def test_a_result_that_is_not_quantized_is_the_reason() -> None:
    b = OnnxBuilder()
    x = b.real_input((1, 8))
    b.output(b.node("MatMul", x, b.weights(RANDOM.integers(-9, 9, (8, 3)), 0.125)))
    graph = assert_equals_onnxruntime(b)
    assert "its result 'matmul_8' is not quantized" in opaque(graph)["MatMul"]


def test_float_weights_are_the_reason() -> None:
    b = OnnxBuilder()
    x = b.real_input((1, 8))
    b.finish(b.node("MatMul", x, b.constant(RANDOM.normal(size=(8, 3)))))
    assert "weights 'constant_4' have no scale" in opaque(b.graph())["MatMul"]


def test_operators_of_unknown_domains_need_a_declared_shape() -> None:
    b = OnnxBuilder()
    b.finish(b.node("Own", b.real_input((1, 8)), domain="mine"))
    model = b.model()
    model.graph.value_info.append(
        helper.make_tensor_value_info("own_4", TensorProto.FLOAT, ["N", 3])
    )
    from akida_backend.loading import load

    graph = load(model)
    assert opaque(graph) == {"Own": "mine::Own is not modelled"}
    assert graph.tensors["own_4"].shape == (None, 3)


def test_a_graph_inside_a_node_reads_values_around_it() -> None:
    b = OnnxBuilder()
    x = b.input((1, 4))
    doubled = b.node("Add", x, x)
    bodies = {}
    for name, kind in (("then_branch", "Neg"), ("else_branch", "Abs")):
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [1, 4])
        node = helper.make_node(kind, [doubled], [f"{name}_y"])
        bodies[name] = helper.make_graph([node], name, [], [out])
    node = helper.make_node("If", [b.input((1,), np.bool_, "flag")], ["y"], name="choice", **bodies)
    b.nodes.append(node)
    b.output("y")
    graph = b.graph()
    assert opaque(graph)["If"] == "If runs another graph, which is not modelled"
    feeds = {"x": feeds_of(graph)["x"], "flag": np.array([True])}
    found = run_source(graph, feeds)["y"]
    np.testing.assert_array_equal(found, -2 * feeds["x"])


def test_without_onnxruntime_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_host, "runtime_version", lambda: None)
    b = OnnxBuilder()
    b.output(b.node("Exp", b.input((1, 4))))
    graph = b.graph()
    assert "none installed" in host_name(graph, "reference")
    with pytest.raises(
        UnsupportedOperationError, match=r"op 0 Exp 'exp_1_node'.*\n.*pip install onnxruntime"
    ):
        run_source(graph, feeds_of(graph))


def test_any_operation_of_the_file_can_run_in_onnxruntime() -> None:
    pytest.importorskip("onnxruntime")
    b = OnnxBuilder()
    x = b.real_input((1, 2, 4, 4), 0.5, 8)
    weights = b.weights(RANDOM.integers(-9, 9, (3, 2, 3, 3)), 0.125)
    b.finish(
        b.node("Softmax", b.dequantize(b.quantize(b.node("Conv", x, weights), 1.0, 9), 1.0, 9)),
        2.0**-8,
        0,
    )
    graph = b.graph()
    assert [has_runtime_form(graph, op) for op in graph.operations if op.sources] == [True] * 2
    feeds = feeds_of(graph, samples=3)
    mine = run_source(graph, feeds)[graph.outputs[0]]
    theirs = run_source(graph, feeds, host="runtime")[graph.outputs[0]]
    np.testing.assert_array_equal(mine, theirs)
    assert host_name(graph, "runtime").startswith("onnxruntime ")


def test_wide_integers_stay_on_the_host() -> None:
    b = OnnxBuilder(opset=21, ir_version=10)
    x = b.real_input((1, 8), 0.01, 0, np.int16)
    b.finish(b.node("Add", x, b.constant(1.0)), 0.01, 0, np.int16)
    graph = assert_equals_onnxruntime(b)
    assert "Add" in opaque(graph)


def test_activations_with_scales_along_an_axis_stay_on_the_host() -> None:
    b = OnnxBuilder()
    x = b.input((1, 3, 4))
    scales = b.scales([0.5, 0.25, 1.0], [0, 0, 0], np.int8)
    codes = b.node("QuantizeLinear", x, *scales, axis=1)
    b.output(b.node("DequantizeLinear", codes, *scales, axis=1))
    graph = assert_equals_onnxruntime(b)
    assert "several scales" in opaque(graph)["QuantizeLinear"]


def test_a_computed_scale_is_no_static_scale() -> None:
    b = OnnxBuilder()
    x = b.input((1, 40))
    scale = b.node("ReduceMax", b.node("Abs", x), keepdims=0)
    b.output(b.node("QuantizeLinear", x, scale), np.uint8)
    assert "no static scale" in opaque(assert_equals_onnxruntime(b))["QuantizeLinear"]
