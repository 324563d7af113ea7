# SPDX-License-Identifier: Apache-2.0
"""What a Plan says of itself: as JSON data, text, Markdown and a notebook table."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, Final

from akida_backend import document
from akida_backend.document import Block, Code, Document, Heading, Items, Lines, Table
from akida_backend.graph import Graph, Tensor, short_name
from akida_backend.plan import (
    DeviceSegment,
    HostSegment,
    PlacedOperation,
    Plan,
    QuantizerStep,
    ReportFormat,
    Segment,
)
from akida_backend.runtime_host import host_name

Json = dict[str, Any]


SCHEMA_VERSION: Final = 1
NOT_CHECKED: Final = "memory and NP count not checked"
NOT_QUANTIZED: Final = "GRAPH-NOT-QUANTIZED"


def report(plan: Plan, format: ReportFormat = "text") -> str:
    """Everything about a plan in one of the formats.

    Raises:
        ValueError: Another format.
    """
    match format:
        case "text":
            return document.text(plan_document(plan))
        case "markdown":
            return document.markdown(plan_document(plan))
        case "json":
            return json.dumps(plan_json(plan), indent=2) + "\n"
    raise ValueError(f"format is 'text', 'markdown' or 'json', not {format!r}")


def plan_html(plan: Plan) -> str:
    """The summary and the placement table for notebooks."""
    return document.html_page_part([*_summary(plan), _placement_table(plan.placement)])


# JSON


def plan_json(plan: Plan) -> Json:
    """What ``inspect --json`` prints; described by schemas/inspect.json."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model": model_json(plan.graph),
        "device": plan.device.name,
        "operations": [_operation_json(row) for row in plan.placement],
        "segments": [_segment_json(segment, plan) for segment in plan.segments],
        "summary": summary_json(plan),
    }


def summary_json(plan: Plan) -> Json:
    """How much of a model runs on the device."""
    return {
        "operations": len(plan.placement),
        "operations_on_device": sum(row.on_device for row in plan.placement),
        "macs": plan.macs,
        "macs_on_device": plan.macs_on_device,
        "mac_fraction_on_device": mac_fraction(plan),
        "partitions": len(plan.programs),
    }


def mac_fraction(plan: Plan) -> float | None:
    """Share of the source's MACs that run on the device; None for a model without MACs."""
    return plan.macs_on_device / plan.macs if plan.macs else None


def fraction_text(fraction: float | None) -> str:
    """A share as a percentage that shows 100 only where nothing is missing."""
    if fraction is None:
        return ""
    text = f"{100 * fraction:.2f}"
    return "99.99 %" if text == "100.00" and fraction < 1.0 else f"{text} %"


def model_json(graph: Graph) -> Json:
    return {
        "path": graph.name,
        "format": graph.format,
        "sha256": graph.sha256,
        "inputs": [_tensor_json(graph.tensors[name]) for name in graph.inputs],
        "outputs": [_tensor_json(graph.tensors[name]) for name in graph.outputs],
    }


def _tensor_json(tensor: Tensor) -> Json:
    scales = tensor.quantization
    quantized = scales is not None and scales.is_per_tensor and not tensor.dtype.is_float
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "type": tensor.dtype.value,
        "scale": scales.single_scale if quantized and scales else None,
        "zero_point": scales.single_zero_point if quantized and scales else None,
    }


def _operation_json(row: PlacedOperation) -> Json:
    return {
        "index": row.index,
        "type": row.type,
        "name": row.name,
        "placement": "device" if row.on_device else "host",
        "segment": row.segment,
        "layer": row.layer,
        "rewrites": list(row.rewrites),
        "macs": row.macs,
        "device_macs": row.device_macs,
        "reasons": [
            {
                "code": reason.code,
                "rule": reason.rule,
                "found": reason.found,
                "limit": reason.limit,
                "origin": reason.origin,
                "source": reason.source,
                "remedy": reason.remedy,
            }
            for reason in row.reasons
        ],
    }


