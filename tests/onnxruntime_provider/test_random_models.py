# SPDX-License-Identifier: Apache-2.0
"""Random networks: everything planned is claimed, everything claimed compiles and is equal."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, seed, settings
from hypothesis import strategies as st
from random_graphs import graphs

import akida_backend as ab
from akida_backend.compiled_onnx import compiled_onnx
from akida_backend.errors import InputError
from akida_backend.graph import Graph
from akida_backend.onnx_claims import Claim, claims_of
from akida_backend.onnx_writer import Interface, OnnxForm, write_onnx
from akida_backend.onnxruntime import create_session

if TYPE_CHECKING:
    from onnxruntime import SessionOptions

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL")


def settings_of(ort: ModuleType, level: str) -> SessionOptions:
    made = ort.SessionOptions()
    made.log_severity_level = 3
    made.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    return made


def check(ort: ModuleType, graph: Graph, form: OnnxForm, level: str, samples: int) -> None:
    try:
        data = write_onnx(graph, form, interface=Interface.CHANNELS_FIRST)
    except InputError:
        assume(False)
    plan = ab.compile(data)
    assume(plan.programs)
    model = onnx.load_from_string(data)
    claims = claims_of(plan, model.graph)
    assert [type(claim) for claim in claims] == [Claim] * len(plan.programs)
    live = create_session(data, sess_options=settings_of(ort, level))
    random = np.random.default_rng(samples)
    feeds = {}
    for name in plan.graph.inputs:
        (value,) = (each for each in live.get_inputs() if each.name == name)
        shape = (samples, *value.shape[1:])
        low, high = plan.graph.tensors[name].dtype.code_range
        kind = plan.graph.tensors[name].dtype.numpy
        feeds[name] = random.integers(low, high + 1, shape).astype(kind)
    found = [each.tolist() for each in live.run(None, feeds)]
    if level == "ORT_ENABLE_ALL":  # else onnxruntime's host computes in float32
        assert found == [each.tolist() for each in ab.InferenceSession(plan).run(None, feeds)]
    saved = create_session(compiled_onnx(plan), sess_options=settings_of(ort, level))
    assert [each.tolist() for each in saved.run(None, feeds)] == found


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
