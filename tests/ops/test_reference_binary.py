# SPDX-License-Identifier: Apache-2.0
"""ADD, SUB, MUL, MAXIMUM, MINIMUM, CONCATENATION against Python integers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalar_kernels import half_away, requantized, scale_of, stored, zero_of

from akida_backend.graph import Activation, Add, Arithmetic, DType, Mul, Sub, Tensor
from akida_backend.reference import run_graph
from builders import GraphBuilder, random_inputs

types = st.sampled_from([DType.INT8, DType.UINT8])
scales = st.floats(2.0**-10, 2.0, width=32)


def one_value(op: Add | Sub | Mul, tensors: dict[str, Tensor], x: int, y: int) -> int:
    a, b, out = tensors[op.a], tensors[op.b], tensors[op.output]
    left, right = x - zero_of(a), y - zero_of(b)
    match op:
        case Mul():
            ratio = np.float32(scale_of(a)) * np.float32(scale_of(b)) / np.float32(scale_of(out))
            return stored(requantized(left * right, float(ratio)), out, op.activation)
        case Add() | Sub():
            common = 2 * max(scale_of(a), scale_of(b))
            left = requantized(left << 20, scale_of(a) / common)
            right = requantized(right << 20, scale_of(b) / common)
            total = left + right if isinstance(op, Add) else left - right
            steps = requantized(total, common / (2**20 * scale_of(out)))
            return stored(steps, out, op.activation)


@given(
    seed=st.integers(0, 2**31),
    dtype=types,
    kind=st.sampled_from(["add", "sub", "mul"]),
    activation=st.sampled_from(Activation),
    scale_a=scales,
    scale_b=scales,
)
def test_equals_integers(
    seed: int, dtype: DType, kind: str, activation: Activation, scale_a: float, scale_b: float
) -> None:
    b = GraphBuilder(seed, dtype=dtype)
    low, high = dtype.code_range
    zero_a, zero_b = (int(z) for z in b.random.integers(low, high + 1, 2))
    x, y = b.input(3, 4, scaling=(scale_a, zero_a)), b.input(1, 4, scaling=(scale_b, zero_b))
    out = getattr(b, kind)(x, y, activation=activation)
    graph = b.build(out)
    (op,) = graph.operations
    assert isinstance(op, Add | Sub | Mul)
    feeds = random_inputs(graph, 2, seed)
    found = run_graph(graph, feeds)[out]
    for n, i, j in np.ndindex(found.shape):
        values = int(feeds[x][n, i, j]), int(feeds[y][n, 0, j])
        assert int(found[n, i, j]) == one_value(op, b.tensors, *values)


def test_operands_broadcast_like_numpy_arrays_of_lower_rank() -> None:
    b = GraphBuilder(0)
    x = b.input(2, 3, 4, scaling=(0.1, 0))
    y = b.constant(np.arange(4), scaling=(0.1, 0))
    out = b.add(x, y, scaling=(0.1, 0))
    graph = b.build(out)
    feeds = {x: np.zeros((5, 2, 3, 4), np.int8)}
    found = run_graph(graph, feeds)[out]
    assert found.shape == (5, 2, 3, 4)
    assert np.unique(found.reshape(-1, 4), axis=0).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("kind", "expected"), [("maximum", [5, -3, 7]), ("minimum", [-5, -100, 7])]
)
def test_extremes_compare_codes(kind: str, expected: list[int]) -> None:
    b = GraphBuilder(0)
    x, y = b.input(3, scaling=(0.1, 9)), b.input(3, scaling=(0.1, 9))
    graph = b.build(getattr(b, kind)(x, y))
    feeds = {x: np.array([[5, -3, 7]], np.int8), y: np.array([[-5, -100, 7]], np.int8)}
    (found,) = run_graph(graph, feeds).values()
    assert found.tolist() == [expected]


@given(
    seed=st.integers(0, 2**31),
    scale=st.floats(2.0**-7, 1.0, width=32),
    zero=st.integers(0, 255),
)
def test_uint8_concatenation_brings_operands_to_the_scale_of_the_output(
    seed: int, scale: float, zero: int
) -> None:
    b = GraphBuilder(seed, dtype=DType.UINT8)
    x, y = b.input(6, scaling=(scale, zero)), b.input(6, scaling=(0.1, 30))
    out = b.concatenation(x, y, axis=1)
    b.tensors[out] = dataclasses.replace(b.tensors[out], quantization=b.tensors[y].quantization)
    graph = b.build(out)
    feeds = random_inputs(graph, 2, seed)
    found = run_graph(graph, feeds)[out]
    np.testing.assert_array_equal(found[:, 6:], feeds[y])
    ratio = np.float32(scale) * (np.float32(1) / np.float32(0.1))
    bias = np.float32(-zero) * ratio
    for value, code in zip(feeds[x].flat, found[:, :6].flat, strict=True):
        real = float(np.float32(np.float32(value) * ratio) + bias)
        same = np.float32(scale) == np.float32(0.1) and zero == 30
        expected = int(value) if same else min(max(half_away(real) + 30, 0), 255)
        assert int(code) == expected


def test_onnx_adds_dequantized_values_and_rounds_ties_to_even() -> None:
    b = GraphBuilder(0, arithmetic=Arithmetic.ONNX)
    x, y = b.input(4, scaling=(1.0, 0)), b.input(4, scaling=(1.0, 0))
    out = b.add(x, y, scaling=(2.0, 10))
    graph = b.build(out)
    feeds = {x: np.array([[1, 2, -1, 127]], np.int8), y: np.array([[0, 1, 0, 127]], np.int8)}
    assert run_graph(graph, feeds)[out].tolist() == [[10, 12, 10, 127]]


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (Activation.NONE, [-7, 0, 9]),
        (Activation.RELU, [0, 0, 9]),
        (Activation.RELU6, [0, 0, 6]),
        (Activation.RELU_N1_TO_1, [-1, 0, 1]),
    ],
)
@pytest.mark.parametrize("dtype", [DType.INT32, DType.INT64, DType.FLOAT32])
def test_plain_numbers_are_added_and_clamped(
    dtype: DType, activation: Activation, expected: list[int]
) -> None:
    b = GraphBuilder(0)
    x, y = b.input(3), b.input(3)
    out = b.add(x, y, activation=activation)
    b.tensors.update({name: Tensor(name, dtype, (None, 3)) for name in (x, y, out)})
    graph = b.build(out)
    feeds = {x: np.array([[-5, 0, 4]], dtype.numpy), y: np.array([[-2, 0, 5]], dtype.numpy)}
    found = run_graph(graph, feeds)[out]
    assert found.dtype == dtype.numpy
    assert found.tolist() == [expected]
