# SPDX-License-Identifier: Apache-2.0
"""What a source already has in the few bits of Akida 1.0, kept integer by integer.

A staircase of the device has an integer threshold and one step; a source rounds accumulators by
its own rule. Where the two cannot be equal at all of their steps, a step lies one potential off.

Between the halves of a separable layer, and in front of a global average, the device has bare
potentials where a source has a tensor. That is the same only if the tensor holds every sum within
reach as it is, or the same multiple of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from akida_backend.akida1_arithmetic import MAX_STEP, MAX_STEP_SHIFT
from akida_backend.akida_arithmetic import Integers
from akida_backend.arithmetic import product_factor, requantize, stored
from akida_backend.candidate import LEVEL_BITS, Candidate, device_size
from akida_backend.graph import (
    Activation,
    Add,
    AnyArray,
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
    Operation,
    Quantize,
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
Averaging = AveragePool2D | Mean

LEVELS: Final = (1 << LEVEL_BITS) - 1
SLACK: Final = 0.25  # of one code, for scales in float32
MOST_CODES: Final = 256  # of a tensor between the stages of a layer


_REACHES: Final[WeakKeyDictionary[Graph, dict[str, tuple[float, float]]]] = WeakKeyDictionary()


def real_reach(name: str, graph: Graph) -> tuple[float, float]:
    """Ends of what a tensor can hold, by its range and the activations it went through."""
    known = _REACHES.setdefault(graph, {})
    waiting = [name]
    while waiting:
        missing = [source for source in _passed_on(waiting[-1], graph) if source not in known]
        waiting += missing
        if not missing and (tensor := waiting.pop()) not in known:
            known[tensor] = _reach(tensor, graph, known)
    return known[name]


def _passed_on(name: str, graph: Graph) -> tuple[str, ...]:
    """Tensors whose ends decide those of another."""
    match graph.producers.get(name):
        case Conv2D(activation=Activation.NONE) as op if _is_small(op, graph):
            return (op.input,)
        case Minimum(a=a, b=b):
            return a, b
        case (
            MaxPool2D(input=before)
            | AveragePool2D(input=before)
            | Mean(input=before)
            | Reshape(input=before)
            | Transpose(input=before)
        ):
            return (before,)
        case Quantize(input=before) if _one_scale(before, name, graph):
            return (before,)
        case _:
            return ()


def _reach(
    name: str, graph: Graph, known: Mapping[str, tuple[float, float]]
) -> tuple[float, float]:
    """Ends of one tensor; those of `_passed_on` are known."""
    tensor = graph.tensors[name]
    low, high = tensor.real_range
    sources = [known[source] for source in _passed_on(name, graph)]
    match graph.producers.get(name):
        case Conv2D() as op if sources:
            first, last = _reach_of_sums(op, graph, *sources[0])
        case Conv2D(activation=bound) | DepthwiseConv2D(activation=bound):
            first, last = bound.real_range
        case Add(activation=bound) | FullyConnected(activation=bound) | Relu(bound=bound):
            first, last = bound.real_range
        case None if tensor.data is not None:
            ends = _constant_reals(tensor)
            first, last = float(ends.min()), float(ends.max())
        case _ if sources:
            first, last = min(low for low, _ in sources), min(high for _, high in sources)
        case _:
            return low, high
    return max(low, first), min(high, last)


def _is_small(op: Conv2D, graph: Graph) -> bool:
    """Whether a convolution is constant and 1x1, so that a copy shows as one."""
    weights = graph.tensors[op.weights]
    _, height, width, _ = weights.shape
    return weights.data is not None and weights.is_quantized and height == width == 1


def _reach_of_sums(op: Conv2D, graph: Graph, low: float, high: float) -> tuple[float, float]:
    bank = filter_bank(op, graph)
    flat = bank.weights.reshape(len(bank.weights), -1) * bank.scale[:, None]
    ends = np.sort([flat * min(low, 0.0), flat * max(high, 0.0)], axis=0).sum(axis=2) + bank.bias
    return float(ends[0].min()), float(ends[1].max())


def _one_scale(a: str, b: str, graph: Graph) -> bool:
    first, second = (graph.tensors[name].quantization for name in (a, b))
    return (
        first is not None
        and second is not None
        and first.is_per_tensor
        and second.is_per_tensor
        and first.single_scale == second.single_scale
    )


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
    known = Weighted | Averaging | MaxPool2D | Relu | Minimum | Quantize
    if not all(isinstance(op, known) for op in candidate.operations):
        return None
    return level_scale(candidate.output, graph)


@dataclass(frozen=True, slots=True, eq=False)
class SourceSums:
    """The last sums that a source forms in a layer: ``unit * potential + added`` per filter.

    Attributes:
        stage: The operation that forms them, and those behind it.
        unit: How often the tensors in front hold each of their sums; 1 where there are none.
        added: Biases of all stages.
    """

    stage: tuple[Operation, ...]
    unit: int
    added: Integers


def source_sums(candidate: Candidate, graph: Graph) -> SourceSums | str:
    """The last sums of a layer, or why the device does not have them.

    Args:
        candidate: A layer whose weights are `own_integers`.
        graph: Of the candidate.
    """
    stages = _stages(candidate)
    unit, added = 1, np.zeros(1, np.int64)
    ends = np.zeros((2, 1), np.int64)  # of centred codes, per channel
    if len(stages) > 1:
        scale = level_scale(candidate.base.inputs[0], graph)
        if scale is None:
            return f"the input of '{candidate.base.location.name}' has more than {LEVEL_BITS} bits"
        _, high = real_reach(candidate.base.inputs[0], graph)
        ends[1] = int(high / scale + SLACK)
    for stage, (following, *_) in pairwise(stages):
        op = stage[0]
        assert isinstance(op, Weighted)
        factor = _factor(op, graph)
        if isinstance(following, Weighted) and np.ptp(factor) > 0.0:
            return (
                f"'{op.location.name}' has weights of several scales, and the device adds its sums "
                f"up as they are in '{following.location.name}'"
            )
        weights = _flat_weights(op, graph)
        added = (weights * added).sum(axis=1) + _bias(op, graph)
        ends = np.sort(weights * ends[:, None], axis=0).sum(axis=2) + _bias(op, graph)
        times = _whole_multiple(stage, ends, graph)
        if not times:
            tensor = graph.tensors[stage[-1].outputs[0]]
            return (
                f"'{op.location.name}' has sums from {ends[0].min():,} to {ends[1].max():,}, and "
                f"the source rounds or cuts them to {tensor.dtype.value}, "
                f"{1 / factor[0]:.4g} to a code, in front of '{following.location.name}', "
                "where the device keeps the sums"
            )
        ends, added, unit = ends * times, added * times, unit * times
    (last, *_) = stages[-1]
    if isinstance(last, Averaging):
        return SourceSums(stages[-1], unit, added * _area(last, graph))
    assert isinstance(last, Weighted)
    added = (_flat_weights(last, graph) * added).sum(axis=1) + _bias(last, graph)
    return SourceSums(stages[-1], unit, added)


def _stages(candidate: Candidate) -> list[tuple[Operation, ...]]:
    """Operations from one sum to the next."""
    stages: list[tuple[Operation, ...]] = []
    for op in candidate.operations:
        if isinstance(op, Weighted | Averaging):
            stages.append((op,))
        else:
            stages[-1] = (*stages[-1], op)
    return stages


def _whole_multiple(stage: tuple[Operation, ...], ends: Integers, graph: Graph) -> int:
    """How often the tensor behind a stage holds each sum between the ends; 0: it does not."""
    if graph.tensors[stage[-1].outputs[0]].dtype is DType.INT32:
        return int(_factor(stage[0], graph)[0] == 1.0)
    low, high = ends
    most = int((high - low).max())
    if most >= MOST_CODES:
        return 0
    sums = np.minimum(low + np.arange(most + 1)[:, None], high)
    codes = _codes(stage, sums, graph)
    times = max(1, round(float(_factor(stage[0], graph)[0])))
    return times if np.array_equal(codes, times * sums) else 0


def _flat_weights(op: Weighted, graph: Graph) -> Integers:
    """(filters, weights per filter), without zero point."""
    bank = filter_bank(op, graph)
    flat: Integers = bank.weights.reshape(len(bank.weights), -1)
    return flat


def _area(op: Averaging, graph: Graph) -> int:
    return device_size(graph.tensors[op.input]).area


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
        candidate: A layer for which `own_levels` and `source_sums` hold.
        graph: Of the candidate.
        low: Smallest potential per filter.
        high: Largest one.
        shift: What the zero point of stored input codes adds to every potential.
    """
    # Of potentials clipped so, all of a filter's steps in reach and one on either side count.
    sums = source_sums(candidate, graph)
    assert isinstance(sums, SourceSums)
    wanted = np.clip(_source_steps(sums, graph, low - shift, high - shift) + shift, low, None)
    wanted = np.minimum(wanted, high + 1)
    nominal = np.broadcast_to(1.0 / (sums.unit * _factor(sums.stage[0], graph)), low.shape)
    steps = [nominal, *(_rises(wanted) / np.arange(1, LEVELS)[:, None])]
    best = _steps_from_above(nominal)
    threshold = wanted[0] - 1
    least = np.full(low.shape, LEVELS + 1)
    middle = np.rint(nominal / 2).astype(np.int64) - sums.added // sums.unit + shift
    for start in (middle, middle - 1, wanted[0] - 1):
        for step in steps:
            trial = _steps_from_above(np.clip(step, 1e-6, MAX_STEP - 1))
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


