# SPDX-License-Identifier: Apache-2.0
"""Run a Plan or a Graph on stored values: host segments, device segments, any number of samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.device_engine import open_engine
from akida_backend.errors import InputError
from akida_backend.graph import AnyArray, Graph, Opaque, Operation, nominal_shape
from akida_backend.host_kernels import HostKernel, host_kernel
from akida_backend.importers.shape_inference import working_shape
from akida_backend.options import Emulation, Host
from akida_backend.plan import DeviceSegment, HostSegment, Plan
from akida_backend.program import Program
from akida_backend.reference import run_operations
from akida_backend.runtime_host import has_runtime_form, run_in_runtime
from akida_backend.simulator import Simulator, encode_input

Values = dict[str, AnyArray]
Reals = dict[str, NDArray[np.float64]]
Step = Callable[[Values], None]  # adds what it computes to the values

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
    """A plan ready to run, also from several threads at once.

    Args:
        plan: What to run.
        emulation: Instead of the plan's option.
        host: Instead of the plan's option.

    Raises:
        ProgramError: A program is not well-formed.
    """

    def __init__(
        self, plan: Plan, *, emulation: Emulation | None = None, host: Host | None = None
    ) -> None:
        self.plan = plan
        self.emulation: Emulation = emulation or plan.options.emulation
        self.host: Host = host or plan.options.host
        self._samples_at_once = samples_at_once(plan.graph)
        self._constants = _constants(plan.graph, plan.graph.outputs)
        self._steps = tuple(self._prepared()) if self.emulation == "device" else ()

    def _prepared(self) -> Iterator[Step]:
        for segment in self.plan.segments:
            match segment:
                case HostSegment(operations=operations):
                    yield from _host_steps(
                        operations, self.plan.legalised, self.plan.graph, self.host, kernels=True
                    )
                case DeviceSegment(program=program):
                    yield _DeviceStep(program, self.plan.options.threads)

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
        graph = self.plan.graph
        wanted = dict.fromkeys((*graph.outputs, *tensors))

        def compute(values: Values) -> tuple[Values, Reals]:
            reals: Reals = {}
            if self.emulation == "source":
                self._run_source(values)
            for step in self._steps:
                if device_tensors and isinstance(step, _DeviceStep):
                    reals.update(step.run_and_show(values, device_tensors))
                elif tensors and isinstance(step, _KernelStep):
                    step.run_and_show(values, tensors)
                else:
                    step(values)
            return _pick(values, wanted), reals

        values, reals = _in_portions(graph, feeds, self._samples_at_once, compute)
        values.update(_constants(graph, tensors) if tensors else {})
        values.update(self._constants)
        return Execution(values, reals)

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
            _run_on_host(_missing(graph, needed, values), graph, values, self.host)
        _run_on_host(_missing(graph, graph.outputs, values), graph, values, self.host)


def _host_steps(
    operations: Sequence[Operation], graph: Graph, imported: Graph, host: Host, *, kernels: bool
) -> Iterator[Step]:
    """How operations are executed, in order.

    Args:
        operations: Of `graph`.
        graph: As imported, or rewritten.
        imported: As imported.
        host: Who executes what stands in the model's file.
        kernels: Take the native library's host kernels for operations it has, bit for bit the same.
    """
    # Of TFLite models the runtime also takes what rewrites have left to the host.
    source = graph if imported.format == "tflite" else imported

    def in_runtime(op: Operation) -> bool:
        return isinstance(op, Opaque) or (host == "runtime" and has_runtime_form(source, op))

    for chosen, members in itertools.groupby(operations, in_runtime):
        if chosen and host == "runtime":
            yield partial(_run_in_runtime, source, tuple(members))
            continue
        rest = tuple(members)
        while rest:
            first, *_ = rest
            count = 1
            if chosen:
                yield partial(_run_in_runtime, source, (first,))
            elif not kernels or (bound := host_kernel(rest, graph)) is None:
                yield partial(run_operations, (first,), graph)
            else:
                kernel, count = bound
                yield _KernelStep(kernel, rest[:count], graph)
            rest = rest[count:]


def _run_in_runtime(graph: Graph, operations: Sequence[Operation], values: Values) -> None:
    values.update(run_in_runtime(graph, operations, values))


class _KernelStep:
    """Host operations, each read by the next, in one kernel."""

    def __init__(self, kernel: HostKernel, operations: Sequence[Operation], graph: Graph) -> None:
        self._kernel, self._operations, self._graph = kernel, operations, graph
        (self._source,) = graph.activations_of(operations[0])
        (self._sink,) = operations[-1].outputs
        self._inner = frozenset(name for op in operations[:-1] for name in op.outputs)

    def __call__(self, values: Values) -> None:
        values[self._sink] = self._kernel(values[self._source])

    def run_and_show(self, values: Values, names: Collection[str]) -> None:
        """Also give what is computed between, where it is among `names`."""
        if self._inner.isdisjoint(names):
            self(values)
        else:
            run_operations(self._operations, self._graph, values)


class _DeviceStep:
    """A program in the engine of this machine."""

    def __init__(self, program: Program, threads: int) -> None:
        self.program = program
        self._engine = open_engine(program, threads=threads)
        self._source, self._sink = program.input.tensor, program.output.tensor

    @cached_property
    def _reference(self) -> Simulator:
        """The one engine that shows every tensor."""
        return self._engine if isinstance(self._engine, Simulator) else Simulator(self.program)

    def __call__(self, values: Values) -> None:
        values[self._sink] = self._engine.run(values[self._source])

    def run_and_show(self, values: Values, names: Collection[str]) -> Reals:
        """Also give real values of the program's tensors among `names`."""
        program = self.program
        inner = [name for name in names if name in program.tensors]
        if not inner:
            self(values)
            return {}
        x = values[self._source]
        values[self._sink], codes = self._engine.run(x, raw=True)
        if inner == [program.output.device]:
            return {inner[0]: real_values(program, inner[0], codes)}
        layers = self._reference.run_layers(encode_input(program, x))
        return {name: real_values(program, name, layers[name]) for name in inner}


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

    def compute(values: Values) -> tuple[Values, Reals]:
        _run_on_host(graph.operations, graph, values, host)
        return _pick(values, wanted), {}

    values, _ = _in_portions(graph, feeds, samples_at_once(graph), compute)
    return {**values, **_constants(graph, wanted)}


