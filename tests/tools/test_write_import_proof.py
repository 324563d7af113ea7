# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from runtimes import require, write_import_proof

from akida_backend.graph import AnyArray, Arithmetic, Graph
from akida_backend.reference import run_graph
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with a good model and a damaged one."""
    require(Arithmetic.TFLITE)
    b = GraphBuilder(0)
    folder = tmp_path / "models"
    folder.mkdir()
    graph = b.build(b.average_pool(b.conv2d(b.input(5, 5, 2), 3)))
    (folder / "good.tflite").write_bytes(write_tflite(graph))
    (folder / "damaged.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3")
    return folder


def run_tool(monkeypatch: pytest.MonkeyPatch, models: Path) -> tuple[int, str]:
    output = models.parent / "reports" / "proof.md"
    monkeypatch.setattr(sys, "argv", ["tool", str(models), "-o", str(output)])
    return write_import_proof.main(), output.read_text()


def test_writes_a_row_for_every_model(monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    code, text = run_tool(monkeypatch, models)
    *_, damaged, good = text.splitlines()
    assert code == 0
    assert good == "| good.tflite | yes |  |  |  |"
    assert damaged.startswith("| damaged.tflite | not compared |  |  | refused: damaged.tflite")


def test_a_difference_without_a_cause_fails_and_is_located(
    monkeypatch: pytest.MonkeyPatch, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def off_by_one(
        graph: Graph, feeds: Mapping[str, AnyArray], *, keep: bool = False
    ) -> dict[str, AnyArray]:
        found = run_graph(graph, feeds, keep=keep)
        return {name: values ^ 1 for name, values in found.items()}  # type: ignore[operator]

    monkeypatch.setattr(write_import_proof, "run_graph", off_by_one)
    code, text = run_tool(monkeypatch, models)
    assert code == 1
    assert "| good.tflite | no | 1 | op 0 CONV_2D by 1 |  |" in text
    assert "good.tflite: differs without a known cause" in capsys.readouterr().out
