# SPDX-License-Identifier: Apache-2.0
"""Accuracy of INT8 models re-quantized for Akida 1.0, beside the source.

    python tools/write_akida1_report.py MODEL DATA [MODEL DATA ...] [-o reports/akd1000.md]

DATA are .npz files with inputs ``x`` and class indices ``y``. Every model is compiled twice: with
the first samples for calibration and the others to test on, then with the last ones; figures are
over both tests. Each with and without `diagonal_depthwise`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from model_files import refuse_missing

from akida_backend.compare import compare, standard_error
from akida_backend.compiler import compile as compile_model
from akida_backend.parameters import IntArray
from akida_backend.plan import DeviceSegment, Plan
from akida_backend.writing import write_text

CALIBRATED: Final = 64
LIMIT: Final = 1000  # samples per test


@dataclass(frozen=True, slots=True)
class Row:
    """One model with one set of options.

    Attributes:
        model: File name.
        diagonal: Whether depthwise layers become diagonal convolutions.
        share: Of the source's MACs on the device.
        partitions: Device segments.
        times: Device MACs per source MAC of the segments.
        samples: Tested on, in one test or in both.
        source: Accuracy of the source.
        device: Accuracy of the device.
        agreement: Share of samples with the source's class.
        sqnr: Decibels of the compared tensor, mean of the tests.
    """

    model: str
    diagonal: bool
    share: float
    partitions: int
    times: float
    samples: int
    source: float
    device: float
    agreement: float
    sqnr: float


def folds(samples: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Which samples calibrate and which test, twice."""
    every = np.arange(samples)
    yield every[:CALIBRATED], every[CALIBRATED:][:LIMIT]
    yield every[-CALIBRATED:], every[:-CALIBRATED][-LIMIT:]


def measured(model: Path, data: Path, device: str, *, diagonal: bool) -> Row:
    with np.load(data) as arrays:
        x, y = arrays["x"], arrays["y"]
    figures: list[tuple[float, ...]] = []
    plan: Plan | None = None
    tested: set[int] = set()
    for calibrating, testing in folds(len(x)):
        plan = compile_model(model, device, calibration=x[calibrating], diagonal_depthwise=diagonal)
        report = compare(plan, {"x": x[testing], "y": y[testing]})
        source, _, found = report["results"][:3]
        tested.update(testing.tolist())
        figures.append(
            (
                source["accuracy"],
                found["accuracy"],
                found["agreement_with_source"],
                found["sqnr_db"] or math.nan,
            )
        )
    assert plan is not None
    segments = [segment for segment in plan.segments if isinstance(segment, DeviceSegment)]
    taken, wanted = (
        sum(segment.device_macs for segment in segments),
        sum(segment.source_macs for segment in segments),
    )
    means = np.mean(figures, axis=0).tolist()
    return Row(
        model.name,
        diagonal,
        plan.macs_on_device / max(plan.macs, 1),
        len(plan.programs),
        taken / max(wanted, 1),
        len(tested),
        *means,
    )


def page(rows: Sequence[Row], device: str) -> str:
    """The rows as Markdown."""
    lines = [
        f"INT8 models on {device} (simulated): 8-bit weights in the input layer, 4-bit weights and",
        f"activations behind it, chosen on {CALIBRATED} calibration inputs that no test uses. Two",
        "tests each, with the first and with the last inputs for calibration; ± is one standard",
        "error, on fewer than 256 samples. Constants of the quantizer were set with an eye on the",
        "figures of the MLPerf Tiny keyword spotting and visual wake words networks.",
        "",
        "| model | diagonal depthwise | MACs on device | partitions | device MACs per source MAC "
        "| samples | source accuracy | device accuracy | drop | agreement | SQNR dB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row.model} | {'yes' if row.diagonal else 'no'} | {row.share:.1%} "
            f"| {row.partitions} | {row.times:.1f} | {row.samples} | {row.source:.1%} "
            f"| {_share(row.device, row.samples)} | {100 * (row.source - row.device):.1f} "
            f"| {_share(row.agreement, row.samples)} | {row.sqnr:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _share(value: float, samples: int) -> str:
    error = standard_error(value, samples)
    return f"{value:.1%}" if error is None else f"{100 * value:.1f} ± {100 * error:.1f} %"


def main() -> int:
    parser = argparse.ArgumentParser(description="Accuracy of INT8 models on Akida 1.0.")
    parser.add_argument("files", type=Path, nargs="+", metavar="MODEL DATA")
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/akd1000.md"))
    parser.add_argument("--device", default="akd1000")
    options = parser.parse_args()
    if len(options.files) % 2:
        parser.error("each model needs its data")
    refuse_missing(options.files)
    pairs = zip(options.files[::2], options.files[1::2], strict=True)
    rows = []
    for model, data in pairs:
        for diagonal in (False, True):
            rows.append(measured(model, data, options.device, diagonal=diagonal))
            print(page(rows[-1:], options.device).splitlines()[-1], flush=True)
    write_text(options.output, page(rows, options.device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
