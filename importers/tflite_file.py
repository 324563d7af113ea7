# SPDX-License-Identifier: Apache-2.0
"""A .tflite file as checked records: every index, shape, size and scale is in range."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tflite
from numpy.typing import NDArray

from akida_backend.errors import ImportModelError
from akida_backend.graph import AnyArray, DType, Location, Quantization, Tensor
from akida_backend.importers.flatbuffer_check import Budget, Table

IDENTIFIER: Final = b"TFL3"

MAX_TENSORS: Final = 2**14
MAX_OPERATORS: Final = 2**14
MAX_RANK: Final = 16
# One activation of one sample; the largest maps of edge networks have a few megabytes.
MAX_TENSOR_BYTES: Final = 2**30
# All activations of one sample together.
MAX_ALL_TENSOR_BYTES: Final = 2**34

_TYPES: Final[Mapping[int, DType]] = {
    0: DType.FLOAT32,
    1: DType.FLOAT16,
    2: DType.INT32,
    3: DType.UINT8,
    4: DType.INT64,
    5: DType.OTHER,  # STRING
    6: DType.BOOL,
    7: DType.INT16,
    8: DType.OTHER,  # COMPLEX64
    9: DType.INT8,
    10: DType.FLOAT64,
    11: DType.OTHER,  # COMPLEX128
    12: DType.UINT64,
    13: DType.OTHER,  # RESOURCE
    14: DType.OTHER,  # VARIANT
    15: DType.UINT32,
    16: DType.UINT16,
    17: DType.INT4,
    18: DType.BFLOAT16,
    19: DType.OTHER,  # INT2
    20: DType.UINT4,
    21: DType.OTHER,  # FLOAT8_E4M3FN
    22: DType.OTHER,  # FLOAT8_E5M2
}

# Types whose integers may stand for reals.
_QUANTIZABLE: Final = frozenset(
    {
        DType.INT4,
        DType.UINT4,
        DType.INT8,
        DType.UINT8,
        DType.INT16,
        DType.UINT16,
        DType.INT32,
        DType.INT64,
    }
)

# An options table of which every field is left out: offset to the vtable, then vtable and table.
_EMPTY_TABLE: Final = bytes([4, 0, 4, 0, 4, 0, 0, 0])
_EMPTY_TABLE_POSITION: Final = 4

# Places in the list of offsets of OperatorCode and Tensor.
_CUSTOM_CODE_SLOT: Final = 6
_BUILTIN_CODE_SLOT: Final = 10
_NAME_SLOT: Final = 10

_OPTION_NAMES: Final[Mapping[int, str]] = {
    number: name for name, number in vars(tflite.BuiltinOptions).items() if isinstance(number, int)
}


@dataclass(frozen=True, slots=True)
class FileTensor:
    """A tensor of the file.

    Attributes:
        tensor: Under its unique name, with nominal axis lengths.
        unknown_axes: Axes whose length the file leaves open.
        is_variable: Keeps its value between calls.
    """

    tensor: Tensor
    unknown_axes: tuple[int, ...]
    is_variable: bool


@dataclass(frozen=True, slots=True)
class FileOperator:
    """An operator of the file.

    Attributes:
        location: For messages and reports.
        code: Number of the builtin operator, None for a custom one.
        inputs: Tensors by position, None for an absent optional one and for working memory
            of a custom operator, which nobody fills.
        outputs: Tensors by position, at least one.
        table: The file's record.
    """

    location: Location
    code: int | None
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    table: Table

    def options(self, reader: Any) -> Table:  # noqa: ANN401
        """The options as `reader`, a generated class; without options, the schema's defaults."""
        wanted: str = reader.__name__
        kind = self.table.integer("BuiltinOptionsType")
        where = f"{self.table.where}, {wanted}"
        if kind == tflite.BuiltinOptions.NONE:
            options = reader()
            options.Init(_EMPTY_TABLE, _EMPTY_TABLE_POSITION)
            return Table(options, where, self.table.budget)
        if kind != getattr(tflite.BuiltinOptions, wanted):
            raise self.table.error(
                "BuiltinOptionsType", f"{_OPTION_NAMES.get(kind, kind)} in place of {wanted}"
            )
        return self.table.union("BuiltinOptions", reader(), where)


