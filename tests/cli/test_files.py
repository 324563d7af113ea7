# SPDX-License-Identifier: Apache-2.0
"""Files that commands read and write: none is lost, open axes get lengths, plans are told apart."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import networks
import numpy as np
import pytest
from onnx_models import OnnxBuilder

import akida_backend as ab
from akida_backend.cli import main
from akida_backend.errors import ImportModelError, InputError
from akida_backend.tflite_writer import write_tflite

CLASSIFIER = networks.classifier()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    (made / "m.tflite").write_bytes(write_tflite(CLASSIFIER))
    np.savez(made / "data.npz", x=networks.codes(CLASSIFIER, 64)["image"])
    b = OnnxBuilder()
    x = b.real_input(("N", 2, "height", "the width"), 0.5, 3)
    weights = b.weights(np.random.default_rng(0).integers(-9, 9, (3, 2, 3, 3)), 0.125)
    b.finish(b.node("Conv", x, weights), 0.25, 7)
    (made / "open.onnx").write_bytes(b.content())
    return made


@pytest.fixture(autouse=True)
def folder(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, which the test may lose."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    (tmp_path / "link.tflite").symlink_to("m.tflite")
    os.link(tmp_path / "data.npz", tmp_path / "twin.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "compile m.tflite -o m.tflite",
        "compile m.tflite -o link.tflite",
        "compile link.tflite -o ./m.tflite",
        "advise m.tflite --apply -o m.tflite",
        "run m.tflite -o m.tflite",
        "run m.tflite --data data.npz -o data.npz",
        "run m.tflite --data data.npz -o twin.npz",
        "compare m.tflite --calibration data.npz --json data.npz",
        "inspect m.tflite --json m.tflite",
        "bench m.tflite --json link.tflite",
    ],
)
def test_an_output_that_is_an_input_is_refused(
    folder: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "itself, which would be lost\n  Give another name to write to." in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert Path("link.tflite").is_symlink()


def test_two_outputs_of_one_name_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "m.tflite", "-o", "m.akp", "--json", "./m.akp"]) == 2
    assert "-o and --json both name m.akp" in capsys.readouterr().err
    assert not Path("m.akp").exists()


def test_plans_and_changed_models_are_not_saved_over_their_model() -> None:
    before = Path("m.tflite").read_bytes()
    plan = ab.compile("m.tflite", calibration="data.npz")
    fitted = ab.compatibility.create_from_model("m.tflite")
    for save in (plan.save, fitted.save):
        with pytest.raises(InputError, match=r"link\.tflite: is the input m\.tflite itself"):
            save("link.tflite")
    assert Path("m.tflite").read_bytes() == before


def test_outputs_are_written_as_npz_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "none.tflite", "-o", "out.npy"]) == 2
    assert "out.npy: outputs are written by name, as .npz" in capsys.readouterr().err


def test_a_model_that_stays_on_the_host_is_compiled_with_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["compile", "m.tflite", "-o", "m.akp", "--min-partition-macs", "99999999"]) == 0
    said = "akida-backend: nothing of m.tflite runs on akida2: m.akp holds operations of the host"
    assert capsys.readouterr().err.startswith(said)


# Axes without a length


def test_axes_that_are_open_are_named_with_what_gives_them_a_length() -> None:
    with pytest.raises(ImportModelError) as refused:
        ab.load("open.onnx")
    assert "--dimension height=LENGTH --dimension 'the width=LENGTH' on the command line" in str(
        refused.value
    )
    assert "load(path, dimensions={'height': LENGTH, 'the width': LENGTH})" in str(refused.value)


@pytest.mark.parametrize("command", ["inspect", "run", "compare", "advise", "compile", "demo"])
def test_every_command_gives_lengths_to_open_axes(command: str) -> None:
    lengths = ["--dimension", "height=6", "--dimension", "the width=7"]
    out = ["-o", "open.akp"] if command == "compile" else []
    assert main([command, "open.onnx", *lengths, *out, "--json", "report.json"]) == 0
    assert "open.onnx" in Path("report.json").read_text()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        pytest.param("inspect open.onnx --dimension depth=3", "any of ['N', 'height'", id="name"),
        pytest.param("inspect open.onnx --dimension height=0", "at least 1", id="zero"),
        pytest.param(
            "inspect open.onnx --dimension height=3 --dimension height=9",
            "--dimension: axis 'height' is given twice",
            id="twice",
        ),
        pytest.param("inspect open.onnx --dimension height", "and a length, got", id="form"),
        pytest.param("inspect m.tflite --dimension N=1", "are for ONNX models", id="tflite"),
        pytest.param("run m.akp --dimension N=1", "m.akp: the sizes of a compiled", id="plan"),
        pytest.param("bench m.akp", "a compiled plan, not a model\n  Give the model", id="bench"),
    ],
)
def test_lengths_and_plans_where_they_do_not_belong_are_refused(
    command: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ab.compile("m.tflite").save("m.akp")
    assert main(command.split()) == 2
    assert message in capsys.readouterr().err
