# SPDX-License-Identifier: Apache-2.0
"""A segment of Akida 1.0 as the quantizer sees it: layers over real numbers, and their inputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.akida1_exact import (
    level_scale,
    own_integers,
    own_levels,
    real_reach,
    source_sums,
)
from akida_backend.calibration import FEWEST_SAMPLES, Measured
from akida_backend.candidate import LEVEL_BITS, Alias, Candidate, device_shape
from akida_backend.constraints import LayerType, violations
from akida_backend.devices import Device
from akida_backend.four_bit import (
    InputCode,
    LowBitCode,
    QuantizedChain,
    QuantizedLayer,
    RealLayer,
    SourceCode,
    Window,
)
from akida_backend.four_bit.rows import convolved
from akida_backend.graph import (
    NO_PADS,
    ONE,
    AnyArray,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    Opaque,
    Operation,
)
from akida_backend.lowering import filter_bank, real_clamp
from akida_backend.parameters import FloatArray
from akida_backend.partition import Region
from akida_backend.program import Program
from akida_backend.reference import run_operations
from akida_backend.scales import image_code
from akida_backend.simulator import Simulator

TINY: Final = 1e-9  # a range of nothing
CALIBRATION_VALUES: Final = (
    1 << 27
)  # of all maps of a segment; bounds the samples of large networks


class Entry(Enum):
    """How values of the host enter a segment."""

    IMAGE = "the 8-bit image of an input layer"
    LEVELS = "the source's own codes, which have 4 bits"
    CODE = "one 4-bit code"
    # Twice the MACs on paper; but the second code is 0 for the lower half of the range, and
    # Akida's time goes with the values that are not 0.
    SUM = "two 4-bit codes that add up: 31 levels"
    SIGNS = "two 4-bit codes: what is above zero, and what is below it without the sign"

    @property
    def parts(self) -> int:
        """Codes per value."""
        return 2 if self in (Entry.SUM, Entry.SIGNS) else 1


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """One layer of a segment.

    Attributes:
        candidate: What becomes the layer.
        input: Program tensor it reads, under the name of the layer that wrote it.
        shape: Of that tensor, (height, width, channels).
        real: What the quantizer sees: one layer, or both halves of a separable one.
    """

    candidate: Candidate
    input: str
    shape: tuple[int, int, int]
    real: tuple[RealLayer, ...]

    @property
    def is_diagonal(self) -> bool:
        """A depthwise layer as a full convolution."""
        return len(self.real) == 1 and self.real[0].depthwise

    def averaged_map(self, graph: Graph) -> tuple[int, int]:
        """Height and width of what global average pooling sums."""
        average = self.candidate.average
        assert average is not None
        height, width, _ = device_shape(graph.tensors[average.input])
        return height, width


class Arriving:
    """Stored values on the calibration inputs as they arrive behind quantized segments.

    So that a segment makes up for the errors of those in front of it.
    """

    def __init__(self, measured: Measured) -> None:
        self._measured, self._graph = measured, measured.graph
        self._values = {name: measured.values[name] for name in measured.graph.inputs}

    def stored(self, name: str) -> AnyArray:
        """Values of a host tensor, computed in the source's arithmetic from what is known.

        The source's values stand in for those of a graph that runs in portions, of a fixed batch,
        and for those behind an operation that only a runtime can execute.
        """
        if self._graph.batch is not None:
            return self._measured.values[name]
        wanted = {name} - self._values.keys()
        chosen: list[Operation] = []
        for op in reversed(self._graph.operations):
            if wanted.intersection(op.outputs):
                chosen.append(op)
                wanted.update(set(op.inputs) - self._values.keys())
        if any(isinstance(op, Opaque) for op in chosen):
            return self._measured.values[name]
        run_operations(chosen[::-1], self._graph, self._values)
        return self._values[name]

    def pass_through(self, program: Program) -> None:
        """Let a segment compute its output of what arrives."""
        if self._graph.batch is not None:
            return
        arrived = self.stored(program.input.tensor)
        self._values[program.output.tensor] = Simulator(program).run(arrived)


def links_of(region: Region, graph: Graph) -> list[Link]:
    canonical: dict[str, str] = {}
    candidates: list[Candidate] = []
    for candidate in region.candidates:
        if isinstance(candidate, Alias):
            (before,) = candidate.inputs
            canonical[candidate.output] = canonical.get(before, before)
        else:
            candidates.append(candidate)
    links = []
    for candidate in candidates:
        (name,) = candidate.inputs
        read = canonical.get(name, name)
        shape = device_shape(graph.tensors[read])
        is_last = candidate is candidates[-1]
        links.append(Link(candidate, read, shape, _real(candidate, shape, graph, is_last=is_last)))
    return links


def _real(
    candidate: Candidate, shape: tuple[int, int, int], graph: Graph, *, is_last: bool
) -> tuple[RealLayer, ...]:
    """A candidate over real numbers."""
    weighted = weighted_operations(candidate)
    bits = candidate.facts.weights_bits or LEVEL_BITS
    _, bound = real_clamp(candidate, graph)
    pool = candidate.pool
    halves = []
    for op in weighted:
        ends = op is weighted[-1]
        halves.append(
            RealLayer(
                name=op.location.name,
                weights=_real_weights(op, shape, graph),
                bias=filter_bank(op, graph).bias,
                depthwise=isinstance(op, DepthwiseConv2D),
                stride=ONE if isinstance(op, FullyConnected) else op.stride,
                pads=NO_PADS if isinstance(op, FullyConnected) else op.pads,
                activated=ends and not is_last,
                bound=bound if math.isfinite(bound) else None,
                pool=Window(pool.window, pool.stride, pool.pads) if ends and pool else None,
                average=ends and candidate.average is not None,
                weight_bits=bits,
                output_bits=candidate.facts.output_bits or LEVEL_BITS,
                grid=own_integers(op, graph, bits),
                level=own_levels(candidate, graph) if ends and not is_last else None,
            )
        )
    return tuple(halves)


def weighted_operations(candidate: Candidate) -> list[Conv2D | DepthwiseConv2D | FullyConnected]:
    """One operation, or both halves of a separable layer."""
    return [
        op
        for op in candidate.operations
        if isinstance(op, Conv2D | DepthwiseConv2D | FullyConnected)
    ]


def _real_weights(
    op: Conv2D | DepthwiseConv2D | FullyConnected, shape: tuple[int, int, int], graph: Graph
) -> FloatArray:
    """OHWI, depthwise 1HWC; a dense layer is a kernel as large as the map it flattens."""
    bank = filter_bank(op, graph)
    along = (-1,) + (1,) * (bank.weights.ndim - 1)
    real: FloatArray = bank.weights * bank.scale.reshape(along)
    if isinstance(op, DepthwiseConv2D):
        return np.moveaxis(real, 0, 3)
    return real.reshape(len(real), *shape) if isinstance(op, FullyConnected) else real


def entry_of(link: Link, graph: Graph, device: Device) -> Entry:
    """How the first layer of a segment gets what the host holds."""
    facts = link.candidate.facts
    if link.candidate.layer is LayerType.INPUT_CONVOLUTIONAL:
        return Entry.IMAGE
    if level_scale(link.input, graph) is not None:
        return Entry.LEVELS
    lowest, _ = real_reach(link.input, graph)
    if lowest < 0.0:
        return Entry.SIGNS
    _, _, channels = link.shape
    doubled = dataclasses.replace(facts, input_channels=2 * channels)
    return Entry.CODE if violations(doubled, device) else Entry.SUM


def with_signs_apart(link: Link) -> Link:
    """The layer on twice as many channels: the second half holds what is below zero, positive."""
    first, *rest = link.real
    weights = np.concatenate([first.weights, -first.weights], axis=-1)
    bias = first.bias
    if first.depthwise and rest:  # the pointwise half joins what belongs together
        bias = np.concatenate([bias, np.zeros_like(bias)])
    elif first.depthwise:  # each filter reads its channel twice
        _, height, width, channels = first.weights.shape
        places = np.tile(np.eye(channels), 2)[:, None, None]
        weights = np.broadcast_to(weights, (channels, height, width, 2 * channels)) * places
    first = dataclasses.replace(
        first, weights=weights, bias=bias, depthwise=first.depthwise and bool(rest)
    )
    rest = [
        dataclasses.replace(half, weights=np.concatenate([half.weights] * 2, axis=-1))
        for half in rest
    ]
    return dataclasses.replace(link, real=(first, *rest))


def quantizer_code(entry: Entry, link: Link, graph: Graph) -> InputCode:
    """What the quantizer takes the input for."""
    highest = (1 << LEVEL_BITS) - 1
    match entry:
        case Entry.IMAGE:
            return SourceCode(image_code(graph, link.input).scale[0])
        case Entry.LEVELS:
            scale = level_scale(link.input, graph)
            assert scale is not None
            return SourceCode(scale)
        case Entry.SUM:
            return LowBitCode(2 * highest)
        case Entry.SIGNS | Entry.CODE:
            return LowBitCode(highest)


def _sample_count(links: Sequence[Link], measured: Measured) -> int:
    """Calibration inputs that a segment is quantized on."""
    count = len(next(iter(measured.values.values())))
    values = sum(math.prod(link.shape) for link in links)
    return max(min(count, FEWEST_SAMPLES), min(count, CALIBRATION_VALUES // values))


def source_values(
    links: Sequence[Link], measured: Measured, entry: Entry
) -> list[NDArray[np.floating]]:
    """Real input of every real layer in the source."""
    samples = _sample_count(links, measured)
    sources: list[NDArray[np.floating]] = []
    for link in links:
        real = unsigned(measured.real(link.input, samples), Entry.CODE if sources else entry)
        sources.append(real)
        for half in link.real[:-1]:
            sources.append(convolved(real, half, half.weights) + half.bias.astype(np.float32))
    return sources


def unsigned(real: FloatArray, entry: Entry) -> NDArray[np.floating]:
    """What the quantizer gets of real values: the signs apart where there are two."""
    if entry is Entry.SIGNS:
        real = np.concatenate([np.maximum(real, 0), np.maximum(-real, 0)], axis=-1)
    return real.astype(np.float32)


def exact_chain(links: Sequence[Link], code: InputCode, graph: Graph) -> QuantizedChain | None:
    """The source's own integers, where it has few enough bits throughout; else None."""
    if not isinstance(code, SourceCode):
        return None
    _, _, channels = links[0].shape
    scale = code.scale
    layers: list[QuantizedLayer] = []
    for link in links:
        if not has_few_bits(link) or isinstance(source_sums(link.candidate, graph), str):
            return None
        offset = np.zeros(1)
        for real in link.real:
            filters = len(real.bias)
            grid = np.broadcast_to(1.0 if real.grid is None else real.grid, (filters,))
            along = grid if real.depthwise else grid[:, None, None, None]
            weights = np.rint(real.weights / along).astype(np.int8)
            bias = real.bias + (
                0.0 if real.depthwise else (real.weights * offset).sum(axis=(1, 2, 3))
            )
            area = math.prod(link.averaged_map(graph)) if real.average else 1
            output_scale = None if real.level is None else np.full(filters, real.level)
            layers.append(QuantizedLayer(weights, grid * scale / area, bias, output_scale))
            scale, offset = float(grid[0]) * scale, bias
        scale = link.real[-1].level or 1.0
    return QuantizedChain(np.full(channels, code.scale), tuple(layers), (), ())


