# SPDX-License-Identifier: Apache-2.0
"""Run a Plan or a Graph on stored values: host segments, device segments, any number of samples."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.errors import InputError
from akida_backend.graph import AnyArray, Graph, Opaque, Operation
from akida_backend.options import Emulation, Host
from akida_backend.plan import DeviceSegment, HostSegment, Plan
from akida_backend.program import Program
from akida_backend.reference import run_operations
from akida_backend.runtime_host import has_runtime_form, run_in_runtime
from akida_backend.simulator import Simulator, encode_input

Values = dict[str, AnyArray]

MAX_SAMPLES: Final = 64  # computed at a time
WORKING_VALUES: Final = 1 << 22  # of the largest tensor; bounds the samples computed at a time


@dataclass(frozen=True, slots=True)
class Execution:
    """What was asked for, samples on axis 0.

    Attributes:
        values: Stored values of host tensors by name: the outputs and the tensors asked for.
        reals: Real values of program tensors by name, (batch, height, width, channels).
    """

    values: Mapping[str, AnyArray]
    reals: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


class Executor:
    """A plan ready to run.

    Args:
        plan: What to run.
        emulation: Instead of the plan's option.
        host: Instead of the plan's option.
    """

    def __init__(
        self, plan: Plan, *, emulation: Emulation | None = None, host: Host | None = None
    ) -> None:
        self.plan = plan
        self.emulation: Emulation = emulation or plan.options.emulation
        self.host: Host = host or plan.options.host
        self._simulators = (
            {program.name: Simulator(program) for program in plan.programs}
            if self.emulation == "device"
            else {}
        )

    def run(
        self,
        feeds: Mapping[str, AnyArray],
        *,
        tensors: Collection[str] = (),
        device_tensors: Collection[str] = (),
    ) -> Execution:
        """Outputs of the model, and further tensors by name.

        Args:
            feeds: Stored values of every input, samples on axis 0.
            tensors: Host tensors to return beside the outputs; those that exist are returned.
            device_tensors: Program tensors to return as reals; none in source emulation.

        Raises:
            InputError: The number of samples does not fit.
            UnsupportedOperationError: An opaque operation cannot be executed.
        """
        wanted = {*self.plan.graph.outputs, *tensors}

        def step(values: Values) -> tuple[Values, Values]:
            reals: Values = {}
            if self.emulation == "source":
                self._run_source(values)
            else:
                reals = self._run_device(values, device_tensors)
            return _pick(values, wanted), reals

        values, reals = _in_parts(self.plan.graph, feeds, step)
        values.update(_constants(self.plan.graph, wanted))
        return Execution(values, {name: real.astype(np.float64) for name, real in reals.items()})

    def _run_device(self, values: Values, device_tensors: Collection[str]) -> Values:
        reals: Values = {}
        for segment in self.plan.segments:
            match segment:
                case HostSegment():
                    _run_host(
                        segment.operations, self.plan.legalised, self.plan.graph, values, self.host
                    )
                case DeviceSegment():
                    program = segment.program
                    x = values[program.input.tensor]
                    simulator = self._simulators[program.name]
                    stored, codes = simulator.run(x, raw=True)
                    values[program.output.tensor] = stored
                    inner = [n for n in device_tensors if n in program.tensors]
                    if inner == [program.output.device]:
                        reals[inner[0]] = real_values(program, inner[0], codes)
                    elif inner:
                        layers = simulator.run_layers(encode_input(program, x))
                        reals.update({n: real_values(program, n, layers[n]) for n in inner})
        return reals

    def _run_source(self, values: Values) -> None:
        """Segment by segment in the operations of the model as it was imported.

        A host operation that rewrites changed, or made, has no counterpart: what it computes for
        a device segment is computed there, from the tensors of the imported model.
        """
        graph = self.plan.graph
        unchanged = set(graph.operations)
        for segment in self.plan.segments:
            match segment:
                case HostSegment():
                    members = [op for op in segment.operations if op in unchanged]
                case DeviceSegment():
                    sources = set(segment.sources)
                    members = [op for op in graph.operations if sources.intersection(op.sources)]
            needed = {name for op in members for name in op.outputs}
            _run_host(_missing(graph, needed, values), graph, graph, values, self.host)
        _run_host(_missing(graph, graph.outputs, values), graph, graph, values, self.host)


def run_source(
    graph: Graph,
    feeds: Mapping[str, AnyArray],
    *,
    tensors: Collection[str] = (),
    host: Host = "reference",
) -> Mapping[str, AnyArray]:
    """Outputs of a model that is not partitioned, and further tensors by name.

    Raises:
        InputError: The number of samples does not fit.
        UnsupportedOperationError: An opaque operation cannot be executed.
    """
    wanted = {*graph.outputs, *tensors}

    def step(values: Values) -> tuple[Values, Values]:
        _run_host(graph.operations, graph, graph, values, host)
        return _pick(values, wanted), {}

    return {**_in_parts(graph, feeds, step)[0], **_constants(graph, wanted)}


def real_values(program: Program, name: str, codes: AnyArray) -> NDArray[np.float64]:
    """The numbers a program tensor's codes stand for."""
    code = program.tensors[name].code
    return (codes.astype(np.float64) - code.zero_point) * np.asarray(code.scale, np.float64)


