# SPDX-License-Identifier: Apache-2.0
"""Arithmetic that the reference functions of several operations share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from akida_backend.errors import UnsupportedOperationError
from akida_backend.fixed_point import (
    Integers,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    round_half_away,
)
from akida_backend.graph import (
    ONE,
    Activation,
    AnyArray,
    Arithmetic,
    DType,
    Node,
    Pads,
    Size2D,
    Tensor,
)
from akida_backend.reference import Environment

Reals = NDArray[np.float64]
ItemT = TypeVar("ItemT", bound=np.generic)

CODE_TYPES: Final = (DType.INT4, DType.UINT4, DType.INT8, DType.UINT8)
PLAIN_TYPES: Final = (DType.INT32, DType.INT64)
BAND_VALUES: Final = 1 << 26
LARGEST_STEPS: Final = np.float32(2**62)
CHUNK_VALUES: Final = 1 << 19  # of a temporary array, so that it stays near the processor


def runs_in_codes(op: Node, *tensors: Tensor) -> bool:
    """Whether an operation computes on 8-bit codes (else on floats or plain integers).

    Raises:
        UnsupportedOperationError: Neither, or mixed.
    """
    if all(t.dtype in CODE_TYPES and t.is_quantized for t in tensors):
        return True
    if all(t.dtype.is_float or t.dtype in PLAIN_TYPES for t in tensors):
        return False
    raise unsupported_types(op, *tensors)


def unsupported_types(op: Node, *tensors: Tensor) -> UnsupportedOperationError:
    found = " and ".join(
        t.dtype.value if t.is_quantized or t.dtype.is_float else f"{t.dtype.value} without scale"
        for t in tensors
    )
    return UnsupportedOperationError(
        f"{op.location}: no reference arithmetic for tensors of {found}\n"
        "  Quantize the model to int8 or uint8."
    )


def accumulator_type(bound: float) -> np.dtype[np.floating]:
    """The fastest float type that sums integers of total magnitude `bound` exactly.

    Raises:
        ValueError: None does.
    """
    if bound < 2**24:
        return np.dtype(np.float32)
    if bound < 2**53:
        return np.dtype(np.float64)
    raise ValueError(f"accumulators up to {bound} are not exact in float64")


def centred(values: AnyArray, tensor: Tensor, dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
    """Codes minus their per-tensor zero point."""
    assert tensor.quantization is not None
    codes = values.astype(dtype)
    codes -= np.asarray(tensor.quantization.single_zero_point, dtype)
    return codes


def largest_magnitude(tensor: Tensor) -> int:
    """Largest distance of a code from the zero point."""
    assert tensor.quantization is not None
    low, high = tensor.dtype.code_range
    zero = tensor.quantization.zero_point
    return int(np.maximum(np.abs(low - zero), np.abs(high - zero)).max())


def requantize(accumulator: AnyArray, factor: Reals, arithmetic: Arithmetic) -> Integers:
    """Accumulators (integers) times real factors, rounded by the rule of the runtime.

    TFLite: double rounding. ONNX: product in float32, ties to even.
    """
    match arithmetic:
        case Arithmetic.TFLITE | Arithmetic.TFLITE_2_14:
            multiplier, shift = quantize_multiplier(factor)
            return multiply_by_quantized_multiplier(accumulator.astype(np.int64), multiplier, shift)
        case Arithmetic.ONNX:
            with np.errstate(over="ignore"):
                narrow = np.minimum(factor, np.finfo(np.float32).max).astype(np.float32)
                product: AnyArray = accumulator.astype(np.float32) * narrow
            if narrow.max(initial=0) > 1:  # beyond what any sound scales give: saturate
                np.clip(product, -LARGEST_STEPS, LARGEST_STEPS, out=product)
            return np.rint(product).astype(np.int64)


def product_factor(
    a: Tensor, b: Tensor, output: Tensor, precision: type[np.float32] | type[np.float64]
) -> Reals:
    """Scale of a product, formed in `precision`, over the output's scale (in float64)."""
    assert a.quantization is not None
    assert b.quantization is not None
    assert output.quantization is not None
    product = a.quantization.scale.astype(precision) * b.quantization.scale.astype(precision)
    factor: Reals = product.astype(np.float64) / output.quantization.scale.astype(np.float64)
    return factor


def stored(
    values: Integers,
    output: Tensor,
    activation: Activation,
    arithmetic: Arithmetic = Arithmetic.TFLITE,
) -> AnyArray:
    """Codes of `output`: zero point added, clamped to the activation and the type."""
    assert output.quantization is not None
    low, high = code_bounds(output, activation, arithmetic)
    values += output.quantization.single_zero_point
    return np.clip(values, low, high, out=values).astype(output.dtype.numpy)


