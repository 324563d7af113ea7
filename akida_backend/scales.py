# SPDX-License-Identifier: Apache-2.0
"""One code per tensor of a segment: the symmetric scales that every layer is lowered with.

Ranges come from the source's own quantization (or from calibration inputs). Concatenated and
renamed tensors share a scale. The scales around Adds stand in power-of-two ratios, with one free
base per connected component of Adds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from akida_backend.candidate import Alias, Candidate, Candidates, device_shape
from akida_backend.constraints import LayerType, violations
from akida_backend.devices import Device
from akida_backend.graph import AveragePool2D, Conv2D, DepthwiseConv2D, Graph, Mean
from akida_backend.lowering import dead_filters, filter_bank, real_clamp
from akida_backend.partition import candidate_macs
from akida_backend.program import Code

Peaks = Mapping[str, NDArray[np.float64]]  # largest magnitude per channel, real values
PEAK = 127  # largest magnitude a symmetric int8 code uses on both sides
SPLIT_SHARE = 3  # an input in two parts may add a third of the segment's MACs
# The largest of few samples understates a range; scales rounded up to a power of two have slack.
FREE_SCALE_MARGIN = 1.05


def source_peak(graph: Graph, candidate: Candidate, name: str) -> float:
    """Largest magnitude the source's integers of a tensor can stand for, after fused clamps.

    A tensor that uses all 256 codes on one side gives up the last one: its device step is then
    exactly two source steps, so both round to one grid.
    """
    tensor = graph.tensors[name]
    low, high = tensor.real_range
    if candidate.output == name and candidate.lut is None:
        low, high = max(low, candidate.clamp[0]), min(high, candidate.clamp[1])
    peak = max(abs(low), abs(high))
    if tensor.quantization is not None:
        step = tensor.quantization.single_scale
        if 2 * PEAK * step < peak < (2 * PEAK + 1.5) * step:
            peak = 2 * PEAK * step
    return peak


def averaged_peak(peak: float, area: int) -> float:
    """Range to expect of a global average: averages of many values seldom reach the extremes.

    Measured on MLPerf Tiny networks; half of the data-free default recipe's gain on resnet8.
    """
    return float(peak * max(0.25, area**-0.25))


def has_own_scale(graph: Graph, average: AveragePool2D | Mean) -> bool:
    """Whether the source stores averages on a scale made for them; AVERAGE_POOL_2D never does."""
    before, after = (graph.tensors[n].quantization for n in (average.input, average.output))
    return before is None or after is None or before.single_scale != after.single_scale


def constant_peak(graph: Graph, candidate: Candidate) -> float:
    """Largest magnitude of the filters without weights, whose average is what they are."""
    base = candidate.base
    if candidate.average is None or not isinstance(base, Conv2D | DepthwiseConv2D):
        return 0.0
    bank = filter_bank(base, graph)
    ends = real_clamp(candidate, graph)
    constants = np.abs(bank.bias[dead_filters(bank)].clip(*ends))
    return float(constants.max(initial=0.0)) if candidate.lut is None else 0.0


def assign_codes(
    graph: Graph,
    candidates: Sequence[Candidates],
    segment_input: str,
    segment_output: str,
    device: Device,
    calibrated: Peaks | None,
    uniform: frozenset[str] = frozenset(),
    *,
    strict: bool = False,
) -> dict[str, Code]:
    """Codes of every tensor the segment's layers read or write.

    Args:
        graph: Legalised graph.
        candidates: Of the segment, in topological order.
        segment_input: Tensor the host feeds.
        segment_output: Tensor the host reads.
        device: Target, whose limits an input in two parts must meet.
        calibrated: Measured peaks, if there are any.
        uniform: Tensors that must have one scale for all channels.
        strict: Scales around Adds are powers of two themselves, not only their ratios.
    """
    peaks = _peaks(graph, candidates, segment_input, calibrated)
    groups = _Groups(peaks)
    for candidate in candidates:
        if isinstance(candidate, Alias) or candidate.layer is LayerType.CONCATENATE:
            for name in candidate.inputs:
                groups.join(name, candidate.output)
    scales = groups.scales([c for c in candidates if c_is_add(c)], 1.0 if strict else None)
    codes = {name: Code((scale,)) for name, scale in scales.items()}
    first = candidates[0]
    if isinstance(first, Candidate) and first.layer is LayerType.INPUT_CONV2D:
        codes[segment_input] = image_code(graph, segment_input)
    elif splits_input(graph, candidates, segment_input, device):
        step = graph.tensors[segment_input].quantization
        assert step is not None
        codes[segment_input] = Code((step.single_scale,), parts=2)
    last = candidates[-1]
    carrier = next(c for c in reversed(candidates) if isinstance(c, Candidate))
    if ends_wide(graph, candidates, segment_output):
        codes[carrier.output] = Code((1.0,), bits=32)
        codes[last.output] = Code((1.0,), bits=32)
    if calibrated is not None:
        split = [c for c in candidates if c.output not in uniform]
        _split_channels(graph, candidates, split, codes, calibrated)
    return codes


def ends_wide(graph: Graph, candidates: Sequence[Candidates], segment_output: str) -> bool:
    """Whether the segment ends in a Dense1D, which then gives its int32 accumulators."""
    carrier = next(c for c in reversed(candidates) if isinstance(c, Candidate))
    behind = candidates[candidates.index(carrier) + 1 :]
    return carrier.layer is LayerType.DENSE1D and (
        carrier.output == segment_output
        or (
            bool(behind)
            and all(isinstance(c, Alias) for c in behind)
            and graph.sole_consumer(carrier.output) is not None
        )
    )


def splits_input(
    graph: Graph, candidates: Sequence[Candidates], segment_input: str, device: Device
) -> bool:
    """Whether the input is worth two codes per value, which are exact where one is not.

    One symmetric code cannot hold an asymmetric input: rounding it costs kws (MLPerf Tiny) more
    than all layers together. The first layer multiplies twice as much, so it must be a small part
    of the segment, and a layer that adds up its input channels.
    """
    low, high = graph.tensors[segment_input].real_range
    quantization = graph.tensors[segment_input].quantization
    if quantization is None or max(-low, high) < (PEAK + 1.5) * quantization.single_scale:
        return False
    added = 0
    for reader in (c for c in candidates if segment_input in c.inputs):
        if isinstance(reader, Alias) or reader.layer not in (LayerType.CONV2D, LayerType.DENSE1D):
            return False
        doubled = replace(reader.facts, input_channels=2 * (reader.facts.input_channels or 0))
        if violations(doubled, device):
            return False
        added += candidate_macs(graph, reader)
    return SPLIT_SHARE * added <= sum(candidate_macs(graph, c) for c in candidates)


def image_code(graph: Graph, name: str) -> Code:
    """The uint8 code of InputConv2D: the source's integers, int8 ones shifted by 128."""
    tensor = graph.tensors[name]
    if tensor.quantization is None:
        raise ValueError(f"tensor '{name}' is not quantized")
    low, _ = tensor.dtype.code_range
    zero_point = tensor.quantization.single_zero_point - low
    return Code((tensor.quantization.single_scale,), 8, signed=False, zero_point=zero_point)