def real_values(program: Program, name: str, codes: AnyArray) -> NDArray[np.float64]:
    """The numbers a program tensor's codes stand for.

    The activation of the last layer of an Akida 1.0 program is left to the host: it counts here.
    """
    code, port = program.tensors[name].code, program.output
    real = (codes.astype(np.float64) - code.zero_point) * np.asarray(code.scale, np.float64)
    if program.generation > 1 or name != port.device:
        return real
    step = np.asarray(code.scale, np.float64) / port.factor
    low = 0.0 if port.low == port.zero_point else -np.inf
    _, highest = port.dtype.code_range
    high = (port.high - port.zero_point) * step if port.high < highest else np.inf
    return np.clip(real, low, high)


def samples_at_once(graph: Graph) -> int:
    """Samples executed together, so that memory stays bounded."""
    if graph.batch is not None:
        return graph.batch
    shapes = {name: nominal_shape(tensor.shape) for name, tensor in graph.tensors.items()}
    borders = [working_shape(op, shapes.__getitem__) for op in graph.operations]
    needed = [t.values_per_sample for t in graph.tensors.values() if t.data is None]
    needed += [math.prod(shape) for shape in borders if shape is not None]
    largest = max(needed, default=1)
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
    return _portions(graph, feeds, samples_at_once(graph))


def _portions(graph: Graph, feeds: Mapping[str, AnyArray], step: int) -> Iterator[Values]:
    """Portions of `step` samples, or of the graph's fixed batch, which `step` is then."""
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


def _in_portions(
    graph: Graph,
    feeds: Mapping[str, AnyArray],
    samples: int,
    compute: Callable[[Values], tuple[Values, Reals]],
) -> tuple[Values, Reals]:
    """Results of `compute` on portions of the feeds, joined."""
    found = [compute(_shaped(graph, part)) for part in _portions(graph, feeds, samples)]
    if len(found) == 1:
        (single,) = found
        return {name: _own(array) for name, array in single[0].items()}, single[1]
    values: Values = {}
    for name in found[0][0]:
        values[name] = np.concatenate([np.atleast_1d(each[name]) for each, _ in found])
    reals: Reals = {}
    for name in found[0][1]:
        reals[name] = np.concatenate([each[name] for _, each in found])
    return values, reals


def _own(values: AnyArray) -> AnyArray:
    """The same values, not a part of another array, such as the caller's."""
    return values if values.ndim and values.base is None else np.array(values, order="C", ndmin=1)


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


def _run_on_host(operations: Sequence[Operation], graph: Graph, values: Values, host: Host) -> None:
    for step in _host_steps(operations, graph, graph, host, kernels=False):
        step(values)
