# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import tomllib
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

import akida_backend
from akida_backend import device_engine, doctor, document
from akida_backend.cli import main
from akida_backend.doctor import PACKAGES, diagnose, diagnosis_document
from akida_backend.engine import NOT_BUILT, EngineStatus


def only_with(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Make every other package look as if it were not installed."""
    find = importlib.util.find_spec

    def limited(name: str, package: str | None = None) -> ModuleSpec | None:
        known = {package.module for package in PACKAGES}
        return find("numpy") if name in modules else None if name in known else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", limited)


LIBRARY = Path("/somewhere/libakida_backend.so")
SETS = {"avx512vnni": "this processor does not have it", "avx2": None, "baseline": None}


def with_engine(monkeypatch: pytest.MonkeyPatch, status: EngineStatus) -> None:
    for module in (doctor, device_engine):
        monkeypatch.setattr(module, "engine_status", lambda: status)


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    with_engine(monkeypatch, EngineStatus(LIBRARY, "0.1.0", "avx2", SETS, None))


def test_shows_the_native_engine_and_its_instruction_sets() -> None:
    diagnosis = diagnose()
    assert diagnosis["simulator"] == "native engine, avx2"
    assert diagnosis["engine"]["library"] == str(LIBRARY)
    assert diagnosis["engine"]["instruction_sets"] == [
        {"name": name, "problem": problem} for name, problem in SETS.items()
    ]
    text = document.text(diagnosis_document(diagnosis))
    assert "avx512vnni (no: this processor does not have it), avx2, baseline; used: avx2" in text


def test_an_installation_without_the_native_engine_says_what_that_costs_and_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_engine(monkeypatch, EngineStatus(None, None, None, {}, NOT_BUILT))
    diagnosis = diagnose()
    assert diagnosis["simulator"] == "numpy reference"
    (problem,) = diagnosis["problems"]
    assert "no execution provider, no delegate" in problem
    assert "Install a C++17 compiler" in problem
    text = " ".join(document.text(diagnosis_document(diagnosis)).split())
    assert f"Native engine: none, {NOT_BUILT}; the numpy reference gives" in text


def test_an_engine_that_was_asked_for_and_is_not_used_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "AKIDA_BACKEND_ISA=avx512vnni is not used, but avx2: no"
    with_engine(monkeypatch, EngineStatus(LIBRARY, "0.1.0", "avx2", SETS, why))
    assert diagnose()["problems"] == [f"native engine: {why}"]
    assert main(["doctor"]) == 1
    assert why in capsys.readouterr().out


def test_names_versions_and_the_runtime_in_use() -> None:
    diagnosis = diagnose()
    versions = {package["name"]: package["version"] for package in diagnosis["packages"]}
    assert versions["numpy"] == np.__version__
    assert diagnosis["akida_backend"] == akida_backend.__version__
    assert diagnosis["problems"] == []


def test_says_what_each_missing_package_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    only_with(monkeypatch, "numpy", "flatbuffers", "tflite", "onnx", "rich")
    diagnosis = diagnose()
    text = " ".join(document.text(diagnosis_document(diagnosis)).split())
    assert diagnosis["host_runtime"] is None
    for package in PACKAGES:
        assert (package.cost in text) == (not package.needed)
    assert "No problems found" in text


def test_a_missing_requirement_is_a_problem_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only_with(monkeypatch, "numpy", "flatbuffers", "onnx", "rich")
    assert diagnose()["problems"] == ["tflite is missing: TFLite models cannot be read"]
    assert main(["doctor"]) == 1
    assert "tflite is missing" in capsys.readouterr().out


def test_tflite_runtime_beside_numpy_2_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    only_with(monkeypatch, "numpy", "flatbuffers", "tflite", "onnx", "rich", "tflite_runtime")
    monkeypatch.setattr(np, "__version__", "2.1.0")
    diagnosis = diagnose()
    assert diagnosis["host_runtime"] is None
    assert "needs numpy below 2" in diagnosis["problems"][0]
    monkeypatch.setattr(np, "__version__", "1.26.4")
    assert diagnose()["problems"] == []
    assert diagnose()["host_runtime"].startswith("tflite-runtime")


def test_required_packages_are_the_projects_dependencies() -> None:
    project = Path(akida_backend.__file__).parents[1] / "pyproject.toml"
    dependencies = tomllib.loads(project.read_text())["project"]["dependencies"]
    needed = {package.name for package in PACKAGES if package.needed}
    assert needed == {Requirement(text).name for text in dependencies}


def test_says_what_onnxruntime_sees_of_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    if diagnose()["execution_provider"]["problem"] is None:
        text = document.text(diagnosis_document(diagnose()))
        assert "AkidaExecutionProvider (akida-backend (simulated), CPU)" in " ".join(text.split())
    only_with(monkeypatch)
    provider = diagnose()["execution_provider"]
    assert provider == {"devices": [], "problem": "onnxruntime is not installed"}
