# SPDX-License-Identifier: Apache-2.0
"""SUB: as ADD, with the second operand subtracted.

Source:
    TFLite ``reference_ops::SubElementwise``, sub.cc ``PrepareGeneralSubOp``.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.arithmetic import runs_in_codes, through_reals
from akida_backend.graph import AnyArray, Arithmetic, Sub
from akida_backend.ops._sum import quantized_sum
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: Sub, env: Environment) -> tuple[AnyArray, ...]:
    a, b, y = (env.tensor(name) for name in (op.a, op.b, op.output))
    if runs_in_codes(op, a, b, y) and env.arithmetic is not Arithmetic.ONNX:
        return (quantized_sum(op, env, sign_of_b=-1),)
    return (through_reals(env, (op.a, op.b), y, np.subtract, op.activation),)


SPEC: Final = OpSpec(op_type=Sub, reference=reference)
