# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import networks
import numpy as np
import pytest
from onnx_models import OnnxBuilder

from akida_backend import report as reports
from akida_backend.compiler import compile as compile_model
from akida_backend.graph import DType, Graph, short_name
from akida_backend.loading import load
from akida_backend.plan import Plan
from builders import GraphBuilder

PLAN = compile_model(networks.interrupted())
KEYS = {
    "": {"schema_version", "model", "device", "operations", "segments", "summary"},
    "model": {"path", "format", "sha256", "inputs", "outputs"},
    "summary": {
        "operations",
        "operations_on_device",
        "macs",
        "macs_on_device",
        "mac_fraction_on_device",
        "partitions",
    },
    "operation": {
        "index",
        "type",
        "name",
        "placement",
        "segment",
        "layer",
        "rewrites",
        "macs",
        "device_macs",
        "reasons",
    },
    "reason": {"code", "rule", "found", "limit", "origin", "source", "remedy"},
}


def test_json_has_the_documented_keys() -> None:
    data = json.loads(PLAN.report("json"))
    assert set(data) == KEYS[""]
    assert set(data["model"]) == KEYS["model"]
    assert set(data["summary"]) == KEYS["summary"]
    for operation in data["operations"]:
        assert set(operation) == KEYS["operation"]
        for reason in operation["reasons"]:
            assert set(reason) == KEYS["reason"]


def test_json_counts_operations_and_macs() -> None:
    data = reports.plan_json(PLAN)
    # 6x6 positions: 3x3 over 4 channels to 8 filters, then 1x1 over 8 to 5.
    macs = 36 * 9 * 4 * 8, 36 * 8 * 5
    assert [row["macs"] for row in data["operations"]] == [macs[0], 0, macs[1]]
    assert data["summary"] == {
        "operations": 3,
        "operations_on_device": 2,
        "macs": sum(macs),
        "macs_on_device": sum(macs),
        "mac_fraction_on_device": 1.0,
        "partitions": 2,
    }


def test_every_host_operation_has_a_reason_and_segments_point_at_their_place() -> None:
    data = reports.plan_json(PLAN)
    placed = [
        (row["placement"], data["segments"][row["segment"]]["placement"])
        for row in data["operations"]
    ]
    assert placed == [("device", "device"), ("host", "host"), ("device", "device")]
    assert [bool(row["reasons"]) for row in data["operations"]] == [False, True, False]
    assert data["segments"][0]["not_checked"] == ["memory", "NP count"]
    assert data["segments"][1]["executed_by"] == "reference"


def test_a_model_without_macs_has_no_fraction() -> None:
    b = GraphBuilder(0)
    plan = compile_model(b.build(b.tanh(b.input(3))))
    assert reports.plan_json(plan)["summary"]["mac_fraction_on_device"] is None
    assert "no MACs" in plan.report()


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_texts_hold_every_reason_in_full(form: str) -> None:
    text = PLAN.report(form)  # type: ignore[arg-type]
    plain = " ".join(text.replace("\\", "").split())
    (row,) = [row for row in PLAN.placement if not row.on_device]
    for reason in row.reasons:
        for part in (reason.code, reason.rule, reason.found, reason.source, reason.remedy):
            assert part in plain
    assert "memory and NP count not checked" in plain
    assert "Host: reference" in plain
    assert "simulated" in plain


def test_the_header_says_first_what_the_model_is() -> None:
    first, *_ = PLAN.report().splitlines()
    assert first == "interrupted.tflite: tflite model, INT8, 3 operations"


def test_a_notebook_shows_the_placement_table() -> None:
    html = PLAN._repr_html_()
    assert html.count("<tr>") == 4
    assert "TANH" in html


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="'text', 'markdown' or 'json', not 'pdf'"):
        PLAN.report("pdf")  # type: ignore[arg-type]


def float_network() -> Graph:
    b = GraphBuilder(0, name="my model.tflite")
    x = b.tanh(b.input(4, dtype=DType.FLOAT32))
    return b.build(x)


def test_a_float_model_is_named_so_first_with_a_command() -> None:
    text = compile_model(float_network()).report()
    lines = text.splitlines()
    assert (
        lines[0] == "my model.tflite: tflite model, NOT INT8 (it computes in float), 1 operations"
    )
    assert "    pip install ai-edge-quantizer" in lines
    command = next(line for line in lines if "akida_backend.quantize" in line)
    assert command.startswith("    python -m akida_backend.quantize 'my model.tflite' --data ")
    assert lines.index(command) < lines.index(next(line for line in lines if "Device:" in line))


def test_a_float_onnx_model_is_named_so_too() -> None:
    """Its operators are opaque, and what is opaque has no MACs to count."""
    b = OnnxBuilder()
    weights = b.constant(np.ones((4, 4, 3, 3)))
    b.output(b.node("Relu", b.node("Conv", b.input(["N", 4, 6, 6]), weights)))
    content = b.model().SerializeToString()
    first, *lines = compile_model(load(content)).report().splitlines()
    assert first == "model: onnx model, NOT INT8 (it computes in float), 2 operations"
    command = "    python -m akida_backend.quantize model --data SAMPLES -o model_int8.onnx"
    assert lines.index("    pip install onnxruntime") + 1 == lines.index(command)


def test_weights_that_are_integers_in_a_float_model_are_no_reason_to_quantize_it(
    shared: Path,
) -> None:
    plan = compile_model(load(shared / "models/mlperf_tiny/mlperf_toycar_dynrange_quant.tflite"))
    text = " ".join(plan.report().split())
    assert "NOT INT8" in text
    assert "quantize the float model it was made from" in text
    assert "akida_backend.quantize FLOAT_MODEL.tflite --data" in text


def test_long_joined_names_are_shortened_in_tables_and_whole_in_json() -> None:
    name = "net/block/Relu6;net/bn/FusedBatchNormV3;other/Relu6;net/conv/Conv2D"
    assert short_name(name) == "Relu6;FusedBatchNormV3;Conv2D"
    assert short_name("plain") == "plain"
    assert short_name("x" * 200) == "x" * 57 + "..."


def test_a_share_shows_100_only_where_nothing_is_missing() -> None:
    assert reports.fraction_text(1.0) == "100.00 %"
    assert reports.fraction_text(0.999999) == "99.99 %"
    assert reports.fraction_text(0.5) == "50.00 %"
    assert reports.fraction_text(None) == ""


def test_assumptions_and_changed_weights_are_told() -> None:
    from dataclasses import replace

    from akida_backend.plan import DeviceSegment, WeightNote

    note = WeightNote("conv", "weights do not fit", 3, 0.25)
    segments = tuple(
        replace(segment, assumptions=("Add has an activation",), weight_notes=(note,))
        if isinstance(segment, DeviceSegment)
        else segment
        for segment in PLAN.segments
    )
    plan = Plan(PLAN.graph, PLAN.legalised, PLAN.device, PLAN.options, PLAN.placement, segments)
    text = plan.report()
    assert "Add has an activation" in text
    assert "op 0 'conv': 3 filters, weights do not fit; largest change 0.25 steps" in text
    device = reports.plan_json(plan)["segments"][0]
    assert device["assumptions"] == ["Add has an activation"]
    assert device["weight_changes"] == [
        {"layer": "conv", "reason": "weights do not fit", "filters": 3, "max_error_steps": 0.25}
    ]
