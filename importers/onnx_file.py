# SPDX-License-Identifier: Apache-2.0
"""An .onnx file as checked records: nodes in order, attributes by type, constants of known size."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, TensorProto

from akida_backend.errors import ImportModelError, InputError
from akida_backend.graph import DType, Location
from akida_backend.importers.flatbuffer_check import DAMAGED
from akida_backend.importers.onnx_prepare import Prepared, prepare
from akida_backend.importers.onnx_tensors import DTYPES, Constants
from akida_backend.importers.protobuf_check import CostlyMessageError, count_records
from akida_backend.importers.shape_inference import FixedShape
from akida_backend.importers.tflite_file import (
    MAX_OPERATORS,
    MAX_RANK,
    MAX_TENSOR_BYTES,
    byte_count,
)

NOMINAL_BATCH: Final = 1  # stands for a batch the file leaves open, while importing

_FIXED_SIZES: Final = "Export the model with fixed input sizes; only the batch may stay open."


@dataclass(frozen=True, slots=True)
class ValueType:
    """Declared type of a value; axes without a fixed length are None."""

    dtype: DType
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True, eq=False)
class FileNode:
    """A node of the file.

    Attributes:
        location: For messages and reports; its index counts the nodes of the user's file.
        domain: Empty for ONNX's own operators.
        kind: Operator type.
        inputs: Value names, empty for absent optional ones.
        outputs: Value names, empty for those nobody wants.
        proto: The record.
        opset: Version of the operator set of the node's domain.
        not_modelled: Why it has no meaning here, where that is known already.
    """

    location: Location
    domain: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    proto: onnx.NodeProto
    opset: int
    not_modelled: str = ""

    @property
    def index(self) -> int:
        return self.location.index

    @property
    def is_standard(self) -> bool:
        return self.domain == ""

    @property
    def has_subgraph(self) -> bool:
        kinds = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
        return any(attribute.type in kinds for attribute in self.proto.attribute)

    def error(self, field: str, problem: str, *, remedy: str = DAMAGED) -> ImportModelError:
        return ImportModelError(f"{self.location}, field {field}", problem, remedy=remedy)

    def has(self, name: str) -> bool:
        return any(attribute.name == name for attribute in self.proto.attribute)

    def _attribute(self, name: str, kind: int) -> AttributeProto | None:
        attributes: Sequence[AttributeProto] = self.proto.attribute
        for attribute in attributes:
            if attribute.name == name:
                if attribute.type != kind:
                    raise self.error(name, f"an attribute of type {attribute.type}")
                return attribute
        return None

    def integer(self, name: str, default: int) -> int:
        attribute = self._attribute(name, AttributeProto.INT)
        return default if attribute is None else int(attribute.i)

    def flag(self, name: str, default: int = 0) -> bool:
        return self.integer(name, default) != 0

    def real(self, name: str, default: float) -> float:
        attribute = self._attribute(name, AttributeProto.FLOAT)
        value = default if attribute is None else float(attribute.f)
        if math.isnan(value):
            raise self.error(name, "is not a number")
        return value

    def text(self, name: str, default: str) -> str:
        attribute = self._attribute(name, AttributeProto.STRING)
        return default if attribute is None else bytes(attribute.s).decode("utf-8", "replace")

    def integers(self, name: str, *, most: int = 2 * MAX_RANK) -> tuple[int, ...] | None:
        """A list attribute; None where the node has none."""
        attribute = self._attribute(name, AttributeProto.INTS)
        if attribute is None:
            return None
        if len(attribute.ints) > most:
            raise self.error(name, f"{len(attribute.ints)} values, more than {most}")
        return tuple(int(value) for value in attribute.ints)

    def reals(self, name: str) -> tuple[float, ...] | None:
        attribute = self._attribute(name, AttributeProto.FLOATS)
        return None if attribute is None else tuple(float(value) for value in attribute.floats)

    def tensor(self, name: str) -> TensorProto | None:
        attribute = self._attribute(name, AttributeProto.TENSOR)
        return None if attribute is None else attribute.t


@dataclass(frozen=True, slots=True, eq=False)
class OnnxFile:
    """The main graph of an .onnx file.

    Attributes:
        label: Path or name for messages.
        nodes: Topological order; function calls are expanded.
        inputs: Values the caller feeds, with their types.
        outputs: Values returned, in order.
        declared: Types the file states for values, by name.
        constants: Initialisers.
        opsets: Version by domain.
        batch: Length of axis 0 of the inputs while importing.
        model: The parsed file, function calls expanded and old operator sets converted.
        originals: Locations of the nodes in the user's file.
    """

    label: str
    nodes: tuple[FileNode, ...]
    inputs: Mapping[str, ValueType]
    outputs: tuple[str, ...]
    declared: Mapping[str, ValueType]
    constants: Constants
    opsets: Mapping[str, int]
    batch: int
    model: onnx.ModelProto
    originals: tuple[Location, ...]

    @property
    def strings(self) -> frozenset[str]:
        """Constants without values here: strings, complex numbers, small floats."""
        return self.constants.without_values


def parse(content: bytes, label: str) -> onnx.ModelProto:
    """The message in a file, once it is known to be affordable.

    Raises:
        ImportModelError: The bytes are not an ONNX model, or hold too many records.
    """
    try:
        count_records(content, onnx.ModelProto.DESCRIPTOR)
        model: onnx.ModelProto = onnx.ModelProto.FromString(content)
    except CostlyMessageError as problem:
        raise ImportModelError(label, f"not a sound ONNX file: {problem}", remedy=DAMAGED) from None
    except (DecodeError, UnicodeDecodeError, ValueError) as problem:
        raise ImportModelError(label, f"not an ONNX file: {problem}", remedy=DAMAGED) from None
    if not model.HasField("graph"):
        raise ImportModelError(f"{label}, field graph", "the file holds no graph", remedy=DAMAGED)
    return model


def with_lengths(content: bytes, label: str, lengths: Mapping[str, int]) -> bytes:
    """The same model with numbers for the axes of its inputs that have these names.

    Raises:
        ImportModelError: The bytes are not an ONNX model.
        InputError: A name is that of no axis, or a length is below one.
    """
    model = parse(content, label)
    open_axes = [
        dim
        for info in model.graph.input
        for dim in info.type.tensor_type.shape.dim
        if dim.HasField("dim_param")
    ]
    names = sorted({dim.dim_param for dim in open_axes})
    if not lengths.keys() <= set(names) or not all(1 <= n < 2**31 for n in lengths.values()):
        raise InputError(
            f"{label}: dimensions {dict(lengths)}\n"
            + (
                f"  give a length of at least 1 for any of {names}"
                if names
                else "  its inputs leave no named axis open; give none"
            )
        )
    for dim in open_axes:
        if dim.dim_param in lengths:
            dim.dim_value = lengths[dim.dim_param]
    return bytes(model.SerializeToString())


def self_contained(content: bytes, file: OnnxFile) -> bytes:
    """The same model with the constants in it that lie in other files."""
    if not file.constants.outside:
        return content
    model = onnx.ModelProto.FromString(content)
    for proto in model.graph.initializer:
        if proto.data_location == TensorProto.EXTERNAL:
            proto.raw_data = file.constants.bytes_of(proto.name)
            proto.data_location = TensorProto.DEFAULT
            del proto.external_data[:]
    return bytes(model.SerializeToString())


def read_file(content: bytes, label: str, *, folder: Path | None) -> OnnxFile:
    """Read and check an .onnx file.

    Args:
        content: The whole file.
        label: Name of the file in messages.
        folder: Where data in other files lies; None forbids them.

    Raises:
        ImportModelError: Anything is out of range, inconsistent, or of a kind no Graph holds.
    """
    model = parse(content, label)
    return _Reader(prepare(model, label), label, folder).read()


class _Reader:
    def __init__(self, prepared: Prepared, label: str, folder: Path | None) -> None:
        self._model = prepared.model
        self._prepared = prepared
        self._label = label
        self._folder = folder

    def read(self) -> OnnxFile:
        graph = self._model.graph
        if graph.sparse_initializer:
            raise ImportModelError(
                f"{self._label}, field sparse_initializer",
                "sparse constants are not read",
                remedy="Export without sparsity.",
            )
        constants = Constants(graph.initializer, self._label, self._folder)
        inputs = self._inputs(constants)
        nodes = self._nodes({*inputs, *constants.names})
        outputs = tuple(output.name for output in graph.output)
        self._check_outputs(nodes, {*inputs, *constants.names}, outputs)
        declared: dict[str, ValueType] = {}
        for info in (*graph.value_info, *graph.output):
            found = self._value_type(info)
            if found is not None:
                declared[info.name] = found
        fixed, batch = self._fixed(inputs)
        return OnnxFile(
            label=self._label,
            nodes=nodes,
            inputs=fixed,
            outputs=outputs,
            declared=declared,
            constants=constants,
            opsets=self._prepared.opsets,
            batch=batch,
            model=self._model,
            originals=self._prepared.originals,
        )

    def _inputs(self, constants: Constants) -> dict[str, ValueType]:
        """Inputs without a default value: those with one are taken as the constants they are."""
        inputs: dict[str, ValueType] = {}
        for info in self._model.graph.input:
            if info.name in constants.names:
                continue
            found = self._value_type(info)
            where = f"{self._label}: input '{info.name}'"
            if not info.name or info.name in inputs:
                raise ImportModelError(f"{where}, field name", "is used twice", remedy=DAMAGED)
            if found is None:
                raise ImportModelError(
                    f"{where}, field type",
                    "is not a tensor",
                    remedy="Only tensors can be fed: export the model with tensor inputs.",
                )
            inputs[info.name] = found
        return inputs

    def _value_type(self, info: onnx.ValueInfoProto) -> ValueType | None:
        """Declared type; None for what is no tensor, or where nothing is declared."""
        if info.type.WhichOneof("value") != "tensor_type":
            return None
        kind = info.type.tensor_type
        dtype = DTYPES.get(kind.elem_type)
        if dtype is None:
            raise ImportModelError(
                f"{self._label}: value '{info.name}', field elem_type",
                f"{kind.elem_type} is not an element type",
                remedy=DAMAGED,
            )
        if not kind.HasField("shape"):
            return ValueType(dtype, None)
        if len(kind.shape.dim) > MAX_RANK:
            raise ImportModelError(
                f"{self._label}: value '{info.name}', field shape",
                f"{len(kind.shape.dim)} axes, more than {MAX_RANK}",
                remedy=DAMAGED,
            )
        lengths = tuple(
            int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value >= 0 else None
            for dim in kind.shape.dim
        )
        return ValueType(dtype, lengths)

    def _fixed(self, inputs: Mapping[str, ValueType]) -> tuple[dict[str, ValueType], int]:
        """The inputs with a number on every axis, and the batch."""
        batches = [v.shape[0] for v in inputs.values() if v.shape]
        numbers = {n for n in batches if n is not None}
        batch = NOMINAL_BATCH if None in batches or len(numbers) != 1 else numbers.pop()
        fixed: dict[str, ValueType] = {}
        for name, value in inputs.items():
            where = f"{self._label}: input '{name}', field shape"
            if value.shape is None:
                raise ImportModelError(where, "is missing", remedy=_FIXED_SIZES)
            shape = tuple(
                batch if axis == 0 and length is None else length
                for axis, length in enumerate(value.shape)
            )
            known = tuple(length for length in shape if length is not None)
            if len(known) != len(shape):
                axis = shape.index(None)
                raise ImportModelError(
                    where,
                    f"axis {axis} of {self._described(name)} has no fixed length",
                    remedy=self._lengths_wanted(inputs),
                )
            self._check_size(where, value.dtype, known)
            fixed[name] = ValueType(value.dtype, known)
        return fixed, batch

    def _lengths_wanted(self, inputs: Mapping[str, ValueType]) -> str:
        """How to give lengths to the open axes, by the names they have in the file."""
        open_axes = [
            dim.dim_param
            for info in self._model.graph.input
            if info.name in inputs
            for axis, dim in enumerate(info.type.tensor_type.shape.dim)
            if axis and not dim.HasField("dim_value")
        ]
        if not open_axes or not all(open_axes):
            return _FIXED_SIZES
        names = list(dict.fromkeys(open_axes))
        in_python = ", ".join(f"{name!r}: LENGTH" for name in names)
        return (
            f"Give lengths to {', '.join(map(repr, names))}, in place of LENGTH: "
            + " ".join(f"--dimension {shlex.quote(f'{name}=LENGTH')}" for name in names)
            + f" on the command line, load(path, dimensions={{{in_python}}}) in Python, "
            "in an onnxruntime session "
            f"sess_options.add_free_dimension_override_by_name({names[0]!r}, LENGTH). "
            "Only the batch may stay open."
        )

    def _described(self, name: str) -> str:
        """The declared shape of an input with the names of its open axes."""
        (info,) = [info for info in self._model.graph.input if info.name == name]
        lengths = [
            str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?"
            for dim in info.type.tensor_type.shape.dim
        ]
        return f"[{', '.join(lengths)}]"

    def _check_size(self, where: str, dtype: DType, shape: FixedShape) -> None:
        if 0 in shape:
            raise ImportModelError(where, f"{list(shape)} holds no value", remedy=DAMAGED)
        if byte_count(dtype, shape) > MAX_TENSOR_BYTES:
            raise ImportModelError(
                where,
                f"{list(shape)} of {dtype.value} takes more than {MAX_TENSOR_BYTES} bytes",
                remedy=DAMAGED,
            )

    def _nodes(self, known: set[str]) -> tuple[FileNode, ...]:
        protos = self._model.graph.node
        if len(protos) > MAX_OPERATORS:
            raise ImportModelError(
                f"{self._label}, field node",
                f"{len(protos)} nodes, more than {MAX_OPERATORS}",
                remedy=DAMAGED,
            )
        known = set(known)
        nodes: list[FileNode] = []
        for proto, location in zip(protos, self._prepared.locations, strict=True):
            domain = "" if proto.domain == "ai.onnx" else proto.domain
            node = FileNode(
                location=location,
                domain=domain,
                kind=proto.op_type,
                inputs=tuple(proto.input),
                outputs=tuple(proto.output),
                proto=proto,
                opset=self._prepared.opsets.get(domain, 1),
                not_modelled=self._prepared.not_modelled.get("".join(proto.output[:1]), ""),
            )
            for name in node.inputs:
                if name and name not in known:
                    raise node.error("input", f"'{name}' is read before it is computed")
            for name in node.outputs:
                if name and name in known:
                    raise node.error("output", f"'{name}' already has a value")
                known.add(name)
            if not any(node.outputs):
                raise node.error("output", "the node writes nothing")
            nodes.append(node)
        return tuple(nodes)

    def _check_outputs(
        self, nodes: Sequence[FileNode], given: set[str], outputs: Sequence[str]
    ) -> None:
        computed = given.union(*(node.outputs for node in nodes))
        if not outputs:
            raise ImportModelError(f"{self._label}, field output", "is empty", remedy=DAMAGED)
        times = Counter(outputs)
        for name in outputs:
            if not name or name not in computed or times[name] > 1:
                raise ImportModelError(
                    f"{self._label}: output '{name}', field name",
                    "is never computed" if name not in computed else "is used twice",
                    remedy=DAMAGED,
                )
