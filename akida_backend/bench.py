# SPDX-License-Identifier: Apache-2.0
"""How fast the simulation runs on this CPU, beside the runtimes that run the original there.

All sides run one network, from integer input to the last tensor before a trailing softmax, in one
process, in turns. The others are given their best form: LiteRT with XNNPACK a TFLite file, ONNX
Runtime a QDQ file with uint8 activations. Of every side's calls only the computation is timed, on
arrays bound before; of a network partly on the host the simulation's time holds the whole call.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
import importlib.util
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

import akida_backend
from akida_backend.compare import score_chain
from akida_backend.compiled import with_run_options
from akida_backend.compiler import compile as compile_model
from akida_backend.device_engine import engine_name, open_engine
from akida_backend.document import Document, Lines, Table
from akida_backend.errors import InputError
from akida_backend.execute import Executor
from akida_backend.graph import AnyArray, DType, Graph, Quantize, Softmax, short_name
from akida_backend.onnx_writer import Interface, from_onnx, to_onnx, write_onnx
from akida_backend.options import unknown
from akida_backend.plan import DeviceSegment, HostSegment, Plan
from akida_backend.report import SCHEMA_VERSION, Json, model_json
from akida_backend.session import InferenceSession
from akida_backend.simulator import Simulator
from akida_backend.tflite_writer import write_tflite

TITLE: Final = "Speed of the simulation on this CPU, not of Akida"
AGAINST: Final = ("litert", "ort")

_BLOCK_SECONDS: Final = 0.01  # one side's turn
_FEWEST_ROUNDS: Final = 5
_PAUSE_SECONDS: Final = 0.002  # between turns, so that another runtime's waiting threads stop
_AGREEMENT_SAMPLES: Final = 64
_REFERENCE_SAMPLES: Final = 2  # where only the slow reference computes
_PACKAGES: Final = {"litert": "ai-edge-litert", "ort": "onnxruntime"}
_CODES: Final = (DType.INT8, DType.UINT8, DType.INT16)


# The network


def cut(graph: Graph) -> Graph:
    """The part between integers: behind a leading Quantize, before a trailing Softmax.

    Raises:
        InputError: No integers at an input or output.
    """
    inputs = tuple(_integer_input(graph, name) for name in graph.inputs)
    outputs = tuple(dict.fromkeys(_integer_output(graph, name) for name in graph.outputs))
    needed: set[str] = set(outputs)
    operations = []
    for op in reversed(graph.operations):
        if needed.intersection(op.outputs) and not set(op.outputs) <= set(inputs):
            operations.append(op)
            needed.update(op.inputs)
    whole = dataclasses.replace(graph, inputs=inputs, outputs=outputs, folded=(), source=b"")
    return whole.with_changes(operations=tuple(reversed(operations)))


def _integer_input(graph: Graph, name: str) -> str:
    if graph.tensors[name].dtype in _CODES:
        return name
    reader = graph.sole_consumer(name)
    if isinstance(reader, Quantize):
        return reader.output
    raise InputError(
        f"{graph.name}: input '{name}' is {graph.tensors[name].dtype.value} and not quantized at "
        "once\n  bench measures INT8 models"
    )


def _integer_output(graph: Graph, output: str) -> str:
    """Behind the last softmax the chain of tensors that only re-code or reshape is walked."""
    chain = score_chain(graph, output)
    behind = [i for i, name in enumerate(chain) if isinstance(graph.producers.get(name), Softmax)]
    for name in chain[behind[-1] + 1 :] if behind else chain:
        if graph.tensors[name].dtype in _CODES:
            return name
    raise InputError(
        f"{graph.name}: output '{output}' is {graph.tensors[output].dtype.value}\n"
        "  bench measures INT8 models"
    )


def cut_off(graph: Graph, part: Graph) -> tuple[str, ...]:
    """Operators of the file that `cut` left out."""
    kept = {index for op in part.operations for index in op.sources}
    return tuple(op.location.type for op in graph.operations if not kept.intersection(op.sources))


# The sides


class Side(Protocol):
    """Somebody who runs the network; `run` is what is timed.

    Attributes:
        name: ``akida-backend``, ``litert`` or ``ort``.
        description: What it is, with versions.
    """

    name: str
    description: str

    def feed(self, values: Mapping[str, AnyArray]) -> None:
        """Take stored values of the inputs, a whole batch."""

    def run(self) -> object:
        """Compute."""

    def outputs(self) -> list[AnyArray]:
        """Stored values of the outputs of the last run, in the graph's order."""


