# SPDX-License-Identifier: Apache-2.0
"""Each operator on codes equals onnxruntime's kernel of it, bit for bit, on any scales."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import onnx_twins
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from akida_backend import onnx_kernels
from akida_backend.arithmetic import dequantized, quantized
from akida_backend.graph import AnyArray, Arithmetic, DType, Pads, Quantization, Size2D, Tensor

CODES = pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8], ids=lambda t: t.value)
SEEDS = st.integers(0, 2**32 - 1)
EXAMPLES = settings(max_examples=12)
Function = Callable[[AnyArray, Tensor, Tensor], AnyArray]


class Codes:
    """Random tensors, every third with scales that are powers of two, which make ties common."""

    def __init__(self, seed: int, dtype: DType) -> None:
        self.random = np.random.default_rng(seed)
        self.dtype = dtype
        self.ties = seed % 3 == 0

    def tensor(self, scale: float) -> Tensor:
        low, high = self.dtype.code_range
        scale *= float(self.random.uniform(0.3, 3))
        if self.ties:
            scale = float(np.exp2(np.rint(np.log2(scale))))
        quantization = Quantization.per_tensor(scale, int(self.random.integers(low, high + 1)))
        return Tensor("x", self.dtype, (None,), quantization)

    def values(self, *shape: int) -> AnyArray:
        low, high = self.dtype.code_range
        return self.random.integers(low, high + 1, shape).astype(self.dtype.numpy)


def in_onnxruntime(
    kind: str,
    operands: list[tuple[AnyArray, Tensor]],
    output: Tensor,
    **attributes: Any,  # noqa: ANN401
) -> AnyArray:
    """A com.microsoft operator that reads values with scales and then the output's scale."""
    element = helper.np_dtype_to_tensor_dtype(output.dtype.numpy)
    names: list[str] = []
    constants: list[onnx.TensorProto] = []
    for number, tensor in enumerate([*(t for _, t in operands), output]):
        if number < len(operands):
            names.append(f"x{number}")
        assert tensor.quantization is not None
        zero = np.array(tensor.quantization.single_zero_point, tensor.dtype.numpy)
        for name, data in ((f"s{number}", tensor.quantization.scale[0]), (f"z{number}", zero)):
            names.append(name)
            constants.append(numpy_helper.from_array(np.array(data), name))
    node = helper.make_node(kind, names, ["y"], domain="com.microsoft", **attributes)
    entries = [
        helper.make_tensor_value_info(f"x{number}", element, values.shape)
        for number, (values, _) in enumerate(operands)
    ]
    exits = [helper.make_tensor_value_info("y", element, None)]
    model = helper.make_model(
        helper.make_graph([node], "g", entries, exits, constants),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
    feeds = {f"x{number}": values for number, (values, _) in enumerate(operands)}
    return onnx_twins.through_onnxruntime(model.SerializeToString(), feeds)["y"]


def channels_first(values: AnyArray) -> AnyArray:
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def channels_last(values: AnyArray) -> AnyArray:
    return np.ascontiguousarray(values.transpose(0, 2, 3, 1))


SHAPES = {
    "same": ((6, 5, 7, 3), (6, 5, 7, 3)),
    "channels": ((6, 5, 7, 3), (5, 1, 1)),
    "to-channels": ((5, 1, 1), (6, 5, 7, 3)),
    "columns": ((6, 5, 7, 3), (3,)),
    "scalar": ((6, 5, 7, 3), (1,)),
    "to-scalar": ((1,), (6, 5, 7, 3)),
    "crossed": ((6, 5, 1, 3), (6, 1, 7, 3)),
}


@CODES
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    ("kind", "function"),
    [("QLinearAdd", onnx_kernels.add), ("QLinearMul", onnx_kernels.multiply)],
)
@EXAMPLES
@given(seed=SEEDS)
def test_sums_and_products(
    kind: str,
    function: Callable[..., AnyArray],
    shapes: tuple[tuple[int, ...], ...],
    dtype: DType,
    seed: int,
) -> None:
    codes = Codes(seed, dtype)
    x, y = (codes.tensor(0.05) for _ in range(2))
    output = codes.tensor(0.06 if kind == "QLinearAdd" else 0.3)
    a, b = (codes.values(*shape) for shape in shapes)
    found = in_onnxruntime(kind, [(a, x), (b, y)], output)
    # The kernels see the file's layout; the reference's images are channels last.
    a, b = (channels_last(v.reshape((1,) * (4 - v.ndim) + v.shape)) for v in (a, b))
    np.testing.assert_array_equal(channels_first(function(a, b, (x, y), output)), found)


@CODES
@EXAMPLES
@given(seed=SEEDS, height=st.integers(1, 9), width=st.integers(1, 9))
def test_global_average(dtype: DType, seed: int, height: int, width: int) -> None:
    codes = Codes(seed, dtype)
    x, output = codes.tensor(0.05), codes.tensor(0.02)
    values = codes.values(3, 11, height, width)
    found = in_onnxruntime("QLinearGlobalAveragePool", [(values, x)], output, channels_last=0)
    mean = onnx_kernels.global_average(channels_last(values), x, output, (1, 2))
    np.testing.assert_array_equal(channels_first(mean), found)