def _segment_json(segment: Segment, plan: Plan) -> Json:
    match segment:
        case HostSegment():
            return {
                "index": segment.index,
                "placement": "host",
                "executed_by": host_name(plan.graph, plan.options.host),
                "operations": [
                    {"type": op.location.type, "output": op.outputs[0], "sources": list(op.sources)}
                    for op in segment.operations
                ],
            }
        case DeviceSegment():
            program = segment.program
            return {
                "index": segment.index,
                "placement": "device",
                "executed_by": f"{plan.device.name}, {emulated(plan)}",
                "program": program.name,
                "input": program.input.tensor,
                "output": program.output.tensor,
                "sources": list(segment.sources),
                "macs": segment.source_macs,
                "device_macs": segment.device_macs,
                "layers": [
                    {
                        "name": layer.name,
                        "type": type(layer).__name__,
                        "inputs": list(layer.inputs),
                        "output": layer.output,
                        "shape": list(program.tensors[layer.output].shape),
                        "bits": program.tensors[layer.output].code.bits,
                    }
                    for layer in program.layers
                ],
                "assumptions": list(segment.assumptions),
                "quantizer": [_step_json(step) for step in segment.quantizer],
                "remarks": list(segment.remarks),
                "weight_changes": [
                    {
                        "layer": note.layer,
                        "reason": note.reason,
                        "filters": note.filters,
                        "max_error_steps": note.max_error,
                    }
                    for note in segment.weight_notes
                ],
                "not_checked": ["memory", "NP count"],
            }


def _step_json(step: QuantizerStep) -> Json:
    return {
        "step": step.step,
        "layers": step.layers,
        "kept": step.kept,
        "gain_db": step.decibels,
    }


def quantizer_json(plan: Plan) -> list[Json]:
    """What each step of the quantizer bought in the segments of a plan."""
    return [
        {"device": plan.device.name, "program": segment.program.name, **_step_json(step)}
        for segment in plan.segments
        if isinstance(segment, DeviceSegment)
        for step in segment.quantizer
    ]


def quantizer_blocks(entries: Sequence[Json]) -> list[Block]:
    """The same for people: one row per program, one column per step."""
    if not entries:
        return []
    several = len({entry["device"] for entry in entries}) > 1
    steps = dict.fromkeys(entry["step"] for entry in entries)
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for entry in entries:
        bought = f"{entry['gain_db']:.1f} ({entry['kept']}/{entry['layers']})"
        rows.setdefault((entry["device"], entry["program"]), {})[entry["step"]] = bought
    return [
        Heading("What each step of the quantizer bought"),
        Lines(
            (
                "Decibels less error per layer on the calibration inputs; in brackets, in how many "
                "of the layers it could change the step helped and stayed.",
            )
        ),
        Table(
            (("program", "left"), *((step.replace(" ", "\n"), "right") for step in steps)),
            tuple(
                (f"{device} {program}" if several else program, *(found.get(s, "") for s in steps))
                for (device, program), found in rows.items()
            ),
        ),
    ]


def emulated(plan: Plan) -> str:
    """What stands in for the device."""
    return "simulated" if plan.options.emulation == "device" else "source operations in its place"


# Text


def plan_document(plan: Plan) -> Document:
    """Header, summary, every operation, every reason, and what the programs rely on."""
    return [
        *_summary(plan),
        _placement_table(plan.placement),
        *_reasons(plan.placement),
        *_device_notes(plan),
    ]


def _summary(plan: Plan) -> list[Block]:
    graph = plan.graph
    return [
        Lines((*model_lines(plan), *tensor_lines(graph))),
        *quantize_hint(plan),
        Lines(
            (
                f"Device: {plan.device.name} ({plan.device.title}), {emulated(plan)}."
                f" Host: {host_name(graph, plan.options.host)}."
                f"{' Scales: calibrated.' if plan.options.calibration is not None else ''}",
                placed_line(plan),
            )
        ),
    ]


def model_lines(plan: Plan) -> tuple[str, ...]:
    """What the model is, first of all whether it is an INT8 model."""
    graph = plan.graph
    what = quantization_kind(plan)
    known = f"{graph.name}: {graph.format} model, {what}, {len(plan.placement)} operations"
    return (known, f"  sha256 {graph.sha256}")


def quantization_kind(plan: Plan) -> str:
    """``INT8``, or how much of it is not."""
    computed = [tensor for tensor in plan.graph.tensors.values() if not tensor.is_constant]
    no_codes = not any(tensor.is_quantized for tensor in computed)
    if no_codes and any(tensor.dtype.is_float for tensor in computed):
        return "NOT INT8 (it computes in float)"
    multiplying = [row for row in plan.placement if row.macs]
    working = multiplying or list(plan.placement)
    loose = [row for row in working if any(r.code == NOT_QUANTIZED for r in row.reasons)]
    if not loose:
        return "INT8"
    if len(loose) == len(working):
        return "NOT INT8 (it computes in float)"
    kind = "operations with MACs" if multiplying else "operations"
    return f"NOT INT8 in part ({len(loose)} of {len(working)} {kind} are float)"


