# SPDX-License-Identifier: Apache-2.0
"""Train, quantize and write the network that `akida-backend demo` runs without arguments.

    python tools/make_demo.py            # writes akida_backend/demo/model.tflite and images.npz

Data: the 1797 8x8 images of scikit-learn's `load_digits` (UCI ML hand-written digits, CC BY 4.0);
450 of them are kept out of training and calibration and become images.npz. Training needs PyTorch
(`pip install torch==2.13.0`), which nothing else of this project does. Seeds are fixed and one
thread computes, so the same machine gives the same bytes.

Quantization is TFLite's post-training scheme: weights int8, symmetric, one scale per filter; biases
int32; activations int8, asymmetric, ranges from the training images.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypedDict

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from akida_backend.graph import (
    ONE,
    Activation,
    Add,
    Arithmetic,
    AveragePool2D,
    Conv2D,
    DepthwiseConv2D,
    DType,
    FullyConnected,
    Graph,
    Location,
    MaxPool2D,
    Operation,
    Quantization,
    Reshape,
    Size2D,
    Softmax,
    Tensor,
)
from akida_backend.tflite_writer import same_pads, write_tflite

DEMO_FOLDER: Final = Path(__file__).resolve().parents[1] / "akida_backend" / "demo"
SEED: Final = 7
EPOCHS: Final = 80
BATCH: Final = 64
TEST_IMAGES: Final = 450
CLASSES: Final = 10

Reals = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Convolution:
    name: str
    source: str
    filters: int
    kernel: int = 3
    stride: int = 1
    relu: bool = True
    depthwise: bool = False


@dataclass(frozen=True, slots=True)
class MaxPool:
    name: str
    source: str
    window: int
    stride: int


@dataclass(frozen=True, slots=True)
class Residual:
    name: str
    source: str
    other: str


@dataclass(frozen=True, slots=True)
class GlobalAverage:
    name: str
    source: str


@dataclass(frozen=True, slots=True)
class Dense:
    name: str
    source: str
    units: int


Layer = Convolution | MaxPool | Residual | GlobalAverage | Dense

INPUT: Final = "image"
# A stem, a depthwise-separable pair, ResNet's 3x3 max pool (the device pools 2x2 only), a residual
# block, a strided convolution and a classifier.
NETWORK: Final[tuple[Layer, ...]] = (
    Convolution("stem", INPUT, 16),
    Convolution("depthwise", "stem", 16, depthwise=True),
    Convolution("pointwise", "depthwise", 32, kernel=1),
    MaxPool("pool", "pointwise", window=3, stride=2),
    Convolution("block_a", "pool", 32),
    Convolution("block_b", "block_a", 32, relu=False),
    Residual("block", "block_a", "block_b"),
    Convolution("reduce", "block", 48, stride=2),
    GlobalAverage("average", "reduce"),
    Dense("logits", "average", CLASSES),
)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Normalised images (N, 8, 8) and labels (N,)."""

    images: Reals
    labels: NDArray[np.int64]


def read_digits() -> tuple[Split, Split]:
    """Training and test split, both normalised by the training split's mean and deviation."""
    digits = load_digits()
    train, test = train_test_split(
        np.arange(len(digits.target)),
        test_size=TEST_IMAGES,
        stratify=digits.target,
        random_state=SEED,
    )
    mean, deviation = digits.images[train].mean(), digits.images[train].std()
    images = ((digits.images - mean) / deviation).astype(np.float32)
    labels = digits.target.astype(np.int64)
    return Split(images[train], labels[train]), Split(images[test], labels[test])


# Training


def import_torch() -> Any:  # noqa: ANN401
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise SystemExit("training needs PyTorch: pip install torch==2.13.0") from error


