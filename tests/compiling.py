# SPDX-License-Identifier: Apache-2.0
"""What the compiler's tests share: single rewrites, placements by operator, exact comparison."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from akida_backend.compiler import compile as compile_model
from akida_backend.devices import device
from akida_backend.graph import Graph, Node
from akida_backend.options import Options
from akida_backend.placement import place
from akida_backend.plan import PlacedOperation, Plan
from akida_backend.program import ProgramLayer
from akida_backend.program_check import check_program
from akida_backend.reference import run_graph
from akida_backend.rewrites import Rule
from akida_backend.rewrites.rewriting import RewriteContext, Rewritten
from builders import random_inputs

AKIDA2 = device("akida2")


def rewrite_once(rule: Rule, graph: Graph, **options: object) -> Rewritten | None:
    """One application of one rewrite to a graph as it was written."""
    parsed = Options.parse(options)
    placement = place(graph, AKIDA2, parsed, {})
    return rule(RewriteContext(graph, placement, AKIDA2, parsed, {}))


def kinds(graph: Graph) -> list[type[Node]]:
    return [type(op) for op in graph.operations]


def assert_same_integers(before: Graph, after: Graph, *, samples: int = 3, seed: int = 0) -> None:
    """Every tensor that both graphs compute holds the same integers, outputs among them."""
    assert list(after.problems()) == []
    assert after.outputs == before.outputs
    feeds = random_inputs(before, samples, seed)
    old, new = (run_graph(graph, feeds, keep=True) for graph in (before, after))
    shared = old.keys() & new.keys()
    assert set(before.outputs) <= shared
    for name in sorted(shared):
        assert old[name].dtype == new[name].dtype
        np.testing.assert_array_equal(old[name], new[name], err_msg=name)


def steps_apart(before: Graph, after: Graph, *, samples: int = 3, seed: int = 0) -> int:
    """Largest difference of the outputs, in steps of their own quantization."""
    feeds = random_inputs(before, samples, seed)
    old, new = (run_graph(graph, feeds) for graph in (before, after))
    return max(
        int(np.abs(old[name].astype(np.int64) - new[name].astype(np.int64)).max())
        for name in before.outputs
    )


def compiled(graph: Graph, **options: object) -> Plan:
    """A plan whose programs are all well-formed."""
    plan = compile_model(graph, AKIDA2.name, **options)
    for program in plan.programs:
        check_program(program)
    return plan


def row(plan: Plan, index: int) -> PlacedOperation:
    (found,) = (r for r in plan.placement if r.index == index)
    return found


def reasons(plan: Plan, index: int) -> Mapping[str, str]:
    """What was found, by code, for an operator of the file that stays on the host."""
    placed = row(plan, index)
    assert not placed.on_device
    return {reason.code: reason.found for reason in placed.reasons}


def layers(plan: Plan) -> list[ProgramLayer]:
    """Layers of all programs in order."""
    return [layer for program in plan.programs for layer in program.layers]


def layer_names(plan: Plan) -> list[str]:
    """Types of the layers of all programs in order."""
    return [type(layer).__name__ for layer in layers(plan)]
