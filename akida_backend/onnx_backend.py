# SPDX-License-Identifier: Apache-2.0
"""The ONNX backend interface: prepare, run_model, run_node, supports_device.

    from akida_backend import onnx_backend
    outputs = onnx_backend.run_model(model, [x], device="AKIDA2")

Devices are the names `akida_backend.devices()` lists, in any case: segments run in simulated
Akida arithmetic. ``CPU``, which ONNX gives by default, places the model on the default device,
but computes every segment in the arithmetic of its own operators, so that nothing is re-scaled.
What has no integer meaning is left to onnxruntime; what that refuses, or all of it where
onnxruntime is not installed, to the reference implementation that onnx brings.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
from onnx import TypeProto, ValueInfoProto, helper
from onnx.backend.base import Backend, BackendRep, namedtupledict
from onnx.reference import ReferenceEvaluator

from akida_backend.compiler import compile as compile_model
from akida_backend.devices import device as find_device
from akida_backend.devices import devices
from akida_backend.errors import (
    AkidaBackendError,
    ImportModelError,
    InputError,
    UnsupportedOperationError,
)
from akida_backend.execute import Executor
from akida_backend.graph import DType, Graph, Opaque
from akida_backend.loading import load
from akida_backend.plan import Plan
from akida_backend.reference import run_graph

CPU: Final = "CPU"
EVERY_HOST_LOADS: Final = 10  # IR version; later ones add nothing that operators here rely on

# What onnx hands over: arrays, but also lists (sequences), None (empty optionals) and texts.
Value = Any
Runner = Callable[[Mapping[str, Value]], Sequence[Value]]


class Prepared(BackendRep):
    """A model ready to run.

    Attributes:
        plan: Its placement; None where the model cannot be represented as a Graph.
        host: Who computes what stays off the device.
        refusal: Why the model has no plan, else empty.
    """

    def __init__(self, model: onnx.ModelProto, device: str, options: Mapping[str, object]) -> None:
        if not isinstance(model, onnx.ModelProto):
            raise InputError(
                f"prepare needs an onnx.ModelProto, found {type(model).__name__}\n"
                "  Give what onnx.load reads from a path."
            )
        self._inputs = _fed(model)
        self._outputs = tuple(output.name for output in model.graph.output)
        self.plan: Plan | None = None
        self.refusal = ""
        try:
            self.plan = _plan(load(model), device, options)
        except ImportModelError as error:
            if options.get("fallback") in ("error", "strict"):
                raise
            self.refusal = str(error)
        self._run, self.host = self._runner(model)

    @property
    def on_device(self) -> bool:
        """Whether some of the model runs on the device."""
        return self.plan is not None and bool(self.plan.programs)

    def _runner(self, model: onnx.ModelProto) -> tuple[Runner, str]:
        if self.plan is not None and self.on_device:
            executor = Executor(self.plan)
            return (lambda feeds: self._chosen(executor.run(feeds).values)), "reference"
        if self.plan is not None and _is_reference(self.plan.graph):
            graph = self.plan.graph
            return (lambda feeds: self._chosen(run_graph(graph, feeds))), "reference"
        try:
            whole = HostModel(model)
        except UnsupportedOperationError as error:
            if self.refusal:
                raise ImportModelError(
                    "model", self.refusal, remedy=f"No host runs it either: {error}"
                ) from error
            raise
        return whole.run, whole.name

    def _chosen(self, values: Mapping[str, Value]) -> list[Value]:
        return [values[name] for name in self._outputs]

    def run(self, inputs: Value, **kwargs: object) -> tuple[Value, ...]:
        """All outputs, as a tuple whose fields carry their names.

        Args:
            inputs: Values in the order of the model's inputs, or by name, or the only one.
            kwargs: None is known.

        Raises:
            InputError: Values are missing, superfluous, or do not fit.
            UnsupportedOperationError: No host can execute an operator.
        """
        if kwargs:
            raise InputError(f"run takes no argument '{next(iter(kwargs))}'\n  Give inputs only.")
        given = {
            name: np.asarray(value) if isinstance(value, np.generic) else value
            for name, value in self._feeds(inputs).items()
        }
        return namedtupledict("Outputs", self._outputs)(*self._run(given))

    def _feeds(self, inputs: Value) -> dict[str, Value]:
        if isinstance(inputs, Mapping):
            given = dict(inputs)
        else:
            listed = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
            if len(listed) > len(self._inputs):
                raise InputError(
                    f"the model has {len(self._inputs)} inputs, found {len(listed)} values\n"
                    f"  Give {', '.join(self._inputs) or 'an empty list'}."
                )
            given = dict(zip(self._inputs, listed, strict=False))
        unknown = [name for name in given if name not in self._inputs]
        missing = [name for name in self._inputs if name not in given]
        if unknown or missing:
            raise InputError(
                f"inputs do not fit: unknown {unknown}, missing {missing}\n"
                f"  Give {', '.join(self._inputs) or 'an empty list'}."
            )
        return given


class AkidaBackend(Backend):
    """The interface of `onnx.backend.base`; the functions of this module are its methods."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = CPU, **kwargs: object) -> bool:
        """Whether `prepare` accepts the model."""
        try:
            cls.prepare(model, device, **kwargs)
        except AkidaBackendError:
            return False
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = CPU, **kwargs: object) -> Prepared:
        """Import and compile a model.

        Args:
            model: What to run.
            device: ``CPU`` or the name of a device; a number behind a colon is ignored.
            kwargs: Fields of `Options`.

        Raises:
            ImportModelError: The model is damaged or of a version without converter.
            InputError: An unknown device or option.
            FallbackError: The option `fallback` forbids what would stay on the host.
            UnsupportedOperationError: No host knows an operator.
        """
        return Prepared(model, device, kwargs)

    @classmethod
    def run_model(
        cls, model: onnx.ModelProto, inputs: Value, device: str = CPU, **kwargs: object
    ) -> tuple[Value, ...]:
        """Prepare a model and run it once; see `prepare` and `Prepared.run`."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Value,
        device: str = CPU,
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
        **kwargs: object,
    ) -> tuple[Value, ...]:
        """Run one operator.

        Args:
            node: The operator.
            inputs: Its inputs in order, absent optional ones left out.
            device: As in `prepare`.
            outputs_info: Type and shape of every output; inferred where it is not given.
            kwargs: Fields of `Options`, and `opset_version`, by default the newest.
        """
        version = int(str(kwargs.pop("opset_version", onnx.defs.onnx_opset_version())))
        model = _model_of(node, list(inputs), outputs_info, version)
        return cls.run_model(model, inputs, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether `prepare` knows a device."""
        name, _, _ = device.partition(":")
        if name.upper() == CPU:
            return True
        try:
            find_device(name)
        except InputError:
            return False
        return True


