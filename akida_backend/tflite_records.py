# SPDX-License-Identifier: Apache-2.0
"""A TFLite file as plain records, written with the `flatbuffers` and `tflite` packages.

The records say what the schema says, one subgraph; nothing is checked or added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import flatbuffers
import numpy as np
import tflite

from akida_backend.errors import InputError
from akida_backend.importers.tflite_file import FileOperator

# The data of constants starts at multiples of this, which the runtimes' vector loads want.
DATA_ALIGNMENT: Final = 16

# Name of the custom operator that stands for a device segment and carries its program.
PROGRAM_OPERATOR: Final = "akida-program"

CUSTOM: Final = int(tflite.BuiltinOperator.CUSTOM)

Value = float | bytes | Sequence[int] | Sequence[float]


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A tensor.

    Attributes:
        name: As the file spells it.
        type: Number in the schema's TensorType.
        shape: Axis lengths, none open.
        signature: Axis lengths with -1 for open ones; None where none is open.
        scale: Of the quantization; empty for none.
        zero_point: One per scale.
        axis: Of scales per channel.
        data: Bytes of a constant, None for anything computed.
        is_variable: Keeps its value between calls.
    """

    name: str
    type: int
    shape: Sequence[int]
    signature: Sequence[int] | None = None
    scale: Sequence[float] = ()
    zero_point: Sequence[int] = ()
    axis: int = 0
    data: bytes | None = None
    is_variable: bool = False


