# SPDX-License-Identifier: Apache-2.0
"""MAXIMUM: the larger of two stored values. NumPy broadcasting.

Codes are compared as they are, so both operands and the output share one scale; in ONNX, where
each may have its own, their reals are.

Source:
    TFLite ``reference_ops::MaximumMinimumBroadcastSlow``.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.arithmetic import through_reals
from akida_backend.graph import AnyArray, Arithmetic, Maximum
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: Maximum, env: Environment) -> tuple[AnyArray, ...]:
    if env.arithmetic is Arithmetic.ONNX:
        return (through_reals(env, (op.a, op.b), env.tensor(op.output), np.maximum),)
    return (np.maximum(env.value(op.a), env.value(op.b)),)


SPEC: Final = OpSpec(op_type=Maximum, reference=reference)
