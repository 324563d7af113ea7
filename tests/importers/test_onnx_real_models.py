# SPDX-License-Identifier: Apache-2.0
"""ONNX models found in the wild, where this machine has them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from akida_backend.errors import ImportModelError
from akida_backend.graph import Opaque
from akida_backend.graph_check import graph_problems
from akida_backend.loading import load

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from model_files import model_files
from write_onnx_proof import load_sized, prove

# Models whose every operator has integer meaning.
INTEGER = (
    "mlonmcu/micro_kws_m_quantized__micro_kws_m_static_qdq.onnx",
    "mlonmcu/micro_kws_m_quantized__micro_kws_m_static_qoperator.onnx",
    "onnxruntime/conv_qdq_external_ini.onnx",
    "onnxruntime/conv_qdq_s8s8.onnx",
    "onnxruntime/conv_qdq_u8u8.onnx",
    "onnxruntime/layout_transform_const_folding.qdq.onnx",
    "onnxruntime/nhwc_resize_sizes_opset18.quant.onnx",
    "onnxruntime/transform__qdq_conv.onnx",
    "onnxruntime/transform__qdq_optimization__dup_qdq.onnx",
    "opencv_zoo/opencvzoo_yunet_2023mar_int8.onnx",
)
LARGE = "opencv_zoo/opencvzoo_yunet_2023mar_int8.onnx"

# Not equal even with onnxruntime's optimisations, and why.
EXCEPTIONS = {
    "conv.int4_weights.qdq.onnx": "4-bit weights: onnxruntime sums them in float32",
    "micro_kws_m_fp32__micro_kws_m_static_fp32.onnx": "float",
    "onnx_mnist__onnx_mnist.onnx": "refused: .* opset 1 is older than 10",
    "transform__fusion__constant_folding_dequantizelinear.qdq16.onnx": "float Conv",
    "transform__fusion__constant_folding_dequantizelinear.qdq16_contrib.onnx": "float Conv",
    "transform__fusion__constant_folding_dequantizelinear.qdq_contrib.onnx": "float Conv",
    "transform__fusion__matmul_integer_to_float16_int8.onnx": "float16",
    "transform__qdq_optimization__dup_qdq_bfloat16.onnx": "NOT_IMPLEMENTED",
}


@pytest.mark.parametrize("name", INTEGER)
def test_integer_models_equal_onnxruntime_bit_for_bit(shared: Path, name: str) -> None:
    pytest.importorskip("onnxruntime")
    proof = prove(shared / "models" / name, samples=1)
    assert proof.optimised.equal is True
    assert proof.optimised.values > 0
    assert proof.opaque == ()


def test_every_model_loads_or_is_refused_with_its_opset(shared: Path) -> None:
    for path in sorted((shared / "models").rglob("*.onnx")):
        if path.name == "onnx_mnist__onnx_mnist.onnx":
            with pytest.raises(ImportModelError, match="opset 1 is older than 10"):
                load(path)
            continue
        graph = load_sized(path)
        assert list(graph_problems(graph)) == []
        covered = [index for op in graph.operations for index in op.sources]
        assert len(covered) == len(set(covered)), "a node belongs to one operation"
        indices = {*covered, *(folded.location.index for folded in graph.folded)}
        assert indices == set(range(len(indices)))
        assert all(op.reason for op in graph.operations if isinstance(op, Opaque))


def test_the_face_detector_has_no_operator_without_integer_meaning(shared: Path) -> None:
    graph = load(shared / "models" / LARGE)
    assert not [op for op in graph.operations if isinstance(op, Opaque)]
    assert sum(op.location.type == "QLinearConv" for op in graph.operations if op.sources) == 53


@pytest.mark.full
def test_what_differs_is_known_with_its_cause(shared: Path) -> None:
    pytest.importorskip("onnxruntime")
    different = {}
    for path in model_files([shared / "models"], ".onnx"):
        proof = prove(path, samples=2)
        assert not proof.unexplained, proof
        if not proof.optimised.equal:
            different[path.name] = proof.cause
    assert different.keys() == EXCEPTIONS.keys()
    for name, cause in EXCEPTIONS.items():
        assert cause.partition(": .*")[0] in different[name]
