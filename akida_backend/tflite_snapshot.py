# SPDX-License-Identifier: Apache-2.0
"""The graph a TFLite runtime shows its delegate, as the bytes of a TFLite file.

A delegate never sees the model's file. What it sees is written down as a file again, so that the
importer reads a model and a running interpreter in the same way. Two things cannot be seen: the
order in which the model lists its inputs and outputs (they come ascending), and inputs that
no operator reads.

Source of the structures of options: TensorFlow, lite/core/c/builtin_op_data.h.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from tflite import BuiltinOperator

from akida_backend.tflite_records import (
    CUSTOM,
    FileRecord,
    OperatorRecord,
    TensorRecord,
    Value,
)


class TensorView(ctypes.Structure):
    """``akida_backend_tflite_tensor`` of native/plugins/tflite_compiler.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("shape", ctypes.POINTER(ctypes.c_int32)),
        ("signature", ctypes.POINTER(ctypes.c_int32)),
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("scales", ctypes.POINTER(ctypes.c_float)),
        ("zero_points", ctypes.POINTER(ctypes.c_int32)),
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("scale_count", ctypes.c_int32),
        ("zero_point_count", ctypes.c_int32),
        ("quantized_dimension", ctypes.c_int32),
        ("is_variable", ctypes.c_int32),
        ("is_sparse", ctypes.c_int32),
    )


class NodeView(ctypes.Structure):
    """``akida_backend_tflite_node``."""

    _fields_ = (
        ("custom_name", ctypes.c_char_p),
        ("inputs", ctypes.POINTER(ctypes.c_int32)),
        ("outputs", ctypes.POINTER(ctypes.c_int32)),
        ("options", ctypes.c_void_p),
        ("custom_bytes", ctypes.c_uint64),
        ("index", ctypes.c_int32),
        ("code", ctypes.c_int32),
        ("version", ctypes.c_int32),
        ("input_count", ctypes.c_int32),
        ("output_count", ctypes.c_int32),
    )


class GraphView(ctypes.Structure):
    """``akida_backend_tflite_graph``."""

    _fields_ = (
        ("tensors", ctypes.POINTER(TensorView)),
        ("nodes", ctypes.POINTER(NodeView)),
        ("inputs", ctypes.POINTER(ctypes.c_int32)),
        ("outputs", ctypes.POINTER(ctypes.c_int32)),
        ("tensor_count", ctypes.c_int32),
        ("node_count", ctypes.c_int32),
        ("input_count", ctypes.c_int32),
        ("output_count", ctypes.c_int32),
    )


# The runtime's number of an element type -> the schema's. Types that are not here occur in
# tensors the runtime adds for itself.
_TYPES: Final[Mapping[int, int]] = {
    1: 0,  # float32
    2: 2,  # int32
    3: 3,  # uint8
    4: 4,  # int64
    5: 5,  # string
    6: 6,  # bool
    7: 7,  # int16
    8: 8,  # complex64
    9: 9,  # int8
    10: 1,  # float16
    11: 10,  # float64
    12: 11,  # complex128
    13: 12,  # uint64
    14: 13,  # resource
    15: 14,  # variant
    16: 15,  # uint32
    17: 16,  # uint16
    18: 17,  # int4
    19: 18,  # bfloat16
    20: 19,  # int2
    21: 20,  # uint4
}
_NO_TYPE: Final = 14

# Options the importer reads: the schema's table, and the fields of the runtime's structure in its
# order, each with a `struct` code ("I[8]": up to eight numbers and their count).
_PADDED: Final = (("Padding", "i"), ("StrideW", "i"), ("StrideH", "i"))
_ACTIVATION: Final = ("FusedActivationFunction", "i")
_DILATION: Final = (("DilationWFactor", "i"), ("DilationHFactor", "i"))
_WINDOW: Final = (("FilterWidth", "i"), ("FilterHeight", "i"))
_RESIZE: Final = (("AlignCorners", "?"), ("HalfPixelCenters", "?"))
_SLICE: Final = ("BeginMask", "EndMask", "EllipsisMask", "NewAxisMask", "ShrinkAxisMask")

_LIST: Final = "list"
_LIST_LENGTH: Final = 8

_Options = tuple[str, tuple[tuple[str, str], ...]]

