# SPDX-License-Identifier: Apache-2.0
"""Host operations of an ONNX model in onnxruntime's kernels.

onnxruntime gets the model's own nodes between the values an operation reads and those it writes,
in the file's layout, with their constants, attributes and inner graphs as they are.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
import onnx
from onnx import helper

from akida_backend.errors import AkidaBackendError, UnsupportedOperationError
from akida_backend.graph import AnyArray, Graph, Opaque, Operation, nominal_shape
from akida_backend.importers.onnx import opaque_operands, read_onnx
from akida_backend.importers.onnx_file import FileNode, OnnxFile, read_file
from akida_backend.importers.onnx_forms import FileForm, file_forms
from akida_backend.importers.onnx_tensors import NUMBERS, to_proto
from akida_backend.importers.onnx_types import outer_names

MODULE: Final = "onnxruntime"


def runtime_version() -> str | None:
    """Version of the installed onnxruntime, None without one; nothing is imported."""
    if importlib.util.find_spec(MODULE) is None:
        return None
    try:
        return importlib.metadata.version(MODULE)
    except importlib.metadata.PackageNotFoundError:
        return "(version unknown)"


@dataclass(frozen=True, slots=True)
class _Part:
    """Nodes of the file that compute what one operation does.

    Attributes:
        nodes: Their positions.
        inputs: Tensor of the Graph that each value read from outside is taken from.
        outputs: Tensor of the Graph that each value written goes to.
    """

    nodes: frozenset[int]
    inputs: Mapping[str, _Place]
    outputs: Mapping[str, _Place]


@dataclass(frozen=True, slots=True)
class _Place:
    """A tensor of the Graph, and the order of the file's axes in it."""

    tensor: str
    layout: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """The file of a graph, and the part each operation stands for."""

    file: OnnxFile
    parts: Mapping[Operation, _Part]


_SOURCES: WeakKeyDictionary[Graph, _Source | None] = WeakKeyDictionary()


def has_form(graph: Graph, op: Operation) -> bool:
    """Whether nodes of the file compute what the operation does."""
    source = _source(graph)
    return source is not None and op in source.parts


def _source(graph: Graph) -> _Source | None:
    if graph not in _SOURCES:
        _SOURCES[graph] = _read(graph) if graph.source else None
    return _SOURCES[graph]


def _read(graph: Graph) -> _Source | None:
    try:
        file = read_file(graph.source, graph.name, folder=None)
        forms = file_forms(graph) or file_forms(read_onnx(graph.source, graph.name))
    except AkidaBackendError:
        return None
    producers = {
        name: position for position, node in enumerate(file.nodes) for name in node.outputs if name
    }
    known = {*producers, *file.inputs, *file.constants.names}
    parts = {}
    for op in graph.operations:
        part = _part(op, graph, file, forms, producers, known)
        if part is not None:
            parts[op] = part
    return _Source(file, parts)


def _part(
    op: Operation,
    graph: Graph,
    file: OnnxFile,
    forms: Mapping[str, Sequence[FileForm]],
    producers: Mapping[str, int],
    known: set[str],
) -> _Part | None:
    """The nodes between an operation's inputs and outputs, where there are such."""
    if not op.sources:
        return None
    outputs = _values_of(op.outputs, forms)
    inputs = _values_of(graph.activations_of(op), forms)
    if len(outputs) < len(op.outputs):
        return None
    if isinstance(op, Opaque):
        # Constants that import computed have no form; the node names them in order.
        node = file.nodes[producers[next(iter(outputs))]]
        names = [n for n in opaque_operands(node, known) if n not in file.strings]
        inputs = {
            name: _Place(tensor, tuple(range(len(graph.tensors[tensor].shape))))
            for name, tensor in zip(names, op.operands, strict=True)
        }
    nodes: set[int] = set()
    pending = list(outputs)
    while pending:
        name = pending.pop()
        position = producers.get(name)
        if name in inputs and name not in outputs:
            continue
        if position is None:
            if name in file.inputs:
                return None
        elif position not in nodes:
            nodes.add(position)
            pending.extend(n for n in _reads(file.nodes[position]) if n in known)
    return _Part(frozenset(nodes), inputs, outputs)


def _values_of(
    tensors: Sequence[str], forms: Mapping[str, Sequence[FileForm]]
) -> dict[str, _Place]:
    return {
        form.value: _Place(tensor, form.layout)
        for tensor in tensors
        for form in forms.get(tensor, ())
    }


def _reads(node: FileNode) -> tuple[str, ...]:
    return tuple(name for name in (*node.inputs, *outer_names(node.proto)) if name)


