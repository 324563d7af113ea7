# SPDX-License-Identifier: Apache-2.0
"""Run quantized TFLite and ONNX models on a simulated BrainChip Akida device.

import akida_backend as ab

session = ab.InferenceSession("model.tflite", device="akida2")
outputs = session.run(None, {session.get_inputs()[0].name: x})
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from akida_backend.errors import (
    AkidaBackendError,
    FallbackError,
    ImportModelError,
    InputError,
    ProgramError,
    UnsupportedOperationError,
)

if TYPE_CHECKING:
    from akida_backend import compatibility, onnx_backend, onnxruntime, tflite
    from akida_backend.compare import compare
    from akida_backend.compiler import compile
    from akida_backend.devices import Device, devices
    from akida_backend.graph import Graph
    from akida_backend.loading import load
    from akida_backend.options import Options
    from akida_backend.plan import Plan
    from akida_backend.session import InferenceSession

    __version__: str

__all__ = [
    "AkidaBackendError",
    "Device",
    "FallbackError",
    "Graph",
    "ImportModelError",
    "InferenceSession",
    "InputError",
    "Options",
    "Plan",
    "ProgramError",
    "UnsupportedOperationError",
    "__version__",
    "compare",
    "compatibility",
    "compile",
    "devices",
    "load",
    "onnx_backend",
    "onnxruntime",
    "tflite",
]

# Imported on first use: `import akida_backend` stays fast, and commands load what they need.
_HOME = {
    "Device": "devices",
    "Graph": "graph",
    "InferenceSession": "session",
    "Options": "options",
    "Plan": "plan",
    "compare": "compare",
    "compile": "compiler",
    "devices": "devices",
    "load": "loading",
}

_MODULES = ("compatibility", "onnx_backend", "onnxruntime", "tflite")


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("akida-backend")
        except PackageNotFoundError:
            return "0+checkout"  # run from a folder, not installed
    if name in _MODULES:
        return importlib.import_module(f"akida_backend.{name}")
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"akida_backend.{_HOME[name]}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """The package, where public functions win over submodules of the same name.

    Importing the submodule ``devices`` would otherwise replace the function ``devices``.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
