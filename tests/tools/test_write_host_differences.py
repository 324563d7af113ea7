# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import networks
import pytest
from interpreters import Runtime

import akida_backend as ab
from akida_backend.engine import engine_status
from akida_backend.graph import Arithmetic
from akida_backend.tflite_writer import write_tflite

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from model_files import model_files
from write_host_differences import EQUAL, differences, table


@pytest.fixture(scope="module")
def litert() -> Runtime:
    if engine_status().library is None:
        pytest.skip("no native library")
    module = pytest.importorskip("ai_edge_litert.interpreter")
    return Runtime(module, Arithmetic.TFLITE)


def test_reference_kernels_do_not_differ(litert: Runtime) -> None:
    for graph in (networks.interrupted(), networks.strided_stem(), networks.classifier()):
        found = differences(ab.compile(write_tflite(graph)), litert.module, 3)
        assert found["BUILTIN_REF"].outputs == EQUAL
        assert found["BUILTIN_REF"].cause == ""


def test_models_that_are_missing_are_refused_and_folders_are_searched(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("deep/b.tflite", "a.tflite", "a.onnx"):
        (tmp_path / name).touch()
    found = model_files([tmp_path, tmp_path / "a.tflite"], ".tflite")
    assert found == [tmp_path / "a.tflite", tmp_path / "deep" / "b.tflite"]
    with pytest.raises(SystemExit, match="no such file or folder: none"):
        model_files([tmp_path, Path("none")], ".tflite")


def test_the_page_has_a_row_per_model_with_a_device_part(litert: Runtime, tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(write_tflite(networks.interrupted()))
    (tmp_path / "b.tflite").write_bytes(write_tflite(networks.fixed_batch()))
    (tmp_path / "c.tflite").write_bytes(b"nothing")
    _, _, *rows = table(sorted(tmp_path.glob("*.tflite")), litert.module, 1)
    first, refused = rows
    assert first.startswith("| a.tflite | 2 | 1 | equal |")
    assert refused.startswith("| c.tflite |")
    assert "not compared" in refused
