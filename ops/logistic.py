# SPDX-License-Identifier: Apache-2.0
"""LOGISTIC: 1 / (1 + exp(-x)), codes through a table of 256 entries filled in float32.

Source:
    TFLite ``LUTPopulate``, kernels/internal/common.h; activations.cc ``SigmoidPrepare``.
    ONNX: the float32 approximation of MLAS.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend import onnx_kernels
from akida_backend.arithmetic import float_table, runs_in_codes, through_reals
from akida_backend.candidate import (
    CONVOLUTIONS,
    Candidate,
    LutActivation,
    LutFunction,
    Match,
    PlacementContext,
    join_lut,
)
from akida_backend.graph import AnyArray, Arithmetic, Logistic
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec, only_joins


def reference(op: Logistic, env: Environment) -> tuple[AnyArray, ...]:
    x, y = env.tensor(op.input), env.tensor(op.output)
    onnx = env.arithmetic is Arithmetic.ONNX
    if runs_in_codes(op, x, y) and not onnx:
        return (float_table(env.value(op.input), x, y, _logistic),)
    return (through_reals(env, (op.input,), y, onnx_kernels.logistic if onnx else _logistic),)


def _logistic(values: AnyArray) -> AnyArray:
    """Rounded to float32 once, as a good C library does."""
    with np.errstate(over="ignore"):  # exp of a large -x is infinite and its share zero
        return (1.0 / (1.0 + np.exp(-values.astype(np.float64)))).astype(np.float32)


def absorb(op: Logistic, candidate: Candidate, context: PlacementContext) -> Match | None:
    """A look-up table of the layer in front."""
    if context.graph.sole_consumer(candidate.output) is not op:
        return None
    lut = LutActivation(LutFunction.LOGISTIC, op.input)
    return join_lut(candidate, (op,), lut, context)


SPEC: Final = OpSpec(
    op_type=Logistic,
    reference=reference,
    candidate=only_joins,
    absorb=absorb,
    layers=CONVOLUTIONS,
    placement="A look-up table of the convolution in front.",
)
