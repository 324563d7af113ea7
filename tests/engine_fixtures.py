# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the native engine's tests."""

from __future__ import annotations

import pytest

from akida_backend.engine import engine_status

INSTRUCTION_SETS = ("avx512vnni", "avxvnni", "avx2", "baseline")


@pytest.fixture(scope="session")
def runnable_sets() -> tuple[str, ...]:
    """Instruction sets of this machine."""
    status = engine_status()
    if status.library is None:
        pytest.skip(f"no native engine: {status.problem}")
    return tuple(name for name, problem in status.instruction_sets.items() if problem is None)


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest, runnable_sets: tuple[str, ...]) -> str:
    """Each instruction set in turn."""
    name: str = request.param
    if name not in runnable_sets:
        pytest.skip(f"this machine does not run {name}")
    return name
