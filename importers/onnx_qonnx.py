# SPDX-License-Identifier: Apache-2.0
"""QONNX ``Quant`` and ``BipolarQuant`` nodes as QuantizeLinear and DequantizeLinear.

A Quant node gives reals on a grid: ``scale * (clip(round(x / scale + zero)) - zero)``. That is a
QuantizeLinear to 8 bits, a Clip where the grid has fewer codes, and a DequantizeLinear.
BipolarQuant, and Quant with one signed bit, give ``scale`` times +1 or -1 by the sign of their
input; for a constant these are its integers.

Source:
    QONNX operator definitions. Quant (IntQuant in newer versions): inputs x, scale, zeropt,
    bitwidth; attributes signed, narrow, rounding_mode. BipolarQuant: inputs x, scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
QUANTIZERS: Final = {"Quant": 4, "IntQuant": 4, "BipolarQuant": 2}  # inputs


class _OtherMeaningError(Exception):
    """A node is no uniform grid of integers; why."""


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """What a node says.

    Attributes:
        scale: One value, or one per channel with length-1 axes around.
        zero: Whole numbers, one or as many as scales.
        codes: Lowest and highest.
        bits: Its width.
        bipolar: Codes are +1 and -1, by sign.
    """

    scale: AnyArray
    zero: NDArray[np.float64]
    codes: tuple[int, int]
    bits: int
    bipolar: bool

    @property
    def axis(self) -> int | None:
        """Of the channels, counted from the last."""
        shape = self.scale.shape
        found = [i - len(shape) for i, length in enumerate(shape) if length != 1]
        return found[0] if found else None


def expand_quant(model: onnx.ModelProto, label: str) -> tuple[onnx.ModelProto, Mapping[str, str]]:
    """The same model with Quant nodes replaced; itself where there are none.

    Returns:
        The model, and why a node means something else and stays, by the result it writes.
    """
    nodes = model.graph.node
    if not any(_is_quant(node) for node in nodes):
        return model, {}
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    constants = Constants(model.graph.initializer, label, None)
    taken = constants.names | {name for node in nodes for name in (*node.input, *node.output)}
    produced = _constant_nodes(nodes)
    reasons: dict[str, str] = {}
    for node in nodes:
        if not _is_quant(node):
            changed.graph.node.append(node)
            continue
        try:
            _check_surroundings(node, opset, taken)
            new_nodes, new_constants = _replaced(node, constants, produced)
        except _OtherMeaningError as problem:
            reasons.update((name, f"{node.op_type}: {problem}") for name in node.output)
            changed.graph.node.append(node)
            continue
        changed.graph.node.extend(new_nodes)
        changed.graph.initializer.extend(new_constants)
    return changed, reasons


def _is_quant(node: onnx.NodeProto) -> bool:
    return node.op_type in QUANTIZERS and node.domain in DOMAINS


def _check_surroundings(node: onnx.NodeProto, opset: int, taken: frozenset[str]) -> None:
    if opset < _OLDEST_OPSET:
        raise _OtherMeaningError(f"opset {opset} is too old for it")
    if len(node.input) != QUANTIZERS[node.op_type] or len(node.output) != 1:
        raise _OtherMeaningError(f"{len(node.input)} inputs and {len(node.output)} outputs")
    if f"{node.output[0]}/codes" in taken:
        raise _OtherMeaningError(f"the name '{node.output[0]}/codes' is taken")


def _constant_nodes(nodes: onnx.NodeProto) -> Mapping[str, TensorProto]:
    return {
        node.output[0]: attribute.t
        for node in nodes
        if node.op_type == "Constant" and len(node.output) == 1
        for attribute in node.attribute
        if attribute.name == "value"
    }


def _replaced(
    node: onnx.NodeProto, constants: Constants, produced: Mapping[str, TensorProto]
) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """Nodes and constants that say the same."""

    def value(name: str) -> AnyArray | None:
        try:
            if name in constants.names:
                return constants.read(name)[1]
            return constants.decode(produced[name])[1] if name in produced else None
        except ImportModelError:
            return None

    source, *names = node.input
    parameters = [value(name) for name in names]
    if any(found is None for found in parameters):
        raise _OtherMeaningError("scale, zero point and bit width have to be constants")
    grid = _grid(node, [found for found in parameters if found is not None])
    is_constant = source in constants.names or source in produced
    if not grid.bipolar:
        return _written(node, grid, is_constant=is_constant)
    reals = value(source)
    if reals is None:
        raise _OtherMeaningError(
            "its input is computed, and -1 and +1 by sign are no codes that rounding gives; "
            "only constants can have them"
        )
    return _signs(node, grid, reals)


def _grid(node: onnx.NodeProto, parameters: list[AnyArray]) -> _Grid:
    scale, *rest = parameters
    if sum(length != 1 for length in scale.shape) > 1:
        raise _OtherMeaningError(f"scales of shape {list(scale.shape)}")
    if not rest:
        return _Grid(scale, np.zeros(1), (-1, 1), 1, bipolar=True)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    signed, narrow = attributes.get("signed", 1), attributes.get("narrow", 0)
    rounding = attributes.get("rounding_mode", b"ROUND")
    rounding = rounding.decode(errors="replace") if isinstance(rounding, bytes) else str(rounding)
    if rounding.upper() not in ("ROUND", "ROUND_EVEN"):
        raise _OtherMeaningError(f"a rounding_mode of {rounding!r}")
    zero, bits = (values.astype(np.float64).reshape(-1) for values in rest)
    if zero.size not in (1, scale.size) or not np.array_equal(zero, np.rint(zero)):
        raise _OtherMeaningError("zero points that are not whole, or not one per scale")
    if bits.size != 1 or bits[0] not in range(1, 9):
        raise _OtherMeaningError(f"a bit width of {', '.join(f'{width:g}' for width in bits[:4])}")
    if signed not in (0, 1) or narrow not in (0, 1):
        raise _OtherMeaningError(f"signed {signed} and narrow {narrow}")
    width = int(bits[0])
    if signed and width == 1:
        if zero.any():
            raise _OtherMeaningError("one signed bit with a zero point")
        return _Grid(scale, zero, (-1, 1), 1, bipolar=True)
    low = narrow - (1 << (width - 1)) if signed else 0
    high = (1 << (width - 1)) - 1 if signed else (1 << width) - 1 - narrow
    if zero.min() < low or zero.max() > high:
        raise _OtherMeaningError(f"a zero point beyond {low} to {high}")
    return _Grid(scale, zero, (low, high), width, bipolar=False)


def _signs(
    node: onnx.NodeProto, grid: _Grid, reals: AnyArray
) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """A constant of +1 and -1, dequantized."""
    shape = list(reals.shape)
    reals = reals.astype(np.float64).ravel()
    codes = np.where(reals >= 0, 1, 15).astype(np.uint8)  # 15: -1 in four bits
    pairs = np.append(codes, np.zeros(codes.size % 2, np.uint8))
    stored = f"{node.output[0]}/codes"
    made = TensorProto(name=stored, data_type=TensorProto.INT4, dims=shape)
    made.raw_data = (pairs[0::2] | pairs[1::2] << 4).astype(np.uint8).tobytes()
    last, parameters = _dequantized(node, stored, grid, TensorProto.INT4)
    return [last], [made, *parameters]


def _written(
    node: onnx.NodeProto, grid: _Grid, *, is_constant: bool
) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    output = node.output[0]
    signed = grid.codes[0] < 0
    dtype = DType.INT8 if signed else DType.UINT8
    kind = TensorProto.INT8 if signed else TensorProto.UINT8
    if is_constant and grid.bits == 4:
        dtype = DType.INT4 if signed else DType.UINT4
        kind = TensorProto.INT4 if signed else TensorProto.UINT4
    stored = f"{output}/codes"
    label = node.name or output
    last, made = _dequantized(node, stored, grid, kind)
    first = helper.make_node("QuantizeLinear", [node.input[0], *last.input[1:]], [stored], label)
    first.attribute.extend(last.attribute)
    nodes = [first]
    if grid.codes != dtype.code_range:
        bounds = [f"{output}/low", f"{output}/high"]
        made += [
            helper.make_tensor(name, kind, [], [code])
            for name, code in zip(bounds, grid.codes, strict=True)
        ]
        clipped = f"{output}/clipped"
        nodes.append(helper.make_node("Clip", [stored, *bounds], [clipped], label))
        last.input[0] = clipped
    return [*nodes, last], made


def _dequantized(
    node: onnx.NodeProto, stored: str, grid: _Grid, kind: int
) -> tuple[onnx.NodeProto, list[TensorProto]]:
    """The DequantizeLinear that writes a node's result, and its parameters."""
    output, scale = node.output[0], grid.scale
    shape = [] if grid.axis is None else [scale.size]
    zeros = np.broadcast_to(grid.zero, scale.size).astype(int).tolist()
    names = [f"{output}/scale", f"{output}/zero_point"]
    made = [
        helper.make_tensor(names[0], TensorProto.FLOAT, shape, scale.reshape(-1).tolist()),
        helper.make_tensor(names[1], kind, shape, zeros),
    ]
    last = helper.make_node("DequantizeLinear", [stored, *names], [output], node.name or output)
    if grid.axis is not None:
        last.attribute.append(helper.make_attribute("axis", grid.axis))
    return last, made
