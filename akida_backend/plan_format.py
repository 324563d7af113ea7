# SPDX-License-Identifier: Apache-2.0
"""A Plan as bytes, the ``.akp`` file: deterministic, versioned, checksummed, self-contained.

Little-endian:

    Header, 64 bytes, as `akida_backend.sealed_bytes` describes it, with
      0  8 bytes   magic 89 'A' 'K' 'L' 0D 0A 1A 0A
      8  uint32    format version, 1
    Document
     64  uint64    size of the JSON text
     72            JSON text (ASCII): `PlanDocument` in the form of `akida_backend.typed_json`
    Heap, from the next multiple of 64 on
                   arrays, and each program as `akida_backend.program_format` writes it

Host segments name operations of the legalised graph by position, and run in source arithmetic.
The imported graph is there too, so that `compare` has its source. Left out are the model's own
bytes, calibration data (their name stays) and the folders of file names, so that the same model
gives the same bytes wherever it lies.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import akida_backend
from akida_backend.devices import Device
from akida_backend.devices import device as find_device
from akida_backend.errors import InputError, ProgramError, UnsupportedOperationError
from akida_backend.graph import FoldedOperation, Graph, Location, Opaque, Operation
from akida_backend.graph_check import graph_problems, type_problems
from akida_backend.options import Calibration, Options
from akida_backend.plan import (
    DeviceSegment,
    HostSegment,
    PlacedOperation,
    Plan,
    QuantizerStep,
    Segment,
    WeightNote,
)
from akida_backend.program import InputPort, OutputPort
from akida_backend.program_format import program_from_bytes, program_to_bytes
from akida_backend.sealed_bytes import ALIGNMENT, HEADER_BYTES, MAX_BYTES, PLAN_MAGIC, SealedBytes
from akida_backend.typed_json import MalformedError, Reader, Writer
from akida_backend.writing import replacing, spare

FORMAT_VERSION: Final = 1
SUFFIX: Final = ".akp"
MAX_DOCUMENT_BYTES: Final = 2**25  # Python objects take many times the space of their text

_SIZE: Final = struct.Struct("<Q")
_DOCUMENT_AT: Final = HEADER_BYTES + _SIZE.size
_SKIPPED: Final = frozenset(
    {
        (Graph, "source"),
        (Options, "calibration"),
        (Options, "threads"),
    }
)
_NAMED_OPERATORS: Final = 5


@dataclass(frozen=True, slots=True)
class HostRecord:
    """Positions in the operations of the legalised graph."""

    operations: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    program: bytes
    sources: tuple[int, ...]
    source_macs: int
    device_macs: int
    assumptions: tuple[str, ...]
    weight_notes: tuple[WeightNote, ...]
    quantizer: tuple[QuantizerStep, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PlanDocument:
    """The JSON part of the file.

    Attributes:
        compiled_by: Tool and version.
        device: Canonical name of the device profile.
        options: Without the calibration data.
        calibration: What the scales were chosen from, as a name.
        graph: The model as imported.
        legalised: The model after rewrites.
        placement: One row per operator of the file.
        segments: In execution order.
    """

    compiled_by: str
    device: str
    options: Options
    calibration: str | None
    graph: Graph
    legalised: Graph
    placement: tuple[PlacedOperation, ...]
    segments: tuple[HostRecord | DeviceRecord, ...]


def is_plan(data: bytes) -> bool:
    """Whether the bytes begin as a plan file does."""
    return data.startswith(PLAN_MAGIC)


def content_hash(data: bytes) -> str:
    """The SHA-256 that a plan's bytes carry, hexadecimal; equal plans have equal ones.

    Raises:
        ProgramError: The bytes are damaged, of another version, or not a plan's.
    """
    return _seal("plan bytes").digest(data).hex()


def _seal(label: str) -> SealedBytes:
    return SealedBytes(label, "plan", PLAN_MAGIC, FORMAT_VERSION)


# Writing


def save_plan(plan: Plan, path: str | os.PathLike[str]) -> bytes:
    """Write a plan in the form that the name's ending says, and return the bytes.

    Raises:
        InputError: Another ending, the file cannot be written or is what the plan was made of, or
            the plan has no such form.
        UnsupportedOperationError: As `plan_to_bytes`.
    """
    check_ending(path)
    spare(path, [plan.graph.name, plan.options.calibration])
    data = _TO_BYTES[Path(path).suffix.lower()](plan)
    with replacing(Path(path)) as file:
        file.write(data)
    return data


def check_ending(path: str | os.PathLike[str]) -> None:
    """Refuse a file name that says another form.

    Raises:
        InputError: It does not end as a form of plans does.
    """
    ending = Path(path).suffix.lower()
    if ending in _TO_BYTES:
        return
    raise InputError(
        f"{os.fspath(path)}: a saved plan is a {' or '.join(_TO_BYTES)} file\n"
        "  give a name that ends so"
    )


def plan_to_bytes(plan: Plan) -> bytes:
    """The bytes of a plan: equal for equal plans, in every process.

    Raises:
        UnsupportedOperationError: Opaque operators, which only a runtime with the model's own
            file could execute; they are named.
        InputError: The plan's host segments are to run in an installed runtime, likewise.
        ProgramError: The plan is not well-formed, or takes 2 GiB or more.
    """
    _check_self_contained(plan)
    return _document_to_bytes(_document(plan))


def _compiled_onnx(plan: Plan) -> bytes:
    from akida_backend.compiled_onnx import compiled_onnx

    return compiled_onnx(plan)


def _compiled_tflite(plan: Plan) -> bytes:
    from akida_backend.tflite_compiled import compiled_tflite

    return compiled_tflite(plan)


_TO_BYTES: Final[Mapping[str, Callable[[Plan], bytes]]] = {
    SUFFIX: plan_to_bytes,
    ".onnx": _compiled_onnx,
    ".tflite": _compiled_tflite,
}


def _document_to_bytes(document: PlanDocument) -> bytes:
    label = f"plan of {document.graph.name}"
    writer = Writer(skipped=_SKIPPED)
    value = writer.encode(document)
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(text) > MAX_DOCUMENT_BYTES:
        raise ProgramError(
            f"{label}: its description takes {len(text)} bytes, at most {MAX_DOCUMENT_BYTES} fit"
        )
    gap = bytes(-(_DOCUMENT_AT + len(text)) % ALIGNMENT)
    body = _SIZE.pack(len(text)) + text + gap + writer.heap
    return _seal("plan bytes").seal(body, label)


def _check_self_contained(plan: Plan) -> None:
    opaque = [op for op in plan.graph.operations if isinstance(op, Opaque)]
    if opaque:
        named = [f"  {op.location}: {op.reason}" for op in opaque[:_NAMED_OPERATORS]]
        if len(opaque) > _NAMED_OPERATORS:
            named.append(f"  and {len(opaque) - _NAMED_OPERATORS} more")
        raise UnsupportedOperationError(
            f"plan of {plan.graph.name}: cannot be saved as {SUFFIX}, because these operators "
            "run only in an installed runtime that has the model's own file:\n"
            + "\n".join(named)
            + "\n  Run the model file itself."
        )
    if plan.options.host == "runtime":
        raise InputError(
            f"plan of {plan.graph.name}: host='runtime' needs the model's own file, which a "
            f"{SUFFIX} file does not hold\n  compile with host='reference' to save it"
        )
    problem = next(_plan_problems(plan), None)
    if problem is not None:
        raise ProgramError(f"plan of {plan.graph.name}: {problem}")


def _document(plan: Plan) -> PlanDocument:
    positions = {op: i for i, op in enumerate(plan.legalised.operations)}
    return PlanDocument(
        compiled_by=plan.compiled_by or f"akida-backend {akida_backend.__version__}",
        device=plan.device.name,
        options=dataclasses.replace(plan.options, device=plan.device.name),
        calibration=_calibration_name(plan.options.calibration),
        graph=_without_folders(plan.graph),
        legalised=_without_folders(plan.legalised),
        placement=plan.placement,
        segments=tuple(_segment_record(segment, positions) for segment in plan.segments),
    )


def _segment_record(segment: Segment, positions: dict[Operation, int]) -> HostRecord | DeviceRecord:
    match segment:
        case HostSegment():
            return HostRecord(tuple(positions[op] for op in segment.operations))
        case DeviceSegment():
            return DeviceRecord(
                program=program_to_bytes(segment.program),
                sources=segment.sources,
                source_macs=segment.source_macs,
                device_macs=segment.device_macs,
                assumptions=segment.assumptions,
                weight_notes=segment.weight_notes,
                quantizer=segment.quantizer,
                remarks=segment.remarks,
            )


def _without_folders(graph: Graph) -> Graph:
    """The graph with file names alone where paths stood."""

    def bare(location: Location) -> Location:
        return dataclasses.replace(location, file=_file_name(location.file))

    return dataclasses.replace(
        graph,
        name=_file_name(graph.name),
        operations=tuple(
            dataclasses.replace(op, location=bare(op.location)) for op in graph.operations
        ),
        folded=tuple(FoldedOperation(bare(entry.location)) for entry in graph.folded),
    )


def _file_name(path: str) -> str:
    return re.split(r"[/\\]", path)[-1]


def _calibration_name(calibration: Calibration) -> str | None:
    """What the scales were chosen from, as a name: the data themselves are not kept."""
    if calibration is None or isinstance(calibration, str | os.PathLike):
        return None if calibration is None else _file_name(os.fspath(calibration))
    return "arrays"


# Reading


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """The plan of an ``.akp`` file.

    Raises:
        InputError: The file cannot be read.
        ProgramError: It is damaged, of a newer version, or no plan.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{os.fspath(path)}: cannot be read: {reason}") from error
    return plan_from_bytes(data, name=os.fspath(path))


