# SPDX-License-Identifier: Apache-2.0
"""Programs put together layer by layer, of sizes that random ones rarely reach."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from akida_backend.graph import DType, Size2D
from akida_backend.program import (
    Add,
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
from akida_backend.program_check import (
    has_global_average,
    output_size,
    worst_case_accumulator,
)

ONE = Size2D(1, 1)


@dataclass
class Chain:
    """Layers in a row, with random weights that use the codes' range; tensors by name.

    Every method that adds a layer returns the name of what it writes.
    """

    seed: int = 0
    tensors: dict[str, DeviceTensor] = field(default_factory=dict)
    layers: list[ProgramLayer] = field(default_factory=list)
    port: InputPort | None = None
    last: str = "in"

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def image(self, height: int, width: int, channels: int = 3) -> Chain:
        return self._entry((height, width, channels), Code((1.0,), signed=False, zero_point=7))

    def map(self, height: int, width: int, channels: int, *, bits: int = 8) -> Chain:
        return self._entry((height, width, channels), Code((1.0,), bits=bits, signed=bits == 8))

    def two_parts(self, height: int, width: int, channels: int, codes: NDArray[np.int16]) -> Chain:
        """Input whose host values take two codes; `codes` are the two tables."""
        return self._entry((height, width, 2 * channels), Code((1.0,), parts=2), codes)

    def _entry(
        self,
        shape: tuple[int, int, int],
        code: Code,
        codes: NDArray[np.int16] | None = None,
    ) -> Chain:
        self.tensors["in"] = DeviceTensor("in", shape, code)
        low, high = code.limits
        if codes is None:
            codes = np.clip(np.arange(256) + low, low, high).astype(np.int16)
        height, width, channels = shape
        host = (None, height, width, channels // code.parts)
        self.port = InputPort("x", DType.INT8, host, "in", codes)
        return self

    def _write(
        self, layer: ProgramLayer, *, bits: int | None = None, signed: bool | None = None
    ) -> str:
        if bits is None:
            assert not isinstance(layer, Concatenate)
            bits, signed = layer.output_bits, layer.output_bits != 4
        shape = output_size(layer, *(self.tensors[name].shape for name in layer.inputs))
        code = Code((1.0,), bits=bits, signed=bool(signed))
        self.tensors[layer.output] = DeviceTensor(layer.output, shape, code)
        self.layers.append(layer)
        self.last = layer.output
        return layer.output

    def _name(self, kind: str) -> str:
        return f"{kind}{len(self.layers)}"

    def scaled(self, layer: ConvolutionLayer) -> ConvolutionLayer:
        """The layer with a rescale that spreads its worst case over the code range."""
        code = self.tensors[layer.inputs[0]].code
        worst = worst_case_accumulator(layer, code.limits)
        area = 1
        if has_global_average(layer):
            height, width, _ = self.tensors[layer.inputs[0]].shape
            area = height * width
        reach = np.full_like(worst, 8192) if isinstance(layer.activation, LookUpTable) else worst
        multiplier = self.rng.integers(1, 256, len(worst))
        gain = self.rng.choice([1.0, 8.0, 64.0], len(worst))
        shift = np.log2(gain * 128 / (multiplier * np.maximum(reach * area, 1)))
        return dataclasses.replace(
            layer,
            rescale=Rescale(
                multiplier.astype(np.uint8), np.clip(np.rint(shift), -32, 5).astype(np.int8)
            ),
        )

    def _parts(
        self, kind: str, shape: tuple[int, ...], filters: int, source: str | None, weights_bits: int
    ) -> dict[str, object]:
        low, high = -(1 << (weights_bits - 1)), (1 << (weights_bits - 1)) - 1
        name = self._name(kind)
        return {
            "name": name,
            "inputs": (source or self.last,),
            "output": f"{name}.out",
            "weights": self.rng.integers(low, high + 1, shape).astype(np.int8),
            "weights_bits": weights_bits,
            "bias": Bias(
                self.rng.integers(-128, 128, filters).astype(np.int8),
                self.rng.integers(0, 7, filters).astype(np.uint8),
            ),
            "rescale": Rescale(np.ones(filters, np.uint8), np.zeros(filters, np.int8)),
        }

    def table(self, filters: int) -> LookUpTable:
        """Look-up table with a rescale for accumulators of some 2**20."""
        multiplier = self.rng.integers(64, 256, filters).astype(np.uint8)
        shift = self.rng.integers(-20, -14, filters).astype(np.int8)
        table = self.rng.integers(-8192, 8192, 2048).astype(np.int16)
        return LookUpTable(Rescale(multiplier, shift), table)

    def bound(self, filters: int) -> ReLU:
        return ReLU(
            self.rng.integers(0, 256, filters).astype(np.uint8),
            self.rng.integers(4, 12, filters).astype(np.uint8),
        )

    def stem(
        self,
        filters: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        source: str | None = None,
        padding: Padding = Padding.SAME,
        value: int = 7,
        pool: MaxPool | None = None,
        activation: LayerActivation | None = None,
    ) -> str:
        _, _, channels = self.tensors[source or self.last].shape
        parts = self._parts("stem", (filters, kernel, kernel, channels), filters, source, 8)
        layer = InputConv2D(
            **parts,  # type: ignore[arg-type]
            activation=activation or NoActivation(),
            stride=Size2D(stride, stride),
            padding=padding,
            padding_value=np.full(channels, value, np.uint8),
            pool=pool,
        )
        return self._write(self.scaled(layer))

    def conv(
        self,
        filters: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        source: str | None = None,
        activation: LayerActivation | None = None,
        pool: MaxPool | None = None,
        average: bool = False,
        input_shift: NDArray[np.uint8] | None = None,
        output_bits: int = 8,
        weights_bits: int = 8,
        weights: NDArray[np.int8] | None = None,
    ) -> str:
        _, _, channels = self.tensors[source or self.last].shape
        shape = (filters, kernel, kernel, channels)
        parts = self._parts("conv", shape, filters, source, weights_bits)
        if weights is not None:
            parts["weights"] = weights
        layer = Conv2D(
            **parts,  # type: ignore[arg-type]
            activation=activation or ReLU(),
            stride=Size2D(stride, stride),
            pool=pool,
            global_average=average,
            input_shift=input_shift,
            output_bits=output_bits,
        )
        return self._write(self.scaled(layer))

    def depthwise(
        self,
        kernel: int = 3,
        stride: int = 1,
        *,
        source: str | None = None,
        activation: LayerActivation | None = None,
        average: bool = False,
        pool: MaxPool | None = None,
    ) -> str:
        _, _, channels = self.tensors[source or self.last].shape
        parts = self._parts("depthwise", (1, kernel, kernel, channels), channels, source, 8)
        layer = DepthwiseConv2D(
            **parts,  # type: ignore[arg-type]
            activation=activation or ReLU(),
            stride=Size2D(stride, stride),
            global_average=average,
            pool=pool,
        )
        return self._write(self.scaled(layer))

    def transpose(
        self, filters: int, kernel: int = 3, *, activation: LayerActivation | None = None
    ) -> str:
        _, _, channels = self.tensors[self.last].shape
        parts = self._parts("up", (filters, kernel, kernel, channels), filters, None, 8)
        layer = Conv2DTranspose(
            **parts,  # type: ignore[arg-type]
            activation=activation or NoActivation(),
        )
        return self._write(self.scaled(layer))

    def depthwise_transpose(
        self, kernel: int = 3, *, activation: LayerActivation | None = None
    ) -> str:
        _, _, channels = self.tensors[self.last].shape
        parts = self._parts("up", (1, kernel, kernel, channels), channels, None, 8)
        layer = DepthwiseConv2DTranspose(
            **parts,  # type: ignore[arg-type]
            activation=activation or NoActivation(),
        )
        return self._write(self.scaled(layer))

    def dense(
        self,
        filters: int,
        *,
        activation: LayerActivation | None = None,
        wide: bool = False,
        input_shift: NDArray[np.uint8] | None = None,
        weights: NDArray[np.int8] | None = None,
    ) -> str:
        inputs = math.prod(self.tensors[self.last].shape)
        parts = self._parts("dense", (filters, inputs), filters, None, 8)
        if weights is not None:
            parts["weights"] = weights
        layer = Dense1D(
            **parts,  # type: ignore[arg-type]
            activation=activation or NoActivation(),
            input_shift=input_shift,
            output_bits=32 if wide else 8,
        )
        return self._write(layer if wide else self.scaled(layer))

    def add(
        self,
        a: str,
        b: str,
        *,
        shifts: tuple[int, int] = (0, 0),
        output_shift: int = -1,
        activation: NoActivation | ReLU | None = None,
        output_bits: int = 8,
    ) -> str:
        name = self._name("add")
        return self._write(
            Add(
                name=name,
                inputs=(a, b),
                output=f"{name}.out",
                a_shift=shifts[0],
                b_shift=shifts[1],
                output_shift=output_shift,
                activation=activation or NoActivation(),
                output_bits=output_bits,
            )
        )

    def join(self, a: str, b: str) -> str:
        name = self._name("join")
        code = self.tensors[a].code
        return self._write(
            Concatenate(name=name, inputs=(a, b), output=f"{name}.out"),
            bits=code.bits,
            signed=code.signed,
        )

    def build(self, *, dtype: DType = DType.INT32, factor: float = 1.0) -> Program:
        assert self.port is not None
        output = self.tensors[self.last]
        low, high = dtype.code_range
        return Program(
            name="chain",
            device="akida2",
            tensors=self.tensors,
            layers=tuple(self.layers),
            input=self.port,
            output=OutputPort(
                "y",
                dtype,
                (None, *output.shape),
                self.last,
                np.array([factor]),
                0,
                low,
                high,
            ),
        )
