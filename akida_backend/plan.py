# SPDX-License-Identifier: Apache-2.0
"""What the compiler decided: where every source operator runs, and the programs that run it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from akida_backend.constraints import Violation
from akida_backend.devices import Device
from akida_backend.graph import Graph, Operation
from akida_backend.options import Options
from akida_backend.program import Program

ReportFormat = Literal["text", "markdown", "json"]


@dataclass(frozen=True, slots=True)
class PlacedOperation:
    """One operator of the model's file.

    Attributes:
        index: Position in the file.
        type: The file format's operator name.
        name: Name of the operator.
        on_device: All its MACs run in device segments (or, without MACs, the device does it).
        segment: Number of the segment that computes its result; None if folded at import.
        layer: Name of the Akida layer type it became or joined, None on the host.
        rewrites: Names of the rewrites it went through.
        macs: Multiply-accumulates per sample in the source network.
        device_macs: Multiply-accumulates per sample the device executes for it (rewrites may
            multiply them).
        reasons: Every violated constraint; never empty for a host operation.
    """

    index: int
    type: str
    name: str
    on_device: bool
    segment: int | None
    layer: str | None
    rewrites: tuple[str, ...]
    macs: int
    device_macs: int
    reasons: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class WeightNote:
    """A layer whose weights could not stay as they are.

    Attributes:
        layer: Name of the program layer.
        reason: Why.
        filters: Number of filters concerned.
        max_error: Largest change of a weight, in steps of the source's weight scale.
    """

    layer: str
    reason: str
    filters: int
    max_error: float


@dataclass(frozen=True, slots=True)
class QuantizerStep:
    """What one step of the quantizer for few bits bought, on the calibration inputs.

    Attributes:
        step: Its name.
        layers: Layers of the segment it could change.
        kept: Layers where it made the error smaller, and stayed.
        decibels: Mean decrease of the error it works on, over those it could change.
    """

    step: str
    layers: int
    kept: int
    decibels: float


@dataclass(frozen=True, slots=True)
class HostSegment:
    """Operations of `Plan.legalised` that the CPU executes, in order."""

    index: int
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class DeviceSegment:
    """A convex part with one input and one output tensor, as one program.

    Attributes:
        index: Position among all segments.
        program: What the device executes.
        sources: Indices in the file of the operators it stands for, ascending.
        source_macs: Their MACs per sample in the source network.
        device_macs: MACs per sample of the program.
        assumptions: Undocumented behaviour the program relies on, as sentences.
        weight_notes: Layers with changed weights.
        quantizer: Steps that chose few-bit integers, in their order.
        remarks: What else became of the source in few bits, as sentences.
    """

    index: int
    program: Program
    sources: tuple[int, ...]
    source_macs: int
    device_macs: int
    assumptions: tuple[str, ...] = ()
    weight_notes: tuple[WeightNote, ...] = ()
    quantizer: tuple[QuantizerStep, ...] = ()
    remarks: tuple[str, ...] = ()


Segment = HostSegment | DeviceSegment


@dataclass(frozen=True, eq=False)
class Plan:
    """A compiled model.

    Attributes:
        graph: The model as imported.
        legalised: The model after rewrites; host segments and ports speak of its tensors.
            Every tensor of `graph` that survives keeps its name and its meaning.
        device: What it was compiled for.
        options: How it was compiled.
        placement: One row per operator of the file, ascending.
        segments: In execution order.
        compiled_by: Tool and version, of a plan that was read from a file.
    """

    graph: Graph
    legalised: Graph
    device: Device
    options: Options
    placement: tuple[PlacedOperation, ...]
    segments: tuple[Segment, ...]
    compiled_by: str = ""

    def __repr__(self) -> str:
        counts = f"{len(self.placement)} operations, {len(self.programs)} programs"
        return f"Plan({self.graph.name!r}, {self.device.name}, {counts})"

    @property
    def programs(self) -> tuple[Program, ...]:
        return tuple(s.program for s in self.segments if isinstance(s, DeviceSegment))

    @property
    def macs(self) -> int:
        return sum(row.macs for row in self.placement)

    @property
    def macs_on_device(self) -> int:
        return sum(row.macs for row in self.placement if row.on_device)

    def report(self, format: ReportFormat = "text") -> str:
        """The placement with all reasons, as ``text``, ``markdown`` or ``json``.

        Raises:
            ValueError: Another format.
        """
        from akida_backend.report import report

        return report(self, format)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file that needs neither the model nor a compiler to run.

        ``.akp`` is for `InferenceSession`; ``.tflite``, of a TFLite model, for TFLite runtimes
        with this package's delegate.

        Raises:
            InputError: Another ending, the file cannot be written, or the plan has no such form.
            UnsupportedOperationError: The plan has opaque operators; they are named.
        """
        from akida_backend.plan_format import save_plan

        save_plan(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Plan:
        """The plan of an ``.akp`` file.

        Raises:
            InputError: The file cannot be read.
            ProgramError: It is damaged, of a newer version, or no plan.
        """
        from akida_backend.plan_format import read_plan

        return read_plan(path)

    def _repr_html_(self) -> str:
        from akida_backend.report import plan_html

        return plan_html(self)
