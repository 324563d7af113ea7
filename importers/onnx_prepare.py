# SPDX-License-Identifier: Apache-2.0
"""One flat node list in a supported operator set: functions expanded, old opsets converted.

Both may add nodes. Whatever they add counts as the user's node that follows it, so that every
message and report names a node of the file as the user has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Final

import onnx
import onnx.defs
import onnx.inliner
import onnx.version_converter

from akida_backend.errors import ImportModelError
from akida_backend.graph import Location
from akida_backend.importers.flatbuffer_check import DAMAGED
from akida_backend.importers.onnx_narrow import widen_activations
from akida_backend.importers.onnx_qonnx import expand_quant
from akida_backend.importers.tflite_file import MAX_OPERATORS

OLDEST_OPSET: Final = 10
_CONVERTED_OPSET: Final = 13
_MAX_EXPANDED_BYTES: Final = 2**28

_Function = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model ready to be read.

    Attributes:
        model: With one flat list of nodes.
        locations: Of each of its nodes in the user's file.
        originals: Of each node of the user's file.
        opsets: Version by domain, ONNX's own under the empty name.
        not_modelled: Why a node has no meaning here, by the result it writes.
    """

    model: onnx.ModelProto
    locations: tuple[Location, ...]
    originals: tuple[Location, ...]
    opsets: Mapping[str, int]
    not_modelled: Mapping[str, str]


def prepare(model: onnx.ModelProto, label: str) -> Prepared:
    """Expand function calls and convert opsets that are too old.

    Raises:
        ImportModelError: The opset is too new, or too old and cannot be converted.
    """
    originals = _locations(model.graph.node, label)
    opsets = _opsets(model, label)
    changed = model
    if model.functions:
        _check_expansion(model, label)
        try:
            changed = onnx.inliner.inline_local_functions(model)
        except Exception as problem:  # the inliner raises what it likes
            raise ImportModelError(
                f"{label}, field functions",
                f"the model's functions cannot be expanded: {_first_line(problem)}",
                remedy="Expand them with onnx.inliner before.",
            ) from None
        opsets = _opsets(changed, label)
    if opsets[""] < OLDEST_OPSET:
        try:
            changed = onnx.version_converter.convert_version(changed, _CONVERTED_OPSET)
        except Exception as problem:  # so does the converter
            raise ImportModelError(
                f"{label}, field opset_import",
                f"opset {opsets['']} is older than {OLDEST_OPSET} and onnx cannot convert it: "
                f"{_first_line(problem)}",
                remedy=f"Export the model with opset {_CONVERTED_OPSET} or newer.",
            ) from None
        opsets = _opsets(changed, label)
    changed, not_modelled = expand_quant(changed, label)
    changed = widen_activations(changed, label)
    locations = originals
    if changed is not model:
        locations = _matched(changed.graph.node, model.graph.node, originals)
    return Prepared(changed, locations, originals, opsets, not_modelled)


@dataclass(slots=True)
class _Body:
    """What a graph or a function holds: its own nodes, and how often it calls each function."""

    nodes: int = 0
    bytes: int = 0
    calls: Counter[_Function] = field(default_factory=Counter)


def _check_expansion(model: onnx.ModelProto, label: str) -> None:
    """Count before expanding: functions that call functions may double with every step.

    Raises:
        ImportModelError: There would be too many nodes, or a function leads to itself.
    """
    bodies = {_function(f, f.name): _body(f.node) for f in model.functions}
    main = _body(model.graph.node)
    for body in (main, *bodies.values()):
        for called in [key for key in body.calls if key not in bodies]:
            body.nodes += body.calls.pop(called)
    calls = {key: body.calls.keys() for key, body in bodies.items()}
    where = f"{label}, field functions"
    try:
        order = [*TopologicalSorter(calls).static_order()]
    except CycleError:
        raise ImportModelError(where, "a function calls itself", remedy=DAMAGED) from None
    for body in (*(bodies[key] for key in order), main):
        for called, times in body.calls.items():
            body.nodes += times * bodies[called].nodes
            body.bytes += times * bodies[called].bytes
    if main.nodes > MAX_OPERATORS or main.bytes > _MAX_EXPANDED_BYTES:
        raise ImportModelError(
            where,
            f"expanded, they give more than {MAX_OPERATORS} nodes or {_MAX_EXPANDED_BYTES} bytes",
            remedy="Models for edge devices are far smaller: check that this is the right file.",
        )


def _body(nodes: Iterable[onnx.NodeProto]) -> _Body:
    """Every node counts as a call first: only the whole file tells which are functions."""
    pending = [*nodes]
    body = _Body(bytes=sum(node.ByteSize() for node in pending))
    while pending:
        node = pending.pop()
        body.calls[_function(node, node.op_type)] += 1
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                pending.extend(graph.node)
    return body


def _function(proto: onnx.FunctionProto | onnx.NodeProto, name: str) -> _Function:
    """Domain, name and overload (which IR versions before 10 lack) that a call has as well."""
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    return domain, name, getattr(proto, "overload", "")


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]


def _locations(nodes: Sequence[onnx.NodeProto], label: str) -> tuple[Location, ...]:
    return tuple(
        Location(
            file=label,
            index=index,
            type=node.op_type,
            name=node.name or next((name for name in node.output if name), node.op_type),
        )
        for index, node in enumerate(nodes)
    )


def _opsets(model: onnx.ModelProto, label: str) -> dict[str, int]:
    opsets = {"": 1} if model.ir_version < 3 else {}  # before IR 3 the version was implied
    for entry in model.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        opsets[domain] = max(opsets.get(domain, 0), int(entry.version))
    newest = onnx.defs.onnx_opset_version()
    version = opsets.setdefault("", newest if not _uses_standard(model) else 0)
    if version < 1:
        raise ImportModelError(
            f"{label}, field opset_import", "no version of ONNX's operators", remedy=DAMAGED
        )
    if version > newest:
        raise ImportModelError(
            f"{label}, field opset_import",
            f"opset {version}, but the installed onnx {onnx.__version__} knows {newest}",
            remedy="Update the onnx package, or export the model with an older opset.",
        )
    return opsets


def _uses_standard(model: onnx.ModelProto) -> bool:
    return any(node.domain in ("", "ai.onnx") for node in model.graph.node)


def _matched(
    nodes: Sequence[onnx.NodeProto],
    originals: Sequence[onnx.NodeProto],
    locations: Sequence[Location],
) -> tuple[Location, ...]:
    """For each node that of the user's file which writes the same value, or the next one."""
    by_output = {name: i for i, node in enumerate(originals) for name in node.output if name}
    found: list[Location] = []
    following = locations[-1] if locations else Location("", 0, "", "")
    for node in reversed(nodes):
        match = next((by_output[name] for name in node.output if name in by_output), None)
        following = following if match is None else locations[match]
        found.append(following)
    return tuple(reversed(found))
