# SPDX-License-Identifier: Apache-2.0
"""Nodes on constants and shapes, evaluated while importing."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.graph import AnyArray, DType
from akida_backend.importers.onnx_context import Context
from akida_backend.importers.onnx_file import FileNode
from akida_backend.importers.onnx_folding import MOVING, fold, folded_type
from akida_backend.importers.onnx_values import Value, dequantized
from akida_backend.importers.tflite_file import byte_count

# Another batch size, to see which shape arithmetic depends on it; no axis is that long by chance.
_OTHER_BATCH: Final = 1_000_003


def folded(context: Context, node: FileNode) -> bool:
    """Evaluate a node on constants, at the nominal batch and at another one."""
    if node.is_standard and node.kind == "Constant" and node.has("value"):
        proto = node.tensor("value")
        assert proto is not None
        dtype, data = context.file.constants.decode(proto)
        context.builder.add_value(Value(node.outputs[0], dtype, data.shape, data=data))
        return True
    if not node.is_standard or node.has_subgraph:
        return False
    if node.kind in ("Shape", "Size"):
        return _measured(context, node)
    values = [context.value(name) if name else None for name in node.inputs]
    if any(v is not None and not v.is_constant for v in values):
        return False
    if _moved_codes(context, node, values):
        return True
    values = [v if v is None else _with_reals(context, v) for v in values]
    if any(v is not None and v.data is None for v in values):
        return False
    if any(v is not None and v.dtype in (DType.OTHER, DType.BFLOAT16) for v in values):
        return False
    quantized_ones = any(v is not None and v.quantization is not None for v in values)
    if quantized_ones and node.kind not in ("Identity", "Clip"):
        return False
    if node.kind == "ConstantOfShape":
        return _filled(context, node)
    results = fold(node, [None if v is None else v.data for v in values])
    if results is None or not context.builder.memory.take(sum(r.nbytes for r in results)):
        return False
    others: Sequence[object] = ()
    if any(v is not None and v.other_batch is not None for v in values):
        found = fold(
            node,
            [
                None if v is None else v.data if v.other_batch is None else v.other_batch
                for v in values
            ],
        )
        if found is None or len(found) != len(results):
            context.mixes_batch = True
        else:
            others = found
    first = next((v for v in values if v is not None), None)
    packed = first is not None and first.dtype in (DType.INT4, DType.UINT4)
    if packed and node.kind not in MOVING:
        return False
    for index, (name, data) in enumerate(zip(node.outputs, results, strict=False)):
        kind = first.dtype if packed and first is not None else folded_type(data)
        if kind is None:
            return False
        if not name:
            continue
        value = Value(name, kind, data.shape, data=data)
        if quantized_ones and first is not None:
            value.quantization = first.quantization
        other = others[index] if others else None
        if isinstance(other, np.ndarray):
            if other.shape != data.shape:
                context.mixes_batch = True
            elif (other != data).any():
                value.other_batch = other
        context.builder.add_value(value)
    return True


def _moved_codes(context: Context, node: FileNode, values: Sequence[Value | None]) -> bool:
    """Moves of dequantized constants move their integers, which stay integers that way."""
    first, *others = values or (None,)
    if first is None or first.codes is None or node.kind not in MOVING - {"Clip", "Concat"}:
        return False
    scales = first.codes.quantization
    if scales is None or scales.axis is not None:
        return False
    arrays = [first.codes.data, *(None if v is None else v.data for v in others)]
    results = fold(node, arrays)
    if results is None or not context.builder.memory.take(sum(r.nbytes for r in results)):
        return False
    for name, data in zip(node.outputs, results, strict=False):
        if name:
            codes = Value(
                f"{name}/codes", first.codes.dtype, data.shape, data=data, quantization=scales
            )
            pending = (*first.pending_nodes(), node.index)
            context.builder.add_value(
                Value(name, first.dtype, data.shape, codes=codes, pending=pending)
            )
    return True


def _with_reals(context: Context, value: Value) -> Value:
    """A constant by its reals, where it is the DequantizeLinear of integers."""
    if value.codes is None or not context.builder.memory.take(4 * prod(value.shape)):
        return value
    return Value(value.name, value.dtype, value.shape, data=dequantized(value.codes))


def _measured(context: Context, node: FileNode) -> bool:
    """Shape and Size: known while importing, at two batch sizes."""
    value = context.given(node, 0)
    batch = context.file.batch
    shapes = [value.shape]
    if not value.is_constant and value.shape[:1] == (batch,):
        shapes.append((_OTHER_BATCH, *value.shape[1:]))
    found: list[NDArray[np.int64]] = []
    for shape in shapes:
        lengths: NDArray[np.int64] = np.array(shape, np.int64)
        if node.kind == "Size":
            found.append(np.array(lengths.prod(), np.int64))
        else:
            end = node.integer("end", len(shape)) if node.has("end") else None
            found.append(lengths[node.integer("start", 0) : end])
    result = Value(node.outputs[0], DType.INT64, found[0].shape, data=found[0])
    if len(found) > 1 and (found[0] != found[1]).any():
        result.other_batch = found[1]
    context.builder.add_value(result)
    return True


def _filled(context: Context, node: FileNode) -> bool:
    given = context.given(node, 0)
    assert given.data is not None
    if given.other_batch is not None:
        return False
    shape = tuple(int(n) for n in given.data.reshape(-1))
    proto = node.tensor("value")
    dtype: DType = DType.FLOAT32
    fill: AnyArray = np.zeros(1, np.float32)
    if proto is not None:
        dtype, fill = context.file.constants.decode(proto)
    if dtype is DType.OTHER or fill.size != 1 or min(shape, default=1) < 0:
        return False
    if not context.builder.memory.take(byte_count(dtype, shape)):
        return False
    data = np.full(shape, fill.reshape(()), dtype.numpy)
    context.builder.add_value(Value(node.outputs[0], dtype, shape, data=data))
    return True
