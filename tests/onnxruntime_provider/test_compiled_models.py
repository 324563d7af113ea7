# SPDX-License-Identifier: Apache-2.0
"""Compiled ONNX models: what is written, that it runs, and how it says where it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import networks
import numpy as np
import onnx
import pytest
from context_models import residual
from onnx import TensorProto, helper

import akida_backend as ab
from akida_backend import cli
from akida_backend import onnxruntime as provider
from akida_backend.compiled_onnx import NEWEST_IR_VERSION, compiled_onnx
from akida_backend.epcontext import DOMAIN, NODE_TYPE, PROVIDER, tool
from akida_backend.errors import ImportModelError, InputError
from akida_backend.graph import Graph
from akida_backend.onnx_writer import Interface, OnnxForm, write_onnx
from akida_backend.program_format import program_to_bytes

NETWORKS = [
    pytest.param(networks.strided_stem, id="host-half"),
    pytest.param(networks.interrupted, id="two-segments"),
    pytest.param(residual, id="residual"),
]


def written(graph: Graph, form: OnnxForm = OnnxForm.QDQ) -> bytes:
    return write_onnx(graph, form, interface=Interface.CHANNELS_FIRST)


def inputs(session: object, samples: int = 5) -> dict[str, object]:
    generator = np.random.default_rng(1)
    return {
        each.name: generator.integers(-128, 128, (samples, *each.shape[1:]), dtype=np.int8)
        for each in session.get_inputs()  # type: ignore[attr-defined]
    }


def contexts(model: onnx.ModelProto) -> list[dict[str, object]]:
    """Attributes of every EPContext node."""
    return [
        {each.name: helper.get_attribute_value(each) for each in node.attribute}
        for node in model.graph.node
        if (node.op_type, node.domain) == (NODE_TYPE, DOMAIN)
    ]


@pytest.mark.parametrize("form", [pytest.param(form, id=form.value) for form in OnnxForm])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_saved_model_gives_the_values_of_its_plan(
    ort: ModuleType,  # noqa: ARG001
    tmp_path: Path,
    network: Callable[[], Graph],
    form: OnnxForm,
) -> None:
    data = written(network(), form)
    plan = ab.compile(data)
    path = tmp_path / "compiled.onnx"
    plan.save(path)
    session = provider.create_session(path)
    given = inputs(session)
    expected = ab.InferenceSession(plan).run(None, given)  # type: ignore[arg-type]
    for found, wanted in zip(session.run(None, given), expected, strict=True):
        assert found.tolist() == wanted.tolist()


def test_what_a_model_records(tmp_path: Path) -> None:
    data = written(networks.interrupted())
    plan = ab.compile(data)
    path = tmp_path / "compiled.onnx"
    plan.save(path)
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert model.ir_version <= NEWEST_IR_VERSION
    source = hashlib.sha256(data).hexdigest()
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        f"{PROVIDER}.tool": tool(),
        f"{PROVIDER}.device": "akida2",
        f"{PROVIDER}.source_sha256": source,
    }
    found = contexts(model)
    assert len(found) == len(plan.programs) == 2
    for attributes, program in zip(found, plan.programs, strict=True):
        payload = program_to_bytes(program)
        assert attributes["ep_cache_context"] == payload
        assert (attributes["embed_mode"], attributes["main_context"]) == (1, 1)
        assert attributes["source"] == PROVIDER.encode()
        assert attributes["ep_sdk_version"] == tool().encode()
        assert attributes["hardware_architecture"] == b"akida2"
        notes = json.loads(attributes["notes"])  # type: ignore[arg-type]
        assert notes["format"] == 1
        assert notes["tool"] == tool()
        assert notes["devices"][0] == "akida2"
        assert notes["source_sha256"] == source
        assert notes["program_sha256"] == hashlib.sha256(payload[64:]).hexdigest()


def test_every_context_output_has_a_type_and_no_weight_stays_behind() -> None:
    data = written(networks.interrupted())
    model = onnx.ModelProto.FromString(compiled_onnx(ab.compile(data)))
    typed = {
        value.name: value.type.tensor_type.elem_type
        for value in (*model.graph.value_info, *model.graph.output)
    }
    nodes = [node for node in model.graph.node if node.op_type == NODE_TYPE]
    assert len(nodes) == 2
    assert [typed[node.output[0]] for node in nodes] == [TensorProto.INT8] * 2
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    assert all("weights" not in tensor.name for tensor in model.graph.initializer)


def test_equal_plans_give_equal_bytes() -> None:
    data = written(residual())
    assert compiled_onnx(ab.compile(data)) == compiled_onnx(ab.compile(data))


def test_the_command_writes_a_model_that_runs(
    ort: ModuleType,  # noqa: ARG001
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, target = tmp_path / "m.onnx", tmp_path / "compiled.onnx"
    source.write_bytes(written(residual()))
    assert cli.main(["compile", str(source), "-o", str(target)]) == 0
    assert hashlib.sha256(target.read_bytes()).hexdigest()[:16] in capsys.readouterr().out
    session = provider.create_session(target)
    assert session.run(None, inputs(session))[0].shape == (5, 6)


def test_onnxruntime_writes_the_same_programs(ort: ModuleType, tmp_path: Path) -> None:
    data = written(networks.interrupted())
    path = tmp_path / "context.onnx"
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.add_session_config_entry("ep.context_enable", "1")
    settings.add_session_config_entry("ep.context_file_path", str(path))
    settings.add_session_config_entry("ep.context_embed_mode", "1")
    session = provider.create_session(data, sess_options=settings)
    given = inputs(session)
    again = provider.create_session(path)
    for found, wanted in zip(again.run(None, given), session.run(None, given), strict=True):
        assert found.tolist() == wanted.tolist()
    own = contexts(onnx.ModelProto.FromString(compiled_onnx(ab.compile(data))))
    theirs = contexts(onnx.load(path))
    for name in ("ep_cache_context", "source", "ep_sdk_version", "hardware_architecture"):
        assert [each[name] for each in theirs] == [each[name] for each in own]
    for attributes in theirs:
        notes = json.loads(attributes["notes"])  # type: ignore[arg-type]
        assert notes["source_sha256"] == hashlib.sha256(data).hexdigest()


def test_onnxruntime_writes_no_source_emulation(ort: ModuleType, tmp_path: Path) -> None:
    settings = ort.SessionOptions()
    settings.add_session_config_entry("ep.context_enable", "1")
    settings.add_session_config_entry("ep.context_file_path", str(tmp_path / "context.onnx"))
    with pytest.raises(Exception, match=r"ep\.context_enable: a compiled model always runs"):
        provider.create_session(written(residual()), sess_options=settings, emulation="source")


# What is not written


@pytest.mark.parametrize(
    ("options", "name", "wanted"),
    [
        pytest.param({"emulation": "source"}, "m.onnx", "device's arithmetic", id="source"),
        pytest.param({"deny": ["type:Conv"]}, "m.onnx", "nothing of it runs", id="nothing"),
        pytest.param({}, "m.tflite", "onnx", id="as-tflite"),
    ],
)
def test_models_that_cannot_be_compiled_say_why(
    tmp_path: Path, options: dict[str, object], name: str, wanted: str
) -> None:
    plan = ab.compile(written(networks.interrupted()), "akida2", **options)
    with pytest.raises(InputError, match=wanted):
        plan.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_tflite_models_stay_tflite(tmp_path: Path) -> None:
    plan = ab.compile(networks.classifier())
    with pytest.raises(
        InputError, match=r"was read as tflite.*\n  save it as \.tflite or as \.akp"
    ):
        plan.save(tmp_path / "m.onnx")


def test_data_in_other_files_are_taken_along(ort: ModuleType, tmp_path: Path) -> None:  # noqa: ARG001
    data = written(networks.interrupted())
    source = tmp_path / "source"
    source.mkdir()
    onnx.save(
        onnx.load_from_string(data),
        source / "m.onnx",
        save_as_external_data=True,
        location="data.bin",
        size_threshold=0,
    )
    plan = ab.compile(source / "m.onnx")
    target = tmp_path / "compiled.onnx"
    plan.save(target)
    for path in source.iterdir():
        path.unlink()
    session = provider.create_session(target)
    given = inputs(session)
    expected = provider.create_session(data).run(None, given)
    for found, wanted in zip(session.run(None, given), expected, strict=True):
        assert found.tolist() == wanted.tolist()


def test_a_compiled_model_is_not_compiled_again_and_says_where_it_is_from() -> None:
    data = written(residual())
    compiled = compiled_onnx(ab.compile(data))
    with pytest.raises(ImportModelError) as found:
        ab.compile(compiled)
    text = str(found.value)
    assert f"by {tool()} for akida2" in text
    assert hashlib.sha256(data).hexdigest() in text
    assert "akida_backend.onnxruntime.create_session" in text
