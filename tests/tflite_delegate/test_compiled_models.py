# SPDX-License-Identifier: Apache-2.0
"""Models saved as .tflite with their programs inside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import networks
import numpy as np
import pytest
import raw_tflite
from interpreters import Runtime, equal, kernels, random_feeds, run
from tflite import BuiltinOperator

import akida_backend as ab
from akida_backend.cli import main
from akida_backend.graph import Activation, DType, Graph, Opaque
from akida_backend.importers.tflite import read_tflite
from akida_backend.program_format import program_to_bytes
from akida_backend.tflite_compiled import compiled_tflite
from akida_backend.tflite_records import PROGRAM_OPERATOR
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder

ROOT = Path(__file__).parents[2]


def pair() -> Graph:
    """Two samples at a time."""
    b = GraphBuilder(1, batch=2)
    x = b.conv2d(b.input(6, 6, 4), 8, activation=Activation.RELU)
    return b.build(b.transpose(x, 3, 1, 2, 0))


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(networks.classifier, id="classifier"),
        pytest.param(networks.interrupted, id="interrupted"),
        pytest.param(networks.strided_stem, id="host-half"),
        pytest.param(pair, id="fixed-batch"),
    ],
)
def test_a_compiled_model_computes_what_its_model_computes(
    runtime: Runtime, tmp_path: Path, graph: Callable[[], Graph]
) -> None:
    content = write_tflite(graph())
    plan = ab.compile(content)
    plan.save(tmp_path / "compiled.tflite")
    compiled = (tmp_path / "compiled.tflite").read_bytes()
    interpreter = runtime.interpreter(compiled, ab.tflite.load_delegate())
    names = [operator["op_name"] for operator in interpreter._get_ops_details()]
    assert names.count(PROGRAM_OPERATOR) == len(plan.programs) > 0
    assert kernels(interpreter)
    feeds = random_feeds(interpreter)
    direct = runtime.interpreter(content, ab.tflite.load_delegate())
    assert equal(run(interpreter, feeds), run(direct, feeds))


def test_compiled_models_need_no_operator_versions_of_the_runtime(
    runtime: Runtime, tmp_path: Path
) -> None:
    """Convolutions with int4 weights, which 2.14 does not load, are inside the programs."""
    b = GraphBuilder(1, weight_dtype=DType.INT4)
    plan = ab.compile(write_tflite(b.build(b.conv2d(b.input(5, 5, 3), 3, kernel=3))))
    plan.save(tmp_path / "m.tflite")
    compiled = (tmp_path / "m.tflite").read_bytes()
    interpreter = runtime.interpreter(compiled, ab.tflite.load_delegate())
    feeds = random_feeds(interpreter, 2)
    (found,), (wanted,) = (
        run(interpreter, feeds).values(),
        ab.InferenceSession(plan).run(None, feeds),
    )
    assert np.array_equal(found, wanted)


def test_the_operators_options_are_the_programs_bytes() -> None:
    plan = ab.compile(write_tflite(networks.interrupted()))
    content = compiled_tflite(plan)
    for program in plan.programs:
        data = program_to_bytes(program)
        assert content.count(data) == 1
        assert content.index(data) % 16 == 0


def test_equal_plans_give_equal_files() -> None:
    content = write_tflite(networks.classifier())
    assert compiled_tflite(ab.compile(content)) == compiled_tflite(ab.compile(content))


def test_a_session_opens_a_compiled_model_through_the_delegate(
    runtime: Runtime, tmp_path: Path
) -> None:
    assert runtime
    plan = ab.compile(write_tflite(networks.classifier()))
    plan.save(tmp_path / "compiled.tflite")
    session = ab.InferenceSession(tmp_path / "compiled.tflite")
    feeds = networks.codes(networks.classifier(), 3)
    (found,), (wanted,) = session.run(None, feeds), ab.InferenceSession(plan).run(None, feeds)
    assert np.array_equal(found, wanted)


def test_a_compiled_model_says_what_it_is_and_is_not_compiled_again(tmp_path: Path) -> None:
    ab.compile(write_tflite(networks.classifier())).save(tmp_path / "compiled.tflite")
    again = ab.compile(tmp_path / "compiled.tflite")
    (reason,) = again.placement[0].reasons
    assert reason.found == "part of a compiled model, which the TFLite delegate runs"
    with pytest.raises(ab.InputError, match=r"(?s)compiled model already.*Compile the model that"):
        again.save(tmp_path / "again.tflite")
    assert not (tmp_path / "again.tflite").exists()


def test_without_the_delegate_the_runtime_names_the_operator(runtime: Runtime) -> None:
    compiled = compiled_tflite(ab.compile(write_tflite(networks.classifier())))
    with pytest.raises(RuntimeError, match="unresolved custom op: akida-program"):
        runtime.interpreter(compiled)


def test_opaque_operators_and_their_state_are_copied(runtime: Runtime) -> None:
    content = networks.absolute_file()
    plan = ab.compile(content)
    assert any(isinstance(op, Opaque) for op in plan.graph.operations)
    copied = compiled_tflite(plan)
    plain = runtime.interpreter(content)
    feeds = {"x": np.array([[-5, 7, -128, 0]], np.int8)}
    assert equal(run(runtime.interpreter(copied), feeds), run(plain, feeds))


def test_options_of_opaque_operators_are_copied_field_by_field() -> None:
    tensors = [
        raw_tflite.activation(1, 4, 4, 2, name="x"),
        raw_tflite.activation(1, 2, 2, 8, name="y"),
        raw_tflite.activation(1, 2, 2, 8, name="z"),
    ]
    operators = [
        raw_tflite.RawOperator(
            BuiltinOperator.SPACE_TO_DEPTH, [0], [1], "SpaceToDepthOptions", {"BlockSize": 2}
        ),
        raw_tflite.RawOperator("Elsewhere", [1], [2]),
    ]
    graph = read_tflite(raw_tflite.RawModel(tensors, operators, [0], [2]).to_bytes(), "m")
    again = read_tflite(write_tflite(graph), "m")
    assert [op.location.type for op in again.operations] == ["SPACE_TO_DEPTH", "Elsewhere"]
    assert b"Elsewhere" in write_tflite(graph)
    blocks = [
        op
        for op in (again.operations[0],)
        if _option(again.source, op.location.index, "SpaceToDepthOptions", "BlockSize") == 2
    ]
    assert blocks


def _option(content: bytes, index: int, table: str, name: str) -> object:
    import tflite

    operator = tflite.Model.GetRootAs(content).Subgraphs(0).Operators(index)
    options = getattr(tflite, table)()
    place = operator.BuiltinOptions()
    options.Init(place.Bytes, place.Pos)
    return getattr(options, name)()


def test_operators_that_name_other_subgraphs_are_refused() -> None:
    tensors = [raw_tflite.activation(1, 4, name=name) for name in "xy"]
    tensors.insert(0, raw_tflite.RawTensor((), 6, name="condition"))
    operator = raw_tflite.RawOperator(
        BuiltinOperator.IF, [0, 1], [2], "IfOptions", {"ThenSubgraphIndex": 0}
    )
    graph = read_tflite(raw_tflite.RawModel(tensors, [operator], [0, 1], [2]).to_bytes(), "m")
    with pytest.raises(ab.InputError, match="names another subgraph, which cannot be copied"):
        write_tflite(graph)


def test_every_real_model_survives_the_writer(runtime: Runtime, shared: Path) -> None:
    """Written again they compute the same with the runtime's reference kernels."""
    compared = 0
    for path in sorted((shared / "models").rglob("*.tflite")):
        if path.stat().st_size > 600_000 or "text_class" in path.name:  # words, not numbers
            continue
        content = path.read_bytes()
        try:
            plain = runtime.interpreter(content)
        except (RuntimeError, ValueError):  # an operator version the runtime does not know
            continue
        written = runtime.interpreter(write_tflite(read_tflite(content, path.name)))
        feeds = random_feeds(plain)
        wanted, found = run(plain, feeds), run(written, feeds)
        assert all(np.array_equal(found[n], wanted[n], equal_nan=True) for n in found), path.name
        assert len(found) == len(wanted), path.name
        compared += 1
    assert compared >= 60


