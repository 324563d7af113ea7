# SPDX-License-Identifier: Apache-2.0
"""RELU, RELU6, RELU_N1_TO_1 as operations of their own: requantize, then clamp.

Source:
    TFLite ``QuantizedReluX``, activations.cc: the multiplier is formed in float32.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from akida_backend.arithmetic import requantize, runs_in_codes, stored, table_lookup, through_reals
from akida_backend.candidate import (
    POOLING_LAYERS,
    Candidate,
    Match,
    PlacementContext,
    activation_fact,
    intersect,
    is_akida1,
    staircase_fact,
)
from akida_backend.constraints import LayerType
from akida_backend.fixed_point import Integers
from akida_backend.graph import AnyArray, Arithmetic, Relu
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec, only_joins


def reference(op: Relu, env: Environment) -> tuple[AnyArray, ...]:
    x, y = env.tensor(op.input), env.tensor(op.output)
    if not runs_in_codes(op, x, y) or env.arithmetic is Arithmetic.ONNX:
        return (through_reals(env, (op.input,), y, lambda values: values, op.bound),)
    assert x.quantization is not None
    assert y.quantization is not None
    zero = x.quantization.single_zero_point
    factor = (x.quantization.scale / y.quantization.scale).astype(np.float64)

    def relu(codes: Integers) -> AnyArray:
        return stored(requantize(codes - zero, factor, env.arithmetic), y, op.bound)

    return (table_lookup(env.value(op.input), x, relu),)


def absorb(op: Relu, candidate: Candidate, context: PlacementContext) -> Match | None:
    """The clamp of the layer in front, bounded where the operation is."""
    if context.graph.sole_consumer(candidate.output) is not op:
        return None
    if (
        candidate.lut is not None
        or (candidate.average is not None and not is_akida1(context))
        or candidate.layer is LayerType.CONCATENATE
        or (candidate.layer is LayerType.ADD and context.options.strict_hardware)
    ):
        return only_joins(op, context)
    clamp = intersect(candidate.clamp, op.bound)
    fact = activation_fact(clamp)
    if is_akida1(context):
        fact = staircase_fact(clamp, context.tensor(op.output))
    return replace(
        candidate,
        facts=replace(candidate.facts, activation=fact),
        operations=(*candidate.operations, op),
        output=op.output,
        clamp=clamp,
    )


SPEC: Final = OpSpec(
    op_type=Relu,
    reference=reference,
    candidate=only_joins,
    absorb=absorb,
    layers=POOLING_LAYERS,
    placement="The activation of the layer in front, bounded where it is.",
)
