# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

CONTENT = b"a model of twenty-three"


@pytest.fixture
def fetch_models(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    script = Path(__file__).parents[2] / "tools" / "fetch_models.py"
    spec = importlib.util.spec_from_file_location("fetch_models", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fetch_models", module)
    spec.loader.exec_module(module)
    monkeypatch.delenv("AKIDA_BACKEND_MODELS", raising=False)
    return module


def published(fetch_models: ModuleType, folder: Path, content: bytes = CONTENT) -> object:
    """The model with CONTENT's SHA-1, served from a file with `content`."""
    folder.mkdir()
    served = folder / "served.tflite"
    served.write_bytes(content)
    sha1 = hashlib.sha1(CONTENT, usedforsecurity=False).hexdigest()
    return fetch_models.Model("tiny", "tiny.tflite", sha1, len(CONTENT), served.as_uri())


def test_downloads_to_the_output_folder(
    fetch_models: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = published(fetch_models, tmp_path / "site")
    output = tmp_path / "new" / "models"
    assert fetch_models.main(["tiny", "--output", str(output)], [model]) == 0
    assert "downloaded from file:" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in output.iterdir()} == {"tiny.tflite": CONTENT}


def test_the_search_folder_comes_first_under_any_file_name(
    fetch_models: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = published(fetch_models, tmp_path / "site", b"not to be read")
    collection = tmp_path / "collection" / "deep"
    collection.mkdir(parents=True)
    (collection / "tiny.tflite").write_bytes(CONTENT[::-1])  # right name and size, other bytes
    (collection / "renamed.bin").write_bytes(CONTENT)
    monkeypatch.setenv("AKIDA_BACKEND_MODELS", str(tmp_path / "collection"))
    assert fetch_models.main(["-o", str(tmp_path / "out")], [model]) == 0
    assert "renamed.bin" in capsys.readouterr().out
    assert (tmp_path / "out" / "tiny.tflite").read_bytes() == CONTENT


def test_a_file_already_there_is_kept_and_a_wrong_one_replaced(
    fetch_models: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = published(fetch_models, tmp_path / "site")
    target = tmp_path / "tiny.tflite"
    target.write_bytes(b"an older file")
    for expected in ("downloaded", "already there"):
        assert fetch_models.main(["-o", str(tmp_path)], [model]) == 0
        assert expected in capsys.readouterr().out
        assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("served", "found"),
    [
        pytest.param(CONTENT[::-1], "gave 23 bytes", id="other-bytes"),
        pytest.param(CONTENT[:5], "gave 5 bytes", id="truncated"),
        pytest.param(CONTENT * 9, "gave more than 23 bytes", id="too-long"),
    ],
)
def test_a_download_with_another_sha1_is_refused_and_nothing_written(
    fetch_models: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    served: bytes,
    found: str,
) -> None:
    model = published(fetch_models, tmp_path / "site", served)
    output = tmp_path / "out"
    assert fetch_models.main(["-o", str(output)], [model]) == 1
    message = capsys.readouterr().err
    assert found in message
    assert hashlib.sha1(CONTENT, usedforsecurity=False).hexdigest() in message
    assert "set AKIDA_BACKEND_MODELS" in message
    assert not output.exists()


def test_no_answer_is_one_clear_message_and_other_models_still_come(
    fetch_models: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = fetch_models.Model(
        "absent", "absent.tflite", "0" * 40, 1, (tmp_path / "none").as_uri()
    )
    model = published(fetch_models, tmp_path / "site")
    assert fetch_models.main(["-o", str(tmp_path / "out")], [absent, model]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("absent: no download from file:")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny.tflite"]


def test_a_failing_write_leaves_no_partial_file(
    fetch_models: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(f"{self} to {target}")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        fetch_models.write(tmp_path / "tiny.tflite", CONTENT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "variable", "message"),
    [
        pytest.param(["tinny"], "", "no model named tinny; there are tiny", id="unknown-name"),
        pytest.param([], "no/such/folder", "which is not a folder", id="search-folder"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_why(
    fetch_models: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    variable: str,
    message: str,
) -> None:
    monkeypatch.setenv("AKIDA_BACKEND_MODELS", variable)
    with pytest.raises(SystemExit, match="2"):
        fetch_models.main(arguments, [published(fetch_models, tmp_path / "site")])
    assert message in capsys.readouterr().err


def test_every_published_model_is_pinned_to_a_commit_and_a_sha1(fetch_models: ModuleType) -> None:
    for model in fetch_models.MODELS:
        assert re.fullmatch("[0-9a-f]{40}", model.sha1)
        assert re.fullmatch(r"https://github\.com/[^/]+/[^/]+/raw/[0-9a-f]{40}/\S+", model.url)
    assert len({model.name for model in fetch_models.MODELS}) == len(fetch_models.MODELS) == 7


def test_known_collections_hold_every_published_model(
    fetch_models: ModuleType, shared: Path, tmp_path: Path
) -> None:
    for model in fetch_models.MODELS:
        assert "copied from" in fetch_models.fetch(model, tmp_path, shared / "models")
