# SPDX-License-Identifier: Apache-2.0
"""What a delegate takes over, and that it computes what InferenceSession computes."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import networks
import numpy as np
import pytest
from interpreters import Runtime, equal, kernels, random_feeds, run

import akida_backend as ab
from akida_backend import tflite_compiler
from akida_backend.graph import Activation, AnyArray, Arithmetic, Graph, Opaque, Softmax
from akida_backend.simulator import Simulator
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder


def session_outputs(content: bytes, feeds: dict[str, AnyArray]) -> dict[str, AnyArray]:
    session = ab.InferenceSession(content, host="reference")
    names = [entry.name for entry in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


@pytest.mark.parametrize(
    ("graph", "programs", "made"),
    [
        pytest.param(networks.classifier, 1, 1, id="classifier"),
        pytest.param(networks.interrupted, 2, 2, id="interrupted"),
        pytest.param(networks.strided_stem, 1, 1, id="host-half"),
        pytest.param(networks.adjacent, 4, 1, id="adjacent"),
        pytest.param(networks.branches, 2, 1, id="branches"),
        pytest.param(networks.diamond, 3, 2, id="diamond"),
        pytest.param(networks.fixed_batch, 0, 0, id="nothing"),
    ],
)
def test_a_delegate_computes_what_a_session_computes(
    runtime: Runtime, graph: Callable[[], Graph], programs: int, made: int
) -> None:
    """A runtime joins segments that nothing separates: fewer kernels than programs."""
    content = write_tflite(graph())
    assert len(ab.compile(content).programs) == programs
    interpreter = runtime.interpreter(content, ab.tflite.load_delegate())
    feeds = random_feeds(interpreter)
    assert len(kernels(interpreter)) == made
    assert equal(run(interpreter, feeds), session_outputs(content, feeds))


def test_a_segment_gives_the_same_bytes_through_every_door(runtime: Runtime) -> None:
    b = GraphBuilder(5)
    between = b.conv2d(b.input(6, 6, 4), 8, activation=Activation.RELU)
    content = write_tflite(b.build(b.softmax(between), between))
    plan = ab.compile(content)
    (program,) = plan.programs
    interpreter = runtime.interpreter(content, ab.tflite.load_delegate())
    feeds = random_feeds(interpreter)
    (x,) = feeds.values()
    stored = run(interpreter, feeds)[program.output.tensor]
    assert np.array_equal(stored, Simulator(program).run(x))
    assert np.array_equal(stored, session_outputs(content, feeds)[program.output.tensor])


def test_real_models_equal_the_session_where_the_host_is_exact(
    runtime: Runtime, shared: Path
) -> None:
    folder = shared / "models"
    for name in (
        "mlperf_tiny/mlperf_ad01_int8",
        "mlperf_tiny/mlperf_kws_ref_int8",
        "mlperf_tiny/mlperf_resnet8_int8",
        "mlperf_tiny/mlperf_vww_96_int8",
        "arm/arm_rnnoise_int8",
        "mltk/mltk_fingerprint_signature",
        "wake_vision/wakevision_micronets_vww2_50_50_INT8",  # shape arithmetic inside a segment
    ):
        content = (folder / f"{name}.tflite").read_bytes()
        plan = ab.compile(content)
        interpreter = runtime.interpreter(content, ab.tflite.load_delegate())
        assert kernels(interpreter), name
        feeds = random_feeds(interpreter)
        found, wanted = run(interpreter, feeds), session_outputs(content, feeds)
        assert equal(found, wanted), name
        assert not any(isinstance(op, Opaque) for op in plan.graph.operations), name


def test_the_runtimes_own_load_delegate_takes_the_path(runtime: Runtime, library: str) -> None:
    content = write_tflite(networks.classifier())
    delegate = runtime.module.load_delegate(library, {"device": "akida2", "fallback": "allow"})
    interpreter = runtime.interpreter(content, delegate)
    assert len(kernels(interpreter)) == 1


def test_optimised_kernels_and_xnnpack_run_the_rest(runtime: Runtime) -> None:
    content = write_tflite(networks.classifier())
    interpreter = runtime.module.Interpreter(
        model_content=content, experimental_delegates=[ab.tflite.load_delegate()]
    )
    interpreter.allocate_tensors()
    feeds = random_feeds(interpreter)
    (found,) = run(interpreter, feeds).values()
    (wanted,) = session_outputs(content, feeds).values()
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 10  # a softmax, in steps


def test_a_model_without_a_device_part_runs_in_the_runtime(runtime: Runtime) -> None:
    b = GraphBuilder(1)
    content = write_tflite(b.build(b.tanh(b.logistic(b.input(4, 4, 2)))))
    interpreter = runtime.interpreter(content, ab.tflite.load_delegate())
    plain = runtime.interpreter(content)
    feeds = random_feeds(plain)
    assert not kernels(interpreter)
    assert equal(run(interpreter, feeds), run(plain, feeds))


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(networks.classifier, id="classifier"),
        pytest.param(networks.strided_stem, id="host-half"),
        pytest.param(networks.adjacent, id="adjacent"),
    ],
)
def test_source_emulation_shows_that_dividing_a_model_changes_nothing(
    runtime: Runtime, graph: Callable[[], Graph]
) -> None:
    content = write_tflite(graph())
    plain = runtime.interpreter(content)
    interpreter = runtime.interpreter(content, ab.tflite.load_delegate(emulation="source"))
    assert len(kernels(interpreter)) == 1
    for samples in (1, 3):
        feeds = random_feeds(plain, samples)
        found, wanted = run(interpreter, feeds), run(plain, feeds)
        if runtime.arithmetic is Arithmetic.TFLITE:
            assert equal(found, wanted)
        # The sources' arithmetic is LiteRT's: 2.14 rounds FULLY_CONNECTED twice.
        apart = [np.abs(found[n].astype(int) - wanted[n].astype(int)).max() for n in wanted]
        assert max(apart) <= 8


def test_akida_1_programs_run_too(runtime: Runtime) -> None:
    """In Python where the native engine has no layers for them."""
    content = write_tflite(networks.classifier())
    (inputs,) = networks.codes(networks.classifier(), 64).values()
    delegate = ab.tflite.load_delegate("akd1000", calibration=inputs)
    interpreter = runtime.interpreter(content, delegate)
    assert kernels(interpreter)
    session = ab.InferenceSession(content, "akd1000", calibration=inputs)
    for samples in (1, 4):
        feeds = random_feeds(interpreter, samples)
        (found,), (wanted,) = run(interpreter, feeds).values(), session.run(None, feeds)
        assert np.array_equal(found, wanted)


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"devise": "akida2"}, "unknown option 'devise'", id="name"),
        pytest.param({"device": "akida9"}, "akida9", id="device"),
        pytest.param({"fallback": "maybe"}, "did you mean|known", id="value"),
        pytest.param({"host": "reference"}, "the runtime executes host operations", id="host"),
        pytest.param({"emulation": "hardware"}, "unknown value of option", id="emulation"),
        pytest.param({"threads": "0"}, "from 1 to 256", id="threads"),
    ],
)
def test_options_are_refused_when_the_delegate_is_made(
    runtime: Runtime, library: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        runtime.module.load_delegate(library, options)
    with pytest.raises(ab.InputError, match=message):
        ab.tflite.load_delegate(**options)


def test_without_the_package_the_library_knows_its_options(library: str) -> None:
    code = f"""
