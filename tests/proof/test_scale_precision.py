# SPDX-License-Identifier: Apache-2.0
"""In which precision each kernel forms its factor from the scales.

The factors of float32 and float64 differ in their last bits, which shows only where a product
lies next to a tie. The scales here are searched so that it does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray
from runtimes import RUNTIMES, ReferenceKernels, require

from akida_backend.fixed_point import multiply_by_quantized_multiplier, quantize_multiplier
from akida_backend.graph import AnyArray, Arithmetic, DType, Graph, Quantization
from akida_backend.reference import run_graph
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder

Scales = NDArray[np.float32]

WANTED: Final = 4
CODES: Final = np.arange(-128, 128)
PRODUCTS: Final = np.unique(np.multiply.outer(CODES, np.arange(-127, 128)))


def telling(
    values: NDArray[np.int64], one: NDArray[np.float64], other: NDArray[np.float64]
) -> Sequence[int]:
    """Positions of factors in `one` and `other` that requantize some value differently."""
    found: list[int] = []
    for begin in range(0, len(one), 100):
        part = slice(begin, begin + 100)
        a, b = (
            multiply_by_quantized_multiplier(
                np.broadcast_to(values, (len(factor[part]), len(values))),
                *(split[:, None] for split in quantize_multiplier(factor[part])),
            )
            for factor in (one, other)
        )
        found += (begin + np.flatnonzero(((a != b) & (np.abs(a) < 127)).any(axis=1))).tolist()
        if len(found) >= WANTED:
            return found[:WANTED]
    raise AssertionError("no telling scales among those tried")


def random_scales(count: int, scale: float, seed: int) -> Scales:
    random = np.random.default_rng(seed)
    return (scale * 10 ** random.uniform(-1, 1, count)).astype(np.float32)


def assert_equal(graph: Graph, arithmetic: Arithmetic, feeds: dict[str, AnyArray]) -> None:
    graph = dataclasses.replace(graph, arithmetic=arithmetic)
    (output,) = graph.outputs
    expected = ReferenceKernels(write_tflite(graph), arithmetic).run(feeds)[output]
    np.testing.assert_array_equal(run_graph(graph, feeds)[output], expected)


ONE_OPERAND: Final[list[object]] = [
    pytest.param(lambda b, x, s: b.quantize(x, scaling=(s, 0)), id="quantize"),
    pytest.param(lambda b, x, s: b.relu(x, scaling=(s, -100)), id="relu"),
    pytest.param(lambda b, x, s: b.leaky_relu(x, scaling=(s, 0)), id="leaky_relu"),
    pytest.param(lambda b, x, s: b.prelu(x, scaling=(s, 0)), id="prelu"),
    pytest.param(
        lambda b, x, s: b.mean(b.reshape(x, 256, 1, 1), axes=(2, 3), scaling=(s, 0)), id="mean"
    ),
]


@pytest.mark.parametrize("arithmetic", RUNTIMES)
@pytest.mark.parametrize("operation", ONE_OPERAND)
def test_of_a_ratio_of_scales(
    arithmetic: Arithmetic, operation: Callable[[GraphBuilder, str, float], str]
) -> None:
    require(arithmetic)
    scale_in, scale_out = random_scales(200_000, 0.02, 1), random_scales(200_000, 0.02, 2)
    single = (scale_in / scale_out).astype(np.float64)
    double = scale_in.astype(np.float64) / scale_out
    for index in telling(CODES, single, double):
        b = GraphBuilder(0)
        x = b.input(256, scaling=(float(scale_in[index]), 0))
        graph = b.build(operation(b, x, float(scale_out[index])))
        assert_equal(graph, arithmetic, {x: CODES.astype(np.int8).reshape(1, 256)})


@pytest.mark.parametrize("arithmetic", RUNTIMES)
def test_of_the_slope_of_leaky_relu(arithmetic: Arithmetic) -> None:
    require(arithmetic)
    scale_in, scale_out = random_scales(200_000, 0.02, 1), random_scales(200_000, 0.02, 2)
    alpha = np.random.default_rng(3).uniform(0.1, 1, 200_000).astype(np.float32)
    single = (scale_in * alpha / scale_out).astype(np.float64)
    double = scale_in.astype(np.float64) * alpha / scale_out
    for index in telling(CODES[:128], single, double):
        b = GraphBuilder(0)
        x = b.input(256, scaling=(float(scale_in[index]), 0))
        out = b.leaky_relu(x, alpha=float(alpha[index]), scaling=(float(scale_out[index]), 0))
        assert_equal(b.build(out), arithmetic, {x: CODES.astype(np.int8).reshape(1, 256)})


def products_of_scales() -> tuple[Scales, Scales, Scales]:
    return (
        random_scales(20_000, 0.02, 1),
        random_scales(20_000, 0.01, 2),
        random_scales(20_000, 0.02, 3),
    )


@pytest.mark.parametrize("arithmetic", RUNTIMES)
@pytest.mark.parametrize("product_only", [False, True])
def test_of_mul(arithmetic: Arithmetic, product_only: bool) -> None:
    """Against a factor wholly in float64, and against one with only the product in float32."""
    require(arithmetic)
    scale_a, scale_b, scale_out = products_of_scales()
    single = (scale_a * scale_b / scale_out).astype(np.float64)
    other = scale_a.astype(np.float64) * scale_b / scale_out
    if product_only:
        other = (scale_a * scale_b).astype(np.float64) / scale_out
    for index in telling(PRODUCTS, single, other):
        b = GraphBuilder(0)
        left = b.input(256 * 256, scaling=(float(scale_a[index]), 0))
        right = b.input(256 * 256, scaling=(float(scale_b[index]), 0))
        graph = b.build(b.mul(left, right, scaling=(float(scale_out[index]), 0)))
        feeds = {
            left: np.repeat(CODES, 256).astype(np.int8)[None],
            right: np.tile(CODES, 256).astype(np.int8)[None],
        }
        assert_equal(graph, arithmetic, dict(feeds))


@pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8])
@pytest.mark.parametrize("arithmetic", RUNTIMES)
@pytest.mark.parametrize("kind", ["conv2d", "fully_connected"])
def test_of_operations_with_weights(arithmetic: Arithmetic, dtype: DType, kind: str) -> None:
    """Every product of a code and a weight once: 1x1 filters, or rows of one feature."""
    require(arithmetic)
    scale_in, scale_weights, scale_out = products_of_scales()
    single = (scale_in * scale_weights).astype(np.float64) / scale_out
    double = scale_in.astype(np.float64) * scale_weights / scale_out
    zero = 0 if dtype is DType.INT8 else 128
    weights = (np.arange(-127, 128) + zero).astype(dtype.numpy)
    codes = (CODES + zero).astype(dtype.numpy)
    for index in telling(PRODUCTS, single, double):
        b = GraphBuilder(0, dtype=dtype, per_channel=False)
        scaling = (float(scale_out[index]), zero)
        if kind == "conv2d":
            x = b.input(16, 16, 1, scaling=(float(scale_in[index]), zero))
            filters = weights.reshape(255, 1, 1, 1)
            out = b.conv2d(x, 255, kernel=1, bias=False, weights=filters, scaling=scaling)
            feeds: dict[str, AnyArray] = {x: codes.reshape(1, 16, 16, 1)}
        else:
            x = b.input(1, scaling=(float(scale_in[index]), zero))
            out = b.fully_connected(
                x, 255, bias=False, weights=weights.reshape(255, 1), scaling=scaling
            )
            feeds = {x: codes.reshape(256, 1)}
        (name,) = (name for name, tensor in b.tensors.items() if tensor.is_constant)
        quantization = Quantization.per_tensor(float(scale_weights[index]), zero)
        b.tensors[name] = dataclasses.replace(b.tensors[name], quantization=quantization)
        assert_equal(b.build(out), arithmetic, feeds)