def tensor_lines(graph: Graph) -> list[str]:
    return [
        f"  {side} '{name}': {describe(graph.tensors[name])}"
        for side, names in (("input", graph.inputs), ("output", graph.outputs))
        for name in names
    ]


def describe(tensor: Tensor) -> str:
    """Type, shape and scale of a tensor in words."""
    shape = ", ".join("N" if length is None else str(length) for length in tensor.shape)
    scales = tensor.quantization
    code = ""
    if scales is not None and scales.is_per_tensor and not tensor.dtype.is_float:
        code = f", scale {scales.single_scale:.6g}, zero point {scales.single_zero_point}"
    return f"{tensor.dtype.value} [{shape}]{code}"


def quantize_hint(plan: Plan) -> list[Block]:
    """Commands that would make an INT8 model of a float one."""
    if quantization_kind(plan) == "INT8":
        return []
    graph = plan.graph
    only_weights = any(
        tensor.is_constant and tensor.is_quantized and tensor.shape and len(tensor.shape) > 1
        for tensor in graph.tensors.values()
    )
    path, said = shlex.quote(graph.name), "Quantize the model with samples of its input"
    if only_weights:
        path = f"FLOAT_MODEL.{graph.format}"
        said = (
            "This file has integer weights but float activations: quantize the float model it was "
            "made from"
        )
    package = "ai-edge-quantizer" if graph.format == "tflite" else "onnxruntime"
    out = f"model_int8.{graph.format}"
    return [
        Lines(
            (
                f"Akida computes with integers only. {said} "
                "(SAMPLES: .npz or .npy, float32, samples on axis 0), then give the result:",
            )
        ),
        Code(
            (
                f"pip install {package}",
                f"python -m akida_backend.quantize {path} --data SAMPLES -o {out}",
            )
        ),
    ]


def placed_line(plan: Plan) -> str:
    return f"On the device: {_placed(summary_json(plan))}{_multiplication(plan)}; {NOT_CHECKED}."


def _placed(summary: Json) -> str:
    share = fraction_text(summary["mac_fraction_on_device"])
    macs = f"{share} of {summary['macs']:,} MACs" if share else "no MACs"
    count = summary["partitions"]
    return (
        f"{summary['operations_on_device']} of {summary['operations']} operations, {macs}, "
        f"in {count} partition{'' if count == 1 else 's'}"
    )


def _multiplication(plan: Plan) -> str:
    """How many more MACs Akida 1.0 takes, whose missing layers larger ones stand in for."""
    segments = [segment for segment in plan.segments if isinstance(segment, DeviceSegment)]
    taken = sum(segment.device_macs for segment in segments)
    source = sum(segment.source_macs for segment in segments)
    if plan.device.generation > 1 or taken <= source or not source:
        return ""
    return f", which take {taken:,} device MACs, {taken / source:.1f} times the source's"


def _placement_table(placement: Iterable[PlacedOperation]) -> Table:
    rows = list(placement)
    more = any(row.device_macs not in (0, row.macs) for row in rows)

    def cells(row: PlacedOperation) -> tuple[str, ...]:
        codes = ", ".join(dict.fromkeys(reason.code for reason in row.reasons))
        return (
            str(row.index),
            row.type,
            short_name(row.name),
            f"{'device' if row.on_device else 'host'}"
            f"{'' if row.segment is None else f' {row.segment}'}",
            row.layer or "",
            f"{row.macs:,}" if row.macs else "",
            f"{row.device_macs:,}" if row.device_macs and more else "",
            ", ".join([*row.rewrites, codes] if codes else row.rewrites),
        )

    return Table(
        (
            ("op", "right"),
            ("type", "left"),
            ("name", "fold"),
            ("runs on,\nsegment", "left"),
            ("layer", "left"),
            ("MACs", "right"),
            ("device\nMACs", "right"),
            ("rewrites, reasons", "fold"),
        ),
        tuple(cells(row) for row in rows),
    )


