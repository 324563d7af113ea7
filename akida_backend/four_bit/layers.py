# SPDX-License-Identifier: Apache-2.0
"""What the quantizer is given, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.graph import NO_PADS, ONE, Pads, Size2D

Reals = NDArray[np.float64]

LARGEST_POTENTIAL: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Window:
    """Max pooling of potentials."""

    size: Size2D
    stride: Size2D
    pads: Pads = NO_PADS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RealLayer:
    """One layer of a sequential chain over real numbers.

    Attributes:
        name: For progress and report.
        weights: OHWI, of a depthwise layer 1HWC.
        bias: (filters,).
        depthwise: Filter c reads channel c.
        activated: A ReLU and a few bits follow. False for the last layer, whose potentials leave
            the chain, and for a depthwise half, whose potentials a pointwise layer takes.
        bound: Where the ReLU saturates, None: nowhere.
        pool: Max pooling before the ReLU.
        average: Global average pooling before the ReLU.
        weight_bits: Of the signed weights.
        output_bits: Of the unsigned codes behind the ReLU.
        grid: Scale per filter of source weights that have so few bits already; these integers
            stay where the input has one scale.
        level: Real height of one output code where the source's codes have so few bits already.
    """

    name: str
    weights: Reals
    bias: Reals
    depthwise: bool = False
    stride: Size2D = ONE
    pads: Pads = NO_PADS
    activated: bool = True
    bound: float | None = None
    pool: Window | None = None
    average: bool = False
    weight_bits: int = 4
    output_bits: int = 4
    grid: NDArray[np.floating] | None = None
    level: float | None = None


@dataclass(frozen=True, slots=True)
class SourceCode:
    """Input that keeps the source's integers, an image or few bits: ``real = scale * code``."""

    scale: float


@dataclass(frozen=True, slots=True)
class LowBitCode:
    """Input of a chain that is to get a few unsigned codes, on a scale the quantizer chooses."""

    highest: int = 15


InputCode = SourceCode | LowBitCode


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedLayer:
    """Integers of one layer; ``real = scale * potential + offset`` per filter.

    Attributes:
        weights: Shaped as the layer's.
        scale: float64 (filters,), positive; of potentials summed over the map where the layer
            averages.
        offset: float64 (filters,): the bias.
        output_scale: float64 (filters,): real height of one output code; None without activation.
    """

    weights: NDArray[np.int8]
    scale: Reals
    offset: Reals
    output_scale: Reals | None

    @property
    def step(self) -> Reals:
        """Potentials per output code."""
        if self.output_scale is None:
            raise ValueError("a layer without activation has no steps")
        return self.output_scale / self.scale

    @property
    def threshold(self) -> NDArray[np.int64]:
        """Largest potential that gives code 0: half a step below the first code's value."""
        if self.output_scale is None:
            raise ValueError("a layer without activation has no thresholds")
        exact = (self.output_scale / 2 - self.offset) / self.scale
        limit = float(LARGEST_POTENTIAL)
        return np.rint(np.clip(exact, -limit, limit)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Gain:
    """What one step of the quantizer bought.

    Attributes:
        step: Its name.
        layers: Layers it could change.
        kept: Layers where it made the error smaller, and stayed.
        decibels: Mean over all layers of the error's decrease.
    """

    step: str
    layers: int
    kept: int
    decibels: float


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedChain:
    """A chain in integers.

    Attributes:
        input_scale: float64 per channel: real height of one input code.
        layers: As many as were given.
        errors: Per layer, mean squared error of its output on the calibration inputs over the mean
            square of what it should be.
        gains: What each step bought, in the order of the steps.
    """

    input_scale: Reals
    layers: tuple[QuantizedLayer, ...]
    errors: tuple[float, ...]
    gains: tuple[Gain, ...]
