# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from numpy.typing import NDArray

from akida_backend import compare as compare_function
from akida_backend.compare import score_chain, standard_error
from akida_backend.compiler import compile as compile_model
from akida_backend.errors import FallbackError, InputError
from akida_backend.execute import Executor
from akida_backend.graph import Graph
from akida_backend.reference import run_graph
from builders import GraphBuilder

GRAPH = networks.classifier()
X = networks.codes(GRAPH, 100)["image"]


def rows(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in report["results"]}


def classes(stored: NDArray[np.generic]) -> list[int]:
    """The first of the largest, in plain Python."""
    return [sample.index(max(sample)) for sample in stored.tolist()]


def test_rows_are_source_ceiling_and_device() -> None:
    report = compare_function(GRAPH, X)
    assert [(r["name"], r["emulation"]) for r in report["results"]] == [
        ("source", "source"),
        ("ceiling", "source"),
        ("akida2", "device"),
    ]
    assert (report["samples"], report["output"]) == (100, GRAPH.outputs[0])


def test_the_source_agrees_with_itself() -> None:
    source = rows(compare_function(GRAPH, X))["source"]
    for metrics in (source, source["output"]):
        assert metrics["agreement_with_source"] == 1.0
        assert metrics["cosine"] == pytest.approx(1.0)
        assert metrics["sqnr_db"] is None
        assert metrics["max_abs_diff"] == 0.0
        assert metrics["identical"] is True


def test_figures_of_the_device_follow_their_definitions() -> None:
    plan = compile_model(GRAPH)
    logits = score_chain(GRAPH, GRAPH.outputs[0])[-1]
    source = run_graph(GRAPH, {"image": X}, keep=True)[logits].astype(np.float64)
    tensor = GRAPH.tensors[logits]
    assert tensor.quantization is not None
    step, zero = tensor.quantization.single_scale, tensor.quantization.single_zero_point
    reals = (source - zero) * step
    (program,) = plan.programs
    execution = Executor(plan).run({"image": X}, device_tensors=[program.output.device])
    device = execution.reals[program.output.device].reshape(reals.shape)
    assert program.output.tensor == logits
    row = rows(compare_function(plan, X))["akida2"]
    noise = ((device - reals) ** 2).sum()
    assert row["sqnr_db"] == pytest.approx(10 * np.log10((reals**2).sum() / noise))
    assert row["max_abs_diff"] == pytest.approx(np.abs(device - reals).max())
    norms = np.sqrt((reals**2).sum()) * np.sqrt((device**2).sum())
    assert row["cosine"] == pytest.approx((reals * device).sum() / norms)
    same = [a == b for a, b in zip(classes(reals), classes(device), strict=True)]
    assert row["agreement_with_source"] == sum(same) / len(same)
    decisive = [
        match
        for match, scores in zip(same, source.tolist(), strict=True)
        if sorted(scores)[-1] - sorted(scores)[-2] >= 2
    ]
    assert 0 < len(decisive) < len(same)
    assert row["decisive_agreement"] == sum(decisive) / len(decisive)


def test_output_holds_the_figures_of_what_a_runtime_user_receives() -> None:
    source = run_graph(GRAPH, {"image": X})[GRAPH.outputs[0]]
    device = Executor(compile_model(GRAPH)).run({"image": X}).values[GRAPH.outputs[0]]
    received = rows(compare_function(GRAPH, X))["akida2"]["output"]
    agreement = np.mean(np.array(classes(source)) == classes(device))
    assert received["agreement_with_source"] == pytest.approx(agreement)
    largest = np.abs(source.astype(int) - device.astype(int)).max() / 256
    assert received["max_abs_diff"] == pytest.approx(largest)


def test_labels_give_accuracy() -> None:
    logits = score_chain(GRAPH, GRAPH.outputs[0])[-1]
    chosen = classes(run_graph(GRAPH, {"image": X}, keep=True)[logits])
    labels = np.array([c if i % 4 else (c + 1) % 6 for i, c in enumerate(chosen)])
    report = compare_function(GRAPH, {"x": X, "y": labels})
    assert rows(report)["source"]["accuracy"] == 0.75
    assert report["data"] == {"origin": "arrays", "random": False, "labels": True}


def test_labels_beyond_the_classes_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected 100 class indices 0\.\.5; found 100, 6\.\.6"):
        compare_function(GRAPH, {"x": X, "y": np.full(100, 6)})


