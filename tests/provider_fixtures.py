# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the execution provider's tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from akida_backend.engine import engine_status

TESTS = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def ort() -> ModuleType:
    """The onnxruntime at hand, with the provider registered."""
    runtime: ModuleType = pytest.importorskip("onnxruntime")
    status = engine_status()
    if status.library is None:
        pytest.skip(f"no native engine: {status.problem}")
    from akida_backend import onnxruntime as provider

    provider._register()
    return runtime


@pytest.fixture(scope="session")
def in_python(ort: ModuleType) -> Callable[[str], str]:  # noqa: ARG001
    """Runs code in a fresh interpreter and returns what it prints; it must end well."""

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(TESTS)!r})\n{code}"],
            cwd=TESTS.parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    return run
