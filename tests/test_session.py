# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import networks
import numpy as np
import pytest

from akida_backend.compiler import compile as compile_model
from akida_backend.devices import device as find_device
from akida_backend.errors import FallbackError, InputError
from akida_backend.execute import Executor
from akida_backend.reference import run_graph
from akida_backend.session import InferenceSession, NodeArg
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder

GRAPH = networks.classifier()


def test_inputs_and_outputs_look_as_in_onnxruntime() -> None:
    session = InferenceSession(GRAPH)
    (image,) = session.get_inputs()
    scale, zero_point = image.quantization or (0.0, 0)
    assert (image.name, image.shape, image.type) == ("image", ["N", 8, 8, 3], "tensor(int8)")
    quantization = GRAPH.tensors["image"].quantization
    assert quantization is not None
    assert (scale, zero_point) == (quantization.single_scale, quantization.single_zero_point)
    (probabilities,) = session.get_outputs()
    assert probabilities == NodeArg(GRAPH.outputs[0], ["N", 6], "tensor(int8)", (1 / 256, -128))


def test_a_device_may_be_given_instead_of_its_name() -> None:
    chosen = find_device("akida2-fpga-2n")
    assert InferenceSession(GRAPH, chosen).plan.device is chosen
    plan = compile_model(GRAPH, chosen)
    assert plan.options.device == chosen.name
    assert InferenceSession(plan, chosen).plan is plan


def test_float_types_have_onnxruntimes_names_and_no_scale() -> None:
    b = GraphBuilder(0)
    graph = b.build(b.dequantize(b.input(3)))
    (output,) = InferenceSession(graph).get_outputs()
    assert (output.type, output.quantization) == ("tensor(float)", None)


@pytest.mark.parametrize("samples", [1, 7, 65])
def test_runs_any_number_of_samples(samples: int) -> None:
    session = InferenceSession(GRAPH)
    feeds = networks.codes(GRAPH, samples)
    (found,) = session.run(None, feeds)
    (expected,) = Executor(compile_model(GRAPH)).run(feeds).values.values()
    np.testing.assert_array_equal(found, expected)


def test_models_come_as_path_bytes_graph_or_plan(tmp_path: Path) -> None:
    content = write_tflite(GRAPH)
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    feeds = networks.codes(GRAPH, 2)
    models = (path, str(path), content, GRAPH, compile_model(GRAPH))
    results = [InferenceSession(model).run(None, feeds)[0] for model in models]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_float32_feeds_are_real_values() -> None:
    session = InferenceSession(GRAPH)
    (image,) = session.get_inputs()
    assert image.quantization is not None
    scale, zero_point = image.quantization
    codes = networks.codes(GRAPH, 2)["image"]
    reals = ((codes.astype(np.float64) - zero_point) * scale).astype(np.float32)
    np.testing.assert_array_equal(
        session.run(None, {"image": reals})[0], session.run(None, {"image": codes})[0]
    )


def test_outputs_come_in_the_order_asked_for() -> None:
    graph = networks.interrupted()
    session = InferenceSession(graph)
    feeds = networks.codes(graph, 2)
    first, second = session.run(None, feeds)
    names = list(graph.outputs)
    swapped = session.run(names[::-1], feeds)
    np.testing.assert_array_equal(swapped[0], second)
    np.testing.assert_array_equal(swapped[1], first)
    (only,) = session.run(names[1:], feeds)
    np.testing.assert_array_equal(only, second)


def test_an_unknown_output_is_refused_with_the_nearest_name() -> None:
    session = InferenceSession(GRAPH)
    with pytest.raises(InputError, match=f"unknown output 'sofmax'.*{GRAPH.outputs[0]}"):
        session.run(["sofmax"], networks.codes(GRAPH, 1))


def test_providers_name_the_device_and_the_host() -> None:
    session = InferenceSession(GRAPH, device="AKIDA2")
    assert session.get_providers() == ["AkidaSimulator(akida2)", "Host(reference)"]
    source = InferenceSession(GRAPH, emulation="source")
    assert source.get_providers() == ["SourceEmulation(akida2)", "Host(reference)"]


def test_source_emulation_gives_the_sources_bytes() -> None:
    feeds = networks.codes(GRAPH, 3)
    (found,) = InferenceSession(GRAPH, emulation="source").run(None, feeds)
    (expected,) = run_graph(GRAPH, feeds).values()
    np.testing.assert_array_equal(found, expected)