def initial_parameters(torch: Any) -> dict[str, Any]:  # noqa: ANN401
    """Weights (filters, channels, kernel, kernel) as PyTorch orders them, and biases."""
    channels = {INPUT: 1}
    parameters: dict[str, Any] = {}
    for layer in NETWORK:
        match layer:
            case Convolution():
                inputs = 1 if layer.depthwise else channels[layer.source]
                shape: tuple[int, ...] = (layer.filters, inputs, layer.kernel, layer.kernel)
            case Dense():
                shape = (layer.units, channels[layer.source])
            case MaxPool() | Residual() | GlobalAverage():
                channels[layer.name] = channels[layer.source]
                continue
        outputs, *fan_in = shape
        channels[layer.name] = outputs
        weights = torch.randn(shape) * math.sqrt(2 / math.prod(fan_in))
        parameters[f"{layer.name}_weights"] = weights.requires_grad_()
        parameters[f"{layer.name}_bias"] = torch.zeros(outputs).requires_grad_()
    return parameters


def forward(torch: Any, parameters: Mapping[str, Any], images: Any) -> dict[str, Any]:  # noqa: ANN401
    """Every layer's output, maps as NCHW."""
    functional = torch.nn.functional
    values = {INPUT: images[:, None]}

    def bordered(x: Any, window: int, stride: int, fill: float) -> Any:  # noqa: ANN401
        height, width = x.shape[2:]
        square, step = Size2D(window, window), Size2D(stride, stride)
        pads = same_pads(Size2D(height, width), square, step, ONE)
        return functional.pad(x, (pads.left, pads.right, pads.top, pads.bottom), value=fill)

    for layer in NETWORK:
        x = values[layer.source]
        match layer:
            case Convolution():
                y = functional.conv2d(
                    bordered(x, layer.kernel, layer.stride, 0.0),
                    parameters[f"{layer.name}_weights"],
                    parameters[f"{layer.name}_bias"],
                    stride=layer.stride,
                    groups=layer.filters if layer.depthwise else 1,
                )
                values[layer.name] = torch.relu(y) if layer.relu else y
            case MaxPool():
                y = bordered(x, layer.window, layer.stride, -math.inf)
                values[layer.name] = functional.max_pool2d(y, layer.window, layer.stride)
            case Residual():
                values[layer.name] = x + values[layer.other]
            case GlobalAverage():
                values[layer.name] = x.mean(dim=(2, 3))
            case Dense():
                weights, bias = (parameters[f"{layer.name}_{part}"] for part in ("weights", "bias"))
                values[layer.name] = functional.linear(x, weights, bias)
    return values


