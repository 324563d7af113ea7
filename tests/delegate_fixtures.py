# SPDX-License-Identifier: Apache-2.0
"""The runtimes a delegate works in, and the library it comes from."""

from __future__ import annotations

import importlib.util

import pytest
from interpreters import Runtime

import akida_backend as ab
from akida_backend.engine import engine_status
from akida_backend.graph import Arithmetic
from akida_backend.runtime_host import works_with_numpy


@pytest.fixture(scope="session")
def library() -> str:
    """Path of the library that exports the delegate."""
    status = engine_status()
    if status.library is None:
        pytest.skip(f"no native library: {status.problem}")
    return ab.tflite.library_path()


@pytest.fixture(
    params=[
        pytest.param(("ai_edge_litert", Arithmetic.TFLITE), id="litert"),
        pytest.param(
            ("tflite_runtime", Arithmetic.TFLITE_2_14),
            id="2.14",
            marks=pytest.mark.tflite_runtime,
        ),
    ]
)
def runtime(request: pytest.FixtureRequest, library: str) -> Runtime:
    """Each runtime in turn, and a library to delegate to."""
    assert library
    name, arithmetic = request.param
    if importlib.util.find_spec(name) is None or not works_with_numpy(name):
        pytest.skip(f"{name} is not installed")
    return Runtime(importlib.import_module(f"{name}.interpreter"), arithmetic)
