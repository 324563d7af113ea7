# SPDX-License-Identifier: Apache-2.0
"""What a graph may ask for while it runs, wherever it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tflite
from onnx_models import MICROSOFT, OnnxBuilder
from raw_tflite import RawModel, RawOperator, RawTensor, activation

from akida_backend.errors import ImportModelError
from akida_backend.graph import (
    AveragePool2D,
    Conv2D,
    DepthwiseConv2D,
    Graph,
    MaxPool2D,
    Pads,
    Size2D,
    TransposeConv2D,
)
from akida_backend.graph_check import graph_problems
from akida_backend.importers.shape_inference import output_shapes
from akida_backend.loading import load
from builders import GraphBuilder

LIMIT = 2**30  # bytes of what stands in no tensor, four a value


def _with_border(make: Callable[[GraphBuilder], str], border: int, **changes: Any) -> Graph:  # noqa: ANN401
    """A graph of one operation on maps of 4 channels, with rows of border that its result hides."""
    b = GraphBuilder()
    make(b)
    (made,) = b.operations
    assert isinstance(made, Conv2D | DepthwiseConv2D | TransposeConv2D | MaxPool2D | AveragePool2D)
    op = dataclasses.replace(made, pads=Pads(0, border, 0, 0), **changes)
    graph = b.build()
    (shape,) = output_shapes(op, lambda name: tuple(n or 1 for n in graph.tensors[name].shape))
    (name,) = graph.outputs
    result = dataclasses.replace(graph.tensors[name], shape=(None, *shape[1:]))
    return dataclasses.replace(graph, operations=(op,), tensors={**graph.tensors, name: result})


STRIDES = {"stride": Size2D(2**21, 1)}


@pytest.mark.parametrize(
    ("make", "changes", "row"),
    [
        pytest.param(
            lambda b: b.conv2d(b.input(8, 8, 4), 2, kernel=(1, 1)), STRIDES, 4 * 32, id="conv"
        ),
        pytest.param(
            lambda b: b.depthwise(b.input(8, 8, 4), kernel=1, multiplier=2),
            STRIDES,
            4 * 64,
            id="depthwise",
        ),
        pytest.param(
            lambda b: b.max_pool(b.input(8, 8, 4), window=1), STRIDES, 4 * 32, id="max-pool"
        ),
        pytest.param(
            lambda b: b.average_pool(b.input(8, 8, 4), window=1), STRIDES, 4 * 32, id="average-pool"
        ),
    ],
)
def test_a_border_costs_what_it_takes(
    make: Callable[[GraphBuilder], str], changes: dict[str, Any], row: int
) -> None:
    most = (LIMIT + 4 * 8 * 8 * 4) // row - 8
    assert list(graph_problems(_with_border(make, most, **changes))) == []
    (problem,) = graph_problems(_with_border(make, most + 1, **changes))
    assert f"takes more than {LIMIT} bytes" in problem


def test_what_a_transposed_convolution_cuts_off_counts() -> None:
    def graph(stride: int) -> Graph:
        cut = 7 * stride + 3 - 16
        return _with_border(
            lambda b: b.transpose_conv(b.input(8, 8, 1), 4), cut, stride=Size2D(stride, 2)
        )

    most = (LIMIT // (4 * 4 * 17) + 16 - 3) // 7
    assert [list(graph_problems(graph(n))) for n in (3, most)] == [[], []]
    assert "takes more than" in next(graph_problems(graph(most + 1)))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda b: b.conv2d(b.input(2048, 2048, 64), 64), id="conv"),
        pytest.param(lambda b: b.depthwise(b.input(1024, 1024, 256)), id="depthwise"),
        pytest.param(lambda b: b.max_pool(b.input(2048, 2048, 80), window=2), id="max-pool"),
    ],
)
def test_large_maps_that_tensors_may_have_are_not_refused(
    make: Callable[[GraphBuilder], str],
) -> None:
    b = GraphBuilder()
    assert list(graph_problems(b.build(make(b)))) == []


def test_a_window_has_a_largest_size() -> None:
    def graph(width: int) -> Graph:
        b = GraphBuilder()
        b.max_pool(b.input(1024, 1, 1), window=(1024, 1), padding="valid")
        graph, (pool,) = b.build(), b.operations
        assert isinstance(pool, MaxPool2D)
        wide = dataclasses.replace(pool, window=Size2D(1024, width), pads=Pads(0, 0, 0, width - 1))
        return dataclasses.replace(graph, operations=(wide,))

    assert list(graph_problems(graph(4096))) == []
    (problem,) = graph_problems(graph(4097))
    assert "a window of 1024x4097 has more than 4194304 cells" in problem


def dilated() -> bytes:
    tensors = [
        activation(1, 8, 8, 4, name="x"),
        RawTensor((4, 3, 3, 4), name="w", data=bytes(144), scale=[0.1], zero_point=[0]),
        activation(1, 8, 8, 4, name="y"),
    ]
    options = {
        "Padding": tflite.Padding.SAME,
        "StrideW": 1,
        "StrideH": 1,
        "DilationHFactor": 10**9,
        "DilationWFactor": 1,
    }
    code = tflite.BuiltinOperator.CONV_2D
    conv = RawOperator(code, [0, 1], [2], table="Conv2DOptions", options=options)
    return RawModel(tensors, [conv], [0], [2]).to_bytes()


def padded_pool(kind: str, domain: str) -> bytes:
    b = OnnxBuilder()
    x = b.input((1, 4, 8, 8), np.int8)
    inputs = [x, *b.scales(0.1, 0, np.int8), *b.scales(0.1, 0, np.int8)] if domain else [x]
    y = b.node(
        kind,
        *inputs,
        domain=domain,
        kernel_shape=[2**20, 3],
        strides=[2**20, 1],
        pads=[0, 1, 2**29 - 8, 1],
    )
    b.output(y, np.int8)
    return b.content()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(dilated(), id="tflite-dilation"),
        pytest.param(padded_pool("MaxPool", ""), id="onnx-max-pool"),
        pytest.param(padded_pool("QLinearAveragePool", MICROSOFT), id="onnx-average-pool"),
    ],
)
def test_a_small_file_cannot_ask_for_a_large_map(content: bytes) -> None:
    with pytest.raises(ImportModelError, match=rf"op 0 .* borders included, .* {LIMIT} bytes") as e:
        load(content)
    assert "its pads or the window smaller" in e.value.remedy
