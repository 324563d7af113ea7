# SPDX-License-Identifier: Apache-2.0
"""What all rewrites share: context, result, and building replaced operations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from akida_backend.candidate import PlacementContext, Refused
from akida_backend.devices import Device
from akida_backend.graph import (
    AnyArray,
    Conv2D,
    DType,
    Graph,
    Node,
    Operation,
    Quantization,
    Shape,
    Tensor,
    nominal_shape,
)
from akida_backend.importers.tflite_file import MAX_TENSOR_BYTES, byte_count
from akida_backend.options import Options
from akida_backend.placement import Placement, key, refusals_of, started

OperationT = TypeVar("OperationT", bound=Node)


@dataclass(frozen=True, slots=True)
class RewriteContext:
    """The graph so far, where its operations stand, and what may not be touched.

    Attributes:
        graph: After the rewrites so far.
        placement: Of that graph.
        device: Target.
        options: Strictness.
        refused: Reasons of earlier rounds, by index of the source operator.
        kept: Source operators whose rewriting did not bring them to the device.
    """

    graph: Graph
    placement: Placement
    device: Device
    options: Options
    refused: Refused
    kept: frozenset[int] = frozenset()

    @property
    def on_device(self) -> frozenset[str]:
        """Tensors that placed operations compute."""
        return frozenset(
            name
            for candidate in self.placement.candidates
            for op in candidate.operations
            for name in op.outputs
        )

    def stranded(self, kind: type[OperationT]) -> list[OperationT]:
        """Operations of one type that stay on the host, not refused by an earlier round."""
        return [op for op in self.graph.operations if isinstance(op, kind) and self.is_stranded(op)]

    def is_stranded(self, op: Operation) -> bool:
        return key(op) in self.placement.reasons and not self.is_refused(op)

    def is_refused(self, op: Operation) -> bool:
        return bool(refusals_of(op, self.refused)) or not self.kept.isdisjoint(op.sources)

    def fits(self, op: Operation, graph: Graph) -> bool:
        """Whether an operation of a tentative graph would be placed."""
        context = PlacementContext(graph, self.device, self.options, self.on_device)
        return not isinstance(started(op, context), tuple)


class TooLargeError(Exception):
    """A rewrite would make a tensor that no model file may have."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A changed graph.

    Attributes:
        graph: After the change.
        sources: Source operators concerned.
        host_halves: First outputs of operations meant for the host.
    """

    graph: Graph
    sources: tuple[int, ...]
    host_halves: tuple[str, ...] = ()


def replaced(
    graph: Graph,
    old: Sequence[Operation],
    new: Sequence[Operation],
    tensors: Mapping[str, Tensor] | None = None,
) -> Graph:
    """`graph` with the operations `new` where the last of `old` stood."""
    gone = {key(op) for op in old}
    last = key(old[-1])
    operations: list[Operation] = []
    for op in graph.operations:
        if key(op) == last:
            operations.extend(new)
        elif key(op) not in gone:
            operations.append(op)
    return graph.with_changes(operations=tuple(operations), add_tensors=tensors)


def constant(graph: Graph, wanted: str, like: Tensor, data: AnyArray) -> Tensor:
    """A constant with the type and quantization of `like`."""
    name = graph.unused_name(wanted)
    return dataclasses.replace(like, name=name, shape=data.shape, data=data)


def check_size(dtype: DType, shape: Shape) -> None:
    """Ask before making a tensor whose shape a model chooses.

    Raises:
        TooLargeError: One sample takes more bytes than in any model file.
    """
    if byte_count(dtype, nominal_shape(shape)) > MAX_TENSOR_BYTES:
        raise TooLargeError


def zero_filled(weights: Tensor, shape: tuple[int, ...]) -> AnyArray:
    """An array of `weights`' type that stands for real zeros.

    Raises:
        TooLargeError: See `check_size`.
    """
    check_size(weights.dtype, shape)
    zero = 0
    if weights.quantization is not None and weights.quantization.is_per_tensor:
        zero = weights.quantization.single_zero_point
    return np.full(shape, zero, weights.dtype.numpy)


def identity_convolution(
    graph: Graph, op: Operation, source: str, target: Tensor, *, before: int = 0
) -> tuple[Conv2D, dict[str, Tensor]]:
    """A 1x1 convolution that copies `source` into channels `before` and up of `target`.

    Weights are 0 and 1 at scale 1 and there is no bias, so the copy is exact where both tensors
    have one quantization; other channels are real zero.

    Raises:
        TooLargeError: See `check_size`.
    """
    channels = int(graph.tensors[source].shape[-1] or 0)
    filters = int(target.shape[-1] or 0)
    check_size(DType.INT8, (filters, channels))
    data = np.zeros((filters, 1, 1, channels), np.int8)
    data[np.arange(channels) + before, 0, 0, np.arange(channels)] = 1
    name = graph.unused_name(f"{target.name}/identity")
    weights = Tensor(name, DType.INT8, data.shape, Quantization.per_tensor(1.0), data)
    convolution = Conv2D(
        location=op.location,
        sources=op.sources,
        input=source,
        weights=name,
        bias=None,
        output=target.name,
    )
    return convolution, {name: weights, target.name: target}