class Simulation:
    """The network compiled for a device."""

    name = "akida-backend"

    def __init__(self, plan: Plan, threads: int) -> None:
        self._graph = plan.graph
        self._bind = _binding(plan, threads)
        self._found: Callable[[], Mapping[str, AnyArray]] = dict
        self.run: Callable[[], object] = dict
        self.engine = engine_name()
        hosted = [s for s in plan.segments if isinstance(s, HostSegment)]
        count = sum(len(segment.operations) for segment in hosted)
        host = f", {count} host operation{'' if count == 1 else 's'}" if count else ""
        self.description = f"akida-backend {akida_backend.__version__}, {self.engine}{host}"

    def feed(self, values: Mapping[str, AnyArray]) -> None:
        self.run, self._found = self._bind(values)

    def outputs(self) -> list[AnyArray]:
        found = self._found()
        return [found[name] for name in self._graph.outputs]


Outputs = Mapping[str, AnyArray]
Binding = Callable[[Mapping[str, AnyArray]], tuple[Callable[[], object], Callable[[], Outputs]]]


def _binding(plan: Plan, threads: int) -> Binding:
    """From inputs to a call that computes, and one that gives the outputs.

    Where one program is all there is, arrays stay the same from call to call.
    """
    match plan.segments:
        case (DeviceSegment(program=program),):
            engine = open_engine(program, threads=threads)
            source, sink = program.input.tensor, program.output.tensor
            if isinstance(engine, Simulator):
                return lambda feeds: _last_result(lambda: {sink: engine.run(feeds[source])})

            def bind(
                feeds: Mapping[str, AnyArray],
            ) -> tuple[Callable[[], object], Callable[[], Outputs]]:
                call, stored = engine.bind(feeds[source])
                return call, lambda: {sink: stored}

            return bind
        case _:
            executor = Executor(with_run_options(plan, None, {"threads": threads}))
            return lambda feeds: _last_result(lambda: executor.run(feeds).values)


def _last_result(
    compute: Callable[[], Outputs],
) -> tuple[Callable[[], object], Callable[[], Outputs]]:
    kept: list[Outputs] = [{}]

    def run() -> None:
        kept[0] = compute()

    return run, lambda: kept[0]


class Litert:
    """LiteRT with XNNPACK, which it uses of its own accord."""

    name = "litert"

    def __init__(self, graph: Graph, batch: int, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._graph = graph
        self._interpreter = Interpreter(model_content=write_tflite(graph), num_threads=threads)
        self._inputs = [d["index"] for d in self._interpreter.get_input_details()]
        self._rows: list[list[AnyArray]] = []
        self._found: list[list[AnyArray]] = []
        self._whole = batch == 1 or self._takes(batch)
        self._interpreter.allocate_tensors()
        self._outputs = [d["index"] for d in self._interpreter.get_output_details()]
        version = importlib.metadata.version("ai-edge-litert")
        each = "" if self._whole else ", sample by sample"
        self.description = f"ai-edge-litert {version}, {self._kernels()}{each}"

    def _takes(self, batch: int) -> bool:
        """Whether the whole batch fits into one call."""
        for name, index in zip(self._graph.inputs, self._inputs, strict=True):
            _, *rest = self._graph.tensors[name].shape
            self._interpreter.resize_tensor_input(index, [batch, *rest])
        try:
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError):
            for name, index in zip(self._graph.inputs, self._inputs, strict=True):
                _, *rest = self._graph.tensors[name].shape
                self._interpreter.resize_tensor_input(index, [1, *rest])
            return False
        return True

    def _kernels(self) -> str:
        """Who computes: XNNPACK takes what it can, and says so only here."""
        details: list[dict[str, Any]] = self._interpreter._get_ops_details()
        taken = [entry["outputs"] for entry in details if entry["op_name"] == "DELEGATE"]
        if not taken:
            return "plain kernels"
        written = {int(index) for outputs in taken for index in outputs}
        return "XNNPACK" if written.issuperset(self._outputs) else "XNNPACK in part"

    def feed(self, values: Mapping[str, AnyArray]) -> None:
        ordered = [np.ascontiguousarray(values[name]) for name in self._graph.inputs]
        if self._whole:
            self._rows = [ordered]
            for index, array in zip(self._inputs, ordered, strict=True):
                self._interpreter.set_tensor(index, array)
        else:
            samples = range(len(ordered[0]))
            self._rows = [[array[i : i + 1] for array in ordered] for i in samples]

    def run(self) -> object:
        if self._whole:
            self._interpreter.invoke()
        else:
            self._found = [self._one(row) for row in self._rows]
        return None

    def _one(self, row: Sequence[AnyArray]) -> list[AnyArray]:
        for index, array in zip(self._inputs, row, strict=True):
            self._interpreter.set_tensor(index, array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]

    def outputs(self) -> list[AnyArray]:
        if self._whole:
            return [self._interpreter.get_tensor(index) for index in self._outputs]
        return [np.concatenate(parts) for parts in zip(*self._found, strict=True)]


