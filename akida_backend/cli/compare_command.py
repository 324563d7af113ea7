# SPDX-License-Identifier: Apache-2.0
"""``compare``: the device's results beside the source model's."""

from __future__ import annotations

import argparse

from akida_backend.cli import FAILED, HOLDS
from akida_backend.cli.arguments import options_of
from akida_backend.cli.model import model_of
from akida_backend.cli.output import progress, say, show
from akida_backend.compare import compare, device_rows
from akida_backend.devices import device as find_device
from akida_backend.errors import InputError
from akida_backend.report import Json, comparison_document


def run(parsed: argparse.Namespace) -> int:
    with progress("comparing") as advance:
        report = compare(
            model_of(parsed),
            parsed.data,
            device=parsed.device_given,
            limit=parsed.limit,
            output=parsed.output,
            per_layer=parsed.per_layer,
            runtimes=parsed.runtimes,
            progress=advance,
            **options_of(parsed),
        )
    _check_gates(report, parsed)
    show(parsed, comparison_document(report), report)
    return _judge(report, parsed)


def _check_gates(report: Json, parsed: argparse.Namespace) -> None:
    """Thresholds on figures that do not exist are a mistake of the caller."""
    row = next(device_rows(report))
    if parsed.min_agreement is not None and row["agreement_with_source"] is None:
        raise InputError(
            f"--min-agreement: output '{report['output']}' does not hold class scores\n"
            "  choose another one with --output"
        )
    if parsed.max_accuracy_drop is not None and row["accuracy"] is None:
        raise InputError(
            "--max-accuracy-drop: there is no accuracy\n"
            "  give --data with class indices y, for an output of class scores"
        )


def _judge(report: Json, parsed: argparse.Namespace) -> int:
    code = HOLDS
    source = report["results"][0]
    if parsed.min_agreement is not None or parsed.max_accuracy_drop is not None:
        for entry in report["placement"]:
            if not entry["summary"]["operations_on_device"]:
                say(
                    f"{entry['device']}: nothing of the model runs on the device, so its "
                    "thresholds hold of themselves; --fallback error or inspect "
                    "--min-mac-fraction would fail"
                )
    for row in device_rows(report):
        agreement = row["agreement_with_source"]
        if parsed.min_agreement is not None and agreement < parsed.min_agreement:
            message = (
                f"{row['name']}: wanted agreement with the source of at least "
                f"{parsed.min_agreement:g}, found {agreement:.4f}"
            )
            error = _allowed_error(row, "agreement_error")
            code = max(code, _missed(message, parsed.min_agreement - agreement, error))
        if parsed.max_accuracy_drop is not None:
            drop = 100.0 * (source["accuracy"] - row["accuracy"])
            if drop > parsed.max_accuracy_drop:
                message = (
                    f"{row['name']}: wanted an accuracy drop of at most "
                    f"{parsed.max_accuracy_drop:g} points, found {drop:.2f} "
                    f"({source['accuracy']:.4f} to {row['accuracy']:.4f})"
                )
                error = _allowed_error(row, "accuracy_error")
                code = max(code, _missed(message, (drop - parsed.max_accuracy_drop) / 100, error))
    return code


def _allowed_error(row: Json, name: str) -> float:
    """The standard error of a figure of an Akida 1.0 device on few samples, else 0.

    Akida 2.0 keeps its source nearly bit for bit: there a threshold means what it says.
    """
    error = row[name] if find_device(row["name"]).generation == 1 else None
    return 0.0 if error is None else float(error)


def _missed(message: str, missing: float, error: float) -> int:
    """Say that a figure misses its threshold, and whether that counts."""
    if missing <= error:
        say(
            f"{message}; that is within one standard error ({100 * error:.1f} points) on so few "
            "samples and counts as met"
        )
        return HOLDS
    say(message)
    return FAILED
