# SPDX-License-Identifier: Apache-2.0
"""Which engine runs device segments: the native one, or without its library the numpy reference."""

from __future__ import annotations

from akida_backend.engine import NativeEngine, engine_status
from akida_backend.program import Program
from akida_backend.simulator import Simulator

DeviceEngine = NativeEngine | Simulator


def open_engine(program: Program, *, threads: int = 1) -> DeviceEngine:
    """A program ready to run; both engines give the same integers.

    Raises:
        ProgramError: The program is not well-formed.
    """
    if engine_status().library is None:
        return Simulator(program)
    return NativeEngine(program, threads=threads)


def engine_name() -> str:
    """What `open_engine` opens, for reports."""
    status = engine_status()
    if status.library is None:
        return "numpy reference"
    return f"native engine, {status.instruction_set}"
