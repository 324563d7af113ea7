# SPDX-License-Identifier: Apache-2.0
"""Pad ∘ convolution -> convolution with wider pads. Exact.

Precondition: the Pad adds real zeros on height and width only, at the same quantization, and the
convolution alone reads it.
"""

from __future__ import annotations

import dataclasses

from akida_backend.graph import Conv2D, DepthwiseConv2D, Graph, Pad, Pads, Tensor
from akida_backend.rewrites.rewriting import RewriteContext, Rewritten, replaced

EFFECT = "A border of real zeros becomes the padding of the convolution that reads it."


def apply(context: RewriteContext) -> Rewritten | None:
    graph = context.graph
    for op in graph.operations:
        if not isinstance(op, Pad) or context.is_refused(op):
            continue
        reader = graph.sole_consumer(op.output)
        if not isinstance(reader, Conv2D | DepthwiseConv2D) or context.is_refused(reader):
            continue
        if reader.input != op.output or not pads_with_zero(op, graph):
            continue
        amounts = op.amounts
        if len(amounts) != 4 or amounts[0] != (0, 0) or amounts[3] != (0, 0):
            continue
        (top, bottom), (left, right) = amounts[1], amounts[2]
        pads = Pads(
            reader.pads.top + top,
            reader.pads.bottom + bottom,
            reader.pads.left + left,
            reader.pads.right + right,
        )
        sources = tuple(sorted({*op.sources, *reader.sources}))
        merged = dataclasses.replace(reader, input=op.input, pads=pads, sources=sources)
        return Rewritten(replaced(graph, (op, reader), (merged,)), sources)
    return None


def pads_with_zero(op: Pad, graph: Graph) -> bool:
    """Whether the border stands for real zero and nothing is re-quantized."""
    before, after = graph.tensors[op.input], graph.tensors[op.output]
    if not same_quantization(before, after) or before.quantization is None:
        return False
    return op.value is None or op.value == before.quantization.single_zero_point


def same_quantization(a: Tensor, b: Tensor) -> bool:
    x, y = a.quantization, b.quantization
    return (
        x is not None
        and y is not None
        and a.dtype is b.dtype
        and x.is_per_tensor
        and y.is_per_tensor
        and x.single_scale == y.single_scale
        and x.single_zero_point == y.single_zero_point
    )
