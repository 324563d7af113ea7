# SPDX-License-Identifier: Apache-2.0
"""``akida-backend advise``."""

from __future__ import annotations

import json
from pathlib import Path

import networks
import pytest

from akida_backend.cli import main
from akida_backend.devices import devices
from akida_backend.loading import load
from akida_backend.tflite_writer import write_tflite


@pytest.fixture
def stem(tmp_path: Path) -> str:
    path = tmp_path / "stem.tflite"
    path.write_bytes(write_tflite(networks.strided_stem()))
    return str(path)


def test_prints_changes_and_what_they_bring(
    stem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "250")  # no cell is folded
    assert main(["advise", stem, "--device", "akd1000"]) == 0
    shown = capsys.readouterr().out
    assert "a 7x7 kernel instead of 10x4 (train again)" in shown
    assert "V1-INCONV-KERNEL" in shown
    assert "The whole model" in shown
    assert "Other devices, the model as it is" in shown


def test_all_devices_give_one_report_for_each_set_of_limits(
    stem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", stem, "--device", "all", "--json", "-"]) == 0
    data = json.loads(capsys.readouterr().out)
    reports = data["reports"]
    first = [report["device"] for report in reports]
    assert first == ["akida2", "akd1000", "nsoc-production", "nsoc-preproduction"]
    named = [name for report in reports for name in (report["device"], *report["same_limits"])]
    assert sorted(named) == sorted(device.name for device in devices())
    assert data["applied"] is None


def test_apply_writes_a_proven_model_and_lists_what_it_left(
    stem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fitted.tflite"
    json_file = tmp_path / "advice.json"
    command = ["advise", stem, "--apply", "-o", str(out), "--json", str(json_file)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "bit for bit on 32 random inputs" in shown
    assert "space-to-depth (op 0)" in shown
    applied = json.loads(json_file.read_text())["applied"]
    assert applied["bytes"] == out.stat().st_size
    assert applied["rewrites"] == [{"index": 0, "names": ["space-to-depth"]}]
    assert applied["mac_fraction_on_device"] == 1.0
    assert len(load(out).operations) > len(load(stem).operations)


def test_markdown_has_one_table_of_changes(stem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", stem, "--device", "akd1000", "--format", "markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| op |") for line in lines) == 1
    assert any(line.startswith("## akd1000") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--apply"], "go together", id="apply-without-file"),
        pytest.param(["-o", "x.tflite"], "go together", id="file-without-apply"),
        pytest.param(
            ["--apply", "-o", "x.tflite", "--device", "all"], "one device", id="every-device"
        ),
        pytest.param(["--apply", "-o", "x.onnx"], "ends in .tflite", id="other-format"),
        pytest.param(["--device", "akida9"], "unknown device", id="unknown-device"),
        pytest.param(["--depth", "3"], "unknown option", id="unknown-option"),
    ],
)
def test_bad_input_is_refused(
    stem: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", stem, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_compiled_plan_is_refused(
    stem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = str(tmp_path / "plan.akp")
    assert main(["compile", stem, "-o", plan]) == 0
    assert main(["advise", plan]) == 2
    assert "is a compiled plan, not a model" in capsys.readouterr().err
