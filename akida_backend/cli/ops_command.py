# SPDX-License-Identifier: Apache-2.0
"""``ops``: the operators and what becomes of them on a device."""

from __future__ import annotations

import argparse

from akida_backend.cli import HOLDS
from akida_backend.cli.output import show
from akida_backend.devices import device
from akida_backend.support_table import operations_document, operations_json


def run(parsed: argparse.Namespace) -> int:
    target = device(parsed.device)
    show(parsed, operations_document(target), operations_json(target))
    return HOLDS