def samples_at_once(graph: Graph) -> int:
    """Samples executed together, so that memory stays bounded."""
    if graph.batch is not None:
        return graph.batch
    largest = max(
        (t.values_per_sample for t in graph.tensors.values() if t.data is None), default=1
    )
    return max(1, min(MAX_SAMPLES, WORKING_VALUES // max(1, largest)))


def sample_count(graph: Graph, feeds: Mapping[str, AnyArray]) -> int:
    """Samples in `feeds`.

    Raises:
        InputError: The inputs differ, there are none, or a fixed batch does not divide them.
    """
    groups = set()
    for name in graph.inputs:
        rows = 1 if graph.batch is None else rows_of(graph, name)
        count, rest = divmod(len(feeds[name]), rows)
        if rest or not count:
            raise InputError(
                f"input '{name}' of {graph.name}: {len(feeds[name])} rows\n"
                f"  expected {'at least one' if rows == 1 else f'a multiple of {rows}'}"
            )
        groups.add(count)
    if len(groups) > 1:
        raise InputError(f"the inputs of {graph.name} differ in their number of samples")
    return max(groups, default=1) * (graph.batch or 1)


def rows_of(graph: Graph, name: str) -> int:
    """Length of axis 0 of a tensor in one execution of a graph with a fixed batch."""
    shape = graph.tensors[name].shape
    return (shape[0] or 1) if shape else 1


def parts(graph: Graph, feeds: Mapping[str, AnyArray]) -> Iterator[Values]:
    """The feeds in portions that are executed together."""
    step = samples_at_once(graph)
    for begin in range(0, sample_count(graph, feeds), step):
        if graph.batch is None:
            yield {name: feeds[name][begin : begin + step] for name in graph.inputs}
        else:
            group = begin // step
            yield {
                name: feeds[name][group * rows : (group + 1) * rows]
                for name in graph.inputs
                for rows in [rows_of(graph, name)]
            }


def _in_parts(
    graph: Graph,
    feeds: Mapping[str, AnyArray],
    step: Callable[[Values], tuple[Values, Values]],
) -> tuple[Values, Values]:
    collected: tuple[dict[str, list[AnyArray]], dict[str, list[AnyArray]]] = ({}, {})
    for part in parts(graph, feeds):
        for lists, result in zip(collected, step(_shaped(graph, part)), strict=True):
            for name, values in result.items():
                lists.setdefault(name, []).append(np.atleast_1d(values))
    joined = ({n: np.concatenate(arrays) for n, arrays in lists.items()} for lists in collected)
    values_by_name, reals_by_name = joined
    return values_by_name, reals_by_name


def _shaped(graph: Graph, part: Values) -> Values:
    """The same values; under a fixed batch in the graph's own shapes."""
    if graph.batch is None:
        return part
    shapes = {name: [d or 1 for d in graph.tensors[name].shape] for name in part}
    return {name: values.reshape(shapes[name]) for name, values in part.items()}


def _pick(values: Values, wanted: Iterable[str]) -> Values:
    return {name: values[name] for name in wanted if name in values}


def _constants(graph: Graph, wanted: Iterable[str]) -> Values:
    found = ((name, graph.tensors[name].data) for name in wanted if name in graph.tensors)
    return {name: data for name, data in found if data is not None}


def _missing(graph: Graph, names: Iterable[str], values: Values) -> Sequence[Operation]:
    """Operations that compute `names` from what is known, in order."""
    wanted = {name for name in names if name not in values}
    chosen: list[Operation] = []
    for op in reversed(graph.operations):
        if wanted.intersection(op.outputs):
            chosen.append(op)
            wanted.update(name for name in op.inputs if name not in values)
    return chosen[::-1]


def _run_host(
    operations: Sequence[Operation], graph: Graph, imported: Graph, values: Values, host: Host
) -> None:
    """Execute operations of `graph` and add what they write to `values`."""

    def in_runtime(op: Operation) -> bool:
        return isinstance(op, Opaque) or (host == "runtime" and has_runtime_form(imported, op))

    for chosen, group in itertools.groupby(operations, in_runtime):
        if not chosen:
            run_operations(tuple(group), graph, values)
            continue
        members = list(group)
        if host == "runtime":
            values.update(run_in_runtime(imported, members, values))
        else:
            for op in members:
                values.update(run_in_runtime(imported, [op], values))
