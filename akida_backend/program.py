# SPDX-License-Identifier: Apache-2.0
"""The Akida dialects, 2.0 and 1.0: what a simulated device executes, integers only.

Layers carry BrainChip's names. Convolution kernels are stored as cross-correlation, OHWI
(depthwise 1HWC); the vendor's files store some of them flipped. Feature maps are HWC per sample.
A program holds layers of one generation.

Every MAC layer of Akida 2.0 computes, in this order (published: MetaTF API reference, quantizeml
layers):

    x << input_shift
    accumulator = sum(w * x) + (bias.value << bias.shift)      bounded by `buffer_bits`
    max pooling of accumulators
    activation: none | ReLU, optionally bounded | look-up table behind an 11-bit rescale
    global average pooling as a sum (1 / area is inside `rescale`)
    y = clip(floor(accumulator * multiplier * 2**output_shift + 1/2))   to `output_bits`

A tensor of a program is 8-bit signed (or 4-bit unsigned) and symmetric; the input of InputConv2D
is uint8 with a zero point. A Dense1D or Add that ends the program may give its int32 accumulators.

Every layer of Akida 1.0 computes (published: MetaTF API reference, cnn2snn converters):

    potential = sum(w * x)                                     int32
    max pooling of potentials, or their sum over the map (global average pooling)
    y = clip(ceil((potential - threshold) / step))             to 1, 2 or 4 unsigned bits

A tensor is then unsigned and symmetric; the input of InputConvolutional is uint8 with a zero
point. A layer that ends the program may give its int32 potentials, less their threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from akida_backend.graph import DType, Pads, Shape, Size2D

ACCUMULATOR_BITS_INPUT = 32
ACCUMULATOR_BITS_INNER = 28
POST_OP_BITS = 32
POTENTIAL_BITS = 32
# Older hardware documentation of Akida 1.0; no page says how far other potentials may go.
SUMMED_POTENTIAL_BITS = 20


class Padding(Enum):
    """How a layer's border is sized; `same_pads` gives the numbers."""

    SAME = "same"
    VALID = "valid"


