# SPDX-License-Identifier: Apache-2.0
"""The model that a command was given."""

from __future__ import annotations

import argparse

from akida_backend import loading
from akida_backend.compiled import plan_of
from akida_backend.errors import InputError
from akida_backend.graph import Graph
from akida_backend.plan import Plan


def graph_of(parsed: argparse.Namespace) -> Graph:
    """The model, with the lengths given to its open axes.

    Raises:
        InputError: It cannot be opened, or has no such axis.
        ImportModelError: It cannot be read, or is a plan.
    """
    return loading.load(parsed.model, dimensions=dict(parsed.dimension))


def model_of(parsed: argparse.Namespace) -> Graph | Plan:
    """As `graph_of`, or the saved plan.

    Raises:
        InputError: As `graph_of`, or lengths for a plan.
        ImportModelError: The model cannot be read.
        ProgramError: The saved plan is damaged.
    """
    plan = plan_of(parsed.model)
    if plan is None:
        return graph_of(parsed)
    if parsed.dimension:
        raise InputError(
            f"{parsed.model}: the sizes of a compiled plan are fixed\n"
            "  Give --dimension where the model is compiled."
        )
    return plan
