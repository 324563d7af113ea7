# SPDX-License-Identifier: Apache-2.0
"""Which nodes of an ONNX file a device segment replaces, and how its two tensors lie in the file.

A segment computes one tensor from another. Where the file has a value for both, the segment stands
for the nodes between the two values: those that the second needs and that are not needed for the
first. A node among them that others need too, such as the DequantizeLinear of a shared weight,
stays in the file beside the segment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx

from akida_backend.epcontext import Boundary, Compiled
from akida_backend.graph import Graph, Operation, Pad, Reshape, Tensor, Transpose, nominal_shape
from akida_backend.importers.onnx_forms import FileForm, file_forms
from akida_backend.plan import DeviceSegment, Plan
from akida_backend.sample_view import NotAViewError, view_of


@dataclass(frozen=True, slots=True)
class Claim:
    """A segment in its file.

    Attributes:
        segment: Of the plan.
        nodes: Positions of those it replaces, ascending.
        compiled: The program and where its tensors are in the file.
        tensor: Of the imported graph, that holds the same value as the file's input.
        input: How that tensor lies in the file.
    """

    segment: DeviceSegment
    nodes: tuple[int, ...]
    compiled: Compiled
    tensor: str
    input: Boundary


@dataclass(frozen=True, slots=True)
class Unclaimable:
    """A segment that no set of nodes stands for, and why."""

    segment: DeviceSegment
    reason: str

    def operations(self, plan: Plan) -> list[str]:
        """Names of what it computes, as deny lists take them."""
        sources = set(self.segment.sources)
        return [
            f"name:{op.location.name}"
            for op in plan.graph.operations
            if sources.intersection(op.sources)
        ]


def claims_of(plan: Plan, file: onnx.GraphProto) -> list[Claim | Unclaimable]:
    """A claim per device segment of a plan that was compiled from `file`."""
    values = _File(file)
    forms = file_forms(plan.graph)
    return [
        _claim(plan, segment, values, forms)
        for segment in plan.segments
        if isinstance(segment, DeviceSegment)
    ]


class _OutsideError(Exception):
    """No set of nodes fits; the text says why."""


@dataclass(frozen=True, eq=False)
class _File:
    graph: onnx.GraphProto

    @cached_property
    def producers(self) -> Mapping[str, int]:
        return {
            name: index
            for index, node in enumerate(self.graph.node)
            for name in node.output
            if name
        }

    @cached_property
    def readers(self) -> Mapping[str, set[int]]:
        found: dict[str, set[int]] = {}
        for index, node in enumerate(self.graph.node):
            for name in reads(node):
                found.setdefault(name, set()).add(index)
        return found

    @cached_property
    def constants(self) -> frozenset[str]:
        """Values that depend on no input of the model."""
        known = {tensor.name for tensor in self.graph.initializer}
        for node in self.graph.node:
            if all(name in known for name in reads(node)):
                known.update(name for name in node.output if name)
        return frozenset(known)

    @cached_property
    def outputs(self) -> frozenset[str]:
        return frozenset(value.name for value in self.graph.output)

    def between(self, first: str, last: str) -> set[int]:
        """Nodes that `last` needs and `first` does not.

        Raises:
            _OutsideError: `last` needs another activation too.
        """
        nodes: set[int] = set()
        pending = [last]
        while pending:
            name = pending.pop()
            if name == first:
                continue
            index = self.producers.get(name)
            if index is None:
                if name not in self.constants:
                    raise _OutsideError(f"it also needs '{name}'")
            elif index not in nodes:
                nodes.add(index)
                pending.extend(reads(self.graph.node[index]))
        return nodes

    def shared(self, nodes: set[int], last: str) -> Iterator[tuple[int, str]]:
        """Nodes whose results others need beside `last`."""
        for index in nodes:
            for name in self.graph.node[index].output:
                elsewhere = name in self.outputs or self.readers.get(name, set()) - nodes
                if name and name != last and elsewhere:
                    yield index, name


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Values a node needs, those of its subgraphs' surroundings included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            own = {value.name for value in (*body.input, *body.initializer)}
            for inner in body.node:
                yield from (name for name in reads(inner) if name not in own)
                own.update(inner.output)
            yield from (value.name for value in body.output if value.name not in own)


def _claim(
    plan: Plan, segment: DeviceSegment, file: _File, forms: Mapping[str, Sequence[FileForm]]
) -> Claim | Unclaimable:
    moves, start = _moves_in_front(plan.legalised, segment.program.input.tensor, forms)
    reason = "its tensors are no values of the file"
    for last in forms.get(segment.program.output.tensor, ()):
        for first in reversed(forms.get(start, ())):
            try:
                return _between(plan, segment, file, _Entry(start, moves, first), last)
            except (_OutsideError, NotAViewError) as problem:
                reason = str(problem)
    return Unclaimable(segment, reason)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor that holds a value of the file, and what is moved between it and the program."""

    tensor: str
    moves: tuple[Operation, ...]
    form: FileForm


