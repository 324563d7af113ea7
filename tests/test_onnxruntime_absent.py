# SPDX-License-Identifier: Apache-2.0
"""The provider's module where onnxruntime, or the library, is missing."""

from __future__ import annotations

import importlib
from types import ModuleType, SimpleNamespace

import pytest

from akida_backend import onnxruntime as provider
from akida_backend.engine import EngineStatus
from akida_backend.errors import EngineError, UnsupportedOperationError


def without_onnxruntime(name: str) -> ModuleType:
    raise ModuleNotFoundError(f"No module named '{name}'")


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, "import_module", without_onnxruntime)
    for call in (provider.register, lambda: provider.create_session(b"")):
        with pytest.raises(UnsupportedOperationError, match="its extra 'onnxruntime'"):
            call()
    assert provider.provider_status().problem == "onnxruntime is not installed"


def test_says_that_onnxruntime_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(__version__="1.22.1")
    monkeypatch.setattr(importlib, "import_module", lambda _: old)
    with pytest.raises(EngineError, match=r"1\.22\.1 cannot load.*\n.*1\.23 or newer"):
        provider.register()


def test_says_that_the_library_was_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = EngineStatus(None, None, None, {}, "it was not built")
    monkeypatch.setattr(provider, "engine_status", lambda: missing)
    with pytest.raises(EngineError, match="no execution provider: it was not built"):
        provider.library_path()
