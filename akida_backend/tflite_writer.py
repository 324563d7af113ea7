# SPDX-License-Identifier: Apache-2.0
"""A Graph written as a TFLite file: ``write_tflite(graph) -> bytes``.

The same Graph gives the same bytes. Axis lengths that are symbolic are written as 1 with -1
in the shape signature, as the TFLite converter does. SQUEEZE and EXPAND_DIMS, which a Graph
holds as Reshape, are written as RESHAPE; a convolution without bias gets one of zeros.

Source of the operator versions: TensorFlow, lite/tools/versioning/op_version.cc.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import tflite

from akida_backend.errors import InputError
from akida_backend.graph import (
    NO_PADS,
    ONE,
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
    Opaque,
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
    Shape,
    ShapeOf,
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
    nominal_shape,
)
from akida_backend.importers.tflite_file import TfliteFile, read_file
from akida_backend.program import Program
from akida_backend.program_format import program_to_bytes
from akida_backend.tflite_records import (
    PROGRAM_OPERATOR,
    FileRecord,
    OperatorRecord,
    TensorRecord,
    Value,
    copied_operator,
)

_TENSOR_TYPES: Mapping[DType, int] = {
    DType.INT4: tflite.TensorType.INT4,
    DType.INT8: tflite.TensorType.INT8,
    DType.UINT8: tflite.TensorType.UINT8,
    DType.INT16: tflite.TensorType.INT16,
    DType.UINT16: tflite.TensorType.UINT16,
    DType.INT32: tflite.TensorType.INT32,
    DType.UINT32: tflite.TensorType.UINT32,
    DType.INT64: tflite.TensorType.INT64,
    DType.UINT64: tflite.TensorType.UINT64,
    DType.FLOAT16: tflite.TensorType.FLOAT16,
    DType.FLOAT32: tflite.TensorType.FLOAT32,
    DType.FLOAT64: tflite.TensorType.FLOAT64,
    DType.BOOL: tflite.TensorType.BOOL,
}

_ACTIVATIONS: Mapping[Activation, int] = {
    Activation.NONE: tflite.ActivationFunctionType.NONE,
    Activation.RELU: tflite.ActivationFunctionType.RELU,
    Activation.RELU6: tflite.ActivationFunctionType.RELU6,
    Activation.RELU_N1_TO_1: tflite.ActivationFunctionType.RELU_N1_TO_1,
}


def write_tflite(graph: Graph, steps: Sequence[Operation | Program] | None = None) -> bytes:
    """Return `graph` as a TFLite file of one subgraph.

    An opaque operation is copied from the file the graph was imported from.

    Args:
        graph: Tensors, inputs and outputs.
        steps: Instead of the graph's operations: some of them, and programs for the others, in
            the order they run. A program becomes a custom operator `PROGRAM_OPERATOR` whose
            options are its bytes.

    Raises:
        InputError: An operation, its pads or a tensor's type has no TFLite form.
    """
    return _Writer(graph, graph.operations if steps is None else steps).write()


def same_pads(size: Size2D, window: Size2D, stride: Size2D, dilation: Size2D) -> Pads:
    """Borders of TFLite's SAME padding: the odd row or column goes behind the map."""

    def amounts(length: int, window: int, stride: int, dilation: int) -> tuple[int, int]:
        reach = (-(-length // stride) - 1) * stride + (window - 1) * dilation + 1
        total = max(reach - length, 0)
        return total // 2, total - total // 2

    top, bottom = amounts(size.height, window.height, stride.height, dilation.height)
    left, right = amounts(size.width, window.width, stride.width, dilation.width)
    return Pads(top, bottom, left, right)


@dataclass(frozen=True, slots=True)
class _Form:
    """An operation as TFLite spells it; `table` names its options table, "" for none.

    Inputs that are left out are None.
    """

    code: str | int
    inputs: Sequence[str | None]
    outputs: Sequence[str]
    table: str = ""
    options: Mapping[str, Value] = field(default_factory=dict)
    version: int = 1
    intermediates: Sequence[str] = ()
    custom_name: str = ""
    custom_options: bytes = b""


class _Writer:
    def __init__(self, graph: Graph, steps: Sequence[Operation | Program]) -> None:
        self._graph = graph
        self._steps = steps
        used = {*graph.inputs, *graph.outputs}
        for step in steps:
            used.update(_ends(step))
        self._tensors = {name: t for name, t in graph.tensors.items() if name in used}
        self._variables: set[str] = set()
        self._file: TfliteFile | None = None

    def write(self) -> bytes:
        forms = [
            _program_form(step) if isinstance(step, Program) else self._form(step)
            for step in self._steps
        ]
        positions = {name: i for i, name in enumerate(self._tensors)}
        record = FileRecord(
            tensors=[
                _tensor_record(tensor, is_variable=name in self._variables)
                for name, tensor in self._tensors.items()
            ],
            operators=[
                OperatorRecord(
                    code=form.code
                    if isinstance(form.code, int)
                    else getattr(tflite.BuiltinOperator, form.code),
                    inputs=[-1 if name is None else positions[name] for name in form.inputs],
                    outputs=[positions[name] for name in form.outputs],
                    intermediates=[positions[name] for name in form.intermediates],
                    table=form.table,
                    options=form.options,
                    version=form.version,
                    custom_name=form.custom_name,
                    custom_options=form.custom_options,
                )
                for form in forms
            ],
            inputs=[positions[name] for name in self._graph.inputs],
            outputs=[positions[name] for name in self._graph.outputs],
        )
        return record.to_bytes()

    def _constant(self, owner: str, role: str, values: AnyArray, like: Tensor | None = None) -> str:
        """Add a constant that only the file needs; `like` lends type and quantization."""
        name = f"{owner}/{role}"
        while name in self._tensors or name in self._graph.tensors:
            name += "_"
        dtype = DType(values.dtype.name) if like is None else like.dtype
        quantization = None if like is None else like.quantization
        self._tensors[name] = Tensor(name, dtype, values.shape, quantization, values)
        return name

    def _int32(self, owner: str, role: str, values: object) -> str:
        return self._constant(owner, role, np.array(values, np.int32))

    def _type(self, name: str) -> DType:
        return self._graph.tensors[name].dtype

    def _image_size(self, name: str) -> Size2D:
        _, height, width, _ = nominal_shape(self._graph.tensors[name].shape)
        return Size2D(height, width)

    def _padding(
        self,
        op: Operation,
        large: str,
        small: str,
        pads: Pads,
        window: Size2D,
        stride: Size2D,
        dilation: Size2D = ONE,
    ) -> dict[str, int]:
        """Padding and stride options of a window that slides over map `large`, giving `small`.

        A transposed convolution is the slide turned round: its output is the large map.
        """
        size, result = self._image_size(large), self._image_size(small)
        valid = Size2D(
            (size.height - (window.height - 1) * dilation.height - 1) // stride.height + 1,
            (size.width - (window.width - 1) * dilation.width - 1) // stride.width + 1,
        )
        same = Size2D(-(-size.height // stride.height), -(-size.width // stride.width))
        if pads == NO_PADS and result == valid:
            padding = tflite.Padding.VALID
        elif pads == same_pads(size, window, stride, dilation) and result == same:
            padding = tflite.Padding.SAME
        else:
            raise InputError(
                f"{op.location}: pads {pads} of a {window} window over {size} giving {result} "
                "are neither SAME nor VALID, and TFLite knows no others\n"
                "  Put a Pad operation before it and leave the operation without pads."
            )
        return {"Padding": padding, "StrideH": stride.height, "StrideW": stride.width}

    def _form(self, op: Operation) -> _Form:
        options: dict[str, float]
        match op:
            case Conv2D() | DepthwiseConv2D() | TransposeConv2D() | FullyConnected():
                return self._weighted(op)
            case Add() | Sub() | Mul() | Maximum() | Minimum():
                return self._binary(op)
            case MaxPool2D() | AveragePool2D():
                code = "MAX_POOL_2D" if isinstance(op, MaxPool2D) else "AVERAGE_POOL_2D"
                options = {
                    **self._padding(op, op.input, op.output, op.pads, op.window, op.stride),
                    "FilterHeight": op.window.height,
                    "FilterWidth": op.window.width,
                    "FusedActivationFunction": _ACTIVATIONS[op.activation],
                }
                return self._plain(op, code, "Pool2DOptions", options)
            case Logistic() | Tanh():
                return self._plain(op, "LOGISTIC" if isinstance(op, Logistic) else "TANH")
            case HardSwish():
                return self._plain(op, "HARD_SWISH", "HardSwishOptions", version=1)
            case LeakyRelu():
                version = 2 if self._type(op.input) is DType.INT16 else 1
                options = {"Alpha": op.alpha}
                return self._plain(op, "LEAKY_RELU", "LeakyReluOptions", options, version=version)
            case Prelu():
                return self._plain(op, "PRELU", version=1)
            case Relu():
                return self._relu(op)
            case Softmax():
                rank = len(self._graph.tensors[op.input].shape)
                if op.axis not in (-1, rank - 1):
                    raise InputError(
                        f"{op.location}: TFLite's SOFTMAX runs over the last axis, not axis "
                        f"{op.axis}\n  Transpose before and after it."
                    )
                return self._plain(op, "SOFTMAX", "SoftmaxOptions", {"Beta": op.beta})
            case Quantize():
                version = 2 if self._type(op.output) is DType.INT16 else 1
                return self._plain(op, "QUANTIZE", "QuantizeOptions", version=version)
            case Dequantize():
                version = _version(self._type(op.input), int16=3)
                if self._type(op.input) is DType.FLOAT16:
                    version = 3
                return self._plain(op, "DEQUANTIZE", "DequantizeOptions", version=version)
            case Cast():
                options = {
                    "InDataType": self._tensor_type(op.input),
                    "OutDataType": self._tensor_type(op.output),
                }
                return self._plain(op, "CAST", "CastOptions", options, version=self._cast(op))
            case ShapeOf():
                options = {"OutType": self._tensor_type(op.output)}
                return self._plain(op, "SHAPE", "ShapeOptions", options, version=1)
            case Gather():
                version = _version(self._type(op.input), int16=4)
                options = {"Axis": op.axis}
                return self._plain(op, "GATHER", "GatherOptions", options, version=version)
            case Concatenation():
                options = {
                    "Axis": op.axis,
                    "FusedActivationFunction": _ACTIVATIONS[op.activation],
                }
                return self._plain(op, "CONCATENATION", "ConcatenationOptions", options)
            case Pack():
                options = {"Axis": op.axis, "ValuesCount": len(op.operands)}
                return self._plain(op, "PACK", "PackOptions", options)
            case Unpack():
                dtype = DType.INT8 if self._type(op.input) is DType.UINT8 else self._type(op.input)
                options = {"Axis": op.axis, "Num": len(op.parts)}
                version = _version(dtype, int16=4)
                return self._plain(op, "UNPACK", "UnpackOptions", options, version=version)
            case Mean() | Pad() | Reshape() | Transpose() | StridedSlice() | Split() | ArgMax():
                return self._with_constants(op)
            case ResizeNearest() | ResizeBilinear():
                return self._resize(op)
            case Opaque():
                return self._opaque(op)

    def _opaque(self, op: Opaque) -> _Form:
        """The operator of the file, with its working memory and its state."""
        if not self._graph.source or self._graph.format != "tflite":
            raise InputError(
                f"{op.location}: an operator without meaning here cannot be written without the "
                "file it was read from\n  Keep the original file for it."
            )
        if self._file is None:
            self._file = read_file(self._graph.source, self._graph.name)
        file = self._file
        copied = copied_operator(file.operators[op.location.index], self._graph.source)
        names: dict[int, str] = {}
        for position in (*copied.inputs, *copied.intermediates):
            if position < 0:
                continue
            entry = file.tensors[position]
            names[position] = entry.tensor.name
            if entry.is_variable:
                self._variables.add(entry.tensor.name)
            self._tensors.setdefault(entry.tensor.name, entry.tensor)
        return _Form(
            code=copied.code,
            inputs=[names.get(position) for position in copied.inputs],
            outputs=op.outputs,
            table=copied.table,
            options=copied.options,
            version=copied.version,
            intermediates=[names[position] for position in copied.intermediates],
            custom_name=copied.custom_name,
            custom_options=copied.custom_options,
        )

    def _plain(
        self,
        op: Operation,
        code: str,
        table: str = "",
        options: Mapping[str, float] | None = None,
        *,
        more: Sequence[str] = (),
        version: int | None = None,
    ) -> _Form:
        """Inputs as the operation has them, then `more`; version by the first input's type."""
        inputs = (*op.inputs, *more)
        version = _version(self._type(op.inputs[0])) if version is None else version
        return _Form(code, inputs, op.outputs, table, options or {}, version)

    def _weighted(self, op: Conv2D | DepthwiseConv2D | TransposeConv2D | FullyConnected) -> _Form:
        weights = self._graph.tensors[op.weights]
        activation = {"FusedActivationFunction": _ACTIVATIONS[op.activation]}
        if DType.INT32 in (self._type(op.input), self._type(op.output)):
            raise InputError(
                f"{op.location}: int32 sums between two convolutions have no TFLite form\n"
                "  Quantize what stands between them."
            )
        if isinstance(op, FullyConnected):
            return self._fully_connected(op, weights, activation)
        _, height, width, last = nominal_shape(weights.shape)
        window = Size2D(height, width)
        if isinstance(op, TransposeConv2D):
            return self._transpose_conv(op, window, activation)
        options = {
            **self._padding(op, op.input, op.output, op.pads, window, op.stride, op.dilation),
            "DilationHFactor": op.dilation.height,
            "DilationWFactor": op.dilation.width,
            **activation,
        }
        dtype = self._type(op.input)
        int4 = weights.dtype is DType.INT4
        if isinstance(op, Conv2D):
            version = 7 if int4 else _version(dtype, int8=3, int16=4)
            bias = [] if op.bias is not None or dtype.is_float else [self._zero_bias(op)]
            return self._plain(op, "CONV_2D", "Conv2DOptions", options, more=bias, version=version)
        *_, channels = nominal_shape(self._shape(op.input))
        options["DepthMultiplier"] = last // channels
        version = 7 if int4 else _version(dtype, int8=3, int16=5)
        if op.dilation != ONE:
            version = max(version, 2)
        return self._plain(
            op, "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", options, version=version
        )

    def _zero_bias(self, op: Conv2D) -> str:
        """A bias of zeros: the integer CONV_2D kernels of LiteRT do not run without one."""
        weights, source = self._graph.tensors[op.weights], self._graph.tensors[op.input]
        if weights.quantization is None or source.quantization is None:
            raise InputError(
                f"{op.location}: integer operands without scales\n  Give them quantization."
            )
        scale = weights.quantization.scale * np.float32(source.quantization.single_scale)
        axis = None if weights.quantization.is_per_tensor else 0
        filters, *_ = nominal_shape(weights.shape)
        dtype = DType.INT64 if source.dtype is DType.INT16 else DType.INT32
        zeros = np.zeros(filters, dtype.numpy)
        quantization = Quantization(scale, np.zeros(scale.size, np.int64), axis)
        bias = Tensor("", dtype, zeros.shape, quantization)
        return self._constant(op.output, "bias", zeros, like=bias)

    def _transpose_conv(
        self, op: TransposeConv2D, window: Size2D, activation: Mapping[str, int]
    ) -> _Form:
        if op.depthwise:
            raise InputError(
                f"{op.location}: TFLite has no depthwise transposed convolution\n"
                "  Spread the weights over a full TransposeConv2D."
            )
        options = {
            **self._padding(op, op.output, op.input, op.pads, window, op.stride),
            **activation,
        }
        shape = self._int32(op.output, "output_shape", nominal_shape(self._shape(op.output)))
        inputs = [shape, op.weights, op.input, *([] if op.bias is None else [op.bias])]
        if op.activation is not Activation.NONE:
            version = 4
        elif op.bias is not None:
            version = 3
        else:
            version = _version(self._type(op.input))
        return _Form("TRANSPOSE_CONV", inputs, op.outputs, "TransposeConvOptions", options, version)

    def _fully_connected(
        self, op: FullyConnected, weights: Tensor, activation: Mapping[str, int]
    ) -> _Form:
        keep_dims = len(self._shape(op.output)) != 2
        version = _version(self._type(op.input), int8=4, int16=7)
        if keep_dims:
            version = max(version, 5)
        if op.bias is None:
            version = max(version, 6)
        if weights.dtype is DType.INT4:
            version = 10
        if weights.quantization is not None and not weights.quantization.is_per_tensor:
            version = 12  # so that runtimes that would read the first scale only refuse the file
        options = {**activation, "KeepNumDims": keep_dims}
        return self._plain(op, "FULLY_CONNECTED", "FullyConnectedOptions", options, version=version)

    def _binary(self, op: Add | Sub | Mul | Maximum | Minimum) -> _Form:
        dtype = self._type(op.a)
        activation = {"FusedActivationFunction": _ACTIVATIONS[op.activation]}
        match op:
            case Add():
                return self._plain(op, "ADD", "AddOptions", activation)
            case Sub():
                return self._plain(op, "SUB", "SubOptions", activation)
            case Mul():
                version = _version(dtype, int16=4)
                return self._plain(op, "MUL", "MulOptions", activation, version=version)
            case Maximum() | Minimum():
                if op.activation is not Activation.NONE:
                    raise InputError(
                        f"{op.location}: TFLite fuses no activation into it\n"
                        "  Put a Relu operation behind it."
                    )
                code = "MAXIMUM" if isinstance(op, Maximum) else "MINIMUM"
                version = _version(dtype, int16=4)
                return self._plain(op, code, "MaximumMinimumOptions", version=version)

    def _relu(self, op: Relu) -> _Form:
        dtype = self._type(op.input)
        match op.bound:
            case Activation.RELU:
                version = 2 if dtype is DType.UINT8 else _version(dtype)
                return self._plain(op, "RELU", version=version)
            case Activation.RELU6:
                return self._plain(op, "RELU6")
            case Activation.RELU_N1_TO_1:
                return self._plain(op, "RELU_N1_TO_1", version=1)
            case Activation.NONE:
                raise InputError(
                    f"{op.location}: a Relu without bounds has no TFLite form\n"
                    "  Leave the operation out."
                )

    def _with_constants(
        self, op: Mean | Pad | Reshape | Transpose | StridedSlice | Split | ArgMax
    ) -> _Form:
        """Operations whose attributes TFLite holds in constant tensors."""
        rank = len(self._shape(op.input))
        options: dict[str, float]
        match op:
            case Mean():
                axes = self._int32(op.output, "axes", op.axes)
                options = {"KeepDims": op.keep_dims}
                return self._plain(op, "MEAN", "ReducerOptions", options, more=[axes])
            case Pad():
                more = [self._int32(op.output, "amounts", op.amounts)]
                version = 4 if rank > 4 else None
                if op.value is None:
                    return self._plain(op, "PAD", "PadOptions", more=more, version=version)
                source = self._graph.tensors[op.input]
                value = np.array(op.value, source.dtype.numpy)
                more.append(self._constant(op.output, "value", value, like=source))
                return self._plain(op, "PADV2", "PadV2Options", more=more, version=version)
            case Reshape():
                shape = [-1 if d is None else d for d in self._shape(op.output)]
                more = [self._int32(op.output, "shape", shape)]
                return self._plain(op, "RESHAPE", "ReshapeOptions", more=more, version=1)
            case Transpose():
                more = [self._int32(op.output, "permutation", op.permutation)]
                version = 4 if rank > 4 else _version(self._type(op.input), int16=5)
                return self._plain(op, "TRANSPOSE", "TransposeOptions", more=more, version=version)
            case StridedSlice():
                return self._strided_slice(op)
            case Split():
                axis = self._int32(op.location.name, "axis", op.axis)
                options = {"NumSplits": len(op.parts)}
                if len(set(op.sizes)) == 1:
                    version = _version(self._type(op.input), int16=4)
                    if self._type(op.input) is DType.INT32:
                        version = 3
                    inputs = [axis, op.input]
                    return _Form("SPLIT", inputs, op.parts, "SplitOptions", options, version)
                sizes = self._int32(op.location.name, "sizes", op.sizes)
                version = _version(self._type(op.input), int16=1)
                inputs = [op.input, sizes, axis]
                return _Form("SPLIT_V", inputs, op.parts, "SplitVOptions", options, version)
            case ArgMax():
                more = [self._int32(op.output, "axis", op.axis)]
                options = {"OutputType": self._tensor_type(op.output)}
                version = _version(self._type(op.input), int16=1)
                return self._plain(
                    op, "ARG_MAX", "ArgMaxOptions", options, more=more, version=version
                )

    def _strided_slice(self, op: StridedSlice) -> _Form:
        begin, end, open_begin, open_end = [], [], [], []
        axes = zip(op.begin, op.end, strict=True)
        for axis, (first, last) in enumerate(axes):
            # An axis that is dropped is cut at `begin` alone; an open end says so even for -1,
            # where the end 0 would make an empty range.
            drop = axis in op.drop_axes
            begin.append(first or 0)
            end.append(last or 0)
            open_begin.append(first is None and not drop)
            open_end.append(last is None or drop)
        options = {
            "BeginMask": _mask(open_begin),
            "EndMask": _mask(open_end),
            "ShrinkAxisMask": _mask(axis in op.drop_axes for axis in range(len(begin))),
        }
        more = [
            self._int32(op.output, "begin", begin),
            self._int32(op.output, "end", end),
            self._int32(op.output, "step", op.step),
        ]
        version = 4 if len(begin) > 4 else _version(self._type(op.input), int16=1)
        return self._plain(
            op, "STRIDED_SLICE", "StridedSliceOptions", options, more=more, version=version
        )

    def _resize(self, op: ResizeNearest | ResizeBilinear) -> _Form:
        nearest = isinstance(op, ResizeNearest)
        version = _version(self._type(op.input), int16=4)
        if op.half_pixel_centers or (nearest and op.align_corners):
            version = max(version, 3)
        return self._plain(
            op,
            "RESIZE_NEAREST_NEIGHBOR" if nearest else "RESIZE_BILINEAR",
            "ResizeNearestNeighborOptions" if nearest else "ResizeBilinearOptions",
            {"AlignCorners": op.align_corners, "HalfPixelCenters": op.half_pixel_centers},
            more=[self._int32(op.output, "size", [op.size.height, op.size.width])],
            version=version,
        )

    def _cast(self, op: Cast) -> int:
        types = {self._type(op.input), self._type(op.output)}
        if types & {DType.FLOAT64, DType.FLOAT16}:
            return 5
        if DType.UINT16 in types:
            return 4
        if DType.INT8 in types:
            return 3
        return 2 if DType.UINT32 in types else 1

    def _shape(self, name: str) -> Shape:
        return self._graph.tensors[name].shape

    def _tensor_type(self, name: str) -> int:
        return _TENSOR_TYPES[_writable(self._graph.tensors[name])]


def _version(dtype: DType, *, int8: int = 2, int16: int = 3) -> int:
    """Operator version by the element type most operators choose theirs by."""
    return {DType.INT8: int8, DType.INT16: int16}.get(dtype, 1)


def _mask(bits: Iterable[bool]) -> int:
    return sum(bit << position for position, bit in enumerate(bits))


def _writable(tensor: Tensor) -> DType:
    if tensor.dtype not in _TENSOR_TYPES:
        raise InputError(
            f"tensor '{tensor.name}': element type {tensor.dtype.value} cannot be written to "
            "TFLite\n  Give the tensor another type."
        )
    return tensor.dtype


def _encode(tensor: Tensor) -> bytes:
    """Bytes of a constant; int4 packed by two, the earlier value in the low nibble."""
    values = np.ascontiguousarray(tensor.data)
    if tensor.dtype is DType.INT4:
        nibbles = values.reshape(-1).view(np.uint8) & 0xF
        nibbles = np.append(nibbles, np.zeros(nibbles.size % 2, np.uint8))
        return (nibbles[0::2] | nibbles[1::2] << 4).tobytes()
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _ends(step: Operation | Program) -> tuple[str, ...]:
    """Tensors a step reads and writes."""
    if isinstance(step, Program):
        return step.input.tensor, step.output.tensor
    return step.inputs + step.outputs


def _program_form(program: Program) -> _Form:
    return _Form(
        code="CUSTOM",
        inputs=[program.input.tensor],
        outputs=[program.output.tensor],
        custom_name=PROGRAM_OPERATOR,
        custom_options=program_to_bytes(program),
    )


def _tensor_record(tensor: Tensor, *, is_variable: bool = False) -> TensorRecord:
    signature = [-1 if length is None else length for length in tensor.shape]
    scales = tensor.quantization
    return TensorRecord(
        name=tensor.name,
        type=_TENSOR_TYPES[_writable(tensor)],
        shape=list(nominal_shape(tensor.shape)),
        signature=signature if None in tensor.shape else None,
        scale=() if scales is None else scales.scale.tolist(),
        zero_point=() if scales is None else scales.zero_point.tolist(),
        axis=0 if scales is None else scales.axis or 0,
        data=_encode(tensor) if tensor.is_constant else None,
        is_variable=is_variable,
    )
