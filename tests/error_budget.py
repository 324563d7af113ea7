# SPDX-License-Identifier: Apache-2.0
"""How far a device may stray from the source, from the steps of both: a bound per channel.

Nothing of the compiler is used. The bound follows from what the hardware can hold:

* a tensor is symmetric, 127 steps up to the largest real the source can store or clamp to; tensors
  that meet in an Add stand in power-of-two ratios, so a step is at most twice that;
* a bias has 8 significant bits (an error of 1/127 of itself at most), a multiplier too (1/256),
  a ReLU's bound 1/256;
* weights that do not fit int8 are stretched to it: half a new step each;
* look-up tables read 11 bits and hold 14;
* every rounding, here and in the source, is one step at most (TFLite's convolutions round twice,
  and a range that ends half a step early saturates).

Maps must not saturate on one side only, because the device's codes reach as far on both: `Calm`
builds graphs whose sums stay inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from akida_backend.execute import Executor
from akida_backend.graph import (
    Activation,
    Add,
    AveragePool2D,
    Concatenation,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    HardSwish,
    LeakyRelu,
    Logistic,
    MaxPool2D,
    Mean,
    Mul,
    Pad,
    Quantize,
    Relu,
    Reshape,
    ResizeNearest,
    Tensor,
    TransposeConv2D,
)
from akida_backend.plan import Plan
from akida_backend.reference import run_graph
from builders import GraphBuilder, Scaling, random_inputs

Floats = NDArray[np.float64]


class Calm(GraphBuilder):
    """Scales so wide that no sum of random inputs saturates."""

    def _scaling(self, scale: float) -> Scaling:
        return super()._scaling(4 * scale)


@dataclass(frozen=True)
class Error:
    """Real error per channel: never more than `worst`; about `typical` (root mean square)."""

    worst: Floats
    typical: Floats

    def plus(self, worst: float | Floats, typical: float | Floats | None = None) -> Error:
        more = worst / np.sqrt(3) if typical is None else typical
        return Error(self.worst + worst, np.hypot(self.typical, more))


def error_budget(graph: Graph, *, exact_input: bool = False) -> dict[str, Error]:
    """Real error of every activation tensor.

    Args:
        graph: As written.
        exact_input: The inputs that will be fed lie on the device's grid.
    """
    budget = _Budget(graph)
    for name in graph.inputs:
        half = 0.0 if exact_input else budget.step(name) / 2
        channels = graph.tensors[name].shape[-1] or 1
        budget.errors[name] = Error(np.zeros(channels), np.zeros(channels)).plus(
            np.full(channels, half)
        )
    for op in graph.operations:
        match op:
            case Conv2D() | DepthwiseConv2D() | TransposeConv2D() | FullyConnected():
                budget.weighted(op)
            case Add() if graph.tensors[op.a].is_constant or graph.tensors[op.b].is_constant:
                budget.summand(op)
            case Add():
                a, b = budget.errors[op.a], budget.errors[op.b]
                error = a.plus(b.worst, b.typical)
                budget.written(op.output, error, op.activation)
            case Mul() if isinstance(graph.producers.get(op.a), Logistic):
                budget.lut(op.b, op.output, 1.1)
            case Mul() if isinstance(graph.producers.get(op.b), Logistic):
                budget.lut(op.a, op.output, 1.1)
            case Mul():
                budget.factor(op)
            case HardSwish():
                budget.lut(op.input, op.output, 1.5)
            case Logistic():
                budget.lut(op.input, op.output, 0.25)
            case LeakyRelu():
                budget.lut(op.input, op.output, max(1.0, abs(op.alpha)))
            case Concatenation():
                parts = [budget.errors[name] for name in op.operands]
                joined = Error(
                    np.concatenate([part.worst for part in parts]),
                    np.concatenate([part.typical for part in parts]),
                )
                budget.errors[op.output] = joined.plus(budget.step(op.output))
            case MaxPool2D() | AveragePool2D() | Mean() | Relu() | Quantize() | ResizeNearest():
                budget.written(op.output, budget.errors[op.input], Activation.NONE)
            case Reshape():
                error = budget.errors[op.input]
                repeats = (graph.tensors[op.output].shape[-1] or 1) // len(error.worst)
                budget.errors[op.output] = Error(
                    np.tile(error.worst, repeats), np.tile(error.typical, repeats)
                )
            case Pad():
                before, after = op.amounts[-1]
                error = budget.errors[op.input]
                budget.errors[op.output] = Error(
                    np.pad(error.worst, (before, after)), np.pad(error.typical, (before, after))
                ).plus(budget.step(op.output))
            case _:
                raise NotImplementedError(type(op).__name__)
    return budget.errors


def allowed_steps(graph: Graph, name: str, *, exact_input: bool = False) -> tuple[Floats, Floats]:
    """(worst, typical) error of an output per channel, in its own steps."""
    error = error_budget(graph, exact_input=exact_input)[name]
    step = _step(graph.tensors[name])
    # The host rounds once more.
    return error.worst / step + 0.5, error.typical / step + 0.3


class _Budget:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.errors: dict[str, Error] = {}
        self._peaks = {
            name: _peak(graph, name) for name, t in graph.tensors.items() if not t.is_constant
        }
        self._tied = {
            name
            for op in graph.operations
            if isinstance(op, Add)
            for name in (op.a, op.b, op.output)
        }
        for op in graph.operations:  # joined maps share the widest step
            if isinstance(op, Concatenation):
                widest = max(self._peaks[name] for name in (*op.operands, op.output))
                self._peaks.update(dict.fromkeys((*op.operands, op.output), widest))

    def step(self, name: str) -> float:
        """Largest step the device may need for a tensor."""
        # A tie may be that of a tensor's reader, once fused operations are one layer.
        tied = name in self._tied or any(
            out in self._tied for op in self.graph.consumers[name] for out in op.outputs
        )
        return self._peaks[name] / 127 * (2 if tied else 1)

    def written(self, name: str, error: Error, activation: Activation) -> None:
        """An output rounded by device and source; the device's multiplier has 8 bits."""
        peak = self._peaks[name]
        relative = 2 if activation in (Activation.RELU, Activation.RELU6) else 1
        self.errors[name] = (
            error.plus(relative * peak / 256, peak / 1000)
            .plus(self.step(name))
            .plus(_step(self.graph.tensors[name]), _step(self.graph.tensors[name]) / 2)
        )

    def weighted(self, op: Conv2D | DepthwiseConv2D | TransposeConv2D | FullyConnected) -> None:
        graph = self.graph
        source, tensor = graph.tensors[op.input], graph.tensors[op.weights]
        assert tensor.quantization is not None
        depthwise = isinstance(op, DepthwiseConv2D) or (
            isinstance(op, TransposeConv2D) and op.depthwise
        )
        stored = graph.constant(op.weights).astype(np.float64)
        if depthwise:
            stored = np.moveaxis(stored, -1, 0)  # O1HW
        filters = len(stored)
        scale = np.broadcast_to(tensor.quantization.scale.astype(np.float64), (filters,))
        zero = np.resize(tensor.quantization.zero_point, filters)
        centred = stored - zero.reshape((-1,) + (1,) * (stored.ndim - 1))
        real = centred * scale.reshape((-1,) + (1,) * (stored.ndim - 1))
        error = self.errors[op.input]
        channels = len(error.worst)
        if depthwise:
            per_channel = np.abs(real).reshape(filters, -1).sum(axis=1, keepdims=True)
            squares = (real**2).reshape(filters, -1).sum(axis=1, keepdims=True)
            reads = np.arange(filters) // (filters // channels)
            worst_in = error.worst[reads][:, None]
            typical_in = error.typical[reads][:, None]
        else:
            depth = real.shape[-1]
            per_channel = np.abs(real).reshape(filters, -1, depth).sum(axis=1)
            squares = (real**2).reshape(filters, -1, depth).sum(axis=1)
            worst_in = np.resize(error.worst, depth)
            typical_in = np.resize(error.typical, depth)
        carried = (per_channel * worst_in).sum(axis=1)
        carried_typical = np.sqrt((squares * typical_in**2).sum(axis=1))
        # The bias: its own 8 bits, with a zero point folded in, and a correction for what the
        # layer in front left, which does not reach the taps outside the map.
        bias = np.zeros(filters)
        if op.bias is not None:
            bias = graph.constant(op.bias).astype(np.float64) * _step(source) * scale
        low, high = source.real_range
        folded = np.abs(real.reshape(filters, -1).sum(axis=1)) * (high - low)
        step_in = max(self.step(op.input), _step(source))
        rounded = (np.abs(bias) + folded + carried) / 127 + 0.5 * step_in * scale
        # Weights outside int8 are stretched over it.
        reach = np.abs(centred).reshape(filters, -1)
        limit = 7 if str(tensor.dtype.value).endswith("int4") else 127
        stretched = np.where(reach.max(axis=1) > limit, reach.max(axis=1) / limit, 0.0)
        half = 0.5 * stretched * scale * max(-low, high)
        taps = reach.shape[1]
        total = Error(2 * carried, carried_typical)
        total = total.plus(rounded, rounded / 2).plus(half * taps, half * np.sqrt(taps))
        self.written(op.output, total, op.activation)

    def lut(self, x: str, output: str, slope: float) -> None:
        span = self._peaks[x]
        error = self.errors[x].plus(span * (1 / 1023 + 1 / 256), span / 1000)
        self.written(
            output,
            Error(slope * error.worst, slope * error.typical).plus(self._peaks[output] / 8191),
            Activation.NONE,
        )

    def factor(self, op: Mul) -> None:
        x, constant = self._operands(op)
        quantization = constant.quantization
        assert quantization is not None
        assert constant.data is not None
        reals = np.abs(constant.data.astype(np.float64) - quantization.single_zero_point)
        reals = np.resize(reals * quantization.single_scale, len(self.errors[x].worst))
        error = self.errors[x]
        stretch = 2 * quantization.single_scale * self._peaks[x]  # beyond int8: half a new step
        scaled = Error(2 * reals * error.worst, reals * error.typical).plus(stretch)
        self.written(op.output, scaled, op.activation)

    def summand(self, op: Add) -> None:
        x, constant = self._operands(op)
        low, high = constant.real_range
        bias = max(-low, high) / 127 + self.step(x) + _step(self.graph.tensors[x]) / 2
        error = self.errors[x]
        self.written(op.output, Error(2 * error.worst, error.typical).plus(bias), op.activation)

    def _operands(self, op: Mul | Add) -> tuple[str, Tensor]:
        a, b = (self.graph.tensors[name] for name in (op.a, op.b))
        return (op.b, a) if a.is_constant else (op.a, b)


