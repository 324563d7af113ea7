# SPDX-License-Identifier: Apache-2.0
"""Random well-formed Akida 1.0 programs: every layer type, option and number of bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal, TypedDict, TypeVar

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from akida_backend.graph import DType, Shape, Size2D
from akida_backend.program import (
    Akida1Layer,
    Code,
    Convolutional,
    DeviceTensor,
    FullyConnected,
    InputConvolutional,
    InputPort,
    MaxPool,
    NoActivation,
    OutputPort,
    Padding,
    Program,
    ProgramLayer,
    SeparableConvolutional,
    StepActivation,
)
from akida_backend.program_check import output_size, overflow, potential_limits

Kind = Literal["image", "conv", "separable", "dense"]
T = TypeVar("T")


def akida1_programs(*, max_layers: int = 4, channels: int = 5) -> st.SearchStrategy[Program]:
    """Programs whose structure hypothesis can shrink."""
    return st.randoms(use_true_random=False).map(
        lambda random: random_akida1_program(random, max_layers=max_layers, channels=channels)
    )


def seeded_akida1_program(seed: int, *, max_layers: int = 4, channels: int = 5) -> Program:
    """The program of a seed, the same on every machine."""
    return random_akida1_program(Random(seed), max_layers=max_layers, channels=channels)


def random_akida1_program(random: Random, *, max_layers: int = 4, channels: int = 5) -> Program:
    """A well-formed program of at most `max_layers` layers with up to `channels` channels."""
    return _Builder(random, channels).build(random.randint(1, max_layers))


def akida1_options_of(program: Program) -> set[str]:
    """Names of the layer types and options a program uses, for coverage counts."""
    entry = program.tensors[program.input.device]
    found = {f"input of {entry.code.parts} parts"}
    if len(program.input.recode) == 256 * entry.shape[-1] > 256 * entry.code.parts:
        found.add("table per channel")
    for layer in program.layers:
        assert isinstance(layer, Akida1Layer)
        kind = type(layer).__name__
        found.add(f"{kind} {type(layer.activation).__name__}")
        found.add(f"{kind} to {layer.output_bits} bits")
        found.add(f"{kind} weights of {layer.weights_bits} bits")
        found.add(f"{kind} from {program.tensors[layer.inputs[0]].code.bits} bits")
        if isinstance(layer, FullyConnected):
            continue
        if isinstance(layer, Convolutional) and _is_diagonal(layer.weights):
            found.add(f"{kind} diagonal to {layer.output_bits} bits")
        _, height, width, _ = layer.weights.shape
        found.add(f"{kind} kernel {height}" if height == width else f"{kind} kernel not square")
        found.add(f"{kind} stride {layer.stride.height}")
        if layer.pool is not None:
            found.add(f"{kind} pool {layer.pool.padding.value}")
        if isinstance(layer, InputConvolutional):
            found.add(f"{kind} {layer.padding.value}")
        elif layer.global_average:
            found.add(f"{kind} global average")
    return found


def _is_diagonal(weights: NDArray[np.int8]) -> bool:
    """Whether each of several filters reads the channel of its own number alone."""
    filters, _, _, channels = weights.shape
    return filters == channels > 1 and not (weights * ~_own(channels)).any()


def _own(channels: int) -> NDArray[np.bool_]:
    return np.eye(channels, dtype=bool)[:, None, None, :]


class _Common(TypedDict):
    name: str
    inputs: tuple[str, ...]
    output: str
    weights: NDArray[np.int8]
    weights_bits: int
    threshold: NDArray[np.int32]
    activation: StepActivation | NoActivation
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
        wide_end = self.chance(2)
        for number in range(layers):
            kinds: tuple[Kind, ...] = ("conv", "conv", "separable", "separable", "dense")
            kind: Kind = "image" if current.code.bits == 8 else self.pick(kinds)
            current = self._layer(kind, current, wide=wide_end and number == layers - 1)
        return Program(
            name="random",
            device="akd1000",
            tensors=self.tensors,
            layers=tuple(self.layers),
            input=self._input_port(entry),
            output=self._output_port(current),
        )

    def _entry(self) -> DeviceTensor:
        sides = (self.random.randint(1, 9), self.random.randint(1, 9))
        if self.chance(2):
            code = Code(self._scales(1), signed=False, zero_point=self.random.randrange(256))
            return self._add("in", (*sides, self.pick((1, 3))), code)
        channels = self.random.randint(1, self.channels)
        parts = 2 if self.chance(4) else 1
        code = Code(self._scales(1), bits=self.pick((4, 2, 1)), signed=False, parts=parts)
        return self._add("in", (*sides, channels * parts), code)

    def _scales(self, channels: int) -> tuple[float, ...]:
        count = channels if self.chance(2) else 1
        return tuple((2.0 ** self.rng.uniform(-9, 3, count)).tolist())

    def _add(self, name: str, shape: tuple[int, int, int], code: Code) -> DeviceTensor:
        self.tensors[name] = DeviceTensor(name, shape, code)
        return self.tensors[name]

    def _kernel(self) -> Size2D:
        side = self.pick((1, 3, 3, 5, 7))
        if self.chance(6):
            return Size2D(self.random.randint(1, 7), self.random.randint(1, 7))
        return Size2D(side, side)

    def _layer(self, kind: Kind, current: DeviceTensor, *, wide: bool) -> DeviceTensor:
        height, width, channels = current.shape
        diagonal = kind == "conv" and channels > 1 and self.chance(4)
        filters = channels if diagonal else self.random.randint(1, self.channels)
        kernel = self._kernel()
        step = self.pick((1, 1, 2, 3))
        stride = Size2D(step, step if not self.chance(5) else self.random.randint(1, 3))
        padding = Padding.SAME
        if kind == "image" and self.chance(2):
            padding = Padding.VALID
            kernel = Size2D(min(kernel.height, height), min(kernel.width, width))
        weights_bits = self.pick(
            {"image": (8, 8, 4, 1, 5), "separable": (4, 4, 2)}.get(kind, (4, 4, 2, 1))
        )
        name = f"{kind}{len(self.layers)}"
        shape: tuple[int, ...] = (filters, kernel.height, kernel.width, channels)
        if kind == "separable":
            shape = (1, kernel.height, kernel.width, channels)
        elif kind == "dense":
            shape = (filters, height * width * channels)
        common = _Common(
            name=name,
            inputs=(current.name,),
            output=f"{name}.out",
            weights=self._weights(shape, weights_bits),
            weights_bits=weights_bits,
            threshold=np.zeros(filters, np.int32),
            activation=NoActivation(),
            output_bits=32,
        )
        if diagonal:
            common["weights"] *= _own(channels)
        layer = self._build(kind, common, stride, padding, filters, current)
        highest = current.code.limits[1]
        bits = 32
        activation: StepActivation | NoActivation = NoActivation()
        threshold = self.rng.integers(-(2**20), 2**20, filters).astype(np.int32)
        if not wide:
            bits = self.pick((4, 4, 2, 1))
            limits = potential_limits(layer, current.shape, highest)
            threshold, activation = self._steps(*limits, bits)
        layer = replace(layer, threshold=threshold, activation=activation, output_bits=bits)
        assert overflow(layer, current.shape, (0, highest)) is None
        self.layers.append(layer)
        code = Code(self._scales(filters), bits=bits, signed=bits == 32)
        return self._add(layer.output, output_size(layer, current.shape), code)

    def _build(
        self,
        kind: Kind,
        common: _Common,
        stride: Size2D,
        padding: Padding,
        filters: int,
        current: DeviceTensor,
    ) -> Akida1Layer:
        layer: Convolutional | SeparableConvolutional
        average = self.chance(5)
        pool = None if average or not self.chance(3) else self._pool(padding, common, current)
        match kind:
            case "image":
                return InputConvolutional(
                    **common,
                    stride=stride if pool is None else Size2D(1, 1),
                    padding=padding,
                    padding_value=self.random.randrange(256),
                    pool=pool,
                )
            case "conv":
                layer = Convolutional(**common, stride=stride, pool=pool, global_average=average)
            case "separable":
                _, _, channels = current.shape
                pointwise = self._weights((filters, channels), common["weights_bits"])
                layer = SeparableConvolutional(
                    **common,
                    pointwise_weights=pointwise,
                    stride=stride,
                    pool=pool,
                    global_average=average,
                )
            case "dense":
                return FullyConnected(**common)
        if overflow(layer, current.shape, (0, current.code.limits[1])) is not None:
            return self._build(kind, common, stride, padding, filters, current)
        return layer

    def _pool(self, padding: Padding, common: _Common, current: DeviceTensor) -> MaxPool:
        height, width, _ = current.shape
        side = self.random.randint(1, 3)
        window = Size2D(side, side if not self.chance(5) else self.random.randint(1, 3))
        if padding is Padding.VALID:
            _, kernel_height, kernel_width, _ = common["weights"].shape
            rows, columns = height - kernel_height + 1, width - kernel_width + 1
            window = Size2D(min(window.height, rows), min(window.width, columns))
        step = self.random.randint(1, 3)
        stride = Size2D(step, step if not self.chance(5) else self.random.randint(1, 3))
        return MaxPool(window, stride, padding)

    def _weights(self, shape: tuple[int, ...], bits: int) -> NDArray[np.int8]:
        low, high = (0, 1) if bits == 1 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        weights = self.rng.integers(low, high + 1, shape)
        match self.random.randrange(8):
            case 0:
                weights = self.rng.choice([low, high], shape)
            case 1:
                weights[0] = 0
            case _:
                pass
        return weights.astype(np.int8)

    def _steps(
        self, low: NDArray[np.int64], high: NDArray[np.int64], bits: int
    ) -> tuple[NDArray[np.int32], StepActivation]:
        """Mostly staircases within the reach of the potentials; many steps are whole numbers."""
        filters = len(low)
        span = np.maximum(high - low, 1)
        threshold = low + np.floor(span * self.rng.uniform(0, 0.8, filters)).astype(np.int64)
        wild = self.rng.random(filters) < 0.1
        threshold[wild] = self.rng.choice([-(2**31), -(2**19), 2**19 - 1, 2**31 - 1], wild.sum())
        real = span / 2**bits * self.rng.uniform(0.2, 1.2, filters)
        shift = self.rng.integers(0, 25, filters)
        shift = np.minimum(shift, np.floor(23 - np.log2(np.maximum(real, 1.0))).astype(np.int64))
        shift[self.rng.random(filters) < 0.4] = 0
        step = np.clip(np.rint(real * 2.0**shift), 1, 2**24 - 1)
        ends = self.rng.random(filters) < 0.05
        step[ends] = self.rng.choice([1, 2**24 - 1], ends.sum())
        activation = StepActivation(step.astype(np.uint32), shift.astype(np.uint8))
        return threshold.astype(np.int32), activation

    def _port_shape(self, tensor: DeviceTensor) -> Shape:
        height, width, channels = tensor.shape
        shape = (height, width, channels // tensor.code.parts)
        return (None, *shape) if self.chance(2) else (None, math.prod(shape))

    def _input_port(self, entry: DeviceTensor) -> InputPort:
        low, high = entry.code.limits
        _, _, channels = entry.shape
        count = 256 * (channels if self.chance(3) else entry.code.parts)
        ramp = (np.arange(count) % 256) * (high + 1) // 256
        recode = self.rng.integers(low, high + 1, count) if self.chance(4) else ramp
        return InputPort(
            tensor="host.in",
            dtype=self.pick((DType.INT8, DType.UINT8)),
            shape=self._port_shape(entry),
            device=entry.name,
            recode=recode.astype(np.int16),
        )

    def _output_port(self, output: DeviceTensor) -> OutputPort:
        _, _, channels = output.shape
        dtype = self.pick((DType.INT8, DType.UINT8, DType.INT16, DType.INT32))
        low, high = dtype.code_range
        zero_point = self.random.randint(max(low, -256), min(high, 255))
        spread = 2.0 ** self.rng.uniform(-2, 3, self.pick((1, channels)))
        factor = self.pick((np.array([1.0]), np.array([0.5]), spread))
        if output.code.bits == 32:
            factor = factor * 2.0 ** -self.random.randint(0, 12)
        return OutputPort(
            tensor="host.out",
            dtype=dtype,
            shape=self._port_shape(output),
            device=output.name,
            factor=factor,
            zero_point=zero_point,
            low=self.pick((low, max(low, zero_point))),
            high=high,
        )
