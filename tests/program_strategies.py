# SPDX-License-Identifier: Apache-2.0
"""Random well-formed Programs with every layer type and option.

`random_program` takes its structure from a `random.Random`: a seeded one for long runs, one of
hypothesis (`programs`) where failing examples should shrink.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal, TypedDict, TypeVar

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from akida_backend.graph import DType, Shape, Size2D
from akida_backend.program import (
    Add,
    Akida1Layer,
    Bias,
    Code,
    Concatenate,
    Conv2D,
    Conv2DTranspose,
    ConvolutionLayer,
    Dense1D,
    DepthwiseConv2D,
    DepthwiseConv2DTranspose,
    DeviceTensor,
    InputConv2D,
    InputPort,
    LayerActivation,
    LookUpTable,
    MaxPool,
    NoActivation,
    OutputPort,
    Padding,
    Program,
    ProgramLayer,
    ReLU,
    Rescale,
)
from akida_backend.program_check import output_size

Kind = Literal["image", "conv", "depthwise", "transpose", "depthwise_transpose", "dense"]
T = TypeVar("T")

INT32_MAX = 2**31 - 1
MAX_MAP = 16  # transposed convolutions stop doubling here


def programs(*, max_layers: int = 4, channels: int = 5) -> st.SearchStrategy[Program]:
    """Programs whose structure hypothesis can shrink."""
    return st.randoms(use_true_random=False).map(
        lambda random: random_program(random, max_layers=max_layers, channels=channels)
    )


def seeded_program(seed: int, *, max_layers: int = 4, channels: int = 5) -> Program:
    """The program of a seed, the same on every machine."""
    return random_program(Random(seed), max_layers=max_layers, channels=channels)


def random_program(random: Random, *, max_layers: int = 4, channels: int = 5) -> Program:
    """A well-formed program of about `max_layers` layers with up to `channels` channels."""
    return _Builder(random, channels).build(random.randint(1, max_layers))


def random_input(program: Program, seed: int, batch: int) -> NDArray[np.integer]:
    """Host integers for the program's input port; some samples hold only extremes."""
    rng = np.random.default_rng(seed)
    low, high = program.input.dtype.code_range
    sides = [side for side in program.input.shape[1:] if side is not None]
    x = rng.integers(low, high + 1, (batch, *sides))
    extreme = rng.choice([low, high], x.shape)
    chosen = rng.random(batch) < 0.2
    x[chosen] = extreme[chosen]
    return x.astype(program.input.dtype.numpy)


def random_device_input(program: Program, seed: int, batch: int) -> NDArray[np.int64]:
    """Codes for the program's input tensor over its whole range."""
    tensor = program.tensors[program.input.device]
    low, high = tensor.code.limits
    return np.random.default_rng(seed).integers(low, high + 1, (batch, *tensor.shape))


def options_of(program: Program) -> set[str]:
    """Names of the layer types and options a program uses, for coverage counts."""
    found = {f"input of {program.tensors[program.input.device].code.parts} parts"}
    for layer in program.layers:
        kind = type(layer).__name__
        found.add(kind)
        if isinstance(layer, Concatenate | Akida1Layer):
            continue
        found.add(f"{kind} {_activation_name(layer.activation)}")
        found.add(f"{kind} to {layer.output_bits} bits")
        if isinstance(layer, Add):
            found.add("Add left" if layer.output_shift > 0 else "Add right")
            continue
        found.add(f"{kind} weights of {layer.weights_bits} bits")
        found.add(f"{kind} from {program.tensors[layer.inputs[0]].code.bits} bits")
        if isinstance(layer, InputConv2D):
            found.add(f"InputConv2D {layer.padding.value}")
        if isinstance(layer, InputConv2D | Conv2D | DepthwiseConv2D):
            _, height, width, _ = layer.weights.shape
            found.add(f"{kind} kernel {height}" if height == width else f"{kind} kernel not square")
            found.add(f"{kind} stride {layer.stride.height}")
            if layer.pool is not None:
                found.add(f"{kind} pool {layer.pool.padding.value}")
        if isinstance(layer, Conv2D | DepthwiseConv2D) and layer.global_average:
            found.add(f"{kind} global average")
        if isinstance(layer, Conv2D | Dense1D) and layer.input_shift is not None:
            found.add(f"{kind} input shift")
        if isinstance(layer, Conv2DTranspose | DepthwiseConv2DTranspose):
            found.add(f"{kind} kernel {layer.weights.shape[1]}")
        if (layer.rescale.shift > 0).any():
            found.add("left shift")
        if (layer.rescale.shift < -24).any():
            found.add("right shift beyond 24")
        if (layer.rescale.multiplier == 0).any():
            found.add("multiplier 0")
    return found


