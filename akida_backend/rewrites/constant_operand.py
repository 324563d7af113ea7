# SPDX-License-Identifier: Apache-2.0
"""Mul or Add with one constant per channel -> 3x3 depthwise with a centre tap. Same function.

Precondition: the other operand is a map on the device; the constant has one element or one per
channel; a summand fits a bias of 32 bits.
"""

from __future__ import annotations

import numpy as np

from akida_backend.graph import (
    Add,
    DepthwiseConv2D,
    DType,
    Mul,
    Pads,
    Quantization,
    Tensor,
)
from akida_backend.rewrites.rewriting import RewriteContext, Rewritten, constant, replaced

EFFECT = "A constant factor or summand per channel becomes a depthwise convolution."
CENTRE = Pads(1, 1, 1, 1)


def apply(context: RewriteContext) -> Rewritten | None:
    operations: list[Mul | Add] = [*context.stranded(Mul)]
    operations.extend(context.stranded(Add))
    for op in operations:
        rewritten = _depthwise(op, context)
        if rewritten is not None:
            return rewritten
    return None


def _depthwise(op: Mul | Add, context: RewriteContext) -> Rewritten | None:
    graph = context.graph
    activations = graph.activations_of(op)
    if len(activations) != 1 or activations[0] not in context.on_device:
        return None
    source = graph.tensors[activations[0]]
    other = graph.tensors[op.b if op.a == source.name else op.a]
    if other.data is None or other.quantization is None or source.quantization is None:
        return None
    channels = int(source.shape[-1] or 0)
    per_channel = other.data.size == 1 or other.data.shape[-1:] == (other.data.size,)
    if len(source.shape) != 4 or not other.quantization.is_per_tensor:
        return None
    if other.data.size not in (1, channels) or not per_channel:
        return None
    values = np.broadcast_to(other.data.reshape(-1), (channels,))
    tensors: dict[str, Tensor] = {}
    bias: str | None = None
    if isinstance(op, Mul):
        data = np.full((1, 3, 3, channels), other.quantization.single_zero_point, other.dtype.numpy)
        data[0, 1, 1, :] = values
        weights = constant(graph, f"{op.output}/factor", other, data)
    else:
        data = np.zeros((1, 3, 3, channels), np.int8)
        data[0, 1, 1, :] = 1
        name = graph.unused_name(f"{op.output}/copy")
        weights = Tensor(name, DType.INT8, data.shape, Quantization.per_tensor(1.0), data)
        step = source.quantization.single_scale
        real = (values.astype(np.int64) - other.quantization.single_zero_point) * (
            other.quantization.single_scale
        )
        exact = np.rint(real / step)
        if np.abs(exact).max() > DType.INT32.code_range[1]:
            return None
        bias = graph.unused_name(f"{op.output}/summand")
        stored = exact.astype(np.int32)
        tensors[bias] = Tensor(
            bias, DType.INT32, stored.shape, Quantization.per_tensor(step), stored
        )
    tensors[weights.name] = weights
    convolution = DepthwiseConv2D(
        location=op.location,
        sources=op.sources,
        input=source.name,
        weights=weights.name,
        bias=bias,
        output=op.output,
        pads=CENTRE,
        activation=op.activation,
    )
    changed = replaced(graph, (op,), (convolution,), tensors)
    return Rewritten(changed, op.sources) if context.fits(convolution, changed) else None
