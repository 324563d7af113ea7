# SPDX-License-Identifier: Apache-2.0
"""Concatenation of many -> a chain of concatenations of two. Exact.

Precondition: more than two operands and no fused activation; all have the output's quantization,
so that partial results need none of their own.
"""

from __future__ import annotations

import dataclasses

from akida_backend.graph import Activation, Concatenation, Tensor
from akida_backend.rewrites.rewriting import RewriteContext, Rewritten, replaced

EFFECT = "Concatenations of many tensors become chains of two."


def apply(context: RewriteContext) -> Rewritten | None:
    graph = context.graph
    for op in context.stranded(Concatenation):
        if len(op.operands) <= 2 or op.activation is not Activation.NONE:
            continue
        if not all(name in context.on_device for name in op.operands):
            continue
        target = graph.tensors[op.output]
        chain: list[Concatenation] = []
        tensors: dict[str, Tensor] = {}
        left = op.operands[0]
        width = int(graph.tensors[left].shape[op.axis] or 0)
        for position, right in enumerate(op.operands[1:], start=2):
            width += int(graph.tensors[right].shape[op.axis] or 0)
            output = op.output
            if position < len(op.operands):
                shape = (*target.shape[: op.axis], width, *target.shape[op.axis + 1 :])
                output = graph.unused_name(f"{op.output}/first{position}")
                tensors[output] = dataclasses.replace(target, name=output, shape=shape)
            chain.append(dataclasses.replace(op, operands=(left, right), output=output))
            left = output
        changed = replaced(graph, (op,), chain, tensors)
        if all(context.fits(part, changed) for part in chain):
            return Rewritten(changed, op.sources)
    return None
