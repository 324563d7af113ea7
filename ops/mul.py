# SPDX-License-Identifier: Apache-2.0
"""MUL: product of the centred operands, requantized by a float32 factor. NumPy broadcasting.

Source:
    TFLite ``reference_integer_ops::MulElementwise``, mul.cc ``Prepare``. ONNX: QLinearMul.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from akida_backend import onnx_kernels
from akida_backend.arithmetic import (
    code_bounds,
    one_code_type,
    requantize,
    runs_in_codes,
    stored,
    through_reals,
)
from akida_backend.candidate import (
    CONVOLUTIONS,
    Candidate,
    LutActivation,
    LutFunction,
    Match,
    PlacementContext,
    join_lut,
)
from akida_backend.graph import (
    Activation,
    Add,
    AnyArray,
    Arithmetic,
    Graph,
    Logistic,
    Mul,
    Operation,
    Relu,
)
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec
from akida_backend.weighted import centred_weights


def reference(op: Mul, env: Environment) -> tuple[AnyArray, ...]:
    a, b, y = (env.tensor(name) for name in (op.a, op.b, op.output))
    in_codes, onnx = runs_in_codes(op, a, b, y), env.arithmetic is Arithmetic.ONNX
    if in_codes and onnx and one_code_type(a, b, y):
        codes = onnx_kernels.multiply(env.value(op.a), env.value(op.b), (a, b), y)
        return (np.clip(codes, *code_bounds(y, op.activation, env.arithmetic)),)
    if onnx or not in_codes:
        return (through_reals(env, (op.a, op.b), y, np.multiply, op.activation),)
    product = centred_weights(env.value(op.a), a) * centred_weights(env.value(op.b), b)
    assert a.quantization is not None
    assert b.quantization is not None
    assert y.quantization is not None
    factor = a.quantization.scale * b.quantization.scale / y.quantization.scale
    return (
        stored(requantize(product, factor.astype(np.float64), env.arithmetic), y, op.activation),
    )


def absorb(op: Mul, candidate: Candidate, context: PlacementContext) -> Match | None:
    """Look-up tables written out: x * sigmoid(x), x * relu6(x + 3) / 6, and a constant gain."""
    graph = context.graph
    if op.activation is not Activation.NONE:
        return None
    gain = scalar_constant(graph, op)
    if gain is not None and candidate.lut is not None and candidate.average is None:
        if graph.sole_consumer(candidate.output) is not op:
            return None
        return replace(
            candidate,
            operations=(*candidate.operations, op),
            output=op.output,
            lut=replace(candidate.lut, gain=candidate.lut.gain * gain),
        )
    x = candidate.output
    if x not in (op.a, op.b) or x in graph.outputs:
        return None
    other = op.b if op.a == x else op.a
    gate = _gate(graph, x, other)
    if gate is None:
        return None
    function, members, gain = gate
    if set(graph.consumers[x]) != {members[0], op} or any(
        graph.sole_consumer(member.outputs[0]) is None for member in members
    ):
        return None
    lut = LutActivation(function, x, gain=gain)
    return join_lut(candidate, (*members, op), lut, context)


def _gate(
    graph: Graph, x: str, gate: str
) -> tuple[LutFunction, tuple[Operation, ...], float] | None:
    """The operations from `x` to the factor `gate` where they make a known function."""
    producer = graph.producers.get(gate)
    if isinstance(producer, Logistic) and producer.input == x:
        return LutFunction.SWISH, (producer,), 1.0
    gain = 6.0
    behind: tuple[Operation, ...] = ()
    if isinstance(producer, Mul):
        factor = scalar_constant(graph, producer)
        if factor is None or producer.activation is not Activation.NONE:
            return None
        gain *= factor
        behind = (producer,)
        producer = graph.producers.get(graph.activations_of(producer)[0])
    if isinstance(producer, Relu) and producer.bound is Activation.RELU6:
        behind = (producer, *behind)
        producer = graph.producers.get(producer.input)
        bounded = True
    else:
        bounded = isinstance(producer, Add) and producer.activation is Activation.RELU6
    if not (bounded and isinstance(producer, Add) and x in producer.inputs):
        return None
    offset = scalar_constant(graph, producer)
    if offset is None or abs(offset - 3.0) > 0.02:
        return None
    return LutFunction.HARD_SWISH, (producer, *behind), gain


def scalar_constant(graph: Graph, op: Mul | Add) -> float | None:
    """Real value of the operation's one-element constant operand, if it has one."""
    for name in (op.a, op.b):
        tensor = graph.tensors[name]
        if tensor.data is not None and tensor.data.size == 1 and tensor.quantization is not None:
            stored = float(tensor.data.reshape(-1)[0])
            quantization = tensor.quantization
            return quantization.single_scale * (stored - quantization.single_zero_point)
    return None


SPEC: Final = OpSpec(
    op_type=Mul,
    reference=reference,
    absorb=absorb,
    layers=CONVOLUTIONS,
    placement="In a written-out (hard) swish a look-up table; by constants a depthwise layer.",
)
