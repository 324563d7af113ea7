# SPDX-License-Identifier: Apache-2.0
"""PACK: operands stacked on a new axis."""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.graph import AnyArray, Pack
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: Pack, env: Environment) -> tuple[AnyArray, ...]:
    parts = [env.value(name) for name in op.operands]
    if op.axis != 0:
        samples = max(len(part) for part in parts)  # a constant has one for all
        parts = [np.broadcast_to(part, (samples, *part.shape[1:])) for part in parts]
    return (np.stack(parts, axis=op.axis),)


SPEC: Final = OpSpec(op_type=Pack, reference=reference)