def _moves_in_front(
    graph: Graph, tensor: str, forms: Mapping[str, Sequence[FileForm]]
) -> tuple[tuple[Operation, ...], str]:
    """Host operations that rewrites have put between a value of the file and a tensor."""
    moves: list[Operation] = []
    while tensor not in forms:
        op = graph.producers.get(tensor)
        if not isinstance(op, Pad | Reshape | Transpose):
            break
        moves.append(op)
        tensor = op.input
    return tuple(reversed(moves)), tensor


def _between(
    plan: Plan, segment: DeviceSegment, file: _File, entry: _Entry, last: FileForm
) -> Claim:
    first = entry.form
    nodes = file.between(first.value, last.value)
    real: str | None = None
    while True:
        shared = list(file.shared(nodes, last.value))
        if not shared:
            break
        for index, name in shared:
            node = file.graph.node[index]
            if name in file.constants:
                pass
            elif node.op_type == "DequantizeLinear" and node.input[0] == first.value:
                real = name
            else:
                raise _OutsideError(f"'{name}' inside it is needed outside")
            nodes.discard(index)
    if not nodes:
        raise _OutsideError("others need all of it")
    read = {name for index in nodes for name in reads(file.graph.node[index])}
    graph = plan.legalised
    source = graph.tensors[entry.tensor]
    boundary = _boundary(source, first, into_program=True)
    if first.value not in read:
        if real is None or real not in read or source.quantization is None:
            raise _OutsideError(f"nothing reads '{first.value}'")
        scales = source.quantization
        boundary = dataclasses.replace(
            boundary, value=real, real=(scales.single_scale, scales.single_zero_point)
        )
    output = _boundary(graph.tensors[segment.program.output.tensor], last, into_program=False)
    viewed = boundary
    if entry.moves:
        order = [axis - 1 for axis in first.layout[1:]]
        view = view_of(graph, entry.moves, nominal_shape(boundary.shape[1:]), order)
        viewed = dataclasses.replace(boundary, view=view, transposed=None)
    compiled = Compiled(segment.program, plan.graph.sha256, viewed, output)
    return Claim(segment, tuple(sorted(nodes)), compiled, entry.tensor, boundary)


def _boundary(tensor: Tensor, form: FileForm, *, into_program: bool) -> Boundary:
    """How a program's tensor lies in the file.

    Raises:
        _OutsideError: A sample is not one matrix, as it is or transposed.
    """
    layout = form.layout
    shape = [tensor.shape[layout.index(axis)] for axis in range(len(layout))]
    if layout[0] != 0:
        raise _OutsideError(f"axis 0 of '{form.value}' is not the batch")
    there = [axis for axis in layout[1:] if shape[axis] != 1]  # in the program's order
    here = sorted(there)
    if there == here:
        return Boundary(form.value, tuple(shape))
    split = there.index(here[0])
    if there[split:] + there[:split] != here:
        raise _OutsideError(f"the axes of '{form.value}' lie in the order {layout}")
    rows, columns = _product(shape, there[split:]), _product(shape, there[:split])
    matrix = (rows, columns) if into_program else (columns, rows)
    return Boundary(form.value, tuple(shape), matrix)


def _product(shape: Sequence[int | None], axes: Sequence[int]) -> int:
    product = 1
    for axis in axes:
        product *= shape[axis] or 1
    return product
