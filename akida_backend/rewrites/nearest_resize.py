# SPDX-License-Identifier: Apache-2.0
"""Nearest-neighbour resize by two -> depthwise transposed convolution with four ones. Exact.

Precondition: exactly twice the size, corners not aligned, the input on the device.
"""

from __future__ import annotations

import numpy as np

from akida_backend.candidate import device_size
from akida_backend.graph import (
    DType,
    Pads,
    Quantization,
    ResizeNearest,
    Size2D,
    Tensor,
    TransposeConv2D,
)
from akida_backend.rewrites.rewriting import RewriteContext, Rewritten, replaced

EFFECT = "Doubling by nearest neighbour becomes a depthwise transposed convolution."


def apply(context: RewriteContext) -> Rewritten | None:
    graph = context.graph
    for op in context.stranded(ResizeNearest):
        size = device_size(graph.tensors[op.input])
        doubled = op.size == Size2D(2 * size.height, 2 * size.width)
        if not doubled or op.align_corners or op.input not in context.on_device:
            continue
        # Output rows 2 i and 2 i + 1 read row i: taps 0 and 1 of three, of which one row is cut.
        channels = int(graph.tensors[op.input].shape[-1] or 0)
        data = np.zeros((1, 3, 3, channels), np.int8)
        data[0, :2, :2, :] = 1
        name = graph.unused_name(f"{op.output}/copies")
        weights = Tensor(name, DType.INT8, data.shape, Quantization.per_tensor(1.0), data)
        transposed = TransposeConv2D(
            location=op.location,
            sources=op.sources,
            input=op.input,
            weights=name,
            bias=None,
            output=op.output,
            stride=Size2D(2, 2),
            pads=Pads(0, 1, 0, 1),
            depthwise=True,
        )
        changed = replaced(graph, (op,), (transposed,), {name: weights})
        if context.fits(transposed, changed):
            return Rewritten(changed, op.sources)
    return None