def plan_from_bytes(data: bytes, *, name: str = "plan bytes") -> Plan:
    """The plan that `plan_to_bytes` wrote; its arrays are views of `data`.

    Args:
        data: The whole file.
        name: What messages call it.

    Raises:
        ProgramError: The bytes are damaged, of a newer version, or not a plan's.
    """
    seal = _seal(name)
    seal.digest(data)
    try:
        return _plan(_read(data))
    except (MalformedError, ProgramError) as error:
        raise seal.damaged(str(error)) from error


def _read(data: bytes) -> PlanDocument:
    view = memoryview(data)
    if len(data) < _DOCUMENT_AT:
        raise MalformedError("the document is cut off")
    (size,) = _SIZE.unpack_from(data, HEADER_BYTES)
    if size > min(MAX_DOCUMENT_BYTES, len(data) - _DOCUMENT_AT):
        raise MalformedError(f"a document of {size} bytes in a file of {len(data)}")
    end = _DOCUMENT_AT + size
    heap = view[end + -end % ALIGNMENT :]
    try:
        value = json.loads(str(view[_DOCUMENT_AT:end], "ascii"))
        document = Reader(heap, skipped=_SKIPPED).decode(PlanDocument, value, "plan")
    except RecursionError:
        raise MalformedError("the document is nested too deeply") from None
    except ValueError as error:
        raise MalformedError(f"the document is not JSON: {error}") from error
    # Gaps, the order of the heap and the spelling of numbers: a plan has one form only.
    if _document_to_bytes(document) != data:
        raise MalformedError("it is not in the form in which plans are written")
    return document


