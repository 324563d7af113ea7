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
from program_bytes import with_another_hash
from tflite import BuiltinOperator, TensorType

import akida_backend as ab
from akida_backend.cli import main
from akida_backend.graph import Activation, DType, Graph, Opaque
from akida_backend.importers.tflite import read_tflite
from akida_backend.program_format import program_to_bytes
from akida_backend.tflite_compiled import compiled_tflite
from akida_backend.tflite_records import (
    CUSTOM,
    PROGRAM_OPERATOR,
    FileRecord,
    OperatorRecord,
    TensorRecord,
)
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


@pytest.mark.parametrize(
    "command", ["inspect", "run", "compare", "advise", "bench", "compile -o again.tflite"]
)
def test_a_compiled_model_says_what_it_is_and_what_runs_it(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    ab.compile(write_tflite(networks.classifier())).save("compiled.tflite")
    name, *flags = command.split()
    assert main([name, "compiled.tflite", *flags]) == 2
    told = capsys.readouterr().err
    assert "compiled.tflite: is a compiled model" in told
    assert "akida_backend.tflite.load_delegate(), or give the model it was compiled from" in told
    assert not Path("again.tflite").exists()
    with pytest.raises(ab.ImportModelError, match="is a compiled model"):
        ab.InferenceSession("compiled.tflite")


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


def by_hand(
    operators: list[tuple[int, int]], data: bytes, outputs: list[int], filters: int = 8
) -> bytes:
    """Operators with one program, by what they read and write; tensor 0 is given, 3 a constant."""
    constant = np.zeros(4 * 4 * 8, np.int8).tobytes()
    tensors = [
        TensorRecord(
            name=name,
            type=int(TensorType.INT8),
            shape=[1, 4, 4, filters if name == "c" else 8],
            signature=None,
            scale=[0.5],
            zero_point=[0],
            axis=0,
            data=constant if name == "k" else None,
            is_variable=False,
        )
        for name in "abck"
    ]
    records = [
        OperatorRecord(
            code=CUSTOM,
            inputs=[source],
            outputs=[target],
            table="",
            options={},
            version=1,
            custom_name=PROGRAM_OPERATOR,
            custom_options=data,
        )
        for source, target in operators
    ]
    return FileRecord(tensors, records, inputs=[0], outputs=outputs).to_bytes()


def program_of_one_layer(filters: int = 8) -> bytes:
    b = GraphBuilder(1)
    plan = ab.compile(b.build(b.conv2d(b.input(4, 4, 8), filters, kernel=1)))
    return program_to_bytes(plan.programs[0])


@pytest.mark.parametrize(
    ("operators", "outputs", "problem"),
    [
        pytest.param([(0, 3), (3, 2)], [2], "'k', which is a constant", id="constant"),
        pytest.param([(0, 3), (3, 2)], [2, 3], "'k', which is a constant", id="constant-output"),
        pytest.param([(0, 1), (1, 0), (0, 2)], [2], "'a', which is read before", id="input"),
        pytest.param([(1, 2), (0, 1)], [2], "'b', which is read before", id="order"),
        pytest.param([(0, 1), (2, 1), (1, 2)], [2], "which is", id="loop"),
        pytest.param([(1, 1), (1, 2)], [2], "'b', which is read before", id="itself"),
        pytest.param([(0, 1), (0, 1), (1, 2)], [2], "'b', which is written before", id="twice"),
        pytest.param([(0, 1), (1, 2)], [2], "", id="sound"),
        pytest.param([(3, 1), (1, 2)], [2], "", id="reads-a-constant"),
    ],
)
def test_operators_that_write_what_they_must_not_are_refused(
    runtime: Runtime,
    tmp_path: Path,
    operators: list[tuple[int, int]],
    outputs: list[int],
    problem: str,
) -> None:
    """From a file, whose memory runtimes map to be read only."""
    (tmp_path / "m.tflite").write_bytes(by_hand(operators, program_of_one_layer(), outputs))
    code = f"""
import akida_backend as ab
from {runtime.module.__name__} import Interpreter
try:
    interpreter = Interpreter(
        "m.tflite", experimental_delegates=[ab.tflite.load_delegate()]
    )
    interpreter.allocate_tensors()
    interpreter.invoke()
    print("ran")
except (RuntimeError, ValueError) as refusal:
    print(refusal)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stderr}"
    said = done.stdout + done.stderr
    assert problem in said if problem else done.stdout == "ran\n", said


def test_a_program_whose_content_hash_is_not_its_own_is_refused(
    runtime: Runtime, capfd: pytest.CaptureFixture[str]
) -> None:
    data = with_another_hash(program_of_one_layer())
    with pytest.raises((RuntimeError, ValueError)) as refusal:
        runtime.interpreter(by_hand([(0, 2)], data, [2]), ab.tflite.load_delegate())
    said = str(refusal.value) + capfd.readouterr().err
    assert "operator 0: the content hash of its program does not match" in said


def test_content_hashes_of_programs_of_all_lengths_hold(runtime: Runtime) -> None:
    """Blocks of the hash have 64 bytes, of which the last one holds 55 or fewer."""
    delegate, rests = ab.tflite.load_delegate(), set()
    for filters in range(1, 65):
        data = program_of_one_layer(filters)
        rests.add(len(data) % 64)
        content = by_hand([(0, 2)], data, [2], filters)
        assert len(kernels(runtime.interpreter(content, delegate))) == 1
    assert len(rests) == 64


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
