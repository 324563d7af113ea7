# SPDX-License-Identifier: Apache-2.0
"""Which source operations become which Akida layers, under which rules: read from the tables."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

from akida_backend.constraints import Decides, LayerType, Rule, own_rules, rules_of
from akida_backend.devices import Device, devices
from akida_backend.document import Block, Document, Heading, Lines, Table, markdown
from akida_backend.graph import Opaque
from akida_backend.ops import ALL_SPECS
from akida_backend.report import NOT_CHECKED, SCHEMA_VERSION, Json
from akida_backend.rewrites import ALL_REWRITES
from akida_backend.spec import NO_LAYER, OpSpec

PAGE_GENERATION = 2  # what SUPPORTED_OPS.md speaks of


def operators_of(spec: OpSpec[Any]) -> tuple[str, ...]:
    """Operators of TFLite files an operation stands for: the first words of its module."""
    if spec.op_type is Opaque:
        return ()
    function = spec.reference or spec.candidate
    first_line = (sys.modules[function.__module__].__doc__ or "").partition(":")[0]
    return tuple(re.findall(r"\b[A-Z][A-Z0-9_]+\b", first_line))


def layers_of(spec: OpSpec[Any], device: Device) -> tuple[LayerType, ...]:
    """Layer types of the device's generation that an operation can become or join."""
    return tuple(layer for layer in spec.layers if layer.generation in (None, device.generation))


def layer_rules(device: Device, layer: LayerType) -> tuple[Rule, ...]:
    """Rules that decide whether the device takes a layer, strict ones included."""
    return tuple(
        rule
        for rule in (*rules_of(device), *own_rules())
        if rule.decides is not Decides.NEVER
        and rule.layer is not LayerType.GRAPH
        and rule.speaks_of(layer)
    )


def operations_json(device: Device) -> Json:
    """What ``ops --json`` prints; described by schemas/ops.json."""
    return {
        "schema_version": SCHEMA_VERSION,
        "device": device.name,
        "operations": [
            {
                "operation": spec.op_type.__name__,
                "operators": list(operators_of(spec)),
                "layers": list(layers_of(spec, device)),
                "placement": _placement(spec, device),
                "rules": sorted(
                    {r.id for layer in layers_of(spec, device) for r in layer_rules(device, layer)}
                ),
            }
            for spec in ALL_SPECS
        ],
        "rewrites": [
            {"name": rewrite.name, "kind": rewrite.kind, "effect": rewrite.effect}
            for rewrite in ALL_REWRITES
        ],
    }


def operations_document(device: Device) -> Document:
    """Operators, rewrites, and every rule that decides placement."""
    layers = dict.fromkeys(layer for spec in ALL_SPECS for layer in layers_of(spec, device))
    blocks: list[Block] = [
        Heading(f"Operators on {device.title}"),
        Lines(
            (
                "Operators in one line are one operation. An operator runs on the device only if "
                "every rule of its layer holds.",
                f"A placement is about operations and layers: {NOT_CHECKED}.",
            )
        ),
        _operators(device),
        Heading("Rewrites"),
        Lines(
            (
                "They apply only to operators that would stay on the host otherwise.",
                "exact: the same integers; same function: equal over the reals, only "
                "re-quantization differs.",
            )
        ),
        Table(
            (("rewrite", "left"), ("kind", "left"), ("effect", "fold")),
            tuple((rewrite.name, rewrite.kind, rewrite.effect) for rewrite in ALL_REWRITES),
        ),
    ]
    for layer in layers:
        blocks += [Heading(f"Rules of {layer}"), _rules(layer_rules(device, layer))]
    blocks += [
        Heading("Rules of the vendor's converter"),
        Lines(
            (
                "A converter's rule decides placement only where it states what a device program "
                "can hold.",
            )
        ),
        _converter(device),
        Heading("Other reasons to stay on the host"),
        _rules([rule for rule in own_rules() if rule.layer is LayerType.GRAPH]),
    ]
    return blocks


def supported_operations_page() -> str:
    """SUPPORTED_OPS.md."""
    covered = [device for device in devices() if device.generation == PAGE_GENERATION]
    names = ", ".join(f"`{device.name}`" for device in covered)
    return (
        "# Supported operators\n\n"
        "<!-- Written by tools/write_docs.py (`make docs`) from the tables of the program; "
        "do not edit. -->\n\n"
        f"For {names}, which share one profile of limits. "
        "`akida-backend inspect MODEL` says the same of a model.\n\n"
        + markdown(operations_document(covered[0]))
    )


def _operators(device: Device) -> Table:
    rows = tuple(
        (
            ", ".join(operators_of(spec)) or "all others",
            ", ".join(layers_of(spec, device)) or "none",
            _placement(spec, device),
        )
        for spec in ALL_SPECS
    )
    return Table((("operator", "left"), ("Akida layers", "fold"), ("placement", "fold")), rows)


def _placement(spec: OpSpec[Any], device: Device) -> str:
    """The sentence of an operation with layers of `PAGE_GENERATION` names those."""
    if spec.reference is None:
        return "No meaning here: on the host, executed by an installed runtime."
    layers = layers_of(spec, device)
    if device.generation == PAGE_GENERATION or layers == spec.layers:
        return spec.placement
    return "Becomes one of these layers, or joins one." if layers else NO_LAYER


def _rules(rules: Sequence[Rule]) -> Table:
    def condition(rule: Rule) -> str:
        return "; ".join(
            text
            for text in (
                rule.rule,
                "option strict_converter only" if rule.decides is Decides.STRICT else "",
            )
            if text
        )

    return Table(
        (("code", "left"), ("rule", "fold"), ("whose", "left"), ("source", "fold")),
        tuple((rule.id, condition(rule), rule.origin, rule.source) for rule in rules),
    )


def _converter(device: Device) -> Table:
    meanings = {
        Decides.ALWAYS: "yes",
        Decides.STRICT: "with strict_converter",
        Decides.NEVER: "no",
    }
    rows = tuple(
        (rule.id, rule.rule, meanings[rule.decides], rule.reason or "")
        for rule in rules_of(device)
        if rule.reason is not None
    )
    return Table((("code", "left"), ("rule", "fold"), ("decides", "left"), ("why", "fold")), rows)
