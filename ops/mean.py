# SPDX-License-Identifier: Apache-2.0
"""MEAN: sum over axes, requantized by a multiplier that holds the division by the count.

Source:
    TFLite ``reference_ops::QuantizedMeanOrSum``, reduce.h. ONNX: QLinearGlobalAveragePool for
    the mean of maps; ReduceMean, its other spelling, has only a float kernel.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend import onnx_kernels
from akida_backend.arithmetic import one_code_type, runs_in_codes, stored, through_reals
from akida_backend.candidate import POOLING_LAYERS, Candidate, Match, PlacementContext
from akida_backend.constraints import graph_violation
from akida_backend.fixed_point import multiply_by_quantized_multiplier, quantize_multiplier
from akida_backend.graph import Activation, AnyArray, Arithmetic, Graph, Mean
from akida_backend.ops.average_pool2d import join_global_average
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec, only_joins

_MAP_RANK: Final = 4
_MAP_AXES: Final = (1, 2)


def reference(op: Mean, env: Environment) -> tuple[AnyArray, ...]:
    x, y = env.tensor(op.input), env.tensor(op.output)
    if runs_in_codes(op, x, y):
        if env.arithmetic is not Arithmetic.ONNX:
            return (_mean_of_codes(op, env),)
        if one_code_type(x, y) and op.axes == _MAP_AXES and len(x.shape) == _MAP_RANK:
            values = env.value(op.input)
            codes = onnx_kernels.global_average(values, x, y, op.axes)
            return (codes if op.keep_dims else np.squeeze(codes, op.axes),)

    def mean(values: AnyArray) -> AnyArray:
        if values.dtype.kind == "f":
            reals = values.astype(np.float32)
            return np.asarray(np.mean(reals, axis=op.axes, keepdims=op.keep_dims))
        total = np.asarray(np.sum(values, axis=op.axes, keepdims=op.keep_dims, dtype=np.int64))
        return np.asarray(np.sign(total) * (np.abs(total) // _count(values, op.axes)))

    return (through_reals(env, (op.input,), y, mean),)


def _mean_of_codes(op: Mean, env: Environment) -> AnyArray:
    x, y = env.tensor(op.input), env.tensor(op.output)
    assert x.quantization is not None
    assert y.quantization is not None
    values = env.value(op.input)
    count = _count(values, op.axes)
    total = np.asarray(np.sum(values, axis=op.axes, keepdims=op.keep_dims, dtype=np.int64))
    total -= x.quantization.single_zero_point * count
    ratio = x.quantization.single_scale / y.quantization.single_scale
    multiplier, shift = (int(part) for part in quantize_multiplier(ratio))
    room = min(count.bit_length() - 1, 32, 31 + shift)
    mean = multiply_by_quantized_multiplier(total, (multiplier << room) // count, shift - room)
    return stored(mean, y, Activation.NONE)


def _count(values: AnyArray, axes: tuple[int, ...]) -> int:
    return int(np.prod([values.shape[axis] for axis in axes], dtype=np.int64))


def absorb(op: Mean, candidate: Candidate, context: PlacementContext) -> Match | None:
    """Global average pooling when the mean runs over height and width."""
    if not is_global_average(op, context.graph):
        return candidate_reasons(op, context)
    return join_global_average(op, candidate, context)


def is_global_average(op: Mean, graph: Graph) -> bool:
    return len(graph.tensors[op.input].shape) == 4 and op.axes == (1, 2)


def candidate(op: Mean, context: PlacementContext) -> Match:
    """Never a layer of its own."""
    return candidate_reasons(op, context)


def candidate_reasons(op: Mean, context: PlacementContext) -> Match:
    if is_global_average(op, context.graph):
        return only_joins(op, context)
    found = f"a mean over axes {op.axes}"
    return (graph_violation("OP-LOCAL-AVERAGE", found, context.device),)


SPEC: Final = OpSpec(
    op_type=Mean,
    reference=reference,
    candidate=candidate,
    absorb=absorb,
    layers=POOLING_LAYERS,
    placement="Over height and width: as global average pooling.",
)