@CODES
@pytest.mark.parametrize(
    ("window", "stride", "pads"),
    [
        pytest.param(Size2D(2, 2), Size2D(2, 2), Pads(), id="blocks"),
        pytest.param(Size2D(3, 2), Size2D(2, 1), Pads(1, 1, 1, 0), id="border"),
        pytest.param(Size2D(6, 7), Size2D(1, 1), Pads(), id="all"),
        pytest.param(Size2D(6, 7), Size2D(1, 1), Pads(2, 0, 1, 1), id="all-and-border"),
    ],
)
@EXAMPLES
@given(seed=SEEDS)
def test_window_average(
    window: Size2D, stride: Size2D, pads: Pads, dtype: DType, seed: int
) -> None:
    codes = Codes(seed, dtype)
    x, output = codes.tensor(0.05), codes.tensor(0.04)
    values = codes.values(3, 5, 6, 7)
    found = in_onnxruntime(
        "QLinearAveragePool",
        [(values, x)],
        output,
        kernel_shape=[window.height, window.width],
        strides=[stride.height, stride.width],
        pads=[pads.top, pads.left, pads.bottom, pads.right],
    )
    mean = onnx_kernels.window_average(channels_last(values), x, output, window, stride, pads)
    np.testing.assert_array_equal(channels_first(mean), found)


@CODES
@EXAMPLES
@given(seed=SEEDS)
def test_logistic_and_leaky_relu(dtype: DType, seed: int) -> None:
    codes = Codes(seed, dtype)
    x, output = codes.tensor(0.06), codes.tensor(0.005)
    low, high = dtype.code_range
    values = np.arange(low, high + 1).astype(dtype.numpy)
    reals = dequantized(values, x)
    found = in_onnxruntime("QLinearSigmoid", [(values, x)], output)
    expected = quantized(onnx_kernels.logistic(reals), output, Arithmetic.ONNX)
    np.testing.assert_array_equal(expected, found)
    found = in_onnxruntime("QLinearLeakyRelu", [(values, x)], output, alpha=0.1)
    sloped = np.where(reals >= 0, reals, np.float32(0.1) * reals)
    np.testing.assert_array_equal(quantized(sloped, output, Arithmetic.ONNX), found)


@CODES
@pytest.mark.parametrize("length", [2, 10, 1000])
@EXAMPLES
@given(seed=SEEDS, steps=st.sampled_from([256.0, 255.0, 200.3, 100.0]))
def test_softmax(length: int, dtype: DType, seed: int, steps: float) -> None:
    if dtype is DType.INT8 and not onnx_twins.has_corrected_kernels():
        pytest.skip("this onnxruntime lets int8 codes wrap round")
    codes = Codes(seed, dtype)
    x = codes.tensor(0.06)
    low, _ = dtype.code_range
    output = Tensor("y", dtype, (None,), Quantization.per_tensor(1 / steps, low + seed % 40))
    values = codes.values(20, length)
    found = in_onnxruntime("QLinearSoftmax", [(values, x)], output, axis=1, opset=13)
    np.testing.assert_array_equal(onnx_kernels.softmax(values, x, output, -1), found)


@CODES
def test_softmax_of_a_lone_value_is_one(dtype: DType) -> None:
    low, high = dtype.code_range
    x = Tensor("x", dtype, (None,), Quantization.per_tensor(0.1, 3))
    y = Tensor("y", dtype, (None,), Quantization.per_tensor(1 / 256, low))
    codes = onnx_kernels.softmax(np.array([[low], [high]], dtype.numpy), x, y, -1)
    np.testing.assert_array_equal(codes, high)


@CODES
def test_softmax_on_a_scale_without_an_inverse_saturates(dtype: DType) -> None:
    low, high = dtype.code_range
    x = Tensor("x", dtype, (None,), Quantization.per_tensor(0.1, 3))
    y = Tensor("y", dtype, (None,), Quantization.per_tensor(1e-45, low))
    codes = onnx_kernels.softmax(np.array([[low, high]], dtype.numpy), x, y, -1)
    np.testing.assert_array_equal(codes, [[high, high]])


@pytest.mark.parametrize(
    ("kind", "function"), [("Sigmoid", onnx_kernels.logistic), ("Tanh", onnx_kernels.tanh)]
)
def test_approximations_equal_the_float_kernels(
    kind: str, function: Callable[[AnyArray], AnyArray]
) -> None:
    values = np.linspace(-25, 25, 200_001, dtype=np.float32)
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, values.shape) for n in "xy"]
    body = helper.make_graph([helper.make_node(kind, ["x"], ["y"])], "g", info[:1], info[1:])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    found = onnx_twins.through_onnxruntime(model.SerializeToString(), {"x": values})["y"]
    np.testing.assert_array_equal(function(values), found)


@given(
    st.lists(
        st.tuples(*[st.floats(width=32, min_value=-(2.0**30), max_value=2.0**30)] * 3),
        min_size=1,
        max_size=50,
    )
)
def test_multiply_add_rounds_the_exact_sum_once(rows: list[tuple[float, float, float]]) -> None:
    a, b, c = (np.array(column, np.float32) for column in zip(*rows, strict=True))
    found = onnx_kernels.multiply_add(a, b, c)
    for (x, y, z), value in zip(rows, found, strict=True):
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        gap = abs(Fraction(float(value)) - exact)
        for direction in (-np.inf, np.inf):
            other = float(np.nextafter(value, np.float32(direction)))
            assert gap <= abs(Fraction(other) - exact)


def test_multiply_add_meets_no_false_tie() -> None:
    """Rounded to float64 and then to float32 this sum would be 1: the exact one is above a tie."""
    a, b, c = np.float32(1 + 2**-12), np.float32(2.0**-24 * (1 - 2**-12)), np.float32(1)
    tiny = np.float32(2.0**-24 * (1 + 2**-23))
    assert onnx_kernels.multiply_add(tiny, np.float32(1), c) == np.nextafter(c, np.float32(2))
    assert onnx_kernels.multiply_add(a, b, c) == c
    assert onnx_kernels.multiply_add([1.0, 2.0], [3.0, 4.0], 5.0).tolist() == [8.0, 13.0]
