# SPDX-License-Identifier: Apache-2.0
"""What constraints look at: the properties of one would-be layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from akida_backend.graph import NO_PADS, ONE, Pads, Size2D
from akida_backend.program import same_pads

Fact = int | str | Size2D | Pads | tuple[int, ...] | tuple[str, ...]


class LayerType(StrEnum):
    """Layers of both generations under BrainChip's names; `GRAPH` stands for any of them."""

    GRAPH = "Graph"
    INPUT_DATA = "InputData"
    INPUT_CONVOLUTIONAL = "InputConvolutional"
    CONVOLUTIONAL = "Convolutional"
    SEPARABLE_CONVOLUTIONAL = "SeparableConvolutional"
    FULLY_CONNECTED = "FullyConnected"
    QUANTIZER = "Quantizer"
    DEQUANTIZER = "Dequantizer"
    INPUT_CONV2D = "InputConv2D"
    CONV2D = "Conv2D"
    DEPTHWISE_CONV2D = "DepthwiseConv2D"
    CONV2D_TRANSPOSE = "Conv2DTranspose"
    DEPTHWISE_CONV2D_TRANSPOSE = "DepthwiseConv2DTranspose"
    DENSE1D = "Dense1D"
    ADD = "Add"
    CONCATENATE = "Concatenate"
    BUFFER_TEMP_CONV = "BufferTempConv"
    DEPTHWISE_BUFFER_TEMP_CONV = "DepthwiseBufferTempConv"

    @property
    def generation(self) -> int | None:
        """1 or 2; None for what both have."""
        if self in (LayerType.GRAPH, LayerType.INPUT_DATA):
            return None
        first = (
            LayerType.INPUT_CONVOLUTIONAL,
            LayerType.CONVOLUTIONAL,
            LayerType.SEPARABLE_CONVOLUTIONAL,
            LayerType.FULLY_CONNECTED,
        )
        return 1 if self in first else 2


# What the string facts may say.
_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "padding": ("same", "valid", "same_upper", "explicit"),
    "pool_type": ("none", "max", "average"),
    "pool_pads": ("same_on_conv_output", "zero", "other"),
    "pooling": ("conv_then_pool_then_activation", "conv_then_activation_then_pool"),
    "activation": ("none", "relu", "bounded_relu", "lut"),
    "position": ("first", "inner"),
    "operands": ("two_different_tensors", "same_tensor", "constant", "broadcast", "different_code"),
    "input_scales": ("power_of_two", "power_of_two_ratio", "other"),
}

