# SPDX-License-Identifier: Apache-2.0
"""Convolution of stride 2 -> the convolution of stride 1, then a 3x3 depthwise that picks. Exact.

The second layer has one tap of weight 1. Precondition: stride 2 on both axes, an output of
``ceil(n / 2)``, and every picked row and column lies on the map. Covers 5x5 and 7x7 kernels, and
symmetric pads, for which the hardware page names no stride-2 form.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from akida_backend.candidate import device_size
from akida_backend.graph import (
    ONE,
    Activation,
    Conv2D,
    DepthwiseConv2D,
    DType,
    Pads,
    Quantization,
    Size2D,
    Tensor,
)
from akida_backend.program import same_pads
from akida_backend.rewrites.rewriting import (
    RewriteContext,
    Rewritten,
    constant,
    replaced,
    zero_filled,
)

EFFECT = "Stride 2 with a large kernel or symmetric pads becomes stride 1 and a picking depthwise."
TWO = Size2D(2, 2)
THREE = Size2D(3, 3)


def apply(context: RewriteContext) -> Rewritten | None:
    operations: list[Conv2D | DepthwiseConv2D] = []
    operations.extend(context.stranded(Conv2D))
    operations.extend(context.stranded(DepthwiseConv2D))
    for op in operations:
        if op.stride == TWO and op.dilation == ONE:
            for side in (1, 3, 5, 7):
                rewritten = _split(op, side, context)
                if rewritten is not None:
                    return rewritten
    return None


def _split(op: Conv2D | DepthwiseConv2D, side: int, context: RewriteContext) -> Rewritten | None:
    graph = context.graph
    weights = graph.tensors[op.weights]
    if weights.data is None:
        return None
    first, height, width, last = weights.data.shape
    size = device_size(graph.tensors[op.input])
    output = device_size(graph.tensors[op.output])
    row = _tap(size.height, output.height, height, op.pads.top, side)
    column = _tap(size.width, output.width, width, op.pads.left, side)
    if row is None or column is None:
        return None
    (top, tap_row), (left, tap_column) = row, column
    data = zero_filled(weights, (first, side, side, last))
    data[:, top : top + height, left : left + width, :] = weights.data
    kernel = constant(graph, f"{op.weights}/{side}x{side}", weights, data)
    target = graph.tensors[op.output]
    half = (side - 1) // 2
    full = dataclasses.replace(
        target,
        name=graph.unused_name(f"{op.output}/full"),
        shape=(target.shape[0], size.height, size.width, target.shape[-1]),
    )
    dense = dataclasses.replace(
        op,
        weights=kernel.name,
        output=full.name,
        stride=ONE,
        pads=Pads(half, half, half, half),
    )
    picks = np.zeros((1, 3, 3, int(target.shape[-1] or 0)), np.int8)
    picks[0, tap_row, tap_column, :] = 1
    pick_name = graph.unused_name(f"{op.output}/pick")
    pick_weights = Tensor(pick_name, DType.INT8, picks.shape, Quantization.per_tensor(1.0), picks)
    pick = DepthwiseConv2D(
        location=op.location,
        sources=op.sources,
        input=full.name,
        weights=pick_name,
        bias=None,
        output=op.output,
        stride=TWO,
        pads=same_pads(size, THREE, TWO),
        activation=Activation.NONE,
    )
    changed = replaced(
        graph,
        (op,),
        (dense, pick),
        {t.name: t for t in (kernel, full, pick_weights)},
    )
    if not (context.fits(dense, changed) and context.fits(pick, changed)):
        return None
    return Rewritten(changed, op.sources)


def _tap(length: int, output: int, kernel: int, begin: int, side: int) -> tuple[int, int] | None:
    """Offset of the kernel in the wider one, and the picking tap, along one axis.

    Output i of the source reads from ``2 i - begin``; row r of the stride-1 layer reads from
    ``r - half + offset``. So r = 2 i + d with d = half - offset - begin, and the picking layer
    (first tap at ``2 i - its pad``) has its tap at d + pad.
    """
    if output != -(-length // 2):
        return None
    half = (side - 1) // 2
    pad = same_pads(Size2D(length, length), THREE, TWO).top
    for offset in range(side - kernel + 1):
        shift = half - offset - begin
        if shift >= 0 and 2 * (output - 1) + shift <= length - 1 and shift + pad <= 2:
            return offset, shift + pad
    return None
