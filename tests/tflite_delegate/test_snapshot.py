# SPDX-License-Identifier: Apache-2.0
"""The graph a delegate sees is the graph of the file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import networks
import numpy as np
import pytest
from interpreters import Runtime

import akida_backend as ab
from akida_backend import tflite_compiler
from akida_backend.graph import DType, Graph, Operation, Tensor
from akida_backend.importers.tflite import read_tflite
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder


def seen_by_delegate(
    runtime: Runtime, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> Graph | None:
    """The graph as read from the runtime; None where the runtime refuses the file."""
    snapshots: list[bytes] = []

    def compile_snapshot(data: bytes, _: object) -> None:
        snapshots.append(data)
        raise ab.InputError("seen")

    monkeypatch.setattr(tflite_compiler, "compile_snapshot", compile_snapshot)
    try:
        runtime.module.Interpreter(
            model_content=content, experimental_delegates=[ab.tflite.load_delegate()]
        )
    except (RuntimeError, ValueError):
        if not snapshots:
            return None
    return read_tflite(snapshots[0], "model")


def facts(graph: Graph) -> object:
    """Everything but names of files and hashes, and what a delegate cannot see.

    The order of inputs and outputs, and inputs that no operator reads.
    """
    read = {name for op in graph.operations for name in op.inputs}
    inputs = {name for name in graph.inputs if name in read}
    outputs = set(graph.outputs)
    tensors = {n: t for n, t in graph.tensors.items() if n in read | inputs | outputs}
    return (
        graph.format,
        graph.arithmetic,
        graph.batch,
        inputs,
        outputs,
        [_operation(op) for op in graph.operations],
        [(f.location.index, f.location.type, f.location.name) for f in graph.folded],
        {name: _tensor(tensor) for name, tensor in tensors.items()},
    )


def _operation(op: Operation) -> object:
    fields = {f.name: getattr(op, f.name) for f in dataclasses.fields(op)}
    location = fields.pop("location")
    return type(op).__name__, location.index, location.type, location.name, fields


def _tensor(tensor: Tensor) -> object:
    scales = tensor.quantization
    return (
        tensor.dtype,
        tensor.shape,
        scales and (scales.scale.tolist(), scales.zero_point.tolist(), scales.axis),
        None if tensor.data is None else (tensor.data.dtype, tensor.data.tobytes()),
    )


def test_every_real_model_is_seen_as_the_file_says(
    runtime: Runtime, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared, refused = 0, []
    for path in sorted((shared / "models").rglob("*.tflite")):
        content = path.read_bytes()
        graph = seen_by_delegate(runtime, content, monkeypatch)
        if graph is None:
            refused.append(path.name)
            continue
        assert facts(graph) == facts(read_tflite(content, "model")), path.name
        compared += 1
    # The files that a runtime itself does not load say nothing about a delegate.
    assert compared >= 70, refused


def every_option(b: GraphBuilder) -> Graph:
    """Operators whose options the real models leave at their defaults."""
    x = b.input(8, 8, 4, name="x")
    y = b.conv2d(x, 6, kernel=(3, 2), stride=(2, 1), padding="valid")
    y = b.depthwise(y, kernel=3, dilation=2)
    y = b.transpose_conv(y, 4, kernel=3, stride=2)
    y = b.resize_nearest(y, (9, 7))
    y = b.leaky_relu(y, alpha=0.25)
    left, right = b.split(y, 1, 3)
    both = b.concatenation(right, left)
    part = b.strided_slice(both, slice(1, 8, 2), slice(None), slice(3, 0, -1))
    return b.build(b.softmax(b.fully_connected(b.flatten(part), 5), beta=2.0), part)


def test_options_are_seen_as_the_file_says(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_tflite(every_option(GraphBuilder(4)))
    seen = seen_by_delegate(runtime, content, monkeypatch)
    assert seen is not None
    assert facts(seen) == facts(read_tflite(content, "model"))


def test_int4_weights_arrive_packed_and_are_read_low_nibble_first(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = GraphBuilder(1, weight_dtype=DType.INT4)
    graph = b.build(b.conv2d(b.input(5, 5, 3), 3, kernel=3))
    content = write_tflite(graph)
    seen = seen_by_delegate(runtime, content, monkeypatch)
    if seen is None:  # operator versions are resolved before a delegate is asked
        assert runtime.module.__name__ == "tflite_runtime.interpreter"
        with pytest.raises(ValueError, match="version '7'"):
            runtime.module.Interpreter(model_content=content)
        return
    (weights,) = (t for t in seen.tensors.values() if t.dtype is DType.INT4)
    assert weights.data is not None
    assert np.array_equal(weights.data, graph.constant(weights.name))


def test_a_delegate_is_not_told_the_models_name(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_tflite(networks.classifier())
    seen = seen_by_delegate(runtime, content, monkeypatch)
    assert seen is not None
    assert (seen.name, seen.source == content) == ("model", False)
