# SPDX-License-Identifier: Apache-2.0
"""The smallest changes of a layer's facts, and the graphs they stand for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from compiling import assert_same_integers
from hypothesis import given
from hypothesis import strategies as st

from akida_backend.advice.edits import fewer_filters, identity_behind, operator, with_facts
from akida_backend.advice.proposals import situation
from akida_backend.advice.search import FactChange, said, smallest_changes
from akida_backend.advice.shapes import settled
from akida_backend.candidate import Candidate
from akida_backend.constraints import LayerFacts, LayerType, violations
from akida_backend.devices import device
from akida_backend.graph import ONE, Activation, Conv2D, Graph, MaxPool2D, Pads, Size2D
from akida_backend.graph_check import graph_problems
from akida_backend.ops import SPEC_OF
from akida_backend.options import Options
from akida_backend.reference import run_graph
from builders import GraphBuilder, random_inputs

CONV2D = LayerFacts(
    layer=LayerType.CONV2D,
    input_size=Size2D(16, 16),
    input_channels=8,
    kernel_size=Size2D(3, 3),
    kernel_stride=ONE,
    dilation=ONE,
    groups=1,
    padding="same",
    pads=Pads(1, 1, 1, 1),
    filters=8,
    pool_type="none",
    activation="relu",
    conv_output_size=Size2D(16, 16),
    input_bits=8,
    weights_bits=8,
    output_bits=8,
)
STRIDED = replace(
    CONV2D,
    kernel_size=Size2D(5, 5),
    kernel_stride=Size2D(2, 2),
    pads=Pads(1, 2, 1, 2),
    conv_output_size=Size2D(8, 8),
)
POOLED = replace(
    CONV2D,
    pool_type="max",
    pool_size=Size2D(3, 3),
    pool_stride=Size2D(3, 3),
    pool_pads="same_on_conv_output",
)
IMAGE = replace(
    CONV2D,
    layer=LayerType.INPUT_CONVOLUTIONAL,
    input_size=Size2D(49, 10),
    input_channels=1,
    kernel_size=Size2D(10, 4),
    kernel_stride=Size2D(2, 2),
    pads=Pads(4, 5, 1, 1),
    conv_output_size=Size2D(25, 5),
    activation="bounded_relu",
    output_bits=4,
)


def _first(facts: LayerFacts, target: str) -> str:
    return said(facts, next(smallest_changes(facts, device(target), strict=False)))


@pytest.mark.parametrize(
    ("facts", "target", "expected"),
    [
        pytest.param(STRIDED, "akida2", "a 3x3 kernel instead of 5x5", id="kernel-of-a-stride"),
        pytest.param(
            replace(
                CONV2D,
                dilation=Size2D(2, 2),
                pads=Pads(2, 2, 2, 2),
            ),
            "akida2",
            "the dilated kernel written out as 5x5",
            id="dilation",
        ),
        pytest.param(replace(CONV2D, groups=2), "akida2", "one group instead of 2", id="groups"),
        pytest.param(
            replace(CONV2D, padding="valid", pads=Pads(), conv_output_size=Size2D(14, 14)),
            "akida2",
            "Same padding instead of Valid",
            id="padding",
        ),
        pytest.param(
            POOLED,
            "akida2",
            "a 2x2 max pool instead of 3x3 and pooling stride 2 instead of 3",
            id="pool-of-two-changes",
        ),
        pytest.param(IMAGE, "akd1000", "a 7x7 kernel instead of 10x4", id="oblong-kernel"),
        pytest.param(
            replace(IMAGE, kernel_size=Size2D(3, 3), filters=600),
            "akd1000",
            "512 filters instead of 600",
            id="filters-of-a-table",
        ),
        pytest.param(
            replace(IMAGE, kernel_size=Size2D(3, 3), input_size=Size2D(49, 300)),
            "akd1000",
            "an input of 49x256 instead of 49x300",
            id="input-line",
        ),
    ],
)
def test_finds_the_smallest_change(facts: LayerFacts, target: str, expected: str) -> None:
    assert _first(facts, target) == expected


@given(
    kernel=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    padding=st.sampled_from(["same", "valid", "explicit"]),
    pool=st.sampled_from([None, (2, 2), (3, 2), (3, 3)]),
)
def test_every_change_found_meets_every_rule(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: int,
    groups: int,
    padding: str,
    pool: tuple[int, int] | None,
) -> None:
    facts = replace(
        CONV2D,
        kernel_size=Size2D(*kernel),
        kernel_stride=Size2D(*stride),
        dilation=Size2D(dilation, dilation),
        groups=groups,
        padding=padding,
    )
    if pool is not None:
        side, step = pool
        facts = replace(
            facts,
            pool_type="max",
            pool_size=Size2D(side, side),
            pool_stride=Size2D(step, step),
            pool_pads="zero",
        )
    target = device("akida2")
    sizes = []
    for change in smallest_changes(facts, target, strict=False):
        assert violations(change.facts, target) == ()
        sizes.append(len(change.names))
        if len(sizes) == 3:
            break
    assert sizes == sorted(sizes)
    if not violations(facts, target):
        assert sizes == []


def test_a_layer_that_breaks_no_rule_needs_no_change() -> None:
    assert list(smallest_changes(CONV2D, device("akida2"), strict=False)) == []


def test_keeps_what_must_stay() -> None:
    changes = list(
        smallest_changes(STRIDED, device("akida2"), strict=False, frozen=frozenset({"kernel_size"}))
    )
    assert [change.names for change in changes] == [("kernel_stride",)]


def _facts(graph: Graph, index: int, target: str = "akida2") -> LayerFacts:
    where = situation(graph, device(target), Options.parse({}))
    op = operator(where.graph, index)
    assert op is not None
    match = SPEC_OF[type(op)].candidate(op, where.context)
    assert isinstance(match, Candidate)
    return match.facts


def _edited(graph: Graph, index: int, **changes: object) -> Graph:
    facts = _facts(graph, index)
    after = replace(facts, **changes)  # type: ignore[arg-type]
    edit = with_facts(index, facts, FactChange(after, tuple(changes)), None)
    assert edit is not None
    changed = edit(graph)
    assert changed is not None
    assert list(graph_problems(changed)) == []
    run_graph(changed, random_inputs(changed, 2))  # the shapes fit together
    return changed


def _chain(seed: int = 2) -> Graph:
    b = GraphBuilder(seed)
    x = b.conv2d(b.input(9, 8, 3), 6, kernel=(5, 5), stride=2, activation=Activation.RELU)
    x = b.depthwise(x, activation=Activation.RELU)
    x = b.max_pool(b.conv2d(x, 4, kernel=3, padding="valid"))
    return b.build(b.softmax(b.fully_connected(b.flatten(x), 5)))


def test_shapes_behind_a_change_follow() -> None:
    graph = _chain()
    changed = _edited(graph, 0, kernel_stride=ONE)
    first, *_, last = changed.operations
    assert changed.tensors[first.outputs[0]].shape == (None, 9, 8, 6)
    assert changed.tensors[last.outputs[0]].shape == (None, 5)


def test_channels_behind_fewer_filters_follow() -> None:
    graph = _chain()
    changed = fewer_filters(0, 2)(graph)
    assert changed is not None
    assert list(graph_problems(changed)) == []
    shapes = [changed.tensors[op.outputs[0]].shape for op in changed.operations[:2]]
    assert shapes == [(None, 5, 4, 2), (None, 5, 4, 2)]
    run_graph(changed, random_inputs(changed, 2))


def test_a_smaller_kernel_keeps_its_middle() -> None:
    graph = _chain()
    changed = _edited(graph, 0, kernel_size=Size2D(3, 3))
    before, after = graph.operations[0], changed.operations[0]
    assert isinstance(before, Conv2D)
    assert isinstance(after, Conv2D)
    middle = graph.constant(before.weights)[:, 1:4, 1:4, :]
    np.testing.assert_array_equal(changed.constant(after.weights), middle)
    assert changed.tensors[after.output].shape == graph.tensors[before.output].shape


def test_a_dilated_kernel_written_out_computes_the_same() -> None:
    b = GraphBuilder(5)
    graph = b.build(b.conv2d(b.input(9, 9, 4), 5, kernel=(3, 3), dilation=2))
    changed = _edited(graph, 0, dilation=ONE)
    assert_same_integers(graph, changed)


def test_an_identity_convolution_behind_a_pool_computes_the_same() -> None:
    graph = _chain()
    changed = identity_behind(3)(graph)
    assert changed is not None
    assert isinstance(operator(changed, 3), MaxPool2D)
    assert len(changed.operations) == len(graph.operations) + 1
    feeds = random_inputs(graph, 3)
    for name, values in run_graph(graph, feeds).items():
        np.testing.assert_array_equal(run_graph(changed, feeds)[name], values)


def test_gives_up_where_shapes_no_longer_fit() -> None:
    b = GraphBuilder(6)
    x = b.conv2d(b.input(8, 8, 3), 4, kernel=(5, 5), stride=2)
    graph = b.build(b.add(x, b.conv2d(x, 4, kernel=1)), b.reshape(x, 8, 8))
    facts = _facts(graph, 0)
    change = FactChange(replace(facts, kernel_stride=ONE), ("kernel_stride",))
    edit = with_facts(0, facts, change, None)
    assert edit is not None
    assert edit(graph) is None


def test_a_graph_without_changes_settles_as_it_is() -> None:
    graph = _chain()
    result = settled(graph, graph)
    assert result is not None
    assert result.operations == graph.operations
    assert {n: t.shape for n, t in result.tensors.items()} == {
        n: t.shape for n, t in graph.tensors.items()
    }
