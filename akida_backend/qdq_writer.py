# SPDX-License-Identifier: Apache-2.0
"""A quantized Graph as ONNX with QuantizeLinear and DequantizeLinear, as onnxruntime likes it best.

Activations are uint8 (an int8 tensor is stored 128 higher, with its zero point), weights int8, with
their scales per channel; convolutions of 8-bit maps with other types run up to five times slower in
onnxruntime on x86. Tensors of four axes are NCHW. Every operation is spelled so that onnxruntime
fuses it into its integer kernels where it has some; their results may differ from the source's by
one step, because they multiply in float32.

The result is a twin for measuring and comparing, not an exchange format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from akida_backend.errors import InputError
from akida_backend.graph import (
    NO_PADS,
    Activation,
    Add,
    AnyArray,
    AveragePool2D,
    Concatenation,
    Conv2D,
    DepthwiseConv2D,
    Dequantize,
    DType,
    FullyConnected,
    Graph,
    HardSwish,
    LeakyRelu,
    Logistic,
    Maximum,
    MaxPool2D,
    Mean,
    Minimum,
    Mul,
    Operation,
    Pad,
    Pads,
    Quantize,
    Relu,
    Reshape,
    Size2D,
    Softmax,
    Split,
    StridedSlice,
    Sub,
    Tanh,
    Tensor,
    Transpose,
    TransposeConv2D,
)

Attribute = int | float | list[int]

OPSET: Final = 17
IR_VERSION: Final = 8
BATCH: Final = "N"

_IMAGE_RANK: Final = 4
_TO_CHANNELS_FIRST: Final = (0, 3, 1, 2)
_TO_CHANNELS_LAST: Final = (0, 2, 3, 1)
_INT8_OFFSET: Final = 128
_BINARY: Final = {Add: "Add", Sub: "Sub", Mul: "Mul", Maximum: "Max", Minimum: "Min"}
_UNARY: Final = {Logistic: "Sigmoid", Tanh: "Tanh", HardSwish: "HardSwish"}


def write_qdq(graph: Graph) -> bytes:
    """The ONNX file of a graph.

    Raises:
        InputError: An operation or a tensor's type has no form here.
    """
    return bytes(_Writer(graph).model().SerializeToString())


def to_onnx(tensor: Tensor, values: AnyArray) -> AnyArray:
    """Stored values of an activation as the ONNX file holds them."""
    if tensor.dtype is DType.INT8:
        values = (values.astype(np.int16) + _INT8_OFFSET).astype(np.uint8)
    if values.ndim == _IMAGE_RANK:
        values = values.transpose(_TO_CHANNELS_FIRST)
    return np.ascontiguousarray(values)


def from_onnx(tensor: Tensor, values: AnyArray) -> AnyArray:
    """Stored values of an activation from those of the ONNX file."""
    if tensor.dtype is DType.INT8:
        values = (values.astype(np.int16) - _INT8_OFFSET).astype(np.int8)
    if values.ndim == _IMAGE_RANK:
        values = values.transpose(_TO_CHANNELS_LAST)
    return np.ascontiguousarray(values)


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._names = set(graph.tensors)
        self._reals: dict[str, str] = {}

    def model(self) -> onnx.ModelProto:
        for op in self._graph.operations:
            self._operation(op)
        body = helper.make_graph(
            self._nodes,
            "graph",
            [self._value_info(name) for name in self._graph.inputs],
            [self._value_info(name) for name in self._graph.outputs],
            list(self._constants.values()),
        )
        return helper.make_model(
            body,
            opset_imports=[helper.make_opsetid("", OPSET)],
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
        self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Attribute
    ) -> str:
        """Add a node; its output's name is `output` or a new one."""
        name = output if output is not None else self._fresh(f"{inputs[0]}/{kind}")
        node = helper.make_node(kind, list(inputs), [name], name=name)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self._nodes.append(node)
        return name

    def _constant(self, values: AnyArray, wanted: str) -> str:
        name = self._fresh(wanted)
        self._constants[name] = numpy_helper.from_array(np.array(values, order="C"), name)
        return name

    def _tensor(self, name: str) -> Tensor:
        return self._graph.tensors[name]

    def _shape(self, name: str) -> list[int | None]:
        """Axes as the ONNX file has them."""
        shape = list(self._tensor(name).shape)
        return [shape[i] for i in _TO_CHANNELS_FIRST] if len(shape) == _IMAGE_RANK else shape

    def _value_info(self, name: str) -> onnx.ValueInfoProto:
        dtype = self._tensor(name).dtype
        kind = TensorProto.UINT8 if self._is_coded(name) else _onnx_type(dtype)
        shape = [BATCH if length is None else length for length in self._shape(name)]
        return helper.make_tensor_value_info(name, kind, shape)

    def _is_coded(self, name: str) -> bool:
        return self._tensor(name).dtype in (DType.INT8, DType.UINT8)

    def _axis(self, name: str, axis: int) -> int:
        """Where an axis of a tensor lies in the ONNX file."""
        rank = len(self._tensor(name).shape)
        return _TO_CHANNELS_FIRST.index(axis % rank) if rank == _IMAGE_RANK else axis % rank

    def _scale(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Scale and zero point of an activation."""
        tensor = self._tensor(name)
        coded = tensor.dtype in (DType.INT8, DType.UINT8)
        if tensor.quantization is None or not tensor.quantization.is_per_tensor or not coded:
            raise InputError(f"tensor '{name}': {tensor.dtype.value} has no QDQ form here")
        zero_point = tensor.quantization.single_zero_point
        offset = _INT8_OFFSET if tensor.dtype is DType.INT8 else 0
        scale = np.float32(tensor.quantization.single_scale)
        return np.array(scale, np.float32), np.array(zero_point + offset, np.uint8)

    def _scale_names(self, name: str) -> list[str]:
        scale, zero_point = self._scale(name)
        return [
            self._constant(scale, f"{name}/scale"),
            self._constant(zero_point, f"{name}/zero_point"),
        ]

    def _real(self, name: str) -> str:
        """The name of a tensor's real values."""
        tensor = self._tensor(name)
        if name not in self._reals:
            if tensor.data is not None:
                self._reals[name] = self._constant(_real_constant(tensor), f"{name}/real")
            elif tensor.dtype.is_float:
                self._reals[name] = name
            else:
                self._reals[name] = self._node(
                    "DequantizeLinear", [name, *self._scale_names(name)], f"{name}/real"
                )
        return self._reals[name]

    def _quantize(self, real: str, output: str, activation: Activation = Activation.NONE) -> None:
        """Real values as tensor `output`, within the range of a fused activation."""
        self._coded(real, output, activation, output)

    def _coded(
        self,
        real: str,
        tensor: str,
        activation: Activation = Activation.NONE,
        name: str | None = None,
    ) -> str:
        """Real values in the codes of a tensor, called `name` or something new."""
        low, high = activation.real_range
        if self._tensor(tensor).dtype.is_float:
            return self._clip(real, np.array([low, high], np.float32), name)
        scale, zero_point = self._scale(tensor)
        scales = self._scale_names(tensor)
        # Clamping codes is clamping reals: a convolution before it can stay an integer kernel.
        codes = np.clip(np.rint(np.array([low, high]) / scale) + zero_point, 0, 255)
        if codes.tolist() == [0, 255]:
            return self._node("QuantizeLinear", [real, *scales], name)
        coded = self._node("QuantizeLinear", [real, *scales])
        return self._clip(coded, codes.astype(np.uint8), name)

    def _clip(self, values: str, bounds: AnyArray, name: str | None) -> str:
        low, high = (
            "" if np.isinf(bound) else self._constant(bound, f"{values}/bound") for bound in bounds
        )
        if low or high:
            return self._node("Clip", [values, low, high], name)
        return self._node("Identity", [values], name)

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
                real = self._node(_BINARY[type(op)], operands)
                self._quantize(real, op.output, op.activation)
            case Concatenation():
                self._concatenation(op)
            case MaxPool2D() | AveragePool2D():
                self._pool(op)
            case Mean():
                self._mean(op)
            case Pad():
                self._pad(op)
            case Reshape():
                self._reshape(self._in_order(self._moved(op.input, op.output)), op.output)
            case Transpose():
                source = self._channels_last(self._moved(op.input, op.output))
                moved = self._node("Transpose", [source], perm=list(op.permutation))
                self._channels_first(moved, op.output)
            case StridedSlice():
                self._strided_slice(op)
            case Split():
                self._split(op)
            case Softmax():
                real = self._real(op.input)
                if op.beta != 1.0:
                    beta = self._constant(np.array(op.beta, np.float32), f"{op.output}/beta")
                    real = self._node("Mul", [real, beta])
                self._quantize(
                    self._node("Softmax", [real], axis=self._axis(op.input, op.axis)), op.output
                )
            case Logistic() | Tanh() | HardSwish():
                self._quantize(self._node(_UNARY[type(op)], [self._real(op.input)]), op.output)
            case LeakyRelu():
                self._quantize(
                    self._node("LeakyRelu", [self._real(op.input)], alpha=op.alpha), op.output
                )
            case Relu():
                self._quantize(self._real(op.input), op.output, op.bound)
            case Quantize():
                self._quantize(self._real(op.input), op.output)
            case Dequantize():
                self._node("Identity", [self._real(op.input)], op.output)
            case _:
                raise InputError(f"{op.location}: has no QDQ form here")

    def _convolution(self, op: Conv2D | DepthwiseConv2D | TransposeConv2D) -> None:
        weights = self._tensor(op.weights)
        channels = self._tensor(op.input).shape[-1] or 1
        group, kind, order, axis = 1, "Conv", (0, 3, 1, 2), 0
        match op:
            case Conv2D():
                pass
            case DepthwiseConv2D():
                group, order = channels, (3, 0, 1, 2)
            case TransposeConv2D(depthwise=True):
                group, kind, order = channels, "ConvTranspose", (3, 0, 1, 2)
            case TransposeConv2D():
                kind, order, axis = "ConvTranspose", (3, 0, 1, 2), 1
        inputs = [self._real(op.input), self._weights(op, weights, order, axis)]
        if op.bias is not None:
            inputs.append(self._bias(op, op.bias))
        dilation = op.dilation if not isinstance(op, TransposeConv2D) else Size2D(1, 1)
        real = self._node(
            kind,
            inputs,
            group=group,
            strides=[op.stride.height, op.stride.width],
            dilations=[dilation.height, dilation.width],
            pads=_onnx_pads(op.pads),
        )
        self._quantize(real, op.output, op.activation)

    def _weights(
        self,
        op: Conv2D | DepthwiseConv2D | TransposeConv2D | FullyConnected,
        tensor: Tensor,
        order: Sequence[int],
        axis: int,
    ) -> str:
        """Weights as int8 constants behind a DequantizeLinear, axes in another order."""
        data, scales = tensor.data, tensor.quantization
        if data is None:
            raise InputError(f"{op.location}: weights that are computed have no QDQ form here")
        data = data.transpose(order)
        if tensor.dtype.is_float:
            return self._constant(data, f"{tensor.name}/weights")
        if scales is None or self._tensor(op.input).dtype.is_float:
            raise InputError(f"{op.location}: weights of {tensor.dtype.value} on real values")
        offset = _INT8_OFFSET if tensor.dtype is DType.UINT8 else 0
        stored = self._constant(
            (data.astype(np.int16) - offset).astype(np.int8), f"{tensor.name}/weights"
        )
        zero_point = (scales.zero_point - offset).astype(np.int8)
        scale = scales.scale.astype(np.float32)
        if scales.is_per_tensor:
            scale, zero_point = scale.reshape(()), zero_point.reshape(())
        names = [
            self._constant(scale, f"{tensor.name}/scale"),
            self._constant(zero_point, f"{tensor.name}/zero_point"),
        ]
        if scales.is_per_tensor:
            return self._node("DequantizeLinear", [stored, *names])
        return self._node("DequantizeLinear", [stored, *names], axis=axis)

    def _bias(
        self, op: Conv2D | DepthwiseConv2D | TransposeConv2D | FullyConnected, name: str
    ) -> str:
        """int32 at input scale times weight scale, as the integer kernels want it."""
        bias, weights = self._tensor(name), self._tensor(op.weights).quantization
        if bias.data is None:
            raise InputError(f"{op.location}: a bias that is computed has no QDQ form here")
        data = bias.data.reshape(-1)
        if bias.dtype.is_float or weights is None:
            return self._constant(data, f"{name}/bias")
        entry, _ = self._scale(op.input)
        scale = (entry * weights.scale).astype(np.float32)
        if weights.is_per_tensor:
            scale = scale.reshape(())
        names = [
            self._constant(data.astype(np.int32), f"{name}/bias"),
            self._constant(scale, f"{name}/scale"),
            self._constant(np.zeros(scale.shape, np.int32), f"{name}/zero_point"),
        ]
        if weights.is_per_tensor:
            return self._node("DequantizeLinear", names)
        return self._node("DequantizeLinear", names, axis=0)

    def _fully_connected(self, op: FullyConnected) -> None:
        weights = self._tensor(op.weights)
        _, depth = weights.shape
        rows = self._node(
            "Reshape",
            [
                self._in_order(op.input),
                self._constant(np.array([-1, depth or 1], np.int64), f"{op.output}/rows"),
            ],
        )
        # The rows keep the codes of the input.
        if self._tensor(op.input).dtype.is_float:
            real = rows
        else:
            real = self._node("DequantizeLinear", [rows, *self._scale_names(op.input)])
        inputs = [real, self._weights(op, weights, (0, 1), 0)]
        if op.bias is not None:
            inputs.append(self._bias(op, op.bias))
        product = self._node("Gemm", inputs, transB=1)
        if len(self._tensor(op.output).shape) == 2:
            self._quantize(product, op.output, op.activation)
        else:
            self._reshape(self._coded(product, op.output, op.activation), op.output)

    def _operand(self, name: str, rank: int) -> str:
        """Real values of an operand; constants get the axes of an activation of `rank` axes."""
        tensor = self._tensor(name)
        if tensor.data is None:
            if rank == _IMAGE_RANK != len(tensor.shape):
                raise InputError(f"tensor '{name}': broadcast to an image has no QDQ form here")
            return self._real(name)
        values = tensor.data.reshape((1,) * (rank - tensor.data.ndim) + tensor.data.shape)
        if rank == _IMAGE_RANK:
            values = values.transpose(_TO_CHANNELS_FIRST)
        if tensor.dtype.is_float:
            return self._constant(values, f"{name}/real")
        if tensor.dtype is DType.INT8:
            values = (values.astype(np.int16) + _INT8_OFFSET).astype(np.uint8)
        stored = self._constant(values, f"{name}/codes")
        return self._node("DequantizeLinear", [stored, *self._scale_names(name)])

    def _concatenation(self, op: Concatenation) -> None:
        axis = self._axis(op.output, op.axis)
        activations = all(not self._tensor(name).is_constant for name in op.operands)
        same = all(self._same_codes(name, op.output) for name in op.operands)
        if activations and same and op.activation is Activation.NONE:
            self._node("Concat", op.operands, op.output, axis=axis)
            return
        rank = len(self._tensor(op.output).shape)
        operands = [self._operand(name, rank) for name in op.operands]
        self._quantize(self._node("Concat", operands, axis=axis), op.output, op.activation)

    def _pool(self, op: MaxPool2D | AveragePool2D) -> None:
        keeps_codes = isinstance(op, MaxPool2D) and self._same_codes(op.input, op.output)
        if keeps_codes and op.activation is Activation.NONE:
            self._window("MaxPool", op, op.input, op.output)
            return
        real = self._real(op.input)
        _, *size, _ = self._tensor(op.input).shape
        if isinstance(op, MaxPool2D):
            real = self._window("MaxPool", op, real)
        elif size == [op.window.height, op.window.width] and op.pads == NO_PADS:
            real = self._node("GlobalAveragePool", [real])
        else:
            real = self._window("AveragePool", op, real)  # cells of the border are not counted
        self._quantize(real, op.output, op.activation)

    def _window(
        self, kind: str, op: MaxPool2D | AveragePool2D, source: str, output: str | None = None
    ) -> str:
        return self._node(
            kind,
            [source],
            output,
            kernel_shape=[op.window.height, op.window.width],
            strides=[op.stride.height, op.stride.width],
            pads=_onnx_pads(op.pads),
        )

    def _mean(self, op: Mean) -> None:
        rank = len(self._tensor(op.input).shape)
        real = self._real(op.input)
        if rank == _IMAGE_RANK and op.axes == (1, 2):
            real = self._node("GlobalAveragePool", [real])
        else:
            axes = [self._axis(op.input, axis) for axis in op.axes]
            real = self._node("ReduceMean", [real], axes=axes, keepdims=1)
        if op.keep_dims:
            self._quantize(real, op.output)
            return
        coded = self._coded(real, op.output)
        # Axes of length one: their order does not matter to what is left, NC or a part of it.
        if rank == _IMAGE_RANK and not {1, 2} <= set(op.axes):
            coded = self._node("Transpose", [coded], perm=list(_TO_CHANNELS_LAST))
        self._reshape(coded, op.output)

    def _pad(self, op: Pad) -> None:
        source = self._moved(op.input, op.output)
        amounts = list(op.amounts)
        if len(amounts) == _IMAGE_RANK:
            amounts = [amounts[i] for i in _TO_CHANNELS_FIRST]
        ends = [before for before, _ in amounts] + [after for _, after in amounts]
        inputs = [source, self._constant(np.array(ends, np.int64), f"{op.output}/pads")]
        tensor = self._tensor(op.output)
        if tensor.dtype.is_float:
            inputs.append(
                self._constant(np.array(op.value or 0.0, np.float32), f"{op.output}/border")
            )
        else:
            _, zero_point = self._scale(op.output)
            if op.value is not None:
                offset = _INT8_OFFSET if tensor.dtype is DType.INT8 else 0
                zero_point = np.array(int(op.value) + offset, np.uint8)
            inputs.append(self._constant(zero_point, f"{op.output}/border"))
        self._node("Pad", inputs, op.output)

    def _strided_slice(self, op: StridedSlice) -> None:
        source = self._channels_last(self._moved(op.input, op.output))
        edges = {True: np.iinfo(np.int64).max, False: np.iinfo(np.int64).min}
        begin = [
            (0 if s > 0 else -1) if b is None else b for b, s in zip(op.begin, op.step, strict=True)
        ]
        end = [edges[s > 0] if e is None else e for e, s in zip(op.end, op.step, strict=True)]
        axes = list(range(len(begin)))
        names = [
            self._constant(np.array(values, np.int64), f"{op.output}/{role}")
            for role, values in (("begin", begin), ("end", end), ("axes", axes), ("step", op.step))
        ]
        moved = self._node("Slice", [source, *names])
        if op.drop_axes:
            dropped = self._constant(np.array(op.drop_axes, np.int64), f"{op.output}/dropped")
            moved = self._node("Squeeze", [moved, dropped])
        self._channels_first(moved, op.output)

    def _split(self, op: Split) -> None:
        for part in op.parts:
            self._moved(op.input, part)
        sizes = self._constant(np.array(op.sizes, np.int64), f"{op.parts[0]}/sizes")
        self._nodes.append(
            helper.make_node(
                "Split",
                [op.input, sizes],
                list(op.parts),
                name=op.parts[0],
                axis=self._axis(op.input, op.axis),
            )
        )

    def _moved(self, name: str, output: str) -> str:
        """A tensor whose stored values go into `output` as they are."""
        if not self._same_codes(name, output):
            raise InputError(f"tensor '{output}': re-coded while moved has no QDQ form here")
        return name

    def _same_codes(self, a: str, b: str) -> bool:
        first, second = self._tensor(a), self._tensor(b)
        if first.dtype is not second.dtype:
            return False
        return first.dtype.is_float or self._scale(a) == self._scale(b)

    def _channels_last(self, name: str) -> str:
        """A tensor of the graph in the graph's own order of values."""
        shape = self._tensor(name).shape
        if len(shape) != _IMAGE_RANK:
            return name
        return self._node("Transpose", [name], perm=list(_TO_CHANNELS_LAST))

    def _in_order(self, name: str) -> str:
        """The same, under any shape: where only one axis is long, all orders are one."""
        shape = self._tensor(name).shape
        if len(shape) == _IMAGE_RANK and (shape[1:3] == (1, 1) or shape[3] == 1):
            return name
        return self._channels_last(name)

    def _channels_first(self, name: str, output: str) -> None:
        """Values in the graph's order as tensor `output`."""
        if len(self._tensor(output).shape) == _IMAGE_RANK:
            self._node("Transpose", [name], output, perm=list(_TO_CHANNELS_FIRST))
        else:
            self._node("Identity", [name], output)

    def _reshape(self, name: str, output: str) -> None:
        """Values in the graph's order under the shape of tensor `output`."""
        shape = [-1 if length is None else length for length in self._tensor(output).shape]
        target = self._constant(np.array(shape, np.int64), f"{output}/shape")
        if len(shape) == _IMAGE_RANK:
            self._channels_first(self._node("Reshape", [name, target]), output)
        else:
            self._node("Reshape", [name, target], output)


def _onnx_pads(pads: Pads) -> list[int]:
    return [pads.top, pads.left, pads.bottom, pads.right]


def _onnx_type(dtype: DType) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype.numpy)))


def _real_constant(tensor: Tensor) -> NDArray[np.float32]:
    """Real values of a constant."""
    assert tensor.data is not None
    if tensor.quantization is None or tensor.dtype.is_float:
        return tensor.data.astype(np.float32)
    scales = tensor.quantization
    return ((tensor.data.astype(np.float32)) - scales.zero_point) * scales.scale
