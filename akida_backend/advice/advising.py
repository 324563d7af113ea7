# SPDX-License-Identifier: Apache-2.0
"""Advice for one model and one device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from akida_backend.advice.judge import (
    CHECKS_OF_WHOLE,
    Judge,
    device_macs,
    on_device,
    operations_on_device,
    placed,
    together,
)
from akida_backend.advice.merged import merged_layers
from akida_backend.advice.model import (
    Advice,
    Change,
    Cost,
    OperatorAdvice,
    OtherDevice,
    Proposal,
)
from akida_backend.advice.proposals import Situation, changes_for, situation
from akida_backend.advice.whole_model import edits_instead, held_together, whole_model
from akida_backend.compiler import compile as compile_model
from akida_backend.devices import Device, devices
from akida_backend.devices import device as find_device
from akida_backend.graph import Graph
from akida_backend.options import Options
from akida_backend.plan import PlacedOperation, Plan
from akida_backend.report import mac_fraction

NOTHING_TO_CHANGE: Final = (
    "OP-FOLDED",
    "REWRITE-HOST-HALF",
    "GRAPH-NOT-QUANTIZED",
    "GRAPH-FLOAT-EDGE",
    "OP-OPAQUE",
)


def advice(graph: Graph, device: str | Device, options: Mapping[str, object]) -> Advice:
    """Compile a model, look for changes of what stays on the host, and compile with each.

    Raises:
        InputError: An unknown device or option.
    """
    target = find_device(device)
    chosen = Options.parse({**options, "device": target.name})
    given = {name: value for name, value in options.items() if name != "device"}
    plan = placed(graph, target, given)
    measured = plan
    if chosen.calibration is not None and target.generation == 1:
        measured = compile_model(graph, device, **{**given, "fallback": "allow"})
    judge = Judge(target, given)
    where = situation(graph, target, chosen)
    others = _others(graph, target, given)
    on_host = [
        row
        for row in plan.placement
        if not row.on_device and all(reason.code != "OP-FOLDED" for reason in row.reasons)
    ]
    changes = {
        row.index: () if _hopeless(row) else tuple(changes_for(row, where)) for row in on_host
    }
    first: dict[int, Proposal] = {}
    unchecked: list[int] = []
    for row in sorted(on_host, key=lambda row: -row.macs):  # what matters most, first
        for change in changes[row.index]:
            proposal = judge.proposal(change, row.index, where)
            if proposal is not None:
                first[row.index] = proposal
                break
        else:
            if judge.checks <= 0 and changes[row.index]:
                unchecked.append(row.index)
    singly = {index: proposal.change for index, proposal in first.items()}
    behind = _behind_others(
        [row for row in on_host if row.index not in first and not _hopeless(row)],
        singly,
        judge,
        where,
    )
    alternatives = edits_instead(changes, first)
    judge.checks = max(judge.checks, CHECKS_OF_WHOLE)
    instead = held_together(alternatives, judge, where)
    whole = whole_model(plan, {**singly, **behind.changes}, instead, judge, where)
    operators = []
    for row in on_host:
        found = first.get(row.index) or behind.proposals.get(row.index)
        proposals = [] if found is None else [found]
        if row.index in instead:
            proposals.append(instead[row.index])
        fits = tuple(other.device.name for other in others if on_device(other, row.index))
        operators.append(OperatorAdvice(row, tuple(proposals), fits))
    return Advice(
        plan=plan,
        operators=tuple(operators),
        model=whole,
        others=tuple(
            OtherDevice(
                other.device.name,
                mac_fraction(other),
                operations_on_device(other),
                len(other.programs),
            )
            for other in others
        ),
        merged=merged_layers(measured),
        unchecked=tuple(sorted(unchecked)),
    )


@dataclass(frozen=True, slots=True)
class _Behind:
    """What holds only together with the changes of other operators.

    Attributes:
        proposals: By operator; each includes those changes.
        changes: What they add to those.
    """

    proposals: Mapping[int, Proposal]
    changes: Mapping[int, Change]


def _behind_others(
    rows: Sequence[PlacedOperation], singly: Mapping[int, Change], judge: Judge, where: Situation
) -> _Behind:
    """Changes of operators that no change alone places, in the model with all that do."""
    graph, made = together(where.graph, singly)
    options = {name: v for change in singly.values() for name, v in change.options.items()}
    plan = judge.compiled(graph, options) if made and rows else None
    if plan is None:
        return _Behind({}, {})
    others = {index: singly[index] for index in made}
    cost = max((change.cost for change in others.values()), key=list(Cost).index)
    changed = situation(graph, where.device, dataclasses.replace(where.options, **options))  # type: ignore[arg-type]
    placed_now = {row.index: row for row in plan.placement}
    proposals: dict[int, Proposal] = {}
    added: dict[int, Change] = {}
    for row in rows:
        now = placed_now[row.index]
        if now.on_device:
            text = "nothing more"
            change = Change(text, cost, lambda graph: together(graph, others)[0], options)
            share = mac_fraction(plan)
            proposals[row.index] = Proposal(
                change, "changed model", share, len(plan.programs), device_macs(plan)
            )
            continue
        for alone in changes_for(now, changed):
            change = dataclasses.replace(alone, options={**options, **alone.options})
            found = judge.proposal(change, row.index, changed) if change.edit else None
            if found is not None and found.judged_on == "model":
                added[row.index] = alone
                proposals[row.index] = _with_others(found, others, cost)
                break
    return _Behind(proposals, added)


def _with_others(found: Proposal, others: Mapping[int, Change], cost: Cost) -> Proposal:
    """A proposal for the changed model as one for the model as it is."""
    change = found.change

    def edit(graph: Graph) -> Graph | None:
        changed, made = together(graph, others)
        return change.edit(changed) if change.edit and made == set(others) else None

    costlier = max(change.cost, cost, key=list(Cost).index)
    whole = dataclasses.replace(change, cost=costlier, edit=edit)
    return dataclasses.replace(found, change=whole, judged_on="changed model")


def _hopeless(row: PlacedOperation) -> bool:
    return any(reason.code in NOTHING_TO_CHANGE for reason in row.reasons)


def _others(graph: Graph, device: Device, options: Mapping[str, object]) -> tuple[Plan, ...]:
    """The model as it is on one device of each other set of limits."""
    found: dict[str, Device] = {}
    for other in devices():
        if other.constraints != device.constraints:
            found.setdefault(other.constraints, other)
    return tuple(placed(graph, other, options) for other in found.values())