@dataclass(frozen=True, slots=True)
class OperatorRecord:
    """An operator.

    Attributes:
        code: Number in the schema's BuiltinOperator.
        inputs: Tensors by position, -1 where one is left out.
        outputs: Tensors by position.
        intermediates: Tensors by position.
        table: Name of the options table, "" for none.
        options: Its fields, spelled as the generated ``<Table>Add<Field>``.
        version: Of the operator.
        custom_name: Of a custom operator.
        custom_options: Of a custom operator.
    """

    code: int
    inputs: Sequence[int]
    outputs: Sequence[int]
    intermediates: Sequence[int] = ()
    table: str = ""
    options: Mapping[str, Value] = field(default_factory=dict)
    version: int = 1
    custom_name: str = ""
    custom_options: bytes = b""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file of one subgraph; tensors are named by their position."""

    tensors: Sequence[TensorRecord]
    operators: Sequence[OperatorRecord]
    inputs: Sequence[int]
    outputs: Sequence[int]
    description: str = "written by akida-backend"

    def to_bytes(self) -> bytes:
        """The file; equal records give equal bytes."""
        builder = flatbuffers.Builder(1024)
        data = [_table(builder, "Buffer")]  # buffer 0 is empty by convention
        buffers: list[int] = []
        for tensor in self.tensors:
            buffers.append(0 if tensor.data is None else len(data))
            if tensor.data is not None:
                content = _data_vector(builder, tensor.data)
                data.append(_table(builder, "Buffer", Data=content))
        tensors = [
            _tensor_table(builder, tensor, buffer)
            for tensor, buffer in zip(self.tensors, buffers, strict=True)
        ]
        kinds = [(op.code, op.version, op.custom_name) for op in self.operators]
        codes = {kind: position for position, kind in enumerate(dict.fromkeys(kinds))}
        operators = [
            _operator_table(builder, op, codes[kind])
            for op, kind in zip(self.operators, kinds, strict=True)
        ]
        subgraph = _table(
            builder,
            "SubGraph",
            Tensors=_offset_vector(builder, tensors),
            Inputs=_vector(builder, np.int32, self.inputs),
            Outputs=_vector(builder, np.int32, self.outputs),
            Operators=_offset_vector(builder, operators),
            Name=builder.CreateString("main"),
        )
        model = _table(
            builder,
            "Model",
            Version=3,
            OperatorCodes=_offset_vector(builder, [_code_table(builder, *kind) for kind in codes]),
            Subgraphs=_offset_vector(builder, [subgraph]),
            Description=builder.CreateString(self.description),
            Buffers=_offset_vector(builder, data),
        )
        builder.Finish(model, file_identifier=b"TFL3")
        return bytes(builder.Output())


def copied_operator(operator: FileOperator, source: bytes) -> OperatorRecord:
    """An operator of a file, with all its options.

    Args:
        operator: As the importer has checked it.
        source: The file.

    Raises:
        InputError: Its options cannot be copied: they name other subgraphs, or hold tables.
    """
    reader = operator.table.reader
    code = _model(source).OperatorCodes(reader.OpcodeIndex())
    number = reader.BuiltinOptionsType()
    if reader.BuiltinOptions2Type():
        raise _not_copied(operator, "options of the second kind")
    table = next((n for n, value in vars(tflite.BuiltinOptions).items() if value == number), "NONE")
    options: Mapping[str, Value] = {}
    if table != "NONE":
        place = reader.BuiltinOptions()
        fields = getattr(tflite, table)()
        fields.Init(place.Bytes, place.Pos)
        options = _copied_options(operator, table, fields)
    return OperatorRecord(
        code=CUSTOM if operator.code is None else operator.code,
        inputs=_entries(reader, "Inputs"),
        outputs=_entries(reader, "Outputs"),
        intermediates=_entries(reader, "Intermediates"),
        table="" if table == "NONE" else table,
        options=options,
        version=code.Version(),
        custom_name=(code.CustomCode() or b"").decode(errors="replace"),
        custom_options=bytes(_entries(reader, "CustomOptions")),
    )


def _copied_options(operator: FileOperator, table: str, fields: Any) -> dict[str, Value]:  # noqa: ANN401
    prefix = f"{table}Add"
    options: dict[str, Value] = {}
    for name in (n.removeprefix(prefix) for n in dir(tflite) if n.startswith(prefix)):
        if name.endswith("SubgraphIndex"):
            raise _not_copied(operator, "another subgraph")
        if hasattr(fields, f"{name}AsNumpy"):
            if not getattr(fields, f"{name}IsNone")():
                options[name] = getattr(fields, f"{name}AsNumpy")()
            continue
        value = getattr(fields, name)()
        if isinstance(value, int | float | bytes):
            options[name] = value
        elif value is not None:
            raise _not_copied(operator, f"a table '{name}'")
    return options


def _not_copied(operator: FileOperator, what: str) -> InputError:
    return InputError(
        f"{operator.location}: names {what}, which cannot be copied to another file\n"
        "  Keep the original file for it."
    )


def _model(source: bytes) -> Any:  # noqa: ANN401
    return tflite.Model.GetRootAs(source)


def _entries(reader: Any, name: str) -> list[int]:  # noqa: ANN401
    if getattr(reader, f"{name}IsNone")():
        return []
    entries: list[int] = getattr(reader, f"{name}AsNumpy")().tolist()
    return entries


# The generated modules are untyped, hence Any for the builder.


def _table(builder: Any, name: str, **fields: float) -> int:  # noqa: ANN401
    """Write table `name`; fields are spelled as in the generated ``<Table>Add<Field>``."""
    getattr(tflite, f"{name}Start")(builder)
    for key, value in fields.items():
        getattr(tflite, f"{name}Add{key}")(builder, value)
    offset: int = getattr(tflite, f"{name}End")(builder)
    return offset


def _vector(builder: Any, dtype: type[np.generic], values: object) -> int:  # noqa: ANN401
    offset: int = builder.CreateNumpyVector(np.array(values, dtype))
    return offset


def _offset_vector(builder: Any, offsets: Sequence[int]) -> int:  # noqa: ANN401
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    end: int = builder.EndVector()
    return end


def _data_vector(builder: Any, content: bytes) -> int:  # noqa: ANN401
    builder.StartVector(1, len(content), DATA_ALIGNMENT)
    start = builder.Head() - len(content)
    builder.head = start
    builder.Bytes[start : start + len(content)] = content
    end: int = builder.EndVector()
    return end


def _tensor_table(builder: Any, tensor: TensorRecord, buffer: int) -> int:  # noqa: ANN401
    fields = {
        "Shape": _vector(builder, np.int32, tensor.shape),
        "Type": tensor.type,
        "Buffer": buffer,
        "Name": builder.CreateString(tensor.name),
        "HasRank": True,
    }
    if tensor.signature is not None:
        fields["ShapeSignature"] = _vector(builder, np.int32, tensor.signature)
    if len(tensor.scale):
        fields["Quantization"] = _table(
            builder,
            "QuantizationParameters",
            Scale=_vector(builder, np.float32, tensor.scale),
            ZeroPoint=_vector(builder, np.int64, tensor.zero_point),
            QuantizedDimension=tensor.axis,
        )
    if tensor.is_variable:
        fields["IsVariable"] = True
    return _table(builder, "Tensor", **fields)


def _operator_table(builder: Any, operator: OperatorRecord, code: int) -> int:  # noqa: ANN401
    fields = {
        "OpcodeIndex": code,
        "Inputs": _vector(builder, np.int32, operator.inputs),
        "Outputs": _vector(builder, np.int32, operator.outputs),
    }
    if operator.intermediates:
        fields["Intermediates"] = _vector(builder, np.int32, operator.intermediates)
    if operator.table:
        options = {name: _field(builder, value) for name, value in operator.options.items()}
        fields["BuiltinOptions"] = _table(builder, operator.table, **options)
        fields["BuiltinOptionsType"] = getattr(tflite.BuiltinOptions, operator.table)
    if operator.custom_options:
        fields["CustomOptions"] = _data_vector(builder, operator.custom_options)
    return _table(builder, "Operator", **fields)


def _field(builder: Any, value: Value) -> float:  # noqa: ANN401
    """A number as it is, a string or vector as where it lies."""
    match value:
        case float() | int():
            return value
        case bytes():
            offset: int = builder.CreateString(value)
            return offset
        case _:
            return _vector(builder, np.array(value).dtype.type, value)


def _code_table(builder: Any, code: int, version: int, custom_name: str) -> int:  # noqa: ANN401
    # Readers older than builtin_code read the byte-sized field and skip codes from 127 on.
    fields = {
        "DeprecatedBuiltinCode": min(code, 127),
        "Version": version,
        "BuiltinCode": code,
    }
    if custom_name:
        fields["CustomCode"] = builder.CreateString(custom_name)
    return _table(builder, "OperatorCode", **fields)