def _activation_name(activation: LayerActivation) -> str:
    if isinstance(activation, ReLU):
        return "ReLU" if activation.max_value is None else "bounded ReLU"
    return type(activation).__name__


class _Common(TypedDict):
    name: str
    inputs: tuple[str, ...]
    output: str
    weights: NDArray[np.int8]
    weights_bits: int
    bias: Bias
    activation: LayerActivation
    rescale: Rescale
    output_bits: int


@dataclass
class _Builder:
    random: Random
    channels: int
    rng: np.random.Generator = field(init=False)
    tensors: dict[str, DeviceTensor] = field(default_factory=dict)
    layers: list[ProgramLayer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.random.getrandbits(32))

    def chance(self, one_in: int) -> bool:
        return self.random.randrange(one_in) == one_in - 1

    def pick(self, values: Sequence[T]) -> T:
        return self.random.choice(values)

    def build(self, layers: int) -> Program:
        entry = self._entry()
        current = entry
        if current.code.bits == 8 and not current.code.signed:
            current = self._convolution("image", current)
        while len(self.layers) < layers:
            current = self._step(current)
        ending = self.random.randrange(4)
        if ending == 0:
            current = self._convolution("dense", current, bits=self.pick((8, 4, 32, 32)))
        elif ending == 1:
            current = self._join(current, add=True, bits=self.pick((8, 4, 32, 32)))
        elif not self.layers:
            current = self._step(current)
        return Program(
            name="random",
            device="akida2",
            tensors=self.tensors,
            layers=tuple(self.layers),
            input=self._input_port(entry),
            output=self._output_port(current),
        )

    def _step(self, current: DeviceTensor) -> DeviceTensor:
        height, width, _ = current.shape
        kinds = ["conv", "conv", "depthwise", "add", "concatenate", "dense"]
        if max(height, width) <= MAX_MAP // 2:
            kinds += ["transpose", "depthwise_transpose"]
        match self.pick(kinds):
            case "add":
                return self._join(current, add=True, bits=self.pick((8, 8, 4)))
            case "concatenate":
                return self._join(current, add=False, bits=8)
            case "dense" | "conv" | "depthwise" | "transpose" | "depthwise_transpose" as kind:
                return self._convolution(kind, current)
            case kind:
                raise AssertionError(kind)

    def _entry(self) -> DeviceTensor:
        sides = (self.random.randint(1, 9), self.random.randint(1, 9))
        kind = self.random.randrange(5)
        if kind < 2:
            zero_point = self.random.randrange(256)
            code = Code(self._scales(1), signed=False, zero_point=zero_point)
            return self._add_tensor("in", (*sides, self.pick((1, 3))), code)
        channels = self.random.randint(1, self.channels)
        parts = 2 if self.chance(4) else 1
        bits = 4 if kind == 4 else 8
        code = Code(self._scales(1), bits=bits, signed=bits == 8, parts=parts)
        return self._add_tensor("in", (*sides, channels * parts), code)

    def _scales(self, channels: int) -> tuple[float, ...]:
        count = channels if self.chance(2) else 1
        return tuple((2.0 ** self.rng.uniform(-9, 3, count)).tolist())

    def _add_tensor(self, name: str, shape: tuple[int, int, int], code: Code) -> DeviceTensor:
        tensor = DeviceTensor(name, shape, code)
        self.tensors[name] = tensor
        return tensor

    def _append(
        self, layer: ProgramLayer, operands: Sequence[DeviceTensor], code: Code
    ) -> DeviceTensor:
        self.layers.append(layer)
        shape = output_size(layer, *(tensor.shape for tensor in operands))
        return self._add_tensor(layer.output, shape, code)

    def _join(self, current: DeviceTensor, *, add: bool, bits: int) -> DeviceTensor:
        """Two branches from `current` into an Add or a Concatenate."""
        _, _, channels = current.shape
        wide = self.pick((8, 8, 4)) if add else current.code.bits
        a = current
        if add or self.chance(2):
            a = self._convolution("conv", current, bits=wide, keep_size=True, filters=channels)
        if add and self.chance(2):
            b = current
        else:
            filters = channels if add else None
            b = self._convolution(
                "conv", current, bits=a.code.bits, keep_size=True, filters=filters
            )
        operands = (a, b) if self.chance(2) else (b, a)
        first, second = operands
        name = f"join{len(self.layers)}"
        inputs = (first.name, second.name)
        if not add:
            layer: ProgramLayer = Concatenate(name=name, inputs=inputs, output=f"{name}.out")
            scales = tuple(
                scale
                for tensor in operands
                for scale in tensor.code.scale * (tensor.shape[2] // len(tensor.code.scale))
            )
            code = Code(scales, bits=a.code.bits, signed=a.code.signed)
            return self._append(layer, operands, code)
        shifts = [0, self.pick((0, 1, 3, 7, 20))]
        self.random.shuffle(shifts)
        peak = sum(
            max(-tensor.code.limits[0], tensor.code.limits[1]) << shift
            for tensor, shift in zip(operands, shifts, strict=True)
        )
        output_shift = 0
        if bits != 32:
            most = INT32_MAX.bit_length() - peak.bit_length() - 1
            typical = 8 - peak.bit_length() + self.random.randint(-2, 2)
            output_shift = self.pick((typical, typical, self.random.randint(-32, min(most, 31))))
        activation: LayerActivation = self._activation(channels, peak, table=False)
        assert not isinstance(activation, LookUpTable)
        layer = Add(
            name=name,
            inputs=inputs,
            output=f"{name}.out",
            a_shift=shifts[0],
            b_shift=shifts[1],
            output_shift=output_shift,
            activation=activation,
            output_bits=bits,
        )
        return self._append(layer, operands, self._output_code(bits, channels))

    def _output_code(self, bits: int, channels: int) -> Code:
        return Code(self._scales(channels), bits=bits, signed=bits != 4)

    def _kernel(self) -> Size2D:
        side = self.pick((1, 3, 3, 5, 7))
        if self.chance(6):
            return Size2D(self.random.randint(1, 7), self.random.randint(1, 7))
        return Size2D(side, side)

    def _convolution(
        self,
        kind: Kind,
        current: DeviceTensor,
        *,
        bits: int | None = None,
        keep_size: bool = False,
        filters: int | None = None,
    ) -> DeviceTensor:
        height, width, channels = current.shape
        filters = filters or self.random.randint(1, self.channels)
        bits = bits or self.pick((8, 8, 8, 4))
        weights_bits = self.pick((8, 8, 4))
        kernel = self._kernel()
        stride = Size2D(1, 1)
        padding = Padding.SAME
        if not keep_size and not self.chance(2):
            side = self.random.randint(1, 4)
            stride = Size2D(side, side if not self.chance(5) else self.random.randint(1, 4))
        if kind == "image" and self.chance(2):
            padding = Padding.VALID
            kernel = Size2D(min(kernel.height, height), min(kernel.width, width))
        if kind in ("transpose", "depthwise_transpose"):
            side = self.pick((3, 4))
            kernel = Size2D(side, side)
        name = f"{kind}{len(self.layers)}"
        is_depthwise = kind in ("depthwise", "depthwise_transpose")
        if is_depthwise:
            filters = channels
        match kind:
            case "dense":
                shape: tuple[int, ...] = (filters, height * width * channels)
            case "depthwise" | "depthwise_transpose":
                shape = (1, kernel.height, kernel.width, channels)
            case _:
                shape = (filters, kernel.height, kernel.width, channels)
        weights = self._weights(shape, weights_bits)
        input_shift = None
        if kind in ("conv", "dense") and self.chance(3):
            input_shift = self.rng.integers(0, self.pick((2, 4, 8)), shape[-1]).astype(np.uint8)
        buffer_bits = 32 if kind == "image" else 28
        peak = max(-current.code.limits[0], current.code.limits[1])
        reach = np.abs(weights.astype(np.int64)) * peak
        if input_shift is not None:
            if int((reach << input_shift).sum(axis=tuple(range(1, reach.ndim))).max()) >= 2**26:
                input_shift = None
            else:
                reach = reach << input_shift
        reach = np.moveaxis(reach, -1, 0) if is_depthwise else reach
        sums = reach.reshape(filters, -1).sum(axis=1)
        bias = self._bias(sums, (1 << (buffer_bits - 1)) - 1)
        worst = int((sums + np.abs(bias.effective)).max())

        pool = None
        average = False
        area = 1
        may_pool = kind in ("image", "conv", "depthwise") and not keep_size
        if may_pool and kind != "image" and self.chance(5):
            average = True
            out_height, out_width = -(-height // stride.height), -(-width // stride.width)
            area = out_height * out_width
        elif may_pool and self.chance(4):
            pool = self._pool(height, width, kernel, stride, padding)
        may_look_up = bits != 32
        activation = self._activation(filters, worst, table=may_look_up)
        final = 8192 if isinstance(activation, LookUpTable) else worst
        if bits == 32:
            rescale = Rescale(np.ones(filters, np.uint8), np.zeros(filters, np.int8))
        else:
            rescale = self._rescale(filters, final * area, 15 if bits == 4 else 127)
        common = _Common(
            name=name,
            inputs=(current.name,),
            output=f"{name}.out",
            weights=weights,
            weights_bits=weights_bits,
            bias=bias,
            activation=activation,
            rescale=rescale,
            output_bits=bits,
        )
        if final * area > INT32_MAX:  # a sum over the map that 32 bits might not hold
            average = False
        layer = self._layer(kind, common, stride, padding, pool, average, input_shift, channels)
        return self._append(layer, [current], self._output_code(bits, filters))

    def _layer(
        self,
        kind: Kind,
        common: _Common,
        stride: Size2D,
        padding: Padding,
        pool: MaxPool | None,
        average: bool,
        input_shift: NDArray[np.uint8] | None,
        channels: int,
    ) -> ConvolutionLayer:
        match kind:
            case "image":
                value = self.rng.integers(0, 256, channels).astype(np.uint8)
                return InputConv2D(
                    **common, stride=stride, padding=padding, padding_value=value, pool=pool
                )
            case "conv":
                return Conv2D(
                    **common,
                    stride=stride,
                    pool=pool,
                    global_average=average,
                    input_shift=input_shift,
                )
            case "depthwise":
                return DepthwiseConv2D(**common, stride=stride, pool=pool, global_average=average)
            case "transpose":
                return Conv2DTranspose(**common)
            case "depthwise_transpose":
                return DepthwiseConv2DTranspose(**common)
            case "dense":
                return Dense1D(**common, input_shift=input_shift)

    def _weights(self, shape: tuple[int, ...], bits: int) -> NDArray[np.int8]:
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        weights = self.rng.integers(low, high + 1, shape)
        match self.random.randrange(8):
            case 0:
                weights = self.rng.choice([low, high], shape)
            case 1:
                weights[0] = 0
            case _:
                pass
        return weights.astype(np.int8)

    def _bias(self, sums: NDArray[np.int64], limit: int) -> Bias:
        value = self.rng.integers(-128, 128, sums.shape)
        most = np.floor(np.log2((limit - sums) / np.maximum(np.abs(value), 1))).astype(np.int64)
        common = np.floor(np.log2(np.maximum(sums, 1) / 128 + 1)).astype(np.int64)
        extreme = self.rng.random(sums.shape) < 0.1
        shift = np.where(extreme, most, np.minimum(most, common))
        return Bias(value.astype(np.int8), np.clip(shift, 0, 31).astype(np.uint8))

    def _rescale(self, filters: int, reach: int, target: int) -> Rescale:
        """Mostly outputs that use the code range; some extremes that stay within 32 bits."""
        multiplier = self.rng.integers(128, 256, filters)
        odd = self.rng.random(filters) < 0.15
        multiplier[odd] = self.rng.choice([0, 1, 2, 127, 255], int(odd.sum()))
        product = np.maximum(multiplier * max(reach, 1), 1)
        most = np.floor(np.log2(INT32_MAX / product)).astype(np.int64)
        gain = 2.0 ** self.rng.uniform(0, 4, filters)
        typical = np.rint(np.log2(gain * target / product)).astype(np.int64)
        extreme = self.rng.random(filters) < 0.1
        wild = np.where(self.rng.random(filters) < 0.5, most, self.rng.integers(-32, 1, filters))
        shift = np.minimum(np.where(extreme, wild, typical), most)
        return Rescale(multiplier.astype(np.uint8), np.clip(shift, -32, 31).astype(np.int8))

    def _activation(self, channels: int, reach: int, *, table: bool) -> LayerActivation:
        match self.random.randrange(4 if table else 3):
            case 0:
                return NoActivation()
            case 1:
                return ReLU()
            case 2:
                value = self.rng.integers(0, 256, channels).astype(np.uint8)
                highest = min(31, max(0, int(math.log2(max(reach, 1))) - 7))
                shift = self.rng.integers(max(0, highest - 5), highest + 1, channels)
                if self.chance(8):
                    shift[:] = 31
                return ReLU(value, shift.astype(np.uint8))
            case _:
                entries = self.rng.integers(-8192, 8192, 2048)
                return LookUpTable(self._rescale(channels, reach, 1023), entries.astype(np.int16))

    def _pool(
        self, height: int, width: int, kernel: Size2D, stride: Size2D, padding: Padding
    ) -> MaxPool:
        size = Size2D(height, width)
        if padding is Padding.SAME:
            size = Size2D(-(-height // stride.height), -(-width // stride.width))
        else:
            size = Size2D(
                (height - kernel.height) // stride.height + 1,
                (width - kernel.width) // stride.width + 1,
            )
        side = self.random.randint(1, 3)
        window = Size2D(side, side if not self.chance(5) else self.random.randint(1, 3))
        step = self.random.randint(1, 3)
        pool_stride = Size2D(step, step if not self.chance(5) else self.random.randint(1, 3))
        fits = window.height <= size.height and window.width <= size.width
        pool_padding = Padding.VALID if fits and self.chance(2) else Padding.SAME
        return MaxPool(window, pool_stride, pool_padding)

    def _port_shape(self, tensor: DeviceTensor) -> Shape:
        height, width, channels = tensor.shape
        shape = (height, width, channels // tensor.code.parts)
        return (None, *shape) if self.chance(2) else (None, math.prod(shape))

    def _input_port(self, entry: DeviceTensor) -> InputPort:
        low, high = entry.code.limits
        dtype = self.pick((DType.INT8, DType.UINT8))
        count = 256 * entry.code.parts
        ramp = np.arange(count) % 256 + (low if self.chance(2) else -self.random.randrange(256))
        recode = self.rng.integers(low, high + 1, count) if self.chance(4) else ramp
        return InputPort(
            tensor="host.in",
            dtype=dtype,
            shape=self._port_shape(entry),
            device=entry.name,
            recode=np.clip(recode, low, high).astype(np.int16),
        )

    def _output_port(self, output: DeviceTensor) -> OutputPort:
        _, _, channels = output.shape
        dtype = self.pick((DType.INT8, DType.UINT8, DType.INT16, DType.INT32))
        low, high = dtype.code_range
        zero_point = self.random.randint(max(low, -256), min(high, 255))
        clamp_low = self.pick((low, max(low, zero_point)))
        count = self.pick((1, channels))
        spread = 2.0 ** self.rng.uniform(-2, 1, count)
        factor = self.pick((np.array([1.0]), np.array([0.5]), spread))
        if output.code.bits == 32:
            factor = factor * 2.0 ** -self.random.randint(0, 20)
        return OutputPort(
            tensor="host.out",
            dtype=dtype,
            shape=self._port_shape(output),
            device=output.name,
            factor=factor,
            zero_point=zero_point,
            low=clamp_low,
            high=high,
        )
