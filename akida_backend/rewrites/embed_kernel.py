# SPDX-License-Identifier: Apache-2.0
"""Convolution -> the same convolution inside a larger square kernel of Same padding. Exact.

The added taps have weight zero. Precondition: the output has the size of Same padding,
``ceil(n / stride)``, and some kernel the device takes has room at the right offset. Covers even
and oblong kernels, 1x1 with stride 2, and explicit pads that are not the Same rule's.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from akida_backend.candidate import device_size
from akida_backend.graph import (
    ONE,
    Conv2D,
    DepthwiseConv2D,
    Graph,
    Pads,
    Size2D,
    Tensor,
    TransposeConv2D,
)
from akida_backend.program import same_pads
from akida_backend.rewrites.rewriting import (
    RewriteContext,
    Rewritten,
    constant,
    replaced,
    zero_filled,
)

EFFECT = "Kernels and pads the device lacks become a larger square Same kernel with zero taps."
SIDES: Final = (3, 4, 5, 7)


def apply(context: RewriteContext) -> Rewritten | None:
    operations: list[Conv2D | DepthwiseConv2D] = []
    operations.extend(context.stranded(Conv2D))
    operations.extend(context.stranded(DepthwiseConv2D))
    for op in operations:
        found = embedded(op, context.graph, context)
        if found is not None:
            wide, weights = found
            graph = replaced(context.graph, (op,), (wide,), {weights.name: weights})
            return Rewritten(graph, op.sources)
    for transposed in context.stranded(TransposeConv2D):
        grown = _embedded_transpose(transposed, context)
        if grown is not None:
            return grown
    return None


def embedded(
    op: Conv2D | DepthwiseConv2D, graph: Graph, context: RewriteContext
) -> tuple[Conv2D | DepthwiseConv2D, Tensor] | None:
    """The operation in the smallest kernel that the device takes, or None."""
    weights = graph.tensors[op.weights]
    if weights.data is None or op.dilation != ONE:
        return None
    _, height, width, _ = weights.data.shape
    size = device_size(graph.tensors[op.input])
    output = device_size(graph.tensors[op.output])
    same_output = Size2D(-(-size.height // op.stride.height), -(-size.width // op.stride.width))
    if output != same_output:
        return None
    for side in SIDES:
        kernel = Size2D(side, side)
        pads = same_pads(size, kernel, op.stride)
        top, left = pads.top - op.pads.top, pads.left - op.pads.left
        fits = 0 <= top <= side - height and 0 <= left <= side - width
        if not fits or (height, width) == (side, side):
            continue
        wide, tensor = _with_kernel(op, graph, weights, kernel, top, left, pads)
        tentative = replaced(graph, (op,), (wide,), {tensor.name: tensor})
        if context.fits(wide, tentative):
            return wide, tensor
    return None


def _with_kernel(
    op: Conv2D | DepthwiseConv2D,
    graph: Graph,
    weights: Tensor,
    kernel: Size2D,
    top: int,
    left: int,
    pads: Pads,
) -> tuple[Conv2D | DepthwiseConv2D, Tensor]:
    assert weights.data is not None
    first, height, width, last = weights.data.shape
    data = zero_filled(weights, (first, kernel.height, kernel.width, last))
    data[:, top : top + height, left : left + width, :] = weights.data
    tensor = constant(graph, f"{op.weights}/{kernel}", weights, data)
    return dataclasses.replace(op, weights=tensor.name, pads=pads), tensor


def _embedded_transpose(op: TransposeConv2D, context: RewriteContext) -> Rewritten | None:
    """A smaller transposed kernel inside 3x3: zero taps only add rows that are cut."""
    graph = context.graph
    weights = graph.tensors[op.weights]
    if weights.data is None:
        return None
    first, height, width, last = weights.data.shape
    top, left = op.pads.top, op.pads.left
    if height > 3 or width > 3 or top or left:
        return None
    data = zero_filled(weights, (first, 3, 3, last))
    data[:, :height, :width, :] = weights.data
    tensor = constant(graph, f"{op.weights}/3x3", weights, data)
    wide = dataclasses.replace(op, weights=tensor.name, pads=Pads(0, 1, 0, 1))
    tentative = replaced(graph, (op,), (wide,), {tensor.name: tensor})
    if (height, width) == (3, 3) or not context.fits(wide, tentative):
        return None
    return Rewritten(tentative, op.sources)