def test_source_emulation_is_identical() -> None:
    row = rows(compare_function(GRAPH, X[:8], emulation="source"))["akida2"]
    assert (row["emulation"], row["identical"], row["output"]["identical"]) == (
        "source",
        True,
        True,
    )


def test_the_ceiling_only_loses_the_last_rounding() -> None:
    ceiling = rows(compare_function(GRAPH, X))["ceiling"]
    logits = GRAPH.tensors[score_chain(GRAPH, GRAPH.outputs[0])[-1]]
    assert logits.quantization is not None
    assert ceiling["decisive_agreement"] == 1.0
    assert ceiling["max_abs_diff"] > 0.0
    # Half a step, unless the source saturates; random weights rarely do.
    assert ceiling["sqnr_db"] > 20.0
    assert set(ceiling["output"].values()) == {None}


def test_there_is_no_ceiling_where_no_product_writes_the_scores() -> None:
    b = GraphBuilder(3)
    graph = b.build(b.tanh(b.input(4)))
    report = compare_function(graph)
    assert rows(report)["ceiling"]["cosine"] is None
    assert any("no ceiling" in note for note in report["notes"])


def walked(*operations: str) -> tuple[Graph, list[str]]:
    b = GraphBuilder(3)
    x = b.fully_connected(b.flatten(b.input(2, 2, 2)), 4)
    names = [x]
    for name in operations:
        x = b.reshape(x, 1, 4) if name == "reshape" else getattr(b, name)(x)
        names.append(x)
    return b.build(x), names


@pytest.mark.parametrize(
    ("operations", "reached"),
    [
        pytest.param([], 0, id="none"),
        pytest.param(["softmax"], 0, id="softmax"),
        pytest.param(["reshape", "softmax", "dequantize"], 0, id="all"),
        pytest.param(["quantize"], 0, id="re-coding"),
        pytest.param(["logistic"], 1, id="not-through-logistic"),
    ],
)
def test_scores_lie_before_a_trailing_softmax(operations: list[str], reached: int) -> None:
    graph, names = walked(*operations)
    assert score_chain(graph, graph.outputs[0])[-1] == names[reached]


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(networks.interrupted(), id="a-map"),
        pytest.param(walked()[0], id="scores"),
    ],
)
def test_agreement_is_for_class_scores_only(graph: Graph) -> None:
    row = rows(compare_function(graph))["akida2"]
    is_scores = len(graph.tensors[graph.outputs[0]].shape) == 2
    assert (row["agreement_with_source"] is not None) == is_scores


def test_an_output_shaped_like_the_input_holds_no_class_scores() -> None:
    b = GraphBuilder(3)
    graph = b.build(b.fully_connected(b.fully_connected(b.input(12), 5), 12))
    assert rows(compare_function(graph))["akida2"]["agreement_with_source"] is None


def test_a_single_score_is_no_class_score() -> None:
    b = GraphBuilder(3)
    graph = b.build(b.fully_connected(b.input(12), 1))
    assert rows(compare_function(graph))["akida2"]["agreement_with_source"] is None


def test_one_number_for_each_of_many_positions_is_no_class_score() -> None:
    b = GraphBuilder(3)
    graph = b.build(b.reshape(b.fully_connected(b.input(12), 8), 8, 1))
    assert rows(compare_function(graph))["akida2"]["agreement_with_source"] is None


def test_without_data_random_samples_are_labelled_so() -> None:
    report = compare_function(GRAPH)
    assert report["samples"] == 32
    assert report["data"] == {
        "origin": "32 random samples, seed 0",
        "random": True,
        "labels": False,
    }
    assert rows(report)["akida2"]["accuracy"] is None
    assert report["notes"][0].startswith("random inputs")


def test_limit_takes_the_first_samples() -> None:
    first = compare_function(GRAPH, X[:10])
    limited = compare_function(GRAPH, X, limit=10)
    assert limited["samples"] == 10
    assert rows(limited)["akida2"] == rows(first)["akida2"]


def test_limit_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        compare_function(GRAPH, X, limit=0)


def test_output_chooses_and_unknown_ones_are_refused() -> None:
    graph = networks.interrupted()
    second = graph.outputs[1]
    assert compare_function(graph, output=second)["tensor"] == second
    with pytest.raises(InputError, match="unknown output"):
        compare_function(graph, output="nothing")


