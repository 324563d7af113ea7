# SPDX-License-Identifier: Apache-2.0
"""Which operators of a file a device segment stands for, as a runtime has to hand them over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from akida_backend.graph import AnyArray, Graph, Operation, Pad, Reshape, Transpose, nominal_shape
from akida_backend.importers.tflite_file import TfliteFile
from akida_backend.plan import DeviceSegment, HostSegment, Plan
from akida_backend.reference import run_operations


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """A device segment in terms of the file.

    Attributes:
        segment: What runs.
        operators: Indices in the file of all operators it replaces, ascending.
        input: Tensor of the file it reads.
        input_name: Its name in the graph.
        output: Tensor of the file it writes.
        picks: Where the host's half of a rewrite only moves values: for every byte of the
            program's input, which one of a sample of the tensor it is, or -1 - value (0 to 255)
            for a constant. None where the program reads the tensor as it is.
    """

    segment: DeviceSegment
    operators: tuple[int, ...]
    input: int
    input_name: str
    output: int
    picks: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """A device segment that a runtime cannot hand over, and why."""

    segment: DeviceSegment
    reason: str


def claims(plan: Plan, file: TfliteFile) -> tuple[tuple[Claim, ...], tuple[Unclaimed, ...]]:
    """The device segments of `plan`, compiled from `file`, in the order they run."""
    numbers = {entry.tensor.name: index for index, entry in enumerate(file.tensors)}
    segments = [s for s in plan.segments if isinstance(s, DeviceSegment)]
    claimed: list[Claim] = []
    unclaimed: list[Unclaimed] = []
    for segment in segments:
        others = {index for s in segments if s is not segment for index in s.sources}
        result = _claim(plan, file, segment, others, numbers)
        if isinstance(result, Claim):
            claimed.append(result)
        else:
            unclaimed.append(Unclaimed(segment, result))
    return tuple(claimed), tuple(unclaimed)


def _claim(
    plan: Plan,
    file: TfliteFile,
    segment: DeviceSegment,
    others: set[int],
    numbers: Mapping[str, int],
) -> Claim | str:
    program, sources = segment.program, set(segment.sources)
    if sources & others:
        return "one of its operators became part of two segments"
    halves = [
        op
        for part in plan.segments
        if isinstance(part, HostSegment)
        for op in part.operations
        if sources.intersection(op.sources)
    ]
    if program.output.tensor not in plan.graph.tensors:
        return f"its output '{program.output.tensor}' is no tensor of the model"
    source, picks = program.input.tensor, None
    if halves:
        found = _movement(plan.legalised, plan.graph, halves, program.input.tensor)
        if isinstance(found, str):
            return found
        source, picks = found
    elif source not in plan.graph.tensors:
        return f"its input '{source}' is no tensor of the model"
    return Claim(
        segment,
        _with_folded(plan.graph, file, sources),
        numbers[source],
        source,
        numbers[program.output.tensor],
        picks,
    )


def _movement(
    graph: Graph, imported: Graph, halves: Sequence[Operation], target: str
) -> tuple[str, NDArray[np.int32]] | str:
    """Where each byte of `target` comes from, and the imported tensor it comes from."""
    refusal = "the host's half of a rewrite is not a movement of values before the program"
    needed, chain = {target}, []
    for op in reversed(halves):
        if needed.isdisjoint(op.outputs) or not isinstance(op, Pad | Reshape | Transpose):
            return refusal
        chain.append(op)
        needed = (needed - set(op.outputs)) | {op.input}
    (source,) = needed
    tensor = graph.tensors[source]
    if source not in imported.tensors or tensor.dtype.numpy.itemsize != 1:
        return refusal
    if tensor.shape[:1] not in ((None,), (1,)):
        return "the host's half of a rewrite mixes samples"
    count = tensor.values_per_sample

    def moved(values: NDArray[np.integer]) -> NDArray[np.uint8]:
        shaped = values.astype(tensor.dtype.numpy).reshape(nominal_shape(tensor.shape))
        stored: dict[str, AnyArray] = {source: shaped}
        run_operations(tuple(reversed(chain)), graph, stored)
        return stored[target].reshape(-1).view(np.uint8)

    position = np.arange(count)
    low, high = moved(np.zeros(count, np.int64)), moved(np.ones(count, np.int64))
    picks = np.zeros(low.size, np.int32)
    for bit in range(max(count - 1, 1).bit_length()):
        picks |= moved((position >> bit) & 1).astype(np.int32) << bit
    return source, np.where(low == high, -1 - low.astype(np.int32), picks).astype(np.int32)


def _with_folded(graph: Graph, file: TfliteFile, sources: set[int]) -> tuple[int, ...]:
    """`sources`, and folded operators whose results nobody else reads.

    Shape arithmetic between two operators of a segment would make the runtime tear it apart.
    """
    members = set(sources)
    readers: dict[int, set[int]] = {}
    for index, operator in enumerate(file.operators):
        for tensor in operator.inputs:
            if tensor is not None:
                readers.setdefault(tensor, set()).add(index)
    for folded in reversed(graph.folded):
        index = folded.location.index
        results = file.operators[index].outputs
        read_by = set().union(*(readers.get(tensor, set()) for tensor in results))
        if read_by and read_by <= members and not set(results) & set(file.outputs):
            members.add(index)
    return tuple(sorted(members))
