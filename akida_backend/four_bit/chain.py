# SPDX-License-Identifier: Apache-2.0
"""Layer by layer from the input of a chain to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from akida_backend.four_bit.codes import EVENNESS, ONE_SCALE, Codes, coded, evened, searched_scale
from akida_backend.four_bit.layers import (
    Gain,
    InputCode,
    LowBitCode,
    QuantizedChain,
    QuantizedLayer,
    RealLayer,
    Reals,
    SourceCode,
)
from akida_backend.four_bit.rows import Values, convolved, pooled, sample_rows
from akida_backend.four_bit.weights import STEPS, Choice, choose_weights

Progress = Callable[[int, int, str], None]

SEED: Final = 20_260_101
RANGE_STEP: Final = "activation range"
EVENING_STEP: Final = "equalisation"
LEAST_ERROR: Final = 1e-30


def quantize_chain(
    layers: Sequence[RealLayer],
    source: Sequence[Values],
    entry: Values,
    code: InputCode,
    progress: Progress | None = None,
) -> QuantizedChain:
    """Few-bit integers for a chain, chosen on calibration inputs.

    Args:
        layers: In order; the last may be without activation.
        source: Real input of every layer in the source, (samples, height, width, channels).
        entry: Real input the chain will really get: ``source[0]`` unless something in front of the
            chain is quantized as well.
        code: What the input becomes.
        progress: Called with the number of layers done, of all, and the name of the next.
    """
    rng = np.random.default_rng(SEED)
    journal = _Journal()
    offered = list(_entry_codes(layers[0], entry, code))
    input_scale: Reals | None = None
    quantized: list[QuantizedLayer] = []
    errors: list[float] = []
    for number, layer in enumerate(layers):
        if progress is not None:
            progress(number, len(layers), layer.name)
        sums = convolved(source[number], layer, layer.weights) + layer.bias
        positions = np.random.default_rng(rng.integers(2**63))
        codes, choice = _best_entry(layer, offered, sums, positions, journal)
        if number:
            quantized[-1] = _with_scale(quantized[-1], codes.scale, layers[number - 1])
        else:
            input_scale = codes.scale
        following = layers[number + 1] if number + 1 < len(layers) else None
        result, offered, error = _finished(layer, codes, choice, sums, following, journal)
        quantized.append(result)
        errors.append(error)
    assert input_scale is not None
    return QuantizedChain(input_scale, tuple(quantized), tuple(errors), journal.gains())


def _entry_codes(layer: RealLayer, entry: Values, code: InputCode) -> Iterator[Codes]:
    channels = entry.shape[-1]
    nothing = np.zeros(channels)
    match code:
        case SourceCode():
            scale = np.full(channels, code.scale)
            yield Codes(np.rint(entry / scale), scale, nothing)
        case LowBitCode():
            chosen, _, _ = searched_scale(np.maximum(entry, 0), entry, code.highest)
            for evenness in _evenness(layer):
                scale = evened(chosen, evenness)
                yield Codes(coded(entry, scale, code.highest), scale, nothing)


def _evenness(layer: RealLayer) -> tuple[int, ...]:
    """A depthwise layer takes up any scale of its channel: nothing to weigh up.

    Integers of the source stay integers on one scale only, but for filters of a single weight.
    """
    if layer.depthwise:
        return EVENNESS[:1]
    taps = np.count_nonzero(layer.weights.reshape(len(layer.weights), -1), axis=1)
    return EVENNESS if layer.grid is None or taps.max() < 2 else ONE_SCALE


def _best_entry(
    layer: RealLayer,
    offered: Sequence[Codes],
    sums: Values,
    positions: np.random.Generator,
    journal: _Journal,
) -> tuple[Codes, Choice]:
    """The input scales and weights that leave the least error."""
    state = positions.bit_generator.state
    found: list[tuple[Codes, Choice, dict[str, float]]] = []
    for codes in offered:
        positions.bit_generator.state = state  # the same rows for all
        choosing, judging = sample_rows(codes.values, sums, layer, positions)
        real, bias = _grouped(layer, codes)
        own = _own_scale(layer, codes)
        choice, errors = choose_weights(layer, real, bias, choosing, judging, own)
        found.append((codes, choice, errors))
    best = min(found, key=lambda entry: entry[1].error)
    journal.weights(best[2])
    if len(found) > 1:
        journal.add(EVENING_STEP, found[0][1].error, best[1].error)
    return best[0], best[1]


def _grouped(layer: RealLayer, codes: Codes) -> tuple[Reals, Reals]:
    """Weights on the scale of the codes and biases, filters in groups that read the same inputs."""
    weights = layer.weights * codes.scale
    added = (layer.weights * codes.offset).sum(axis=(1, 2) if layer.depthwise else (1, 2, 3))
    bias = layer.bias + np.ravel(added)
    if layer.depthwise:
        _, height, width, channels = weights.shape
        return weights.reshape(height * width, channels).T[:, None, :], bias[:, None]
    return weights.reshape(1, len(weights), -1), bias[None]


def _own_scale(layer: RealLayer, codes: Codes) -> Reals | None:
    """Potential scale, (groups, filters), on which the source's weights are integers."""
    if layer.grid is None:
        return None
    if layer.depthwise:
        grouped: Reals = (layer.grid * codes.scale)[:, None]
        return grouped
    if not np.allclose(codes.scale, codes.scale[0], rtol=1e-12, atol=0):
        return None
    single: Reals = np.broadcast_to(layer.grid * codes.scale[0], (1, len(layer.bias)))
    return single


