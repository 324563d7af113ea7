# SPDX-License-Identifier: Apache-2.0
"""Every allocation of the library fails once: an error each time, and no exception gets away."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from interpreters import Runtime

from akida_backend.engine import engine_status

SOURCE = Path(__file__).with_name("failing_malloc.c")
TESTS = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the allocation it replaces is glibc's"
)


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        pytest.skip("no C compiler")
    status = engine_status()
    if status.library is None:
        pytest.skip(f"no native library: {status.problem}")
    if b"__asan_init" in status.library.read_bytes():
        pytest.skip("a sanitizer replaces the allocation, too")
    path = tmp_path_factory.mktemp("c") / "failing_malloc.so"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", path, SOURCE], check=True)
    return path


def failures(preloaded: Path, code: str) -> int:
    """How many allocations failed; `code` defines `attempt`, which raises, or returns `wanted`."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"""
import ctypes, sys
sys.path.insert(0, {str(TESTS)!r})
import akida_backend as ab
from akida_backend.engine import native_library
from akida_backend.errors import AkidaBackendError
{code}
wanted = attempt()
fail_after = ctypes.CDLL(None).fail_after
fail_after.argtypes, fail_after.restype = [ctypes.c_void_p, ctypes.c_long], ctypes.c_long
inside = ctypes.cast(native_library().akida_backend_abi, ctypes.c_void_p)
refused = count = 0
while True:
    fail_after(inside, count)
    found = wanted
    try:
        found = attempt()
    except PROBLEMS:
        refused += 1
    assert found == wanted
    if fail_after(inside, -1) >= 0:
        break
    count += 1
assert attempt() == wanted
print(count, refused)
""",
        ],
        env={**os.environ, "LD_PRELOAD": str(preloaded)},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}"
    count, refused = map(int, done.stdout.split()[-2:])
    assert 0 < refused <= count
    return count


def test_of_the_engine(preloaded: Path) -> None:
    assert (
        failures(
            preloaded,
            """
import numpy as np
from akida_backend.engine import NativeEngine
from program_samples import sound
x = np.ones((2, *sound().input.shape[1:]), np.uint8)
PROBLEMS = AkidaBackendError
def attempt():
    return NativeEngine(sound(), threads=2).run(x).tolist()
""",
        )
        > 50
    )


def test_of_the_delegate(preloaded: Path, runtime: Runtime) -> None:
    assert (
        failures(
            preloaded,
            f"""
import networks, numpy as np
from akida_backend.tflite_compiled import compiled_tflite
from akida_backend.tflite_writer import write_tflite
from {runtime.module.__name__} import Interpreter, OpResolverType
content = compiled_tflite(ab.compile(write_tflite(networks.adjacent())))
PROBLEMS = (RuntimeError, ValueError, AkidaBackendError)
def attempt():
    interpreter = Interpreter(
        model_content=content,
        experimental_delegates=[ab.tflite.load_delegate()],
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
    )
    entry, exit = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    shape = [3, *entry["shape"][1:]]
    interpreter.resize_tensor_input(entry["index"], shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], np.ones(shape, np.int8))
    interpreter.invoke()
    return interpreter.get_tensor(exit["index"]).tolist()
""",
        )
        > 50
    )


def test_of_the_provider(preloaded: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert (
        failures(
            preloaded,
            """
import onnxruntime
import context_models
from akida_backend import onnxruntime as provider
data = context_models.single().SerializeToString()
PROBLEMS = Exception
def attempt():
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = provider.create_session(data, sess_options=options)
    return session.run(None, {"x": context_models.images(2)})[0].tolist()
""",
        )
        > 50
    )
