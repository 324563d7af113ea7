# SPDX-License-Identifier: Apache-2.0
"""Networks of BrainChip's model zoo as quantized Graphs with random weights, for measuring speed.

    python tools/zoo_builder.py akidanet 0.5 224 akidanet.tflite

Structure as published with the Apache-2.0 package akida_models (1.14: `akidanet_imagenet` and
`mobilenet_imagenet` for Akida 2.0): 3x3 convolutions, and separable blocks of a depthwise 3x3 and a
1x1 convolution with nothing between them; SAME padding, batch normalization folded into weights and
biases, ReLU clipped at 7.5, global average pooling, a dense layer of 1000 classes.

Quantized as TFLite's converter does: int8, weights symmetric with one scale per filter, activations
asymmetric. The scale of random weights keeps the spread of activations alike through the network.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from akida_backend.graph import (
    ONE,
    Activation,
    Arithmetic,
    Conv2D,
    DepthwiseConv2D,
    DType,
    FullyConnected,
    Graph,
    Location,
    Mean,
    Operation,
    Quantization,
    Size2D,
    Tensor,
)
from akida_backend.tflite_writer import same_pads, write_tflite

Block = tuple[Literal["conv", "separable"], int, int]  # kind, filters at width 1.0, stride

_SEPARABLE_512: Final[tuple[Block, ...]] = (("separable", 512, 1),) * 5
_END: Final[tuple[Block, ...]] = (
    ("separable", 512, 2),
    *_SEPARABLE_512,
    ("separable", 1024, 2),
    ("separable", 1024, 1),
)
NETWORKS: Final[dict[str, tuple[Block, ...]]] = {
    "akidanet": (
        ("conv", 32, 2),
        ("conv", 64, 1),
        ("conv", 128, 2),
        ("conv", 128, 1),
        ("separable", 256, 2),
        ("separable", 256, 1),
        *_END,
    ),
    "mobilenet": (
        ("conv", 32, 2),
        ("separable", 64, 1),
        ("separable", 128, 2),
        ("separable", 128, 1),
        ("separable", 256, 2),
        ("separable", 256, 1),
        *_END,
    ),
}
CLASSES: Final = 1000
RELU_MAX: Final = 7.5

_SPREAD: Final = 2.5  # standard deviation before a ReLU
_AFTER_RELU: Final = _SPREAD / math.sqrt(2)  # root mean square behind it
_DEPTHWISE_SPREAD: Final = 1.5
_SIGMAS: Final = 4.0  # half the range of a signed activation, in standard deviations


def build(name: str, alpha: float, side: int, *, seed: int = 0) -> Graph:
    """A network of `NETWORKS`.

    Args:
        name: Which.
        alpha: Factor of all filter counts.
        side: Height and width of the image, which has 3 channels.
        seed: Of weights and biases.
    """
    return _Builder(f"{name}_{alpha:g}_{side}", seed).build(NETWORKS[name], alpha, side)


class _Builder:
    def __init__(self, label: str, seed: int) -> None:
        self._label = label
        self._random = np.random.default_rng(seed)
        self._tensors: dict[str, Tensor] = {}
        self._operations: list[Operation] = []
        self._spread = 1 / math.sqrt(3)  # root mean square of the last activation: a uniform image

    def build(self, blocks: tuple[Block, ...], alpha: float, side: int) -> Graph:
        x = self._activation("image", (None, side, side, 3), 1 / 128, 0)
        for index, (kind, width, stride) in enumerate(blocks):
            filters = int(alpha * width)
            if kind == "conv":
                x = self._convolution(f"conv_{index}", x, filters, 3, stride)
            else:
                x = self._depthwise(f"separable_{index}/depthwise", x, stride)
                x = self._convolution(f"separable_{index}/pointwise", x, filters, 1, 1)
        logits = self._dense("classifier", self._average("average", x))
        return Graph(
            name=self._label,
            format="tflite",
            sha256=hashlib.sha256(self._label.encode()).hexdigest(),
            arithmetic=Arithmetic.TFLITE,
            tensors=self._tensors,
            operations=tuple(self._operations),
            inputs=("image",),
            outputs=(logits,),
        )

    def _activation(
        self, name: str, shape: tuple[int | None, ...], scale: float, zero_point: int
    ) -> str:
        quantization = Quantization.per_tensor(scale, zero_point)
        self._tensors[name] = Tensor(name, DType.INT8, shape, quantization)
        return name

    def _place(self, code: str, name: str) -> tuple[Location, tuple[int, ...]]:
        index = len(self._operations)
        return Location(self._label, index, code, name), (index,)

    def _shape(self, name: str) -> tuple[int, int, int]:
        _, *shape = (length or 1 for length in self._tensors[name].shape)
        height, width, channels = shape
        return height, width, channels

    def _filters(
        self, name: str, source: str, shape: tuple[int, ...], axis: int, fan_in: int, spread: float
    ) -> tuple[str, str]:
        """Random weights that give `spread`, and biases; names of both constants."""
        real = self._random.normal(0.0, spread / (math.sqrt(fan_in) * self._spread), shape)
        others = tuple(i for i in range(len(shape)) if i != axis)
        scale = (np.abs(real).max(axis=others) / 127).astype(np.float32)
        along = [1] * len(shape)
        along[axis] = -1
        codes = np.rint(real / scale.reshape(along)).astype(np.int8)
        weights = self._constant(f"{name}/weights", DType.INT8, codes, scale, axis)
        entry = self._tensors[source].quantization
        assert entry is not None
        steps = entry.single_scale * scale
        biases = np.rint(self._random.normal(0.0, spread / 4, len(steps)) / steps).astype(np.int32)
        return weights, self._constant(f"{name}/bias", DType.INT32, biases, steps, 0)

    def _constant(
        self,
        name: str,
        dtype: DType,
        data: NDArray[np.integer],
        scale: NDArray[np.floating],
        axis: int,
    ) -> str:
        zeros = np.zeros(scale.shape, np.int64)
        quantization = Quantization(scale.astype(np.float32), zeros, axis)
        self._tensors[name] = Tensor(name, dtype, data.shape, quantization, data)
        return name

    def _convolution(self, name: str, x: str, filters: int, kernel: int, stride: int) -> str:
        height, width, channels = self._shape(x)
        location, sources = self._place("CONV_2D", name)
        shape = (filters, kernel, kernel, channels)
        weights, bias = self._filters(name, x, shape, 0, kernel * kernel * channels, _SPREAD)
        rows, columns = -(-height // stride), -(-width // stride)
        output = self._activation(name, (None, rows, columns, filters), RELU_MAX / 255, -128)
        size, step = Size2D(kernel, kernel), Size2D(stride, stride)
        self._operations.append(
            Conv2D(
                location=location,
                sources=sources,
                input=x,
                weights=weights,
                bias=bias,
                output=output,
                stride=step,
                pads=same_pads(Size2D(height, width), size, step, ONE),
                activation=Activation.RELU,
            )
        )
        self._spread = _AFTER_RELU
        return output

    def _depthwise(self, name: str, x: str, stride: int) -> str:
        height, width, channels = self._shape(x)
        location, sources = self._place("DEPTHWISE_CONV_2D", name)
        weights, bias = self._filters(name, x, (1, 3, 3, channels), 3, 9, _DEPTHWISE_SPREAD)
        rows, columns = -(-height // stride), -(-width // stride)
        scale = _SIGMAS * _DEPTHWISE_SPREAD / 127
        output = self._activation(name, (None, rows, columns, channels), scale, 0)
        size, step = Size2D(3, 3), Size2D(stride, stride)
        self._operations.append(
            DepthwiseConv2D(
                location=location,
                sources=sources,
                input=x,
                weights=weights,
                bias=bias,
                output=output,
                stride=step,
                pads=same_pads(Size2D(height, width), size, step, ONE),
            )
        )
        self._spread = _DEPTHWISE_SPREAD
        return output

    def _average(self, name: str, x: str) -> str:
        _, _, channels = self._shape(x)
        location, sources = self._place("MEAN", name)
        # Means of many positions lie near the common mean.
        output = self._activation(name, (None, channels), RELU_MAX / 2 / 255, -128)
        self._operations.append(
            Mean(
                location=location,
                sources=sources,
                input=x,
                output=output,
                axes=(1, 2),
                keep_dims=False,
            )
        )
        return output

    def _dense(self, name: str, x: str) -> str:
        _, depth = self._tensors[x].shape
        location, sources = self._place("FULLY_CONNECTED", name)
        weights, bias = self._filters(name, x, (CLASSES, depth or 1), 0, depth or 1, _SPREAD)
        output = self._activation(name, (None, CLASSES), _SIGMAS * _SPREAD / 127, 0)
        self._operations.append(
            FullyConnected(
                location=location,
                sources=sources,
                input=x,
                weights=weights,
                bias=bias,
                output=output,
            )
        )
        return output


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a zoo network with random weights.")
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("alpha", type=float, help="factor of all filter counts, such as 0.5")
    parser.add_argument("side", type=int, help="height and width of the image, such as 224")
    parser.add_argument("out", type=Path, help="file to write, .tflite")
    given = parser.parse_args()
    graph = build(given.network, given.alpha, given.side)
    given.out.write_bytes(write_tflite(graph))
    print(f"{given.out}: {len(graph.operations)} operations")


if __name__ == "__main__":
    main()
