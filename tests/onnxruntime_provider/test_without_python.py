# SPDX-License-Identifier: Apache-2.0
"""A C program runs compiled models on the wheel's own onnxruntime library, without Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import context_models
import numpy as np
import onnx
import pytest
from context_models import channels_last, images

from akida_backend import onnxruntime as provider
from akida_backend.simulator import Simulator

SOURCE = Path(__file__).with_name("run_compiled.c")

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the wheel's library is opened by its Linux name"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        pytest.skip("no C compiler")
    path = tmp_path_factory.mktemp("c") / "run_compiled"
    flags = ["-std=gnu99", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", str(path), str(SOURCE), "-ldl"], check=True)
    return path


def run(
    program: Path, ort: ModuleType, model: Path, output: str, width: int, x: bytes, batch: int
) -> subprocess.CompletedProcess[bytes]:
    assert ort.__file__ is not None
    (runtime,) = Path(ort.__file__).parent.glob("capi/libonnxruntime.so*")
    return subprocess.run(
        [program, runtime, provider.library_path(), model, str(batch), output, str(width)],
        input=x,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONHOME": "/nowhere"},
    )


@pytest.mark.parametrize("batch", [1, 5])
def test_a_compiled_model_gives_the_same_values(
    program: Path, ort: ModuleType, tmp_path: Path, batch: int
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(context_models.with_cast(), path)
    x = images(batch)
    done = run(program, ort, path, "z", 4, x.tobytes(), batch)
    assert (done.returncode, done.stderr) == (0, b"")
    expected = Simulator(context_models.program()).run(channels_last(x)).astype(np.int32)
    assert np.frombuffer(done.stdout, np.int32).reshape(-1, 5).tolist() == expected.tolist()


def test_a_damaged_one_is_refused_with_the_same_words(
    program: Path, ort: ModuleType, tmp_path: Path
) -> None:
    built = context_models.single()
    payload = context_models.attribute(built, "ep_cache_context")
    payload.s = payload.s[:-1] + bytes([payload.s[-1] ^ 1])
    path = tmp_path / "model.onnx"
    onnx.save(built, path)
    done = run(program, ort, path, "y", 1, images(1).tobytes(), 1)
    assert done.returncode == 1
    assert b"checksum does not match" in done.stderr
