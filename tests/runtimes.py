# SPDX-License-Identifier: Apache-2.0
"""The installed runtimes' reference kernels; tests share them with the tool that writes a table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import pytest

from akida_backend.graph import Arithmetic

sys.path.append(str(Path(__file__).parents[1] / "tools"))

import write_import_proof
from write_import_proof import (
    ReferenceKernels,
    expected_cause,
    is_installed,
    prove,
)

__all__ = [
    "RUNTIMES",
    "ReferenceKernels",
    "expected_cause",
    "prove",
    "require",
    "write_import_proof",
]

RUNTIMES: Final = [
    pytest.param(Arithmetic.TFLITE, id="litert"),
    pytest.param(Arithmetic.TFLITE_2_14, id="2.14", marks=pytest.mark.tflite_runtime),
]


def require(arithmetic: Arithmetic) -> None:
    """Skip a test whose runtime is not installed."""
    if not is_installed(arithmetic):
        pytest.skip(f"no runtime with the arithmetic {arithmetic.value}")
