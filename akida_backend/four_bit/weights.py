# SPDX-License-Identifier: Apache-2.0
"""Few-bit weights of one layer, chosen on the codes it really gets.

Steps, each kept only where it makes the error smaller on rows that did not choose it:

* clipping: the scale per filter that minimises the squared error of its sums
* bias correction: the mean error of every filter joins its bias
* refitting: weights by ridge regression on the wanted sums, so that they make up for errors of the
  codes in front
* adaptive rounding: weight by weight, the error of each rounding spread over those still to be
  rounded (as optimal brain surgeon and GPTQ do)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from akida_backend.four_bit.layers import RealLayer, Reals
from akida_backend.four_bit.products import (
    BLOCK,
    Factor,
    factor,
    product,
    rounded_product,
    solved,
    triangle,
    turned,
)
from akida_backend.four_bit.rows import Rows

STEPS: Final = ("clipping", "bias correction", "refitting", "adaptive rounding")

# Weight of the source's weights in the regression, and damping of the rounding, over the mean
# diagonal of the inputs' covariance.
RIDGE: Final = 0.1
DAMPING: Final = 0.01
# Most weights per filter for which the covariance of the inputs is used: its size is their square,
# the time their cube. Beyond, inputs count as uncorrelated. 2,304 weights take a minute.
WIDEST: Final = 2560
CLIPS: Final = np.linspace(0.4, 1.05, 40)
CLIP_VALUES: Final = 1 << 19  # weights tried at once: few large products are the fastest


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Weights of all groups, and the error they leave.

    Attributes:
        weights: Integers, (groups, filters, weights per filter).
        scale: (groups, filters).
        offset: (groups, filters).
        error: Mean square on the judging rows.
    """

    weights: Reals
    scale: Reals
    offset: Reals
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class _Moments:
    """Means and second central moments of the choosing rows."""

    inputs: Reals  # (groups, weights per filter)
    wanted: Reals  # (groups, filters)
    covariance: Reals  # (groups, weights per filter, the same), or its diagonal in very wide layers
    crossed: Reals | None  # (groups, weights per filter, filters)


def choose_weights(
    layer: RealLayer,
    real: Reals,
    bias: Reals,
    choosing: Rows,
    judging: Rows,
    own: Reals | None = None,
) -> tuple[Choice, dict[str, float]]:
    """The integers of one layer.

    Args:
        layer: Gives bits and activation.
        real: Source weights on the scale of the input codes, (groups, filters, weights per filter).
        bias: Source bias with what the input codes' offset adds, (groups, filters).
        choosing: Rows the steps minimise on.
        judging: Rows that decide whether a step stays.
        own: Scales, (groups, filters), on which the source's weights are integers that stay.

    Returns:
        The choice, and by step the error after it (the same as before where it did not stay).
    """
    highest = 2 ** (layer.weight_bits - 1) - 1
    moments = _moments(choosing)
    largest = np.abs(real).max(axis=2)
    plain = np.where(largest > 0, largest, 1.0) / highest

    def judged(weights: Reals, scale: Reals, offset: Reals) -> Choice:
        return Choice(weights, scale, offset, _error(layer, weights, scale, offset, judging))

    def centred(weights: Reals, scale: Reals) -> Reals:
        """Offsets without a mean error."""
        sums: Reals = (weights * moments.inputs[:, None]).sum(axis=2) * scale
        return moments.wanted - sums

    def clipped(target: Reals) -> tuple[Reals, Reals]:
        scale = _clipped_scale(target, moments.covariance, plain, highest)
        return scale, _rounded(target, scale, highest)

    plain = plain if own is None else own
    best = judged(_rounded(real, plain, highest), plain, bias)
    errors = {"rounding to nearest": best.error}

    def keep_better(step: str, candidate: Choice) -> bool:
        nonlocal best
        better = candidate.error < best.error
        best = candidate if better else best
        errors[step] = best.error
        return better

    clipping, correction, refitting, rounding = STEPS
    if own is not None:
        keep_better(clipping, best)
        keep_better(correction, judged(best.weights, own, centred(best.weights, own)))
        keep_better(refitting, best)
        keep_better(rounding, best)
        return best, errors
    scale, weights = clipped(real)
    keep_better(clipping, judged(weights, scale, bias))
    keep_better(correction, judged(best.weights, best.scale, centred(best.weights, best.scale)))
    target = _refitted(real, moments)
    scale, weights = clipped(target)
    if not keep_better(refitting, judged(weights, scale, centred(weights, scale))):
        target = real
        scale, _ = clipped(target)
    weights = _adaptively_rounded(target, scale, moments.covariance, highest)
    scale = _fitted_scale(target, weights, scale, moments.covariance)
    keep_better(rounding, judged(weights, scale, centred(weights, scale)))
    return best, errors


def _moments(rows: Rows) -> _Moments:
    inputs, wanted = rows.inputs.mean(axis=1), rows.wanted.mean(axis=1)
    _, count, width = rows.inputs.shape
    if width > WIDEST:
        spread = ((rows.inputs - inputs[:, None]) ** 2).mean(axis=1)
        return _Moments(inputs, wanted, spread, None)
    centre = np.rint(inputs)  # x stay integers
    x = factor(turned(rows.inputs - centre[:, None]), count, 2)
    off = inputs - centre
    covariance = product(x, Factor(turned(x.codes), turned(x.unit))) / count
    covariance -= off[:, :, None] * off[:, None]
    crossed = product(x, factor(rows.wanted - wanted[:, None], count, 1)) / count
    return _Moments(inputs, wanted, covariance, crossed)


