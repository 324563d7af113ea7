# SPDX-License-Identifier: Apache-2.0
"""Written ONNX files compute in onnxruntime what the reference computes in ONNX arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import networks
import numpy as np
import onnx
import onnx_twins
import pytest

from akida_backend import demo
from akida_backend.errors import InputError
from akida_backend.graph import Activation, Arithmetic, DType, Graph
from akida_backend.loading import load
from akida_backend.onnx_writer import Interface, OnnxForm, from_onnx, to_onnx, write_onnx
from akida_backend.reference import run_graph
from builders import GraphBuilder, random_inputs

SAMPLES = 8
INT8_AND_UINT8 = pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8], ids=lambda t: t.value)
FORMS = pytest.mark.parametrize("form", list(OnnxForm), ids=lambda form: form.value)

# Float kernels between DequantizeLinear and QuantizeLinear: a sum of products rounded on the way
# can fall on the other side of a tie. ConvTranspose has no other kernel.
FLOAT_KERNELS = ("transpose-depthwise", "transpose-conv")


def onnx_graph(name: str, dtype: DType, seed: int) -> Graph:
    b = GraphBuilder(seed, dtype=dtype, arithmetic=Arithmetic.ONNX)
    return b.build(onnx_twins.OPERATIONS[name](b))


def differences(graph: Graph, content: bytes, *, optimized: bool = True) -> np.ndarray[Any, Any]:
    """Absolute differences from onnxruntime over all outputs."""
    feeds = random_inputs(graph, SAMPLES)
    expected = run_graph(graph, feeds)
    found = onnx_twins.through_onnxruntime(content, feeds, optimized=optimized)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].shape == values.shape
        assert found[name].dtype == values.dtype
    return np.concatenate(
        [np.abs(found[name].astype(float) - expected[name]).reshape(-1) for name in expected]
    )


@FORMS
@INT8_AND_UINT8
@pytest.mark.parametrize("name", onnx_twins.OPERATIONS)
def test_each_operation_equals_the_integer_kernels(name: str, dtype: DType, form: OnnxForm) -> None:
    """Scales that are powers of two put many values on ties and keep float sums exact."""
    for seed in range(3):
        graph = onnx_graph(name, dtype, seed)
        content = write_onnx(graph, form)
        onnx.checker.check_model(onnx.load_from_string(content))
        old = name == "resize-bilinear" and not onnx_twins.has_corrected_kernels()
        in_floats = name in FLOAT_KERNELS or old
        worst = differences(graph, content).max()
        assert worst <= 1 if in_floats else worst == 0
        exact = onnx_twins.with_scales_of_two(graph)
        assert differences(exact, write_onnx(exact, form)).max() <= (1 if old else 0)


@FORMS
@INT8_AND_UINT8
@pytest.mark.parametrize("name", onnx_twins.OPERATIONS)
def test_float_kernels_stay_within_one_step(name: str, dtype: DType, form: OnnxForm) -> None:
    """With optimisations off the QDQ form runs in float32, and a softmax there is another one."""
    graph = onnx_graph(name, dtype, 0)
    assert differences(graph, write_onnx(graph, form), optimized=False).max() <= 1


@FORMS
@INT8_AND_UINT8
def test_a_network_equals_the_integer_kernels(dtype: DType, form: OnnxForm) -> None:
    if dtype is DType.INT8 and not onnx_twins.has_corrected_kernels():
        pytest.skip("this onnxruntime lets the codes of an int8 softmax wrap round")
    graph = networks.classifier(dtype=dtype, arithmetic=Arithmetic.ONNX)
    assert differences(graph, write_onnx(graph, form)).max() == 0


@FORMS
def test_every_constant_is_read(form: OnnxForm) -> None:
    """Of others onnxruntime warns, once each, in every session."""
    model = onnx.load_from_string(write_onnx(load(demo.model_bytes()), form)).graph
    read = {name for node in model.node for name in node.input}
    assert [tensor.name for tensor in model.initializer if tensor.name not in read] == []


@FORMS
def test_a_fixed_batch_is_written_as_one(form: OnnxForm) -> None:
    b = GraphBuilder(1, batch=2, arithmetic=Arithmetic.ONNX)
    graph = b.build(b.reshape(b.conv2d(b.input(4, 4, 3), 5), 80))
    content = write_onnx(graph, form, interface=Interface.CHANNELS_FIRST)
    (entry,) = onnx.load_from_string(content).graph.input
    assert [d.dim_value for d in entry.type.tensor_type.shape.dim] == [2, 3, 4, 4]
    assert differences(graph, write_onnx(graph, form)).max() <= 1


def test_the_operator_form_has_no_float_convolution() -> None:
    kinds = onnx_twins.kinds(write_onnx(networks.classifier(), OnnxForm.QOPERATOR))
    assert kinds.count("QLinearConv") == 4
    assert kinds.count("QLinearAdd") == 1
    assert kinds.count("QGemm") == 1
    assert kinds.count("QLinearSoftmax") == 1
    assert not {"DequantizeLinear", "QuantizeLinear", "Conv", "Gemm"} & set(kinds)


def test_what_has_no_integer_operator_stays_between_its_quantizers() -> None:
    b = GraphBuilder(0)
    content = write_onnx(b.build(b.tanh(b.input(4))), OnnxForm.QOPERATOR)
    assert onnx_twins.kinds(content) == ["DequantizeLinear", "Tanh", "QuantizeLinear"]


@FORMS
def test_the_file_keeps_names_of_tensors_and_operations(form: OnnxForm) -> None:
    graph = networks.classifier()
    body = onnx.load_from_string(write_onnx(graph, form)).graph
    written = {name for node in body.node for name in node.output}
    assert {n for op in graph.operations for n in op.outputs} <= written
    assert {op.location.name for op in graph.operations} <= {node.name for node in body.node}
    assert len({node.name for node in body.node}) == len(body.node)


def test_a_clamp_that_holds_for_all_codes_is_written_in_qdq_only() -> None:
    b = GraphBuilder(0)
    x = b.conv2d(b.input(6, 6, 3), 4, activation=Activation.RELU, scaling=(0.1, -128))
    graph = b.build(x)
    assert "Relu" in onnx_twins.kinds(write_onnx(graph, OnnxForm.QDQ))
    operators = onnx_twins.kinds(write_onnx(graph, OnnxForm.QOPERATOR))
    assert not {"Relu", "Clip"} & set(operators)


def test_int4_weights_keep_their_type() -> None:
    b = GraphBuilder(4, weight_dtype=DType.INT4, arithmetic=Arithmetic.ONNX)
    graph = b.build(b.conv2d(b.input(6, 6, 3), 5))
    content = write_onnx(graph)
    types = {c.data_type for c in onnx.load_from_string(content).graph.initializer}
    assert onnx.TensorProto.INT4 in types
    assert differences(graph, content).max() <= 1


# Unsigned files with channels first, which the benchmark measures


def unsigned_difference(graph: Graph, samples: int) -> float:
    feeds = networks.codes(graph, samples)
    expected = run_graph(graph, feeds)
    content = write_onnx(graph, interface=Interface.CHANNELS_FIRST, unsigned=True)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    given = {name: to_onnx(graph.tensors[name], x) for name, x in feeds.items()}
    found = onnx_twins.through_onnxruntime(content, given)
    return max(
        float(np.abs(from_onnx(graph.tensors[n], found[n]).astype(float) - values).max())
        for n, values in expected.items()
    )


@INT8_AND_UINT8
def test_an_unsigned_network_is_within_a_few_steps_of_tflite(dtype: DType) -> None:
    assert unsigned_difference(networks.classifier(dtype=dtype), samples=16) <= 4


@pytest.mark.parametrize("name", ["conv", "average-pool", "pad", "concatenation", "mul", "sub"])
def test_unsigned_operations_are_within_one_step_of_tflite(name: str) -> None:
    b = GraphBuilder(5)
    assert unsigned_difference(b.build(onnx_twins.OPERATIONS[name](b)), samples=4) <= 1


def test_unsigned_convolutions_run_in_integer_kernels(tmp_path: Any) -> None:  # noqa: ANN401
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    content = write_onnx(networks.classifier(), interface=Interface.CHANNELS_FIRST, unsigned=True)
    runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QLinearConv") == 4
    assert kinds.count("QLinearAdd") == 1
    assert kinds.count("QGemm") == 1
    assert "Conv" not in kinds
    assert "Gemm" not in kinds


def test_unsigned_files_hold_int8_codes_128_higher() -> None:
    graph = networks.classifier()
    values = networks.codes(graph, 2)["image"]
    stored = to_onnx(graph.tensors["image"], values)
    assert stored.dtype == np.uint8
    assert stored.shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(stored[1, 2, 3, 4], values[1, 3, 4, 2].astype(int) + 128)
    np.testing.assert_array_equal(from_onnx(graph.tensors["image"], stored), values)


@FORMS
@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(
            lambda b: b.opaque(b.input(4), shape=(None, 4)),
            "op 0 GATHER_ND 'opaque': has no ONNX form here",
            id="opaque",
        ),
        pytest.param(
            lambda b: b.quantize(b.input(4), dtype=DType.INT16),
            "tensor 'quantize': int16 has no ONNX form here",
            id="int16",
        ),
    ],
)
def test_rejects_and_names_what_has_no_form(
    build: Callable[[GraphBuilder], str], message: str, form: OnnxForm
) -> None:
    b = GraphBuilder(0)
    with pytest.raises(InputError, match=message):
        write_onnx(b.build(build(b)), form)
