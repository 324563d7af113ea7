# SPDX-License-Identifier: Apache-2.0
"""Pad on channels -> filters of zeros in the producing convolution, or a 1x1 copy. Exact.

Precondition: the Pad adds real zeros on the channel axis only, at the same quantization, to a
tensor the device computes. A convolution nobody else reads is widened; otherwise an identity
convolution copies the channels.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from akida_backend.graph import Conv2D, Pad, Tensor
from akida_backend.rewrites.fold_pad import pads_with_zero
from akida_backend.rewrites.rewriting import (
    RewriteContext,
    Rewritten,
    identity_convolution,
    replaced,
    zero_filled,
)

EFFECT = "Channels of real zero come from filters of zeros."


def apply(context: RewriteContext) -> Rewritten | None:
    graph = context.graph
    for op in context.stranded(Pad):
        if op.input not in context.on_device or not pads_with_zero(op, graph):
            continue
        if len(op.amounts) != 4 or any(amount != (0, 0) for amount in op.amounts[:3]):
            continue
        producer = graph.producers[op.input]
        alone = graph.sole_consumer(op.input) is op
        if isinstance(producer, Conv2D) and alone and not context.is_refused(producer):
            rewritten = _widened(producer, op, context)
            if rewritten is not None:
                return rewritten
        before, _ = op.amounts[3]
        copy, tensors = identity_convolution(
            graph, op, op.input, graph.tensors[op.output], before=before
        )
        changed = replaced(graph, (op,), (copy,), tensors)
        if context.fits(copy, changed):
            return Rewritten(changed, op.sources)
    return None


def _widened(producer: Conv2D, op: Pad, context: RewriteContext) -> Rewritten | None:
    graph = context.graph
    weights = graph.tensors[producer.weights]
    if weights.data is None:
        return None
    filters, height, width, depth = weights.data.shape
    before, after = op.amounts[3]
    total = before + filters + after
    data = zero_filled(weights, (total, height, width, depth))
    data[before : before + filters] = weights.data
    name = graph.unused_name(f"{producer.weights}/widened")
    quantization = weights.quantization
    if quantization is not None and not quantization.is_per_tensor:
        scale = np.full(total, quantization.scale[0], np.float32)
        scale[before : before + filters] = quantization.scale
        zero_point = np.zeros(total, np.int64)
        zero_point[before : before + filters] = quantization.zero_point
        quantization = dataclasses.replace(quantization, scale=scale, zero_point=zero_point)
    tensors = {name: Tensor(name, weights.dtype, data.shape, quantization, data)}
    bias = producer.bias
    if bias is not None:
        old = graph.tensors[bias]
        values = np.zeros(total, old.dtype.numpy)
        values[before : before + filters] = graph.constant(bias)
        bias = graph.unused_name(f"{bias}/widened")
        tensors[bias] = Tensor(bias, old.dtype, values.shape, None, values)
    sources = tuple(sorted({*producer.sources, *op.sources}))
    wide = dataclasses.replace(producer, weights=name, bias=bias, output=op.output, sources=sources)
    changed = replaced(graph, (producer, op), (wide,), tensors)
    return Rewritten(changed, sources) if context.fits(wide, changed) else None
