# SPDX-License-Identifier: Apache-2.0
"""The last step of compilation: segments in an order that runs, and one row per operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from akida_backend.candidate import Candidate
from akida_backend.constraints import Violation, graph_violation
from akida_backend.devices import Device
from akida_backend.graph import Graph, Operation
from akida_backend.ops import SPEC_OF
from akida_backend.options import Options
from akida_backend.partition import Region
from akida_backend.placement import key
from akida_backend.plan import DeviceSegment, HostSegment, PlacedOperation, Plan, Segment
from akida_backend.program import Program
from akida_backend.program_check import layer_macs
from akida_backend.rewrites import Legalised
from akida_backend.segments import LoweredSegment


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the last round of compilation decided.

    Attributes:
        legalised: Rewritten graph and its placement.
        regions: Device segments.
        lowered: Their programs, in the same order.
        homeless: Reasons of operations that could be placed and fit into no segment, by the
            name of their first output.
    """

    legalised: Legalised
    regions: tuple[Region, ...]
    lowered: tuple[LoweredSegment, ...]
    homeless: Mapping[str, tuple[Violation, ...]]


def assemble(graph: Graph, device: Device, options: Options, outcome: Outcome) -> Plan:
    """The plan of a model, from its last round."""
    segments = _segments(graph, outcome)
    rows = _placed_rows(graph, device, outcome, segments) + _folded_rows(graph, device)
    return Plan(
        graph=graph,
        legalised=outcome.legalised.graph,
        device=device,
        options=options,
        placement=tuple(sorted(rows, key=lambda row: row.index)),
        segments=segments,
    )


def _segments(source: Graph, outcome: Outcome) -> tuple[Segment, ...]:
    """Regions and the host operations between them, each after what it needs."""
    graph = outcome.legalised.graph
    source_macs = {
        op.location.index: SPEC_OF[type(op)].macs(op, source)
        for op in source.operations
        if op.sources
    }
    members = [
        {key(op) for candidate in region.candidates for op in candidate.operations}
        for region in outcome.regions
    ]
    on_device = set().union(*members)
    ready = {*graph.inputs, *(name for name, t in graph.tensors.items() if t.is_constant)}
    pending = list(graph.operations)
    left = list(range(len(outcome.regions)))
    segments: list[Segment] = []
    while pending:
        host: list[Operation] = []
        for op in pending:
            if key(op) not in on_device and ready.issuperset(op.inputs):
                host.append(op)
                ready.update(op.outputs)
        if host:
            done = {key(op) for op in host}
            segments.append(HostSegment(len(segments), tuple(host)))
        else:
            number = next(n for n in left if outcome.regions[n].input in ready)
            left.remove(number)
            done = members[number]
            inside = [op for op in pending if key(op) in done]
            ready.update(name for op in inside for name in op.outputs)
            sources = sorted({index for op in inside for index in op.sources})
            lowered = outcome.lowered[number]
            segments.append(
                DeviceSegment(
                    index=len(segments),
                    program=lowered.program,
                    sources=tuple(sources),
                    source_macs=sum(source_macs.get(index, 0) for index in sources),
                    device_macs=sum(macs_by_output(lowered.program).values()),
                    assumptions=lowered.assumptions,
                    weight_notes=lowered.weight_notes,
                    quantizer=lowered.quantizer,
                    remarks=lowered.remarks,
                )
            )
        pending = [op for op in pending if key(op) not in done]
    return tuple(segments)


def macs_by_output(program: Program) -> dict[str, int]:
    """MACs per sample of each layer, by the tensor it writes."""
    return {
        layer.output: layer_macs(layer, program.tensors[layer.inputs[0]].shape)
        for layer in program.layers
    }


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one operation of the legalised graph runs."""

    segment: int
    layer: str | None = None
    device_macs: int = 0


def _places(outcome: Outcome, segments: Sequence[Segment]) -> dict[str, _Place]:
    """Place of every operation of the legalised graph, by the name of its first output."""
    places: dict[str, _Place] = {}
    number_of = {
        segment.program.name: segment.index
        for segment in segments
        if isinstance(segment, DeviceSegment)
    }
    for segment in segments:
        if isinstance(segment, HostSegment):
            places.update({key(op): _Place(segment.index) for op in segment.operations})
    for region, lowered in zip(outcome.regions, outcome.lowered, strict=True):
        number, macs = number_of[lowered.program.name], macs_by_output(lowered.program)
        for candidate in region.candidates:
            layered = isinstance(candidate, Candidate)
            layer = candidate.layer.value if isinstance(candidate, Candidate) else "rename"
            for op in candidate.operations:
                carries = layered and op is candidate.operations[0]
                places[key(op)] = _Place(number, layer, macs[candidate.output] if carries else 0)
    return places


def _placed_rows(
    graph: Graph, device: Device, outcome: Outcome, segments: Sequence[Segment]
) -> list[PlacedOperation]:
    places = _places(outcome, segments)
    made_of: dict[int, list[Operation]] = {}
    for op in outcome.legalised.graph.operations:
        for index in op.sources:
            made_of.setdefault(index, []).append(op)
    rows = []
    for op in graph.operations:
        if not op.sources:  # a change of layout that import inserted
            continue
        index = op.location.index
        parts = made_of.get(index, [])
        last = places[key(parts[-1])]
        # MACs of an operation that several source operators became count for the one it is named
        # after: the convolution, not the padding in front.
        own = [places[key(part)] for part in parts if part.location.index == index]
        reasons = {
            (violation.code, violation.found): violation
            for part in parts
            if places[key(part)].layer is None
            for violation in _reasons(part, device, outcome)
        }
        rows.append(
            PlacedOperation(
                index=index,
                type=op.location.type,
                name=op.location.name,
                on_device=last.layer is not None,
                segment=last.segment,
                layer=last.layer,
                rewrites=outcome.legalised.rewrites.get(index, ()),
                macs=SPEC_OF[type(op)].macs(op, graph),
                device_macs=sum(place.device_macs for place in own),
                reasons=tuple(reasons.values()),
            )
        )
    return rows


def _reasons(part: Operation, device: Device, outcome: Outcome) -> tuple[Violation, ...]:
    """Why an operation of the legalised graph runs on the host."""
    name = key(part)
    if name in outcome.legalised.host_halves:
        return (graph_violation("REWRITE-HOST-HALF", f"'{name}' runs on the host", device),)
    return outcome.homeless.get(name) or outcome.legalised.placement.reasons[name]


def _folded_rows(graph: Graph, device: Device) -> list[PlacedOperation]:
    reason = graph_violation("OP-FOLDED", "computed from shapes and constants", device)
    return [
        PlacedOperation(
            index=folded.location.index,
            type=folded.location.type,
            name=folded.location.name,
            on_device=False,
            segment=None,
            layer=None,
            rewrites=(),
            macs=0,
            device_macs=0,
            reasons=(reason,),
        )
        for folded in graph.folded
    ]
