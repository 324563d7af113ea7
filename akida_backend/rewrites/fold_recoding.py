# SPDX-License-Identifier: Apache-2.0
"""Quantize between int8 and uint8 of one scale, then a layer -> the layer on the first. Exact.

Precondition: both tensors stand for the same reals and differ in the offset of their integers
only, the host holds the first, and all readers of the second multiply by weights.
"""

from __future__ import annotations

import dataclasses

from akida_backend.graph import Conv2D, DepthwiseConv2D, FullyConnected, Operation, Quantize
from akida_backend.ops.quantize import same_reals
from akida_backend.rewrites.rewriting import RewriteContext, Rewritten, replaced

EFFECT = "A QUANTIZE between int8 and uint8 of one scale becomes re-coding at the boundary."


def apply(context: RewriteContext) -> Rewritten | None:
    graph = context.graph
    for op in context.stranded(Quantize):
        readers = graph.consumers[op.output]
        if op.output in graph.outputs or not readers:
            continue
        if not same_reals(graph.tensors[op.input], graph.tensors[op.output]):
            continue
        moved: list[Operation] = []
        for reader in readers:
            if not isinstance(reader, Conv2D | DepthwiseConv2D | FullyConnected):
                break
            sources = tuple(sorted({*op.sources, *reader.sources}))
            moved.append(dataclasses.replace(reader, input=op.input, sources=sources))
        if len(moved) < len(readers) or any(context.is_refused(reader) for reader in readers):
            continue
        changed = graph
        for old, new in zip(readers, moved, strict=True):
            changed = replaced(changed, (old,), (new,))
        changed = replaced(changed, (op,), ())
        if all(context.fits(new, changed) for new in moved):
            return Rewritten(changed, tuple(sorted({i for new in moved for i in new.sources})))
    return None