# Facts that are known only later than the layer itself, when it is segmented or lowered. Their
# rules wait while the fact is None; every other fact a rule of the layer looks at must be there.
LATER: Final = (
    "consumer",
    "position",
    "padding_value",
    "input_scales",
    "shifts",
    "output_shift",
    "net_left_shift",
)
# Consumers that are no layers.
OUTSIDE: Final = ("host", "output")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFacts:
    """What rules look at, of one would-be layer. None: the layer type has no such property.

    A fact its rules need and that is None is an error (ValueError), except for the last seven,
    which are known only once the layer is segmented or lowered: their rules wait.

    Attributes:
        layer: Layer type.
        input_size: Height and width of the input map.
        input_channels: Channels of the input map.
        kernel_size: Height and width of the kernel, not dilated.
        kernel_stride: Steps of the convolution.
        dilation: Of the kernel.
        groups: 1, or the channels for a depthwise layer.
        padding: ``same``, ``valid``, ``same_upper`` or ``explicit`` (`padding_kind`); of a
            transposed convolution ``same`` where the output is stride times the input.
        pads: The border itself; of a transposed convolution what its full output loses.
        filters: Output channels.
        pool_type: ``none``, ``max`` or ``average`` (over the whole map).
        pool_size: Window of the max pool.
        pool_stride: Steps of the max pool.
        pool_pads: ``same_on_conv_output``, ``zero`` or ``other`` (`pool_pads_kind`).
        pooling: ``conv_then_pool_then_activation``, the order of Akida 1.0 and meant by None, or
            ``conv_then_activation_then_pool``.
        activation: ``none``, ``relu``, ``bounded_relu`` or ``lut``. A quantized ReLU that can
            saturate at the top of its type is bounded by that.
        conv_output_size: Map between convolution and pooling.
        input_bits: Of input values.
        weights_bits: Of weights; of a separable layer those of the depthwise half.
        pointwise_weights_bits: Of the pointwise half of a separable layer, None: the same.
        output_bits: Of output values, 32 for accumulators that leave the layer unchanged.
        fifo_size: Steps a temporal layer remembers.
        concat_axis: Axis of (height, width, channels).
        operand_count: Of a Concatenate.
        operands: ``two_different_tensors``, ``same_tensor``, ``constant``, ``broadcast`` (other
            shape) or ``different_code`` (other bits or sign).
        consumers: Layer types that read the output, ``host`` or ``output`` for readers outside.
        position: ``first`` or ``inner``.
        padding_value: Border value per input channel, one for all or one each.
        input_scales: Of an Add: ``power_of_two``, ``power_of_two_ratio`` or ``other``.
        shifts: a_shift and b_shift of an Add.
        output_shift: Output shift per filter, or its smallest and largest.
        net_left_shift: Largest left shift in front of an Add.
    """

    layer: LayerType
    input_size: Size2D | None = None
    input_channels: int | None = None
    kernel_size: Size2D | None = None
    kernel_stride: Size2D | None = None
    dilation: Size2D | None = None
    groups: int | None = None
    padding: str | None = None
    pads: Pads | None = None
    filters: int | None = None
    pool_type: str | None = None
    pool_size: Size2D | None = None
    pool_stride: Size2D | None = None
    pool_pads: str | None = None
    pooling: str | None = None
    activation: str | None = None
    conv_output_size: Size2D | None = None
    input_bits: int | None = None
    weights_bits: int | None = None
    pointwise_weights_bits: int | None = None
    output_bits: int | None = None
    fifo_size: int | None = None
    concat_axis: int | None = None
    operand_count: int | None = None
    operands: str | None = None
    consumers: tuple[str, ...] | None = None
    position: str | None = None
    padding_value: tuple[int, ...] | None = None
    input_scales: str | None = None
    shifts: tuple[int, int] | None = None
    output_shift: tuple[int, ...] | None = None
    net_left_shift: int | None = None

    def __post_init__(self) -> None:
        for name, words in _WORDS.items():
            value: str | None = getattr(self, name)
            if value is not None and value not in words:
                raise ValueError(f"{name} is '{value}', not one of {', '.join(words)}")

    # Derived facts, under the names the rules use.

    @property
    def layer_type(self) -> str:
        return self.layer.value

    @property
    def act_bits(self) -> int | None:
        return self.output_bits

    @property
    def conv_padding(self) -> str | None:
        return self.padding

    @property
    def pool_padding(self) -> str | None:
        """Padding of the max pool in the words of `padding`: the convolution's if both fit."""
        if self.pool_pads is None:
            return None
        if (
            self.pool_pads == "same_on_conv_output"
            and self.padding == "valid"
            and self.conv_output_size is not None
            and self.pool_size is not None
            and self.pool_stride is not None
            and same_pads(self.conv_output_size, self.pool_size, self.pool_stride) == NO_PADS
        ):
            return "valid"
        words = {"same_on_conv_output": "same", "zero": "valid", "other": "explicit"}
        return words[self.pool_pads]

    @property
    def consumer(self) -> tuple[str, ...] | None:
        return self.consumers

    @property
    def conv_output_area(self) -> int | None:
        return None if self.conv_output_size is None else self.conv_output_size.area

    @property
    def input_values(self) -> int | None:
        if self.input_size is None or self.input_channels is None:
            return None
        return self.input_size.area * self.input_channels

    @property
    def kernel_side(self) -> int | None:
        """Side of a square kernel; 0, which no table lists, for another one."""
        if self.kernel_size is None:
            return None
        square = self.kernel_size.height == self.kernel_size.width
        return self.kernel_size.height if square else 0

    @property
    def pool_size_and_stride(self) -> tuple[int, ...] | None:
        """(side, stride) of a square pool; all four numbers of another one."""
        if self.pool_size is None or self.pool_stride is None:
            return None
        sizes = (*pair(self.pool_size), *pair(self.pool_stride))
        square = sizes[0] == sizes[1] and sizes[2] == sizes[3]
        return (sizes[0], sizes[2]) if square else sizes

    @property
    def kernel_stride_pool(self) -> tuple[str, ...]:
        """Those of kernel, strides and pool that are not square."""
        sizes = {
            "kernel": self.kernel_size,
            "stride": self.kernel_stride,
            "pool": self.pool_size,
            "pooling stride": self.pool_stride,
        }
        return tuple(
            f"a {name} of {size}"
            for name, size in sizes.items()
            if size is not None and size.height != size.width
        )

    @property
    def is_last(self) -> bool:
        """No layer reads the output, as far as is known."""
        return self.consumers is None or all(name in OUTSIDE for name in self.consumers)

    @property
    def gives_accumulators(self) -> bool:
        """A last layer of 32 output bits that may leave its accumulators as they are.

        Source: MetaTF API reference: Dense1D and Add of Akida 2.0, and any Akida 1.0 layer
        without activation.
        """
        if self.output_bits != 32 or not self.is_last:
            return False
        if self.layer.generation == 1:
            return self.activation == "none"
        return self.layer in (LayerType.DENSE1D, LayerType.ADD)

    @property
    def joined_maps(self) -> int | None:
        """Operands of a Concatenate, 0 where they cannot be joined as they are."""
        joinable = self.operands in ("two_different_tensors", "same_tensor")
        return self.operand_count if joinable or self.operand_count is None else 0

    def fact(self, what: str) -> Fact | None:
        """A fact by the name rules use."""
        if what == "operands" and self.layer is LayerType.CONCATENATE:
            return self.joined_maps
        value: Fact | None = getattr(self, what)
        return value


def padding_kind(
    pads: Pads, size: Size2D, kernel: Size2D, stride: Size2D, dilation: Size2D = ONE
) -> str:
    """What `LayerFacts.padding` says of a border; ``same`` where Same has no border either.

    ``same_upper`` is the border with its larger half before the map, or symmetric with the
    larger half on both sides. Source: cnn2snn 2.19 padding rules.
    """
    extent = Size2D(
        (kernel.height - 1) * dilation.height + 1, (kernel.width - 1) * dilation.width + 1
    )
    same = same_pads(size, extent, stride)
    if pads == same:
        return "same"
    if pads == NO_PADS:
        return "valid"
    flipped = Pads(same.bottom, same.top, same.right, same.left)
    symmetric = Pads(same.bottom, same.bottom, same.right, same.right)
    return "same_upper" if pads in (flipped, symmetric) else "explicit"


def pool_pads_kind(pads: Pads, conv_output: Size2D, size: Size2D, stride: Size2D) -> str:
    """What `LayerFacts.pool_pads` says of the border of a max pool."""
    if pads == same_pads(conv_output, size, stride):
        return "same_on_conv_output"
    return "zero" if pads == NO_PADS else "other"


def pair(size: Size2D) -> tuple[int, int]:
    return size.height, size.width
