# SPDX-License-Identifier: Apache-2.0
"""Akida 1.0 plans through what users touch: sessions, saved plans, comparison, command line."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import networks
import numpy as np
import pytest

from akida_backend.cli import main
from akida_backend.cli.output import quantizer_shown
from akida_backend.compare import compare
from akida_backend.compiler import compile as compile_model
from akida_backend.plan import Plan
from akida_backend.session import InferenceSession
from akida_backend.tflite_writer import write_tflite
from builders import random_inputs


def calibrated(**options: object) -> Plan:
    graph = networks.classifier()
    return compile_model(graph, "akd1000", calibration=random_inputs(graph, 32, 1), **options)


def test_a_saved_plan_computes_the_same(tmp_path: Path) -> None:
    plan = calibrated(diagonal_depthwise=True)
    plan.save(tmp_path / "plan.akp")
    back = Plan.load(tmp_path / "plan.akp")
    assert [program.generation for program in back.programs] == [1] * len(plan.programs)
    feeds = random_inputs(plan.graph, 5, 3)
    (expected,) = InferenceSession(plan).run(None, feeds)
    (found,) = InferenceSession(tmp_path / "plan.akp").run(None, feeds)
    np.testing.assert_array_equal(found, expected)
    assert InferenceSession(back).get_providers() == ["AkidaSimulator(akd1000)", "Host(reference)"]


def test_source_emulation_gives_the_source() -> None:
    plan = calibrated()
    feeds = random_inputs(plan.graph, 5, 3)
    emulated = InferenceSession(plan, emulation="source").run(None, feeds)[0]
    source = compile_model(
        plan.graph, deny=tuple(f"type:{op.location.type}" for op in plan.graph.operations)
    )
    np.testing.assert_array_equal(emulated, InferenceSession(source).run(None, feeds)[0])


def test_comparison_gives_a_row_for_each_device_that_can_be_compiled_for() -> None:
    graph = networks.classifier()
    inputs = random_inputs(graph, 64, 1)
    report = compare(graph, inputs, device="all", calibration=random_inputs(graph, 32, 2), limit=8)
    names = [result["name"] for result in report["results"][2:]]
    assert {"akida2", "akd1000", "akd1500", "nsoc-production", "nsoc-preproduction"} <= set(names)
    report = compare(graph, inputs, device="all", limit=8)
    assert "akd1000" not in [result["name"] for result in report["results"]]


def test_every_layer_can_be_compared_with_the_source() -> None:
    plan = calibrated()
    report = compare(plan, random_inputs(plan.graph, 16, 4), per_layer=True)
    compared = {layer["name"]: layer["sqnr_db"] for layer in report["layers"]}
    assert len(compared) >= 3
    assert min(compared.values()) > 5


def test_inspection_needs_no_calibration_and_says_what_macs_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.tflite").write_bytes(write_tflite(networks.classifier()))
    assert main(["inspect", "model.tflite", "--device", "akd1000", "--diagonal-depthwise"]) == 0
    text = capsys.readouterr().out
    assert "times the source's" in text
    assert "V1-GRAPH-SEQUENTIAL" in text
    assert main(["inspect", "model.tflite", "--device", "akd1000", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert "OP-DEPTHWISE-HALF" in json.dumps(rows)


def test_what_each_step_of_the_quantizer_bought_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    graph = networks.classifier()
    Path("model.tflite").write_bytes(write_tflite(graph))
    (image,) = random_inputs(graph, 96, 1).values()
    np.save("data.npy", image)
    where = "model.tflite --device akd1000 --calibration data.npy --calibration-limit 32"
    assert main(["inspect", *where.split()]) == 0
    inspected = capsys.readouterr()
    assert "What each step of the quantizer bought" in inspected.out
    assert "equalisation" in inspected.out
    assert "quantizing" not in inspected.err  # no one watches
    assert main(["compare", *where.split(), "--data", "data.npy", "--json", "-"]) == 0
    entries = json.loads(capsys.readouterr().out)["quantizer"]
    assert {entry["device"] for entry in entries} == {"akd1000"}
    steps = {entry["step"] for entry in entries}
    assert {"clipping", "bias correction", "refitting", "adaptive rounding"} <= steps
    assert all(0 <= entry["kept"] <= entry["layers"] for entry in entries)
    assert sum(entry["gain_db"] for entry in entries) > 1


def test_the_layer_being_quantized_is_named_to_who_watches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with quantizer_shown():
        calibrated()
    err = capsys.readouterr().err
    assert "quantizing layer 2 of" in err
    assert err.endswith("fully_connected\r" + " " * 40 + "\r")
    assert "\x1b" not in err
    assert not logging.getLogger("akida_backend.four_bit").handlers


def test_a_long_name_of_the_layer_being_quantized_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with quantizer_shown():
        logging.getLogger("akida_backend.four_bit").info("quantizing layer 1 of 1: %s", "x" * 99)
    shown = f"quantizing layer 1 of 1: {'x' * 48}..."
    assert capsys.readouterr().err == f"{shown}\r{' ' * 76}\r"


def test_few_samples_have_a_standard_error_and_miss_a_threshold_within_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = calibrated()
    plan.save("plan.akp")
    inputs = random_inputs(plan.graph, 60, 5)
    np.save("data.npy", next(iter(inputs.values())))
    report = compare(plan, inputs)
    row = report["results"][2]
    agreement = row["agreement_with_source"]
    error = row["agreement_error"]
    assert 0.3 < agreement < 1
    assert error == pytest.approx(np.sqrt(agreement * (1 - agreement) / 60))
    assert row["accuracy_error"] is None
    command = ["compare", "plan.akp", "--data", "data.npy", "--min-agreement"]
    assert main([*command, f"{agreement + 0.9 * error:.4f}"]) == 0
    shown = capsys.readouterr()
    assert "within one standard error" in shown.err
    assert " ± " in shown.out
    assert main([*command, f"{agreement + 1.1 * error:.4f}"]) == 1
    assert "within one standard error" not in capsys.readouterr().err


def test_thresholds_of_the_second_generation_mean_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    graph = networks.classifier()
    Path("model.tflite").write_bytes(write_tflite(graph))
    (agreement,) = (
        row["agreement_with_source"]
        for row in compare(graph, random_inputs(graph, 200, 6), calibration=None)["results"][2:]
    )
    assert 0.5 < agreement < 1
    np.save("data.npy", next(iter(random_inputs(graph, 200, 6).values())))
    command = ["compare", "model.tflite", "--data", "data.npy", "--min-agreement", "1"]
    assert main(command) == 1
    assert "standard error" not in capsys.readouterr().err


def test_what_each_step_of_the_quantizer_bought_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "akida_backend.four_bit"):
        calibrated()
    assert "quantizing layer 1 of" in caplog.text
    assert ": clipping kept in" in caplog.text
