# SPDX-License-Identifier: Apache-2.0
"""What advice consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from akida_backend.advice.edits import Edit
from akida_backend.plan import PlacedOperation, Plan


class Cost(StrEnum):
    """What a change asks for."""

    SAME = "same values"  # the network computes what it did
    OPTION = "option"  # of the compiler
    TRAINING = "training"  # another network, to be trained again


@dataclass(frozen=True, slots=True)
class Change:
    """Something a user could do, not yet judged.

    Attributes:
        text: In words, to be read behind "use" or "try".
        cost: What it asks for.
        edit: The model with it; None for an option.
        options: Compile options with it.
    """

    text: str
    cost: Cost
    edit: Edit | None = None
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change under which the compiler places the operator: it was compiled again to see.

    Attributes:
        change: What to do.
        judged_on: ``model``; ``changed model``, with the first changes of all other operators; or
            ``operator``: cut out, where the rest has no form for the change.
        mac_fraction: Share of the changed model's MACs on the device; None where `judged_on` is
            ``operator`` or there are no MACs.
        partitions: Device segments of the changed model; None likewise.
        device_macs: MACs per sample the device executes then; None likewise.
    """

    change: Change
    judged_on: str
    mac_fraction: float | None = None
    partitions: int | None = None
    device_macs: int | None = None


@dataclass(frozen=True, slots=True)
class OperatorAdvice:
    """One operator that stays on the host.

    Attributes:
        row: Its placement and reasons.
        proposals: Checked changes, the smallest first; empty where none was found.
        fits: Other devices that take the operator as it is.
    """

    row: PlacedOperation
    proposals: tuple[Proposal, ...]
    fits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelProposal:
    """Changes for the whole model, compiled together.

    Attributes:
        changes: What to do, and the operators it is for.
        mac_fraction: Share of MACs on the device then.
        operations_on_device: Operators on the device then.
        partitions: Device segments then.
        macs: Of the changed model, per sample.
        device_macs: MACs per sample the device executes then.
    """

    changes: tuple[tuple[tuple[int, ...], str], ...]
    mac_fraction: float | None
    operations_on_device: int
    partitions: int
    macs: int
    device_macs: int

    def no_better_than(self, other: ModelProposal) -> bool:
        """Whether the other one reaches as much with as little."""
        mine, theirs = self.mac_fraction or 0.0, other.mac_fraction or 0.0
        return (
            mine <= theirs
            and self.operations_on_device <= other.operations_on_device
            and self.partitions >= other.partitions
            and self.device_macs >= other.device_macs
        )


@dataclass(frozen=True, slots=True)
class OtherDevice:
    """How much of the model as it is another device takes."""

    name: str
    mac_fraction: float | None
    operations_on_device: int
    partitions: int


@dataclass(frozen=True, slots=True)
class Merged:
    """Depthwise and pointwise convolution that became one SeparableConvolutional layer.

    Attributes:
        operators: Their indices, and those of what joined the layer.
        sqnr_db: Signal to error of the layer's output, in decibels; None: not measured, for want
            of calibration inputs.
    """

    operators: tuple[int, ...]
    sqnr_db: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Advice:
    """What runs on a device now, and what would have to change for the rest.

    Attributes:
        plan: The model as it is, compiled. Its placement names the rewrites applied.
        operators: Those on the host.
        model: Proposals for the whole model, the best share of MACs first.
        others: Devices with other limits.
        merged: Pairs of operators that share a layer, and the error of that.
        unchecked: Operators whose changes were not looked for, since there are too many.
    """

    plan: Plan
    operators: tuple[OperatorAdvice, ...]
    model: tuple[ModelProposal, ...]
    others: tuple[OtherDevice, ...]
    merged: tuple[Merged, ...] = ()
    unchecked: tuple[int, ...] = ()

    def report(self) -> str:
        """As text."""
        from akida_backend import document
        from akida_backend.advice.render import advice_document

        return document.text(advice_document([self]))
