# SPDX-License-Identifier: Apache-2.0
"""Strided stem -> space-to-depth on the host, then a stride-1 convolution. Exact.

Precondition: a strided convolution on a tensor the host holds, whose blocks of stride x stride
pixels the host can stack into channels; border rows are filled with the zero point. Output size
``ceil(n / stride)``.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from akida_backend.candidate import device_shape, device_size
from akida_backend.graph import (
    ONE,
    Conv2D,
    Operation,
    Pad,
    Pads,
    Reshape,
    Size2D,
    Tensor,
    Transpose,
)
from akida_backend.rewrites.embed_kernel import embedded
from akida_backend.rewrites.rewriting import (
    RewriteContext,
    Rewritten,
    check_size,
    constant,
    replaced,
    zero_filled,
)

EFFECT = "A strided stem the device lacks becomes blocks stacked by the host and a stride-1 layer."


def apply(context: RewriteContext) -> Rewritten | None:
    for op in context.stranded(Conv2D):
        if op.stride == ONE or op.dilation != ONE or op.input in context.on_device:
            continue
        rewritten = _stacked(op, context)
        if rewritten is not None:
            return rewritten
    return None


def _stacked(op: Conv2D, context: RewriteContext) -> Rewritten | None:
    graph = context.graph
    weights, source = graph.tensors[op.weights], graph.tensors[op.input]
    if weights.data is None or len(source.shape) != 4:
        return None
    step = op.stride
    height, width, channels = device_shape(source)
    blocks = Size2D(-(-height // step.height), -(-width // step.width))
    if device_size(graph.tensors[op.output]) != blocks:
        return None
    kernel, before = _blocked(weights, op.pads, step, channels)
    after = Pads(
        before.top,
        kernel.shape[1] - 1 - before.top,
        before.left,
        kernel.shape[2] - 1 - before.left,
    )
    operations, tensors, stacked = _host_half(op, context, blocks)
    wide = constant(graph, f"{op.weights}/blocks", weights, kernel)
    tensors[wide.name] = wide
    convolution = dataclasses.replace(op, input=stacked, weights=wide.name, stride=ONE, pads=after)
    changed = replaced(graph, (op,), (*operations, convolution), tensors)
    if not context.fits(convolution, changed):
        found = embedded(convolution, changed, context)
        if found is None:
            return None
        larger, tensor = found
        changed = replaced(changed, (convolution,), (larger,), {tensor.name: tensor})
    return Rewritten(changed, op.sources, tuple(host.outputs[0] for host in operations))


def _blocked(
    weights: Tensor, pads: Pads, step: Size2D, channels: int
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.generic]], Pads]:
    """Weights over stacked blocks, and how many blocks lie before the output's own.

    Tap k of the source reads row ``stride * i - begin + k``; block b of the new kernel holds the
    rows ``stride * (i - before + b) + phase``.
    """
    assert weights.data is not None
    filters, height, width, _ = weights.data.shape
    top, left = -(-pads.top // step.height), -(-pads.left // step.width)
    rows = top + (height - 1 - pads.top) // step.height + 1
    columns = left + (width - 1 - pads.left) // step.width + 1
    data = zero_filled(weights, (filters, rows, columns, step.area * channels))
    for row in range(height):
        block_row, phase_row = divmod(row - pads.top, step.height)
        for column in range(width):
            block_column, phase_column = divmod(column - pads.left, step.width)
            first = (phase_row * step.width + phase_column) * channels
            data[:, block_row + top, block_column + left, first : first + channels] = weights.data[
                :, row, column, :
            ]
    return data, Pads(top=top, left=left)


def _host_half(
    op: Conv2D, context: RewriteContext, blocks: Size2D
) -> tuple[tuple[Operation, ...], dict[str, Tensor], str]:
    """Pad to whole blocks, then stack them: reshape, transpose, reshape."""
    graph = context.graph
    source = graph.tensors[op.input]
    step = op.stride
    height, width, channels = device_shape(source)
    batch = source.shape[0]
    full = Size2D(blocks.height * step.height, blocks.width * step.width)
    shapes = {
        "padded": (batch, full.height, full.width, channels),
        "blocks": (batch, blocks.height, step.height, blocks.width, step.width, channels),
        "phases": (batch, blocks.height, blocks.width, step.height, step.width, channels),
        "stacked": (batch, blocks.height, blocks.width, step.area * channels),
    }
    for shape in shapes.values():
        check_size(source.dtype, shape)
    tensors = {
        part: dataclasses.replace(source, name=graph.unused_name(f"{op.input}/{part}"), shape=shape)
        for part, shape in shapes.items()
    }
    names = {part: tensor.name for part, tensor in tensors.items()}
    padded: tuple[Operation, ...] = ()
    start = op.input
    if full != Size2D(height, width):
        amounts = ((0, 0), (0, full.height - height), (0, full.width - width), (0, 0))
        padded = (
            Pad(
                location=op.location,
                sources=op.sources,
                input=op.input,
                output=names["padded"],
                amounts=amounts,
            ),
        )
        start = names["padded"]
    return (
        (
            *padded,
            Reshape(location=op.location, sources=op.sources, input=start, output=names["blocks"]),
            Transpose(
                location=op.location,
                sources=op.sources,
                input=names["blocks"],
                output=names["phases"],
                permutation=(0, 1, 3, 2, 4, 5),
            ),
            Reshape(
                location=op.location,
                sources=op.sources,
                input=names["phases"],
                output=names["stacked"],
            ),
        ),
        {tensor.name: tensor for tensor in tensors.values()},
        names["stacked"],
    )
