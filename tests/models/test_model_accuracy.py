# SPDX-License-Identifier: Apache-2.0
"""Real models on labelled data: what the device costs in accuracy and agreement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from akida_backend.compare import compare, device_rows

CALIBRATION = 64


@dataclass(frozen=True)
class Bars:
    """What a model must reach without calibration, and with 64 inputs.

    Attributes:
        model: Path below models/, without its suffix.
        data: File below data/, without its suffix.
        drop: Largest loss of accuracy, in percentage points.
        agreement: Smallest share of samples with the source's class.
        decisive: The same, of samples whose source margin is two steps at least.
        calibrated: Smallest agreement with 64 calibration inputs; None: no bar.
    """

    model: str
    data: str
    drop: float
    agreement: float
    decisive: float = 0.0
    calibrated: float | None = None


MODELS = {
    "kws": Bars("mlperf_tiny/mlperf_kws_ref_int8", "kws01_mfcc_49x10_int8", 1.0, 0.96, 0.97, 0.98),
    "vww": Bars("mlperf_tiny/mlperf_vww_96_int8", "vww_coco_96x96_rgb_int8", 2.0, 0.98),
    "resnet8": Bars(
        "mlperf_tiny/mlperf_resnet8_int8", "cifar10_test_32x32_int8", 1.0, 0.92, 0.95, 0.94
    ),
    "vww2": Bars("arm/arm_micronet_vww2_50_50_int8", "vww_coco_50x50_gray_int8", 3.0, 0.92),
}


def _compared(shared: Path, bars: Bars, **options: object) -> tuple[dict[str, Any], dict[str, Any]]:
    data = shared / "data" / f"{bars.data}.npz"
    report = compare(shared / "models" / f"{bars.model}.tflite", data, **options)  # type: ignore[arg-type]
    (device,) = device_rows(report)
    return report["results"][0], device


@pytest.mark.parametrize("name", MODELS)
def test_reaches_its_bars_without_calibration(shared: Path, name: str) -> None:
    bars = MODELS[name]
    source, device = _compared(shared, bars)
    assert 100 * (source["accuracy"] - device["accuracy"]) <= bars.drop
    assert device["agreement_with_source"] >= bars.agreement
    assert device["decisive_agreement"] >= bars.decisive


@pytest.mark.parametrize("name", [name for name, bars in MODELS.items() if bars.calibrated])
def test_reaches_its_bar_with_calibration(shared: Path, name: str) -> None:
    bars = MODELS[name]
    data = shared / "data" / f"{bars.data}.npz"
    source, device = _compared(shared, bars, calibration=data, calibration_limit=CALIBRATION)
    assert bars.calibrated is not None
    assert device["agreement_with_source"] >= bars.calibrated
    assert 100 * (source["accuracy"] - device["accuracy"]) <= bars.drop


def test_anomaly_detection_keeps_its_signal(shared: Path) -> None:
    model = shared / "models" / "mlperf_tiny" / "mlperf_ad01_int8.tflite"
    x = np.random.default_rng(0).integers(-128, 128, (512, 640)).astype(np.int8)
    (device,) = device_rows(compare(model, x))
    assert device["sqnr_db"] >= 35


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name, bars in MODELS.items() if not bars.calibrated])
def test_calibration_costs_nothing(shared: Path, name: str) -> None:
    bars = MODELS[name]
    data = shared / "data" / f"{bars.data}.npz"
    source, device = _compared(shared, bars, calibration=data, calibration_limit=CALIBRATION)
    assert device["agreement_with_source"] >= bars.agreement
    assert 100 * (source["accuracy"] - device["accuracy"]) <= bars.drop


# Other networks with labelled data: what was measured once, with a margin of a few samples.
OTHERS = {
    "mlonmcu/aww__aww": ("kws01_mfcc_49x10_int8", 0.88),
    "arm/arm_ds_cnn_s_int8": ("kws01_mfcc_490_int8_dscnn", 0.86),
    "wake_vision/wakevision_benx13": ("vww_coco_48x48_rgb_uint8", 0.95),
    "wake_vision/wakevision_mohammad_hallaq": ("vww_coco_80x80_rgb_uint8", 0.95),
    "wake_vision/wakevision_mcunet-5fps_vww": ("vww_coco_80x80_rgb_uint8", 0.93),
    "wake_vision/wakevision_k_2_c_3": ("vww_coco_50x50_rgb_uint8", 0.90),
    "wake_vision/wakevision_k_8_c_5": ("vww_coco_50x50_rgb_uint8", 0.90),
    "wake_vision/wakevision_ymac": ("vww_coco_50x50_rgb_uint8", 0.90),
    "wake_vision/wakevision_micronets_vww2_50_50_INT8": ("vww_coco_50x50_gray_uint8", 0.90),
}


@pytest.mark.full
@pytest.mark.parametrize("model", OTHERS)
def test_other_networks_agree_with_their_source(shared: Path, model: str) -> None:
    data, least = OTHERS[model]
    report = compare(shared / "models" / f"{model}.tflite", shared / "data" / f"{data}.npz")
    (device,) = device_rows(report)
    assert device["agreement_with_source"] >= least