def _ungrouped(layer: RealLayer, weights: Reals) -> Reals:
    flat = weights[:, 0].T if layer.depthwise else weights[0]
    shaped: Reals = flat.reshape(layer.weights.shape)
    return shaped


def _finished(
    layer: RealLayer,
    codes: Codes,
    choice: Choice,
    sums: Values,
    following: RealLayer | None,
    journal: _Journal,
) -> tuple[QuantizedLayer, list[Codes], float]:
    """The layer in integers, what it may give to the next one, and its error."""
    weights = _ungrouped(layer, choice.weights)
    scale, offset = choice.scale.ravel(), choice.offset.ravel()
    potentials = pooled(convolved(codes.values, layer, weights), layer)
    wanted = pooled(sums, layer)
    if layer.average:
        _, height, width, _ = sums.shape
        scale, wanted = scale / (height * width), wanted / (height * width)
    given = potentials * scale + offset
    integers = weights.astype(np.int8)
    if not layer.activated:
        result = QuantizedLayer(integers, scale, offset, None)
        return result, [Codes(potentials, scale, offset)], _relative(given, wanted)
    wanted = np.clip(wanted, 0, layer.bound)
    highest = 2**layer.output_bits - 1
    if layer.level is not None:
        chosen = np.full(wanted.shape[-1], layer.level)
    else:
        chosen, whole, least = searched_scale(wanted, given, highest)
        journal.add(RANGE_STEP, whole, least)
    offered = []
    given_scale = following is None or layer.level is not None
    for evenness in EVENNESS[:1] if given_scale or following is None else _evenness(following):
        result = QuantizedLayer(integers, scale, offset, evened(chosen, evenness))
        offered.append(_stepped(result, potentials, layer.output_bits))
    result = QuantizedLayer(integers, scale, offset, offered[0].scale)
    return result, offered, _relative(offered[0].values * offered[0].scale, wanted)


def _with_scale(layer: QuantizedLayer, scale: Reals, real: RealLayer) -> QuantizedLayer:
    """The layer with the output scale that the layer behind it has chosen."""
    if not real.activated:
        return layer
    return QuantizedLayer(layer.weights, layer.scale, layer.offset, scale)


def _stepped(layer: QuantizedLayer, potentials: Values, bits: int) -> Codes:
    """Output codes by threshold and step, as the device forms them."""
    assert layer.output_scale is not None
    levels = np.ceil((potentials - layer.threshold) / layer.step)
    values = np.clip(levels, 0, 2**bits - 1)
    return Codes(values, layer.output_scale, np.zeros(values.shape[-1]))


def _relative(found: Values, wanted: Values) -> float:
    power = float(np.mean(wanted.astype(np.float64) ** 2))
    error = float(np.mean((found - wanted).astype(np.float64) ** 2))
    return error / max(power, LEAST_ERROR)


class _Journal:
    """Errors before and after each step, layer by layer."""

    def __init__(self) -> None:
        self._ratios: dict[str, list[float]] = {}

    def weights(self, errors: dict[str, float]) -> None:
        before, *after = errors.values()
        for step, error in zip(STEPS, after, strict=True):
            self.add(step, before, error)
            before = error

    def add(self, step: str, before: float, after: float) -> None:
        ratio = max(after, LEAST_ERROR) / max(before, LEAST_ERROR)
        self._ratios.setdefault(step, []).append(ratio)

    def gains(self) -> tuple[Gain, ...]:
        order = (*STEPS, RANGE_STEP, EVENING_STEP)
        return tuple(
            Gain(
                step,
                len(self._ratios[step]),
                sum(ratio < 1 for ratio in self._ratios[step]),
                round(float(np.mean([-10 * np.log10(ratio) for ratio in self._ratios[step]])), 6),
            )
            for step in order
            if step in self._ratios
        )
