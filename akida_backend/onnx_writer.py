# SPDX-License-Identifier: Apache-2.0
"""A Graph written as ONNX: ``write_onnx(graph, form) -> bytes``.

Two forms of one network. QDQ: operators on reals between DequantizeLinear and QuantizeLinear.
QOPERATOR: QLinearConv, QGemm, com.microsoft QLinearAdd and their like, which compute on codes;
what has no such operator stays QDQ. Both keep the names of the graph's tensors, name the node of
an operation after its first output as TFLite does, hold tensors of four axes as NCHW, and spell
every operation so that onnxruntime computes it in its integer kernels where it has one.

A fused activation that does not already hold for every code of the output is a Clip of codes
(clamping codes is clamping reals, and the operator before it stays an integer kernel). One that
holds is written only in QDQ, as the Relu or Clip it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from akida_backend.arithmetic import code_bounds, dequantized
from akida_backend.errors import InputError
from akida_backend.graph import (
    Activation,
    Add,
    AnyArray,
    ArgMax,
    AveragePool2D,
    Cast,
    Concatenation,
    Conv2D,
    DepthwiseConv2D,
    Dequantize,
    DType,
    FullyConnected,
    Gather,
    Graph,
    HardSwish,
    LeakyRelu,
    Logistic,
    Maximum,
    MaxPool2D,
    Mean,
    Minimum,
    Mul,
    Node,
    Operation,
    Pack,
    Pad,
    Pads,
    Prelu,
    Quantization,
    Quantize,
    Relu,
    Reshape,
    ResizeBilinear,
    ResizeNearest,
    Size2D,
    Softmax,
    Split,
    StridedSlice,
    Sub,
    Tanh,
    Tensor,
    Transpose,
    TransposeConv2D,
    Unpack,
)

Attributes = Mapping[str, int | float | str | list[int]]
WeightedOperation = Conv2D | DepthwiseConv2D | TransposeConv2D | FullyConnected

OPSET: Final = 21
IR_VERSION: Final = 10
BATCH: Final = "N"

_NO_ATTRIBUTES: Final[Attributes] = MappingProxyType({})
_IMAGE_RANK: Final = 4
_TO_CHANNELS_FIRST: Final = (0, 3, 1, 2)
_TO_CHANNELS_LAST: Final = (0, 2, 3, 1)
_INT8_OFFSET: Final = 128
_BINARY: Final = {Add: "Add", Sub: "Sub", Mul: "Mul", Maximum: "Max", Minimum: "Min"}
_UNARY: Final = {Logistic: "Sigmoid", Tanh: "Tanh", HardSwish: "HardSwish"}
_CONTRIB: Final = "com.microsoft"
_INTEGER_FORMS: Final = {  # operators on codes; ConvTranspose, Tanh and others have none
    "Conv": ("", "QLinearConv"),
    "Gemm": (_CONTRIB, "QGemm"),
    "Add": (_CONTRIB, "QLinearAdd"),
    "Mul": (_CONTRIB, "QLinearMul"),
    "Concat": (_CONTRIB, "QLinearConcat"),
    "GlobalAveragePool": (_CONTRIB, "QLinearGlobalAveragePool"),
    "AveragePool": (_CONTRIB, "QLinearAveragePool"),
    "Sigmoid": (_CONTRIB, "QLinearSigmoid"),
    "LeakyRelu": (_CONTRIB, "QLinearLeakyRelu"),
    "Softmax": (_CONTRIB, "QLinearSoftmax"),
}


class OnnxForm(Enum):
    """How quantization is expressed."""

    QDQ = "qdq"
    QOPERATOR = "qoperator"


class Interface(Enum):
    """Order of axes of the file's images that callers feed and get."""

    CHANNELS_FIRST = "nchw"
    CHANNELS_LAST = "nhwc"  # as in the graph; a Transpose leads from it and to it


def write_onnx(
    graph: Graph,
    form: OnnxForm = OnnxForm.QDQ,
    *,
    interface: Interface = Interface.CHANNELS_LAST,
    unsigned: bool = False,
) -> bytes:
    """Return `graph` as an ONNX file.

    Args:
        graph: What to write.
        form: QDQ or QOPERATOR.
        interface: Axes of the images that are inputs or outputs.
        unsigned: Write int8 activations as uint8 codes 128 higher, and uint8 weights as int8
            codes 128 lower: the types onnxruntime multiplies fastest on x86.

    Raises:
        InputError: An operation or a tensor's type has no ONNX form; it is named.
    """
    return bytes(_Writer(graph, form, interface, unsigned).model().SerializeToString())


