# SPDX-License-Identifier: Apache-2.0
"""Advice for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from akida_backend.advice.model import Advice, Cost, ModelProposal, OperatorAdvice, Proposal
from akida_backend.devices import Device, devices
from akida_backend.document import Block, Document, Heading, Items, Lines, Table
from akida_backend.graph import short_name
from akida_backend.plan import PlacedOperation
from akida_backend.report import (
    NOT_QUANTIZED,
    SCHEMA_VERSION,
    Json,
    fraction_text,
    model_json,
    model_lines,
    placed_line,
    plan_json,
    quantize_hint,
)

_MARKS: Final = {Cost.SAME: ["same values"], Cost.OPTION: [], Cost.TRAINING: ["train again"]}
_MOVES: Final = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
_BORDERS: Final = ("QUANTIZE", "DEQUANTIZE", "QuantizeLinear", "DequantizeLinear")


def advice_document(advices: Sequence[Advice]) -> Document:
    """What runs on each device, and what would have to change for the rest."""
    blocks: list[Block] = [Lines(model_lines(advices[0].plan)), *quantize_hint(advices[0].plan)]
    for advice in advices:
        blocks += _device(advice)
    return blocks


def _device(advice: Advice) -> list[Block]:
    plan = advice.plan
    blocks: list[Block] = [
        Heading(f"{', '.join((plan.device.name, *_alike(plan.device)))}: {plan.device.title}"),
        Lines((placed_line(plan), *_rewrites(advice), *_merged(advice))),
    ]
    changeable = [entry for entry in advice.operators if entry.proposals]
    if changeable:
        blocks += [
            Heading(f"Smallest changes that place more, each compiled for {plan.device.name}"),
            _changes(advice, changeable),
        ]
    whole = [_model_line(found, advice) for found in advice.model]
    blocks += [Heading("The whole model"), Items(tuple(whole))] if whole else []
    blocks += _left(advice)
    blocks += _elsewhere(advice)
    return blocks


def _alike(device: Device) -> list[str]:
    """Devices with the same limits."""
    return [d.name for d in devices() if d.constraints == device.constraints and d != device]


def _rewrites(advice: Advice) -> list[str]:
    """Which rewrites let operators run there."""
    named: dict[str, list[int]] = {}
    for row in advice.plan.placement:
        for name in row.rewrites:
            named.setdefault(name, []).append(row.index)
    if not named:
        return []
    listed = "; ".join(f"{name} ({_ops(indices)})" for name, indices in named.items())
    return [f"Rewrites applied while compiling: {listed}."]


def _merged(advice: Advice) -> list[str]:
    """Which operators share one layer, whose codes in between are gone."""
    lines = []
    for entry in advice.merged:
        error = (
            "error not measured: give calibration inputs"
            if entry.sqnr_db is None
            else f"{entry.sqnr_db:.1f} dB from the source on calibration inputs"
        )
        lines.append(f"One SeparableConvolutional of {_ops(entry.operators)}: {error}.")
    return lines


def _ops(indices: Sequence[int]) -> str:
    return f"op{'' if len(indices) == 1 else 's'} {', '.join(map(str, indices))}"


Group = list[OperatorAdvice]


def _grouped(entries: Iterable[OperatorAdvice]) -> list[Group]:
    """Operators with the same reasons and the same proposals."""
    groups: dict[tuple[object, ...], Group] = {}
    for entry in entries:
        reasons = tuple(reason.code for reason in entry.row.reasons)
        proposals = tuple(proposal.change.text for proposal in entry.proposals)
        groups.setdefault((entry.row.type, reasons, proposals), []).append(entry)
    return list(groups.values())


def _changes(advice: Advice, entries: Sequence[OperatorAdvice]) -> Table:
    total = advice.plan.macs
    rows: list[tuple[str, ...]] = []
    for group in _grouped(entries):
        first = group[0]
        macs = sum(entry.row.macs for entry in group)
        for number, proposal in enumerate(first.proposals):
            head = number == 0
            rows.append(
                (
                    ", ".join(str(entry.row.index) for entry in group) if head else "or",
                    first.row.type if head else "",
                    _found(group) if head else "",
                    fraction_text(macs / total) if head and macs else "",
                    _proposed(proposal),
                    _span([entry.proposals[number].mac_fraction for entry in group]),
                    _partitions([entry.proposals[number].partitions for entry in group]),
                )
            )
    return Table(
        (
            ("op", "fold"),
            ("type", "left"),
            ("found", "fold"),
            ("its MACs", "right"),
            ("smallest change", "fold"),
            ("then on\ndevice", "right"),
            ("partitions", "right"),
        ),
        tuple(rows),
    )


def _found(group: Group) -> str:
    """What each rule found, where that is the same for all; else the codes."""
    found = {tuple(reason.found for reason in entry.row.reasons) for entry in group}
    codes = ", ".join(dict.fromkeys(reason.code for reason in group[0].row.reasons))
    return f"{'; '.join(found.pop())} [{codes}]" if len(found) == 1 else codes


def _proposed(proposal: Proposal) -> str:
    marks = [*_MARKS[proposal.change.cost]]
    if proposal.judged_on == "operator":
        marks.append("seen on this operator alone")
    if proposal.judged_on == "changed model":
        marks.append("with the changes of the others")
    return f"{proposal.change.text} ({'; '.join(marks)})" if marks else proposal.change.text


def _span(fractions: Sequence[float | None]) -> str:
    known = sorted({fraction for fraction in fractions if fraction is not None})
    return "" if not known else fraction_text(known[-1])


def _partitions(counts: Sequence[int | None]) -> str:
    known = [count for count in counts if count is not None]
    return "" if not known else str(min(known))


def _model_line(found: ModelProposal, advice: Advice) -> tuple[str, tuple[str, ...]]:
    changes = " and ".join(f"{text} ({_ops(indices)})" for indices, text in found.changes)
    share = fraction_text(found.mac_fraction)
    parts = [f"{found.operations_on_device} of {len(advice.plan.placement)} operations"]
    parts += [f"{share} of {found.macs:,} MACs"] if share else []
    parts.append(f"{found.partitions} partition{'' if found.partitions == 1 else 's'}")
    if found.macs and found.device_macs != found.macs:
        times = found.device_macs / found.macs
        parts.append(f"{found.device_macs:,} device MACs, {times:.1f} times the model's")
    return f"with {changes}:", (", ".join(parts),)


def _left(advice: Advice) -> list[Block]:
    """Operators that no change was found for, each kind in one line."""
    items = []
    unchecked = set(advice.unchecked)
    for group in _grouped(entry for entry in advice.operators if not entry.proposals):
        indices = [entry.row.index for entry in group]
        row = group[0].row
        reason = row.reasons[0]
        macs = sum(entry.row.macs for entry in group)
        share = f", {fraction_text(macs / advice.plan.macs)} of the MACs" if macs else ""
        looked = "not looked at" if unchecked.issuperset(indices) else _why_left(row)
        name = f" '{short_name(row.name)}'" if len(group) == 1 else ""
        items.append((f"{_ops(indices)} {row.type}{name}{share} [{reason.code}]: {looked}", ()))
    if not items:
        return []
    return [Heading("No change found that places these"), Items(tuple(items))]


def _why_left(row: PlacedOperation) -> str:
    """One line on an operator that stays on the host."""
    reason = row.reasons[0]
    if not row.macs and reason.code == NOT_QUANTIZED and row.type in _BORDERS:
        return "converts between reals and integers, which is the host's work; nothing to do."
    if not row.macs and reason.code == "OP-NO-LAYER":
        if row.type in _MOVES:
            return "only rearranges values, which the host does; nothing to do."
        return "no Akida layer computes it; leave it on the host."
    return reason.remedy


def _elsewhere(advice: Advice) -> list[Block]:
    """What other devices make of the model as it is."""
    lines = []
    for other in advice.others:
        fits = [entry.row.index for entry in advice.operators if other.name in entry.fits]
        share = fraction_text(other.mac_fraction)
        macs = f"{share} of MACs, " if share else ""
        partitions = f"{other.partitions} partition{'' if other.partitions == 1 else 's'}"
        more = f"; takes {_ops(fits)}, which {advice.plan.device.name} does not" if fits else ""
        lines.append(
            (
                f"{other.name}: {other.operations_on_device} of {len(advice.plan.placement)} "
                f"operations, {macs}{partitions}{more}",
                (),
            )
        )
    return [Heading("Other devices, the model as it is"), Items(tuple(lines))] if lines else []


# JSON


def advice_json(advices: Sequence[Advice], applied: Json | None = None) -> Json:
    """What ``advise --json`` prints; described by schemas/advise.json."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model": model_json(advices[0].plan.graph),
        "reports": [_report_json(advice) for advice in advices],
        "applied": applied,
    }


