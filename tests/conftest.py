# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Not one conftest.py per folder: mypy knows modules by their names.
pytest_plugins = ("engine_fixtures", "provider_fixtures", "delegate_fixtures")

# A busy machine is not a slow test.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

# Some shells set it, and so do workers of pytest-xdist; reports would fit themselves to it.
os.environ.pop("COLUMNS", None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real models and labelled data, which only some machines have."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("AKIDA_BACKEND_SHARED", beside))
    if not (folder / "models").is_dir():
        pytest.skip("no folder of real models (set AKIDA_BACKEND_SHARED)")
    return folder
