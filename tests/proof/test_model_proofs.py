# SPDX-License-Identifier: Apache-2.0
"""Whole networks: the executor against recorded and live outputs of the reference kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from runtimes import RUNTIMES, ReferenceKernels, expected_cause, prove, require

from akida_backend.graph import AnyArray, Arithmetic, Graph
from akida_backend.loading import load
from akida_backend.reference import run_graph

TOGETHER = 64  # samples executed at a time


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Inputs of a model and what LiteRT's reference kernels gave for them."""

    label: str
    path: Path
    graph: Graph
    inputs: AnyArray
    outputs: AnyArray


def recordings(shared: Path, limit: int | None) -> Iterator[Recording]:
    for file in sorted((shared / "data").glob("*.npz")):
        data = np.load(file)
        for position, name in enumerate(data["models"]):
            path = shared / "models" / str(name)
            key = "ref_output" if position == 0 else f"ref_output__{path.stem}"
            if path.suffix != ".tflite" or key not in data:
                continue
            graph = load(path, name=path.name)
            inputs = data["x"][:limit]
            if f"feed__{path.stem}" in data:
                offset, factor = data[f"feed__{path.stem}"].astype(np.float32)
                inputs = (inputs.astype(np.float32) + offset) * factor
            yield Recording(f"{path.stem} on {file.stem}", path, graph, inputs, data[key][:limit])


def executed(recording: Recording) -> AnyArray:
    """Outputs of the executor, one row per sample."""
    graph = recording.graph
    (name,) = graph.inputs
    _, *shape = graph.tensors[name].shape
    rows: list[AnyArray] = []
    for begin in range(0, len(recording.inputs), TOGETHER):
        part = recording.inputs[begin : begin + TOGETHER]
        result = run_graph(graph, {name: part.reshape(len(part), *(n or 1 for n in shape))})
        rows.append(result[graph.outputs[0]].reshape(len(part), -1))
    return np.concatenate(rows)


@pytest.mark.parametrize(
    "limit",
    [pytest.param(16, id="few"), pytest.param(None, id="all", marks=pytest.mark.full)],
)
def test_integer_models_give_the_recorded_outputs(shared: Path, limit: int | None) -> None:
    different: list[str] = []
    compared = 0
    for recording in recordings(shared, limit):
        if not expected_cause(recording.graph):
            compared += 1
            if not np.array_equal(executed(recording), recording.outputs):
                different.append(recording.label)
    assert different == []
    assert compared >= 20


def test_float_models_come_close_to_the_recorded_outputs(shared: Path) -> None:
    compared = 0
    for recording in recordings(shared, 24):
        if expected_cause(recording.graph).startswith("float"):
            compared += 1
            found, expected = executed(recording), recording.outputs
            np.testing.assert_allclose(
                found.astype(np.float64), expected.astype(np.float64), rtol=1e-4, atol=1e-4
            )
    assert compared >= 5


@pytest.mark.parametrize("arithmetic", RUNTIMES)
@pytest.mark.parametrize(
    "samples",
    [pytest.param(2, id="few"), pytest.param(50, id="many", marks=pytest.mark.full)],
)
def test_every_integer_model_equals_the_runtime_on_random_inputs(
    shared: Path, arithmetic: Arithmetic, samples: int
) -> None:
    require(arithmetic)
    paths = sorted((shared / "models").rglob("*.tflite"))
    proofs = [prove(path, arithmetic, samples=samples, seed=7) for path in paths]
    assert [proof for proof in proofs if not proof.equal and not proof.cause] == []
    assert sum(proof.equal is True for proof in proofs) >= 50


@pytest.mark.tflite_runtime
def test_integer_models_equal_tflite_runtime_on_recorded_inputs(shared: Path) -> None:
    require(Arithmetic.TFLITE_2_14)
    different: list[str] = []
    for recording in recordings(shared, 8):
        if expected_cause(recording.graph):
            continue
        kernels = ReferenceKernels(recording.path.read_bytes(), Arithmetic.TFLITE_2_14)
        graph = dataclasses.replace(recording.graph, arithmetic=Arithmetic.TFLITE_2_14)
        (name,) = graph.inputs
        expected = np.concatenate(
            [kernels.run_once({name: sample})[graph.outputs[0]] for sample in recording.inputs]
        )
        found = executed(dataclasses.replace(recording, graph=graph))
        if not np.array_equal(found.reshape(-1), expected.reshape(-1)):
            different.append(recording.label)
    assert different == []
