# SPDX-License-Identifier: Apache-2.0
"""The proof of ONNX arithmetic: what it compares, and how it says what it found."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx_twins
import pytest

from akida_backend.onnx_writer import OnnxForm

sys.path.append(str(Path(__file__).parents[2] / "tools"))

import write_operator_proof
from write_operator_proof import Column, Difference, difference, main


def test_integer_kernels_are_equal_and_float_kernels_differ_on_ties() -> None:
    pytest.importorskip("onnxruntime")
    equal = difference("add", Column("", OnnxForm.QOPERATOR), seeds=2)
    assert (equal.unequal, equal.largest, str(equal)) == (0, 0, "equal")
    floats = difference("add", Column("", OnnxForm.QDQ, optimized=False), seeds=2)
    assert floats.values == equal.values > 0
    assert floats.unequal > 0
    assert floats.largest == 1


def test_differences_read_as_a_sentence() -> None:
    assert str(Difference(100, 3, 2)) == "3 of 100 by at most 2"
    assert str(Difference(100, 0, 0)) == "equal"


def test_the_page_has_a_row_per_operation_and_the_causes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    chosen = {name: onnx_twins.OPERATIONS[name] for name in ("add", "pad")}
    monkeypatch.setattr(write_operator_proof, "OPERATIONS", chosen)
    assert main(["-o", str(tmp_path / "reports" / "page.md"), "--seeds", "2"]) == 0
    text = (tmp_path / "reports" / "page.md").read_text(encoding="utf-8")
    assert "| pad | equal | equal | equal | equal |" in text
    assert "| add | equal | equal | equal | " in text
    assert "VNNI" in text
