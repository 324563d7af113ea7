# SPDX-License-Identifier: Apache-2.0
"""A would-be layer: operations that fit one Akida layer, and what constraints look at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from akida_backend.constraint_rules import Check, numbers
from akida_backend.constraints import (
    LayerFacts,
    LayerType,
    Violation,
    graph_violation,
    padding_kind,
    rules_of,
)
from akida_backend.devices import Device
from akida_backend.graph import (
    Activation,
    AveragePool2D,
    Conv2D,
    DepthwiseConv2D,
    DType,
    FullyConnected,
    Graph,
    MaxPool2D,
    Mean,
    Operation,
    Pad,
    Quantize,
    Reshape,
    Size2D,
    Tensor,
    Transpose,
    TransposeConv2D,
)
from akida_backend.options import Options

LARGEST_EXPONENT = 700.0  # exp stays finite


class LutFunction(Enum):
    """Functions the published toolchain puts into look-up tables, and their parts."""

    SWISH = "x * sigmoid(x)"
    HARD_SWISH = "x * relu6(x + 3) / 6"
    LOGISTIC = "sigmoid(x)"
    LEAKY_RELU = "max(x, alpha * x)"


@dataclass(frozen=True, slots=True)
class LutActivation:
    """A look-up-table activation: ``gain * function(x)`` of the tensor `intermediate`."""

    function: LutFunction
    intermediate: str
    alpha: float = 0.0
    gain: float = 1.0

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        match self.function:
            case LutFunction.SWISH:
                y = x / (1.0 + np.exp(-np.maximum(x, -LARGEST_EXPONENT)))
            case LutFunction.HARD_SWISH:
                y = x * np.clip(x + 3.0, 0.0, 6.0) / 6.0
            case LutFunction.LOGISTIC:
                y = 1.0 / (1.0 + np.exp(-np.maximum(x, -LARGEST_EXPONENT)))
            case LutFunction.LEAKY_RELU:
                y = np.where(x >= 0.0, x, self.alpha * x)
        return self.gain * y


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Operations that would become one layer.

    Attributes:
        facts: What the constraints look at.
        operations: The operation that carries the layer first, then those that joined it.
        inputs: Activation tensors read.
        output: Activation tensor written.
        clamp: Real interval of the fused activations.
        pool: Max pooling that joined.
        average: Global average pooling that joined.
        lut: Look-up-table activation that joined.
    """

    facts: LayerFacts
    operations: tuple[Operation, ...]
    inputs: tuple[str, ...]
    output: str
    clamp: tuple[float, float] = (-math.inf, math.inf)
    pool: MaxPool2D | None = None
    average: AveragePool2D | Mean | None = None
    lut: LutActivation | None = None

    @property
    def base(self) -> Operation:
        return self.operations[0]

    @property
    def layer(self) -> LayerType:
        return self.facts.layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """Operations that only rename codes inside a segment: no layer, the same integers."""

    operations: tuple[Operation, ...]
    inputs: tuple[str, ...]
    output: str


Candidates = Candidate | Alias


@dataclass(frozen=True, slots=True)
class PlacementContext:
    """What matching looks at beside the operation.

    Attributes:
        graph: Legalised graph.
        device: Target.
        options: Policy and strictness.
        on_device: Tensors that a candidate found so far computes.
    """

    graph: Graph
    device: Device
    options: Options
    on_device: frozenset[str] | set[str] = field(default_factory=set)

    def tensor(self, name: str) -> Tensor:
        return self.graph.tensors[name]


Match = Candidates | tuple[Violation, ...]
Refused = Mapping[int, tuple[Violation, ...]]


def device_shape(tensor: Tensor) -> tuple[int, int, int]:
    """(height, width, channels) of a tensor as the device holds it; batch left out.

    Vectors are 1x1 maps; rank 3 (batch, steps, channels) is a map one row high.
    """
    sizes = [d for d in tensor.shape if d is not None]
    if len(sizes) == len(tensor.shape):
        sizes = sizes[1:]  # fixed batch
    height, width, channels = [1, 1, 1, *sizes][-3:]
    return height, width, channels


def device_size(tensor: Tensor) -> Size2D:
    height, width, _ = device_shape(tensor)
    return Size2D(height, width)


def activation_bits(tensor: Tensor) -> int:
    return 4 if tensor.dtype in (DType.INT4, DType.UINT4) else 8


def weight_bits(tensor: Tensor) -> int:
    return 4 if tensor.dtype is DType.INT4 else 8


def intersect(clamp: tuple[float, float], activation: Activation) -> tuple[float, float]:
    low, high = activation.real_range
    return max(clamp[0], low), min(clamp[1], high)


def activation_fact(clamp: tuple[float, float]) -> str:
    """How the constraints name a clamp: ``relu``, ``bounded_relu`` or ``none``."""
    low, high = clamp
    if low < 0.0:
        return "none"
    return "relu" if math.isinf(high) else "bounded_relu"


INPUT_CHANNELS = (1, 3)  # of the input layer; its rule says the same, this only picks the layer
CONVOLUTIONS = (LayerType.INPUT_CONV2D, LayerType.CONV2D, LayerType.DEPTHWISE_CONV2D)
AKIDA1_CONVOLUTIONS = (
    LayerType.INPUT_CONVOLUTIONAL,
    LayerType.CONVOLUTIONAL,
    LayerType.SEPARABLE_CONVOLUTIONAL,
)
POOLING_LAYERS = (*CONVOLUTIONS, *AKIDA1_CONVOLUTIONS)
LEVEL_BITS = 4  # of Akida 1.0 weights and activations, where the source has more


