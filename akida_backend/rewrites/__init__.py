# SPDX-License-Identifier: Apache-2.0
"""Legalisation: small rewrites Graph -> Graph that let more of a model run on the device.

Each has its precondition, and a class:

* exact: the source arithmetic computes the same integers before and after;
* same function: equal over the reals, only re-quantization differs.

A rewrite applies only where none of the operations it touches was refused before, and it stays only
where the device then takes the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from akida_backend.candidate import Refused
from akida_backend.devices import Device
from akida_backend.graph import Graph
from akida_backend.options import Options
from akida_backend.placement import Placement, key, place
from akida_backend.rewrites import (
    carrier,
    channel_pad,
    constant_operand,
    dense_window,
    embed_kernel,
    fold_pad,
    fold_recoding,
    nearest_resize,
    relu_after_add,
    single_channel,
    space_to_depth,
    split_concatenation,
    split_stride,
    swap_axes,
)
from akida_backend.rewrites.rewriting import RewriteContext, Rewritten, TooLargeError

Rule = Callable[[RewriteContext], Rewritten | None]


@dataclass(frozen=True, slots=True)
class NamedRewrite:
    """One rewrite for reports and documentation."""

    name: str
    kind: str
    effect: str
    apply: Rule


ALL_REWRITES: Final = (
    NamedRewrite("fold-pad", "exact", fold_pad.EFFECT, fold_pad.apply),
    NamedRewrite("single-channel", "exact", single_channel.EFFECT, single_channel.apply),
    NamedRewrite("swap-axes", "exact", swap_axes.EFFECT, swap_axes.apply),
    NamedRewrite(
        "constant-operand", "same function", constant_operand.EFFECT, constant_operand.apply
    ),
    NamedRewrite("nearest-resize", "exact", nearest_resize.EFFECT, nearest_resize.apply),
    NamedRewrite("embed-kernel", "exact", embed_kernel.EFFECT, embed_kernel.apply),
    NamedRewrite("space-to-depth", "exact", space_to_depth.EFFECT, space_to_depth.apply),
    NamedRewrite("split-stride", "exact", split_stride.EFFECT, split_stride.apply),
    NamedRewrite("fold-recoding", "exact", fold_recoding.EFFECT, fold_recoding.apply),
    NamedRewrite("dense-window", "same function", dense_window.EFFECT, dense_window.apply),
    NamedRewrite("channel-pad", "exact", channel_pad.EFFECT, channel_pad.apply),
    NamedRewrite(
        "split-concatenation", "exact", split_concatenation.EFFECT, split_concatenation.apply
    ),
    NamedRewrite("relu-after-add", "same function", relu_after_add.EFFECT, relu_after_add.apply),
    NamedRewrite("carrier", "exact", carrier.EFFECT, carrier.apply),
)


@dataclass(frozen=True, slots=True)
class Legalised:
    """A graph after all rewrites, its placement, and what happened to which source operator.

    Attributes:
        graph: Rewritten graph.
        placement: Of that graph.
        rewrites: Names of the rewrites by index of the source operator.
        host_halves: First outputs of operations a rewrite put on the host on purpose.
    """

    graph: Graph
    placement: Placement
    rewrites: Mapping[int, tuple[str, ...]]
    host_halves: frozenset[str]


def legalise(
    graph: Graph,
    device: Device,
    options: Options,
    refused: Refused,
    *,
    rewrites: Sequence[NamedRewrite] = ALL_REWRITES,
    kept: frozenset[int] = frozenset(),
) -> Legalised:
    """Apply every rewrite, in the order of `ALL_REWRITES`, wherever it helps.

    What stays on the host in the end stays as it was written.

    Args:
        graph: As imported.
        device: Target.
        options: Strictness.
        refused: Reasons of earlier rounds, by index of the source operator.
        rewrites: Only these.
        kept: Source operators to leave alone.
    """
    while True:
        result = _rewritten(graph, device, options, refused, kept, rewrites)
        in_vain = {
            index
            for op in result.graph.operations
            if key(op) in result.placement.reasons and key(op) not in result.host_halves
            for index in op.sources
            if index in result.rewrites
        }
        if in_vain <= kept:
            return result
        kept |= in_vain


def _rewritten(
    graph: Graph,
    device: Device,
    options: Options,
    refused: Refused,
    kept: frozenset[int],
    rewrites: Sequence[NamedRewrite],
) -> Legalised:
    """One pass over the rewrites that leaves the source operators `kept` alone."""
    placement = place(graph, device, options, refused)
    names: dict[int, tuple[str, ...]] = {}
    halves: set[str] = set()
    for rewrite in rewrites:
        while True:
            context = RewriteContext(graph, placement, device, options, refused, kept)
            try:
                rewritten = rewrite.apply(context)
            except TooLargeError:
                rewritten = None
            if rewritten is None:
                break
            graph = rewritten.graph
            halves.update(rewritten.host_halves)
            for index in rewritten.sources:
                if rewrite.name not in names.get(index, ()):
                    names[index] = (*names.get(index, ()), rewrite.name)
            placement = place(graph, device, options, refused)
    return Legalised(graph, placement, names, frozenset(halves))