def run(
    graph: Graph, operations: Sequence[Operation], values: Mapping[str, AnyArray]
) -> dict[str, AnyArray]:
    """Values written by operations of the file, sample by sample.

    Args:
        graph: The graph as imported, with the file's bytes.
        operations: Of `graph`, in order.
        values: At least everything the operations read and do not write themselves.

    Raises:
        UnsupportedOperationError: onnxruntime is not installed, or cannot run them.
    """
    first = operations[0].location
    source = _source(graph)
    if source is None or not all(op in source.parts for op in operations):
        raise UnsupportedOperationError(
            f"{first}: cannot be executed\n  only what stands in an ONNX file can run in "
            "onnxruntime; the model can still be inspected"
        )
    version = runtime_version()
    if version is None:
        raise UnsupportedOperationError(
            f"{first}: needs onnxruntime to be executed\n  install it: pip install onnxruntime"
        )
    try:
        return _runner(graph, source, tuple(operations)).run(graph, values)
    except Exception as error:
        raise UnsupportedOperationError(
            f"{first}: onnxruntime {version} cannot execute it\n  {error}"
        ) from error


@dataclass(frozen=True, slots=True, eq=False)
class _Runner:
    """A session over some nodes; without the graph, which is a key of `_RUNNERS`."""

    session: Any
    inputs: Mapping[str, _Place]
    outputs: Mapping[str, _Place]

    def run(self, graph: Graph, values: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        tensors = graph.tensors
        batched = graph.batch is None
        given: dict[str, AnyArray] = {}
        for name, place in self.inputs.items():
            data = tensors[place.tensor].data
            value = values[place.tensor] if data is None else data
            given[name] = np.asarray(value.transpose(np.argsort(place.layout)), order="C")
        moving = {n for n, p in self.inputs.items() if tensors[p.tensor].data is None}
        samples = max((len(given[n]) for n in moving), default=1) if batched else 1
        rows: list[list[AnyArray]] = []
        for sample in range(samples):
            feeds = {
                n: v[sample : sample + 1] if batched and n in moving else v
                for n, v in given.items()
            }
            rows.append(self.session.run(list(self.outputs), feeds))
        found: dict[str, AnyArray] = {}
        for place, parts in zip(self.outputs.values(), zip(*rows, strict=True), strict=True):
            for part in parts:
                tensors[place.tensor].check_result(np.asarray(part).transpose(place.layout))
            whole = np.concatenate(parts) if batched else np.asarray(parts[0])
            dtype = tensors[place.tensor].dtype.numpy
            found[place.tensor] = np.asarray(whole.transpose(place.layout), dtype, order="C")
        return found


_RUNNERS: WeakKeyDictionary[Graph, dict[tuple[str, ...], _Runner]] = WeakKeyDictionary()


def _runner(graph: Graph, source: _Source, operations: tuple[Operation, ...]) -> _Runner:
    key = tuple(op.outputs[0] for op in operations)
    known = _RUNNERS.setdefault(graph, {})
    if key not in known:
        module = importlib.import_module(MODULE)
        options = module.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        content, inputs, outputs = _extract(graph, source, operations)
        session = module.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        known[key] = _Runner(session, inputs, outputs)
    return known[key]


def _extract(
    graph: Graph, source: _Source, operations: Sequence[Operation]
) -> tuple[bytes, Mapping[str, _Place], Mapping[str, _Place]]:
    """The model cut down to some nodes, with what it reads and writes."""
    file = source.file
    parts = [source.parts[op] for op in operations]
    outputs = {name: place for part in parts for name, place in part.outputs.items()}
    inputs = {
        name: place for part in parts for name, place in part.inputs.items() if name not in outputs
    }
    positions = sorted(set().union(*(part.nodes for part in parts)))
    nodes = [file.nodes[position] for position in positions]
    read = {name for node in nodes for name in _reads(node)}
    inner = [p for p in file.model.graph.initializer if p.name in read and p.name not in inputs]
    given: dict[str, _Place] = {}
    for name, place in inputs.items():
        tensor = graph.tensors[place.tensor]
        if tensor.data is None:
            given[name] = place
        elif name in file.constants.names:
            inner += [p for p in file.model.graph.initializer if p.name == name]
        else:
            data = tensor.data.transpose(np.argsort(place.layout))
            inner.append(to_proto(name, tensor.dtype, data))
    body = helper.make_graph(
        [node.proto for node in nodes],
        "part",
        [_info(graph, name, place) for name, place in given.items()],
        [_info(graph, name, place) for name, place in outputs.items()],
        inner,
    )
    model = helper.make_model(
        body,
        opset_imports=[
            helper.make_opsetid(domain, version) for domain, version in file.opsets.items()
        ],
        ir_version=file.model.ir_version,
    )
    return model.SerializeToString(), given, outputs


def _info(graph: Graph, name: str, place: _Place) -> onnx.ValueInfoProto:
    tensor = graph.tensors[place.tensor]
    lengths = nominal_shape(tensor.shape)
    shape = [lengths[place.layout.index(axis)] for axis in range(len(place.layout))]
    return helper.make_tensor_value_info(name, NUMBERS[tensor.dtype], shape)
