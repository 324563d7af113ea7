# SPDX-License-Identifier: Apache-2.0
"""What a TFLite runtime's own kernels change beside a session's reference host, model by model.

    python tools/write_host_differences.py MODELS [-o reports/delegate.md] [--samples 4]

MODELS are .tflite files or folders of them (by default the folder in AKIDA_BACKEND_MODELS). Device
segments give the same bytes through the delegate and through InferenceSession; the rest of a model
runs in the runtime's kernels in one, in reference arithmetic in the other. The table says how far
outputs lie apart, with the runtime's reference kernels and with those it chooses by itself, and the
first host operator that differs. The runtime is ai-edge-litert, or tflite-runtime where only that
is there.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from model_files import model_files

import akida_backend as ab
from akida_backend.errors import AkidaBackendError
from akida_backend.execute import Executor
from akida_backend.graph import AnyArray, Graph
from akida_backend.importers.tflite_file import read_file
from akida_backend.plan import HostSegment, Plan
from akida_backend.runtime_host import installed_runtime, with_outputs
from akida_backend.tflite_compiled import compiled_tflite
from akida_backend.writing import write_text

EQUAL: Final = "equal"
KINDS: Final = ("BUILTIN_REF", "AUTO")


@dataclass(frozen=True, slots=True)
class Difference:
    """Of the outputs, in steps of a quantized one or as a real number, and its first cause."""

    outputs: str
    cause: str


def differences(plan: Plan, module: Any, samples: int) -> dict[str, Difference]:  # noqa: ANN401
    """Through the delegate against the reference host, by kind of the runtime's kernels."""
    graph = plan.legalised
    host = [op for s in plan.segments if isinstance(s, HostSegment) for op in s.operations]
    shown = tuple(dict.fromkeys([*(n for op in host for n in op.outputs), *graph.outputs]))
    content = compiled_tflite(plan)
    numbers = {
        entry.tensor.name: i for i, entry in enumerate(read_file(content, "compiled").tensors)
    }
    content = with_outputs(content, [numbers[name] for name in shown])
    feeds = [_feeds(plan.graph, seed) for seed in range(samples)]
    executor = Executor(plan, host="reference")
    wanted = [executor.run(feed, tensors=shown).values for feed in feeds]
    found: dict[str, Difference] = {}
    for kind in KINDS:
        interpreter = module.Interpreter(
            model_content=content,
            experimental_delegates=[ab.tflite.load_delegate(device=plan.device.name)],
            experimental_op_resolver_type=getattr(module.OpResolverType, kind),
            num_threads=1,
        )
        interpreter.allocate_tensors()
        values = [_run(interpreter, feed, numbers, shown) for feed in feeds]
        cause = next(
            (
                f"op {op.location.index} {op.location.type}, {apart}"
                for op in host
                if (apart := _apart(graph, op.outputs, values, wanted)) != EQUAL
            ),
            "",
        )
        found[kind] = Difference(_apart(graph, graph.outputs, values, wanted), cause)
    return found


def _feeds(graph: Graph, seed: int) -> dict[str, AnyArray]:
    """One execution's stored inputs."""
    random = np.random.default_rng(seed)
    feeds: dict[str, AnyArray] = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        shape = tuple(1 if length is None else length for length in tensor.shape)
        if tensor.dtype.is_float:
            feeds[name] = random.normal(size=shape).astype(tensor.dtype.numpy)
        else:
            low, high = tensor.dtype.code_range
            feeds[name] = random.integers(low, high + 1, shape).astype(tensor.dtype.numpy)
    return feeds


def _run(
    interpreter: Any,  # noqa: ANN401
    feeds: Mapping[str, AnyArray],
    numbers: Mapping[str, int],
    shown: Sequence[str],
) -> dict[str, AnyArray]:
    interpreter.reset_all_variables()  # a session keeps no state between samples
    for name, array in feeds.items():
        interpreter.set_tensor(numbers[name], array)
    interpreter.invoke()
    return {name: interpreter.get_tensor(numbers[name]) for name in shown}


def _apart(
    graph: Graph,
    names: Sequence[str],
    found: Sequence[Mapping[str, AnyArray]],
    wanted: Sequence[Mapping[str, AnyArray]],
) -> str:
    """Largest difference of some tensors."""
    largest = {False: 0.0, True: 0.0}
    for name in names:
        for f, w in zip(found, wanted, strict=True):
            if not np.array_equal(f[name], w[name], equal_nan=graph.tensors[name].dtype.is_float):
                apart = np.abs(f[name].astype(np.float64) - w[name].astype(np.float64))
                real = graph.tensors[name].dtype.is_float
                largest[real] = max(largest[real], float(np.nanmax(apart)))
    steps, reals = largest[False], largest[True]
    parts = ([f"{steps:.0f} steps"] if steps else []) + ([f"{reals:.2g}"] if reals else [])
    return ", ".join(parts) or EQUAL


def table(paths: Sequence[Path], module: Any, samples: int) -> Iterator[str]:  # noqa: ANN401
    """The page's rows."""
    yield (
        "| model | programs | host operators | reference kernels | first difference | "
        "the runtime's choice | first difference |"
    )
    yield "| --- | ---: | ---: | --- | --- | --- | --- |"
    for path in paths:
        try:
            plan = ab.compile(path)
            if not plan.programs:
                continue
            rows = differences(plan, module, samples)
        except (AkidaBackendError, RuntimeError, ValueError) as error:
            yield f"| {path.name} | | | not compared: {str(error).splitlines()[0]} | | | |"
            continue
        host = sum(len(s.operations) for s in plan.segments if isinstance(s, HostSegment))
        cells = [cell for kind in KINDS for cell in (rows[kind].outputs, rows[kind].cause)]
        yield f"| {path.name} | {len(plan.programs)} | {host} | {' | '.join(cells)} |"


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, metavar="MODELS")
    parser.add_argument("-o", "--out", type=Path, default=Path("reports/delegate.md"))
    parser.add_argument("--samples", type=int, default=4)
    given = parser.parse_args()
    folder = Path(os.environ.get("AKIDA_BACKEND_MODELS", "models"))
    models = model_files(given.models or [folder], ".tflite")
    runtime = installed_runtime()
    if runtime is None:
        sys.exit("no TFLite runtime is installed: pip install ai-edge-litert")
    module = importlib.import_module(f"{runtime.module}.interpreter")
    lines = [
        f"Outputs through the delegate in {runtime} against InferenceSession with "
        f"host='reference', {given.samples} seeded random samples per model, device akida2 "
        "(simulated).",
        "",
        *table(models, module, given.samples),
    ]
    write_text(given.out, "\n".join(lines) + "\n")
    print(f"{given.out} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
