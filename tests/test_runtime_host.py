# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import raw_tflite
from onnx_models import OnnxBuilder
from tflite import BuiltinOperator

from akida_backend import runtime_host
from akida_backend.compiler import compile as compile_model
from akida_backend.errors import UnsupportedOperationError
from akida_backend.execute import Executor, run_source
from akida_backend.graph import AnyArray
from akida_backend.loading import load
from akida_backend.runtime_host import host_name, installed_runtime
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder, random_inputs

pytestmark = pytest.mark.filterwarnings("ignore:.*experimental_preserve_all_tensors")


@pytest.fixture(scope="module")
def interpreter_module() -> Any:  # noqa: ANN401
    return pytest.importorskip("ai_edge_litert.interpreter")


def whole_model(module: Any, content: bytes, x: AnyArray) -> list[AnyArray]:  # noqa: ANN401
    """Every sample through the runtime's own run of the whole file."""
    interpreter = module.Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    rows = []
    for sample in x:
        interpreter.set_tensor(entry["index"], sample[np.newaxis])
        interpreter.invoke()
        details = interpreter.get_output_details()
        rows.append([interpreter.get_tensor(detail["index"]) for detail in details])
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def test_an_opaque_operator_runs_in_the_installed_runtime(interpreter_module: Any) -> None:  # noqa: ANN401
    graph = load(networks.absolute_file(), name="abs.tflite")
    x = np.array([[-3, 4, -5, 0], [7, -8, 9, -10]], np.int8)
    found = Executor(compile_model(graph)).run({"x": x}).values["y"]
    np.testing.assert_array_equal(found, np.abs(x).reshape(2, 2, 2))
    assert interpreter_module is not None


def test_without_a_runtime_an_opaque_operator_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime_host, "installed_runtime", lambda: None)
    graph = load(networks.absolute_file(), name="abs.tflite")
    with pytest.raises(
        UnsupportedOperationError,
        match=r"abs\.tflite: op 0 ABS 'magnitude': needs an installed runtime.*\n"
        r".*pip install ai-edge-litert",
    ):
        run_source(graph, {"x": np.zeros((1, 4), np.int8)})


def test_an_opaque_operator_outside_a_file_is_refused() -> None:
    b = GraphBuilder(0)
    graph = b.build(b.opaque(b.input(4), shape=(None, 4)))
    with pytest.raises(UnsupportedOperationError, match="stands in a TFLite file"):
        run_source(graph, networks.codes(graph, 1))


def test_host_runtime_gives_what_the_runtime_gives_for_the_whole_file(
    interpreter_module: Any,  # noqa: ANN401
) -> None:
    content = write_tflite(networks.classifier())
    graph = load(content, name="classifier.tflite")
    plan = compile_model(
        graph, deny=sorted({f"type:{op.location.type}" for op in graph.operations}), host="runtime"
    )
    feeds = networks.codes(graph, 5)
    (found,) = Executor(plan).run(feeds).values.values()
    (expected,) = whole_model(interpreter_module, content, feeds["image"])
    np.testing.assert_array_equal(found, expected)


def test_host_runtime_runs_rewritten_operations_in_the_reference(
    interpreter_module: Any,  # noqa: ANN401
) -> None:
    assert interpreter_module is not None
    content = write_tflite(networks.strided_stem())
    plan = compile_model(load(content, name="stem.tflite"))
    feeds = networks.codes(plan.graph, 3)
    (reference,) = Executor(plan, host="reference").run(feeds).values.values()
    (runtime,) = Executor(plan, host="runtime").run(feeds).values.values()
    # All that is left to the host here moves values.
    np.testing.assert_array_equal(runtime, reference)


def test_state_does_not_pass_from_sample_to_sample(shared: Path, interpreter_module: Any) -> None:  # noqa: ANN401
    path = shared / "models/tflm/tflm_mnist_lstm_int8.tflite"
    with np.load(shared / "data/mnist_28x28_int8.npz") as data:
        x = data["x"][:6]
    fresh = [whole_model(interpreter_module, path.read_bytes(), x[i : i + 1])[0] for i in range(6)]
    graph = load(path)
    (found,) = run_source(graph, {graph.inputs[0]: x}, host="runtime").values()
    np.testing.assert_array_equal(found, np.concatenate(fresh))


def test_reports_name_the_host_side() -> None:
    graph = networks.classifier()
    opaque = load(networks.absolute_file())
    runtime = installed_runtime()
    assert host_name(graph, "reference") == "reference"
    assert host_name(graph, "runtime") == str(runtime or "no runtime installed")
    assert host_name(opaque, "reference").startswith("reference, opaque operations in ")


@pytest.mark.tflite_runtime
def test_tflite_runtime_runs_opaque_operators_too() -> None:
    runtime = installed_runtime()
    assert runtime is not None
    assert runtime.package == "tflite-runtime"
    graph = load(networks.absolute_file())
    x = np.array([[-3, 4, -5, 0], [7, -8, 9, -10]], np.int8)
    np.testing.assert_array_equal(run_source(graph, {"x": x})["y"], np.abs(x).reshape(2, 2, 2))


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_runtimes_are_released_with_the_model(kind: str) -> None:
    pytest.importorskip("ai_edge_litert" if kind == "tflite" else "onnxruntime")
    if kind == "tflite":
        content = networks.absolute_file()
    else:
        b = OnnxBuilder()
        b.finish(b.node("Erf", b.real_input((1, 4))))
        content = b.content()
    graph = load(content)
    (name,) = graph.inputs
    run_source(graph, {name: random_inputs(graph, 1)[name]})
    alive = weakref.ref(graph)
    del graph
    gc.collect()
    assert alive() is None


def test_a_result_of_another_shape_than_declared_is_named() -> None:
    pytest.importorskip("ai_edge_litert")
    tensors = [
        raw_tflite.activation(1, 4, name="x"),
        raw_tflite.activation(1, 3, name="magnitude"),
    ]
    absolute = raw_tflite.RawOperator(BuiltinOperator.ABS, [0], [1])
    graph = load(raw_tflite.RawModel(tensors, [absolute], [0], [1]).to_bytes())
    with pytest.raises(UnsupportedOperationError, match=r"declared as \[1, 3\], .* gives \[1, 4\]"):
        run_source(graph, {"x": np.zeros((2, 4), np.int8)})
