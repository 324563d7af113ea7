# SPDX-License-Identifier: Apache-2.0
"""Advice that was checked: what is proposed is placed, what is written equals the original."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import networks
import numpy as np
import pytest

import akida_backend
from akida_backend.advice import judge
from akida_backend.advice.applying import PROOF_SAMPLES, write_proven
from akida_backend.compatibility import Advice, Cost, OperatorAdvice, advise, create_from_model
from akida_backend.compiler import compile as compile_model
from akida_backend.errors import InputError
from akida_backend.graph import Activation, Graph
from akida_backend.loading import load
from akida_backend.onnx_writer import write_onnx
from akida_backend.reference import run_graph
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder, random_inputs


def _texts(entry: OperatorAdvice) -> list[str]:
    return [proposal.change.text for proposal in entry.proposals]


def _proposed(advice: Advice) -> dict[int, list[str]]:
    return {entry.row.index: _texts(entry) for entry in advice.operators}


def _dense_behind_a_pool() -> Graph:
    b = GraphBuilder(2)
    x = b.max_pool(b.conv2d(b.input(8, 8, 4), 6, activation=Activation.RELU))
    return b.build(b.fully_connected(b.flatten(x), 3))


def _mobile(activation: Activation = Activation.RELU, *, kernel: int = 3) -> Graph:
    """A stem, a depthwise and a pointwise convolution, an average, a dense layer."""
    b = GraphBuilder(4)
    x = b.conv2d(b.input(12, 12, 3), 8, kernel=kernel, stride=2, activation=Activation.RELU)
    x = b.conv2d(b.depthwise(x, activation=activation), 8, kernel=1, activation=Activation.RELU)
    return b.build(b.softmax(b.fully_connected(b.flatten(b.average_pool(x)), 4)))


def test_proposes_an_option_and_a_change_of_the_model_for_a_depthwise_half() -> None:
    advice = advise(_mobile(), "akd1000")
    assert _proposed(advice)[1] == [
        "option diagonal_depthwise",
        "no activation between the depthwise and the pointwise convolution",
    ]
    costs = [p.change.cost for p in advice.operators[0].proposals]
    assert costs == [Cost.OPTION, Cost.TRAINING]
    assert advice.operators[0].fits == ("akida2",)


def test_an_option_and_a_kernel_together_where_neither_is_enough() -> None:
    b = GraphBuilder(8)
    x = b.conv2d(b.input(20, 20, 3), 4, activation=Activation.RELU)
    x = b.depthwise(x, kernel=(9, 1), activation=Activation.RELU)
    advice = advise(b.build(b.conv2d(x, 4, kernel=1)), "akd1000")
    (half,) = advice.operators
    text = "option diagonal_depthwise and a 3x3 kernel instead of 9x1"
    assert _texts(half) == [text]
    assert half.proposals[0].change.cost is Cost.TRAINING
    assert advice.model[0].changes == (((1,), text),)
    assert advice.model[0].mac_fraction == 1.0


def test_what_is_proposed_for_the_whole_model_is_placed() -> None:
    graph = _mobile()
    advice = advise(graph, "akd1000")
    (first, *_) = advice.model
    with_option = compile_model(graph, "akd1000", allow_uncalibrated=True, diagonal_depthwise=True)
    assert first.changes == (((1,), "option diagonal_depthwise"),)
    assert first.operations_on_device == sum(row.on_device for row in with_option.placement)
    assert first.partitions == len(with_option.programs)
    assert first.mac_fraction == with_option.macs_on_device / with_option.macs == 1.0


def test_every_proposal_of_a_graph_holds_when_compiled_again() -> None:
    b = GraphBuilder(3)
    x = b.conv2d(b.input(16, 16, 4), 8, kernel=(5, 5), stride=3, activation=Activation.RELU)
    x = b.average_pool(b.conv2d(x, 8, kernel=3, padding="valid"), window=2)
    x = b.tanh(b.conv2d(x, 8, kernel=1))
    graph = b.build(b.fully_connected(b.flatten(x), 4))
    advice = advise(graph, "akida2")
    checked = 0
    for entry in advice.operators:
        for proposal in entry.proposals:
            assert proposal.change.edit is not None
            changed = proposal.change.edit(graph)
            assert changed is not None
            rows = {row.index: row for row in compile_model(changed, "akida2").placement}
            assert rows[entry.row.index].on_device
            run_graph(changed, random_inputs(changed, 1))
            checked += 1
    assert checked >= 3
    assert _proposed(advice)[2] == ["a 2x2 max pool instead of the average"]
    assert _proposed(advice)[4] == ["a ReLU instead of TANH"]


def test_an_identity_convolution_lets_a_dense_layer_follow_a_pool() -> None:
    advice = advise(_dense_behind_a_pool(), "akida2")
    (entry,) = (e for e in advice.operators if e.row.type == "MAX_POOL_2D")
    (proposal,) = entry.proposals
    assert proposal.change.text == "an identity 1x1 convolution behind it"
    assert proposal.change.cost is Cost.SAME


def test_fewer_filters_in_front_of_too_many_dense_inputs() -> None:
    b = GraphBuilder(5)
    x = b.conv2d(b.input(20, 20, 1), 8, activation=Activation.RELU)
    graph = b.build(b.fully_connected(b.flatten(x), 3))
    assert _proposed(advise(graph, "akida2"))[2] == ["5 filters instead of 8 in op 0"]


def test_proposes_a_narrower_input_where_akida1_takes_no_8_bit_input() -> None:
    b = GraphBuilder(6)
    x = b.fully_connected(b.input(32, name="features"), 8, activation=Activation.RELU)
    advice = advise(b.build(b.fully_connected(x, 4)), "akd1000")
    assert _proposed(advice) == {0: ["a 4-bit input 'features'"]}


def test_says_what_no_change_places() -> None:
    advice = advise(networks.classifier(), "akida2")
    (softmax,) = advice.operators
    assert softmax.row.type == "SOFTMAX"
    assert softmax.proposals == ()
    assert "no Akida layer computes it" in advice.report()
    assert advice.model == ()


def test_judges_an_operator_alone_where_the_rest_has_no_form_for_the_change() -> None:
    b = GraphBuilder(7)
    x = b.conv2d(b.input(8, 8, 4), 4, kernel=3, padding="valid")
    y = b.reshape(b.conv2d(x, 4, kernel=1), 9, 16)
    graph = b.build(b.softmax(y))
    (proposal,) = advise(graph, "akida2").operators[0].proposals
    assert proposal.change.text == "Same padding instead of Valid"
    assert proposal.judged_on == "operator"
    assert proposal.mac_fraction is None


def test_the_carrier_brings_an_average_behind_a_relu_to_akida1() -> None:
    advice = advise(_mobile(Activation.NONE), "akd1000")
    rows = {row.type: row for row in advice.plan.placement}
    assert rows["AVERAGE_POOL_2D"].on_device
    assert rows["AVERAGE_POOL_2D"].rewrites == ("carrier",)


def test_reports_merged_halves_and_measures_their_error_on_calibration_inputs() -> None:
    graph = _mobile(Activation.NONE)
    (merged,) = advise(graph, "akd1000").merged
    assert merged.operators == (1, 2)
    assert merged.sqnr_db is None
    inputs = random_inputs(graph, 16)[graph.inputs[0]]
    (measured,) = advise(graph, "akd1000", calibration=inputs).merged
    assert measured.sqnr_db is not None
    assert 5.0 < measured.sqnr_db < 60.0
    assert advise(graph, "akida2").merged == ()


def _no_checks(self: judge.Judge, *_: object) -> None:
    self.checks = 0


def test_unplaced_operators_are_named_when_there_are_too_many_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judge.Judge, "compiled", _no_checks)
    advice = advise(_dense_behind_a_pool(), "akida2")
    assert advice.unchecked == (1,)
    assert _proposed(advice)[1] == []
    assert "not looked at" in advice.report()


@pytest.mark.parametrize("device", ["akida2", "akd1000"])
def test_the_rewritten_graph_computes_the_same_integers(device: str) -> None:
    graph = networks.strided_stem()
    fitted = create_from_model(graph, device)
    feeds = random_inputs(graph, 8)
    before, after = run_graph(graph, feeds), run_graph(fitted.graph, feeds)
    for name in graph.outputs:
        np.testing.assert_array_equal(before[name], after[name])


def test_writes_a_tflite_file_that_equals_the_original(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(write_tflite(networks.strided_stem()))
    fitted = create_from_model(path, "akida2")
    assert [(entry.index, entry.rewrites) for entry in fitted.applied] == [(0, ("space-to-depth",))]
    written = fitted.save(tmp_path / "fitted.tflite")
    assert written.samples == PROOF_SAMPLES == 32
    original, changed = load(path), load(tmp_path / "fitted.tflite")
    assert len(changed.operations) > len(original.operations)
    feeds = random_inputs(original, 40, seed=77)
    (expected,) = run_graph(original, feeds).values()
    (found,) = run_graph(changed, dict(zip(changed.inputs, feeds.values(), strict=True))).values()
    np.testing.assert_array_equal(expected, found)
    plan = compile_model(changed, "akida2")
    assert plan.macs_on_device == plan.macs


def test_writes_an_onnx_file_that_equals_the_original(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(write_onnx(networks.strided_stem()))
    fitted = create_from_model(path, "akida2")
    assert fitted.applied
    fitted.save(tmp_path / "fitted.onnx")
    original, changed = load(path), load(tmp_path / "fitted.onnx")
    feeds = random_inputs(original, 16, seed=5)
    (expected,) = run_graph(original, feeds).values()
    (found,) = run_graph(changed, dict(zip(changed.inputs, feeds.values(), strict=True))).values()
    np.testing.assert_array_equal(expected, found)


def test_writes_a_turned_model_that_akida1_takes(tmp_path: Path) -> None:
    b = GraphBuilder(9)
    x = b.conv2d(b.input(12, 300, 3), 4, stride=3, activation=Activation.RELU)
    x = b.conv2d(x, 4, kernel=3, stride=2)
    graph = b.build(b.fully_connected(b.flatten(x), 3))
    fitted = create_from_model(graph, "akd1000")
    assert fitted.applied[0].rewrites == ("swap-axes",)
    fitted.save(tmp_path / "turned.tflite")
    plan = compile_model(tmp_path / "turned.tflite", "akd1000", allow_uncalibrated=True)
    assert plan.macs_on_device == plan.macs
    assert all(row.rewrites == () for row in plan.placement)


def test_a_model_that_differs_is_not_written(tmp_path: Path) -> None:
    graph = networks.classifier()
    first = graph.operations[0]
    name = first.inputs[2]  # the bias
    moved = dataclasses.replace(graph.tensors[name], data=graph.constant(name) + 5000)
    wrong = dataclasses.replace(graph, tensors={**graph.tensors, name: moved})
    path = tmp_path / "wrong.tflite"
    with pytest.raises(InputError, match=r"not written: output .* differs"):
        write_proven(wrong, graph, path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_format_cannot_say_is_not_written(tmp_path: Path) -> None:
    b = GraphBuilder(1)
    graph = b.build(b.opaque(b.conv2d(b.input(6, 6, 4), 4), shape=(None, 4)))
    fitted = create_from_model(dataclasses.replace(graph, format="onnx"), "akida2")
    with pytest.raises(InputError, match=r"not written: .* has no ONNX form"):
        fitted.save(tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.onnx", "model", "model.akp"])
def test_writes_only_the_format_of_the_original(tmp_path: Path, name: str) -> None:
    fitted = create_from_model(networks.classifier(), "akida2")
    with pytest.raises(InputError, match=r"ends in \.tflite"):
        fitted.save(tmp_path / name)


def test_is_public() -> None:
    assert akida_backend.compatibility.create_from_model is create_from_model


def test_an_unknown_device_is_bad_input() -> None:
    with pytest.raises(InputError, match="unknown device"):
        advise(networks.classifier(), "akida9")


@pytest.mark.parametrize(
    ("model", "device", "index", "expected"),
    [
        pytest.param(
            "mlperf_tiny/mlperf_kws_ref_int8.tflite",
            "akd1000",
            0,
            "a 7x7 kernel instead of 10x4",
            id="kws",
        ),
        pytest.param(
            "tflm/tflm_micro_speech_quantized.tflite",
            "akida2",
            2,
            "4 filters instead of 8 in op 1",
            id="micro-speech",
        ),
        pytest.param(
            "mltk/mltk_fingerprint_signature.tflite",
            "akida2",
            2,
            "Same padding instead of Valid",
            id="fingerprint",
        ),
    ],
)
def test_real_models(shared: Path, model: str, device: str, index: int, expected: str) -> None:
    advice = advise(shared / "models" / model, device)
    assert _proposed(advice)[index][0] == expected
    assert max(found.mac_fraction or 0.0 for found in advice.model) == 1.0
