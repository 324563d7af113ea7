# SPDX-License-Identifier: Apache-2.0
"""Models of one operator with random parameters against the runtimes' reference kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

import numpy as np
import pytest
from runtimes import RUNTIMES, ReferenceKernels, require

from akida_backend.arithmetic import dequantized
from akida_backend.graph import (
    Activation,
    AnyArray,
    Arithmetic,
    DType,
    Graph,
    Pads,
    Tensor,
)
from akida_backend.importers.tflite import read_tflite
from akida_backend.reference import run_graph
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder, Scaling, random_inputs

Case = Callable[[GraphBuilder], str]

SAMPLES: Final = 3
SEEDS: Final = 4
TYPES: Final = [pytest.param(DType.INT8, id="int8"), pytest.param(DType.UINT8, id="uint8")]


def below(b: GraphBuilder, low: int, high: int) -> int:
    return int(b.random.integers(low, high))


def activation(b: GraphBuilder) -> Activation:
    return list(Activation)[below(b, 0, 4)]


def padding(b: GraphBuilder) -> str:
    return ("same", "valid")[below(b, 0, 2)]


def scaling(b: GraphBuilder, scale: float = 0.02) -> Scaling:
    """A scale within a decade of `scale` and any zero point."""
    low, high = b.dtype.code_range
    return float(np.float32(scale * 10 ** b.random.uniform(-1, 1))), below(b, low, high + 1)


def image(b: GraphBuilder) -> str:
    return b.input(below(b, 3, 10), below(b, 3, 10), below(b, 1, 9), scaling=scaling(b))


def two(b: GraphBuilder, *, small: tuple[int, ...] = (5, 5, 4)) -> tuple[str, str]:
    return b.input(5, 5, 4, scaling=scaling(b)), b.input(*small, scaling=scaling(b))


def conv2d(b: GraphBuilder) -> str:
    return b.conv2d(
        image(b),
        below(b, 1, 9),
        kernel=(below(b, 1, 4), below(b, 1, 4)),
        stride=(below(b, 1, 3), below(b, 1, 3)),
        padding=padding(b),
        activation=activation(b),
    )


def dilated_conv2d(b: GraphBuilder) -> str:
    return b.conv2d(
        image(b), 5, kernel=2, dilation=(below(b, 1, 3), below(b, 1, 3)), padding=padding(b)
    )


def depthwise(b: GraphBuilder) -> str:
    return b.depthwise(
        image(b),
        multiplier=below(b, 1, 4),
        kernel=(below(b, 1, 4), below(b, 1, 4)),
        stride=below(b, 1, 3),
        padding=padding(b),
        activation=activation(b),
        bias=bool(below(b, 0, 2)),
    )


def dilated_depthwise(b: GraphBuilder) -> str:
    return b.depthwise(image(b), kernel=2, dilation=below(b, 1, 3), padding=padding(b))


def transpose_conv(b: GraphBuilder) -> str:
    return b.transpose_conv(
        image(b),
        below(b, 1, 9),
        kernel=below(b, 2, 5),
        stride=below(b, 1, 3),
        padding=padding(b),
        bias=bool(below(b, 0, 2)),
    )


def fully_connected(b: GraphBuilder) -> str:
    return b.fully_connected(
        b.input(below(b, 1, 300), scaling=scaling(b)),
        below(b, 1, 20),
        activation=activation(b),
        bias=bool(below(b, 0, 2)),
    )


def concatenation(b: GraphBuilder) -> str:
    shared = scaling(b)
    constant = b.constant(b.random.integers(*b.dtype.code_range, (1, 4, 4, 2)), scaling=shared)
    return b.concatenation(
        b.input(4, 4, 3, scaling=shared), constant, b.input(4, 4, 1, scaling=shared)
    )


def pads(b: GraphBuilder) -> Pads:
    return Pads(*(below(b, 0, 3) for _ in range(4)))


def resize_options(b: GraphBuilder) -> dict[str, bool]:
    options: list[dict[str, bool]] = [{}, {"align_corners": True}, {"half_pixel_centers": True}]
    return options[below(b, 0, 3)]


def new_size(b: GraphBuilder) -> tuple[int, int]:
    return below(b, 1, 20), below(b, 1, 20)


def recode(b: GraphBuilder) -> str:
    """Between int8 and uint8 of one scale."""
    scale, zero = scaling(b)
    other, shift = (DType.UINT8, 128) if b.dtype is DType.INT8 else (DType.INT8, -128)
    x = b.input(300, scaling=(scale, zero))
    return b.quantize(x, scaling=(scale, zero + shift), dtype=other)


def vector(b: GraphBuilder, scale: float = 0.02) -> str:
    return b.input(300, scaling=scaling(b, scale))


CASES: Final[dict[str, Case]] = {
    "conv2d": conv2d,
    "conv2d-dilated": dilated_conv2d,
    "conv2d-without-bias": lambda b: b.conv2d(image(b), 5, bias=False),
    "depthwise": depthwise,
    "depthwise-dilated": dilated_depthwise,
    "transpose_conv": transpose_conv,
    "fully_connected": fully_connected,
    "add": lambda b: b.add(*two(b), activation=activation(b)),
    "add-broadcast": lambda b: b.add(*two(b, small=(1, 1, 4)), activation=activation(b)),
    "sub": lambda b: b.sub(*two(b), activation=activation(b)),
    "sub-broadcast": lambda b: b.sub(*two(b, small=(5, 1, 4)), activation=activation(b)),
    "mul": lambda b: b.mul(*two(b), activation=activation(b)),
    "mul-broadcast": lambda b: b.mul(*two(b, small=(1, 5, 4)), activation=activation(b)),
    "maximum": lambda b: b.maximum(
        b.input(5, 4, scaling=(0.1, 3)), b.input(5, 4, scaling=(0.1, 3))
    ),
    "minimum": lambda b: b.minimum(
        b.input(5, 4, scaling=(0.1, 3)), b.input(1, 4, scaling=(0.1, 3))
    ),
    "concatenation": concatenation,
    "max_pool": lambda b: b.max_pool(
        image(b),
        window=(below(b, 1, 4), below(b, 1, 4)),
        stride=below(b, 1, 3),
        padding=padding(b),
        activation=activation(b),
    ),
    "average_pool": lambda b: b.average_pool(
        image(b),
        window=(below(b, 1, 4), below(b, 1, 4)),
        stride=below(b, 1, 3),
        padding=padding(b),
        activation=activation(b),
    ),
    "average_pool-global": lambda b: b.average_pool(image(b)),
    "mean": lambda b: b.mean(image(b), scaling=scaling(b), keep_dims=bool(below(b, 0, 2))),
    "mean-one-axis": lambda b: b.mean(image(b), axes=(below(b, 1, 4),), scaling=scaling(b)),
    "pad": lambda b: b.pad_image(image(b), pads(b)),
    "padv2": lambda b: b.pad_image(image(b), pads(b), value=below(b, *b.dtype.code_range)),
    "reshape": lambda b: b.reshape(b.input(4, 6, 2), 12, 4),
    "transpose": lambda b: b.transpose(b.input(4, 6, 2), 0, 3, 1, 2),
    "strided_slice": lambda b: b.strided_slice(b.input(7, 6, 2), slice(1, 6, 2), slice(None), 1),
    "strided_slice-back": lambda b: b.strided_slice(
        b.input(7, 6, 2), slice(5, 0, -2), slice(None), slice(0, 1)
    ),
    "split": lambda b: b.split(b.input(4, 4, 6), 2, 2, 2)[1],
    "split_v": lambda b: b.split(b.input(4, 4, 6), 1, 2, 3)[2],
    "pack": lambda b: b.pack(
        b.input(4, 4, scaling=(0.1, 3)), b.input(4, 4, scaling=(0.1, 3)), axis=below(b, 1, 4)
    ),
    "unpack": lambda b: b.unpack(b.input(4, 4, 3), axis=below(b, 1, 4))[2],
    "gather": lambda b: b.gather(b.input(4, 4, 3), [2, 0, 1, 1], axis=below(b, 1, 3)),
    "arg_max": lambda b: b.arg_max(b.input(4, 9), axis=below(b, 1, 3)),
    "softmax": lambda b: b.softmax(
        b.input(below(b, 1, 20), scaling=(float(10 ** b.random.uniform(-2.5, 0.5)), 3)),
        beta=(0.5, 1.0, 2.0)[below(b, 0, 3)],
    ),
    "logistic": lambda b: b.logistic(vector(b, 0.1)),
    "tanh": lambda b: b.tanh(vector(b, 0.1)),
    "hard_swish": lambda b: b.hard_swish(vector(b, 0.05), scaling=scaling(b, 0.05)),
    "leaky_relu": lambda b: b.leaky_relu(
        vector(b), alpha=float(np.float32(b.random.uniform(-1.5, 1.5))), scaling=scaling(b)
    ),
    "prelu": lambda b: b.prelu(image(b), scaling=scaling(b)),
    "relu": lambda b: b.relu(vector(b), bound=list(Activation)[below(b, 1, 4)], scaling=scaling(b)),
    "resize_nearest": lambda b: b.resize_nearest(image(b), new_size(b), **resize_options(b)),
    "resize_bilinear": lambda b: b.resize_bilinear(image(b), new_size(b), **resize_options(b)),
    "quantize": lambda b: b.quantize(b.input(300, dtype=DType.FLOAT32), scaling=scaling(b)),
    "quantize-again": lambda b: b.quantize(vector(b), scaling=scaling(b)),
    "quantize-recode": recode,
    "dequantize": lambda b: b.dequantize(vector(b)),
    "cast-to-float": lambda b: b.cast(vector(b), DType.FLOAT32),
    "cast-to-int32": lambda b: b.cast(vector(b), DType.INT32),
}
WITH_INT4: Final = ("conv2d", "fully_connected")


def differences(case: Case, arithmetic: Arithmetic, builder: GraphBuilder, seed: int) -> list[str]:
    """What is not equal, for the graph as built and as read back from its file."""
    output = case(builder)
    built = builder.build(output)
    content = write_tflite(built)
    feeds = random_inputs(built, SAMPLES, seed)
    expected = ReferenceKernels(content, arithmetic).run(feeds)[output]
    found: list[str] = []
    for label, graph in (("built", built), ("read back", read_tflite(content, "model"))):
        graph = dataclasses.replace(graph, arithmetic=arithmetic)
        values = run_graph(graph, feeds)[graph.outputs[0]]
        same_kind = (values.shape, values.dtype) == (expected.shape, expected.dtype)
        if not (same_kind and np.array_equal(values, expected)):
            found.append(f"seed {seed}, {label}: {values.shape} {values.dtype}")
    return found


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
@pytest.mark.parametrize("arithmetic", RUNTIMES)
@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(range(SEEDS), id="few"),
        pytest.param(range(SEEDS, 120), id="many", marks=pytest.mark.full),
    ],
)
def test_equals_the_reference_kernel_bit_for_bit(
    arithmetic: Arithmetic, dtype: DType, case: Case, seeds: range
) -> None:
    require(arithmetic)
    found: list[str] = []
    for seed in seeds:
        builder = GraphBuilder(seed, dtype=dtype, per_channel=seed % 4 > 0)
        found += differences(case, arithmetic, builder, seed)
    assert found == []


@pytest.mark.parametrize("name", WITH_INT4)
def test_int4_weights_equal_the_reference_kernel(name: str) -> None:
    require(Arithmetic.TFLITE)
    found: list[str] = []
    for seed in range(SEEDS):
        builder = GraphBuilder(seed, weight_dtype=DType.INT4)
        found += differences(CASES[name], Arithmetic.TFLITE, builder, seed)
    assert found == []


def test_fully_connected_with_a_scale_per_row_equals_the_reference_kernel() -> None:
    require(Arithmetic.TFLITE)
    found: list[str] = []
    for seed in range(SEEDS):
        found += differences(
            lambda b: b.fully_connected(vector(b), 12, per_channel=True),
            Arithmetic.TFLITE,
            GraphBuilder(seed),
            seed,
        )
    assert found == []


def in_floats(graph: Graph) -> Graph:
    """The same operations on float32: quantization dropped, constants dequantized."""

    def converted(tensor: Tensor) -> Tensor:
        if not tensor.is_quantized:
            return tensor
        data = None if tensor.data is None else dequantized(tensor.data, tensor)
        return Tensor(tensor.name, DType.FLOAT32, tensor.shape, None, data)

    tensors = {name: converted(tensor) for name, tensor in graph.tensors.items()}
    return dataclasses.replace(graph, tensors=tensors)


INTEGER_ONLY: Final = (
    "conv2d-without-bias",
    "padv2",
    "quantize",
    "quantize-again",
    "quantize-recode",
    "dequantize",
)


@pytest.mark.parametrize("arithmetic", RUNTIMES)
@pytest.mark.parametrize("name", [name for name in CASES if name not in INTEGER_ONLY])
def test_floats_agree_with_the_reference_kernel(arithmetic: Arithmetic, name: str) -> None:
    """Sums are in another order, so the last bits are free."""
    require(arithmetic)
    for seed in range(SEEDS):
        builder = GraphBuilder(seed)
        output = CASES[name](builder)
        graph = dataclasses.replace(in_floats(builder.build(output)), arithmetic=arithmetic)
        feeds = random_inputs(graph, SAMPLES, seed)
        expected = ReferenceKernels(write_tflite(graph), arithmetic).run(feeds)[output]
        values = run_graph(graph, feeds)[output]
        assert (values.shape, values.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(
            values.astype(np.float64), expected.astype(np.float64), rtol=2e-5, atol=1e-5
        )


@pytest.mark.parametrize("name", ["add", "sub", "mul", "maximum", "minimum"])
@pytest.mark.parametrize("arithmetic", RUNTIMES)
@pytest.mark.parametrize("dtype", [DType.INT32, DType.INT64])
def test_plain_integers_equal_the_reference_kernel(
    arithmetic: Arithmetic, name: str, dtype: DType
) -> None:
    require(arithmetic)
    builder = GraphBuilder(3)
    output = CASES[name](builder)
    built = builder.build(output)
    tensors = {name: Tensor(name, dtype, t.shape) for name, t in built.tensors.items()}
    graph = dataclasses.replace(built, tensors=tensors, arithmetic=arithmetic)
    random = np.random.default_rng(0)
    feeds: dict[str, AnyArray] = {
        name: random.integers(-1000, 1000, (SAMPLES, *(n or 1 for n in t.shape[1:]))).astype(
            dtype.numpy
        )
        for name, t in tensors.items()
        if name in graph.inputs
    }
    expected = ReferenceKernels(write_tflite(graph), arithmetic).run(feeds)[output]
    values = run_graph(graph, feeds)[output]
    assert values.dtype == dtype.numpy
    np.testing.assert_array_equal(values, expected)
