# SPDX-License-Identifier: Apache-2.0
"""MAX_POOL_2D: largest stored value of each window, then the fused clamp; no requantization.

Source:
    TFLite ``reference_integer_ops::MaxPool``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from akida_backend.arithmetic import (
    CODE_TYPES,
    clamp,
    code_bounds,
    padded,
    recoded,
    runs_in_codes,
    same_codes,
    window_reduce,
)
from akida_backend.candidate import (
    POOLING_LAYERS,
    Candidate,
    Match,
    PlacementContext,
    device_size,
    intersect,
)
from akida_backend.graph import NO_PADS, AnyArray, MaxPool2D
from akida_backend.program import same_pads
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec, only_joins


def reference(op: MaxPool2D, env: Environment) -> tuple[AnyArray, ...]:
    source, output = env.tensor(op.input), env.tensor(op.output)
    x = env.value(op.input)
    if same_codes(source, output) and not output.is_quantized and output.dtype in CODE_TYPES:
        bare = padded(x, op.pads, output.dtype.code_range[0])  # 8-bit numbers without a scale
        return (clamp(window_reduce(np.maximum, bare, op.window, op.stride), op.activation),)
    in_codes = runs_in_codes(op, source, output)
    lowest = output.dtype.code_range[0] if in_codes else -np.inf
    largest = window_reduce(np.maximum, padded(x, op.pads, lowest), op.window, op.stride)
    if in_codes:
        codes = recoded(largest, source, output, env.arithmetic)
        return (np.clip(codes, *code_bounds(output, op.activation, env.arithmetic)),)
    return (clamp(largest, op.activation),)


def absorb(op: MaxPool2D, candidate: Candidate, context: PlacementContext) -> Match | None:
    """Max pooling of accumulators: a clamp in front of it commutes, both are monotone."""
    graph = context.graph
    if graph.sole_consumer(candidate.output) is not op:
        return None
    if (
        candidate.layer not in POOLING_LAYERS
        or candidate.pool is not None
        or candidate.average is not None
    ):
        return only_joins(op, context)
    size = device_size(graph.tensors[op.input])
    same = same_pads(size, op.window, op.stride)
    if op.pads == same and candidate.facts.padding == "same":
        pool_pads = "same_on_conv_output"
    elif op.pads == NO_PADS and candidate.facts.padding == "valid":
        pool_pads = "zero"
    else:
        pool_pads = "other"
    facts = replace(
        candidate.facts,
        pool_type="max",
        pool_size=op.window,
        pool_stride=op.stride,
        pool_pads=pool_pads,
    )
    return replace(
        candidate,
        facts=facts,
        operations=(*candidate.operations, op),
        output=op.output,
        clamp=intersect(candidate.clamp, op.activation),
        pool=op,
    )


SPEC: Final = OpSpec(
    op_type=MaxPool2D,
    reference=reference,
    candidate=only_joins,
    absorb=absorb,
    layers=POOLING_LAYERS,
    placement="Max pooling of the convolution in front, or of an identity convolution.",
)
