# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import networks
import numpy as np

from akida_backend.execute import run_source
from akida_backend.tflite_writer import write_tflite
from builders import random_inputs

ROOT = Path(__file__).parents[2]
SAMPLES = 100


def test_the_page_has_a_row_with_and_without_diagonal_convolutions(tmp_path: Path) -> None:
    graph = networks.classifier()
    (tmp_path / "model.tflite").write_bytes(write_tflite(graph))
    feeds = random_inputs(graph, SAMPLES, 1)
    (image,), (scores,) = feeds.values(), run_source(graph, feeds).values()
    labels = scores.reshape(SAMPLES, -1).argmax(axis=1)
    np.savez(tmp_path / "data.npz", x=image, y=labels)
    page = tmp_path / "page.md"
    tool = ROOT / "tools" / "write_akida1_report.py"
    done = subprocess.run(
        [sys.executable, tool, tmp_path / "model.tflite", tmp_path / "data.npz", "-o", page],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in page.read_text().splitlines() if ".tflite" in line]
    assert [row[2].strip() for row in rows] == ["no", "yes"]
    for row in rows:
        samples, source, device, drop, agreement = (cell.strip() for cell in row[6:11])
        assert samples == "72"  # 36 that the first 64 leave, and 36 that the last 64 leave
        assert source == "100.0%"  # the labels are the source's own
        assert device == agreement  # and so the device is right where it agrees
        assert " ± " in device
        assert float(drop) > 0
    assert float(rows[1][5]) > float(rows[0][5])  # device MACs per source MAC
