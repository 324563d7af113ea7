# SPDX-License-Identifier: Apache-2.0
"""Delegates that are shared, interpreters by the thousand, threads, and the end of a process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import networks
import numpy as np
import pytest
from interpreters import Runtime, equal, kernels, random_feeds, run

import akida_backend as ab
from akida_backend.tflite_compiled import compiled_tflite
from akida_backend.tflite_compiler import KEPT_PLANS, SEGMENTS
from akida_backend.tflite_writer import write_tflite

ROOT = Path(__file__).parents[2]


def in_python(code: str, folder: Path) -> str:
    """What a fresh interpreter prints, in a folder of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def resident_bytes() -> int:
    """Memory of this process."""
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("this system does not tell how much memory a process has")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_interpreters_of_different_models_share_a_delegate(runtime: Runtime) -> None:
    delegate = ab.tflite.load_delegate()
    contents = [write_tflite(networks.classifier(seed)) for seed in range(3)]
    contents.append(write_tflite(networks.interrupted()))
    interpreters = [runtime.interpreter(content, delegate) for content in contents]
    del delegate
    gc.collect()
    for content, interpreter in zip(contents, interpreters, strict=True):
        feeds = random_feeds(interpreter)
        session = ab.InferenceSession(content)
        names = [entry.name for entry in session.get_outputs()]
        wanted = dict(zip(names, session.run(None, feeds), strict=True))
        found = run(interpreter, feeds)
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_six_threads_use_interpreters_of_one_delegate(runtime: Runtime) -> None:
    content = write_tflite(networks.classifier())
    delegate = ab.tflite.load_delegate()
    session = ab.InferenceSession(content)
    failures: list[str] = []

    def work(number: int) -> None:
        interpreter = runtime.interpreter(content, delegate)
        for step in range(30):
            feeds = random_feeds(interpreter, seed=100 * number + step)
            (found,), (wanted,) = run(interpreter, feeds).values(), session.run(None, feeds)
            if not np.array_equal(found, wanted):
                failures.append(f"thread {number}, step {step}")

    threads = [threading.Thread(target=work, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize(
    ("compiled", "count"),
    [
        pytest.param(True, 2000, id="compiled"),
        pytest.param(False, 300, id="model"),
        pytest.param(False, 2000, id="model-in-full", marks=pytest.mark.full),
    ],
)
def test_interpreters_leave_nothing_behind(runtime: Runtime, compiled: bool, count: int) -> None:
    content = write_tflite(networks.classifier())
    if compiled:
        content = compiled_tflite(ab.compile(content))
    feeds = random_feeds(runtime.interpreter(content, ab.tflite.load_delegate()))

    def use(count: int) -> int:
        delegate = ab.tflite.load_delegate()
        for _ in range(count):
            interpreter = runtime.interpreter(content, delegate)
            run(interpreter, feeds)
            del interpreter
        gc.collect()
        return resident_bytes()

    before = use(200)
    assert use(count) - before < 2**20  # half a kilobyte each, of 2,000


def test_delegates_that_come_and_go_leave_nothing_behind(runtime: Runtime) -> None:
    content = write_tflite(networks.classifier())

    def use(count: int) -> int:
        for _ in range(count):
            runtime.interpreter(content, ab.tflite.load_delegate(fallback="allow"))
        gc.collect()
        return resident_bytes()

    before = use(60)
    assert use(120) - before < 2**20


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param("", id="end"),
        pytest.param("sys.exit(0)", id="exit"),
        pytest.param("del delegate", id="delegate-first"),
        pytest.param("del interpreter; del delegate", id="in-order"),
        pytest.param("sys.modules.clear()", id="modules-first"),
    ],
)
def test_a_process_ends_with_a_live_interpreter(
    runtime: Runtime, tmp_path: Path, ending: str
) -> None:
    (tmp_path / "m.tflite").write_bytes(write_tflite(networks.classifier()))
    code = f"""
import sys
import akida_backend as ab
from {runtime.module.__name__} import Interpreter
delegate = ab.tflite.load_delegate()
interpreter = Interpreter("m.tflite", experimental_delegates=[delegate])
interpreter.allocate_tensors()
interpreter.invoke()
print("ran", flush=True)
{ending}
"""
    assert in_python(code, tmp_path) == "ran"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_an_interpreter_with_threads_goes_on_in_a_forked_process(
    runtime: Runtime, tmp_path: Path
) -> None:
    (tmp_path / "m.tflite").write_bytes(write_tflite(networks.classifier()))
    code = f"""
import numpy as np
import akida_backend as ab
from forking import in_child
from {runtime.module.__name__} import Interpreter
interpreter = Interpreter(
    "m.tflite", experimental_delegates=[ab.tflite.load_delegate(threads=2)], num_threads=1
)
entry, exit = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
shape = [64, *entry["shape"][1:]]
interpreter.resize_tensor_input(entry["index"], shape)
interpreter.allocate_tensors()
def computed():
    interpreter.set_tensor(entry["index"], np.ones(shape, np.int8))
    interpreter.invoke()
    return interpreter.get_tensor(exit["index"]).tolist()
before = computed()
def go_on():
    global interpreter
    assert computed() == before
    interpreter = None
print(in_child(go_on), computed() == before)
"""
    assert in_python(code, tmp_path) == "0 True"


def test_segments_in_python_go_with_their_last_kernel(runtime: Runtime) -> None:
    """More models than plans are kept, so that a kernel's segment has no other owner."""
    contents = [write_tflite(networks.interrupted(seed)) for seed in range(KEPT_PLANS + 2)]
    gc.collect()
    before = len(SEGMENTS)
    delegate = ab.tflite.load_delegate(emulation="source")
    live = [runtime.interpreter(content, delegate) for content in contents]
    twice = runtime.interpreter(contents[0], delegate)
    assert len(SEGMENTS) == before + 2 * len(live) + 2
    wanted = run(live[0], random_feeds(live[0]))
    live.clear()
    gc.collect()
    assert len(SEGMENTS) == before + 2
    assert equal(run(twice, random_feeds(twice)), wanted)
    del twice
    gc.collect()
    assert len(SEGMENTS) == before


def test_threads_of_an_interpreter_are_the_engines(runtime: Runtime) -> None:
    content = write_tflite(networks.classifier())
    interpreter = runtime.interpreter(content, ab.tflite.load_delegate(), num_threads=2)
    assert len(kernels(interpreter)) == 1
    feeds = random_feeds(interpreter, 16)
    (wanted,) = ab.InferenceSession(content).run(None, feeds)
    (found,) = run(interpreter, feeds).values()
    assert np.array_equal(found, wanted)
