# SPDX-License-Identifier: Apache-2.0
"""``load``: a model file of any supported format in, Graph out."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeGuard

from akida_backend.errors import ImportModelError, InputError
from akida_backend.graph import Graph
from akida_backend.importers.tflite import read_tflite
from akida_backend.importers.tflite_file import IDENTIFIER
from akida_backend.sealed_bytes import PLAN_MAGIC
from akida_backend.tflite_records import PROGRAM_OPERATOR

if TYPE_CHECKING:
    import onnx

MAX_FILE_BYTES: Final = 2**28


def load(
    model: str | os.PathLike[str] | bytes | object,
    *,
    name: str | None = None,
    dimensions: Mapping[str, int] | None = None,
) -> Graph:
    """Read a quantized model.

    Args:
        model: Path or content of a .tflite or .onnx file, or an onnx.ModelProto. Constants that
            an ONNX model keeps in other files are found beside a path only.
        name: Label for messages and reports; by default the path.
        dimensions: Lengths of axes that an ONNX model's inputs leave open, by the axes' names.

    Raises:
        InputError: The file cannot be opened, `model` is of another type, or `dimensions` names
            no open axis.
        ImportModelError: The file is damaged, or of a kind no Graph represents.
    """
    lengths = dimensions or {}
    match model:
        case bytes() | bytearray() | memoryview():
            return _read(bytes(model), name or "model", None, lengths)
        case str() | os.PathLike():
            path = os.fspath(model)
            if not path:
                raise InputError(
                    "the path of the model is empty\n  Give the path of a .tflite or .onnx file."
                )
            content = _content(Path(path), name or path)
            return _read(content, name or path, Path(path).parent, lengths)
        case _ if _is_proto(model):
            label = name or "model"
            return _read_onnx(_serialised(model, label), label, None, lengths)
        case _:
            raise InputError(
                "a model is given as a path, as bytes or as an onnx.ModelProto, "
                f"not as {type(model).__name__}\n  Give the path of a .tflite or .onnx file."
            )


def _content(path: Path, label: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"{label}: cannot read the model: {reason}\n  Give the path of a .tflite or .onnx file."
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise ImportModelError(
            label,
            f"the file has more than {MAX_FILE_BYTES} bytes",
            remedy="Models for edge devices are far smaller: check that this is the right file.",
        )
    return content


def _is_proto(model: object) -> TypeGuard[onnx.ModelProto]:
    """Who holds a ModelProto has imported onnx, which takes longer than all of this package."""
    module = sys.modules.get("onnx")
    return module is not None and isinstance(model, module.ModelProto)


def _serialised(model: onnx.ModelProto, label: str) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except ValueError as problem:  # protobuf holds at most 2 GB
        raise ImportModelError(
            label, f"cannot be serialised: {problem}", remedy="Save it and give the path."
        ) from None


def _read_onnx(
    content: bytes, label: str, folder: Path | None, lengths: Mapping[str, int]
) -> Graph:
    from akida_backend.importers.onnx import read_onnx
    from akida_backend.importers.onnx_file import with_lengths

    if lengths:
        content = with_lengths(content, label, lengths)
    if b"AkidaExecutionProvider" in content:
        from akida_backend.epcontext import refuse_compiled

        refuse_compiled(content, label)
    return read_onnx(content, label, folder=folder)


def _not_compiled(graph: Graph) -> Graph:
    if any(op.location.type == PROGRAM_OPERATOR for op in graph.operations):
        raise ImportModelError(
            graph.name,
            f"is a compiled model: device segments are operators '{PROGRAM_OPERATOR}'",
            remedy="Run it in LiteRT or tflite-runtime with the delegate "
            "akida_backend.tflite.load_delegate(), or give the model it was compiled from.",
        )
    return graph


def _read(content: bytes, label: str, folder: Path | None, lengths: Mapping[str, int]) -> Graph:
    if content[4:8] == IDENTIFIER:
        if lengths:
            raise InputError(
                f"{label}: dimensions are for ONNX models\n"
                "  A TFLite file holds its sizes: convert it again with others."
            )
        return _not_compiled(read_tflite(content, label))
    if content.startswith(PLAN_MAGIC):
        raise ImportModelError(
            label,
            "is a compiled plan, not a model",
            remedy="Give the model it was made of; run, compare, inspect and InferenceSession take "
            "plans.",
        )
    # An ONNX file starts with its IR version, a small number in protobuf field 1, or, from some
    # writers, with the graph.
    if content and (label.lower().endswith(".onnx") or content[:1] in b"\x08\x3a"):
        return _read_onnx(content, label, folder, lengths)
    start = content[:8]
    raise ImportModelError(
        label,
        f"starts with {start!r}, which is neither TFLite nor ONNX" if start else "is empty",
        remedy="Give a .tflite file with the identifier TFL3 at byte 4, or an .onnx file.",
    )