def _plan(document: PlanDocument) -> Plan:
    for graph in (document.graph, document.legalised):
        located = (*graph.operations, *graph.folded)
        for name in (graph.name, *(entry.location.file for entry in located)):
            if name != _file_name(name):
                raise MalformedError(f"a file name with folders, '{name}'")
    if not document.compiled_by:
        raise MalformedError("it does not say what compiled it")
    if document.device != document.options.device:
        raise MalformedError(f"options for device '{document.options.device}'")
    try:
        device = find_device(document.device)
        given = {f.name: getattr(document.options, f.name) for f in dataclasses.fields(Options)}
        options = Options.parse({**given, "calibration": document.calibration})
    except InputError as error:
        raise MalformedError(str(error)) from error
    plan = Plan(
        graph=document.graph,
        legalised=document.legalised,
        device=device,
        options=options,
        placement=document.placement,
        segments=tuple(
            _segment(index, record, document.legalised)
            for index, record in enumerate(document.segments)
        ),
        compiled_by=document.compiled_by,
    )
    problem = next(_plan_problems(plan), None)
    if problem is not None:
        raise MalformedError(problem)
    return plan


def _segment(index: int, record: HostRecord | DeviceRecord, legalised: Graph) -> Segment:
    match record:
        case HostRecord():
            operations = legalised.operations
            if not all(0 <= position < len(operations) for position in record.operations):
                raise MalformedError(f"segment {index} runs operations that do not exist")
            return HostSegment(index, tuple(operations[i] for i in record.operations))
        case DeviceRecord():
            return DeviceSegment(
                index=index,
                program=program_from_bytes(record.program),
                sources=record.sources,
                source_macs=record.source_macs,
                device_macs=record.device_macs,
                assumptions=record.assumptions,
                weight_notes=record.weight_notes,
                quantizer=record.quantizer,
                remarks=record.remarks,
            )


