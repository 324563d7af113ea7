# SPDX-License-Identifier: Apache-2.0
"""QOperator form: one node that names the scales of its operands and of its result.

Source:
    ONNX and onnxruntime contrib operators: the order of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from akida_backend.graph import Quantization
from akida_backend.importers.onnx_file import FileNode
from akida_backend.importers.onnx_scales import read_scale
from akida_backend.importers.onnx_units import Unit
from akida_backend.importers.onnx_values import Builder, NotModelledError, Target, Value

Optional_ = Callable[[int], Value | None]
Coded = Callable[[Value, Quantization], Value]


@dataclass(frozen=True, slots=True)
class QOperator:
    """Where a node keeps what.

    Attributes:
        kind: The plain operator it computes.
        operands: Positions of the operands; their scale and zero point follow.
        result: Position of the result's scale; the zero point follows.
        bias: Position of an int32 bias.
        weights: Channels' axis of each operand, where it may have several scales.
        lists: Whether operands with scale and zero point repeat from position 2 on.
    """

    kind: str
    operands: tuple[int, ...]
    result: int
    bias: int | None = None
    axes: tuple[int, ...] = (0, 0)
    lists: bool = False

    def unit(self, builder: Builder, node: FileNode, given: Optional_, coded: Coded) -> Unit:
        """The node as a unit.

        Args:
            builder: Where its operations go.
            node: The node.
            given: Its inputs by position.
            coded: A value on the scale that the node names.
        """
        positions = tuple(range(2, len(node.inputs), 3)) if self.lists else self.operands
        operands: list[Value | None] = []
        for number, position in enumerate(positions):
            value = given(position)
            scale = given(position + 1)
            if value is None or scale is None:
                raise node.error("input", f"input {position} or its scale is absent")
            axis = self.axes[number] if number < len(self.axes) else 0
            if self.kind == "Gemm" and number == 1 and node.flag("transB"):
                axis = 0
            scales = read_scale(
                node, scale, given(position + 2), value.dtype, axis=axis, rank=value.rank
            )
            operands.append(coded(value, scales))
        if self.bias is not None:
            operands.append(given(self.bias))
        first = next(iter(operands), None)
        if first is None:
            raise node.error("input", "there are no operands")
        scale, zero = given(self.result), given(self.result + 1)
        if scale is None:
            raise NotModelledError(f"{node.kind} with a result of reals is not modelled")
        dtype = first.dtype if zero is None else zero.dtype
        rank = first.rank
        target = Target(
            node.outputs[0], dtype, read_scale(node, scale, zero, dtype, axis=0, rank=rank)
        )
        if target.quantization is not None and target.quantization.axis is not None:
            raise NotModelledError(f"{node.kind} with several scales of its result")
        return Unit(
            builder=builder,
            node=node,
            kind=self.kind,
            operands=tuple(operands),
            targets=(target,),
            nodes=(*(i for v in operands if v is not None for i in v.pending), node.index),
            channels_last=node.flag("channels_last"),
        )


_ONE: Final = ((0,), 3)

QOPERATORS: Final[Mapping[str, QOperator]] = {
    "QLinearConv": QOperator("Conv", (0, 3), 6, bias=8),
    "QLinearMatMul": QOperator("MatMul", (0, 3), 6, axes=(0, -1)),
    "QGemm": QOperator("Gemm", (0, 3), 7, bias=6, axes=(0, 1)),
    "QLinearAdd": QOperator("Add", (0, 3), 6),
    "QLinearMul": QOperator("Mul", (0, 3), 6),
    "QLinearConcat": QOperator("Concat", (), 0, lists=True),
    "QLinearGlobalAveragePool": QOperator("GlobalAveragePool", *_ONE),
    "QLinearAveragePool": QOperator("AveragePool", *_ONE),
    "QLinearReduceMean": QOperator("ReduceMean", *_ONE),
    "QLinearSigmoid": QOperator("Sigmoid", *_ONE),
    "QLinearLeakyRelu": QOperator("LeakyRelu", *_ONE),
    "QLinearSoftmax": QOperator("Softmax", *_ONE),
}