def c_is_add(candidate: Candidates) -> bool:
    return isinstance(candidate, Candidate) and candidate.layer is LayerType.ADD


def _peaks(
    graph: Graph,
    candidates: Sequence[Candidates],
    segment_input: str,
    calibrated: Peaks | None,
) -> dict[str, float]:
    low, high = graph.tensors[segment_input].real_range
    peaks = {segment_input: max(abs(low), abs(high))}
    for candidate in candidates:
        name = candidate.output
        if isinstance(candidate, Alias):
            peaks[name] = peaks[candidate.inputs[0]]
            continue
        peak = source_peak(graph, candidate, name)
        if calibrated is not None and name in calibrated:
            measured = float(calibrated[name].max())
            peak = min(peak, measured) if measured > 0 else peak
        elif candidate.average is not None and not has_own_scale(graph, candidate.average):
            height, width, _ = device_shape(graph.tensors[candidate.average.input])
            peak = max(averaged_peak(peak, height * width), constant_peak(graph, candidate))
        peaks[name] = peak
    return peaks


class _Groups:
    """Tensors that share one scale, and the power-of-two ties between groups."""

    def __init__(self, peaks: Mapping[str, float]) -> None:
        self._peaks = peaks
        self._leader = {name: name for name in peaks}

    def leader(self, name: str) -> str:
        while self._leader[name] != name:
            name = self._leader[name]
        return name

    def join(self, a: str, b: str) -> None:
        self._leader[self.leader(b)] = self.leader(a)

    def scales(self, adds: Sequence[Candidates], base_of_all: float | None) -> dict[str, float]:
        wanted: dict[str, float] = {}
        for name, peak in self._peaks.items():
            head = self.leader(name)
            wanted[head] = max(wanted.get(head, 0.0), peak / PEAK)
        wanted = {
            head: scale or 1.0 for head, scale in wanted.items()
        }  # nothing but zeros fits any
        component = {head: head for head in wanted}

        def root(head: str) -> str:
            while component[head] != head:
                head = component[head]
            return head

        tied: set[str] = set()
        for add in adds:
            heads = [self.leader(name) for name in (*add.inputs, add.output)]
            tied.update(heads)
            for head in heads[1:]:
                component[root(head)] = root(heads[0])
        final = dict(wanted)
        for top in dict.fromkeys(root(head) for head in wanted if head in tied):
            members = [head for head in wanted if head in tied and root(head) == top]
            base = base_of_all or _best_base([wanted[head] for head in members])
            for head in members:
                final[head] = _next_power(wanted[head], base)
        return {name: final[self.leader(name)] for name in self._peaks}


