# SPDX-License-Identifier: Apache-2.0
"""Calibration: ranges of the source on real inputs, and biases tuned against it layer by layer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.calibration_data import calibration_samples, digests
from akida_backend.candidate import Candidate, device_shape
from akida_backend.errors import InputError
from akida_backend.execute import run_source
from akida_backend.graph import AnyArray, Graph
from akida_backend.lowering import Correction, Lower, Lowered, LoweringContext
from akida_backend.options import Options
from akida_backend.parameters import FloatArray, Refusal
from akida_backend.program import Add, Akida1Layer, Code, Concatenate, InputPort, LookUpTable
from akida_backend.simulator import encode, run_layer

logger: Final = logging.getLogger("akida_backend")

# Measured on MLPerf Tiny networks: 64 inputs gain, 4 are worse than none.
FEWEST_SAMPLES: Final = 16
ROUNDS: Final = 3
LEAST_ACTIVE: Final = 0.1  # share of unclipped values that a bias is taken to act on at least
TUNING_MACS: Final = 2 * 10**9  # per pass over a segment; bounds the samples of large networks
CHUNK: Final = 8  # samples a layer runs on at a time


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Calibration inputs: stored values by input name."""

    feeds: Mapping[str, AnyArray]

    @property
    def count(self) -> int:
        return len(next(iter(self.feeds.values())))

    def measure(self, graph: Graph) -> Measured:
        """Run a (legalised) graph in reference arithmetic."""
        names = [name for name, tensor in graph.tensors.items() if not tensor.is_constant]
        return Measured(graph, run_source(graph, self.feeds, tensors=names))


@dataclass(frozen=True, eq=False)
class Measured:
    """Stored values of every tensor of `graph` on the calibration inputs."""

    graph: Graph
    values: Mapping[str, AnyArray]

    @cached_property
    def peaks(self) -> Mapping[str, NDArray[np.float64]]:
        """Largest magnitude per channel, real values, of all quantized activations."""
        peaks = {}
        for name, tensor in self.graph.tensors.items():
            if name in self.values and tensor.is_quantized and len(tensor.shape) <= 4:
                stored = self.values[name].reshape(-1, device_shape(tensor)[2])
                ends = np.stack([stored.min(axis=0), stored.max(axis=0)])
                peaks[name] = np.abs(self._reals(name, ends)).max(axis=0)
        return peaks

    def real(self, name: str, samples: int) -> FloatArray:
        """Real values of the first samples, (samples, height, width, channels)."""
        return self.reals(name, self.values[name][:samples])

    def reals(self, name: str, stored: AnyArray) -> FloatArray:
        """What stored values of a tensor stand for, (samples, height, width, channels)."""
        real = self._reals(name, stored)
        return real.reshape(len(stored), *device_shape(self.graph.tensors[name]))

    def _reals(self, name: str, stored: AnyArray) -> FloatArray:
        quantization = self.graph.tensors[name].quantization
        if quantization is None:
            raise ValueError(f"tensor '{name}' is not quantized")
        zero, scale = quantization.single_zero_point, quantization.single_scale
        return (stored.astype(np.float64) - zero) * scale


def calibrate(graph: Graph, options: Options) -> Calibration | None:
    """Read the calibration inputs that the options name.

    Raises:
        InputError: They do not fit the model, or are too few to be of use.
    """
    if options.calibration is None:
        return None
    samples = calibration_samples(graph, options.calibration, options.calibration_limit)
    for note in samples.notes:
        logger.warning("calibration: %s", note)
    calibration = Calibration(samples.feeds)
    found = digests(samples.feeds)
    distinct = calibration.count * len(set(found)) // len(found)
    if distinct >= FEWEST_SAMPLES:
        return calibration
    if options.allow_uncalibrated:
        return None
    same = "" if distinct == calibration.count else f", {distinct} of them distinct"
    raise InputError(
        f"calibration has {calibration.count} samples{same}; at least {FEWEST_SAMPLES} are needed: "
        "scales chosen from fewer are worse than none\n"
        "  give 64 typical inputs, or allow_uncalibrated to do without them"
    )


