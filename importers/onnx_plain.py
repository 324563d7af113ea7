# SPDX-License-Identifier: Apache-2.0
"""Nodes that rename values, convert types, or go between reals and integers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from akida_backend.graph import (
    Cast,
    DType,
    Quantize,
)
from akida_backend.importers.onnx_context import Context
from akida_backend.importers.onnx_file import FileNode
from akida_backend.importers.onnx_scales import check_channels, quantized_type, read_scale
from akida_backend.importers.onnx_types import result_types
from akida_backend.importers.onnx_units import (
    quantized,
    same_scale,
)
from akida_backend.importers.onnx_values import (
    NotModelledError,
    Target,
    Value,
    dequantized,
    file_order,
)


def alias(context: Context, node: FileNode) -> bool:
    """Another name for a value."""
    if node.kind == "Dropout":
        training = context.optional(node, 2)
        if training is not None and (training.data is None or training.data.any()):
            return False
        if any(context.consumers.is_read(name) for name in node.outputs[1:]):
            return False
    value = context.given(node, 0)
    rename(context, value, node.outputs[0], node.index)
    return True


def rename(context: Context, value: Value, name: str, index: int) -> Value:
    renamed = dataclasses.replace(
        value, name=name, forms=dict(value.forms), pending=(*value.pending, index)
    )
    if not value.forms and value.codes is not None:
        # Reals not materialised yet: the first who needs them does it once for each name.
        renamed.forms = {}
    context.builder.add_value(renamed)
    return renamed


def transpose(context: Context, node: FileNode) -> None:
    """Another order of axes: the same tensors under other layouts."""
    value = context.given(node, 0)
    given = node.integers("perm")
    permutation = tuple(range(value.rank))[::-1] if given is None else given
    if sorted(permutation) != list(range(value.rank)):
        raise node.error("perm", f"{list(permutation)} of {value.rank} axes")
    moved = _permuted(value, permutation, node.outputs[0])
    if value.codes is not None:
        codes = value.codes
        if codes.shuffled is not None:
            raise NotModelledError("Transpose of flattened rows is not modelled")
        moved.codes = _permuted(codes, permutation, f"{node.outputs[0]}")
        moved.codes.pending = codes.pending
    moved.pending = (*value.pending, node.index)
    context.builder.add_value(moved)


def cast(context: Context, node: FileNode) -> None:
    value = context.given(node, 0)
    dtype = result_types(node, context.file, context.builder.values)[node.outputs[0]][0]
    if value.codes is None and value.dtype is dtype:
        rename(context, value, node.outputs[0], node.index)
        return
    if dtype is DType.OTHER or value.dtype is DType.OTHER or value.quantization is not None:
        raise NotModelledError(f"Cast from {value.dtype.value} to {dtype.value}")
    builder = context.builder
    layout = value.layout
    source = builder.tensor_of(value, layout, node.location)
    target = Target(node.outputs[0], dtype, None)
    name = builder.declare(target, layout)
    builder.add(
        Cast(
            location=node.location,
            sources=builder.sources((node.index,)),
            input=source,
            output=name,
        )
    )
    builder.write(target, name, layout)


def quantize(context: Context, node: FileNode) -> None:
    value = context.given(node, 0)
    zero = context.optional(node, 2)
    dtype = quantized_type(node, zero)
    scales = read_scale(
        node, context.given(node, 1), zero, dtype, axis=node.integer("axis", 1), rank=value.rank
    )
    if not value.is_constant and scales.axis is not None:
        raise NotModelledError(f"{node.kind} of activations with several scales")
    check_channels(node, scales, value)
    name = node.outputs[0]
    builder = context.builder
    if value.is_constant:
        reals = value.data if value.codes is None else dequantized(value.codes)
        if reals is None or reals.dtype != np.float32:
            raise NotModelledError(f"{node.kind} of {value.dtype.value}")
        builder.add_value(
            Value(
                name,
                dtype,
                value.shape,
                data=quantized(reals, dtype, scales),
                quantization=scales,
                pending=(*value.pending_nodes(), node.index),
            )
        )
        return
    codes = value.codes
    if codes is not None and codes.dtype is dtype and same_scale(codes.quantization, scales):
        renamed = rename(context, codes, name, node.index)
        renamed.pending = (*value.pending_nodes(), node.index)
        return
    source_value = value if codes is None else codes
    if codes is None and value.dtype is not DType.FLOAT32:
        raise NotModelledError(f"{node.kind} of {value.dtype.value} is not modelled")
    layout = source_value.layout
    if source_value.shuffled is not None:
        layout = file_order(value.rank)
    source = builder.tensor_of(source_value, layout, node.location)
    target = Target(name, dtype, scales)
    output = builder.declare(target, layout)
    builder.add(
        Quantize(
            location=node.location,
            sources=builder.sources((*value.pending_nodes(), node.index)),
            input=source,
            output=output,
        )
    )
    builder.write(target, output, layout)


def dequantize(context: Context, node: FileNode) -> None:
    value = context.given(node, 0)
    scales = read_scale(
        node,
        context.given(node, 1),
        context.optional(node, 2),
        value.dtype,
        axis=node.integer("axis", 1),
        rank=value.rank,
    )
    codes = context.coded(node, value, scales)
    context.builder.add_value(
        Value(
            node.outputs[0],
            DType.FLOAT32,
            value.shape,
            codes=codes,
            pending=(node.index,),
        )
    )


def _permuted(value: Value, permutation: Sequence[int], name: str) -> Value:
    axis = None if value.quantization is None else value.quantization.axis
    scales = value.quantization
    if scales is not None and axis is not None:
        scales = dataclasses.replace(scales, axis=permutation.index(axis))
    names = {file_order(value.rank): value.name, **value.names}
    return Value(
        name,
        value.dtype,
        tuple(value.shape[a] for a in permutation),
        data=None if value.data is None else value.data.transpose(permutation),
        quantization=scales,
        forms={
            tuple(permutation.index(a) for a in layout): tensor
            for layout, tensor in value.forms.items()
        },
        names={tuple(permutation.index(a) for a in layout): n for layout, n in names.items()},
    )
