# SPDX-License-Identifier: Apache-2.0
"""``devices``: what a model can be compiled for."""

from __future__ import annotations

import argparse
import dataclasses

from akida_backend.cli import HOLDS
from akida_backend.cli.output import show
from akida_backend.compare import supported_devices
from akida_backend.constraints import rules_of
from akida_backend.devices import Device, devices
from akida_backend.document import Document, Items, Lines, Table
from akida_backend.report import SCHEMA_VERSION, Json


def run(parsed: argparse.Namespace) -> int:
    known = devices()
    show(
        parsed,
        _document(known),
        {"schema_version": SCHEMA_VERSION, "devices": [_json(device) for device in known]},
    )
    return HOLDS


def _json(device: Device) -> Json:
    facts = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(device).items()
    }
    return {
        **facts,
        "supported": device.name in supported_devices(),
        "rules": [
            {
                "code": rule.id,
                "layer": rule.layer,
                "rule": rule.rule,
                "origin": rule.origin,
                "decides": rule.decides,
                "source": rule.source,
            }
            for rule in rules_of(device)
        ],
    }


def _document(known: tuple[Device, ...]) -> Document:
    def number(value: int | None) -> str:
        return "" if value is None else str(value)

    rows = tuple(
        (
            device.name,
            device.title,
            f"{device.generation}.0",
            "yes" if device.name in supported_devices() else "not yet",
            number(device.nodes),
            number(device.nps),
            number(device.clock_mhz),
            device.metatf_name or "",
        )
        for device in known
    )
    columns = Table(
        (
            ("device", "left"),
            ("what", "fold"),
            ("Akida", "left"),
            ("compiles", "left"),
            ("nodes", "right"),
            ("NPs", "right"),
            ("MHz", "right"),
            ("name in MetaTF", "fold"),
        ),
        rows,
    )
    sources = dict.fromkeys(source for device in known for source in device.sources)
    return [
        columns,
        Lines(("All devices are simulated. Empty: not published. Facts from:",)),
        Items(tuple((source, ()) for source in sources)),
    ]
