# SPDX-License-Identifier: Apache-2.0
"""STRIDED_SLICE: a Python slice on every axis."""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.graph import AnyArray, StridedSlice
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: StridedSlice, env: Environment) -> tuple[AnyArray, ...]:
    bounds = zip(op.begin, op.end, op.step, strict=True)
    part = env.value(op.input)[tuple(slice(*bound) for bound in bounds)]
    return (np.ascontiguousarray(np.squeeze(part, axis=op.drop_axes)),)


SPEC: Final = OpSpec(op_type=StridedSlice, reference=reference)