class Tuner:
    """Device values of a segment on the calibration inputs, as far as it is lowered.

    Each layer runs on what the layers before it really give, so that a bias also takes off the
    mean error they brought along.
    """

    def __init__(
        self, measured: Measured, entry: InputPort, codes: Mapping[str, Code], macs: int
    ) -> None:
        self._samples = max(FEWEST_SAMPLES, TUNING_MACS // max(macs, 1))
        height, width, channels = device_shape(measured.graph.tensors[entry.tensor])
        shape = (height, width, channels * codes[entry.device].parts)
        device = encode(entry, measured.values[entry.tensor][: self._samples], shape)
        self._measured = measured
        self._codes = codes
        self._device: dict[str, NDArray[np.int64]] = {entry.device: device.astype(np.int64)}

    def rename(self, before: str, after: str) -> None:
        shape = device_shape(self._measured.graph.tensors[after])
        values = self._device[before]
        self._device[after] = values.reshape(len(values), *shape)

    def tune(
        self, candidate: Candidate, lowered: Lowered, context: LoweringContext, lower: Lower
    ) -> Lowered:
        """The layer with the bias and multiplier per filter nearest to the source's output.

        A filter's bias takes off its mean error; of the multipliers next to the nearest one the
        one that leaves the least squared error is kept.
        """
        best = lowered
        if not isinstance(lowered.layer, Add | Concatenate | Akida1Layer) and not isinstance(
            lowered.layer.activation, LookUpTable
        ):
            best = self._search(candidate, lowered, context, lower)
        self._device[candidate.output] = self._run(best)
        return best

    def _search(
        self, candidate: Candidate, lowered: Lowered, context: LoweringContext, lower: Lower
    ) -> Lowered:
        name = candidate.output
        target = self._measured.real(name, self._samples)
        add = context.sums.get(name)
        if add is not None:
            other = add.b if add.a == name else add.a
            target = target - context.tie_error(add) - self._mean_error(other)
        filters = target.shape[-1]
        least = np.full(filters, np.inf)
        kept = Correction(np.zeros(filters), np.ones(filters))

        def attempt(correction: Correction) -> FloatArray | None:
            """Bias still to take off after a trial; remembers the filters it served best."""
            nonlocal least, kept
            trial = lower(candidate, replace(context, corrections={name: correction}))
            if isinstance(trial, Refusal):
                return None
            error, active = self._error(name, trial, self._run(trial), target)
            squared = (error**2).sum(axis=(0, 1, 2))
            better = squared < least
            least = np.where(better, squared, least)
            kept = Correction(
                np.where(better, correction.bias, kept.bias),
                np.where(better, correction.gain, kept.gain),
            )
            reach = np.maximum(active.mean(axis=(0, 1, 2)), LEAST_ACTIVE)
            rest: FloatArray = error.mean(axis=(0, 1, 2)) / reach
            return rest

        def centre(correction: Correction, rounds: int) -> None:
            for _ in range(rounds):
                rest = attempt(correction)
                if rest is None:
                    return
                correction = replace(correction, bias=correction.bias + rest)

        centre(kept, ROUNDS)
        if lowered.output_scale is None:
            assert not isinstance(lowered.layer, Add | Concatenate | Akida1Layer)
            multiplier = np.maximum(lowered.layer.rescale.multiplier.astype(np.float64), 1.0)
            for step in (-1.0, 1.0):
                centre(replace(kept, gain=(multiplier + step) / multiplier), ROUNDS - 1)
        final = lower(candidate, replace(context, corrections={name: kept}))
        return lowered if isinstance(final, Refusal) else final

    def _mean_error(self, name: str) -> FloatArray:
        """Mean real error per channel of a tensor that is lowered already."""
        real = self._device[name] * np.asarray(self._codes[name].scale)
        error = real - self._measured.real(name, self._samples)
        mean: FloatArray = error.mean(axis=(0, 1, 2))
        return mean

    def _run(self, lowered: Lowered) -> NDArray[np.int64]:
        operands = tuple(self._device[name] for name in lowered.layer.inputs)
        count = len(operands[0])
        return np.concatenate(
            [
                run_layer(lowered.layer, tuple(x[i : i + CHUNK] for x in operands))
                for i in range(0, count, CHUNK)
            ]
        )

    def _error(
        self, name: str, lowered: Lowered, values: NDArray[np.int64], target: FloatArray
    ) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Real error of the output, and where it follows the bias (is not clipped)."""
        code = self._codes[name]
        if lowered.output_scale is not None:
            return values * lowered.output_scale - target, np.ones(values.shape, np.bool_)
        low, high = code.limits
        clipped = (values <= low) | (values >= high)
        if float(target.min()) >= 0.0:
            clipped |= values == 0
        return values * np.asarray(code.scale) - target, ~clipped
