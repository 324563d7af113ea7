# SPDX-License-Identifier: Apache-2.0
"""DepthwiseConv2D on one channel -> Conv2D. Exact.

Precondition: the input has one channel, so every output channel reads it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from akida_backend.graph import Conv2D, DepthwiseConv2D
from akida_backend.rewrites.rewriting import RewriteContext, Rewritten, constant, replaced

EFFECT = "A depthwise convolution of one channel is an ordinary convolution."


def apply(context: RewriteContext) -> Rewritten | None:
    graph = context.graph
    for op in context.stranded(DepthwiseConv2D):
        if graph.tensors[op.input].shape[-1] != 1 or not graph.tensors[op.weights].is_constant:
            continue
        weights = graph.tensors[op.weights]
        data = np.moveaxis(graph.constant(op.weights), 3, 0)  # 1HWO -> O1HW
        data = np.moveaxis(data, 1, 3)  # O1HW -> OHW1
        moved = constant(graph, f"{op.weights}/ohwi", weights, np.ascontiguousarray(data))
        if moved.quantization is not None and moved.quantization.axis is not None:
            quantization = dataclasses.replace(moved.quantization, axis=0)
            moved = dataclasses.replace(moved, quantization=quantization)
        convolution = Conv2D(
            location=op.location,
            sources=op.sources,
            input=op.input,
            weights=moved.name,
            bias=op.bias,
            output=op.output,
            stride=op.stride,
            dilation=op.dilation,
            pads=op.pads,
            activation=op.activation,
        )
        changed = replaced(graph, (op,), (convolution,), {moved.name: moved})
        return Rewritten(changed, op.sources)
    return None