@dataclass(frozen=True, slots=True)
class TfliteFile:
    """Subgraph 0 of a .tflite file."""

    tensors: tuple[FileTensor, ...]
    operators: tuple[FileOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    budget: Budget


def read_file(data: bytes, label: str) -> TfliteFile:
    """Read and check the sections of a .tflite file.

    Args:
        data: The whole file.
        label: Name of the file in messages.

    Raises:
        ImportModelError: Anything is out of range, inconsistent, or of a kind no Graph holds.
    """
    if data[4:8] != IDENTIFIER:
        raise ImportModelError(
            label,
            f"a TFLite file has the identifier TFL3 at byte 4, this one {bytes(data[4:8])!r}",
            remedy="Give a .tflite file.",
        )
    return _Reader(data, label).read()


class _Reader:
    def __init__(self, data: bytes, label: str) -> None:
        self._data = data
        self._label = label
        self._budget = Budget(len(data))
        # An accessor at the root offset; wherever that points, its fields are read with checks.
        model = tflite.Model()
        model.Init(data, int.from_bytes(data[:4], "little"))
        self._model = Table(model, label, self._budget)
        self._names: dict[str, int] = {}
        self._unpacked: dict[tuple[int, int], AnyArray] = {}

    def read(self) -> TfliteFile:
        version = self._model.integer("Version")
        if version != 3:
            raise self._model.error("Version", f"schema version {version}, this importer reads 3")
        self._buffer_count = self._model.length("Buffers")
        subgraph = self._subgraph()
        tensor_count = subgraph.count("Tensors", MAX_TENSORS)
        tensors = tuple(self._tensor(subgraph, index) for index in range(tensor_count))
        codes = self._operator_codes()
        operators = tuple(
            self._operator(subgraph, index, codes, tensors)
            for index in range(subgraph.count("Operators", MAX_OPERATORS))
        )
        inputs = self._indices(subgraph, "Inputs", tensor_count)
        outputs = self._indices(subgraph, "Outputs", tensor_count)
        computed = {index for operator in operators for index in operator.outputs} | set(inputs)
        tensors = tuple(
            entry if index in computed else _as_empty_constant(entry)
            for index, entry in enumerate(tensors)
        )
        filled = computed | {
            i for i, e in enumerate(tensors) if e.tensor.is_constant or e.is_variable
        }
        operators = tuple(_without_scratch(operator, filled) for operator in operators)
        self._check_order(subgraph, tensors, operators, inputs, outputs)
        return TfliteFile(tensors, operators, inputs, outputs, self._budget)

    def _subgraph(self) -> Table:
        """Subgraph 0, which is what an interpreter runs."""
        if self._model.length("Subgraphs") == 0:
            raise self._model.error("Subgraphs", "the file holds no subgraph")
        count = self._model.count("SignatureDefs", MAX_OPERATORS)
        targets = set()
        for index in range(count):
            signature = self._model.child(
                "SignatureDefs", f"{self._label}: signature {index}", index
            )
            targets.add(signature.integer("SubgraphIndex"))
        if targets - {0}:
            raise self._model.error(
                "SignatureDefs",
                f"the signatures start at subgraphs {sorted(targets)}; only subgraph 0 is read",
                remedy="Convert the model with one signature.",
            )
        return self._model.child("Subgraphs", f"{self._label}: subgraph 0", 0)

    def _operator_codes(self) -> tuple[tuple[int | None, str], ...]:
        """Number (None for custom operators) and name of each operator kind in use."""
        return tuple(
            self._operator_code(
                self._model.child("OperatorCodes", f"{self._label}: operator code {index}", index)
            )
            for index in range(self._model.count("OperatorCodes", MAX_OPERATORS))
        )

    def _operator_code(self, code: Table) -> tuple[int | None, str]:
        # The older field has 8 bits and holds 127 where the number does not fit; newer writers
        # may leave it out. The accessor BuiltinCode of the package misses numbers below 127.
        number = max(
            code.integer("DeprecatedBuiltinCode"), code.int32_at(_BUILTIN_CODE_SLOT, "BuiltinCode")
        )
        if number == tflite.BuiltinOperator.CUSTOM:
            return None, code.text_at(_CUSTOM_CODE_SLOT, "CustomCode") or "CUSTOM"
        return number, tflite.utils.BUILTIN_OPCODE2NAME.get(number, f"BUILTIN_{number}")

    def _indices(self, table: Table, field: str, tensor_count: int) -> tuple[int, ...]:
        indices = table.integers(field)
        for index in indices:
            if not 0 <= index < tensor_count:
                raise table.error(field, f"tensor {index}, but there are {tensor_count}")
        return indices

    # Tensors

    def _tensor(self, subgraph: Table, index: int) -> FileTensor:
        table = subgraph.child("Tensors", f"{self._label}: tensor {index}", index)
        file_name = table.text_at(_NAME_SLOT, "Name")
        table = Table(table.reader, f"{table.where} '{file_name}'", self._budget)
        type_number = table.integer("Type")
        dtype = _TYPES.get(type_number)
        if dtype is None:
            raise table.error("Type", f"{type_number} is not a tensor type")
        if table.has("Sparsity"):
            raise table.error(
                "Sparsity", "sparse tensors are not read", remedy="Convert without sparsity."
            )
        shape, unknown_axes = self._shape(table, dtype)
        data = self._constant(table, dtype, shape)
        is_variable = table.flag("IsVariable")
        tensor = Tensor(
            self._unique_name(file_name or f"tensor_{index}"),
            dtype,
            shape,
            self._quantization(table, dtype, shape),
            data,
        )
        return FileTensor(tensor, () if data is not None else unknown_axes, is_variable)

    def _unique_name(self, wanted: str) -> str:
        """`wanted`, or `wanted` with the first free number behind it."""
        name, number = wanted, self._names.get(wanted, 0)
        while name in self._names:
            number += 1
            name = f"{wanted}.{number}"
        self._names[wanted] = number
        self._names.setdefault(name, 0)
        return name

    def _shape(self, table: Table, dtype: DType) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Nominal axis lengths, with 1 for an open one, and the open axes."""
        shape = table.integers("Shape")
        signature = table.integers("ShapeSignature") or shape
        if len(shape) > MAX_RANK:
            raise table.error("Shape", f"{len(shape)} axes, more than {MAX_RANK}")
        if len(signature) != len(shape):
            raise table.error(
                "ShapeSignature", f"{len(signature)} axes, but the shape has {len(shape)}"
            )
        for field, lengths in (("Shape", shape), ("ShapeSignature", signature)):
            if any(length < -1 for length in lengths):
                raise table.error(field, f"{list(lengths)} has a negative length")
        open_axes = tuple(
            axis for axis, length in enumerate(zip(shape, signature, strict=True)) if -1 in length
        )
        nominal = tuple(1 if length == -1 else length for length in shape)
        # A length of zero does not excuse the others: numpy multiplies them all.
        if byte_count(dtype, tuple(max(n, 1) for n in nominal)) > MAX_TENSOR_BYTES:
            raise table.error(
                "Shape",
                f"{list(nominal)} of {dtype.value} takes more than {MAX_TENSOR_BYTES} bytes",
            )
        return nominal, open_axes

    def _buffer(self, table: Table) -> tuple[int, NDArray[np.uint8]]:
        """Index and bytes of a tensor's buffer, inside or behind the FlatBuffer."""
        index = table.integer("Buffer")
        if index == 0 and self._buffer_count == 0:  # the default, which stands for no data
            return 0, np.zeros(0, np.uint8)
        if not 0 <= index < self._buffer_count:
            raise table.error("Buffer", f"buffer {index}, but there are {self._buffer_count}")
        buffer = self._model.child("Buffers", f"{self._label}: buffer {index}", index)
        # Offset 1 is what writers put before they know the place.
        offset, size = buffer.integer("Offset"), buffer.integer("Size")
        if offset > 1:
            if offset + size > len(self._data):
                raise buffer.error(
                    "Offset",
                    f"{size} bytes at {offset}, but the file has {len(self._data)}",
                    remedy="Data in another file is not read: give the model as one file.",
                )
            return index, np.frombuffer(self._data, np.uint8, size, offset)
        return index, buffer.array("Data").view(np.uint8)

    def _constant(self, table: Table, dtype: DType, shape: tuple[int, ...]) -> AnyArray | None:
        """The constant in `dtype.numpy`; raw bytes for types without one; None without data."""
        index, raw = self._buffer(table)
        if raw.size == 0:
            return None
        if dtype is DType.OTHER:
            return raw
        wanted = byte_count(dtype, shape)
        if raw.size != wanted:
            raise table.error(
                "Buffer",
                f"buffer {index} holds {raw.size} bytes, "
                f"but {list(shape)} of {dtype.value} takes {wanted}",
            )
        return self._decode(table, index, raw, dtype, shape)

    def _decode(
        self,
        table: Table,
        buffer: int,
        raw: NDArray[np.uint8],
        dtype: DType,
        shape: tuple[int, ...],
    ) -> AnyArray:
        if dtype in (DType.INT4, DType.UINT4, DType.BFLOAT16, DType.BOOL):
            key = (buffer, table.integer("Type"))
            if key not in self._unpacked:
                if not self._budget.memory.take(4 * raw.size):
                    raise table.error("Buffer", "unpacking its data takes too much memory")
                self._unpacked[key] = unpack(raw, dtype)
            return self._unpacked[key][: math.prod(shape)].reshape(shape)
        values: AnyArray = raw.view(dtype.numpy.newbyteorder("<"))
        return values.astype(dtype.numpy, copy=False).reshape(shape)

    def _quantization(
        self, table: Table, dtype: DType, shape: tuple[int, ...]
    ) -> Quantization | None:
        """Scale and zero point; None for reals, for types without, and where the file has none."""
        parameters = table.optional_child("Quantization")
        if parameters is None or dtype not in _QUANTIZABLE:
            return None
        count = parameters.length("Scale")
        if count == 0 or parameters.integer("DetailsType") != tflite.QuantizationDetails.NONE:
            return None
        scale = parameters.array("Scale").astype(np.float32)
        with np.errstate(invalid="ignore"):  # a damaged scale may be a signalling NaN
            all_zero = not scale.any()
        if all_zero:  # how old converters write "not quantized"
            return None
        zero_point = parameters.array("ZeroPoint").astype(np.int64)
        if zero_point.size == 0:
            zero_point = np.zeros(count, np.int64)
        elif zero_point.size == 1:
            zero_point = np.repeat(zero_point, count)
        elif zero_point.size != count:
            raise parameters.error(
                "ZeroPoint", f"{zero_point.size} zero points beside {count} scales"
            )
        self._check_values(parameters, scale, zero_point, dtype)
        if count == 1:
            return Quantization(scale, zero_point)
        # Old converters give the bias of a depthwise convolution the axis of its weights.
        axis = parameters.integer("QuantizedDimension") if len(shape) > 1 else 0
        if not 0 <= axis < len(shape):
            raise parameters.error(
                "QuantizedDimension", f"axis {axis} of a tensor with {len(shape)} axes"
            )
        if shape[axis] != count:
            raise parameters.error(
                "Scale", f"{count} scales, but axis {axis} of {list(shape)} has {shape[axis]}"
            )
        return Quantization(scale, zero_point, axis)

    def _check_values(
        self,
        parameters: Table,
        scale: NDArray[np.float32],
        zero_point: NDArray[np.int64],
        dtype: DType,
    ) -> None:
        with np.errstate(invalid="ignore"):
            good = np.isfinite(scale) & (scale > 0)
        if not good.all():
            raise parameters.error(
                "Scale", f"{float(scale[~good][0])} is not a finite number above zero"
            )
        low, high = (-(2**63), 2**63 - 1) if dtype is DType.INT64 else dtype.code_range
        outside = (zero_point < low) | (zero_point > high)
        if outside.any():
            raise parameters.error(
                "ZeroPoint", f"{int(zero_point[outside][0])} lies outside {dtype.value}"
            )

    # Operators

    def _operator(
        self,
        subgraph: Table,
        index: int,
        codes: tuple[tuple[int | None, str], ...],
        tensors: tuple[FileTensor, ...],
    ) -> FileOperator:
        where = f"{self._label}: op {index}"
        table = subgraph.child("Operators", where, index)
        position = table.integer("OpcodeIndex")
        if not 0 <= position < len(codes):
            raise table.error("OpcodeIndex", f"{position}, but there are {len(codes)} codes")
        code, kind = codes[position]
        table = Table(table.reader, f"{where} {kind}", self._budget)
        outputs = self._indices(table, "Outputs", len(tensors))
        if not outputs:
            raise table.error("Outputs", "an operator without an output")
        location = Location(self._label, index, kind, tensors[outputs[0]].tensor.name)
        table = Table(table.reader, str(location), self._budget)
        inputs = tuple(None if i == -1 else i for i in table.integers("Inputs"))
        for tensor in inputs:
            if tensor is not None and not 0 <= tensor < len(tensors):
                raise table.error("Inputs", f"tensor {tensor}, but there are {len(tensors)}")
        return FileOperator(location, code, inputs, outputs, table)

    def _check_order(
        self,
        subgraph: Table,
        tensors: tuple[FileTensor, ...],
        operators: tuple[FileOperator, ...],
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
    ) -> None:
        """Every tensor gets its value once, and before it is read (so there is no cycle)."""
        filled = {i for i, e in enumerate(tensors) if e.tensor.is_constant or e.is_variable}
        for index in inputs:
            if index in filled:
                raise subgraph.error(
                    "Inputs", f"tensor {index} is a constant, a variable, or listed twice"
                )
            filled.add(index)
        for operator in operators:
            for tensor in operator.inputs:
                if tensor is not None and tensor not in filled:
                    name = tensors[tensor].tensor.name
                    raise operator.table.error(
                        "Inputs", f"tensor {tensor} '{name}' is read before any operator writes it"
                    )
            for tensor in operator.outputs:
                if tensor in filled:
                    name = tensors[tensor].tensor.name
                    raise operator.table.error(
                        "Outputs", f"tensor {tensor} '{name}' already has a value"
                    )
                filled.add(tensor)
        for index in outputs:
            if index not in filled or tensors[index].is_variable:
                raise subgraph.error("Outputs", f"tensor {index} is never computed")


def _without_scratch(operator: FileOperator, filled: set[int]) -> FileOperator:
    if operator.code is not None:
        return operator
    inputs = tuple(index if index in filled else None for index in operator.inputs)
    return dataclasses.replace(operator, inputs=inputs)


def _as_empty_constant(entry: FileTensor) -> FileTensor:
    """A tensor without values has no buffer, and yet is a constant where nothing computes it."""
    tensor = entry.tensor
    if tensor.is_constant or 0 not in tensor.shape:
        return entry
    shape = tuple(length for length in tensor.shape if length is not None)
    empty = dataclasses.replace(tensor, data=np.zeros(shape, tensor.dtype.numpy))
    return dataclasses.replace(entry, tensor=empty, unknown_axes=())


def byte_count(dtype: DType, shape: tuple[int, ...]) -> int:
    """Bytes of the values in the file; one a value for types without a fixed size."""
    count = math.prod(shape)
    match dtype:
        case DType.INT4 | DType.UINT4:
            return (count + 1) // 2
        case DType.BFLOAT16:
            return 2 * count
        case DType.OTHER:
            return count
        case _:
            return count * dtype.numpy.itemsize


def unpack(raw: NDArray[np.uint8], dtype: DType) -> AnyArray:
    """Values of types that numpy has no form for; a filler may follow 4-bit ones."""
    if dtype is DType.BFLOAT16:  # the upper half of a float32
        halves: NDArray[np.uint16] = raw.view("<u2")
        return (halves.astype(np.uint32) << 16).view(np.float32)
    if dtype is DType.BOOL:
        truths: NDArray[np.bool_] = raw != 0
        return truths
    nibbles = np.empty(2 * raw.size, np.uint8)  # the low half of a byte comes first
    nibbles[0::2] = raw & 15
    nibbles[1::2] = raw >> 4
    if dtype is DType.UINT4:
        return nibbles
    return (nibbles ^ 8).view(np.int8) - np.int8(8)
