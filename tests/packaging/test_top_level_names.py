# SPDX-License-Identifier: Apache-2.0
"""The folders importers/ and ops/ are packages under one name only, so nothing loads twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from mypy.find_sources import create_source_list
from mypy.options import Options

ROOT = Path(__file__).resolve().parents[2]

# One line per module: its name and its file, links resolved.
IMPORT_EVERYTHING = """
import importlib, os, pkgutil, sys
import akida_backend
for module in pkgutil.walk_packages(akida_backend.__path__, "akida_backend."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name, module in sys.modules.items():
    if file := getattr(module, "__file__", None):
        print(name, os.path.realpath(file))
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run in the checkout, with its files before any installed ones."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def sources() -> set[Path]:
    """Python files of the package, each by its own path and not through a link."""
    folders = [ROOT / name for name in ("akida_backend", "importers", "ops")]
    return {file.resolve() for folder in folders for file in folder.rglob("*.py")}


@pytest.mark.parametrize("folder", ["importers", "ops"])
@pytest.mark.parametrize(
    "statement", ["import {}", "from {} import anything", "import {}.anything"]
)
def test_bare_import_from_a_checkout_names_the_right_module(folder: str, statement: str) -> None:
    done = python("-c", statement.format(folder))
    assert done.returncode == 1
    assert (
        f"ImportError: the folder '{folder}' is the package akida_backend.{folder}" in done.stderr
    )


def test_no_file_loads_under_two_names() -> None:
    done = python("-c", IMPORT_EVERYTHING)
    assert done.returncode == 0, done.stderr
    loaded = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    ours = {name: file for name, file in loaded.items() if Path(file) in sources()}
    assert {"akida_backend", "akida_backend.importers", "akida_backend.ops"} <= ours.keys()
    assert [file for file, times in Counter(ours.values()).items() if times > 1] == []
    assert all(name.split(".")[0] == "akida_backend" for name in ours)


def test_mypy_sees_each_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    folders = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["mypy"]["files"]
    seen = create_source_list(folders, Options())
    files = Counter(Path(source.path or "").resolve() for source in seen)
    assert sources() <= files.keys()
    assert [file for file, times in files.items() if times > 1] == []
    assert {"akida_backend.importers", "akida_backend.ops"} <= {source.module for source in seen}


def test_coverage_sees_each_file_once(tmp_path: Path) -> None:
    script, data, report = tmp_path / "script.py", tmp_path / "data", tmp_path / "report.json"
    script.write_text("import akida_backend.importers, akida_backend.ops\n")
    coverage = ("-m", "coverage")
    done = python(*coverage, "run", f"--data-file={data}", str(script))
    assert done.returncode == 0, done.stderr
    done = python(*coverage, "json", f"--data-file={data}", "-o", str(report))
    assert done.returncode == 0, done.stdout
    files = [ROOT / name for name in json.loads(report.read_text())["files"]]
    assert sorted(files) == sorted(sources())
