# SPDX-License-Identifier: Apache-2.0
"""``run``: outputs of a model, printed in short and written by name."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from akida_backend.calibration_data import first_samples, random_samples, read_samples
from akida_backend.cli import HOLDS
from akida_backend.cli.arguments import options_of
from akida_backend.cli.model import model_of
from akida_backend.cli.output import progress, say, show, write_arrays
from akida_backend.compare import ALL_DEVICES
from akida_backend.compiled import compiled
from akida_backend.document import Document, Lines, Table
from akida_backend.errors import InputError
from akida_backend.execute import Executor, parts, sample_count
from akida_backend.graph import AnyArray
from akida_backend.plan import Plan
from akida_backend.report import (
    SCHEMA_VERSION,
    Json,
    emulated,
    model_json,
    model_lines,
    placed_line,
)
from akida_backend.runtime_host import host_name
from akida_backend.writing import replacing


def run(parsed: argparse.Namespace) -> int:
    if parsed.device.casefold() == ALL_DEVICES:
        raise InputError("run needs one device; compare takes 'all'")
    if parsed.out is not None and Path(parsed.out).suffix.lower() != ".npz":
        raise InputError(
            f"{parsed.out}: outputs are written by name, as .npz\n  Give a name that ends so."
        )
    plan = compiled(model_of(parsed), parsed.device_given, options_of(parsed))
    graph = plan.graph
    samples = random_samples(graph) if parsed.data is None else read_samples(graph, parsed.data)
    for note in samples.notes:
        say(note)
    samples = first_samples(graph, samples, parsed.limit)
    total = sample_count(graph, samples.feeds)
    executor = Executor(plan)
    collected: dict[str, list[AnyArray]] = {name: [] for name in graph.outputs}
    done = 0
    with progress("running") as advance:
        for part in parts(graph, samples.feeds):
            values = executor.run(part).values
            for name, arrays in collected.items():
                arrays.append(values[name])
            done += sample_count(graph, part)
            if advance is not None:
                advance(done, total)
    outputs = {name: np.concatenate(arrays) for name, arrays in collected.items()}
    if parsed.out is not None:
        with replacing(Path(parsed.out)) as file:
            write_arrays(file, outputs)
    show(parsed, _document(plan, outputs, samples.origin, parsed.out), {
        "schema_version": SCHEMA_VERSION,
        "model": model_json(graph),
        "device": plan.device.name,
        "emulation": plan.options.emulation,
        "host": host_name(graph, plan.options.host),
        "data": {"origin": samples.origin, "random": parsed.data is None},
        "samples": total,
        "file": parsed.out,
        "outputs": [_output_json(name, values) for name, values in outputs.items()],
    })  # fmt: skip
    return HOLDS


def _output_json(name: str, values: AnyArray) -> Json:
    numeric = values.dtype.kind in "iufb" and values.size > 0
    return {
        "name": name,
        "type": str(values.dtype),
        "shape": list(values.shape),
        "min": float(values.min()) if numeric and np.isfinite(values).all() else None,
        "max": float(values.max()) if numeric and np.isfinite(values).all() else None,
    }


def _document(plan: Plan, outputs: dict[str, AnyArray], origin: str, file: str | None) -> Document:
    rows = tuple(
        (
            name,
            str(values.dtype),
            "x".join(map(str, values.shape)),
            np.array2string(values[0].reshape(-1), threshold=8, edgeitems=4, precision=4),
        )
        for name, values in outputs.items()
    )
    columns = Table(
        (("output", "fold"), ("type", "left"), ("shape", "left"), ("first sample", "fold")), rows
    )
    return [
        Lines(
            (
                *model_lines(plan),
                f"Data: {origin}.",
                f"Device: {plan.device.name}, {emulated(plan)}. "
                f"Host: {host_name(plan.graph, plan.options.host)}.",
                placed_line(plan),
            )
        ),
        columns,
        Lines((f"Written to {file}.",) if file is not None else ()),
    ]