def test_layers_are_compared_with_source_tensors_of_their_name() -> None:
    report = compare_function(GRAPH, X[:20], per_layer=True)
    plan = compile_model(GRAPH)
    (program,) = plan.programs
    names = [layer.output for layer in program.layers if layer.output in GRAPH.tensors]
    assert [layer["name"] for layer in report["layers"]] == names
    assert [GRAPH.operations[layer["index"]].outputs[0] for layer in report["layers"]] == names
    source = run_graph(GRAPH, {"image": X[:20]}, keep=True)
    reals = Executor(plan).run({"image": X[:20]}, device_tensors=names).reals
    for layer in report["layers"]:
        quantization = GRAPH.tensors[layer["name"]].quantization
        assert quantization is not None
        original = (
            source[layer["name"]].astype(np.float64) - quantization.single_zero_point
        ) * quantization.single_scale
        error = reals[layer["name"]].reshape(original.shape) - original
        assert layer["max_abs_diff"] == pytest.approx(np.abs(error).max())
        expected = 10 * np.log10((original**2).sum() / (error**2).sum())
        assert layer["sqnr_db"] == pytest.approx(expected)


def test_all_devices_give_one_row_each() -> None:
    report = compare_function(GRAPH, X[:4], device="all")
    names = [row["name"] for row in report["results"]]
    assert names[2:] == ["akida2", "akida2-fpga-2n", "akida2-fpga-6n", "akida2-12n", "akd2500"]
    with pytest.raises(InputError, match="one device"):
        compare_function(GRAPH, device="all", per_layer=True)


def test_calibration_samples_are_left_out_wherever_they_come_from(tmp_path: Path) -> None:
    path, other = tmp_path / "data.npz", tmp_path / "other.npz"
    np.savez(path, x=X)
    np.savez(other, x=X[::-1])
    same = compare_function(GRAPH, path, calibration=path, calibration_limit=64)
    assert same["samples"] == 36
    assert "64 of 100 samples were used for calibration and are left out" in same["notes"]
    assert compare_function(GRAPH, X[:64], calibration=other, calibration_limit=60)["samples"] == 40
    with pytest.raises(InputError, match="all 100 samples are used for calibration"):
        compare_function(GRAPH, path, calibration=other, calibration_limit=100)


def test_data_out_of_range_is_said(caplog: pytest.LogCaptureFixture) -> None:
    report = compare_function(GRAPH, np.full((2, *X.shape[1:]), 1e6, np.float32))
    (note,) = [note for note in report["notes"] if "cut off" in note]
    assert note.startswith("array: 100 % of the values lie outside ")
    assert caplog.messages == []  # a terminal would show it twice


def test_says_how_much_runs_on_the_device() -> None:
    (entry,) = compare_function(GRAPH, X[:2])["placement"]
    summary = entry["summary"]
    assert (entry["device"], summary["operations"], summary["partitions"]) == (
        "akida2",
        len(GRAPH.operations),
        1,
    )
    assert 0 < summary["operations_on_device"] < summary["operations"]
    assert summary["mac_fraction_on_device"] == 1.0


def test_says_that_nothing_runs_on_the_device() -> None:
    b = GraphBuilder(3)
    report = compare_function(b.build(b.tanh(b.input(4))))
    assert report["placement"][0]["summary"]["operations_on_device"] == 0
    assert any("nothing of the model runs on akida2" in note for note in report["notes"])


def test_standard_errors_do_not_vanish_where_all_samples_agree() -> None:
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    # 4 of 5 expected, on 3 samples
    assert standard_error(1.0, 3) == pytest.approx((0.16 / 3) ** 0.5)
    assert standard_error(0.0, 3) == pytest.approx((0.16 / 3) ** 0.5)
    assert standard_error(1.0, 256) is None


def test_a_fixed_batch_is_compared_in_groups() -> None:
    graph = networks.fixed_batch(2)
    report = compare_function(graph, networks.codes(graph, 6)["x"])
    assert report["samples"] == 6
    assert rows(report)["akida2"]["identical"] is True


def test_progress_counts_samples() -> None:
    seen: list[tuple[int, int]] = []
    compare_function(GRAPH, X, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(64, 100), (100, 100)]


def test_options_are_those_of_compile() -> None:
    with pytest.raises(InputError, match="unknown option 'denny'; did you mean 'deny'"):
        compare_function(GRAPH, denny="type:ADD")
    with pytest.raises(FallbackError):
        compare_function(networks.interrupted(), fallback="error")
    with pytest.raises(InputError, match="cannot change on a compiled plan"):
        compare_function(compile_model(GRAPH), deny="type:ADD")
