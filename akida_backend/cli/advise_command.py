# SPDX-License-Identifier: Apache-2.0
"""``advise``: the smallest changes that let a device take more of a model."""

from __future__ import annotations

import argparse

from akida_backend.advice.render import advice_document, advice_json
from akida_backend.cli import HOLDS
from akida_backend.cli.arguments import options_of
from akida_backend.cli.model import graph_of
from akida_backend.cli.output import show
from akida_backend.compare import ALL_DEVICES
from akida_backend.compatibility import Compatible, advise, create_from_model
from akida_backend.compiler import compile as compile_model
from akida_backend.devices import devices
from akida_backend.document import Block, Heading, Items, Lines
from akida_backend.errors import InputError
from akida_backend.report import Json, fraction_text, mac_fraction


def run(parsed: argparse.Namespace) -> int:
    every = parsed.device.casefold() == ALL_DEVICES
    if bool(parsed.out) != parsed.apply:
        raise InputError("--apply and -o FILE go together")
    if parsed.apply and every:
        raise InputError("--apply writes the model for one device: name it with --device")
    graph = graph_of(parsed)
    options = options_of(parsed)
    if not parsed.apply:
        names = _one_of_each_kind() if every else [parsed.device]
        advices = [advise(graph, name, **options) for name in names]
        show(parsed, advice_document(advices), advice_json(advices))
        return HOLDS
    fitted = create_from_model(graph, parsed.device, **options)
    applied = _applied(fitted, parsed.out)
    shown = [*advice_document([fitted.advice]), *_written(fitted, applied)]
    show(parsed, shown, advice_json([fitted.advice], applied))
    return HOLDS


def _one_of_each_kind() -> list[str]:
    """The first device of every set of limits."""
    kinds = {device.constraints: device.name for device in reversed(devices())}
    return [device.name for device in devices() if device.name in kinds.values()]


def _applied(fitted: Compatible, path: str) -> Json:
    """Write the model; the file is compiled again, to say what it brings."""
    written = fitted.save(path)
    plan = fitted.advice.plan
    again = compile_model(path, plan.device.name, allow_uncalibrated=True)
    return {
        "path": written.path,
        "bytes": written.bytes,
        "sha256": written.sha256,
        "proven_on_samples": written.samples,
        "rewrites": [
            {"index": entry.index, "names": list(entry.rewrites)} for entry in fitted.applied
        ],
        "mac_fraction_on_device": mac_fraction(again),
        "partitions": len(again.programs),
    }


def _written(fitted: Compatible, applied: Json) -> list[Block]:
    named: dict[str, list[str]] = {}
    for entry in fitted.applied:
        for name in entry.rewrites:
            named.setdefault(name, []).append(str(entry.index))
    made = [f"{name} (op {', '.join(indices)})" for name, indices in named.items()]
    share = fraction_text(applied["mac_fraction_on_device"])
    on_device = f"; {share} of its MACs run on {fitted.advice.plan.device.name}" if share else ""
    blocks: list[Block] = [
        Heading(f"Written to {applied['path']}: {applied['bytes']} bytes"),
        Lines(
            (
                f"Equal to the original bit for bit on {applied['proven_on_samples']} random "
                f"inputs{on_device}.",
                f"Applied: {'; '.join(made) or 'nothing, no exact rewrite is needed here'}.",
            )
        ),
    ]
    left = tuple(
        (f"op {entry.row.index} {entry.row.type}: {entry.proposals[0].change.text}", ())
        for entry in fitted.proposals
    )
    return [*blocks, Heading("Not applied"), Items(left)] if left else blocks
