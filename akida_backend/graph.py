# SPDX-License-Identifier: Apache-2.0
"""The source dialect: a quantized network as the importers read it.

One frozen dataclass per operation, one closed union, named tensors with affine quantization.
Image tensors are NHWC, convolution weights OHWI, depthwise weights 1HWO, fully connected
weights OI. TFLite, ONNX QDQ and ONNX QLinear forms of one network give equal Graphs but for
`Graph.arithmetic`, which only the reference executor reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

AnyArray = NDArray[np.generic]
Shape = tuple[int | None, ...]  # None is the symbolic batch and stands on axis 0 only

LONGEST_NAME: Final = 60  # characters that are shown of a name


class DType(Enum):
    """Element types a tensor may have; `numpy` is the type values are computed in."""

    INT4 = "int4"  # one value per int8 element once imported
    UINT4 = "uint4"
    INT8 = "int8"
    UINT8 = "uint8"
    INT16 = "int16"
    UINT16 = "uint16"
    INT32 = "int32"
    UINT32 = "uint32"
    INT64 = "int64"
    UINT64 = "uint64"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    BOOL = "bool"
    OTHER = "other"  # strings, resources, complex numbers: only opaque operations touch them

    @property
    def numpy(self) -> np.dtype[np.generic]:
        stored = {DType.INT4: "int8", DType.UINT4: "uint8", DType.BFLOAT16: "float32"}
        if self is DType.OTHER:
            return np.dtype(object)
        dtype: np.dtype[np.generic] = np.dtype(stored.get(self, self.value))
        return dtype

    @property
    def is_float(self) -> bool:
        return self in (DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64)

    @property
    def code_range(self) -> tuple[int, int]:
        """Smallest and largest stored integer of a quantized type."""
        ranges = {
            DType.INT4: (-8, 7),
            DType.UINT4: (0, 15),
            DType.INT8: (-128, 127),
            DType.UINT8: (0, 255),
            DType.INT16: (-(2**15), 2**15 - 1),
            DType.UINT16: (0, 2**16 - 1),
            DType.INT32: (-(2**31), 2**31 - 1),
        }
        return ranges[self]


class Arithmetic(Enum):
    """Whose reference kernels the executor equals bit for bit."""

    TFLITE = "tflite"  # LiteRT: FULLY_CONNECTED rounds once
    TFLITE_2_14 = "tflite-2.14"  # tflite-runtime 2.14: FULLY_CONNECTED rounds twice
    ONNX = "onnx"  # float32 multiplier, ties to even


class Activation(Enum):
    """Clamp fused into an operation, over real values."""

    NONE = "none"
    RELU = "relu"
    RELU6 = "relu6"
    RELU_N1_TO_1 = "relu_n1_to_1"

    @property
    def real_range(self) -> tuple[float, float]:
        ranges = {
            Activation.NONE: (-np.inf, np.inf),
            Activation.RELU: (0.0, np.inf),
            Activation.RELU6: (0.0, 6.0),
            Activation.RELU_N1_TO_1: (-1.0, 1.0),
        }
        return ranges[self]


@dataclass(frozen=True, slots=True)
class Size2D:
    """Two axes named, so that no caller indexes by position."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    @property
    def area(self) -> int:
        return self.height * self.width


