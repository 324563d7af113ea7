# SPDX-License-Identifier: Apache-2.0
"""``bench``: the speed of the simulation beside that of the runtimes."""

from __future__ import annotations

import argparse

from akida_backend.bench import bench, bench_document
from akida_backend.cli import HOLDS
from akida_backend.cli.arguments import options_of
from akida_backend.cli.model import graph_of
from akida_backend.cli.output import show
from akida_backend.compare import ALL_DEVICES
from akida_backend.errors import InputError


def run(parsed: argparse.Namespace) -> int:
    if parsed.device.casefold() == ALL_DEVICES:
        raise InputError("bench needs one device; inspect and compare take 'all'")
    named = None if parsed.against is None else [n for n in parsed.against.split(",") if n]
    options = options_of(parsed)
    del options["threads"]  # of every side, not of the simulation alone
    result = bench(
        graph_of(parsed),
        against=named,
        threads=parsed.threads,
        batch=parsed.batch,
        seconds=parsed.seconds,
        device=parsed.device,
        **options,
    )
    show(parsed, bench_document(result), result)
    return HOLDS
