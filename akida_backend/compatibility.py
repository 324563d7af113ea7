# SPDX-License-Identifier: Apache-2.0
"""Make a model fit a device: what would have to change, and what may as it changes no value.

advice = akida_backend.compatibility.advise("model.tflite", "akd1000")
print(advice.report())
fitted = akida_backend.compatibility.create_from_model("model.tflite", "akida2")
fitted.save("fitted.tflite")
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from akida_backend.advice.advising import advice as _advice
from akida_backend.advice.applying import Applied, Written, with_exact_rewrites, write_proven
from akida_backend.advice.model import (
    Advice,
    Change,
    Cost,
    ModelProposal,
    OperatorAdvice,
    OtherDevice,
    Proposal,
)
from akida_backend.devices import Device
from akida_backend.graph import Graph
from akida_backend.loading import load

__all__ = [
    "Advice",
    "Applied",
    "Change",
    "Compatible",
    "Cost",
    "ModelProposal",
    "OperatorAdvice",
    "OtherDevice",
    "Proposal",
    "Written",
    "advise",
    "create_from_model",
]

Model = Graph | str | os.PathLike[str] | bytes


def advise(model: Model, device: str | Device = "akida2", **options: object) -> Advice:
    """What runs on a device, and the smallest changes that would place the rest.

    Every proposal was compiled: it is listed only where the device takes the operator then.
    Placement is looked at, not accuracy; calibration inputs serve only to measure the error of
    depthwise and pointwise convolutions that share a layer of Akida 1.0.

    Args:
        model: A Graph, or what `load` takes.
        device: A device or its name.
        options: Fields of `Options`.

    Raises:
        ImportModelError: The model cannot be read.
        InputError: An unknown device or option.
    """
    return _advice(model if isinstance(model, Graph) else load(model), device, options)


@dataclass(frozen=True, slots=True, eq=False)
class Compatible:
    """A model with every rewrite that changes no value.

    Attributes:
        graph: The changed model.
        applied: What was done to which operator.
        advice: What runs now, and all that was not applied.
    """

    graph: Graph
    applied: tuple[Applied, ...]
    advice: Advice

    @property
    def proposals(self) -> tuple[OperatorAdvice, ...]:
        """Operators with changes that were not applied."""
        return tuple(entry for entry in self.advice.operators if entry.proposals)

    def save(self, path: str | os.PathLike[str]) -> Written:
        """Write the model in the format of the original, proven equal to it on random inputs.

        Raises:
            InputError: Another ending, a graph without a form in the format, a file that cannot
                be written, or an output that differs; there is no file then.
            UnsupportedOperationError: The original cannot be executed.
        """
        return write_proven(self.graph, self.advice.plan.graph, path)


def create_from_model(
    model: Model, device: str | Device = "akida2", **options: object
) -> Compatible:
    """The model as the device takes it, as far as that changes no value.

    Args:
        model: A Graph, or what `load` takes.
        device: A device or its name.
        options: Fields of `Options`.

    Raises:
        ImportModelError: The model cannot be read.
        InputError: An unknown device or option.
    """
    advice = advise(model, device, **options)
    graph, applied = with_exact_rewrites(advice.plan)
    return Compatible(graph, applied, advice)
