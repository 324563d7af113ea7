# SPDX-License-Identifier: Apache-2.0
"""SPLIT and SPLIT_V: consecutive parts along one axis."""

from __future__ import annotations

from itertools import accumulate
from typing import Final

import numpy as np

from akida_backend.graph import AnyArray, Split
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: Split, env: Environment) -> tuple[AnyArray, ...]:
    borders = list(accumulate(op.sizes))[:-1]
    parts = np.split(env.value(op.input), borders, axis=op.axis)
    return tuple(np.ascontiguousarray(part) for part in parts)


SPEC: Final = OpSpec(op_type=Split, reference=reference)
