# SPDX-License-Identifier: Apache-2.0
"""A network on a map that is too long on axis 1 -> the same network on the transposed map. Exact.

Devices limit the line (axis 1) of some maps more than their rows. The host exchanges height and
width in front; kernels, strides, pads and windows exchange theirs; the host exchanges them back
behind the last operation that has both axes. Precondition: some operation is refused for its line
alone, and more is placed afterwards.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from akida_backend.candidate import Candidate, device_shape
from akida_backend.graph import (
    Add,
    AveragePool2D,
    Concatenation,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    HardSwish,
    LeakyRelu,
    Logistic,
    MaxPool2D,
    Mean,
    Operation,
    Pads,
    Relu,
    Reshape,
    Size2D,
    Tensor,
    Transpose,
    TransposeConv2D,
)
from akida_backend.partition import candidate_macs
from akida_backend.placement import Placement, key, place
from akida_backend.rewrites.rewriting import RewriteContext, Rewritten, constant

EFFECT = "Height and width change places where a map is too long on axis 1; the host turns it."
SWAPPED = (0, 2, 1, 3)
Kerneled = Conv2D | DepthwiseConv2D | TransposeConv2D
Unary = Relu | Logistic | HardSwish | LeakyRelu
Turning = Kerneled | MaxPool2D | AveragePool2D | Mean | Add | Concatenation | Unary


def apply(context: RewriteContext) -> Rewritten | None:
    for op in context.graph.operations:
        reasons = context.placement.reasons.get(key(op), ())
        lines = any(reason.code.endswith("-LINE") for reason in reasons)
        if lines and isinstance(op, Turning) and not context.is_refused(op):
            rewritten = _turned(op, context)
            if rewritten is not None:
                return rewritten
    return None


def _turned(op: Turning, context: RewriteContext) -> Rewritten | None:
    start = _start(op, context.graph)
    turn = _Turn(context.graph, context.kept)
    changed = turn.run(start)
    placement = place(changed, context.device, context.options, context.refused)
    name = turn.names.get(key(op), key(op))
    if name in placement.reasons:
        return None
    if _reach(changed, placement) <= _reach(context.graph, context.placement):
        return None
    return Rewritten(changed, tuple(dict.fromkeys(turn.sources)), tuple(turn.host_halves))


def _reach(graph: Graph, placement: Placement) -> tuple[int, int]:
    """Multiply-accumulates and source operators that have a layer."""
    layers = [c for c in placement.candidates if isinstance(c, Candidate)]
    sources = {index for c in layers for op in c.operations for index in op.sources}
    return sum(candidate_macs(graph, c) for c in layers), len(sources)


def _start(op: Turning, graph: Graph) -> str:
    """The map that the chain of operations in front of `op` begins with."""
    (name, *_) = graph.activations_of(op)
    while isinstance(producer := graph.producers.get(name), Turning):
        (name, *_) = graph.activations_of(producer)
    return name


@dataclass(slots=True)
class _Turn:
    """Builds the graph in which everything behind one map is transposed.

    Attributes:
        graph: As it was.
        kept: Source operators that stay as they are.
        names: Transposed counterparts of tensors.
        tensors: New tensors.
        operations: All operations so far, in order.
        sources: Source operators of those that changed.
        host_halves: Results of the transpositions.
    """

    graph: Graph
    kept: frozenset[int]
    names: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    host_halves: list[str] = field(default_factory=list)
    _flat: dict[str, str] = field(default_factory=dict)

    def run(self, start: str) -> Graph:
        begun = False
        given: set[str] = {start}  # maps that exist as they were
        for op in self.graph.operations:
            if not begun and start in op.inputs and self._turns(op, start):
                begun = True
                self._add_swapped(start)
                self._transpose(op, start, self.names[start], op.sources)
            changed = self._changed(op) if begun else None
            if changed is not None:
                self.operations.append(changed)
                self.sources += op.sources
                continue
            for name in op.inputs:
                if name in self.names and name not in given:
                    given.add(name)
                    self._transpose(op, self.names[name], name, ())
            self.operations.append(op)
        last = self.operations[-1]
        for name in self.graph.outputs:
            if name in self.names and name not in given:
                self._transpose(last, self.names[name], name, ())
        return self.graph.with_changes(operations=tuple(self.operations), add_tensors=self.tensors)

    def _transpose(
        self, beside: Operation, source: str, target: str, sources: tuple[int, ...]
    ) -> None:
        self.operations.append(
            Transpose(
                location=beside.location,
                sources=sources,
                input=source,
                output=target,
                permutation=SWAPPED,
            )
        )
        self.host_halves.append(target)

    def _add_swapped(self, name: str) -> str:
        """A transposed counterpart of a map; a single position is its own."""
        tensor = self.graph.tensors[name]
        batch, height, width, channels = tensor.shape
        if (height, width) == (1, 1):
            return name
        new = self.graph.unused_name(f"{name}/swapped")
        self.names[name] = new
        self.tensors[new] = dataclasses.replace(
            tensor, name=new, shape=(batch, width, height, channels)
        )
        return new

    def _turns(self, op: Operation, start: str | None = None) -> bool:
        """Whether an operation can work on transposed maps."""
        graph = self.graph
        maps = graph.activations_of(op)
        if not isinstance(op, Turning) or not self.kept.isdisjoint(op.sources):
            return False
        if any(len(graph.tensors[n].shape) != 4 or graph.tensors[n].is_constant for n in maps):
            return False
        if any(name != start and name not in self.names for name in maps):
            return False
        match op:
            case Conv2D() | DepthwiseConv2D() | TransposeConv2D():
                return graph.tensors[op.weights].is_constant
            case Mean():
                return op.axes == (1, 2)
            case Add():
                return len(maps) == 2 and len({graph.tensors[n].shape for n in maps}) == 1
            case Concatenation():
                return op.axis == 3 and len(maps) == len(op.operands)
            case _:
                return True

    def _changed(self, op: Operation) -> Operation | None:
        """The operation on transposed maps; None if it stays as it is."""
        if isinstance(op, Reshape) and op.input in self.names:
            return self._flattened(op)
        if isinstance(op, FullyConnected) and op.input in self._flat:
            source = self._flat[op.input]
            weights = self._dense_weights(op, self.graph.tensors[source])
            return dataclasses.replace(op, input=f"{self.names[op.input]}", weights=weights)
        if not isinstance(op, Turning) or not self._turns(op):
            return None
        match op:
            case Conv2D() | DepthwiseConv2D():
                return dataclasses.replace(
                    op,
                    input=self.names[op.input],
                    weights=self._kernel(op.weights),
                    output=self._add_swapped(op.output),
                    stride=_turned_size(op.stride),
                    dilation=_turned_size(op.dilation),
                    pads=_turned_pads(op.pads),
                )
            case TransposeConv2D():
                return dataclasses.replace(
                    op,
                    input=self.names[op.input],
                    weights=self._kernel(op.weights),
                    output=self._add_swapped(op.output),
                    stride=_turned_size(op.stride),
                    pads=_turned_pads(op.pads),
                )
            case MaxPool2D() | AveragePool2D():
                return dataclasses.replace(
                    op,
                    input=self.names[op.input],
                    output=self._add_swapped(op.output),
                    window=_turned_size(op.window),
                    stride=_turned_size(op.stride),
                    pads=_turned_pads(op.pads),
                )
            case Mean():
                return dataclasses.replace(op, input=self.names[op.input])
            case Add():
                return dataclasses.replace(
                    op,
                    a=self.names[op.a],
                    b=self.names[op.b],
                    output=self._add_swapped(op.output),
                )
            case Concatenation():
                operands = tuple(self.names[name] for name in op.operands)
                return dataclasses.replace(
                    op, operands=operands, output=self._add_swapped(op.output)
                )
            case Relu() | Logistic() | HardSwish() | LeakyRelu():
                return dataclasses.replace(
                    op, input=self.names[op.input], output=self._add_swapped(op.output)
                )

    def _kernel(self, name: str) -> str:
        weights = self.graph.tensors[name]
        assert weights.data is not None
        data = np.ascontiguousarray(weights.data.transpose(SWAPPED))
        turned = constant(self.graph, f"{name}/swapped", weights, data)
        self.tensors[turned.name] = turned
        return turned.name

    def _flattened(self, op: Reshape) -> Reshape | None:
        """A map flattened for a dense layer, whose weights then stand in the other order."""
        graph = self.graph
        reader = graph.sole_consumer(op.output)
        source = graph.tensors[op.input]
        weights = None if not isinstance(reader, FullyConnected) else graph.tensors[reader.weights]
        if weights is None or weights.data is None or not self.kept.isdisjoint(op.sources):
            return None
        if weights.data.shape[1] != source.values_per_sample:
            return None
        target = graph.tensors[op.output]
        name = graph.unused_name(f"{op.output}/swapped")
        self.names[op.output] = name
        self.tensors[name] = dataclasses.replace(target, name=name)
        self._flat[op.output] = op.input
        return dataclasses.replace(op, input=self.names[op.input], output=name)

    def _dense_weights(self, op: FullyConnected, source: Tensor) -> str:
        weights = self.graph.tensors[op.weights]
        assert weights.data is not None
        height, width, channels = device_shape(source)
        columns = np.arange(height * width * channels).reshape(height, width, channels)
        order = columns.transpose(1, 0, 2).reshape(-1)
        data = np.ascontiguousarray(weights.data[:, order])
        turned = constant(self.graph, f"{op.weights}/swapped", weights, data)
        self.tensors[turned.name] = turned
        return turned.name


def _turned_size(size: Size2D) -> Size2D:
    return Size2D(size.width, size.height)


def _turned_pads(pads: Pads) -> Pads:
    return Pads(pads.left, pads.right, pads.top, pads.bottom)
