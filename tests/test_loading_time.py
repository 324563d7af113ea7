# SPDX-License-Identifier: Apache-2.0
"""How long a user waits before the first result; bounds leave room for a busy machine."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import networks

import akida_backend
from akida_backend.bench import Simulation
from akida_backend.compiler import compile as compile_model
from akida_backend.loading import load
from akida_backend.plan_format import plan_from_bytes, plan_to_bytes
from akida_backend.tflite_writer import write_tflite

KWS = "models/mlperf_tiny/mlperf_kws_ref_int8.tflite"


def fastest(action: Callable[[], object], tries: int = 5) -> float:
    """Seconds of the best try."""
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def test_importing_takes_less_than_150_ms() -> None:
    code = (
        "import time; t = time.perf_counter(); import akida_backend; print(time.perf_counter()-t)"
    )

    def imported() -> float:
        command = [sys.executable, "-c", code]
        root = Path(akida_backend.__file__).parents[1]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
        return float(done.stdout)

    assert min(imported() for _ in range(3)) < 0.15


def test_a_small_network_is_ready_in_100_ms() -> None:
    content = write_tflite(networks.classifier())
    assert fastest(lambda: Simulation(compile_model(load(content)), threads=1)) < 0.1


def test_keyword_spotting_is_ready_in_100_ms(shared: Path) -> None:
    content = (shared / KWS).read_bytes()
    assert fastest(lambda: Simulation(compile_model(load(content)), threads=1)) < 0.1


def test_a_saved_plan_is_ready_as_soon_as_a_compiled_one() -> None:
    data = plan_to_bytes(compile_model(load(write_tflite(networks.classifier()))))
    assert fastest(lambda: Simulation(plan_from_bytes(data), threads=1)) < 0.1