_OPTIONS: Final[Mapping[int, _Options]] = {
    BuiltinOperator.CONV_2D: ("Conv2DOptions", (*_PADDED, _ACTIVATION, *_DILATION)),
    BuiltinOperator.DEPTHWISE_CONV_2D: (
        "DepthwiseConv2DOptions",
        (*_PADDED, ("DepthMultiplier", "i"), _ACTIVATION, *_DILATION),
    ),
    BuiltinOperator.TRANSPOSE_CONV: ("TransposeConvOptions", (*_PADDED, _ACTIVATION)),
    BuiltinOperator.FULLY_CONNECTED: (
        "FullyConnectedOptions",
        (_ACTIVATION, ("WeightsFormat", "i"), ("KeepNumDims", "?")),
    ),
    BuiltinOperator.MAX_POOL_2D: ("Pool2DOptions", (*_PADDED, *_WINDOW, _ACTIVATION)),
    BuiltinOperator.AVERAGE_POOL_2D: ("Pool2DOptions", (*_PADDED, *_WINDOW, _ACTIVATION)),
    BuiltinOperator.ADD: ("AddOptions", (_ACTIVATION,)),
    BuiltinOperator.SUB: ("SubOptions", (_ACTIVATION,)),
    BuiltinOperator.MUL: ("MulOptions", (_ACTIVATION,)),
    BuiltinOperator.CONCATENATION: ("ConcatenationOptions", (("Axis", "i"), _ACTIVATION)),
    BuiltinOperator.MEAN: ("ReducerOptions", (("KeepDims", "?"),)),
    BuiltinOperator.RESHAPE: ("ReshapeOptions", (("NewShape", _LIST),)),
    BuiltinOperator.SQUEEZE: ("SqueezeOptions", (("SqueezeDims", _LIST),)),
    BuiltinOperator.SPLIT: ("SplitOptions", (("NumSplits", "i"),)),
    BuiltinOperator.SPLIT_V: ("SplitVOptions", (("NumSplits", "i"),)),
    BuiltinOperator.PACK: ("PackOptions", (("ValuesCount", "i"), ("Axis", "i"))),
    BuiltinOperator.UNPACK: ("UnpackOptions", (("Num", "i"), ("Axis", "i"))),
    BuiltinOperator.GATHER: ("GatherOptions", (("Axis", "i"), ("BatchDims", "i"))),
    BuiltinOperator.STRIDED_SLICE: (
        "StridedSliceOptions",
        (*((mask, "i") for mask in _SLICE), ("Offset", "?")),
    ),
    BuiltinOperator.SOFTMAX: ("SoftmaxOptions", (("Beta", "f"),)),
    BuiltinOperator.LEAKY_RELU: ("LeakyReluOptions", (("Alpha", "f"),)),
    BuiltinOperator.RESIZE_BILINEAR: ("ResizeBilinearOptions", _RESIZE),
    BuiltinOperator.RESIZE_NEAREST_NEIGHBOR: ("ResizeNearestNeighborOptions", _RESIZE),
}

# Fields that older runtimes do not have, and the operator's version that brought them.
_SINCE: Final[Mapping[tuple[int, str], int]] = {
    (BuiltinOperator.TRANSPOSE_CONV, "FusedActivationFunction"): 4,
    (BuiltinOperator.STRIDED_SLICE, "Offset"): 8,
}


def snapshot(graph: GraphView) -> bytes:
    """The graph as a file; operator i is the i-th node, and tensors keep their numbers."""
    return FileRecord(
        tensors=[_tensor(graph.tensors[i]) for i in range(graph.tensor_count)],
        operators=[_operator(graph.nodes[i]) for i in range(graph.node_count)],
        inputs=graph.inputs[: graph.input_count],
        outputs=graph.outputs[: graph.output_count],
    ).to_bytes()


def sparse_tensor(graph: GraphView) -> str | None:
    """Name of a sparse tensor, which the records cannot say."""
    tensors = (graph.tensors[i] for i in range(graph.tensor_count))
    return next((t.name.decode(errors="replace") for t in tensors if t.is_sparse), None)


def _tensor(tensor: TensorView) -> TensorRecord:
    shape = tensor.shape[: tensor.rank]
    signature = tensor.signature[: tensor.rank] if tensor.signature else None
    return TensorRecord(
        name=tensor.name.decode(errors="surrogateescape"),
        type=_TYPES.get(tensor.type, _NO_TYPE),
        shape=shape,
        signature=signature,
        scale=np.array(tensor.scales[: tensor.scale_count], np.float32).tolist(),
        zero_point=tensor.zero_points[: tensor.zero_point_count],
        axis=tensor.quantized_dimension,
        data=ctypes.string_at(tensor.data, tensor.bytes) if tensor.data else None,
        is_variable=bool(tensor.is_variable),
    )


def _operator(node: NodeView) -> OperatorRecord:
    table, options = _builtin_options(node)
    custom = b""
    if node.code == CUSTOM and node.options:
        custom = ctypes.string_at(node.options, node.custom_bytes)
    return OperatorRecord(
        code=node.code,
        inputs=node.inputs[: node.input_count],
        outputs=node.outputs[: node.output_count],
        table=table,
        options=options,
        version=node.version,
        custom_name=(node.custom_name or b"").decode(errors="replace"),
        custom_options=custom,
    )


def _builtin_options(node: NodeView) -> tuple[str, Mapping[str, Value]]:
    known = _OPTIONS.get(node.code)
    if known is None or not node.options:
        return "", {}
    table, fields = known
    present = [
        (name, kind) for name, kind in fields if node.version >= _SINCE.get((node.code, name), 0)
    ]
    kinds = "".join(f"{_LIST_LENGTH + 1}i" if kind == _LIST else kind for _, kind in present)
    layout = f"@{kinds}"
    values: Sequence[Any] = struct.unpack(
        layout, ctypes.string_at(node.options, struct.calcsize(layout))
    )
    if any(kind == _LIST for _, kind in present):
        ((name, _),) = present
        *entries, count = values
        return table, {name: entries[: min(max(count, 0), _LIST_LENGTH)]}
    options = {name: value for (name, _), value in zip(present, values, strict=True)}
    if "Padding" in options:
        # The runtime counts from "unknown", the schema from SAME.
        options["Padding"] = max(options["Padding"] - 1, 0)
    return table, options
