# SPDX-License-Identifier: Apache-2.0
"""ONNX graphs in the compiler: rows for the user's operators, MACs counted once."""

from __future__ import annotations

import numpy as np
from onnx_models import OnnxBuilder, feeds_of

from akida_backend.compiler import compile as compile_model
from akida_backend.execute import Executor, run_source
from akida_backend.plan import DeviceSegment

RANDOM = np.random.default_rng(9)


def residual() -> OnnxBuilder:
    b = OnnxBuilder()
    x = b.real_input((1, 3, 16, 16), 0.05, 128)
    for channels in (3, 8):
        weights = b.weights(RANDOM.integers(-90, 90, (8, channels, 3, 3)), [0.01] * 8, axis=0)
        bias = b.weights(RANDOM.integers(-90, 90, 8), [0.0005] * 8, axis=0, dtype=np.int32)
        real = b.node("Relu", b.node("Conv", x, weights, bias, pads=[1, 1, 1, 1]))
        first = x if channels == 8 else None
        x = b.dequantize(b.quantize(real, 0.05, 0), 0.05, 0)
        if first is not None:
            x = b.dequantize(b.quantize(b.node("Add", x, first), 0.1, 0), 0.1, 0)
    b.output(b.node("Erf", x))
    return b


def test_rows_name_the_files_operators_once() -> None:
    b = residual()
    graph = b.graph()
    plan = compile_model(graph)
    rows = {row.index: row for row in plan.placement}
    assert len(rows) == len(plan.placement)
    types = [b.nodes[index].op_type for index in sorted(rows)]
    assert types == ["Conv", "Conv", "Add", "DequantizeLinear", "Erf"]
    assert [row.name for row in rows.values()] == [b.nodes[index].name for index in rows]
    assert "Erf" in rows[max(rows)].reasons[0].found


def test_macs_of_a_convolution_count_once() -> None:
    plan = compile_model(residual().graph())
    wanted = 16 * 16 * 9 * 8 * (3 + 8)
    assert sum(row.macs for row in plan.placement) == wanted
    segments = [s for s in plan.segments if isinstance(s, DeviceSegment)]
    assert sum(segment.source_macs for segment in segments) == wanted


def test_partitioning_changes_nothing_in_source_emulation() -> None:
    graph = residual().graph()
    feeds = feeds_of(graph, samples=3)
    found = Executor(compile_model(graph), emulation="source").run(feeds).values
    expected = run_source(graph, feeds)
    for name in graph.outputs:
        np.testing.assert_array_equal(found[name], expected[name])
