# SPDX-License-Identifier: Apache-2.0
"""``compile``: a model as a file that runs without the model."""

from __future__ import annotations

import argparse
import hashlib

from akida_backend import compiler
from akida_backend.cli import HOLDS
from akida_backend.cli.arguments import options_of
from akida_backend.cli.model import graph_of
from akida_backend.cli.output import say, show
from akida_backend.compare import ALL_DEVICES
from akida_backend.document import Document, Lines, Table
from akida_backend.errors import InputError
from akida_backend.plan import DeviceSegment, Plan
from akida_backend.plan_format import check_ending, content_hash, is_plan, save_plan
from akida_backend.program_format import content_hash as program_hash
from akida_backend.program_format import program_to_bytes
from akida_backend.report import (
    SCHEMA_VERSION,
    Json,
    emulated,
    model_json,
    model_lines,
    placed_line,
    plan_json,
)


def run(parsed: argparse.Namespace) -> int:
    if parsed.device.casefold() == ALL_DEVICES:
        raise InputError("compile needs one device; inspect and compare take 'all'")
    check_ending(parsed.out)
    plan = compiler.compile(graph_of(parsed), device=parsed.device, **options_of(parsed))
    data = save_plan(plan, parsed.out)
    programs = _programs(plan)
    if not programs:
        say(
            f"nothing of {plan.graph.name} runs on {plan.device.name}: {parsed.out} holds "
            "operations of the host alone; akida-backend inspect gives the reasons"
        )
    digest = content_hash(data) if is_plan(data) else hashlib.sha256(data).hexdigest()
    written = {"path": parsed.out, "bytes": len(data), "content_hash": digest}
    show(parsed, _document(plan, programs, written), {
        "schema_version": SCHEMA_VERSION,
        "model": model_json(plan.graph),
        "device": plan.device.name,
        "file": written,
        "programs": programs,
        "summary": plan_json(plan)["summary"],
    })  # fmt: skip
    return HOLDS


def _programs(plan: Plan) -> list[Json]:
    rows = []
    for segment in plan.segments:
        if isinstance(segment, DeviceSegment):
            data = program_to_bytes(segment.program)
            rows.append(
                {
                    "name": segment.program.name,
                    "segment": segment.index,
                    "layers": len(segment.program.layers),
                    "macs": segment.device_macs,
                    "bytes": len(data),
                    "content_hash": program_hash(data),
                }
            )
    return rows


def _document(plan: Plan, programs: list[Json], written: Json) -> Document:
    rows = tuple(
        (
            program["name"],
            str(program["layers"]),
            str(program["macs"]),
            str(program["bytes"]),
            program["content_hash"][:16],
        )
        for program in programs
    )
    columns = Table(
        (
            ("program", "left"),
            ("layers", "right"),
            ("MACs", "right"),
            ("bytes", "right"),
            ("content hash", "left"),
        ),
        rows,
    )
    device = f"Device: {plan.device.name}, {emulated(plan)}."
    file = (
        f"Written to {written['path']}: {written['bytes']} bytes, "
        f"content hash {written['content_hash'][:16]}."
    )
    return [Lines((*model_lines(plan), device, placed_line(plan))), columns, Lines((file,))]
