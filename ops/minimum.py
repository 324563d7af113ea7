# SPDX-License-Identifier: Apache-2.0
"""MINIMUM: the smaller of two stored values. NumPy broadcasting.

Codes are compared as they are, so both operands and the output share one scale; in ONNX, where
each may have its own, their reals are.

Source:
    TFLite ``reference_ops::MaximumMinimumBroadcastSlow``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from akida_backend.arithmetic import same_codes, through_reals
from akida_backend.candidate import (
    AKIDA1_CONVOLUTIONS,
    Candidate,
    Match,
    PlacementContext,
    is_akida1,
)
from akida_backend.graph import AnyArray, Arithmetic, Minimum
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: Minimum, env: Environment) -> tuple[AnyArray, ...]:
    if env.arithmetic is Arithmetic.ONNX:
        return (through_reals(env, (op.a, op.b), env.tensor(op.output), np.minimum),)
    return (np.minimum(env.value(op.a), env.value(op.b)),)


def absorb(op: Minimum, candidate: Candidate, context: PlacementContext) -> Match | None:
    """A constant bound of Akida 1.0 activations: codes of fewer bits than their type has."""
    tensors = [context.tensor(name) for name in (op.a, op.b, op.output)]
    bounds = [tensor for tensor in tensors[:2] if tensor.data is not None]
    if (
        not is_akida1(context)
        or context.graph.sole_consumer(candidate.output) is not op
        or len(bounds) != 1
        or bounds[0].values_per_sample != 1
        or not all(same_codes(tensors[2], tensor) for tensor in tensors)
    ):
        return None
    (bounded,) = bounds
    assert bounded.data is not None
    quantization = bounded.quantization
    assert quantization is not None
    bound = (int(bounded.data.item()) - quantization.single_zero_point) * quantization.single_scale
    low, high = candidate.clamp
    if bound < max(low, 0.0):
        return None
    return replace(
        candidate,
        operations=(*candidate.operations, op),
        output=op.output,
        clamp=(low, min(high, bound)),
    )


SPEC: Final = OpSpec(
    op_type=Minimum,
    reference=reference,
    absorb=absorb,
    layers=AKIDA1_CONVOLUTIONS,
    placement="On Akida 1.0 the highest code of the layer in front, where it is a constant.",
)