def _error(layer: RealLayer, weights: Reals, scale: Reals, offset: Reals, rows: Rows) -> float:
    potentials = rows.inputs @ turned(weights)  # of integers: exact
    sums = potentials * scale[:, None] + offset[:, None]
    return float(np.mean((activated(sums, layer) - activated(rows.wanted, layer)) ** 2))


def activated(sums: Reals, layer: RealLayer) -> Reals:
    """Real values behind the activation."""
    clamped: Reals = np.clip(sums, 0, layer.bound) if layer.activated else sums
    return clamped


def _rounded(target: Reals, scale: Reals, highest: int) -> Reals:
    return np.clip(np.rint(target / scale[..., None]), -highest - 1, highest)


def _damped(covariance: Reals, share: float) -> Reals:
    """With a share of the mean diagonal, and never singular."""
    if covariance.ndim == 2:
        mean = covariance.mean(axis=1, keepdims=True)
        spread: Reals = covariance + np.where(mean > 0, mean * share, 1.0)
        return spread
    size = covariance.shape[-1]
    mean = np.trace(covariance, axis1=1, axis2=2) / size
    added = np.where(mean > 0, mean * share, 1.0)
    return covariance + added[:, None, None] * np.eye(size)


def _weighed(weights: Reals, covariance: Reals | Factor) -> Reals:
    """Weights times the covariance of their inputs."""
    if isinstance(covariance, Factor):
        return product(factor(weights, weights.shape[2], 2), covariance)
    return weights * covariance[:, None]


def _weighing(covariance: Reals) -> Reals | Factor:
    damped = _damped(covariance, DAMPING)
    return damped if damped.ndim == 2 else factor(damped, damped.shape[1], 1)


def _clipped_scale(target: Reals, covariance: Reals, plain: Reals, highest: int) -> Reals:
    """Scale per filter with the least squared error of the sums."""
    weighing = _weighing(covariance)
    largest = np.abs(target).max(axis=2)
    start = np.where(largest > 0, largest / highest, plain)
    groups, filters, _ = target.shape
    parts = min(max(1, len(CLIPS) * target.size // CLIP_VALUES), len(CLIPS))
    errors = []
    for clips in np.array_split(CLIPS, parts):
        scale = (start[:, None] * clips[:, None]).reshape(groups, -1)
        many = np.tile(target, (1, len(clips), 1))
        change = _rounded(many, scale, highest) * scale[..., None] - many
        error = (_weighed(change, weighing) * change).sum(axis=2)
        errors.append(error.reshape(groups, len(clips), filters))
    best: Reals = start * CLIPS[np.concatenate(errors, axis=1).argmin(axis=1)]
    return best


def _refitted(real: Reals, moments: _Moments) -> Reals:
    if moments.crossed is None:
        return real
    damped = _damped(moments.covariance, RIDGE)
    pull = np.diagonal(damped - moments.covariance, axis1=1, axis2=2)[:, :, None]
    right = moments.crossed + pull * turned(real)
    return turned(solved(triangle(damped), right)).copy()


def _adaptively_rounded(target: Reals, scale: Reals, covariance: Reals, highest: int) -> Reals:
    """The weights whose inputs vary most go first; the rest makes up for their rounding."""
    if covariance.ndim == 2:  # no weight can make up for another
        return _rounded(target, scale, highest)
    damped = _damped(covariance, DAMPING)
    order = np.argsort(-np.diagonal(damped, axis1=1, axis2=2), axis=1, kind="stable")
    groups = np.arange(len(damped))[:, None]
    sorted_ = damped[groups[:, :, None], order[:, :, None], order[:, None, :]]
    lower = triangle(sorted_)
    real = np.take_along_axis(target, order[:, None, :], axis=2)
    chosen, missed = np.empty_like(real), np.empty_like(real)
    # What the roundings so far leave for each weight to make up for; the same as GPTQ's updates by
    # the factor of the inverse, without the inverse.
    pulled = np.zeros_like(real)
    _, _, size = real.shape
    for begin in range(0, size, BLOCK):
        end = min(size, begin + BLOCK)
        for k in range(begin, end):
            wish = real[:, :, k] + pulled[:, :, k] / lower[:, None, k, k]
            chosen[:, :, k] = _rounded(wish[..., None], scale, highest)[..., 0]
            missed[:, :, k] = real[:, :, k] - chosen[:, :, k] * scale
            pulled[:, :, k + 1 : end] += missed[:, :, k, None] * lower[:, None, k + 1 : end, k]
        later = turned(lower[:, end:, begin:end])
        pulled[:, :, end:] += rounded_product(missed[:, :, begin:end], later)
    result = np.empty_like(chosen)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], chosen.shape), chosen, axis=2)
    return result


def _fitted_scale(target: Reals, weights: Reals, scale: Reals, covariance: Reals) -> Reals:
    """Scale with the least squared error for these integers; positive, or as it was."""
    weighed = _weighed(weights, _weighing(covariance))
    power = (weighed * weights).sum(axis=2)
    along = (weighed * target).sum(axis=2)
    fits = (power > 0) & (along > 0)
    return np.where(fits, along / np.where(fits, power, 1.0), scale)
