# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import networks
import numpy as np
import pytest
from numpy.typing import NDArray

from akida_backend.ceiling import unrounded_output
from akida_backend.graph import Activation, DType, FullyConnected, Graph, Tensor
from akida_backend.reference import run_graph
from builders import GraphBuilder


def convolution(**options: object) -> Graph:
    b = GraphBuilder(4, dtype=options.pop("dtype", DType.INT8))  # type: ignore[arg-type]
    return b.build(b.conv2d(b.input(7, 6, 3), 4, **options))  # type: ignore[arg-type]


def depthwise(**options: object) -> Graph:
    b = GraphBuilder(4)
    return b.build(b.depthwise(b.input(7, 6, 3), **options))  # type: ignore[arg-type]


def product() -> Graph:
    b = GraphBuilder(4)
    return b.build(b.fully_connected(b.flatten(b.input(2, 3, 2)), 5))


def rounded(tensor: Tensor, reals: NDArray[np.float64]) -> NDArray[np.int64]:
    assert tensor.quantization is not None
    low, high = tensor.dtype.code_range
    steps = reals / tensor.quantization.single_scale + tensor.quantization.single_zero_point
    return np.clip(np.rint(steps), low, high).astype(np.int64)


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(convolution(), id="conv"),
        pytest.param(convolution(kernel=(3, 2), stride=2, dilation=1), id="conv-stride"),
        pytest.param(convolution(dilation=2, padding="valid"), id="conv-dilated"),
        pytest.param(convolution(dtype=DType.UINT8), id="conv-uint8-asymmetric"),
        pytest.param(convolution(activation=Activation.RELU6), id="conv-relu6"),
        pytest.param(convolution(bias=False), id="conv-no-bias"),
        pytest.param(depthwise(), id="depthwise"),
        pytest.param(depthwise(multiplier=2, stride=2), id="depthwise-multiplier"),
        pytest.param(product(), id="fully-connected"),
    ],
)
def test_rounding_it_gives_the_sources_integers(graph: Graph) -> None:
    values = run_graph(graph, networks.codes(graph, 6), keep=True)
    op = graph.operations[-1]
    (name,) = op.outputs
    reals = unrounded_output(op, graph, values)
    assert reals is not None
    expected = values[name].astype(np.int64)
    steps = np.abs(rounded(graph.tensors[name], reals.reshape(expected.shape)) - expected)
    # The source multiplies by a 31-bit number: it may fall to the other side of a tie.
    assert steps.max() <= 1
    assert (steps == 0).mean() > 0.99


def test_it_is_the_exact_accumulator_on_the_accumulators_scale() -> None:
    graph = product()
    op = graph.operations[-1]
    assert isinstance(op, FullyConnected)
    values = run_graph(graph, networks.codes(graph, 1), keep=True)
    reals = unrounded_output(op, graph, values)
    x, w = graph.tensors[op.input], graph.tensors[op.weights]
    assert reals is not None
    assert x.quantization is not None
    assert w.quantization is not None
    assert op.bias is not None
    zero = x.quantization.single_zero_point
    weights = graph.constant(op.weights).tolist()
    bias = graph.constant(op.bias).tolist()
    scales = np.broadcast_to(w.quantization.scale, (5,)).tolist()
    codes = values[op.input].reshape(-1).tolist()
    for i, real in enumerate(reals[0].tolist()):
        accumulator = bias[i] + sum((c - zero) * v for c, v in zip(codes, weights[i], strict=True))
        assert real == pytest.approx(
            accumulator * x.quantization.single_scale * scales[i], rel=1e-15
        )


def test_other_operations_have_none() -> None:
    b = GraphBuilder(4)
    graph = b.build(b.softmax(b.input(3)))
    values = run_graph(graph, networks.codes(graph, 1), keep=True)
    assert unrounded_output(graph.operations[-1], graph, values) is None
