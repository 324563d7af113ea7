# SPDX-License-Identifier: Apache-2.0
"""The fallback policy: which operations may stay on the host, and what happens when others do."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from akida_backend.errors import FallbackError
from akida_backend.graph import (
    ArgMax,
    Cast,
    Concatenation,
    Dequantize,
    Gather,
    Graph,
    Logistic,
    Operation,
    Pack,
    Pad,
    Quantize,
    Reshape,
    ShapeOf,
    Softmax,
    Split,
    StridedSlice,
    Transpose,
    Unpack,
    short_name,
)
from akida_backend.options import Fallback
from akida_backend.plan import PlacedOperation, Plan

logger: Final = logging.getLogger("akida_backend")

HOST_HALF: Final = "REWRITE-HOST-HALF"
NAMED_IN_WARNING: Final = 3


def apply_fallback(plan: Plan, fallback: Fallback) -> None:
    """Warn or refuse when work stays on the host.

    Raises:
        FallbackError: `fallback` is ``error`` or ``strict`` and an operation stays that it
            does not let stay; every one is named with its reasons.
    """
    left = left_on_host(plan, strict=fallback == "strict")
    if not left or fallback == "allow":
        return
    if fallback == "warn":
        logger.warning("%s", placement_line(plan, left))
        return
    raise FallbackError(refusal(plan, left, fallback))


def left_on_host(plan: Plan, *, strict: bool = False) -> tuple[PlacedOperation, ...]:
    """Operations on the host that the policy counts as a failure.

    Not strict: those that multiply or change values. Boundary operations may stay: QUANTIZE,
    DEQUANTIZE, data movement, a SOFTMAX, LOGISTIC or ARG_MAX at an output, and what an exact
    rewrite leaves to the host. Strict: every operation the host executes. What import folded
    is executed by nobody.
    """
    boundary = {} if strict else _boundary(plan.graph)
    left = []
    for row in plan.placement:
        halves = any(reason.code == HOST_HALF for reason in row.reasons)
        folded = row.segment is None and not row.on_device
        if strict:
            stays = (not row.on_device or halves) and not folded
        else:
            only_half = halves and all(reason.code == HOST_HALF for reason in row.reasons)
            stays = not (row.on_device or folded or only_half or boundary.get(row.index, False))
        if stays:
            left.append(row)
    return tuple(left)


def placement_line(plan: Plan, left: tuple[PlacedOperation, ...]) -> str:
    """One line: what is placed, what share of the work that is, and the first reasons."""
    placed = sum(row.on_device for row in plan.placement)
    segments = len(plan.programs)
    share = "no MACs" if not plan.macs else f"{plan.macs_on_device / plan.macs:.1%} of MACs"
    named = "; ".join(brief(row) for row in left[:NAMED_IN_WARNING])
    more = f"; and {len(left) - NAMED_IN_WARNING} more" if len(left) > NAMED_IN_WARNING else ""
    return (
        f"{plan.graph.name} on {plan.device.name} (simulated): {placed} of "
        f"{len(plan.placement)} operations, {share}, {segments} "
        f"partition{'' if segments == 1 else 's'}; on the host: {named}{more}"
    )


def brief(row: PlacedOperation) -> str:
    """An operation and its first reason."""
    reason = f" [{row.reasons[0].code}] {row.reasons[0].found}" if row.reasons else ""
    return f"op {row.index} {row.type} '{short_name(row.name)}'{reason}"


def refusal(plan: Plan, left: tuple[PlacedOperation, ...], fallback: Fallback) -> str:
    """Why `fallback` refuses a plan: what it wants, what was found, every reason."""
    wanted = (
        "no operation on the host"
        if fallback == "strict"
        else "no operation on the host that multiplies or changes values"
    )
    lines = [
        f"{plan.graph.name} on {plan.device.name}: fallback '{fallback}' wants {wanted}; "
        f"found {len(left)} of {len(plan.placement)}"
    ]
    for row in left:
        lines.append(f"  op {row.index} {row.type} '{short_name(row.name)}'")
        found: dict[str, list[str]] = {}
        for reason in row.reasons:
            found.setdefault(f"[{reason.code}] {reason.rule}", []).append(reason.found)
        lines += [f"    {rule} Found: {'; '.join(each)}" for rule, each in found.items()]
    return "\n".join(lines)


def _boundary(graph: Graph) -> Mapping[int, bool]:
    """By operator of the file: whether all it stands for may stay on the host."""
    at_output = _tail(graph)
    may_stay: dict[int, bool] = {}
    for op in graph.operations:
        stays = _moves_values(op, graph) or not at_output.isdisjoint(op.outputs)
        for index in op.sources:
            may_stay[index] = may_stay.get(index, True) and stays
    return may_stay


def _moves_values(op: Operation, graph: Graph) -> bool:
    match op:
        case Quantize() | Dequantize() | Reshape() | Transpose() | StridedSlice() | Split():
            return True
        case Pack() | Unpack() | Gather() | ShapeOf() | Pad():
            return True
        case Concatenation():
            return len({_code_of(graph, name) for name in (*op.operands, op.output)}) == 1
        case _:
            return False


def _code_of(graph: Graph, name: str) -> tuple[object, ...]:
    """What a stored integer of a tensor means; a concatenation of equal ones changes nothing."""
    tensor = graph.tensors[name]
    scales = tensor.quantization
    if scales is None:
        return (tensor.dtype,)
    return (tensor.dtype, scales.scale.tobytes(), scales.zero_point.tobytes())


def _tail(graph: Graph) -> frozenset[str]:
    """Tensors written by a SOFTMAX, LOGISTIC or ARG_MAX at an output, or by a CAST behind."""
    members: set[str] = set()
    pending = list(graph.outputs)
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        op = graph.producers.get(name)
        if op is None or name in seen:
            continue
        seen.add(name)
        if isinstance(op, Softmax | Logistic | ArgMax):
            members.add(op.output)
        elif isinstance(op, Cast):
            members.add(op.output)
            pending.append(op.input)
        elif _moves_values(op, graph):
            pending.extend(graph.activations_of(op))
    return frozenset(members)
