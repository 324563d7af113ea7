# SPDX-License-Identifier: Apache-2.0
"""Where the operators of many models would run, one row per model.

    python tools/write_model_report.py MODELS [-o reports/models.md] [--device akida2]

MODELS are model files or folders of them (by default the folder in AKIDA_BACKEND_MODELS). A file
that is refused gets a row with the first line of the refusal.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from model_files import refuse_missing

from akida_backend.compiler import compile as compile_model
from akida_backend.errors import AkidaBackendError
from akida_backend.graph import Graph
from akida_backend.loading import load
from akida_backend.plan import PlacedOperation, Plan
from akida_backend.writing import write_text

SUFFIXES: Final = (".tflite", ".onnx")
REASONS_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one model.

    Attributes:
        model: Its path below the folder that was searched.
        plan: The compiled model; None if it was refused.
        refusal: First line of the refusal.
    """

    model: str
    plan: Plan | None
    refusal: str = ""


def describe(path: Path, model: str, device: str = "akida2") -> Row:
    """Compile one file, or say why it is refused."""
    try:
        graph: Graph = load(path)
        return Row(model, compile_model(graph, device))
    except AkidaBackendError as error:
        message, *_ = str(error).splitlines()
        return Row(model, None, message.removeprefix(f"{path}: "))


def first_reasons(plan: Plan) -> str:
    """The commonest reasons of operations that stay on the host, each with an example."""
    hosts = [
        (placed, reason)
        for placed in plan.placement
        if not placed.on_device
        for reason in placed.reasons
    ]
    counted = Counter(reason.code for _, reason in hosts).most_common()
    shown = []
    for code, count in counted[:REASONS_SHOWN]:
        placed, reason = next((p, r) for p, r in hosts if r.code == code)
        shown.append(f"{code} ({count}): {_example(placed, reason.found)}")
    if len(counted) > REASONS_SHOWN:
        shown.append(f"{len(counted) - REASONS_SHOWN} more")
    return "; ".join(shown)


def _example(placed: PlacedOperation, found: str) -> str:
    text = placed.type if placed.type in found else f"{placed.type}, {found}"
    return text if len(text) <= 80 else text[:77] + "..."


def table(rows: Sequence[Row], device: str) -> str:
    """The rows as Markdown."""
    lines = [
        f"Placement on {device} (simulated), memory and NP count not checked.",
        "",
        "| model | operators | on device | MACs | MACs on device | partitions | first reasons |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        if row.plan is None:
            lines.append(f"| {row.model} | | | | | | refused: {_cell(row.refusal)} |")
            continue
        plan = row.plan
        share = f"{plan.macs_on_device / plan.macs:.1%}" if plan.macs else ""
        placed = sum(p.on_device for p in plan.placement)
        lines.append(
            f"| {row.model} | {len(plan.placement)} | {placed} | {plan.macs:,} | {share} "
            f"| {len(plan.programs)} | {_cell(first_reasons(plan))} |"
        )
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def models_in(folder: Path) -> dict[str, Path]:
    """Model files by their path below a folder; a single file by its name."""
    if folder.is_file():
        return {folder.name: folder}
    found = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    return {str(path.relative_to(folder)): path for path in found}


def main() -> int:
    parser = argparse.ArgumentParser(description="Table of models and where they would run.")
    folder = os.environ.get("AKIDA_BACKEND_MODELS")
    parser.add_argument(
        "models", type=Path, nargs="*" if folder else "+", default=[Path(folder or ".")]
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/models.md"))
    parser.add_argument("--device", default="akida2")
    options = parser.parse_args()
    refuse_missing(options.models)
    rows = [
        describe(path, name, options.device)
        for given in options.models
        for name, path in models_in(given).items()
    ]
    write_text(options.output, table(rows, options.device))
    refused = sum(row.plan is None for row in rows)
    print(f"{len(rows)} models, {refused} refused, table in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
