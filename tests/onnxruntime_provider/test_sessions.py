# SPDX-License-Identifier: Apache-2.0
"""Models that the provider places itself: what it claims, results, options, and refusals."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import networks
import numpy as np
import onnx
import pytest
from context_models import residual
from numpy.typing import NDArray
from onnx import TensorProto, helper

import akida_backend as ab
from akida_backend import onnxruntime as provider
from akida_backend.epcontext import PROVIDER
from akida_backend.errors import FallbackError, ImportModelError, InputError
from akida_backend.graph import Graph
from akida_backend.onnx_writer import Interface, OnnxForm, write_onnx
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder

FORMS = [pytest.param(form, id=form.value) for form in OnnxForm]
LEVELS = [pytest.param(name, id=name) for name in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_ALL")]


def settings_of(ort: ModuleType, level: str = "ENABLE_ALL") -> object:
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{level}")
    return settings


def written(graph: Graph, form: OnnxForm = OnnxForm.QDQ) -> bytes:
    return write_onnx(graph, form, interface=Interface.CHANNELS_FIRST)


def feeds(session: object, samples: int = 5, seed: int = 0) -> dict[str, NDArray[np.int8]]:
    generator = np.random.default_rng(seed)
    inputs = session.get_inputs()  # type: ignore[attr-defined]
    return {
        each.name: generator.integers(-128, 128, (samples, *each.shape[1:]), dtype=np.int8)
        for each in inputs
    }


def nodes_in(data: bytes, type: str) -> int:
    return sum(node.op_type == type for node in onnx.load_from_string(data).graph.node)


def plain_session(ort: ModuleType, data: bytes, **options: str) -> object:
    """As an application makes it that knows nothing of this package's Python."""
    settings = settings_of(ort)
    settings.add_provider_for_devices(provider._devices(), options)  # type: ignore[attr-defined]
    return ort.InferenceSession(data, sess_options=settings)


# Results


@pytest.mark.parametrize("emulation", ["device", "source"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "network",
    [
        pytest.param(networks.strided_stem, id="host-half"),
        pytest.param(networks.interrupted, id="two-segments"),
        pytest.param(residual, id="residual"),
        pytest.param(networks.diamond, id="diamond"),
        pytest.param(networks.two_inputs, id="nothing-placed"),
    ],
)
def test_results_equal_those_of_the_package_itself(
    ort: ModuleType,
    network: Callable[[], Graph],
    form: OnnxForm,
    level: str,
    emulation: str,
) -> None:
    data = written(network(), form)
    session = provider.create_session(
        data, sess_options=settings_of(ort, level), emulation=emulation
    )
    given = feeds(session)
    reference = ab.InferenceSession(data, emulation=emulation)
    for found, expected in zip(session.run(None, given), reference.run(None, given), strict=True):
        assert found.tolist() == expected.tolist()


def test_every_segment_of_the_plan_is_claimed(ort: ModuleType) -> None:
    settings = settings_of(ort)
    settings.add_session_config_entry(  # type: ignore[attr-defined]
        "session.record_ep_graph_assignment_info", "1"
    )
    data = written(residual(), OnnxForm.QOPERATOR)
    session = provider.create_session(data, sess_options=settings)
    if not hasattr(session, "get_provider_graph_assignment_info"):
        pytest.skip("this onnxruntime does not tell")
    ours = [
        [node.op_type for node in part.get_nodes()]
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == PROVIDER
    ]
    assert len(ours) == len(ab.compile(data).programs) == 1
    assert ours[0].count("QLinearConv") == nodes_in(data, "QLinearConv") == 3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("network", "programs"),
    [
        pytest.param(networks.adjacent, 4, id="adjacent"),
        pytest.param(networks.branches, 2, id="branches"),
        pytest.param(networks.diamond, 3, id="diamond"),
    ],
)
def test_segments_beside_and_around_each_other_are_all_taken(
    ort: ModuleType, network: Callable[[], Graph], programs: int, form: OnnxForm
) -> None:
    """Groups of nodes that are not convex onnxruntime drops, and only logs it."""
    settings = settings_of(ort)
    settings.add_session_config_entry(  # type: ignore[attr-defined]
        "session.record_ep_graph_assignment_info", "1"
    )
    data = written(network(), form)
    session = provider.create_session(data, sess_options=settings)
    given = feeds(session)
    expected = ab.InferenceSession(data).run(None, given)
    for found, wanted in zip(session.run(None, given), expected, strict=True):
        assert found.tolist() == wanted.tolist()
    if hasattr(session, "get_provider_graph_assignment_info"):
        parts = session.get_provider_graph_assignment_info()
        assert [part.ep_name for part in parts].count(PROVIDER) == programs


