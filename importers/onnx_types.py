# SPDX-License-Identifier: Apache-2.0
"""Types and shapes of the results of nodes that have no meaning here, by ONNX's own inference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import onnx
import onnx.defs
import onnx.shape_inference

from akida_backend.graph import DType
from akida_backend.importers.onnx_file import FileNode, OnnxFile, ValueType
from akida_backend.importers.onnx_qonnx import DOMAINS as QONNX_DOMAINS
from akida_backend.importers.onnx_qonnx import QUANTIZERS
from akida_backend.importers.onnx_tensors import DTYPES, NUMBERS, to_proto
from akida_backend.importers.onnx_values import Value
from akida_backend.importers.shape_inference import FixedShape

_SMALL: Final = 1024  # values of a constant that shape inference may look at
_SHAPE_TYPES: Final = frozenset({DType.INT32, DType.INT64, DType.FLOAT32})

_FIXED_SIZES: Final = (
    "Store the shapes in the file (onnx.shape_inference, or "
    "python -m onnxruntime.quantization.preprocess), or export with fixed sizes."
)


def result_types(
    node: FileNode, file: OnnxFile, values: Mapping[str, Value]
) -> dict[str, tuple[DType, FixedShape]]:
    """Type and shape of each result.

    Args:
        node: The node.
        file: Declares types of its own.
        values: Known ones by name, at least the node's inputs.

    Raises:
        ImportModelError: Neither inference nor the file tells a shape.
    """
    inferred = _inferred(node, file, values)
    found: dict[str, tuple[DType, FixedShape]] = {}
    for name in node.outputs:
        if not name:
            continue
        declared = file.declared.get(name)
        for candidate in (inferred.get(name), declared):
            shape = _fixed(candidate, file.batch)
            if candidate is not None and shape is not None:
                found[name] = candidate.dtype, shape
                break
        else:
            raise node.error("output", f"result '{name}' has no fixed shape", remedy=_FIXED_SIZES)
    return found


def _fixed(value: ValueType | None, batch: int) -> FixedShape | None:
    if value is None or value.shape is None:
        return None
    shape = tuple(
        batch if axis == 0 and length is None else length for axis, length in enumerate(value.shape)
    )
    known = tuple(length for length in shape if length is not None)
    return known if len(known) == len(shape) else None


def _inferred(node: FileNode, file: OnnxFile, values: Mapping[str, Value]) -> dict[str, ValueType]:
    domain = node.domain
    if domain in QONNX_DOMAINS and node.kind in QUANTIZERS:  # onnx does not know them
        x = values.get(node.inputs[0])
        return {} if x is None else {node.outputs[0]: ValueType(x.dtype, x.shape)}
    if not onnx.defs.has(node.kind, domain):
        return {}
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for name in (*node.inputs, *outer_names(node.proto)):
        value = values.get(name)
        if not name or value is None or value.dtype not in NUMBERS:
            continue
        types[name] = onnx.helper.make_tensor_type_proto(NUMBERS[value.dtype], value.shape)
        known = value.data is not None and value.data.size <= _SMALL
        if known and value.data is not None and value.dtype in _SHAPE_TYPES:
            data[name] = to_proto(name, value.dtype, value.data)
    try:
        schema = onnx.defs.get_schema(node.kind, node.opset, domain)
        found = onnx.shape_inference.infer_node_outputs(
            schema,
            node.proto,
            types,
            data,
            opset_imports=[onnx.helper.make_opsetid(d, v) for d, v in file.opsets.items()],
            ir_version=min(int(file.model.ir_version), onnx.IR_VERSION),
        )
    except Exception:  # inference raises what it likes; the file may know more
        return {}
    return {name: kind for name, proto in found.items() if (kind := _value_type(proto)) is not None}


def _value_type(proto: onnx.TypeProto) -> ValueType | None:
    if proto.WhichOneof("value") != "tensor_type":
        return None
    dtype = DTYPES.get(proto.tensor_type.elem_type)
    if dtype is None or not proto.tensor_type.HasField("shape"):
        return None
    return ValueType(
        dtype,
        tuple(
            int(dim.dim_value) if dim.HasField("dim_value") else None
            for dim in proto.tensor_type.shape.dim
        ),
    )


def outer_names(node: onnx.NodeProto) -> tuple[str, ...]:
    """Names that the graphs inside a node read from outside, as far as they are not their own."""
    names: dict[str, None] = {}

    def walk(graph: onnx.GraphProto, inner: frozenset[str]) -> None:
        own = inner | {v.name for v in graph.input} | {v.name for v in graph.initializer}
        for child in graph.node:
            names.update(dict.fromkeys(n for n in child.input if n and n not in own))
            for attribute in child.attribute:
                for body in _graphs(attribute):
                    walk(body, own)
            own |= set(child.output)
        names.update(dict.fromkeys(v.name for v in graph.output if v.name not in own))

    for attribute in node.attribute:
        for body in _graphs(attribute):
            walk(body, frozenset())
    return tuple(names)


def _graphs(attribute: onnx.AttributeProto) -> tuple[onnx.GraphProto, ...]:
    match attribute.type:
        case onnx.AttributeProto.GRAPH:
            return (attribute.g,)
        case onnx.AttributeProto.GRAPHS:
            return tuple(attribute.graphs)
        case _:
            return ()