def has_few_bits(link: Link) -> bool:
    """Whether the source has the weights and the output codes of a layer as the device does."""
    *_, last = link.real
    has_weights = all(half.grid is not None for half in link.real)
    return has_weights and (not last.activated or last.level is not None)


def losses(links: Sequence[Link], graph: Graph) -> list[str]:
    """Why layers of few bits are not kept as they are."""
    found = [source_sums(link.candidate, graph) for link in links if has_few_bits(link)]
    return [reason for reason in found if isinstance(reason, str)]


def data_free_chain(links: Sequence[Link], entry: Entry, graph: Graph) -> QuantizedChain:
    """Weights and codes as wide as the source's ranges, nothing chosen.

    For placement; four bits chosen so do not keep a network's accuracy.
    """
    code = quantizer_code(entry, links[0], graph)
    _, _, channels = links[0].shape
    reach = graph.tensors[links[0].input].real_range
    sides = [reach[1], -reach[0]] if entry is Entry.SIGNS else [reach[1]]
    highest = (1 << LEVEL_BITS) - 1
    levels = 2 * highest if entry is Entry.SUM else highest
    input_scale = np.repeat([max(side, TINY) / levels for side in sides], channels)
    if isinstance(code, SourceCode):
        input_scale = np.full(channels, code.scale)
    layers = []
    scale = input_scale
    for link in links:
        for real in link.real:
            wanted = real.weights * scale
            axes = (0, 1, 2) if real.depthwise else (1, 2, 3)
            most = (1 << (real.weight_bits - 1)) - 1
            step = np.maximum(np.abs(wanted).max(axis=axes), TINY) / most
            if real.grid is not None and np.ptp(scale) == 0:
                step = np.broadcast_to(real.grid * scale[0], step.shape)
            along = step if real.depthwise else step[:, None, None, None]
            weights = np.rint(wanted / along).astype(np.int8)
            area = math.prod(link.averaged_map(graph)) if real.average else 1
            bound = math.inf if real.bound is None else real.bound
            height = bound / highest if real.level is None else real.level
            output_scale = np.full(len(step), height) if real.activated else None
            layers.append(QuantizedLayer(weights, step / area, real.bias, output_scale))
            scale = step if output_scale is None else output_scale
    return QuantizedChain(input_scale, tuple(layers), (), ())
