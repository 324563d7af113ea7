# SPDX-License-Identifier: Apache-2.0
"""Random networks: what is claimed compiles, and gives what the package itself gives.

A segment that no set of nodes stands for (two share a DequantizeLinear, say) stays with
onnxruntime, whose own kernels then compute other integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol
from unittest.mock import patch

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, seed, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_graphs import graphs

import akida_backend as ab
from akida_backend import onnxruntime as provider
from akida_backend.compiled_onnx import compiled_onnx
from akida_backend.errors import InputError
from akida_backend.graph import Graph
from akida_backend.onnx_claims import Claim, claims_of
from akida_backend.onnx_writer import Interface, OnnxForm, write_onnx
from akida_backend.onnxruntime import create_session
from akida_backend.plan import Plan

if TYPE_CHECKING:
    from onnxruntime import SessionOptions

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL")


def settings_of(ort: ModuleType, level: str) -> SessionOptions:
    made = ort.SessionOptions()
    made.log_severity_level = 3
    made.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    # Else int8 operators of the host next to a device segment run in float32.
    made.add_session_config_entry("session.qdqisint8allowed", "1")
    return made


def check(ort: ModuleType, graph: Graph, form: OnnxForm, level: str, samples: int) -> None:
    try:
        data = write_onnx(graph, form, interface=Interface.CHANNELS_FIRST)
    except InputError:
        assume(False)
    plan = ab.compile(data)
    assume(plan.programs)
    live, decided = created(data, settings_of(ort, level))
    random = np.random.default_rng(samples)
    feeds = {}
    for name in plan.graph.inputs:
        (value,) = (each for each in live.get_inputs() if each.name == name)
        shape = (samples, *value.shape[1:])
        low, high = plan.graph.tensors[name].dtype.code_range
        kind = plan.graph.tensors[name].dtype.numpy
        feeds[name] = random.integers(low, high + 1, shape).astype(kind)
    found = listed(live, feeds)
    exact = level == "ORT_ENABLE_ALL"  # else onnxruntime's host computes in float32
    # The provider sees what onnxruntime's optimiser left, which may be placed in another way.
    if exact and len(decided) == 1:
        assert found == listed(ab.InferenceSession(decided[0]), feeds)
    claims = claims_of(plan, onnx.load_from_string(data).graph)
    if all(isinstance(claim, Claim) for claim in claims):
        saved = create_session(compiled_onnx(plan), sess_options=settings_of(ort, level))
        computed = listed(saved, feeds)
        assert not exact or computed == listed(ab.InferenceSession(plan), feeds)


class Session(Protocol):
    def get_inputs(self) -> Sequence[Any]: ...
    def run(self, names: None, feeds: dict[str, NDArray[np.generic]]) -> Sequence[Any]: ...


def listed(session: Session, feeds: dict[str, NDArray[np.generic]]) -> list[object]:
    return [values.tolist() for values in session.run(None, feeds)]


def created(data: bytes, sess_options: SessionOptions) -> tuple[Session, list[Plan]]:
    """A session, and the plans the provider made for it until all of one could be claimed."""
    plans: list[Plan] = []

    def recorded(*given: Any, **options: Any) -> Plan:  # noqa: ANN401 - as compile takes them
        plans.append(ab.compile(*given, **options))
        return plans[-1]

    with patch.object(provider, "compile_model", recorded):
        session: Session = create_session(data, sess_options=sess_options)
    return session, plans


CASES = (graphs(), st.sampled_from(list(OnnxForm)), st.sampled_from(LEVELS), st.integers(1, 3))
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@seed(2)
@settings(max_examples=20, database=None, suppress_health_check=SLOW)
@given(*CASES)
def test_twenty_networks(
    ort: ModuleType, graph: Graph, form: OnnxForm, level: str, samples: int
) -> None:
    check(ort, graph, form, level, samples)


@pytest.mark.full
@settings(max_examples=500, suppress_health_check=SLOW)
@given(*CASES)
def test_many_networks(
    ort: ModuleType, graph: Graph, form: OnnxForm, level: str, samples: int
) -> None:
    check(ort, graph, form, level, samples)