def one_code_type(*tensors: Tensor) -> bool:
    """Whether all have int8 codes or all have uint8 codes, as onnxruntime's kernels want them."""
    first, *others = (t.dtype for t in tensors)
    return first in (DType.INT8, DType.UINT8) and all(dtype is first for dtype in others)


def code_bounds(
    output: Tensor, activation: Activation, arithmetic: Arithmetic = Arithmetic.TFLITE
) -> tuple[int, int]:
    """Codes a fused activation clamps to.

    Source:
        TFLite ``CalculateActivationRangeQuantized``, kernel_util.cc: float32 division, ties
        away from zero. ONNX QuantizeLinear of the bound: ties to even.
    """
    assert output.quantization is not None
    nearest = np.rint if arithmetic is Arithmetic.ONNX else round_half_away
    low, high = output.dtype.code_range
    scale = output.quantization.scale[:1]
    zero = output.quantization.single_zero_point
    real_low, real_high = activation.real_range

    def code(real: float) -> int:
        with np.errstate(over="ignore"):
            steps = np.clip(np.float32(real) / scale, -LARGEST_STEPS, LARGEST_STEPS)
        return zero + int(nearest(steps)[0])

    if np.isfinite(real_low):
        low = max(low, code(real_low))
    if np.isfinite(real_high):
        high = min(high, code(real_high))
    return low, high


def clamp(values: AnyArray, activation: Activation) -> AnyArray:
    """A fused activation over reals or over plain (not quantized) integers."""
    low, high = activation.real_range
    if np.isfinite(low):
        values = np.maximum(values, values.dtype.type(low))
    if np.isfinite(high):
        values = np.minimum(values, values.dtype.type(high))
    return values


def dequantized(values: AnyArray, tensor: Tensor) -> NDArray[np.float32]:
    """Real values of codes in float32, per tensor or per channel; floats pass.

    Source:
        TFLite ``Dequantize``: the product is formed in float64 and rounded once. For codes
        of up to 24 bits this equals the float32 product of ONNX DequantizeLinear.
    """
    if tensor.dtype.is_float:
        return values.astype(np.float32)
    assert tensor.quantization is not None
    scale, zero = tensor.quantization.scale, tensor.quantization.zero_point
    if tensor.quantization.axis is not None and scale.size > 1:
        shape = [1] * values.ndim
        shape[tensor.quantization.axis] = scale.size
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return (scale.astype(np.float64) * (values.astype(np.int64) - zero)).astype(np.float32)


def quantized(values: NDArray[np.float32], tensor: Tensor, arithmetic: Arithmetic) -> AnyArray:
    """Codes nearest to reals: float32 division, ties away from zero (ONNX: to even).

    Values beyond the range saturate, infinite ones too; not-a-number is real zero. (The kernels
    leave these to the processor from 2**31 steps on.)
    """
    assert tensor.quantization is not None
    low, high = tensor.dtype.code_range
    with np.errstate(over="ignore"):
        ratio = np.nan_to_num(values / np.float32(tensor.quantization.single_scale))
    whole = np.rint(ratio) if arithmetic is Arithmetic.ONNX else round_half_away(ratio)
    codes = whole.astype(np.float64) + tensor.quantization.single_zero_point
    return np.clip(codes, low, high).astype(tensor.dtype.numpy)


def recoded(values: AnyArray, x: Tensor, y: Tensor, arithmetic: Arithmetic) -> AnyArray:
    """Codes of `x` as those of `y`: only ONNX operators that pick values may change the scale."""
    if arithmetic is not Arithmetic.ONNX or same_codes(x, y):
        return values
    return quantized(dequantized(values, x), y, arithmetic)


def same_codes(x: Tensor, y: Tensor) -> bool:
    """Whether equal codes of both stand for equal reals."""
    if x.dtype is not y.dtype or x.quantization is None or y.quantization is None:
        return x.dtype is y.dtype and x.quantization is y.quantization
    a, b = x.quantization, y.quantization
    return np.array_equal(a.scale, b.scale) and np.array_equal(a.zero_point, b.zero_point)


def through_reals(
    env: Environment,
    names: Sequence[str],
    output: Tensor,
    function: Callable[..., AnyArray],
    activation: Activation = Activation.NONE,
) -> AnyArray:
    """An operation on reals in float32 between dequantized inputs and a quantized output.

    This is ONNX's meaning of an operation between DequantizeLinear and QuantizeLinear, and the
    plain meaning of an operation on floats and integers without scale.
    """
    if output.is_quantized and output.dtype in CODE_TYPES:
        reals = clamp(
            function(*(dequantized(env.value(n), env.tensor(n)) for n in names)), activation
        )
        return quantized(reals.astype(np.float32), output, env.arithmetic)
    result = clamp(function(*(env.value(n) for n in names)), activation)
    return result.astype(output.dtype.numpy, copy=False)


