# SPDX-License-Identifier: Apache-2.0
"""INT8 networks re-quantized to 8/4/4 bits on labelled data: placement, accuracy, agreement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from akida_backend.compare import compare
from akida_backend.compiler import compile as compile_model

CALIBRATION = 64


@dataclass(frozen=True)
class Bars:
    """What a network must reach with 64 calibration inputs that no test uses.

    Attributes:
        model: Path below models/, without its suffix.
        data: File below data/, without its suffix.
        drop: Largest loss of accuracy, in percentage points.
        share: Smallest share of the source's MACs on akd1000.
        diagonal_share: The same with diagonal convolutions.
        agreement: Smallest share of samples with the source's class.
    """

    model: str
    data: str
    drop: float
    share: float
    diagonal_share: float
    agreement: float = 0.91


KWS = Bars("mlperf_kws_ref_int8", "kws01_mfcc_49x10_int8", 5.0, 0.75, 0.85)
VWW = Bars("mlperf_vww_96_int8", "vww_coco_96x96_rgb_int8", 3.0, 0.85, 0.98)


@pytest.mark.parametrize(
    "last", [False, pytest.param(True, marks=pytest.mark.full)], ids=["first-64", "last-64"]
)
@pytest.mark.parametrize("diagonal", [False, True], ids=["plain", "diagonal"])
@pytest.mark.parametrize("bars", [KWS, VWW], ids=["kws", "vww"])
def test_reaches_its_bars(shared: Path, bars: Bars, *, diagonal: bool, last: bool) -> None:
    with np.load(shared / "data" / f"{bars.data}.npz") as arrays:
        x, y = arrays["x"], arrays["y"]
    first, rest = slice(None, CALIBRATION), slice(CALIBRATION, None)
    if last:
        first, rest = slice(-CALIBRATION, None), slice(None, -CALIBRATION)
    plan = compile_model(
        shared / "models" / "mlperf_tiny" / f"{bars.model}.tflite",
        "akd1000",
        calibration=x[first],
        diagonal_depthwise=diagonal,
    )
    share = bars.diagonal_share if diagonal else bars.share
    assert plan.macs_on_device / plan.macs >= share
    source, _, device = compare(plan, {"x": x[rest], "y": y[rest]})["results"]
    # On few samples within one standard error; 0 on many.
    slack, missing = device["accuracy_error"] or 0.0, device["agreement_error"] or 0.0
    assert source["accuracy"] - device["accuracy"] <= bars.drop / 100 + slack
    assert device["agreement_with_source"] >= bars.agreement - missing
