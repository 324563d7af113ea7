# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from benchmark import bars, markdown

TOOLS = Path(__file__).parents[2] / "tools"


def row(label: str, threads: int, batch: int, ours: float, **others: float) -> dict[str, object]:
    """A row of bench.json: milliseconds of each side."""
    sides = [
        {
            "name": name,
            "description": f"{name} 1, engine, 3 host operations",
            "milliseconds": time,
            "milliseconds_per_sample": time / batch,
            "ratio": time / ours,
            "gops": 100.0,
            "top1_agreement": 0.5,
        }
        for name, time in {"akida-backend": ours, **others}.items()
    ]
    return {
        "label": label,
        "threads": threads,
        "batch": batch,
        "on_device": label != "mixed",
        "network": {"macs": 10**6, "cut_off": ["SOFTMAX"]},
        "results": sides,
        "session": {"milliseconds_per_sample": 2.0},
    }


ROWS = [
    row("AkidaNet 1.0 224", 1, 1, 2.0, litert=4.0, ort=8.0),
    row("mixed", 1, 1, 2.0, litert=1.0, ort=2.0),
    row("mixed", 1, 32, 8.0),
    row("mixed", 2, 32, 5.0),
]
MEMORY = [{"label": "mixed", "akida-backend": 2.0, "litert": 3.0, "session": 4.0}]


def found(peak: dict[str, object] | None) -> list[tuple[float | None, bool]]:
    return [(bar["found"], bar["met"]) for bar in bars(ROWS, MEMORY, peak)]


def test_aims_are_judged_by_the_rows_they_speak_of() -> None:
    litert, ort, device, share, scaling, memory = found({"gops": 125.0})
    assert litert == (1.0, False)
    assert ort == (2.0, True)
    assert device == (2.0, True)  # the mixed network, half as fast, is not asked
    assert share == (0.8, False)
    assert scaling == (1.6, False)
    assert memory == (1.5, True)


def test_what_was_not_measured_is_not_met() -> None:
    assert found(None)[3] == (None, False)
    assert all(bar["found"] is None and not bar["met"] for bar in bars([], [], None))


def test_the_page_says_what_is_compared_and_where() -> None:
    page = markdown(
        {
            "title": "Speed of the simulation on this CPU, not of Akida",
            "machine": {"processor": "P", "processors": 2, "system": "S", "python": "3"},
            "int8_peak": {"instruction_set": "avx2", "gops": 125.0},
            "rows": ROWS,
            "memory_mb": MEMORY,
            "loading_ms": [],
            "bars": bars(ROWS, MEMORY, None),
        }
    )
    assert page.startswith("## Speed of the simulation on this CPU, not of Akida")
    assert "125 GOP/s (avx2)" in page
    assert "| AkidaNet 1.0 224 | 1.0 | 2.000 ms | 4.000 ms (2.00x) | 8.000 ms (4.00x) |" in page
    assert "| mixed (partly host) |" in page
    assert "## 2 threads, batch 32" in page
    assert "- mixed: SOFTMAX" in page
    assert "not measured" in page


@pytest.mark.full
def test_the_script_measures_a_model_and_writes_both_files(tmp_path: Path) -> None:
    model = TOOLS.parent / "akida_backend" / "demo" / "model.tflite"
    command = [sys.executable, str(TOOLS / "benchmark.py"), str(model), "--seconds", "0.1"]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, capture_output=True)
    result = json.loads((tmp_path / "bench.json").read_text())
    assert len(result["rows"]) == 4
    assert result["memory_mb"][0]["akida-backend"] < 100
    assert (tmp_path / "bench.md").read_text() == markdown(result)
