# SPDX-License-Identifier: Apache-2.0
"""TFLite files from plain records, for tests of the importer: every field can be wrong.

Independent of the importer and of `akida_backend.tflite_writer`, which refuses nonsense.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import tflite
from numpy.typing import ArrayLike
from tflite import BuiltinOperator, TensorType

_TYPES = {
    "float32": TensorType.FLOAT32,
    "float16": TensorType.FLOAT16,
    "int8": TensorType.INT8,
    "uint8": TensorType.UINT8,
    "int16": TensorType.INT16,
    "int32": TensorType.INT32,
    "int64": TensorType.INT64,
    "bool": TensorType.BOOL,
}


@dataclass
class RawTensor:
    shape: Sequence[int]
    type: int = TensorType.INT8
    data: bytes | None = None
    name: str = ""
    scale: Sequence[float] = ()
    zero_point: Sequence[int] = ()
    axis: int = 0
    signature: Sequence[int] | None = None
    is_variable: bool = False
    sparse: bool = False
    details: int = 0
    buffer: int | None = None  # index of a buffer, whatever is in it
    external: tuple[int, int] | None = None  # offset and size of a buffer behind the FlatBuffer


@dataclass
class RawOperator:
    code: int | str  # a string is a custom operator
    inputs: Sequence[int]
    outputs: Sequence[int]
    table: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    options_type: int | None = None
    opcode_index: int | None = None


@dataclass
class RawModel:
    tensors: list[RawTensor]
    operators: list[RawOperator]
    inputs: Sequence[int]
    outputs: Sequence[int]
    version: int = 3
    subgraphs: int = 1
    signatures: Sequence[int] = ()
    deprecated_codes: bool = True
    builtin_codes: bool = True
    buffers: bool = True
    tail: bytes = b""  # after the FlatBuffer

    def to_bytes(self) -> bytes:
        return _write(self) + self.tail


def activation(*shape: int, name: str = "", **fields: Any) -> RawTensor:  # noqa: ANN401
    """An int8 tensor on a scale."""
    return RawTensor(shape, name=name, **{"scale": [0.5], "zero_point": [0], **fields})


def constant(values: ArrayLike, dtype: str = "int32", **fields: Any) -> RawTensor:  # noqa: ANN401
    array = np.array(values, dtype)
    return RawTensor(array.shape, _TYPES[dtype], array.tobytes(), **fields)


def chain(
    operator: str,
    shape: Sequence[int],
    result: Sequence[int],
    *constants: RawTensor,
    table: str = "",
    result_fields: Mapping[str, Any] | None = None,
    **options: Any,  # noqa: ANN401
) -> RawModel:
    """One operator: an input of `shape`, then `constants`; one result."""
    tensors = [
        activation(*shape, name="x"),
        activation(*result, name="y", **(result_fields or {})),
        *constants,
    ]
    inputs = [0, *range(2, len(tensors))]
    code = getattr(BuiltinOperator, operator)
    return RawModel(tensors, [RawOperator(code, inputs, [1], table, options)], [0], [1])


def _write(model: RawModel) -> bytes:
    builder = flatbuffers.Builder(1024)
    buffers = [_table(builder, "Buffer")]
    positions = []
    for tensor in model.tensors:
        position = 0
        if tensor.external is not None:
            offset, size = tensor.external
            buffers.append(_table(builder, "Buffer", Offset=offset, Size=size))
            position = len(buffers) - 1
        elif tensor.data is not None:
            content = builder.CreateByteVector(tensor.data)
            buffers.append(_table(builder, "Buffer", Data=content))
            position = len(buffers) - 1
        positions.append(position if tensor.buffer is None else tensor.buffer)
    tensors = [_tensor(builder, t, p) for t, p in zip(model.tensors, positions, strict=True)]
    codes = list(dict.fromkeys(operator.code for operator in model.operators))
    operators = [_operator(builder, operator, codes) for operator in model.operators]
    subgraph = _table(
        builder,
        "SubGraph",
        Tensors=_offsets(builder, tensors),
        Inputs=_vector(builder, np.int32, model.inputs),
        Outputs=_vector(builder, np.int32, model.outputs),
        Operators=_offsets(builder, operators),
    )
    signatures = [_table(builder, "SignatureDef", SubgraphIndex=n) for n in model.signatures]
    fields = {
        "Version": model.version,
        "OperatorCodes": _offsets(builder, [_code(builder, model, code) for code in codes]),
        "Subgraphs": _offsets(builder, [subgraph] * model.subgraphs),
    }
    if model.buffers:
        fields["Buffers"] = _offsets(builder, buffers)
    if signatures:
        fields["SignatureDefs"] = _offsets(builder, signatures)
    builder.Finish(_table(builder, "Model", **fields), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _tensor(builder: Any, tensor: RawTensor, buffer: int) -> int:  # noqa: ANN401
    fields: dict[str, Any] = {
        "Shape": _vector(builder, np.int32, tensor.shape),
        "Type": tensor.type,
        "Buffer": buffer,
        "IsVariable": tensor.is_variable,
    }
    if tensor.name:
        fields["Name"] = builder.CreateString(tensor.name)
    if tensor.signature is not None:
        fields["ShapeSignature"] = _vector(builder, np.int32, tensor.signature)
    if tensor.sparse:
        fields["Sparsity"] = _table(builder, "SparsityParameters")
    if tensor.scale or tensor.zero_point:
        fields["Quantization"] = _table(
            builder,
            "QuantizationParameters",
            Scale=_vector(builder, np.float32, tensor.scale),
            ZeroPoint=_vector(builder, np.int64, tensor.zero_point),
            QuantizedDimension=tensor.axis,
            DetailsType=tensor.details,
        )
    return _table(builder, "Tensor", **fields)


def _operator(builder: Any, operator: RawOperator, codes: list[int | str]) -> int:  # noqa: ANN401
    index = codes.index(operator.code) if operator.opcode_index is None else operator.opcode_index
    fields: dict[str, Any] = {
        "OpcodeIndex": index,
        "Inputs": _vector(builder, np.int32, operator.inputs),
        "Outputs": _vector(builder, np.int32, operator.outputs),
    }
    if operator.table:
        options = {
            key: _vector(builder, np.int32, value) if isinstance(value, list) else value
            for key, value in operator.options.items()
        }
        fields["BuiltinOptions"] = _table(builder, operator.table, **options)
        kind = getattr(tflite.BuiltinOptions, operator.table)
        fields["BuiltinOptionsType"] = kind
    if operator.options_type is not None:
        fields["BuiltinOptionsType"] = operator.options_type
    return _table(builder, "Operator", **fields)


def _code(builder: Any, model: RawModel, code: int | str) -> int:  # noqa: ANN401
    number = BuiltinOperator.CUSTOM if isinstance(code, str) else code
    fields: dict[str, Any] = {}
    if isinstance(code, str):
        fields["CustomCode"] = builder.CreateString(code)
    if model.deprecated_codes:
        fields["DeprecatedBuiltinCode"] = min(number, 127)
    if model.builtin_codes:
        fields["BuiltinCode"] = number
    return _table(builder, "OperatorCode", **fields)


def _table(builder: Any, name: str, **fields: Any) -> int:  # noqa: ANN401
    getattr(tflite, f"{name}Start")(builder)
    for key, value in fields.items():
        getattr(tflite, f"{name}Add{key}")(builder, value)
    offset: int = getattr(tflite, f"{name}End")(builder)
    return offset


def _vector(builder: Any, dtype: type[np.generic], values: ArrayLike) -> int:  # noqa: ANN401
    offset: int = builder.CreateNumpyVector(np.array(values, dtype).reshape(-1))
    return offset


def _offsets(builder: Any, offsets: Sequence[int]) -> int:  # noqa: ANN401
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    end: int = builder.EndVector()
    return end
