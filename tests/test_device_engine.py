# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import networks
import numpy as np
import pytest
from numpy.typing import NDArray
from program_samples import sound_akida1

import akida_backend
from akida_backend.compiler import compile as compile_model
from akida_backend.device_engine import engine_name, open_engine
from akida_backend.engine import NativeEngine, engine_status
from akida_backend.simulator import Simulator
from akida_backend.tflite_writer import write_tflite

(PROGRAM,) = compile_model(networks.classifier()).programs


def needs_library() -> None:
    if engine_status().library is None:
        pytest.skip(f"no native engine: {engine_status().problem}")


def test_the_native_engine_is_taken_where_there_is_one() -> None:
    needs_library()
    engine = open_engine(PROGRAM, threads=2)
    assert isinstance(engine, NativeEngine)
    assert engine.threads == 2
    assert engine_name() == f"native engine, {engine.instruction_set}"


def test_the_native_engine_runs_programs_of_akida_1() -> None:
    needs_library()
    program = sound_akida1()
    engine = open_engine(program)
    assert isinstance(engine, NativeEngine)
    x = np.arange(2 * 192, dtype=np.uint8).reshape(2, 8, 8, 3)
    np.testing.assert_array_equal(engine.run(x), Simulator(program).run(x))


USE = """
import sys, numpy as np, akida_backend as ab
from akida_backend.device_engine import engine_name
x = np.load("x.npy")
for _ in range(2):
    session = ab.InferenceSession("model.tflite", threads=2)
    (result,) = session.run(None, {"image": x})
np.save("result.npy", result)
print(engine_name())
"""


def outcome(folder: Path, **variables: str) -> tuple[str, str, NDArray[np.int8]]:
    """What a process prints, what it says, and what it computes."""
    graph = networks.classifier()
    (folder / "model.tflite").write_bytes(write_tflite(graph))
    np.save(folder / "x.npy", networks.codes(graph, 3)["image"])
    root = str(Path(akida_backend.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip(), done.stderr, np.load(folder / "result.npy")


def test_without_a_library_the_reference_runs_programs_and_is_named_once(tmp_path: Path) -> None:
    graph = networks.classifier()
    name, said, found = outcome(tmp_path, AKIDA_BACKEND_LIBRARY="none")
    assert name == "numpy reference"
    assert said.count("numpy reference") == 1
    assert "AKIDA_BACKEND_LIBRARY=none is not a file" in said
    scores = Simulator(PROGRAM).run(networks.codes(graph, 3)["image"])
    assert found.shape == scores.shape


def test_an_instruction_set_that_does_not_exist_is_said_once(tmp_path: Path) -> None:
    needs_library()
    _, said, _ = outcome(tmp_path, AKIDA_BACKEND_ISA="avx1024")
    assert said.count("AKIDA_BACKEND_ISA=avx1024 is not used") == 1


@pytest.mark.parametrize("name", ["baseline", "avx2", "avx512vnni"])
def test_the_instruction_set_can_be_forced_and_changes_no_bit(name: str, tmp_path: Path) -> None:
    needs_library()
    if engine_status().instruction_sets[name] is not None:
        pytest.skip(f"this machine does not run {name}")
    _, _, expected = outcome(tmp_path, AKIDA_BACKEND_LIBRARY="none")
    used, said, found = outcome(tmp_path, AKIDA_BACKEND_ISA=name)
    assert used == f"native engine, {name}"
    assert said == ""
    np.testing.assert_array_equal(found, expected)
