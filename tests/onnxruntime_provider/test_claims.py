# SPDX-License-Identifier: Apache-2.0
"""Which nodes a segment stands for, where nodes are shared, transposed, or read by subgraphs."""

from __future__ import annotations

import logging
from types import ModuleType

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx_models import OnnxBuilder

import akida_backend as ab
from akida_backend.compiled_onnx import compiled_onnx
from akida_backend.epcontext import PROVIDER
from akida_backend.onnx_claims import Claim, claims_of
from akida_backend.onnxruntime import create_session

GENERATOR = np.random.default_rng(5)


def weights(*shape: int) -> NDArray[np.int8]:
    return np.random.default_rng(7).integers(-127, 128, shape, dtype=np.int8)


def image(b: OnnxBuilder) -> str:
    return b.real_input(["N", 4, 6, 6], 0.05, 3, np.int8)


def convolution(b: OnnxBuilder, real: str, kernel: str, border: int = 0) -> str:
    """Reals of a quantized convolution."""
    codes = b.quantize(b.node("Conv", real, kernel, pads=[border] * 4), 0.5, -4, np.int8)
    return b.dequantize(codes, 0.5, -4, np.int8)


def claims(data: bytes) -> list[tuple[list[str], Claim]]:
    """Types of the claimed nodes, segment by segment."""
    model = onnx.load_from_string(data)
    found = []
    for claim in claims_of(ab.compile(data), model.graph):
        assert isinstance(claim, Claim)
        found.append(([model.graph.node[index].op_type for index in claim.nodes], claim))
    return found


def check(ort: ModuleType, data: bytes) -> None:
    """Live, compiled and in source arithmetic, at every level: as the package itself."""
    x = GENERATOR.integers(-128, 128, (3, 4, 6, 6), dtype=np.int8)
    expected = [each.tolist() for each in ab.InferenceSession(data).run(None, {"x": x})]
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        session = create_session(data, sess_options=settings)
        assert [each.tolist() for each in session.run(None, {"x": x})] == expected
    compiled = create_session(compiled_onnx(ab.compile(data)))
    assert [each.tolist() for each in compiled.run(None, {"x": x})] == expected
    source = ab.InferenceSession(data, emulation="source").run(None, {"x": x})
    session = create_session(data, emulation="source")
    for found, wanted in zip(session.run(None, {"x": x}), source, strict=True):
        assert found.tolist() == wanted.tolist()


def test_weights_that_others_read_stay_in_the_file(ort: ModuleType) -> None:
    b = OnnxBuilder()
    kernel = b.weights(weights(4, 4, 1, 1), 0.01)
    x = convolution(b, image(b), kernel)
    x = b.dequantize(b.quantize(b.node("Tanh", x), 0.01, 0, np.int8), 0.01, 0, np.int8)
    b.finish(b.node("Conv", x, kernel), 0.02, 1, np.int8)
    data = b.content()
    expected = ["DequantizeLinear", "Conv", "QuantizeLinear"]
    assert [types for types, _ in claims(data)] == [expected, expected]
    check(ort, data)


def test_an_input_that_was_dequantized_for_others_too_is_quantized_again(ort: ModuleType) -> None:
    b = OnnxBuilder()
    x = image(b)
    b.output(b.node("Neg", x))
    b.finish(b.node("Conv", x, b.weights(weights(5, 4, 1, 1), 0.01)), 0.5, -4, np.int8)
    data = b.content()
    ((types, claim),) = claims(data)
    assert types == ["DequantizeLinear", "Conv", "QuantizeLinear"]  # the kernel's
    real = claim.compiled.input.real
    assert real is not None
    assert real == (float(np.float32(0.05)), 3)
    check(ort, data)


def test_transposes_of_the_file_inside_and_around_a_segment(ort: ModuleType) -> None:
    b = OnnxBuilder()
    x = b.node("Transpose", image(b), perm=[0, 2, 3, 1])  # channels last, as the device has it
    x = b.node("Transpose", x, perm=[0, 3, 1, 2])
    x = convolution(b, x, b.weights(weights(6, 4, 3, 3), 0.01), border=1)
    x = b.node("Transpose", x, perm=[0, 2, 3, 1])
    b.finish(x, 0.5, -4, np.int8)
    data = b.content()
    assert [types.count("Conv") for types, _ in claims(data)] == [1]
    check(ort, data)


def test_a_value_that_a_subgraph_reads_stays_outside(ort: ModuleType) -> None:
    b = OnnxBuilder()
    inner = convolution(b, image(b), b.weights(weights(4, 4, 1, 1), 0.01))
    b.finish(b.node("Conv", inner, b.weights(weights(5, 4, 1, 1), 0.01)), 0.5, -4, np.int8)
    body = helper.make_graph(
        [helper.make_node("Neg", [inner], ["negative"])],
        "body",
        [],
        [helper.make_tensor_value_info("negative", TensorProto.FLOAT, ["N", 4, 6, 6])],
    )
    condition = b.constant(True, np.bool_)
    b.nodes.append(
        helper.make_node("If", [condition], ["chosen"], then_branch=body, else_branch=body)
    )
    b.output("chosen")
    data = b.content()
    assert [types.count("Conv") for types, _ in claims(data)] == [1, 1]
    check(ort, data)


def test_a_segment_that_no_nodes_stand_for_stays_on_the_host_with_a_warning(
    ort: ModuleType,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    b = OnnxBuilder()
    b.finish(b.node("Conv", image(b), b.weights(weights(5, 4, 1, 1), 0.01)), 0.5, -4, np.int8)
    data = b.content()
    monkeypatch.setattr("akida_backend.onnx_claims.file_forms", lambda _: {})
    with caplog.at_level(logging.WARNING):
        session = create_session(data)
    assert "stays on the host: its tensors are no values of the file" in caplog.text
    monkeypatch.undo()
    x = np.zeros((2, 4, 6, 6), np.int8)
    cpu = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": x})[0].tolist() == cpu.run(None, {"x": x})[0].tolist()
    assert session.get_providers()[0] == PROVIDER
