# SPDX-License-Identifier: Apache-2.0
"""QONNX Quant nodes: integers where they mean a uniform grid, opaque where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike
from onnx_models import OnnxBuilder, feeds_of, opaque

from akida_backend.errors import ImportModelError
from akida_backend.execute import run_source
from akida_backend.graph import AnyArray, Conv2D, DType

DOMAIN = "qonnx.custom_op.general"
RANDOM = np.random.default_rng(4)


def quant(
    b: OnnxBuilder, x: str, scale: ArrayLike, zero: float = 0.0, bits: float = 8.0, **keys: object
) -> str:
    inputs = (x, *(b.constant(v) for v in (scale, zero, bits)))
    values = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND", **keys}
    return b.node("Quant", *inputs, domain=DOMAIN, **values)  # type: ignore[arg-type]


def on_grid(x: AnyArray, scale: float, zero: float, low: int, high: int) -> AnyArray:
    """What a Quant node means, in float64."""
    codes = np.clip(np.rint(x.astype(np.float64) / scale + zero), low, high)
    return (codes - zero) * scale


@pytest.mark.parametrize(
    ("bits", "signed", "narrow", "low", "high"),
    [
        (8, 1, 0, -128, 127),
        (8, 0, 0, 0, 255),
        (4, 1, 0, -8, 7),
        (4, 0, 0, 0, 15),
        (8, 1, 1, -127, 127),
        (3, 0, 1, 0, 6),
        (2, 1, 0, -2, 1),
        (1, 1, 0, -1, 0),
        (1, 0, 0, 0, 1),
    ],
)
def test_activations_lie_on_the_grid(
    bits: int, signed: int, narrow: int, low: int, high: int
) -> None:
    b = OnnxBuilder()
    x = b.input((1, 50))
    b.output(quant(b, x, 0.5, 0.0, bits, signed=signed, narrow=narrow))
    graph = b.graph()
    assert not opaque(graph)
    feeds = feeds_of(graph)
    found = run_source(graph, feeds)[graph.outputs[0]]
    np.testing.assert_array_equal(found, on_grid(feeds["x"], 0.5, 0.0, low, high))


def test_a_convolution_between_quant_nodes_is_an_integer_convolution() -> None:
    b = OnnxBuilder()
    x = quant(b, b.input((1, 2, 5, 5)), 0.5, 0.0, 8)
    values = RANDOM.normal(size=(3, 2, 3, 3)).astype(np.float32)
    scales = np.array([0.25, 0.5, 0.125], np.float32).reshape(3, 1, 1, 1)
    weights = quant(b, b.constant(values), scales, 0.0, 4, narrow=1)
    real = b.node("Relu", b.node("Conv", x, weights))
    b.output(quant(b, real, 0.25, 0.0, 8, signed=0))
    graph = b.graph()
    assert not opaque(graph)
    (op,) = [op for op in graph.operations if isinstance(op, Conv2D)]
    stored = graph.tensors[op.weights]
    assert stored.dtype is DType.INT4
    codes = np.clip(np.rint(values / scales), -7, 7).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(stored.data, codes)
    assert (op.location.type, op.location.index) == ("Conv", 2)
    assert 1 in op.sources


@pytest.mark.parametrize(
    "keys",
    [{"bits": 12.0}, {"bits": 7.5}, {"zero": 0.5}, {"rounding_mode": "FLOOR"}],
    ids=["wide", "half-bits", "half-zero", "floor"],
)
def test_other_grids_are_left_alone(keys: dict[str, object]) -> None:
    b = OnnxBuilder()
    b.output(quant(b, b.input((1, 8)), 0.5, **keys))  # type: ignore[arg-type]
    with pytest.raises(ImportModelError, match="result 'quant_4' has no fixed shape"):
        b.graph()
