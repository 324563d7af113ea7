# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import akida_backend

ROOT = Path(akida_backend.__file__).parents[1]


def in_new_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.strip()


def test_every_public_name_exists() -> None:
    for name in akida_backend.__all__:
        assert getattr(akida_backend, name) is not None
    assert set(akida_backend.__all__) <= set(dir(akida_backend))


def test_importing_loads_nothing_heavy() -> None:
    loaded = in_new_python(
        "import sys, akida_backend; print(*sorted(m for m in sys.modules if m.partition('.')[0] in "
        "{'numpy', 'rich', 'onnx', 'tflite', 'flatbuffers', 'ai_edge_litert', 'onnxruntime'}))"
    )
    assert loaded == ""


def test_functions_win_over_submodules_of_their_name() -> None:
    shown = in_new_python(
        "import akida_backend.devices, akida_backend.compare, akida_backend as ab; "
        "print(callable(ab.devices), callable(ab.compare), ab.devices()[0].name)"
    )
    assert shown == "True True akida2"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = akida_backend.nothing


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert akida_backend.__version__ in (project["version"], "0+checkout")
