# SPDX-License-Identifier: Apache-2.0
"""``inspect``: where every operator would run, and why not on the device."""

from __future__ import annotations

import argparse

from akida_backend import compiler
from akida_backend.cli import FAILED, HOLDS
from akida_backend.cli.arguments import options_of
from akida_backend.cli.model import model_of
from akida_backend.cli.output import say, show
from akida_backend.compare import ALL_DEVICES, comparable_devices
from akida_backend.compiled import with_run_options
from akida_backend.devices import devices
from akida_backend.document import Lines, Table
from akida_backend.options import Fallback, Options
from akida_backend.plan import Plan
from akida_backend.policy import apply_fallback, left_on_host, refusal
from akida_backend.report import (
    NOT_CHECKED,
    SCHEMA_VERSION,
    Json,
    fraction_text,
    mac_fraction,
    plan_document,
    plan_json,
)


def run(parsed: argparse.Namespace) -> int:
    given = Options.parse({**options_of(parsed), "device": parsed.device})
    # The policy is judged below, when the report has been shown.
    plans = _plans(parsed, options_of(parsed, fallback="allow"))
    if len(plans) > 1:
        shown = [plan_document(plans[0])[0], Lines((NOT_CHECKED,)), _devices(plans)]
        show(parsed, shown, _all_json(plans))
    else:
        show(parsed, plan_document(plans[0]), plan_json(plans[0]))
    return max([_judge(plan, parsed, given.fallback) for plan in plans])


def _plans(parsed: argparse.Namespace, options: dict[str, object]) -> list[Plan]:
    """One per device that was asked for, or the one that was saved."""
    model = model_of(parsed)
    if isinstance(model, Plan):
        return [with_run_options(model, parsed.device_given, options)]
    every = parsed.device.casefold() == ALL_DEVICES
    names = comparable_devices(options) if every else (parsed.device,)
    # Placement does not depend on how well the weights of Akida 1.0 are chosen; calibration inputs
    # that are of no use are refused as everywhere.
    placing = options if options.get("calibration") else {**options, "allow_uncalibrated": True}
    return [compiler.compile(model, device=name, **placing) for name in names]


def _devices(plans: list[Plan]) -> Table:
    """One row per device."""
    rows = tuple(
        (
            plan.device.name,
            f"{sum(row.on_device for row in plan.placement)} of {len(plan.placement)}",
            fraction_text(mac_fraction(plan)),
            str(len(plan.programs)),
        )
        for plan in plans
    )
    compiled = {plan.device.name for plan in plans}
    rows += tuple(
        (other.name, "needs calibration inputs", "", "")
        for other in devices()
        if other.name not in compiled
    )
    return Table(
        (
            ("device", "left"),
            ("operations on it", "right"),
            ("MACs on it", "right"),
            ("partitions", "right"),
        ),
        rows,
    )


def _all_json(plans: list[Plan]) -> Json:
    return {
        "schema_version": SCHEMA_VERSION,
        "device": ALL_DEVICES,
        "reports": [plan_json(plan) for plan in plans],
    }


def _judge(plan: Plan, parsed: argparse.Namespace, fallback: Fallback) -> int:
    """Whether the thresholds and the policy hold; each that fails is said."""
    code = HOLDS
    fraction = mac_fraction(plan)
    if parsed.min_mac_fraction is not None and (fraction or 0.0) < parsed.min_mac_fraction:
        say(
            f"{plan.device.name}: wanted a share of at least {parsed.min_mac_fraction:g} of the "
            f"MACs on the device, found {0.0 if fraction is None else fraction:.4f}"
        )
        code = FAILED
    if parsed.check_partitions is not None and len(plan.programs) > parsed.check_partitions:
        say(
            f"{plan.device.name}: wanted at most {parsed.check_partitions} partitions, "
            f"found {len(plan.programs)}"
        )
        code = FAILED
    if fallback == "warn":
        apply_fallback(plan, fallback)
    if fallback in ("error", "strict"):
        left = left_on_host(plan, strict=fallback == "strict")
        if left:
            say(refusal(plan, left, fallback))
            code = FAILED
    return code
