# SPDX-License-Identifier: Apache-2.0
"""Element-wise functions on all codes, against Python numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalar_kernels import half_away, requantized, scale_of, stored, zero_of

from akida_backend.graph import Activation, AnyArray, DType, Tensor
from akida_backend.reference import run_graph
from builders import GraphBuilder

types = st.sampled_from([DType.INT8, DType.UINT8])
zeros = st.integers(-128, 127)
scales = st.floats(2.0**-10, 2.0, width=32)


def builder(dtype: DType) -> tuple[GraphBuilder, AnyArray, int]:
    """A builder, all codes, and what to add to an int8 zero point."""
    low, high = dtype.code_range
    return GraphBuilder(0, dtype=dtype), np.arange(low, high + 1).astype(dtype.numpy), low + 128


def results(b: GraphBuilder, x: str, y: str, codes: AnyArray) -> list[int]:
    values: list[int] = run_graph(b.build(y), {x: codes[None]})[y][0].tolist()
    return values


def float32_ratio(a: Tensor, b: Tensor) -> float:
    return float(np.float32(scale_of(a)) / np.float32(scale_of(b)))


@given(types, scales, zeros, scales, zeros, st.sampled_from(list(Activation)[1:]))
def test_relu_requantizes_and_clamps(
    dtype: DType, scale: float, zero: int, new_scale: float, new_zero: int, bound: Activation
) -> None:
    b, codes, shift = builder(dtype)
    x = b.input(256, scaling=(scale, zero + shift))
    y = b.relu(x, bound=bound, scaling=(new_scale, new_zero + shift))
    source, output = b.tensors[x], b.tensors[y]
    ratio = float32_ratio(source, output)
    expected = [stored(requantized(int(c) - zero_of(source), ratio), output, bound) for c in codes]
    assert results(b, x, y, codes) == expected


@given(types, scales, zeros, scales, zeros, st.floats(-2.0, 2.0, width=32))
def test_leaky_relu_has_a_multiplier_for_each_side(
    dtype: DType, scale: float, zero: int, new_scale: float, new_zero: int, alpha: float
) -> None:
    b, codes, shift = builder(dtype)
    x = b.input(256, scaling=(scale, zero + shift))
    y = b.leaky_relu(x, alpha=alpha, scaling=(new_scale, new_zero + shift))
    source, output = b.tensors[x], b.tensors[y]
    slope = float(np.float32(scale) * np.float32(alpha) / np.float32(scale_of(output)))

    def one(centred: int) -> int:
        if centred >= 0:
            return requantized(centred, float32_ratio(source, output))
        magnitude = requantized(centred, abs(slope)) if abs(slope) >= 2.0**-32 else 0
        return -magnitude if slope < 0 else magnitude

    expected = [stored(one(int(c) - zero_of(source)), output) for c in codes]
    assert results(b, x, y, codes) == expected


@given(types, scales, zeros, st.integers(0, 2**31))
def test_prelu_multiplies_by_the_code_of_alpha(
    dtype: DType, scale: float, zero: int, seed: int
) -> None:
    low, high = dtype.code_range
    b = GraphBuilder(seed, dtype=dtype)
    x = b.input(4, 3, scaling=(scale, zero + low + 128))
    y = b.prelu(x)
    values = b.random.integers(low, high + 1, (2, 4, 3)).astype(dtype.numpy)
    found = run_graph(b.build(y), {x: values})[y]
    source, output = b.tensors[x], b.tensors[y]
    alpha, alpha_codes = b.tensors["alpha"], b.tensors["alpha"].data
    assert alpha_codes is not None
    alpha_scale = np.float32(scale_of(alpha))
    slope = float(np.float32(scale) * alpha_scale / np.float32(scale_of(output)))
    for position in np.ndindex(found.shape):
        centred = int(values[position]) - zero_of(source)
        slopes = alpha_codes.reshape(-1)
        if centred >= 0:
            steps = requantized(centred, float32_ratio(source, output))
        else:
            steps = requantized(centred * (int(slopes[position[-1]]) - zero_of(alpha)), slope)
        assert int(found[position]) == stored(steps, output)


@given(types, st.floats(2.0**-10, 0.25, width=32), zeros, st.sampled_from(["logistic", "tanh"]))
def test_tables_hold_the_nearest_code(dtype: DType, scale: float, zero: int, kind: str) -> None:
    b, codes, shift = builder(dtype)
    x = b.input(256, scaling=(scale, zero + shift))
    y = getattr(b, kind)(x)
    source, output = b.tensors[x], b.tensors[y]
    for code, found in zip(codes, results(b, x, y, codes), strict=True):
        real = scale_of(source) * (int(code) - zero_of(source))
        value = math.tanh(real) if kind == "tanh" else 1 / (1 + math.exp(-real))
        exact = value / scale_of(output)
        # float32 tables may fall to the other side of a tie
        near = {half_away(exact - 1e-4), half_away(exact + 1e-4)}
        assert found in {stored(steps, output) for steps in near}


def test_logistic_far_from_zero_saturates() -> None:
    b, codes, _ = builder(DType.INT8)
    x = b.input(256, scaling=(100.0, 0))
    y = b.logistic(x)
    assert results(b, x, y, codes) == [-128] * 128 + [0] + [127] * 127


@given(types, st.floats(2.0**-7, 2.0**-2, width=32), zeros)
def test_hard_swish_is_within_a_step_of_the_real_function(
    dtype: DType, scale: float, zero: int
) -> None:
    b, codes, shift = builder(dtype)
    x = b.input(256, scaling=(scale, zero + shift))
    y = b.hard_swish(x, scaling=(scale, zero + shift))
    source, output = b.tensors[x], b.tensors[y]
    for code, found in zip(codes, results(b, x, y, codes), strict=True):
        real = scale_of(source) * (int(code) - zero_of(source))
        exact = real * min(max(real + 3, 0), 6) / 6 / scale_of(output) + zero_of(output)
        low, high = dtype.code_range
        assert abs(found - min(max(exact, low), high)) <= 1.01


@given(
    types,
    st.lists(st.integers(-128, 127), min_size=1, max_size=12),
    st.floats(2.0**-8, 1.0, width=32),
    st.sampled_from([0.5, 1.0, 2.0]),
)
def test_softmax_is_within_a_step_of_the_real_function(
    dtype: DType, values: list[int], scale: float, beta: float
) -> None:
    low, _ = dtype.code_range
    b = GraphBuilder(0, dtype=dtype)
    x = b.input(len(values), scaling=(scale, low + 131))
    y = b.softmax(x, beta=beta)
    codes = np.array([values]) + low + 128
    found = run_graph(b.build(y), {x: codes.astype(dtype.numpy)})[y][0].tolist()
    powers = [math.exp(beta * scale * (value - max(values))) for value in values]
    for power, code in zip(powers, found, strict=True):
        exact = min(256 * power / sum(powers), 255)
        assert abs(code - low - exact) <= 0.51


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("logistic", [0.0, 0.11920292, 0.5, 0.98201376]),
        ("tanh", [-1.0, -0.9640276, 0.0, 0.9993293]),
        ("hard_swish", [0.0, -0.33333334, 0.0, 4.0]),
        ("leaky_relu", [-12.5, -0.25, 0.0, 4.0]),
        ("softmax", [0.0, 0.00242826, 0.01794253, 0.97962922]),
        ("relu", [0.0, 0.0, 0.0, 4.0]),
    ],
)
def test_floats(kind: str, expected: list[float]) -> None:
    b = GraphBuilder(0)
    x = b.input(4)
    y = getattr(b, kind)(x)
    b.tensors.update({name: Tensor(name, DType.FLOAT32, (None, 4)) for name in (x, y)})
    values = np.array([[-100.0, -2.0, 0.0, 4.0]], np.float32)
    found = run_graph(b.build(y), {x: values})[y]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.astype(np.float64)[0], expected, atol=1e-6)