@dataclass(frozen=True, slots=True)
class Pads:
    """Border rows and columns before (top, left) and after (bottom, right) the map."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def __str__(self) -> str:
        return f"top {self.top}, bottom {self.bottom}, left {self.left}, right {self.right}"


NO_PADS: Final = Pads()
ONE: Final = Size2D(1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Quantization:
    """Affine quantization: ``real = scale * (stored - zero_point)``.

    Attributes:
        scale: float32, shape ``(1,)`` per tensor or ``(channels,)`` per channel; finite, > 0.
        zero_point: int64, shaped like `scale`.
        axis: Axis the channels lie on, None per tensor.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    axis: int | None = None

    @classmethod
    def per_tensor(cls, scale: float, zero_point: int = 0) -> Quantization:
        return cls(np.array([scale], np.float32), np.array([zero_point], np.int64))

    @property
    def is_per_tensor(self) -> bool:
        return self.scale.size == 1

    @property
    def single_scale(self) -> float:
        """The scale of a per-tensor quantization, as the float64 nearest its float32."""
        if self.scale.size != 1:
            raise ValueError("quantization is per channel")
        return float(self.scale[0])

    @property
    def single_zero_point(self) -> int:
        if self.zero_point.size != 1:
            raise ValueError("quantization is per channel")
        return int(self.zero_point[0])


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named value. `data` holds a constant in `dtype.numpy`, None for activations."""

    name: str
    dtype: DType
    shape: Shape
    quantization: Quantization | None = None
    data: AnyArray | None = None

    @property
    def is_constant(self) -> bool:
        return self.data is not None

    @property
    def is_quantized(self) -> bool:
        """Whether the integers stand for reals on a known scale."""
        return self.quantization is not None and not self.dtype.is_float

    @property
    def real_range(self) -> tuple[float, float]:
        """Smallest and largest real number the stored integers can stand for (per tensor)."""
        if self.quantization is None:
            raise ValueError(f"tensor '{self.name}' is not quantized")
        low, high = self.dtype.code_range
        scale, zero = self.quantization.single_scale, self.quantization.single_zero_point
        return scale * (low - zero), scale * (high - zero)

    @property
    def values_per_sample(self) -> int:
        return int(np.prod([d for d in self.shape if d is not None], dtype=np.int64))

    def check_result(self, value: AnyArray) -> None:
        """What a runtime computes for one sample has the shape that the file declares.

        Raises:
            ValueError: It has another one; what follows was checked against the declared one.
        """
        if value.shape != (declared := nominal_shape(self.shape)):
            raise ValueError(
                f"result '{self.name}' is declared as {list(declared)}, "
                f"but the runtime gives {list(value.shape)}"
            )


def nominal_shape(shape: Shape) -> tuple[int, ...]:
    """Axis lengths for one sample, or for a fixed batch."""
    return tuple(1 if length is None else length for length in shape)


@dataclass(frozen=True, slots=True)
class Location:
    """Where an operation came from, so that every message can name it.

    Attributes:
        file: Path or label of the model.
        index: Position of the operator in the file.
        type: The file format's own operator name, such as ``CONV_2D`` or ``QLinearConv``.
        name: Name of the operator or, in formats without one, of its first output.
    """

    file: str
    index: int
    type: str
    name: str

    def __str__(self) -> str:
        return f"{self.file}: op {self.index} {self.type} '{self.name}'"


def short_name(name: str) -> str:
    """A name without folders and repetitions; converters join the names of all they fused.

    It names an operator to people beside its number: several may have the same.
    """
    parts = (part.rstrip("/").rpartition("/")[2] for part in name.split(";"))
    short = ";".join(dict.fromkeys(parts))
    return short if len(short) <= LONGEST_NAME else f"{short[: LONGEST_NAME - 3]}..."


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What all operations share.

    Attributes:
        location: The operator in the file (of several, the one that gives the name).
        sources: Indices in the file of all operators this one stands for; empty for
            operations a rewrite inserted on behalf of none.
    """

    input_fields: ClassVar[tuple[str, ...]] = ("input",)
    output_fields: ClassVar[tuple[str, ...]] = ("output",)

    location: Location
    sources: tuple[int, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of all tensors read, constants included, absent optional ones left out."""
        return _names(self, self.input_fields)

    @property
    def outputs(self) -> tuple[str, ...]:
        return _names(self, self.output_fields)


def _names(node: Node, fields: tuple[str, ...]) -> tuple[str, ...]:
    names: list[str] = []
    for name in fields:
        value: str | tuple[str, ...] | None = getattr(node, name)
        if isinstance(value, str):
            names.append(value)
        elif value is not None:
            names.extend(value)
    return tuple(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv2D(Node):
    """Convolution (cross-correlation): input NHWC, weights OHWI, bias int32 at s_in * s_w."""

    input_fields: ClassVar[tuple[str, ...]] = ("input", "weights", "bias")
    input: str
    weights: str
    bias: str | None
    output: str
    stride: Size2D = ONE
    dilation: Size2D = ONE
    pads: Pads = NO_PADS
    activation: Activation = Activation.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthwiseConv2D(Node):
    """Depthwise convolution: weights 1HWO, output channel ``c * multiplier + m`` reads c."""

    input_fields: ClassVar[tuple[str, ...]] = ("input", "weights", "bias")
    input: str
    weights: str
    bias: str | None
    output: str
    stride: Size2D = ONE
    dilation: Size2D = ONE
    pads: Pads = NO_PADS
    activation: Activation = Activation.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class TransposeConv2D(Node):
    """Transposed convolution: weights OHWI; `pads` are cut from the full output.

    Full output size is ``(n - 1) * stride + kernel``; ``output[y, x]`` is the full output at
    ``[y + top, x + left]``. `depthwise` weights are 1HWO and channel c reads channel c.
    """

    input_fields: ClassVar[tuple[str, ...]] = ("input", "weights", "bias")
    input: str
    weights: str
    bias: str | None
    output: str
    stride: Size2D
    pads: Pads = NO_PADS
    activation: Activation = Activation.NONE
    depthwise: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FullyConnected(Node):
    """Matrix product: input reshaped to ``(-1, I)``, weights OI, bias int32 at s_in * s_w."""

    input_fields: ClassVar[tuple[str, ...]] = ("input", "weights", "bias")
    input: str
    weights: str
    bias: str | None
    output: str
    activation: Activation = Activation.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Binary(Node):
    input_fields: ClassVar[tuple[str, ...]] = ("a", "b")
    a: str
    b: str
    output: str
    activation: Activation = Activation.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(_Binary):
    """Element-wise a + b with NumPy broadcasting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sub(_Binary):
    """Element-wise a - b with NumPy broadcasting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mul(_Binary):
    """Element-wise a * b with NumPy broadcasting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Maximum(_Binary):
    """Element-wise larger of a and b with NumPy broadcasting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Minimum(_Binary):
    """Element-wise smaller of a and b with NumPy broadcasting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Concatenation(Node):
    """Operands joined on `axis` (not negative)."""

    input_fields: ClassVar[tuple[str, ...]] = ("operands",)
    operands: tuple[str, ...]
    output: str
    axis: int
    activation: Activation = Activation.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool2D(Node):
    input: str
    output: str
    window: Size2D
    stride: Size2D
    pads: Pads = NO_PADS
    activation: Activation = Activation.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxPool2D(_Pool2D):
    """Largest value of each window; padded cells do not take part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragePool2D(_Pool2D):
    """Mean of each window over the cells inside the map (padded cells are not counted)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean(Node):
    """Mean over `axes` (sorted, not negative)."""

    input: str
    output: str
    axes: tuple[int, ...]
    keep_dims: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pad(Node):
    """Border of constant `value`, a stored integer; None is the input's zero point.

    `amounts` holds (before, after) per axis.
    """

    input: str
    output: str
    amounts: tuple[tuple[int, int], ...]
    value: int | float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reshape(Node):
    """Same values in row-major order under the output tensor's shape.

    Also SQUEEZE and EXPAND_DIMS.
    """

    input: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transpose(Node):
    """Axes permuted: output axis i is input axis ``permutation[i]``."""

    input: str
    output: str
    permutation: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StridedSlice(Node):
    """Slice per input axis: begin, end, step as Python reads them (end None: to the edge).

    The axes listed in `drop_axes` (length one after slicing) are removed from the output.
    """

    input: str
    output: str
    begin: tuple[int | None, ...]
    end: tuple[int | None, ...]
    step: tuple[int, ...]
    drop_axes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(Node):
    """Consecutive parts of given `sizes` along `axis`. SPLIT and SPLIT_V."""

    output_fields: ClassVar[tuple[str, ...]] = ("parts",)
    input: str
    parts: tuple[str, ...]
    axis: int
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack(Node):
    """Operands stacked on a new `axis` of the output."""

    input_fields: ClassVar[tuple[str, ...]] = ("operands",)
    operands: tuple[str, ...]
    output: str
    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpack(Node):
    """Slices of the input along `axis`, which disappears."""

    output_fields: ClassVar[tuple[str, ...]] = ("parts",)
    input: str
    parts: tuple[str, ...]
    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeOf(Node):
    """Shape of the input; kept only where it could not be folded."""

    input: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gather(Node):
    """Slices of the input along `axis` picked by integer `indices`."""

    input_fields: ClassVar[tuple[str, ...]] = ("input", "indices")
    input: str
    indices: str
    output: str
    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast(Node):
    """Stored values converted to the output's type."""

    input: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgMax(Node):
    """Index of the first largest value along `axis`."""

    input: str
    output: str
    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax(Node):
    """Softmax of ``beta * x`` over `axis` (TFLite: the last)."""

    input: str
    output: str
    beta: float
    axis: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unary(Node):
    input: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Logistic(_Unary):
    """1 / (1 + exp(-x))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tanh(_Unary):
    """Hyperbolic tangent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HardSwish(_Unary):
    """x * relu6(x + 3) / 6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakyRelu(_Unary):
    """x where positive, ``alpha * x`` elsewhere."""

    alpha: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prelu(Node):
    """x where positive, ``alpha * x`` elsewhere, alpha a tensor that broadcasts."""

    input_fields: ClassVar[tuple[str, ...]] = ("input", "alpha")
    input: str
    alpha: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Relu(_Unary):
    """Clamp as an operation of its own. RELU, RELU6, RELU_N1_TO_1."""

    bound: Activation


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resize(Node):
    input: str
    output: str
    size: Size2D
    align_corners: bool = False
    half_pixel_centers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeNearest(_Resize):
    """Nearest-neighbour interpolation to `size`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeBilinear(_Resize):
    """Bilinear interpolation to `size`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantize(_Unary):
    """Float to integers, or integers to integers on another scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dequantize(_Unary):
    """Integers (or float16) to float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque(Node):
    """An operator without meaning here: reported, and run only by an installed runtime.

    Attributes:
        reason: Why it has no meaning here, such as "GATHER_ND is not modelled".
    """

    input_fields: ClassVar[tuple[str, ...]] = ("operands",)
    output_fields: ClassVar[tuple[str, ...]] = ("results",)
    operands: tuple[str, ...]
    results: tuple[str, ...]
    reason: str


Operation = (
    Conv2D
    | DepthwiseConv2D
    | TransposeConv2D
    | FullyConnected
    | Add
    | Sub
    | Mul
    | Maximum
    | Minimum
    | Concatenation
    | MaxPool2D
    | AveragePool2D
    | Mean
    | Pad
    | Reshape
    | Transpose
    | StridedSlice
    | Split
    | Pack
    | Unpack
    | ShapeOf
    | Gather
    | Cast
    | ArgMax
    | Softmax
    | Logistic
    | Tanh
    | HardSwish
    | LeakyRelu
    | Prelu
    | Relu
    | ResizeNearest
    | ResizeBilinear
    | Quantize
    | Dequantize
    | Opaque
)


@dataclass(frozen=True, slots=True)
class FoldedOperation:
    """A source operator evaluated while importing (shape arithmetic): nothing runs for it."""

    location: Location


@dataclass(frozen=True, eq=False)
class Graph:
    """A network: operations in topological order and the tensors they name.

    Attributes:
        name: Label for reports, usually the path.
        format: ``"tflite"`` or ``"onnx"``.
        sha256: Of the model's bytes, hexadecimal.
        arithmetic: Whose kernels the reference executor equals.
        tensors: By name. Every name an operation, `inputs` or `outputs` mentions is here.
        operations: Topological order.
        inputs: Activation tensors fed by the caller.
        outputs: Tensors returned to the caller.
        folded: Source operators that import evaluated.
        batch: None: axis 0 of every activation tensor is the batch, of any size. A number:
            the graph mixes the batch with other axes and runs with exactly this one.
        source: The model's bytes, for opaque operations that an installed runtime executes.
    """

    name: str
    format: str
    sha256: str
    arithmetic: Arithmetic
    tensors: Mapping[str, Tensor]
    operations: tuple[Operation, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    folded: tuple[FoldedOperation, ...] = ()
    batch: int | None = None
    source: bytes = field(default=b"", repr=False)

    def __repr__(self) -> str:
        return f"Graph({self.name!r}, {self.format}, {len(self.operations)} operations)"

    @cached_property
    def producers(self) -> Mapping[str, Operation]:
        """Operation that writes each computed tensor."""
        return {name: op for op in self.operations for name in op.outputs}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Operation, ...]]:
        """Operations that read each tensor, in order; each once."""
        readers: dict[str, list[Operation]] = {name: [] for name in self.tensors}
        for op in self.operations:
            for name in dict.fromkeys(op.inputs):
                readers[name].append(op)
        return {name: tuple(ops) for name, ops in readers.items()}

    def activations_of(self, op: Operation) -> tuple[str, ...]:
        """The inputs of `op` that are not constants."""
        return tuple(name for name in op.inputs if not self.tensors[name].is_constant)

    def sole_consumer(self, name: str) -> Operation | None:
        """The one reader of a tensor that nobody else needs, or None."""
        readers = self.consumers[name]
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def constant(self, name: str) -> AnyArray:
        data = self.tensors[name].data
        if data is None:
            raise ValueError(f"tensor '{name}' is not a constant")
        return data

    def with_changes(
        self,
        *,
        operations: tuple[Operation, ...] | None = None,
        add_tensors: Mapping[str, Tensor] | None = None,
    ) -> Graph:
        """A copy with other operations or further tensors; unused tensors are dropped."""
        operations = self.operations if operations is None else operations
        tensors = {**self.tensors, **(add_tensors or {})}
        used = dict.fromkeys(self.inputs + self.outputs)
        for op in operations:
            used.update(dict.fromkeys(op.inputs + op.outputs))
        kept = {name: tensor for name, tensor in tensors.items() if name in used}
        return dataclasses.replace(self, operations=operations, tensors=kept)

    def unused_name(self, wanted: str) -> str:
        """`wanted`, or `wanted` with the first free number behind it."""
        if wanted not in self.tensors:
            return wanted
        number = 1
        while f"{wanted}.{number}" in self.tensors:
            number += 1
        return f"{wanted}.{number}"

    def problems(self) -> Iterator[str]:
        """What breaks the invariants above; a well-formed graph gives nothing."""
        known = set(self.inputs) | {n for n, t in self.tensors.items() if t.is_constant}
        for name in self.inputs:
            if name not in self.tensors:
                yield f"input '{name}' is not a tensor"
        for op in self.operations:
            for name in op.inputs:
                if name not in self.tensors:
                    yield f"{op.location}: reads '{name}', which is not a tensor"
                elif name not in known:
                    yield f"{op.location}: reads '{name}' before it is computed"
            for name in op.outputs:
                if name not in self.tensors:
                    yield f"{op.location}: writes '{name}', which is not a tensor"
                elif name in known:
                    yield f"{op.location}: writes '{name}', which already has a value"
                known.add(name)
        for name in self.outputs:
            if name not in known:
                yield f"output '{name}' is never computed"
        for name, tensor in self.tensors.items():
            if name != tensor.name:
                yield f"tensor '{tensor.name}' is filed under '{name}'"
