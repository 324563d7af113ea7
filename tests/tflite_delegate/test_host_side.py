# SPDX-License-Identifier: Apache-2.0
"""InferenceSession with the runtime's kernels on the host side."""

from __future__ import annotations

import importlib

import networks
import numpy as np
import pytest
from interpreters import Runtime

import akida_backend as ab
from akida_backend import runtime_host
from akida_backend.tflite_writer import write_tflite


def test_every_host_operation_runs_in_the_runtime(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those included that rewrites have made: nothing is left for the reference."""
    assert runtime
    content = write_tflite(networks.strided_stem())
    feeds = networks.codes(networks.strided_stem(), 3)
    (wanted,) = ab.InferenceSession(content).run(None, feeds)
    execute = importlib.import_module("akida_backend.execute")

    def reached(*_: object) -> None:
        raise AssertionError("an operation ran in the reference")

    monkeypatch.setattr(execute, "run_operations", reached)
    session = ab.InferenceSession(content, host="runtime")
    assert len(session.plan.segments) > 1
    (found,) = session.run(None, feeds)
    assert np.array_equal(found, wanted)
    package = str(runtime_host.installed_runtime())
    assert session.get_providers() == ["AkidaSimulator(akida2)", f"Host({package})"]


def test_an_installed_runtime_changes_no_default_result(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runtime
    content = write_tflite(networks.classifier())
    feeds = networks.codes(networks.classifier(), 8)
    session = ab.InferenceSession(content)
    (with_it,) = session.run(None, feeds)
    assert session.get_providers()[1] == "Host(reference)"
    monkeypatch.setattr(runtime_host, "installed_runtime", lambda: None)
    (without_it,) = ab.InferenceSession(content).run(None, feeds)
    assert np.array_equal(with_it, without_it)
