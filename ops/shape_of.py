# SPDX-License-Identifier: Apache-2.0
"""SHAPE: the input's shape as integers."""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.graph import AnyArray, ShapeOf
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: ShapeOf, env: Environment) -> tuple[AnyArray, ...]:
    return (np.array(env.value(op.input).shape, env.tensor(op.output).dtype.numpy),)


SPEC: Final = OpSpec(op_type=ShapeOf, reference=reference)
