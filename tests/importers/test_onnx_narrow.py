# SPDX-License-Identifier: Apache-2.0
"""4-bit and 2-bit types of ONNX: 8-bit activations of few codes, 4-bit constants."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import ArrayLike
from onnx import NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx_models import OnnxBuilder, feeds_of, in_onnxruntime, opaque

from akida_backend.errors import ImportModelError
from akida_backend.execute import run_source
from akida_backend.graph import AnyArray, Conv2D, DType, Minimum

SCALE = 4.0

INT2, UINT2 = (getattr(TensorProto, name, -1) for name in ("INT2", "UINT2"))
with_two_bits = pytest.mark.skipif(INT2 < 0, reason="the installed onnx has no 2-bit types")


class TwoBits(OnnxBuilder):
    """Of the first operator set with 2-bit types."""

    def __init__(self) -> None:
        super().__init__(opset=25, ir_version=13)

    def four_codes(self, name: str, kind: int, values: ArrayLike) -> str:
        codes = np.asarray(values)
        self.constants.append(helper.make_tensor(name, kind, codes.shape, codes.ravel().tolist()))
        return name


def pair(kind: int, zero: int, *, codes_leave: bool = False) -> OnnxBuilder:
    """Reals through 4-bit codes and back."""
    b = TwoBits() if kind in (INT2, UINT2) else OnnxBuilder(opset=21, ir_version=10)
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


def in_onnx(b: OnnxBuilder, feeds: Mapping[str, AnyArray]) -> AnyArray:
    """The first result by onnx's own definition of the operators."""
    (result,) = ReferenceEvaluator(b.model()).run(None, dict(feeds))
    return np.asarray(result)


@with_two_bits
@pytest.mark.parametrize(
    ("kind", "zero"),
    [
        pytest.param(UINT2, 0, id="uint2"),
        pytest.param(UINT2, 2, id="uint2-offset"),
        pytest.param(INT2, 0, id="int2"),
        pytest.param(INT2, 1, id="int2-offset"),
    ],
)
def test_codes_are_those_of_two_bits(kind: int, zero: int) -> None:
    b = pair(kind, zero)
    graph = b.graph()
    assert not opaque(graph)
    feeds = {"x": np.linspace(-15, 15, 70, dtype=np.float32).reshape(1, 2, 5, 7)}
    (found,) = run_source(graph, feeds).values()
    low, high = (0, 3) if kind == UINT2 else (-2, 1)
    codes = np.clip(np.rint(feeds["x"].astype(np.float64) / SCALE) + zero, low, high)
    np.testing.assert_array_equal(found, (codes - zero) * SCALE)
    np.testing.assert_array_equal(found, in_onnx(b, feeds))
    assert np.unique(found).size == 4


@with_two_bits
@pytest.mark.parametrize("raw", [False, True], ids=["numbers", "raw"])
@pytest.mark.parametrize("kind", [INT2, UINT2], ids=["int2", "uint2"])
def test_weights_of_two_bits_keep_their_integers(kind: int, *, raw: bool) -> None:
    b = TwoBits()
    low = -2 if kind == INT2 else 0
    codes = np.random.default_rng(3).integers(low, low + 4, (3, 2, 3, 3))  # 54: not whole bytes
    stored = b.four_codes("stored", kind, codes)
    if raw:
        packed = bytes(b.constants[-1].int32_data)
        b.constants[-1] = helper.make_tensor("stored", kind, codes.shape, packed, raw=True)
    zero = b.four_codes("zero", kind, 1)
    weights = b.node("DequantizeLinear", stored, b.constant(0.5), zero)
    b.finish(b.node("Conv", b.real_input((1, 2, 5, 5)), weights))
    graph = b.graph()
    (op,) = (op for op in graph.operations if isinstance(op, Conv2D))
    tensor = graph.tensors[op.weights]
    assert tensor.dtype is (DType.INT4 if kind == INT2 else DType.UINT4)
    assert tensor.quantization is not None
    assert tensor.quantization.single_zero_point == 1
    np.testing.assert_array_equal(tensor.data, codes.transpose(0, 2, 3, 1))


