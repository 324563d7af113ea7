# SPDX-License-Identifier: Apache-2.0
"""A delegate for the interpreters of LiteRT (ai-edge-litert) and tflite-runtime 2.14.

import akida_backend as ab
from ai_edge_litert.interpreter import Interpreter

delegate = ab.tflite.load_delegate(device="akida2")
interpreter = Interpreter("model.tflite", experimental_delegates=[delegate])

The runtimes' own ``load_delegate(ab.tflite.library_path(), {"device": "akida2"})`` does the same.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import weakref
from collections.abc import Mapping
from functools import cache
from typing import Final

from akida_backend.devices import device as find_device
from akida_backend.engine import HOW_TO_GET, engine_status, native_library
from akida_backend.errors import EngineError, InputError
from akida_backend.tflite_compiler import CALIBRATIONS, Compiler

__all__ = ["Delegate", "library_path", "load_delegate"]

_REPORT: Final = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_numbers: Final = itertools.count()


def library_path() -> str:
    """The library that exports the delegate, for ``load_delegate`` of a runtime.

    From this call on delegates can compile models in this process.

    Raises:
        EngineError: There is no library.
    """
    path, _ = _library()
    return path


def load_delegate(device: str | None = None, **options: object) -> Delegate:
    """A delegate for ``Interpreter(..., experimental_delegates=[delegate])`` of either runtime.

    Args:
        device: Name of a device profile, by default ``akida2`` or a compiled model's own.
        options: Fields of `Options`, without host.

    Raises:
        InputError: An unknown device or option.
        EngineError: There is no library.
    """
    if device is not None:
        options["device"] = find_device(device).name
    return Delegate(options)


class Delegate:
    """What an interpreter takes; several may share it, also from several threads.

    Args:
        options: Fields of `Options` by name.

    Raises:
        InputError: An unknown device or option.
        EngineError: There is no library.
    """

    def __init__(self, options: Mapping[str, object]) -> None:
        _, library = _library()
        calibration = None
        texts: dict[str, str] = {}
        for name, value in options.items():
            if name == "calibration" and not isinstance(value, str | os.PathLike):
                if value is None:
                    continue
                calibration = f"in memory, {next(_numbers)}"
                CALIBRATIONS[calibration] = value  # type: ignore[assignment]
                texts[name] = calibration
            elif isinstance(value, tuple | list):
                texts[name] = ",".join(str(part) for part in value)
            else:
                texts[name] = str(value)
        count = len(texts)
        problems: list[str] = []
        pointer: int | None = library.tflite_plugin_create_delegate(
            (ctypes.c_char_p * count)(*(name.encode() for name in texts)),
            (ctypes.c_char_p * count)(*(text.encode() for text in texts.values())),
            count,
            _REPORT(lambda text: problems.append(text.decode(errors="replace"))),
        )
        if pointer is None:
            if calibration is not None:
                del CALIBRATIONS[calibration]
            raise InputError("".join(problems))
        self._pointer = pointer
        # Interpreters hold on to their delegates, but at exit nothing is certain: the process
        # takes the memory with it.
        destroy = weakref.finalize(self, _destroy, library, pointer, calibration)
        destroy.atexit = False

    def _get_native_delegate_pointer(self) -> int:
        """What both interpreters ask their delegates for."""
        return self._pointer


def _destroy(library: ctypes.CDLL, pointer: int, calibration: str | None) -> None:
    library.tflite_plugin_destroy_delegate(pointer)
    if calibration is not None:
        del CALIBRATIONS[calibration]


@cache
def _library() -> tuple[str, ctypes.CDLL]:
    status, library = engine_status(), native_library()
    if library is None:
        raise EngineError(f"no delegate: {status.problem}\n  {HOW_TO_GET}")
    if not hasattr(library, "tflite_plugin_create_delegate"):
        raise EngineError(
            f"{status.library} has no delegate\n  Build it from this version's sources."
        )
    texts = ctypes.POINTER(ctypes.c_char_p)
    library.tflite_plugin_create_delegate.argtypes = [texts, texts, ctypes.c_size_t, _REPORT]
    library.tflite_plugin_create_delegate.restype = ctypes.c_void_p
    library.tflite_plugin_destroy_delegate.argtypes = [ctypes.c_void_p]
    library.tflite_plugin_destroy_delegate.restype = None
    _compilers.append(Compiler(library))
    return str(status.library), library


# Hooks that a library may call until the process ends.
_compilers: Final[list[Compiler]] = []
