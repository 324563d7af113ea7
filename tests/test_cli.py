# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest

import akida_backend
from akida_backend import cli
from akida_backend.cli import main
from akida_backend.compiler import compile as compile_model
from akida_backend.errors import InputError
from akida_backend.execute import Executor
from akida_backend.loading import load
from akida_backend.reference import run_graph
from akida_backend.tflite_writer import write_tflite
from akida_backend.writing import replacing, write_text
from builders import GraphBuilder

ROOT = Path(akida_backend.__file__).parents[1]
CLASSIFIER = networks.classifier()
X = networks.codes(CLASSIFIER, 80)["image"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model and data files."""
    made = tmp_path_factory.mktemp("files")
    (made / "model.tflite").write_bytes(write_tflite(CLASSIFIER))
    (made / "parts.tflite").write_bytes(write_tflite(networks.interrupted()))
    (scores,) = run_graph(CLASSIFIER, {"image": X}).values()
    labels = scores.argmax(axis=1)
    labels[::2] = (labels[::2] + 1) % 6
    np.savez(made / "data.npz", x=X, y=labels)
    return made


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def run(capsys: pytest.CaptureFixture[str], command: str) -> tuple[int, str, str]:
    code = main(command.split())
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_json(capsys: pytest.CaptureFixture[str], command: str) -> dict[str, Any]:
    code, out, err = run(capsys, f"{command} --json -")
    assert (code, err) == (0, "")
    data: dict[str, Any] = json.loads(out)
    return data


# inspect


def test_inspect_prints_the_report_of_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "inspect model.tflite")
    assert (code, err) == (0, "")
    assert out == compile_model("model.tflite").report()


def test_inspect_prints_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "inspect model.tflite --format markdown")
    assert (code, out) == (0, compile_model("model.tflite").report("markdown"))


def test_inspect_json_goes_alone_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(capsys, "inspect model.tflite")
    assert data == json.loads(compile_model("model.tflite").report("json"))
    assert data["model"]["path"] == "model.tflite"


def test_inspect_writes_json_beside_the_text(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = run(capsys, f"inspect model.tflite --json {tmp_path / 'report.json'}")
    assert code == 0
    assert out.startswith("model.tflite: ")
    assert json.loads((tmp_path / "report.json").read_text())["device"] == "akida2"
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        pytest.param("--min-mac-fraction 1", 0, "", id="all-macs"),
        pytest.param(
            "--deny type:FULLY_CONNECTED --min-mac-fraction 0.99",
            1,
            "wanted a share of at least 0.99 of the MACs on the device, found 0.",
            id="too-few-macs",
        ),
        pytest.param("--check-partitions 1", 0, "", id="one-partition"),
        pytest.param(
            "--check-partitions 0", 1, "wanted at most 0 partitions, found 1", id="partitions"
        ),
        pytest.param("--fallback error", 0, "", id="boundary-only"),
        pytest.param("--fallback strict", 1, "found 1 of 8", id="strict"),
        pytest.param("--fallback error --deny type:ADD", 1, "[POLICY-DENIED]", id="error"),
        pytest.param("--fallback allow --deny type:ADD", 0, "", id="allow"),
    ],
)
def test_inspect_gates_say_wanted_and_found_after_the_report(
    capsys: pytest.CaptureFixture[str], flags: str, code: int, message: str
) -> None:
    found, out, err = run(capsys, f"inspect model.tflite {flags}")
    assert found == code
    assert out.startswith("model.tflite: ")
    assert message in err
    assert bool(err) == bool(code)


def test_inspect_warns_in_one_line(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    code, _, _ = run(capsys, "inspect parts.tflite --fallback warn")
    assert code == 0
    (record,) = caplog.records
    assert "TANH" in record.getMessage()


def test_inspect_judges_the_partitions_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "inspect parts.tflite --check-partitions 1")
    assert code == 1
    assert "in 2 partitions" in out
    assert "wanted at most 1 partitions, found 2" in err


@pytest.mark.parametrize(("most", "partitions"), [(0, 2), (1, 1)])
def test_max_partitions_changes_the_placement_in_inspect_as_elsewhere(
    capsys: pytest.CaptureFixture[str], most: int, partitions: int
) -> None:
    data = run_json(capsys, f"inspect parts.tflite --max-partitions {most}")
    assert data["summary"]["partitions"] == partitions


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_said_in_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "akida_backend", "devices"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=ROOT,
        )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "akida-backend: standard output cannot be written: No space left on device"
    ]


def test_inspect_of_all_devices_gives_one_row_each(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "inspect model.tflite --device all")
    for name in ("akida2", "akida2-fpga-2n", "akida2-fpga-6n", "akida2-12n", "akd2500"):
        assert sum(line.startswith(f"{name} ") for line in out.splitlines()) == 1
    assert "memory and NP count not checked" in out
    data = run_json(capsys, "inspect model.tflite --device all")
    assert [report["device"] for report in data["reports"]][:2] == ["akida2", "akida2-fpga-2n"]


def test_lists_of_names_may_be_repeated_and_joined(capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(capsys, "inspect model.tflite --deny type:ADD,type:SOFTMAX --deny type:CONV_2D")
    host = {row["type"] for row in data["operations"] if row["placement"] == "host"}
    assert host >= {"ADD", "SOFTMAX", "CONV_2D"}
    assert "DEPTHWISE_CONV_2D" not in host


# run


def test_run_writes_outputs_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "out.npz"
    code, out, _ = run(capsys, f"run model.tflite --data data.npz -o {target}")
    assert code == 0
    assert f"Written to {target}" in out
    plan = compile_model("model.tflite")
    (name,) = plan.graph.outputs
    with np.load(target) as written:
        assert written.files == [name]
        np.testing.assert_array_equal(written[name], Executor(plan).run({"image": X}).values[name])


def test_run_without_data_takes_random_samples(capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(capsys, "run model.tflite --limit 5")
    assert data["samples"] == 5
    origin = "the first 5 of 32 random samples, seed 0"
    assert data["data"] == {"origin": origin, "random": True}
    assert data["outputs"][0]["shape"] == [5, 6]


def test_run_takes_emulation_source(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "out.npz"
    run(capsys, f"run model.tflite --data data.npz --emulation source -o {target}")
    (expected,) = run_graph(CLASSIFIER, {"image": X}).values()
    with np.load(target) as written:
        np.testing.assert_array_equal(written[written.files[0]], expected)


# compare


def test_compare_prints_rows(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "compare model.tflite --data data.npz --per-layer")
    assert (code, err) == (0, "")
    starts = [line.split()[0] for line in out.splitlines() if line]
    assert [start for start in starts if start in ("source", "ceiling", "akida2")] == [
        "source",
        "ceiling",
        "akida2",
    ]


def test_compare_says_how_much_ran_on_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "compare model.tflite --limit 2")
    placed = "7 of 8 operations, 100.00 % of"
    assert f"On the device: {placed}" in out
    _, out, _ = run(capsys, "compare model.tflite --limit 2 --device all")
    assert f"On akd2500: {placed}" in out


def test_thresholds_that_hold_of_themselves_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys, "compare model.tflite --limit 2 --allow type:SOFTMAX --min-agreement 1"
    )
    assert code == 0
    assert "Note: nothing of the model runs on akida2" in " ".join(out.split())
    assert "akida2: nothing of the model runs on the device, so its thresholds hold of" in err


def test_inspect_refuses_calibration_of_no_use(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    np.save(tmp_path / "few.npy", X[:3])
    code, out, err = run(capsys, f"inspect model.tflite --calibration {tmp_path / 'few.npy'}")
    assert (code, out) == (2, "")
    assert "calibration has 3 samples; at least 16 are needed" in err


def test_run_says_that_values_were_cut_off(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    np.save(tmp_path / "far.npy", np.full(X[:2].shape, 1e6, np.float32))
    _, _, err = run(capsys, f"run model.tflite --data {tmp_path / 'far.npy'}")
    assert "100 % of the values lie outside" in err


def test_compare_json_is_the_python_result(capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(capsys, "compare model.tflite --data data.npz --limit 9 --per-layer")
    assert data == akida_backend.compare("model.tflite", "data.npz", limit=9, per_layer=True)


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        pytest.param("--min-agreement 0", 0, "", id="agreement-holds"),
        pytest.param("--max-accuracy-drop 100", 0, "", id="drop-holds"),
        pytest.param(
            "--min-agreement 1 --deny type:FULLY_CONNECTED --allow type:CONV_2D",
            1,
            "akida2: wanted agreement with the source of at least 1, found 0.",
            id="agreement-fails",
        ),
    ],
)
def test_compare_gates(
    capsys: pytest.CaptureFixture[str], flags: str, code: int, message: str
) -> None:
    found, out, err = run(capsys, f"compare model.tflite --data data.npz {flags}")
    assert "source" in out
    assert message in err
    assert found == code


def test_an_accuracy_drop_fails_its_gate(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plan = compile_model("model.tflite")
    (source,) = run_graph(plan.graph, {"image": X}).values()
    (device,) = Executor(plan).run({"image": X}).values.values()
    differs = source.argmax(axis=1) != device.argmax(axis=1)
    assert differs.any()
    np.savez(tmp_path / "hard.npz", x=X[differs], y=source.argmax(axis=1)[differs])
    command = f"compare model.tflite --data {tmp_path / 'hard.npz'} --max-accuracy-drop 1.5"
    code, _, err = run(capsys, command)
    assert code == 1
    assert "wanted an accuracy drop of at most 1.5 points, found" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param("model.tflite --max-accuracy-drop 1", "there is no accuracy", id="labels"),
        pytest.param("parts.tflite --min-agreement 0.5", "does not hold class scores", id="scores"),
    ],
)
def test_gates_on_figures_that_do_not_exist_are_refused(
    capsys: pytest.CaptureFixture[str], flags: str, message: str
) -> None:
    code, out, err = run(capsys, f"compare {flags}")
    assert (code, out) == (2, "")
    assert message in err


def test_compare_leaves_out_the_calibration_samples(capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(capsys, "compare model.tflite --data data.npz --calibration data.npz")
    assert data["samples"] == 16


# compile


def test_compile_writes_what_other_commands_take_like_the_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = tmp_path / "m.akp"
    code, out, err = run(capsys, f"compile model.tflite -o {target}")
    assert (code, err) == (0, "")
    assert f"Written to {target}: {target.stat().st_size} bytes" in " ".join(out.split())
    for command in ("run", "compare", "inspect"):
        of_plan = run_json(capsys, f"{command} {target}")
        assert of_plan == run_json(capsys, f"{command} model.tflite")
    code, out, _ = run(capsys, f"inspect {target}")
    assert (code, out) == run(capsys, "inspect model.tflite")[:2]


def test_compile_takes_the_options_and_a_plan_keeps_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = tmp_path / "m.akp"
    flags = "--device akida2-fpga-2n --deny type:ADD"
    written = run_json(capsys, f"compile model.tflite -o {target} {flags}")
    assert written["device"] == "akida2-fpga-2n"
    kept = run_json(capsys, f"inspect {target}")
    assert len(written["programs"]) == kept["summary"]["partitions"] > 1
    assert kept == run_json(capsys, f"inspect model.tflite {flags}")
    assert run_json(capsys, f"run {target} --emulation source")["emulation"] == "source"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        pytest.param("compile model.tflite", "required: -o/--out", id="no-target"),
        pytest.param("compile model.tflite -o m.onnx", "cannot be saved as .onnx", id="onnx"),
        pytest.param(
            "compile model.tflite -o m",
            "a saved plan is a .akp or .onnx or .tflite file",
            id="ending",
        ),
        pytest.param("compile model.tflite -o m.akp --device all", "one device", id="all"),
        pytest.param("compile {plan} -o m.akp", "is a compiled plan, not", id="twice"),
        pytest.param("compile abs.tflite -o m.akp", "op 0 ABS 'magnitude'", id="opaque"),
        pytest.param("run {plan} --device akd2500", "option 'device' cannot", id="device"),
        pytest.param("run {plan} --deny type:ADD", "option 'deny' cannot change", id="option"),
        pytest.param("inspect {plan} --device all", "option 'device' cannot", id="all-of-a-plan"),
        pytest.param("demo {plan}", "is a compiled plan, not a model", id="demo"),
    ],
)
def test_what_cannot_be_compiled_or_changed_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, message: str
) -> None:
    plan = tmp_path / "plan.akp"
    compile_model("model.tflite").save(plan)
    Path("abs.tflite").write_bytes(networks.absolute_file())
    code, out, err = run(capsys, command.format(plan=plan))
    assert (code, out) == (2, "")
    assert message in err
    assert not Path("m.akp").exists()


# the other commands


def test_demo_shows_accuracy_and_placement_of_the_embedded_network(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = run_json(capsys, "demo")
    by_name = {row["name"]: row["accuracy"] for row in data["compare"]["results"]}
    assert by_name["source"] > 0.9
    assert by_name["akida2"] > 0.9
    summary = data["inspect"]["summary"]
    assert 0 < summary["operations_on_device"] < summary["operations"]
    code, out, _ = run(capsys, "demo --limit 20")
    assert code == 0
    assert "memory and NP count not checked" in " ".join(out.split())


def test_demo_runs_a_model_of_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(capsys, "demo model.tflite --data data.npz")
    assert data["inspect"]["model"]["path"] == "model.tflite"
    assert data["compare"]["samples"] == 80


def test_devices_lists_all_and_what_compiles(capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(capsys, "devices")
    supported = {device["name"]: device["supported"] for device in data["devices"]}
    assert supported["akida2"]
    assert supported["akd1000"]
    _, out, _ = run(capsys, "devices")
    assert all(name in out for name in supported)


def test_ops_lists_operators_and_rules(capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(capsys, "ops")
    conv = next(row for row in data["operations"] if row["operation"] == "Conv2D")
    assert conv["operators"] == ["CONV_2D"]
    assert "V2-CONV-KERNEL" in conv["rules"]
    _, out, _ = run(capsys, "ops --device akd2500")
    assert "V2-CONV-KERNEL" in out


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    modules = (Path(cli.__file__).parent).glob("*_command.py")
    for command in (module.stem.removesuffix("_command") for module in modules):
        assert f"    {command} " in out


# errors


@pytest.mark.parametrize(
    ("command", "message"),
    [
        pytest.param("", "COMMAND", id="nothing"),
        pytest.param("inspct model.tflite", "did you mean 'inspect'?\n  known: demo", id="command"),
        pytest.param("inspect", "required: model", id="no-model"),
        pytest.param(
            "inspect model.tflite --devcie x", "did you mean '--device'?\n  known: --", id="flag"
        ),
        pytest.param("inspect model.tflite --dev akida2", "unknown option '--dev'", id="shortened"),
        pytest.param("inspect model.tflite more", "unexpected argument 'more'", id="extra"),
        pytest.param(
            "inspect model.tflite --device akda2", "did you mean 'akida2'?\n  known:", id="device"
        ),
        pytest.param(
            "compile model.tflite --device akd1000 -o model.akp",
            "'akd1000' has 4-bit weights and activations, which INT8 models do not survive",
            id="generation-1",
        ),
        pytest.param(
            "inspect model.tflite --fallback eror", "did you mean 'error'?", id="fallback"
        ),
        pytest.param("run model.tflite --deny ADD", "form type:CONV_2D", id="entry"),
        pytest.param("run model.tflite --device all", "one device", id="run-all"),
        pytest.param("compare model.tflite --min-agreement 2", "from 0 to 1, got '2'", id="range"),
        pytest.param("compare model.tflite --limit -1", "of at least 1, got '-1'", id="limit"),
        pytest.param("run model.tflite --limit 0", "of at least 1, got '0'", id="no-samples"),
        pytest.param("bench model.tflite --seconds 0", "more than 0 and at most", id="seconds"),
        pytest.param(
            "inspect model.tflite --device akd100", "did you mean 'akd1000'", id="begins-alike"
        ),
        pytest.param("compare model.tflite --output y", "unknown output 'y'", id="output"),
        pytest.param("compare model.tflite --data none.npz", "no such file", id="no-data"),
        pytest.param("compare model.tflite --data model.tflite", "not a readable", id="not-data"),
        pytest.param("inspect none.tflite", "none.tflite: cannot read", id="no-file"),
        pytest.param(["inspect", ""], "the path of the model is empty", id="no-name"),
        pytest.param("inspect data.npz", "neither TFLite nor ONNX", id="not-a-model"),
        pytest.param("inspect model.tflite --json no/file.json", "cannot be written", id="folder"),
    ],
)
def test_bad_input_is_one_clear_message_and_exit_2(
    capsys: pytest.CaptureFixture[str], command: str | list[str], message: str
) -> None:
    code = main(command.split() if isinstance(command, str) else command)
    err = capsys.readouterr().err
    assert code == 2
    assert message in err
    assert err.startswith("akida-backend: ")
    assert "Traceback" not in err


def test_fallback_error_of_run_is_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "run parts.tflite --fallback error")
    assert (code, out) == (1, "")
    assert "TANH" in err


def test_an_interrupt_is_exit_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("akida_backend.loading.load", interrupted)
    code, out, err = run(capsys, "inspect model.tflite")
    assert (code, out, err) == (130, "", "akida-backend: interrupted\n")


def test_a_defect_is_reported_as_one_and_traced_on_demand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("akida_backend.loading.load", broken)
    monkeypatch.delenv("AKIDA_BACKEND_TRACEBACK", raising=False)
    code, _, err = run(capsys, "inspect model.tflite")
    assert code == 2
    assert "internal error: ZeroDivisionError: division by zero (broken, test_cli.py:" in err
    assert "defect of akida-backend. Please report it" in err
    assert "Traceback" not in err
    monkeypatch.setenv("AKIDA_BACKEND_TRACEBACK", "1")
    _, _, err = run(capsys, "inspect model.tflite")
    assert "Traceback" in err


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "out.npz"
    target.write_text("old")

    def fail() -> None:
        with replacing(target) as file:
            file.write(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_written_files_have_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with replacing(tmp_path / "out") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o644


def test_a_file_that_is_replaced_keeps_its_permissions_and_its_links(tmp_path: Path) -> None:
    target, link = tmp_path / "out", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to("out")
    with replacing(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(tmp_path.iterdir()) == [link, target]


def test_texts_get_the_folders_they_are_written_to(tmp_path: Path) -> None:
    write_text(tmp_path / "reports" / "new" / "page.md", "größe\n")
    assert (tmp_path / "reports" / "new" / "page.md").read_bytes() == "größe\n".encode()
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path / "reports" / "new" / "page.md" / "page.md", "")


def test_a_device_file_is_written_to_and_not_replaced() -> None:
    with replacing(Path(os.devnull)) as file:
        file.write(b"x")
    assert not Path(os.devnull).is_file()


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs /dev/fd")
def test_a_pipe_is_written_to() -> None:
    reading, writing = os.pipe()
    with replacing(Path(f"/dev/fd/{writing}")) as file:
        file.write(b"x")
    os.close(writing)
    with os.fdopen(reading, "rb") as read:
        assert read.read() == b"x"


def test_the_mask_of_permissions_is_never_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(_: int) -> int:
        raise AssertionError

    monkeypatch.setattr(os, "umask", changed)
    write_text(tmp_path / "out", "x")
    assert (tmp_path / "out").read_text() == "x"


def test_a_replacement_is_private_until_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("old")
    target.chmod(0o600)
    with replacing(target):
        (temporary,) = tmp_path.glob(".out.*.part")
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600


def test_a_folder_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"), replacing(tmp_path):
        pass


# as a process


def process(*arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
    return subprocess.run(
        [sys.executable, "-m", "akida_backend", *arguments],
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **how,
    )


def test_python_m_is_the_same_command(folder: Path) -> None:
    done = process("inspect", "model.tflite", "--json", "-", capture_output=True, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["device"] == "akida2"


def test_a_reader_that_leaves_early_is_no_error(folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = process("inspect", "model.tflite", stdout=writing, stderr=subprocess.PIPE, cwd=folder)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_names_a_terminal_cannot_show_are_escaped(folder: Path) -> None:
    b = GraphBuilder(0)
    graph = b.build(b.conv2d(b.input(4, 4, 2, name="bild_größe_画像"), 3))
    (folder / "names.tflite").write_bytes(write_tflite(graph))
    assert "画像" in load(folder / "names.tflite").inputs[0]
    done = subprocess.run(
        [sys.executable, "-m", "akida_backend", "inspect", "names.tflite"],
        capture_output=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"bild_gr\\xf6\\xdfe_\\u753b\\u50cf" in done.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.skipif(os.name == "nt", reason="a shell closes its outputs")
def test_a_closed_output_is_no_error(closed: str, folder: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m akida_backend devices {closed}', sys.executable],
        capture_output=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert bool(done.stdout) == (closed == "2>&-")


OPENED = """
import os, sys, tempfile
from akida_backend import cli
cli._open_streams()
with tempfile.TemporaryFile() as file:
    os.write(int(sys.argv[1]), str(file.fileno()).encode())
"""


@pytest.mark.parametrize("closed", ["<&- >&-", "<&- >&- 2>&-", "<&-"])
@pytest.mark.skipif(os.name == "nt", reason="a shell closes its streams")
def test_no_file_gets_the_number_of_a_closed_stream(closed: str) -> None:
    reading, writing = os.pipe()
    subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" "$2" {closed}', sys.executable, OPENED, str(writing)],
        check=True,
        pass_fds=(writing,),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as read:
        assert int(read.read()) > 2


@pytest.mark.parametrize("command", ["inspect", "compare --per-layer --limit 2", "run --limit 2"])
def test_reports_fit_the_terminal(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    name, *flags = command.split()
    widths = []
    for columns in (None, "60"):
        if columns is not None:
            monkeypatch.setenv("COLUMNS", columns)
        assert main([name, "parts.tflite", *flags]) == 0
        widths.append(max(map(len, capsys.readouterr().out.splitlines())))
    piped, narrow = widths
    assert narrow < 75  # the checksum of the model is not broken
    assert narrow < piped <= 100


def test_exit_codes_are_documented() -> None:
    assert (cli.HOLDS, cli.FAILED, cli.REFUSED, cli.INTERRUPTED) == (0, 1, 2, 130)
