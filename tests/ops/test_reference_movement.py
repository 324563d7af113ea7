# SPDX-License-Identifier: Apache-2.0
"""Operations that move, pick, cast and recode values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalar_kernels import half_away, requantized, stored

from akida_backend.errors import InputError
from akida_backend.graph import AnyArray, Arithmetic, DType, Pads, Quantization, Tensor
from akida_backend.reference import run_graph
from builders import GraphBuilder, random_inputs


def run_one(b: GraphBuilder, y: str, values: AnyArray) -> AnyArray:
    graph = b.build(y)
    return run_graph(graph, {graph.inputs[0]: values})[y]


COUNTED = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(np.int8)

MOVED: list[object] = [
    pytest.param(lambda b, x: b.reshape(x, 12), COUNTED.reshape(2, 12), id="reshape"),
    pytest.param(lambda b, x: b.transpose(x, 0, 2, 1), COUNTED.transpose(0, 2, 1), id="transpose"),
    pytest.param(
        lambda b, x: b.strided_slice(x, slice(0, 3, 2), 1), COUNTED[:, ::2, 1], id="strided_slice"
    ),
    pytest.param(
        lambda b, x: b.strided_slice(x, slice(None, None, -1), slice(3, 0, -2)),
        COUNTED[:, ::-1, 3:0:-2],
        id="strided_slice-backwards",
    ),
    pytest.param(lambda b, x: b.split(x, 1, 3, axis=2)[1], COUNTED[:, :, 1:], id="split"),
    pytest.param(lambda b, x: b.unpack(x, axis=1)[2], COUNTED[:, 2], id="unpack"),
    pytest.param(
        lambda b, x: b.pack(x, x, axis=1), np.stack([COUNTED, COUNTED], axis=1), id="pack"
    ),
    pytest.param(
        lambda b, x: b.gather(x, [3, 0, 0], axis=2), COUNTED[:, :, [3, 0, 0]], id="gather"
    ),
    pytest.param(
        lambda b, x: b.pad(x, [(0, 0), (1, 0), (0, 2)], value=-7),
        np.pad(COUNTED, [(0, 0), (1, 0), (0, 2)], constant_values=-7),
        id="pad-with-a-value",
    ),
    pytest.param(lambda b, x: b.cast(x, DType.INT32), COUNTED.astype(np.int32), id="cast"),
]


@pytest.mark.parametrize(("operation", "expected"), MOVED)
def test_moves_values(operation: Callable[[GraphBuilder, str], str], expected: AnyArray) -> None:
    b = GraphBuilder(0)
    found = run_one(b, operation(b, b.input(3, 4)), COUNTED)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_pad_without_a_value_adds_real_zero() -> None:
    b = GraphBuilder(0)
    x = b.input(1, 1, 1, scaling=(0.5, 11))
    found = run_one(b, b.pad_image(x, Pads(1, 0, 0, 2)), np.full((1, 1, 1, 1), 3, np.int8))
    assert found[0, :, :, 0].tolist() == [[11, 11, 11], [3, 11, 11]]


def test_pack_serves_every_sample_with_a_constant() -> None:
    b = GraphBuilder(0)
    x = b.input(2, scaling=(0.5, 3))
    constant = b.constant([[7, 8]], scaling=(0.5, 3))
    found = run_one(b, b.pack(x, constant, axis=1), np.array([[1, 2], [3, 4]], np.int8))
    assert found.tolist() == [[[1, 2], [7, 8]], [[3, 4], [7, 8]]]


def test_shape_of_counts_the_samples_at_hand() -> None:
    b = GraphBuilder(0)
    y = b.shape_of(b.input(3, 4))
    found = run_one(b, y, COUNTED)
    assert found.dtype == np.int32
    assert found.tolist() == [2, 3, 4]


@pytest.mark.parametrize("index", [-1, 3])
def test_gather_refuses_an_index_outside_the_axis(index: int) -> None:
    b = GraphBuilder(0)
    x = b.input(3)
    y = b.gather(x, [0, index], axis=1)
    with pytest.raises(InputError, match=rf"op 0 GATHER 'gather': index {index} .* axis of 3"):
        run_one(b, y, np.zeros((1, 3), np.int8))


def test_arg_max_takes_the_first_of_equals() -> None:
    b = GraphBuilder(0)
    y = b.arg_max(b.input(4), axis=1)
    found = run_one(b, y, np.array([[1, 5, 5, 2], [-1, -1, -2, -1]], np.int8))
    assert found.dtype == np.int64
    assert found.tolist() == [1, 0]


def test_cast_cuts_floats_towards_zero() -> None:
    b = GraphBuilder(0)
    y = b.cast(b.input(4, dtype=DType.FLOAT32), DType.INT32)
    found = run_one(b, y, np.array([[1.9, -1.9, 0.5, -0.5]], np.float32))
    assert found.tolist() == [[1, -1, 0, 0]]


@pytest.mark.parametrize(
    ("arithmetic", "expected"),
    [
        (Arithmetic.TFLITE, [11, 12, 9, 8, 127, -128, 127, -128, 10]),
        (Arithmetic.ONNX, [10, 12, 10, 8, 127, -128, 127, -128, 10]),
    ],
)
def test_quantize_rounds_ties_by_the_rule_of_the_runtime(
    arithmetic: Arithmetic, expected: list[int]
) -> None:
    """Beyond the range values saturate; not-a-number is real zero."""
    b = GraphBuilder(0, arithmetic=arithmetic)
    y = b.quantize(b.input(9, dtype=DType.FLOAT32), scaling=(0.5, 10))
    reals = [0.25, 0.75, -0.25, -0.75, 1e30, -1e30, np.inf, -np.inf, np.nan]
    assert run_one(b, y, np.array([reals], np.float32)).tolist() == [expected]


@given(
    st.sampled_from([DType.INT8, DType.UINT8]),
    st.sampled_from([DType.INT8, DType.UINT8]),
    st.floats(2.0**-8, 1.0, width=32),
    st.floats(2.0**-8, 1.0, width=32),
    st.integers(-128, 127),
)
def test_quantize_again_equals_integers(
    dtype: DType, new_dtype: DType, scale: float, new_scale: float, zero: int
) -> None:
    low, high = dtype.code_range
    b = GraphBuilder(0, dtype=dtype)
    x = b.input(256, scaling=(scale, zero + low + 128))
    y = b.quantize(x, scaling=(new_scale, 5), dtype=new_dtype)
    codes = np.arange(low, high + 1).astype(dtype.numpy)
    expected = [
        stored(requantized(int(c) - zero - low - 128, scale / new_scale), b.tensors[y])
        for c in codes
    ]
    assert run_one(b, y, codes[None]).tolist() == [expected]


def test_dequantize_is_rounded_once_to_float32() -> None:
    b = GraphBuilder(0)
    y = b.dequantize(b.input(3, scaling=(0.1, -3)))
    found = run_one(b, y, np.array([[-128, -3, 127]], np.int8))
    scale = float(np.float32(0.1))
    assert found.dtype == np.float32
    assert found.tolist() == [[float(np.float32(scale * n)) for n in (-125, 0, 130)]]


def test_dequantize_takes_a_scale_per_channel() -> None:
    b = GraphBuilder(0)
    x = b.input(2, 2)
    y = b.dequantize(x)
    quantization = Quantization(np.array([0.5, 2.0], np.float32), np.array([0, 1]), axis=1)
    b.tensors[x] = dataclasses.replace(b.tensors[x], quantization=quantization)
    found = run_one(b, y, np.array([[[2, 4], [2, 4]]], np.int8))
    assert found.tolist() == [[[1.0, 2.0], [2.0, 6.0]]]


def test_dequantize_widens_float16() -> None:
    b = GraphBuilder(0)
    x = b.input(2)
    y = b.dequantize(x)
    b.tensors[x] = Tensor(x, DType.FLOAT16, (None, 2))
    found = run_one(b, y, np.array([[0.1, -2.0]], np.float16))
    assert found.tolist() == [[float(np.float16(0.1)), -2.0]]


def picked(position: float, *, align_corners: bool) -> int:
    return half_away(position) if align_corners else int(position // 1)


@pytest.mark.parametrize("size", [(1, 1), (3, 8), (7, 2), (5, 5)])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"align_corners": True}, id="align-corners"),
        pytest.param({"half_pixel_centers": True}, id="half-pixel-centers"),
    ],
)
def test_nearest_resize_picks_cells(size: tuple[int, int], options: dict[str, bool]) -> None:
    b = GraphBuilder(0)
    x = b.input(4, 5, 2)
    y = b.resize_nearest(x, size, **options)
    (values,) = random_inputs(b.build(y), 2).values()
    found = run_one(b, y, values)
    corners = "align_corners" in options
    offset = 0.5 if "half_pixel_centers" in options else 0.0

    def cell(position: int, length: int, new_length: int) -> int:
        steps = (length - 1, new_length - 1) if corners and new_length > 1 else (length, new_length)
        index = picked((position + offset) * steps[0] / steps[1], align_corners=corners)
        return min(max(index, 0), length - 1)

    for row, column in np.ndindex(size):
        expected = values[:, cell(row, 4, size[0]), cell(column, 5, size[1])]
        np.testing.assert_array_equal(found[:, row, column], expected)


@pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8])
@pytest.mark.parametrize(
    "options", [{}, {"align_corners": True}, {"half_pixel_centers": True}], ids=str
)
def test_bilinear_resize_is_within_a_step_of_the_real_function(
    dtype: DType, options: dict[str, bool]
) -> None:
    b = GraphBuilder(0, dtype=dtype)
    x = b.input(4, 5, 1)
    y = b.resize_bilinear(x, (9, 7), **options)
    (values,) = random_inputs(b.build(y), 1).values()
    found = run_one(b, y, values)

    def weights(position: int, length: int, new_length: int) -> tuple[int, int, float]:
        if "align_corners" in options:
            real = position * (length - 1) / (new_length - 1)
        elif "half_pixel_centers" in options:
            real = max((position + 0.5) * length / new_length - 0.5, 0.0)
        else:
            real = position * length / new_length
        lower = min(int(real), length - 1)
        return lower, min(lower + 1, length - 1), min(real - lower, 1.0)

    for row, column in np.ndindex(9, 7):
        top, bottom, down = weights(row, 4, 9)
        left, right, across = weights(column, 5, 7)
        corners = values[0, :, :, 0].astype(float)
        upper = corners[top, left] * (1 - across) + corners[top, right] * across
        lower = corners[bottom, left] * (1 - across) + corners[bottom, right] * across
        exact = upper * (1 - down) + lower * down
        assert abs(found[0, row, column, 0] - exact) <= 0.5 + 255 * 2 * 2.0**-9