def fixed_point_steps(
    step: FloatArray,
    rounding: Callable[[FloatArray], FloatArray] = np.rint,
    most_shift: int = MAX_STEP_SHIFT,
) -> StepActivation:
    """Steps with as many fraction bits as fit."""
    _, above = np.frexp(MAX_STEP / np.maximum(step, 2.0**-MAX_STEP_SHIFT))
    shift = np.clip(above - 1, 0, most_shift)
    value = np.clip(rounding(np.ldexp(step, shift)), 1, MAX_STEP)
    return StepActivation(value.astype(np.uint32), shift.astype(np.uint8))


def _steps_from_above(step: FloatArray) -> StepActivation:
    """Steps rounded up, so that a whole multiple does not fall below itself."""
    return fixed_point_steps(step, np.ceil, MAX_STEP_SHIFT - 4)


def _device_steps(threshold: Integers, activation: StepActivation) -> Integers:
    """Smallest potential that gives each code from 1 on: (codes, filters)."""
    before = np.arange(LEVELS)[:, None] * activation.step.astype(np.int64)
    first: Integers = threshold + (before >> activation.step_shift.astype(np.int64)) + 1
    return first


def _source_steps(sums: SourceSums, graph: Graph, low: Integers, high: Integers) -> Integers:
    """Smallest centred potential for which the source gives each code from 1 on."""
    wanted = np.arange(1, LEVELS + 1)[:, None]
    below = np.broadcast_to(low - 1, (LEVELS, len(low))).copy()
    above = np.broadcast_to(high + 1, (LEVELS, len(high))).copy()
    while (above - below > 1).any():
        middle = (below + above) >> 1
        reached = _codes(sums.stage, sums.unit * middle + sums.added, graph) >= wanted
        above = np.where(reached, middle, above)
        below = np.where(reached, below, middle)
    return above


