# SPDX-License-Identifier: Apache-2.0
"""InferenceSession: a compiled model behind the interface onnxruntime users know."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from akida_backend.calibration_data import stored_feeds
from akida_backend.compiled import compiled
from akida_backend.errors import InputError
from akida_backend.execute import Executor
from akida_backend.graph import AnyArray, DType, Graph, Tensor
from akida_backend.options import unknown
from akida_backend.plan import Plan
from akida_backend.runtime_host import host_name

_TYPES: Final[Mapping[DType, str]] = {DType.FLOAT32: "float", DType.FLOAT64: "double"}


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
        device: Name of a device profile; a Plan has its own.
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
        device: str | None = None,
        **options: object,
    ) -> None:
        self._plan = compiled(model, device, options)
        self._executor = Executor(self._plan)

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
        graph = self._plan.graph
        names = graph.outputs if output_names is None else tuple(output_names)
        for name in names:
            if name not in graph.outputs:
                raise InputError(unknown("output", name, graph.outputs))
        values = self._executor.run(stored_feeds(graph, input_feed)).values
        return [values[name] for name in names]


def _node_arg(tensor: Tensor) -> NodeArg:
    scales = tensor.quantization
    known = scales is not None and scales.is_per_tensor and not tensor.dtype.is_float
    return NodeArg(
        name=tensor.name,
        shape=["N" if length is None else length for length in tensor.shape],
        type=f"tensor({_TYPES.get(tensor.dtype, tensor.dtype.value)})",
        quantization=(scales.single_scale, scales.single_zero_point) if known and scales else None,
    )
