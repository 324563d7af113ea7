# SPDX-License-Identifier: Apache-2.0
"""Pooling or activation with no layer to join -> identity 1x1 convolution that carries it. Exact.

Precondition: the operation reads a map the device computes, and the identity convolution together
with the operation meets every constraint. Covers global average pooling, max pooling, ReLU and
look-up tables behind an Add, a Concatenate or a tensor that others read too.
"""

from __future__ import annotations

import dataclasses

from akida_backend.candidate import Candidate, PlacementContext
from akida_backend.constraints import violations
from akida_backend.graph import (
    AveragePool2D,
    HardSwish,
    LeakyRelu,
    Logistic,
    MaxPool2D,
    Mean,
    Relu,
)
from akida_backend.ops import SPEC_OF
from akida_backend.rewrites.rewriting import (
    RewriteContext,
    Rewritten,
    identity_convolution,
    replaced,
)

EFFECT = "Pooling or an activation behind Add or Concatenate gets an identity convolution."
Carried = AveragePool2D | MaxPool2D | Mean | Relu | Logistic | HardSwish | LeakyRelu


def apply(context: RewriteContext) -> Rewritten | None:
    for op in context.graph.operations:
        if isinstance(op, Carried) and context.is_stranded(op):
            rewritten = _carried(op, context)
            if rewritten is not None:
                return rewritten
    return None


def _carried(op: Carried, context: RewriteContext) -> Rewritten | None:
    graph = context.graph
    source = graph.tensors[op.input]
    if op.input not in context.on_device or len(source.shape) != 4:
        return None
    copied = dataclasses.replace(source, name=graph.unused_name(f"{op.input}/copy"))
    copy, tensors = identity_convolution(graph, op, op.input, copied)
    after = dataclasses.replace(op, input=copied.name)
    changed = replaced(graph, (op,), (copy, after), tensors)
    inner = PlacementContext(changed, context.device, context.options, context.on_device)
    start = SPEC_OF[type(copy)].candidate(copy, inner)
    if not isinstance(start, Candidate):
        return None
    grown = SPEC_OF[type(after)].absorb(after, start, inner)
    if not isinstance(grown, Candidate):
        return None
    strict = context.options.strict_converter
    if violations(grown.facts, context.device, strict=strict):
        return None
    return Rewritten(changed, op.sources)
