# SPDX-License-Identifier: Apache-2.0
"""What the compiler knows of one operation type: one explicit `OpSpec` row per ``ops`` module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from akida_backend.candidate import Candidate, Match, PlacementContext
from akida_backend.constraints import LayerType, graph_violation
from akida_backend.graph import AnyArray, Graph, Node
from akida_backend.lowering import Lower
from akida_backend.reference import Environment

OpT = TypeVar("OpT", bound=Node)

NO_LAYER: Final = "No Akida layer computes it."


def no_macs(op: Node, graph: Graph) -> int:  # noqa: ARG001 - default of a hook
    """MAC count of an operation that moves or looks up values only."""
    return 0


def no_layer(op: Node, context: PlacementContext) -> Match:
    """Placement of an operation that no Akida layer computes."""
    found = op.location.type
    return (graph_violation("OP-NO-LAYER", found, context.device),)


def only_joins(op: Node, context: PlacementContext) -> Match:
    """Placement of an operation that a layer can only absorb, when none did."""
    found = f"{op.location.type} with no layer in front that could take it"
    return (graph_violation("OP-NOT-FUSED", found, context.device),)


def joins_nothing(
    op: Node,  # noqa: ARG001 - default of a hook
    candidate: Candidate,  # noqa: ARG001
    context: PlacementContext,  # noqa: ARG001
) -> Match | None:
    """An operation that never joins the layer in front of it."""
    return None


@dataclass(frozen=True, slots=True)
class OpSpec(Generic[OpT]):
    """Everything about one operation type, gathered in its own module.

    Attributes:
        op_type: Class of the source dialect.
        reference: Outputs of the operation in the graph's arithmetic, in the order of
            ``op.outputs``; None for operations without meaning here.
        macs: Multiply-accumulates per sample.
        candidate: The layer the operation would start, or why it cannot.
        absorb: The layer in front grown by this operation, why it cannot join, or None when
            there is nothing to join.
        lower: Program layer of a candidate this operation carries; None if it carries none.
        layers: Layer types the operation can become or join, for documentation.
        placement: One sentence on what becomes of it on the device, for documentation.
    """

    op_type: type[OpT]
    reference: Callable[[OpT, Environment], tuple[AnyArray, ...]] | None
    macs: Callable[[OpT, Graph], int] = no_macs
    candidate: Callable[[OpT, PlacementContext], Match] = no_layer
    absorb: Callable[[OpT, Candidate, PlacementContext], Match | None] = joins_nothing
    lower: Lower | None = None
    layers: tuple[LayerType, ...] = ()
    placement: str = NO_LAYER
