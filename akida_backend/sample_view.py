# SPDX-License-Identifier: Apache-2.0
"""Movements of values in front of a program, as one gather: pads, reshapes, transposes.

A rewrite may leave such operations to the host, and a runtime keeps its tensors in another order.
Where nobody but the compiler knows of them, a plug-in does them itself, sample by sample
(native/plugins/sample_view.h).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from akida_backend.graph import Graph, Operation, Pad, Reshape, Transpose, nominal_shape

_NO_AXIS: Final = -1  # of the source: an axis of length 1 that a reshape made


class NotAViewError(Exception):
    """The operations do more than move values within a sample; the text says what."""


@dataclass(frozen=True, slots=True)
class Factor:
    """One axis of the result: moving by 1 along it moves by `step` along a source axis."""

    length: int
    source: int
    step: int


@dataclass(frozen=True, slots=True)
class SampleView:
    """How each value of a sample is found in the source's sample.

    Attributes:
        lengths: Of the source's axes, row-major.
        offsets: Where the result begins on each of them; beyond either end lies `fill`.
        factors: Axes of the result, row-major.
        fill: Stored value of borders.
    """

    lengths: tuple[int, ...]
    offsets: tuple[int, ...]
    factors: tuple[Factor, ...]
    fill: int = 0

    def numbers(self) -> list[int]:
        """As the native side reads it."""
        source = [n for pair in zip(self.lengths, self.offsets, strict=True) for n in pair]
        result = [n for f in self.factors for n in (f.length, f.source, f.step)]
        return [self.fill, len(self.lengths), *source, len(self.factors), *result]


def view_of(
    graph: Graph, operations: Sequence[Operation], lengths: Sequence[int], order: Sequence[int]
) -> SampleView:
    """The view that a chain of operations is.

    Args:
        graph: Of the operations.
        operations: The first reads the tensor that holds the source, each the one before.
        lengths: Of the source's axes, without the batch.
        order: Axis k of that tensor, without the batch, is axis ``order[k]`` of the source.

    Raises:
        NotAViewError: An operation moves values between samples, or pads what is no whole axis.
    """
    axes = [[Factor(lengths[axis], axis, 1)] for axis in order]
    offsets = [0] * len(lengths)
    fill = 0
    for op in operations:
        match op:
            case Transpose():
                if op.permutation[0] != 0:
                    raise NotAViewError("a transpose moves the batch")
                axes = [axes[axis - 1] for axis in op.permutation[1:]]
            case Reshape():
                shape = graph.tensors[op.output].shape[1:]
                axes = _regrouped(axes, list(nominal_shape(shape)))
            case Pad():
                if fill or op.amounts[0] != (0, 0):
                    raise NotAViewError("a second pad, or one of the batch")
                fill = _fill(graph, op)
                for axis, (before, after) in enumerate(op.amounts[1:]):
                    if before or after:
                        axes[axis] = _padded(axes[axis], offsets, lengths, before, after)
            case _:
                raise NotAViewError(f"{op.location.type} computes")
    factors = tuple(factor for axis in axes for factor in axis if factor.length > 1)
    return SampleView(tuple(lengths), tuple(offsets), factors, fill)


def _fill(graph: Graph, op: Pad) -> int:
    if op.value is not None:
        return int(op.value)
    scales = graph.tensors[op.input].quantization
    return 0 if scales is None else scales.single_zero_point


def _padded(
    axis: list[Factor], offsets: list[int], lengths: Sequence[int], before: int, after: int
) -> list[Factor]:
    whole = [factor for factor in axis if factor.length > 1]
    if (
        len(axis) != 1
        or (whole and whole[0].step != 1)
        or axis[0].length != lengths[axis[0].source]
    ):
        raise NotAViewError("a pad of part of an axis")
    (factor,) = axis
    offsets[factor.source] -= before
    return [Factor(factor.length + before + after, factor.source, 1)]


def _regrouped(axes: Sequence[Sequence[Factor]], shape: Sequence[int]) -> list[list[Factor]]:
    """The same factors under other axes, cut where an axis ends inside of one."""
    pending = [factor for axis in axes for factor in axis if factor.length > 1]
    pending.reverse()
    result: list[list[Factor]] = []
    for length in shape:
        group: list[Factor] = []
        missing = length
        while missing > 1:
            if not pending:
                raise NotAViewError("a reshape moves the batch")
            factor = pending.pop()
            if missing % factor.length == 0:
                group.append(factor)
                missing //= factor.length
            elif factor.length % missing == 0:
                inner = factor.length // missing
                group.append(Factor(missing, factor.source, factor.step * inner))
                pending.append(Factor(inner, factor.source, factor.step))
                missing = 1
            else:
                raise NotAViewError("a reshape across axes")
        result.append(group or [Factor(1, _NO_AXIS, 1)])
    if pending:
        raise NotAViewError("a reshape moves the batch")
    return result
