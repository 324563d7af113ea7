# SPDX-License-Identifier: Apache-2.0
"""Measure the simulation on this CPU beside LiteRT and ONNX Runtime (`make bench`).

    python tools/benchmark.py [MODEL ...] [--seconds S] [--out FOLDER]

Without a model: those of tools/fetch_models.py that lie below the folder AKIDA_BACKEND_MODELS (or
./models), and two AkidaNets with random weights. Writes bench.json and bench.md;
`akida_backend.bench` says how speed is measured. Memory is measured in a process of its own for
every side: what stays resident after a hundred runs, less what was before loading. Loading is the
fastest of five processes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from fetch_models import MODELS, SEARCH_VARIABLE, find
from zoo_builder import build

from akida_backend import document
from akida_backend.bench import TITLE, bench, cut, installed, machine, random_feeds, time_text
from akida_backend.compiler import compile as compile_model
from akida_backend.device_engine import DeviceEngine, open_engine
from akida_backend.document import Block, Heading, Items, Lines, Table
from akida_backend.engine import engine_status
from akida_backend.errors import AkidaBackendError
from akida_backend.graph import AnyArray, Graph
from akida_backend.loading import load
from akida_backend.onnx_writer import Interface, to_onnx, write_onnx
from akida_backend.plan_format import read_plan
from akida_backend.program import Program
from akida_backend.program_format import program_from_bytes, program_to_bytes
from akida_backend.report import SCHEMA_VERSION, Json
from akida_backend.session import InferenceSession
from akida_backend.tflite_writer import write_tflite

SUITE: Final = {
    "mlperf-vww": "MLPerf VWW 96",
    "mlperf-kws": "MLPerf KWS",
    "mlperf-resnet8": "MLPerf ResNet8",
    "mlperf-ad01": "MLPerf AD01",
    "micronet-vww2": "Arm MicroNet VWW-2",
    "coral-mobilenet-v1": "Coral MobileNetV1 0.75 192",
    "coral-mobilenet-v2": "Coral MobileNetV2 1.0 224",
}
ZOO: Final = {
    "AkidaNet 0.5 224": ("akidanet", 0.5, 224),
    "AkidaNet 1.0 224": ("akidanet", 1.0, 224),
}
LOADED: Final = ("MLPerf KWS", "MobileNetV1 1.0 224")
CONFIGURATIONS: Final = ((1, 1), (1, 32), (2, 1), (2, 32))  # threads, batch
MEMORY_RUNS: Final = 100
LOADING_TRIES: Final = 5
WHOLE: Final = "AkidaNet 1.0 224"
NAMES: Final = {"litert": "LiteRT XNNPACK", "ort": "ONNX Runtime"}

LOADING_STAGES: Final = {
    "import": "import akida_backend",
    "modules": "further modules",
    "read": "read",
    "compile": "compile",
    "load": "load",
}
EXPLANATION: Final = (
    "Every side runs the same network, from integers to the last tensor before a trailing softmax, "
    "in one process, in turns; times are medians, per sample. Only the computation is timed, on "
    "arrays bound before, but of a network partly on the host the simulation's whole call. "
    "'x': the runtime's time by the simulation's. "
    "'Same class': share of random inputs in the same class as LiteRT, for the simulation / ONNX "
    "Runtime. 'Session': the whole model, uncut, through InferenceSession."
)
IMPORT_AND_COMPILE: Final = """
import sys, time
start = time.perf_counter()
import akida_backend
imported = time.perf_counter()
from akida_backend import compiler, engine, loading, simulator
modules = time.perf_counter()
graph = loading.load(sys.argv[1])
read = time.perf_counter()
plan = compiler.compile(graph)
compiled = time.perf_counter()
native = engine.engine_status().library is not None
for program in plan.programs:
    engine.NativeEngine(program) if native else simulator.Simulator(program)
ready = time.perf_counter()
print(imported - start, modules - imported, read - modules, compiled - read, ready - compiled)
"""


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A model of the suite.

    Attributes:
        label: For tables.
        graph: The whole model.
    """

    label: str
    graph: Graph


def networks(paths: Sequence[Path]) -> Iterator[Network]:
    """What to measure: the given files, or the suite."""
    for path in paths:
        yield Network(path.stem, load(path))
    if paths:
        return
    folder = Path(os.environ.get(SEARCH_VARIABLE, "models"))
    for model in MODELS:
        found = find(model, folder)
        if found is None:
            say(f"{SUITE[model.name]}: not below {folder}; see tools/fetch_models.py")
        else:
            yield Network(SUITE[model.name], load(found))
    for label, (network, alpha, side) in ZOO.items():
        yield Network(label, zoo_network(network, alpha, side))


