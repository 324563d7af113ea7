# SPDX-License-Identifier: Apache-2.0
"""What `bench` runs and says; how fast is none of a test's business."""

from __future__ import annotations

import importlib.util
import itertools
import time

import networks
import numpy as np
import pytest

from akida_backend.bench import (
    AGAINST,
    Simulation,
    bench,
    bench_document,
    cut,
    cut_off,
    installed,
    other_side,
    random_feeds,
    take_turns,
)
from akida_backend.compiler import compile as compile_model
from akida_backend.document import text
from akida_backend.errors import InputError
from akida_backend.execute import Executor
from akida_backend.graph import DType, Graph, Softmax
from akida_backend.reference import run_graph
from builders import GraphBuilder

pytestmark = pytest.mark.filterwarnings("ignore:.*experimental_preserve_all_tensors")


def float_ended() -> Graph:
    """Float in and out, as converters leave it, and a softmax inside."""
    b = GraphBuilder(2, name="float.tflite")
    x = b.quantize(b.input(6, 6, 3, dtype=DType.FLOAT32, name="image"))
    x = b.fully_connected(b.flatten(b.conv2d(x, 4)), 5)
    return b.build(b.dequantize(b.softmax(x)))


# The cut


def test_the_cut_ends_before_the_softmax() -> None:
    graph = networks.classifier()
    part = cut(graph)
    softmax = graph.producers[graph.outputs[0]]
    assert isinstance(softmax, Softmax)
    assert (part.inputs, part.outputs) == (graph.inputs, (softmax.input,))
    assert part.operations == graph.operations[:-1]
    assert cut_off(graph, part) == ("SOFTMAX",)
    assert list(part.problems()) == []


def test_the_cut_leaves_floats_at_both_ends_out() -> None:
    graph = float_ended()
    part = cut(graph)
    assert cut_off(graph, part) == ("QUANTIZE", "SOFTMAX", "DEQUANTIZE")
    assert [part.tensors[name].dtype for name in (*part.inputs, *part.outputs)] == [DType.INT8] * 2


def test_the_cut_keeps_a_network_without_softmax_and_its_outputs() -> None:
    graph = networks.interrupted()
    part = cut(graph)
    assert part.operations == graph.operations
    assert part.outputs == graph.outputs


def test_the_cut_computes_what_the_whole_computes_there() -> None:
    graph = networks.classifier()
    part = cut(graph)
    feeds = networks.codes(graph, 3)
    whole = run_graph(graph, feeds, keep=True)
    for name, values in run_graph(part, feeds).items():
        np.testing.assert_array_equal(values, whole[name])


def test_a_float_model_is_refused() -> None:
    b = GraphBuilder(0, name="float.tflite")
    graph = b.build(b.reshape(b.input(4, dtype=DType.FLOAT32, name="x"), 2, 2))
    with pytest.raises(InputError, match=r"float\.tflite: input 'x' is float32"):
        cut(graph)


# The sides


@pytest.mark.parametrize("name", AGAINST)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8], ids=lambda t: t.value)
def test_other_runtimes_compute_the_same_network(name: str, batch: int, dtype: DType) -> None:
    if name not in installed():
        pytest.skip(f"{name} is not installed")
    graph = cut(networks.classifier(dtype=dtype))
    side = other_side(name, graph, batch, 1)
    feeds = random_feeds(graph, batch)
    side.feed(feeds)
    side.run()
    (expected,) = run_graph(graph, feeds).values()
    (found,) = side.outputs()
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert np.abs(found.astype(int) - expected).max() <= 3


def test_the_simulation_is_what_the_plan_computes() -> None:
    for make in (networks.classifier, networks.interrupted, networks.strided_stem):
        graph = cut(make())
        plan = compile_model(graph)
        side = Simulation(plan, 1)
        feeds = random_feeds(graph, 2)
        side.feed(feeds)
        side.run()
        expected = Executor(plan).run(feeds).values
        for found, name in zip(side.outputs(), graph.outputs, strict=True):
            np.testing.assert_array_equal(found, expected[name])


# The measurement


def test_turns_are_timed_and_compared_with_the_first() -> None:
    order: list[int] = []

    def sleeper(index: int, seconds: float) -> None:
        order.append(index)
        time.sleep(seconds)

    quick, slow = take_turns([lambda: sleeper(0, 0.002), lambda: sleeper(1, 0.02)], 0.2)
    assert quick.ratio == 1.0
    assert slow.ratio > 2.0
    assert 0.002 <= quick.seconds < slow.seconds
    assert quick.rounds == slow.rounds >= 5
    changes = [a for a, b in itertools.pairwise(order) if a != b]
    assert len(changes) >= 5


def test_the_result_names_the_network_and_every_side() -> None:
    graph = networks.classifier()
    result = bench(graph, seconds=0.05, batch=2)
    assert [row["name"] for row in result["results"]] == ["akida-backend", *installed()]
    assert result["network"]["cut_off"] == ["SOFTMAX"]
    assert result["batch"] == 2
    assert result["results"][0]["ratio"] == 1.0
    assert all(row["milliseconds"] > 0 for row in result["results"])
    shown = text(bench_document(result))
    assert "not of Akida" in shown
    assert "cut off for all sides: SOFTMAX" in shown
    assert "InferenceSession" in shown


def test_sides_may_be_chosen() -> None:
    result = bench(networks.classifier(), against=[], seconds=0.05)
    assert [row["name"] for row in result["results"]] == ["akida-backend"]


@pytest.mark.skipif("ort" not in installed(), reason="onnxruntime is not installed")
def test_a_runtime_that_cannot_take_the_network_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> bytes:
        raise InputError("op 3 LSTM: has no ONNX form here")

    monkeypatch.setattr("akida_backend.bench.write_onnx", refuse)
    graph = networks.classifier()
    result = bench(graph, seconds=0.05)
    assert "ort" not in [row["name"] for row in result["results"]]
    assert any(note.startswith("ort is left out: op 3 LSTM") for note in result["notes"])
    with pytest.raises(InputError, match="has no ONNX form here"):
        bench(graph, against=["ort"], seconds=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "at least one thread"),
        ({"batch": 0}, "at least one thread, one sample"),
        ({"against": ["litrt"]}, "did you mean 'litert'"),
        ({"unknown": 1}, "unknown option 'unknown'"),
    ],
)
def test_rejects_and_says_why(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bench(networks.classifier(), seconds=0.05, **options)  # type: ignore[arg-type]


def test_a_fixed_batch_is_refused() -> None:
    with pytest.raises(InputError, match="has a fixed batch"):
        bench(networks.fixed_batch())


def test_a_missing_runtime_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert installed() == ()
    with pytest.raises(InputError, match="pip install onnxruntime"):
        other_side("ort", networks.classifier(), 1, 1)
