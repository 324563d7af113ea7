# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import json
from importlib import resources
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry, Resource

from akida_backend.cli import main
from akida_backend.onnx_writer import write_onnx
from akida_backend.tflite_writer import write_tflite

SCHEMAS = {
    file.name.removesuffix(".json"): json.loads(file.read_text(encoding="utf-8"))
    for file in (resources.files("akida_backend") / "schemas").iterdir()
    if file.name.endswith(".json")
}
REGISTRY: Registry[Any] = Registry().with_resources(
    [(schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS.values()]
)
OUTPUTS = {
    "inspect": ("inspect model.tflite", "inspect parts.tflite", "inspect abs.tflite"),
    "inspect_all": ("inspect model.tflite --device all",),
    "advise": (
        "advise model.tflite --device all",
        "advise parts.tflite --device akd1000",
        "advise stem.tflite --apply -o fitted.tflite",
    ),
    "run": ("run model.tflite --limit 2 -o out.npz", "run parts.tflite"),
    "compile": ("compile model.tflite -o model.akp", "compile parts.tflite -o parts.akp"),
    "compare": (
        "compare model.tflite --data data.npz --per-layer",
        "compare parts.tflite",
        "compare model.tflite --device all --emulation source --limit 3",
        "compare model.tflite --limit 2 --with litert,litert-ref,ort",
        "compare model.onnx --limit 2 --with ort,ort-noopt,litert",
    ),
    "demo": ("demo --limit 5",),
    "bench": ("bench model.tflite --seconds 0.1 --against=",),
    "devices": ("devices",),
    "ops": ("ops", "ops --device akd1000"),
    "doctor": ("doctor",),
}
COMMANDS = [(name, command) for name, commands in OUTPUTS.items() for command in commands]


@pytest.fixture
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = networks.classifier()
    (tmp_path / "model.tflite").write_bytes(write_tflite(classifier))
    (tmp_path / "model.onnx").write_bytes(write_onnx(classifier))
    (tmp_path / "parts.tflite").write_bytes(write_tflite(networks.interrupted()))
    (tmp_path / "stem.tflite").write_bytes(write_tflite(networks.strided_stem()))
    (tmp_path / "abs.tflite").write_bytes(networks.absolute_file())
    x = networks.codes(classifier, 8)["image"]
    np.savez(tmp_path / "data.npz", x=x, y=np.zeros(8, np.int64))
    monkeypatch.chdir(tmp_path)


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(SCHEMAS[name], registry=REGISTRY)


def output(capsys: pytest.CaptureFixture[str], command: str) -> Any:  # noqa: ANN401
    assert main([*command.split(), "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_valid_themselves(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["$id"] == f"urn:akida-backend:{name}:1"


@pytest.mark.usefixtures("_files")
@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_outputs_follow_their_schema(
    capsys: pytest.CaptureFixture[str], name: str, command: str
) -> None:
    data = output(capsys, command)
    validator(name).validate(data)
    assert data["schema_version"] == 1


def test_every_schema_is_the_schema_of_an_output() -> None:
    assert set(SCHEMAS) == set(OUTPUTS)


@pytest.mark.usefixtures("_files")
def test_schemas_refuse_what_is_not_documented(capsys: pytest.CaptureFixture[str]) -> None:
    data = output(capsys, "inspect parts.tflite")
    check = validator("inspect")
    further = copy.deepcopy(data)
    further["operations"][0]["extra"] = 1
    silent = copy.deepcopy(data)
    silent["operations"][1]["reasons"] = []  # a host operation without a reason
    for wrong in (further, silent, {**data, "schema_version": 2}):
        with pytest.raises(ValidationError):
            check.validate(wrong)
