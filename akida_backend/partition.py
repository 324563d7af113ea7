# SPDX-License-Identifier: Apache-2.0
"""Cut candidates into convex segments with one input and one output tensor."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from akida_backend.candidate import Alias, Candidate, Candidates
from akida_backend.constraints import LayerType, Violation, graph_violation
from akida_backend.devices import Device
from akida_backend.graph import Graph
from akida_backend.ops import SPEC_OF
from akida_backend.placement import key

FOLLOWER_RULES: Final = {
    LayerType.CONV2D: "V2-CONV-MAXPOOL-NEXT",
    LayerType.DEPTHWISE_CONV2D: "V2-DWCONV-MAXPOOL-NEXT",
    LayerType.CONVOLUTIONAL: "V1-CONV-MAXPOOL-NEXT",
    LayerType.SEPARABLE_CONVOLUTIONAL: "V1-SEPCONV-MAXPOOL-NEXT",
    # No page names what follows a pooled input layer; that it is not the last is stated of all.
    LayerType.INPUT_CONVOLUTIONAL: "V1-GRAPH-LAST-NOT-POOLED",
}
FOLLOWERS: Final = frozenset(FOLLOWER_RULES) - {LayerType.INPUT_CONVOLUTIONAL}
IMAGE_LAYERS: Final = (LayerType.INPUT_CONV2D, LayerType.INPUT_CONVOLUTIONAL)


@dataclass(frozen=True, slots=True)
class Region:
    """Candidates of one device segment in topological order."""

    input: str
    output: str
    candidates: tuple[Candidates, ...]

    def macs(self, graph: Graph) -> int:
        return sum(candidate_macs(graph, c) for c in self.candidates)

    def behind(self, candidate: Candidate) -> Region | None:
        """The layers of a chain behind one that is on the host; None where there are none."""
        known = {candidate.output}
        for follower in (rest := self.candidates[self.candidates.index(candidate) + 1 :]):
            if not known.issuperset(follower.inputs):
                return None
            known.add(follower.output)
        if all(isinstance(follower, Alias) for follower in rest):
            return None
        return Region(candidate.output, self.output, rest)


def candidate_macs(graph: Graph, candidate: Candidates) -> int:
    """MACs per sample the device executes for a candidate."""
    return sum(SPEC_OF[type(op)].macs(op, graph) for op in candidate.operations)


def partition(
    graph: Graph, candidates: Sequence[Candidates], device: Device
) -> tuple[tuple[Region, ...], Mapping[int, tuple[Violation, ...]]]:
    """Segments, and the violations of candidates that fit into none (by position).

    Every segment reads one tensor and is needed outside through one tensor. From each tensor, in
    topological order, the largest such part of what it determines alone is taken.
    """
    wiring = _Wiring(graph, candidates)
    left = set(range(len(candidates)))
    regions: list[Region] = []
    for start in wiring.readers:
        while (chosen := _best_region(wiring, left, start)) is not None:
            members, output = chosen
            regions.append(Region(start, output, tuple(candidates[i] for i in members)))
            left.difference_update(members)
    reasons = {i: _homeless(graph, candidates, i, device, regions) for i in sorted(left)}
    return tuple(regions), reasons


@dataclass(frozen=True)
class _Wiring:
    """Who reads what, of all candidates."""

    graph: Graph
    candidates: Sequence[Candidates]

    @cached_property
    def readers(self) -> Mapping[str, Sequence[int]]:
        """Positions of the candidates that read a tensor, in order."""
        found: dict[str, list[int]] = {}
        for i, candidate in enumerate(self.candidates):
            for name in dict.fromkeys(candidate.inputs):
                found.setdefault(name, []).append(i)
        return found

    @cached_property
    def macs(self) -> Sequence[int]:
        """Of each candidate."""
        return [candidate_macs(self.graph, candidate) for candidate in self.candidates]

    @cached_property
    def _owner(self) -> Mapping[str, int]:
        return {key(op): i for i, c in enumerate(self.candidates) for op in c.operations}

    def needed_beyond(self, i: int, positions: AbstractSet[int]) -> set[str]:
        """Tensors of a candidate that something outside of `positions` reads."""
        return {
            name
            for op in self.candidates[i].operations
            for name in op.outputs
            if name in self.graph.outputs
            or any(self._owner.get(key(r)) not in positions for r in self.graph.consumers[name])
        }


def _best_region(
    wiring: _Wiring, left: AbstractSet[int], start: str
) -> tuple[list[int], str] | None:
    """Positions and output of the heaviest valid region that reads `start` only."""
    candidates = wiring.candidates
    inner = {start}  # what a further member may read
    potentials: set[str] = set()  # what no further layer may read
    made: dict[str, int] = {}
    pending = [i for i in wiring.readers[start] if i in left]
    while pending:
        i = heapq.heappop(pending)
        candidate = candidates[i]
        if candidate.output in made or not inner.issuperset(candidate.inputs):
            continue
        reads_potentials = not potentials.isdisjoint(candidate.inputs)
        if reads_potentials and not isinstance(candidate, Alias):
            continue
        if reads_potentials or _gives_potentials(candidate):
            potentials.add(candidate.output)
        needed = wiring.needed_beyond(i, left)
        if not (needed <= {candidate.output} and _may_stand(candidate, start)):
            continue
        made[candidate.output] = i
        if not needed:
            inner.add(candidate.output)
            for reader in wiring.readers.get(candidate.output, ()):
                if reader in left:
                    heapq.heappush(pending, reader)
    best: tuple[int, int, list[int], str] | None = None
    for output in reversed(made):
        members = _ancestors(candidates, made, output)
        macs = sum(wiring.macs[i] for i in members)
        size = (macs, len(members))
        if macs > 0 and (best is None or size >= best[:2]) and _closed(wiring, members, output):
            best = (*size, members, output)
            if len(members) == len(made):
                break
    return None if best is None else (best[2], best[3])


def _may_stand(candidate: Candidates, start: str) -> bool:
    """The input layer stands at the beginning and reads the segment's input alone."""
    if isinstance(candidate, Alias) or candidate.layer not in IMAGE_LAYERS:
        return True
    return candidate.inputs == (start,)


