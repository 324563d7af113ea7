# SPDX-License-Identifier: Apache-2.0
"""Small quantized graphs for tests: `GraphBuilder` invents weights, scales and shapes.

Each method adds one operation and returns the name of its output tensor:

    b = GraphBuilder(seed=1)
    x = b.input(8, 8, 3)
    x = b.conv2d(x, 16, kernel=3, stride=2, activation=Activation.RELU)
    graph = b.build(b.fully_connected(b.mean(x), 10))

Scales are chosen so that random inputs spread over most of the output's codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from akida_backend.graph import (
    NO_PADS,
    ONE,
    Activation,
    Add,
    AnyArray,
    ArgMax,
    Arithmetic,
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
    Location,
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
)
from akida_backend.tflite_writer import same_pads

Size = int | tuple[int, int] | Size2D
Padding = str | Pads  # "same", "valid" or the pads themselves
Scaling = tuple[float, int]  # scale and zero point of an activation tensor

_Binary = type[Add] | type[Sub] | type[Mul] | type[Maximum] | type[Minimum]
_BINARY: Final[dict[str, _Binary]] = {
    "ADD": Add,
    "SUB": Sub,
    "MUL": Mul,
    "MAXIMUM": Maximum,
    "MINIMUM": Minimum,
}
_RELU = {
    Activation.RELU: "RELU",
    Activation.RELU6: "RELU6",
    Activation.RELU_N1_TO_1: "RELU_N1_TO_1",
}


class _Source(TypedDict):
    location: Location
    sources: tuple[int, ...]


def size2d(size: Size) -> Size2D:
    if isinstance(size, Size2D):
        return size
    return Size2D(size, size) if isinstance(size, int) else Size2D(*size)


class GraphBuilder:
    """Collects tensors and operations.

    Args:
        seed: A seed or generator for weights, biases, scales and zero points.
        dtype: Activation type; UINT8 also makes weights uint8, asymmetric and per tensor.
        weight_dtype: INT8 or INT4 for weights of INT8 graphs.
        per_channel: Whether convolution weights have one scale per output channel.
        batch: Axis 0 of inputs: None is the symbolic batch.
        arithmetic: Kernels the graph's reference execution equals.
    """

    def __init__(
        self,
        seed: int | np.random.Generator = 0,
        *,
        dtype: DType = DType.INT8,
        weight_dtype: DType = DType.INT8,
        per_channel: bool = True,
        batch: int | None = None,
        arithmetic: Arithmetic = Arithmetic.TFLITE,
        name: str = "built",
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.tensors: dict[str, Tensor] = {}
        self.operations: list[Operation] = []
        self.inputs: list[str] = []
        self.dtype = dtype
        self.weight_dtype = DType.UINT8 if dtype is DType.UINT8 else weight_dtype
        self.per_channel = per_channel and dtype is not DType.UINT8
        self.batch = batch
        self.arithmetic = arithmetic
        self.name = name

    def build(self, *outputs: str) -> Graph:
        """The graph with the given outputs (the last operation's, if none is named)."""
        graph = Graph(
            name=self.name,
            format="tflite",
            sha256="0" * 64,
            arithmetic=self.arithmetic,
            tensors=self.tensors,
            operations=tuple(self.operations),
            inputs=tuple(self.inputs),
            outputs=outputs or self.operations[-1].outputs,
            batch=self.batch,
        )
        assert list(graph.problems()) == []
        return graph

    # Tensors

    def input(
        self,
        *shape: int,
        scaling: Scaling | None = None,
        dtype: DType | None = None,
        name: str | None = None,
    ) -> str:
        """A graph input; `shape` is without the batch. Float types have no quantization."""
        dtype = dtype or self.dtype
        quantized = not dtype.is_float and dtype is not DType.INT64
        name = self._activation(
            name or f"input{len(self.inputs)}",
            (self.batch, *shape),
            (scaling or self._scaling(0.02)) if quantized else None,
            dtype,
        )
        self.inputs.append(name)
        return name

    def constant(
        self,
        values: ArrayLike,
        dtype: DType | None = None,
        *,
        scaling: Scaling | None = None,
        quantization: Quantization | None = None,
        name: str = "constant",
    ) -> str:
        """A constant tensor; the type is the graph's own unless given."""
        dtype = dtype or self.dtype
        data = np.array(values, dtype.numpy)
        if scaling is not None:
            quantization = Quantization.per_tensor(*scaling)
        return self._add_tensor(Tensor(name, dtype, data.shape, quantization, data))

    def shape(self, name: str) -> Shape:
        return self.tensors[name].shape

    def scaling(self, name: str) -> Scaling:
        """Scale and zero point of a per-tensor quantized tensor."""
        quantization = self.tensors[name].quantization
        assert quantization is not None
        return quantization.single_scale, quantization.single_zero_point

    # Operations with weights

    def conv2d(
        self,
        x: str,
        filters: int,
        *,
        kernel: Size = 3,
        stride: Size = 1,
        dilation: Size = 1,
        padding: Padding = "same",
        activation: Activation = Activation.NONE,
        bias: bool = True,
        scaling: Scaling | None = None,
        weights: NDArray[np.integer] | None = None,
    ) -> str:
        _, _, _, channels = self.shape(x)
        window, step, spread = size2d(kernel), size2d(stride), size2d(dilation)
        shape = (filters, window.height, window.width, channels or 0)
        pads, size = self._slide(x, window, step, spread, padding)
        output, weights_name, bias_name = self._weighted(
            x,
            "conv",
            shape,
            (self.shape(x)[0], size.height, size.width, filters),
            axis=0,
            bias=bias,
            scaling=scaling,
            weights=weights,
        )
        return self._add(
            Conv2D(
                **self._source("CONV_2D", output),
                input=x,
                weights=weights_name,
                bias=bias_name,
                output=output,
                stride=step,
                dilation=spread,
                pads=pads,
                activation=activation,
            )
        )

    def depthwise(
        self,
        x: str,
        *,
        multiplier: int = 1,
        kernel: Size = 3,
        stride: Size = 1,
        dilation: Size = 1,
        padding: Padding = "same",
        activation: Activation = Activation.NONE,
        bias: bool = True,
        scaling: Scaling | None = None,
        weights: NDArray[np.integer] | None = None,
    ) -> str:
        _, _, _, channels = self.shape(x)
        filters = (channels or 0) * multiplier
        window, step, spread = size2d(kernel), size2d(stride), size2d(dilation)
        pads, size = self._slide(x, window, step, spread, padding)
        output, weights_name, bias_name = self._weighted(
            x,
            "depthwise",
            (1, window.height, window.width, filters),
            (self.shape(x)[0], size.height, size.width, filters),
            axis=3,
            bias=bias,
            scaling=scaling,
            weights=weights,
        )
        return self._add(
            DepthwiseConv2D(
                **self._source("DEPTHWISE_CONV_2D", output),
                input=x,
                weights=weights_name,
                bias=bias_name,
                output=output,
                stride=step,
                dilation=spread,
                pads=pads,
                activation=activation,
            )
        )

    def transpose_conv(
        self,
        x: str,
        filters: int,
        *,
        kernel: Size = 3,
        stride: Size = 2,
        padding: Padding = "same",
        activation: Activation = Activation.NONE,
        bias: bool = True,
        scaling: Scaling | None = None,
        weights: NDArray[np.integer] | None = None,
        depthwise: bool = False,
    ) -> str:
        """`padding` "same" gives input size times stride, "valid" the full output."""
        batch, height, width, channels = self.shape(x)
        window, step = size2d(kernel), size2d(stride)
        full = Size2D(
            ((height or 0) - 1) * step.height + window.height,
            ((width or 0) - 1) * step.width + window.width,
        )
        if isinstance(padding, Pads):
            pads = padding
        elif padding == "valid":
            pads = NO_PADS
        else:
            grown = Size2D((height or 0) * step.height, (width or 0) * step.width)
            pads = same_pads(grown, window, step, ONE)
        # The full output of a window smaller than the stride ends before the last grown cell.
        size = Size2D(
            full.height - pads.top - pads.bottom,
            full.width - pads.left - pads.right,
        )
        outputs = (channels or 0) if depthwise else filters
        shape = (
            (1, window.height, window.width, outputs)
            if depthwise
            else (outputs, window.height, window.width, channels or 0)
        )
        output, weights_name, bias_name = self._weighted(
            x,
            "transpose_conv",
            shape,
            (batch, size.height, size.width, outputs),
            axis=3 if depthwise else 0,
            bias=bias,
            scaling=scaling,
            weights=weights,
        )
        return self._add(
            TransposeConv2D(
                **self._source("TRANSPOSE_CONV", output),
                input=x,
                weights=weights_name,
                bias=bias_name,
                output=output,
                stride=step,
                pads=pads,
                activation=activation,
                depthwise=depthwise,
            )
        )

    def fully_connected(
        self,
        x: str,
        units: int,
        *,
        activation: Activation = Activation.NONE,
        bias: bool = True,
        per_channel: bool = False,
        scaling: Scaling | None = None,
        weights: NDArray[np.integer] | None = None,
    ) -> str:
        features = self.tensors[x].values_per_sample
        output, weights_name, bias_name = self._weighted(
            x,
            "fully_connected",
            (units, features),
            (self.shape(x)[0], units),
            axis=0 if per_channel else None,
            bias=bias,
            scaling=scaling,
            weights=weights,
        )
        return self._add(
            FullyConnected(
                **self._source("FULLY_CONNECTED", output),
                input=x,
                weights=weights_name,
                bias=bias_name,
                output=output,
                activation=activation,
            )
        )

    # Element-wise operations on two tensors

    def add(
        self,
        a: str,
        b: str,
        *,
        activation: Activation = Activation.NONE,
        scaling: Scaling | None = None,
    ) -> str:
        return self._binary("ADD", a, b, activation, scaling)

    def sub(
        self,
        a: str,
        b: str,
        *,
        activation: Activation = Activation.NONE,
        scaling: Scaling | None = None,
    ) -> str:
        return self._binary("SUB", a, b, activation, scaling)

    def mul(
        self,
        a: str,
        b: str,
        *,
        activation: Activation = Activation.NONE,
        scaling: Scaling | None = None,
    ) -> str:
        return self._binary("MUL", a, b, activation, scaling)

    def maximum(self, a: str, b: str) -> str:
        return self._binary("MAXIMUM", a, b, Activation.NONE, self.scaling(a))

    def minimum(self, a: str, b: str) -> str:
        return self._binary("MINIMUM", a, b, Activation.NONE, self.scaling(a))

    # Pools, shapes

    def max_pool(
        self,
        x: str,
        *,
        window: Size = 2,
        stride: Size | None = None,
        padding: Padding = "valid",
        activation: Activation = Activation.NONE,
    ) -> str:
        return self._pool("MAX_POOL_2D", x, window, stride, padding, activation)

    def average_pool(
        self,
        x: str,
        *,
        window: Size | None = None,
        stride: Size | None = None,
        padding: Padding = "valid",
        activation: Activation = Activation.NONE,
    ) -> str:
        """Average pool; without `window` over the full map."""
        if window is None:
            _, height, width, _ = self.shape(x)
            window = Size2D(height or 0, width or 0)
        return self._pool("AVERAGE_POOL_2D", x, window, stride, padding, activation)

    def mean(
        self,
        x: str,
        *,
        axes: tuple[int, ...] = (1, 2),
        keep_dims: bool = False,
        scaling: Scaling | None = None,
    ) -> str:
        kept = [
            1 if axis in axes else length
            for axis, length in enumerate(self.shape(x))
            if keep_dims or axis not in axes
        ]
        output = self._activation("mean", tuple(kept), scaling or self.scaling(x))
        return self._add(
            Mean(
                **self._source("MEAN", output),
                input=x,
                output=output,
                axes=axes,
                keep_dims=keep_dims,
            )
        )

    def pad(self, x: str, amounts: Sequence[tuple[int, int]], *, value: int | None = None) -> str:
        """Border of (before, after) cells per axis."""
        shape = tuple(
            None if length is None else length + before + after
            for length, (before, after) in zip(self.shape(x), amounts, strict=True)
        )
        output = self._like(x, "pad", shape)
        return self._add(
            Pad(
                **self._source("PAD" if value is None else "PADV2", output),
                input=x,
                output=output,
                amounts=tuple(amounts),
                value=value,
            )
        )

    def pad_image(self, x: str, pads: Pads, *, value: int | None = None) -> str:
        rows, columns = (pads.top, pads.bottom), (pads.left, pads.right)
        return self.pad(x, [(0, 0), rows, columns, (0, 0)], value=value)

    def reshape(self, x: str, *shape: int) -> str:
        """New shape without the batch."""
        output = self._like(x, "reshape", (self.shape(x)[0], *shape))
        return self._add(Reshape(**self._source("RESHAPE", output), input=x, output=output))

    def flatten(self, x: str) -> str:
        return self.reshape(x, self.tensors[x].values_per_sample)

    def transpose(self, x: str, *permutation: int) -> str:
        shape = self.shape(x)
        output = self._like(x, "transpose", tuple(shape[axis] for axis in permutation))
        return self._add(
            Transpose(
                **self._source("TRANSPOSE", output), input=x, output=output, permutation=permutation
            )
        )

    def strided_slice(self, x: str, *slices: slice | int) -> str:
        """Slices of all axes but the batch; a number takes one position and drops the axis."""
        begin: list[int | None] = [None]
        end: list[int | None] = [None]
        step, drop, shape = [1], [], [self.shape(x)[0]]
        lengths = self.shape(x)[1:]
        for axis, (cut, length) in enumerate(zip(slices, lengths, strict=True), start=1):
            if isinstance(cut, int):
                drop.append(axis)
                begin.append(cut)
                end.append(None if cut == -1 else cut + 1)
                step.append(1)
            else:
                begin.append(cut.start)
                end.append(cut.stop)
                step.append(cut.step or 1)
                shape.append(len(range(*cut.indices(length or 0))))
        output = self._like(x, "strided_slice", tuple(shape))
        return self._add(
            StridedSlice(
                **self._source("STRIDED_SLICE", output),
                input=x,
                output=output,
                begin=tuple(begin),
                end=tuple(end),
                step=tuple(step),
                drop_axes=tuple(drop),
            )
        )

    def split(self, x: str, *sizes: int, axis: int = 3) -> tuple[str, ...]:
        shape = self.shape(x)
        parts = tuple(
            self._like(x, "split", (*shape[:axis], size, *shape[axis + 1 :])) for size in sizes
        )
        code = "SPLIT" if len(set(sizes)) == 1 else "SPLIT_V"
        self.operations.append(
            Split(**self._source(code, parts[0]), input=x, parts=parts, axis=axis, sizes=sizes)
        )
        return parts

    def concatenation(self, *operands: str, axis: int = 3) -> str:
        """Operands must share scale and zero point: int8 kernels do not rescale."""
        first, *_ = operands
        shape = list(self.shape(first))
        shape[axis] = sum(self.shape(name)[axis] or 0 for name in operands)
        output = self._like(first, "concatenation", tuple(shape))
        return self._add(
            Concatenation(
                **self._source("CONCATENATION", output), operands=operands, output=output, axis=axis
            )
        )

    def pack(self, *operands: str, axis: int = 1) -> str:
        first, *_ = operands
        shape = self.shape(first)
        output = self._like(first, "pack", (*shape[:axis], len(operands), *shape[axis:]))
        return self._add(
            Pack(**self._source("PACK", output), operands=operands, output=output, axis=axis)
        )

    def unpack(self, x: str, *, axis: int = 1) -> tuple[str, ...]:
        shape = self.shape(x)
        rest = (*shape[:axis], *shape[axis + 1 :])
        parts = tuple(self._like(x, "unpack", rest) for _ in range(shape[axis] or 0))
        self.operations.append(
            Unpack(**self._source("UNPACK", parts[0]), input=x, parts=parts, axis=axis)
        )
        return parts

    def shape_of(self, x: str) -> str:
        output = self._activation("shape", (len(self.shape(x)),), None, DType.INT32)
        return self._add(ShapeOf(**self._source("SHAPE", output), input=x, output=output))

    def gather(self, x: str, indices: Sequence[int], *, axis: int = 1) -> str:
        picked = self.constant(indices, DType.INT32, name="indices")
        shape = self.shape(x)
        output = self._like(x, "gather", (*shape[:axis], len(indices), *shape[axis + 1 :]))
        return self._add(
            Gather(
                **self._source("GATHER", output),
                input=x,
                indices=picked,
                output=output,
                axis=axis,
            )
        )

    def arg_max(self, x: str, *, axis: int, dtype: DType = DType.INT64) -> str:
        shape = self.shape(x)
        output = self._activation("arg_max", (*shape[:axis], *shape[axis + 1 :]), None, dtype)
        return self._add(
            ArgMax(**self._source("ARG_MAX", output), input=x, output=output, axis=axis)
        )

    # Element-wise operations on one tensor

    def softmax(self, x: str, *, beta: float = 1.0) -> str:
        output = self._activation("softmax", self.shape(x), (1 / 256, self._lowest))
        return self._add(
            Softmax(**self._source("SOFTMAX", output), input=x, output=output, beta=beta)
        )

    def logistic(self, x: str) -> str:
        output = self._activation("logistic", self.shape(x), (1 / 256, self._lowest))
        return self._add(Logistic(**self._source("LOGISTIC", output), input=x, output=output))

    def tanh(self, x: str) -> str:
        output = self._activation("tanh", self.shape(x), (1 / 128, self._lowest + 128))
        return self._add(Tanh(**self._source("TANH", output), input=x, output=output))

    def hard_swish(self, x: str, *, scaling: Scaling | None = None) -> str:
        output = self._activation("hard_swish", self.shape(x), scaling or self.scaling(x))
        return self._add(HardSwish(**self._source("HARD_SWISH", output), input=x, output=output))

    def leaky_relu(self, x: str, *, alpha: float = 0.125, scaling: Scaling | None = None) -> str:
        output = self._activation("leaky_relu", self.shape(x), scaling or self.scaling(x))
        return self._add(
            LeakyRelu(**self._source("LEAKY_RELU", output), input=x, output=output, alpha=alpha)
        )

    def prelu(self, x: str, *, scaling: Scaling | None = None) -> str:
        """One random alpha per channel."""
        *_, channels = self.shape(x)
        shape = (*(1 for _ in self.shape(x)[2:]), channels or 0)
        low, high = self.dtype.code_range
        alpha = self.constant(
            self.random.integers(low, high + 1, shape), scaling=self._scaling(1 / 128), name="alpha"
        )
        output = self._activation("prelu", self.shape(x), scaling or self.scaling(x))
        return self._add(
            Prelu(**self._source("PRELU", output), input=x, alpha=alpha, output=output)
        )

    def relu(
        self, x: str, *, bound: Activation = Activation.RELU, scaling: Scaling | None = None
    ) -> str:
        output = self._activation("relu", self.shape(x), scaling or self.scaling(x))
        return self._add(
            Relu(**self._source(_RELU[bound], output), input=x, output=output, bound=bound)
        )

    def resize_nearest(
        self, x: str, size: Size, *, align_corners: bool = False, half_pixel_centers: bool = False
    ) -> str:
        output = self._resized(x, size2d(size))
        return self._add(
            ResizeNearest(
                **self._source("RESIZE_NEAREST_NEIGHBOR", output),
                input=x,
                output=output,
                size=size2d(size),
                align_corners=align_corners,
                half_pixel_centers=half_pixel_centers,
            )
        )

    def resize_bilinear(
        self, x: str, size: Size, *, align_corners: bool = False, half_pixel_centers: bool = False
    ) -> str:
        output = self._resized(x, size2d(size))
        return self._add(
            ResizeBilinear(
                **self._source("RESIZE_BILINEAR", output),
                input=x,
                output=output,
                size=size2d(size),
                align_corners=align_corners,
                half_pixel_centers=half_pixel_centers,
            )
        )

    def quantize(
        self, x: str, *, scaling: Scaling | None = None, dtype: DType | None = None
    ) -> str:
        scaling = scaling or self._scaling(0.02)
        output = self._activation("quantize", self.shape(x), scaling, dtype)
        return self._add(Quantize(**self._source("QUANTIZE", output), input=x, output=output))

    def dequantize(self, x: str) -> str:
        output = self._activation("dequantize", self.shape(x), None, DType.FLOAT32)
        return self._add(Dequantize(**self._source("DEQUANTIZE", output), input=x, output=output))

    def cast(self, x: str, dtype: DType) -> str:
        output = self._activation("cast", self.shape(x), None, dtype)
        return self._add(Cast(**self._source("CAST", output), input=x, output=output))

    def opaque(self, *operands: str, shape: Shape, code: str = "GATHER_ND") -> str:
        output = self._activation("opaque", shape, self.scaling(operands[0]))
        return self._add(
            Opaque(
                **self._source(code, output),
                operands=operands,
                results=(output,),
                reason=f"{code} is not modelled",
            )
        )

    # Parts

    @property
    def _lowest(self) -> int:
        low, _ = self.dtype.code_range
        return low

    def _scaling(self, scale: float) -> Scaling:
        """About `scale`, and a zero point a little off the middle of the codes."""
        low, high = self.dtype.code_range
        zero_point = (low + high + 1) // 2 + int(self.random.integers(-20, 21))
        return scale * float(self.random.uniform(0.8, 1.25)), zero_point

    def _add(self, op: Operation) -> str:
        self.operations.append(op)
        output, *_ = op.outputs
        return output

    def _source(self, code: str, output: str) -> _Source:
        index = len(self.operations)
        return {"location": Location(self.name, index, code, output), "sources": (index,)}

    def _add_tensor(self, tensor: Tensor) -> str:
        name, number = tensor.name, 0
        while name in self.tensors:
            number += 1
            name = f"{tensor.name}.{number}"
        self.tensors[name] = Tensor(
            name, tensor.dtype, tensor.shape, tensor.quantization, tensor.data
        )
        return name

    def _activation(
        self, name: str, shape: Shape, scaling: Scaling | None, dtype: DType | None = None
    ) -> str:
        quantization = None if scaling is None else Quantization.per_tensor(*scaling)
        return self._add_tensor(Tensor(name, dtype or self.dtype, shape, quantization))

    def _like(self, x: str, name: str, shape: Shape) -> str:
        """An activation with the type and quantization of `x`."""
        tensor = self.tensors[x]
        return self._add_tensor(Tensor(name, tensor.dtype, shape, tensor.quantization))

    def _slide(
        self, x: str, window: Size2D, stride: Size2D, dilation: Size2D, padding: Padding
    ) -> tuple[Pads, Size2D]:
        """Pads and output size of a window over map `x`."""
        _, height, width, _ = self.shape(x)
        size = Size2D(height or 0, width or 0)
        if isinstance(padding, Pads):
            pads = padding
        else:
            assert padding in ("same", "valid")
            pads = same_pads(size, window, stride, dilation) if padding == "same" else NO_PADS
        rows = size.height + pads.top + pads.bottom - (window.height - 1) * dilation.height - 1
        columns = size.width + pads.left + pads.right - (window.width - 1) * dilation.width - 1
        if padding == "same":  # a stride above the window leaves pads at zero, not below
            return pads, Size2D(-(-size.height // stride.height), -(-size.width // stride.width))
        return pads, Size2D(rows // stride.height + 1, columns // stride.width + 1)

    def _weighted(
        self,
        x: str,
        name: str,
        weights_shape: tuple[int, ...],
        output_shape: Shape,
        *,
        axis: int | None,
        bias: bool,
        scaling: Scaling | None,
        weights: NDArray[np.integer] | None,
    ) -> tuple[str, str, str | None]:
        """Output tensor, weights and bias of a product summed over `weights_shape`."""
        dtype = self.weight_dtype
        low, high = dtype.code_range
        low += dtype is not DType.UINT8  # signed weights are symmetric
        channels = weights_shape[axis or 0]
        per_channel = axis is not None and (self.per_channel or name == "fully_connected")
        count = channels if per_channel else 1
        scale = (0.01 * self.random.uniform(0.5, 1.5, count)).astype(np.float32)
        zero = int(self.random.integers(118, 139)) if dtype is DType.UINT8 else 0
        data: AnyArray = (
            self.random.integers(low, high + 1, weights_shape) if weights is None else weights
        )
        quantization = Quantization(
            scale, np.full(count, zero, np.int64), axis if per_channel else None
        )
        assert data.shape == weights_shape
        weights_name = self.constant(data, dtype, quantization=quantization, name=f"{name}_weights")
        input_scale, _ = self.scaling(x)
        fan_in = np.prod(weights_shape) / channels
        spread = np.sqrt(fan_in) * 74 * (high - low) / np.sqrt(12)  # of the accumulators
        bias_name = None
        if bias:
            bias_scale = np.float32(input_scale) * scale
            bias_name = self.constant(
                np.rint(self.random.normal(0, spread / 2, output_shape[-1])),
                DType.INT32,
                quantization=Quantization(
                    bias_scale, np.zeros(count, np.int64), 0 if per_channel else None
                ),
                name=f"{name}_bias",
            )
        if scaling is None:
            scaling = self._scaling(input_scale * float(scale.mean()) * float(spread) * 2.5 / 128)
        return self._activation(name, output_shape, scaling), weights_name, bias_name

    def _binary(
        self, code: str, a: str, b: str, activation: Activation, scaling: Scaling | None
    ) -> str:
        spread_a, spread_b = (74 * self.scaling(name)[0] for name in (a, b))
        if scaling is None:
            real = spread_a * spread_b if code == "MUL" else float(np.hypot(spread_a, spread_b))
            scaling = self._scaling(real * 2.5 / 128)
        # broadcast_shapes knows no symbolic batch: 0 stands for it, and is none of the others
        shapes = [tuple(0 if d is None else d for d in self.shape(name)) for name in (a, b)]
        shape = tuple(d or None for d in np.broadcast_shapes(*shapes))
        output = self._activation(code.lower(), shape, scaling)
        return self._add(
            _BINARY[code](
                **self._source(code, output),
                a=a,
                b=b,
                output=output,
                activation=activation,
            )
        )

    def _pool(
        self,
        code: str,
        x: str,
        window: Size,
        stride: Size | None,
        padding: Padding,
        activation: Activation,
    ) -> str:
        box = size2d(window)
        step = box if stride is None else size2d(stride)
        pads, size = self._slide(x, box, step, ONE, padding)
        batch, _, _, channels = self.shape(x)
        output = self._like(x, code.lower(), (batch, size.height, size.width, channels))
        pool = MaxPool2D if code == "MAX_POOL_2D" else AveragePool2D
        return self._add(
            pool(
                **self._source(code, output),
                input=x,
                output=output,
                window=box,
                stride=step,
                pads=pads,
                activation=activation,
            )
        )

    def _resized(self, x: str, size: Size2D) -> str:
        batch, _, _, channels = self.shape(x)
        return self._like(x, "resize", (batch, size.height, size.width, channels))


def random_inputs(graph: Graph, samples: int, seed: int = 0) -> dict[str, AnyArray]:
    """Uniform codes (or normal floats) for every input, batch on axis 0."""
    random = np.random.default_rng(seed)
    feeds: dict[str, AnyArray] = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        shape = tuple(samples if d is None else d for d in tensor.shape)
        if tensor.dtype.is_float:
            feeds[name] = random.normal(size=shape).astype(tensor.dtype.numpy)
        else:
            low, high = tensor.dtype.code_range
            feeds[name] = random.integers(low, high + 1, shape).astype(tensor.dtype.numpy)
    return feeds
