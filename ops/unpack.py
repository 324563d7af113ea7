# SPDX-License-Identifier: Apache-2.0
"""UNPACK: slices along one axis, which disappears."""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.graph import AnyArray, Unpack
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: Unpack, env: Environment) -> tuple[AnyArray, ...]:
    slices = np.moveaxis(env.value(op.input), op.axis, 0)
    return tuple(np.ascontiguousarray(part) for part in slices)


SPEC: Final = OpSpec(op_type=Unpack, reference=reference)
