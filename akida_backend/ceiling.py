# SPDX-License-Identifier: Apache-2.0
"""What a source network would give if its last layer did not round: the best any device can do."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from akida_backend.graph import (
    AnyArray,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    Operation,
)

Reals = NDArray[np.float64]


def unrounded_output(op: Operation, graph: Graph, values: Mapping[str, AnyArray]) -> Reals | None:
    """Real values of the int32 accumulators of an operation, its activation applied.

    Args:
        op: What writes the tensor.
        graph: Its graph.
        values: Stored values of the source by tensor name.

    Returns:
        The output before it is rounded to the output's scale and saturated; None where the
        operation is no quantized convolution or matrix product. Sums are exact: float64 holds
        integers to 2**53.
    """
    if not isinstance(op, FullyConnected | Conv2D | DepthwiseConv2D):
        return None
    tensor, kernel = graph.tensors[op.input], graph.tensors[op.weights]
    if tensor.quantization is None or kernel.quantization is None or not tensor.is_quantized:
        return None
    if not kernel.is_constant:
        return None
    x = values[op.input].astype(np.float64) - tensor.quantization.single_zero_point
    # Filters are on axis 0 of FULLY_CONNECTED and CONV_2D weights, on axis 3 of depthwise ones.
    filters_axis = 3 if isinstance(op, DepthwiseConv2D) else 0
    stored = graph.constant(op.weights).astype(np.int64)
    along = [1] * stored.ndim
    along[filters_axis] = -1
    if isinstance(op, Conv2D) and stored.shape[-1] != x.shape[-1]:
        return None  # grouped
    weights = stored - kernel.quantization.zero_point.reshape(along)
    match op:
        case FullyConnected():
            _, depth = weights.shape
            sums = x.reshape(-1, depth) @ weights.T.astype(np.float64)
        case Conv2D():
            filters, height, width, channels = weights.shape
            windows = _windows(x, op, height, width)  # N, Y, X, C, height, width
            taps = weights.transpose(3, 1, 2, 0).reshape(-1, filters).astype(np.float64)
            rows = windows.reshape(*windows.shape[:3], channels * height * width)
            sums = rows @ taps
        case DepthwiseConv2D():
            _, height, width, filters = weights.shape
            windows = _windows(x, op, height, width)
            windows = windows.repeat(filters // windows.shape[3], axis=3)
            (taps,) = weights.transpose(0, 3, 1, 2).astype(np.float64)
            sums = (windows * taps).sum(axis=(-2, -1))
    if op.bias is not None:
        sums = sums + graph.constant(op.bias).astype(np.float64)
    step = tensor.quantization.single_scale * kernel.quantization.scale.astype(np.float64)
    low, high = op.activation.real_range
    unrounded: Reals = np.clip(sums * step, low, high)
    return unrounded


def _windows(x: Reals, op: Conv2D | DepthwiseConv2D, height: int, width: int) -> Reals:
    """Windows (batch, rows, columns, channels, height, width); the border holds real zeros."""
    pads, dilation = op.pads, op.dilation
    padded = np.pad(x, ((0, 0), (pads.top, pads.bottom), (pads.left, pads.right), (0, 0)))
    spread = ((height - 1) * dilation.height + 1, (width - 1) * dilation.width + 1)
    windows = sliding_window_view(padded, spread, axis=(1, 2))
    windows = windows[:, :: op.stride.height, :: op.stride.width]
    return windows[..., :: dilation.height, :: dilation.width]
