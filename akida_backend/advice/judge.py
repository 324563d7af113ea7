# SPDX-License-Identifier: Apache-2.0
"""Proposals are changes that were compiled: an operator counts as placed where its row says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from akida_backend.advice import edits
from akida_backend.advice.model import (
    Change,
    Proposal,
)
from akida_backend.advice.proposals import Situation
from akida_backend.candidate import is_model_input
from akida_backend.compiler import compile as compile_model
from akida_backend.devices import Device
from akida_backend.errors import AkidaBackendError
from akida_backend.graph import Graph
from akida_backend.plan import DeviceSegment, Plan
from akida_backend.report import mac_fraction

MOST_CHECKS: Final = 60  # compilations for single operators
CHECKS_OF_WHOLE: Final = 12  # left for the whole model


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
            if plan is None or not on_device(plan, index):
                return None
            return Proposal(
                change, "model", mac_fraction(plan), len(plan.programs), device_macs(plan)
            )
        alone = None if change.edit is None else change.edit(_cut_out(index, where))
        plan = None if alone is None else self.compiled(alone, change.options)
        if plan is None or not on_device(plan, index):
            return None
        return Proposal(change, "operator")


def placed(graph: Graph, device: Device, options: Mapping[str, object]) -> Plan:
    """A model compiled to see what runs where, whatever its scales."""
    placing = {**options, "fallback": "allow", "calibration": None, "allow_uncalibrated": True}
    return compile_model(graph, device.name, **placing)


def device_macs(plan: Plan) -> int:
    return sum(s.device_macs for s in plan.segments if isinstance(s, DeviceSegment))


def on_device(plan: Plan, index: int) -> bool:
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


def operations_on_device(plan: Plan) -> int:
    return sum(row.on_device for row in plan.placement)


def together(graph: Graph, changes: Mapping[int, Change]) -> tuple[Graph, set[int]]:
    """The model with all changes that have a form together, and whose they are."""
    made: set[int] = set()
    for index, change in sorted(changes.items()):
        changed = change.edit(graph) if change.edit is not None else None
        if changed is not None:
            graph = changed
            made.add(index)
    return graph, made
