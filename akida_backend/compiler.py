# SPDX-License-Identifier: Apache-2.0
"""Graph -> Plan: rounds of rewriting, placing, partitioning and lowering.

A constraint of a segment or a refused lowering marks its operation for the host and starts the next
round; the set of device operations only shrinks, so the rounds end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from akida_backend.calibration import Calibration, calibrate
from akida_backend.candidate import Alias, Candidate, Candidates
from akida_backend.constraints import Violation, graph_violation
from akida_backend.devices import Device
from akida_backend.devices import device as find_device
from akida_backend.errors import InputError
from akida_backend.graph import Graph, Operation
from akida_backend.loading import load
from akida_backend.ops import SPEC_OF
from akida_backend.options import Options
from akida_backend.partition import (
    FOLLOWER_RULES,
    Region,
    candidate_macs,
    partition,
    pool_rule,
)
from akida_backend.placement import key
from akida_backend.plan import DeviceSegment, HostSegment, PlacedOperation, Plan, Segment
from akida_backend.policy import apply_fallback
from akida_backend.rewrites import Legalised, legalise
from akida_backend.segments import LoweredSegment, lower_region

SUPPORTED_GENERATION = 2


def compile(
    model: Graph | str | os.PathLike[str] | bytes, device: str = "akida2", **options: object
) -> Plan:
    """Decide what runs on the device, and lower it to programs.

    Args:
        model: A Graph, or what `load` takes.
        device: Name of a device profile.
        options: Fields of `Options`.

    Raises:
        ImportModelError: The model cannot be read.
        InputError: An unknown device or option, or calibration data that does not fit.
        FallbackError: `fallback` forbids what would stay on the host.
    """
    chosen = Options.parse({**options, "device": device})
    target = find_device(chosen.device)
    if target.generation != SUPPORTED_GENERATION:
        raise InputError(
            f"device '{target.name}' is Akida {target.generation}.0, which this version does not "
            "compile for yet\n  use an Akida 2.0 device such as 'akida2'"
        )
    graph = model if isinstance(model, Graph) else load(model)
    calibration = calibrate(graph, chosen)
    plan = _compile(graph, target, chosen, calibration)
    apply_fallback(plan, chosen.fallback)
    return plan


@dataclass(frozen=True, slots=True)
class _Round:
    """One try: what was rewritten, which regions there are, and their programs."""

    legalised: Legalised
    regions: tuple[Region, ...]
    lowered: tuple[LoweredSegment, ...]
    loose: Mapping[str, tuple[Violation, ...]]


def _compile(
    graph: Graph, device: Device, options: Options, calibration: Calibration | None
) -> Plan:
    refused = _denied(graph, device, options)
    while True:
        outcome = _round(graph, device, options, refused, calibration)
        if isinstance(outcome, _Round):
            return _plan(graph, device, options, outcome)
        for index, violations in outcome.items():
            refused[index] = (*refused.get(index, ()), *violations)


def _denied(graph: Graph, device: Device, options: Options) -> dict[int, tuple[Violation, ...]]:
    """Operators that allow and deny lists keep on the host."""
    refused: dict[int, tuple[Violation, ...]] = {}
    for op in graph.operations:
        labels = {f"type:{op.location.type}", f"name:{op.location.name}"}
        denied = sorted(labels & set(options.deny))
        for index in op.sources:
            if denied:
                found = f"denied by '{denied[0]}'"
                refused[index] = (graph_violation("POLICY-DENIED", found, device),)
            elif options.allow and not labels & set(options.allow):
                found = "in no allow entry"
                refused[index] = (graph_violation("POLICY-NOT-ALLOWED", found, device),)
    return refused


def _round(
    graph: Graph,
    device: Device,
    options: Options,
    refused: Mapping[int, tuple[Violation, ...]],
    calibration: Calibration | None,
) -> _Round | dict[int, tuple[Violation, ...]]:
    """All programs, or the reasons that send operators to the host."""
    legalised = legalise(graph, device, options, refused)
    changed, candidates = legalised.graph, legalised.placement.candidates
    followers = _pool_followers(changed, candidates, device)
    if followers:
        return followers
    regions, homeless = partition(changed, candidates, device)
    new = _stranded_pools(candidates, homeless) or _too_small(changed, regions, device, options)
    if new:
        return new
    loose: dict[str, tuple[Violation, ...]] = {}
    for position, violations in homeless.items():
        for op in candidates[position].operations:
            loose[key(op)] = violations
    stuck = {
        index: violations
        for position, violations in homeless.items()
        for op in candidates[position].operations
        for index in op.sources
        if index in legalised.rewrites
    }
    if stuck:  # what stays on the host should stay as it was written
        return stuck
    lowered: list[LoweredSegment] = []
    measured = None if calibration is None else calibration.measure(changed)
    for number, region in enumerate(regions):
        result = lower_region(region, changed, device, options, f"segment{number}", measured)
        if not isinstance(result, LoweredSegment):
            violation = graph_violation(result.refusal.code, result.refusal.found, device)
            return _all_sources(result.candidate.base, violation)
        lowered.append(result)
    return _Round(legalised, regions, tuple(lowered), loose)


def _all_sources(op: Operation, violation: Violation) -> dict[int, tuple[Violation, ...]]:
    return dict.fromkeys(op.sources, (violation,))


def _pool_followers(
    graph: Graph, candidates: Sequence[Candidates], device: Device
) -> dict[int, tuple[Violation, ...]]:
    """Max pools whose layer is not followed by the layers the device asks for."""
    readers: dict[str, list[Candidates]] = {}
    for candidate in candidates:
        for name in dict.fromkeys(candidate.inputs):
            readers.setdefault(name, []).append(candidate)

    def followers(name: str) -> list[str]:
        """Who reads a tensor, under whatever name."""
        inside = readers.get(name, [])
        outside = len(graph.consumers[name]) > len(inside) or name in graph.outputs
        found = ["the host"] if outside else []
        for reader in inside:
            found += followers(reader.output) if isinstance(reader, Alias) else [reader.layer]
        return found

    refused: dict[int, tuple[Violation, ...]] = {}
    for candidate in candidates:
        code = pool_rule(candidate)
        if code is None or isinstance(candidate, Alias) or candidate.pool is None:
            continue
        wrong = [f for f in followers(candidate.output) if f not in FOLLOWER_RULES]
        if wrong:
            found = f"followed by {' and '.join(dict.fromkeys(wrong))}"
            violation = graph_violation(code, found, device)
            refused.update(_all_sources(candidate.pool, violation))
    return refused


def _stranded_pools(
    candidates: Sequence[Candidates], homeless: Mapping[int, tuple[Violation, ...]]
) -> dict[int, tuple[Violation, ...]]:
    """Max pools that keep their convolution out of every segment, which alone could be one."""
    return {
        index: violations
        for position, violations in homeless.items()
        for candidate in (candidates[position],)
        if isinstance(candidate, Candidate) and candidate.pool is not None
        if any(violation.code == pool_rule(candidate) for violation in violations)
        for index in candidate.pool.sources
    }


def _too_small(
    graph: Graph, regions: Sequence[Region], device: Device, options: Options
) -> dict[int, tuple[Violation, ...]]:
    """Segments the policy does not want."""
    refused: dict[int, tuple[Violation, ...]] = {}
    for region in regions:
        macs = region.macs(graph)
        if macs < options.min_partition_macs:
            violation = graph_violation(
                "POLICY-MIN-MACS",
                f"the segment has {macs} MACs",
                device,
                limit=options.min_partition_macs,
            )
            refused.update(_refuse_region(region, violation))
    if not refused and options.max_partitions and len(regions) > options.max_partitions:
        smallest = min(regions, key=lambda region: region.macs(graph))
        violation = graph_violation(
            "POLICY-MAX-PARTITIONS",
            f"{len(regions)} segments, this one is the smallest",
            device,
            limit=options.max_partitions,
        )
        refused.update(_refuse_region(smallest, violation))
    return refused


def _refuse_region(region: Region, violation: Violation) -> dict[int, tuple[Violation, ...]]:
    return {
        index: (violation,)
        for candidate in region.candidates
        for op in candidate.operations
        for index in op.sources
    }


def _plan(graph: Graph, device: Device, options: Options, outcome: _Round) -> Plan:
    legalised = outcome.legalised
    segments = _segments(legalised.graph, outcome, graph)
    rows = _rows(graph, legalised, outcome, segments, device)
    return Plan(graph, legalised.graph, device, options, rows, segments)


def _segments(graph: Graph, outcome: _Round, source: Graph) -> tuple[Segment, ...]:
    """Regions and the host operations between them, in an order that can run."""
    region_of = {
        key(op): number
        for number, region in enumerate(outcome.regions)
        for candidate in region.candidates
        for op in candidate.operations
    }
    macs = {i: SPEC_OF[type(op)].macs(op, source) for op in source.operations for i in op.sources}
    host_sources = {i for op in graph.operations if key(op) not in region_of for i in op.sources}
    segments: list[Segment] = []
    pending = list(graph.operations)
    ready = {*graph.inputs, *(n for n, t in graph.tensors.items() if t.is_constant)}
    done: set[int] = set()
    while pending:
        host: list[Operation] = []
        for op in pending:
            if key(op) not in region_of and all(name in ready for name in op.inputs):
                host.append(op)
                ready.update(op.outputs)
        if host:
            segments.append(HostSegment(len(segments), tuple(host)))
            taken = {key(op) for op in host}
            pending = [op for op in pending if key(op) not in taken]
            continue
        number = next(
            n for n, region in enumerate(outcome.regions) if n not in done and region.input in ready
        )
        done.add(number)
        region, lowered = outcome.regions[number], outcome.lowered[number]
        members = {key(op) for c in region.candidates for op in c.operations}
        sources = sorted({i for op in pending if key(op) in members for i in op.sources})
        ready.update(name for op in pending if key(op) in members for name in op.outputs)
        pending = [op for op in pending if key(op) not in members]
        segments.append(
            DeviceSegment(
                index=len(segments),
                program=lowered.program,
                sources=tuple(sources),
                source_macs=sum(macs.get(i, 0) for i in sources),
                device_macs=region.macs(graph),
                assumptions=lowered.assumptions,
                weight_notes=lowered.weight_notes,
            )
        )
    del host_sources
    return tuple(segments)


def _rows(
    graph: Graph,
    legalised: Legalised,
    outcome: _Round,
    segments: Iterable[Segment],
    device: Device,
) -> tuple[PlacedOperation, ...]:
    """One row per operator of the file."""
    where: dict[str, int] = {}
    for segment in segments:
        match segment:
            case HostSegment():
                where.update({key(op): segment.index for op in segment.operations})
            case DeviceSegment():
                pass
    number = 0
    layer_of: dict[str, str] = {}
    device_macs: dict[int, int] = {}
    device_segments = [s for s in segments if isinstance(s, DeviceSegment)]
    by_program = {s.program.name: s.index for s in device_segments}
    for number, region in enumerate(outcome.regions):
        index = by_program[f"segment{number}"]
        for candidate in region.candidates:
            for op in candidate.operations:
                where[key(op)] = index
                layer_of[key(op)] = (
                    candidate.layer.value if isinstance(candidate, Candidate) else "rename"
                )
            if isinstance(candidate, Candidate):
                base = candidate.base
                for i in base.sources[:1]:
                    device_macs[i] = device_macs.get(i, 0) + candidate_macs(
                        legalised.graph, candidate
                    )
    rows: dict[int, PlacedOperation] = {}
    by_source: dict[int, list[Operation]] = {}
    for op in legalised.graph.operations:
        for i in op.sources:
            by_source.setdefault(i, []).append(op)
    for op in graph.operations:
        (i,) = op.sources
        members = by_source.get(i, [])
        placed = [m for m in members if key(m) in layer_of]
        macs = SPEC_OF[type(op)].macs(op, graph)
        host = [m for m in members if key(m) not in layer_of]
        reasons: dict[tuple[str, str], Violation] = {}
        for member in host:
            if key(member) in legalised.host_halves:
                violation = graph_violation(
                    "REWRITE-HOST-HALF", f"'{key(member)}' runs on the host", device
                )
                found: tuple[Violation, ...] = (violation,)
            else:
                found = outcome.loose.get(key(member)) or legalised.placement.reasons.get(
                    key(member), ()
                )
            for violation in found:
                reasons[violation.code, violation.found] = violation
        last = members[-1] if members else None
        rows[i] = PlacedOperation(
            index=i,
            type=op.location.type,
            name=op.location.name,
            on_device=bool(placed) and (last in placed),
            segment=None if last is None else where.get(key(last)),
            layer=layer_of.get(key(placed[-1])) if placed else None,
            rewrites=legalised.rewrites.get(i, ()),
            macs=macs,
            device_macs=device_macs.get(i, 0),
            reasons=tuple(reasons.values()),
        )
    for folded in graph.folded:
        i = folded.location.index
        violation = graph_violation("OP-FOLDED", "computed from shapes and constants", device)
        rows[i] = PlacedOperation(
            index=i,
            type=folded.location.type,
            name=folded.location.name,
            on_device=False,
            segment=None,
            layer=None,
            rewrites=(),
            macs=0,
            device_macs=0,
            reasons=(violation,),
        )
    return tuple(rows[i] for i in sorted(rows))
