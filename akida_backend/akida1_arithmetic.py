# SPDX-License-Identifier: Apache-2.0
"""Akida 1.0 arithmetic on integers, written to be read beside its source.

Values are int64 with channels on the last axis; parameters are per channel. Nothing overflows
while potentials have 32 bits and steps 24 fraction bits.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.akida_arithmetic import Integers, Limits
from akida_backend.program import NoActivation, StepActivation

MAX_STEP: Final = 2**24 - 1
MAX_STEP_SHIFT: Final = 24


def level_limits(bits: int) -> Limits:
    """Range of a layer's output: levels are unsigned.

    Source: akida API reference, `act_bits`.
    """
    return 0, (1 << bits) - 1


def weight_limits(bits: int) -> Limits:
    """Range of weights: two's complement; one bit stands for 0 and 1.

    Source: akida API reference, `weights_bits`; edge learning connects or does not.
    """
    if bits == 1:
        return 0, 1
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def above_threshold(potentials: Integers, threshold: NDArray[np.int32]) -> Integers:
    """``potential - threshold``: how far a neuron is from firing.

    Source: akida variable `threshold`, int32; cnn2snn gives a bias with its sign changed.
    """
    return potentials - threshold.astype(np.int64)


def levels(above: Integers, activation: StepActivation, bits: int) -> Integers:
    """``clip(ceil(above / step), 0, 2**bits - 1)`` in exact integers.

    Rounding:
        Up: a potential at the threshold gives 0, the next one 1; one that lies n whole steps
        above the threshold gives n.

    Source:
        akida variable `act_step`; that steps are open below and closed above
        follows from the two converters of cnn2snn, which round to nearest by half a step in the
        threshold. No page states it.
    """
    low, high = level_limits(bits)
    scaled = above << activation.step_shift.astype(np.int64)
    count: Integers = -(-scaled // activation.step.astype(np.int64))
    return np.clip(count, low, high, out=count)


def activate(above: Integers, activation: StepActivation | NoActivation, bits: int) -> Integers:
    """Levels, or what a layer without activation gives."""
    match activation:
        case NoActivation():
            return above
        case StepActivation():
            return levels(above, activation, bits)
