# SPDX-License-Identifier: Apache-2.0
"""The original model in installed runtimes, so that their results stand beside the device's."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from akida_backend.errors import InputError, UnsupportedOperationError
from akida_backend.graph import AnyArray, Graph
from akida_backend.importers.tflite_file import read_file
from akida_backend.options import unknown
from akida_backend.runtime_host import with_outputs, works_with_numpy

Values = Mapping[str, AnyArray]


@dataclass(frozen=True, slots=True)
class OriginalRuntime:
    """A way to run the original model.

    Attributes:
        name: As ``compare --with`` takes it.
        module: To import.
        package: To install.
        format: Of the models it runs.
        plain: Whether to use its plainest kernels: reference ones, or no optimisation.
    """

    name: str
    module: str
    package: str
    format: str
    plain: bool

    @property
    def missing(self) -> str | None:
        """Why it cannot be used here, None where it can."""
        if importlib.util.find_spec(self.module) is None:
            return f"{self.package} is not installed"
        if not works_with_numpy(self.module):
            return f"{self.package} needs numpy < 2"
        return None


RUNTIMES: Final = (
    OriginalRuntime("ort", "onnxruntime", "onnxruntime", "onnx", plain=False),
    OriginalRuntime("ort-noopt", "onnxruntime", "onnxruntime", "onnx", plain=True),
    OriginalRuntime("litert", "ai_edge_litert", "ai-edge-litert", "tflite", plain=False),
    OriginalRuntime("litert-ref", "ai_edge_litert", "ai-edge-litert", "tflite", plain=True),
    OriginalRuntime("tflite-runtime", "tflite_runtime", "tflite-runtime", "tflite", plain=False),
)
NAMES: Final = tuple(runtime.name for runtime in RUNTIMES)


def chosen_runtimes(
    graph: Graph, names: Sequence[str]
) -> tuple[tuple[OriginalRuntime, ...], tuple[str, ...]]:
    """Runtimes by name that can run the model here, and a note for each of the others.

    Raises:
        InputError: A name is unknown.
    """
    chosen: list[OriginalRuntime] = []
    notes: list[str] = []
    for name in dict.fromkeys(names):
        runtime = next((r for r in RUNTIMES if r.name == name), None)
        if runtime is None:
            raise InputError(unknown("runtime", name, NAMES))
        if runtime.format != graph.format:
            notes.append(f"no row '{name}': it does not run {graph.format.upper()} models")
        elif runtime.missing is not None:
            notes.append(f"no row '{name}': {runtime.missing}")
        elif not graph.source:
            notes.append(f"no row '{name}': a saved plan lacks the model's own file")
        else:
            chosen.append(runtime)
    return tuple(chosen), tuple(notes)


@dataclass(frozen=True, slots=True)
class OriginalModel:
    """The model's own file, opened in a runtime.

    Attributes:
        name: Of the runtime.
        group: Samples the file takes at once, None where they cannot be told apart.
        compute: Stored values of the shown tensors, from those of the inputs for one group.
    """

    name: str
    group: int | None
    compute: Callable[[Values], Values]

    def run(self, values: Values) -> Values:
        """Stored values of the shown tensors, from those of the inputs.

        Raises:
            UnsupportedOperationError: The runtime fails.
        """
        try:
            if self.group is None:
                return self.compute(values)
            samples = len(next(iter(values.values())))
            parts = [
                self.compute({n: _rows(x, begin, self.group) for n, x in values.items()})
                for begin in range(0, samples, self.group)
            ]
        except Exception as error:  # those of onnxruntime have no base class of their own
            raise UnsupportedOperationError(f"{self.name} does not run it\n  {error}") from error
        return {n: np.concatenate([part[n] for part in parts])[:samples] for n in parts[0]}


def _rows(values: AnyArray, begin: int, count: int) -> AnyArray:
    """Some samples; where too few are left, the last one several times."""
    return values[np.minimum(np.arange(begin, begin + count), len(values) - 1)]


def _group(graph: Graph, shapes: Iterable[Sequence[object]]) -> int | None:
    """Samples at once of a file whose inputs have these shapes; not every one can be resized."""
    if graph.batch is not None or not graph.inputs:
        return None
    return max((length for length, *_ in shapes if isinstance(length, int)), default=1)


def open_model(runtime: OriginalRuntime, graph: Graph, wanted: Collection[str]) -> OriginalModel:
    """Open the model with its outputs and, where the runtime shows them, `wanted` tensors.

    Raises:
        UnsupportedOperationError: The runtime does not load it.
    """
    opened = _open_onnx if runtime.format == "onnx" else _open_tflite
    try:
        return opened(runtime, graph, tuple(dict.fromkeys((*graph.outputs, *wanted))))
    except Exception as error:  # those of onnxruntime have no base class of their own
        raise UnsupportedOperationError(
            f"{graph.name}: {runtime.name} does not load it\n  {error}"
        ) from error


def _open_tflite(runtime: OriginalRuntime, graph: Graph, names: tuple[str, ...]) -> OriginalModel:
    numbers = {
        entry.tensor.name: index
        for index, entry in enumerate(read_file(graph.source, graph.name).tensors)
    }
    module = importlib.import_module(f"{runtime.module}.interpreter")
    kinds = module.OpResolverType
    interpreter = module.Interpreter(
        model_content=with_outputs(graph.source, [numbers[name] for name in names]),
        experimental_op_resolver_type=kinds.BUILTIN_REF if runtime.plain else kinds.AUTO,
        num_threads=1,
    )
    interpreter.allocate_tensors()
    shapes = [entry["shape"].tolist() for entry in interpreter.get_input_details()]

    def compute(values: Values) -> Values:
        for name in graph.inputs:
            interpreter.set_tensor(numbers[name], np.ascontiguousarray(values[name]))
        interpreter.invoke()
        return {name: interpreter.get_tensor(numbers[name]) for name in names}

    return OriginalModel(runtime.name, _group(graph, shapes), compute)


def _open_onnx(runtime: OriginalRuntime, graph: Graph, names: tuple[str, ...]) -> OriginalModel:
    import onnx

    from akida_backend.importers.onnx import read_onnx
    from akida_backend.importers.onnx_forms import FileForm, file_forms

    module: Any = importlib.import_module(runtime.module)
    model = onnx.load_model_from_string(graph.source)
    computed = {name for node in model.graph.node for name in node.output}
    forms = file_forms(graph) or file_forms(read_onnx(graph.source, graph.name))
    shown: dict[str, FileForm] = {}
    for name in names:
        if name in graph.outputs:
            shown[name] = FileForm(name, tuple(range(len(graph.tensors[name].shape))))
        else:
            found = (form for form in forms.get(name, ()) if form.value in computed)
            shown.update((name, form) for form in found)
    declared = {info.name for info in model.graph.output}
    model.graph.output.extend(
        onnx.ValueInfoProto(name=value)
        for value in dict.fromkeys(form.value for form in shown.values())
        if value not in declared
    )
    options = module.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if runtime.plain:
        options.graph_optimization_level = module.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = module.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    shapes = [entry.shape for entry in session.get_inputs()]

    def compute(values: Values) -> Values:
        results = session.run(
            [form.value for form in shown.values()], {name: values[name] for name in graph.inputs}
        )
        return {
            name: result.transpose(form.layout)
            for (name, form), result in zip(shown.items(), results, strict=True)
        }

    return OriginalModel(runtime.name, _group(graph, shapes), compute)
