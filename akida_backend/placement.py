# SPDX-License-Identifier: Apache-2.0
"""Which operations could become which layers: matching, fusing, constraints, all reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from akida_backend.candidate import (
    Candidate,
    Candidates,
    PlacementContext,
    Refused,
    is_akida1,
)
from akida_backend.constraints import Violation, graph_violation, violations
from akida_backend.devices import Device
from akida_backend.graph import (
    DepthwiseConv2D,
    Dequantize,
    DType,
    Graph,
    Node,
    Opaque,
    Operation,
    Quantize,
    Reshape,
    Transpose,
)
from akida_backend.ops import SPEC_OF
from akida_backend.options import Options

NO_LAYER = ("OP-NO-LAYER", "OP-NOT-FUSED")
EDGE_MOVES = 8  # between a conversion and the model's edge, followed at most
EIGHT_BIT = (DType.INT8, DType.UINT8, DType.INT4, DType.UINT4)


@dataclass(frozen=True, slots=True)
class Placement:
    """Result of one matching round.

    Attributes:
        candidates: In topological order; every operation is in at most one.
        reasons: Violations of every operation that is in none, by the name of its first output.
    """

    candidates: tuple[Candidates, ...]
    reasons: Mapping[str, tuple[Violation, ...]]


def key(op: Node) -> str:
    """What identifies an operation of a legalised graph: its first output, if it has any."""
    return op.outputs[0] if op.outputs else str(op.location)


def place(graph: Graph, device: Device, options: Options, refused: Refused) -> Placement:
    """Match operations to layers, greedily along the graph.

    Args:
        graph: Legalised graph.
        device: Target, whose constraints decide.
        options: Policy; deny lists arrive through `refused`.
        refused: Reasons of earlier rounds, by index of the source operator.
    """
    context = PlacementContext(graph, device, options)
    found: list[Candidates] = []
    reasons: dict[str, tuple[Violation, ...]] = {}
    covered: set[str] = set()
    for op in graph.operations:
        if key(op) in covered:
            continue
        match = _start(op, context, refused)
        if isinstance(match, tuple):
            # Why it could not join the layer in front says more than that it starts none.
            reasons.setdefault(key(op), match)
            continue
        if isinstance(match, Candidate):
            match, refusals = _absorb(match, context, refused)
            reasons.update(refusals)
        found.append(match)
        covered.update(key(member) for member in match.operations)
        context = replace(context, on_device=context.on_device | {match.output, *_outputs(match)})
    return Placement(tuple(found), {k: v for k, v in reasons.items() if k not in covered})


def _outputs(match: Candidates) -> list[str]:
    return [name for op in match.operations for name in op.outputs]


def refusals_of(op: Operation, refused: Refused) -> tuple[Violation, ...]:
    return tuple(v for index in op.sources for v in refused.get(index, ()))


def _start(
    op: Operation, context: PlacementContext, refused: Refused
) -> Candidates | tuple[Violation, ...]:
    match = started(op, context)
    earlier = refusals_of(op, refused)
    if not earlier:
        return match
    # What the device would refuse anyway is worth knowing; that it starts no layer is not.
    also = match if isinstance(match, tuple) else ()
    return (*earlier, *(v for v in also if v.code not in NO_LAYER and v not in earlier))


def started(op: Operation, context: PlacementContext) -> Candidates | tuple[Violation, ...]:
    """The layer an operation starts, or all that forbids it."""
    general = general_violations(op, context)
    if general:
        return general
    match = SPEC_OF[type(op)].candidate(op, context)
    if isinstance(match, Candidate):
        if match.layer.generation not in (None, context.device.generation):
            return _other_generation(op, match, context.device)
        broken = violations(match.facts, context.device, strict=context.options.strict_converter)
        return broken or match
    return match


def _other_generation(op: Operation, match: Candidate, device: Device) -> tuple[Violation, ...]:
    """Why Akida 1.0 has no layer for what Akida 2.0 has one for."""
    if len(match.inputs) > 1:
        return (graph_violation("V1-GRAPH-SEQUENTIAL", f"{match.layer} of two maps", device),)
    return (graph_violation("OP-NO-LAYER", op.location.type, device),)


def _absorb(
    candidate: Candidate, context: PlacementContext, refused: Refused
) -> tuple[Candidate, dict[str, tuple[Violation, ...]]]:
    """Let following operations join while constraints hold."""
    reasons: dict[str, tuple[Violation, ...]] = {}
    while True:
        grown = None
        for op in context.graph.consumers[candidate.output]:
            if general_violations(op, context):
                continue
            match = SPEC_OF[type(op)].absorb(op, candidate, context)
            joining: tuple[Operation, ...] = (op,)
            if isinstance(match, Candidate):
                joining = match.operations[len(candidate.operations) :]
                strict = context.options.strict_converter
                broken = violations(match.facts, context.device, strict=strict)
            elif isinstance(match, tuple):
                broken = match
            else:
                continue
            against = (*(v for member in joining for v in refusals_of(member, refused)), *broken)
            if against:
                reasons[key(op)] = tuple(dict.fromkeys(against))
            elif isinstance(match, Candidate):
                grown = match
                break
        if grown is None:
            return candidate, reasons
        candidate = grown


def _joins_halves(op: Operation, name: str, context: PlacementContext) -> bool:
    """Whether a tensor holds the sums that stay inside a SeparableConvolutional."""
    return (
        isinstance(op, DepthwiseConv2D)
        and name == op.output
        and context.tensor(name).dtype is DType.INT32
        and is_akida1(context)
    )


def _at_float_edge(op: Operation, graph: Graph) -> bool:
    """Whether an operation turns real values into codes or back, or moves them next to that."""
    match op:
        case Quantize() | Dequantize():
            kinds = {graph.tensors[name].dtype.is_float for name in (op.input, op.output)}
            return len(kinds) == 2
        case Reshape() | Transpose():
            return _from_codes(op.input, graph) or _to_codes(op.output, graph)
        case _:
            return False


def _from_codes(name: str, graph: Graph) -> bool:
    for _ in range(EDGE_MOVES):
        match graph.producers.get(name):
            case Reshape(input=name) | Transpose(input=name):
                continue
            case producer:
                return isinstance(producer, Dequantize)
    return False


def _to_codes(name: str, graph: Graph) -> bool:
    for _ in range(EDGE_MOVES):
        match graph.consumers[name]:
            case (Reshape(output=name) | Transpose(output=name),):
                continue
            case readers:
                return bool(readers) and all(isinstance(reader, Quantize) for reader in readers)
    return False


def general_violations(op: Operation, context: PlacementContext) -> tuple[Violation, ...]:
    """What holds for every operation: meaning, 8-bit quantized activations, one batch axis."""
    device, graph = context.device, context.graph
    if isinstance(op, Opaque):
        return (graph_violation("OP-OPAQUE", op.reason, device),)
    not_codes = "GRAPH-FLOAT-EDGE" if _at_float_edge(op, graph) else "GRAPH-NOT-QUANTIZED"
    found: dict[str, str] = {}  # one tensor per rule is enough to name
    for name in (*graph.activations_of(op), *op.outputs):
        tensor = graph.tensors[name]
        if tensor.dtype.is_float:
            found.setdefault(not_codes, f"'{name}' is {tensor.dtype.value}")
        elif tensor.dtype not in EIGHT_BIT and not _joins_halves(op, name, context):
            found.setdefault("GRAPH-DTYPE", f"'{name}' is {tensor.dtype.value}")
        elif tensor.quantization is None:
            found.setdefault("GRAPH-NO-QUANTIZATION", f"'{name}' has no scale")
        elif not tensor.quantization.is_per_tensor:
            found.setdefault("GRAPH-DTYPE", f"'{name}' has one scale per channel")
        if graph.batch is not None and tensor.shape[:1] != (graph.batch,):
            text = f"'{name}' has shape {tensor.shape}, the batch is {graph.batch}"
            found.setdefault("GRAPH-BATCH", text)
    return tuple(graph_violation(code, text, device) for code, text in found.items())
