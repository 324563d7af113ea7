# SPDX-License-Identifier: Apache-2.0
"""The provider on real models: all segments claimed, live and compiled equal to the package."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

import akida_backend as ab
from akida_backend.compiled_onnx import compiled_onnx
from akida_backend.errors import ImportModelError
from akida_backend.graph import AnyArray, Graph
from akida_backend.onnx_claims import Claim, claims_of
from akida_backend.onnx_writer import OnnxForm, write_onnx
from akida_backend.onnxruntime import create_session

# Of these, every onnxruntime's host kernels equal the reference.
EXACT = {
    "mlonmcu/micro_kws_m_quantized__micro_kws_m_static_qdq.onnx": 5,
    "opencv_zoo/opencvzoo_yunet_2023mar_int8.onnx": 19,
}
TWINS = (
    "mlperf_tiny/mlperf_ad01_int8.tflite",
    "mlperf_tiny/mlperf_kws_ref_int8.tflite",
    "mlperf_tiny/mlperf_resnet8_int8.tflite",
    "mlperf_tiny/mlperf_vww_96_int8.tflite",
)


def random_feeds(graph: Graph) -> dict[str, AnyArray]:
    random = np.random.default_rng(0)
    feeds: dict[str, AnyArray] = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        shape = [1 if length is None else length for length in tensor.shape]
        if tensor.dtype.is_float:
            feeds[name] = random.normal(size=shape).astype(tensor.dtype.numpy)
        else:
            low, high = tensor.dtype.code_range
            feeds[name] = random.integers(low, high + 1, shape).astype(tensor.dtype.numpy)
    return feeds


def check(model: Path | bytes, segments: int | None = None) -> None:
    plan = ab.compile(model)
    assert segments is None or len(plan.programs) == segments
    feeds = random_feeds(plan.graph)
    expected = ab.InferenceSession(plan).run(None, feeds)
    for session in (create_session(model), create_session(compiled_onnx(plan))):
        for found, wanted in zip(session.run(None, feeds), expected, strict=True):
            assert np.array_equal(found, wanted)


@pytest.mark.parametrize("name", EXACT)
def test_results_equal_those_of_the_package(ort: ModuleType, shared: Path, name: str) -> None:  # noqa: ARG001
    check(shared / "models" / name, EXACT[name])


def test_every_segment_of_every_onnx_model_is_claimed(shared: Path) -> None:
    found = 0
    for path in sorted((shared / "models").rglob("*.onnx")):
        try:
            plan = ab.compile(path)
        except ImportModelError:
            continue
        claims = claims_of(plan, onnx.load(path, load_external_data=False).graph)
        assert [type(claim) for claim in claims] == [Claim] * len(plan.programs), path
        found += len(claims)
    assert found >= sum(EXACT.values())


@pytest.mark.full
@pytest.mark.parametrize("form", [pytest.param(form, id=form.value) for form in OnnxForm])
@pytest.mark.parametrize("name", TWINS)
def test_twins_of_tflite_models_equal_the_package(
    ort: ModuleType,  # noqa: ARG001
    shared: Path,
    name: str,
    form: OnnxForm,
) -> None:
    check(write_onnx(ab.load(shared / "models" / name), form))