def widest_weights(layer: LayerType, device: Device) -> int:
    """Most bits the device's rules allow the weights of an Akida 1.0 layer."""
    for rule in rules_of(device):
        if (
            rule.what == "weights_bits"
            and rule.check is Check.ONE_OF
            and layer in (rule.layer, *rule.also)
            and not isinstance(rule.value, Mapping)
        ):
            return max(numbers(rule.value))
    return 8 if layer is LayerType.INPUT_CONVOLUTIONAL else LEVEL_BITS


def is_akida1(context: PlacementContext) -> bool:
    return context.device.generation == 1


def is_model_input(name: str, graph: Graph) -> bool:
    """Whether a tensor is an input of the model, perhaps moved, padded or re-coded."""
    while name not in graph.inputs:
        match graph.producers.get(name):
            case Reshape(input=before) | Transpose(input=before) | Pad(input=before):
                name = before
            case Quantize(input=before):
                name = before
            case _:
                return False
    return True


def wide_input(name: str, context: PlacementContext) -> tuple[Violation, ...]:
    """Why a layer of few input bits cannot read a tensor: it is an 8-bit input of the model.

    What the host computes may be coded anew in 4 bits at the boundary; the model's own input
    would lose too much.
    """
    tensor = context.tensor(name)
    if activation_bits(tensor) <= LEVEL_BITS or not is_model_input(name, context.graph):
        return ()
    found = f"'{name}' is an {activation_bits(tensor)}-bit input of the model"
    return (graph_violation("V1-GRAPH-8BIT-INPUT", found, context.device),)


def staircase_fact(clamp: tuple[float, float], output: Tensor) -> str:
    """How Akida 1.0 constraints name the activation of a layer that writes `output`.

    A quantized tensor ends above, and one without negative values ends at zero.
    """
    low, _ = output.real_range
    return "bounded_relu" if max(low, clamp[0]) >= 0.0 else "none"


def constant_parameters(
    op: Conv2D | DepthwiseConv2D | TransposeConv2D | FullyConnected, context: PlacementContext
) -> tuple[Violation, ...]:
    """Why weights or bias cannot be stored in a layer: they are computed, or have no scale."""
    violations = []
    for name in (op.weights, op.bias):
        if name is not None and context.tensor(name).data is None:
            found = f"'{name}' is computed while the model runs"
            violations.append(graph_violation("OP-DYNAMIC-WEIGHTS", found, context.device))
    weights = context.tensor(op.weights)
    if weights.quantization is None or weights.dtype.is_float:
        found = f"'{op.weights}' has no scale"
        violations.append(graph_violation("GRAPH-NO-QUANTIZATION", found, context.device))
    return tuple(violations)


def convolution_candidate(
    op: Conv2D | DepthwiseConv2D,
    context: PlacementContext,
    layer: LayerType,
    *,
    kernel: Size2D,
    filters: int,
    groups: int,
) -> Candidate:
    """A convolution before anything joined it."""
    graph = context.graph
    height, width, channels = device_shape(graph.tensors[op.input])
    size = Size2D(height, width)
    facts = LayerFacts(
        layer=layer,
        input_size=size,
        input_channels=channels,
        kernel_size=kernel,
        kernel_stride=op.stride,
        dilation=op.dilation,
        groups=groups,
        padding=padding_kind(op.pads, size, kernel, op.stride, op.dilation),
        pads=op.pads,
        filters=filters,
        pool_type="none",
        activation=activation_fact(op.activation.real_range),
        conv_output_size=device_size(graph.tensors[op.output]),
        input_bits=activation_bits(graph.tensors[op.input]),
        weights_bits=8
        if layer is LayerType.INPUT_CONV2D
        else weight_bits(context.tensor(op.weights)),
        output_bits=8,
    )
    if is_akida1(context):
        is_image = layer is LayerType.INPUT_CONVOLUTIONAL
        facts = replace(
            facts,
            activation=staircase_fact(op.activation.real_range, graph.tensors[op.output]),
            input_bits=8 if is_image else LEVEL_BITS,
            weights_bits=widest_weights(layer, context.device),
            output_bits=LEVEL_BITS,
        )
    return Candidate(
        facts=facts,
        operations=(op,),
        inputs=(op.input,),
        output=op.output,
        clamp=op.activation.real_range,
    )


def join_lut(
    candidate: Candidate,
    operations: tuple[Operation, ...],
    lut: LutActivation,
    context: PlacementContext,
) -> Match | None:
    """A layer whose accumulators go through a look-up table instead of a clamp."""
    if candidate.lut is not None or candidate.average is not None:
        return None
    if math.isfinite(candidate.clamp[0]) or math.isfinite(candidate.clamp[1]):
        return None
    if candidate.layer in (LayerType.ADD, LayerType.CONCATENATE) or is_akida1(context):
        found = f"{operations[-1].location.type} behind {candidate.layer.value}"
        return (graph_violation("OP-NOT-FUSED", found, context.device),)
    return replace(
        candidate,
        facts=replace(candidate.facts, activation="lut"),
        operations=(*candidate.operations, *operations),
        output=operations[-1].outputs[0],
        lut=lut,
    )
