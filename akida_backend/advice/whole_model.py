# SPDX-License-Identifier: Apache-2.0
"""Proposals for a whole model: changes compiled together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from akida_backend.advice.judge import (
    Judge,
    device_macs,
    on_device,
    operations_on_device,
    together,
)
from akida_backend.advice.model import Change, Cost, ModelProposal, Proposal
from akida_backend.advice.proposals import Situation
from akida_backend.graph import Graph
from akida_backend.plan import Plan
from akida_backend.report import mac_fraction


def edits_instead(
    changes: Mapping[int, Sequence[Change]], first: Mapping[int, Proposal]
) -> dict[int, Change]:
    """Of operators that an option would place, the first change of the model that might."""
    found: dict[int, Change] = {}
    for index, proposal in first.items():
        if proposal.change.cost is Cost.OPTION:
            edits = (c for c in changes[index] if c.edit is not None and not c.options)
            found.update((index, change) for change in islice(edits, 1))
    return found


def held_together(
    alternatives: Mapping[int, Change], judge: Judge, where: Situation
) -> dict[int, Proposal]:
    """Those of the alternatives that hold, made together."""
    made = _made(where.graph, alternatives, {}, judge)
    if made is None:
        return {}
    plan, listed = made
    share, count, macs = mac_fraction(plan), len(plan.programs), device_macs(plan)
    return {i: Proposal(c, "model", share, count, macs) for i, c in listed.items()}


def whole_model(
    plan: Plan,
    every: Mapping[int, Change],
    instead: Mapping[int, Proposal],
    judge: Judge,
    where: Situation,
) -> tuple[ModelProposal, ...]:
    """Changes of no value, options, changes of the model, and all: those that bring something."""
    options = {name: v for change in every.values() for name, v in change.options.items()}
    by_option = {index: c for index, c in every.items() if c.options and not c.edit}
    model = {index: change for index, change in every.items() if change.edit}
    edited = {index: change for index, change in model.items() if not change.options}
    same = {index: change for index, change in model.items() if change.cost is Cost.SAME}
    others = {index: proposal.change for index, proposal in instead.items()}
    now = _model_proposal(plan, {})
    results: list[ModelProposal] = []
    for further, listed in (
        ({}, same),
        (options, same),
        (options, model),
        ({}, {**edited, **others}),
    ):
        made = _made(where.graph, listed, further, judge)
        if made is None:
            continue
        changed, done = made
        found = _model_proposal(changed, {**done, **(by_option if further else {})})
        if not any(found.no_better_than(known) for known in (now, *results)):
            results.append(found)
    return tuple(results)


def _model_proposal(plan: Plan, changes: Mapping[int, Change]) -> ModelProposal:
    return ModelProposal(
        _grouped(changes.items()),
        mac_fraction(plan),
        operations_on_device(plan),
        len(plan.programs),
        plan.macs,
        device_macs(plan),
    )


def _made(
    graph: Graph, changes: Mapping[int, Change], options: Mapping[str, object], judge: Judge
) -> tuple[Plan, dict[int, Change]] | None:
    """The model compiled with all changes that hold together, and which do."""
    listed = dict(changes)
    while listed or options:
        changed, made = together(graph, listed)
        plan = judge.compiled(changed, options)
        if plan is None:
            return None
        kept = {i: c for i, c in listed.items() if i in made and on_device(plan, i)}
        if kept == listed:
            return plan, listed
        listed = kept
    return None


def _grouped(
    changes: Iterable[tuple[int, Change]],
) -> tuple[tuple[tuple[int, ...], str], ...]:
    """Changes with the operators they are made for."""
    found: dict[str, list[int]] = {}
    for index, change in sorted(changes, key=lambda entry: entry[0]):
        found.setdefault(change.text, []).append(index)
    return tuple((tuple(indices), text) for text, indices in found.items())
