# SPDX-License-Identifier: Apache-2.0
"""MINIMUM: the smaller of two stored values. NumPy broadcasting.

Codes are compared as they are, so both operands and the output share one scale; in ONNX, where
each may have its own, their reals are.

Source:
    TFLite ``reference_ops::MaximumMinimumBroadcastSlow``.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.arithmetic import through_reals
from akida_backend.graph import AnyArray, Arithmetic, Minimum
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: Minimum, env: Environment) -> tuple[AnyArray, ...]:
    if env.arithmetic is Arithmetic.ONNX:
        return (through_reals(env, (op.a, op.b), env.tensor(op.output), np.minimum),)
    return (np.minimum(env.value(op.a), env.value(op.b)),)


SPEC: Final = OpSpec(op_type=Minimum, reference=reference)
