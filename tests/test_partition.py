# SPDX-License-Identifier: Apache-2.0
"""No segment ever breaks a rule, whatever the graph and whatever is denied."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from compiling import AKIDA2, compiled, layer_names, reasons, row
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import entries, graphs

from akida_backend.candidate import Alias, Candidate, Candidates
from akida_backend.compiler import compile as compile_model
from akida_backend.constraints import LayerType
from akida_backend.execute import Executor
from akida_backend.graph import Graph, Node, Opaque
from akida_backend.options import Options
from akida_backend.partition import Region, partition
from akida_backend.placement import place
from akida_backend.plan import DeviceSegment, HostSegment, Plan
from akida_backend.reference import run_graph
from builders import GraphBuilder, random_inputs

FOLLOWERS = (LayerType.CONV2D, LayerType.DEPTHWISE_CONV2D)
generously = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def assert_regions_keep_the_rules(
    graph: Graph, candidates: Sequence[Candidates], regions: Sequence[Region]
) -> None:
    seen: set[int] = set()
    for region in regions:
        chosen = [id(c) for c in region.candidates]
        assert not seen.intersection(chosen)
        seen.update(chosen)
        members = [op for c in region.candidates for op in c.operations]
        inside = {id(op) for op in members}
        written = {name for op in members for name in op.outputs}
        read = {name for op in members for name in graph.activations_of(op)} - written
        assert read == {region.input}
        needed = {
            name
            for name in written
            if name in graph.outputs or any(id(r) not in inside for r in graph.consumers[name])
        }
        assert needed <= {region.output}
        assert region.output in written
        assert not _returns(graph, region.output, inside)
        assert region.macs(graph) > 0
        for position, candidate in enumerate(region.candidates):
            if isinstance(candidate, Candidate):
                _assert_layer_rules(graph, candidate, position, region)
    positions = {id(c): i for i, c in enumerate(candidates)}
    for region in regions:
        order = [positions[id(c)] for c in region.candidates]
        assert order == sorted(order)


def _assert_layer_rules(graph: Graph, candidate: Candidate, position: int, region: Region) -> None:
    if candidate.layer is LayerType.INPUT_CONV2D:
        assert position == 0
        assert candidate.inputs == (region.input,)
        assert all(region.input not in c.inputs for c in region.candidates[1:])
    if candidate.pool is not None and candidate.layer in FOLLOWERS:
        readers = _readers(region, candidate.output)
        assert candidate.output not in graph.outputs
        assert readers
        assert all(reader.layer in FOLLOWERS for reader in readers)


def _readers(region: Region, name: str) -> list[Candidate]:
    found = []
    for candidate in region.candidates:
        if name in candidate.inputs:
            if isinstance(candidate, Alias):
                found += _readers(region, candidate.output)
            else:
                found.append(candidate)
    return found


def _returns(graph: Graph, output: str, inside: set[int]) -> bool:
    """Whether a path leaves through `output` and comes back."""
    pending: list[Node] = [op for op in graph.consumers[output] if id(op) not in inside]
    visited: set[int] = set()
    while pending:
        op = pending.pop()
        if id(op) in inside:
            return True
        if id(op) not in visited:
            visited.add(id(op))
            pending += [r for name in op.outputs for r in graph.consumers[name]]
    return False


@settings(generously, max_examples=150)
@given(graphs(opaque=True), st.data())
def test_no_region_breaks_a_rule(graph: Graph, data: st.DataObject) -> None:
    options = Options()
    refused = data.draw(st.sets(st.integers(0, len(graph.operations) - 1), max_size=3))
    denied = place(graph, AKIDA2, options, {}).reasons
    some = next(iter(denied.values()), ())
    placement = place(graph, AKIDA2, options, dict.fromkeys(refused, some) if some else {})
    candidates = placement.candidates
    regions, homeless = partition(graph, candidates, AKIDA2)
    assert_regions_keep_the_rules(graph, candidates, regions)
    placed = sum(len(region.candidates) for region in regions)
    assert placed + len(homeless) == len(candidates)
    assert all(homeless.values())


def assert_plan_is_sound(plan: Plan) -> None:
    graph = plan.graph
    indices = [op.location.index for op in graph.operations]
    assert [placed.index for placed in plan.placement] == sorted(indices)
    segments = {segment.index: segment for segment in plan.segments}
    assert list(segments) == list(range(len(plan.segments)))
    for placed in plan.placement:
        assert placed.segment in segments
        where = segments[placed.segment]
        assert isinstance(where, DeviceSegment) == placed.on_device
        assert (placed.layer is None) != placed.on_device
        if not placed.on_device:
            assert placed.reasons
            assert placed.device_macs == 0
        elif isinstance(where, DeviceSegment):
            assert placed.index in where.sources
            assert all(r.code == "REWRITE-HOST-HALF" for r in placed.reasons)
            assert placed.device_macs >= placed.macs or "space-to-depth" in placed.rewrites
    known = {*graph.inputs, *(n for n, t in plan.legalised.tensors.items() if t.is_constant)}
    for segment in plan.segments:
        if isinstance(segment, HostSegment):
            for op in segment.operations:
                assert known.issuperset(op.inputs)
                known.update(op.outputs)
        else:
            assert segment.program.input.tensor in known
            known.add(segment.program.output.tensor)
            assert segment.device_macs > 0
    assert known.issuperset(graph.outputs)
    assert sum(s.source_macs for s in plan.segments if isinstance(s, DeviceSegment)) == (
        plan.macs_on_device
    )


def _labels(plan: Plan, index: int) -> set[str]:
    placed = row(plan, index)
    return {f"type:{placed.type}", f"name:{placed.name}"}


@settings(generously, max_examples=150)
@given(graphs(opaque=True), st.data())
def test_every_operator_has_one_row_and_every_host_one_a_reason(
    graph: Graph, data: st.DataObject
) -> None:
    allow = data.draw(st.just(()) | entries(graph))
    deny = data.draw(entries(graph))
    partitions = data.draw(st.integers(0, 2))
    least = data.draw(st.sampled_from([0, 0, 5000]))
    plan = compiled(
        graph,
        allow=allow,
        deny=deny,
        max_partitions=partitions,
        min_partition_macs=least,
        strict_hardware=data.draw(st.booleans()),
        strict_converter=data.draw(st.booleans()),
    )
    assert_plan_is_sound(plan)
    if partitions:
        assert len(plan.programs) <= partitions
    for segment in plan.segments:
        if isinstance(segment, DeviceSegment):
            assert segment.device_macs >= least
    for placed in plan.placement:
        if placed.on_device:
            labels = _labels(plan, placed.index)
            assert not labels.intersection(deny)
            assert not allow or labels.intersection(allow)


@settings(generously, max_examples=80)
@given(graphs(), st.data())
def test_partitioning_changes_no_bit_in_source_arithmetic(
    graph: Graph, data: st.DataObject
) -> None:
    plan = compiled(graph, deny=data.draw(entries(graph)))
    feeds = random_inputs(graph, 2)
    expected = run_graph(graph, feeds)
    found = Executor(plan, emulation="source").run(feeds).values
    for name in graph.outputs:
        np.testing.assert_array_equal(found[name], expected[name])


@settings(generously, max_examples=60)
@given(graphs(), st.data())
def test_every_plan_runs(graph: Graph, data: st.DataObject) -> None:
    plan = compiled(graph, deny=data.draw(entries(graph)))
    feeds = random_inputs(graph, 2)
    expected = run_graph(graph, feeds)
    found = Executor(plan).run(feeds).values
    for name in graph.outputs:
        assert found[name].dtype == expected[name].dtype
        assert found[name].shape == expected[name].shape


# Shapes that once went wrong


def test_two_heads_of_one_map_are_two_segments() -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(6, 6, 4), 4)
    graph = b.build(b.conv2d(x, 4), b.conv2d(x, 6))
    plan = compiled(graph)
    assert len(plan.programs) == 3
    assert all(placed.on_device for placed in plan.placement)


def test_an_inner_map_that_is_an_output_ends_a_segment() -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(6, 6, 4), 4)
    graph = b.build(b.conv2d(x, 4), x)
    plan = compiled(graph)
    assert [p.output.tensor for p in plan.programs] == [x, graph.outputs[0]]


def test_an_image_that_others_read_too_enters_a_conv2d() -> None:
    b = GraphBuilder(1)
    x = b.input(6, 6, 3)
    graph = b.build(b.add(b.conv2d(x, 3), x))
    assert layer_names(compiled(graph)) == ["Conv2D", "Add"]


def test_branches_from_two_inputs_cannot_meet_on_the_device() -> None:
    b = GraphBuilder(1)
    x, y = b.conv2d(b.input(6, 6, 4), 4), b.conv2d(b.input(6, 6, 4), 4)
    b.add(x, y)
    plan = compiled(b.build())
    assert len(plan.programs) == 2
    assert reasons(plan, 2) == {
        "V2-GRAPH-BRANCHES": (
            "'conv' comes from another segment, 'conv.1' comes from another segment"
        )
    }


def test_a_host_island_inside_a_residual_cuts_it() -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(6, 6, 4), 4)
    y = b.conv2d(b.tanh(b.conv2d(x, 4)), 4)
    b.add(x, y)
    plan = compiled(b.build())
    assert set(reasons(plan, 4)) == {"V2-GRAPH-BRANCHES"}
    assert len(plan.programs) == 3


def test_moving_values_alone_is_no_segment() -> None:
    b = GraphBuilder(1)
    x = b.input(6, 6, 4, scaling=(0.1, 0))
    y = b.concatenation(x, b.input(6, 6, 4, scaling=(0.1, 0)))
    plan = compiled(b.build(y))
    assert plan.programs == ()
    b = GraphBuilder(1)
    x = b.input(6, 6, 4)
    b.add(x, b.max_pool(x, window=1))
    plan = compiled(b.build())
    assert plan.programs == ()
    assert set(reasons(plan, 1)) == {"V2-GRAPH-BRANCHES"}


def test_a_sum_of_renamed_inputs_is_not_worth_a_transfer() -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(6, 6, 4), 4)
    y = b.reshape(x, 6, 6, 4)
    z = b.add(x, y)
    plan = compiled(b.build(z), deny=("type:CONV_2D",))
    assert plan.programs == ()
    assert set(reasons(plan, 2)) == {"V2-GRAPH-BRANCHES"}


def test_an_operator_without_outputs_is_reported() -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(6, 6, 4), 4)
    b.opaque(x, shape=(None, 6, 6, 4), code="ASSIGN_VARIABLE")
    *others, last = b.operations
    assert isinstance(last, Opaque)
    b.operations = [*others, dataclasses.replace(last, results=())]
    graph = b.build(b.conv2d(x, 4))
    plan = compiled(graph)
    assert reasons(plan, 1) == {"OP-OPAQUE": "ASSIGN_VARIABLE is not modelled"}
    assert row(plan, 0).on_device
    assert row(plan, 2).on_device


# Determinism

_SCRIPT = """
import sys
from hashlib import sha256
sys.path[:0] = {path!r}
from test_partition import determined, fingerprint
print(fingerprint(determined()))
"""


def determined() -> Plan:
    """A plan with branches, rewrites, calibration-free scales and several segments."""
    b = GraphBuilder(11)
    x = b.conv2d(b.input(13, 9, 1), 4, kernel=(10, 4), stride=2)
    y = b.add(b.conv2d(x, 4), b.depthwise(x))
    z = b.concatenation(
        b.conv2d(y, 4, scaling=(0.1, 0)),
        b.conv2d(y, 2, scaling=(0.1, 0)),
        b.conv2d(y, 3, scaling=(0.1, 0)),
    )
    z = b.hard_swish(b.conv2d(z, 4))
    return compile_model(b.build(b.fully_connected(b.mean(b.add(z, y)), 5), b.tanh(y)))


def fingerprint(plan: Plan) -> str:
    digest = hashlib.sha256()

    def feed(value: object) -> None:
        if isinstance(value, np.ndarray):
            digest.update(str((value.dtype, value.shape)).encode() + value.tobytes())
        elif hasattr(value, "__dataclass_fields__"):
            digest.update(type(value).__name__.encode())
            for name in value.__dataclass_fields__:
                feed(getattr(value, name))
        elif isinstance(value, tuple | list):
            for part in value:
                feed(part)
        elif isinstance(value, dict):
            for key, part in value.items():
                feed((key, part))
        else:
            digest.update(repr(value).encode())

    feed(plan.programs)
    feed(plan.placement)
    feed([(s.index, type(s).__name__) for s in plan.segments])
    return digest.hexdigest()


def test_the_same_graph_gives_the_same_programs() -> None:
    assert fingerprint(determined()) == fingerprint(determined())


@pytest.mark.parametrize("seed", ["1", "2"])
def test_another_hash_seed_gives_the_same_programs(seed: str) -> None:
    tests = Path(__file__).parent
    script = _SCRIPT.format(path=[str(tests), str(tests.parent)])
    found = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    assert found.stdout.strip() == fingerprint(determined())
