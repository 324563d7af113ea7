# SPDX-License-Identifier: Apache-2.0
"""A plan from whatever a caller gives: a model, a plan, or a saved one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from akida_backend.compiler import compile as compile_model
from akida_backend.devices import Device
from akida_backend.devices import device as find_device
from akida_backend.errors import InputError
from akida_backend.graph import Graph
from akida_backend.options import Options
from akida_backend.plan import Plan
from akida_backend.plan_format import SUFFIX, is_plan, plan_from_bytes, read_plan
from akida_backend.policy import apply_fallback
from akida_backend.sealed_bytes import PLAN_MAGIC

RUN_OPTIONS: Final = ("emulation", "threads", "host", "fallback")


def compiled(
    model: str | os.PathLike[str] | bytes | Graph | Plan,
    device: str | Device | None,
    options: Mapping[str, object],
) -> Plan:
    """The plan of a model, or the given plan.

    Args:
        model: Path, bytes, Graph or Plan; path or bytes of a saved plan, too.
        device: A device or its name, None for the plan's or the default.
        options: Fields of `Options`; with a plan those of `RUN_OPTIONS`.

    Raises:
        ImportModelError: The model cannot be read.
        ProgramError: The saved plan is damaged.
        InputError: An unknown device or option, or one that a plan has fixed.
        FallbackError: `fallback` forbids what would stay on the host.
    """
    plan = plan_of(model)
    if plan is not None:
        return with_run_options(plan, device, options)
    assert not isinstance(model, Plan)
    return compile_model(model, device=device or Options().device, **options)


def plan_of(model: object) -> Plan | None:
    """The plan that `model` is, or whose file it is; None for anything else.

    Raises:
        InputError: A file called ``.akp`` cannot be read.
        ProgramError: The saved plan is damaged.
    """
    match model:
        case Plan():
            return model
        case bytes() | bytearray() | memoryview():
            data = bytes(model)
            return plan_from_bytes(data) if is_plan(data) else None
        case str() | os.PathLike():
            return read_plan(model) if _is_plan_file(Path(model)) else None
        case _:
            return None


def _is_plan_file(path: Path) -> bool:
    """By its first bytes, or by its name where they are damaged."""
    if path.suffix.lower() == SUFFIX:
        return True
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return is_plan(file.read(len(PLAN_MAGIC)))
    except (OSError, ValueError):
        return False


def with_run_options(
    plan: Plan, device: str | Device | None, options: Mapping[str, object]
) -> Plan:
    """The plan with other options of running.

    Raises:
        InputError: An unknown option, one that a plan has fixed, or another device.
        FallbackError: `fallback` forbids what stays on the host.
    """
    chosen = Options.parse(options)
    fixed = [name for name in options if name not in RUN_OPTIONS]
    if device is not None and not _is_for(plan, device):
        fixed.insert(0, "device")
    if fixed:
        raise InputError(
            f"option '{fixed[0]}' cannot change on a compiled plan (it is for "
            f"'{plan.device.name}')\n  compile the model with it; "
            f"a plan runs with {', '.join(RUN_OPTIONS)}"
        )
    if plan.compiled_by and chosen.host == "runtime":
        raise InputError(
            f"{plan.graph.name}: host='runtime' needs the model's own file, which a saved plan "
            "does not hold\n  give the model file, or leave the host operations to the reference"
        )
    # The plan's own policy was applied when it was compiled.
    apply_fallback(plan, chosen.fallback if "fallback" in options else "allow")
    changes = {name: getattr(chosen, name) for name in options}
    if not changes:
        return plan
    return dataclasses.replace(plan, options=dataclasses.replace(plan.options, **changes))


def _is_for(plan: Plan, device: str | Device) -> bool:
    try:
        return find_device(device).name == plan.device.name
    except InputError:
        return False