def _codes(stage: tuple[Operation, ...], sums: Integers, graph: Graph) -> Integers:
    """Centred codes that the source makes of sums, (any number, filters)."""
    op, *members = stage
    (name,) = op.outputs
    output = graph.tensors[name]
    values: dict[str, AnyArray] = {}
    if isinstance(op, Averaging):
        averages = []
        for row in sums:  # one at a time: maps are large
            values[op.input] = _map_of(row, op, graph)
            run_operations([op], graph, values)
            averages.append(values[name].reshape(row.shape))
        values[name] = np.stack(averages)
    else:
        assert isinstance(op, Weighted)
        rounded = requantize_dense if isinstance(op, FullyConnected) else requantize
        whole = rounded(sums, _factor(op, graph), graph.arithmetic)
        values[name] = stored(whole, output, op.activation, graph.arithmetic)
    for member in members:
        (written,) = member.outputs
        if isinstance(member, MaxPool2D):  # picks a value
            values[written] = values[name]
        else:
            run_operations([member], graph, values)
        name = written
    quantization = graph.tensors[name].quantization
    assert quantization is not None
    return values[name].astype(np.int64) - quantization.single_zero_point


def _map_of(sums: Integers, op: Averaging, graph: Graph) -> AnyArray:
    """A map of codes that add up to one sum per channel, as even as they can be."""
    tensor = graph.tensors[op.input]
    assert tensor.quantization is not None
    size = device_size(tensor)
    each, more = np.divmod(sums, size.area)
    cells: Integers = each + (np.arange(size.area)[:, None] < more)
    low, high = tensor.dtype.code_range
    codes = np.clip(cells + tensor.quantization.single_zero_point, low, high)
    return codes.reshape(1, size.height, size.width, -1).astype(tensor.dtype.numpy)


def _factor(op: Operation, graph: Graph) -> FloatArray:
    """Codes per sum."""
    if isinstance(op, Averaging):
        before, after = (graph.tensors[name].quantization for name in (op.input, op.output))
        assert before is not None
        assert after is not None
        return np.array([before.single_scale / after.single_scale / _area(op, graph)])
    assert isinstance(op, Weighted)
    x, weights, output = (graph.tensors[name] for name in (op.input, op.weights, op.output))
    single = x.dtype is DType.UINT8 or graph.arithmetic is Arithmetic.ONNX
    if isinstance(op, FullyConnected):
        single = graph.arithmetic is not Arithmetic.TFLITE
    return product_factor(x, weights, output, np.float32 if single else np.float64)


def _bias(op: Weighted, graph: Graph) -> NDArray[np.int64]:
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