def same_pads(size: Size2D, kernel: Size2D, stride: Size2D) -> Pads:
    """Border of Same padding: the smaller half before, the larger after (as TFLite SAME).

    Source: cnn2snn 2.19 padding rules; equal to ONNX auto_pad SAME_UPPER.
    """

    def total(length: int, side: int, step: int) -> int:
        rest = length % step
        return max(side - (step if rest == 0 else rest), 0)

    high = total(size.height, kernel.height, stride.height)
    wide = total(size.width, kernel.width, stride.width)
    return Pads(high // 2, high - high // 2, wide // 2, wide - wide // 2)


@dataclass(frozen=True, slots=True)
class Code:
    """How a device tensor's integers stand for reals: ``real = scale * (stored - zero_point)``.

    Attributes:
        scale: Per channel or, in a 1-tuple, per tensor; float64.
        bits: 4, 8 or 32; of Akida 1.0 also 1 and 2.
        signed: int8 / int32 when True, uint8 (or at most 4 bits unsigned) when False.
        zero_point: Not 0 only for the uint8 input of InputConv2D or InputConvolutional.
        parts: 2 for a program input in two parts (`InputPort.recode`), otherwise 1.
    """

    scale: tuple[float, ...]
    bits: int = 8
    signed: bool = True
    zero_point: int = 0
    parts: int = 1

    @property
    def limits(self) -> tuple[int, int]:
        if self.signed:
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, (1 << self.bits) - 1

    @property
    def dtype(self) -> np.dtype[np.generic]:
        if self.bits == 32:
            return np.dtype(np.int32)
        return np.dtype(np.int8 if self.signed else np.uint8)


@dataclass(frozen=True, slots=True)
class DeviceTensor:
    """A feature map of the program: shape per sample (height, width, channels)."""

    name: str
    shape: tuple[int, int, int]
    code: Code


@dataclass(frozen=True, slots=True, eq=False)
class Bias:
    """Per filter ``value << shift``: int8 value, uint8 shift."""

    value: NDArray[np.int8]
    shift: NDArray[np.uint8]

    @property
    def effective(self) -> NDArray[np.int64]:
        return self.value.astype(np.int64) << self.shift.astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Rescale:
    """Per filter ``* multiplier * 2**shift``, rounded half up: uint8 and int8 in [-32, 31].

    A positive shift is a left shift, as in the vendor's ``output_shift``.
    """

    multiplier: NDArray[np.uint8]
    shift: NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class NoActivation:
    """Accumulators pass unchanged."""


@dataclass(frozen=True, slots=True, eq=False)
class ReLU:
    """``max(x, 0)``, then per filter ``min(x, max_value << max_value_shift)`` where given."""

    max_value: NDArray[np.uint8] | None = None
    max_value_shift: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LookUpTable:
    """Any function of one value, over an 11-bit signed intermediate.

    Attributes:
        rescale: To the intermediate, saturated to [-1024, 1023].
        table: int16 values of the intermediate -1024 .. 1023, each within signed 14 bits.
    """

    rescale: Rescale
    table: NDArray[np.int16]


LayerActivation = NoActivation | ReLU | LookUpTable


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Max pooling of accumulators; SAME cells outside the map do not take part."""

    size: Size2D
    stride: Size2D
    padding: Padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What all layers share: tensor names within the program."""

    generation: ClassVar[int] = 2
    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Convolution(Layer):
    buffer_bits: ClassVar[int] = ACCUMULATOR_BITS_INNER
    weights: NDArray[np.int8]
    weights_bits: int = 8
    bias: Bias
    activation: LayerActivation
    rescale: Rescale
    output_bits: int = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputConv2D(_Convolution):
    """First layer on a uint8 image of 1 or 3 channels; the border holds `padding_value`.

    weights OHWI. No global pooling.
    """

    buffer_bits: ClassVar[int] = ACCUMULATOR_BITS_INPUT
    stride: Size2D
    padding: Padding
    padding_value: NDArray[np.uint8]
    pool: MaxPool | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conv2D(_Convolution):
    """Convolution, Same padding with zeros. weights OHWI.

    `input_shift`: left shift per input channel, applied before the product.
    """

    stride: Size2D
    pool: MaxPool | None = None
    global_average: bool = False
    input_shift: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DepthwiseConv2D(_Convolution):
    """One filter per channel, Same padding with zeros. weights 1HWC."""

    stride: Size2D
    pool: MaxPool | None = None
    global_average: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conv2DTranspose(_Convolution):
    """Stride 2, output exactly twice the input. weights OHWI, not flipped.

    The full output (2 * (n - 1) + kernel) loses 0 rows at the beginning for a 3x3 kernel and 1
    for 4x4, and the rest at the end.
    """


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DepthwiseConv2DTranspose(_Convolution):
    """As Conv2DTranspose with one filter per channel. weights 1HWC."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dense1D(_Convolution):
    """Matrix product over the input flattened in HWC order. weights OI.

    `output_bits` 32: the accumulators unchanged (`rescale` neutral), last layer only.
    """

    input_shift: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Add(Layer):
    """``(a << a_shift) + (b << b_shift)``, ReLU if asked, then ``* 2**output_shift`` half up.

    Shifts are per tensor here. `output_bits` 32: the sum unchanged, last layer only.
    """

    buffer_bits: ClassVar[int] = ACCUMULATOR_BITS_INPUT
    a_shift: int
    b_shift: int
    output_shift: int
    activation: NoActivation | ReLU
    output_bits: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Concatenate(Layer):
    """Two operands joined on the channel axis; data movement only."""


@dataclass(frozen=True, slots=True, eq=False)
class StepActivation:
    """A staircase that begins above the layer's threshold, per filter.

        y = clip(ceil((potential - threshold) * 2**step_shift / step), 0, 2**output_bits - 1)

    So a potential n whole steps above the threshold gives n, and the next larger one n + 1. The
    vendor's variable is a float32 ``act_step``, the height of a step in a staircase of 16:
    ``act_step = step * 2**-step_shift * 2**(output_bits - 4)``. Every float32 that is a multiple
    of 2**-24 below 2**24 has this form.

    Attributes:
        step: uint32 in [1, 2**24 - 1].
        step_shift: uint8 in [0, 24], fraction bits of `step`.
    """

    step: NDArray[np.uint32]
    step_shift: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Akida1Layer(Layer):
    """Weights are signed, of 1 bit they are 0 and 1. `threshold` is int32 per filter.

    Without activation `output_bits` is 32 and the output ``potential - threshold``, in the last
    layer only. The vendor's device gives the potential and its runtime takes off the threshold.
    """

    generation: ClassVar[int] = 1
    weights: NDArray[np.int8]
    weights_bits: int = 4
    threshold: NDArray[np.int32]
    activation: StepActivation | NoActivation
    output_bits: int = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputConvolutional(_Akida1Layer):
    """First layer on a uint8 image of 1 or 3 channels; the border holds `padding_value`.

    weights OHWI, up to 8 bits. No global pooling. A pool has the layer's padding.
    """

    stride: Size2D
    padding: Padding
    padding_value: int
    pool: MaxPool | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Convolutional(_Akida1Layer):
    """Convolution, Same padding with zeros. weights OHWI."""

    stride: Size2D
    pool: MaxPool | None = None
    global_average: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeparableConvolutional(_Akida1Layer):
    """Depthwise, then pointwise convolution with nothing between; Same padding with zeros.

    weights 1HWC, pointwise_weights OI, both of `weights_bits`.
    """

    pointwise_weights: NDArray[np.int8]
    stride: Size2D
    pool: MaxPool | None = None
    global_average: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FullyConnected(_Akida1Layer):
    """Matrix product over the input flattened in HWC order. weights OI."""


Akida1Layer = InputConvolutional | Convolutional | SeparableConvolutional | FullyConnected
ConvolutionLayer = (
    InputConv2D | Conv2D | DepthwiseConv2D | Conv2DTranspose | DepthwiseConv2DTranspose | Dense1D
)
MacLayer = Akida1Layer | ConvolutionLayer
Akida2Layer = ConvolutionLayer | Add | Concatenate
ProgramLayer = Akida1Layer | Akida2Layer


@dataclass(frozen=True, slots=True, eq=False)
class InputPort:
    """How the host's stored integers become the program's input codes.

    Attributes:
        tensor: Name of the host tensor; its dtype is `dtype`, its shape `shape` (batch first).
        device: Name of the program tensor it fills (values in HWC order).
        recode: 256 device codes, indexed by ``stored - lowest`` of the 8-bit host type; or two
            such tables, one behind the other, for a value that takes two codes: those of the
            second stand in as many channels again, and the reals of both add up. In a program of
            Akida 1.0 also one table per channel of the program tensor; where that has two parts,
            the second holds what is below zero, without the sign.
    """

    tensor: str
    dtype: DType
    shape: Shape
    device: str
    recode: NDArray[np.int16]

    @property
    def parts(self) -> int:
        """Device channels per host channel, where all channels share tables."""
        return len(self.recode) // 256


@dataclass(frozen=True, slots=True, eq=False)
class OutputPort:
    """How the program's output becomes the host's stored integers.

        stored = clip(rint_half_even(value * factor[channel]) + zero_point)   in float64

    Attributes:
        tensor: Name of the host tensor; its dtype is `dtype`, its shape `shape` (batch first).
        device: Name of the program tensor that is read.
        factor: float64 per channel or one: device scale over the host tensor's scale.
        zero_point: Of the host tensor.
        low: Smallest stored value (type and fused clamp).
        high: Largest stored value.
    """

    tensor: str
    dtype: DType
    shape: Shape
    device: str
    factor: NDArray[np.float64]
    zero_point: int
    low: int
    high: int


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """One device segment: layers of one generation in execution order, one input and one output.

    Attributes:
        name: Label, such as ``segment0``.
        device: Canonical device name, such as ``akida2``.
        tensors: Every tensor of the program by name.
        layers: Execution order; layer k writes tensor ``layers[k].output``.
        input: Boundary at the beginning.
        output: Boundary at the end.
    """

    name: str
    device: str
    tensors: Mapping[str, DeviceTensor]
    layers: tuple[ProgramLayer, ...]
    input: InputPort
    output: OutputPort

    @property
    def generation(self) -> int:
        """1 or 2: the device family whose layers it holds."""
        return self.layers[0].generation
