# SPDX-License-Identifier: Apache-2.0
"""Akida 1.0 programs put together layer by layer, of sizes that random ones rarely reach."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from akida_backend.graph import DType, Size2D
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
    SeparableConvolutional,
    StepActivation,
)
from akida_backend.program_check import output_size, potential_limits

# Of the reach of the potentials, what a step is; real staircases cover a small part of it.
STEP = 1 / 200


class _Common(TypedDict):
    name: str
    inputs: tuple[str, ...]
    output: str
    weights: NDArray[np.int8]
    weights_bits: int
    threshold: NDArray[np.int32]
    activation: NoActivation
    output_bits: int


@dataclass
class Akida1Chain:
    """Layers in a row, with random weights and staircases around the middle of their potentials."""

    seed: int = 0
    step: float = STEP
    tensors: dict[str, DeviceTensor] = field(default_factory=dict)
    layers: list[Akida1Layer] = field(default_factory=list)
    port: InputPort | None = None
    last: str = "in"

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def image(self, height: int, width: int, channels: int = 3) -> Akida1Chain:
        return self._entry((height, width, channels), Code((1.0,), signed=False, zero_point=7))

    def map(self, height: int, width: int, channels: int, *, bits: int = 4) -> Akida1Chain:
        return self._entry((height, width, channels), Code((1.0,), bits=bits, signed=False))

    def two_parts(
        self, height: int, width: int, channels: int, *, per_channel: bool = False
    ) -> Akida1Chain:
        """Host values above and below zero, without the sign, in channels of their own."""
        divisors = 9 + np.arange(channels if per_channel else 1)
        signed = ((np.arange(256) - 128) // divisors[:, None]).ravel()
        codes = np.concatenate([np.maximum(signed, 0), np.maximum(-signed, 0)]).astype(np.int16)
        code = Code((1.0,), bits=4, signed=False, parts=2)
        return self._entry((height, width, 2 * channels), code, codes)

    def _entry(
        self, shape: tuple[int, int, int], code: Code, codes: NDArray[np.int16] | None = None
    ) -> Akida1Chain:
        self.tensors["in"] = DeviceTensor("in", shape, code)
        if codes is None:
            codes = (np.arange(256) * (code.limits[1] + 1) // 256).astype(np.int16)
        height, width, channels = shape
        host = (None, height, width, channels // code.parts)
        self.port = InputPort("x", DType.UINT8, host, "in", codes)
        return self

    def _weights(self, shape: tuple[int, ...], bits: int) -> NDArray[np.int8]:
        low, high = (0, 1) if bits == 1 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        return self.rng.integers(low, high + 1, shape).astype(np.int8)

    def _common(
        self,
        kind: str,
        shape: tuple[int, ...],
        filters: int,
        bits: int,
        weights: NDArray[np.int8] | None,
    ) -> _Common:
        name = f"{kind}{len(self.layers)}"
        return _Common(
            name=name,
            inputs=(self.last,),
            output=f"{name}.out",
            weights=self._weights(shape, bits) if weights is None else weights,
            weights_bits=bits,
            threshold=np.zeros(filters, np.int32),
            activation=NoActivation(),
            output_bits=32,
        )

    def _write(self, layer: Akida1Layer, bits: int) -> str:
        source = self.tensors[self.last]
        low, high = potential_limits(layer, source.shape, source.code.limits[1])
        if bits == 32:
            threshold = self.rng.integers(-1000, 1000, len(low)).astype(np.int32)
            layer = dataclasses.replace(layer, threshold=threshold)
        else:
            step = (high - low) * self.step * 16 / 2**bits * self.rng.uniform(0.7, 1.3, len(low))
            shift = np.clip(np.floor(12 - np.log2(np.maximum(step, 1))), 0, 24).astype(np.uint8)
            fraction = np.clip(step * 2.0**shift, 1, 2**24 - 1).astype(np.uint32)
            threshold = ((low + high) / 2 - step * 2 ** (bits - 1)).astype(np.int32)
            layer = dataclasses.replace(
                layer,
                threshold=threshold,
                activation=StepActivation(fraction, shift),
                output_bits=bits,
            )
        code = Code((1.0,), bits=bits, signed=bits == 32)
        shape = output_size(layer, source.shape)
        self.tensors[layer.output] = DeviceTensor(layer.output, shape, code)
        self.layers.append(layer)
        self.last = layer.output
        return layer.output

    def stem(
        self,
        filters: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        padding: Padding = Padding.SAME,
        pool: MaxPool | None = None,
        bits: int = 4,
    ) -> str:
        _, _, channels = self.tensors[self.last].shape
        layer = InputConvolutional(
            **self._common("stem", (filters, kernel, kernel, channels), filters, 8, None),
            stride=Size2D(stride, stride),
            padding=padding,
            padding_value=7,
            pool=pool,
        )
        return self._write(layer, bits)

    def conv(
        self,
        filters: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        pool: MaxPool | None = None,
        average: bool = False,
        bits: int = 4,
        weights_bits: int = 4,
        weights: NDArray[np.int8] | None = None,
    ) -> str:
        _, _, channels = self.tensors[self.last].shape
        shape = (filters, kernel, kernel, channels)
        layer = Convolutional(
            **self._common("conv", shape, filters, weights_bits, weights),
            stride=Size2D(stride, stride),
            pool=pool,
            global_average=average,
        )
        return self._write(layer, bits)

    def separable(
        self,
        filters: int,
        kernel: int | Size2D = 3,
        stride: int = 1,
        *,
        pool: MaxPool | None = None,
        average: bool = False,
        bits: int = 4,
        weights_bits: int = 4,
        weights: NDArray[np.int8] | None = None,
    ) -> str:
        _, _, channels = self.tensors[self.last].shape
        sides = Size2D(kernel, kernel) if isinstance(kernel, int) else kernel
        shape = (1, sides.height, sides.width, channels)
        layer = SeparableConvolutional(
            **self._common("separable", shape, filters, weights_bits, weights),
            pointwise_weights=self._weights((filters, channels), weights_bits),
            stride=Size2D(stride, stride),
            pool=pool,
            global_average=average,
        )
        return self._write(layer, bits)

    def dense(self, filters: int, *, bits: int = 4, weights: NDArray[np.int8] | None = None) -> str:
        inputs = math.prod(self.tensors[self.last].shape)
        layer = FullyConnected(**self._common("dense", (filters, inputs), filters, 4, weights))
        return self._write(layer, bits)

    def build(self) -> Program:
        assert self.port is not None
        output = self.tensors[self.last]
        low, high = DType.INT32.code_range
        shape = (None, *output.shape)
        return Program(
            name="chain",
            device="akd1000",
            tensors=self.tensors,
            layers=tuple(self.layers),
            input=self.port,
            output=OutputPort("y", DType.INT32, shape, self.last, np.ones(1), 0, low, high),
        )
