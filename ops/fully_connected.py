# SPDX-License-Identifier: Apache-2.0
"""FULLY_CONNECTED: rows of the input times OI weights, bias, fused activation.

LiteRT rounds ``accumulator * scale`` once, in float64, ties away from zero; tflite-runtime 2.14
requantizes with double rounding like all other operations, by a factor whose product of scales
is formed in float32.

Source:
    TFLite ``reference_integer_ops::FullyConnected`` and ``FullyConnectedPerChannel``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from akida_backend.arithmetic import LARGEST_STEPS, Reals, requantize
from akida_backend.candidate import (
    LEVEL_BITS,
    Candidate,
    Match,
    PlacementContext,
    activation_bits,
    activation_fact,
    constant_parameters,
    device_shape,
    is_akida1,
    staircase_fact,
    weight_bits,
    wide_input,
    widest_weights,
)
from akida_backend.constraints import LayerFacts, LayerType
from akida_backend.fixed_point import Integers, round_half_away
from akida_backend.graph import AnyArray, Arithmetic, FullyConnected, Graph, Size2D
from akida_backend.lowering import (
    Lowered,
    LoweringContext,
    filter_bank,
    filter_parameters,
    output_offset,
)
from akida_backend.parameters import Refusal
from akida_backend.program import ACCUMULATOR_BITS_INNER
from akida_backend.program import Dense1D as Dense1DLayer
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec
from akida_backend.weighted import weighted_sum


def reference(op: FullyConnected, env: Environment) -> tuple[AnyArray, ...]:
    weights = env.value(op.weights)
    out_features, in_features = weights.shape
    x = env.value(op.input)
    rows = x.reshape(-1, in_features)
    y = weighted_sum(
        op,
        env,
        rows,
        lambda values, matrix: values @ matrix.T,
        channel_axis=0,
        temporary_values=max(in_features, out_features),
        requantize=requantize_dense,
        precision=np.float64 if env.arithmetic is Arithmetic.TFLITE else np.float32,
    )
    return (y.reshape(env.sized(op.output, x)),)


def requantize_dense(accumulator: Integers, factor: Reals, arithmetic: Arithmetic) -> Integers:
    """Accumulators as output steps by the rule of TFLite's dense kernels, one rounding."""
    if arithmetic is Arithmetic.TFLITE:
        steps = np.clip(accumulator * factor, -LARGEST_STEPS, LARGEST_STEPS)
        return round_half_away(steps).astype(np.int64)
    return requantize(accumulator, factor, arithmetic)


def macs(op: FullyConnected, graph: Graph) -> int:
    _, in_features = graph.tensors[op.weights].shape
    return graph.tensors[op.output].values_per_sample * (in_features or 0)


def candidate(op: FullyConnected, context: PlacementContext) -> Match:
    """Dense1D over the flattened input; several rows per sample show as a map of that width.

    FullyConnected on Akida 1.0.
    """
    fixed = constant_parameters(op, context)
    if fixed:
        return fixed
    graph = context.graph
    units, depth = (int(d or 0) for d in graph.tensors[op.weights].shape)
    height, width, channels = device_shape(graph.tensors[op.input])
    rows = height * width * channels // max(depth, 1)
    facts = LayerFacts(
        layer=LayerType.DENSE1D,
        input_size=Size2D(1, rows),
        input_channels=depth,
        filters=units,
        pool_type="none",
        activation=activation_fact(op.activation.real_range),
        input_bits=activation_bits(graph.tensors[op.input]),
        weights_bits=weight_bits(graph.tensors[op.weights]),
        output_bits=8,
    )
    if is_akida1(context):
        too_wide = wide_input(op.input, context)
        if too_wide:
            return too_wide
        facts = replace(
            facts,
            layer=LayerType.FULLY_CONNECTED,
            activation=staircase_fact(op.activation.real_range, graph.tensors[op.output]),
            input_bits=LEVEL_BITS,
            weights_bits=widest_weights(LayerType.FULLY_CONNECTED, context.device),
            output_bits=LEVEL_BITS,
        )
    return Candidate(
        facts=facts,
        operations=(op,),
        inputs=(op.input,),
        output=op.output,
        clamp=op.activation.real_range,
    )


def lower(candidate: Candidate, context: LoweringContext) -> Lowered | Refusal:
    """Dense1D; as the last layer of a segment it gives its int32 accumulators."""
    op = candidate.base
    assert isinstance(op, FullyConnected)
    bank = filter_bank(op, context.graph)
    result = filter_parameters(bank, candidate, context, buffer_bits=ACCUMULATOR_BITS_INNER)
    if isinstance(result, Refusal):
        return result
    parameters, input_shift = result
    wide = context.codes[candidate.output].bits == 32
    layer = Dense1DLayer(
        name=op.location.name,
        inputs=candidate.inputs,
        output=candidate.output,
        weights=parameters.weights,
        weights_bits=bank.bits,
        bias=parameters.bias,
        activation=parameters.activation,
        rescale=parameters.rescale,
        output_bits=32 if wide else 8,
        input_shift=None if input_shift is None else input_shift.astype(np.uint8),
    )
    scale = parameters.accumulator_scale if wide else None
    offset = output_offset(parameters, candidate, context.graph)
    return Lowered(layer, output_scale=scale, change=parameters.change, offset=offset)


SPEC: Final = OpSpec(
    op_type=FullyConnected,
    reference=reference,
    macs=macs,
    candidate=candidate,
    lower=lower,
    layers=(LayerType.DENSE1D, LayerType.FULLY_CONNECTED),
    placement="Dense1D with the flattening in front; last in a segment it gives int32.",
)