def zoo_network(network: str, alpha: float, side: int) -> Graph:
    """A network of the zoo, imported from its file like any other."""
    return load(write_tflite(build(network, alpha, side)), name=f"{network}_{alpha:g}_{side}")


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


# The machine's bound


def int8_peak() -> Json | None:
    """10^9 operations a second of one thread on registers alone; None without a C compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        return None
    source = Path(__file__).with_name("int8_peak.c")
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "int8_peak")
        command = [compiler, "-O2", "-march=native", str(source), "-o", program]
        try:
            subprocess.run(command, check=True, capture_output=True)
            done = subprocess.run([program], check=True, stdout=subprocess.PIPE, text=True)
        except (OSError, subprocess.CalledProcessError):
            return None
    instruction_set, gops = done.stdout.split()
    return {"instruction_set": instruction_set, "gops": float(gops)}


# Memory


def measure_memory(network: Graph, device: str) -> Json:
    """MB of each side, and of a session on the saved plan; each in a process of its own."""
    plan = compile_model(network, device=device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for program in plan.programs:
            (folder / f"{program.name}.program").write_bytes(program_to_bytes(program))
        plan.save(folder / "plan.akp")
        (folder / "network.tflite").write_bytes(write_tflite(network))
        sides = ["akida-backend", "session", *installed()]
        if "ort" in sides:
            (folder / "network.onnx").write_bytes(
                write_onnx(network, interface=Interface.CHANNELS_FIRST, unsigned=True)
            )
        return {side: _memory_of(side, folder) for side in sides}


def _memory_of(side: str, folder: Path) -> float:
    command = [sys.executable, __file__, "--memory-of", side, str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def memory_here(side: str, folder: Path) -> float:
    """The child's part: MB that `MEMORY_RUNS` runs of a network leave, its files in `folder`."""
    plan = read_plan(folder / "plan.akp")
    feeds = list(random_feeds(plan.graph, 1).values())
    load_network: Callable[[], Callable[[], object]]
    match side:
        case "akida-backend":
            engine_status()  # opens the library
            load_network = partial(_programs, sorted(folder.glob("*.program")))
        case "session":
            engine_status()
            load_network = partial(_session, folder / "plan.akp")
        case "litert":
            module = importlib.import_module("ai_edge_litert.interpreter")
            load_network = partial(_litert, module, folder / "network.tflite", feeds)
        case _:
            module = importlib.import_module("onnxruntime")
            stored = {
                name: to_onnx(plan.graph.tensors[name], values)
                for name, values in zip(plan.graph.inputs, feeds, strict=True)
            }
            load_network = partial(_onnxruntime, module, folder / "network.onnx", stored)
    del plan
    gc.collect()
    _give_freed_memory_back()
    before = _resident()
    run = load_network()
    for _ in range(MEMORY_RUNS):
        run()
    gc.collect()
    return (_resident() - before) / 1e6