def _step(tensor: Tensor) -> float:
    assert tensor.quantization is not None
    return tensor.quantization.single_scale


def _peak(graph: Graph, name: str) -> float:
    """Largest magnitude the source stores or clamps to."""
    tensor = graph.tensors[name]
    if tensor.quantization is None:
        return 0.0
    low, high = tensor.real_range
    op = graph.producers.get(name)
    activation = getattr(op, "activation", Activation.NONE)
    bound = getattr(op, "bound", activation)
    assert isinstance(bound, Activation)
    least, most = bound.real_range
    return max(abs(max(low, least)), abs(min(high, most)))


def assert_within_budget(
    graph: Graph,
    plan: Plan,
    *,
    exact_input: bool = False,
    typical: bool = False,
    expected_range: float = np.inf,
    samples: int = 4,
    seed: int = 0,
) -> None:
    """The device's outputs stay within what rounding explains, in every channel.

    Args:
        graph: As written.
        plan: It, compiled.
        exact_input: The inputs lie on the device's grid.
        typical: Also the root mean square stays within what independent roundings give; for
            graphs whose channels have many values.
        expected_range: Largest magnitude the device is made for where that is less than the
            source can store: what lies beyond saturates, and counts as that much.
        samples: Random inputs.
        seed: Of the inputs.
    """
    feeds = random_inputs(graph, samples, seed)
    source, device = run_graph(graph, feeds), Executor(plan).run(feeds).values
    for name in graph.outputs:
        worst, expected = allowed_steps(graph, name, exact_input=exact_input)
        quantization = graph.tensors[name].quantization
        assert quantization is not None
        reach = expected_range / quantization.single_scale
        both = (source[name].astype(np.float64), device[name].astype(np.float64))
        old, new = (np.clip(x - quantization.single_zero_point, -reach, reach) for x in both)
        difference = new - old
        difference = difference.reshape(-1, difference.shape[-1])
        assert (np.abs(difference).max(axis=0) <= worst).all(), name
        if typical:
            assert (np.sqrt((difference**2).mean(axis=0)) <= expected).all(), name
