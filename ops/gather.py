# SPDX-License-Identifier: Apache-2.0
"""GATHER: slices picked by index along one axis."""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.errors import InputError
from akida_backend.graph import AnyArray, Gather
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec


def reference(op: Gather, env: Environment) -> tuple[AnyArray, ...]:
    """Negative indices are out of range, as in the runtime.

    Raises:
        InputError: An index lies outside the axis.
    """
    x, indices = env.value(op.input), env.value(op.indices).astype(np.int64)
    length = x.shape[op.axis]
    if indices.size and not 0 <= indices.min() <= indices.max() < length:
        raise InputError(
            f"{op.location}: index {indices.min() if indices.min() < 0 else indices.max()} "
            f"picks from an axis of {length}\n  Feed indices in [0, {length - 1}]."
        )
    return (np.take(x, indices, axis=op.axis),)


SPEC: Final = OpSpec(op_type=Gather, reference=reference)
