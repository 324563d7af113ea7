# SPDX-License-Identifier: Apache-2.0
"""Activations of 4-bit and 2-bit ONNX types as 8-bit ones, 2-bit constants as 4-bit ones.

``DequantizeLinear(QuantizeLinear(x))`` in UINT4 is the same in UINT8 with a Clip at 15 between;
INT4 codes are UINT4 ones less 8. Of 2 bits there are 4 codes, less 2. Pairs that anything else
reads stay as they are.

Source:
    ONNX operators QuantizeLinear and DequantizeLinear, types UINT4 and INT4 since opset 21, UINT2
    and INT2 since opset 25: four to a byte, the first in the lowest bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from akida_backend.errors import ImportModelError
from akida_backend.importers.flatbuffer_check import DAMAGED
from akida_backend.importers.onnx_tensors import MAX_CONSTANT_BYTES, Constants

_NUMBERS: Final[Mapping[str, int]] = dict(TensorProto.DataType.items())  # old ones lack 2 bits
# What makes codes count from 0, and how many bits they have.
_GRIDS: Final = {
    _NUMBERS[name]: (shift, bits)
    for name, shift, bits in (("UINT4", 0, 4), ("INT4", 8, 4), ("UINT2", 0, 2), ("INT2", 2, 2))
    if name in _NUMBERS
}
_WIDER: Final = {
    _NUMBERS[two]: _NUMBERS[four]
    for two, four in (("UINT2", "UINT4"), ("INT2", "INT4"))
    if two in _NUMBERS
}
_OPERANDS: Final = 3  # value, scale, zero point


def widen_activations(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    """The same model without 4-bit and 2-bit activations; itself where there are none.

    Raises:
        ImportModelError: A 2-bit constant contradicts itself or is too large.
    """
    types = {constant.name: constant.data_type for constant in model.graph.initializer}
    short = {
        constant.name: constant
        for constant in model.graph.initializer
        if constant.data_type in _WIDER and constant.data_location != TensorProto.EXTERNAL
    }
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    given = {"", *(value.name for value in model.graph.output)}
    narrow = {
        _first(node.output): node
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
        and len(node.input) == _OPERANDS
        and types.get(node.input[2]) in _GRIDS
        and (types[node.input[2]] not in _WIDER or node.input[2] in short)
        and (node.input[0] not in types or types[node.input[2]] in _WIDER)
        and _first(node.output) not in given
        and all(
            reader.op_type == "DequantizeLinear" and reader.input[2:] == node.input[2:]
            for reader in readers.get(_first(node.output), [])
        )
    }
    # Whatever else reads a constant of 2 bits goes on reading it, so nodes get another beside it.
    dequantized = [
        _codes(node)
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and _codes(node) <= short.keys()
    ]
    wanted = {node.input[2] for node in narrow.values()}.union(*dequantized) & short.keys()
    if not narrow and not wanted:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    twins: dict[str, str] = {}
    for name in sorted(wanted):
        twin = changed.graph.initializer.add()
        twin.CopyFrom(short[name])
        _double(twin, label)
        twins[name] = twin.name = _free(f"{name}/4_bits", types.keys())
    constants = Constants(changed.graph.initializer, label, None)
    zeros: dict[str, str] = {}
    bounds: dict[int, str] = {}
    for node in model.graph.node:
        copy = changed.graph.node.add()
        copy.CopyFrom(node)
        wide = _first(node.output) in narrow
        back = node.op_type == "DequantizeLinear"
        if not wide and not (back and _first(node.input) in narrow):
            if back and _codes(node) <= twins.keys():
                for place in range(0, len(copy.input), 2):
                    copy.input[place] = twins.get(copy.input[place], "")
            continue
        zero = node.input[2]
        shift, bits = _GRIDS[types[zero]]
        if zero not in zeros:
            try:
                _, values = constants.read(twins.get(zero, zero))
            except ImportModelError:
                return model
            codes = (values.astype(int) + shift).ravel().tolist()
            zeros[zero] = _free(f"{zero}/8_bits", constants.names)
            made = helper.make_tensor(zeros[zero], TensorProto.UINT8, values.shape, codes)
            changed.graph.initializer.append(made)
        copy.input[2] = zeros[zero]
        if wide:
            for attribute in [a for a in copy.attribute if a.name == "output_dtype"]:
                copy.attribute.remove(attribute)
            copy.output[0] = f"{node.output[0]}/8_bits"
            bound = bounds.setdefault(bits, _free(f"highest_code_{bits}", constants.names))
            clip = changed.graph.node.add()
            clip.CopyFrom(
                helper.make_node("Clip", [copy.output[0], "", bound], [node.output[0]], node.name)
            )
    for bits, bound in bounds.items():
        highest = helper.make_tensor(bound, TensorProto.UINT8, [], [(1 << bits) - 1])
        changed.graph.initializer.append(highest)
    for value in [v for v in changed.graph.value_info if v.name in narrow]:
        changed.graph.value_info.remove(value)
    return changed


def _first(names: Sequence[str]) -> str:
    """Of a node's inputs or outputs; damaged files have nodes without."""
    return names[0] if names else ""


def _codes(node: onnx.NodeProto) -> set[str]:
    """What must have one type: codes and zero point of a node that dequantizes."""
    return {name for name in (*node.input[:1], *node.input[2:]) if name}


def _double(constant: TensorProto, label: str) -> None:
    """Write codes of 2 bits in 4."""
    field = "raw_data" if constant.HasField("raw_data") else "int32_data"
    count = math.prod(constant.dims)
    stored = getattr(constant, field)
    if min(constant.dims, default=0) < 0 or -(-count // 4) != len(stored):
        where = f"{label}: constant '{constant.name}', field {field}"
        problem = f"holds {len(stored)} bytes, but {list(constant.dims)} of 2 bits takes {count}/4"
        raise ImportModelError(where, problem, remedy=DAMAGED)
    if count > MAX_CONSTANT_BYTES:
        where = f"{label}: constant '{constant.name}', field dims"
        problem = f"{list(constant.dims)}: the constants take over {MAX_CONSTANT_BYTES} bytes"
        raise ImportModelError(where, problem, remedy=DAMAGED)
    packed = np.frombuffer(bytes(value & 255 for value in stored), np.uint8)
    codes = (packed[:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).astype(np.uint8)
    if constant.data_type == _NUMBERS.get("INT2"):
        codes |= (codes & 2) * np.uint8(6)  # the sign goes on through the upper bits
    pairs = codes.reshape(-1, 2)[: (count + 1) // 2]
    constant.ClearField(field)
    constant.raw_data = (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8).tobytes()
    constant.data_type = _WIDER[constant.data_type]


def _free(wanted: str, taken: AbstractSet[str]) -> str:
    while wanted in taken:
        wanted += "_"
    return wanted