def test_graphs_inside_a_node_stay_with_the_cpu(ort: ModuleType) -> None:
    """Nodes fused in two branches of an If once clashed in onnxruntime."""
    model = onnx.load_from_string(write_onnx(residual()))
    (image,) = model.graph.input
    for position, branch in enumerate(("then", "else")):
        inner = onnx.load_from_string(write_onnx(residual(position))).graph
        del inner.input[:]
        model.graph.node.add(
            op_type="If", input=["flag"], output=[f"{branch}/y"], name=branch
        ).attribute.extend(
            [
                helper.make_attribute(f"{name}_branch", with_prefix(inner, f"{branch}/{name}/"))
                for name in ("then", "else")
            ]
        )
        model.graph.output.append(
            helper.make_tensor_value_info(f"{branch}/y", TensorProto.INT8, ["N", 6])
        )
    model.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    data = model.SerializeToString()
    session = provider.create_session(data)
    plain = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).integers(-128, 128, (2, 8, 8, 3)).astype(np.int8)
    for flag in (True, False):
        given = {image.name: x, "flag": np.array(flag)}
        outside, *inside = session.run(None, given)
        _, *expected = plain.run(None, given)
        assert [each.tolist() for each in inside] == [each.tolist() for each in expected]
        reference = ab.InferenceSession(write_onnx(residual())).run(None, {image.name: x})
        assert outside.tolist() == reference[0].tolist()


def with_prefix(graph: onnx.GraphProto, prefix: str) -> onnx.GraphProto:
    """The graph with names of its own, but for the image that it reads from outside."""
    changed = onnx.GraphProto()
    changed.CopyFrom(graph)
    changed.name = prefix
    for node in changed.node:
        node.name = prefix + node.name
        for names in (node.input, node.output):
            names[:] = [name if name == "image" else prefix + name for name in names]
    for value in (*changed.initializer, *changed.output):
        value.name = prefix + value.name
    return changed


def test_the_batch_is_dynamic(ort: ModuleType) -> None:  # noqa: ARG001
    data = written(residual())
    session = provider.create_session(data)
    given = feeds(session, 9)
    (name,) = given
    (whole,) = session.run(None, given)
    for size in (1, 4, 9):
        (part,) = session.run(None, {name: given[name][:size]})
        assert part.tolist() == whole[:size].tolist()


def test_weights_given_as_float_leave_a_reason(
    ort: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(ort)
    settings.add_session_config_entry("session.disable_quant_qdq", "1")  # type: ignore[attr-defined]
    data = written(residual())
    with caplog.at_level(logging.WARNING):
        session = provider.create_session(data, sess_options=settings, fallback="warn")
    assert "session.disable_quant_qdq=1 makes onnxruntime fold quantized weights" in caplog.text
    assert "0 of" in caplog.text
    assert session.run(None, feeds(session))[0].shape == (5, 6)


# Fallback


def test_warn_prints_one_line(ort: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    data = written(networks.interrupted())
    with caplog.at_level(logging.WARNING):
        plain_session(ort, data, fallback="warn")
    (record,) = caplog.records
    assert "2 of 3 operations, 100.0% of MACs, 2 partitions; on the host: op" in record.message
    assert "[OP-NO-LAYER] Tanh" in record.message
    assert "\n" not in record.message


@pytest.mark.parametrize("cpu_fallback", ["0", "1"])
@pytest.mark.parametrize(
    "network",
    [
        pytest.param(networks.interrupted, id="partly-placed"),
        pytest.param(networks.two_inputs, id="nothing-placed"),
    ],
)
def test_error_fails_the_session_with_the_reasons(
    ort: ModuleType, network: Callable[[], Graph], cpu_fallback: str
) -> None:
    data = written(network())
    settings = settings_of(ort)
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", cpu_fallback)  # type: ignore[attr-defined]
    options = {"fallback": "error", "device": "akida2"}
    settings.add_provider_for_devices(provider._devices(), options)  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="fallback 'error' wants no operation on the host") as found:
        ort.InferenceSession(data, sess_options=settings)
    assert "Found: " in str(found.value)
    with pytest.raises(FallbackError, match="fallback 'error' wants"):
        provider.create_session(data, fallback="error")


def test_error_lets_a_model_pass_that_is_placed_whole(ort: ModuleType) -> None:
    settings = settings_of(ort)
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # type: ignore[attr-defined]
    data = written(networks.strided_stem(), OnnxForm.QOPERATOR)
    session = provider.create_session(data, sess_options=settings, fallback="error")
    given = feeds(session)
    expected = ab.InferenceSession(data).run(None, given)
    assert session.run(None, given)[0].tolist() == expected[0].tolist()


# Options


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        pytest.param({"thread": "2"}, "did you mean 'threads'", id="unknown"),
        pytest.param({"device": "akida9"}, "unknown device 'akida9'", id="device"),
        pytest.param({"fallback": "never"}, "option 'fallback'", id="choice"),
        pytest.param({"threads": "0"}, "from 1 to 256", id="range"),
        pytest.param({"host": "reference"}, "onnxruntime runs what stays", id="host"),
        pytest.param({"calibration": "/nowhere.npz"}, "/nowhere.npz", id="calibration"),
        pytest.param({"deny": "name:nothing"}, "unknown operator name", id="deny"),
    ],
)
def test_bad_options_fail_the_session_through_both_doors(
    ort: ModuleType, options: dict[str, str], wanted: str
) -> None:
    data = written(residual())
    with pytest.raises(Exception, match=wanted):
        plain_session(ort, data, **options)
    with pytest.raises(InputError, match=wanted):
        provider.create_session(data, **options)


