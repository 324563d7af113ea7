# SPDX-License-Identifier: Apache-2.0
"""The backend interface of ONNX, and the node tests that come with onnx."""

from __future__ import annotations

import importlib.util
import sys
import unittest
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import onnx.backend.test
import onnx_twins
import pytest
from onnx import TensorProto, helper

from akida_backend import onnx_backend
from akida_backend.devices import devices
from akida_backend.errors import (
    FallbackError,
    ImportModelError,
    InputError,
    UnsupportedOperationError,
)
from akida_backend.graph import AnyArray, Arithmetic, Graph
from akida_backend.onnx_writer import OnnxForm, write_onnx
from akida_backend.reference import run_graph
from akida_backend.session import InferenceSession

sys.path.append(str(Path(__file__).parents[1] / "tools"))

from write_backend_report import (
    BAD,
    EXCLUDED,
    OTHER_RELEASE,
    RUNNER,
    Outcome,
    check_outputs,
    fails_without_project,
    node_tests,
    outcome_of,
    page,
    run_test,
    with_constant_parameters,
)

SHARE = 12  # of the node tests, one in so many runs by default
HAS_RUNTIME = importlib.util.find_spec("onnxruntime") is not None
needs_runtime = pytest.mark.skipif(not HAS_RUNTIME, reason="needs onnxruntime")


@pytest.fixture(scope="module")
def cases() -> list[Any]:
    return node_tests()


@pytest.fixture
def network() -> Graph:
    return networks.classifier(arithmetic=Arithmetic.ONNX)


@pytest.fixture
def model(network: Graph) -> onnx.ModelProto:
    return onnx.load_from_string(write_onnx(network, OnnxForm.QOPERATOR))


def absolute(**kinds: int) -> onnx.ModelProto:
    """Abs, which has no integer meaning."""
    kind = kinds.get("kind", TensorProto.FLOAT)
    x, y = (helper.make_tensor_value_info(name, kind, [2]) for name in "xy")
    body = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "g", [x], [y])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


# Models


def test_cpu_places_the_model_and_keeps_its_arithmetic(
    model: onnx.ModelProto, network: Graph
) -> None:
    feeds = networks.codes(network, 3)
    prepared = onnx_backend.prepare(model)
    assert prepared.on_device
    assert prepared.plan is not None
    assert prepared.plan.device.name == devices()[0].name
    (found,) = prepared.run(list(feeds.values()))
    (expected,) = run_graph(network, feeds).values()
    np.testing.assert_array_equal(found, expected)


def test_a_device_computes_in_its_own_arithmetic(model: onnx.ModelProto, network: Graph) -> None:
    feeds = networks.codes(network, 3)
    content = model.SerializeToString()
    for name in ("AKIDA2", "akida2:0"):
        (found,) = onnx_backend.run_model(model, feeds, name)
        (expected,) = InferenceSession(content, device="akida2").run(None, feeds)
        np.testing.assert_array_equal(found, expected)


