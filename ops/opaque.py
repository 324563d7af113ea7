# SPDX-License-Identifier: Apache-2.0
"""Operators without meaning here: kept, reported, and left to an installed runtime."""

from __future__ import annotations

from typing import Final

from akida_backend.graph import Opaque
from akida_backend.spec import OpSpec

SPEC: Final = OpSpec(op_type=Opaque, reference=None)