is_compatible = AkidaBackend.is_compatible
prepare = AkidaBackend.prepare
run_model = AkidaBackend.run_model
run_node = AkidaBackend.run_node
supports_device = AkidaBackend.supports_device


def _is_reference(graph: Graph) -> bool:
    """Whether the reference arithmetic computes all of a graph, in types that NumPy has."""
    halves = (DType.INT4, DType.UINT4, DType.BFLOAT16, DType.OTHER)
    tensors = [graph.tensors[name] for name in (*graph.inputs, *graph.outputs)]
    return not any(isinstance(op, Opaque) for op in graph.operations) and not any(
        tensor.dtype in halves for tensor in tensors
    )


def _plan(graph: Graph, device: str, options: Mapping[str, object]) -> Plan:
    name, _, _ = device.partition(":")
    if name.upper() != CPU:
        return compile_model(graph, find_device(name).name, **options)
    default, *_ = devices()
    return compile_model(graph, default.name, **{"emulation": "source", **options})


def _fed(model: onnx.ModelProto) -> tuple[str, ...]:
    constants = {constant.name for constant in model.graph.initializer}
    return tuple(entry.name for entry in model.graph.input if entry.name not in constants)


class HostModel:
    """A whole model in onnxruntime or, where that is missing or refuses, in onnx.reference.

    Attributes:
        name: Who runs it.

    Raises:
        UnsupportedOperationError: Neither can.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._session = _onnxruntime(model)
        self.name = "onnxruntime"
        if self._session is None:
            self._fall_back("")

    def run(self, feeds: Mapping[str, Value]) -> Sequence[Value]:
        if self._session is not None:
            try:
                return list(self._session.run(None, dict(feeds)))
            except Exception as error:  # a kernel's own limits show only when it runs
                self._fall_back(str(error))
        try:
            return list(self._evaluator.run(None, dict(feeds)))
        except Exception as error:
            raise self._unsupported(str(error)) from error

    def _fall_back(self, problem: str) -> None:
        self._session, self.name = None, "onnx.reference"
        try:
            self._evaluator = ReferenceEvaluator(self._model)
        except Exception as error:
            raise self._unsupported(problem or str(error)) from error

    def _unsupported(self, problem: str) -> UnsupportedOperationError:
        first, *_ = problem.splitlines() or [""]
        return UnsupportedOperationError(
            f"the model cannot be run on the host: {first}\n"
            "  Install onnxruntime, or a newer one: akida-backend with its extra 'onnxruntime'."
        )


def _onnxruntime(model: onnx.ModelProto) -> Any:  # noqa: ANN401
    """A session of the model, None where onnxruntime refuses it or a type Python cannot feed."""
    kinds = [entry.type for entry in (*model.graph.input, *model.graph.output)]
    if importlib.util.find_spec("onnxruntime") is None or any(map(_is_strange, kinds)):
        return None
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it refuses is tried elsewhere
    try:
        return onnxruntime.InferenceSession(
            _oldest_form(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:
        return None


def _oldest_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model under the oldest IR version and operator set that mean the same.

    A runtime refuses versions newer than itself, also where nothing newer is used.
    """
    old = onnx.ModelProto()
    old.CopyFrom(model)
    old.ir_version = min(old.ir_version, EVERY_HOST_LOADS)
    for imports in old.opset_import:
        if imports.domain in ("", "ai.onnx") and not old.functions:
            versions = [_version_of(node, imports.version) for node in _all_nodes(old.graph)]
            imports.version = max([1, *versions])
    return old


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _all_nodes(inner)


