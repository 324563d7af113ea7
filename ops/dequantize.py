# SPDX-License-Identifier: Apache-2.0
"""DEQUANTIZE: codes (or float16) to float32.

Source:
    TFLite ``reference_ops::Dequantize``.
"""

from __future__ import annotations

from typing import Final

from akida_backend.arithmetic import dequantized
from akida_backend.graph import AnyArray, Dequantize
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: Dequantize, env: Environment) -> tuple[AnyArray, ...]:
    return (dequantized(env.value(op.input), env.tensor(op.input)),)


SPEC: Final = OpSpec(op_type=Dequantize, reference=reference)
