# SPDX-License-Identifier: Apache-2.0
"""PAD and PADV2: a constant border, by default real zero.

Source:
    TFLite ``reference_ops::Pad``.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.graph import AnyArray, Pad
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: Pad, env: Environment) -> tuple[AnyArray, ...]:
    value = op.value
    if value is None:
        quantization = env.tensor(op.input).quantization
        value = 0 if quantization is None else quantization.single_zero_point
    return (np.pad(env.value(op.input), op.amounts, constant_values=value),)


SPEC: Final = OpSpec(op_type=Pad, reference=reference)
