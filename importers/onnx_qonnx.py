# SPDX-License-Identifier: Apache-2.0
"""QONNX ``Quant`` nodes as QuantizeLinear and DequantizeLinear, where they mean uniform integers.

A Quant node gives reals on a grid: ``scale * (clip(round(x / scale + zero)) - zero)``. That is a
QuantizeLinear to 8 bits, a Clip where the grid has fewer codes, and a DequantizeLinear. Nodes
that mean anything else stay as they are.

Source:
    QONNX operator definitions, Quant: inputs x, scale, zeropt, bitwidth; attributes signed,
    narrow, rounding_mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from akida_backend.errors import ImportModelError
from akida_backend.graph import AnyArray, DType
from akida_backend.importers.onnx_tensors import Constants

DOMAINS: Final = frozenset({"qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general"})
_OLDEST_OPSET: Final = 13  # scales along an axis, and Clip of integers


def expand_quant(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    """The same model with Quant nodes replaced; itself where there are none."""
    nodes = model.graph.node
    if not any(_is_quant(node) for node in nodes):
        return model
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < _OLDEST_OPSET:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    constants = Constants(model.graph.initializer, label, None)
    taken = constants.names | {name for node in nodes for name in (*node.input, *node.output)}
    produced = _constant_nodes(nodes)
    for node in nodes:
        grid = _grid(node, constants, produced) if _is_quant(node) else None
        if grid is None or f"{node.output[0]}/codes" in taken:
            changed.graph.node.append(node)
            continue
        new_nodes, new_constants = grid
        changed.graph.node.extend(new_nodes)
        changed.graph.initializer.extend(new_constants)
    return changed


def _is_quant(node: onnx.NodeProto) -> bool:
    return node.op_type == "Quant" and node.domain in DOMAINS and len(node.input) == 4


def _constant_nodes(nodes: onnx.NodeProto) -> Mapping[str, TensorProto]:
    return {
        node.output[0]: attribute.t
        for node in nodes
        if node.op_type == "Constant" and len(node.output) == 1
        for attribute in node.attribute
        if attribute.name == "value"
    }


def _grid(
    node: onnx.NodeProto, constants: Constants, produced: Mapping[str, TensorProto]
) -> tuple[list[onnx.NodeProto], list[TensorProto]] | None:
    """Nodes and constants that say the same, or None where the node means something else."""

    def value(name: str) -> AnyArray | None:
        try:
            if name in constants.names:
                return constants.read(name)[1]
            return constants.decode(produced[name])[1] if name in produced else None
        except ImportModelError:
            return None

    scale, zero, bits = (value(name) for name in node.input[1:])
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    signed, narrow = attributes.get("signed", 1), attributes.get("narrow", 0)
    rounding = attributes.get("rounding_mode", b"ROUND")
    if scale is None or zero is None or bits is None or rounding not in (b"ROUND", b"ROUND_EVEN"):
        return None
    axis = [i for i, length in enumerate(scale.shape) if length != 1]
    if bits.size != 1 or zero.size not in (1, scale.size) or len(axis) > 1:
        return None
    reals = zero.astype(np.float64).reshape(-1)
    width = float(bits.reshape(()).astype(np.float64))
    if not (np.isfinite(reals).all() and (reals == np.rint(reals)).all() and width == int(width)):
        return None
    if not 1 <= width <= 8 or signed not in (0, 1) or narrow not in (0, 1):
        return None
    low = (-(2 ** (int(width) - 1)) if signed else 0) + (narrow if signed else 0)
    high = 2 ** (int(width) - 1) - 1 if signed else 2 ** int(width) - 1 - narrow
    if reals.min() < low or reals.max() > high:
        return None
    constant = node.input[0] in constants.names or node.input[0] in produced
    dtype = DType.INT8 if signed else DType.UINT8
    if constant and width == 4:
        dtype = DType.INT4 if signed else DType.UINT4
    return _written(node, dtype, (low, high), scale, reals, axis)


def _written(
    node: onnx.NodeProto,
    dtype: DType,
    codes: tuple[int, int],
    scale: AnyArray,
    zero: NDArray[np.float64],
    axis: list[int],
) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    output = node.output[0]
    kind = {
        DType.INT8: TensorProto.INT8,
        DType.UINT8: TensorProto.UINT8,
        DType.INT4: TensorProto.INT4,
        DType.UINT4: TensorProto.UINT4,
    }[dtype]
    shape = [scale.size] if axis else []
    zeros = np.broadcast_to(zero, scale.size).astype(int).tolist()
    names = [f"{output}/scale", f"{output}/zero_point"]
    made = [
        helper.make_tensor(names[0], TensorProto.FLOAT, shape, scale.reshape(-1).tolist()),
        helper.make_tensor(names[1], kind, shape, zeros),
    ]
    stored = f"{output}/codes"
    label = node.name or output
    nodes = [helper.make_node("QuantizeLinear", [node.input[0], *names], [stored], name=label)]
    if axis:
        nodes[0].attribute.append(helper.make_attribute("axis", axis[0]))
    if codes != dtype.code_range:
        bounds = [f"{output}/low", f"{output}/high"]
        made += [
            helper.make_tensor(name, kind, [], [code])
            for name, code in zip(bounds, codes, strict=True)
        ]
        clipped = f"{output}/clipped"
        nodes.append(helper.make_node("Clip", [stored, *bounds], [clipped], name=label))
        stored = clipped
    last = helper.make_node("DequantizeLinear", [stored, *names], [output], name=label)
    last.attribute.extend(nodes[0].attribute)
    return [*nodes, last], made
