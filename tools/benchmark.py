# SPDX-License-Identifier: Apache-2.0
"""Time loading, compiling and running of models on the simulated device (`make bench`).

Without a path: the embedded network. Each figure is the median of the repeats, on random inputs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import akida_backend
from akida_backend.graph import AnyArray, Graph, Tensor


def random_values(tensor: Tensor, batch: int, rng: np.random.Generator) -> AnyArray:
    shape = [batch if size is None else size for size in tensor.shape]
    if tensor.dtype.is_float:
        return rng.standard_normal(shape).astype(tensor.dtype.numpy)
    low, high = tensor.dtype.code_range
    return rng.integers(low, high, shape, endpoint=True).astype(tensor.dtype.numpy)


def random_inputs(graph: Graph, batch: int) -> dict[str, AnyArray]:
    rng = np.random.default_rng(0)
    return {name: random_values(graph.tensors[name], batch, rng) for name in graph.inputs}


def median_seconds(action: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure(model: Path, device: str, batch: int, repeats: int) -> dict[str, float]:
    """Milliseconds per stage; running is per sample."""
    graph = akida_backend.load(model)
    inputs = random_inputs(graph, batch)
    stages: dict[str, tuple[Callable[[], object], int]] = {
        "load": (partial(akida_backend.load, model), 1),
        "compile": (partial(akida_backend.compile, graph, device=device), 1),
    }
    for emulation in ("source", "device"):
        session = akida_backend.InferenceSession(model, device=device, emulation=emulation)
        stages[f"run, {emulation}"] = (partial(session.run, None, inputs), batch)
    return {
        name: 1000 * median_seconds(action, repeats) / samples
        for name, (action, samples) in stages.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time load, compile and run; milliseconds.")
    parser.add_argument("models", nargs="*", type=Path, help="default: the embedded network")
    parser.add_argument("--device", default="akida2")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    embedded = Path(akida_backend.__file__).parent / "demo"
    for model in given.models or sorted(embedded.glob("*.tflite")):
        print(f"{model.name} on {given.device}, batch {given.batch}, median of {given.repeats}")
        for stage, spent in measure(model, given.device, given.batch, given.repeats).items():
            print(f"  {stage:12} {spent:10.2f} ms{' a sample' if 'run' in stage else ''}")


if __name__ == "__main__":
    main()
