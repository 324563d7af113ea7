# SPDX-License-Identifier: Apache-2.0
"""Host operations in an installed runtime's kernels: of TFLite models here, of ONNX in onnx_host.

The interpreter gets the model's own bytes with the main subgraph cut down to the wanted
operators, so that every operator keeps its options, constants and subgraphs as they are.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np

from akida_backend.errors import UnsupportedOperationError
from akida_backend.graph import (
    AnyArray,
    Graph,
    Opaque,
    Operation,
    Pad,
    Reshape,
    Transpose,
)
from akida_backend.importers.tflite_file import read_file
from akida_backend.options import Host

RUNTIMES: Final = (
    ("ai_edge_litert", "ai-edge-litert"),
    ("tflite_runtime", "tflite-runtime"),
)

# TFLite schema: position of a field in its table.
_MODEL_SUBGRAPHS: Final = 2
_SUBGRAPH_INPUTS: Final = 1
_SUBGRAPH_OUTPUTS: Final = 2
_SUBGRAPH_OPERATORS: Final = 3


@dataclass(frozen=True, slots=True)
class Runtime:
    """An installed interpreter package: module to import, name and version to report."""

    module: str
    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


def installed_runtime() -> Runtime | None:
    """The runtime that executes host operations, the first that works; nothing is imported."""
    for module, package in RUNTIMES:
        if importlib.util.find_spec(module) is not None and works_with_numpy(module):
            try:
                version = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                version = "(version unknown)"
            return Runtime(module, package, version)
    return None


def works_with_numpy(module: str) -> bool:
    """Whether a runtime can be used with the numpy at hand; tflite-runtime was built for 1.x."""
    return module != "tflite_runtime" or int(np.__version__.partition(".")[0]) < 2


def host_name(graph: Graph, host: Host) -> str:
    """Who executes host operations, for reports."""
    runtime: object = installed_runtime()
    if graph.format == "onnx":
        from akida_backend import onnx_host  # imports onnx, which TFLite models do not need

        version = onnx_host.runtime_version()
        runtime = None if version is None else f"onnxruntime {version}"
    if host == "runtime":
        return str(runtime or "no runtime installed")
    if any(isinstance(op, Opaque) for op in graph.operations):
        return f"reference, opaque operations in {runtime or 'no runtime (none installed)'}"
    return "reference"


@dataclass(frozen=True, slots=True)
class _FileForm:
    """Tensors of one operator of the file, number and name; constants and state left out."""

    inputs: Mapping[int, str]
    outputs: Mapping[int, str]


_FILE_FORMS: WeakKeyDictionary[Graph, Mapping[Operation, _FileForm]] = WeakKeyDictionary()


def has_runtime_form(graph: Graph, op: Operation) -> bool:
    """Whether a runtime can execute it.

    Operators of a TFLite file, or nodes of an ONNX file, as they stand there; of a TFLite file
    also movements of values that rewrites have made, which are written anew.
    """
    if graph.format == "onnx":
        from akida_backend import onnx_host

        return onnx_host.has_form(graph, op)
    if isinstance(op, Pad | Reshape | Transpose) and graph.source:
        return True
    return op in _file_forms(graph)


def _file_forms(graph: Graph) -> Mapping[Operation, _FileForm]:
    """The operations of an imported graph that can be cut out of its file as they are."""
    if graph not in _FILE_FORMS:
        _FILE_FORMS[graph] = _read_forms(graph) if graph.format == "tflite" else {}
    return _FILE_FORMS[graph]


def _read_forms(graph: Graph) -> Mapping[Operation, _FileForm]:
    if not graph.source:
        return {}
    file = read_file(graph.source, graph.name)
    forms: dict[Operation, _FileForm] = {}
    for op in graph.operations:
        if op.sources != (op.location.index,):
            continue
        operator = file.operators[op.location.index]
        read = {i: file.tensors[i] for i in operator.inputs if i is not None}
        inputs = {
            i: entry.tensor.name
            for i, entry in read.items()
            if not entry.tensor.is_constant and not entry.is_variable
        }
        outputs = {i: file.tensors[i].tensor.name for i in operator.outputs}
        if tuple(outputs.values()) == op.outputs and graph.tensors.keys() >= {*inputs.values()}:
            forms[op] = _FileForm(inputs, outputs)
    return forms


def run_in_runtime(
    graph: Graph, operations: Sequence[Operation], values: Mapping[str, AnyArray]
) -> dict[str, AnyArray]:
    """Values written by consecutive operators of the file, sample by sample.

    Args:
        graph: The graph as imported, with the file's bytes.
        operations: Of `graph`, in order.
        values: At least everything the operations read and do not write themselves.

    Raises:
        UnsupportedOperationError: No runtime is installed, or it cannot run them.
    """
    if graph.format == "onnx":
        from akida_backend import onnx_host

        return onnx_host.run(graph, operations, values)
    first = operations[0].location
    if not all(has_runtime_form(graph, op) for op in operations):
        raise UnsupportedOperationError(
            f"{first}: cannot be executed\n  only an operator that stands in a TFLite file can "
            "run in an installed runtime; the model can still be inspected"
        )
    runtime = installed_runtime()
    if runtime is None:
        raise UnsupportedOperationError(
            f"{first}: needs an installed runtime to be executed\n"
            "  install one: pip install ai-edge-litert"
        )
    try:
        return _runner(graph, tuple(operations), runtime).run(graph, values)
    except (ImportError, ValueError, RuntimeError) as error:
        raise UnsupportedOperationError(
            f"{first}: {runtime} cannot execute it\n  {error}"
        ) from error


@dataclass(frozen=True, slots=True, eq=False)
class _Runner:
    """An interpreter of some operators, with the names of its inputs and outputs.

    It does not hold the graph, which would keep itself alive as a key of `_RUNNERS`.
    """

    interpreter: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, graph: Graph, values: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        tensors = graph.tensors
        batched = graph.batch is None
        given = {n: values[n] if (data := tensors[n].data) is None else data for n in self.inputs}
        samples = max(
            (len(v) for n, v in given.items() if batched and not tensors[n].is_constant), default=1
        )
        rows: dict[str, list[AnyArray]] = {name: [] for name in self.outputs}
        with self.lock:
            for sample in range(samples):
                feeds = [
                    value[sample : sample + 1] if batched and not tensors[n].is_constant else value
                    for n, value in given.items()
                ]
                for name, value in zip(self.outputs, self._invoke(feeds), strict=True):
                    tensors[name].check_result(value)
                    rows[name].append(value)
        return {
            name: np.concatenate(parts).astype(tensors[name].dtype.numpy, copy=False)
            if batched
            else parts[0]
            for name, parts in rows.items()
        }

    def _invoke(self, feeds: Sequence[AnyArray]) -> list[AnyArray]:
        interpreter = self.interpreter
        details = interpreter.get_input_details()
        resized = False
        for detail, value in zip(details, feeds, strict=True):
            if tuple(detail["shape"]) != value.shape:
                interpreter.resize_tensor_input(detail["index"], value.shape)
                resized = True
        if resized:
            interpreter.allocate_tensors()
        interpreter.reset_all_variables()
        for detail, value in zip(details, feeds, strict=True):
            interpreter.set_tensor(detail["index"], np.ascontiguousarray(value))
        interpreter.invoke()
        return [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]


_RUNNERS: WeakKeyDictionary[Graph, dict[tuple[str, ...], _Runner]] = WeakKeyDictionary()


def _runner(graph: Graph, operations: tuple[Operation, ...], runtime: Runtime) -> _Runner:
    written = tuple(name for op in operations for name in op.outputs)
    known = _RUNNERS.setdefault(graph, {})
    if written not in known:
        content, inputs, outputs = _extract(graph, operations)
        module = importlib.import_module(f"{runtime.module}.interpreter")
        interpreter = module.Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        known[written] = _Runner(interpreter, inputs, outputs)
    return known[written]


def _extract(
    graph: Graph, operations: Sequence[Operation]
) -> tuple[bytes, tuple[str, ...], tuple[str, ...]]:
    """The model cut down to `operations`, and the names of its inputs and outputs."""
    if any(op not in _file_forms(graph) for op in operations):
        return _written(graph, operations)
    forms = [_file_forms(graph)[op] for op in operations]
    outputs = {tensor: name for form in forms for tensor, name in form.outputs.items()}
    inputs = {
        tensor: name
        for form in forms
        for tensor, name in form.inputs.items()
        if tensor not in outputs
    }
    indices = [op.location.index for op in operations]
    content = _cut(graph.source, indices, tuple(inputs), tuple(outputs))
    return content, tuple(inputs.values()), tuple(outputs.values())


def _written(
    graph: Graph, operations: Sequence[Operation]
) -> tuple[bytes, tuple[str, ...], tuple[str, ...]]:
    """As `_extract`, where rewrites have made some of the operations."""
    from akida_backend.tflite_writer import write_tflite

    outputs = tuple(name for op in operations for name in op.outputs)
    read = dict.fromkeys(name for op in operations for name in graph.activations_of(op))
    inputs = tuple(name for name in read if name not in outputs)
    part = dataclasses.replace(graph, inputs=inputs, outputs=outputs)
    return write_tflite(part, operations), inputs, outputs


def with_outputs(source: bytes, outputs: Sequence[int]) -> bytes:
    """The same file with other tensors of the main subgraph as its outputs."""
    file = read_file(source, "model")
    return _cut(source, range(len(file.operators)), file.inputs, outputs)


def _cut(
    source: bytes, operators: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]
) -> bytes:
    """The same flatbuffer with other operators, inputs and outputs of subgraph 0.

    The operator vector shrinks in place: its offsets only point forward, so a later entry may
    move to the front. Inputs and outputs are new vectors at the end of the file.
    """
    content = bytearray(source)
    content += bytes(-len(content) % 4)

    def read(position: int) -> int:
        return int(struct.unpack_from("<I", content, position)[0])

    def field_position(table: int, number: int) -> int:
        vtable = table - int(struct.unpack_from("<i", content, table)[0])
        (size,) = struct.unpack_from("<H", content, vtable)
        entry = 4 + 2 * number
        offset = struct.unpack_from("<H", content, vtable + entry)[0] if entry < size else 0
        if offset == 0:
            raise ValueError("the file's main subgraph lacks a field")
        return table + int(offset)

    subgraphs = field_position(read(0), _MODEL_SUBGRAPHS)
    first = subgraphs + read(subgraphs) + 4
    subgraph = first + read(first)
    vector = field_position(subgraph, _SUBGRAPH_OPERATORS)
    vector += read(vector)
    tables = [vector + 4 + 4 * i + read(vector + 4 + 4 * i) for i in operators]
    struct.pack_into("<I", content, vector, len(tables))
    for i, table in enumerate(tables):
        element = vector + 4 + 4 * i
        struct.pack_into("<I", content, element, table - element)
    for number, members in ((_SUBGRAPH_INPUTS, inputs), (_SUBGRAPH_OUTPUTS, outputs)):
        reference = field_position(subgraph, number)
        struct.pack_into("<I", content, reference, len(content) - reference)
        content += struct.pack(f"<I{len(members)}i", len(members), *members)
    return bytes(content)
