# SPDX-License-Identifier: Apache-2.0
"""Host operations of the native library against the reference functions of `ops`."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend import host_kernels
from akida_backend.engine import native_library
from akida_backend.graph import AnyArray, Arithmetic, DType, Graph
from akida_backend.host_kernels import LARGEST_MOVE, HostKernel, host_kernel
from akida_backend.reference import run_graph
from builders import GraphBuilder

pytestmark = pytest.mark.usefixtures("runnable_sets")

BYTES = (DType.INT8, DType.UINT8)
SHORT = (*BYTES, DType.INT16)
ARITHMETICS = (Arithmetic.TFLITE, Arithmetic.ONNX)
COUNTS = (7, 300)

scales = st.floats(2.0**-20, 2.0**8, width=32)
seeds = st.integers(0, 2**32 - 1)


def kernel_of(graph: Graph) -> HostKernel:
    found = host_kernel(graph.operations, graph)
    assert found is not None
    kernel, count = found
    assert count == len(graph.operations)
    return kernel


def check(graph: Graph, values: AnyArray) -> AnyArray:
    """Equal to the reference, bit for bit; returns what it is."""
    (source,), (sink,) = graph.inputs, graph.outputs
    expected = run_graph(graph, {source: values})[sink]
    found = kernel_of(graph)(values)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()
    return found


def many_codes(dtype: DType) -> AnyArray:
    """All of 8 bits; of more the ends and some between."""
    if dtype in BYTES:
        low, high = dtype.code_range
        return np.arange(low, high + 1).astype(dtype.numpy)
    limits = np.iinfo(np.int32 if dtype is DType.INT32 else np.int16)
    some = np.random.default_rng(3).integers(limits.min, limits.max, 700, endpoint=True)
    return np.append(some, [limits.min, limits.max]).astype(dtype.numpy)


@st.composite
def zero_points(draw: st.DrawFn, dtype: DType) -> int:
    return draw(st.integers(*dtype.code_range))


def hard_floats(scale: float, seed: int, count: int) -> AnyArray:
    """Multiples of half a step and their neighbours, large and special values."""
    generator = np.random.default_rng(seed)
    halves = generator.integers(-80_000, 80_000, count) * np.float32(0.5) * np.float32(scale)
    near = np.nextafter(halves, generator.choice([-np.inf, np.inf], count).astype(np.float32))
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-45, 2.0**31, -(2.0**40)]
    values = np.concatenate([halves, near, generator.choice(special, count)])
    return generator.permutation(values)[:count].astype(np.float32)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("count", COUNTS)
@settings(max_examples=20)
@given(scale=scales, seed=seeds, data=st.data())
def test_quantize_is_the_reference_s(
    count: int, dtype: DType, arithmetic: Arithmetic, scale: float, seed: int, data: st.DataObject
) -> None:
    b = GraphBuilder(arithmetic=arithmetic)
    x = b.input(count, dtype=DType.FLOAT32)
    y = b.quantize(x, scaling=(scale, data.draw(zero_points(dtype))), dtype=dtype)
    check(b.build(y), hard_floats(scale, seed, 2 * count).reshape(2, count))


@pytest.mark.parametrize("dtype", [*SHORT, DType.INT32])
@settings(max_examples=20)
@given(scale=scales, data=st.data())
def test_dequantize_is_the_reference_s(dtype: DType, scale: float, data: st.DataObject) -> None:
    codes = many_codes(dtype)
    b = GraphBuilder()
    x = b.input(1, scaling=(scale, data.draw(zero_points(dtype))), dtype=dtype)
    check(b.build(b.dequantize(x)), codes.reshape(-1, 1))


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("to", SHORT)
@pytest.mark.parametrize("dtype", SHORT)
@settings(max_examples=20)
@given(first=scales, second=scales, data=st.data())
def test_requantize_is_the_reference_s(
    dtype: DType,
    to: DType,
    arithmetic: Arithmetic,
    first: float,
    second: float,
    data: st.DataObject,
) -> None:
    b = GraphBuilder(arithmetic=arithmetic)
    x = b.input(1, scaling=(first, data.draw(zero_points(dtype))), dtype=dtype)
    y = b.quantize(x, scaling=(second, data.draw(zero_points(to))), dtype=to)
    codes = many_codes(dtype).reshape(-1, 1)
    whole = check(b.build(y), codes)
    assert np.array_equal(kernel_of(b.build(y))(codes[:100]), whole[:100])  # without a table


@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("length", [1, 2, 10, 255, 256, 1001, 4095])
@settings(max_examples=20)
@given(scale=st.floats(2.0**-15, 8.0, width=32), beta=st.floats(0.1, 4.0), seed=seeds)
def test_softmax_is_the_reference_s(
    length: int, dtype: DType, scale: float, beta: float, seed: int
) -> None:
    b = GraphBuilder(dtype=dtype)
    y = b.softmax(b.input(length, scaling=(scale, 3)), beta=beta)
    generator = np.random.default_rng(seed)
    low, high = dtype.code_range
    spread = generator.integers(1, 257)
    codes = generator.integers(high + 1 - spread, high + 1, (3, length)).astype(dtype.numpy)
    codes[0] = low  # all alike
    graph = b.build(y)
    if host_kernel(graph.operations, graph) is None:
        assert scale * beta < 2.0**-26  # beneath the fixed point
        return
    check(graph, codes)


@pytest.mark.parametrize("dtype", [DType.INT8, DType.INT16, DType.FLOAT32])
@pytest.mark.parametrize(
    ("shape", "permutation"),
    [
        pytest.param((5, 7, 3), (0, 3, 1, 2), id="NHWC to NCHW"),
        pytest.param((3, 5, 7), (0, 2, 3, 1), id="NCHW to NHWC"),
        pytest.param((70, 130), (0, 2, 1), id="matrix"),
        pytest.param((4, 3, 6, 5), (0, 1, 3, 4, 2), id="inner axes"),
        pytest.param((4, 3, 6, 5), (0, 2, 1, 3, 4), id="whole rows"),
        pytest.param((4, 3, 6, 5), (0, 4, 2, 1, 3), id="any order"),
    ],
)
def test_transpose_is_the_reference_s(
    shape: tuple[int, ...], permutation: tuple[int, ...], dtype: DType
) -> None:
    b = GraphBuilder()
    y = b.transpose(b.input(*shape, dtype=dtype), *permutation)
    values = np.random.default_rng(1).integers(-100, 100, (2, *shape)).astype(dtype.numpy)
    check(b.build(y), values)


def test_strided_values_are_read_in_their_order() -> None:
    b = GraphBuilder()
    y = b.quantize(b.input(6, dtype=DType.FLOAT32), scaling=(0.5, 1))
    check(b.build(y), np.linspace(-9, 9, 24, dtype=np.float32).reshape(6, 4).T)


def test_values_that_may_not_be_written_are_read() -> None:
    b = GraphBuilder()
    values = np.linspace(-9, 9, 24, dtype=np.float32).reshape(4, 6)
    values.flags.writeable = False
    check(b.build(b.quantize(b.input(6, dtype=DType.FLOAT32), scaling=(0.5, 1))), values)


def test_no_samples_give_no_values() -> None:
    b = GraphBuilder()
    y = b.quantize(b.input(6, dtype=DType.FLOAT32), scaling=(0.5, 1))
    assert kernel_of(b.build(y))(np.empty((0, 6), np.float32)).shape == (0, 6)


def test_a_reshape_copies_nothing() -> None:
    b = GraphBuilder()
    graph = b.build(b.reshape(b.input(2, 3, 4), 24))
    values = np.arange(48, dtype=np.int8).reshape(2, 2, 3, 4)
    assert np.shares_memory(check(graph, values), values)


@pytest.mark.parametrize("value", [None, 7])
@pytest.mark.parametrize("dtype", BYTES)
def test_pad_is_the_reference_s(dtype: DType, value: int | None) -> None:
    b = GraphBuilder(dtype=dtype)
    x = b.input(4, 5, 3)
    values = np.random.default_rng(1).integers(0, 127, (2, 4, 5, 3)).astype(dtype.numpy)
    check(b.build(b.pad(x, [(0, 0), (1, 2), (0, 1), (0, 0)], value=value)), values)


@st.composite
def movements(draw: st.DrawFn, dtype: DType) -> Graph:
    """Borders of one value, reshapes and transpositions, one behind the other."""
    b = GraphBuilder(dtype=dtype)
    x = b.input(*draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    for _ in range(draw(st.integers(1, 5))):
        _, *sides = b.shape(x)
        match draw(st.sampled_from(["pad", "reshape", "transpose"])):
            case "pad":
                border = st.tuples(st.integers(0, 2), st.integers(0, 2))
                x = b.pad(x, [(0, 0), *(draw(border) for _ in sides)], value=5)
            case "transpose":
                x = b.transpose(x, 0, *draw(st.permutations(range(1, len(sides) + 1))))
            case _:
                x = b.reshape(x, *draw(factors(math.prod(side or 1 for side in sides))))
        if b.tensors[x].values_per_sample > 2000:
            break
    return b.build(x)


@st.composite
def factors(draw: st.DrawFn, number: int) -> list[int]:
    found: list[int] = []
    while number > 1 and len(found) < 4:
        found.append(draw(st.sampled_from([n for n in range(1, number + 1) if number % n == 0])))
        number //= found[-1]
    return draw(st.permutations([*found, number]))


@pytest.mark.parametrize("dtype", [*SHORT, DType.FLOAT32])
@settings(max_examples=100)
@given(samples=st.integers(0, 3), data=st.data())
def test_movements_behind_each_other_are_one(
    dtype: DType, samples: int, data: st.DataObject
) -> None:
    graph = data.draw(movements(dtype))
    shape = [samples, *(side or 1 for side in graph.tensors[graph.inputs[0]].shape[1:])]
    codes = np.random.default_rng(1).integers(0, 128, shape)
    check(graph, codes.astype(dtype.numpy))


def test_a_fixed_batch_is_moved_too() -> None:
    b = GraphBuilder(1, batch=2)
    x = b.pad(b.transpose(b.input(3, 5), 2, 0, 1), [(1, 0), (0, 1), (0, 0)])
    values = np.random.default_rng(1).integers(-128, 128, (2, 3, 5)).astype(np.int8)
    check(b.build(b.reshape(x, 9)), values)


def test_a_movement_ends_where_others_read_or_borders_differ() -> None:
    b = GraphBuilder()
    first = b.pad(b.input(2, 3), [(0, 0), (0, 1), (0, 0)], value=1)
    second = b.transpose(first, 0, 2, 1)
    third = b.pad(second, [(0, 0), (0, 1), (0, 0)], value=2)
    fourth = b.transpose(third, 0, 2, 1)
    last = b.transpose(fourth, 0, 2, 1)
    graph = b.build(fourth, last)
    counts = []
    rest = graph.operations
    while rest:
        found = host_kernel(rest, graph)
        assert found is not None
        counts.append(found[1])
        rest = rest[found[1] :]
    assert counts == [2, 2, 1]


def test_values_of_another_shape_are_refused() -> None:
    b = GraphBuilder()
    graph = b.build(b.transpose(b.input(2, 3), 0, 2, 1))
    with pytest.raises(ValueError, match=r"values of shape \(1, 5\), \(None, 2, 3\) expected"):
        kernel_of(graph)(np.zeros((1, 5), np.int8))


class Moves(ctypes.Structure):
    """As in akida_backend.h."""

    _fields_ = (
        ("from_bytes", ctypes.c_size_t),
        ("rows", ctypes.c_size_t),
        ("offsets", ctypes.POINTER(ctypes.c_int32)),
        ("runs", ctypes.POINTER(ctypes.c_uint32)),
        ("stride", ctypes.c_size_t),
        ("run_bytes", ctypes.c_size_t),
        ("fill", ctypes.c_char_p),
    )


def gathered(
    offsets: list[int],
    runs: list[int] | None,
    *,
    stride: int = 1,
    run_bytes: int = 1,
    fill: bytes | None = None,
    from_bytes: int = 8,
) -> bytes | str:
    """What becomes of ``abcdefgh``, or why nothing does."""
    library = native_library()
    assert library is not None
    rows = (ctypes.c_int32 * len(offsets))(*offsets)
    counts = None if runs is None else (ctypes.c_uint32 * len(runs))(*runs)
    moves = Moves(from_bytes, len(offsets), rows, counts, stride, run_bytes, fill)
    target = ctypes.create_string_buffer(32)
    failed = library["akida_backend_gather"](
        b"abcdefgh", target, ctypes.c_size_t(1), ctypes.byref(moves)
    )
    if failed:
        text: bytes = library.akida_backend_error()
        return text.decode()
    return target.value


def test_rows_are_read_as_the_interface_says() -> None:
    assert gathered([6, 0], None, run_bytes=2) == b"ghab"
    assert gathered([0, 1], [4, 4], stride=2) == b"acegbdfh"
    assert gathered([-1, 4, -1], [1, 4, 2], fill=b"-") == b"-efgh--"
    assert gathered([], []) == b""


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (lambda: gathered([8], None), "reads beyond a sample"),
        (lambda: gathered([7], None, run_bytes=2), "reads beyond a sample"),
        (lambda: gathered([0], [5], stride=2), "reads beyond a sample"),
        (lambda: gathered([0], [2**32 - 1], stride=2**31 - 1), "reads beyond a sample"),
        (lambda: gathered([0, 0], [1, 0]), "rows without values"),
        (lambda: gathered([0], None, run_bytes=0), "rows without values"),
        (lambda: gathered([-1], None), "nothing to fill with"),
        (lambda: gathered([0], None, from_bytes=2**31), "samples too large"),
        (lambda: gathered([0], None, stride=2**63), "samples too large"),
        (lambda: gathered([-1], [2**32 - 1], fill=b"-"), "samples too large"),
    ],
)
def test_moves_that_cannot_be_are_refused(found: Callable[[], bytes | str], expected: str) -> None:
    assert found() == f"gather: {expected}"


def test_values_of_another_type_are_refused() -> None:
    b = GraphBuilder()
    graph = b.build(b.quantize(b.input(6, dtype=DType.FLOAT32), scaling=(0.5, 1)))
    with pytest.raises(TypeError, match="values of float64, float32 expected"):
        kernel_of(graph)(np.zeros((1, 6)))


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda b: b.logistic(b.input(4)), id="logistic"),
        pytest.param(lambda b: b.softmax(b.input(4096)), id="softmax of 4096"),
        pytest.param(lambda b: b.pad(b.input(4), [(0, 0), (-1, 0)]), id="cut off"),
        pytest.param(lambda b: b.pad(b.input(4), [(0, 0), (0, LARGEST_MOVE)]), id="too large"),
    ],
)
def test_other_forms_are_left_to_the_reference(build: Callable[[GraphBuilder], str]) -> None:
    b = GraphBuilder()
    graph = b.build(build(b))
    assert host_kernel(graph.operations, graph) is None


def test_softmax_in_float_arithmetic_is_left_to_the_reference() -> None:
    b = GraphBuilder(arithmetic=Arithmetic.ONNX)
    graph = b.build(b.softmax(b.input(4)))
    assert host_kernel(graph.operations, graph) is None


def test_without_a_library_there_is_only_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    b = GraphBuilder()
    graph = b.build(b.softmax(b.input(4)))
    assert host_kernel(graph.operations, graph) is not None
    monkeypatch.setattr(host_kernels, "_library", lambda: None)
    assert host_kernel(graph.operations, graph) is None