import ctypes
report = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(lambda text: print(text.decode()))
texts = lambda *values: (ctypes.c_char_p * len(values))(*values)
create = ctypes.CDLL({library!r}).tflite_plugin_create_delegate
create.restype = ctypes.c_void_p
print(create(texts(b"nothing"), texts(b"1"), 1, report))
print(create(texts(b"threads"), texts(b"many"), 1, report))
print(create(texts(b"threads", b"device"), texts(b"2", b"akida2"), 2, report) is not None)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, known, none, threads, another, made = done.stdout.splitlines()
    assert first == "unknown option 'nothing'"
    options = {field.name for field in dataclasses.fields(ab.Options)}
    assert set(known.removeprefix("  known:").split()) == options
    assert threads == "option 'threads' needs a whole number from 1 to 256, got 'many'"
    assert (none, another, made) == ("None", "None", "True")


def test_denied_operators_stay_in_the_runtime(runtime: Runtime) -> None:
    content = write_tflite(networks.classifier())
    delegate = ab.tflite.load_delegate(deny=["type:CONV_2D", "type:ADD"], threads=2)
    interpreter = runtime.interpreter(content, delegate)
    feeds = random_feeds(interpreter)
    session = ab.InferenceSession(content, deny=["type:CONV_2D", "type:ADD"])
    assert session.plan.programs
    assert kernels(interpreter)
    (found,), (wanted,) = run(interpreter, feeds).values(), session.run(None, feeds)
    assert np.array_equal(found, wanted)


