# SPDX-License-Identifier: Apache-2.0
"""Add with a clamp -> Add, then an identity convolution with the clamp. Same function.

Only under `strict_hardware`: the hardware page does not list an activation of Add. The clamp is a
fused one or that of an output range that starts at zero. The tensor between holds the sum before.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from akida_backend.graph import Activation, Add, Quantization
from akida_backend.ops.add import may_be_negative
from akida_backend.placement import key
from akida_backend.rewrites.rewriting import (
    RewriteContext,
    Rewritten,
    identity_convolution,
    replaced,
)

EFFECT = "With strict_hardware, a clamp fused into Add moves to an identity convolution."


def apply(context: RewriteContext) -> Rewritten | None:
    graph = context.graph
    if not context.options.strict_hardware:
        return None
    placed = {key(op) for c in context.placement.candidates for op in c.operations}
    for op in graph.operations:
        if not isinstance(op, Add) or key(op) not in placed or context.is_refused(op):
            continue
        target = graph.tensors[op.output]
        if target.quantization is None or len(target.shape) != 4:
            continue
        clamped = target.real_range[0] >= 0.0 and may_be_negative(op, graph)
        if op.activation is Activation.NONE and not clamped:
            continue
        lowest, highest = target.real_range
        reach = max(abs(lowest), abs(highest))
        low, high = target.dtype.code_range
        middle = (low + high + 1) // 2
        between = dataclasses.replace(
            target,
            name=graph.unused_name(f"{op.output}/sum"),
            quantization=Quantization(
                np.array([reach / (high - middle)], np.float32), np.array([middle], np.int64)
            ),
        )
        plain = dataclasses.replace(op, output=between.name, activation=Activation.NONE)
        tentative = graph.with_changes(add_tensors={between.name: between})
        tentative = dataclasses.replace(
            tentative, tensors={**tentative.tensors, between.name: between}
        )
        copy, tensors = identity_convolution(tentative, op, between.name, target)
        clamp = dataclasses.replace(copy, activation=op.activation)
        changed = replaced(graph, (op,), (plain, clamp), {**tensors, between.name: between})
        return Rewritten(changed, op.sources)
    return None
