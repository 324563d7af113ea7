# SPDX-License-Identifier: Apache-2.0
"""Scales of few-bit unsigned codes: ranges per channel, and how even they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from akida_backend.four_bit.layers import Reals
from akida_backend.four_bit.rows import Values

RANGES: Final = np.linspace(0.3, 1.0, 29)
MOST_VALUES: Final = 6_000  # per channel, that a range is searched on
# Quarters of the exponent of the scale per channel. 4: every channel fills its codes; 0: all have
# one scale. In between is cross-layer equalisation, because the weights behind take the scales up.
EVENNESS: Final = (4, 3, 2, 1, 0)
ONE_SCALE: Final = (0,)


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """What a layer gets: ``real = scale * values + offset`` per channel.

    Attributes:
        values: Integers, (samples, height, width, channels).
        scale: (channels,).
        offset: (channels,); not 0 only between the halves of a separable layer.
    """

    values: Values
    scale: Reals
    offset: Reals


def searched_scale(wanted: Values, given: Values, highest: int) -> tuple[Reals, float, float]:
    """Scale per channel that brings codes of `given` nearest to `wanted`.

    Args:
        wanted: Real values behind the activation, channels last.
        given: Real values before codes are formed, where they differ from `wanted`.
        highest: Of the unsigned codes.

    Returns:
        Scales, and the mean squared error with the whole range and with the chosen one.
    """
    channels = wanted.shape[-1]
    targets = wanted.reshape(-1, channels).astype(np.float64)
    values = given.reshape(-1, channels).astype(np.float64)
    whole = np.maximum(targets.max(axis=0), 1e-9) / highest
    thin = max(1, len(targets) // MOST_VALUES)
    targets, values = targets[::thin], values[::thin]
    best, least = whole, np.full(channels, np.inf)
    error = least
    for part in RANGES:
        scale = whole * part
        error = ((np.clip(np.rint(values / scale), 0, highest) * scale - targets) ** 2).mean(axis=0)
        better = error < least
        best, least = np.where(better, scale, best), np.where(better, error, least)
    return best, float(error.mean()), float(least.mean())


def evened(scale: Reals, quarters: int) -> Reals:
    """Scales drawn towards their root mean square."""
    level = np.sqrt(np.mean(scale**2))
    quarter = np.sqrt(np.sqrt(scale / level))  # roots are the same everywhere, powers are not
    evenly: Reals = np.full_like(scale, level)
    for _ in range(quarters):
        evenly *= quarter
    return evenly


def coded(real: Values, scale: Reals, highest: int) -> Values:
    """Codes of real values, round half to even."""
    return np.clip(np.rint(real / scale), 0, highest)