def _ancestors(candidates: Sequence[Candidates], made: Mapping[str, int], output: str) -> list[int]:
    needed: set[int] = set()
    pending = [output]
    while pending:
        position = made.get(pending.pop())
        if position is not None and position not in needed:
            needed.add(position)
            pending.extend(candidates[position].inputs)
    return sorted(needed)


def _closed(wiring: _Wiring, members: Sequence[int], output: str) -> bool:
    """Whether nothing but `output` is needed outside the members, and pools are followed."""
    graph, candidates = wiring.graph, wiring.candidates
    inside = set(members)
    if any(wiring.needed_beyond(i, inside) - {output} for i in members):
        return False
    if any(_gives_potentials(candidates[i]) for i in _in_front(candidates, members)):
        return False
    return all(
        candidates[i].output != output and {*followers(graph, candidates, i)} <= FOLLOWERS
        for i in members
        if pool_rule(candidates[i]) is not None
    )


def _gives_potentials(candidate: Candidates) -> bool:
    """An Akida 1.0 layer without activation, which only ends a program."""
    return (
        isinstance(candidate, Candidate)
        and candidate.layer.generation == 1
        and candidate.facts.activation == "none"
    )


def _in_front(candidates: Sequence[Candidates], members: Sequence[int]) -> list[int]:
    """Members whose values other layers of the segment read."""
    layers = [i for i in members if isinstance(candidates[i], Candidate)]
    return layers[:-1]


def _homeless(
    graph: Graph,
    candidates: Sequence[Candidates],
    position: int,
    device: Device,
    regions: Sequence[Region],
) -> tuple[Violation, ...]:
    candidate = candidates[position]
    if isinstance(candidate, Alias):
        found = "stands next to no layer"
        return (graph_violation("SEGMENT-EMPTY", found, device),)
    if len(set(candidate.inputs)) > 1:
        inside = {c.output for region in regions for c in region.candidates}
        origins = [
            f"'{name}' comes from " + ("another segment" if name in inside else "the host")
            for name in dict.fromkeys(candidate.inputs)
        ]
        return (graph_violation("V2-GRAPH-BRANCHES", ", ".join(origins), device),)
    if candidate_macs(graph, candidate) == 0:
        return (graph_violation("SEGMENT-EMPTY", "no multiply-accumulate in reach", device),)
    # One input, MACs, and nobody reads what is inside: any other layer is a segment by itself.
    rule = pool_rule(candidate)
    assert rule is not None
    wrong = [f for f in followers(graph, candidates, position) if f not in FOLLOWERS]
    found = f"followed by {' and '.join(dict.fromkeys(wrong))}"
    if not wrong:
        kinds = [kind for kind in sorted(FOLLOWERS) if kind.generation == device.generation]
        found = f"no {' or '.join(kinds)} follows in the segment"
    return (graph_violation(rule, found, device),)


def followers(graph: Graph, candidates: Sequence[Candidates], position: int) -> list[str]:
    """What reads a candidate's output, under whatever name: layer types, or the host."""
    name = candidates[position].output
    inside = [i for i, c in enumerate(candidates) if name in c.inputs]
    reading = {key(op) for i in inside for op in candidates[i].operations}
    outside = name in graph.outputs or any(key(op) not in reading for op in graph.consumers[name])
    found = ["the host"] if outside or not inside else []
    for i in inside:
        reader = candidates[i]
        found += (
            followers(graph, candidates, i) if isinstance(reader, Alias) else [reader.layer.value]
        )
    return found


def pool_rule(candidate: Candidates) -> str | None:
    """The rule on what follows a layer that ends in max pooling; None where there is none."""
    if isinstance(candidate, Alias) or candidate.pool is None:
        return None
    return FOLLOWER_RULES.get(candidate.layer)
