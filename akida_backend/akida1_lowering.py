# SPDX-License-Identifier: Apache-2.0
"""One segment of Akida 1.0 as a program: the 8/4/4 quantizer's integers in device layers.

The last layer of a segment has no activation: its potentials leave the device, and the host forms
its own integers of them, so no 4-bit rounding stands at the end.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import Final, TypedDict

import numpy as np
from numpy.typing import NDArray

from akida_backend.akida1_chain import (
    TINY,
    Arriving,
    Entry,
    Link,
    data_free_chain,
    entry_of,
    exact_chain,
    links_of,
    losses,
    quantizer_code,
    source_values,
    unsigned,
    weighted_operations,
    with_signs_apart,
)
from akida_backend.akida1_exact import (
    Staircase,
    fitted_staircase,
    fixed_point_steps,
    step_notes,
)
from akida_backend.calibration import Measured
from akida_backend.candidate import LEVEL_BITS
from akida_backend.constraints import LayerType
from akida_backend.devices import Device
from akida_backend.errors import InputError
from akida_backend.four_bit import (
    QuantizedChain,
    QuantizedLayer,
    quantize_chain,
)
from akida_backend.graph import (
    Graph,
)
from akida_backend.lowering import filter_bank, lowered_pool
from akida_backend.options import Options
from akida_backend.parameters import FloatArray, Refusal
from akida_backend.partition import Region
from akida_backend.plan import QuantizerStep, WeightNote
from akida_backend.program import (
    Akida1Layer,
    Code,
    Convolutional,
    InputConvolutional,
    InputPort,
    NoActivation,
    Padding,
    Program,
    SeparableConvolutional,
    StepActivation,
)
from akida_backend.program import FullyConnected as FullyConnectedLayer
from akida_backend.program_check import overflow, potential_limits
from akida_backend.scales import image_code
from akida_backend.segments import (
    LoweredSegment,
    SegmentRefusal,
    device_tensor,
    input_port,
    output_port,
    unused_name,
)

logger: Final = logging.getLogger("akida_backend.four_bit")

CONSTANT_STEPS: Final = 2**10  # of a filter without weights, whose potential is 0
NEGLIGIBLE: Final = 2.0**-10  # of a bias, far below half a step of 8 bits
UNMOVED: Final = 1e-6  # steps of a weight that stayed but for float rounding
INT32: Final = 2**31 - 1
STEPS_ASSUMED: Final = (
    "A potential exactly on a step of an activation counts as below it; that is inferred from the "
    "published converters, no page states it."
)


def lower_akida1(
    region: Region,
    graph: Graph,
    device: Device,
    name: str,
    measured: Measured | None,
    arriving: Arriving | None,
    options: Options,
) -> LoweredSegment | SegmentRefusal:
    """Quantize the layers of a region in a chain, or name the one that does not fit.

    Args:
        region: Its candidates follow one another.
        graph: Legalised graph.
        device: Target.
        name: Of the program.
        measured: Source values on the calibration inputs, if there are any.
        arriving: What the segments in front make of them; the new one joins these.
        options: Whether four bits may be chosen blindly.

    Raises:
        InputError: Bits must be taken off, there are no calibration inputs, and nobody said that
            none are needed.
    """
    first, *rest = links_of(region, graph)
    entry = entry_of(first, graph, device)
    links = [with_signs_apart(first) if entry is Entry.SIGNS else first, *rest]
    code = quantizer_code(entry, first, graph)
    exact = exact_chain(links, code, graph)
    lost = [] if exact is not None else losses(links, graph)
    if exact is None and measured is None and not options.allow_uncalibrated:
        raise _uncalibrated(device, lost)
    chain = exact or data_free_chain(links, entry, graph)
    if exact is None and measured is not None and arriving is not None:
        sources = source_values(links, measured, entry)
        arrived = arriving.stored(region.input)[: len(sources[0])]
        values = unsigned(measured.reals(first.input, arrived), entry)
        real = [layer for link in links for layer in link.real]
        chain = quantize_chain(real, sources, values, code, _log_progress)
        _log_gains(name, chain)
    results = iter(chain.layers)
    codes = {region.input: _entry_code(first, entry, graph, chain)}
    layers: list[Akida1Layer] = []
    notes: list[WeightNote] = []
    staircases: list[Staircase] = []
    for link in links:
        halves = tuple(next(results) for _ in link.real)
        read = codes[link.input]
        height, width, channels = link.shape
        shape = (height, width, channels * read.parts)
        taken = chain.input_scale if link is links[0] else np.asarray(read.scale)
        note = _note(link, halves, taken, graph, calibrated=bool(chain.gains))
        if note.max_error > UNMOVED:
            notes.append(note)
        if link.is_diagonal:
            halves = (_diagonal(halves[0]),)
        if link is links[0] and entry is Entry.SUM:
            halves = tuple(_twice(half) for half in halves)
        least = NEGLIGIBLE if exact is None else 0.0
        halves = (*halves[:-1], _with_constants(link, halves, read, shape, least))
        layer = _layer(link, halves, read, shape)
        if exact is not None and halves[-1].output_scale is not None:
            layer, staircase = _with_own_steps(layer, link, read, shape, graph)
            staircases.append(staircase)
        problem = overflow(layer, shape, (0, read.limits[1]))
        if problem is not None:
            summed = link.candidate.average is not None
            refusal = Refusal("LOWER-POST-OP" if summed else "LOWER-ACCUMULATOR", problem)
            return SegmentRefusal(link.candidate, refusal)
        label = unused_name(layer.name, {earlier.name for earlier in layers})
        layers.append(dataclasses.replace(layer, name=label))
        codes[layer.output] = _output_code(layer, halves[-1])
    carrier = links[-1].candidate
    exit_code = codes[carrier.output]
    program = Program(
        name=name,
        device=device.name,
        tensors={tensor: device_tensor(graph, tensor, code) for tensor, code in codes.items()},
        layers=tuple(layers),
        input=_input_port(graph, region.input, codes[region.input], entry),
        output=output_port(graph, region.output, carrier.output, exit_code, None, carrier.clamp),
    )
    if arriving is not None:
        arriving.pass_through(program)
    return LoweredSegment(
        program,
        (STEPS_ASSUMED,) if len(layers) > 1 else (),
        tuple(notes),
        tuple(QuantizerStep(g.step, g.layers, g.kept, g.decibels) for g in chain.gains),
        (
            *step_notes(staircases),
            *(f"Not kept as it is: {reason}." for reason in lost),
            *_separable_notes(links, chain, exact=exact is not None),
        ),
    )


def _separable_notes(links: Sequence[Link], chain: QuantizedChain, *, exact: bool) -> list[str]:
    """The rewrite of two layers into one, with the error it is measured to have."""
    found = []
    position = 0
    for link in links:
        first, *rest = link.real
        position += len(link.real)
        if not rest:
            continue
        error = "not measured without calibration inputs"
        if exact:
            error = "nothing is lost between them"
        if chain.errors:
            decibels = -10 * math.log10(max(chain.errors[position - 1], TINY))
            error = f"its output lies {decibels:.1f} dB from the source's on the calibration inputs"
        found.append(
            f"'{first.name}' and '{rest[-1].name}', with at most requantization between them, "
            f"became one SeparableConvolutional: {error}."
        )
    return found


def _uncalibrated(device: Device, lost: Sequence[str]) -> InputError:
    return InputError(
        f"'{device.name}' has 4-bit weights and activations, which INT8 models do not survive "
        "without calibration inputs\n  give calibration=..., 64 typical inputs, or "
        "allow_uncalibrated to see the placement alone"
        + "".join(f"\n  few bits are not kept as they are: {reason}" for reason in lost)
    )


def _one_or_all(scale: FloatArray) -> tuple[float, ...]:
    values = tuple(scale.tolist())
    return values[:1] if len(set(values)) == 1 else values


def _entry_code(link: Link, entry: Entry, graph: Graph, chain: QuantizedChain) -> Code:
    if entry is Entry.IMAGE:
        return image_code(graph, link.input)
    scale = np.tile(chain.input_scale, 2) if entry is Entry.SUM else chain.input_scale
    return Code(_one_or_all(scale), LEVEL_BITS, signed=False, parts=entry.parts)


def _output_code(layer: Akida1Layer, result: QuantizedLayer) -> Code:
    if result.output_scale is None:
        return Code(_one_or_all(_potential_scale(result)), bits=32)
    return Code(_one_or_all(result.output_scale), layer.output_bits, signed=False)


def _input_port(graph: Graph, name: str, code: Code, entry: Entry) -> InputPort:
    """Tables from the host's 8-bit integers to device codes, ties to even."""
    if entry is Entry.IMAGE:
        return input_port(graph, name, code)
    tensor = graph.tensors[name]
    assert tensor.quantization is not None
    low, high = tensor.dtype.code_range
    stored = np.arange(low, high + 1, dtype=np.float64)
    real = (stored - tensor.quantization.single_zero_point) * tensor.quantization.single_scale
    _, top = code.limits
    # One scale: a table per part. More: one per channel, the parts one behind the other.
    per_part = np.resize(code.scale, (code.parts, max(1, len(code.scale) // code.parts)))
    tables = []
    for part, scales in enumerate(per_part):
        sign, less = (-1, 0) if part and entry is Entry.SIGNS else (1, part * top)
        tables += [np.clip(np.rint(sign * real / scale) - less, 0, top) for scale in scales]
    recode = np.concatenate(tables).astype(np.int16)
    return InputPort(name, tensor.dtype, tensor.shape, name, recode)


class _Common(TypedDict):
    name: str
    inputs: tuple[str, ...]
    output: str
    weights: NDArray[np.int8]
    weights_bits: int
    threshold: NDArray[np.int32]
    activation: StepActivation | NoActivation
    output_bits: int


def _layer(
    link: Link, halves: Sequence[QuantizedLayer], entry: Code, shape: tuple[int, int, int]
) -> Akida1Layer:
    """The device layer of a link.

    Args:
        link: The layer.
        halves: What the quantizer made of it.
        entry: Code of its input.
        shape: Of its input, in device channels.
    """
    result = halves[-1]
    layer = _potential_layer(link, halves, entry)
    # The device sums stored codes, the quantizer those less the zero point.
    shift = entry.zero_point * _flat(result).sum(axis=1)
    if result.output_scale is None:
        threshold = np.rint(-result.offset / _potential_scale(result)) + shift
        return dataclasses.replace(layer, threshold=_int32(threshold))
    dead = _dead(result)
    step = np.where(dead, 1.0, result.step)
    threshold = np.where(dead, np.rint(0.5 - result.offset / result.output_scale), result.threshold)
    low, high = potential_limits(layer, shape, entry.limits[1])
    most = 1 << link.real[-1].output_bits
    # Beyond the reach of the potentials a threshold makes no difference.
    threshold = np.clip(threshold + shift, low - np.ceil(most * step), high)
    return dataclasses.replace(
        layer,
        threshold=_int32(threshold),
        activation=fixed_point_steps(step),
        output_bits=link.real[-1].output_bits,
    )


def _with_own_steps(
    layer: Akida1Layer, link: Link, entry: Code, shape: tuple[int, int, int], graph: Graph
) -> tuple[Akida1Layer, Staircase]:
    """The layer with the staircase nearest to the source's rounding."""
    low, high = potential_limits(layer, shape, entry.limits[1])
    weights = layer.weights.reshape(len(layer.weights), -1).astype(np.int64)
    shift = entry.zero_point * weights.sum(axis=1)
    staircase = fitted_staircase(link.candidate, graph, low, high, shift)
    threshold = _int32(staircase.threshold)
    changed = dataclasses.replace(layer, threshold=threshold, activation=staircase.activation)
    return changed, staircase


def _potential_layer(link: Link, halves: Sequence[QuantizedLayer], entry: Code) -> Akida1Layer:
    """The layer without threshold and activation."""
    candidate, first, last = link.candidate, halves[0], halves[-1]
    stride, pool, average = link.real[0].stride, lowered_pool(candidate), link.real[-1].average
    is_dense = candidate.layer is LayerType.FULLY_CONNECTED
    common = _Common(
        name=candidate.base.location.name,
        inputs=(link.input,),
        output=candidate.output,
        weights=first.weights.reshape(len(first.weights), -1) if is_dense else first.weights,
        weights_bits=link.real[0].weight_bits,
        threshold=np.zeros(len(last.scale), np.int32),
        activation=NoActivation(),
        output_bits=32,
    )
    match candidate.layer:
        case LayerType.INPUT_CONVOLUTIONAL:
            same = candidate.facts.padding == "same"
            return InputConvolutional(
                **common,
                stride=stride,
                padding=Padding.SAME if same else Padding.VALID,
                padding_value=entry.zero_point,
                pool=pool,
            )
        case LayerType.CONVOLUTIONAL:
            return Convolutional(**common, stride=stride, pool=pool, global_average=average)
        case LayerType.SEPARABLE_CONVOLUTIONAL:
            return SeparableConvolutional(
                **common,
                pointwise_weights=last.weights.reshape(len(last.weights), -1),
                stride=stride,
                pool=pool,
                global_average=average,
            )
        case _:
            return FullyConnectedLayer(**common)


def _diagonal(result: QuantizedLayer) -> QuantizedLayer:
    """1HWC filters as OHWI ones that read one channel each."""
    _, height, width, channels = result.weights.shape
    weights = np.zeros((channels, height, width, channels), np.int8)
    each = np.arange(channels)
    weights[each, :, :, each] = result.weights[0].transpose(2, 0, 1)
    return dataclasses.replace(result, weights=weights)


def _twice(result: QuantizedLayer) -> QuantizedLayer:
    """Filters on twice the channels: both codes of a value meet the same weights."""
    return dataclasses.replace(result, weights=np.concatenate([result.weights] * 2, axis=-1))


def _with_constants(
    link: Link,
    halves: Sequence[QuantizedLayer],
    entry: Code,
    shape: tuple[int, int, int],
    least: float,
) -> QuantizedLayer:
    """The last half; filters whose weights make no difference beside their bias lose them.

    Networks have them: filters that died in training, with a bias far beyond any sum. Biases that
    no threshold holds make constants, too.

    Args:
        link: The layer.
        halves: What the quantizer made of it.
        entry: Code of its input.
        shape: Of its input, in device channels.
        least: Part of a bias that counts.
    """
    result = halves[-1]
    low, high = potential_limits(_potential_layer(link, halves, entry), shape, entry.limits[1])
    constant = (high - low) * result.scale < np.abs(result.offset) * least
    constant |= np.abs(result.offset) > INT32 * result.scale
    weights = np.where(constant.reshape(-1, 1, 1, 1), 0, result.weights).astype(np.int8)
    return dataclasses.replace(result, weights=weights)


def _flat(result: QuantizedLayer) -> NDArray[np.int64]:
    """Weights of a layer that is no depthwise half, (filters, weights per filter)."""
    flat: NDArray[np.int64] = result.weights.reshape(len(result.weights), -1).astype(np.int64)
    return flat


def _dead(result: QuantizedLayer) -> NDArray[np.bool_]:
    """Filters without a weight: their potential is 0 whatever a potential stands for."""
    dead: NDArray[np.bool_] = np.abs(_flat(result)).max(axis=1) == 0
    return dead


def _potential_scale(result: QuantizedLayer) -> FloatArray:
    """Real value of one potential of a layer without activation."""
    handy = np.where(result.offset == 0, 1.0, np.abs(result.offset) / CONSTANT_STEPS)
    scale: FloatArray = np.where(_dead(result), handy, result.scale)
    return scale


def _int32(values: FloatArray | NDArray[np.int64]) -> NDArray[np.int32]:
    return np.clip(values, -INT32, INT32).astype(np.int32)


def _note(
    link: Link,
    halves: Sequence[QuantizedLayer],
    input_scale: FloatArray,
    graph: Graph,
    *,
    calibrated: bool,
) -> WeightNote:
    """How far the weights moved, in steps of the source's scale."""
    largest = 0.0
    for op, real, half in zip(weighted_operations(link.candidate), link.real, halves, strict=True):
        area = math.prod(link.averaged_map(graph)) if real.average else 1
        along = (-1, 1, 1, 1) if not real.depthwise else (1, 1, 1, -1)
        found = half.weights * (half.scale * area).reshape(along) / input_scale
        step = np.resize(filter_bank(op, graph).scale, len(half.scale)).reshape(along)
        largest = max(largest, float((np.abs(found - real.weights) / step).max()))
        input_scale = half.scale
    bits = link.real[-1].weight_bits
    how = "on" if calibrated else "without"
    return WeightNote(
        link.candidate.base.location.name,
        f"weights re-quantized to {bits} bits, {how} calibration inputs",
        len(halves[-1].scale),
        largest,
    )


def _log_gains(name: str, chain: QuantizedChain) -> None:
    """What each step of the quantizer bought."""
    for gain in chain.gains:
        logger.info(
            "%s: %s kept in %d of %d layers, %.1f dB less error",
            name,
            gain.step,
            gain.kept,
            gain.layers,
            gain.decibels,
        )


def _log_progress(done: int, total: int, name: str) -> None:
    logger.info("quantizing layer %d of %d: %s", done + 1, total, name)
