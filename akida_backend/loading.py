# SPDX-License-Identifier: Apache-2.0
"""``load``: a model file of any supported format in, Graph out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from akida_backend.errors import ImportModelError, InputError
from akida_backend.graph import Graph
from akida_backend.importers.tflite import read_tflite
from akida_backend.importers.tflite_file import IDENTIFIER
from akida_backend.sealed_bytes import PLAN_MAGIC

MAX_FILE_BYTES: Final = 2**28


_ONNX_NOT_YET: Final = "ONNX import is not available in this version"


def load(model: str | os.PathLike[str] | bytes | object, *, name: str | None = None) -> Graph:
    """Read a quantized model.

    Args:
        model: Path or content of a model file.
        name: Label for messages and reports; by default the path.

    Raises:
        InputError: The file cannot be opened, or `model` is of another type.
        ImportModelError: The file is damaged, or of a kind no Graph represents.
    """
    match model:
        case bytes() | bytearray() | memoryview():
            return _read(bytes(model), name or "model")
        case str() | os.PathLike():
            path = os.fspath(model)
            return _read(_content(Path(path), name or path), name or path)
        case _ if hasattr(model, "SerializeToString"):
            raise _onnx_error(name or "model")
        case _:
            raise InputError(
                f"a model is given as a path or as bytes, not as {type(model).__name__}\n"
                "  Give the path of a .tflite file."
            )


def _content(path: Path, label: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"{label}: cannot read the model: {reason}\n  Give the path of a .tflite file."
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise ImportModelError(
            label,
            f"the file has more than {MAX_FILE_BYTES} bytes",
            remedy="Models for edge devices are far smaller: check that this is the right file.",
        )
    return content


def _read(content: bytes, label: str) -> Graph:
    if content[4:8] == IDENTIFIER:
        return read_tflite(content, label)
    if content.startswith(PLAN_MAGIC):
        raise ImportModelError(
            label,
            "is a compiled plan, not a model",
            remedy="Give it to InferenceSession, or to the commands run, compare and inspect.",
        )
    # An ONNX file starts with its IR version, a small number in protobuf field 1.
    if label.lower().endswith(".onnx") or (content[:1] == b"\x08" and content[2:3] in b"\x12\x1a:"):
        raise _onnx_error(label)
    start = content[:8]
    raise ImportModelError(
        label,
        f"starts with {start!r}, which is neither TFLite nor ONNX" if start else "is empty",
        remedy="Give a .tflite file with the identifier TFL3 at byte 4.",
    )


def _onnx_error(label: str) -> ImportModelError:
    return ImportModelError(label, _ONNX_NOT_YET, remedy="Give the model as an INT8 .tflite file.")
