# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml promises about dependencies."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
EXTRAS = {
    name: [Requirement(line) for line in lines]
    for name, lines in PROJECT["optional-dependencies"].items()
}


def test_extra_all_is_every_other_extra_but_tflite_runtime() -> None:
    (everything,) = EXTRAS["all"]
    assert everything.name == PROJECT["name"]
    assert everything.extras == EXTRAS.keys() - {"all", "tflite-runtime"}


def test_nothing_but_tflite_runtime_holds_numpy_back() -> None:
    core = [Requirement(line) for line in PROJECT["dependencies"]]
    others = [r for name in EXTRAS.keys() - {"tflite-runtime"} for r in EXTRAS[name]]
    bounds = [s.operator for r in core + others if r.name == "numpy" for s in r.specifier]
    assert bounds == [">="]


@pytest.mark.parametrize(
    ("python", "system", "wanted"),
    [
        pytest.param("3.11", "linux", ["tflite-runtime==2.14.0", "numpy<2"], id="has-wheels"),
        pytest.param("3.12", "linux", [], id="newer-python"),
        pytest.param("3.11", "darwin", [], id="no-linux"),
    ],
)
def test_tflite_runtime_is_asked_for_only_where_its_wheels_exist(
    python: str, system: str, wanted: list[str]
) -> None:
    environment = {"python_version": python, "sys_platform": system}
    asked = [
        f"{r.name}{r.specifier}"
        for r in EXTRAS["tflite-runtime"]
        if r.marker is None or r.marker.evaluate(environment)
    ]
    assert asked == wanted
