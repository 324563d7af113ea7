# SPDX-License-Identifier: Apache-2.0
"""TANH: hyperbolic tangent, codes through a table of 256 entries filled in float32.

Source:
    TFLite ``LUTPopulate``, kernels/internal/common.h; activations.cc ``TanhPrepare``.
    ONNX: the float32 approximation of MLAS.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend import onnx_kernels
from akida_backend.arithmetic import float_table, runs_in_codes, through_reals
from akida_backend.graph import AnyArray, Arithmetic, Tanh
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: Tanh, env: Environment) -> tuple[AnyArray, ...]:
    x, y = env.tensor(op.input), env.tensor(op.output)
    onnx = env.arithmetic is Arithmetic.ONNX
    if runs_in_codes(op, x, y) and not onnx:
        return (float_table(env.value(op.input), x, y, _tanh),)
    return (through_reals(env, (op.input,), y, onnx_kernels.tanh if onnx else _tanh),)


def _tanh(values: AnyArray) -> AnyArray:
    """Rounded to float32 once, as a good C library does."""
    return (np.tanh(values.astype(np.float64))).astype(np.float32)


SPEC: Final = OpSpec(op_type=Tanh, reference=reference)