def _report_json(advice: Advice) -> Json:
    plan = advice.plan
    planned = plan_json(plan)
    operations = {entry["index"]: entry for entry in planned["operations"]}
    return {
        "device": plan.device.name,
        "same_limits": _alike(plan.device),
        "summary": planned["summary"],
        "rewrites": [
            {"index": row.index, "names": list(row.rewrites)}
            for row in plan.placement
            if row.rewrites
        ],
        "merged": [
            {
                "operators": list(entry.operators),
                "sqnr_db": entry.sqnr_db
                if entry.sqnr_db is not None and math.isfinite(entry.sqnr_db)
                else None,
            }
            for entry in advice.merged
        ],
        "operators": [
            {
                "index": entry.row.index,
                "type": entry.row.type,
                "name": entry.row.name,
                "macs": entry.row.macs,
                "reasons": operations[entry.row.index]["reasons"],
                "proposals": [_proposal_json(proposal) for proposal in entry.proposals],
                "checked": entry.row.index not in advice.unchecked,
                "fits_devices": list(entry.fits),
            }
            for entry in advice.operators
        ],
        "model_proposals": [
            {
                "changes": [
                    {"operators": list(indices), "change": text} for indices, text in found.changes
                ],
                "mac_fraction_on_device": found.mac_fraction,
                "operations_on_device": found.operations_on_device,
                "partitions": found.partitions,
                "device_macs": found.device_macs,
            }
            for found in advice.model
        ],
        "other_devices": [
            {
                "device": other.name,
                "mac_fraction_on_device": other.mac_fraction,
                "operations_on_device": other.operations_on_device,
                "partitions": other.partitions,
            }
            for other in advice.others
        ],
    }


def _proposal_json(proposal: Proposal) -> Json:
    return {
        "change": proposal.change.text,
        "cost": proposal.change.cost.value,
        "judged_on": proposal.judged_on,
        "mac_fraction_on_device": proposal.mac_fraction,
        "partitions": proposal.partitions,
        "device_macs": proposal.device_macs,
    }
