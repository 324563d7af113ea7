# SPDX-License-Identifier: Apache-2.0
"""Activations of 4-bit ONNX types as 8-bit ones of 16 codes.

``DequantizeLinear(QuantizeLinear(x))`` in UINT4 is the same in UINT8 with a Clip at 15 between;
INT4 codes are UINT4 ones less 8. Pairs that anything else reads stay as they are.

Source:
    ONNX operators QuantizeLinear and DequantizeLinear, types UINT4 and INT4 since opset 21.
"""

from __future__ import annotations

from typing import Final

import onnx
from onnx import TensorProto, helper

from akida_backend.errors import ImportModelError
from akida_backend.importers.onnx_tensors import Constants

_SHIFT: Final = {TensorProto.UINT4: 0, TensorProto.INT4: 8}
_HIGHEST: Final = 15
_OPERANDS: Final = 3  # value, scale, zero point


def widen_activations(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    """The same model without 4-bit activations; itself where there are none."""
    types = {constant.name: constant.data_type for constant in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    given = {value.name for value in model.graph.output}
    narrow = {
        node.output[0]: node
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
        and len(node.input) == _OPERANDS
        and types.get(node.input[2]) in _SHIFT
        and node.input[0] not in types
        and node.output[0] not in given
        and all(
            reader.op_type == "DequantizeLinear" and reader.input[2:] == node.input[2:]
            for reader in readers.get(node.output[0], [])
        )
    }
    if not narrow:
        return model
    constants = Constants(model.graph.initializer, label, None)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    zeros: dict[str, str] = {}
    bound = _free("highest_code", constants.names)
    for node in model.graph.node:
        copy = changed.graph.node.add()
        copy.CopyFrom(node)
        wide = node.output[0] in narrow
        if not wide and not (node.op_type == "DequantizeLinear" and node.input[0] in narrow):
            continue
        zero = node.input[2]
        if zero not in zeros:
            try:
                _, values = constants.read(zero)
            except ImportModelError:
                return model
            codes = (values.astype(int) + _SHIFT[types[zero]]).ravel().tolist()
            zeros[zero] = _free(f"{zero}/8_bits", constants.names)
            made = helper.make_tensor(zeros[zero], TensorProto.UINT8, values.shape, codes)
            changed.graph.initializer.append(made)
        copy.input[2] = zeros[zero]
        if wide:
            for attribute in [a for a in copy.attribute if a.name == "output_dtype"]:
                copy.attribute.remove(attribute)
            copy.output[0] = f"{node.output[0]}/8_bits"
            clip = changed.graph.node.add()
            clip.CopyFrom(
                helper.make_node("Clip", [copy.output[0], "", bound], [node.output[0]], node.name)
            )
    changed.graph.initializer.append(helper.make_tensor(bound, TensorProto.UINT8, [], [_HIGHEST]))
    for value in [v for v in changed.graph.value_info if v.name in narrow]:
        changed.graph.value_info.remove(value)
    return changed


def _free(wanted: str, taken: frozenset[str] | set[str]) -> str:
    while wanted in taken:
        wanted += "_"
    return wanted
