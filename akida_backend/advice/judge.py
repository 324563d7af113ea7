# SPDX-License-Identifier: Apache-2.0
"""Proposals are changes that were compiled: an operator counts as placed where its row says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from akida_backend.advice import edits
from akida_backend.advice.model import (
    Advice,
    Change,
    Cost,
    ModelProposal,
    OperatorAdvice,
    OtherDevice,
    Proposal,
)
from akida_backend.advice.proposals import Situation, changes_for, situation
from akida_backend.candidate import is_model_input
from akida_backend.compiler import compile as compile_model
from akida_backend.devices import Device, devices
from akida_backend.devices import device as find_device
from akida_backend.errors import AkidaBackendError
from akida_backend.graph import Graph
from akida_backend.options import Options
from akida_backend.plan import DeviceSegment, PlacedOperation, Plan
from akida_backend.report import mac_fraction

MOST_CHECKS: Final = 60  # compilations of a changed model
NOTHING_TO_CHANGE: Final = ("OP-FOLDED", "REWRITE-HOST-HALF", "GRAPH-NOT-QUANTIZED", "OP-OPAQUE")


@dataclass(slots=True)
class Judge:
    """Compiles changed models, a limited number of them; a set of options only once."""

    device: Device
    options: Mapping[str, object]
    checks: int = MOST_CHECKS
    _by_options: dict[str, Plan] = field(default_factory=dict)

    def compiled(self, graph: Graph, further: Mapping[str, object]) -> Plan | None:
        """The plan of a changed graph; None if no checks are left or nothing can be compiled."""
        known = f"{graph.sha256}{id(graph)}{sorted(further.items())}"
        if known in self._by_options:
            return self._by_options[known]
        if self.checks <= 0:
            return None
        self.checks -= 1
        try:
            plan = placed(graph, self.device, {**self.options, **further})
        except AkidaBackendError:  # such as a network that is left without inputs
            return None
        if further:
            self._by_options[known] = plan
        return plan

    def proposal(self, change: Change, index: int, where: Situation) -> Proposal | None:
        """The change as a proposal, if the device takes the operator then."""
        graph: Graph | None = where.graph
        if change.edit is not None:
            graph = change.edit(where.graph)
        if graph is not None:
            plan = self.compiled(graph, change.options)
            if plan is None or not _on_device(plan, index):
                return None
            return Proposal(
                change, "model", mac_fraction(plan), len(plan.programs), device_macs(plan)
            )
        alone = None if change.edit is None else change.edit(_cut_out(index, where))
        plan = None if alone is None else self.compiled(alone, change.options)
        if plan is None or not _on_device(plan, index):
            return None
        return Proposal(change, "operator")


def placed(graph: Graph, device: Device, options: Mapping[str, object]) -> Plan:
    """A model compiled to see what runs where, whatever its scales."""
    placing = {**options, "fallback": "allow", "calibration": None, "allow_uncalibrated": True}
    return compile_model(graph, device.name, **placing)


def device_macs(plan: Plan) -> int:
    return sum(s.device_macs for s in plan.segments if isinstance(s, DeviceSegment))


def _on_device(plan: Plan, index: int) -> bool:
    return any(row.index == index and row.on_device for row in plan.placement)


def _cut_out(index: int, where: Situation) -> Graph:
    """An operator as a network of its own, fed with what a device layer would give it."""
    graph = where.graph
    op = edits.operator(graph, index)
    assert op is not None
    inputs = graph.activations_of(op)
    alone = dataclasses.replace(graph, inputs=inputs, outputs=op.outputs, folded=())
    alone = alone.with_changes(operations=(op,))
    for name in inputs:
        if where.device.generation == 1 and not is_model_input(name, graph):
            alone = edits.four_bit_input(name)(alone) or alone
    return alone


def advice(graph: Graph, device: str, options: Mapping[str, object]) -> Advice:
    """Compile a model, look for changes of what stays on the host, and compile with each.

    Raises:
        InputError: An unknown device or option.
    """
    chosen = Options.parse({**options, "device": device})
    target = find_device(device)
    given = {name: value for name, value in options.items() if name != "device"}
    plan = placed(graph, target, given)
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
    alternatives = _edits_instead(changes, first)
    judge.checks = max(judge.checks, 4)
    whole, taken = _whole_model(plan, first, alternatives, judge, where)
    operators = []
    for row in on_host:
        proposals = [first[row.index]] if row.index in first else []
        if row.index in taken and row.index in alternatives:
            proposals.append(taken[row.index])
        fits = tuple(other.device.name for other in others if _on_device(other, row.index))
        operators.append(OperatorAdvice(row, tuple(proposals), fits))
    return Advice(
        plan=plan,
        operators=tuple(operators),
        model=whole,
        others=tuple(
            OtherDevice(
                other.device.name,
                mac_fraction(other),
                _operations_on_device(other),
                len(other.programs),
            )
            for other in others
        ),
        unchecked=tuple(sorted(unchecked)),
    )


def _hopeless(row: PlacedOperation) -> bool:
    return any(reason.code in NOTHING_TO_CHANGE for reason in row.reasons)


def _others(graph: Graph, device: Device, options: Mapping[str, object]) -> tuple[Plan, ...]:
    """The model as it is on one device of each other set of limits."""
    found: dict[str, Device] = {}
    for other in devices():
        if other.constraints != device.constraints:
            found.setdefault(other.constraints, other)
    return tuple(placed(graph, other, options) for other in found.values())


def _edits_instead(
    changes: Mapping[int, Sequence[Change]], first: Mapping[int, Proposal]
) -> dict[int, Change]:
    """Of operators that an option would place, the first change of the model that might."""
    return {
        index: next(change for change in listed if change.edit is not None)
        for index, listed in changes.items()
        if index in first
        and first[index].change.cost is Cost.OPTION
        and any(change.edit is not None for change in listed)
    }


def _whole_model(
    plan: Plan,
    first: Mapping[int, Proposal],
    alternatives: Mapping[int, Change],
    judge: Judge,
    where: Situation,
) -> tuple[tuple[ModelProposal, ...], dict[int, Proposal]]:
    """Options alone, changes of the model alone, and both; and the alternatives that hold."""
    options = {name: v for p in first.values() for name, v in p.change.options.items()}
    model = {index: proposal.change for index, proposal in first.items() if proposal.change.edit}
    by_option = {
        index: proposal.change for index, proposal in first.items() if proposal.change.options
    }
    same = {index: change for index, change in model.items() if change.cost is Cost.SAME}
    results: list[ModelProposal] = []
    taken: dict[int, Proposal] = {}
    for further, listed in (
        ({}, same),
        (options, same),
        (options, model),
        ({}, {**model, **alternatives}),
    ):
        named = [*listed.items(), *(by_option.items() if further else ())]
        if not named:
            continue
        graph, made = _together(where.graph, listed)
        changed = judge.compiled(graph, further)
        if changed is None:
            continue
        named = [(i, c) for i, c in named if c.edit is None or i in made]
        found = ModelProposal(
            _grouped(named),
            mac_fraction(changed),
            _operations_on_device(changed),
            len(changed.programs),
            device_macs(changed),
        )
        if not further:
            taken.update(
                (
                    index,
                    Proposal(
                        change, "model", found.mac_fraction, found.partitions, found.device_macs
                    ),
                )
                for index, change in alternatives.items()
                if index in made and _on_device(changed, index)
            )
        if _better(found, plan) and all(found.changes != known.changes for known in results):
            results.append(found)
    return tuple(results), taken


def _together(graph: Graph, changes: Mapping[int, Change]) -> tuple[Graph, set[int]]:
    """The model with all changes that have a form together, and whose they are."""
    made: set[int] = set()
    for index, change in sorted(changes.items()):
        changed = change.edit(graph) if change.edit is not None else None
        if changed is not None:
            graph = changed
            made.add(index)
    return graph, made


def _grouped(
    changes: Iterable[tuple[int, Change]],
) -> tuple[tuple[tuple[int, ...], str], ...]:
    """Changes with the operators they are made for."""
    found: dict[str, list[int]] = {}
    for index, change in sorted(changes, key=lambda entry: entry[0]):
        found.setdefault(change.text, []).append(index)
    return tuple((tuple(indices), text) for text, indices in found.items())


def _operations_on_device(plan: Plan) -> int:
    return sum(row.on_device for row in plan.placement)


def _better(found: ModelProposal, plan: Plan) -> bool:
    if (found.mac_fraction or 0.0) > (mac_fraction(plan) or 0.0):
        return True
    same = found.mac_fraction == mac_fraction(plan)
    return same and found.operations_on_device > _operations_on_device(plan)
