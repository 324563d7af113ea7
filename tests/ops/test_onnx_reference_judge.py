# SPDX-License-Identifier: Apache-2.0
"""The reference implementation that onnx brings, as a second judge of the ONNX arithmetic."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_twins
import pytest
from onnx.reference import ReferenceEvaluator

from akida_backend.graph import Arithmetic, DType
from akida_backend.onnx_writer import OnnxForm, write_onnx
from akida_backend.reference import run_graph
from builders import GraphBuilder, random_inputs

CODES = pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8], ids=lambda t: t.value)

# Rounded before the zero point is added, not behind it: ties fall to the other side.
TIES_DIFFER = ("add", "mul", "average-pool")
# Its ConvTranspose of groups disagrees with onnxruntime's, which test_onnx_writer.py compares.
NO_JUDGE = ("transpose-depthwise",)


@CODES
@pytest.mark.parametrize("name", [n for n in onnx_twins.OPERATIONS if n not in NO_JUDGE])
def test_qdq_networks_give_the_codes_that_onnx_defines(name: str, dtype: DType) -> None:
    """Scales that are powers of two: float sums are exact, so nothing else can differ."""
    b = GraphBuilder(11, dtype=dtype, arithmetic=Arithmetic.ONNX)
    graph = onnx_twins.with_scales_of_two(b.build(onnx_twins.OPERATIONS[name](b)))
    feeds = random_inputs(graph, 3)
    model = onnx.load_from_string(write_onnx(graph, OnnxForm.QDQ))
    found = ReferenceEvaluator(model).run(None, dict(feeds))
    for values, expected in zip(found, run_graph(graph, feeds).values(), strict=True):
        assert isinstance(values, np.ndarray)
        largest = np.abs(values.astype(np.float64) - expected.astype(np.float64)).max()
        assert largest <= (1 if name.startswith(TIES_DIFFER) else 0)


@CODES
@pytest.mark.parametrize("name", ["conv", "conv-stride", "conv-pads", "depthwise"])
def test_qlinearconv_of_onnx_gives_the_same_codes(name: str, dtype: DType) -> None:
    for seed in range(3):
        b = GraphBuilder(seed, dtype=dtype, arithmetic=Arithmetic.ONNX)
        graph = b.build(onnx_twins.OPERATIONS[name](b))
        feeds = random_inputs(graph, 2)
        model = onnx.load_from_string(write_onnx(graph, OnnxForm.QOPERATOR))
        (found,) = ReferenceEvaluator(model).run(None, dict(feeds))
        assert isinstance(found, np.ndarray)
        (expected,) = run_graph(graph, feeds).values()
        differ = np.abs(found.astype(np.int64) - expected.astype(np.int64))
        assert differ.max() <= 1  # it multiplies scales in another order
        assert np.count_nonzero(differ) <= 2