@with_two_bits
@pytest.mark.parametrize("shared", ["stored", "zero"])
def test_two_bit_constants_may_have_other_readers(shared: str) -> None:
    b = TwoBits()
    codes = np.random.default_rng(3).integers(-2, 2, (3, 2, 1, 1))
    stored, zero = b.four_codes("stored", INT2, codes), b.four_codes("zero", INT2, 1)
    weights = b.node("DequantizeLinear", stored, b.constant(0.5), zero)
    b.finish(b.node("Conv", b.real_input((1, 2, 5, 5)), weights))
    reals = b.node("Cast", shared, to=TensorProto.FLOAT)
    shape = () if shared == "zero" else codes.shape
    b.outputs.append(helper.make_tensor_value_info(reals, TensorProto.FLOAT, shape))
    graph = b.graph()
    assert list(opaque(graph)) == ["Cast"]
    (op,) = (op for op in graph.operations if isinstance(op, Conv2D))
    np.testing.assert_array_equal(graph.tensors[op.weights].data, codes.transpose(0, 2, 3, 1))


@with_two_bits
@pytest.mark.parametrize(
    ("node", "problem"),
    [
        pytest.param(helper.make_node("DequantizeLinear", [], ["y"]), "input 0 is absent", id="in"),
        pytest.param(helper.make_node("Relu", ["x"], []), "writes nothing", id="out"),
        pytest.param(helper.make_node("QuantizeLinear", ["x"], []), "writes nothing", id="codes"),
    ],
)
def test_nodes_without_inputs_or_outputs_are_refused(node: NodeProto, problem: str) -> None:
    b = pair(UINT2, 0)
    b.nodes.append(node)
    with pytest.raises(ImportModelError, match=problem):
        b.graph()


@with_two_bits
def test_constants_quantized_to_two_bits_in_the_file_are_cut_to_them() -> None:
    b = TwoBits()
    values = np.random.default_rng(4).uniform(-4, 4, (3, 2, 3, 3)).astype(np.float32)
    scale, zero = b.constant(0.5), b.four_codes("zero", INT2, 0)
    quantized = b.node("QuantizeLinear", b.constant(values), scale, zero)
    weights = b.node("DequantizeLinear", quantized, scale, zero)
    b.finish(b.node("Conv", b.real_input((1, 2, 5, 5)), weights))
    graph = b.graph()
    (op,) = (op for op in graph.operations if isinstance(op, Conv2D))
    tensor = graph.tensors[op.weights]
    assert tensor.data is not None
    assert tensor.quantization is not None
    found = tensor.data.astype(int) - tensor.quantization.single_zero_point
    wanted = np.clip(np.rint(values.astype(np.float64) / 0.5), -2, 1).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(found, wanted)


@with_two_bits
def test_two_bit_constants_that_end_too_early_are_refused() -> None:
    b = TwoBits()
    b.constants.append(TensorProto(name="stored", data_type=INT2, dims=[5], raw_data=b"1"))
    b.output(b.node("DequantizeLinear", "stored", b.constant(0.5)))
    with pytest.raises(ImportModelError, match=r"'stored', field raw_data: holds 1 bytes"):
        b.graph()


@with_two_bits
def test_two_bit_codes_that_leave_the_model_have_no_arithmetic() -> None:
    b = pair(UINT2, 0, codes_leave=True)
    b.outputs[0] = helper.make_tensor_value_info(b.outputs[0].name, TensorProto.FLOAT, [1, 2, 5, 7])
    graph = b.graph()
    assert "QuantizeLinear" in opaque(graph)


def test_codes_that_leave_the_model_stay_as_they_are() -> None:
    graph = pair(TensorProto.UINT4, 0, codes_leave=True).graph()
    assert [graph.tensors[name].dtype for name in graph.outputs] == [DType.FLOAT32, DType.UINT4]
    assert not any(isinstance(op, Minimum) for op in graph.operations)