def _next_power(wanted: float, base: float) -> float:
    """Smallest ``base * 2**k`` not below `wanted` (within float rounding)."""
    return base * 2.0 ** math.ceil(math.log2(wanted / base) - 1e-9)


def _best_base(wanted: Sequence[float]) -> float:
    """Base in one octave that widens the wanted scales least, in squared error."""

    def cost(base: float) -> float:
        return sum((_next_power(w, base) / w) ** 2 for w in wanted)

    return min(wanted, key=cost)


def _split_channels(
    graph: Graph,
    candidates: Sequence[Candidates],
    split: Sequence[Candidates],
    codes: dict[str, Code],
    calibrated: Peaks,
) -> None:
    """Give the channels of what `split` writes their own scales where the reader can undo them.

    A depthwise reader takes any scale per channel; a convolution takes power-of-two ratios,
    which its input_shift aligns.
    """
    readers: dict[str, list[Candidates]] = {}
    for candidate in candidates:
        for name in candidate.inputs:
            readers.setdefault(name, []).append(candidate)
    for candidate in split:
        name = candidate.output
        if not isinstance(candidate, Candidate) or candidate.layer not in (
            LayerType.INPUT_CONV2D,
            LayerType.CONV2D,
            LayerType.DEPTHWISE_CONV2D,
        ):
            continue
        measured = calibrated.get(name)
        names, consumers = _readers(graph, name, readers)
        if measured is None or consumers is None:
            continue
        peak = float(measured.max())
        if peak <= 0:
            continue
        # A channel that stayed small on few samples keeps a margin of 1/8 of the widest.
        wanted = np.maximum(measured, peak / 8) / PEAK
        if all(c.layer is LayerType.DEPTHWISE_CONV2D for c in consumers):
            code = Code(tuple((wanted * FREE_SCALE_MARGIN).tolist()))
        elif all(c.layer in (LayerType.CONV2D, LayerType.DENSE1D) for c in consumers):
            scales = wanted.tolist()
            base = _best_base(scales)
            code = Code(tuple(_next_power(scale, base) for scale in scales))
        else:
            continue
        codes.update(dict.fromkeys(names, code))


def _readers(
    graph: Graph, name: str, readers: Mapping[str, Sequence[Candidates]]
) -> tuple[list[str], list[Candidate] | None]:
    """All names of a tensor, and the layers that read it; None where others need it."""
    names, found = [name], list[Candidate]()
    for current in names:
        inside = readers.get(current, ())
        if current in graph.outputs or len(graph.consumers[current]) != len(inside):
            return names, None
        for reader in inside:
            if isinstance(reader, Candidate):
                found.append(reader)
            elif device_shape(graph.tensors[reader.output]) == device_shape(graph.tensors[name]):
                names.append(reader.output)
            else:
                return names, None
    return names, found or None
