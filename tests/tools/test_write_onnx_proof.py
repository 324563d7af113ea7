# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx_models import OnnxBuilder

ROOT = Path(__file__).parents[2]


def test_the_table_names_models_results_and_causes(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    b = OnnxBuilder()
    x = b.real_input((1, 4, 5, 5))
    b.finish(b.node("Conv", x, b.weights(np.ones((3, 4, 3, 3)), 0.125)))
    (tmp_path / "conv.onnx").write_bytes(b.content())
    (tmp_path / "cut.onnx").write_bytes(b.content()[:50])
    table = tmp_path / "table.md"
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "write_onnx_proof.py", tmp_path, "-o", table],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 models" in done.stdout
    rows = [line for line in table.read_text().splitlines() if ".onnx |" in line]
    assert rows[0] == "| conv.onnx | yes | yes |  |  |"
    assert rows[1].startswith("| cut.onnx | not compared | not compared |  | refused: cut.onnx")