def to_onnx(tensor: Tensor, values: AnyArray) -> AnyArray:
    """Stored values of an activation as an `unsigned`, channels-first file holds them."""
    if tensor.dtype is DType.INT8:
        values = (values.astype(np.int16) + _INT8_OFFSET).astype(np.uint8)
    if values.ndim == _IMAGE_RANK:
        values = values.transpose(_TO_CHANNELS_FIRST)
    return np.ascontiguousarray(values)


def from_onnx(tensor: Tensor, values: AnyArray) -> AnyArray:
    """Stored values of an activation from those of an `unsigned`, channels-first file."""
    if tensor.dtype is DType.INT8:
        values = (values.astype(np.int16) - _INT8_OFFSET).astype(np.int8)
    if values.ndim == _IMAGE_RANK:
        values = values.transpose(_TO_CHANNELS_LAST)
    return np.ascontiguousarray(values)


@dataclass(frozen=True, slots=True)
class _Operand:
    """What an operator reads: a value, and the names of its scale and zero point if it has codes.

    `axis` is that of scales per channel.
    """

    value: str
    scales: tuple[str, str] | None = None
    axis: int | None = None
    reals: str | None = None  # the value dequantized, where that is already in the file


class _Writer:
    def __init__(self, graph: Graph, form: OnnxForm, interface: Interface, unsigned: bool) -> None:
        self._graph = graph
        self._form = form
        self._unsigned = unsigned
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._names = set(graph.tensors)
        self._reals: dict[str, str] = {}
        self._finished = set(graph.inputs)  # outputs that are there in the graph's order
        turned = interface is Interface.CHANNELS_LAST
        self._turned = {
            name: self._fresh(f"{name}/channels_first")
            for name in dict.fromkeys(graph.inputs + graph.outputs)
            if turned and len(self._tensor(name).shape) == _IMAGE_RANK
        }

    def model(self) -> onnx.ModelProto:
        for name in self._graph.inputs:
            if name in self._turned:
                self._node(
                    "Transpose",
                    [name],
                    self._turned[name],
                    attributes={"perm": list(_TO_CHANNELS_FIRST)},
                )
        for op in self._graph.operations:
            self._operation(op)
        for name in dict.fromkeys(self._graph.outputs):
            if name in self._turned and name not in self._finished:
                self._node(
                    "Transpose",
                    [self._value(name)],
                    name,
                    attributes={"perm": list(_TO_CHANNELS_LAST)},
                )
        read = {name for node in self._nodes for name in node.input}.union(self._graph.outputs)
        body = helper.make_graph(
            self._nodes,
            "graph",
            [self._value_info(name) for name in self._graph.inputs],
            [self._value_info(name) for name in self._graph.outputs],
            # onnxruntime warns of constants that nobody reads.
            [tensor for name, tensor in self._constants.items() if name in read],
        )
        return helper.make_model(
            body,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(_CONTRIB, 1)],
            ir_version=IR_VERSION,
            producer_name="akida-backend",
        )

    # Names, nodes and tensors

    def _fresh(self, wanted: str) -> str:
        name, number = wanted, 0
        while name in self._names:
            number += 1
            name = f"{wanted}.{number}"
        self._names.add(name)
        return name

    def _node(
        self,
        kind: str,
        inputs: Sequence[str],
        output: str | None = None,
        *,
        named: Node | None = None,
        domain: str = "",
        attributes: Attributes = _NO_ATTRIBUTES,
    ) -> str:
        """Add a node; its output's name is `output` or a new one, its own that of `named`."""
        name = output if output is not None else self._fresh(f"{inputs[0]}/{kind}")
        label = f"{name}/{kind}" if named is None else named.outputs[0]
        node = helper.make_node(kind, list(inputs), [name], name=label, domain=domain)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self._nodes.append(node)
        return name

    def _constant(self, values: AnyArray, wanted: str) -> str:
        name = self._fresh(wanted)
        self._constants[name] = numpy_helper.from_array(np.array(values, order="C"), name)
        return name

    def _integers(self, values: Sequence[int], wanted: str) -> str:
        return self._constant(np.array(values, np.int64), wanted)

    def _tensor(self, name: str) -> Tensor:
        return self._graph.tensors[name]

    def _value(self, name: str) -> str:
        """Where the file has a tensor's stored values, NCHW."""
        return self._turned.get(name, name)

    def _value_info(self, name: str) -> onnx.ValueInfoProto:
        tensor = self._tensor(name)
        shape = list(tensor.shape)
        if len(shape) == _IMAGE_RANK and name not in self._turned:
            shape = [shape[i] for i in _TO_CHANNELS_FIRST]
        kind = TensorProto.UINT8 if self._is_raised(tensor) else _onnx_type(tensor)
        return helper.make_tensor_value_info(
            name, kind, [BATCH if length is None else length for length in shape]
        )

    def _is_raised(self, tensor: Tensor) -> bool:
        return self._unsigned and tensor.dtype is DType.INT8

    def _axis(self, name: str, axis: int) -> int:
        """Where an axis of a tensor lies in the ONNX file."""
        rank = len(self._tensor(name).shape)
        return _TO_CHANNELS_FIRST.index(axis % rank) if rank == _IMAGE_RANK else axis % rank

    def _stored(self, name: str, codes: AnyArray) -> AnyArray:
        """Codes of an activation as the file has them."""
        if self._is_raised(self._tensor(name)):
            return (codes.astype(np.int16) + _INT8_OFFSET).astype(np.uint8)
        return codes

    def _scale_names(self, name: str) -> tuple[str, str]:
        """Scale and zero point of an activation."""
        tensor = self._tensor(name)
        coded = tensor.dtype in (DType.INT8, DType.UINT8)
        if tensor.quantization is None or not tensor.quantization.is_per_tensor or not coded:
            raise InputError(
                f"tensor '{name}': {tensor.dtype.value} has no ONNX form here\n"
                "  Quantize activations per tensor to int8 or uint8."
            )
        zero = np.array(tensor.quantization.single_zero_point, tensor.dtype.numpy)
        return (
            self._constant(np.array(tensor.quantization.scale[0]), f"{name}/scale"),
            self._constant(self._stored(name, zero), f"{name}/zero_point"),
        )

    def _operand(self, name: str, rank: int | None = None) -> _Operand:
        """A tensor as an operator reads it; constants get the axes of one of `rank` axes."""
        tensor = self._tensor(name)
        rank = len(tensor.shape) if rank is None else rank
        if tensor.data is None:
            if rank == _IMAGE_RANK != len(tensor.shape):
                raise InputError(
                    f"tensor '{name}': broadcast to an image has no ONNX form here\n"
                    "  Give it as many axes as the other operand."
                )
            value = self._value(name)
        else:
            values = tensor.data.reshape((1,) * (rank - tensor.data.ndim) + tensor.data.shape)
            if rank == _IMAGE_RANK:
                values = values.transpose(_TO_CHANNELS_FIRST)
            value = self._constant(self._stored(name, values), f"{name}/codes")
        if not tensor.is_quantized:
            return _Operand(value)
        return _Operand(value, self._scale_names(name))

    def _real(self, operand: _Operand) -> str:
        """The name of an operand's real values."""
        if operand.scales is None:
            return operand.value
        if operand.reals is not None:
            return operand.reals
        if operand.value not in self._reals:
            self._reals[operand.value] = self._node(
                "DequantizeLinear",
                [operand.value, *operand.scales],
                self._fresh(f"{operand.value}/real"),
                attributes={} if operand.axis is None else {"axis": operand.axis},
            )
        return self._reals[operand.value]

    # Operators on quantized values

    def _compute(
        self,
        op: Node,
        kind: str,
        operands: Sequence[_Operand],
        output: str,
        activation: Activation = Activation.NONE,
        *,
        value: str | None = None,
        bias: _Operand | None = None,
        attributes: Attributes = _NO_ATTRIBUTES,
    ) -> None:
        """An operator in the form asked for, quantized as tensor `output`.

        Args:
            op: Gives the node its name.
            kind: The operator on reals.
            operands: What it reads.
            output: The tensor whose scale and type the result gets.
            activation: Clamp behind it.
            value: Name of the result, by default that of `output`.
            bias: Last operand of Conv and Gemm.
            attributes: Of the node.
        """
        value = self._value(output) if value is None else value
        tensor = self._tensor(output)
        if not tensor.is_quantized:
            reals = [self._real(operand) for operand in (*operands, *([bias] if bias else []))]
            real = self._node(kind, reals, named=op, attributes=attributes)
            if activation is Activation.NONE:
                self._rename(real, value)
            else:
                self._real_clamp(real, activation, value)
            return
        bounds, whole = np.array(code_bounds(tensor, activation)), tensor.dtype.code_range
        redundant = activation is Activation.NONE or tuple(bounds.tolist()) == whole
        coded = value if redundant else self._fresh(f"{value}/unclamped")
        domain, integer_kind = _INTEGER_FORMS.get(kind, ("", ""))
        scales = self._scale_names(output)
        in_codes = all(operand.scales is not None for operand in operands)
        if self._form is OnnxForm.QOPERATOR and integer_kind and in_codes:
            inputs = [n for o in operands for n in (o.value, *(o.scales or ()))]
            last = [] if bias is None else [bias.value]
            match kind:
                case "Concat":
                    inputs = [*scales, *inputs]
                case "Gemm":
                    inputs = [*inputs, *(last or [""]), *scales]
                case "Softmax":
                    inputs, attributes = [*inputs, *scales], {**attributes, "opset": OPSET}
                case _:
                    inputs = [*inputs, *scales, *last]
            self._node(integer_kind, inputs, coded, named=op, domain=domain, attributes=attributes)
        else:
            reals = [self._real(operand) for operand in (*operands, *([bias] if bias else []))]
            real = self._node(kind, reals, named=op, attributes=attributes)
            if redundant and activation is not Activation.NONE:
                real = self._real_clamp(real, activation, self._fresh(f"{value}/clamped"))
            self._node("QuantizeLinear", [real, *scales], coded)
        if not redundant:
            low, high = self._stored(output, bounds.astype(tensor.dtype.numpy))
            names = [self._constant(np.array(b), f"{value}/bound") for b in (low, high)]
            self._node("Clip", [coded, *names], value)

    def _real_clamp(self, real: str, activation: Activation, value: str) -> str:
        match activation:
            case Activation.NONE:
                return self._node("Identity", [real], value)
            case Activation.RELU:
                return self._node("Relu", [real], value)
            case _:
                bounds = [np.array(b, np.float32) for b in activation.real_range]
                names = [self._constant(bound, f"{value}/bound") for bound in bounds]
                return self._node("Clip", [real, *names], value)

    def _recode(self, op: Node, source: str, output: str, activation: Activation) -> None:
        """Reals of a tensor in the codes of another."""
        tensor = self._tensor(output)
        operand = self._operand(source)
        if not tensor.is_quantized:
            self._real_clamp(self._real(operand), activation, self._value(output))
            return
        real = self._real(operand)
        if activation is not Activation.NONE:
            real = self._real_clamp(real, activation, self._fresh(f"{output}/clamped"))
            self._nodes[-1].name = op.outputs[0]
        self._node("QuantizeLinear", [real, *self._scale_names(output)], self._value(output))
        if activation is Activation.NONE:
            self._nodes[-1].name = op.outputs[0]

    # Operations

    def _operation(self, op: Operation) -> None:
        match op:
            case Conv2D() | DepthwiseConv2D() | TransposeConv2D():
                self._convolution(op)
            case FullyConnected():
                self._fully_connected(op)
            case Add() | Sub() | Mul() | Maximum() | Minimum():
                rank = len(self._tensor(op.output).shape)
                operands = [self._operand(name, rank) for name in (op.a, op.b)]
                self._compute(op, _BINARY[type(op)], operands, op.output, op.activation)
            case Concatenation():
                self._concatenation(op)
            case MaxPool2D() | AveragePool2D():
                self._pool(op)
            case Mean():
                self._mean(op)
            case Pad():
                self._pad(op)
            case Reshape():
                self._moved(op, op.input, op.output)
                self._reshape(self._in_order(op.input), op.output, op)
            case Transpose():
                source = self._channels_last(self._moved(op, op.input, op.output), op.input)
                self._transpose(op, source)
            case StridedSlice():
                self._strided_slice(op)
            case Split():
                self._split(op)
            case Pack():
                self._pack(op)
            case Unpack():
                self._unpack(op)
            case Gather():
                source = self._channels_last(self._moved(op, op.input, op.output), op.input)
                indices = self._operand(op.indices).value
                moved = self._node(
                    "Gather", [source, indices], named=op, attributes={"axis": op.axis}
                )
                self._channels_first(moved, op.output)
            case Cast():
                kind = _onnx_type(self._tensor(op.output))
                source = self._operand(op.input).value
                self._node(
                    "Cast", [source], self._value(op.output), named=op, attributes={"to": kind}
                )
            case ArgMax():
                source = self._channels_last(self._value(op.input), op.input)
                rank = len(self._tensor(op.input).shape)
                found = self._node(
                    "ArgMax", [source], named=op, attributes={"axis": op.axis % rank, "keepdims": 0}
                )
                kind = _onnx_type(self._tensor(op.output))
                self._channels_first(
                    self._node("Cast", [found], attributes={"to": kind}), op.output
                )
            case Softmax():
                self._softmax(op)
            case Logistic() | Tanh() | HardSwish():
                self._compute(op, _UNARY[type(op)], [self._operand(op.input)], op.output)
            case LeakyRelu():
                self._compute(
                    op,
                    "LeakyRelu",
                    [self._operand(op.input)],
                    op.output,
                    attributes={"alpha": op.alpha},
                )
            case Prelu():
                rank = len(self._tensor(op.output).shape)
                operands = [self._operand(name, rank) for name in (op.input, op.alpha)]
                self._compute(op, "PRelu", operands, op.output)
            case ResizeNearest() | ResizeBilinear():
                self._resize(op)
            case Relu():
                self._recode(op, op.input, op.output, op.bound)
            case Quantize():
                self._recode(op, op.input, op.output, Activation.NONE)
            case Dequantize():
                scales = self._scale_names(op.input)
                value = self._value(op.output)
                self._node("DequantizeLinear", [self._value(op.input), *scales], value, named=op)
            case _:
                raise InputError(
                    f"{op.location}: has no ONNX form here\n"
                    "  Remove the operator, or keep the model in its own format."
                )

    def _convolution(self, op: Conv2D | DepthwiseConv2D | TransposeConv2D) -> None:
        weights = self._tensor(op.weights)
        *_, depth = weights.shape
        channels = self._tensor(op.input).shape[-1] or 1
        group, kind, order, axis = channels, "Conv", (3, 0, 1, 2), 0  # of depthwise 1HWO
        dilation = Size2D(1, 1)
        match op:
            case Conv2D():
                group, order, dilation = channels // (depth or 1), (0, 3, 1, 2), op.dilation
            case DepthwiseConv2D():
                dilation = op.dilation
            case TransposeConv2D(depthwise=True):
                kind = "ConvTranspose"
            case TransposeConv2D():
                group, kind, axis = 1, "ConvTranspose", 1
        self._compute(
            op,
            kind,
            [self._operand(op.input), self._weights(op, order, axis)],
            op.output,
            op.activation,
            bias=self._bias(op),
            attributes={
                "group": group,
                "strides": [op.stride.height, op.stride.width],
                "dilations": [dilation.height, dilation.width],
                "pads": _onnx_pads(op.pads),
            },
        )

    def _weights(self, op: WeightedOperation, order: Sequence[int], axis: int) -> _Operand:
        """Weights with their axes in another order, output channels on `axis`."""
        tensor = self._tensor(op.weights)
        data, scales = tensor.data, tensor.quantization
        if data is None:
            raise InputError(
                f"{op.location}: weights that are computed have no ONNX form here\n"
                "  Fold them into a constant."
            )
        if tensor.dtype.is_float or scales is None or self._tensor(op.input).dtype.is_float:
            reals = dequantized(data, tensor).transpose(order)
            return _Operand(self._constant(reals, f"{tensor.name}/weights"))
        data, zero_point = data.transpose(order), scales.zero_point.astype(tensor.dtype.numpy)
        if self._unsigned and tensor.dtype is DType.UINT8:
            data, zero_point = (
                (codes.astype(np.int16) - _INT8_OFFSET).astype(np.int8)
                for codes in (data, zero_point)
            )
        narrow = tensor.dtype in (DType.INT4, DType.UINT4)
        constant = self._half_bytes if narrow else self._constant
        per_tensor = scales.is_per_tensor
        operand = _Operand(
            constant(data, f"{tensor.name}/weights"),
            (
                self._constant(_scalar(scales.scale, per_tensor), f"{tensor.name}/scale"),
                constant(_scalar(zero_point, per_tensor), f"{tensor.name}/zero_point"),
            ),
            None if per_tensor else axis,
        )
        if narrow:  # the operators on codes do not take them
            return _Operand(self._real(operand))
        return operand

    def _half_bytes(self, values: AnyArray, wanted: str) -> str:
        """A constant of int4 or uint4, two values to the byte, the first in the lower half."""
        kind = TensorProto.INT4 if values.dtype == np.int8 else TensorProto.UINT4
        halves = values.reshape(-1).view(np.uint8) & 15
        if halves.size % 2:
            halves = np.append(halves, np.uint8(0))
        name = self._fresh(wanted)
        packed = (halves[0::2] | halves[1::2] << 4).tobytes()
        self._constants[name] = helper.make_tensor(name, kind, values.shape, packed, raw=True)
        return name

    def _bias(self, op: WeightedOperation) -> _Operand | None:
        """int32 at input scale times weight scale, as the integer kernels want it."""
        if op.bias is None:
            return None
        bias, weights = self._tensor(op.bias), self._tensor(op.weights).quantization
        if bias.data is None:
            raise InputError(
                f"{op.location}: a bias that is computed has no ONNX form here\n"
                "  Fold it into a constant."
            )
        data = bias.data.reshape(-1)
        entry = self._tensor(op.input)
        if bias.dtype.is_float or weights is None or entry.quantization is None:
            return _Operand(self._constant(data.astype(np.float32), f"{op.bias}/bias"))
        scale = _scalar(entry.quantization.scale * weights.scale, weights.is_per_tensor)
        return _Operand(
            self._constant(data.astype(np.int32), f"{op.bias}/bias"),
            (
                self._constant(scale, f"{op.bias}/scale"),
                self._constant(np.zeros(scale.shape, np.int32), f"{op.bias}/zero_point"),
            ),
            None if weights.is_per_tensor else 0,
        )

    def _fully_connected(self, op: FullyConnected) -> None:
        _, depth = self._tensor(op.weights).shape
        operand = self._operand(op.input)
        if self._tensor(op.input).shape[1:] != (depth,):
            operand = _Operand(self._rows(op, depth or 1), operand.scales)
        flat = len(self._tensor(op.output).shape) == 2
        value = self._value(op.output) if flat else self._fresh(f"{op.output}/flat")
        self._compute(
            op,
            "Gemm",
            [operand, self._weights(op, (0, 1), 0)],
            op.output,
            op.activation,
            value=value,
            bias=self._bias(op),
            attributes={"transB": 1},
        )
        if not flat:
            self._reshape(value, op.output)

    def _rows(self, op: FullyConnected, depth: int) -> str:
        """The input as rows of `depth` values."""
        values = self._in_order(op.input)
        rows = self._fresh(f"{op.output}/rows")
        if self._tensor(op.input).values_per_sample == depth:
            return self._node("Flatten", [values], rows, attributes={"axis": 1})
        shape = self._integers([-1, depth], f"{op.output}/rows_shape")
        return self._node("Reshape", [values, shape], rows)

    def _concatenation(self, op: Concatenation) -> None:
        rank = len(self._tensor(op.output).shape)
        operands = [self._operand(name, rank) for name in op.operands]
        axis = self._axis(op.output, op.axis)
        same = all(self._same_codes(name, op.output) for name in op.operands)
        if same and op.activation is Activation.NONE:
            values = [operand.value for operand in operands]
            self._node(
                "Concat", values, self._value(op.output), named=op, attributes={"axis": axis}
            )
        else:
            self._compute(
                op, "Concat", operands, op.output, op.activation, attributes={"axis": axis}
            )

    def _pool(self, op: MaxPool2D | AveragePool2D) -> None:
        window: Attributes = {
            "kernel_shape": [op.window.height, op.window.width],
            "strides": [op.stride.height, op.stride.width],
            "pads": _onnx_pads(op.pads),
        }
        operand = self._operand(op.input)
        if isinstance(op, AveragePool2D):  # cells of the border are not counted
            self._compute(op, "AveragePool", [operand], op.output, op.activation, attributes=window)
        elif op.activation is Activation.NONE and self._same_codes(op.input, op.output):
            self._node(
                "MaxPool", [operand.value], self._value(op.output), named=op, attributes=window
            )
        else:
            self._compute(op, "MaxPool", [operand], op.output, op.activation, attributes=window)

    def _mean(self, op: Mean) -> None:
        rank = len(self._tensor(op.input).shape)
        value = self._value(op.output) if op.keep_dims else self._fresh(f"{op.output}/kept")
        operand = self._operand(op.input)
        if rank == _IMAGE_RANK and op.axes == (1, 2):
            self._compute(op, "GlobalAveragePool", [operand], op.output, value=value)
        else:
            axes = [self._axis(op.input, axis) for axis in op.axes]
            listed = _Operand(self._integers(axes, f"{op.output}/axes"))
            self._compute(
                op,
                "ReduceMean",
                [operand, listed],
                op.output,
                value=value,
                attributes={"keepdims": 1},
            )
        if op.keep_dims:
            return
        # Axes of length one: their order does not matter to what is left, NC or a part of it.
        if rank == _IMAGE_RANK and not {1, 2} <= set(op.axes):
            value = self._node("Transpose", [value], attributes={"perm": list(_TO_CHANNELS_LAST)})
        self._reshape(value, op.output)

    def _softmax(self, op: Softmax) -> None:
        operand = self._operand(op.input)
        if op.beta != 1.0:
            beta = self._constant(np.array(op.beta, np.float32), f"{op.output}/beta")
            operand = _Operand(self._node("Mul", [self._real(operand), beta]))
        axis = self._axis(op.input, op.axis)
        self._compute(op, "Softmax", [operand], op.output, attributes={"axis": axis})

    def _resize(self, op: ResizeNearest | ResizeBilinear) -> None:
        operand = self._operand(op.input)
        _, height, width, _ = self._tensor(op.input).shape
        factors = [1.0, 1.0, op.size.height / (height or 1), op.size.width / (width or 1)]
        scales = self._constant(np.array(factors, np.float32), f"{op.output}/factors")
        positions = "half_pixel" if op.half_pixel_centers else "asymmetric"
        nearest = isinstance(op, ResizeNearest)
        rounded = op.align_corners or op.half_pixel_centers
        attributes = {
            "coordinate_transformation_mode": "align_corners" if op.align_corners else positions,
            "mode": "nearest" if nearest else "linear",
            "nearest_mode": "round_prefer_ceil" if rounded else "floor",
        }
        extra = [_Operand(""), _Operand(scales)]
        if nearest and self._same_codes(op.input, op.output):
            inputs = [operand.value, *(o.value for o in extra)]
            self._node("Resize", inputs, self._value(op.output), named=op, attributes=attributes)
        else:
            self._compute(op, "Resize", [operand, *extra], op.output, attributes=attributes)

    # Movement of stored values

    def _pad(self, op: Pad) -> None:
        source = self._moved(op, op.input, op.output)
        amounts = list(op.amounts)
        if len(amounts) == _IMAGE_RANK:
            amounts = [amounts[i] for i in _TO_CHANNELS_FIRST]
        ends = [before for before, _ in amounts] + [after for _, after in amounts]
        tensor = self._tensor(op.output)
        border: int | float = 0 if op.value is None else op.value
        if op.value is None and tensor.quantization is not None:
            border = tensor.quantization.single_zero_point
        stored = self._stored(op.output, np.array(border, tensor.dtype.numpy))
        inputs = [
            source,
            self._integers(ends, f"{op.output}/pads"),
            self._constant(stored, f"{op.output}/border"),
        ]
        self._node("Pad", inputs, self._value(op.output), named=op)

    def _strided_slice(self, op: StridedSlice) -> None:
        source = self._channels_last(self._moved(op, op.input, op.output), op.input)
        edges = {True: np.iinfo(np.int64).max, False: np.iinfo(np.int64).min}
        begin = [
            (0 if s > 0 else -1) if b is None else b for b, s in zip(op.begin, op.step, strict=True)
        ]
        end = [edges[s > 0] if e is None else e for e, s in zip(op.end, op.step, strict=True)]
        names = [
            self._integers(values, f"{op.output}/{role}")
            for role, values in (
                ("begin", begin),
                ("end", end),
                ("axes", range(len(begin))),
                ("step", op.step),
            )
        ]
        moved = self._node("Slice", [source, *names], named=op)
        if op.drop_axes:
            dropped = self._integers(op.drop_axes, f"{op.output}/dropped")
            moved = self._node("Squeeze", [moved, dropped])
        self._channels_first(moved, op.output)

    def _split(self, op: Split) -> None:
        source, *_ = [self._moved(op, op.input, part) for part in op.parts]
        self._nodes.append(
            helper.make_node(
                "Split",
                [source, self._integers(op.sizes, f"{op.parts[0]}/sizes")],
                [self._value(part) for part in op.parts],
                name=op.parts[0],
                axis=self._axis(op.input, op.axis),
            )
        )

    def _pack(self, op: Pack) -> None:
        axis = self._integers([op.axis], f"{op.output}/axis")
        parts = [
            self._node(
                "Unsqueeze", [self._channels_last(self._moved(op, name, op.output), name), axis]
            )
            for name in op.operands
        ]
        self._channels_first(
            self._node("Concat", parts, named=op, attributes={"axis": op.axis}), op.output
        )

    def _unpack(self, op: Unpack) -> None:
        moved = [self._moved(op, op.input, part) for part in op.parts]
        source = self._channels_last(moved[0], op.input)
        sizes = self._integers([1] * len(op.parts), f"{op.parts[0]}/sizes")
        slices = [self._fresh(f"{part}/slice") for part in op.parts]
        self._nodes.append(
            helper.make_node("Split", [source, sizes], slices, name=op.parts[0], axis=op.axis)
        )
        axis = self._integers([op.axis], f"{op.parts[0]}/axis")
        for part, piece in zip(op.parts, slices, strict=True):
            self._channels_first(self._node("Squeeze", [piece, axis]), part)

    def _transpose(self, op: Transpose, source: str) -> None:
        moved = self._node(
            "Transpose", [source], named=op, attributes={"perm": list(op.permutation)}
        )
        self._channels_first(moved, op.output)

    def _moved(self, op: Node, name: str, output: str) -> str:
        """The value of a tensor whose stored values go into `output` as they are."""
        if not self._same_codes(name, output):
            raise InputError(
                f"{op.location}: re-codes what it moves to '{output}', which has no ONNX form\n"
                "  Quantize the tensor in an operation of its own."
            )
        return self._operand(name).value

    def _same_codes(self, a: str, b: str) -> bool:
        first, second = self._tensor(a), self._tensor(b)
        if first.dtype is not second.dtype:
            return False
        return _same_quantization(first.quantization, second.quantization)

    def _channels_last(self, value: str, name: str) -> str:
        """Value of tensor `name` in the graph's own order."""
        if len(self._tensor(name).shape) != _IMAGE_RANK:
            return value
        return self._node("Transpose", [value], attributes={"perm": list(_TO_CHANNELS_LAST)})

    def _in_order(self, name: str) -> str:
        """The same, under any shape: where only one axis is long, all orders are one."""
        shape = self._tensor(name).shape
        value = self._operand(name).value
        if len(shape) == _IMAGE_RANK and (shape[1:3] == (1, 1) or shape[3] == 1):
            return value
        return self._channels_last(value, name)

    def _channels_first(self, value: str, output: str) -> None:
        """The last node's result, in the graph's order, as tensor `output`."""
        attributes: Attributes = {"perm": list(_TO_CHANNELS_FIRST)}
        if len(self._tensor(output).shape) != _IMAGE_RANK:
            self._rename(value, output)
        elif output in self._graph.outputs and output not in self._turned:
            self._node("Transpose", [value], output, attributes=attributes)
        else:
            self._rename(value, output)
            self._finished.add(output)
            if self._graph.consumers[output]:
                self._turned.setdefault(output, self._fresh(f"{output}/channels_first"))
                self._node("Transpose", [output], self._turned[output], attributes=attributes)

    def _rename(self, value: str, output: str) -> None:
        """Give the output of the last node, which nothing reads yet, another name."""
        last = self._nodes[-1]
        assert list(last.output) == [value]
        last.output[0] = output

    def _reshape(self, value: str, output: str, named: Node | None = None) -> None:
        """A value in the graph's order under the shape of tensor `output`."""
        shape = [-1 if length is None else length for length in self._tensor(output).shape]
        target = self._integers(shape, f"{output}/shape")
        self._channels_first(self._node("Reshape", [value, target], named=named), output)


def _scalar(values: AnyArray, per_tensor: bool) -> AnyArray:
    return values.reshape(()) if per_tensor else values


def _same_quantization(a: Quantization | None, b: Quantization | None) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(a.scale, b.scale) and np.array_equal(a.zero_point, b.zero_point)


def _onnx_pads(pads: Pads) -> list[int]:
    return [pads.top, pads.left, pads.bottom, pads.right]


def _onnx_type(tensor: Tensor) -> int:
    if tensor.dtype in (DType.OTHER, DType.INT4, DType.UINT4, DType.BFLOAT16):
        raise InputError(
            f"tensor '{tensor.name}': an activation of {tensor.dtype.value} has no ONNX form here\n"
            "  Quantize activations to int8 or uint8."
        )
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype.numpy)))
