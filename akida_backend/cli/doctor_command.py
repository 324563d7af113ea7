# SPDX-License-Identifier: Apache-2.0
"""``doctor``: versions, and what is missing and what that costs."""

from __future__ import annotations

import argparse

from akida_backend.cli import FAILED, HOLDS
from akida_backend.cli.output import show
from akida_backend.doctor import diagnose, diagnosis_document


def run(parsed: argparse.Namespace) -> int:
    diagnosis = diagnose()
    show(parsed, diagnosis_document(diagnosis), diagnosis)
    return FAILED if diagnosis["problems"] else HOLDS
