# SPDX-License-Identifier: Apache-2.0
"""RESHAPE, SQUEEZE, EXPAND_DIMS: the same values under another shape."""

from __future__ import annotations

from typing import Final

from akida_backend.candidate import Alias, Match, PlacementContext, device_shape
from akida_backend.constraints import graph_violation
from akida_backend.graph import AnyArray, FullyConnected, Reshape
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: Reshape, env: Environment) -> tuple[AnyArray, ...]:
    x = env.value(op.input)
    return (x.reshape(env.sized(op.output, x)),)


def candidate(op: Reshape, context: PlacementContext) -> Match:
    """No layer: the same integers under another shape, where the device allows it.

    That is a 1x1 map under any rank, and the flattening in front of Dense1D.
    """
    graph = context.graph
    before, after = graph.tensors[op.input], graph.tensors[op.output]
    unchanged = device_shape(before) == device_shape(after)
    readers = graph.consumers[op.output]
    flattens = (
        device_shape(after)[:2] == (1, 1)
        and bool(readers)
        and op.output not in graph.outputs
        and all(isinstance(reader, FullyConnected) for reader in readers)
    )
    if op.input in context.on_device and (unchanged or flattens):
        return Alias(operations=(op,), inputs=(op.input,), output=op.output)
    found = f"{before.shape} to {after.shape}"
    return (graph_violation("OP-NO-LAYER", found, context.device),)


SPEC: Final = OpSpec(
    op_type=Reshape,
    reference=reference,
    candidate=candidate,
    placement="Renames a 1x1 map, or flattens in front of FULLY_CONNECTED.",
)