def test_real_models_survive_compilation_to_a_file(runtime: Runtime, shared: Path) -> None:
    for name in (
        "mlperf_tiny/mlperf_kws_ref_int8",
        "mlperf_tiny/mlperf_resnet8_int8",
        "arm/arm_rnnoise_int8",
        "tflm/tflm_mnist_lstm_int8",
        "wake_vision/wakevision_ymac",
    ):
        content = (shared / "models" / f"{name}.tflite").read_bytes()
        compiled = compiled_tflite(ab.compile(content))
        interpreter = runtime.interpreter(compiled, ab.tflite.load_delegate())
        direct = runtime.interpreter(content, ab.tflite.load_delegate())
        feeds = random_feeds(direct)
        assert equal(run(interpreter, feeds), run(direct, feeds)), name


def test_the_command_writes_a_compiled_model(
    runtime: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "m.tflite"
    model.write_bytes(write_tflite(networks.classifier()))
    assert main(["compile", str(model), "-o", str(tmp_path / "c.tflite")]) == 0
    assert "Written to" in capsys.readouterr().out
    compiled = (tmp_path / "c.tflite").read_bytes()
    assert len(kernels(runtime.interpreter(compiled, ab.tflite.load_delegate()))) == 1


def test_a_compiled_model_of_another_device_is_refused(
    runtime: Runtime, capfd: pytest.CaptureFixture[str]
) -> None:
    compiled = compiled_tflite(ab.compile(write_tflite(networks.classifier())))
    for same in (
        ab.tflite.load_delegate("AKIDA2()"),
        runtime.module.load_delegate(ab.tflite.library_path(), {"device": "Akida2()"}),
    ):
        assert len(kernels(runtime.interpreter(compiled, same))) == 1
    with pytest.raises((RuntimeError, ValueError)) as refusal:
        runtime.interpreter(compiled, ab.tflite.load_delegate("akd1000"))
    said = str(refusal.value) + capfd.readouterr().err
    assert "compiled for device 'akida2', the option asks for 'akd1000'" in said


def test_without_python_behind_it_the_library_runs_compiled_models_only(
    runtime: Runtime, library: str, tmp_path: Path
) -> None:
    """A process that knows only the path of the library, and nothing of this package."""
    (tmp_path / "model.tflite").write_bytes(write_tflite(networks.classifier()))
    plan = ab.compile(tmp_path / "model.tflite")
    plan.save(tmp_path / "compiled.tflite")
    code = f"""
import sys
import numpy as np
from {runtime.module.__name__} import Interpreter, OpResolverType, load_delegate
for name in sys.argv[1:]:
    try:
        interpreter = Interpreter(
            name,
            experimental_delegates=[load_delegate({library!r})],
            experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        )
        interpreter.allocate_tensors()
        entry = interpreter.get_input_details()[0]
        interpreter.set_tensor(entry["index"], np.zeros(entry["shape"], np.int8))
        interpreter.invoke()
        print(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).tolist())
    except RuntimeError as error:
        print(error)
print(any(name.startswith("akida") for name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "compiled.tflite", "model.tflite"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    )
    computed, *refused, known = done.stdout.splitlines()
    zeros = np.zeros((1, 8, 8, 3), np.int8)
    (wanted,) = ab.InferenceSession(plan).run(None, {"image": zeros})
    assert computed == str(wanted.tolist())
    assert "this model is not compiled" in " ".join(refused)
    assert known == "False"
