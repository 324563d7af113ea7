# SPDX-License-Identifier: Apache-2.0
"""Zoo networks with random weights: published sizes, wholly on the device, quick to compile."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from akida_backend.bench import Simulation
from akida_backend.compiler import compile as compile_model
from akida_backend.graph import Graph
from akida_backend.loading import load
from akida_backend.reference import run_graph
from akida_backend.tflite_writer import write_tflite

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from zoo_builder import build


def parameters(graph: Graph) -> int:
    """Weights and biases; a folded batch normalization leaves one bias per filter."""
    return sum(t.data.size for t in graph.tensors.values() if t.data is not None)


@pytest.mark.parametrize(
    ("name", "alpha", "weights", "biases"),
    [
        # Published with biases of batch normalization (4 per filter, 2 of them trained):
        # AkidaNet 0.5: 1.4M, 1.0: 4.4M; MobileNetV1 1.0: 4.2M.
        ("akidanet", 0.5, 1_350_000, 20_000),
        ("akidanet", 1.0, 4_350_000, 30_000),
        ("mobilenet", 1.0, 4_190_000, 30_000),
    ],
)
def test_sizes_are_the_published_ones(name: str, alpha: float, weights: int, biases: int) -> None:
    assert abs(parameters(build(name, alpha, 224)) - weights) < 3 * biases


def test_a_network_is_wholly_on_the_device_and_uses_its_codes() -> None:
    graph = load(write_tflite(build("akidanet", 0.25, 32)))
    plan = compile_model(graph)
    assert plan.macs_on_device == plan.macs
    assert len(plan.segments) == 1
    x = np.random.default_rng(0).integers(-128, 128, (2, 32, 32, 3)).astype(np.int8)
    values = run_graph(graph, {graph.inputs[0]: x}, keep=True)
    for op in graph.operations:
        codes = values[op.outputs[0]].astype(int)
        assert codes.std() > 4, op.location
        assert (np.abs(codes) == 127).mean() < 0.2, op.location


def test_the_seed_decides_the_weights() -> None:
    first, again, other = (write_tflite(build("mobilenet", 0.25, 32, seed=s)) for s in (1, 1, 2))
    assert first == again != other


def test_mobilenet_of_224_is_ready_in_a_second() -> None:
    """Reading, compiling and loading; the bound leaves room for a busy machine."""
    content = write_tflite(build("mobilenet", 1.0, 224))

    def ready() -> float:
        start = time.perf_counter()
        Simulation(compile_model(load(content)), threads=1)
        return time.perf_counter() - start

    assert min(ready() for _ in range(3)) < 1.0
