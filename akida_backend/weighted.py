# SPDX-License-Identifier: Apache-2.0
"""What the reference functions of operations with weights share.

Integer accumulators are summed by floating-point matrix products, in the narrowest type that is
exact for the weights at hand: every partial sum is an integer under 2**24 (float32) or 2**53
(float64), so the order of summation cannot matter.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from akida_backend.arithmetic import (
    Reals,
    accumulator_type,
    centred,
    chunks,
    clamp,
    dequantized,
    largest_magnitude,
    product_factor,
    requantize,
    runs_in_codes,
    stored,
)
from akida_backend.fixed_point import Integers
from akida_backend.graph import (
    AnyArray,
    Arithmetic,
    Conv2D,
    DepthwiseConv2D,
    DType,
    FullyConnected,
    Tensor,
    TransposeConv2D,
)
from akida_backend.reference import Environment

Weighted = Conv2D | DepthwiseConv2D | TransposeConv2D | FullyConnected
Floats = NDArray[np.floating]
Accumulate = Callable[[Floats, Floats], Floats]
Requantize = Callable[[Integers, Reals, Arithmetic], Integers]


def weighted_sum(
    op: Weighted,
    env: Environment,
    values: AnyArray,
    accumulate: Accumulate,
    *,
    channel_axis: int,
    temporary_values: int,
    requantize: Requantize = requantize,
    precision: type[np.float32] | type[np.float64] | None = None,
) -> AnyArray:
    """Accumulate, add the bias, requantize and clamp.

    Float operations run in float32; sums are not ordered as in any runtime, so the last bits
    differ. Weights of a dynamic-range model are dequantized, where the runtimes would quantize
    the activations instead.

    Args:
        op: The operation.
        env: Its environment.
        values: The operation's input, samples (or rows) on axis 0.
        accumulate: Sums of products of centred inputs and weights, output channels last; border
            cells count as zero.
        channel_axis: Output channels among the axes of the weights.
        temporary_values: Array elements `accumulate` needs per sample.
        requantize: Rounding rule from accumulators to output steps.
        precision: Of the product of input and weight scale; by default float64, but float32
            for uint8 (TFLite ``GetQuantizedConvolutionMultipler``) and in ONNX.

    Raises:
        UnsupportedOperationError: The tensors' types have no arithmetic here.
    """
    x, weights, output = (env.tensor(name) for name in (op.input, op.weights, op.output))
    if precision is None:
        in_float32 = x.dtype is DType.UINT8 or env.arithmetic is Arithmetic.ONNX
        precision = np.float32 if in_float32 else np.float64
    bias = None if op.bias is None else env.value(op.bias)
    if x.dtype.is_float and output.dtype.is_float:
        real_weights = dequantized(env.value(op.weights), weights)

        def compute(part: AnyArray) -> AnyArray:
            sums = accumulate(dequantized(part, x), real_weights)
            sums = sums if bias is None else sums + bias.astype(np.float32)
            return clamp(sums, op.activation).astype(output.dtype.numpy)

    else:
        runs_in_codes(op, *(t for t in (x, weights, output) if not _holds_sums(t)))
        whole_weights = centred_weights(env.value(op.weights), weights)
        others = tuple(a for a in range(whole_weights.ndim) if a != channel_axis)
        largest = np.abs(whole_weights).sum(axis=others, dtype=np.int64).max(initial=0)
        dtype = accumulator_type(float(largest) * largest_magnitude(x))
        exact_weights: Floats = whole_weights.astype(dtype)
        factor = product_factor(x, weights, output, precision)

        def compute(part: AnyArray) -> AnyArray:
            sums = accumulate(centred(part, x, dtype), exact_weights).astype(np.int64)
            if bias is not None:
                sums += bias.astype(np.int64)
            whole = requantize(sums, factor, env.arithmetic)
            return stored(whole, output, op.activation, env.arithmetic)

    parts = [compute(values[part]) for part in chunks(len(values), temporary_values)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _holds_sums(tensor: Tensor) -> bool:
    """Between a depthwise and a pointwise convolution that no quantization parts."""
    return tensor.dtype is DType.INT32 and tensor.is_quantized


def centred_weights(values: AnyArray, tensor: Tensor) -> Integers:
    """Codes minus their zero points, per tensor or per channel."""
    assert tensor.quantization is not None
    zero = tensor.quantization.zero_point
    if zero.size > 1:
        assert tensor.quantization.axis is not None
        shape = [1] * values.ndim
        shape[tensor.quantization.axis] = zero.size
        zero = zero.reshape(shape)
    return values.astype(np.int64) - zero
