# SPDX-License-Identifier: Apache-2.0
"""ARG_MAX: index of the first largest stored value."""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.graph import AnyArray, ArgMax
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: ArgMax, env: Environment) -> tuple[AnyArray, ...]:
    index = np.argmax(env.value(op.input), axis=op.axis)
    return (np.asarray(index, env.tensor(op.output).dtype.numpy),)


SPEC: Final = OpSpec(op_type=ArgMax, reference=reference)