def test_fallback_warn_logs_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="akida_backend"):
        InferenceSession(networks.interrupted(), fallback="warn")
    (record,) = (record for record in caplog.records if record.name == "akida_backend")
    message = record.getMessage()
    assert "\n" not in message
    assert "2 of 3 operations, 100.0% of MACs, 2 partitions; on the host: op 1 TANH" in message


def test_fallback_warn_says_nothing_where_only_boundary_operations_stay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="akida_backend"):
        InferenceSession(GRAPH, fallback="warn")
    assert [record for record in caplog.records if record.name == "akida_backend"] == []


def test_fallback_error_refuses_with_the_reasons() -> None:
    with pytest.raises(FallbackError, match=r"op 1 TANH .*\n.*\[OP-NO-LAYER\]"):
        InferenceSession(networks.interrupted(), fallback="error")


def test_a_plan_takes_run_options_only() -> None:
    plan = compile_model(networks.interrupted())
    assert InferenceSession(plan, emulation="source").get_providers()[0].startswith("Source")
    assert InferenceSession(plan, threads=2).plan.options.threads == 2
    with pytest.raises(FallbackError):
        InferenceSession(plan, fallback="error")
    with pytest.raises(InputError, match=r"option 'deny' cannot change on a compiled plan"):
        InferenceSession(plan, deny="type:ADD")
    with pytest.raises(InputError, match=r"option 'device' cannot change"):
        InferenceSession(plan, device="akd2500")


def test_an_unknown_option_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"unknown option 'falback'; did you mean 'fallback'"):
        InferenceSession(GRAPH, falback="warn")


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        pytest.param(
            {"image": np.zeros((1, 8, 8, 3))},
            r"expected int8 \[N, 8, 8, 3\].*\n.*float64",
            id="type",
        ),
        pytest.param(
            {"image": np.zeros((1, 3, 8, 8), np.int8)}, "the shape does not fit", id="shape"
        ),
        pytest.param({"image": np.zeros((0, 8, 8, 3), np.int8)}, "at least one", id="no-samples"),
        pytest.param({"image": np.zeros((0, 8, 8, 3), np.float32)}, "no samples", id="no-reals"),
        pytest.param({"image": np.int8(3)}, "the shape does not fit", id="number"),
        pytest.param({}, "no value for input 'image'", id="nothing"),
        pytest.param({"x": np.zeros(3)}, "unknown input 'x'", id="name"),
        pytest.param(None, "arrays by name of the input.*found NoneType", id="none"),
        pytest.param(np.zeros((1, 8, 8, 3), np.int8), "found ndarray", id="bare-array"),
    ],
)
def test_bad_feeds_are_refused(feeds: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        InferenceSession(GRAPH).run(None, feeds)  # type: ignore[arg-type]


def test_output_names_are_a_list() -> None:
    with pytest.raises(InputError, match=f"list of names, found the text '{GRAPH.outputs[0]}'"):
        InferenceSession(GRAPH).run(GRAPH.outputs[0], networks.codes(GRAPH, 1))


def test_flat_and_strided_arrays_give_what_plain_ones_do() -> None:
    session = InferenceSession(GRAPH)
    codes = networks.codes(GRAPH, 4)["image"]
    (expected,) = session.run(None, {"image": codes})
    for same in (codes.reshape(4, -1), np.repeat(codes, 2, axis=0)[::2], np.asfortranarray(codes)):
        np.testing.assert_array_equal(session.run(None, {"image": same})[0], expected)


def test_threads_and_callers_change_no_bit() -> None:
    graph = networks.interrupted()
    feeds = networks.codes(graph, 5)
    expected = InferenceSession(graph).run(None, feeds)
    session = InferenceSession(graph, threads=2)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: session.run(None, feeds), range(40)):
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b)


def test_outputs_are_the_callers_own() -> None:
    session = InferenceSession(GRAPH)
    feeds = networks.codes(GRAPH, 1)
    (first,) = session.run(None, feeds)
    kept = first.copy()
    first.fill(0)
    session.run(None, feeds)
    assert not first.any()
    np.testing.assert_array_equal(session.run(None, feeds)[0], kept)