def _version_of(node: onnx.NodeProto, newest: int) -> int:
    """The operator set that brought the form a node has in operator set `newest`."""
    if node.domain not in ("", "ai.onnx"):
        return 1
    try:
        schema = onnx.defs.get_schema(node.op_type, newest, "")
    except onnx.defs.SchemaError:
        return newest
    return int(schema.since_version)


def _is_strange(kind: TypeProto) -> bool:
    """Whether onnxruntime's Python interface cannot take or give values of a type."""
    match kind.WhichOneof("value"):
        case "tensor_type":
            return kind.tensor_type.elem_type in _STRANGE_ELEMENTS
        case "sequence_type":
            return _is_strange(kind.sequence_type.elem_type)
        case "optional_type":
            return _is_strange(kind.optional_type.elem_type)
        case _:
            return False


_STRANGE_ELEMENTS: Final = frozenset(
    number
    for name, number in onnx.TensorProto.DataType.items()
    if name.startswith(("BFLOAT16", "FLOAT8", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2"))
)


def _model_of(
    node: onnx.NodeProto,
    inputs: Sequence[Value],
    outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None,
    version: int,
) -> onnx.ModelProto:
    """A model of one node."""
    names = [name for name in node.input if name]
    if len(names) != len(inputs):
        raise InputError(
            f"node {node.op_type} reads {len(names)} values, found {len(inputs)}\n"
            f"  Give {', '.join(names)}."
        )
    entries = [_info(name, np.asarray(x)) for name, x in zip(names, inputs, strict=True)]
    if outputs_info is None:
        exits = [ValueInfoProto(name=name) for name in node.output if name]
    else:
        written = zip([name for name in node.output if name], outputs_info, strict=True)
        exits = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.dtype(t)), shape)
            for n, (t, shape) in written
        ]
    body = helper.make_graph([node], "node", entries, exits)
    versions = [helper.make_opsetid("", version)]
    if node.domain not in ("", "ai.onnx"):
        versions.append(helper.make_opsetid(node.domain, 1))
    model = helper.make_model(body, opset_imports=versions, ir_version=EVERY_HOST_LOADS)
    onnx.checker.check_node(node)
    if outputs_info is not None:
        return model
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {info.name: info for info in (*inferred.graph.output, *inferred.graph.value_info)}
    del model.graph.output[:]
    model.graph.output.extend(known.get(info.name, info) for info in exits)
    return model


def _info(name: str, array: np.ndarray[Any, Any]) -> ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, array.shape)
