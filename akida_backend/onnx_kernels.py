# SPDX-License-Identifier: Apache-2.0
"""What onnxruntime's CPU kernels on 8-bit codes compute, bit for bit.

These are the operators of the QOperator form, into which onnxruntime also fuses the QDQ form.
`Arithmetic.ONNX` means them wherever there is one; what they leave in float32 (a sum of window
cells, a polynomial) is computed here in the same order and with the same fused multiplications.

Source:
    onnxruntime 1.31: MLAS ``qladd_avx2``, ``qlmul``, ``qlgavgpool``, ``logistic``, ``tanh``;
    contrib_ops ``qlinear_pool``, ``qlinear_softmax``, ``qlinear_lookup_table``. x86-64 with FMA;
    processors without it round once more, which moves a code where a sum lies next to a tie.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from akida_backend.arithmetic import padded, taps, window_reduce
from akida_backend.graph import NO_PADS, AnyArray, Pads, Quantization, Size2D, Tensor

Float32s = NDArray[np.float32]

_TANH_LIMIT: Final = np.float32(9)
_TANH_ODD: Final = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_TANH_EVEN: Final = (
    1.19825839466702e-06,
    1.18534705686654e-04,
    2.26843463243900e-03,
    4.89352518554385e-03,
)
_LOGISTIC_LIMIT: Final = np.float32(18)
_LOGISTIC_ODD: Final = (
    4.37031012579801e-11,
    1.15627324459942e-07,
    6.08574864600143e-05,
    8.51377133304701e-03,
    2.48287947061529e-01,
)
_LOGISTIC_EVEN: Final = (
    6.10247389755681e-13,
    5.76102136993427e-09,
    6.29106785017040e-06,
    1.70198817374094e-03,
    1.16817656904453e-01,
    9.93151921023180e-01,
)
_SOFTMAX_RESERVED: Final = 5.0  # natural logarithms below the largest float32
_ONNX_INNER_AXES: Final = (2, 1, 3, 0)  # of NHWC, as NCHW has them from the inside out


def multiply_add(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Float32s:
    """``a * b + c`` of float32 values, rounded once.

    The product is exact in float64. Its sum is rounded to odd there (the last bit records that
    something was lost), so that rounding to float32 cannot meet a false tie.
    """
    product = np.multiply(a, b, dtype=np.float64)
    addend = np.asarray(c, np.float64)
    total = np.atleast_1d(product + addend)
    back = total - product
    lost = (product - (total - back)) + (addend - back)
    even = total.view(np.int64) & 1 == 0
    toward = np.nextafter(total, np.copysign(np.inf, lost))
    rounded = np.where((lost != 0) & even, toward, total).astype(np.float32)
    return rounded.reshape(np.shape(product + addend))


def add(a: AnyArray, b: AnyArray, tensors: tuple[Tensor, Tensor], output: Tensor) -> AnyArray:
    """Codes of the sum: two fused products on a constant, ties to even behind the zero point."""
    first, second = (a, tensors[0]), (b, tensors[1])
    if _is_held(a, b):
        first, second = second, first
    target = _quantization(output)
    ratios, zeros = [], []
    # Ratios beyond float32 are infinite; what has no value then is the zero point's code.
    with np.errstate(over="ignore", invalid="ignore"):
        for _, tensor in (first, second):
            ratios.append(_quantization(tensor).scale[0] / target.scale[0])
            zeros.append(np.float32(_quantization(tensor).single_zero_point))
        lifted = multiply_add(ratios[0], zeros[0], ratios[1] * zeros[1])
        fixed = np.float32(target.single_zero_point) - lifted
        total = multiply_add(second[0], ratios[1], fixed)
        codes = multiply_add(first[0], ratios[0], total)
    return _codes(np.where(np.isnan(codes), target.single_zero_point, codes), output)


def _is_held(a: AnyArray, b: AnyArray) -> bool:
    """Whether one value of `a` meets many of `b` along the innermost axis: operands change places.

    The innermost axis is that of the file, where images are NCHW.
    """
    rank = max(a.ndim, b.ndim)
    shapes = [(1,) * (rank - x.ndim) + x.shape for x in (a, b)]
    axes = _ONNX_INNER_AXES if rank == len(_ONNX_INNER_AXES) else range(rank - 1, -1, -1)
    long = [axis for axis in axes if shapes[0][axis] != 1 or shapes[1][axis] != 1]
    return bool(long) and shapes[0][long[0]] == 1


def multiply(a: AnyArray, b: AnyArray, tensors: tuple[Tensor, Tensor], output: Tensor) -> AnyArray:
    """Codes of the product: exact integers, one float32 factor, ties to even behind the zero."""
    x, y, target = (_quantization(t) for t in (*tensors, output))
    centred = (a.astype(np.int64) - x.single_zero_point) * (
        b.astype(np.int64) - y.single_zero_point
    )
    factor = x.scale[0] * y.scale[0] / target.scale[0]
    zero = np.float32(target.single_zero_point)
    return _codes(centred.astype(np.float32) * factor + zero, output)


def global_average(values: AnyArray, x: Tensor, output: Tensor, axes: tuple[int, ...]) -> AnyArray:
    """Codes of the mean over `axes`, which stay with length one."""
    source, target = _quantization(x), _quantization(output)
    count = int(np.prod([values.shape[axis] for axis in axes]))
    total: AnyArray = np.sum(values, axis=axes, keepdims=True, dtype=np.int64)
    factor = source.scale[0] / (target.scale[0] * np.float32(count))
    scaled = (total.astype(np.int64) - count * source.single_zero_point).astype(np.float32) * factor
    codes: AnyArray = np.rint(scaled) + np.float32(target.single_zero_point)
    return np.clip(codes, *output.dtype.code_range).astype(output.dtype.numpy)


def window_average(
    values: AnyArray, x: Tensor, output: Tensor, window: Size2D, stride: Size2D, pads: Pads
) -> AnyArray:
    """Codes of the mean of each window over the cells inside the map: a float32 sum, row by row.

    One window as large as the map is a global average.
    """
    _, height, width, _ = values.shape
    if window == Size2D(height, width) and pads == NO_PADS:
        return global_average(values, x, output, (1, 2))
    source, target = _quantization(x), _quantization(output)
    reals = (values.astype(np.int32) - source.single_zero_point).astype(np.float32)
    total, count = window_sums(reals * source.scale[0], window, stride, pads)
    mean = total / count
    return _codes(mean / target.scale[0] + np.float32(target.single_zero_point), output)


def window_sums(
    reals: Float32s, window: Size2D, stride: Size2D, pads: Pads
) -> tuple[Float32s, Float32s]:
    """Sum of each window in float32, row by row, and how many cells of it lie on the map."""
    _, height, width, _ = reals.shape
    on_map = padded(np.ones((1, height, width, 1), np.float32), pads, 0)
    count = window_reduce(np.add, on_map, window, stride)
    total = np.zeros((len(reals), *count.shape[1:-1], reals.shape[-1]), np.float32)
    for _, _, view in taps(padded(reals, pads, 0), window, stride):
        total += view
    return total, count


def logistic(values: AnyArray) -> Float32s:
    """The logistic function as MLAS approximates it."""
    x = np.clip(values.astype(np.float32), -_LOGISTIC_LIMIT, _LOGISTIC_LIMIT)
    ratio = _odd_over_even(x, _LOGISTIC_ODD, _LOGISTIC_EVEN)
    clamped: Float32s = np.maximum(ratio + np.float32(0.5), np.float32(0))
    return clamped


def tanh(values: AnyArray) -> Float32s:
    """The hyperbolic tangent as MLAS approximates it."""
    x = np.clip(values.astype(np.float32), -_TANH_LIMIT, _TANH_LIMIT)
    return _odd_over_even(x, _TANH_ODD, _TANH_EVEN)


def _odd_over_even(x: Float32s, odd: tuple[float, ...], even: tuple[float, ...]) -> Float32s:
    """Quotient of two polynomials, coefficients from the highest power of ``x * x`` down."""
    square = x * x

    def polynomial(coefficients: tuple[float, ...]) -> Float32s:
        first, *others = (np.float32(c) for c in coefficients)
        total = np.full_like(x, first)
        for coefficient in others:
            total = multiply_add(total, square, coefficient)
        return total

    return polynomial(odd) * x / polynomial(even)


def softmax(values: AnyArray, x: Tensor, output: Tensor, axis: int) -> AnyArray:
    """Codes of the softmax over `axis`: table of exponentials, float32 sum in order, one division.

    The inverse of the output scale is rounded down to a whole number. Releases before 1.31 let
    int8 codes beyond 127 wrap round. A lone value overflows in
    the kernel, and what it makes of that is undefined: here it is the largest code.
    """
    source, target = _quantization(x), _quantization(output)
    rows = np.moveaxis(values, axis, -1).astype(np.int64)
    *_, length = rows.shape
    scale = float(source.scale[0])
    largest = float(np.log(np.finfo(np.float32).max / np.float32(length)))
    lift = max(0.0, largest - _SOFTMAX_RESERVED) / scale
    table = np.exp((np.arange(256) - 255.0 + lift) * scale).astype(np.float32)
    powers = table[rows - rows.max(axis=-1, keepdims=True) + 255]
    total = np.add.accumulate(powers, axis=-1)[..., -1:]
    with np.errstate(over="ignore"):
        steps = np.minimum(np.floor(np.float32(1) / target.scale[0]), np.finfo(np.float32).max)
        codes = np.rint(powers * steps / total) + np.float32(target.single_zero_point)
    clamped = np.clip(codes, *output.dtype.code_range).astype(output.dtype.numpy)
    return np.moveaxis(clamped, -1, axis)


def _quantization(tensor: Tensor) -> Quantization:
    assert tensor.quantization is not None
    return tensor.quantization


def _codes(values: Float32s, output: Tensor) -> AnyArray:
    return np.clip(np.rint(values), *output.dtype.code_range).astype(output.dtype.numpy)
