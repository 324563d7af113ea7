# SPDX-License-Identifier: Apache-2.0
"""``compare``: the device's results beside the source model's."""

from __future__ import annotations

import argparse

from akida_backend.cli import FAILED, HOLDS
from akida_backend.cli.arguments import options_of
from akida_backend.cli.output import progress, say, show
from akida_backend.compare import compare, device_rows
from akida_backend.errors import InputError
from akida_backend.report import Json, comparison_document


def run(parsed: argparse.Namespace) -> int:
    with progress("comparing") as advance:
        report = compare(
            parsed.model,
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
    for row in device_rows(report):
        agreement = row["agreement_with_source"]
        if parsed.min_agreement is not None and agreement < parsed.min_agreement:
            say(
                f"{row['name']}: wanted agreement with the source of at least "
                f"{parsed.min_agreement:g}, found {agreement:.4f}"
            )
            code = FAILED
        if parsed.max_accuracy_drop is not None:
            drop = 100.0 * (source["accuracy"] - row["accuracy"])
            if drop > parsed.max_accuracy_drop:
                say(
                    f"{row['name']}: wanted an accuracy drop of at most "
                    f"{parsed.max_accuracy_drop:g} points, found {drop:.2f} "
                    f"({source['accuracy']:.4f} to {row['accuracy']:.4f})"
                )
                code = FAILED
    return code
