# SPDX-License-Identifier: Apache-2.0
"""Values of an .onnx file beside the tensors of the Graph that hold them, in whatever layout.

ONNX keeps images as NCHW, the Graph as NHWC. A value is known by its ONNX name and its shape in
the file; each tensor that holds it is filed under its layout, the order of the file's axes in
that tensor. Transposes of the file only rename layouts. A Transpose operation appears where
somebody needs a layout that no tensor has, and never twice for the same one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.errors import ImportModelError
from akida_backend.graph import (
    AnyArray,
    Concatenation,
    Dequantize,
    DType,
    Gather,
    Location,
    MaxPool2D,
    Opaque,
    Operation,
    Pad,
    Quantization,
    Reshape,
    ResizeNearest,
    Split,
    StridedSlice,
    Tensor,
    Transpose,
)
from akida_backend.importers.flatbuffer_check import DAMAGED, Allowance
from akida_backend.importers.shape_inference import (
    FixedShape,
    InconsistentShapesError,
    output_shapes,
)
from akida_backend.importers.tflite_file import MAX_TENSOR_BYTES, byte_count
from akida_backend.importers.type_rules import type_problem

Layout = tuple[int, ...]

_MOVES: Final = (
    Reshape,
    Transpose,
    MaxPool2D,
    StridedSlice,
    Split,
    Concatenation,
    ResizeNearest,
    Pad,
)

CHANNELS_LAST: Final = (0, 2, 3, 1)
_LAYOUT_NAMES: Final[Mapping[Layout, str]] = {CHANNELS_LAST: "nhwc", (0, 2, 1): "nwc"}


class NotModelledError(Exception):
    """The node is sound, but says something no operation of the Graph can say."""


def file_order(rank: int) -> Layout:
    return tuple(range(rank))


@dataclass(slots=True, eq=False)
class Value:
    """A value of the file.

    Attributes:
        name: In the file.
        dtype: In the file.
        shape: In the file, with the nominal batch.
        data: A constant, in the file's order of axes.
        other_batch: The constant at another batch size, where it depends on the batch.
        quantization: Of stored integers; its axis counts the file's axes.
        codes: The integers that this real value is the DequantizeLinear of.
        pending: Nodes of the file that no operation stands for yet, such as that DequantizeLinear.
        forms: Tensor that holds the value, by layout.
        names: What the file calls the same value in other orders of axes, by layout.
        shuffled: Tensor whose last axis is in another order, and that order: entry i of the
            tensor is entry ``order[i]`` of the value.
    """

    name: str
    dtype: DType
    shape: FixedShape
    data: AnyArray | None = None
    other_batch: AnyArray | None = None
    quantization: Quantization | None = None
    codes: Value | None = None
    pending: tuple[int, ...] = ()
    forms: dict[Layout, str] = field(default_factory=dict)
    names: Mapping[Layout, str] = field(default_factory=dict)
    shuffled: tuple[str, NDArray[np.int64]] | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def tensors(self) -> tuple[str, ...]:
        """All that hold the value."""
        shuffled = () if self.shuffled is None else (self.shuffled[0],)
        return (*self.forms.values(), *shuffled)

    @property
    def stored(self) -> Value:
        """The integers a real value stands for, else the value itself."""
        return self if self.codes is None else self.codes

    @property
    def is_constant(self) -> bool:
        return self.stored.data is not None

    @property
    def layout(self) -> Layout:
        """The layout that needs no conversion."""
        return next(iter(self.stored.forms), file_order(self.rank))

    def pending_nodes(self) -> tuple[int, ...]:
        return self.pending if self.codes is None else (*self.pending, *self.codes.pending)


@dataclass(frozen=True, slots=True)
class Target:
    """A result to be written: its name in the file, type and scale."""

    name: str
    dtype: DType
    quantization: Quantization | None


class Builder:
    """Operations and tensors as they become known.

    Args:
        label: Name of the file in messages.
        outputs: Names of the graph's outputs, kept for tensors in the file's layout.
        reserved: Every name of the file, which no tensor made here may take.
        locations: Of the file's nodes, by index.
        memory: Bytes of constants that may be computed or put into another layout.
    """

    def __init__(
        self,
        label: str,
        outputs: Iterable[str],
        reserved: Iterable[str],
        locations: Sequence[Location],
        memory: Allowance,
    ) -> None:
        self.label = label
        self.values: dict[str, Value] = {}
        self.tensors: dict[str, Tensor] = {}
        self.operations: list[Operation] = []
        self._outputs = frozenset(outputs)
        self._reserved = frozenset(reserved)
        self._locations = locations
        self._constants: dict[tuple[str, str, bytes], str] = {}
        self.memory = memory
        self._taken: set[int] = set()
        self._moves: dict[str, list[Operation]] = {}
        self._holders: dict[str, list[Value]] = {}
        self._undo: list[tuple[dict[object, object], object] | tuple[set[object], object]] = []

    # Going back

    def mark(self) -> tuple[int, int]:
        return len(self.operations), len(self._undo)

    def rollback(self, mark: tuple[int, int]) -> None:
        """Forget everything made since `mark`."""
        operations, steps = mark
        del self.operations[operations:]
        while len(self._undo) > steps:
            members, key = self._undo.pop()
            if isinstance(members, dict):
                members.pop(key, None)
            else:
                members.discard(key)

    def _file(self, members: dict, key: object, entry: object) -> None:  # type: ignore[type-arg]
        if key not in members:
            self._undo.append((members, key))
        members[key] = entry

    # Names and shapes

    def unused_name(self, wanted: str) -> str:
        name, number = wanted, 0
        while name in self.tensors or name in self._reserved:
            number += 1
            name = f"{wanted}.{number}"
        return name

    def _tensor_name(self, value: Value, layout: Layout) -> str:
        """The value's own name for its first tensor; graph outputs keep theirs for file order."""
        in_file_order = layout == file_order(len(layout))
        named = value.names.get(layout)
        if not in_file_order and named is not None and named not in self.tensors:
            return named
        plain = in_file_order or value.name not in self._outputs
        if plain and value.name not in self.tensors:
            return value.name
        if in_file_order:
            suffix = "nchw" if len(layout) == 4 else "file"
        else:
            suffix = _LAYOUT_NAMES.get(layout) or "order" + "".join(map(str, layout))
        return self.unused_name(f"{value.name}/{suffix}")

    def shape_of(self, name: str) -> FixedShape:
        return tuple(length for length in self.tensors[name].shape if length is not None)

    def add_value(self, value: Value) -> None:
        self._file(self.values, value.name, value)
        for tensor in value.forms.values():
            self._holders.setdefault(tensor, []).append(value)

    def input(self, value: Value) -> None:
        """A value the caller feeds."""
        self.add_value(value)
        self._file(
            self.tensors,
            value.name,
            Tensor(value.name, value.dtype, value.shape, value.quantization),
        )
        self._file(value.forms, file_order(value.rank), value.name)
        self._holders.setdefault(value.name, []).append(value)

    # Nodes that operations stand for

    def sources(self, nodes: Iterable[int]) -> tuple[int, ...]:
        """Those of `nodes` that no operation stands for yet; they count as taken."""
        chosen = sorted({node for node in nodes if node not in self._taken})
        for node in chosen:
            self._taken.add(node)
            self._undo.append((self._taken, node))  # type: ignore[arg-type]
        return tuple(chosen)

    def _own_location(self, sources: Sequence[int], location: Location) -> Location:
        """Of a node that an inserted operation stands for, else that of its reader."""
        return self._locations[sources[-1]] if sources else location

    # Scales

    def assign_scale(self, value: Value, scales: Quantization) -> None:
        """Give integers that had no scale the one a reader names, and all that share them."""
        pending = list(value.tensors)
        found: set[str] = set()
        while pending:
            name = pending.pop()
            tensor = self.tensors[name]
            if name in found or tensor.quantization is not None:
                continue
            found.add(name)
            for op in self._moves.get(name, ()):
                pending += [n for n in (*op.inputs, *op.outputs) if n in self.tensors]
        for name in found:
            tensor = self.tensors[name]
            if tensor.dtype is value.dtype:
                self.tensors[name] = dataclasses.replace(tensor, quantization=scales)
        holders = [held for name in found for held in self._holders.get(name, ())]
        for known in (*holders, value):
            if known.data is None and known.codes is None:
                known.quantization = scales

    # Reading

    def tensor_of(self, value: Value, layout: Layout, location: Location) -> str:
        """The tensor that holds a value in a layout; made where there is none.

        Args:
            value: Stored integers, or reals that are no longer thought of as such.
            layout: Order of the file's axes.
            location: On whose behalf.
        """
        if layout in value.forms:
            return value.forms[layout]
        if value.data is not None:
            return self._constant(value, layout)
        if value.shuffled is not None:
            return self._unshuffled(value, location)
        if not value.forms:
            return self._dequantized(value, layout, location)
        known, source = next(iter(value.forms.items()))
        permutation = tuple(known.index(axis) for axis in layout)
        name = self._tensor_name(value, layout)
        tensor = self.tensors[source]
        shape = tuple(value.shape[axis] for axis in layout)
        self._file(self.tensors, name, dataclasses.replace(tensor, name=name, shape=shape))
        sources = self.sources(value.pending)
        location = self._own_location(sources, location)
        # Where only axes of length one move, the values stay in order.
        if _keeps_order(self.shape_of(source), permutation):
            moved: Operation = Reshape(
                location=location, sources=sources, input=source, output=name
            )
        else:
            moved = Transpose(
                location=location,
                sources=sources,
                input=source,
                output=name,
                permutation=permutation,
            )
        self._append(moved)
        self._file(value.forms, layout, name)
        return name

    def _unshuffled(self, value: Value, location: Location) -> str:
        assert value.shuffled is not None
        source, order = value.shuffled
        name = self._tensor_name(value, file_order(value.rank))
        indices = self.unused_name(f"{value.name}/order")
        self._file(
            self.tensors,
            indices,
            Tensor(indices, DType.INT64, (order.size,), data=np.argsort(order)),
        )
        self._file(self.tensors, name, dataclasses.replace(self.tensors[source], name=name))
        self.operations.append(
            Gather(
                location=location,
                sources=(),
                input=source,
                indices=indices,
                output=name,
                axis=value.rank - 1,
            )
        )
        self._file(value.forms, file_order(value.rank), name)
        return name

    def _dequantized(self, value: Value, layout: Layout, location: Location) -> str:
        """Real values of stored integers."""
        codes = value.codes
        assert codes is not None
        if codes.data is not None:
            value.data = dequantized(codes)
            return self._constant(value, layout)
        source = self.tensor_of(codes, codes.layout, location)
        name = self._tensor_name(value, codes.layout)
        self._file(self.tensors, name, Tensor(name, value.dtype, self.tensors[source].shape))
        sources = self.sources(value.pending_nodes())
        op = Dequantize(
            location=self._own_location(sources, location),
            sources=sources,
            input=source,
            output=name,
        )
        self.check(op)
        self.operations.append(op)
        self._file(value.forms, codes.layout, name)
        return self.tensor_of(value, layout, location)

    def _constant(self, value: Value, layout: Layout) -> str:
        assert value.data is not None
        axis = None
        if value.quantization is not None and value.quantization.axis is not None:
            axis = layout.index(value.quantization.axis)
        name = self.constant(
            value,
            "" if layout == file_order(value.rank) else "order" + "".join(map(str, layout)),
            lambda data: data.transpose(layout),
            axis=axis,
        )
        self._file(value.forms, layout, name)
        return name

    def constant(
        self,
        value: Value,
        role: str,
        change: Callable[[AnyArray], AnyArray],
        *,
        axis: int | None,
        quantization: Quantization | None = None,
        dtype: DType | None = None,
    ) -> str:
        """A constant of the file as a tensor, rearranged for its reader.

        Args:
            value: The constant.
            role: Names the rearrangement; the same one is made once.
            change: The rearrangement.
            axis: Where the channels of its scales lie afterwards.
            quantization: Other scales.
            dtype: Another type.
        """
        scales = quantization or value.quantization
        if scales is not None:
            scales = dataclasses.replace(scales, axis=None if scales.scale.size == 1 else axis)
        steps = b"" if scales is None else scales.scale.tobytes() + scales.zero_point.tobytes()
        key = (value.name, role, steps)
        if key in self._constants:
            return self._constants[key]
        assert value.data is not None
        data = np.array(change(value.data), order="C")
        if not self.memory.take(data.nbytes):
            raise ImportModelError(
                f"{self.label}: constant '{value.name}'",
                "rearranging it takes too much memory",
                remedy=DAMAGED,
            )
        name = value.name if value.name not in self.tensors else self.unused_name(value.name)
        dtype = dtype or value.dtype
        self._file(
            self.tensors,
            name,
            Tensor(name, dtype, data.shape, scales, data.astype(dtype.numpy, copy=False)),
        )
        self._file(self._constants, key, name)
        return name

    def new_constant(
        self, wanted: str, dtype: DType, data: AnyArray, quantization: Quantization | None = None
    ) -> str:
        """A constant that the file does not have."""
        name = self.unused_name(wanted)
        self._file(
            self.tensors,
            name,
            Tensor(name, dtype, data.shape, quantization, data.astype(dtype.numpy, copy=False)),
        )
        return name

    # Writing

    def declare(self, target: Target, layout: Layout) -> str:
        """Reserve the tensor of a result; its shape follows from the operation."""
        value = Value(target.name, target.dtype, (), quantization=target.quantization)
        name = self._tensor_name(value, layout)
        self._file(self.tensors, name, Tensor(name, target.dtype, (), target.quantization))
        return name

    def intermediate(self, wanted: str, dtype: DType, quantization: Quantization | None) -> str:
        """Reserve a tensor between two operations of one node."""
        name = self.unused_name(wanted)
        self._file(self.tensors, name, Tensor(name, dtype, (), quantization))
        return name

    def add(self, op: Operation, shapes: Mapping[str, FixedShape] | None = None) -> None:
        """Append an operation and settle the shapes of what it writes.

        Args:
            op: Its outputs are declared.
            shapes: Of outputs whose shape the operation does not tell.

        Raises:
            NotModelledError: The types have no meaning.
            ImportModelError: The shapes contradict each other.
        """
        known = shapes or {}

        def shape_of(name: str) -> FixedShape:
            return known[name] if name in known else self.shape_of(name)

        self.check(op)
        try:
            found = output_shapes(op, shape_of)
        except InconsistentShapesError as problem:
            raise self.error(op.location, str(problem)) from None
        for name, shape in zip(op.outputs, found, strict=True):
            tensor = self.tensors[name]
            if name in known and known[name] != shape:
                raise self.error(
                    op.location,
                    f"result '{name}' of {list(known[name])}, but the inputs give {list(shape)}",
                )
            if min(shape, default=1) < 1 or byte_count(tensor.dtype, shape) > MAX_TENSOR_BYTES:
                raise self.error(
                    op.location,
                    f"result '{name}' {list(shape)} is empty or takes more than "
                    f"{MAX_TENSOR_BYTES} bytes",
                )
            self.tensors[name] = dataclasses.replace(tensor, shape=shape)
        self._append(op)

    def _append(self, op: Operation) -> None:
        self.operations.append(op)
        if isinstance(op, _MOVES):
            for name in (*op.inputs, *op.outputs):
                self._moves.setdefault(name, []).append(op)

    def check(self, op: Operation) -> None:
        # Opaque operations stay as the file has them, whatever their types.
        problem = None if isinstance(op, Opaque) else type_problem(op, self.tensors)
        if problem is not None:
            raise NotModelledError(problem)

    def write(self, target: Target, name: str, layout: Layout) -> Value:
        """File a finished tensor as a value of the file."""
        shape = self.shape_of(name)
        value = Value(
            target.name,
            target.dtype,
            tuple(shape[layout.index(axis)] for axis in range(len(shape))),
            quantization=target.quantization,
        )
        value.forms[layout] = name
        self.add_value(value)
        return value

    def error(self, location: Location, problem: str) -> ImportModelError:
        return ImportModelError(f"{location}, field shape", problem, remedy=DAMAGED)


def dequantized(value: Value) -> AnyArray:
    """Reals of constant integers in float32, as DequantizeLinear gives them."""
    assert value.data is not None
    scales = value.quantization
    assert scales is not None
    shape = [1] * value.data.ndim
    if scales.axis is not None:
        shape[scales.axis] = -1
    zero = scales.zero_point.reshape(shape) if value.data.ndim else scales.zero_point[0]
    scale = scales.scale.reshape(shape) if value.data.ndim else scales.scale[0]
    steps = (value.data.astype(np.int64) - zero).astype(np.float32)
    return np.asarray(steps * scale, np.float32)


def _keeps_order(shape: Sequence[int], permutation: Sequence[int]) -> bool:
    """Whether a permutation moves axes of length one only; axis 0 is the batch, of any length."""
    long = [axis for axis in permutation if axis == 0 or shape[axis] != 1]
    return long == sorted(long)


def values_in_order(shape: FixedShape, layout: Layout) -> bool:
    """Whether a tensor in a layout holds the values in the file's order."""
    long = [axis for axis in layout if axis == 0 or shape[axis] != 1]
    return long == sorted(long)


def count(shape: FixedShape) -> int:
    return math.prod(shape)
