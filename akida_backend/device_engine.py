# SPDX-License-Identifier: Apache-2.0
"""Which engine runs device segments: the native one, or without its library the numpy reference."""

from __future__ import annotations

import logging
from functools import cache
from typing import Final

from akida_backend.engine import NativeEngine, engine_status
from akida_backend.program import Program
from akida_backend.simulator import Simulator

DeviceEngine = NativeEngine | Simulator

logger: Final = logging.getLogger("akida_backend.engine")


def open_engine(program: Program, *, threads: int = 1) -> DeviceEngine:
    """A program ready to run; both engines give the same integers.

    Args:
        program: What to run.
        threads: That one call uses; the numpy reference has no use for them.

    Raises:
        ProgramError: The program is not well-formed.
    """
    status = engine_status()
    if status.library is None:
        _warn(
            "programs run in the numpy reference, exact but slow: no native engine, "
            f"{status.problem}"
        )
        return Simulator(program)
    if status.problem is not None:
        _warn(status.problem)
    return NativeEngine(program, threads=threads)


def engine_name() -> str:
    """What `open_engine` opens, for reports."""
    status = engine_status()
    if status.library is None:
        return "numpy reference"
    return f"native engine, {status.instruction_set}"


@cache
def _warn(text: str) -> None:
    """Once in a process."""
    logger.warning("akida-backend: %s", text)
