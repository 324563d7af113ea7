# SPDX-License-Identifier: Apache-2.0
"""Without Python: a C program, LiteRT's library, the delegate's, and a compiled model."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import networks
import numpy as np
import pytest

import akida_backend as ab
from akida_backend.tflite_writer import write_tflite

SOURCE = Path(__file__).with_name("run_compiled.c")


@pytest.fixture(scope="module")
def run_compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path_factory.mktemp("c") / "run_compiled"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, SOURCE, "-o", program, "-ldl"], check=True)
    return program


@pytest.fixture(scope="module")
def litert() -> Path:
    """LiteRT's own library, as its wheel brings it; tflite-runtime's exports no C interface."""
    spec = importlib.util.find_spec("ai_edge_litert")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("ai_edge_litert is not installed")
    path = Path(spec.submodule_search_locations[0]) / "libLiteRt.so"
    if not path.is_file():
        pytest.skip("this wheel has no libLiteRt.so")
    return path


def test_a_c_program_runs_a_compiled_model(
    run_compiled: Path, litert: Path, library: str, tmp_path: Path
) -> None:
    plan = ab.compile(write_tflite(networks.strided_stem()))
    plan.save(tmp_path / "compiled.tflite")
    x = np.random.default_rng(0).integers(-128, 128, (1, 24, 10, 1)).astype(np.int8)
    done = subprocess.run(
        [run_compiled, litert, library, tmp_path / "compiled.tflite", "1,24,10,1"],
        input=x.tobytes(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    session = ab.InferenceSession(plan)
    (wanted,) = session.run(None, {session.get_inputs()[0].name: x})
    assert np.array_equal(np.frombuffer(done.stdout, np.int8), wanted.ravel())


def test_a_model_that_is_not_compiled_is_refused_there(
    run_compiled: Path, litert: Path, library: str, tmp_path: Path
) -> None:
    (tmp_path / "model.tflite").write_bytes(write_tflite(networks.strided_stem()))
    done = subprocess.run(
        [run_compiled, litert, library, tmp_path / "model.tflite", "1,24,10,1"],
        input=bytes(240),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"this model is not compiled" in done.stderr