def train(torch: Any, split: Split) -> dict[str, Any]:  # noqa: ANN401
    """Parameters after Adam with a cosine rate on images shifted by up to one pixel."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    random = np.random.default_rng(SEED)
    parameters = initial_parameters(torch)
    optimiser = torch.optim.Adam(parameters.values(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    background = split.images.min()
    framed = np.pad(split.images, ((0, 0), (1, 1), (1, 1)), constant_values=background)
    for _ in range(EPOCHS):
        for picked in np.array_split(random.permutation(len(split.labels)), 21):
            row, column = random.integers(0, 3, 2)
            images = torch.from_numpy(framed[picked, row : row + 8, column : column + 8].copy())
            logits = forward(torch, parameters, images)["logits"]
            loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(split.labels[picked]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    return parameters


# Quantization


def activation_quantization(low: float, high: float) -> Quantization:
    """int8 codes over [low, high] stretched to hold zero, which gets a code of its own."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / 255))
    return Quantization.per_tensor(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


class _Place(TypedDict):
    location: Location
    sources: tuple[int, ...]


class QuantizedNetwork:
    """NETWORK as a Graph with int8 parameters.

    Args:
        parameters: As `initial_parameters` names and orders them, trained.
        ranges: Smallest and largest value of each layer's output and of the input.
    """

    def __init__(
        self, parameters: Mapping[str, Reals], ranges: Mapping[str, tuple[float, float]]
    ) -> None:
        self._parameters = parameters
        self._ranges = ranges
        self._operations: list[Operation] = []
        quantization = activation_quantization(*ranges[INPUT])
        self._tensors = {INPUT: Tensor(INPUT, DType.INT8, (None, 8, 8, 1), quantization)}

    def graph(self) -> Graph:
        for layer in NETWORK:
            self._layer(layer)
        probabilities = Quantization.per_tensor(1 / 256, -128)
        last = self._activation("probabilities", (None, CLASSES), probabilities)
        self._operations.append(
            Softmax(**self._place("SOFTMAX", last), input="logits", output=last, beta=1.0)
        )
        return Graph(
            name="demo",
            format="tflite",
            sha256="",
            arithmetic=Arithmetic.TFLITE,
            tensors=self._tensors,
            operations=tuple(self._operations),
            inputs=(INPUT,),
            outputs=(last,),
        )

    def _layer(self, layer: Layer) -> None:
        match layer:
            case Convolution():
                operation = self._convolution(layer)
            case MaxPool():
                operation = self._max_pool(layer)
            case Residual():
                operation = self._residual(layer)
            case GlobalAverage():
                operation = self._average(layer)
            case Dense():
                operation = self._dense(layer)
        self._operations.append(operation)

    def _convolution(self, layer: Convolution) -> Operation:
        # PyTorch: (filters, channels, height, width); TFLite: OHWI, depthwise 1HWO.
        order = (1, 2, 3, 0) if layer.depthwise else (0, 2, 3, 1)
        weights, bias = self._constants(layer.name, layer.source, order, axis=order.index(0))
        size = self._size(layer.source)
        kernel, stride = Size2D(layer.kernel, layer.kernel), Size2D(layer.stride, layer.stride)
        output = self._map(layer.name, size, stride, layer.filters)
        code = "DEPTHWISE_CONV_2D" if layer.depthwise else "CONV_2D"
        kind = DepthwiseConv2D if layer.depthwise else Conv2D
        return kind(
            **self._place(code, output),
            input=layer.source,
            weights=weights,
            bias=bias,
            output=output,
            stride=stride,
            pads=same_pads(size, kernel, stride, ONE),
            activation=Activation.RELU if layer.relu else Activation.NONE,
        )

    def _max_pool(self, layer: MaxPool) -> Operation:
        source = self._tensors[layer.source]
        *_, channels = source.shape
        size = self._size(layer.source)
        window, stride = Size2D(layer.window, layer.window), Size2D(layer.stride, layer.stride)
        output = self._map(layer.name, size, stride, channels or 0, source.quantization)
        return MaxPool2D(
            **self._place("MAX_POOL_2D", output),
            input=layer.source,
            output=output,
            window=window,
            stride=stride,
            pads=same_pads(size, window, stride, ONE),
        )

    def _residual(self, layer: Residual) -> Operation:
        output = self._activation(layer.name, self._tensors[layer.source].shape)
        return Add(**self._place("ADD", output), a=layer.source, b=layer.other, output=output)

    def _average(self, layer: GlobalAverage) -> Operation:
        """The pool, and the flattening of its 1x1 map that TensorFlow exports behind it."""
        source = self._tensors[layer.source]
        *_, channels = source.shape
        size = self._size(layer.source)
        pooled = self._activation(f"{layer.name}_map", (None, 1, 1, channels), source.quantization)
        self._operations.append(
            AveragePool2D(
                **self._place("AVERAGE_POOL_2D", pooled),
                input=layer.source,
                output=pooled,
                window=size,
                stride=size,
            )
        )
        output = self._activation(layer.name, (None, channels), source.quantization)
        return Reshape(**self._place("RESHAPE", output), input=pooled, output=output)

    def _dense(self, layer: Dense) -> Operation:
        weights, bias = self._constants(layer.name, layer.source, (0, 1), axis=None)
        output = self._activation(layer.name, (None, layer.units))
        return FullyConnected(
            **self._place("FULLY_CONNECTED", output),
            input=layer.source,
            weights=weights,
            bias=bias,
            output=output,
        )

    def _constants(
        self, name: str, source: str, order: Sequence[int], axis: int | None
    ) -> tuple[str, str]:
        """int8 weights in the given axis order and int32 bias; `axis` holds the filters."""
        weights = self._parameters[f"{name}_weights"].transpose(order).astype(np.float64)
        others = tuple(i for i in range(weights.ndim) if i != axis) if axis is not None else None
        largest = np.atleast_1d(np.abs(weights).max(axis=others))
        scale = np.maximum(largest / 127, 1e-9).astype(np.float32)
        spread = [-1 if i == axis else 1 for i in range(weights.ndim)]
        codes = np.rint(weights / scale.reshape(spread)).clip(-127, 127).astype(np.int8)
        zeros = np.zeros(scale.size, np.int64)
        quantization = Quantization(scale, zeros, axis)
        weights_name = f"{name}_weights"
        self._tensors[weights_name] = Tensor(
            weights_name, DType.INT8, codes.shape, quantization, codes
        )

        incoming = self._tensors[source].quantization
        assert incoming is not None
        bias_scale = np.float32(incoming.single_scale) * scale
        bias = np.rint(self._parameters[f"{name}_bias"] / bias_scale.astype(np.float64))
        bias_name = f"{name}_bias"
        self._tensors[bias_name] = Tensor(
            bias_name,
            DType.INT32,
            bias.shape,
            Quantization(bias_scale, zeros, None if axis is None else 0),
            bias.astype(np.int32),
        )
        return weights_name, bias_name

    def _activation(
        self, name: str, shape: tuple[int | None, ...], quantization: Quantization | None = None
    ) -> str:
        quantization = quantization or activation_quantization(*self._ranges[name])
        self._tensors[name] = Tensor(name, DType.INT8, shape, quantization)
        return name

    def _map(
        self,
        name: str,
        size: Size2D,
        stride: Size2D,
        channels: int,
        quantization: Quantization | None = None,
    ) -> str:
        height, width = -(-size.height // stride.height), -(-size.width // stride.width)
        return self._activation(name, (None, height, width, channels), quantization)

    def _size(self, name: str) -> Size2D:
        _, height, width, _ = self._tensors[name].shape
        return Size2D(height or 0, width or 0)

    def _place(self, code: str, output: str) -> _Place:
        index = len(self._operations)
        return {"location": Location("demo", index, code, output), "sources": (index,)}


def quantized_images(images: Reals, quantization: Quantization) -> NDArray[np.int8]:
    """The codes a user of the model feeds, NHWC."""
    scaled = np.rint(images.astype(np.float64) / quantization.single_scale)
    codes = (scaled + quantization.single_zero_point).clip(-128, 127).astype(np.int8)
    return codes[..., np.newaxis]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the embedded default network and images.")
    parser.add_argument("--output", type=Path, default=DEMO_FOLDER, help="folder to write to")
    folder: Path = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)

    torch = import_torch()
    training, test = read_digits()
    parameters = train(torch, training)
    with torch.no_grad():
        seen = forward(torch, parameters, torch.from_numpy(training.images))
        logits = forward(torch, parameters, torch.from_numpy(test.images))["logits"]
    correct = logits.argmax(1).numpy() == test.labels
    print(f"float accuracy on {len(correct)} test images: {100 * correct.mean():.2f} %")

    graph = QuantizedNetwork(
        {name: value.detach().numpy() for name, value in parameters.items()},
        {name: (float(value.min()), float(value.max())) for name, value in seen.items()},
    ).graph()
    quantization = graph.tensors[INPUT].quantization
    assert quantization is not None
    model = folder / "model.tflite"
    model.write_bytes(write_tflite(graph))
    images = folder / "images.npz"
    np.savez_compressed(
        images, x=quantized_images(test.images, quantization), y=test.labels.astype(np.uint8)
    )
    print(f"input scale {quantization.single_scale}, zero point {quantization.single_zero_point}")
    for path in (model, images):
        content = path.read_bytes()
        print(f"{path}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