class OnnxRuntime:
    """ONNX Runtime's CPU provider."""

    name = "ort"

    def __init__(self, graph: Graph, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Its threads wait in a loop only while it computes: the other sides need the cores.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._graph = graph
        self._session = onnxruntime.InferenceSession(
            write_onnx(graph, interface=Interface.CHANNELS_FIRST, unsigned=True),
            options,
            providers=["CPUExecutionProvider"],
        )
        self._binding = self._session.io_binding()
        self.description = f"onnxruntime {onnxruntime.__version__}, CPU, uint8 activations"

    def feed(self, values: Mapping[str, AnyArray]) -> None:
        for name in self._graph.inputs:
            stored = to_onnx(self._graph.tensors[name], values[name])
            self._binding.bind_cpu_input(name, stored)
        for name in self._graph.outputs:
            self._binding.bind_output(name)

    def run(self) -> object:
        self._session.run_with_iobinding(self._binding)
        return None

    def outputs(self) -> list[AnyArray]:
        found = self._binding.copy_outputs_to_cpu()
        tensors = (self._graph.tensors[name] for name in self._graph.outputs)
        return [from_onnx(tensor, values) for tensor, values in zip(tensors, found, strict=True)]


def other_side(name: str, graph: Graph, batch: int, threads: int) -> Litert | OnnxRuntime:
    """A runtime with the graph in its own form.

    Raises:
        InputError: An unknown name, a runtime that is not installed, or a graph it cannot take.
    """
    if name not in AGAINST:
        raise InputError(unknown("runtime", name, AGAINST))
    if name not in installed():
        raise InputError(
            f"runtime '{name}': {_PACKAGES[name]} is not installed\n"
            f"  install it: pip install {_PACKAGES[name]}"
        )
    try:
        if name == "litert":
            return Litert(graph, batch, threads)
        return OnnxRuntime(graph, threads)
    except InputError:
        raise
    except Exception as error:  # the runtimes' own errors have no common class
        raise InputError(f"{_PACKAGES[name]} cannot run {graph.name}\n  {error}") from error


def installed() -> tuple[str, ...]:
    """Runtimes that can be measured against."""
    modules = {"litert": "ai_edge_litert", "ort": "onnxruntime"}
    return tuple(n for n in AGAINST if importlib.util.find_spec(modules[n]) is not None)


# Measuring


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of one side.

    Attributes:
        seconds: Median of a call.
        ratio: Median over the rounds of its time by the first side's.
        rounds: How many.
    """

    seconds: float
    ratio: float
    rounds: int


def take_turns(calls: Sequence[Callable[[], object]], seconds: float) -> list[Timing]:
    """Time functions in turns, so that whatever disturbs the machine disturbs all alike.

    Args:
        calls: What to time; ratios are to the first.
        seconds: Time to spend in all.
    """
    turns = [_turn(call) for call in calls]
    # Calls that take seconds are not worth many rounds.
    fewest = _FEWEST_ROUNDS if sum(turn.seconds for turn in turns) < seconds else 1
    times: list[list[float]] = [[] for _ in calls]
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        while len(times[0]) < fewest or time.perf_counter() < end:
            first = len(times[0]) % len(calls)
            for index in (*range(first, len(calls)), *range(first)):
                times[index].append(turns[index].take())
    finally:
        if collecting:
            gc.enable()
    return [
        Timing(
            statistics.median(own),
            statistics.median(a / b for a, b in zip(own, times[0], strict=True)),
            len(own),
        )
        for own in times
    ]


@dataclass(frozen=True, slots=True)
class _Turn:
    """One side's part of a round.

    Attributes:
        call: What is timed.
        repeats: How often.
        seconds: What it took when it was tried, in all.
    """

    call: Callable[[], object]
    repeats: int
    seconds: float

    def take(self) -> float:
        """Seconds per call; a first one fetches what the last side drove out of the caches."""
        time.sleep(_PAUSE_SECONDS)
        if self.repeats > 1:
            self.call()
        start = time.perf_counter()
        for _ in range(self.repeats):
            self.call()
        return (time.perf_counter() - start) / self.repeats


def _turn(call: Callable[[], object]) -> _Turn:
    """Enough calls to fill a turn."""
    call()
    start = time.perf_counter()
    call()
    spent = max(time.perf_counter() - start, 1e-7)
    repeats = max(1, min(10_000, math.ceil(_BLOCK_SECONDS / spent)))
    return _Turn(call, repeats, repeats * spent)


def random_feeds(graph: Graph, samples: int, seed: int = 0) -> dict[str, AnyArray]:
    """Stored values over the whole range of codes."""
    generator = np.random.default_rng(seed)
    feeds: dict[str, AnyArray] = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        shape = (samples, *(length or 1 for length in tensor.shape[1:]))
        if tensor.dtype.is_float:
            feeds[name] = generator.uniform(-1.0, 1.0, shape).astype(tensor.dtype.numpy)
        else:
            low, high = tensor.dtype.code_range
            codes = generator.integers(low, high, shape, endpoint=True)
            feeds[name] = codes.astype(tensor.dtype.numpy)
    return feeds


def bench(
    graph: Graph,
    *,
    against: Sequence[str] | None = None,
    threads: int = 1,
    batch: int = 1,
    seconds: float = 3.0,
    device: str = "akida2",
    **options: object,
) -> Json:
    """Time a model on the simulated device and in other runtimes.

    Args:
        graph: The model.
        against: Names of `AGAINST`; by default those that are installed.
        threads: For every side.
        batch: Samples of one call.
        seconds: Time to spend.
        device: Name of a device profile.
        options: Fields of `Options`.

    Returns:
        What ``bench --json`` prints; schemas/bench.json describes it.

    Raises:
        InputError: A model without integers at its ends or with a fixed batch, an operation that
            cannot be written for a runtime, an unknown name or option, or a runtime that is not
            installed.
    """
    if threads < 1 or batch < 1 or not seconds > 0:
        raise InputError("bench needs at least one thread, one sample, and time")
    if graph.batch is not None:
        raise InputError(f"{graph.name}: has a fixed batch, bench measures models that take any")
    network = cut(graph)
    plan = compile_model(network, device=device, **options)
    simulation = Simulation(plan, threads)
    sides: list[Side] = [simulation]
    notes = []
    for name in installed() if against is None else against:
        try:
            sides.append(other_side(name, network, batch, threads))
        except InputError as error:
            if against is not None:
                raise
            notes.append(f"{name} is left out: {error}")
    agreements = _agreements(sides, network, batch, slow=simulation.engine.startswith("numpy"))
    feeds = random_feeds(network, batch)
    for side in sides:
        side.feed(feeds)
    timings = take_turns([side.run for side in sides], seconds)
    return {
        "schema_version": SCHEMA_VERSION,
        "title": TITLE,
        "machine": machine(),
        "model": model_json(graph),
        "device": plan.device.name,
        "network": {
            "input": list(network.inputs),
            "output": list(network.outputs),
            "cut_off": list(cut_off(graph, network)),
            "macs": plan.macs,
            "mac_fraction_on_device": plan.macs_on_device / plan.macs if plan.macs else None,
        },
        "threads": threads,
        "batch": batch,
        "engine": simulation.engine,
        "on_device": [type(segment) for segment in plan.segments] == [DeviceSegment],
        "results": [
            {
                "name": side.name,
                "description": side.description,
                "milliseconds": 1000 * timing.seconds,
                "milliseconds_per_sample": 1000 * timing.seconds / batch,
                "ratio": timing.ratio,
                "gops": 2e-9 * plan.macs * batch / timing.seconds,
                "rounds": timing.rounds,
                **agreement,
            }
            for side, timing, agreement in zip(sides, timings, agreements, strict=True)
        ],
        "session": _session_json(
            graph, batch, seconds / 4, device, {**options, "threads": threads}
        ),
        "notes": notes,
    }


def _agreements(
    sides: Sequence[Side], network: Graph, batch: int, *, slow: bool
) -> list[dict[str, Any]]:
    """How the outputs of the sides differ from those of the last but the simulation."""
    calls = max(1, (_REFERENCE_SAMPLES if slow else _AGREEMENT_SAMPLES) // batch)
    found: list[list[AnyArray]] = [[] for _ in sides]
    for number in range(calls):
        feeds = random_feeds(network, batch, seed=1 + number)
        for side, outputs in zip(sides, found, strict=True):
            side.feed(feeds)
            side.run()
            outputs.append(np.array(side.outputs()[0]).reshape(batch, -1))
    values = [np.concatenate(outputs).astype(np.int64) for outputs in found]
    reference = values[min(1, len(values) - 1)]
    return [
        {
            "top1_agreement": float((own.argmax(1) == reference.argmax(1)).mean()),
            "largest_difference": int(np.abs(own - reference).max()),
            "samples": len(own),
        }
        for own in values
    ]


def _session_json(
    graph: Graph, batch: int, seconds: float, device: str, options: Mapping[str, object]
) -> Json:
    """The whole model as users run it."""
    session = InferenceSession(graph, device=device, **options)
    feeds = random_feeds(graph, batch)
    (timing,) = take_turns([lambda: session.run(None, feeds)], seconds)
    return {
        "milliseconds": 1000 * timing.seconds,
        "milliseconds_per_sample": 1000 * timing.seconds / batch,
        "rounds": timing.rounds,
    }


def machine() -> Json:
    """Where the figures come from."""
    return {
        "processor": _processor(),
        "processors": os.cpu_count() or 1,
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def bench_document(result: Json) -> Document:
    """The result for people."""
    where = result["machine"]
    network = result["network"]
    left = ", ".join(network["cut_off"]) or "nothing"
    rows = tuple(
        (
            row["description"],
            time_text(row["milliseconds_per_sample"]),
            f"{row['ratio']:.2f}x",
            f"{row['gops']:.1f}",
            f"{100 * row['top1_agreement']:.1f} %",
        )
        for row in result["results"]
    )
    whole = (
        "whole model through InferenceSession",
        time_text(result["session"]["milliseconds_per_sample"]),
        "",
        "",
        "",
    )
    agreement = result["results"][min(1, len(result["results"]) - 1)]
    return [
        Lines(
            (
                f"{TITLE}.",
                f"{where['processor']}, {result['threads']} of {where['processors']} processors, "
                f"batch {result['batch']}.",
                f"{result['model']['path']}: from '{short_name(network['input'][0])}' to "
                f"'{short_name(network['output'][0])}', {network['macs']} MACs; cut off for all "
                f"sides: {left}.",
            )
        ),
        Table(
            (
                ("side", "fold"),
                ("a sample", "right"),
                ("times the first", "right"),
                ("GOP/s", "right"),
                ("same class", "right"),
            ),
            (*rows, whole),
        ),
        Lines(
            (
                f"Medians of {result['results'][0]['rounds']} rounds in turns; same class: as "
                f"{agreement['name']}, {agreement['samples']} random samples.",
                *(f"Note: {note}" for note in result["notes"]),
            )
        ),
    ]


def time_text(milliseconds: float) -> str:
    """A time in the unit that suits it."""
    return f"{1000 * milliseconds:.1f} us" if milliseconds < 1 else f"{milliseconds:.3f} ms"
