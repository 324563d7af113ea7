# SPDX-License-Identifier: Apache-2.0
"""Graph -> Plan: rounds of rewriting, placing, partitioning and lowering.

A constraint of a segment or a refused lowering marks its operation for the host and starts the next
round; the set of device operations only shrinks, so the rounds end.
"""

from __future__ import annotations

import dataclasses
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
from akida_backend.graph import FoldedOperation, Graph, Operation, short_name
from akida_backend.importers.tflite_operators import OPERATOR_TYPES
from akida_backend.loading import load
from akida_backend.options import MOST_LISTED, Options, unknown
from akida_backend.partition import (
    Region,
    partition,
    pool_rule,
)
from akida_backend.placement import key
from akida_backend.plan import Plan
from akida_backend.policy import apply_fallback
from akida_backend.rewrites import legalise
from akida_backend.segments import (
    LoweredSegment,
    SegmentRefusal,
    further_refusals,
    lower_region,
)

SUPPORTED_GENERATIONS = (1, 2)


def compile(
    model: Graph | str | os.PathLike[str] | bytes,
    device: str | Device = "akida2",
    **options: object,
) -> Plan:
    """Decide what runs on the device, and lower it to programs.

    Args:
        model: A Graph, or what `load` takes.
        device: A device or its name.
        options: Fields of `Options`.

    Raises:
        ImportModelError: The model cannot be read.
        InputError: An unknown device or option, or calibration data that does not fit; for
            Akida 1.0 also where there is none and `allow_uncalibrated` is not set.
        FallbackError: `fallback` forbids what would stay on the host.
    """
    target = find_device(device)
    chosen = Options.parse({**options, "device": target.name})
    graph = model if isinstance(model, Graph) else load(model)
    calibration = calibrate(graph, chosen)
    if calibration is None:  # reports must not speak of inputs that were not used
        chosen = dataclasses.replace(chosen, calibration=None)
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
    every = (*graph.operations, *graph.folded)
    known = dict.fromkeys(label for op in every for label in _labels(op))
    known.update(dict.fromkeys(f"type:{name}" for name in OPERATOR_TYPES))
    for entry in (*options.allow, *options.deny):
        if entry not in known:
            shown = [op for op in every if f"name:{short_name(op.location.name)}" == entry]
            if shown:
                numbers = ", ".join(f"op:{op.location.index}" for op in shown[:MOST_LISTED])
                more = f" and {len(shown) - MOST_LISTED} more" if shown[MOST_LISTED:] else ""
                raise InputError(
                    f"entry of allow or deny '{entry}': is a shortened name\n"
                    f"  give the number of the operator: {numbers}{more}"
                )
            form, _, given = entry.partition(":")
            alike = tuple(label[len(form) + 1 :] for label in known if label.startswith(f"{form}:"))
            kind = {"op": "number"}.get(form, form)
            text = unknown(f"operator {kind} in allow or deny", given, alike)
            raise InputError(f"{text}\n  an operator's number in reports is an entry, too: op:12")
    refused: dict[int, tuple[Violation, ...]] = {}
    for op in graph.operations:
        labels = set(_labels(op))
        denied = sorted(labels & set(options.deny))
        for index in op.sources:
            if denied:
                found = f"denied by '{denied[0]}'"
                refused[index] = (graph_violation("POLICY-DENIED", found, device),)
            elif options.allow and not labels & set(options.allow):
                found = "in no allow entry"
                refused[index] = (graph_violation("POLICY-NOT-ALLOWED", found, device),)
    return refused


def _labels(op: Operation | FoldedOperation) -> list[str]:
    """What allow and deny lists may call it."""
    indices = (op.location.index,) if isinstance(op, FoldedOperation) else op.sources
    numbers = (f"op:{index}" for index in indices)
    return [f"type:{op.location.type}", f"name:{op.location.name}", *numbers]


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
        if isinstance(result, LoweredSegment):
            lowered.append(result)
            continue
        unfit.update(_refusal(result, device))
        if device.generation == 2:
            for further in further_refusals(region, result, changed, device, options, measured):
                unfit.update(_refusal(further, device))
    if unfit:
        return unfit
    return Outcome(legalised, regions, tuple(lowered), loose)


def _refusal(found: SegmentRefusal, device: Device) -> dict[int, tuple[Violation, ...]]:
    violation = graph_violation(found.refusal.code, found.refusal.found, device)
    # A sum too large for its buffer leaves the convolution without the average.
    summed = found.refusal.code == "LOWER-POST-OP" and found.candidate.average
    return dict.fromkeys((summed or found.candidate.base).sources, (violation,))


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
