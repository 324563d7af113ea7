# SPDX-License-Identifier: Apache-2.0
"""What a reference function sees, and the executor that runs a Graph with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from akida_backend.errors import UnsupportedOperationError
from akida_backend.graph import AnyArray, Arithmetic, Graph, Opaque, Operation, Tensor


@dataclass(frozen=True, slots=True)
class Environment:
    """Values of one execution, by tensor name; batch on axis 0.

    Attributes:
        graph: The graph the operation belongs to.
        values: Everything computed or fed so far; constants are in the graph.
    """

    graph: Graph
    values: Mapping[str, AnyArray]

    @property
    def arithmetic(self) -> Arithmetic:
        return self.graph.arithmetic

    def tensor(self, name: str) -> Tensor:
        return self.graph.tensors[name]

    def value(self, name: str) -> AnyArray:
        """The stored integers (or floats) of a tensor, constant or computed."""
        data = self.graph.tensors[name].data
        return self.values[name] if data is None else data

    def sized(self, name: str, like: AnyArray) -> tuple[int, ...]:
        """Shape of a tensor with the batch of `like` for the symbolic one."""
        return tuple(len(like) if n is None else n for n in self.graph.tensors[name].shape)


def run_graph(
    graph: Graph, feeds: Mapping[str, AnyArray], *, keep: bool = False
) -> dict[str, AnyArray]:
    """Execute a graph in its own arithmetic.

    Args:
        graph: What to run.
        feeds: Stored values of every input, samples on axis 0.
        keep: Return all activation tensors, not only the outputs.

    Raises:
        UnsupportedOperationError: An operation has no reference arithmetic.
    """
    values = dict(feeds)
    env = Environment(graph, values)
    last_reader = {name: op for op in graph.operations for name in op.inputs}
    for op in graph.operations:
        run_operations((op,), graph, values)
        if not keep:
            for name in (*op.inputs, *op.outputs):
                if last_reader.get(name, op) is op and name not in graph.outputs:
                    values.pop(name, None)
    return values if keep else {name: env.value(name) for name in graph.outputs}


def run_operations(
    operations: Iterable[Operation], graph: Graph, values: dict[str, AnyArray]
) -> None:
    """Execute operations in order and add what they write to `values`.

    Args:
        operations: Any of the graph's operations, each after those that write its inputs.
        graph: The graph they belong to.
        values: Activation tensors known so far, samples on axis 0.

    Raises:
        UnsupportedOperationError: An operation has no reference arithmetic.
    """
    from akida_backend.ops import SPEC_OF  # the rows are built on Environment

    env = Environment(graph, values)
    for op in operations:
        reference = SPEC_OF[type(op)].reference
        if reference is None:
            why = f": {op.reason}" if isinstance(op, Opaque) else ""
            raise UnsupportedOperationError(
                f"{op.location}: cannot be executed{why}\n"
                "  Install a runtime that knows it: akida-backend with its extra 'litert'."
            )
        values.update(zip(op.outputs, reference(op, env), strict=True))