def test_inputs_come_in_order_or_by_name_or_alone(model: onnx.ModelProto, network: Graph) -> None:
    (x,) = networks.codes(network, 2).values()
    prepared = onnx_backend.prepare(model)
    given: list[Mapping[str, AnyArray] | list[AnyArray] | AnyArray] = [[x], {"image": x}, x]
    results = [prepared.run(each) for each in given]
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][0], results[2][0])
    named: Mapping[str, AnyArray] = results[0]  # type: ignore[assignment]  # a named tuple of onnx
    assert named[network.outputs[0]] is results[0][0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param([], "missing \\['image'\\]", id="missing"),
        pytest.param([1, 2], "has 1 inputs, found 2 values", id="too-many"),
        pytest.param({"other": 1}, "unknown \\['other'\\], missing \\['image'\\]", id="unknown"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(
    model: onnx.ModelProto, given: object, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        onnx_backend.prepare(model).run(given)


def test_options_reach_the_compiler(model: onnx.ModelProto) -> None:
    with pytest.raises(FallbackError):
        onnx_backend.prepare(model, fallback="strict")
    with pytest.raises(InputError, match="unknown option 'fallbak'"):
        onnx_backend.prepare(model, fallbak="error")
    denied = onnx_backend.prepare(model, "AKIDA2", min_partition_macs=10**9)
    assert not denied.on_device


def test_a_model_comes_as_the_message() -> None:
    with pytest.raises(InputError, match=r"needs an onnx\.ModelProto, found str"):
        onnx_backend.prepare("model.onnx")  # type: ignore[arg-type]


def test_what_has_no_integer_meaning_runs_on_the_host() -> None:
    prepared = onnx_backend.prepare(absolute())
    assert prepared.host == ("onnxruntime" if HAS_RUNTIME else "onnx.reference")
    (found,) = prepared.run([np.array([-1.5, 2.0], np.float32)])
    assert found.tolist() == [1.5, 2.0]


def test_what_onnxruntime_refuses_runs_in_the_reference_of_onnx() -> None:
    prepared = onnx_backend.prepare(absolute(kind=TensorProto.BFLOAT16))
    assert prepared.host == "onnx.reference"
    x = np.array([-1.5, 2.0]).astype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    (found,) = prepared.run([x])
    assert found.astype(float).tolist() == [1.5, 2.0]


def test_an_operator_nobody_knows_is_refused() -> None:
    model = absolute()
    model.graph.node[0].domain = "nowhere"
    model.opset_import.append(helper.make_opsetid("nowhere", 1))
    assert not onnx_backend.is_compatible(model)
    with pytest.raises((UnsupportedOperationError, ImportModelError), match=r"nowhere"):
        onnx_backend.prepare(model)


def test_newer_versions_than_a_host_loads_are_stamped_down() -> None:
    model = absolute()
    model.ir_version = onnx.IR_VERSION
    model.opset_import[0].version = onnx.defs.onnx_opset_version()
    prepared = onnx_backend.prepare(model)
    (found,) = prepared.run([np.array([-1, 2], np.float32)])
    assert found.tolist() == [1.0, 2.0]
    assert model.ir_version == onnx.IR_VERSION  # the caller's model stays as it was


def test_supported_devices_are_the_profiles_and_cpu() -> None:
    for device in devices():
        assert onnx_backend.supports_device(device.name.upper())
    assert onnx_backend.supports_device("CPU")
    assert onnx_backend.supports_device("AKIDA2:0")
    assert not onnx_backend.supports_device("CUDA")


# Nodes


def test_a_node_runs_with_inferred_outputs() -> None:
    node = helper.make_node("Add", ["a", "b"], ["c"])
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, 2, 3], np.float32)
    (found,) = onnx_backend.run_node(node, [a, b])
    np.testing.assert_array_equal(found, a + b)


def test_a_node_runs_in_an_older_operator_set_with_given_outputs() -> None:
    node = helper.make_node("Softmax", ["x"], ["y"])
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 3, 2)
    info = [(np.dtype(np.float32), x.shape)]
    (found,) = onnx_backend.run_node(node, [x], outputs_info=info, opset_version=11)
    powers = np.exp(x.reshape(2, 6).astype(np.float64))  # from axis 1 on, before version 13
    expected = (powers / powers.sum(axis=1, keepdims=True)).reshape(x.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_node_with_too_few_inputs_is_refused() -> None:
    with pytest.raises(InputError, match="node Add reads 2 values, found 1"):
        onnx_backend.run_node(helper.make_node("Add", ["a", "b"], ["c"]), [np.zeros(1)])


# The node tests of onnx


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("cases")  # what makes the cases once makes them quickly again
def test_the_test_runner_of_onnx_takes_the_backend() -> None:
    tests = onnx.backend.test.BackendTest(onnx_backend, __name__)  # type: ignore[arg-type]  # as onnx's own do
    tests.include("^test_(qlinearconv|qlinearmatmul_2D.*|add|maxpool_2d_uint8)_cpu$")
    result = unittest.TestResult()
    tests.test_suite.run(result)
    assert (result.failures, result.errors) == ([], [])
    assert result.testsRun - len(result.skipped) == 7


@pytest.mark.parametrize(
    "part",
    [pytest.param(0, id="share"), *(pytest.param(p, marks=pytest.mark.full) for p in range(1, 12))],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # infinities are what some are about
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_node_test_gives_a_wrong_result_or_crashes(cases: list[Any], part: int) -> None:
    chosen = cases[part::SHARE]
    results = [run_test(case) for case in chosen]
    assert [(r.name, r.detail) for r in results if r.outcome in BAD] == []
    if HAS_RUNTIME and onnx_twins.has_corrected_kernels():
        assert [r.name for r in results if r.detail == OTHER_RELEASE] == []
    ran = [r for r in results if r.outcome not in (Outcome.REFUSED, Outcome.EXCLUDED)]
    assert len(ran) > (0.95 if HAS_RUNTIME else 0.7) * len(chosen)


def test_quantized_operators_with_constant_parameters_are_placed(cases: list[Any]) -> None:
    found = {}
    for case in cases:
        changed = with_constant_parameters(case)
        if changed is not None and case.name.startswith("test_qlinear"):
            found[case.name] = run_test(changed).outcome
    placed = {name for name, outcome in found.items() if outcome is Outcome.DEVICE}
    assert placed == {
        "test_qlinearconv",
        "test_qlinearmatmul_2D_uint8_float32",
        "test_qlinearmatmul_2D_int8_float32",
    }
    assert not set(found.values()) & set(BAD)


@needs_runtime
@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EXCLUDED)
def test_an_excluded_test_fails_without_this_project_too(cases: list[Any], name: str) -> None:
    (case,) = (case for case in cases if case.name == name)
    (_, expected), *_ = case.data_sets
    if EXCLUDED[name] == RUNNER:
        with pytest.raises(TypeError):
            check_outputs(case, expected, expected)
        return
    assert fails_without_project(case)


def test_the_report_counts_by_operator(cases: list[Any]) -> None:
    chosen = [c for c in cases if c.name in ("test_abs", "test_add", "test_add_bcast", "test_dft")]
    text = page([run_test(case) for case in chosen], [])
    assert "4 tests of onnx" in text
    assert "0 wrong, 0 crashed" in text
    assert "| Add | 2 |" in text
    assert "test\\_dft" in text
    assert outcome_of(onnx_backend.prepare(chosen[0].model)) in Outcome
