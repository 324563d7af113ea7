# SPDX-License-Identifier: Apache-2.0
"""Changes worth trying for one operator: found by search over its facts, or known by its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from akida_backend.advice import edits
from akida_backend.advice.edits import CurvedActivation, Weighted
from akida_backend.advice.model import Change, Cost
from akida_backend.advice.search import FactChange, said, smallest_changes
from akida_backend.candidate import Candidate, PlacementContext, device_shape, is_model_input
from akida_backend.constraints import LayerFacts, LayerType, violations
from akida_backend.devices import Device
from akida_backend.graph import (
    AveragePool2D,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    MaxPool2D,
    Operation,
    Relu,
    Reshape,
    short_name,
)
from akida_backend.ops import SPEC_OF
from akida_backend.options import Options
from akida_backend.partition import FOLLOWER_RULES
from akida_backend.placement import place
from akida_backend.plan import PlacedOperation
from akida_backend.rewrites import single_channel
from akida_backend.rewrites.rewriting import RewriteContext

TRIED_OF_SEARCH: Final = 3


@dataclass(frozen=True, slots=True)
class Situation:
    """Where an operator stands: the model as it was written, and what is placed of that.

    Attributes:
        graph: As imported; depthwise convolutions of one channel are ordinary ones.
        device: Target.
        options: How it is compiled.
        candidates: Layers of the model as it was written.
        on_device: Tensors these compute.
    """

    graph: Graph
    device: Device
    options: Options
    candidates: tuple[Candidate, ...]
    on_device: frozenset[str]

    @property
    def context(self) -> PlacementContext:
        return PlacementContext(self.graph, self.device, self.options, self.on_device)


def situation(graph: Graph, device: Device, options: Options) -> Situation:
    """What changes of a model are looked for in."""
    while True:  # the facts of a depthwise layer of one channel are those of a convolution
        placement = place(graph, device, options, {})
        context = RewriteContext(graph, placement, device, options, {})
        rewritten = single_channel.apply(context)
        if rewritten is None:
            break
        graph = rewritten.graph
    candidates = tuple(c for c in placement.candidates if isinstance(c, Candidate))
    on_device = frozenset(name for c in candidates for op in c.operations for name in op.outputs)
    return Situation(graph, device, options, candidates, on_device)


def changes_for(row: PlacedOperation, where: Situation) -> Iterator[Change]:
    """Changes under which the device might take an operator, those that ask for least first."""
    op = edits.operator(where.graph, row.index)
    if op is None:
        return
    codes = {reason.code for reason in row.reasons}
    if codes & set(FOLLOWER_RULES.values()):
        text = "an identity 1x1 convolution behind it"
        yield Change(text, Cost.SAME, edits.identity_behind(row.index))
    yield from _option_changes(codes, where.options)
    yield from _searched(op, row.index, where)
    if "OP-DEPTHWISE-HALF" in codes and not where.options.diagonal_depthwise:
        yield from _diagonal(op, row.index, where)
    yield from _known(op, row, codes, where)


def _diagonal(op: Operation, index: int, where: Situation) -> Iterator[Change]:
    """Changes of a depthwise convolution that becomes a full one with zeros between channels."""
    with_option = replace(where, options=replace(where.options, diagonal_depthwise=True))
    for change in _searched(op, index, with_option):
        text = f"option diagonal_depthwise and {change.text}"
        yield replace(change, text=text, options={"diagonal_depthwise": True})


def _option_changes(codes: set[str], options: Options) -> Iterator[Change]:
    """Options of the compiler; the model stays."""
    if "OP-DEPTHWISE-HALF" in codes and not options.diagonal_depthwise:
        yield Change("option diagonal_depthwise", Cost.OPTION, None, {"diagonal_depthwise": True})
    if options.strict_converter:
        yield Change("no option strict_converter", Cost.OPTION, None, {"strict_converter": False})
    if "POLICY-STRICT-HARDWARE" in codes:
        yield Change("no option strict_hardware", Cost.OPTION, None, {"strict_hardware": False})
    if "POLICY-MIN-MACS" in codes:
        yield Change("no option min_partition_macs", Cost.OPTION, None, {"min_partition_macs": 0})
    if "POLICY-MAX-PARTITIONS" in codes:
        yield Change("no option max_partitions", Cost.OPTION, None, {"max_partitions": 0})


def _searched(op: Operation, index: int, where: Situation) -> Iterator[Change]:
    """Changes of the layer's facts that meet every rule of a layer."""
    found: list[tuple[LayerFacts, FactChange, int, int | None]] = []
    for facts, carrier, pool in _facts_of(op, index, where):
        frozen = frozenset(() if pool is None else _CARRIED)
        strict = where.options.strict_converter
        changes = smallest_changes(facts, where.device, strict=strict, frozen=frozen)
        found += [(facts, change, carrier, pool) for change in islice(changes, TRIED_OF_SEARCH)]
    found.sort(key=lambda entry: len(entry[1].names))
    for facts, change, carrier, pool in found:
        edit = edits.with_facts(carrier, facts, change, pool)
        text = said(facts, change)
        if carrier != index and pool is None:
            text = f"{text}, in op {carrier}"
        same = change.names in (("dilation",), ("groups",)) and not isinstance(op, DepthwiseConv2D)
        yield Change(text, Cost.SAME if same else Cost.TRAINING, edit)


