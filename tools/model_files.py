# SPDX-License-Identifier: Apache-2.0
"""The models that a tool's command line names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def model_files(given: Sequence[Path], suffix: str) -> list[Path]:
    """The files, and those with the suffix in the folders.

    Raises:
        SystemExit: One does not exist.
    """
    refuse_missing(given)
    found = [f for p in given for f in (sorted(p.rglob(f"*{suffix}")) if p.is_dir() else [p])]
    return list(dict.fromkeys(found))


def refuse_missing(given: Sequence[Path]) -> None:
    """Leave, before any work, where a path leads nowhere.

    Raises:
        SystemExit: One does.
    """
    missing = [str(path) for path in given if not path.exists()]
    if missing:
        sys.exit(f"no such file or folder: {', '.join(missing)}")
