# SPDX-License-Identifier: Apache-2.0
"""Each TFLite operator as an operation of the Graph: one function per operator, one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import tflite
from tflite import BuiltinOperator

from akida_backend.errors import ImportModelError
from akida_backend.graph import (
    NO_PADS,
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
    FullyConnected,
    Gather,
    HardSwish,
    LeakyRelu,
    Location,
    Logistic,
    Maximum,
    MaxPool2D,
    Mean,
    Minimum,
    Mul,
    Operation,
    Pack,
    Pad,
    Pads,
    Prelu,
    Quantize,
    Relu,
    Reshape,
    ResizeBilinear,
    ResizeNearest,
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
from akida_backend.importers.flatbuffer_check import Table
from akida_backend.importers.shape_inference import FixedShape, same_pads
from akida_backend.importers.tflite_file import MAX_RANK, FileOperator

_NO_LIMIT: Final = 2**14

_ACTIVATIONS: Final[Mapping[int, Activation]] = {
    tflite.ActivationFunctionType.NONE: Activation.NONE,
    tflite.ActivationFunctionType.RELU: Activation.RELU,
    tflite.ActivationFunctionType.RELU_N1_TO_1: Activation.RELU_N1_TO_1,
    tflite.ActivationFunctionType.RELU6: Activation.RELU6,
}


class NotModelledError(Exception):
    """The operator is sound, but says something no operation of the Graph can say."""


@dataclass(slots=True)
class Arguments:
    """One operator with its tensors.

    Attributes:
        operator: The operator of the file.
        inputs: Its tensors, constants that import computed included; None where absent.
        outputs: Its results as the file declares them.
        other_batch: Constants that depend on the batch: their values at another batch size.
        mixes_batch: Set when a parameter depends on the batch other than on axis 0.
        shapes: Result shapes that only the parameters tell, by name.
    """

    operator: FileOperator
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    other_batch: Mapping[str, AnyArray]
    mixes_batch: bool = False
    shapes: dict[str, FixedShape] = field(default_factory=dict)

    @property
    def location(self) -> Location:
        return self.operator.location

    @property
    def sources(self) -> tuple[int, ...]:
        return (self.operator.location.index,)

    @property
    def output(self) -> str:
        return self.outputs[0].name

    def error(self, field: str, problem: str) -> ImportModelError:
        return self.operator.table.error(field, problem)

    def input(self, position: int) -> Tensor:
        tensor = self.inputs[position]
        if tensor is None:
            raise self.error("Inputs", f"input {position} is absent")
        return tensor

    def name(self, position: int) -> str:
        return self.input(position).name

    def names(self) -> tuple[str, ...]:
        return tuple(self.name(position) for position in range(len(self.inputs)))

    def shape(self, position: int) -> FixedShape:
        return nominal_shape(self.input(position).shape)

    def constant(self, position: int, role: str) -> str:
        """Name of an input that has to be a constant."""
        tensor = self.input(position)
        if tensor.data is None:
            raise NotModelledError(f"{self.location.type} with computed {role} is not modelled")
        return tensor.name

    def optional_constant(self, position: int, role: str) -> str | None:
        if position >= len(self.inputs) or self.inputs[position] is None:
            return None
        return self.constant(position, role)

    def integers(
        self, position: int, role: str, *, most: int = MAX_RANK, batch_first: bool = False
    ) -> tuple[int, ...]:
        """A constant parameter, flattened.

        Args:
            position: Of the input.
            role: What the parameter is, for messages.
            most: Values it may have.
            batch_first: Whether its first value stands for axis 0.
        """
        tensor = self.input(position)
        if tensor.data is None:
            raise NotModelledError(f"{self.location.type} with computed {role} is not modelled")
        if tensor.data.dtype not in (np.int32, np.int64):
            raise self.error("Inputs", f"{role} '{tensor.name}' is of type {tensor.dtype.value}")
        if tensor.data.size > most:
            raise self.error("Inputs", f"{role} '{tensor.name}' has {tensor.data.size} values")
        values = tuple(int(value) for value in tensor.data.ravel())
        other = self.other_batch.get(tensor.name)
        if other is not None and not (
            batch_first and tuple(int(value) for value in other.ravel()[1:]) == values[1:]
        ):
            self.mixes_batch = True
        return values

    def integer(self, position: int, role: str) -> int:
        values = self.integers(position, role, most=1)
        if len(values) != 1:
            raise self.error("Inputs", f"{role} '{self.name(position)}' is empty")
        return values[0]

    def axis(self, axis: int, rank: int) -> int:
        """`axis` counted from the front."""
        if not -rank <= axis < rank:
            raise self.error("Axis", f"axis {axis} of a tensor with {rank} axes")
        return axis % rank

    def activation(self, options: Table) -> Activation:
        number = options.integer("FusedActivationFunction")
        activation = _ACTIVATIONS.get(number)
        if activation is not None:
            return activation
        if number in (tflite.ActivationFunctionType.TANH, tflite.ActivationFunctionType.SIGN_BIT):
            raise NotModelledError("fused activations TANH and SIGN_BIT are not modelled")
        raise options.error("FusedActivationFunction", f"{number} is not an activation")

    def pads(
        self, options: Table, size: Size2D, window: Size2D, stride: Size2D, dilation: Size2D
    ) -> Pads:
        """The borders that the padding scheme means for a map of `size`."""
        number = options.integer("Padding")
        if number == tflite.Padding.VALID:
            return NO_PADS
        if number != tflite.Padding.SAME:
            raise options.error("Padding", f"{number} is not a padding scheme")
        return same_pads(size, window, stride, dilation)

    def image_size(self, position: int) -> Size2D:
        shape = self.shape(position)
        if len(shape) != 4:
            raise self.error("Inputs", f"input {position} {list(shape)} is not an NHWC tensor")
        _, height, width, _ = shape
        return Size2D(height, width)


def _pair(options: Table, height_field: str, width_field: str) -> Size2D:
    """A positive height and width, such as a stride."""
    for name in (height_field, width_field):
        if options.integer(name) < 1:
            raise options.error(name, f"{options.integer(name)} is below one")
    return Size2D(options.integer(height_field), options.integer(width_field))


# Convolutions and matrix products


def _conv_2d(args: Arguments) -> Operation:
    options = args.operator.options(tflite.Conv2DOptions)
    weights = args.constant(1, "weights")
    kernel = args.image_size(1)
    stride = _pair(options, "StrideH", "StrideW")
    dilation = _pair(options, "DilationHFactor", "DilationWFactor")
    pads = args.pads(options, args.image_size(0), kernel, stride, dilation)
    activation = args.activation(options)
    (*_, channels), (*_, filter_channels) = args.shape(0), args.shape(1)
    if 0 < filter_channels < channels and channels % filter_channels == 0:
        raise NotModelledError("grouped convolution is not modelled")
    return Conv2D(
        location=args.location,
        sources=args.sources,
        input=args.name(0),
        weights=weights,
        bias=args.optional_constant(2, "bias"),
        output=args.output,
        stride=stride,
        dilation=dilation,
        pads=pads,
        activation=activation,
    )


def _depthwise_conv_2d(args: Arguments) -> Operation:
    # The depth multiplier of the options repeats what the shapes say; kernels use the shapes.
    options = args.operator.options(tflite.DepthwiseConv2DOptions)
    weights = args.constant(1, "weights")
    stride = _pair(options, "StrideH", "StrideW")
    dilation = _pair(options, "DilationHFactor", "DilationWFactor")
    return DepthwiseConv2D(
        location=args.location,
        sources=args.sources,
        input=args.name(0),
        weights=weights,
        bias=args.optional_constant(2, "bias"),
        output=args.output,
        stride=stride,
        dilation=dilation,
        pads=args.pads(options, args.image_size(0), args.image_size(1), stride, dilation),
        activation=args.activation(options),
    )


def _transpose_conv(args: Arguments) -> Operation:
    """TFLite pads as the forward convolution from the output would, and gives the output size."""
    options = args.operator.options(tflite.TransposeConvOptions)
    target = args.integers(0, "output shape", batch_first=True)
    weights = args.constant(1, "weights")
    stride = _pair(options, "StrideH", "StrideW")
    kernel, size = args.image_size(1), args.image_size(2)
    if len(target) != 4 or min(target) < 1:
        raise args.error("Inputs", f"output shape {list(target)}")
    _, height, width, _ = target
    before = args.pads(options, Size2D(height, width), kernel, stride, Size2D(1, 1))
    pads = Pads(
        top=before.top,
        bottom=(size.height - 1) * stride.height + kernel.height - before.top - height,
        left=before.left,
        right=(size.width - 1) * stride.width + kernel.width - before.left - width,
    )
    if pads.bottom < 0 or pads.right < 0:
        raise NotModelledError("TRANSPOSE_CONV to a map beyond its last window is not modelled")
    args.shapes[args.output] = target
    return TransposeConv2D(
        location=args.location,
        sources=args.sources,
        input=args.name(2),
        weights=weights,
        bias=args.optional_constant(3, "bias"),
        output=args.output,
        stride=stride,
        pads=pads,
        activation=args.activation(options),
    )


def _fully_connected(args: Arguments) -> Operation:
    options = args.operator.options(tflite.FullyConnectedOptions)
    if options.integer("WeightsFormat") != tflite.FullyConnectedOptionsWeightsFormat.DEFAULT:
        raise NotModelledError("FULLY_CONNECTED with shuffled weights is not modelled")
    return FullyConnected(
        location=args.location,
        sources=args.sources,
        input=args.name(0),
        weights=args.constant(1, "weights"),
        bias=args.optional_constant(2, "bias"),
        output=args.output,
        activation=args.activation(options),
    )


# Two operands


_Binary = type[Add] | type[Sub] | type[Mul]


def _binary(kind: _Binary, options_reader: type[object]) -> Callable[[Arguments], Operation]:
    def convert(args: Arguments) -> Operation:
        return kind(
            location=args.location,
            sources=args.sources,
            a=args.name(0),
            b=args.name(1),
            output=args.output,
            activation=args.activation(args.operator.options(options_reader)),
        )

    return convert


def _extremum(kind: type[Maximum] | type[Minimum]) -> Callable[[Arguments], Operation]:
    def convert(args: Arguments) -> Operation:
        return kind(
            location=args.location,
            sources=args.sources,
            a=args.name(0),
            b=args.name(1),
            output=args.output,
        )

    return convert


def _prelu(args: Arguments) -> Operation:
    return Prelu(
        location=args.location,
        sources=args.sources,
        input=args.name(0),
        alpha=args.name(1),
        output=args.output,
    )


# Windows and reductions


def _pool(kind: type[MaxPool2D] | type[AveragePool2D]) -> Callable[[Arguments], Operation]:
    def convert(args: Arguments) -> Operation:
        options = args.operator.options(tflite.Pool2DOptions)
        window = _pair(options, "FilterHeight", "FilterWidth")
        stride = _pair(options, "StrideH", "StrideW")
        return kind(
            location=args.location,
            sources=args.sources,
            input=args.name(0),
            output=args.output,
            window=window,
            stride=stride,
            pads=args.pads(options, args.image_size(0), window, stride, Size2D(1, 1)),
            activation=args.activation(options),
        )

    return convert


def _mean(args: Arguments) -> Operation:
    options = args.operator.options(tflite.ReducerOptions)
    rank = len(args.shape(0))
    axes = {args.axis(axis, rank) for axis in args.integers(1, "axes", most=2 * MAX_RANK)}
    return Mean(
        location=args.location,
        sources=args.sources,
        input=args.name(0),
        output=args.output,
        axes=tuple(sorted(axes)),
        keep_dims=options.flag("KeepDims"),
    )


def _arg_max(args: Arguments) -> Operation:
    return ArgMax(
        location=args.location,
        sources=args.sources,
        input=args.name(0),
        output=args.output,
        axis=args.axis(args.integer(1, "axis"), len(args.shape(0))),
    )


# Shapes


def _concatenation(args: Arguments) -> Operation:
    options = args.operator.options(tflite.ConcatenationOptions)
    return Concatenation(
        location=args.location,
        sources=args.sources,
        operands=args.names(),
        output=args.output,
        axis=args.axis(options.integer("Axis"), len(args.shape(0))),
        activation=args.activation(options),
    )


def _pad(args: Arguments) -> Operation:
    flat = args.integers(1, "paddings", most=2 * MAX_RANK)
    rank = len(args.shape(0))
    if len(flat) != 2 * rank:
        raise args.error("Inputs", f"{len(flat)} paddings for {rank} axes")
    amounts = tuple(zip(flat[0::2], flat[1::2], strict=True))
    if min(flat, default=0) < 0:
        raise args.error("Inputs", f"paddings {list(amounts)} are negative")
    return Pad(
        location=args.location,
        sources=args.sources,
        input=args.name(0),
        output=args.output,
        amounts=amounts,
        value=_pad_value(args) if len(args.inputs) == 3 else None,
    )


def _pad_value(args: Arguments) -> int | float:
    args.constant(2, "pad value")
    source, tensor = args.input(0), args.input(2)
    if tensor.data is None or tensor.data.size != 1:
        raise args.error("Inputs", f"pad value '{tensor.name}' is not one value")
    if tensor.dtype is not source.dtype or not _same_scale(tensor, source):
        raise NotModelledError("PADV2 with a value on another scale than its input is not modelled")
    value: int | float = tensor.data.item()
    return value


def _same_scale(a: Tensor, b: Tensor) -> bool:
    if a.quantization is None or b.quantization is None:
        return a.quantization is b.quantization
    return np.array_equal(a.quantization.scale, b.quantization.scale) and np.array_equal(
        a.quantization.zero_point, b.quantization.zero_point
    )


def _reshape_to(args: Arguments, target: FixedShape) -> Operation:
    args.shapes[args.output] = target
    return Reshape(
        location=args.location, sources=args.sources, input=args.name(0), output=args.output
    )


def _reshape(args: Arguments) -> Operation:
    if len(args.inputs) > 1 and args.inputs[1] is not None:
        target = args.integers(1, "shape", batch_first=True)
    else:
        target = args.operator.options(tflite.ReshapeOptions).integers("NewShape")
    count = math.prod(args.shape(0))
    known = math.prod(length for length in target if length != -1)
    if target.count(-1) > 1 or min(target, default=0) < -1 or len(target) > MAX_RANK:
        raise args.error("NewShape", f"{list(target)} is not a shape")
    if -1 in target:
        if known == 0 or count % known:
            raise args.error("NewShape", f"{count} values do not fill {list(target)}")
        target = tuple(count // known if length == -1 else length for length in target)
    return _reshape_to(args, target)


def _squeeze(args: Arguments) -> Operation:
    dims = args.operator.options(tflite.SqueezeOptions).integers("SqueezeDims")
    shape = args.shape(0)
    axes = {args.axis(axis, len(shape)) for axis in dims}
    if not axes:
        axes = {axis for axis, length in enumerate(shape) if length == 1}
    if any(shape[axis] != 1 for axis in axes):
        raise args.error("SqueezeDims", f"axes {sorted(axes)} of {list(shape)} are not all one")
    return _reshape_to(args, tuple(n for axis, n in enumerate(shape) if axis not in axes))


def _expand_dims(args: Arguments) -> Operation:
    shape = args.shape(0)
    axis = args.axis(args.integer(1, "axis"), len(shape) + 1)
    return _reshape_to(args, (*shape[:axis], 1, *shape[axis:]))


def _transpose(args: Arguments) -> Operation:
    rank = len(args.shape(0))
    permutation = tuple(args.axis(axis, rank) for axis in args.integers(1, "permutation"))
    return Transpose(
        location=args.location,
        sources=args.sources,
        input=args.name(0),
        output=args.output,
        permutation=permutation,
    )


def _split(args: Arguments) -> Operation:
    axis = args.axis(args.integer(0, "axis"), len(args.shape(1)))
    length, parts = args.shape(1)[axis], len(args.outputs)
    declared = args.operator.options(tflite.SplitOptions).integer("NumSplits")
    if declared != parts:
        raise args.error("NumSplits", f"{declared}, but there are {parts} outputs")
    if length % parts:
        raise args.error("NumSplits", f"{length} entries on axis {axis} do not split by {parts}")
    return _split_into(args, args.name(1), axis, (length // parts,) * parts)


def _split_v(args: Arguments) -> Operation:
    axis = args.axis(args.integer(2, "axis"), len(args.shape(0)))
    parts = len(args.outputs)
    sizes = args.integers(1, "sizes", most=parts)
    rest = args.shape(0)[axis] - sum(size for size in sizes if size != -1)
    if len(sizes) != parts or sizes.count(-1) > 1 or min(sizes) < -1 or rest < 0:
        raise args.error("Inputs", f"sizes {list(sizes)} for {parts} outputs")
    return _split_into(args, args.name(0), axis, tuple(rest if n == -1 else n for n in sizes))


def _split_into(args: Arguments, source: str, axis: int, sizes: tuple[int, ...]) -> Operation:
    return Split(
        location=args.location,
        sources=args.sources,
        input=source,
        parts=tuple(tensor.name for tensor in args.outputs),
        axis=axis,
        sizes=sizes,
    )


def _pack(args: Arguments) -> Operation:
    options = args.operator.options(tflite.PackOptions)
    if options.integer("ValuesCount") != len(args.inputs):
        raise options.error(
            "ValuesCount", f"{options.integer('ValuesCount')}, but {len(args.inputs)} inputs"
        )
    return Pack(
        location=args.location,
        sources=args.sources,
        operands=args.names(),
        output=args.output,
        axis=args.axis(options.integer("Axis"), len(args.shape(0)) + 1),
    )


def _unpack(args: Arguments) -> Operation:
    options = args.operator.options(tflite.UnpackOptions)
    if options.integer("Num") != len(args.outputs):
        raise options.error("Num", f"{options.integer('Num')}, but {len(args.outputs)} outputs")
    return Unpack(
        location=args.location,
        sources=args.sources,
        input=args.name(0),
        parts=tuple(tensor.name for tensor in args.outputs),
        axis=args.axis(options.integer("Axis"), len(args.shape(0))),
    )


def _shape(args: Arguments) -> Operation:
    return ShapeOf(
        location=args.location, sources=args.sources, input=args.name(0), output=args.output
    )


def _check_range(args: Arguments, indices: AnyArray, length: int) -> None:
    low, high = int(indices.min(initial=0)), int(indices.max(initial=0))
    if low < 0 or high >= max(length, 1):
        raise args.error("Inputs", f"indices from {low} to {high} on an axis of {length}")


def _gather(args: Arguments) -> Operation:
    options = args.operator.options(tflite.GatherOptions)
    if options.integer("BatchDims") != 0:
        raise NotModelledError("GATHER with batch_dims is not modelled")
    axis = args.axis(options.integer("Axis"), len(args.shape(0)))
    indices = args.input(1).data
    if indices is not None and indices.dtype in (np.int32, np.int64):
        if not args.operator.table.budget.scanned.take(indices.nbytes):
            raise args.error("Inputs", "the indices of this file add up to too many")
        _check_range(args, indices, args.shape(0)[axis])
    return Gather(
        location=args.location,
        sources=args.sources,
        input=args.name(0),
        indices=args.name(1),
        output=args.output,
        axis=axis,
    )


def _strided_slice(args: Arguments) -> Operation:
    """Resolve masks and negative indices; an axis taken whole becomes (None, None, 1)."""
    options = args.operator.options(tflite.StridedSliceOptions)
    shape = args.shape(0)
    begins, ends, steps = (
        args.integers(position, role, batch_first=True)
        for position, role in ((1, "begin"), (2, "end"), (3, "strides"))
    )
    entries = len(begins)
    masks = _SliceMasks(
        begin=options.integer("BeginMask"),
        end=options.integer("EndMask"),
        shrink=options.integer("ShrinkAxisMask"),
    )
    ellipsis = [i for i in range(entries) if options.integer("EllipsisMask") >> i & 1]
    if options.integer("NewAxisMask") & ((1 << entries) - 1):
        raise NotModelledError("STRIDED_SLICE with new axes is not modelled")
    if options.flag("Offset"):
        raise NotModelledError("STRIDED_SLICE with ends counted from the begin is not modelled")
    given = entries - len(ellipsis)
    if len(ends) != entries or len(steps) != entries or len(ellipsis) > 1 or given > len(shape):
        raise args.error("Inputs", f"{entries} slices of a tensor with {len(shape)} axes")

    # Which entry speaks for each axis; the axes of an ellipsis and those left over are whole.
    before = ellipsis[0] if ellipsis else entries
    positions: list[int | None] = [None] * len(shape)
    positions[:before] = range(before)
    after = range(before + 1, entries)
    if after:
        positions[-len(after) :] = after
    slices: list[tuple[int | None, int | None, int]] = []
    for axis, (position, length) in enumerate(zip(positions, shape, strict=True)):
        if position is None:
            slices.append((None, None, 1))
            continue
        begin, end, step = begins[position], ends[position], steps[position]
        if step == 0 or (masks.shrinks(position) and step < 0):
            raise args.error("Inputs", f"step {step} on axis {axis}")
        slices.append(masks.resolve(position, begin, end, step, length))
    return StridedSlice(
        location=args.location,
        sources=args.sources,
        input=args.name(0),
        output=args.output,
        begin=tuple(begin for begin, _, _ in slices),
        end=tuple(end for _, end, _ in slices),
        step=tuple(step for _, _, step in slices),
        drop_axes=tuple(
            axis for axis, i in enumerate(positions) if i is not None and masks.shrinks(i)
        ),
    )


@dataclass(frozen=True, slots=True)
class _SliceMasks:
    """Bit i speaks of entry i."""

    begin: int
    end: int
    shrink: int

    def shrinks(self, entry: int) -> bool:
        return bool(self.shrink >> entry & 1)

    def resolve(
        self, entry: int, begin: int, end: int, step: int, length: int
    ) -> tuple[int | None, int | None, int]:
        """Slice without masks or negative indices.

        Source:
            TensorFlow Lite, kernels/internal/strided_slice_logic.h.
        """
        low, high = (0, length) if step > 0 else (-1, length - 1)
        first, last = (low, high) if step > 0 else (high, low)
        if self.begin >> entry & 1:
            begin = first
        else:
            begin = min(max(begin + length if begin < 0 else begin, low), high)
        if self.shrinks(entry):
            return begin, begin + 1, 1
        if self.end >> entry & 1:
            end = last
        else:
            end = min(max(end + length if end < 0 else end, low), high)
        if (begin, end, step) == (0, length, 1):
            return None, None, 1
        if step < 0 and begin < 0:  # nothing is left; Python would read -1 as the last entry
            return 0, 0, 1
        return begin, None if end < 0 else end, step


# One operand


_Unary = (
    type[Cast] | type[Logistic] | type[Tanh] | type[HardSwish] | type[Quantize] | type[Dequantize]
)


def _unary(kind: _Unary) -> Callable[[Arguments], Operation]:
    def convert(args: Arguments) -> Operation:
        return kind(
            location=args.location, sources=args.sources, input=args.name(0), output=args.output
        )

    return convert


def _relu(bound: Activation) -> Callable[[Arguments], Operation]:
    def convert(args: Arguments) -> Operation:
        return Relu(
            location=args.location,
            sources=args.sources,
            input=args.name(0),
            output=args.output,
            bound=bound,
        )

    return convert


def _softmax(args: Arguments) -> Operation:
    options = args.operator.options(tflite.SoftmaxOptions)
    return Softmax(
        location=args.location,
        sources=args.sources,
        input=args.name(0),
        output=args.output,
        beta=options.real("Beta"),
    )


def _leaky_relu(args: Arguments) -> Operation:
    options = args.operator.options(tflite.LeakyReluOptions)
    return LeakyRelu(
        location=args.location,
        sources=args.sources,
        input=args.name(0),
        output=args.output,
        alpha=options.real("Alpha"),
    )


def _resize(
    kind: type[ResizeNearest] | type[ResizeBilinear], options_reader: type[object]
) -> Callable[[Arguments], Operation]:
    def convert(args: Arguments) -> Operation:
        options = args.operator.options(options_reader)
        size = args.integers(1, "size", most=2)
        if len(size) != 2 or min(size) < 1:
            raise args.error("Inputs", f"size {list(size)}")
        height, width = size
        align_corners = options.flag("AlignCorners")
        half_pixel_centers = options.flag("HalfPixelCenters")
        if align_corners and half_pixel_centers:
            raise options.error("HalfPixelCenters", "is set, and so is align_corners")
        return kind(
            location=args.location,
            sources=args.sources,
            input=args.name(0),
            output=args.output,
            size=Size2D(height, width),
            align_corners=align_corners,
            half_pixel_centers=half_pixel_centers,
        )

    return convert


@dataclass(frozen=True, slots=True)
class Conversion:
    """How an operator becomes an operation; fewest and most tensors it takes and gives."""

    convert: Callable[[Arguments], Operation]
    inputs: tuple[int, int]
    outputs: tuple[int, int] = (1, 1)


CONVERSIONS: Final[Mapping[int, Conversion]] = {
    BuiltinOperator.CONV_2D: Conversion(_conv_2d, (2, 3)),
    BuiltinOperator.DEPTHWISE_CONV_2D: Conversion(_depthwise_conv_2d, (2, 3)),
    BuiltinOperator.TRANSPOSE_CONV: Conversion(_transpose_conv, (3, 4)),
    BuiltinOperator.FULLY_CONNECTED: Conversion(_fully_connected, (2, 3)),
    BuiltinOperator.ADD: Conversion(_binary(Add, tflite.AddOptions), (2, 2)),
    BuiltinOperator.SUB: Conversion(_binary(Sub, tflite.SubOptions), (2, 2)),
    BuiltinOperator.MUL: Conversion(_binary(Mul, tflite.MulOptions), (2, 2)),
    BuiltinOperator.MAXIMUM: Conversion(_extremum(Maximum), (2, 2)),
    BuiltinOperator.MINIMUM: Conversion(_extremum(Minimum), (2, 2)),
    BuiltinOperator.CONCATENATION: Conversion(_concatenation, (1, _NO_LIMIT)),
    BuiltinOperator.MAX_POOL_2D: Conversion(_pool(MaxPool2D), (1, 1)),
    BuiltinOperator.AVERAGE_POOL_2D: Conversion(_pool(AveragePool2D), (1, 1)),
    BuiltinOperator.MEAN: Conversion(_mean, (2, 2)),
    BuiltinOperator.PAD: Conversion(_pad, (2, 2)),
    BuiltinOperator.PADV2: Conversion(_pad, (3, 3)),
    BuiltinOperator.RESHAPE: Conversion(_reshape, (1, 2)),
    BuiltinOperator.SQUEEZE: Conversion(_squeeze, (1, 1)),
    BuiltinOperator.EXPAND_DIMS: Conversion(_expand_dims, (2, 2)),
    BuiltinOperator.TRANSPOSE: Conversion(_transpose, (2, 2)),
    BuiltinOperator.STRIDED_SLICE: Conversion(_strided_slice, (4, 4)),
    BuiltinOperator.SPLIT: Conversion(_split, (2, 2), (1, _NO_LIMIT)),
    BuiltinOperator.SPLIT_V: Conversion(_split_v, (3, 3), (1, _NO_LIMIT)),
    BuiltinOperator.PACK: Conversion(_pack, (1, _NO_LIMIT)),
    BuiltinOperator.UNPACK: Conversion(_unpack, (1, 1), (1, _NO_LIMIT)),
    BuiltinOperator.SHAPE: Conversion(_shape, (1, 1)),
    BuiltinOperator.GATHER: Conversion(_gather, (2, 2)),
    BuiltinOperator.CAST: Conversion(_unary(Cast), (1, 1)),
    BuiltinOperator.ARG_MAX: Conversion(_arg_max, (2, 2)),
    BuiltinOperator.SOFTMAX: Conversion(_softmax, (1, 1)),
    BuiltinOperator.LOGISTIC: Conversion(_unary(Logistic), (1, 1)),
    BuiltinOperator.TANH: Conversion(_unary(Tanh), (1, 1)),
    BuiltinOperator.HARD_SWISH: Conversion(_unary(HardSwish), (1, 1)),
    BuiltinOperator.LEAKY_RELU: Conversion(_leaky_relu, (1, 1)),
    BuiltinOperator.PRELU: Conversion(_prelu, (2, 2)),
    BuiltinOperator.RELU: Conversion(_relu(Activation.RELU), (1, 1)),
    BuiltinOperator.RELU6: Conversion(_relu(Activation.RELU6), (1, 1)),
    BuiltinOperator.RELU_N1_TO_1: Conversion(_relu(Activation.RELU_N1_TO_1), (1, 1)),
    BuiltinOperator.RESIZE_NEAREST_NEIGHBOR: Conversion(
        _resize(ResizeNearest, tflite.ResizeNearestNeighborOptions), (2, 2)
    ),
    BuiltinOperator.RESIZE_BILINEAR: Conversion(
        _resize(ResizeBilinear, tflite.ResizeBilinearOptions), (2, 2)
    ),
    BuiltinOperator.QUANTIZE: Conversion(_unary(Quantize), (1, 1)),
    BuiltinOperator.DEQUANTIZE: Conversion(_unary(Dequantize), (1, 1)),
}

OPERATOR_TYPES: Final = tuple(name for name in vars(BuiltinOperator) if name[0] != "_")

_CONTROL_FLOW: Final = frozenset(
    {BuiltinOperator.IF, BuiltinOperator.WHILE, BuiltinOperator.CALL, BuiltinOperator.CALL_ONCE}
)


def convert(args: Arguments) -> Operation:
    """The operation an operator stands for.

    Raises:
        NotModelledError: The Graph has no operation for it; it stays opaque.
        ImportModelError: The operator contradicts itself.
    """
    operator = args.operator
    kind = operator.location.type
    if operator.code is None:
        raise NotModelledError(f"custom operator {kind} is not modelled")
    if operator.code in _CONTROL_FLOW:
        raise NotModelledError(f"{kind} runs another subgraph, which is not modelled")
    conversion = CONVERSIONS.get(operator.code)
    if conversion is None:
        raise NotModelledError(f"{kind} is not modelled")
    for name, found, (fewest, most) in (
        ("Inputs", len(args.inputs), conversion.inputs),
        ("Outputs", len(args.outputs), conversion.outputs),
    ):
        if not fewest <= found <= most:
            wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            raise args.error(name, f"{found} tensors, but {kind} takes {wanted}")
    return conversion.convert(args)
