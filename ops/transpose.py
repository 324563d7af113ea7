# SPDX-License-Identifier: Apache-2.0
"""TRANSPOSE: axes permuted."""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.graph import AnyArray, Transpose
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: Transpose, env: Environment) -> tuple[AnyArray, ...]:
    return (np.ascontiguousarray(env.value(op.input).transpose(op.permutation)),)


SPEC: Final = OpSpec(op_type=Transpose, reference=reference)
