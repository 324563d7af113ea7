# SPDX-License-Identifier: Apache-2.0
"""Depthwise and pointwise convolutions that become one layer on Akida 1.0, and what that costs.

The codes between the two halves are gone, so it is no exact rewrite: its error is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.advice.model import Merged
from akida_backend.arithmetic import dequantized
from akida_backend.calibration_data import first_samples, read_samples
from akida_backend.execute import Executor, run_source
from akida_backend.graph import AnyArray, DepthwiseConv2D, Graph, Operation
from akida_backend.plan import Plan
from akida_backend.program import SeparableConvolutional

SAMPLES: Final = 8


def merged_layers(plan: Plan) -> tuple[Merged, ...]:
    """Every such layer of a plan, with its error on the first calibration inputs, if there are any.

    The error is that of the layer's output against the source's, all before it included.
    """
    outputs = [
        layer.output
        for program in plan.programs
        for layer in program.layers
        if isinstance(layer, SeparableConvolutional)
    ]
    if not outputs:
        return ()
    device, source = _values(plan, outputs)
    found = []
    for name in outputs:
        members = _members(name, plan.legalised)
        error = None
        if name in device and name in source:
            error = _sqnr(_real(source[name], name, plan.graph), device[name])
        found.append(Merged(tuple(op.location.index for op in members), error))
    return tuple(found)


def _members(output: str, graph: Graph) -> list[Operation]:
    """The operations of a layer, from its depthwise half on."""
    members: list[Operation] = []
    op: Operation | None = graph.producers.get(output)
    while op is not None:
        members.insert(0, op)
        if isinstance(op, DepthwiseConv2D):
            break
        op = graph.producers.get(graph.activations_of(op)[0])
    return members


def _values(
    plan: Plan, names: list[str]
) -> tuple[Mapping[str, NDArray[np.float64]], Mapping[str, AnyArray]]:
    """Tensors of the program as reals, and the source's stored ones."""
    data = plan.options.calibration
    if data is None:
        return {}, {}
    samples = first_samples(plan.graph, read_samples(plan.graph, data), SAMPLES)
    known = [name for name in names if name in plan.graph.tensors]
    device = Executor(plan, emulation="device").run(samples.feeds, device_tensors=known)
    return device.reals, run_source(plan.graph, samples.feeds, tensors=known)


def _real(codes: AnyArray, name: str, graph: Graph) -> NDArray[np.float64]:
    return dequantized(codes, graph.tensors[name]).astype(np.float64)


def _sqnr(source: NDArray[np.float64], device: NDArray[np.float64]) -> float | None:
    """Signal to error in decibels; None where there is no signal, infinite where no error."""
    error = float(((source - device.reshape(source.shape)) ** 2).sum())
    signal = float((source**2).sum())
    if not signal:
        return None
    return math.inf if not error else 10.0 * math.log10(signal / error)
