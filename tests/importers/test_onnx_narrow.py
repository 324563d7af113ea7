# SPDX-License-Identifier: Apache-2.0
"""4-bit activations of ONNX: 8-bit ones of 16 codes, where nothing else reads the codes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import OnnxBuilder, feeds_of, in_onnxruntime, opaque

from akida_backend.execute import run_source
from akida_backend.graph import DType, Minimum

SCALE = 4.0


def pair(kind: int, zero: int, *, codes_leave: bool = False) -> OnnxBuilder:
    """Reals through 4-bit codes and back."""
    b = OnnxBuilder(opset=21, ir_version=10)
    b.constants.append(helper.make_tensor("zero", kind, [], [zero]))
    scale = b.constant(SCALE)
    codes = b.node("QuantizeLinear", b.input((1, 2, 5, 7)), scale, "zero")
    b.output(b.node("DequantizeLinear", codes, scale, "zero"))
    if codes_leave:
        b.outputs.append(helper.make_tensor_value_info(codes, kind, [1, 2, 5, 7]))
    return b


@pytest.mark.parametrize(
    ("kind", "zero", "low", "high"),
    [
        pytest.param(TensorProto.UINT4, 0, 0, 15, id="uint4"),
        pytest.param(TensorProto.UINT4, 6, 0, 15, id="uint4-offset"),
        pytest.param(TensorProto.INT4, 0, -8, 7, id="int4"),
        pytest.param(TensorProto.INT4, -8, -8, 7, id="int4-offset"),
    ],
)
def test_codes_are_those_of_four_bits(kind: int, zero: int, low: int, high: int) -> None:
    b = pair(kind, zero)
    graph = b.graph()
    assert not opaque(graph)
    assert any(isinstance(op, Minimum) for op in graph.operations)
    feeds = feeds_of(graph)
    (found,) = run_source(graph, feeds).values()
    codes = np.clip(np.rint(feeds["x"].astype(np.float64) / SCALE) + zero, low, high)
    np.testing.assert_array_equal(found, (codes - zero) * SCALE)
    assert np.unique(found).size > 10
    (expected,) = in_onnxruntime(b.content(), feeds)
    np.testing.assert_array_equal(found, expected)


def test_codes_that_leave_the_model_stay_as_they_are() -> None:
    graph = pair(TensorProto.UINT4, 0, codes_leave=True).graph()
    assert [graph.tensors[name].dtype for name in graph.outputs] == [DType.FLOAT32, DType.UINT4]
    assert not any(isinstance(op, Minimum) for op in graph.operations)
