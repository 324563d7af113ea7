# SPDX-License-Identifier: Apache-2.0
"""Constants of an .onnx file as arrays: sizes are checked before anything is decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from onnx import TensorProto

from akida_backend.errors import ImportModelError
from akida_backend.graph import AnyArray, DType
from akida_backend.importers.flatbuffer_check import DAMAGED, Allowance
from akida_backend.importers.shape_inference import FixedShape
from akida_backend.importers.tflite_file import MAX_RANK, byte_count, unpack

MAX_CONSTANT_BYTES: Final = 2**30  # of all constants together

_KNOWN: Final[Mapping[int, DType]] = {
    TensorProto.FLOAT: DType.FLOAT32,
    TensorProto.UINT8: DType.UINT8,
    TensorProto.INT8: DType.INT8,
    TensorProto.UINT16: DType.UINT16,
    TensorProto.INT16: DType.INT16,
    TensorProto.INT32: DType.INT32,
    TensorProto.INT64: DType.INT64,
    TensorProto.BOOL: DType.BOOL,
    TensorProto.FLOAT16: DType.FLOAT16,
    TensorProto.DOUBLE: DType.FLOAT64,
    TensorProto.UINT32: DType.UINT32,
    TensorProto.UINT64: DType.UINT64,
    TensorProto.BFLOAT16: DType.BFLOAT16,
    TensorProto.UINT4: DType.UINT4,
    TensorProto.INT4: DType.INT4,
}
# Strings, complex numbers, floats of 8 bits or fewer, 2-bit integers: no arithmetic here.
DTYPES: Final[Mapping[int, DType]] = {
    number: _KNOWN.get(number, DType.OTHER)
    for number in TensorProto.DataType.values()
    if number != TensorProto.UNDEFINED
}
NUMBERS: Final[Mapping[DType, int]] = {dtype: number for number, dtype in _KNOWN.items()}

_INT32_STORED: Final = frozenset(  # two to a value for 4-bit integers, bit patterns for floats
    {DType.INT4, DType.UINT4, DType.FLOAT16, DType.BFLOAT16}
)

_ONE_FILE: Final = "Save the model with its data beside it and load it by its path."


class Constants:
    """Initialisers by name, decoded when they are asked for.

    Args:
        protos: The records, as they lie in the file.
        label: Name of the file in messages.
        folder: Where data in other files lies; None forbids them.
    """

    def __init__(self, protos: Sequence[TensorProto], label: str, folder: Path | None) -> None:
        self._label = label
        self._folder = folder
        self._memory = Allowance(MAX_CONSTANT_BYTES)
        self._protos: dict[str, TensorProto] = {}
        for proto in protos:
            if not proto.name or proto.name in self._protos:
                raise self._error(proto, "name", "is empty or used twice")
            self._protos[proto.name] = proto

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._protos)

    @property
    def without_values(self) -> frozenset[str]:
        """Those of types that have no arithmetic here."""
        return frozenset(
            name
            for name, proto in self._protos.items()
            if DTYPES.get(proto.data_type) is DType.OTHER
        )

    def read(self, name: str) -> tuple[DType, AnyArray]:
        """Element type and values of an initialiser."""
        return self.decode(self._protos[name])

    def decode(self, proto: TensorProto) -> tuple[DType, AnyArray]:
        """Element type and values of a tensor record, in `dtype.numpy`.

        Raises:
            ImportModelError: The record contradicts itself or is too large.
        """
        dtype = DTYPES.get(proto.data_type)
        if dtype is None:
            raise self._error(proto, "data_type", f"{proto.data_type} is not an element type")
        shape = tuple(int(length) for length in proto.dims)
        if len(shape) > MAX_RANK or any(length < 0 for length in shape):
            raise self._error(proto, "dims", f"{list(shape[:MAX_RANK])} of {len(shape)} axes")
        if dtype is DType.OTHER:
            return dtype, np.zeros(0, np.uint8)
        wanted = byte_count(dtype, tuple(max(1, length) for length in shape))
        if not self._memory.take(max(wanted, math.prod(shape) * dtype.numpy.itemsize)):
            raise self._error(
                proto, "dims", f"{list(shape)}: the constants take over {MAX_CONSTANT_BYTES} bytes"
            )
        if proto.data_location == TensorProto.EXTERNAL:
            return dtype, self._from_bytes(proto, self._external(proto, dtype, shape), dtype, shape)
        if proto.HasField("raw_data"):
            return dtype, self._from_bytes(proto, bytes(proto.raw_data), dtype, shape)
        return dtype, self._from_numbers(proto, dtype, shape)

    @property
    def outside(self) -> tuple[str, ...]:
        """Names of those whose data lie in other files."""
        return tuple(
            name
            for name, proto in self._protos.items()
            if proto.data_location == TensorProto.EXTERNAL
        )

    def bytes_of(self, name: str) -> bytes:
        """Data of a constant that lies in another file."""
        proto = self._protos[name]
        dtype = DTYPES.get(proto.data_type, DType.OTHER)
        shape = tuple(int(length) for length in proto.dims)
        return self._external(proto, dtype, shape)

    def _error(
        self, proto: TensorProto, field: str, problem: str, *, remedy: str = DAMAGED
    ) -> ImportModelError:
        return ImportModelError(
            f"{self._label}: constant '{proto.name}', field {field}", problem, remedy=remedy
        )

    def _from_bytes(
        self, proto: TensorProto, content: bytes, dtype: DType, shape: FixedShape
    ) -> AnyArray:
        raw = np.frombuffer(content, np.uint8)
        wanted = byte_count(dtype, shape)
        if raw.size != wanted:
            raise self._error(
                proto,
                "raw_data",
                f"holds {raw.size} bytes, but {list(shape)} of {dtype.value} takes {wanted}",
            )
        if dtype in (DType.INT4, DType.UINT4, DType.BFLOAT16, DType.BOOL):
            return unpack(raw, dtype)[: math.prod(shape)].reshape(shape)
        values: AnyArray = raw.view(dtype.numpy.newbyteorder("<"))
        return values.astype(dtype.numpy, copy=False).reshape(shape)

    def _from_numbers(self, proto: TensorProto, dtype: DType, shape: FixedShape) -> AnyArray:
        """Values that stand in a field for their type."""
        field, stored = self._number_field(dtype)
        count = len(getattr(proto, field))
        per_entry = 2 if dtype in (DType.INT4, DType.UINT4) else 1
        wanted = -(-math.prod(shape) // per_entry)
        if count != wanted:
            raise self._error(
                proto, field, f"holds {count} values, but {list(shape)} takes {wanted}"
            )
        numbers: AnyArray = np.array(getattr(proto, field), stored)
        if dtype in _INT32_STORED:
            size = 1 if per_entry == 2 else 2
            patterns = numbers.astype(np.uint8 if size == 1 else np.uint16)
            return self._from_bytes(proto, patterns.tobytes(), dtype, shape)
        return numbers.astype(dtype.numpy).reshape(shape)

    @staticmethod
    def _number_field(dtype: DType) -> tuple[str, type[np.generic]]:
        match dtype:
            case DType.FLOAT32:
                return "float_data", np.float32
            case DType.FLOAT64:
                return "double_data", np.float64
            case DType.INT64:
                return "int64_data", np.int64
            case DType.UINT32 | DType.UINT64:
                return "uint64_data", np.uint64
            case _:
                return "int32_data", np.int32

    def _external(self, proto: TensorProto, dtype: DType, shape: FixedShape) -> bytes:
        """Bytes of a constant in another file of the model's folder."""
        entries = {entry.key: entry.value for entry in proto.external_data}
        location = entries.get("location", "")
        if self._folder is None:
            raise self._error(
                proto, "external_data", f"the data are in '{location}'", remedy=_ONE_FILE
            )
        try:
            offset, length = (int(entries.get(key, "0")) for key in ("offset", "length"))
        except ValueError:
            raise self._error(proto, "external_data", "offset or length is no number") from None
        wanted = byte_count(dtype, shape)
        if offset < 0 or length not in (0, wanted):
            raise self._error(
                proto,
                "external_data",
                f"{length} bytes at {offset}, but {list(shape)} of {dtype.value} takes {wanted}",
            )
        folder = self._folder.resolve()
        try:
            path = (folder / location).resolve()
            inside = bool(location) and path.is_relative_to(folder)
            if not inside:
                raise self._error(
                    proto,
                    "external_data",
                    f"'{location}' lies outside the model's folder",
                    remedy="Data has to lie beside the model: save it there.",
                )
            with path.open("rb") as file:
                file.seek(offset)
                content: bytes = file.read(wanted)
        except (OSError, ValueError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else str(problem)
            raise self._error(
                proto, "external_data", f"cannot read '{location}': {reason}", remedy=_ONE_FILE
            ) from None
        if len(content) != wanted:
            raise self._error(
                proto, "external_data", f"'{location}' ends {wanted - len(content)} bytes too early"
            )
        return content


def to_proto(name: str, dtype: DType, values: AnyArray) -> TensorProto:
    """A small constant as a record of its own, for ONNX's shape inference."""
    proto: TensorProto = TensorProto(name=name, data_type=NUMBERS[dtype], dims=list(values.shape))
    proto.raw_data = np.ascontiguousarray(values).tobytes()
    return proto
