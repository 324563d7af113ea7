# SPDX-License-Identifier: Apache-2.0
"""One network, the same integers, the same bytes: whatever runtime the device sits in.

The networks have device parts that reach their outputs; between and around them the host only
moves integers or takes maxima, which every runtime does alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import networks
import numpy as np
import pytest
from context_models import residual
from interpreters import Runtime, kernels
from interpreters import run as run_interpreter

import akida_backend as ab
from akida_backend.cli import main
from akida_backend.epcontext import PROVIDER
from akida_backend.graph import Activation, AnyArray, DType, Graph
from akida_backend.onnx_writer import Interface, OnnxForm, write_onnx
from akida_backend.plan import DeviceSegment, Plan
from akida_backend.reference import run_operations
from akida_backend.simulator import Simulator
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder

Values = Mapping[str, AnyArray]
Network = Callable[[], Graph]
RELU: Final = Activation.RELU
SAMPLES: Final = 3


def divided() -> Graph:
    """Two parts with a max pool between them that no layer has."""
    b = GraphBuilder(2, name="divided")
    x = b.conv2d(b.input(9, 9, 3, name="image"), 8, activation=RELU)
    x = b.max_pool(x, window=3, stride=2)
    return b.build(b.conv2d(x, 6, kernel=1))


def side_by_side() -> Graph:
    """Parts that do not depend on each other, and one behind both."""
    b = GraphBuilder(3, name="side-by-side")
    x = b.input(6, 6, 4, name="image")
    left, right = b.conv2d(x, 8, activation=RELU), b.conv2d(x, 8, kernel=1, activation=RELU)
    return b.build(b.conv2d(b.add(left, right), 5), left)


def joined() -> Graph:
    """Unsigned activations, a depthwise stem, a concatenation, a dense layer on a mean."""
    b = GraphBuilder(8, dtype=DType.UINT8, name="joined")
    x = b.depthwise(b.input(8, 8, 1, name="image"), multiplier=8, activation=Activation.RELU6)
    x = b.concatenation(x, b.conv2d(x, 4, activation=RELU), axis=3)
    return b.build(b.fully_connected(b.mean(b.conv2d(x, 8, kernel=1, activation=RELU)), 7))


NETWORKS: Final = [
    pytest.param(residual, id="residual"),
    pytest.param(divided, id="divided"),
    pytest.param(side_by_side, id="side-by-side"),
    pytest.param(joined, id="joined"),
    pytest.param(networks.strided_stem, id="host-half"),
]
FORMS: Final = [
    pytest.param(form, interface, id=f"{form.value}-{interface.value}")
    for form in OnnxForm
    for interface in Interface
]
each_network = pytest.mark.parametrize("network", NETWORKS)


def expected(plan: Plan, feeds: Values) -> dict[str, AnyArray]:
    """Device parts in the numpy simulator, the rest in reference arithmetic."""
    assert plan.programs
    values = dict(feeds)
    for segment in plan.segments:
        if isinstance(segment, DeviceSegment):
            program = segment.program
            values[program.output.tensor] = Simulator(program).run(values[program.input.tensor])
        else:
            run_operations(segment.operations, plan.legalised, values)
    return {name: values[name] for name in plan.graph.outputs}


def check(graph: Graph, door: Callable[[Values], Values], plan: Plan | None = None) -> None:
    """By default against the plan of the TFLite file, whatever file the door opened."""
    feeds = networks.codes(graph, SAMPLES, seed=5)
    wanted = expected(plan or ab.compile(write_tflite(graph)), feeds)
    found = door(feeds)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name].dtype == values.dtype
        assert found[name].tobytes() == values.tobytes(), name
        assert len(np.unique(values)) > 4, "hardly a test"


@dataclass(frozen=True, slots=True)
class Twin:
    """The network as an ONNX file, and how its images lie there."""

    content: bytes
    channels_first: bool

    @classmethod
    def of(cls, graph: Graph, form: OnnxForm, interface: Interface) -> Twin:
        content = write_onnx(graph, form, interface=interface)
        return cls(content, interface is Interface.CHANNELS_FIRST)

    def given(self, feeds: Values) -> dict[str, AnyArray]:
        return {name: self._turned(x, (0, 3, 1, 2)) for name, x in feeds.items()}

    def taken(self, session: Any, outputs: Sequence[AnyArray]) -> dict[str, AnyArray]:  # noqa: ANN401
        names = [entry.name for entry in session.get_outputs()]
        return {name: self._turned(y, (0, 2, 3, 1)) for name, y in zip(names, outputs, strict=True)}

    def _turned(self, values: AnyArray, axes: tuple[int, ...]) -> AnyArray:
        turned = self.channels_first and values.ndim == len(axes)
        return np.ascontiguousarray(values.transpose(axes)) if turned else values

    def through(self, session: Any) -> Callable[[Values], Values]:  # noqa: ANN401
        return lambda feeds: self.taken(session, session.run(None, self.given(feeds)))


# The package: InferenceSession and the command


@each_network
def test_session_of_the_tflite_file(network: Network) -> None:
    graph = network()
    session = ab.InferenceSession(write_tflite(graph))
    check(graph, lambda x: dict(zip(graph.outputs, session.run(None, dict(x)), strict=True)))


@pytest.mark.parametrize(("form", "interface"), FORMS)
@each_network
def test_session_of_the_onnx_file(network: Network, form: OnnxForm, interface: Interface) -> None:
    graph = network()
    twin = Twin.of(graph, form, interface)
    check(graph, twin.through(ab.InferenceSession(twin.content)))


@pytest.mark.parametrize("suffix", ["tflite", "onnx", "akp"])
@each_network
def test_the_run_command(
    network: Network, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = network()
    path = tmp_path / f"model.{suffix}"
    if suffix == "akp":
        ab.compile(write_tflite(graph)).save(path)
    else:
        path.write_bytes(write_tflite(graph) if suffix == "tflite" else write_onnx(graph))

    def run(feeds: Values) -> Values:
        (x,) = feeds.values()
        np.save(tmp_path / "x.npy", x)
        data, out = str(tmp_path / "x.npy"), str(tmp_path / "y.npz")
        assert main(["run", str(path), "--data", data, "-o", out]) == 0
        assert "y.npz" in capsys.readouterr().out
        return dict(np.load(out))

    check(graph, run)


# The delegate


@pytest.mark.parametrize("compiled", [False, True], ids=["model", "compiled"])
@each_network
def test_the_delegate(network: Network, compiled: bool, runtime: Runtime, tmp_path: Path) -> None:
    graph = network()
    path = tmp_path / "model.tflite"
    path.write_bytes(write_tflite(graph))
    if compiled:
        plan, path = ab.compile(path), tmp_path / "compiled.tflite"
        plan.save(path)
    interpreter = runtime.interpreter(path.read_bytes(), ab.tflite.load_delegate())
    assert kernels(interpreter)
    check(graph, lambda feeds: run_interpreter(interpreter, feeds))


# The execution provider


@pytest.mark.parametrize("compiled", [False, True], ids=["model", "compiled"])
@pytest.mark.parametrize(("form", "interface"), FORMS)
@each_network
def test_the_execution_provider(
    network: Network,
    form: OnnxForm,
    interface: Interface,
    compiled: bool,
    ort: ModuleType,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    graph = network()
    twin = Twin.of(graph, form, interface)
    path = tmp_path / "model.onnx"
    path.write_bytes(twin.content)
    if compiled:
        plan, path = ab.compile(path), tmp_path / "compiled.onnx"
        plan.save(path)
    session = ab.onnxruntime.create_session(path)
    assert PROVIDER in session.get_providers()
    check(graph, twin.through(session))


# Akida 1.0: calibration looks at the file's own arithmetic, so that twins may get other scales


def chain() -> Graph:
    b = GraphBuilder(11, name="chain")
    x = b.conv2d(b.input(8, 8, 3, name="image"), 8, stride=2, activation=RELU)
    x = b.conv2d(b.depthwise(x, activation=RELU), 8, kernel=1, activation=RELU)
    return b.build(b.fully_connected(b.flatten(x), 6))


@pytest.fixture(scope="module")
def calibration() -> AnyArray:
    (inputs,) = networks.codes(chain(), 64).values()
    return inputs


@pytest.mark.parametrize("write", [write_tflite, write_onnx])
def test_akida_1_in_sessions(
    write: Callable[[Graph], bytes], calibration: AnyArray, tmp_path: Path
) -> None:
    graph = chain()
    plan = ab.compile(write(graph), "akd1000", calibration=calibration)
    plan.save(tmp_path / "model.akp")
    for opened in (plan, tmp_path / "model.akp"):
        session = ab.InferenceSession(opened)

        def door(x: Values, session: ab.InferenceSession = session) -> Values:
            return dict(zip(graph.outputs, session.run(None, dict(x)), strict=True))

        check(graph, door, plan)


@pytest.mark.parametrize("compiled", [False, True], ids=["model", "compiled"])
def test_akida_1_in_the_delegate(
    calibration: AnyArray, compiled: bool, runtime: Runtime, tmp_path: Path
) -> None:
    graph = chain()
    content = write_tflite(graph)
    plan = ab.compile(content, "akd1000", calibration=calibration)
    delegate = ab.tflite.load_delegate("akd1000", calibration=calibration)
    if compiled:
        plan.save(tmp_path / "model.tflite")
        content = (tmp_path / "model.tflite").read_bytes()
        delegate = ab.tflite.load_delegate()
    interpreter = runtime.interpreter(content, delegate)
    assert kernels(interpreter)
    check(graph, lambda feeds: run_interpreter(interpreter, feeds), plan)


@pytest.mark.parametrize("compiled", [False, True], ids=["model", "compiled"])
@pytest.mark.parametrize("form", list(OnnxForm), ids=lambda form: form.value)
def test_akida_1_in_the_execution_provider(
    calibration: AnyArray,
    form: OnnxForm,
    compiled: bool,
    ort: ModuleType,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    graph = chain()
    twin = Twin.of(graph, form, Interface.CHANNELS_LAST)
    plan = ab.compile(twin.content, "akd1000", calibration=calibration)
    if compiled:
        plan.save(tmp_path / "model.onnx")
        session = ab.onnxruntime.create_session(tmp_path / "model.onnx", "akd1000")
    else:
        session = ab.onnxruntime.create_session(twin.content, "akd1000", calibration=calibration)
    assert PROVIDER in session.get_providers()
    check(graph, twin.through(session), plan)


def test_akida_1_without_calibration_is_refused_at_every_door(
    ort: ModuleType,  # noqa: ARG001
) -> None:
    graph = chain()
    wanted = r"(?s)'akd1000' has 4-bit weights.*give calibration=.*allow_uncalibrated"
    with pytest.raises(ab.InputError, match=wanted):
        ab.InferenceSession(write_tflite(graph), device="akd1000")
    with pytest.raises(ab.InputError, match=wanted):
        ab.onnxruntime.create_session(write_onnx(graph), device="akd1000")


def test_akida_1_without_calibration_is_refused_by_the_delegate(runtime: Runtime) -> None:
    wanted = r"(?s)'akd1000' has 4-bit weights.*give calibration=.*allow_uncalibrated"
    with pytest.raises(RuntimeError, match=wanted):
        runtime.interpreter(write_tflite(chain()), ab.tflite.load_delegate("akd1000"))