def _reasons(rows: Sequence[PlacedOperation]) -> list[Block]:
    """Every violated rule once, with all operations that violate it."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        for reason in row.reasons:
            rule = (
                f"[{reason.code}] {reason.rule}",
                f"whose limit: {reason.origin} ({reason.source})",
                f"what to do: {reason.remedy}",
            )
            limit = "" if reason.limit is None else f" (limit: {_limit(reason.limit)})"
            found = f"op {row.index} {row.type} '{short_name(row.name)}': {reason.found}{limit}"
            grouped.setdefault(rule, []).append(found)
    items = tuple((head, (*details, *found)) for (head, *details), found in grouped.items())
    return [Heading("Reasons"), Items(items)] if items else []


def _limit(limit: object) -> str:
    if isinstance(limit, tuple | list):
        return ", ".join(
            "x".join(map(str, part)) if isinstance(part, tuple | list) else str(part)
            for part in limit
        )
    return str(limit)


def _device_notes(plan: Plan) -> list[Block]:
    segments = [segment for segment in plan.segments if isinstance(segment, DeviceSegment)]
    assumptions = dict.fromkeys(line for segment in segments for line in segment.assumptions)
    notes = [note for segment in segments for note in segment.weight_notes]
    blocks: list[Block] = []
    if assumptions:
        blocks += [Heading("Assumed, not documented"), Items(tuple((a, ()) for a in assumptions))]
    remarks = dict.fromkeys(line for segment in segments for line in segment.remarks)
    if remarks:
        blocks += [Heading("In few bits"), Items(tuple((line, ()) for line in remarks))]
    blocks += quantizer_blocks(quantizer_json(plan))
    if notes:
        numbers = {row.name: f"op {row.index} " for row in plan.placement}
        listed = (
            f"{numbers.get(note.layer, '')}'{short_name(note.layer)}': {note.filters} filters, "
            f"{note.reason}; largest change {note.max_error:.3g} steps"
            for note in notes
        )
        blocks += [Heading("Weights that changed"), Items(tuple((line, ()) for line in listed))]
    return blocks


# Comparison


def comparison_document(result: Json) -> Document:
    """The result of `compare` for people."""
    data = result["data"]
    blocks: list[Block] = [
        Heading(f"Compared with the source model on {result['samples']} samples"),
        Lines(
            (
                f"Data: {data['origin']}. Device: {result['device']}, "
                f"emulation {result['results'][2]['emulation']}. "
                f"Host: {result['host']}.",
                *_placed_lines(result["placement"]),
                f"Compared on '{short_name(result['tensor'])}', in real units; 'as received': on "
                f"the output '{short_name(result['output'])}' itself.",
            )
        ),
        _result_table(result),
    ]
    if "layers" in result:
        blocks.append(
            Table(
                (
                    ("op", "right"),
                    ("device tensor", "fold"),
                    ("SQNR dB", "right"),
                    ("largest difference", "right"),
                ),
                tuple(
                    (
                        str(layer["index"]),
                        short_name(layer["name"]),
                        _decibels(layer["sqnr_db"], layer["max_abs_diff"]),
                        f"{layer['max_abs_diff']:.4g}",
                    )
                    for layer in result["layers"]
                ),
            )
        )
    blocks += quantizer_blocks(result.get("quantizer", []))
    blocks.append(Lines(tuple(f"Note: {note}." for note in result["notes"])))
    return blocks


def _placed_lines(placement: Sequence[Json]) -> list[str]:
    return [
        f"On {'the device' if len(placement) == 1 else entry['device']}: "
        f"{_placed(entry['summary'])}."
        for entry in placement
    ]


def _result_table(result: Json) -> Table:
    def cells(row: Json) -> tuple[str, ...]:
        received = row["output"]
        return (
            row["name"],
            _share(row["accuracy"], row["accuracy_error"]),
            _share(row["agreement_with_source"], row["agreement_error"]),
            _share(row["decisive_agreement"]),
            _decibels(row["sqnr_db"], row["max_abs_diff"]),
            "" if row["cosine"] is None else f"{row['cosine']:.5f}",
            "" if row["max_abs_diff"] is None else f"{row['max_abs_diff']:.4g}",
            _share(received["accuracy"], received["accuracy_error"]),
            _share(received["agreement_with_source"], received["agreement_error"]),
        )

    return Table(
        (
            ("result", "left"),
            ("accuracy", "right"),
            ("agrees", "right"),
            ("agrees\nwhere\ndecisive", "right"),
            ("SQNR dB", "right"),
            ("cosine", "right"),
            ("largest\ndifference", "right"),
            ("accuracy\nas\nreceived", "right"),
            ("agrees\nas\nreceived", "right"),
        ),
        tuple(cells(row) for row in result["results"]),
    )


def _share(value: float | None, error: float | None = None) -> str:
    """A percentage, with its standard error where samples are few."""
    if value is None:
        return ""
    return f"{100 * value:.2f} %" if error is None else f"{100 * value:.2f} ± {100 * error:.1f} %"


def _decibels(sqnr: float | None, largest: float | None) -> str:
    if sqnr is not None:
        return f"{sqnr:.2f}"
    return "identical" if largest == 0.0 else ""