def _plan_problems(plan: Plan) -> Iterator[str]:
    """What breaks the run of a plan whose parts are each well-formed."""
    graph, legalised = plan.graph, plan.legalised
    for each in (graph, legalised):
        if any(isinstance(op, Opaque) for op in each.operations):
            yield "an opaque operator"
        yield from graph_problems(each)
    yield from type_problems(graph.operations, graph)
    if plan.options.host == "runtime":
        yield "host segments in an installed runtime, which needs the model's own file"
    if (graph.inputs, graph.outputs) != (legalised.inputs, legalised.outputs):
        yield "the rewritten model has other inputs or outputs"
    if graph.batch != legalised.batch:
        yield "the rewritten model has another batch"
    for name in (*graph.inputs, *graph.outputs):
        if name in legalised.tensors and (
            graph.tensors[name].shape != legalised.tensors[name].shape
            or graph.tensors[name].dtype is not legalised.tensors[name].dtype
        ):
            yield f"the rewritten model has another tensor '{name}'"
    indices = [row.index for row in plan.placement]
    if indices != sorted(set(indices)):
        yield "the placement rows are out of order"
    if any(not 0 <= (row.segment or 0) < len(plan.segments) for row in plan.placement):
        yield "a placement row names a segment that does not exist"
    yield from _run_problems(plan.segments, legalised, plan.device)


def _run_problems(segments: Sequence[Segment], legalised: Graph, device: Device) -> Iterator[str]:
    """Every segment reads what is known by then, and the outputs are known at the end."""
    known = {*legalised.inputs, *(n for n, t in legalised.tensors.items() if t.is_constant)}
    programs: set[str] = set()
    for segment in segments:
        match segment:
            case HostSegment():
                yield from type_problems(segment.operations, legalised)
                for op in segment.operations:
                    if not known.issuperset(op.inputs):
                        yield f"segment {segment.index} reads what is not computed yet"
                    known.update(op.outputs)
            case DeviceSegment(program=program):
                if program.device != device.name:
                    yield f"segment {segment.index} is a program for '{program.device}'"
                for port in (program.input, program.output):
                    if not _fits(port, legalised):
                        yield f"segment {segment.index}: no tensor '{port.tensor}' of its port"
                if program.input.tensor not in known:
                    yield f"segment {segment.index} reads what is not computed yet"
                known.add(program.output.tensor)
                if program.name in programs:
                    yield f"two programs are called '{program.name}'"
                programs.add(program.name)
    if not known.issuperset(legalised.outputs):
        yield "an output is never computed"


def _fits(port: InputPort | OutputPort, graph: Graph) -> bool:
    tensor = graph.tensors.get(port.tensor)
    return tensor is not None and (tensor.dtype, tensor.shape) == (port.dtype, port.shape)
