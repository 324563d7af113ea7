# SPDX-License-Identifier: Apache-2.0
"""CAST: stored values in another type, floats cut towards zero."""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.graph import AnyArray, Cast
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: Cast, env: Environment) -> tuple[AnyArray, ...]:
    with np.errstate(all="ignore"):  # kernels overflow without a word
        return (env.value(op.input).astype(env.tensor(op.output).dtype.numpy),)


SPEC: Final = OpSpec(op_type=Cast, reference=reference)
