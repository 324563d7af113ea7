# SPDX-License-Identifier: Apache-2.0
"""What a source already has in the few bits of Akida 1.0, kept integer by integer.

A staircase of the device has an integer threshold and one step; a source rounds accumulators by
its own rule. Where the two cannot be equal at all of their steps, a step lies one potential off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.akida1_arithmetic import MAX_STEP, MAX_STEP_SHIFT
from akida_backend.akida_arithmetic import Integers
from akida_backend.arithmetic import product_factor, requantize, stored
from akida_backend.candidate import LEVEL_BITS, Candidate
from akida_backend.graph import (
    Add,
    Arithmetic,
    AveragePool2D,
    Conv2D,
    DepthwiseConv2D,
    DType,
    FullyConnected,
    Graph,
    MaxPool2D,
    Mean,
    Minimum,
    Relu,
    Reshape,
    Tensor,
    Transpose,
)
from akida_backend.lowering import filter_bank
from akida_backend.ops.fully_connected import requantize_dense
from akida_backend.parameters import FloatArray
from akida_backend.program import StepActivation
from akida_backend.reference import run_operations

Weighted = Conv2D | DepthwiseConv2D | FullyConnected

LEVELS: Final = (1 << LEVEL_BITS) - 1
SLACK: Final = 0.25  # of one code, for scales in float32
ELEMENTWISE: Final = (Relu, Minimum)


def real_reach(name: str, graph: Graph) -> tuple[float, float]:
    """Ends of what a tensor can hold, by its range and the activations it went through."""
    low, high = graph.tensors[name].real_range
    match graph.producers.get(name):
        case Conv2D(activation=bound) | DepthwiseConv2D(activation=bound):
            first, last = bound.real_range
        case Add(activation=bound) | FullyConnected(activation=bound) | Relu(bound=bound):
            first, last = bound.real_range
        case Minimum(a=a, b=b):
            (first, last), (other, least) = real_reach(a, graph), real_reach(b, graph)
            first, last = min(first, other), min(last, least)
        case MaxPool2D(input=before) | AveragePool2D(input=before) | Mean(input=before):
            first, last = real_reach(before, graph)
        case Reshape(input=before) | Transpose(input=before):
            first, last = real_reach(before, graph)
        case None if graph.tensors[name].data is not None:
            ends = _constant_reals(graph.tensors[name])
            first, last = float(ends.min()), float(ends.max())
        case _:
            return low, high
    return max(low, first), min(high, last)


def _constant_reals(tensor: Tensor) -> FloatArray:
    assert tensor.data is not None
    assert tensor.quantization is not None
    real: FloatArray = tensor.data.astype(np.float64) - tensor.quantization.single_zero_point
    return real * tensor.quantization.single_scale


def level_scale(name: str, graph: Graph) -> float | None:
    """Real height of one code of a tensor that holds no more than 16 unsigned ones."""
    quantization = graph.tensors[name].quantization
    if quantization is None or not quantization.is_per_tensor:
        return None
    scale = quantization.single_scale
    low, high = real_reach(name, graph)
    return scale if low >= 0.0 and high / scale <= LEVELS + SLACK else None


def own_integers(op: Weighted, graph: Graph, bits: int) -> FloatArray | None:
    """Weight scale per filter of a source whose weights fit a signed number of bits as they are."""
    bank = filter_bank(op, graph)
    fits = bank.weights.min() >= -(1 << (bits - 1)) and bank.weights.max() < 1 << (bits - 1)
    return bank.scale if fits else None


def own_levels(candidate: Candidate, graph: Graph) -> float | None:
    """Real height of one output code of a layer whose source gives levels step by step."""
    weighted = [op for op in candidate.operations if isinstance(op, Weighted)]
    after = candidate.operations[1:]
    if len(weighted) != 1 or not all(isinstance(op, MaxPool2D | Relu | Minimum) for op in after):
        return None
    return level_scale(candidate.output, graph)


@dataclass(frozen=True, slots=True, eq=False)
class Staircase:
    """Threshold and step per filter.

    Attributes:
        threshold: For potentials of stored input codes.
        activation: Steps.
        misplaced: Steps, of all filters within reach, that lie one or more potentials from the
            source's.
        reached: Steps within reach.
    """

    threshold: Integers
    activation: StepActivation
    misplaced: int
    reached: int


def fitted_staircase(
    candidate: Candidate, graph: Graph, low: Integers, high: Integers, shift: Integers
) -> Staircase:
    """The staircase nearest to the source's own rounding.

    Args:
        candidate: A layer for which `own_levels` holds.
        graph: Of the candidate.
        low: Smallest potential per filter.
        high: Largest one.
        shift: What the zero point of stored input codes adds to every potential.
    """
    # Of potentials clipped so, all of a filter's steps in reach and one on either side count.
    wanted = np.clip(_source_steps(candidate, graph, low - shift, high - shift) + shift, low, None)
    wanted = np.minimum(wanted, high + 1)
    factor = np.broadcast_to(_factor(candidate.base, graph), low.shape)
    nominal = 1.0 / factor
    steps = [nominal, *(_rises(wanted) / np.arange(1, LEVELS)[:, None])]
    best = _fixed(nominal)
    threshold = wanted[0] - 1
    least = np.full(low.shape, LEVELS + 1)
    middle = np.rint(nominal / 2).astype(np.int64) - _bias(candidate.base, graph) + shift
    for start in (middle, middle - 1, wanted[0] - 1):
        for step in steps:
            trial = _fixed(np.clip(step, 1e-6, MAX_STEP - 1))
            found = np.minimum(np.clip(_device_steps(start, trial), low, None), high + 1)
            off = (found != wanted).sum(axis=0)
            better = off < least
            least = np.where(better, off, least)
            threshold = np.where(better, start, threshold)
            best = StepActivation(
                np.where(better, trial.step, best.step),
                np.where(better, trial.step_shift, best.step_shift),
            )
    reached = ((wanted > low) & (wanted <= high)).sum()
    return Staircase(threshold, best, int(least.sum()), int(reached))


def _rises(wanted: Integers) -> FloatArray:
    """Steps that put one of the later codes right where the source has it."""
    rises: FloatArray = (wanted[1:] - wanted[0]).astype(np.float64)
    return rises


def _fixed(step: FloatArray) -> StepActivation:
    """Steps in fixed point, rounded up so that a whole multiple does not fall below itself."""
    room = np.floor(np.log2(MAX_STEP / (step + 1e-6)))
    shift = np.clip(room, 0, MAX_STEP_SHIFT - 4)
    value = np.clip(np.ceil(step * 2.0**shift), 1, MAX_STEP)
    return StepActivation(value.astype(np.uint32), shift.astype(np.uint8))


def _device_steps(threshold: Integers, activation: StepActivation) -> Integers:
    """Smallest potential that gives each code from 1 on: (codes, filters)."""
    before = np.arange(LEVELS)[:, None] * activation.step.astype(np.int64)
    first: Integers = threshold + (before >> activation.step_shift.astype(np.int64)) + 1
    return first


def _source_steps(candidate: Candidate, graph: Graph, low: Integers, high: Integers) -> Integers:
    """Smallest centred potential for which the source gives each code from 1 on."""
    wanted = np.arange(1, LEVELS + 1)[:, None]
    below = np.broadcast_to(low - 1, (LEVELS, len(low))).copy()
    above = np.broadcast_to(high + 1, (LEVELS, len(high))).copy()
    while (above - below > 1).any():
        middle = (below + above) >> 1
        reached = _source_levels(candidate, graph, middle) >= wanted
        above = np.where(reached, middle, above)
        below = np.where(reached, below, middle)
    return above


def _source_levels(candidate: Candidate, graph: Graph, potentials: Integers) -> Integers:
    """Codes that the source makes of sums without their bias, filters on the last axis."""
    op = candidate.base
    assert isinstance(op, Weighted)
    sums = potentials + _bias(op, graph)
    output = graph.tensors[op.output]
    rounded = requantize_dense if isinstance(op, FullyConnected) else requantize
    whole = rounded(sums, _factor(op, graph), graph.arithmetic)
    values = {op.output: stored(whole, output, op.activation, graph.arithmetic)}
    name = op.output
    for member in candidate.operations[1:]:
        if isinstance(member, ELEMENTWISE):
            (written,) = member.outputs
            run_operations([member], graph, values)
            name = written
        else:  # max pooling picks a value
            (written,) = member.outputs
            values[written], name = values[name], written
    quantization = graph.tensors[name].quantization
    assert quantization is not None
    return values[name].astype(np.int64) - quantization.single_zero_point


def _factor(op: object, graph: Graph) -> FloatArray:
    assert isinstance(op, Weighted)
    x, weights, output = (graph.tensors[name] for name in (op.input, op.weights, op.output))
    single = x.dtype is DType.UINT8 or graph.arithmetic is Arithmetic.ONNX
    if isinstance(op, FullyConnected):
        single = graph.arithmetic is not Arithmetic.TFLITE
    return product_factor(x, weights, output, np.float32 if single else np.float64)


def _bias(op: object, graph: Graph) -> NDArray[np.int64]:
    assert isinstance(op, Weighted)
    if op.bias is None:
        return np.zeros(1, np.int64)
    return graph.constant(op.bias).astype(np.int64)


def step_notes(staircases: Sequence[Staircase]) -> list[str]:
    """How far the device's rounding can be made the source's."""
    reached = sum(each.reached for each in staircases)
    if not reached:
        return []
    misplaced = sum(each.misplaced for each in staircases)
    return [
        f"Weights and activations of few bits kept as they are; of {reached:,} activation steps "
        f"{misplaced:,} lie a potential off the source's rounding, because thresholds are integers."
    ]