# Behind a max pool these belong to another operator, which is placed as it is.
_CARRIED: Final = (
    "kernel_size",
    "kernel_stride",
    "padding",
    "dilation",
    "groups",
    "filters",
    "input_size",
    "input_channels",
    "activation",
)


def _facts_of(
    op: Operation, index: int, where: Situation
) -> Iterator[tuple[LayerFacts, int, int | None]]:
    """Facts of the layers an operator could carry or join, its carrier, and its max pool."""
    context = where.context
    if isinstance(op, Weighted):
        match = SPEC_OF[type(op)].candidate(op, context)
        if isinstance(match, Candidate):
            variants = [match.facts]
            if match.layer is LayerType.INPUT_CONV2D:
                variants.append(replace(match.facts, layer=LayerType.CONV2D))
            for facts in variants:
                if _breaks(facts, where):
                    yield facts, index, None
        return
    for candidate in where.candidates:
        if candidate.output not in op.inputs:
            continue
        grown = SPEC_OF[type(op)].absorb(op, candidate, context)
        if isinstance(grown, Candidate) and _breaks(grown.facts, where):
            pool = index if isinstance(op, MaxPool2D) else None
            yield grown.facts, candidate.base.location.index, pool


def _breaks(facts: LayerFacts, where: Situation) -> bool:
    return bool(violations(facts, where.device, strict=where.options.strict_converter))


def _known(
    op: Operation, row: PlacedOperation, codes: set[str], where: Situation
) -> Iterator[Change]:
    """Changes that certain reasons suggest."""
    graph = where.graph
    half = isinstance(op, DepthwiseConv2D) and "OP-DEPTHWISE-HALF" in codes
    if half and isinstance(graph.sole_consumer(op.outputs[0]), Conv2D):
        text = "no activation between the depthwise and the pointwise convolution"
        yield Change(text, Cost.TRAINING, edits.without_activation(row.index))
    if "V1-GRAPH-8BIT-INPUT" in codes:
        for name in graph.inputs:
            if any(_reads(name, entry, graph) for entry in graph.activations_of(op)):
                text = f"a 4-bit input '{short_name(name)}'"
                yield Change(text, Cost.TRAINING, edits.four_bit_input(name))
    if isinstance(op, CurvedActivation):
        yield Change(f"a ReLU instead of {row.type}", Cost.TRAINING, edits.relu_instead(row.index))
    if isinstance(op, AveragePool2D) and "OP-LOCAL-AVERAGE" in codes:
        text = f"a {op.window} max pool instead of the average"
        yield Change(text, Cost.TRAINING, edits.max_pool_instead(row.index))
    if codes & _TOO_MANY_INPUTS:
        yield from _narrower_front(op, row, where)


_TOO_MANY_INPUTS: Final = {
    "V2-DENSE-INPUT-SIZE",
    "V1-FC-INPUT-SIZE",
    "V2-CONV-INPUT-CHANNELS",
    "V2-DWCONV-INPUT-CHANNELS",
    "V1-CONV-INPUT-CHANNELS",
    "V1-SEPCONV-INPUT-CHANNELS",
}


def _reads(name: str, entry: str, graph: Graph) -> bool:
    """Whether `entry` is the input `name`, perhaps moved."""
    while entry != name:
        producer = graph.producers.get(entry)
        if producer is None or not is_model_input(entry, graph):
            return False
        (entry,) = graph.activations_of(producer)
    return True


def _narrower_front(op: Operation, row: PlacedOperation, where: Situation) -> Iterator[Change]:
    """Fewer filters in the convolution that feeds a layer of too many inputs."""
    if not isinstance(op, Weighted):
        return
    graph = where.graph
    limits = [r.limit for r in row.reasons if r.code in _TOO_MANY_INPUTS]
    most = min((limit for limit in limits if isinstance(limit, int)), default=0)
    front: Operation | None = graph.producers.get(op.input)
    while isinstance(front, Reshape | Relu | MaxPool2D):
        front = graph.producers.get(front.input)
    if not isinstance(front, Weighted):
        return
    _, _, filters = device_shape(graph.tensors[front.output])
    inputs = graph.tensors[op.input].values_per_sample
    if not isinstance(op, FullyConnected):
        _, _, inputs = device_shape(graph.tensors[op.input])
    fewer = most * filters // inputs
    if 0 < fewer < filters:
        text = f"{fewer} filters instead of {filters} in op {front.location.index}"
        edit = edits.fewer_filters(front.location.index, fewer)
        yield Change(text, Cost.TRAINING, edit)