def test_calibration_arrays_reach_the_compiler(runtime: Runtime) -> None:
    content = write_tflite(networks.interrupted())
    inputs = next(iter(networks.codes(networks.interrupted(), 32).values()))
    delegate = ab.tflite.load_delegate(calibration=inputs)
    assert tflite_compiler.CALIBRATIONS
    interpreter = runtime.interpreter(content, delegate)
    feeds = random_feeds(interpreter)
    session = ab.InferenceSession(content, calibration=inputs)
    wanted = dict(
        zip((o.name for o in session.get_outputs()), session.run(None, feeds), strict=True)
    )
    assert equal(run(interpreter, feeds), wanted)
    del interpreter, delegate
    assert not tflite_compiler.CALIBRATIONS


def test_fallback_error_raises_with_every_reason_when_the_interpreter_is_made(
    runtime: Runtime,
) -> None:
    content = write_tflite(networks.interrupted())
    delegate = ab.tflite.load_delegate(fallback="error")
    with pytest.raises(RuntimeError, match=r"fallback 'error' wants(.|\n)*TANH 'tanh'"):
        runtime.interpreter(content, delegate)


def test_reasons_longer_than_a_message_of_the_runtime_arrive_whole(runtime: Runtime) -> None:
    b = GraphBuilder(1)
    x = b.input(4, 4, 2)
    for _ in range(40):
        x = b.tanh(x)
    delegate = ab.tflite.load_delegate(fallback="strict")
    with pytest.raises(RuntimeError) as raised:
        runtime.interpreter(write_tflite(b.build(x)), delegate)
    assert str(raised.value).count("op ") >= 40


def test_fallback_warn_says_it_in_the_log(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "akida_backend"):
        runtime.interpreter(
            write_tflite(networks.interrupted()), ab.tflite.load_delegate(fallback="warn")
        )
    assert "on the host: op 1 TANH" in caplog.text


def test_a_bug_in_the_compiler_is_an_error_not_a_crash(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> bytes:
        raise ZeroDivisionError("broken on purpose")

    monkeypatch.setattr(tflite_compiler, "snapshot", broken)
    with pytest.raises(RuntimeError, match="ZeroDivisionError: broken on purpose"):
        runtime.interpreter(write_tflite(networks.classifier()), ab.tflite.load_delegate())


def test_kernels_of_reference_equal_the_reference_host(runtime: Runtime) -> None:
    """The part of the model that stays is exact in both, the softmax included."""
    content = write_tflite(networks.classifier())
    plan = ab.compile(content)
    left = [op for op in plan.graph.operations if isinstance(op, Softmax)]
    assert left
    assert plan.graph.arithmetic is Arithmetic.TFLITE
    interpreter = runtime.interpreter(content, ab.tflite.load_delegate())
    for seed in range(5):
        feeds = random_feeds(interpreter, seed=seed)
        assert equal(run(interpreter, feeds), session_outputs(content, feeds))
