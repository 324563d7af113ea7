# SPDX-License-Identifier: Apache-2.0
"""Graph -> Plan: rounds of rewriting, placing, partitioning and lowering.

A constraint of a segment or a refused lowering marks its operation for the host and starts the next
round; the set of device operations only shrinks, so the rounds end.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from akida_backend.akida1_chain import Arriving
from akida_backend.akida1_lowering import lower_akida1
from akida_backend.assembly import Outcome, assemble
from akida_backend.calibration import Calibration, calibrate
from akida_backend.candidate import Candidate, Candidates
from akida_backend.constraints import Violation, graph_violation
from akida_backend.devices import Device
from akida_backend.devices import device as find_device
from akida_backend.errors import InputError
from akida_backend.graph import Graph, Operation
from akida_backend.importers.tflite_operators import OPERATOR_TYPES
from akida_backend.loading import load
from akida_backend.options import Options, unknown
from akida_backend.partition import (
    Region,
    partition,
    pool_rule,
)
from akida_backend.placement import key
from akida_backend.plan import Plan
from akida_backend.policy import apply_fallback
from akida_backend.rewrites import legalise
from akida_backend.segments import LoweredSegment, lower_region

SUPPORTED_GENERATIONS = (1, 2)


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
        InputError: An unknown device or option, or calibration data that does not fit; for
            Akida 1.0 also where there is none and `allow_uncalibrated` is not set.
        FallbackError: `fallback` forbids what would stay on the host.
    """
    chosen = Options.parse({**options, "device": device})
    target = find_device(chosen.device)
    graph = model if isinstance(model, Graph) else load(model)
    calibration = calibrate(graph, chosen)
    plan = _compile(graph, target, chosen, calibration)
    apply_fallback(plan, chosen.fallback)
    return plan


def _compile(
    graph: Graph, device: Device, options: Options, calibration: Calibration | None
) -> Plan:
    refused = _denied(graph, device, options)
    while True:
        outcome = _round(graph, device, options, refused, calibration)
        if isinstance(outcome, Outcome):
            return assemble(graph, device, options, outcome)
        for index, violations in outcome.items():
            refused[index] = (*refused.get(index, ()), *violations)


def _denied(graph: Graph, device: Device, options: Options) -> dict[int, tuple[Violation, ...]]:
    """Operators that allow and deny lists keep on the host.

    Raises:
        InputError: An entry is no operator type, or names no operator of the model.
    """
    known = dict.fromkeys(
        label
        for op in (*graph.operations, *graph.folded)
        for label in (f"type:{op.location.type}", f"name:{op.location.name}")
    )
    known.update(dict.fromkeys(f"type:{name}" for name in OPERATOR_TYPES))
    for entry in (*options.allow, *options.deny):
        if entry not in known:
            kind = entry.partition(":")[0] + ":"
            alike = tuple(label for label in known if label.startswith(kind))
            raise InputError(unknown("entry of allow or deny", entry, alike))
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
) -> Outcome | dict[int, tuple[Violation, ...]]:
    """All programs, or the reasons that send operators to the host."""
    legalised = legalise(graph, device, options, refused)
    changed, candidates = legalised.graph, legalised.placement.candidates
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
    arriving = None if measured is None else Arriving(measured)
    unfit: dict[int, tuple[Violation, ...]] = {}
    for number, region in enumerate(regions):
        name = f"segment{number}"
        if device.generation == 1:
            result = lower_akida1(region, changed, device, name, measured, arriving, options)
        else:
            result = lower_region(region, changed, device, options, name, measured)
        if not isinstance(result, LoweredSegment):
            violation = graph_violation(result.refusal.code, result.refusal.found, device)
            # A sum too large for its buffer leaves the convolution without the average.
            summed = result.refusal.code == "LOWER-POST-OP" and result.candidate.average
            unfit.update(_all_sources(summed or result.candidate.base, violation))
            if device.generation == 2:
                return unfit
            continue
        lowered.append(result)
    if unfit:
        return unfit
    return Outcome(legalised, regions, tuple(lowered), loose)


def _all_sources(op: Operation, violation: Violation) -> dict[int, tuple[Violation, ...]]:
    return dict.fromkeys(op.sources, (violation,))


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
