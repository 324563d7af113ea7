# SPDX-License-Identifier: Apache-2.0
"""``demo``: accuracy on source and device, and the placement table."""

from __future__ import annotations

import argparse
import dataclasses

from akida_backend import compiler, demo, loading
from akida_backend.calibration_data import read_samples
from akida_backend.cli import HOLDS
from akida_backend.cli.arguments import options_of
from akida_backend.cli.model import graph_of
from akida_backend.cli.output import progress, show
from akida_backend.compare import ALL_DEVICES, compare
from akida_backend.errors import InputError
from akida_backend.report import (
    SCHEMA_VERSION,
    comparison_document,
    plan_document,
    plan_json,
)


def run(parsed: argparse.Namespace) -> int:
    if parsed.device.casefold() == ALL_DEVICES:
        raise InputError("demo needs one device; inspect and compare take 'all'")
    data = parsed.data
    if parsed.model is None:
        graph = loading.load(
            demo.model_bytes(), name=demo.MODEL_NAME, dimensions=dict(parsed.dimension)
        )
        if data is None:
            x, y = demo.samples()
            samples = read_samples(graph, {"x": x, "y": y})
            data = dataclasses.replace(samples, origin="embedded test images")
    else:
        graph = graph_of(parsed)
    plan = compiler.compile(graph, device=parsed.device, **options_of(parsed))
    with progress("comparing") as advance:
        report = compare(plan, data, limit=parsed.limit, progress=advance)
    data_json = {
        "schema_version": SCHEMA_VERSION,
        "inspect": plan_json(plan),
        "compare": report,
    }
    show(parsed, [*plan_document(plan), *comparison_document(report)], data_json)
    return HOLDS