def table_lookup(
    values: AnyArray, tensor: Tensor, function: Callable[[Integers], AnyArray]
) -> AnyArray:
    """`function` of 8-bit codes of `tensor`, evaluated once for each code."""
    bytes_ = np.arange(256).astype(np.uint8)
    codes = bytes_.view(tensor.dtype.numpy).astype(np.int64)
    return function(codes)[np.ascontiguousarray(values).view(np.uint8)]


def float_table(
    values: AnyArray, x: Tensor, y: Tensor, function: Callable[[AnyArray], AnyArray]
) -> AnyArray:
    """A float32 function of 8-bit codes as TFLite tabulates it.

    Source:
        TFLite ``LUTPopulate``: the output scale is inverted once in float32.
    """
    assert x.quantization is not None
    assert y.quantization is not None
    scale_in, inverse = x.quantization.scale[0], np.float32(1) / y.quantization.scale[0]
    zero_in, zero_out = x.quantization.single_zero_point, y.quantization.single_zero_point

    def entries(codes: Integers) -> AnyArray:
        reals = scale_in * (codes - zero_in).astype(np.float32)
        whole = round_half_away(function(reals).astype(np.float32) * inverse).astype(np.int64)
        return np.clip(whole + zero_out, *y.dtype.code_range).astype(y.dtype.numpy)

    return table_lookup(values, x, entries)


def padded(values: NDArray[ItemT], pads: Pads, fill: float) -> NDArray[ItemT]:
    """NHWC maps with a border; pads that are negative cut instead."""
    top, bottom, left, right = pads.top, pads.bottom, pads.left, pads.right
    _, height, width, _ = values.shape
    values = values[
        :, max(0, -top) : height + min(0, bottom), max(0, -left) : width + min(0, right)
    ]
    amounts = ((0, 0), (max(0, top), max(0, bottom)), (max(0, left), max(0, right)), (0, 0))
    if not any(before or after for before, after in amounts):
        return values
    return np.pad(values, amounts, constant_values=fill)


def output_size(map_size: Size2D, window: Size2D, stride: Size2D, dilation: Size2D) -> Size2D:
    """Positions of a window on an already padded map."""
    return Size2D(
        (map_size.height - dilation.height * (window.height - 1) - 1) // stride.height + 1,
        (map_size.width - dilation.width * (window.width - 1) - 1) // stride.width + 1,
    )


def window_reduce(
    combine: np.ufunc, values: NDArray[ItemT], window: Size2D, stride: Size2D
) -> NDArray[ItemT]:
    """Padded maps reduced over sliding windows, one axis after the other."""
    rows = (view for _, _, view in taps(values, Size2D(window.height, 1), Size2D(stride.height, 1)))
    values = reduce(combine, rows)
    columns = (
        view for _, _, view in taps(values, Size2D(1, window.width), Size2D(1, stride.width))
    )
    return np.array(reduce(combine, columns))


def taps(
    values: NDArray[ItemT], window: Size2D, stride: Size2D, dilation: Size2D = ONE
) -> Iterator[tuple[int, int, NDArray[ItemT]]]:
    """For each cell of the window, the values it meets: (row, column, view of the map)."""
    _, height, width, _ = values.shape
    size = output_size(Size2D(height, width), window, stride, dilation)
    for row in range(window.height):
        top = row * dilation.height
        rows = slice(top, top + stride.height * (size.height - 1) + 1, stride.height)
        for column in range(window.width):
            left = column * dilation.width
            columns = slice(left, left + stride.width * (size.width - 1) + 1, stride.width)
            yield row, column, values[:, rows, columns]


def row_bands(
    values: NDArray[ItemT], window: Size2D, stride: Size2D, dilation: Size2D, values_per_window: int
) -> Iterator[NDArray[ItemT]]:
    """Padded maps in bands of rows whose windows, written out, take no more than `BAND_VALUES`.

    The windows of all bands are those of the map, in order.
    """
    samples, height, width, _ = values.shape
    size = output_size(Size2D(height, width), window, stride, dilation)
    rows = max(1, BAND_VALUES // max(1, samples * size.width * values_per_window))
    reach = dilation.height * (window.height - 1) + 1
    for first in range(0, size.height, rows):
        last = min(first + rows, size.height) - 1
        yield values[:, first * stride.height : last * stride.height + reach]


def chunks(samples: int, values_per_sample: int) -> Iterator[slice]:
    """Slices of the batch whose temporaries stay small."""
    step = max(1, CHUNK_VALUES // max(1, values_per_sample))
    for begin in range(0, max(1, samples), step):  # one empty slice of an empty batch
        yield slice(begin, begin + step)