def test_options_reach_the_compiler(ort: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    data = written(networks.interrupted())
    with caplog.at_level(logging.WARNING):
        plain_session(ort, data, fallback="warn", max_partitions="1", allow_uncalibrated="true")
    assert "1 partition;" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        provider.create_session(data, fallback="warn", deny=["type:Conv"])
    assert "0 partitions" in caplog.text


def test_calibration_is_a_path_or_arrays(ort: ModuleType, tmp_path: Path) -> None:
    data = written(residual())
    given = feeds(provider.create_session(data), 16)
    (name,) = given
    np.savez(tmp_path / "data.npz", **given)  # type: ignore[arg-type]
    expected = ab.InferenceSession(data, calibration=given, allow_uncalibrated=True)
    for calibration in (str(tmp_path / "data.npz"), given, given[name]):
        session = provider.create_session(data, calibration=calibration, allow_uncalibrated=True)
        assert session.run(None, given)[0].tolist() == expected.run(None, given)[0].tolist()
    session = plain_session(
        ort, data, calibration=str(tmp_path / "data.npz"), allow_uncalibrated="true"
    )
    found = session.run(None, given)[0]  # type: ignore[attr-defined]
    assert found.tolist() == expected.run(None, given)[0].tolist()


# What goes wrong in Python


def float_model(shape: list[int | str]) -> bytes:
    node = helper.make_node("Relu", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([node], "open", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def test_a_model_without_integers_runs_on_the_cpu(ort: ModuleType) -> None:
    session = plain_session(ort, float_model([1, 4]))
    x = np.array([[-1, 0, 1, 2]], np.float32)
    assert session.run(None, {"x": x})[0].tolist() == [[0, 0, 1, 2]]  # type: ignore[attr-defined]


def test_a_model_that_cannot_be_read_stays_on_the_cpu_with_a_warning(
    ort: ModuleType, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ImportModelError("here", "something is odd", remedy="Do otherwise.")

    monkeypatch.setattr(provider, "load", refuse)
    data = float_model([1, 4])
    with caplog.at_level(logging.WARNING):
        session = plain_session(ort, data)
    assert "stays on the CPU: here: something is odd" in caplog.text
    x = np.array([[-1, 0, 1, 2]], np.float32)
    assert session.run(None, {"x": x})[0].tolist() == [[0, 0, 1, 2]]  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="something is odd"):
        plain_session(ort, data, fallback="error")
    with pytest.raises(ImportModelError, match="something is odd"):
        provider.create_session(data)


def test_files_that_are_no_sound_onnx_models_are_refused_by_what_they_are(
    ort: ModuleType,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    """Of all these onnxruntime says that parsing failed, or that a file is missing."""
    data = written(residual())
    (tmp_path / "m.tflite").write_bytes(write_tflite(residual()))
    (tmp_path / "cut.onnx").write_bytes(data[:5000])
    ab.compile(data).save(tmp_path / "m.akp")
    for model, kind, wanted in (
        (tmp_path / "none.onnx", InputError, r"none\.onnx: cannot read the model: No such file"),
        (tmp_path / "m.tflite", InputError, r"(?s)m\.tflite: is a TFLite model.*load_delegate"),
        (tmp_path / "m.akp", InputError, r"(?s)m\.akp: is a saved plan.*InferenceSession"),
        (tmp_path / "cut.onnx", ImportModelError, r"(?s)cut\.onnx: not a.*export it again"),
        (data[:5000], ImportModelError, r"(?s)^model: not a sound ONNX file.*export it again"),
        (onnx.load_from_string(data), InputError, r"(?s)ModelProto.*SerializeToString"),
    ):
        with pytest.raises(kind, match=wanted):
            provider.create_session(model)


def test_open_axes_may_get_lengths_from_the_sessions_options(ort: ModuleType) -> None:
    b = GraphBuilder(1)
    data = written(b.build(b.conv2d(b.input(6, 7, 4, name="x"), 8)))
    model = onnx.load_from_string(data)
    for entry in (*model.graph.input, *model.graph.output):
        entry.type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(ImportModelError, match=r"(?s)axis 2 .*free_dimension_override_by_name"):
        provider.create_session(model.SerializeToString())
    settings = settings_of(ort)
    settings.add_free_dimension_override_by_name("height", 6)  # type: ignore[attr-defined]
    session = provider.create_session(
        model.SerializeToString(), sess_options=settings, fallback="error"
    )
    given = feeds(session)
    (found,), (wanted,) = session.run(None, given), ab.InferenceSession(data).run(None, given)
    assert found.tolist() == wanted.tolist()


def test_session_options_serve_one_session(ort: ModuleType) -> None:
    settings = settings_of(ort)
    provider.create_session(written(residual()), sess_options=settings)
    with pytest.raises(InputError, match=r"(?s)serve another session.*anew for each session"):
        provider.create_session(written(residual()), sess_options=settings)


def test_an_unforeseen_error_fails_the_session_and_reaches_the_caller(
    ort: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(provider, "compile_model", fail)
    data = written(residual())
    with pytest.raises(Exception, match="ZeroDivisionError: a bug"):
        plain_session(ort, data)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        provider.create_session(data)


def test_an_error_while_computing_is_raised_and_nothing_runs_on_the_cpu_instead(
    ort: ModuleType,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = provider.create_session(written(residual()), emulation="source")
    given = feeds(session)
    assert session.run(None, given)[0].shape == (5, 6)

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(provider, "run_operations", fail)
    with pytest.raises(Exception, match=r"RUNTIME_EXCEPTION.*ZeroDivisionError: a bug"):
        session.run(None, given)
    assert session.get_providers()[0] == PROVIDER


def test_source_emulation_lets_go_of_its_models(ort: ModuleType) -> None:  # noqa: ARG001
    before = len(provider._sources._segments)
    session = provider.create_session(written(residual()), emulation="source")
    assert len(provider._sources._segments) == before + 1
    del session
    assert len(provider._sources._segments) == before


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("tab\tand\nline\x01\x7f", id="control"),
        pytest.param('quote" \\ slash/ \\u0041', id="escapes"),
        pytest.param("\u00e4\u20ac\ud7ff\ue000\U0001f600\U0010ffff", id="planes"),
    ],
)
def test_tensors_may_have_any_names(ort: ModuleType, tmp_path: Path, name: str) -> None:  # noqa: ARG001
    """They go through the notes as JSON."""
    b = GraphBuilder(1)
    data = write_onnx(b.build(b.conv2d(b.input(6, 6, 4, name=name), 5)))
    x = np.random.default_rng(1).integers(-128, 128, (2, 6, 6, 4), dtype=np.int8)
    session = provider.create_session(data, fallback="error")
    assert session.get_providers()[0] == PROVIDER
    (wanted,) = ab.InferenceSession(data).run(None, {name: x})
    assert np.array_equal(session.run(None, {name: x})[0], wanted)
    ab.compile(data).save(tmp_path / "compiled.onnx")
    compiled = provider.create_session(tmp_path / "compiled.onnx")
    assert np.array_equal(compiled.run(None, {name: x})[0], wanted)
