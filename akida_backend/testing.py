# SPDX-License-Identifier: Apache-2.0
"""For tests of models: ``assert_matches`` compares as `compare` does, and fails as a test fails."""

from __future__ import annotations

import os
from typing import Any

from akida_backend.calibration_data import Data, Samples
from akida_backend.compare import compare, device_rows
from akida_backend.errors import InputError
from akida_backend.graph import Graph
from akida_backend.plan import Plan

__all__ = ["assert_matches"]


def assert_matches(
    model: str | os.PathLike[str] | bytes | Graph | Plan,
    data: Data | Samples | None = None,
    *,
    device: str | None = None,
    min_agreement: float | None = None,
    min_sqnr_db: float | None = None,
    max_accuracy_drop: float | None = None,
    min_mac_fraction: float | None = None,
    limit: int | None = None,
    output: str | None = None,
    **options: Any,  # noqa: ANN401
) -> None:
    """Fail where a device's results are too far from the source model's.

    Args:
        model: As `compare` takes it, like the arguments that are not named here.
        data: As `compare` takes it.
        device: Name of a device profile, or ``all``.
        min_agreement: Least share of samples (0 to 1) with the source's class.
        min_sqnr_db: Least signal-to-quantization-noise ratio of the compared tensor.
        max_accuracy_drop: Most percentage points of accuracy below the source's.
        min_mac_fraction: Least share of the MACs (0 to 1) on the device; without device
            operations the others hold of themselves.
        limit: Samples used at most.
        output: Name of the output that is compared.
        options: Fields of `Options`.

    Raises:
        AssertionError: A threshold does not hold; says which, on which device, and what was found.
        InputError: No threshold is given, or one on a figure that the model or data do not have.
    """
    if {min_agreement, min_sqnr_db, max_accuracy_drop, min_mac_fraction} == {None}:
        raise InputError(
            "assert_matches needs a threshold\n"
            "  give min_agreement, min_sqnr_db, max_accuracy_drop or min_mac_fraction"
        )
    report = compare(model, data, device=device, limit=limit, output=output, **options)
    source = report["results"][0]
    problems: list[str] = []
    for entry in report["placement"]:
        share = entry["summary"]["mac_fraction_on_device"] or 0.0
        if min_mac_fraction is not None and share < min_mac_fraction:
            problems.append(
                f"{entry['device']}: {share:.4f} of the MACs on the device, wanted "
                f"{min_mac_fraction:g}"
            )
    for row in device_rows(report):
        where = f"{row['name']}, output '{report['output']}', {report['samples']} samples"
        if min_agreement is not None:
            found = _figure(row["agreement_with_source"], "min_agreement", "class scores")
            if found < min_agreement:
                problems.append(f"{where}: agreement {found:.4f}, wanted {min_agreement:g}")
        if min_sqnr_db is not None and not row["identical"]:
            found = _figure(row["sqnr_db"], "min_sqnr_db", "values to compare")
            if found < min_sqnr_db:
                problems.append(f"{where}: SQNR {found:.2f} dB, wanted {min_sqnr_db:g}")
        if max_accuracy_drop is not None:
            kept = _figure(row["accuracy"], "max_accuracy_drop", "class indices y for class scores")
            drop = 100.0 * (source["accuracy"] - kept)
            if drop > max_accuracy_drop:
                problems.append(
                    f"{where}: accuracy drops by {drop:.2f} points, wanted at most "
                    f"{max_accuracy_drop:g}"
                )
    if problems:
        raise AssertionError(f"{report['model']['path']}: " + "\n  ".join(problems))


def _figure(value: float | None, threshold: str, needed: str) -> float:
    if value is None:
        raise InputError(f"{threshold}: there is no such figure\n  it needs {needed}")
    return value
