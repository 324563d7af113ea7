# SPDX-License-Identifier: Apache-2.0
"""One device segment as a program: codes, layers in order, and the two boundaries."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from akida_backend.calibration import Measured, Tuner
from akida_backend.candidate import Alias, Candidate, device_shape
from akida_backend.constraints import LayerType
from akida_backend.devices import Device
from akida_backend.graph import Add, Graph
from akida_backend.lowering import LoweringContext
from akida_backend.ops import SPEC_OF
from akida_backend.options import Options
from akida_backend.parameters import FloatArray, Refusal
from akida_backend.partition import Region
from akida_backend.plan import QuantizerStep, WeightNote
from akida_backend.program import (
    Code,
    DeviceTensor,
    InputPort,
    OutputPort,
    Program,
    ProgramLayer,
)
from akida_backend.scales import assign_codes


@dataclass(frozen=True, slots=True)
class LoweredSegment:
    """A program and what must be said about it."""

    program: Program
    assumptions: tuple[str, ...]
    weight_notes: tuple[WeightNote, ...]
    quantizer: tuple[QuantizerStep, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SegmentRefusal:
    """The candidate that could not be lowered, and why."""

    candidate: Candidate
    refusal: Refusal


def lower_region(
    region: Region,
    graph: Graph,
    device: Device,
    options: Options,
    name: str,
    measured: Measured | None,
) -> LoweredSegment | SegmentRefusal:
    """Lower every candidate of a region, or name the first that has no parameters.

    Scales per channel widen accumulators; where that is what refuses a layer, its input gets
    one scale.
    """
    uniform: frozenset[str] = frozenset()
    while True:
        result = _lower(region, graph, device, options, name, measured, uniform)
        if isinstance(result, LoweredSegment) or measured is None:
            return result
        inputs = frozenset(result.candidate.inputs)
        if inputs <= uniform:
            return result
        uniform |= inputs


def further_refusals(
    region: Region,
    first: SegmentRefusal,
    graph: Graph,
    device: Device,
    options: Options,
    measured: Measured | None,
) -> list[SegmentRefusal]:
    """What else has no parameters behind a refused candidate: found without a round for each."""
    found: list[SegmentRefusal] = []
    rest = region.behind(first.candidate)
    everything = frozenset(candidate.output for candidate in region.candidates)
    while rest is not None:
        result = _lower(rest, graph, device, options, "", measured, everything)
        if isinstance(result, LoweredSegment):
            break
        found.append(result)
        rest = rest.behind(result.candidate)
    return found


def _lower(
    region: Region,
    graph: Graph,
    device: Device,
    options: Options,
    name: str,
    measured: Measured | None,
    uniform: frozenset[str],
) -> LoweredSegment | SegmentRefusal:
    codes = assign_codes(
        graph,
        region.candidates,
        region.input,
        region.output,
        device,
        None if measured is None else measured.peaks,
        uniform,
        strict=options.strict_converter,
    )
    entry = input_port(graph, region.input, codes[region.input])
    offsets: dict[str, FloatArray] = {}
    context = LoweringContext(graph, options, codes, offsets, sums=sums_of(graph, region))
    tuner = None if measured is None else Tuner(measured, entry, codes, region.macs(graph))
    canonical: dict[str, str] = {}
    layers: list[ProgramLayer] = []
    assumptions: dict[str, None] = {}
    notes: list[WeightNote] = []
    output_scale: FloatArray | None = None
    for candidate in region.candidates:
        if isinstance(candidate, Alias):
            (before,) = candidate.inputs
            canonical[candidate.output] = canonical.get(before, before)
            if before in offsets:
                offsets[candidate.output] = offsets[before]
            if tuner is not None:
                tuner.rename(before, candidate.output)
            continue
        lower = SPEC_OF[type(candidate.base)].lower
        if lower is None:
            raise TypeError(f"{candidate.base.location}: no lowering for {candidate.layer.value}")
        lowered = lower(candidate, context)
        if isinstance(lowered, Refusal):
            return SegmentRefusal(candidate, lowered)
        if tuner is not None:
            lowered = tuner.tune(candidate, lowered, context, lower)
        inputs = tuple(canonical.get(n, n) for n in lowered.layer.inputs)
        label = unused_name(lowered.layer.name, {layer.name for layer in layers})
        layers.append(dataclasses.replace(lowered.layer, name=label, inputs=inputs))
        output_scale = lowered.output_scale
        if lowered.output_scale is not None:
            codes[candidate.output] = Code(tuple(lowered.output_scale.tolist()), bits=32)
        if lowered.offset is not None and tuner is None:
            offsets[candidate.output] = lowered.offset
        if lowered.assumption is not None:
            assumptions[lowered.assumption] = None
        if lowered.change is not None:
            notes.append(
                WeightNote(
                    label,
                    "weights minus their zero point exceed the device's signed range",
                    lowered.change.filters,
                    lowered.change.max_error,
                )
            )
    exit_name = canonical.get(region.output, region.output)
    exit_clamp = next(
        candidate.clamp
        for candidate in region.candidates
        if isinstance(candidate, Candidate) and candidate.output == exit_name
    )
    tensors = {
        tensor: device_tensor(graph, tensor, codes[tensor])
        for tensor in dict.fromkeys(
            [region.input, *(t for layer in layers for t in (*layer.inputs, layer.output))]
        )
    }
    program = Program(
        name=name,
        device=device.name,
        tensors=tensors,
        layers=tuple(layers),
        input=entry,
        output=output_port(
            graph, region.output, exit_name, codes[exit_name], output_scale, exit_clamp
        ),
    )
    return LoweredSegment(program, tuple(assumptions), tuple(notes))


def sums_of(graph: Graph, region: Region) -> dict[str, Add]:
    """For each Add, the last lowered operand that a bias can shift and nobody else reads."""
    sums: dict[str, Add] = {}
    shifted: list[str] = []
    for candidate in region.candidates:
        if not isinstance(candidate, Candidate):
            continue
        if isinstance(candidate.base, Add):
            operands = [name for name in shifted if name in candidate.inputs]
            if operands:
                sums[operands[-1]] = dataclasses.replace(candidate.base, output=candidate.output)
        elif (
            candidate.layer is not LayerType.CONCATENATE
            and candidate.lut is None
            and len(graph.consumers[candidate.output]) == 1
        ):
            shifted.append(candidate.output)
    return sums


def device_tensor(graph: Graph, name: str, code: Code) -> DeviceTensor:
    height, width, channels = device_shape(graph.tensors[name])
    return DeviceTensor(name, (height, width, channels * code.parts), code)


def unused_name(wanted: str, taken: Collection[str]) -> str:
    """`wanted`, numbered where an operation became several layers."""
    numbered = (f"{wanted}.{number}" for number in itertools.count(1))
    return next(name for name in itertools.chain([wanted], numbered) if name not in taken)


def input_port(graph: Graph, name: str, code: Code) -> InputPort:
    """Table from the host's 8-bit integers to device codes, ties to even.

    The second of two tables holds what the first, saturated, leaves.
    """
    tensor = graph.tensors[name]
    if tensor.quantization is None:
        raise ValueError(f"tensor '{name}' is not quantized")
    low, high = tensor.dtype.code_range
    stored = np.arange(low, high + 1, dtype=np.float64)
    real = (stored - tensor.quantization.single_zero_point) * tensor.quantization.single_scale
    bottom, top = code.limits
    wanted = np.rint(real / code.scale[0]) + code.zero_point
    tables = []
    for _ in range(code.parts):
        part = np.clip(wanted, bottom, top)
        wanted -= part
        tables.append(part.astype(np.int16))
    return InputPort(name, tensor.dtype, tensor.shape, name, np.concatenate(tables))


def output_port(
    graph: Graph,
    name: str,
    device_name: str,
    code: Code,
    wide_scale: FloatArray | None,
    clamp: tuple[float, float],
) -> OutputPort:
    """Factor from device steps to the host tensor's steps, and what the host clamps."""
    tensor = graph.tensors[name]
    if tensor.quantization is None:
        raise ValueError(f"tensor '{name}' is not quantized")
    scale = np.asarray(code.scale if wide_scale is None else wide_scale, np.float64)
    low, high = tensor.dtype.code_range
    zero_point, step = tensor.quantization.single_zero_point, tensor.quantization.single_scale
    least, most = (
        int(np.clip(np.rint(end / step) + zero_point, low, high)) if math.isfinite(end) else other
        for end, other in zip(clamp, (low, high), strict=True)
    )
    return OutputPort(
        tensor=name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        device=device_name,
        factor=scale / step,
        zero_point=zero_point,
        low=least,
        high=most,
    )