def _give_freed_memory_back() -> None:
    """Or a side that does so itself seems to take less than nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _programs(paths: Sequence[Path]) -> Callable[[], object]:
    """Device segments alone, one behind the other, on inputs of their own."""
    opened = [_program(program_from_bytes(path.read_bytes())) for path in paths]
    return lambda: [engine.run(x) for engine, x in opened]


def _program(program: Program) -> tuple[DeviceEngine, AnyArray]:
    port = program.input
    return open_engine(program), np.zeros([n or 1 for n in port.shape], port.dtype.numpy)


def _session(path: Path) -> Callable[[], object]:
    session = InferenceSession(path)
    feeds = random_feeds(session.plan.graph, 1)
    return lambda: session.run(None, feeds)


def _litert(module: Any, path: Path, feeds: Sequence[AnyArray]) -> Callable[[], object]:  # noqa: ANN401
    interpreter = module.Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    for detail, values in zip(interpreter.get_input_details(), feeds, strict=True):
        interpreter.set_tensor(detail["index"], values)
    return lambda: interpreter.invoke()


def _onnxruntime(
    module: Any,  # noqa: ANN401
    path: Path,
    feeds: Mapping[str, AnyArray],
) -> Callable[[], object]:
    options = module.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = module.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)


# Loading


def measure_loading(network: Network) -> Json:
    """Milliseconds of each stage from a file to the first run, the fastest of some processes."""
    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
        file.write(network.graph.source)
        file.flush()
        command = [sys.executable, "-c", IMPORT_AND_COMPILE, file.name]
        tries = []
        for _ in range(LOADING_TRIES):
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            tries.append([1000 * float(text) for text in done.stdout.split()])
    best = [min(stage) for stage in zip(*tries, strict=True)]
    return {"network": network.label, **dict(zip(LOADING_STAGES, best, strict=True))}


# All of it


def measure(given: argparse.Namespace) -> Json:
    """What bench.json holds."""
    peak = int8_peak()
    rows = []
    memory = []
    loading = []
    for network in networks(given.models):
        for threads, batch in CONFIGURATIONS:
            say(f"{network.label}: {threads} threads, batch {batch}")
            try:
                result = bench(
                    network.graph,
                    threads=threads,
                    batch=batch,
                    seconds=given.seconds,
                    device=given.device,
                )
            except AkidaBackendError as error:
                say(str(error))
                continue
            for key in ("title", "machine", "schema_version"):
                del result[key]
            rows.append({"label": network.label, **result})
        if Path("/proc/self/statm").exists():
            say(f"{network.label}: memory")
            found = measure_memory(cut(network.graph), given.device)
            memory.append({"label": network.label, **found})
        if network.label in LOADED or given.models:
            loading.append(measure_loading(network))
    if not given.models:
        mobilenet = zoo_network("mobilenet", 1.0, 224)
        loading.append(measure_loading(Network("MobileNetV1 1.0 224", mobilenet)))
    return {
        "schema_version": SCHEMA_VERSION,
        "title": TITLE,
        "machine": machine(),
        "int8_peak": peak,
        "seconds": given.seconds,
        "rows": rows,
        "memory_mb": memory,
        "loading_ms": loading,
        "bars": bars(rows, memory, peak),
    }


def bars(rows: Sequence[Json], memory: Sequence[Json], peak: Json | None) -> list[Json]:
    """The aims of this project, and whether these figures meet them."""
    single = [row for row in rows if (row["threads"], row["batch"]) == (1, 1)]
    whole = [row for row in single if row["on_device"]]
    found: list[tuple[str, float | None, float]] = []
    for name, least in (("litert", 1.3), ("ort", 2.0)):
        ratios = [r for r in (ratio_of(row, name) for row in single) if r is not None]
        title = f"geometric mean of {NAMES[name]}'s time by ours, 1 thread, batch 1"
        found.append((title, statistics.geometric_mean(ratios) if ratios else None, least))
    slowest = [r for r in (ratio_of(row, "litert") for row in whole) if r is not None]
    title = f"least {NAMES['litert']}'s time by ours, of networks wholly on the device"
    found.append((title, min(slowest, default=None), 1.0))
    gops = [row["results"][0]["gops"] for row in single if row["label"] == WHOLE]
    share = gops[0] / peak["gops"] if gops and peak else None
    found.append((f"share of the processor's int8 peak on {WHOLE}", share, 0.85))
    times = {
        (row["label"], row["threads"]): row["results"][0]["milliseconds"]
        for row in rows
        if row["batch"] == max(batch for _, batch in CONFIGURATIONS)
    }
    scaling = [
        times[label, 1] / times[label, 2]
        for label, threads in times
        if threads == 2 and (label, 1) in times
    ]
    found.append(("least speed-up by a second thread, batch 32", min(scaling, default=None), 1.8))
    # A small network may fit into pages that are there already.
    shares = [m["litert"] / max(m["akida-backend"], 0.1) for m in memory if m.get("litert")]
    title = f"least {NAMES['litert']}'s resident memory by ours"
    found.append((title, min(shares, default=None), 1.0))
    return [
        {"bar": title, "found": value, "least": least, "met": value is not None and value >= least}
        for title, value, least in found
    ]


def ratio_of(row: Json, name: str) -> float | None:
    """A runtime's time by the simulation's."""
    return next((float(r["ratio"]) for r in row["results"] if r["name"] == name), None)


def markdown(result: Json) -> str:
    """What bench.md holds."""
    rows = result["rows"]
    blocks: list[Block] = [
        Heading(result["title"]),
        Lines((_where(result), EXPLANATION)),
        Items(tuple((text, ()) for text in _descriptions(rows))),
    ]
    for threads, batch in CONFIGURATIONS:
        chosen = [r for r in rows if (r["threads"], r["batch"]) == (threads, batch)]
        if chosen:
            plural = "s" if threads > 1 else ""
            blocks += [Heading(f"{threads} thread{plural}, batch {batch}"), _speed_table(chosen)]
    cuts = {row["label"]: ", ".join(row["network"]["cut_off"]) or "nothing" for row in rows}
    blocks += [
        Heading(f"Resident memory after {MEMORY_RUNS} runs, MB"),
        _memory_table(result["memory_mb"]),
        Heading("From a file to the first run, ms"),
        _loading_table(result["loading_ms"]),
        Heading("Aims"),
        _bars_table(result["bars"]),
        Heading("Cut off for all sides"),
        Items(tuple((f"{label}: {what}", ()) for label, what in cuts.items())),
    ]
    return document.markdown(blocks)


def _where(result: Json) -> str:
    where, peak = result["machine"], result["int8_peak"]
    text = (
        f"{where['processor']}, {where['processors']} processors, {where['system']}, "
        f"Python {where['python']}."
    )
    if peak:
        bound = f"{peak['gops']:.0f} GOP/s ({peak['instruction_set']})"
        text += f" Int8 peak of one thread on registers alone: {bound}."
    return text


def _descriptions(rows: Sequence[Json]) -> list[str]:
    """Every side once, whatever it left to the host in one network or another."""
    texts = (side["description"] for row in rows for side in row["results"])
    return list(dict.fromkeys(", ".join(text.split(", ")[:3]) for text in texts))


def _memory_table(rows: Sequence[Json]) -> Table:
    columns = ("akida-backend", *NAMES, "session")
    titles = ("engine", *NAMES.values(), "session on a saved plan")
    cells = tuple(
        (row["label"], *(f"{row[name]:.1f}" if name in row else "" for name in columns))
        for row in rows
    )
    return Table((("network", "left"), *((title, "right") for title in titles)), cells)


def _loading_table(rows: Sequence[Json]) -> Table:
    cells = tuple(
        (
            row["network"],
            *(f"{row[name]:.1f}" for name in LOADING_STAGES),
            f"{sum(row[name] for name in LOADING_STAGES):.1f}",
        )
        for row in rows
    )
    titles = (*LOADING_STAGES.values(), "in all")
    return Table((("network", "left"), *((title, "right") for title in titles)), cells)


def _bars_table(rows: Sequence[Json]) -> Table:
    cells = tuple(
        (
            row["bar"],
            "" if row["found"] is None else f"{row['found']:.2f}",
            f"{row['least']:.2f}",
            "not measured" if row["found"] is None else "yes" if row["met"] else "no",
        )
        for row in rows
    )
    return Table(
        (("aim", "fold"), ("found", "right"), ("at least", "right"), ("met", "left")), cells
    )


def _speed_table(rows: Sequence[Json]) -> Table:
    def cells(row: Json) -> tuple[str, ...]:
        sides = {side["name"]: side for side in row["results"]}
        own = sides["akida-backend"]
        others = [
            f"{time_text(sides[name]['milliseconds_per_sample'])} ({sides[name]['ratio']:.2f}x)"
            if name in sides
            else ""
            for name in NAMES
        ]
        same = [own, sides["ort"]] if "ort" in sides else [own]
        return (
            row["label"] if row["on_device"] else f"{row['label']} (partly host)",
            f"{row['network']['macs'] / 1e6:.1f}",
            time_text(own["milliseconds_per_sample"]),
            *others,
            f"{own['gops']:.0f}",
            " / ".join(f"{100 * side['top1_agreement']:.0f} %" for side in same),
            time_text(row["session"]["milliseconds_per_sample"]),
        )

    return Table(
        (
            ("network", "left"),
            ("MMAC", "right"),
            ("simulation", "right"),
            *((f"{NAMES[name]}", "right") for name in NAMES),
            ("GOP/s", "right"),
            ("same class", "right"),
            ("session", "right"),
        ),
        tuple(cells(row) for row in rows),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the simulation beside other runtimes.")
    parser.add_argument("models", nargs="*", type=Path, help="default: the suite")
    parser.add_argument("--device", default="akida2")
    parser.add_argument("--seconds", type=float, default=4.0, help="per network and configuration")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder to write to")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory_of:
        side, folder = given.memory_of
        print(memory_here(side, Path(folder)))
        return
    result = measure(given)
    text = markdown(result)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "bench.json").write_text(json.dumps(result, indent=2) + "\n")
    (given.out / "bench.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
