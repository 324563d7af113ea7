# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import networks
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from akida_backend.compiler import compile as compile_model
from akida_backend.errors import InputError
from akida_backend.execute import Executor, run_source, samples_at_once
from akida_backend.graph import Graph, MaxPool2D, Pads, Size2D
from akida_backend.plan import DeviceSegment, HostSegment, Plan
from akida_backend.reference import run_graph, run_operations
from akida_backend.simulator import Simulator, encode_input
from builders import GraphBuilder

GRAPHS = {
    "classifier": networks.classifier(),
    "interrupted": networks.interrupted(),
    "stem": networks.strided_stem(),
}


def outputs_equal(plan: Plan, graph: Graph, samples: int, **how: str) -> bool:
    feeds = networks.codes(graph, samples)
    expected = run_graph(graph, feeds)
    found = Executor(plan, **how).run(feeds).values  # type: ignore[arg-type]
    return all(np.array_equal(found[name], expected[name]) for name in graph.outputs)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_plan_without_device_segments_computes_what_the_graph_does(name: str) -> None:
    graph = GRAPHS[name]
    types = sorted({f"type:{op.location.type}" for op in graph.operations})
    plan = compile_model(graph, deny=types)
    assert plan.programs == ()
    assert outputs_equal(plan, graph, 3)


@pytest.mark.parametrize("name", GRAPHS)
def test_source_emulation_changes_no_bit(name: str) -> None:
    graph = GRAPHS[name]
    plan = compile_model(graph)
    assert plan.programs != ()
    assert outputs_equal(plan, graph, 3, emulation="source")


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_source_emulation_changes_no_bit_however_the_model_is_cut(data: st.DataObject) -> None:
    graph = GRAPHS[data.draw(st.sampled_from(sorted(GRAPHS)))]
    names = [f"name:{op.location.name}" for op in graph.operations]
    which = data.draw(st.sampled_from(["allow", "deny"]))
    entries = data.draw(st.lists(st.sampled_from(names), unique=True))
    kept: dict[str, object] = {which: entries}
    plan = compile_model(graph, device="akida2", **kept)
    assert outputs_equal(plan, graph, 2, emulation="source")


def test_source_emulation_covers_rewrites_that_split_an_operation() -> None:
    graph = GRAPHS["stem"]
    plan = compile_model(graph)
    assert any("space-to-depth" in row.rewrites for row in plan.placement)
    assert set(plan.legalised.operations) - set(graph.operations)
    assert outputs_equal(plan, graph, 5, emulation="source")


def test_device_segments_run_on_the_simulator_and_host_segments_in_the_reference() -> None:
    graph = GRAPHS["interrupted"]
    plan = compile_model(graph)
    feeds = networks.codes(graph, 4)
    values = dict(feeds)
    for segment in plan.segments:
        match segment:
            case HostSegment(operations=operations):
                run_operations(operations, plan.legalised, values)
            case DeviceSegment(program=program):
                x = values[program.input.tensor]
                values[program.output.tensor] = Simulator(program).run(x)
    assert len(plan.programs) == 2
    found = Executor(plan).run(feeds).values
    for name in graph.outputs:
        np.testing.assert_array_equal(found[name], values[name])


def test_samples_do_not_influence_each_other_across_portions() -> None:
    graph = GRAPHS["classifier"]
    executor = Executor(compile_model(graph))
    feeds = networks.codes(graph, 130)
    together = executor.run(feeds).values
    for sample in (0, 63, 64, 129):
        alone = executor.run({n: v[sample : sample + 1] for n, v in feeds.items()}).values
        for name in graph.outputs:
            np.testing.assert_array_equal(together[name][sample : sample + 1], alone[name])


def test_portions_shrink_for_large_maps() -> None:
    b = GraphBuilder(0)
    large = b.build(b.relu(b.input(2048, 1024, 1)))
    assert samples_at_once(GRAPHS["classifier"]) == 64
    assert samples_at_once(large) == 2


def test_portions_shrink_for_wide_borders() -> None:
    b = GraphBuilder()
    b.max_pool(b.input(8, 8, 1), window=1)
    graph, (pool,) = b.build(), b.operations
    assert isinstance(pool, MaxPool2D)
    wide = dataclasses.replace(pool, pads=Pads(0, 2**20, 0, 0), stride=Size2D(2**20, 1))
    assert samples_at_once(graph) == 64
    assert samples_at_once(dataclasses.replace(graph, operations=(wide,))) == 1


def test_several_inputs_and_outputs() -> None:
    graph = networks.two_inputs()
    assert outputs_equal(compile_model(graph), graph, 3)


def test_asked_for_tensors_are_returned_beside_the_outputs() -> None:
    graph = GRAPHS["classifier"]
    plan = compile_model(graph)
    feeds = networks.codes(graph, 3)
    (program,) = plan.programs
    names = [layer.output for layer in program.layers]
    execution = Executor(plan).run(feeds, tensors=[program.output.tensor], device_tensors=names)
    codes = Simulator(program).run_layers(encode_input(program, feeds["image"]))
    for name in names:
        scale = np.array(program.tensors[name].code.scale)
        np.testing.assert_array_equal(execution.reals[name], codes[name] * scale)
    assert set(execution.values) == {*graph.outputs, program.output.tensor}


def test_tensors_between_movements_are_returned_too() -> None:
    b = GraphBuilder()
    padded = b.pad(b.input(3, 4), [(0, 0), (1, 0), (0, 0)])
    turned = b.transpose(padded, 0, 2, 1)
    graph = b.build(turned)
    feeds = networks.codes(graph, 2)
    expected = run_graph(graph, feeds, keep=True)
    executor = Executor(compile_model(graph))
    for asked in ([], [padded]):
        found = executor.run(feeds, tensors=asked).values
        assert list(found) == [turned, *asked]
        assert all(np.array_equal(found[name], expected[name]) for name in found)


def test_outputs_are_no_part_of_the_inputs() -> None:
    b = GraphBuilder()
    graph = b.build(b.reshape(b.input(3, 4), 12))
    feeds = networks.codes(graph, 2)
    (found,) = Executor(compile_model(graph)).run(feeds).values.values()
    assert not np.shares_memory(found, feeds[graph.inputs[0]])


def test_a_fixed_batch_runs_in_groups_of_its_size() -> None:
    graph = networks.fixed_batch(2)
    feeds = networks.codes(graph, 6)
    found = run_source(graph, feeds)
    (name,) = graph.outputs
    np.testing.assert_array_equal(found[name], feeds["x"])


def test_a_fixed_batch_refuses_other_sizes() -> None:
    graph = networks.fixed_batch(2)
    with pytest.raises(InputError, match=r"input 'x' of fixed\.tflite: 5 rows\n.*multiple of 2"):
        run_source(graph, networks.codes(graph, 5))


def test_no_samples_are_refused() -> None:
    graph = GRAPHS["classifier"]
    with pytest.raises(InputError, match="at least one"):
        run_source(graph, networks.codes(graph, 0))
