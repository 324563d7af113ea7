# SPDX-License-Identifier: Apache-2.0
"""Convolution over its whole map -> FullyConnected. Same function (one rounding less).

Precondition: kernel equal to the map, no padding, one output position; and either the convolution
would stay on the host, or it gives the network's last values, of which Dense1D keeps all bits.
"""

from __future__ import annotations

from akida_backend.candidate import device_size
from akida_backend.graph import (
    NO_PADS,
    ONE,
    Conv2D,
    Dequantize,
    FullyConnected,
    Graph,
    Quantize,
    Reshape,
    Size2D,
    Softmax,
)
from akida_backend.rewrites.rewriting import RewriteContext, Rewritten, constant, replaced

EFFECT = "A convolution whose kernel is the whole map becomes Dense1D."


def apply(context: RewriteContext) -> Rewritten | None:
    graph = context.graph
    heads = [
        op
        for op in graph.operations
        if isinstance(op, Conv2D) and not context.is_refused(op) and _is_head(op.output, graph)
    ]
    for op in [*context.stranded(Conv2D), *heads]:
        weights = graph.tensors[op.weights]
        if weights.data is None or op.pads != NO_PADS or op.dilation != ONE:
            continue
        filters, height, width, depth = weights.data.shape
        whole = device_size(graph.tensors[op.input]) == Size2D(height, width)
        if not whole or device_size(graph.tensors[op.output]) != ONE:
            continue
        if graph.tensors[op.input].shape[-1] != depth:
            continue
        matrix = constant(graph, f"{op.weights}/matrix", weights, weights.data.reshape(filters, -1))
        dense = FullyConnected(
            location=op.location,
            sources=op.sources,
            input=op.input,
            weights=matrix.name,
            bias=op.bias,
            output=op.output,
            activation=op.activation,
        )
        changed = replaced(graph, (op,), (dense,), {matrix.name: matrix})
        if context.fits(dense, changed):
            return Rewritten(changed, op.sources)
    return None


def _is_head(name: str, graph: Graph) -> bool:
    """Whether only renaming, re-coding and a final SOFTMAX lie between a tensor and the outputs."""
    if name in graph.outputs:
        return not graph.consumers[name]
    reader = graph.sole_consumer(name)
    return isinstance(reader, Reshape | Quantize | Dequantize | Softmax) and _is_head(
        reader.outputs[0], graph
    )
