# SPDX-License-Identifier: Apache-2.0
"""InferenceSession: a compiled model behind the interface onnxruntime users know."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from akida_backend.calibration_data import stored_feeds
from akida_backend.compiled import compiled
from akida_backend.devices import Device
from akida_backend.errors import InputError
from akida_backend.execute import Executor
from akida_backend.graph import AnyArray, DType, Graph, Tensor
from akida_backend.options import unknown
from akida_backend.plan import Plan
from akida_backend.runtime_host import host_name

_TYPES: Final[Mapping[DType, str]] = {DType.FLOAT32: "float", DType.FLOAT64: "double"}


_WHOLE_TYPES: Final = (DType.INT8, DType.UINT8, DType.INT16)  # every value is a stored one


@dataclass(frozen=True, slots=True)
class NodeArg:
    """An input or output of the model.

    Attributes:
        name: Of the tensor.
        shape: Axis lengths; ``"N"`` where any number of samples fits.
        type: As onnxruntime spells it, such as ``tensor(int8)``.
        quantization: Scale and zero point of the stored integers, None where they have none.
    """

    name: str
    shape: list[int | str]
    type: str
    quantization: tuple[float, int] | None


class InferenceSession:
    """Runs a model partly on the simulated device, partly on the host.

    Args:
        model: Path, bytes, Graph or Plan; a saved plan (``.akp``) as path or bytes, too.
        device: A device or its name; a Plan has its own.
        options: Fields of `Options`; with a Plan only emulation, host and fallback.

    Raises:
        ImportModelError: The model cannot be read.
        ProgramError: The saved plan is damaged or of a newer version.
        InputError: An unknown device or option.
        FallbackError: `fallback` forbids what would stay on the host.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | Graph | Plan,
        device: str | Device | None = None,
        **options: object,
    ) -> None:
        self._plan = compiled(model, device, options)
        self._executor = Executor(self._plan)
        self._stored_forms = _stored_forms(self._plan.graph)

    @property
    def plan(self) -> Plan:
        """What was compiled: placement, segments, reasons."""
        return self._plan

    def get_inputs(self) -> list[NodeArg]:
        graph = self._plan.graph
        return [_node_arg(graph.tensors[name]) for name in graph.inputs]

    def get_outputs(self) -> list[NodeArg]:
        graph = self._plan.graph
        return [_node_arg(graph.tensors[name]) for name in graph.outputs]

    def get_providers(self) -> list[str]:
        """Who computes, device first: ``["AkidaSimulator(akida2)", "Host(reference)"]``."""
        host = f"Host({host_name(self._plan.graph, self._executor.host)})"
        if self._executor.emulation == "source":
            return [f"SourceEmulation({self._plan.device.name})", host]
        return [f"AkidaSimulator({self._plan.device.name})", host]

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, AnyArray]
    ) -> list[AnyArray]:
        """Outputs for any number of samples.

        Args:
            output_names: Names in the order wanted, None for all.
            input_feed: Array per input, samples on axis 0: stored values in the input's own type,
                or float32, which means real values and is quantized.

        Raises:
            InputError: An unknown name, or data that does not fit.
            UnsupportedOperationError: An operation needs a runtime that is not installed.
        """
        names = self._plan.graph.outputs
        if output_names is not None:
            names = _names(output_names, names)
        values = self._executor.run(self._feeds(input_feed)).values
        return [values[name] for name in names]

    def _feeds(self, given: object) -> Mapping[str, AnyArray]:
        if not isinstance(given, Mapping):
            wanted = ", ".join(map(repr, self._plan.graph.inputs))
            raise InputError(
                f"input_feed needs arrays by name of the input, such as {{{wanted}: array}}; "
                f"found {type(given).__name__}"
            )
        forms = self._stored_forms
        if given.keys() == forms.keys() and all(
            type(array) is np.ndarray
            and array.dtype == dtype
            and array.shape[1:] == shape
            and array.shape
            for array, (dtype, shape) in ((given[name], form) for name, form in forms.items())
        ):
            return given
        return stored_feeds(self._plan.graph, given)


def _names(chosen: Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(chosen, str):
        raise InputError(f"output_names needs a list of names, found the text '{chosen}'")
    for name in chosen:
        if name not in known:
            raise InputError(unknown("output", str(name), known))
    return tuple(chosen)


def _stored_forms(graph: Graph) -> Mapping[str, tuple[np.dtype[np.generic], tuple[int, ...]]]:
    """Type and shape behind the batch of arrays that run as they are, by input.

    Empty where any input needs a closer look: a fixed batch, values that may not fit their type.
    """
    tensors = [graph.tensors[name] for name in graph.inputs]
    if graph.batch is not None or not all(t.dtype in _WHOLE_TYPES and t.shape for t in tensors):
        return {}
    return {t.name: (t.dtype.numpy, tuple(side or 1 for side in t.shape[1:])) for t in tensors}


def _node_arg(tensor: Tensor) -> NodeArg:
    scales = tensor.quantization
    known = scales is not None and scales.is_per_tensor and not tensor.dtype.is_float
    return NodeArg(
        name=tensor.name,
        shape=["N" if length is None else length for length in tensor.shape],
        type=f"tensor({_TYPES.get(tensor.dtype, tensor.dtype.value)})",
        quantization=(scales.single_scale, scales.single_zero_point) if known and scales else None,
    )
