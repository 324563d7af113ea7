# SPDX-License-Identifier: Apache-2.0
"""QONNX Quant nodes: integers where they mean a uniform grid, refused where they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike
from onnx_models import OnnxBuilder, feeds_of, opaque

from akida_backend.execute import run_source
from akida_backend.graph import AnyArray, Conv2D, DType, FullyConnected, Opaque

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


def reason_in(b: OnnxBuilder) -> str:
    (op,) = b.graph().operations
    assert isinstance(op, Opaque)
    return op.reason


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


@pytest.mark.parametrize("shape", [(), (3, 1, 1, 1)], ids=["one-scale", "per-filter"])
@pytest.mark.parametrize("kind", ["BipolarQuant", "Quant"])
def test_constants_of_one_signed_bit_are_signs(kind: str, shape: tuple[int, ...]) -> None:
    b = OnnxBuilder()
    x = quant(b, b.input((1, 2, 5, 5)), 0.5, 0.0, 8)
    values = RANDOM.normal(size=(3, 2, 3, 3)).astype(np.float32)
    values[0, 0, 0] = 0.0
    scale = RANDOM.uniform(0.1, 1, shape).astype(np.float32)
    if kind == "Quant":
        weights = quant(b, b.constant(values), scale, 0.0, 1)
    else:
        weights = b.node(kind, b.constant(values), b.constant(scale), domain=DOMAIN)
    b.output(quant(b, b.node("Conv", x, weights), 0.25, 0.0, 8))
    graph = b.graph()
    assert not opaque(graph)
    (op,) = [op for op in graph.operations if isinstance(op, Conv2D)]
    stored = graph.tensors[op.weights]
    assert stored.quantization is not None
    signs = np.array([1 if v >= 0 else -1 for v in values.ravel()]).reshape(values.shape)
    np.testing.assert_array_equal(stored.data, signs.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(stored.quantization.scale, scale.ravel())


def test_scales_of_fewer_axes_belong_to_the_last_ones() -> None:
    b = OnnxBuilder()
    x = quant(b, b.input((1, 4)), 0.5, 0.0, 8)
    values = RANDOM.normal(size=(4, 3)).astype(np.float32)
    scales = np.array([0.25, 0.5, 0.125], np.float32)
    b.output(quant(b, b.node("MatMul", x, quant(b, b.constant(values), scales, 0.0, 4)), 0.25))
    graph = b.graph()
    (op,) = [op for op in graph.operations if isinstance(op, FullyConnected)]
    codes = np.clip(np.rint(values / scales), -8, 7)
    np.testing.assert_array_equal(graph.tensors[op.weights].data, codes.T)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        pytest.param({"bits": 12.0}, "a bit width of 12", id="wide"),
        pytest.param({"bits": 7.5}, "a bit width of 7.5", id="half-bits"),
        pytest.param({"zero": 0.5}, "zero points that are not whole", id="half-zero"),
        pytest.param({"zero": 200.0}, "a zero point beyond -128 to 127", id="far-zero"),
        pytest.param({"rounding_mode": "FLOOR"}, "a rounding_mode of 'FLOOR'", id="floor"),
        pytest.param({"scale": np.ones((2, 4))}, "scales of shape [2, 4]", id="two-axes"),
        pytest.param({"bits": 1.0}, "its input is computed, and -1", id="computed-signs"),
        pytest.param({"bits": 1.0, "zero": 1.0}, "one signed bit with a zero", id="one-bit-zero"),
    ],
)
def test_other_grids_stay_and_say_why(keys: dict[str, Any], reason: str) -> None:
    b = OnnxBuilder()
    b.output(quant(b, b.input((1, 8)), **{"scale": 0.5, **keys}))
    assert reason_in(b).startswith(f"Quant: {reason}")


def test_signs_of_activations_stay_and_say_why() -> None:
    b = OnnxBuilder()
    b.output(b.node("BipolarQuant", b.input((1, 8)), b.constant(0.5), domain=DOMAIN))
    assert reason_in(b).startswith("BipolarQuant: its input is computed")


def test_what_surrounds_a_grid_that_stays_is_read() -> None:
    """Without declared shapes: a quantizer keeps the shape it reads."""
    b = OnnxBuilder()
    x = quant(b, b.input((1, 4)), 0.5, bits=12.0)
    weights = quant(b, b.constant(RANDOM.normal(size=(4, 3)).astype(np.float32)), 0.5, bits=4.0)
    b.output(quant(b, b.node("MatMul", quant(b, x, 0.5), weights), 0.25))
    kinds = [type(op) for op in b.graph().operations]
    assert Opaque in kinds
    assert FullyConnected in kinds


def test_computed_scales_and_old_opsets_stay_and_say_why() -> None:
    b = OnnxBuilder()
    scale = b.input((), name="scale")
    b.output(b.node("BipolarQuant", b.constant(np.ones(4)), scale, domain=DOMAIN))
    assert "scale, zero point and bit width have to be constants" in reason_in(b)
    b = OnnxBuilder(opset=11)
    b.output(quant(b, b.input((1, 8)), 0.5))
    assert "opset 11 is too old for it" in reason_in(b)
