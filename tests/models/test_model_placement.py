# SPDX-License-Identifier: Apache-2.0
"""Real models: every file compiles or is refused in one sentence; how much of them is placed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from akida_backend.compiler import compile as compile_model
from akida_backend.plan import DeviceSegment, Plan
from akida_backend.program_check import check_program

sys.path.append(str(Path(__file__).parents[2] / "tools"))

import write_model_report

MLPERF = "mlperf_tiny/mlperf_"
PLACED = {
    "arm/arm_micronet_vww2_50_50_int8": 0.95,
    f"{MLPERF}vww_96_int8": 0.95,
    f"{MLPERF}kws_ref_int8": 1.0,  # with the stem as blocks that the host stacks
    f"{MLPERF}resnet8_int8": 0.95,
    f"{MLPERF}ad01_int8": 0.95,
}


def fraction(plan: Plan) -> float:
    return plan.macs_on_device / plan.macs


@pytest.mark.parametrize("name", PLACED)
def test_most_of_a_model_runs_on_the_device(shared: Path, name: str) -> None:
    plan = compile_model(shared / "models" / f"{name}.tflite")
    assert fraction(plan) >= PLACED[name]
    assert len(plan.programs) == 1


def test_the_stem_of_keyword_spotting_needs_its_rewrite(shared: Path) -> None:
    path = shared / "models" / f"{MLPERF}kws_ref_int8.tflite"
    plan = compile_model(path)
    (stem, *_) = (placed for placed in plan.placement if placed.type == "CONV_2D")
    assert stem.rewrites == ("space-to-depth",)
    without = compile_model(path, deny=(f"name:{stem.name}",))
    assert fraction(without) >= 0.85


def test_every_model_compiles_or_is_refused_in_a_sentence(
    shared: Path, pytestconfig: pytest.Config
) -> None:
    rows = [
        write_model_report.describe(path, name)
        for name, path in write_model_report.models_in(shared / "models").items()
    ]
    assert len(rows) > 80
    for row in rows:
        if row.plan is None:
            assert row.refusal, row.model
            assert not row.model.endswith(".tflite"), (row.model, row.refusal)
            continue
        for placed in row.plan.placement:
            assert placed.on_device or placed.reasons, (row.model, placed)
            assert placed.on_device or placed.device_macs == 0
        for segment in row.plan.segments:
            if isinstance(segment, DeviceSegment):
                check_program(segment.program)
        assert 0 <= row.plan.macs_on_device <= row.plan.macs
    folder = pytestconfig.rootpath / "reports"
    folder.mkdir(exist_ok=True)
    text = write_model_report.table(rows, "akida2")
    (folder / "models.md").write_text(text, encoding="utf-8")
    assert text.count("\n") == len(rows) + 4


@pytest.mark.parametrize(
    ("name", "most"),
    [
        pytest.param("wake_vision/wakevision_benx13", 1, id="split-strides"),
        pytest.param("wake_vision/wakevision_mobilenetv2", 1, id="mean-and-dense"),
        pytest.param("coral/coral_mobilenet_v2_1.0_224_quant", 1, id="uint8"),
    ],
)
def test_whole_networks_are_one_segment(shared: Path, name: str, most: int) -> None:
    plan = compile_model(shared / "models" / f"{name}.tflite")
    assert fraction(plan) == 1.0
    assert len(plan.programs) <= most


def test_old_uint8_weights_are_stretched_and_reported(shared: Path) -> None:
    plan = compile_model(shared / "models" / "coral" / "coral_mobilenet_v1_0.25_128_quant.tflite")
    notes = [
        note
        for segment in plan.segments
        if isinstance(segment, DeviceSegment)
        for note in segment.weight_notes
    ]
    assert len(notes) > 20
    assert all(0 < note.max_error <= 1.0 for note in notes)


def test_a_float_model_gives_every_operator_the_same_reason(shared: Path) -> None:
    plan = compile_model(shared / "models" / f"{MLPERF}kws_ref_float.tflite")
    codes = [{reason.code for reason in placed.reasons} for placed in plan.placement]
    assert codes == [{"GRAPH-NOT-QUANTIZED"}] * len(codes)
    assert all(placed.rewrites == () for placed in plan.placement)
